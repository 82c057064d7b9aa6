//! A disk in memory that forgets, tears and reorders what was not synced, as its seed says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{DirEntry, Disk, DiskFile, DiskLock};
use crate::Random;

/// The unit that reaches the simulated platter whole or not at all.
pub const SECTOR_BYTES: usize = 512;

type Sector = Box<[u8; SECTOR_BYTES]>;

/// [`Disk`] in memory. The same seed and the same calls give the same faults. Clones share the disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk without a capacity limit.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(State::new(seed))) }
    }

    /// Cuts the power and brings the disk back. Of what was not synced any subset of sectors survives, a
    /// file's size may fall back, and names that were not synced may be gone. Handles and locks of before
    /// are dead.
    pub fn crash(&self) {
        self.state.lock().crash();
    }

    /// Bytes that all files may take together; more fails with [`io::ErrorKind::StorageFull`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes that all files take now.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    /// Makes the next sync of a file fail, and what it should have synced impossible to sync later.
    pub fn fail_next_sync(&self) {
        self.state.lock().fail_syncs += 1;
    }

    /// Lets `operations` more changes through and fails all later ones, the first of them half done, until
    /// [`SimDisk::crash`].
    pub fn cut_power_after(&self, operations: u64) {
        self.state.lock().power = Some(operations);
    }

    /// Ends what was set to go wrong: the capacity, the next sync, the power. What is lost stays lost.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        (state.capacity, state.fail_syncs, state.power) = (None, 0, None);
    }

    /// Whether [`SimDisk::cut_power_after`] has run out.
    pub fn power_is_cut(&self) -> bool {
        self.state.lock().power == Some(0)
    }

    /// Has one sync of a file in `one_in` only say that it did something: a disk that lies.
    pub fn skip_syncs(&self, one_in: u64) {
        self.state.lock().skip_syncs = Some(one_in);
    }

    /// Another disk with the same content; nobody holds a lock on it.
    pub fn copy(&self) -> SimDisk {
        let mut state = self.state.lock().clone();
        state.locks.clear();
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Inverts one bit of a file, durably: `bit` counts from the file's start. False if there is no such bit.
    pub fn flip_bit(&self, path: &str, bit: u64) -> bool {
        self.state.lock().flip_bit(path, bit)
    }

    /// Cuts a file to `bytes`, durably. False if there is no such file.
    pub fn truncate(&self, path: &str, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let Some(inode) = state.inode_named(path) else { return false };
        inode.truncate(bytes);
        inode.durable_size = bytes.min(inode.durable_size);
        true
    }

    /// How far a file was ever written to, in bytes, to a whole sector.
    pub fn written_bytes(&self, path: &str) -> u64 {
        let mut state = self.state.lock();
        let Some(inode) = state.inode_named(path) else { return 0 };
        let written = inode.sectors.keys().next_back().map_or(0, |sector| (sector + 1) * SECTOR_BYTES as u64);
        written.min(inode.size)
    }

    /// Number of syncs of files and directories so far.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let mut path = String::new();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
            state.dirs.insert(path.clone());
        }
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, generation: state.generation }))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.change()?;
        let dir = dir_of(path);
        if !dir.is_empty() && !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.names.insert(path.to_owned(), inode);
        state.name_changes.push(NameChange::Link { path: path.to_owned(), inode });
        Ok(Arc::new(SimFile { disk: self.clone(), inode, generation: state.generation }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state.name_changes.push(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.name_changes.push(NameChange::Unlink { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        let dir = dir.trim_matches('/');
        if !dir.is_empty() && dir != "." && !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let dir = if dir == "." { "" } else { dir };
        let files =
            state.names.iter().filter(|(path, _)| dir_of(path) == dir).map(|(path, inode)| DirEntry {
                name: name_of(path).to_owned(),
                bytes: state.inodes.get(inode).map_or(0, |inode| inode.size),
                is_dir: false,
            });
        let dirs = state.dirs.iter().filter(|path| dir_of(path) == dir);
        let dirs = dirs.map(|path| DirEntry { name: name_of(path).to_owned(), bytes: 0, is_dir: true });
        let mut entries: Vec<_> = files.chain(dirs).collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.syncs += 1;
        let dir = if dir == "." { "" } else { dir.trim_matches('/') };
        let changes = std::mem::take(&mut state.name_changes);
        for change in changes {
            if change.is_in(dir) {
                change.apply(&mut state.durable_names);
            } else {
                state.name_changes.push(change);
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        let state = self.state.lock();
        state.capacity.map(|capacity| capacity.saturating_sub(state.used()))
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        let mut state = self.state.lock();
        let generation = state.generation;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another holder has the lock"));
        }
        Ok(DiskLock::new(SimLock { disk: self.clone(), path: path.to_owned(), generation }))
    }
}

#[derive(Clone)]
struct State {
    random: Random,
    generation: u64,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    dirs: BTreeSet<String>,
    locks: BTreeSet<String>,
    capacity: Option<u64>,
    fail_syncs: u32,
    skip_syncs: Option<u64>,
    power: Option<u64>,
    /// The first write without power still reached the page cache; later ones did not.
    write_was_cut: bool,
    syncs: u64,
}

impl State {
    fn new(seed: u64) -> State {
        State {
            random: Random::new(seed),
            generation: 0,
            next_inode: 1,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            capacity: None,
            fail_syncs: 0,
            skip_syncs: None,
            power: None,
            write_was_cut: false,
            syncs: 0,
        }
    }

    /// Counts a change against the power that is left.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.power {
            Some(0) => Err(power_cut()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|inode| self.inodes.get(inode)).map(|inode| inode.size).sum()
    }

    fn reserve(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used().saturating_add(more) > capacity => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"))
            }
            _ => Ok(()),
        }
    }

    fn inode_named(&mut self, path: &str) -> Option<&mut Inode> {
        let inode = self.names.get(path)?;
        self.inodes.get_mut(inode)
    }

    fn flip_bit(&mut self, path: &str, bit: u64) -> bool {
        let Some(inode) = self.inode_named(path) else { return false };
        let byte = bit / 8;
        if byte >= inode.size {
            return false;
        }
        let sector = inode.sectors.entry(byte / SECTOR_BYTES as u64).or_default();
        let index = (byte % SECTOR_BYTES as u64) as usize;
        let mask = 1 << (bit % 8);
        sector.now[index] ^= mask;
        sector.older.iter_mut().for_each(|older| older[index] ^= mask);
        true
    }

    fn crash(&mut self) {
        self.generation += 1;
        self.power = None;
        self.write_was_cut = false;
        self.fail_syncs = 0;
        self.locks.clear();
        // Some crashes keep nothing, some keep all, most keep some.
        let keep_of_four = self.random.below(5);
        let mut lost: BTreeSet<String> = BTreeSet::new();
        for change in std::mem::take(&mut self.name_changes) {
            // Changes to one name stay in order: after a lost one, none of its successors can have happened.
            let blocked = change.paths().iter().any(|path| lost.contains(*path));
            if !blocked && self.random.chance(keep_of_four, 4) {
                change.apply(&mut self.durable_names);
            } else {
                lost.extend(change.paths().into_iter().map(str::to_owned));
            }
        }
        self.names = self.durable_names.clone();
        let linked: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| linked.contains(inode));
        for inode in self.inodes.values_mut() {
            inode.crash(&mut self.random, keep_of_four);
        }
    }
}

#[derive(Clone)]
enum NameChange {
    Link { path: String, inode: u64 },
    Rename { from: String, to: String, inode: u64 },
    Unlink { path: String },
}

impl NameChange {
    fn paths(&self) -> Vec<&str> {
        match self {
            NameChange::Link { path, .. } | NameChange::Unlink { path } => vec![path],
            NameChange::Rename { from, to, .. } => vec![from, to],
        }
    }

    fn is_in(&self, dir: &str) -> bool {
        self.paths().iter().any(|path| dir_of(path) == dir)
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Unlink { path } => {
                names.remove(path);
            }
        }
    }
}

#[derive(Clone, Default)]
struct Inode {
    size: u64,
    durable_size: u64,
    /// Sectors that were ever written; the others read as zeros.
    sectors: BTreeMap<u64, SectorHistory>,
    /// Sectors that the next successful sync makes durable.
    dirty: BTreeSet<u64>,
}

#[derive(Clone)]
struct SectorHistory {
    now: Sector,
    /// What the platter may still hold, oldest first, while `now` is not durable.
    older: Vec<Sector>,
}

impl Default for SectorHistory {
    fn default() -> SectorHistory {
        SectorHistory { now: Box::new([0; SECTOR_BYTES]), older: Vec::new() }
    }
}

impl Inode {
    fn read(&self, position: u64, buffer: &mut [u8]) -> usize {
        let left = self.size.saturating_sub(position);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let mut filled = 0;
        while filled < wanted {
            let (sector, start) = locate(position + filled as u64);
            let part = (SECTOR_BYTES - start).min(wanted - filled);
            let target = &mut buffer[filled..filled + part];
            match self.sectors.get(&sector) {
                Some(history) => target.copy_from_slice(&history.now[start..start + part]),
                None => target.fill(0),
            }
            filled += part;
        }
        wanted
    }

    fn write(&mut self, position: u64, bytes: &[u8]) {
        let mut written = 0;
        while written < bytes.len() {
            let (sector, start) = locate(position + written as u64);
            let part = (SECTOR_BYTES - start).min(bytes.len() - written);
            let history = self.sectors.entry(sector).or_default();
            history.older.push(history.now.clone());
            history.now[start..start + part].copy_from_slice(&bytes[written..written + part]);
            self.dirty.insert(sector);
            written += part;
        }
        self.size = self.size.max(position + bytes.len() as u64);
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            if let Some(history) = self.sectors.get_mut(&sector) {
                history.older.clear();
            }
        }
        self.durable_size = self.size;
    }

    fn truncate(&mut self, size: u64) {
        self.size = self.size.min(size);
        let (sector, start) = locate(self.size);
        self.sectors.split_off(&(sector + u64::from(start > 0)));
        if let Some(history) = self.sectors.get_mut(&sector).filter(|_| start > 0) {
            history.now[start..].fill(0);
        }
    }

    fn crash(&mut self, random: &mut Random, keep_of_four: u64) {
        self.dirty.clear();
        for history in self.sectors.values_mut() {
            if history.older.is_empty() {
                continue;
            }
            if !random.chance(keep_of_four, 4) {
                let choice = random.below(history.older.len() as u64) as usize;
                // Mostly the last durable content, sometimes one of the overwritten versions.
                let choice = if random.chance(1, 2) { 0 } else { choice };
                history.now = history.older.swap_remove(choice);
            }
            history.older.clear();
        }
        if self.size > self.durable_size && !random.chance(keep_of_four, 4) {
            let kept = if random.chance(1, 2) { 0 } else { random.below(self.size - self.durable_size) };
            self.truncate(self.durable_size + kept);
        }
        self.durable_size = self.size;
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    generation: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state.lock();
        if state.generation == self.generation { Ok(state) } else { Err(power_cut()) }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.state()?;
        Ok(state.inodes.get(&self.inode).map_or(0, |inode| inode.read(position, buffer)))
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut state = self.state()?;
        let outcome = state.change();
        if outcome.is_err() && std::mem::replace(&mut state.write_was_cut, true) {
            return outcome;
        }
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let size = state.inodes.get(&self.inode).map_or(0, |inode| inode.size);
        state.reserve((position + length).saturating_sub(size))?;
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(power_cut()) };
        let mut position = position;
        for part in parts {
            inode.write(position, part);
            position += part.len() as u64;
        }
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.change()?;
        state.syncs += 1;
        if let Some(one_in) = state.skip_syncs
            && state.random.chance(1, one_in)
        {
            return Ok(());
        }
        let failing = state.fail_syncs > 0;
        state.fail_syncs = state.fail_syncs.saturating_sub(1);
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(power_cut()) };
        if failing {
            // As the page cache does: the pages are marked clean although they never arrived.
            inode.dirty.clear();
            return Err(io::Error::other("simulated sync failure"));
        }
        inode.sync();
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.change()?;
        let size = state.inodes.get(&self.inode).map_or(0, |inode| inode.size);
        state.reserve(bytes.saturating_sub(size))?;
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            inode.size = inode.size.max(bytes);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state()?.inodes.get(&self.inode).map_or(0, |inode| inode.size))
    }
}

struct SimLock {
    disk: SimDisk,
    path: String,
    generation: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}

fn locate(position: u64) -> (u64, usize) {
    (position / SECTOR_BYTES as u64, (position % SECTOR_BYTES as u64) as usize)
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

fn power_cut() -> io::Error {
    io::Error::other("the simulated power is cut")
}
