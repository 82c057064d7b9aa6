//! What the storage layer asks of a disk, so that the same code runs on a directory and in a simulation.

mod local;
mod read_only;
mod sim;

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

pub use local::LocalDisk;
pub use read_only::ReadOnlyDisk;
pub use sim::{Damage, SECTOR_BYTES, SimDisk, Space, Tears, WriteFault};

/// Transfers past a page cache are aligned to this, in the file and in memory; disks ask for 512 or 4,096.
pub(crate) const BLOCK_BYTES: usize = 4 << 10;
/// Reads of whole blocks from this size on need not go through the page cache.
pub(crate) const LARGE_READ_BYTES: usize = 128 << 10;

/// Blocking access to files below one root. Paths are relative to it and separated by `/`.
///
/// What was written counts as durable only after [`DiskFile::sync_data`]; a created, renamed or removed
/// name only after [`Disk::sync_dir`] of its directory.
pub trait Disk: Send + Sync {
    /// Creates a directory and its parents, durably; an existing one is left as it is.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// As [`Disk::open`], for reading a file that does not change any more. Of what is read in large parts,
    /// aligned to blocks, a page cache keeps only what is read again.
    fn open_sealed(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    /// Creates a file, empty; [`io::ErrorKind::AlreadyExists`] if the name is taken.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// As [`Disk::create`], for a file that is written once, from front to back, and not read soon.
    fn create_sequential(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.create(path)
    }

    /// Renames within the root, atomically replacing what `to` named.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file's name; open handles keep reading it.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// What the directory holds, sorted by name.
    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Bytes that can still be allocated; a hint, `None` where the system does not say.
    fn free_bytes(&self) -> Option<u64>;

    /// Whether what [`DiskFile::allocate`] and [`DiskFile::reserve`] gave can be written, again and again,
    /// however full the disk is. Thin storage below a file system cannot be seen.
    fn reserving(&self) -> Reserving {
        Reserving::Reserves
    }

    /// Takes the exclusive lock that `path` stands for until the guard is dropped or the process ends.
    /// [`io::ErrorKind::WouldBlock`] when another holder has it.
    fn lock(&self, path: &str) -> io::Result<DiskLock>;
}

/// An open file. Reads and writes name their position, so that threads share a handle.
pub trait DiskFile: Send + Sync {
    /// Fills `buffer` from `position`; returns fewer bytes only at the end of the file.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all parts one after the other at `position`, extending the file as needed.
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// As [`DiskFile::write_at`], for whole blocks (`BLOCK_BYTES`, aligned in the file and in memory) that
    /// are synced next: past a page cache, which would only cost time.
    fn write_blocks(&self, position: u64, blocks: &[u8]) -> io::Result<()> {
        self.write_at(position, &[IoSlice::new(blocks)])
    }

    /// As [`DiskFile::read_at`], for whole blocks (`BLOCK_BYTES`, aligned in the file and in memory): past a
    /// page cache where the system can do that, so that it returns what the disk holds. A page cache may hold
    /// bytes that the disk does not, and never will: after a sync has failed, its pages are clean.
    fn read_blocks(&self, position: u64, blocks: &mut [u8]) -> io::Result<usize> {
        self.read_at(position, blocks)
    }

    /// To be called where a page cache is not likely to hold anything of the file: from then on, large parts
    /// that were not written through it since are read past it.
    fn assume_uncached(&self) {}

    /// Makes what was written, and the size, durable. After an error nothing may be assumed of unsynced
    /// bytes, and calling again proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Extends the file to `bytes`, zero-filled, with blocks that really exist.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// As [`DiskFile::allocate`], only that the blocks need not be written where the system can remember that
    /// they hold nothing: much quicker, but the first sync of each block has to make that durable, too.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.allocate(bytes)
    }

    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// See [`Disk::reserving`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserving {
    /// Space that was allocated is there.
    Reserves,
    /// It may be gone when it is written.
    Not {
        /// What the file system is called, for people.
        file_system: String,
    },
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The last segment of the path.
    pub name: String,
    /// Size in bytes; 0 for a directory.
    pub bytes: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Holds an exclusive lock; dropping it releases the lock.
pub struct DiskLock(#[allow(dead_code)] Box<dyn Send + Sync>);

impl DiskLock {
    /// Wraps whatever releases the lock when it is dropped.
    pub fn new(guard: impl Send + Sync + 'static) -> DiskLock {
        DiskLock(Box::new(guard))
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}
