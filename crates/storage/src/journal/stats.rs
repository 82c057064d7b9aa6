//! What the writer counted.

use std::collections::VecDeque;

/// Frame sizes kept for replay by a benchmark.
const RECENT_FRAMES: usize = 4096;

/// Counters since the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Frames written.
    pub frames: u64,
    /// Syncs of journal files.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
    /// Bytes written, headers and padding included.
    pub bytes: u64,
    /// Files begun.
    pub rotations: u64,
    /// `histogram[n]` counts frames of at least `2^n` and less than `2^(n+1)` bytes.
    pub histogram: [u64; 32],
    /// Sizes in bytes of the last frames, oldest first; at most 4096.
    pub recent: VecDeque<u32>,
}

impl CommitStats {
    pub(super) fn frame(&mut self, bytes: u64, records: u64) {
        self.frames += 1;
        self.records += records;
        self.bytes += bytes;
        self.histogram[bytes.max(1).ilog2().min(31) as usize] += 1;
        if self.recent.len() == RECENT_FRAMES {
            self.recent.pop_front();
        }
        self.recent.push_back(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}
