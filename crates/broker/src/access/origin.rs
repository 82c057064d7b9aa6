//! Where a client comes from, and what its listener lets clients without credentials do.

use crate::{access::authentication::AuthenticationError, broker::Broker};
use posthaste_engine::{Catalog, catalog::Action};
use posthaste_model::Peer;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The user that a new data directory has.
pub(crate) const GUEST: &str = "guest";

/// Where a client comes from: what every log-in is judged by besides the credentials.
#[derive(Clone, Debug)]
pub struct Origin {
    pub protocol: &'static str,
    /// The configured name of the listener.
    pub listener: Arc<str>,
    /// The client's address, as a trusted proxy told it if there is one.
    pub peer: SocketAddr,
    /// Whether the client runs on this machine.
    pub is_local: bool,
    pub tls: bool,
    /// The client's certificate, DER, issued by an authority that the listener trusts.
    pub certificate: Option<Arc<[u8]>>,
    /// The rights of clients without credentials.
    pub anonymous: Anonymous,
}

/// The rights that a listener gives to clients without credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Everything, for clients on this machine.
    Administrator,
    /// They are not let in.
    Off,
    /// To read and see everything; `from_anywhere`, else for clients on this machine.
    Read { from_anywhere: bool },
    /// Everything, for clients on this machine, as long as there is no user but the first one, whose password
    /// everybody knows.
    #[default]
    UntilUsers,
}

/// A client without credentials: what it may do is found out by each check, so that a first user ends it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unnamed {
    policy: Anonymous,
    is_local: bool,
}

/// The rights of an [`Unnamed`] client at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    Everything,
    Nothing,
    Read,
}

impl Origin {
    /// A program that has the broker within it.
    pub(crate) fn direct(peer: IpAddr) -> Origin {
        Origin {
            protocol: "direct",
            listener: Arc::from("direct"),
            peer: SocketAddr::new(peer, 0),
            is_local: peer.to_canonical().is_loopback(),
            tls: false,
            certificate: None,
            anonymous: Anonymous::default(),
        }
    }

    /// Why a client without credentials is not let in, if it is not.
    pub(crate) fn why_no_anonymous(&self) -> AuthenticationError {
        match self.anonymous {
            Anonymous::Administrator | Anonymous::Read { .. } => AuthenticationError::AnonymousFromAfar,
            Anonymous::UntilUsers if !self.is_local => AuthenticationError::AnonymousFromAfar,
            Anonymous::Off | Anonymous::UntilUsers => AuthenticationError::AnonymousOff,
        }
    }

    pub(crate) fn unnamed(&self) -> Unnamed {
        Unnamed { policy: self.anonymous, is_local: self.is_local }
    }
}

impl Unnamed {
    /// One that came from this machine, where nothing more is known of it.
    pub fn local() -> Unnamed {
        Unnamed { policy: Anonymous::default(), is_local: true }
    }

    pub fn grant(self, catalog: &Catalog) -> Grant {
        match self.policy {
            Anonymous::Read { from_anywhere } if from_anywhere || self.is_local => Grant::Read,
            Anonymous::Administrator if self.is_local => Grant::Everything,
            Anonymous::UntilUsers if self.is_local && !catalog.has_users_besides(GUEST) => Grant::Everything,
            _ => Grant::Nothing,
        }
    }
}

impl Grant {
    pub fn allows(self, action: Action) -> bool {
        match self {
            Grant::Everything => true,
            Grant::Nothing => false,
            Grant::Read => matches!(action, Action::Describe | Action::Read),
        }
    }
}

impl Broker {
    /// Says what a listener lets clients without credentials do, instead of [`Anonymous::UntilUsers`].
    pub fn set_anonymous(&self, listener: &str, policy: Anonymous) {
        self.shared.anonymous.write().insert(listener.to_owned(), policy);
    }

    /// Where a connection comes from.
    pub fn origin(&self, protocol: &'static str, peer: &Peer) -> Origin {
        let anonymous = self.shared.anonymous.read().get(&*peer.listener).copied().unwrap_or_default();
        Origin {
            protocol,
            listener: peer.listener.clone(),
            peer: peer.address,
            is_local: peer.is_local,
            tls: peer.tls.is_some(),
            certificate: peer.tls.as_ref().and_then(|tls| tls.certificate.clone()),
            anonymous,
        }
    }

    /// Whether a client that shows no credentials is let in from there at the moment.
    pub fn admits_anonymous(&self, origin: &Origin) -> bool {
        self.admits_unnamed(origin) || origin.certificate.is_some() && self.by_certificate(origin).is_ok()
    }

    pub(crate) fn admits_unnamed(&self, origin: &Origin) -> bool {
        origin.unnamed().grant(&self.shared.catalog_now()) != Grant::Nothing
    }
}
