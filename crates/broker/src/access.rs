//! Who a client is, what it may do, how much of the broker it may use up, and what is written down of it: the
//! one layer that every protocol's adapter uses.

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
