//! Who a client is, and what it may do. The one check; each protocol's own access rules are views of it.

use crate::access::{
    origin::{Grant, Origin, Unnamed},
    revocation::Revoked,
    token::TokenError,
};
use posthaste_engine::{
    Catalog,
    catalog::{Asker, Grants, User, Wish},
};
use posthaste_model::{Name, Timestamp};
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

/// The namespace of what the broker keeps of itself. Only administrators may do anything there, whatever the
/// patterns of a permission match.
pub const SYSTEM_NAMESPACE: &str = "posthaste";

/// When a token without an end expires.
pub(crate) const NEVER: Timestamp = Timestamp(i64::MAX);

/// The broker's own name in the log.
pub(crate) const BROKER: &str = "broker";

/// What a client shows of itself.
pub enum Credentials<'a> {
    /// None: the client's certificate counts, if it has one that is a user's.
    Anonymous,
    /// The certificate that it has.
    Certificate,
    /// The password may be a token: then the name counts for nothing, unless it is that user's password.
    Password { user: &'a str, password: &'a [u8] },
    /// A bearer token.
    Token(&'a str),
}

/// Who a client is. What it may do is looked up by each check, so that a change of rights counts at once.
#[derive(Clone, Debug)]
pub struct Principal(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// A client that shows no credentials.
    Anonymous(Unnamed),
    /// A part of the broker, by its name in the log.
    System(&'static str),
    User(Arc<Identity>),
}

/// Somebody who has logged in.
#[derive(Debug)]
struct Identity {
    name: Name,
    /// Groups that it is in besides those of the user's entry.
    groups: Vec<Name>,
    /// The namespace that the client has named with its user.
    namespace: Option<Name>,
    /// The client's address; none for what was stored.
    from: Option<IpAddr>,
    shown: Shown,
}

/// The credential of a client's log-in: the client stays connected as long as it is good.
#[derive(Debug)]
pub(crate) enum Shown {
    /// It is named by its id.
    Nothing,
    /// A certificate; with the name in it that the user's entry has, unless a rule made one of it.
    Certificate(Option<String>),
    /// The access key with this id.
    AccessKey(String),
    /// The password of the user as it was then.
    Password(Arc<User>),
    /// A token; until when it is good, in milliseconds since 1970, and whether the user had an entry then.
    Token { expires: AtomicI64, has_entry: bool },
}

/// Why a client was not let in. It is told no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    #[error("clients without credentials are let in from this machine only; log in as a user")]
    AnonymousFromAfar,
    #[error(
        "clients without credentials are not let in; log in as a user, or set `anonymous` under [access]"
    )]
    AnonymousOff,
    #[error("this user is let in from this machine only")]
    LoopbackOnly,
    #[error("too many log-ins are being checked; try again in a moment")]
    Busy,
    #[error(
        "this log-in needs a client certificate, and the connection has none that the listener asked for"
    )]
    NoCertificate,
    #[error("no user goes by a name in the client's certificate; give one the name with --certificate-name")]
    UnknownCertificate,
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It was sealed with another key than the broker has.
    #[error("the access key's secret cannot be opened: the broker has another sealing key")]
    UnopenedAccessKey,
    #[error("the user name or the password is wrong")]
    Wrong,
}

impl Principal {
    /// For people and for what is compared with what a client says of itself.
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Anonymous(_) => "anonymous",
            Kind::System(what) => what,
            Kind::User(identity) => &identity.name,
        }
    }

    /// The user, and groups that it is in besides those of its entry; none without one.
    pub(crate) fn user(&self) -> Option<(&Name, &[Name])> {
        match &self.0 {
            Kind::User(identity) => Some((&identity.name, &identity.groups)),
            Kind::Anonymous(_) | Kind::System(_) => None,
        }
    }

    /// The namespace that the client has named with its user.
    pub(crate) fn named_namespace(&self) -> Option<&Name> {
        match &self.0 {
            Kind::User(identity) => identity.namespace.as_ref(),
            Kind::Anonymous(_) | Kind::System(_) => None,
        }
    }

    /// The same, who has named a namespace.
    pub(crate) fn naming(mut self, named: Option<Name>) -> Principal {
        if let (Some(named), Kind::User(identity)) = (named, &mut self.0)
            && let Some(identity) = Arc::get_mut(identity)
        {
            identity.namespace = Some(named);
        }
        self
    }

    pub(crate) fn is_system(&self) -> bool {
        matches!(self.0, Kind::System(_))
    }

    /// Whether this is the broker itself, and not an adapter or the configuration.
    pub(crate) fn is_broker(&self) -> bool {
        matches!(self.0, Kind::System(BROKER))
    }

    /// Whether this is the user of that name, and not somebody else who is called so.
    pub fn is_user(&self, name: &str) -> bool {
        matches!(&self.0, Kind::User(identity) if *identity.name == *name)
    }

    /// No two have the same.
    pub fn id(&self) -> String {
        match &self.0 {
            Kind::Anonymous(_) => "anonymous".to_owned(),
            Kind::System(what) => format!("system:{what}"),
            Kind::User(identity) => format!("user:{}", identity.name),
        }
    }

    /// What [`Principal::id`] is the id of.
    pub fn with_id(id: &str) -> Option<Principal> {
        match id.split_once(':') {
            None if id == "anonymous" => Some(Principal::anonymous(Unnamed::local())),
            Some(("user", name)) => Name::new(name).ok().map(|name| {
                let (groups, namespace) = (Vec::new(), None);
                let (from, shown) = (None, Shown::Nothing);
                Principal(Kind::User(Arc::new(Identity { name, groups, namespace, from, shown })))
            }),
            _ => None,
        }
    }

    /// The entries that a user's rights rest on now.
    pub(crate) fn grants(&self, catalog: &Catalog) -> Grants {
        match &self.0 {
            Kind::User(identity) => catalog.grants(&identity.name, &identity.groups),
            Kind::Anonymous(_) | Kind::System(_) => Grants::default(),
        }
    }

    /// Whether it may do something; `client` is what the client calls itself.
    pub(crate) fn may(&self, catalog: &Catalog, client: Option<&str>, wish: &Wish<'_>) -> bool {
        if wish.namespace == SYSTEM_NAMESPACE {
            return self.is_administrator(catalog);
        }
        match &self.0 {
            Kind::Anonymous(unnamed) => unnamed.grant(catalog).allows(wish.action),
            Kind::System(_) => true,
            Kind::User(identity) => catalog.may(&identity.asker(client), &identity.groups, wish),
        }
    }

    /// Whether the user is still there, and what it has shown is still good; of a client without credentials,
    /// whether such are let in.
    pub(crate) fn standing(&self, catalog: &Catalog, now: Timestamp) -> Result<(), Revoked> {
        let identity = match &self.0 {
            Kind::Anonymous(unnamed) if unnamed.grant(catalog) == Grant::Nothing => {
                return Err(Revoked::Anonymous);
            }
            Kind::Anonymous(_) | Kind::System(_) => return Ok(()),
            Kind::User(identity) => identity,
        };
        let name = || identity.name.to_string();
        if self.expires().is_some_and(|expires| expires <= now) {
            return Err(Revoked::Expired(name()));
        }
        let Some(user) = catalog.user(&identity.name) else {
            let in_a_group = identity.groups.iter().any(|group| catalog.user_group(group).is_some());
            return match &identity.shown {
                Shown::Token { has_entry: false, .. } if in_a_group => Ok(()),
                _ => Err(Revoked::Deleted(name())),
            };
        };
        match &identity.shown {
            Shown::Password(shown) if shown.password != user.password => Err(Revoked::Password(name())),
            Shown::AccessKey(shown) if !user.access_keys.iter().any(|key| key.id == *shown) => {
                Err(Revoked::AccessKey(name()))
            }
            Shown::Certificate(Some(shown)) if !user.certificate_names.contains(shown) => {
                Err(Revoked::Certificate(name()))
            }
            Shown::AccessKey(_)
            | Shown::Nothing
            | Shown::Certificate(_)
            | Shown::Password(_)
            | Shown::Token { .. } => Ok(()),
        }
    }

    /// Until when its token is good; none if it has shown none, or one that is good for ever.
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        match &self.0 {
            Kind::User(identity) => identity.expires(),
            Kind::Anonymous(_) | Kind::System(_) => None,
        }
    }

    /// Goes on until a further token of the same user with the same groups expires; whether it is one.
    pub(crate) fn renew(&self, further: &Principal) -> bool {
        let (Kind::User(old), Kind::User(new)) = (&self.0, &further.0) else { return false };
        let (Shown::Token { expires, .. }, Shown::Token { expires: until, .. }) = (&old.shown, &new.shown)
        else {
            return false;
        };
        let same = old.name == new.name && old.groups == new.groups;
        if same {
            expires.store(until.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        same
    }

    pub(crate) fn is_administrator(&self, catalog: &Catalog) -> bool {
        match &self.0 {
            Kind::Anonymous(unnamed) => unnamed.grant(catalog) == Grant::Everything,
            Kind::System(_) => true,
            Kind::User(identity) => catalog.is_administrator(&identity.name, &identity.groups),
        }
    }

    pub(crate) fn may_enter(&self, catalog: &Catalog, namespace: &str) -> bool {
        if namespace == SYSTEM_NAMESPACE {
            return self.is_administrator(catalog);
        }
        match &self.0 {
            Kind::Anonymous(unnamed) => unnamed.grant(catalog) != Grant::Nothing,
            Kind::System(_) => true,
            Kind::User(identity) => catalog.may_enter(&identity.asker(None), &identity.groups, namespace),
        }
    }

    /// Lets in the user of an entry of the catalog, who has shown something good.
    pub(crate) fn admit(
        user: &User,
        origin: &Origin,
        shown: Shown,
    ) -> Result<Principal, AuthenticationError> {
        if user.loopback_only && !origin.is_local {
            return Err(AuthenticationError::LoopbackOnly);
        }
        let (name, from) = (user.name.clone(), Some(origin.peer.ip()));
        let (groups, namespace) = (Vec::new(), None);
        Ok(Principal(Kind::User(Arc::new(Identity { name, groups, namespace, from, shown }))))
    }

    /// Lets in a user by the word of an issuer of tokens, perhaps one without an entry in the catalog.
    pub(crate) fn admit_by_token(
        entry: Option<&User>,
        name: Name,
        groups: Vec<Name>,
        origin: &Origin,
        expires: Timestamp,
    ) -> Result<Principal, AuthenticationError> {
        if entry.is_some_and(|user| user.loopback_only) && !origin.is_local {
            return Err(AuthenticationError::LoopbackOnly);
        }
        let shown = Shown::Token { expires: AtomicI64::new(expires.0), has_entry: entry.is_some() };
        let (from, namespace) = (Some(origin.peer.ip()), None);
        Ok(Principal(Kind::User(Arc::new(Identity { name, groups, namespace, from, shown }))))
    }

    pub(crate) fn anonymous(unnamed: Unnamed) -> Principal {
        Principal(Kind::Anonymous(unnamed))
    }

    /// The rights of a client without credentials at the moment; none for any other.
    pub(crate) fn grant(&self, catalog: &Catalog) -> Option<Grant> {
        match &self.0 {
            Kind::Anonymous(unnamed) => Some(unnamed.grant(catalog)),
            Kind::System(_) | Kind::User(_) => None,
        }
    }

    /// A part of the broker, for what it does on nobody's behalf.
    pub(crate) fn system(what: &'static str) -> Principal {
        Principal(Kind::System(what))
    }
}

impl Identity {
    fn expires(&self) -> Option<Timestamp> {
        match &self.shown {
            Shown::Token { expires, .. } => {
                Some(Timestamp(expires.load(Ordering::Relaxed))).filter(|expires| *expires != NEVER)
            }
            Shown::AccessKey(_) | Shown::Nothing | Shown::Certificate(_) | Shown::Password(_) => None,
        }
    }

    fn asker<'a>(&'a self, client: Option<&'a str>) -> Asker<'a> {
        Asker { user: &self.name, client, from: self.from }
    }
}
