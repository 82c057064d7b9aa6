//! What a queue does: take messages, hand them out, settle them. Decisions only; events do the changing.

mod deliver;
mod enqueue;
mod live;
mod open;
mod settle;
mod timer;

pub(crate) use live::LiveQueue;
pub(crate) use timer::{after_event, before_event, fire};

use crate::{
    catalog::Durability,
    command::{Command, Consume, Enqueue, Ticket},
    durable::{Durable, DurableQueue},
    effect::{Gate, QueueState, Refusal, Reply},
    settlement::{DurableLane, LiveLane},
    shard::{Context, Published, Step},
    volatile::{Common, Volatile},
};
use posthaste_model::{ConsumerId, QueueId};

/// One queue, and all that a decision about it may look at or change.
pub(crate) struct Work<'a> {
    pub id: QueueId,
    pub queue: &'a DurableQueue,
    pub live: &'a mut LiveQueue,
    pub common: &'a mut Common,
    pub ctx: &'a Context<'a>,
    pub step: &'a mut Step,
}

/// Runs `act` on a queue, whether it survives a restart or not.
pub(crate) fn with<R>(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    step: &mut Step,
    act: impl FnOnce(&mut Work) -> R,
) -> Result<R, Refusal> {
    let Volatile { queues, common, .. } = volatile;
    let live = queues.get_mut(&id).ok_or(Refusal::Gone)?;
    let own = live.own.take();
    let queue = own.as_deref().or_else(|| durable.queues.get(&id));
    let result = queue.map(|queue| act(&mut Work { id, queue, live, common, ctx, step }));
    live.own = own;
    result.ok_or(Refusal::Gone)
}

type Answer = Result<(Gate, Reply), Refusal>;

pub(crate) fn decide(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    command: Command,
    ticket: Ticket,
    step: &mut Step,
) {
    let id = match &command {
        Command::OpenQueue { queue, .. }
        | Command::SealQueue { queue, .. }
        | Command::UnsealQueue { queue }
        | Command::CloseQueue { queue }
        | Command::Consume(Consume { queue, .. })
        | Command::Cancel { queue, .. }
        | Command::Detach { queue, .. }
        | Command::Recover { queue, .. }
        | Command::Credit { queue, .. }
        | Command::Pull { queue, .. }
        | Command::Purge { queue }
        | Command::QueueState { queue } => *queue,
        Command::Settle(settle) => settle.queue,
        _ => return step.reply(Gate::Open, ticket, Reply::Refused(Refusal::Gone)),
    };
    let refused = match &command {
        Command::Consume(consume) => Some(consume.consumer),
        _ => None,
    };
    let answer = match command {
        Command::OpenQueue { spec, .. } => open::open(durable, volatile, ctx, id, spec, step),
        Command::CloseQueue { .. } => {
            let answer = with(durable, volatile, ctx, id, step, |work| work.close());
            if matches!(answer, Ok(Ok(_))) {
                volatile.queues.remove(&id);
            }
            answer.and_then(|answer| answer)
        }
        other => {
            let act = |work: &mut Work| work.decide(other);
            with(durable, volatile, ctx, id, step, act).and_then(|answer| answer)
        }
    };
    match answer {
        Ok((gate, reply)) => step.reply(gate, ticket, reply),
        Err(refusal) => {
            if let Some(consumer) = refused {
                step.effect(Gate::Open, crate::Effect::Ended { consumer });
            }
            step.reply(Gate::Open, ticket, Reply::Refused(refusal));
        }
    }
}

/// Takes a message into a queue.
pub(crate) fn enqueue(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    enqueue: Enqueue,
    step: &mut Step,
) -> Result<Published, Refusal> {
    with(durable, volatile, ctx, enqueue.queue, step, |work| work.enqueue(enqueue))?
}

/// Hands out ready messages: the highest lane first, to consumers in turn.
pub(crate) fn deliver(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    step: &mut Step,
) {
    // A queue that is gone has nothing to deliver.
    let _ = with(durable, volatile, ctx, id, step, |work| work.deliver());
}

/// Drops the oldest messages of a queue that holds more than it may. After its deliveries were applied.
pub(crate) fn drop_overflow(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    step: &mut Step,
) {
    let _ = with(durable, volatile, ctx, id, step, |work| work.drop_overflow());
}

impl Work<'_> {
    fn decide(&mut self, command: Command) -> Answer {
        match command {
            Command::SealQueue { if_unused, if_empty, .. } => self.seal(if_unused, if_empty),
            Command::UnsealQueue { .. } => self.unseal(),
            Command::Consume(_) | Command::Pull { .. } if self.live.sealed => Err(Refusal::Gone),
            Command::Consume(consume) => self.add_consumer(&consume),
            Command::Cancel { consumer, .. } => Ok(self.remove_consumer(consumer)),
            Command::Detach { consumer, .. } => {
                self.release_all(consumer);
                Ok(self.remove_consumer(consumer))
            }
            Command::Recover { consumer, .. } => {
                self.release_all(consumer);
                Ok((Gate::Open, Reply::Done))
            }
            Command::Credit { consumer, add, .. } => {
                self.live.consumers.add_credit(consumer, add);
                self.touch();
                Ok((Gate::Open, Reply::Done))
            }
            Command::Pull { consumer, count, mode, .. } => Ok(self.pull(consumer, count, mode)),
            Command::Settle(settle) => Ok(self.settle(&settle)),
            Command::Purge { .. } => Ok(self.purge()),
            Command::QueueState { .. } => Ok(self.state()),
            _ => Err(Refusal::Gone),
        }
    }

    fn add_consumer(&mut self, consume: &Consume) -> Answer {
        let consumers = &mut self.live.consumers;
        if consumers.any_exclusive() || (consume.exclusive && !consumers.is_empty()) {
            return Err(Refusal::InUse);
        }
        consumers.add(consume);
        self.live.unused_since = None;
        self.touch();
        Ok((self.gate(), Reply::Done))
    }

    fn remove_consumer(&mut self, consumer: ConsumerId) -> (Gate, Reply) {
        let known = self.live.consumers.remove(consumer);
        self.touch();
        // The answer comes behind the last delivery, so that none is on its way to nobody.
        let sync = self.sync();
        let gate = self.live.delivery_gate(0, sync);
        if known {
            self.step.effect(gate, crate::Effect::Ended { consumer });
        }
        if known && self.live.consumers.is_empty() {
            if self.queue.spec.auto_delete {
                self.step.effect(Gate::Open, crate::Effect::Unused { queue: self.id });
            }
            self.mark_unused();
        }
        (gate, Reply::Done)
    }

    fn state(&mut self) -> (Gate, Reply) {
        let mut state = QueueState { consumers: self.live.consumers.len() as u32, ..QueueState::default() };
        for (live, durable) in self.live.lanes.iter().zip(&self.queue.lanes) {
            state.ready += live.ready(durable);
            state.leased += live.leased.len() as u64;
            state.delayed += (durable.delayed.len() + live.transient_delayed.len()) as u64;
            state.transient += live.transient.len() as u64;
        }
        (self.gate(), Reply::QueueState(state))
    }

    /// Whether its messages promise to survive a power cut.
    fn sync(&self) -> bool {
        self.queue.spec.config.durability == Durability::Fsync
    }

    /// What a reply about the queue waits for.
    fn gate(&self) -> Gate {
        self.live.gate(self.sync())
    }

    /// The queue has something to do in the next round of deliveries.
    fn touch(&mut self) {
        self.common.touched.insert(self.id);
    }

    fn lane(&mut self, lane: u8) -> Option<(&DurableLane, &mut LiveLane)> {
        let index = usize::from(lane);
        Some((self.queue.lanes.get(index)?, self.live.lanes.get_mut(index)?))
    }
}
