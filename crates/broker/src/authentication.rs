//! Who a client is, and what it may do. The one check; each protocol's own access rules are views of it.

use crate::broker::Broker;
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use parking_lot::Mutex;
use posthaste_engine::catalog::{Action, Options, Resource, User};
use posthaste_model::Name;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// What a client shows of itself.
pub enum Credentials<'a> {
    Anonymous,
    Password { user: &'a str, password: &'a [u8] },
}

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Principal {
    user: Arc<User>,
}

/// Why a client was not let in. It is told no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    #[error("clients without credentials are let in from this machine only; log in as a user")]
    AnonymousFromAfar,
    #[error("this user is let in from this machine only")]
    LoopbackOnly,
    #[error("the user name or the password is wrong")]
    Wrong,
}

impl Principal {
    pub fn name(&self) -> &str {
        &self.user.name
    }

    pub fn user(&self) -> &User {
        &self.user
    }

    pub fn may(&self, action: Action, resource: Resource, namespace: &str, name: &str) -> bool {
        self.user.may(action, resource, namespace, name)
    }

    /// The broker itself, for what it does on nobody's behalf.
    pub(crate) fn system() -> Principal {
        Principal { user: Arc::new(administrator("system")) }
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
    /// Finds out who a client is. A password costs some milliseconds of work, off the caller's thread.
    pub async fn authenticate(
        &self,
        credentials: Credentials<'_>,
        peer: IpAddr,
    ) -> Result<Principal, AuthenticationError> {
        let result = self.check_credentials(credentials, peer.to_canonical().is_loopback()).await;
        if result.is_err() {
            self.metrics().authentication_failures.add(1);
        }
        result
    }

    async fn check_credentials(
        &self,
        credentials: Credentials<'_>,
        loopback: bool,
    ) -> Result<Principal, AuthenticationError> {
        let (name, password) = match credentials {
            Credentials::Anonymous if loopback => {
                return Ok(Principal { user: Arc::new(administrator("anonymous")) });
            }
            Credentials::Anonymous => return Err(AuthenticationError::AnonymousFromAfar),
            Credentials::Password { user, password } => (user, password),
        };
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(AuthenticationError::Wrong);
        }
        let user = self.catalog().user(name).cloned();
        let fingerprint = self.shared.passwords.fingerprint(password);
        if let Some(user) = &user
            && let Some((known, hash)) = self.shared.passwords.right.lock().get(&user.name)
            && *known == fingerprint
            && *hash == user.password_hash
        {
            return admit(user.clone(), loopback);
        }
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
        let right = self.shared.work.run(check).await.unwrap_or(false);
        match user {
            Some(user) if right => {
                let mut known = self.shared.passwords.right.lock();
                if known.len() < KNOWN_PASSWORDS_MAX {
                    known.insert(user.name.clone(), (fingerprint, user.password_hash.clone()));
                }
                drop(known);
                admit(user, loopback)
            }
            _ => Err(AuthenticationError::Wrong),
        }
    }
}

fn admit(user: Arc<User>, loopback: bool) -> Result<Principal, AuthenticationError> {
    if user.loopback_only && !loopback {
        return Err(AuthenticationError::LoopbackOnly);
    }
    Ok(Principal { user })
}

fn administrator(name: &'static str) -> User {
    User {
        name: Name::constant(name),
        password_hash: String::new(),
        loopback_only: true,
        administrator: true,
        permissions: Vec::new(),
        options: Options::new(),
    }
}

/// The user that a new data directory has.
pub(crate) fn guest() -> User {
    User { password_hash: GUEST_HASH.to_owned(), ..administrator("guest") }
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
