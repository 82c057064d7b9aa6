//! How clients show who they are, besides passwords.

use crate::tokens::IssuerEntry;
use posthaste_broker::{Broker, CertificateUser};
use serde::Deserialize;
use std::path::PathBuf;

/// Section `[access]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Which user a client certificate stands for that no user's entry names.
    certificate_user: CertificateUser,
    /// The file of the key that secrets of access keys are sealed with.
    pub sealing_key: Option<PathBuf>,
    /// Issuers whose bearer tokens log in.
    pub token_issuers: Vec<IssuerEntry>,
    /// What clients without credentials may do.
    pub anonymous: Option<AnonymousWord>,
    pub anonymous_from: Option<Reach>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnonymousWord {
    Administrator,
    Off,
    Read,
}

/// From where.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    Anywhere,
    #[default]
    Loopback,
}

impl Access {
    /// Has the broker do as configured.
    pub fn apply(&self, broker: &Broker) {
        broker.set_certificate_user(self.certificate_user);
    }
}
