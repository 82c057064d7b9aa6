//! What a connection has to remember, without any knowledge of sockets or the broker.

mod confirms;
mod heartbeat;
mod unsettled;
mod window;

pub(crate) use confirms::{Confirms, Run, Verdict};
pub(crate) use heartbeat::Heartbeat;
pub(crate) use unsettled::Unsettled;
pub(crate) use window::Window;
