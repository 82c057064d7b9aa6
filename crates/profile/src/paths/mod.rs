//! The paths, by protocol.

pub mod amqp;
pub mod kafka;
pub mod mqtt;
pub mod storage;

/// Messages that are sent before the answers to all of them are awaited.
const WINDOW: u32 = 100;
const BODY_BYTES: usize = 1024;

/// How many messages each round has, until all are sent.
fn rounds(messages: u32, of: u32) -> impl Iterator<Item = u32> {
    (0..messages.div_ceil(of)).map(move |n| of.min(messages - n * of))
}
