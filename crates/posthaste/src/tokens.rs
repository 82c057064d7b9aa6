//! Issuers of bearer tokens, as the configuration file names them.

use crate::configuration::File;
use posthaste_broker::{Broker, TokenAlgorithm, TokenIssuer};
use serde::Deserialize;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// More than the broker takes as keys.
const KEYS_BYTES_MAX: u64 = 2 << 20;

/// An issuer, `[[access.token_issuers]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerEntry {
    /// As its tokens name it.
    issuer: String,
    /// For whom tokens are that are accepted.
    audience: Words,
    /// A file with a PEM public key, a JWK set, or a secret.
    keys: PathBuf,
    #[serde(default = "subject")]
    user_claim: String,
    groups_claim: Option<String>,
    /// All that use public keys when left out.
    #[serde(default)]
    algorithms: Vec<TokenAlgorithm>,
    /// How far the issuer's clock and this one may be apart.
    #[serde(default = "clock_skew_ms")]
    clock_skew_ms: u64,
}

/// One or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

/// The keys of an issuer, which are read again when their file changes.
pub struct KeyFile {
    pub issuer: String,
    path: PathBuf,
    changed: Option<SystemTime>,
}

fn subject() -> String {
    "sub".to_owned()
}

fn clock_skew_ms() -> u64 {
    30_000
}

impl IssuerEntry {
    fn issuer(&self) -> TokenIssuer {
        let path = self.keys.clone();
        TokenIssuer {
            issuer: self.issuer.clone(),
            audiences: match &self.audience {
                Words::One(one) => vec![one.clone()],
                Words::Many(many) => many.clone(),
            },
            user_claim: self.user_claim.clone(),
            groups_claim: self.groups_claim.clone(),
            algorithms: self.algorithms.clone(),
            clock_skew: Duration::from_millis(self.clock_skew_ms),
            read_keys: Arc::new(move || read(&path)),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error| format!("cannot read the keys in {}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(told)?;
    file.take(KEYS_BYTES_MAX).read_to_end(&mut bytes).map_err(told)?;
    Ok(bytes)
}

impl KeyFile {
    fn modified(&self) -> Option<SystemTime> {
        fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok()
    }

    /// Whether the file is another one than when this was asked last.
    pub fn has_changed(&mut self) -> bool {
        let now = self.modified();
        std::mem::replace(&mut self.changed, now) != now
    }
}

/// Has the broker accept the tokens of the configured issuers. Returns their files of keys.
///
/// # Errors
/// Names the configuration file, the issuer and what is wrong with it.
pub async fn establish(broker: &Broker, file: &File) -> Result<Vec<KeyFile>, String> {
    let entries = &file.access.token_issuers;
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |why: &str| file.wrong("token_issuers", "[access]", why);
    broker.set_token_issuers(entries.iter().map(IssuerEntry::issuer).collect()).map_err(|why| wrong(&why))?;
    let mut files = Vec::new();
    for entry in entries {
        let read = broker.read_token_keys(&entry.issuer).await;
        read.map_err(|why| wrong(&format!("issuer '{}': {why}", entry.issuer)))?;
        let mut file = KeyFile { issuer: entry.issuer.clone(), path: entry.keys.clone(), changed: None };
        file.has_changed();
        files.push(file);
    }
    Ok(files)
}
