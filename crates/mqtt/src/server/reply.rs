//! The broker's answers in MQTT's words: the only place that turns its errors into reason codes.

use posthaste_broker::{AuthenticationError, Error, TokenError};
use posthaste_engine::effect::Refusal;

use crate::wire::ReasonCode;

/// The reason code for CONNACK.
pub(crate) fn authentication(error: AuthenticationError) -> ReasonCode {
    match error {
        AuthenticationError::AnonymousFromAfar
        | AuthenticationError::AnonymousOff
        | AuthenticationError::LoopbackOnly
        | AuthenticationError::NoCertificate
        | AuthenticationError::UnknownCertificate => ReasonCode::NotAuthorized,
        AuthenticationError::Busy => ReasonCode::ServerBusy,
        // It is good, but not for anybody here.
        AuthenticationError::Token(TokenError::Stranger) => ReasonCode::NotAuthorized,
        AuthenticationError::Token(_)
        | AuthenticationError::UnopenedAccessKey
        | AuthenticationError::Wrong => ReasonCode::BadUserNameOrPassword,
    }
}

/// The reason code for PUBACK, PUBREC, SUBACK and CONNACK.
pub(crate) fn error(error: &Error) -> ReasonCode {
    match error {
        Error::Denied { .. } | Error::Locked | Error::Protected => ReasonCode::NotAuthorized,
        Error::Refused(refusal) => refused(*refusal),
        // Of a message only its size can be wrong by now.
        Error::Invalid(_) | Error::LimitReached(_) | Error::TooMany => ReasonCode::QuotaExceeded,
        Error::Exists
        | Error::Gone
        | Error::InUse
        | Error::NotEmpty
        | Error::NotFound(..)
        | Error::Stopping
        | Error::Unreadable(_) => ReasonCode::UnspecifiedError,
    }
}

/// The reason code for what a queue or topic refused.
pub(crate) fn refused(refusal: Refusal) -> ReasonCode {
    match refusal {
        Refusal::Full | Refusal::NoSpace | Refusal::OutOfMemory | Refusal::StorageLimit => {
            ReasonCode::QuotaExceeded
        }
        Refusal::TooLarge => ReasonCode::ImplementationSpecificError,
        _ => ReasonCode::UnspecifiedError,
    }
}

/// Whether the publisher is to know of a refusal.
///
/// Not if only memory for messages without durability is used up: then a subscriber that does not keep up,
/// and asked for no durability, misses a message. That is no reason to hold up everybody's publisher. Nor
/// if a queue was deleted while the message was on its way.
pub(crate) fn concerns_publisher(refusal: Refusal) -> bool {
    !matches!(refusal, Refusal::OutOfMemory | Refusal::Gone)
}
