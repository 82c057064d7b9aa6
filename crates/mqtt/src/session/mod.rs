//! The MQTT conversation as a state machine, without socket, broker or clock.
//!
//! A connection starts as a [`Handshake`] made from its CONNECT; accepting it gives a [`Session`]. What the
//! server must do for the client comes out of [`Session::receive`] as [`Received`]; what it has to say to the
//! client is told with [`Session::acknowledge`], [`Session::deliver`] and so on; and the packets that result
//! are taken from [`Session::poll_transmit`], in the order in which they must be sent. When the connection
//! ends, [`Session::close`] says what becomes of will and session, and gives the [`SessionState`] that a
//! later connection can resume.
//!
//! Messages to the client are known by a handle `H` of the caller's choice. The session keeps handles, never
//! messages: what has to be sent again is asked for by its handle.
//!
//! Times are milliseconds of any clock that does not go backwards.

mod fault;
mod handshake;
mod inbound;
mod options;
mod outbound;
#[cfg(test)]
mod tests;
mod topic_alias;
mod will;

use std::collections::VecDeque;

use crate::wire::{
    Ack, Auth, ByteString, Disconnect, Packet, PacketIdentifier, ProtocolVersion, Publish, QoS, ReasonCode,
    ReasonProperties, Subscribe, Unsubscribe, Will,
};

pub use fault::Fault;
pub use handshake::{Acceptance, Handshake, Refusal, malformed_connect_reply};
pub use inbound::Receipt;
pub use options::Options;
pub use outbound::{Delivery, InFlight, OutboundPhase, Resend, Settled};
pub use will::{Closed, DelayedWill, Ending};

use inbound::{Inbound, InboundPublish, InboundPubrel};
use outbound::{Outbound, PubrecOutcome};
use topic_alias::{InboundAliases, OutboundAliases};

/// What a session keeps between connections, besides its subscriptions and its queue (section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState<H> {
    /// Messages sent to the client and not yet settled, in the order in which they have to be sent again.
    pub outbound: Vec<InFlight<H>>,
    /// QoS 2 packet identifiers that were acknowledged with PUBREC and not yet released with PUBREL.
    pub inbound: Vec<PacketIdentifier>,
    /// QoS 2 packet identifiers whose message was handed out and not yet acknowledged. Whoever resumes the
    /// session must first learn what became of these messages: an accepted one belongs to `inbound`, any
    /// other must be left out. They are ignored when the session is resumed.
    pub unacknowledged: Vec<PacketIdentifier>,
}

impl<H> Default for SessionState<H> {
    fn default() -> Self {
        Self { outbound: Vec::new(), inbound: Vec::new(), unacknowledged: Vec::new() }
    }
}

/// What a packet from the client asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<H> {
    /// Nothing; the session has dealt with it.
    Nothing,
    /// Publish the message. With a receipt: tell the outcome with [`Session::acknowledge`], in any order. At
    /// QoS 2 the packet identifier must be as durable as the message before that.
    Publish { publish: Publish, receipt: Option<Receipt> },
    /// Forget this inbound QoS 2 packet identifier durably, then call [`Session::complete`].
    Pubrel(PacketIdentifier),
    /// The client has taken over a QoS 2 message. Record durably that only its PUBREL is outstanding, then
    /// call [`Session::stored`].
    Pubrec { packet_identifier: PacketIdentifier, handle: H },
    /// The client is done with a message, and there is room for another one.
    Settled(Settled<H>),
    /// Subscribe, then answer with a SUBACK through [`Session::send`].
    Subscribe(Subscribe),
    /// Unsubscribe, then answer with an UNSUBACK through [`Session::send`].
    Unsubscribe(Unsubscribe),
    /// Re-authentication goes on; answer with an AUTH through [`Session::send`].
    Auth(Auth),
    /// The client ends the connection: close it and call [`Session::close`].
    Disconnect(Disconnect),
}

/// One accepted connection, with the state of its session.
#[derive(Debug)]
pub struct Session<H> {
    version: ProtocolVersion,
    options: Options,
    /// Bytes; [`u32::MAX`] when the client set no limit.
    client_maximum_packet_size: u32,
    request_problem_information: bool,
    authentication_method: Option<ByteString>,
    /// One and a half times the keep-alive.
    keep_alive_limit_ms: Option<u64>,
    last_received_ms: u64,
    /// Seconds.
    session_expiry_interval: u32,
    will: Option<Will>,
    inbound: Inbound,
    inbound_aliases: InboundAliases,
    outbound: Outbound<H>,
    outbound_aliases: OutboundAliases,
    transmit: VecDeque<Packet>,
}

impl<H: Clone> Session<H> {
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// Handles a packet from the client. After a fault, send what [`Session::disconnect`] returns for its
    /// reason code, close the connection and call [`Session::close`].
    pub fn receive(&mut self, packet: Packet, now_ms: u64) -> Result<Received<H>, Fault> {
        self.last_received_ms = now_ms;
        match packet {
            Packet::Publish(publish) => self.receive_publish(publish),
            Packet::Puback(ack) => self.outbound.puback(&ack).map(settled),
            Packet::Pubrec(ack) => self.receive_pubrec(&ack),
            Packet::Pubrel(ack) => self.receive_pubrel(&ack),
            Packet::Pubcomp(ack) => self.outbound.pubcomp(&ack).map(settled),
            Packet::Subscribe(subscribe) => {
                self.check_subscribe(&subscribe)?;
                Ok(Received::Subscribe(subscribe))
            }
            Packet::Unsubscribe(unsubscribe) => Ok(Received::Unsubscribe(unsubscribe)),
            Packet::Pingreq => {
                self.transmit.push_back(Packet::Pingresp); // [MQTT-3.12.4-1]
                Ok(Received::Nothing)
            }
            Packet::Disconnect(disconnect) => self.receive_disconnect(*disconnect),
            Packet::Auth(auth) => self.receive_auth(*auth),
            Packet::Connect(_)
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp => Err(Fault::UnexpectedPacket(packet.packet_type())),
        }
    }

    /// The next packet to send, until there is none. Call again after every other call.
    pub fn poll_transmit(&mut self) -> Option<Packet> {
        self.transmit.pop_front()
    }

    /// Packets that wait in [`Session::poll_transmit`].
    pub fn transmit_len(&self) -> usize {
        self.transmit.len()
    }

    /// Whether more packets should be read. While as many messages as Receive Maximum allows wait for their
    /// acknowledgement, a client that speaks version 3 can only be slowed down by not reading from it.
    pub fn accepts_input(&self) -> bool {
        self.inbound.unacknowledged() < usize::from(self.options.receive_maximum.get())
    }

    /// When the client is to be given up, unless a packet arrives before: one and a half times the keep-alive
    /// after the last one [MQTT-3.1.2-22].
    pub fn deadline_ms(&self) -> Option<u64> {
        self.keep_alive_limit_ms.map(|limit| self.last_received_ms.saturating_add(limit))
    }

    /// Fails when the deadline has passed.
    pub fn check_deadline(&self, now_ms: u64) -> Result<(), Fault> {
        match self.deadline_ms() {
            Some(deadline) if now_ms >= deadline => Err(Fault::KeepAliveTimeout),
            _ => Ok(()),
        }
    }

    /// Moves the deadline because a good part of a large packet arrived.
    pub fn progress(&mut self, now_ms: u64) {
        self.last_received_ms = now_ms;
    }

    /// The message behind this receipt is published, or refused, as durably as promised. Acknowledgements
    /// leave in the order in which the messages came [MQTT-4.6.0-2, -3], whatever the order of these calls.
    ///
    /// Version 3 cannot refuse: any outcome is acknowledged. To refuse there, close the connection instead
    /// [MQTT-3.3.5-2, 3.1.1].
    pub fn acknowledge(&mut self, receipt: Receipt, reason_code: ReasonCode) {
        self.acknowledge_with(receipt, reason_code, None);
    }

    /// Like [`Session::acknowledge`], with a reason for people to read.
    pub fn acknowledge_with(&mut self, receipt: Receipt, reason_code: ReasonCode, reason: Option<&str>) {
        let reason_code = match self.version {
            ProtocolVersion::V5 => reason_code,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ReasonCode::Success,
        };
        let mut ack = Ack::new(receipt.packet_identifier(), reason_code);
        if let Some(reason) = reason {
            let reason_string = Some(ByteString::from(reason));
            ack.properties = Some(Box::new(ReasonProperties { reason_string, ..Default::default() }));
        }
        self.inbound.acknowledge(&receipt, ack);
        while let Some(packet) = self.inbound.next_reply() {
            self.transmit_fitted(packet);
        }
    }

    /// The packet identifier of [`Received::Pubrel`] is forgotten durably: sends PUBCOMP.
    pub fn complete(&mut self, packet_identifier: PacketIdentifier) {
        if self.inbound.complete(packet_identifier) {
            self.transmit.push_back(Packet::Pubcomp(Ack::new(packet_identifier, ReasonCode::Success)));
        }
    }

    /// How many messages above QoS 0 can be delivered now.
    pub fn credit(&self) -> u16 {
        self.outbound.credit()
    }

    /// Delivers a message at the QoS in `publish`, whose packet identifier and topic alias are set here. Its
    /// DUP flag says that it may have been sent over an earlier connection, under an identifier that is not
    /// known any more.
    pub fn deliver(&mut self, mut publish: Publish, handle: H) -> Delivery<H> {
        publish.dup &= publish.qos != QoS::AtMostOnce; // [MQTT-3.3.1-2]
        publish.properties.topic_alias = None;
        publish.packet_identifier = None;
        if publish.qos == QoS::AtMostOnce {
            if !self.fits(&publish) {
                return Delivery::TooLarge(handle);
            }
            self.transmit_publish(publish);
            return Delivery::Done(handle);
        }
        let Some(packet_identifier) = self.outbound.free_identifier() else {
            return Delivery::Full(Box::new(publish), handle);
        };
        publish.packet_identifier = Some(packet_identifier);
        if !self.fits(&publish) {
            return Delivery::TooLarge(handle); // [MQTT-3.1.2-25]
        }
        if publish.qos == QoS::ExactlyOnce {
            self.outbound.hold(packet_identifier, publish, handle);
            return Delivery::Store(packet_identifier);
        }
        self.outbound.sent(packet_identifier, handle);
        self.transmit_publish(publish);
        Delivery::InFlight(packet_identifier)
    }

    /// Whether PUBLISH packets at QoS 0 may be sent as they were encoded for others that speak this version,
    /// behind what [`Session::poll_transmit`] gives: the largest has so many bytes.
    pub fn takes_encoded(&self, largest_bytes: u32) -> bool {
        !self.outbound_aliases.is_enabled() && largest_bytes <= self.client_maximum_packet_size
    }

    /// What [`Delivery::Store`] or [`Received::Pubrec`] asked to store is stored: sends the PUBLISH or
    /// PUBREL, in the order in which they were asked for [MQTT-4.6.0-4].
    pub fn stored(&mut self, packet_identifier: PacketIdentifier) {
        self.outbound.stored(packet_identifier);
        while let Some(packet) = self.outbound.next_stored() {
            match packet {
                Packet::Publish(publish) => self.transmit_publish(publish),
                other => self.transmit.push_back(other),
            }
        }
    }

    /// The messages of a resumed session that [`Session::next_resend`] is going to ask for.
    pub fn unsent(&self) -> impl Iterator<Item = &H> {
        self.outbound.unsent()
    }

    /// The next message of a resumed session that must be sent again [MQTT-4.4.0-1], in the order in which
    /// they were sent first [MQTT-4.6.0-1]: load it and call [`Session::resend`], or [`Session::discard`] if
    /// it is gone. PUBRELs among them are sent by this call. `None` when there is no more, or the client's
    /// Receive Maximum is reached; call again after each [`Received::Settled`]. No new message is delivered
    /// until all are sent.
    pub fn next_resend(&mut self) -> Option<Resend<H>> {
        loop {
            match self.outbound.next_resend()? {
                outbound::NextResend::Pubrel(packet_identifier) => {
                    self.transmit.push_back(Packet::Pubrel(Ack::new(packet_identifier, ReasonCode::Success)));
                }
                outbound::NextResend::Publish(resend) => return Some(resend),
            }
        }
    }

    /// Sends a message again that [`Session::next_resend`] asked for, with the DUP flag [MQTT-3.3.1-1]. Call
    /// in the order of [`Session::next_resend`]. `Some` if the message is settled with that because it has
    /// become too large for the client.
    pub fn resend(&mut self, resend: Resend<H>, mut publish: Publish) -> Option<Settled<H>> {
        publish.dup = true;
        publish.qos = resend.qos;
        publish.properties.topic_alias = None;
        publish.packet_identifier = Some(resend.packet_identifier);
        if !self.fits(&publish) {
            return self.discard(resend);
        }
        if self.outbound.resent(resend.packet_identifier) {
            self.transmit_publish(publish);
        }
        None
    }

    /// A message that [`Session::next_resend`] asked for does not exist any more, for instance because it
    /// expired.
    ///
    /// A QoS 1 message is settled with that. Of a QoS 2 message the client may hold the packet identifier, so
    /// that its next message under it would be taken for a duplicate: the exchange is brought to its end with
    /// a PUBREL.
    pub fn discard(&mut self, resend: Resend<H>) -> Option<Settled<H>> {
        if resend.qos == QoS::ExactlyOnce {
            if self.outbound.release_unsent(resend.packet_identifier) {
                let pubrel = Ack::new(resend.packet_identifier, ReasonCode::Success);
                self.transmit.push_back(Packet::Pubrel(pubrel));
            }
            return None;
        }
        self.outbound.forget_unsent(resend.packet_identifier)
    }

    /// Sends SUBACK, UNSUBACK or AUTH. Reason strings and user properties are left out if the client does not
    /// want them [MQTT-3.1.2-29] or they make the packet too large for it [MQTT-3.9.2-1, -2].
    pub fn send(&mut self, packet: Packet) -> Result<(), Fault> {
        if self.transmit_fitted(packet) { Ok(()) } else { Err(Fault::ReplyTooLarge) }
    }

    /// The last packet to send before closing: DISCONNECT in version 5, none before.
    pub fn disconnect(&self, reason_code: ReasonCode, reason: Option<&str>) -> Option<Packet> {
        if self.version != ProtocolVersion::V5 {
            return None;
        }
        let mut disconnect = Disconnect::new(reason_code);
        disconnect.properties.reason_string = reason.map(ByteString::from);
        let packet = Packet::Disconnect(Box::new(disconnect));
        match packet.encoded_len(self.version) {
            Ok(length) if length <= self.client_maximum_packet_size => Some(packet),
            _ => Some(Packet::Disconnect(Box::new(Disconnect::new(reason_code)))), // [MQTT-3.14.2-3]
        }
    }

    /// Ends the connection: says what becomes of will and session.
    pub fn close(self, ending: Ending) -> Closed<H> {
        let mut state = SessionState { outbound: self.outbound.into_in_flight(), ..SessionState::default() };
        self.inbound.export(&mut state);
        will::closed(self.will, self.session_expiry_interval, ending, state)
    }

    fn receive_publish(&mut self, mut publish: Publish) -> Result<Received<H>, Fault> {
        if publish.qos > self.options.maximum_qos {
            return Err(Fault::QoSNotSupported); // [MQTT-3.2.2-11]
        }
        if publish.retain && !self.options.retain_available {
            return Err(Fault::RetainNotSupported); // [MQTT-3.2.2-14]
        }
        self.inbound_aliases.resolve(&mut publish)?;
        let Some(packet_identifier) = publish.packet_identifier else {
            return Ok(Received::Publish { publish, receipt: None });
        };
        match self.inbound.publish(packet_identifier, publish.qos)? {
            InboundPublish::New(receipt) => Ok(Received::Publish { publish, receipt: Some(receipt) }),
            InboundPublish::Duplicate => {
                while let Some(packet) = self.inbound.next_reply() {
                    self.transmit_fitted(packet);
                }
                Ok(Received::Nothing)
            }
        }
    }

    fn receive_pubrec(&mut self, ack: &Ack) -> Result<Received<H>, Fault> {
        let id = ack.packet_identifier;
        match self.outbound.pubrec(ack)? {
            PubrecOutcome::Store(handle) => Ok(Received::Pubrec { packet_identifier: id, handle }),
            PubrecOutcome::Refused(settled) => Ok(Received::Settled(settled)),
            PubrecOutcome::Ignore => Ok(Received::Nothing),
            PubrecOutcome::Repeat(reason_code) => {
                self.transmit.push_back(Packet::Pubrel(Ack::new(id, reason_code)));
                Ok(Received::Nothing)
            }
        }
    }

    fn receive_pubrel(&mut self, ack: &Ack) -> Result<Received<H>, Fault> {
        let id = ack.packet_identifier;
        match self.inbound.pubrel(id)? {
            InboundPubrel::Release => Ok(Received::Pubrel(id)),
            InboundPubrel::Releasing => Ok(Received::Nothing),
            InboundPubrel::Unknown => {
                self.transmit.push_back(Packet::Pubcomp(Ack::new(id, ReasonCode::PacketIdentifierNotFound)));
                Ok(Received::Nothing)
            }
        }
    }

    fn receive_disconnect(&mut self, disconnect: Disconnect) -> Result<Received<H>, Fault> {
        if let Some(seconds) = disconnect.properties.session_expiry_interval {
            if self.session_expiry_interval == 0 && seconds != 0 {
                return Err(Fault::SessionExpiryRaised); // section 3.14.2.2.2
            }
            self.session_expiry_interval = seconds.min(self.options.session_expiry_interval_max);
        }
        if disconnect.reason_code == ReasonCode::Success {
            self.will = None; // [MQTT-3.14.4-3]
        }
        Ok(Received::Disconnect(disconnect))
    }

    fn receive_auth(&mut self, auth: Auth) -> Result<Received<H>, Fault> {
        if self.authentication_method.is_none() {
            return Err(Fault::AuthenticationNotStarted); // [MQTT-4.12.0-7]
        }
        if auth.properties.authentication_method != self.authentication_method {
            return Err(Fault::AuthenticationMethodChanged); // [MQTT-4.12.0-5], [MQTT-4.12.1-1]
        }
        if auth.reason_code == ReasonCode::Success {
            return Err(Fault::AuthenticationNotStarted); // Only the server declares success (table 3-14).
        }
        Ok(Received::Auth(auth))
    }

    /// Section 3.2.2.3: what the server declared unavailable must not be used. Version 3 has no such
    /// declarations; there the SUBACK refuses.
    fn check_subscribe(&self, subscribe: &Subscribe) -> Result<(), Fault> {
        if self.version != ProtocolVersion::V5 {
            return Ok(());
        }
        let options = &self.options;
        if subscribe.subscription_identifier.is_some() && !options.subscription_identifiers_available {
            return Err(Fault::SubscriptionIdentifiersNotSupported);
        }
        for (filter, _) in &subscribe.topic_filters {
            if filter.is_shared() && !options.shared_subscription_available {
                return Err(Fault::SharedSubscriptionsNotSupported);
            }
            if filter.has_wildcard() && !options.wildcard_subscription_available {
                return Err(Fault::WildcardSubscriptionsNotSupported);
            }
        }
        Ok(())
    }

    fn fits(&self, publish: &Publish) -> bool {
        matches!(publish.encoded_len(self.version), Ok(length) if length <= self.client_maximum_packet_size)
    }

    fn transmit_publish(&mut self, mut publish: Publish) {
        if self.outbound_aliases.is_enabled() {
            let topic_name = publish.topic_name.clone();
            self.outbound_aliases.apply(&mut publish);
            if !self.fits(&publish) {
                // Introducing an alias takes three bytes more.
                self.outbound_aliases.withdraw(&publish);
                publish.topic_name = topic_name;
                publish.properties.topic_alias = None;
            }
        }
        self.transmit.push_back(Packet::Publish(publish));
    }

    /// Queues a packet, without its explanations if the client does not want them or they are too much for
    /// it. False if even that is too large.
    fn transmit_fitted(&mut self, mut packet: Packet) -> bool {
        if self.version == ProtocolVersion::V5 {
            let maximum = self.client_maximum_packet_size;
            let too_large = |packet: &Packet| {
                packet.encoded_len(ProtocolVersion::V5).map_or(true, |length| length > maximum)
            };
            let limited = maximum != u32::MAX;
            if !self.request_problem_information || limited && too_large(&packet) {
                strip_explanation(&mut packet);
            }
            if limited && too_large(&packet) {
                return false; // [MQTT-3.1.2-24]
            }
        }
        self.transmit.push_back(packet);
        true
    }
}

fn settled<H>(settled: Option<Settled<H>>) -> Received<H> {
    settled.map_or(Received::Nothing, Received::Settled)
}

/// Removes reason string and user properties.
fn strip_explanation(packet: &mut Packet) {
    match packet {
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            ack.properties = None;
        }
        Packet::Suback(suback) => suback.properties = ReasonProperties::default(),
        Packet::Unsuback(unsuback) => unsuback.properties = ReasonProperties::default(),
        Packet::Auth(auth) => {
            auth.properties.reason_string = None;
            auth.properties.user_properties = Default::default();
        }
        _ => {}
    }
}
