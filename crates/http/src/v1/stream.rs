//! The common part of the live streams: lines of JSON to a client that may hang up, or lose the right to
//! them, at any time.

use crate::{call::Call, failure::Failure, server::stopped};
use bytes::Bytes;
use posthaste_broker::{Client, DeliverySink, Error, RightsWatch};
use posthaste_engine::Delivery;
use posthaste_model::ConsumerId;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// A client that reads lines.
pub struct Lines {
    sender: mpsc::Sender<Bytes>,
    stopping: watch::Receiver<bool>,
    client: Client,
    /// Whether the client may have what the stream shows.
    judge: Judge,
    /// The client's rights have changed.
    changed: watch::Receiver<()>,
    _rights: RightsWatch,
}

type Judge = Box<dyn Fn(&Client) -> Result<(), Error> + Send + Sync>;

/// The client has hung up or lost its right, or everything ends.
#[derive(Debug)]
pub struct Ended;

/// Bytes of lines that are sent together.
const CHUNK_BYTES: usize = 64 << 10;

impl Lines {
    /// Both ends of a stream. `judge` says whether the client may have what the stream shows: it is asked
    /// again after each change of the client's rights.
    ///
    /// # Errors
    /// The user or the namespace has as many connections as it may: a stream counts as one.
    pub fn new(
        call: &Call,
        judge: impl Fn(&Client) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Result<(Lines, mpsc::Receiver<Bytes>), Error> {
        // One at a time, so that room for the next says that this one was taken.
        let (sender, receiver) = mpsc::channel(1);
        let (tell, changed) = watch::channel(());
        let rights = call.client.watch_rights(move || tell.send_replace(()))?;
        let (client, judge) = (call.client.clone(), Box::new(judge));
        let stopping = call.stopping();
        Ok((Lines { sender, stopping, client, judge, changed, _rights: rights }, receiver))
    }

    /// Sends items, each a line. Returns when the connection has taken them.
    pub async fn send(&mut self, items: impl IntoIterator<Item = impl Serialize>) -> Result<(), Ended> {
        let (mut chunk, mut count) = (Vec::new(), 0);
        for item in items {
            // Only maps with keys that are no text cannot be JSON, and there are none.
            if serde_json::to_writer(&mut chunk, &item).is_err() {
                continue;
            }
            chunk.push(b'\n');
            count += 1;
            if chunk.len() >= CHUNK_BYTES {
                self.send_paced(std::mem::take(&mut chunk), std::mem::take(&mut count)).await?;
            }
        }
        if !chunk.is_empty() {
            self.send_paced(chunk, count).await?;
        }
        Ok(())
    }

    /// Sends `count` lines as soon as the client's rate allows.
    async fn send_paced(&mut self, chunk: Vec<u8>, count: u64) -> Result<(), Ended> {
        while let Some(pause) = self.client.read_pause() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                ended = self.ended() => return Err(ended),
            }
        }
        self.client.charge_read(count, chunk.len() as u64);
        self.send_chunk(chunk).await
    }

    /// The last line of a stream that cannot go on.
    pub async fn fail(mut self, failure: &Failure) {
        // There is nobody else to tell.
        let _ = self.send_chunk(failure.to_json()).await;
    }

    async fn send_chunk(&mut self, chunk: Vec<u8>) -> Result<(), Ended> {
        if self.changed.has_changed().unwrap_or(false) {
            self.judge_again().await?;
        }
        self.send_unjudged(chunk).await
    }

    /// Ends the stream with a line that says why, if the client may not have it any more.
    async fn judge_again(&mut self) -> Result<(), Ended> {
        self.changed.mark_unchanged();
        let failure = match self.client.standing() {
            Err(revoked) => Failure::from(revoked),
            Ok(()) => match (self.judge)(&self.client) {
                Err(error) => Failure::from(error),
                Ok(()) => return Ok(()),
            },
        };
        // Either way it is over.
        let _ = self.send_unjudged(failure.to_json()).await;
        Err(Ended)
    }

    async fn send_unjudged(&mut self, chunk: Vec<u8>) -> Result<(), Ended> {
        let sender = &self.sender;
        let sending = async {
            sender.send(chunk.into()).await.map_err(|_| Ended)?;
            sender.reserve().await.map(drop).map_err(|_| Ended)
        };
        tokio::select! {
            sent = sending => sent,
            () = stopped(&mut self.stopping) => Err(Ended),
        }
    }

    /// Returns when there is no use in going on.
    pub async fn ended(&mut self) -> Ended {
        loop {
            tokio::select! {
                () = self.sender.closed() => return Ended,
                () = stopped(&mut self.stopping) => return Ended,
                _ = self.changed.changed() => {}
            }
            if let Err(ended) = self.judge_again().await {
                return ended;
            }
        }
    }
}

/// Deliveries as they come; `None` when the queue is gone.
pub type Mailbox = mpsc::UnboundedReceiver<Option<Vec<Delivery>>>;

/// Where the engine puts deliveries. What waits is bounded by the consumer's credit.
struct Sink(mpsc::UnboundedSender<Option<Vec<Delivery>>>);

pub fn mailbox() -> (Arc<dyn DeliverySink>, Mailbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Arc::new(Sink(sender)), receiver)
}

impl DeliverySink for Sink {
    fn deliver(&self, _: ConsumerId, deliveries: Vec<Delivery>) {
        let _ = self.0.send(Some(deliveries));
    }

    fn cancelled(&self, _: ConsumerId) {
        let _ = self.0.send(None);
    }
}
