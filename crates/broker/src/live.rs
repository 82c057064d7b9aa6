//! Live readers: messages without durability go to them straight from routing, on the publisher's task.
//!
//! Messages that are published together and go to the same readers stay together, in a [`LiveBatch`] that all
//! of these readers share: what a reader costs depends on the number of batches, and what the readers make of
//! the messages they can make once for all.

use crate::{Broker, client::Client};
use posthaste_engine::catalog::Routes;
use posthaste_model::{Envelope, Payload, QueueId};
use smallvec::SmallVec;
use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

/// A live reader of messages without durability.
pub trait LiveSink: Send + Sync {
    /// Never blocks. How many messages were taken, from the first on; the others are dropped, because the
    /// reader is too slow.
    fn offer(&self, batch: &Arc<LiveBatch>) -> usize;
}

/// A message on its way to live readers.
#[derive(Debug)]
pub struct LiveMessage {
    pub envelope: Envelope,
    pub payload: Payload,
}

impl LiveMessage {
    /// Bytes of subject, head and body.
    pub fn bytes(&self) -> usize {
        self.envelope.subject.parts().0.len() + self.payload.head.len() + self.payload.body.len()
    }
}

/// Messages in the order in which they were published, at least one, for the same readers.
pub struct LiveBatch {
    messages: Vec<LiveMessage>,
    bytes: usize,
    rendering: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl LiveBatch {
    pub fn new(messages: Vec<LiveMessage>) -> LiveBatch {
        let bytes = messages.iter().map(LiveMessage::bytes).sum();
        LiveBatch { messages, bytes, rendering: OnceLock::new() }
    }

    pub fn messages(&self) -> &[LiveMessage] {
        &self.messages
    }

    /// Bytes of all messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What readers of one kind share: made for the first that asks. `None` if readers of another kind have
    /// asked before.
    pub fn rendering<T: Any + Send + Sync + Default>(&self) -> Option<&T> {
        self.rendering.get_or_init(|| Box::new(T::default())).downcast_ref()
    }
}

impl std::fmt::Debug for LiveBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveBatch").field("messages", &self.messages).finish_non_exhaustive()
    }
}

/// A batch is handed over at this many messages or bytes: the first readers begin while more is routed.
const MESSAGES: usize = 256;
const BYTES: usize = 64 << 10;

/// What a publisher's batch has for live readers and has not been handed over.
#[derive(Default)]
pub(crate) struct Gathering {
    queues: SmallVec<[QueueId; 1]>,
    sinks: SmallVec<[Arc<dyn LiveSink>; 1]>,
    messages: Vec<LiveMessage>,
    bytes: usize,
}

impl Gathering {
    /// Further messages go to the live readers among `routes`; returns their number.
    pub fn address(&mut self, client: &Client, routes: &Routes) -> usize {
        let queues = || routes.queues.iter().filter(|route| route.transient).map(|route| route.queue.id);
        if queues().eq(self.queues.iter().copied()) {
            return self.sinks.len();
        }
        self.hand_over(client);
        self.queues = queues().collect();
        let live = client.broker().shared.live.load();
        self.sinks = self.queues.iter().filter_map(|queue| live.get(queue).cloned()).collect();
        self.sinks.len()
    }

    /// A message for those that were addressed last.
    pub fn add(&mut self, client: &Client, message: LiveMessage) {
        self.bytes += message.bytes();
        self.messages.push(message);
        if self.messages.len() >= MESSAGES || self.bytes >= BYTES {
            self.hand_over(client);
        }
    }

    /// Gives the readers what is theirs.
    pub fn hand_over(&mut self, client: &Client) {
        if self.messages.is_empty() {
            return;
        }
        let batch = Arc::new(LiveBatch {
            messages: std::mem::take(&mut self.messages),
            bytes: std::mem::take(&mut self.bytes),
            rendering: OnceLock::new(),
        });
        let taken: usize = self.sinks.iter().map(|sink| sink.offer(&batch)).sum();
        let metrics = client.broker().metrics();
        metrics.live.add(taken as u64);
        metrics.live_dropped.add((self.sinks.len() * batch.messages.len() - taken) as u64);
    }
}

/// Hands a message to the live readers of `queues`.
pub(crate) fn offer_to(broker: &Broker, queues: &[QueueId], envelope: &Envelope, payload: &Payload) {
    let live = broker.shared.live.load();
    let sinks: SmallVec<[_; 4]> = queues.iter().filter_map(|queue| live.get(queue)).collect();
    if sinks.is_empty() {
        return;
    }
    let message = LiveMessage { envelope: envelope.clone(), payload: payload.clone() };
    let batch = Arc::new(LiveBatch::new(vec![message]));
    let taken: usize = sinks.iter().map(|sink| sink.offer(&batch)).sum();
    broker.metrics().live.add(taken as u64);
    broker.metrics().live_dropped.add((sinks.len() - taken) as u64);
}
