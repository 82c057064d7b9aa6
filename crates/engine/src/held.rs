//! Recovery of a shard whose state is partly lost. Every checkpoint tells beside the state how many messages
//! only the state holds; [`Durable::mend`] makes the parts that are left fit together.

use crate::{
    durable::{Durable, Entity, Outgoing},
    effect::OutboxItem,
    range_set::RangeSet,
};
use posthaste_model::DeathReason;
use serde::{Deserialize, Serialize};

/// Ranges of numbers, at most. Where there are more, the first ones become one.
const RANGES_MAX: usize = 512;

/// How many messages only the state of a shard holds: segments and journal do not have them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Messages in the outbox that no queue's log holds.
    pub relays: u64,
    /// Their numbers, in ascending ranges without the end.
    numbers: Vec<(u64, u64)>,
    pub retained: u64,
}

impl Held {
    pub(crate) fn of(durable: &Durable) -> Held {
        let mut ranges = RangeSet::new();
        let mut relays = 0;
        for number in relays_of(durable) {
            relays += 1;
            ranges.insert(number, number + 1);
        }
        let mut numbers: Vec<(u64, u64)> = ranges.iter().collect();
        if numbers.len() > RANGES_MAX {
            let too_many = numbers.len() - RANGES_MAX;
            let start = numbers.first().map_or(0, |(start, _)| *start);
            numbers.drain(..too_many);
            numbers.first_mut().into_iter().for_each(|first| first.0 = start);
        }
        Held { relays, numbers, retained: durable.retained.len() as u64 }
    }

    /// Whether the message with this number was in the outbox, or may have been.
    pub fn includes(&self, number: u64) -> bool {
        self.numbers.iter().any(|(start, end)| (*start..*end).contains(&number))
    }

    /// How many of the outbox's messages a state lacks, at most.
    pub(crate) fn lacking_in(&self, durable: &Durable) -> u64 {
        let is_exact = self.numbers.iter().map(|(start, end)| end - start).sum::<u64>() == self.relays;
        let present = relays_of(durable).filter(|number| is_exact && self.includes(*number)).count();
        self.relays.saturating_sub(present as u64)
    }
}

impl Durable {
    /// Parts of the state are lost, and the others may be of different times. New messages must not be taken
    /// for repetitions, so ids of received ones are forgotten. Dead letters that are missing in the
    /// outbox are put back: their destination knows the number if they have arrived.
    pub(crate) fn mend(&mut self) {
        let mut changed = Vec::new();
        let mut stranded = Vec::new();
        for (id, queue) in &mut self.queues {
            if !queue.received.is_empty() {
                queue.received.clear();
                changed.push(*id);
            }
            let target = &queue.spec.config.dead_letter;
            for (lane, state) in (0..=u8::MAX).zip(&mut queue.lanes) {
                let stream = queue.spec.streams.get(usize::from(lane)).copied().unwrap_or(id.0);
                let is_known = |number: &u64| self.outbox.entries.contains_key(number);
                let lost: Vec<(u64, u64)> =
                    state.moving.iter().filter(|(_, n)| !is_known(n)).map(|(o, n)| (*o, *n)).collect();
                for (offset, number) in lost {
                    // The reason was lost with the entry.
                    let (queue, reason) = (*id, DeathReason::Rejected);
                    match target.clone() {
                        Some(target) => stranded.push((
                            number,
                            OutboxItem::DeadLetter { queue, lane, stream, offset, reason, target },
                        )),
                        None => {
                            state.moving.remove(&offset);
                            changed.push(queue);
                        }
                    }
                }
            }
        }
        self.dirty.extend(changed.into_iter().map(Entity::Queue));
        if !stranded.is_empty() {
            self.dirty.insert(Entity::Outbox);
        }
        for (number, item) in stranded {
            self.outbox.add(number, Outgoing { item, to: None });
        }
    }
}

fn relays_of(durable: &Durable) -> impl Iterator<Item = u64> {
    let is_relay = |item: &OutboxItem| matches!(item, OutboxItem::Relay { .. });
    durable.outbox.entries.iter().filter(move |(_, entry)| is_relay(&entry.item)).map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{DeadLetter, QueueConfig},
        event::{Event, QueueSpec},
    };
    use bytes::Bytes;
    use posthaste_model::{Envelope, Format, Name, Payload, QueueId, Subject, Timestamp};

    fn with_relays(numbers: impl IntoIterator<Item = u64>) -> Durable {
        let mut durable = Durable::default();
        for number in numbers {
            let envelope = Envelope::new(Subject::dotted("s").unwrap(), Timestamp(0));
            let payload = Payload { format: Format(0), head: Bytes::new(), body: Bytes::new() };
            durable.apply(&Event::Relayed { number, to: Vec::new(), envelope, payload });
        }
        durable
    }

    #[test]
    fn a_state_tells_how_many_of_the_outbox_it_lacks() {
        let mut whole = with_relays([1, 2, 3, 9]);
        whole.apply(&Event::OutboxDone { ranges: smallvec::smallvec![(2, 3)] });
        let held = Held::of(&whole);
        assert_eq!(held.relays, 3);
        // Numbers that a state has, and how many it lacks.
        for (numbers, lacking) in [(vec![], 3), (vec![3], 2), (vec![2, 4], 3), (vec![1, 3, 9], 0)] {
            assert_eq!(held.lacking_in(&with_relays(numbers.clone())), lacking, "of {numbers:?}");
        }
        assert_eq!([1, 2, 3, 4, 9].map(|number| held.includes(number)), [true, false, true, false, true]);
    }

    #[test]
    fn where_numbers_are_too_scattered_none_is_left_out() {
        let scattered = || (0..2 * RANGES_MAX as u64).map(|index| 1 + 2 * index);
        let held = Held::of(&with_relays(scattered()));
        assert!(held.numbers.len() <= RANGES_MAX);
        assert!(scattered().all(|number| held.includes(number)));
        let last = scattered().next_back().unwrap();
        assert_eq!(held.lacking_in(&with_relays([last])), held.relays, "which are there cannot be told");
    }

    #[test]
    fn dead_letters_without_their_entry_are_sent_again_or_stay() {
        let target = DeadLetter { exchange: None, subject: None };
        for target in [Some(target), None] {
            let mut durable = Durable::default();
            let queue = QueueId(1);
            let config = QueueConfig { dead_letter: target.clone(), ..QueueConfig::default() };
            let spec = QueueSpec {
                namespace: Name::constant("default"),
                name: Name::constant("q"),
                streams: vec![1],
                config,
                durable: true,
                auto_delete: false,
                over: None,
            };
            durable.apply(&Event::QueueOpened { queue, spec });
            durable.apply(&Event::Received { queue, id: 7 });
            let lane = &mut durable.queues.get_mut(&queue).unwrap().lanes[0];
            lane.add(0, None, None);
            lane.moves(0, 5);

            durable.mend();
            let known = durable.queues.get(&queue).unwrap();
            assert!(known.received.is_empty(), "a new message would be taken for a repetition");
            let is_sent = durable.outbox.entries.contains_key(&5);
            assert_eq!(is_sent, target.is_some());
            assert_eq!(known.lanes[0].moving.is_empty(), target.is_none());
            assert_eq!(durable.outbox.last, if is_sent { 5 } else { 0 });
        }
    }
}
