//! Frames on their way to a disk in whole blocks, past the page cache.
//!
//! A frame that is synced at once gains nothing by the page cache: its pages have to be found, or made, and
//! written back one by one, which takes several times as long as a copy into memory that is always the same.

use std::io::{self, IoSlice};

use crate::buffer::Buffer;
use crate::disk::{BLOCK_BYTES, DiskFile};

/// Written at a time.
const TRANSFER_BYTES: usize = 1 << 20;

/// One for all files of a home, as only one of them is being written.
#[derive(Default)]
pub(super) struct Staging {
    /// While nothing is written, it begins with what is known of the block in which the last frame ended.
    buffer: Option<Buffer>,
    last: Option<Last>,
}

/// Where the last frame ended.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Last {
    file: u64,
    end: u64,
}

impl Staging {
    /// Writes to the file with this number, up to the end of a block.
    pub fn write(
        &mut self,
        number: u64,
        file: &dyn DiskFile,
        position: u64,
        parts: &[IoSlice<'_>],
    ) -> io::Result<()> {
        let buffer = self.buffer.get_or_insert_with(|| Buffer::new(TRANSFER_BYTES));
        let mut filled = within_block(position);
        let mut start = position - filled as u64;
        // Until all is written nothing is known of the file's end.
        let known = self.last.take() == Some(Last { file: number, end: position });
        if filled > 0 && !known && file.read_at(start, &mut buffer[..BLOCK_BYTES])? < filled {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for part in parts {
            let mut rest: &[u8] = part;
            while !rest.is_empty() {
                let (taken, left) = rest.split_at(rest.len().min(TRANSFER_BYTES - filled));
                buffer[filled..filled + taken.len()].copy_from_slice(taken);
                filled += taken.len();
                rest = left;
                if filled == TRANSFER_BYTES {
                    file.write_blocks(start, buffer)?;
                    (start, filled) = (start + TRANSFER_BYTES as u64, 0);
                }
            }
        }
        let blocks = filled.next_multiple_of(BLOCK_BYTES);
        buffer[filled..blocks].fill(0);
        if blocks > 0 {
            file.write_blocks(start, &buffer[..blocks])?;
        }
        let end = start + filled as u64;
        buffer.copy_within(filled - within_block(end)..filled, 0);
        self.last = Some(Last { file: number, end });
        Ok(())
    }

    /// What is written from `position` on goes another way: returns what precedes it in its block, as far as
    /// it is known.
    pub fn leave(&mut self, number: u64, position: u64) -> &[u8] {
        let known = self.last.take() == Some(Last { file: number, end: position });
        match &self.buffer {
            Some(buffer) if known => &buffer[..within_block(position)],
            _ => &[],
        }
    }
}

fn within_block(position: u64) -> usize {
    (position % BLOCK_BYTES as u64) as usize
}
