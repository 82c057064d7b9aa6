//! A queue comes, changes and goes.

use super::{Answer, LiveQueue, Work, with};
use crate::{
    durable::{Durable, DurableQueue},
    effect::{Effect, Gate, Refusal, Reply},
    event::{Event, QueueSpec},
    planted::{self, Bug},
    shard::{Context, Step},
    volatile::{Timer, Volatile},
};
use posthaste_model::QueueId;

/// Opens a queue, or changes the one that is there. A subscription needs its partition here, and durability
/// of its own: what it settled is told to nobody else. One that has not is refused.
pub(super) fn open(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    spec: QueueSpec,
    step: &mut Step,
) -> Answer {
    let unreadable = |partition| !spec.durable || !durable.partitions.contains_key(&partition);
    if spec.over.is_some_and(unreadable) {
        return Err(Refusal::Gone);
    }
    if !volatile.queues.contains_key(&id) {
        add(durable, volatile, ctx, id, spec, step);
    } else {
        change(durable, volatile, ctx, id, spec, step);
    }
    with(durable, volatile, ctx, id, step, |work| {
        work.mark_unused();
        work.touch();
        work.live.session_gate()
    })
    // What was opened right now is not applied yet.
    .or(Ok(Gate::Synced(ctx.batch)))
    .map(|gate| (gate, Reply::Done))
}

fn add(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    spec: QueueSpec,
    step: &mut Step,
) {
    let mut queue = DurableQueue::new(spec.clone());
    if let Some(partition) = spec.over.and_then(|p| durable.partitions.get(&p)) {
        queue.read_from(partition);
    }
    volatile.add_queue(id, &queue, true);
    let Some(live) = volatile.queues.get_mut(&id) else { return };
    if spec.durable {
        (live.changed, live.session_changed, live.delivered) = (ctx.batch, ctx.batch, ctx.batch);
        live.arm_unused(&spec, id, ctx, &mut volatile.common);
        step.event(Event::QueueOpened { queue: id, spec }, true);
    } else {
        live.own = Some(Box::new(queue));
    }
}

fn change(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    spec: QueueSpec,
    step: &mut Step,
) {
    let Some(live) = volatile.queues.get_mut(&id) else { return };
    if let Some(own) = &mut live.own {
        own.spec = spec;
    } else if durable.queues.get(&id).is_none_or(|known| known.spec != spec) {
        (live.changed, live.session_changed, live.delivered) = (ctx.batch, ctx.batch, ctx.batch);
        step.event(Event::QueueOpened { queue: id, spec }, true);
    }
}

impl LiveQueue {
    /// Begins to count the time that nobody uses the queue, or begins anew.
    fn arm_unused(
        &mut self,
        spec: &QueueSpec,
        id: QueueId,
        ctx: &Context,
        common: &mut crate::volatile::Common,
    ) {
        if !self.consumers.is_empty() {
            return;
        }
        self.unused_since = Some(ctx.now);
        if let Some(ms) = spec.config.unused_ms_max
            && !self.unused_timer
        {
            self.unused_timer = true;
            common.timers.insert((ctx.now.plus_ms(ms), Timer::Unused(id)));
        }
    }
}

impl Work<'_> {
    /// The queue was used, but nobody consumes from it.
    pub(super) fn mark_unused(&mut self) {
        self.live.arm_unused(&self.queue.spec, self.id, self.ctx, self.common);
    }

    /// From now on the queue takes nothing and hands out nothing, so that the count stays true until it is
    /// closed.
    pub(super) fn seal(&mut self, if_unused: bool, if_empty: bool) -> Answer {
        if self.live.sealed {
            return Err(Refusal::Gone);
        }
        if if_unused && !self.live.consumers.is_empty() {
            return Err(Refusal::InUse);
        }
        if if_empty && self.live.held(self.queue) > 0 {
            return Err(Refusal::NotEmpty);
        }
        self.live.sealed = true;
        let lacking = u64::from(planted::strikes(Bug::Miscount));
        Ok((self.gate(), Reply::Count(self.live.ready(self.queue).saturating_sub(lacking))))
    }

    pub(super) fn unseal(&mut self) -> Answer {
        self.live.sealed = false;
        self.touch();
        Ok((Gate::Open, Reply::Done))
    }

    /// The queue's name is gone, and it follows. Its dead letters still arrive where they go.
    pub(super) fn close(&mut self) -> Answer {
        for consumer in self.live.consumers.ids() {
            self.step.effect(Gate::Open, Effect::Cancelled { consumer });
        }
        for lane in 0..self.live.lanes.len() {
            self.drop_transients(lane as u8, |_| true);
        }
        if !self.queue.spec.durable {
            return Ok((Gate::Open, Reply::Done));
        }
        let queue = self.id;
        let closed = match self.queue.moves_any() && !planted::strikes(Bug::LoseDying) {
            true => Event::QueueDraining { queue },
            false => Event::QueueClosed { queue, lanes: self.queue.lanes.len() as u16 },
        };
        self.step.event(closed, true);
        Ok((Gate::Synced(self.ctx.batch), Reply::Done))
    }
}
