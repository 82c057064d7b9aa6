//! Messages between MQTT and the rest: the stored format of a PUBLISH, and what other protocols' messages
//! look like here.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use posthaste_broker::{Codec, ConversionError, Formats};
use posthaste_engine::catalog::Headers;
use posthaste_model::{Envelope, Format, Header, Message, Payload, Subject, Timestamp, Value};

use crate::wire::{
    ByteString, ForwardedProperties, ProtocolVersion, Publish, PublishProperties, QoS,
    SubscriptionIdentifier, check_topic_name,
};

/// A PUBLISH as received: the head is [`Head`], the body the payload.
pub const FORMAT: Format = Format(3);

/// The codec of [`FORMAT`], for readers of other protocols.
pub fn codec() -> Arc<dyn Codec> {
    Arc::new(PublishCodec)
}

/// Levels of a topic name or topic filter, as in Mosquitto. Routing takes a step, and some stack, for each.
pub(crate) const TOPIC_LEVELS_MAX: usize = 200;

/// Whether a topic name or topic filter has at most [`TOPIC_LEVELS_MAX`] levels.
pub(crate) fn is_shallow(topic: &str) -> bool {
    topic.bytes().filter(|byte| *byte == b'/').count() < TOPIC_LEVELS_MAX
}

/// Names under which the well-known fields of a message travel as user properties.
const KEY: &str = "x-key";
const CONTENT_ENCODING: &str = "content-encoding";
const MESSAGE_ID: &str = "message-id";
const KIND: &str = "type";
const USER: &str = "user-id";
const APPLICATION: &str = "app-id";
const PRIORITY: &str = "priority";

/// The first byte of a head. Another one would be another layout.
const LAYOUT: u8 = 1;
const QOS: u8 = 0b0011;
const RETAIN: u8 = 0b0100;
const DIRECTED: u8 = 0b1000;

/// Heads of messages without properties, by QoS and retain flag: the rule, so they cost nothing.
const PLAIN: [[u8; 2]; 8] = {
    let mut plain = [[LAYOUT, 0]; 8];
    let mut flags = 0;
    while flags < 8 {
        plain[flags as usize][1] = flags;
        flags += 1;
    }
    plain
};

/// What a stored PUBLISH has besides topic name, payload and expiry.
///
/// Layout: a byte with the layout's number; a byte with the QoS (bits 0 and 1), the retain flag (bit 2), and
/// whether the message is directed (bit 3); for a directed one the number of its subscription identifiers (a
/// byte) and these (four bytes each, big endian); then the forwarded properties as MQTT 5 encodes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub qos: QoS,
    pub retain: bool,
    /// The message was put into one session's queue for these of its subscriptions; QoS and retain flag are
    /// those it is to be delivered with.
    pub directed: Option<Vec<SubscriptionIdentifier>>,
    pub forwarded: ForwardedProperties,
}

impl Head {
    pub fn encode(&self) -> Bytes {
        let directed = if self.directed.is_some() { DIRECTED } else { 0 };
        let flags = self.qos.value() | if self.retain { RETAIN } else { 0 } | directed;
        if let (Some(plain), true) = (PLAIN.get(usize::from(flags)), self.forwarded.is_empty()) {
            return Bytes::from_static(plain);
        }
        let identifiers = self.directed.as_deref().unwrap_or_default();
        // More would not fit into the byte that counts them, and no client asks for so many.
        let identifiers = identifiers.get(..usize::from(u8::MAX)).unwrap_or(identifiers);
        let properties = self.forwarded.as_bytes();
        let mut head = BytesMut::with_capacity(3 + 4 * identifiers.len() + properties.len());
        head.put_slice(&[LAYOUT, flags]);
        if self.directed.is_some() {
            head.put_u8(identifiers.len() as u8);
            identifiers.iter().for_each(|id| head.put_u32(id.value()));
        }
        head.put_slice(properties);
        head.freeze()
    }

    /// `None` when the bytes are no head of this layout.
    pub fn decode(bytes: &Bytes) -> Option<Head> {
        let (&[layout, flags], mut at) = (bytes.first_chunk::<2>()?, 2);
        if layout != LAYOUT {
            return None;
        }
        let mut directed = None;
        if flags & DIRECTED != 0 {
            let count = usize::from(*bytes.get(at)?);
            let (encoded, _) = bytes.get(at + 1..at + 1 + 4 * count)?.as_chunks::<4>();
            let identifiers = encoded.iter().map(|id| SubscriptionIdentifier::new(u32::from_be_bytes(*id)));
            directed = Some(identifiers.collect::<Option<Vec<_>>>()?);
            at += 1 + 4 * count;
        }
        let forwarded = match bytes.len() - at {
            0 => ForwardedProperties::new(),
            _ => ForwardedProperties::parse(bytes.slice(at..)).ok()?,
        };
        let qos = QoS::from_value(flags & QOS)?;
        Some(Head { qos, retain: flags & RETAIN != 0, directed, forwarded })
    }
}

/// What a client's message is to the broker. Nothing is copied but properties. `None` if its topic name has
/// too many levels.
pub(crate) fn incoming(publish: &Publish, now: Timestamp) -> Option<(Envelope, Payload)> {
    if !is_shallow(&publish.topic_name) {
        return None;
    }
    // A topic name is UTF-8 of at most 65,535 bytes: the decoder made sure.
    let subject = Subject::slashed(publish.topic_name.as_bytes().clone()).ok()?;
    let mut envelope = Envelope::new(subject, now);
    envelope.durable = publish.qos != QoS::AtMostOnce;
    envelope.expires = publish.properties.message_expiry_interval.map(|s| now.plus_ms(u64::from(s) * 1000));
    let forwarded = publish.properties.forwarded.clone();
    let head = Head { qos: publish.qos, retain: publish.retain, directed: None, forwarded };
    Some((envelope, Payload { format: FORMAT, head: head.encode(), body: publish.payload.clone() }))
}

/// User properties, for exchanges that route by headers.
pub(crate) struct PublishHeaders<'a>(pub &'a ForwardedProperties);

impl Headers for PublishHeaders<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        let mut pairs = self.0.user_properties();
        pairs.find(|(known, _)| &**known == name).map(|(_, value)| Value::String(value.to_string()))
    }
}

/// A message on its way to a client, before it is known by which subscription.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Topic name, properties and payload; flags and identifiers are the session's.
    pub publish: Publish,
    /// The QoS and retain flag of its publisher.
    pub qos: QoS,
    pub retain: bool,
    pub directed: Option<Vec<SubscriptionIdentifier>>,
}

/// Why a message cannot be shown to an MQTT client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undeliverable {
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    #[error("the stored head is malformed")]
    Head,
    #[error("its subject is no topic name")]
    TopicName,
}

/// What a client that speaks `version` gets of a stored message.
pub(crate) fn outgoing(
    formats: &Formats,
    envelope: &Envelope,
    payload: &Payload,
    version: ProtocolVersion,
    now: Timestamp,
) -> Result<Outgoing, Undeliverable> {
    let topic = envelope.subject.to_slashed_bytes();
    let topic_name = ByteString::try_from(topic).map_err(|_| Undeliverable::TopicName)?;
    // Other protocols' routing keys may be empty, or contain `+` and `#`.
    check_topic_name(&topic_name).map_err(|_| Undeliverable::TopicName)?;
    let (head, body) = if payload.format == FORMAT {
        (Head::decode(&payload.head).ok_or(Undeliverable::Head)?, payload.body.clone())
    } else {
        let message = formats.message(envelope, payload)?;
        let qos = if envelope.durable { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let forwarded = match version {
            ProtocolVersion::V5 => properties_of(&message),
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ForwardedProperties::new(),
        };
        let head = Head { qos, retain: false, directed: None, forwarded };
        (head, message.body.unwrap_or_default())
    };
    // What is left of the interval, in whole seconds begun [MQTT-3.3.2-6].
    let left = envelope.expires.map(|at| at.ms_since(now).div_ceil(1000));
    let properties = PublishProperties {
        message_expiry_interval: left.map(|s| u32::try_from(s).unwrap_or(u32::MAX)),
        forwarded: head.forwarded,
        ..PublishProperties::default()
    };
    let publish = Publish { topic_name, properties, payload: body, ..Publish::default() };
    Ok(Outgoing { publish, qos: head.qos, retain: head.retain, directed: head.directed })
}

/// The properties of a message that did not come from MQTT. What does not fit into a property is left out.
fn properties_of(message: &Message) -> ForwardedProperties {
    let mut builder = ForwardedProperties::builder();
    if let Some(text) = &message.content_type {
        let _ = builder.content_type(text);
    }
    if let Some(topic) = message.reply_to.as_deref().and_then(response_topic) {
        let _ = builder.response_topic(&topic);
    }
    if let Some(data) = &message.correlation_id {
        let _ = builder.correlation_data(data);
    }
    let key = message.key.as_ref().and_then(|key| std::str::from_utf8(key).ok());
    let priority = message.priority.map(|priority| priority.to_string());
    let fields = [
        (KEY, key),
        (CONTENT_ENCODING, message.content_encoding.as_deref()),
        (MESSAGE_ID, message.id.as_deref()),
        (KIND, message.kind.as_deref()),
        (USER, message.user.as_deref()),
        (APPLICATION, message.application.as_deref()),
        (PRIORITY, priority.as_deref()),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = builder.user_property(name, value);
        }
    }
    for header in &message.headers {
        if let Some(value) = header.value.to_text() {
            let _ = builder.user_property(&header.name, &value);
        }
    }
    builder.build()
}

/// Where a reply is wanted, as a topic name: other protocols write subjects with dots.
fn response_topic(reply_to: &str) -> Option<String> {
    let topic = Subject::dotted(reply_to.to_owned()).ok()?.to_slashed().into_owned();
    check_topic_name(&topic).ok().map(|()| topic)
}

struct PublishCodec;

impl Codec for PublishCodec {
    fn format(&self) -> Format {
        FORMAT
    }

    fn messages(
        &self,
        offset: u64,
        envelope: Option<&Envelope>,
        payload: &Payload,
    ) -> Result<Vec<(u64, Message)>, ConversionError> {
        let head = Head::decode(&payload.head)
            .ok_or_else(|| ConversionError::Malformed("not the head of a PUBLISH".to_owned()))?;
        let forwarded = &head.forwarded;
        let reply_to = forwarded.response_topic().and_then(|topic| {
            Subject::slashed(topic.as_bytes().clone()).ok().map(|subject| subject.to_dotted().into_owned())
        });
        let mut message = Message {
            body: Some(payload.body.clone()),
            correlation_id: forwarded.correlation_data(),
            reply_to,
            content_type: forwarded.content_type().map(|text| text.to_string()),
            durable: head.qos != QoS::AtMostOnce,
            ..Message::default()
        };
        if let Some(envelope) = envelope {
            message.subject = envelope.subject.clone();
            message.expires = envelope.expires;
        }
        for (name, value) in forwarded.user_properties() {
            add_user_property(&mut message, &name, &value);
        }
        Ok(vec![(offset, message)])
    }
}

/// A user property with a well-known name becomes the field, once; every other one a header.
fn add_user_property(message: &mut Message, name: &str, value: &str) {
    let field = match name {
        KEY if message.key.is_none() => {
            message.key = Some(Bytes::copy_from_slice(value.as_bytes()));
            return;
        }
        PRIORITY if message.priority.is_none() && value.parse::<u8>().is_ok() => {
            message.priority = value.parse().ok();
            return;
        }
        CONTENT_ENCODING => &mut message.content_encoding,
        MESSAGE_ID => &mut message.id,
        KIND => &mut message.kind,
        USER => &mut message.user,
        APPLICATION => &mut message.application,
        _ => &mut None,
    };
    let known = matches!(name, CONTENT_ENCODING | MESSAGE_ID | KIND | USER | APPLICATION);
    if known && field.is_none() {
        *field = Some(value.to_owned());
    } else {
        message.headers.push(Header { name: name.to_owned(), value: Value::String(value.to_owned()) });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn properties(pairs: &[(&str, &str)]) -> ForwardedProperties {
        let mut builder = ForwardedProperties::builder();
        builder.utf8_payload();
        builder.content_type("text/plain").unwrap();
        builder.response_topic("answers/v1.5/here").unwrap();
        builder.correlation_data(b"\x00\xff").unwrap();
        for (name, value) in pairs {
            builder.user_property(name, value).unwrap();
        }
        builder.build()
    }

    fn published(qos: QoS, forwarded: ForwardedProperties) -> Publish {
        Publish {
            qos,
            retain: true,
            topic_name: "a/b.c".into(),
            properties: PublishProperties {
                message_expiry_interval: Some(60),
                forwarded,
                ..PublishProperties::default()
            },
            payload: Bytes::from_static(b"body"),
            ..Publish::default()
        }
    }

    #[test]
    fn heads_come_back_as_they_were() {
        let identifiers =
            |ids: &[u32]| ids.iter().map(|id| SubscriptionIdentifier::new(*id).unwrap()).collect();
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for retain in [false, true] {
                for directed in [None, Some(vec![]), Some(identifiers(&[1, 268_435_455]))] {
                    for forwarded in [ForwardedProperties::new(), properties(&[("a", "1"), ("a", "2")])] {
                        let head = Head { qos, retain, directed: directed.clone(), forwarded };
                        assert_eq!(Head::decode(&head.encode()), Some(head));
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_head_are_refused() {
        for bytes in
            [&b""[..], b"\x01", b"\x02\x00", b"\x01\x03", b"\x01\x08", b"\x01\x08\x01\x00", b"\x01\x00\x23"]
        {
            assert_eq!(Head::decode(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let formats = Formats::new([codec()]);
        let publish = published(QoS::ExactlyOnce, properties(&[("x-key", "k"), ("b", "2"), ("a", "1")]));
        let (envelope, payload) = incoming(&publish, NOW).unwrap();
        let later = NOW.plus_ms(10_001);
        let out = outgoing(&formats, &envelope, &payload, ProtocolVersion::V5, later).unwrap();
        assert_eq!((out.qos, out.retain, out.directed), (QoS::ExactlyOnce, true, None));
        let mut expect = Publish { qos: QoS::AtMostOnce, retain: false, ..publish };
        expect.properties.message_expiry_interval = Some(50);
        assert_eq!(out.publish, expect);
    }

    #[test]
    fn others_see_fields_and_headers() {
        let formats = Formats::new([codec()]);
        let pairs =
            [("x-key", "k"), ("message-id", "7"), ("message-id", "8"), ("priority", "300"), ("a", "1")];
        let (envelope, payload) = incoming(&published(QoS::AtLeastOnce, properties(&pairs)), NOW).unwrap();
        let message = formats.message(&envelope, &payload).unwrap();
        let header =
            |name: &str, value: &str| Header { name: name.into(), value: Value::String(value.into()) };
        let expect = Message {
            subject: Subject::dotted("a.b%2Ec").unwrap(),
            key: Some(Bytes::from_static(b"k")),
            body: Some(Bytes::from_static(b"body")),
            headers: vec![header("message-id", "8"), header("priority", "300"), header("a", "1")],
            id: Some("7".into()),
            correlation_id: Some(Bytes::from_static(b"\x00\xff")),
            reply_to: Some("answers.v1%2E5.here".into()),
            content_type: Some("text/plain".into()),
            expires: Some(NOW.plus_ms(60_000)),
            durable: true,
            ..Message::default()
        };
        assert_eq!(message, expect);
    }

    #[test]
    fn messages_of_others_become_properties() {
        let formats = Formats::new([]);
        let message = Message {
            key: Some(Bytes::from_static(b"k")),
            body: None,
            headers: vec![
                Header { name: "n".into(), value: Value::Int(7) },
                Header { name: "raw".into(), value: Value::Bytes(Bytes::from_static(b"\xff")) },
            ],
            id: Some("id".into()),
            correlation_id: Some(Bytes::from_static(b"c")),
            reply_to: Some("answers.here".into()),
            content_type: Some("text/plain".into()),
            priority: Some(3),
            ..Message::default()
        };
        let payload = posthaste_broker::encode_message(message);
        for (durable, qos) in [(true, QoS::AtLeastOnce), (false, QoS::AtMostOnce)] {
            let mut envelope = Envelope::new(Subject::dotted("a.b").unwrap(), NOW);
            envelope.durable = durable;
            let out = outgoing(&formats, &envelope, &payload, ProtocolVersion::V5, NOW).unwrap();
            assert_eq!((out.qos, out.retain), (qos, false));
            assert_eq!((&*out.publish.topic_name, &*out.publish.payload), ("a/b", &b""[..]));
            let forwarded = &out.publish.properties.forwarded;
            assert_eq!(forwarded.content_type().as_deref(), Some("text/plain"));
            assert_eq!(forwarded.response_topic().as_deref(), Some("answers/here"));
            assert_eq!(forwarded.correlation_data().as_deref(), Some(&b"c"[..]));
            let pairs: Vec<_> =
                forwarded.user_properties().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            let expect = [("x-key", "k"), ("message-id", "id"), ("priority", "3"), ("n", "7")];
            assert_eq!(pairs, expect.map(|(n, v)| (n.to_owned(), v.to_owned())));
            let old = outgoing(&formats, &envelope, &payload, ProtocolVersion::V3_1_1, NOW).unwrap();
            assert!(old.publish.properties.forwarded.is_empty());
        }
    }

    #[test]
    fn subjects_that_are_no_topic_names_are_undeliverable() {
        let formats = Formats::new([]);
        let payload = posthaste_broker::encode_message(Message::default());
        for subject in ["", "a.+.b", "a#", "nul\0"] {
            let envelope = Envelope::new(Subject::dotted(subject).unwrap(), NOW);
            let result = outgoing(&formats, &envelope, &payload, ProtocolVersion::V5, NOW);
            assert_eq!(result.err(), Some(Undeliverable::TopicName), "{subject:?}");
        }
    }
}
