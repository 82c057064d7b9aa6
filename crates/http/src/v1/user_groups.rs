//! Groups of users, and what their members may do.

use crate::{
    call::{Answer, Call, Page, Reply, name},
    failure::Failure,
    permission::{self, PermissionView},
    usage::{self, LimitsView},
};
use hyper::StatusCode;
use posthaste_broker::Administration;
use posthaste_engine::catalog::{UsageLimits, UserGroup};
use posthaste_model::Name;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Creation {
    name: String,
    #[serde(default)]
    administrator: bool,
    #[serde(default)]
    permissions: Vec<PermissionView>,
    #[serde(default)]
    limits: UsageLimits,
}

/// Replaces a group.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replacement {
    #[serde(default)]
    administrator: bool,
    #[serde(default)]
    permissions: Vec<PermissionView>,
    /// Each member's, where it has none of its own.
    #[serde(default)]
    limits: UsageLimits,
}

#[derive(Serialize)]
struct View {
    name: String,
    administrator: bool,
    permissions: Vec<PermissionView>,
    limits: LimitsView,
}

#[derive(Serialize)]
struct List {
    #[serde(rename = "user-groups")]
    user_groups: Vec<View>,
    next: Option<String>,
}

pub fn list(call: &Call) -> Answer {
    call.client.may_administer(Administration::UserGroups)?;
    let page: Page = call.parameters()?;
    let catalog = call.broker().catalog();
    let (groups, next) = page.cut(catalog.user_groups(), |group| group.name.as_str())?;
    Reply::json(&List { user_groups: groups.into_iter().map(|group| view(group)).collect(), next })
}

pub async fn create(call: &Call) -> Answer {
    let creation: Creation = call.json()?;
    let name = name(&creation.name)?;
    call.client.may_administer(Administration::UserGroups)?;
    if call.broker().catalog().user_group(&name).is_some() {
        let message = format!("user group '{name}' exists already");
        return Err(Failure::new(StatusCode::CONFLICT, "exists", message));
    }
    let Creation { administrator, permissions, limits, .. } = creation;
    let group = group(name, None, Replacement { administrator, permissions, limits })?;
    let shown = view(&group);
    call.client.put_user_group(group).await?;
    Reply::created(&shown)
}

pub fn describe(call: &Call) -> Answer {
    call.client.may_administer(Administration::UserGroups)?;
    let catalog = call.broker().catalog();
    let group = catalog.user_group(call.text()).ok_or_else(|| unknown(call.text()))?;
    Reply::json(&view(group))
}

pub async fn put(call: &Call) -> Answer {
    let name = call.name()?;
    call.client.may_administer(Administration::UserGroups)?;
    let known = call.broker().catalog().user_group(&name).cloned();
    let group = group(name, known.as_deref(), call.json()?)?;
    let shown = view(&group);
    call.client.put_user_group(group).await?;
    if known.is_none() { Reply::created(&shown) } else { Reply::json(&shown) }
}

pub async fn delete(call: &Call) -> Answer {
    let name = call.name()?;
    call.client.may_administer(Administration::UserGroups)?;
    if call.broker().catalog().user_group(&name).is_none() {
        return Err(unknown(&name));
    }
    call.client.delete_user_group(&name).await?;
    Ok(Reply::Nothing)
}

fn group(name: Name, known: Option<&UserGroup>, given: Replacement) -> Result<UserGroup, Failure> {
    let known = known.cloned().unwrap_or_else(|| UserGroup::new(name));
    let permissions = permission::read(given.permissions)?;
    Ok(UserGroup { administrator: given.administrator, permissions, limits: given.limits, ..known })
}

fn unknown(name: &str) -> Failure {
    Failure::not_found(format!("there is no user group '{name}'"))
}

fn view(group: &UserGroup) -> View {
    View {
        name: group.name.to_string(),
        administrator: group.administrator,
        permissions: permission::show(&group.permissions),
        limits: usage::limits(group.limits),
    }
}
