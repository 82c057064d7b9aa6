//! What a shard can be asked to do. Plain data, so that a shard may be on another node.

use crate::{
    event::{CommittedOffset, PartitionSpec, QueueSpec, Sequence},
    group::{Join, Member},
    settlement::Position,
};
use posthaste_model::{
    ConsumerId, DeathReason, Envelope, Name, PartitionId, Payload, QueueId, Subject, Timestamp, TopicId,
};
use serde::{Deserialize, Serialize};

/// Ties a reply to its request. 0 wants no reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    pub const NONE: Ticket = Ticket(0);
}

#[derive(Clone, Debug)]
pub enum Command {
    OpenPartition {
        partition: PartitionId,
        spec: PartitionSpec,
    },
    ClosePartition {
        partition: PartitionId,
    },
    Append(Append),
    /// Drops everything below `before`.
    Trim {
        partition: PartitionId,
        before: u64,
    },
    /// What is below `to` has been handed to the bus; `durable` where a restart must not begin earlier.
    MoveTap {
        partition: PartitionId,
        to: u64,
        durable: bool,
    },
    ReserveProducerIds {
        count: u64,
    },

    OpenQueue {
        queue: QueueId,
        spec: QueueSpec,
    },
    /// First half of a delete: if its conditions hold, the queue takes and hands out nothing from now on, and
    /// the answer says how many messages it holds. Forgotten in a crash, as nothing was deleted yet.
    SealQueue {
        queue: QueueId,
        if_unused: bool,
        if_empty: bool,
    },
    /// The delete was not decided after all.
    UnsealQueue {
        queue: QueueId,
    },
    /// Second half, once the queue's name is durably gone. Messages on their way to a dead-letter target
    /// arrive.
    CloseQueue {
        queue: QueueId,
    },
    Enqueue(Enqueue),
    Consume(Consume),
    /// Ends the consumer; what it holds stays leased to it.
    Cancel {
        queue: QueueId,
        consumer: ConsumerId,
    },
    /// Ends the consumer and releases all it holds.
    Detach {
        queue: QueueId,
        consumer: ConsumerId,
    },
    /// Releases all that the consumer holds; it goes on.
    Recover {
        queue: QueueId,
        consumer: ConsumerId,
    },
    Credit {
        queue: QueueId,
        consumer: ConsumerId,
        add: u32,
    },
    /// Takes up to `count` messages at once, whatever is ready.
    Pull {
        queue: QueueId,
        consumer: ConsumerId,
        count: u32,
        mode: Mode,
    },
    Settle(Settle),
    Purge {
        queue: QueueId,
    },
    QueueState {
        queue: QueueId,
    },

    /// A message with an id of the publisher's choice: taken once, then published through the outbox.
    Receive {
        queue: QueueId,
        id: u32,
        relay: Box<Relay>,
    },
    Forget {
        queue: QueueId,
        id: u32,
    },
    AssignHandles {
        queue: QueueId,
        consumer: ConsumerId,
        handles: Vec<(u8, Position, u32)>,
    },
    SettleHandle {
        queue: QueueId,
        handle: u32,
    },
    FreeHandle {
        queue: QueueId,
        handle: u32,
    },
    /// The handles that outlived the last connection, and the ids that were received.
    SessionState {
        queue: QueueId,
    },

    /// Where outbox entries go. Durable when it is answered, and only then may they be sent.
    RouteOutbox {
        routes: Vec<(u64, Vec<Destination>)>,
    },
    /// These outbox entries, in ascending order, are durable wherever they went.
    OutboxDone {
        numbers: Vec<u64>,
    },
    /// Something from another shard's outbox, or a partition's tap, numbered in ascending order. A
    /// destination ignores what has arrived there before; once it refuses one item, it takes none of the
    /// later ones.
    Arrive {
        source: u64,
        items: Vec<(u64, Arrival)>,
    },

    Join(Box<Join>),
    Sync {
        namespace: Name,
        group: Name,
        member: Member,
        assignments: Vec<(String, bytes::Bytes)>,
    },
    Heartbeat {
        namespace: Name,
        group: Name,
        member: Member,
    },
    Leave {
        namespace: Name,
        group: Name,
        members: Vec<(String, Option<String>)>,
    },
    CommitOffsets {
        namespace: Name,
        group: Name,
        member: Option<Member>,
        offsets: Vec<CommittedOffset>,
    },
    /// `None` for all.
    FetchOffsets {
        namespace: Name,
        group: Name,
        partitions: Option<Vec<(TopicId, u32)>>,
    },
    DescribeGroup {
        namespace: Name,
        group: Name,
    },
    ListGroups {
        namespace: Name,
    },
    DeleteGroup {
        namespace: Name,
        group: Name,
    },
    ForgetOffsets {
        namespace: Name,
        group: Name,
        partitions: Vec<(TopicId, u32)>,
    },

    /// Keeps the message as the last one on its subject; an empty body clears it.
    Retain {
        namespace: Name,
        envelope: Envelope,
        payload: Payload,
    },

    /// Time has passed.
    Tick,
}

#[derive(Clone, Debug)]
pub struct Append {
    pub partition: PartitionId,
    /// Offsets it takes; at least 1.
    pub span: u32,
    pub timestamp: Timestamp,
    pub sequence: Option<Sequence>,
    pub envelope: Option<Envelope>,
    pub payload: Payload,
}

#[derive(Clone, Debug)]
pub struct Enqueue {
    pub queue: QueueId,
    pub envelope: Envelope,
    pub payload: Payload,
}

#[derive(Clone, Debug)]
pub struct Consume {
    pub queue: QueueId,
    pub consumer: ConsumerId,
    pub credit: u32,
    pub mode: Mode,
    /// Refused when anybody else consumes, and keeps others out.
    pub exclusive: bool,
    /// Higher is served first.
    pub priority: i32,
}

/// What a delivery waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Leased until the consumer settles it; credit comes back with that.
    Lease,
    /// Settled as it is handed out; credit comes back by [`Command::Credit`].
    Settled,
}

#[derive(Clone, Debug)]
pub struct Settle {
    pub queue: QueueId,
    pub consumer: ConsumerId,
    pub deliveries: Vec<(u8, Position)>,
    pub outcome: Outcome,
    /// The reply waits until accepted messages cannot come back any more. Otherwise that they were accepted
    /// is stored with whatever is synced next: a power cut before that delivers them again.
    pub lasting: bool,
}

/// The fate of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Accept,
    /// Back to the queue; `attempted` counts it as delivered in vain.
    Release { attempted: bool },
    /// Dead-lettered, or dropped where there is no dead-letter target.
    Reject(DeathReason),
}

/// A message that was routed and is to be published exactly once.
#[derive(Clone, Debug)]
pub struct Relay {
    pub to: Vec<Destination>,
    /// Queues of live readers, who get it if they are there when it is first sent.
    pub live: Vec<QueueId>,
    pub envelope: Envelope,
    pub payload: Payload,
}

/// A place that keeps messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Destination {
    Queue(QueueId),
    Partition(PartitionId),
}

/// What arrives from another shard.
#[derive(Clone, Debug)]
pub enum Arrival {
    Append(Append),
    Enqueue(Enqueue),
}

impl Arrival {
    pub fn destination(&self) -> Destination {
        match self {
            Arrival::Append(append) => Destination::Partition(append.partition),
            Arrival::Enqueue(enqueue) => Destination::Queue(enqueue.queue),
        }
    }
}

/// Names a retained message.
pub type RetainedKey = (Name, Subject);
