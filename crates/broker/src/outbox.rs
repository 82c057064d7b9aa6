//! What leaves a shard for another one: read, routed, sent, and only then forgotten where it came from.

use crate::{
    Broker, Error,
    batch::partition_for,
    client::Client,
    live,
    log::{LogEntry, ReadError},
};
use posthaste_engine::{
    Command,
    catalog::{Headers, Queue, Routes},
    command::{Append, Arrival, Enqueue},
    effect::{OutboxEntry, OutboxItem},
};
use posthaste_model::{Death, DeathReason, Envelope, Message, Name, Payload, QueueId, ShardId, Value};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::mpsc;

/// Numbered messages on their way to other shards.
pub(crate) type Arrivals = BTreeMap<ShardId, Vec<(u64, Arrival)>>;

/// Entries sent at a time.
const ENTRIES: usize = 128;
const RETRY: Duration = Duration::from_millis(100);
/// After the disk failed to read.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Subjects of past deaths may take this much in an envelope.
const DEATH_BYTES_MAX: usize = 64 << 10;

/// Sends on the outbox of one shard, in order.
pub(crate) async fn pump(broker: Broker, shard: ShardId, mut entries: mpsc::UnboundedReceiver<OutboxEntry>) {
    let mut next = Vec::new();
    while entries.recv_many(&mut next, ENTRIES).await > 0 {
        let Some(last) = next.last().map(|entry| entry.number) else { continue };
        let mut arrivals = Arrivals::new();
        for entry in next.drain(..) {
            route_entry(&broker, entry, &mut arrivals).await;
        }
        if deliver(&broker, u64::from(shard.0), arrivals).await.is_err() {
            return;
        }
        broker.shared.send(shard, Command::OutboxDone { number: last });
    }
}

/// Hands messages to their shards until they have them. An error means that the broker is stopping.
pub(crate) async fn deliver(broker: &Broker, source: u64, arrivals: Arrivals) -> Result<(), Error> {
    for (target, items) in arrivals {
        loop {
            let command = Command::Arrive { source, items: items.clone() };
            match broker.shared.ask(target, command).await {
                Ok(_) => break,
                // Nothing of this source may overtake it, so it is tried again until there is room.
                Err(error) if Broker::refusal_retry(&error) => tokio::time::sleep(RETRY).await,
                Err(Error::Stopping) => return Err(Error::Stopping),
                Err(error) => {
                    tracing::error!(%error, target = target.0, "messages could not be handed on");
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn route_entry(broker: &Broker, entry: OutboxEntry, arrivals: &mut Arrivals) {
    match entry.item {
        OutboxItem::Relay { namespace, exchange, envelope, mut payload, body } => {
            payload.body = body;
            route(broker, &namespace, exchange.as_deref(), envelope, payload, entry.number, arrivals);
        }
        OutboxItem::DeadLetter { queue, stream, offset, reason, .. } => {
            let Some(source) = broker.catalog().queue_by_id(queue).cloned() else { return };
            match read_patiently(broker, stream, offset).await {
                Some(LogEntry { offset: at, envelope: Some(envelope), payload, .. }) if at == offset => {
                    dead_letter(broker, &source, reason, envelope, payload, entry.number, arrivals);
                }
                _ => {
                    broker.metrics().unreadable.add(1);
                    tracing::error!(queue = %source.name, offset, "a message to be dead-lettered cannot be read");
                }
            }
        }
    }
}

/// The entry at an offset. A disk that fails to read is asked again until it does: the message leaves its queue only
/// with its content.
async fn read_patiently(broker: &Broker, stream: u64, offset: u64) -> Option<LogEntry> {
    let log = broker.shared.logs.find(stream)?;
    loop {
        match log.read(offset, 1).await {
            Ok(entries) => return entries.into_iter().next(),
            Err(ReadError::Gone) => return None,
            Err(error) => tracing::error!(stream, offset, %error, "a message is not dead-lettered yet"),
        }
        tokio::time::sleep(READ_AGAIN).await;
    }
}

/// A message without durability that was dead-lettered: at most once, as it was promised.
pub(crate) async fn dead_letter_now(
    broker: &Broker,
    queue: QueueId,
    reason: DeathReason,
    envelope: Envelope,
    payload: Payload,
) {
    let Some(source) = broker.catalog().queue_by_id(queue).cloned() else { return };
    let mut arrivals = Arrivals::new();
    dead_letter(broker, &source, reason, envelope, payload, 0, &mut arrivals);
    for (shard, items) in arrivals {
        for (_, item) in items {
            broker.shared.send(
                shard,
                match item {
                    Arrival::Append(append) => Command::Append(append),
                    Arrival::Enqueue(enqueue) => Command::Enqueue(enqueue),
                    Arrival::Retain { namespace, envelope, payload } => {
                        Command::Retain { namespace, envelope, payload }
                    }
                },
            );
        }
    }
}

fn dead_letter(
    broker: &Broker,
    source: &Queue,
    reason: DeathReason,
    mut envelope: Envelope,
    payload: Payload,
    number: u64,
    arrivals: &mut Arrivals,
) {
    let Some(target) = &source.config.dead_letter else { return };
    if circles(&envelope, source, reason) || envelope.deaths.len() >= broker.limits().deaths_max {
        tracing::warn!(queue = %source.name, "a dead-lettered message came back to its queue and was dropped");
        broker.metrics().dropped.add(1);
        return;
    }
    record_death(broker, &mut envelope, source, reason);
    envelope.expires = None;
    envelope.due = None;
    if let Some(subject) = &target.subject {
        envelope.subject = subject.clone();
    }
    broker.metrics().dead_lettered.add(1);
    route(broker, &source.namespace, target.exchange.as_deref(), envelope, payload, number, arrivals);
}

/// A message that comes back to a queue without anybody having rejected it would go round for ever.
fn circles(envelope: &Envelope, source: &Queue, reason: DeathReason) -> bool {
    reason != DeathReason::Rejected
        && envelope.deaths.iter().any(|d| d.queue == source.name)
        && envelope.deaths.iter().all(|d| d.reason != DeathReason::Rejected)
}

fn record_death(broker: &Broker, envelope: &mut Envelope, source: &Queue, reason: DeathReason) {
    let known = envelope.deaths.iter().position(|d| d.queue == source.name && d.reason == reason);
    let death = match known {
        Some(at) => {
            let mut death = envelope.deaths.remove(at);
            death.count = death.count.saturating_add(1);
            death
        }
        None => Death {
            queue: source.name.clone(),
            reason,
            count: 1,
            first: broker.now(),
            exchange: came_through(broker, envelope, source),
            subject: envelope.subject.clone(),
        },
    };
    envelope.deaths.insert(0, death);
    let mut bytes = 0;
    envelope.deaths.retain(|death| {
        bytes += death.subject.parts().0.len() + death.queue.len();
        bytes <= DEATH_BYTES_MAX
    });
}

/// The exchange that led a message here, if it was dead-lettered before; else its payload's format knows.
fn came_through(broker: &Broker, envelope: &Envelope, source: &Queue) -> Option<Name> {
    let last = envelope.deaths.first()?;
    let catalog = broker.catalog();
    let queue = catalog.namespace(&source.namespace)?.queues.get(&last.queue)?;
    queue.config.dead_letter.as_ref()?.exchange.clone()
}

/// Finds where a message goes and puts it on its way.
pub(crate) fn route(
    broker: &Broker,
    namespace: &Name,
    exchange: Option<&str>,
    envelope: Envelope,
    payload: Payload,
    number: u64,
    arrivals: &mut Arrivals,
) {
    let catalog = broker.catalog();
    let Some(within) = catalog.namespace(namespace) else { return };
    let client = Client::system(broker.clone(), namespace.clone());
    let headers = LazyHeaders { broker, envelope: &envelope, payload: &payload, message: Default::default() };
    let mut routes = Routes::default();
    catalog.route(within, exchange, &envelope.subject, &headers, &mut routes);
    add_queues(&client, &routes, &envelope, &payload, number, arrivals);
    for topic in &routes.topics {
        let partition = partition_for(&client, topic, &envelope, &payload);
        let append = Append {
            partition: partition.id,
            span: 1,
            timestamp: envelope.received,
            sequence: None,
            envelope: Some(envelope.clone()),
            payload: payload.clone(),
        };
        arrivals.entry(partition.shard).or_default().push((number, Arrival::Append(append)));
    }
}

/// As [`route`], for a message that comes from a topic: to queues and live readers only, since captures never
/// republish.
pub(crate) fn route_to_queues(
    broker: &Broker,
    namespace: &Name,
    envelope: Envelope,
    payload: Payload,
    number: u64,
    arrivals: &mut Arrivals,
) {
    let catalog = broker.catalog();
    let Some(within) = catalog.namespace(namespace) else { return };
    let client = Client::system(broker.clone(), namespace.clone());
    let mut routes = Routes::default();
    catalog.route_from_topic(within, &envelope.subject, &mut routes);
    add_queues(&client, &routes, &envelope, &payload, number, arrivals);
}

fn add_queues(
    client: &Client,
    routes: &Routes,
    envelope: &Envelope,
    payload: &Payload,
    number: u64,
    arrivals: &mut Arrivals,
) {
    live::offer(client, routes, envelope, payload);
    for route in routes.queues.iter().filter(|route| !route.transient) {
        let enqueue = Enqueue { queue: route.queue.id, envelope: envelope.clone(), payload: payload.clone() };
        arrivals.entry(route.queue.shard).or_default().push((number, Arrival::Enqueue(enqueue)));
    }
}

/// Converts the message only if an exchange asks for its headers.
struct LazyHeaders<'a> {
    broker: &'a Broker,
    envelope: &'a Envelope,
    payload: &'a Payload,
    message: std::cell::OnceCell<Option<Message>>,
}

impl Headers for LazyHeaders<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        let convert = || self.broker.formats().message(self.envelope, self.payload).ok();
        let message = self.message.get_or_init(convert).as_ref()?;
        message.headers.iter().find(|h| h.name == name).map(|h| h.value.clone())
    }
}
