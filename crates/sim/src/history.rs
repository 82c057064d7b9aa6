//! What the clients saw, and whether a broker that keeps its promises could have shown it to them.
//!
//! Most rules are checked when something is seen, the rest in [`History::finish`], when everything that is
//! held has been read. What each rule allows is what the protocol promises: an acknowledged message may be
//! delivered twice by AMQP or with QoS 1, but the second delivery says so; it is never gone, changed, or
//! before its predecessor.

mod damage;
mod names;

use crate::{clients::undertaker::Buried, message::Id, topology};
use damage::{Hurt, Missing, ToldDamage};
use names::Names;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

/// Where a message is to arrive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Queue(&'static str),
    /// Any partition of the topic.
    Topic(&'static str),
    /// What a durable session is subscribed to.
    Session(&'static str),
}

/// How often a publish that is tried again may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// As often as it was tried.
    PerAttempt,
    /// Once, however often it was tried.
    Never,
}

/// What becomes of a message when it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays in all its places until it is taken there.
    Stays,
    /// It may move on or be gone: a consumer may reject it, or it asked for no durability.
    Dies,
    /// Whoever sent it knows; what is to be found in the end comes in a [`Buried`].
    Apart,
}

struct Published {
    places: Vec<Place>,
    repeats: Repeats,
    attempts: u32,
    acknowledged: bool,
    fate: Fate,
}

#[derive(Default)]
struct InQueue {
    fresh: u32,
    /// A consumer sent that it has it.
    settled: bool,
    /// The broker has surely taken that, in this incarnation.
    settled_for_sure_in: Option<u32>,
}

/// A consumer's or reader's place in the order of each publisher.
pub type Order = BTreeMap<u32, u32>;

/// All that was seen in a run.
pub struct History {
    published: BTreeMap<Id, Published>,
    queues: BTreeMap<(&'static str, Id), InQueue>,
    /// Sessions: how often each message was shown, as far as its reader could tell for the first time. It is
    /// there as soon as it was shown at all: what a crash makes doubtful comes marked as a repetition.
    sessions: BTreeMap<(&'static str, Id), u32>,
    /// What each offset of a partition holds. No second message is ever seen there.
    offsets: BTreeMap<(&'static str, i32, i64), Id>,
    /// Offsets that producers were told.
    told: BTreeMap<(&'static str, i32, i64), Id>,
    /// By group: what was committed and acknowledged, and what was asked for without an answer.
    commits: BTreeMap<(&'static str, i32), (i64, BTreeSet<i64>)>,
    /// Queues that were deleted while their messages died.
    buried: Vec<Buried>,
    pub incarnation: u32,
    /// In this incarnation the disk fails to read: a message may be with a consumer that was not shown it.
    pub reads_fail: bool,
    /// Bits of what is stored change. What follows from it is forgiven as far as the broker tells of it.
    pub rots: bool,
    /// What has changed.
    hurt: Hurt,
    /// What the catalog has held, and what of it was lost.
    names: Names,
    told_damage: ToldDamage,
    /// What is missing, if bits change.
    missing: Vec<Missing>,
    /// What else would be wrong had no bits changed.
    strange: Vec<String>,
    now_ms: i64,
    pub violations: Vec<String>,
    pub counts: Counts,
    trace: u32,
    pub events: u64,
    /// Every event as text, if somebody wants to read them.
    pub log: Option<Vec<String>>,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub published: u64,
    pub acknowledged: u64,
    pub delivered: u64,
    pub read: u64,
    pub starts: u64,
    pub connections: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.published += other.published;
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.read += other.read;
        self.starts += other.starts;
        self.connections += other.connections;
    }
}

impl History {
    pub fn new(verbose: bool) -> History {
        History {
            published: BTreeMap::new(),
            queues: BTreeMap::new(),
            sessions: BTreeMap::new(),
            offsets: BTreeMap::new(),
            told: BTreeMap::new(),
            commits: BTreeMap::new(),
            buried: Vec::new(),
            incarnation: 0,
            reads_fail: false,
            rots: false,
            hurt: Hurt::default(),
            names: Names::default(),
            told_damage: ToldDamage::default(),
            missing: Vec::new(),
            strange: Vec::new(),
            now_ms: 0,
            violations: Vec::new(),
            counts: Counts::default(),
            trace: 0,
            events: 0,
            log: verbose.then(Vec::new),
        }
    }

    /// A checksum of everything that happened, in order: equal for equal runs.
    pub fn trace(&self) -> u64 {
        u64::from(self.trace) << 32 | self.events & 0xffff_ffff
    }

    pub fn at(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
    }

    /// Notes something that decides about the run.
    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        let mut line = String::new();
        let _ = write!(line, "{:>8} ms  #{}  {event}", self.now_ms, self.incarnation);
        self.trace = crc32c::crc32c_append(self.trace, line.as_bytes());
        self.events += 1;
        if let Some(log) = &mut self.log {
            log.push(line);
        }
    }

    /// Something that not even changed bits excuse.
    pub fn wrong(&mut self, text: String) {
        self.note(format_args!("VIOLATION {text}"));
        if self.violations.len() < 20 {
            self.violations.push(format!("at {} ms, start {}: {text}", self.now_ms, self.incarnation));
        }
    }

    /// Something that no broker may do, but for one whose state is damaged and who says so.
    fn violation(&mut self, text: String) {
        if !self.rots {
            return self.wrong(text);
        }
        self.note(format_args!("strange: {text}"));
        self.strange.push(text);
    }

    /// A message is missing; with changed bits, the broker has to say that some are.
    pub fn is_missing(&mut self, text: String) {
        self.misses(Missing { object: None, sources: Vec::new(), text });
    }

    /// A partition has nothing at an offset.
    pub fn lacks(&mut self, topic: &str, partition: i32, offset: i64) {
        let object = Some(damage::partition(topic, partition));
        self.misses(Missing {
            object,
            sources: Vec::new(),
            text: format!("{topic}/{partition} lacks offset {offset}"),
        });
    }

    fn misses(&mut self, missing: Missing) {
        if !self.rots {
            return self.wrong(missing.text);
        }
        self.note(format_args!("missing: {}", missing.text));
        self.missing.push(missing);
    }

    /// A client is about to send a message, perhaps not for the first time.
    pub fn publishing(&mut self, id: Id, places: &[Place], repeats: Repeats, fate: Fate) {
        self.note(format_args!("publish {id}"));
        self.counts.published += 1;
        let published = self.published.entry(id).or_insert_with(|| Published {
            places: places.to_vec(),
            repeats,
            attempts: 0,
            acknowledged: false,
            fate,
        });
        published.attempts += 1;
    }

    /// The broker has said that it holds it.
    pub fn acknowledged(&mut self, id: Id) {
        self.note(format_args!("acknowledged {id}"));
        self.counts.acknowledged += 1;
        match self.published.get_mut(&id) {
            Some(published) => published.acknowledged = true,
            None => self.violation(format!("{id} was acknowledged but never sent")),
        }
    }

    /// A producer was told where its record is.
    pub fn told_offset(&mut self, topic: &'static str, partition: i32, offset: i64, id: Id) {
        self.note(format_args!("told {topic}/{partition}@{offset} = {id}"));
        match self.told.insert((topic, partition, offset), id) {
            Some(other) if other != id => {
                self.violation(format!("{topic}/{partition}@{offset} was given to {other} and to {id}"));
            }
            _ => {}
        }
    }

    /// A record was read.
    pub fn read(&mut self, topic: &'static str, partition: i32, offset: i64, body: &[u8]) {
        let Some(id) = Id::of(body) else {
            return self.wrong(format!("{topic}/{partition}@{offset} holds what nobody sent: {body:?}"));
        };
        self.note(format_args!("read {topic}/{partition}@{offset} = {id}"));
        self.counts.read += 1;
        self.check_known(id, &Place::Topic(topic));
        match self.offsets.insert((topic, partition, offset), id) {
            Some(other) if other != id => {
                self.violation(format!("{topic}/{partition}@{offset} was {other} and is {id} now"));
            }
            _ => {}
        }
    }

    /// A delivery from a queue. `order` is the consumer's.
    pub fn delivered(
        &mut self,
        queue: &'static str,
        body: &[u8],
        redelivered: bool,
        order: &mut Order,
    ) -> Option<Id> {
        let Some(id) = Id::of(body) else {
            self.wrong(format!("queue {queue} delivered what nobody sent: {body:?}"));
            return None;
        };
        self.note(format_args!("delivered {queue} {id}{}", if redelivered { " again" } else { "" }));
        self.counts.delivered += 1;
        self.check_known(id, &Place::Queue(queue));
        let (most, attempts, died) = match self.published.get(&id) {
            Some(p) if p.repeats == Repeats::Never => (1, p.attempts, p.fate != Fate::Stays),
            Some(p) => (p.attempts, p.attempts, p.fate != Fate::Stays),
            None => return Some(id),
        };
        let incarnation = self.incarnation;
        let known = self.queues.entry((queue, id)).or_default();
        known.fresh += u32::from(!redelivered);
        let (fresh, surely) = (known.fresh, known.settled_for_sure_in == Some(incarnation));
        if fresh > most {
            self.violation(format!(
                "queue {queue} delivered {id} as new {fresh} times; it was sent {attempts} times"
            ));
        }
        if surely && attempts == 1 && !died {
            self.violation(format!("queue {queue} delivered {id} after it was settled"));
        }
        if !redelivered && attempts == 1 && !died {
            self.check_order(&format!("queue {queue}"), id, order);
        }
        Some(id)
    }

    /// A consumer has sent that it is done with a message.
    pub fn settling(&mut self, queue: &'static str, id: Id) {
        self.note(format_args!("settling {queue} {id}"));
        self.queues.entry((queue, id)).or_default().settled = true;
    }

    /// The broker has answered something that was sent later on the same channel.
    pub fn surely_settled(&mut self, queue: &'static str, ids: &[Id]) {
        for id in ids {
            self.note(format_args!("settled {queue} {id}"));
            let incarnation = self.incarnation;
            self.queues.entry((queue, *id)).or_default().settled_for_sure_in = Some(incarnation);
        }
    }

    /// A session was shown a message. `first`: as far as the protocol lets its reader tell.
    pub fn shown(
        &mut self,
        session: &'static str,
        body: &[u8],
        first: bool,
        exactly: bool,
        order: &mut Order,
    ) {
        let Some(id) = Id::of(body) else {
            return self.wrong(format!("session {session} was shown what nobody sent: {body:?}"));
        };
        self.note(format_args!("shown {session} {id}{}", if first { "" } else { " again" }));
        self.counts.delivered += 1;
        self.check_known(id, &Place::Session(session));
        let Some(published) = self.published.get(&id) else { return };
        let (attempts, never) = (published.attempts, published.repeats == Repeats::Never);
        let shown = self.sessions.entry((session, id)).or_default();
        *shown += u32::from(first);
        if exactly && never && *shown > 1 {
            self.violation(format!("session {session} was shown {id} twice with QoS 2"));
        }
        if first && attempts == 1 {
            self.check_order(&format!("session {session}"), id, order);
        }
    }

    /// A message was found in a queue that nobody else looks into.
    pub fn seen(&mut self, queue: &str, body: &[u8]) -> Option<Id> {
        let id = Id::of(body);
        self.counts.delivered += 1;
        match id {
            Some(id) => self.note(format_args!("seen {queue} {id}")),
            None => self.wrong(format!("queue {queue} delivered what nobody sent: {body:?}")),
        }
        id
    }

    /// A queue was deleted.
    pub fn buried(&mut self, buried: Buried) {
        let Buried { name, target, dead, acknowledged, accepted, told, .. } = &buried;
        let (dead, acknowledged, accepted) = (dead.len(), acknowledged.len(), accepted.len());
        self.note(format_args!(
            "buried {name} -> {target}: {acknowledged} acknowledged, {accepted} accepted, {dead} dead, told {told:?}"
        ));
        self.buried.push(buried);
    }

    pub fn committing(&mut self, group: &'static str, partition: i32, offset: i64) {
        self.note(format_args!("committing {group}/{partition} {offset}"));
        self.commits.entry((group, partition)).or_insert((-1, BTreeSet::new())).1.insert(offset);
    }

    pub fn committed(&mut self, group: &'static str, partition: i32, offset: i64) {
        self.note(format_args!("committed {group}/{partition} {offset}"));
        let known = self.commits.entry((group, partition)).or_insert((-1, BTreeSet::new()));
        known.0 = known.0.max(offset);
    }

    /// A group was told where it stands; -1 for nowhere.
    pub fn stands(&mut self, group: &'static str, partition: i32, offset: i64) {
        self.note(format_args!("stands {group}/{partition} {offset}"));
        let Some((committed, asked)) = self.commits.get(&(group, partition)) else {
            if offset != -1 {
                self.violation(format!("group {group} stands at {offset} of {partition} without a commit"));
            }
            return;
        };
        let (committed, known) = (*committed, offset == -1 || asked.contains(&offset));
        if offset < committed {
            self.violation(format!(
                "group {group} fell back in {partition}: committed {committed}, is {offset}"
            ));
        } else if !known {
            self.violation(format!(
                "group {group} stands at {offset} of {partition}, which nobody committed"
            ));
        }
    }

    /// Something went wrong that no broker may do.
    pub fn broken(&mut self, text: String) {
        self.violation(text);
    }

    fn check_known(&mut self, id: Id, place: &Place) {
        match self.published.get(&id) {
            None => self.wrong(format!("{id} was found in {place:?} and never sent")),
            // It is bound at some time, and what was on its way then may come there.
            Some(_) if *place == topology::COMER => {}
            // With its state, a queue of before may come back, and have another target for the dead.
            Some(published) if !published.places.contains(place) && published.fate == Fate::Apart => {
                self.violation(format!("{id} was found in {place:?} and not sent there"));
            }
            Some(published) if !published.places.contains(place) => {
                self.wrong(format!("{id} was found in {place:?} and not sent there"));
            }
            Some(_) => {}
        }
    }

    fn check_order(&mut self, place: &str, id: Id, order: &mut Order) {
        let last = order.entry(id.publisher()).or_insert(id.number());
        let before = *last;
        *last = before.max(id.number());
        if id.number() < before {
            self.violation(format!("{place}: {id} came after {}-{before}", id.publisher()));
        }
    }

    /// Everything that is held has been read: nothing acknowledged may be missing. `ends` says where each
    /// partition ends.
    pub fn finish(&mut self, ends: &[(&'static str, i32, i64)]) {
        for (topic, partition, end) in ends {
            self.check_partition(topic, *partition, *end);
        }
        self.check_buried();
        self.check_told();
        self.check_published();
        self.judge_damage();
    }

    /// What was acknowledged is where it was sent, and no more often than it was sent.
    fn check_published(&mut self) {
        let mut stored: BTreeMap<(&'static str, Id), u32> = BTreeMap::new();
        for ((topic, _, _), id) in &self.offsets {
            *stored.entry((*topic, *id)).or_default() += 1;
        }
        let (mut missing, mut too_often) = (self.gone_unsettled(), Vec::new());
        for (id, published) in &self.published {
            for place in &published.places {
                let (found, most) = match place {
                    Place::Topic(topic) => {
                        let count = stored.get(&(*topic, *id)).copied().unwrap_or(0);
                        let most = if published.repeats == Repeats::Never { 1 } else { published.attempts };
                        (count, most)
                    }
                    Place::Queue(queue) => {
                        let seen = self
                            .queues
                            .get(&(*queue, *id))
                            .map_or(0, |q| q.fresh.max(u32::from(q.settled)).max(1));
                        // It may have moved on; the place that it moved to is checked as one of its places.
                        (if published.fate == Fate::Stays { seen } else { 1 }, u32::MAX)
                    }
                    Place::Session(session) => {
                        (u32::from(self.sessions.contains_key(&(*session, *id))), u32::MAX)
                    }
                };
                // What a partition lacks is counted by offset.
                let is_counted = self.rots && matches!(place, Place::Topic(_));
                if found == 0 && published.acknowledged && !is_counted {
                    // What died elsewhere may have got lost there, or on its way.
                    let object = match place {
                        Place::Queue(queue) if published.fate == Fate::Stays => Some(damage::queue(queue)),
                        Place::Session(session) => Some(damage::session(session)),
                        _ => None,
                    };
                    let text = format!("{id} was acknowledged and is missing in {place:?}");
                    missing.push(Missing { object, sources: sources(place, &published.places), text });
                } else if found > most {
                    too_often.push(format!("{id} is in {place:?} {found} times"));
                }
            }
            if !self.is_taken((id, published)) {
                let text = format!("{id} was acknowledged and nobody ever took it: {:?}", published.places);
                missing.push(Missing { object: None, sources: Vec::new(), text });
            }
        }
        missing.into_iter().for_each(|missing| self.misses(missing));
        too_often.into_iter().for_each(|text| self.violation(text));
    }

    /// Nobody is shown what a crash can take back: what was delivered once stays until somebody settles it.
    fn gone_unsettled(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        for ((queue, id), seen) in &self.queues {
            let Some(published) = self.published.get(id) else { continue };
            if !seen.settled && published.fate == Fate::Stays {
                let text = format!("{id} was delivered from {queue} and is gone without having been settled");
                let sources = sources(&Place::Queue(queue), &published.places);
                missing.push(Missing { object: Some(damage::queue(queue)), sources, text });
            }
        }
        missing
    }

    /// What dies in one queue is found in the other one, if it was not taken before.
    fn is_taken(&self, (id, published): (&Id, &Published)) -> bool {
        let is_settled = |place: &Place| match place {
            Place::Queue(queue) => self.queues.get(&(*queue, *id)).is_some_and(|q| q.settled),
            _ => false,
        };
        published.fate != Fate::Dies || !published.acknowledged || published.places.iter().any(is_settled)
    }

    /// What a producer was told to be at an offset is there.
    fn check_told(&mut self) {
        for ((topic, partition, offset), id) in &std::mem::take(&mut self.told) {
            let found = self.offsets.get(&(*topic, *partition, *offset)).copied();
            // What is lacking there is counted already.
            if found != Some(*id) && !(self.rots && found.is_none()) {
                self.violation(format!("{topic}/{partition}@{offset} was told to be {id} and is {found:?}"));
            }
        }
    }

    /// What died before its queue was deleted has arrived; what did not was counted as deleted.
    fn check_buried(&mut self) {
        for buried in std::mem::take(&mut self.buried) {
            let Buried { name, target, dead, acknowledged, accepted, loose, told } = buried;
            if !topology::is_queue(target) {
                continue;
            }
            let arrived = |id: &Id| self.queues.contains_key(&(target, *id));
            let missing: Vec<Id> = dead.iter().copied().filter(|id| !arrived(id)).collect();
            // A message that never came is missing once.
            let is_elsewhere =
                |id: &Id| arrived(id) || accepted.contains(id) || loose.contains(id) || missing.contains(id);
            let untold = acknowledged.iter().filter(|id| !is_elsewhere(id)).count() as u64;
            for id in missing {
                self.is_missing(format!(
                    "{id} was rejected in {name}, which was then deleted, and never came to {target}"
                ));
            }
            if let Some(told) = told.filter(|told| *told < untold) {
                for _ in told..untold {
                    self.is_missing(format!("{name} was deleted with {told} messages, {untold} are missing"));
                }
            }
        }
    }

    fn check_partition(&mut self, topic: &'static str, partition: i32, end: i64) {
        let all: Vec<(i64, Id)> = self
            .offsets
            .range((topic, partition, 0)..(topic, partition, i64::MAX))
            .map(|((_, _, offset), id)| (*offset, *id))
            .collect();
        let mut order = Order::new();
        let mut expect = 0;
        for (offset, id) in all {
            if offset >= end {
                // It ended behind it before: what was there is gone, message by message.
                let text = format!("{topic}/{partition} ends at {end} and {offset} was read");
                self.misses(Missing {
                    object: Some(damage::partition(topic, partition)),
                    sources: Vec::new(),
                    text,
                });
                continue;
            }
            for lacking in expect..offset {
                self.lacks(topic, partition, lacking);
            }
            expect = offset + 1;
            let once =
                self.published.get(&id).is_some_and(|p| p.attempts == 1 || p.repeats == Repeats::Never);
            if once {
                self.check_order(&format!("{topic}/{partition}"), id, &mut order);
            }
        }
        for lacking in expect..end {
            self.lacks(topic, partition, lacking);
        }
    }
}

/// What a message has to leave before it comes to its place: topics among its places, and the queue whose
/// messages expire and go on.
fn sources(place: &Place, places: &[Place]) -> Vec<String> {
    let topics = places.iter().filter_map(|place| match place {
        Place::Topic(topic) => Some(damage::topic(topic)),
        _ => None,
    });
    let expires = *place == Place::Queue(topology::LATE);
    topics.chain(expires.then(|| damage::queue(topology::WAITING))).collect()
}
