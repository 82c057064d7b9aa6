//! MQTT 3.1, 3.1.1 and 5.
//!
//! [`wire`] is the codec: bytes to packets and back, without I/O. [`session`] is the conversation as a state
//! machine, without socket, broker or clock. Clauses are cited as `[MQTT-x.y.z-n]` with the numbers of the
//! MQTT 5.0 specification, or `[MQTT-x.y.z-n, 3.1.1]` where only the older one has the statement.

#![forbid(unsafe_code)]

pub mod session;
pub mod wire;
