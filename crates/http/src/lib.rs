//! HTTP: health, metrics, and the administration and message API under `/v1`.
//!
//! One request is one [`call::Call`]: who asks, what for, with which body. `routes` is the one list of what there is;
//! each file under `v1` is one kind of thing. Nothing here decides anything that the broker does not.
#![forbid(unsafe_code)]

mod body;
mod metrics;
mod patience;
mod server;

pub use server::serve;
