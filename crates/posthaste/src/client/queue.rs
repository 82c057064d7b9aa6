//! `posthaste queue`

use super::{Done, Failure, api::Api, show, topic::Durability, unless_there};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// Change a queue's settings
    Alter {
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Create a queue: a work list, whose messages are kept until they are settled
    Create {
        name: String,
        /// Keep it after a restart, with its messages; that is the default
        #[arg(long, conflicts_with = "transient")]
        durable: bool,
        /// Forget it when the broker stops
        #[arg(long)]
        transient: bool,
        /// Goes when its last consumer does
        #[arg(long)]
        auto_delete: bool,
        /// How many priorities above 0 it has [default: 0, first in first out]
        #[arg(long, value_name = "N")]
        priorities: Option<u8>,
        /// It is fine if there is one of this name already
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a queue and all that is in it
    Delete {
        name: String,
        /// Only if nobody consumes from it
        #[arg(long)]
        if_unused: bool,
        /// Only if it holds no messages
        #[arg(long)]
        if_empty: bool,
    },
    /// Show a queue's settings and counts
    Describe { name: String },
    /// List queues
    List,
    /// Drop all messages that are ready
    Purge { name: String },
}

#[derive(Args)]
pub struct Settings {
    /// Messages older than this expire, in milliseconds [default: never]
    #[arg(long, value_name = "MS")]
    ttl_ms: Option<u64>,
    /// Delete the queue when it was unused for so long, in milliseconds [default: never]
    #[arg(long, value_name = "MS")]
    unused_ms_max: Option<u64>,
    /// How many ready messages it holds [default: any number]
    #[arg(long, value_name = "N")]
    max_length: Option<u64>,
    /// What a full queue does: drop its oldest message, or reject the new one
    #[arg(long)]
    overflow: Option<Overflow>,
    /// The exchange to which messages go that were rejected, expired or dropped; empty for the default exchange
    #[arg(long, value_name = "NAME")]
    dead_letter_exchange: Option<String>,
    /// The subject they get; the default exchange takes it as a queue's name [default: their own]
    #[arg(long, value_name = "SUBJECT", visible_alias = "dead-letter-key")]
    dead_letter_subject: Option<String>,
    /// Dead-letter a message that was delivered in vain more often than this [default: never]
    #[arg(long, value_name = "N")]
    delivery_limit: Option<u32>,
    /// Serve one consumer at a time
    #[arg(long)]
    single_active: bool,
    /// When a message counts as safe: when the disk has it (fsync), or the operating system (os)
    #[arg(long)]
    durability: Option<Durability>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Overflow {
    DropOldest,
    Reject,
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Alter { name, settings } => {
            let queue = api.patch(&["queues", &name], &Value::Object(settings.into_json()))?;
            show::done(api.json, &queue, &format!("changed queue {name}"))
        }
        Command::Create { name, durable: _, transient, auto_delete, priorities, if_not_exists, settings } => {
            let mut body = settings.into_json();
            body.insert("name".to_owned(), json!(name));
            body.insert("durable".to_owned(), json!(!transient));
            body.insert("auto_delete".to_owned(), json!(auto_delete));
            body.extend(priorities.map(|n| ("priorities".to_owned(), json!(n))));
            match unless_there(api.post(&["queues"], &Value::Object(body)), if_not_exists)? {
                Some(queue) => show::done(api.json, &queue, &format!("created queue {name}")),
                None => show::done(api.json, &Value::Null, &format!("queue {name} exists already")),
            }
        }
        Command::Delete { name, if_unused, if_empty } => {
            let conditions = [("if_unused", if_unused), ("if_empty", if_empty)];
            let query: Vec<_> =
                conditions.iter().filter(|(_, on)| *on).map(|(name, _)| (*name, "true")).collect();
            let gone = api.delete(&["queues", &name], &query)?;
            show::done(api.json, &gone, &format!("deleted queue {name} with {}", messages(&gone)))
        }
        Command::Describe { name } => show::one(api.json, &api.get(&["queues", &name], &[])?),
        Command::List => list(api),
        Command::Purge { name } => {
            let gone = api.delete(&["queues", &name, "messages"], &[])?;
            show::done(api.json, &gone, &format!("dropped {} of queue {name}", messages(&gone)))
        }
    }
}

fn list(api: &Api) -> Result<(), Failure> {
    show::list(
        api.json,
        api.all("queues")?,
        &[
            ("NAME", |q| show::field(q, "name")),
            ("READY", |q| show::field(q, "ready")),
            ("LEASED", |q| show::field(q, "leased")),
            ("DELAYED", |q| show::field(q, "delayed")),
            ("CONSUMERS", |q| show::field(q, "consumers")),
            ("FEATURES", features),
        ],
    )
}

fn features(queue: &Value) -> String {
    let flag = |name: &str| queue.get(name).and_then(Value::as_bool).unwrap_or(false);
    let mut features: Vec<String> = ["durable", "exclusive", "auto_delete", "single_active"]
        .into_iter()
        .filter(|name| flag(name))
        .map(|name| name.replace('_', "-"))
        .collect();
    for (name, text) in [
        ("priorities", "priorities"),
        ("ttl_ms", "ttl"),
        ("length_max", "max-length"),
        ("dead_letter", "dead-letter"),
    ] {
        let set = queue.get(name).is_some_and(|value| !value.is_null() && *value != json!(0));
        features.extend(set.then(|| text.to_owned()));
    }
    if features.is_empty() { "-".to_owned() } else { features.join(" ") }
}

fn messages(gone: &Value) -> String {
    match gone.get("messages").and_then(Value::as_u64) {
        Some(1) => "1 message".to_owned(),
        count => format!("{} messages", count.unwrap_or(0)),
    }
}

impl Settings {
    /// What was given; nothing else is changed.
    fn into_json(self) -> Map<String, Value> {
        let overflow = self.overflow.map(|o| match o {
            Overflow::DropOldest => json!("drop-oldest"),
            Overflow::Reject => json!("reject"),
        });
        let dead = (self.dead_letter_exchange.is_some() || self.dead_letter_subject.is_some())
            .then(|| json!({ "exchange": self.dead_letter_exchange, "subject": self.dead_letter_subject }));
        let given = [
            ("ttl_ms", self.ttl_ms.map(|n| json!(n))),
            ("unused_ms_max", self.unused_ms_max.map(|n| json!(n))),
            ("length_max", self.max_length.map(|n| json!(n))),
            ("overflow", overflow),
            ("dead_letter", dead),
            ("delivery_limit", self.delivery_limit.map(|n| json!(n))),
            ("single_active", self.single_active.then_some(json!(true))),
            ("durability", self.durability.map(|d| json!(d.text()))),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
