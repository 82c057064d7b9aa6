//! Why the broker did not do what it was asked.

use crate::access::usage;
use posthaste_engine::{
    catalog::{Action, CatalogRefusal, Resource},
    effect::Refusal,
};
use std::fmt;

/// Adapters turn it into their protocol's code; its text says what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    Denied {
        user: String,
        action: Action,
        resource: Resource,
        name: String,
    },
    Exists,
    /// It was deleted meanwhile.
    Gone,
    InUse,
    Invalid(String),
    /// Of a user or a namespace.
    LimitReached(String),
    /// Exclusive to another connection.
    Locked,
    NotEmpty,
    NotFound(Resource, String),
    /// It belongs to the system.
    Protected,
    Refused(Refusal),
    Stopping,
    TooMany,
    Unreadable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Denied { user, action, resource, name } => {
                let (action, resource) = (lower(action), lower(resource));
                write!(f, "user '{user}' may not {action} {resource} '{name}'; an administrator can grant it")
            }
            Error::Exists => f.write_str("it exists already"),
            Error::Gone => f.write_str("it was deleted; look its name up again"),
            Error::InUse => f.write_str("it is in use"),
            Error::Invalid(why) | Error::LimitReached(why) => f.write_str(why),
            Error::Locked => f.write_str("it belongs exclusively to another connection"),
            Error::NotEmpty => f.write_str("it is not empty"),
            Error::NotFound(resource, name) => write!(f, "there is no {} '{name}'", lower(resource)),
            Error::Protected => f.write_str("it belongs to the system and cannot be changed"),
            Error::Refused(refusal) => match refusal {
                Refusal::NoSpace => {
                    f.write_str("the disk is full; publishing goes on when space is free again")
                }
                Refusal::OutOfMemory => f.write_str("memory for messages without durability is used up"),
                Refusal::Full => f.write_str("the queue is full"),
                Refusal::StorageLimit => f.write_str(
                    "its namespace, or the user that created it, stores as many bytes as the limit allows; \
                     consume or delete some, or have the limit raised",
                ),
                Refusal::TooLarge => f.write_str(
                    "the message's properties take more than 512 KiB, or it goes to more than 32,768 places",
                ),
                other => write!(f, "refused: {}", lower(other)),
            },
            Error::Stopping => f.write_str("the broker is stopping; connect again"),
            Error::TooMany => f.write_str(
                "a limit on the number of such objects is reached; see the configuration's [limits]",
            ),
            Error::Unreadable(why) => write!(f, "stored data cannot be read: {why}"),
        }
    }
}

impl std::error::Error for Error {}

pub(crate) fn lower(value: &impl fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::Gone => Error::Gone,
            Refusal::InUse => Error::InUse,
            Refusal::NotEmpty => Error::NotEmpty,
            other => Error::Refused(other),
        }
    }
}

/// `name` is what the command was about.
pub(crate) fn from_catalog(refusal: CatalogRefusal, name: &str) -> Error {
    match refusal {
        CatalogRefusal::AccessKeyUnknown => Error::Invalid(format!("user '{name}' has no such access key")),
        CatalogRefusal::Exists => Error::Exists,
        CatalogRefusal::ExchangeUnknown => Error::NotFound(Resource::Exchange, name.to_owned()),
        CatalogRefusal::InUse => Error::InUse,
        CatalogRefusal::ObjectsLimit(limited) => usage::objects_limit(limited),
        CatalogRefusal::Protected => Error::Protected,
        CatalogRefusal::QueueUnknown => Error::NotFound(Resource::Queue, name.to_owned()),
        CatalogRefusal::TooMany => Error::TooMany,
        CatalogRefusal::TopicUnknown => Error::NotFound(Resource::Topic, name.to_owned()),
        CatalogRefusal::Unchanged => Error::Exists,
        CatalogRefusal::Unknown => Error::NotFound(Resource::Namespace, name.to_owned()),
        CatalogRefusal::TakenCredential => Error::Invalid(format!(
            "a certificate name or an access key of user '{name}' is another user's; take it from there first"
        )),
        CatalogRefusal::UserGroupUnknown => {
            Error::Invalid("there is no such group of users; create it first".to_owned())
        }
        CatalogRefusal::UserUnknown => Error::Invalid(format!("there is no user '{name}'")),
        CatalogRefusal::Shrinks => {
            Error::Invalid("a topic cannot have fewer partitions than it has".to_owned())
        }
    }
}
