//! What a broker's data lies on, and what befalls it there.

use crate::schedule::Ended;
use clap::ValueEnum;
use posthaste_broker::Home;
use posthaste_storage::{
    Random, data_dir,
    disk::{Disk, SimDisk},
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
            On::Disk => Ground::Disk(SimDisk::new(random.next_u64())),
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

    /// Bits of what is stored change, also of what was synced long ago. Returns which.
    pub fn flip_bits(&self, random: &mut Random) -> Vec<String> {
        let files = self.files();
        let mut flipped = Vec::new();
        for _ in 0..=random.below(3) {
            let Some((path, bytes)) = files.get(random.below(files.len() as u64) as usize) else {
                return flipped;
            };
            // Journal files are mostly empty space behind their first part.
            let bit = random.below(8 * (*bytes).min(200_000));
            let there = match self {
                Ground::Disk(disk) => disk.flip_bit(path, bit),
                Ground::Bucket(store) => store.flip_bit(path, bit),
            };
            if there {
                flipped.push(format!("bit {bit} of {path} flips"));
            }
        }
        flipped
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
