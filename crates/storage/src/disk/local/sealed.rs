//! Files that do not change any more. Large parts are read past the page cache the first time.
//!
//! Most of what is in segments is read once, by a consumer that catches up: bringing it into the page cache
//! costs far more than reading it, and pushes out what others read. What is read a second time is likely to
//! be read a third time, so that goes through the page cache.

use std::fs::File;
use std::io::{self, IoSlice};

use parking_lot::Mutex;

use super::{read_fully, read_once};
use crate::disk::{BLOCK_BYTES, DiskFile};

/// Smaller reads go through the page cache.
const LARGE_FROM: usize = 128 << 10;
/// What has been read is remembered in such units.
const UNIT_BYTES: u64 = 64 << 10;

/// A file with two handles: one past the page cache, one through it.
pub(super) struct SealedFile {
    direct: File,
    buffered: File,
    bytes: u64,
    /// A bit for each unit that has been read.
    read: Mutex<Vec<u64>>,
}

impl SealedFile {
    pub fn new(direct: File, buffered: File) -> io::Result<SealedFile> {
        let bytes = buffered.metadata()?.len();
        let words = bytes.div_ceil(UNIT_BYTES).div_ceil(64);
        Ok(SealedFile { direct, buffered, bytes, read: Mutex::new(vec![0; words as usize]) })
    }

    /// Whether most of it is read for the first time. From now on it has been read.
    fn is_new(&self, position: u64, length: usize) -> bool {
        let end = position.saturating_add(length as u64).min(self.bytes);
        let units = position.div_ceil(UNIT_BYTES)..end.div_ceil(UNIT_BYTES);
        let mut read = self.read.lock();
        let (mut known, mut all) = (0, 0);
        for unit in units {
            let Some(word) = read.get_mut((unit / 64) as usize) else { break };
            let bit = 1 << (unit % 64);
            known += u64::from(*word & bit != 0);
            all += 1;
            *word |= bit;
        }
        known * 2 < all
    }
}

impl DiskFile for SealedFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let aligned = position.is_multiple_of(BLOCK_BYTES as u64)
            && buffer.len().is_multiple_of(BLOCK_BYTES)
            && buffer.as_ptr().align_offset(BLOCK_BYTES) == 0;
        let mut filled = 0;
        if aligned && buffer.len() >= LARGE_FROM && self.is_new(position, buffer.len()) {
            // It may end early, at the end of the file, and what follows is no longer aligned. Or the file
            // system does not do this: then all of it is left to the other handle, which also tells what
            // fails.
            filled = read_once(&self.direct, buffer, position).unwrap_or(0);
        }
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
