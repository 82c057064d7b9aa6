//! Limits of users, and the namespace that a client is in.

use posthaste_broker::hash_password;
use posthaste_engine::catalog::{UsageLimits, User};
use posthaste_model::Name;
use posthaste_mqtt::wire::{Connect, ProtocolVersion, QoS, ReasonCode};
use std::time::Instant;

use crate::support::*;

async fn put_user(server: &Server, name: &'static str, limits: UsageLimits) {
    let user = User {
        password: hash_password(b"secret").unwrap(),
        administrator: true,
        limits,
        ..User::new(Name::constant(name))
    };
    server.admin.put_user(user).await.unwrap();
}

fn as_user(version: ProtocolVersion, identifier: &str, user: &str) -> Connect {
    let mut connect = lasting(version, identifier);
    connect.user_name = Some(user.into());
    connect.password = Some("secret".into());
    connect
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_or_session_too_many_is_refused() {
    let server = Server::start().await;
    let limits = UsageLimits { connections: Some(1), objects: Some(1), ..UsageLimits::default() };
    put_user(&server, "ann", limits).await;
    for version in VERSIONS {
        let (first, connack) = server.connect_with(as_user(version, "a", "ann")).await;
        assert_eq!(connack.reason_code, ReasonCode::Success);
        let refusal = if version == V5 { ReasonCode::QuotaExceeded } else { ReasonCode::ServerUnavailable };
        let (_, connack) = server.connect_with(as_user(version, "b", "ann")).await;
        assert_eq!(connack.reason_code, refusal);
        // The same client again takes the place of its connection.
        let (again, connack) = server.connect_with(as_user(version, "a", "ann")).await;
        assert_eq!((connack.reason_code, connack.session_present), (ReasonCode::Success, true));
        drop(first);
        again.disconnect().await;
        until("its place is free", async || {
            server.broker.usage_of_user(&Name::constant("ann")).connections == 0
        })
        .await;
        // A stored session is an object, and there may be one.
        let (_, connack) = server.connect_with(as_user(version, "b", "ann")).await;
        assert_eq!(connack.reason_code, refusal);
        assert_eq!(server.broker.usage_of_user(&Name::constant("ann")).objects, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_paused_and_loses_nothing() {
    let server = Server::start().await;
    let writer = UsageLimits { published_messages_per_second: Some(20), ..UsageLimits::default() };
    put_user(&server, "writer", writer).await;
    let reader = UsageLimits { read_messages_per_second: Some(20), ..UsageLimits::default() };
    put_user(&server, "reader", reader).await;
    let (mut reader, _) = server.connect_with(as_user(V5, "r", "reader")).await;
    reader.subscribe("a", 1).await;
    let (mut writer, _) = server.connect_with(as_user(V5, "w", "writer")).await;
    let begin = Instant::now();
    for n in 0..50 {
        assert_eq!(writer.publish("a", &n.to_string(), QoS::AtLeastOnce).await, ReasonCode::Success);
    }
    assert!(begin.elapsed().as_millis() > 1_000, "50 at 20/s, of which one second's worth at once");
    let expect: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(reader.take(50).await, expect);
    // Without a limit on publishing, only reading takes its time.
    let mut fast = server.clean(V5, "fast").await;
    let begin = Instant::now();
    for _ in 0..2 {
        for n in 0..50 {
            fast.publish("a", &n.to_string(), QoS::AtLeastOnce).await;
        }
        assert_eq!(reader.take(50).await, expect);
    }
    // What goes out together is paid for afterwards.
    assert!(begin.elapsed().as_millis() > 1_000, "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_messages_stay_in_their_namespace() {
    let server = Server::start().await;
    put_user(&server, "ann", UsageLimits::default()).await;
    for namespace in ["shop", "farm"] {
        server.admin.create_namespace(&Name::constant(namespace)).await.unwrap();
    }
    let (mut shop, _) = server.connect_with(as_user(V5, "same", "shop:ann")).await;
    let (mut farm, connack) = server.connect_with(as_user(V5, "same", "farm:ann")).await;
    assert_eq!((connack.reason_code, connack.session_present), (ReasonCode::Success, false));
    for client in [&mut shop, &mut farm] {
        client.subscribe("a", 1).await;
    }
    for (client, text) in [(&mut shop, "for shop"), (&mut farm, "for farm")] {
        client.publish_with(retained("a", text, QoS::AtLeastOnce)).await;
    }
    assert_eq!(shop.take(1).await, ["for shop"]);
    assert_eq!(farm.take(1).await, ["for farm"]);
    let (mut other, _) = server.connect_with(as_user(V5, "other", "ann")).await;
    other.subscribe("a", 1).await;
    other.silence().await;
    let (_, connack) = server.connect_with(as_user(V5, "x", "nowhere:ann")).await;
    assert_eq!(connack.reason_code, ReasonCode::NotAuthorized);
    drop((shop, farm));
    // Both sessions are there after a restart, each with what came meanwhile.
    let server = server.restart().await;
    for namespace in ["shop", "farm"] {
        let user = format!("{namespace}:ann");
        let (mut writer, _) = server.connect_with(as_user(V5, "writer", &user)).await;
        writer.publish("a", &format!("later in {namespace}"), QoS::AtLeastOnce).await;
        let (mut back, connack) = server.connect_with(as_user(V5, "same", &user)).await;
        assert!(connack.session_present, "{namespace}");
        assert_eq!(back.take(1).await, [format!("later in {namespace}")]);
    }
}
