//! A broker without threads: whoever holds the [`Stepper`] decides what happens next, so that a run can be repeated.

use crate::{
    Broker, Config, OpenError,
    checkpoint::Checkpointer,
    environment::{Clock, Work},
    home::Home,
    open::{Assembled, Environment, Fatal},
    thread::EngineThread,
};
use posthaste_model::{ShardId, Timestamp};
use posthaste_storage::{
    DataDir,
    journal::{Drive, Journal, StepOutcome},
};
use std::sync::{Arc, atomic::AtomicI64};
use tokio::sync::oneshot;

/// What a stepped broker runs on.
pub struct World {
    /// If it is a bucket, one that [`Bucket::stepped`](posthaste_storage::object::Bucket::stepped) has made.
    pub home: Home,
    /// Milliseconds since 1970; whoever steps moves it.
    pub clock: Arc<AtomicI64>,
    /// Becomes ids and nonces.
    pub random: [u8; 16],
    /// Told when the journal cannot go on.
    pub fatal: Fatal,
    /// The journal is replayed from its beginning, as if there were no checkpoint. Needs a journal that was kept.
    pub ignores_checkpoints: bool,
    /// Checkpoints release nothing of the journal.
    pub keeps_journal: bool,
}

/// Drives a broker. Its async tasks run on the runtime that it was opened on, which should have one thread and a clock
/// that stands still.
pub struct Stepper {
    threads: Vec<EngineThread>,
    clean: bool,
    journal: Journal,
    ready: oneshot::Receiver<()>,
    _data: DataDir,
}

/// Makes checkpoints of a stepped broker.
pub struct Checkpoints(Checkpointer);

/// Checksums of all durable state, by shard, and of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    pub shards: Vec<(ShardId, u32)>,
    pub catalog: u32,
}

impl Broker {
    /// Recovers what the disk or the bucket holds. Nothing happens before [`Stepper::begin`].
    pub fn open_stepped(world: World, config: Config) -> Result<(Broker, Stepper, Checkpoints), OpenError> {
        let place = world.home.open(&config.data.display().to_string(), world.random)?;
        let environment = Environment {
            random: world.random,
            clock: Clock::Manual(world.clock),
            work: Work::Here,
            drive: Drive::Steps,
            fatal: Some(world.fatal),
            ignores_checkpoints: world.ignores_checkpoints,
            keeps_journal: world.keeps_journal,
        };
        let assembled = Assembled::new(place, config, environment)?;
        let clean = assembled.clean;
        let (broker, threads, checkpointer, journal, data, ready) = assembled.into_parts();
        let stepper = Stepper { threads, clean, journal, ready, _data: data };
        Ok((broker, stepper, Checkpoints(checkpointer)))
    }
}

impl Stepper {
    /// Ends recovery.
    pub fn begin(&mut self) {
        let clean = self.clean;
        self.threads.iter_mut().for_each(|thread| thread.begin(clean));
    }

    /// Whether the names that every broker has are there; before that nobody is to be served.
    pub fn is_ready(&mut self) -> bool {
        self.ready.is_terminated() || self.ready.try_recv().is_ok()
    }

    /// Threads that [`Stepper::engine`] steps.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Has an engine thread take up to `inputs_max` of what waits for it; false when nothing does.
    pub fn engine(&mut self, thread: usize, inputs_max: usize) -> bool {
        self.threads.get_mut(thread).is_some_and(|thread| thread.step(inputs_max))
    }

    /// Has the journal write and sync one frame, or begin an object and look after those on their way.
    pub fn journal(&self) -> StepOutcome {
        self.journal.step()
    }

    /// Has the journal sync what was written without.
    pub fn lazy_sync(&self) -> StepOutcome {
        self.journal.step_lazy_sync()
    }

    /// When an engine thread has something to do although nobody asks.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.threads.iter().filter_map(EngineThread::next_timer).min()
    }

    /// The durable state of this moment, of which the last part may not be durable yet.
    pub fn digest(&self) -> Digest {
        let mut shards: Vec<_> = self.threads.iter().flat_map(EngineThread::digests).collect();
        shards.sort_unstable();
        let catalog = self.threads.iter().find_map(EngineThread::catalog_digest).unwrap_or_default();
        Digest { shards, catalog }
    }
}

impl Checkpoints {
    /// Makes a checkpoint if the journal has grown enough; false when that failed. The engine threads and the journal
    /// have to be stepped meanwhile.
    pub async fn make_if_due(&mut self) -> bool {
        self.0.checkpoint_if_due().await
    }
}
