//! `backlog`: a large queue and a large topic: memory, disk, and the time to be ready again after `kill -9`.

use crate::{
    Common, amqp,
    broker::{Broker, Place, disk_bytes},
    kafka, machine,
    report::{Cell, Report, Table},
};
use anyhow::{Result, ensure};
use posthaste_storage::data_dir::{CHECKPOINTS_DIR, JOURNAL_DIR, SEGMENTS_DIR};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Bars of the first release.
const ANONYMOUS_MB_BELOW: f64 = 300.0;
const READY_SECONDS_BELOW: f64 = 5.0;

const CONNECTIONS: u64 = 4;
const PARTITIONS: i32 = 4;
const BATCH_BYTES: u32 = 16 << 10;
/// Between two looks at the memory while the broker works.
const LOOK: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct Options {
    /// Messages in the queue, and records in the topic
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=u32::MAX as u64))]
    messages: u64,
    /// Bytes of each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    message_bytes: u32,
}

/// Runs the benchmark.
pub fn run(common: &Common, options: &Options) -> Result<Report> {
    let place = Place::find(common)?;
    let directory = place.directory()?;
    let data = directory.path();
    let mut report = Report::new("Backlog: memory, disk, and restart after kill -9");
    machine::describe(&mut report, data);
    let Options { messages, message_bytes } = *options;
    report.fact(
        "backlog",
        format!(
            "{messages} messages in a queue and {messages} records in a topic, {message_bytes} bytes each"
        ),
    );
    let mut table = Table::new(&[
        "moment",
        "seconds",
        "per second",
        "anonymous MB",
        "peak MB",
        "resident MB",
        "journal MB",
        "segments MB",
        "checkpoints MB",
    ]);
    let broker = Broker::start(&place, data)?;
    table.row(line("ready, empty", broker.until_ready, None, &broker, data, 0)?);

    let at = broker.address("amqp")?;
    let (seconds, queue_peak) = watched(&broker, || amqp::fill(at, messages, message_bytes, CONNECTIONS))?;
    table.row(line("queue filled (AMQP, confirms)", seconds, Some(messages), &broker, data, queue_peak)?);
    kafka::create_topic(&broker, PARTITIONS)?;
    let fill = || kafka::fill(&broker, messages, message_bytes, BATCH_BYTES, PARTITIONS);
    let (seconds, topic_peak) = watched(&broker, fill)?;
    table.row(line("topic filled (Kafka, acks=all)", seconds, Some(messages), &broker, data, topic_peak)?);
    let settle = Duration::from_secs(5);
    let (seconds, peak) = watched(&broker, || {
        thread::sleep(settle);
        Ok(())
    })?;
    table.row(line("five seconds later", seconds, None, &broker, data, peak)?);
    broker.kill()?;

    let broker = Broker::start(&place, data)?;
    let ready = broker.until_ready;
    table.row(line("ready after kill -9", ready, None, &broker, data, 0)?);
    check(&broker, messages)?;
    thread::sleep(settle);
    table.row(line("five seconds later", settle, None, &broker, data, 0)?);
    let mut bars = Table::new(&["bar", "measured"]);
    let peak = queue_peak.max(topic_peak) as f64 / 1e6;
    bars.row([Cell::text("anonymous MB, peak while filled"), Cell::Below(peak, ANONYMOUS_MB_BELOW, 0)]);
    let anonymous = broker.memory("RssAnon")? as f64 / 1e6;
    bars.row([Cell::text("anonymous MB after restart"), Cell::Below(anonymous, ANONYMOUS_MB_BELOW, 0)]);
    bars.row([Cell::text("seconds to ready"), Cell::Below(ready.as_secs_f64(), READY_SECONDS_BELOW, 2)]);
    report.table(table);
    report.table(bars);
    Ok(report)
}

/// Everything is there.
fn check(broker: &Broker, messages: u64) -> Result<()> {
    let queued = u64::from(amqp::ready(broker)?);
    ensure!(queued == messages, "the queue has {queued} messages after the restart, not {messages}");
    let ends =
        broker.metrics()?.into_iter().filter(|(name, _)| name.starts_with("posthaste_partition_end_offset{"));
    let records = ends.map(|(_, end)| end as u64).sum::<u64>();
    ensure!(records == messages, "the topic has {records} records after the restart, not {messages}");
    Ok(())
}

/// How long the work took, and the most anonymous memory that was seen meanwhile, in bytes.
fn watched(broker: &Broker, work: impl FnOnce() -> Result<()> + Send) -> Result<(Duration, u64)> {
    let begin = Instant::now();
    let mut peak = broker.memory("RssAnon")?;
    thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            thread::sleep(LOOK);
            // When the broker has died, the work says it better.
            peak = peak.max(broker.memory("RssAnon").unwrap_or(0));
        }
        work.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
    })?;
    Ok((begin.elapsed(), peak))
}

fn line(
    moment: &str,
    took: Duration,
    messages: Option<u64>,
    broker: &Broker,
    data: &Path,
    peak: u64,
) -> Result<[Cell; 9]> {
    let megabytes = |bytes: u64| Cell::Number(bytes as f64 / 1e6, 1);
    let seconds = took.as_secs_f64();
    Ok([
        Cell::text(moment),
        Cell::Number(seconds, 2),
        messages.map_or(Cell::None, |messages| Cell::Number(messages as f64 / seconds, 0)),
        megabytes(broker.memory("RssAnon")?),
        if peak > 0 { megabytes(peak) } else { Cell::None },
        megabytes(broker.memory("VmRSS")?),
        megabytes(disk_bytes(&data.join(JOURNAL_DIR))?),
        megabytes(disk_bytes(&data.join(SEGMENTS_DIR))?),
        megabytes(disk_bytes(&data.join(CHECKPOINTS_DIR))?),
    ])
}
