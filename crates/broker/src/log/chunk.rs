//! Where entries lie that follow one another in the journal.

use posthaste_storage::journal::Lsn;
use serde::{Deserialize, Serialize};

/// Entries of one log that lie in the journal, in order: one or two bytes for each that is small, because
/// only the way from one to the next is noted. Those whose file is kept are stored in checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredChunk", into = "StoredChunk")]
pub(crate) struct Chunk {
    pub offset: u64,
    pub lsn: Lsn,
    /// How far the last one is from the first: its offset; its LSN in units of 8, to which records are
    /// aligned.
    last: (u32, u32),
    count: u32,
    /// For each but the first, how far its LSN is from that of the one before, times two, plus one if its
    /// offset is not the next; in this case how far that is follows. In groups of seven bits, low ones first.
    steps: Vec<u8>,
    /// The latest.
    pub timestamp: i64,
    pub bytes: u64,
}

/// As checkpoints have it: each entry with its distance from the first.
#[derive(Serialize, Deserialize)]
struct StoredChunk {
    offset: u64,
    lsn: u64,
    entries: Vec<(u32, u32)>,
    timestamp: i64,
    bytes: u64,
}

/// Enough that what a chunk takes itself is little for each, few enough to go through them for one.
const ENTRIES_PER_CHUNK: u32 = 256;
/// A chunk that holds so much is full: retention lets go of whole ones.
const CHUNK_BYTES: u64 = 16 << 20;
const LSN_UNIT: u64 = 8;

impl Chunk {
    pub fn new(offset: u64, timestamp: i64, lsn: Lsn, bytes: u64) -> Chunk {
        Chunk { offset, lsn, last: (0, 0), count: 1, steps: Vec::new(), timestamp, bytes }
    }

    /// False when the entry does not fit here.
    pub fn push(&mut self, offset: u64, timestamp: i64, lsn: Lsn, bytes: u64) -> bool {
        if self.count >= ENTRIES_PER_CHUNK || self.bytes >= CHUNK_BYTES || !self.append(offset, lsn) {
            return false;
        }
        self.timestamp = self.timestamp.max(timestamp);
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    /// Notes an entry; false if it is too far away, or not behind the last one.
    fn append(&mut self, offset: u64, lsn: Lsn) -> bool {
        let distance =
            |a: u64, b: u64, unit: u64| a.checked_sub(b).and_then(|d| u32::try_from(d / unit).ok());
        match (distance(offset, self.offset, 1), distance(lsn.0, self.lsn.0, LSN_UNIT)) {
            (Some(offset), Some(lsn)) => self.step_to(offset, lsn),
            _ => false,
        }
    }

    /// Notes an entry by its distances from the first; false if it is not behind the last one.
    fn step_to(&mut self, offset: u32, lsn: u32) -> bool {
        let (Some(over), Some(on)) = (offset.checked_sub(self.last.0), lsn.checked_sub(self.last.1)) else {
            return false;
        };
        put(&mut self.steps, u64::from(on) << 1 | u64::from(over != 1));
        if over != 1 {
            put(&mut self.steps, u64::from(over));
        }
        self.last = (offset, lsn);
        self.count += 1;
        true
    }

    pub fn places(&self) -> Places<'_> {
        Places { next: Some((self.offset, self.lsn)), steps: &self.steps }
    }

    /// The last entry.
    pub fn last(&self) -> (u64, Lsn) {
        let (offset, lsn) = (u64::from(self.last.0), u64::from(self.last.1) * LSN_UNIT);
        // Read from a checkpoint, the first may be anything.
        (self.offset.saturating_add(offset), Lsn(self.lsn.0.saturating_add(lsn)))
    }

    /// Bytes of an entry.
    pub fn mean_bytes(&self) -> u64 {
        self.bytes / u64::from(self.count)
    }

    /// What lies below `below`; the first entry does.
    pub fn part_below(&self, below: Lsn) -> Chunk {
        if self.last().1 < below {
            return self.clone();
        }
        self.first(|(_, lsn)| *lsn < below)
    }

    /// What lies before the offset `before`; the first entry does.
    pub fn part_before(&self, before: u64) -> Chunk {
        self.first(|(offset, _)| *offset < before)
    }

    /// The first entry, and those behind it for as long as they are `wanted`.
    fn first(&self, wanted: impl Fn(&(u64, Lsn)) -> bool) -> Chunk {
        let mut part = Chunk::new(self.offset, self.timestamp, self.lsn, 0);
        for (offset, lsn) in self.places().skip(1).take_while(wanted) {
            part.append(offset, lsn);
        }
        part.bytes = self.mean_bytes().saturating_mul(u64::from(part.count));
        part
    }
}

/// Offsets and LSNs of entries.
#[derive(Clone)]
pub(crate) struct Places<'a> {
    next: Option<(u64, Lsn)>,
    steps: &'a [u8],
}

impl Places<'_> {
    /// From the last entry on that begins at `offset` or before, which may contain it; all if none does.
    pub fn around(mut self, offset: u64) -> Self {
        let mut found = self.clone();
        loop {
            let here = self.clone();
            match self.next() {
                Some((first, _)) if first <= offset => found = here,
                _ => return found,
            }
        }
    }

    fn step(&mut self) -> Option<(u64, u64)> {
        let word = take(&mut self.steps)?;
        let over = if word & 1 == 0 { 1 } else { take(&mut self.steps)? };
        Some((over, (word >> 1) * LSN_UNIT))
    }
}

impl Iterator for Places<'_> {
    type Item = (u64, Lsn);

    fn next(&mut self) -> Option<(u64, Lsn)> {
        let (offset, lsn) = self.next?;
        let step = self.step();
        self.next = step.map(|(over, on)| (offset.saturating_add(over), Lsn(lsn.0.saturating_add(on))));
        Some((offset, lsn))
    }
}

impl From<Chunk> for StoredChunk {
    fn from(chunk: Chunk) -> StoredChunk {
        // What fits into a chunk is never further away than this can tell.
        let near = |distance: u64| u32::try_from(distance).unwrap_or(u32::MAX);
        let distances =
            |(offset, lsn): (u64, Lsn)| (near(offset - chunk.offset), near((lsn.0 - chunk.lsn.0) / LSN_UNIT));
        let entries = chunk.places().map(distances).collect();
        let Chunk { offset, lsn, timestamp, bytes, .. } = chunk;
        StoredChunk { offset, lsn: lsn.0, entries, timestamp, bytes }
    }
}

impl TryFrom<StoredChunk> for Chunk {
    type Error = &'static str;

    fn try_from(stored: StoredChunk) -> Result<Chunk, &'static str> {
        let StoredChunk { offset, lsn, entries, timestamp, bytes } = stored;
        let mut chunk = Chunk::new(offset, timestamp, Lsn(lsn), bytes);
        let mut entries = entries.into_iter();
        if entries.next() != Some((0, 0)) {
            return Err("places in the journal do not begin with the first");
        }
        if !entries.all(|(offset, lsn)| chunk.step_to(offset, lsn)) {
            return Err("places in the journal are not in order");
        }
        Ok(chunk)
    }
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            *bytes = bytes.get(at + 1..)?;
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries that are near and far, with gaps between their offsets.
    fn entries() -> Vec<(u64, Lsn)> {
        let steps = [(1, 128), (1, 512), (1, 504), (2, 8), (1_000, 1 << 20), (1, 0), (0, 64), (1, 8 << 28)];
        let mut at = (7, Lsn(4_096));
        let following = steps.iter().map(|(over, on)| {
            at = (at.0 + over, Lsn(at.1.0 + on));
            at
        });
        [(7, Lsn(4_096))].into_iter().chain(following).collect()
    }

    fn chunk() -> Chunk {
        let mut entries = entries().into_iter();
        let (offset, lsn) = entries.next().unwrap();
        let mut chunk = Chunk::new(offset, 5, lsn, 10);
        assert!(entries.all(|(offset, lsn)| chunk.push(offset, 6, lsn, 10)));
        chunk
    }

    #[test]
    fn places_come_back_as_they_were() {
        let (chunk, entries) = (chunk(), entries());
        assert_eq!(chunk.places().collect::<Vec<_>>(), entries);
        assert_eq!(Some(chunk.last()), entries.last().copied());
        assert_eq!((chunk.mean_bytes(), chunk.timestamp), (10, 6));
        for offset in 0..2_000 {
            let around = entries.iter().rposition(|(first, _)| *first <= offset).unwrap_or(0);
            assert_eq!(chunk.places().around(offset).collect::<Vec<_>>(), entries[around..], "{offset}");
        }
    }

    #[test]
    fn entries_that_do_not_follow_are_refused() {
        let mut chunk = chunk();
        let (offset, lsn) = chunk.last();
        for (offset, lsn) in [(offset - 1, lsn), (offset, Lsn(lsn.0 - 8)), (0, lsn), (u64::MAX, lsn)] {
            let before = chunk.clone();
            assert!(!chunk.push(offset, 0, lsn, 1), "{offset} {lsn:?}");
            assert_eq!(chunk, before);
        }
    }

    #[test]
    fn small_messages_that_follow_one_another_take_one_or_two_bytes() {
        for (stride, each) in [(504, 1), (512, 2), (32_760, 2)] {
            let mut chunk = Chunk::new(0, 0, Lsn(0), stride);
            let pushed = (1..).take_while(|at| chunk.push(*at, 0, Lsn(at * stride), stride)).count();
            assert_eq!(pushed as u32, ENTRIES_PER_CHUNK - 1);
            assert_eq!(chunk.steps.len(), pushed * each, "{stride}");
        }
    }

    #[test]
    fn a_part_holds_what_lies_below() {
        let (chunk, entries) = (chunk(), entries());
        for below in entries.iter().flat_map(|(_, lsn)| [lsn.0.max(4_097), lsn.0 + 1]) {
            let part = chunk.part_below(Lsn(below));
            let expected: Vec<_> = entries.iter().copied().take_while(|(_, lsn)| lsn.0 < below).collect();
            assert_eq!(part.places().collect::<Vec<_>>(), expected);
            assert_eq!(part.bytes, 10 * expected.len() as u64);
        }
    }

    #[test]
    fn a_part_of_a_chunk_that_an_earlier_version_made_larger_lacks_nothing() {
        let entries: Vec<(u32, u32)> = (0..512).map(|at| (at, 2 * at)).collect();
        let chunk = StoredChunk { offset: 0, lsn: 0, entries, timestamp: 0, bytes: 512 };
        let part = Chunk::try_from(chunk).unwrap().part_below(Lsn(400 * 16));
        assert_eq!(part.places().count(), 400);
    }

    #[test]
    fn checkpoints_of_before_are_read() {
        let entries: Vec<(u32, u32)> = vec![(0, 0), (1, 16), (2, 80), (5, 81)];
        let stored = (7_u64, 64_u64, entries.clone(), 5_i64, 40_u64);
        let bytes = postcard::to_allocvec(&stored).unwrap();
        let chunk: Chunk = postcard::from_bytes(&bytes).unwrap();
        let places =
            entries.iter().map(|(offset, lsn)| (7 + u64::from(*offset), Lsn(64 + u64::from(*lsn) * 8)));
        assert_eq!(chunk.places().collect::<Vec<_>>(), places.collect::<Vec<_>>());
        assert_eq!(postcard::to_allocvec(&chunk).unwrap(), bytes);
        let wrong: [&[(u32, u32)]; 4] =
            [&[], &[(1, 0)], &[(0, 0), (2, 9), (1, 10)], &[(0, 0), (1, 9), (2, 8)]];
        for wrong in wrong {
            let stored = (7_u64, 64_u64, wrong, 5_i64, 40_u64);
            let bytes = postcard::to_allocvec(&stored).unwrap();
            assert!(postcard::from_bytes::<Chunk>(&bytes).is_err(), "{wrong:?}");
        }
    }
}
