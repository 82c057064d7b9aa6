//! A queue's volatile half: its lanes' cursors and leases, and who consumes.

use crate::{
    Map,
    command::{Consume, Mode},
    durable::DurableQueue,
    effect::Gate,
    settlement::LiveLane,
};
use posthaste_model::{ConsumerId, Timestamp};
use std::{cmp::Reverse, collections::BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct LiveQueue {
    /// The whole queue, when it does not survive a restart.
    pub own: Option<Box<DurableQueue>>,
    pub lanes: Vec<LiveLane>,
    pub consumers: Consumers,
    /// The batch with the last change of the durable state.
    pub changed: u64,
    /// The batch that the last delivery waits for, at first the queue's own: none that comes later may leave
    /// earlier.
    pub delivered: u64,
    /// The batch with the last change of its definition or of what a session remembers: always synced.
    pub session_changed: u64,
    pub transient_bytes: u64,
    pub unused_since: Option<Timestamp>,
    /// A timer looks after the queue being unused.
    pub unused_timer: bool,
    /// It is about to be deleted.
    pub sealed: bool,
}

impl LiveQueue {
    pub fn new(lanes: Vec<LiveLane>) -> LiveQueue {
        LiveQueue { lanes, ..LiveQueue::default() }
    }

    /// What a reply about this queue waits for.
    pub fn gate(&self, sync: bool) -> Gate {
        gate_of(self.changed, sync)
    }

    /// What deliveries of messages wait for of which the latest is in `batch`: not for messages that came
    /// since, so that a backlog is handed out at its own pace.
    pub fn delivery_gate(&mut self, batch: u64, sync: bool) -> Gate {
        self.delivered = self.delivered.max(batch);
        gate_of(self.delivered, sync)
    }

    /// What a reply about its definition or its session waits for.
    pub fn session_gate(&self) -> Gate {
        if self.session_changed == 0 { Gate::Open } else { Gate::Synced(self.session_changed) }
    }

    /// Messages that could be handed out now.
    pub fn ready(&self, queue: &DurableQueue) -> u64 {
        self.lanes.iter().zip(&queue.lanes).map(|(live, durable)| live.ready(durable)).sum()
    }

    /// All messages that it holds, also the delayed and the leased.
    pub fn held(&self, queue: &DurableQueue) -> u64 {
        let lanes = self.lanes.iter().zip(&queue.lanes);
        lanes.map(|(live, durable)| durable.live() + live.transient.len() as u64).sum()
    }
}

fn gate_of(batch: u64, sync: bool) -> Gate {
    match (batch, sync) {
        (0, _) => Gate::Open,
        (batch, true) => Gate::Synced(batch),
        (batch, false) => Gate::Written(batch),
    }
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub credit: u32,
    pub mode: Mode,
    pub exclusive: bool,
    priority: i32,
    arrived: u64,
    served: u64,
}

/// Who consumes from a queue, and whose turn it is: the highest priority first, and among equals the one that
/// was served longest ago. Finding it costs the same however many have no credit.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    all: Map<ConsumerId, Consumer>,
    /// By priority and arrival.
    order: BTreeSet<(Reverse<i32>, u64, ConsumerId)>,
    /// Those with credit, by priority and last turn.
    waiting: BTreeSet<(Reverse<i32>, u64, ConsumerId)>,
    credit: u64,
    clock: u64,
}

impl Consumers {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// In the order in which they are served.
    pub fn ids(&self) -> impl Iterator<Item = ConsumerId> {
        self.order.iter().map(|(_, _, id)| *id)
    }

    pub fn any_exclusive(&self) -> bool {
        self.order.first().and_then(|(_, _, id)| self.all.get(id)).is_some_and(|c| c.exclusive)
    }

    pub fn add(&mut self, consume: &Consume) {
        self.remove(consume.consumer);
        self.clock += 1;
        let (priority, arrived) = (consume.priority, self.clock);
        let consumer = Consumer {
            credit: 0,
            mode: consume.mode,
            exclusive: consume.exclusive,
            priority,
            arrived,
            served: arrived,
        };
        self.order.insert((Reverse(priority), arrived, consume.consumer));
        self.all.insert(consume.consumer, consumer);
        self.add_credit(consume.consumer, consume.credit);
    }

    /// False when it was no consumer.
    pub fn remove(&mut self, id: ConsumerId) -> bool {
        let Some(gone) = self.all.remove(&id) else { return false };
        self.order.remove(&(Reverse(gone.priority), gone.arrived, id));
        self.waiting.remove(&(Reverse(gone.priority), gone.served, id));
        self.credit -= u64::from(gone.credit);
        true
    }

    pub fn add_credit(&mut self, id: ConsumerId, add: u32) {
        let Some(consumer) = self.all.get_mut(&id).filter(|_| add > 0) else { return };
        if consumer.credit == 0 {
            self.waiting.insert((Reverse(consumer.priority), consumer.served, id));
        }
        let before = consumer.credit;
        consumer.credit = consumer.credit.saturating_add(add);
        self.credit += u64::from(consumer.credit - before);
    }

    /// Credit for a lease that ended.
    pub fn lease_ended(&mut self, id: ConsumerId, count: u32) {
        if self.all.get(&id).is_some_and(|c| c.mode == Mode::Lease) {
            self.add_credit(id, count);
        }
    }

    /// How many messages would be taken now.
    pub fn takes(&self, single_active: bool) -> u64 {
        match self.order.first().filter(|_| single_active) {
            Some((_, _, id)) => self.all.get(id).map_or(0, |c| u64::from(c.credit)),
            None => self.credit,
        }
    }

    /// Whose turn it is.
    pub fn next(&self, single_active: bool) -> Option<(ConsumerId, Mode)> {
        let (_, _, id) = if single_active { self.order.first()? } else { self.waiting.first()? };
        self.all.get(id).filter(|c| c.credit > 0).map(|c| (*id, c.mode))
    }

    /// It was handed a message.
    pub fn served(&mut self, id: ConsumerId) {
        let alone = self.waiting.len() == 1;
        let Some(consumer) = self.all.get_mut(&id).filter(|c| c.credit > 0) else { return };
        consumer.credit -= 1;
        self.credit -= 1;
        if alone && consumer.credit > 0 {
            return;
        }
        let at = (Reverse(consumer.priority), consumer.served, id);
        self.waiting.remove(&at);
        self.clock += 1;
        consumer.served = self.clock;
        if consumer.credit > 0 {
            self.waiting.insert((Reverse(consumer.priority), consumer.served, id));
        }
    }
}
