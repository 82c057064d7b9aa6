//! Produce, Fetch, ListOffsets, OffsetForLeaderEpoch, DeleteRecords, InitProducerId.

use posthaste_model::{Envelope, Message, Subject, Timestamp};

use super::*;
use crate::wire::Uuid;
use crate::wire::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use crate::wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData};
use crate::wire::messages::init_producer_id::InitProducerIdRequest;
use crate::wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use crate::wire::messages::metadata::MetadataRequest;
use crate::wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use crate::wire::records::RecordChunk;

fn records_of(partition: &PartitionData) -> Bytes {
    let chunk = |chunk: &RecordChunk| match chunk {
        RecordChunk::Verbatim(bytes) => bytes.clone(),
        rebased => panic!("{rebased:?}"),
    };
    partition.records.chunks().iter().map(chunk).collect::<Vec<_>>().concat().into()
}

fn fetch(topic: &'static str, partitions: &[(i32, i64)]) -> FetchRequest {
    let partition = |(partition, fetch_offset): &(i32, i64)| FetchPartition {
        partition: *partition,
        fetch_offset: *fetch_offset,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let partitions = partitions.iter().map(partition).collect();
    let topic = FetchTopic { topic: topic.into(), partitions, ..Default::default() };
    FetchRequest { max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

async fn fetch_one(talk: &mut Talk, version: i16, request: &FetchRequest) -> PartitionData {
    let mut response = talk.ask(version, request).await;
    response.responses.remove(0).partitions.remove(0)
}

fn numbered(offsets: std::ops::Range<i64>) -> Vec<(i64, String)> {
    offsets.map(|offset| (offset, format!("v{offset}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_come_back_as_they_were_with_their_offsets() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    for (base, batch_values) in [(0, &["v0", "v1", "v2"][..]), (3, &["v3"]), (4, &["v4", "v5"])] {
        let response = talk.produce("t", 0, batch(batch_values)).await;
        assert_eq!((response.error_code, response.base_offset), (ErrorCode::None, base));
        assert_eq!((response.log_start_offset, response.log_append_time_ms), (0, -1));
    }
    for version in 4..=12 {
        let partition = fetch_one(&mut talk, version, &fetch("t", &[(0, 0)])).await;
        assert_eq!((partition.high_watermark, partition.last_stable_offset), (6, 6));
        assert_eq!(values(&records_of(&partition)), numbered(0..6));
    }
    // The batch that contains the offset comes whole.
    for (offset, first) in [(1, 0), (2, 0), (3, 3), (5, 4)] {
        let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, offset)])).await;
        assert_eq!(values(&records_of(&partition)), numbered(first..6));
    }
    let epoch = i32::try_from(world.broker.epoch()).unwrap();
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, 0)])).await;
    let batch = RecordBatch::split_from(&mut records_of(&partition)).unwrap();
    assert_eq!((batch.header().base_offset, batch.header().partition_leader_epoch), (0, epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_errors_are_of_partitions() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    talk.produce("t", 0, batch(&["v0"])).await;
    let epoch = i32::try_from(world.broker.epoch()).unwrap();
    let with_epoch = |current_leader_epoch| {
        let mut request = fetch("t", &[(0, 0)]);
        request.topics[0].partitions[0].current_leader_epoch = current_leader_epoch;
        request
    };
    for (request, expect) in [
        (fetch("t", &[(0, 1)]), ErrorCode::None),
        (fetch("t", &[(0, 2)]), ErrorCode::OffsetOutOfRange),
        (fetch("t", &[(0, -1)]), ErrorCode::OffsetOutOfRange),
        (fetch("t", &[(1, 0)]), ErrorCode::UnknownTopicOrPartition),
        (fetch("t", &[(-1, 0)]), ErrorCode::UnknownTopicOrPartition),
        (fetch("nowhere", &[(0, 0)]), ErrorCode::UnknownTopicOrPartition),
        (with_epoch(epoch), ErrorCode::None),
        (with_epoch(epoch - 1), ErrorCode::FencedLeaderEpoch),
        (with_epoch(epoch + 1), ErrorCode::UnknownLeaderEpoch),
    ] {
        let partition = fetch_one(&mut talk, 12, &request).await;
        assert_eq!(partition.error_code, expect, "{request:?}");
    }
    // Sessions are refused: one is neither given nor known.
    let response = talk.ask(12, &FetchRequest { session_epoch: 0, ..fetch("t", &[(0, 0)]) }).await;
    assert_eq!((response.error_code, response.session_id), (ErrorCode::None, 0));
    let response =
        talk.ask(12, &FetchRequest { session_id: 5, session_epoch: 1, ..fetch("t", &[(0, 0)]) }).await;
    assert_eq!(response.error_code, ErrorCode::FetchSessionIdNotFound);
    // An error is told at once, however long the client would wait.
    let request = FetchRequest { max_wait_ms: 1_000_000, min_bytes: 1, ..fetch("t", &[(0, 1), (0, 9)]) };
    let response = talk.ask(12, &request).await;
    assert_eq!(response.responses[0].partitions[1].error_code, ErrorCode::OffsetOutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_fetched_and_produced_to_by_id() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    let metadata = talk.ask(12, &MetadataRequest::default()).await;
    let topic_id = metadata.topics[0].topic_id;
    assert!(!topic_id.is_zero());
    for (topic_id, expect) in [
        (topic_id, ErrorCode::None),
        (Uuid([7; 16]), ErrorCode::UnknownTopicId),
        (Uuid::ZERO, ErrorCode::UnknownTopicOrPartition),
    ] {
        let mut request = produce("", 0, -1, batch(&["v0"]));
        request.topic_data[0].topic_id = topic_id;
        let response = talk.ask(13, &request).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, expect);
        assert_eq!(response.responses[0].topic_id, topic_id);
    }
    for (topic_id, expect) in [(topic_id, ErrorCode::None), (Uuid([7; 16]), ErrorCode::UnknownTopicId)] {
        let mut request = fetch("", &[(0, 0)]);
        request.topics[0].topic_id = topic_id;
        let partition = fetch_one(&mut talk, 18, &request).await;
        assert_eq!(partition.error_code, expect);
    }
}

fn sizes(response: &FetchResponse) -> Vec<usize> {
    response.responses[0].partitions.iter().map(|partition| records_of(partition).len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_comes_first_the_next_time() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 3, &[("retention.ms", "-1")]).await;
    let value = "x".repeat(1000);
    let size = batch(&[&value]).len();
    for partition in 0..3 {
        for _ in 0..3 {
            talk.produce("t", partition, batch(&[&value])).await;
        }
    }
    // One batch is returned even when it is larger than everything allowed.
    let request = FetchRequest { max_bytes: 1, min_bytes: 1, ..fetch("t", &[(0, 0), (1, 0), (2, 0)]) };
    for expect in [[size, 0, 0], [0, size, 0], [0, 0, size], [size, 0, 0]] {
        assert_eq!(sizes(&talk.ask(12, &request).await), expect);
    }
    // The limit is one for all partitions.
    let max_bytes = i32::try_from(2 * size).unwrap();
    let request = FetchRequest { max_bytes, ..fetch("t", &[(0, 0), (1, 0), (2, 0)]) };
    assert_eq!(sizes(&talk.ask(12, &request).await).iter().sum::<usize>(), 2 * size);
    // So is that of a partition.
    let mut request = fetch("t", &[(0, 0), (1, 0)]);
    request.topics[0].partitions[0].partition_max_bytes = max_bytes;
    let [first, second] = sizes(&talk.ask(12, &request).await)[..] else { panic!() };
    assert_eq!((first, second), (2 * size, 3 * size));
}

/// Reading on from the disk, with part of it read ahead; and going elsewhere, or into less room than was
/// expected.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_catches_up_gets_everything_wherever_it_goes_on() {
    const BATCHES: i64 = 60;
    // Nothing is served from memory, and some of it has been moved to segments.
    let limits =
        Limits { recent_bytes_max: 1, journal_bytes_between_checkpoints: 100_000, ..Limits::default() };
    let world = World::with_limits(limits);
    let mut talk = world.connect();
    talk.create_topic("t", 2, &[("retention.ms", "-1")]).await;
    let value = |offset: i64| format!("{offset:05}").repeat(1_000);
    let size = batch(&[&value(0)]).len();
    for offset in 0..BATCHES {
        for partition in 0..2 {
            talk.produce("t", partition, batch(&[&value(offset)])).await;
        }
    }
    let mut next = [0; 2];
    for round in 0.. {
        let mut request = fetch("t", &[(0, next[0]), (1, next[1])]);
        // Room for seven in all, and then for three.
        request.max_bytes = i32::try_from(size * if round % 5 == 4 { 3 } else { 7 }).unwrap();
        for partition in &mut request.topics[0].partitions {
            partition.partition_max_bytes = i32::try_from(size * 4).unwrap();
        }
        let response = talk.ask(12, &request).await;
        for (partition, next) in response.responses[0].partitions.iter().zip(&mut next) {
            assert_eq!(partition.error_code, ErrorCode::None);
            for (offset, found) in values(&records_of(partition)) {
                assert_eq!(offset, *next);
                assert!(found == value(offset), "{offset}");
                *next += 1;
            }
        }
        if next == [BATCHES; 2] {
            break;
        }
        // It begins anew.
        if round == 6 {
            next[0] = 0;
        }
        assert!(round < 100, "{next:?}");
    }
    talk.produce("t", 0, batch(&[&value(BATCHES)])).await;
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, BATCHES)])).await;
    assert_eq!(values(&records_of(&partition)), [(BATCHES, value(BATCHES))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_waits_until_there_is_enough() {
    let world = World::new();
    let (mut consumer, mut producer) = (world.connect(), world.connect());
    producer.create_topic("t", 2, &[("retention.ms", "-1")]).await;
    let size = i32::try_from(batch(&["v0"]).len()).unwrap();
    let patient =
        |min_bytes| FetchRequest { max_wait_ms: 1_000_000, min_bytes, ..fetch("t", &[(0, 0), (1, 0)]) };
    consumer.send(12, &patient(2 * size)).await.unwrap();
    producer.produce("t", 0, batch(&["v0"])).await;
    assert_eq!(consumer.written(), None);
    producer.produce("t", 1, batch(&["v0"])).await;
    let (_, response) = consumer.response::<FetchRequest>(12).await.unwrap();
    let size = usize::try_from(size).unwrap();
    assert_eq!(sizes(&response), [size, size]);
    // Without patience it takes what there is; with nothing there, nothing.
    let response = consumer.ask(12, &FetchRequest { max_wait_ms: 1, min_bytes: 1 << 20, ..patient(1) }).await;
    assert_eq!(sizes(&response), [size, size]);
    let response =
        consumer.ask(12, &FetchRequest { max_wait_ms: 1, min_bytes: 1, ..fetch("t", &[(0, 1)]) }).await;
    assert_eq!(sizes(&response), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_partition_refuses() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1"), ("max.message.bytes", "500")]).await;
    talk.create_topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    talk.create_topic("strict", 1, &[("message.timestamp.before.max.ms", "1000")]).await;
    let good = batch(&["v0"]);
    let mut damaged = good.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let far = world.broker.now().0 + 2 * 3_600_000;
    for (topic, partition, records, expect) in [
        ("t", 0, good.clone(), ErrorCode::None),
        ("t", 1, good.clone(), ErrorCode::UnknownTopicOrPartition),
        ("t", -1, good.clone(), ErrorCode::UnknownTopicOrPartition),
        ("nowhere", 0, good.clone(), ErrorCode::UnknownTopicOrPartition),
        ("t", 0, Bytes::new(), ErrorCode::InvalidRecord),
        ("t", 0, [good.clone(), good.clone()].concat().into(), ErrorCode::InvalidRecord),
        ("t", 0, damaged.into(), ErrorCode::CorruptMessage),
        ("t", 0, good.slice(..good.len() - 1), ErrorCode::CorruptMessage),
        ("t", 0, batch(&["x".repeat(500).as_str()]), ErrorCode::MessageTooLarge),
        // Compression 7, a control batch, log append time, a transaction.
        ("t", 0, patched(&good, 21, &[0, 7]), ErrorCode::UnsupportedCompressionType),
        ("t", 0, patched(&good, 21, &[0, 32]), ErrorCode::InvalidRecord),
        ("t", 0, patched(&good, 21, &[0, 8]), ErrorCode::InvalidTimestamp),
        (
            "t",
            0,
            patched(&sequenced(&good, 5, 0, 0), 21, &[0, 16]),
            ErrorCode::TransactionalIdAuthorizationFailed,
        ),
        // Says gzip and is none; says two records and has one.
        ("t", 0, patched(&good, 21, &[0, 1]), ErrorCode::CorruptMessage),
        ("t", 0, patched(&patched(&good, 57, &[0, 0, 0, 2]), 23, &[0, 0, 0, 1]), ErrorCode::InvalidRecord),
        ("t", 0, batch_at(far, &["v0"]), ErrorCode::InvalidTimestamp),
        ("strict", 0, batch_at(far - 4 * 3_600_000, &["v0"]), ErrorCode::InvalidTimestamp),
        ("compacted", 0, good.clone(), ErrorCode::InvalidRecord),
    ] {
        let response = talk.produce(topic, partition, records.clone()).await;
        assert_eq!(response.error_code, expect, "{topic} {partition} {records:x?}");
        assert_eq!(response.base_offset >= 0, expect == ErrorCode::None);
    }
    let mut request = produce("t", 0, 2, good.clone());
    let response = talk.ask(9, &request).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, ErrorCode::InvalidRequiredAcks);
    request = ProduceRequest { transactional_id: Some("tx".into()), ..produce("t", 0, -1, good) };
    let response = talk.ask(9, &request).await;
    let error_code = response.responses[0].partition_responses[0].error_code;
    assert_eq!(error_code, ErrorCode::TransactionalIdAuthorizationFailed);
    // Of all that, only the good one is there.
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, 0)])).await;
    assert_eq!(partition.high_watermark, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_producer_is_stored_once_and_in_order() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    let first = talk.ask(5, &InitProducerIdRequest::default()).await;
    let second = talk.ask(0, &InitProducerIdRequest::default()).await;
    assert_eq!((first.error_code, first.producer_epoch), (ErrorCode::None, 0));
    assert_ne!(first.producer_id, second.producer_id);
    let refused = InitProducerIdRequest { transactional_id: Some("tx".into()), ..Default::default() };
    let refused = talk.ask(5, &refused).await;
    assert_eq!(refused.error_code, ErrorCode::TransactionalIdAuthorizationFailed);

    let id = first.producer_id;
    let two = batch(&["a", "b"]);
    for (epoch, sequence, expect) in [
        (0, 0, Ok(0)),
        (0, 2, Ok(2)),
        (0, 0, Ok(0)),
        (0, 2, Ok(2)),
        (0, 6, Err(ErrorCode::OutOfOrderSequenceNumber)),
        (0, 4, Ok(4)),
        (1, 3, Err(ErrorCode::OutOfOrderSequenceNumber)),
        (1, 0, Ok(6)),
        (0, 6, Err(ErrorCode::InvalidProducerEpoch)),
    ] {
        let response = talk.produce("t", 0, sequenced(&two, id, epoch, sequence)).await;
        let result = match response.error_code {
            ErrorCode::None => Ok(response.base_offset),
            error => Err(error),
        };
        assert_eq!(result, expect, "epoch {epoch}, sequence {sequence}");
    }
    // Sequences go around (KIP-98).
    let id = second.producer_id;
    for (sequence, expect) in [(i32::MAX, 8), (1, 10)] {
        let response = talk.produce("t", 0, sequenced(&two, id, 0, sequence)).await;
        assert_eq!((response.error_code, response.base_offset), (ErrorCode::None, expect));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_stamp_its_records() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let response = talk.produce("t", 0, batch_at(5, &["v0", "v1"])).await;
    assert_eq!(response.error_code, ErrorCode::None);
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, 0)])).await;
    let batch = RecordBatch::split_from(&mut records_of(&partition)).unwrap();
    batch.verify_checksum().unwrap();
    let stamps: Vec<_> = batch.records(0).unwrap().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(stamps, [response.log_append_time_ms; 2]);
}

async fn list_offset(talk: &mut Talk, version: i16, timestamp: i64, epoch: i32) -> (ErrorCode, i64, i64) {
    let partition = ListOffsetsPartition { timestamp, current_leader_epoch: epoch, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition] };
    let response = talk.ask(version, &ListOffsetsRequest { topics: vec![topic], ..Default::default() }).await;
    let partition = &response.topics[0].partitions[0];
    (partition.error_code, partition.offset, partition.timestamp)
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_by_position_and_time() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    assert_eq!(list_offset(&mut talk, 7, 0, -1).await, (ErrorCode::None, -1, -1));
    assert_eq!(list_offset(&mut talk, 7, -3, -1).await, (ErrorCode::None, -1, -1));
    for (timestamp, batch_values) in [(1000, &["v0", "v1", "v2"][..]), (5000, &["v3", "v4"]), (3000, &["v5"])]
    {
        talk.produce("t", 0, batch_at(timestamp, batch_values)).await;
    }
    let found = |offset, timestamp| (ErrorCode::None, offset, timestamp);
    for (version, timestamp, expect) in [
        (1, -1, found(6, -1)),
        (10, -1, found(6, -1)),
        (1, -2, found(0, -1)),
        (7, -3, found(4, 5001)),
        (8, -4, found(0, -1)),
        (9, -5, found(-1, -1)),
        (6, -3, (ErrorCode::UnsupportedVersion, -1, -1)),
        (7, -4, (ErrorCode::UnsupportedVersion, -1, -1)),
        (8, -5, (ErrorCode::UnsupportedVersion, -1, -1)),
        (10, -7, (ErrorCode::UnsupportedVersion, -1, -1)),
        (4, 0, found(0, 1000)),
        (4, 1000, found(0, 1000)),
        (4, 1001, found(1, 1001)),
        (4, 1002, found(2, 1002)),
        (4, 1003, found(3, 5000)),
        (4, 5001, found(4, 5001)),
        (4, 5002, found(-1, -1)),
    ] {
        assert_eq!(list_offset(&mut talk, version, timestamp, -1).await, expect, "v{version} {timestamp}");
    }
    let epoch = i32::try_from(world.broker.epoch()).unwrap();
    assert_eq!(list_offset(&mut talk, 4, -1, epoch - 1).await.0, ErrorCode::FencedLeaderEpoch);
    assert_eq!(list_offset(&mut talk, 4, -1, epoch + 1).await.0, ErrorCode::UnknownLeaderEpoch);
    let twice = vec![ListOffsetsPartition { timestamp: -1, ..Default::default() }; 2];
    let topic = ListOffsetsTopic { name: "t".into(), partitions: twice };
    let response = talk.ask(4, &ListOffsetsRequest { topics: vec![topic], ..Default::default() }).await;
    assert_eq!(response.topics[0].partitions[1].error_code, ErrorCode::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_ends_where_the_log_does() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    talk.produce("t", 0, batch(&["v0", "v1"])).await;
    let epoch = i32::try_from(world.broker.epoch()).unwrap();
    for (partition, current_leader_epoch, leader_epoch, expect) in [
        (0, -1, epoch, (ErrorCode::None, epoch, 2)),
        (0, epoch, 0, (ErrorCode::None, 0, 2)),
        (0, -1, epoch + 1, (ErrorCode::None, -1, -1)),
        (0, epoch + 1, epoch, (ErrorCode::UnknownLeaderEpoch, -1, -1)),
        (0, epoch - 1, epoch, (ErrorCode::FencedLeaderEpoch, -1, -1)),
        (1, -1, epoch, (ErrorCode::UnknownTopicOrPartition, -1, -1)),
    ] {
        let wanted = OffsetForLeaderPartition { partition, current_leader_epoch, leader_epoch };
        let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: vec![wanted] };
        let request = OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() };
        let response = talk.ask(4, &request).await;
        let end = &response.topics[0].partitions[0];
        assert_eq!((end.error_code, end.leader_epoch, end.end_offset), expect);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_deleted_up_to_an_offset() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    for values in [["v0", "v1"], ["v2", "v3"]] {
        talk.produce("t", 0, batch(&values)).await;
    }
    for (partition_index, offset, expect) in [
        (0, 1, (ErrorCode::None, 1)),
        (0, 0, (ErrorCode::None, 1)),
        (0, 5, (ErrorCode::OffsetOutOfRange, -1)),
        (0, -2, (ErrorCode::OffsetOutOfRange, -1)),
        (7, 0, (ErrorCode::UnknownTopicOrPartition, -1)),
        (0, 3, (ErrorCode::None, 3)),
        (0, -1, (ErrorCode::None, 4)),
    ] {
        let partition = DeleteRecordsPartition { partition_index, offset };
        let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![partition] };
        let response = talk.ask(2, &DeleteRecordsRequest { topics: vec![topic], timeout_ms: 1000 }).await;
        let partition = &response.topics[0].partitions[0];
        assert_eq!((partition.error_code, partition.low_watermark), expect, "{offset}");
    }
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, 3)])).await;
    assert_eq!(partition.error_code, ErrorCode::OffsetOutOfRange);
    assert_eq!(list_offset(&mut talk, 4, -2, -1).await, (ErrorCode::None, 4, -1));
}

/// What another protocol published to a subject is a record of the topic of that name.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_protocols_are_records() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("sensors", 1, &[("posthaste.capture", "sensors.#")]).await;
    talk.produce("sensors", 0, batch_at(world.broker.now().0, &["native"])).await;
    let client = world.client().await;
    let (done, is_done) = tokio::sync::oneshot::channel();
    let mut publishing = client.batch();
    for body in ["a", "b"] {
        let subject = Subject::slashed("sensors/7/temp").unwrap();
        let envelope = Envelope::new(subject.clone(), Timestamp(77));
        let body = Some(Bytes::from(body));
        let message =
            Message { subject, body, content_type: Some("text/plain".into()), ..Message::default() };
        let payload = posthaste_broker::encode_message(message);
        let bus = posthaste_engine::catalog::BUS;
        publishing.publish(Some(bus), envelope, payload, &posthaste_engine::catalog::NoHeaders).unwrap();
    }
    publishing.submit(move |outcome| drop(done.send(outcome)));
    assert!(is_done.await.unwrap().refused.is_empty());

    let partition = fetch_one(&mut talk, 12, &fetch("sensors", &[(0, 0)])).await;
    let records = records_of(&partition);
    let expect = [(0, "native"), (1, "a"), (2, "b")].map(|(offset, value)| (offset, value.to_owned()));
    assert_eq!(values(&records), expect);
    let mut rest = records;
    let batches = std::iter::from_fn(|| RecordBatch::split_from(&mut rest).ok()).collect::<Vec<_>>();
    assert_eq!(batches.len(), 2, "what stands side by side is one batch");
    let headers = |record: crate::wire::records::Record| {
        record.headers.iter().map(|h| h.key.to_string()).collect::<Vec<_>>()
    };
    let records: Vec<_> = batches[1].records(0).unwrap().map(Result::unwrap).collect();
    assert!(records.into_iter().all(|record| headers(record) == ["content-type"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_producers_and_serves_consumers() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    talk.produce("t", 0, batch(&["v0"])).await;
    drop(talk);
    // A reserve that no disk has room for.
    let world = world.restart(Limits { reserve_bytes: u64::MAX, ..Limits::default() });
    let mut talk = world.connect();
    // Retriable: a producer tries again until its delivery.timeout.ms.
    assert_eq!(talk.produce("t", 0, batch(&["no"])).await.error_code, ErrorCode::KafkaStorageError);
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, 0)])).await;
    assert_eq!(values(&records_of(&partition)), numbered(0..1));
    drop(talk);
    let world = world.restart(Limits::default());
    let response = world.connect().produce("t", 0, batch(&["v1"])).await;
    assert_eq!((response.error_code, response.base_offset), (ErrorCode::None, 1));
}

/// Inverts a bit of the only place in the journal that holds a text.
fn rot(world: &World, text: &str) {
    let mut rotten = 0;
    for entry in std::fs::read_dir(world.directory.path().join("journal")).unwrap() {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(entry.unwrap().path()).unwrap();
        // What follows was never written to.
        let mut start = vec![0; 64 << 10];
        let read = file.read_at(&mut start, 0).unwrap();
        if let Some(at) = start[..read].windows(text.len()).position(|window| window == text.as_bytes()) {
            file.write_at(&[start[at] ^ 1], at as u64).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_gets_past_damage_and_never_sees_it() {
    // Nothing is served from memory.
    let world = World::with_limits(Limits { recent_bytes_max: 1, ..Limits::default() });
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "-1")]).await;
    for value in ["first", "second", "third"] {
        talk.produce("t", 0, batch(&[value])).await;
    }
    rot(&world, "second");
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, 0)])).await;
    let read = |partition: &PartitionData| {
        let mut records = records_of(partition);
        let mut next = -1;
        while let Some(batch) = (!records.is_empty()).then(|| RecordBatch::split_from(&mut records).unwrap())
        {
            next = batch.header().base_offset + i64::from(batch.header().last_offset_delta) + 1;
        }
        (values(&records_of(partition)), next)
    };
    // Whatever a response ends with, the next one begins behind it.
    let (mut seen, mut next) = read(&partition);
    while next < 3 {
        let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, next)])).await;
        assert_eq!(partition.error_code, ErrorCode::None);
        let (more, behind) = read(&partition);
        assert!(behind > next);
        seen.extend(more);
        next = behind;
    }
    assert_eq!(seen, [(0, "first".to_owned()), (2, "third".to_owned())]);
    // At the end there is nothing behind the damage yet: a batch without records leads past it.
    rot(&world, "third");
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, 2)])).await;
    assert_eq!((partition.error_code, partition.high_watermark), (ErrorCode::None, 3));
    assert_eq!(read(&partition), (Vec::new(), 3));
    let told: Vec<_> = world.broker.damage().iter().map(|damage| (damage.from, damage.to)).collect();
    assert_eq!(told, [(Some(1), Some(2)), (Some(2), Some(3))]);
    talk.produce("t", 0, batch(&["fourth"])).await;
    let partition = fetch_one(&mut talk, 12, &fetch("t", &[(0, 3)])).await;
    assert_eq!(read(&partition), (vec![(3, "fourth".to_owned())], 4));
}

/// The batch with its records compressed, in the words of its attributes.
fn squeezed(batch: &Bytes, codec: i16, compress: impl FnOnce(&[u8]) -> Vec<u8>) -> Bytes {
    let (header, records) = batch.split_at(61);
    let mut octets = [header, &compress(records)].concat();
    let length = i32::try_from(octets.len() - 12).unwrap();
    octets[8..12].copy_from_slice(&length.to_be_bytes());
    patched(&octets.into(), 21, &codec.to_be_bytes())
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, plain).unwrap();
    encoder.finish().unwrap()
}

fn lz4(plain: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut encoder, plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_batch_may_hold_much_but_not_out_of_nothing() {
    const MIB: usize = 1 << 20;
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[]).await;
    let zeros = |mib: usize| batch(&["\0".repeat(mib * MIB).as_str()]);
    for (what, records, expect) in [
        ("a little", squeezed(&zeros(0), 1, gzip), ErrorCode::None),
        ("more than is checked at once", squeezed(&zeros(2), 3, lz4), ErrorCode::None),
        ("much, of as much", squeezed(&zeros(20), 3, lz4), ErrorCode::None),
        ("much, of next to nothing", squeezed(&zeros(12), 1, gzip), ErrorCode::None),
        ("too much for what it is", squeezed(&zeros(24), 1, gzip), ErrorCode::MessageTooLarge),
        ("no gzip", squeezed(&zeros(0), 1, lz4), ErrorCode::CorruptMessage),
    ] {
        let response = talk.ask(9, &produce("t", 0, -1, records)).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, expect, "{what}");
    }
}
