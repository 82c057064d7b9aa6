//! A disk that is full although space was reserved.

use super::*;
use crate::disk::Space;

/// A journal on such a disk, with what it was told to be fatal.
struct Full {
    disk: SimDisk,
    opened: Opened,
    reason: Arc<Mutex<Option<String>>>,
    number: u64,
}

impl Full {
    fn open(seed: u64, space: Space, drive: Drive) -> Full {
        let disk = SimDisk::new(seed);
        disk.set_space(space);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let reason = Arc::new(Mutex::new(None));
        let told = reason.clone();
        let mut config = config(drive);
        config.lazy_sync = Duration::from_millis(1);
        config.fatal = Some(Box::new(move |message| *told.lock() = Some(message)));
        let opened = open(&shared, config, 0);
        // The next file is made ready.
        opened.journal.step();
        Full { disk, opened, reason, number: 0 }
    }

    fn submit(&mut self, body_bytes: usize, sync: bool) {
        let mut batch = Batch::new(1, self.number);
        push(&mut batch, 1, false, &self.number.to_le_bytes(), &vec![self.number as u8; body_bytes]);
        if sync {
            batch.require_sync();
        }
        self.number += 1;
        self.opened.journal.submit(batch);
    }

    /// Numbers of the batches that survive a power cut.
    fn synced(&self) -> Vec<u64> {
        let synced = self.opened.completions.try_iter().filter(|completion| completion.synced);
        synced.map(|completion| completion.number).collect()
    }

    /// All that was submitted is there after a power cut, in order.
    fn check_after_power_cut(self) {
        assert_eq!(*self.reason.lock(), None);
        drop(self.opened);
        self.disk.crash();
        let shared: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let again = open(&shared, config(Drive::Steps), 0);
        assert_eq!(again.report.quarantined, []);
        let numbers = again.replayed.iter().map(|record| {
            assert!(record.3.iter().all(|byte| *byte == record.2[0]));
            u64::from(record.2[0])
        });
        assert_eq!(numbers.collect::<Vec<_>>(), (0..self.number).collect::<Vec<_>>());
    }
}

#[test]
fn a_frame_that_finds_no_space_waits_for_it_and_nothing_is_answered() {
    for space in [Space::CopyOnWrite, Space::Thin] {
        for seed in 0..20 {
            let mut full = Full::open(seed, space, Drive::Steps);
            full.submit(100, true);
            assert_eq!(full.opened.journal.step(), StepOutcome::Committed);
            assert_eq!(full.synced(), [0]);
            // Some seeds leave space for a part of the frame.
            full.disk.set_capacity(Some(full.disk.used_bytes() + seed % 3 * 4096));
            full.submit(20_000, true);
            full.submit(10, true);
            for _ in 0..3 {
                assert_eq!(full.opened.journal.step(), StepOutcome::NoSpace);
                assert_eq!((full.synced(), full.opened.journal.room(0)), (vec![], 0));
            }
            full.disk.set_capacity(None);
            while full.opened.journal.step() == StepOutcome::Committed {}
            assert_eq!(full.synced(), [1, 2]);
            assert!(full.opened.journal.room(0) > 8192, "there is room again");
            full.check_after_power_cut();
        }
    }
}

#[test]
fn what_a_sync_found_no_space_for_is_written_again_before_it_counts_as_durable() {
    for seed in 0..50 {
        let mut full = Full::open(seed, Space::Thin, Drive::Steps);
        // The first fills its file, so that it is synced before the others come.
        for body_bytes in [10_000; 5] {
            full.submit(body_bytes, false);
            assert_eq!(full.opened.journal.step(), StepOutcome::Committed);
        }
        assert_eq!(full.synced(), [0]);
        full.disk.set_capacity(Some(full.disk.used_bytes() + seed % 3 * 4096));
        for _ in 0..3 {
            full.opened.journal.step_lazy_sync();
            assert_eq!(full.opened.journal.room(0), 0);
            assert_eq!(full.opened.journal.step(), StepOutcome::NoSpace);
            assert!(full.synced().is_empty());
        }
        full.disk.set_capacity(None);
        assert_eq!(full.opened.journal.step(), StepOutcome::Committed);
        assert_eq!(full.synced(), [1, 2, 3, 4]);
        full.submit(10, true);
        assert_eq!(full.opened.journal.step(), StepOutcome::Committed);
        full.check_after_power_cut();
    }
}

/// The header of a file is written with its first frame: while that waits for space, a sync proves nothing of
/// the file.
#[test]
fn a_file_whose_first_frame_waits_for_space_is_not_told_to_be_missing() {
    for space in [Space::CopyOnWrite, Space::Thin] {
        for seed in 0..20 {
            let mut full = Full::open(seed, space, Drive::Steps);
            full.submit(10_000, true);
            assert_eq!(full.opened.journal.step(), StepOutcome::Committed);
            full.disk.set_capacity(Some(full.disk.used_bytes()));
            // There is no place for it in this file.
            full.submit(20_000, true);
            assert_eq!(full.opened.journal.step(), StepOutcome::NoSpace);
            let durable = full.opened.journal.durable();
            full.opened.journal.step_lazy_sync();
            assert_eq!(full.opened.journal.durable(), durable);
            full.number = 1;
            full.disk.set_capacity(None);
            full.check_after_power_cut();
        }
    }
}

#[test]
fn a_lazy_sync_that_has_space_ends_the_wait_too() {
    let mut full = Full::open(1, Space::Thin, Drive::Steps);
    full.submit(3000, false);
    full.opened.journal.step();
    full.disk.set_capacity(Some(0));
    full.opened.journal.step_lazy_sync();
    assert_eq!(full.opened.journal.room(0), 0);
    full.disk.set_capacity(None);
    full.opened.journal.step_lazy_sync();
    assert!(full.opened.journal.room(0) > 8192);
    full.check_after_power_cut();
}

#[test]
fn what_the_system_has_forgotten_when_there_is_space_again_ends_the_journal() {
    let mut full = Full::open(1, Space::Thin, Drive::Steps);
    full.submit(30_000, false);
    full.opened.journal.step();
    full.disk.set_capacity(Some(full.disk.used_bytes()));
    full.opened.journal.step_lazy_sync();
    full.disk.evict_pages();
    full.disk.set_capacity(None);
    assert_eq!(full.opened.journal.step(), StepOutcome::Failed);
    assert!(full.synced().is_empty());
    let reason = full.reason.lock().take().unwrap();
    assert!(reason.contains("the disk was full") && reason.contains("start again"), "{reason}");
}

#[test]
fn the_writers_thread_waits_for_space_or_for_the_end() {
    for closes in [false, true] {
        let mut full = Full::open(1, Space::CopyOnWrite, Drive::Threads);
        full.submit(10, true);
        full.submit(10, true);
        let numbers = full.opened.completions.iter().take(2).map(|completion| completion.number);
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 1]);
        full.disk.set_capacity(Some(0));
        full.submit(10, true);
        while full.opened.journal.room(0) > 0 {
            thread::yield_now();
        }
        if closes {
            assert_eq!(full.opened.journal.close(), Err(CloseError::NoSpace));
            assert_eq!(*full.reason.lock(), None);
            continue;
        }
        full.disk.set_capacity(None);
        assert_eq!(full.opened.completions.recv().unwrap().number, 2);
        full.check_after_power_cut();
    }
}

#[test]
fn what_is_made_ahead_counts_only_as_far_as_its_space_is_kept() {
    for (space, expected) in [(Space::Reserved, 8192..1 << 20), (Space::CopyOnWrite, 0..4097)] {
        let full = Full::open(1, space, Drive::Steps);
        full.disk.set_capacity(Some(full.disk.used_bytes() + 4096));
        let room = full.opened.journal.room(0);
        assert!(expected.contains(&room), "{space:?}: {room}");
    }
}
