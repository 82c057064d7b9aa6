//! The adapter: MQTT conversations on the broker.
//!
//! `protocol` opens a [`Connection`] for each client; `connect` makes it a conversation, whose packets are
//! handled in `publish`, `subscribe` and `deliver`. `sessions` knows who is connected and what is kept of
//! those who are not, `shares` who the members of shared subscriptions are. `reply` is the only place that
//! turns the broker's errors into reason codes.

mod connect;
mod connection;
mod conversation;
mod counters;
mod deliver;
mod encoded;
mod live;
mod names;
mod namespaces;
mod protocol;
mod publish;
mod reply;
mod retained;
mod sessions;
mod settings;
mod shares;
mod stored;
mod stored_will;
mod subscribe;
mod subscriptions;

pub use connection::{Connection, Event};
pub use counters::{Counter, Counters};
pub use protocol::{Mqtt, protocol, protocol_with};
pub use settings::Settings;
