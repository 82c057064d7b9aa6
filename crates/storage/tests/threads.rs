//! The journal's threads against one another, in a directory and in a bucket: many submit, many read
//! wherever they like, files are released, kept, retired and used again, on a disk or a store that dawdles
//! as a seed says. A checker demands that what was acknowledged is there, exact to the byte, until it is
//! released; that nothing is ever read that was not written there; that completions come in order; and that
//! in the end everything adds up, also for who opens the journal next.
//!
//! The scheduler of the machine has a part in it, so a seed does not repeat a run; it repeats the workload.
//! `POSTHASTE_STRESS_SEEDS=N` runs N seeds in place of a few.
//!
//! Besides the mistakes below, which are tests, these were made in the journal for a trial, and each was
//! found by seed 0: a file that is released by its start in place of its end; completions that come before
//! their frame is written; a retired file that becomes two spare ones.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use bytes::Bytes;
use posthaste_storage::{
    Random,
    disk::{DiskFile, SimDisk},
    journal::{
        Batch, Blocks, Completion, DiskHome, Drive, FileExtent, HomeFile, Journal, JournalConfig,
        JournalHome, JournalPlace, Lsn, ReadError, RecordRef, RecoveryReport, Stored,
    },
    object::{Bucket, ObjectDisk, Rates, SimStore},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, IoSlice},
    sync::{
        Arc, Condvar, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SEEDS: u64 = 20;
const SEEDS_ON_BUCKET: u64 = 5;
const SUBMITTERS: u16 = 4;
const READERS: u64 = 4;
const BATCHES: u64 = 500;
/// Batches that a submitter has on their way.
const WINDOW: u64 = 24;
/// What the releaser leaves to readers, in records.
const LEFT: usize = 400;
const FILE_BYTES: u64 = 64 << 10;
/// How long it may take until everything is tidied up.
const PATIENCE: Duration = Duration::from_secs(20);
const RANDOM_BYTES: usize = 1 << 20;

/// A mistake on purpose, to see that the checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// A file is released although its last record is still wanted.
    ReleaseOneRecordEarly,
    /// A disk shows what a file held when it was opened, for a while.
    StaleReads,
}

/// Where a record is, and which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    lsn: u64,
    source: u16,
    number: u64,
    index: u32,
    body_bytes: usize,
}

impl Entry {
    fn head(&self) -> Vec<u8> {
        let numbers = [u64::from(self.source), self.number, u64::from(self.index)];
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    /// A part of random bytes, another one for each record.
    fn body(&self) -> Bytes {
        static RANDOM: OnceLock<Bytes> = OnceLock::new();
        let random = RANDOM.get_or_init(|| {
            let mut random = Random::new(1);
            (0..RANDOM_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
        });
        let which = self.number * 1_009 + u64::from(self.source) * 7_919 + u64::from(self.index) * 104_729;
        let at = which as usize % (RANDOM_BYTES - self.body_bytes);
        random.slice(at..at + self.body_bytes)
    }

    fn is(&self, shard: u16, head: &[u8], body: &[u8]) -> bool {
        shard == self.source && head == self.head() && body == self.body()
    }
}

/// What was acknowledged, and what of it may be gone.
#[derive(Default)]
struct Ledger {
    /// In order, from the first.
    entries: RwLock<Vec<Entry>>,
    state: RwLock<Wanted>,
    violations: Mutex<Vec<String>>,
    reads: AtomicU64,
    done: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    /// What lies below may be gone, but for what is kept.
    released: u64,
    kept: Vec<FileExtent>,
}

impl Wanted {
    fn includes(&self, lsn: u64) -> bool {
        lsn >= self.released || self.kept.iter().any(|file| (file.start.0..file.end.0).contains(&lsn))
    }
}

impl Ledger {
    fn wrong(&self, what: String) {
        self.violations.lock().unwrap().push(what);
        self.done.store(true, Ordering::Release);
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Judges what came of reading an entry, or of reading where it had been.
    fn judge(&self, how: &str, entry: &Entry, outcome: Result<Stored, ReadError>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(stored) if entry.is(stored.shard, &stored.head, &stored.body) => {}
            Ok(stored) => self.wrong(format!("{how} of {entry:?} gives {:?}", stored.head)),
            // Asked afterwards: it may have been released meanwhile.
            Err(error) => {
                if self.state.read().unwrap().includes(entry.lsn) {
                    self.wrong(format!("{how} of {entry:?}: {error}"));
                }
            }
        }
    }
}

/// What a submitter hears.
#[derive(Default)]
struct Mailbox {
    /// How many of its batches are durable.
    durable: Mutex<u64>,
    came: Condvar,
}

impl Mailbox {
    /// Waits until so many batches are durable, or something is wrong.
    fn wait_for(&self, count: u64, ledger: &Ledger) {
        let mut durable = self.durable.lock().unwrap();
        while *durable < count && !ledger.is_done() {
            durable = self.came.wait_timeout(durable, Duration::from_millis(50)).unwrap().0;
        }
    }
}

/// Batches that are not durable yet.
type Sent = Mutex<BTreeMap<(u16, u64), Batched>>;

struct Batched {
    requires_sync: bool,
    /// At distances from the batch's base.
    entries: Vec<Entry>,
    /// Where it was written, once that was acknowledged.
    written: Option<Lsn>,
}

/// Takes completions, on the writer's thread. Batches are durable in their order; what needs no sync is
/// acknowledged before that, in its own order.
fn completed(
    ledger: Arc<Ledger>,
    sent: Arc<Sent>,
    mailboxes: Arc<Vec<Mailbox>>,
) -> Box<dyn FnMut(Completion) + Send> {
    let mut durable_to = Lsn(0);
    let mut written_to = Lsn(0);
    Box::new(move |completion| {
        let Completion { source, number, base, synced } = completion;
        let mailbox = &mailboxes[usize::from(source)];
        let mut durable = mailbox.durable.lock().unwrap();
        let mut sent = sent.lock().unwrap();
        let Some(batch) = sent.get_mut(&(source, number)) else {
            return ledger
                .wrong(format!("{completion:?} of a batch that was never sent, or is durable already"));
        };
        let in_order = match synced {
            true => *durable == number && base > durable_to && batch.written.is_none_or(|lsn| lsn == base),
            false => !batch.requires_sync && batch.written.is_none() && base > written_to,
        };
        if !in_order {
            ledger
                .wrong(format!("{completion:?} does not come in its turn, after {durable} that are durable"));
        }
        if batch.written.replace(base).is_none() {
            let mut all = ledger.entries.write().unwrap();
            // Others that lie behind it may have been acknowledged before.
            let at = all.partition_point(|entry| entry.lsn < base.0);
            let entries = batch.entries.iter().map(|entry| Entry { lsn: base.0 + entry.lsn, ..*entry });
            all.splice(at..at, entries);
        }
        if synced {
            durable_to = base;
            *durable += 1;
            sent.remove(&(source, number));
        } else {
            written_to = base;
        }
        mailbox.came.notify_all();
    })
}

fn submit_all(source: u16, seed: u64, journal: &Journal, ledger: &Ledger, sent: &Sent, mailbox: &Mailbox) {
    let mut random = Random::new(seed);
    for number in 0..BATCHES {
        mailbox.wait_for((number + 1).saturating_sub(WINDOW), ledger);
        if ledger.is_done() {
            return;
        }
        let mut batch = Batch::new(source, number);
        let mut entries = Vec::new();
        for index in 0..1 + random.below(6) as u32 {
            let body_bytes = match random.below(200) {
                0 => 70_000 + random.below(20_000),
                1..12 => 4_000 + random.below(20_000),
                _ => random.below(900),
            } as usize;
            let mut entry = Entry { lsn: 0, source, number, index, body_bytes };
            let (head, body) = (entry.head(), entry.body());
            entry.lsn = batch.push(source, false, &body, |buffer| buffer.extend_from_slice(&head));
            entries.push(entry);
        }
        let requires_sync = random.chance(1, 2);
        if requires_sync {
            batch.require_sync();
        }
        sent.lock().unwrap().insert((source, number), Batched { requires_sync, entries, written: None });
        journal.submit(batch);
    }
    mailbox.wait_for(BATCHES, ledger);
}

/// Reads at random positions, in all ways that there are, until there is nothing more to come.
fn read_all(seed: u64, journal: &Journal, ledger: &Ledger) {
    let mut random = Random::new(seed);
    while !ledger.is_done() {
        let picked: Vec<Entry> = {
            let entries = ledger.entries.read().unwrap();
            // Mostly what is still wanted, at times what is gone.
            let recent = if random.chance(9, 10) { 2 * LEFT as u64 } else { u64::MAX };
            let back = random.below(recent.min(entries.len() as u64)) as usize;
            let from = entries.len().saturating_sub(back + 1);
            let count = if random.chance(1, 2) { 1 } else { 1 + random.below(60) as usize };
            entries.iter().skip(from).take(count).copied().collect()
        };
        let (Some(first), Some(last)) = (picked.first(), picked.last()) else {
            thread::yield_now();
            continue;
        };
        // The others must get on, too.
        thread::sleep(Duration::from_micros(random.below(400)));
        let alone = random.chance(1, 4);
        let mut reader = if alone { journal.reader_alone() } else { journal.reader() };
        if random.chance(1, 2) {
            let bytes: usize = picked.iter().map(|entry| entry.body_bytes).sum();
            reader.expect(Lsn(first.lsn), Lsn(last.lsn), picked.len(), bytes / picked.len(), 1 << 20);
        }
        for entry in &picked {
            let lsn = Lsn(entry.lsn);
            match random.below(8) {
                0 => ledger.judge("a read", entry, journal.read(lsn)),
                1 => journal.read_cached(lsn).into_iter().for_each(|found| {
                    ledger.judge("a read from memory", entry, Ok(found));
                }),
                2 => reader.read_now(lsn).into_iter().for_each(|found| {
                    ledger.judge("a read now", entry, Ok(found));
                }),
                _ => ledger.judge("a reader's read", entry, reader.read(lsn)),
            }
        }
    }
}

/// Releases what nobody needs any more, and keeps some files of it for a while.
fn release_all(seed: u64, journal: &Journal, ledger: &Ledger, mistake: Mistake) {
    let mut random = Random::new(seed);
    while !ledger.is_done() {
        thread::sleep(Duration::from_micros(random.below(3_000)));
        let below = {
            let entries = ledger.entries.read().unwrap();
            let durable = journal.durable().0;
            let at = entries.len().saturating_sub(LEFT + random.below(LEFT as u64) as usize);
            entries.get(at).map_or(0, |entry| entry.lsn).min(durable)
        };
        let mut files = journal.files_below(Lsn(below));
        let last = files.last().copied();
        files.retain(|_| random.chance(1, 6));
        files.truncate(4);
        let mut below = below;
        let mut really_below = below;
        if mistake == Mistake::ReleaseOneRecordEarly
            && let Some(last) = last
        {
            let entries = ledger.entries.read().unwrap();
            let behind = entries.partition_point(|entry| entry.lsn < last.end.0);
            let record = behind.checked_sub(1).and_then(|at| entries.get(at));
            let known = ledger.state.read().unwrap().released;
            if let Some(record) = record.filter(|record| record.lsn >= known) {
                (below, really_below) = (record.lsn, last.end.0);
                files.retain(|file| file.start != last.start);
            }
        }
        let kept: BTreeSet<Lsn> = files.iter().map(|file| file.start).collect();
        {
            // First, so that nobody misses what is being released.
            let mut state = ledger.state.write().unwrap();
            state.released = state.released.max(below);
            state.kept = files;
        }
        journal.release(Lsn(really_below), &kept);
        if random.chance(1, 3) {
            journal.retire_released();
        }
    }
}

/// Asks for what everybody may ask for at any time.
fn watch(journal: &Journal, ledger: &Ledger) {
    let (mut durable, mut end, mut start, mut frames) = (Lsn(0), Lsn(0), Lsn(0), 0);
    while !ledger.is_done() {
        let now = (journal.start(), journal.durable(), journal.end(), journal.frame_sizes());
        if now.0 < start || now.1 < durable || now.2 < end || now.3.frames < frames {
            ledger.wrong(format!("something went back from {start} {durable} {end} {frames} to {now:?}"));
        }
        if now.1 > journal.end() {
            ledger.wrong(format!("more is durable than written: {now:?}"));
        }
        (start, durable, end, frames) = (now.0, now.1, now.2, now.3.frames);
        let _ = (journal.room(1 << 20), journal.files_from(durable));
        thread::sleep(Duration::from_micros(300));
    }
}

/// Where the journal lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Directory,
    Bucket,
}

/// Opens the same journal again and again.
type Open = Box<dyn Fn(JournalConfig, Lsn, &mut Replay<'_>, Completed) -> (Journal, RecoveryReport)>;
type Replay<'a> = dyn FnMut(Lsn, RecordRef<'_>) + 'a;
type Completed = Box<dyn FnMut(Completion) + Send>;

/// How to open a journal, and how many files it has.
fn ground(on: On, seed: u64, mistake: Mistake) -> (Open, Box<dyn Fn() -> usize>) {
    match on {
        On::Directory => {
            let disk = Arc::new(SimDisk::new(seed));
            let dawdle = Arc::new(Dawdle { seed, asked: AtomicU64::new(0), mistake });
            let home = DiskHome::open(disk, "journal").unwrap();
            let home = Arc::new(SlowHome { home, dawdle });
            let listed = home.clone();
            let open = move |config, from, replay: &mut Replay<'_>, completed| {
                Journal::open_home(home.clone(), config, from, replay, completed).unwrap()
            };
            (Box::new(open), Box::new(move || listed.list().unwrap().len()))
        }
        On::Bucket => {
            let rates = Rates { refused: 2, answer_lost: 2, own_success: 2, slow: 50 };
            let bucket = Bucket::on(Arc::new(SimStore::new(rates, seed)), "prefix", "memory").unwrap();
            let listed = bucket.clone();
            let starts = AtomicU64::new(0);
            let open = move |config, from, replay: &mut Replay<'_>, completed| {
                let start = starts.fetch_add(1, Ordering::Relaxed);
                let place = JournalPlace::bucket(ObjectDisk::open(bucket.clone(), start).unwrap());
                place.open(JournalConfig { nonce_seed: start, ..config }, from, replay, completed).unwrap()
            };
            let list = move || {
                let place = JournalPlace::bucket(ObjectDisk::look(listed.clone()).unwrap());
                place.list().unwrap().len()
            };
            (Box::new(open), Box::new(list))
        }
    }
}

/// Runs everything at once; returns what was wrong.
fn run(on: On, seed: u64, mistake: Mistake) -> Vec<String> {
    let mut random = Random::new(seed);
    let (open, files) = ground(on, seed, mistake);
    let ring_bytes = [0, 20_000, 300_000, 8 << 20][random.below(4) as usize];
    let spare_files = 1 + random.below(4) as usize;
    let config = || JournalConfig {
        file_bytes: FILE_BYTES,
        first_file_bytes: 16 << 10,
        ring_bytes,
        reserve_bytes: 0,
        frame_bytes: 24 << 10,
        spare_files,
        lazy_sync: Duration::from_millis(2),
        nonce_seed: seed,
        drive: Drive::Threads,
        fatal: Some(Box::new(|why| panic!("{why}"))),
    };
    let (ledger, sent) = (Arc::new(Ledger::default()), Arc::new(Sent::default()));
    let mailboxes: Arc<Vec<Mailbox>> = Arc::new((0..SUBMITTERS).map(|_| Mailbox::default()).collect());
    let told = completed(ledger.clone(), sent.clone(), mailboxes.clone());
    let (journal, _) = open(config(), Lsn(0), &mut |_, _| {}, told);
    thread::scope(|scope| {
        let (journal, ledger, sent, mailboxes) = (&journal, &*ledger, &*sent, &*mailboxes);
        for reader in 0..READERS {
            scope.spawn(move || read_all(seed ^ (1_000 + reader), journal, ledger));
        }
        scope.spawn(move || release_all(seed ^ 2_000, journal, ledger, mistake));
        scope.spawn(move || watch(journal, ledger));
        let submit = |source: u16| {
            let mailbox = &mailboxes[usize::from(source)];
            scope.spawn(move || submit_all(source, seed ^ u64::from(source), journal, ledger, sent, mailbox))
        };
        let submitters: Vec<_> = (0..SUBMITTERS).map(submit).collect();
        submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
        ledger.done.store(true, Ordering::Release);
    });
    if ledger.violations.lock().unwrap().is_empty() {
        settle(&journal, &ledger, &*files, spare_files);
        journal.close().unwrap();
        reopen(&ledger, &open, config());
    }
    std::mem::take(&mut ledger.violations.lock().unwrap())
}

/// Nobody does anything any more: it all adds up.
fn settle(journal: &Journal, ledger: &Ledger, files: &dyn Fn() -> usize, spare_files: usize) {
    let entries = ledger.entries.read().unwrap();
    let stats = journal.frame_sizes();
    if ledger.reads.load(Ordering::Relaxed) == 0 {
        ledger.wrong("nobody has read anything".to_owned());
    }
    if stats.records != entries.len() as u64 || stats.histogram.iter().sum::<u64>() != stats.frames {
        ledger.wrong(format!("{} records were acknowledged: {stats:?}", entries.len()));
    }
    if entries.last().is_some_and(|last| journal.durable().0 <= last.lsn) {
        ledger.wrong(format!("all is durable, and {journal:?}"));
    }
    let below = entries.get(entries.len() - LEFT).unwrap().lsn;
    *ledger.state.write().unwrap() = Wanted { released: below, kept: Vec::new() };
    journal.release(Lsn(below), &BTreeSet::new());
    // Released files are held by nobody any more; the journal's own thread may be about to remove some.
    let patience = Instant::now() + PATIENCE;
    loop {
        journal.retire_released();
        let (files, needed) = (files(), journal.files_from(Lsn(0)));
        if files <= needed + spare_files + 1 {
            break;
        }
        if Instant::now() > patience {
            ledger.wrong(format!("{files} files for {needed} that are needed and {spare_files} to spare"));
            break;
        }
        thread::yield_now();
    }
    for entry in &entries[entries.len() - LEFT..] {
        ledger.judge("a read in the end", entry, journal.read(Lsn(entry.lsn)));
    }
}

/// Whoever opens the journal next finds the same.
fn reopen(ledger: &Ledger, open: &Open, config: JournalConfig) {
    let from = ledger.state.read().unwrap().released;
    let entries = ledger.entries.read().unwrap();
    let mut expected: VecDeque<&Entry> = entries.iter().filter(|entry| entry.lsn >= from).collect();
    let mut replay = |lsn: Lsn, record: RecordRef<'_>| match expected.pop_front() {
        Some(entry) if entry.lsn == lsn.0 && entry.is(record.shard, record.head, record.body) => {}
        other => ledger.wrong(format!("at {lsn} there is {:?} in place of {other:?}", record.head)),
    };
    let (_, report) = open(config, Lsn(from), &mut replay, Box::new(|_| {}));
    if !expected.is_empty() || !report.quarantined.is_empty() || !report.clean_shutdown {
        ledger.wrong(format!("{} records are missing: {report:?}", expected.len()));
    }
}

/// When the disk takes its time, and what it gets wrong on purpose.
struct Dawdle {
    seed: u64,
    asked: AtomicU64,
    mistake: Mistake,
}

impl Dawdle {
    fn dawdle(&self) {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut random = Random::new(self.seed ^ asked.wrapping_mul(0x9e37_79b9));
        match random.below(40) {
            0..3 => thread::sleep(Duration::from_micros(random.below(300))),
            3..20 => (0..random.below(8)).for_each(|_| thread::yield_now()),
            _ => {}
        }
    }
}

struct SlowHome {
    home: DiskHome,
    dawdle: Arc<Dawdle>,
}

struct SlowFile {
    file: Arc<dyn HomeFile>,
    dawdle: Arc<Dawdle>,
    /// What it held before, if that is what it shows.
    stale: Mutex<Vec<u8>>,
}

impl SlowHome {
    fn slow(&self, file: Arc<dyn HomeFile>) -> Arc<dyn HomeFile> {
        Arc::new(SlowFile { file, dawdle: self.dawdle.clone(), stale: Mutex::default() })
    }
}

impl JournalHome for SlowHome {
    fn list(&self) -> io::Result<Vec<(u64, u64)>> {
        self.home.list()
    }

    fn open(&self, number: u64) -> io::Result<Arc<dyn HomeFile>> {
        Ok(self.slow(self.home.open(number)?))
    }

    fn create(&self, number: u64, bytes: u64, blocks: Blocks<'_>) -> io::Result<Arc<dyn HomeFile>> {
        self.dawdle.dawdle();
        Ok(self.slow(self.home.create(number, bytes, blocks)?))
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.dawdle.dawdle();
        self.home.remove(number)
    }

    fn set_aside(&self, number: u64) -> io::Result<()> {
        self.home.set_aside(number)
    }

    fn suspect(&self, number: u64) -> io::Result<()> {
        self.home.suspect(number)
    }

    fn suspects(&self) -> io::Result<BTreeSet<u64>> {
        self.home.suspects()
    }

    fn note(&self, create: bool) -> io::Result<Option<Arc<dyn DiskFile>>> {
        self.dawdle.dawdle();
        self.home.note(create)
    }

    fn set_note_aside(&self) -> io::Result<()> {
        self.home.set_note_aside()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.home.free_bytes()
    }

    fn reserves_space(&self) -> bool {
        self.home.reserves_space()
    }
}

impl HomeFile for SlowFile {
    fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// In two parts, between which the file may be written to.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.dawdle.dawdle();
        let half = buffer.len() / 2;
        let (first, second) = buffer.split_at_mut(half);
        let read = self.file.read_at(position, first)?;
        if read < half {
            return Ok(read);
        }
        self.dawdle.dawdle();
        let read = half + self.file.read_at(position + half as u64, second)?;
        let stale = self.stale.lock().unwrap();
        if let Some(old) =
            stale.get(position as usize..).filter(|_| self.dawdle.mistake == Mistake::StaleReads)
        {
            let count = old.len().min(read);
            buffer[..count].copy_from_slice(&old[..count]);
        }
        Ok(read)
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>], sync_follows: bool) -> io::Result<()> {
        self.dawdle.dawdle();
        if self.dawdle.mistake == Mistake::StaleReads && position == 0 {
            let mut stale = vec![0; self.file.bytes() as usize];
            self.file.read_at(0, &mut stale)?;
            *self.stale.lock().unwrap() = stale;
        }
        self.file.write_at(position, parts, sync_follows)?;
        self.dawdle.dawdle();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.dawdle.dawdle();
        self.file.sync()
    }

    fn is_reserved(&self) -> bool {
        self.file.is_reserved()
    }
}

fn agree(on: On, seeds: u64) {
    let asked = std::env::var("POSTHASTE_STRESS_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..asked.unwrap_or(seeds) {
        let violations = run(on, seed, Mistake::None);
        assert!(violations.is_empty(), "{on:?}, seed {seed}: {violations:#?}");
    }
}

#[test]
fn threads_agree_about_what_is_there() {
    agree(On::Directory, SEEDS);
}

#[test]
fn threads_agree_about_what_is_in_a_bucket() {
    agree(On::Bucket, SEEDS_ON_BUCKET);
}

/// The checker is not blind: each mistake is found by one of a few seeds.
#[test]
fn mistakes_on_purpose_are_found() {
    for mistake in [Mistake::ReleaseOneRecordEarly, Mistake::StaleReads] {
        let found = (0..10).map(|seed| run(On::Directory, seed, mistake)).find(|wrong| !wrong.is_empty());
        assert!(found.is_some(), "{mistake:?} was not found");
    }
}
