//! CONNECT, section 3.1.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::error::{DecodeError, EncodeError};
use super::field::{Reader, put_binary, put_packet, put_string};
use super::forwarded::{ForwardedProperties, Scope, scan_message_properties};
use super::packet::{PacketType, ProtocolVersion, QoS};
use super::property::{Property, PropertyWriter, UserProperties, read_properties};
use super::topic::check_topic_name;

const USER_NAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;
const RESERVED: u8 = 0x01;

/// A CONNECT packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    pub version: ProtocolVersion,
    /// Clean Start; Clean Session before version 5.
    pub clean_start: bool,
    /// Seconds; 0 turns the keep-alive off.
    pub keep_alive: u16,
    pub properties: ConnectProperties,
    pub client_identifier: ByteString,
    pub will: Option<Will>,
    pub user_name: Option<ByteString>,
    pub password: Option<Bytes>,
}

/// The properties of CONNECT, at their defaults where the client sent none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Seconds; 0 ends the session with the connection, `u32::MAX` keeps it for ever.
    pub session_expiry_interval: u32,
    pub receive_maximum: NonZeroU16,
    /// Bytes; `None` is no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    pub topic_alias_maximum: u16,
    pub request_response_information: bool,
    pub request_problem_information: bool,
    pub user_properties: UserProperties,
    pub authentication_method: Option<ByteString>,
    pub authentication_data: Option<Bytes>,
}

impl Default for ConnectProperties {
    fn default() -> Self {
        Self {
            session_expiry_interval: 0,
            receive_maximum: NonZeroU16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: UserProperties::new(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}

/// The will message of a CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Will {
    pub qos: QoS,
    pub retain: bool,
    /// Seconds.
    pub will_delay_interval: u32,
    /// Seconds.
    pub message_expiry_interval: Option<u32>,
    pub forwarded: ForwardedProperties,
    pub topic: ByteString,
    pub payload: Bytes,
}

impl Connect {
    /// A CONNECT that asks for nothing: clean start, no keep-alive, no will, no credentials.
    pub fn new(version: ProtocolVersion, client_identifier: impl Into<ByteString>) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive: 0,
            properties: ConnectProperties::default(),
            client_identifier: client_identifier.into(),
            will: None,
            user_name: None,
            password: None,
        }
    }

    /// Decodes a CONNECT. `known` is set as soon as the version is, so that an error in what follows can be
    /// answered in the client's version.
    pub(super) fn decode(body: &Bytes, known: &mut Option<ProtocolVersion>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let version = read_version(&mut reader)?;
        *known = Some(version);
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let keep_alive = reader.u16()?;
        let properties = match version {
            ProtocolVersion::V5 => ConnectProperties::read(&mut reader)?,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ConnectProperties::default(),
        };
        let client_identifier = reader.string()?;
        let will = match flags & WILL {
            0 => None,
            _ => Some(Will::read(&mut reader, flags, version)?),
        };
        // 3.1: the remaining length takes precedence over these flags; missing strings are accepted.
        let lenient = version == ProtocolVersion::V3_1;
        let present = |flag, reader: &Reader<'_>| flags & flag != 0 && !(lenient && reader.remaining() == 0);
        let user_name = if present(USER_NAME, &reader) { Some(reader.string()?) } else { None };
        let password = if present(PASSWORD, &reader) { Some(reader.binary()?) } else { None };
        reader.finish()?;
        let clean_start = flags & CLEAN_START != 0;
        Ok(Self {
            version,
            clean_start,
            keep_alive,
            properties,
            client_identifier,
            will,
            user_name,
            password,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut body = BytesMut::new();
        let (name, level) = match self.version {
            ProtocolVersion::V3_1 => ("MQIsdp", 3),
            ProtocolVersion::V3_1_1 => ("MQTT", 4),
            ProtocolVersion::V5 => ("MQTT", 5),
        };
        put_string(&mut body, name)?;
        body.put_u8(level);
        body.put_u8(self.flags()?);
        body.put_u16(self.keep_alive);
        if self.version == ProtocolVersion::V5 {
            self.properties.write(&mut body)?;
        }
        put_string(&mut body, &self.client_identifier)?;
        if let Some(will) = &self.will {
            will.write(self.version, &mut body)?;
        }
        if let Some(user_name) = &self.user_name {
            put_string(&mut body, user_name)?;
        }
        if let Some(password) = &self.password {
            put_binary(&mut body, password)?;
        }
        put_packet(out, PacketType::Connect.first_byte(), &body)
    }

    fn flags(&self) -> Result<u8, EncodeError> {
        if self.password.is_some() && self.user_name.is_none() && self.version != ProtocolVersion::V5 {
            return Err(EncodeError::Version(self.version, PacketType::Connect));
        }
        let mut flags = 0;
        if let Some(will) = &self.will {
            flags |= WILL | will.qos.value() << 3 | if will.retain { WILL_RETAIN } else { 0 };
        }
        for (set, flag) in [
            (self.clean_start, CLEAN_START),
            (self.user_name.is_some(), USER_NAME),
            (self.password.is_some(), PASSWORD),
        ] {
            flags |= if set { flag } else { 0 };
        }
        Ok(flags)
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name = reader.binary()?;
    let known: &[(u8, ProtocolVersion)] = match &name[..] {
        b"MQTT" => &[(4, ProtocolVersion::V3_1_1), (5, ProtocolVersion::V5)],
        b"MQIsdp" => &[(3, ProtocolVersion::V3_1)],
        _ => return Err(DecodeError::ProtocolName), // [MQTT-3.1.2-1]
    };
    let level = reader.u8()?;
    let version = known.iter().find(|(known_level, _)| *known_level == level);
    // [MQTT-3.1.2-2]
    version.map(|(_, version)| *version).ok_or(DecodeError::UnsupportedProtocolVersion(level))
}

fn check_flags(flags: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    if flags >> 3 & 0b11 == 3 {
        return Err(DecodeError::QoS3); // [MQTT-3.1.2-12]
    }
    if version == ProtocolVersion::V3_1 {
        return Ok(()); // 3.1 leaves these bits unused.
    }
    if flags & RESERVED != 0 {
        return Err(DecodeError::ReservedBits(PacketType::Connect)); // [MQTT-3.1.2-3]
    }
    if flags & WILL == 0 && flags & (WILL_RETAIN | 0b11 << 3) != 0 {
        return Err(DecodeError::WillFlags); // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
    }
    if version == ProtocolVersion::V3_1_1 && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        return Err(DecodeError::PasswordWithoutUserName); // [MQTT-3.1.2-22, 3.1.1]
    }
    Ok(())
}

impl ConnectProperties {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        read_properties(reader, |property| {
            match property {
                Property::SessionExpiryInterval(seconds) => properties.session_expiry_interval = seconds,
                Property::ReceiveMaximum(maximum) => properties.receive_maximum = maximum,
                Property::MaximumPacketSize(bytes) => properties.maximum_packet_size = Some(bytes),
                Property::TopicAliasMaximum(maximum) => properties.topic_alias_maximum = maximum,
                Property::RequestResponseInformation(wanted) => {
                    properties.request_response_information = wanted;
                }
                Property::RequestProblemInformation(wanted) => {
                    properties.request_problem_information = wanted;
                }
                Property::UserProperty(name, value) => properties.user_properties.push_decoded(&name, &value),
                Property::AuthenticationMethod(method) => properties.authentication_method = Some(method),
                Property::AuthenticationData(data) => properties.authentication_data = Some(data),
                other => return Err(other.not_allowed()),
            }
            Ok(())
        })?;
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataWithoutMethod);
        }
        Ok(properties)
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let default = Self::default();
        let mut writer = PropertyWriter::default();
        if self.session_expiry_interval != default.session_expiry_interval {
            writer.put(Property::SessionExpiryInterval(self.session_expiry_interval))?;
        }
        if self.receive_maximum != default.receive_maximum {
            writer.put(Property::ReceiveMaximum(self.receive_maximum))?;
        }
        writer.put_some(self.maximum_packet_size, Property::MaximumPacketSize)?;
        if self.topic_alias_maximum != default.topic_alias_maximum {
            writer.put(Property::TopicAliasMaximum(self.topic_alias_maximum))?;
        }
        if self.request_response_information {
            writer.put(Property::RequestResponseInformation(true))?;
        }
        if !self.request_problem_information {
            writer.put(Property::RequestProblemInformation(false))?;
        }
        writer.put_user_properties(&self.user_properties);
        writer.put_some(self.authentication_method.clone(), Property::AuthenticationMethod)?;
        writer.put_some(self.authentication_data.clone(), Property::AuthenticationData)?;
        writer.finish(out)
    }
}

impl Will {
    fn read(reader: &mut Reader<'_>, flags: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut will = Self {
            qos: QoS::from_value(flags >> 3 & 0b11).ok_or(DecodeError::QoS3)?,
            retain: flags & WILL_RETAIN != 0,
            ..Self::default()
        };
        if version == ProtocolVersion::V5 {
            let length = reader.variable_byte_integer()?;
            let found = scan_message_properties(&mut reader.section(length as usize)?, Scope::Will)?;
            will.will_delay_interval = found.will_delay_interval.unwrap_or_default();
            will.message_expiry_interval = found.message_expiry_interval;
            will.forwarded = found.forwarded;
        }
        will.topic = reader.string()?;
        check_topic_name(&will.topic)?;
        will.payload = reader.binary()?;
        Ok(will)
    }

    fn write(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        if version == ProtocolVersion::V5 {
            let mut writer = PropertyWriter::default();
            if self.will_delay_interval != 0 {
                writer.put(Property::WillDelayInterval(self.will_delay_interval))?;
            }
            writer.put_some(self.message_expiry_interval, Property::MessageExpiryInterval)?;
            writer.put_raw(self.forwarded.as_bytes());
            writer.finish(out)?;
        }
        put_string(out, &self.topic)?;
        put_binary(out, &self.payload)
    }
}
