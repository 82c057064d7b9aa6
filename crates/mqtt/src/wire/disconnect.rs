//! DISCONNECT, section 3.14.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::Sender;
use super::error::{DecodeError, EncodeError};
use super::field::{Reader, put_packet};
use super::packet::{PacketType, ProtocolVersion};
use super::property::{Property, PropertyWriter, UserProperties, read_properties};
use super::reason_code::ReasonCode;

/// A DISCONNECT packet. Version 3 has neither reason code nor properties, and only clients send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// [`ReasonCode::Success`] is Normal disconnection.
    pub reason_code: ReasonCode,
    pub properties: DisconnectProperties,
}

/// The properties of DISCONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// Seconds; only from a client [MQTT-3.14.2-2].
    pub session_expiry_interval: Option<u32>,
    pub reason_string: Option<ByteString>,
    pub user_properties: UserProperties,
    pub server_reference: Option<ByteString>,
}

impl Disconnect {
    /// A DISCONNECT without properties.
    pub fn new(reason_code: ReasonCode) -> Self {
        Self { reason_code, properties: DisconnectProperties::default() }
    }

    pub(super) fn decode(
        body: &Bytes,
        version: ProtocolVersion,
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut disconnect = Self::new(ReasonCode::Success);
        if version == ProtocolVersion::V5 && reader.remaining() > 0 {
            disconnect.reason_code = ReasonCode::decode(reader.u8()?, PacketType::Disconnect)?;
            // Below a remaining length of 2 there is no property length (section 3.14.2.2.1).
            if reader.remaining() > 0 {
                disconnect.properties = DisconnectProperties::read(&mut reader, sender)?;
            }
        } else if sender == Sender::Server && version != ProtocolVersion::V5 {
            return Err(DecodeError::UnexpectedPacket(PacketType::Disconnect)); // section 3.14 of 3.1.1
        }
        reader.finish()?;
        Ok(disconnect)
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut body = BytesMut::new();
        if version == ProtocolVersion::V5 {
            let mut writer = PropertyWriter::default();
            writer.put_some(self.properties.session_expiry_interval, Property::SessionExpiryInterval)?;
            writer.put_some(self.properties.reason_string.clone(), Property::ReasonString)?;
            writer.put_user_properties(&self.properties.user_properties);
            writer.put_some(self.properties.server_reference.clone(), Property::ServerReference)?;
            if self.reason_code != ReasonCode::Success || !writer.is_empty() {
                body.put_u8(self.reason_code.value());
            }
            if !writer.is_empty() {
                writer.finish(&mut body)?;
            }
        }
        put_packet(out, PacketType::Disconnect.first_byte(), &body)
    }
}

impl DisconnectProperties {
    fn read(reader: &mut Reader<'_>, sender: Sender) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        read_properties(reader, |property| {
            match property {
                Property::SessionExpiryInterval(seconds) if sender == Sender::Client => {
                    properties.session_expiry_interval = Some(seconds);
                }
                Property::ReasonString(text) => properties.reason_string = Some(text),
                Property::UserProperty(name, value) => properties.user_properties.push_decoded(&name, &value),
                Property::ServerReference(text) => properties.server_reference = Some(text),
                other => return Err(other.not_allowed()),
            }
            Ok(())
        })?;
        Ok(properties)
    }
}
