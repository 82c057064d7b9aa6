//! The broker through its handle, on a real directory.

mod crossing;
mod disk_full;
mod power_loss;
mod queues;
mod restart;
mod support;
mod topics;
