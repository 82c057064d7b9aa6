//! Messages to the client: packet identifiers, the window, the phases of QoS 1 and 2, and what is sent again.

use std::collections::{HashMap, VecDeque};

use crate::wire::{Ack, Packet, PacketIdentifier, Publish, QoS, ReasonCode};

use super::fault::Fault;

/// What became of a message given to [`Session::deliver`](super::Session::deliver).
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery<H> {
    /// QoS 0: on its way, and settled with that.
    Done(H),
    /// QoS 1: on its way; settled when [`Received::Settled`](super::Received::Settled) says so.
    InFlight(PacketIdentifier),
    /// QoS 2: store the packet identifier with the handle, then call
    /// [`Session::stored`](super::Session::stored); only then it is sent.
    Store(PacketIdentifier),
    /// No room: comes back, to be delivered after the next [`Received::Settled`](super::Received::Settled).
    Full(Box<Publish>, H),
    /// Larger than the client accepts: to be treated as if it had been delivered [MQTT-3.1.2-25].
    TooLarge(H),
}

/// A message above QoS 0 that is on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight<H> {
    pub packet_identifier: PacketIdentifier,
    pub phase: OutboundPhase,
    pub handle: H,
}

/// How far the delivery of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundPhase {
    /// QoS 1: PUBLISH sent.
    AtLeastOnce,
    /// QoS 2: PUBLISH sent.
    ExactlyOnce,
    /// QoS 2: PUBREC received, the client has the message.
    Pubrel,
}

/// A message that must be sent again, or discarded; until then no new message is delivered.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "give it to Session::resend or Session::discard"]
pub struct Resend<H> {
    pub packet_identifier: PacketIdentifier,
    pub qos: QoS,
    pub handle: H,
}

/// A message that the client is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled<H> {
    pub packet_identifier: PacketIdentifier,
    pub handle: H,
    pub qos: QoS,
    /// From PUBACK, PUBREC or PUBCOMP. An error is the client's refusal, and settles the message too: it must
    /// not be sent again [MQTT-4.4.0-2].
    pub reason_code: ReasonCode,
}

pub(super) enum PubrecOutcome<H> {
    Store(H),
    Refused(Settled<H>),
    Ignore,
    /// Send PUBREL (again) with this reason code.
    Repeat(ReasonCode),
}

pub(super) enum NextResend<H> {
    Publish(Resend<H>),
    Pubrel(PacketIdentifier),
}

#[derive(Debug)]
pub(super) struct Outbound<H> {
    /// How many PUBLISH packets may be in flight: the client's Receive Maximum, or the server's own limit.
    window: u16,
    /// How many of them are.
    counted: u16,
    in_flight: HashMap<PacketIdentifier, Entry<H>>,
    /// PUBLISH and PUBREL packets that wait to be stored, in the order in which they must leave.
    storing: VecDeque<Storing>,
    /// What a resumed session has to send again.
    resend: VecDeque<PacketIdentifier>,
    /// Messages that were asked for and have not come.
    loading: usize,
    last_identifier: u16,
    next_sequence: u64,
}

#[derive(Debug)]
struct Entry<H> {
    /// Position in the order in which PUBLISH, or PUBREL, was sent.
    sequence: u64,
    handle: H,
    state: State,
    /// Whether it takes room in the window of this connection.
    counted: bool,
}

#[derive(Debug)]
enum State {
    /// QoS 1, PUBLISH sent.
    AtLeastOnce,
    /// QoS 2, identifier not yet stored, nothing sent.
    Holding(Box<Publish>),
    /// QoS 2, PUBLISH sent.
    ExactlyOnce,
    /// QoS 2, PUBREC received, not yet stored.
    Received,
    /// QoS 2, PUBREL sent, or waiting in `resend`.
    Pubrel,
    /// Sent over an earlier connection.
    Unsent(QoS),
}

#[derive(Debug)]
struct Storing {
    packet_identifier: PacketIdentifier,
    stored: bool,
}

impl<H: Clone> Outbound<H> {
    /// `resumed` is in the order in which it has to be sent again.
    pub(super) fn new(window: u16, resumed: Vec<InFlight<H>>) -> Self {
        let mut outbound = Self {
            window,
            counted: 0,
            in_flight: HashMap::new(),
            storing: VecDeque::new(),
            resend: VecDeque::new(),
            loading: 0,
            last_identifier: 0,
            next_sequence: 0,
        };
        for message in resumed {
            let state = match message.phase {
                OutboundPhase::AtLeastOnce => State::Unsent(QoS::AtLeastOnce),
                OutboundPhase::ExactlyOnce => State::Unsent(QoS::ExactlyOnce),
                OutboundPhase::Pubrel => State::Pubrel,
            };
            // New identifiers start behind the old ones, so that they are not confused in traces.
            outbound.last_identifier = message.packet_identifier.get();
            outbound.resend.push_back(message.packet_identifier);
            outbound.insert(message.packet_identifier, message.handle, state, false);
        }
        outbound
    }

    pub(super) fn credit(&self) -> u16 {
        if !self.resend.is_empty() || self.loading > 0 || self.in_flight.len() >= usize::from(u16::MAX) {
            return 0;
        }
        self.window.saturating_sub(self.counted)
    }

    /// A packet identifier that is not in use [MQTT-2.2.1-3], if there is credit.
    pub(super) fn free_identifier(&mut self) -> Option<PacketIdentifier> {
        if self.credit() == 0 {
            return None;
        }
        // Ends: fewer than 65,535 are in use.
        loop {
            self.last_identifier = self.last_identifier.checked_add(1).unwrap_or(1);
            let id = PacketIdentifier::new(self.last_identifier)?;
            if !self.in_flight.contains_key(&id) {
                return Some(id);
            }
        }
    }

    pub(super) fn sent(&mut self, id: PacketIdentifier, handle: H) {
        self.insert(id, handle, State::AtLeastOnce, true);
    }

    pub(super) fn hold(&mut self, id: PacketIdentifier, publish: Publish, handle: H) {
        self.insert(id, handle, State::Holding(Box::new(publish)), true);
        self.storing.push_back(Storing { packet_identifier: id, stored: false });
    }

    pub(super) fn stored(&mut self, id: PacketIdentifier) {
        let waiting = self.storing.iter_mut().find(|entry| entry.packet_identifier == id && !entry.stored);
        if let Some(entry) = waiting {
            entry.stored = true;
        }
    }

    /// The next PUBLISH or PUBREL whose turn has come.
    pub(super) fn next_stored(&mut self) -> Option<Packet> {
        while self.storing.front()?.stored {
            let id = self.storing.pop_front()?.packet_identifier;
            let Some(entry) = self.in_flight.get_mut(&id) else { continue };
            match std::mem::replace(&mut entry.state, State::Pubrel) {
                State::Holding(publish) => {
                    entry.state = State::ExactlyOnce;
                    return Some(Packet::Publish(*publish));
                }
                State::Received => return Some(Packet::Pubrel(Ack::new(id, ReasonCode::Success))),
                other => entry.state = other,
            }
        }
        None
    }

    pub(super) fn puback(&mut self, ack: &Ack) -> Result<Option<Settled<H>>, Fault> {
        let id = ack.packet_identifier;
        match self.in_flight.get(&id).map(|entry| &entry.state) {
            None => Ok(None),
            Some(State::AtLeastOnce | State::Unsent(QoS::AtLeastOnce)) => {
                Ok(self.settle(id, QoS::AtLeastOnce, ack.reason_code))
            }
            Some(_) => Err(Fault::UnexpectedAcknowledgement(id)),
        }
    }

    pub(super) fn pubrec(&mut self, ack: &Ack) -> Result<PubrecOutcome<H>, Fault> {
        let id = ack.packet_identifier;
        let refused = ack.reason_code.is_error();
        let Some(entry) = self.in_flight.get_mut(&id) else {
            // Section 4.3.3: an unknown identifier is answered, so that the client can forget it.
            let answer = PubrecOutcome::Repeat(ReasonCode::PacketIdentifierNotFound);
            return Ok(if refused { PubrecOutcome::Ignore } else { answer });
        };
        match entry.state {
            State::ExactlyOnce | State::Unsent(QoS::ExactlyOnce) if refused => {
                let settled = self.settle(id, QoS::ExactlyOnce, ack.reason_code);
                Ok(settled.map_or(PubrecOutcome::Ignore, PubrecOutcome::Refused))
            }
            State::ExactlyOnce | State::Unsent(QoS::ExactlyOnce) => {
                entry.state = State::Received;
                entry.sequence = self.next_sequence;
                self.next_sequence += 1;
                self.storing.push_back(Storing { packet_identifier: id, stored: false });
                Ok(PubrecOutcome::Store(entry.handle.clone()))
            }
            State::Received => Ok(PubrecOutcome::Ignore),
            State::Pubrel if refused => Ok(PubrecOutcome::Ignore),
            State::Pubrel => Ok(PubrecOutcome::Repeat(ReasonCode::Success)),
            State::AtLeastOnce | State::Holding(_) | State::Unsent(_) => {
                Err(Fault::UnexpectedAcknowledgement(id))
            }
        }
    }

    pub(super) fn pubcomp(&mut self, ack: &Ack) -> Result<Option<Settled<H>>, Fault> {
        let id = ack.packet_identifier;
        match self.in_flight.get(&id).map(|entry| &entry.state) {
            None => Ok(None),
            Some(State::Pubrel) => Ok(self.settle(id, QoS::ExactlyOnce, ack.reason_code)),
            Some(_) => Err(Fault::UnexpectedAcknowledgement(id)),
        }
    }

    pub(super) fn unsent(&self) -> impl Iterator<Item = &H> {
        let unsent = self.in_flight.values().filter(|entry| matches!(entry.state, State::Unsent(_)));
        unsent.map(|entry| &entry.handle)
    }

    pub(super) fn next_resend(&mut self) -> Option<NextResend<H>> {
        loop {
            let id = *self.resend.front()?;
            let room = self.counted < self.window;
            let next = match self.in_flight.get_mut(&id) {
                Some(entry) => match entry.state {
                    State::Pubrel => Some(NextResend::Pubrel(id)),
                    State::Unsent(_) if !room => return None,
                    State::Unsent(qos) => {
                        entry.counted = true;
                        self.counted += 1;
                        self.loading += 1;
                        let handle = entry.handle.clone();
                        Some(NextResend::Publish(Resend { packet_identifier: id, qos, handle }))
                    }
                    // The client acknowledged it before it was sent again.
                    _ => None,
                },
                None => None,
            };
            self.resend.pop_front();
            if next.is_some() {
                return next;
            }
        }
    }

    /// A message that was asked for is sent again. False if the client acknowledged it in the meantime.
    pub(super) fn resent(&mut self, id: PacketIdentifier) -> bool {
        self.loading = self.loading.saturating_sub(1);
        match self.in_flight.get_mut(&id) {
            Some(entry) => match entry.state {
                State::Unsent(QoS::ExactlyOnce) => {
                    entry.state = State::ExactlyOnce;
                    true
                }
                State::Unsent(_) => {
                    entry.state = State::AtLeastOnce;
                    true
                }
                _ => false,
            },
            None => false,
        }
    }

    /// A QoS 2 message that was asked for is gone: its exchange goes on as if the client had it.
    pub(super) fn release_unsent(&mut self, id: PacketIdentifier) -> bool {
        self.loading = self.loading.saturating_sub(1);
        match self.in_flight.get_mut(&id) {
            Some(entry) if matches!(entry.state, State::Unsent(QoS::ExactlyOnce)) => {
                entry.state = State::Pubrel;
                true
            }
            _ => false,
        }
    }

    /// A QoS 1 message that was asked for is gone.
    pub(super) fn forget_unsent(&mut self, id: PacketIdentifier) -> Option<Settled<H>> {
        self.loading = self.loading.saturating_sub(1);
        match self.in_flight.get(&id).map(|entry| &entry.state) {
            Some(State::Unsent(qos)) => {
                let qos = *qos;
                self.settle(id, qos, ReasonCode::Success)
            }
            _ => None,
        }
    }

    /// What has to be sent again over the next connection, in that order.
    pub(super) fn into_in_flight(self) -> Vec<InFlight<H>> {
        let mut entries: Vec<_> = self.in_flight.into_iter().collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.sequence);
        let in_flight = entries.into_iter().map(|(packet_identifier, entry)| {
            let phase = match entry.state {
                State::AtLeastOnce | State::Unsent(QoS::AtMostOnce | QoS::AtLeastOnce) => {
                    OutboundPhase::AtLeastOnce
                }
                State::Holding(_) | State::ExactlyOnce | State::Unsent(QoS::ExactlyOnce) => {
                    OutboundPhase::ExactlyOnce
                }
                State::Received | State::Pubrel => OutboundPhase::Pubrel,
            };
            InFlight { packet_identifier, phase, handle: entry.handle }
        });
        in_flight.collect()
    }

    fn insert(&mut self, id: PacketIdentifier, handle: H, state: State, counted: bool) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.counted += u16::from(counted);
        self.in_flight.insert(id, Entry { sequence, handle, state, counted });
    }

    fn settle(&mut self, id: PacketIdentifier, qos: QoS, reason_code: ReasonCode) -> Option<Settled<H>> {
        let entry = self.in_flight.remove(&id)?;
        self.counted = self.counted.saturating_sub(u16::from(entry.counted));
        Some(Settled { packet_identifier: id, handle: entry.handle, qos, reason_code })
    }
}
