//! Users that the configuration file defines.

use crate::permission;
use posthaste_broker::{
    Broker, Client,
    engine::catalog::{Options, User},
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
    /// May do everything.
    #[serde(default)]
    administrator: bool,
    /// May log in from the broker's own machine only.
    #[serde(default)]
    loopback_only: bool,
    /// What it may do, as in `posthaste user create --allow`.
    #[serde(default)]
    allow: Vec<String>,
}

/// Sees to it that these users are there, as described. Others stay as they are.
///
/// # Errors
/// Says which user cannot be had, and why.
pub async fn establish(broker: &Broker, users: &BTreeMap<String, UserEntry>) -> Result<(), String> {
    if users.is_empty() {
        return Ok(());
    }
    let client = broker.system_client("configuration", Name::constant("default"), broker.next_connection());
    for (name, entry) in users {
        let established = entry.establish(&client, name).await;
        established.map_err(|why| format!("user {name} in the configuration file: {why}"))?;
    }
    Ok(())
}

impl UserEntry {
    async fn establish(&self, client: &Client, name: &str) -> Result<(), String> {
        let broker = client.broker();
        let known = broker.catalog().user(name).cloned();
        let password = self.password()?;
        let user = User {
            name: Name::new(name).map_err(|e| e.to_string())?,
            password_hash: String::new(),
            loopback_only: self.loopback_only,
            administrator: self.administrator,
            permissions: self.allow.iter().map(|text| permission::parse(text)).collect::<Result<_, _>>()?,
            options: known.as_ref().map_or_else(Options::new, |known| known.options.clone()),
        };
        // A hash is salted, so whether it stands for this password can only be tried out.
        let password_hash = match &known {
            Some(known) if broker.has_password(name, password.as_bytes()).await => {
                known.password_hash.clone()
            }
            _ => tokio::task::block_in_place(|| hash_password(password.as_bytes()))?,
        };
        let user = User { password_hash, ..user };
        if known.is_some_and(|known| *known == user) {
            return Ok(());
        }
        client.put_user(user).await.map_err(|e| e.to_string())
    }

    fn password(&self) -> Result<String, String> {
        let text = match (&self.password, &self.password_file) {
            (Some(password), None) => password.clone(),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            _ => return Err("give either password or password_file".to_owned()),
        };
        if text.is_empty() { Err("the password is empty".to_owned()) } else { Ok(text) }
    }
}
