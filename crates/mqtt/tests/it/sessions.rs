//! Sessions over connections and restarts.

use posthaste_model::Limits;
use posthaste_mqtt::wire::{Ack, Packet, QoS, ReasonCode, Will};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_out_survives_restarts_in_every_phase() {
    for version in VERSIONS {
        let server = Server::start().await;
        let (mut reader, present) = server.lasting(version, "reader").await;
        assert!(!present);
        assert_eq!(reader.subscribe("a/#", 2).await, ReasonCode::GrantedQoS2);
        let mut writer = server.clean(version, "writer").await;
        for n in 0..3 {
            writer.publish("a/b", &n.to_string(), QoS::ExactlyOnce).await;
        }
        let first = [reader.message().await, reader.message().await, reader.message().await];
        assert!(first.iter().all(|publish| !publish.dup && publish.qos == QoS::ExactlyOnce));
        let server = server.restart().await;
        let (mut reader, present) = server.lasting(version, "reader").await;
        assert!(present);
        for sent in &first {
            let again = reader.message().await;
            assert!(again.dup);
            assert_eq!((again.packet_identifier, &again.payload), (sent.packet_identifier, &sent.payload));
        }
        let id = first[1].packet_identifier.unwrap();
        reader.send(Packet::Pubrec(Ack::new(id, ReasonCode::Success))).await;
        let pubrel = Packet::Pubrel(Ack::new(id, ReasonCode::Success));
        assert_eq!(reader.packet().await, pubrel);
        let server = server.restart().await;
        let (mut reader, _) = server.lasting(version, "reader").await;
        assert_eq!(reader.packet().await, pubrel, "only PUBCOMP is outstanding");
        for sent in [&first[0], &first[2]] {
            let again = reader.message().await;
            assert_eq!((again.packet_identifier, &again.payload), (sent.packet_identifier, &sent.payload));
            reader.acknowledge(&again).await;
        }
        reader.send(Packet::Pubcomp(Ack::new(id, ReasonCode::Success))).await;
        reader.silence().await;
        let server = server.restart().await;
        let (mut reader, _) = server.lasting(version, "reader").await;
        reader.silence().await;
        assert_eq!(server.admin.queue_state("mqtt-subscription-reader").await.unwrap().ready, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_in_survives_a_restart() {
    let server = Server::start().await;
    let (mut reader, _) = server.lasting(V5, "reader").await;
    reader.subscribe("a", 2).await;
    let (mut writer, _) = server.lasting(V3, "writer").await;
    let mut publish = message("a", "once", QoS::ExactlyOnce);
    publish.packet_identifier = Some(writer.id());
    let id = publish.packet_identifier.unwrap();
    writer.send(Packet::Publish(publish.clone())).await;
    assert_eq!(writer.packet().await, Packet::Pubrec(Ack::new(id, ReasonCode::Success)));
    let server = server.restart().await;
    let (mut writer, present) = server.lasting(V3, "writer").await;
    assert!(present);
    publish.dup = true;
    writer.send(Packet::Publish(publish.clone())).await;
    assert_eq!(writer.packet().await, Packet::Pubrec(Ack::new(id, ReasonCode::Success)));
    writer.send(Packet::Pubrel(Ack::new(id, ReasonCode::Success))).await;
    assert_eq!(writer.packet().await, Packet::Pubcomp(Ack::new(id, ReasonCode::Success)));
    // The identifier is free for another message.
    publish.dup = false;
    publish.payload = "next".into();
    writer.send(Packet::Publish(publish)).await;
    assert_eq!(writer.packet().await, Packet::Pubrec(Ack::new(id, ReasonCode::Success)));
    let (mut reader, _) = server.lasting(V5, "reader").await;
    assert_eq!(reader.take(2).await, ["once", "next"]);
    reader.silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_comes_again_under_its_identifier_and_after_a_restart_flagged() {
    let server = Server::start().await;
    let (mut reader, _) = server.lasting(V5, "reader").await;
    reader.subscribe("a", 1).await;
    let mut writer = server.clean(V5, "writer").await;
    for n in 0..4 {
        writer.publish("a", &n.to_string(), QoS::AtLeastOnce).await;
    }
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.push(reader.message().await);
    }
    reader.acknowledge(&sent[1]).await;
    reader.silence().await;
    drop(reader);
    let (mut reader, _) = server.lasting(V5, "reader").await;
    for expect in [&sent[0], &sent[2], &sent[3]] {
        let again = reader.message().await;
        assert!(again.dup);
        assert_eq!((again.packet_identifier, &again.payload), (expect.packet_identifier, &expect.payload));
    }
    let server = server.restart().await;
    let (mut reader, _) = server.lasting(V5, "reader").await;
    for expect in ["0", "2", "3"] {
        let again = reader.message().await;
        assert_eq!((again.dup, &*again.payload), (true, expect.as_bytes()));
        reader.acknowledge(&again).await;
    }
    reader.silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_taken_over_from_a_client_that_reads_nothing() {
    let server = Server::start().await;
    let (mut stuck, _) = server.lasting(V5, "reader").await;
    stuck.subscribe("a", 1).await;
    let mut writer = server.clean(V5, "writer").await;
    let body = "x".repeat(1 << 20);
    for _ in 0..20 {
        writer.publish("a", &body, QoS::AtLeastOnce).await;
    }
    let (mut reader, present) = server.lasting(V5, "reader").await;
    assert!(present);
    assert!(reader.take(20).await.iter().all(|payload| payload.len() == body.len()));
    reader.silence().await;
    assert_eq!(stuck.end().await, Some(ReasonCode::SessionTakenOver));
    // The end of the old connection leaves the new one alone.
    writer.publish("a", "still there", QoS::AtLeastOnce).await;
    assert_eq!(reader.take(1).await, ["still there"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_with_one_name_leave_one_session() {
    let server = Server::start().await;
    let server = std::sync::Arc::new(server);
    let mut connecting = tokio::task::JoinSet::new();
    for n in 0..20 {
        let server = server.clone();
        connecting.spawn(async move {
            let mut connect = lasting(V5, "same");
            connect.clean_start = n % 3 == 0;
            server.connect_with(connect).await.0
        });
    }
    let clients = connecting.join_all().await;
    let (mut last, present) = server.lasting(V5, "same").await;
    assert!(present);
    for mut client in clients {
        assert_eq!(client.end().await, Some(ReasonCode::SessionTakenOver));
    }
    last.subscribe("a", 1).await;
    last.publish("a", "mine", QoS::AtMostOnce).await;
    assert_eq!(last.take(1).await, ["mine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_expire_also_over_a_restart() {
    let server = Server::start().await;
    let mut connect = lasting(V5, "brief");
    connect.properties.session_expiry_interval = 1;
    let (mut brief, _) = server.connect_with(connect.clone()).await;
    brief.subscribe("a", 1).await;
    brief.disconnect().await;
    let mut connect = lasting(V5, "long");
    connect.properties.session_expiry_interval = 1000;
    let (mut long, _) = server.connect_with(connect).await;
    long.subscribe("a", 1).await;
    long.disconnect().await;
    let server = server.restart().await;
    let queues = || {
        let namespace = server.broker.catalog().namespace("default").unwrap().clone();
        namespace.queues.keys().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    until("the session to expire", async || queues() == ["mqtt-subscription-long"]).await;
    assert_eq!(server.mqtt.counters().sessions_expired.value(), 1);
    assert!(server.lasting(V5, "long").await.1);
    assert!(!server.lasting(V5, "brief").await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_session_leaves_nothing() {
    for version in VERSIONS {
        let server = Server::start().await;
        let mut client = server.clean(version, "x").await;
        client.subscribe("a", 0).await;
        client.subscribe("b", 2).await;
        client.subscribe("$share/g/c", 1).await;
        let count = || server.broker.catalog().namespace("default").unwrap().queues.len();
        assert_eq!(count(), 2);
        drop(client);
        until("its queues to go", async || count() == 0).await;
        let bus = server.admin.exchange("amq.topic").unwrap();
        assert!(!bus.has_bindings());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_start_ends_the_session_that_was_there() {
    let server = Server::start().await;
    let (mut client, _) = server.lasting(V5, "x").await;
    client.subscribe("a", 1).await;
    client.disconnect().await;
    let mut writer = server.clean(V5, "writer").await;
    writer.publish("a", "old", QoS::AtLeastOnce).await;
    let mut connect = lasting(V5, "x");
    connect.clean_start = true;
    let (mut client, connack) = server.connect_with(connect).await;
    assert!(!connack.session_present);
    assert_eq!(writer.publish("a", "none", QoS::AtLeastOnce).await, ReasonCode::NoMatchingSubscribers);
    client.silence().await;
    client.subscribe("a", 1).await;
    writer.publish("a", "new", QoS::AtLeastOnce).await;
    assert_eq!(client.take(1).await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_will_comes_after_a_restart_too() {
    let server = Server::start().await;
    let (mut watcher, _) = server.lasting(V5, "watcher").await;
    watcher.subscribe("will/#", 1).await;
    for (identifier, delay) in [("gone", 1), ("back", 3)] {
        let mut connect = lasting(V5, identifier);
        connect.will = Some(Will {
            qos: QoS::AtLeastOnce,
            will_delay_interval: delay,
            topic: format!("will/{identifier}").into(),
            payload: identifier.into(),
            ..Will::default()
        });
        drop(server.connect_with(connect).await);
        let stored = || {
            let queue = server.admin.queue(&format!("mqtt-subscription-{identifier}")).unwrap();
            queue.config.options.contains_key("mqtt.will")
        };
        until("the will to be stored", async || stored()).await;
    }
    let server = server.restart().await;
    // This one comes back in time.
    let (back, present) = server.lasting(V5, "back").await;
    assert!(present);
    let (mut watcher, _) = server.lasting(V5, "watcher").await;
    assert_eq!(watcher.take(1).await, ["gone"]);
    back.disconnect().await;
    watcher.silence().await;
    assert_eq!(server.mqtt.counters().wills.value(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_messages_are_passed_over() {
    use std::os::unix::fs::FileExt;
    // Nothing is served from memory.
    let limits = Limits { recent_bytes_max: 1, ..Limits::default() };
    let server = Server::start().await.restart_with(limits).await;
    let (mut reader, _) = server.lasting(V5, "reader").await;
    reader.subscribe("a", 1).await;
    reader.disconnect().await;
    let mut writer = server.clean(V5, "writer").await;
    // The block that the journal is in the midst of is written again, from memory: the last one fills it.
    let third = "third".repeat(2_000);
    for text in ["first", "second", &third] {
        assert_eq!(writer.publish("a", text, QoS::AtLeastOnce).await, ReasonCode::Success);
    }
    let mut rotten = 0;
    for entry in std::fs::read_dir(server.folder().join("journal")).unwrap() {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(entry.unwrap().path()).unwrap();
        // What follows was never written to.
        let mut start = vec![0; 64 << 10];
        let read = file.read_at(&mut start, 0).unwrap();
        if let Some(at) = start[..read].windows(6).position(|window| window == b"second") {
            file.write_at(b"S", at as u64).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1);
    let mut connect = lasting(V5, "reader");
    connect.properties.receive_maximum = std::num::NonZeroU16::MIN;
    let (mut reader, _) = server.connect_with(connect).await;
    for expect in ["first", &third] {
        let publish = reader.message().await;
        assert_eq!(publish.payload, expect);
        reader.acknowledge(&publish).await;
    }
    reader.silence().await;
    assert_eq!(server.broker.damage_counts(), (1, 1));
    assert_eq!(server.admin.queue_state("mqtt-subscription-reader").await.unwrap().ready, 0);
}
