mod connect;
mod ending;
mod exactly_once;
mod inbound;
mod outbound;

use bytes::Bytes;

use super::{Acceptance, Delivery, Handshake, Options, Received, Session, SessionState};
use crate::wire::{
    Ack, Connack, Connect, Packet, PacketIdentifier, ProtocolVersion, Publish, QoS, ReasonCode,
};

fn id(value: u16) -> PacketIdentifier {
    PacketIdentifier::new(value).expect("not 0")
}

fn connect(version: ProtocolVersion) -> Connect {
    Connect::new(version, "client")
}

fn accept(connect: Connect, options: Options) -> (Session<u32>, Connack) {
    accept_with(connect, options, Acceptance::default())
}

fn accept_with(connect: Connect, options: Options, acceptance: Acceptance<u32>) -> (Session<u32>, Connack) {
    let handshake = Handshake::new(connect, options).expect("a good CONNECT");
    let (session, packet) = handshake.accept(acceptance, 0).expect("accepted");
    let Packet::Connack(connack) = packet else { panic!("CONNACK first") };
    (session, *connack)
}

/// A session of version 5 with the default options.
fn session() -> Session<u32> {
    accept(connect(ProtocolVersion::V5), Options::default()).0
}

/// A session of version 5 that resumes this state.
fn resumed(state: SessionState<u32>, receive_maximum: u16) -> Session<u32> {
    let mut connect = connect(ProtocolVersion::V5);
    connect.clean_start = false;
    connect.properties.receive_maximum = id(receive_maximum);
    accept_with(connect, Options::default(), Acceptance { session: Some(state), ..Acceptance::default() }).0
}

fn message(qos: QoS) -> Publish {
    Publish { qos, topic_name: "topic".into(), payload: Bytes::from_static(b"payload"), ..Publish::default() }
}

/// A PUBLISH as a client sends it.
fn publish(qos: QoS, packet_identifier: u16) -> Packet {
    let packet_identifier = (qos != QoS::AtMostOnce).then(|| id(packet_identifier));
    Packet::Publish(Publish { packet_identifier, ..message(qos) })
}

fn ack(packet_identifier: u16) -> Ack {
    Ack::new(id(packet_identifier), ReasonCode::Success)
}

/// Everything there is to send.
fn transmitted(session: &mut Session<u32>) -> Vec<Packet> {
    std::iter::from_fn(|| session.poll_transmit()).collect()
}

/// The packets there are to send, as "PUBLISH 1 dup" or "PUBACK 7 0x87".
fn sent(session: &mut Session<u32>) -> Vec<String> {
    transmitted(session).iter().map(describe).collect()
}

fn describe(packet: &Packet) -> String {
    let name = format!("{:?}", packet.packet_type()).to_uppercase();
    match packet {
        Packet::Publish(publish) => {
            let id = publish.packet_identifier.map_or(0, PacketIdentifier::get);
            format!("{name} {id}{}", if publish.dup { " dup" } else { "" })
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            let code = match ack.reason_code {
                ReasonCode::Success => String::new(),
                code => format!(" {:#04x}", code.value()),
            };
            format!("{name} {}{code}", ack.packet_identifier)
        }
        _ => name,
    }
}

/// The receipt of a message that must be new.
fn receipt(received: Result<Received<u32>, super::Fault>) -> super::Receipt {
    match received {
        Ok(Received::Publish { receipt: Some(receipt), .. }) => receipt,
        other => panic!("expected a message with a receipt, got {other:?}"),
    }
}

/// Delivers at QoS 2 and confirms that the packet identifier is stored.
fn deliver_exactly_once(session: &mut Session<u32>, handle: u32) -> PacketIdentifier {
    match session.deliver(message(QoS::ExactlyOnce), handle) {
        Delivery::Store(id) => {
            session.stored(id);
            id
        }
        other => panic!("expected Store, got {other:?}"),
    }
}
