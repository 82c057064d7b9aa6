//! The keys of an issuer: what they are good for, and when they are read again.

use super::{Parsed, ReadKeys, TokenError, TokenIssuer};
use crate::broker::Shared;
use jsonwebtoken::{
    Algorithm, DecodingKey, crypto,
    jwk::{AlgorithmParameters, Jwk, PublicKeyUse},
};
use parking_lot::{Mutex, RwLock};
use posthaste_model::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// Keys of one issuer that are looked at.
const KEYS_MAX: usize = 32;
/// Bytes of keys that are read.
pub(super) const KEYS_BYTES_MAX: usize = 1 << 20;
/// Bytes of a secret, at least: as many as the shortest digest that it is used with has (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// A token with a key that is not known has the keys read again no more often than this.
const READ_AGAIN_MS: u64 = 30_000;
/// A log-in waits for keys that are being read no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// All that use public keys.
const PUBLIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

pub(super) struct Keys {
    algorithms: Vec<Algorithm>,
    /// Whether they are secrets.
    secret: bool,
    known: RwLock<Arc<Vec<Key>>>,
    /// When a token last had them read again.
    read_at: Mutex<Option<Timestamp>>,
    reading: tokio::sync::Mutex<()>,
}

struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only one that it is for, if it says so.
    algorithm: Option<String>,
    key: DecodingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Secret,
    Rsa,
    Ec,
    Ed25519,
}

/// Entries that are not understood are passed over, as RFC 7517 has it.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl Kind {
    fn of(algorithm: Algorithm) -> Kind {
        match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Kind::Secret,
            Algorithm::ES256 | Algorithm::ES384 => Kind::Ec,
            Algorithm::EdDSA => Kind::Ed25519,
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => Kind::Rsa,
        }
    }
}

impl Keys {
    /// None are known yet.
    ///
    /// # Errors
    /// Some of the algorithms use secrets, and some do not.
    pub fn new(algorithms: &[Algorithm]) -> Result<Keys, String> {
        let algorithms = if algorithms.is_empty() { PUBLIC.to_vec() } else { algorithms.to_vec() };
        let secret = algorithms.iter().all(|algorithm| Kind::of(*algorithm) == Kind::Secret);
        if !secret && algorithms.iter().any(|algorithm| Kind::of(*algorithm) == Kind::Secret) {
            return Err("`algorithms` has some with secrets (HS...) and some without; name either".to_owned());
        }
        Ok(Keys {
            algorithms,
            secret,
            known: RwLock::default(),
            read_at: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        })
    }

    /// Whether the signature is that of one of the keys.
    pub fn verify(&self, token: &Parsed<'_>) -> Result<(), TokenError> {
        if !self.algorithms.contains(&token.algorithm) {
            return Err(TokenError::Algorithm);
        }
        let known = self.known.read().clone();
        let mut fits = false;
        let algorithm = format!("{:?}", token.algorithm);
        for key in known.iter() {
            // A key without an id may be anyone's; a token without one may be by any key.
            let same_id = key.id.is_none() || token.key_id.is_none() || key.id == token.key_id;
            let same_algorithm = key.algorithm.as_ref().is_none_or(|only| *only == algorithm);
            if !same_id || !same_algorithm || key.kind != Kind::of(token.algorithm) {
                continue;
            }
            fits = true;
            let signed = token.signed.as_bytes();
            if crypto::verify(token.signature, signed, &key.key, token.algorithm).unwrap_or(false) {
                return Ok(());
            }
        }
        Err(if fits { TokenError::Signature } else { TokenError::Key })
    }

    /// Reads them again.
    pub async fn read(&self, shared: &Shared, read: &ReadKeys) -> Result<(), String> {
        let _one_at_a_time = self.reading.lock().await;
        let read = read.clone();
        let bytes = shared.work.run(move || read()).await.ok_or("the broker is stopping")??;
        let keys = self.parse(&bytes)?;
        *self.known.write() = Arc::new(keys);
        Ok(())
    }

    /// Reads them again for a token whose key is not known, unless that was done lately; whether the token is
    /// to be judged again.
    pub async fn read_for_new(&self, shared: &Shared, issuer: &TokenIssuer) -> bool {
        let now = shared.now();
        let is_first = {
            let mut read_at = self.read_at.lock();
            let due = read_at.is_none_or(|at| now.0.abs_diff(at.0) >= READ_AGAIN_MS);
            if due {
                *read_at = Some(now);
            }
            due
        };
        let read = async {
            if !is_first {
                // Somebody else may be reading them at this moment.
                drop(self.reading.lock().await);
                return;
            }
            if let Err(error) = self.read(shared, &issuer.read_keys).await {
                let issuer = &issuer.issuer;
                tracing::error!(
                    issuer,
                    error,
                    "the keys of a token issuer cannot be read; the old ones stay"
                );
            }
        };
        tokio::time::timeout(PATIENCE, read).await.is_ok()
    }

    /// # Errors
    /// There is no key in it that can be used.
    fn parse(&self, bytes: &[u8]) -> Result<Vec<Key>, String> {
        if bytes.len() > KEYS_BYTES_MAX {
            return Err(format!("more than {} KiB are not read as keys", KEYS_BYTES_MAX >> 10));
        }
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
        let keys = if text.starts_with('{') {
            self.parse_set(text)?
        } else if self.secret {
            vec![secret(bytes, text)?]
        } else {
            vec![public(text)?]
        };
        if keys.is_empty() {
            return Err("there is no key in it for the configured `algorithms`".to_owned());
        }
        Ok(keys)
    }

    fn parse_set(&self, text: &str) -> Result<Vec<Key>, String> {
        // The error does not repeat the text: a secret may be in it.
        let set: Set = serde_json::from_str(text).map_err(|_| "it is no JWK set; see RFC 7517, section 5")?;
        let keys = set.keys.into_iter().filter_map(|key| {
            let jwk: Jwk = serde_json::from_value(key).ok()?;
            let kind = match &jwk.algorithm {
                AlgorithmParameters::RSA(_) => Kind::Rsa,
                AlgorithmParameters::OctetKey(_) => Kind::Secret,
                AlgorithmParameters::EllipticCurve(_) => Kind::Ec,
                AlgorithmParameters::OctetKeyPair(_) => Kind::Ed25519,
            };
            let signs = jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
            let key = DecodingKey::from_jwk(&jwk).ok()?;
            let wanted = signs && self.algorithms.iter().any(|algorithm| Kind::of(*algorithm) == kind);
            let long_enough = kind != Kind::Secret || secret_bytes(&jwk) >= SECRET_BYTES_MIN;
            let algorithm = jwk.common.key_algorithm.map(|algorithm| format!("{algorithm:?}"));
            (wanted && long_enough).then_some(Key { id: jwk.common.key_id, kind, algorithm, key })
        });
        Ok(keys.take(KEYS_MAX).collect())
    }
}

fn secret_bytes(jwk: &Jwk) -> usize {
    match &jwk.algorithm {
        // Base64 without padding.
        AlgorithmParameters::OctetKey(secret) => secret.value.len() * 3 / 4,
        _ => 0,
    }
}

/// A file of nothing but the secret, perhaps with an end of line.
fn secret(bytes: &[u8], text: &str) -> Result<Key, String> {
    if text.contains("-----BEGIN") {
        return Err("it is a PEM file, but `algorithms` with secrets (HS...) take a secret".to_owned());
    }
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.len() < SECRET_BYTES_MIN {
        return Err(format!("a secret has at least {SECRET_BYTES_MIN} bytes; make a longer one"));
    }
    Ok(Key { id: None, kind: Kind::Secret, algorithm: None, key: DecodingKey::from_secret(bytes) })
}

/// A PEM file with one public key.
fn public(text: &str) -> Result<Key, String> {
    if !text.contains("-----BEGIN") || text.contains("PRIVATE KEY") {
        let why = "expected a PEM file with a public key, or a JWK set; for a secret, set `algorithms`";
        return Err(why.to_owned());
    }
    let pem = text.as_bytes();
    let (kind, key) = if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        (Kind::Rsa, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        (Kind::Ec, key)
    } else if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        (Kind::Ed25519, key)
    } else {
        return Err("the PEM file has no public key of RSA, of P-256, of P-384 or of Ed25519".to_owned());
    };
    Ok(Key { id: None, kind, algorithm: None, key })
}
