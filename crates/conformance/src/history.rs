//! Judges what clients saw while the broker was killed again and again.
//!
//! Workers write one line per event; a message is known by its channel and its sequence number:
//!
//! ```text
//! sent CHANNEL SEQ                                       the producer is about to publish it
//! acked CHANNEL SEQ [PARTITION OFFSET]                   the broker acknowledged it
//! received CHANNEL CONSUMER SEQ first|again              a consumer got it; `again` when flagged as a redelivery
//! logged CHANNEL SEQ PARTITION OFFSET                    the audit found it in the log
//! committed NANOSECONDS CHANNEL PARTITION OFFSET         a commit was acknowledged
//! resumed NANOSECONDS CHANNEL PARTITION OFFSET           a consumer asked where to go on
//! session CHANNEL present|new                            a session was resumed, or was not there
//! corrupt CHANNEL TEXT                                   a payload that no producer wrote
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::{Context, Result, bail, ensure};

/// Keys per channel: the key of a message is its sequence number modulo this, so a partition's order is checkable.
pub const KEYS: u64 = 16;
/// Violations of one kind that are listed; the rest is counted.
const LISTED_MAX: usize = 5;

/// What a channel promises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Promise {
    /// A partitioned log: per key the first occurrences are in order, each acknowledged place holds its message.
    Log,
    /// The same, and each message is in it once, however often its producer repeats it.
    LogOnce,
    /// A queue with competing consumers; a message is published once, so a second delivery must be flagged.
    Queue,
    /// A session at least once; the producer may repeat what was not acknowledged.
    AtLeastOnce,
    /// A session exactly once.
    ExactlyOnce,
}

/// One channel: its name in the histories, its promise, and the channel whose messages it carries.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    pub name: &'static str,
    pub promise: Promise,
    /// Where `sent` and `acked` are found: itself, or the channel that crosses over to it.
    pub source: &'static str,
}

/// The channels of a crash run.
pub const CHANNELS: [Channel; 7] = [
    Channel { name: "log", promise: Promise::Log, source: "log" },
    Channel { name: "exact", promise: Promise::LogOnce, source: "exact" },
    Channel { name: "queue", promise: Promise::Queue, source: "queue" },
    Channel { name: "http", promise: Promise::Queue, source: "http" },
    Channel { name: "qos1", promise: Promise::AtLeastOnce, source: "qos1" },
    Channel { name: "qos2", promise: Promise::ExactlyOnce, source: "qos2" },
    Channel { name: "bus", promise: Promise::AtLeastOnce, source: "qos1" },
];

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Place {
    partition: u32,
    offset: u64,
}

#[derive(Clone, Copy, Debug)]
struct Received {
    sequence: u64,
    again: bool,
}

/// Everything that all workers wrote.
#[derive(Debug, Default)]
pub struct History {
    sent: HashMap<String, HashSet<u64>>,
    acked: HashMap<String, BTreeMap<u64, Option<Place>>>,
    /// Per channel and consumer, in the order of arrival.
    received: BTreeMap<(String, String), Vec<Received>>,
    logged: HashMap<String, Vec<(u64, Place)>>,
    committed: HashMap<(String, u32), Vec<(u64, u64)>>,
    resumed: Vec<(String, u32, u64, u64)>,
    sessions: BTreeMap<String, Vec<bool>>,
    corrupt: Vec<String>,
}

/// What was counted on one channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub sent: usize,
    pub acked: usize,
    pub received: usize,
    pub again: usize,
}

impl History {
    /// Adds the lines of one worker, which are in its order.
    pub fn add(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            self.add_line(line).with_context(|| format!("history line {line:?}"))?;
        }
        Ok(())
    }

    fn add_line(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["sent", channel, sequence] => {
                let fresh = self.sent.entry((*channel).to_owned()).or_default().insert(sequence.parse()?);
                ensure!(fresh, "a sequence number was used twice");
            }
            ["acked", channel, sequence] => self.ack(channel, sequence.parse()?, None),
            ["acked", channel, sequence, partition, offset] => {
                self.ack(channel, sequence.parse()?, Some(place(partition, offset)?));
            }
            ["received", channel, consumer, sequence, flag] => {
                let again = match *flag {
                    "first" => false,
                    "again" => true,
                    _ => bail!("unknown flag {flag}"),
                };
                let key = ((*channel).to_owned(), (*consumer).to_owned());
                self.received.entry(key).or_default().push(Received { sequence: sequence.parse()?, again });
            }
            ["logged", channel, sequence, partition, offset] => {
                let found = (sequence.parse()?, place(partition, offset)?);
                self.logged.entry((*channel).to_owned()).or_default().push(found);
            }
            ["committed", time, channel, partition, offset] => {
                let key = ((*channel).to_owned(), partition.parse()?);
                self.committed.entry(key).or_default().push((time.parse()?, offset.parse()?));
            }
            ["resumed", time, channel, partition, offset] => {
                self.resumed.push((
                    (*channel).to_owned(),
                    partition.parse()?,
                    time.parse()?,
                    offset.parse()?,
                ));
            }
            ["session", channel, "present"] => {
                self.sessions.entry((*channel).to_owned()).or_default().push(true)
            }
            ["session", channel, "new"] => {
                self.sessions.entry((*channel).to_owned()).or_default().push(false)
            }
            ["corrupt", channel, ..] => self.corrupt.push(format!("{channel}: {line}")),
            _ => bail!("not understood"),
        }
        Ok(())
    }

    fn ack(&mut self, channel: &str, sequence: u64, place: Option<Place>) {
        self.acked.entry(channel.to_owned()).or_default().insert(sequence, place);
    }

    pub fn counts(&self, channel: &Channel) -> Counts {
        let mut counts = Counts {
            sent: self.sent.get(channel.source).map_or(0, HashSet::len),
            acked: self.acked.get(channel.source).map_or(0, BTreeMap::len),
            ..Counts::default()
        };
        for received in self.received_on(channel) {
            counts.received += 1;
            counts.again += usize::from(received.again);
        }
        counts
    }

    /// How many acknowledged messages no consumer has received yet.
    pub fn outstanding(&self, channel: &Channel) -> usize {
        let received: HashSet<u64> = self.received_on(channel).map(|received| received.sequence).collect();
        let acked = self.acked.get(channel.source);
        acked.map_or(0, |acked| acked.keys().filter(|sequence| !received.contains(sequence)).count())
    }

    /// Acknowledged messages of a log that no audit found in it.
    pub fn not_logged(&self, channel: &Channel) -> Vec<u64> {
        let logged: HashSet<u64> = self.logged_on(channel).iter().map(|(sequence, _)| *sequence).collect();
        let acked = self.acked.get(channel.source).into_iter().flat_map(BTreeMap::keys);
        acked.filter(|sequence| !logged.contains(sequence)).copied().collect()
    }

    /// Every broken promise, in words; empty when all were kept.
    pub fn violations(&self, channels: &[Channel]) -> Vec<String> {
        let mut found = Vec::new();
        list(&mut found, "a payload was changed", self.corrupt.iter().cloned());
        for channel in channels {
            self.nothing_lost(channel, &mut found);
            self.nothing_invented(channel, &mut found);
            match channel.promise {
                Promise::Log => {
                    self.log_in_order(channel, &mut found);
                    self.acknowledged_places(channel, &mut found);
                }
                Promise::LogOnce => {
                    self.log_in_order(channel, &mut found);
                    self.acknowledged_places(channel, &mut found);
                    self.logged_once(channel, &mut found);
                }
                Promise::Queue => {
                    self.first_deliveries_in_order(channel, &mut found);
                    self.redeliveries_flagged(channel, &mut found);
                }
                Promise::AtLeastOnce => self.first_deliveries_in_order(channel, &mut found),
                Promise::ExactlyOnce => {
                    self.first_deliveries_in_order(channel, &mut found);
                    self.received_once(channel, &mut found);
                }
            }
        }
        self.offsets_resume(&mut found);
        self.sessions_resume(&mut found);
        found
    }

    fn received_on<'a>(&'a self, channel: &'a Channel) -> impl Iterator<Item = &'a Received> {
        self.received.iter().filter(|((name, _), _)| name == channel.name).flat_map(|(_, received)| received)
    }

    fn nothing_lost(&self, channel: &Channel, found: &mut Vec<String>) {
        let received: HashSet<u64> = self.received_on(channel).map(|received| received.sequence).collect();
        let Some(acked) = self.acked.get(channel.source) else {
            found.push(format!("{}: nothing was acknowledged", channel.name));
            return;
        };
        let lost = acked.keys().filter(|sequence| !received.contains(sequence));
        list(found, &format!("{}: acknowledged and never received", channel.name), lost);
        if matches!(channel.promise, Promise::Log | Promise::LogOnce) {
            let lost = self.not_logged(channel);
            list(found, &format!("{}: acknowledged and not in the log", channel.name), lost);
        }
    }

    fn nothing_invented(&self, channel: &Channel, found: &mut Vec<String>) {
        let none = HashSet::new();
        let sent = self.sent.get(channel.source).unwrap_or(&none);
        let invented: BTreeSet<u64> = self
            .received_on(channel)
            .map(|received| received.sequence)
            .chain(self.logged_on(channel).iter().map(|(sequence, _)| *sequence))
            .filter(|sequence| !sent.contains(sequence))
            .collect();
        list(found, &format!("{}: received and never sent", channel.name), invented.iter());
    }

    fn logged_on(&self, channel: &Channel) -> &[(u64, Place)] {
        self.logged.get(channel.name).map_or(&[], Vec::as_slice)
    }

    /// Offsets have no gaps, and the first occurrences of a key's messages are in the order in which they were sent.
    fn log_in_order(&self, channel: &Channel, found: &mut Vec<String>) {
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        let mut last: HashMap<u64, u64> = HashMap::new();
        let mut home: HashMap<u64, u32> = HashMap::new();
        let mut seen = HashSet::new();
        let (mut gaps, mut late, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, place) in self.logged_on(channel) {
            let expected = next.entry(place.partition).or_insert(0);
            if place.offset != *expected {
                gaps.push(format!("{} after {expected} in partition {}", place.offset, place.partition));
            }
            *expected = place.offset + 1;
            let key = sequence % KEYS;
            if *home.entry(key).or_insert(place.partition) != place.partition {
                moved.push(format!("key {key} in partition {}", place.partition));
            }
            if seen.insert(*sequence) {
                match last.get(&key) {
                    Some(before) if before > sequence => late.push(format!("{sequence} after {before}")),
                    _ => {
                        last.insert(key, *sequence);
                    }
                }
            }
        }
        list(found, &format!("{}: offsets have a gap", channel.name), gaps);
        list(found, &format!("{}: a key changed its partition", channel.name), moved);
        list(found, &format!("{}: out of order in its partition", channel.name), late);
    }

    fn acknowledged_places(&self, channel: &Channel, found: &mut Vec<String>) {
        let logged: HashMap<Place, u64> =
            self.logged_on(channel).iter().map(|(sequence, place)| (*place, *sequence)).collect();
        let acked = self.acked.get(channel.source).into_iter().flatten();
        let wrong = acked.filter_map(|(sequence, place)| {
            let place = (*place)?;
            let there = logged.get(&place);
            (there != Some(sequence)).then(|| format!("{sequence} at {place:?}, which holds {there:?}"))
        });
        list(found, &format!("{}: an acknowledged place holds something else", channel.name), wrong);
    }

    fn logged_once(&self, channel: &Channel, found: &mut Vec<String>) {
        let mut seen = HashSet::new();
        let twice = self.logged_on(channel).iter().filter(|(sequence, _)| !seen.insert(*sequence));
        let twice: Vec<u64> = twice.map(|(sequence, _)| *sequence).collect();
        list(found, &format!("{}: more than once in the log", channel.name), twice);
    }

    /// Per consumer, deliveries that are not flagged and not repeated by the producer come in the order of sending.
    fn first_deliveries_in_order(&self, channel: &Channel, found: &mut Vec<String>) {
        let mut late = Vec::new();
        for ((name, consumer), deliveries) in &self.received {
            if name != channel.name {
                continue;
            }
            let (mut seen, mut last) = (HashSet::new(), None);
            for delivery in deliveries {
                if !seen.insert(delivery.sequence) || delivery.again {
                    continue;
                }
                if last.is_some_and(|last| last > delivery.sequence) {
                    late.push(format!("{consumer} got {} after {last:?}", delivery.sequence));
                }
                last = last.max(Some(delivery.sequence));
            }
        }
        list(found, &format!("{}: first deliveries out of order", channel.name), late);
    }

    /// A message that was published once is delivered at most once without the flag.
    fn redeliveries_flagged(&self, channel: &Channel, found: &mut Vec<String>) {
        let mut first = HashSet::new();
        let unflagged =
            self.received_on(channel).filter(|received| !received.again && !first.insert(received.sequence));
        let unflagged: Vec<u64> = unflagged.map(|received| received.sequence).collect();
        list(found, &format!("{}: delivered again without the flag", channel.name), unflagged);
    }

    fn received_once(&self, channel: &Channel, found: &mut Vec<String>) {
        let mut seen = HashSet::new();
        let twice: Vec<u64> = self
            .received_on(channel)
            .map(|r| r.sequence)
            .filter(|sequence| !seen.insert(*sequence))
            .collect();
        list(found, &format!("{}: received more than once", channel.name), twice);
    }

    /// A consumer never goes on before what an earlier commit confirmed.
    fn offsets_resume(&self, found: &mut Vec<String>) {
        let back = self.resumed.iter().filter_map(|(channel, partition, asked, offset)| {
            let commits = self.committed.get(&(channel.clone(), *partition))?;
            let confirmed =
                commits.iter().filter(|(time, _)| time < asked).map(|(_, offset)| *offset).max()?;
            (*offset < confirmed)
                .then(|| format!("{channel}/{partition}: {offset} after a commit of {confirmed}"))
        });
        list(found, "a consumer resumed before its committed offset", back);
    }

    fn sessions_resume(&self, found: &mut Vec<String>) {
        let lost = self.sessions.iter().filter(|(_, present)| present.iter().skip(1).any(|present| !present));
        list(found, "a session was not there after a restart", lost.map(|(channel, _)| channel.clone()));
    }
}

fn place(partition: &str, offset: &str) -> Result<Place> {
    Ok(Place { partition: partition.parse()?, offset: offset.parse()? })
}

fn list<T: ToString>(found: &mut Vec<String>, what: &str, items: impl IntoIterator<Item = T>) {
    let items: Vec<T> = items.into_iter().collect();
    if items.is_empty() {
        return;
    }
    let shown: Vec<String> = items.iter().take(LISTED_MAX).map(ToString::to_string).collect();
    let more = if items.len() > LISTED_MAX { ", ..." } else { "" };
    found.push(format!("{what} ({}): {}{more}", items.len(), shown.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(promise: Promise) -> Channel {
        Channel { name: "c", promise, source: "c" }
    }

    fn violations(promise: Promise, lines: &[&str]) -> Vec<String> {
        let mut history = History::default();
        history.add(&lines.join("\n")).unwrap();
        history.violations(&[channel(promise)])
    }

    /// `expect` is the beginning of the only violation; empty when all promises are kept.
    fn check(promise: Promise, lines: &[&str], expect: &str) {
        let found = violations(promise, lines);
        if expect.is_empty() {
            assert_eq!(found, Vec::<String>::new());
        } else {
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(expect), "{found:?}");
        }
    }

    const ONE: [&str; 2] = ["sent c 0", "acked c 0"];

    #[test]
    fn lost_and_invented_messages_are_found() {
        let queue = Promise::Queue;
        check(queue, &[ONE[0], ONE[1], "received c a 0 first"], "");
        check(queue, &[ONE[0], ONE[1]], "c: acknowledged and never received (1): 0");
        check(
            queue,
            &[ONE[0], ONE[1], "received c a 0 first", "received c a 1 first"],
            "c: received and never",
        );
        check(queue, &[ONE[0], ONE[1], "received c a 0 first", "sent c 1"], "");
        check(queue, &[ONE[0], ONE[1], "received c a 0 first", "corrupt c xyz"], "a payload was changed");
        check(queue, &["sent c 0"], "c: nothing was acknowledged");
    }

    #[test]
    fn order_and_flags_of_queues_are_checked() {
        let sent = ["sent c 0", "sent c 1", "acked c 1"];
        let with = |lines: &[&'static str]| sent.iter().chain(lines).copied().collect::<Vec<_>>();
        check(Promise::Queue, &with(&["received c a 1 first", "received c b 0 first"]), "");
        check(
            Promise::Queue,
            &with(&["received c a 1 first", "received c a 0 first"]),
            "c: first deliveries out",
        );
        check(Promise::Queue, &with(&["received c a 1 first", "received c a 0 again"]), "");
        check(
            Promise::Queue,
            &with(&["received c a 1 first", "received c b 1 first"]),
            "c: delivered again without",
        );
        check(Promise::Queue, &with(&["received c a 1 first", "received c b 1 again"]), "");
    }

    #[test]
    fn sessions_are_checked_for_order_and_repetition() {
        let sent = ["sent c 0", "sent c 1", "acked c 1"];
        let with = |lines: &[&'static str]| sent.iter().chain(lines).copied().collect::<Vec<_>>();
        let repeated = with(&["received c a 0 first", "received c a 1 first", "received c a 1 first"]);
        check(Promise::AtLeastOnce, &repeated, "");
        check(Promise::ExactlyOnce, &repeated, "c: received more than once (1): 1");
        check(
            Promise::AtLeastOnce,
            &with(&["received c a 1 first", "received c a 0 first"]),
            "c: first deliveries",
        );
        let lost = with(&["received c a 1 first", "session c new", "session c new"]);
        check(Promise::AtLeastOnce, &lost, "a session was not there");
    }

    #[test]
    fn logs_are_checked_against_their_audit() {
        let log = Promise::Log;
        let sent = ["sent c 0", "sent c 16", "acked c 0 0 0", "acked c 16 0 1"];
        let received = ["received c a 0 first", "received c a 16 first"];
        let with =
            |lines: &[&'static str]| sent.iter().chain(&received).chain(lines).copied().collect::<Vec<_>>();
        check(log, &with(&["logged c 0 0 0", "logged c 16 0 1"]), "");
        let repeated = ["logged c 0 0 0", "logged c 16 0 1", "logged c 16 0 2"];
        check(log, &with(&repeated), "");
        check(Promise::LogOnce, &with(&repeated[..2]), "");
        check(Promise::LogOnce, &with(&repeated), "c: more than once in the log (1): 16");
        check(log, &with(&["logged c 0 0 0", "logged c 16 0 1", "logged c 16 0 3"]), "c: offsets have a gap");
        check(log, &with(&["logged c 0 0 0", "logged c 16 0 1", "logged c 16 1 0"]), "c: a key changed its");
        let swapped = violations(log, &with(&["logged c 16 0 0", "logged c 0 0 1"]));
        assert!(swapped.iter().any(|text| text.starts_with("c: out of order")), "{swapped:?}");
        assert!(swapped.iter().any(|text| text.starts_with("c: an acknowledged place")), "{swapped:?}");
        let missing = violations(log, &with(&["logged c 0 0 0"]));
        assert!(
            missing.iter().any(|text| text.starts_with("c: acknowledged and not in the log")),
            "{missing:?}"
        );
    }

    #[test]
    fn consumers_must_not_go_back_behind_a_commit() {
        let base = ["sent c 0", "acked c 0", "received c a 0 first"];
        let with = |lines: &[&'static str]| base.iter().chain(lines).copied().collect::<Vec<_>>();
        check(Promise::Queue, &with(&["committed 10 c 0 5", "resumed 11 c 0 5"]), "");
        check(Promise::Queue, &with(&["committed 10 c 0 5", "resumed 9 c 0 0"]), "");
        check(
            Promise::Queue,
            &with(&["committed 10 c 0 5", "resumed 11 c 0 4"]),
            "a consumer resumed before",
        );
    }

    #[test]
    fn broken_lines_are_refused() {
        assert!(History::default().add("received c a").is_err());
        assert!(History::default().add("sent c 1\nsent c 1").is_err());
    }
}
