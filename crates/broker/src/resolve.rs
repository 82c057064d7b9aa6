//! Deliveries with their messages: what the engine handed out by position is read from where it is stored.

use crate::{
    Broker,
    log::{LogEntry, ReadError},
    record::stream_of,
};
use posthaste_engine::{
    Command, Content, Delivery, Position,
    command::{Outcome, Settle},
};
use posthaste_model::{ConsumerId, Envelope, Payload, QueueId};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

/// A delivery and its message.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Without its content, which is here.
    pub delivery: Delivery,
    pub envelope: Envelope,
    pub payload: Payload,
}

/// Deliveries to be settled on their consumers' behalf.
#[derive(Default)]
struct Settled(BTreeMap<(QueueId, ConsumerId), Vec<(u8, Position)>>);

impl Settled {
    fn add(&mut self, delivery: &Delivery) {
        let deliveries = self.0.entry((delivery.queue, delivery.consumer)).or_default();
        if deliveries.last() != Some(&(delivery.lane, delivery.position)) {
            deliveries.push((delivery.lane, delivery.position));
        }
    }
}

/// Read at a time.
const READ_BYTES: usize = 1 << 20;
/// A message that the disk failed to read is delivered again after this.
const READ_AGAIN: Duration = Duration::from_millis(100);
/// Offsets that nobody asked for, read for the sake of what lies behind them.
const GAP_MAX: u64 = 8;

impl Broker {
    /// Reads the messages of deliveries, in order. A message that is damaged is reported in the log, the
    /// metrics and the status, left out, and counts as settled, so that it does not block its queue. One that
    /// the disk fails to read is left out too, and given back a moment later: it is delivered again.
    pub async fn resolve(&self, deliveries: Vec<Delivery>) -> Vec<Resolved> {
        let (resolved, unread) = self.try_resolve(deliveries).await;
        if !unread.is_empty() {
            let mut later = Settled::default();
            unread.iter().for_each(|delivery| later.add(delivery));
            self.give_back_later(later);
        }
        resolved
    }

    /// As [`Broker::resolve`], but deliveries that the disk fails to read stay the caller's: they are
    /// returned, without their content.
    pub async fn try_resolve(&self, deliveries: Vec<Delivery>) -> (Vec<Resolved>, Vec<Delivery>) {
        let mut resolved = Vec::with_capacity(deliveries.len());
        let (mut settled, mut unread) = (Settled::default(), Vec::new());
        // Deliveries mostly follow one another, so what one read brought serves the next ones too.
        let mut read: (u64, VecDeque<LogEntry>) = (0, Default::default());
        let ends = read_ends(&deliveries);
        for (mut delivery, until) in deliveries.into_iter().zip(ends) {
            let stored = Content::Stored { stream: stream_of(delivery.queue, delivery.lane), offset: 0 };
            match std::mem::replace(&mut delivery.content, stored) {
                Content::Inline(envelope, payload) => resolved.push(Resolved { delivery, envelope, payload }),
                Content::Stored { stream, offset } => {
                    match self.load(&mut read, stream, offset..until).await {
                        Ok(Some((envelope, payload))) => {
                            if delivery.settle_when_read {
                                settled.add(&delivery);
                            }
                            resolved.push(Resolved { delivery, envelope, payload });
                        }
                        Ok(None) => {
                            // Nobody can settle what nobody gets; it would come back for ever.
                            settled.add(&delivery);
                            let queue = delivery.queue.0;
                            // One that is gone, or a message that was settled meanwhile, is no loss.
                            let log = self.shared.logs.find(stream);
                            if log.is_some_and(|log| offset >= log.start()) {
                                self.metrics().unreadable.add(1);
                                tracing::error!(
                                    queue,
                                    offset,
                                    "a message that cannot be read leaves its queue"
                                );
                            }
                        }
                        Err(error) => {
                            let queue = delivery.queue.0;
                            tracing::error!(queue, offset, %error, "a message is not delivered now");
                            unread.push(delivery);
                        }
                    }
                }
            }
        }
        for ((queue, consumer), deliveries) in settled.0 {
            let settle = Settle { queue, consumer, deliveries, outcome: Outcome::Accept, lasting: false };
            self.shared.send(self.catalog().place(queue.0), Command::Settle(settle));
        }
        (resolved, unread)
    }

    /// Gives messages back that could not be read now: nobody was handed them, so nobody else does, and a
    /// consumer that stays, or was cancelled, would keep them from all others.
    fn give_back_later(&self, unread: Settled) {
        let shared = self.shared.clone();
        self.shared.runtime().spawn(async move {
            tokio::time::sleep(READ_AGAIN).await;
            for ((queue, consumer), deliveries) in unread.0 {
                let outcome = Outcome::Release { attempted: false };
                let settle = Settle { queue, consumer, deliveries, outcome, lasting: false };
                shared.send(shared.catalog().place(queue.0), Command::Settle(settle));
            }
        });
    }

    async fn load(
        &self,
        read: &mut (u64, VecDeque<LogEntry>),
        stream: u64,
        wanted: Range<u64>,
    ) -> Result<Option<(Envelope, Payload)>, ReadError> {
        let offset = wanted.start;
        let entry = match take(read, stream, offset) {
            Some(entry) => Some(entry),
            None => {
                let Some(log) = self.shared.logs.find(stream) else { return Ok(None) };
                *read = (stream, log.read_until(offset, wanted.end, READ_BYTES).await?.into());
                take(read, stream, offset)
            }
        };
        Ok(entry.and_then(|entry| self.one(entry, offset)))
    }

    /// The message at `offset`: the entry itself, or one of its batch.
    fn one(&self, entry: LogEntry, offset: u64) -> Option<(Envelope, Payload)> {
        if let Some(envelope) = entry.envelope {
            return Some((envelope, entry.payload));
        }
        let messages = self.formats().messages(entry.offset, None, &entry.payload).ok()?;
        let (_, message) = messages.into_iter().find(|(at, _)| *at == offset)?;
        let envelope = Envelope::new(message.subject.clone(), entry.timestamp);
        Some((envelope, crate::encode_message(message)))
    }
}

/// For each delivery, how far to read when it is not there yet: to the end of those that follow it in its
/// stream with few others between them.
fn read_ends(deliveries: &[Delivery]) -> Vec<u64> {
    let mut ends = vec![0; deliveries.len()];
    let mut following: Option<(u64, u64, u64)> = None;
    for (delivery, end) in deliveries.iter().zip(&mut ends).rev() {
        let Content::Stored { stream, offset } = delivery.content else { continue };
        let until = match following {
            Some((of, next, until)) if of == stream && offset <= next && next - offset <= GAP_MAX => until,
            _ => offset + 1,
        };
        following = Some((stream, offset, until));
        *end = until;
    }
    ends
}

/// The entry that contains `offset`, from what was read before; what lies before it is not needed any more.
fn take(read: &mut (u64, VecDeque<LogEntry>), stream: u64, offset: u64) -> Option<LogEntry> {
    if read.0 != stream {
        return None;
    }
    while let Some(front) = read.1.front() {
        if front.offset > offset {
            return None;
        }
        if front.offset + u64::from(front.span) > offset {
            // A batch may hold the next one too.
            return if front.span == 1 { read.1.pop_front() } else { Some(front.clone()) };
        }
        read.1.pop_front();
    }
    None
}
