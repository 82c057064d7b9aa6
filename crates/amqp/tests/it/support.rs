//! Samples of everything the wire can carry, and a small deterministic generator.
#![allow(clippy::unwrap_used)] // Helpers of tests, which clippy does not take for tests.

use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::*;

pub fn short(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

/// Every type tag that has one meaning only, nesting, and empty things; in the order of the names, in which
/// the oracle writes them.
pub fn table() -> FieldTable {
    let mut inner = FieldTable::new();
    inner.push(short("deep"), vec![FieldValue::Void, FieldValue::Table(FieldTable::new()), true.into()]);
    let mut table = FieldTable::new();
    let mut values = [
        FieldValue::Boolean(true),
        FieldValue::ShortShortInt(-5),
        FieldValue::ShortShortUint(250),
        FieldValue::ShortInt(-300),
        FieldValue::ShortUint(65_000),
        FieldValue::LongInt(-70_000),
        FieldValue::LongUint(4_000_000_000),
        FieldValue::LongLongInt(i64::MIN),
        FieldValue::Float(1.5),
        FieldValue::Double(-2.25),
        FieldValue::Decimal(DecimalValue { scale: 2, value: 31_415 }),
        FieldValue::LongString(Bytes::from_static(b"not utf-8: \xff\xfe")),
        FieldValue::Array(vec![]),
        FieldValue::Timestamp(1_700_000_000),
        FieldValue::Table(inner),
        FieldValue::Void,
        FieldValue::ByteArray(Bytes::from_static(&[0, 1, 2])),
    ];
    values.sort_by_key(FieldValue::type_tag);
    for value in values {
        table.push(ShortString::new(format!("z{}", char::from(value.type_tag()))).unwrap(), value);
    }
    table
}

pub fn properties() -> BasicProperties {
    BasicProperties {
        content_type: Some(short("application/json")),
        content_encoding: Some(short("gzip")),
        headers: Some(table()),
        delivery_mode: Some(2),
        priority: Some(7),
        correlation_id: Some(short("correlation")),
        reply_to: Some(short("amq.rabbitmq.reply-to")),
        expiration: Some(short("60000")),
        message_id: Some(short("message")),
        timestamp: Some(1_700_000_000),
        r#type: Some(short("type")),
        user_id: Some(short("guest")),
        app_id: Some(short("app")),
        cluster_id: Some(short("")),
    }
}

/// One of each method without content, its bits in both states where there are several.
pub fn methods() -> Vec<Method> {
    let (queue, exchange, routing_key) = (short("queue"), short("exchange"), short("a.b.c"));
    let (consumer_tag, arguments) = (short("ctag-1"), table());
    let close = (404, short("NOT_FOUND - no queue 'q' in vhost '/'"), 60, 20);
    vec![
        connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: table(),
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        }
        .into(),
        connection::StartOk {
            client_properties: table(),
            mechanism: short("PLAIN"),
            response: "\0guest\0guest".into(),
            locale: short("en_US"),
        }
        .into(),
        connection::Secure { challenge: "challenge".into() }.into(),
        connection::SecureOk { response: "response".into() }.into(),
        connection::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 }.into(),
        connection::TuneOk { channel_max: 1, frame_max: 4096, heartbeat: 0 }.into(),
        connection::Open { virtual_host: short("/") }.into(),
        connection::OpenOk {}.into(),
        connection::Close {
            reply_code: close.0,
            reply_text: close.1.clone(),
            class_id: close.2,
            method_id: close.3,
        }
        .into(),
        connection::CloseOk {}.into(),
        connection::Blocked { reason: short("low on disk") }.into(),
        connection::Unblocked {}.into(),
        connection::UpdateSecret { new_secret: "secret".into(), reason: short("expiring") }.into(),
        connection::UpdateSecretOk {}.into(),
        channel::Open {}.into(),
        channel::OpenOk {}.into(),
        channel::Flow { active: true }.into(),
        channel::FlowOk { active: false }.into(),
        channel::Close { reply_code: close.0, reply_text: close.1, class_id: close.2, method_id: close.3 }
            .into(),
        channel::CloseOk {}.into(),
        access::Request {
            realm: short("/data"),
            exclusive: false,
            passive: true,
            active: false,
            write: true,
            read: true,
        }
        .into(),
        exchange::Declare {
            exchange: exchange.clone(),
            r#type: short("topic"),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: true,
            no_wait: true,
            arguments: arguments.clone(),
        }
        .into(),
        exchange::DeclareOk {}.into(),
        exchange::Delete { exchange: exchange.clone(), if_unused: true, no_wait: false }.into(),
        exchange::DeleteOk {}.into(),
        exchange::Bind {
            destination: short("to"),
            source: short("from"),
            routing_key: routing_key.clone(),
            no_wait: true,
            arguments: arguments.clone(),
        }
        .into(),
        exchange::BindOk {}.into(),
        exchange::Unbind {
            destination: short("to"),
            source: short("from"),
            routing_key: routing_key.clone(),
            no_wait: false,
            arguments: FieldTable::new(),
        }
        .into(),
        exchange::UnbindOk {}.into(),
        queue::Declare {
            queue: queue.clone(),
            passive: true,
            durable: false,
            exclusive: true,
            auto_delete: false,
            no_wait: true,
            arguments: arguments.clone(),
        }
        .into(),
        queue::DeclareOk { queue: queue.clone(), message_count: 3, consumer_count: u32::MAX }.into(),
        queue::Bind {
            queue: queue.clone(),
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
            no_wait: false,
            arguments: arguments.clone(),
        }
        .into(),
        queue::BindOk {}.into(),
        queue::Purge { queue: queue.clone(), no_wait: true }.into(),
        queue::PurgeOk { message_count: 9 }.into(),
        queue::Delete { queue: queue.clone(), if_unused: false, if_empty: true, no_wait: true }.into(),
        queue::DeleteOk { message_count: 1 }.into(),
        queue::Unbind { queue: queue.clone(), exchange, routing_key, arguments: arguments.clone() }.into(),
        queue::UnbindOk {}.into(),
        basic::Qos { prefetch_size: 0, prefetch_count: 250, global: true }.into(),
        basic::QosOk {}.into(),
        basic::Consume {
            queue: queue.clone(),
            consumer_tag: consumer_tag.clone(),
            no_local: false,
            no_ack: true,
            exclusive: false,
            no_wait: true,
            arguments,
        }
        .into(),
        basic::ConsumeOk { consumer_tag: consumer_tag.clone() }.into(),
        basic::Cancel { consumer_tag: consumer_tag.clone(), no_wait: true }.into(),
        basic::CancelOk { consumer_tag }.into(),
        basic::Get { queue, no_ack: true }.into(),
        basic::GetEmpty {}.into(),
        basic::Ack { delivery_tag: u64::MAX, multiple: true }.into(),
        basic::Reject { delivery_tag: 7, requeue: true }.into(),
        basic::RecoverAsync { requeue: true }.into(),
        basic::Recover { requeue: false }.into(),
        basic::RecoverOk {}.into(),
        basic::Nack { delivery_tag: 8, multiple: false, requeue: true }.into(),
        confirm::Select { no_wait: true }.into(),
        confirm::SelectOk {}.into(),
        tx::Select {}.into(),
        tx::SelectOk {}.into(),
        tx::Commit {}.into(),
        tx::CommitOk {}.into(),
        tx::Rollback {}.into(),
        tx::RollbackOk {}.into(),
    ]
}

pub fn content_methods() -> Vec<ContentMethod> {
    let (exchange, routing_key) = (short("exchange"), short("a.b.c"));
    vec![
        basic::Publish {
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
            mandatory: false,
            immediate: true,
        }
        .into(),
        basic::Return {
            reply_code: 312,
            reply_text: short("NO_ROUTE"),
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
        }
        .into(),
        basic::Deliver {
            consumer_tag: short("ctag"),
            delivery_tag: 1 << 40,
            redelivered: true,
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
        }
        .into(),
        basic::GetOk { delivery_tag: 5, redelivered: false, exchange, routing_key, message_count: 6 }.into(),
    ]
}

/// Connection methods go on channel 0, all others on channel 1.
pub fn channel_of(method: &impl EncodeMethod) -> u16 {
    u16::from(method.method_id().class_id != 10)
}

pub fn encoded(method: &Method) -> BytesMut {
    let mut out = BytesMut::new();
    encode_method(&mut out, channel_of(method), method, FrameMax::DEFAULT).unwrap();
    out
}

pub fn encoded_content(
    method: &ContentMethod,
    list: &PropertyList,
    body: &[Bytes],
    max: FrameMax,
) -> BytesMut {
    let mut out = BytesMut::new();
    encode_content(&mut out, 1, method, list.as_bytes(), body, max).unwrap();
    out
}

/// Reads everything in `input`, which must be frames to the end, and assembles it.
pub fn commands(mut input: BytesMut, frame_max: FrameMax) -> Vec<Command> {
    let (mut reader, mut assembler) = (FrameReader::default(), Assembler::new(u64::MAX));
    let mut commands = Vec::new();
    while let Some((_, frame)) = reader.read(&mut input, frame_max).unwrap() {
        commands.extend(assembler.push(frame).unwrap());
    }
    assert!(input.is_empty());
    commands
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
