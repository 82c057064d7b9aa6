//! Issuers of bearer tokens, as the configuration file names them.

mod web;

use crate::configuration::File;
use posthaste_broker::{Broker, TokenAlgorithm, TokenIssuer};
use serde::Deserialize;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use web::Address;

/// More than the broker takes as keys.
const KEYS_BYTES_MAX: u64 = 2 << 20;
/// Keys from an address are read again so often: a key that the issuer withdraws is good no longer.
const REFRESH: Duration = Duration::from_mins(5);

/// An issuer, `[[access.token_issuers]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerEntry {
    /// As its tokens name it.
    issuer: String,
    /// For whom tokens are that are accepted.
    #[serde(default)]
    audience: Words,
    /// A file with a PEM public key, a JWK set, or a secret; or the address of a JWK set.
    keys: Source,
    /// The authority that vouches for the server of the keys, a PEM file.
    keys_authority: Option<PathBuf>,
    #[serde(default = "subject")]
    user_claim: String,
    groups_claim: Option<String>,
    /// All that use public keys when left out.
    #[serde(default)]
    algorithms: Vec<TokenAlgorithm>,
    /// How far the issuer's clock and this one may be apart.
    #[serde(default = "clock_skew_ms")]
    clock_skew_ms: u64,
    /// Tokens may lack `iss`, `aud` and `exp`.
    #[serde(default)]
    minimal_tokens: bool,
}

/// One or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Default for Words {
    fn default() -> Words {
        Words::Many(Vec::new())
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
enum Source {
    File(PathBuf),
    Web(Address),
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Source, String> {
        match Address::read(&text) {
            Some(address) => address.map(Source::Web),
            None => Ok(Source::File(text.into())),
        }
    }
}

/// The keys of an issuer, which are read again when they may be others.
pub struct KeySource {
    pub issuer: String,
    state: State,
}

enum State {
    File { path: PathBuf, changed: Option<SystemTime> },
    Web { read_at: Instant },
}

fn subject() -> String {
    "sub".to_owned()
}

fn clock_skew_ms() -> u64 {
    30_000
}

impl IssuerEntry {
    /// # Errors
    /// The authority of the keys' server cannot be read.
    fn issuer(&self) -> Result<TokenIssuer, String> {
        let read_keys: posthaste_broker::ReadKeys = match &self.keys {
            Source::File(path) => {
                let path = path.clone();
                Arc::new(move || read(&path))
            }
            Source::Web(address) => {
                let fetch = address.fetcher(self.keys_authority.as_deref(), KEYS_BYTES_MAX)?;
                Arc::new(fetch)
            }
        };
        Ok(TokenIssuer {
            issuer: self.issuer.clone(),
            audiences: match &self.audience {
                Words::One(one) => vec![one.clone()],
                Words::Many(many) => many.clone(),
            },
            user_claim: self.user_claim.clone(),
            groups_claim: self.groups_claim.clone(),
            algorithms: self.algorithms.clone(),
            clock_skew: Duration::from_millis(self.clock_skew_ms),
            read_keys,
            minimal_tokens: self.minimal_tokens,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error| format!("cannot read the keys in {}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(told)?;
    file.take(KEYS_BYTES_MAX).read_to_end(&mut bytes).map_err(told)?;
    Ok(bytes)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

impl KeySource {
    fn of(entry: &IssuerEntry) -> KeySource {
        let state = match &entry.keys {
            Source::File(path) => State::File { path: path.clone(), changed: modified(path) },
            Source::Web(_) => State::Web { read_at: Instant::now() },
        };
        KeySource { issuer: entry.issuer.clone(), state }
    }

    /// Whether the file is another one than when this was asked last, or an address was asked long ago.
    pub fn may_have_changed(&mut self) -> bool {
        match &mut self.state {
            State::File { path, changed } => {
                let now = modified(path);
                std::mem::replace(changed, now) != now
            }
            State::Web { read_at } => {
                let is_due = read_at.elapsed() >= REFRESH;
                if is_due {
                    *read_at = Instant::now();
                }
                is_due
            }
        }
    }
}

/// Has the broker accept the tokens of the configured issuers. Returns where their keys come from.
///
/// # Errors
/// Names the configuration file, the issuer and what is wrong with it. An address that does not answer is no
/// error: it is asked again for the first token.
pub async fn establish(broker: &Broker, file: &File) -> Result<Vec<KeySource>, String> {
    let entries = &file.access.token_issuers;
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |why: &str| file.wrong("token_issuers", "[access]", why);
    let issuers =
        entries.iter().map(IssuerEntry::issuer).collect::<Result<_, _>>().map_err(|why| wrong(&why))?;
    broker.set_token_issuers(issuers).map_err(|why| wrong(&why))?;
    let mut sources = Vec::new();
    for entry in entries {
        let issuer = &entry.issuer;
        match (broker.read_token_keys(issuer).await, &entry.keys) {
            (Ok(()), _) => {}
            (Err(why), Source::File(_)) => return Err(wrong(&format!("issuer '{issuer}': {why}"))),
            (Err(error), Source::Web(_)) => {
                tracing::error!(
                    issuer,
                    error,
                    "the keys of a token issuer cannot be read yet; its tokens are refused"
                );
            }
        }
        sources.push(KeySource::of(entry));
    }
    Ok(sources)
}
