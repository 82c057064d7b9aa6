//! What a queue does: take messages, hand them out, settle them. Decisions only; events do the changing.

use crate::{
    catalog::{Durability, Overflow},
    command::{Command, Consume, Enqueue, Mode, Outcome, Settle, Ticket},
    durable::{Durable, DurableQueue},
    effect::{Content, Delivery, Effect, Gate, QueueState, Refusal, Reply},
    event::Event,
    settlement::{DurableLane, Lease, Position, TransientMessage},
    shard::{Context, Published, Step},
    volatile::{Consumer, LiveQueue, Timer, Volatile},
};
use posthaste_model::{ConsumerId, DeathReason, QueueId, Timestamp};
use smallvec::SmallVec;

/// The durable half of a queue, or what stands for it when the queue does not survive a restart.
fn definition<'a>(durable: &'a Durable, live: &'a LiveQueue, id: QueueId) -> Option<&'a DurableQueue> {
    live.own.as_ref().or_else(|| durable.queues.get(&id))
}

/// Runs `act` on a queue, taken out of the map so that the rest of the state can be reached beside it.
fn with<R>(
    durable: &Durable,
    volatile: &mut Volatile,
    id: QueueId,
    act: impl FnOnce(&DurableQueue, &mut LiveQueue, &mut Volatile) -> R,
) -> Result<R, Refusal> {
    let mut live = volatile.queues.remove(&id).ok_or(Refusal::Gone)?;
    let own = live.own.take();
    let result =
        own.as_ref().or_else(|| durable.queues.get(&id)).map(|queue| act(queue, &mut live, volatile));
    live.own = own;
    volatile.queues.insert(id, live);
    result.ok_or(Refusal::Gone)
}

fn sync_of(queue: &DurableQueue) -> bool {
    queue.spec.config.durability == Durability::Fsync
}

pub(crate) fn decide(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    command: Command,
    ticket: Ticket,
    step: &mut Step,
) {
    let result = match command {
        Command::OpenQueue { queue, spec } => {
            open(durable, volatile, ctx, queue, spec, step);
            Ok((Gate::Synced(ctx.batch), Reply::Done))
        }
        Command::CloseQueue { queue, if_unused, if_empty } => {
            close(durable, volatile, ctx, queue, if_unused, if_empty, step)
        }
        Command::Consume(consume) => add_consumer(durable, volatile, consume),
        Command::Cancel { queue, consumer } => cancel(durable, volatile, ctx, queue, consumer, false, step),
        Command::Detach { queue, consumer } => cancel(durable, volatile, ctx, queue, consumer, true, step),
        Command::Recover { queue, consumer } => {
            release_all(durable, volatile, ctx, queue, consumer, step);
            Ok((Gate::Open, Reply::Done))
        }
        Command::Credit { queue, consumer, add } => {
            if let Some(consumer) = volatile.queues.get_mut(&queue).and_then(|q| q.consumer(consumer)) {
                consumer.credit = consumer.credit.saturating_add(add);
            }
            volatile.touched.insert(queue);
            Ok((Gate::Open, Reply::Done))
        }
        Command::Pull { queue, consumer, count, mode } => {
            pull(durable, volatile, ctx, queue, consumer, count, mode, step)
        }
        Command::Settle(settle) => Ok(settle_deliveries(durable, volatile, ctx, settle, step)),
        Command::Purge { queue } => purge(durable, volatile, ctx, queue, step),
        Command::QueueState { queue } => state(durable, volatile, queue),
        _ => Err(Refusal::Gone),
    };
    match result {
        Ok((gate, reply)) => step.reply(gate, ticket, reply),
        Err(refusal) => step.reply(Gate::Open, ticket, Reply::Refused(refusal)),
    }
}

fn open(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    spec: crate::event::QueueSpec,
    step: &mut Step,
) {
    if let Some(live) = volatile.queues.get_mut(&id) {
        match &mut live.own {
            Some(own) => own.spec = spec,
            None if durable.queues.get(&id).is_some_and(|q| q.spec == spec) => {}
            None => step.event(Event::QueueOpened { queue: id, spec }, true),
        }
        return;
    }
    let mut queue = DurableQueue::new(spec.clone());
    if let Some(partition) = spec.over.and_then(|p| durable.partitions.get(&p))
        && let Some(lane) = queue.lanes.first_mut()
    {
        lane.next = partition.next;
        lane.settle(0, partition.start);
    }
    volatile.add_queue(id, &queue, true);
    if let Some(unused) = spec.config.unused_ms_max
        && let Some(live) = volatile.queues.get_mut(&id)
    {
        live.unused_since = Some(ctx.now);
        volatile.timers.insert((ctx.now.plus_ms(unused), Timer::Unused(id)));
    }
    let Some(live) = volatile.queues.get_mut(&id) else { return };
    if spec.durable {
        live.changed = ctx.batch;
        step.event(Event::QueueOpened { queue: id, spec }, true);
    } else {
        live.own = Some(queue);
    }
}

fn close(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    if_unused: bool,
    if_empty: bool,
    step: &mut Step,
) -> Result<(Gate, Reply), Refusal> {
    let live = volatile.queues.get_mut(&id).ok_or(Refusal::Gone)?;
    let queue = definition(durable, live, id).ok_or(Refusal::Gone)?;
    let ready = live.ready(queue);
    if if_unused && !live.consumers.is_empty() {
        return Err(Refusal::InUse);
    }
    let held: u64 = ready + live.lanes.iter().map(|l| l.leased.len() as u64).sum::<u64>();
    if if_empty && held > 0 {
        return Err(Refusal::NotEmpty);
    }
    for consumer in &live.consumers {
        step.effect(Gate::Open, Effect::Cancelled { consumer: consumer.id });
    }
    let gate = if queue.spec.durable {
        step.event(Event::QueueClosed { queue: id }, true);
        Gate::Synced(ctx.batch)
    } else {
        Gate::Open
    };
    volatile.transient_bytes = volatile.transient_bytes.saturating_sub(live.transient_bytes);
    volatile.queues.remove(&id);
    Ok((gate, Reply::Count(ready)))
}

/// Takes a message into a queue.
pub(crate) fn enqueue(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    enqueue: Enqueue,
    step: &mut Step,
) -> Result<Published, Refusal> {
    let id = enqueue.queue;
    with(durable, volatile, id, |queue, live, volatile| {
        enqueue_to(queue, live, volatile, ctx, enqueue, step)
    })?
}

fn enqueue_to(
    queue: &DurableQueue,
    live: &mut LiveQueue,
    volatile: &mut Volatile,
    ctx: &Context,
    enqueue: Enqueue,
    step: &mut Step,
) -> Result<Published, Refusal> {
    let Enqueue { queue: id, mut envelope, payload } = enqueue;
    let config = &queue.spec.config;
    if config.length_max.is_some_and(|max| config.overflow == Overflow::Reject && live.ready(queue) >= max) {
        return Err(Refusal::Full);
    }
    if let Some(ttl) = config.ttl_ms {
        let latest = ctx.now.plus_ms(ttl);
        envelope.expires = Some(envelope.expires.map_or(latest, |e| e.min(latest)));
    }
    if envelope.due.is_some_and(|due| due <= ctx.now) {
        envelope.due = None;
    }
    let lane = usize::from(envelope.priority).min(queue.lanes.len().saturating_sub(1));
    let index = lane as u8;
    let durable_lane = queue.lanes.get(lane).ok_or(Refusal::Gone)?;
    let times = (envelope.expires, envelope.due);
    volatile.touched.insert(id);
    if !(queue.spec.durable && envelope.durable) {
        let message = TransientMessage { envelope, payload, attempts: 0 };
        let bytes = message.bytes();
        if ctx.no_memory || live.transient_bytes + bytes > ctx.limits.transient_bytes_per_queue_max {
            return Err(Refusal::OutOfMemory);
        }
        live.transient_bytes += bytes;
        volatile.transient_bytes += bytes;
        let live_lane = live.lanes.get_mut(lane).ok_or(Refusal::Gone)?;
        let position = live_lane.push_transient(durable_lane.next, message);
        schedule(volatile, id, index, position, times);
        return Ok(Published { gate: Gate::Open, offset: position.offset, duplicate: false });
    }
    if ctx.no_space {
        return Err(Refusal::NoSpace);
    }
    let offset = durable_lane.next;
    if live.consumers.iter().any(|c| c.credit > 0) {
        volatile.recent.insert((id, index, offset), (envelope.clone(), payload.clone()));
    }
    live.changed = ctx.batch;
    schedule(volatile, id, index, Position::durable(offset), times);
    let sync = sync_of(queue);
    step.event(Event::Enqueued { queue: id, lane: index, offset, envelope, payload }, sync);
    let gate = if sync { Gate::Synced(ctx.batch) } else { Gate::Written(ctx.batch) };
    Ok(Published { gate, offset, duplicate: false })
}

fn schedule(
    volatile: &mut Volatile,
    id: QueueId,
    lane: u8,
    position: Position,
    (expires, due): (Option<Timestamp>, Option<Timestamp>),
) {
    if let Some(at) = expires {
        volatile.timers.insert((at, Timer::Expire(id, lane, position)));
    }
    if let Some(at) = due {
        volatile.timers.insert((at, Timer::Due(id, lane, position)));
    }
}

fn add_consumer(
    durable: &Durable,
    volatile: &mut Volatile,
    consume: Consume,
) -> Result<(Gate, Reply), Refusal> {
    let live = volatile.queues.get_mut(&consume.queue).ok_or(Refusal::Gone)?;
    let taken =
        live.consumers.iter().any(|c| c.exclusive) || (consume.exclusive && !live.consumers.is_empty());
    if taken {
        return Err(Refusal::InUse);
    }
    live.unused_since = None;
    live.consumers.push(Consumer {
        id: consume.consumer,
        credit: consume.credit,
        mode: consume.mode,
        exclusive: consume.exclusive,
        priority: consume.priority,
    });
    // Stable, so that consumers of one priority are served in the order in which they came.
    live.consumers.sort_by_key(|c| std::cmp::Reverse(c.priority));
    volatile.touched.insert(consume.queue);
    let live = volatile.queues.get(&consume.queue).ok_or(Refusal::Gone)?;
    let sync = definition(durable, live, consume.queue).is_some_and(sync_of);
    Ok((live.gate(sync), Reply::Done))
}

fn cancel(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    consumer: ConsumerId,
    release: bool,
    step: &mut Step,
) -> Result<(Gate, Reply), Refusal> {
    if release {
        release_all(durable, volatile, ctx, id, consumer, step);
    }
    let live = volatile.queues.get_mut(&id).ok_or(Refusal::Gone)?;
    let before = live.consumers.len();
    live.consumers.retain(|c| c.id != consumer);
    let left = before > 0 && before > live.consumers.len() && live.consumers.is_empty();
    volatile.touched.insert(id);
    if left {
        let live = volatile.queues.get_mut(&id).ok_or(Refusal::Gone)?;
        let queue = definition(durable, live, id).ok_or(Refusal::Gone)?;
        let unused = queue.spec.config.unused_ms_max;
        if queue.spec.auto_delete {
            step.effect(Gate::Open, Effect::Unused { queue: id });
        }
        live.unused_since = Some(ctx.now);
        if let Some(ms) = unused {
            volatile.timers.insert((ctx.now.plus_ms(ms), Timer::Unused(id)));
        }
    }
    Ok((Gate::Open, Reply::Done))
}

/// Gives everything that a consumer holds back to the queue, counted as delivered in vain.
fn release_all(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    consumer: ConsumerId,
    step: &mut Step,
) {
    let Some(live) = volatile.queues.get(&id) else { return };
    let mut deliveries = Vec::new();
    for (index, lane) in (0u8..).zip(&live.lanes) {
        deliveries
            .extend(lane.leased.iter().filter(|(_, l)| l.consumer == consumer).map(|(p, _)| (index, *p)));
    }
    for (lane, position) in deliveries {
        release(durable, volatile, ctx, id, (lane, position), consumer, true, step);
    }
    volatile.touched.insert(id);
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
    let _ = with(durable, volatile, id, |queue, live, volatile| {
        deliver_from(queue, live, volatile, ctx, id, step)
    });
}

fn deliver_from(
    queue: &DurableQueue,
    live: &mut LiveQueue,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    step: &mut Step,
) {
    let mut handed: Vec<Vec<Delivery>> = Vec::new();
    handed.resize_with(live.consumers.len(), Vec::new);
    let mut settled: Vec<(u8, u64)> = Vec::new();
    while let Some(turn) = next_consumer(live, queue.spec.config.single_active) {
        let Some((lane, position, again)) = next_message(queue, live, volatile, ctx, id, step) else { break };
        let Some(consumer) = live.consumers.get_mut(turn) else { break };
        consumer.credit -= 1;
        let (mode, consumer) = (consumer.mode, consumer.id);
        let Some(delivery) = hand_out(queue, live, volatile, id, lane, position, again, mode, consumer)
        else {
            continue;
        };
        if delivery.settled && position.is_durable() {
            settled.push((lane, position.offset));
        }
        if let Some(handed) = handed.get_mut(turn) {
            handed.push(delivery);
        }
    }
    let gate = live.gate(sync_of(queue));
    settle_offsets(queue, live, ctx, id, settled, step);
    mark_delivered(queue, live, id, step);
    for (consumer, deliveries) in live.consumers.iter().zip(handed) {
        if !deliveries.is_empty() {
            step.effect(gate, Effect::Deliver { consumer: consumer.id, deliveries });
        }
    }
}

/// The consumer whose turn it is: credit, highest priority, round robin.
fn next_consumer(live: &mut LiveQueue, single_active: bool) -> Option<usize> {
    if single_active {
        return live.consumers.first().filter(|c| c.credit > 0).map(|_| 0);
    }
    let best = live.consumers.iter().filter(|c| c.credit > 0).map(|c| c.priority).max()?;
    let count = live.consumers.len();
    let turn = (0..count)
        .map(|step| (live.turn + step) % count)
        .find(|at| live.consumers.get(*at).is_some_and(|c| c.credit > 0 && c.priority == best))?;
    live.turn = (turn + 1) % count;
    Some(turn)
}

/// Finds the next message that has not expired; expired ones leave on the way.
fn next_message(
    queue: &DurableQueue,
    live: &mut LiveQueue,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    step: &mut Step,
) -> Option<(u8, Position, bool)> {
    for lane in (0..queue.lanes.len()).rev() {
        let durable_lane = queue.lanes.get(lane)?;
        loop {
            let live_lane = live.lanes.get_mut(lane)?;
            let Some((position, again)) = live_lane.peek(durable_lane) else { break };
            if !expired(durable_lane, live_lane, position, ctx.now) {
                return Some((lane as u8, position, again));
            }
            live_lane.take(position);
            bury(queue, live, volatile, ctx, id, lane as u8, position, DeathReason::Expired, step);
        }
    }
    None
}

fn expired(
    durable: &DurableLane,
    live: &crate::settlement::LiveLane,
    position: Position,
    now: Timestamp,
) -> bool {
    let expires = if position.is_durable() {
        durable.expiring.get(&position.offset).copied()
    } else {
        live.transient.get(&position).and_then(|m| m.envelope.expires)
    };
    expires.is_some_and(|at| at <= now)
}

#[allow(clippy::too_many_arguments)]
fn hand_out(
    queue: &DurableQueue,
    live: &mut LiveQueue,
    volatile: &mut Volatile,
    id: QueueId,
    lane: u8,
    position: Position,
    again: bool,
    mode: Mode,
    consumer: ConsumerId,
) -> Option<Delivery> {
    let durable_lane = queue.lanes.get(usize::from(lane))?;
    let live_lane = live.lanes.get_mut(usize::from(lane))?;
    live_lane.take(position);
    let (attempts, content) = if position.is_durable() {
        let attempts = durable_lane.attempts.get(&position.offset).copied().unwrap_or(0);
        let content = match volatile.recent.remove(&(id, lane, position.offset)) {
            Some((envelope, payload)) => Content::Inline(envelope, payload),
            None => {
                let stream = queue.spec.streams.get(usize::from(lane)).copied().unwrap_or(id.0);
                Content::Stored { stream, offset: position.offset }
            }
        };
        (attempts, content)
    } else {
        let message = live_lane.transient.get(&position)?;
        (message.attempts, Content::Inline(message.envelope.clone(), message.payload.clone()))
    };
    let attempt = attempts + 1;
    // What still has to be read must not be settled before it was: whoever reads it settles it.
    let settled = mode == Mode::Settled && matches!(content, Content::Inline(..));
    if !settled {
        live_lane.lease(position, Lease { consumer, attempt });
    } else if !position.is_durable() {
        forget_transient(live, volatile, lane, position);
    }
    let settle_when_read = mode == Mode::Settled && !settled;
    let redelivered = again || attempts > 0;
    Some(Delivery {
        queue: id,
        consumer,
        lane,
        position,
        redelivered,
        attempt,
        settled,
        settle_when_read,
        content,
    })
}

fn forget_transient(live: &mut LiveQueue, volatile: &mut Volatile, lane: u8, position: Position) {
    if let Some(message) = live.lanes.get_mut(usize::from(lane)).and_then(|l| l.drop_transient(position)) {
        let bytes = message.bytes();
        live.transient_bytes = live.transient_bytes.saturating_sub(bytes);
        volatile.transient_bytes = volatile.transient_bytes.saturating_sub(bytes);
    }
}

/// One event per lane for all offsets that were settled.
fn settle_offsets(
    queue: &DurableQueue,
    live: &mut LiveQueue,
    ctx: &Context,
    id: QueueId,
    mut offsets: Vec<(u8, u64)>,
    step: &mut Step,
) {
    if offsets.is_empty() {
        return;
    }
    offsets.sort_unstable();
    let mut at = 0;
    while let Some((lane, _)) = offsets.get(at).copied() {
        let mut ranges: SmallVec<[(u64, u64); 2]> = SmallVec::new();
        while let Some((_, offset)) = offsets.get(at).copied().filter(|(l, _)| *l == lane) {
            match ranges.last_mut() {
                Some((_, end)) if *end == offset => *end += 1,
                Some((_, end)) if *end > offset => {}
                _ => ranges.push((offset, offset + 1)),
            }
            at += 1;
        }
        if queue.spec.durable {
            live.changed = ctx.batch;
            step.event(Event::Settled { queue: id, lane, ranges }, sync_of(queue));
        }
    }
}

fn mark_delivered(queue: &DurableQueue, live: &LiveQueue, id: QueueId, step: &mut Step) {
    if !queue.spec.durable {
        return;
    }
    for ((index, live_lane), durable_lane) in (0u8..).zip(&live.lanes).zip(&queue.lanes) {
        if live_lane.cursor > durable_lane.delivered_to && !live_lane.leased.is_empty() {
            step.lazy(Event::DeliveredTo { queue: id, lane: index, to: live_lane.cursor });
        }
    }
}

/// Drops the oldest messages of a queue that holds more than it may. After its deliveries were applied.
pub(crate) fn drop_overflow(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    step: &mut Step,
) {
    let _ = with(durable, volatile, id, |queue, live, volatile| {
        let Some(max) = queue.spec.config.length_max else { return };
        for _ in max..live.ready(queue) {
            // The lowest priority goes first.
            let found = (0..queue.lanes.len()).find_map(|lane| {
                let (position, _) = live.lanes.get_mut(lane)?.peek(queue.lanes.get(lane)?)?;
                Some((lane, position))
            });
            let Some((lane, position)) = found else { break };
            if let Some(live_lane) = live.lanes.get_mut(lane) {
                live_lane.take(position);
            }
            bury(queue, live, volatile, ctx, id, lane as u8, position, DeathReason::LengthLimit, step);
        }
    });
}

/// A message that nobody will get from this queue: to the dead-letter target, or gone.
#[allow(clippy::too_many_arguments)]
fn bury(
    queue: &DurableQueue,
    live: &mut LiveQueue,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    lane: u8,
    position: Position,
    reason: DeathReason,
    step: &mut Step,
) {
    let has_target = queue.spec.config.dead_letter.is_some();
    if !position.is_durable() {
        let message = live.lanes.get(usize::from(lane)).and_then(|l| l.transient.get(&position)).cloned();
        forget_transient(live, volatile, lane, position);
        if let (true, Some(message)) = (has_target, message) {
            let (envelope, payload) = (message.envelope, message.payload);
            return step.effect(Gate::Open, Effect::DeadLetter { queue: id, reason, envelope, payload });
        }
    } else if has_target {
        let offset = position.offset;
        live.changed = ctx.batch;
        return crate::transfer::dead_letter(volatile, ctx, id, lane, offset, queue, reason, step);
    } else {
        settle_offsets(queue, live, ctx, id, vec![(lane, position.offset)], step);
    }
    step.effect(Gate::Open, Effect::Dropped { queue: id, reason, count: 1 });
}

#[allow(clippy::too_many_arguments)]
fn pull(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    consumer: ConsumerId,
    count: u32,
    mode: Mode,
    step: &mut Step,
) -> Result<(Gate, Reply), Refusal> {
    with(durable, volatile, id, |queue, live, volatile| {
        let mut deliveries = Vec::new();
        let mut settled = Vec::new();
        while deliveries.len() < count as usize {
            let Some((lane, position, again)) = next_message(queue, live, volatile, ctx, id, step) else {
                break;
            };
            let delivery = hand_out(queue, live, volatile, id, lane, position, again, mode, consumer);
            if delivery.as_ref().is_some_and(|d| d.settled) && position.is_durable() {
                settled.push((lane, position.offset));
            }
            deliveries.extend(delivery);
        }
        let gate = live.gate(sync_of(queue));
        // What is settled here is applied later, but no longer ready.
        let ready = live.ready(queue).saturating_sub(settled.len() as u64);
        settle_offsets(queue, live, ctx, id, settled, step);
        mark_delivered(queue, live, id, step);
        (gate, Reply::Deliveries { deliveries, ready })
    })
}

fn settle_deliveries(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    settle: Settle,
    step: &mut Step,
) -> (Gate, Reply) {
    let id = settle.queue;
    volatile.touched.insert(id);
    match settle.outcome {
        Outcome::Accept => accept(durable, volatile, ctx, &settle, step),
        Outcome::Release { attempted } => {
            for (lane, position) in &settle.deliveries {
                release(durable, volatile, ctx, id, (*lane, *position), settle.consumer, attempted, step);
            }
        }
        Outcome::Reject(reason) => {
            for (lane, position) in &settle.deliveries {
                reject(durable, volatile, ctx, &settle, (*lane, *position), reason, step);
            }
        }
    }
    let returned = settle.deliveries.len() as u32;
    let Some(live) = volatile.queues.get_mut(&id) else { return (Gate::Open, Reply::Refused(Refusal::Gone)) };
    if let Some(consumer) = live.consumer(settle.consumer)
        && consumer.mode == Mode::Lease
    {
        consumer.credit = consumer.credit.saturating_add(returned);
    }
    let sync = definition(durable, live, id).is_none_or(sync_of);
    (live.gate(sync), Reply::Done)
}

fn accept(durable: &Durable, volatile: &mut Volatile, ctx: &Context, settle: &Settle, step: &mut Step) {
    let id = settle.queue;
    let _ = with(durable, volatile, id, |queue, live, volatile| {
        let mut settled = Vec::with_capacity(settle.deliveries.len());
        for (lane, position) in &settle.deliveries {
            let live_lane = live.lanes.get_mut(usize::from(*lane));
            if live_lane.and_then(|l| l.end_lease(*position, settle.consumer)).is_none() {
                continue;
            }
            if position.is_durable() {
                settled.push((*lane, position.offset));
            } else {
                forget_transient(live, volatile, *lane, *position);
            }
        }
        settle_offsets(queue, live, ctx, id, settled, step);
    });
}

/// Gives a message back; one that was delivered in vain too often leaves instead.
#[allow(clippy::too_many_arguments)]
fn release(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    (lane, position): (u8, Position),
    consumer: ConsumerId,
    attempted: bool,
    step: &mut Step,
) {
    let _ = with(durable, volatile, id, |queue, live, volatile| {
        let index = usize::from(lane);
        let (Some(durable_lane), Some(live_lane)) = (queue.lanes.get(index), live.lanes.get_mut(index))
        else {
            return;
        };
        let Some(lease) = live_lane.end_lease(position, consumer) else { return };
        if position.is_durable() && durable_lane.is_settled(position.offset) {
            return;
        }
        if attempted {
            if queue.spec.config.delivery_limit.is_some_and(|limit| lease.attempt > limit) {
                return bury(
                    queue,
                    live,
                    volatile,
                    ctx,
                    id,
                    lane,
                    position,
                    DeathReason::DeliveryLimit,
                    step,
                );
            }
            if let Some(message) = live_lane.transient.get_mut(&position) {
                message.attempts = lease.attempt;
            } else {
                let (offset, attempts) = (position.offset, lease.attempt);
                step.lazy(Event::Attempted { queue: id, lane, offset, attempts });
            }
        }
        live_lane.released.insert(position, true);
    });
}

#[allow(clippy::too_many_arguments)]
fn reject(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    settle: &Settle,
    (lane, position): (u8, Position),
    reason: DeathReason,
    step: &mut Step,
) {
    let id = settle.queue;
    let _ = with(durable, volatile, id, |queue, live, volatile| {
        let ended =
            live.lanes.get_mut(usize::from(lane)).and_then(|l| l.end_lease(position, settle.consumer));
        if ended.is_some() {
            bury(queue, live, volatile, ctx, id, lane, position, reason, step);
        }
    });
}

fn purge(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    step: &mut Step,
) -> Result<(Gate, Reply), Refusal> {
    with(durable, volatile, id, |queue, live, volatile| {
        let purged = live.ready(queue);
        for (lane, durable_lane) in (0u8..).zip(&queue.lanes) {
            let Some(live_lane) = live.lanes.get_mut(usize::from(lane)) else { continue };
            // What is leased or on its way stays; everything else goes.
            let leased = live_lane.leased.keys().filter(|p| p.is_durable()).map(|p| p.offset);
            let mut kept: Vec<u64> = leased.chain(durable_lane.moving.keys().copied()).collect();
            kept.push(durable_lane.next);
            kept.sort_unstable();
            let mut from = durable_lane.floor;
            let mut ranges: SmallVec<[(u64, u64); 2]> = SmallVec::new();
            for keep in kept {
                if keep > from {
                    ranges.push((from, keep));
                }
                from = from.max(keep + 1);
            }
            live_lane.released.clear();
            live_lane.transient_ready.clear();
            live_lane.cursor = durable_lane.next;
            let leased = &live_lane.leased;
            let waiting: Vec<_> =
                live_lane.transient.keys().filter(|p| !leased.contains_key(p)).copied().collect();
            waiting.into_iter().for_each(|p| forget_transient(live, volatile, lane, p));
            if !ranges.is_empty() && queue.spec.durable {
                live.changed = ctx.batch;
                step.event(Event::Settled { queue: id, lane, ranges }, sync_of(queue));
            }
        }
        (live.gate(sync_of(queue)), Reply::Count(purged))
    })
}

fn state(durable: &Durable, volatile: &Volatile, id: QueueId) -> Result<(Gate, Reply), Refusal> {
    let live = volatile.queues.get(&id).ok_or(Refusal::Gone)?;
    let queue = definition(durable, live, id).ok_or(Refusal::Gone)?;
    let mut state = QueueState { consumers: live.consumers.len() as u32, ..QueueState::default() };
    for (live_lane, durable_lane) in live.lanes.iter().zip(&queue.lanes) {
        state.ready += live_lane.ready(durable_lane);
        state.leased += live_lane.leased.len() as u64;
        state.delayed += (durable_lane.delayed.len() + live_lane.transient_delayed.len()) as u64;
        state.transient += live_lane.transient.len() as u64;
    }
    Ok((live.gate(sync_of(queue)), Reply::QueueState(state)))
}

/// A timer of a queue has come due.
pub(crate) fn fire(durable: &Durable, volatile: &mut Volatile, ctx: &Context, timer: Timer, step: &mut Step) {
    match timer {
        Timer::Due(id, lane, position) => due(durable, volatile, id, lane, position, step),
        Timer::Expire(id, lane, position) => expire(durable, volatile, ctx, id, lane, position, step),
        Timer::Unused(id) => {
            let Some(live) = volatile.queues.get(&id) else { return };
            let limit = definition(durable, live, id).and_then(|q| q.spec.config.unused_ms_max);
            if let (Some(since), Some(limit)) = (live.unused_since, limit)
                && ctx.now >= since.plus_ms(limit)
            {
                step.effect(Gate::Open, Effect::Unused { queue: id });
            }
        }
        Timer::Group(..) => {}
    }
}

fn due(
    durable: &Durable,
    volatile: &mut Volatile,
    id: QueueId,
    lane: u8,
    position: Position,
    step: &mut Step,
) {
    let Some(live) = volatile.queues.get_mut(&id) else { return };
    let delayed = durable.queues.get(&id).and_then(|q| q.lanes.get(usize::from(lane)));
    let Some(live_lane) = live.lanes.get_mut(usize::from(lane)) else { return };
    volatile.touched.insert(id);
    if position.is_durable() {
        if !delayed.is_some_and(|l| l.delayed.contains_key(&position.offset)) {
            return;
        }
        step.lazy(Event::Due { queue: id, lane, offset: position.offset });
        // The cursor finds what it has not passed yet.
        if position.offset < live_lane.cursor {
            live_lane.released.insert(position, false);
        }
    } else if let Some(message) = live_lane.transient.get(&position) {
        if let Some(at) = message.envelope.due {
            live_lane.transient_delayed.remove(&(at, position));
        }
        live_lane.released.insert(position, false);
    }
}

/// A message expired. One that is leased is looked at when it comes back.
fn expire(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    id: QueueId,
    lane: u8,
    position: Position,
    step: &mut Step,
) {
    let _ = with(durable, volatile, id, |queue, live, volatile| {
        let index = usize::from(lane);
        let (Some(durable_lane), Some(live_lane)) = (queue.lanes.get(index), live.lanes.get_mut(index))
        else {
            return;
        };
        if live_lane.leased.contains_key(&position) || !expired(durable_lane, live_lane, position, ctx.now) {
            return;
        }
        live_lane.released.remove(&position);
        bury(queue, live, volatile, ctx, id, lane, position, DeathReason::Expired, step);
    });
}

/// Volatile state that has to follow an event, before it is applied.
pub(crate) fn before_event(durable: &Durable, volatile: &mut Volatile, event: &Event) {
    if let Event::Settled { queue, lane, ranges } = event
        && let Some(known) = durable.queues.get(queue).and_then(|q| q.lanes.get(usize::from(*lane)))
    {
        for (start, end) in ranges {
            for (offset, at) in known.expiring.range(*start..*end) {
                volatile.timers.remove(&(*at, Timer::Expire(*queue, *lane, Position::durable(*offset))));
            }
            for (offset, at) in known.delayed.range(*start..*end) {
                volatile.timers.remove(&(*at, Timer::Due(*queue, *lane, Position::durable(*offset))));
            }
        }
    }
}

/// Volatile state that has to follow an event, after it was applied.
pub(crate) fn after_event(durable: &Durable, volatile: &mut Volatile, event: &Event) {
    let readers = match event {
        Event::Appended { partition, .. } | Event::Trimmed { partition, .. } => {
            durable.partitions.get(partition).map(|p| &p.readers)
        }
        _ => None,
    };
    for reader in readers.into_iter().flatten() {
        volatile.touched.insert(*reader);
        if let (Some(live), Some(known)) = (volatile.queues.get_mut(reader), durable.queues.get(reader)) {
            for (live_lane, durable_lane) in live.lanes.iter_mut().zip(&known.lanes) {
                live_lane.forget_settled(durable_lane);
            }
        }
    }
}
