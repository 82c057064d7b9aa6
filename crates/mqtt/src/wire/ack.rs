//! PUBACK, PUBREC, PUBREL and PUBCOMP, sections 3.4 to 3.7: one shape, four types.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::error::{DecodeError, EncodeError};
use super::field::{Reader, put_packet};
use super::packet::{PacketIdentifier, PacketType, ProtocolVersion};
use super::property::{Property, PropertyWriter, UserProperties, read_properties};
use super::reason_code::ReasonCode;

/// The content of PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub packet_identifier: PacketIdentifier,
    /// Version 3 has none: there it is always [`ReasonCode::Success`], and is not sent.
    pub reason_code: ReasonCode,
    /// `None` when there are none, which is the rule.
    pub properties: Option<Box<ReasonProperties>>,
}

/// The properties that explain an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasonProperties {
    pub reason_string: Option<ByteString>,
    pub user_properties: UserProperties,
}

impl Ack {
    pub fn new(packet_identifier: PacketIdentifier, reason_code: ReasonCode) -> Self {
        Self { packet_identifier, reason_code, properties: None }
    }

    pub(super) fn decode(
        packet_type: PacketType,
        body: &Bytes,
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_identifier = reader.packet_identifier()?;
        let mut ack = Self::new(packet_identifier, ReasonCode::Success);
        if version == ProtocolVersion::V5 && reader.remaining() > 0 {
            ack.reason_code = ReasonCode::decode(reader.u8()?, packet_type)?;
            // Below a remaining length of 4 the property length is left out (section 3.4.2.2.1).
            if reader.remaining() > 0 {
                let properties = ReasonProperties::read(&mut reader)?;
                ack.properties = (!properties.is_empty()).then(|| Box::new(properties));
            }
        }
        reader.finish()?;
        Ok(ack)
    }

    pub(super) fn encode(
        &self,
        packet_type: PacketType,
        version: ProtocolVersion,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let [high, low] = self.packet_identifier.get().to_be_bytes();
        let first_byte = packet_type.first_byte();
        match &self.properties {
            Some(properties) if version == ProtocolVersion::V5 => {
                let mut body = BytesMut::new();
                body.put_slice(&[high, low, self.reason_code.value()]);
                properties.write(&mut body)?;
                put_packet(out, first_byte, &body)?;
            }
            None if version == ProtocolVersion::V5 && self.reason_code != ReasonCode::Success => {
                out.put_slice(&[first_byte, 3, high, low, self.reason_code.value()]);
            }
            _ => out.put_slice(&[first_byte, 2, high, low]),
        }
        Ok(())
    }
}

impl ReasonProperties {
    pub fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        read_properties(reader, |property| {
            match property {
                Property::ReasonString(text) => properties.reason_string = Some(text),
                Property::UserProperty(name, value) => properties.user_properties.push_decoded(&name, &value),
                other => return Err(other.not_allowed()),
            }
            Ok(())
        })?;
        Ok(properties)
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut writer = PropertyWriter::default();
        writer.put_some(self.reason_string.clone(), Property::ReasonString)?;
        writer.put_user_properties(&self.user_properties);
        writer.finish(out)
    }
}
