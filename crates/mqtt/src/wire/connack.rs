//! CONNACK, section 3.2.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::error::{DecodeError, EncodeError};
use super::field::{Reader, put_packet};
use super::packet::{PacketType, ProtocolVersion, QoS};
use super::property::{Property, PropertyWriter, UserProperties, read_properties};
use super::reason_code::ReasonCode;

/// A CONNACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// Not sent in version 3.1, which does not have it.
    pub session_present: bool,
    /// In version 3 encoded as its [return code](ReasonCode::connect_return_code).
    pub reason_code: ReasonCode,
    pub properties: ConnackProperties,
}

/// The properties of CONNACK; `None` means the specification's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnackProperties {
    /// Seconds; `None` when the value in CONNECT is used.
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    /// Bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    pub assigned_client_identifier: Option<ByteString>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<ByteString>,
    pub user_properties: UserProperties,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    /// Seconds; replaces the client's keep-alive.
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<ByteString>,
    pub server_reference: Option<ByteString>,
    pub authentication_method: Option<ByteString>,
    pub authentication_data: Option<Bytes>,
}

impl Connack {
    /// A refusal without properties.
    pub fn refused(reason_code: ReasonCode) -> Self {
        Self { session_present: false, reason_code, properties: ConnackProperties::default() }
    }

    pub(super) fn decode(body: &Bytes, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        if flags > 1 && version != ProtocolVersion::V3_1 {
            return Err(DecodeError::ReservedBits(PacketType::Connack)); // [MQTT-3.2.2-1]
        }
        let session_present = flags & 1 != 0 && version != ProtocolVersion::V3_1;
        let code = reader.u8()?;
        let reason_code = match version {
            ProtocolVersion::V5 => ReasonCode::decode(code, PacketType::Connack)?,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ReasonCode::from_connect_return_code(code)?,
        };
        if session_present && reason_code.is_error() {
            return Err(DecodeError::SessionPresentOnRefusal); // [MQTT-3.2.2-6]
        }
        let properties = match version {
            ProtocolVersion::V5 => ConnackProperties::read(&mut reader)?,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ConnackProperties::default(),
        };
        reader.finish()?;
        Ok(Self { session_present, reason_code, properties })
    }

    /// Fails with [`EncodeError::Version`] if version 3 has no return code for the reason: the connection is
    /// then closed without a CONNACK.
    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut body = BytesMut::new();
        body.put_u8(u8::from(self.session_present && version != ProtocolVersion::V3_1));
        if version == ProtocolVersion::V5 {
            body.put_u8(self.reason_code.value());
            self.properties.write(&mut body)?;
        } else {
            let code = self.reason_code.connect_return_code();
            body.put_u8(code.ok_or(EncodeError::Version(version, PacketType::Connack))?);
        }
        put_packet(out, PacketType::Connack.first_byte(), &body)
    }
}

impl ConnackProperties {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        read_properties(reader, |property| properties.set(property))?;
        Ok(properties)
    }

    fn set(&mut self, property: Property) -> Result<(), DecodeError> {
        match property {
            Property::SessionExpiryInterval(seconds) => self.session_expiry_interval = Some(seconds),
            Property::AssignedClientIdentifier(id) => self.assigned_client_identifier = Some(id),
            Property::ServerKeepAlive(seconds) => self.server_keep_alive = Some(seconds),
            Property::AuthenticationMethod(method) => self.authentication_method = Some(method),
            Property::AuthenticationData(data) => self.authentication_data = Some(data),
            Property::ResponseInformation(text) => self.response_information = Some(text),
            Property::ServerReference(text) => self.server_reference = Some(text),
            Property::ReasonString(text) => self.reason_string = Some(text),
            Property::ReceiveMaximum(maximum) => self.receive_maximum = Some(maximum),
            Property::TopicAliasMaximum(maximum) => self.topic_alias_maximum = Some(maximum),
            Property::MaximumQoS(qos) => self.maximum_qos = Some(qos),
            Property::RetainAvailable(available) => self.retain_available = Some(available),
            Property::UserProperty(name, value) => self.user_properties.push_decoded(&name, &value),
            Property::MaximumPacketSize(bytes) => self.maximum_packet_size = Some(bytes),
            Property::WildcardSubscriptionAvailable(available) => {
                self.wildcard_subscription_available = Some(available);
            }
            Property::SubscriptionIdentifierAvailable(available) => {
                self.subscription_identifiers_available = Some(available);
            }
            Property::SharedSubscriptionAvailable(available) => {
                self.shared_subscription_available = Some(available);
            }
            other => return Err(other.not_allowed()),
        }
        Ok(())
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut writer = PropertyWriter::default();
        writer.put_some(self.session_expiry_interval, Property::SessionExpiryInterval)?;
        writer.put_some(self.receive_maximum, Property::ReceiveMaximum)?;
        // The property has only the values 0 and 1; no property means QoS 2 (section 3.2.2.3.4).
        let limited_qos = self.maximum_qos.filter(|qos| *qos != QoS::ExactlyOnce);
        writer.put_some(limited_qos, Property::MaximumQoS)?;
        writer.put_some(self.retain_available, Property::RetainAvailable)?;
        writer.put_some(self.maximum_packet_size, Property::MaximumPacketSize)?;
        writer.put_some(self.assigned_client_identifier.clone(), Property::AssignedClientIdentifier)?;
        writer.put_some(self.topic_alias_maximum, Property::TopicAliasMaximum)?;
        writer.put_some(self.reason_string.clone(), Property::ReasonString)?;
        writer.put_user_properties(&self.user_properties);
        writer.put_some(self.wildcard_subscription_available, Property::WildcardSubscriptionAvailable)?;
        writer
            .put_some(self.subscription_identifiers_available, Property::SubscriptionIdentifierAvailable)?;
        writer.put_some(self.shared_subscription_available, Property::SharedSubscriptionAvailable)?;
        writer.put_some(self.server_keep_alive, Property::ServerKeepAlive)?;
        writer.put_some(self.response_information.clone(), Property::ResponseInformation)?;
        writer.put_some(self.server_reference.clone(), Property::ServerReference)?;
        writer.put_some(self.authentication_method.clone(), Property::AuthenticationMethod)?;
        writer.put_some(self.authentication_data.clone(), Property::AuthenticationData)?;
        writer.finish(out)
    }
}
