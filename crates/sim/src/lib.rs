//! Runs of the whole broker that repeat from a seed: the real engine, broker, journal and adapters, on a disk
//! or a bucket, a network and a clock that are simulated, with clients of all protocols and a checker of what
//! they saw.
//!
//! A run has several starts of the broker. Each but the last ends in a fault: the power goes, the process is
//! killed, a sync fails, the disk was full; the bucket did not answer, or somebody else took it over. In the
//! last one everything is handed out, and the history is judged.
#![forbid(unsafe_code)]

mod bug;
mod clients;
mod ground;
mod history;
mod message;
mod network;
mod panics;
mod run;
mod schedule;
pub mod session;
mod topology;

pub use bug::Bug;
pub use ground::On;
pub use history::Counts;
pub use run::{Report, Settings, Without, run};
