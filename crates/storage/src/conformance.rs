//! What every disk, journal home and segment store must do: each home's tests call these. They panic on a
//! breach.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;

use crate::Random;
use crate::buffer::Buffer;
use crate::disk::{BLOCK_BYTES, Disk};
use crate::journal::{
    Batch, Blocks, Completion, Drive, HomeFile, Journal, JournalConfig, JournalHome, Lsn, RecordRef,
    RecoveryReport, StepOutcome,
};
use crate::segment::{SegmentId, SegmentStore, Segments};

/// Checks a disk; `make` gives an empty one each time.
pub fn disk(mut make: impl FnMut() -> Arc<dyn Disk>) {
    files_keep_what_was_written(&*make());
    names_behave(&*make());
    locks_exclude(&*make());
}

/// Checks a journal home; `make` gives an empty one each time.
pub fn journal_home(mut make: impl FnMut() -> Arc<dyn JournalHome>) {
    home_files_behave(&*make());
    frames_follow_one_another_either_way(&*make());
    journal(|| opener(make()));
    released_files_are_used_again(make());
}

/// Opens the same journal again and again.
pub type OpenJournal =
    Box<dyn Fn(JournalConfig, Lsn, &mut Replay<'_>, Completed) -> (Journal, RecoveryReport)>;

type Replay<'a> = dyn FnMut(Lsn, RecordRef<'_>) + 'a;
type Completed = Box<dyn FnMut(Completion) + Send>;

/// Checks a journal; `make` gives the opener of an empty one each time.
pub fn journal(mut make: impl FnMut() -> OpenJournal) {
    a_closed_journal_replays_everything(make());
    a_left_journal_replays_everything(make());
    released_records_are_not_needed(make());
    a_large_batch_gets_a_file_of_its_own(make());
}

fn opener(home: Arc<dyn JournalHome>) -> OpenJournal {
    Box::new(move |config, from, replay, completed| {
        Journal::open_home(home.clone(), config, from, replay, completed).unwrap()
    })
}

/// Checks a segment store; `make` gives an empty one each time.
pub fn segment_store(mut make: impl FnMut() -> Arc<dyn SegmentStore>) {
    store_behaves(&*make());
    segments_survive_reopening(make());
}

fn files_keep_what_was_written(disk: &dyn Disk) {
    disk.create_dir("a/b").unwrap();
    let file = disk.create("a/b/file").unwrap();
    assert_eq!(file.size().unwrap(), 0);
    file.write_at(5, &[IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two")]).unwrap();
    assert_eq!(file.size().unwrap(), 11);
    file.allocate(4000).unwrap();
    file.allocate(10).unwrap();
    assert_eq!(file.size().unwrap(), 4000);
    let reserved = disk.create("a/b/reserved").unwrap();
    reserved.reserve(9_000).unwrap();
    assert_eq!(reserved.size().unwrap(), 9_000);
    let mut blank = [1; 9_000];
    assert_eq!(reserved.read_at(0, &mut blank).unwrap(), 9_000);
    assert_eq!(blank, [0; 9_000]);
    let parts: Vec<Vec<u8>> = (0..3000_u32).map(|part| part.to_le_bytes().to_vec()).collect();
    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_at(1000, &slices).unwrap();
    file.sync_data().unwrap();
    let again = disk.open("a/b/file").unwrap();
    assert_eq!(again.size().unwrap(), 13_000);
    let mut bytes = vec![9; 20_000];
    assert_eq!(again.read_at(0, &mut bytes).unwrap(), 13_000);
    assert_eq!(&bytes[..14], b"\0\0\0\0\0onetwo\0\0\0");
    assert_eq!(bytes[1000..13_000], parts.concat());
    assert_eq!(again.read_at(13_000, &mut bytes).unwrap(), 0);
    assert_eq!(again.read_at(1 << 40, &mut bytes).unwrap(), 0);
    again.write_at(2, &[IoSlice::new(b"x")]).unwrap();
    assert_eq!(file.read_at(2, &mut bytes[..1]).unwrap(), 1);
    assert_eq!(bytes[0], b'x');
    let mut blocks = Buffer::new(100 * BLOCK_BYTES);
    blocks.fill(7);
    file.write_blocks(2 * BLOCK_BYTES as u64, &blocks).unwrap();
    file.write_at(9_000, &[IoSlice::new(b"amid")]).unwrap();
    file.write_blocks(3 * BLOCK_BYTES as u64, &blocks[BLOCK_BYTES..]).unwrap();
    let mut read = Buffer::new(110 * BLOCK_BYTES);
    let uncached = disk.open("a/b/file").unwrap();
    uncached.assume_uncached();
    for (index, file) in [&file, &again, &file, &uncached, &uncached, &file, &again].into_iter().enumerate() {
        let past_cache = index >= 5;
        read.fill(0);
        let length = if past_cache { file.read_blocks(0, &mut read) } else { file.read_at(0, &mut read) };
        assert_eq!(length.unwrap(), 102 * BLOCK_BYTES);
        assert_eq!(read[7_000..8_192], bytes[7_000..8_192]);
        let written = &mut read[2 * BLOCK_BYTES..102 * BLOCK_BYTES];
        assert_eq!(&written[807..813], b"\x07amid\x07");
        written[808..812].fill(7);
        assert!(*written == *blocks);
    }
    uncached.write_at(9_000, &[IoSlice::new(b"later")]).unwrap();
    assert_eq!(uncached.read_at(0, &mut read).unwrap(), 102 * BLOCK_BYTES);
    assert_eq!(&read[8_999..9_006], b"\x07later\x07");
    let mut last = Buffer::new(64 * BLOCK_BYTES);
    file.write_at(102 * BLOCK_BYTES as u64, &[IoSlice::new(b"the end")]).unwrap();
    assert_eq!(file.read_blocks(101 * BLOCK_BYTES as u64, &mut last).unwrap(), BLOCK_BYTES + 7);
    assert_eq!(&last[BLOCK_BYTES - 1..BLOCK_BYTES + 7], b"\x07the end");
    assert_eq!(file.read_blocks(200 * BLOCK_BYTES as u64, &mut last).unwrap(), 0);
}

fn names_behave(disk: &dyn Disk) {
    let kind = |outcome: Result<(), std::io::Error>| outcome.err().map(|error| error.kind());
    assert_eq!(kind(disk.open("none").map(drop)), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.create("none/file").map(drop)), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.remove("none")), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.rename("none", "other")), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.list("none").map(drop)), Some(ErrorKind::NotFound));
    disk.create_dir("dir").unwrap();
    disk.create_dir("dir").unwrap();
    let first = disk.create("dir/first").unwrap();
    first.write_at(0, &[IoSlice::new(b"first")]).unwrap();
    disk.create("dir/second").unwrap();
    assert_eq!(kind(disk.create("dir/first").map(drop)), Some(ErrorKind::AlreadyExists));
    disk.rename("dir/first", "dir/second").unwrap();
    disk.sync_dir("dir").unwrap();
    disk.sync_dir(".").unwrap();
    let entries = disk.list("dir").unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].name.as_str(), entries[0].bytes, entries[0].is_dir), ("second", 5, false));
    let root = disk.list(".").unwrap();
    assert!(root.iter().any(|entry| entry.name == "dir" && entry.is_dir));
    disk.remove("dir/second").unwrap();
    let mut bytes = [0; 5];
    assert_eq!(first.read_at(0, &mut bytes).unwrap(), 5, "open files outlive their names");
    assert_eq!(disk.list("dir").unwrap(), []);
}

fn locks_exclude(disk: &dyn Disk) {
    let lock = disk.lock("lock").unwrap();
    assert_eq!(disk.lock("lock").err().map(|error| error.kind()), Some(ErrorKind::WouldBlock));
    drop(lock);
    drop(disk.lock("lock").unwrap());
}

fn home_files_behave(home: &dyn JournalHome) {
    assert_eq!(home.list().unwrap(), []);
    let file = home.create(7, 65_536, Blocks::Written(&mut || true)).unwrap();
    home.create(3, 8192, Blocks::Reserved).unwrap();
    assert!(home.create(7, 8192, Blocks::Reserved).is_err());
    assert!(home.create(7, 8192, Blocks::Written(&mut || true)).is_err());
    let mut listed = home.list().unwrap();
    listed.sort_unstable();
    assert_eq!(listed, [(3, 8192), (7, 65_536)]);
    let mut bytes = vec![1; 100];
    assert_eq!(file.read_at(65_500, &mut bytes).unwrap(), 36);
    assert!(bytes[..36].iter().all(|byte| *byte == 0));
    file.write_at(100, &[IoSlice::new(b"one"), IoSlice::new(b"two")], true).unwrap();
    file.sync().unwrap();
    let again = home.open(7).unwrap();
    assert_eq!((again.bytes(), again.read_at(100, &mut bytes[..6]).unwrap()), (65_536, 6));
    assert_eq!(&bytes[..6], b"onetwo");
    assert_eq!(home.open(3).unwrap().read_at(8150, &mut bytes).unwrap(), 42);
    assert!(bytes[..42].iter().all(|byte| *byte == 0));
    home.remove(3).unwrap();
    home.set_aside(7).unwrap();
    assert_eq!(home.list().unwrap(), []);
    assert!(home.open(3).is_err());
}

/// Whether a sync follows or not, a write leaves what precedes it as it was, also when it begins amid a
/// block, and when the file is used again.
fn frames_follow_one_another_either_way(home: &dyn JournalHome) {
    // The first one ends amid a block.
    let files = [(1, 700_001), (2, 4 << 20), (3, 1 << 20)].map(|(number, bytes)| (number, bytes as usize));
    let opened = files.map(|(number, bytes)| {
        let blocks = if number == 3 { Blocks::Reserved } else { Blocks::Written(&mut || true) };
        home.create(number, bytes as u64, blocks).unwrap()
    });
    let mut random = Random::new(1);
    for life in 0..3 {
        let mut contents = files.map(|(_, bytes)| Vec::with_capacity(bytes));
        for frame in 0..400 {
            let index = frame / 7 % files.len();
            let (file, content, bytes) = (&opened[index], &mut contents[index], files[index].1);
            let length = match random.below(20) {
                0 => random.below(1_300_000),
                1 => 4096 * random.below(4),
                _ => random.below(9_000),
            } as usize;
            // Lives differ in how far they come.
            let length = length.min((bytes - 20_000 * life).saturating_sub(content.len()));
            let position = content.len();
            content.extend((0..length).map(|at| (at * 7 + at / 4096 + frame + life) as u8));
            let (first, second) = content[position..].split_at(length / 3);
            let sync_follows = frame / 10 % 3 > 0 || random.chance(1, 2);
            file.write_at(position as u64, &[IoSlice::new(first), IoSlice::new(second)], sync_follows)
                .unwrap();
            if random.chance(1, 4) {
                assert!(read_back(&**file, content.len()) == *content, "life {life}, frame {frame}");
            }
        }
        for ((file, content), (number, bytes)) in opened.iter().zip(&contents).zip(files) {
            file.sync().unwrap();
            let again = home.open(number).unwrap();
            assert_eq!(again.bytes(), bytes as u64);
            assert!(read_back(&*again, content.len()) == *content, "life {life}, file {number}");
        }
    }
}

/// In parts of a size that a disk may treat in a way of its own.
fn read_back(file: &dyn HomeFile, length: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(length);
    while content.len() < length {
        let mut part = Buffer::new((256 << 10).min(file.bytes() as usize - content.len()));
        assert_eq!(file.read_at(content.len() as u64, &mut part).unwrap(), part.len());
        content.extend_from_slice(&part);
    }
    content.truncate(length);
    content
}

/// LSN, shard, head, body.
type Record = (u64, u16, Vec<u8>, Vec<u8>);

/// A journal that the suite drives, and what it acknowledged.
struct Driven {
    journal: Journal,
    report: RecoveryReport,
    replayed: Vec<Record>,
    written: Vec<Record>,
    completions: mpsc::Receiver<Completion>,
    number: u64,
}

impl Driven {
    fn open(open: &OpenJournal, from: Lsn) -> Driven {
        let (sender, completions) = mpsc::channel();
        let mut replayed = Vec::new();
        let config = JournalConfig {
            file_bytes: 64 << 10,
            first_file_bytes: 16 << 10,
            ring_bytes: 0,
            reserve_bytes: 0,
            drive: Drive::Steps,
            ..JournalConfig::default()
        };
        let (journal, report) = open(
            config,
            from,
            &mut |lsn, record| {
                replayed.push((lsn.0, record.shard, record.head.to_vec(), record.body.to_vec()))
            },
            Box::new(move |completion| sender.send(completion).unwrap_or_default()),
        );
        Driven { journal, report, replayed, written: Vec::new(), completions, number: 0 }
    }

    fn write(&mut self, body_bytes: usize) -> Lsn {
        let mut batch = Batch::new(1, self.number);
        let (head, body) = (self.number.to_le_bytes(), vec![self.number as u8; body_bytes]);
        let distance =
            batch.push(9, false, &Bytes::from(body.clone()), |buffer| buffer.extend_from_slice(&head));
        batch.require_sync();
        self.journal.submit(batch);
        // A journal that cannot be stepped has a writer thread of its own.
        assert!(matches!(self.journal.step(), StepOutcome::Committed | StepOutcome::Idle));
        let completion = self.completions.recv().unwrap();
        assert!(completion.synced && completion.number == self.number);
        assert!(self.journal.durable() > completion.base);
        let lsn = Lsn(completion.base.0 + distance);
        self.number += 1;
        let stored = self.journal.read(lsn).unwrap();
        assert_eq!((stored.shard, &stored.head[..], &stored.body[..]), (9, &head[..], &body[..]));
        self.written.push((lsn.0, 9, head.to_vec(), body));
        lsn
    }
}

fn a_closed_journal_replays_everything(open: OpenJournal) {
    let mut first = Driven::open(&open, Lsn(0));
    assert_eq!(first.replayed, []);
    for body_bytes in 0..200 {
        first.write(body_bytes * 13);
    }
    first.journal.close().unwrap();
    let second = Driven::open(&open, Lsn(0));
    assert!(second.report.clean_shutdown && second.report.quarantined.is_empty());
    assert!(second.replayed == first.written);
    drop(second);
    let middle = Lsn(first.written[100].0);
    let third = Driven::open(&open, middle);
    assert!(!third.report.clean_shutdown);
    assert!(third.replayed == first.written[100..]);
}

fn a_left_journal_replays_everything(open: OpenJournal) {
    let mut written = Vec::new();
    for life in 0..10 {
        let mut driven = Driven::open(&open, Lsn(0));
        assert!(driven.replayed == written, "life {life}");
        assert!(!driven.report.clean_shutdown && driven.report.quarantined.is_empty());
        for body_bytes in 0..life * 10 {
            driven.write(body_bytes * 31);
        }
        written.append(&mut driven.written);
    }
}

fn released_records_are_not_needed(open: OpenJournal) {
    let mut driven = Driven::open(&open, Lsn(0));
    for life in 0..4 {
        let lsns: Vec<Lsn> = (0..20).map(|_| driven.write(1000)).collect();
        driven.journal.release(lsns[10], &BTreeSet::new());
        let kept = driven.written.split_off(driven.written.len() - 10);
        drop(driven);
        driven = Driven::open(&open, lsns[10]);
        assert!(driven.report.quarantined.is_empty(), "life {life}: {:?}", driven.report);
        assert!(driven.replayed == kept, "life {life}");
        driven.written = kept;
    }
}

fn released_files_are_used_again(home: Arc<dyn JournalHome>) {
    let open = opener(home.clone());
    let mut driven = Driven::open(&open, Lsn(0));
    for round in 0..2000 {
        let lsn = driven.write(1000);
        driven.journal.step();
        if round % 10 == 9 {
            driven.journal.release(lsn, &BTreeSet::new());
            driven.written = driven.written.split_off(driven.written.len() - 1);
            driven.journal.step();
        }
    }
    let files = home.list().unwrap();
    assert!(files.len() <= 8, "{} files for 2 MB of which the last 10 kB are needed", files.len());
    assert!(files.iter().all(|(number, _)| *number < 12), "files are recycled, not made anew");
    let from = Lsn(driven.written[0].0);
    let written = std::mem::take(&mut driven.written);
    drop(driven);
    let again = Driven::open(&open, from);
    assert!(again.report.quarantined.is_empty() && again.replayed == written);
}

fn a_large_batch_gets_a_file_of_its_own(open: OpenJournal) {
    let mut driven = Driven::open(&open, Lsn(0));
    for body_bytes in [10, 300_000, 10, 200_000, 70_000, 10] {
        driven.write(body_bytes);
    }
    let written = std::mem::take(&mut driven.written);
    drop(driven);
    assert!(Driven::open(&open, Lsn(0)).replayed == written);
}

fn store_behaves(store: &dyn SegmentStore) {
    assert_eq!(store.list().unwrap(), []);
    let mut sink = store.create(SegmentId(2)).unwrap();
    sink.append(b"one").unwrap();
    sink.append(b"two").unwrap();
    assert_eq!(store.list().unwrap(), [], "nobody sees it before it is published");
    sink.sync().unwrap();
    let mut bytes = [0; 8];
    assert_eq!(sink.read_at(1, &mut bytes).unwrap(), 5);
    assert_eq!(&bytes[..5], b"netwo");
    sink.publish().unwrap();
    assert_eq!(store.list().unwrap(), [(SegmentId(2), 6)]);
    let mut dropped = store.create(SegmentId(3)).unwrap();
    dropped.append(b"gone").unwrap();
    drop(dropped);
    let mut replaced = store.create(SegmentId(2)).unwrap();
    replaced.append(b"three").unwrap();
    replaced.sync().unwrap();
    replaced.publish().unwrap();
    assert_eq!(store.list().unwrap(), [(SegmentId(2), 5)]);
    let file = store.open(SegmentId(2)).unwrap();
    assert_eq!((file.bytes(), file.read_at(0, &mut bytes).unwrap()), (5, 5));
    assert_eq!(&bytes[..5], b"three");
    assert!(store.open(SegmentId(3)).is_err());
    store.remove(SegmentId(2)).unwrap();
    assert_eq!(store.list().unwrap(), []);
    assert!(store.open(SegmentId(2)).is_err());
}

fn segments_survive_reopening(store: Arc<dyn SegmentStore>) {
    let segments = Segments::open(store.clone()).unwrap();
    let mut runs = Vec::new();
    for id in 0..5 {
        let mut writer = segments.writer(SegmentId(id));
        for stream in 0..20 {
            (0..20).for_each(|offset| {
                writer.append(stream, offset, 1, offset as i64, b"head", &[id as u8; 500])
            });
        }
        runs.extend(writer.finish().unwrap());
    }
    segments.remove(SegmentId(3));
    let again = Segments::open(store).unwrap();
    assert_eq!(again.list().iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [0, 1, 2, 4]);
    for run in &runs {
        match again.read(run, 7, usize::MAX / 2, 100) {
            Ok(entries) => {
                assert_eq!((entries.len(), entries[0].offset), (13, 7));
                assert!(entries.iter().all(|entry| entry.body[..] == [run.segment.0 as u8; 500]));
            }
            Err(_) => assert_eq!(run.segment, SegmentId(3)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{LocalDisk, SimDisk};
    use crate::journal::DiskHome;
    use crate::segment::DiskSegments;

    fn on_both(mut check: impl FnMut(&mut dyn FnMut() -> Arc<dyn Disk>)) {
        check(&mut || Arc::new(SimDisk::new(1)));
        let dir = tempfile::tempdir().unwrap();
        let mut count = 0;
        check(&mut || {
            count += 1;
            let root = dir.path().join(count.to_string());
            std::fs::create_dir(&root).unwrap();
            Arc::new(LocalDisk::new(&root))
        });
    }

    #[test]
    fn disks_conform() {
        on_both(|make| disk(make));
    }

    #[test]
    fn directories_are_journal_homes() {
        on_both(|make| journal_home(|| Arc::new(DiskHome::open(make(), "journal").unwrap())));
    }

    #[test]
    fn directories_are_segment_stores() {
        on_both(|make| segment_store(|| Arc::new(DiskSegments::open(make(), "segments").unwrap())));
    }
}
