//! The program as people and scripts meet it: `serve` and its contract, and the commands that talk to a broker.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod access_keys;
mod damage;
mod edge;
mod log;
mod messages;
mod objects;
mod serving;
mod support;
mod tokens;
