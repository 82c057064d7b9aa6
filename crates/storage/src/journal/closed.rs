//! Reading single records of a journal that nobody writes to.

use std::sync::Arc;

use super::files::JournalFile;
use super::format::{PlacedRecord, RECORD_HEADER_BYTES, RecordHeader};
use super::{Lsn, Stored};
use bytes::Bytes;

/// The files of a journal that is not open.
pub struct ClosedFiles {
    files: Vec<Arc<JournalFile>>,
}

impl ClosedFiles {
    pub(super) fn new(mut files: Vec<Arc<JournalFile>>) -> ClosedFiles {
        files.sort_by_key(|file| file.start);
        ClosedFiles { files }
    }

    /// The record at `lsn`, verified; none if it cannot be read.
    pub fn read(&self, lsn: Lsn) -> Option<Stored> {
        let file = self.file_at(lsn)?;
        let position = lsn.0 - file.start;
        let mut header = [0; RECORD_HEADER_BYTES];
        let length = file.file.read_at(position, &mut header).ok()?;
        let lengths = RecordHeader::decode(header.get(..length)?)?;
        let within = file.bytes().checked_sub(position)?;
        // It is not verified yet: it may ask for no more than the file holds.
        if !lengths.lengths_are_sound() || lengths.content_bytes() > within {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(lengths.content_bytes()).ok()?];
        let read = file.file.read_at(position, &mut bytes).ok()?;
        let record = PlacedRecord::decode(bytes.get(..read)?, lsn, file.nonce)?;
        Some(Stored {
            shard: record.header.shard,
            head: Bytes::copy_from_slice(record.head),
            body: Bytes::copy_from_slice(record.body),
        })
    }

    /// The number of the file that has a place for `lsn`, and where in it that is.
    pub fn place(&self, lsn: Lsn) -> Option<(u64, u64)> {
        let file = self.file_at(lsn)?;
        Some((file.number, lsn.0 - file.start))
    }

    fn file_at(&self, lsn: Lsn) -> Option<&Arc<JournalFile>> {
        let behind = self.files.partition_point(|file| file.start <= lsn.0);
        let file = self.files.get(behind.checked_sub(1)?)?;
        (lsn.0 - file.start < file.bytes()).then_some(file)
    }
}
