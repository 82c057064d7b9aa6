//! A shard's volatile state: what a restart forgets.

use crate::{
    Map,
    command::Mode,
    durable::{Durable, DurableQueue},
    effect::Gate,
    group::LiveGroup,
    settlement::{LiveLane, Position},
};
use posthaste_model::{ConsumerId, Envelope, Name, PartitionId, Payload, QueueId, Timestamp};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(crate) struct Volatile {
    pub queues: Map<QueueId, LiveQueue>,
    /// The batch that last changed a partition.
    pub partitions: Map<PartitionId, u64>,
    pub groups: Map<(Name, Name), LiveGroup>,
    pub groups_changed: u64,
    pub timers: BTreeSet<(Timestamp, Timer)>,
    /// Queues whose messages or consumers changed since the last round of deliveries.
    pub touched: BTreeSet<QueueId>,
    /// What was enqueued since then, for consumers that keep up.
    pub recent: Map<(QueueId, u8, u64), (Envelope, Payload)>,
    /// Memory taken by messages without durability.
    pub transient_bytes: u64,
    pub retained_changed: Map<Name, u64>,
    pub outbox_changed: u64,
    /// The number of the latest outbox entry, also of those not applied yet.
    pub outbox_last: u64,
}

/// What happens by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Expire(QueueId, u8, Position),
    Due(QueueId, u8, Position),
    Group(Name, Name),
    Unused(QueueId),
}

#[derive(Debug, Default)]
pub(crate) struct LiveQueue {
    /// The whole queue, when it does not survive a restart.
    pub own: Option<DurableQueue>,
    pub lanes: Vec<LiveLane>,
    pub consumers: Vec<Consumer>,
    /// Where the next round of deliveries begins.
    pub turn: usize,
    /// The batch with the last change of the durable state.
    pub changed: u64,
    pub transient_bytes: u64,
    pub unused_since: Option<Timestamp>,
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub id: ConsumerId,
    pub credit: u32,
    pub mode: Mode,
    pub exclusive: bool,
    pub priority: i32,
}

impl Volatile {
    /// What a start finds: nothing leased, everything unsettled ready.
    pub fn recovered(durable: &Durable, clean: bool) -> Volatile {
        let mut volatile = Volatile { outbox_last: durable.outbox.last, ..Volatile::default() };
        for (id, queue) in &durable.queues {
            volatile.add_queue(*id, queue, clean);
        }
        for id in durable.partitions.keys() {
            volatile.partitions.insert(*id, 0);
        }
        volatile
    }

    pub fn add_queue(&mut self, id: QueueId, queue: &DurableQueue, clean: bool) {
        let lanes = queue.lanes.iter().map(|lane| LiveLane::recovered(lane, clean)).collect();
        for (index, lane) in (0u8..).zip(&queue.lanes) {
            for (offset, at) in &lane.expiring {
                self.timers.insert((*at, Timer::Expire(id, index, Position::durable(*offset))));
            }
            for (offset, at) in &lane.delayed {
                self.timers.insert((*at, Timer::Due(id, index, Position::durable(*offset))));
            }
        }
        self.queues.insert(id, LiveQueue { lanes, ..LiveQueue::default() });
    }
}

impl LiveQueue {
    /// What a reply about this queue waits for.
    pub fn gate(&self, sync: bool) -> Gate {
        match (self.changed, sync) {
            (0, _) => Gate::Open,
            (batch, true) => Gate::Synced(batch),
            (batch, false) => Gate::Written(batch),
        }
    }

    /// Messages that could be handed out now.
    pub fn ready(&self, queue: &DurableQueue) -> u64 {
        self.lanes.iter().zip(&queue.lanes).map(|(live, durable)| live.ready(durable)).sum()
    }

    pub fn consumer(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|c| c.id == id)
    }
}
