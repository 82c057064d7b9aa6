//! Messages from the client: Receive Maximum, the order of acknowledgements, QoS 2 packet identifiers.

use std::collections::{HashMap, VecDeque};

use crate::wire::{Ack, Packet, PacketIdentifier, QoS, ReasonCode};

use super::SessionState;
use super::fault::Fault;

/// Proof that a message above QoS 0 was received and is to be acknowledged, once. A receipt that is dropped
/// blocks all later acknowledgements of its connection.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a message above QoS 0 must be acknowledged"]
pub struct Receipt {
    sequence: u64,
    packet_identifier: PacketIdentifier,
    qos: QoS,
}

impl Receipt {
    pub fn packet_identifier(&self) -> PacketIdentifier {
        self.packet_identifier
    }

    pub fn qos(&self) -> QoS {
        self.qos
    }
}

pub(super) enum InboundPublish {
    New(Receipt),
    /// A QoS 2 message that was received before.
    Duplicate,
}

pub(super) enum InboundPubrel {
    Release,
    /// It is being released already.
    Releasing,
    Unknown,
}

#[derive(Debug)]
pub(super) struct Inbound {
    /// How many messages may be unacknowledged: what was announced, or all packet identifiers in version 3.
    receive_maximum: u16,
    /// Messages of this connection that count against the client's send quota (section 4.9).
    in_flight: u32,
    exactly_once: HashMap<PacketIdentifier, ExactlyOnce>,
    /// Acknowledgements in the order of their messages.
    replies: VecDeque<Reply>,
    /// The sequence number of the first of them.
    first_sequence: u64,
}

/// An inbound QoS 2 packet identifier.
#[derive(Debug)]
struct ExactlyOnce {
    phase: Phase,
    /// Whether its PUBLISH came over this connection and counts against Receive Maximum.
    counted: bool,
    /// Whether a PUBREC for it waits in `replies`.
    reply_waits: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The message is handed out and not acknowledged.
    Publishing,
    /// PUBREC is sent, or may be.
    Received,
    /// PUBREL came.
    Releasing,
}

#[derive(Debug)]
struct Reply {
    packet_identifier: PacketIdentifier,
    qos: QoS,
    ack: Option<Ack>,
}

impl Inbound {
    pub(super) fn new(receive_maximum: u16, received: &[PacketIdentifier]) -> Self {
        let received = received
            .iter()
            .map(|id| (*id, ExactlyOnce { phase: Phase::Received, counted: false, reply_waits: false }));
        Self {
            receive_maximum,
            in_flight: 0,
            exactly_once: received.collect(),
            replies: VecDeque::new(),
            first_sequence: 0,
        }
    }

    /// Acknowledgements that wait for their message or for an earlier one.
    pub(super) fn unacknowledged(&self) -> usize {
        self.replies.len()
    }

    pub(super) fn publish(&mut self, id: PacketIdentifier, qos: QoS) -> Result<InboundPublish, Fault> {
        if qos == QoS::ExactlyOnce && self.exactly_once.contains_key(&id) {
            self.repeat(id)?;
            return Ok(InboundPublish::Duplicate);
        }
        self.count()?;
        if qos == QoS::ExactlyOnce {
            let state = ExactlyOnce { phase: Phase::Publishing, counted: true, reply_waits: true };
            self.exactly_once.insert(id, state);
        }
        let sequence = self.first_sequence + self.replies.len() as u64;
        self.replies.push_back(Reply { packet_identifier: id, qos, ack: None });
        Ok(InboundPublish::New(Receipt { sequence, packet_identifier: id, qos }))
    }

    /// A message with a known QoS 2 packet identifier is not published again, only acknowledged again
    /// [MQTT-4.3.3-10].
    fn repeat(&mut self, id: PacketIdentifier) -> Result<(), Fault> {
        let uncounted = self.exactly_once.get(&id).is_some_and(|state| !state.counted);
        if uncounted {
            self.count()?;
        }
        let Some(state) = self.exactly_once.get_mut(&id) else { return Ok(()) };
        state.counted = true;
        match state.phase {
            // Its PUBREC is yet to come.
            Phase::Publishing => Ok(()),
            Phase::Received if state.reply_waits => Ok(()),
            Phase::Received => {
                state.reply_waits = true;
                let ack = Some(Ack::new(id, ReasonCode::Success));
                self.replies.push_back(Reply { packet_identifier: id, qos: QoS::ExactlyOnce, ack });
                Ok(())
            }
            // The client may use the identifier for a new message only after PUBCOMP.
            Phase::Releasing => Err(Fault::UnexpectedAcknowledgement(id)),
        }
    }

    fn count(&mut self) -> Result<(), Fault> {
        if self.in_flight >= u32::from(self.receive_maximum) {
            return Err(Fault::ReceiveMaximumExceeded); // [MQTT-3.3.4-7]
        }
        self.in_flight += 1;
        Ok(())
    }

    pub(super) fn acknowledge(&mut self, receipt: &Receipt, ack: Ack) {
        let index = receipt.sequence.checked_sub(self.first_sequence);
        let reply = index.and_then(|index| self.replies.get_mut(usize::try_from(index).ok()?));
        if let Some(reply) = reply.filter(|reply| reply.packet_identifier == receipt.packet_identifier) {
            reply.ack = Some(ack);
        }
        // An identifier in this phase is received from now on, even if its PUBREC waits for an earlier one.
        if let Some(state) = self.exactly_once.get_mut(&receipt.packet_identifier)
            && receipt.qos == QoS::ExactlyOnce
            && state.phase == Phase::Publishing
        {
            state.phase = Phase::Received;
        }
    }

    /// The next PUBACK or PUBREC whose turn has come.
    pub(super) fn next_reply(&mut self) -> Option<Packet> {
        let ack = self.replies.front_mut()?.ack.take()?;
        let reply = self.replies.pop_front()?;
        self.first_sequence += 1;
        if reply.qos == QoS::AtLeastOnce {
            self.in_flight = self.in_flight.saturating_sub(1);
            return Some(Packet::Puback(ack));
        }
        if ack.reason_code.is_error() {
            // The exchange ends here: the identifier is free [MQTT-4.3.3-9].
            self.remove(reply.packet_identifier);
        } else if let Some(state) = self.exactly_once.get_mut(&reply.packet_identifier) {
            state.reply_waits = false;
        }
        Some(Packet::Pubrec(ack))
    }

    pub(super) fn pubrel(&mut self, id: PacketIdentifier) -> Result<InboundPubrel, Fault> {
        let Some(state) = self.exactly_once.get_mut(&id) else { return Ok(InboundPubrel::Unknown) };
        match state.phase {
            Phase::Received if !state.reply_waits => {
                state.phase = Phase::Releasing;
                Ok(InboundPubrel::Release)
            }
            Phase::Releasing => Ok(InboundPubrel::Releasing),
            // PUBREL answers a PUBREC, and none was sent over this connection.
            Phase::Publishing | Phase::Received => Err(Fault::UnexpectedAcknowledgement(id)),
        }
    }

    /// False if the identifier was not being released.
    pub(super) fn complete(&mut self, id: PacketIdentifier) -> bool {
        let releasing = self.exactly_once.get(&id).is_some_and(|state| state.phase == Phase::Releasing);
        if releasing {
            self.remove(id);
        }
        releasing
    }

    /// Writes the packet identifiers to what outlives the connection, in ascending order.
    pub(super) fn export<H>(self, state: &mut SessionState<H>) {
        for (id, exactly_once) in self.exactly_once {
            match exactly_once.phase {
                Phase::Publishing => state.unacknowledged.push(id),
                // One that is being released was not completed, so the client will send its PUBREL again.
                Phase::Received | Phase::Releasing => state.inbound.push(id),
            }
        }
        state.inbound.sort_unstable();
        state.unacknowledged.sort_unstable();
    }

    fn remove(&mut self, id: PacketIdentifier) {
        if self.exactly_once.remove(&id).is_some_and(|state| state.counted) {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }
}
