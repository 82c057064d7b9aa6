//! Kafka.

use super::{BODY_BYTES, rounds};
use crate::{
    client::{Stream, body},
    world::Doors,
};
use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use posthaste_kafka::wire::{
    ErrorCode, Request, RequestBody, decode_request, decode_response, encode_request,
    messages::{
        create_topics::{CreatableTopic, CreateTopicsRequest},
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
    },
    records::{BatchBuilder, RecordChunk, batches},
    split_frame,
};

const TOPIC: ByteString = ByteString::from_static("profile");
const PARTITIONS: i32 = 4;
/// What fits into 16 KiB, the clients' `batch.size`.
const BATCH_RECORDS: u32 = 15;
const REQUEST_RECORDS: u32 = BATCH_RECORDS * PARTITIONS as u32;
/// Requests that are sent before their answers are awaited: the clients'
/// `max.in.flight.requests.per.connection`.
const IN_FLIGHT: u32 = 5;
const CREATE_TOPICS_VERSION: i16 = 5;
const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
const FRAME_BYTES_MAX: usize = 16 << 20;
/// What is read again and again.
const KEPT_RECORDS: u32 = 50 * REQUEST_RECORDS;

/// Produce requests, taken apart and their batches verified.
pub fn decode(messages: u32) -> Result<()> {
    let octets = produce_octets()?;
    for _ in rounds(messages, REQUEST_RECORDS) {
        let mut input = BytesMut::from(&octets[..]);
        let frame = split_frame(&mut input, FRAME_BYTES_MAX)?.context("the request is not whole")?;
        let (_, Request::Produce(request)) = decode_request(frame)? else {
            anyhow::bail!("not a produce request")
        };
        for data in request.topic_data.into_iter().flat_map(|topic| topic.partition_data) {
            for batch in batches(data.records.unwrap_or_default()) {
                batch?.verify_checksum()?;
            }
        }
    }
    Ok(())
}

pub async fn produce(doors: Doors, messages: u32) -> Result<()> {
    let mut connection = Connection { stream: Stream::new(doors.kafka()) };
    connection.create_topic().await?;
    connection.produce(messages).await
}

/// Reads from the beginning again and again, all partitions in each request.
pub async fn fetch(doors: Doors, messages: u32) -> Result<()> {
    let mut connection = Connection { stream: Stream::new(doors.kafka()) };
    connection.create_topic().await?;
    connection.produce(KEPT_RECORDS).await?;
    let mut left = messages;
    let mut positions = [0; PARTITIONS as usize];
    while left > 0 {
        let read = connection.fetch(&mut positions).await?;
        if read == 0 {
            positions = [0; PARTITIONS as usize];
        }
        left = left.saturating_sub(read);
    }
    Ok(())
}

struct Connection {
    stream: Stream,
}

impl Connection {
    async fn call<R: RequestBody>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        let frame = encode_request(version, 0, None, request)?;
        self.stream.write(&frame.to_bytes()).await?;
        Ok(decode_response(self.frame().await?, version)?.1)
    }

    async fn frame(&mut self) -> Result<Bytes> {
        loop {
            if let Some(frame) = split_frame(&mut self.stream.input, FRAME_BYTES_MAX)? {
                return Ok(frame);
            }
            self.stream.fill().await?;
        }
    }

    async fn create_topic(&mut self) -> Result<()> {
        let topic = CreatableTopic {
            name: TOPIC,
            num_partitions: PARTITIONS,
            replication_factor: 1,
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
        for topic in self.call(CREATE_TOPICS_VERSION, &request).await?.topics {
            ensure!(topic.error_code == ErrorCode::None, "CreateTopics: {}", topic.error_code.name());
        }
        Ok(())
    }

    async fn produce(&mut self, messages: u32) -> Result<()> {
        let octets = produce_octets()?;
        for count in rounds(messages.div_ceil(REQUEST_RECORDS), IN_FLIGHT) {
            for _ in 0..count {
                self.stream.write(&octets).await?;
            }
            for _ in 0..count {
                let response = decode_response::<<ProduceRequest as RequestBody>::Response>(
                    self.frame().await?,
                    PRODUCE_VERSION,
                )?;
                for partition in response.1.responses.iter().flat_map(|topic| &topic.partition_responses) {
                    let error = partition.error_code;
                    ensure!(error == ErrorCode::None, "Produce: {}", error.name());
                }
            }
        }
        Ok(())
    }

    /// Returns how many records came.
    async fn fetch(&mut self, positions: &mut [i64; PARTITIONS as usize]) -> Result<u32> {
        let partition = |(partition, offset): (i32, &i64)| FetchPartition {
            partition,
            current_leader_epoch: -1,
            fetch_offset: *offset,
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        };
        let partitions = (0..).zip(&*positions).map(partition).collect();
        let request = FetchRequest {
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: 1 << 20,
            topics: vec![FetchTopic { topic: TOPIC, partitions, ..FetchTopic::default() }],
            ..FetchRequest::default()
        };
        let answer = self.call(FETCH_VERSION, &request).await?;
        let mut read = 0;
        for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            ensure!(partition.error_code == ErrorCode::None, "Fetch: {}", partition.error_code.name());
            for chunk in partition.records.chunks() {
                let records = records(chunk)?;
                positions[partition.partition_index as usize] += i64::from(records);
                read += records;
            }
        }
        Ok(read)
    }
}

fn records(chunk: &RecordChunk) -> Result<u32> {
    let (RecordChunk::Verbatim(bytes) | RecordChunk::Rebased { batch: bytes, .. }) = chunk;
    let mut records = 0;
    for batch in batches(bytes.clone()) {
        records += u32::try_from(batch?.header().records_count)?;
    }
    Ok(records)
}

/// A request with one batch for each partition.
fn produce_octets() -> Result<Bytes> {
    let value = body(BODY_BYTES);
    let mut batch = BatchBuilder::new(0, -1);
    for n in 0..BATCH_RECORDS {
        ensure!(batch.push(n.into(), 1_767_225_600_000, None, Some(&value), &[]), "the batch is full");
    }
    let batch = batch.finish();
    let data = |index| PartitionProduceData { index, records: Some(batch.clone()) };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: TOPIC,
            partition_data: (0..PARTITIONS).map(data).collect(),
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    };
    Ok(encode_request(PRODUCE_VERSION, 0, None, &request)?.to_bytes())
}
