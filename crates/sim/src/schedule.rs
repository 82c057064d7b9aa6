//! Who is next: engine threads, the journal, checkpoints and all tasks, in an order that the seed chooses.

use crate::clients::Shore;
use anyhow::{Result, bail};
use posthaste_broker::{
    OpenError,
    stepped::{Checkpoints, Stepper},
    storage::{
        Random,
        disk::{SimDisk, WriteFault},
        journal::StepOutcome,
        object::SimStore,
    },
};
use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Duration, Instant, sleep},
};

/// What happens to a broker.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// The power goes after so many changes of the disk; else the process is killed, after `life`.
    power_cut_after: Option<u64>,
    /// In simulated time.
    life: Duration,
    /// The disk is full for a while.
    full: bool,
    /// There is space again before the process ends.
    empties: bool,
    /// A sync fails.
    fails_sync: bool,
    /// A write fails, and the disk goes on.
    fails_write: Option<WriteFault>,
    /// So many reads in a row fail, and the disk goes on.
    fails_reads: u64,
}

/// Of four processes that end after a sync has failed, so many find in the page cache what is not on the disk
/// when they start again; for the others the power goes as well.
const RESTARTED_AFTER_FAILED_SYNC_OF_FOUR: u64 = 2;

impl Faults {
    /// Whether the disk fails to read what is there.
    pub fn fails_reads(&self) -> bool {
        self.fails_reads > 0
    }

    pub fn choose(random: &mut Random) -> Faults {
        Faults {
            power_cut_after: random.chance(3, 5).then(|| 1 + random.below(900)),
            life: Duration::from_millis(1 + random.below(1_500)),
            full: random.chance(1, 5),
            empties: random.chance(1, 2),
            fails_sync: random.chance(1, 8),
            fails_write: random.chance(1, 10).then(|| match random.chance(1, 2) {
                true => WriteFault::Refused,
                false => WriteFault::Short,
            }),
            fails_reads: if random.chance(1, 8) { 1 + random.below(4) } else { 0 },
        }
    }
}

/// How a start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// What was not synced is in doubt.
    PowerCut,
    /// The process is gone; what it wrote is there.
    Killed,
}

/// Drives a stepped broker.
pub struct Scheduler {
    pub stepper: Stepper,
    random: Random,
    clock: Arc<AtomicI64>,
    started: (Instant, i64),
    failed: Arc<AtomicBool>,
    shore: Rc<Shore>,
    checkpoints: JoinHandle<()>,
    idle: u32,
}

/// The broker had nothing to do that many times in a row before time goes on.
const IDLE_TURNS: u32 = 6;
/// After so many more nothing is on its way to the disk, or to a slow store.
const STILL_TURNS: u32 = 1_000;
const PATIENCE: Duration = Duration::from_secs(120);

impl Scheduler {
    pub fn new(
        mut stepper: Stepper,
        mut checkpoints: Checkpoints,
        random: Random,
        clock: Arc<AtomicI64>,
        failed: Arc<AtomicBool>,
        shore: Rc<Shore>,
    ) -> Scheduler {
        stepper.begin();
        let of_checkpoints = shore.clone();
        let checkpoints = tokio::task::spawn_local(async move {
            loop {
                of_checkpoints.pause(40).await;
                sleep(Duration::from_millis(1)).await;
                checkpoints.make_if_due().await;
            }
        });
        let started = (Instant::now(), clock.load(Ordering::Relaxed));
        Scheduler { stepper, random, clock, started, failed, shore, checkpoints, idle: 0 }
    }

    /// One turn for everybody who can do something; time goes on when nobody can.
    async fn turn(&mut self) {
        let now = self.started.1 + i64::try_from(self.started.0.elapsed().as_millis()).unwrap_or(0);
        self.clock.store(now, Ordering::Relaxed);
        self.shore.history.borrow_mut().at(now - crate::run::BEGINNING_MS);
        let mut worked = false;
        for thread in 0..self.stepper.threads() {
            if self.idle > 2 || self.random.chance(3, 4) {
                let inputs_max = 1 + self.random.below(12) as usize;
                worked |= self.stepper.engine(thread, inputs_max);
            }
        }
        if self.idle > 2 || self.random.chance(1, 2) {
            worked |= self.stepper.journal() == StepOutcome::Committed;
        }
        if self.random.chance(1, 200) {
            self.stepper.lazy_sync();
        }
        self.idle = if worked { 0 } else { self.idle + 1 };
        if self.idle > IDLE_TURNS {
            let ms = 1 << (self.idle - IDLE_TURNS).min(5);
            sleep(Duration::from_millis(ms)).await;
        } else if self.random.chance(1, 60) {
            // A disk or a processor that takes its time.
            sleep(Duration::from_millis(1)).await;
        } else {
            yield_now().await;
        }
    }

    fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            bail!("the journal failed although nothing was wrong with the disk");
        }
        Ok(())
    }

    /// Until the broker serves clients.
    pub async fn until_ready(&mut self) -> Result<()> {
        while !self.stepper.is_ready() {
            self.turn().await;
            self.check()?;
        }
        Ok(())
    }

    pub async fn until(&mut self, done: impl Fn() -> bool) -> Result<()> {
        let since = Instant::now();
        while !done() {
            self.turn().await;
            self.check()?;
            if since.elapsed() > PATIENCE {
                bail!("something did not come about in {} s", PATIENCE.as_secs());
            }
        }
        Ok(())
    }

    pub async fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn().await;
            self.check()?;
        }
        Ok(())
    }

    /// Drives the broker while `work` goes on.
    pub async fn alongside<T: 'static>(&mut self, work: impl Future<Output = T> + 'static) -> Result<T> {
        let work = tokio::task::spawn_local(work);
        self.until(|| work.is_finished()).await?;
        Ok(work.await?)
    }

    /// Until everything that was decided is durable and nothing is on its way.
    pub async fn settle_down(&mut self) -> Result<()> {
        self.checkpoints.abort();
        self.shore.doors.take();
        self.run_for(Duration::from_secs(1)).await?;
        // Without a pause, so that no client adds to it.
        let mut idle = 0;
        while idle < STILL_TURNS {
            let mut worked = false;
            for thread in 0..self.stepper.threads() {
                worked |= self.stepper.engine(thread, usize::MAX);
            }
            worked |= self.stepper.journal() == StepOutcome::Committed;
            idle = if worked { 0 } else { idle + 1 };
        }
        self.stepper.lazy_sync();
        self.check()
    }

    /// Until the broker dies of what is done to it.
    pub async fn until_fault(&mut self, disk: &SimDisk, faults: Faults) -> Ended {
        if let Some(changes) = faults.power_cut_after {
            disk.cut_power_after(changes);
        }
        let end = Instant::now() + faults.life;
        let half = Instant::now() + faults.life / 2;
        let mut due = true;
        let mut empties = faults.full && faults.empties;
        while !disk.power_is_cut() && !self.failed.load(Ordering::Relaxed) && Instant::now() < end {
            if due && Instant::now() >= half {
                due = false;
                self.befall(disk, faults);
            }
            if empties && Instant::now() >= half + faults.life / 4 {
                empties = false;
                disk.set_capacity(None);
            }
            self.turn().await;
        }
        let dark = disk.power_is_cut();
        disk.heal();
        let restarted = self.random.below(4) < RESTARTED_AFTER_FAILED_SYNC_OF_FOUR;
        if dark || disk.has_stale_pages() && !restarted {
            return Ended::PowerCut;
        }
        if self.random.chance(1, 2) {
            disk.evict_pages();
        }
        Ended::Killed
    }

    fn befall(&mut self, disk: &SimDisk, faults: Faults) {
        if faults.full {
            // Less than the reserve, or hardly enough for a frame.
            let most = if self.random.chance(1, 2) { 3 << 20 } else { 40_000 };
            disk.set_capacity(Some(disk.used_bytes() + self.random.below(most)));
        }
        if faults.fails_sync {
            disk.fail_next_sync();
        }
        if let Some(fault) = faults.fails_write {
            disk.fail_next_write(fault);
        }
        (0..faults.fails_reads).for_each(|_| disk.fail_next_read());
    }

    /// As [`Scheduler::until_fault`], in a bucket: what a disk's faults are there is that the store does not
    /// answer for a while, and that `rival`, another broker, takes the bucket over.
    pub async fn until_fault_in(
        &mut self,
        store: &SimStore,
        faults: Faults,
        rival: impl FnOnce() -> Result<(), OpenError>,
    ) -> Result<Ended> {
        let end = Instant::now() + faults.life;
        let half = Instant::now() + faults.life / 2;
        let back = half + faults.life / 4;
        let mut rival = faults.fails_sync.then_some(rival);
        while !self.failed.load(Ordering::Relaxed) && Instant::now() < end {
            let now = Instant::now();
            store.set_away(faults.full && now >= half && now < back);
            if let Some(rival) = rival.take_if(|_| now >= back) {
                rival()?;
            }
            self.turn().await;
        }
        store.set_away(false);
        Ok(Ended::Killed)
    }
}
