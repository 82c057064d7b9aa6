//! Reading what has left the journal.

use super::{Fault, LOOKED_UP_MAX, LogEntry, PartitionLog, Storage, entry_of};
use crate::damage::Damage;
use posthaste_storage::segment::{self, Run};
use std::ops::Range;

impl PartitionLog {
    /// As [`PartitionLog::read_segment`], what was read lately only; none if nothing of it is there.
    pub(super) fn read_segment_now(
        &self,
        storage: &Storage,
        run: &Run,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Option<Vec<LogEntry>> {
        let (from, entries_max) = self.extent(range);
        let read = storage.segments.read_now(run, from, max_bytes, entries_max)?;
        // What has nothing here, whoever reads the disk finds out.
        Some(entries_of(run, read)).filter(|entries| !entries.is_empty())
    }

    /// Where in a segment to begin, and how many entries to read.
    fn extent(&self, range: Range<u64>) -> (u64, usize) {
        let from = range.start.max(self.start());
        // Each entry takes an offset at least.
        let entries_max = usize::try_from(range.end.saturating_sub(from)).unwrap_or(usize::MAX);
        (from, entries_max.clamp(1, LOOKED_UP_MAX))
    }

    pub(super) fn read_segment(
        &self,
        storage: &Storage,
        run: &Run,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, Fault> {
        let (from, entries_max) = self.extent(range);
        match storage.segments.read(run, from, max_bytes, entries_max) {
            Ok(read) => Ok(entries_of(run, read)),
            Err(segment::ReadError::Damaged { segment, from, resume, .. }) => {
                if let Some(logs) = self.logs.upgrade() {
                    let damage = Damage::of_segment(segment, "damaged segment");
                    logs.damages.missing(self.stream, from.max(self.start()), resume, damage);
                }
                Err(Fault::Lost(resume))
            }
            Err(error) => Err(Fault::Io(error.to_string())),
        }
    }
}

/// A run may have been cut short: what lies behind its end was given up.
fn entries_of(run: &Run, read: Vec<segment::Entry>) -> Vec<LogEntry> {
    let own = read.into_iter().take_while(|entry| entry.offset < run.end);
    own.filter_map(|entry| entry_of(&entry.head, entry.body)).collect()
}
