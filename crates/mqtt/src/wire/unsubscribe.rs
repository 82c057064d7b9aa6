//! UNSUBSCRIBE and UNSUBACK, sections 3.10 and 3.11.

use bytes::{BufMut, Bytes, BytesMut};

use super::ack::ReasonProperties;
use super::error::{DecodeError, EncodeError};
use super::field::{Reader, put_packet, put_string};
use super::packet::{PacketIdentifier, PacketType, ProtocolVersion};
use super::property::{Property, PropertyWriter, UserProperties, read_properties};
use super::reason_code::ReasonCode;
use super::topic::TopicFilter;

/// An UNSUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    pub packet_identifier: PacketIdentifier,
    pub user_properties: UserProperties,
    /// At least one [MQTT-3.10.3-2].
    pub topic_filters: Vec<TopicFilter>,
}

/// An UNSUBACK packet: in version 5 one reason code for each topic filter, in order [MQTT-3.11.3-1].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuback {
    pub packet_identifier: PacketIdentifier,
    pub properties: ReasonProperties,
    /// Empty in version 3, which has none.
    pub reason_codes: Vec<ReasonCode>,
}

impl Unsubscribe {
    pub(super) fn decode(body: &Bytes, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_identifier = reader.packet_identifier()?;
        let mut user_properties = UserProperties::new();
        if version == ProtocolVersion::V5 {
            read_properties(&mut reader, |property| {
                let Property::UserProperty(name, value) = &property else {
                    return Err(property.not_allowed());
                };
                user_properties.push_decoded(name, value);
                Ok(())
            })?;
        }
        let mut topic_filters = Vec::new();
        while reader.remaining() > 0 {
            topic_filters.push(TopicFilter::parse(reader.string()?)?);
        }
        if topic_filters.is_empty() {
            return Err(DecodeError::NoTopicFilters); // [MQTT-3.10.3-2]
        }
        Ok(Self { packet_identifier, user_properties, topic_filters })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut body = BytesMut::new();
        body.put_u16(self.packet_identifier.get());
        if version == ProtocolVersion::V5 {
            let mut writer = PropertyWriter::default();
            writer.put_user_properties(&self.user_properties);
            writer.finish(&mut body)?;
        }
        for filter in &self.topic_filters {
            put_string(&mut body, filter.as_str())?;
        }
        put_packet(out, PacketType::Unsubscribe.first_byte(), &body)
    }
}

impl Unsuback {
    pub(super) fn decode(body: &Bytes, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_identifier = reader.packet_identifier()?;
        let mut properties = ReasonProperties::default();
        let mut reason_codes = Vec::new();
        if version == ProtocolVersion::V5 {
            properties = ReasonProperties::read(&mut reader)?;
            reason_codes.reserve_exact(reader.remaining());
            while reader.remaining() > 0 {
                reason_codes.push(ReasonCode::decode(reader.u8()?, PacketType::Unsuback)?);
            }
        }
        reader.finish()?;
        Ok(Self { packet_identifier, properties, reason_codes })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut body = BytesMut::new();
        body.put_u16(self.packet_identifier.get());
        if version == ProtocolVersion::V5 {
            self.properties.write(&mut body)?;
            for code in &self.reason_codes {
                body.put_u8(code.value());
            }
        }
        put_packet(out, PacketType::Unsuback.first_byte(), &body)
    }
}
