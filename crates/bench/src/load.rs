//! Load from several threads, counted between the end of a warm-up and the end of the run, and what the broker
//! spent meanwhile.

use crate::{
    broker::{Broker, Place},
    commits,
    floor::{self, Floor},
    latencies::Latencies,
    report::{Cell, Report, Table},
};
use anyhow::{Result, anyhow};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Longest replay on the bare disk.
const FLOOR: Duration = Duration::from_secs(10);
const PERCENTILES: [f64; 4] = [0.5, 0.95, 0.99, 0.999];

/// How long to run, and what to send.
#[derive(Clone, clap::Args)]
pub struct Run {
    /// Seconds that are counted
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seconds before that
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    warm_up: u64,
    /// Times that broker and bare disk are measured in turn; the medians are shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Connections that publish
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=1000))]
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
    let mut spent = Vec::new();
    let (tally, elapsed) = drive(run, workers, || {
        spent.push(Spent::so_far(broker)?);
        Ok(())
    })?;
    let [before, after] = &spent[..] else { return Err(anyhow!("looked at {} times", spent.len())) };
    Ok(Outcome {
        tally,
        elapsed,
        processor: after.processor.saturating_sub(before.processor),
        commits: after.commits - before.commits,
        syncs: after.syncs - before.syncs,
        journal_bytes: after.journal_bytes - before.journal_bytes,
    })
}

/// As [`run`], of a broker that is only known by where it listens.
pub fn run_remote(title: &str, run: &Run, workers: Vec<Worker>) -> Result<Report> {
    let (mut tally, elapsed) = drive(run, workers, || Ok(()))?;
    let mut report = Report::new(title);
    let [p50, p99] = tally.latencies.percentiles([0.5, 0.99]);
    report.figure("acknowledged_per_second", tally.acknowledged as f64 / elapsed.as_secs_f64());
    report.figure("delivered_per_second", tally.delivered as f64 / elapsed.as_secs_f64());
    report.figure("p50_ms", p50);
    report.figure("p99_ms", p99);
    Ok(report)
}

/// Runs the workers, and looks at the beginning and at the end of what is counted.
fn drive(run: &Run, workers: Vec<Worker>, mut look: impl FnMut() -> Result<()>) -> Result<(Tally, Duration)> {
    let begin = Instant::now() + Duration::from_secs(run.warm_up);
    let window = Window { begin, end: begin + Duration::from_secs(run.seconds) };
    thread::scope(|scope| {
        let workers: Vec<_> = workers.into_iter().map(|work| scope.spawn(move || work(window))).collect();
        thread::sleep(window.begin.saturating_duration_since(Instant::now()));
        look()?;
        thread::sleep(window.end.saturating_duration_since(Instant::now()));
        look()?;
        let mut tally = Tally::default();
        for worker in workers {
            let one = worker.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
            tally.acknowledged += one.acknowledged;
            tally.delivered += one.delivered;
            tally.latencies.merge(one.latencies);
        }
        Ok((tally, window.end - window.begin))
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

/// One round in figures.
struct Figures {
    messages: f64,
    latencies: [f64; 4],
    delivered: f64,
    commits: f64,
    commit_bytes: f64,
    journal_bytes: f64,
    cpu_micros: f64,
    /// Of the bare disk, which carries as many messages as its bytes would have.
    share: f64,
}

/// Adds the medians of all rounds: a line for the broker, one for the bare disk.
pub fn rows(table: &mut Table, name: &str, message_bytes: u32, rounds: Vec<(Outcome, Floor)>) {
    let (broker, disk): (Vec<Figures>, Vec<Figures>) = rounds.into_iter().map(figures).unzip();
    let megabytes = f64::from(message_bytes) / 1e6;
    let mut line = |name: String, rounds: &[Figures], is_broker: bool| {
        let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure).collect());
        let latency = |at: usize| Cell::Number(median(rounds.iter().map(|r| r.latencies[at]).collect()), 2);
        let broker_only = |value: f64, decimals| {
            if is_broker && value > 0.0 { Cell::Number(value, decimals) } else { Cell::None }
        };
        table.row([
            Cell::text(name),
            Cell::Number(of(|r| r.messages), 0),
            Cell::Number(of(|r| r.messages) * megabytes, 1),
            latency(0),
            latency(1),
            latency(2),
            latency(3),
            broker_only(of(|r| r.delivered), 0),
            Cell::Number(of(|r| r.commits), 0),
            Cell::Number(of(|r| r.commit_bytes) / 1024.0, 1),
            Cell::Number(of(|r| r.journal_bytes) / 1e6, 1),
            broker_only(of(|r| r.cpu_micros), 2),
            Cell::text(format!("{:.0} %", of(|r| r.share) * 100.0)),
        ]);
    };
    line(name.to_owned(), &broker, true);
    line(format!("{name}, bare disk"), &disk, false);
}

/// The broker's figures and the bare disk's.
fn figures((mut outcome, mut floor): (Outcome, Floor)) -> (Figures, Figures) {
    let seconds = outcome.elapsed.as_secs_f64();
    let Tally { acknowledged, delivered, .. } = outcome.tally;
    let journal_bytes = outcome.journal_bytes / seconds;
    let share = journal_bytes / floor.bytes_per_second();
    let messages = acknowledged as f64 / seconds;
    let broker = Figures {
        messages,
        latencies: outcome.tally.latencies.percentiles(PERCENTILES),
        delivered: delivered as f64 / seconds,
        commits: outcome.commits / seconds,
        commit_bytes: outcome.journal_bytes / outcome.commits.max(1.0),
        journal_bytes,
        cpu_micros: outcome.processor.as_secs_f64() * 1e6 / acknowledged.max(delivered).max(1) as f64,
        share,
    };
    let disk = Figures {
        messages: messages / share.max(f64::MIN_POSITIVE),
        latencies: floor.latencies.percentiles(PERCENTILES),
        delivered: 0.0,
        commits: floor.commits_per_second(),
        commit_bytes: floor.bytes as f64 / floor.commits.max(1) as f64,
        journal_bytes: floor.bytes_per_second(),
        cpu_micros: 0.0,
        share: 1.0,
    };
    (broker, disk)
}

/// The middle one; of an even number, the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let upper = values.len() / 2;
    let lower = values.len().saturating_sub(1) / 2;
    match (values.get(lower), values.get(upper)) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => 0.0,
    }
}

/// What to say of the durability on both sides.
pub fn durability(rounds: &[(Outcome, Floor)]) -> String {
    let commits: f64 = rounds.iter().map(|(outcome, _)| outcome.commits).sum();
    let syncs: f64 = rounds.iter().map(|(outcome, _)| outcome.syncs).sum();
    format!(
        "broker: acknowledged after fdatasync of the journal ({commits:.0} commits, {syncs:.0} syncs); bare disk: \
         pwrite and fdatasync for each commit"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, expect) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![4.0, 1.0], 2.5), (vec![9.0, 1.0, 2.0], 2.0)]
        {
            assert_eq!(median(values), expect);
        }
    }
}
