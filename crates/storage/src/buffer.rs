//! Memory for large transfers that is used again: memory fresh from the system costs more than what is read
//! into it.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::BLOCK_BYTES;

/// Sizes of what is kept, in bytes, and how many of each at most. What is wanted may begin and end amid a
/// block of the disk.
const CLASSES: [usize; 2] = [(256 << 10) + 4 * BLOCK_BYTES, (1 << 20) + 4 * BLOCK_BYTES];
const KEPT: [usize; CLASSES.len()] = [32, 8];
/// Smaller ones come from the allocator, which keeps these by itself. Larger ones begin at a multiple of
/// [`BLOCK_BYTES`] in memory.
const LARGE_FROM: usize = 64 << 10;

static FREE: [Mutex<Vec<Box<[u8]>>>; CLASSES.len()] = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];

/// Bytes to be read into, or written from. What they hold at first is of no meaning.
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    from: usize,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize) -> Buffer {
        if length < LARGE_FROM {
            return Buffer { memory: vec![0; length].into(), from: 0, length };
        }
        let class = CLASSES.iter().position(|bytes| length <= *bytes);
        let kept = class.and_then(|class| FREE[class].lock().pop());
        let fresh = || vec![0; class.map_or(length, |class| CLASSES[class]) + BLOCK_BYTES].into();
        let memory: Box<[u8]> = kept.unwrap_or_else(fresh);
        let from = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Buffer { memory, from, length }
    }

    /// To be shared; the memory is used again when the last part of it is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let length = self.memory.len();
        let Some(class) = CLASSES.iter().position(|bytes| bytes + BLOCK_BYTES == length) else { return };
        let mut free = FREE[class].lock();
        if free.len() < KEPT[class] {
            free.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for_and_lives_as_long_as_any_part_of_it() {
        for length in [0, 1, 64 << 10, 100_000, 256 << 10, 300_000, 1 << 20, 3 << 20] {
            let mut buffer = Buffer::new(length);
            assert_eq!(buffer.len(), length);
            assert!(length < LARGE_FROM || buffer.as_ptr().align_offset(BLOCK_BYTES) == 0);
            buffer.fill(7);
            let bytes = buffer.freeze();
            let part = bytes.slice(bytes.len() / 2..);
            drop(bytes);
            // Others of the same size do not disturb it.
            let mut other = Buffer::new(length);
            other.fill(9);
            assert!(part.iter().all(|byte| *byte == 7));
            assert_eq!(part.len(), length - length / 2);
        }
    }
}
