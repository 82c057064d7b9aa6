//! A set of numbers kept as ranges.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Numbers as non-adjacent half-open ranges, so that long runs cost one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeSet {
    /// start -> end, exclusive
    ranges: BTreeMap<u64, u64>,
    count: u64,
}

impl RangeSet {
    pub fn new() -> RangeSet {
        RangeSet::default()
    }

    /// How many numbers it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many ranges it takes to say so.
    pub fn ranges_len(&self) -> usize {
        self.ranges.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(start, end)| (*start, *end))
    }

    pub fn contains(&self, number: u64) -> bool {
        self.end_of_range_at(number).is_some()
    }

    /// Where the range that holds `number` ends.
    pub fn end_of_range_at(&self, number: u64) -> Option<u64> {
        let (_, end) = self.ranges.range(..=number).next_back()?;
        (*end > number).then_some(*end)
    }

    /// Adds `start..end`; returns how many of them are new.
    pub fn insert(&mut self, start: u64, end: u64) -> u64 {
        if start >= end {
            return 0;
        }
        let (mut from, mut to) = (start, end);
        let mut covered = 0;
        if let Some((s, e)) = self.ranges.range(..=start).next_back().map(|(s, e)| (*s, *e))
            && e >= start
        {
            from = s;
            to = to.max(e);
            covered += e - s;
            self.ranges.remove(&s);
        }
        while let Some((s, e)) = self.ranges.range(start..=end).next().map(|(s, e)| (*s, *e)) {
            to = to.max(e);
            covered += e - s;
            self.ranges.remove(&s);
        }
        self.ranges.insert(from, to);
        let added = (to - from) - covered;
        self.count += added;
        added
    }

    /// Takes out the range that begins at `start`, if there is one, and returns its end.
    pub fn take_range_at(&mut self, start: u64) -> Option<u64> {
        let end = self.ranges.remove(&start)?;
        self.count -= end - start;
        Some(end)
    }

    /// Drops everything below `floor`.
    pub fn remove_below(&mut self, floor: u64) {
        while let Some((start, end)) = self.ranges.first_key_value().map(|(s, e)| (*s, *e)) {
            if start >= floor {
                break;
            }
            self.ranges.remove(&start);
            self.count -= end.min(floor) - start;
            if end > floor {
                self.ranges.insert(floor, end);
                break;
            }
        }
    }

    /// The numbers of `start..end` that it does not hold, as ranges.
    pub fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = self.end_of_range_at(start).unwrap_or(start);
        for (s, e) in self.ranges.range(start..end) {
            if *s > at {
                gaps.push((at, *s));
            }
            at = at.max(*e);
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_like_a_set_of_numbers() {
        let mut seed = 7u64;
        let mut next = move |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let (mut ranges, mut plain) = (RangeSet::new(), BTreeSet::new());
            let mut floor = 0;
            for _ in 0..30 {
                let start = next(60);
                let end = start + next(12);
                if next(8) == 0 {
                    floor = floor.max(start);
                    ranges.remove_below(floor);
                    plain.retain(|n| *n >= floor);
                } else {
                    let fresh = (start..end).filter(|n| plain.insert(*n)).count() as u64;
                    assert_eq!(ranges.insert(start, end), fresh);
                }
                assert_eq!(ranges.count(), plain.len() as u64);
                for n in 0..80 {
                    assert_eq!(ranges.contains(n), plain.contains(&n), "{n} in {ranges:?}");
                }
                let gaps: BTreeSet<u64> = ranges.gaps(10, 50).into_iter().flat_map(|(a, b)| a..b).collect();
                assert_eq!(gaps, (10..50).filter(|n| !plain.contains(n)).collect());
            }
        }
    }
}
