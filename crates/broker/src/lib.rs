//! The broker: the engine's shards on threads, the journal under them, and the handle that adapters hold.
//!
//! What crosses into an engine thread is a batch, never a single message; what comes out of one waits until
//! the journal holds what it depends on. Reads of topics are answered from views of what is durable and do
//! not pass through the engine.
#![forbid(unsafe_code)]

mod access;
mod ahead;
mod batch;
mod broker;
mod change;
mod check;
mod checkpoint;
mod client;
mod damage;
mod environment;
mod error;
mod format;
mod home;
mod inbox;
mod kept;
mod live;
mod log;
mod metrics;
mod open;
mod outbox;
mod ownership;
mod record;
mod repair;
mod resolve;
mod retained;
mod retention;
mod salvage;
pub mod stepped;
mod tap;
mod thread;
mod tickets;

pub use access::access_key::{NewAccessKey, SEALING_KEY_BYTES};
pub use access::administration::Administration;
pub use access::audit::AUDIT_TOPIC;
pub use access::authentication::{AuthenticationError, Credentials, Principal, SYSTEM_NAMESPACE};
pub use access::certificate::CertificateUser;
pub use access::login::FAILED_LOG_IN_DELAY;
pub use access::origin::{Anonymous, Origin};
pub use access::password::hash_password;
pub use access::revocation::{Revoked, RightsWatch};
pub use access::rights::{
    Allowed, Configurable, Extent, Holder, Protected, Readable, Rights, Visible, Writable, right,
};
pub use access::scram::{Exchange as ScramExchange, Mechanism as ScramMechanism};
pub use access::token::{ReadKeys, TOKEN_BYTES_MAX, TokenAlgorithm, TokenError, TokenIssuer};
pub use access::usage::Usage;
pub use ahead::ReadAhead;
pub use batch::{AppendBatch, Batch, Outcome, Routed};
pub use broker::{Broker, Config, Footprint};
pub use check::{Check, CheckpointsCheck, JournalCheck, SegmentsCheck, check};
pub use client::{Client, ConsumeOptions, QueueDeclaration};
pub use damage::{Damage, DamageKind, Object};
pub use error::Error;
pub use format::{Codec, ConversionError, Formats, encode_message};
pub use home::Home;
pub use live::{LiveBatch, LiveMessage, LiveSink};
pub use log::{LogEntry, PartitionLog, ReadError};
pub use metrics::Metrics;
pub use open::{Fatal, OpenError};
pub use repair::{QUARANTINE_DIR, Repair, repair};
pub use resolve::Resolved;
pub use thread::DeliverySink;

pub use posthaste_engine as engine;
pub use posthaste_model as model;
pub use posthaste_storage as storage;
