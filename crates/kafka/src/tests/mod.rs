//! The adapter as its clients see it: requests in, responses out, on a broker in a directory of its own.

mod admin;
mod connection;
mod groups;
mod limits;
mod records;
mod rights;
mod tokens;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use posthaste_broker::{Broker, Client, Config, Credentials, Formats};
use posthaste_model::{Limits, Name};
use posthaste_net::{Close, Mailbox, Output, Peer, Protocol, Session};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::session::{Conversation, Event, Kafka};
use crate::wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use crate::wire::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};
use crate::wire::records::{BatchBuilder, RecordBatch};
use crate::wire::{ErrorCode, Frame, LENGTH_BYTES, RequestBody, decode_response, encode_request};

/// Longer than anything takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker on an empty directory.
struct World {
    broker: Broker,
    directory: Arc<TempDir>,
}

impl World {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), limits)
    }

    /// Stops the broker in an orderly way and starts it again on what it left.
    fn restart(self, limits: Limits) -> Self {
        let directory = self.directory.clone();
        drop(self);
        Self::on(directory, limits)
    }

    fn on(directory: Arc<TempDir>, limits: Limits) -> Self {
        let config = Config {
            data: directory.path().to_owned(),
            limits,
            formats: Formats::new([crate::codec()]),
            advertised: HashMap::from([("kafka".to_owned(), "kafka.test:9999".to_owned())]),
            threads: Some(1),
        };
        let broker = tokio::task::block_in_place(|| Broker::open(config)).unwrap();
        Self { broker, directory }
    }

    /// A connection from this machine.
    fn connect(&self) -> Talk {
        self.connect_from("127.0.0.1:5000")
    }

    fn connect_from(&self, address: &str) -> Talk {
        let address: SocketAddr = address.parse().unwrap();
        let (mailbox, events) = Mailbox::new();
        let peer = Peer::plain("kafka".into(), address, self.broker.next_connection());
        let conversation = Kafka::new(self.broker.clone()).open(peer, mailbox);
        Talk {
            conversation,
            events,
            out: Output::new(),
            input: BytesMut::new(),
            read: BytesMut::new(),
            sent: 0,
        }
    }

    /// What another adapter would use.
    async fn client(&self) -> Client {
        let principal =
            self.broker.authenticate(Credentials::Anonymous, [127, 0, 0, 1].into()).await.unwrap();
        self.broker.client(principal, Name::constant("default"), self.broker.next_connection())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| self.broker.stop());
    }
}

/// One conversation, with the test as the driver.
struct Talk {
    conversation: Conversation,
    events: mpsc::UnboundedReceiver<Event>,
    out: Output,
    input: BytesMut,
    read: BytesMut,
    sent: i32,
}

impl Talk {
    /// Hands in bytes as they would arrive.
    async fn input(&mut self, bytes: &[u8]) -> Result<(), Close> {
        self.input.extend_from_slice(bytes);
        self.conversation.input(&mut self.input, &mut self.out).await
    }

    /// Sends a request without waiting for its response; returns its correlation id.
    async fn send<R: RequestBody>(&mut self, version: i16, request: &R) -> Result<i32, Close> {
        let (correlation_id, frame) = self.frame(version, request);
        self.input(&frame.to_bytes()).await.map(|()| correlation_id)
    }

    fn frame<R: RequestBody>(&mut self, version: i16, request: &R) -> (i32, Frame) {
        self.sent += 1;
        let client_id = ByteString::from_static("test");
        (self.sent, encode_request(version, self.sent, Some(&client_id), request).unwrap())
    }

    /// The next response frame, if it has been written.
    fn written(&mut self) -> Option<Bytes> {
        self.read.extend_from_slice(&self.out.take());
        let length = u32::from_be_bytes(*self.read.first_chunk::<LENGTH_BYTES>()?) as usize;
        if self.read.len() < LENGTH_BYTES + length {
            return None;
        }
        self.read.advance(LENGTH_BYTES);
        Some(self.read.split_to(length).freeze())
    }

    /// Waits for the next response frame.
    async fn next_frame(&mut self) -> Result<Bytes, Close> {
        loop {
            if let Some(frame) = self.written() {
                return Ok(frame);
            }
            self.event().await?;
        }
    }

    /// Waits for the next event and handles it.
    async fn event(&mut self) -> Result<(), Close> {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap();
        self.conversation.event(event, &mut self.out).await
    }

    /// Waits for the next response, which must be this one.
    async fn response<R: RequestBody>(&mut self, version: i16) -> Result<(i32, R::Response), Close> {
        let frame = self.next_frame().await?;
        Ok(decode_response(frame, version).unwrap())
    }

    async fn ask<R: RequestBody>(&mut self, version: i16, request: &R) -> R::Response {
        let correlation_id = self.send(version, request).await.unwrap();
        let (answered, response) = self.response::<R>(version).await.unwrap();
        assert_eq!(answered, correlation_id);
        response
    }

    /// The text with which a request closes the connection.
    async fn closes<R: RequestBody>(&mut self, version: i16, request: &R) -> String {
        let closed = match self.send(version, request).await {
            Ok(_) => self.next_frame().await.err(),
            Err(close) => Some(close),
        };
        match closed {
            Some(Close::Error(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    async fn create_topic(
        &mut self,
        name: &'static str,
        partitions: i32,
        configs: &[(&'static str, &'static str)],
    ) {
        let config = |(name, value): &(&'static str, &'static str)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
        };
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: -1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let response = self.ask(7, &CreateTopicsRequest { topics: vec![topic], ..Default::default() }).await;
        assert_eq!(response.topics[0].error_code, ErrorCode::None, "{:?}", response.topics[0].error_message);
    }

    /// Produces to one partition with acks=all.
    async fn produce(
        &mut self,
        topic: &'static str,
        partition: i32,
        records: Bytes,
    ) -> PartitionProduceResponse {
        let request = produce(topic, partition, -1, records);
        let mut response = self.ask(9, &request).await;
        response.responses.remove(0).partition_responses.remove(0)
    }
}

fn produce(topic: &'static str, index: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData { index, records: Some(records) };
    let topic = TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 1000, topic_data: vec![topic], ..Default::default() }
}

/// A batch as a producer makes it, one record for each value.
fn batch(values: &[&str]) -> Bytes {
    batch_at(1_000, values)
}

/// A batch whose records are stamped with one millisecond more each.
fn batch_at(timestamp: i64, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(0, -1);
    for (offset, value) in (0..).zip(values) {
        assert!(builder.push(offset, timestamp + offset, None, Some(value.as_bytes()), &[]));
    }
    builder.finish()
}

/// The batch with other header bytes from `at` on, and the checksum put right.
fn patched(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut patched = batch.to_vec();
    patched[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&patched[21..]);
    patched[17..21].copy_from_slice(&crc.to_be_bytes());
    patched.into()
}

/// The batch as an idempotent producer sends it.
fn sequenced(batch: &Bytes, producer: i64, epoch: i16, sequence: i32) -> Bytes {
    let state = [&producer.to_be_bytes()[..], &epoch.to_be_bytes(), &sequence.to_be_bytes()].concat();
    patched(batch, 43, &state)
}

/// Offsets and values of all records.
fn values(records: &Bytes) -> Vec<(i64, String)> {
    let mut rest = records.clone();
    let mut values = Vec::new();
    while !rest.is_empty() {
        let batch = RecordBatch::split_from(&mut rest).unwrap();
        batch.verify_checksum().unwrap();
        for record in batch.records(1 << 20).unwrap().map(Result::unwrap) {
            let value = record.value.unwrap_or_default();
            values.push((record.offset, String::from_utf8(value.to_vec()).unwrap()));
        }
    }
    values
}
