//! A message comes in.

use super::Work;
use crate::{
    catalog::Overflow,
    command::Enqueue,
    effect::{Gate, Refusal},
    event::{Event, is_too_large},
    settlement::{Position, TransientMessage},
    shard::{Context, Published},
    volatile::Timer,
};
use posthaste_model::{Envelope, Payload, Timestamp};

impl Work<'_> {
    pub(super) fn enqueue(&mut self, enqueue: Enqueue) -> Result<Published, Refusal> {
        let Enqueue { mut envelope, payload, .. } = enqueue;
        let config = &self.queue.spec.config;
        if self.live.sealed {
            return Err(Refusal::Gone);
        }
        if self.is_full() {
            return Err(Refusal::Full);
        }
        if is_too_large(&envelope, &payload) {
            return Err(Refusal::TooLarge);
        }
        if let Some(ttl) = config.ttl_ms {
            let latest = self.ctx.now.plus_ms(ttl);
            envelope.expires = Some(envelope.expires.map_or(latest, |e| e.min(latest)));
        }
        if envelope.due.is_some_and(|due| due <= self.ctx.now) {
            envelope.due = None;
        }
        let top = self.queue.lanes.len().saturating_sub(1);
        let lane = usize::from(envelope.priority).min(top) as u8;
        if self.queue.spec.durable && envelope.durable {
            self.enqueue_durable(lane, envelope, payload)
        } else {
            self.enqueue_transient(lane, envelope, payload)
        }
    }

    /// Whether the queue refuses more. What consumers take in the next round does not count.
    fn is_full(&self) -> bool {
        let config = &self.queue.spec.config;
        let (Some(max), Overflow::Reject) = (config.length_max, config.overflow) else { return false };
        let taken = self.live.consumers.takes(config.single_active);
        self.live.ready(self.queue) >= max.saturating_add(taken)
    }

    fn enqueue_durable(
        &mut self,
        lane: u8,
        envelope: Envelope,
        payload: Payload,
    ) -> Result<Published, Refusal> {
        if self.ctx.no_space {
            return Err(Refusal::NoSpace);
        }
        let taken = self.live.consumers.takes(self.queue.spec.config.single_active) > 0;
        let Context { batch, durable: durable_batch, .. } = *self.ctx;
        let (durable, live) = self.lane(lane).ok_or(Refusal::Gone)?;
        let offset = durable.next;
        live.came_in(offset, batch, durable_batch);
        if taken {
            live.remember(offset, envelope.clone(), payload.clone());
        }
        self.touch();
        self.live.changed = self.ctx.batch;
        self.schedule(lane, Position::durable(offset), envelope.expires, envelope.due);
        let sync = self.sync();
        self.step.event(Event::Enqueued { queue: self.id, lane, offset, envelope, payload }, sync);
        Ok(Published { gate: self.gate(), offset, duplicate: false })
    }

    fn enqueue_transient(
        &mut self,
        lane: u8,
        envelope: Envelope,
        payload: Payload,
    ) -> Result<Published, Refusal> {
        let mut message = TransientMessage { envelope, payload, attempts: 0 };
        let bytes = message.bytes();
        let limit = self.ctx.limits.transient_bytes_per_queue_max;
        if self.ctx.no_memory || self.live.transient_bytes.saturating_add(bytes) > limit {
            return Err(Refusal::OutOfMemory);
        }
        let (expires, due) = (message.envelope.expires, message.envelope.due);
        let taken = self.live.consumers.takes(self.queue.spec.config.single_active);
        let (durable, live) = self.lane(lane).ok_or(Refusal::Gone)?;
        if due.is_some() || live.ready(durable) >= taken {
            // It stays for a while: its neighbours in the buffer it was read into must not stay with it.
            message.payload = message.payload.detached();
            message.envelope.subject = message.envelope.subject.detached();
        }
        let position = live.push_transient(durable.next, message);
        self.live.transient_bytes += bytes;
        self.common.transient_bytes += bytes;
        // Without consumers, waiting helps nobody.
        self.common.crowded |= self.live.transient_bytes > limit / 2 && !self.live.consumers.is_empty();
        self.touch();
        self.schedule(lane, position, expires, due);
        Ok(Published { gate: Gate::Open, offset: position.offset, duplicate: false })
    }

    fn schedule(&mut self, lane: u8, position: Position, expires: Option<Timestamp>, due: Option<Timestamp>) {
        if let Some(at) = expires {
            self.common.timers.insert((at, Timer::Expire(self.id, lane, position)));
        }
        if let Some(at) = due {
            self.common.timers.insert((at, Timer::Due(self.id, lane, position)));
        }
    }

    /// Lets a message go that is held in memory only, and its timers.
    pub(super) fn forget_transient(&mut self, lane: u8, position: Position) -> Option<TransientMessage> {
        let message = self.live.lanes.get_mut(usize::from(lane))?.drop_transient(position)?;
        if let Some(at) = message.envelope.expires {
            self.common.timers.remove(&(at, Timer::Expire(self.id, lane, position)));
        }
        if let Some(at) = message.envelope.due {
            self.common.timers.remove(&(at, Timer::Due(self.id, lane, position)));
        }
        let bytes = message.bytes();
        self.live.transient_bytes = self.live.transient_bytes.saturating_sub(bytes);
        self.common.transient_bytes = self.common.transient_bytes.saturating_sub(bytes);
        Some(message)
    }

    /// Lets all of a lane go that `which` names.
    pub(super) fn drop_transients(&mut self, lane: u8, which: impl Fn(Position) -> bool) {
        let Some(live) = self.live.lanes.get(usize::from(lane)) else { return };
        let dropped: Vec<Position> = live.transient.keys().copied().filter(|p| which(*p)).collect();
        for position in dropped {
            self.forget_transient(lane, position);
        }
    }
}
