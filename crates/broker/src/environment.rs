//! What a broker takes from the world besides its disk.

use posthaste_model::Timestamp;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Tells the time.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    System,
    /// Whoever moves it: milliseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Clock::Manual(at) => Timestamp(at.load(Ordering::Relaxed)),
        }
    }
}

/// Does work that waits for the disk or takes long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Work {
    /// On a thread of its own, so that async tasks go on.
    #[default]
    Elsewhere,
    /// At once: a stepped broker has no threads, and its disk waits for nothing.
    Here,
}

impl Work {
    /// `None` when the work panicked or the runtime is going.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self {
            Work::Elsewhere => tokio::task::spawn_blocking(work).await.ok(),
            Work::Here => Some(work()),
        }
    }
}

/// Engine threads, where the configuration names no number: half the cores, at least one.
pub(crate) fn default_threads() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores / 2).unwrap_or(1).max(1)
}
