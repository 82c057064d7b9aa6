//! Everything that can happen to a shard's durable state. This enum is the journal's format: variants are
//! added at the end and never changed.

use crate::{
    catalog::{DeadLetter, QueueConfig},
    command::Destination,
};
use bytes::Bytes;
use posthaste_model::{
    DeathReason, Envelope, Name, PartitionId, Payload, QueueId, Subject, Timestamp, TopicId,
};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A change of durable state, with absolute ids and offsets, so that applying it needs nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    PartitionOpened {
        partition: PartitionId,
        spec: PartitionSpec,
    },
    PartitionClosed {
        partition: PartitionId,
    },
    /// Messages were appended; `span` offsets from `offset`.
    Appended {
        partition: PartitionId,
        offset: u64,
        span: u32,
        /// The latest of the messages' timestamps.
        timestamp: Timestamp,
        producer: Option<Sequence>,
        /// What routing knows of a message that came from the bus; none for a batch.
        envelope: Option<Envelope>,
        payload: Payload,
    },
    /// Everything below `start` is gone.
    Trimmed {
        partition: PartitionId,
        start: u64,
    },

    QueueOpened {
        queue: QueueId,
        spec: QueueSpec,
    },
    /// The queue and its log are gone.
    QueueClosed {
        queue: QueueId,
        lanes: u16,
    },
    Enqueued {
        queue: QueueId,
        lane: u8,
        offset: u64,
        envelope: Envelope,
        payload: Payload,
    },
    /// Half-open ranges of offsets.
    Settled {
        queue: QueueId,
        lane: u8,
        ranges: SmallVec<[(u64, u64); 2]>,
    },
    /// Lazy: messages below `to` were handed out.
    DeliveredTo {
        queue: QueueId,
        lane: u8,
        to: u64,
    },
    /// Lazy: a message was delivered in vain so many times.
    Attempted {
        queue: QueueId,
        lane: u8,
        offset: u64,
        attempts: u32,
    },
    /// Lazy: a delayed message is ready.
    Due {
        queue: QueueId,
        lane: u8,
        offset: u64,
    },

    /// A message of a queue leaves for its dead-letter target; it stays in the queue's log until
    /// `OutboxDone`.
    DeadLettered {
        number: u64,
        queue: QueueId,
        lane: u8,
        offset: u64,
        reason: DeathReason,
        target: DeadLetter,
    },
    /// A message was taken in, to be published exactly once: there, whatever routes change meanwhile.
    Relayed {
        number: u64,
        to: Vec<Destination>,
        envelope: Envelope,
        payload: Payload,
    },
    /// Half-open ranges of numbers: these outbox entries have arrived wherever they go.
    OutboxDone {
        ranges: SmallVec<[(u64, u64); 2]>,
    },
    /// What `source` sends to a destination has arrived, up to and including `number`.
    Arrived {
        source: u64,
        at: Destination,
        number: u64,
    },

    /// A publisher's message with this id was taken; the same id again is a repetition.
    Received {
        queue: QueueId,
        id: u32,
    },
    Forgotten {
        queue: QueueId,
        id: u32,
    },
    /// A delivery got a handle that outlives the connection.
    HandleAssigned {
        queue: QueueId,
        lane: u8,
        offset: u64,
        handle: u32,
    },
    /// The reader has the message, but the handle is not free yet.
    HandleSettled {
        queue: QueueId,
        handle: u32,
    },
    HandleFreed {
        queue: QueueId,
        handle: u32,
    },

    OffsetsCommitted {
        namespace: Name,
        group: Name,
        offsets: Vec<CommittedOffset>,
    },
    GroupDeleted {
        namespace: Name,
        group: Name,
    },

    RetainedSet {
        namespace: Name,
        envelope: Envelope,
        payload: Payload,
    },
    RetainedCleared {
        namespace: Name,
        subject: Subject,
    },

    /// A partition's messages below `to` were handed to the bus.
    TapMoved {
        partition: PartitionId,
        to: u64,
    },
    /// Ids below `to` of idempotent producers are taken.
    ProducerIdsReserved {
        to: u64,
    },
    OffsetsForgotten {
        namespace: Name,
        group: Name,
        partitions: Vec<(TopicId, u32)>,
    },
    /// Where outbox entries go was decided: sent again, they go to the same places.
    Routed {
        routes: Vec<(u64, Vec<Destination>)>,
    },
    /// A deleted queue keeps the messages that are on their way to a dead-letter target, and nothing else.
    QueueDraining {
        queue: QueueId,
    },
    /// Offsets below `to` were given out before damage; none of them is given out again.
    OffsetsSkipped {
        partition: PartitionId,
        to: u64,
    },
}

/// What a partition needs to know of its topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSpec {
    pub topic: TopicId,
    pub index: u32,
    /// False when messages are acknowledged before the disk confirmed them.
    pub sync: bool,
}

/// What a shard needs to know of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSpec {
    pub namespace: Name,
    pub name: Name,
    /// One per lane, lowest priority first.
    pub streams: Vec<u64>,
    pub config: QueueConfig,
    pub durable: bool,
    pub auto_delete: bool,
    /// It settles this partition's messages instead of its own: a subscription.
    pub over: Option<PartitionId>,
}

/// An idempotent producer's numbering of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub producer: u64,
    pub epoch: u16,
    /// Of the first message; wraps from 2³¹−1 to 0.
    pub first: u32,
    /// Messages in the batch.
    pub count: u32,
}

/// How far a group has read one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedOffset {
    pub topic: TopicId,
    pub partition: u32,
    pub offset: u64,
    /// The leader epoch that the reader saw; -1 when it said none.
    pub epoch: i32,
    /// The reader's own note.
    pub metadata: String,
    pub committed: Timestamp,
}

impl Event {
    /// The payload whose body is stored beside the event.
    pub fn payload(&self) -> Option<&Payload> {
        match self {
            Event::Appended { payload, .. }
            | Event::Enqueued { payload, .. }
            | Event::Relayed { payload, .. }
            | Event::RetainedSet { payload, .. } => Some(payload),
            _ => None,
        }
    }

    /// Gives a decoded event its body back.
    pub fn set_body(&mut self, body: Bytes) {
        match self {
            Event::Appended { payload, .. }
            | Event::Enqueued { payload, .. }
            | Event::Relayed { payload, .. }
            | Event::RetainedSet { payload, .. } => payload.body = body,
            _ => {}
        }
    }

    /// Writes everything but the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let taken = std::mem::take(out);
        // Serialization into a growing vector has no way to fail for these types.
        *out = postcard::to_extend(self, taken).unwrap_or_default();
    }

    pub fn decode(head: &[u8]) -> Result<Event, postcard::Error> {
        postcard::from_bytes(head)
    }

    /// How many offsets an encoded event takes in a log, and its latest timestamp, without decoding the rest.
    /// None if it adds nothing to a log.
    pub fn extent(head: &[u8]) -> Option<(u32, Timestamp)> {
        // As postcard writes a variant: its number, then its fields one after the other.
        let (variant, fields): (u32, &[u8]) = postcard::take_from_bytes(head).ok()?;
        match variant {
            APPENDED => {
                let fields = postcard::take_from_bytes::<(PartitionId, u64, u32, Timestamp)>(fields).ok()?;
                let (_, _, span, timestamp) = fields.0;
                Some((span, timestamp))
            }
            ENQUEUED => {
                type Fields<'a> = (QueueId, u8, u64, (&'a [u8], u8, bool), Timestamp);
                let (_, _, _, _subject, received) = postcard::take_from_bytes::<Fields<'_>>(fields).ok()?.0;
                Some((1, received))
            }
            _ => None,
        }
    }
}

/// Bytes of a message's properties, subject and deaths, at most: beside them an event's other fields and
/// [`crate::DESTINATIONS_MAX`] destinations fit into a record's head of 1 MiB.
pub const MESSAGE_HEAD_BYTES_MAX: usize = 640 << 10;

/// Whether a message has more properties than an event can tell. Decided before anything is.
pub(crate) fn is_too_large(envelope: &Envelope, payload: &Payload) -> bool {
    message_head_bytes(envelope, payload) > MESSAGE_HEAD_BYTES_MAX
}

/// Bytes of a message's properties, subject and deaths, about.
pub(crate) fn message_head_bytes(envelope: &Envelope, payload: &Payload) -> usize {
    let deaths = envelope.deaths.iter();
    let deaths: usize = deaths.map(|d| d.queue.len() + d.subject.parts().0.len() + 64).sum();
    payload.head.len() + envelope.subject.parts().0.len() + deaths
}

/// Numbers of variants.
const APPENDED: u32 = 2;
const ENQUEUED: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::Format;

    #[test]
    fn events_come_back_as_they_were() {
        let payload = Payload { format: Format(3), head: Bytes::from_static(b"head"), body: Bytes::new() };
        let envelope = Envelope::new(Subject::dotted("a.b").unwrap(), Timestamp(17));
        let spec = QueueSpec {
            namespace: Name::constant("default"),
            name: Name::constant("q"),
            streams: vec![7],
            config: QueueConfig::default(),
            durable: true,
            auto_delete: false,
            over: None,
        };
        for event in [
            Event::QueueOpened { queue: QueueId(1), spec },
            Event::Enqueued { queue: QueueId(1), lane: 0, offset: 9, envelope, payload },
            Event::Settled { queue: QueueId(1), lane: 0, ranges: SmallVec::from_slice(&[(1, 2), (5, 9)]) },
            Event::OutboxDone { ranges: SmallVec::from_slice(&[(7, u64::MAX)]) },
        ] {
            let mut bytes = vec![1, 2, 3];
            event.encode(&mut bytes);
            assert_eq!(bytes[..3], [1, 2, 3]);
            assert_eq!(Event::decode(&bytes[3..]), Ok(event));
        }
        assert!(Event::decode(&[250, 1]).is_err());
    }

    #[test]
    fn an_extent_is_known_without_decoding_all() {
        let payload = Payload { format: Format(3), head: Bytes::from_static(b"head"), body: Bytes::new() };
        let (partition, queue) = (PartitionId(1 << 40), QueueId(300));
        // Its length takes two bytes.
        const LONG: &str = match std::str::from_utf8(&[b'x'; 200]) {
            Ok(text) => text,
            Err(_) => "",
        };
        for (subject, timestamp) in [("", 0), ("a.b", -5), (LONG, i64::MAX)] {
            let timestamp = Timestamp(timestamp);
            let envelope = Envelope::new(Subject::dotted(subject).unwrap(), timestamp);
            let appended = |span, producer, envelope| Event::Appended {
                partition,
                offset: u64::MAX,
                span,
                timestamp,
                producer,
                envelope,
                payload: payload.clone(),
            };
            let enqueued = Event::Enqueued {
                queue,
                lane: 9,
                offset: 1 << 33,
                envelope: envelope.clone(),
                payload: payload.clone(),
            };
            let settled = Event::Settled { queue, lane: 0, ranges: SmallVec::new() };
            for (event, expected) in [
                (appended(1_000, None, None), Some((1_000, timestamp))),
                (appended(1, None, Some(envelope)), Some((1, timestamp))),
                (enqueued, Some((1, timestamp))),
                (settled, None),
                (Event::OutboxDone { ranges: SmallVec::new() }, None),
            ] {
                let mut bytes = Vec::new();
                event.encode(&mut bytes);
                assert_eq!(Event::extent(&bytes), expected, "{event:?}");
            }
        }
        for cut in [&[][..], &[APPENDED as u8, 1], &[ENQUEUED as u8, 1, 1, 1, 200, 1]] {
            assert_eq!(Event::extent(cut), None, "{cut:?}");
        }
    }
}
