//! One connection from its first octet to its last: handshake, open connection, closing.

use crate::{
    connection::{Connection, Fault, Flow},
    deliveries::Inbox,
    handshake::{FRAME_MAX_BEFORE_TUNE, Handshake, Opened, Step, Surroundings},
    options::Options,
    state::Heartbeat,
    wire::{
        Command, Exception, Frame, FrameMax, FrameReader, Method, PROTOCOL_HEADER, ProtocolHeader, ReplyCode,
        connection, encode_heartbeat, encode_method,
    },
};
use bytes::BytesMut;
use posthaste_broker::{Broker, Holder, Origin, Outcome};
use posthaste_engine::Delivery;
use posthaste_model::{ConnectionId, ConsumerId};
use posthaste_net::{Close, Closed, Mailbox, Output, Peer, Protocol};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long a client may take to agree to the end of the connection. RabbitMQ's `CLOSING_TIMEOUT`.
const CLOSING: Duration = Duration::from_secs(30);

/// The protocol, for a listener.
pub struct Amqp {
    broker: Broker,
    options: Arc<Options>,
}

/// AMQP 0-9-1 on a broker that has [`codec`](crate::codec) among its formats.
pub fn protocol(broker: Broker) -> Amqp {
    protocol_with(broker, Options::default())
}

/// As [`protocol`], presenting itself otherwise than by default.
pub fn protocol_with(broker: Broker, options: Options) -> Amqp {
    Amqp { broker, options: Arc::new(options) }
}

impl Protocol for Amqp {
    type Session = Session;

    const NAME: &'static str = "amqp";

    fn open(&self, peer: Peer, mailbox: Mailbox<Event>) -> Session {
        let now = Instant::now();
        Session {
            broker: self.broker.clone(),
            options: self.options.clone(),
            origin: self.broker.origin(Amqp::NAME, &peer),
            connection: peer.connection,
            mailbox,
            reader: FrameReader::default(),
            frame_max: FrameMax::new(FRAME_MAX_BEFORE_TUNE).unwrap_or(FrameMax::MIN),
            heartbeat: Heartbeat::new(0, now),
            deadline: None,
            phase: Phase::Handshake(Handshake::ProtocolHeader),
        }
    }
}

/// What the broker tells a session.
#[derive(Debug)]
pub enum Event {
    /// The queue of this consumer is gone.
    Cancelled(ConsumerId),
    Deliver(Holder, Vec<Delivery>),
    /// Nothing comes for this cancelled consumer any more.
    Drained(Holder),
    /// Publishes with this number are settled.
    Published(u64, Outcome),
    /// The client's rights have changed.
    Rights,
    /// There is room again for deliveries that waited for it.
    Room,
}

/// One connection.
pub struct Session {
    broker: Broker,
    options: Arc<Options>,
    origin: Origin,
    connection: ConnectionId,
    mailbox: Mailbox<Event>,
    reader: FrameReader,
    frame_max: FrameMax,
    heartbeat: Heartbeat,
    /// When the handshake has to be complete, or the client to have agreed to the end.
    deadline: Option<Instant>,
    phase: Phase,
}

enum Phase {
    Handshake(Handshake),
    Open(Box<Connection>),
    /// `connection.close` was sent: everything is discarded but the answer.
    Closing,
}

impl posthaste_net::Session for Session {
    type Event = Event;

    async fn input(&mut self, input: &mut BytesMut, out: &mut Output) -> Result<(), Close> {
        let written = out.len();
        self.heartbeat.received(Instant::now());
        let result = match self.frames(input, out).await {
            Ok(()) => self.settle(out).await,
            Err(end) => {
                // What came before the end still counts.
                self.settle(out).await.and(Err(end))
            }
        };
        self.note_output(written, out);
        result
    }

    async fn event(&mut self, event: Event, out: &mut Output) -> Result<(), Close> {
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        let written = out.len();
        let result = open.event(event, out).await;
        self.note_output(written, out);
        match result {
            Ok(()) => Ok(()),
            Err(fault) => Box::pin(self.fail(fault, out)).await,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let polled = match &self.phase {
            Phase::Open(open) => open.deadline(),
            Phase::Handshake(_) | Phase::Closing => None,
        };
        [self.deadline, self.heartbeat.deadline(), polled].into_iter().flatten().min()
    }

    fn is_admitted(&self) -> bool {
        !matches!(self.phase, Phase::Handshake(_))
    }

    async fn timeout(&mut self, out: &mut Output) -> Result<(), Close> {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Close::Done);
        }
        if self.heartbeat.is_missed(now) {
            // While nothing is read, the client's heartbeats are not seen either.
            if self.is_reading(out) {
                let seconds = self.heartbeat.timeout();
                return Err(Close::Error(format!("missed heartbeats from client, timeout: {seconds} s")));
            }
            self.heartbeat.received(now);
        }
        if self.heartbeat.is_due(now) {
            encode_heartbeat(out.bytes());
            self.heartbeat.sent(now);
        }
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        open.timeout(now, out);
        Ok(())
    }

    fn wants_input(&self) -> bool {
        match &self.phase {
            Phase::Open(open) => open.wants_input(),
            Phase::Handshake(_) | Phase::Closing => true,
        }
    }

    fn input_pause(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Open(open) => open.input_pause(),
            Phase::Handshake(_) | Phase::Closing => None,
        }
    }

    async fn stopping(&mut self, out: &mut Output) {
        if let Phase::Open(_) = &self.phase {
            let text = "broker forced connection closure with reason 'shutdown'";
            self.send_close(Exception::new(ReplyCode::ConnectionForced, text), out);
        }
    }

    async fn closed(mut self, why: Closed) {
        tracing::debug!(peer = %self.origin.peer, connection = %self.connection, ?why, "connection \
             closed");
        if let Phase::Open(open) = &mut self.phase {
            open.release().await;
        }
    }
}

impl Session {
    async fn frames(&mut self, input: &mut BytesMut, out: &mut Output) -> Result<(), Close> {
        if let Phase::Handshake(Handshake::ProtocolHeader) = self.phase {
            match ProtocolHeader::read(input) {
                Ok(None) => return Ok(()),
                Ok(Some(header)) if header.is_supported() => self.start(out)?,
                Ok(Some(_)) | Err(_) => {
                    // AMQP 4.2.2: say what is spoken here, and close.
                    input.clear();
                    out.bytes().extend_from_slice(&PROTOCOL_HEADER);
                    return Err(Close::Error("the client does not begin with AMQP 0-9-1".to_owned()));
                }
            }
        }
        loop {
            match self.reader.read(input, self.frame_max) {
                Ok(Some((channel, frame))) => match &mut self.phase {
                    Phase::Open(open) => match open.frame(channel, frame, out) {
                        Ok(Flow::Goes) => {}
                        // All that is rare is on the heap: its state would make this future a large one.
                        other => Box::pin(self.beyond(channel, other, out)).await?,
                    },
                    _ => Box::pin(self.frame_while_closed(channel, frame, out)).await?,
                },
                Ok(None) => return Ok(()),
                Err(error) => {
                    // Where the next frame begins is not known any more.
                    input.clear();
                    self.reader = FrameReader::default();
                    if let Phase::Closing = self.phase {
                        return Err(Close::Done);
                    }
                    let fault = Fault { channel: 0, exception: error.exception() };
                    return Box::pin(self.fail(fault, out)).await;
                }
            }
        }
    }

    /// What a frame leads to that takes more than a moment.
    async fn beyond(
        &mut self,
        channel: u16,
        flow: Result<Flow, Fault>,
        out: &mut Output,
    ) -> Result<(), Close> {
        let done = match (flow, &mut self.phase) {
            (Ok(Flow::Asks(Method::ConnectionUpdateSecret(update))), Phase::Open(open)) => {
                let updated = open.update_secret(update, &self.origin, out).await;
                updated.map_err(|exception| Fault { channel: 0, exception })
            }
            (Ok(Flow::Asks(method)), Phase::Open(open)) => open.method(channel, method, out).await,
            (Ok(Flow::Ends), _) => return self.end(out).await,
            (Ok(_), _) => Ok(()),
            (Err(fault), _) => Err(fault),
        };
        match done {
            Ok(()) => Ok(()),
            Err(fault) => self.fail(fault, out).await,
        }
    }

    /// Before the connection is open, and after.
    async fn frame_while_closed(
        &mut self,
        channel: u16,
        frame: Frame,
        out: &mut Output,
    ) -> Result<(), Close> {
        match &mut self.phase {
            Phase::Open(_) => Ok(()),
            Phase::Handshake(handshake) => {
                let (broker, options, origin) = (&self.broker, &*self.options, &self.origin);
                let around = Surroundings { broker, options, origin };
                let step = match channel {
                    0 => handshake.frame(frame, &around).await,
                    _ => Err(Exception::new(ReplyCode::ChannelError, "a channel before connection.open-ok")),
                };
                let done = match step {
                    Ok(Step::Opened(opened)) => self.open(*opened, out),
                    Ok(step) => return self.step(step, out),
                    Err(exception) => Err(exception),
                };
                match done {
                    Ok(()) => Ok(()),
                    Err(exception) => self.fail(Fault { channel: 0, exception }, out).await,
                }
            }
            Phase::Closing => match frame {
                Frame::Command(Command::Method(Method::ConnectionCloseOk(_))) => Err(Close::Done),
                // Both sides close at the same time.
                Frame::Command(Command::Method(Method::ConnectionClose(_))) => {
                    self.send(connection::CloseOk {}.into(), out);
                    Err(Close::Done)
                }
                _ => Ok(()),
            },
        }
    }

    fn start(&mut self, out: &mut Output) -> Result<(), Close> {
        let Phase::Handshake(handshake) = &mut self.phase else { return Ok(()) };
        let (broker, options, origin) = (&self.broker, &*self.options, &self.origin);
        let start = handshake.start(&Surroundings { broker, options, origin });
        self.send(start, out);
        Ok(())
    }

    fn step(&mut self, step: Step, out: &mut Output) -> Result<(), Close> {
        match step {
            Step::Wait | Step::Opened(_) => {}
            Step::Answer(method) => self.send(method, out),
            Step::Closed => {
                self.send(connection::CloseOk {}.into(), out);
                return Err(Close::Done);
            }
            Step::Dismissed => return Err(Close::Error("login refused".to_owned())),
        }
        Ok(())
    }

    fn open(&mut self, opened: Opened, out: &mut Output) -> Result<(), Exception> {
        let tuned = &opened.tuned;
        tracing::info!(
            peer = %self.origin.peer,
            connection = %self.connection,
            user = tuned.client.principal.name(),
            vhost = opened.vhost,
            client = tuned.client.client_name,
            "connection opened"
        );
        let (frame_max, heartbeat) = (tuned.frame_max, tuned.heartbeat);
        let inbox = Inbox::new(self.mailbox.clone());
        let connection = Connection::new(&self.broker, opened, self.connection, inbox);
        // As RabbitMQ refuses one connection too many of a user or a virtual host.
        let connection = connection.map_err(|error| Exception::new(ReplyCode::NotAllowed, error))?;
        self.frame_max = frame_max;
        self.heartbeat = Heartbeat::new(heartbeat, Instant::now());
        self.deadline = None;
        self.send(connection::OpenOk {}.into(), out);
        connection.client.audit_log_in(&self.origin);
        self.phase = Phase::Open(Box::new(connection));
        Ok(())
    }

    /// What one read contained is complete: it goes to the broker.
    async fn settle(&mut self, out: &mut Output) -> Result<(), Close> {
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        match open.settle(out).await {
            Ok(()) => Ok(()),
            Err(fault) => Box::pin(self.fail(fault, out)).await,
        }
    }

    /// Closes the channel or the connection that did something wrong.
    async fn fail(&mut self, fault: Fault, out: &mut Output) -> Result<(), Close> {
        let Fault { channel, exception } = fault;
        let hard = channel == 0 || exception.reply_code.is_hard_error();
        tracing::warn!(
            peer = %self.origin.peer,
            connection = %self.connection,
            channel,
            method = %exception.method,
            reason = %exception.reply_text,
            "{}", if hard { "connection error" } else { "channel error" }
        );
        if let Phase::Open(open) = &mut self.phase {
            if !hard {
                open.close_channel(channel, exception, out).await;
                return Ok(());
            }
            open.release().await;
        }
        self.phase = Phase::Closing;
        self.send_close(exception, out);
        Ok(())
    }

    /// The client closes the connection.
    async fn end(&mut self, out: &mut Output) -> Result<(), Close> {
        if let Phase::Open(open) = &mut self.phase {
            open.release().await;
        }
        self.phase = Phase::Closing;
        self.send(connection::CloseOk {}.into(), out);
        Err(Close::Done)
    }

    fn send_close(&mut self, exception: Exception, out: &mut Output) {
        let (_, close) = exception.into_close(0);
        self.send(close, out);
        self.deadline = Some(Instant::now() + CLOSING);
    }

    fn send(&self, method: Method, out: &mut Output) {
        if let Err(error) = encode_method(out.bytes(), 0, &method, self.frame_max.max(FrameMax::MIN)) {
            tracing::error!(%error, "a method of the connection was not sent");
        }
    }

    fn note_output(&mut self, before: usize, out: &Output) {
        if out.len() > before {
            self.heartbeat.sent(Instant::now());
        }
    }

    fn is_reading(&self, out: &Output) -> bool {
        posthaste_net::Session::wants_input(self)
            && out.len() < self.broker.limits().connection_output_bytes_max
    }
}
