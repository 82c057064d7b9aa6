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
    /// A topic that it had to be read from before.
    pub source: Option<&'static str>,
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
    /// have been its; what may have been lost anywhere, of anything. No more may be than the bits can hurt.
    pub(super) fn judge_damage(&mut self) {
        let (missing, strange) = (std::mem::take(&mut self.missing), std::mem::take(&mut self.strange));
        let (told, hurt) = (&self.told_damage, self.flips * MESSAGES_PER_FLIP);
        let anywhere = told.messages + told.records;
        let mut objects: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for Missing { object, source, text } in &missing {
            objects.entry((object.as_deref(), *source)).or_default().push(text);
        }
        let mut wrong = Vec::new();
        for ((object, source), texts) in objects {
            let of_source = |(name, _): &(&String, &u64)| {
                source.is_some_and(|source| name.starts_with(&format!("topic {source}/")))
            };
            let of_it = match object {
                Some(object) => {
                    let of_source: u64 = told.by_object.iter().filter(of_source).map(|(_, told)| told).sum();
                    told.by_object.get(object).copied().unwrap_or_default() + of_source
                }
                None => told.by_object.values().sum(),
            };
            if !told.names && texts.len() as u64 > (of_it + anywhere).min(hurt) {
                let (count, first) =
                    (texts.len(), texts.iter().take(3).copied().collect::<Vec<_>>().join("; "));
                let object = object.unwrap_or("what may have been lost anywhere");
                wrong.push(format!(
                    "{count} messages of {object} are missing, told were {of_it} of it, {} messages and {} \
                     records of unknown objects, {} bits changed: {first}",
                    told.messages, told.records, self.flips
                ));
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
