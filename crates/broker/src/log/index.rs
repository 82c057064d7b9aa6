//! Where the entries of a log are: in segments and in the journal.

use super::{Located, Place};
use crate::kept::Kept;
use posthaste_model::Timestamp;
use posthaste_storage::{journal::Lsn, segment::Run};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Both parts in order of offsets. No chunk begins before a run and ends behind it.
#[derive(Default)]
pub(super) struct Index {
    pub runs: VecDeque<Run>,
    pub chunks: VecDeque<Chunk>,
}

/// Entries that follow one another in the journal, 8 bytes each. Those whose file is kept are stored in
/// checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub offset: u64,
    lsn: u64,
    /// Distance of offset; distance of LSN in units of 8, to which records are aligned.
    entries: Vec<(u32, u32)>,
    timestamp: i64,
    bytes: u64,
}

const ENTRIES_PER_CHUNK: usize = 512;
/// A chunk that holds so much is full: retention lets go of whole ones.
const CHUNK_BYTES: u64 = 16 << 20;
const LSN_UNIT: u64 = 8;
/// Entries looked up at a time.
pub(super) const LOOKED_UP_MAX: usize = 1_024;

impl Index {
    /// Where to read from next, of what lies below `until` and `end`.
    pub fn place(&self, from: u64, until: u64, end: u64) -> Place {
        if from >= end.min(until) {
            return Place::End;
        }
        let at = self.runs.partition_point(|run| run.end <= from);
        let run = self.runs.get(at);
        let behind = run.map_or(u64::MAX, |run| run.first);
        if let Some(run) = run.filter(|run| run.first <= from) {
            return Place::Segment(*run);
        }
        // What lies before a run that ends before `from` does so too.
        let before = at.checked_sub(1).and_then(|at| self.runs.get(at)).map_or(0, |run| run.end);
        let (found, each) = self.look_up(from, before..end.min(behind), until);
        match (found.is_empty(), run) {
            (false, _) => Place::Journal { entries: found, each, behind: behind.min(end) },
            (true, Some(run)) => Place::Segment(*run),
            (true, None) => Place::End,
        }
    }

    /// The entry in the journal that may contain `from` and those that follow it, one from `until` on among
    /// them; and the bytes of one of them, about.
    fn look_up(&self, from: u64, within: std::ops::Range<u64>, until: u64) -> (Vec<(u64, Lsn)>, usize) {
        let first = self.chunks.partition_point(|c| c.offset <= from).saturating_sub(1);
        let mut found = Vec::new();
        let each = self.chunks.get(first).map_or(0, Chunk::mean_bytes);
        let each = usize::try_from(each).unwrap_or(usize::MAX);
        for (at, chunk) in self.chunks.iter().enumerate().skip(first) {
            let skip = match at == first {
                true => {
                    let from = u32::try_from(from.saturating_sub(chunk.offset)).unwrap_or(u32::MAX);
                    chunk.entries.partition_point(|(offset, _)| *offset <= from).saturating_sub(1)
                }
                false => 0,
            };
            for (offset, lsn) in chunk.places().skip(skip).filter(|(offset, _)| *offset >= within.start) {
                if offset >= within.end || found.len() == LOOKED_UP_MAX {
                    return (found, each);
                }
                found.push((offset, lsn));
                if offset >= until {
                    return (found, each);
                }
            }
        }
        (found, each)
    }

    /// Records where an entry is. Entries come in order.
    pub fn add(&mut self, offset: u64, timestamp: i64, lsn: Lsn, bytes: u64) {
        let last_run = self.runs.back().map_or(0, |run| run.end);
        let last = self.chunks.back_mut().filter(|chunk| chunk.offset >= last_run);
        if !last.is_some_and(|chunk| chunk.push(offset, timestamp, lsn, bytes)) {
            self.chunks.push_back(Chunk::new(offset, timestamp, lsn, bytes));
        }
    }

    /// What is below `start` is gone; `end` is the log's.
    pub fn trim(&mut self, start: u64, end: u64) {
        while self.runs.front().is_some_and(|run| run.end <= start) {
            self.runs.pop_front();
        }
        while self.chunks.front().is_some_and(|chunk| self.behind(chunk, 1).min(end) <= start) {
            self.chunks.pop_front();
        }
    }

    /// Where what follows a chunk begins; `next` is the place of the next chunk.
    fn behind(&self, chunk: &Chunk, next: usize) -> u64 {
        let run = self.runs.get(self.runs.partition_point(|run| run.first <= chunk.offset));
        let next = self.chunks.get(next).map_or(u64::MAX, |next| next.offset);
        run.map_or(next, |run| run.first.min(next))
    }

    /// Every entry that lies in the journal below `below`.
    pub fn in_journal(&self, below: Lsn) -> Vec<Located> {
        let mut found: Vec<Located> = Vec::new();
        let mut run = 0;
        for chunk in &self.chunks {
            let bytes = chunk.mean_bytes();
            for (offset, lsn) in chunk.places() {
                if let Some(last) = found.last_mut() {
                    last.until = last.until.min(offset);
                }
                if lsn >= below {
                    return found;
                }
                while self.runs.get(run).is_some_and(|run| run.first <= offset) {
                    run += 1;
                }
                let until = self.runs.get(run).map_or(u64::MAX, |run| run.first);
                found.push(Located { offset, until, lsn, bytes });
            }
        }
        found
    }

    /// The entries below `below` are in these segments now, or not wanted any more, but for those that are
    /// kept.
    pub fn moved(&mut self, runs: impl IntoIterator<Item = Run>, below: Lsn, kept: &Kept) {
        self.runs.extend(runs);
        self.sort_runs();
        if self.chunks.front().is_none_or(|chunk| chunk.lsn >= below.0) {
            return;
        }
        for chunk in std::mem::take(&mut self.chunks) {
            let (first, last) = chunk.extent();
            if first >= below || (last < below && kept.hold_together(first, last)) {
                self.chunks.push_back(chunk);
                continue;
            }
            if last < below && !kept.touch(first, last) {
                continue;
            }
            let bytes = chunk.mean_bytes();
            let mut part: Option<Chunk> = None;
            for (offset, lsn) in chunk.places() {
                if lsn < below && !kept.holds(lsn) {
                    self.chunks.extend(part.take());
                    continue;
                }
                let fits = part.as_mut().is_some_and(|part| part.push(offset, chunk.timestamp, lsn, bytes));
                if !fits {
                    self.chunks.extend(part.replace(Chunk::new(offset, chunk.timestamp, lsn, bytes)));
                }
            }
            self.chunks.extend(part);
        }
        debug_assert!(self.is_in_order(), "what is looked up by halves must be in order");
    }

    /// Whether no offset has two places.
    fn is_in_order(&self) -> bool {
        let runs = self.runs.iter().map(|run| (run.first, run.end));
        let entries = self.chunks.iter().flat_map(Chunk::places).map(|(offset, _)| (offset, offset + 1));
        let mut places: Vec<_> = runs.chain(entries).collect();
        places.sort_unstable();
        places.windows(2).all(|pair| matches!(pair, [(_, end), (next, _)] if end <= next))
    }

    /// The entries of some runs are in others now.
    pub fn replaced(&mut self, old: &[Run], new: Vec<Run>) {
        self.runs.retain(|run| !old.contains(run));
        self.runs.extend(new);
        self.sort_runs();
    }

    fn sort_runs(&mut self) {
        if !self.runs.iter().is_sorted_by_key(|run| run.first) {
            self.runs.make_contiguous().sort_by_key(|run| run.first);
        }
    }

    /// The entries that lie in the journal below `below`, as checkpoints store their places.
    pub fn kept(&self, below: Lsn) -> Vec<Chunk> {
        let chunks = self.chunks.iter().take_while(|chunk| chunk.lsn < below.0);
        chunks.map(|chunk| chunk.part_below(below)).collect()
    }

    /// An offset before which everything is older; none if everything is.
    pub fn skip_to(&self, timestamp: Timestamp) -> Option<u64> {
        let run = self.runs.iter().find(|run| run.max_timestamp >= timestamp.0).map(|run| run.first);
        let chunk = self.chunks.iter().find(|chunk| chunk.timestamp >= timestamp.0).map(|chunk| chunk.offset);
        run.into_iter().chain(chunk).min()
    }

    /// End, latest timestamp and bytes of each part, in order of offsets; `end` is the log's.
    pub fn parts(&self, end: u64) -> Vec<(u64, i64, u64)> {
        let runs = self.runs.iter().map(|run| (run.end, run.max_timestamp, run.bytes));
        let chunks = self
            .chunks
            .iter()
            .enumerate()
            .map(|(at, chunk)| (self.behind(chunk, at + 1).min(end), chunk.timestamp, chunk.bytes));
        let mut parts: Vec<_> = runs.chain(chunks).collect();
        parts.sort_by_key(|(end, _, _)| *end);
        parts
    }

    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum::<u64>()
            + self.chunks.iter().map(|chunk| chunk.bytes).sum::<u64>()
    }
}

impl Chunk {
    pub fn new(offset: u64, timestamp: i64, lsn: Lsn, bytes: u64) -> Chunk {
        Chunk { offset, lsn: lsn.0, entries: vec![(0, 0)], timestamp, bytes }
    }

    /// False when the entry does not fit here.
    pub fn push(&mut self, offset: u64, timestamp: i64, lsn: Lsn, bytes: u64) -> bool {
        let distance =
            |a: u64, b: u64, unit: u64| a.checked_sub(b).and_then(|d| u32::try_from(d / unit).ok());
        let (Some(offset), Some(lsn)) =
            (distance(offset, self.offset, 1), distance(lsn.0, self.lsn, LSN_UNIT))
        else {
            return false;
        };
        if self.entries.len() == ENTRIES_PER_CHUNK || self.bytes >= CHUNK_BYTES {
            return false;
        }
        self.entries.push((offset, lsn));
        self.timestamp = self.timestamp.max(timestamp);
        self.bytes += bytes;
        true
    }

    /// Offsets and LSNs of the entries.
    pub fn places(&self) -> impl DoubleEndedIterator<Item = (u64, Lsn)> + '_ {
        self.entries.iter().map(|(offset, lsn)| {
            // Read from a checkpoint, they may be anything.
            let lsn = self.lsn.saturating_add(u64::from(*lsn) * LSN_UNIT);
            (self.offset.saturating_add(u64::from(*offset)), Lsn(lsn))
        })
    }

    /// Bytes of an entry.
    fn mean_bytes(&self) -> u64 {
        self.bytes / self.entries.len().max(1) as u64
    }

    /// Where the first entry and the last one lie.
    fn extent(&self) -> (Lsn, Lsn) {
        let last = self.places().next_back();
        (Lsn(self.lsn), last.map_or(Lsn(self.lsn), |(_, lsn)| lsn))
    }

    fn part_below(&self, below: Lsn) -> Chunk {
        let count = self.places().take_while(|(_, lsn)| *lsn < below).count();
        let bytes = self.bytes * count as u64 / self.entries.len().max(1) as u64;
        let entries = self.entries.iter().take(count).copied().collect();
        Chunk { entries, bytes, ..*self }
    }
}
