//! Bindings. One is known by its exchange, its target and its key.

use crate::{
    call::{Answer, Call, Reply, name},
    failure::Failure,
    message::from_json,
};
use bytes::Bytes;
use posthaste_engine::catalog::{Action, Binding, Exchange, ExchangeKind, Matching, Resource, Rule, Target};
use posthaste_model::{Pattern, Syntax};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// Names a binding; as the parameters of a list, each that is given narrows it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    exchange: Option<String>,
    queue: Option<String>,
    to_exchange: Option<String>,
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Creation {
    exchange: String,
    queue: Option<String>,
    to_exchange: Option<String>,
    #[serde(default)]
    key: String,
    /// For exchanges of type headers.
    headers: Option<Map<String, Json>>,
    #[serde(rename = "match")]
    matching: Option<MatchingName>,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum MatchingName {
    All,
    Any,
}

#[derive(Serialize)]
struct View {
    exchange: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_exchange: Option<String>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Map<String, Json>>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    matching: Option<MatchingName>,
}

#[derive(Serialize)]
struct List {
    bindings: Vec<View>,
    /// There are more than are shown; narrow the list.
    truncated: bool,
}

const SHOWN_MAX: usize = 10_000;

pub fn list(call: &Call) -> Answer {
    let selection: Selection = call.parameters()?;
    let namespace = call.namespace()?;
    let exchanges = namespace.exchanges.values().filter(|e| {
        let named = selection.exchange.as_deref().is_none_or(|name| name == &*e.spec.name);
        named && call.sees(Resource::Exchange, &e.spec.name)
    });
    let mut found = exchanges.flat_map(|exchange| {
        let selected = exchange.bindings().filter(|b| selection.matches(b));
        selected.map(|binding| view(exchange, binding)).collect::<Vec<_>>()
    });
    let bindings: Vec<View> = found.by_ref().take(SHOWN_MAX).collect();
    let truncated = found.next().is_some();
    Reply::json(&List { bindings, truncated })
}

pub async fn create(call: &Call) -> Answer {
    let creation: Creation = call.json()?;
    let exchange = readable(call, &creation.exchange)?;
    let target = target(creation.queue.as_deref(), creation.to_exchange.as_deref())?;
    let binding = Binding {
        target,
        rule: rule(&exchange, &creation)?,
        key: creation.key.into(),
        arguments: Bytes::new(),
        durable: true,
        transient: false,
    };
    let shown = view(&exchange, &binding);
    call.client.bind(&exchange.spec.name, binding).await?;
    Reply::created(&shown)
}

pub async fn delete(call: &Call) -> Answer {
    let selection: Selection = call.parameters()?;
    let Some(exchange) = &selection.exchange else { return Err(Failure::invalid("name the exchange")) };
    target(selection.queue.as_deref(), selection.to_exchange.as_deref())?;
    let exchange = readable(call, exchange)?;
    // No key is the empty one, as in creation.
    let selection = Selection { key: Some(selection.key.clone().unwrap_or_default()), ..selection };
    let found: Vec<Arc<Binding>> = exchange.bindings().filter(|b| selection.matches(b)).cloned().collect();
    if found.is_empty() {
        let key = selection.key.unwrap_or_default();
        return Err(Failure::not_found(format!("there is no such binding with the key '{key}'")));
    }
    for binding in found {
        let Binding { target, key, arguments, .. } = (*binding).clone();
        call.client.unbind(&exchange.spec.name, target, key, arguments).await?;
    }
    Ok(Reply::Nothing)
}

/// The exchange, for a caller who may bind to it.
fn readable(call: &Call, name: &str) -> Result<Exchange, Failure> {
    call.client.may(Action::Read, Resource::Exchange, name)?;
    Ok(call.client.exchange(name)?)
}

fn target(queue: Option<&str>, to_exchange: Option<&str>) -> Result<Target, Failure> {
    match (queue, to_exchange) {
        (Some(queue), None) => name(queue).map(Target::Queue),
        (None, Some(exchange)) => name(exchange).map(Target::Exchange),
        _ => Err(Failure::invalid("name the target: either queue or to_exchange")),
    }
}

fn rule(exchange: &Exchange, creation: &Creation) -> Result<Rule, Failure> {
    let kind = exchange.spec.kind;
    if kind != ExchangeKind::Headers && (creation.headers.is_some() || creation.matching.is_some()) {
        return Err(Failure::invalid("headers and match are for exchanges of type headers"));
    }
    Ok(match kind {
        ExchangeKind::Direct => Rule::Exact(creation.key.clone().into()),
        ExchangeKind::Fanout => Rule::All,
        ExchangeKind::Headers => {
            let matching = match creation.matching {
                Some(MatchingName::Any) => Matching::Any,
                Some(MatchingName::All) | None => Matching::All,
            };
            let wanted = creation.headers.clone().unwrap_or_default().into_iter().map(|(name, value)| {
                // To be there is enough.
                let value = if value.is_null() { None } else { Some(from_json(value, 16)?) };
                Ok((name, value))
            });
            Rule::Headers { matching, wanted: wanted.collect::<Result<_, Failure>>()? }
        }
        ExchangeKind::Topic => Rule::Pattern(
            Pattern::parse(&creation.key, Syntax::DOTTED)
                .map_err(|e| Failure::invalid(format!("key: {e}")))?,
        ),
    })
}

impl Selection {
    fn matches(&self, binding: &Binding) -> bool {
        let (queue, exchange) = match &binding.target {
            Target::Queue(name) => (Some(name.as_str()), None),
            Target::Exchange(name) => (None, Some(name.as_str())),
        };
        self.queue.is_none_or_is(queue)
            && self.to_exchange.is_none_or_is(exchange)
            && self.key.as_ref().is_none_or(|key| key.as_bytes() == &binding.key[..])
    }
}

trait Narrows {
    fn is_none_or_is(&self, value: Option<&str>) -> bool;
}

impl Narrows for Option<String> {
    fn is_none_or_is(&self, value: Option<&str>) -> bool {
        self.as_deref().is_none_or(|wanted| value == Some(wanted))
    }
}

fn view(exchange: &Exchange, binding: &Binding) -> View {
    let (queue, to_exchange) = match &binding.target {
        Target::Queue(name) => (Some(name.to_string()), None),
        Target::Exchange(name) => (None, Some(name.to_string())),
    };
    let (headers, matching) = match &binding.rule {
        Rule::Headers { matching, wanted } => {
            let wanted = wanted.iter().map(|(name, value)| {
                (name.clone(), value.clone().map_or(Json::Null, crate::message::to_json))
            });
            let matching = match matching {
                Matching::All => MatchingName::All,
                Matching::Any => MatchingName::Any,
            };
            (Some(wanted.collect()), Some(matching))
        }
        Rule::All | Rule::Exact(_) | Rule::Pattern(_) => (None, None),
    };
    View {
        exchange: exchange.spec.name.to_string(),
        queue,
        to_exchange,
        key: String::from_utf8_lossy(&binding.key).into_owned(),
        headers,
        matching,
    }
}
