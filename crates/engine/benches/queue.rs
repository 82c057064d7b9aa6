//! What a message costs the engine: `cargo bench -p posthaste-engine`. Prints numbers, asserts nothing.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use posthaste_engine::{
    Command, Context, Effect, Output, Position, Publish, Shard, Ticket,
    catalog::QueueConfig,
    command::{Consume, Enqueue, Mode, Outcome, Settle},
    event::QueueSpec,
};
use posthaste_model::{
    ConsumerId, Envelope, Format, Limits, Name, Payload, QueueId, ShardId, Subject, Timestamp,
};
use std::time::Instant;

const QUEUE: QueueId = QueueId(1);

struct Bench {
    shard: Shard,
    limits: Limits,
    batch: u64,
    out: Output,
    envelope: Envelope,
    payload: Payload,
}

impl Bench {
    fn new(consumers: u64, credit: u32, mode: Mode, durable: bool) -> Bench {
        let mut envelope = Envelope::new(Subject::dotted("orders.created").unwrap(), Timestamp(1));
        envelope.durable = durable;
        let payload = Payload { format: Format(1), head: Bytes::new(), body: Bytes::from(vec![7; 100]) };
        let mut bench = Bench {
            shard: Shard::new(ShardId(0)),
            limits: Limits::default(),
            batch: 1,
            out: Output::default(),
            envelope,
            payload,
        };
        let spec = QueueSpec {
            namespace: Name::constant("default"),
            name: Name::constant("orders"),
            streams: vec![1],
            config: QueueConfig::default(),
            durable: true,
            auto_delete: false,
            over: None,
        };
        bench.step(Command::OpenQueue { queue: QUEUE, spec });
        for consumer in 1..=consumers {
            let consumer = ConsumerId(consumer);
            let (exclusive, priority) = (false, 0);
            bench.step(Command::Consume(Consume {
                queue: QUEUE,
                consumer,
                credit,
                mode,
                exclusive,
                priority,
            }));
        }
        bench
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut Shard, &Context, &mut Output) -> R) -> R {
        let limits = &self.limits;
        let ctx = Context {
            now: Timestamp(1_000),
            batch: self.batch,
            durable: self.batch.saturating_sub(4),
            no_space: false,
            no_memory: false,
            limits,
        };
        act(&mut self.shard, &ctx, &mut self.out)
    }

    fn step(&mut self, command: Command) {
        self.with(|shard, ctx, out| shard.step(ctx, command, Ticket::NONE, out));
    }

    fn enqueue(&mut self) {
        let enqueue =
            Enqueue { queue: QUEUE, envelope: self.envelope.clone(), payload: self.payload.clone() };
        self.with(|shard, ctx, out| shard.publish(ctx, Publish::Enqueue(enqueue), out)).unwrap();
    }

    /// Hands out what is ready and accepts it all.
    fn round(&mut self) {
        self.with(|shard, ctx, out| shard.deliver(ctx, out));
        self.batch += 1;
        self.out.events.clear();
        let effects = std::mem::take(&mut self.out.effects);
        for gated in &effects {
            let Effect::Deliver { consumer, deliveries } = &gated.effect else { continue };
            let deliveries: Vec<(u8, Position)> =
                deliveries.iter().filter(|d| !d.settled).map(|d| (d.lane, d.position)).collect();
            if !deliveries.is_empty() {
                let outcome = Outcome::Accept;
                self.step(Command::Settle(Settle {
                    queue: QUEUE,
                    consumer: *consumer,
                    deliveries,
                    outcome,
                    lasting: false,
                }));
            }
        }
    }
}

/// Enqueues, hands out and accepts `messages`, `at_once` in each round.
fn flow(name: &str, mut bench: Bench, messages: u64, at_once: u64) {
    let start = Instant::now();
    for _ in 0..messages / at_once {
        (0..at_once).for_each(|_| bench.enqueue());
        bench.round();
    }
    let ns = start.elapsed().as_nanos() as f64 / messages as f64;
    println!("{name:60} {ns:8.0} ns per message");
}

fn backlog(messages: u64) {
    let mut bench = Bench::new(0, 0, Mode::Lease, true);
    let before = resident_kib();
    let start = Instant::now();
    for number in 0..messages {
        bench.enqueue();
        if number % 1_000 == 0 {
            bench.round();
        }
    }
    let ns = start.elapsed().as_nanos() as f64 / messages as f64;
    let grown = resident_kib().saturating_sub(before);
    println!("{:60} {ns:8.0} ns per message, {grown} KiB", format!("a backlog of {messages}"));
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn main() {
    let lease = Mode::Lease;
    flow("durable, one consumer, rounds of 100", Bench::new(1, 1_000, lease, true), 1_000_000, 100);
    flow("durable, one consumer, rounds of 1", Bench::new(1, 1_000, lease, true), 1_000_000, 1);
    flow("durable, settled when handed out", Bench::new(1, u32::MAX, Mode::Settled, true), 1_000_000, 100);
    flow("durable, 1,000 consumers of 1 credit each", Bench::new(1_000, 1, lease, true), 1_000_000, 100);
    flow("transient, one consumer", Bench::new(1, 1_000, lease, false), 1_000_000, 100);
    backlog(10_000_000);
}
