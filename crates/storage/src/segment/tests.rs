use std::sync::Arc;

use super::*;
use crate::disk::{Disk, SimDisk};
use crate::forgetful::ForgetfulDisk;

fn segments(disk: &SimDisk) -> Segments {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Segments::open(Arc::new(DiskSegments::open(disk, "segments").unwrap())).unwrap()
}

/// Three offsets per entry and a gap of one before every tenth entry.
fn offset_of(index: u64) -> u64 {
    100 + index * 3 + index / 10
}

fn write(segments: &Segments, id: SegmentId, entries: u64) -> Vec<Run> {
    let mut writer = segments.writer(id);
    for index in 0..entries {
        let body = vec![index as u8; 1000];
        writer.append(7, offset_of(index), 3, 1000 + index as i64, &index.to_le_bytes(), &body);
    }
    for stream in 8..20 {
        writer.append(stream, 5, 1, 9, b"", b"small");
    }
    writer.finish().unwrap()
}

#[test]
fn entries_are_read_from_any_offset() {
    let disk = SimDisk::new(1);
    let entries = 300;
    let runs = write(&segments(&disk), SegmentId(4), entries);
    assert_eq!(runs.len(), 13);
    let again = segments(&disk);
    assert_eq!(again.runs(SegmentId(4)).unwrap(), runs);
    let run = &runs[0];
    assert_eq!((run.first, run.end, run.entries, run.max_timestamp), (100, offset_of(299) + 3, 300, 1299));
    for index in 0..entries {
        for from in offset_of(index)..offset_of(index) + 3 {
            let read = again.read(run, from, 2500, 10).unwrap();
            assert_eq!(read[0].offset, offset_of(index));
            assert_eq!(read[0].head[..], index.to_le_bytes());
            assert_eq!(read.len() as u64, (entries - index).min(2));
        }
        let timestamp = 1000 + index as i64;
        assert_eq!(again.find_timestamp(run, timestamp).unwrap(), Some(offset_of(index)));
    }
    // In a gap the next entry is found; a limit that fits nothing still gives one entry.
    assert_eq!(again.read(run, offset_of(10) - 1, 0, 10).unwrap()[0].offset, offset_of(10));
    assert_eq!(again.read(run, 0, 0, 10).unwrap().len(), 1);
    assert_eq!(again.read(run, run.end, 100, 10).unwrap(), []);
    assert_eq!(again.find_timestamp(run, 1300).unwrap(), None);
    for run in &runs[1..] {
        let read = again.read(run, 0, 100, 10).unwrap();
        assert_eq!((read.len(), read[0].offset, &read[0].body[..]), (1, 5, &b"small"[..]));
    }
}

#[test]
fn what_lies_behind_small_reads_is_in_memory_for_the_next_ones() {
    let disk = SimDisk::new(1);
    let entries = 1_000;
    let runs = write(&segments(&disk), SegmentId(4), entries);
    let (run, again) = (&runs[0], segments(&disk));
    assert_eq!(again.read_now(run, run.first, 1 << 20, 5), None, "nobody has read it");
    let (mut next, mut from_disk) = (run.first, 0);
    while next < run.end {
        let read = again.read_now(run, next, 1 << 20, 5).unwrap_or_else(|| {
            from_disk += 1;
            again.read(run, next, 1 << 20, 5).unwrap()
        });
        assert_eq!(read, segments(&disk).read(run, next, 1 << 20, read.len()).unwrap());
        next = read.last().map(|last| last.offset + 3).unwrap();
    }
    // A small read, then about 1,000 entries with each.
    assert!((2..=4).contains(&from_disk), "{from_disk} reads of the disk");
    // What a segment of that name held before is no answer.
    write(&again, SegmentId(4), 10);
    assert_eq!(again.read_now(run, run.end - 3, 1 << 20, 5), None);
}

#[test]
fn an_entry_larger_than_any_read_is_returned_whole() {
    let disk = SimDisk::new(1);
    let segments = segments(&disk);
    let mut writer = segments.writer(SegmentId(1));
    let body = vec![3; 5 << 20];
    writer.append(1, 0, 1, 0, b"h", &body);
    writer.append(1, 1, 1, 0, b"h", b"after");
    let runs = writer.finish().unwrap();
    assert_eq!(segments.read(&runs[0], 0, 10, 10).unwrap()[0].body, body);
    assert_eq!(&segments.read(&runs[0], 1, 10, 10).unwrap()[0].body[..], b"after");
}

#[test]
fn a_published_segment_survives_and_an_unfinished_one_vanishes() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let before = segments(&disk);
        let runs = write(&before, SegmentId(1), 50);
        let mut unfinished = before.writer(SegmentId(2));
        (0..3000).for_each(|offset| unfinished.append(1, offset, 1, 0, b"", &[1; 1000]));
        disk.cut_power_after(seed % 5);
        let published = unfinished.finish().is_ok();
        disk.crash();
        let after = segments(&disk);
        let ids: Vec<_> = after.list().into_iter().map(|(id, _)| id.0).collect();
        assert!(ids == [1, 2] || (ids == [1] && !published), "{ids:?}");
        assert_eq!(after.read(&runs[0], 0, usize::MAX / 2, 100).unwrap().len(), 50);
    }
}

#[test]
fn a_flipped_bit_is_never_returned_and_never_hides_what_follows() {
    let clean = {
        let disk = SimDisk::new(0);
        let segments = segments(&disk);
        let runs = write(&segments, SegmentId(1), 300);
        (segments.read(&runs[0], 0, usize::MAX / 2, usize::MAX).unwrap(), segments.list()[0].1)
    };
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let runs = write(&segments(&disk), SegmentId(1), 300);
        let bit = crate::Random::new(seed).below(clean.1 * 8);
        assert!(disk.flip_bit("segments/0000000000000001.segment", bit));
        let segments = segments(&disk);
        let run = &runs[0];
        let (mut from, mut good, mut damaged) = (0, Vec::new(), 0);
        while from < run.end {
            match segments.read(run, from, 50_000, usize::MAX) {
                Ok(read) => {
                    from = read.last().map_or(run.end, |entry| entry.offset + 3);
                    good.extend(read);
                }
                Err(ReadError::Damaged { segment, stream, resume, .. }) => {
                    assert_eq!((segment, stream), (SegmentId(1), 7));
                    assert!(resume > from);
                    damaged += 1;
                    from = resume;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(damaged <= 1);
        assert!(good.iter().all(|entry| clean.0.contains(entry)));
        assert!(good.len() + 40 * damaged >= 300, "{} of 300 readable", good.len());
    }
}

#[test]
fn wrong_order_is_refused_and_no_entries_make_no_segment() {
    let disk = SimDisk::new(1);
    let segments = segments(&disk);
    let mut writer = segments.writer(SegmentId(1));
    writer.append(1, 10, 5, 0, b"", b"");
    writer.append(1, 14, 1, 0, b"", b"");
    assert!(matches!(writer.finish(), Err(WriteError::Misplaced { stream: 1, offset: 14, .. })));
    assert_eq!(segments.list(), []);
    assert_eq!(segments.writer(SegmentId(1)).finish().unwrap(), []);
    assert_eq!(segments.list(), []);
}

#[test]
fn a_full_disk_fails_the_writer_and_leaves_nothing() {
    let disk = SimDisk::new(1);
    let segments = segments(&disk);
    disk.set_capacity(Some(100_000));
    let mut writer = segments.writer(SegmentId(1));
    (0..3000).for_each(|offset| writer.append(1, offset, 1, 0, b"", &[1; 1000]));
    let error = writer.finish().unwrap_err();
    assert!(matches!(&error, WriteError::Io { error, .. } if error.kind() == io::ErrorKind::StorageFull));
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn a_failed_sync_fails_the_writer_and_the_next_one_begins_anew() {
    let disk = SimDisk::new(1);
    let before = segments(&disk);
    let mut writer = before.writer(SegmentId(1));
    writer.append(1, 0, 1, 0, b"", b"body");
    disk.fail_next_sync();
    assert!(matches!(writer.finish(), Err(WriteError::Io { .. })));
    assert_eq!((before.list(), segments(&disk).list()), (Vec::new(), Vec::new()));
    let runs = write(&before, SegmentId(1), 5);
    disk.crash();
    assert_eq!(segments(&disk).read(&runs[0], 0, usize::MAX / 2, 9).unwrap().len(), 5);
}

#[test]
fn another_version_is_refused() {
    let disk = SimDisk::new(1);
    let runs = write(&segments(&disk), SegmentId(1), 5);
    let file = disk.open("segments/0000000000000001.segment").unwrap();
    let mut header = format::encode_header(SegmentId(1));
    header[8] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&1_u64.to_le_bytes()), &header[..12]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    file.write_at(0, &[std::io::IoSlice::new(&header)]).unwrap();
    let segments = segments(&disk);
    for refused in [segments.read(&runs[0], 0, 1, 1).err(), segments.verify_frame(SegmentId(1)).err()] {
        assert!(matches!(refused, Some(ReadError::Version { found: 9, .. })), "{refused:?}");
    }
}

#[test]
fn a_damaged_segment_is_set_aside_instead_of_removed() {
    let disk = SimDisk::new(1);
    let segments = segments(&disk);
    let runs = write(&segments, SegmentId(1), 5);
    assert!(disk.flip_bit("segments/0000000000000001.segment", 8 * (runs[0].position + 60)));
    assert_eq!(segments.verify(&runs[0]).unwrap().lost, [(100, offset_of(1))]);
    segments.remove(SegmentId(1));
    assert_eq!(segments.list(), []);
    let names: Vec<_> = disk.list("segments").unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["0000000000000001.damaged"]);
}

#[test]
fn a_broken_run_leaves_room_for_what_is_elsewhere() {
    let disk = SimDisk::new(1);
    let segments = segments(&disk);
    let mut writer = segments.writer(SegmentId(1));
    writer.break_run();
    for offset in [10, 11, 20, 21] {
        if offset == 20 {
            writer.break_run();
        }
        writer.append(7, offset, 1, offset as i64, b"", &[offset as u8; 20_000]);
    }
    let runs = writer.finish().unwrap();
    assert_eq!(segments.runs(SegmentId(1)).unwrap(), runs);
    assert_eq!(runs.iter().map(|run| (run.first, run.end)).collect::<Vec<_>>(), [(10, 12), (20, 22)]);
    for run in &runs {
        let offsets =
            segments.read(run, 0, usize::MAX, 10).unwrap().iter().map(|e| e.offset).collect::<Vec<_>>();
        assert_eq!(offsets, [run.first, run.first + 1]);
        assert_eq!(segments.verify(run).unwrap().lost, []);
    }
}

/// As with checkpoints: the disk is read back, not the page cache.
#[test]
fn a_segment_that_did_not_reach_the_disk_is_not_published() {
    let (mut refused, mut written) = (0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let forgetful: Arc<dyn Disk> = Arc::new(ForgetfulDisk(disk.clone()));
        let open = Segments::open(Arc::new(DiskSegments::open(forgetful, "segments").unwrap())).unwrap();
        let mut writer = open.writer(SegmentId(1));
        let entries = 1 + seed % 12;
        for index in 0..entries {
            writer.append(7, offset_of(index), 3, 1000, b"head", &[index as u8; 1000]);
        }
        match writer.finish() {
            Ok(runs) => {
                disk.evict_pages();
                let check = segments(&disk).verify(&runs[0]).unwrap();
                assert!(check.lost.is_empty() && check.entries == entries, "seed {seed}: {check:?}");
                written += 1;
            }
            Err(WriteError::Unverified { .. }) => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(refused > 20 && written > 10, "{refused} refused, {written} written");
}
