//! Bearer tokens as passwords, and `connection.update-secret`.

use crate::client::*;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use posthaste_amqp::wire::*;
use posthaste_broker::{TokenAlgorithm, TokenIssuer};
use posthaste_engine::catalog::User;
use posthaste_model::Name;
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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

fn token(user: &str, ms: f64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let claims = json!({"iss": "id", "aud": "posthaste", "sub": user, "exp": now + ms / 1_000.0});
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

async fn open(world: &World, ms: f64) -> Client {
    let mut client = world.connect();
    // The name counts for nothing.
    client.handshake("/", plain("somebody", &token("ann", ms)), 0).await;
    client
}

fn update(secret: String) -> connection::UpdateSecret {
    connection::UpdateSecret { new_secret: secret.into(), reason: short("it expires") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_until_it_expires() {
    let world = world().await;
    let mut client = open(&world, 1_500.0).await;
    client.open_channel(1).await;
    let ended = refusal(&client.method().await).unwrap();
    assert_eq!(ended, "! 320 CONNECTION_FORCED - the token of user 'ann' has expired; log in with a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_is_a_token_of_the_same_user() {
    let world = world().await;
    let mut client = open(&world, 1_500.0).await;
    let updated = client.call(0, &update(token("ann", 60_000.0))).await;
    assert!(matches!(updated, Method::ConnectionUpdateSecretOk(_)), "{updated:?}");
    client.open_channel(1).await;
    client.declare(queue::Declare { queue: short("q"), ..Default::default() }).await;
    for secret in [token("bob", 60_000.0), token("ann", -1.0), "x".to_owned()] {
        let mut client = open(&world, 60_000.0).await;
        let refused = refusal(&client.call(0, &update(secret)).await).unwrap();
        assert!(refused.starts_with("! 530 NOT_ALLOWED - new secret refused"), "{refused}");
    }
    // A user with a password is asked for it when the connection begins.
    let mut guest = world.connect();
    guest.handshake("/", plain("guest", "guest"), 0).await;
    let updated = guest.call(0, &update("guest".to_owned())).await;
    assert!(matches!(updated, Method::ConnectionUpdateSecretOk(_)), "{updated:?}");
}
