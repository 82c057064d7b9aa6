//! The words every other crate speaks: names, subjects, messages, offsets, limits.
//!
//! Nothing here does I/O, knows the time, or knows a protocol.
#![forbid(unsafe_code)]

pub mod bell;
pub mod id;
pub mod limits;
pub mod message;
pub mod name;
pub mod pattern;
pub mod peer;
pub mod subject;

pub use id::{ConnectionId, ConsumerId, ExchangeId, Offset, PartitionId, QueueId, ShardId, TopicId};
pub use limits::Limits;
pub use message::{Death, DeathReason, Envelope, Format, Header, Message, Payload, Timestamp, Value};
pub use name::{Name, NameError};
pub use pattern::{Pattern, PatternError, Syntax, Word};
pub use peer::{Peer, TlsPeer};
pub use subject::{Subject, SubjectError};
