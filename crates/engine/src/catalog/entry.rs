//! What the catalog holds.

use bytes::Bytes;
use posthaste_model::{
    ConnectionId, Name, PartitionId, Pattern, QueueId, ShardId, Subject, Timestamp, TopicId, Value,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings that only one protocol needs, in its own words. The core stores and returns them.
pub type Options = BTreeMap<String, String>;

/// When a message counts as safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the disk confirmed it.
    #[default]
    Fsync,
    /// After the operating system took it: survives a crash of the process, not of the machine.
    Os,
}

/// A partitioned log, kept by retention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    pub id: TopicId,
    pub namespace: Name,
    pub name: Name,
    pub partitions: Vec<Partition>,
    pub config: TopicConfig,
    pub created: Timestamp,
    /// The user that did; `None` for a client without credentials and for the broker itself.
    pub created_by: Option<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    pub id: PartitionId,
    pub shard: ShardId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// Subjects, besides the topic's own name, whose messages on the bus are appended to it.
    pub captures: Vec<Pattern>,
    /// How long records are kept, in milliseconds; `None` for ever.
    pub retention_ms: Option<u64>,
    /// How many bytes of records each partition keeps; `None` for any number.
    pub retention_bytes: Option<u64>,
    /// The largest batch, in bytes; `None` for the broker's limit.
    pub message_bytes_max: Option<u64>,
    pub durability: Durability,
    /// Records carry the time at which the broker took them instead of the publisher's.
    pub broker_timestamps: bool,
    pub options: Options,
}

/// A work list, kept until settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    pub id: QueueId,
    pub namespace: Name,
    pub name: Name,
    pub shard: ShardId,
    /// The streams that store its lanes, lowest priority first.
    pub streams: Vec<u64>,
    pub config: QueueConfig,
    /// Survives a restart.
    pub durable: bool,
    /// Belongs to one connection and goes with it.
    pub exclusive: Option<ConnectionId>,
    /// Goes when its last consumer does.
    pub auto_delete: bool,
    pub created: Timestamp,
    /// As of a topic.
    pub created_by: Option<Name>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Number of priorities above 0; 0 for first in, first out.
    pub priorities: u8,
    /// Messages older than this expire, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// An unused queue is deleted after this, in milliseconds.
    pub unused_ms_max: Option<u64>,
    /// How many ready messages it holds.
    pub length_max: Option<u64>,
    pub overflow: Overflow,
    pub dead_letter: Option<DeadLetter>,
    /// A message that was delivered in vain more often is dead-lettered.
    pub delivery_limit: Option<u32>,
    /// Only one consumer at a time is served.
    pub single_active: bool,
    pub durability: Durability,
    pub options: Options,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overflow {
    /// The oldest message is dead-lettered or dropped.
    #[default]
    DropOldest,
    /// The publisher is told no.
    Reject,
}

/// Where messages go that were rejected, expired or dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// `None` is the default exchange, which routes by queue name.
    pub exchange: Option<Name>,
    /// `None` keeps the message's own.
    pub subject: Option<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeSpec {
    pub namespace: Name,
    pub name: Name,
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
    /// Takes messages only from other exchanges.
    pub internal: bool,
    /// Where messages go that match no binding.
    pub alternate: Option<Name>,
    /// As of a topic.
    pub created_by: Option<Name>,
    pub options: Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    Direct,
    Fanout,
    Headers,
    Topic,
}

/// One routing rule of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    pub target: Target,
    /// The key as the binder wrote it.
    pub key: Bytes,
    pub rule: Rule,
    /// What the binder wants back with the binding; part of its identity, opaque to the core.
    pub arguments: Bytes,
    pub durable: bool,
    /// Messages that reach the target through this binding ask for no durability there.
    pub transient: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    Exchange(Name),
    Queue(Name),
}

/// What a binding matches. The exchange's kind decides which of them it looks at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    All,
    /// The subject is exactly this text with `.` as separator.
    Exact(Bytes),
    Headers {
        matching: Matching,
        wanted: Vec<(String, Option<Value>)>,
    },
    Pattern(Pattern),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Matching {
    /// Every wanted header is there.
    All,
    /// At least one is.
    Any,
}
