//! For tests: a disk whose syncs say that they succeeded, and leave out some of what they should have written
//! and the page cache still holds.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::disk::{DirEntry, Disk, DiskFile, DiskLock, SimDisk};

pub(crate) struct ForgetfulDisk(pub SimDisk);

struct ForgetfulFile {
    disk: SimDisk,
    file: Arc<dyn DiskFile>,
}

impl ForgetfulDisk {
    fn file(&self, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(ForgetfulFile { disk: self.0.clone(), file: file? }))
    }
}

impl Disk for ForgetfulDisk {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.0.open(path))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.0.create(path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        self.0.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.0.free_bytes()
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        self.0.lock(path)
    }
}

impl DiskFile for ForgetfulFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(position, buffer)
    }

    fn read_blocks(&self, position: u64, blocks: &mut [u8]) -> io::Result<usize> {
        self.file.read_blocks(position, blocks)
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(position, parts)
    }

    fn write_blocks(&self, position: u64, blocks: &[u8]) -> io::Result<()> {
        self.file.write_blocks(position, blocks)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.fail_next_sync();
        let _ = self.file.sync_data();
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
