//! Properties of MQTT 5, section 2.2.2.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::error::{DecodeError, EncodeError};
use super::field::{Reader, put_binary, put_string, put_variable_byte_integer, string_len};
use super::packet::QoS;
use super::subscribe::SubscriptionIdentifier;

pub(super) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
pub(super) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
pub(super) const CONTENT_TYPE: u8 = 0x03;
pub(super) const RESPONSE_TOPIC: u8 = 0x08;
pub(super) const CORRELATION_DATA: u8 = 0x09;
pub(super) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
pub(super) const WILL_DELAY_INTERVAL: u8 = 0x18;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
pub(super) const USER_PROPERTY: u8 = 0x26;

/// One property with its value, in the order of their identifiers (table 2-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// Whether the payload is UTF-8 text.
    PayloadFormatIndicator(bool),
    /// Seconds.
    MessageExpiryInterval(u32),
    ContentType(ByteString),
    ResponseTopic(ByteString),
    CorrelationData(Bytes),
    SubscriptionIdentifier(SubscriptionIdentifier),
    /// Seconds; `u32::MAX` means that the session does not expire.
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(ByteString),
    /// Seconds.
    ServerKeepAlive(u16),
    AuthenticationMethod(ByteString),
    AuthenticationData(Bytes),
    RequestProblemInformation(bool),
    /// Seconds.
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(ByteString),
    ServerReference(ByteString),
    ReasonString(ByteString),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    UserProperty(ByteString, ByteString),
    /// Bytes.
    MaximumPacketSize(NonZeroU32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

impl Property {
    /// The property identifier.
    pub fn identifier(&self) -> u8 {
        match self {
            Self::PayloadFormatIndicator(_) => PAYLOAD_FORMAT_INDICATOR,
            Self::MessageExpiryInterval(_) => MESSAGE_EXPIRY_INTERVAL,
            Self::ContentType(_) => CONTENT_TYPE,
            Self::ResponseTopic(_) => RESPONSE_TOPIC,
            Self::CorrelationData(_) => CORRELATION_DATA,
            Self::SubscriptionIdentifier(_) => SUBSCRIPTION_IDENTIFIER,
            Self::SessionExpiryInterval(_) => 0x11,
            Self::AssignedClientIdentifier(_) => 0x12,
            Self::ServerKeepAlive(_) => 0x13,
            Self::AuthenticationMethod(_) => 0x15,
            Self::AuthenticationData(_) => 0x16,
            Self::RequestProblemInformation(_) => 0x17,
            Self::WillDelayInterval(_) => WILL_DELAY_INTERVAL,
            Self::RequestResponseInformation(_) => 0x19,
            Self::ResponseInformation(_) => 0x1A,
            Self::ServerReference(_) => 0x1C,
            Self::ReasonString(_) => 0x1F,
            Self::ReceiveMaximum(_) => 0x21,
            Self::TopicAliasMaximum(_) => 0x22,
            Self::TopicAlias(_) => TOPIC_ALIAS,
            Self::MaximumQoS(_) => 0x24,
            Self::RetainAvailable(_) => 0x25,
            Self::UserProperty(..) => USER_PROPERTY,
            Self::MaximumPacketSize(_) => 0x27,
            Self::WildcardSubscriptionAvailable(_) => 0x28,
            Self::SubscriptionIdentifierAvailable(_) => 0x29,
            Self::SharedSubscriptionAvailable(_) => 0x2A,
        }
    }

    /// The error for a property that the packet at hand does not have.
    pub(super) fn not_allowed(&self) -> DecodeError {
        DecodeError::PropertyNotAllowed(self.identifier())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = reader.u8()?;
        let invalid = DecodeError::PropertyValue(id);
        Ok(match id {
            PAYLOAD_FORMAT_INDICATOR => Self::PayloadFormatIndicator(read_bool(reader, id)?),
            MESSAGE_EXPIRY_INTERVAL => Self::MessageExpiryInterval(reader.u32()?),
            CONTENT_TYPE => Self::ContentType(reader.string()?),
            RESPONSE_TOPIC => Self::ResponseTopic(reader.string()?),
            CORRELATION_DATA => Self::CorrelationData(reader.binary()?),
            SUBSCRIPTION_IDENTIFIER => Self::SubscriptionIdentifier(SubscriptionIdentifier::read(reader)?),
            0x11 => Self::SessionExpiryInterval(reader.u32()?),
            0x12 => Self::AssignedClientIdentifier(reader.string()?),
            0x13 => Self::ServerKeepAlive(reader.u16()?),
            0x15 => Self::AuthenticationMethod(reader.string()?),
            0x16 => Self::AuthenticationData(reader.binary()?),
            0x17 => Self::RequestProblemInformation(read_bool(reader, id)?),
            WILL_DELAY_INTERVAL => Self::WillDelayInterval(reader.u32()?),
            0x19 => Self::RequestResponseInformation(read_bool(reader, id)?),
            0x1A => Self::ResponseInformation(reader.string()?),
            0x1C => Self::ServerReference(reader.string()?),
            0x1F => Self::ReasonString(reader.string()?),
            0x21 => Self::ReceiveMaximum(NonZeroU16::new(reader.u16()?).ok_or(invalid)?),
            0x22 => Self::TopicAliasMaximum(reader.u16()?),
            TOPIC_ALIAS => {
                Self::TopicAlias(NonZeroU16::new(reader.u16()?).ok_or(DecodeError::TopicAliasZero)?)
            }
            0x24 => match reader.u8()? {
                0 => Self::MaximumQoS(QoS::AtMostOnce),
                1 => Self::MaximumQoS(QoS::AtLeastOnce),
                _ => return Err(invalid),
            },
            0x25 => Self::RetainAvailable(read_bool(reader, id)?),
            USER_PROPERTY => Self::UserProperty(reader.string()?, reader.string()?),
            0x27 => Self::MaximumPacketSize(NonZeroU32::new(reader.u32()?).ok_or(invalid)?),
            0x28 => Self::WildcardSubscriptionAvailable(read_bool(reader, id)?),
            0x29 => Self::SubscriptionIdentifierAvailable(read_bool(reader, id)?),
            0x2A => Self::SharedSubscriptionAvailable(read_bool(reader, id)?),
            other => return Err(DecodeError::PropertyNotAllowed(other)),
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u8(self.identifier());
        match self {
            Self::PayloadFormatIndicator(value)
            | Self::RequestProblemInformation(value)
            | Self::RequestResponseInformation(value)
            | Self::RetainAvailable(value)
            | Self::WildcardSubscriptionAvailable(value)
            | Self::SubscriptionIdentifierAvailable(value)
            | Self::SharedSubscriptionAvailable(value) => out.put_u8(u8::from(*value)),
            Self::MessageExpiryInterval(seconds)
            | Self::SessionExpiryInterval(seconds)
            | Self::WillDelayInterval(seconds) => out.put_u32(*seconds),
            Self::ContentType(text)
            | Self::ResponseTopic(text)
            | Self::AssignedClientIdentifier(text)
            | Self::AuthenticationMethod(text)
            | Self::ResponseInformation(text)
            | Self::ServerReference(text)
            | Self::ReasonString(text) => put_string(out, text)?,
            Self::CorrelationData(data) | Self::AuthenticationData(data) => put_binary(out, data)?,
            Self::SubscriptionIdentifier(id) => put_variable_byte_integer(out, id.value() as usize)?,
            Self::ServerKeepAlive(value) | Self::TopicAliasMaximum(value) => out.put_u16(*value),
            Self::ReceiveMaximum(value) | Self::TopicAlias(value) => out.put_u16(value.get()),
            Self::MaximumQoS(qos) => out.put_u8(qos.value()),
            Self::UserProperty(name, value) => {
                put_string(out, name)?;
                put_string(out, value)?;
            }
            Self::MaximumPacketSize(bytes) => out.put_u32(bytes.get()),
        }
        Ok(())
    }
}

pub(super) fn read_bool(reader: &mut Reader<'_>, identifier: u8) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::PropertyValue(identifier)),
    }
}

/// Reads a property section. Each property may occur once, except User Property; `each` refuses what its
/// packet does not have.
pub(super) fn read_properties(
    reader: &mut Reader<'_>,
    mut each: impl FnMut(Property) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let length = reader.variable_byte_integer()?;
    let mut section = reader.section(length as usize)?;
    let mut seen = 0u64;
    while section.remaining() > 0 {
        let property = Property::read(&mut section)?;
        let bit = 1u64 << property.identifier();
        if seen & bit != 0 && !matches!(property, Property::UserProperty(..)) {
            return Err(DecodeError::DuplicateProperty(property.identifier()));
        }
        seen |= bit;
        each(property)?;
    }
    Ok(())
}

/// Collects a property section and writes it with its length in front.
#[derive(Default)]
pub(super) struct PropertyWriter(BytesMut);

impl PropertyWriter {
    pub(super) fn put(&mut self, property: Property) -> Result<(), EncodeError> {
        property.write(&mut self.0)
    }

    pub(super) fn put_some<T>(
        &mut self,
        value: Option<T>,
        property: impl FnOnce(T) -> Property,
    ) -> Result<(), EncodeError> {
        value.map_or(Ok(()), |value| self.put(property(value)))
    }

    pub(super) fn put_user_properties(&mut self, properties: &UserProperties) {
        self.0.put_slice(&properties.0);
    }

    pub(super) fn put_raw(&mut self, properties: &[u8]) {
        self.0.put_slice(properties);
    }

    pub(super) fn finish(self, out: &mut BytesMut) -> Result<(), EncodeError> {
        put_variable_byte_integer(out, self.0.len())?;
        out.put_slice(&self.0);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// User properties of a packet other than PUBLISH: pairs of strings, in order, names may repeat. Kept in
/// their encoded form, so that a packet of many tiny pairs costs no more memory than it has bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserProperties(Vec<u8>);

impl UserProperties {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a pair. Fails if a string has more than 65,535 bytes or contains U+0000.
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), EncodeError> {
        let (name_len, value_len) = (string_len(name)?, string_len(value)?);
        self.0.push(USER_PROPERTY);
        self.0.extend_from_slice(&name_len.to_be_bytes());
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(&value_len.to_be_bytes());
        self.0.extend_from_slice(value.as_bytes());
        Ok(())
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            rest = rest.get(1..)?;
            let name = split_text(&mut rest)?;
            let value = split_text(&mut rest)?;
            Some((name, value))
        })
    }

    /// Adds a pair that was read from the wire, where its strings were checked.
    pub(super) fn push_decoded(&mut self, name: &ByteString, value: &ByteString) {
        // Cannot fail: both came from fields of at most 65,535 bytes without U+0000.
        let _ = self.push(name, value);
    }
}

impl std::fmt::Debug for UserProperties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn split_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, tail) = rest.split_first_chunk::<2>()?;
    let (text, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}
