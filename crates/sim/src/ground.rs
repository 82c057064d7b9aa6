//! What a broker's data lies on, and what befalls it there.

use crate::schedule::Ended;
use clap::ValueEnum;
use posthaste_broker::Home;
use posthaste_storage::{
    Random, data_dir,
    disk::{Damage, Disk, SimDisk, Space},
    object::{Bucket, Rates, SimStore},
};
use std::sync::Arc;

/// Kinds of what data lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// A disk with a directory.
    Disk,
    /// A bucket of an object store.
    Bucket,
}

/// It outlives every start.
#[derive(Clone)]
pub enum Ground {
    Disk(SimDisk),
    Bucket(SimStore),
}

impl Ground {
    /// A new one; of which kind the seed decides, unless it is given.
    pub fn new(random: &mut Random, on: Option<On>) -> Ground {
        let chosen = if random.chance(1, 4) { On::Bucket } else { On::Disk };
        match on.unwrap_or(chosen) {
            On::Bucket => Ground::Bucket(SimStore::new(Rates::default(), random.next_u64())),
            On::Disk => Ground::Disk(new_disk(random)),
        }
    }

    /// From now on it claims of some of what it is given that it is safe.
    pub fn lie(&self) {
        match self {
            Ground::Disk(disk) => disk.skip_syncs(8),
            Ground::Bucket(store) => store.forget_puts(8),
        }
    }

    pub fn home(&self) -> Home {
        match self {
            Ground::Disk(disk) => Home::Disk(Arc::new(disk.clone())),
            Ground::Bucket(store) => {
                Home::Bucket(Bucket::stepped(Arc::new(store.clone()), "some/prefix", "sim"))
            }
        }
    }

    /// What it holds now, for somebody who looks.
    pub fn copy(&self) -> Ground {
        match self {
            Ground::Disk(disk) => Ground::Disk(disk.copy()),
            Ground::Bucket(store) => Ground::Bucket(store.copy()),
        }
    }

    /// How requests fare from now on, where there are any.
    pub fn set_rates(&self, rates: Rates) {
        if let Ground::Bucket(store) = self {
            store.set_rates(rates);
        }
    }

    /// The broker is gone.
    pub fn left(&self, ended: Ended) {
        match self {
            Ground::Disk(disk) if ended == Ended::PowerCut => disk.crash(),
            Ground::Disk(_) => {}
            Ground::Bucket(store) => store.abandon(),
        }
    }

    /// Bits of what is stored change, also of what was synced long ago, or whole sectors. Returns which.
    pub fn flip_bits(&self, random: &mut Random) -> Vec<String> {
        let files = self.files();
        let mut flipped = Vec::new();
        for _ in 0..=random.below(3) {
            let Some((path, bytes)) = files.get(random.below(files.len() as u64) as usize) else {
                return flipped;
            };
            // Journal files are mostly empty space behind their first part.
            let bit = random.below(8 * (*bytes).min(200_000));
            let sector = match self {
                Ground::Disk(_) => sector_damage(random),
                Ground::Bucket(_) => None,
            };
            let (there, befallen) = match (self, sector) {
                (Ground::Disk(disk), Some(damage)) => {
                    let there = disk.damage(path, bit / 8, damage);
                    (there, format!("{damage:?} befalls the sector of octet {} of {path}", bit / 8))
                }
                (Ground::Disk(disk), None) => {
                    (disk.flip_bit(path, bit), format!("bit {bit} of {path} flips"))
                }
                (Ground::Bucket(store), _) => {
                    (store.flip_bit(path, bit), format!("bit {bit} of {path} flips"))
                }
            };
            if there {
                flipped.push(befallen);
            }
        }
        flipped
    }

    /// Somebody copies what can still be read to another disk. False if all of it can.
    pub fn replace(&self) -> bool {
        match self {
            Ground::Disk(disk) => disk.fill_unreadable(),
            Ground::Bucket(_) => false,
        }
    }

    /// What may rot, with sizes in bytes: not the few bytes that say whose data this is.
    fn files(&self) -> Vec<(String, u64)> {
        match self {
            Ground::Disk(disk) => {
                let dirs = [data_dir::JOURNAL_DIR, data_dir::SEGMENTS_DIR, data_dir::CHECKPOINTS_DIR];
                let listed = dirs.iter().flat_map(|dir| {
                    let files = disk.list(dir).unwrap_or_default();
                    files.into_iter().map(move |file| (format!("{dir}/{}", file.name), file.bytes))
                });
                listed.collect()
            }
            Ground::Bucket(store) => {
                let mut objects = store.list_now();
                objects.retain(|(key, _)| !key.contains("/table/") && !store.begins_with(key, b"{"));
                objects
            }
        }
    }
}

/// Disks differ in their sectors, in what reserves space, and in whether there is a way past the page cache.
fn new_disk(random: &mut Random) -> SimDisk {
    let sector_bytes = if random.chance(1, 3) { 4_096 } else { 512 };
    let disk = SimDisk::with_sectors(random.next_u64(), sector_bytes);
    disk.set_space(match random.below(8) {
        0 => Space::CopyOnWrite,
        1 => Space::Delayed,
        2 => Space::Thin,
        _ => Space::Reserved,
    });
    if random.chance(1, 6) {
        disk.refuse_direct();
    }
    disk
}

/// None for a single bit. Torn sectors are left out: docs/durability.md assumes that there are none.
fn sector_damage(random: &mut Random) -> Option<Damage> {
    match random.below(SECTOR_DAMAGE_ONE_IN) {
        0 => Some(Damage::Bits(2 + random.below(6) as u32)),
        1 => Some(Damage::Garbage),
        2 => Some(Damage::Lost),
        3 => Some(Damage::Misdirected { to: random.below(200_000) }),
        4 => Some(Damage::Unreadable),
        _ => None,
    }
}

/// Of so many damages, five are to whole sectors.
const SECTOR_DAMAGE_ONE_IN: u64 = 12;
