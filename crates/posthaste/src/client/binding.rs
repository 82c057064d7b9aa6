//! `posthaste binding`

use super::{Done, Failure, api::Api, show};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// Bind a queue or an exchange to an exchange
    Create {
        #[command(flatten)]
        ends: Ends,
        /// What it matches; on a topic exchange * is one word and # any number of words
        #[arg(long, value_name = "KEY", default_value = "")]
        key: String,
        /// A header that it matches, on an exchange of type headers; without a value it only has to be there
        #[arg(long = "header", value_name = "NAME[=VALUE]")]
        headers: Vec<String>,
        /// Whether all of the headers have to match, or any
        #[arg(long = "match", requires = "headers")]
        matching: Option<Matching>,
    },
    /// Delete a binding
    Delete {
        #[command(flatten)]
        ends: Ends,
        /// Its key
        #[arg(long, value_name = "KEY", default_value = "")]
        key: String,
    },
    /// Show the bindings of an exchange, or between an exchange and a queue
    Describe {
        /// The exchange
        exchange: String,
        /// The queue
        queue: Option<String>,
    },
    /// List bindings
    List {
        /// Only those of this exchange
        #[arg(long, value_name = "NAME")]
        exchange: Option<String>,
        /// Only those to this queue
        #[arg(long, value_name = "NAME")]
        queue: Option<String>,
        /// Only those to this exchange
        #[arg(long, value_name = "NAME")]
        to_exchange: Option<String>,
        /// Only those with this key
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
}

/// `--exchange` and `--queue`, or their names in this order.
#[derive(Args)]
pub struct Ends {
    /// The exchange, and the queue that is bound to it, in short
    #[arg(num_args = 2, value_names = ["EXCHANGE", "QUEUE"], conflicts_with_all = ["exchange", "queue", "to_exchange"])]
    names: Vec<String>,
    /// The exchange
    #[arg(long, value_name = "NAME", required_unless_present = "names")]
    exchange: Option<String>,
    /// The queue that is bound to it
    #[arg(long, value_name = "NAME", required_unless_present_any = ["names", "to_exchange"])]
    queue: Option<String>,
    /// The exchange that is bound to it
    #[arg(long, value_name = "NAME", conflicts_with = "queue")]
    to_exchange: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Matching {
    All,
    Any,
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Create { ends, key, headers, matching } => {
            let (exchange, kind, target) = ends.resolve()?;
            let mut body = json!({ "exchange": exchange, kind: target, "key": key });
            if let (Value::Object(fields), false) = (&mut body, headers.is_empty()) {
                fields.insert("headers".to_owned(), Value::Object(headers_json(&headers)));
                let text = if matches!(matching, Some(Matching::Any)) { "any" } else { "all" };
                fields.insert("match".to_owned(), json!(text));
            }
            let binding = api.post(&["bindings"], &body)?;
            let with = if key.is_empty() { String::new() } else { format!(" with {key}") };
            show::done(api.json, &binding, &format!("bound {target} to {exchange}{with}"))
        }
        Command::Delete { ends, key } => {
            let (exchange, kind, target) = ends.resolve()?;
            let query = [("exchange", exchange.as_str()), (kind, target.as_str()), ("key", key.as_str())];
            let nothing = api.delete(&["bindings"], &query)?;
            show::done(api.json, &nothing, &format!("unbound {target} from {exchange}"))
        }
        Command::Describe { exchange, queue } => list(api, &[("exchange", Some(exchange)), ("queue", queue)]),
        Command::List { exchange, queue, to_exchange, key } => {
            let to_exchange = ("to_exchange", to_exchange);
            list(api, &[("exchange", exchange), ("queue", queue), to_exchange, ("key", key)])
        }
    }
}

fn list(api: &Api, given: &[(&'static str, Option<String>)]) -> Done {
    let query: Vec<_> = given.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let mut found = api.get(&["bindings"], &query)?;
    if found.get("truncated").and_then(Value::as_bool) == Some(true) {
        eprintln!("posthaste: there are more; narrow the list with --exchange or --queue");
    }
    let bindings = match found.get_mut("bindings").map(Value::take) {
        Some(Value::Array(bindings)) => bindings,
        _ => Vec::new(),
    };
    show::list(
        api.json,
        bindings,
        &[
            ("EXCHANGE", |b| show::field(b, "exchange")),
            ("TO", |b| match b.get("queue") {
                Some(queue) => format!("queue {}", show::plain(queue)),
                None => format!("exchange {}", show::field(b, "to_exchange")),
            }),
            ("KEY", |b| show::field(b, "key")),
            ("HEADERS", |b| match b.get("headers") {
                Some(headers) => format!("{} of {}", show::field(b, "match"), show::plain(headers)),
                None => "-".to_owned(),
            }),
        ],
    )
}

fn headers_json(headers: &[String]) -> Map<String, Value> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), json!(value)),
        None => (text.clone(), Value::Null),
    };
    headers.iter().map(pair).collect()
}

impl Ends {
    /// The exchange, what kind of target, and its name.
    fn resolve(self) -> Result<(String, &'static str, String), Failure> {
        let mut names = self.names.into_iter();
        match (names.next(), names.next(), self.exchange, self.queue, self.to_exchange) {
            (Some(exchange), Some(queue), ..) => Ok((exchange, "queue", queue)),
            (None, None, Some(exchange), Some(queue), None) => Ok((exchange, "queue", queue)),
            (None, None, Some(exchange), None, Some(target)) => Ok((exchange, "to_exchange", target)),
            _ => Err(Failure::new("name an exchange and what to bind to it: --exchange NAME --queue NAME")),
        }
    }
}
