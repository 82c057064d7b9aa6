//! What a protocol has to be.

use crate::{loops, output::Output};
use bytes::BytesMut;
use posthaste_model::{Peer, bell::Bell};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// One conversation. Its methods are called one at a time; while one of them waits, nothing more is read.
pub trait Session: Send + 'static {
    /// What others put into the session's mailbox.
    type Event: Send + 'static;

    /// Consumes whole frames; a partial one is left in `input` and comes back with more. What is left although
    /// [`Session::wants_input`] has turned false comes back when that turns true.
    fn input(
        &mut self,
        input: &mut BytesMut,
        out: &mut Output,
    ) -> impl Future<Output = Result<(), Close>> + Send;

    fn event(
        &mut self,
        event: Self::Event,
        out: &mut Output,
    ) -> impl Future<Output = Result<(), Close>> + Send;

    /// When [`Session::timeout`] is to be called.
    fn deadline(&self) -> Option<Instant>;

    fn timeout(&mut self, out: &mut Output) -> impl Future<Output = Result<(), Close>> + Send;

    /// Whether it knows who the peer is. A connection on which that takes longer than the limit
    /// `handshake_ms_max`, from its beginning, is closed, whatever was said meanwhile.
    fn is_admitted(&self) -> bool;

    /// False while it wants nothing more from the peer, such as with too much in flight.
    fn wants_input(&self) -> bool {
        true
    }

    /// How long nothing more is read from the peer, whose rate is limited.
    fn input_pause(&self) -> Option<Duration> {
        None
    }

    /// The broker is stopping: the last chance to say so to the peer.
    fn stopping(&mut self, _out: &mut Output) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The connection is over: lets go of what it holds.
    fn closed(self, why: Closed) -> impl Future<Output = ()> + Send;
}

/// Opens sessions.
pub trait Protocol: Send + Sync + 'static {
    type Session: Session;

    /// As in the configuration and in logs.
    const NAME: &'static str;

    fn open(&self, peer: Peer, mailbox: Mailbox<<Self::Session as Session>::Event>) -> Self::Session;
}

/// Why a session ends its connection. What it has written is sent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// All is said.
    Done,
    /// The peer did something wrong; the text goes to the log.
    Error(String),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer closed it.
    ByPeer,
    /// The session did, with [`Close::Done`].
    BySession,
    /// The session did, with [`Close::Error`], the network failed, or the peer took nothing for too long.
    Error,
    /// The broker is stopping.
    Stopping,
}

/// Puts events into a session's mailbox, from anywhere. What goes in is bounded by what the session has asked for:
/// credit, and requests in flight.
#[derive(Debug)]
pub struct Mailbox<E> {
    sender: mpsc::UnboundedSender<E>,
    /// Of the loop that serves the session.
    bell: Option<Arc<Bell>>,
}

impl<E> Clone for Mailbox<E> {
    fn clone(&self) -> Mailbox<E> {
        Mailbox { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<E> Mailbox<E> {
    /// A mailbox and where its events come out: on this thread, if it serves connections.
    pub fn new() -> (Mailbox<E>, mpsc::UnboundedReceiver<E>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Mailbox { sender, bell: loops::bell() }, receiver)
    }

    /// Never waits. Without effect once the session is over.
    pub fn send(&self, event: E) {
        let _ = self.sender.send(event);
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    /// True once the session is over.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}
