//! `posthaste sub`

use super::{Connection, Done, Failure, api::Api, show};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufWriter, Write},
    process::ExitCode,
};

/// Read messages as they come
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    connection: Connection,
    /// Read a topic; others read the same messages
    #[arg(long, value_name = "NAME", required_unless_present_any = ["queue", "subject"])]
    topic: Option<String>,
    /// Take messages out of a queue
    #[arg(long, value_name = "NAME", conflicts_with = "topic")]
    queue: Option<String>,
    /// Listen live to what is published on matching subjects; * is one word, # any number of words
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["topic", "queue"])]
    subject: Option<String>,
    /// Where to begin in the topic: beginning, end, or an offset
    #[arg(long, value_name = "PLACE", default_value = "end", requires = "topic")]
    from: String,
    /// Read this partition of the topic only
    #[arg(long, value_name = "N", requires = "topic")]
    partition: Option<u32>,
    /// Messages that may be on their way from the queue
    #[arg(long, value_name = "N", requires = "queue")]
    prefetch: Option<u32>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print bodies only, each as it is and followed by a newline
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

impl Flags {
    pub fn run(self) -> ExitCode {
        self.connection.run(|api| self.read(api))
    }

    fn read(&self, api: &Api) -> Done {
        match (&self.topic, &self.queue) {
            (Some(topic), _) => {
                let numbers = [
                    ("count", self.count.map(|n| n.to_string())),
                    ("partition", self.partition.map(|n| n.to_string())),
                    ("from", Some(self.from.clone())),
                ];
                let query: Vec<(&str, &str)> =
                    numbers.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
                self.print(api, api.lines(&["topics", topic, "stream"], &query)?)
            }
            (_, Some(queue)) => {
                let options = json!({"count": self.count, "prefetch": self.prefetch});
                self.print(api, api.taken_lines(&["queues", queue, "stream"], &options)?)
            }
            _ => {
                let options = json!({"count": self.count, "pattern": self.subject});
                self.print(api, api.taken_lines(&["subjects", "stream"], &options)?)
            }
        }
    }

    fn print(&self, api: &Api, mut lines: impl BufRead) -> Done {
        let mut out = BufWriter::new(std::io::stdout().lock());
        let (mut line, mut printed) = (Vec::new(), 0u64);
        loop {
            line.clear();
            let broken = |e| Failure::new(format!("the connection to the broker broke off: {e}"));
            if lines.read_until(b'\n', &mut line).map_err(broken)? == 0 {
                break;
            }
            let message: Value = serde_json::from_slice(&line)
                .map_err(|e| Failure::new(format!("the broker's answer is no JSON: {e}")))?;
            // What came before is printed before what is wrong is told.
            if let Some(problem) = problem(&message) {
                show::written(out.flush())?;
                match problem {
                    Problem::Dropped(n) => {
                        eprintln!("posthaste: {n} messages were dropped; this reader is too slow")
                    }
                    Problem::Unreadable(text) => eprintln!("posthaste: {text}"),
                    Problem::End(failure) => return Err(failure),
                }
                continue;
            }
            show::written(if api.json {
                out.write_all(&line)
            } else if self.raw {
                body(&message).and_then(|body| out.write_all(&body)).and_then(|()| out.write_all(b"\n"))
            } else {
                writeln!(out, "{}", human(&message))
            })?;
            printed += 1;
            // Also after the last one the end is waited for: then the queue knows that they are done.
            show::written(out.flush())?;
        }
        show::written(out.flush())?;
        match self.count {
            Some(count) if printed >= count => Ok(()),
            _ => Err(Failure::new(format!("the broker ended the stream after {printed} messages"))),
        }
    }
}

/// Lines that are no messages.
enum Problem {
    Dropped(u64),
    /// One message cannot be shown; others follow.
    Unreadable(String),
    End(Failure),
}

fn problem(line: &Value) -> Option<Problem> {
    if let Some(dropped) = line.get("dropped").and_then(Value::as_u64) {
        return Some(Problem::Dropped(dropped));
    }
    let error = line.get("error")?;
    let text = |name| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let failure = Failure { code: text("code"), message: text("message") };
    if line.get("offset").is_some() {
        let (topic, partition) = (show::field(line, "topic"), show::field(line, "partition"));
        let at = format!("{topic}/{partition}/{}", show::field(line, "offset"));
        return Some(Problem::Unreadable(format!("{at} cannot be shown: {}", failure.message)));
    }
    Some(Problem::End(failure))
}

fn body(message: &Value) -> std::io::Result<Vec<u8>> {
    match (message.get("body"), message.get("body_base64")) {
        (_, Some(Value::String(encoded))) => STANDARD.decode(encoded).map_err(std::io::Error::other),
        (Some(Value::String(text)), _) => Ok(text.clone().into_bytes()),
        _ => Ok(Vec::new()),
    }
}

/// A message in one line: where it was, what it is about, and the body.
fn human(message: &Value) -> String {
    let has = |name: &str| message.get(name).is_some();
    let mut text = if has("offset") {
        let part = |name| show::field(message, name);
        format!("{}/{}/{}", part("topic"), part("partition"), part("offset"))
    } else {
        show::field(message, "subject")
    };
    if message.get("redelivered") == Some(&Value::Bool(true)) {
        text += " (again)";
    }
    let mut notes: Vec<String> = Vec::new();
    // In a topic the subject is mostly its name.
    if has("offset") && message.get("subject") != message.get("topic") {
        notes.push(format!("subject={}", show::field(message, "subject")));
    }
    for (name, shown) in [
        ("key", "key"),
        ("key_base64", "key"),
        ("id", "id"),
        ("correlation_id", "correlation-id"),
        ("correlation_id_base64", "correlation-id"),
        ("reply_to", "reply-to"),
        ("content_type", "content-type"),
        ("content_encoding", "content-encoding"),
        ("type", "type"),
    ] {
        notes.extend(message.get(name).map(|value| format!("{shown}={}", show::plain(value))));
    }
    let headers = message.get("headers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    notes.extend(headers.iter().map(|h| format!("{}={}", show::field(h, "name"), show::field(h, "value"))));
    if !notes.is_empty() {
        text += &format!(" [{}]", notes.join(" "));
    }
    let body = match (message.get("body"), message.get("body_base64")) {
        (_, Some(Value::String(encoded))) => format!("base64:{encoded}"),
        (Some(Value::String(body)), _) => show::harmless(body),
        _ => "(no body)".to_owned(),
    };
    format!("{text} {body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_in_one_line() {
        for (message, expect) in [
            (
                json!({"topic": "orders", "partition": 2, "offset": 17, "subject": "orders", "key": "c1", "body": "x\ny",
                    "headers": [{"name": "shop", "value": 7}], "content_type": "text/plain"}),
                "orders/2/17 [key=c1 content-type=text/plain shop=7] x\\ny",
            ),
            (
                json!({"topic": "all", "partition": 0, "offset": 1, "subject": "a.b", "body": null, "headers": []}),
                "all/0/1 [subject=a.b] (no body)",
            ),
            (
                json!({"queue": "work", "redelivered": true, "attempt": 2, "subject": "a", "body_base64": "/w==", "headers": []}),
                "a (again) base64:/w==",
            ),
        ] {
            assert_eq!(human(&message), expect);
        }
    }

    #[test]
    fn lines_that_are_no_messages() {
        assert!(matches!(problem(&json!({"dropped": 3})), Some(Problem::Dropped(3))));
        let unreadable =
            json!({"topic": "t", "partition": 0, "offset": 4, "error": {"code": "c", "message": "m"}});
        assert!(matches!(problem(&unreadable), Some(Problem::Unreadable(text)) if text.contains("t/0/4")));
        assert!(
            matches!(problem(&json!({"error": {"code": "c", "message": "m"}})), Some(Problem::End(f)) if f.is("c"))
        );
        assert!(problem(&json!({"subject": "a", "body": "b"})).is_none());
    }
}
