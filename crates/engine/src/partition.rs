//! What a partition does: take batches in order, forget old ones.

use crate::{
    command::{Append, Command, Ticket},
    durable::{Durable, DurablePartition},
    effect::{Gate, Refusal, Reply},
    event::{self, Event, Sequence},
    shard::{Context, Published, Step},
    volatile::Volatile,
};
use posthaste_model::PartitionId;

pub(crate) fn decide(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    command: Command,
    ticket: Ticket,
    step: &mut Step,
) {
    let result = match command {
        Command::OpenPartition { partition, spec } => {
            if durable.partitions.get(&partition).is_none_or(|p| p.spec != spec) {
                volatile.partitions.insert(partition, ctx.batch);
                volatile.opened = ctx.batch;
                step.event(Event::PartitionOpened { partition, spec }, true);
            }
            Ok((synced(volatile.opened), Reply::Done))
        }
        Command::ClosePartition { partition } => close(durable, volatile, ctx, partition, step),
        Command::Trim { partition, before } => trim(durable, volatile, ctx, partition, before, step),
        Command::MoveTap { partition, to, durable: sync } => {
            // An earlier move to the same place may have been a lazy one.
            let known = durable.partitions.get(&partition);
            let moved = known.is_some_and(|p| if sync { p.tap <= to } else { p.tap < to });
            if moved {
                step.event(Event::TapMoved { partition, to }, sync);
            }
            Ok((if moved && sync { Gate::Synced(ctx.batch) } else { Gate::Open }, Reply::Done))
        }
        Command::ReserveProducerIds { count } => {
            // 0 stands for no producer in places, so ids begin at 1.
            let first = durable.producer_ids.max(1);
            step.event(Event::ProducerIdsReserved { to: first.saturating_add(count) }, true);
            Ok((Gate::Synced(ctx.batch), Reply::ProducerIds { first, count }))
        }
        _ => Err(Refusal::Gone),
    };
    match result {
        Ok((gate, reply)) => step.reply(gate, ticket, reply),
        Err(refusal) => step.reply(Gate::Open, ticket, Reply::Refused(refusal)),
    }
}

fn close(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    partition: PartitionId,
    step: &mut Step,
) -> Result<(Gate, Reply), Refusal> {
    let known = durable.partitions.get(&partition).ok_or(Refusal::Gone)?;
    for reader in &known.readers {
        if let Some(live) = volatile.queues.remove(reader) {
            for consumer in live.consumers.ids() {
                step.effect(Gate::Open, crate::Effect::Cancelled { consumer });
            }
        }
    }
    volatile.partitions.remove(&partition);
    step.event(Event::PartitionClosed { partition }, true);
    Ok((Gate::Synced(ctx.batch), Reply::Done))
}

fn trim(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    partition: PartitionId,
    before: u64,
    step: &mut Step,
) -> Result<(Gate, Reply), Refusal> {
    let known = durable.partitions.get(&partition).ok_or(Refusal::Gone)?;
    let start = before.min(known.next);
    if start <= known.start {
        return Ok((synced(volatile.opened), Reply::Count(known.start)));
    }
    volatile.partitions.insert(partition, ctx.batch);
    volatile.opened = ctx.batch;
    step.event(Event::Trimmed { partition, start }, true);
    Ok((Gate::Synced(ctx.batch), Reply::Count(start)))
}

fn synced(batch: u64) -> Gate {
    if batch == 0 { Gate::Open } else { Gate::Synced(batch) }
}

/// Adds a batch at the end of a partition.
pub(crate) fn append(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    append: Append,
    step: &mut Step,
) -> Result<Published, Refusal> {
    let known = durable.partitions.get(&append.partition).ok_or(Refusal::Gone)?;
    let sync = known.spec.sync;
    let gate = |batch| match (batch, sync) {
        (0, _) => Gate::Open,
        (batch, true) => Gate::Synced(batch),
        (batch, false) => Gate::Written(batch),
    };
    if let Some(sequence) = append.sequence
        && let Some(offset) = check_sequence(known, sequence)?
    {
        // The first one may not be safe yet; its repetition is answered no sooner.
        let changed = volatile.partitions.get(&append.partition).copied().unwrap_or_default();
        return Ok(Published { gate: gate(changed), offset, duplicate: true });
    }
    if ctx.no_space {
        return Err(Refusal::NoSpace);
    }
    let properties = append
        .envelope
        .as_ref()
        .map_or(append.payload.head.len(), |envelope| event::message_head_bytes(envelope, &append.payload));
    if properties > event::MESSAGE_HEAD_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    let offset = known.next;
    volatile.partitions.insert(append.partition, ctx.batch);
    for reader in &known.readers {
        let lanes = volatile.queues.get_mut(reader).map(|queue| &mut queue.lanes);
        for lane in lanes.into_iter().flatten() {
            lane.came_in(offset, ctx.batch, ctx.durable);
        }
    }
    let Append { partition, span, timestamp, sequence: producer, envelope, payload } = append;
    let span = span.max(1);
    step.event(Event::Appended { partition, offset, span, timestamp, producer, envelope, payload }, sync);
    Ok(Published { gate: gate(ctx.batch), offset, duplicate: false })
}

/// Whether a batch is the next of its producer; the offset of the first one when it is a repetition.
fn check_sequence(known: &DurablePartition, sequence: Sequence) -> Result<Option<u64>, Refusal> {
    let Some(producer) = known.producers.get(&sequence.producer) else {
        // Unknown or forgotten: any beginning is as good as another.
        return Ok(None);
    };
    if sequence.epoch < producer.epoch {
        return Err(Refusal::ProducerFenced);
    }
    if sequence.epoch > producer.epoch {
        return if sequence.first == 0 { Ok(None) } else { Err(Refusal::OutOfSequence) };
    }
    let same = |(s, _): &&(Sequence, u64)| s.first == sequence.first && s.count == sequence.count;
    if let Some((_, offset)) = producer.batches.iter().find(same) {
        return Ok(Some(*offset));
    }
    match producer.batches.back() {
        Some((last, _)) if sequence.first == next_sequence(*last) => Ok(None),
        Some(_) => Err(Refusal::OutOfSequence),
        None => Ok(None),
    }
}

/// Numbers run from 0 to 2³¹−1 and around.
fn next_sequence(last: Sequence) -> u32 {
    ((u64::from(last.first) + u64::from(last.count)) % (1 << 31)) as u32
}
