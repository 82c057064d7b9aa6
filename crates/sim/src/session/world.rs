//! A broker in memory for one sequence.

use crate::{
    clients::Doors,
    run::{BEGINNING_MS, doors},
};
use anyhow::{Context, Result, bail, ensure};
use posthaste_broker::{
    Broker, Config, Formats, Home,
    stepped::{Stepper, World},
};
use posthaste_model::Limits;
use posthaste_storage::{disk::SimDisk, journal::StepOutcome};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};
use tokio::{
    sync::watch,
    task::{LocalSet, spawn_local, yield_now},
    time::{Duration, Instant, sleep},
};

/// Turns in which the broker had nothing to do, before time goes on.
const IDLE_TURNS: u32 = 4;
/// How long a broker with nothing to do sleeps at most before it looks again; who waits longer sees its
/// answer.
pub const SLEEP_MAX: Duration = Duration::from_millis(8);
/// Turns with something to do. A broker that is not done by then never is.
const TURNS_MAX: u32 = 60_000;
/// Time for what was decided to become durable, once no client is there any more.
const REST: Duration = Duration::from_secs(2);

/// Runs `session` against an empty broker, then compares what the journal holds with what was live.
pub fn run<F: Future<Output = Result<()>> + 'static>(session: impl FnOnce(Doors) -> F) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut place = Place::open()?;
        while !place.stepper.is_ready() {
            place.turn().await?;
        }
        let stopping = watch::Sender::new(false);
        let work = spawn_local(session(doors(&place.broker, &stopping)));
        while !work.is_finished() {
            place.turn().await?;
        }
        work.await??;
        place.compare().await
    })
}

struct Place {
    broker: Broker,
    stepper: Stepper,
    disk: SimDisk,
    clock: Arc<AtomicI64>,
    failed: Arc<AtomicBool>,
    began: Instant,
    idle: u32,
    turns: u32,
}

impl Place {
    fn open() -> Result<Place> {
        let (disk, clock) = (SimDisk::new(1), Arc::new(AtomicI64::new(BEGINNING_MS)));
        let failed = Arc::new(AtomicBool::new(false));
        let (broker, mut stepper) = open(&disk, &clock, &failed).context("the broker does not start")?;
        stepper.begin();
        Ok(Place { broker, stepper, disk, clock, failed, began: Instant::now(), idle: 0, turns: 0 })
    }

    /// Engine threads first, then the journal, then all connections; time goes on when nobody has anything to
    /// do.
    async fn turn(&mut self) -> Result<()> {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.clock.store(BEGINNING_MS.saturating_add(elapsed), Ordering::Relaxed);
        let mut worked = false;
        for thread in 0..self.stepper.threads() {
            worked |= self.stepper.engine(thread, usize::MAX);
        }
        worked |= self.stepper.journal() == StepOutcome::Committed;
        self.idle = if worked { 0 } else { self.idle + 1 };
        self.turns += u32::from(worked);
        ensure!(!self.failed.load(Ordering::Relaxed), "the journal failed");
        ensure!(self.turns < TURNS_MAX, "the broker does not come to rest within {TURNS_MAX} turns");
        if self.idle > IDLE_TURNS {
            sleep((SLEEP_MAX / 8 * (self.idle - IDLE_TURNS)).min(SLEEP_MAX)).await;
        } else {
            yield_now().await;
        }
        Ok(())
    }

    async fn compare(&mut self) -> Result<()> {
        let end = Instant::now() + REST;
        while Instant::now() < end {
            self.turn().await?;
        }
        self.stepper.lazy_sync();
        let live = self.stepper.digest();
        let (_broker, rebuilt) =
            open(&self.disk.copy(), &self.clock, &self.failed).context("the copy does not start")?;
        let rebuilt = rebuilt.digest();
        if rebuilt != live {
            let differ = |(a, b): &(&(_, u32), &(_, u32))| a != b;
            let shards: Vec<_> =
                live.shards.iter().zip(&rebuilt.shards).filter(differ).map(|(a, _)| a.0).collect();
            let catalog = live.catalog != rebuilt.catalog;
            bail!("what is rebuilt differs from what was live: shards {shards:?}, catalog: {catalog}");
        }
        Ok(())
    }
}

fn open(disk: &SimDisk, clock: &Arc<AtomicI64>, failed: &Arc<AtomicBool>) -> Result<(Broker, Stepper)> {
    let told = failed.clone();
    let world = World {
        home: Home::Disk(Arc::new(disk.clone())),
        clock: clock.clone(),
        random: [7; 16],
        fatal: Box::new(move |_| told.store(true, Ordering::Relaxed)),
        ignores_checkpoints: false,
        keeps_journal: true,
    };
    let codecs = [posthaste_kafka::codec(), posthaste_amqp::codec(), posthaste_mqtt::codec()];
    let config = Config {
        data: "data".into(),
        limits: Limits { reserve_bytes: 2 << 20, recent_bytes_max: 200_000, ..Limits::default() },
        formats: Formats::new(codecs),
        advertised: Default::default(),
        threads: Some(2),
    };
    let (broker, stepper, _) = Broker::open_stepped(world, config)?;
    Ok((broker, stepper))
}
