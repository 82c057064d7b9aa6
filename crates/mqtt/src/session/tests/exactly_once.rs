//! Client and server exchange messages while the connection breaks, and packets in flight are lost, again and
//! again: at QoS 2 every message arrives once, at QoS 1 at least once, both in order of their first arrival.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::session::{Ending, InFlight, OutboundPhase};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// What the server keeps on disk.
#[derive(Default)]
struct Store {
    inbound: BTreeSet<PacketIdentifier>,
    outbound: BTreeMap<PacketIdentifier, (OutboundPhase, u32, u64)>,
    steps: u64,
    published: Vec<u32>,
    queue: VecDeque<u32>,
}

impl Store {
    fn record(&mut self, id: PacketIdentifier, phase: OutboundPhase, handle: u32) {
        self.steps += 1;
        self.outbound.insert(id, (phase, handle, self.steps));
    }

    fn state(&self) -> SessionState<u32> {
        let mut outbound: Vec<_> = self.outbound.iter().collect();
        outbound.sort_by_key(|(_, (_, _, step))| *step);
        let outbound = outbound.into_iter().map(|(id, (phase, handle, _))| InFlight {
            packet_identifier: *id,
            phase: *phase,
            handle: *handle,
        });
        let inbound = self.inbound.iter().copied().collect();
        SessionState { outbound: outbound.collect(), inbound, unacknowledged: Vec::new() }
    }
}

fn numbered(number: u32, qos: QoS) -> Publish {
    Publish { payload: number.to_be_bytes().to_vec().into(), ..message(qos) }
}

fn number(publish: &Publish) -> u32 {
    u32::from_be_bytes(publish.payload[..].try_into().expect("four bytes"))
}

/// A client that keeps its state over connections, as the specification demands of it.
#[derive(Default)]
struct Client {
    /// What it publishes: number to phase; the packet identifier is the number plus one.
    sending: BTreeMap<u32, ClientPhase>,
    next: u32,
    /// QoS 2 identifiers of the server that it has not released.
    received: BTreeSet<PacketIdentifier>,
    arrived: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq)]
enum ClientPhase {
    Publish,
    Pubrel,
}

impl Client {
    fn qos(number: u32) -> QoS {
        if number.is_multiple_of(2) { QoS::ExactlyOnce } else { QoS::AtLeastOnce }
    }

    fn id(number: u32) -> PacketIdentifier {
        id(u16::try_from(number).expect("few messages") + 1)
    }

    fn packet(number: u32, phase: ClientPhase, dup: bool) -> Packet {
        match phase {
            ClientPhase::Publish => {
                let packet_identifier = Some(Self::id(number));
                Packet::Publish(Publish { packet_identifier, dup, ..numbered(number, Self::qos(number)) })
            }
            ClientPhase::Pubrel => Packet::Pubrel(Ack::new(Self::id(number), ReasonCode::Success)),
        }
    }

    fn resend(&self) -> Vec<Packet> {
        self.sending.iter().map(|(number, phase)| Self::packet(*number, *phase, true)).collect()
    }

    fn publish_next(&mut self) -> Packet {
        let number = self.next;
        self.next += 1;
        self.sending.insert(number, ClientPhase::Publish);
        Self::packet(number, ClientPhase::Publish, false)
    }

    fn receive(&mut self, packet: Packet) -> Option<Packet> {
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_identifier.expect("above QoS 0");
                let reply = Ack::new(id, ReasonCode::Success);
                if publish.qos == QoS::AtLeastOnce {
                    self.arrived.push(number(&publish));
                    return Some(Packet::Puback(reply));
                }
                if self.received.insert(id) {
                    self.arrived.push(number(&publish));
                }
                Some(Packet::Pubrec(reply))
            }
            Packet::Pubrel(ack) => {
                self.received.remove(&ack.packet_identifier);
                Some(Packet::Pubcomp(ack))
            }
            Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                self.sending.remove(&(u32::from(ack.packet_identifier.get()) - 1));
                None
            }
            Packet::Pubrec(ack) => {
                let number = u32::from(ack.packet_identifier.get()) - 1;
                self.sending.insert(number, ClientPhase::Pubrel);
                Some(Self::packet(number, ClientPhase::Pubrel, false))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The part of an adapter that a test needs: stores at once what the session asks it to store.
fn serve(session: &mut Session<u32>, store: &mut Store, packet: Packet) {
    match session.receive(packet, 0).expect("the client keeps the rules") {
        Received::Publish { publish, receipt } => {
            store.published.push(number(&publish));
            let receipt = receipt.expect("above QoS 0");
            if receipt.qos() == QoS::ExactlyOnce {
                store.inbound.insert(receipt.packet_identifier());
            }
            session.acknowledge(receipt, ReasonCode::Success);
        }
        Received::Pubrel(id) => {
            store.inbound.remove(&id);
            session.complete(id);
        }
        Received::Pubrec { packet_identifier, handle } => {
            store.record(packet_identifier, OutboundPhase::Pubrel, handle);
            session.stored(packet_identifier);
        }
        Received::Settled(settled) => {
            store.outbound.remove(&settled.packet_identifier);
        }
        Received::Nothing => {}
        other => panic!("{other:?}"),
    }
}

fn feed(session: &mut Session<u32>, store: &mut Store) {
    while let Some(resend) = session.next_resend() {
        let publish = numbered(resend.handle, resend.qos);
        session.resend(resend, publish);
    }
    while session.credit() > 0 {
        let Some(handle) = store.queue.pop_front() else { return };
        match session.deliver(numbered(handle, Client::qos(handle)), handle) {
            Delivery::Store(id) => {
                store.record(id, OutboundPhase::ExactlyOnce, handle);
                session.stored(id);
            }
            Delivery::InFlight(id) => store.record(id, OutboundPhase::AtLeastOnce, handle),
            other => panic!("{other:?}"),
        }
    }
}

/// Runs until every message of both sides is settled.
fn run(seed: u64) {
    const MESSAGES: u32 = 60;
    let mut random = Random(seed);
    let mut store = Store { queue: (0..MESSAGES).collect(), ..Store::default() };
    let mut client = Client::default();
    for connection in 0.. {
        assert!(connection < 10_000, "seed {seed}: no progress");
        let mut session = resumed(store.state(), 1 + random.below(5) as u16);
        let mut to_server: VecDeque<Packet> = client.resend().into();
        let mut to_client = VecDeque::new();
        // Later connections live longer, so that the run ends.
        let steps = random.below(30 + connection);
        for _ in 0..steps {
            feed(&mut session, &mut store);
            to_client.extend(transmitted(&mut session));
            match random.below(3) {
                0 if client.next < MESSAGES && client.sending.len() < 8 => {
                    to_server.push_back(client.publish_next());
                }
                1 => to_client.pop_front().and_then(|p| client.receive(p)).into_iter().for_each(|p| {
                    to_server.push_back(p);
                }),
                _ => to_server.pop_front().into_iter().for_each(|p| serve(&mut session, &mut store, p)),
            }
        }
        // Everything on the wire is lost, and so is what the server kept in memory only.
        session.close(Ending::NetworkClosed);
        let all_sent = client.next == MESSAGES && client.sending.is_empty();
        if all_sent && store.queue.is_empty() && store.outbound.is_empty() {
            break;
        }
    }
    for (side, arrived) in [("server", &store.published), ("client", &client.arrived)] {
        let mut first_seen = Vec::new();
        for number in arrived {
            let repeated = first_seen.contains(number);
            let at_least_once = Client::qos(*number) == QoS::AtLeastOnce;
            assert!(!repeated || at_least_once, "seed {seed}: {number} reached the {side} twice");
            if !repeated {
                first_seen.push(*number);
            }
        }
        let expect: Vec<_> = (0..MESSAGES).collect();
        assert_eq!(first_seen, expect, "seed {seed}: the {side} missed something or got it out of order");
    }
    assert!(store.inbound.is_empty() && client.received.is_empty(), "seed {seed}: identifiers leak");
}

#[test]
fn nothing_is_lost_or_doubled_over_broken_connections() {
    for seed in 0..200 {
        run(seed);
    }
}
