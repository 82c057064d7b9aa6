//! Blocks of objects in memory, so that what is read again costs no request.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Bucket;

/// Bytes fetched at once.
const BLOCK_BYTES: u64 = 256 << 10;
/// Memory for blocks, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// Reads objects, which never change, through a bounded cache: first in, first out.
#[derive(Clone)]
pub(crate) struct BlockCache {
    bucket: Bucket,
    blocks: Arc<Mutex<Blocks>>,
}

type Block = (Arc<str>, u64);

#[derive(Default)]
struct Blocks {
    held: HashMap<Block, Bytes>,
    order: VecDeque<Block>,
    bytes: usize,
}

impl BlockCache {
    pub fn new(bucket: Bucket) -> BlockCache {
        BlockCache { bucket, blocks: Arc::default() }
    }

    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Fills `buffer` from `position` of an object of `size` bytes; fewer bytes only at its end.
    pub fn read_at(&self, key: &Arc<str>, size: u64, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = size.saturating_sub(position);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut read = 0;
        while read < wanted {
            let at = position + read as u64;
            let block = self.block(key, size, at / BLOCK_BYTES)?;
            let skip = (at % BLOCK_BYTES) as usize;
            let part = block.get(skip..).unwrap_or_default();
            let count = part.len().min(wanted - read);
            if count == 0 {
                break;
            }
            buffer[read..read + count].copy_from_slice(&part[..count]);
            read += count;
        }
        Ok(read)
    }

    fn block(&self, key: &Arc<str>, size: u64, index: u64) -> io::Result<Bytes> {
        let name = (key.clone(), index);
        if let Some(block) = self.blocks.lock().held.get(&name) {
            return Ok(block.clone());
        }
        let start = index * BLOCK_BYTES;
        let end = (start + BLOCK_BYTES).min(size);
        let (bucket, owned) = (self.bucket.clone(), key.clone());
        let block = self.bucket.wait(async move { bucket.get_range(&owned, start..end).await })?;
        let mut blocks = self.blocks.lock();
        if blocks.held.insert(name.clone(), block.clone()).is_none() {
            blocks.bytes += block.len();
            blocks.order.push_back(name);
        }
        while blocks.bytes > CACHE_BYTES {
            let Some(oldest) = blocks.order.pop_front() else { break };
            if let Some(gone) = blocks.held.remove(&oldest) {
                blocks.bytes -= gone.len();
            }
        }
        Ok(block)
    }
}
