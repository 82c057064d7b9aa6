//! Namespaces.

use crate::{
    call::{Answer, Call, Page, Reply, name},
    failure::Failure,
    usage::{self, LimitsView, UsageView},
};
use posthaste_broker::Administration;
use posthaste_engine::catalog::{Action, Namespace, Resource, UsageLimits};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct View {
    name: String,
    topics: usize,
    queues: usize,
    exchanges: usize,
    bindings: usize,
    limits: LimitsView,
    usage: UsageView,
}

#[derive(Serialize)]
struct List {
    namespaces: Vec<View>,
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Creation {
    name: String,
    #[serde(default)]
    limits: UsageLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    limits: Option<UsageLimits>,
}

pub fn list(call: &Call) -> Answer {
    let page: Page = call.parameters()?;
    let catalog = call.broker().catalog();
    let all = catalog.namespaces().filter(|n| call.sees(Resource::Namespace, &n.name));
    let (namespaces, next) = page.cut(all, |n| n.name.as_str())?;
    Reply::json(&List { namespaces: namespaces.into_iter().map(|n| view(call, n)).collect(), next })
}

pub async fn create(call: &Call) -> Answer {
    let creation: Creation = call.json()?;
    let name = name(&creation.name)?;
    if !creation.limits.is_none() {
        call.client.may_administer(Administration::Namespaces)?;
    }
    call.client.create_namespace(&name).await?;
    if !creation.limits.is_none() {
        call.client.limit_namespace(&name, creation.limits).await?;
    }
    let view = find(call, &name)?;
    Reply::created(&view)
}

pub fn describe(call: &Call) -> Answer {
    call.check_sees(Resource::Namespace, call.text())?;
    Reply::json(&find(call, call.text())?)
}

/// `PATCH /v1/namespaces/{name}`: replaces the limits, if they are given.
pub async fn change(call: &Call) -> Answer {
    let name = call.name()?;
    let changes: Changes = call.json()?;
    call.client.may_administer(Administration::Namespaces)?;
    find(call, &name)?;
    if let Some(limits) = changes.limits {
        call.client.limit_namespace(&name, limits).await?;
    }
    Reply::json(&find(call, &name)?)
}

pub async fn delete(call: &Call) -> Answer {
    let name = call.name()?;
    // First the right: whether there is one is not for everybody to know.
    call.client.may(Action::Configure, Resource::Namespace, &name)?;
    find(call, &name)?;
    call.client.delete_namespace(&name).await?;
    Ok(Reply::Nothing)
}

fn find(call: &Call, name: &str) -> Result<View, Failure> {
    let catalog = call.broker().catalog();
    let found = catalog.namespace(name).map(|n| view(call, n));
    found.ok_or_else(|| Failure::not_found(format!("there is no namespace '{name}'")))
}

fn view(call: &Call, namespace: &Namespace) -> View {
    View {
        name: namespace.name.to_string(),
        topics: namespace.topics.len(),
        queues: namespace.queues.len(),
        exchanges: namespace.exchanges.len(),
        bindings: namespace.bindings_len(),
        limits: usage::limits(namespace.limits),
        usage: call.broker().usage_of_namespace(namespace).into(),
    }
}
