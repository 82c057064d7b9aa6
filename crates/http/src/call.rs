//! One request, read and understood as far as all requests are alike.

use crate::{failure::Failure, forwarded::Forwarders};
use bytes::Bytes;
use posthaste_broker::{
    Broker, Client,
    right::{self, Right},
};
use posthaste_engine::catalog::{Namespace, Resource};
use posthaste_model::Name;
use posthaste_net::Shared;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};
use tokio::sync::{Semaphore, watch};

/// What all requests share.
pub struct Server {
    pub broker: Broker,
    pub shared: Shared,
    pub forwarders: Forwarders,
    pub started: Instant,
    /// Where messages without a key go next.
    pub next_partition: AtomicUsize,
    /// Room for big request bodies, in KiB.
    pub body_room: Arc<Semaphore>,
    /// All of it.
    pub body_room_kib: usize,
}

/// Who asks, for what, with which body.
pub struct Call {
    pub server: Arc<Server>,
    pub client: Client,
    pub body: Bytes,
    names: Vec<String>,
    query: String,
}

/// How an operation answers.
pub enum Reply {
    /// JSON with 200 or 201.
    Json(Vec<u8>),
    Created(Vec<u8>),
    /// 204
    Nothing,
    Text(String, &'static str),
    /// Lines of JSON until either side ends.
    Lines(tokio::sync::mpsc::Receiver<Bytes>),
}

pub type Answer = Result<Reply, Failure>;

/// A page of a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Names up to and including this one were in pages before.
    pub after: Option<String>,
    /// 1 to [`Page::COUNT_MAX`].
    pub count: Option<usize>,
}

impl Call {
    /// `query` is what stands behind the `?`, without `namespace`.
    pub fn new(server: Arc<Server>, client: Client, names: Vec<String>, query: String, body: Bytes) -> Call {
        Call { server, client, body, names, query }
    }

    pub fn broker(&self) -> &Broker {
        &self.server.broker
    }

    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.server.shared.stopping.clone()
    }

    /// The name in the path, as it is known.
    pub fn text(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The second name in the path, as it is known.
    pub fn second_text(&self) -> &str {
        self.names.get(1).map_or("", String::as_str)
    }

    /// The name in the path.
    pub fn name(&self) -> Result<Name, Failure> {
        name(self.text())
    }

    /// The parameters behind the `?`.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_urlencoded::from_str(&self.query)
            .map_err(|e| Failure::invalid(format!("query parameters: {e}")))
    }

    /// The body, or the parameters behind the `?` when there is none.
    pub fn json_or_parameters<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if self.body.is_empty() { self.parameters() } else { self.json() }
    }

    /// The body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|e| Failure::invalid(format!("request body: {e}")))
    }

    /// The names of the caller's namespace at this moment.
    pub fn namespace(&self) -> Result<Arc<Namespace>, Failure> {
        let name = self.client.namespace();
        let found = self.broker().catalog().namespace(name).cloned();
        found.ok_or_else(|| Failure::not_found(format!("there is no namespace '{name}'")))
    }

    /// Whether the caller may know of something: who may do anything with it may.
    pub fn sees(&self, resource: Resource, name: &str) -> bool {
        self.client.may_any(right::See::ACTIONS, resource, name).is_ok()
    }

    /// # Errors
    /// As [`Client::may`], when the caller may do nothing at all with it.
    pub fn check_sees(&self, resource: Resource, name: &str) -> Result<(), Failure> {
        Ok(self.client.may_any(right::See::ACTIONS, resource, name)?)
    }
}

/// A name that a client wrote.
pub fn name(text: &str) -> Result<Name, Failure> {
    Name::new(text).map_err(|error| Failure::invalid(format!("'{}': {error}", shortened(text))))
}

/// Enough of a text to recognise it.
pub fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain("...".chars()).collect()
}

impl Reply {
    pub fn json(value: &impl Serialize) -> Answer {
        Ok(Reply::Json(to_json(value)?))
    }

    pub fn created(value: &impl Serialize) -> Answer {
        Ok(Reply::Created(to_json(value)?))
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut json = serde_json::to_vec(value).map_err(|e| {
        Failure::new(hyper::StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("no JSON: {e}"))
    })?;
    json.push(b'\n');
    Ok(json)
}

impl Page {
    pub const COUNT_DEFAULT: usize = 1_000;
    pub const COUNT_MAX: usize = 10_000;

    pub fn count(&self) -> Result<usize, Failure> {
        within("count", self.count.unwrap_or(Page::COUNT_DEFAULT), 1, Page::COUNT_MAX)
    }

    /// The names on this page, in order, and the last of them when there are more.
    pub fn cut<T>(
        &self,
        all: impl Iterator<Item = T>,
        name: impl Fn(&T) -> &str,
    ) -> Result<(Vec<T>, Option<String>), Failure> {
        let count = self.count()?;
        let after = self.after.as_deref();
        let mut rest = all.skip_while(|item| after.is_some_and(|after| name(item) <= after));
        let page: Vec<T> = rest.by_ref().take(count).collect();
        let more = rest.next().is_some();
        let next = page.last().filter(|_| more).map(|last| name(last).to_owned());
        Ok((page, next))
    }
}

/// # Errors
/// 400 when `value` is not in the range.
pub fn within<T: PartialOrd + std::fmt::Display>(what: &str, value: T, min: T, max: T) -> Result<T, Failure> {
    if value < min || value > max {
        return Err(Failure::invalid(format!("{what} is from {min} to {max}, not {value}")));
    }
    Ok(value)
}
