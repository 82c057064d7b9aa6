//! Whatever a peer asks for, each event fits into a record of the journal: [`World`] checks every one.

use crate::{model::spec, world::World};
use bytes::Bytes;
use posthaste_engine::{
    Command, DESTINATIONS_MAX, Effect, Event, Reply,
    command::{Append, Arrival, Consume, Destination, Enqueue, Mode, Outcome, Relay, Settle},
    effect::Refusal,
    event::{CommittedOffset, MESSAGE_HEAD_BYTES_MAX, PartitionSpec},
};
use posthaste_model::{
    ConsumerId, Envelope, Format, Name, PartitionId, Payload, QueueId, Subject, Timestamp, TopicId,
};

const QUEUE: QueueId = QueueId(1);
const PARTITION: PartitionId = PartitionId(50);
const CONSUMERS: [ConsumerId; 2] = [ConsumerId(1), ConsumerId(2)];
/// Ids and numbers that take as many bytes as they can.
const LARGE: u64 = u64::MAX - 1_000_000;

fn world() -> World {
    let mut world = World::new();
    world.step(Command::OpenQueue { queue: QUEUE, spec: spec(QUEUE.0, |_| {}) }, 0);
    let partition = PartitionSpec { topic: TopicId(1), index: 0, sync: true };
    world.step(Command::OpenPartition { partition: PARTITION, spec: partition }, 0);
    world
}

/// A message whose properties take so many bytes.
fn message(head: usize) -> (Envelope, Payload) {
    let payload =
        Payload { format: Format::MESSAGE, head: vec![7; head].into(), body: Bytes::from_static(b"b") };
    (Envelope::new(Subject::dotted("a").unwrap(), Timestamp(1)), payload)
}

fn reply(world: &mut World, command: Command) -> Reply {
    let out = world.step(command, 1);
    let replies = out.effects.into_iter().filter_map(|gated| match gated.effect {
        Effect::Reply { reply, .. } => Some(reply),
        _ => None,
    });
    replies.last().expect("an answer")
}

/// Every way in for a message, with properties at the limit and beyond.
#[test]
fn messages_with_large_properties_are_taken_or_refused() {
    for (head, fits) in
        [(MESSAGE_HEAD_BYTES_MAX - 1, true), (MESSAGE_HEAD_BYTES_MAX + 1, false), (40 << 20, false)]
    {
        let to: Vec<Destination> =
            (0..DESTINATIONS_MAX as u64).map(|n| Destination::Queue(QueueId(LARGE + n))).collect();
        let (envelope, payload) = message(head);
        let enqueue = Enqueue { queue: QUEUE, envelope: envelope.clone(), payload: payload.clone() };
        let append = Append {
            partition: PARTITION,
            span: 1,
            timestamp: Timestamp(1),
            sequence: None,
            envelope: Some(envelope.clone()),
            payload: payload.clone(),
        };
        let batch = Append { envelope: None, ..append.clone() };
        let relay = Relay { to, live: Vec::new(), envelope: envelope.clone(), payload: payload.clone() };
        let namespace = Name::constant("default");
        for command in [
            Command::Enqueue(enqueue.clone()),
            Command::Append(append.clone()),
            Command::Append(batch),
            Command::Receive { queue: QUEUE, id: 1, relay: Box::new(relay) },
            Command::Retain { namespace, envelope, payload },
        ] {
            let answer = reply(&mut world(), command);
            assert_eq!(matches!(answer, Reply::Refused(Refusal::TooLarge)), !fits, "{head} {answer:?}");
        }
        let items = vec![(1, Arrival::Enqueue(enqueue)), (2, Arrival::Append(append))];
        let Reply::Arrived(not_taken) = reply(&mut world(), Command::Arrive { source: 3, items }) else {
            panic!()
        };
        assert_eq!(
            not_taken.iter().filter(|n| n.refusal == Refusal::TooLarge).count(),
            if fits { 0 } else { 2 }
        );
    }
}

/// Every second one of many deliveries is settled, in each way that an adapter can ask for.
#[test]
fn settlements_with_many_holes_take_several_events() {
    const MESSAGES: usize = 100_000;
    for purge in [false, true] {
        let mut world = world();
        for _ in 0..MESSAGES {
            let (envelope, payload) = message(0);
            world.step(Command::Enqueue(Enqueue { queue: QUEUE, envelope, payload }), 0);
        }
        for consumer in CONSUMERS {
            let (mode, credit) = (Mode::Lease, MESSAGES as u32 / 2);
            let consume = Consume { queue: QUEUE, consumer, credit, mode, exclusive: false, priority: 0 };
            world.step(Command::Consume(consume), 0);
        }
        let out = world.deliver();
        let mut held = Vec::new();
        for gated in out.effects {
            if let Effect::Deliver { consumer, deliveries } = gated.effect
                && consumer == CONSUMERS[0]
            {
                held.extend(deliveries.iter().map(|d| (d.lane, d.position)));
            }
        }
        assert!(held.len() > 40_000, "{}", held.len());
        if purge {
            let consumer = CONSUMERS[0];
            world.step(Command::Detach { queue: QUEUE, consumer }, 0);
            let answer = reply(&mut world, Command::Purge { queue: QUEUE });
            assert!(matches!(answer, Reply::Count(count) if count > 40_000), "{answer:?}");
        } else {
            let (deliveries, outcome) = (held, Outcome::Accept);
            let settle = Settle { queue: QUEUE, consumer: CONSUMERS[0], deliveries, outcome, lasting: true };
            assert!(matches!(reply(&mut world, Command::Settle(settle)), Reply::Done));
        }
        let settled = world.journal.iter().filter(|j| matches!(j.event, Event::Settled { .. })).count();
        assert!(settled > 1, "{settled}");
        assert_eq!(world.replayed().digest(), world.shard.digest());
    }
}

#[test]
fn offsets_with_long_metadata_take_several_events_and_stay_one_commit() {
    let (namespace, group) = (Name::constant("default"), Name::constant("g"));
    let offset = |partition: u32| CommittedOffset {
        topic: TopicId(LARGE),
        partition,
        offset: LARGE,
        epoch: -1,
        metadata: "m".repeat(4_096),
        committed: Timestamp(i64::MAX),
    };
    // The same partition again and again, and many once.
    for offsets in [vec![offset(0); 1_000], (0..5_000).map(offset).collect::<Vec<_>>(), Vec::new()] {
        let mut world = world();
        let (before, count) = (world.journal.len(), offsets.len());
        let (namespace, group) = (namespace.clone(), group.clone());
        let commit = Command::CommitOffsets {
            namespace: namespace.clone(),
            group: group.clone(),
            member: None,
            offsets,
        };
        assert!(matches!(reply(&mut world, commit), Reply::Done));
        let events = &world.journal[before..];
        assert_eq!(events.len() > 1, count > 0);
        let joined = events.iter().rev().skip(1).all(|event| event.joined);
        assert!(joined, "all of it or nothing");
        let partitions = (0..200_000).map(|partition| (TopicId(LARGE), partition)).collect();
        reply(&mut world, Command::ForgetOffsets { namespace, group, partitions });
    }
}

#[test]
fn routes_of_many_dead_letters_take_several_events() {
    let mut world = world();
    let target = posthaste_engine::catalog::DeadLetter { exchange: None, subject: None };
    let change = |s: &mut posthaste_engine::event::QueueSpec| s.config.dead_letter = Some(target.clone());
    world.step(Command::OpenQueue { queue: QUEUE, spec: spec(QUEUE.0, change) }, 0);
    for _ in 0..8 {
        let (envelope, payload) = message(0);
        world.step(Command::Enqueue(Enqueue { queue: QUEUE, envelope, payload }), 0);
    }
    let consumer = CONSUMERS[0];
    let pull = Command::Pull { queue: QUEUE, consumer, count: 8, mode: Mode::Lease };
    let Reply::Deliveries { deliveries, .. } = reply(&mut world, pull) else { panic!() };
    let deliveries = deliveries.iter().map(|d| (d.lane, d.position)).collect();
    let outcome = Outcome::Reject(posthaste_model::DeathReason::Rejected);
    world.step(Command::Settle(Settle { queue: QUEUE, consumer, deliveries, outcome, lasting: true }), 0);
    let routes = (1..=8).map(|number| {
        let to = (0..DESTINATIONS_MAX as u64 / 3).map(|n| Destination::Partition(PartitionId(LARGE + n)));
        (number, to.collect())
    });
    let before = world.journal.len();
    assert!(matches!(reply(&mut world, Command::RouteOutbox { routes: routes.collect() }), Reply::Done));
    assert_eq!(world.journal.len() - before, 3);
}
