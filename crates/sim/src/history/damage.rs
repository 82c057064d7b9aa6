//! What the broker says of damage, and whether it explains what is missing.

use super::History;
use posthaste_broker::{Damage, DamageKind};
use std::collections::BTreeSet;

/// What the broker said of damage, over all starts.
#[derive(Default)]
pub(super) struct ToldDamage {
    told: BTreeSet<String>,
    /// Missing messages.
    messages: u64,
    /// Messages that may be in records of which nobody knows what they were.
    records: u64,
    /// What was settled or committed may be lost, or a message's number.
    state: bool,
    /// Queues and topics may have lost their names.
    names: bool,
}

/// Octets that a message takes in the journal, at least.
const MESSAGE_OCTETS_MIN: u64 = 64;
/// Of small messages so many lie in the 32 KiB of a segment that a damaged length may cost.
const MESSAGES_PER_FLIP: u64 = 300;

impl ToldDamage {
    fn add(&mut self, damage: &Damage) {
        self.messages += damage.messages.unwrap_or(0);
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

    /// With changed bits: as much as is missing must have been told, and no more may be than they can hurt.
    pub(super) fn judge_damage(&mut self) {
        let (missing, strange) = (std::mem::take(&mut self.missing), std::mem::take(&mut self.strange));
        let told = &self.told_damage;
        let most = (told.messages + told.records).min(self.flips * MESSAGES_PER_FLIP);
        if !told.names && missing.len() as u64 > most {
            let count = missing.len();
            let told = format!("{} messages and {} records", told.messages, told.records);
            let first = missing.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
            self.wrong(format!(
                "{count} messages are missing, told were {told}, {} bits changed: {first}",
                self.flips
            ));
        }
        if let Some(first) = strange.first().filter(|_| !self.told_damage.state) {
            let first = first.clone();
            self.wrong(format!(
                "no damaged state was told, and {} things are strange: {first}",
                strange.len()
            ));
        }
    }
}
