//! What can be wrong with bytes from a peer, and with a packet that is to be sent.

use super::packet::{PacketType, ProtocolVersion};
use super::reason_code::ReasonCode;

/// A fault of the peer, found while decoding. [`DecodeError::reason_code`] says what to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("authentication data without an authentication method")]
    AuthenticationDataWithoutMethod,
    #[error("an AUTH packet without an authentication method")]
    AuthenticationMethodMissing,
    #[error("DUP is set on a QoS 0 PUBLISH")]
    DupWithQoS0,
    #[error("property 0x{0:02x} occurs more than once")]
    DuplicateProperty(u8),
    #[error("the topic name is empty and there is no topic alias")]
    EmptyTopicName,
    #[error("a string is not well-formed UTF-8")]
    InvalidUtf8,
    #[error("No Local is set on a shared subscription")]
    NoLocalOnSharedSubscription,
    #[error("the packet carries no topic filter")]
    NoTopicFilters,
    #[error("the first packet is not CONNECT")]
    NotConnect,
    #[error("a string contains U+0000")]
    NulCharacter,
    #[error("packet identifier 0")]
    PacketIdentifierZero,
    #[error("the packet has {size} bytes, {maximum} are allowed")]
    PacketTooLarge { size: u32, maximum: u32 },
    #[error("the password flag is set without the user name flag")]
    PasswordWithoutUserName,
    #[error("property 0x{0:02x} is unknown or not allowed here")]
    PropertyNotAllowed(u8),
    #[error("property 0x{0:02x} has a value that the protocol does not allow")]
    PropertyValue(u8),
    #[error("the protocol name is neither MQTT nor MQIsdp")]
    ProtocolName,
    #[error("QoS 3 does not exist")]
    QoS3,
    #[error("reason code 0x{0:02x} is unknown or not allowed in this packet")]
    ReasonCodeNotAllowed(u8),
    #[error("reserved bits of the {0:?} packet are not as specified")]
    ReservedBits(PacketType),
    #[error("packet type {0} is reserved")]
    ReservedPacketType(u8),
    #[error("retain handling 3 does not exist")]
    RetainHandling3,
    #[error("session present is set although the connection is refused")]
    SessionPresentOnRefusal,
    #[error("a client sent a subscription identifier in PUBLISH")]
    SubscriptionIdentifierFromClient,
    #[error("a subscription requests QoS 3")]
    SubscriptionQoS3,
    #[error("topic alias 0")]
    TopicAliasZero,
    #[error("the topic filter is malformed")]
    TopicFilterInvalid,
    #[error("the topic name contains a wildcard character")]
    TopicNameInvalid,
    #[error("bytes are left over after the last field")]
    TrailingBytes,
    #[error("a field reaches beyond the end of the packet")]
    Truncated,
    #[error("{0:?} cannot be sent by this side or at this time")]
    UnexpectedPacket(PacketType),
    #[error("protocol version {0} is not supported")]
    UnsupportedProtocolVersion(u8),
    #[error("a variable byte integer is longer than four bytes or not minimal")]
    VariableByteInteger,
    #[error("will QoS or will retain is set without the will flag")]
    WillFlags,
}

impl DecodeError {
    /// The reason code that the specification names for this fault. Where it names none: Malformed Packet for
    /// what cannot be parsed, Protocol Error for what parses but is not allowed (section 1.2), and the more
    /// specific codes for topic names and filters, as EMQX and HiveMQ answer.
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::DupWithQoS0 // [MQTT-3.3.1-2]
            | Self::InvalidUtf8 // [MQTT-1.5.4-1]
            | Self::NulCharacter // [MQTT-1.5.4-2]
            | Self::PasswordWithoutUserName // [MQTT-3.1.2-22, 3.1.1]
            | Self::PropertyNotAllowed(_) // section 2.2.2.2
            | Self::QoS3 // [MQTT-3.3.1-4]
            | Self::ReservedBits(_) // [MQTT-2.1.3-1]
            | Self::ReservedPacketType(_)
            | Self::TrailingBytes
            | Self::Truncated
            | Self::VariableByteInteger // [MQTT-1.5.5-1]
            | Self::WillFlags // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
            => ReasonCode::MalformedPacket,
            Self::AuthenticationDataWithoutMethod // section 3.1.2.11.10
            | Self::AuthenticationMethodMissing // section 3.15.2.2.2
            | Self::DuplicateProperty(_)
            | Self::EmptyTopicName // section 3.3.2.1
            | Self::NoLocalOnSharedSubscription // [MQTT-3.8.3-4]
            | Self::NoTopicFilters // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
            | Self::NotConnect // [MQTT-3.1.0-1]
            | Self::PacketIdentifierZero // [MQTT-2.2.1-3]
            | Self::PropertyValue(_)
            | Self::ReasonCodeNotAllowed(_)
            | Self::RetainHandling3 // section 3.8.3.1
            | Self::SessionPresentOnRefusal // [MQTT-3.2.2-6]
            | Self::SubscriptionIdentifierFromClient // [MQTT-3.3.4-6]
            | Self::SubscriptionQoS3 // section 3.8.3.1
            | Self::UnexpectedPacket(_) // [MQTT-3.1.0-2]
            => ReasonCode::ProtocolError,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge, // [MQTT-3.2.2-15]
            Self::ProtocolName // [MQTT-3.1.2-1]
            | Self::UnsupportedProtocolVersion(_) // [MQTT-3.1.2-2]
            => ReasonCode::UnsupportedProtocolVersion,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid, // [MQTT-3.3.2-8]
            Self::TopicFilterInvalid => ReasonCode::TopicFilterInvalid, // section 4.7
            Self::TopicNameInvalid => ReasonCode::TopicNameInvalid, // [MQTT-3.3.2-2]
        }
    }
}

/// A packet that cannot be written. Nothing has been written when this is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("a version 3 PUBLISH needs a topic name")]
    EmptyTopicName,
    #[error("a string or binary field has {0} bytes, 65535 are the maximum")]
    FieldTooLong(usize),
    #[error("a string contains U+0000")]
    NulCharacter,
    #[error("a PUBLISH has a packet identifier exactly when its QoS is above 0")]
    PacketIdentifier,
    #[error("the packet has {0} bytes after the fixed header, 268435455 are the maximum")]
    PacketTooLong(usize),
    #[error("version {0:?} cannot express this {1:?} packet")]
    Version(ProtocolVersion, PacketType),
}
