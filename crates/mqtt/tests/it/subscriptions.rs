//! What reaches which subscription, and how.

use bytes::Bytes;
use posthaste_engine::catalog::NoHeaders;
use posthaste_model::{Envelope, Header, Message, Subject, Value};
use posthaste_mqtt::wire::{Packet, QoS, ReasonCode};

use crate::support::*;

const NO_LOCAL: u8 = 0b0100;

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_subscriptions_deliver_once_with_the_highest_qos_and_all_identifiers() {
    for durable in [false, true] {
        let server = Server::start().await;
        let mut reader = match durable {
            true => server.lasting(V5, "reader").await.0,
            false => server.clean(V5, "reader").await,
        };
        for (filter, qos, identifier) in [("a/#", 0, 1), ("a/b", 1, 2), ("+/b", 2, 3), ("x", 2, 4)] {
            reader.subscribe_as(filter, qos, identifier).await;
        }
        let mut writer = server.clean(V5, "writer").await;
        for (topic, published, qos, identifiers) in [
            ("a/b", QoS::ExactlyOnce, QoS::ExactlyOnce, &[1, 2, 3][..]),
            ("a/b", QoS::AtLeastOnce, QoS::AtLeastOnce, &[1, 2, 3]),
            ("a/b", QoS::AtMostOnce, QoS::AtMostOnce, &[1, 2, 3]),
            ("a/c", QoS::ExactlyOnce, QoS::AtMostOnce, &[1]),
            ("c/b", QoS::AtLeastOnce, QoS::AtLeastOnce, &[3]),
        ] {
            writer.publish(topic, "x", published).await;
            let publish = reader.message().await;
            reader.acknowledge(&publish).await;
            let ids = publish.properties.subscription_identifiers.iter();
            let mut ids: Vec<u32> = ids.map(|id| id.value()).collect();
            ids.sort_unstable();
            assert_eq!((&*publish.topic_name, publish.qos, &*ids), (topic, qos, identifiers));
        }
        reader.silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_local_knows_earlier_connections_of_the_session() {
    let server = Server::start().await;
    let (mut client, _) = server.lasting(V5, "x").await;
    client.subscribe("a", NO_LOCAL | 1).await;
    client.subscribe("b", NO_LOCAL).await;
    client.publish("a", "own", QoS::AtLeastOnce).await;
    client.publish("b", "own", QoS::AtLeastOnce).await;
    client.silence().await;
    let mut other = server.clean(V5, "other").await;
    let mut connect = lasting(V5, "x");
    connect.properties.receive_maximum = 1.try_into().unwrap();
    drop(client);
    let (mut client, present) = server.connect_with(connect).await;
    assert!(present.session_present);
    client.publish("a", "own again", QoS::AtLeastOnce).await;
    other.publish("a", "foreign", QoS::AtLeastOnce).await;
    assert_eq!(client.take(1).await, ["foreign"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscription_replaces_the_one_with_its_filter() {
    let server = Server::start().await;
    let (mut client, _) = server.lasting(V5, "x").await;
    let bindings = || server.admin.exchange("amq.topic").unwrap().bindings().count();
    for (options, identifier) in [(0, 1), (2, 2), (1, 3), (1, 3)] {
        client.subscribe_as("a", options, identifier).await;
        assert_eq!(bindings(), 1);
        client.publish("a", "x", QoS::AtMostOnce).await;
        let publish = client.message().await;
        let ids = publish.properties.subscription_identifiers;
        assert_eq!(ids.iter().map(|id| id.value()).collect::<Vec<_>>(), [identifier]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_have_a_limit() {
    let server = Server::start().await;
    for version in VERSIONS {
        let mut client = server.clean(version, "x").await;
        let (most, more) = ("/".repeat(199), "/".repeat(200));
        assert_eq!(client.subscribe(&most, 1).await, ReasonCode::GrantedQoS1);
        client.publish(&most, "deep", QoS::AtMostOnce).await;
        assert_eq!(client.take(1).await, ["deep"]);
        let refused = client.subscribe(&more, 1).await;
        assert!(refused.is_error(), "{refused:?}");
        client.publish(&more, "too deep", QoS::AtMostOnce).await;
        client.silence().await;
        if version == V5 {
            assert_eq!(client.publish(&more, "x", QoS::AtLeastOnce).await, ReasonCode::TopicNameInvalid);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_protocols_arrive_with_their_properties() {
    let server = Server::start().await;
    let mut reader = server.clean(V5, "reader").await;
    reader.subscribe("a/#", 2).await;
    let mut old = server.clean(V3, "old").await;
    old.subscribe("a/#", 0).await;
    let subject = Subject::dotted("a.b%2Ec").unwrap();
    let payload = posthaste_broker::encode_message(Message {
        body: Some(Bytes::from_static(b"body")),
        headers: vec![Header { name: "n".into(), value: Value::Int(7) }],
        correlation_id: Some(Bytes::from_static(b"\x00c")),
        content_type: Some("text/plain".into()),
        ..Message::default()
    });
    let mut batch = server.admin.batch();
    let envelope = Envelope::new(subject, server.broker.now());
    batch.publish(Some("amq.topic"), envelope, payload.clone(), &NoHeaders).unwrap();
    // One that no MQTT client can be shown.
    let envelope = Envelope::new(Subject::dotted("a.#").unwrap(), server.broker.now());
    batch.publish(Some("amq.topic"), envelope, payload, &NoHeaders).unwrap();
    batch.submit(|_| {});
    let publish = reader.message().await;
    assert_eq!(
        (&*publish.topic_name, publish.qos, &*publish.payload),
        ("a/b.c", QoS::AtLeastOnce, &b"body"[..])
    );
    let forwarded = &publish.properties.forwarded;
    assert_eq!(forwarded.content_type().as_deref(), Some("text/plain"));
    assert_eq!(forwarded.correlation_data().as_deref(), Some(&b"\x00c"[..]));
    assert_eq!(forwarded.user_properties().next(), Some(("n".into(), "7".into())));
    assert_eq!(&*old.message().await.payload, b"body");
    until("the other one is counted", async || server.mqtt.counters().undeliverable.value() == 2).await;
    reader.silence().await;
    old.silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_loses_only_its_own_messages() {
    let server = Server::start().await;
    let mut stuck = server.clean(V5, "stuck").await;
    stuck.subscribe("a", 0).await;
    let mut reader = server.clean(V5, "reader").await;
    reader.subscribe("a", 0).await;
    let mut writer = server.clean(V5, "writer").await;
    let body = "x".repeat(1 << 20);
    for _ in 0..40 {
        writer.publish("a", &body, QoS::AtLeastOnce).await;
        assert_eq!(reader.take(1).await[0].len(), body.len());
    }
    assert!(server.broker.metrics().live_dropped.value() > 0);
    let mut kept = 0;
    while kept + server.broker.metrics().live_dropped.value() < 40 {
        assert!(matches!(stuck.packet().await, Packet::Publish(_)));
        kept += 1;
    }
    stuck.silence().await;
}
