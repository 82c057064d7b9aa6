//! How events lie in journal records: a tag, the encoded event, and the body beside it.

use bytes::Bytes;
use posthaste_engine::{Event, effect::Journaled};
use posthaste_model::QueueId;
use posthaste_storage::journal::{Batch, Lsn, ReadError, Reader, Stored};

/// The catalog's events carry this shard number.
pub(crate) const CATALOG: u16 = u16::MAX;

/// The body stands in the record itself.
const OWN_BODY: u8 = 0;
/// The body stands in an earlier record of the same batch; its distance back follows, 8 bytes.
const SHARED_BODY: u8 = 1;
/// Bodies up to this many bytes are not worth a reference.
const SHARED_BODY_MIN: usize = 256;
/// Further back is not looked for; a fan-out's records follow one another.
const SHARED_BODIES: usize = 4;

/// Puts events into a batch, and a body that several of them have only once.
#[derive(Default)]
pub(crate) struct Encoder {
    /// Kept, so that their memory is not another body's while it is referred to.
    bodies: Vec<(Bytes, u64)>,
    next: usize,
}

impl Encoder {
    /// A new batch: nothing of the last one can be referred to.
    pub fn reset(&mut self) {
        self.bodies.clear();
        self.next = 0;
    }

    /// Adds an event and returns its distance from the batch's first record.
    pub fn push(&mut self, batch: &mut Batch, shard: u16, journaled: &Journaled) -> u64 {
        if journaled.sync {
            batch.require_sync();
        }
        let event = &journaled.event;
        let none = Bytes::new();
        let body = event.payload().map_or(&none, |payload| &payload.body);
        let at = batch.bytes();
        if let Some(first) = self.shared(event, body) {
            let distance = batch.push(shard, journaled.joined, &none, |out| {
                out.push(SHARED_BODY);
                out.extend_from_slice(&(at - first).to_le_bytes());
                event.encode(out);
            });
            batch.holds(messages_of(event));
            return distance;
        }
        if body.len() >= SHARED_BODY_MIN {
            let known = (body.clone(), at);
            match self.bodies.get_mut(self.next % SHARED_BODIES) {
                Some(slot) => *slot = known,
                None => self.bodies.push(known),
            }
            self.next += 1;
        }
        let distance = batch.push(shard, journaled.joined, body, |out| {
            out.push(OWN_BODY);
            event.encode(out);
        });
        batch.holds(messages_of(event));
        distance
    }

    /// Where the same bytes stand already: the same memory, not merely equal ones.
    fn shared(&self, event: &Event, body: &Bytes) -> Option<u64> {
        // Replay needs the bodies of other events at once.
        let stored = matches!(event, Event::Appended { .. } | Event::Enqueued { .. });
        if !stored || body.len() < SHARED_BODY_MIN {
            return None;
        }
        let same = |(known, _): &&(Bytes, u64)| known.as_ptr() == body.as_ptr() && known.len() == body.len();
        self.bodies.iter().find(same).map(|(_, distance)| *distance)
    }
}

/// How many messages are lost with the event, if it is.
fn messages_of(event: &Event) -> u32 {
    match event {
        Event::Appended { span, .. } => *span,
        Event::Enqueued { .. } | Event::Relayed { .. } => 1,
        _ => 0,
    }
}

/// A record's event, and how far back its body is if it is not its own.
pub(crate) fn decode(head: &[u8]) -> Result<(Event, Option<u64>), String> {
    match head.split_first() {
        Some((&OWN_BODY, event)) => Ok((Event::decode(event).map_err(|e| e.to_string())?, None)),
        Some((&SHARED_BODY, rest)) => {
            let (distance, event) =
                rest.split_first_chunk::<8>().ok_or("a reference without its distance")?;
            let event = Event::decode(event).map_err(|e| e.to_string())?;
            Ok((event, Some(u64::from_le_bytes(*distance))))
        }
        Some((tag, _)) => Err(format!("unknown record tag {tag}")),
        None => Err("an empty record".to_owned()),
    }
}

/// A record's head as it is kept in segments: its body always beside it.
pub(crate) fn head_with_own_body(head: &Bytes) -> Bytes {
    match head.first() {
        Some(&SHARED_BODY) => {
            let mut own = Vec::with_capacity(head.len());
            own.push(OWN_BODY);
            own.extend_from_slice(head.get(9..).unwrap_or_default());
            own.into()
        }
        _ => head.clone(),
    }
}

/// Whether and where a record's body is another record's.
pub(crate) fn body_at(head: &[u8], lsn: Lsn) -> Option<Lsn> {
    let (tag, rest) = head.split_first()?;
    let distance = rest.first_chunk::<8>().filter(|_| *tag == SHARED_BODY)?;
    Some(Lsn(lsn.0.saturating_sub(u64::from_le_bytes(*distance))))
}

/// Reads records' heads and bodies, wherever those are.
pub(crate) enum Records<'a> {
    /// Only from memory.
    Known(Reader<'a>),
    Stored(Reader<'a>),
}

impl Records<'_> {
    /// None when it is not where it is looked for.
    pub fn read(&mut self, lsn: Lsn) -> Result<Option<(Bytes, Bytes)>, ReadError> {
        let Some(record) = self.record(lsn)? else { return Ok(None) };
        match body_at(&record.head, lsn) {
            Some(at) => Ok(self.record(at)?.map(|shared| (record.head, shared.body))),
            None => Ok(Some((record.head, record.body))),
        }
    }

    fn record(&mut self, lsn: Lsn) -> Result<Option<Stored>, ReadError> {
        match self {
            Records::Known(reader) => Ok(reader.read_now(lsn)),
            Records::Stored(reader) => reader.read(lsn).map(Some),
        }
    }
}

/// What an event adds to a log.
pub(crate) struct StoredAt {
    pub stream: u64,
    pub offset: u64,
    pub span: u32,
    pub timestamp: i64,
}

/// The stream of a queue's lane: they are numbered in a row.
pub(crate) fn stream_of(queue: QueueId, lane: u8) -> u64 {
    queue.0 + u64::from(lane)
}

/// None if it adds nothing.
pub(crate) fn stored_at(event: &Event) -> Option<StoredAt> {
    match event {
        Event::Appended { partition, offset, span, timestamp, .. } => {
            Some(StoredAt { stream: partition.0, offset: *offset, span: *span, timestamp: timestamp.0 })
        }
        Event::Enqueued { queue, lane, offset, envelope, .. } => Some(StoredAt {
            stream: stream_of(*queue, *lane),
            offset: *offset,
            span: 1,
            timestamp: envelope.received.0,
        }),
        _ => None,
    }
}

/// How many offsets a stored entry takes, and its latest timestamp.
pub(crate) fn span_and_timestamp(head: &[u8]) -> (u32, i64) {
    let event = match head.split_first() {
        Some((&OWN_BODY, event)) => event,
        Some((&SHARED_BODY, rest)) => rest.get(8..).unwrap_or_default(),
        _ => &[],
    };
    Event::extent(event).map_or((1, 0), |(span, timestamp)| (span, timestamp.0))
}
