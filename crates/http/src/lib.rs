//! HTTP: health, metrics, and the administration and message API under `/v1` (docs/http-api.md).
//!
//! One request is one [`call::Call`]: who asks, for what, with which body. `routes` is the one list of what there is;
//! each file under `v1` is one kind of thing. Nothing here decides anything that the broker does not.
#![forbid(unsafe_code)]

mod access;
mod answer;
mod body;
mod call;
mod failure;
mod forwarded;
mod message;
mod metrics;
mod partition;
mod patience;
mod permission;
mod routes;
mod server;
mod usage;
mod v1;

pub use forwarded::{Forwarders, ForwardingHeader};
pub use permission::PermissionView;
#[doc(hidden)]
pub use routes::paths;
#[doc(hidden)]
pub use server::serve_one;
pub use server::{serve, serve_behind};
