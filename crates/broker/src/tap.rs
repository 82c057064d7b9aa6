//! Taps: what is written to a topic whose name is bound on the bus goes on to the bound queues and live readers,
//! once. A tap is a durable cursor; targets recognize what has arrived by partition and offset.

use crate::{
    Broker, encode_message,
    log::{LogEntry, PartitionLog},
    outbox::{self, Arrivals},
};
use parking_lot::Mutex;
use posthaste_engine::{
    Command,
    catalog::{BUS, Exchange, Namespace, Partition, Rule, Topic},
};
use posthaste_model::{Envelope, Name, PartitionId, Subject};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle};

/// The running taps.
#[derive(Default)]
pub(crate) struct Taps {
    running: Mutex<HashMap<PartitionId, Running>>,
}

struct Running {
    namespace: Name,
    topic: Name,
    task: AbortHandle,
}

/// Sources of arrivals: shards use small numbers, taps their partition's id above this.
const TAPS: u64 = 1 << 63;
const READ_BYTES: usize = 1 << 20;
const RETRY: Duration = Duration::from_millis(200);

impl Taps {
    /// A rule was added to the bus: topics that it matches are tapped from here on, before this returns.
    pub async fn bound(&self, broker: &Broker, namespace: &Name, rule: &Rule) {
        let catalog = broker.catalog();
        let Some(within) = catalog.namespace(namespace) else { return };
        let Rule::Pattern(pattern) = rule else { return };
        let matching: Vec<Arc<Topic>> =
            within.topics.values().filter(|t| pattern.matches(&subject_of(t))).cloned().collect();
        for topic in matching {
            self.begin(broker, &topic, None).await;
        }
    }

    /// A topic is new or has more partitions.
    pub async fn topic_changed(&self, broker: &Broker, topic: &Topic) {
        let catalog = broker.catalog();
        let bound = catalog
            .namespace(&topic.namespace)
            .and_then(bus)
            .is_some_and(|bus| bus.matches_any(&subject_of(topic)));
        if bound {
            self.begin(broker, topic, None).await;
        }
    }

    /// A rule was removed from the bus: taps that lead nowhere end.
    pub fn unbound(&self, broker: &Broker) {
        let catalog = broker.catalog();
        self.running.lock().retain(|_, tap| {
            let topic =
                catalog.namespace(&tap.namespace).and_then(|n| n.topics.get(&tap.topic).map(|t| (n, t)));
            let wanted = topic.is_some_and(|(namespace, topic)| {
                bus(namespace).is_some_and(|bus| bus.matches_any(&subject_of(topic)))
            });
            if !wanted {
                tap.task.abort();
            }
            wanted
        });
    }

    /// After a start: goes on where the cursors stand.
    pub async fn resume(&self, broker: &Broker, cursors: &BTreeMap<PartitionId, u64>) {
        let catalog = broker.catalog();
        for namespace in catalog.namespaces() {
            let Some(bus) = bus(namespace).filter(|bus| bus.has_bindings()) else { continue };
            for topic in namespace.topics.values().filter(|t| bus.matches_any(&subject_of(t))) {
                self.begin(broker, topic, Some(cursors)).await;
            }
        }
    }

    async fn begin(&self, broker: &Broker, topic: &Topic, cursors: Option<&BTreeMap<PartitionId, u64>>) {
        for partition in &topic.partitions {
            if self.running.lock().contains_key(&partition.id) {
                continue;
            }
            let log = broker.shared.logs.find_or_add(partition.id.0);
            let from = match cursors.and_then(|cursors| cursors.get(&partition.id)) {
                Some(cursor) => *cursor,
                None => {
                    // Only what is written from now on; also after a crash.
                    let end = log.end();
                    let command = Command::MoveTap { partition: partition.id, to: end, durable: true };
                    if broker.shared.ask(partition.shard, command).await.is_err() {
                        continue;
                    }
                    end
                }
            };
            let tap = Tap {
                broker: broker.clone(),
                namespace: topic.namespace.clone(),
                subject: subject_of(topic),
                partition: *partition,
                log,
            };
            let mut running = self.running.lock();
            // Two may have begun at once.
            running.entry(partition.id).or_insert_with(|| Running {
                namespace: topic.namespace.clone(),
                topic: topic.name.clone(),
                task: broker.shared.runtime().spawn(tap.run(from)).abort_handle(),
            });
        }
    }
}

fn bus(namespace: &Arc<Namespace>) -> Option<&Exchange> {
    namespace.exchanges.get(BUS)
}

fn subject_of(topic: &Topic) -> Subject {
    Subject::dotted(topic.name.as_str().to_owned()).unwrap_or_default()
}

struct Tap {
    broker: Broker,
    namespace: Name,
    subject: Subject,
    partition: Partition,
    log: Arc<PartitionLog>,
}

impl Tap {
    async fn run(self, mut cursor: u64) {
        let changed = Arc::new(Notify::new());
        self.log.watch(&changed);
        loop {
            let entries = match self.log.read(cursor, READ_BYTES).await {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::error!(%error, topic = %self.subject, cursor, "a tap cannot read its topic");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let Some(last) = entries.last().map(|e| e.offset + u64::from(e.span)) else {
                changed.notified().await;
                continue;
            };
            let mut arrivals = Arrivals::new();
            for entry in entries.iter().filter(|e| e.envelope.is_none()) {
                self.hand_on(entry, cursor, &mut arrivals);
            }
            if outbox::deliver(&self.broker, TAPS | self.partition.id.0, arrivals).await.is_err() {
                return;
            }
            cursor = last;
            let partition = self.partition.id;
            self.broker
                .shared
                .send(self.partition.shard, Command::MoveTap { partition, to: cursor, durable: false });
        }
    }

    /// Routes the messages of one entry. What came from the bus has an envelope and was not given here.
    fn hand_on(&self, entry: &LogEntry, from: u64, arrivals: &mut Arrivals) {
        let messages = match self.broker.formats().messages(entry.offset, None, &entry.payload) {
            Ok(messages) => messages,
            Err(error) => {
                self.broker.metrics().unreadable.add(1);
                return tracing::error!(%error, topic = %self.subject, offset = entry.offset, "a batch cannot be shown");
            }
        };
        for (offset, mut message) in messages.into_iter().filter(|(offset, _)| *offset >= from) {
            message.subject = self.subject.clone();
            let mut envelope = Envelope::new(self.subject.clone(), self.broker.now());
            envelope.expires = message.expires;
            envelope.due = message.due;
            envelope.priority = message.priority.unwrap_or(0);
            let payload = encode_message(message);
            outbox::route_to_queues(&self.broker, &self.namespace, envelope, payload, offset + 1, arrivals);
        }
    }
}
