//! Settlement: which messages of a log are ready, leased, delayed, settled, and how often each was delivered.
//!
//! It keeps no list of the backlog. A [`DurableLane`] is a floor, the settled ranges above it, and entries
//! only for messages that wait for a time or were returned; a [`LiveLane`] is a cursor and what is in flight.
//! Queues run it over their own log, subscriptions over a partition's.

use crate::range_set::RangeSet;
use posthaste_model::{ConsumerId, Envelope, Payload, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry};

/// Where a message stands in its lane. Messages without durability take no offset: they stand between
/// durable ones, in the order of their arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub offset: u64,
    /// Counts the messages without durability before the durable one with this offset.
    minor: u64,
}

impl Position {
    pub fn durable(offset: u64) -> Position {
        Position { offset, minor: u64::MAX }
    }

    pub fn is_durable(self) -> bool {
        self.minor == u64::MAX
    }
}

/// The durable half of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DurableLane {
    /// The offset of the next message.
    pub next: u64,
    /// Everything below is settled.
    pub floor: u64,
    /// What is settled at or above the floor.
    pub settled: RangeSet,
    /// Everything at or above was never delivered, as far as the journal knows.
    pub delivered_to: u64,
    /// How often a message was delivered in vain.
    pub attempts: BTreeMap<u64, u32>,
    pub expiring: BTreeMap<u64, Timestamp>,
    pub delayed: BTreeMap<u64, Timestamp>,
    /// On their way to another place, by number of the outbox entry.
    pub moving: BTreeMap<u64, u64>,
}

impl DurableLane {
    /// Messages that are held: neither settled nor on their way elsewhere.
    pub fn live(&self) -> u64 {
        (self.next - self.floor) - self.settled.count() - self.moving.len() as u64
    }

    pub fn add(&mut self, offset: u64, expires: Option<Timestamp>, due: Option<Timestamp>) {
        // A gap means that the journal lost what was between; it counts as settled.
        if offset > self.next {
            self.settle(self.next, offset);
        }
        self.next = self.next.max(offset + 1);
        if let Some(expires) = expires {
            self.expiring.insert(offset, expires);
        }
        if let Some(due) = due {
            self.delayed.insert(offset, due);
        }
    }

    /// Puts a message on its way to another place, by the number of its outbox entry.
    pub fn moves(&mut self, offset: u64, number: u64) {
        // With damaged storage it may not be known that it came, or known that it left.
        if offset >= self.next {
            self.add(offset, None, None);
        }
        if !self.is_settled(offset) {
            self.delayed.remove(&offset);
            self.expiring.remove(&offset);
            self.moving.insert(offset, number);
        }
    }

    /// Settles `start..end`.
    pub fn settle(&mut self, start: u64, end: u64) {
        let start = start.max(self.floor);
        if start >= end {
            return;
        }
        self.next = self.next.max(end);
        for map in [&mut self.expiring, &mut self.delayed] {
            remove_range(map, start, end);
        }
        remove_range(&mut self.attempts, start, end);
        remove_range(&mut self.moving, start, end);
        if start == self.floor {
            self.floor = end;
            self.settled.remove_below(end);
        } else {
            self.settled.insert(start, end);
        }
        if let Some(end) = self.settled.take_range_at(self.floor) {
            self.floor = end;
        }
    }

    /// Settles everything but what is on its way to another place.
    pub fn drain(&mut self) {
        let moving: Vec<u64> = self.moving.keys().copied().collect();
        let mut from = self.floor;
        for kept in moving.into_iter().chain([self.next]) {
            self.settle(from, kept);
            from = kept + 1;
        }
    }

    pub fn is_settled(&self, offset: u64) -> bool {
        offset < self.floor || self.settled.contains(offset)
    }
}

fn remove_range<V>(map: &mut BTreeMap<u64, V>, start: u64, end: u64) {
    while let Some(key) = map.range(start..end).next().map(|(key, _)| *key) {
        map.remove(&key);
    }
}

/// A delivered message that is not settled yet.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub consumer: ConsumerId,
    /// How often it has been delivered, this time included.
    pub attempt: u32,
}

/// A message that is held in memory only.
#[derive(Clone, Debug)]
pub(crate) struct TransientMessage {
    pub envelope: Envelope,
    pub payload: Payload,
    pub attempts: u32,
}

impl TransientMessage {
    pub fn bytes(&self) -> u64 {
        (self.payload.body.len() + self.payload.head.len() + 128) as u64
    }
}

/// The volatile half of a lane.
#[derive(Debug, Default)]
pub(crate) struct LiveLane {
    /// Durable messages at or above were not handed out since the start.
    pub cursor: u64,
    /// Durable messages below may have been delivered before the start.
    pub suspect_to: u64,
    /// What is at or above came since the last round of deliveries.
    pub seen: Position,
    /// Ready again, or ready late; true when delivered before.
    pub released: BTreeMap<Position, bool>,
    pub leased: BTreeMap<Position, Lease>,
    pub transient: BTreeMap<Position, TransientMessage>,
    /// Transient messages not handed out yet, and some that are gone.
    transient_ready: VecDeque<Position>,
    pub transient_delayed: BTreeSet<Position>,
    /// What came since the last round of deliveries, by ascending offset, for consumers that keep up.
    recent: VecDeque<(u64, Envelope, Payload)>,
    /// Of what came lately: from which offset on messages are in which batch.
    batches: VecDeque<(u64, u64)>,
    next_minor: (u64, u64),
}

impl LiveLane {
    /// The live half after a start. `clean` is whether the last stop lost no lazy events.
    pub fn recovered(durable: &DurableLane, clean: bool) -> LiveLane {
        LiveLane {
            cursor: durable.floor,
            suspect_to: if clean { durable.delivered_to } else { durable.next },
            seen: Position { offset: durable.next, minor: 0 },
            ..LiveLane::default()
        }
    }

    /// Notes which batch a durable message is in. Up to `durable`, batches need not be known any more.
    pub fn came_in(&mut self, offset: u64, batch: u64, durable: u64) {
        while self.batches.front().is_some_and(|(_, batch)| *batch <= durable) {
            self.batches.pop_front();
        }
        if self.batches.back().is_none_or(|(_, last)| *last < batch) {
            self.batches.push_back((offset, batch));
        }
    }

    /// The batch that a message has to wait for; 0 for none.
    pub fn batch_of(&self, offset: u64) -> u64 {
        let behind = self.batches.partition_point(|(from, _)| *from <= offset);
        behind.checked_sub(1).and_then(|at| self.batches.get(at)).map_or(0, |(_, batch)| *batch)
    }

    /// Keeps a durable message at hand until the next round of deliveries is over.
    pub fn remember(&mut self, offset: u64, envelope: Envelope, payload: Payload) {
        self.recent.push_back((offset, envelope, payload));
    }

    /// The content of a message that came since the last round of deliveries.
    pub fn recall(&mut self, offset: u64) -> Option<(Envelope, Payload)> {
        while self.recent.front().is_some_and(|(at, ..)| *at < offset) {
            self.recent.pop_front();
        }
        let (_, envelope, payload) = self.recent.pop_front_if(|(at, ..)| *at == offset)?;
        Some((envelope, payload))
    }

    /// A round of deliveries is over.
    pub fn end_round(&mut self, durable: &DurableLane) {
        self.recent.clear();
        self.seen = Position { offset: durable.next, minor: self.minor_at(durable.next) };
    }

    fn minor_at(&self, next: u64) -> u64 {
        if self.next_minor.0 == next { self.next_minor.1 } else { 0 }
    }

    /// Takes a message without durability; it stands behind everything that came before it.
    pub fn push_transient(&mut self, next: u64, message: TransientMessage) -> Position {
        let minor = self.minor_at(next);
        self.next_minor = (next, minor + 1);
        let position = Position { offset: next, minor };
        if message.envelope.due.is_some() {
            self.transient_delayed.insert(position);
        } else {
            self.transient_ready.push_back(position);
        }
        self.transient.insert(position, message);
        position
    }

    /// The next message to hand out and whether it may have been delivered before.
    pub fn peek(&mut self, durable: &DurableLane) -> Option<(Position, bool)> {
        while self.transient_ready.front().is_some_and(|p| !self.transient.contains_key(p)) {
            self.transient_ready.pop_front();
        }
        self.skip_unavailable(durable);
        let fresh = (self.cursor < durable.next).then(|| Position::durable(self.cursor));
        let transient = self.transient_ready.front().copied();
        let first = match (fresh, transient) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match (self.released.first_key_value(), first) {
            (Some((released, again)), Some(first)) if *released < first => Some((*released, *again)),
            (Some((released, again)), None) => Some((*released, *again)),
            (_, Some(first)) => Some((first, first.is_durable() && first.offset < self.suspect_to)),
            (None, None) => None,
        }
    }

    fn skip_unavailable(&mut self, durable: &DurableLane) {
        self.cursor = self.cursor.max(durable.floor);
        loop {
            if let Some(end) = durable.settled.end_of_range_at(self.cursor) {
                self.cursor = end;
            } else if durable.delayed.contains_key(&self.cursor) || durable.moving.contains_key(&self.cursor)
            {
                self.cursor += 1;
            } else {
                return;
            }
        }
    }

    /// Takes what [`LiveLane::peek`] gave out of the ready messages.
    pub fn take(&mut self, position: Position) {
        if self.released.remove(&position).is_some() {
            return;
        }
        if position.is_durable() {
            self.cursor = self.cursor.max(position.offset + 1);
        } else {
            self.transient_ready.pop_front();
        }
    }

    /// Ends the lease that `consumer` holds on `position`.
    pub fn end_lease(&mut self, position: Position, consumer: ConsumerId) -> Option<Lease> {
        match self.leased.entry(position) {
            Entry::Occupied(lease) if lease.get().consumer == consumer => Some(lease.remove()),
            _ => None,
        }
    }

    pub fn drop_transient(&mut self, position: Position) -> Option<TransientMessage> {
        let message = self.transient.remove(&position)?;
        self.transient_delayed.remove(&position);
        self.released.remove(&position);
        // What expired behind a message that nobody takes must not pile up.
        if self.transient_ready.len() > 2 * self.transient.len() + 64 {
            let transient = &self.transient;
            self.transient_ready.retain(|p| transient.contains_key(p));
        }
        Some(message)
    }

    /// Messages that could be handed out now.
    pub fn ready(&self, durable: &DurableLane) -> u64 {
        let waiting = (durable.live() + self.transient.len() as u64)
            .saturating_sub(durable.delayed.len() as u64 + self.transient_delayed.len() as u64);
        waiting.saturating_sub(self.leased.len() as u64)
    }

    /// Forgets durable messages below `start`, which are gone; returns who held them.
    pub fn forget_below(&mut self, start: u64) -> Vec<ConsumerId> {
        let start = Position { offset: start, minor: 0 };
        self.released = self.released.split_off(&start);
        let kept = self.leased.split_off(&start);
        std::mem::replace(&mut self.leased, kept).into_values().map(|lease| lease.consumer).collect()
    }

    /// Forgets what is ready: it was all settled.
    pub fn forget_ready(&mut self, durable: &DurableLane) {
        self.released.clear();
        self.transient_ready.clear();
        self.recent.clear();
        self.cursor = durable.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::{Format, Subject};

    fn transient() -> TransientMessage {
        TransientMessage {
            envelope: Envelope::new(Subject::empty(), Timestamp(0)),
            payload: Payload { format: Format::MESSAGE, head: Default::default(), body: Default::default() },
            attempts: 0,
        }
    }

    #[test]
    fn transient_messages_keep_their_place_among_durable_ones() {
        let (mut durable, mut live) = (DurableLane::default(), LiveLane::default());
        durable.add(0, None, None);
        let first = live.push_transient(durable.next, transient());
        let second = live.push_transient(durable.next, transient());
        durable.add(1, None, None);
        let third = live.push_transient(durable.next, transient());
        let mut order = Vec::new();
        while let Some((position, again)) = live.peek(&durable) {
            assert!(!again);
            live.take(position);
            order.push(position);
        }
        assert_eq!(order, [Position::durable(0), first, second, Position::durable(1), third]);
    }

    #[test]
    fn holes_survive_and_the_floor_follows() {
        let mut lane = DurableLane::default();
        (0..10).for_each(|n| lane.add(n, None, None));
        lane.settle(2, 4);
        lane.settle(6, 7);
        assert_eq!((lane.floor, lane.live()), (0, 7));
        lane.settle(0, 2);
        assert_eq!((lane.floor, lane.live()), (4, 5));
        lane.settle(4, 6);
        assert_eq!((lane.floor, lane.live()), (7, 3));
        lane.settle(0, 10);
        assert_eq!((lane.floor, lane.live(), lane.settled.ranges_len()), (10, 0, 0));
    }

    #[test]
    fn events_whose_predecessors_were_lost_leave_sound_counts() {
        let mut lane = DurableLane::default();
        lane.moves(5, 1);
        assert_eq!((lane.next, lane.floor, lane.live()), (6, 5, 0));
        lane.settle(0, 6);
        lane.moves(3, 2);
        assert_eq!((lane.live(), lane.moving.len()), (0, 0));
    }

    #[test]
    fn released_messages_come_back_in_order_before_fresh_ones() {
        let (mut durable, mut live) = (DurableLane::default(), LiveLane::default());
        (0..4).for_each(|n| durable.add(n, None, None));
        for n in 0..3 {
            let (position, _) = live.peek(&durable).unwrap();
            live.take(position);
            live.leased.insert(position, Lease { consumer: ConsumerId(1), attempt: 1 });
            assert_eq!(position, Position::durable(n));
        }
        for n in [2, 0] {
            live.end_lease(Position::durable(n), ConsumerId(1)).unwrap();
            live.released.insert(Position::durable(n), true);
        }
        assert!(live.end_lease(Position::durable(1), ConsumerId(2)).is_none(), "not its lease");
        let mut order = Vec::new();
        while let Some((position, again)) = live.peek(&durable) {
            live.take(position);
            order.push((position.offset, again));
        }
        assert_eq!(order, [(0, true), (2, true), (3, false)]);
    }
}
