//! `kafka`: produce with acks=all over a few connections, each with up to five requests in flight.

use crate::{
    Common,
    broker::{self, Broker, Place},
    floor::Floor,
    load::{self, Outcome, Run, Tally, Window, Worker},
    machine,
    report::Report,
};
use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use posthaste_kafka::wire::{
    ErrorCode, RequestBody, decode_response, encode_request,
    messages::{
        create_topics::{CreatableTopic, CreateTopicsRequest},
        produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData},
    },
    records::BatchBuilder,
    split_frame,
};
use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// What clients use by default: `max.in.flight.requests.per.connection`.
const IN_FLIGHT_MAX: usize = 5;
/// How long a new topic may be without leaders.
const LEADERS_WITHIN: Duration = Duration::from_secs(30);
const CREATE_TOPICS_VERSION: i16 = 5;
const PRODUCE_VERSION: i16 = 9;
/// Where a request's correlation id stands, behind length, API key and version.
const CORRELATION_ID_AT: std::ops::Range<usize> = 8..12;
const RESPONSE_BYTES_MAX: usize = 1 << 20;
const TOPIC: ByteString = ByteString::from_static("bench");

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    run: Run,
    /// Bytes of a batch (`batch.size`; 16 KiB is the clients' default)
    #[arg(long, default_value_t = 16 << 10, value_parser = clap::value_parser!(u32).range(128..=8 << 20))]
    batch_bytes: u32,
    /// Any Kafka broker that listens there and has the topic `bench`, in place of ours: only load is reported
    #[arg(long, value_name = "HOST:PORT")]
    at: Option<SocketAddr>,
    /// Partitions of the topic
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,
    /// Batches in one request, each for another partition; the Java client sends one for every partition
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=1000))]
    request_batches: i32,
}

/// Runs the benchmark.
pub fn run(common: &Common, options: &Options) -> Result<Report> {
    if let Some(at) = options.at {
        wait_for_leaders(options, at)?;
        let workers = workers(options, || broker::connect(at))?;
        return load::run_remote("Kafka produce", &options.run, workers);
    }
    let place = Place::find(common)?;
    let mut report = Report::new("Kafka produce, acks=all");
    machine::describe(&mut report, place.directory()?.path());
    let Options { batch_bytes, partitions, request_batches, run, .. } = options;
    report.fact(
        "load",
        format!(
            "{} connections, {IN_FLIGHT_MAX} requests in flight each, {request_batches} batches of up to {batch_bytes} \
             bytes a request, {} bytes a record, {partitions} partitions",
            run.connections, run.message_bytes
        ),
    );
    let rounds = (0..run.rounds).map(|_| round(&place, options)).collect::<Result<Vec<_>>>()?;
    report.fact("durability", load::durability(&rounds));
    let mut table = load::table();
    load::rows(&mut table, "produce", run.message_bytes, rounds);
    report.table(table);
    Ok(report)
}

fn round(place: &Place, options: &Options) -> Result<(Outcome, Floor)> {
    let directory = place.directory()?;
    let broker = Broker::start(place, directory.path())?;
    create_topic(&broker, options.partitions)?;
    let workers = workers(options, || broker.connect("kafka"))?;
    let outcome = load::run(&broker, &options.run, workers)?;
    broker.kill()?;
    let floor = load::bare_disk(place, directory.path(), &options.run)?;
    Ok((outcome, floor))
}

/// A topic that was just made takes nothing until its partitions have leaders.
fn wait_for_leaders(options: &Options, at: SocketAddr) -> Result<()> {
    let mut load = Load::new(options)?;
    let begin = Instant::now();
    loop {
        let mut connection = Connection::new(broker::connect(at)?);
        let each = (0..load.requests.len()).try_for_each(|which| {
            connection.send(&mut load.requests, which)?;
            connection.acknowledged().map(|_| ())
        });
        match each {
            Err(error) if begin.elapsed() > LEADERS_WITHIN => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(100)),
            Ok(()) => return Ok(()),
        }
    }
}

fn workers(options: &Options, connect: impl Fn() -> Result<TcpStream>) -> Result<Vec<Worker>> {
    let load = Load::new(options)?;
    let workers = (0..options.run.connections).map(|n| {
        let (stream, load) = (connect()?, load.clone());
        Ok(Box::new(move |window| load.until_end(Connection::new(stream), n as usize, window)) as Worker)
    });
    workers.collect()
}

/// Makes the topic.
pub fn create_topic(broker: &Broker, partitions: i32) -> Result<()> {
    let topic = CreatableTopic {
        name: TOPIC,
        num_partitions: partitions,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
    let mut connection = Connection::new(broker.connect("kafka")?);
    let response = connection.call(CREATE_TOPICS_VERSION, &request)?;
    for topic in response.topics {
        ensure!(topic.error_code == ErrorCode::None, "CreateTopics: {}", topic.error_code.name());
    }
    Ok(())
}

/// Fills the topic with this many records, as fast as it goes.
pub fn fill(
    broker: &Broker,
    records: u64,
    record_bytes: u32,
    batch_bytes: u32,
    partitions: i32,
) -> Result<()> {
    let shape = Shape { record_bytes, batch_bytes, partitions, request_batches: partitions };
    let mut load = Load::of(shape, u32::MAX)?;
    let mut connection = Connection::new(broker.connect("kafka")?);
    let mut left = records;
    while left > 0 || !connection.in_flight.is_empty() {
        while left >= load.request_records && connection.in_flight.len() < IN_FLIGHT_MAX {
            connection.send(&mut load.requests, 0)?;
            left -= load.request_records;
        }
        if connection.in_flight.is_empty() {
            // The last few go in batches of their own.
            let rest = u32::try_from(left.min(1000)).unwrap_or(u32::MAX);
            let mut load = Load::of(Shape { partitions: 1, request_batches: 1, ..shape }, rest)?;
            connection.send(&mut load.requests, 0)?;
            left -= load.request_records;
        }
        connection.acknowledged()?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Shape {
    record_bytes: u32,
    batch_bytes: u32,
    partitions: i32,
    request_batches: i32,
}

/// Requests, encoded beforehand: they differ in their partitions.
#[derive(Clone)]
struct Load {
    requests: Vec<Vec<u8>>,
    request_records: u64,
}

impl Load {
    fn new(options: &Options) -> Result<Load> {
        ensure!(
            options.request_batches <= options.partitions,
            "a request has at most one batch for a partition"
        );
        let shape = Shape {
            record_bytes: options.run.message_bytes,
            batch_bytes: options.batch_bytes,
            partitions: options.partitions,
            request_batches: options.request_batches,
        };
        Load::of(shape, u32::MAX)
    }

    /// Batches hold as many records as fit, and at most `records_max`.
    fn of(shape: Shape, records_max: u32) -> Result<Load> {
        let (batch, records) = batch(shape.record_bytes, shape.batch_bytes, records_max);
        let requests = (0..shape.partitions).map(|first| {
            let indexes = (0..shape.request_batches).map(|n| (first + n) % shape.partitions);
            let data = |index| PartitionProduceData { index, records: Some(batch.clone()) };
            let request = ProduceRequest {
                acks: -1,
                timeout_ms: 30_000,
                topic_data: vec![TopicProduceData {
                    name: TOPIC,
                    partition_data: indexes.map(data).collect(),
                    ..TopicProduceData::default()
                }],
                ..ProduceRequest::default()
            };
            Ok(encode_request(PRODUCE_VERSION, 0, None, &request)?.to_bytes().to_vec())
        });
        let request_records = u64::from(records) * u64::from(shape.request_batches.unsigned_abs());
        Ok(Load { requests: requests.collect::<Result<_>>()?, request_records })
    }

    /// Produces on one connection, beginning with the request `first`.
    fn until_end(mut self, mut connection: Connection, first: usize, window: Window) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut next = first;
        let messages = u32::try_from(self.request_records)?;
        loop {
            let ended = Instant::now() >= window.end;
            while !ended && connection.in_flight.len() < IN_FLIGHT_MAX {
                connection.send(&mut self.requests, next)?;
                next += 1;
            }
            if connection.in_flight.is_empty() {
                return Ok(tally);
            }
            let sent = connection.acknowledged()?;
            let now = Instant::now();
            if window.holds(now) {
                tally.acknowledged += self.request_records;
                tally.latencies.record(now - sent, messages);
            }
        }
    }
}

/// A batch with as many records as `batch_bytes` takes, and at most `records_max`; and how many it has.
fn batch(record_bytes: u32, batch_bytes: u32, records_max: u32) -> (Bytes, u32) {
    let value: Vec<u8> = (0..record_bytes).map(|at| (at.wrapping_mul(2_654_435_769) >> 24) as u8).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(0);
    let mut batch = BatchBuilder::new(0, -1);
    let mut records = 0;
    // 14 bytes are the record's own lengths and deltas at most, as long as it has neither key nor headers.
    while records < records_max.max(1)
        && (records == 0 || batch.len() + record_bytes as usize + 14 <= batch_bytes as usize)
        && batch.push(records.into(), now, None, Some(&value), &[])
    {
        records += 1;
    }
    (batch.finish(), records)
}

/// A client's connection.
struct Connection {
    stream: TcpStream,
    received: BytesMut,
    buffer: Vec<u8>,
    correlation_id: i32,
    /// When each request was sent that is not answered yet, oldest first, with its correlation id.
    in_flight: VecDeque<(i32, Instant)>,
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        Connection {
            stream,
            received: BytesMut::new(),
            buffer: vec![0; 16 << 10],
            correlation_id: 0,
            in_flight: VecDeque::new(),
        }
    }

    fn call<R: RequestBody>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        let frame = encode_request(version, 0, None, request)?;
        self.stream.write_all(&frame.to_bytes())?;
        let answer = self.frame()?;
        Ok(decode_response(answer, version)?.1)
    }

    /// Sends one of the encoded requests, counted round, with a correlation id of its own.
    fn send(&mut self, requests: &mut [Vec<u8>], which: usize) -> Result<()> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let count = requests.len();
        let request = &mut requests[which % count];
        request[CORRELATION_ID_AT].copy_from_slice(&self.correlation_id.to_be_bytes());
        self.in_flight.push_back((self.correlation_id, Instant::now()));
        self.stream.write_all(request).context("cannot write to the broker")
    }

    /// Waits for the oldest request's answer and tells when it was sent.
    fn acknowledged(&mut self) -> Result<Instant> {
        let frame = self.frame()?;
        let (id, response): (i32, ProduceResponse) = decode_response(frame, PRODUCE_VERSION)?;
        let (expected, sent) = self.in_flight.pop_front().context("an answer to nothing")?;
        ensure!(id == expected, "answer {id} instead of {expected}");
        for partition in response.responses.iter().flat_map(|topic| &topic.partition_responses) {
            ensure!(partition.error_code == ErrorCode::None, "Produce: {}", partition.error_code.name());
        }
        Ok(sent)
    }

    fn frame(&mut self) -> Result<Bytes> {
        loop {
            if let Some(frame) = split_frame(&mut self.received, RESPONSE_BYTES_MAX)? {
                return Ok(frame);
            }
            let read = self.stream.read(&mut self.buffer).context("cannot read from the broker")?;
            ensure!(read > 0, "the broker closed the connection");
            self.received.extend_from_slice(&self.buffer[..read]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_kafka::wire::records::batches;

    #[test]
    fn batches_are_as_large_as_they_may_be() {
        for (record_bytes, batch_bytes, records_max, expect) in [
            (1024, 16 << 10, u32::MAX, 15),
            (100, 16 << 10, u32::MAX, 148),
            (100, 16 << 10, 7, 7),
            (1024, 128, 9, 1),
        ] {
            let (bytes, records) = batch(record_bytes, batch_bytes, records_max);
            assert_eq!(records, expect);
            assert!(expect == 1 || bytes.len() <= batch_bytes as usize);
            let batch = batches(bytes).next().unwrap().unwrap();
            batch.verify_checksum().unwrap();
            assert_eq!(batch.records(1 << 20).unwrap().count(), expect as usize);
        }
    }
}
