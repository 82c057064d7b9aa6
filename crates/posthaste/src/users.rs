//! Users that the configuration file defines.

use crate::permission;
use posthaste_broker::{
    Broker, Client,
    engine::catalog::{Password, Permission, UsageLimits, User, UserGroup},
    hash_password,
};
use posthaste_model::Name;
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// A user, section `[users.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserEntry {
    password: Option<String>,
    /// A file that holds the password in its first line.
    password_file: Option<PathBuf>,
    /// Logs in by other means than a password.
    #[serde(default)]
    without_password: bool,
    /// Names in client certificates that log in as this user.
    #[serde(default)]
    certificate_names: Vec<String>,
    /// Groups of users that it is in.
    #[serde(default)]
    groups: Vec<String>,
    /// May do everything.
    #[serde(default)]
    administrator: bool,
    /// May log in from the broker's own machine only.
    #[serde(default)]
    loopback_only: bool,
    /// What it may do, as in `posthaste user create --allow`.
    #[serde(default)]
    allow: Vec<String>,
    /// What it may not do, whatever allows it.
    #[serde(default)]
    deny: Vec<String>,
    /// How much it may use up.
    #[serde(default)]
    limits: UsageLimits,
    /// Where it is on listeners that know no namespaces.
    default_namespace: Option<String>,
}

/// A group of users, section `[user_groups.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserGroupEntry {
    /// Its members may do everything.
    #[serde(default)]
    administrator: bool,
    /// What they may do.
    #[serde(default)]
    allow: Vec<String>,
    /// What they may not do, whatever allows it.
    #[serde(default)]
    deny: Vec<String>,
    /// How much each member may use up that has no limit of its own.
    #[serde(default)]
    limits: UsageLimits,
}

/// Sees to it that these users and groups are there, as described. Others stay as they are.
///
/// # Errors
/// Says which cannot be had, and why.
pub async fn establish(
    broker: &Broker,
    users: &BTreeMap<String, UserEntry>,
    groups: &BTreeMap<String, UserGroupEntry>,
) -> Result<(), String> {
    if users.is_empty() && groups.is_empty() {
        return Ok(());
    }
    let client = broker.system_client("configuration", Name::constant("default"), broker.next_connection());
    for (name, entry) in groups {
        let established = entry.establish(&client, name).await;
        established.map_err(|why| format!("user group {name} in the configuration file: {why}"))?;
    }
    for (name, entry) in users {
        let established = entry.establish(&client, name).await;
        established.map_err(|why| format!("user {name} in the configuration file: {why}"))?;
    }
    Ok(())
}

impl UserGroupEntry {
    async fn establish(&self, client: &Client, name: &str) -> Result<(), String> {
        let known = client.broker().catalog().user_group(name).cloned();
        let name = Name::new(name).map_err(|e| e.to_string())?;
        let group = UserGroup {
            administrator: self.administrator,
            permissions: permissions(&self.allow, &self.deny)?,
            limits: self.limits,
            ..known.as_deref().cloned().unwrap_or_else(|| UserGroup::new(name))
        };
        if known.is_some_and(|known| *known == group) {
            return Ok(());
        }
        client.put_user_group(group).await.map_err(|e| e.to_string())
    }
}

impl UserEntry {
    async fn establish(&self, client: &Client, name: &str) -> Result<(), String> {
        let broker = client.broker();
        let known = broker.catalog().user(name).cloned();
        let fresh = User::new(Name::new(name).map_err(|e| e.to_string())?);
        // What is salted differs each time, so whether it stands for this password can only be tried out.
        let password = match (self.password()?, &known) {
            (None, _) => Password::default(),
            (Some(password), Some(known)) if broker.has_password(name, password.as_bytes()).await => {
                known.password.clone()
            }
            (Some(password), _) => tokio::task::block_in_place(|| hash_password(password.as_bytes()))?,
        };
        let groups = self.groups.iter().map(|group| Name::new(group)).collect::<Result<_, _>>();
        let default_namespace = self.default_namespace.as_deref().map(Name::new).transpose();
        let user = User {
            password,
            certificate_names: self.certificate_names.clone(),
            groups: groups.map_err(|e| e.to_string())?,
            loopback_only: self.loopback_only,
            administrator: self.administrator,
            permissions: permissions(&self.allow, &self.deny)?,
            limits: self.limits,
            default_namespace: default_namespace.map_err(|e| e.to_string())?,
            ..known.as_deref().cloned().unwrap_or(fresh)
        };
        if known.is_some_and(|known| *known == user) {
            return Ok(());
        }
        client.put_user(user).await.map_err(|e| e.to_string())
    }

    fn password(&self) -> Result<Option<String>, String> {
        let text = match (&self.password, &self.password_file) {
            (None, None) if self.without_password => return Ok(None),
            (Some(password), None) if !self.without_password => password.clone(),
            (None, Some(path)) if !self.without_password => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            _ => return Err("give one of password, password_file and without_password".to_owned()),
        };
        if text.is_empty() { Err("the password is empty".to_owned()) } else { Ok(Some(text)) }
    }
}

fn permissions(allow: &[String], deny: &[String]) -> Result<Vec<Permission>, String> {
    let denied = deny.iter().map(|text| permission::parse_denied(text));
    denied.chain(allow.iter().map(|text| permission::parse(text))).collect()
}
