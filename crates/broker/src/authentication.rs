//! Who a client is, and what it may do. The one check; each protocol's own access rules are views of it.

use crate::{
    broker::Broker,
    origin::{GUEST, Grant, Unnamed},
    revocation::Revoked,
};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use parking_lot::Mutex;
use posthaste_engine::{
    Catalog,
    catalog::{Action, Options, Resource, User, glob},
};
use posthaste_model::Name;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, sync::Arc};

/// The namespace of what the broker keeps of itself. Only administrators may do anything there, whatever the
/// patterns of a permission match.
pub const SYSTEM_NAMESPACE: &str = "posthaste";

/// What the broker itself is called in the log.
pub(crate) const BROKER: &str = "broker";

/// What a client shows of itself.
pub enum Credentials<'a> {
    Anonymous,
    Password { user: &'a str, password: &'a [u8] },
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
    User {
        name: Name,
        /// The stored hash of the password that was shown; none was for one that is named by its id.
        shown: Option<Arc<str>>,
    },
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
    #[error("the user name or the password is wrong")]
    Wrong,
}

impl Principal {
    /// For people and for what is compared with what a client says of itself.
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Anonymous(_) => "anonymous",
            Kind::System(what) => what,
            Kind::User { name, .. } => name,
        }
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
        matches!(&self.0, Kind::User { name: user, .. } if **user == *name)
    }

    /// No two have the same.
    pub fn id(&self) -> String {
        match &self.0 {
            Kind::Anonymous(_) => "anonymous".to_owned(),
            Kind::System(what) => format!("system:{what}"),
            Kind::User { name, .. } => format!("user:{name}"),
        }
    }

    /// What [`Principal::id`] is the id of.
    pub fn with_id(id: &str) -> Option<Principal> {
        match id.split_once(':') {
            None if id == "anonymous" => Some(Principal::anonymous(Unnamed::local())),
            Some(("user", name)) => {
                Name::new(name).ok().map(|name| Principal(Kind::User { name, shown: None }))
            }
            _ => None,
        }
    }

    /// The user as it is now.
    pub(crate) fn user<'c>(&self, catalog: &'c Catalog) -> Option<&'c Arc<User>> {
        match &self.0 {
            Kind::User { name, .. } => catalog.user(name),
            Kind::Anonymous(_) | Kind::System(_) => None,
        }
    }

    pub(crate) fn may(
        &self,
        catalog: &Catalog,
        action: Action,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> bool {
        if namespace == SYSTEM_NAMESPACE {
            return self.is_administrator(catalog);
        }
        match &self.0 {
            Kind::Anonymous(unnamed) => unnamed.grant(catalog).allows(action),
            Kind::System(_) => true,
            Kind::User { name: user, .. } => {
                catalog.user(user).is_some_and(|user| user.may(action, resource, namespace, name))
            }
        }
    }

    /// Whether the user is still there, with the password that was shown; of a client without credentials,
    /// whether such are let in.
    pub(crate) fn standing(&self, catalog: &Catalog) -> Result<(), Revoked> {
        let (name, shown) = match &self.0 {
            Kind::Anonymous(unnamed) if unnamed.grant(catalog) == Grant::Nothing => {
                return Err(Revoked::Anonymous);
            }
            Kind::Anonymous(_) | Kind::System(_) => return Ok(()),
            Kind::User { name, shown } => (name, shown),
        };
        let user = catalog.user(name).ok_or_else(|| Revoked::Deleted(name.to_string()))?;
        match shown {
            Some(shown) if **shown != *user.password_hash => Err(Revoked::Password(name.to_string())),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_administrator(&self, catalog: &Catalog) -> bool {
        match &self.0 {
            Kind::Anonymous(unnamed) => unnamed.grant(catalog) == Grant::Everything,
            Kind::System(_) => true,
            Kind::User { name, .. } => catalog.user(name).is_some_and(|user| user.administrator),
        }
    }

    pub(crate) fn may_enter(&self, catalog: &Catalog, namespace: &str) -> bool {
        if namespace == SYSTEM_NAMESPACE {
            return self.is_administrator(catalog);
        }
        let name = match &self.0 {
            Kind::Anonymous(unnamed) => return unnamed.grant(catalog) != Grant::Nothing,
            Kind::System(_) => return true,
            Kind::User { name, .. } => name,
        };
        catalog.user(name).is_some_and(|user| {
            user.administrator || user.permissions.iter().any(|p| glob(&p.namespace, namespace))
        })
    }

    pub(crate) fn anonymous(unnamed: Unnamed) -> Principal {
        Principal(Kind::Anonymous(unnamed))
    }

    /// What a client without credentials may do at the moment; none for any other.
    pub(crate) fn grant(&self, catalog: &Catalog) -> Option<Grant> {
        match &self.0 {
            Kind::Anonymous(unnamed) => Some(unnamed.grant(catalog)),
            Kind::System(_) | Kind::User { .. } => None,
        }
    }

    /// A part of the broker, for what it does on nobody's behalf.
    pub(crate) fn system(what: &'static str) -> Principal {
        Principal(Kind::System(what))
    }
}

/// Passwords that were right before, so that a reconnect does not cost a hash: user to (what was hashed, the
/// stored hash it was right for).
#[derive(Default)]
pub(crate) struct KnownPasswords {
    salt: std::sync::OnceLock<[u8; 16]>,
    right: Mutex<HashMap<Name, ([u8; 32], String)>>,
    /// What the password of a user that is not there is checked against.
    decoy: std::sync::OnceLock<String>,
}

/// Of the password that everyone knows; so it needs neither a salt of its own nor time at the first start.
const GUEST_HASH: &str =
    "$argon2id$v=19$m=7168,t=5,p=1$ghygQEKRFVLbnWeVwpwwPQ$2O21MK2FmptEFzQr5BtNd17jY5NGt8FyXP7ur4YvM9c";
const KNOWN_PASSWORDS_MAX: usize = 10_000;
const PASSWORD_BYTES_MAX: usize = 1_024;

impl KnownPasswords {
    fn fingerprint(&self, password: &[u8]) -> [u8; 32] {
        let salt = self.salt.get_or_init(|| {
            let mut salt = [0; 16];
            // Without randomness the fingerprint is merely unsalted; it never leaves this process.
            let _ = getrandom::fill(&mut salt);
            salt
        });
        Sha256::new().chain_update(salt).chain_update(password).finalize().into()
    }

    fn decoy(&self) -> &str {
        self.decoy.get_or_init(|| hash_password(b"nobody").unwrap_or_default())
    }
}

impl Broker {
    /// Whether a user exists and has this password. Nothing is logged, nothing delayed.
    pub async fn has_password(&self, user: &str, password: &[u8]) -> bool {
        match self.known_password(user, password, true) {
            Some(known) => known.is_ok(),
            None => self.check_password(user, password, true).await.is_ok(),
        }
    }

    /// What is to be said to credentials that can be judged without hashing the password.
    pub(crate) fn known_password(
        &self,
        user: &str,
        password: &[u8],
        local: bool,
    ) -> Option<Result<Principal, AuthenticationError>> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Some(Err(AuthenticationError::Wrong));
        }
        let catalog = self.shared.catalog_now();
        let user = catalog.user(user)?;
        let fingerprint = self.shared.passwords.fingerprint(password);
        let known = self.shared.passwords.right.lock();
        let (right, hash) = known.get(&user.name)?;
        (*right == fingerprint && *hash == user.password_hash).then(|| admit(user, local))
    }

    /// Checks a password against its hash, which costs some milliseconds of work.
    pub(crate) async fn check_password(
        &self,
        name: &str,
        password: &[u8],
        local: bool,
    ) -> Result<Principal, AuthenticationError> {
        let user = self.catalog().user(name).cloned();
        let fingerprint = self.shared.passwords.fingerprint(password);
        // An unknown user costs as much as a wrong password, so that names cannot be guessed by time.
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let (password, shared) = (password.to_vec(), self.shared.clone());
        let check = move || match hash {
            Some(hash) => verify(&password, &hash),
            None => {
                verify(&password, shared.passwords.decoy());
                false
            }
        };
        match (user, self.hash_work(check).await) {
            (_, None) => Err(AuthenticationError::Busy),
            (Some(user), Some(true)) => {
                let mut known = self.shared.passwords.right.lock();
                if known.len() < KNOWN_PASSWORDS_MAX || known.contains_key(&user.name) {
                    known.insert(user.name.clone(), (fingerprint, user.password_hash.clone()));
                }
                drop(known);
                admit(&user, local)
            }
            _ => Err(AuthenticationError::Wrong),
        }
    }
}

fn admit(user: &User, loopback: bool) -> Result<Principal, AuthenticationError> {
    if user.loopback_only && !loopback {
        return Err(AuthenticationError::LoopbackOnly);
    }
    let shown = Some(Arc::from(&*user.password_hash));
    Ok(Principal(Kind::User { name: user.name.clone(), shown }))
}

/// The user that a new data directory has.
pub(crate) fn guest() -> User {
    User {
        name: Name::constant(GUEST),
        password_hash: GUEST_HASH.to_owned(),
        loopback_only: true,
        administrator: true,
        permissions: Vec::new(),
        options: Options::new(),
    }
}

/// Argon2id with 7 MiB and 5 passes, one of OWASP's recommended settings.
fn hasher() -> Result<Argon2<'static>, String> {
    let params = Params::new(7 * 1024, 5, 1, None).map_err(|e| e.to_string())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// A salted hash of a password, as users keep it. Costs some milliseconds.
pub fn hash_password(password: &[u8]) -> Result<String, String> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).map_err(|e| format!("no randomness for a salt: {e}"))?;
    let salt = SaltString::encode_b64(&salt).map_err(|e| e.to_string())?;
    hasher()?.hash_password(password, &salt).map(|hash| hash.to_string()).map_err(|e| e.to_string())
}

fn verify(password: &[u8], hash: &str) -> bool {
    let (Ok(hasher), Ok(hash)) = (hasher(), PasswordHash::new(hash)) else { return false };
    hasher.verify_password(password, &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_logs_in_with_the_password_that_everyone_knows() {
        let user = guest();
        assert!(verify(b"guest", &user.password_hash) && user.loopback_only);
    }
}
