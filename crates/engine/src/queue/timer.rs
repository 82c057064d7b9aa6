//! What happens to a queue by itself, and what has to follow its events.

use super::{Work, with};
use crate::{
    durable::{Durable, DurableQueue},
    effect::{Effect, Gate},
    event::Event,
    settlement::{DurableLane, Position},
    shard::{Context, Step},
    volatile::{Timer, Volatile},
};
use posthaste_model::{DeathReason, QueueId, Timestamp};
use std::{collections::BTreeSet, ops::RangeBounds};

/// A timer of a queue has come due.
pub(crate) fn fire(durable: &Durable, volatile: &mut Volatile, ctx: &Context, timer: Timer, step: &mut Step) {
    let id = match timer {
        Timer::Due(id, ..) | Timer::Expire(id, ..) | Timer::Unused(id) => id,
        Timer::Group(..) => return,
    };
    // A queue that is gone waits for nothing.
    let _ = with(durable, volatile, ctx, id, step, |work| match timer {
        Timer::Due(_, lane, position) => work.due(lane, position),
        Timer::Expire(_, lane, position) => work.expire(lane, position),
        Timer::Unused(_) => work.unused(),
        Timer::Group(..) => {}
    });
}

impl Work<'_> {
    fn due(&mut self, lane: u8, position: Position) {
        self.touch();
        let id = self.id;
        let Some((durable, live)) = self.lane(lane) else { return };
        if !position.is_durable() {
            if live.transient_delayed.remove(&position) {
                live.released.insert(position, false);
            }
            return;
        }
        if !durable.delayed.contains_key(&position.offset) {
            return;
        }
        // The cursor finds what it has not passed yet.
        if position.offset < live.cursor {
            live.released.insert(position, false);
        }
        self.step.lazy(Event::Due { queue: id, lane, offset: position.offset });
    }

    /// A message expired. One that is leased is looked at when it comes back.
    fn expire(&mut self, lane: u8, position: Position) {
        let id = self.id;
        let Some((_, live)) = self.lane(lane) else { return };
        if live.leased.contains_key(&position) {
            return;
        }
        if position >= live.seen {
            // It is offered first.
            let soon = self.ctx.now.plus_ms(1);
            self.common.timers.insert((soon, Timer::Expire(id, lane, position)));
            return;
        }
        if self.is_expired(lane, position)
            && let Some((_, live)) = self.lane(lane)
        {
            live.released.remove(&position);
            self.bury(lane, position, DeathReason::Expired);
        }
    }

    fn unused(&mut self) {
        self.live.unused_timer = false;
        let (Some(since), Some(ms)) = (self.live.unused_since, self.queue.spec.config.unused_ms_max) else {
            return;
        };
        let at = since.plus_ms(ms);
        if at <= self.ctx.now {
            self.step.effect(Gate::Open, Effect::Unused { queue: self.id });
        } else {
            self.live.unused_timer = true;
            self.common.timers.insert((at, Timer::Unused(self.id)));
        }
    }
}

/// Volatile state that has to follow an event, before it is applied.
pub(crate) fn before_event(durable: &Durable, volatile: &mut Volatile, event: &Event) {
    let timers = &mut volatile.common.timers;
    match event {
        Event::Settled { queue, lane, ranges } => {
            if let Some(known) = lane_of(durable, *queue, *lane) {
                for (start, end) in ranges {
                    remove_timers(timers, *queue, *lane, known, *start..*end);
                }
            }
        }
        Event::DeadLettered { queue, lane, offset, .. } => {
            if let Some(known) = lane_of(durable, *queue, *lane) {
                remove_timers(timers, *queue, *lane, known, *offset..offset + 1);
            }
        }
        Event::QueueClosed { queue, .. } | Event::QueueDraining { queue } => {
            let lanes = durable.queues.get(queue).map(|q: &DurableQueue| &q.lanes);
            for (lane, known) in (0..=u8::MAX).zip(lanes.into_iter().flatten()) {
                remove_timers(timers, *queue, lane, known, ..);
            }
        }
        _ => {}
    }
}

fn lane_of(durable: &Durable, queue: QueueId, lane: u8) -> Option<&DurableLane> {
    durable.queues.get(&queue)?.lanes.get(usize::from(lane))
}

fn remove_timers(
    timers: &mut BTreeSet<(Timestamp, Timer)>,
    queue: QueueId,
    lane: u8,
    known: &DurableLane,
    offsets: impl RangeBounds<u64> + Clone,
) {
    for (offset, at) in known.expiring.range(offsets.clone()) {
        timers.remove(&(*at, Timer::Expire(queue, lane, Position::durable(*offset))));
    }
    for (offset, at) in known.delayed.range(offsets) {
        timers.remove(&(*at, Timer::Due(queue, lane, Position::durable(*offset))));
    }
}

/// Volatile state that has to follow an event, after it was applied.
pub(crate) fn after_event(durable: &Durable, volatile: &mut Volatile, event: &Event) {
    let (partition, start) = match event {
        Event::Appended { partition, .. } => (partition, None),
        Event::Trimmed { partition, start } => (partition, Some(*start)),
        _ => return,
    };
    let readers = durable.partitions.get(partition).map(|p| &p.readers);
    for reader in readers.into_iter().flatten() {
        volatile.common.touched.insert(*reader);
        let (Some(live), Some(start)) = (volatile.queues.get_mut(reader), start) else { continue };
        let holders: Vec<_> = live.lanes.iter_mut().flat_map(|lane| lane.forget_below(start)).collect();
        holders.into_iter().for_each(|consumer| live.consumers.lease_ended(consumer, 1));
    }
}
