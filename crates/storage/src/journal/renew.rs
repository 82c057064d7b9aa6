//! Writing the end of a journal again before it is relied on.
//!
//! After a failed sync the system may call pages clean that never reached the disk. A start that reads them,
//! and whose own sync then succeeds because there is nothing left to write, would declare durable what the
//! next power cut takes. So whatever nothing proves to be durable is written again, as it was read, and then
//! synced, before it is replayed: then what is replayed is what is on the disk, also if the system forgets
//! clean pages in between.
//!
//! Reading past the page cache instead would need a file system that can do that, or one that heeds the
//! advice to drop pages; a write makes pages dirty, or goes past them, everywhere. And it is written in its
//! place, not into the next file: records are stamped with their place. Where the disk refuses it a second
//! time, this start must not rely on it.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::HomeFile;
use crate::buffer::Buffer;
use crate::disk::BLOCK_BYTES;

/// Read and written at a time.
const TRANSFER_BYTES: usize = 1 << 20;

/// Writes the blocks in which these positions lie again, as they are read, and syncs them.
pub(super) fn renew(file: &dyn HomeFile, positions: Range<u64>) -> io::Result<()> {
    write_again(file, positions)?;
    file.sync()
}

/// As [`renew`], without the sync.
pub(super) fn write_again(file: &dyn HomeFile, positions: Range<u64>) -> io::Result<()> {
    let mut position = positions.start - positions.start % BLOCK_BYTES as u64;
    let mut buffer = Buffer::new(TRANSFER_BYTES);
    while position < positions.end {
        let left = (positions.end - position).next_multiple_of(BLOCK_BYTES as u64);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(TRANSFER_BYTES);
        let read = file.read_at(position, &mut buffer[..length])?;
        if read == 0 {
            break;
        }
        file.write_at(position, &[IoSlice::new(&buffer[..read])], true)?;
        position += read as u64;
    }
    Ok(())
}
