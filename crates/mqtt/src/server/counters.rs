//! What the MQTT listener counts, besides what the broker does.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that were accepted with a CONNACK.
    pub connections: Counter,
    /// Sessions taken over by a newer connection of their client.
    pub taken_over: Counter,
    /// Messages received.
    pub received: Counter,
    /// Messages sent, each time they were.
    pub sent: Counter,
    /// Messages at QoS 0 that were refused and so lost: denied, too large, or without room.
    pub dropped: Counter,
    /// Messages that were not sent because they had expired.
    pub expired: Counter,
    /// Messages that were not sent because they are larger than their client accepts.
    pub too_large: Counter,
    /// Messages of other protocols that MQTT cannot express: their subject is no topic name.
    pub undeliverable: Counter,
    /// Sessions that ended because their expiry interval had passed.
    pub sessions_expired: Counter,
    /// Connections refused because their client identifier is another user's.
    pub foreign_sessions: Counter,
    /// Messages of sessions that were not sent because their user may not read them any more.
    pub denied: Counter,
    /// Wills published.
    pub wills: Counter,
}
