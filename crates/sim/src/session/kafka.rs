//! Kafka: two connections, a few topics, one producer id and one group.

use super::{
    input::Input,
    line::{Line, pace},
};
use crate::clients::{Doors, kafka::chunk_bytes};
use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use posthaste_kafka::wire::{
    ErrorCode, RequestBody, decode_response, encode_request,
    messages::{
        create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic},
        create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
        delete_groups::DeleteGroupsRequest,
        delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic},
        delete_topics::{DeleteTopicState, DeleteTopicsRequest},
        describe_groups::DescribeGroupsRequest,
        fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic},
        find_coordinator::FindCoordinatorRequest,
        heartbeat::HeartbeatRequest,
        init_producer_id::InitProducerIdRequest,
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol},
        leave_group::{LeaveGroupRequest, MemberIdentity},
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        metadata::{MetadataRequest, MetadataRequestTopic},
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic},
        produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData},
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
    records::{BatchBuilder, batches},
    split_frame,
};
use std::{collections::VecDeque, time::Duration};
use tokio::time::sleep;

const TOPICS: [&str; 4] = ["t1", "t2", "t3", "not/valid"];
const GROUPS: [&str; 3] = ["g1", "g2", ""];
const FRAME_BYTES_MAX: usize = 16 << 20;
const PROBE: &str = "probe";
/// How long a broker may take to serve a new connection, in simulated time.
const PATIENCE_MS: u32 = 5_000;

/// Runs the sequence, then sees whether a new connection is served.
pub async fn session(doors: Doors, data: Vec<u8>) -> Result<()> {
    let mut input = Input::new(data);
    let mut known = Known::default();
    let mut clients = [Client::open(&doors), Client::open(&doors)];
    while let Some(choice) = input.operation() {
        let client = &mut clients[usize::from(choice >> 5 & 1)];
        if !client.line.is_open() {
            *client = Client::open(&doors);
        }
        client.operate(choice & 31, &mut input, &mut known).await;
        pace(choice >> 6).await;
        for client in &mut clients {
            client.listen(&mut known).await?;
        }
    }
    drop(clients);
    sleep(Duration::from_millis(50)).await;
    serves(&doors).await.context("after the sequence")
}

/// What clients learned from answers.
#[derive(Default)]
struct Known {
    producer: (i64, i16),
    /// What an idempotent producer counts.
    sequence: i32,
    member: ByteString,
    generation: i32,
    /// The end of the partition that was produced to last.
    offset: i64,
}

/// Reads the answer to a request.
type Answer = Box<dyn FnOnce(Bytes, &mut Known) -> Result<()>>;

struct Client {
    line: Line,
    waiting: VecDeque<Answer>,
    /// Raw octets were sent: whatever comes may answer them.
    raw: bool,
}

impl Client {
    fn open(doors: &Doors) -> Client {
        Client { line: Line::open(&doors.kafka), waiting: VecDeque::new(), raw: false }
    }

    /// Sends a request in a version that the choice finds, mostly one that exists.
    async fn send<R: RequestBody>(
        &mut self,
        choice: u8,
        request: &R,
        learn: impl FnOnce(R::Response, &mut Known) + 'static,
    ) {
        let range = R::API.range();
        let versions = range.max_version - range.min_version + 1;
        let version = range.max_version - i16::from(choice) % versions;
        let Ok(frame) = encode_request(version, 0, None, request) else { return };
        self.waiting.push_back(Box::new(move |frame, known| {
            learn(decode_response(frame, version)?.1, known);
            Ok(())
        }));
        self.line.write(&frame.to_bytes()).await;
    }

    async fn operate(&mut self, operation: u8, input: &mut Input, known: &mut Known) {
        let version = input.byte();
        match operation {
            0 | 1 => self.create_topic(version, input).await,
            2..=7 => self.produce(version, operation, input, known).await,
            8 | 9 => self.fetch(version, input, known).await,
            10 => self.list_offsets(version, input).await,
            11 | 12 => self.commit(version, input, known).await,
            13 => self.fetch_offsets(version, input).await,
            14 | 15 => self.join(version, input, known).await,
            16 => self.sync(version, input, known).await,
            17 => self.heartbeat(version, input, known).await,
            18 => {
                let member = MemberIdentity { member_id: known.member.clone(), ..MemberIdentity::default() };
                let request = LeaveGroupRequest {
                    group_id: ByteString::from_static(input.one(GROUPS)),
                    member_id: known.member.clone(),
                    members: vec![member; usize::from(input.below(3))],
                };
                // Only the oldest versions have room for one member, only the newer ones for several.
                self.send(version, &request, |_, _| {}).await;
            }
            19 => self.init_producer_id(version, input, known).await,
            20 => self.delete_topic(version, input).await,
            21 => self.delete_records(version, input, known).await,
            22 => {
                let name = Some(ByteString::from_static(input.one(TOPICS)));
                let topic = MetadataRequestTopic { name, ..MetadataRequestTopic::default() };
                let request = MetadataRequest {
                    topics: Some(vec![topic; usize::from(input.below(3))]),
                    allow_auto_topic_creation: input.flags()[0],
                    ..MetadataRequest::default()
                };
                self.send(version, &request, |_, _| {}).await;
            }
            23 => {
                let group = ByteString::from_static(input.one(GROUPS));
                let request = FindCoordinatorRequest {
                    key: group.clone(),
                    key_type: input.near(0) as i8,
                    coordinator_keys: vec![group],
                };
                self.send(version, &request, |_, _| {}).await;
            }
            24 => {
                let groups_names = vec![ByteString::from_static(input.one(GROUPS))];
                self.send(version, &DeleteGroupsRequest { groups_names }, |_, _| {}).await;
            }
            25 => {
                let groups = vec![ByteString::from_static(input.one(GROUPS))];
                let request = DescribeGroupsRequest { groups, ..DescribeGroupsRequest::default() };
                self.send(version, &request, |_, _| {}).await;
            }
            26 => self.create_partitions(version, input).await,
            27 => self.line.cut(),
            28 => self.raw_request(version, input).await,
            29 => {
                self.raw = true;
                let octets = input.bytes(64);
                self.line.write(&octets).await;
            }
            _ => sleep(input.pause(40)).await,
        }
    }

    async fn heartbeat(&mut self, version: u8, input: &mut Input, known: &mut Known) {
        let request = HeartbeatRequest {
            group_id: ByteString::from_static(input.one(GROUPS)),
            generation_id: near_i32(input, known.generation),
            member_id: known.member.clone(),
            ..HeartbeatRequest::default()
        };
        self.send(version, &request, |_, _| {}).await;
    }

    async fn create_topic(&mut self, version: u8, input: &mut Input) {
        let name = ByteString::from_static(input.one(TOPICS));
        let num_partitions = i32::from(input.one([1_i8, 2, 3, -1, 0]));
        let config =
            input.one(["", "retention.ms", "retention.bytes", "segment.bytes", "cleanup.policy", "x"]);
        let value = input.one(["100", "1", "compact", "-1", "0", "99999999999999999999"]);
        let config = CreatableTopicConfig {
            name: ByteString::from_static(config),
            value: Some(ByteString::from_static(value)),
        };
        let configs = if config.name.is_empty() { Vec::new() } else { vec![config] };
        let topic = CreatableTopic {
            name,
            num_partitions,
            replication_factor: 1,
            configs,
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
        self.send(version, &request, |_, _| {}).await;
    }

    async fn produce(&mut self, version: u8, operation: u8, input: &mut Input, known: &mut Known) {
        let name = ByteString::from_static(input.one(TOPICS));
        let index = i32::from(input.below(3));
        let acks = input.one([-1, 1, -1, 0, 1, 2]);
        // 2 to 4: without a producer id; 5 to 7: with one, counting.
        let records = batch(operation >= 5, input, known);
        let data = PartitionProduceData { index, records: Some(records) };
        let partition_data = vec![data; 1 + usize::from(input.below(8) == 7)];
        let topic = TopicProduceData { name, partition_data, ..TopicProduceData::default() };
        let request =
            ProduceRequest { acks, timeout_ms: 1_000, topic_data: vec![topic], ..ProduceRequest::default() };
        self.send(version, &request, |answer: ProduceResponse, known| {
            let partitions = answer.responses.into_iter().flat_map(|topic| topic.partition_responses);
            for partition in partitions.filter(|partition| partition.error_code == ErrorCode::None) {
                known.offset = partition.base_offset;
            }
        })
        .await;
        if acks == 0 {
            self.waiting.pop_back();
        }
    }

    async fn fetch(&mut self, version: u8, input: &mut Input, known: &mut Known) {
        let partition = FetchPartition {
            partition: i32::from(input.below(3)),
            fetch_offset: input.near(known.offset),
            partition_max_bytes: near_i32(input, 1 << 16),
            ..FetchPartition::default()
        };
        let topic = FetchTopic {
            topic: ByteString::from_static(input.one(TOPICS)),
            partitions: vec![partition],
            ..FetchTopic::default()
        };
        let request = FetchRequest {
            max_wait_ms: input.one([0, 0, 5, 100, -1]),
            min_bytes: input.one([0, 1, 1, 1_000_000, -1]),
            max_bytes: near_i32(input, 1 << 16),
            session_id: near_i32(input, 0),
            session_epoch: input.one([-1, -1, 0, 1]),
            isolation_level: input.one([0, 1, 2]),
            topics: vec![topic],
            ..FetchRequest::default()
        };
        self.send(version, &request, |_, _| {}).await;
    }

    async fn list_offsets(&mut self, version: u8, input: &mut Input) {
        let partition = ListOffsetsPartition {
            partition_index: i32::from(input.below(3)),
            timestamp: input.near(-1),
            ..ListOffsetsPartition::default()
        };
        let topic = ListOffsetsTopic {
            name: ByteString::from_static(input.one(TOPICS)),
            partitions: vec![partition],
        };
        let request = ListOffsetsRequest { topics: vec![topic], ..ListOffsetsRequest::default() };
        self.send(version, &request, |_, _| {}).await;
    }

    async fn commit(&mut self, version: u8, input: &mut Input, known: &Known) {
        let [member, ..] = input.flags();
        let partition = OffsetCommitRequestPartition {
            partition_index: i32::from(input.below(3)),
            committed_offset: input.near(known.offset),
            committed_metadata: Some(ByteString::from_static(input.one(["", "m"]))),
            ..OffsetCommitRequestPartition::default()
        };
        let topic = OffsetCommitRequestTopic {
            name: ByteString::from_static(input.one(TOPICS)),
            partitions: vec![partition],
        };
        let request = OffsetCommitRequest {
            group_id: ByteString::from_static(input.one(GROUPS)),
            generation_id_or_member_epoch: if member { near_i32(input, known.generation) } else { -1 },
            member_id: if member { known.member.clone() } else { ByteString::new() },
            topics: vec![topic],
            ..OffsetCommitRequest::default()
        };
        self.send(version, &request, |_, _| {}).await;
    }

    async fn fetch_offsets(&mut self, version: u8, input: &mut Input) {
        let group_id = ByteString::from_static(input.one(GROUPS));
        let topic = OffsetFetchRequestTopic {
            name: ByteString::from_static(input.one(TOPICS)),
            partition_indexes: vec![0, 1, i32::from(input.below(3))],
        };
        let topics = (!input.flags()[0]).then(|| vec![topic]);
        // Which of the two is written depends on the version.
        let one = OffsetFetchRequest {
            group_id: group_id.clone(),
            topics: topics.clone(),
            ..OffsetFetchRequest::default()
        };
        let group = OffsetFetchRequestGroup { group_id, topics, ..OffsetFetchRequestGroup::default() };
        let several = OffsetFetchRequest { groups: vec![group], ..OffsetFetchRequest::default() };
        self.send(version, &one, |_, _| {}).await;
        self.send(version, &several, |_, _| {}).await;
    }

    async fn join(&mut self, version: u8, input: &mut Input, known: &Known) {
        let [again, fixed, ..] = input.flags();
        let protocol = JoinGroupRequestProtocol {
            name: ByteString::from_static(input.one(["range", "sticky", ""])),
            metadata: Bytes::from(input.bytes(16)),
        };
        let request = JoinGroupRequest {
            group_id: ByteString::from_static(input.one(GROUPS)),
            session_timeout_ms: near_i32(input, 10_000),
            rebalance_timeout_ms: near_i32(input, 500),
            member_id: if again { known.member.clone() } else { ByteString::new() },
            group_instance_id: fixed.then(|| ByteString::from_static("i1")),
            protocol_type: ByteString::from_static(input.one(["consumer", "consumer", "connect", ""])),
            protocols: vec![protocol],
            ..JoinGroupRequest::default()
        };
        self.send(version, &request, |answer, known| {
            if !answer.member_id.is_empty() {
                (known.member, known.generation) = (answer.member_id, answer.generation_id);
            }
        })
        .await;
    }

    async fn sync(&mut self, version: u8, input: &mut Input, known: &Known) {
        let assignment = SyncGroupRequestAssignment {
            member_id: known.member.clone(),
            assignment: Bytes::from(input.bytes(16)),
        };
        let request = SyncGroupRequest {
            group_id: ByteString::from_static(input.one(GROUPS)),
            generation_id: near_i32(input, known.generation),
            member_id: known.member.clone(),
            protocol_type: Some(ByteString::from_static("consumer")),
            protocol_name: Some(ByteString::from_static("range")),
            assignments: vec![assignment; usize::from(input.below(3))],
            ..SyncGroupRequest::default()
        };
        self.send(version, &request, |_, _| {}).await;
    }

    async fn init_producer_id(&mut self, version: u8, input: &mut Input, known: &Known) {
        let [again, transactional, ..] = input.flags();
        let request = InitProducerIdRequest {
            transactional_id: transactional.then(|| ByteString::from_static("x")),
            transaction_timeout_ms: near_i32(input, 60_000),
            producer_id: if again { input.near(known.producer.0) } else { -1 },
            producer_epoch: if again { input.near(known.producer.1.into()) as i16 } else { -1 },
        };
        self.send(version, &request, |answer, known| {
            if answer.error_code == ErrorCode::None {
                known.producer = (answer.producer_id, answer.producer_epoch);
                known.sequence = 0;
            }
        })
        .await;
    }

    async fn delete_topic(&mut self, version: u8, input: &mut Input) {
        let name = ByteString::from_static(input.one(TOPICS));
        let by_state = DeleteTopicState { name: Some(name.clone()), ..DeleteTopicState::default() };
        let request = if input.flags()[0] {
            DeleteTopicsRequest { topic_names: vec![name], ..DeleteTopicsRequest::default() }
        } else {
            DeleteTopicsRequest { topics: vec![by_state], ..DeleteTopicsRequest::default() }
        };
        self.send(version, &request, |_, _| {}).await;
    }

    async fn delete_records(&mut self, version: u8, input: &mut Input, known: &Known) {
        let partition = DeleteRecordsPartition {
            partition_index: i32::from(input.below(3)),
            offset: input.near(known.offset),
        };
        let topic = DeleteRecordsTopic {
            name: ByteString::from_static(input.one(TOPICS)),
            partitions: vec![partition],
        };
        let request = DeleteRecordsRequest { topics: vec![topic], ..DeleteRecordsRequest::default() };
        self.send(version, &request, |_, _| {}).await;
    }

    async fn create_partitions(&mut self, version: u8, input: &mut Input) {
        let topic = CreatePartitionsTopic {
            name: ByteString::from_static(input.one(TOPICS)),
            count: near_i32(input, 3).min(8),
            ..CreatePartitionsTopic::default()
        };
        let request = CreatePartitionsRequest { topics: vec![topic], ..CreatePartitionsRequest::default() };
        self.send(version, &request, |_, _| {}).await;
    }

    /// A frame of the right length with an API, a version and a body that the fuzzer likes.
    async fn raw_request(&mut self, version: u8, input: &mut Input) {
        self.raw = true;
        let api = i16::from(input.below(75));
        let mut octets = Vec::from(api.to_be_bytes());
        octets.extend(i16::from(version).to_be_bytes());
        octets.extend([0, 0, 0, 1, 0xff, 0xff]);
        octets.extend(input.bytes(96));
        let mut framed = Vec::from((octets.len() as u32).to_be_bytes());
        framed.extend(octets);
        self.line.write(&framed).await;
    }

    /// Reads what has arrived: it answers what was asked, in order.
    async fn listen(&mut self, known: &mut Known) -> Result<()> {
        self.line.listen().await;
        while let Some(frame) = split_frame(&mut self.line.input, FRAME_BYTES_MAX)? {
            let answer = self.waiting.pop_front();
            if self.raw {
                continue;
            }
            answer.context("an answer to no question")?(frame, known)?;
        }
        Ok(())
    }
}

fn near_i32(input: &mut Input, expected: i32) -> i32 {
    input.near(expected.into()) as i32
}

/// A batch of up to four records; now and then damaged, with or without a checksum that fits.
fn batch(idempotent: bool, input: &mut Input, known: &mut Known) -> Bytes {
    let count = 1 + i32::from(input.below(4));
    let mut builder = BatchBuilder::new(0, -1);
    for at in 0..i64::from(count) {
        let key = input.one([None, Some(&b"k"[..])]);
        let value = [b'v'; 64];
        let _ = builder.push(at, input.near(1), key, Some(&value[..usize::from(input.below(64))]), &[]);
    }
    let mut batch = BytesMut::from(&builder.finish()[..]);
    if idempotent {
        // Producer id, epoch and first sequence number follow the timestamps.
        let sequence = near_i32(input, known.sequence);
        known.sequence = sequence.wrapping_add(count);
        batch[43..51].copy_from_slice(&input.near(known.producer.0).to_be_bytes());
        batch[51..53].copy_from_slice(&(input.near(known.producer.1.into()) as i16).to_be_bytes());
        batch[53..57].copy_from_slice(&sequence.to_be_bytes());
    }
    let damage = input.byte();
    if damage >= 192 {
        for _ in 0..=damage & 3 {
            let at = usize::from(input.byte()) % batch.len();
            batch[at] = input.byte();
        }
    }
    if damage < 240 {
        let checksum = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    }
    if damage == 255 {
        let cut = usize::from(input.byte()) % batch.len();
        batch.truncate(cut);
    }
    batch.freeze()
}

/// A new client creates a topic, produces to it and fetches what it produced.
async fn serves(doors: &Doors) -> Result<()> {
    let topic = CreatableTopic {
        name: ByteString::from_static(PROBE),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let create = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
    let mut client = Client::open(doors);
    let created = call(&mut client, 5, &create).await?;
    let fine = created.topics.first().is_some_and(|topic| topic.error_code == ErrorCode::None);
    ensure!(fine, "a new topic is refused: {created:?}");

    let mut builder = BatchBuilder::new(0, -1);
    ensure!(builder.push(0, 1, None, Some(b"still here"), &[]), "a small record fits");
    let data = PartitionProduceData { index: 0, records: Some(builder.finish()) };
    let name = ByteString::from_static(PROBE);
    let topic = TopicProduceData { name, partition_data: vec![data], ..TopicProduceData::default() };
    let produce =
        ProduceRequest { acks: -1, timeout_ms: 1_000, topic_data: vec![topic], ..ProduceRequest::default() };
    let produced = call(&mut client, 9, &produce).await?;
    let answer = produced.responses.first().and_then(|topic| topic.partition_responses.first());
    let fine = answer.is_some_and(|partition| partition.error_code == ErrorCode::None);
    ensure!(fine, "a record is refused: {produced:?}");

    let partition = FetchPartition { partition_max_bytes: 1 << 16, ..FetchPartition::default() };
    let topic = ByteString::from_static(PROBE);
    let topic = FetchTopic { topic, partitions: vec![partition], ..FetchTopic::default() };
    let fetch = FetchRequest { min_bytes: 1, topics: vec![topic], ..FetchRequest::default() };
    let fetched = call(&mut client, 12, &fetch).await?;
    ensure!(holds_the_probe(&fetched)?, "the record is not there: {fetched:?}");
    Ok(())
}

fn holds_the_probe(fetched: &FetchResponse) -> Result<bool> {
    let partitions = fetched.responses.iter().flat_map(|topic| &topic.partitions);
    for records in partitions.map(|partition| &partition.records) {
        for batch in records.chunks().iter().flat_map(|chunk| batches(chunk_bytes(chunk))) {
            for record in batch?.records(1 << 16)? {
                if record?.value.as_deref() == Some(b"still here") {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

async fn call<R: RequestBody>(client: &mut Client, version: i16, request: &R) -> Result<R::Response> {
    client.line.write(&encode_request(version, 0, None, request)?.to_bytes()).await;
    for _ in 0..PATIENCE_MS {
        client.line.listen().await;
        if let Some(frame) = split_frame(&mut client.line.input, FRAME_BYTES_MAX)? {
            return Ok(decode_response(frame, version)?.1);
        }
        ensure!(client.line.is_open(), "a new connection is closed");
        sleep(Duration::from_millis(1)).await;
    }
    bail!("a new connection is not served")
}
