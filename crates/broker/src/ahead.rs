//! Reading on in a log while its reader works on what it has.

use crate::{
    environment::Work,
    log::{LogEntry, PartitionLog, ReadError},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, oneshot},
    task, time,
};

/// Most that is read ahead of one reader, in bytes.
const BYTES_MAX: usize = 1 << 20;
/// Most that is read ahead of all readers, in the same measure.
const READERS_MAX: usize = 64;
/// Whoever has not come back for it by then is not expected to.
const KEPT: Duration = Duration::from_secs(5);

type Outcome = Result<Vec<LogEntry>, ReadError>;

/// What a reader is likely to ask for next, on its way from the disk. It is forgotten when this is dropped,
/// or when it has not been asked for within 5 s.
pub struct ReadAhead {
    from: u64,
    ask: oneshot::Sender<oneshot::Sender<Outcome>>,
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
        let (ask, asked) = oneshot::channel::<oneshot::Sender<Outcome>>();
        tokio::spawn(async move {
            let reading = task::spawn_blocking(move || log.read_blocking(from, max_bytes.min(BYTES_MAX)));
            let entries = reading.await.unwrap_or(Err(ReadError::Gone));
            if let Ok(Ok(answer)) = time::timeout(KEPT, asked).await {
                // Whoever asked may have gone since.
                let _ = answer.send(entries);
            }
            drop(permit);
        });
        Some(ReadAhead { from, ask })
    }

    /// The offset it was begun at.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// As [`PartitionLog::read`] from there would have returned.
    ///
    /// # Errors
    /// As when reading, and [`ReadError::Gone`] if it has been forgotten.
    pub async fn entries(self) -> Result<Vec<LogEntry>, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.ask.send(answer).map_err(|_| ReadError::Gone)?;
        answered.await.unwrap_or(Err(ReadError::Gone))
    }
}
