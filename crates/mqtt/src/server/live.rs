//! What reaches a session through its QoS 0 subscriptions: handed over by the publisher's task, no queue of
//! the broker between.

use std::collections::VecDeque;

use parking_lot::Mutex;
use posthaste_broker::LiveSink;
use posthaste_model::{Envelope, Payload};
use posthaste_net::Mailbox;

use super::connection::{Event, EventKind};

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
    messages: VecDeque<(Envelope, Payload)>,
    bytes: usize,
    /// The connection knows that there is something.
    told: bool,
}

impl LiveReader {
    pub fn new(mailbox: Mailbox<Event>) -> LiveReader {
        LiveReader { waiting: Mutex::default(), mailbox }
    }

    /// Takes messages up to about `bytes_max` bytes of payload, at least one if there is any.
    pub fn take(&self, bytes_max: usize) -> Vec<(Envelope, Payload)> {
        let mut waiting = self.waiting.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max {
            let Some(message) = waiting.messages.pop_front() else { break };
            bytes += size(&message.0, &message.1);
            taken.push(message);
        }
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        waiting.told = !waiting.messages.is_empty();
        taken
    }
}

impl LiveSink for LiveReader {
    fn offer(&self, envelope: &Envelope, payload: &Payload) -> bool {
        let mut waiting = self.waiting.lock();
        let bytes = waiting.bytes + size(envelope, payload);
        // One message always fits, however big.
        let full = waiting.messages.len() >= MESSAGES_MAX || bytes > BYTES_MAX;
        if full && !waiting.messages.is_empty() {
            return false;
        }
        waiting.bytes = bytes;
        waiting.messages.push_back((envelope.clone(), payload.clone()));
        if !std::mem::replace(&mut waiting.told, true) {
            self.mailbox.send(Event(EventKind::Live));
        }
        true
    }
}

fn size(envelope: &Envelope, payload: &Payload) -> usize {
    envelope.subject.parts().0.len() + payload.head.len() + payload.body.len()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use posthaste_model::{Subject, Timestamp};

    fn message(bytes: usize) -> (Envelope, Payload) {
        let envelope = Envelope::new(Subject::slashed("a").unwrap(), Timestamp(0));
        let body = Bytes::from(vec![0; bytes]);
        (envelope, Payload { format: crate::convert::FORMAT, head: Bytes::new(), body })
    }

    #[test]
    fn a_slow_reader_loses_what_is_too_much_and_is_told_once() {
        let (mailbox, mut events) = Mailbox::new();
        let reader = LiveReader::new(mailbox);
        for (bytes, expect) in [(5 << 20, true), (1, false), (0, false)] {
            let (envelope, payload) = message(bytes);
            assert_eq!(reader.offer(&envelope, &payload), expect);
        }
        assert_eq!(reader.take(1).len(), 1);
        assert!(reader.take(1).is_empty());
        let (envelope, payload) = message(0);
        let taken = (0..10_000).filter(|_| reader.offer(&envelope, &payload)).count();
        assert_eq!(taken, MESSAGES_MAX);
        let mut told = 0;
        while events.try_recv().is_ok() {
            told += 1;
        }
        assert_eq!(told, 2, "once each time it had nothing");
    }
}
