//! AUTH, section 3.15; version 5 only.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::error::{DecodeError, EncodeError};
use super::field::{Reader, put_packet};
use super::packet::{PacketType, ProtocolVersion};
use super::property::{Property, PropertyWriter, UserProperties, read_properties};
use super::reason_code::ReasonCode;

/// An AUTH packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate.
    pub reason_code: ReasonCode,
    pub properties: AuthProperties,
}

/// The properties of AUTH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthProperties {
    /// Missing only in an AUTH without any content, which means success.
    pub authentication_method: Option<ByteString>,
    pub authentication_data: Option<Bytes>,
    pub reason_string: Option<ByteString>,
    pub user_properties: UserProperties,
}

impl Auth {
    pub(super) fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut auth = Self { reason_code: ReasonCode::Success, properties: AuthProperties::default() };
        if reader.remaining() > 0 {
            auth.reason_code = ReasonCode::decode(reader.u8()?, PacketType::Auth)?;
            auth.properties = AuthProperties::read(&mut reader)?;
        }
        reader.finish()?;
        Ok(auth)
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        if version != ProtocolVersion::V5 {
            return Err(EncodeError::Version(version, PacketType::Auth));
        }
        let mut writer = PropertyWriter::default();
        writer.put_some(self.properties.authentication_method.clone(), Property::AuthenticationMethod)?;
        writer.put_some(self.properties.authentication_data.clone(), Property::AuthenticationData)?;
        writer.put_some(self.properties.reason_string.clone(), Property::ReasonString)?;
        writer.put_user_properties(&self.properties.user_properties);
        let mut body = BytesMut::new();
        if self.reason_code != ReasonCode::Success || !writer.is_empty() {
            body.put_u8(self.reason_code.value());
            writer.finish(&mut body)?;
        }
        put_packet(out, PacketType::Auth.first_byte(), &body)
    }
}

impl AuthProperties {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        read_properties(reader, |property| {
            match property {
                Property::AuthenticationMethod(method) => properties.authentication_method = Some(method),
                Property::AuthenticationData(data) => properties.authentication_data = Some(data),
                Property::ReasonString(text) => properties.reason_string = Some(text),
                Property::UserProperty(name, value) => properties.user_properties.push_decoded(&name, &value),
                other => return Err(other.not_allowed()),
            }
            Ok(())
        })?;
        if properties.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        Ok(properties)
    }
}
