//! Users and what they may do.

use super::access_keys;
use crate::{
    call::{Answer, Call, Page, Reply, within},
    failure::Failure,
    permission::{self, PermissionView},
    usage::{self, LimitsView, UsageView},
};
use hyper::StatusCode;
use posthaste_broker::{Administration, Error};
use posthaste_engine::catalog::{CREDENTIALS_MAX, Password, UsageLimits, User};
use posthaste_model::Name;
use serde::{Deserialize, Serialize};

/// All that a user is; without a password a known one keeps the one it has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Needed where the path does not say it.
    name: Option<String>,
    password: Option<String>,
    /// The user logs in by other means only.
    #[serde(default)]
    without_password: bool,
    #[serde(default)]
    certificate_names: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    loopback_only: bool,
    #[serde(default)]
    administrator: bool,
    #[serde(default)]
    permissions: Vec<PermissionView>,
    #[serde(default)]
    limits: UsageLimits,
    /// Where it is on listeners that know no namespaces.
    default_namespace: Option<String>,
}

/// Never shows a password or its hash.
#[derive(Serialize)]
struct View {
    name: String,
    has_password: bool,
    certificate_names: Vec<String>,
    access_keys: Vec<access_keys::View>,
    groups: Vec<Name>,
    loopback_only: bool,
    administrator: bool,
    permissions: Vec<PermissionView>,
    limits: LimitsView,
    default_namespace: Option<Name>,
    usage: UsageView,
}

#[derive(Serialize)]
struct List {
    users: Vec<View>,
    next: Option<String>,
}

const PASSWORD_BYTES_MAX: usize = 1_024;
const CERTIFICATE_NAME_BYTES_MAX: usize = 1_024;

pub fn list(call: &Call) -> Answer {
    call.client.may_administer(Administration::Users)?;
    let page: Page = call.parameters()?;
    let catalog = call.broker().catalog();
    let (users, next) = page.cut(catalog.users(), |u| u.name.as_str())?;
    Reply::json(&List { users: users.into_iter().map(|u| view(call, u)).collect(), next })
}

pub async fn create(call: &Call) -> Answer {
    let settings: Settings = call.json()?;
    let name = settings.name.as_deref().ok_or_else(|| Failure::invalid("the user's name is missing"))?;
    let name = crate::call::name(name)?;
    call.client.may_administer(Administration::Users)?;
    if call.broker().catalog().user(&name).is_some() {
        return Err(Failure::new(StatusCode::CONFLICT, "exists", format!("user '{name}' exists already")));
    }
    let user = user(call, name, None, settings).await?;
    let shown = view(call, &user);
    call.client.put_user(user).await?;
    Reply::created(&shown)
}

pub fn describe(call: &Call) -> Answer {
    // Everybody may look at themselves.
    if !call.client.principal().is_user(call.text()) {
        call.client.may_administer(Administration::Users)?;
    }
    let catalog = call.broker().catalog();
    let user = catalog.user(call.text()).ok_or_else(|| unknown(call.text()))?;
    Reply::json(&view(call, user))
}

pub async fn put(call: &Call) -> Answer {
    let name = call.name()?;
    call.client.may_administer(Administration::Users)?;
    let known = call.broker().catalog().user(&name).cloned();
    let user = user(call, name, known.as_deref(), call.json()?).await?;
    let shown = view(call, &user);
    // What is the same already is fine.
    match call.client.put_user(user).await {
        Ok(()) | Err(Error::Exists) => {}
        Err(error) => return Err(error.into()),
    }
    if known.is_none() { Reply::created(&shown) } else { Reply::json(&shown) }
}

pub async fn delete(call: &Call) -> Answer {
    let name = call.name()?;
    call.client.may_administer(Administration::Users)?;
    if call.broker().catalog().user(&name).is_none() {
        return Err(unknown(&name));
    }
    call.client.delete_user(&name).await?;
    Ok(Reply::Nothing)
}

/// The user that is asked for; what cannot be said here stays as it is.
async fn user(call: &Call, name: Name, known: Option<&User>, given: Settings) -> Result<User, Failure> {
    if given.name.is_some_and(|other| *other != *name) {
        return Err(Failure::invalid("a user keeps its name"));
    }
    within("the number of certificate names", given.certificate_names.len(), 0, CREDENTIALS_MAX)?;
    within("the number of groups", given.groups.len(), 0, CREDENTIALS_MAX)?;
    for certificate in &given.certificate_names {
        within("the length of a certificate name", certificate.len(), 1, CERTIFICATE_NAME_BYTES_MAX)?;
    }
    let groups = given.groups.iter().map(|group| crate::call::name(group)).collect::<Result<_, _>>()?;
    let permissions = permission::read(given.permissions)?;
    let default_namespace = given.default_namespace.as_deref().map(crate::call::name).transpose()?;
    let password = match (given.password, known) {
        (Some(_), _) if given.without_password => {
            return Err(Failure::invalid("give either password or without_password"));
        }
        // Verifiers are salted: made anew of the same password, they would end the user's connections.
        (Some(password), Some(known)) if call.broker().has_password(&name, password.as_bytes()).await => {
            known.password.clone()
        }
        (Some(password), _) => hashed(call, password).await?,
        (None, _) if given.without_password => Password::default(),
        (None, Some(known)) => known.password.clone(),
        (None, None) => return Err(Failure::invalid("a new user needs a password, or without_password")),
    };
    let known = known.cloned().unwrap_or_else(|| User::new(name));
    Ok(User {
        password,
        certificate_names: given.certificate_names,
        groups,
        loopback_only: given.loopback_only,
        administrator: given.administrator,
        permissions,
        limits: given.limits,
        default_namespace,
        ..known
    })
}

fn unknown(name: &str) -> Failure {
    Failure::not_found(format!("there is no user '{name}'"))
}

async fn hashed(call: &Call, password: String) -> Result<Password, Failure> {
    within("the length of a password in bytes", password.len(), 1, PASSWORD_BYTES_MAX)?;
    Ok(call.broker().hash_password(password.into_bytes()).await?)
}

fn view(call: &Call, user: &User) -> View {
    View {
        name: user.name.to_string(),
        has_password: user.password.is_set(),
        certificate_names: user.certificate_names.clone(),
        access_keys: access_keys::views(user),
        groups: user.groups.clone(),
        loopback_only: user.loopback_only,
        administrator: user.administrator,
        permissions: permission::show(&user.permissions),
        limits: usage::limits(user.limits),
        default_namespace: user.default_namespace.clone(),
        usage: call.broker().usage_of_user(&user.name).into(),
    }
}
