//! Decoders as functions of bytes alone, for fuzz targets. None of them panics, or allocates by more than
//! its input.

use std::sync::Arc;

use crate::checkpoint::{Manifest, SliceFile, repair_file, scan_file};
use crate::journal::{self, scan_bytes};
use crate::segment::{self, SegmentFile, SegmentId, read_all};

/// Recovers a journal file; returns the number of records.
pub fn journal_file(bytes: &[u8]) -> u64 {
    scan_bytes(bytes, &mut |_, _| {}).records
}

/// Reads every entry of a segment; returns how many. `None` if its footer is damaged.
pub fn segment_file(id: u64, bytes: &[u8]) -> Option<u64> {
    read_all(&Slice(bytes.to_vec()), SegmentId(id))
}

/// Reads every entry of a checkpoint's delta file; returns how many. `None` if it is damaged.
pub fn checkpoint_file(number: u64, bytes: &[u8]) -> Option<u64> {
    scan_file(Arc::new(SliceFile(bytes.to_vec())), number).ok()
}

/// Reads a checkpoint's manifest; returns the number of files that it names. `None` if it is damaged.
pub fn manifest(bytes: &[u8]) -> Option<usize> {
    Manifest::decode(bytes).map(|manifest| manifest.files().count())
}

/// Makes the checksums in the bytes of a changed journal file right again, so that what lies behind them is
/// read. The same bytes are repaired in the same way: half of all inputs also have the fields right that name
/// a place.
pub fn repair_journal(bytes: &mut [u8]) {
    let placed = is_placed(bytes);
    journal::format::repair(bytes, placed);
}

/// The same for a segment.
pub fn repair_segment(id: u64, bytes: &mut [u8]) {
    let placed = is_placed(bytes);
    segment::repair(bytes, SegmentId(id), placed);
}

/// The same for a checkpoint's delta file.
pub fn repair_checkpoint(number: u64, bytes: &mut [u8]) {
    let placed = is_placed(bytes);
    repair_file(bytes, number, placed);
}

/// The same for a checkpoint's manifest.
pub fn repair_manifest(bytes: &mut [u8]) {
    let placed = is_placed(bytes);
    Manifest::repair(bytes, placed);
}

fn is_placed(bytes: &[u8]) -> bool {
    crc32c::crc32c(bytes).is_multiple_of(2)
}

struct Slice(Vec<u8>);

impl SegmentFile for Slice {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        let at = usize::try_from(position).unwrap_or(usize::MAX).min(self.0.len());
        let read = buffer.len().min(self.0.len() - at);
        buffer[..read].copy_from_slice(&self.0[at..at + read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;
    use crate::disk::{Disk, SimDisk};
    use crate::journal::{Batch, Drive, Journal, JournalConfig, Lsn};
    use crate::segment::{DiskSegments, Segments};

    fn read_file(disk: &dyn Disk, dir: &str, ending: &str) -> Vec<u8> {
        let entries = disk.list(dir).unwrap();
        let entry = entries.iter().find(|entry| entry.name.ends_with(ending)).unwrap();
        let file = disk.open(&format!("{dir}/{}", entry.name)).unwrap();
        let mut bytes = vec![0; entry.bytes as usize];
        assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
        bytes
    }

    /// Flips, cuts, repeats and zeroes parts of a sound file.
    fn mutate(random: &mut Random, sound: &[u8]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        for _ in 0..=random.below(4) {
            let length = bytes.len().max(1) as u64;
            let at = (random.below(length) as usize).min(bytes.len());
            let part = (random.below(64) as usize).min(bytes.len() - at);
            match random.below(4) {
                0 => bytes.truncate(at),
                1 => bytes[at..at + part].fill(0xff),
                2 => bytes.copy_within(at..at + part, 0),
                _ => bytes[at..at + part].iter_mut().for_each(|byte| *byte ^= random.next_u64() as u8),
            }
        }
        bytes
    }

    /// A journal of 20 records, a segment of 50 entries, a delta of 50, and a manifest of one file.
    fn sound_files() -> (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>) {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let config =
            JournalConfig { drive: Drive::Steps, first_file_bytes: 16 << 10, ..JournalConfig::default() };
        let (journal, _) =
            Journal::open(disk.clone(), "journal", config, Lsn(0), &mut |_, _| {}, Box::new(|_| {})).unwrap();
        for number in 0..10 {
            let mut batch = Batch::new(0, number);
            batch.push(1, true, &bytes::Bytes::from_static(b"body"), |head| head.push(1));
            batch.push(1, false, &bytes::Bytes::from_static(b"body"), |head| head.push(2));
            journal.submit(batch);
            journal.step();
        }
        let store = DiskSegments::open(disk.clone(), "segments").unwrap();
        let mut writer = Segments::open(Arc::new(store)).unwrap().writer(SegmentId(5));
        (0..50).for_each(|offset| writer.append(1, offset, 1, 0, b"head", &[1; 1000]));
        writer.finish().unwrap();
        let (mut checkpoints, _) = crate::checkpoint::Checkpoints::open(disk.clone(), "checkpoints").unwrap();
        let changes = (0..50_u8).map(|key| (vec![key], Some(vec![key; 100])));
        checkpoints.write(b"meta", &mut changes.into_iter()).unwrap();

        (
            read_file(&*disk, "journal", ".journal"),
            read_file(&*disk, "segments", ".segment"),
            read_file(&*disk, "checkpoints", ".delta"),
            read_file(&*disk, "checkpoints", ".manifest"),
        )
    }

    #[test]
    fn decoders_read_sound_files_and_survive_mutated_and_repaired_ones() {
        let (journal_bytes, segment, delta, manifest_bytes) = sound_files();
        assert_eq!(journal_file(&journal_bytes), 20);
        assert_eq!(segment_file(5, &segment), Some(50));
        assert_eq!(checkpoint_file(1, &delta), Some(50));
        assert_eq!(manifest(&manifest_bytes), Some(1));
        let mut random = Random::new(7);
        for _ in 0..2000 {
            assert!(journal_file(&mutate(&mut random, &journal_bytes)) <= 20);
            assert!(segment_file(5, &mutate(&mut random, &segment)).is_none_or(|entries| entries <= 50));
            assert!(checkpoint_file(1, &mutate(&mut random, &delta)).is_none_or(|entries| entries <= 50));
            assert!(manifest(&mutate(&mut random, &manifest_bytes)).is_none_or(|files| files == 1));
        }
        let mut passed = [0; 4];
        for _ in 0..2000 {
            let mut input = mutate(&mut random, &journal_bytes);
            repair_journal(&mut input);
            passed[0] += u32::from(journal_file(&input) > 0);
            let mut input = mutate(&mut random, &segment);
            repair_segment(5, &mut input);
            passed[1] += u32::from(segment_file(5, &input).is_some());
            let mut input = mutate(&mut random, &delta);
            repair_checkpoint(1, &mut input);
            passed[2] += u32::from(checkpoint_file(1, &input).is_some());
            let mut input = mutate(&mut random, &manifest_bytes);
            repair_manifest(&mut input);
            passed[3] += u32::from(manifest(&input).is_some());
        }
        assert!(passed.iter().all(|passed| *passed > 100), "behind the checksums: {passed:?} of 2000");
    }

    #[test]
    fn a_repair_leaves_sound_files_as_they_are_and_mends_a_changed_one() {
        let (journal, segment, delta, manifest_bytes) = sound_files();
        let check = |sound: &[u8], repair: &dyn Fn(&mut [u8])| {
            let mut bytes = sound.to_vec();
            repair(&mut bytes);
            assert!(bytes == sound);
        };
        check(&journal, &|bytes| repair_journal(bytes));
        check(&segment, &|bytes| repair_segment(5, bytes));
        check(&delta, &|bytes| repair_checkpoint(1, bytes));
        check(&manifest_bytes, &|bytes| repair_manifest(bytes));

        // A byte of the first record's body.
        let place = 4096 + 64 + 32 + 1;
        let mut changed = journal.clone();
        changed[place] ^= 1;
        assert!(journal_file(&changed) < 20);
        repair_journal(&mut changed);
        assert_eq!(journal_file(&changed), 20);
    }
}
