use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::conformance;
use crate::data_dir::DataDir;
use crate::disk::{Disk, DiskFile};
use crate::journal::{
    Batch, Completion, Journal, JournalConfig, JournalPlace, Lsn, RecordRef, RecoveryReport, Scope,
    format::FILE_HEADER_BYTES,
};
use crate::segment::DiskSegments;

const FAULTS: Rates = Rates { refused: 4, answer_lost: 6, own_success: 6, slow: 60 };

static NONCES: AtomicU64 = AtomicU64::new(1);

fn bucket_on(store: Arc<dyn ObjectStore>) -> Bucket {
    Bucket::on(store, "some/prefix", "memory").unwrap()
}

fn claim(bucket: &Bucket) -> ObjectDisk {
    ObjectDisk::open(bucket.clone(), NONCES.fetch_add(1, Ordering::Relaxed)).unwrap()
}

fn stores() -> Vec<(&'static str, Arc<dyn ObjectStore>)> {
    let faults = SimStore::new(FAULTS, 7);
    vec![("memory", Arc::new(InMemory::new())), ("faults", Arc::new(faults))]
}

fn fresh(store: &str) -> Arc<dyn ObjectStore> {
    stores().into_iter().find(|(name, _)| *name == store).unwrap().1
}

#[test]
fn a_bucket_is_a_disk_to_files_that_are_synced() {
    for store in ["memory", "faults"] {
        conformance::disk(|| Arc::new(claim(&bucket_on(fresh(store)))));
    }
}

#[test]
fn a_bucket_is_a_segment_store() {
    for store in ["memory", "faults"] {
        conformance::segment_store(|| {
            let disk: Arc<dyn Disk> = Arc::new(claim(&bucket_on(fresh(store))));
            Arc::new(DiskSegments::open(disk, "segments").unwrap())
        });
    }
}

#[test]
fn a_bucket_holds_a_journal() {
    for store in ["memory", "faults"] {
        conformance::journal(|| {
            let bucket = bucket_on(fresh(store));
            Box::new(move |config, from, replay, completed| {
                let config = JournalConfig { nonce_seed: NONCES.fetch_add(1, Ordering::Relaxed), ..config };
                JournalPlace::bucket(claim(&bucket)).open(config, from, replay, completed).unwrap()
            })
        });
    }
}

#[test]
fn large_files_are_sent_in_parts() {
    let bucket = bucket_on(Arc::new(InMemory::new()));
    let disk = claim(&bucket);
    let mut random = crate::Random::new(1);
    let content: Vec<u8> = (0..(30 << 20) / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    let file = disk.create("large").unwrap();
    for (index, part) in content.chunks(1_000_003).enumerate() {
        file.write_at(index as u64 * 1_000_003, &[IoSlice::new(part)]).unwrap();
    }
    file.sync_data().unwrap();
    disk.sync_dir(".").unwrap();
    let again = claim(&bucket).open("large").unwrap();
    let mut read = vec![0; content.len() + 1];
    assert_eq!(again.read_at(0, &mut read).unwrap(), content.len());
    assert!(read[..content.len()] == content);
}

#[test]
fn who_opens_last_owns_the_names() {
    let bucket = bucket_on(Arc::new(InMemory::new()));
    let write = |file: &dyn DiskFile, text: &str| {
        file.write_at(0, &[IoSlice::new(text.as_bytes())]).unwrap();
        file.sync_data().unwrap();
    };
    let first = claim(&bucket);
    write(&*first.create("name").unwrap(), "first");
    first.sync_dir(".").unwrap();
    let second = claim(&bucket);
    assert!(second.epoch() > first.epoch());
    first.remove("name").unwrap();
    write(&*first.create("other").unwrap(), "late");
    assert!(first.sync_dir(".").is_err() && first.sync_dir(".").is_err());
    let mut read = [0; 5];
    assert_eq!(second.open("name").unwrap().read_at(0, &mut read).unwrap(), 5);
    assert_eq!(&read, b"first");
    let third = claim(&bucket);
    assert!(third.open("other").is_err() && third.open("name").is_ok());
}

#[test]
fn identity_stays_and_the_epoch_counts_starts() {
    let bucket = bucket_on(fresh("faults"));
    for epoch in 1..4 {
        let data = DataDir::open_on(Arc::new(claim(&bucket)), "bucket", [epoch; 16]).unwrap();
        assert_eq!((data.cluster_id(), data.epoch()), (&*"01".repeat(16), u64::from(epoch)));
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    let store = Arc::new(InMemory::new());
    let bucket = bucket_on(store);
    let own = bucket.clone();
    bucket.wait(async move { own.put("letter.txt", Bytes::from_static(b"dear")).await }).unwrap();
    let refused = ObjectDisk::open(bucket, 1).err().unwrap();
    assert!(matches!(&refused, OpenError::Foreign { found, .. } if found == "letter.txt"), "{refused}");
}

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    for (name, store) in stores() {
        bucket_on(store).probe().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let liar = SimStore::new(Rates::default(), 1);
    liar.ignore_conditions();
    let refused = bucket_on(Arc::new(liar)).probe().unwrap_err();
    assert!(
        matches!(refused, OpenError::Unsafe { .. }) && refused.to_string().contains("memory"),
        "{refused}"
    );
}

/// A journal, and what it was told of.
struct Life {
    journal: Journal,
    /// Nothing happens but by [`Journal::step`].
    stepped: bool,
    report: RecoveryReport,
    /// Numbers replayed, with their LSNs, in order.
    replayed: Vec<(u64, u64)>,
    completions: mpsc::Receiver<Completion>,
    failed: mpsc::Receiver<String>,
}

impl Life {
    fn open(bucket: &Bucket, from: Lsn) -> Life {
        let (sender, completions) = mpsc::channel();
        let (fatal, failed) = mpsc::channel();
        let config = JournalConfig {
            ring_bytes: 0,
            nonce_seed: NONCES.fetch_add(1, Ordering::Relaxed),
            fatal: Some(Box::new(move |reason| fatal.send(reason).unwrap_or_default())),
            ..JournalConfig::default()
        };
        let mut replayed = Vec::new();
        let mut replay = |lsn: Lsn, record: RecordRef<'_>| {
            let number = u64::from_le_bytes(record.head.try_into().unwrap());
            assert!(record.body == body(number));
            replayed.push((number, lsn.0));
        };
        let completed = Box::new(move |completion| sender.send(completion).unwrap_or_default());
        let place = JournalPlace::bucket(claim(bucket));
        let (journal, report) = place.open(config, from, &mut replay, completed).unwrap();
        let stepped = bucket.is_stepped();
        Life { journal, stepped, report, replayed, completions, failed }
    }

    /// The next of what it tells.
    fn next<T>(&self, told: &mpsc::Receiver<T>) -> T {
        if !self.stepped {
            return told.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        for _ in 0..100_000 {
            match told.try_recv() {
                Ok(told) => return told,
                Err(_) => self.journal.step(),
            };
        }
        panic!("it tells nothing");
    }

    fn submit(&self, number: u64) {
        let mut batch = Batch::new(0, number);
        batch.push(3, false, &Bytes::from(body(number)), |head| head.extend(number.to_le_bytes()));
        batch.require_sync();
        self.journal.submit(batch);
    }
}

fn body(number: u64) -> Vec<u8> {
    vec![number as u8; (number.wrapping_mul(37) % 6000) as usize]
}

/// Random lives over a failing store: each is left in the middle of its work, or overlaps with the next, which
/// takes over. Whatever was acknowledged is there in order afterwards, and nothing else than what was submitted.
fn run(seed: u64, store: &SimStore, bucket: &Bucket) -> u64 {
    let mut random = crate::Random::new(seed);
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    let mut next = 0;
    let mut from = Lsn(0);
    let mut old: Option<Life> = None;
    for life in 0..6 {
        let current = Life::open(bucket, from);
        if let Some(old) = old.take() {
            old.submit(u64::MAX);
            assert!(old.next(&old.failed).contains("taken over"), "seed {seed}");
            // Answers may come late, but only to what was put before the fence: its successor has read that.
            let late = old.completions.try_iter().map(|c| (c.number, c.base.0));
            acknowledged.extend(late);
        }
        assert!(current.report.quarantined.is_empty(), "seed {seed}: {:?}", current.report);
        let expected: Vec<_> = acknowledged.iter().filter(|(_, lsn)| **lsn >= from.0).collect();
        let replayed: BTreeMap<u64, u64> = current.replayed.iter().copied().collect();
        assert!(current.replayed.is_sorted() && replayed.len() == current.replayed.len());
        for (number, lsn) in expected {
            assert_eq!(
                replayed.get(number),
                Some(lsn),
                "seed {seed}, life {life}: {number} was acknowledged"
            );
        }
        assert!(replayed.keys().all(|number| *number < next), "seed {seed}: invented");
        acknowledged.extend(replayed);
        let count = random.below(60);
        for _ in 0..count {
            current.submit(next);
            next += 1;
        }
        for _ in 0..random.below(count + 1) {
            let completion = current.next(&current.completions);
            acknowledged.insert(completion.number, completion.base.0);
        }
        if let Some((_, lsn)) = acknowledged.iter().nth(random.below(acknowledged.len() as u64) as usize) {
            from = from.max(Lsn(*lsn));
            current.journal.release(from, &BTreeSet::new());
        }
        if random.chance(1, 2) {
            old = Some(current);
        } else {
            // What was on its way may arrive when its successor is there, or never.
            drop(current);
            store.abandon();
        }
    }
    acknowledged.iter().fold(next, |sum, (number, lsn)| sum.wrapping_mul(31).wrapping_add(number ^ lsn))
}

#[test]
fn acknowledged_records_survive_failures_and_takeovers() {
    for seed in 0..10 {
        let store = SimStore::new(FAULTS, seed);
        run(seed, &store, &bucket_on(Arc::new(store.clone())));
    }
    for seed in 0..300 {
        let stepped = || {
            let store = SimStore::new(FAULTS, seed);
            run(seed, &store, &Bucket::stepped(Arc::new(store.clone()), "some/prefix", "memory"))
        };
        let outcome = stepped();
        if seed < 10 {
            assert_eq!(stepped(), outcome, "seed {seed}: the same seed does the same");
        }
    }
}

/// Each of five objects is cut, or gone, or has a bit that is another, also the last one, behind which
/// nothing tells of it but the fence. All else is replayed, and what is missing is told, each time.
#[test]
fn damaged_objects_are_told_and_the_others_are_read() {
    type Harm = fn(&SimStore, &str);
    let harms: [Harm; 3] = [
        |store, key| store.remove_now(key),
        |store, key| {
            let bytes = store.read_now(key).unwrap();
            store.write_now(key, bytes[..bytes.len() - 100].to_vec());
        },
        |store, key| assert!(store.flip_bit(key, (FILE_HEADER_BYTES + 100) * 8)),
    ];
    for harm in harms {
        for victim in 0..5 {
            let store = SimStore::new(Rates::default(), 1);
            let bucket = bucket_on(Arc::new(store.clone()));
            let life = Life::open(&bucket, Lsn(0));
            let mut places = Vec::new();
            for number in 0..5 {
                life.submit(number);
                places.push(life.completions.recv().unwrap().base);
            }
            drop(life);
            // Puts the fence.
            drop(Life::open(&bucket, Lsn(0)));
            let key = format!("some/prefix/journal/00000001/{victim:016}");
            harm(&store, &key);
            let expect: Vec<u64> = (0..5).filter(|number| *number != victim).collect();
            let place = JournalPlace::bucket(ObjectDisk::look(bucket.clone()).unwrap());
            let mut seen = Vec::new();
            let mut replay = |_: Lsn, record: RecordRef<'_>| {
                seen.push(u64::from_le_bytes(record.head.try_into().unwrap()));
            };
            let looked = place.inspect(Scope::From(Lsn(0)), &mut replay).unwrap();
            assert_eq!(seen, expect);
            assert!(!looked.report.quarantined.is_empty(), "{key}");
            for (number, lsn) in places.iter().enumerate() {
                let read = looked.files.read(*lsn).map(|stored| stored.body);
                let expect = (number as u64 != victim).then(|| Bytes::from(body(number as u64)));
                assert!(read == expect, "{key}: {number}");
            }
            for _ in 0..2 {
                let life = Life::open(&bucket, Lsn(0));
                assert_eq!(life.replayed.iter().map(|(number, _)| *number).collect::<Vec<_>>(), expect);
                assert!(!life.report.quarantined.is_empty(), "{key}");
            }
        }
    }
}

/// An opener that reads all there is must not take what was released for the place where a journal ends.
#[test]
fn what_was_released_ends_no_journal_for_who_reads_all_of_it() {
    let bucket = bucket_on(Arc::new(InMemory::new()));
    let life = Life::open(&bucket, Lsn(0));
    let mut places = Vec::new();
    for number in 0..6 {
        life.submit(number);
        places.push(life.completions.recv().unwrap().base);
    }
    life.journal.release(places[4], &BTreeSet::new());
    life.journal.retire_released();
    drop(life);
    let disk = claim(&bucket);
    let mut seen = Vec::new();
    let mut replay = |lsn: Lsn, _: RecordRef<'_>| seen.push(lsn);
    let place = JournalPlace::bucket(disk);
    let inspected = place.inspect(Scope::All(places[4]), &mut replay).unwrap();
    assert_eq!(inspected.report.quarantined, []);
    assert!(seen.ends_with(&places[4..]), "{seen:?}");
    // It was fenced where it ended.
    let (journal, report) =
        place.open(JournalConfig::default(), places[4], &mut |_, _| {}, Box::new(|_| {})).unwrap();
    assert_eq!((report.quarantined, report.records), (Vec::new(), 2));
    drop(journal);
}

#[test]
fn objects_that_a_start_has_to_fetch_are_counted() {
    let life = Life::open(&bucket_on(Arc::new(InMemory::new())), Lsn(0));
    for number in 0..5 {
        life.submit(number);
        life.completions.recv().unwrap();
    }
    let count_from = |from| life.journal.files_from(from);
    assert_eq!((count_from(Lsn(0)), count_from(life.journal.end())), (5, 0));
}

/// Lists are no snapshots, and a look takes longer than a put.
#[test]
fn a_writer_at_full_speed_is_fenced_and_loses_nothing() {
    let bucket = bucket_on(Arc::new(SimStore::new(Rates { slow: 60, ..Rates::default() }, 1)));
    for _ in 0..4 {
        let old = Life::open(&bucket, Lsn(0));
        let (first, mut next) = (old.replayed.len() as u64, old.replayed.len() as u64);
        let mut acknowledged = Vec::new();
        let replayed = std::thread::scope(|scope| {
            let (runs, running) = mpsc::channel();
            let heir = scope.spawn(|| {
                running.into_iter().next();
                Life::open(&bucket, Lsn(0)).replayed
            });
            while old.failed.try_recv().is_err() {
                if old.journal.room(0) > 1 << 20 && next - first < acknowledged.len() as u64 + 100 {
                    old.submit(next);
                    next += 1;
                }
                acknowledged.extend(old.completions.try_iter().map(|c| (c.number, c.base.0)));
                if acknowledged.len() > 1_000 {
                    let _ = runs.send(());
                }
            }
            heir.join().unwrap()
        });
        acknowledged.extend(old.completions.try_iter().map(|c| (c.number, c.base.0)));
        assert_eq!(replayed[first as usize..][..acknowledged.len()], acknowledged);
    }
}

/// Nothing is published, so that no put meets the fence.
#[test]
fn an_idle_opener_finds_out_that_it_was_taken_over() {
    let bucket = bucket_on(Arc::new(SimStore::new(FAULTS, 1)));
    let old = Life::open(&bucket, Lsn(0));
    let owned = old.journal.ownership().unwrap();
    let new = Life::open(&bucket, Lsn(0));
    assert!(old.next(&old.failed).contains("another broker has taken over"));
    assert!(!owned.is_fresh() && new.failed.try_recv().is_err());
}

/// By a clock that the test moves: how long a proof holds, whatever the store or the process does meanwhile.
#[test]
fn nothing_may_be_told_without_a_proof_that_is_young_enough() {
    let store = SimStore::new(Rates::default(), 1);
    let clock = Arc::new(AtomicI64::new(1_000));
    let bucket = Bucket::stepped_by(Arc::new(store.clone()), "some/prefix", "memory", clock.clone());
    let pass = |time: Duration| _ = clock.fetch_add(time.as_millis() as i64, Ordering::Relaxed);
    let old = Life::open(&bucket, Lsn(0));
    let owned = old.journal.ownership().unwrap();
    let steps = || (0..20).for_each(|_| _ = old.journal.step());
    assert!(!owned.is_fresh(), "somebody may have come since the bucket was claimed");
    steps();
    assert!(owned.is_fresh());
    // A look is due after its period, and is enough for as long as a proof holds.
    pass(LOOK_EVERY);
    steps();
    pass(PROOF_HOLDS - Duration::from_millis(1));
    assert!(owned.is_fresh());
    pass(Duration::from_millis(1));
    assert!(!owned.is_fresh());
    steps();
    assert!(owned.is_fresh());
    // The store does not answer.
    store.set_away(true);
    for passed in 1..=PROOF_HOLDS.as_secs() {
        pass(Duration::from_secs(1));
        steps();
        assert_eq!(owned.is_fresh(), passed < PROOF_HOLDS.as_secs());
    }
    assert!(old.failed.try_recv().is_err(), "that is no reason to end");
    store.set_away(false);
    pass(Duration::from_secs(1));
    steps();
    assert!(owned.is_fresh());
    // A put that the store takes is a proof of when it was begun.
    old.submit(1);
    steps();
    pass(PROOF_HOLDS - Duration::from_millis(1));
    assert!(old.completions.try_recv().is_ok() && owned.is_fresh());
    // The process stands still for an hour, and somebody takes over meanwhile.
    let new = Life::open(&bucket, Lsn(0));
    pass(Duration::from_secs(3_600));
    assert!(!owned.is_fresh());
    steps();
    assert!(old.failed.try_recv().unwrap().contains("another broker has taken over"));
    assert!(!owned.is_fresh() && new.replayed.len() == 1);
}

/// The successor has gone on so far that what the former owner had under way is released. Its number is free
/// again, and still nobody may take this for a proof.
#[test]
fn what_the_successor_has_removed_proves_nothing() {
    let store = SimStore::new(Rates::default(), 1);
    let clock = Arc::new(AtomicI64::new(1_000));
    let open = || Bucket::stepped_by(Arc::new(store.clone()), "some/prefix", "memory", clock.clone());
    let (bucket, heir) = (open(), open());
    let old = Life::open(&bucket, Lsn(0));
    let owned = old.journal.ownership().unwrap();
    (0..20).for_each(|_| _ = old.journal.step());
    // It arrives, and its answer does not.
    let key = "some/prefix/journal/00000001/0000000000000000";
    store.set_rates(Rates { answer_lost: 100, ..Rates::default() });
    old.submit(0);
    while store.read_now(key).is_none() {
        old.journal.step();
    }
    store.set_rates(Rates::default());
    let new = Life::open(&heir, Lsn(0));
    assert_eq!(new.replayed.len(), 1);
    store.remove_now(key);
    clock.fetch_add(3_600_000, Ordering::Relaxed);
    for _ in 0..20 {
        assert!(!owned.is_fresh());
        old.journal.step();
    }
    assert!(old.failed.try_recv().unwrap().contains("another broker has taken over"));
}

#[test]
fn publishers_wait_while_the_store_is_away() {
    let store = Arc::new(SimStore::new(Rates::default(), 1));
    let bucket = bucket_on(store.clone());
    let life = Life::open(&bucket, Lsn(0));
    let room = life.journal.room(0);
    store.set_away(true);
    (0..50).for_each(|number| life.submit(number));
    let waiting: u64 = room - life.journal.room(0);
    assert!(waiting >= (0..50).map(|number| body(number).len() as u64).sum());
    assert!(life.completions.try_recv().is_err());
    store.set_away(false);
    for number in 0..50 {
        assert_eq!(life.completions.recv_timeout(Duration::from_secs(60)).unwrap().number, number);
    }
    assert_eq!(life.journal.room(0), room);
    life.journal.close().unwrap();
    assert!(Life::open(&bucket, Lsn(0)).report.clean_shutdown);
}
