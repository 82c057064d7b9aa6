//! Kafka for Posthaste.
//!
//! [`wire`] is the protocol as bytes: frames, requests, responses, record batches. It knows no broker and
//! does no I/O. The rest is the adapter: `session` is the conversation on one connection, `api` has one file
//! for each API, `convert` turns records into messages and back, `reply` turns what the broker says into
//! Kafka's error codes, `settings` is what a topic or broker can be told.
#![forbid(unsafe_code)]

mod api;
mod context;
mod convert;
mod inflate;
mod limits;
mod names;
mod reply;
mod session;
mod settings;
#[cfg(test)]
mod tests;
pub mod wire;

use std::sync::Arc;

use posthaste_broker::{Broker, Codec};
use posthaste_net::Protocol;

/// Kafka on a listener. The cluster is one broker with node id 1, and has the topics of the client's
/// namespace.
pub fn protocol(broker: Broker) -> impl Protocol {
    session::Kafka::new(broker)
}

/// How stored record batches (format 1) are shown to readers of other protocols.
pub fn codec() -> Arc<dyn Codec> {
    Arc::new(convert::RecordBatches)
}
