//! What reaches a session through its QoS 0 subscriptions: handed over by the publisher's task, no queue of
//! the broker between.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use posthaste_broker::{Formats, LiveBatch, LiveMessage, LiveSink};
use posthaste_net::Mailbox;

use super::connection::{Event, EventKind};
use super::encoded::{Encoded, Encodings};
use crate::wire::ProtocolVersion;

/// Messages and bytes that wait for one slow reader. What comes on top is dropped, as QoS 0 allows.
const MESSAGES_MAX: usize = 8_192;
const BYTES_MAX: usize = 4 << 20;

/// The waiting messages of one connection.
pub(crate) struct LiveReader {
    waiting: Mutex<Waiting>,
    mailbox: Mailbox<Event>,
}

#[derive(Default)]
struct Waiting {
    parts: VecDeque<LivePart>,
    messages: usize,
    bytes: usize,
    /// The connection knows that there is something.
    told: bool,
}

/// Messages of one batch for one reader: all, or as many of the first as it had room for.
#[derive(Debug)]
pub(crate) struct LivePart {
    batch: Arc<LiveBatch>,
    count: usize,
    bytes: usize,
}

impl LivePart {
    pub fn messages(&self) -> &[LiveMessage] {
        self.batch.messages().get(..self.count).unwrap_or_default()
    }

    /// As the broker stores them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The messages encoded for any client that speaks `version`, if they can be.
    pub fn encoded(&self, version: ProtocolVersion, formats: &Formats) -> Option<&Encoded> {
        if self.count < self.batch.messages().len() {
            return None;
        }
        self.batch.rendering::<Encodings>()?.encoded(version, formats, &self.batch)
    }
}

impl LiveReader {
    pub fn new(mailbox: Mailbox<Event>) -> LiveReader {
        LiveReader { waiting: Mutex::default(), mailbox }
    }

    /// What has waited longest.
    pub fn next(&self) -> Option<LivePart> {
        let mut waiting = self.waiting.lock();
        let Some(part) = waiting.parts.pop_front() else {
            waiting.told = false;
            return None;
        };
        waiting.messages -= part.count;
        waiting.bytes -= part.bytes;
        Some(part)
    }
}

impl Waiting {
    /// How many messages there is room for, and their bytes.
    fn room(&self, batch: &LiveBatch) -> (usize, usize) {
        let messages = batch.messages();
        let room = MESSAGES_MAX.saturating_sub(self.messages);
        if messages.len() <= room && self.bytes + batch.bytes() <= BYTES_MAX {
            return (messages.len(), batch.bytes());
        }
        let (mut count, mut bytes) = (0, 0);
        for message in messages.iter().take(room) {
            let with = bytes + message.bytes();
            // One message always fits, however big.
            if self.bytes + with > BYTES_MAX && self.messages + count > 0 {
                break;
            }
            (count, bytes) = (count + 1, with);
        }
        (count, bytes)
    }
}

impl LiveSink for LiveReader {
    fn offer(&self, batch: &Arc<LiveBatch>) -> usize {
        let mut waiting = self.waiting.lock();
        let (count, bytes) = waiting.room(batch);
        if count == 0 {
            return 0;
        }
        waiting.messages += count;
        waiting.bytes += bytes;
        waiting.parts.push_back(LivePart { batch: batch.clone(), count, bytes });
        let told = std::mem::replace(&mut waiting.told, true);
        drop(waiting);
        if !told {
            self.mailbox.send(Event(EventKind::Live));
        }
        count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use posthaste_model::{Envelope, Payload, Subject, Timestamp};

    fn batch(messages: usize, bytes: usize) -> Arc<LiveBatch> {
        let body = Bytes::from(vec![0; bytes]);
        let message = || LiveMessage {
            envelope: Envelope::new(Subject::slashed("a").unwrap(), Timestamp(0)),
            payload: Payload { format: crate::convert::FORMAT, head: Bytes::new(), body: body.clone() },
        };
        Arc::new(LiveBatch::new((0..messages).map(|_| message()).collect()))
    }

    #[test]
    fn a_slow_reader_loses_what_is_too_much_and_is_told_once() {
        let (mailbox, mut events) = Mailbox::new();
        let reader = LiveReader::new(mailbox);
        for (messages, bytes, taken) in [(2, 5 << 20, 1), (1, 1, 0), (1, 0, 0)] {
            assert_eq!(reader.offer(&batch(messages, bytes)), taken, "{messages} of {bytes} bytes");
        }
        assert_eq!(reader.next().map(|part| part.messages().len()), Some(1));
        assert!(reader.next().is_none());
        let taken: usize = (0..10).map(|_| reader.offer(&batch(1_000, 0))).sum();
        assert_eq!(taken, MESSAGES_MAX);
        let parts = std::iter::from_fn(|| reader.next()).map(|part| part.messages().len());
        assert_eq!(parts.collect::<Vec<_>>(), [&[1_000; 8][..], &[192]].concat());
        assert_eq!(reader.offer(&batch(3, 0)), 3, "there is room again");
        let mut told = 0;
        while events.try_recv().is_ok() {
            told += 1;
        }
        assert_eq!(told, 3, "once each time it had nothing");
    }
}
