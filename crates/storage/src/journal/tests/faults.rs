//! What becomes of a journal whose disk misbehaves.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::disk::DirEntry;

/// A closed or left journal of several files, some lives and joined groups, and all its records.
fn build(seed: u64, clean: bool) -> (SimDisk, Vec<Written>) {
    let disk = SimDisk::new(seed);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut random = Random::new(seed);
    let mut records = Vec::new();
    for life in 0..3 {
        let opened = open(&shared, config(Drive::Steps), 0);
        for number in 0..40 {
            let mut batch = Batch::new(1, number);
            let count = 1 + random.below(4);
            let mut distances = Vec::new();
            for index in 0..count {
                let size = if random.chance(1, 8) { 6000 } else { random.below(300) };
                let body = vec![random.next_u64() as u8; size as usize];
                let joined = index + 1 < count && random.chance(1, 4);
                let head = [life, number as u8, index as u8];
                let distance = push(&mut batch, index as u16, joined, &head, &body);
                distances.push((distance, index as u16, head.to_vec(), body));
            }
            batch.require_sync();
            opened.journal.submit(batch);
            assert_eq!(opened.journal.step(), StepOutcome::Committed);
            let base = opened.completions.recv().unwrap().base.0;
            let placed = distances.into_iter();
            records.extend(placed.map(|(distance, shard, head, body)| (base + distance, shard, head, body)));
        }
        if clean {
            opened.journal.close().unwrap();
        }
    }
    (disk, records)
}

fn journal_files(disk: &SimDisk) -> Vec<DirEntry> {
    let mut files = disk.list("journal").unwrap();
    files.retain(|file| file.name.ends_with(".journal"));
    files
}

/// Opens a damaged journal: what is missing must be reported, all else must be there and right. Returns
/// what is lost.
fn check_damaged(disk: &SimDisk, records: &[Written], context: &str) -> (usize, RecoveryReport) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = open(&shared, config(Drive::Steps), 0);
    let report = opened.report.clone();
    assert!(opened.replayed.is_sorted_by_key(|record| record.0), "{context}");
    let replayed: BTreeMap<u64, &Written> = opened.replayed.iter().map(|record| (record.0, record)).collect();
    let known: BTreeMap<u64, &Written> = records.iter().map(|record| (record.0, record)).collect();
    for record in &opened.replayed {
        assert_eq!(known.get(&record.0), Some(&record), "{context}: invented");
    }
    let mut lost = 0;
    for record in records {
        if !replayed.contains_key(&record.0) {
            lost += 1;
            let told =
                report.quarantined.iter().any(|damage| (damage.from.0..damage.to.0).contains(&record.0));
            let cut = record.0 >= report.end.0 && report.cut_bytes > 0;
            assert!(told || cut, "{context}: LSN {} is lost without a word: {report:?}", record.0);
        }
        match opened.journal.read(Lsn(record.0)) {
            Ok(stored) => {
                assert_eq!(
                    (stored.shard, &stored.head[..], &stored.body[..]),
                    (record.1, &record.2[..], &record.3[..])
                );
            }
            Err(_) => assert!(!report.quarantined.is_empty() || report.cut_bytes > 0, "{context}"),
        }
    }
    // What was decided stays decided: another start tells the same story.
    drop(opened);
    let again = open(&shared, config(Drive::Steps), 0);
    assert_eq!(again.replayed.len() + lost, records.len(), "{context}");
    (lost, report)
}

#[test]
fn a_flipped_bit_costs_at_most_its_record_and_is_reported() {
    let (mut intact, mut damaged) = (0, 0);
    for seed in 0..400 {
        let (disk, records) = build(seed % 7, seed % 2 == 0);
        let mut random = Random::new(seed);
        let files = journal_files(&disk);
        let file = &files[random.below(files.len() as u64) as usize];
        // Most of a file's end is unused.
        let used = if random.chance(9, 10) { file.bytes.min(12_000) } else { file.bytes };
        let bit = random.below(used * 8);
        assert!(disk.flip_bit(&format!("journal/{}", file.name), bit));
        let (lost, report) = check_damaged(&disk, &records, &format!("seed {seed}"));
        // A group goes as a whole, and the last frames of a journal that was left go with the tail.
        assert!(lost <= 4, "seed {seed}: {lost} lost");
        if report.quarantined.is_empty() { intact += 1 } else { damaged += 1 }
    }
    assert!(intact > 50 && damaged > 50, "{intact} intact, {damaged} damaged");
}

#[test]
fn truncated_emptied_and_missing_files_cost_no_more_than_they_held() {
    for seed in 0..3 {
        let (disk, _) = build(seed, true);
        for index in 0..journal_files(&disk).len() {
            for kept_bytes in [None, Some(0), Some(100), Some(4096), Some(9999), Some(20_000)] {
                let (disk, records) = build(seed, true);
                let file = &journal_files(&disk)[index];
                let path = format!("journal/{}", file.name);
                match kept_bytes {
                    Some(bytes) => assert!(disk.truncate(&path, bytes)),
                    None => disk.remove(&path).unwrap(),
                }
                let context = format!("seed {seed}, file {index}, {kept_bytes:?}");
                let shared: Arc<dyn Disk> = Arc::new(disk.clone());
                let opened = open(&shared, config(Drive::Steps), 0);
                let known: BTreeMap<u64, &Written> =
                    records.iter().map(|record| (record.0, record)).collect();
                for record in &opened.replayed {
                    assert_eq!(known.get(&record.0), Some(&record), "{context}");
                }
                let last = opened.replayed.last().map_or(0, |record| record.0);
                let replayed: Vec<u64> = opened.replayed.iter().map(|record| record.0).collect();
                for record in records.iter().filter(|record| record.0 < last && !replayed.contains(&record.0))
                {
                    let mut told = opened.report.quarantined.iter();
                    assert!(
                        told.any(|damage| (damage.from.0..damage.to.0).contains(&record.0)),
                        "{context}: LSN {} of {:?}",
                        record.0,
                        opened.report
                    );
                }
            }
        }
    }
}

#[test]
fn a_lost_tail_is_reported_when_the_checkpoint_knows_better() {
    let (disk, records) = build(1, true);
    let files = journal_files(&disk);
    for file in &files[1..] {
        disk.remove(&format!("journal/{}", file.name)).unwrap();
    }
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let from = records.last().unwrap().0;
    let opened = open(&shared, config(Drive::Steps), from);
    assert_eq!(opened.replayed, []);
    // The note knows of the last record and the mark of the close, too, which no checkpoint tells of.
    let missing: Vec<&Damage> =
        opened.report.quarantined.iter().filter(|damage| damage.kind == DamageKind::Missing).collect();
    assert!(missing.iter().any(|damage| damage.to == Lsn(from)), "{missing:?}");
    assert!(missing.iter().any(|damage| damage.from <= Lsn(from) && Lsn(from) < damage.to), "{missing:?}");
    assert!(opened.journal.end().0 > from, "LSNs below the checkpoint are never given out again");
}

#[test]
fn another_version_and_a_copied_file_are_refused() {
    let (disk, _) = build(1, true);
    let first = &journal_files(&disk)[0].name;
    let file = disk.open(&format!("journal/{first}")).unwrap();
    let mut block = vec![0; 4096];
    file.read_at(0, &mut block).unwrap();
    let copy = disk.create("journal/00000000000000ff.journal").unwrap();
    copy.write_at(0, &[io::IoSlice::new(&block)]).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let outcome = try_open(&shared, config(Drive::Steps), 0);
    assert!(matches!(outcome.err(), Some(OpenError::Conflict { second: 0xff, .. })));
    for copy_at in [0, 2048] {
        block[copy_at + 8] = 2;
        let crc = crc32c::crc32c_append(
            crc32c::crc32c(&block[copy_at..copy_at + 12]),
            &block[copy_at + 16..copy_at + 56],
        );
        block[copy_at + 12..copy_at + 16].copy_from_slice(&crc.to_le_bytes());
    }
    copy.write_at(0, &[io::IoSlice::new(&block)]).unwrap();
    let outcome = try_open(&shared, config(Drive::Steps), 0);
    assert!(matches!(outcome.err(), Some(OpenError::Version { file: 0xff, found: 2, supported: 1 })));
}

#[test]
fn a_failed_sync_or_write_is_fatal_and_acknowledges_nothing() {
    for failing_write in [false, true] {
        let disk = SimDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let reason = Arc::new(Mutex::new(None));
        let told = reason.clone();
        let mut config = config(Drive::Steps);
        config.fatal = Some(Box::new(move |message| *told.lock() = Some(message)));
        let opened = open(&shared, config, 0);
        let mut batch = Batch::new(1, 1);
        push(&mut batch, 1, false, b"head", b"body");
        batch.require_sync();
        if failing_write {
            disk.cut_power_after(0);
        } else {
            disk.fail_next_sync();
        }
        opened.journal.submit(batch);
        assert_eq!(opened.journal.step(), StepOutcome::Failed);
        let expected =
            if failing_write { "cannot write to journal file" } else { "cannot sync journal file" };
        assert!(reason.lock().as_ref().unwrap().starts_with(expected));
        let mut later = Batch::new(1, 2);
        push(&mut later, 1, false, b"head", b"body");
        opened.journal.submit(later);
        assert_eq!(opened.journal.step(), StepOutcome::Failed);
        assert_eq!(opened.completions.try_iter().count(), 0);
        assert_eq!(opened.journal.close(), Err(CloseError::Stopped));
    }
}

#[test]
fn a_full_disk_shrinks_room_and_holds_batches_until_there_is_space() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = open(&shared, config(Drive::Steps), 0);
    assert_eq!(opened.journal.step(), StepOutcome::Idle);
    disk.set_capacity(Some(disk.used_bytes()));
    let mut number = 0;
    let mut submit = || {
        let mut batch = Batch::new(1, number);
        push(&mut batch, 1, false, b"head", &[7; 4000]);
        batch.require_sync();
        number += 1;
        let bytes = batch.bytes();
        opened.journal.submit(batch);
        bytes
    };
    let mut room = opened.journal.room(0);
    while room >= 8192 {
        submit();
        assert_eq!(opened.journal.step(), StepOutcome::Committed, "room was promised");
        let left = opened.journal.room(0);
        assert!(left < room);
        room = left;
    }
    let committed = opened.completions.try_iter().count();
    while opened.journal.step() != StepOutcome::NoSpace {
        submit();
    }
    assert!(opened.journal.room(0) < 8192);
    assert_eq!(opened.journal.step(), StepOutcome::NoSpace);
    disk.set_capacity(None);
    assert_eq!(opened.journal.step(), StepOutcome::Committed);
    assert!(opened.journal.room(0) >= 8192);
    assert!(committed > 10 && opened.completions.try_iter().count() > 0);
    disk.set_capacity(Some(0));
    while opened.journal.step() != StepOutcome::NoSpace {
        submit();
    }
    assert_eq!(opened.journal.close(), Err(CloseError::NoSpace));
}

#[test]
fn room_does_not_count_space_that_has_just_gone() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(1 << 40));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = open(&shared, config(Drive::Threads), 0);
    disk.set_capacity(Some(disk.used_bytes()));
    // The first file, and the second one if it was made before.
    assert!(opened.journal.room(u64::MAX) < 1 << 30);
}

#[test]
fn writer_thread_waits_out_a_full_disk() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = open(&shared, config(Drive::Threads), 0);
    let capacity = 200_000;
    disk.set_capacity(Some(capacity));
    let count: u64 = 100;
    for number in 0..count {
        let mut batch = Batch::new(1, number);
        push(&mut batch, 1, false, b"head", &[7; 4000]);
        batch.require_sync();
        opened.journal.submit(batch);
    }
    let first = opened.completions.recv().unwrap();
    assert_eq!(first.number, 0);
    disk.set_capacity(None);
    let numbers: Vec<u64> = opened.completions.iter().take(99).map(|completion| completion.number).collect();
    assert_eq!(numbers, (1..count).collect::<Vec<_>>());
    assert!(disk.used_bytes() > capacity);
    opened.journal.close().unwrap();
}

#[test]
fn what_asks_for_no_sync_completes_when_written_and_again_when_synced() {
    for drive in [Drive::Steps, Drive::Threads] {
        let disk = SimDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut config = config(drive);
        config.lazy_sync = Duration::from_millis(1);
        let opened = open(&shared, config, 0);
        let mut batch = Batch::new(4, 1);
        push(&mut batch, 1, false, b"head", b"body");
        opened.journal.submit(batch);
        opened.journal.step();
        let written = opened.completions.recv().unwrap();
        assert_eq!((written.source, written.number, written.synced), (4, 1, false));
        opened.journal.step_lazy_sync();
        let synced = opened.completions.recv().unwrap();
        assert_eq!(synced, Completion { synced: true, ..written });
        assert!(opened.journal.durable() > written.base);
    }
}

#[test]
fn many_threads_get_their_completions_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk::new(dir.path()));
    let opened = open(&disk, config(Drive::Threads), 0);
    let (sources, batches) = (4_u16, 200_u64);
    thread::scope(|scope| {
        for source in 0..sources {
            let journal = opened.journal.clone();
            scope.spawn(move || {
                for number in 0..batches {
                    let mut batch = Batch::new(source, number);
                    push(&mut batch, source, false, &number.to_le_bytes(), &vec![source as u8; 500]);
                    batch.require_sync();
                    journal.submit(batch);
                }
            });
        }
    });
    let mut next = [0; 4];
    let mut bases = BTreeMap::new();
    for completion in opened.completions.iter().take(usize::from(sources) * batches as usize) {
        assert_eq!(completion.number, next[usize::from(completion.source)]);
        next[usize::from(completion.source)] += 1;
        assert!(bases.insert(completion.base, (completion.source, completion.number)).is_none());
    }
    for (base, (source, number)) in &bases {
        let stored = opened.journal.read(*base).unwrap();
        assert_eq!((stored.shard, &stored.head[..]), (*source, &number.to_le_bytes()[..]));
    }
    let stats = opened.journal.frame_sizes();
    assert_eq!(stats.records, 800);
    assert_eq!(stats.histogram.iter().sum::<u64>(), stats.frames);
    opened.journal.close().unwrap();
    assert_eq!(open(&disk, config(Drive::Threads), 0).replayed.len(), 800);
}

#[test]
fn reads_of_what_is_not_there_say_why() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let mut config = config(Drive::Steps);
    config.ring_bytes = 0;
    let opened = open(&disk, config, 0);
    let mut bases = Vec::new();
    for number in 0..60 {
        let mut batch = Batch::new(1, number);
        push(&mut batch, 1, false, b"head", &[1; 3000]);
        opened.journal.submit(batch);
        opened.journal.step();
        bases.push(opened.completions.recv().unwrap().base);
    }
    let (first, last) = (bases[0], bases[59]);
    assert!(opened.journal.read_cached(last).is_none(), "the ring holds nothing");
    assert!(opened.journal.read(last).is_ok());
    for absent in [opened.journal.end().0, u64::MAX, u64::MAX - 7] {
        assert!(matches!(opened.journal.read(Lsn(absent)), Err(ReadError::Absent(_))), "{absent}");
    }
    // A place amid a record looks like a record whose header is damaged, and is evidence.
    for amid in [last.0 + 8, last.0 - 8] {
        assert!(matches!(opened.journal.read(Lsn(amid)), Err(ReadError::Damaged { .. })), "{amid}");
    }
    assert!(opened.journal.read(first).is_ok());
    opened.journal.release(last, &BTreeSet::new());
    assert!(matches!(opened.journal.read(first), Err(ReadError::Released(_))));
    assert!(opened.journal.read(last).is_ok());
}

#[test]
fn what_comes_after_close_is_dropped_and_the_handle_goes_quietly() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let opened = open(&disk, config(Drive::Threads), 0);
    let handle = opened.journal.clone();
    opened.journal.close().unwrap();
    let mut batch = Batch::new(1, 1);
    push(&mut batch, 1, false, b"head", b"body");
    handle.submit(batch);
    assert_eq!(handle.clone().close(), Ok(()), "closing twice is closing");
    drop(handle);
    let called = Arc::new(AtomicBool::new(false));
    let seen = called.clone();
    let mut config = config(Drive::Threads);
    config.fatal = Some(Box::new(move |_| seen.store(true, Ordering::Release)));
    let again = open(&disk, config, 0);
    assert!(again.report.clean_shutdown && again.replayed.is_empty());
    drop(again);
    assert!(!called.load(Ordering::Acquire));
}

#[test]
fn files_that_are_kept_are_read_until_a_release_does_not_name_them() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let config = || JournalConfig { ring_bytes: 0, ..config(Drive::Steps) };
    let mut opened = open(&disk, config(), 0);
    let mut bases = Vec::new();
    for number in 0..100 {
        let mut batch = Batch::new(1, number);
        push(&mut batch, 1, false, b"head", &[number as u8; 3000]);
        batch.require_sync();
        opened.journal.submit(batch);
        opened.journal.step();
        bases.push(opened.completions.recv().unwrap().base);
    }
    let last = bases[99];
    let files = opened.journal.files_below(last);
    assert!(files.len() > 3, "{files:?}");
    assert!(files.windows(2).all(|pair| pair[0].end <= pair[1].start), "{files:?}");
    assert!(files.iter().all(|file| file.end <= last));
    let kept = BTreeSet::from([files[1].start, files[3].start]);
    let (stays, goes): (Vec<Lsn>, Vec<Lsn>) = bases.iter().partition(|base| {
        let file = files.iter().find(|file| (file.start..file.end).contains(base));
        file.is_none_or(|file| kept.contains(&file.start))
    });
    assert!(stays.len() > 10 && goes.len() > 10);
    for life in 0..3 {
        opened.journal.release(last, &kept);
        for base in &stays {
            let number = bases.iter().position(|other| other == base).unwrap();
            assert_eq!(opened.journal.read(*base).unwrap().body[..], [number as u8; 3000], "life {life}");
        }
        assert!(goes.iter().all(|base| opened.journal.read(*base).is_err()), "life {life}");
        let starts: Vec<Lsn> = opened.journal.files_below(last).iter().map(|file| file.start).collect();
        assert_eq!(starts, kept.iter().copied().collect::<Vec<_>>());
        opened.journal.retire_released();
        drop(opened);
        let place = JournalPlace::directory(disk.clone(), "journal");
        let closed = place.inspect(Scope::From(last), &mut |_, _| {}).unwrap().files;
        assert!(stays.iter().all(|base| closed.read(*base).is_some_and(|read| &read.head[..] == b"head")));
        opened = open(&disk, config(), last.0);
        assert_eq!(opened.report.quarantined, []);
        assert_eq!(opened.replayed.len(), 1, "only what is not below is replayed");
    }
    opened.journal.release(last, &BTreeSet::new());
    assert!(matches!(opened.journal.read(stays[0]), Err(ReadError::Released(_))));
    assert_eq!(opened.journal.files_below(last), []);
}
