//! The same octets as amq-protocol, in both directions.
#![allow(clippy::unwrap_used)] // Helpers of tests, which clippy does not take for tests.

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame, parse_frame};
use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::*;

use crate::support::{content_methods, encoded, encoded_content, methods, properties};

/// What amq-protocol makes of `octets`, frame by frame, which it must understand to the end.
fn parsed(mut octets: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !octets.is_empty() {
        let (rest, frame) = parse_frame(octets).unwrap();
        frames.push(frame);
        octets = rest;
    }
    frames
}

fn generated(frames: &[AMQPFrame]) -> Vec<u8> {
    frames.iter().fold(Vec::new(), |octets, frame| {
        gen_frame(frame)(WriteContext::from(octets)).unwrap().into_inner().0
    })
}

/// It reads what we write, and writes it again octet for octet. (The fields of the samples' tables are in the
/// order in which it sorts them, and it drops tickets, which we write as zero.)
#[test]
fn methods_both_ways() {
    for method in methods() {
        let ours = encoded(&method);
        let theirs = parsed(&ours);
        assert_eq!(generated(&theirs), ours, "{}", method.name());
        let AMQPFrame::Method(_, class) = &theirs[0] else { panic!("{theirs:?}") };
        let MethodId { class_id, method_id } = method.method_id();
        assert_eq!((class.get_amqp_class_id(), class.get_amqp_method_id()), (class_id, method_id));
        let mut again = BytesMut::from(&generated(&theirs)[..]);
        let channel = crate::support::channel_of(&method);
        let read = FrameReader::default().read(&mut again, FrameMax::DEFAULT);
        assert_eq!(read, Ok(Some((channel, Frame::Command(Command::Method(method))))));
    }
}

/// Field names agree: the oracle prints the values that we set, under their names.
#[test]
fn fields_agree_by_name() {
    let theirs = |method: Method| format!("{:?}", parsed(&encoded(&method)));
    for (field, method) in [
        ("passive: true", queue::Declare { passive: true, ..Default::default() }.into()),
        ("durable: true", queue::Declare { durable: true, ..Default::default() }.into()),
        ("exclusive: true", queue::Declare { exclusive: true, ..Default::default() }.into()),
        ("auto_delete: true", queue::Declare { auto_delete: true, ..Default::default() }.into()),
        ("nowait: true", queue::Declare { no_wait: true, ..Default::default() }.into()),
        ("internal: true", exchange::Declare { internal: true, ..Default::default() }.into()),
        ("auto_delete: true", exchange::Declare { auto_delete: true, ..Default::default() }.into()),
        ("if_unused: true", queue::Delete { if_unused: true, ..Default::default() }.into()),
        ("if_empty: true", queue::Delete { if_empty: true, ..Default::default() }.into()),
        ("no_local: true", basic::Consume { no_local: true, ..Default::default() }.into()),
        ("no_ack: true", basic::Consume { no_ack: true, ..Default::default() }.into()),
        ("exclusive: true", basic::Consume { exclusive: true, ..Default::default() }.into()),
        ("nowait: true", basic::Consume { no_wait: true, ..Default::default() }.into()),
        ("multiple: true", basic::Nack { multiple: true, ..Default::default() }.into()),
        ("requeue: true", basic::Nack { requeue: true, ..Default::default() }.into()),
        ("global: true", basic::Qos { global: true, ..Default::default() }.into()),
        ("prefetch_count: 7", basic::Qos { prefetch_count: 7, ..Default::default() }.into()),
        ("heartbeat: 7", connection::Tune { heartbeat: 7, ..Default::default() }.into()),
        ("message_count: 7", queue::DeclareOk { message_count: 7, ..Default::default() }.into()),
        ("consumer_count: 7", queue::DeclareOk { consumer_count: 7, ..Default::default() }.into()),
    ] {
        let printed = theirs(method);
        assert!(printed.contains(field), "{field} in {printed}");
        let others = printed.matches(": true").count();
        assert_eq!(others, usize::from(field.ends_with("true")), "{printed}");
    }
}

#[test]
fn contents_both_ways() {
    let list = PropertyList::from(&properties());
    let body = [Bytes::from(vec![9; 10_000])];
    for method in content_methods() {
        let ours = encoded_content(&method, &list, &body, FrameMax::MIN);
        let theirs = parsed(&ours);
        assert_eq!(theirs.len(), 5);
        assert!(generated(&theirs) == ours, "{}", method.name());
        let AMQPFrame::Header(1, header) = &theirs[1] else { panic!("{theirs:?}") };
        assert_eq!((header.class_id, header.body_size), (60, 10_000));
        let text =
            |string: &Option<amq_protocol::types::ShortString>| string.clone().map(|text| text.to_string());
        assert_eq!(text(header.properties.expiration()).as_deref(), Some("60000"));
        assert_eq!(text(header.properties.correlation_id()).as_deref(), Some("correlation"));
        assert_eq!(text(header.properties.kind()).as_deref(), Some("type"));
        assert_eq!(header.properties.delivery_mode(), &Some(2));
        assert_eq!(header.properties.timestamp(), &Some(1_700_000_000));
    }
}

/// Each property alone, so that a wrong flag cannot hide.
#[test]
fn single_properties_both_ways() {
    let all = properties();
    let none = BasicProperties::default;
    let singles = [
        BasicProperties { content_type: all.content_type, ..none() },
        BasicProperties { content_encoding: all.content_encoding, ..none() },
        BasicProperties { headers: all.headers, ..none() },
        BasicProperties { delivery_mode: all.delivery_mode, ..none() },
        BasicProperties { priority: all.priority, ..none() },
        BasicProperties { correlation_id: all.correlation_id, ..none() },
        BasicProperties { reply_to: all.reply_to, ..none() },
        BasicProperties { expiration: all.expiration, ..none() },
        BasicProperties { message_id: all.message_id, ..none() },
        BasicProperties { timestamp: all.timestamp, ..none() },
        BasicProperties { r#type: all.r#type, ..none() },
        BasicProperties { user_id: all.user_id, ..none() },
        BasicProperties { app_id: all.app_id, ..none() },
        BasicProperties { cluster_id: all.cluster_id, ..none() },
    ];
    for single in singles {
        let list = PropertyList::from(&single);
        let publish: ContentMethod = basic::Publish::default().into();
        let ours = encoded_content(&publish, &list, &[], FrameMax::MIN);
        let theirs = parsed(&ours);
        assert_eq!(generated(&theirs), ours, "{single:?}");
        let AMQPFrame::Header(_, header) = &theirs[1] else { panic!("{theirs:?}") };
        let printed = format!("{:?}", header.properties).replace("kind: Some", "type: Some");
        let name = format!("{single:?}");
        let name = name.split(": Some").next().and_then(|name| name.rsplit([' ', '#']).next()).unwrap();
        assert!(printed.contains(&format!("{name}: Some")), "{name} in {printed}");
        assert_eq!(PropertyList::parse(list.as_bytes().clone()).unwrap().decode(), Ok(single));
    }
}
