//! Who gets in, and what they may.

use posthaste_broker::{QueueDeclaration, hash_password};
use posthaste_engine::catalog::{
    Action, Binding, Overflow, Permission, QueueConfig, Resource, Rule, Target, User,
};
use posthaste_model::{Name, Pattern, Syntax};
use posthaste_mqtt::wire::{Connect, QoS, ReasonCode, Will};

use crate::support::*;

async fn add_user(server: &Server) {
    add(server, "device", &[(&[Action::Write, Action::Read], "sensors.*"), (&[Action::Read], "news")]).await;
}

/// Adds a user with the password `secret`, or gives it other permissions.
async fn add(server: &Server, name: &'static str, permissions: &[(&[Action], &str)]) {
    let permission = |actions: &[Action], name: &str| {
        Permission::allow(actions, Resource::Subject, name).within("default")
    };
    let known = server.broker.catalog().user(name).map(|user| user.password.clone());
    let user = User {
        password: known.unwrap_or_else(|| hash_password(b"secret").unwrap()),
        permissions: permissions.iter().map(|(actions, name)| permission(actions, name)).collect(),
        ..User::new(Name::constant(name))
    };
    server.admin.put_user(user).await.unwrap();
}

fn login(version: posthaste_mqtt::wire::ProtocolVersion, user: &str, password: &'static str) -> Connect {
    let mut connect = lasting(version, format!("client-{user}").as_str());
    connect.user_name = Some(user.into());
    connect.password = Some(password.into());
    connect
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_known_gets_in() {
    let server = Server::start().await;
    add_user(&server).await;
    for (user, password, expect) in [
        ("device", "secret", ReasonCode::Success),
        ("device", "wrong", ReasonCode::BadUserNameOrPassword),
        ("nobody", "secret", ReasonCode::BadUserNameOrPassword),
        ("guest", "guest", ReasonCode::Success),
    ] {
        for version in VERSIONS {
            let (mut client, connack) = server.connect_with(login(version, user, password)).await;
            assert_eq!(connack.reason_code, expect, "{user}");
            if expect != ReasonCode::Success {
                assert_eq!(client.end().await, None);
            }
        }
    }
    let mut connect = Connect::new(V5, "x");
    connect.properties.authentication_method = Some("SCRAM-SHA-1".into());
    let (_, connack) = server.connect_with(connect).await;
    assert_eq!(connack.reason_code, ReasonCode::BadAuthenticationMethod);
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_on_subjects() {
    let server = Server::start().await;
    add_user(&server).await;
    let (mut device, _) = server.connect_with(login(V5, "device", "secret")).await;
    for (filter, expect) in [
        ("sensors/7/temp", ReasonCode::GrantedQoS1),
        ("sensors/#", ReasonCode::GrantedQoS1),
        ("sensors/+/temp", ReasonCode::GrantedQoS1),
        ("$share/g/sensors/+", ReasonCode::GrantedQoS1),
        ("news", ReasonCode::GrantedQoS1),
        ("#", ReasonCode::NotAuthorized),
        ("+", ReasonCode::NotAuthorized),
        ("news/#", ReasonCode::NotAuthorized),
        ("$share/g/other", ReasonCode::NotAuthorized),
    ] {
        assert_eq!(device.subscribe(filter, 1).await, expect, "{filter}");
    }
    drop(device);
    let (mut device, _) = server.connect_with(login(V5, "device", "secret")).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(device.publish("news", "x", qos).await, ReasonCode::NotAuthorized);
        assert_eq!(device.publish_with(retained("news", "x", qos)).await, ReasonCode::NotAuthorized);
    }
    device.publish("news", "x", QoS::AtMostOnce).await;
    device.silence().await;
    assert_eq!(server.mqtt.counters().dropped.value(), 1);
    let all = Pattern::parse("#", Syntax::SLASHED).unwrap();
    assert!(server.admin.retained("#", &all, None, 1).unwrap().is_empty());
    // Version 3 has no way to say no: the connection closes, the message is not acknowledged.
    let mut connect = login(V3, "device", "secret");
    connect.client_identifier = "old".into();
    let (mut old, _) = server.connect_with(connect).await;
    let mut publish = message("news", "x", QoS::AtLeastOnce);
    publish.packet_identifier = Some(old.id());
    old.send(posthaste_mqtt::wire::Packet::Publish(publish)).await;
    assert_eq!(old.next().await, None);
    let mut connect = login(V5, "device", "secret");
    connect.will = Some(Will { topic: "news".into(), ..Will::default() });
    let (_, connack) = server.connect_with(connect).await;
    assert_eq!(connack.reason_code, ReasonCode::NotAuthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_told_to_its_publisher() {
    let server = Server::start().await;
    let config = QueueConfig { length_max: Some(1), overflow: Overflow::Reject, ..QueueConfig::default() };
    let declaration = QueueDeclaration { config, durable: true, ..QueueDeclaration::default() };
    let name = Name::constant("small");
    server.admin.create_queue(&name, declaration).await.unwrap();
    let binding = Binding {
        target: Target::Queue(name),
        key: "a".into(),
        rule: Rule::Pattern(Pattern::parse("a", Syntax::SLASHED).unwrap()),
        arguments: Default::default(),
        durable: true,
        transient: false,
    };
    server.admin.bind(&Name::constant("amq.topic"), binding).await.unwrap();
    let mut client = server.clean(V5, "x").await;
    for expect in [ReasonCode::Success, ReasonCode::QuotaExceeded, ReasonCode::QuotaExceeded] {
        assert_eq!(client.publish("a", "x", QoS::AtLeastOnce).await, expect);
    }
    assert_eq!(client.publish("a", "x", QoS::ExactlyOnce).await, ReasonCode::QuotaExceeded);
    let mut old = server.clean(V3, "old").await;
    let mut publish = message("a", "x", QoS::AtLeastOnce);
    publish.packet_identifier = Some(old.id());
    old.send(posthaste_mqtt::wire::Packet::Publish(publish)).await;
    assert_eq!(old.next().await, None, "not acknowledged");
    client.silence().await;
}

fn as_user(version: posthaste_mqtt::wire::ProtocolVersion, user: &str, mut connect: Connect) -> Connect {
    assert_eq!(connect.version, version);
    connect.user_name = Some(user.into());
    connect.password = Some("secret".into());
    connect
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_users_alone() {
    let all: &[(&[Action], &str)] = &[(&[Action::Read, Action::Write], "*")];
    for version in VERSIONS {
        let mut server = Server::start().await;
        add(&server, "ann", all).await;
        add(&server, "bob", &[(&[Action::Read], "news")]).await;
        let (mut ann, _) = server.connect_with(as_user(version, "ann", lasting(version, "reader"))).await;
        ann.subscribe("secret/#", 1).await;
        // Another user neither gets it nor ends it, and does not disturb its client.
        let clean = as_user(version, "bob", Connect::new(version, "reader"));
        let (mut bob, refused) = server.connect_with(clean).await;
        assert_eq!(refused.reason_code, ReasonCode::NotAuthorized);
        assert_eq!(bob.end().await, None);
        let (mut writer, _) = server.connect_with(as_user(version, "ann", Connect::new(version, "w"))).await;
        writer.publish("secret/a", "while connected", QoS::AtLeastOnce).await;
        let got = ann.message().await;
        assert_eq!(&got.payload[..], b"while connected");
        ann.acknowledge(&got).await;
        ann.silence().await;
        ann.disconnect().await;
        for restart in [false, true] {
            let (mut writer, _) =
                server.connect_with(as_user(version, "ann", Connect::new(version, "w"))).await;
            writer.publish("secret/a", "for ann", QoS::AtLeastOnce).await;
            let (mut bob, refused) =
                server.connect_with(as_user(version, "bob", lasting(version, "reader"))).await;
            assert_eq!((refused.reason_code, refused.session_present), (ReasonCode::NotAuthorized, false));
            assert_eq!(bob.end().await, None);
            // Who shows no credentials is yet another one.
            let (_, refused) = server.connect_with(lasting(version, "reader")).await;
            assert_eq!(refused.reason_code, ReasonCode::NotAuthorized);
            assert_eq!(server.mqtt.counters().foreign_sessions.value(), if restart { 2 } else { 3 });
            let (mut ann, connack) =
                server.connect_with(as_user(version, "ann", lasting(version, "reader"))).await;
            assert_eq!((connack.reason_code, connack.session_present), (ReasonCode::Success, true));
            let got = ann.message().await;
            assert_eq!(&got.payload[..], b"for ann");
            ann.acknowledge(&got).await;
            ann.silence().await;
            ann.disconnect().await;
            server = server.restart().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_its_user_may_not_read_any_more_delivers_nothing() {
    let read: &[Action] = &[Action::Read];
    let server = Server::start().await;
    let connect = || as_user(V5, "ann", lasting(V5, "reader"));
    add(&server, "ann", &[(read, "secret.*"), (read, "news.*")]).await;
    let mut writer = server.clean(V5, "writer").await;
    let (mut ann, _) = server.connect_with(connect()).await;
    for (filter, qos) in [("secret/#", 1), ("news/#", 1), ("secret/live/#", 0), ("$share/g/secret/#", 1)] {
        assert!(!ann.subscribe(filter, qos).await.is_error(), "{filter}");
    }
    // While connected, stored before, and live.
    add(&server, "ann", &[(read, "news.*")]).await;
    writer.publish("secret/a", "1", QoS::AtLeastOnce).await;
    writer.publish("secret/live/a", "2", QoS::AtMostOnce).await;
    writer.publish("news/a", "3", QoS::AtLeastOnce).await;
    let got = ann.message().await;
    assert_eq!(&got.payload[..], b"3");
    ann.acknowledge(&got).await;
    ann.silence().await;
    ann.disconnect().await;
    let before = server.mqtt.counters().denied.value();
    assert!(before >= 1, "what was not sent is counted");
    writer.publish("secret/a", "4", QoS::AtLeastOnce).await;
    writer.publish("news/a", "5", QoS::AtLeastOnce).await;
    let (mut ann, connack) = server.connect_with(connect()).await;
    assert!(connack.session_present);
    let got = ann.message().await;
    assert_eq!(&got.payload[..], b"5");
    ann.acknowledge(&got).await;
    ann.silence().await;
    assert!(server.mqtt.counters().denied.value() > before);
    // With the right the subscriptions are back, and what the share kept meanwhile.
    add(&server, "ann", &[(read, "secret.*"), (read, "news.*")]).await;
    writer.publish("secret/b", "6", QoS::AtLeastOnce).await;
    let mut got = Vec::new();
    while !got.ends_with(&["6".to_owned()]) {
        let message = ann.message().await;
        got.push(String::from_utf8_lossy(&message.payload).into_owned());
        ann.acknowledge(&message).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_user() {
    let server = Server::start().await;
    for version in VERSIONS {
        add(&server, "device", &[(&[Action::Read], "news")]).await;
        let (mut device, _) = server.connect_with(login(version, "device", "secret")).await;
        let known = User::clone(server.broker.catalog().user("device").unwrap());
        let changed = User { password: hash_password(b"another").unwrap(), ..known.clone() };
        server.admin.put_user(changed).await.unwrap();
        let reason = (version == V5).then_some(ReasonCode::NotAuthorized);
        assert_eq!(device.end().await, reason);
        let (mut device, _) = server.connect_with(login(version, "device", "another")).await;
        server.admin.delete_user(&Name::constant("device")).await.unwrap();
        assert_eq!(device.end().await, reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_be_shared_and_delivers_what_its_new_user_may_read() {
    for version in VERSIONS {
        let server = Server::with_shared_client_ids().await;
        add(&server, "ann", &[(&[Action::Read, Action::Write], "*")]).await;
        add(&server, "bob", &[(&[Action::Read], "news")]).await;
        let (mut ann, _) = server.connect_with(as_user(version, "ann", lasting(version, "reader"))).await;
        for filter in ["news", "secret"] {
            ann.subscribe(filter, 1).await;
        }
        ann.disconnect().await;
        let (mut writer, _) = server.connect_with(as_user(version, "ann", Connect::new(version, "w"))).await;
        for topic in ["secret", "news"] {
            writer.publish(topic, topic, QoS::AtLeastOnce).await;
        }
        let (mut bob, connack) =
            server.connect_with(as_user(version, "bob", lasting(version, "reader"))).await;
        assert_eq!((connack.reason_code, connack.session_present), (ReasonCode::Success, true));
        let got = bob.message().await;
        assert_eq!(&got.payload[..], b"news");
        bob.acknowledge(&got).await;
        bob.silence().await;
    }
}
