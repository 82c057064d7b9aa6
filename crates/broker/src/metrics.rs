//! Counters of the whole broker.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Only ever grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed).max(0) as u64
    }
}

/// What the broker has done since it started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Messages and batches stored, once per place.
    pub published: Counter,
    /// Bytes of payloads taken from publishers.
    pub published_bytes: Counter,
    /// Messages handed to consumers of queues.
    pub delivered: Counter,
    /// Messages dropped by a queue's policy that has no dead-letter target.
    pub dropped: Counter,
    /// Messages and batches that a queue or topic refused, for want of space or memory or because it is full.
    /// A publisher that asked for no confirmation learns of it nowhere else.
    pub refused: Counter,
    /// Messages moved to a dead-letter target.
    pub dead_lettered: Counter,
    /// Dead letters, and messages taken with an identifier, that have not arrived wherever they go.
    pub outbox: Gauge,
    /// Messages handed straight to live readers.
    pub live: Counter,
    /// Messages that live readers were too slow for.
    pub live_dropped: Counter,
    /// Publishes that had nowhere to go.
    pub unroutable: Counter,
    /// Stored messages that could not be read any more.
    pub unreadable: Counter,
    pub checkpoints: Counter,
    /// Checkpoints that could not be made; the journal keeps what they were to move.
    pub checkpoint_failures: Counter,
    pub authentication_failures: Counter,
    /// Events that the audit topic should have and has not.
    pub audit_lost: Counter,
}
