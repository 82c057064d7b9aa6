//! `posthaste user`

use super::{Done, Failure, api::Api, show};
use crate::permission;
use clap::{Args, Subcommand};
use posthaste_broker::engine::catalog::Permission;
use serde_json::{Value, json};
use std::io::BufRead;

#[derive(Subcommand)]
pub enum Command {
    /// Change what a user may do, or the password
    Alter {
        name: String,
        /// Also set a new password, read from standard input if --new-password does not say it
        #[arg(long)]
        set_password: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Create a user; the password is read from standard input if --new-password does not say it
    Create {
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a user
    Delete { name: String },
    /// Show what a user may do
    Describe { name: String },
    /// List users
    List,
}

#[derive(Args)]
pub struct Settings {
    /// The user's password; others on this machine may see it in the list of processes
    #[arg(long, value_name = "PASSWORD", env = "POSTHASTE_NEW_PASSWORD", hide_env_values = true)]
    new_password: Option<String>,
    /// May do everything
    #[arg(long)]
    administrator: bool,
    /// May log in from the broker's own machine only
    #[arg(long)]
    loopback_only: bool,
    /// Something that the user may do, such as `read,write:topic:orders*` or `configure,read,write:any:*@shop`:
    /// actions, kind of thing (topic, queue, exchange, subject, group, namespace, any), names with * for any text, and
    /// namespaces [default: all]
    #[arg(long = "allow", value_name = "ACTIONS:KIND:NAME[@NAMESPACE]", value_parser = permission::parse)]
    allowed: Vec<Permission>,
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Alter { name, set_password, settings } => alter(api, &name, set_password, settings),
        Command::Create { name, settings } => {
            let password = settings.new_password.map_or_else(read_password, Ok)?;
            let user = api.post(
                &["users"],
                &json!({
                    "name": name, "password": password, "administrator": settings.administrator,
                    "loopback_only": settings.loopback_only, "permissions": settings.allowed,
                }),
            )?;
            show::done(api.json, &user, &format!("created user {name}"))
        }
        Command::Delete { name } => {
            let nothing = api.delete(&["users", &name], &[])?;
            show::done(api.json, &nothing, &format!("deleted user {name}"))
        }
        Command::Describe { name } => show::one(api.json, &api.get(&["users", &name], &[])?),
        Command::List => show::list(
            api.json,
            api.all("users")?,
            &[
                ("NAME", |u| show::field(u, "name")),
                ("ADMINISTRATOR", |u| show::field(u, "administrator")),
                ("LOOPBACK ONLY", |u| show::field(u, "loopback_only")),
                ("PERMISSIONS", |u| {
                    u.get("permissions").and_then(Value::as_array).map_or(0, Vec::len).to_string()
                }),
            ],
        ),
    }
}

/// Permissions replace those that there were; whatever is not given stays.
fn alter(api: &Api, name: &str, set_password: bool, settings: Settings) -> Done {
    let known = api.get(&["users", name], &[])?;
    let was = |field: &str| known.get(field).cloned().unwrap_or(Value::Null);
    let permissions = if settings.allowed.is_empty() { was("permissions") } else { json!(settings.allowed) };
    let flag = |given: bool, field: &str| if given { json!(true) } else { was(field) };
    let password = match settings.new_password {
        None if set_password => Some(read_password()?),
        given => given,
    };
    let user = api.put(
        &["users", name],
        &json!({
            "password": password, "permissions": permissions,
            "administrator": flag(settings.administrator, "administrator"),
            "loopback_only": flag(settings.loopback_only, "loopback_only"),
        }),
    )?;
    show::done(api.json, &user, &format!("changed user {name}"))
}

fn read_password() -> Result<String, Failure> {
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        eprintln!("New password, which will be shown:");
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|e| Failure::new(format!("cannot read the password from standard input: {e}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::new("no password on standard input; give one there or with --new-password"));
    }
    Ok(password.to_owned())
}
