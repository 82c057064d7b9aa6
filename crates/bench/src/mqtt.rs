//! `mqtt`: load on any MQTT 3.1.1 broker that listens somewhere: pairs, or one publisher to many subscribers.
//!
//! The load is closed unless a rate is given: a publisher waits while too many of its messages have not
//! reached every subscriber, so that no broker is driven into dropping them. All connections live on few
//! threads.

mod client;

use crate::{latencies::Latencies, report::Report};
use anyhow::{Context, Result, anyhow, bail, ensure};
use client::{Client, Packet};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime, sync::Notify, task::JoinSet, time};

/// Messages that are written at once at most.
const WRITE_MESSAGES_MAX: u64 = 64;
/// Of the messages one in so many has its latency recorded.
const SAMPLED: u64 = 8;
/// Not delivered for so long, a message counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// Between two looks at what a rate asks for.
const TICK: Duration = Duration::from_millis(1);
/// Messages under way at most when the rate, not the window, holds a publisher back.
const PACED_WINDOW: u64 = 100_000;

#[derive(Clone, clap::Args)]
pub struct Options {
    /// Where the broker listens
    #[arg(long, value_name = "HOST:PORT")]
    at: SocketAddr,
    /// Publishers, each on a topic of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    publishers: u32,
    /// Subscribers of each of these topics
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subscribers: u32,
    /// Of publishes and subscriptions
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Subscribers have sessions that outlive their connections
    #[arg(long)]
    persistent: bool,
    /// Bytes of a payload
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    message_bytes: u32,
    /// Messages of a publisher that have not been acknowledged, or not reached every subscriber
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    window: u64,
    /// Messages a second, of all publishers together; without it as many as the window lets through
    #[arg(long)]
    rate: Option<f64>,
    /// Threads that carry the connections
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Seconds that are counted
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seconds before that
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    warm_up: u64,
}

/// What the connections of one topic share.
struct Flow {
    options: Options,
    topic: String,
    published: AtomicU64,
    acknowledged: AtomicU64,
    /// For each subscriber.
    delivered: Vec<AtomicU64>,
    lost: AtomicU64,
    /// Notified when messages were acknowledged or delivered.
    room: Notify,
    clock: Arc<Clock>,
}

struct Clock {
    origin: Instant,
    /// Nanoseconds after `origin`; none before all connections stand.
    begin: AtomicU64,
    ended: AtomicBool,
}

/// What one thread counted within the window.
#[derive(Default)]
struct Tally {
    published: u64,
    delivered: u64,
    latencies: Latencies,
}

/// Runs the load.
pub fn run(options: &Options) -> Result<Report> {
    let clock = Arc::new(Clock {
        origin: Instant::now(),
        begin: AtomicU64::new(u64::MAX),
        ended: AtomicBool::new(false),
    });
    let flows: Vec<Arc<Flow>> =
        (0..options.publishers).map(|n| Arc::new(Flow::new(n, options, &clock))).collect();
    let threads: Vec<_> = (0..options.threads)
        .map(|thread| {
            let flows = flows.clone();
            thread::spawn(move || {
                runtime::Builder::new_current_thread().enable_all().build()?.block_on(drive(thread, flows))
            })
        })
        .collect();
    let mut tally = Tally::default();
    for thread in threads {
        let one = thread.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
        tally.published += one.published;
        tally.delivered += one.delivered;
        tally.latencies.merge(one.latencies);
    }
    let seconds = options.seconds as f64;
    let [p50, p99, p999] = tally.latencies.percentiles([0.5, 0.99, 0.999]);
    let mut report = Report::new("MQTT load");
    report.figure("published_per_second", tally.published as f64 / seconds);
    report.figure("delivered_per_second", tally.delivered as f64 / seconds);
    report.figure("lost", flows.iter().map(|flow| flow.lost.load(Relaxed)).sum::<u64>() as f64);
    report.figure("p50_ms", p50);
    report.figure("p99_ms", p99);
    report.figure("p999_ms", p999);
    Ok(report)
}

/// One thread's share of the connections: subscribers first, then publishers, until the time is over.
async fn drive(thread: u32, flows: Vec<Arc<Flow>>) -> Result<Tally> {
    let Some(options) = flows.first().map(|flow| flow.options.clone()) else { bail!("no publishers") };
    let mine = |n: u32| n % options.threads == thread;
    let mut subscribers = JoinSet::new();
    for (n, flow) in (0u32..).zip(&flows) {
        for subscriber in 0..options.subscribers {
            if mine(n + subscriber) {
                let client = Client::subscriber(&options, &flow.topic, subscriber).await?;
                subscribers.spawn(subscribe(flow.clone(), client, subscriber as usize));
            }
        }
    }
    let clock = flows.first().map(|flow| flow.clock.clone()).context("no publishers")?;
    clock.wait_for_all(&options).await;
    let mut publishers = JoinSet::new();
    for (n, flow) in (0u32..).zip(&flows) {
        if mine(n) {
            let client = Client::open(options.at, &format!("{}-publisher", flow.topic), true).await?;
            publishers.spawn(publish(flow.clone(), client));
        }
    }
    let mut tally = Tally::default();
    while let Some(published) = publishers.join_next().await {
        tally.published += published??;
    }
    time::sleep_until((clock.end(&options) + Duration::from_millis(200)).into()).await;
    clock.ended.store(true, Relaxed);
    while let Some(one) = subscribers.join_next().await {
        let (delivered, latencies) = one??;
        tally.delivered += delivered;
        tally.latencies.merge(latencies);
    }
    Ok(tally)
}

impl Clock {
    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Gives the other threads the time to subscribe; the first that comes sets when counting begins.
    async fn wait_for_all(&self, options: &Options) {
        let connect =
            Duration::from_millis(300) + Duration::from_millis(1) * options.publishers * options.subscribers;
        let begin = (self.origin.elapsed() + connect + Duration::from_secs(options.warm_up)).as_nanos();
        let begin = u64::try_from(begin).unwrap_or(u64::MAX);
        // Whoever was later than another has lost the race, and uses what is there.
        let _ = self.begin.compare_exchange(u64::MAX, begin, Relaxed, Relaxed);
        time::sleep(connect).await;
    }

    fn begin(&self) -> Instant {
        self.origin + Duration::from_nanos(self.begin.load(Relaxed))
    }

    fn end(&self, options: &Options) -> Instant {
        self.begin() + Duration::from_secs(options.seconds)
    }
}

impl Flow {
    fn new(n: u32, options: &Options, clock: &Arc<Clock>) -> Flow {
        Flow {
            options: options.clone(),
            topic: format!("bench/{n}"),
            published: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            delivered: (0..options.subscribers).map(|_| AtomicU64::new(0)).collect(),
            lost: AtomicU64::new(0),
            room: Notify::new(),
            clock: clock.clone(),
        }
    }

    /// Messages that everyone has had who should.
    fn done(&self) -> u64 {
        let delivered = self.delivered.iter().map(|count| count.load(Relaxed)).min().unwrap_or(0);
        let delivered = delivered + self.lost.load(Relaxed);
        if self.options.qos == 0 { delivered } else { delivered.min(self.acknowledged.load(Relaxed)) }
    }
}

/// Publishes until the end; returns how many messages within the window.
async fn publish(flow: Arc<Flow>, client: Client) -> Result<u64> {
    let options = flow.options.clone();
    let (mut reader, mut writer) = client.split();
    let answers = tokio::spawn({
        let flow = flow.clone();
        async move {
            while let Ok(packets) = reader.receive(|packet| ensure_ack(&packet)).await {
                flow.acknowledged.fetch_add(packets, Relaxed);
                flow.room.notify_one();
            }
        }
    });
    let (begin, end) = (flow.clock.begin(), flow.clock.end(&options));
    let window = if options.rate.is_some() { PACED_WINDOW.min(60_000) } else { options.window };
    let rate = options.rate.map(|rate| rate / f64::from(options.publishers));
    let (start, mut counted) = (Instant::now(), 0);
    let mut message = client::Publish::new(&flow.topic, options.qos, options.message_bytes as usize);
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        let sent = flow.published.load(Relaxed);
        let room = window.saturating_sub(sent.saturating_sub(flow.done()));
        let due =
            rate.map_or(u64::MAX, |rate| ((now - start).as_secs_f64() * rate) as u64).saturating_sub(sent);
        let count = room.min(due).min(WRITE_MESSAGES_MAX);
        if room == 0 {
            let done = flow.done();
            let waited = time::timeout(LOST_AFTER, flow.room.notified()).await;
            if waited.is_err() && flow.done() == done {
                flow.lost.fetch_add(sent - done, Relaxed);
            }
        } else if due == 0 {
            time::sleep(TICK).await;
        } else {
            writer.write(message.encode(count, flow.clock.nanos())).await?;
            flow.published.fetch_add(count, Relaxed);
            counted += if now >= begin { count } else { 0 };
        }
    }
    answers.abort();
    Ok(counted)
}

fn ensure_ack(packet: &Packet) -> Result<()> {
    ensure!(matches!(packet, Packet::PubAck), "{packet:?} instead of an acknowledgement");
    Ok(())
}

/// Receives until the end; returns how many messages within the window, and their latencies.
async fn subscribe(flow: Arc<Flow>, client: Client, subscriber: usize) -> Result<(u64, Latencies)> {
    let (mut reader, mut writer) = client.split();
    let (mut delivered, mut seen, mut latencies) = (0, 0u64, Latencies::default());
    let mut acks = Vec::new();
    while !flow.clock.ended.load(Relaxed) {
        let begin = flow.clock.begin.load(Relaxed);
        let end = begin.saturating_add(flow.options.seconds * 1_000_000_000);
        // One look at the clock for all that one read brought.
        let mut now = 0;
        let receive = reader.receive(|packet| {
            let Packet::Publish { sent_nanos, packet_identifier } = packet else {
                bail!("{packet:?} instead of a message")
            };
            if now == 0 {
                now = flow.clock.nanos();
            }
            seen += 1;
            if (begin..end).contains(&now) {
                delivered += 1;
                if seen.is_multiple_of(SAMPLED) {
                    latencies.record(Duration::from_nanos(now.saturating_sub(sent_nanos)), 1);
                }
            }
            if let Some(identifier) = packet_identifier {
                client::puback(&mut acks, identifier);
            }
            Ok(())
        });
        let Ok(received) = time::timeout(Duration::from_millis(100), receive).await else { continue };
        let received = received?;
        if !acks.is_empty() {
            writer.write(&acks).await?;
            acks.clear();
        }
        flow.delivered[subscriber].fetch_add(received, Relaxed);
        flow.room.notify_one();
    }
    Ok((delivered, latencies))
}
