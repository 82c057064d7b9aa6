//! MQTT 3.1, 3.1.1 and 5.
//!
//! [`wire`] is the codec: bytes to packets and back, without I/O. [`session`] is the conversation as a
//! state machine, without socket, broker or clock. [`server`] brings both together with the broker: only
//! there are sockets, time and queues known. `convert` translates messages. Clauses are cited as
//! `[MQTT-x.y.z-n]` with the numbers of the MQTT 5.0 specification, or `[MQTT-x.y.z-n, 3.1.1]` where only
//! the older one has the statement.

#![forbid(unsafe_code)]

mod convert;
pub mod server;
pub mod session;
pub mod wire;

pub use convert::{FORMAT, codec};
pub use server::{Mqtt, Settings, protocol, protocol_with};
