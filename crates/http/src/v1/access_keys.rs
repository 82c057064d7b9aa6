//! Access keys of users.

use crate::{
    call::{Answer, Call, Reply},
    failure::Failure,
};
use posthaste_broker::{Administration, Error};
use posthaste_engine::catalog::{AccessKey, User};
use serde::{Deserialize, Serialize};

/// Without an id and a secret the broker makes them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    id: Option<String>,
    secret: Option<String>,
}

#[derive(Serialize)]
pub struct View {
    id: String,
    created_ms: i64,
}

/// The secret is shown this once.
#[derive(Serialize)]
struct Created<'a> {
    user: &'a str,
    id: &'a str,
    secret: &'a str,
    created_ms: i64,
}

pub async fn create(call: &Call) -> Answer {
    let name = call.name()?;
    let settings: Settings = call.json()?;
    call.client.may_administer(Administration::Users)?;
    let given = match (settings.id, settings.secret) {
        (None, None) => None,
        (Some(id), Some(secret)) => Some((id, secret)),
        _ => return Err(Failure::invalid("give both id and secret, or neither: then both are made")),
    };
    let made = call.client.create_access_key(&name, given).await?;
    let AccessKey { id, created, .. } = &made.key;
    Reply::created(&Created { user: &name, id, secret: &made.secret, created_ms: created.0 })
}

pub async fn delete(call: &Call) -> Answer {
    let name = call.name()?;
    call.client.may_administer(Administration::Users)?;
    let id = call.second_text();
    let catalog = call.broker().catalog();
    if catalog.user_by_access_key(id).is_none_or(|user| user.name != name) {
        return Err(Failure::not_found(format!("user '{name}' has no access key '{id}'")));
    }
    match call.client.delete_access_key(&name, id).await {
        // Somebody else was faster.
        Ok(()) | Err(Error::Gone) => Ok(Reply::Nothing),
        Err(error) => Err(error.into()),
    }
}

pub fn views(user: &User) -> Vec<View> {
    user.access_keys.iter().map(|key| View { id: key.id.clone(), created_ms: key.created.0 }).collect()
}
