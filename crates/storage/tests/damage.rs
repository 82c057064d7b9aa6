//! A thousand random bit flips and cuts over a journal, segments and a checkpoint: nothing panics, nothing wrong is
//! read, and what is missing is told. Every case is its seed, which a failure names.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use bytes::Bytes;
use posthaste_storage::{
    Random,
    checkpoint::Checkpoints,
    disk::{Disk, ReadOnlyDisk, SimDisk},
    journal::{Batch, Drive, Journal, JournalConfig, JournalPlace, Lsn, RecordRef, Scope, StepOutcome},
    segment::{DiskSegments, Entry, ReadError, Run, SegmentId, Segments},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
};

const CASES: u64 = 1_000;

/// Damages one to three places of a directory. Returns what, for a message, and whether a file was cut.
fn harm(disk: &SimDisk, dir: &str, random: &mut Random) -> (String, bool) {
    let (mut what, mut cut) = (String::new(), false);
    for _ in 0..1 + random.below(3) {
        let mut files = disk.list(dir).unwrap();
        files.retain(|file| disk.written_bytes(&format!("{dir}/{}", file.name)) > 0);
        let file = &files[random.below(files.len() as u64) as usize];
        let path = format!("{dir}/{}", file.name);
        let used = disk.written_bytes(&path);
        if random.chance(1, 4) {
            let to = random.below(used);
            assert!(disk.truncate(&path, to));
            what += &format!("{path} cut to {to}; ");
            cut = true;
        } else {
            let bit = random.below(used * 8);
            assert!(disk.flip_bit(&path, bit));
            what += &format!("{path} bit {bit}; ");
        }
    }
    (what, cut)
}

fn body(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let length = if random.chance(1, 10) { 5_000 } else { random.below(300) };
    (0..length).map(|_| random.next_u64() as u8).collect()
}

fn journal_config() -> JournalConfig {
    JournalConfig {
        file_bytes: 64 << 10,
        first_file_bytes: 16 << 10,
        reserve_bytes: 0,
        frame_bytes: 16 << 10,
        drive: Drive::Steps,
        ..JournalConfig::default()
    }
}

/// Records by LSN, and the LSN from which the last frame's begin.
struct Written {
    records: BTreeMap<u64, Vec<u8>>,
    last_frame: u64,
}

fn journal() -> (SimDisk, Written) {
    let disk = SimDisk::new(1);
    let mut written = Written { records: BTreeMap::new(), last_frame: 0 };
    let (sender, completions) = mpsc::channel();
    let completed = Box::new(move |completion| {
        let _ = sender.send(completion);
    });
    let shared = Arc::new(disk.clone());
    let opened = Journal::open(shared, "journal", journal_config(), Lsn(0), &mut |_, _| {}, completed);
    let (journal, _) = opened.unwrap();
    for number in 0..150 {
        let mut batch = Batch::new(0, number);
        let mut placed = Vec::new();
        for index in 0..1 + number % 3 {
            let body = body(number * 10 + index);
            let shard = (number % 64) as u16;
            let head = |head: &mut Vec<u8>| head.push(number as u8);
            let distance = batch.push(shard, false, &Bytes::copy_from_slice(&body), head);
            placed.push((distance, body));
        }
        batch.require_sync();
        journal.submit(batch);
        assert_eq!(journal.step(), StepOutcome::Committed);
        written.last_frame = completions.recv().unwrap().base.0;
        let base = written.last_frame;
        written.records.extend(placed.into_iter().map(|(distance, body)| (base + distance, body)));
    }
    (disk, written)
}

fn check_journal(disk: &SimDisk, written: &Written, context: &str) -> usize {
    let mut read: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut replay = |lsn: Lsn, record: RecordRef<'_>| {
        read.insert(lsn.0, record.body.to_vec());
    };
    let shared = Arc::new(ReadOnlyDisk(Arc::new(disk.clone())));
    let place = JournalPlace::directory(shared, "journal");
    let inspected = place.inspect(Scope::From(Lsn(0)), &mut replay);
    let report = inspected.unwrap_or_else(|error| panic!("{context}: {error}")).report;
    for (lsn, body) in &read {
        assert_eq!(written.records.get(lsn), Some(body), "{context}: at {lsn}");
    }
    let lost: Vec<u64> = written.records.keys().filter(|lsn| !read.contains_key(lsn)).copied().collect();
    for lsn in &lost {
        let told = report.quarantined.iter().any(|damage| (damage.from.0..damage.to.0).contains(lsn));
        // Nothing behind the last frame says that it was durable: it looks like an unsynced tail.
        assert!(told || *lsn >= written.last_frame, "{context}: {lsn} of {lost:?}: {report:?}");
    }
    lost.len()
}

fn segments() -> (SimDisk, Vec<Run>, BTreeMap<u64, Vec<Entry>>) {
    let disk = SimDisk::new(2);
    let open = open_segments(&disk);
    let mut runs = Vec::new();
    for id in 0..3 {
        let mut writer = open.writer(SegmentId(id));
        for stream in 0..4 {
            let entries = if stream == 0 { 120 } else { 8 };
            for entry in 0..entries {
                let offset = id * 1_000 + entry * 3;
                writer.append(stream, offset, 2, entry as i64, b"head", &body(stream * 10_000 + offset));
            }
        }
        runs.extend(writer.finish().unwrap());
    }
    let read = |run: &Run| open.read(run, 0, usize::MAX / 2, usize::MAX).unwrap();
    let mut entries: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
    runs.iter().for_each(|run| entries.entry(run.stream).or_default().extend(read(run)));
    (disk, runs, entries)
}

fn open_segments(disk: &SimDisk) -> Segments {
    Segments::open(Arc::new(DiskSegments::open(Arc::new(disk.clone()), "segments").unwrap())).unwrap()
}

fn check_segments(disk: &SimDisk, runs: &[Run], written: &BTreeMap<u64, Vec<Entry>>, context: &str) -> usize {
    let segments = open_segments(disk);
    let mut missing = 0;
    for run in runs {
        let (mut from, mut read, mut told) = (run.first, Vec::new(), Vec::new());
        while from < run.end {
            match segments.read(run, from, 4_000, 50) {
                Ok(entries) => {
                    from = entries.last().map_or(run.end, |entry| entry.offset + u64::from(entry.span));
                    read.extend(entries);
                }
                Err(ReadError::Damaged { from: lost, resume, .. }) => {
                    assert!(resume > from, "{context}: reading does not get on");
                    told.push((lost, resume));
                    from = resume;
                }
                Err(error) => panic!("{context}: {error}"),
            }
        }
        let of_run = |entry: &&Entry| entry.offset >= run.first && entry.offset < run.end;
        for entry in written[&run.stream].iter().filter(of_run) {
            let lost = told.iter().any(|(from, to)| (*from..*to).contains(&entry.offset));
            assert!(lost != read.contains(entry), "{context}: {} of {run:?}: {told:?}", entry.offset);
            missing += usize::from(lost);
        }
        assert!(read.iter().all(|entry| written[&run.stream].contains(entry)), "{context}");
        let verified = segments.verify(run).unwrap();
        assert_eq!(verified.lost.is_empty(), told.is_empty(), "{context}: {told:?} {verified:?}");
    }
    missing
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn open_checkpoint(disk: &SimDisk) -> Result<Option<(Vec<u8>, Map, bool)>, String> {
    let shared = Arc::new(ReadOnlyDisk(Arc::new(disk.clone())));
    let Some((loaded, faults)) = Checkpoints::inspect(shared, "checkpoints").map_err(|e| e.to_string())?
    else {
        return Ok(None);
    };
    let mut map = Map::new();
    let read = loaded.for_each(&mut |key, value| drop(map.insert(key.to_vec(), value.to_vec())));
    read.map_err(|e| e.to_string())?;
    map.retain(|key, _| !loaded.lost.iter().any(|lost| lost.covers(key)));
    Ok(Some((loaded.meta.clone(), map, !loaded.lost.is_empty() || !faults.is_empty())))
}

/// States by generation; what is in a stretch that is lost is left out when they are compared.
fn checkpoint() -> (SimDisk, BTreeMap<Vec<u8>, Map>) {
    let disk = SimDisk::new(3);
    let (mut checkpoints, _) = Checkpoints::open(Arc::new(disk.clone()), "checkpoints").unwrap();
    let (mut state, mut states) = (Map::new(), BTreeMap::new());
    for generation in 0..6u64 {
        let mut changes = BTreeMap::new();
        for number in 0..200 {
            let key = format!("key {:05}", (generation * 71 + number * 13) % 1_000).into_bytes();
            let value = (number % 7 != 0).then(|| body(generation * 1_000 + number));
            match &value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(&key),
            };
            changes.insert(key, value);
        }
        let meta = generation.to_le_bytes().to_vec();
        checkpoints.write(&meta, &mut changes.into_iter()).unwrap();
        if generation == 2 {
            checkpoints.write_base(&meta).unwrap();
        }
        states.insert(meta, state.clone());
    }
    (disk, states)
}

fn check_checkpoint(disk: &SimDisk, states: &BTreeMap<Vec<u8>, Map>, context: &str) -> usize {
    let (meta, map, told) = match open_checkpoint(disk) {
        Ok(Some(read)) => read,
        Ok(None) => panic!("{context}: a damaged checkpoint must not look like none"),
        // Without a manifest nobody knows what belongs together: that is refused, and says so.
        Err(error) => {
            assert!(error.contains("restore the directory"), "{context}: {error}");
            return 1;
        }
    };
    let state = &states[&meta];
    assert!(map.iter().all(|(key, value)| state.get(key) == Some(value)), "{context}: something is wrong");
    assert!(told || map == *state, "{context}: something is missing without a word");
    assert!(told || meta == states.keys().next_back().unwrap()[..], "{context}: an old state without a word");
    state.len() - map.len()
}

#[test]
fn a_thousand_damaged_directories() {
    let (journal_disk, written) = journal();
    let (segment_disk, runs, entries) = segments();
    let (checkpoint_disk, states) = checkpoint();
    assert_eq!(check_journal(&journal_disk, &written, "whole"), 0);
    assert_eq!(check_segments(&segment_disk, &runs, &entries, "whole"), 0);
    assert_eq!(check_checkpoint(&checkpoint_disk, &states, "whole"), 0);
    let mut harmed = [0; 3];
    println!("seeds 0 to {}", CASES - 1);
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let kind = (seed % 3) as usize;
        let (disk, dir) = match kind {
            0 => (journal_disk.copy(), "journal"),
            1 => (segment_disk.copy(), "segments"),
            _ => (checkpoint_disk.copy(), "checkpoints"),
        };
        let (what, _) = harm(&disk, dir, &mut random);
        let context = format!("seed {seed}: {what}");
        let lost = match kind {
            0 => check_journal(&disk, &written, &context),
            1 => check_segments(&disk, &runs, &entries, &context),
            _ => check_checkpoint(&disk, &states, &context),
        };
        harmed[kind] += u32::from(lost > 0);
    }
    // Most damage costs something; else the cases would say little.
    assert!(harmed.iter().all(|harmed| *harmed > 50), "{harmed:?}");
}
