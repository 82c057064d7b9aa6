//! Bearer tokens: whose are accepted, whom they let in, and until when.

use crate::support::*;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use posthaste_broker::{
    AuthenticationError, Broker, Credentials, Principal, ReadKeys, Revoked, TokenError, TokenIssuer,
    hash_password,
};
use posthaste_engine::catalog::{User, UserGroup};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const ISSUER: &str = "https://id.example";
const SECRET: &[u8] = b"a secret that the issuer and the broker share";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn issuer(keys: &[u8], algorithms: &[Algorithm]) -> TokenIssuer {
    let keys = keys.to_vec();
    TokenIssuer {
        read_keys: Arc::new(move || Ok(keys.clone())),
        ..issuer_that(Arc::new(|| Ok(Vec::new())), algorithms)
    }
}

fn issuer_that(read_keys: ReadKeys, algorithms: &[Algorithm]) -> TokenIssuer {
    TokenIssuer {
        issuer: ISSUER.to_owned(),
        audiences: vec!["posthaste".to_owned()],
        user_claim: "sub".to_owned(),
        groups_claim: Some("groups".to_owned()),
        algorithms: algorithms.to_vec(),
        clock_skew: Duration::ZERO,
        read_keys,
        minimal_tokens: false,
    }
}

async fn use_issuer(f: &Fixture, issuer: TokenIssuer) {
    f.broker.set_token_issuers(vec![issuer]).unwrap();
    f.broker.read_token_keys(ISSUER).await.unwrap();
}

/// A broker that accepts tokens signed with [`SECRET`], and has the user `ann` and the group `staff`.
async fn fixture() -> Fixture {
    let f = Fixture::new().await;
    use_issuer(&f, issuer(SECRET, &[Algorithm::HS256])).await;
    f.client.put_user_group(UserGroup::new(name("staff"))).await.unwrap();
    f.client.put_user(User::new(name("ann"))).await.unwrap();
    f
}

fn claims(user: &str) -> Value {
    json!({"iss": ISSUER, "aud": "posthaste", "sub": user, "exp": now() + 600})
}

fn sign(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    encode(header, claims, key).unwrap()
}

fn signed(claims: &Value) -> String {
    sign(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET))
}

/// Each from an address of its own, as failures from one are answered the later the more there were.
async fn log_in(broker: &Broker, token: &str) -> Result<Principal, AuthenticationError> {
    static LAST: AtomicUsize = AtomicUsize::new(0x0a00_0000);
    let address = u32::try_from(LAST.fetch_add(1, Ordering::Relaxed)).unwrap();
    broker.authenticate(Credentials::Token(token), IpAddr::from(address.to_be_bytes())).await
}

async fn refusal(broker: &Broker, token: &str) -> Option<AuthenticationError> {
    log_in(broker, token).await.err()
}

/// The key's public half, as PEM.
fn public_pem(pair: &KeyPair) -> String {
    let der = base64::engine::general_purpose::STANDARD.encode(pair.subject_public_key_info());
    format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
}

/// The key's public half as RFC 7517 has it.
fn public_jwk(pair: &KeyPair, id: &str) -> Value {
    let (x, y) = pair.public_key_raw()[1..].split_at(32);
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let (x, y) = (encode(x), encode(y));
    json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": x, "y": y})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_in_its_user_and_nobody_else() {
    let f = fixture().await;
    let ann = log_in(&f.broker, &signed(&claims("ann"))).await.unwrap();
    assert_eq!(ann.name(), "ann");
    let left = f.broker.milliseconds_left(&ann).unwrap();
    assert!((590_000..=600_000).contains(&left), "{left}");
    let mut by_group = claims("eve");
    by_group["groups"] = json!(["nothing", "staff"]);
    assert_eq!(log_in(&f.broker, &signed(&by_group)).await.unwrap().name(), "eve");
    by_group["groups"] = json!(["nothing"]);
    for (wrong, error) in [
        (json!({"sub": "eve"}), TokenError::Stranger),
        (by_group, TokenError::Stranger),
        (json!({"iss": "https://other.example"}), TokenError::Issuer),
        (json!({"iss": null}), TokenError::Issuer),
        (json!({"aud": "other"}), TokenError::Audience),
        (json!({"exp": now() - 1}), TokenError::Expired),
        (json!({"exp": null}), TokenError::Expired),
        (json!({"nbf": now() + 60}), TokenError::NotYet),
    ] {
        let mut claims = claims("ann");
        claims.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_eq!(refusal(&f.broker, &signed(&claims)).await, Some(error.into()), "{wrong}");
    }
    assert!(f.broker.metrics().authentication_failures.value() >= 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_user_counts_with_a_token_too() {
    let f = fixture().await;
    f.client.put_user(User { loopback_only: true, ..User::new(name("ann")) }).await.unwrap();
    let mut claims = claims("ann");
    claims["groups"] = json!("staff");
    let token = signed(&claims);
    assert_eq!(refusal(&f.broker, &token).await, Some(AuthenticationError::LoopbackOnly));
    let here = f.broker.authenticate(Credentials::Token(&token), IpAddr::from([127, 0, 0, 1])).await;
    assert_eq!(here.unwrap().name(), "ann");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_issuer_makes_tokens() {
    let f = fixture().await;
    let good = signed(&claims("ann"));
    let (said, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = said.split_once('.').unwrap();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let other = signed(&claims("guest"));
    let others_body = other.split('.').nth(1).unwrap();
    let none = |alg: &str| format!("{}.{body}.", part(json!({"alg": alg})));
    let critical = format!("{}.{body}", part(json!({"alg": "HS256", "crit": ["exp"]})));
    let critical_signature =
        jsonwebtoken::crypto::sign(critical.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256)
            .unwrap();
    for (token, error) in [
        (String::new(), TokenError::Malformed),
        ("a.b".to_owned(), TokenError::Malformed),
        ("..".to_owned(), TokenError::Malformed),
        (format!("{good}.x"), TokenError::Malformed),
        (good.replace('.', ""), TokenError::Malformed),
        (format!("{good}{}", "A".repeat(20_000)), TokenError::Malformed),
        (format!("{critical}.{critical_signature}"), TokenError::Malformed),
        (none("none"), TokenError::Algorithm),
        (none("None"), TokenError::Algorithm),
        (none("HS384"), TokenError::Algorithm),
        (none("RS256"), TokenError::Algorithm),
        (none("HS256"), TokenError::Signature),
        (format!("{said}."), TokenError::Signature),
        (format!("{said}.{signature}A"), TokenError::Signature),
        (format!("{header}.{others_body}.{signature}"), TokenError::Signature),
        (
            sign(&Header::new(Algorithm::HS256), &claims("ann"), &EncodingKey::from_secret(b"another")),
            TokenError::Signature,
        ),
    ] {
        assert_eq!(refusal(&f.broker, &token).await, Some(error.into()), "{token:.80}");
    }
    f.broker.set_token_issuers(Vec::new()).unwrap();
    assert_eq!(refusal(&f.broker, &good).await, Some(TokenError::Issuer.into()), "nobody is configured");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_good_for_their_own_algorithms_only() {
    let f = fixture().await;
    for (made_by, algorithm) in [
        (&PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
        (&PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
        (&PKCS_ED25519, Algorithm::EdDSA),
    ] {
        let pair = KeyPair::generate_for(made_by).unwrap();
        let private = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(private.as_bytes()),
            _ => EncodingKey::from_ec_pem(private.as_bytes()),
        };
        let token = sign(&Header::new(algorithm), &claims("ann"), &key.unwrap());
        let public = public_pem(&pair);
        use_issuer(&f, issuer(public.as_bytes(), &[])).await;
        assert_eq!(log_in(&f.broker, &token).await.unwrap().name(), "ann", "{algorithm:?}");
        // The public key is no secret.
        let raw = public.trim().as_bytes();
        for secret in [public.as_bytes(), raw, pair.public_key_raw()] {
            let key = EncodingKey::from_secret(secret);
            let forged = sign(&Header::new(Algorithm::HS256), &claims("ann"), &key);
            assert_eq!(refusal(&f.broker, &forged).await, Some(TokenError::Algorithm.into()));
        }
        use_issuer(&f, issuer(public.as_bytes(), &[Algorithm::RS256])).await;
        assert_eq!(refusal(&f.broker, &token).await, Some(TokenError::Algorithm.into()));
        let other = KeyPair::generate_for(made_by).unwrap();
        use_issuer(&f, issuer(public_pem(&other).as_bytes(), &[])).await;
        assert_eq!(refusal(&f.broker, &token).await, Some(TokenError::Signature.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused_at_once() {
    let f = Fixture::new().await;
    let both = issuer(SECRET, &[Algorithm::HS256, Algorithm::RS256]);
    assert!(f.broker.set_token_issuers(vec![both]).unwrap_err().contains("algorithms"));
    let for_nobody = TokenIssuer { audiences: Vec::new(), ..issuer(SECRET, &[]) };
    assert!(f.broker.set_token_issuers(vec![for_nobody]).unwrap_err().contains("audience"));
    let twice = vec![issuer(SECRET, &[]), issuer(SECRET, &[])];
    assert!(f.broker.set_token_issuers(twice).unwrap_err().contains("twice"));
    let pair = KeyPair::generate().unwrap();
    let private = pair.serialize_pem();
    let encrypts = json!({"keys": [{"kty": "oct", "use": "enc", "k": URL_SAFE_NO_PAD.encode(SECRET)}]});
    let secrets = json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)}]});
    let short = json!({"keys": [{"kty": "oct", "k": "c2hvcnQ"}]});
    for (keys, algorithms) in [
        (public_pem(&pair).into_bytes(), vec![Algorithm::HS256]),
        (private.into_bytes(), vec![]),
        (SECRET.to_vec(), vec![]),
        (b"short".to_vec(), vec![Algorithm::HS256]),
        (Vec::new(), vec![Algorithm::HS256]),
        (Vec::new(), vec![]),
        (b"{}".to_vec(), vec![]),
        (b"{\"keys\": []}".to_vec(), vec![]),
        (encrypts.to_string().into_bytes(), vec![Algorithm::HS256]),
        (secrets.to_string().into_bytes(), vec![]),
        (short.to_string().into_bytes(), vec![Algorithm::HS256]),
        (vec![b' '; 2 << 20], vec![]),
    ] {
        f.broker.set_token_issuers(vec![issuer(&keys, &algorithms)]).unwrap();
        let read = f.broker.read_token_keys(ISSUER).await;
        let why = read.expect_err(&String::from_utf8_lossy(&keys[..keys.len().min(60)]));
        assert!(!why.contains("a secret that"), "{why}");
    }
    use_issuer(&f, issuer(secrets.to_string().as_bytes(), &[Algorithm::HS256])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_fetched_once_and_a_failed_fetch_keeps_the_old_ones() {
    let f = fixture().await;
    let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let reads = Arc::new(AtomicUsize::new(0));
    let (first, second) = (public_jwk(&old, "old"), public_jwk(&new, "new"));
    let unknown = json!({"kty": "unheard-of", "kid": "x"});
    let count = reads.clone();
    let read: ReadKeys = Arc::new(move || match count.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(json!({"keys": [unknown.clone(), first.clone()]}).to_string().into_bytes()),
        1 => Ok(json!({"keys": [first.clone(), second.clone()]}).to_string().into_bytes()),
        _ => Err("the issuer is away".to_owned()),
    });
    use_issuer(&f, issuer_that(read, &[])).await;
    let token = |pair: &KeyPair, id: &str| {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        sign(&header, &claims("ann"), &key)
    };
    assert!(log_in(&f.broker, &token(&old, "old")).await.is_ok());
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    let all = [token(&new, "new"), token(&new, "new"), token(&old, "old")];
    let [a, b, c] = all.each_ref().map(|token| log_in(&f.broker, token));
    let (a, b, c) = tokio::join!(a, b, c);
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
    assert_eq!(reads.load(Ordering::SeqCst), 2);
    // Strangers cannot have keys read as often as they like.
    for id in ["x", "y", "new"] {
        assert!(log_in(&f.broker, &token(&old, id)).await.is_err());
    }
    assert_eq!(reads.load(Ordering::SeqCst), 2);
    assert!(f.broker.read_token_keys(ISSUER).await.unwrap_err().contains("away"));
    assert!(log_in(&f.broker, &token(&new, "new")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_when_its_token_expires_and_may_renew_it() {
    let f = fixture().await;
    let until = |seconds: u64, user: &str| {
        let mut claims = claims(user);
        claims["exp"] = json!(now() + seconds);
        claims["groups"] = json!(["staff"]);
        signed(&claims)
    };
    let client = async |token: String| {
        let principal = log_in(&f.broker, &token).await.unwrap();
        f.broker.client(principal, name("default"), f.broker.next_connection())
    };
    let (short, renewed) = (client(until(2, "ann")).await, client(until(2, "ann")).await);
    let (told, mut tellings) = tokio::sync::mpsc::unbounded_channel();
    let tell_of = |which: &'static str| {
        let told = told.clone();
        move || told.send(which).unwrap_or_default()
    };
    let watch = short.watch_rights(tell_of("short")).unwrap();
    let _other = renewed.watch_rights(tell_of("renewed")).unwrap();
    assert_eq!(short.standing(), Ok(()));
    assert!(!renewed.renew(&log_in(&f.broker, &until(600, "eve")).await.unwrap()), "somebody else's");
    assert!(!renewed.renew(&log_in(&f.broker, &signed(&claims("ann"))).await.unwrap()), "other groups");
    assert!(renewed.renew(&log_in(&f.broker, &until(600, "ann")).await.unwrap()));
    assert_eq!(tellings.recv().await, Some("short"));
    assert_eq!(short.standing(), Err(Revoked::Expired("ann".to_owned())));
    assert_eq!(tellings.recv().await, Some("short"), "until it has gone");
    drop(watch);
    assert_eq!(renewed.standing(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_an_entry_stays_as_long_as_its_group() {
    let f = fixture().await;
    let mut claims = claims("eve");
    claims["groups"] = json!(["staff"]);
    let principal = log_in(&f.broker, &signed(&claims)).await.unwrap();
    let eve = f.broker.client(principal, name("default"), f.broker.next_connection());
    assert_eq!(eve.standing(), Ok(()));
    f.client.delete_user_group(&name("staff")).await.unwrap();
    assert_eq!(eve.standing(), Err(Revoked::Deleted("eve".to_owned())));
    let principal = log_in(&f.broker, &signed(&self::claims("ann"))).await.unwrap();
    let ann = f.broker.client(principal, name("default"), f.broker.next_connection());
    f.client.delete_user(&name("ann")).await.unwrap();
    assert_eq!(ann.standing(), Err(Revoked::Deleted("ann".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_may_be_a_token_unless_it_is_the_users_password() {
    let f = fixture().await;
    let with = async |user: &str, password: &str| {
        let credentials = Credentials::Password { user, password: password.as_bytes() };
        let result = f.broker.authenticate(credentials, IpAddr::from([192, 0, 2, 1])).await;
        result.map(|principal| principal.name().to_owned())
    };
    let token = signed(&claims("ann"));
    for user in ["", "ann", "nobody", "bob"] {
        assert_eq!(with(user, &token).await, Ok("ann".to_owned()), "{user}");
    }
    let (expired, mut old) = (TokenError::Expired, claims("ann"));
    old["exp"] = json!(1);
    let old = signed(&old);
    assert_eq!(with("bob", &old).await, Err(expired.into()));
    // Now both are bob's password, one after the other.
    for password in [&token, &old] {
        let bob = User { password: hash_password(password.as_bytes()).unwrap(), ..User::new(name("bob")) };
        f.client.put_user(bob).await.unwrap();
        for _first_and_known in 0..2 {
            assert_eq!(with("bob", password).await, Ok("bob".to_owned()));
        }
    }
    assert_eq!(with("bob", &token).await, Ok("ann".to_owned()));
    f.broker.set_token_issuers(Vec::new()).unwrap();
    assert_eq!(with("ann", &token).await, Err(AuthenticationError::Wrong));
}
