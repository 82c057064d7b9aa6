//! What the broker says of damage, and whether it explains what is missing.

use super::History;
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
    /// Queues and topics may have lost their names.
    names: bool,
}

/// Something that was there and is not.
pub(super) struct Missing {
    /// Where it was, if it can have been lost nowhere else.
    pub object: Option<String>,
    /// What it had to be read from before.
    pub source: Option<String>,
    pub text: String,
}

pub(super) fn partition(topic: &str, partition: i32) -> String {
    format!("topic {topic}/{partition}")
}

pub(super) fn queue(queue: &str) -> String {
    format!("queue {queue}")
}

/// Octets that a message takes in the journal, at least.
const MESSAGE_OCTETS_MIN: u64 = 64;
/// Of small messages so many lie in the 32 KiB of a segment that a damaged length may cost.
const MESSAGES_PER_FLIP: u64 = 300;

impl ToldDamage {
    /// How many missing messages were told that may be an object's, which is fed from `source`; without an
    /// object, that may be anything's.
    fn of(&self, object: Option<&str>, source: Option<&str>) -> u64 {
        let is_of = |name: &str, whole: &str| {
            name.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let counts = self.by_object.iter().filter(|(name, _)| {
            object.is_none_or(|object| is_of(name, object)) || source.is_some_and(|s| is_of(name, s))
        });
        counts.map(|(_, told)| told).sum::<u64>() + self.messages + self.records
    }

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
        match damage.kind {
            DamageKind::Journal => {
                self.state = true;
                self.records += 1 + damage.bytes.unwrap_or(0) / MESSAGE_OCTETS_MIN;
            }
            DamageKind::Checkpoint => {
                let lost = damage.what.contains("state lost");
                self.state |= lost;
                self.names |= lost;
            }
            DamageKind::Name => (self.state, self.names) = (true, true),
            DamageKind::Messages | DamageKind::Segment => {}
        }
    }
}

impl History {
    /// The broker says that something is damaged.
    pub fn damage(&mut self, damage: &Damage) {
        let text = damage.to_string();
        if !self.told_damage.told.insert(text.clone()) {
            return;
        }
        self.note(format_args!("damage: {text}"));
        if self.flips == 0 {
            return self.wrong(format!("damage is told and there is none: {text}"));
        }
        self.told_damage.add(damage);
    }

    /// The broker refuses to start, as it may with both generations of its names and positions damaged.
    pub fn refused(&mut self, text: String) {
        match self.flips {
            0 => self.wrong(text),
            _ => self.note(format_args!("refused: {text}")),
        }
        (self.told_damage.state, self.told_damage.names) = (true, true);
    }

    /// With changed bits: what is missing of an object must have been told of it, or of something that may
    /// have been its; what may have been lost anywhere, of anything. No more may be than the bits can hurt. A
    /// lost record may be one that made an object: what is sent to it from then on goes nowhere.
    pub(super) fn judge_damage(&mut self) {
        let (missing, strange) = (std::mem::take(&mut self.missing), std::mem::take(&mut self.strange));
        let (told, hurt) = (&self.told_damage, self.flips * MESSAGES_PER_FLIP);
        let mut objects: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for Missing { object, source, text } in &missing {
            objects.entry((object.as_deref(), source.as_deref())).or_default().push(text);
        }
        let unexplained: Vec<_> = objects
            .into_iter()
            .filter(|((object, source), texts)| texts.len() as u64 > told.of(*object, *source).min(hurt))
            .collect();
        let without_part = |object: Option<&str>| object.and_then(|o| o.split('/').next()).map(str::to_owned);
        let names: BTreeSet<_> = unexplained.iter().map(|((object, _), _)| without_part(*object)).collect();
        let mut wrong = Vec::new();
        if !told.names && names.len() as u64 > told.records {
            for ((object, source), texts) in unexplained {
                let object = object.unwrap_or("something");
                let (count, told) = (texts.len(), told.of(Some(object), source));
                let first = texts.iter().take(3).copied().collect::<Vec<_>>().join("; ");
                let changed = format!("{} bits changed", self.flips);
                wrong.push(format!("{count} of {object} are missing, {told} were told, {changed}: {first}"));
            }
        }
        wrong.into_iter().for_each(|text| self.wrong(text));
        if let Some(first) = strange.first().filter(|_| !self.told_damage.state) {
            let first = first.clone();
            self.wrong(format!(
                "no damaged state was told, and {} things are strange: {first}",
                strange.len()
            ));
        }
    }
}
