//! Writes that fail while the disk goes on, and sectors that do not hold what was written.

use super::*;
use crate::disk::{Damage, WriteFault};

/// Acknowledged records of a journal that was not closed, on a disk with such sectors.
fn build(seed: u64, sector_bytes: usize, refuses_direct: bool) -> (SimDisk, Opened, Vec<Written>) {
    let disk = SimDisk::with_sectors(seed, sector_bytes);
    if refuses_direct {
        disk.refuse_direct();
    }
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut config = config(Drive::Steps);
    config.fatal = Some(Box::new(|_| {}));
    let opened = open(&shared, config, 0);
    let mut random = Random::new(seed);
    let mut records = Vec::new();
    for number in 0..12_u64 {
        let body = vec![number as u8; random.below(5_000) as usize];
        let (base, distance) = commit(&opened, number, &body);
        records.push((base + distance, 1, number.to_le_bytes().to_vec(), body));
    }
    // How far it is durable is noted a moment later.
    opened.journal.step_lazy_sync();
    (disk, opened, records)
}

fn submit(opened: &Opened, number: u64, body: &[u8]) -> u64 {
    let mut batch = Batch::new(1, number);
    let distance = push(&mut batch, 1, false, &number.to_le_bytes(), body);
    batch.require_sync();
    opened.journal.submit(batch);
    distance
}

fn commit(opened: &Opened, number: u64, body: &[u8]) -> (u64, u64) {
    let distance = submit(opened, number, body);
    assert_eq!(opened.journal.step(), StepOutcome::Committed);
    (opened.completions.recv().unwrap().base.0, distance)
}

#[test]
fn a_write_that_fails_or_ends_early_ends_the_journal_and_harms_nothing_acknowledged() {
    for fault in [WriteFault::Refused, WriteFault::Short] {
        for seed in 0..24 {
            let (disk, opened, records) = build(seed, 512, seed % 3 == 0);
            disk.fail_next_write(fault);
            submit(&opened, 99, &[9; 9_000]);
            assert_eq!(opened.journal.step(), StepOutcome::Failed);
            assert_eq!(opened.completions.try_iter().count(), 0, "it is not acknowledged");
            drop(opened);
            if seed % 2 == 0 {
                disk.crash();
            }
            let shared: Arc<dyn Disk> = Arc::new(disk);
            let again = open(&shared, config(Drive::Steps), 0);
            assert_eq!(again.report.quarantined, []);
            assert!(again.replayed == records, "{fault:?}, seed {seed}");
            commit(&again, 100, b"on it goes");
        }
    }
}

#[test]
fn damaged_sectors_cost_what_lies_in_them_and_are_told() {
    let (mut lost, mut untouched) = (0, 0);
    for seed in 0..240 {
        let sector_bytes = if seed % 2 == 0 { 512 } else { 4096 };
        let (disk, opened, records) = build(seed % 5, sector_bytes, seed % 3 == 0);
        drop(opened);
        let mut random = Random::new(seed);
        let files: Vec<_> = disk.list("journal").unwrap();
        let files: Vec<_> = files.iter().filter(|file| file.name.ends_with(".journal")).collect();
        let path = format!("journal/{}", files[random.below(files.len() as u64) as usize].name);
        let used = disk.written_bytes(&path).max(1);
        let damage = match seed / 6 % 4 {
            0 => Damage::Bits(1 + random.below(8) as u32),
            1 => Damage::Garbage,
            2 => Damage::Lost,
            _ => Damage::Misdirected { to: random.below(used) },
        };
        disk.damage(&path, random.below(used), damage);
        let shared: Arc<dyn Disk> = Arc::new(disk);
        let again = open(&shared, config(Drive::Steps), 0);
        let report = &again.report;
        assert!(again.replayed.iter().all(|record| records.contains(record)), "seed {seed}: invented");
        for record in records.iter().filter(|record| !again.replayed.contains(record)) {
            let mut damages = report.quarantined.iter();
            let told = damages.any(|damage| (damage.from.0..damage.to.0).contains(&record.0));
            assert!(told, "seed {seed}, {damage:?}: LSN {} is lost without a word: {report:?}", record.0);
            lost += 1;
        }
        untouched += usize::from(again.replayed.len() == records.len());
    }
    assert!(lost > 50 && untouched > 5, "{lost} lost, {untouched} untouched");
}
