//! Who gets in, and what they may.

use posthaste_broker::{QueueDeclaration, hash_password};
use posthaste_engine::catalog::{
    Action, Binding, Overflow, Permission, QueueConfig, Resource, Rule, Target, User,
};
use posthaste_model::{Name, Pattern, Syntax};
use posthaste_mqtt::wire::{Connect, QoS, ReasonCode, Will};

use crate::support::*;

async fn add_user(server: &Server) {
    let permission = |actions: &[Action], name: &str| Permission {
        namespace: "default".into(),
        resource: Some(Resource::Subject),
        name: name.into(),
        actions: actions.to_vec(),
    };
    let user = User {
        name: Name::constant("device"),
        password_hash: hash_password(b"secret").unwrap(),
        loopback_only: false,
        administrator: false,
        permissions: vec![
            permission(&[Action::Write, Action::Read], "sensors.*"),
            permission(&[Action::Read], "news"),
        ],
        options: Default::default(),
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
    assert!(server.admin.retained(&all, None, 1).is_empty());
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
