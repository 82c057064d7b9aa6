//! Exchanges.

use crate::{
    call::{Answer, Call, Page, Reply, name},
    failure::Failure,
};
use posthaste_engine::catalog::{
    Action, Exchange, ExchangeKind, ExchangeSpec, Options, PREDECLARED, Resource,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Creation {
    name: String,
    #[serde(rename = "type", default = "topic")]
    kind: ExchangeKind,
    #[serde(default = "yes")]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    internal: bool,
    alternate: Option<String>,
}

fn topic() -> ExchangeKind {
    ExchangeKind::Topic
}

fn yes() -> bool {
    true
}

#[derive(Serialize)]
struct View {
    name: String,
    #[serde(rename = "type")]
    kind: ExchangeKind,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    alternate: Option<String>,
    bindings: usize,
}

#[derive(Serialize)]
struct List {
    exchanges: Vec<View>,
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deletion {
    #[serde(default)]
    if_unused: bool,
}

pub fn list(call: &Call) -> Answer {
    let page: Page = call.parameters()?;
    let namespace = call.namespace()?;
    let all = namespace.exchanges.values().filter(|e| call.sees(Resource::Exchange, &e.spec.name));
    let (exchanges, next) = page.cut(all, |e| e.spec.name.as_str())?;
    Reply::json(&List { exchanges: exchanges.into_iter().map(view).collect(), next })
}

pub async fn create(call: &Call) -> Answer {
    let creation: Creation = call.json()?;
    let name = name(&creation.name)?;
    if name.starts_with("amq.") && !PREDECLARED.iter().any(|(known, _)| *known == &*name) {
        return Err(posthaste_broker::Error::Protected.into());
    }
    let spec = ExchangeSpec {
        namespace: call.client.namespace().clone(),
        name: name.clone(),
        kind: creation.kind,
        durable: creation.durable,
        auto_delete: creation.auto_delete,
        internal: creation.internal,
        alternate: creation.alternate.as_deref().map(crate::call::name).transpose()?,
        created_by: None,
        options: Options::new(),
    };
    call.client.create_exchange(spec).await?;
    Reply::created(&view(&call.client.exchange(&name)?))
}

pub fn describe(call: &Call) -> Answer {
    call.check_sees(Resource::Exchange, call.text())?;
    Reply::json(&view(&call.client.exchange(call.text())?))
}

pub async fn delete(call: &Call) -> Answer {
    let Deletion { if_unused } = call.parameters()?;
    let name = call.name()?;
    // First the right: whether there is one is not for everybody to know.
    call.client.may(Action::Configure, Resource::Exchange, &name)?;
    call.client.exchange(&name)?;
    call.client.delete_exchange(&name, if_unused).await.map_err(Failure::from)?;
    Ok(Reply::Nothing)
}

fn view(exchange: &Exchange) -> View {
    let spec = &exchange.spec;
    View {
        name: spec.name.to_string(),
        kind: spec.kind,
        durable: spec.durable,
        auto_delete: spec.auto_delete,
        internal: spec.internal,
        alternate: spec.alternate.as_ref().map(|a| a.to_string()),
        bindings: exchange.bindings_len(),
    }
}
