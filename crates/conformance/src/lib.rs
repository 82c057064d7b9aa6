//! The promise, checked from outside: real clients against the real binary.
//!
//! [`Broker`] runs the release binary on a directory of its own, kills it and starts it again. [`programs`] names the
//! client programs under `clients/`, [`Tools`] installs what they need, [`suite`] runs them. [`crash`] kills the broker
//! under load, or cuts the power of a disk in a file ([`volume`]), and has [`history`] judge what the clients saw;
//! [`disk_full`] fills such a disk meanwhile; [`object_store`] has the data in a bucket of a real server
//! ([`s3_server`]) and ends this, too; [`flow`] runs the flow that the README shows; [`contract`]
//! is what an operator and a hostile peer meet.
//!
//! Nothing here links the broker: it is known by its command line, its output and its sockets (ARCHITECTURE.md).

pub mod broker;
pub mod contract;
pub mod crash;
pub mod disk_full;
pub mod flow;
pub mod history;
pub mod log_ins;
pub mod object_store;
mod ports;
pub mod programs;
pub mod s3_server;
pub mod scratch;
pub mod suite;
pub mod tools;
pub mod volume;

pub use broker::Broker;
pub use programs::{Addresses, Program, Protocol};
pub use scratch::Scratch;
pub use tools::Tools;
pub use volume::Volume;
