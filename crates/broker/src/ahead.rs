//! Reading on in a log while its reader works on what it has.

use crate::{
    environment::Work,
    log::{LogEntry, PartitionLog, ReadError},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};

/// Most that is read ahead of one reader, in bytes.
const BYTES_MAX: usize = 1 << 20;
/// Most that is read ahead of all readers, in the same measure.
const READERS_MAX: usize = 64;
/// Whoever has not come back for it by then is not expected to.
const KEPT: Duration = Duration::from_secs(5);

/// What a reader is likely to ask for next, on its way from the disk. Dropped, it gives its memory back.
pub struct ReadAhead {
    from: u64,
    begun: Instant,
    reading: JoinHandle<(Result<Vec<LogEntry>, ReadError>, OwnedSemaphorePermit)>,
}

/// How much may be read ahead.
pub(crate) fn memory() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(READERS_MAX))
}

impl ReadAhead {
    pub(crate) fn begin(
        log: Arc<PartitionLog>,
        work: Work,
        memory: Arc<Semaphore>,
        from: u64,
        max_bytes: usize,
    ) -> Option<ReadAhead> {
        if work == Work::Here {
            return None;
        }
        let permit = memory.try_acquire_owned().ok()?;
        let reading = move || (log.read_blocking(from, max_bytes.min(BYTES_MAX)), permit);
        Some(ReadAhead { from, begun: Instant::now(), reading: tokio::task::spawn_blocking(reading) })
    }

    /// The offset it was begun at.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// Whether it is no longer expected to be asked for.
    pub fn is_stale(&self) -> bool {
        self.begun.elapsed() > KEPT
    }

    /// As [`PartitionLog::read`] from there would have returned.
    ///
    /// # Errors
    /// As when reading.
    pub async fn entries(self) -> Result<Vec<LogEntry>, ReadError> {
        self.reading.await.map_or(Err(ReadError::Gone), |(entries, _)| entries)
    }
}
