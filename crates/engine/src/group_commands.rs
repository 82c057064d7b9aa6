//! Commands to groups: membership goes to the live group, offsets to the journal.

use crate::{
    command::{Command, Ticket},
    durable::Durable,
    effect::{Gate, Refusal, Reply},
    event::{CommittedOffset, Event},
    group::{LiveGroup, Member, Replies},
    shard::{Context, Step},
    volatile::{Timer, Volatile},
};
use posthaste_model::Name;
use std::{collections::BTreeMap, iter::Peekable};

type Key = (Name, Name);

/// Bytes of offsets and their metadata that one event tells of; more take several, which are stored as one.
const OFFSET_BYTES_PER_EVENT: usize = 256 << 10;
const PARTITIONS_PER_EVENT_MAX: usize = 10_000;

pub(crate) fn decide(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    command: Command,
    ticket: Ticket,
    step: &mut Step,
) {
    match command {
        Command::Join(_) | Command::Sync { .. } | Command::Heartbeat { .. } | Command::Leave { .. } => {
            membership(volatile, ctx, command, ticket, step);
        }
        _ => offsets(durable, volatile, ctx, command, ticket, step),
    }
}

fn membership(volatile: &mut Volatile, ctx: &Context, command: Command, ticket: Ticket, step: &mut Step) {
    match command {
        Command::Join(join) => {
            let key = (join.namespace.clone(), join.group.clone());
            change(volatile, &key, step, |group, out| group.join(*join, ticket, ctx.now, ctx.limits, out));
        }
        Command::Sync { namespace, group, member, assignments } => {
            let key = (namespace, group);
            if !volatile.groups.contains_key(&key) {
                return step.reply(Gate::Open, ticket, Reply::Refused(Refusal::UnknownMember));
            }
            change(volatile, &key, step, |group, out| group.sync(&member, assignments, ticket, ctx.now, out));
        }
        Command::Heartbeat { namespace, group, member } => {
            let key = (namespace, group);
            let result = match volatile.groups.get_mut(&key) {
                Some(live) => live.heartbeat(&member, ctx.now),
                None => Err(Refusal::UnknownMember),
            };
            step.reply(Gate::Open, ticket, result.map_or_else(Reply::Refused, |()| Reply::Done));
        }
        Command::Leave { namespace, group, members } => {
            let key = (namespace, group);
            if !volatile.groups.contains_key(&key) {
                let unknown = vec![Err(Refusal::UnknownMember); members.len()];
                return step.reply(Gate::Open, ticket, Reply::Left(unknown));
            }
            let mut results = Vec::new();
            change(volatile, &key, step, |group, out| results = group.leave(&members, ctx.now, out));
            step.reply(Gate::Open, ticket, Reply::Left(results));
        }
        _ => {}
    }
}

fn offsets(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    command: Command,
    ticket: Ticket,
    step: &mut Step,
) {
    let gate = match volatile.groups_changed {
        0 => Gate::Open,
        batch => Gate::Synced(batch),
    };
    match command {
        Command::CommitOffsets { namespace, group, member, offsets } => {
            match commit((namespace, group), member.as_ref(), offsets, volatile, ctx, step) {
                Ok(true) => step.reply(Gate::Synced(ctx.batch), ticket, Reply::Done),
                Ok(false) => step.reply(gate, ticket, Reply::Done),
                Err(refusal) => step.reply(Gate::Open, ticket, Reply::Refused(refusal)),
            }
        }
        Command::FetchOffsets { namespace, group, partitions } => {
            let none = BTreeMap::new();
            let known = durable.groups.get(&(namespace, group)).unwrap_or(&none);
            let found = match partitions {
                Some(wanted) => wanted.iter().filter_map(|key| known.get(key)).cloned().collect(),
                None => known.values().cloned().collect(),
            };
            step.reply(gate, ticket, Reply::Offsets(found));
        }
        Command::DescribeGroup { namespace, group } => {
            let key = (namespace, group);
            let state = match volatile.groups.get(&key) {
                Some(live) => Some(Box::new(live.describe(&key.1))),
                None if durable.groups.contains_key(&key) => {
                    Some(Box::new(LiveGroup::default().describe(&key.1)))
                }
                None => None,
            };
            step.reply(gate, ticket, Reply::Group(state));
        }
        Command::ListGroups { namespace } => list(durable, volatile, &namespace, gate, ticket, step),
        Command::DeleteGroup { namespace, group } => {
            delete(durable, volatile, ctx, (namespace, group), ticket, step)
        }
        Command::ForgetOffsets { namespace, group, partitions } => {
            let key = (namespace, group);
            if !durable.groups.contains_key(&key) {
                return step.reply(Gate::Open, ticket, Reply::Refused(Refusal::UnknownGroup));
            }
            if partitions.is_empty() {
                return step.reply(gate, ticket, Reply::Done);
            }
            let (namespace, group) = key;
            volatile.groups_changed = ctx.batch;
            for part in partitions.chunks(PARTITIONS_PER_EVENT_MAX) {
                let (namespace, group, partitions) = (namespace.clone(), group.clone(), part.to_vec());
                step.event(Event::OffsetsForgotten { namespace, group, partitions }, true);
            }
            step.reply(Gate::Synced(ctx.batch), ticket, Reply::Done);
        }
        _ => {}
    }
}

/// Stores offsets, as one; false if there are none.
fn commit(
    key: Key,
    member: Option<&Member>,
    offsets: Vec<CommittedOffset>,
    volatile: &mut Volatile,
    ctx: &Context,
    step: &mut Step,
) -> Result<bool, Refusal> {
    match (volatile.groups.get_mut(&key), member) {
        (Some(live), member) => live.may_commit(member, ctx.now)?,
        (None, None) => {}
        (None, Some(_)) => return Err(Refusal::UnknownMember),
    }
    if offsets.is_empty() {
        return Ok(false);
    }
    volatile.groups_changed = ctx.batch;
    let mut left = offsets.into_iter().peekable();
    while left.peek().is_some() {
        let offsets = part_of(&mut left);
        let (namespace, group) = (key.0.clone(), key.1.clone());
        step.event(Event::OffsetsCommitted { namespace, group, offsets }, true);
        if left.peek().is_some() {
            step.join_last();
        }
    }
    Ok(true)
}

/// As many of the next offsets as one event can tell: at least one.
fn part_of(left: &mut Peekable<impl Iterator<Item = CommittedOffset>>) -> Vec<CommittedOffset> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    while let Some(next) =
        left.next_if(|next| part.is_empty() || bytes + bytes_of(next) <= OFFSET_BYTES_PER_EVENT)
    {
        bytes += bytes_of(&next);
        part.push(next);
    }
    part
}

/// Bytes that it takes in an event, at most.
fn bytes_of(offset: &CommittedOffset) -> usize {
    offset.metadata.len() + 64
}

fn list(
    durable: &Durable,
    volatile: &Volatile,
    namespace: &Name,
    gate: Gate,
    ticket: Ticket,
    step: &mut Step,
) {
    let mut states = BTreeMap::new();
    for (key, _) in durable.groups.iter().filter(|((n, _), _)| n == namespace) {
        states.insert(key.1.clone(), LiveGroup::default().describe(&key.1));
    }
    for (key, live) in volatile.groups.iter().filter(|((n, _), _)| n == namespace) {
        states.insert(key.1.clone(), live.describe(&key.1));
    }
    step.reply(gate, ticket, Reply::Groups(states.into_values().collect()));
}

fn delete(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    key: Key,
    ticket: Ticket,
    step: &mut Step,
) {
    let live = volatile.groups.get(&key);
    let refusal = match (live, durable.groups.contains_key(&key)) {
        (Some(live), _) if !live.is_empty() => Some(Refusal::NonEmptyGroup),
        (None, false) => Some(Refusal::UnknownGroup),
        _ => None,
    };
    if let Some(refusal) = refusal {
        return step.reply(Gate::Open, ticket, Reply::Refused(refusal));
    }
    volatile.groups.remove(&key);
    volatile.groups_changed = ctx.batch;
    step.event(Event::GroupDeleted { namespace: key.0, group: key.1 }, true);
    step.reply(Gate::Synced(ctx.batch), ticket, Reply::Done);
}

/// Lets a live group act, and passes on what it says.
fn change(
    volatile: &mut Volatile,
    key: &Key,
    step: &mut Step,
    act: impl FnOnce(&mut LiveGroup, &mut Replies),
) {
    let mut replies = Replies::new();
    act(volatile.groups.entry(key.clone()).or_default(), &mut replies);
    finish(volatile, key, replies, step);
}

/// Sends a group's replies and sets its timer; an empty group is forgotten.
pub(crate) fn finish(volatile: &mut Volatile, key: &Key, replies: Replies, step: &mut Step) {
    for (ticket, reply) in replies {
        step.reply(Gate::Open, ticket, reply);
    }
    let Some(live) = volatile.groups.get_mut(key) else { return };
    let timers = &mut volatile.common.timers;
    let timer = || Timer::Group(key.0.clone(), key.1.clone());
    if live.is_empty() {
        live.timer().map(|at| timers.remove(&(at, timer())));
        volatile.groups.remove(key);
    } else if let Some(at) = live.next_deadline()
        && let Some(old) = live.replace_timer(at)
    {
        old.map(|at| timers.remove(&(at, timer())));
        timers.insert((at, timer()));
    }
}
