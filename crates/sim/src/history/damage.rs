//! What the broker says of damage, and whether it explains what is missing.

use super::{History, names::whole};
use posthaste_broker::{Damage, DamageKind};
use posthaste_engine::catalog::Resource;
use std::collections::{BTreeMap, BTreeSet};

/// What the broker said of damage, over all starts.
#[derive(Default)]
pub(super) struct ToldDamage {
    told: BTreeSet<String>,
    /// Missing messages of each object.
    by_object: BTreeMap<String, u64>,
    /// Missing messages of which it is not known whose they were.
    messages: u64,
    /// Messages that may be in records of which nobody knows what they were.
    records: u64,
    /// What was settled or committed may be lost, or a message's number.
    state: bool,
    /// So many names may be lost.
    names: u64,
}

/// What has changed of what is stored.
#[derive(Default)]
pub(super) struct Hurt {
    /// How often.
    times: u64,
    /// So often where messages of any object may have been.
    anywhere: u64,
    /// So often at the journal's end, before it was noted that it is durable: it passes for an end that had
    /// not been synced, as docs/durability.md says.
    unnoted: u64,
    /// So often where messages of an object were, by its stream.
    streams: BTreeMap<u64, u64>,
}

/// Something that was there and is not.
pub(super) struct Missing {
    /// Where it was, if it can have been lost nowhere else.
    pub object: Option<String>,
    /// What it had to leave before: queues, and topics with any of their partitions.
    pub sources: Vec<String>,
    pub text: String,
}

pub(super) fn partition(topic: &str, partition: i32) -> String {
    format!("topic {topic}/{partition}")
}

/// All partitions' names begin with it.
pub(super) fn topic(topic: &str) -> String {
    format!("topic {topic}/")
}

pub(super) fn queue(queue: &str) -> String {
    format!("queue {queue}")
}

/// What holds a session's messages.
pub(super) fn session(session: &str) -> String {
    queue(&format!("mqtt-subscription-{session}"))
}

/// Octets that a message takes in the journal, at least.
const MESSAGE_OCTETS_MIN: u64 = 64;
/// Of small messages so many lie in the 32 KiB of a segment that a damaged length may cost.
const MESSAGES_PER_FLIP: u64 = 300;

impl ToldDamage {
    fn add(&mut self, damage: &Damage) {
        let messages = damage.messages.unwrap_or(0);
        match &damage.object {
            Some(object) => {
                let name = match object.resource {
                    Resource::Queue => queue(&object.name),
                    _ => partition(&object.name, i32::try_from(object.part).unwrap_or(i32::MAX)),
                };
                *self.by_object.entry(name).or_default() += messages;
            }
            None => self.messages += messages,
        }
        self.names += damage.names.unwrap_or(0);
        match damage.kind {
            DamageKind::Journal => {
                self.state = true;
                self.records += 1 + damage.bytes.unwrap_or(0) / MESSAGE_OCTETS_MIN;
            }
            DamageKind::Checkpoint => self.state |= damage.what.contains("state lost"),
            DamageKind::Name => (self.state, self.names) = (true, self.names + 1),
            DamageKind::Messages | DamageKind::Segment => {}
        }
    }
}

impl ToldDamage {
    /// Whether an object's entry in the catalog was told to be lost, though it has the name again; any's
    /// entry, if it may be anybody's.
    fn renamed(&self, object: Option<&str>) -> bool {
        let Some(object) = object else { return self.names > 0 };
        let Some((_, name)) = whole(object).split_once(' ') else { return false };
        let has_it = |told: &String| {
            told.contains("was lost; it is ")
                && told.split([' ', ',', ';']).any(|word| word == format!("default/{name}"))
        };
        self.told.iter().any(has_it)
    }
}

impl Hurt {
    /// How often something changed that may have been an object's, or that of what `sources` name.
    fn times_of(&self, named: &BTreeMap<u64, String>, of: impl Fn(&str) -> bool) -> u64 {
        let is_its = |stream: &u64| named.get(stream).is_none_or(|name| of(name));
        let its = self.streams.iter().filter(|(stream, _)| is_its(stream)).map(|(_, times)| times);
        self.anywhere + its.sum::<u64>()
    }
}

impl History {
    /// What is stored has changed, so many times. `streams`: whose messages were there, if that is known.
    /// `unnoted`: it may pass for an end of the journal that had not been synced.
    pub fn hurt(&mut self, times: u64, streams: Option<BTreeSet<u64>>, unnoted: bool) {
        self.hurt.times += times;
        self.hurt.unnoted += if unnoted { times } else { 0 };
        match streams {
            None => self.hurt.anywhere += times,
            Some(streams) => {
                streams.into_iter().for_each(|stream| *self.hurt.streams.entry(stream).or_default() += times);
            }
        }
    }

    /// The broker says that something is damaged.
    pub fn damage(&mut self, damage: &Damage) {
        let text = damage.to_string();
        if !self.told_damage.told.insert(text.clone()) {
            return;
        }
        self.note(format_args!("damage: {text}"));
        if self.hurt.times == 0 {
            return self.wrong(format!("damage is told and there is none: {text}"));
        }
        self.told_damage.add(damage);
    }

    /// The broker refuses to start, as it may with both generations of its names and positions damaged.
    pub fn refused(&mut self, text: String) {
        match self.hurt.times {
            0 => self.wrong(text),
            _ => self.note(format_args!("refused: {text}")),
        }
        self.told_damage.state = true;
    }

    /// With changed bits: what is missing of an object must have been told of it, or of something that may
    /// have been its; what may have been lost anywhere, of anything. No more may be than what changed where
    /// it lay can hurt. Whose name was lost, and was told to be, lacks what it may.
    pub(super) fn judge_damage(&mut self) {
        let (missing, strange) = (std::mem::take(&mut self.missing), std::mem::take(&mut self.strange));
        let mut objects: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for Missing { object, sources, text } in &missing {
            objects.entry((object.as_deref(), sources)).or_default().push(text);
        }
        let mut wrong = self.judge_names();
        for ((object, sources), texts) in objects {
            let is_its = |name: &str| {
                let is_source = |source: &String| {
                    name == source || source.ends_with('/') && name.starts_with(source.as_str())
                };
                object.is_none_or(|object| name == object) || sources.iter().any(is_source)
            };
            // A topic that has lost some partitions may have others in the place of these.
            let is_hurt =
                |name: &str| object.is_none_or(|object| whole(name) == whole(object)) || is_its(name);
            let has_lost_its_name = self.names.lost().any(is_hurt) || self.told_damage.renamed(object);
            if !has_lost_its_name {
                wrong.extend(self.judge_object(object, is_its, &texts));
            }
        }
        wrong.into_iter().for_each(|text| self.wrong(text));
        if let Some(first) = strange.first().filter(|_| !self.told_damage.state && self.hurt.unnoted == 0) {
            let first = first.clone();
            self.wrong(format!(
                "no damaged state was told, and {} things are strange: {first}",
                strange.len()
            ));
        }
    }

    fn judge_object(
        &self,
        object: Option<&str>,
        is_its: impl Fn(&str) -> bool,
        missing: &[&str],
    ) -> Option<String> {
        let told = &self.told_damage;
        let of_it: u64 = told.by_object.iter().filter(|(name, _)| is_its(name)).map(|(_, told)| told).sum();
        let hurt = self.hurt.times_of(self.names.streams(), is_its);
        let untold = self.hurt.unnoted * MESSAGES_PER_FLIP;
        let most = (of_it + told.messages + told.records + untold).min(hurt * MESSAGES_PER_FLIP);
        let count = missing.len();
        (count as u64 > most).then(|| {
            let first = missing.iter().take(3).copied().collect::<Vec<_>>().join("; ");
            let object = object.unwrap_or("what may have been lost anywhere");
            format!(
                "{count} messages of {object} are missing, told were {of_it} of it, {} messages and {} \
                 records of unknown objects, {hurt} changes were where they may have been: {first}",
                told.messages, told.records
            )
        })
    }

    /// No more names may be lost than the broker told.
    fn judge_names(&self) -> Vec<String> {
        let told = &self.told_damage;
        let mut wrong = Vec::new();
        let lost: Vec<&str> = self.names.lost().collect();
        let most = told.names + told.messages + told.records + self.hurt.unnoted * MESSAGES_PER_FLIP;
        if lost.len() as u64 > most {
            let lost = lost.join(", ");
            wrong.push(format!("names were lost, and at most {most} were told to be: {lost}"));
        }
        for name in self.names.made_up() {
            if !told.told.iter().any(|told| told.contains(&format!("/{name}"))) {
                wrong.push(format!("{name} was made up, and nobody was told"));
            }
        }
        wrong
    }
}
