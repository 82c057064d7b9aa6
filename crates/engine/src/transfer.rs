//! What leaves a shard for another one, exactly once: the outbox; and what a durable session remembers of its
//! conversation, for the same reason.

use crate::{
    command::{Command, Ticket},
    durable::{Durable, DurableQueue},
    effect::{Effect, Gate, HandleState, OutboxEntry, OutboxItem, Refusal, Reply},
    event::Event,
    settlement::Position,
    shard::{Context, Step},
    volatile::Volatile,
};
use posthaste_model::{DeathReason, QueueId};

/// Puts a queue's message into the outbox. It stays in the queue's log until it has arrived.
#[allow(clippy::too_many_arguments)]
pub(crate) fn dead_letter(
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    lane: u8,
    offset: u64,
    queue: &DurableQueue,
    reason: DeathReason,
    step: &mut Step,
) {
    volatile.outbox_last += 1;
    volatile.outbox_changed = ctx.batch;
    let number = volatile.outbox_last;
    let stream = queue.spec.streams.get(usize::from(lane)).copied().unwrap_or(id.0);
    step.event(Event::DeadLettered { number, queue: id, lane, offset, reason }, true);
    let item = OutboxItem::DeadLetter { queue: id, lane, stream, offset, reason };
    step.effect(Gate::Synced(ctx.batch), Effect::Outbox(OutboxEntry { number, item }));
}

pub(crate) fn decide(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    command: Command,
    ticket: Ticket,
    step: &mut Step,
) {
    if let Command::OutboxDone { number } = command {
        if durable.outbox.entries.first_key_value().is_some_and(|(first, _)| *first <= number) {
            // Lost in a crash, the entries are sent again and recognized where they arrive.
            step.lazy(Event::OutboxDone { number });
        }
        return step.reply(Gate::Open, ticket, Reply::Done);
    }
    let result = session(durable, volatile, ctx, command, step);
    match result {
        Ok((gate, reply)) => step.reply(gate, ticket, reply),
        Err(refusal) => step.reply(Gate::Open, ticket, Reply::Refused(refusal)),
    }
}

fn session(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    command: Command,
    step: &mut Step,
) -> Result<(Gate, Reply), Refusal> {
    let id = match &command {
        Command::Receive { queue, .. }
        | Command::Forget { queue, .. }
        | Command::AssignHandles { queue, .. }
        | Command::SettleHandle { queue, .. }
        | Command::FreeHandle { queue, .. }
        | Command::SessionState { queue } => *queue,
        _ => return Err(Refusal::Gone),
    };
    let queue = durable.queues.get(&id).ok_or(Refusal::Gone)?;
    let live = volatile.queues.get_mut(&id).ok_or(Refusal::Gone)?;
    let before = live.gate(true);
    match command {
        Command::Receive { id: message, relay, .. } => {
            if queue.received.contains(&message) {
                return Ok((before, Reply::Duplicate { offset: 0 }));
            }
            if ctx.no_space {
                return Err(Refusal::NoSpace);
            }
            live.changed = ctx.batch;
            volatile.outbox_last += 1;
            let number = volatile.outbox_last;
            let crate::command::Relay { namespace, exchange, envelope, payload } = *relay;
            let body = payload.body.clone();
            let item = OutboxItem::Relay {
                namespace: namespace.clone(),
                exchange: exchange.clone(),
                envelope: envelope.clone(),
                payload: payload.clone(),
                body,
            };
            step.event(Event::Relayed { number, namespace, exchange, envelope, payload }, true);
            if let Some(last) = step.events.last_mut() {
                last.joined = true;
            }
            step.event(Event::Received { queue: id, id: message }, true);
            step.effect(Gate::Synced(ctx.batch), Effect::Outbox(OutboxEntry { number, item }));
        }
        Command::Forget { id: message, .. } => {
            if !queue.received.contains(&message) {
                return Ok((before, Reply::Done));
            }
            live.changed = ctx.batch;
            step.event(Event::Forgotten { queue: id, id: message }, true);
        }
        Command::AssignHandles { consumer, handles, .. } => {
            live.changed = ctx.batch;
            for (lane, position, handle) in handles {
                let leased = live
                    .lanes
                    .get(usize::from(lane))
                    .and_then(|l| l.leased.get(&position))
                    .is_some_and(|l| l.consumer == consumer);
                if leased && position.is_durable() {
                    let offset = position.offset;
                    step.event(Event::HandleAssigned { queue: id, lane, offset, handle }, true);
                }
            }
        }
        Command::SettleHandle { handle, .. } => {
            live.changed = ctx.batch;
            if let Some(Some((lane, offset))) = queue.handles.get(&handle).copied() {
                if let Some(live_lane) = live.lanes.get_mut(usize::from(lane)) {
                    let position = Position::durable(offset);
                    live_lane.released.remove(&position);
                    if let Some(lease) = live_lane.leased.get(&position).cloned() {
                        live_lane.end_lease(position, lease.consumer);
                        if let Some(consumer) = live.consumer(lease.consumer) {
                            consumer.credit = consumer.credit.saturating_add(1);
                        }
                    }
                }
                step.event(Event::HandleSettled { queue: id, handle }, true);
                if let Some(last) = step.events.last_mut() {
                    last.joined = true;
                }
                let ranges = smallvec::SmallVec::from_slice(&[(offset, offset + 1)]);
                step.event(Event::Settled { queue: id, lane, ranges }, true);
                volatile.touched.insert(id);
            }
        }
        Command::FreeHandle { handle, .. } => {
            if queue.handles.contains_key(&handle) {
                live.changed = ctx.batch;
                step.event(Event::HandleFreed { queue: id, handle }, true);
            }
        }
        Command::SessionState { .. } => {
            let handles = queue
                .handles
                .iter()
                .map(|(handle, delivery)| HandleState {
                    handle: *handle,
                    delivery: delivery.map(|(lane, offset)| (lane, Position::durable(offset))),
                })
                .collect();
            let received = queue.received.iter().copied().collect();
            return Ok((before, Reply::Session { handles, received }));
        }
        _ => {}
    }
    Ok((Gate::Synced(ctx.batch), Reply::Done))
}
