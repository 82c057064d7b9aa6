use std::collections::BTreeMap;

use super::*;
use crate::Random;
use crate::disk::SimDisk;
use crate::forgetful::ForgetfulDisk;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(disk: &SimDisk) -> Result<(Checkpoints, Option<Loaded>), CheckpointError> {
    Checkpoints::open(Arc::new(disk.clone()), "checkpoints")
}

fn contents(loaded: &Loaded) -> Map {
    let mut map = Map::new();
    loaded
        .for_each(&mut |key, value| {
            assert!(map.insert(key.to_vec(), value.to_vec()).is_none());
        })
        .unwrap();
    map
}

/// Some changes, sorted, applied to `map` as well.
fn changes(random: &mut Random, map: &mut Map) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut changes = BTreeMap::new();
    for _ in 0..random.below(40) {
        let key = (random.below(100) as u16).to_be_bytes().to_vec();
        let size = if random.chance(1, 10) { random.below(100_000) } else { random.below(50) };
        let value = random.chance(3, 4).then(|| vec![random.next_u64() as u8; size as usize]);
        match &value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(&key),
        };
        changes.insert(key, value);
    }
    changes
}

#[test]
fn a_crash_leaves_the_last_finished_checkpoint_or_the_one_under_way() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(!seed);
        let mut map = Map::new();
        let mut step: u64 = 0;
        let mut states = BTreeMap::from([(0, map.clone())]);
        for _life in 0..3 {
            let Ok((mut checkpoints, loaded)) = open(&disk) else {
                panic!("seed {seed}: a crash is not damage")
            };
            let finished = match &loaded {
                Some(loaded) => u64::from_le_bytes(loaded.meta[..8].try_into().unwrap()),
                None => 0,
            };
            assert!(finished == step || states.len() > 1 && finished > *states.keys().next().unwrap());
            map = states.remove(&finished).unwrap();
            assert_eq!(loaded.as_ref().map(contents).unwrap_or_default(), map, "seed {seed}");
            assert!(loaded.is_none_or(|loaded| loaded.damaged.is_empty()));
            step = finished;
            disk.cut_power_after(random.below(60));
            loop {
                let mut next = map.clone();
                let is_base = random.chance(1, 5);
                let changes = if is_base { BTreeMap::new() } else { changes(&mut random, &mut next) };
                let meta = (step + 1).to_le_bytes();
                states = BTreeMap::from([(step, map.clone()), (step + 1, next.clone())]);
                let outcome = if is_base {
                    checkpoints.write_base(&meta)
                } else {
                    checkpoints.write(&meta, &mut changes.into_iter())
                };
                if outcome.is_err() {
                    break;
                }
                (step, map) = (step + 1, next);
            }
            disk.crash();
        }
    }
}

#[test]
fn a_base_is_wanted_after_many_or_large_deltas_and_merges_them() {
    let disk = SimDisk::new(1);
    let (mut checkpoints, loaded) = open(&disk).unwrap();
    assert!(loaded.is_none() && !checkpoints.wants_base());
    let mut map = Map::new();
    let mut random = Random::new(1);
    for round in 0..17 {
        assert!(!checkpoints.wants_base(), "after {round}");
        let mut changes = changes(&mut random, &mut map);
        changes.values_mut().flatten().for_each(|value| value.truncate(10));
        map.values_mut().for_each(|value| value.truncate(10));
        checkpoints.write(b"m", &mut changes.into_iter()).unwrap();
    }
    assert!(checkpoints.wants_base());
    let stats = checkpoints.write_base(b"merged").unwrap();
    assert_eq!((stats.entries, stats.deltas), (map.len() as u64, 0));
    assert!(!checkpoints.wants_base());
    let large = (b"large".to_vec(), Some(vec![1; 300 * 1024]));
    checkpoints.write(b"m", &mut std::iter::once(large)).unwrap();
    assert!(checkpoints.wants_base());
    assert_eq!(checkpoints.fallback_meta(), Some(&b"merged"[..]));
    map.insert(b"large".to_vec(), vec![1; 300 * 1024]);
    assert_eq!(contents(&open(&disk).unwrap().1.unwrap()), map);
}

#[test]
fn a_flipped_bit_falls_back_to_the_generation_before_or_costs_one_block() {
    let (mut fallbacks, mut salvages) = (0, 0);
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed);
        let (mut checkpoints, _) = open(&disk).unwrap();
        let mut states = vec![Map::new()];
        for step in 1..=4_u64 {
            let mut map = states.last().unwrap().clone();
            let changes = changes(&mut random, &mut map);
            checkpoints.write(&step.to_le_bytes(), &mut changes.into_iter()).unwrap();
            states.push(map);
            if step == 2 {
                checkpoints.write_base(&step.to_le_bytes()).unwrap();
            }
        }
        let files = disk.list("checkpoints").unwrap();
        let file = &files[random.below(files.len() as u64) as usize];
        let path = format!("checkpoints/{}", file.name);
        assert!(disk.flip_bit(&path, random.below(file.bytes * 8)));
        match open(&disk) {
            Ok((_, Some(loaded))) => {
                let step = u64::from_le_bytes(loaded.meta[..8].try_into().unwrap());
                if loaded.damaged.iter().any(|text| !text.contains(".manifest is")) && step == 4 {
                    // Both generations need the file: what can be read of it, and no key without a word.
                    salvages += 1;
                    let (found, lost) = (contents(&loaded), &loaded.lost);
                    assert!(lost.iter().all(|lost| lost.file == file.name) && !lost.is_empty());
                    let inside = |key: &Vec<u8>| lost.iter().any(|l| l.covers(key));
                    let all = |map: &Map| map.iter().all(|(k, v)| inside(k) || states[4].get(k) == Some(v));
                    assert!(all(&found), "{lost:?}");
                    assert!(states[4].keys().all(|key| inside(key) || found.contains_key(key)), "{lost:?}");
                    drop(loaded);
                    let (mut checkpoints, _) = open(&disk).unwrap();
                    assert!(checkpoints.wants_base());
                    checkpoints.write_base(b"whole").unwrap();
                    checkpoints.write(b"again", &mut std::iter::empty()).unwrap();
                    let whole = open(&disk).unwrap().1.unwrap();
                    assert_eq!((contents(&whole), &whole.damaged), (found, &Vec::new()));
                    let kept = disk.list("checkpoints").unwrap();
                    assert!(kept.iter().any(|kept| kept.name == format!("{}.damaged", file.name)));
                    continue;
                }
                assert_eq!(contents(&loaded), states[step as usize]);
                assert!(step == 4 || step == 3 && loaded.damaged.len() == 1);
                fallbacks += u64::from(step == 3);
                // The damage is told once, and what was damaged is kept aside.
                assert_eq!(open(&disk).unwrap().1.unwrap().damaged, Vec::<String>::new());
                let kept = disk.list("checkpoints").unwrap();
                assert!(step == 4 || kept.iter().any(|file| file.name.ends_with(".damaged")));
            }
            Ok((_, None)) => panic!("a damaged checkpoint must not look like none"),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(fallbacks > 30 && salvages > 30, "{fallbacks} {salvages}");
}

#[test]
fn bad_input_and_a_full_disk_leave_the_checkpoint_as_it_was() {
    let disk = SimDisk::new(1);
    let (mut checkpoints, _) = open(&disk).unwrap();
    let change = |key: &[u8]| (key.to_vec(), Some(b"value".to_vec()));
    checkpoints.write(b"1", &mut [change(b"a")].into_iter()).unwrap();
    let unsorted = checkpoints.write(b"2", &mut [change(b"c"), change(b"b")].into_iter());
    assert!(matches!(unsorted, Err(CheckpointError::Unsorted)));
    disk.set_capacity(Some(disk.used_bytes() + 1000));
    let large = (b"b".to_vec(), Some(vec![0; 5000]));
    let full = checkpoints.write(b"2", &mut std::iter::once(large));
    assert!(
        matches!(full, Err(CheckpointError::Io { error, .. }) if error.kind() == io::ErrorKind::StorageFull)
    );
    disk.set_capacity(None);
    checkpoints.write(b"3", &mut [change(b"b")].into_iter()).unwrap();
    let loaded = open(&disk).unwrap().1.unwrap();
    assert_eq!(loaded.meta, b"3");
    assert_eq!(contents(&loaded).len(), 2);
}

#[test]
fn another_version_is_refused() {
    let manifest = Manifest { number: 1, meta: b"m".to_vec(), base: None, deltas: Vec::new() };
    let mut bytes = manifest.encode();
    bytes[8] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let disk = SimDisk::new(1);
    disk.create_dir("checkpoints").unwrap();
    let file = disk.create("checkpoints/0000000000000001.manifest").unwrap();
    file.write_at(0, &[std::io::IoSlice::new(&bytes)]).unwrap();
    assert!(matches!(
        open(&disk),
        Err(CheckpointError::Version { found: 9, supported: manifest::MANIFEST_VERSION, .. })
    ));
}

#[test]
fn a_delta_of_another_version_is_refused() {
    let disk = SimDisk::new(1);
    let (mut checkpoints, _) = open(&disk).unwrap();
    checkpoints.write(b"1", &mut std::iter::once((b"a".to_vec(), Some(b"b".to_vec())))).unwrap();
    let delta = disk.list("checkpoints").unwrap().into_iter().find(|f| f.name.ends_with(".delta")).unwrap();
    let file = disk.open(&format!("checkpoints/{}", delta.name)).unwrap();
    let mut header = [0; 32];
    file.read_at(0, &mut header).unwrap();
    header[8] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    file.write_at(0, &[std::io::IoSlice::new(&header)]).unwrap();
    assert!(matches!(open(&disk), Err(CheckpointError::Version { found: 9, .. })));
}

#[test]
fn a_failed_sync_leaves_the_generation_before_and_the_next_write_begins_anew() {
    for syncs_before in 0..2 {
        let disk = SimDisk::new(1);
        let (mut checkpoints, _) = open(&disk).unwrap();
        let change = |key: &[u8]| std::iter::once((key.to_vec(), Some(b"value".to_vec())));
        checkpoints.write(b"1", &mut change(b"a")).unwrap();
        match syncs_before {
            0 => disk.fail_next_sync(),
            // The file of the second generation is whole, its manifest is not.
            _ => disk.cut_power_after(6),
        }
        assert!(checkpoints.write(b"2", &mut change(b"b")).is_err());
        if syncs_before == 0 {
            checkpoints.write(b"3", &mut change(b"c")).unwrap();
        }
        disk.crash();
        let loaded = open(&disk).unwrap().1.unwrap();
        assert_eq!(loaded.meta, if syncs_before == 0 { b"3" } else { b"1" });
        assert!(contents(&loaded).contains_key(&b"a"[..]) && loaded.damaged.is_empty());
    }
}

/// What a write says to be durable is on the disk, not only in the page cache: a disk that only says that it
/// synced is found out by reading back past the cache.
#[test]
fn a_checkpoint_that_did_not_reach_the_disk_is_not_taken_for_one() {
    let (mut refused, mut written) = (0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed);
        let forgetful: Arc<dyn Disk> = Arc::new(ForgetfulDisk(disk.clone()));
        let (mut checkpoints, _) = Checkpoints::open(forgetful, "checkpoints").unwrap();
        let mut map = Map::new();
        let mut before = Map::new();
        let outcome = checkpoints.write(b"meta", &mut changes(&mut random, &mut map).into_iter());
        match outcome {
            Ok(_) => (before, written) = (map, written + 1),
            Err(CheckpointError::Unverified { .. }) => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        disk.evict_pages();
        let loaded = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}")).1;
        assert_eq!(loaded.as_ref().map(contents).unwrap_or_default(), before, "seed {seed}");
    }
    assert!(refused > 20 && written > 20, "{refused} refused, {written} written");
}
