//! `posthaste namespace`

use super::{Done, api::Api, limits::Limits, show, unless_there};
use clap::Subcommand;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// Limit what is used up in a namespace
    Alter {
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Create a namespace, which has names of its own
    Create {
        name: String,
        /// It is fine if there is one of this name already
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        limits: Limits,
    },
    /// Delete a namespace and everything in it
    Delete { name: String },
    /// Show what is in a namespace
    Describe { name: String },
    /// List namespaces
    List,
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Alter { name, limits } => {
            let known = api.get(&["namespaces", &name], &[])?;
            let limits = limits.over(known.get("limits").cloned().unwrap_or_default());
            let namespace = api.patch(&["namespaces", &name], &json!({ "limits": limits }))?;
            show::done(api.json, &namespace, &format!("changed namespace {name}"))
        }
        Command::Create { name, if_not_exists, limits } => {
            let body = json!({ "name": name, "limits": limits.over(json!({})) });
            match unless_there(api.post(&["namespaces"], &body), if_not_exists)? {
                Some(namespace) => show::done(api.json, &namespace, &format!("created namespace {name}")),
                None => show::done(api.json, &Value::Null, &format!("namespace {name} exists already")),
            }
        }
        Command::Delete { name } => {
            let nothing = api.delete(&["namespaces", &name], &[])?;
            show::done(api.json, &nothing, &format!("deleted namespace {name}"))
        }
        Command::Describe { name } => show::one(api.json, &api.get(&["namespaces", &name], &[])?),
        Command::List => show::list(
            api.json,
            api.all("namespaces")?,
            &[
                ("NAME", |n| show::field(n, "name")),
                ("TOPICS", |n| show::field(n, "topics")),
                ("QUEUES", |n| show::field(n, "queues")),
                ("EXCHANGES", |n| show::field(n, "exchanges")),
                ("BINDINGS", |n| show::field(n, "bindings")),
            ],
        ),
    }
}
