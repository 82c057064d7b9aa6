//! What a broker's data lies on, and what befalls it there.

use crate::schedule::Ended;
use clap::ValueEnum;
use posthaste_broker::Home;
use posthaste_storage::{
    Random, data_dir,
    disk::{Damage, Disk, SimDisk, Space, Tears},
    journal::JournalPlace,
    object::{Bucket, Rates, SimStore},
    segment::{DiskSegments, Run, SegmentId, Segments},
};
use std::{collections::BTreeSet, sync::Arc};

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

    /// Power cuts tear sectors from now on, where there are any; some cannot be read then, if bits change.
    pub fn tear_sectors(&self, rots: bool) {
        if let Ground::Disk(disk) = self {
            disk.tear_sectors(if rots { Tears::Unreadable } else { Tears::Torn });
        }
    }

    /// Files with sectors that cannot be read, and how many each has.
    pub fn unreadable(&self) -> Vec<(String, u64)> {
        match self {
            Ground::Disk(disk) => disk.unreadable(),
            Ground::Bucket(_) => Vec::new(),
        }
    }

    /// All that can be read is copied to a new disk, with zeros in place of the rest.
    pub fn rescue(&self) {
        if let Ground::Disk(disk) = self {
            disk.fill_unreadable();
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
    /// `tears`: sectors may also become unreadable.
    pub fn flip_bits(&self, random: &mut Random, tears: bool) -> Vec<Befallen> {
        let files = self.files();
        let mut befallen: Vec<(Befallen, Vec<(String, u64)>)> = Vec::new();
        for _ in 0..=random.below(3) {
            let Some((path, bytes)) = files.get(random.below(files.len() as u64) as usize) else {
                break;
            };
            // Journal files are mostly empty space behind their first part.
            let bit = random.below(8 * (*bytes).min(200_000));
            let sector = match self {
                Ground::Disk(_) => sector_damage(random, tears),
                Ground::Bucket(_) => None,
            };
            let mut streams = self.streams_at(path, bit / 8);
            if let Some(Damage::Misdirected { to }) = sector {
                streams = streams.zip(self.streams_at(path, to)).map(|(here, there)| &here | &there);
            }
            let (there, text) = match (self, sector) {
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
                let mut places = vec![(path.clone(), bit / 8)];
                if let Some(Damage::Misdirected { to }) = sector {
                    places.push((path.clone(), to));
                }
                befallen.push((Befallen { text, streams, unnoted: false }, places));
            }
        }
        // Damage to the note counts for all.
        for (befallen, places) in &mut befallen {
            befallen.unnoted = places.iter().any(|(path, position)| self.is_unnoted(path, *position));
        }
        befallen.into_iter().map(|(befallen, _)| befallen).collect()
    }

    /// Whether the position lies in the journal, behind the last note of what is durable.
    fn is_unnoted(&self, path: &str, position: u64) -> bool {
        let Ground::Disk(disk) = self else { return false };
        let name = path.strip_prefix(data_dir::JOURNAL_DIR).and_then(|name| name.strip_prefix('/'));
        let name = name.and_then(|name| name.strip_suffix(".journal"));
        let Some(file) = name.and_then(|name| u64::from_str_radix(name, 16).ok()) else { return false };
        let place = JournalPlace::directory(Arc::new(disk.copy()), data_dir::JOURNAL_DIR);
        place.is_unnoted(file, position).unwrap_or(true)
    }

    /// The streams of which a segment holds something at a position, or all of its streams if what is there
    /// is of the whole file; none of what was set aside. `None` where it is not known.
    fn streams_at(&self, path: &str, position: u64) -> Option<BTreeSet<u64>> {
        let Ground::Disk(disk) = self else { return None };
        if path.ends_with(".damaged") {
            return Some(BTreeSet::new());
        }
        let name = path.strip_prefix(data_dir::SEGMENTS_DIR)?.strip_prefix('/')?.strip_suffix(".segment")?;
        let id = SegmentId(u64::from_str_radix(name, 16).ok()?);
        let disk: Arc<dyn Disk> = Arc::new(disk.copy());
        let segments = DiskSegments::open(disk, data_dir::SEGMENTS_DIR).ok()?;
        let runs = Segments::open(Arc::new(segments)).ok()?.runs(id).ok()?;
        let sector = position / SECTOR_BYTES_MAX * SECTOR_BYTES_MAX;
        let holds =
            |run: &&Run| run.position < sector + SECTOR_BYTES_MAX && sector < run.position + run.bytes;
        let there: BTreeSet<u64> = runs.iter().filter(holds).map(|run| run.stream).collect();
        Some(if there.is_empty() { runs.iter().map(|run| run.stream).collect() } else { there })
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

/// Something that was done to what is stored.
pub struct Befallen {
    pub text: String,
    /// Whose messages lay there, if that can be told; else it may have been anybody's.
    pub streams: Option<BTreeSet<u64>>,
    /// It may pass for an end of the journal that had not been synced.
    pub unnoted: bool,
}

/// None for a single bit.
fn sector_damage(random: &mut Random, tears: bool) -> Option<Damage> {
    match random.below(SECTOR_DAMAGE_ONE_IN) {
        0 => Some(Damage::Bits(2 + random.below(6) as u32)),
        1 => Some(Damage::Garbage),
        2 => Some(Damage::Lost),
        3 => Some(Damage::Misdirected { to: random.below(200_000) }),
        4 | 5 if tears => Some(Damage::Unreadable),
        _ => None,
    }
}

const SECTOR_BYTES_MAX: u64 = 4_096;
/// Of so many damages, four are to whole sectors, or six.
const SECTOR_DAMAGE_ONE_IN: u64 = 12;
