//! `amqp`: persistent publishes with confirms to durable queues, acknowledged by consumers.

mod connection;
mod remote;

use crate::{
    Common,
    broker::{Broker, Place},
    floor::Floor,
    load::{self, Outcome, Run, Tally, Window, Worker},
    machine,
    report::Report,
};
use anyhow::{Context, Result, bail};
use connection::{Connection, Received, publish_octets};
use posthaste_amqp::wire::{ShortString, basic, encode_ack};
use std::{collections::VecDeque, net::SocketAddr, thread, time::Instant};

/// Messages that are written at once at most.
const WRITE_MESSAGES_MAX: usize = 256;
const QUEUE: &str = "bench";

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    run: Run,
    /// Publishes of a connection that wait for their confirm: one run for each number
    #[arg(long, default_values_t = [1, 100, 3000], value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    windows: Vec<u32>,
    /// Any AMQP 0-9-1 broker that listens there, in place of ours: only its load is reported
    #[arg(long, value_name = "HOST:PORT")]
    at: Option<SocketAddr>,
    /// With `--at`: a quorum queue
    #[arg(long, requires = "at")]
    quorum: bool,
    /// With `--at`: transient messages and queues, neither confirmed nor acknowledged
    #[arg(long, requires = "at", conflicts_with = "quorum")]
    transient: bool,
    /// Queues; publishers and consumers are spread over them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    queues: u32,
    /// Consumers, each on a connection of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    consumers: u32,
    /// Messages in each queue before the run begins; with `--connections 0` the run is their consumption
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=u32::MAX as u64))]
    backlog: u64,
    /// Deliveries that a consumer has not acknowledged yet
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,
}

/// Runs the benchmark, once for each window.
pub fn run(common: &Common, options: &Options) -> Result<Report> {
    if let Some(at) = options.at {
        return remote::run(options, at);
    }
    let place = Place::find(common)?;
    let mut report = Report::new("AMQP persistent publish with confirms, consumed with acknowledgements");
    machine::describe(&mut report, place.directory()?.path());
    let Options { run, queues, consumers, prefetch, .. } = options;
    report.fact(
        "load",
        format!(
            "{} connections that publish {} bytes a message, {queues} queues, {consumers} consumers with a prefetch of \
             {prefetch}, every delivery acknowledged by itself",
            run.connections, run.message_bytes
        ),
    );
    let mut table = load::table();
    for &window in &options.windows {
        let rounds = (0..run.rounds).map(|_| round(&place, options, window)).collect::<Result<Vec<_>>>();
        let rounds = rounds.with_context(|| format!("with a window of {window}"))?;
        report.fact(format!("durability, window {window}"), load::durability(&rounds));
        load::rows(&mut table, &format!("window {window}"), run.message_bytes, rounds);
    }
    report.table(table);
    Ok(report)
}

fn round(place: &Place, options: &Options, window: u32) -> Result<(Outcome, Floor)> {
    let directory = place.directory()?;
    let broker = Broker::start(place, directory.path())?;
    let queue = |n: u32| format!("{QUEUE}-{}", n % options.queues);
    let at = broker.address("amqp")?;
    let mut control = Connection::open(at)?;
    for n in 0..options.queues {
        control.declare(&queue(n))?;
        Publisher::open(at, &queue(n), options.run.message_bytes, 3000)?.publish(options.backlog)?;
    }
    let mut workers: Vec<Worker> = Vec::new();
    for n in 0..options.run.connections {
        let mut publisher = Publisher::open(at, &queue(n), options.run.message_bytes, window)?;
        workers.push(Box::new(move |window| publisher.until_end(window)));
    }
    for n in 0..options.consumers {
        let connection = Connection::open(at)?;
        let (queue, prefetch) = (queue(n), options.prefetch);
        workers.push(Box::new(move |window| consume(connection, &queue, Some(prefetch), window)));
    }
    let outcome = load::run(&broker, &options.run, workers)?;
    broker.kill()?;
    let floor = load::bare_disk(place, directory.path(), &options.run)?;
    Ok((outcome, floor))
}

/// Fills a queue of a broker that listens somewhere.
#[derive(clap::Args)]
pub struct FillOptions {
    #[arg(long, value_name = "HOST:PORT")]
    at: SocketAddr,
    /// Messages to publish
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=u32::MAX as u64))]
    messages: u64,
    /// Bytes of each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    message_bytes: u32,
}

/// Publishes the messages and says how long that took.
pub fn run_fill(options: &FillOptions) -> Result<Report> {
    let begin = Instant::now();
    fill(options.at, options.messages, options.message_bytes, 4)?;
    let mut report = Report::new("AMQP persistent publish with confirms, without a consumer");
    report.figure("acknowledged_per_second", options.messages as f64 / begin.elapsed().as_secs_f64());
    Ok(report)
}

/// Declares a queue and fills it over a few connections, as fast as it goes.
pub fn fill(at: SocketAddr, messages: u64, message_bytes: u32, connections: u64) -> Result<()> {
    Connection::open(at)?.declare(QUEUE)?;
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..connections)
            .map(|n| {
                let share = messages / connections + u64::from(n < messages % connections);
                scope.spawn(move || Publisher::open(at, QUEUE, message_bytes, 3000)?.publish(share))
            })
            .collect();
        publishers
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))?)
    })
}

/// Messages in the queue that [`fill`] filled.
pub fn ready(broker: &Broker) -> Result<u32> {
    Connection::open(broker.address("amqp")?)?.declare(QUEUE)
}

/// Publishes the same message again and again, with a bounded number of them not confirmed yet.
struct Publisher {
    connection: Connection,
    /// [`WRITE_MESSAGES_MAX`] messages one after the other.
    octets: Vec<u8>,
    message_octets: usize,
    window: usize,
    /// When each message was written, from the oldest that is not confirmed; none for one that is, while an older
    /// one is not.
    unconfirmed: VecDeque<Option<Instant>>,
    /// The delivery tag of the first in `unconfirmed`.
    oldest: u64,
}

impl Publisher {
    fn open(at: SocketAddr, queue: &str, message_bytes: u32, window: u32) -> Result<Publisher> {
        let mut connection = Connection::open(at)?;
        connection.select_confirms()?;
        let message = publish_octets(queue, message_bytes as usize, true)?;
        Ok(Publisher {
            connection,
            octets: message.repeat(WRITE_MESSAGES_MAX.min(window as usize)),
            message_octets: message.len(),
            window: window as usize,
            unconfirmed: VecDeque::new(),
            oldest: 1,
        })
    }

    fn until_end(&mut self, window: Window) -> Result<Tally> {
        let mut tally = Tally::default();
        loop {
            let ended = Instant::now() >= window.end;
            if !ended {
                self.fill_window(usize::MAX)?;
            }
            if self.unconfirmed.is_empty() {
                return Ok(tally);
            }
            self.confirms(|sent, now| {
                if window.holds(now) {
                    tally.acknowledged += 1;
                    tally.latencies.record(now - sent, 1);
                }
            })?;
        }
    }

    fn publish(&mut self, messages: u64) -> Result<()> {
        let mut left = messages;
        while left > 0 || !self.unconfirmed.is_empty() {
            left -= self.fill_window(usize::try_from(left).unwrap_or(usize::MAX))? as u64;
            self.confirms(|_, _| {})?;
        }
        Ok(())
    }

    /// Publishes what the window has room for, and at most `most`; returns how many that were.
    fn fill_window(&mut self, most: usize) -> Result<usize> {
        let room = (self.window - self.unconfirmed.len()).min(most);
        let mut left = room;
        while left > 0 {
            let messages = left.min(self.octets.len() / self.message_octets);
            let now = Instant::now();
            self.unconfirmed.extend(std::iter::repeat_n(Some(now), messages));
            self.connection.write(&self.octets[..messages * self.message_octets])?;
            left -= messages;
        }
        Ok(room)
    }

    /// Waits for octets and takes all confirms that came; tells of each when its message was sent.
    fn confirms(&mut self, mut confirmed: impl FnMut(Instant, Instant)) -> Result<()> {
        self.connection.wait()?;
        let now = Instant::now();
        while let Some(received) = self.connection.received()? {
            let Received::Ack { delivery_tag, multiple } = received else {
                bail!("{received:?} instead of a confirm");
            };
            let last = usize::try_from(delivery_tag.wrapping_sub(self.oldest)).unwrap_or(usize::MAX);
            let first = if multiple { 0 } else { last };
            for at in first..=last {
                let sent =
                    self.unconfirmed.get_mut(at).with_context(|| format!("confirm of {delivery_tag}"))?;
                if let Some(sent) = sent.take() {
                    confirmed(sent, now);
                }
            }
            while self.unconfirmed.front().is_some_and(Option::is_none) {
                self.unconfirmed.pop_front();
                self.oldest += 1;
            }
        }
        Ok(())
    }
}

/// Consumes until the window ends, and with a prefetch acknowledges.
fn consume(mut connection: Connection, queue: &str, prefetch: Option<u16>, window: Window) -> Result<Tally> {
    let consume = basic::Consume {
        queue: ShortString::truncated(queue),
        no_ack: prefetch.is_none(),
        ..Default::default()
    };
    connection.consume(consume, prefetch.unwrap_or(0))?;
    let mut tally = Tally::default();
    let mut acks = bytes::BytesMut::new();
    loop {
        let now = Instant::now();
        if now >= window.end {
            return Ok(tally);
        }
        // The first deliveries may have come together with consume-ok.
        while let Some(received) = connection.received()? {
            let Received::Delivery { delivery_tag } = received else {
                bail!("{received:?} instead of a delivery")
            };
            if prefetch.is_some() {
                encode_ack(&mut acks, connection::CHANNEL, delivery_tag, false);
            }
            tally.delivered += u64::from(window.holds(now));
        }
        if !acks.is_empty() {
            connection.write(&acks)?;
            acks.clear();
        }
        connection.wait_until(window.end)?;
    }
}
