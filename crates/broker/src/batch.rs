//! Publishing: everything that one read of a connection contained, routed at once and handed on as one batch.

use crate::{
    Broker,
    access::{rights::Writable, usage::Usages},
    client::Client,
    error::Error,
    live::{Gathering, LiveMessage},
    thread::{Input, PublishItem, PublishJob},
};
use posthaste_engine::{
    Catalog, Publish,
    catalog::{BUS, Headers, Partition, Queue, Resource, Routes, Topic},
    command::{Append, Enqueue},
    effect::Refusal,
    event::Sequence,
};
use posthaste_model::{Envelope, Payload, ShardId, Subject, Timestamp, Value};
use smallvec::SmallVec;
use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Publishes that belong together only in that they came together. Each call that adds one counts as one
/// index.
pub struct Batch {
    client: Client,
    catalog: Arc<Catalog>,
    /// By engine thread.
    jobs: Vec<(Vec<PublishItem>, usize)>,
    refused: Vec<(u32, Refusal)>,
    routes: Routes,
    /// What `routes` are the routes of; none when they depend on more.
    routed: Option<RoutedAs>,
    live: Gathering,
    len: u32,
    /// Messages and bytes that the publisher's limits count.
    messages: u64,
    bytes: u64,
}

/// All that the routes of a message depend on, unless an exchange asks for its headers.
struct RoutedAs {
    exchange: Option<SmallVec<[u8; 16]>>,
    subject: Subject,
}

/// Where a publish went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    pub queues: usize,
    pub topics: usize,
    /// Live readers that it is handed to, unless they are too slow.
    pub live: usize,
}

impl Routed {
    pub fn nowhere(&self) -> bool {
        *self == Routed::default()
    }
}

/// A batch of records for a partition, as received.
#[derive(Clone, Debug)]
pub struct AppendBatch {
    /// Offsets that it takes; at least 1.
    pub span: u32,
    /// The latest timestamp in it.
    pub timestamp: Timestamp,
    pub sequence: Option<Sequence>,
    pub payload: Payload,
}

/// What came of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Publishes that some target refused, by index.
    pub refused: Vec<(u32, Refusal)>,
    /// For what was appended to partitions: index, offset, and whether it had been there before.
    pub appended: Vec<(u32, u64, bool)>,
    /// Consumers do not keep up with messages that are kept in memory: publishers that wait for nobody should
    /// slow down, before messages are refused.
    pub crowded: bool,
}

/// What answers a publisher.
type Answer = Box<dyn FnOnce(Outcome) + Send>;

/// Shared by the threads that a batch of publishes went to; the last one answers.
pub(crate) struct PublishDone {
    pub left: AtomicUsize,
    pub outcome: parking_lot::Mutex<Outcome>,
    pub done: parking_lot::Mutex<Option<Answer>>,
}

impl PublishDone {
    pub fn finish_one(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().take()
        {
            let mut outcome = std::mem::take(&mut *self.outcome.lock());
            outcome.appended.sort_unstable_by_key(|(index, _, _)| *index);
            outcome.refused.sort_unstable_by_key(|(index, _)| *index);
            done(outcome);
        }
    }
}

/// Encoded properties and subject may take this much together.
const HEAD_BYTES_MAX: usize = 512 << 10;

impl Batch {
    pub(crate) fn new(client: Client) -> Batch {
        let catalog = client.broker().catalog();
        let threads = client.broker().shared.threads();
        let jobs = (0..threads).map(|_| (Vec::new(), 0)).collect();
        Batch {
            client,
            catalog,
            jobs,
            refused: Vec::new(),
            routes: Routes::default(),
            routed: None,
            live: Gathering::default(),
            len: 0,
            messages: 0,
            bytes: 0,
        }
    }

    /// Publishes so far.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Routes a message and takes it along. `None` is the default exchange, which routes by queue name.
    pub fn publish(
        &mut self,
        exchange: Option<&str>,
        mut envelope: Envelope,
        payload: Payload,
        headers: &dyn Headers,
    ) -> Result<Routed, Error> {
        self.check_size(&envelope, &payload)?;
        envelope.origin = self.client.connection();
        if !self.routed.as_ref().is_some_and(|last| last.is(exchange, &envelope.subject)) {
            self.route(exchange, &envelope.subject, headers)?;
        }
        Ok(self.take_along(envelope, payload))
    }

    /// As [`Batch::publish`], for a message with further subjects: it goes once to each target that any of
    /// them leads to, if it may be published under all of them.
    pub fn publish_under(
        &mut self,
        exchange: Option<&str>,
        mut envelope: Envelope,
        payload: Payload,
        headers: &dyn Headers,
        further: &[Subject],
    ) -> Result<Routed, Error> {
        self.check_size(&envelope, &payload)?;
        envelope.origin = self.client.connection();
        for subject in further {
            self.check_right(exchange, subject)?;
        }
        self.route(exchange, &envelope.subject, headers)?;
        self.routed = None;
        let mut all = std::mem::take(&mut self.routes);
        for subject in further {
            self.route(exchange, subject, headers)?;
            all.queues.append(&mut self.routes.queues);
            all.topics.append(&mut self.routes.topics);
        }
        self.routed = None;
        all.deduplicate();
        self.routes = all;
        Ok(self.take_along(envelope, payload))
    }

    fn take_along(&mut self, envelope: Envelope, payload: Payload) -> Routed {
        let index = self.take_index(1, payload.body.len());
        let routed = self.spread(index, envelope, payload);
        if routed.nowhere() {
            self.client.broker().metrics().unroutable.add(1);
        }
        routed
    }

    /// Whether the client may publish under a subject to an exchange.
    fn check_right(&self, exchange: Option<&str>, subject: &Subject) -> Result<(), Error> {
        self.client.may_publish(&self.catalog, exchange.unwrap_or_default(), subject)
    }

    /// Finds where a message goes, if it may be published.
    fn route(
        &mut self,
        exchange: Option<&str>,
        subject: &Subject,
        headers: &dyn Headers,
    ) -> Result<(), Error> {
        self.routed = None;
        self.check_right(exchange, subject)?;
        let namespace =
            self.catalog.namespace(self.client.namespace()).ok_or_else(|| self.client.no_namespace())?;
        let headers = Asked { headers, asked: Cell::new(false) };
        if !self.catalog.route(namespace, exchange, subject, &headers, &mut self.routes) {
            return Err(Error::NotFound(Resource::Exchange, exchange.unwrap_or_default().to_owned()));
        }
        if !headers.asked.get() {
            self.routed = Some(RoutedAs {
                exchange: exchange.map(|name| name.as_bytes().into()),
                subject: subject.clone(),
            });
        }
        Ok(())
    }

    fn spread(&mut self, index: u32, envelope: Envelope, payload: Payload) -> Routed {
        let routes = std::mem::take(&mut self.routes);
        let mut routed = Routed { live: self.live.address(&self.client, &routes), ..Routed::default() };
        for route in routes.queues.iter().filter(|route| !route.transient) {
            routed.queues += 1;
            self.add_enqueue(index, &route.queue, envelope.clone(), payload.clone());
        }
        for topic in &routes.topics {
            routed.topics += 1;
            let partition = partition_for(self.client.broker(), topic, &envelope, &payload);
            let append = AppendBatch {
                span: 1,
                timestamp: envelope.received,
                sequence: None,
                payload: payload.clone(),
            };
            self.add_append(index, partition, append, Some(envelope.clone()));
        }
        self.routes = routes;
        if routed.live > 0 {
            self.live.add(&self.client, LiveMessage { envelope, payload });
        }
        routed
    }

    /// Appends a batch to a partition, as it is.
    pub fn append(&mut self, partition: Writable<Partition>, append: AppendBatch) -> u32 {
        let index = self.take_index(append.span.into(), append.payload.body.len());
        self.add_append(index, *partition, append, None);
        index
    }

    /// Puts a message into a queue directly.
    pub fn enqueue(&mut self, queue: &Writable<Arc<Queue>>, envelope: Envelope, payload: Payload) -> u32 {
        let index = self.take_index(1, payload.body.len());
        self.add_enqueue(index, queue, envelope, payload);
        index
    }

    /// Keeps a message as the last one on its subject, if the client may publish on it; an empty body clears
    /// what was kept.
    pub fn retain(&mut self, mut envelope: Envelope, payload: Payload) -> Result<u32, Error> {
        if !self.routed.as_ref().is_some_and(|last| last.is(Some(BUS), &envelope.subject)) {
            self.check_right(Some(BUS), &envelope.subject)?;
        }
        // What is kept for long must not hold the buffer it was read into.
        let payload = payload.detached();
        envelope.subject = envelope.subject.detached();
        // A retained message is mostly published, too, and counted there.
        let index = self.take_index(0, 0);
        let namespace = self.client.namespace().clone();
        let shared = &self.client.broker().shared;
        let limits = &shared.limits;
        let (count, bytes) = shared.retained.size(&namespace);
        let full = count >= limits.retained_messages_max
            && !shared.retained.contains(&namespace, &envelope.subject)
            || bytes + payload.body.len() > limits.retained_bytes_max;
        if full && !payload.body.is_empty() {
            self.refused.push((index, Refusal::Full));
            return Ok(index);
        }
        let shard = self.catalog.shard_of(&envelope.subject.to_dotted());
        let size = payload.body.len();
        self.push(shard, index, Publish::Retain { namespace, envelope, payload }, size);
        Ok(index)
    }

    fn add_append(
        &mut self,
        index: u32,
        partition: Partition,
        append: AppendBatch,
        envelope: Option<Envelope>,
    ) {
        let size = append.payload.body.len();
        let AppendBatch { span, timestamp, sequence, payload } = append;
        let span = span.max(1);
        let append = Append { partition: partition.id, span, timestamp, sequence, envelope, payload };
        if self.is_refused(|usages| usages.is_partition_full(partition.id)) {
            self.refused.push((index, Refusal::StorageLimit));
            return;
        }
        self.push(partition.shard, index, Publish::Append(append), size);
    }

    fn add_enqueue(&mut self, index: u32, queue: &Queue, envelope: Envelope, payload: Payload) {
        if self.is_refused(|usages| usages.is_queue_full(queue.id)) {
            self.refused.push((index, Refusal::StorageLimit));
            return;
        }
        let size = payload.body.len();
        self.push(queue.shard, index, Publish::Enqueue(Enqueue { queue: queue.id, envelope, payload }), size);
    }

    /// The broker's own parts move what was taken already.
    fn is_refused(&self, is_full: impl Fn(&Usages) -> bool) -> bool {
        is_full(&self.client.broker().shared.usages) && !self.client.principal().is_system()
    }

    fn push(&mut self, shard: ShardId, index: u32, publish: Publish, size: usize) {
        let thread = self.client.broker().shared.thread_of(shard);
        if let Some((items, bytes)) = self.jobs.get_mut(thread) {
            items.push((shard, index, publish));
            *bytes += size + 256;
        }
    }

    fn take_index(&mut self, messages: u64, bytes: usize) -> u32 {
        self.messages += messages;
        self.bytes += bytes as u64;
        self.len += 1;
        self.len - 1
    }

    fn check_size(&self, envelope: &Envelope, payload: &Payload) -> Result<(), Error> {
        let head = payload.head.len() + envelope.subject.parts().0.len();
        if head > HEAD_BYTES_MAX {
            return Err(Error::Invalid(format!("the message's properties exceed {HEAD_BYTES_MAX} bytes")));
        }
        let max = self.client.broker().limits().message_bytes_max;
        if payload.body.len() > max {
            return Err(Error::Invalid(format!("the message exceeds {max} bytes (limit message_bytes_max)")));
        }
        Ok(())
    }

    /// Sends it on its way, completely, if nothing of it is to be stored, so that there is nothing to wait
    /// for. Otherwise nothing happens.
    pub fn submit_volatile(&mut self) -> Option<Outcome> {
        if self.jobs.iter().any(|(items, _)| !items.is_empty()) {
            return None;
        }
        self.client.charge_published(self.messages, self.bytes);
        self.live.hand_over(&self.client);
        Some(Outcome { refused: std::mem::take(&mut self.refused), ..Outcome::default() })
    }

    /// Sends it on its way. `done` is called once all of it is as durable as promised, on an engine thread,
    /// or at once when there is nothing to wait for: it must only push into a channel.
    pub fn submit(mut self, done: impl FnOnce(Outcome) + Send + 'static) {
        self.client.charge_published(self.messages, self.bytes);
        self.live.hand_over(&self.client);
        let outcome = Outcome { refused: self.refused, ..Outcome::default() };
        let jobs: Vec<_> =
            self.jobs.into_iter().enumerate().filter(|(_, (items, _))| !items.is_empty()).collect();
        if jobs.is_empty() {
            return done(outcome);
        }
        let shared = &self.client.broker().shared;
        let done = Arc::new(PublishDone {
            left: AtomicUsize::new(jobs.len()),
            outcome: parking_lot::Mutex::new(outcome),
            done: parking_lot::Mutex::new(Some(Box::new(done))),
        });
        for (thread, (items, bytes)) in jobs {
            shared.inbox_bytes.fetch_add(bytes, Ordering::Relaxed);
            shared.metrics.published_bytes.add(bytes as u64);
            // A stopped thread never answers, and then neither does the publisher get an acknowledgement.
            shared.input(thread, Input::Publish(PublishJob { items, bytes, done: done.clone() }));
        }
    }
}

impl RoutedAs {
    fn is(&self, exchange: Option<&str>, subject: &Subject) -> bool {
        // The same text with another separator is only routed anew.
        self.subject.parts() == subject.parts() && self.exchange.as_deref() == exchange.map(str::as_bytes)
    }
}

/// Headers, and whether they were asked for.
struct Asked<'a> {
    headers: &'a dyn Headers,
    asked: Cell<bool>,
}

impl Headers for Asked<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        self.asked.set(true);
        self.headers.value(name)
    }
}

/// The partition of a captured message: by its key, else by its subject, so that either keeps its order.
pub(crate) fn partition_for(
    broker: &Broker,
    topic: &Topic,
    envelope: &Envelope,
    payload: &Payload,
) -> Partition {
    let count = topic.partitions.len();
    let hash = if count > 1 {
        let key = broker.formats().message(envelope, payload).ok().and_then(|m| m.key);
        match key {
            Some(key) => murmur2(&key),
            None => murmur2(envelope.subject.to_dotted().as_bytes()),
        }
    } else {
        0
    };
    let at = (hash & 0x7fff_ffff) as usize % count.max(1);
    topic
        .partitions
        .get(at)
        .copied()
        .unwrap_or(Partition { id: posthaste_model::PartitionId(0), shard: ShardId(0) })
}

/// The hash by which most producers of partitioned logs place a key, so that the same key meets itself.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c_u32 ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (at, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * at);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::murmur2;

    #[test]
    fn hashes_like_the_producers_do() {
        // The values that the reference implementation's own test expects.
        for (text, expect) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, expect, "{text}");
        }
    }
}
