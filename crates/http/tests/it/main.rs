#![allow(clippy::expect_used, clippy::unwrap_used)]
mod access;
mod messages;
mod resources;
mod rights;
mod server;
mod streams;
mod support;
