//! Bearer tokens (JWT, RFC 7519): an issuer that the operator trusts says who a client is, in which groups,
//! and until when.
//!
//! A token is judged by the keys of the issuer that it names, and by no key or address that it brings along.
//! An issuer signs either with secrets that it shares with the broker, or with keys whose public half the
//! broker has, never both: so no public key is ever taken for a secret.

mod keys;

use crate::{
    Broker,
    access::{
        authentication::{AuthenticationError, NEVER, Principal},
        origin::Origin,
        revocation::watch_tokens,
    },
};
use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use keys::Keys;
use posthaste_engine::catalog::CREDENTIALS_MAX;
use posthaste_model::{Name, Timestamp};
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};

pub use jsonwebtoken::Algorithm as TokenAlgorithm;

/// Bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Passwords shorter than this are not looked at as tokens.
const TOKEN_BYTES_MIN: usize = 32;

/// How the keys of an issuer are read. It may wait for the disk or the network, for seconds.
pub type ReadKeys = Arc<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>;

/// An authority whose tokens are accepted.
#[derive(Clone)]
pub struct TokenIssuer {
    /// As its tokens name it (claim `iss`).
    pub issuer: String,
    /// Tokens are accepted that are meant for one of these (claim `aud`).
    pub audiences: Vec<String>,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim that names the user's groups: a list, or words with spaces between.
    pub groups_claim: Option<String>,
    /// Empty for all that use public keys.
    pub algorithms: Vec<Algorithm>,
    /// How far the issuer's clock and this one may be apart.
    pub clock_skew: Duration,
    /// A PEM public key, a JWK set, or a secret.
    pub read_keys: ReadKeys,
    /// Tokens may lack `iss`, `aud` and `exp`, as those of Pulsar's tool do; a claim that is there counts.
    pub minimal_tokens: bool,
}

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is no signed JWT; send header, claims and signature with dots between")]
    Malformed,
    #[error("no issuer is configured that the token comes from; add it under [[access.token_issuers]]")]
    Issuer,
    #[error("the issuer of the token does not sign with this algorithm; see `algorithms` of the issuer")]
    Algorithm,
    #[error("no key of the issuer fits the token; see that the issuer's keys are up to date")]
    Key,
    #[error("the signature of the token is wrong; get a new token from the issuer")]
    Signature,
    #[error("the token has expired, or says nothing of when it does; get a new one from the issuer")]
    Expired,
    #[error("the token is not valid yet; compare the clocks of the issuer and of the broker")]
    NotYet,
    #[error("the token is meant for others; ask the issuer for one with the configured `audience`")]
    Audience,
    #[error("the token has no user's name in the claim that `user_claim` names")]
    User,
    #[error("the broker has neither the token's user nor one of its groups; create one of them")]
    Stranger,
}

/// Issuers, as they are configured.
#[derive(Default)]
pub(crate) struct TokenIssuers(ArcSwap<Vec<Arc<Issuer>>>);

struct Issuer {
    settings: TokenIssuer,
    keys: Keys,
}

/// A client as its issuer describes it.
struct Word {
    user: Name,
    groups: Vec<Name>,
    expires: Timestamp,
}

/// A token before anything in it is believed.
struct Parsed<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    issuer: Option<String>,
    /// Header and claims, as signed.
    signed: &'a str,
    signature: &'a str,
    claims: Map<String, Value>,
}

impl<'a> Parsed<'a> {
    fn read(token: &'a str) -> Result<Parsed<'a>, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = (object(header)?, object(claims)?);
        // A token may demand that more is understood than there is (RFC 7515, 4.1.11).
        if header.contains_key("crit") {
            return Err(TokenError::Malformed);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(TokenError::Malformed)?;
        // `none` is no algorithm.
        let algorithm = algorithm.parse().map_err(|_| TokenError::Algorithm)?;
        let key_id = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        let issuer = match claims.get("iss") {
            Some(issuer) => Some(issuer.as_str().ok_or(TokenError::Issuer)?.to_owned()),
            None => None,
        };
        Ok(Parsed { algorithm, key_id, issuer, signed, signature, claims })
    }
}

/// Base64url of a JSON object.
fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

impl TokenIssuer {
    fn skew_ms(&self) -> i64 {
        i64::try_from(self.clock_skew.as_millis()).unwrap_or(i64::MAX)
    }

    /// Judges the claims of a token whose signature is right.
    fn word(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Word, TokenError> {
        let expires = match claims.get("exp") {
            None if self.minimal_tokens => NEVER,
            exp => {
                let expires = exp.and_then(moment).ok_or(TokenError::Expired)?;
                Timestamp(expires.0.saturating_add(self.skew_ms()).min(NEVER.0 - 1))
            }
        };
        if expires <= now {
            return Err(TokenError::Expired);
        }
        if let Some(not_before) = claims.get("nbf") {
            let not_before = moment(not_before).ok_or(TokenError::NotYet)?;
            if not_before.0.saturating_sub(self.skew_ms()) > now.0 {
                return Err(TokenError::NotYet);
            }
        }
        let is_for_us = |value: &Value| {
            value.as_str().is_some_and(|value| self.audiences.iter().any(|audience| audience == value))
        };
        let meant_for_us = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_for_us),
            Some(one) => is_for_us(one),
            None => self.minimal_tokens,
        };
        if !meant_for_us {
            return Err(TokenError::Audience);
        }
        let user = claim(claims, &self.user_claim).and_then(Value::as_str);
        let user = user.and_then(|user| Name::new(user).ok()).ok_or(TokenError::User)?;
        let groups = self.groups_claim.as_deref().and_then(|name| claim(claims, name)).map(groups);
        Ok(Word { user, groups: groups.unwrap_or_default(), expires })
    }
}

/// By its name, or by names of objects within objects with dots between.
fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (outer, inner) = name.split_once('.')?;
    claim(claims.get(outer)?.as_object()?, inner)
}

/// Names that are none of a group here are left out, and so are those beyond as many as a user may have.
fn groups(value: &Value) -> Vec<Name> {
    let names: Vec<&str> = match value {
        Value::String(words) => words.split_whitespace().collect(),
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut groups: Vec<Name> = names.into_iter().filter_map(|name| Name::new(name).ok()).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(CREDENTIALS_MAX);
    groups
}

/// Seconds since 1970, perhaps with a fraction.
fn moment(value: &Value) -> Option<Timestamp> {
    #[expect(clippy::cast_possible_truncation, reason = "what is too large becomes the largest")]
    value.as_f64().filter(|seconds| seconds.is_finite()).map(|seconds| Timestamp((seconds * 1000.0) as i64))
}

/// Whether a password may be a token: base64url of a JSON object, and two dots.
pub(crate) fn looks_like_token(password: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(password).ok()?;
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let looks = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len())
        && text.starts_with("eyJ")
        && text.bytes().filter(|byte| *byte == b'.').count() == 2
        && text.bytes().all(|byte| is_part(byte) || byte == b'.');
    looks.then_some(text)
}

impl Broker {
    /// Says whose tokens are accepted, instead of nobody's. Keys are read by [`Broker::read_token_keys`].
    ///
    /// # Errors
    /// Two go by one name or take tokens that name none, or one has no audience, or algorithms with secrets
    /// beside others.
    pub fn set_token_issuers(&self, issuers: Vec<TokenIssuer>) -> Result<(), String> {
        let mut all: Vec<Arc<Issuer>> = Vec::new();
        for settings in issuers {
            let name = &settings.issuer;
            if all.iter().any(|other| other.settings.issuer == *name) {
                return Err(format!("issuer '{name}' is there twice; give it one table"));
            }
            if settings.minimal_tokens && all.iter().any(|other| other.settings.minimal_tokens) {
                return Err("`minimal_tokens` of two issuers: nothing tells whose a token is".to_owned());
            }
            if settings.audiences.is_empty() && !settings.minimal_tokens {
                return Err(format!("issuer '{name}' has no `audience`; say for whom its tokens are"));
            }
            let keys = Keys::new(&settings.algorithms).map_err(|why| format!("issuer '{name}': {why}"))?;
            all.push(Arc::new(Issuer { settings, keys }));
        }
        self.shared.token_issuers.0.store(Arc::new(all));
        watch_tokens(self);
        Ok(())
    }

    /// Whether any tokens are accepted.
    pub fn accepts_tokens(&self) -> bool {
        !self.shared.token_issuers.0.load().is_empty()
    }

    /// Reads the keys of an issuer again. Those that were read before stay if that fails.
    ///
    /// # Errors
    /// They cannot be read or used.
    pub async fn read_token_keys(&self, issuer: &str) -> Result<(), String> {
        let issuers = self.shared.token_issuers.0.load_full();
        let issuer = issuers.iter().find(|known| known.settings.issuer == issuer);
        match issuer {
            Some(issuer) => issuer.keys.read(&self.shared, &issuer.settings.read_keys).await,
            None => Err("there is no such issuer".to_owned()),
        }
    }

    /// How long a client that logged in by a token may stay, in milliseconds; none for any other.
    pub fn milliseconds_left(&self, principal: &Principal) -> Option<u64> {
        let left = principal.expires()?.0.saturating_sub(self.now().0);
        Some(u64::try_from(left).unwrap_or(0))
    }

    /// Finds out who a client is that shows a token. Nothing is logged, nothing delayed.
    pub(crate) async fn check_token(
        &self,
        token: &str,
        origin: &Origin,
    ) -> Result<Principal, AuthenticationError> {
        let parsed = Parsed::read(token)?;
        let issuers = self.shared.token_issuers.0.load_full();
        let issuer = issuers.iter().find(|issuer| match &parsed.issuer {
            Some(name) => issuer.settings.issuer == *name,
            None => issuer.settings.minimal_tokens,
        });
        let issuer = issuer.ok_or(TokenError::Issuer)?;
        let mut verified = issuer.keys.verify(&parsed);
        if verified == Err(TokenError::Key) && issuer.keys.read_for_new(&self.shared, &issuer.settings).await
        {
            verified = issuer.keys.verify(&parsed);
        }
        verified?;
        let Word { user, groups, expires } = issuer.settings.word(&parsed.claims, self.now())?;
        let catalog = self.shared.catalog_now();
        let entry = catalog.user(&user);
        if entry.is_none() && !groups.iter().any(|group| catalog.user_group(group).is_some()) {
            return Err(TokenError::Stranger.into());
        }
        Principal::admit_by_token(entry.map(|user| &**user), user, groups, origin, expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn issuer() -> TokenIssuer {
        TokenIssuer {
            issuer: "https://id.example".to_owned(),
            audiences: vec!["posthaste".to_owned(), "other".to_owned()],
            user_claim: "sub".to_owned(),
            groups_claim: Some("realm.roles".to_owned()),
            algorithms: Vec::new(),
            clock_skew: Duration::from_secs(5),
            read_keys: Arc::new(|| Ok(Vec::new())),
            minimal_tokens: false,
        }
    }

    fn word(change: impl FnOnce(&mut Value)) -> Result<(String, Vec<String>, i64), TokenError> {
        let mut claims = json!({
            "sub": "ann", "aud": "posthaste", "exp": 1_000, "realm": {"roles": ["b", "a", "b", 7]},
        });
        change(&mut claims);
        let word = issuer().word(claims.as_object().unwrap(), Timestamp(900_000))?;
        let groups = word.groups.iter().map(ToString::to_string).collect();
        Ok((word.user.to_string(), groups, word.expires.0))
    }

    #[test]
    fn claims_are_judged() {
        let groups = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(word(|_| {}), Ok(("ann".to_owned(), groups, 1_005_000)));
        assert_eq!(word(|c| c["realm"] = json!({"roles": "x y"})).unwrap().1, ["x", "y"]);
        assert_eq!(word(|c| c["realm.roles"] = json!(["z"])).unwrap().1, ["z"], "the whole name goes first");
        assert_eq!(word(|c| c["aud"] = json!(["x", "other"])).unwrap().0, "ann");
        type Change = (&'static str, Value, TokenError);
        let wrong: [Change; 17] = [
            ("exp", json!(895), TokenError::Expired),
            ("exp", json!(-1), TokenError::Expired),
            ("exp", json!("1000"), TokenError::Expired),
            ("exp", json!(null), TokenError::Expired),
            ("nbf", json!(906), TokenError::NotYet),
            ("nbf", json!("1"), TokenError::NotYet),
            ("nbf", json!(null), TokenError::NotYet),
            ("aud", json!("x"), TokenError::Audience),
            ("aud", json!(null), TokenError::Audience),
            ("aud", json!([["posthaste"]]), TokenError::Audience),
            ("aud", json!({"posthaste": 1}), TokenError::Audience),
            ("aud", json!("Posthaste"), TokenError::Audience),
            ("aud", json!(""), TokenError::Audience),
            ("sub", json!(null), TokenError::User),
            ("sub", json!(""), TokenError::User),
            ("sub", json!(["ann"]), TokenError::User),
            ("sub", json!("x".repeat(70_000)), TokenError::User),
        ];
        for (name, value, error) in wrong {
            let told = format!("{name} {value:.20}");
            assert_eq!(word(|claims| claims[name] = value), Err(error), "{told}");
        }
        assert_eq!(word(|c| c["nbf"] = json!(905)).map(|word| word.0), Ok("ann".to_owned()));
        assert_eq!(word(|c| c["exp"] = json!(895.001)).map(|word| word.2), Ok(900_001));
        assert_eq!(word(|c| c["exp"] = json!(1e300)).map(|word| word.2), Ok(i64::MAX - 1));
    }

    #[test]
    fn minimal_tokens_lack_claims_and_those_that_are_there_count() {
        let word = |claims: Value| {
            let issuer = TokenIssuer { minimal_tokens: true, ..issuer() };
            issuer.word(claims.as_object().unwrap(), Timestamp(900_000)).map(|word| word.expires)
        };
        assert_eq!(word(json!({"sub": "ann"})), Ok(NEVER));
        assert_eq!(word(json!({"sub": "ann", "aud": "other", "exp": 1_000})), Ok(Timestamp(1_005_000)));
        assert_eq!(word(json!({"sub": "ann", "aud": "x"})), Err(TokenError::Audience));
        assert_eq!(word(json!({"sub": "ann", "exp": 1})), Err(TokenError::Expired));
        assert_eq!(word(json!({"sub": "ann", "exp": null})), Err(TokenError::Expired));
        assert_eq!(word(json!({})), Err(TokenError::User));
    }

    #[test]
    fn passwords_that_may_be_tokens() {
        let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.abc-_";
        assert_eq!(looks_like_token(token.as_bytes()), Some(token));
        for other in
            ["eyJ.a.b", &token[1..], &token.replace('.', ""), &format!("{token}.a"), &format!("{token} ")]
        {
            assert_eq!(looks_like_token(other.as_bytes()), None, "{other}");
        }
        assert_eq!(looks_like_token(format!("eyJ.a.{}", "b".repeat(TOKEN_BYTES_MAX)).as_bytes()), None);
    }
}
