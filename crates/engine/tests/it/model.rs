//! Random commands against a model that knows every message by name. Seeds are fixed, so a failure comes
//! again.

use crate::world::World;
use bytes::Bytes;
use posthaste_engine::{
    Command, Content, Delivery, Effect, Event, Gate, Output, Position, Publish, Reply, Shard,
    catalog::{DeadLetter, Overflow, QueueConfig},
    command::{Append, Arrival, Consume, Enqueue, Mode, Outcome, Settle},
    effect::{OutboxItem, QueueState, Refusal},
    event::{PartitionSpec, QueueSpec},
};
use posthaste_model::{
    ConsumerId, DeathReason, Envelope, Format, Name, PartitionId, Payload, QueueId, ShardId, Subject,
    Timestamp, TopicId,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Delayed(i64),
    Leased(ConsumerId),
    Moving(u64),
    Gone,
}

#[derive(Clone, Debug)]
struct Message {
    lane: u8,
    durable: bool,
    /// Where it stands, once that is known.
    position: Option<Position>,
    state: State,
    expires: Option<i64>,
    batch: u64,
    attempts: u32,
    delivered: bool,
    /// It may be marked as delivered before, and its attempts may be forgotten.
    suspect: bool,
}

#[derive(Debug, Default)]
struct Queue {
    spec: Option<QueueSpec>,
    /// By number, in the order in which they came.
    messages: BTreeMap<u64, Message>,
    by_offset: HashMap<(u8, u64), u64>,
    consumers: BTreeMap<ConsumerId, (Mode, u64)>,
}

impl Queue {
    /// Numbers of ready messages in the order in which they are handed out.
    fn ready(&self) -> Vec<u64> {
        let mut ready: Vec<(u8, u64)> = Vec::new();
        ready.extend(
            self.messages
                .iter()
                .filter(|(_, m)| m.state == State::Ready)
                .map(|(n, m)| (u8::MAX - m.lane, *n)),
        );
        ready.sort_unstable();
        ready.into_iter().map(|(_, number)| number).collect()
    }

    fn at(&mut self, lane: u8, offset: u64) -> &mut Message {
        let number = self.by_offset[&(lane, offset)];
        self.messages.get_mut(&number).unwrap()
    }

    fn end_lease(&mut self, consumer: ConsumerId) {
        if let Some((Mode::Lease, credit)) = self.consumers.get_mut(&consumer) {
            *credit += 1;
        }
    }
}

struct Model {
    world: World,
    random: Random,
    queues: BTreeMap<u64, Queue>,
    next: u64,
    /// A checkpoint, and how much of the journal is in it.
    checkpoint: (BTreeMap<Vec<u8>, Vec<u8>>, usize),
}

const CONSUMERS: u64 = 4;
const PARTITION: u64 = 50;
const SUBSCRIPTION: u64 = 5;

pub fn spec(queue: u64, change: impl FnOnce(&mut QueueSpec)) -> QueueSpec {
    let mut spec = QueueSpec {
        namespace: Name::constant("default"),
        name: Name::constant("q"),
        streams: vec![queue * 10],
        config: QueueConfig::default(),
        durable: true,
        auto_delete: false,
        over: None,
    };
    change(&mut spec);
    spec
}

fn message(number: u64, now: i64) -> (Envelope, Payload) {
    let body = Bytes::from(number.to_string());
    let payload = Payload { format: Format::MESSAGE, head: Bytes::new(), body };
    (Envelope::new(Subject::dotted("a").unwrap(), Timestamp(now)), payload)
}

fn number_of(payload: &Payload) -> u64 {
    std::str::from_utf8(&payload.body).unwrap().parse().unwrap()
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut world = World::new();
        world.lag = 3;
        let mut model = Model {
            world,
            random: Random(seed),
            queues: BTreeMap::new(),
            next: 1,
            checkpoint: (BTreeMap::new(), 0),
        };
        let partition = PartitionSpec { topic: TopicId(1), index: 0, sync: true };
        let open = Command::OpenPartition { partition: PartitionId(PARTITION), spec: partition };
        model.world.step(open, 0);
        let target = Some(DeadLetter { exchange: None, subject: None });
        model.open(1, spec(1, |_| {}));
        model.open(2, spec(2, |s| s.durable = false));
        model.open(
            3,
            spec(3, |s| {
                s.streams = vec![30, 31, 32];
                s.config.dead_letter = target;
                s.config.delivery_limit = Some(2);
            }),
        );
        model.open(
            4,
            spec(4, |s| {
                s.config.ttl_ms = Some(50);
                s.config.length_max = Some(12);
            }),
        );
        model.open(
            SUBSCRIPTION,
            spec(SUBSCRIPTION, |s| {
                s.streams = vec![PARTITION];
                s.over = Some(PartitionId(PARTITION));
            }),
        );
        model.end_round();
        model
    }

    fn open(&mut self, id: u64, spec: QueueSpec) {
        let open = Command::OpenQueue { queue: QueueId(id), spec: spec.clone() };
        let out = self.world.step(open, 1);
        self.follow(&out);
        self.queues.entry(id).or_default().spec = Some(spec);
    }

    fn act(&mut self) {
        let id = 1 + self.random.below(5);
        let consumer = ConsumerId(id * 100 + self.random.below(CONSUMERS));
        let queue = QueueId(id);
        match self.random.below(30) {
            0..=10 if id == SUBSCRIPTION => self.append(),
            0..=10 => self.enqueue(id),
            11..=13 => self.consume(id, consumer),
            14 => {
                let release = self.random.one_in(2);
                let command = match release {
                    true => Command::Detach { queue, consumer },
                    false => Command::Cancel { queue, consumer },
                };
                self.command(command);
                let known = self.queues.get_mut(&id).unwrap();
                known.consumers.remove(&consumer);
            }
            15 => {
                self.command(Command::Recover { queue, consumer });
            }
            16 | 17 => {
                let add = self.random.below(4) as u32;
                self.command(Command::Credit { queue, consumer, add });
                if let Some((_, credit)) = self.queues.get_mut(&id).unwrap().consumers.get_mut(&consumer) {
                    *credit += u64::from(add);
                }
            }
            18 => self.pull(id, consumer),
            19..=25 => self.settle(id),
            26 if self.random.one_in(4) => {
                self.command(Command::Purge { queue });
                for message in self.queues.get_mut(&id).unwrap().messages.values_mut() {
                    if matches!(message.state, State::Ready | State::Delayed(_)) {
                        message.state = State::Gone;
                    }
                }
            }
            27 if id == SUBSCRIPTION => {
                let (start, next) = self.world.shard.bounds(PartitionId(PARTITION)).unwrap();
                let before = start + self.random.below(4).min(next - start);
                self.command(Command::Trim { partition: PartitionId(PARTITION), before });
            }
            28 => self.outbox_done(),
            _ => {
                self.world.now += self.random.below(30) as i64;
                let now = self.world.now;
                for queue in self.queues.values_mut() {
                    for message in queue.messages.values_mut() {
                        if matches!(message.state, State::Delayed(due) if due <= now) {
                            message.state = State::Ready;
                        }
                    }
                }
                self.command(Command::Tick);
            }
        }
    }

    fn command(&mut self, command: Command) -> Output {
        let recovered = match &command {
            Command::Detach { queue, consumer } | Command::Recover { queue, consumer } => {
                Some((*queue, *consumer))
            }
            _ => None,
        };
        let out = self.world.step(command, 9);
        if let Some((queue, consumer)) = recovered {
            let queue = self.queues.get_mut(&queue.0).unwrap();
            let limit = queue.spec.as_ref().unwrap().config.delivery_limit;
            let held: Vec<u64> = queue
                .messages
                .iter()
                .filter(|(_, m)| m.state == State::Leased(consumer))
                .map(|(n, _)| *n)
                .collect();
            for number in held {
                release(queue, number, true, limit, self.world.now);
                queue.end_lease(consumer);
            }
        }
        self.follow(&out);
        out
    }

    fn enqueue(&mut self, id: u64) {
        let (number, now) = (self.next, self.world.now);
        self.next += 1;
        let (mut envelope, payload) = message(number, now);
        let known = self.queues.get_mut(&id).unwrap();
        let spec = known.spec.clone().unwrap();
        envelope.durable = id == 4 || !self.random.one_in(3);
        envelope.priority = self.random.below(4) as u8;
        if id != 4 && self.random.one_in(6) {
            envelope.due = Some(Timestamp(now + self.random.below(60) as i64));
        }
        let durable = spec.durable && envelope.durable;
        let delayed = envelope.due.filter(|due| due.0 > now);
        let lane = usize::from(envelope.priority).min(spec.streams.len() - 1) as u8;
        let publish = Publish::Enqueue(Enqueue { queue: QueueId(id), envelope, payload });
        let (result, out) = self.world.act(|shard, ctx, out| shard.publish(ctx, publish, out));
        let published = result.unwrap();
        assert_eq!(published.gate == Gate::Synced(self.world.batch), durable);
        let message = Message {
            lane,
            durable,
            position: durable.then(|| Position::durable(published.offset)),
            state: delayed.map_or(State::Ready, |due| State::Delayed(due.0)),
            expires: spec.config.ttl_ms.map(|ms| now + ms as i64),
            batch: self.world.batch,
            attempts: 0,
            delivered: false,
            suspect: false,
        };
        if durable {
            let known = known.by_offset.insert((lane, published.offset), number);
            assert_eq!(known, None, "an offset is used once");
        }
        known.messages.insert(number, message);
        self.follow(&out);
    }

    fn append(&mut self) {
        let number = self.next;
        self.next += 1;
        let (_, payload) = message(number, self.world.now);
        let timestamp = Timestamp(self.world.now);
        let partition = PartitionId(PARTITION);
        let append = Append { partition, span: 1, timestamp, sequence: None, envelope: None, payload };
        let (result, _) = self.world.act(|shard, ctx, out| shard.publish(ctx, Publish::Append(append), out));
        let offset = result.unwrap().offset;
        let message = Message {
            lane: 0,
            durable: true,
            position: Some(Position::durable(offset)),
            state: State::Ready,
            expires: None,
            batch: 0,
            attempts: 0,
            delivered: false,
            suspect: false,
        };
        let known = self.queues.get_mut(&SUBSCRIPTION).unwrap();
        known.messages.insert(number, message);
        known.by_offset.insert((0, offset), number);
    }

    fn consume(&mut self, id: u64, consumer: ConsumerId) {
        if self.queues[&id].consumers.contains_key(&consumer) {
            return;
        }
        let mode = if self.random.one_in(3) { Mode::Settled } else { Mode::Lease };
        let credit = self.random.below(5) as u32;
        let (exclusive, priority) = (false, self.random.below(2) as i32);
        let consume = Consume { queue: QueueId(id), consumer, credit, mode, exclusive, priority };
        self.command(Command::Consume(consume));
        self.queues.get_mut(&id).unwrap().consumers.insert(consumer, (mode, u64::from(credit)));
    }

    fn settle(&mut self, id: u64) {
        let known = self.queues.get_mut(&id).unwrap();
        let held: Vec<(u64, ConsumerId)> = known
            .messages
            .iter()
            .filter_map(|(n, m)| if let State::Leased(c) = m.state { Some((*n, c)) } else { None })
            .collect();
        let Some((_, consumer)) = held.get(self.random.below(held.len().max(1) as u64) as usize).copied()
        else {
            return;
        };
        let mut mine: Vec<u64> = held.iter().filter(|(_, c)| *c == consumer).map(|(n, _)| *n).collect();
        mine.retain(|_| self.random.one_in(2));
        let spec = known.spec.clone().unwrap();
        let outcome = match self.random.below(6) {
            0..=2 => Outcome::Accept,
            3 => Outcome::Release { attempted: false },
            4 => Outcome::Release { attempted: true },
            _ => Outcome::Reject(DeathReason::Rejected),
        };
        let mut deliveries: Vec<(u8, Position)> =
            mine.iter().map(|n| (known.messages[n].lane, known.messages[n].position.unwrap())).collect();
        for number in &mine {
            match outcome {
                Outcome::Accept => known.messages.get_mut(number).unwrap().state = State::Gone,
                Outcome::Release { attempted } => {
                    release(known, *number, attempted, spec.config.delivery_limit, self.world.now);
                }
                // What becomes of a durable one is seen by its event.
                Outcome::Reject(_) => known.messages.get_mut(number).unwrap().state = State::Gone,
            }
            known.end_lease(consumer);
        }
        // Whoever says it twice, or of others' deliveries, says nothing.
        deliveries.extend(deliveries.clone());
        deliveries.extend(held.iter().filter(|(_, c)| *c != consumer).map(|(n, _)| {
            let message = &known.messages[n];
            (message.lane, message.position.unwrap())
        }));
        let settle =
            Settle { queue: QueueId(id), consumer, deliveries, outcome, lasting: self.random.one_in(2) };
        self.command(Command::Settle(settle));
    }

    fn pull(&mut self, id: u64, consumer: ConsumerId) {
        let count = self.random.below(4) as u32;
        let mode = if self.random.one_in(3) { Mode::Settled } else { Mode::Lease };
        let pull = Command::Pull { queue: QueueId(id), consumer, count, mode };
        let out = self.world.step(pull, 9);
        // A message that expired leaves before the others are handed out.
        self.follow_events(&out.events.iter().map(|j| &j.event).collect::<Vec<_>>(), true);
        let gated = out.effects.iter().find(|e| matches!(e.effect, Effect::Reply { .. })).unwrap();
        let Effect::Reply { reply: Reply::Deliveries { deliveries, ready }, .. } = &gated.effect else {
            panic!("{gated:?}")
        };
        let expect: Vec<u64> = self.queues[&id].ready().into_iter().take(count as usize).collect();
        let got: Vec<u64> = deliveries.iter().map(|d| self.delivered(d, gated.gate)).collect();
        assert_eq!(got, expect);
        assert_eq!(*ready, self.queues[&id].ready().len() as u64);
        self.follow(&out);
    }

    fn outbox_done(&mut self) {
        let moving = |m: &Message| if let State::Moving(n) = m.state { Some(n) } else { None };
        let numbers: Vec<u64> =
            self.queues.values().flat_map(|q| q.messages.values().filter_map(moving)).collect();
        // Any of them: a destination that is full holds up its own only.
        let mut done: Vec<u64> = numbers.into_iter().filter(|_| self.random.one_in(3)).collect();
        done.sort_unstable();
        for message in self.queues.values_mut().flat_map(|q| q.messages.values_mut()) {
            if matches!(message.state, State::Moving(n) if done.contains(&n)) {
                message.state = State::Gone;
            }
        }
        self.command(Command::OutboxDone { numbers: done });
    }

    /// Checks one delivery against the model, and follows it.
    fn delivered(&mut self, d: &Delivery, gate: Gate) -> u64 {
        let queue = self.queues.get_mut(&d.queue.0).unwrap();
        let number = match &d.content {
            Content::Inline(_, payload) => number_of(payload),
            Content::Stored { stream, offset } => {
                assert_eq!(*stream, queue.spec.as_ref().unwrap().streams[usize::from(d.lane)]);
                queue.by_offset[&(d.lane, *offset)]
            }
        };
        let message = queue.messages.get_mut(&number).expect("it was never published");
        assert_eq!(message.state, State::Ready, "message {number}: {d:?}");
        assert_eq!(message.lane, d.lane);
        assert!(message.position.is_none_or(|p| p == d.position));
        message.position = Some(d.position);
        if message.durable && message.batch > self.world.durable() {
            assert!(
                matches!(gate, Gate::Synced(batch) if batch >= message.batch),
                "{gate:?} for {message:?}"
            );
        }
        if message.suspect {
            assert!(!message.delivered || d.redelivered, "{d:?}");
        } else {
            assert_eq!(d.redelivered, message.delivered, "message {number}: {d:?}");
        }
        assert_eq!(d.attempt, message.attempts + 1, "message {number}");
        message.delivered = true;
        message.state = if d.settled { State::Gone } else { State::Leased(d.consumer) };
        number
    }

    fn follow(&mut self, out: &Output) {
        self.follow_events(&out.events.iter().map(|j| &j.event).collect::<Vec<_>>(), false);
    }

    /// Takes over what only events tell: what expired, was dropped, or moves on.
    fn follow_events(&mut self, events: &[&Event], before_delivery: bool) {
        for event in events {
            match event {
                Event::Settled { queue, lane, ranges } => {
                    let now = self.world.now;
                    let queue = self.queues.get_mut(&queue.0).unwrap();
                    for offset in ranges.iter().flat_map(|(s, e)| *s..*e) {
                        let Some(number) = queue.by_offset.get(&(*lane, offset)) else { continue };
                        let message = queue.messages.get_mut(number).unwrap();
                        match message.state {
                            State::Ready if before_delivery && message.expires.is_none_or(|at| at > now) => {}
                            State::Ready | State::Delayed(_) => message.state = State::Gone,
                            State::Leased(_) => panic!("leased, but settled: {message:?}"),
                            State::Moving(_) | State::Gone => {}
                        }
                    }
                }
                Event::DeadLettered { number, queue, lane, offset, .. } => {
                    self.queues.get_mut(&queue.0).unwrap().at(*lane, *offset).state = State::Moving(*number);
                }
                Event::Trimmed { start, .. } => {
                    let queue = self.queues.get_mut(&SUBSCRIPTION).unwrap();
                    let mut freed = Vec::new();
                    for message in queue.messages.values_mut() {
                        if message.position.is_some_and(|p| p.offset < *start) {
                            if let State::Leased(consumer) = message.state {
                                freed.push(consumer);
                            }
                            message.state = State::Gone;
                        }
                    }
                    freed.into_iter().for_each(|consumer| queue.end_lease(consumer));
                }
                _ => {}
            }
        }
    }

    fn end_round(&mut self) {
        let out = self.world.deliver();
        // Expired messages leave first, dropped ones last; neither is among the delivered.
        self.follow_events(&out.events.iter().map(|j| &j.event).collect::<Vec<_>>(), true);
        let mut handed: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        let ready: BTreeMap<u64, Vec<u64>> = self.queues.iter().map(|(id, q)| (*id, q.ready())).collect();
        for gated in &out.effects {
            let Effect::Deliver { consumer, deliveries } = &gated.effect else { continue };
            let mut last = None;
            for delivery in deliveries {
                assert_eq!(delivery.consumer, *consumer);
                let number = self.delivered(delivery, gated.gate);
                let place = Some((u8::MAX - delivery.lane, number));
                assert!(last < place, "out of order");
                last = place;
                let id = delivery.queue.0;
                handed.entry(id).or_default().insert(number);
                let (_, credit) = self.queues.get_mut(&id).unwrap().consumers.get_mut(consumer).unwrap();
                *credit = credit.checked_sub(1).expect("more than the credit allows");
            }
        }
        for (id, ready) in ready {
            let handed = handed.remove(&id).unwrap_or_default();
            let expect: BTreeSet<u64> = ready.into_iter().take(handed.len()).collect();
            assert_eq!(handed, expect, "queue {id}: not the first ones");
        }
        self.follow(&out);
        for id in 1..=5 {
            self.check_state(id);
        }
        self.world.batch += 1;
    }

    fn check_state(&mut self, id: u64) {
        let out = self.world.step(Command::QueueState { queue: QueueId(id) }, 1);
        let Some(Effect::Reply { reply: Reply::QueueState(state), .. }) =
            out.effects.first().map(|e| &e.effect)
        else {
            panic!("queue {id} has no state: {:?}", out.effects)
        };
        let queue = &self.queues[&id];
        let count = |is: fn(&Message) -> bool| queue.messages.values().filter(|m| is(m)).count() as u64;
        let expect = QueueState {
            ready: count(|m| m.state == State::Ready),
            leased: count(|m| matches!(m.state, State::Leased(_))),
            delayed: count(|m| matches!(m.state, State::Delayed(_))),
            consumers: queue.consumers.len() as u32,
            transient: count(|m| !m.durable && !matches!(m.state, State::Gone | State::Moving(_))),
        };
        assert_eq!(*state, expect, "queue {id}");
        let hungry = queue.consumers.values().any(|(_, credit)| *credit > 0);
        assert!(!hungry || expect.ready == 0, "queue {id} starves its consumers");
    }

    fn checkpoint(&mut self) {
        for (key, value) in self.world.shard.take_dirty() {
            match value {
                Some(value) => self.checkpoint.0.insert(key, value),
                None => self.checkpoint.0.remove(&key),
            };
        }
        self.checkpoint.1 = self.world.journal.len();
    }

    /// A shard from the checkpoint and what was journalled since.
    fn check_checkpoint(&self) {
        let mut shard = Shard::new(ShardId(0));
        for (key, value) in &self.checkpoint.0 {
            shard.load(key, value).unwrap();
        }
        for journaled in &self.world.journal[self.checkpoint.1..] {
            shard.replay(&journaled.event);
        }
        assert_eq!(shard.digest(), self.world.shard.digest(), "checkpoint and replay are not what was live");
    }

    fn restart(&mut self) {
        self.check_checkpoint();
        let (clean, lost) = (self.random.one_in(2), self.random.one_in(3));
        let clean = clean && !lost;
        let sent = self.world.restart(clean, lost);
        self.checkpoint.1 = self.checkpoint.1.min(self.world.journal.len());
        if lost {
            // The checkpoint is only ever of what is durable.
            self.checkpoint = (BTreeMap::new(), 0);
            self.forget_lost();
        }
        for queue in self.queues.values_mut() {
            queue.consumers.clear();
            for message in queue.messages.values_mut() {
                if !message.durable {
                    message.state = State::Gone;
                }
                if matches!(message.state, State::Leased(_)) {
                    message.state = State::Ready;
                }
                message.suspect = true;
                message.batch = 0;
            }
        }
        let numbers: BTreeSet<u64> = sent
            .iter()
            .map(|e| if let Effect::Outbox(entry) = e { entry.number } else { panic!("{e:?}") })
            .collect();
        let moving = |m: &Message| if let State::Moving(n) = m.state { Some(n) } else { None };
        let expect = self.queues.values().flat_map(|q| q.messages.values().filter_map(moving)).collect();
        assert_eq!(numbers, expect, "what is on its way is sent again");
        self.queues.get_mut(&2).unwrap().messages.clear();
        let volatile = self.queues[&2].spec.clone().unwrap();
        self.open(2, volatile);
        self.end_round();
    }

    /// What lazy events told is known only as far as they are still there.
    fn forget_lost(&mut self) {
        let mut due = BTreeSet::new();
        let mut attempts = HashMap::new();
        let mut dead: BTreeMap<u64, (u64, u8, u64)> = BTreeMap::new();
        let mut delayed = HashMap::new();
        let mut settled = BTreeSet::new();
        for journaled in &self.world.journal {
            match &journaled.event {
                Event::OutboxDone { ranges } => {
                    dead.retain(|number, _| {
                        !ranges.iter().any(|(start, end)| (*start..*end).contains(number))
                    });
                }
                Event::DeadLettered { number, queue, lane, offset, .. } => {
                    dead.insert(*number, (queue.0, *lane, *offset));
                    settled.insert((queue.0, *lane, *offset));
                }
                Event::Settled { queue, lane, ranges } => {
                    let offsets = ranges.iter().flat_map(|(start, end)| *start..*end);
                    settled.extend(offsets.map(|offset| (queue.0, *lane, offset)));
                }
                Event::Trimmed { start, .. } => {
                    settled.extend((0..*start).map(|offset| (SUBSCRIPTION, 0, offset)));
                }
                Event::Due { queue, lane, offset } => {
                    due.insert((queue.0, *lane, *offset));
                }
                Event::Attempted { queue, lane, offset, attempts: count } => {
                    attempts.insert((queue.0, *lane, *offset), *count);
                }
                Event::Enqueued { queue, lane, offset, envelope, .. } => {
                    delayed.extend(envelope.due.map(|due| ((queue.0, *lane, *offset), due.0)));
                }
                _ => {}
            }
        }
        for (number, (queue, lane, offset)) in dead {
            self.queues.get_mut(&queue).unwrap().at(lane, offset).state = State::Moving(number);
        }
        for (id, queue) in &mut self.queues {
            for ((lane, offset), number) in &queue.by_offset {
                let Some(message) = queue.messages.get_mut(number) else { continue };
                let key = (*id, *lane, *offset);
                message.attempts = attempts.get(&key).copied().unwrap_or(0);
                if message.durable && message.state == State::Gone && !settled.contains(&key) {
                    message.state = State::Ready;
                }
                if let (Some(at), false) = (delayed.get(&key), due.contains(&key))
                    && matches!(message.state, State::Ready | State::Leased(_))
                {
                    message.state = State::Delayed(*at);
                }
            }
        }
    }
}

fn release(queue: &mut Queue, number: u64, attempted: bool, limit: Option<u32>, now: i64) {
    let target = queue.spec.as_ref().unwrap().config.dead_letter.is_some();
    let message = queue.messages.get_mut(&number).unwrap();
    let attempt = message.attempts + 1;
    let over = attempted && limit.is_some_and(|limit| attempt > limit);
    let expired = message.expires.is_some_and(|at| at <= now);
    if over || expired {
        // A durable one with a target: its event says that it moves.
        message.state = State::Gone;
        assert!(target || expired);
        return;
    }
    message.state = State::Ready;
    if attempted {
        message.attempts = attempt;
    }
}

/// `SEEDS=1000 cargo test` tries harder.
fn seeds() -> u64 {
    std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

#[test]
fn random_commands_agree_with_the_model() {
    for seed in 1..=seeds() {
        let mut model = Model::new(seed);
        for round in 0..250 {
            for _ in 0..=model.random.below(4) {
                model.act();
            }
            model.end_round();
            if model.random.one_in(20) {
                model.checkpoint();
            }
            if model.random.one_in(40) {
                model.restart();
            }
            if round % 50 == 0 {
                model.check_checkpoint();
            }
        }
        model.restart();
    }
}

/// Two shards and what crosses between them, whatever is repeated and whoever is restarted: once each.
#[test]
fn what_crosses_shards_arrives_once() {
    for seed in 1..=seeds() {
        let mut random = Random(seed);
        let (mut source, mut target) = (World::new(), World::new());
        let dead_letter = Some(DeadLetter { exchange: None, subject: None });
        let open = |queue, change: &dyn Fn(&mut QueueSpec)| Command::OpenQueue {
            queue: QueueId(queue),
            spec: spec(queue, change),
        };
        source.step(open(1, &|s| s.config.dead_letter = dead_letter.clone()), 0);
        let few = |s: &mut QueueSpec| (s.config.length_max, s.config.overflow) = (Some(5), Overflow::Reject);
        target.step(open(2, &few), 0);
        let mut arrived = Vec::new();
        let mut by_offset = Vec::new();
        let mut on_the_way: BTreeMap<u64, u64> = BTreeMap::new();
        let mut rejected = BTreeSet::new();
        for round in 0..200 {
            if random.one_in(2) {
                let (envelope, payload) = message(round, source.now);
                source.step(Command::Enqueue(Enqueue { queue: QueueId(1), envelope, payload }), 0);
                by_offset.push(round);
            }
            let reject = reject_one(&mut source);
            send(
                &reject.effects.into_iter().map(|e| e.effect).collect::<Vec<_>>(),
                &by_offset,
                &mut on_the_way,
            );
            rejected.extend(on_the_way.values());
            if random.one_in(3) && !on_the_way.is_empty() {
                // In order, any number of them, perhaps again later.
                let upto = on_the_way.len().min(1 + random.below(3) as usize);
                let items: Vec<(u64, u64)> = on_the_way.iter().take(upto).map(|(n, m)| (*n, *m)).collect();
                let last = items.last().unwrap().0;
                let items = items.into_iter().map(|(number, of)| {
                    let (envelope, payload) = message(of, target.now);
                    (number, Arrival::Enqueue(Enqueue { queue: QueueId(2), envelope, payload }))
                });
                let items = items.collect();
                target.no_space = random.one_in(4);
                let out = target.step(Command::Arrive { source: 1, items }, 1);
                target.no_space = false;
                let Effect::Reply { reply: Reply::Arrived(not_taken), .. } = &out.effects[0].effect else {
                    panic!("{out:?}")
                };
                assert!(not_taken.iter().all(|n| matches!(n.refusal, Refusal::Full | Refusal::NoSpace)));
                if random.one_in(3) {
                    continue; // the answer was lost
                }
                let last = not_taken.first().map_or(last, |refused| refused.number - 1);
                let numbers = on_the_way.keys().copied().filter(|number| *number <= last).collect();
                source.step(Command::OutboxDone { numbers }, 0);
                on_the_way.retain(|number, _| *number > last);
            }
            if random.one_in(8) {
                take_all(&mut target, &mut arrived);
            }
            source.batch += 1;
            target.batch += 1;
            if random.one_in(10) {
                let lost = random.one_in(2);
                on_the_way.clear();
                send(&source.restart(false, lost), &by_offset, &mut on_the_way);
            }
            if random.one_in(10) {
                target.restart(false, random.one_in(2));
            }
        }
        take_all(&mut target, &mut arrived);
        arrived.extend(on_the_way.values().filter(|m| !arrived.contains(m)).copied().collect::<Vec<_>>());
        arrived.sort_unstable();
        let expect: Vec<u64> = rejected.into_iter().collect();
        assert_eq!(arrived, expect, "seed {seed}");
    }
}

/// Takes what is ready off queue 2 for good, and notes the numbers of these messages.
fn take_all(world: &mut World, taken: &mut Vec<u64>) {
    let consumer = ConsumerId(1);
    let pull = Command::Pull { queue: QueueId(2), consumer, count: 999, mode: Mode::Lease };
    let out = world.step(pull, 1);
    let Effect::Reply { reply: Reply::Deliveries { deliveries, .. }, .. } = &out.effects[0].effect else {
        panic!()
    };
    let stored = |offset: u64| {
        let of_offset = |event: &Event| match event {
            Event::Enqueued { offset: at, payload, .. } if *at == offset => Some(number_of(payload)),
            _ => None,
        };
        world.journal.iter().find_map(|j| of_offset(&j.event)).unwrap()
    };
    taken.extend(deliveries.iter().map(|d| stored(d.position.offset)));
    let deliveries = deliveries.iter().map(|d| (d.lane, d.position)).collect();
    let settle = Settle { queue: QueueId(2), consumer, deliveries, outcome: Outcome::Accept, lasting: true };
    world.step(Command::Settle(settle), 0);
}

fn reject_one(world: &mut World) -> Output {
    let consumer = ConsumerId(1);
    let pull = Command::Pull { queue: QueueId(1), consumer, count: 1, mode: Mode::Lease };
    let out = world.step(pull, 1);
    let Effect::Reply { reply: Reply::Deliveries { deliveries, .. }, .. } = &out.effects[0].effect else {
        panic!()
    };
    let deliveries = deliveries.iter().map(|d| (d.lane, d.position)).collect();
    let outcome = Outcome::Reject(DeathReason::Rejected);
    world.step(Command::Settle(Settle { queue: QueueId(1), consumer, deliveries, outcome, lasting: true }), 0)
}

fn send(effects: &[Effect], by_offset: &[u64], on_the_way: &mut BTreeMap<u64, u64>) {
    for effect in effects {
        if let Effect::Outbox(entry) = effect {
            let OutboxItem::DeadLetter { offset, .. } = &entry.item else { panic!() };
            on_the_way.insert(entry.number, by_offset[*offset as usize]);
        }
    }
}
