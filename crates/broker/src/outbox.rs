//! What leaves a shard for another one: read, routed, sent, and only then forgotten where it came from.
//!
//! Where an entry goes is decided once, and durable before it is sent, so that an entry that is sent again
//! goes where it went. A destination takes entries in the order of their numbers: one that is full holds up
//! what comes behind for itself, in its sources, and nothing else.

use crate::{
    Broker, Error,
    batch::partition_for,
    live,
    log::{LogEntry, ReadError},
};
use posthaste_engine::{
    Catalog, Command, DESTINATIONS_MAX, Reply,
    catalog::{Headers, Queue, Routes},
    command::{Append, Arrival, Destination, Enqueue},
    effect::{DeadLetterFrom, NotTaken, OutboxEntry, OutboxItem, Refusal},
    planted::{self, Bug},
};
use posthaste_model::{Death, DeathReason, Envelope, Message, Name, Payload, QueueId, ShardId, Value};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Numbered messages on their way to other shards.
pub(crate) type Arrivals = BTreeMap<ShardId, Vec<(u64, Arrival)>>;

/// Entries sent at a time.
const ENTRIES: usize = 128;
/// A full destination is asked again so often, and less often the longer it is full.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// After the disk failed to read.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Subjects of past deaths may take this much in an envelope.
const DEATH_BYTES_MAX: usize = 64 << 10;

/// Sends on the outbox of one shard until the broker stops.
pub(crate) async fn pump(broker: Broker, shard: ShardId, mut entries: mpsc::UnboundedReceiver<OutboxEntry>) {
    let mut pump = Pump {
        broker,
        shard,
        unfinished: BTreeMap::new(),
        held_up: BTreeMap::new(),
        told: BTreeSet::new(),
        retry: Retry::new(),
        done: Vec::new(),
    };
    let mut next = Vec::new();
    loop {
        let received = entries.recv_many(&mut next, ENTRIES);
        let taken = match pump.held_up.is_empty() {
            true => Some(received.await),
            false => tokio::time::timeout_at(pump.retry.at, received).await.ok(),
        };
        if taken == Some(0) {
            return;
        }
        let held_up = !pump.held_up.is_empty();
        let mut sent = pump.send(std::mem::take(&mut next)).await;
        if !held_up {
            pump.retry.again(true);
        }
        if sent.is_ok() && !pump.held_up.is_empty() && pump.retry.is_due() {
            sent = pump.send_held_up().await;
        }
        if sent.is_err() {
            return;
        }
        pump.forget_done();
    }
}

/// When destinations are asked again that took nothing.
pub(crate) struct Retry {
    pub at: Instant,
    wait: Duration,
}

impl Retry {
    pub fn new() -> Retry {
        Retry { at: Instant::now(), wait: RETRY }
    }

    pub fn is_due(&self) -> bool {
        self.at <= Instant::now()
    }

    /// Waits again: longer if nothing was taken this time.
    pub fn again(&mut self, progress: bool) {
        self.wait = if progress { RETRY } else { (self.wait * 2).min(RETRY_MAX) };
        self.at = Instant::now() + self.wait;
    }
}

/// The outbox of one shard, as it is being sent.
struct Pump {
    broker: Broker,
    shard: ShardId,
    unfinished: BTreeMap<u64, Unfinished>,
    /// Numbers that wait for a destination, in order.
    held_up: BTreeMap<Destination, VecDeque<u64>>,
    /// Destinations whose being held up was logged.
    told: BTreeSet<Destination>,
    retry: Retry,
    /// Numbers that have arrived wherever they go.
    done: Vec<u64>,
}

struct Unfinished {
    entry: OutboxEntry,
    /// Destinations that do not have it yet.
    left: usize,
}

/// A message as it is sent.
type Content = (Envelope, Payload);

impl Pump {
    /// Routes entries and sends them to all destinations that are not held up.
    async fn send(&mut self, entries: Vec<OutboxEntry>) -> Result<(), Error> {
        let mut contents: Vec<(u64, Content, Vec<Destination>)> = Vec::with_capacity(entries.len());
        let mut routes = Vec::new();
        for mut entry in entries {
            let number = entry.number;
            let Some(content) = self.content(&entry).await else {
                self.done.push(number);
                continue;
            };
            let to = match entry.to.take() {
                Some(mut to) => {
                    if planted::strikes(Bug::RouteAnew) && matches!(entry.item, OutboxItem::Relay { .. }) {
                        let (envelope, payload) = &content;
                        let namespace = Name::constant("default");
                        (to, _) =
                            destinations(&self.broker, &namespace, Some("amq.topic"), envelope, payload);
                    }
                    live::offer_to(&self.broker, &entry.live, &content.0, &content.1);
                    to
                }
                None => {
                    let to = self.route(&entry, &content);
                    if !to.is_empty() && to.len() <= DESTINATIONS_MAX {
                        routes.push((number, to.clone()));
                    }
                    to
                }
            };
            if to.is_empty() {
                self.done.push(number);
                continue;
            }
            self.unfinished.insert(number, Unfinished { entry, left: to.len() });
            self.broker.metrics().outbox.add(1);
            contents.push((number, content, to));
        }
        if !routes.is_empty() {
            self.broker.shared.ask(self.shard, Command::RouteOutbox { routes }).await?;
        }
        let mut arrivals = Arrivals::new();
        let catalog = self.broker.catalog();
        for (number, content, to) in contents {
            for at in to {
                match self.held_up.get_mut(&at) {
                    Some(numbers) => numbers.push_back(number),
                    None => add(&catalog, &mut arrivals, number, at, &content),
                }
            }
        }
        self.deliver(arrivals).await
    }

    /// Asks destinations again that took nothing the last time.
    async fn send_held_up(&mut self) -> Result<(), Error> {
        let before: usize = self.held_up.values().map(VecDeque::len).sum();
        let held_up = std::mem::take(&mut self.held_up);
        for (at, mut numbers) in held_up {
            let mut arrivals = Arrivals::new();
            let catalog = self.broker.catalog();
            for number in numbers.drain(..numbers.len().min(ENTRIES)) {
                let content = match self.unfinished.get(&number) {
                    Some(unfinished) => self.content(&unfinished.entry).await,
                    None => None,
                };
                match content {
                    Some(content) => add(&catalog, &mut arrivals, number, at, &content),
                    None => self.arrived(number),
                }
            }
            self.deliver(arrivals).await?;
            if !numbers.is_empty() {
                self.held_up.entry(at).or_default().append(&mut numbers);
            }
        }
        let left: usize = self.held_up.values().map(VecDeque::len).sum();
        self.retry.again(left < before);
        self.told.retain(|at| self.held_up.contains_key(at));
        Ok(())
    }

    /// Hands arrivals to their shards, and notes which destinations took what.
    async fn deliver(&mut self, arrivals: Arrivals) -> Result<(), Error> {
        for (target, items) in arrivals {
            let numbers: Vec<(u64, Destination)> =
                items.iter().map(|(number, item)| (*number, item.destination())).collect();
            let not_taken = deliver(&self.broker, u64::from(self.shard.0), target, items).await?;
            for (number, at) in numbers {
                match not_taken.iter().find(|refused| refused.at == at && number >= refused.number) {
                    None => self.arrived(number),
                    Some(refused) if is_final(refused.refusal) => {
                        // It was deleted meanwhile, and what it would have held with it.
                        self.broker.metrics().unroutable.add(1);
                        self.arrived(number);
                    }
                    Some(refused) => self.hold_up(number, at, refused.refusal),
                }
            }
        }
        Ok(())
    }

    fn hold_up(&mut self, number: u64, at: Destination, refusal: Refusal) {
        self.held_up.entry(at).or_default().push_back(number);
        if self.told.insert(at) {
            let place = crate::damage::object_of(&self.broker.catalog(), id_of(at));
            let place = place.map_or_else(|| format!("{at:?}"), |object| object.to_string());
            let why = Error::from(refusal);
            tracing::warn!(
                "{place} takes no message from another queue or session now ({why}); it is asked again until it does"
            );
        }
    }

    /// One destination has it, or will never have it.
    fn arrived(&mut self, number: u64) {
        let Some(unfinished) = self.unfinished.get_mut(&number) else { return };
        unfinished.left -= 1;
        if unfinished.left == 0 {
            self.unfinished.remove(&number);
            self.broker.metrics().outbox.add(-1);
            self.done.push(number);
        }
    }

    fn forget_done(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let mut numbers = std::mem::take(&mut self.done);
        numbers.sort_unstable();
        self.broker.shared.send(self.shard, Command::OutboxDone { numbers });
    }

    /// The message as it is sent; none if it can never be sent.
    async fn content(&self, entry: &OutboxEntry) -> Option<Content> {
        match &entry.item {
            OutboxItem::Relay { envelope, payload, body } => {
                let payload = Payload { body: body.clone(), ..payload.clone() };
                Some((envelope.clone(), payload))
            }
            OutboxItem::DeadLetter { stream, offset, reason, .. } => {
                let read = read_patiently(&self.broker, *stream, *offset).await;
                let (Some(from), Some(LogEntry { offset: at, envelope: Some(envelope), payload, .. })) =
                    (&entry.from, read)
                else {
                    return self.unreadable(entry, *offset);
                };
                if at != *offset {
                    return self.unreadable(entry, *offset);
                }
                dead_letter(&self.broker, from, *reason, envelope).map(|envelope| (envelope, payload))
            }
        }
    }

    fn unreadable(&self, entry: &OutboxEntry, offset: u64) -> Option<Content> {
        self.broker.metrics().unreadable.add(1);
        let queue = entry.from.as_ref().map_or("a deleted queue", |from| &from.queue);
        tracing::error!(queue, offset, "a message to be dead-lettered cannot be read");
        None
    }

    /// Where a dead letter goes that was not sent before.
    fn route(&self, entry: &OutboxEntry, (envelope, payload): &Content) -> Vec<Destination> {
        let Some(from) = &entry.from else { return Vec::new() };
        let (to, live) =
            destinations(&self.broker, &from.namespace, from.target.exchange.as_deref(), envelope, payload);
        live::offer_to(&self.broker, &live, envelope, payload);
        match to.is_empty() && live.is_empty() {
            true => self.broker.metrics().unroutable.add(1),
            false => self.broker.metrics().dead_lettered.add(1),
        }
        to
    }
}

/// Whether a destination will refuse it however often it is asked.
pub(crate) fn is_final(refusal: Refusal) -> bool {
    !matches!(refusal, Refusal::Full | Refusal::NoSpace)
}

/// Hands messages to a shard; returns which destinations did not take theirs. An error means that the broker
/// is stopping.
pub(crate) async fn deliver(
    broker: &Broker,
    source: u64,
    target: ShardId,
    items: Vec<(u64, Arrival)>,
) -> Result<Vec<NotTaken>, Error> {
    match broker.shared.ask(target, Command::Arrive { source, items }).await? {
        Reply::Arrived(not_taken) => Ok(not_taken),
        _ => Err(Error::Stopping),
    }
}

/// Puts a message on its way to a destination.
pub(crate) fn add(
    catalog: &Catalog,
    arrivals: &mut Arrivals,
    number: u64,
    at: Destination,
    (envelope, payload): &Content,
) {
    let (envelope, payload) = (envelope.clone(), payload.clone());
    let item = match at {
        Destination::Queue(queue) => Arrival::Enqueue(Enqueue { queue, envelope, payload }),
        Destination::Partition(partition) => Arrival::Append(Append {
            partition,
            span: 1,
            timestamp: envelope.received,
            sequence: None,
            envelope: Some(envelope),
            payload,
        }),
    };
    arrivals.entry(catalog.place(id_of(at))).or_default().push((number, item));
}

fn id_of(at: Destination) -> u64 {
    match at {
        Destination::Queue(queue) => queue.0,
        Destination::Partition(partition) => partition.0,
    }
}

/// The entry at an offset. A disk that fails to read is asked again until it does: the message leaves its
/// queue only with its content.
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
pub(crate) fn dead_letter_now(
    broker: &Broker,
    from: &DeadLetterFrom,
    reason: DeathReason,
    envelope: Envelope,
    payload: Payload,
) {
    let Some(envelope) = dead_letter(broker, from, reason, envelope) else { return };
    let (to, live) =
        destinations(broker, &from.namespace, from.target.exchange.as_deref(), &envelope, &payload);
    live::offer_to(broker, &live, &envelope, &payload);
    match to.is_empty() && live.is_empty() {
        true => broker.metrics().unroutable.add(1),
        false => broker.metrics().dead_lettered.add(1),
    }
    let (mut arrivals, content) = (Arrivals::new(), (envelope, payload));
    to.into_iter().for_each(|at| add(&broker.catalog(), &mut arrivals, 0, at, &content));
    for (shard, items) in arrivals {
        for (_, item) in items {
            broker.shared.send(
                shard,
                match item {
                    Arrival::Append(append) => Command::Append(append),
                    Arrival::Enqueue(enqueue) => Command::Enqueue(enqueue),
                },
            );
        }
    }
}

/// The envelope under which a message leaves its queue; none if it would go round for ever.
fn dead_letter(
    broker: &Broker,
    from: &DeadLetterFrom,
    reason: DeathReason,
    mut envelope: Envelope,
) -> Option<Envelope> {
    if circles(&envelope, from, reason) || envelope.deaths.len() >= broker.limits().deaths_max {
        tracing::warn!(queue = %from.queue, "a dead-lettered message came back to its queue and was dropped");
        broker.metrics().dropped.add(1);
        return None;
    }
    record_death(broker, &mut envelope, from, reason);
    envelope.expires = None;
    envelope.due = None;
    if let Some(subject) = &from.target.subject {
        envelope.subject = subject.clone();
    }
    Some(envelope)
}

/// A message that comes back to a queue without anybody having rejected it would go round for ever.
fn circles(envelope: &Envelope, from: &DeadLetterFrom, reason: DeathReason) -> bool {
    reason != DeathReason::Rejected
        && envelope.deaths.iter().any(|d| d.queue == from.queue)
        && envelope.deaths.iter().all(|d| d.reason != DeathReason::Rejected)
}

fn record_death(broker: &Broker, envelope: &mut Envelope, from: &DeadLetterFrom, reason: DeathReason) {
    let known = envelope.deaths.iter().position(|d| d.queue == from.queue && d.reason == reason);
    let death = match known {
        Some(at) => {
            let mut death = envelope.deaths.remove(at);
            death.count = death.count.saturating_add(1);
            death
        }
        None => Death {
            queue: from.queue.clone(),
            reason,
            count: 1,
            first: broker.now(),
            exchange: came_through(broker, envelope, &from.namespace),
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
fn came_through(broker: &Broker, envelope: &Envelope, namespace: &Name) -> Option<Name> {
    let last = envelope.deaths.first()?;
    let catalog = broker.catalog();
    let queue: &Queue = catalog.namespace(namespace)?.queues.get(&last.queue)?;
    queue.config.dead_letter.as_ref()?.exchange.clone()
}

/// Where a message goes: places that keep it, and queues of live readers.
pub(crate) fn destinations(
    broker: &Broker,
    namespace: &Name,
    exchange: Option<&str>,
    envelope: &Envelope,
    payload: &Payload,
) -> (Vec<Destination>, Vec<QueueId>) {
    let catalog = broker.catalog();
    let Some(within) = catalog.namespace(namespace) else { return Default::default() };
    let headers = LazyHeaders { broker, envelope, payload, message: Default::default() };
    let mut routes = Routes::default();
    catalog.route(within, exchange, &envelope.subject, &headers, &mut routes);
    let (live, queues): (Vec<_>, Vec<_>) = routes.queues.iter().partition(|route| route.transient);
    let mut to: Vec<Destination> = queues.iter().map(|route| Destination::Queue(route.queue.id)).collect();
    for topic in &routes.topics {
        to.push(Destination::Partition(partition_for(broker, topic, envelope, payload).id));
    }
    (to, live.iter().map(|route| route.queue.id).collect())
}

/// As [`destinations`], for a message that comes from a topic: queues and live readers only, since captures
/// never republish.
pub(crate) fn destinations_of_tapped(
    broker: &Broker,
    namespace: &Name,
    envelope: &Envelope,
) -> (Vec<QueueId>, Vec<QueueId>) {
    let catalog = broker.catalog();
    let Some(within) = catalog.namespace(namespace) else { return Default::default() };
    let mut routes = Routes::default();
    catalog.route_from_topic(within, &envelope.subject, &mut routes);
    let (live, queues): (Vec<_>, Vec<_>) = routes.queues.iter().partition(|route| route.transient);
    let ids =
        |routes: Vec<&posthaste_engine::catalog::QueueRoute>| routes.iter().map(|r| r.queue.id).collect();
    (ids(queues), ids(live))
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
