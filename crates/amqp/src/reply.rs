//! The broker's errors as AMQP's reply codes and RabbitMQ's texts: the only place that knows both.

use crate::wire::{Exception, ReplyCode, Resource, ResourceKind};
use posthaste_broker::{AuthenticationError, Error};
use posthaste_engine::{
    catalog::{Action, Resource as Kind},
    effect::Refusal,
};

/// What closes the channel or connection whose method failed. `about` is what the method was about.
pub(crate) fn exception(error: &Error, about: Resource<'_>) -> Exception {
    match error {
        Error::Denied { user, action, resource, name } => denied(user, *action, *resource, name, about),
        Error::Exists => {
            Exception::new(ReplyCode::PreconditionFailed, format_args!("{about} exists already"))
        }
        Error::Gone | Error::NotFound(Kind::Exchange | Kind::Queue | Kind::Topic, _) => {
            Exception::not_found(about)
        }
        Error::InUse => Exception::in_use(about),
        Error::Invalid(why) => Exception::new(ReplyCode::PreconditionFailed, why),
        Error::Locked => Exception::locked(about),
        Error::NotEmpty => Exception::not_empty(about),
        Error::NotFound(Kind::Namespace, _) => {
            Exception::new(ReplyCode::ConnectionForced, format_args!("vhost '{}' is deleted", about.vhost))
        }
        Error::NotFound(..) => Exception::new(ReplyCode::NotFound, error),
        Error::Protected => Exception::new(
            ReplyCode::AccessRefused,
            match about.kind {
                ResourceKind::Exchange => format!("deletion of system {about} not allowed"),
                ResourceKind::Queue => format!("operation not permitted on {about}"),
            },
        ),
        Error::Refused(refusal) => refused(*refusal, error, about),
        Error::Stopping => {
            Exception::new(ReplyCode::ConnectionForced, "broker forced connection closure: shutdown")
        }
        // RabbitMQ's answer to its own limits, such as queues in a vhost.
        Error::TooMany | Error::LimitReached(_) => {
            Exception::new(ReplyCode::PreconditionFailed, format_args!("cannot declare {about}: {error}"))
        }
        Error::Unreadable(_) => Exception::new(ReplyCode::InternalError, error),
    }
}

fn refused(refusal: Refusal, error: &Error, about: Resource<'_>) -> Exception {
    match refusal {
        Refusal::Gone => Exception::not_found(about),
        Refusal::InUse => Exception::in_use(about),
        Refusal::NotEmpty => Exception::not_empty(about),
        // RESOURCE_ERROR would close the connection, and with it what still works.
        Refusal::NoSpace
        | Refusal::OutOfMemory
        | Refusal::Full
        | Refusal::StorageLimit
        | Refusal::TooLarge => {
            Exception::new(ReplyCode::PreconditionFailed, format_args!("{about}: {error}"))
        }
        _ => Exception::new(ReplyCode::InternalError, error),
    }
}

fn denied(user: &str, action: Action, resource: Kind, name: &str, about: Resource<'_>) -> Exception {
    let permission = match action {
        Action::Administer => "administer",
        Action::Configure => "configure",
        Action::Describe => "describe",
        Action::Read => "read",
        Action::Write => "write",
    };
    let vhost = about.vhost;
    let what = match resource {
        Kind::Exchange if name.is_empty() => format!("exchange 'amq.default' in vhost '{vhost}'"),
        Kind::Exchange => format!("exchange '{name}' in vhost '{vhost}'"),
        Kind::Queue => format!("queue '{name}' in vhost '{vhost}'"),
        Kind::Subject => {
            let exchange = match about.kind {
                ResourceKind::Exchange if !about.name.is_empty() => about.name.to_string(),
                _ => "amq.topic".to_owned(),
            };
            format!("topic '{name}' in exchange '{exchange}' in vhost '{vhost}'")
        }
        Kind::Group => format!("group '{name}' in vhost '{vhost}'"),
        Kind::Topic => format!("topic '{name}' in vhost '{vhost}'"),
        Kind::Namespace => format!("vhost '{name}'"),
        Kind::Broker => format!("broker '{name}'"),
    };
    Exception::new(
        ReplyCode::AccessRefused,
        format_args!("{permission} access to {what} refused for user '{user}'"),
    )
}

/// The answer to credentials that were not accepted. Only a loopback user from afar is told why, as by
/// RabbitMQ.
pub(crate) fn not_authenticated(error: AuthenticationError, mechanism: &str, user: &str) -> Exception {
    match error {
        AuthenticationError::LoopbackOnly => Exception::new(
            ReplyCode::AccessRefused,
            format_args!("{mechanism} login refused: user '{user}' can only connect via localhost"),
        ),
        AuthenticationError::Busy => {
            Exception::new(ReplyCode::AccessRefused, format_args!("{mechanism} login refused: {error}"))
        }
        AuthenticationError::AnonymousFromAfar
        | AuthenticationError::AnonymousOff
        | AuthenticationError::NoCertificate
        | AuthenticationError::Token(_)
        | AuthenticationError::UnknownCertificate
        | AuthenticationError::UnopenedAccessKey
        | AuthenticationError::Wrong => Exception::new(
            ReplyCode::AccessRefused,
            format_args!(
                "Login was refused using authentication mechanism {mechanism}. For details see the \
                     broker logfile."
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ShortString;

    #[test]
    fn codes_and_texts() {
        let name = ShortString::from_static("q");
        let about = Resource { kind: ResourceKind::Queue, name: &name, vhost: "/" };
        let denied = Error::Denied {
            user: "bob".into(),
            action: Action::Write,
            resource: Kind::Subject,
            name: "a.b".into(),
        };
        for (error, expect) in [
            (Error::Gone, "NOT_FOUND - no queue 'q' in vhost '/'"),
            (Error::NotFound(Kind::Queue, "q".into()), "NOT_FOUND - no queue 'q' in vhost '/'"),
            (Error::InUse, "PRECONDITION_FAILED - queue 'q' in vhost '/' in use"),
            (Error::NotEmpty, "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty"),
            (
                denied,
                "ACCESS_REFUSED - write access to topic 'a.b' in exchange 'amq.topic' in vhost '/' \
                 refused for user 'bob'",
            ),
            (
                Error::Refused(Refusal::NoSpace),
                "PRECONDITION_FAILED - queue 'q' in vhost '/': the disk is full; publishing goes on when \
                 space is free again",
            ),
            (Error::Stopping, "CONNECTION_FORCED - broker forced connection closure: shutdown"),
        ] {
            assert_eq!(exception(&error, about).reply_text.to_string(), expect);
        }
        assert_eq!(exception(&Error::Locked, about).reply_code, ReplyCode::ResourceLocked);
    }
}
