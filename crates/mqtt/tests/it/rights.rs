//! Who may do what: every packet of a client times every person, quality of service and version has a stated
//! answer. A packet type that nobody has thought of does not compile (`kind`), one without a row fails.

use posthaste_engine::catalog::{Action, Permission, Resource, User};
use posthaste_model::Name;
use posthaste_mqtt::wire::{Connect, Packet, PacketType, ProtocolVersion, QoS, ReasonCode, Will};

use crate::support::*;

/// In the order of a row's answers. The owner may do everything with subjects `mine*`, the reader only read,
/// the writer only write. A stranger's permissions match nothing; the revoked one was an owner until after it
/// had connected; the tenant is an owner, but of another namespace.
const PERSONS: [&str; 6] = ["owner", "reader", "writer", "stranger", "revoked", "tenant"];

/// How a client's packets are judged.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// By rights to subjects.
    Rights,
    /// By nothing but being let in: it is about what the client was given, or has.
    Own,
    /// Only servers send it.
    Server,
}

fn kind(packet: PacketType) -> Kind {
    match packet {
        // For the will; who is let in is below.
        PacketType::Connect | PacketType::Publish | PacketType::Subscribe => Kind::Rights,
        PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubrel
        | PacketType::Pubcomp
        | PacketType::Unsubscribe
        | PacketType::Pingreq
        | PacketType::Disconnect
        | PacketType::Auth => Kind::Own,
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
            Kind::Server
        }
    }
}

/// A packet, the will's topic, topic or filter, and whether each person may. Each is tried in every quality
/// of service, retained and not. What a refusal is in each version: `expected`.
const TABLE: &[(PacketType, &str, [bool; 6])] = &[
    (PacketType::Connect, "", [true; 6]),
    (PacketType::Connect, "mine/x", [true, false, true, false, false, false]),
    (PacketType::Connect, "secret", [false; 6]),
    (PacketType::Publish, "mine/x", [true, false, true, false, false, false]),
    (PacketType::Publish, "secret", [false; 6]),
    (PacketType::Subscribe, "mine/x", [true, true, false, false, false, false]),
    (PacketType::Subscribe, "mine/#", [true, true, false, false, false, false]),
    (PacketType::Subscribe, "mine/+/x", [true, true, false, false, false, false]),
    (PacketType::Subscribe, "$share/group/mine/#", [true, true, false, false, false, false]),
    (PacketType::Subscribe, "secret", [false; 6]),
    // Would have more than what is theirs.
    (PacketType::Subscribe, "#", [false; 6]),
    (PacketType::Subscribe, "+/x", [false; 6]),
    (PacketType::Subscribe, "$share/group/#", [false; 6]),
];

const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn no_packet_is_missing() {
    use PacketType as P;
    for packet in [P::Connect, P::Publish, P::Subscribe, P::Unsubscribe, P::Auth] {
        let stated = TABLE.iter().any(|(stated, ..)| *stated == packet);
        assert_eq!(stated, kind(packet) == Kind::Rights, "{packet:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_packet_by_every_person() {
    let server = world().await;
    for (packet, topic, answers) in TABLE {
        for (person, may) in PERSONS.into_iter().zip(*answers) {
            for version in VERSIONS {
                for qos in QUALITIES {
                    let told = match packet {
                        PacketType::Connect => connect(&server, version, person, topic, qos).await,
                        PacketType::Publish => publish(&server, version, person, topic, qos).await,
                        _ => subscribe(&server, version, person, topic, qos).await,
                    };
                    let what = format!("{person}: {packet:?} {topic} at {qos:?} in {version:?}");
                    assert_eq!(told, expected(*packet, version, qos, may), "{what}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_afar_nobody_is_let_in_without_a_user_of_its_own() {
    let server = world().await;
    for version in VERSIONS {
        let (_, local) = server.connect_with(as_person(version, "guest")).await;
        assert_eq!(local.reason_code, ReasonCode::Success);
        for connect in [Connect::new(version, "afar"), as_person(version, "guest")] {
            let (mut client, refused) = server.connect_from_afar(connect).await;
            assert_eq!(refused.reason_code, ReasonCode::NotAuthorized);
            assert_eq!(client.end().await, None);
        }
    }
}

/// What the client is told; none where the version has no way to say so, and the connection is closed or, at
/// QoS 0, the message is dropped.
fn expected(packet: PacketType, version: ProtocolVersion, qos: QoS, may: bool) -> Option<ReasonCode> {
    match (packet, may) {
        (PacketType::Subscribe, true) => Some(match qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        }),
        (_, true) => Some(ReasonCode::Success),
        (PacketType::Publish, false) if version == V3 || qos == QoS::AtMostOnce => None,
        // The one code that SUBACK has for it.
        (PacketType::Subscribe, false) if version == V3 => Some(ReasonCode::UnspecifiedError),
        (_, false) => Some(ReasonCode::NotAuthorized),
    }
}

async fn connect(
    server: &Server,
    version: ProtocolVersion,
    person: &str,
    topic: &'static str,
    qos: QoS,
) -> Option<ReasonCode> {
    let mut told = None;
    for retain in [false, true] {
        let mut connect = as_person(version, person);
        if !topic.is_empty() {
            connect.will = Some(Will { topic: topic.into(), qos, retain, ..Will::default() });
        }
        let (client, connack) = server.connect_with(connect).await;
        assert!(told.is_none_or(|told| told == connack.reason_code), "retained or not: {connack:?}");
        told = Some(connack.reason_code);
        if connack.reason_code == ReasonCode::Success {
            client.disconnect().await;
        }
    }
    told
}

async fn publish(
    server: &Server,
    version: ProtocolVersion,
    person: &str,
    topic: &str,
    qos: QoS,
) -> Option<ReasonCode> {
    let one = async |publish| {
        let mut client = log_in(server, version, person).await;
        let dropped = server.mqtt.counters().dropped.value();
        if qos == QoS::AtMostOnce {
            client.send(Packet::Publish(publish)).await;
            client.silence().await;
            return (server.mqtt.counters().dropped.value() == dropped).then_some(ReasonCode::Success);
        }
        let publish = posthaste_mqtt::wire::Publish { packet_identifier: Some(client.id()), ..publish };
        client.send(Packet::Publish(publish)).await;
        match client.next().await? {
            // Taken, whether or not anybody reads it.
            Packet::Puback(ack) | Packet::Pubrec(ack) if !ack.reason_code.is_error() => {
                Some(ReasonCode::Success)
            }
            Packet::Puback(ack) | Packet::Pubrec(ack) => Some(ack.reason_code),
            other => panic!("not an acknowledgement: {other:?}"),
        }
    };
    let told = one(message(topic, "x", qos)).await;
    assert_eq!(one(retained(topic, "x", qos)).await, told, "retained or not");
    told
}

async fn subscribe(
    server: &Server,
    version: ProtocolVersion,
    person: &str,
    filter: &str,
    qos: QoS,
) -> Option<ReasonCode> {
    let mut client = log_in(server, version, person).await;
    Some(client.subscribe(filter, qos as u8).await)
}

async fn world() -> Server {
    let server = Server::start().await;
    server.admin.create_namespace(&Name::constant("other")).await.unwrap();
    let all = &[Action::Configure, Action::Read, Action::Write];
    for (person, name, actions) in [
        ("owner", "mine*", &all[..]),
        ("reader", "mine*", &all[1..2]),
        ("writer", "mine*", &all[2..]),
        ("stranger", "nothing*", all),
        ("revoked", "nothing*", all),
    ] {
        set(&server, person, Permission::allow(actions, Resource::Subject, name)).await;
    }
    set(&server, "tenant", Permission::allow(all, Resource::Subject, "*").within("other")).await;
    server
}

/// A user with the first user's password and one permission, whatever kind of thing it names.
async fn set(server: &Server, person: &str, permission: Permission) {
    let guest = User::clone(server.broker.catalog().user("guest").unwrap());
    let user = User {
        name: Name::new(person).unwrap(),
        administrator: false,
        loopback_only: person == "guest",
        permissions: vec![Permission { resource: None, ..permission }],
        ..guest
    };
    server.admin.put_user(user).await.unwrap();
}

fn as_person(version: ProtocolVersion, person: &str) -> Connect {
    let mut connect = Connect::new(version, format!("client-{person}"));
    connect.user_name = Some(person.into());
    connect.password = Some("guest".into());
    connect
}

/// A connection of a person; the revoked one has lost its rights since.
async fn log_in(server: &Server, version: ProtocolVersion, person: &str) -> Client {
    let all = &[Action::Configure, Action::Read, Action::Write];
    if person == "revoked" {
        set(server, person, Permission::allow(all, Resource::Subject, "mine*")).await;
    }
    let (client, connack) = server.connect_with(as_person(version, person)).await;
    assert_eq!(connack.reason_code, ReasonCode::Success, "{person}");
    if person == "revoked" {
        set(server, person, Permission::allow(all, Resource::Subject, "nothing*")).await;
    }
    client
}
