//! A disk in memory that fails as real ones do, as its seed says.
//!
//! What is written goes into the page cache ([`DiskFile::write_at`]) or past it, into the device's own
//! memory ([`DiskFile::write_blocks`]). A process that dies loses neither, a power cut may lose both, sector
//! by sector and in any order. Metadata are apart from data: a file's size, which of its blocks were
//! written, names.

mod inode;
mod platter;
mod state;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{BLOCK_BYTES, DirEntry, Disk, DiskFile, DiskLock, LARGE_READ_BYTES, Reserving};
use crate::Random;
use inode::Inode;
use state::{NameChange, State};

/// The unit that reaches the simulated platter whole or not at all, unless it is chosen otherwise.
pub const SECTOR_BYTES: usize = 512;

/// [`Disk`] in memory. The same seed and the same calls give the same faults. Clones share the disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What reserves space, and when the lack of it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Space {
    /// What was allocated is there, and every write tells at once.
    #[default]
    Reserved,
    /// As before, but what extends a file through the page cache finds out when it is synced.
    Delayed,
    /// As [`Space::Delayed`], and what is overwritten takes new blocks, besides the old ones until the next
    /// sync: allocating reserves nothing.
    CopyOnWrite,
    /// A block takes space when it is first written to the device, allocated or not, and
    /// [`Disk::free_bytes`] knows nothing of how much there is.
    Thin,
}

/// How a write fails while the process and the disk go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// Nothing of it is written.
    Refused,
    /// Only a part from its beginning.
    Short,
}

/// What a power cut does to sectors that are being written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tears {
    /// Each is old or new.
    #[default]
    None,
    /// Some are new up to one of their bytes, and old behind it.
    Torn,
    /// As [`Tears::Torn`], and half of those cannot be read: a disk without power-loss protection.
    Unreadable,
}

/// What befalls a sector, durably, while nobody looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// So many times, one of its bits flips.
    Bits(u32),
    /// All its bytes are random.
    Garbage,
    /// It holds what it held before the last write that was synced.
    Lost,
    /// As [`Damage::Lost`], and what should have been written lies at another place of the file.
    Misdirected {
        /// Byte position in the sector that is overwritten.
        to: u64,
    },
    /// Reads of it fail until it is written again.
    Unreadable,
}

impl SimDisk {
    /// An empty disk without a capacity limit, with sectors of [`SECTOR_BYTES`].
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::with_sectors(seed, SECTOR_BYTES)
    }

    /// As [`SimDisk::new`], with sectors of 512 or 4,096 bytes.
    pub fn with_sectors(seed: u64, bytes: usize) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(State::new(seed, bytes))) }
    }

    /// Cuts the power and brings the disk back. Of what was not synced any subset of sectors survives, a
    /// file's size may fall back, blocks that were never written before may be blank, and names that were
    /// not synced may be gone. Handles and locks of before are dead. To end only the process, drop them: then
    /// the page cache survives.
    pub fn crash(&self) {
        self.state.lock().power_cut();
    }

    /// Bytes that all files may take together; more fails with [`io::ErrorKind::StorageFull`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().faults.capacity = bytes;
    }

    /// What takes space, from now on.
    pub fn set_space(&self, space: Space) {
        self.state.lock().faults.space = space;
    }

    /// Bytes that all files take now.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    /// Makes the next sync of a file fail. What it should have synced can be read as before and is never
    /// written by later syncs, which succeed: only a power cut, or [`SimDisk::evict_pages`], shows that some
    /// of it is not on the disk.
    pub fn fail_next_sync(&self) {
        self.state.lock().faults.fail_syncs += 1;
    }

    /// Makes the next write to a file fail, after those that fail already.
    pub fn fail_next_write(&self, fault: WriteFault) {
        self.state.lock().faults.fail_writes.push_back(fault);
    }

    /// Makes the next read fail, once.
    pub fn fail_next_read(&self) {
        self.state.lock().faults.fail_reads += 1;
    }

    /// Lets `operations` more changes through and fails all later ones, the first of them half done, until
    /// [`SimDisk::crash`].
    pub fn cut_power_after(&self, operations: u64) {
        self.state.lock().faults.power = Some(operations);
    }

    /// Ends what was set to go wrong: the capacity, the next read, write and sync, the power. What is lost
    /// stays lost.
    pub fn heal(&self) {
        let faults = &mut self.state.lock().faults;
        (faults.capacity, faults.power) = (None, None);
        (faults.fail_reads, faults.fail_syncs) = (0, 0);
        faults.fail_writes.clear();
    }

    /// Whether [`SimDisk::cut_power_after`] has run out.
    pub fn power_is_cut(&self) -> bool {
        self.state.lock().faults.power == Some(0)
    }

    /// Has one sync of a file in `one_in` only say that it did something: a disk that lies.
    pub fn skip_syncs(&self, one_in: u64) {
        self.state.lock().faults.skip_syncs = Some(one_in);
    }

    /// Has all writes go through the page cache, as file systems do that know no other way.
    pub fn refuse_direct(&self) {
        self.state.lock().faults.refuses_direct = true;
    }

    /// Has power cuts do this to some of the sectors that were being written.
    pub fn tear_sectors(&self, tears: Tears) {
        self.state.lock().faults.tears = tears;
    }

    /// Files with sectors that cannot be read, and how many of them each has.
    pub fn unreadable(&self) -> Vec<(String, u64)> {
        let state = self.state.lock();
        let count = |inode| state.inodes.get(inode).map_or(0, Inode::unreadable_sectors);
        let files = state.names.iter().map(|(path, inode)| (path.clone(), count(inode)));
        files.filter(|(_, sectors)| *sectors > 0).collect()
    }

    /// Whether the page cache holds something that the device does not, and that no sync will bring there:
    /// then a sync has failed, and only what is written again is safe.
    pub fn has_stale_pages(&self) -> bool {
        self.state.lock().inodes.values().any(Inode::has_stale_pages)
    }

    /// Drops clean pages from the page cache, as the system does when it needs memory.
    pub fn evict_pages(&self) {
        self.state.lock().inodes.values_mut().for_each(Inode::evict);
    }

    /// Another disk with the same content; nobody holds a lock on it.
    pub fn copy(&self) -> SimDisk {
        let mut state = self.state.lock().clone();
        state.locks.clear();
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Inverts one bit of a file, durably: `bit` counts from the file's start. False if there is no such bit.
    pub fn flip_bit(&self, path: &str, bit: u64) -> bool {
        let mut state = self.state.lock();
        let Some(inode) = state.inode_named(path).filter(|inode| bit / 8 < inode.size) else { return false };
        inode.flip_bit(bit);
        true
    }

    /// Damages the sector of a file that holds the byte at `position`. False if there is no such byte.
    pub fn damage(&self, path: &str, position: u64, damage: Damage) -> bool {
        let state = &mut *self.state.lock();
        let inode = state.names.get(path).and_then(|inode| state.inodes.get_mut(inode));
        let Some(inode) = inode.filter(|inode| position < inode.size) else { return false };
        inode.damage(position, damage, &mut state.random);
        true
    }

    /// Fills sectors that cannot be read with zeros, as programs do that copy a failing disk to another one.
    /// False if there are none.
    pub fn fill_unreadable(&self) -> bool {
        let mut filled = false;
        for inode in self.state.lock().inodes.values_mut() {
            filled |= inode.fill_unreadable();
        }
        filled
    }

    /// Cuts a file to `bytes`, durably. False if there is no such file.
    pub fn truncate(&self, path: &str, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let inode = state.inode_named(path);
        inode.map(|inode| inode.truncate(bytes)).is_some()
    }

    /// How far a file was ever written to, in bytes, to a whole sector.
    pub fn written_bytes(&self, path: &str) -> u64 {
        self.state.lock().inode_named(path).map_or(0, |inode| inode.written_bytes())
    }

    /// Number of syncs of files and directories so far.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    fn file(&self, state: &State, inode: u64, reads: Reads) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            inode,
            generation: state.generation,
            reads: Mutex::new(reads),
        })
    }

    fn open_for(&self, path: &str, reads: Reads) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(&state, inode, reads))
    }

    fn create_for(&self, path: &str, reads: Reads) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.change()?;
        let dir = dir_of(path);
        if !dir.is_empty() && !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.add_file(path);
        Ok(self.file(&state, inode, reads))
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut path = String::new();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            let parent = path.clone();
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
            if !state.durable_dirs.contains(&path) {
                state.change()?;
                state.add_dir(&path);
                state.change()?;
                state.sync_dir(&parent);
            }
        }
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_for(path, Reads::Cached)
    }

    fn open_sealed(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_for(path, Reads::LargePastCache)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.create_for(path, Reads::Cached)
    }

    fn create_sequential(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.create_for(path, Reads::PastCache)
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
        state.sync_dir(if dir == "." { "" } else { dir.trim_matches('/') });
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        let state = self.state.lock();
        let knows = state.faults.space != Space::Thin;
        state.faults.capacity.map(|_| if knows { state.room().left } else { 1 << 40 })
    }

    /// Of thin storage below it, a file system knows nothing.
    fn reserving(&self) -> Reserving {
        match self.state.lock().faults.space {
            Space::CopyOnWrite => Reserving::Not { file_system: "simulated copy-on-write".to_owned() },
            Space::Delayed | Space::Reserved | Space::Thin => Reserving::Reserves,
        }
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

/// Bytes that can be taken, and what takes them.
struct Room {
    space: Space,
    left: u64,
}

/// How a power cut goes.
struct PowerCut<'a> {
    random: &'a mut Random,
    keep_of_four: u64,
    tears: Tears,
}

impl PowerCut<'_> {
    /// Whether something that was not synced is there nevertheless.
    fn keeps(&mut self) -> bool {
        self.random.chance(self.keep_of_four, 4)
    }
}

/// Which reads go past the page cache.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Cached,
    LargePastCache,
    PastCache,
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    generation: u64,
    reads: Mutex<Reads>,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state.lock();
        if state.generation == self.generation { Ok(state) } else { Err(power_cut()) }
    }

    fn read(&self, position: u64, buffer: &mut [u8], past_cache: bool) -> io::Result<usize> {
        let mut state = self.state()?;
        if state.faults.fail_reads > 0 {
            state.faults.fail_reads -= 1;
            return Err(io_error("read"));
        }
        let past_cache = past_cache && !state.faults.refuses_direct;
        match state.inodes.get_mut(&self.inode) {
            Some(inode) => inode.read(position, buffer, past_cache),
            None => Ok(0),
        }
    }

    /// Has `write` take the part of the `length` bytes that is to be written.
    fn write(
        &self,
        length: usize,
        unit: usize,
        write: impl FnOnce(&mut Inode, usize, &mut Room, &mut Random) -> io::Result<()>,
    ) -> io::Result<()> {
        let state = &mut *self.state()?;
        let outcome = state.change();
        if outcome.is_err() && std::mem::replace(&mut state.faults.write_was_cut, true) {
            return outcome;
        }
        let (length, outcome) = match state.faults.fail_writes.pop_front().filter(|_| outcome.is_ok()) {
            None => (length, outcome),
            Some(WriteFault::Refused) => (0, Err(io_error("write"))),
            Some(WriteFault::Short) => {
                let units = state.random.below(length.div_ceil(unit) as u64) as usize;
                (units * unit, Err(io_error("write")))
            }
        };
        let mut room = state.room();
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(power_cut()) };
        write(inode, length, &mut room, &mut state.random)?;
        outcome
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let aligned = position.is_multiple_of(BLOCK_BYTES as u64);
        let past_cache = match *self.reads.lock() {
            Reads::Cached => false,
            Reads::LargePastCache => aligned && buffer.len() >= LARGE_READ_BYTES,
            Reads::PastCache => aligned,
        };
        self.read(position, buffer, past_cache)
    }

    fn read_blocks(&self, position: u64, blocks: &mut [u8]) -> io::Result<usize> {
        aligned(position, blocks)?;
        self.read(position, blocks, true)
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write(bytes.len(), 1, |inode, length, room, random| {
            inode.write_cached(position, &bytes[..length], room, random)
        })
    }

    fn write_blocks(&self, position: u64, blocks: &[u8]) -> io::Result<()> {
        aligned(position, blocks)?;
        if self.disk.state.lock().faults.refuses_direct {
            return self.write_at(position, &[IoSlice::new(blocks)]);
        }
        self.write(blocks.len(), BLOCK_BYTES, |inode, length, room, _| {
            inode.write_blocks(position, &blocks[..length], room)
        })
    }

    fn assume_uncached(&self) {
        *self.reads.lock() = Reads::LargePastCache;
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.state()?;
        state.change()?;
        state.syncs += 1;
        if let Some(one_in) = state.faults.skip_syncs
            && state.random.chance(1, one_in)
        {
            return Ok(());
        }
        let failing = state.faults.fail_syncs > 0;
        state.faults.fail_syncs = state.faults.fail_syncs.saturating_sub(1);
        let mut room = state.room();
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(power_cut()) };
        if failing {
            inode.sync_fails(&mut state.random);
            return Err(io_error("sync"));
        }
        inode.sync(&mut room)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.extend(bytes, true)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.extend(bytes, false)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state()?.inodes.get(&self.inode).map_or(0, |inode| inode.size))
    }
}

impl SimFile {
    fn extend(&self, bytes: u64, written: bool) -> io::Result<()> {
        let mut state = self.state()?;
        state.change()?;
        let mut room = state.room();
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(power_cut()) };
        inode.allocate(bytes, written, &mut room)
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

fn aligned(position: u64, blocks: &[u8]) -> io::Result<()> {
    let is_aligned = position.is_multiple_of(BLOCK_BYTES as u64) && blocks.len().is_multiple_of(BLOCK_BYTES);
    if is_aligned { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

fn io_error(action: &str) -> io::Error {
    io::Error::other(format!("simulated {action} failure"))
}

fn no_space() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk")
}

fn power_cut() -> io::Error {
    io::Error::other("the simulated power is cut")
}
