//! The access layer of every protocol: log-ins, rights, limits of use, and the audit trail.

pub(crate) mod access_key;
pub(crate) mod administration;
pub(crate) mod audit;
pub(crate) mod authentication;
pub(crate) mod certificate;
pub(crate) mod login;
pub(crate) mod namespace;
pub(crate) mod origin;
pub(crate) mod password;
pub(crate) mod revocation;
pub(crate) mod rights;
pub(crate) mod scram;
pub(crate) mod token;
pub(crate) mod usage;
