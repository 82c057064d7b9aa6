//! The broker through its handle, on a real directory.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod access;
mod anonymous;
mod audit;
mod certificates;
mod churn;
mod crossing;
mod damage;
mod disk_full;
mod ground;
mod kept;
mod limits;
mod power_loss;
mod queues;
mod restart;
mod salvage;
mod support;
mod tokens;
mod topics;
mod transfers;
mod upgrade;
