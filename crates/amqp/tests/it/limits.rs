//! Limits of users and virtual hosts.

use crate::client::*;
use posthaste_amqp::wire::*;
use posthaste_broker::hash_password;
use posthaste_engine::catalog::{UsageLimits, User};
use posthaste_model::Name;
use posthaste_net::Session;

async fn put_user(world: &World, limits: UsageLimits) {
    let known = world.broker.catalog().user("ann").cloned();
    let user = User {
        password: known.map_or_else(|| hash_password(b"secret").unwrap(), |user| user.password.clone()),
        administrator: true,
        limits,
        ..User::new(Name::constant("ann"))
    };
    let connection = world.broker.next_connection();
    world.broker.system_client("test", Name::constant("default"), connection).put_user(user).await.unwrap();
}

async fn open(world: &World) -> Client {
    let mut client = world.connect();
    client.handshake("/", plain("ann", "secret"), 0).await;
    client.open_channel(1).await;
    client
}

fn durable(name: &'static str) -> queue::Declare {
    queue::Declare { queue: short(name), durable: true, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_objects_too_many_are_refused() {
    let world = World::new();
    let limits = UsageLimits { connections: Some(1), objects: Some(1), ..UsageLimits::default() };
    put_user(&world, limits).await;
    let mut first = open(&world).await;
    let mut second = world.connect();
    second.send_octets(&PROTOCOL_HEADER).await;
    second.method().await;
    second.call(0, &plain("ann", "secret")).await;
    second.send(0, &connection::TuneOk { channel_max: 10, frame_max: 131_072, heartbeat: 0 }).await;
    let refused = second.call(0, &connection::Open { virtual_host: short("/") }).await;
    let text = refusal(&refused).unwrap();
    assert!(text.starts_with("! 530 NOT_ALLOWED") && text.contains("as many connections"), "{text}");
    first.declare(durable("q")).await;
    let refused = refusal(&first.call(1, &durable("r")).await).unwrap();
    assert!(refused.starts_with("406 PRECONDITION_FAILED"), "{refused}");
    assert!(refused.contains("as many queues"), "{refused}");
    first.close().await;
    open(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_pause_publishers_and_consumers() {
    let world = World::new();
    let limits = UsageLimits {
        published_messages_per_second: Some(10),
        read_messages_per_second: Some(10),
        ..UsageLimits::default()
    };
    put_user(&world, limits).await;
    let mut client = open(&world).await;
    client.declare(durable("q")).await;
    let publish = publish_octets(1, &to("", "q"), &persistent(), b"x");
    client.send_octets(&publish.repeat(30)).await;
    let pause = client.session.input_pause().unwrap();
    assert!(pause.as_millis() > 1_000 && pause.as_millis() <= 2_000, "{pause:?}");
    let mut consumer = open(&world).await;
    consumer
        .consume(1, basic::Consume { queue: short("q"), consumer_tag: short("c"), ..Default::default() })
        .await;
    let begin = std::time::Instant::now();
    for _ in 0..30 {
        loop {
            let deadline = consumer.session.deadline().map(tokio::time::sleep_until);
            tokio::select! {
                delivery = consumer.delivery() => {
                    assert_eq!(delivery.body(), "x");
                    break;
                }
                () = async { deadline.unwrap().await }, if deadline.is_some() => {
                    consumer.session.timeout(&mut consumer.out).await.unwrap();
                }
            }
        }
    }
    let taken = begin.elapsed();
    // A few come at once, and one second's worth without waiting.
    assert!(taken.as_millis() > 500, "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stores_too_much_refuses_and_says_so() {
    let world = World::new();
    put_user(&world, UsageLimits { stored_bytes: Some(0), ..UsageLimits::default() }).await;
    let mut client = open(&world).await;
    client.declare(durable("q")).await;
    client.confirm_select(1).await;
    let publish = publish_octets(1, &to("", "q"), &persistent(), b"x");
    // Bytes are added up once a second.
    let mut tag = 0;
    loop {
        client.send_octets(&publish).await;
        tag += 1;
        match client.method().await {
            Method::BasicNack(nack) => {
                assert_eq!(nack.delivery_tag, tag);
                break;
            }
            Method::BasicAck(ack) => assert_eq!(ack.delivery_tag, tag),
            other => panic!("{other:?}"),
        }
    }
    // A publisher without confirms would not learn of it otherwise.
    let mut careless = open(&world).await;
    careless.send_octets(&publish).await;
    let text = refusal(&careless.method().await).unwrap();
    assert!(text.starts_with("! 506 RESOURCE_ERROR"), "{text}");
}
