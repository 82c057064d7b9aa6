//! `posthaste topic`

use super::{Done, api::Api, show, unless_there};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// Change a topic's settings, or add partitions
    Alter {
        name: String,
        /// The new number of partitions; there can only become more
        #[arg(long, value_name = "N")]
        partitions: Option<u32>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Create a topic: a partitioned log, kept by retention
    Create {
        name: String,
        /// How many partitions it has
        #[arg(long, value_name = "N", default_value_t = 1)]
        partitions: u32,
        /// It is fine if there is one of this name already
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a topic and all that is in it
    Delete { name: String },
    /// Show a topic's settings and the offsets of its partitions
    Describe { name: String },
    /// List topics
    List,
}

#[derive(Args)]
pub struct Settings {
    /// Also store what is published on the bus on subjects that match; * is one word, # any number of words
    #[arg(long = "capture", value_name = "PATTERN")]
    captures: Vec<String>,
    /// Keep records at least this long, in milliseconds [default: for ever]
    #[arg(long, value_name = "MS")]
    retention_ms: Option<u64>,
    /// Keep at least this many bytes in each partition [default: any number]
    #[arg(long, value_name = "BYTES")]
    retention_bytes: Option<u64>,
    /// The largest batch, in bytes [default: the broker's limit]
    #[arg(long, value_name = "BYTES")]
    message_bytes_max: Option<u64>,
    /// When a record counts as safe: when the disk has it (fsync), or the operating system (os)
    #[arg(long)]
    durability: Option<Durability>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Durability {
    Fsync,
    Os,
}

impl Durability {
    pub fn text(self) -> &'static str {
        match self {
            Durability::Fsync => "fsync",
            Durability::Os => "os",
        }
    }
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Alter { name, partitions, settings } => {
            let mut changes = settings.into_json();
            changes.extend(partitions.map(|n| ("partitions".to_owned(), n.into())));
            let topic = api.patch(&["topics", &name], &Value::Object(changes))?;
            show::done(api.json, &topic, &format!("changed topic {name}"))
        }
        Command::Create { name, partitions, if_not_exists, settings } => {
            let mut body = settings.into_json();
            body.insert("name".to_owned(), json!(name));
            body.insert("partitions".to_owned(), json!(partitions));
            match unless_there(api.post(&["topics"], &Value::Object(body)), if_not_exists)? {
                Some(topic) => {
                    let plural = if partitions == 1 { "" } else { "s" };
                    let text = format!("created topic {name} with {partitions} partition{plural}");
                    show::done(api.json, &topic, &text)
                }
                None => show::done(api.json, &Value::Null, &format!("topic {name} exists already")),
            }
        }
        Command::Delete { name } => {
            let nothing = api.delete(&["topics", &name], &[])?;
            show::done(api.json, &nothing, &format!("deleted topic {name}"))
        }
        Command::Describe { name } => show::one(api.json, &api.get(&["topics", &name], &[])?),
        Command::List => show::list(
            api.json,
            api.all("topics")?,
            &[
                ("NAME", |t| show::field(t, "name")),
                ("PARTITIONS", |t| show::field(t, "partitions")),
                ("MESSAGES", |t| show::field(t, "messages")),
                ("BYTES", |t| show::field(t, "bytes")),
                ("DURABILITY", |t| show::field(t, "durability")),
                ("CAPTURES", |t| show::field(t, "captures")),
            ],
        ),
    }
}

impl Settings {
    /// What was given; nothing else is changed.
    fn into_json(self) -> Map<String, Value> {
        let given = [
            ("captures", (!self.captures.is_empty()).then(|| json!(self.captures))),
            ("retention_ms", self.retention_ms.map(|n| json!(n))),
            ("retention_bytes", self.retention_bytes.map(|n| json!(n))),
            ("message_bytes_max", self.message_bytes_max.map(|n| json!(n))),
            ("durability", self.durability.map(|d| json!(d.text()))),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
