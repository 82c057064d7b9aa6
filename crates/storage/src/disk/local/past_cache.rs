//! The way past the page cache.
//!
//! Bringing into the page cache what is read once, or written to be synced at once, costs far more than the
//! transfer, and pushes out what others read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;

use super::read_once;
use crate::disk::{BLOCK_BYTES, LARGE_READ_BYTES};

/// What the page cache holds is remembered in such units.
const UNIT_BYTES: u64 = 64 << 10;

/// A file's handle that leaves the page cache alone, and what the cache is likely not to hold.
pub(super) struct PastCache {
    file: File,
    /// A bit for each unit.
    uncached: Mutex<Vec<u64>>,
}

impl PastCache {
    /// For a file of `bytes`, all or nothing of which the page cache holds.
    pub fn new(file: File, bytes: u64, cached: bool) -> PastCache {
        let words = bytes.div_ceil(UNIT_BYTES).div_ceil(64);
        let word = if cached { 0 } else { u64::MAX };
        PastCache { file, uncached: Mutex::new(vec![word; words as usize]) }
    }

    /// Reads a large part, aligned to blocks, most of which the page cache does not hold. Returns how much
    /// was read: what is left, at the end of the file or all of it, is to be read through the cache, which
    /// also tells what fails.
    pub fn read(&self, position: u64, buffer: &mut [u8]) -> usize {
        let aligned = position.is_multiple_of(BLOCK_BYTES as u64)
            && buffer.len().is_multiple_of(BLOCK_BYTES)
            && buffer.as_ptr().align_offset(BLOCK_BYTES) == 0;
        if !aligned || buffer.len() < LARGE_READ_BYTES || !self.is_uncached(position, buffer.len()) {
            return 0;
        }
        read_once(&self.file, buffer, position).unwrap_or(0)
    }

    /// Reads whole blocks, whatever the page cache holds; fewer only at the end of the file.
    /// [`io::ErrorKind::InvalidInput`] where the file system wants them otherwise.
    pub fn read_blocks(&self, position: u64, blocks: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < blocks.len() && filled.is_multiple_of(BLOCK_BYTES) {
            match read_once(&self.file, &mut blocks[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Writes whole blocks. [`io::ErrorKind::InvalidInput`] where the file system wants them otherwise.
    pub fn write(&self, position: u64, blocks: &[u8]) -> io::Result<()> {
        self.file.write_all_at(blocks, position)?;
        self.set(position, blocks.len() as u64, true);
        Ok(())
    }

    /// That part goes through the page cache from now on.
    pub fn cached(&self, position: u64, length: u64) {
        self.set(position, length, false);
    }

    fn set(&self, position: u64, length: u64, uncached: bool) {
        let mut words = self.uncached.lock();
        for unit in position / UNIT_BYTES..position.saturating_add(length).div_ceil(UNIT_BYTES) {
            let Some(word) = words.get_mut((unit / 64) as usize) else { return };
            let bit = 1 << (unit % 64);
            *word = if uncached { *word | bit } else { *word & !bit };
        }
    }

    /// Whether the page cache does not hold most of it.
    fn is_uncached(&self, position: u64, length: usize) -> bool {
        let end = position.saturating_add(length as u64);
        let words = self.uncached.lock();
        let (mut uncached, mut all) = (0, 0);
        for unit in position.div_ceil(UNIT_BYTES)..end.div_ceil(UNIT_BYTES) {
            let Some(word) = words.get((unit / 64) as usize) else { break };
            uncached += word >> (unit % 64) & 1;
            all += 1;
        }
        uncached * 2 > all
    }
}
