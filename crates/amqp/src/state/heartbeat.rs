//! Heartbeats in both directions (AMQP 4.2.7).

use std::time::Duration;
use tokio::time::Instant;

/// When something was last sent and received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heartbeat {
    /// None: the peers agreed on none.
    interval: Option<Duration>,
    received: Instant,
    sent: Instant,
}

impl Heartbeat {
    /// `seconds` 0 is none.
    pub fn new(seconds: u16, now: Instant) -> Heartbeat {
        let interval = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Heartbeat { interval, received: now, sent: now }
    }

    pub fn received(&mut self, now: Instant) {
        self.received = now;
    }

    pub fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// When to look at it again.
    pub fn deadline(&self) -> Option<Instant> {
        self.interval.map(|interval| (self.sent + interval / 2).min(self.received + 2 * interval))
    }

    /// A heartbeat is to be sent: half an interval passed in silence.
    pub fn is_due(&self, now: Instant) -> bool {
        self.interval.is_some_and(|interval| now >= self.sent + interval / 2)
    }

    /// The peer was silent for two intervals.
    pub fn is_missed(&self, now: Instant) -> bool {
        self.interval.is_some_and(|interval| now >= self.received + 2 * interval)
    }

    /// In seconds.
    pub fn timeout(&self) -> u64 {
        self.interval.map_or(0, |interval| interval.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_and_misses() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut heartbeat = Heartbeat::new(10, start);
        assert_eq!(heartbeat.deadline(), Some(at(5_000)));
        for (ms, due, missed) in [(4_999, false, false), (5_000, true, false), (20_000, true, true)] {
            assert_eq!((heartbeat.is_due(at(ms)), heartbeat.is_missed(at(ms))), (due, missed), "{ms} ms");
        }
        heartbeat.sent(at(18_000));
        heartbeat.received(at(1_000));
        assert_eq!(heartbeat.deadline(), Some(at(21_000)));
        assert!(!heartbeat.is_missed(at(20_999)) && heartbeat.is_missed(at(21_000)));
        let none = Heartbeat::new(0, start);
        assert_eq!(none.deadline(), None);
        assert!(!none.is_due(at(1_000_000)) && !none.is_missed(at(1_000_000)));
    }
}
