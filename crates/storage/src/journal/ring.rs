//! The batches written last, in memory, so that what was just published is read without the disk.

use std::collections::VecDeque;

use super::batch::PlacedBatch;
use super::{Lsn, Stored};

/// Bounded by the memory that its batches take.
pub(super) struct Ring {
    batches: VecDeque<PlacedBatch>,
    memory: usize,
    limit: usize,
}

impl Ring {
    pub fn new(limit: usize) -> Ring {
        Ring { batches: VecDeque::new(), memory: 0, limit }
    }

    /// Adds batches behind all others and drops the oldest ones over the limit. What was dropped is
    /// returned, so that the caller frees it after unlocking.
    pub fn push(&mut self, batches: impl Iterator<Item = PlacedBatch>) -> Vec<PlacedBatch> {
        for batch in batches.filter(|batch| batch.bytes > 0) {
            self.memory += batch.memory;
            self.batches.push_back(batch);
        }
        let mut dropped = Vec::new();
        while self.memory > self.limit {
            let Some(batch) = self.batches.pop_front() else { break };
            self.memory -= batch.memory;
            dropped.push(batch);
        }
        dropped
    }

    pub fn record(&self, lsn: Lsn) -> Option<Stored> {
        let behind = self.batches.partition_point(|batch| batch.base <= lsn.0);
        let (header, head, body) = self.batches.get(behind.checked_sub(1)?)?.record(lsn.0)?;
        Some(Stored { shard: header.shard, head, body })
    }
}
