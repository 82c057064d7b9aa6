//! The storage layer: a journal that acknowledges, segments that keep, checkpoints that shorten recovery.
//!
//! It knows stream ids, offsets and bytes, and nothing of what they mean. Disk, randomness and limits are
//! passed in; only `object` looks at a network, and only it and the writer threads of the journal look at a clock.
#![forbid(unsafe_code)]

mod buffer;
pub mod checkpoint;
pub mod conformance;
pub mod data_dir;
pub mod disk;
#[cfg(test)]
mod forgetful;
pub mod fuzz;
pub mod journal;
pub mod object;

mod random;
pub mod segment;

pub use data_dir::DataDir;
pub use random::Random;
