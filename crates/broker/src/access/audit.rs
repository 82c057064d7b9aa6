//! The audit trail: log-ins, refusals, changes, and reads of payloads by administrators, as CloudEvents 1.0
//! (structured, JSON) in an internal topic that only administrators may read.
//!
//! An event is handed to a task that appends it, so nothing waits for the trail. Events that cannot be kept
//! are counted. No event holds a password, a hash, a token or a payload.

use crate::{
    Error, Principal,
    access::{
        authentication::SYSTEM_NAMESPACE,
        origin::Origin,
        rights::{Writable, right},
    },
    batch::AppendBatch,
    broker::{Broker, Shared},
    client::Client,
    error,
    format::encode_message,
};
use bytes::Bytes;
use posthaste_engine::catalog::{Durability, Partition, Resource, TopicConfig};
use posthaste_model::{Message, Name, Subject, Timestamp};
use serde::Serialize;
use std::{
    borrow::Cow,
    sync::OnceLock,
    time::{Duration, SystemTime},
};
use tokio::sync::{mpsc, oneshot};

/// The topic, in the namespace of the broker's own things.
pub const AUDIT_TOPIC: &str = "audit";
/// Events that wait to be appended; beyond that they are counted as lost.
const WAITING_MAX: usize = 4_096;
/// Events that are appended together.
const TOGETHER_MAX: usize = 256;
/// Events are kept for 30 days, unless `audit_bytes_max` is reached before.
const KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// Takes events, once the broker has begun to keep them.
#[derive(Default)]
pub(crate) struct Audit(OnceLock<mpsc::Sender<Event>>);

/// One event before it is encoded.
pub(crate) struct Event {
    kind: Cow<'static, str>,
    time: Timestamp,
    /// The object that it is about, such as `topic/orders`.
    subject: String,
    data: Data,
}

/// An event's content: names, addresses and reasons only.
#[derive(Default, Serialize)]
#[serde(rename_all = "snake_case")]
struct Data {
    /// The user, `anonymous`, or a part of the broker.
    by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&Origin> for Data {
    fn from(origin: &Origin) -> Data {
        let (listener, peer) = (Some(origin.listener.to_string()), Some(origin.peer.to_string()));
        Data { protocol: Some(origin.protocol), listener, peer, ..Data::default() }
    }
}

/// The envelope, with the attributes' names as CloudEvents has them.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: &'a Data,
}

impl Shared {
    fn audit(&self, kind: impl Into<Cow<'static, str>>, subject: String, data: Data) {
        let Some(sender) = self.audit.0.get() else { return };
        let event = Event { kind: kind.into(), time: self.now(), subject, data };
        if sender.try_send(event).is_err() {
            self.metrics.audit_lost.add(1);
        }
    }

    /// A log-in was refused. `reason` and `user` are no secrets.
    pub(crate) fn audit_refused(&self, origin: &Origin, user: &str, reason: String) {
        let data = Data { by: user.to_owned(), reason: Some(reason), ..Data::from(origin) };
        self.audit("login.refused", format!("user/{user}"), data);
    }

    /// Something was made, changed or deleted; `done` is as in the log.
    pub(crate) fn audit_change(
        &self,
        by: &Principal,
        done: &'static str,
        resource: Resource,
        namespace: &Name,
        name: &str,
    ) {
        let kind = error::lower(&resource);
        let namespace = Some(namespace.to_string());
        let data = Data { by: by.name().to_owned(), namespace, ..Data::default() };
        self.audit(format!("{kind}.{}", done.replace(' ', "-")), format!("{kind}/{name}"), data);
    }

    /// A user or a group of users was made, changed or deleted.
    pub(crate) fn audit_user(&self, by: &Principal, done: &'static str, kind: &'static str, name: &str) {
        // The first user of a new directory is nobody's doing.
        if by.is_broker() {
            return;
        }
        let data = Data { by: by.name().to_owned(), ..Data::default() };
        let kind = kind.replace(' ', "-");
        self.audit(format!("{kind}.{done}"), format!("{kind}/{name}"), data);
    }
}

impl Client {
    /// Notes that this client was let in.
    pub fn audit_log_in(&self, origin: &Origin) {
        let by = self.principal().name().to_owned();
        let subject = format!("user/{by}");
        let data = Data { by, namespace: Some(self.namespace().to_string()), ..Data::from(origin) };
        self.broker().shared.audit("login", subject, data);
    }

    /// Notes that messages of this queue or topic are shown to the client, if it is an administrator: others
    /// have been given the right to read just this.
    pub fn audit_read(&self, resource: Resource, name: &str) {
        if self.is_administrator() {
            let by = self.principal().name().to_owned();
            let data = Data { by, namespace: Some(self.namespace().to_string()), ..Data::default() };
            let kind = error::lower(&resource);
            self.broker().shared.audit("payload.read", format!("{kind}/{name}"), data);
        }
    }
}

/// Appends events to the topic until the broker stops.
pub(crate) async fn keep(broker: Broker) {
    let bytes_max = broker.limits().audit_bytes_max;
    if bytes_max == 0 {
        return;
    }
    let (sender, mut events) = mpsc::channel(WAITING_MAX);
    if broker.shared.audit.0.set(sender).is_err() {
        return;
    }
    let client = Client::system(broker.clone(), Name::constant(SYSTEM_NAMESPACE));
    let mut stopping = broker.stopping();
    let mut number = 0u64;
    loop {
        let mut together = Vec::new();
        tokio::select! {
            _ = events.recv_many(&mut together, TOGETHER_MAX) => {}
            _ = stopping.changed() => return,
        }
        let count = together.len() as u64;
        if let Err(error) = append(&client, bytes_max, &together, number).await {
            broker.metrics().audit_lost.add(count);
            tracing::warn!(%error, events = count, "audit events could not be kept in the topic");
            // Events that come meanwhile are kept when this was for a moment only.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        number += count;
    }
}

async fn append(client: &Client, bytes_max: u64, events: &[Event], number: u64) -> Result<(), Error> {
    let partition = partition(client, bytes_max).await?;
    let broker = client.broker();
    let mut batch = client.batch();
    for (event, number) in events.iter().zip(number..) {
        let body = encode(broker, event, number)?;
        let message = Message {
            subject: Subject::dotted(AUDIT_TOPIC).unwrap_or_default(),
            key: Some(Bytes::from(event.data.by.clone())),
            body: Some(body),
            timestamp: Some(event.time),
            content_type: Some("application/cloudevents+json".to_owned()),
            kind: Some(format!("posthaste.{}", event.kind)),
            durable: true,
            ..Message::default()
        };
        let payload = encode_message(message);
        batch.append(partition, AppendBatch { span: 1, timestamp: event.time, sequence: None, payload });
    }
    let (done, outcome) = oneshot::channel();
    batch.submit(move |outcome| drop(done.send(outcome)));
    let outcome = outcome.await.map_err(|_| Error::Stopping)?;
    match outcome.refused.first() {
        Some((_, refusal)) => Err(Error::Refused(*refusal)),
        None => Ok(()),
    }
}

fn encode(broker: &Broker, event: &Event, number: u64) -> Result<Bytes, Error> {
    let at = Duration::from_millis(u64::try_from(event.time.0).unwrap_or(0));
    let event = CloudEvent {
        specversion: "1.0",
        id: format!("{}-{number}", broker.epoch()),
        source: format!("/posthaste/{}", broker.cluster_id()),
        kind: format!("posthaste.{}", event.kind),
        subject: &event.subject,
        time: humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + at).to_string(),
        datacontenttype: "application/json",
        data: &event.data,
    };
    let body = serde_json::to_vec(&event).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(Bytes::from(body))
}

/// Where events go; made if need be.
async fn partition(client: &Client, bytes_max: u64) -> Result<Writable<Partition>, Error> {
    if let Ok(topic) = client.topic_to::<right::Write>(AUDIT_TOPIC) {
        return topic.partition(0).ok_or(Error::Gone);
    }
    let made = |result: Result<(), Error>| match result {
        Ok(()) | Err(Error::Exists) => Ok(()),
        Err(error) => Err(error),
    };
    made(client.create_namespace(&Name::constant(SYSTEM_NAMESPACE)).await)?;
    let config = TopicConfig {
        retention_ms: Some(KEPT_MS),
        retention_bytes: Some(bytes_max),
        durability: Durability::Os,
        ..TopicConfig::default()
    };
    made(client.create_topic(&Name::constant(AUDIT_TOPIC), 1, config).await.map(drop))?;
    client.topic_to::<right::Write>(AUDIT_TOPIC)?.partition(0).ok_or(Error::Gone)
}
