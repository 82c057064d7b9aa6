//! Why the server ends a connection.

use crate::wire::{DecodeError, PacketIdentifier, PacketType, ReasonCode};

/// A fault of the client that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the authentication method is not the one of CONNECT")]
    AuthenticationMethodChanged,
    #[error("AUTH without an authentication exchange")]
    AuthenticationNotStarted,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("no packet within one and a half times the keep-alive")]
    KeepAliveTimeout,
    #[error("QoS above the announced maximum")]
    QoSNotSupported,
    #[error("more unacknowledged messages than the announced receive maximum")]
    ReceiveMaximumExceeded,
    #[error("the reply is larger than the client's maximum packet size")]
    ReplyTooLarge,
    #[error("retained messages are not available")]
    RetainNotSupported,
    #[error("the session expiry interval was 0 in CONNECT and cannot be raised")]
    SessionExpiryRaised,
    #[error("shared subscriptions are not available")]
    SharedSubscriptionsNotSupported,
    #[error("subscription identifiers are not available")]
    SubscriptionIdentifiersNotSupported,
    #[error("topic alias {0} is above the announced maximum")]
    TopicAliasInvalid(u16),
    #[error("topic alias {0} has no topic name yet")]
    TopicAliasUnknown(u16),
    #[error("an acknowledgement for packet identifier {0} that does not belong to its QoS or state")]
    UnexpectedAcknowledgement(PacketIdentifier),
    #[error("{0:?} is not allowed at this time")]
    UnexpectedPacket(PacketType),
    #[error("wildcard subscriptions are not available")]
    WildcardSubscriptionsNotSupported,
}

impl Fault {
    /// The reason code that the specification names, for DISCONNECT (or CONNACK).
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Decode(error) => error.reason_code(),
            Self::AuthenticationMethodChanged
            | Self::AuthenticationNotStarted
            | Self::SessionExpiryRaised
            | Self::TopicAliasUnknown(_)
            | Self::UnexpectedAcknowledgement(_)
            | Self::UnexpectedPacket(_) => ReasonCode::ProtocolError,
            Self::KeepAliveTimeout => ReasonCode::KeepAliveTimeout,
            Self::QoSNotSupported => ReasonCode::QoSNotSupported,
            Self::ReceiveMaximumExceeded => ReasonCode::ReceiveMaximumExceeded,
            Self::ReplyTooLarge => ReasonCode::PacketTooLarge,
            Self::RetainNotSupported => ReasonCode::RetainNotSupported,
            Self::SharedSubscriptionsNotSupported => ReasonCode::SharedSubscriptionsNotSupported,
            Self::SubscriptionIdentifiersNotSupported => ReasonCode::SubscriptionIdentifiersNotSupported,
            Self::TopicAliasInvalid(_) => ReasonCode::TopicAliasInvalid, // [MQTT-3.3.2-9]
            Self::WildcardSubscriptionsNotSupported => ReasonCode::WildcardSubscriptionsNotSupported,
        }
    }
}
