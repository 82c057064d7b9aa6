//! What leaves a shard for another one, exactly once: the outbox; and what a durable session remembers of its
//! conversation, for the same reason.
//!
//! An entry has a number that is never given out again. Where it goes is decided once and stored before it is
//! sent; each destination takes a source's numbers in ascending order and remembers the highest. An entry is
//! done once all its destinations have it; until then its message, and a deleted queue's log that holds it,
//! stay.

use crate::{
    catalog::DeadLetter,
    command::{Command, Destination, Relay, Ticket},
    durable::Durable,
    effect::{DeadLetterFrom, Effect, Gate, HandleState, OutboxEntry, OutboxItem, Refusal, Reply},
    event::{Event, is_too_large},
    queue::{Work, with},
    settlement::Position,
    shard::{Context, Step},
    volatile::Volatile,
};
use posthaste_model::{ConsumerId, DeathReason, QueueId};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Places that one message goes to, at most, where that is stored with it: at 11 bytes each they fit into a
/// record's head, beside the largest properties.
pub const DESTINATIONS_MAX: usize = 32_768;

/// Puts a queue's message into the outbox. It stays in the queue's log until it has arrived.
pub(crate) fn dead_letter(work: &mut Work, lane: u8, offset: u64, reason: DeathReason, target: DeadLetter) {
    let queue = work.id;
    work.live.changed = work.ctx.batch;
    let number = next_number(work);
    let stream = work.queue.spec.streams.get(usize::from(lane)).copied().unwrap_or(queue.0);
    let from = Some(DeadLetterFrom::new(&work.queue.spec, target.clone()));
    let item = OutboxItem::DeadLetter { queue, lane, stream, offset, reason, target: target.clone() };
    work.step.event(Event::DeadLettered { number, queue, lane, offset, reason, target }, true);
    let entry = OutboxEntry { number, item, to: None, live: Vec::new(), from };
    work.step.effect(Gate::Synced(work.ctx.batch), Effect::Outbox(Box::new(entry)));
}

/// What a start finds in the outbox: it is sent again, and recognized where it has arrived.
pub(crate) fn unfinished(durable: &Durable) -> impl Iterator<Item = OutboxEntry> {
    durable.outbox.entries.iter().map(|(number, entry)| {
        let from = match &entry.item {
            OutboxItem::DeadLetter { queue, target, .. } => {
                let queue = durable.queues.get(queue);
                queue.map(|queue| DeadLetterFrom::new(&queue.spec, target.clone()))
            }
            OutboxItem::Relay { .. } => None,
        };
        OutboxEntry {
            number: *number,
            item: entry.item.clone(),
            to: entry.to.clone(),
            live: Vec::new(),
            from,
        }
    })
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
        Command::OutboxDone { numbers } => {
            done(durable, numbers, step);
            return step.reply(Gate::Open, ticket, Reply::Done);
        }
        Command::RouteOutbox { routes } => {
            for routes in route(durable, routes) {
                volatile.common.outbox_changed = ctx.batch;
                step.event(Event::Routed { routes }, true);
            }
            return step.reply(volatile.common.outbox_gate(), ticket, Reply::Done);
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

/// Entries that are there and not routed yet, in parts that one event can tell of.
fn route(durable: &Durable, routes: &[(u64, Vec<Destination>)]) -> Vec<Vec<(u64, Vec<Destination>)>> {
    let mut parts: Vec<Vec<(u64, Vec<Destination>)>> = Vec::new();
    let mut room = 0;
    for (number, to) in routes {
        if durable.outbox.entries.get(number).is_none_or(|entry| entry.to.is_some()) {
            continue;
        }
        match parts.last_mut().filter(|_| to.len() <= room) {
            Some(part) => part.push((*number, to.clone())),
            None => {
                room = DESTINATIONS_MAX;
                parts.push(vec![(*number, to.clone())]);
            }
        }
        room = room.saturating_sub(to.len().max(1));
    }
    parts
}

/// Forgets entries that have arrived, and deleted queues that were kept for the last of them. Lost in a
/// crash, these entries are sent again and recognized where they arrive.
fn done(durable: &Durable, numbers: &[u64], step: &mut Step) {
    let mut ranges: SmallVec<[(u64, u64); 2]> = SmallVec::new();
    let mut left: BTreeMap<QueueId, usize> = BTreeMap::new();
    for number in numbers {
        let Some(entry) = durable.outbox.entries.get(number) else { continue };
        match ranges.last_mut() {
            Some((_, end)) if *end == *number => *end += 1,
            Some((_, end)) if *end > *number => continue,
            _ => ranges.push((*number, number + 1)),
        }
        if let OutboxItem::DeadLetter { queue, .. } = &entry.item
            && durable.queues.get(queue).is_some_and(|queue| queue.draining)
        {
            *left.entry(*queue).or_default() += 1;
        }
    }
    if ranges.is_empty() {
        return;
    }
    step.lazy(Event::OutboxDone { ranges });
    for (queue, arrived) in left {
        let Some(known) = durable.queues.get(&queue) else { continue };
        if known.lanes.iter().map(|lane| lane.moving.len()).sum::<usize>() <= arrived {
            step.join_last();
            step.lazy(Event::QueueClosed { queue, lanes: known.lanes.len() as u16 });
        }
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
        if self.common.relayed_bytes >= self.ctx.limits.outbox_bytes_max {
            // Destinations that are full hold up what was taken before.
            return Err(Refusal::Full);
        }
        if is_too_large(&relay.envelope, &relay.payload) || relay.to.len() > DESTINATIONS_MAX {
            return Err(Refusal::TooLarge);
        }
        let number = next_number(self);
        let Relay { to, live, envelope, payload } = relay;
        let body = payload.body.clone();
        let item = OutboxItem::Relay { envelope: envelope.clone(), payload: payload.clone(), body };
        let entry = OutboxEntry { number, item, to: Some(to.clone()), live, from: None };
        self.step.event(Event::Relayed { number, to, envelope, payload }, true);
        self.step.join_last();
        self.remember(Event::Received { queue: self.id, id });
        self.step.effect(Gate::Synced(self.ctx.batch), Effect::Outbox(Box::new(entry)));
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
