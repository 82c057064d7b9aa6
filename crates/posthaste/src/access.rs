//! How clients show who they are, besides passwords.

use posthaste_broker::{Broker, CertificateUser};
use serde::Deserialize;

/// Section `[access]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Which user a client certificate stands for that no user's entry names.
    certificate_user: CertificateUser,
}

impl Access {
    /// Has the broker do as configured.
    pub fn apply(&self, broker: &Broker) {
        broker.set_certificate_user(self.certificate_user);
    }
}
