//! Limits of users and namespaces, and the namespace that a client is in.

use std::time::Duration;

use posthaste_broker::hash_password;
use posthaste_engine::catalog::{UsageLimits, User};
use posthaste_model::Name;
use posthaste_net::Session;

use super::*;
use crate::wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use crate::wire::messages::metadata::MetadataRequest;
use crate::wire::messages::sasl_authenticate::SaslAuthenticateRequest;
use crate::wire::messages::sasl_handshake::SaslHandshakeRequest;

/// The broker's own: once there is a user, a client without credentials may do nothing.
fn admin(world: &World) -> Client {
    let connection = world.broker.next_connection();
    world.broker.system_client("test", Name::constant("default"), connection)
}

async fn put_user(world: &World, limits: UsageLimits, default_namespace: Option<&'static str>) {
    let user = User {
        password: hash_password(b"secret").unwrap(),
        administrator: true,
        limits,
        default_namespace: default_namespace.map(Name::constant),
        ..User::new(Name::constant("ann"))
    };
    admin(world).put_user(user).await.unwrap();
}

async fn sasl(talk: &mut Talk, user: &str) -> (ErrorCode, String) {
    talk.ask(1, &SaslHandshakeRequest { mechanism: "PLAIN".into() }).await;
    let request = SaslAuthenticateRequest { auth_bytes: format!("\0{user}\0secret").into() };
    // Who is refused is disconnected, too.
    let _ = talk.send(2, &request).await;
    let (_, response) = talk.response::<SaslAuthenticateRequest>(2).await.unwrap();
    (response.error_code, response.error_message.unwrap_or_default().to_string())
}

async fn topics(talk: &mut Talk) -> Vec<String> {
    let response = talk.ask(9, &MetadataRequest { topics: None, ..Default::default() }).await;
    response.topics.into_iter().map(|topic| topic.name.unwrap_or_default().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_too_many_is_told() {
    let world = World::new();
    put_user(&world, UsageLimits { connections: Some(1), ..UsageLimits::default() }, None).await;
    let mut first = world.connect();
    assert_eq!(sasl(&mut first, "ann").await.0, ErrorCode::None);
    let mut second = world.connect();
    let (code, why) = sasl(&mut second, "ann").await;
    assert_eq!(code, ErrorCode::SaslAuthenticationFailed);
    assert!(why.contains("as many connections"), "{why}");
    first.conversation.closed(posthaste_net::Closed::ByPeer).await;
    let mut third = world.connect();
    assert_eq!(sasl(&mut third, "ann").await.0, ErrorCode::None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_how_long_it_pauses() {
    let world = World::new();
    let limits = UsageLimits {
        published_messages_per_second: Some(10),
        read_messages_per_second: Some(10),
        ..UsageLimits::default()
    };
    put_user(&world, limits, None).await;
    let mut talk = world.connect();
    sasl(&mut talk, "ann").await;
    talk.create_topic("t", 1, &[]).await;
    assert_eq!(talk.conversation.input_pause(), None);
    let values: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let records = batch(&values.iter().map(String::as_str).collect::<Vec<_>>());
    let response = talk.ask(9, &produce("t", 0, -1, records)).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, ErrorCode::None, "it is kept");
    assert!((1_000..=2_000).contains(&response.throttle_time_ms), "{}", response.throttle_time_ms);
    let pause = talk.conversation.input_pause().unwrap();
    // Another connection of the user, which keeps a member of a group alive perhaps, goes on.
    let mut other = world.connect();
    sasl(&mut other, "ann").await;
    other.ask(9, &MetadataRequest::default()).await;
    assert_eq!(other.conversation.input_pause(), None);
    // What had arrived before the pause waits for its end, and is answered then.
    let sent = talk.send(9, &MetadataRequest::default()).await.unwrap();
    assert!(talk.written().is_none());
    let deadline = talk.conversation.deadline().unwrap();
    assert!(deadline <= tokio::time::Instant::now() + pause + Duration::from_millis(1));
    while talk.conversation.input_pause().is_some() {
        tokio::time::sleep_until(talk.conversation.deadline().unwrap()).await;
    }
    talk.conversation.timeout(&mut talk.out).await.unwrap();
    assert_eq!(talk.response::<MetadataRequest>(9).await.unwrap().0, sent);
    let partition = FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = FetchRequest { max_bytes: 1 << 20, topics: vec![topic], ..Default::default() };
    let response = talk.ask(12, &request).await;
    assert!((1_000..=2_000).contains(&response.throttle_time_ms), "{}", response.throttle_time_ms);
    assert!(response.responses[0].partitions[0].high_watermark == 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_in_the_namespace_that_it_names_or_else_its_users_or_listeners() {
    let world = World::new();
    let admin = admin(&world);
    for namespace in ["shop", "farm", "mill"] {
        let namespace = Name::constant(namespace);
        admin.create_namespace(&namespace).await.unwrap();
        let there = admin.in_namespace(namespace.clone());
        there.create_topic(&namespace, 1, Default::default()).await.unwrap();
    }
    put_user(&world, UsageLimits::default(), None).await;
    let in_namespace = async |user: &str| {
        let mut talk = world.connect();
        assert_eq!(sasl(&mut talk, user).await.0, ErrorCode::None, "{user}");
        topics(&mut talk).await
    };
    assert_eq!(in_namespace("ann").await, [""; 0]);
    world.broker.set_namespace("kafka", Name::constant("mill"));
    assert_eq!(in_namespace("ann").await, ["mill"]);
    put_user(&world, UsageLimits::default(), Some("farm")).await;
    assert_eq!(in_namespace("ann").await, ["farm"]);
    assert_eq!(in_namespace("shop:ann").await, ["shop"]);
    assert_eq!(in_namespace("default:ann").await, [""; 0]);
    // One that is not there, and one that may not be entered, are refused alike.
    let mut talk = world.connect();
    let (code, nowhere) = sasl(&mut talk, "nowhere:ann").await;
    assert_eq!(code, ErrorCode::SaslAuthenticationFailed);
    let clerk = User { password: hash_password(b"secret").unwrap(), ..User::new(Name::constant("clerk")) };
    admin.put_user(clerk).await.unwrap();
    let mut talk = world.connect();
    let (code, denied) = sasl(&mut talk, "shop:clerk").await;
    assert_eq!(code, ErrorCode::SaslAuthenticationFailed);
    assert_eq!(denied.replace("clerk", "ann").replace("shop", "nowhere"), nowhere);
    // A user of the whole name wins.
    let odd = User {
        administrator: true,
        password: hash_password(b"secret").unwrap(),
        ..User::new(Name::constant("shop:ann"))
    };
    admin.put_user(odd).await.unwrap();
    assert_eq!(in_namespace("shop:ann").await, ["mill"]);
    // A namespace that is deleted refuses those who are in it by default.
    admin.delete_namespace(&Name::constant("mill")).await.unwrap();
    let mut talk = world.connect();
    assert_eq!(sasl(&mut talk, "shop:ann").await.0, ErrorCode::SaslAuthenticationFailed);
}
