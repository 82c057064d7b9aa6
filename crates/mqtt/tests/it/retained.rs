//! Retained messages.

use std::collections::BTreeSet;

use posthaste_mqtt::wire::{Connect, Packet, QoS, ReasonCode};

use crate::support::*;

const RETAIN_AS_PUBLISHED: u8 = 0b00_1000;
const IF_NEW: u8 = 0b01_0000;
const NEVER: u8 = 0b10_0000;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_retained_messages_keeps_to_the_window() {
    const COUNT: usize = 300;
    let server = Server::start().await;
    let mut writer = server.clean(V5, "writer").await;
    for n in 0..COUNT {
        writer.publish_with(retained(&format!("a/{n}"), &n.to_string(), QoS::AtLeastOnce)).await;
    }
    for durable in [false, true] {
        let mut connect = Connect::new(V5, "reader");
        connect.properties.receive_maximum = 1.try_into().unwrap();
        connect.properties.session_expiry_interval = if durable { 1000 } else { 0 };
        let (mut reader, _) = server.connect_with(connect).await;
        assert_eq!(reader.subscribe_as("a/+", 1, 9).await, ReasonCode::GrantedQoS1);
        let mut topics = BTreeSet::new();
        for n in 0..COUNT {
            let publish = reader.message().await;
            assert_eq!((publish.retain, publish.qos), (true, QoS::AtLeastOnce));
            assert_eq!(publish.properties.subscription_identifiers[0].value(), 9);
            assert!(topics.insert(publish.topic_name.to_string()), "twice");
            if n % 100 == 0 {
                reader.silence().await;
            }
            reader.acknowledge(&publish).await;
        }
        reader.silence().await;
        assert_eq!(topics.len(), COUNT);
        reader.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lasting_session_gets_its_retained_messages_even_after_a_restart() {
    let server = Server::start().await;
    let mut writer = server.clean(V5, "writer").await;
    for (topic, qos) in [("a/0", QoS::AtMostOnce), ("a/1", QoS::AtLeastOnce), ("a/2", QoS::ExactlyOnce)] {
        writer.publish_with(retained(topic, topic, qos)).await;
    }
    let view = server.admin.clone();
    let filter = posthaste_model::Pattern::parse("a/#", posthaste_model::Syntax::SLASHED).unwrap();
    until("three to be kept", async || view.retained("#", &filter, None, 9).unwrap().len() == 3).await;
    let mut connect = lasting(V5, "reader");
    connect.properties.receive_maximum = 1.try_into().unwrap();
    let (mut reader, _) = server.connect_with(connect).await;
    reader.subscribe_as("a/#", 2, 4).await;
    let server = server.restart().await;
    let (mut reader, present) = server.lasting(V5, "reader").await;
    assert!(present);
    let mut found = Vec::new();
    for _ in 0..2 {
        let publish = reader.message().await;
        reader.acknowledge(&publish).await;
        let id = publish.properties.subscription_identifiers[0].value();
        found.push((publish.topic_name.to_string(), publish.retain, publish.qos.value(), id));
    }
    // What was kept at QoS 0 is sent at QoS 0, and need not come again.
    assert_eq!(found, [("a/1".into(), true, 1, 4), ("a/2".into(), true, 2, 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_say_whether_and_how_retained_messages_come() {
    let server = Server::start().await;
    let mut writer = server.clean(V5, "writer").await;
    writer.publish_with(retained("a", "kept", QoS::AtLeastOnce)).await;
    for qos in [0, 1] {
        for (options, first, second) in [(0, true, true), (IF_NEW, true, false), (NEVER, false, false)] {
            let mut reader = server.clean(V5, "reader").await;
            for expect in [first, second] {
                reader.subscribe("a", options | qos).await;
                if expect {
                    let publish = reader.message().await;
                    assert_eq!((publish.retain, publish.qos.value()), (true, qos));
                    reader.acknowledge(&publish).await;
                }
                reader.silence().await;
            }
            for (options, expect) in [(0, false), (RETAIN_AS_PUBLISHED, true)] {
                reader.subscribe("a", options | NEVER | qos).await;
                writer.publish_with(retained("a", "kept", QoS::AtLeastOnce)).await;
                let publish = reader.message().await;
                assert_eq!(publish.retain, expect, "retain as published");
                reader.acknowledge(&publish).await;
            }
            reader.disconnect().await;
        }
    }
    // An empty payload clears, and is delivered like any other message.
    let mut reader = server.clean(V5, "reader").await;
    reader.subscribe("a", NEVER).await;
    writer.publish_with(retained("a", "", QoS::AtLeastOnce)).await;
    assert_eq!(reader.take(1).await, [""]);
    reader.subscribe("a", 0).await;
    reader.silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_retained_messages_are_not_sent() {
    let server = Server::start().await;
    let mut writer = server.clean(V5, "writer").await;
    for n in 0..100 {
        let mut publish = retained(&format!("a/{n:03}"), "short", QoS::AtLeastOnce);
        publish.properties.message_expiry_interval = Some(1);
        writer.publish_with(publish).await;
    }
    let mut publish = retained("a/last", "long", QoS::AtLeastOnce);
    publish.properties.message_expiry_interval = Some(1000);
    writer.publish_with(publish).await;
    let filter = posthaste_model::Pattern::parse("a/0/#", posthaste_model::Syntax::SLASHED).unwrap();
    until("they expire", async || {
        let all = posthaste_model::Pattern::parse("a/099", posthaste_model::Syntax::SLASHED).unwrap();
        [&filter, &all].iter().all(|p| server.admin.retained("#", p, None, 1).unwrap().is_empty())
    })
    .await;
    let mut reader = server.clean(V5, "reader").await;
    reader.subscribe("a/+", 0).await;
    let publish = reader.message().await;
    assert_eq!(&*publish.payload, b"long");
    assert!((990..=1000).contains(&publish.properties.message_expiry_interval.unwrap()));
    reader.send(Packet::Pingreq).await;
    assert_eq!(reader.packet().await, Packet::Pingresp);
}
