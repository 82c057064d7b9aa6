//! `posthaste user-group`

use super::{
    Done,
    api::Api,
    limits::Limits,
    show,
    user::{Permissions, count},
};
use clap::Subcommand;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub enum Command {
    /// Change what the members of a group of users may do
    Alter {
        name: String,
        /// May do everything
        #[arg(long)]
        administrator: Option<bool>,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        permissions: Permissions,
    },
    /// Create a group of users; `user create --group` puts users into it
    Create {
        name: String,
        /// Its members may do everything
        #[arg(long)]
        administrator: bool,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        permissions: Permissions,
    },
    /// Delete a group of users that has no members
    Delete { name: String },
    /// Show what the members of a group may do
    Describe { name: String },
    /// List groups of users
    List,
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Alter { name, administrator, limits, permissions } => {
            let known = api.get(&["user-groups", &name], &[])?;
            let was = |field: &str| known.get(field).cloned().unwrap_or(Value::Null);
            let group = api.put(
                &["user-groups", &name],
                &json!({
                    "administrator": administrator.map_or_else(|| was("administrator"), Value::from),
                    "permissions": permissions.or(was("permissions")),
                    "limits": limits.over(was("limits")),
                }),
            )?;
            show::done(api.json, &group, &format!("changed user group {name}"))
        }
        Command::Create { name, administrator, limits, permissions } => {
            let permissions = permissions.or(json!([]));
            let limits = limits.over(json!({}));
            let body = json!({
                "name": name, "administrator": administrator, "permissions": permissions, "limits": limits,
            });
            let group = api.post(&["user-groups"], &body)?;
            show::done(api.json, &group, &format!("created user group {name}"))
        }
        Command::Delete { name } => {
            let nothing = api.delete(&["user-groups", &name], &[])?;
            show::done(api.json, &nothing, &format!("deleted user group {name}"))
        }
        Command::Describe { name } => show::one(api.json, &api.get(&["user-groups", &name], &[])?),
        Command::List => show::list(
            api.json,
            api.all("user-groups")?,
            &[
                ("NAME", |g| show::field(g, "name")),
                ("ADMINISTRATOR", |g| show::field(g, "administrator")),
                ("PERMISSIONS", |g| count(g, "permissions")),
            ],
        ),
    }
}
