//! Where the entries of a log are: in segments and in the journal.

use super::{JournalEntry, Located, Place, chunk::Chunk};
use crate::kept::Kept;
use posthaste_model::Timestamp;
use posthaste_storage::{journal::Lsn, segment::Run};
use std::collections::VecDeque;

/// Both parts in order of offsets. No chunk begins before a run and ends behind it, and no offset has two
/// places: what comes in goes behind all that is there.
#[derive(Default)]
pub(super) struct Index {
    runs: VecDeque<Run>,
    chunks: VecDeque<Chunk>,
}

/// Entries looked up at a time.
pub(super) const LOOKED_UP_MAX: usize = 1_024;
/// Entries that a checkpoint is told of at a time: there may be millions.
const TOLD_MAX: usize = 4_096;

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
            let places = if at == first { chunk.places().around(from) } else { chunk.places() };
            for (offset, lsn) in places.filter(|(offset, _)| *offset >= within.start) {
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

    /// Begins with what a checkpoint tells. What overlaps with what comes before it is left out, and of what
    /// has two places the one in a segment counts: a damaged checkpoint may tell of both.
    pub fn restore(&mut self, runs: &[Run], chunks: &[Chunk]) {
        let mut runs: Vec<Run> = runs.to_vec();
        runs.sort_by_key(|run| run.first);
        for run in runs {
            if run.first < run.end && self.runs.back().is_none_or(|last| last.end <= run.first) {
                self.runs.push_back(run);
            }
        }
        for chunk in chunks {
            let next = self.chunks.back().map_or(0, |last| last.last().0.saturating_add(1));
            let run = self.runs.get(self.runs.partition_point(|run| run.end <= chunk.offset));
            if chunk.offset >= next && run.is_none_or(|run| run.first > chunk.last().0) {
                self.chunks.push_back(chunk.clone());
                continue;
            }
            for (offset, lsn) in chunk.places().skip_while(|(offset, _)| *offset < next) {
                self.push_between(offset, chunk.timestamp, lsn, chunk.mean_bytes());
            }
        }
    }

    /// Notes an entry behind the last one in the journal, unless it is in a run.
    fn push_between(&mut self, offset: u64, timestamp: i64, lsn: Lsn, bytes: u64) {
        let run = self.runs.partition_point(|run| run.end <= offset);
        if self.runs.get(run).is_some_and(|run| run.first <= offset) {
            return;
        }
        let before = run.checked_sub(1).and_then(|at| self.runs.get(at)).map_or(0, |run| run.end);
        let last = self.chunks.back_mut().filter(|chunk| chunk.offset >= before && chunk.last().0 < offset);
        if !last.is_some_and(|chunk| chunk.push(offset, timestamp, lsn, bytes)) {
            self.chunks.push_back(Chunk::new(offset, timestamp, lsn, bytes));
        }
    }

    /// Records where an entry is. Entries come in order; one that does not follows from offsets that are
    /// given out again, and what had them is not this log's any more.
    pub fn add(&mut self, entry: &JournalEntry) {
        let JournalEntry { offset, timestamp, lsn, bytes } = *entry;
        let last_run = self.runs.back().map_or(0, |run| run.end);
        if offset < last_run || self.chunks.back().is_some_and(|chunk| offset <= chunk.last().0) {
            self.cut(offset);
            return self.add(entry);
        }
        let last = self.chunks.back_mut().filter(|chunk| chunk.offset >= last_run);
        if !last.is_some_and(|chunk| chunk.push(offset, timestamp, lsn, bytes)) {
            self.chunks.push_back(Chunk::new(offset, timestamp, lsn, bytes));
        }
    }

    /// Forgets what is at `from` and behind.
    fn cut(&mut self, from: u64) {
        while self.runs.pop_back_if(|run| run.first >= from).is_some() {}
        if let Some(run) = self.runs.back_mut() {
            // Its bytes still have more; readers stop at its end.
            run.end = run.end.min(from);
        }
        while self.chunks.pop_back_if(|chunk| chunk.offset >= from).is_some() {}
        if let Some(chunk) = self.chunks.back_mut().filter(|chunk| chunk.last().0 >= from) {
            *chunk = chunk.part_before(from);
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

    /// Entries that lie in the journal below `below`, from `from` on, and the offset of the next one if these
    /// are not all.
    pub fn in_journal(&self, from: u64, below: Lsn) -> (Vec<Located>, Option<u64>) {
        let mut found: Vec<Located> = Vec::new();
        let mut run = self.runs.partition_point(|run| run.first <= from);
        let first = self.chunks.partition_point(|chunk| chunk.last().0 < from);
        for chunk in self.chunks.range(first..) {
            let bytes = chunk.mean_bytes();
            for (offset, lsn) in chunk.places().filter(|(offset, _)| *offset >= from) {
                if let Some(last) = found.last_mut() {
                    last.until = last.until.min(offset);
                }
                if lsn >= below {
                    return (found, None);
                }
                if found.len() == TOLD_MAX {
                    return (found, Some(offset));
                }
                while self.runs.get(run).is_some_and(|run| run.first <= offset) {
                    run += 1;
                }
                let until = self.runs.get(run).map_or(u64::MAX, |run| run.first);
                found.push(Located { offset, until, lsn, bytes });
            }
        }
        (found, None)
    }

    /// The entries below `below` are in these segments now, or not wanted any more, but for those that are
    /// kept.
    pub fn moved(&mut self, runs: impl IntoIterator<Item = Run>, below: Lsn, kept: &Kept) {
        self.runs.extend(runs);
        self.sort_runs();
        if self.chunks.front().is_none_or(|chunk| chunk.lsn >= below) {
            return;
        }
        for chunk in std::mem::take(&mut self.chunks) {
            let (first, last) = (chunk.lsn, chunk.last().1);
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

    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
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
        let chunks = self.chunks.iter().take_while(|chunk| chunk.lsn < below);
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

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_storage::segment::SegmentId;

    fn run(first: u64, end: u64) -> Run {
        let (segment, stream, entries, bytes) = (SegmentId(1), 1, end - first, 100 * (end - first));
        Run { segment, stream, first, end, entries, bytes, position: 0, max_timestamp: 0 }
    }

    fn chunk(offsets: std::ops::Range<u64>) -> Chunk {
        let mut chunk = Chunk::new(offsets.start, 0, Lsn(800 + 8 * offsets.start), 8);
        assert!(offsets.skip(1).all(|offset| chunk.push(offset, 0, Lsn(800 + 8 * offset), 8)));
        chunk
    }

    /// Offsets and ends of runs, and the offsets that lie in the journal.
    fn places(index: &Index) -> (Vec<(u64, u64)>, Vec<u64>) {
        let in_journal = index.chunks.iter().flat_map(Chunk::places).map(|(offset, _)| offset);
        (index.runs.iter().map(|run| (run.first, run.end)).collect(), in_journal.collect())
    }

    #[test]
    fn an_offset_that_is_given_out_again_has_its_last_place_only() {
        for offset in 0..14 {
            let mut index = Index::default();
            index.restore(&[run(0, 2), run(5, 9)], &[chunk(2..5), chunk(9..12)]);
            index.add(&JournalEntry { offset, timestamp: 0, lsn: Lsn(9_000), bytes: 8 });
            assert!(index.is_in_order(), "{offset}");
            let (runs, in_journal) = places(&index);
            let expected: Vec<_> =
                [(0, 2), (5, 9)].iter().filter(|r| r.0 < offset).map(|r| (r.0, r.1.min(offset))).collect();
            assert_eq!(runs, expected, "{offset}");
            let expected: Vec<_> = (2..5).chain(9..12).filter(|at| *at < offset).chain([offset]).collect();
            assert_eq!(in_journal, expected, "{offset}");
            match index.place(offset, u64::MAX, offset + 1) {
                Place::Journal { entries, .. } => assert_eq!(entries.last(), Some(&(offset, Lsn(9_000)))),
                _ => panic!("{offset} is not where it was put last"),
            }
        }
    }

    #[test]
    fn a_checkpoint_that_tells_of_two_places_for_an_offset_is_put_in_order() {
        let mut index = Index::default();
        index.restore(&[run(4, 8), run(0, 2), run(7, 9)], &[chunk(1..6), chunk(5..7), chunk(7..11)]);
        assert!(index.is_in_order());
        assert_eq!(places(&index), (vec![(0, 2), (4, 8)], vec![2, 3, 8, 9, 10]));
        // No chunk reaches over a run.
        assert_eq!(index.chunks.iter().map(|chunk| chunk.offset).collect::<Vec<_>>(), [2, 8]);
    }

    #[test]
    fn checkpoints_are_told_of_everything_below_part_by_part() {
        let run = |first: u64| Run {
            segment: SegmentId(1),
            stream: 1,
            first,
            end: first + 1,
            entries: 1,
            bytes: 1,
            position: 0,
            max_timestamp: 0,
        };
        let count = 2 * TOLD_MAX as u64 + 5;
        let below = Lsn(800 + (count - 3) * 8);
        let mut index = Index::default();
        // Every entry takes three offsets; what follows the one at 30 and the last one of a part is in a run.
        index.runs.extend([run(32), run(3 * TOLD_MAX as u64 - 1)]);
        index.chunks.push_back(Chunk::new(0, 0, Lsn(800), 8));
        for at in 1..count {
            // Chunks end where runs begin.
            let (offset, lsn) = (3 * at, Lsn(800 + 8 * at));
            let is_behind = index.runs.iter().any(|run| (run.end..=run.end + 1).contains(&offset));
            let fits = !is_behind && index.chunks.back_mut().is_some_and(|it| it.push(offset, 0, lsn, 8));
            if !fits {
                index.chunks.push_back(Chunk::new(offset, 0, lsn, 8));
            }
        }
        let mut told: Vec<Located> = Vec::new();
        let mut from = Some(0);
        while let Some(next) = from {
            let (found, next) = index.in_journal(next, below);
            assert!(found.len() <= TOLD_MAX);
            told.extend(found);
            from = next;
        }
        assert_eq!(told.len() as u64, count - 3);
        for (at, place) in (0..).zip(&told) {
            let cut = [30, 3 * TOLD_MAX as u64 - 3].contains(&place.offset);
            let until = place.offset + if cut { 2 } else { 3 };
            assert_eq!((place.offset, place.until, place.lsn), (3 * at, until, Lsn(800 + 8 * at)));
        }
        // A part may begin anywhere.
        let (found, next) = index.in_journal(3 * count - 13, below);
        assert_eq!(found.first().map(|place| (place.offset, found.len())), Some((3 * count - 12, 1)));
        assert_eq!(next, None);
    }
}
