//! `posthaste pub`

use super::{Connection, Done, Failure, api::Api, show};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::{Map, Value, json};
use std::{
    io::{BufRead, IsTerminal, Read},
    path::PathBuf,
    process::ExitCode,
};

/// Publish messages
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    message: Message,
    /// The message's body [default: standard input]
    #[arg(conflicts_with_all = ["file", "lines"])]
    body: Option<String>,
    /// Read the body from a file
    #[arg(long, value_name = "FILE", conflicts_with = "lines")]
    file: Option<PathBuf>,
    /// Publish each line of standard input as a message
    #[arg(long)]
    lines: bool,
    /// Publish it so many times
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,
    /// Fail if no queue, topic or reader takes it
    #[arg(long, conflicts_with_all = ["topic", "queue"])]
    mandatory: bool,
}

/// Where messages go.
#[derive(Args)]
struct Target {
    /// Publish on this subject, such as orders.new
    #[arg(long, value_name = "SUBJECT", required_unless_present_any = ["topic", "queue", "exchange"])]
    subject: Option<String>,
    /// Publish to this exchange [default: amq.topic, the bus]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["topic", "queue"])]
    exchange: Option<String>,
    /// Append to this topic
    #[arg(long, value_name = "NAME", conflicts_with_all = ["subject", "queue"])]
    topic: Option<String>,
    /// Put into this queue
    #[arg(long, value_name = "NAME", conflicts_with = "subject")]
    queue: Option<String>,
    /// Which partition of the topic [default: by the key, else each in turn]
    #[arg(long, value_name = "N", requires = "topic")]
    partition: Option<u32>,
}

/// What a message has besides its body.
#[derive(Args)]
struct Message {
    /// A header; may be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The key, which orders and partitions
    #[arg(long)]
    key: Option<String>,
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    #[arg(long, value_name = "SUBJECT")]
    reply_to: Option<String>,
    /// The message's id
    #[arg(long)]
    id: Option<String>,
    /// The kind of event or command
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Not worth delivering after this, in milliseconds
    #[arg(long, value_name = "MS")]
    ttl_ms: Option<u64>,
    /// Not to be delivered before this, in milliseconds
    #[arg(long, value_name = "MS", conflicts_with = "topic")]
    delay_ms: Option<u64>,
    /// Higher is sooner, in queues that have priorities
    #[arg(long, value_name = "N", conflicts_with = "topic")]
    priority: Option<u8>,
    /// Keep it in memory only
    #[arg(long, conflicts_with = "topic")]
    transient: bool,
}

/// A request has at most this many messages, and about this many bytes of bodies.
const REQUEST_MESSAGES: usize = 1_000;
const REQUEST_BYTES: usize = 1 << 20;

impl Flags {
    pub fn run(self) -> ExitCode {
        self.connection.run(|api| self.publish(api))
    }

    fn publish(&self, api: &Api) -> Done {
        let mut publisher = Publisher::new(api, &self.target);
        let message = self.message.json(&self.target, self.mandatory);
        if self.lines {
            for line in std::io::stdin().lock().split(b'\n') {
                let line = line.map_err(|e| Failure::new(format!("cannot read standard input: {e}")))?;
                for _ in 0..self.count {
                    publisher.add(&message, line.strip_suffix(b"\r").unwrap_or(&line))?;
                }
            }
        } else {
            let body = self.body()?;
            for _ in 0..self.count {
                publisher.add(&message, &body)?;
            }
        }
        publisher.send()?;
        publisher.report()
    }

    fn body(&self) -> Result<Vec<u8>, Failure> {
        if let Some(body) = &self.body {
            return Ok(body.clone().into_bytes());
        }
        if let Some(path) = &self.file {
            let unreadable = |e| Failure::new(format!("cannot read {}: {e}", path.display()));
            return std::fs::read(path).map_err(unreadable);
        }
        if std::io::stdin().is_terminal() {
            eprintln!("posthaste: the body is read from standard input; end it with Ctrl-D");
        }
        let mut body = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut body);
        read.map_err(|e| Failure::new(format!("cannot read standard input: {e}")))?;
        Ok(body)
    }
}

impl Message {
    /// All but the body.
    fn json(&self, target: &Target, mandatory: bool) -> Map<String, Value> {
        let headers: Vec<Value> =
            self.headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let given = [
            ("subject", text(&target.subject)),
            ("partition", target.partition.map(|n| json!(n))),
            ("headers", (!headers.is_empty()).then(|| json!(headers))),
            ("key", text(&self.key)),
            ("correlation_id", text(&self.correlation_id)),
            ("content_type", text(&self.content_type)),
            ("reply_to", text(&self.reply_to)),
            ("id", text(&self.id)),
            ("type", text(&self.kind)),
            ("ttl_ms", self.ttl_ms.map(|n| json!(n))),
            ("delay_ms", self.delay_ms.map(|n| json!(n))),
            ("priority", self.priority.map(|n| json!(n))),
            ("durable", self.transient.then_some(json!(false))),
            ("mandatory", mandatory.then_some(json!(true))),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("'{text}' is not NAME=VALUE"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Gathers messages into requests, and counts where they went.
struct Publisher<'a> {
    api: &'a Api,
    path: [String; 3],
    waiting: Vec<Value>,
    waiting_bytes: usize,
    published: u64,
    nowhere: u64,
    results: Vec<Value>,
}

impl<'a> Publisher<'a> {
    fn new(api: &'a Api, target: &Target) -> Publisher<'a> {
        let (kind, name) = match (&target.topic, &target.queue, &target.exchange) {
            (Some(topic), ..) => ("topics", topic.as_str()),
            (_, Some(queue), _) => ("queues", queue.as_str()),
            (_, _, exchange) => ("exchanges", exchange.as_deref().unwrap_or("amq.topic")),
        };
        let path = [kind, name, "messages"].map(str::to_owned);
        Publisher {
            api,
            path,
            waiting: Vec::new(),
            waiting_bytes: 0,
            published: 0,
            nowhere: 0,
            results: Vec::new(),
        }
    }

    fn add(&mut self, message: &Map<String, Value>, body: &[u8]) -> Done {
        let mut message = message.clone();
        match std::str::from_utf8(body) {
            Ok(text) => message.insert("body".to_owned(), json!(text)),
            Err(_) => message.insert("body_base64".to_owned(), json!(STANDARD.encode(body))),
        };
        self.waiting.push(Value::Object(message));
        self.waiting_bytes += body.len();
        if self.waiting.len() >= REQUEST_MESSAGES || self.waiting_bytes >= REQUEST_BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Done {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let messages = Value::Array(std::mem::take(&mut self.waiting));
        self.waiting_bytes = 0;
        let path = self.path.each_ref().map(String::as_str);
        let sent = self.api.post(&path, &messages);
        let mut answer = sent.map_err(|failure| self.so_far(failure))?;
        let Some(Value::Array(results)) = answer.get_mut("results").map(Value::take) else {
            return Err(Failure::new("the broker's answer says nothing of the messages"));
        };
        for result in results {
            if let Some(error) = result.get("error") {
                let text = |name| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                return Err(self.so_far(Failure { code: text("code"), message: text("message") }));
            }
            self.published += 1;
            self.nowhere += u64::from(
                ["queues", "topics", "live"].iter().all(|place| result.get(*place) == Some(&json!(0))),
            );
            if self.api.json {
                self.results.push(result);
            } else {
                // Only one alone is worth telling about.
                self.results = vec![result];
            }
        }
        Ok(())
    }

    fn so_far(&self, failure: Failure) -> Failure {
        if self.published == 0 {
            return failure;
        }
        let message = format!("{}; {} messages were published before", failure.message, self.published);
        Failure { code: failure.code, message }
    }

    fn report(self) -> Done {
        if self.api.json {
            return show::list(true, self.results, &[]);
        }
        let [_, name, _] = &self.path;
        let what = if self.published == 1 { "message".to_owned() } else { "messages".to_owned() };
        let mut text = format!("published {} {what} to {name}", self.published);
        if let (1, Some(result)) = (self.published, self.results.first()) {
            text += &place(result);
        }
        show::print(&format!("{text}\n"))?;
        if self.nowhere > 0 {
            eprintln!(
                "posthaste: nobody took {} of them: no queue, topic or reader is bound to the subject",
                self.nowhere
            );
        }
        Ok(())
    }
}

fn place(result: &Value) -> String {
    let number = |name: &str| result.get(name).and_then(Value::as_u64);
    if let (Some(partition), Some(offset)) = (number("partition"), number("offset")) {
        return format!(": partition {partition}, offset {offset}");
    }
    let count = |name: &str, one: &str| {
        let n = number(name).filter(|n| *n > 0)?;
        Some(format!("{n} {one}{}", if n == 1 { "" } else { "s" }))
    };
    let places = [count("queues", "queue"), count("topics", "topic"), count("live", "live reader")];
    let places: Vec<String> = places.into_iter().flatten().collect();
    if places.is_empty() { String::new() } else { format!(": {}", places.join(", ")) }
}
