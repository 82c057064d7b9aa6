//! The same load on a broker that only its listener is known of.

use super::{
    Options, Publisher, QUEUE, WRITE_MESSAGES_MAX, connection::Connection, connection::publish_octets,
    consume,
};
use crate::{
    load::{self, Tally, Window, Worker},
    report::Report,
};
use anyhow::{Context, Result};
use posthaste_amqp::wire::{FieldTable, FieldValue, ShortString};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long a publisher without confirms is patient with a broker that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the load, with the first of the windows.
pub fn run(options: &Options, at: SocketAddr) -> Result<Report> {
    let window = options.windows.first().copied().context("no window")?;
    let queue = |n: u32| format!("{QUEUE}-{}", n % options.queues);
    let mut arguments = FieldTable::new();
    if options.quorum {
        arguments.push(ShortString::from_static("x-queue-type"), FieldValue::LongString("quorum".into()));
    }
    let mut control = Connection::open(at)?;
    for n in 0..options.queues {
        control.declare_as(&queue(n), !options.transient, arguments.clone())?;
    }
    let mut workers: Vec<Worker> = Vec::new();
    for n in 0..options.run.connections {
        if options.transient {
            let connection = Connection::open(at)?;
            let message = publish_octets(&queue(n), options.run.message_bytes as usize, false)?;
            workers.push(Box::new(move |window| pour(connection, &message, window)));
        } else {
            let mut publisher = Publisher::open(at, &queue(n), options.run.message_bytes, window)?;
            workers.push(Box::new(move |window| publisher.until_end(window)));
        }
    }
    for n in 0..options.consumers {
        let connection = Connection::open(at)?;
        let (queue, prefetch) = (queue(n), (!options.transient).then_some(options.prefetch));
        workers.push(Box::new(move |window| consume(connection, &queue, prefetch, window)));
    }
    load::run_remote("AMQP load", &options.run, workers)
}

/// Publishes without confirms: what the connection takes.
fn pour(mut connection: Connection, message: &[u8], window: Window) -> Result<Tally> {
    let octets = message.repeat(WRITE_MESSAGES_MAX);
    let mut tally = Tally::default();
    while Instant::now() < window.end {
        if !connection.write_within(&octets, PATIENCE)? {
            // What was written of it cannot be taken back: this connection is done.
            break;
        }
        if window.holds(Instant::now()) {
            tally.acknowledged += WRITE_MESSAGES_MAX as u64;
        }
    }
    Ok(tally)
}
