//! The MQTT listener on a real broker, over real connections.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod access;
mod ends;
mod limits;
mod retained;
mod rights;
mod sessions;
mod shares;
mod subscriptions;
mod support;
