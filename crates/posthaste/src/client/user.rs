//! `posthaste user`

use super::{Done, Failure, api::Api, limits::Limits, show};
use crate::permission;
use clap::{Args, Subcommand};
use posthaste_broker::engine::catalog::Permission;
use posthaste_http::PermissionView;
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
    /// Give a user a further access key: an id and a secret for programs, which is shown this once
    CreateAccessKey {
        name: String,
        /// An id that is known already; its secret is read from standard input
        #[arg(long)]
        id: Option<String>,
    },
    /// Create a user; the password is read from standard input if --new-password does not say it
    Create {
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Take an access key from a user; what was opened with it is closed
    DeleteAccessKey { name: String, id: String },
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
    /// The user has no password, and logs in by other means
    #[arg(long, conflicts_with = "new_password")]
    without_password: bool,
    /// A name in a client certificate that logs in as this user: a subject such as `CN=ann,O=shop`,
    /// `dns:NAME`, `email:ADDRESS` or `uri:URI`
    #[arg(long = "certificate-name", value_name = "NAME")]
    certificate_names: Vec<String>,
    /// A group of users whose permissions it has, too
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// May do everything
    #[arg(long)]
    administrator: bool,
    /// May log in from the broker's own machine only
    #[arg(long)]
    loopback_only: bool,
    /// Where the user is on listeners that know no namespaces, such as kafka and mqtt
    #[arg(long, value_name = "NAMESPACE")]
    default_namespace: Option<String>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    permissions: Permissions,
}

#[derive(Args)]
pub struct Permissions {
    /// Something that is allowed, such as `read,write:topic:orders*` or `configure,read,write:any:*@shop`:
    /// actions, kind of thing (topic, queue, exchange, subject, group, namespace, broker, any), names with *
    /// for any text, and namespaces [default: all]
    #[arg(long = "allow", value_name = "ACTIONS:KIND:NAME[@NAMESPACE]", value_parser = permission::parse)]
    allowed: Vec<Permission>,
    /// Something that is denied whatever else allows it, written likewise
    #[arg(
        long = "deny",
        value_name = "ACTIONS:KIND:NAME[@NAMESPACE]",
        value_parser = permission::parse_denied
    )]
    denied: Vec<Permission>,
}

impl Permissions {
    /// As the API wants them; `otherwise` when none are given.
    pub fn or(&self, otherwise: Value) -> Value {
        let all: Vec<PermissionView> = self.denied.iter().chain(&self.allowed).map(Into::into).collect();
        if all.is_empty() { otherwise } else { json!(all) }
    }
}

pub fn run(api: &Api, command: Command) -> Done {
    match command {
        Command::Alter { name, set_password, settings } => alter(api, &name, set_password, settings),
        Command::CreateAccessKey { name, id } => create_access_key(api, &name, id),
        Command::DeleteAccessKey { name, id } => {
            let nothing = api.delete(&["users", &name, "access-keys", &id], &[])?;
            show::done(api.json, &nothing, &format!("deleted access key {id} of user {name}"))
        }
        Command::Create { name, settings } => create(api, &name, settings),
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
                ("GROUPS", |u| count(u, "groups")),
                ("PERMISSIONS", |u| count(u, "permissions")),
            ],
        ),
    }
}

/// How many things a field lists.
pub fn count(thing: &Value, field: &str) -> String {
    thing.get(field).and_then(Value::as_array).map_or(0, Vec::len).to_string()
}

fn create(api: &Api, name: &str, settings: Settings) -> Done {
    let password = match settings.new_password {
        None if !settings.without_password => Some(read_password()?),
        given => given,
    };
    let user = api.post(
        &["users"],
        &json!({
            "name": name, "password": password, "without_password": settings.without_password,
            "certificate_names": settings.certificate_names, "groups": settings.groups,
            "administrator": settings.administrator, "loopback_only": settings.loopback_only,
            "permissions": settings.permissions.or(json!([])), "limits": settings.limits.over(json!({})),
            "default_namespace": settings.default_namespace,
        }),
    )?;
    show::done(api.json, &user, &format!("created user {name}"))
}

fn create_access_key(api: &Api, name: &str, id: Option<String>) -> Done {
    let given = match id {
        Some(id) => json!({"id": id, "secret": read_line("secret")?}),
        None => json!({}),
    };
    let made = api.post(&["users", name, "access-keys"], &given)?;
    let (id, secret) = (show::field(&made, "id"), show::field(&made, "secret"));
    show::done(api.json, &made, &format!("id      {id}\nsecret  {secret}"))
}

/// Permissions replace those that there were, as do groups and names in certificates; what is not given
/// stays.
fn alter(api: &Api, name: &str, set_password: bool, settings: Settings) -> Done {
    let known = api.get(&["users", name], &[])?;
    let was = |field: &str| known.get(field).cloned().unwrap_or(Value::Null);
    let flag = |given: bool, field: &str| if given { json!(true) } else { was(field) };
    let list = |given: Vec<String>, field: &str| if given.is_empty() { was(field) } else { json!(given) };
    let password = match settings.new_password {
        None if set_password => Some(read_password()?),
        given => given,
    };
    let user = api.put(
        &["users", name],
        &json!({
            "password": password, "without_password": settings.without_password,
            "certificate_names": list(settings.certificate_names, "certificate_names"),
            "groups": list(settings.groups, "groups"),
            "permissions": settings.permissions.or(was("permissions")),
            "limits": settings.limits.over(was("limits")),
            "default_namespace": settings.default_namespace.map_or_else(|| was("default_namespace"), Value::from),
            "administrator": flag(settings.administrator, "administrator"),
            "loopback_only": flag(settings.loopback_only, "loopback_only"),
        }),
    )?;
    show::done(api.json, &user, &format!("changed user {name}"))
}

fn read_password() -> Result<String, Failure> {
    read_line("password")
}

fn read_line(what: &str) -> Result<String, Failure> {
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        eprintln!("New {what}, which will be shown:");
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|e| Failure::new(format!("cannot read the {what} from standard input: {e}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::new(format!("no {what} on standard input; give one there")));
    }
    Ok(password.to_owned())
}
