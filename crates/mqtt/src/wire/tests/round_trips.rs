use bytes::{Bytes, BytesMut};

use super::samples::{all, forwarded, id};
use super::{VERSIONS, bytes_of, decode, encode, sender_of};
use crate::wire::*;

#[test]
fn every_packet_of_every_version_decodes_to_what_was_encoded() {
    for version in VERSIONS {
        for packet in all(version) {
            let encoded = encode(&packet, version);
            assert_eq!(packet.encoded_len(version), Ok(encoded.len() as u32), "{packet:?}");
            assert_eq!(decode(&encoded, version, sender_of(&packet)), Ok(packet), "{version:?}");
        }
    }
}

#[test]
fn packets_have_the_bytes_that_the_specification_prints() {
    // (version, who sends it, bytes, what a field of it must be)
    let cases = [
        (ProtocolVersion::V3_1, Sender::Client, "10 0e 00 06 'MQIsdp' 03 02 00 3c 00 00"),
        (ProtocolVersion::V3_1_1, Sender::Client, "10 0d 00 04 'MQTT' 04 02 00 3c 00 01 'c'"),
        (ProtocolVersion::V5, Sender::Client, "10 12 00 04 'MQTT' 05 02 00 0a 05 11 00 00 00 0a 00 00"),
        (ProtocolVersion::V3_1_1, Sender::Server, "20 02 01 00"),
        (ProtocolVersion::V5, Sender::Server, "20 03 00 87 00"),
        (ProtocolVersion::V3_1_1, Sender::Client, "32 08 00 03 'a/b' 00 0a '!'"),
        (ProtocolVersion::V5, Sender::Client, "3d 0a 00 03 'a/b' 00 0a 00 'hi'"),
        (ProtocolVersion::V5, Sender::Client, "30 07 00 00 03 23 00 01 '!'"),
        (ProtocolVersion::V3_1_1, Sender::Client, "40 02 00 0a"),
        (ProtocolVersion::V5, Sender::Client, "40 03 00 0a 10"),
        (ProtocolVersion::V5, Sender::Client, "62 02 00 0a"),
        (ProtocolVersion::V3_1_1, Sender::Client, "82 0e 00 0a 00 03 'a/b' 01 00 03 'c/d' 02"),
        (ProtocolVersion::V5, Sender::Client, "82 09 00 0a 00 00 03 'a/b' 2c"),
        (ProtocolVersion::V3_1_1, Sender::Server, "90 05 00 0a 00 02 80"),
        (ProtocolVersion::V5, Sender::Server, "90 04 00 0a 00 8f"),
        (ProtocolVersion::V3_1_1, Sender::Server, "b0 02 00 0a"),
        (ProtocolVersion::V5, Sender::Server, "b0 05 00 0a 00 00 11"),
        (ProtocolVersion::V5, Sender::Client, "c0 00"),
        (ProtocolVersion::V5, Sender::Server, "d0 00"),
        (ProtocolVersion::V5, Sender::Client, "e0 00"),
        (ProtocolVersion::V5, Sender::Client, "e0 01 04"),
        (ProtocolVersion::V5, Sender::Client, "f0 08 18 06 15 00 03 'abc'"),
    ];
    for (version, sender, text) in cases {
        let bytes = bytes_of(text);
        let packet = decode(&bytes, version, sender).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(encode(&packet, version), bytes, "{text}");
    }
}

#[test]
fn longer_forms_that_the_specification_allows_are_understood() {
    let version = ProtocolVersion::V5;
    let short = decode(&bytes_of("40 02 00 0a"), version, Sender::Client);
    assert_eq!(decode(&bytes_of("40 03 00 0a 00"), version, Sender::Client), short);
    assert_eq!(decode(&bytes_of("40 04 00 0a 00 00"), version, Sender::Client), short);
    let short = decode(&bytes_of("e0 00"), version, Sender::Client);
    assert_eq!(decode(&bytes_of("e0 02 00 00"), version, Sender::Client), short);
}

#[test]
fn version_3_1_gets_the_tolerance_that_its_text_demands() {
    let version = ProtocolVersion::V3_1;
    // A user name flag without a user name: the remaining length takes precedence.
    let text = "10 0f 00 06 'MQIsdp' 03 c2 00 3c 00 01 'c'";
    let Ok(Packet::Connect(connect)) = decode(&bytes_of(text), version, Sender::Client) else {
        panic!("must be accepted")
    };
    assert_eq!((connect.user_name, connect.password), (None, None));
    // SUBSCRIBE may carry DUP.
    assert!(decode(&bytes_of("8a 06 00 0a 00 01 'a' 01"), version, Sender::Client).is_ok());
}

#[test]
fn the_payload_of_a_publish_is_a_chunk_of_its_own_and_never_copied() {
    let payload = Bytes::from(vec![7u8; 4096]);
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        topic_name: "a/b".into(),
        packet_identifier: Some(id(1)),
        properties: PublishProperties { forwarded: forwarded(), ..PublishProperties::default() },
        payload: payload.clone(),
        ..Publish::default()
    };
    let mut head = BytesMut::new();
    let chunk = Packet::Publish(publish).encode_head(ProtocolVersion::V5, &mut head).expect("encodes");
    assert_eq!(chunk.as_ptr(), payload.as_ptr());
    assert!(head.ends_with(forwarded().as_bytes()), "the payload is not in it");

    let mut buffer = BytesMut::new();
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(&chunk);
    let inside = buffer.as_ptr_range();
    let mut decoder = Decoder::connected(ProtocolVersion::V5, 1 << 20);
    let Ok(Some(Packet::Publish(decoded))) = decoder.decode(&mut buffer) else { panic!("must decode") };
    assert!(inside.contains(&decoded.payload.as_ptr()));
    assert!(inside.contains(&decoded.topic_name.as_bytes().as_ptr()));
    assert!(inside.contains(&decoded.properties.forwarded.as_bytes().as_ptr()));
}

#[test]
fn forwarded_properties_keep_their_bytes_without_alias_expiry_and_subscription_identifiers() {
    let user = "26 00 01 'k' 00 01 'v'";
    let content = "03 00 04 'text'";
    let (alias, expiry, subscription) = ("23 00 05", "02 00 00 00 09", "0b 07");
    let cases = [
        (vec![user, content], vec![user, content]),
        (vec![alias, user, content, expiry], vec![user, content]),
        (vec![user, alias, content], vec![user, content]),
        (vec![content, subscription, user, expiry, user, alias], vec![content, user, user]),
        (vec![alias, subscription, subscription], vec![]),
    ];
    for (sent, kept) in cases {
        let section = bytes_of(&sent.join(" "));
        let body = format!("00 01 't' {:02x} {}", section.len(), sent.join(" "));
        let packet = bytes_of(&format!("30 {:02x} {body}", bytes_of(&body).len()));
        let Ok(Packet::Publish(publish)) = decode(&packet, ProtocolVersion::V5, Sender::Server) else {
            panic!("{sent:?} must decode")
        };
        assert_eq!(publish.properties.forwarded.as_bytes(), &bytes_of(&kept.join(" ")), "{sent:?}");
        let stored = publish.properties.forwarded.as_bytes().clone();
        assert_eq!(ForwardedProperties::parse(stored), Ok(publish.properties.forwarded), "{sent:?}");
    }
}

#[test]
fn forwarded_properties_are_readable_one_by_one() {
    let properties = forwarded();
    assert!(properties.payload_format_indicator());
    assert_eq!(properties.content_type().as_deref(), Some("text/plain"));
    assert_eq!(properties.response_topic().as_deref(), Some("reply/to"));
    assert_eq!(properties.correlation_data().as_deref(), Some(&[0, 1, 2, 255][..]));
    let user: Vec<_> = properties.user_properties().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(user, ["b=2", "a=1"]);
    assert!(!ForwardedProperties::new().payload_format_indicator());
}

#[test]
fn what_cannot_be_written_is_refused_and_writes_nothing() {
    let long = "x".repeat(65_536);
    let alias_only = Publish {
        properties: PublishProperties { topic_alias: Some(id(1)), ..PublishProperties::default() },
        ..Publish::default()
    };
    let auth = Auth { reason_code: ReasonCode::Success, properties: AuthProperties::default() };
    let mut password_only = Connect::new(ProtocolVersion::V3_1_1, "c");
    password_only.password = Some(Bytes::from_static(b"p"));
    let cases = [
        (
            ProtocolVersion::V5,
            Packet::Publish(Publish { topic_name: long.as_str().into(), ..Publish::default() }),
            EncodeError::FieldTooLong(65_536),
        ),
        (ProtocolVersion::V3_1_1, Packet::Publish(alias_only), EncodeError::EmptyTopicName),
        (
            ProtocolVersion::V5,
            Packet::Publish(Publish { topic_name: "t".into(), qos: QoS::AtLeastOnce, ..Publish::default() }),
            EncodeError::PacketIdentifier,
        ),
        (
            ProtocolVersion::V3_1_1,
            Packet::Auth(Box::new(auth)),
            EncodeError::Version(ProtocolVersion::V3_1_1, PacketType::Auth),
        ),
        (
            ProtocolVersion::V3_1_1,
            Packet::Connack(Box::new(Connack::refused(ReasonCode::MalformedPacket))),
            EncodeError::Version(ProtocolVersion::V3_1_1, PacketType::Connack),
        ),
        (
            ProtocolVersion::V3_1_1,
            Packet::Connect(Box::new(password_only)),
            EncodeError::Version(ProtocolVersion::V3_1_1, PacketType::Connect),
        ),
        (
            ProtocolVersion::V5,
            Packet::Connect(Box::new(Connect::new(ProtocolVersion::V5, "a\0b"))),
            EncodeError::NulCharacter,
        ),
    ];
    for (version, packet, error) in cases {
        let mut out = BytesMut::new();
        assert_eq!(packet.encode(version, &mut out), Err(error), "{:?}", packet.packet_type());
        assert!(out.is_empty());
    }
}

#[test]
fn version_3_loses_only_what_it_does_not_have() {
    let version = ProtocolVersion::V3_1_1;
    let refused = Packet::Puback(Ack::new(id(9), ReasonCode::QuotaExceeded));
    assert_eq!(encode(&refused, version), bytes_of("40 02 00 09"));
    let suback = Packet::Suback(Suback {
        packet_identifier: id(9),
        properties: ReasonProperties::default(),
        reason_codes: vec![ReasonCode::TopicFilterInvalid],
    });
    assert_eq!(encode(&suback, version), bytes_of("90 03 00 09 80"));
    for (reason, code) in [
        (ReasonCode::UnsupportedProtocolVersion, "01"),
        (ReasonCode::ClientIdentifierNotValid, "02"),
        (ReasonCode::ServerBusy, "03"),
        (ReasonCode::BadUserNameOrPassword, "04"),
        (ReasonCode::Banned, "05"),
    ] {
        let connack = Packet::Connack(Box::new(Connack::refused(reason)));
        assert_eq!(encode(&connack, version), bytes_of(&format!("20 02 00 {code}")));
    }
}
