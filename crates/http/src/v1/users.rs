//! Users and what they may do. For administrators only.

use crate::{
    call::{Answer, Call, Page, Reply, name, within},
    failure::Failure,
};
use hyper::StatusCode;
use posthaste_broker::Error;
use posthaste_engine::catalog::{Action, Options, Permission, Resource, User};
use posthaste_model::Name;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Creation {
    name: String,
    password: String,
    #[serde(default)]
    loopback_only: bool,
    #[serde(default)]
    administrator: bool,
    #[serde(default)]
    permissions: Vec<PermissionView>,
}

/// Replaces a user; without a password it keeps the one it has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replacement {
    password: Option<String>,
    #[serde(default)]
    loopback_only: bool,
    #[serde(default)]
    administrator: bool,
    #[serde(default)]
    permissions: Vec<PermissionView>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PermissionView {
    #[serde(default = "anything")]
    namespace: String,
    /// None for every kind.
    resource: Option<Resource>,
    #[serde(default = "anything")]
    name: String,
    actions: Vec<Action>,
}

fn anything() -> String {
    "*".to_owned()
}

/// Never shows a password or its hash.
#[derive(Serialize)]
struct View {
    name: String,
    loopback_only: bool,
    administrator: bool,
    permissions: Vec<PermissionView>,
}

#[derive(Serialize)]
struct List {
    users: Vec<View>,
    next: Option<String>,
}

const PASSWORD_BYTES_MAX: usize = 1_024;
const PERMISSIONS_MAX: usize = 1_000;

pub fn list(call: &Call) -> Answer {
    check_administrator(call, "*")?;
    let page: Page = call.parameters()?;
    let catalog = call.broker().catalog();
    let (users, next) = page.cut(catalog.users(), |u| u.name.as_str())?;
    Reply::json(&List { users: users.into_iter().map(|u| view(u)).collect(), next })
}

pub async fn create(call: &Call) -> Answer {
    let creation: Creation = call.json()?;
    let name = name(&creation.name)?;
    check_administrator(call, &name)?;
    if call.broker().catalog().user(&name).is_some() {
        return Err(Failure::new(StatusCode::CONFLICT, "exists", format!("user '{name}' exists already")));
    }
    let user = User {
        password_hash: hashed(call, creation.password).await?,
        loopback_only: creation.loopback_only,
        administrator: creation.administrator,
        permissions: permissions(creation.permissions)?,
        options: Options::new(),
        name,
    };
    let shown = view(&user);
    call.client.put_user(user).await?;
    Reply::created(&shown)
}

pub fn describe(call: &Call) -> Answer {
    // Everybody may look at themselves.
    if !call.client.principal().is_user(call.text()) {
        check_administrator(call, call.text())?;
    }
    let catalog = call.broker().catalog();
    let user = catalog.user(call.text()).ok_or_else(|| unknown(call.text()))?;
    Reply::json(&view(user))
}

pub async fn put(call: &Call) -> Answer {
    let name = call.name()?;
    check_administrator(call, &name)?;
    let replacement: Replacement = call.json()?;
    let known = call.broker().catalog().user(&name).cloned();
    let is_new = known.is_none();
    let password_hash = match (replacement.password, &known) {
        // Hashes are salted: a new one of the same password would end the user's connections.
        (Some(password), Some(known)) if call.broker().has_password(&name, password.as_bytes()).await => {
            known.password_hash.clone()
        }
        (Some(password), _) => hashed(call, password).await?,
        (None, Some(known)) => known.password_hash.clone(),
        (None, None) => return Err(Failure::invalid("a new user needs a password")),
    };
    let user = User {
        password_hash,
        loopback_only: replacement.loopback_only,
        administrator: replacement.administrator,
        permissions: permissions(replacement.permissions)?,
        options: known.map(|known| known.options.clone()).unwrap_or_default(),
        name,
    };
    let shown = view(&user);
    // What is the same already is fine.
    match call.client.put_user(user).await {
        Ok(()) | Err(Error::Exists) => {}
        Err(error) => return Err(error.into()),
    }
    if is_new { Reply::created(&shown) } else { Reply::json(&shown) }
}

pub async fn delete(call: &Call) -> Answer {
    let name = call.name()?;
    check_administrator(call, &name)?;
    if call.broker().catalog().user(&name).is_none() {
        return Err(unknown(&name));
    }
    call.client.delete_user(&name).await?;
    Ok(Reply::Nothing)
}

fn check_administrator(call: &Call, name: &str) -> Result<(), Failure> {
    if call.client.is_administrator() {
        return Ok(());
    }
    let user = call.client.principal().name();
    let message = format!("user '{user}' is no administrator and may not see or change user '{name}'");
    Err(Failure::new(StatusCode::FORBIDDEN, "denied", message))
}

fn unknown(name: &str) -> Failure {
    Failure::not_found(format!("there is no user '{name}'"))
}

async fn hashed(call: &Call, password: String) -> Result<String, Failure> {
    within("the length of a password in bytes", password.len(), 1, PASSWORD_BYTES_MAX)?;
    Ok(call.broker().hash_password(password.into_bytes()).await?)
}

fn permissions(given: Vec<PermissionView>) -> Result<Vec<Permission>, Failure> {
    within("the number of permissions", given.len(), 0, PERMISSIONS_MAX)?;
    let permission = |p: PermissionView| {
        within("the length of a pattern in bytes", p.namespace.len().max(p.name.len()), 0, Name::BYTES_MAX)?;
        if p.actions.is_empty() {
            return Err(Failure::invalid("a permission has at least one action: configure, read, write"));
        }
        Ok(Permission { namespace: p.namespace, resource: p.resource, name: p.name, actions: p.actions })
    };
    given.into_iter().map(permission).collect()
}

fn view(user: &User) -> View {
    let permission = |p: &Permission| PermissionView {
        namespace: p.namespace.clone(),
        resource: p.resource,
        name: p.name.clone(),
        actions: p.actions.clone(),
    };
    View {
        name: user.name.to_string(),
        loopback_only: user.loopback_only,
        administrator: user.administrator,
        permissions: user.permissions.iter().map(permission).collect(),
    }
}
