//! The properties of application messages: what is forwarded with a message, and what belongs to one hop.

use std::num::NonZeroU16;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::error::{DecodeError, EncodeError};
use super::field::{Reader, field_len, put_binary, put_string, string_len};
use super::property::{
    CONTENT_TYPE, CORRELATION_DATA, MESSAGE_EXPIRY_INTERVAL, PAYLOAD_FORMAT_INDICATOR, Property,
    RESPONSE_TOPIC, SUBSCRIPTION_IDENTIFIER, TOPIC_ALIAS, USER_PROPERTY, WILL_DELAY_INTERVAL, read_bool,
};
use super::subscribe::SubscriptionIdentifier;
use super::topic::check_topic_characters;

/// The properties of an application message that a server must forward unaltered, byte for byte as they were
/// received: Payload Format Indicator [MQTT-3.3.2-4], Response Topic [MQTT-3.3.2-15], Correlation Data
/// [MQTT-3.3.2-16], User Properties in their order [MQTT-3.3.2-17, -18], Content Type [MQTT-3.3.2-20].
///
/// Not among them: Topic Alias and Subscription Identifiers, which belong to one connection and one
/// subscriber, and Message Expiry Interval, which shrinks with the time that a message waits [MQTT-3.3.2-6].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedProperties(Bytes);

impl ForwardedProperties {
    pub const fn new() -> Self {
        Self(Bytes::new())
    }

    /// Checks bytes that [`ForwardedProperties::as_bytes`] gave out earlier.
    pub fn parse(bytes: Bytes) -> Result<Self, DecodeError> {
        let scanned = scan_message_properties(&mut Reader::new(&bytes), Scope::Forwarded)?;
        debug_assert_eq!(scanned.forwarded.0.len(), bytes.len());
        Ok(Self(bytes))
    }

    /// Builds the properties of a message that did not come from MQTT.
    pub fn builder() -> ForwardedPropertiesBuilder {
        ForwardedPropertiesBuilder(BytesMut::new())
    }

    /// The encoded properties, without the length in front.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The properties in the order in which they were sent.
    pub fn iter(&self) -> impl Iterator<Item = Property> {
        let mut reader = Reader::new(&self.0);
        std::iter::from_fn(
            move || {
                if reader.remaining() == 0 { None } else { Property::read(&mut reader).ok() }
            },
        )
    }

    /// Whether the payload is declared to be UTF-8 text.
    pub fn payload_format_indicator(&self) -> bool {
        self.iter().any(|property| property == Property::PayloadFormatIndicator(true))
    }

    pub fn content_type(&self) -> Option<ByteString> {
        self.iter().find_map(|p| if let Property::ContentType(text) = p { Some(text) } else { None })
    }

    pub fn response_topic(&self) -> Option<ByteString> {
        self.iter().find_map(|p| if let Property::ResponseTopic(topic) = p { Some(topic) } else { None })
    }

    pub fn correlation_data(&self) -> Option<Bytes> {
        self.iter().find_map(|p| if let Property::CorrelationData(data) = p { Some(data) } else { None })
    }

    /// The user properties in order; names may repeat.
    pub fn user_properties(&self) -> impl Iterator<Item = (ByteString, ByteString)> {
        self.iter().filter_map(|p| match p {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }
}

/// Builds [`ForwardedProperties`]. Set each of the single properties at most once. Every method fails, and
/// adds nothing, if a field has more than 65,535 bytes or a string contains U+0000.
#[derive(Debug)]
pub struct ForwardedPropertiesBuilder(BytesMut);

impl ForwardedPropertiesBuilder {
    /// Declares the payload to be UTF-8 text.
    pub fn utf8_payload(&mut self) {
        self.0.put_slice(&[PAYLOAD_FORMAT_INDICATOR, 1]);
    }

    pub fn content_type(&mut self, text: &str) -> Result<(), EncodeError> {
        self.put_text(CONTENT_TYPE, text)
    }

    /// The response topic; it must pass [`check_topic_name`](super::check_topic_name).
    pub fn response_topic(&mut self, topic: &str) -> Result<(), EncodeError> {
        self.put_text(RESPONSE_TOPIC, topic)
    }

    pub fn correlation_data(&mut self, data: &[u8]) -> Result<(), EncodeError> {
        field_len(data)?;
        self.0.put_u8(CORRELATION_DATA);
        put_binary(&mut self.0, data)
    }

    pub fn user_property(&mut self, name: &str, value: &str) -> Result<(), EncodeError> {
        string_len(name)?;
        string_len(value)?;
        self.0.put_u8(USER_PROPERTY);
        put_string(&mut self.0, name)?;
        put_string(&mut self.0, value)
    }

    pub fn build(self) -> ForwardedProperties {
        ForwardedProperties(self.0.freeze())
    }

    fn put_text(&mut self, identifier: u8, text: &str) -> Result<(), EncodeError> {
        string_len(text)?;
        self.0.put_u8(identifier);
        put_string(&mut self.0, text)
    }
}

/// Whose properties are scanned: it decides which are allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    PublishFromClient,
    PublishFromServer,
    Will,
    Forwarded,
}

/// What [`scan_message_properties`] finds.
#[derive(Default)]
pub(super) struct MessageProperties {
    pub(super) message_expiry_interval: Option<u32>,
    pub(super) topic_alias: Option<NonZeroU16>,
    pub(super) subscription_identifiers: Vec<SubscriptionIdentifier>,
    pub(super) will_delay_interval: Option<u32>,
    pub(super) forwarded: ForwardedProperties,
}

/// Checks a property section of a PUBLISH or a will (without the length in front) in one pass that copies and
/// allocates nothing, unless what is to be forwarded is interrupted by what is not.
pub(super) fn scan_message_properties(
    section: &mut Reader<'_>,
    scope: Scope,
) -> Result<MessageProperties, DecodeError> {
    let mut found = MessageProperties::default();
    let mut seen = 0u64;
    let mut kept = Kept { span: section.position()..section.position(), spilled: BytesMut::new() };
    while section.remaining() > 0 {
        let start = section.position();
        let id = section.u8()?;
        if id > USER_PROPERTY || !allowed(id, scope) {
            return Err(match (id, scope) {
                (SUBSCRIPTION_IDENTIFIER, Scope::PublishFromClient) => {
                    DecodeError::SubscriptionIdentifierFromClient // [MQTT-3.3.4-6]
                }
                _ => DecodeError::PropertyNotAllowed(id),
            });
        }
        let bit = 1u64 << id;
        if seen & bit != 0 && !matches!(id, USER_PROPERTY | SUBSCRIPTION_IDENTIFIER) {
            return Err(DecodeError::DuplicateProperty(id));
        }
        seen |= bit;
        match id {
            MESSAGE_EXPIRY_INTERVAL => found.message_expiry_interval = Some(section.u32()?),
            WILL_DELAY_INTERVAL => found.will_delay_interval = Some(section.u32()?),
            TOPIC_ALIAS => {
                let alias = NonZeroU16::new(section.u16()?).ok_or(DecodeError::TopicAliasZero)?;
                found.topic_alias = Some(alias);
            }
            SUBSCRIPTION_IDENTIFIER => {
                found.subscription_identifiers.push(SubscriptionIdentifier::read(section)?);
            }
            forwarded => {
                check_forwarded(section, forwarded)?;
                kept.keep(start..section.position(), section);
            }
        }
    }
    found.forwarded = kept.finish(section);
    Ok(found)
}

fn allowed(identifier: u8, scope: Scope) -> bool {
    match identifier {
        PAYLOAD_FORMAT_INDICATOR | CONTENT_TYPE | RESPONSE_TOPIC | CORRELATION_DATA | USER_PROPERTY => true,
        MESSAGE_EXPIRY_INTERVAL => scope != Scope::Forwarded,
        SUBSCRIPTION_IDENTIFIER => scope == Scope::PublishFromServer,
        WILL_DELAY_INTERVAL => scope == Scope::Will,
        TOPIC_ALIAS => matches!(scope, Scope::PublishFromClient | Scope::PublishFromServer),
        _ => false,
    }
}

/// Checks the value of a property that is forwarded as it is.
fn check_forwarded(section: &mut Reader<'_>, identifier: u8) -> Result<(), DecodeError> {
    match identifier {
        PAYLOAD_FORMAT_INDICATOR => {
            read_bool(section, identifier)?;
        }
        CONTENT_TYPE => {
            section.check_string()?;
        }
        RESPONSE_TOPIC => {
            let topic = section.check_string()?;
            // [MQTT-3.3.2-14]: no wildcards; [MQTT-4.7.3-1]: not empty.
            if topic.is_empty() || check_topic_characters(topic.as_bytes()).is_err() {
                return Err(DecodeError::PropertyValue(identifier));
            }
        }
        CORRELATION_DATA => {
            let length = section.u16()?;
            section.take(usize::from(length))?;
        }
        USER_PROPERTY => {
            section.check_string()?;
            section.check_string()?;
        }
        other => return Err(DecodeError::PropertyNotAllowed(other)),
    }
    Ok(())
}

/// What is to be forwarded: one span of the packet as long as that suffices, a copy of several spans
/// otherwise.
struct Kept {
    span: std::ops::Range<usize>,
    spilled: BytesMut,
}

impl Kept {
    fn keep(&mut self, property: std::ops::Range<usize>, section: &Reader<'_>) {
        if self.span.is_empty() {
            self.span = property;
        } else if self.span.end == property.start {
            self.span.end = property.end;
        } else {
            self.spilled.put_slice(&section.slice(std::mem::replace(&mut self.span, property)));
        }
    }

    fn finish(mut self, section: &Reader<'_>) -> ForwardedProperties {
        let last = section.slice(self.span);
        if self.spilled.is_empty() {
            return ForwardedProperties(last);
        }
        self.spilled.put_slice(&last);
        ForwardedProperties(self.spilled.freeze())
    }
}
