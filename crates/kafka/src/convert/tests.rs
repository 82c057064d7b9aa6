use std::sync::Arc;

use super::*;
use crate::wire::records::{RecordChunk, batches};

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// A stored batch with one record, as a producer numbers it: from 0.
fn stored(headers: &[(&str, Option<&[u8]>)]) -> Payload {
    let mut builder = BatchBuilder::new(0, -1);
    assert!(builder.push(0, 1_000, Some(b"k"), Some(b"v"), headers));
    Payload { format: FORMAT, head: Bytes::new(), body: builder.finish() }
}

fn native(offset: u64) -> LogEntry {
    LogEntry { offset, span: 1, timestamp: Timestamp(1_000), envelope: None, payload: stored(&[]) }
}

fn foreign(offset: u64, message: Message) -> LogEntry {
    let envelope = Some(Envelope::new(message.subject.clone(), Timestamp(7)));
    let payload = posthaste_broker::encode_message(message);
    LogEntry { offset, span: 1, timestamp: Timestamp(7), envelope, payload }
}

fn formats() -> Formats {
    Formats::new([Arc::new(RecordBatches) as Arc<dyn Codec>])
}

fn full_message() -> Message {
    let header = |name: &str, value| Header { name: name.into(), value };
    Message {
        subject: Subject::dotted("orders.eu").unwrap(),
        key: Some(bytes("k")),
        body: Some(bytes("v")),
        headers: vec![
            header("text", Value::String("t".into())),
            header("raw", Value::Bytes(Bytes::from_static(b"\xff\x00"))),
            header("nothing", Value::Null),
            header("text", Value::String("again".into())),
        ],
        timestamp: Some(Timestamp(1_700_000_000_123)),
        id: Some("id-1".into()),
        correlation_id: Some(Bytes::from_static(b"\x01\xff")),
        reply_to: Some("answers".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("gzip".into()),
        kind: Some("created".into()),
        user: Some("me".into()),
        application: Some("shop".into()),
        expires: Some(Timestamp(1_800_000_000_000)),
        due: None,
        priority: Some(7),
        durable: true,
    }
}

/// Everything that the table of conversions names survives to a record and back.
#[test]
fn a_message_survives_as_a_record() {
    let formats = formats();
    let mut rendering = Rendering::new(&formats, 3, false);
    rendering.push(foreign(40, full_message()));
    let data = rendering.finish();
    let [RecordChunk::Verbatim(batch)] = data.chunks() else { panic!("{data:?}") };

    let payload = Payload { format: FORMAT, head: Bytes::new(), body: batch.clone() };
    let envelope = Envelope::new(full_message().subject, Timestamp(0));
    let back = formats.messages(40, Some(&envelope), &payload).unwrap();
    assert_eq!(back, [(40, full_message())]);
}

#[test]
fn headers_become_fields_once_and_only_when_they_fit() {
    let formats = formats();
    let payload = stored(&[
        ("content-type", Some(b"a")),
        ("content-type", Some(b"b")),
        ("priority", Some(b"300")),
        ("expiration", Some(b"soon")),
        ("type", None),
        ("app-id", Some(b"\xff")),
        ("x", Some(b"")),
    ]);
    let (offset, message) = formats.messages(5, None, &payload).unwrap().remove(0);
    assert_eq!((offset, message.content_type.as_deref()), (5, Some("a")));
    assert_eq!((message.priority, message.expires, message.kind), (None, None, None));
    let headers: Vec<_> = message.headers.into_iter().map(|header| (header.name, header.value)).collect();
    let text = |text: &str| Value::String(text.into());
    let expect = [
        ("content-type", text("b")),
        ("priority", text("300")),
        ("expiration", text("soon")),
        ("type", Value::Null),
        ("app-id", Value::Bytes(Bytes::from_static(b"\xff"))),
        ("x", text("")),
    ];
    assert_eq!(headers, expect.map(|(name, value)| (name.to_owned(), value)));
}

/// A field and a header of the same name become one header of the record: the field's.
#[test]
fn a_field_stands_before_a_header_of_its_name() {
    let message = Message {
        content_type: Some("field".into()),
        headers: vec![Header { name: "content-type".into(), value: Value::String("header".into()) }],
        ..Message::default()
    };
    assert_eq!(record_headers(&message), [("content-type", Some(bytes("field")))]);
}

#[test]
fn foreign_messages_side_by_side_are_one_batch_and_keep_their_offsets() {
    let formats = formats();
    let mut rendering = Rendering::new(&formats, 3, false);
    let broken = Payload { format: Format(200), head: Bytes::new(), body: Bytes::new() };
    let text = |body| Message { body: Some(bytes(body)), ..Message::default() };
    rendering.push(native(10));
    rendering.push(foreign(11, text("a")));
    rendering.push(foreign(12, text("b")));
    rendering.push(LogEntry { offset: 13, payload: broken, ..native(13) });
    rendering.push(native(14));
    rendering.push(foreign(15, text("c")));
    let data = rendering.finish();
    let [RecordChunk::Rebased { base_offset: 10, partition_leader_epoch: 3, .. }, two, _, one] =
        data.chunks()
    else {
        panic!("{data:?}")
    };
    let read = |chunk: &RecordChunk| {
        let RecordChunk::Verbatim(bytes) = chunk else { panic!("{chunk:?}") };
        let batch = batches(bytes.clone()).next().unwrap().unwrap();
        batch.verify_checksum().unwrap();
        let records: Vec<_> = batch.records(0).unwrap().map(Result::unwrap).collect();
        let next = batch.header().next_offset();
        (
            next,
            records
                .into_iter()
                .map(|record| (record.offset, record.timestamp, record.value))
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(read(two), (14, vec![(11, 7, Some(bytes("a"))), (12, 7, Some(bytes("b")))]));
    assert_eq!(read(one), (16, vec![(15, 7, Some(bytes("c")))]));
}

#[test]
fn a_topic_that_stamps_its_records_shows_its_own_time() {
    let formats = formats();
    for (broker_timestamps, expect) in [(false, 1_700_000_000_123), (true, 7)] {
        let mut rendering = Rendering::new(&formats, 0, broker_timestamps);
        rendering.push(foreign(0, full_message()));
        let data = rendering.finish();
        let [RecordChunk::Verbatim(bytes)] = data.chunks() else { panic!("{data:?}") };
        let batch = batches(bytes.clone()).next().unwrap().unwrap();
        assert_eq!(batch.header().max_timestamp, expect);
    }
}

#[test]
fn the_first_record_at_a_time() {
    let mut builder = BatchBuilder::new(0, -1);
    for (offset, timestamp) in [(0, 100), (1, 300), (2, 200), (3, 400)] {
        assert!(builder.push(offset, timestamp, None, None, &[]));
    }
    let payload = Payload { format: FORMAT, head: Bytes::new(), body: builder.finish() };
    let entry = LogEntry { offset: 50, span: 4, timestamp: Timestamp(400), envelope: None, payload };
    for (from, at, expect) in [
        (50, 0, Some((50, 100))),
        (50, 101, Some((51, 300))),
        (52, 101, Some((52, 200))),
        (50, 301, Some((53, 400))),
        (50, 401, None),
        (54, 0, None),
    ] {
        let expect = expect.map(|(offset, timestamp)| (offset, Timestamp(timestamp)));
        assert_eq!(first_record_at(&entry, from, Timestamp(at)), expect, "{from} {at}");
    }
}

#[test]
fn control_batches_hold_no_messages() {
    // Attributes are the two bytes behind the checksum; bit 5 says control.
    let payload = stored(&[]);
    let mut body = payload.body.to_vec();
    body[22] |= 0b10_0000;
    let payload = Payload { body: body.into(), ..payload };
    assert_eq!(formats().messages(0, None, &payload), Ok(Vec::new()));
}

#[test]
fn what_is_no_batch_is_an_error() {
    for body in [Bytes::new(), bytes("short"), Bytes::from(vec![0; 80])] {
        let payload = Payload { format: FORMAT, head: Bytes::new(), body };
        assert!(matches!(formats().messages(0, None, &payload), Err(ConversionError::Malformed(_))));
    }
}
