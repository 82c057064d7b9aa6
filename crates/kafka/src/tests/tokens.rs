//! OAUTHBEARER (RFC 7628), and authenticating anew before a token expires (KIP-368).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use posthaste_broker::{TokenAlgorithm, TokenIssuer};
use posthaste_engine::catalog::User;
use posthaste_net::Session;

use super::*;
use crate::wire::messages::metadata::MetadataRequest;
use crate::wire::messages::sasl_authenticate::{SaslAuthenticateRequest, SaslAuthenticateResponse};
use crate::wire::messages::sasl_handshake::SaslHandshakeRequest;

const SECRET: &[u8] = b"a secret that the issuer and the broker share";

async fn world() -> World {
    let world = World::new();
    let issuer = TokenIssuer {
        issuer: "id".to_owned(),
        audiences: vec!["posthaste".to_owned()],
        user_claim: "sub".to_owned(),
        groups_claim: None,
        algorithms: vec![TokenAlgorithm::HS256],
        clock_skew: Duration::ZERO,
        read_keys: Arc::new(|| Ok(SECRET.to_vec())),
        minimal_tokens: false,
    };
    world.broker.set_token_issuers(vec![issuer]).unwrap();
    world.broker.read_token_keys("id").await.unwrap();
    let connection = world.broker.next_connection();
    let admin = world.broker.system_client("test", Name::constant("default"), connection);
    for user in ["ann", "bob"] {
        admin.put_user(User { administrator: true, ..User::new(Name::constant(user)) }).await.unwrap();
    }
    world
}

/// A token of `user` that is good for so many milliseconds.
fn message(user: &str, ms: f64) -> SaslAuthenticateRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let claims = std::collections::BTreeMap::from([
        ("iss", Claim::Text("id")),
        ("aud", Claim::Text("posthaste")),
        ("sub", Claim::Text(user)),
        ("exp", Claim::Moment(now + ms / 1_000.0)),
    ]);
    let key = EncodingKey::from_secret(SECRET);
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    SaslAuthenticateRequest { auth_bytes: format!("n,,\x01auth=Bearer {token}\x01\x01").into() }
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Claim<'a> {
    Text(&'a str),
    Moment(f64),
}

async fn handshake(talk: &mut Talk) -> ErrorCode {
    talk.ask(1, &SaslHandshakeRequest { mechanism: "OAUTHBEARER".into() }).await.error_code
}

async fn shown(talk: &mut Talk, request: &SaslAuthenticateRequest) -> SaslAuthenticateResponse {
    // Who is refused is disconnected, too.
    let _ = talk.send(2, request).await;
    talk.response::<SaslAuthenticateRequest>(2).await.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_its_user_in_for_as_long_as_it_is_good() {
    let world = world().await;
    let mut talk = world.connect();
    assert_eq!(handshake(&mut talk).await, ErrorCode::None);
    let response = shown(&mut talk, &message("ann", 60_000.0)).await;
    assert_eq!(response.error_code, ErrorCode::None);
    assert!((50_000..=60_000).contains(&response.session_lifetime_ms), "{}", response.session_lifetime_ms);
    talk.ask(9, &MetadataRequest::default()).await;
    for wrong in [message("ann", -1_000.0), SaslAuthenticateRequest { auth_bytes: "n,,".into() }] {
        let mut talk = world.connect();
        handshake(&mut talk).await;
        assert_eq!(shown(&mut talk, &wrong).await.error_code, ErrorCode::SaslAuthenticationFailed);
    }
    // The connection of one that shows no further token ends with it.
    let mut short = world.connect();
    handshake(&mut short).await;
    shown(&mut short, &message("ann", 1_000.0)).await;
    let ended = short.event().await;
    assert!(matches!(&ended, Err(Close::Error(why)) if why.contains("expired")), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_authenticates_anew_as_the_same_user_only() {
    let world = world().await;
    let mut talk = world.connect();
    handshake(&mut talk).await;
    let first = shown(&mut talk, &message("ann", 2_000.0)).await;
    assert!(first.session_lifetime_ms <= 2_000);
    talk.ask(9, &MetadataRequest::default()).await;
    assert_eq!(handshake(&mut talk).await, ErrorCode::None);
    let second = shown(&mut talk, &message("ann", 60_000.0)).await;
    assert_eq!(second.error_code, ErrorCode::None);
    assert!(second.session_lifetime_ms > 50_000);
    talk.ask(9, &MetadataRequest::default()).await;
    assert!(talk.conversation.is_admitted());
    handshake(&mut talk).await;
    let other = shown(&mut talk, &message("bob", 60_000.0)).await;
    assert_eq!(other.error_code, ErrorCode::SaslAuthenticationFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_issuers_there_is_no_such_mechanism() {
    let world = World::new();
    let mut talk = world.connect();
    let request = SaslHandshakeRequest { mechanism: "OAUTHBEARER".into() };
    assert_eq!(talk.send(1, &request).await, Err(Close::Done));
    let (_, response) = talk.response::<SaslHandshakeRequest>(1).await.unwrap();
    assert_eq!(response.error_code, ErrorCode::UnsupportedSaslMechanism);
    assert!(!response.mechanisms.iter().any(|mechanism| mechanism == "OAUTHBEARER"));
}
