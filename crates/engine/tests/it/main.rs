//! What users of the engine rely on, through its public surface.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod catalog;
mod memory;
mod model;
mod scenarios;
mod sizes;
mod table;
mod world;
