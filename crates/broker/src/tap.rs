//! Taps: what is written to a topic whose name is bound on the bus goes on to the bound queues and live
//! readers, once. A tap is a durable cursor; targets recognize what has arrived by partition and offset.

use crate::{
    Broker,
    broker::Shared,
    encode_message, live,
    log::{LogEntry, PartitionLog},
    outbox::{self, Arrivals, Retry},
};
use parking_lot::Mutex;
use posthaste_engine::{
    Command,
    catalog::{BUS, Exchange, Namespace, Partition, Rule, Topic},
    command::Destination,
    effect::Refusal,
};
use posthaste_model::{Envelope, Name, PartitionId, Payload, QueueId, Subject};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};

/// The running taps.
#[derive(Default)]
pub(crate) struct Taps {
    running: Mutex<HashMap<PartitionId, Running>>,
    /// Those that lead nowhere are about to be ended.
    unbound: AtomicBool,
}

struct Running {
    namespace: Name,
    topic: Name,
    task: AbortHandle,
}

/// Sources of arrivals: shards use small numbers, taps their partition's id above this. A tap's numbers are
/// offsets plus one.
pub(crate) const TAPS: u64 = 1 << 63;
const READ_BYTES: usize = 1 << 20;
const RETRY: Duration = Duration::from_millis(200);
/// How long taps that lead nowhere may go on.
const END_WAIT: Duration = Duration::from_millis(200);

impl Taps {
    /// A rule was added to the bus: topics that it matches are tapped from here on, before this returns.
    pub async fn bound(&self, broker: &Broker, namespace: &Name, rule: &Rule) {
        let catalog = broker.catalog();
        let Some(within) = catalog.namespace(namespace) else { return };
        let Rule::Pattern(pattern) = rule else { return };
        let matching = within.topics.values().filter(|topic| pattern.matches(&subject_of(topic)));
        self.begin(broker, matching, &BTreeMap::new()).await;
    }

    /// A topic is new or has more partitions.
    pub async fn topic_changed(&self, broker: &Broker, topic: &Arc<Topic>) {
        let catalog = broker.catalog();
        let bus = catalog.namespace(&topic.namespace).and_then(bus);
        if bus.is_some_and(|bus| bus.matches_any(&subject_of(topic))) {
            self.begin(broker, [topic], &BTreeMap::new()).await;
        }
    }

    /// Something was taken away that a tap may have been for. Taps that lead nowhere end, within moments and
    /// all at once: thousands of queues may go together.
    pub fn unbound(&self, shared: &Arc<Shared>) {
        if self.running.lock().is_empty() || self.unbound.swap(true, Ordering::AcqRel) {
            return;
        }
        let later = Arc::downgrade(shared);
        shared.runtime().spawn(async move {
            tokio::time::sleep(END_WAIT).await;
            if let Some(shared) = later.upgrade() {
                shared.taps.unbound.store(false, Ordering::Release);
                shared.taps.end_unwanted(&shared);
            }
        });
    }

    fn end_unwanted(&self, shared: &Shared) {
        let mut running = self.running.lock();
        // Looked at with the lock held: whoever binds does so in the catalog first and looks here then.
        let catalog = shared.catalog();
        running.retain(|partition, tap| {
            let wanted = catalog.namespace(&tap.namespace).is_some_and(|namespace| {
                let topic = namespace.topics.get(&tap.topic);
                let topic = topic.filter(|topic| topic.partitions.iter().any(|p| p.id == *partition));
                topic.zip(bus(namespace)).is_some_and(|(topic, bus)| bus.matches_any(&subject_of(topic)))
            });
            if !wanted {
                tap.task.abort();
            }
            wanted
        });
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.running.lock().len()
    }

    /// After a start: goes on where the cursors stand.
    pub async fn resume(&self, broker: &Broker, cursors: &BTreeMap<PartitionId, u64>) {
        let catalog = broker.catalog();
        for namespace in catalog.namespaces() {
            let Some(bus) = bus(namespace).filter(|bus| bus.has_bindings()) else { continue };
            let tapped = namespace.topics.values().filter(|topic| bus.matches_any(&subject_of(topic)));
            self.begin(broker, tapped, cursors).await;
        }
    }

    /// Taps all partitions of these topics that are not tapped yet: from a cursor, or else from here on,
    /// which is durable when this returns.
    async fn begin(
        &self,
        broker: &Broker,
        topics: impl IntoIterator<Item = &Arc<Topic>>,
        cursors: &BTreeMap<PartitionId, u64>,
    ) {
        let mut begun = JoinSet::new();
        for topic in topics {
            for partition in topic.partitions.iter().copied() {
                if self.running.lock().contains_key(&partition.id) {
                    continue;
                }
                let cursor = cursors.get(&partition.id).copied();
                // All at once: one sync of the journal serves many.
                begun.spawn(place(broker.clone(), topic.clone(), partition, cursor));
            }
        }
        while let Some(placed) = begun.join_next().await {
            if let Ok(Some((topic, tap, from))) = placed {
                let mut running = self.running.lock();
                // Two may have begun at once.
                running.entry(tap.partition.id).or_insert_with(|| Running {
                    namespace: topic.namespace.clone(),
                    topic: topic.name.clone(),
                    task: broker.shared.runtime().spawn(tap.run(from)).abort_handle(),
                });
            }
        }
    }
}

/// A tap, and where it begins; none if the partition is gone.
async fn place(
    broker: Broker,
    topic: Arc<Topic>,
    partition: Partition,
    cursor: Option<u64>,
) -> Option<(Arc<Topic>, Tap, u64)> {
    let log = broker.shared.logs.find_or_add(partition.id.0);
    let from = match cursor {
        Some(cursor) => cursor,
        None => {
            // Only what is written from now on; also after a crash.
            let to = log.end();
            let command = Command::MoveTap { partition: partition.id, to, durable: true };
            broker.shared.ask(partition.shard, command).await.ok()?;
            to
        }
    };
    let tap = Tap {
        namespace: topic.namespace.clone(),
        subject: subject_of(&topic),
        partition,
        live_from: log.end(),
        log,
        behind: BTreeMap::new(),
        retry: Retry::new(),
        broker,
    };
    Some((topic, tap, from))
}

fn bus(namespace: &Arc<Namespace>) -> Option<&Exchange> {
    namespace.exchanges.get(BUS)
}

fn subject_of(topic: &Topic) -> Subject {
    Subject::dotted(topic.name.as_str().to_owned()).unwrap_or_default()
}

/// What one partition hands on.
struct Tap {
    broker: Broker,
    namespace: Name,
    subject: Subject,
    partition: Partition,
    log: Arc<PartitionLog>,
    /// Live readers are offered what is written from here on: they were not there for what came before the
    /// start.
    live_from: u64,
    /// Queues that are full, and the offset from which on they lack what is handed on. They hold up nobody
    /// else.
    behind: BTreeMap<QueueId, u64>,
    retry: Retry,
}

impl Tap {
    async fn run(mut self, mut cursor: u64) {
        let changed = Arc::new(Notify::new());
        self.log.watch(&changed);
        loop {
            let advanced = self.advance(cursor).await;
            let due = !self.behind.is_empty() && self.retry.is_due();
            let moved = match (advanced, due) {
                (Ok(next), false) => Ok(next),
                (Ok(next), true) => {
                    self.catch_up(next.unwrap_or(cursor)).await.map(|()| next.or(Some(cursor)))
                }
                (Err(error), _) => Err(error),
            };
            match moved {
                Ok(Some(next)) => {
                    cursor = next;
                    // After a start all goes on from where the last queue stands; the others know what they
                    // have.
                    let to = self.behind.values().copied().fold(cursor, u64::min);
                    let (partition, durable) = (self.partition.id, false);
                    self.broker
                        .shared
                        .send(self.partition.shard, Command::MoveTap { partition, to, durable });
                }
                Ok(None) if self.behind.is_empty() => changed.notified().await,
                Ok(None) => {
                    let _ = tokio::time::timeout_at(self.retry.at, changed.notified()).await;
                }
                Err(Stop) => return,
            }
        }
    }

    /// Hands on what comes next; returns where that ends, or nothing if nothing is there.
    async fn advance(&mut self, cursor: u64) -> Result<Option<u64>, Stop> {
        let entries = self.read(cursor).await;
        let Some(end) = entries.last().map(|e| e.offset + u64::from(e.span)) else { return Ok(None) };
        let mut arrivals = Arrivals::new();
        for (number, envelope, payload) in self.messages(&entries, cursor, end) {
            let (queues, live) = outbox::destinations_of_tapped(&self.broker, &self.namespace, &envelope);
            if number > self.live_from {
                live::offer_to(&self.broker, &live, &envelope, &payload);
            }
            let content = (envelope, payload);
            for queue in queues.into_iter().filter(|queue| !self.behind.contains_key(queue)) {
                let at = Destination::Queue(queue);
                outbox::add(&self.broker.catalog(), &mut arrivals, number, at, &content);
            }
        }
        let none_behind = self.behind.is_empty();
        self.deliver(arrivals).await?;
        if none_behind {
            self.retry.again(true);
        }
        Ok(Some(end))
    }

    /// Asks full queues again, each from where it stands up to `cursor`.
    async fn catch_up(&mut self, cursor: u64) -> Result<(), Stop> {
        let mut progress = false;
        for (queue, from) in std::mem::take(&mut self.behind) {
            let entries = self.read(from).await;
            let Some(end) = entries.last().map(|e| (e.offset + u64::from(e.span)).min(cursor)) else {
                continue;
            };
            let mut arrivals = Arrivals::new();
            for (number, envelope, payload) in self.messages(&entries, from, end) {
                let (queues, _) = outbox::destinations_of_tapped(&self.broker, &self.namespace, &envelope);
                // Unbound or deleted meanwhile, it is owed nothing.
                if queues.contains(&queue) {
                    let at = Destination::Queue(queue);
                    outbox::add(&self.broker.catalog(), &mut arrivals, number, at, &(envelope, payload));
                }
            }
            self.deliver(arrivals).await?;
            let reached = self.behind.get(&queue).copied().unwrap_or(end);
            progress |= reached > from;
            if reached < cursor {
                self.behind.insert(queue, reached);
            }
        }
        self.retry.again(progress);
        Ok(())
    }

    /// Hands messages to their queues, and notes which are full. Waits while the disk is full.
    async fn deliver(&mut self, arrivals: Arrivals) -> Result<(), Stop> {
        let source = TAPS | self.partition.id.0;
        for (target, items) in arrivals {
            loop {
                let sent = outbox::deliver(&self.broker, source, target, items.clone()).await;
                let not_taken = sent.map_err(|_| Stop)?;
                if not_taken.iter().any(|refused| refused.refusal == Refusal::NoSpace) {
                    // The others have theirs already, and ignore it the second time.
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                for refused in not_taken.iter().filter(|refused| !outbox::is_final(refused.refusal)) {
                    if let Destination::Queue(queue) = refused.at {
                        self.behind.insert(queue, refused.number - 1);
                    }
                }
                break;
            }
        }
        Ok(())
    }

    async fn read(&self, from: u64) -> Vec<LogEntry> {
        let trimmed = self.log.start().saturating_sub(from);
        if trimmed > 0 {
            self.broker.metrics().dropped.add(trimmed);
            tracing::warn!(
                topic = %self.subject, messages = trimmed,
                "the topic's retention removed messages before all bound queues had them; give the topic a longer \
                 retention, or the queues more room"
            );
        }
        loop {
            match self.log.read(from, READ_BYTES).await {
                Ok(entries) => return entries,
                Err(error) => {
                    tracing::error!(%error, topic = %self.subject, from, "a tap cannot read its topic");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// The messages with offsets in `from..end`, by their numbers. What came from the bus has an envelope and
    /// is left out.
    fn messages(&self, entries: &[LogEntry], from: u64, end: u64) -> Vec<(u64, Envelope, Payload)> {
        let mut found = Vec::new();
        for entry in entries.iter().filter(|entry| entry.envelope.is_none()) {
            let messages = match self.broker.formats().messages(entry.offset, None, &entry.payload) {
                Ok(messages) => messages,
                Err(error) => {
                    self.broker.metrics().unreadable.add(1);
                    tracing::error!(%error, topic = %self.subject, offset = entry.offset, "a batch cannot be shown");
                    continue;
                }
            };
            for (offset, mut message) in messages.into_iter().filter(|(o, _)| (from..end).contains(o)) {
                message.subject = self.subject.clone();
                let mut envelope = Envelope::new(self.subject.clone(), self.broker.now());
                envelope.expires = message.expires;
                envelope.due = message.due;
                envelope.priority = message.priority.unwrap_or(0);
                // 0 stands for nothing.
                found.push((offset + 1, envelope, encode_message(message)));
            }
        }
        found
    }
}

/// The broker is stopping.
struct Stop;
