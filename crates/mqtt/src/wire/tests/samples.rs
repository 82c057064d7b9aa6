//! One packet of every type, with everything its version has, and with as little as possible.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::wire::*;

pub fn id(value: u16) -> PacketIdentifier {
    PacketIdentifier::new(value).expect("not 0")
}

fn user_properties() -> UserProperties {
    let mut properties = UserProperties::new();
    for (name, value) in [("colour", "red"), ("colour", "grün"), ("", "")] {
        properties.push(name, value).expect("short strings");
    }
    properties
}

fn reason() -> ReasonProperties {
    ReasonProperties { reason_string: Some("because".into()), user_properties: user_properties() }
}

pub fn forwarded() -> ForwardedProperties {
    let mut builder = ForwardedProperties::builder();
    builder.utf8_payload();
    builder.user_property("b", "2").expect("short");
    builder.content_type("text/plain").expect("short");
    builder.response_topic("reply/to").expect("short");
    builder.correlation_data(&[0, 1, 2, 255]).expect("short");
    builder.user_property("a", "1").expect("short");
    builder.build()
}

pub fn all(version: ProtocolVersion) -> Vec<Packet> {
    let mut packets = minimal(version);
    packets.extend(connects(version));
    packets.extend(publishes(version));
    packets.extend(subscriptions(version));
    if version == ProtocolVersion::V5 {
        packets.extend(version_5());
    }
    packets
}

fn minimal(version: ProtocolVersion) -> Vec<Packet> {
    let ack = Ack::new(id(7), ReasonCode::Success);
    let refused = Connack::refused(ReasonCode::NotAuthorized);
    let mut packets = vec![
        Packet::Connect(Box::new(Connect::new(version, ""))),
        Packet::Connack(Box::new(Connack::refused(ReasonCode::Success))),
        Packet::Connack(Box::new(refused)),
        Packet::Publish(Publish { topic_name: "t".into(), ..Publish::default() }),
        Packet::Puback(ack.clone()),
        Packet::Pubrec(ack.clone()),
        Packet::Pubrel(ack.clone()),
        Packet::Pubcomp(ack),
        Packet::Pingreq,
        Packet::Pingresp,
        Packet::Disconnect(Box::new(Disconnect::new(ReasonCode::Success))),
    ];
    if version != ProtocolVersion::V3_1 {
        let connack = Connack { session_present: true, ..Connack::refused(ReasonCode::Success) };
        packets.push(Packet::Connack(Box::new(connack)));
    }
    packets
}

fn connects(version: ProtocolVersion) -> Vec<Packet> {
    let mut connect = Connect::new(version, "client-1");
    connect.clean_start = false;
    connect.keep_alive = 65535;
    connect.user_name = Some("guest".into());
    connect.password = Some(Bytes::from_static(&[0, 255, 1]));
    let mut will = Will {
        qos: QoS::ExactlyOnce,
        retain: true,
        topic: "last/words".into(),
        payload: Bytes::from_static(b"gone"),
        ..Will::default()
    };
    if version == ProtocolVersion::V5 {
        will.will_delay_interval = 30;
        will.message_expiry_interval = Some(60);
        will.forwarded = forwarded();
        connect.properties = ConnectProperties {
            session_expiry_interval: u32::MAX,
            receive_maximum: NonZeroU16::MIN,
            maximum_packet_size: NonZeroU32::new(1000),
            topic_alias_maximum: 10,
            request_response_information: true,
            request_problem_information: false,
            user_properties: user_properties(),
            authentication_method: Some("SCRAM-SHA-256".into()),
            authentication_data: Some(Bytes::from_static(&[9, 8, 7])),
        };
    }
    let without_will = Packet::Connect(Box::new(connect.clone()));
    connect.will = Some(will);
    vec![without_will, Packet::Connect(Box::new(connect))]
}

fn publishes(version: ProtocolVersion) -> Vec<Packet> {
    let mut packets = Vec::new();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for (dup, retain, payload_len) in [(false, false, 0), (true, true, 1), (false, true, 200_000)] {
            let with_id = qos != QoS::AtMostOnce;
            let mut publish = Publish {
                dup: dup && with_id,
                qos,
                retain,
                topic_name: "sensors/7/température".into(),
                packet_identifier: with_id.then(|| id(65535)),
                properties: PublishProperties::default(),
                payload: vec![0xa5; payload_len].into(),
            };
            packets.push(Packet::Publish(publish.clone()));
            if version == ProtocolVersion::V5 {
                publish.properties.forwarded = forwarded();
                publish.properties.message_expiry_interval = Some(3600);
                publish.properties.topic_alias = Some(id(5));
                packets.push(Packet::Publish(publish.clone()));
                publish.topic_name = ByteString::new();
                let identifiers = [1, 127, 128, 16_384, 268_435_455];
                publish.properties.subscription_identifiers =
                    identifiers.iter().filter_map(|value| SubscriptionIdentifier::new(*value)).collect();
                packets.push(Packet::Publish(publish));
            }
        }
    }
    packets
}

fn subscriptions(version: ProtocolVersion) -> Vec<Packet> {
    let filter = |text: &'static str| TopicFilter::parse(ByteString::from_static(text)).expect("well-formed");
    let v5 = version == ProtocolVersion::V5;
    let full = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: v5,
        retain_as_published: v5,
        retain_handling: if v5 { RetainHandling::DoNotSend } else { RetainHandling::SendAtSubscribe },
    };
    let shared = SubscriptionOptions { no_local: false, ..full };
    let subscribe = Subscribe {
        packet_identifier: id(10),
        subscription_identifier: if v5 { SubscriptionIdentifier::new(321) } else { None },
        user_properties: if v5 { user_properties() } else { UserProperties::new() },
        topic_filters: vec![
            (filter("a/+/b"), full),
            (filter("#"), SubscriptionOptions::new(QoS::AtMostOnce)),
            (filter("$share/group/a/#"), shared),
        ],
    };
    let suback = Suback {
        packet_identifier: id(10),
        properties: if v5 { reason() } else { ReasonProperties::default() },
        reason_codes: vec![
            ReasonCode::GrantedQoS2,
            ReasonCode::Success,
            ReasonCode::UnspecifiedError,
            ReasonCode::GrantedQoS1,
        ],
    };
    let unsubscribe = Unsubscribe {
        packet_identifier: id(11),
        user_properties: if v5 { user_properties() } else { UserProperties::new() },
        topic_filters: vec![filter("a/+/b"), filter("$share/group/a/#")],
    };
    let unsuback = Unsuback {
        packet_identifier: id(11),
        properties: if v5 { reason() } else { ReasonProperties::default() },
        reason_codes: if v5 {
            vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted]
        } else {
            Vec::new()
        },
    };
    vec![
        Packet::Subscribe(subscribe),
        Packet::Suback(suback),
        Packet::Unsubscribe(unsubscribe),
        Packet::Unsuback(unsuback),
    ]
}

fn version_5() -> Vec<Packet> {
    let mut packets = Vec::new();
    for code in [ReasonCode::NoMatchingSubscribers, ReasonCode::QuotaExceeded] {
        packets.push(Packet::Puback(Ack::new(id(1), code)));
        let explained = Ack { properties: Some(Box::new(reason())), ..Ack::new(id(2), code) };
        packets.push(Packet::Pubrec(explained.clone()));
        packets.push(Packet::Puback(explained));
    }
    let not_found = Ack::new(id(3), ReasonCode::PacketIdentifierNotFound);
    packets.push(Packet::Pubrel(not_found.clone()));
    packets.push(Packet::Pubcomp(Ack { properties: Some(Box::new(reason())), ..not_found }));
    packets.push(Packet::Connack(Box::new(full_connack())));
    for expiry in [None, Some(0)] {
        let properties = DisconnectProperties {
            session_expiry_interval: expiry,
            reason_string: Some("bye".into()),
            user_properties: user_properties(),
            server_reference: Some("other:1883".into()),
        };
        let disconnect = Disconnect { reason_code: ReasonCode::DisconnectWithWillMessage, properties };
        packets.push(Packet::Disconnect(Box::new(disconnect)));
    }
    packets.push(Packet::Disconnect(Box::new(Disconnect::new(ReasonCode::SessionTakenOver))));
    for code in [ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate, ReasonCode::Success] {
        let properties = AuthProperties {
            authentication_method: Some("SCRAM-SHA-256".into()),
            authentication_data: Some(Bytes::from_static(b"n,,n=user")),
            reason_string: None,
            user_properties: user_properties(),
        };
        packets.push(Packet::Auth(Box::new(Auth { reason_code: code, properties })));
    }
    let empty = Auth { reason_code: ReasonCode::Success, properties: AuthProperties::default() };
    packets.push(Packet::Auth(Box::new(empty)));
    packets
}

fn full_connack() -> Connack {
    Connack {
        session_present: true,
        reason_code: ReasonCode::Success,
        properties: ConnackProperties {
            session_expiry_interval: Some(10),
            receive_maximum: NonZeroU16::new(20),
            maximum_qos: Some(QoS::AtLeastOnce),
            retain_available: Some(true),
            maximum_packet_size: NonZeroU32::new(1 << 20),
            assigned_client_identifier: Some("auto-1".into()),
            topic_alias_maximum: Some(16),
            reason_string: Some("welcome".into()),
            user_properties: user_properties(),
            wildcard_subscription_available: Some(true),
            subscription_identifiers_available: Some(true),
            shared_subscription_available: Some(false),
            server_keep_alive: Some(60),
            response_information: Some("replies/auto-1".into()),
            server_reference: Some("other".into()),
            authentication_method: Some("SCRAM-SHA-256".into()),
            authentication_data: Some(Bytes::from_static(b"v=proof")),
        },
    }
}
