//! The broker through its handle, on a real directory.

mod crossing;
mod queues;
mod restart;
mod support;
mod topics;
