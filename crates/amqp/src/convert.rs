//! Messages in and out: how a publish is stored, how a delivery is rendered, and what others see of it.

use crate::{
    arguments, death,
    names::short,
    wire::{BasicProperties, DecimalValue, FieldTable, FieldValue, PropertyList, ShortStr, ShortString},
};
use bytes::{BufMut, Bytes, BytesMut};
use posthaste_broker::{Broker, Codec, ConversionError, Resolved};
use posthaste_engine::catalog::{BUS, Queue};
use posthaste_model::{Envelope, Format, Header, Message, Payload, Timestamp, Value};
use std::sync::Arc;

/// A message as it was published over AMQP 0-9-1. The head is the name of the exchange behind its length,
/// then the property list as it came; the body is the body.
pub const FORMAT: Format = Format(2);

/// The header that carries a message's key to and from protocols that have keys.
const KEY: &str = "x-key";

/// A body up to this many octets is copied into the allocation that its properties need anyway.
const COPIED_BODY_OCTETS_MAX: usize = 2_048;
/// As above, for a message that stays in memory: a slice would keep the whole read buffer there.
const COPIED_TRANSIENT_BODY_OCTETS_MAX: usize = 64 * 1_024;
/// Durable messages of one read that are copied share allocations of so many octets: they are let go of
/// together, when the journal has them.
const SHARED_OCTETS: usize = 16 * 1_024;

/// How this crate's stored messages are understood by readers of other protocols.
pub fn codec() -> Arc<dyn Codec> {
    Arc::new(AmqpCodec)
}

/// Memory for what is copied of the messages of one read.
#[derive(Default)]
pub(crate) struct Copies {
    shared: BytesMut,
    /// A message was copied before; so more of them are likely to follow.
    several: bool,
}

impl Copies {
    /// Room for `octets` of a message.
    fn room(&mut self, octets: usize, durable: bool) -> BytesMut {
        // What stays in memory would keep its neighbours there.
        if !durable {
            return BytesMut::with_capacity(octets);
        }
        if self.shared.capacity() < octets {
            let least = if self.several { SHARED_OCTETS } else { 0 };
            self.shared = BytesMut::with_capacity(octets.max(least));
        }
        self.several = true;
        let rest = self.shared.split_off(octets);
        std::mem::replace(&mut self.shared, rest)
    }
}

/// A published message as it will be stored, and its routing key.
pub(crate) fn store(
    exchange: &ShortString,
    routing_key: &ShortString,
    properties: &PropertyList,
    body: Bytes,
    durable: bool,
    copies: &mut Copies,
) -> (Bytes, Payload) {
    let copied_max = if durable { COPIED_BODY_OCTETS_MAX } else { COPIED_TRANSIENT_BODY_OCTETS_MAX };
    let copied = body.len() <= copied_max;
    let head_octets = 1 + exchange.len() + properties.as_bytes().len();
    let copied_octets = if copied { body.len() } else { 0 };
    let mut together = copies.room(head_octets + routing_key.len() + copied_octets, durable);
    // A short string has at most 255 octets.
    together.put_u8(exchange.len() as u8);
    together.put_slice(exchange.as_bytes());
    together.put_slice(properties.as_bytes());
    together.put_slice(routing_key.as_bytes());
    if copied {
        together.put_slice(&body);
    }
    let mut rest = together.freeze();
    let head = rest.split_to(head_octets);
    let key = rest.split_to(routing_key.len());
    (key, Payload { format: FORMAT, head, body: if copied { rest } else { body } })
}

/// The exchange and the property list of a stored head.
fn split(head: &Bytes) -> Result<(Bytes, Bytes), ConversionError> {
    let octets = head.first().copied().map_or(0, usize::from);
    match head.len() {
        // At least the flags of an empty property list follow.
        len if len >= octets + 3 => Ok((head.slice(1..=octets), head.slice(octets + 1..))),
        _ => Err(ConversionError::Malformed("a head that is too short".to_owned())),
    }
}

/// A delivery as it is written.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub exchange: Bytes,
    pub routing_key: Bytes,
    pub properties: Bytes,
    pub body: Bytes,
}

impl Rendered {
    /// The name and key are cut to what fits a short string; only subjects of other protocols can be longer.
    pub fn address(&self) -> (ShortStr<'_>, ShortStr<'_>) {
        (fitting(&self.exchange), fitting(&self.routing_key))
    }
}

fn fitting(octets: &Bytes) -> ShortStr<'_> {
    let cut = octets.get(..ShortString::OCTETS_MAX.min(octets.len())).unwrap_or_default();
    ShortStr::new(cut).unwrap_or_default()
}

/// # Errors
/// What is stored cannot be understood.
pub(crate) fn render(
    broker: &Broker,
    queue: &Queue,
    resolved: Resolved,
) -> Result<Rendered, ConversionError> {
    let Resolved { delivery, envelope, payload } = resolved;
    let routing_key = envelope.subject.to_dotted_bytes();
    if payload.format != FORMAT {
        return foreign(broker, queue, &envelope, &payload, delivery.attempt, routing_key);
    }
    let (exchange, properties) = split(&payload.head)?;
    let counts = delivery.attempt > 1 && arguments::is_quorum(&queue.config);
    if envelope.deaths.is_empty() && !counts {
        return Ok(Rendered { exchange, routing_key, properties, body: payload.body });
    }
    let mut changed = decode(properties)?;
    death::write(&mut changed, &envelope.deaths, &String::from_utf8_lossy(&exchange));
    if counts {
        count_deliveries(&mut changed, delivery.attempt);
    }
    let exchange = dead_letter_exchange(broker, queue, &envelope).unwrap_or(exchange);
    let properties = PropertyList::from(&changed).as_bytes().clone();
    Ok(Rendered { exchange, routing_key, properties, body: payload.body })
}

/// A message that was not published over AMQP.
fn foreign(
    broker: &Broker,
    queue: &Queue,
    envelope: &Envelope,
    payload: &Payload,
    attempt: u32,
    routing_key: Bytes,
) -> Result<Rendered, ConversionError> {
    let message = broker.formats().message(envelope, payload)?;
    let (mut properties, body) = from_message(message, broker.now());
    // What came from elsewhere came over the bus, or was sent to the queue by its name.
    let exchange = if *routing_key == *queue.name.as_bytes() { "" } else { BUS };
    death::write(&mut properties, &envelope.deaths, exchange);
    if attempt > 1 && arguments::is_quorum(&queue.config) {
        count_deliveries(&mut properties, attempt);
    }
    let exchange = dead_letter_exchange(broker, queue, envelope)
        .unwrap_or_else(|| Bytes::from_static(exchange.as_bytes()));
    let properties = PropertyList::from(&properties).as_bytes().clone();
    Ok(Rendered { exchange, routing_key, properties, body })
}

/// The exchange that a message was dead-lettered to; none when it never was.
fn dead_letter_exchange(broker: &Broker, queue: &Queue, envelope: &Envelope) -> Option<Bytes> {
    let died_in = &envelope.deaths.first()?.queue;
    let catalog = broker.catalog();
    let source = catalog.namespace(&queue.namespace).and_then(|n| n.queues.get(died_in));
    let exchange = source.and_then(|q| q.config.dead_letter.as_ref()).and_then(|d| d.exchange.clone());
    Some(exchange.map_or_else(Bytes::new, |name| Bytes::copy_from_slice(name.as_bytes())))
}

fn count_deliveries(properties: &mut BasicProperties, attempt: u32) {
    let headers = properties.headers.get_or_insert_default();
    let count = FieldValue::LongLongInt(i64::from(attempt) - 1);
    headers.insert(ShortString::from_static("x-delivery-count"), count);
}

fn decode(properties: Bytes) -> Result<BasicProperties, ConversionError> {
    let malformed = |e: crate::wire::FieldError| ConversionError::Malformed(e.to_string());
    PropertyList::parse(properties).map_err(malformed)?.decode().map_err(malformed)
}

struct AmqpCodec;

impl Codec for AmqpCodec {
    fn format(&self) -> Format {
        FORMAT
    }

    fn messages(
        &self,
        offset: u64,
        envelope: Option<&Envelope>,
        payload: &Payload,
    ) -> Result<Vec<(u64, Message)>, ConversionError> {
        let (_, properties) = split(&payload.head)?;
        let mut message = to_message(decode(properties)?, payload.body.clone());
        if let Some(envelope) = envelope {
            message.subject = envelope.subject.clone();
            message.expires = envelope.expires;
            message.due = envelope.due;
        }
        Ok(vec![(offset, message)])
    }
}

/// Everything but the subject, which is the routing key and stands in the envelope, like the time of expiry.
fn to_message(properties: BasicProperties, body: Bytes) -> Message {
    let text = |string: Option<ShortString>| string.map(|s| s.to_string());
    let mut message = Message {
        body: Some(body),
        timestamp: properties.timestamp.map(seconds),
        id: text(properties.message_id),
        correlation_id: properties.correlation_id.map(ShortString::into_bytes),
        reply_to: text(properties.reply_to),
        content_type: text(properties.content_type),
        content_encoding: text(properties.content_encoding),
        kind: text(properties.r#type),
        user: text(properties.user_id),
        application: text(properties.app_id),
        priority: properties.priority,
        durable: properties.delivery_mode == Some(2),
        ..Message::default()
    };
    for (name, value) in properties.headers.into_iter().flatten() {
        if name == KEY
            && message.key.is_none()
            && let Some(octets) = value.as_bytes()
        {
            message.key = Some(octets.clone());
            continue;
        }
        message.headers.push(Header { name: name.to_string(), value: to_value(value) });
    }
    message
}

fn seconds(timestamp: u64) -> Timestamp {
    Timestamp(i64::try_from(timestamp).unwrap_or(i64::MAX).saturating_mul(1_000))
}

/// A value of a header, for routing and for other protocols.
pub(crate) fn to_value(value: FieldValue) -> Value {
    match value {
        FieldValue::Boolean(value) => Value::Bool(value),
        FieldValue::Float(value) => Value::Float(value.into()),
        FieldValue::Double(value) => Value::Float(value),
        FieldValue::Decimal(DecimalValue { scale, value }) => {
            Value::Decimal { scale, unscaled: value.into() }
        }
        FieldValue::LongString(octets) => match std::str::from_utf8(&octets) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => Value::Bytes(octets),
        },
        FieldValue::ByteArray(octets) => Value::Bytes(octets),
        FieldValue::Timestamp(timestamp) => Value::Timestamp(seconds(timestamp)),
        FieldValue::Void => Value::Null,
        FieldValue::Array(values) => Value::List(values.into_iter().map(to_value).collect()),
        FieldValue::Table(table) => Value::Map(
            table
                .into_iter()
                .map(|(name, value)| Header { name: name.to_string(), value: to_value(value) })
                .collect(),
        ),
        integer => Value::Int(integer.as_i64().unwrap_or_default()),
    }
}

/// A message of another protocol, as properties and body. What does not fit its property (255 octets)
/// becomes a header under the property's name.
fn from_message(message: Message, now: Timestamp) -> (BasicProperties, Bytes) {
    let mut headers = FieldTable::new();
    for Header { name, value } in message.headers {
        headers.push(short(&name), from_value(value));
    }
    if let Some(key) = message.key {
        let value = match std::str::from_utf8(&key) {
            Ok(_) => FieldValue::LongString(key),
            Err(_) => FieldValue::ByteArray(key),
        };
        headers.insert(ShortString::from_static(KEY), value);
    }
    let mut fit = |name: &'static str, octets: Option<Bytes>| {
        let octets = octets?;
        if octets.len() > ShortString::OCTETS_MAX {
            headers.push(ShortString::from_static(name), FieldValue::LongString(octets));
            return None;
        }
        ShortString::new(octets).ok()
    };
    let bytes = |text: Option<String>| text.map(Bytes::from);
    let expiration = message.expires.map(|at| at.ms_since(now).to_string());
    let mut properties = BasicProperties {
        content_type: fit("content-type", bytes(message.content_type)),
        content_encoding: fit("content-encoding", bytes(message.content_encoding)),
        headers: None,
        delivery_mode: Some(if message.durable { 2 } else { 1 }),
        priority: message.priority,
        correlation_id: fit("correlation-id", message.correlation_id),
        reply_to: fit("reply-to", bytes(message.reply_to)),
        expiration: expiration.map(|text| short(&text)),
        message_id: fit("message-id", bytes(message.id)),
        timestamp: message.timestamp.map(|at| u64::try_from(at.0 / 1_000).unwrap_or(0)),
        r#type: fit("type", bytes(message.kind)),
        user_id: fit("user-id", bytes(message.user)),
        app_id: fit("app-id", bytes(message.application)),
        cluster_id: None,
    };
    properties.headers = (!headers.is_empty()).then_some(headers);
    (properties, message.body.unwrap_or_default())
}

fn from_value(value: Value) -> FieldValue {
    match value {
        Value::Bool(value) => FieldValue::Boolean(value),
        Value::Bytes(octets) => FieldValue::ByteArray(octets),
        Value::Decimal { scale, unscaled } => match u32::try_from(unscaled) {
            Ok(value) => FieldValue::Decimal(DecimalValue { scale, value }),
            Err(_) => Value::Decimal { scale, unscaled }.to_text().unwrap_or_default().into(),
        },
        Value::Float(value) => FieldValue::Double(value),
        Value::Int(value) => FieldValue::LongLongInt(value),
        Value::List(values) => FieldValue::Array(values.into_iter().map(from_value).collect()),
        Value::Map(headers) => {
            FieldValue::Table(headers.into_iter().map(|h| (short(&h.name), from_value(h.value))).collect())
        }
        Value::Null => FieldValue::Void,
        Value::String(text) => text.into(),
        Value::Timestamp(at) => FieldValue::Timestamp(u64::try_from(at.0 / 1_000).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::Subject;

    const EXCHANGE: ShortString = ShortString::from_static("orders");
    const KEY_AB: ShortString = ShortString::from_static("a.b");

    fn published(properties: &BasicProperties, body: Bytes, durable: bool) -> (Bytes, Payload) {
        let mut copies = Copies::default();
        store(&EXCHANGE, &KEY_AB, &PropertyList::from(properties), body, durable, &mut copies)
    }

    fn full() -> BasicProperties {
        let mut headers = FieldTable::new();
        headers.push(ShortString::from_static("n"), 7);
        headers.push(ShortString::from_static("x-key"), "k1");
        headers.push(ShortString::from_static("list"), vec![FieldValue::Void, "x".into()]);
        let text = |text| Some(ShortString::from_static(text));
        BasicProperties {
            content_type: text("application/json"),
            content_encoding: text("gzip"),
            headers: Some(headers),
            delivery_mode: Some(2),
            priority: Some(3),
            correlation_id: text("c"),
            reply_to: text("r"),
            message_id: text("m"),
            timestamp: Some(1_700_000_000),
            r#type: text("t"),
            user_id: text("u"),
            app_id: text("a"),
            ..BasicProperties::default()
        }
    }

    #[test]
    fn what_is_stored_comes_back() {
        for (octets, durable) in [(0, true), (2_048, true), (2_049, true), (65_536, false), (65_537, false)] {
            let body = Bytes::from(vec![7; octets]);
            let list = PropertyList::from(&full());
            let (key, payload) = published(&full(), body.clone(), durable);
            let (exchange, properties) = split(&payload.head).unwrap();
            assert_eq!((&key[..], &exchange[..], &payload.body), (&b"a.b"[..], &b"orders"[..], &body));
            assert_eq!(properties, list.as_bytes());
            let shared = payload.body.as_ptr() == body.as_ptr() && octets > 0;
            assert_eq!(shared, octets > if durable { 2_048 } else { 65_536 }, "{octets} octets");
        }
        for broken in [&b""[..], &[0], &[0, 0], &[5, 1, 2, 3, 4, 5, 0]] {
            assert!(split(&Bytes::from_static(broken)).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn messages_of_one_read_share_memory_only_if_they_are_durable() {
        let properties = PropertyList::from(&full());
        let mut copies = Copies::default();
        // Some fit where the ones before lie, some need memory of their own.
        let messages = [(10, true), (0, true), (2_000, true), (300, false), (9_000, true), (2_048, true)];
        let messages = messages.repeat(20);
        let stored: Vec<_> = (0_u8..)
            .zip(&messages)
            .map(|(at, (octets, durable))| {
                let body = Bytes::from(vec![at; *octets]);
                store(&EXCHANGE, &KEY_AB, &properties, body, *durable, &mut copies)
            })
            .collect();
        drop(copies);
        for ((at, (octets, durable)), (key, payload)) in (0_u8..).zip(&messages).zip(stored) {
            let Payload { head, body, .. } = payload;
            assert_eq!((&key[..], &body[..]), (&b"a.b"[..], &vec![at; *octets][..]));
            assert_eq!(split(&head).unwrap(), (Bytes::from_static(b"orders"), properties.as_bytes().clone()));
            drop((key, head));
            assert!(*durable || body.is_unique(), "{at}: it would keep its neighbours in memory");
        }
    }

    #[test]
    fn other_protocols_see_every_property() {
        let (_, payload) = published(&full(), Bytes::from_static(b"{}"), true);
        let mut envelope = Envelope::new(Subject::dotted("a.b").unwrap(), Timestamp(5));
        envelope.expires = Some(Timestamp(99));
        let (offset, message) = codec().messages(9, Some(&envelope), &payload).unwrap().remove(0);
        assert_eq!(offset, 9);
        let text = |text: &str| Some(text.to_owned());
        let expect = Message {
            subject: Subject::dotted("a.b").unwrap(),
            key: Some(Bytes::from_static(b"k1")),
            body: Some(Bytes::from_static(b"{}")),
            headers: vec![
                Header { name: "n".into(), value: Value::Int(7) },
                Header {
                    name: "list".into(),
                    value: Value::List(vec![Value::Null, Value::String("x".into())]),
                },
            ],
            timestamp: Some(Timestamp(1_700_000_000_000)),
            id: text("m"),
            correlation_id: Some(Bytes::from_static(b"c")),
            reply_to: text("r"),
            content_type: text("application/json"),
            content_encoding: text("gzip"),
            kind: text("t"),
            user: text("u"),
            application: text("a"),
            expires: Some(Timestamp(99)),
            due: None,
            priority: Some(3),
            durable: true,
        };
        assert_eq!(message, expect);
        let (back, body) = from_message(message, Timestamp(90));
        assert_eq!(body, "{}");
        assert_eq!(back.expiration, Some(ShortString::from_static("9")));
        let headers = back.headers.as_ref().unwrap();
        assert_eq!(headers.get("x-key").and_then(FieldValue::as_str), Some("k1"));
        assert_eq!(headers.get("n"), Some(&FieldValue::LongLongInt(7)));
        let same = BasicProperties { headers: None, expiration: None, ..back };
        assert_eq!(same, BasicProperties { headers: None, ..full() });
    }

    #[test]
    fn what_fits_no_property_becomes_a_header() {
        let long = Bytes::from(vec![b'x'; 256]);
        let message = Message { correlation_id: Some(long.clone()), ..Message::default() };
        let (properties, body) = from_message(message, Timestamp(0));
        assert_eq!((properties.correlation_id, body), (None, Bytes::new()));
        let headers = properties.headers.unwrap();
        assert_eq!(headers.get("correlation-id"), Some(&FieldValue::LongString(long)));
    }

    #[test]
    fn values_of_all_types_cross_and_return() {
        for (value, there) in [
            (FieldValue::Boolean(true), Value::Bool(true)),
            (FieldValue::ShortShortInt(-5), Value::Int(-5)),
            (
                FieldValue::Decimal(DecimalValue { scale: 2, value: 5 }),
                Value::Decimal { scale: 2, unscaled: 5 },
            ),
            (FieldValue::Double(1.5), Value::Float(1.5)),
            (FieldValue::LongString(Bytes::from_static(b"\xff")), Value::Bytes(Bytes::from_static(b"\xff"))),
            (FieldValue::Timestamp(u64::MAX), Value::Timestamp(Timestamp(i64::MAX))),
            (FieldValue::Void, Value::Null),
        ] {
            assert_eq!(to_value(value), there);
        }
        let negative = Value::Decimal { scale: 1, unscaled: -15 };
        assert_eq!(from_value(negative), FieldValue::from("-1.5"), "AMQP's decimals have no sign");
        let table = Value::Map(vec![Header { name: "a".into(), value: Value::Int(1) }]);
        assert_eq!(to_value(from_value(table.clone())), table);
    }

    #[test]
    fn malformed_stored_messages_are_errors() {
        let broken =
            Payload { format: FORMAT, head: Bytes::from_static(&[0, 0x80, 0, 9]), body: Bytes::new() };
        assert!(matches!(codec().messages(0, None, &broken), Err(ConversionError::Malformed(_))));
    }
}
