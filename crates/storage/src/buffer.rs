//! Memory for large reads that is used again: memory fresh from the system costs more than what is read into
//! it.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use parking_lot::Mutex;

/// Sizes of what is kept, in bytes, and how many of each at most.
const CLASSES: [usize; 2] = [256 << 10, 1 << 20];
const KEPT: [usize; CLASSES.len()] = [16, 8];
/// Smaller ones come from the allocator, which keeps these by itself.
const POOLED_FROM: usize = 64 << 10;

static FREE: [Mutex<Vec<Box<[u8]>>>; CLASSES.len()] = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];

/// Bytes to be read into. What they hold at first is of no meaning.
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize) -> Buffer {
        let memory = match class_of(length) {
            Some(class) => {
                let kept = FREE[class].lock().pop();
                kept.unwrap_or_else(|| vec![0; CLASSES[class]].into())
            }
            None => vec![0; length].into(),
        };
        Buffer { memory, length }
    }

    /// Makes it no longer than `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// To be shared; the memory is used again when the last part of it is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(class) = CLASSES.iter().position(|bytes| *bytes == self.memory.len()) else { return };
        let mut free = FREE[class].lock();
        if free.len() < KEPT[class] {
            free.push(std::mem::take(&mut self.memory));
        }
    }
}

fn class_of(length: usize) -> Option<usize> {
    if length < POOLED_FROM {
        return None;
    }
    CLASSES.iter().position(|bytes| length <= *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for_and_lives_as_long_as_any_part_of_it() {
        for length in [0, 1, 64 << 10, 100_000, 256 << 10, 300_000, 1 << 20, 3 << 20] {
            let mut buffer = Buffer::new(length);
            assert_eq!(buffer.len(), length);
            buffer.fill(7);
            buffer.truncate(length / 2);
            let bytes = buffer.freeze();
            let part = bytes.slice(bytes.len() / 2..);
            drop(bytes);
            // Others of the same size do not disturb it.
            let mut other = Buffer::new(length);
            other.fill(9);
            assert!(part.iter().all(|byte| *byte == 7));
            assert_eq!(part.len(), length / 2 - length / 2 / 2);
        }
    }
}
