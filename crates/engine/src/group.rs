//! Groups of readers that share a topic's partitions: who is in, and who got what. Membership is volatile; the
//! offsets a group commits are durable (see [`crate::Event::OffsetsCommitted`]).
//!
//! The rounds are: members join, one of them (the leader) divides the work, all of them learn their share by
//! a sync, and heartbeats tell them when to join again. One state machine, kept in one file on purpose.

use crate::{
    Map,
    command::Ticket,
    effect::{Refusal, Reply},
};
use bytes::Bytes;
use posthaste_model::{Limits, Name, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A member that wants in, or a known one that takes part in the next round.
#[derive(Clone, Debug)]
pub struct Join {
    pub namespace: Name,
    pub group: Name,
    /// Empty for a newcomer.
    pub member: String,
    /// The id a newcomer gets; made by whoever may use randomness.
    pub new_member: String,
    /// A name that outlives the member: a restart takes over its share without a new round.
    pub instance: Option<String>,
    pub client: String,
    pub host: String,
    pub session_timeout_ms: u64,
    pub rebalance_timeout_ms: u64,
    pub protocol_type: String,
    /// Ways of dividing that the member knows, best first, each with its metadata.
    pub protocols: Vec<(String, Bytes)>,
    /// A newcomer without instance name is only given its id and has to come back with it.
    pub require_member_id: bool,
}

/// Who speaks, and of which round.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: String,
    pub instance: Option<String>,
    pub generation: i32,
}

/// What a member learns when a round has formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub refusal: Option<Refusal>,
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: String,
    pub leader: String,
    pub member: String,
    /// For the leader only: everyone's id, instance and metadata.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

/// A member's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub protocol_type: String,
    pub protocol: String,
    pub share: Bytes,
}

/// What can be seen of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    pub group: Name,
    pub phase: Phase,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<MemberState>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    pub id: String,
    pub instance: Option<String>,
    pub client: String,
    pub host: String,
    pub metadata: Bytes,
    pub share: Bytes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No members; perhaps offsets.
    #[default]
    Empty,
    /// Members are joining.
    Forming,
    /// Everyone is in; the leader divides the work.
    Dividing,
    Stable,
}

/// How long the first member of an empty group waits for others, in milliseconds.
const FIRST_ROUND_DELAY_MS: u64 = 100;
const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=1_800_000;

/// The live half of a group.
#[derive(Debug, Default)]
pub(crate) struct LiveGroup {
    phase: Phase,
    generation: i32,
    protocol_type: String,
    protocol: String,
    leader: String,
    /// In the order in which they joined, so that the leader is the longest-standing one.
    members: BTreeMap<u64, LiveMember>,
    by_id: Map<String, u64>,
    by_instance: Map<String, u64>,
    /// Newcomers that were given an id and have not come back yet, until when.
    pending: BTreeMap<String, Timestamp>,
    next_member: u64,
    /// When the current phase ends whoever is missing.
    deadline: Option<Timestamp>,
    /// The first round waits for its deadline even when everyone known is in.
    first_round: bool,
    /// A timer is set for then; a later deadline needs no other one before it fires.
    timer: Option<Timestamp>,
}

#[derive(Debug)]
struct LiveMember {
    id: String,
    instance: Option<String>,
    client: String,
    host: String,
    session_timeout_ms: u64,
    rebalance_timeout_ms: u64,
    protocols: Vec<(String, Bytes)>,
    share: Bytes,
    joining: Option<Ticket>,
    syncing: Option<Ticket>,
    expires: Timestamp,
}

/// Replies that a step of the group caused.
pub(crate) type Replies = Vec<(Ticket, Reply)>;

impl LiveGroup {
    pub fn join(&mut self, join: Join, ticket: Ticket, now: Timestamp, limits: &Limits, out: &mut Replies) {
        if let Err(refusal) = self.check_join(&join, limits) {
            return out.push((ticket, refused(refusal, &join.member)));
        }
        if join.member.is_empty() {
            self.join_newcomer(join, ticket, now, out);
        } else {
            self.join_known(join, ticket, now, out);
        }
        self.advance(now, out);
    }

    fn check_join(&self, join: &Join, limits: &Limits) -> Result<(), Refusal> {
        if !SESSION_TIMEOUT_MS.contains(&join.session_timeout_ms) {
            return Err(Refusal::InvalidSessionTimeout);
        }
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return Err(Refusal::InconsistentProtocol);
        }
        // A static member's restart takes the place of its predecessor.
        let predecessor = join.instance.as_ref().and_then(|instance| self.by_instance.get(instance));
        let known = predecessor.is_some()
            || self.by_id.contains_key(&join.member)
            || self.pending.contains_key(&join.member);
        if self.members.len() + self.pending.len() >= limits.group_members_max && !known {
            return Err(Refusal::GroupFull);
        }
        let own = predecessor.or_else(|| self.by_id.get(&join.member)).copied();
        let others = || self.members.iter().filter(|(key, _)| Some(**key) != own).map(|(_, m)| m);
        if others().next().is_some() {
            let common = join
                .protocols
                .iter()
                .any(|(name, _)| others().all(|m| m.protocols.iter().any(|(n, _)| n == name)));
            if !common || self.protocol_type != join.protocol_type {
                return Err(Refusal::InconsistentProtocol);
            }
        }
        Ok(())
    }

    fn join_newcomer(&mut self, join: Join, ticket: Ticket, now: Timestamp, out: &mut Replies) {
        if let Some(instance) = &join.instance {
            if let Some(key) = self.by_instance.get(instance).copied() {
                return self.replace_instance(key, join, ticket, now, out);
            }
        } else if join.require_member_id {
            self.pending.insert(join.new_member.clone(), now.plus_ms(join.session_timeout_ms));
            return out.push((ticket, refused(Refusal::MemberIdRequired, &join.new_member)));
        }
        let id = join.new_member.clone();
        self.add(id, join, ticket, now, out);
    }

    fn join_known(&mut self, join: Join, ticket: Ticket, now: Timestamp, out: &mut Replies) {
        if self.pending.remove(&join.member).is_some() {
            let id = join.member.clone();
            return self.add(id, join, ticket, now, out);
        }
        let key = match self.find(&join.member, join.instance.as_deref()) {
            Ok(key) => key,
            Err(refusal) => return out.push((ticket, refused(refusal, &join.member))),
        };
        let leader = self.leader == join.member;
        let Some(member) = self.members.get_mut(&key) else { return };
        let same = member.protocols == join.protocols;
        member.expires = now.plus_ms(join.session_timeout_ms);
        member.session_timeout_ms = join.session_timeout_ms;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        // A repeated request of the same round: its first answer was lost.
        let repeat = match self.phase {
            Phase::Dividing => same,
            Phase::Stable => same && !leader,
            Phase::Empty | Phase::Forming => false,
        };
        if repeat {
            let reply = self.joined(key);
            return out.push((ticket, reply));
        }
        member.protocols = join.protocols;
        if let Some(old) = member.joining.replace(ticket) {
            out.push((old, refused(Refusal::Rebalancing, &join.member)));
        }
        self.form(now, out);
    }

    fn add(&mut self, id: String, join: Join, ticket: Ticket, now: Timestamp, out: &mut Replies) {
        let key = self.next_member;
        self.next_member += 1;
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type;
        }
        self.by_id.insert(id.clone(), key);
        if let Some(instance) = &join.instance {
            self.by_instance.insert(instance.clone(), key);
        }
        let member = LiveMember {
            id,
            instance: join.instance,
            client: join.client,
            host: join.host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            share: Bytes::new(),
            joining: Some(ticket),
            syncing: None,
            expires: now.plus_ms(join.session_timeout_ms),
        };
        self.members.insert(key, member);
        self.form(now, out);
    }

    /// A restarted member with the same instance name takes over; the old one is fenced.
    fn replace_instance(&mut self, key: u64, join: Join, ticket: Ticket, now: Timestamp, out: &mut Replies) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let old = std::mem::replace(&mut member.id, join.new_member.clone());
        for waiting in [member.joining.take(), member.syncing.take()].into_iter().flatten() {
            out.push((waiting, refused(Refusal::Fenced, &old)));
        }
        self.by_id.remove(&old);
        self.by_id.insert(join.new_member.clone(), key);
        let same = member.protocols == join.protocols;
        member.protocols = join.protocols;
        member.expires = now.plus_ms(join.session_timeout_ms);
        member.session_timeout_ms = join.session_timeout_ms;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        let was_leader = self.leader == old;
        if was_leader {
            self.leader.clone_from(&join.new_member);
        }
        if self.phase == Phase::Stable && same {
            let mut reply = self.joined(key);
            // It need not divide again: whoever is named leader does, and that is no longer anyone.
            if let Reply::Joined(joined) = &mut reply
                && was_leader
            {
                joined.leader = old;
                joined.members.clear();
            }
            return out.push((ticket, reply));
        }
        member.joining = Some(ticket);
        self.form(now, out);
    }

    /// Starts a new round, or lets the one that is forming go on.
    fn form(&mut self, now: Timestamp, out: &mut Replies) {
        if self.phase == Phase::Forming {
            return;
        }
        for member in self.members.values_mut() {
            if let Some(ticket) = member.syncing.take() {
                member.expires = now.plus_ms(member.session_timeout_ms);
                out.push((ticket, Reply::Refused(Refusal::Rebalancing)));
            }
        }
        self.first_round = self.phase == Phase::Empty;
        self.phase = Phase::Forming;
        let wait = if self.first_round { FIRST_ROUND_DELAY_MS } else { self.rebalance_timeout_ms() };
        self.deadline = Some(now.plus_ms(wait));
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0)
    }

    /// Completes the round if everyone is in.
    fn advance(&mut self, now: Timestamp, out: &mut Replies) {
        let everyone = self.pending.is_empty() && self.members.values().all(|m| m.joining.is_some());
        if self.phase == Phase::Forming && !self.first_round && everyone {
            self.complete(now, out);
        }
    }

    fn complete(&mut self, now: Timestamp, out: &mut Replies) {
        let missing: Vec<u64> = self
            .members
            .iter()
            .filter(|(_, m)| m.joining.is_none() && m.instance.is_none())
            .map(|(key, _)| *key)
            .collect();
        missing.into_iter().for_each(|key| self.forget(key));
        self.generation = self.generation.wrapping_add(1).max(1);
        self.deadline = None;
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            self.leader.clear();
            return;
        }
        self.phase = Phase::Dividing;
        self.protocol = self.vote();
        let leader = self.by_id.get(&self.leader).and_then(|key| self.members.get(key));
        if leader.is_none_or(|leader| leader.joining.is_none()) {
            let first = self.members.values().find(|m| m.joining.is_some()).or(self.members.values().next());
            self.leader = first.map(|m| m.id.clone()).unwrap_or_default();
        }
        self.deadline = Some(now.plus_ms(self.rebalance_timeout_ms()));
        let keys: Vec<u64> = self.members.keys().copied().collect();
        for key in keys {
            let reply = self.joined(key);
            if let Some(member) = self.members.get_mut(&key) {
                member.expires = now.plus_ms(member.session_timeout_ms);
                if let Some(ticket) = member.joining.take() {
                    out.push((ticket, reply));
                }
            }
        }
    }

    /// The protocol that all know and most put first.
    fn vote(&self) -> String {
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let names: BTreeSet<&str> = member.protocols.iter().map(|(name, _)| name.as_str()).collect();
            names.into_iter().for_each(|name| *known.entry(name).or_default() += 1);
        }
        known.retain(|_, members| *members == self.members.len());
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let mut names = member.protocols.iter().map(|(name, _)| name.as_str());
            if let Some(name) = names.find(|name| known.contains_key(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned()).unwrap_or_default()
    }

    fn joined(&self, key: u64) -> Reply {
        let id = self.members.get(&key).map(|m| m.id.clone()).unwrap_or_default();
        let members = if id == self.leader {
            self.members
                .values()
                .map(|m| (m.id.clone(), m.instance.clone(), m.metadata(&self.protocol)))
                .collect()
        } else {
            Vec::new()
        };
        Reply::Joined(Box::new(Joined {
            refusal: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member: id,
            members,
        }))
    }

    pub fn sync(
        &mut self,
        from: &Member,
        shares: Vec<(String, Bytes)>,
        ticket: Ticket,
        now: Timestamp,
        out: &mut Replies,
    ) {
        let key = match self.check(from) {
            Ok(key) => key,
            Err(refusal) => return out.push((ticket, Reply::Refused(refusal))),
        };
        match self.phase {
            Phase::Empty => out.push((ticket, Reply::Refused(Refusal::UnknownMember))),
            Phase::Forming => out.push((ticket, Reply::Refused(Refusal::Rebalancing))),
            Phase::Stable => {
                let reply = self.assignment(key);
                out.push((ticket, reply));
            }
            Phase::Dividing => {
                if let Some(member) = self.members.get_mut(&key)
                    && let Some(old) = member.syncing.replace(ticket)
                {
                    out.push((old, Reply::Refused(Refusal::Rebalancing)));
                }
                if from.id == self.leader {
                    self.divide(shares, now, out);
                }
            }
        }
    }

    fn divide(&mut self, shares: Vec<(String, Bytes)>, now: Timestamp, out: &mut Replies) {
        self.members.values_mut().for_each(|m| m.share = Bytes::new());
        for (id, share) in shares {
            if let Some(member) = self.by_id.get(&id).and_then(|key| self.members.get_mut(key)) {
                member.share = share;
            }
        }
        self.phase = Phase::Stable;
        self.deadline = None;
        let keys: Vec<u64> = self.members.keys().copied().collect();
        for key in keys {
            let reply = self.assignment(key);
            if let Some(member) = self.members.get_mut(&key) {
                member.expires = now.plus_ms(member.session_timeout_ms);
                if let Some(ticket) = member.syncing.take() {
                    out.push((ticket, reply));
                }
            }
        }
    }

    fn assignment(&self, key: u64) -> Reply {
        Reply::Assignment(Box::new(Assignment {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            share: self.members.get(&key).map(|m| m.share.clone()).unwrap_or_default(),
        }))
    }

    pub fn heartbeat(&mut self, from: &Member, now: Timestamp) -> Result<(), Refusal> {
        let key = self.check(from)?;
        if let Some(member) = self.members.get_mut(&key) {
            member.expires = now.plus_ms(member.session_timeout_ms);
        }
        match self.phase {
            Phase::Empty => Err(Refusal::UnknownMember),
            Phase::Forming => Err(Refusal::Rebalancing),
            Phase::Dividing | Phase::Stable => Ok(()),
        }
    }

    pub fn leave(
        &mut self,
        leaving: &[(String, Option<String>)],
        now: Timestamp,
        out: &mut Replies,
    ) -> Vec<Result<(), Refusal>> {
        let before = self.members.len() + self.pending.len();
        let results = leaving
            .iter()
            .map(|(id, instance)| {
                if self.pending.remove(id).is_some() {
                    return Ok(());
                }
                // An administrator removes a member by its instance name alone.
                let key = match (id.is_empty(), instance) {
                    (true, Some(instance)) => {
                        *self.by_instance.get(instance).ok_or(Refusal::UnknownMember)?
                    }
                    _ => self.find(id, instance.as_deref())?,
                };
                self.remove(key, out);
                Ok(())
            })
            .collect();
        if self.members.len() + self.pending.len() < before {
            self.after_removal(now, out);
        }
        results
    }

    fn remove(&mut self, key: u64, out: &mut Replies) {
        if let Some(member) = self.members.get_mut(&key) {
            for ticket in [member.joining.take(), member.syncing.take()].into_iter().flatten() {
                out.push((ticket, Reply::Refused(Refusal::UnknownMember)));
            }
        }
        self.forget(key);
    }

    /// Members are gone, so their work has to be divided anew.
    fn after_removal(&mut self, now: Timestamp, out: &mut Replies) {
        if self.members.is_empty() && self.pending.is_empty() {
            if self.phase != Phase::Empty {
                self.generation = self.generation.wrapping_add(1);
            }
            self.phase = Phase::Empty;
            self.leader.clear();
            self.protocol.clear();
            self.deadline = None;
            return;
        }
        if matches!(self.phase, Phase::Dividing | Phase::Stable) {
            self.form(now, out);
        }
        self.advance(now, out);
    }

    fn forget(&mut self, key: u64) {
        if let Some(member) = self.members.remove(&key) {
            self.by_id.remove(&member.id);
            if let Some(instance) = member.instance {
                self.by_instance.remove(&instance);
            }
        }
    }

    /// Whether a member of the current round speaks.
    pub fn check(&self, from: &Member) -> Result<u64, Refusal> {
        let key = self.find(&from.id, from.instance.as_deref())?;
        if from.generation == self.generation { Ok(key) } else { Err(Refusal::StaleGeneration) }
    }

    fn find(&self, id: &str, instance: Option<&str>) -> Result<u64, Refusal> {
        if let Some(instance) = instance {
            let key = *self.by_instance.get(instance).ok_or(Refusal::UnknownMember)?;
            let holder = self.members.get(&key).is_some_and(|m| m.id == id);
            return if holder { Ok(key) } else { Err(Refusal::Fenced) };
        }
        self.by_id.get(id).copied().ok_or(Refusal::UnknownMember)
    }

    /// Whether offsets may be committed: by a member of the round, or by anyone while there are no members.
    /// A commit is a sign of life.
    pub fn may_commit(&mut self, member: Option<&Member>, now: Timestamp) -> Result<(), Refusal> {
        match member {
            Some(member) => {
                let key = self.check(member)?;
                if let Some(member) = self.members.get_mut(&key) {
                    member.expires = now.plus_ms(member.session_timeout_ms);
                }
                if self.phase == Phase::Dividing { Err(Refusal::Rebalancing) } else { Ok(()) }
            }
            None if self.members.is_empty() => Ok(()),
            None => Err(Refusal::UnknownMember),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// When something has to happen by itself.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let sessions = self.members.values().filter(|m| !m.waits()).map(|m| m.expires);
        sessions.chain(self.pending.values().copied()).chain(self.deadline).min()
    }

    /// Whether a timer has to be set for `at`, instead of the one that is given back; heartbeats move deadlines back
    /// all the time, and need none.
    pub fn replace_timer(&mut self, at: Timestamp) -> Option<Option<Timestamp>> {
        self.timer.is_none_or(|set| at < set).then(|| self.timer.replace(at))
    }

    /// The timer that is set.
    pub fn timer(&self) -> Option<Timestamp> {
        self.timer
    }

    pub fn tick(&mut self, now: Timestamp, out: &mut Replies) {
        if self.timer.is_some_and(|set| set <= now) {
            self.timer = None;
        }
        self.pending.retain(|_, expires| *expires > now);
        let expired: Vec<u64> = self
            .members
            .iter()
            .filter(|(_, m)| !m.waits() && m.expires <= now)
            .map(|(key, _)| *key)
            .collect();
        let removed = !expired.is_empty();
        expired.into_iter().for_each(|key| self.remove(key, out));
        if removed {
            self.after_removal(now, out);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            match self.phase {
                Phase::Forming => {
                    self.first_round = false;
                    self.complete(now, out);
                }
                Phase::Dividing => {
                    // Whoever did not sync in time is out, the leader most of all.
                    let late: Vec<u64> = self
                        .members
                        .iter()
                        .filter(|(_, m)| m.syncing.is_none())
                        .map(|(key, _)| *key)
                        .collect();
                    late.into_iter().for_each(|key| self.remove(key, out));
                    self.after_removal(now, out);
                }
                Phase::Empty | Phase::Stable => self.deadline = None,
            }
        }
        self.advance(now, out);
    }

    pub fn describe(&self, group: &Name) -> GroupState {
        GroupState {
            group: group.clone(),
            phase: self.phase,
            protocol_type: self.protocol_type.clone(),
            protocol: if self.phase == Phase::Stable { self.protocol.clone() } else { String::new() },
            members: self.members.values().map(|m| m.state(&self.protocol)).collect(),
        }
    }
}

impl LiveMember {
    /// A member that waits for the round or its share is alive: it cannot send heartbeats.
    fn waits(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, m)| m.clone()).unwrap_or_default()
    }

    fn state(&self, protocol: &str) -> MemberState {
        MemberState {
            id: self.id.clone(),
            instance: self.instance.clone(),
            client: self.client.clone(),
            host: self.host.clone(),
            metadata: self.metadata(protocol),
            share: self.share.clone(),
        }
    }
}

fn refused(refusal: Refusal, member: &str) -> Reply {
    Reply::Joined(Box::new(Joined {
        refusal: Some(refusal),
        generation: -1,
        protocol_type: String::new(),
        protocol: String::new(),
        leader: String::new(),
        member: member.to_owned(),
        members: Vec::new(),
    }))
}
