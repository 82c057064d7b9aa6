//! `posthaste group`

use super::{Done, api::Api, show};
use clap::Subcommand;
use serde_json::Value;

#[derive(Subcommand)]
pub enum Command {
    /// Delete a group without members, and its offsets
    Delete { name: String },
    /// Show a group's members, its offsets, and how far it is behind
    Describe { name: String },
    /// List consumer groups; they come into being when their first member joins
    List,
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Delete { name } => {
            let nothing = api.delete(&["groups", &name], &[])?;
            show::done(api.json, &nothing, &format!("deleted group {name}"))
        }
        Command::Describe { name } => show::one(api.json, &api.get(&["groups", &name], &[])?),
        Command::List => show::list(
            api.json,
            api.all("groups")?,
            &[
                ("NAME", |g| show::field(g, "name")),
                ("STATE", |g| show::field(g, "state")),
                ("MEMBERS", |g| g.get("members").and_then(Value::as_array).map_or(0, Vec::len).to_string()),
                ("PROTOCOL", |g| show::field(g, "protocol")),
            ],
        ),
    }
}
