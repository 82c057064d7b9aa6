//! Journal files that stay when a checkpoint is made: messages and batches that are large are written once,
//! in place of being copied into segments.

use crate::{
    damage::{Damage, DamageKind, object_of},
    log::Chunk,
    open::Recovered,
};
use posthaste_engine::{
    Event,
    planted::{self, Bug},
};
use posthaste_storage::journal::{FileExtent, Journal, Lsn};
use std::{collections::BTreeSet, ops::Range};

/// Entries in kept files, over all. Each takes up to 8 bytes in checkpoints, and less of memory.
const ENTRIES_MAX: u64 = 1 << 20;
/// Kept files; each is open.
const FILES_MAX: usize = 1_024;

/// Files whose entries stay where they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// By start.
    files: Vec<FileExtent>,
}

/// Counts what is wanted of each file.
pub(crate) struct Tally {
    files: Vec<(FileExtent, Wanted)>,
}

#[derive(Clone, Copy, Default)]
struct Wanted {
    entries: u64,
    bytes: u64,
}

impl Tally {
    /// `files` are those that could be kept, in order.
    pub fn new(files: Vec<FileExtent>) -> Tally {
        Tally { files: files.into_iter().map(|file| (file, Wanted::default())).collect() }
    }

    /// An entry that is wanted.
    pub fn count(&mut self, lsn: Lsn, bytes: u64) {
        let behind = self.files.partition_point(|(file, _)| file.start <= lsn);
        let file = behind.checked_sub(1).and_then(|at| self.files.get_mut(at));
        if let Some((_, wanted)) = file.filter(|(file, _)| lsn < file.end) {
            wanted.entries += 1;
            wanted.bytes = wanted.bytes.saturating_add(bytes);
        }
    }

    /// The files of which at least half is wanted, in entries of on average at least `entry_bytes_min`: as
    /// many of the newest as there is memory for.
    pub fn choose(&self, entry_bytes_min: u64) -> Kept {
        let mut entries = 0;
        let mut files = Vec::new();
        for (file, wanted) in self.files.iter().rev() {
            let large = wanted.bytes >= wanted.entries.saturating_mul(entry_bytes_min);
            if wanted.entries == 0 || !large || wanted.bytes < file.bytes / 2 {
                continue;
            }
            entries += wanted.entries;
            if entries > ENTRIES_MAX || files.len() == FILES_MAX {
                break;
            }
            files.push(*file);
        }
        files.reverse();
        Kept { files }
    }
}

impl Kept {
    /// Those of `files`, in order, in which one of `places` lies.
    pub fn holding(files: Vec<FileExtent>, places: impl Iterator<Item = Lsn>) -> Kept {
        let mut tally = Tally::new(files);
        places.for_each(|lsn| tally.count(lsn, 0));
        let holding = tally.files.into_iter().filter(|(_, wanted)| wanted.entries > 0);
        Kept { files: holding.map(|(file, _)| file).collect() }
    }

    pub fn holds(&self, lsn: Lsn) -> bool {
        self.file(lsn).is_some()
    }

    /// Whether both are in the same file.
    pub fn hold_together(&self, first: Lsn, last: Lsn) -> bool {
        self.file(first).is_some_and(|file| last >= file.start && last < file.end)
    }

    /// Whether anything from `first` to `last` may be in one of them.
    pub fn touch(&self, first: Lsn, last: Lsn) -> bool {
        let at = self.files.partition_point(|file| file.end <= first);
        self.files.get(at).is_some_and(|file| file.start <= last)
    }

    pub fn starts(&self) -> BTreeSet<Lsn> {
        self.files.iter().map(|file| file.start).collect()
    }

    fn file(&self, lsn: Lsn) -> Option<&FileExtent> {
        let behind = self.files.partition_point(|file| file.start <= lsn);
        self.files.get(behind.checked_sub(1)?).filter(|file| lsn < file.end)
    }
}

/// The streams that an event closes.
pub(crate) fn closed_by(event: &Event) -> Range<u64> {
    match event {
        Event::PartitionClosed { partition } => partition.0..partition.0 + 1,
        Event::QueueClosed { queue, lanes } => queue.0..queue.0 + u64::from(*lanes),
        _ => 0..0,
    }
}

impl Recovered {
    /// Readers find what the checkpoint knows the places of.
    pub fn index_places(&mut self) {
        let streams: BTreeSet<u64> = self.runs.keys().chain(self.kept.keys()).copied().collect();
        for stream in streams {
            let runs = self.runs.get(&stream).map_or(&[][..], Vec::as_slice);
            let kept = self.kept.get(&stream).filter(|_| !planted::strikes(Bug::ForgetKept));
            let kept = kept.map_or(&[][..], Vec::as_slice);
            let covered = kept.last().map_or(0, |chunk| chunk.last().0.saturating_add(1));
            let covered = covered.max(runs.last().map_or(0, |run| run.end));
            self.covered.insert(stream, covered);
            let log = self.logs.find_or_add(stream);
            log.extend(covered);
            log.restore(runs, kept);
        }
    }

    /// The places of messages go with their stream: one that is opened again under its number begins anew.
    pub fn forget_places(&mut self, streams: Range<u64>) {
        for stream in streams {
            self.logs.remove(stream);
            self.covered.remove(&stream);
            self.kept.remove(&stream);
        }
    }

    /// The journal files in which something stayed.
    pub fn kept_files(&self, journal: &Journal) -> Kept {
        let places = self.kept.values().flatten().flat_map(|chunk| chunk.places().map(|(_, lsn)| lsn));
        Kept::holding(journal.files_below(journal.end()), places)
    }

    /// What is wanted and stayed in a journal file that is not there.
    pub fn missing_places(&self, kept: &Kept) -> Vec<Damage> {
        let mut damage = Vec::new();
        for stream in self.shards.iter().flat_map(|shard| shard.streams()) {
            let chunks = self.kept.get(&stream.id).map_or(&[][..], Vec::as_slice);
            let mut lost: Option<(u64, u64)> = None;
            for (offset, lsn) in chunks.iter().flat_map(Chunk::places) {
                if offset >= stream.start && !kept.holds(lsn) {
                    let first = lost.map_or(offset, |(first, _)| first);
                    lost = Some((first, offset + 1));
                }
            }
            if let Some((from, to)) = lost {
                let told = Damage::new(DamageKind::Messages, "messages lost with a missing journal file");
                damage.push(told.with_offsets(object_of(&self.catalog, stream.id), from, to));
            }
        }
        damage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{environment::Work, record};
    use posthaste_engine::event::PartitionSpec;
    use posthaste_model::{Format, PartitionId, Payload, Timestamp, TopicId};
    use posthaste_storage::{
        journal::RecordRef,
        segment::{Run, SegmentId},
    };

    /// As the journal tells of it.
    fn replay(recovered: &mut Recovered, lsn: u64, event: Event) {
        let mut head = vec![0];
        event.encode(&mut head);
        assert!(record::decode(&head).is_ok());
        let record = RecordRef { shard: 0, joined: false, head: &head, body: &[] };
        recovered.replay(Lsn(lsn), record);
    }

    #[test]
    fn a_partition_that_is_opened_again_has_no_place_of_before() {
        let partition = PartitionId(7);
        let mut recovered = Recovered::new(1, Work::Here);
        let (stream, segment) = (partition.0, SegmentId(4));
        let (entries, bytes, position, max_timestamp) = (4, 400, 0, 5);
        let run = Run { segment, stream, first: 2, end: 6, entries, bytes, position, max_timestamp };
        recovered.runs.insert(stream, vec![run]);
        recovered.kept.insert(stream, vec![Chunk::new(1, 5, Lsn(800), 100)]);
        recovered.index_places();
        replay(&mut recovered, 9_000, Event::PartitionClosed { partition });
        let spec = PartitionSpec { topic: TopicId(7), index: 0, sync: true };
        replay(&mut recovered, 9_100, Event::PartitionOpened { partition, spec });
        for offset in 0..3 {
            let payload = Payload { format: Format(3), head: Default::default(), body: Default::default() };
            let (span, timestamp, producer, envelope) = (1, Timestamp(0), None, None);
            let appended =
                Event::Appended { partition, offset, span, timestamp, producer, envelope, payload };
            replay(&mut recovered, 9_200 + 80 * offset, appended);
        }
        let log = recovered.logs.find(stream).expect("the new partition's log");
        assert_eq!(log.runs(), []);
        let places: Vec<_> = log.in_journal(Lsn(u64::MAX)).map(|place| (place.offset, place.lsn.0)).collect();
        assert_eq!(places, [(0, 9_200), (1, 9_280), (2, 9_360)]);
        assert_eq!(log.end(), 3);
        assert!(recovered.kept.is_empty());
    }

    const FILE: u64 = 1_000;

    fn files(count: u64) -> Vec<FileExtent> {
        let file = |at| FileExtent { start: Lsn(at * FILE), end: Lsn((at + 1) * FILE), bytes: FILE };
        (0..count).map(file).collect()
    }

    #[test]
    fn files_are_kept_that_are_half_wanted_in_large_entries() {
        // By file, entries and their bytes; and whether it is kept.
        let cases = [
            (vec![], false),
            (vec![500], true),
            (vec![499], false),
            (vec![100; 9], true),
            (vec![99; 9], false),
            (vec![20, 180, 100, 300], true),
        ];
        let mut tally = Tally::new(files(cases.len() as u64));
        for (at, (entries, _)) in (0..).zip(&cases) {
            let mut lsn = at * FILE;
            for bytes in entries {
                tally.count(Lsn(lsn), *bytes);
                lsn += bytes;
            }
        }
        let kept = tally.choose(100);
        for (at, (entries, expected)) in (0..).zip(&cases) {
            assert_eq!(kept.holds(Lsn(at * FILE)), *expected, "{entries:?}");
            assert_eq!(kept.holds(Lsn(at * FILE + FILE - 1)), *expected, "{entries:?}");
            assert_eq!(kept.starts().contains(&Lsn(at * FILE)), *expected, "{entries:?}");
        }
        assert!(kept.hold_together(Lsn(FILE), Lsn(2 * FILE - 1)));
        assert!(!kept.hold_together(Lsn(FILE), Lsn(2 * FILE)));
        assert!(!kept.holds(Lsn(cases.len() as u64 * FILE)));
        assert!(kept.touch(Lsn(0), Lsn(FILE)) && !kept.touch(Lsn(0), Lsn(FILE - 1)));
        assert!(kept.touch(Lsn(2 * FILE - 1), Lsn(9 * FILE)) && !kept.touch(Lsn(9 * FILE), Lsn(9 * FILE)));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let count = FILES_MAX as u64 + 2;
        let mut tally = Tally::new(files(count));
        (0..count).for_each(|at| tally.count(Lsn(at * FILE), FILE));
        let kept = tally.choose(1);
        assert_eq!(kept.starts().len(), FILES_MAX);
        assert!(!kept.holds(Lsn(FILE)) && kept.holds(Lsn(2 * FILE)));
    }
}
