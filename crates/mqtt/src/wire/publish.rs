//! PUBLISH, section 3.3: the hot path of the codec.

use std::num::NonZeroU16;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::Sender;
use super::error::{DecodeError, EncodeError};
use super::field::{
    Reader, VARIABLE_BYTE_INTEGER_MAX, field_len, put_variable_byte_integer, variable_byte_integer_len,
};
use super::forwarded::{ForwardedProperties, Scope, scan_message_properties};
use super::packet::{PacketIdentifier, PacketType, ProtocolVersion, QoS};
use super::property::{MESSAGE_EXPIRY_INTERVAL, SUBSCRIPTION_IDENTIFIER, TOPIC_ALIAS};
use super::subscribe::SubscriptionIdentifier;
use super::topic::check_topic_characters;

/// A PUBLISH packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// Without wildcards; empty only if there is a topic alias.
    pub topic_name: ByteString,
    /// Present exactly when the QoS is above 0.
    pub packet_identifier: Option<PacketIdentifier>,
    pub properties: PublishProperties,
    pub payload: Bytes,
}

/// The properties of a PUBLISH. Those that belong to this hop are decoded, the others stay as they were
/// received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// Seconds.
    pub message_expiry_interval: Option<u32>,
    pub topic_alias: Option<NonZeroU16>,
    /// Only in packets from a server.
    pub subscription_identifiers: Vec<SubscriptionIdentifier>,
    pub forwarded: ForwardedProperties,
}

impl Publish {
    #[inline]
    pub(super) fn decode(
        flags: u8,
        mut body: Bytes,
        version: ProtocolVersion,
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        let qos = QoS::from_value(flags >> 1 & 0b11).ok_or(DecodeError::QoS3)?;
        let dup = flags & 0b1000 != 0;
        if dup && qos == QoS::AtMostOnce && version != ProtocolVersion::V3_1 {
            return Err(DecodeError::DupWithQoS0);
        }
        let mut reader = Reader::new(&body);
        let topic_name = read_topic(&mut reader)?;
        let packet_identifier = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_identifier()?),
        };
        let properties = match version {
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => PublishProperties::default(),
            ProtocolVersion::V5 => PublishProperties::read(&mut reader, sender)?,
        };
        if topic_name.is_empty() && properties.topic_alias.is_none() {
            return Err(DecodeError::EmptyTopicName);
        }
        let retain = flags & 1 != 0;
        // The packet itself becomes the payload: one reference count less than a slice of it.
        let payload_at = reader.position();
        body.advance(payload_at);
        Ok(Self { dup, qos, retain, topic_name, packet_identifier, properties, payload: body })
    }

    /// Writes the packet up to its payload, which must follow.
    pub fn encode_head(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let topic_len = field_len(self.topic_name.as_bytes())?;
        let with_properties = version == ProtocolVersion::V5;
        if self.topic_name.is_empty() && !(with_properties && self.properties.topic_alias.is_some()) {
            return Err(EncodeError::EmptyTopicName);
        }
        if self.packet_identifier.is_some() != (self.qos != QoS::AtMostOnce) {
            return Err(EncodeError::PacketIdentifier);
        }
        let remaining_length = self.remaining_length(version)?;
        out.reserve(5 + remaining_length - self.payload.len());
        let flags = u8::from(self.dup) << 3 | self.qos.value() << 1 | u8::from(self.retain);
        out.put_u8((PacketType::Publish as u8) << 4 | flags);
        put_variable_byte_integer(out, remaining_length)?;
        out.put_u16(topic_len);
        out.put_slice(self.topic_name.as_bytes());
        if let Some(packet_identifier) = self.packet_identifier {
            out.put_u16(packet_identifier.get());
        }
        if with_properties {
            self.properties.write(out)?;
        }
        Ok(())
    }

    /// The size of the packet on the wire in bytes, with its fixed header and payload.
    pub fn encoded_len(&self, version: ProtocolVersion) -> Result<u32, EncodeError> {
        let remaining_length = self.remaining_length(version)?;
        let length = 1 + variable_byte_integer_len(remaining_length) + remaining_length;
        u32::try_from(length).map_err(|_| EncodeError::PacketTooLong(remaining_length))
    }

    fn remaining_length(&self, version: ProtocolVersion) -> Result<usize, EncodeError> {
        let mut length = 2 + self.topic_name.len() + self.payload.len();
        if self.packet_identifier.is_some() {
            length += 2;
        }
        if version == ProtocolVersion::V5 {
            let properties_len = self.properties.len();
            length += variable_byte_integer_len(properties_len) + properties_len;
        }
        if length > VARIABLE_BYTE_INTEGER_MAX as usize {
            return Err(EncodeError::PacketTooLong(length));
        }
        Ok(length)
    }
}

impl PublishProperties {
    fn read(reader: &mut Reader<'_>, sender: Sender) -> Result<Self, DecodeError> {
        let length = reader.variable_byte_integer()?;
        if length == 0 {
            return Ok(Self::default());
        }
        let scope = match sender {
            Sender::Client => Scope::PublishFromClient,
            Sender::Server => Scope::PublishFromServer,
        };
        let found = scan_message_properties(&mut reader.section(length as usize)?, scope)?;
        Ok(Self {
            message_expiry_interval: found.message_expiry_interval,
            topic_alias: found.topic_alias,
            subscription_identifiers: found.subscription_identifiers,
            forwarded: found.forwarded,
        })
    }

    /// Bytes of the section without the length in front.
    fn len(&self) -> usize {
        let mut length = self.forwarded.as_bytes().len();
        if self.message_expiry_interval.is_some() {
            length += 5;
        }
        if self.topic_alias.is_some() {
            length += 3;
        }
        for identifier in &self.subscription_identifiers {
            length += 1 + variable_byte_integer_len(identifier.value() as usize);
        }
        length
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        put_variable_byte_integer(out, self.len())?;
        if let Some(seconds) = self.message_expiry_interval {
            out.put_u8(MESSAGE_EXPIRY_INTERVAL);
            out.put_u32(seconds);
        }
        if let Some(alias) = self.topic_alias {
            out.put_u8(TOPIC_ALIAS);
            out.put_u16(alias.get());
        }
        for identifier in &self.subscription_identifiers {
            out.put_u8(SUBSCRIPTION_IDENTIFIER);
            put_variable_byte_integer(out, identifier.value() as usize)?;
        }
        out.put_slice(self.forwarded.as_bytes());
        Ok(())
    }
}

fn read_topic(reader: &mut Reader<'_>) -> Result<ByteString, DecodeError> {
    let raw = reader.binary()?;
    // UTF-8 first: a topic with both faults is a malformed packet before it is a bad name.
    let topic = ByteString::try_from(raw).map_err(|_| DecodeError::InvalidUtf8)?;
    check_topic_characters(topic.as_bytes())?;
    Ok(topic)
}
