//! What recovery does about damage: it sees which messages are missing, rebuilds what segments and names
//! still tell, and keeps what has lost its name.

mod missing;
mod naming;
mod unfound;

use crate::{
    change::queue_spec,
    checkpoint::{key, stream_key},
    damage::{Damage, DamageKind, object_of},
    kept::closed_by,
    log::Chunk,
    open::{OpenError, Recovered},
    record::{self, StoredAt, stored_at, stream_of},
    tap::TAPS,
};
use posthaste_engine::{
    Event,
    catalog::{CatalogEvent, Durability, QueueConfig, Topic},
    event::{PartitionSpec, QueueSpec},
};
use posthaste_model::{Name, PartitionId, QueueId, ShardId, TopicId};
use posthaste_storage::{
    checkpoint::{Loaded, LostKeys},
    journal::{
        Damage as JournalDamage, DamageKind as Stretch, JournalPlace, Lsn, RecordRef, RecoveryReport, Scope,
    },
    segment::{ReadError, Run, Segments},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Range,
};

use naming::recovered_name;

/// What recovery notices on its way.
#[derive(Default)]
pub(crate) struct Followed {
    /// By stream, the offset that comes next.
    next: HashMap<u64, u64>,
    /// By stream, where its last message lies in the journal.
    pub last: HashMap<u64, Lsn>,
    /// Streams and the offsets that were passed over.
    gaps: Vec<(u64, u64, u64)>,
    /// Runs whose file is not there.
    missing: Vec<Run>,
    /// Stretches of the journal below what is replayed, in which messages of a lost state may have been.
    unreadable: Vec<JournalDamage>,
    /// Something of the catalog may be lost.
    names_hurt: bool,
    damage: Vec<Damage>,
}

/// A message or batch in the journal.
struct InJournal {
    event: Event,
    at: StoredAt,
    lsn: Lsn,
    bytes: u64,
}

/// Read at a time.
const READ_BYTES: usize = 1 << 20;
const READ_ENTRIES: usize = 1_024;
/// A head that claims to cover more than its record's bytes or this is not heeded.
const LOST_SPAN_MAX: u64 = 65_536;

impl Recovered {
    /// Takes a checkpoint, and looks at the segments that it names.
    pub(crate) fn take(
        &mut self,
        loaded: &Loaded,
        segments: &Segments,
        journal: &JournalPlace,
    ) -> Result<(), OpenError> {
        self.meta = postcard::from_bytes(&loaded.meta).map_err(|e| OpenError::State(e.to_string()))?;
        loaded.for_each(&mut |key, value| self.load(key, value))?;
        if loaded.lost.is_empty() {
            for text in &loaded.damaged {
                let what = format!("{text}; what is needed was read elsewhere, nothing is lost");
                self.followed.damage.push(Damage::new(DamageKind::Checkpoint, what));
            }
        } else {
            let meta = &self.meta;
            self.followed.damage.extend(loaded.lost.iter().map(|lost| Damage::of_checkpoint(lost, meta)));
            self.followed.names_hurt = loaded.lost.iter().any(hurts_names);
            for shard in &mut self.shards {
                if loaded.lost.iter().any(|lost| hurts_shard(lost, shard.id())) {
                    shard.mend();
                }
            }
            let (in_journal, unreadable) = self.find_in_journal(&loaded.lost, journal)?;
            self.followed.unreadable = unreadable;
            self.rebuild(&loaded.lost, segments, &in_journal);
            self.restore_relays(&loaded.lost, journal)?;
        }
        self.note_streams();
        self.look_at_segments(segments)
    }

    /// Before an event is applied: what it tells of those that are not there.
    pub(crate) fn follow(&mut self, shard: usize, event: &Event) {
        match event {
            Event::PartitionOpened { partition, .. } => {
                self.followed.next.entry(partition.0).or_insert(0);
            }
            Event::QueueOpened { queue, spec } if spec.over.is_none() => self.opened(*queue, spec),
            Event::PartitionClosed { .. } | Event::QueueClosed { .. } => {
                self.followed.closed(closed_by(event));
            }
            Event::Appended { partition, offset, span, .. } => {
                self.reopen_partition(shard, *partition);
                self.followed.came(partition.0, *offset, offset + u64::from(*span));
            }
            Event::Trimmed { partition, start } => {
                self.reopen_partition(shard, *partition);
                // What was trimmed is no loss.
                if let Some(next) = self.followed.next.get_mut(&partition.0) {
                    *next = (*next).max(*start);
                }
            }
            Event::Enqueued { queue, lane, offset, .. } => {
                self.reopen_queue(shard, *queue);
                self.followed.came(stream_of(*queue, *lane), *offset, offset + 1);
            }
            Event::Settled { queue, lane, ranges } => {
                for (start, end) in ranges {
                    self.followed.came(stream_of(*queue, *lane), *start, *end);
                }
            }
            _ => {}
        }
    }

    /// Before a change of names is applied: its namespace must be there.
    pub(crate) fn follow_names(&mut self, event: &CatalogEvent) {
        let namespace = match event {
            CatalogEvent::TopicPut(topic) => &topic.namespace,
            CatalogEvent::QueuePut(queue) => &queue.namespace,
            CatalogEvent::ExchangePut(exchange) => &exchange.namespace,
            _ => return,
        };
        if self.catalog.namespace(namespace).is_none() {
            self.catalog.apply(&CatalogEvent::NamespaceCreated(namespace.clone()));
        }
    }

    /// Ends the journal: everything that is known to be damaged or missing.
    pub(crate) fn assess(&mut self, report: &RecoveryReport) -> Vec<Damage> {
        let hurts = |kind| matches!(kind, Stretch::JoinedRecords | Stretch::Missing | Stretch::Records);
        self.followed.names_hurt |= report
            .quarantined
            .iter()
            .any(|d| hurts(d.kind) && d.shard.is_none_or(|shard| shard == record::CATALOG));
        if self.followed.names_hurt {
            self.name_orphans();
        }
        let mut unreadable = std::mem::take(&mut self.followed.unreadable);
        unreadable.retain(|lost| !report.quarantined.iter().any(|told| told.from == lost.from));
        unreadable.extend(report.quarantined.iter().cloned());
        unreadable.iter().for_each(|lost| self.heed(lost));
        self.heed_arrivals();
        self.pass_over_the_missing(report);
        let mut damage = std::mem::take(&mut self.followed.damage);
        // What a gap in the offsets tells of is not told again by the damage that made it. The journal's
        // end leaves no gap.
        let mut by_gaps: u64 = self.followed.gaps.iter().map(|(_, from, to)| to.saturating_sub(*from)).sum();
        damage.extend(unreadable.iter().map(|lost| Damage::of_journal(lost, &mut by_gaps, &self.catalog)));
        let starts: HashMap<u64, u64> =
            self.shards.iter().flat_map(|shard| shard.streams()).map(|s| (s.id, s.start)).collect();
        for run in &self.followed.missing {
            if let Some(start) = starts.get(&run.stream).filter(|start| **start < run.end) {
                let object = object_of(&self.catalog, run.stream);
                let told = Damage::of_segment(run.segment, "damaged segment");
                damage.push(told.with_offsets(object, run.first.max(*start), run.end));
            }
        }
        for (stream, from, to) in std::mem::take(&mut self.followed.gaps) {
            // What was deleted or trimmed since is not missed. In a queue, what is missing counts as settled.
            let object = object_of(&self.catalog, stream);
            let is_log =
                object.as_ref().is_none_or(|o| o.resource == posthaste_engine::catalog::Resource::Topic);
            let start = starts.get(&stream).map(|start| if is_log { *start } else { 0 });
            if let Some(start) = start.filter(|start| *start < to) {
                let told = Damage::new(DamageKind::Messages, "messages lost with damaged journal records");
                damage.push(told.with_offsets(object, from.max(start), to));
            }
        }
        if self.problems > 0 {
            let what = format!("{} stored entries could not be understood and were skipped", self.problems);
            damage.push(Damage::new(DamageKind::Journal, what));
        }
        damage
    }

    /// Somebody has to be let in, to put names and users right.
    pub(crate) fn lost_all_users(&self) -> bool {
        self.followed.names_hurt && self.catalog.users().next().is_none()
    }

    /// The last messages of a stream are missed by none that follow. What a lost record's head says, though
    /// it is not verified, tells of them, and keeps their offsets from being given out again.
    fn heed(&mut self, lost: &JournalDamage) {
        let (Some(head), Some(shard)) = (&lost.head, lost.shard) else { return };
        let Ok((event, _)) = record::decode(head) else { return };
        let (stream, offset, span) = match &event {
            Event::Appended { partition, offset, span, .. } => (partition.0, *offset, *span),
            Event::Enqueued { queue, lane, offset, .. } => (stream_of(*queue, *lane), *offset, 1),
            _ => return,
        };
        let bytes = lost.to.0.saturating_sub(lost.from.0);
        let end = offset.saturating_add(u64::from(span));
        let next = self.followed.next.get(&stream).copied();
        // What the state has already is not followed: nothing that comes behind it misses it either.
        let in_state = self.meta.shards.get(usize::from(shard)).is_some_and(|from| lost.from < *from);
        let in_place = self.covered.get(&stream).is_some_and(|covered| end <= *covered);
        if in_state && !in_place && next.is_some_and(|next| end <= next) {
            if self.is_wanted(shard, stream, offset) {
                self.followed.gaps.push((stream, offset, end));
            }
            return;
        }
        let Some(next) = next.filter(|next| *next < end && end - next <= bytes.max(LOST_SPAN_MAX)) else {
            return;
        };
        let skip = match event {
            Event::Enqueued { queue, lane, .. } => {
                Event::Settled { queue, lane, ranges: smallvec::smallvec![(next, end)] }
            }
            other => other,
        };
        self.apply(usize::from(shard), &skip);
        self.followed.gaps.push((stream, next, end));
        self.followed.next.insert(stream, end);
    }

    fn is_wanted(&self, shard: u16, stream: u64, offset: u64) -> bool {
        let streams = self.shards.get(usize::from(shard)).map(|shard| shard.streams()).unwrap_or_default();
        let settled = |range: &(u64, u64)| (range.0..range.1).contains(&offset);
        let known = streams.iter().find(|known| known.id == stream);
        known.is_some_and(|known| known.start <= offset && !known.settled.iter().any(settled))
    }

    /// What was handed on from a partition tells that it had been there: its offset is not given out again,
    /// or what comes under it would be taken for a repetition.
    fn heed_arrivals(&mut self) {
        let mut handed_on: BTreeMap<u64, u64> = BTreeMap::new();
        for (source, number) in self.shards.iter().flat_map(|shard| shard.arrivals()) {
            if source & TAPS != 0 {
                let end = handed_on.entry(source & !TAPS).or_default();
                *end = (*end).max(number);
            }
        }
        for (id, end) in handed_on {
            let partition = PartitionId(id);
            let shard = usize::from(self.catalog.place(id).0);
            let next = self.shards.get(shard).and_then(|shard| shard.bounds(partition)).map(|(_, next)| next);
            if let Some(next) = next.filter(|next| *next < end) {
                self.apply(shard, &Event::OffsetsSkipped { partition, to: end });
                self.followed.gaps.push((id, next, end));
                self.followed.next.insert(id, end);
            }
        }
    }

    fn note_streams(&mut self) {
        for stream in self.shards.iter().flat_map(|shard| shard.streams()) {
            self.followed.next.insert(stream.id, stream.next);
        }
    }

    fn opened(&mut self, queue: QueueId, spec: &QueueSpec) {
        for (lane, _) in (0..=u8::MAX).zip(&spec.streams) {
            self.followed.next.entry(stream_of(queue, lane)).or_insert(0);
        }
    }

    /// A partition whose opening was lost is as its topic says.
    fn reopen_partition(&mut self, shard: usize, partition: PartitionId) {
        if self.followed.next.contains_key(&partition.0) {
            return;
        }
        let found = self.catalog.namespaces().flat_map(|n| n.topics.values()).find_map(|topic| {
            let index = topic.partitions.iter().position(|p| p.id == partition)?;
            Some(partition_spec(topic, index))
        });
        if let Some(spec) = found {
            self.apply(shard, &Event::PartitionOpened { partition, spec });
            self.followed.next.insert(partition.0, 0);
        }
    }

    fn reopen_queue(&mut self, shard: usize, queue: QueueId) {
        if self.followed.next.contains_key(&stream_of(queue, 0)) {
            return;
        }
        if let Some(known) = self.catalog.queue_by_id(queue).cloned() {
            let spec = queue_spec(&known);
            self.opened(queue, &spec);
            self.apply(shard, &Event::QueueOpened { queue, spec });
        }
    }

    fn apply(&mut self, shard: usize, event: &Event) {
        if let Some(shard) = self.shards.get_mut(shard) {
            shard.replay(event);
        }
    }

    /// Refuses segments of another version; notes those that are damaged or missing.
    fn look_at_segments(&mut self, segments: &Segments) -> Result<(), OpenError> {
        let named: BTreeSet<_> = self.runs.values().flatten().map(|run| run.segment).collect();
        for id in named {
            let faults = match segments.verify_frame(id) {
                // A sector that cannot be read costs what lies in it, not the whole broker.
                Err(ReadError::Io { error, .. }) => {
                    let what = format!("a segment cannot be read: {error}");
                    self.followed.damage.push(Damage::of_segment(id, &what));
                    continue;
                }
                outcome => outcome?,
            };
            for fault in faults {
                self.followed.damage.push(Damage::of_segment(id, fault));
                if fault == "missing file" {
                    let lost = self.runs.values().flatten().filter(|run| run.segment == id);
                    self.followed.missing.extend(lost);
                }
            }
        }
        Ok(())
    }

    /// Puts together again what a damaged checkpoint lacks: places of messages from the segments' own
    /// footers, objects from the catalog, and what they hold from the messages themselves.
    fn rebuild(&mut self, lost: &[LostKeys], segments: &Segments, in_journal: &[InJournal]) {
        // What a later checkpoint wrote that was not finished, the journal's replay tells of, all of it.
        let written = segments.list().into_iter().filter(|(id, _)| id.0 < self.meta.next_segment);
        for (id, _) in written.collect::<Vec<_>>() {
            for run in segments.runs(id).unwrap_or_default() {
                if lost.iter().any(|lost| lost.covers(&stream_key(run.stream))) {
                    let known = self.runs.entry(run.stream).or_default();
                    if known.iter().all(|other| other.end <= run.first || run.end <= other.first) {
                        known.push(run);
                        known.sort_by_key(|run| run.first);
                        self.pending.insert(stream_key(run.stream), postcard::to_allocvec(known).ok());
                    }
                }
            }
        }
        if lost.iter().any(|lost| hurts(lost, key::KEPT)) {
            self.place_kept(in_journal);
        }
        self.note_streams();
        let catalog = self.catalog.clone();
        for namespace in catalog.namespaces() {
            for partition in namespace.topics.values().flat_map(|topic| &topic.partitions) {
                self.reopen_partition(usize::from(partition.shard.0), partition.id);
            }
            for queue in namespace.queues.values().filter(|queue| queue.durable) {
                self.reopen_queue(usize::from(queue.shard.0), queue.id);
            }
        }
        if lost.iter().any(|lost| hurts(lost, key::SHARD)) {
            self.adopt_unheld(segments, in_journal);
        }
        let mut holders: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
        for (index, shard) in self.shards.iter().enumerate() {
            holders.extend(shard.streams().into_iter().map(|stream| (stream.id, (index, stream.next))));
        }
        for (stream, (shard, next)) in holders {
            let here = in_journal.iter().filter(|found| found.at.stream == stream && found.at.offset >= next);
            let mut here: VecDeque<_> = here.map(|found| (found.at.offset, &found.event)).collect();
            here.make_contiguous().sort_by_key(|(offset, _)| *offset);
            for run in self.runs.get(&stream).cloned().unwrap_or_default() {
                self.replay_run(segments, &run, shard, next, &mut here);
            }
            self.apply_below(u64::MAX, &mut here, shard);
        }
    }

    /// If places in the journal are lost, or what shards held: everything that is stored in what is left of
    /// the journal and that its replay is not going to tell of.
    fn find_in_journal(
        &self,
        lost: &[LostKeys],
        journal: &JournalPlace,
    ) -> Result<(Vec<InJournal>, Vec<JournalDamage>), OpenError> {
        let mut found = Vec::new();
        if !lost.iter().any(|lost| hurts(lost, key::KEPT) || hurts(lost, key::SHARD)) {
            return Ok((found, Vec::new()));
        }
        let mut look = |lsn: Lsn, record: RecordRef<'_>| {
            let replayed_from = self.meta.shards.get(usize::from(record.shard));
            if replayed_from.is_some_and(|from| lsn < *from)
                && let Ok((event, _)) = record::decode(record.head)
                && let Some(at) = stored_at(&event)
            {
                let bytes = (record.head.len() + record.body.len()) as u64;
                found.push(InJournal { event, at, lsn, bytes });
            }
        };
        let inspected = journal.inspect(Scope::All(self.meta.replay_from), &mut look)?;
        // The replay tells of what lies above.
        let mut unreadable = inspected.report.quarantined;
        unreadable.retain(|lost| lost.kind != Stretch::Missing && lost.from < self.meta.replay_from);
        Ok((found, unreadable))
    }

    /// Notes where those are that stayed in the journal.
    fn place_kept(&mut self, in_journal: &[InJournal]) {
        let mut kept: BTreeMap<u64, Vec<Chunk>> = BTreeMap::new();
        for InJournal { at, lsn, bytes, .. } in in_journal {
            let runs = self.runs.get(&at.stream).map_or(&[][..], Vec::as_slice);
            let in_segment = runs.iter().any(|run| (run.first..run.end).contains(&at.offset));
            if in_segment || *lsn >= self.meta.replay_from {
                continue;
            }
            let chunks = kept.entry(at.stream).or_default();
            // A chunk must not reach over what is in a segment.
            let is_near =
                |chunk: &&mut Chunk| !runs.iter().any(|run| (chunk.offset..at.offset).contains(&run.first));
            let last = chunks.last_mut().filter(is_near);
            if !last.is_some_and(|chunk| chunk.push(at.offset, at.timestamp, *lsn, *bytes)) {
                chunks.push(Chunk::new(at.offset, at.timestamp, *lsn, *bytes));
            }
        }
        self.kept = kept;
    }

    /// Messages whose topic or queue is lost with its name make up another one, which gets a name like all
    /// that have none: better a topic too many than messages too few.
    fn adopt_unheld(&mut self, segments: &Segments, in_journal: &[InJournal]) {
        let held: BTreeSet<u64> =
            self.shards.iter().flat_map(|shard| shard.streams()).map(|stream| stream.id).collect();
        let unheld: Vec<Run> = self
            .runs
            .iter()
            .filter(|(id, _)| !held.contains(id))
            .flat_map(|(_, runs)| runs.first().copied())
            .collect();
        let in_segments = unheld.iter().filter_map(|run| first_event(segments, run));
        let in_journal = in_journal
            .iter()
            .filter(|found| !held.contains(&found.at.stream))
            .map(|found| found.event.clone());
        let mut lanes: BTreeMap<QueueId, u8> = BTreeMap::new();
        for event in in_segments.chain(in_journal) {
            match event {
                Event::Appended { partition, .. } => {
                    // Ids are given out once, whatever they are of.
                    let spec = PartitionSpec { topic: TopicId(partition.0), index: 0, sync: true };
                    let shard = usize::from(self.catalog.place(partition.0).0);
                    self.apply(shard, &Event::PartitionOpened { partition, spec });
                }
                Event::Enqueued { queue, lane, .. } => {
                    let highest = lanes.entry(queue).or_default();
                    *highest = (*highest).max(lane);
                }
                _ => {}
            }
        }
        for (queue, highest) in lanes {
            let spec = QueueSpec {
                namespace: Name::constant(crate::open::DEFAULT_NAMESPACE),
                name: recovered_name("queue", queue.0),
                streams: (0..=highest).map(|lane| stream_of(queue, lane)).collect(),
                config: QueueConfig { priorities: highest, ..QueueConfig::default() },
                durable: true,
                auto_delete: false,
                over: None,
            };
            let shard = usize::from(self.catalog.place(queue.0).0);
            self.apply(shard, &Event::QueueOpened { queue, spec });
        }
    }

    /// Segments keep entries as the journal had them. Messages that only the journal has are taken from
    /// `in_journal` where their turn comes: an offset that was passed over counts as settled.
    fn replay_run(
        &mut self,
        segments: &Segments,
        run: &Run,
        shard: usize,
        next: u64,
        in_journal: &mut VecDeque<(u64, &Event)>,
    ) {
        let mut from = next.max(run.first);
        while from < run.end {
            match segments.read(run, from, READ_BYTES, READ_ENTRIES) {
                Ok(entries) if entries.is_empty() => return,
                Ok(entries) => {
                    for entry in entries {
                        self.apply_below(entry.offset, in_journal, shard);
                        from = entry.offset.saturating_add(u64::from(entry.span.max(1)));
                        if let Ok((event, _)) = record::decode(&entry.head) {
                            self.apply(shard, &event);
                            while in_journal.pop_front_if(|(offset, _)| *offset < from).is_some() {}
                        }
                    }
                }
                Err(ReadError::Damaged { resume, .. }) => from = resume.max(from + 1),
                Err(_) => return,
            }
        }
    }

    fn apply_below(&mut self, end: u64, events: &mut VecDeque<(u64, &Event)>, shard: usize) {
        while let Some((_, event)) = events.pop_front_if(|(offset, _)| *offset < end) {
            self.apply(shard, event);
        }
    }
}

impl Followed {
    /// What was in them is not missed.
    fn closed(&mut self, streams: Range<u64>) {
        for stream in streams.clone() {
            self.next.remove(&stream);
        }
        self.gaps.retain(|(stream, ..)| !streams.contains(stream));
        self.missing.retain(|run| !streams.contains(&run.stream));
    }

    /// Offsets from `from` to `to` are there, or were.
    fn came(&mut self, stream: u64, from: u64, to: u64) {
        let Some(next) = self.next.get_mut(&stream) else { return };
        if from > *next {
            self.gaps.push((stream, *next, from));
        }
        *next = (*next).max(to);
    }
}

/// The first event of a run that can be read.
fn first_event(segments: &Segments, run: &Run) -> Option<Event> {
    let mut from = run.first;
    while from < run.end {
        match segments.read(run, from, 1, 1) {
            Ok(entries) => return record::decode(&entries.first()?.head).ok().map(|(event, _)| event),
            Err(ReadError::Damaged { resume, .. }) => from = resume.max(from + 1),
            Err(_) => return None,
        }
    }
    None
}

/// Whether keys that begin with `kind` may be lost.
fn hurts(lost: &LostKeys, kind: u8) -> bool {
    let first = |key: &Vec<u8>| key.first().copied().unwrap_or_default();
    lost.after.as_ref().is_some_and(|after| first(after) <= kind)
        && lost.before.as_ref().is_none_or(|before| first(before) >= kind)
}

/// Whether something of a shard may be lost.
pub(crate) fn hurts_shard(lost: &LostKeys, shard: ShardId) -> bool {
    let [high, low] = shard.0.to_be_bytes();
    let prefix = [key::SHARD, high, low];
    // The key before may be the last one of this shard; the key behind is lost only if it is another's.
    lost.after.as_ref().is_some_and(|after| after.get(..3).unwrap_or(after) <= &prefix[..])
        && lost.before.as_ref().is_none_or(|before| before[..] > prefix[..])
}

pub(crate) fn hurts_names(lost: &LostKeys) -> bool {
    let first = lost.after.as_ref().map(|after| after.first().copied().unwrap_or_default());
    first.is_some_and(|first| first <= crate::checkpoint::key::CATALOG)
}

fn partition_spec(topic: &Topic, index: usize) -> PartitionSpec {
    let sync = topic.config.durability == Durability::Fsync;
    PartitionSpec { topic: topic.id, index: u32::try_from(index).unwrap_or(u32::MAX), sync }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Work;

    #[test]
    fn the_end_of_a_queue_is_none_of_what_has_the_numbers_behind_it() {
        let mut recovered = Recovered::new(1, Work::Here);
        let (queue, partition) = (QueueId(1), PartitionId(2));
        let spec = QueueSpec {
            namespace: Name::constant("default"),
            name: Name::constant("q"),
            streams: vec![1],
            config: QueueConfig::default(),
            durable: true,
            auto_delete: false,
            over: None,
        };
        let partition_spec = PartitionSpec { topic: TopicId(2), index: 0, sync: true };
        for event in [
            Event::QueueOpened { queue, spec },
            Event::PartitionOpened { partition, spec: partition_spec },
            Event::QueueClosed { queue, lanes: 1 },
        ] {
            recovered.follow(0, &event);
            recovered.apply(0, &event);
        }
        assert_eq!(recovered.followed.next, HashMap::from([(2, 0)]));
    }
}
