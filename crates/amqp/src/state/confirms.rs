//! Publishes that wait for the broker, and the order in which they are confirmed.

use std::collections::VecDeque;

/// Publishes that came together and are confirmed in the order in which they came, over the whole connection:
/// whatever order the broker finishes in, each channel sees its tags rise, so that one acknowledgement can
/// stand for all before it (LavinMQ#2078).
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    batches: VecDeque<InFlight>,
    /// The number of the first batch.
    first: u64,
    publishes: usize,
    bytes: usize,
}

#[derive(Debug)]
struct InFlight {
    runs: Vec<Run>,
    publishes: usize,
    bytes: usize,
    /// Indexes that were refused, ascending; none while the broker is at work.
    refused: Option<Vec<u32>>,
}

/// Publishes of one channel with tags and indexes in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub channel: u16,
    /// Tells the channel from an earlier or later one with its number.
    pub serial: u64,
    pub first_index: u32,
    pub first_tag: u64,
    pub count: u32,
}

/// What the client is to be told: tags up to and including `last` are settled like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub channel: u16,
    pub serial: u64,
    pub first: u64,
    pub last: u64,
    pub refused: bool,
}

impl Run {
    /// Adds a publish to `runs`, behind those that are there.
    pub fn add(runs: &mut Vec<Run>, channel: u16, serial: u64, index: u32, tag: u64) {
        if let Some(last) = runs.last_mut()
            && (last.channel, last.serial) == (channel, serial)
            && last.first_index + last.count == index
            && last.first_tag + u64::from(last.count) == tag
        {
            last.count += 1;
            return;
        }
        runs.push(Run { channel, serial, first_index: index, first_tag: tag, count: 1 });
    }
}

impl Confirms {
    /// Publishes that the broker has not finished.
    pub fn publishes(&self) -> usize {
        self.publishes
    }

    /// Their bodies, in octets.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Publishes go to the broker; returns the number to [`finish`](Confirms::finish) them by. Those that
    /// are in no run need no confirm.
    pub fn begin(&mut self, runs: Vec<Run>, publishes: usize, bytes: usize) -> u64 {
        self.publishes += publishes;
        self.bytes += bytes;
        self.batches.push_back(InFlight { runs, publishes, bytes, refused: None });
        self.first + self.batches.len() as u64 - 1
    }

    /// The broker has finished a batch.
    pub fn finish(&mut self, number: u64, mut refused: Vec<u32>) {
        refused.sort_unstable();
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(batch) = at.and_then(|at| self.batches.get_mut(at)) {
            batch.refused = Some(refused);
        }
    }

    /// What can be told now, in the order of tags.
    pub fn release(&mut self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        while let Some(InFlight { refused: Some(_), .. }) = self.batches.front() {
            let Some(batch) = self.batches.pop_front() else { break };
            self.first += 1;
            self.publishes -= batch.publishes;
            self.bytes -= batch.bytes;
            let refused = batch.refused.unwrap_or_default();
            for (at, run) in batch.runs.iter().enumerate() {
                // A publish to several keys has several indexes, so a run reaches up to the next one.
                let end = batch.runs.get(at + 1).map_or(u32::MAX, |next| next.first_index);
                judge(run, refused.iter().filter(|i| (run.first_index..end).contains(i)), &mut verdicts);
            }
        }
        verdicts
    }
}

fn judge<'a>(run: &Run, refused: impl Iterator<Item = &'a u32>, verdicts: &mut Vec<Verdict>) {
    let mut next = 0;
    let mut refused = refused.map(|index| (index - run.first_index).min(run.count - 1)).peekable();
    while next < run.count {
        let is_refused = refused.peek() == Some(&next);
        let end = match is_refused {
            true => next + 1,
            false => refused.peek().copied().unwrap_or(run.count),
        };
        while is_refused && refused.peek() == Some(&next) {
            refused.next();
        }
        let (first, last) = (run.first_tag + u64::from(next), run.first_tag + u64::from(end) - 1);
        tell(
            Verdict { channel: run.channel, serial: run.serial, first, last, refused: is_refused },
            verdicts,
        );
        next = end;
    }
}

/// Joins what continues the latest verdict about the same channel.
fn tell(verdict: Verdict, verdicts: &mut Vec<Verdict>) {
    let latest =
        verdicts.iter_mut().rev().find(|v| (v.channel, v.serial) == (verdict.channel, verdict.serial));
    match latest {
        Some(latest) if !latest.refused && !verdict.refused => latest.last = verdict.last,
        _ => verdicts.push(verdict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishes as (channel, index, tag).
    fn runs(publishes: &[(u16, u32, u64)]) -> Vec<Run> {
        let mut runs = Vec::new();
        publishes.iter().for_each(|(channel, index, tag)| Run::add(&mut runs, *channel, 0, *index, *tag));
        runs
    }

    /// Verdicts as `channel:first-last`, with `!` for refused ones.
    fn told(confirms: &mut Confirms) -> Vec<String> {
        let show =
            |v: Verdict| format!("{}:{}-{}{}", v.channel, v.first, v.last, if v.refused { "!" } else { "" });
        confirms.release().into_iter().map(show).collect()
    }

    #[test]
    fn refusals_stand_alone() {
        for (publishes, refused, expect) in [
            (vec![(1, 0, 1), (1, 1, 2), (1, 2, 3)], vec![], vec!["1:1-3"]),
            (vec![(1, 0, 1), (1, 1, 2), (1, 2, 3)], vec![1], vec!["1:1-1", "1:2-2!", "1:3-3"]),
            (vec![(1, 0, 1), (1, 1, 2)], vec![0, 1], vec!["1:1-1!", "1:2-2!"]),
            (vec![(1, 0, 1), (1, 1, 2)], vec![1, 0, 1], vec!["1:1-1!", "1:2-2!"]),
            (vec![(1, 0, 5), (2, 1, 1), (1, 2, 6)], vec![], vec!["1:5-6", "2:1-1"]),
            (vec![(1, 0, 5), (2, 1, 1), (1, 2, 6)], vec![1], vec!["1:5-6", "2:1-1!"]),
            // Index 1 and 2 are further keys of the first publish; either refuses it.
            (vec![(1, 0, 1), (1, 3, 2)], vec![2], vec!["1:1-1!", "1:2-2"]),
            // Index 0 needs no confirm.
            (vec![(1, 1, 1)], vec![0], vec!["1:1-1"]),
        ] {
            let mut confirms = Confirms::default();
            let number = confirms.begin(runs(&publishes), publishes.len(), 0);
            confirms.finish(number, refused.clone());
            assert_eq!(told(&mut confirms), expect, "{publishes:?} refused {refused:?}");
        }
    }

    #[test]
    fn confirms_leave_in_the_order_of_tags() {
        let mut confirms = Confirms::default();
        let first = confirms.begin(runs(&[(1, 0, 1), (1, 1, 2)]), 2, 10);
        let second = confirms.begin(runs(&[(1, 0, 3), (2, 1, 1)]), 2, 20);
        let third = confirms.begin(runs(&[(1, 0, 4)]), 1, 30);
        assert_eq!((confirms.publishes(), confirms.bytes()), (5, 60));
        confirms.finish(third, vec![]);
        confirms.finish(second, vec![]);
        assert_eq!(told(&mut confirms), [""; 0]);
        confirms.finish(first, vec![]);
        assert_eq!(told(&mut confirms), ["1:1-4", "2:1-1"]);
        assert_eq!((confirms.publishes(), confirms.bytes()), (0, 0));
        let fourth = confirms.begin(runs(&[(1, 0, 5)]), 1, 1);
        confirms.finish(fourth, vec![0]);
        assert_eq!(told(&mut confirms), ["1:5-5!"]);
    }

    #[test]
    fn a_channel_opened_anew_is_another() {
        let mut confirms = Confirms::default();
        let mut runs = Vec::new();
        Run::add(&mut runs, 1, 7, 0, 1);
        Run::add(&mut runs, 1, 8, 1, 1);
        let number = confirms.begin(runs, 2, 0);
        confirms.finish(number, vec![]);
        let serials: Vec<u64> = confirms.release().iter().map(|v| v.serial).collect();
        assert_eq!(serials, [7, 8]);
    }
}
