mod evidence;
mod faults;
mod full;
mod sectors;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use super::*;
use crate::Random;
use crate::disk::{LocalDisk, ReadOnlyDisk, SimDisk};

/// A record as a test remembers it.
type Written = (u64, u16, Vec<u8>, Vec<u8>);

fn config(drive: Drive) -> JournalConfig {
    JournalConfig {
        file_bytes: 64 << 10,
        first_file_bytes: 16 << 10,
        ring_bytes: 32 << 10,
        reserve_bytes: 0,
        frame_bytes: 16 << 10,
        drive,
        ..JournalConfig::default()
    }
}

struct Opened {
    journal: Journal,
    report: RecoveryReport,
    replayed: Vec<Written>,
    completions: mpsc::Receiver<Completion>,
}

fn open(disk: &Arc<dyn Disk>, config: JournalConfig, from: u64) -> Opened {
    try_open(disk, config, from).unwrap()
}

fn try_open(disk: &Arc<dyn Disk>, config: JournalConfig, from: u64) -> Result<Opened, OpenError> {
    let mut replayed = Vec::new();
    let (sender, completions) = mpsc::channel();
    let mut replay = |lsn: Lsn, record: RecordRef<'_>| {
        replayed.push((lsn.0, record.shard, record.head.to_vec(), record.body.to_vec()));
    };
    let completed = Box::new(move |completion| {
        let _ = sender.send(completion);
    });
    let (journal, report) =
        Journal::open(disk.clone(), "journal", config, Lsn(from), &mut replay, completed)?;
    Ok(Opened { journal, report, replayed, completions })
}

fn push(batch: &mut Batch, shard: u16, joined: bool, head: &[u8], body: &[u8]) -> u64 {
    batch.push(shard, joined, &Bytes::copy_from_slice(body), |buffer| buffer.extend_from_slice(head))
}

#[test]
fn what_was_synced_is_replayed_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk::new(dir.path()));
    let opened = open(&disk, config(Drive::Threads), 0);
    let sizes = [0, 1, 7, 4096, 4097, 30_000, 100_000, 3];
    let mut written: Vec<Written> = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let mut batch = Batch::new(3, number as u64);
        let body = vec![number as u8; size];
        let first = push(&mut batch, 1, false, b"first", &body);
        let second = push(&mut batch, 2, false, b"", b"second");
        batch.require_sync();
        opened.journal.submit(batch);
        let completion = opened.completions.recv().unwrap();
        assert_eq!((completion.source, completion.number, completion.synced), (3, number as u64, true));
        written.push((completion.base.0 + first, 1, b"first".to_vec(), body));
        written.push((completion.base.0 + second, 2, Vec::new(), b"second".to_vec()));
    }
    for (lsn, shard, head, body) in &written {
        let stored = opened.journal.read(Lsn(*lsn)).unwrap();
        assert_eq!((stored.shard, &stored.head[..], &stored.body[..]), (*shard, &head[..], &body[..]));
    }
    opened.journal.close().unwrap();
    let again = open(&disk, config(Drive::Threads), 0);
    assert!(again.report.clean_shutdown);
    assert_eq!(again.report.quarantined, []);
    assert_eq!(again.replayed, written);
    for (lsn, shard, head, body) in &written {
        let stored = again.journal.read(Lsn(*lsn)).unwrap();
        assert_eq!((stored.shard, &stored.head[..], &stored.body[..]), (*shard, &head[..], &body[..]));
    }
}

/// More than the ring holds and than is read at a time, synced and not, read by several one after the other.
#[test]
fn records_that_follow_one_another_are_read_back_in_large_parts() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk::new(dir.path()));
    let config = |ring_bytes| JournalConfig { file_bytes: 3 << 20, ring_bytes, ..config(Drive::Threads) };
    let opened = open(&disk, config(4 << 20), 0);
    let body = |number: u64| {
        let length = if number.is_multiple_of(50) { 300_000 } else { number as usize * 37 % 5_000 };
        vec![number as u8; length]
    };
    let mut written: Vec<(Lsn, u64)> = Vec::new();
    for number in 0..300 {
        let mut batch = Batch::new(0, number);
        let places: Vec<u64> =
            (0..10).map(|record| push(&mut batch, 1, false, b"head", &body(number * 10 + record))).collect();
        if number / 60 % 2 == 0 || number.is_multiple_of(3) {
            batch.require_sync();
        }
        opened.journal.submit(batch);
        let completion = opened.completions.iter().find(|completion| completion.number == number).unwrap();
        written.extend((number * 10..).zip(places).map(|(id, place)| (Lsn(completion.base.0 + place), id)));
    }
    let read_all = |journal: &Journal, remembered: bool| {
        let (mut reader, mut other) = (journal.reader(), journal.reader());
        for (lsn, id) in &written {
            let stored = reader.read(*lsn).unwrap();
            assert!(stored.head == b"head"[..] && stored.body == body(*id), "{id}");
            // What one reader has read others find in memory, unless it is large.
            let now = other.read_now(*lsn);
            assert!(now.is_some() || !remembered || stored.body.len() == 300_000, "{id}");
            assert!(now.is_none_or(|now| now == stored), "{id}");
        }
    };
    (0..3).for_each(|_| read_all(&opened.journal, true));
    opened.journal.close().unwrap();
    let again = open(&disk, config(0), 0);
    assert_eq!(again.replayed.len(), written.len());
    read_all(&again.journal, false);
}

/// A home that tells of files that are made, and whether they were written, and counts bytes that are read.
struct Watched {
    home: DiskHome,
    made: mpsc::Sender<bool>,
    read: Arc<AtomicU64>,
}

struct WatchedFile(Arc<dyn HomeFile>, Arc<AtomicU64>);

impl HomeFile for WatchedFile {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.0.read_at(position, buffer)
    }

    fn write_at(&self, position: u64, parts: &[io::IoSlice<'_>], sync_follows: bool) -> io::Result<()> {
        self.0.write_at(position, parts, sync_follows)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn is_reserved(&self) -> bool {
        self.0.is_reserved()
    }
}

impl JournalHome for Watched {
    fn list(&self) -> io::Result<Vec<(u64, u64)>> {
        self.home.list()
    }

    fn open(&self, number: u64) -> io::Result<Arc<dyn HomeFile>> {
        Ok(Arc::new(WatchedFile(self.home.open(number)?, self.read.clone())))
    }

    fn create(&self, number: u64, bytes: u64, blocks: Blocks<'_>) -> io::Result<Arc<dyn HomeFile>> {
        let written = matches!(blocks, Blocks::Written(_));
        let file = self.home.create(number, bytes, blocks)?;
        let _ = self.made.send(written);
        Ok(Arc::new(WatchedFile(file, self.read.clone())))
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.home.remove(number)
    }

    fn set_aside(&self, number: u64) -> io::Result<()> {
        self.home.set_aside(number)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.home.free_bytes()
    }
}

/// Large frames go to files that are only reserved; small ones that are synced leave such a file, and all of
/// them are there after the next start.
#[test]
fn files_are_written_twice_for_small_frames_only() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk::new(dir.path()));
    let (made, files) = mpsc::channel();
    let home = DiskHome::open(disk.clone(), "journal").unwrap();
    let home = Watched { home, made, read: Arc::default() };
    let (sender, completions) = mpsc::channel();
    let completed = Box::new(move |completion| {
        let _ = sender.send(completion);
    });
    let config = || JournalConfig {
        file_bytes: 16 << 20,
        frame_bytes: 1 << 20,
        lazy_sync: Duration::from_secs(600),
        ..config(Drive::Threads)
    };
    let (journal, _) =
        Journal::open_home(Arc::new(home), config(), Lsn(0), &mut |_, _| {}, completed).unwrap();
    let (mut written, mut number) = (Vec::new(), 0_u64);
    let mut append = |bytes: usize| {
        let mut batch = Batch::new(0, number);
        let body = vec![number as u8; bytes];
        let place = push(&mut batch, 1, false, b"head", &body);
        batch.require_sync();
        journal.submit(batch);
        let completion = completions.recv().unwrap();
        written.push((completion.base.0 + place, 1, b"head".to_vec(), body));
        number += 1;
    };
    let rotations = || journal.frame_sizes().rotations;
    let mut reserved = 0;
    while reserved < 3 {
        append(600_000);
        reserved += files.try_iter().filter(|written| !written).count();
        assert!(rotations() < 20, "all files are written");
    }
    let mut begun = rotations();
    while rotations() == begun {
        append(600_000);
    }
    begun = rotations();
    let mut small = 0;
    while !files.try_iter().any(|written| written) {
        append(1_000);
        small += 1;
        assert!(small < 9_000, "the file is almost full and no better one was made");
    }
    while rotations() == begun {
        append(1_000);
        small += 1;
        assert!(small < 9_000, "the file is almost full and the better one was not begun");
    }
    begun = rotations();
    (0..500).for_each(|_| append(1_000));
    assert_eq!(rotations(), begun, "a file whose blocks are written is not left");
    journal.close().unwrap();
    let again = open(&disk, config(), 0);
    assert!(again.report.clean_shutdown);
    assert!(again.replayed == written, "{} of {}", again.replayed.len(), written.len());
}

/// What lies between large records is not read, whether the one before was as large or not.
#[test]
fn large_records_that_lie_apart_are_read_each_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk::new(dir.path()));
    let config = || JournalConfig { file_bytes: 16 << 20, ring_bytes: 32 << 20, ..config(Drive::Threads) };
    let opened = open(&disk, config(), 0);
    let sizes = [260_000, 262_144, 261_000, 900, 263_000, 255_000, 262_000, 700_000];
    let mut batch = Batch::new(0, 0);
    let mut written = Vec::new();
    for (at, size) in sizes.into_iter().enumerate() {
        let body = vec![at as u8; size];
        written.push((push(&mut batch, 1, false, b"head", &body), body));
        (0..3).for_each(|_| _ = push(&mut batch, 2, false, b"", &vec![9; 262_000]));
    }
    batch.require_sync();
    opened.journal.submit(batch);
    let base = opened.completions.recv().unwrap().base.0;
    opened.journal.close().unwrap();

    let read = Arc::new(AtomicU64::new(0));
    let home = DiskHome::open(disk.clone(), "journal").unwrap();
    let home = Watched { home, made: mpsc::channel().0, read: read.clone() };
    let ended = Box::new(|_| {});
    let (journal, _) = Journal::open_home(Arc::new(home), config(), Lsn(0), &mut |_, _| {}, ended).unwrap();
    read.store(0, Ordering::Relaxed);
    let lsns: Vec<Lsn> = written.iter().map(|(place, _)| Lsn(base + place)).collect();
    let mut reader = journal.reader();
    reader.expect(lsns[0], lsns[7], lsns.len(), 262_000, 16 << 20);
    for (lsn, (_, body)) in lsns.iter().zip(&written) {
        assert!(reader.read(*lsn).unwrap().body == *body);
    }
    let (read, large): (u64, usize) = (read.load(Ordering::Relaxed), sizes.iter().sum());
    assert!(read < large as u64 * 5 / 4, "{read} bytes read for {large}");
}

/// Distance from the batch's base, shard, joined, head, body.
type Submitted = (u64, u16, bool, Vec<u8>, Vec<u8>);

/// What a crash test knows of the records it has submitted, by LSN.
#[derive(Default)]
struct History {
    synced: BTreeMap<u64, (u16, Vec<u8>, Vec<u8>)>,
    written: BTreeMap<u64, (u16, Vec<u8>, Vec<u8>)>,
    /// LSN to the LSN of the record that it is joined with.
    joined: BTreeMap<u64, u64>,
    highest: u64,
}

struct CrashRun {
    disk: SimDisk,
    random: Random,
    history: History,
    next_number: u64,
    pending: BTreeMap<u64, Vec<Submitted>>,
}

impl CrashRun {
    fn new(seed: u64) -> CrashRun {
        let disk = SimDisk::with_sectors(seed, if seed.is_multiple_of(3) { 4096 } else { 512 });
        if seed.is_multiple_of(4) {
            disk.refuse_direct();
        }
        CrashRun {
            disk,
            random: Random::new(!seed),
            history: History::default(),
            next_number: 0,
            pending: BTreeMap::new(),
        }
    }

    fn batch(&mut self) -> Batch {
        let number = self.next_number;
        self.next_number += 1;
        let mut batch = Batch::new(1, number);
        let mut records = Vec::new();
        let count = 1 + self.random.below(6);
        for index in 0..count {
            let size = match self.random.below(20) {
                0 => self.random.below(20_000),
                1..4 => self.random.below(5000),
                _ => self.random.below(200),
            };
            let fill = self.random.next_u64() as u8;
            let body = vec![fill; size as usize];
            let head = number.to_le_bytes().to_vec();
            let shard = self.random.below(64) as u16;
            let joined = index + 1 < count && self.random.chance(1, 3);
            let distance = push(&mut batch, shard, joined, &head, &body);
            records.push((distance, shard, joined, head, body));
        }
        if self.random.chance(2, 3) {
            batch.require_sync();
        }
        self.pending.insert(number, records);
        batch
    }

    fn note(&mut self, completion: Completion) {
        let Some(records) = self.pending.get(&completion.number) else { return };
        let mut previous = None;
        for (distance, shard, joined, head, body) in records {
            let lsn = completion.base.0 + distance;
            let value = (*shard, head.clone(), body.clone());
            if let Some(previous) = previous {
                self.history.joined.insert(previous, lsn);
            }
            previous = joined.then_some(lsn);
            self.history.highest = self.history.highest.max(lsn);
            if completion.synced {
                self.history.synced.insert(lsn, value.clone());
            }
            self.history.written.insert(lsn, value);
        }
        if completion.synced {
            self.pending.remove(&completion.number);
        }
    }

    /// Opens the journal after a crash and checks what it replays.
    fn reopen(&mut self, from: u64) -> Option<Opened> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let mut config = config(Drive::Steps);
        config.fatal = Some(Box::new(|_| {}));
        let opened = match try_open(&disk, config, from) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(self.disk.power_is_cut(), "{error}");
                return None;
            }
        };
        assert_eq!(opened.report.quarantined, [], "a crash is not damage");
        let replayed: BTreeMap<u64, _> = opened
            .replayed
            .iter()
            .map(|(lsn, shard, head, body)| (*lsn, (*shard, head.clone(), body.clone())))
            .collect();
        assert_eq!(replayed.len(), opened.replayed.len());
        assert!(opened.replayed.is_sorted_by_key(|record| record.0));
        for (lsn, record) in self.history.synced.range(from..) {
            assert_eq!(replayed.get(lsn), Some(record), "synced record at {lsn}");
        }
        for (lsn, record) in &replayed {
            if let Some(written) = self.history.written.get(lsn) {
                assert_eq!(record, written);
            } else {
                // Written by a frame that was cut off before it completed: its content is one that was
                // submitted.
                let number = u64::from_le_bytes(record.1[..8].try_into().unwrap());
                let submitted = self.pending.get(&number).unwrap();
                assert!(
                    submitted.iter().any(|(_, shard, _, _, body)| (*shard, body) == (record.0, &record.2))
                );
            }
            if let Some(partner) = self.history.joined.get(lsn) {
                assert!(replayed.contains_key(partner), "half a group at {lsn}");
            }
        }
        // A prefix survives: nothing of what is known to have been written is missing before the last one
        // replayed.
        if let Some(last) = replayed.keys().next_back() {
            for lsn in self.history.written.range(from..*last).map(|(lsn, _)| lsn) {
                assert!(replayed.contains_key(lsn), "hole at {lsn}");
            }
        }
        assert!(opened.journal.end().0 > self.history.highest, "LSN given out twice");
        // What was replayed is durable from now on, and what was not is gone for good.
        let survivors: BTreeMap<u64, _> = replayed;
        self.history.written.retain(|lsn, _| *lsn < from || survivors.contains_key(lsn));
        self.history.written.extend(survivors.clone());
        self.history.synced.extend(survivors);
        self.pending.clear();
        Some(opened)
    }
}

#[test]
fn crashes_lose_nothing_synced_and_invent_nothing() {
    for seed in 0..300 {
        let mut run = CrashRun::new(seed);
        let mut from = 0;
        for _life in 0..4 {
            if run.random.chance(1, 3) {
                let operations = run.random.below(12);
                run.disk.cut_power_after(operations);
            }
            let Some(opened) = run.reopen(from) else {
                run.disk.crash();
                continue;
            };
            if run.random.chance(1, 2) {
                let operations = run.random.below(60);
                run.disk.cut_power_after(operations);
            }
            for _ in 0..run.random.below(40) {
                for _ in 0..run.random.below(4) {
                    let batch = run.batch();
                    opened.journal.submit(batch);
                }
                let outcome = opened.journal.step();
                for completion in opened.completions.try_iter() {
                    run.note(completion);
                }
                if outcome == StepOutcome::Failed {
                    break;
                }
                if run.random.chance(1, 10) {
                    from = opened.journal.durable().0.max(from);
                    opened.journal.release(Lsn(from), &BTreeSet::new());
                }
                if run.random.chance(1, 10) {
                    opened.journal.step_lazy_sync();
                    for completion in opened.completions.try_iter() {
                        run.note(completion);
                    }
                }
            }
            // Sometimes only the process ends: then what was not synced is still there, and must stay once
            // replayed.
            if run.disk.power_is_cut() || run.random.chance(2, 3) {
                run.disk.crash();
            }
        }
        run.disk.crash();
        assert!(run.reopen(from).is_some());
    }
}
