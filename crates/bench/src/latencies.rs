//! Latencies, kept one by one: percentiles need no buckets.

use std::time::Duration;

/// Durations with a weight each: how many messages took so long.
#[derive(Default)]
pub struct Latencies {
    samples: Vec<(u32, u32)>,
}

impl Latencies {
    pub fn record(&mut self, latency: Duration, messages: u32) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.samples.push((micros, messages));
    }

    pub fn merge(&mut self, mut other: Latencies) {
        self.samples.append(&mut other.samples);
    }

    /// For each of `shares` the milliseconds that this share of the messages did not exceed.
    pub fn percentiles<const N: usize>(&mut self, shares: [f64; N]) -> [f64; N] {
        self.samples.sort_unstable();
        let total: u64 = self.samples.iter().map(|(_, messages)| u64::from(*messages)).sum();
        shares.map(|share| {
            let wanted = (total as f64 * share).ceil() as u64;
            let mut seen = 0;
            let found = self.samples.iter().find(|(_, messages)| {
                seen += u64::from(*messages);
                seen >= wanted
            });
            found.or(self.samples.last()).map_or(0.0, |(micros, _)| f64::from(*micros) / 1000.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_count_messages() {
        let mut latencies = Latencies::default();
        for (millis, messages) in [(3, 1), (1, 98), (2, 1)] {
            latencies.record(Duration::from_millis(millis), messages);
        }
        assert_eq!(latencies.percentiles([0.5, 0.98, 0.99, 1.0]), [1.0, 1.0, 2.0, 3.0]);
        assert_eq!(Latencies::default().percentiles([0.5]), [0.0]);
    }
}
