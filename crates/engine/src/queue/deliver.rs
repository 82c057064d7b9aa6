//! Messages go out: to consumers with credit, or to whoever asks.

use super::Work;
use crate::{
    Map,
    catalog::Overflow,
    command::Mode,
    effect::{Content, Delivery, Effect, Gate, Reply},
    event::Event,
    planted::{self, Bug},
    settlement::{Lease, Position},
};
use posthaste_model::{ConsumerId, DeathReason, Timestamp};

/// A message that is about to be handed out.
#[derive(Clone, Copy)]
struct Next {
    lane: u8,
    position: Position,
    /// It may have been delivered before.
    again: bool,
}

/// Deliveries that room is made for before the first is found.
const DELIVERIES_EXPECTED_MAX: u64 = 256;

/// A round's deliveries by consumer, in the order of their first.
#[derive(Default)]
struct Handed {
    lists: Vec<(ConsumerId, Vec<Delivery>)>,
    /// Where whose list is, once there are several.
    places: Map<ConsumerId, usize>,
}

impl Handed {
    fn add(&mut self, delivery: Delivery, expected: usize) {
        let consumer = delivery.consumer;
        let place = match self.lists.as_slice() {
            [(only, _)] if *only == consumer => Some(0),
            _ => self.places.get(&consumer).copied(),
        };
        if let Some((_, list)) = place.and_then(|at| self.lists.get_mut(at)) {
            return list.push(delivery);
        }
        if let [(first, _)] = self.lists.as_slice() {
            self.places.insert(*first, 0);
        }
        if !self.lists.is_empty() {
            self.places.insert(consumer, self.lists.len());
        }
        // At a guess, room for all that is ready.
        let mut list = Vec::with_capacity(expected);
        list.push(delivery);
        self.lists.push((consumer, list));
    }
}

impl Work<'_> {
    pub(super) fn deliver(&mut self) {
        if self.live.sealed {
            return;
        }
        let single_active = self.queue.spec.config.single_active;
        let mut handed = Handed::default();
        let mut settled = Vec::new();
        let mut batch = 0;
        let takes = self.live.consumers.takes(single_active);
        if takes == 0 {
            return self.end_round();
        }
        let expected = takes.min(self.live.ready(self.queue)).min(DELIVERIES_EXPECTED_MAX);
        let expected = expected as usize / self.live.consumers.len().max(1) + 1;
        while let Some((consumer, mode)) = self.live.consumers.next(single_active) {
            let Some(next) = self.next_message() else { break };
            let Some(delivery) = self.hand_out(next, consumer, mode) else { continue };
            self.live.consumers.served(consumer);
            batch = batch.max(self.batch_of(next));
            if delivery.settled && next.position.is_durable() {
                settled.push((next.lane, next.position.offset));
            }
            handed.add(delivery, expected);
        }
        self.end_round();
        if handed.lists.is_empty() {
            return;
        }
        // What is settled by being handed out need not be safe for that.
        let gate = self.live.delivery_gate(batch, self.sync());
        self.settle_offsets(settled, false);
        self.mark_delivered();
        for (consumer, mut deliveries) in handed.lists {
            if planted::strikes(Bug::Reorder) {
                deliveries.reverse();
            }
            self.step.effect(gate, Effect::Deliver { consumer, deliveries });
        }
    }

    fn batch_of(&self, next: Next) -> u64 {
        let lane = self.live.lanes.get(usize::from(next.lane)).filter(|_| next.position.is_durable());
        lane.map_or(0, |lane| lane.batch_of(next.position.offset))
    }

    /// What came before is no longer new.
    fn end_round(&mut self) {
        for (live, durable) in self.live.lanes.iter_mut().zip(&self.queue.lanes) {
            live.end_round(durable);
        }
    }

    pub(super) fn pull(&mut self, consumer: ConsumerId, count: u32, mode: Mode) -> (Gate, Reply) {
        let mut deliveries = Vec::new();
        let mut settled = Vec::new();
        while deliveries.len() < count as usize {
            let Some(next) = self.next_message() else { break };
            let Some(delivery) = self.hand_out(next, consumer, mode) else { continue };
            if delivery.settled && next.position.is_durable() {
                settled.push((next.lane, next.position.offset));
            }
            deliveries.push(delivery);
        }
        let gate = self.gate();
        self.settle_offsets(settled, false);
        self.mark_delivered();
        self.mark_unused();
        // What leaves by this step is applied later, but no longer ready.
        let ready = self.live.ready(self.queue).saturating_sub(self.leaving());
        (gate, Reply::Deliveries { deliveries, ready })
    }

    /// Messages that the step's events take out of the queue.
    fn leaving(&self) -> u64 {
        let of_event = |event: &Event| match event {
            Event::Settled { queue, ranges, .. } if *queue == self.id => {
                ranges.iter().map(|(s, e)| e - s).sum()
            }
            Event::DeadLettered { queue, .. } if *queue == self.id => 1,
            _ => 0,
        };
        self.step.events.iter().map(|journaled| of_event(&journaled.event)).sum()
    }

    /// Finds the next message that has not expired; expired ones leave on the way.
    fn next_message(&mut self) -> Option<Next> {
        for index in (0..self.queue.lanes.len()).rev() {
            let lane = index as u8;
            loop {
                let (durable, live) = self.lane(lane)?;
                let Some((position, again)) = live.peek(durable) else { break };
                // What came since the last round is offered once, however short its time.
                let fresh = position >= live.seen;
                if fresh || !self.is_expired(lane, position) {
                    return Some(Next { lane, position, again });
                }
                let (_, live) = self.lane(lane)?;
                live.take(position);
                self.bury(lane, position, DeathReason::Expired);
            }
        }
        None
    }

    pub(super) fn is_expired(&self, lane: u8, position: Position) -> bool {
        self.expires(lane, position).is_some_and(|at| at <= self.ctx.now)
    }

    fn expires(&self, lane: u8, position: Position) -> Option<Timestamp> {
        let index = usize::from(lane);
        if position.is_durable() {
            self.queue.lanes.get(index)?.expiring.get(&position.offset).copied()
        } else {
            self.live.lanes.get(index)?.transient.get(&position)?.envelope.expires
        }
    }

    fn hand_out(&mut self, next: Next, consumer: ConsumerId, mode: Mode) -> Option<Delivery> {
        let Next { lane, position, again } = next;
        let (durable, live) = self.lane(lane)?;
        live.take(position);
        let (attempts, content) = if position.is_durable() {
            let attempts = durable.attempts.get(&position.offset).copied().unwrap_or(0);
            (attempts, live.recall(position.offset).map(|(e, p)| Content::Inline(e, p)))
        } else if mode == Mode::Settled {
            let message = self.forget_transient(lane, position)?;
            (message.attempts, Some(Content::Inline(message.envelope, message.payload)))
        } else {
            let message = live.transient.get(&position)?;
            (message.attempts, Some(Content::Inline(message.envelope.clone(), message.payload.clone())))
        };
        let content = content.unwrap_or_else(|| {
            let stream = self.queue.spec.streams.get(usize::from(lane)).copied().unwrap_or(self.id.0);
            Content::Stored { stream, offset: position.offset }
        });
        let attempt = attempts.saturating_add(1);
        // What still has to be read must not be settled before it was: whoever reads it settles it.
        let settled = mode == Mode::Settled && matches!(content, Content::Inline(..));
        if !settled {
            let (_, live) = self.lane(lane)?;
            live.leased.insert(position, Lease { consumer, attempt });
        }
        Some(Delivery {
            queue: self.id,
            consumer,
            lane,
            position,
            redelivered: again || attempts > 0,
            attempt,
            settled,
            settle_when_read: mode == Mode::Settled && !settled,
            content,
        })
    }

    /// Notes how far the lanes were handed out, where a restart could not tell by what is settled.
    fn mark_delivered(&mut self) {
        if !self.queue.spec.durable {
            return;
        }
        for ((lane, live), durable) in (0..=u8::MAX).zip(&self.live.lanes).zip(&self.queue.lanes) {
            let held = live.leased.last_key_value().is_some_and(|(p, _)| p.offset >= durable.delivered_to);
            if held && live.cursor > durable.delivered_to {
                self.step.lazy(Event::DeliveredTo { queue: self.id, lane, to: live.cursor });
            }
        }
    }

    pub(super) fn drop_overflow(&mut self) {
        let config = &self.queue.spec.config;
        let (Some(max), Overflow::DropOldest) = (config.length_max, config.overflow) else { return };
        for _ in max..self.live.ready(self.queue) {
            // The lowest priority goes first.
            let found = (0..self.queue.lanes.len() as u32).find_map(|lane| {
                let (durable, live) = self.lane(lane as u8)?;
                let (position, _) = live.peek(durable)?;
                live.take(position);
                Some((lane as u8, position))
            });
            let Some((lane, position)) = found else { break };
            self.bury(lane, position, DeathReason::LengthLimit);
        }
    }
}
