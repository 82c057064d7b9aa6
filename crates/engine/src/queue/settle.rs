//! The fate of deliveries: done, back, or away.

use super::Work;
use crate::{
    command::{Outcome, Settle},
    effect::{DeadLetterFrom, Effect, Gate, Reply},
    event::Event,
    planted::{self, Bug},
    settlement::Position,
};
use posthaste_model::{ConsumerId, DeathReason};
use smallvec::SmallVec;

type Ranges = SmallVec<[(u64, u64); 2]>;

/// Ranges in one event: 80 KiB at most. More are told by several, as a record's head has a limit.
const RANGES_PER_EVENT_MAX: usize = 4_096;

impl Work<'_> {
    pub(super) fn settle(&mut self, settle: &Settle) -> (Gate, Reply) {
        self.touch();
        let ended = match settle.outcome {
            Outcome::Accept => self.accept(settle),
            outcome => {
                let deliveries = settle.deliveries.iter();
                deliveries.map(|at| u32::from(self.give_up(*at, settle.consumer, outcome))).sum()
            }
        };
        self.live.consumers.lease_ended(settle.consumer, ended);
        (self.gate(), Reply::Done)
    }

    /// Returns how many leases it ended.
    fn accept(&mut self, settle: &Settle) -> u32 {
        let mut settled = Vec::with_capacity(settle.deliveries.len());
        let mut ended = 0;
        for (lane, position) in &settle.deliveries {
            let Some((_, live)) = self.lane(*lane) else { continue };
            if live.end_lease(*position, settle.consumer).is_none() {
                continue;
            }
            ended += 1;
            if position.is_durable() {
                settled.push((*lane, position.offset));
            } else {
                self.forget_transient(*lane, *position);
            }
        }
        self.settle_offsets(settled, settle.lasting);
        ended
    }

    /// Ends a lease without success. False when there was none.
    fn give_up(&mut self, (lane, position): (u8, Position), consumer: ConsumerId, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Release { attempted } => self.release(lane, position, consumer, attempted),
            Outcome::Reject(reason) => {
                let ended = self.lane(lane).and_then(|(_, l)| l.end_lease(position, consumer)).is_some();
                if ended {
                    self.bury(lane, position, reason);
                }
                ended
            }
            Outcome::Accept => false,
        }
    }

    /// Gives a message back; one that expired meanwhile or was delivered in vain too often leaves instead.
    fn release(&mut self, lane: u8, position: Position, consumer: ConsumerId, attempted: bool) -> bool {
        let limit = self.queue.spec.config.delivery_limit;
        let expired = self.is_expired(lane, position);
        let Some((durable, live)) = self.lane(lane) else { return false };
        let Some(lease) = live.end_lease(position, consumer) else { return false };
        if position.is_durable() && durable.is_settled(position.offset) {
            return true;
        }
        if expired {
            self.bury(lane, position, DeathReason::Expired);
            return true;
        }
        if attempted && limit.is_some_and(|limit| lease.attempt > limit) {
            self.bury(lane, position, DeathReason::DeliveryLimit);
            return true;
        }
        if planted::strikes(Bug::LoseRelease) {
            return true;
        }
        live.released.insert(position, true);
        if attempted && !position.is_durable() {
            if let Some(message) = live.transient.get_mut(&position) {
                message.attempts = lease.attempt;
            }
        } else if attempted {
            let (queue, offset, attempts) = (self.id, position.offset, lease.attempt);
            self.step.lazy(Event::Attempted { queue, lane, offset, attempts });
        }
        true
    }

    /// Gives everything that a consumer holds back to the queue, counted as delivered in vain.
    pub(super) fn release_all(&mut self, consumer: ConsumerId) {
        let mut held = Vec::new();
        for (lane, live) in (0..=u8::MAX).zip(&self.live.lanes) {
            held.extend(live.leased.iter().filter(|(_, l)| l.consumer == consumer).map(|(p, _)| (lane, *p)));
        }
        for (lane, position) in &held {
            self.release(*lane, *position, consumer, true);
        }
        self.live.consumers.lease_ended(consumer, held.len() as u32);
        self.touch();
    }

    /// One event per lane for all offsets that were settled. `lasting`: replies wait until that is stored.
    pub(super) fn settle_offsets(&mut self, mut offsets: Vec<(u8, u64)>, lasting: bool) {
        if !offsets.is_sorted() {
            offsets.sort_unstable();
        }
        for of_lane in offsets.chunk_by(|a, b| a.0 == b.0) {
            let mut ranges = Ranges::new();
            for (_, offset) in of_lane {
                match ranges.last_mut() {
                    Some((_, end)) if *end == *offset => *end += 1,
                    Some((_, end)) if *end > *offset => {}
                    _ => ranges.push((*offset, offset + 1)),
                }
            }
            if let Some((lane, _)) = of_lane.first() {
                self.settle_ranges(*lane, ranges, lasting);
            }
        }
    }

    fn settle_ranges(&mut self, lane: u8, ranges: Ranges, lasting: bool) {
        if !self.queue.spec.durable || ranges.is_empty() {
            return;
        }
        let sync = lasting && self.sync();
        if lasting {
            self.live.changed = self.ctx.batch;
        }
        let queue = self.id;
        if ranges.len() <= RANGES_PER_EVENT_MAX {
            return self.step.event(Event::Settled { queue, lane, ranges }, sync);
        }
        for part in ranges.chunks(RANGES_PER_EVENT_MAX) {
            let ranges = Ranges::from_slice(part);
            self.step.event(Event::Settled { queue, lane, ranges }, sync);
        }
    }

    /// A message that nobody will get from this queue: to the dead-letter target, or gone.
    pub(super) fn bury(&mut self, lane: u8, position: Position, reason: DeathReason) {
        let target = self.queue.spec.config.dead_letter.clone();
        let queue = self.id;
        if position.is_durable() {
            if let Some(target) = target {
                return crate::transfer::dead_letter(self, lane, position.offset, reason, target);
            }
            self.settle_ranges(lane, Ranges::from_slice(&[(position.offset, position.offset + 1)]), true);
        } else if let Some(message) = self.forget_transient(lane, position)
            && let Some(target) = target
        {
            let from = Box::new(DeadLetterFrom::new(&self.queue.spec, target));
            let (envelope, payload) = (message.envelope, message.payload);
            return self.step.effect(Gate::Open, Effect::DeadLetter { from, reason, envelope, payload });
        }
        self.step.effect(Gate::Open, Effect::Dropped { queue, reason, count: 1 });
    }

    pub(super) fn purge(&mut self) -> (Gate, Reply) {
        let purged = self.live.ready(self.queue);
        for lane in 0..self.queue.lanes.len() as u32 {
            self.purge_lane(lane as u8);
        }
        (self.gate(), Reply::Count(purged))
    }

    /// What is leased or on its way stays; everything else goes.
    fn purge_lane(&mut self, lane: u8) {
        let Some((durable, live)) = self.lane(lane) else { return };
        let leased: Vec<Position> = live.leased.keys().copied().collect();
        let mut kept: Vec<u64> = leased.iter().filter(|p| p.is_durable()).map(|p| p.offset).collect();
        kept.extend(durable.moving.keys());
        kept.push(durable.next);
        kept.sort_unstable();
        let mut from = durable.floor;
        let mut ranges = Ranges::new();
        for keep in kept {
            if keep > from {
                ranges.push((from, keep));
            }
            from = from.max(keep + 1);
        }
        live.forget_ready(durable);
        self.drop_transients(lane, |p| leased.binary_search(&p).is_err());
        self.settle_ranges(lane, ranges, true);
    }
}
