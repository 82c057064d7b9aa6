//! Passwords: how they are kept, and how one is checked.

use crate::{
    access::{
        authentication::{AuthenticationError, Principal, Shown},
        origin::{GUEST, Origin},
        scram::{self, Mechanism},
    },
    broker::Broker,
};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use posthaste_engine::catalog::{Password, ScramVerifier, User};
use posthaste_model::Name;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

/// Passwords that were right before, so that a reconnect does not cost a hash: user to (what was hashed, the
/// entry it was right for).
#[derive(Default)]
pub(crate) struct KnownPasswords {
    salt: std::sync::OnceLock<[u8; 16]>,
    right: Mutex<HashMap<Name, ([u8; 32], Password)>>,
    /// Checked in place of the password of a user that is not there.
    decoy: std::sync::OnceLock<Password>,
}

const KNOWN_PASSWORDS_MAX: usize = 10_000;
pub(crate) const PASSWORD_BYTES_MAX: usize = 1_024;

impl KnownPasswords {
    /// Of this run.
    pub fn salt(&self) -> &[u8] {
        self.salt.get_or_init(|| {
            let mut salt = [0; 16];
            // Without randomness a fingerprint is merely unsalted; it never leaves this process.
            let _ = getrandom::fill(&mut salt);
            salt
        })
    }

    fn fingerprint(&self, password: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.salt()).chain_update(password).finalize().into()
    }

    fn decoy(&self) -> &Password {
        self.decoy.get_or_init(|| hash_password(b"nobody").unwrap_or_default())
    }
}

impl Broker {
    /// Whether a user exists and has this password. Nothing is logged, nothing delayed.
    pub async fn has_password(&self, user: &str, password: &[u8]) -> bool {
        let origin = Origin::direct(Ipv4Addr::LOCALHOST.into());
        match self.known_password(user, password, &origin) {
            Some(known) => known.is_ok(),
            None => self.check_password(user, password, &origin).await.is_ok(),
        }
    }

    /// The verdict on credentials that can be judged without hashing the password.
    pub(crate) fn known_password(
        &self,
        user: &str,
        password: &[u8],
        origin: &Origin,
    ) -> Option<Result<Principal, AuthenticationError>> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Some(Err(AuthenticationError::Wrong));
        }
        let catalog = self.shared.catalog_now();
        let user = catalog.user(user)?;
        let fingerprint = self.shared.passwords.fingerprint(password);
        let known = self.shared.passwords.right.lock();
        let (right, kept) = known.get(&user.name)?;
        (*right == fingerprint && *kept == user.password).then(|| admit(user, origin))
    }

    /// Checks a password against its hash, which costs some milliseconds of work.
    pub(crate) async fn check_password(
        &self,
        name: &str,
        password: &[u8],
        origin: &Origin,
    ) -> Result<Principal, AuthenticationError> {
        let user = self.catalog().user(name).cloned();
        let fingerprint = self.shared.passwords.fingerprint(password);
        // An unknown user costs as much as a wrong password, so that names cannot be guessed by time.
        let kept = user.as_ref().map(|user| user.password.clone()).filter(Password::is_set);
        let (password, shared) = (password.to_vec(), self.shared.clone());
        let check = move || match kept {
            Some(kept) => verify(&password, &kept),
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
                    known.insert(user.name.clone(), (fingerprint, user.password.clone()));
                }
                drop(known);
                admit(&user, origin)
            }
            _ => Err(AuthenticationError::Wrong),
        }
    }
}

fn admit(user: &Arc<User>, origin: &Origin) -> Result<Principal, AuthenticationError> {
    Principal::admit(user, origin, Shown::Password(user.clone()))
}

/// The user that a new data directory has.
pub(crate) fn guest() -> User {
    let guest = User::new(Name::constant(GUEST));
    User { password: guests_password(), loopback_only: true, administrator: true, ..guest }
}

/// Argon2id with 7 MiB and 5 passes, one of OWASP's recommended settings.
fn hasher() -> Result<Argon2<'static>, String> {
    let params = Params::new(7 * 1024, 5, 1, None).map_err(|e| e.to_string())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Makes a user's verifiers of a password, one for each way of logging in with it. Costs some
/// milliseconds.
///
/// # Errors
/// The machine has no randomness.
pub fn hash_password(password: &[u8]) -> Result<Password, String> {
    let mut salts = [[0u8; 16]; 3];
    for salt in &mut salts {
        getrandom::fill(salt).map_err(|e| format!("no randomness for a salt: {e}"))?;
    }
    let [salt, salt_256, salt_512] = salts;
    let salt = SaltString::encode_b64(&salt).map_err(|e| e.to_string())?;
    let hash = hasher()?.hash_password(password, &salt).map_err(|e| e.to_string())?;
    let verifier = |mechanism, salt: [u8; 16]| scram::verifier(mechanism, password, &salt, scram::ITERATIONS);
    Ok(Password {
        argon2id: Some(hash.to_string()),
        scram_sha_256: Some(verifier(Mechanism::Sha256, salt_256)),
        scram_sha_512: Some(verifier(Mechanism::Sha512, salt_512)),
    })
}

fn verify(password: &[u8], kept: &Password) -> bool {
    if let Some(hash) = &kept.argon2id {
        let (Ok(hasher), Ok(hash)) = (hasher(), PasswordHash::new(hash)) else { return false };
        return hasher.verify_password(password, &hash).is_ok();
    }
    // Only verifiers were given.
    [Mechanism::Sha256, Mechanism::Sha512]
        .into_iter()
        .find_map(|mechanism| Some(scram::is_password(mechanism, mechanism.verifier(kept)?, password)))
        .unwrap_or(false)
}

/// Of the password that everyone knows; so it needs neither salts of its own nor time at the first start.
fn guests_password() -> Password {
    const HASH: &str = "$argon2id$v=19$m=7168,t=5,p=1$ghygQEKRFVLbnWeVwpwwPQ$\
                        2O21MK2FmptEFzQr5BtNd17jY5NGt8FyXP7ur4YvM9c";
    const SALT: &[u8] = b"posthaste guest ";
    let verifier = |[stored_key, server_key]: [&str; 2]| {
        Some(ScramVerifier {
            salt: SALT.to_vec(),
            iterations: scram::ITERATIONS,
            stored_key: STANDARD.decode(stored_key).unwrap_or_default(),
            server_key: STANDARD.decode(server_key).unwrap_or_default(),
        })
    };
    Password {
        argon2id: Some(HASH.to_owned()),
        scram_sha_256: verifier([
            "JWHklSra/SRDwYzOK60/dLJyiKf87/VwPVNp4GCjAww=",
            "jrZyxsyIHUxmC7Oaj1EK6K3ArRMFkF95Q0ZXTtieTgc=",
        ]),
        scram_sha_512: verifier([
            "E1wJ9Szqt7RA91EcvtCRfIKvsZ2m7UeMxljsD6rR0uUf2eJDOPhlMJP5mEjGW8L9bvbpkR9W7DND73gqH1naLQ==",
            "VfYIkc74J9U9B09rfRJKDH5WTSGvQzUXN1m3JBj9ilA7wMqLKeN5whDH+gjxuh0aqIWFvb9gFy13horPMaCZYw==",
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_logs_in_with_the_password_that_everyone_knows() {
        let user = guest();
        assert!(user.loopback_only);
        let Password { argon2id, scram_sha_256, scram_sha_512 } = user.password;
        for password in [
            Password { argon2id, ..Password::default() },
            Password { scram_sha_256, ..Password::default() },
            Password { scram_sha_512, ..Password::default() },
        ] {
            assert!(verify(b"guest", &password) && !verify(b"gues", &password), "{password:?}");
        }
        assert!(!verify(b"", &Password::default()));
    }
}
