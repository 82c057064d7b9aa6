//! Reason codes of MQTT 5, and their counterparts in version 3.

use super::error::DecodeError;
use super::packet::PacketType;

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal: $($packet:ident)+;)+) => {
        /// A reason code, MQTT 5 section 2.4. Values from 0x80 report a failure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode { $($(#[$doc])* $name = $value,)+ }

        impl ReasonCode {
            /// The reason code with this value, if the specification defines it.
            pub const fn from_value(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)+ _ => None }
            }

            /// Whether packets of this type may carry the code.
            pub(super) const fn allowed_in(self, packet_type: PacketType) -> bool {
                match self { $(Self::$name => matches!(packet_type, $(PacketType::$packet)|+),)+ }
            }
        }
    };
}

// Names, values and packets of table 2-6.
reason_codes! {
    /// Success; Normal disconnection in DISCONNECT; Granted QoS 0 in SUBACK.
    Success = 0x00: Connack Puback Pubrec Pubrel Pubcomp Suback Unsuback Disconnect Auth;
    GrantedQoS1 = 0x01: Suback;
    GrantedQoS2 = 0x02: Suback;
    DisconnectWithWillMessage = 0x04: Disconnect;
    NoMatchingSubscribers = 0x10: Puback Pubrec;
    NoSubscriptionExisted = 0x11: Unsuback;
    ContinueAuthentication = 0x18: Auth;
    ReAuthenticate = 0x19: Auth;
    UnspecifiedError = 0x80: Connack Puback Pubrec Suback Unsuback Disconnect;
    MalformedPacket = 0x81: Connack Disconnect;
    ProtocolError = 0x82: Connack Disconnect;
    ImplementationSpecificError = 0x83: Connack Puback Pubrec Suback Unsuback Disconnect;
    UnsupportedProtocolVersion = 0x84: Connack;
    ClientIdentifierNotValid = 0x85: Connack;
    BadUserNameOrPassword = 0x86: Connack;
    NotAuthorized = 0x87: Connack Puback Pubrec Suback Unsuback Disconnect;
    ServerUnavailable = 0x88: Connack;
    ServerBusy = 0x89: Connack Disconnect;
    Banned = 0x8A: Connack;
    ServerShuttingDown = 0x8B: Disconnect;
    BadAuthenticationMethod = 0x8C: Connack Disconnect;
    KeepAliveTimeout = 0x8D: Disconnect;
    SessionTakenOver = 0x8E: Disconnect;
    TopicFilterInvalid = 0x8F: Suback Unsuback Disconnect;
    TopicNameInvalid = 0x90: Connack Puback Pubrec Disconnect;
    PacketIdentifierInUse = 0x91: Puback Pubrec Suback Unsuback;
    PacketIdentifierNotFound = 0x92: Pubrel Pubcomp;
    ReceiveMaximumExceeded = 0x93: Disconnect;
    TopicAliasInvalid = 0x94: Disconnect;
    PacketTooLarge = 0x95: Connack Disconnect;
    MessageRateTooHigh = 0x96: Disconnect;
    QuotaExceeded = 0x97: Connack Puback Pubrec Suback Disconnect;
    AdministrativeAction = 0x98: Disconnect;
    PayloadFormatInvalid = 0x99: Connack Puback Pubrec Disconnect;
    RetainNotSupported = 0x9A: Connack Disconnect;
    QoSNotSupported = 0x9B: Connack Disconnect;
    UseAnotherServer = 0x9C: Connack Disconnect;
    ServerMoved = 0x9D: Connack Disconnect;
    SharedSubscriptionsNotSupported = 0x9E: Suback Disconnect;
    ConnectionRateExceeded = 0x9F: Connack Disconnect;
    MaximumConnectTime = 0xA0: Disconnect;
    SubscriptionIdentifiersNotSupported = 0xA1: Suback Disconnect;
    WildcardSubscriptionsNotSupported = 0xA2: Suback Disconnect;
}

impl ReasonCode {
    /// The value on the wire.
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// Whether the code reports a failure (0x80 and above).
    pub const fn is_error(self) -> bool {
        self.value() >= 0x80
    }

    /// The CONNACK return code of version 3 (section 3.2.2.3 of 3.1.1). `None` where no return code fits:
    /// then the connection is closed without a CONNACK [MQTT-3.2.2-6, 3.1.1].
    pub const fn connect_return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::QuotaExceeded
            | Self::ConnectionRateExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved => Some(3),
            Self::BadUserNameOrPassword | Self::BadAuthenticationMethod => Some(4),
            Self::NotAuthorized | Self::Banned => Some(5),
            _ => None,
        }
    }

    /// The reason code for a CONNACK return code of version 3.
    pub(super) fn from_connect_return_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::Success),
            1 => Ok(Self::UnsupportedProtocolVersion),
            2 => Ok(Self::ClientIdentifierNotValid),
            3 => Ok(Self::ServerUnavailable),
            4 => Ok(Self::BadUserNameOrPassword),
            5 => Ok(Self::NotAuthorized),
            other => Err(DecodeError::ReasonCodeNotAllowed(other)),
        }
    }

    /// Reads a reason code that must be one of those the specification lists for this packet type.
    pub(super) fn decode(value: u8, packet_type: PacketType) -> Result<Self, DecodeError> {
        match Self::from_value(value) {
            Some(code) if code.allowed_in(packet_type) => Ok(code),
            _ => Err(DecodeError::ReasonCodeNotAllowed(value)),
        }
    }
}
