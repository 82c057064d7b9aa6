//! What leaves a shard.

use crate::{
    catalog::DeadLetter,
    command::{Destination, Ticket},
    event::{CommittedOffset, Event, QueueSpec},
    group::{GroupState, Joined},
    settlement::Position,
};
use bytes::Bytes;
use posthaste_model::{ConsumerId, DeathReason, Envelope, Name, Payload, QueueId, Subject};

/// What one step of a shard produced.
#[derive(Debug, Default)]
pub struct Output {
    pub events: Vec<Journaled>,
    pub effects: Vec<Gated>,
}

/// An event on its way to the journal.
#[derive(Debug)]
pub struct Journaled {
    pub event: Event,
    /// The journal must sync it before anything that depends on it leaves.
    pub sync: bool,
    /// Stands or falls with the event after it.
    pub joined: bool,
}

/// An effect, and what must be safe before it may leave.
#[derive(Debug)]
pub struct Gated {
    pub gate: Gate,
    pub effect: Effect,
}

/// What an effect waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    Open,
    /// The operating system has this batch.
    Written(u64),
    /// The disk has this batch.
    Synced(u64),
}

#[derive(Debug)]
pub enum Effect {
    Reply {
        ticket: Ticket,
        reply: Reply,
    },
    Deliver {
        consumer: ConsumerId,
        deliveries: Vec<Delivery>,
    },
    /// The queue is gone; the consumer with it.
    Cancelled {
        consumer: ConsumerId,
    },
    /// The consumer ended, or never was one, and all its deliveries have left: nothing comes for it any more.
    Ended {
        consumer: ConsumerId,
    },
    /// The last consumer of an auto-delete queue left, or the queue was unused for too long.
    Unused {
        queue: QueueId,
    },
    /// An outbox entry is durable and can be sent on.
    Outbox(Box<OutboxEntry>),
    /// A message without durability was dead-lettered.
    DeadLetter {
        from: Box<DeadLetterFrom>,
        reason: DeathReason,
        envelope: Envelope,
        payload: Payload,
    },
    Retained {
        namespace: Name,
        subject: Subject,
        message: Option<(Envelope, Payload)>,
    },
    /// A message was dropped by a policy that has no dead-letter target.
    Dropped {
        queue: QueueId,
        reason: DeathReason,
        count: u64,
    },
}

/// A message handed to a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub queue: QueueId,
    /// Who holds it.
    pub consumer: ConsumerId,
    pub lane: u8,
    pub position: Position,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// How often it has been handed out, as far as is known; 1 the first time.
    pub attempt: u32,
    /// Nothing is expected of the consumer any more.
    pub settled: bool,
    /// Nothing is expected of the consumer, but whoever reads the content accepts it on its behalf.
    pub settle_when_read: bool,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    Inline(Envelope, Payload),
    /// To be read from the stream.
    Stored {
        stream: u64,
        offset: u64,
    },
}

/// An outbox entry on its way. It leaves no sooner than it is durable.
#[derive(Clone, Debug)]
pub struct OutboxEntry {
    pub number: u64,
    pub item: OutboxItem,
    /// Where it goes, if that is decided.
    pub to: Option<Vec<Destination>>,
    /// Live readers of an entry that was not sent before.
    pub live: Vec<QueueId>,
    /// A dead letter's queue.
    pub from: Option<DeadLetterFrom>,
}

/// The queue that a dead letter comes from, which may be deleted by now, and where that sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterFrom {
    pub namespace: Name,
    pub queue: Name,
    pub target: DeadLetter,
}

impl DeadLetterFrom {
    pub(crate) fn new(spec: &QueueSpec, target: DeadLetter) -> DeadLetterFrom {
        DeadLetterFrom { namespace: spec.namespace.clone(), queue: spec.name.clone(), target }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(clippy::large_enum_variant, reason = "few at a time, and moved about rarely")]
pub enum OutboxItem {
    DeadLetter {
        queue: QueueId,
        lane: u8,
        /// Where the message can be read.
        stream: u64,
        offset: u64,
        reason: DeathReason,
        target: DeadLetter,
    },
    /// Carries its body; it is stored with the checkpoint until it is sent.
    Relay { envelope: Envelope, payload: Payload, body: Bytes },
}

impl OutboxItem {
    /// Bytes of a message that is in no queue's log.
    pub(crate) fn relayed_bytes(&self) -> u64 {
        match self {
            OutboxItem::Relay { payload, body, .. } => (payload.head.len() + body.len() + 256) as u64,
            OutboxItem::DeadLetter { .. } => 0,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Reply {
    Done,
    Refused(Refusal),
    Appended {
        offset: u64,
    },
    /// The batch had been appended before, there.
    Duplicate {
        offset: u64,
    },
    /// Tail of the reply to a publish: none when all went well.
    Deliveries {
        deliveries: Vec<Delivery>,
        ready: u64,
    },
    Count(u64),
    QueueState(QueueState),
    Session {
        handles: Vec<HandleState>,
        received: Vec<u32>,
    },
    ProducerIds {
        first: u64,
        count: u64,
    },
    Joined(Box<Joined>),
    Assignment(Box<crate::group::Assignment>),
    Offsets(Vec<CommittedOffset>),
    Group(Option<Box<GroupState>>),
    Groups(Vec<GroupState>),
    Left(Vec<Result<(), Refusal>>),
    /// What came of an arrival: destinations that took no more from an item on, and why.
    Arrived(Vec<NotTaken>),
}

/// A destination that took nothing of an arrival from `number` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTaken {
    pub at: Destination,
    pub number: u64,
    pub refusal: Refusal,
}

/// Why a command was refused. Adapters turn it into their protocol's code, in `reply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The member's id is not the one that now holds its instance id.
    Fenced,
    /// The object was deleted; whoever asks should look its name up again.
    Gone,
    GroupFull,
    /// The queue holds as many messages as it may.
    Full,
    /// Another consumer has the queue for itself, or has it already.
    InUse,
    InconsistentProtocol,
    InvalidSessionTimeout,
    /// The member has to come back with the id it was given.
    MemberIdRequired,
    NonEmptyGroup,
    /// The disk has no room; consumers and settlements go on.
    NoSpace,
    NotEmpty,
    /// The idempotent producer skipped numbers.
    OutOfSequence,
    /// A newer epoch of the producer has written.
    ProducerFenced,
    /// The group is taking in members; the member has to join again.
    Rebalancing,
    StaleGeneration,
    UnknownGroup,
    UnknownMember,
    /// Memory for messages without durability is used up.
    OutOfMemory,
    /// The namespace, or the user that created the object, stores as much as it may.
    StorageLimit,
    /// It has more than one record of the journal can tell.
    TooLarge,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    pub ready: u64,
    pub leased: u64,
    pub delayed: u64,
    pub consumers: u32,
    /// Of those held in memory only.
    pub transient: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandleState {
    pub handle: u32,
    /// The delivery it stands for; none when the reader has confirmed it and only the handle is left.
    pub delivery: Option<(u8, Position)>,
}
