//! A disk that is only looked at.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::{DirEntry, Disk, DiskFile, DiskLock, Reserving};

/// Another disk, of which nothing can be changed. What a start would create or tidy away is passed over:
/// directories count as created, leftovers as removed.
pub struct ReadOnlyDisk(pub Arc<dyn Disk>);

struct ReadOnlyFile(Arc<dyn DiskFile>);

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnlyDisk {
    fn create_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(ReadOnlyFile(self.0.open(path)?)))
    }

    fn create(&self, _path: &str) -> io::Result<Arc<dyn DiskFile>> {
        refused()
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        match self.0.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        self.0.free_bytes()
    }

    fn reserving(&self) -> Reserving {
        self.0.reserving()
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        self.0.lock(path)
    }
}

impl DiskFile for ReadOnlyFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(position, buffer)
    }

    fn read_blocks(&self, position: u64, blocks: &mut [u8]) -> io::Result<usize> {
        self.0.read_blocks(position, blocks)
    }

    fn write_at(&self, _position: u64, _parts: &[IoSlice<'_>]) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        refused()
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        refused()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}
