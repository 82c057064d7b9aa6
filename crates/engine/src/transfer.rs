//! What leaves a shard for another one, exactly once: the outbox; and what a durable session remembers of its
//! conversation, for the same reason.

use crate::{
    command::{Command, Relay, Ticket},
    durable::Durable,
    effect::{Effect, Gate, HandleState, OutboxEntry, OutboxItem, Refusal, Reply},
    event::Event,
    queue::{Work, with},
    settlement::Position,
    shard::{Context, Step},
    volatile::Volatile,
};
use posthaste_model::{ConsumerId, DeathReason};

/// Puts a queue's message into the outbox. It stays in the queue's log until it has arrived.
pub(crate) fn dead_letter(work: &mut Work, lane: u8, offset: u64, reason: DeathReason) {
    let queue = work.id;
    work.live.changed = work.ctx.batch;
    let number = next_number(work);
    let stream = work.queue.spec.streams.get(usize::from(lane)).copied().unwrap_or(queue.0);
    work.step.event(Event::DeadLettered { number, queue, lane, offset, reason }, true);
    let item = OutboxItem::DeadLetter { queue, lane, stream, offset, reason };
    work.step.effect(Gate::Synced(work.ctx.batch), Effect::Outbox(OutboxEntry { number, item }));
}

fn next_number(work: &mut Work) -> u64 {
    work.common.outbox_last += 1;
    work.common.outbox_last
}

pub(crate) fn decide(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    command: Command,
    ticket: Ticket,
    step: &mut Step,
) {
    let queue = match &command {
        Command::OutboxDone { number } => {
            if durable.outbox.entries.first_key_value().is_some_and(|(first, _)| first <= number) {
                // Lost in a crash, the entries are sent again and recognized where they arrive.
                step.lazy(Event::OutboxDone { number: *number });
            }
            return step.reply(Gate::Open, ticket, Reply::Done);
        }
        Command::Receive { queue, .. }
        | Command::Forget { queue, .. }
        | Command::AssignHandles { queue, .. }
        | Command::SettleHandle { queue, .. }
        | Command::FreeHandle { queue, .. }
        | Command::SessionState { queue } => *queue,
        _ => return step.reply(Gate::Open, ticket, Reply::Refused(Refusal::Gone)),
    };
    let answer = match durable.queues.contains_key(&queue) {
        true => with(durable, volatile, ctx, queue, step, |work| work.session(command)),
        // What does not survive a restart has nothing to remember over one.
        false => Err(Refusal::Gone),
    };
    match answer.and_then(|answer| answer) {
        Ok(reply) => {
            let gate = volatile.queues.get(&queue).map_or(Gate::Open, |live| live.session_gate());
            step.reply(gate, ticket, reply);
        }
        Err(refusal) => step.reply(Gate::Open, ticket, Reply::Refused(refusal)),
    }
}

impl Work<'_> {
    fn session(&mut self, command: Command) -> Result<Reply, Refusal> {
        match command {
            Command::Receive { id, relay, .. } => return self.receive(id, *relay),
            Command::Forget { id, .. } => {
                if self.queue.received.contains(&id) {
                    self.remember(Event::Forgotten { queue: self.id, id });
                }
            }
            Command::AssignHandles { consumer, handles, .. } => {
                for (lane, position, handle) in handles {
                    self.assign_handle(consumer, lane, position, handle);
                }
            }
            Command::SettleHandle { handle, .. } => self.settle_handle(handle),
            Command::FreeHandle { handle, .. } => {
                if self.queue.handles.contains_key(&handle) {
                    self.remember(Event::HandleFreed { queue: self.id, handle });
                }
            }
            Command::SessionState { .. } => return Ok(self.session_state()),
            _ => return Err(Refusal::Gone),
        }
        Ok(Reply::Done)
    }

    fn remember(&mut self, event: Event) {
        self.live.session_changed = self.ctx.batch;
        self.step.event(event, true);
    }

    fn receive(&mut self, id: u32, relay: Relay) -> Result<Reply, Refusal> {
        if self.queue.received.contains(&id) {
            return Ok(Reply::Duplicate { offset: 0 });
        }
        if self.ctx.no_space {
            return Err(Refusal::NoSpace);
        }
        let number = next_number(self);
        let Relay { namespace, exchange, envelope, payload } = relay;
        let item = OutboxItem::Relay {
            namespace: namespace.clone(),
            exchange: exchange.clone(),
            envelope: envelope.clone(),
            payload: payload.clone(),
            body: payload.body.clone(),
        };
        self.step.event(Event::Relayed { number, namespace, exchange, envelope, payload }, true);
        self.step.join_last();
        self.remember(Event::Received { queue: self.id, id });
        self.step.effect(Gate::Synced(self.ctx.batch), Effect::Outbox(OutboxEntry { number, item }));
        Ok(Reply::Done)
    }

    fn assign_handle(&mut self, consumer: ConsumerId, lane: u8, position: Position, handle: u32) {
        let lease = self.live.lanes.get(usize::from(lane)).and_then(|l| l.leased.get(&position));
        if position.is_durable() && lease.is_some_and(|l| l.consumer == consumer) {
            self.remember(Event::HandleAssigned { queue: self.id, lane, offset: position.offset, handle });
        }
    }

    fn settle_handle(&mut self, handle: u32) {
        let Some((lane, offset)) = self.queue.handles.get(&handle).copied().flatten() else { return };
        let queue = self.id;
        self.remember(Event::HandleSettled { queue, handle });
        let index = usize::from(lane);
        let (Some(durable), Some(live)) = (self.queue.lanes.get(index), self.live.lanes.get_mut(index))
        else {
            return;
        };
        if durable.is_settled(offset) || durable.moving.contains_key(&offset) {
            return;
        }
        let position = Position::durable(offset);
        live.released.remove(&position);
        if let Some(lease) = live.leased.remove(&position) {
            self.live.consumers.lease_ended(lease.consumer, 1);
        }
        self.step.join_last();
        let ranges = smallvec::SmallVec::from_slice(&[(offset, offset + 1)]);
        self.live.changed = self.ctx.batch;
        self.step.event(Event::Settled { queue, lane, ranges }, true);
        self.common.touched.insert(queue);
    }

    fn session_state(&self) -> Reply {
        let handles = self.queue.handles.iter().map(|(handle, delivery)| HandleState {
            handle: *handle,
            delivery: delivery.map(|(lane, offset)| (lane, Position::durable(offset))),
        });
        Reply::Session { handles: handles.collect(), received: self.queue.received.iter().copied().collect() }
    }
}
