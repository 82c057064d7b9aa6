//! A shard's durable state, and the only function that changes it: [`Durable::apply`].

use crate::{
    Map,
    command::Destination,
    effect::OutboxItem,
    event::{CommittedOffset, Event, PartitionSpec, QueueSpec, Sequence},
    planted::{self, Bug},
    settlement::DurableLane,
};
use bytes::Bytes;
use posthaste_model::{Envelope, Name, PartitionId, Payload, QueueId, Subject, TopicId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    pub partitions: Map<PartitionId, DurablePartition>,
    pub queues: Map<QueueId, DurableQueue>,
    pub groups: Map<(Name, Name), BTreeMap<(TopicId, u32), CommittedOffset>>,
    pub retained: Map<(Name, Subject), Retained>,
    pub outbox: Outbox,
    pub producer_ids: u64,
    /// What changed since it was last taken for a checkpoint.
    pub dirty: BTreeSet<Entity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DurablePartition {
    pub spec: PartitionSpec,
    pub start: u64,
    pub next: u64,
    pub tap: u64,
    pub producers: BTreeMap<u64, Producer>,
    /// Subscriptions that settle its messages.
    pub readers: Vec<QueueId>,
    pub arrived: Arrived,
}

/// The highest number that has arrived at a destination, by source. Each source sends a destination its
/// numbers in ascending order, and gives none out twice.
pub(crate) type Arrived = BTreeMap<u64, u64>;

/// The last batches of an idempotent producer, latest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Producer {
    pub epoch: u16,
    pub batches: VecDeque<(Sequence, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DurableQueue {
    pub spec: QueueSpec,
    pub lanes: Vec<DurableLane>,
    pub received: BTreeSet<u32>,
    /// Handle to lane and offset; none once the reader has the message.
    pub handles: BTreeMap<u32, Option<(u8, u64)>>,
    pub arrived: Arrived,
    /// It is deleted, and kept only until its dead letters have arrived where they go.
    pub draining: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retained {
    pub envelope: Envelope,
    pub payload: Payload,
    pub body: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outbox {
    /// The number of the latest entry; the first is 1.
    pub last: u64,
    pub entries: BTreeMap<u64, Outgoing>,
    /// Bytes of the messages that are not in a queue's log.
    #[serde(skip)]
    pub relayed_bytes: u64,
}

/// An outbox entry, and where it goes once that is decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outgoing {
    pub item: OutboxItem,
    pub to: Option<Vec<Destination>>,
}

/// Names a part of the state in checkpoints. Stored: variants are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Entity {
    Partition(PartitionId),
    Queue(QueueId),
    Group(Name, Name),
    Retained(Name, Subject),
    Outbox,
    ProducerIds,
}

/// Batches of one producer that are remembered, so that a repeated one is recognized.
const REMEMBERED_BATCHES: usize = 5;
/// Idempotent producers remembered per partition. Part of `apply`, hence no setting: replay must agree.
const REMEMBERED_PRODUCERS: usize = 10_000;

impl Durable {
    /// Changes the state. Never fails: an event about something unknown (lost to damage) changes nothing.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::PartitionOpened { .. }
            | Event::PartitionClosed { .. }
            | Event::Appended { .. }
            | Event::Trimmed { .. }
            | Event::TapMoved { .. }
            | Event::OffsetsSkipped { .. } => self.apply_partition(event),
            Event::QueueOpened { queue, spec } => self.open_queue(*queue, spec),
            Event::QueueClosed { queue, .. } => self.close_queue(*queue),
            Event::QueueDraining { queue } => self.with_queue(*queue, DurableQueue::drain),
            Event::Enqueued { queue, lane, .. }
            | Event::Settled { queue, lane, .. }
            | Event::DeliveredTo { queue, lane, .. }
            | Event::Attempted { queue, lane, .. }
            | Event::Due { queue, lane, .. } => self.with_lane(*queue, *lane, |l| l.apply(event)),
            Event::DeadLettered { .. }
            | Event::Relayed { .. }
            | Event::Routed { .. }
            | Event::OutboxDone { .. } => self.apply_outbox(event),
            Event::Arrived { source, at, number } => self.apply_arrived(*source, *at, *number),
            Event::Received { queue, .. }
            | Event::Forgotten { queue, .. }
            | Event::HandleAssigned { queue, .. }
            | Event::HandleSettled { queue, .. }
            | Event::HandleFreed { queue, .. } => self.with_queue(*queue, |q| q.apply_session(event)),
            Event::OffsetsCommitted { .. } | Event::GroupDeleted { .. } | Event::OffsetsForgotten { .. } => {
                self.apply_group(event);
            }
            Event::RetainedSet { .. } | Event::RetainedCleared { .. } => self.apply_retained(event),
            Event::ProducerIdsReserved { to } => {
                self.producer_ids = self.producer_ids.max(*to);
                self.dirty.insert(Entity::ProducerIds);
            }
        }
    }

    fn apply_retained(&mut self, event: &Event) {
        match event {
            Event::RetainedSet { namespace, envelope, payload } => {
                let key = (namespace.clone(), envelope.subject.clone());
                self.dirty.insert(Entity::Retained(key.0.clone(), key.1.clone()));
                let (payload, body) = (payload.clone(), payload.body.clone());
                self.retained.insert(key, Retained { envelope: envelope.clone(), payload, body });
            }
            Event::RetainedCleared { namespace, subject } => {
                self.dirty.insert(Entity::Retained(namespace.clone(), subject.clone()));
                self.retained.remove(&(namespace.clone(), subject.clone()));
            }
            _ => {}
        }
    }

    fn apply_partition(&mut self, event: &Event) {
        match event {
            Event::PartitionOpened { partition, spec } => {
                self.dirty.insert(Entity::Partition(*partition));
                match self.partitions.get_mut(partition) {
                    Some(known) => known.spec = spec.clone(),
                    None => {
                        let fresh = DurablePartition {
                            spec: spec.clone(),
                            start: 0,
                            next: 0,
                            tap: 0,
                            producers: BTreeMap::new(),
                            readers: Vec::new(),
                            arrived: Arrived::new(),
                        };
                        self.partitions.insert(*partition, fresh);
                    }
                }
            }
            Event::PartitionClosed { partition } => {
                self.dirty.insert(Entity::Partition(*partition));
                if let Some(closed) = self.partitions.remove(partition) {
                    closed.readers.into_iter().for_each(|queue| self.close_queue(queue));
                }
            }
            Event::Appended { partition, offset, span, producer, .. } => {
                let Some(known) = self.partitions.get_mut(partition) else { return };
                self.dirty.insert(Entity::Partition(*partition));
                known.next = known.next.max(offset + u64::from(*span));
                if let Some(sequence) = producer {
                    known.remember(*sequence, *offset);
                }
                let next = known.next;
                for reader in known.readers.clone() {
                    self.with_lane(reader, 0, |lane| lane.next = next);
                }
            }
            Event::Trimmed { partition, start } => {
                let Some(known) = self.partitions.get_mut(partition) else { return };
                self.dirty.insert(Entity::Partition(*partition));
                known.start = known.start.max(*start);
                known.next = known.next.max(*start);
                for reader in known.readers.clone() {
                    self.with_lane(reader, 0, |lane| lane.settle(0, *start));
                }
            }
            Event::TapMoved { partition, to } => {
                let Some(known) = self.partitions.get_mut(partition) else { return };
                self.dirty.insert(Entity::Partition(*partition));
                known.tap = known.tap.max(*to);
            }
            Event::OffsetsSkipped { partition, to } => {
                let Some(known) = self.partitions.get_mut(partition) else { return };
                self.dirty.insert(Entity::Partition(*partition));
                known.next = known.next.max(*to);
                let next = known.next;
                for reader in known.readers.clone() {
                    self.with_lane(reader, 0, |lane| lane.settle(lane.next, next));
                }
            }
            _ => {}
        }
    }

    fn open_queue(&mut self, id: QueueId, spec: &QueueSpec) {
        self.dirty.insert(Entity::Queue(id));
        if let Some(known) = self.queues.get_mut(&id) {
            known.spec = spec.clone();
            known.draining = false;
            return;
        }
        let mut queue = DurableQueue::new(spec.clone());
        if let Some(partition) = spec.over
            && let Some(known) = self.partitions.get_mut(&partition)
        {
            known.readers.push(id);
            self.dirty.insert(Entity::Partition(partition));
            queue.read_from(known);
        }
        self.queues.insert(id, queue);
    }

    fn close_queue(&mut self, id: QueueId) {
        self.dirty.insert(Entity::Queue(id));
        let Some(closed) = self.queues.remove(&id) else { return };
        if let Some(partition) = closed.spec.over
            && let Some(known) = self.partitions.get_mut(&partition)
        {
            known.readers.retain(|reader| *reader != id);
            self.dirty.insert(Entity::Partition(partition));
        }
    }

    fn apply_arrived(&mut self, source: u64, at: Destination, number: u64) {
        let arrived = match at {
            Destination::Queue(id) => {
                let Some(queue) = self.queues.get_mut(&id) else { return };
                self.dirty.insert(Entity::Queue(id));
                &mut queue.arrived
            }
            Destination::Partition(id) => {
                let Some(partition) = self.partitions.get_mut(&id) else { return };
                self.dirty.insert(Entity::Partition(id));
                &mut partition.arrived
            }
        };
        let last = arrived.entry(source).or_default();
        *last = (*last).max(number);
    }

    fn apply_outbox(&mut self, event: &Event) {
        self.dirty.insert(Entity::Outbox);
        match event {
            Event::DeadLettered { number, queue, lane, offset, reason, target } => {
                let mut stream = 0;
                self.with_queue(*queue, |q| {
                    stream = q.spec.streams.get(usize::from(*lane)).copied().unwrap_or_default();
                    if let Some(lane) = q.lanes.get_mut(usize::from(*lane)) {
                        lane.moves(*offset, *number);
                    }
                });
                let (queue, lane, offset, reason) = (*queue, *lane, *offset, *reason);
                let target = target.clone();
                let item = OutboxItem::DeadLetter { queue, lane, stream, offset, reason, target };
                self.outbox.add(*number, Outgoing { item, to: None });
            }
            Event::Relayed { number, to, envelope, payload } => {
                let (envelope, payload, body) = (envelope.clone(), payload.clone(), payload.body.clone());
                let item = OutboxItem::Relay { envelope, payload, body };
                self.outbox.add(*number, Outgoing { item, to: Some(to.clone()) });
            }
            Event::Routed { routes } => {
                for (number, to) in routes {
                    if let Some(entry) = self.outbox.entries.get_mut(number) {
                        entry.to = Some(to.clone());
                    }
                }
            }
            Event::OutboxDone { ranges } => {
                for (start, end) in ranges {
                    while let Some(item) = self.outbox.take_first(*start, *end) {
                        if let OutboxItem::DeadLetter { queue, lane, offset, .. } = item {
                            self.with_lane(queue, lane, |l| l.settle(offset, offset + 1));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn apply_group(&mut self, event: &Event) {
        match event {
            Event::OffsetsCommitted { namespace, group, offsets } => {
                self.dirty.insert(Entity::Group(namespace.clone(), group.clone()));
                let known = self.groups.entry((namespace.clone(), group.clone())).or_default();
                for offset in offsets {
                    known.insert((offset.topic, offset.partition), offset.clone());
                }
            }
            Event::GroupDeleted { namespace, group } => {
                self.dirty.insert(Entity::Group(namespace.clone(), group.clone()));
                self.groups.remove(&(namespace.clone(), group.clone()));
            }
            Event::OffsetsForgotten { namespace, group, partitions } => {
                self.dirty.insert(Entity::Group(namespace.clone(), group.clone()));
                if let Some(known) = self.groups.get_mut(&(namespace.clone(), group.clone())) {
                    partitions.iter().for_each(|key| {
                        known.remove(key);
                    });
                }
            }
            _ => {}
        }
    }

    fn with_queue(&mut self, id: QueueId, change: impl FnOnce(&mut DurableQueue)) {
        if let Some(queue) = self.queues.get_mut(&id) {
            self.dirty.insert(Entity::Queue(id));
            change(queue);
        }
    }

    fn with_lane(&mut self, id: QueueId, lane: u8, change: impl FnOnce(&mut DurableLane)) {
        self.with_queue(id, |queue| {
            if let Some(lane) = queue.lanes.get_mut(usize::from(lane)) {
                change(lane);
            }
        });
    }

    /// What changed since the last call, encoded for a checkpoint; no value for what is gone.
    pub fn take_dirty(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|entity| (encode(&entity), self.value_of(&entity))).collect()
    }

    fn value_of(&self, entity: &Entity) -> Option<Vec<u8>> {
        match entity {
            Entity::Partition(id) => self.partitions.get(id).map(encode),
            Entity::Queue(id) => self.queues.get(id).map(encode),
            Entity::Group(namespace, group) => {
                self.groups.get(&(namespace.clone(), group.clone())).map(encode_group)
            }
            Entity::Retained(namespace, subject) => {
                self.retained.get(&(namespace.clone(), subject.clone())).map(encode)
            }
            Entity::Outbox => Some(encode(&self.outbox)),
            Entity::ProducerIds => Some(encode(&self.producer_ids)),
        }
    }

    /// Takes one entity of a checkpoint.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), postcard::Error> {
        match decode::<Entity>(key)? {
            Entity::Partition(id) => {
                self.partitions.insert(id, decode(value)?);
            }
            Entity::Queue(id) => {
                let mut queue: DurableQueue = decode(value)?;
                if planted::strikes(Bug::ForgetHole) {
                    for lane in &mut queue.lanes {
                        let end = lane.settled.iter().last().map_or(lane.floor, |(_, end)| end);
                        lane.settle(lane.floor, end);
                    }
                }
                self.queues.insert(id, queue);
            }
            Entity::Group(namespace, group) => {
                let offsets: Vec<CommittedOffset> = decode(value)?;
                let offsets = offsets.into_iter().map(|o| ((o.topic, o.partition), o)).collect();
                self.groups.insert((namespace, group), offsets);
            }
            Entity::Retained(namespace, subject) => {
                let mut retained: Retained = decode(value)?;
                retained.payload.body = retained.body.clone();
                self.retained.insert((namespace, subject), retained);
            }
            Entity::Outbox => {
                self.outbox = decode(value)?;
                for entry in self.outbox.entries.values_mut() {
                    self.outbox.relayed_bytes += entry.item.relayed_bytes();
                    if let OutboxItem::Relay { payload, body, .. } = &mut entry.item {
                        payload.body = body.clone();
                    }
                }
            }
            Entity::ProducerIds => self.producer_ids = decode(value)?,
        }
        Ok(())
    }

    /// A checksum over all of it that is the same for the same state, however it came about.
    pub fn digest(&self) -> u32 {
        let mut entities: Vec<Entity> = Vec::new();
        entities.extend(self.partitions.keys().map(|id| Entity::Partition(*id)));
        entities.extend(self.queues.keys().map(|id| Entity::Queue(*id)));
        entities.extend(self.groups.keys().map(|(n, g)| Entity::Group(n.clone(), g.clone())));
        entities.extend(self.retained.keys().map(|(n, s)| Entity::Retained(n.clone(), s.clone())));
        entities.extend([Entity::Outbox, Entity::ProducerIds]);
        entities.sort();
        entities.iter().fold(0, |crc, entity| {
            let crc = crc32c::crc32c_append(crc, &encode(entity));
            crc32c::crc32c_append(crc, &self.value_of(entity).unwrap_or_default())
        })
    }
}

impl DurableQueue {
    pub fn new(spec: QueueSpec) -> DurableQueue {
        let lanes = vec![DurableLane::default(); spec.streams.len().max(1)];
        DurableQueue {
            spec,
            lanes,
            received: BTreeSet::new(),
            handles: BTreeMap::new(),
            arrived: Arrived::new(),
            draining: false,
        }
    }

    /// Whether dead letters of it are on their way.
    pub fn moves_any(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.moving.is_empty())
    }

    /// Keeps what is on its way, and nothing else.
    fn drain(&mut self) {
        self.draining = true;
        self.received.clear();
        self.handles.clear();
        self.lanes.iter_mut().for_each(DurableLane::drain);
    }

    /// A subscription begins with all that the partition holds.
    pub fn read_from(&mut self, partition: &DurablePartition) {
        if let Some(lane) = self.lanes.first_mut() {
            lane.next = partition.next;
            lane.settle(0, partition.start);
        }
    }
}

impl DurableLane {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Enqueued { offset, envelope, .. } => self.add(*offset, envelope.expires, envelope.due),
            Event::Settled { ranges, .. } => {
                ranges.iter().for_each(|(start, end)| self.settle(*start, *end));
            }
            Event::DeliveredTo { to, .. } => self.delivered_to = self.delivered_to.max(*to),
            Event::Attempted { offset, attempts, .. } if !self.is_settled(*offset) => {
                self.attempts.insert(*offset, *attempts);
            }
            Event::Due { offset, .. } => {
                self.delayed.remove(offset);
            }
            _ => {}
        }
    }
}

impl DurableQueue {
    fn apply_session(&mut self, event: &Event) {
        match event {
            Event::Received { id, .. } => {
                self.received.insert(*id);
            }
            Event::Forgotten { id, .. } => {
                self.received.remove(id);
            }
            Event::HandleAssigned { lane, offset, handle, .. } => {
                self.handles.insert(*handle, Some((*lane, *offset)));
            }
            Event::HandleSettled { handle, .. } => {
                if let Some(delivery) = self.handles.get_mut(handle) {
                    *delivery = None;
                }
            }
            Event::HandleFreed { handle, .. } => {
                self.handles.remove(handle);
            }
            _ => {}
        }
    }
}

impl DurablePartition {
    fn remember(&mut self, sequence: Sequence, offset: u64) {
        let producer = self.producers.entry(sequence.producer).or_default();
        if producer.epoch != sequence.epoch {
            producer.epoch = sequence.epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == REMEMBERED_BATCHES {
            producer.batches.pop_front();
        }
        producer.batches.push_back((sequence, offset));
        if self.producers.len() > REMEMBERED_PRODUCERS {
            let oldest =
                self.producers.iter().min_by_key(|(_, p)| p.batches.back().map(|(_, offset)| *offset));
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.producers.remove(&id);
            }
        }
    }
}

impl Outbox {
    pub fn add(&mut self, number: u64, entry: Outgoing) {
        self.last = self.last.max(number);
        self.relayed_bytes += entry.item.relayed_bytes();
        self.entries.insert(number, entry);
    }

    /// Takes the first entry with a number in `start..end`.
    fn take_first(&mut self, start: u64, end: u64) -> Option<OutboxItem> {
        let number = *self.entries.range(start..end.max(start)).next()?.0;
        let item = self.entries.remove(&number)?.item;
        self.relayed_bytes -= item.relayed_bytes();
        Some(item)
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Serialization into a growing vector has no way to fail for these types.
    postcard::to_allocvec(value).unwrap_or_default()
}

fn encode_group(offsets: &BTreeMap<(TopicId, u32), CommittedOffset>) -> Vec<u8> {
    encode(&offsets.values().collect::<Vec<_>>())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
}
