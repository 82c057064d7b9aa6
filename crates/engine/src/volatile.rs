//! A shard's volatile state: what a restart forgets.

use crate::{
    Map,
    durable::{Durable, DurableQueue},
    effect::Gate,
    group::LiveGroup,
    planted::{self, Bug},
    queue::LiveQueue,
    settlement::{LiveLane, Position},
};
use posthaste_model::{Name, PartitionId, QueueId, Timestamp};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(crate) struct Volatile {
    pub queues: Map<QueueId, LiveQueue>,
    pub common: Common,
    /// The batch that last changed a partition.
    pub partitions: Map<PartitionId, u64>,
    /// The batch that last opened or trimmed a partition.
    pub opened: u64,
    pub groups: Map<(Name, Name), LiveGroup>,
    pub groups_changed: u64,
    pub retained_changed: Map<Name, u64>,
}

/// What a decision about one queue may change besides the queue.
#[derive(Debug, Default)]
pub(crate) struct Common {
    pub timers: BTreeSet<(Timestamp, Timer)>,
    /// Queues whose messages or consumers changed since the last round of deliveries.
    pub touched: BTreeSet<QueueId>,
    /// Memory taken by messages without durability.
    pub transient_bytes: u64,
    /// A message without durability was published to a queue whose consumers do not keep up.
    pub crowded: bool,
    pub outbox_changed: u64,
    /// The number of the latest outbox entry, also of those not applied yet.
    pub outbox_last: u64,
    /// Bytes of messages in the outbox that are in no queue's log, as of the last step.
    pub relayed_bytes: u64,
}

impl Common {
    /// What replies about the outbox and about arrivals wait for.
    pub fn outbox_gate(&self) -> Gate {
        if self.outbox_changed == 0 { Gate::Open } else { Gate::Synced(self.outbox_changed) }
    }
}

/// What happens by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Expire(QueueId, u8, Position),
    Due(QueueId, u8, Position),
    Group(Name, Name),
    Unused(QueueId),
}

impl Volatile {
    /// What a start finds: nothing leased, everything unsettled ready.
    ///
    /// `epoch` is higher with each start, and begins the numbers of outbox entries: what damage took of the
    /// journal cannot have a number be given out twice.
    pub fn recovered(durable: &Durable, clean: bool, epoch: u32) -> Volatile {
        let mut volatile = Volatile::default();
        volatile.common.outbox_last = match planted::strikes(Bug::ReuseNumbers) {
            true => durable.outbox.entries.last_key_value().map_or(0, |(number, _)| *number),
            false => durable.outbox.last.max(u64::from(epoch) << 32),
        };
        for (id, queue) in durable.queues.iter().filter(|(_, queue)| !queue.draining) {
            volatile.add_queue(*id, queue, clean);
        }
        for id in durable.partitions.keys() {
            volatile.partitions.insert(*id, 0);
        }
        volatile
    }

    pub fn add_queue(&mut self, id: QueueId, queue: &DurableQueue, clean: bool) {
        let lanes = queue.lanes.iter().map(|lane| LiveLane::recovered(lane, clean)).collect();
        for (index, lane) in (0..=u8::MAX).zip(&queue.lanes) {
            for (offset, at) in &lane.expiring {
                let timer = Timer::Expire(id, index, Position::durable(*offset));
                self.common.timers.insert((*at, timer));
            }
            for (offset, at) in &lane.delayed {
                let timer = Timer::Due(id, index, Position::durable(*offset));
                self.common.timers.insert((*at, timer));
            }
        }
        self.queues.insert(id, LiveQueue::new(lanes));
    }
}
