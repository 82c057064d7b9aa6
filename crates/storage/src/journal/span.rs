//! A stretch of a journal file in memory: whoever reads records that follow one another asks the disk once
//! for many.

use bytes::Bytes;

use super::format::{PlacedRecord, RECORD_HEADER_BYTES, RecordHeader};
use super::{Lsn, Stored};

/// Read at first, and again where the last read was somewhere else: most records are smaller.
const FIRST_BYTES: usize = 4 << 10;
/// Read at most where records follow one another.
const MOST_BYTES: usize = 256 << 10;

/// What was read last. Records share its memory.
#[derive(Default)]
pub(super) struct Span {
    start: u64,
    nonce: u64,
    bytes: Bytes,
}

impl Span {
    /// The record at `lsn`, verified, if all of it is here.
    pub fn record(&self, lsn: Lsn) -> Option<Stored> {
        let at = usize::try_from(lsn.0.checked_sub(self.start)?).ok()?;
        let record = PlacedRecord::decode(self.bytes.get(at..)?, lsn, self.nonce)?;
        let head = at + RECORD_HEADER_BYTES;
        let body = head + record.head.len();
        let end = body + record.body.len();
        Some(Stored {
            shard: record.header.shard,
            head: self.bytes.slice(head..body),
            body: self.bytes.slice(body..end),
        })
    }

    /// How much to read for a record that is not here: more each time that reading goes on near the end of
    /// this span, else as much as the first record here took, as they are mostly of the same size.
    pub fn length_at(&self, lsn: Lsn) -> usize {
        let length = self.bytes.len();
        let goes_on = length > 0 && lsn.0 > self.start && lsn.0 - self.start <= 2 * length as u64;
        if goes_on {
            return (2 * length).clamp(FIRST_BYTES, MOST_BYTES);
        }
        let record = RecordHeader::decode(&self.bytes).map_or(0, |header| header.content_bytes());
        usize::try_from(record).unwrap_or(0).clamp(FIRST_BYTES, MOST_BYTES)
    }

    pub fn fill(&mut self, lsn: Lsn, nonce: u64, bytes: Bytes) {
        *self = Span { start: lsn.0, nonce, bytes };
    }
}
