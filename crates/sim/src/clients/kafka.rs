//! Kafka: producers, idempotent and plain, and a reader that commits where it stands.

use super::{Door, Shore, Stream, persist, wrong};
use crate::{
    history::{Fate, Place, Repeats},
    message::Id,
    network::Weather,
};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use posthaste_kafka::wire::{
    ErrorCode, RequestBody, decode_response, encode_request,
    messages::{
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        init_producer_id::InitProducerIdRequest,
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic},
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
    },
    records::{BatchBuilder, RecordChunk, batches},
    split_frame,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
};

pub(super) const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
pub(super) const OFFSET_VERSION: i16 = 7;
const FRAME_BYTES_MAX: usize = 16 << 20;

pub(super) struct Connection {
    stream: Stream,
}

impl Connection {
    pub fn open(shore: &Shore) -> io::Result<Connection> {
        Ok(Connection { stream: shore.connect(Door::Kafka)? })
    }

    pub async fn call<R: RequestBody>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let frame = encode_request(version, 0, None, request).map_err(|e| wrong(e.to_string()))?;
        self.stream.write(&frame.to_bytes()).await?;
        loop {
            let frame =
                split_frame(&mut self.stream.input, FRAME_BYTES_MAX).map_err(|e| wrong(e.to_string()))?;
            if let Some(frame) = frame {
                return Ok(decode_response(frame, version).map_err(|e| wrong(e.to_string()))?.1);
            }
            self.stream.fill().await?;
        }
    }
}

/// What a producer remembers over its connections.
#[derive(Default)]
pub struct Producer {
    pub sent: Cell<u32>,
    id: Cell<Option<(i64, i16)>>,
    /// By partition: the next sequence number.
    sequences: RefCell<Vec<i32>>,
    /// The batch without an answer: partition, its first sequence number, its messages.
    pending: RefCell<Option<(i32, i32, Vec<Id>)>>,
}

/// Where a producer sends.
pub struct Target {
    pub topic: &'static str,
    pub partitions: i32,
    pub places: Vec<Place>,
}

/// Produces until it has sent `most` records. An idempotent one sends a batch again until it has an answer.
pub async fn producer(
    shore: Rc<Shore>,
    number: u32,
    producer: Rc<Producer>,
    most: u32,
    target: Rc<Target>,
    idempotent: bool,
) {
    persist(&shore, "Kafka producer", || produce(&shore, number, &producer, most, &target, idempotent)).await;
}

async fn produce(
    shore: &Shore,
    number: u32,
    producer: &Producer,
    most: u32,
    target: &Target,
    idempotent: bool,
) -> io::Result<bool> {
    let mut connection = Connection::open(shore)?;
    if idempotent && producer.id.get().is_none() {
        let request =
            InitProducerIdRequest { transaction_timeout_ms: 60_000, ..InitProducerIdRequest::default() };
        let answer = connection.call(1, &request).await?;
        if answer.error_code != ErrorCode::None {
            return Ok(false);
        }
        producer.id.set(Some((answer.producer_id, answer.producer_epoch)));
    }
    producer.sequences.borrow_mut().resize(target.partitions as usize, 0);
    loop {
        if producer.pending.borrow().is_none() {
            if producer.sent.get() >= most || shore.draining.get() {
                return Ok(true);
            }
            next_batch(shore, number, producer, target);
        }
        let Some((partition, sequence, ids)) = producer.pending.borrow().clone() else { return Ok(false) };
        let repeats = if idempotent { Repeats::Never } else { Repeats::PerAttempt };
        for id in &ids {
            shore.history.borrow_mut().publishing(*id, &target.places, repeats, Fate::Stays);
        }
        if !idempotent {
            // It is not sent again, whatever becomes of it.
            producer.pending.take();
        }
        let batch = batch(&ids, idempotent.then(|| producer.id.get()).flatten(), sequence);
        let answer = connection.call(PRODUCE_VERSION, &request(target.topic, partition, batch)).await?;
        let answer = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        let Some(answer) = answer else { return Err(wrong("Produce: no answer")) };
        match answer.error_code {
            ErrorCode::None => {
                for (at, id) in (0..).zip(&ids) {
                    let mut history = shore.history.borrow_mut();
                    history.acknowledged(*id);
                    history.told_offset(target.topic, partition, answer.base_offset + at, *id);
                }
            }
            // The batch of before has arrived, and where is not known any more.
            ErrorCode::DuplicateSequenceNumber if idempotent => {
                ids.iter().for_each(|id| shore.history.borrow_mut().acknowledged(*id));
            }
            // No space, or stopping: it may be tried again.
            ErrorCode::KafkaStorageError | ErrorCode::NotLeaderOrFollower | ErrorCode::RequestTimedOut => {
                shore.pause(50).await;
                return Ok(false);
            }
            other => return Err(wrong(format!("Produce: {}", other.name()))),
        }
        if producer.pending.take().is_some()
            && let Some(next) = producer.sequences.borrow_mut().get_mut(partition as usize)
        {
            *next = sequence + ids.len() as i32;
        }
        shore.pause(5).await;
    }
}

fn next_batch(shore: &Shore, number: u32, producer: &Producer, target: &Target) {
    let partition = shore.below(target.partitions as u64) as i32;
    let count = 1 + shore.below(6) as u32;
    let first = producer.sent.get();
    producer.sent.set(first + count);
    // Order is promised within a partition, so each counts as a publisher of its own.
    let publisher = number * 10 + partition.unsigned_abs();
    let ids = (first..first + count).map(|n| Id::new(publisher, n)).collect();
    let sequence = producer.sequences.borrow().get(partition as usize).copied().unwrap_or(0);
    producer.pending.replace(Some((partition, sequence, ids)));
}

pub(super) fn batch(ids: &[Id], producer: Option<(i64, i16)>, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(0, -1);
    for (at, id) in (0..).zip(ids) {
        // A few records always fit.
        let _ = builder.push(at, 1, None, Some(&id.body()), &[]);
    }
    let batch = builder.finish();
    let Some((id, epoch)) = producer else { return batch };
    // Producer id, epoch and first sequence number follow the timestamps; the checksum covers all from byte
    // 21 on.
    let mut batch = BytesMut::from(&batch[..]);
    batch[43..51].copy_from_slice(&id.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&sequence.to_be_bytes());
    let checksum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    batch.freeze()
}

pub(super) fn request(topic: &'static str, partition: i32, batch: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: ByteString::from_static(topic),
            partition_data: vec![PartitionProduceData { index: partition, records: Some(batch) }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    }
}

/// Reads a topic for as long as the run goes on, and commits where it stands as a group. The only member of
/// it.
pub async fn reader(shore: Rc<Shore>, topic: &'static str, partitions: i32, group: &'static str) {
    persist(&shore, "Kafka reader", || read(&shore, topic, partitions, group)).await;
}

async fn read(shore: &Shore, topic: &'static str, partitions: i32, group: &'static str) -> io::Result<bool> {
    let mut connection = Connection::open(shore)?;
    let partitions = if topic == "sensors-log" { shore.sensor_partitions.get() } else { partitions };
    let all: Vec<i32> = (0..partitions).collect();
    let mut positions = stands(shore, &mut connection, topic, &all, group).await?;
    // In the end, all of it is read once more.
    if shore.draining.get() {
        positions.values_mut().for_each(|position| *position = 0);
    }
    loop {
        let was_draining = shore.draining.get();
        fetch(shore, &mut connection, topic, &mut positions).await?;
        if !was_draining && shore.draining.get() {
            return Ok(false);
        }
        if shore.chance(1, 4) {
            commit(shore, &mut connection, topic, &positions, group, None).await?;
        }
        if shore.chance(1, 20) && !was_draining {
            return Ok(false);
        }
        shore.pause(3).await;
    }
}

/// Where a reader is, by partition.
pub(super) type Positions = BTreeMap<i32, i64>;

/// Reads what there is, from where the reader is.
pub(super) async fn fetch(
    shore: &Shore,
    connection: &mut Connection,
    topic: &'static str,
    positions: &mut Positions,
) -> io::Result<()> {
    let request = FetchRequest {
        max_wait_ms: 20,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic {
            topic: ByteString::from_static(topic),
            partitions: positions.iter().map(|(partition, at)| fetch_partition(*partition, *at)).collect(),
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    let answer = connection.call(FETCH_VERSION, &request).await?;
    for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
        // A store that does not answer may answer later.
        if partition.error_code == ErrorCode::KafkaStorageError && shore.weather.get() != Weather::CALM {
            continue;
        }
        if partition.error_code != ErrorCode::None {
            return Err(wrong(format!("Fetch: {}", partition.error_code.name())));
        }
        let Some(position) = positions.get_mut(&partition.partition_index) else {
            return Err(wrong("Fetch: a partition that nobody asked for"));
        };
        for chunk in partition.records.chunks() {
            note_records(shore, topic, partition.partition_index, chunk, position)?;
        }
    }
    Ok(())
}

fn fetch_partition(partition: i32, fetch_offset: i64) -> FetchPartition {
    FetchPartition { partition, fetch_offset, partition_max_bytes: 64 << 10, ..FetchPartition::default() }
}

fn note_records(
    shore: &Shore,
    topic: &'static str,
    partition: i32,
    chunk: &RecordChunk,
    position: &mut i64,
) -> io::Result<()> {
    for batch in batches(chunk_bytes(chunk)) {
        let batch = batch.map_err(|e| wrong(format!("Fetch: {e}")))?;
        batch.verify_checksum().map_err(|e| wrong(format!("Fetch: {e}")))?;
        for record in batch.records(1 << 20).map_err(|e| wrong(format!("Fetch: {e}")))? {
            let record = record.map_err(|e| wrong(format!("Fetch: {e}")))?;
            if record.offset < *position {
                continue;
            }
            *position = record.offset + 1;
            shore.history.borrow_mut().read(
                topic,
                partition,
                record.offset,
                &record.value.unwrap_or_default(),
            );
        }
    }
    Ok(())
}

pub fn chunk_bytes(chunk: &RecordChunk) -> Bytes {
    match chunk {
        RecordChunk::Verbatim(bytes) | RecordChunk::Rebased { batch: bytes, .. } => bytes.clone(),
    }
}

/// The records of a partition from an offset on: some of them, if there are any.
pub(super) async fn records_of(
    connection: &mut Connection,
    topic: &'static str,
    partition: i32,
    from: i64,
) -> io::Result<Vec<(i64, Bytes)>> {
    let request = FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic {
            topic: ByteString::from_static(topic),
            partitions: vec![fetch_partition(partition, from)],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    let answer = connection.call(FETCH_VERSION, &request).await?;
    let mut found = Vec::new();
    for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
        if partition.error_code != ErrorCode::None {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        for chunk in partition.records.chunks() {
            for batch in batches(chunk_bytes(chunk)) {
                let batch = batch.map_err(|e| wrong(format!("Fetch: {e}")))?;
                for record in batch.records(1 << 20).map_err(|e| wrong(format!("Fetch: {e}")))? {
                    let record = record.map_err(|e| wrong(format!("Fetch: {e}")))?;
                    if record.offset >= from {
                        found.push((record.offset, record.value.unwrap_or_default()));
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Where the group stands; at the beginning where it has committed nothing.
pub(super) async fn stands(
    shore: &Shore,
    connection: &mut Connection,
    topic: &'static str,
    partitions: &[i32],
    group: &'static str,
) -> io::Result<Positions> {
    let request = OffsetFetchRequest {
        group_id: ByteString::from_static(group),
        topics: Some(vec![OffsetFetchRequestTopic {
            name: ByteString::from_static(topic),
            partition_indexes: partitions.to_vec(),
        }]),
        ..OffsetFetchRequest::default()
    };
    let answer = connection.call(OFFSET_VERSION, &request).await?;
    let mut positions = Positions::new();
    for partition in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
        if partition.error_code != ErrorCode::None {
            return Err(wrong(format!("OffsetFetch: {}", partition.error_code.name())));
        }
        shore.history.borrow_mut().stands(group, partition.partition_index, partition.committed_offset);
        positions.insert(partition.partition_index, partition.committed_offset.max(0));
    }
    Ok(positions)
}

/// A member of a group, and the generation that it is of.
pub(super) type Membership = (ByteString, i32);

/// Commits where the reader is; false when the group has gone on without this member.
pub(super) async fn commit(
    shore: &Shore,
    connection: &mut Connection,
    topic: &'static str,
    positions: &Positions,
    group: &'static str,
    member: Option<&Membership>,
) -> io::Result<bool> {
    for (partition, at) in positions {
        shore.history.borrow_mut().committing(group, *partition, *at);
    }
    let partition = |(partition_index, committed_offset): (&i32, &i64)| OffsetCommitRequestPartition {
        partition_index: *partition_index,
        committed_offset: *committed_offset,
        ..OffsetCommitRequestPartition::default()
    };
    let (member_id, generation) = member.cloned().unwrap_or((ByteString::new(), -1));
    let request = OffsetCommitRequest {
        group_id: ByteString::from_static(group),
        generation_id_or_member_epoch: generation,
        member_id,
        topics: vec![OffsetCommitRequestTopic {
            name: ByteString::from_static(topic),
            partitions: positions.iter().map(partition).collect(),
        }],
        ..OffsetCommitRequest::default()
    };
    let answer = connection.call(OFFSET_VERSION, &request).await?;
    let mut is_member = true;
    for partition in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
        let at = positions.get(&partition.partition_index).copied().unwrap_or(0);
        match partition.error_code {
            ErrorCode::None => shore.history.borrow_mut().committed(group, partition.partition_index, at),
            ErrorCode::KafkaStorageError | ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator => {
            }
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration | ErrorCode::RebalanceInProgress
                if member.is_some() =>
            {
                is_member = false;
            }
            other => return Err(wrong(format!("OffsetCommit: {}", other.name()))),
        }
    }
    Ok(is_member)
}
