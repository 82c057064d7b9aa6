//! `posthaste exchange`

use super::{Done, api::Api, show, unless_there};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// Create an exchange, which routes messages to what is bound to it
    Create {
        name: String,
        /// By what it routes: a pattern of subjects, the exact subject, everything, or headers
        #[arg(long = "type", value_name = "TYPE", default_value = "topic")]
        kind: Kind,
        /// Forget it when the broker stops
        #[arg(long)]
        transient: bool,
        /// Goes when its last binding does
        #[arg(long)]
        auto_delete: bool,
        /// Takes messages from other exchanges only
        #[arg(long)]
        internal: bool,
        /// The exchange to which messages go that match no binding
        #[arg(long, value_name = "NAME")]
        alternate: Option<String>,
        /// It is fine if there is one of this name already
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Delete an exchange and its bindings
    Delete {
        name: String,
        /// Only if nothing is bound to it
        #[arg(long)]
        if_unused: bool,
    },
    /// Show an exchange and its bindings
    Describe { name: String },
    /// List exchanges
    List,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    Direct,
    Fanout,
    Headers,
    Topic,
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Create { name, kind, transient, auto_delete, internal, alternate, if_not_exists } => {
            let kind = match kind {
                Kind::Direct => "direct",
                Kind::Fanout => "fanout",
                Kind::Headers => "headers",
                Kind::Topic => "topic",
            };
            let body = json!({
                "name": name, "type": kind, "durable": !transient, "auto_delete": auto_delete, "internal": internal,
                "alternate": alternate,
            });
            match unless_there(api.post(&["exchanges"], &body), if_not_exists)? {
                Some(exchange) => show::done(api.json, &exchange, &format!("created {kind} exchange {name}")),
                None => show::done(api.json, &Value::Null, &format!("exchange {name} exists already")),
            }
        }
        Command::Delete { name, if_unused } => {
            let query: &[_] = if if_unused { &[("if_unused", "true")] } else { &[] };
            let nothing = api.delete(&["exchanges", &name], query)?;
            show::done(api.json, &nothing, &format!("deleted exchange {name}"))
        }
        Command::Describe { name } => {
            let mut exchange = api.get(&["exchanges", &name], &[])?;
            let mut found = api.get(&["bindings"], &[("exchange", &name)])?;
            if let (Value::Object(fields), Some(bindings)) = (&mut exchange, found.get_mut("bindings")) {
                fields.insert("bindings".to_owned(), bindings.take());
            }
            show::one(api.json, &exchange)
        }
        Command::List => show::list(
            api.json,
            api.all("exchanges")?,
            &[
                ("NAME", |e| show::field(e, "name")),
                ("TYPE", |e| show::field(e, "type")),
                ("BINDINGS", |e| show::field(e, "bindings")),
                ("ALTERNATE", |e| show::field(e, "alternate")),
            ],
        ),
    }
}
