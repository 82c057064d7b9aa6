//! A shard: commands in, events and effects out.

use crate::{
    command::{Arrival, Command, Destination, Ticket},
    durable::Durable,
    effect::{Effect, Gate, Gated, Journaled, NotTaken, Output, Refusal, Reply},
    event::Event,
    group::Replies,
    held::Held,
    partition,
    planted::{self, Bug},
    queue, retained, transfer,
    volatile::{Timer, Volatile},
};
use posthaste_model::{DeathReason, Limits, QueueId, ShardId, Timestamp};
use std::collections::BTreeMap;

/// What a step may know of the world.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub now: Timestamp,
    /// The number of the journal batch that the step's events will be in.
    pub batch: u64,
    /// The last batch whose events survive a power cut, and with it all before.
    pub durable: u64,
    /// The disk is nearly full: only what frees space is taken.
    pub no_space: bool,
    /// Memory for messages without durability is used up.
    pub no_memory: bool,
    pub limits: &'a Limits,
}

/// A single-threaded state machine that holds a share of all partitions, queues and groups.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    durable: Durable,
    volatile: Volatile,
    /// Buffers that a step fills and the next one reuses.
    step: Step,
}

/// What a decision wants.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub events: Vec<Journaled>,
    pub effects: Vec<Gated>,
}

impl Step {
    pub fn event(&mut self, event: Event, sync: bool) {
        self.events.push(Journaled { event, sync, joined: false });
    }

    /// An event that a crash may lose: it only makes redeliveries more likely.
    pub fn lazy(&mut self, event: Event) {
        self.event(event, false);
    }

    /// The last event stands or falls with the one that comes next.
    pub fn join_last(&mut self) {
        if let Some(last) = self.events.last_mut() {
            last.joined = true;
        }
    }

    pub fn effect(&mut self, gate: Gate, effect: Effect) {
        let gate = if planted::strikes(Bug::BeforeDurable) { Gate::Open } else { gate };
        self.effects.push(Gated { gate, effect });
    }

    pub fn reply(&mut self, gate: Gate, ticket: Ticket, reply: Reply) {
        if ticket != Ticket::NONE {
            self.effect(gate, Effect::Reply { ticket, reply });
        }
    }
}

/// Timers fired in one step; the rest waits for the next, so that other work goes on.
const TIMERS_PER_STEP_MAX: usize = 4_096;

impl Shard {
    /// An empty shard.
    pub fn new(id: ShardId) -> Shard {
        Shard { id, durable: Durable::default(), volatile: Volatile::default(), step: Step::default() }
    }

    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Takes one entity of a checkpoint. Before [`Shard::replay`].
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), postcard::Error> {
        self.durable.load(key, value)
    }

    /// Takes one event of the journal. Before [`Shard::recovered`].
    pub fn replay(&mut self, event: &Event) {
        self.durable.apply(event);
    }

    /// Ends recovery. `clean` is whether the last stop was orderly, so that lazy events were not lost.
    /// What was on its way elsewhere is sent again. `epoch` is higher with each start, whatever was lost.
    pub fn recovered(&mut self, clean: bool, epoch: u32, out: &mut Output) {
        self.volatile = Volatile::recovered(&self.durable, clean, epoch);
        if !clean {
            self.suspect_deliveries();
            self.commit(out);
        }
        self.volatile.common.relayed_bytes = self.durable.outbox.relayed_bytes;
        for entry in transfer::unfinished(&self.durable) {
            if planted::strikes(Bug::ForgetOutbox) {
                continue;
            }
            out.effects.push(Gated { gate: Gate::Open, effect: Effect::Outbox(Box::new(entry)) });
        }
    }

    /// Events that were lost may have told of deliveries: what is there counts as delivered from now on, also
    /// after the next start.
    fn suspect_deliveries(&mut self) {
        let mut suspects: Vec<Event> = Vec::new();
        for (queue, known) in &self.durable.queues {
            for (lane, durable) in (0..=u8::MAX).zip(&known.lanes) {
                if durable.live() > 0 && durable.delivered_to < durable.next {
                    suspects.push(Event::DeliveredTo { queue: *queue, lane, to: durable.next });
                }
            }
        }
        suspects.into_iter().for_each(|event| self.step.lazy(event));
    }

    /// What changed since the last call, for a checkpoint.
    pub fn take_dirty(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.durable.take_dirty()
    }

    /// A checksum of the durable state; equal after replay.
    pub fn digest(&self) -> u32 {
        self.durable.digest()
    }

    /// Everything below is settled in this lane of a queue.
    pub fn floor(&self, queue: QueueId, lane: u8) -> Option<u64> {
        self.durable.queues.get(&queue)?.lanes.get(usize::from(lane)).map(|lane| lane.floor)
    }

    /// Where a partition begins and ends.
    pub fn bounds(&self, partition: posthaste_model::PartitionId) -> Option<(u64, u64)> {
        self.durable.partitions.get(&partition).map(|p| (p.start, p.next))
    }

    /// Every stream with its live range and the settled ranges in it.
    pub fn streams(&self) -> Vec<Stream> {
        let mut streams: Vec<Stream> = self
            .durable
            .partitions
            .iter()
            .map(|(id, p)| Stream { id: id.0, start: p.start, next: p.next, settled: Vec::new(), log: true })
            .collect();
        for queue in self.durable.queues.values().filter(|q| q.spec.over.is_none()) {
            streams.extend(queue.spec.streams.iter().zip(&queue.lanes).map(|(id, lane)| Stream {
                id: *id,
                start: lane.floor,
                next: lane.next,
                settled: lane.settled.iter().collect(),
                log: false,
            }));
        }
        streams.sort_by_key(|s| s.id);
        streams
    }

    /// The durable objects it holds, to be compared with the catalog after a start.
    pub fn objects(&self) -> (Vec<posthaste_model::PartitionId>, Vec<QueueId>) {
        let mut partitions: Vec<_> = self.durable.partitions.keys().copied().collect();
        let mut queues: Vec<_> = self.queue_specs().into_iter().map(|(id, _)| id).collect();
        partitions.sort();
        queues.sort();
        (partitions, queues)
    }

    /// What its partitions know of their topics.
    pub fn partition_specs(&self) -> Vec<(posthaste_model::PartitionId, crate::event::PartitionSpec)> {
        self.durable.partitions.iter().map(|(id, p)| (*id, p.spec.clone())).collect()
    }

    /// What its durable queues know of their names; subscriptions and deleted ones left out.
    pub fn queue_specs(&self) -> Vec<(QueueId, crate::event::QueueSpec)> {
        let own = self.durable.queues.iter().filter(|(_, q)| q.spec.over.is_none() && !q.draining);
        own.map(|(id, q)| (*id, q.spec.clone())).collect()
    }

    /// What has arrived in its queues and partitions, by source: the highest numbers.
    pub fn arrivals(&self) -> impl Iterator<Item = (u64, u64)> {
        let in_queues = self.durable.queues.values().map(|queue| &queue.arrived);
        let in_partitions = self.durable.partitions.values().map(|partition| &partition.arrived);
        in_queues.chain(in_partitions).flatten().map(|(source, number)| (*source, *number))
    }

    /// Outbox entries that have not arrived yet.
    pub fn outbox_len(&self) -> usize {
        self.durable.outbox.entries.len()
    }

    /// Makes what is left of a damaged state fit together. Before [`Shard::replay`].
    pub fn mend(&mut self) {
        self.durable.mend();
    }

    /// How many messages only its state holds.
    pub fn held(&self) -> Held {
        Held::of(&self.durable)
    }

    /// How many messages of the outbox are not here, at most.
    pub fn lacks(&self, held: &Held) -> u64 {
        held.lacking_in(&self.durable)
    }

    /// The last message on each subject, to build the view that readers search.
    pub fn retained(
        &self,
    ) -> impl Iterator<Item = (&posthaste_model::Name, &posthaste_model::Envelope, &posthaste_model::Payload)>
    {
        self.durable.retained.iter().map(|((namespace, _), r)| (namespace, &r.envelope, &r.payload))
    }

    /// Where the tap of a partition stands.
    pub fn tap(&self, partition: posthaste_model::PartitionId) -> u64 {
        self.durable.partitions.get(&partition).map_or(0, |p| p.tap)
    }

    /// Memory taken by messages without durability, in bytes.
    pub fn transient_bytes(&self) -> u64 {
        self.volatile.common.transient_bytes
    }

    /// When it next has to be given a [`Command::Tick`].
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.volatile.common.timers.first().map(|(at, _)| *at)
    }

    /// Whether, since this was last asked, a message without durability was published to a queue whose memory
    /// is half taken and whose consumers do not keep up: its publishers should slow down.
    pub fn take_crowded(&mut self) -> bool {
        std::mem::take(&mut self.volatile.common.crowded)
    }

    /// Adds messages to a queue or partition, as [`Command::Enqueue`] and [`Command::Append`] do, but says at
    /// once what came of it. The message counts as published once the returned gate is open.
    pub fn publish(
        &mut self,
        ctx: &Context,
        publish: Publish,
        out: &mut Output,
    ) -> Result<Published, Refusal> {
        let result = match publish {
            Publish::Append(append) => {
                partition::append(&self.durable, &mut self.volatile, ctx, append, &mut self.step)
            }
            Publish::Enqueue(enqueue) => {
                queue::enqueue(&self.durable, &mut self.volatile, ctx, enqueue, &mut self.step)
            }
            Publish::Retain { namespace, envelope, payload } => retained::retain(
                &self.durable,
                &mut self.volatile,
                ctx,
                namespace,
                envelope,
                payload,
                &mut self.step,
            ),
        };
        self.commit(out);
        result
    }

    /// Does what `command` asks. Deliveries that follow from it come with the next [`Shard::deliver`].
    pub fn step(&mut self, ctx: &Context, command: Command, ticket: Ticket, out: &mut Output) {
        match command {
            Command::Append(append) => {
                let result = self.publish(ctx, Publish::Append(append), out);
                self.reply_published(result, ticket);
            }
            Command::Enqueue(enqueue) => {
                let result = self.publish(ctx, Publish::Enqueue(enqueue), out);
                self.reply_published(result, ticket);
            }
            Command::Retain { namespace, envelope, payload } => {
                let result = self.publish(ctx, Publish::Retain { namespace, envelope, payload }, out);
                self.reply_published(result, ticket);
            }
            Command::Arrive { source, items } => self.arrive(ctx, source, items, ticket, out),
            Command::OpenPartition { .. }
            | Command::ClosePartition { .. }
            | Command::Trim { .. }
            | Command::MoveTap { .. }
            | Command::ReserveProducerIds { .. } => {
                partition::decide(&self.durable, &mut self.volatile, ctx, command, ticket, &mut self.step);
            }
            Command::Join(_)
            | Command::Sync { .. }
            | Command::Heartbeat { .. }
            | Command::Leave { .. }
            | Command::CommitOffsets { .. }
            | Command::FetchOffsets { .. }
            | Command::DescribeGroup { .. }
            | Command::ListGroups { .. }
            | Command::DeleteGroup { .. }
            | Command::ForgetOffsets { .. } => {
                crate::group_commands::decide(
                    &self.durable,
                    &mut self.volatile,
                    ctx,
                    command,
                    ticket,
                    &mut self.step,
                );
            }
            Command::Receive { .. }
            | Command::Forget { .. }
            | Command::AssignHandles { .. }
            | Command::SettleHandle { .. }
            | Command::FreeHandle { .. }
            | Command::SessionState { .. }
            | Command::RouteOutbox { .. }
            | Command::OutboxDone { .. } => {
                transfer::decide(&self.durable, &mut self.volatile, ctx, command, ticket, &mut self.step);
            }
            Command::Tick => self.tick(ctx, out),
            queue_command => {
                queue::decide(&self.durable, &mut self.volatile, ctx, queue_command, ticket, &mut self.step);
            }
        }
        self.commit(out);
    }

    /// Hands out what is ready to whom has credit, in all queues that were touched.
    pub fn deliver(&mut self, ctx: &Context, out: &mut Output) {
        while let Some(id) = self.volatile.common.touched.pop_first() {
            queue::deliver(&self.durable, &mut self.volatile, ctx, id, &mut self.step);
            self.commit(out);
            queue::drop_overflow(&self.durable, &mut self.volatile, ctx, id, &mut self.step);
            self.commit(out);
        }
    }

    /// Applies what was decided and passes it on.
    fn commit(&mut self, out: &mut Output) {
        for Journaled { event, .. } in &self.step.events {
            queue::before_event(&self.durable, &mut self.volatile, event);
            self.durable.apply(event);
            queue::after_event(&self.durable, &mut self.volatile, event);
        }
        self.volatile.common.relayed_bytes = self.durable.outbox.relayed_bytes;
        pass_on(&mut self.step.events, &mut out.events);
        pass_on(&mut self.step.effects, &mut out.effects);
    }

    fn reply_published(&mut self, result: Result<Published, Refusal>, ticket: Ticket) {
        let (gate, reply) = match result {
            Ok(Published { gate, offset, duplicate: true }) => (gate, Reply::Duplicate { offset }),
            Ok(Published { gate, offset, .. }) => (gate, Reply::Appended { offset }),
            Err(refusal) => (Gate::Open, Reply::Refused(refusal)),
        };
        self.step.reply(gate, ticket, reply);
    }

    /// What another shard sends is taken once: its number is journaled in one piece with what came under it.
    fn arrive(
        &mut self,
        ctx: &Context,
        source: u64,
        items: Vec<(u64, Arrival)>,
        ticket: Ticket,
        out: &mut Output,
    ) {
        let first = out.events.len();
        let mut taken: BTreeMap<Destination, u64> = BTreeMap::new();
        let mut not_taken: Vec<NotTaken> = Vec::new();
        for (number, item) in items {
            let at = item.destination();
            let last = taken.get(&at).copied().or_else(|| self.last_arrived(at, source)).unwrap_or_default();
            if number <= last || not_taken.iter().any(|refused| refused.at == at) {
                continue;
            }
            let publish = match item {
                Arrival::Append(append) => Publish::Append(append),
                Arrival::Enqueue(enqueue) => Publish::Enqueue(enqueue),
            };
            match self.publish(ctx, publish, out) {
                Ok(_) => {
                    taken.insert(at, number);
                }
                // It asks for no durability, and there is no publisher to hold back.
                Err(Refusal::OutOfMemory) => {
                    if let Destination::Queue(queue) = at {
                        let dropped = Effect::Dropped { queue, reason: DeathReason::LengthLimit, count: 1 };
                        self.step.effect(Gate::Open, dropped);
                    }
                    taken.insert(at, number);
                }
                Err(_) if planted::strikes(Bug::LoseRefusedArrival) => {
                    taken.insert(at, number);
                }
                Err(refusal) => not_taken.push(NotTaken { at, number, refusal }),
            }
        }
        // What does not survive a restart remembers nothing over one.
        taken.retain(|at, _| self.is_durable(*at));
        for journaled in out.events.get_mut(first..).unwrap_or_default() {
            journaled.joined = !taken.is_empty();
        }
        if !taken.is_empty() {
            self.volatile.common.outbox_changed = ctx.batch;
        }
        for (at, number) in taken {
            self.step.join_last();
            self.step.event(Event::Arrived { source, at, number }, true);
        }
        // Also what had arrived before may not be safe yet.
        self.step.reply(self.volatile.common.outbox_gate(), ticket, Reply::Arrived(not_taken));
    }

    fn last_arrived(&self, at: Destination, source: u64) -> Option<u64> {
        if planted::strikes(Bug::RepeatArrivals) {
            return None;
        }
        let arrived = match at {
            Destination::Queue(id) => &self.durable.queues.get(&id)?.arrived,
            Destination::Partition(id) => &self.durable.partitions.get(&id)?.arrived,
        };
        arrived.get(&source).copied()
    }

    fn is_durable(&self, at: Destination) -> bool {
        match at {
            Destination::Queue(id) => self.durable.queues.contains_key(&id),
            Destination::Partition(id) => self.durable.partitions.contains_key(&id),
        }
    }

    fn tick(&mut self, ctx: &Context, out: &mut Output) {
        for _ in 0..TIMERS_PER_STEP_MAX {
            let Some((at, timer)) = self.volatile.common.timers.pop_first() else { break };
            if at > ctx.now {
                self.volatile.common.timers.insert((at, timer));
                break;
            }
            match timer {
                Timer::Group(namespace, group) => {
                    let mut replies = Replies::new();
                    let key = (namespace, group);
                    if let Some(live) = self.volatile.groups.get_mut(&key) {
                        live.tick(ctx.now, &mut replies);
                    }
                    crate::group_commands::finish(&mut self.volatile, &key, replies, &mut self.step);
                }
                queue_timer => {
                    queue::fire(&self.durable, &mut self.volatile, ctx, queue_timer, &mut self.step)
                }
            }
            self.commit(out);
        }
    }
}

/// Moves everything, most often without touching it.
fn pass_on<T>(from: &mut Vec<T>, to: &mut Vec<T>) {
    if to.is_empty() {
        std::mem::swap(from, to);
    } else {
        to.append(from);
    }
}

/// Something to be stored in a queue, a partition or as the last message on its subject.
#[derive(Clone, Debug)]
pub enum Publish {
    Append(crate::command::Append),
    Enqueue(crate::command::Enqueue),
    Retain {
        namespace: posthaste_model::Name,
        envelope: posthaste_model::Envelope,
        payload: posthaste_model::Payload,
    },
}

/// What came of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    pub gate: Gate,
    pub offset: u64,
    /// The same batch had been published before; nothing was added.
    pub duplicate: bool,
}

/// A stored log and what of it is still wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub id: u64,
    pub start: u64,
    pub next: u64,
    pub settled: Vec<(u64, u64)>,
    /// A partition's, kept by retention.
    pub log: bool,
}
