//! What the simulated disk does, and that it does it whenever it may.

use std::collections::BTreeSet;

use super::inode::BLOCK;
use super::*;

/// Whole blocks of one value each.
fn blocks(value: u8, count: usize) -> Vec<u8> {
    vec![value; count * BLOCK_BYTES]
}

/// A file with two blocks of ones, durable.
fn with_file(seed: u64, sector_bytes: usize) -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::with_sectors(seed, sector_bytes);
    let file = disk.create("file").unwrap();
    file.write_blocks(0, &blocks(1, 2)).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("").unwrap();
    (disk, file)
}

fn content(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0; file.size().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

fn after_power_cut(disk: &SimDisk) -> Vec<u8> {
    disk.crash();
    content(&*disk.open("file").unwrap())
}

/// The values of the sectors; none of them is mixed.
fn sectors(bytes: &[u8], sector_bytes: usize) -> Vec<u8> {
    let whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
    assert!(bytes.chunks(sector_bytes).all(whole));
    bytes.chunks(sector_bytes).map(|sector| sector[0]).collect()
}

#[test]
fn what_is_written_either_way_survives_the_process_and_not_the_power_unless_it_is_synced() {
    for direct in [false, true] {
        let mut survivors = Vec::new();
        for seed in 0..50 {
            let write = |file: &dyn DiskFile, value| match direct {
                true => file.write_blocks(0, &blocks(value, 1)).unwrap(),
                false => file.write_at(0, &[IoSlice::new(&blocks(value, 1))]).unwrap(),
            };
            let (disk, file) = with_file(seed, 512);
            write(&*file, 2);
            assert_eq!(content(&*disk.open("file").unwrap())[0], 2, "the next process reads it");
            survivors.extend(sectors(&after_power_cut(&disk), 512));
            let file = disk.open("file").unwrap();
            write(&*file, 3);
            file.sync_data().unwrap();
            assert_eq!(sectors(&after_power_cut(&disk), 512)[..8], [3; 8]);
        }
        assert!(survivors.contains(&1) && survivors.contains(&2), "direct {direct}");
    }
}

#[test]
fn power_cuts_tear_between_sectors_of_either_size() {
    for sector_bytes in [512, 4096] {
        let mut torn = 0;
        for seed in 0..50 {
            let (disk, file) = with_file(seed, sector_bytes);
            file.write_blocks(0, &blocks(2, 2)).unwrap();
            let left = sectors(&after_power_cut(&disk), sector_bytes);
            torn += usize::from(left.contains(&1) && left.contains(&2));
        }
        assert!(torn > 5, "{torn} of 50");
    }
}

#[test]
fn a_disk_without_protection_tears_within_sectors_too() {
    for tears in [Tears::None, Tears::Torn, Tears::Unreadable] {
        let (mut mixed, mut unreadable) = (0, 0);
        for seed in 0..100 {
            let (disk, file) = with_file(seed, 4096);
            disk.tear_sectors(tears);
            file.write_blocks(0, &blocks(2, 2)).unwrap();
            disk.crash();
            let mut left = blocks(0, 2);
            let sectors: u64 = disk.unreadable().iter().map(|(_, sectors)| sectors).sum();
            match disk.open("file").unwrap().read_at(0, &mut left) {
                Err(_) => unreadable += 1,
                Ok(_) => mixed += usize::from(left.chunks(4096).any(|sector| sector[0] != sector[4095])),
            }
            assert_eq!(disk.fill_unreadable(), sectors > 0);
            assert_eq!(disk.unreadable(), []);
            assert_eq!(disk.open("file").unwrap().read_at(0, &mut left).unwrap(), left.len());
            let blank = left.chunks(4096).filter(|sector| sector.iter().all(|byte| *byte == 0)).count();
            assert_eq!(blank as u64, sectors);
        }
        assert_eq!((mixed > 5, unreadable > 5), (tears != Tears::None, tears == Tears::Unreadable));
    }
}

#[test]
fn a_failed_sync_leaves_clean_pages_that_no_later_sync_writes() {
    let mut lost = 0;
    for seed in 0..50 {
        let (disk, file) = with_file(seed, 512);
        file.write_at(0, &[IoSlice::new(&blocks(2, 2))]).unwrap();
        disk.fail_next_sync();
        assert!(!disk.has_stale_pages() && file.sync_data().is_err());
        // As if nothing had been, in this life and after the process has died.
        assert_eq!(sectors(&content(&*file), 512), [2; 16]);
        drop(file);
        let file = disk.open("file").unwrap();
        assert_eq!(sectors(&content(&*file), 512), [2; 16]);
        file.sync_data().unwrap();
        let mut device = blocks(0, 2);
        assert_eq!(file.read_blocks(0, &mut device).unwrap(), device.len());
        let copy = disk.copy();
        copy.evict_pages();
        assert_eq!(content(&*copy.open("file").unwrap()), device, "memory was short");
        let holds_all = device == blocks(2, 2);
        assert!(disk.has_stale_pages() || holds_all);
        lost += usize::from(sectors(&after_power_cut(&disk), 512).contains(&1));
    }
    assert!(lost > 10, "{lost} of 50");
}

#[test]
fn what_is_written_again_after_a_failed_sync_is_safe_with_the_next() {
    for seed in 0..20 {
        for direct in [false, true] {
            let (disk, file) = with_file(seed, 512);
            file.write_blocks(0, &blocks(2, 1)).unwrap();
            disk.fail_next_sync();
            assert!(file.sync_data().is_err());
            match direct {
                true => file.write_blocks(0, &blocks(2, 2)).unwrap(),
                false => file.write_at(0, &[IoSlice::new(&blocks(2, 2))]).unwrap(),
            }
            file.sync_data().unwrap();
            assert!(!disk.has_stale_pages());
            assert_eq!(sectors(&after_power_cut(&disk), 512), [2; 16]);
        }
    }
}

#[test]
fn reads_past_the_cache_see_what_was_written_through_it() {
    let (disk, file) = with_file(1, 512);
    file.write_at(100, &[IoSlice::new(b"amid")]).unwrap();
    let mut device = blocks(0, 1);
    file.read_blocks(0, &mut device).unwrap();
    assert_eq!(&device[99..105], b"\x01amid\x01");
    assert_eq!(file.read_blocks(1, &mut device).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(file.write_blocks(0, b"less").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    disk.refuse_direct();
    file.write_blocks(0, &blocks(3, 1)).unwrap();
    disk.fail_next_sync();
    file.sync_data().unwrap_err();
    assert_eq!(content(&*file)[0], 3);
}

#[test]
fn a_files_size_its_blocks_and_its_names_are_lost_apart_from_its_data() {
    let (mut shorter, mut blank, mut without_name) = (0, 0, 0);
    for seed in 0..50 {
        let (disk, file) = with_file(seed, 512);
        file.write_blocks(8192, &blocks(2, 2)).unwrap();
        let left = after_power_cut(&disk);
        assert!(left.len() >= 8192 && left[..8192] == blocks(1, 2));
        shorter += usize::from(left.len() < 16_384);
        let reserved = disk.create("reserved").unwrap();
        reserved.reserve(8192).unwrap();
        reserved.sync_data().unwrap();
        reserved.write_blocks(0, &blocks(3, 2)).unwrap();
        disk.sync_dir("").unwrap();
        disk.create_dir("dir").unwrap();
        disk.create("dir/in").unwrap().sync_data().unwrap();
        disk.crash();
        let left = content(&*disk.open("reserved").unwrap());
        assert_eq!(left.len(), 8192);
        blank += usize::from(left[..4096].iter().all(|byte| *byte == 0) && left[4096..].contains(&3));
        without_name += usize::from(disk.list("dir").unwrap().is_empty());
        disk.cut_power_after(1);
        assert!(disk.create_dir("other").is_err(), "without the power for its sync");
    }
    assert!(shorter > 5 && blank > 2 && without_name > 5, "{shorter} {blank} {without_name}");
}

#[test]
fn damage_hits_the_sector_that_was_named_and_no_other() {
    let damages = [
        Damage::Bits(5),
        Damage::Garbage,
        Damage::Lost,
        Damage::Misdirected { to: 4096 + 512 },
        Damage::Unreadable,
    ];
    for damage in damages {
        let (disk, file) = with_file(7, 512);
        file.write_blocks(0, &blocks(2, 2)).unwrap();
        file.sync_data().unwrap();
        assert!(!disk.damage("file", 8192, damage) && !disk.damage("none", 0, damage));
        assert!(disk.damage("file", 1100, damage));
        let mut expected = blocks(2, 2);
        if damage == Damage::Unreadable {
            assert!(file.read_at(0, &mut expected).is_err());
            assert!(file.read_at(4096, &mut expected[4096..]).is_ok(), "another block");
            file.write_blocks(0, &blocks(2, 1)).unwrap();
            assert_eq!(content(&*file), blocks(2, 2), "it can be written again");
            continue;
        }
        for life in 0..2 {
            let found = content(&*disk.open("file").unwrap());
            let sector = &found[1024..1536];
            match damage {
                Damage::Bits(_) => {
                    let flipped: u32 = sector.iter().map(|byte| (byte ^ 2).count_ones()).sum();
                    assert!((1..=5).contains(&flipped));
                }
                Damage::Garbage => assert!(sector.iter().filter(|byte| **byte != 2).count() > 400),
                _ => assert_eq!(sector, [1; 512]),
            }
            expected[1024..1536].copy_from_slice(sector);
            assert!(found == expected, "{damage:?}, life {life}");
            disk.crash();
        }
    }
    let (disk, file) = with_file(7, 512);
    file.write_blocks(0, &blocks(2, 1)).unwrap();
    file.sync_data().unwrap();
    disk.damage("file", 0, Damage::Misdirected { to: 4096 });
    let found = content(&*file);
    assert_eq!((found[0], found[512], found[4096], found[4608]), (1, 2, 2, 1));
}

#[test]
fn reads_and_writes_fail_once_and_the_disk_goes_on() {
    let (disk, file) = with_file(1, 512);
    disk.fail_next_read();
    let mut bytes = blocks(0, 2);
    assert!(file.read_at(0, &mut bytes).is_err());
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    disk.fail_next_write(WriteFault::Refused);
    assert!(file.write_at(0, &[IoSlice::new(b"no")]).is_err());
    assert_eq!(content(&*file), blocks(1, 2));
    let mut parts = BTreeSet::new();
    for _ in 0..20 {
        disk.fail_next_write(WriteFault::Short);
        assert!(file.write_blocks(0, &blocks(2, 2)).is_err());
        parts.insert(sectors(&content(&*file), 4096));
        file.write_blocks(0, &blocks(1, 2)).unwrap();
    }
    assert_eq!(parts, BTreeSet::from([vec![1, 1], vec![2, 1]]));
    disk.fail_next_write(WriteFault::Short);
    assert!(file.write_at(8192, &[IoSlice::new(&blocks(3, 1))]).is_err());
    assert!(file.size().unwrap() < 8192 + 4096);
}

fn is_full(outcome: io::Result<()>) -> bool {
    outcome.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
}

#[test]
fn with_delayed_allocation_the_sync_finds_the_disk_full() {
    let (disk, file) = with_file(1, 512);
    disk.set_space(Space::Delayed);
    disk.set_capacity(Some(disk.used_bytes() + 4096));
    file.write_at(8192, &[IoSlice::new(&blocks(2, 2))]).unwrap();
    assert!(is_full(file.sync_data()));
    assert_eq!(sectors(&content(&*file), 4096), [1, 1, 2, 2], "the page cache has it");
    file.sync_data().unwrap();
    assert!(after_power_cut(&disk).get(12_288..).is_none_or(|end| !end.contains(&2)), "the disk has not");
}

#[test]
fn with_copy_on_write_overwriting_takes_space_until_the_next_sync() {
    let (disk, file) = with_file(1, 512);
    file.allocate(4 * BLOCK).unwrap();
    file.sync_data().unwrap();
    disk.set_space(Space::CopyOnWrite);
    let used = disk.used_bytes();
    disk.set_capacity(Some(used));
    assert!(is_full(file.write_blocks(0, &blocks(2, 1))), "although it was allocated");
    file.write_at(0, &[IoSlice::new(b"cached")]).unwrap();
    assert!(is_full(file.sync_data()));
    disk.set_capacity(Some(used + BLOCK));
    assert!(is_full(file.write_blocks(0, &blocks(2, 2))), "there is space for one");
    assert_eq!(sectors(&content(&*file), 4096)[..2], [2, 1]);
    assert_eq!((disk.used_bytes(), disk.free_bytes()), (used + BLOCK, Some(0)));
    file.write_blocks(0, &blocks(3, 1)).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.used_bytes(), used);
    file.write_blocks(BLOCK, &blocks(3, 1)).unwrap();
}

#[test]
fn thin_storage_has_what_was_written_and_does_not_say_how_much_more() {
    let disk = SimDisk::new(1);
    disk.set_space(Space::Thin);
    disk.set_capacity(Some(2 * BLOCK));
    let file = disk.create("file").unwrap();
    file.allocate(100 * BLOCK).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.used_bytes(), 0);
    assert!(disk.free_bytes().unwrap() > 100 * BLOCK);
    file.write_blocks(0, &blocks(1, 2)).unwrap();
    file.write_blocks(0, &blocks(2, 2)).unwrap();
    assert!(is_full(file.write_blocks(2 * BLOCK, &blocks(1, 1))));
    file.write_at(3 * BLOCK, &[IoSlice::new(b"cached")]).unwrap();
    assert!(is_full(file.sync_data()));
    disk.set_capacity(Some(4 * BLOCK));
    file.write_blocks(2 * BLOCK, &blocks(1, 1)).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn the_same_seed_and_calls_give_the_same_disk() {
    let life = || {
        let (disk, file) = with_file(5, 512);
        file.write_at(0, &[IoSlice::new(&blocks(2, 1))]).unwrap();
        file.write_blocks(4096, &blocks(3, 3)).unwrap();
        disk.fail_next_sync();
        file.sync_data().unwrap_err();
        file.write_at(6000, &[IoSlice::new(&blocks(4, 1))]).unwrap();
        after_power_cut(&disk)
    };
    assert_eq!(life(), life());
}
