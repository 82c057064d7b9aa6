//! The engine: what topics, queues, groups and sessions *are*, as deterministic state machines.
//!
//! A [`Shard`] takes a [`Command`] and the time, and gives [`Event`]s, which are the only thing that changes
//! its durable state, and [`Effect`]s, which leave it once the journal holds what they depend on. The
//! [`Catalog`] does the same for names and routing rules. There is no clock, no randomness and no I/O here,
//! so live running and replay are the same code.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod command;
mod durable;
pub mod effect;
pub mod event;
pub mod group;
mod group_commands;
mod held;
mod partition;
#[doc(hidden)]
pub mod planted;
mod queue;
mod range_set;
mod retained;
mod settlement;
mod shard;
mod transfer;
mod volatile;

pub use catalog::Catalog;
pub use command::{Command, Ticket};
pub use effect::{Content, Delivery, Effect, Gate, Gated, Output, Reply};
pub use event::Event;
pub use held::Held;
pub use range_set::RangeSet;
pub use settlement::Position;
pub use shard::{Context, Publish, Published, Shard, Stream};
pub use transfer::DESTINATIONS_MAX;

use std::{collections::HashMap, hash::BuildHasherDefault};

/// A hash map whose order is the same in every run.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<rustc_hash::FxHasher>>;
