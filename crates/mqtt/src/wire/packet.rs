//! The one packet type of all versions.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};

use super::ack::Ack;
use super::auth::Auth;
use super::connack::Connack;
use super::connect::Connect;
use super::disconnect::Disconnect;
use super::error::{DecodeError, EncodeError};
use super::field::{Reader, put_packet};
use super::publish::Publish;
use super::subscribe::{Suback, Subscribe};
use super::unsubscribe::{Unsuback, Unsubscribe};
use super::{PACKET_SIZE_MAX_BYTES, Sender};

/// A packet identifier: 1 to 65535 [MQTT-2.2.1-3].
pub type PacketIdentifier = NonZeroU16;

/// The protocol version of a connection, fixed by its CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V3_1,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V3_1_1,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

/// Quality of service, section 4.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QoS {
    #[default]
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl QoS {
    /// The quality of service with this value, `None` from 3.
    pub const fn from_value(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The value on the wire.
    pub const fn value(self) -> u8 {
        self as u8
    }
}

/// Packet types, section 2.1.2; the value is the upper half of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type in the first byte of a packet; 0 is reserved, and so is AUTH before version 5.
    pub(super) fn decode(first_byte: u8, version: Option<ProtocolVersion>) -> Result<Self, DecodeError> {
        Ok(match first_byte >> 4 {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 if version == Some(ProtocolVersion::V5) => Self::Auth,
            other => return Err(DecodeError::ReservedPacketType(other)),
        })
    }

    /// Whether this side may send the packet (table 2-1).
    pub(super) fn sent_by(self, sender: Sender) -> bool {
        match self {
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::Pingreq => sender == Sender::Client,
            Self::Connack | Self::Suback | Self::Unsuback | Self::Pingresp => sender == Sender::Server,
            Self::Publish
            | Self::Puback
            | Self::Pubrec
            | Self::Pubrel
            | Self::Pubcomp
            | Self::Disconnect
            | Self::Auth => true,
        }
    }

    /// Checks the lower half of the first byte [MQTT-2.1.3-1].
    ///
    /// Version 3.1 gives SUBSCRIBE, UNSUBSCRIBE and PUBREL a quality of service and lets them be repeated
    /// with DUP, and calls the bits of the others unused.
    pub(super) fn check_flags(self, flags: u8, version: Option<ProtocolVersion>) -> Result<(), DecodeError> {
        let required = self.flags();
        let ok = match self {
            Self::Publish => true,
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe if version == Some(ProtocolVersion::V3_1) => {
                flags & 0b0110 == required
            }
            _ if version == Some(ProtocolVersion::V3_1) => true,
            _ => flags == required,
        };
        if ok { Ok(()) } else { Err(DecodeError::ReservedBits(self)) }
    }

    /// The fixed header's first byte for packets whose lower half is fixed.
    pub(super) fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.flags()
    }

    fn flags(self) -> u8 {
        match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

/// A packet of any version. What a version does not have is at its default in a decoded packet and is left
/// out when it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Connect(Box<Connect>),
    Connack(Box<Connack>),
    Publish(Publish),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(Ack),
    Pubcomp(Ack),
    Subscribe(Subscribe),
    Suback(Suback),
    Unsubscribe(Unsubscribe),
    Unsuback(Unsuback),
    Pingreq,
    Pingresp,
    Disconnect(Box<Disconnect>),
    Auth(Box<Auth>),
}

impl Packet {
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Puback(_) => PacketType::Puback,
            Self::Pubrec(_) => PacketType::Pubrec,
            Self::Pubrel(_) => PacketType::Pubrel,
            Self::Pubcomp(_) => PacketType::Pubcomp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Writes the whole packet, a PUBLISH with its payload.
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let payload = self.encode_head(version, out)?;
        out.extend_from_slice(&payload);
        Ok(())
    }

    /// Writes the packet without the payload of a PUBLISH, and returns that payload, which must be sent right
    /// behind what was written. Other packets are complete and return no bytes.
    pub fn encode_head(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<Bytes, EncodeError> {
        match self {
            Self::Publish(publish) => {
                publish.encode_head(version, out)?;
                return Ok(publish.payload.clone());
            }
            Self::Puback(ack) | Self::Pubrec(ack) | Self::Pubrel(ack) | Self::Pubcomp(ack) => {
                ack.encode(self.packet_type(), version, out)?;
            }
            Self::Pingreq | Self::Pingresp => put_packet(out, self.packet_type().first_byte(), &[])?,
            Self::Connect(connect) => connect.encode(out)?,
            Self::Connack(connack) => connack.encode(version, out)?,
            Self::Subscribe(subscribe) => subscribe.encode(version, out)?,
            Self::Suback(suback) => suback.encode(version, out)?,
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out)?,
            Self::Unsuback(unsuback) => unsuback.encode(version, out)?,
            Self::Disconnect(disconnect) => disconnect.encode(version, out)?,
            Self::Auth(auth) => auth.encode(version, out)?,
        }
        Ok(Bytes::new())
    }

    /// The size of the packet on the wire in bytes, with its fixed header and payload: what Maximum Packet
    /// Size limits (section 3.1.2.11.4).
    pub fn encoded_len(&self, version: ProtocolVersion) -> Result<u32, EncodeError> {
        let length = match self {
            Self::Publish(publish) => return publish.encoded_len(version),
            other => {
                let mut scratch = BytesMut::new();
                other.encode(version, &mut scratch)?;
                scratch.len()
            }
        };
        u32::try_from(length).map_err(|_| EncodeError::PacketTooLong(PACKET_SIZE_MAX_BYTES as usize))
    }

    /// Decodes the body of a packet other than CONNECT and PUBLISH, whose fixed header is checked.
    pub(super) fn decode(
        packet_type: PacketType,
        body: &Bytes,
        version: ProtocolVersion,
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        Ok(match packet_type {
            PacketType::Puback => Self::Puback(Ack::decode(packet_type, body, version)?),
            PacketType::Pubrec => Self::Pubrec(Ack::decode(packet_type, body, version)?),
            PacketType::Pubrel => Self::Pubrel(Ack::decode(packet_type, body, version)?),
            PacketType::Pubcomp => Self::Pubcomp(Ack::decode(packet_type, body, version)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::decode(body, version)?),
            PacketType::Suback => Self::Suback(Suback::decode(body, version)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::decode(body, version)?),
            PacketType::Unsuback => Self::Unsuback(Unsuback::decode(body, version)?),
            PacketType::Pingreq => {
                Reader::new(body).finish()?;
                Self::Pingreq
            }
            PacketType::Pingresp => {
                Reader::new(body).finish()?;
                Self::Pingresp
            }
            PacketType::Disconnect => Self::Disconnect(Box::new(Disconnect::decode(body, version, sender)?)),
            PacketType::Auth => Self::Auth(Box::new(Auth::decode(body)?)),
            PacketType::Connack => Self::Connack(Box::new(Connack::decode(body, version)?)),
            PacketType::Connect | PacketType::Publish => {
                return Err(DecodeError::UnexpectedPacket(packet_type));
            }
        })
    }
}
