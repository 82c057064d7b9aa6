//! How connections end.

use bytes::BytesMut;
use posthaste_model::Limits;
use posthaste_mqtt::wire::{Connect, Packet, QoS, ReasonCode, Will};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_ends_its_connection_with_a_reason_and_no_other() {
    let server = Server::start().await;
    let mut bystander = server.clean(V5, "bystander").await;
    bystander.subscribe("a", 1).await;
    for (bytes, expect) in [
        (&b"\x10\x00"[..], Some(ReasonCode::ProtocolError)),
        (b"\x00\x00", Some(ReasonCode::MalformedPacket)),
        (b"\x30\xff\xff\xff\x7f", Some(ReasonCode::PacketTooLarge)),
        (b"\x36\x05\x00\x01a\x00\x01", Some(ReasonCode::MalformedPacket)),
        (b"\x32\x06\x00\x01a\x00\x00\x00", Some(ReasonCode::ProtocolError)),
        (b"\x30\x07\x00\x01a\x03\x23\x00\x41", Some(ReasonCode::TopicAliasInvalid)),
        (b"\x30\x06\x00\x00\x03\x23\x00\x01", Some(ReasonCode::ProtocolError)),
        (b"\x30\x04\x00\x01#\x00", Some(ReasonCode::TopicNameInvalid)),
        (b"\x82\x03\x00\x01\x00", Some(ReasonCode::ProtocolError)),
        (b"\x82\x0d\x00\x01\x00\x00\x07$share/\x01", Some(ReasonCode::TopicFilterInvalid)),
        (b"\xf0\x00", Some(ReasonCode::ProtocolError)),
        (b"\xd0\x00", Some(ReasonCode::ProtocolError)),
        (b"\x40\x02\x00\x09", None),
    ] {
        let mut client = server.clean(V5, "bad").await;
        client.send_bytes(bytes).await;
        match expect {
            Some(_) => assert_eq!(client.end().await, expect, "{bytes:x?}"),
            None => client.silence().await,
        }
    }
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00", b"\xc0\x00", b"\x10\xff\xff\xff\xff\x01"]
    {
        let mut client = server.dial(V5).await;
        client.send_bytes(bytes).await;
        assert_eq!(client.next().await, None, "{bytes:x?}");
    }
    bystander.publish("a", "well", QoS::AtMostOnce).await;
    assert_eq!(bystander.take(1).await, ["well"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_conversations_hurt_nobody() {
    let server = Server::start().await;
    let mut bystander = server.clean(V5, "bystander").await;
    let mut conversation = BytesMut::new();
    Packet::Connect(Box::new(lasting(V5, "fuzzed"))).encode(V5, &mut conversation).unwrap();
    let mut publish = retained("a/b", "payload", QoS::ExactlyOnce);
    publish.packet_identifier = Some(7.try_into().unwrap());
    Packet::Publish(publish).encode(V5, &mut conversation).unwrap();
    conversation.extend_from_slice(b"\x82\x09\x00\x01\x00\x00\x03a/#\x02\x62\x02\x00\x07\xc0\x00");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..300 {
        let mut damaged = conversation.to_vec();
        for _ in 0..3 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = (random >> 8) as usize % damaged.len();
            damaged[at] ^= random as u8;
        }
        let mut client = server.dial(V5).await;
        client.send_bytes(&damaged).await;
    }
    bystander.subscribe("own", 1).await;
    bystander.publish("own", "well", QoS::AtMostOnce).await;
    assert_eq!(bystander.take(1).await, ["well"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_deleted_ends_its_connection() {
    let server = Server::start().await;
    let (mut client, _) = server.lasting(V5, "x").await;
    client.subscribe("a", 1).await;
    server.admin.delete_queue("mqtt-subscription-x", false, false).await.unwrap();
    assert_eq!(client.end().await, Some(ReasonCode::AdministrativeAction));
    assert!(!server.lasting(V5, "x").await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_belongs_to_another_queue_is_refused() {
    let server = Server::start().await;
    let name = posthaste_model::Name::constant("mqtt-subscription-x");
    server.admin.create_queue(&name, Default::default()).await.unwrap();
    for version in VERSIONS {
        let (_, connack) = server.connect_with(lasting(version, "x")).await;
        assert_eq!(connack.reason_code, ReasonCode::ClientIdentifierNotValid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_says_so_and_publishes_wills() {
    let server = Server::start().await;
    let (mut watcher, _) = server.lasting(V5, "watcher").await;
    watcher.subscribe("will", 1).await;
    let mut connect = Connect::new(V5, "x");
    let topic = "will".into();
    connect.will = Some(Will { qos: QoS::AtLeastOnce, topic, payload: "bye".into(), ..Will::default() });
    let (mut client, _) = server.connect_with(connect).await;
    let server = server.restart().await;
    assert_eq!(client.end().await, Some(ReasonCode::ServerShuttingDown));
    let (mut watcher, _) = server.lasting(V5, "watcher").await;
    assert_eq!(watcher.take(1).await, ["bye"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connack_tells_what_is_offered() {
    let server = Server::start().await;
    let mut connect = Connect::new(V5, "");
    connect.properties.request_response_information = true;
    let (_, connack) = server.connect_with(connect).await;
    let offered = connack.properties;
    let identifier = offered.assigned_client_identifier.unwrap();
    assert_eq!(offered.response_information.as_deref(), Some(&*format!("reply/{identifier}")));
    assert_eq!(offered.maximum_packet_size.unwrap().get(), server.settings().options.maximum_packet_size);
    assert_eq!(offered.receive_maximum.unwrap().get(), 1024);
    assert_eq!(offered.topic_alias_maximum, Some(64));
    let (_, connack) = server.connect_with(Connect::new(V5, "")).await;
    assert_ne!(connack.properties.assigned_client_identifier, Some(identifier));
    assert_eq!(connack.properties.response_information, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishers_and_goes_on_delivering() {
    let server = Server::start().await;
    let (mut reader, _) = server.lasting(V5, "reader").await;
    reader.subscribe("a", 1).await;
    reader.disconnect().await;
    let mut writer = server.clean(V5, "writer").await;
    assert_eq!(writer.publish("a", "before", QoS::AtLeastOnce).await, ReasonCode::Success);
    // A reserve that no disk has room for.
    let full = Limits { reserve_bytes: u64::MAX, ..Limits::default() };
    let server = server.restart_with(full).await;
    let mut writer = server.clean(V5, "writer").await;
    assert_eq!(writer.publish("a", "during", QoS::AtLeastOnce).await, ReasonCode::QuotaExceeded);
    // Version 3 cannot refuse a message. The client still has it, and sends it again.
    let mut old = server.clean(V3, "old").await;
    let mut publish = message("a", "during", QoS::AtLeastOnce);
    publish.packet_identifier = Some(old.id());
    old.send(Packet::Publish(publish)).await;
    assert_eq!(old.next().await, None);
    let (mut reader, present) = server.lasting(V5, "reader").await;
    assert!(present);
    let before = reader.message().await;
    assert_eq!(before.payload, "before");
    reader.acknowledge(&before).await;
    reader.disconnect().await;
    let server = server.restart().await;
    let mut writer = server.clean(V5, "writer").await;
    assert_eq!(writer.publish("a", "after", QoS::AtLeastOnce).await, ReasonCode::Success);
    let (mut reader, _) = server.lasting(V5, "reader").await;
    assert_eq!(reader.take(1).await, ["after"], "what was refused is nowhere");
}
