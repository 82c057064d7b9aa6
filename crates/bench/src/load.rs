//! Load from several threads, counted between the end of a warm-up and the end of the run, and what the broker
//! spent meanwhile.

use crate::{
    broker::{Broker, Place},
    commits,
    floor::{self, Floor},
    latencies::Latencies,
    report::{Cell, Table},
};
use anyhow::{Result, anyhow};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Longest replay on the bare disk.
const FLOOR: Duration = Duration::from_secs(20);

/// How long to run, and what to send.
#[derive(Clone, clap::Args)]
pub struct Run {
    /// Seconds that are counted
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seconds before that
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    warm_up: u64,
    /// Connections that publish
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// Bytes of each message
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub message_bytes: u32,
}

/// What counts: from `begin` until `end`.
#[derive(Clone, Copy)]
pub struct Window {
    pub begin: Instant,
    pub end: Instant,
}

impl Window {
    pub fn holds(&self, at: Instant) -> bool {
        at >= self.begin && at < self.end
    }
}

/// What one thread saw within the window.
#[derive(Default)]
pub struct Tally {
    /// Messages acknowledged by the broker.
    pub acknowledged: u64,
    /// From writing a message to its acknowledgement.
    pub latencies: Latencies,
    /// Messages delivered by the broker.
    pub delivered: u64,
}

/// What a thread of the load does until the window ends.
pub type Worker = Box<dyn FnOnce(Window) -> Result<Tally> + Send>;

/// All threads' tallies, and what the broker's process and journal did within the window.
pub struct Outcome {
    pub tally: Tally,
    elapsed: Duration,
    processor: Duration,
    commits: f64,
    syncs: f64,
    journal_bytes: f64,
}

/// Runs the workers, each on a thread, to the end of the window.
pub fn run(broker: &Broker, run: &Run, workers: Vec<Worker>) -> Result<Outcome> {
    let begin = Instant::now() + Duration::from_secs(run.warm_up);
    let window = Window { begin, end: begin + Duration::from_secs(run.seconds) };
    thread::scope(|scope| {
        let workers: Vec<_> = workers.into_iter().map(|work| scope.spawn(move || work(window))).collect();
        thread::sleep(window.begin.saturating_duration_since(Instant::now()));
        let before = Spent::so_far(broker)?;
        thread::sleep(window.end.saturating_duration_since(Instant::now()));
        let after = Spent::so_far(broker)?;
        let mut tally = Tally::default();
        for worker in workers {
            let one = worker.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
            tally.acknowledged += one.acknowledged;
            tally.delivered += one.delivered;
            tally.latencies.merge(one.latencies);
        }
        Ok(Outcome {
            tally,
            elapsed: window.end - window.begin,
            processor: after.processor.saturating_sub(before.processor),
            commits: after.commits - before.commits,
            syncs: after.syncs - before.syncs,
            journal_bytes: after.journal_bytes - before.journal_bytes,
        })
    })
}

struct Spent {
    processor: Duration,
    commits: f64,
    syncs: f64,
    journal_bytes: f64,
}

impl Spent {
    fn so_far(broker: &Broker) -> Result<Spent> {
        let metrics = broker.metrics()?;
        let counter = |name: &str| metrics.get(name).copied().ok_or_else(|| anyhow!("no metric {name}"));
        Ok(Spent {
            processor: broker.processor_time()?,
            commits: counter("posthaste_journal_commits_total")?,
            syncs: counter("posthaste_journal_syncs_total")?,
            journal_bytes: counter("posthaste_journal_bytes_total")?,
        })
    }
}

/// Replays the commits of a stopped broker's journal on the bare disk.
pub fn bare_disk(place: &Place, data: &Path, run: &Run) -> Result<Floor> {
    floor::replay(place, &commits::sizes(data)?, FLOOR.min(Duration::from_secs(run.seconds)))
}

/// The table of broker against bare disk: two lines for each outcome.
pub fn table() -> Table {
    Table::new(&[
        "what",
        "messages/s",
        "MB/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "p99.9 ms",
        "delivered/s",
        "commits/s",
        "KiB/commit",
        "journal MB/s",
        "us CPU/message",
        "share of floor",
    ])
}

/// Adds an outcome and its floor. The floor's messages are those that its bytes would have carried.
pub fn rows(table: &mut Table, name: &str, message_bytes: u32, mut outcome: Outcome, mut floor: Floor) {
    let seconds = outcome.elapsed.as_secs_f64();
    let messages = outcome.tally.acknowledged as f64;
    let bytes = f64::from(message_bytes);
    let megabytes = |messages: f64| messages * bytes / 1e6;
    let share = outcome.journal_bytes / seconds / floor.bytes_per_second();
    let percentiles = [0.5, 0.95, 0.99, 0.999];
    let latencies = outcome.tally.latencies.percentiles(percentiles);
    let mut cells = vec![
        Cell::text(name),
        Cell::Number(messages / seconds, 0),
        Cell::Number(megabytes(messages) / seconds, 1),
    ];
    cells.extend(latencies.map(|ms| Cell::Number(ms, 2)));
    cells.extend([
        if outcome.tally.delivered > 0 {
            Cell::Number(outcome.tally.delivered as f64 / seconds, 0)
        } else {
            Cell::None
        },
        Cell::Number(outcome.commits / seconds, 0),
        Cell::Number(outcome.journal_bytes / outcome.commits.max(1.0) / 1024.0, 1),
        Cell::Number(outcome.journal_bytes / seconds / 1e6, 1),
        Cell::Number(outcome.processor.as_secs_f64() * 1e6 / messages.max(1.0), 2),
        Cell::text(format!("{:.0} %", share * 100.0)),
    ]);
    table.row(cells);
    let floor_messages = messages / seconds / share;
    let mut cells = vec![
        Cell::text(format!("{name}, bare disk")),
        Cell::Number(floor_messages, 0),
        Cell::Number(megabytes(floor_messages), 1),
    ];
    cells.extend(floor.latencies.percentiles(percentiles).map(|ms| Cell::Number(ms, 2)));
    cells.extend([
        Cell::None,
        Cell::Number(floor.commits_per_second(), 0),
        Cell::Number(floor.bytes as f64 / floor.commits.max(1) as f64 / 1024.0, 1),
        Cell::Number(floor.bytes_per_second() / 1e6, 1),
        Cell::None,
        Cell::text("100 %"),
    ]);
    table.row(cells);
}

impl Outcome {
    /// What to say of the durability on the broker's side.
    pub fn durability(&self) -> String {
        format!(
            "broker: acknowledged after fdatasync of the journal ({:.0} commits, {:.0} syncs); bare disk: pwrite and \
             fdatasync for each commit",
            self.commits, self.syncs
        )
    }
}
