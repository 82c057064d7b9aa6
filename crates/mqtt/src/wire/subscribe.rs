//! SUBSCRIBE and SUBACK, sections 3.8 and 3.9.

use std::num::NonZeroU32;

use bytes::{BufMut, Bytes, BytesMut};

use super::ack::ReasonProperties;
use super::error::{DecodeError, EncodeError};
use super::field::{Reader, VARIABLE_BYTE_INTEGER_MAX, put_packet, put_string};
use super::packet::{PacketIdentifier, PacketType, ProtocolVersion, QoS};
use super::property::{Property, PropertyWriter, SUBSCRIPTION_IDENTIFIER, UserProperties, read_properties};
use super::reason_code::ReasonCode;
use super::topic::TopicFilter;

/// A SUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    pub packet_identifier: PacketIdentifier,
    pub subscription_identifier: Option<SubscriptionIdentifier>,
    pub user_properties: UserProperties,
    /// At least one [MQTT-3.8.3-2].
    pub topic_filters: Vec<(TopicFilter, SubscriptionOptions)>,
}

/// A subscription identifier: 1 to 268,435,455.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionIdentifier(NonZeroU32);

/// Subscription options, section 3.8.3.1. Version 3 has only the QoS; the others are at their defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// The maximum QoS at which the client wants to receive.
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RetainHandling {
    #[default]
    SendAtSubscribe = 0,
    SendIfNewSubscription = 1,
    DoNotSend = 2,
}

/// A SUBACK packet: one reason code for each topic filter of the SUBSCRIBE, in order [MQTT-3.9.3-1].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback {
    pub packet_identifier: PacketIdentifier,
    pub properties: ReasonProperties,
    /// In version 3 every failure is sent as 0x80.
    pub reason_codes: Vec<ReasonCode>,
}

impl SubscriptionIdentifier {
    /// `None` outside of 1 to 268,435,455.
    pub fn new(value: u32) -> Option<Self> {
        NonZeroU32::new(value).filter(|value| value.get() <= VARIABLE_BYTE_INTEGER_MAX).map(Self)
    }

    pub fn value(self) -> u32 {
        self.0.get()
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // Section 3.8.2.1.2: 0 is a Protocol Error.
        Self::new(reader.variable_byte_integer()?).ok_or(DecodeError::PropertyValue(SUBSCRIPTION_IDENTIFIER))
    }
}

impl SubscriptionOptions {
    /// The options with only a QoS, as version 3 has them.
    pub fn new(qos: QoS) -> Self {
        Self { qos, ..Self::default() }
    }

    /// The options byte of version 5.
    pub fn to_byte(self) -> u8 {
        self.qos.value()
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4
    }

    /// Reads the options byte.
    pub fn from_byte(byte: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let reserved_bits = match version {
            ProtocolVersion::V3_1 => 0,
            ProtocolVersion::V3_1_1 => 0b1111_1100,
            ProtocolVersion::V5 => 0b1100_0000,
        };
        if byte & reserved_bits != 0 {
            return Err(DecodeError::ReservedBits(PacketType::Subscribe)); // [MQTT-3.8.3-5]
        }
        let qos = QoS::from_value(byte & 0b11).ok_or(DecodeError::SubscriptionQoS3)?;
        if version != ProtocolVersion::V5 {
            return Ok(Self::new(qos));
        }
        let retain_handling = match byte >> 4 & 0b11 {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendIfNewSubscription,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::RetainHandling3),
        };
        let (no_local, retain_as_published) = (byte & 0b100 != 0, byte & 0b1000 != 0);
        Ok(Self { qos, no_local, retain_as_published, retain_handling })
    }
}

impl Subscribe {
    pub(super) fn decode(body: &Bytes, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_identifier = reader.packet_identifier()?;
        let mut subscription_identifier = None;
        let mut user_properties = UserProperties::new();
        if version == ProtocolVersion::V5 {
            read_properties(&mut reader, |property| {
                match property {
                    Property::SubscriptionIdentifier(identifier) => {
                        subscription_identifier = Some(identifier)
                    }
                    Property::UserProperty(name, value) => user_properties.push_decoded(&name, &value),
                    other => return Err(other.not_allowed()),
                }
                Ok(())
            })?;
        }
        let mut topic_filters = Vec::new();
        while reader.remaining() > 0 {
            let filter = TopicFilter::parse(reader.string()?)?;
            let options = SubscriptionOptions::from_byte(reader.u8()?, version)?;
            if options.no_local && filter.is_shared() {
                return Err(DecodeError::NoLocalOnSharedSubscription); // [MQTT-3.8.3-4]
            }
            topic_filters.push((filter, options));
        }
        if topic_filters.is_empty() {
            return Err(DecodeError::NoTopicFilters); // [MQTT-3.8.3-2]
        }
        Ok(Self { packet_identifier, subscription_identifier, user_properties, topic_filters })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut body = BytesMut::new();
        body.put_u16(self.packet_identifier.get());
        if version == ProtocolVersion::V5 {
            let mut writer = PropertyWriter::default();
            writer.put_some(self.subscription_identifier, Property::SubscriptionIdentifier)?;
            writer.put_user_properties(&self.user_properties);
            writer.finish(&mut body)?;
        }
        for (filter, options) in &self.topic_filters {
            put_string(&mut body, filter.as_str())?;
            body.put_u8(match version {
                ProtocolVersion::V5 => options.to_byte(),
                ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => options.qos.value(),
            });
        }
        put_packet(out, PacketType::Subscribe.first_byte(), &body)
    }
}

impl Suback {
    pub(super) fn decode(body: &Bytes, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_identifier = reader.packet_identifier()?;
        let properties = match version {
            ProtocolVersion::V5 => ReasonProperties::read(&mut reader)?,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ReasonProperties::default(),
        };
        let mut reason_codes = Vec::with_capacity(reader.remaining());
        while reader.remaining() > 0 {
            let value = reader.u8()?;
            let code = ReasonCode::decode(value, PacketType::Suback)?;
            if version != ProtocolVersion::V5 && value > 0x80 {
                return Err(DecodeError::ReasonCodeNotAllowed(value)); // [MQTT-3.9.3-2, 3.1.1]
            }
            reason_codes.push(code);
        }
        Ok(Self { packet_identifier, properties, reason_codes })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut body = BytesMut::new();
        body.put_u16(self.packet_identifier.get());
        if version == ProtocolVersion::V5 {
            self.properties.write(&mut body)?;
        }
        for code in &self.reason_codes {
            body.put_u8(match version {
                ProtocolVersion::V5 => code.value(),
                ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => code.value().min(0x80),
            });
        }
        put_packet(out, PacketType::Suback.first_byte(), &body)
    }
}
