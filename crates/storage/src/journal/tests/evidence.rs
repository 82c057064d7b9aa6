//! What was acknowledged and is not there is told, wherever it lay; and what is damaged is kept.

use super::*;

const NOTE: &str = "journal/durable";
const NOTE_BLOCKS: [u64; 4] = [0, 4096, 8192, 12288];

/// A journal in steps whose batches hold one message of a record each.
struct Steps {
    disk: SimDisk,
    opened: Opened,
    bases: Vec<Lsn>,
}

fn quiet(fatal: bool) -> JournalConfig {
    let mut config = JournalConfig { ring_bytes: 0, ..config(Drive::Steps) };
    if !fatal {
        config.fatal = Some(Box::new(|_| {}));
    }
    config
}

fn reopen(disk: &SimDisk, from: u64) -> Opened {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    open(&shared, quiet(false), from)
}

impl Steps {
    fn new(disk: &SimDisk) -> Steps {
        Steps { disk: disk.clone(), opened: reopen(disk, 0), bases: Vec::new() }
    }

    fn submit(&self, number: u64, sync: bool, body: &[u8]) {
        let mut batch = Batch::new(1, number);
        push(&mut batch, 1, false, &number.to_le_bytes(), body);
        batch.holds(1);
        if sync {
            batch.require_sync();
        }
        self.opened.journal.submit(batch);
    }

    fn commit(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.bases.len() as u64;
            self.submit(number, true, &[number as u8; 400]);
            assert_eq!(self.opened.journal.step(), StepOutcome::Committed);
            self.bases.push(self.opened.completions.recv().unwrap().base);
        }
    }

    /// Where a record lies: its file's path, and the position in it.
    fn place(&self, number: usize) -> (String, u64) {
        let place = JournalPlace::directory(Arc::new(self.disk.clone()), "journal");
        let files = place.inspect(Scope::From(Lsn(0)), &mut |_, _| {}).unwrap().files;
        let (file, position) = files.place(self.bases[number]).unwrap();
        (format!("journal/{}", file_name(file)), position)
    }
}

fn zero_from(disk: &SimDisk, path: &str, position: u64) {
    zero(disk, path, position, disk.open(path).unwrap().size().unwrap() - position);
}

fn zero(disk: &SimDisk, path: &str, position: u64, length: u64) {
    let file = disk.open(path).unwrap();
    file.write_at(position, &[io::IoSlice::new(&vec![0; length as usize])]).unwrap();
    file.sync_data().unwrap();
}

fn numbers(opened: &Opened) -> Vec<u64> {
    opened.replayed.iter().map(|record| u64::from_le_bytes(record.2[..8].try_into().unwrap())).collect()
}

/// Ten of twenty acknowledged messages are gone: both an idle moment and a close make that known.
#[test]
fn an_end_of_the_journal_that_is_gone_is_told_with_its_count_at_every_start() {
    for (closed, header_stays) in [(false, false), (false, true), (true, false), (true, true)] {
        let disk = SimDisk::new(1);
        let mut steps = Steps::new(&disk);
        steps.commit(20);
        let (path, position) = steps.place(10);
        assert_eq!(steps.place(19).0, path);
        match closed {
            true => steps.opened.journal.clone().close().unwrap(),
            false => assert_eq!(steps.opened.journal.step_lazy_sync(), StepOutcome::Committed),
        }
        let end = steps.opened.journal.durable();
        let lost_from = steps.bases[10];
        drop(steps);
        zero_from(&disk, &path, if header_stays { position } else { position - 64 });
        let shared: Arc<dyn Disk> = Arc::new(ReadOnlyDisk(Arc::new(disk.clone())));
        let place = JournalPlace::directory(shared, "journal");
        let seen = place.inspect(Scope::From(Lsn(0)), &mut |_, _| {}).unwrap().report;
        let mut highest = end;
        for start in 0..3 {
            let opened = reopen(&disk, 0);
            let context = format!("closed {closed}, start {start}: {:?}", opened.report);
            assert_eq!(numbers(&opened), (0..10).collect::<Vec<_>>(), "{context}");
            assert!(!opened.report.clean_shutdown, "{context}");
            let told = &opened.report.quarantined;
            assert!(start > 0 || *told == seen.quarantined, "{context}, {seen:?}");
            let covered = |lsn| told.iter().any(|damage| damage.from <= lsn && lsn < damage.to);
            assert!(covered(lost_from) && covered(Lsn(end.0 - 8)), "{context}");
            let lost: Vec<Amount> = told.iter().filter_map(|damage| damage.lost).collect();
            let sum = |of: fn(&Amount) -> u64| lost.iter().map(of).sum::<u64>();
            assert_eq!((sum(|lost| lost.records), sum(|lost| lost.messages)), (10, 10), "{context}");
            assert!(opened.journal.end() > highest, "{context}: LSNs are given out again");
            highest = opened.journal.end();
        }
        // Until what was there is released.
        let again = reopen(&disk, highest.0);
        assert_eq!(again.report.quarantined, []);
    }
}

/// The latest note is in two blocks: one may be damaged.
#[test]
fn an_end_that_is_gone_is_told_in_full_with_any_block_of_the_note_damaged() {
    for block in NOTE_BLOCKS {
        let disk = SimDisk::new(1);
        let mut steps = Steps::new(&disk);
        for _ in 0..4 {
            steps.commit(5);
            assert_eq!(steps.opened.journal.step_lazy_sync(), StepOutcome::Committed);
        }
        let (path, position) = steps.place(10);
        drop(steps);
        zero_from(&disk, &path, position);
        assert!(disk.flip_bit(NOTE, (block + 30) * 8));
        let opened = reopen(&disk, 0);
        let lost = opened.report.quarantined.iter().filter_map(|damage| damage.lost);
        assert_eq!(lost.map(|lost| lost.messages).sum::<u64>(), 10, "block at byte {block}");
    }
}

/// Nothing of these frames can be read, neither headers nor records; how many there were is known.
#[test]
fn whole_frames_that_are_gone_amid_the_journal_are_counted() {
    for (first, last) in [(5, 9), (15, 25), (20, 60), (0, 2)] {
        let disk = SimDisk::new(1);
        let mut steps = Steps::new(&disk);
        steps.commit(100);
        steps.opened.journal.step_lazy_sync();
        let mut files = BTreeSet::new();
        for number in first..=last {
            let (path, position) = steps.place(number);
            zero(&disk, &path, position - 64, 64 + 440);
            files.insert(path);
        }
        drop(steps);
        for start in 0..3 {
            let opened = reopen(&disk, 0);
            let context = format!("{first} to {last}, start {start}: {:?}", opened.report.quarantined);
            let gone = (last + 1 - first) as u64;
            assert_eq!(numbers(&opened).len() as u64, 100 - gone, "{context}");
            let lost = opened.report.quarantined.iter().filter_map(|damage| damage.lost);
            let lost = lost.fold(Amount::default(), |mut sum, lost| {
                sum += lost;
                sum
            });
            assert_eq!(lost, Amount { records: gone, messages: gone }, "{context}");
        }
    }
}

/// The file itself may be gone, with all that it held.
#[test]
fn a_last_file_that_is_gone_is_told_with_its_count() {
    let disk = SimDisk::new(1);
    let mut steps = Steps::new(&disk);
    steps.commit(60);
    assert_eq!(steps.opened.journal.step_lazy_sync(), StepOutcome::Committed);
    let (end, (path, _)) = (steps.opened.journal.durable(), steps.place(59));
    assert_ne!(path, steps.place(0).0);
    let bases = steps.bases.clone();
    drop(steps);
    disk.remove(&path).unwrap();
    for _ in 0..2 {
        let opened = reopen(&disk, 0);
        let kept = numbers(&opened).len();
        let told = opened.report.quarantined.last().unwrap();
        assert_eq!((told.kind, told.file), (DamageKind::Missing, None));
        assert!(told.from <= bases[kept] && told.to == end, "{told:?}");
        let missing = 60 - kept as u64;
        assert_eq!(told.lost, Some(Amount { records: missing, messages: missing }), "{told:?}");
        assert!(opened.journal.end() > end);
    }
}

/// A process that was killed leaves what was not synced, and that is no damage.
#[test]
fn an_unsynced_tail_behind_a_note_is_still_only_a_tail() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let mut steps = Steps::new(&disk);
        steps.commit(5);
        steps.opened.journal.step_lazy_sync();
        steps.commit(5);
        for number in 0..5 {
            steps.submit(10 + number, false, b"lazy");
            steps.opened.journal.step();
        }
        disk.crash();
        let opened = reopen(&disk, 0);
        assert_eq!(opened.report.quarantined, [], "seed {seed}");
        assert_eq!(numbers(&opened)[..10], (0..10).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_note_that_cannot_be_read_is_told_once_and_a_torn_one_is_none() {
    type Harm = fn(&SimDisk);
    let unreadable = |disk: &SimDisk, at| assert!(disk.damage(NOTE, at, crate::disk::Damage::Unreadable));
    let harms: [(Harm, bool); 6] = [
        (|disk| assert!(disk.flip_bit(NOTE, 30 * 8)), false),
        (|disk| assert!(disk.flip_bit(NOTE, (3 * 4096 + 30) * 8)), false),
        (|disk| NOTE_BLOCKS.iter().for_each(|at| assert!(disk.flip_bit(NOTE, (at + 30) * 8))), true),
        (|disk| zero_from(disk, NOTE, 0), true),
        (|disk| assert!(disk.truncate(NOTE, 0)), true),
        (|disk| disk.remove(NOTE).unwrap(), true),
    ];
    for (number, (harm, is_lost)) in harms.into_iter().enumerate() {
        let disk = SimDisk::new(1);
        let mut steps = Steps::new(&disk);
        steps.commit(3);
        steps.opened.journal.step_lazy_sync();
        drop(steps);
        harm(&disk);
        let opened = reopen(&disk, 0);
        assert_eq!(numbers(&opened), [0, 1, 2]);
        let kinds: Vec<DamageKind> = opened.report.quarantined.iter().map(|damage| damage.kind).collect();
        assert_eq!(kinds, if is_lost { vec![DamageKind::Note] } else { vec![] }, "harm {number}");
        let is_kept = disk.open("journal/durable.damaged").is_ok();
        assert_eq!(is_kept, (2..5).contains(&number), "harm {number}");
        drop(opened);
        assert_eq!(reopen(&disk, 0).report.quarantined, []);
    }
    for (places, is_lost) in [(&NOTE_BLOCKS[..2], false), (&NOTE_BLOCKS[2..3], false), (&NOTE_BLOCKS, true)] {
        let disk = SimDisk::new(1);
        let mut steps = Steps::new(&disk);
        steps.commit(3);
        steps.opened.journal.step_lazy_sync();
        drop(steps);
        places.iter().for_each(|at| unreadable(&disk, *at));
        let told = reopen(&disk, 0).report.quarantined;
        assert_eq!(told.iter().any(|damage| damage.kind == DamageKind::Note), is_lost, "{told:?}");
    }
}

/// The keeper's thread notes what was synced without being asked, and rests when there is nothing new.
#[test]
fn what_was_synced_is_noted_by_itself() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = open(&shared, config(Drive::Threads), 0);
    let mut batch = Batch::new(1, 1);
    push(&mut batch, 1, false, b"head", b"body");
    batch.require_sync();
    opened.journal.submit(batch);
    opened.completions.recv().unwrap();
    let durable = opened.journal.durable();
    let home = DiskHome::open(shared, "journal").unwrap();
    loop {
        let note::NoteState::Valid(note) = note::Note::read(&home).unwrap() else { continue };
        if note.position.durable == durable.0 {
            assert_eq!(note.position.held.records, 1);
            break;
        }
        thread::yield_now();
    }
}

/// A damaged record is kept for whoever looks into it, whichever of its bits it was, and whether a read or a
/// start meets it.
#[test]
fn a_damaged_file_is_set_aside_whatever_bit_was_flipped() {
    // Of the record's header: checksum, lengths, flags, LSN, nonce; and its head and body.
    for (byte, at_start) in (0..50).flat_map(|byte| [(byte, false), (byte, true)]) {
        let disk = SimDisk::new(1);
        let mut steps = Steps::new(&disk);
        steps.commit(100);
        let (path, position) = steps.place(3);
        assert!(disk.flip_bit(&path, (position + byte) * 8 + 1));
        let last = *steps.bases.last().unwrap();
        if at_start {
            steps.opened = reopen(&disk, 0);
            assert!(!steps.opened.report.quarantined.is_empty());
        } else {
            let read = steps.opened.journal.read(steps.bases[3]);
            assert!(matches!(read, Err(ReadError::Damaged { .. })), "byte {byte}: {read:?}");
        }
        // The process may end before the file is released: what was known then is known later.
        let opened = reopen(&disk, last.0);
        drop(steps);
        opened.journal.release(last, &BTreeSet::new());
        for _ in 0..3 {
            opened.journal.step();
            opened.journal.retire_released();
        }
        let aside = path.replace(".journal", ".damaged");
        assert!(disk.open(&aside).is_ok(), "byte {byte}, at start {at_start}");
        assert!(disk.list("journal").unwrap().iter().all(|file| !file.name.ends_with(".suspect")));
    }
}

/// A file whose header is damaged and that has no readable frame is not one that was never used.
#[test]
fn a_file_of_which_nothing_can_be_read_is_set_aside() {
    let disk = SimDisk::new(1);
    let mut steps = Steps::new(&disk);
    steps.commit(60);
    let (path, _) = steps.place(20);
    drop(steps);
    let file = disk.open(&path).unwrap();
    let garbage: Vec<u8> = (0..file.size().unwrap()).map(|at| (at * 7 + 1) as u8).collect();
    file.write_at(0, &[io::IoSlice::new(&garbage)]).unwrap();
    file.sync_data().unwrap();
    let opened = reopen(&disk, 0);
    assert!(opened.report.quarantined.iter().any(|damage| damage.kind == DamageKind::File));
    assert!(opened.report.quarantined.iter().any(|damage| damage.kind == DamageKind::Missing));
    opened.journal.retire_released();
    assert!(disk.open(&path.replace(".journal", ".damaged")).is_ok());
}

/// After a failed sync the page cache still has the frame, clean: the next start reads it, and answers that
/// it is there. Then it must be.
#[test]
fn what_a_start_replays_after_a_failed_sync_survives_a_power_cut() {
    let mut replayed_once = 0;
    for seed in 0..200 {
        let disk = SimDisk::with_sectors(seed, if seed % 7 < 3 { 4096 } else { 512 });
        if seed % 5 < 2 {
            disk.refuse_direct();
        }
        let mut steps = Steps::new(&disk);
        steps.commit(seed % 3);
        let number = steps.bases.len() as u64;
        // The first frame of a file brings the header along.
        let body = if seed % 2 == 0 { 600 } else { 14_000 };
        for lazy in 0..seed % 4 {
            steps.submit(number + lazy, false, b"lazy");
            steps.opened.journal.step();
        }
        disk.fail_next_sync();
        steps.submit(number + 3, true, &vec![3; body]);
        let failed = steps.opened.journal.step() == StepOutcome::Failed;
        drop(steps);
        let opened = reopen(&disk, 0);
        let replayed = numbers(&opened);
        replayed_once += usize::from(failed && replayed.contains(&(number + 3)));
        drop(opened);
        disk.crash();
        let again = reopen(&disk, 0);
        assert_eq!(numbers(&again), replayed, "seed {seed}");
        assert_eq!(again.report.quarantined, [], "seed {seed}");
    }
    assert!(replayed_once > 50, "{replayed_once}");
}
