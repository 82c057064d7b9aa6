//! One connection: bytes to packets, packets and events to the conversation, and its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use posthaste_broker::{Error, Holder, Origin, Outcome};
use posthaste_engine::{Delivery, Position};
use posthaste_model::{ConnectionId, ConsumerId};
use posthaste_net::{Close, Closed, Mailbox, Output, Peer, Session};
use tokio::time::Instant;

use super::conversation::Conversation;
use super::namespaces::Namespaces;
use super::publish::Answer;
use crate::session::{Ending, Fault, Receipt, malformed_connect_reply};
use crate::wire::{Decoder, Packet, PacketIdentifier, ProtocolVersion, ReasonCode};

/// Something that happened to a conversation outside of it.
#[derive(Debug)]
pub struct Event(pub(crate) EventKind);

/// What can happen.
#[derive(Debug)]
pub(crate) enum EventKind {
    /// A message of a share was put into the session's own queue, or not.
    Adopted {
        share: ShareDelivery,
        safe: bool,
    },
    /// A queue is gone, and the consumer with it.
    Cancelled(ConsumerId),
    Deliveries(Vec<Delivery>),
    /// An inbound packet identifier is forgotten.
    Forgotten(PacketIdentifier, Result<(), Error>),
    /// Messages without a queue wait.
    Live,
    /// A batch of publishes is safe, or refused.
    Published {
        answers: Vec<Answer>,
        bytes: usize,
        outcome: Outcome,
    },
    /// A message at QoS 2 is safe (true if it was new), or refused.
    Received {
        receipt: Receipt,
        bytes: usize,
        result: Result<bool, Error>,
    },
    /// There is room for more output.
    Resume,
    /// The client's rights have changed.
    Rights,
    /// What had to be stored before these packet identifiers' PUBLISH or PUBREL may leave is stored.
    Stored(Vec<PacketIdentifier>, Result<(), Error>),
    /// The client has connected anew.
    TakenOver {
        clean_start: bool,
    },
}

/// A delivery from the queue of a shared subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShareDelivery {
    pub holder: Holder,
    pub lane: u8,
    pub position: Position,
}

/// Where a client comes from.
pub(crate) struct From {
    pub origin: Origin,
    pub connection: ConnectionId,
}

/// A connection of an MQTT client.
pub struct Connection {
    namespaces: Arc<Namespaces>,
    from: From,
    mailbox: Mailbox<Event>,
    decoder: Decoder,
    started: Instant,
    state: State,
    /// Bytes of an incomplete packet that have been seen.
    partial: usize,
}

enum State {
    /// CONNECT has not come.
    Opening,
    Open(Box<Conversation>),
    Ended,
}

/// An incomplete packet that has grown by this many bytes shows that its client is alive.
const PROGRESS_BYTES: usize = 16 << 10;

impl Connection {
    pub(crate) fn new(namespaces: Arc<Namespaces>, peer: &Peer, mailbox: Mailbox<Event>) -> Connection {
        let from = From { origin: namespaces.broker.origin("mqtt", peer), connection: peer.connection };
        let decoder = Decoder::for_server(namespaces.settings.options.maximum_packet_size);
        let started = Instant::now();
        Connection { namespaces, from, mailbox, decoder, started, state: State::Opening, partial: 0 }
    }

    /// Handles all packets that have arrived completely, as far as there is room for their consequences.
    async fn packets(&mut self, input: &mut BytesMut, out: &mut Output) -> Result<(), Ended> {
        loop {
            let now_ms = self.now_ms();
            match &mut self.state {
                State::Opening => match self.decoder.decode(input) {
                    Ok(Some(Packet::Connect(connect))) => {
                        let (namespaces, mailbox) = (&self.namespaces, self.mailbox.clone());
                        let conversation =
                            super::connect::connect(namespaces, &self.from, mailbox, *connect, now_ms, out)
                                .await;
                        self.state = State::Open(Box::new(conversation.map_err(Ended::Refused)?));
                    }
                    Ok(Some(_)) | Ok(None) => return Ok(()),
                    Err(error) => {
                        if let Some(refusal) = malformed_connect_reply(&error, self.decoder.version())
                            && let Some(connack) = refusal.connack
                        {
                            // What cannot be encoded is not sent.
                            let _ = Packet::Connack(connack).encode(refusal.version, out.bytes());
                        }
                        return Err(Ended::Refused(Close::Error(error.to_string())));
                    }
                },
                State::Open(conversation) => {
                    if !conversation.wants_input() {
                        return Ok(());
                    }
                    match self.decoder.decode(input).map_err(Fault::from)? {
                        Some(packet) => {
                            self.partial = 0;
                            conversation.receive(packet, now_ms).await?;
                        }
                        None => {
                            if input.len() >= self.partial + PROGRESS_BYTES {
                                self.partial = input.len();
                                conversation.session.progress(now_ms);
                            }
                            return Ok(());
                        }
                    }
                }
                State::Ended => return Err(Ended::Refused(Close::Done)),
            }
        }
    }

    /// What the end means to the conversation: everything that is owed is sent, then the reason.
    async fn conclude(&mut self, result: Result<(), Ended>, out: &mut Output) -> Result<(), Close> {
        let State::Open(conversation) = &mut self.state else {
            return match result {
                Ok(()) => Ok(()),
                Err(Ended::Refused(close)) => Err(close),
                Err(other) => Err(Close::Error(other.to_string())),
            };
        };
        let result = match conversation.finish(out).await {
            Ok(()) => result,
            // The first cause is the one to tell.
            Err(fault) => result.and(Err(fault)),
        };
        let Err(ended) = result else { return Ok(()) };
        let (reason, close) = match &ended {
            Ended::ByClient => return Err(Close::Done),
            Ended::Refused(close) => return Err(close.clone()),
            Ended::TakenOver { .. } => (ReasonCode::SessionTakenOver, Close::Done),
            Ended::Fault(fault) => (fault.reason_code(), Close::Error(fault.to_string())),
            Ended::Broker(reason, text) => (*reason, Close::Error(text.clone())),
        };
        let text = ended.to_string();
        if let Some(packet) = conversation.session.disconnect(reason, Some(&text)) {
            // What cannot be encoded is not sent.
            let _ = packet.encode(ProtocolVersion::V5, out.bytes());
        }
        if let Ended::TakenOver { clean_start } = ended {
            let State::Open(conversation) = std::mem::replace(&mut self.state, State::Ended) else {
                return Err(close);
            };
            conversation.leave(super::sessions::taken_over(clean_start)).await;
        }
        Err(close)
    }

    /// Milliseconds since the connection began.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Session for Connection {
    type Event = Event;

    async fn input(&mut self, input: &mut BytesMut, out: &mut Output) -> Result<(), Close> {
        let result = self.packets(input, out).await;
        self.conclude(result, out).await
    }

    async fn event(&mut self, event: Event, out: &mut Output) -> Result<(), Close> {
        let State::Open(conversation) = &mut self.state else { return Ok(()) };
        let result = conversation.event(event.0).await;
        self.conclude(result, out).await
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Opening => None,
            State::Open(conversation) => {
                let at = conversation.session.deadline_ms();
                let at = at.map(|at| self.started + Duration::from_millis(at));
                at.into_iter().chain(conversation.delivering.paced_until).min()
            }
            State::Ended => None,
        }
    }

    fn is_admitted(&self) -> bool {
        !matches!(self.state, State::Opening)
    }

    async fn timeout(&mut self, out: &mut Output) -> Result<(), Close> {
        let now_ms = self.now_ms();
        let result = match &mut self.state {
            State::Opening => Ok(()),
            State::Open(conversation) => {
                // Who is not read from cannot show that it is alive.
                let full = out.len() >= self.namespaces.broker.limits().connection_output_bytes_max;
                if full || !conversation.wants_input() || conversation.input_pause().is_some() {
                    conversation.session.progress(now_ms);
                }
                conversation.session.check_deadline(now_ms).map_err(Ended::Fault)
            }
            State::Ended => Ok(()),
        };
        self.conclude(result, out).await
    }

    fn wants_input(&self) -> bool {
        match &self.state {
            State::Opening => true,
            State::Open(conversation) => conversation.wants_input(),
            State::Ended => false,
        }
    }

    fn input_pause(&self) -> Option<Duration> {
        match &self.state {
            State::Open(conversation) => conversation.input_pause(),
            State::Opening | State::Ended => None,
        }
    }

    async fn stopping(&mut self, out: &mut Output) {
        if let State::Open(conversation) = &self.state
            && let Some(packet) = conversation.session.disconnect(ReasonCode::ServerShuttingDown, None)
        {
            // What cannot be encoded is not sent.
            let _ = packet.encode(ProtocolVersion::V5, out.bytes());
        }
    }

    async fn closed(self, _why: Closed) {
        if let State::Open(conversation) = self.state {
            conversation.leave(Ending::NetworkClosed).await;
        }
    }
}

/// Why a conversation ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The broker cannot go on with it.
    #[error("{1}")]
    Broker(ReasonCode, String),
    /// DISCONNECT came.
    #[error("the client has said goodbye")]
    ByClient,
    #[error(transparent)]
    Fault(#[from] Fault),
    /// There never was one.
    #[error("refused")]
    Refused(Close),
    #[error("the client has connected anew")]
    TakenOver { clean_start: bool },
}
