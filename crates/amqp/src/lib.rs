//! AMQP 0-9-1 as RabbitMQ speaks it.
//!
//! [`wire`] is the codec: it knows neither I/O nor the broker. A `session` is one connection: its handshake,
//! then an open `connection` with its channels, whose methods are one file each under `methods`. `state`
//! holds what can be said without a broker: delivery tags, confirms, windows, heartbeats. `convert`
//! translates messages, `reply` is the only place that turns the broker's errors into reply codes.
#![forbid(unsafe_code)]

pub mod wire;

mod arguments;
mod channel;
mod connection;
mod convert;
mod death;
mod deliveries;
mod handshake;
mod methods;
mod names;
mod options;
mod properties;
mod publishing;
mod reply;
mod revocation;
mod session;
mod state;

pub use convert::{FORMAT, codec};
pub use options::Options;
pub use session::{Amqp, Event, Session, protocol, protocol_with};
