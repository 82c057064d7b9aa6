//! Files that do not change any more. Large parts are read past the page cache the first time. What is read a
//! second time is likely to be read a third time, so that goes through the page cache.

use std::fs::File;
use std::io::{self, IoSlice};

use super::past_cache::PastCache;
use super::read_fully;
use crate::disk::DiskFile;

/// A file with two handles: one past the page cache, one through it.
pub(super) struct SealedFile {
    past_cache: PastCache,
    buffered: File,
    bytes: u64,
}

impl SealedFile {
    pub fn new(direct: File, buffered: File) -> io::Result<SealedFile> {
        let bytes = buffered.metadata()?.len();
        Ok(SealedFile { past_cache: PastCache::new(direct, bytes, false), buffered, bytes })
    }
}

impl DiskFile for SealedFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let filled = self.past_cache.read(position, buffer);
        self.past_cache.cached(position, filled as u64);
        if position.saturating_add(filled as u64) >= self.bytes {
            return Ok(filled);
        }
        Ok(filled + read_fully(&self.buffered, position + filled as u64, &mut buffer[filled..])?)
    }

    fn write_at(&self, _position: u64, _parts: &[IoSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.buffered.sync_data()
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use crate::buffer::Buffer;
    use crate::disk::{Disk, LocalDisk};

    #[test]
    fn every_read_of_any_alignment_finds_what_was_written_however_often() {
        let dir = tempfile::tempdir().unwrap();
        let disk = LocalDisk::new(dir.path());
        let content: Vec<u8> = (0..3_000_001_usize).map(|at| (at * 7 + at / 4096) as u8).collect();
        disk.create("file").unwrap().write_at(0, &[IoSlice::new(&content)]).unwrap();
        let file = disk.open_sealed("file").unwrap();
        assert_eq!(file.size().unwrap(), content.len() as u64);
        for _ in 0..3 {
            for (position, length) in [
                (0, 1 << 20),
                (4096, 128 << 10),
                (1 << 20, 1 << 20),
                (2 << 20, 1 << 20),
                (2_998_272, 256 << 10),
                (3_002_368, 256 << 10),
                (17, 200_000),
                (8192, 100_000),
            ] {
                let mut buffer = Buffer::new(length);
                let expected = content.get(position..).unwrap_or_default();
                let expected = &expected[..expected.len().min(length)];
                let read = file.read_at(position as u64, &mut buffer).unwrap();
                assert_eq!(read, expected.len(), "{position} {length}");
                assert!(buffer[..read] == *expected, "{position} {length}");
            }
        }
        assert!(file.write_at(0, &[IoSlice::new(b"x")]).is_err());
    }
}
