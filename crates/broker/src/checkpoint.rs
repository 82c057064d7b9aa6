//! Checkpoints: what is still wanted of the journal moves into segments, the state into checkpoint files, and the
//! journal's files are free again.
//!
//! Order: entries are moved and synced first, then the state (with where the entries are) is written and verified, and
//! only then is the journal released, up to what the generation before needs, so that it can stand in.

mod meta;

pub(crate) use meta::Meta;

use crate::{
    broker::Shared,
    damage::{Damage, DamageKind, Damages},
    kept::{Kept, Tally},
    log::{Located, PartitionLog, Storage},
    record::{self, Records},
    thread::{Answers, Input, ThreadCheckpoint},
};
use posthaste_engine::{RangeSet, Stream, catalog::CatalogEvent};
use posthaste_storage::{
    checkpoint::Checkpoints,
    journal::{FileExtent, Lsn, ReadError},
    segment::{self, Run, SegmentId, SegmentWriter},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, mpsc},
    time::Duration,
};
use tokio::sync::mpsc as async_mpsc;

/// What a key in a checkpoint begins with.
pub(crate) mod key {
    pub const CATALOG: u8 = b'c';
    /// Places in the journal. Followed by the stream and the first offset, eight bytes each, high one first.
    pub const KEPT: u8 = b'k';
    /// Followed by the shard, two bytes, high one first.
    pub const SHARD: u8 = b's';
    /// Followed by the stream, eight bytes, high one first.
    pub const STREAM: u8 = b't';
}

/// Does the checkpoints of a broker, on a thread of its own.
pub(crate) struct Checkpointer {
    pub shared: Arc<Shared>,
    pub storage: Storage,
    pub checkpoints: Checkpoints,
    pub meta: Meta,
    /// What was taken out of the shards but is not yet in a checkpoint.
    pub pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Checksums of the catalog's entries as they were written last.
    pub catalog: HashMap<Vec<u8>, u32>,
    /// The runs of each stream as they were written last.
    pub streams: HashMap<u64, Vec<Run>>,
    /// Checksums of the places in the journal as they were written last.
    pub places: HashMap<Vec<u8>, u32>,
    /// Segments that the newest checkpoint and the one before name.
    pub named: [HashSet<SegmentId>; 2],
    /// Starts of the journal files that the newest checkpoint and the one before keep.
    pub kept: [BTreeSet<Lsn>; 2],
    /// Large entries stay in the journal's files.
    pub keeps_files: bool,
    /// The journal is never released, so that all of it can be replayed.
    pub keeps_journal: bool,
}

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Files of a journal after which a checkpoint is made in any case: in a bucket each is fetched on its own.
const FILES_MAX: usize = 10_000;
const RETRY_AFTER: Duration = Duration::from_secs(10);
const SEGMENT_BYTES: u64 = 64 << 20;
const COPY_BYTES: usize = 1 << 20;

type Problem = Box<dyn std::error::Error + Send + Sync>;

impl Checkpointer {
    /// Makes a checkpoint whenever the journal has grown enough, until told to stop.
    pub fn run(mut self, stop: &mpsc::Receiver<()>) {
        let runtime = self.shared.runtime().clone();
        while let Err(mpsc::RecvTimeoutError::Timeout) = stop.recv_timeout(LOOK_EVERY) {
            if !runtime.block_on(self.checkpoint_if_due())
                && stop.recv_timeout(RETRY_AFTER) != Err(mpsc::RecvTimeoutError::Timeout)
            {
                return;
            }
        }
    }

    /// Makes a checkpoint if the journal has grown enough; false when that failed. Nothing was released then, so
    /// nothing is lost; it is to be tried again, but not all the time.
    pub async fn checkpoint_if_due(&mut self) -> bool {
        let (journal, from) = (&self.storage.journal, self.meta.replay_from);
        let grown = journal.end().0.saturating_sub(from.0);
        if grown < self.shared.limits.journal_bytes_between_checkpoints
            && journal.files_from(from) < FILES_MAX
        {
            return true;
        }
        let made = self.checkpoint().await;
        match &made {
            Ok(()) => self.shared.metrics.checkpoints.add(1),
            Err(error) => {
                self.shared.metrics.checkpoint_failures.add(1);
                tracing::error!(%error, "a checkpoint failed; the journal is kept, and it is tried again");
            }
        }
        made.is_ok()
    }

    /// Moves everything that is readable, also out of damaged segments, and makes the result the only one that is
    /// needed.
    pub async fn write_anew(&mut self) -> Result<(), Problem> {
        self.keeps_files = false;
        self.rewrite_damaged()?;
        self.checkpoint().await?;
        let meta = postcard::to_allocvec(&self.meta)?;
        self.checkpoints.write_base(&meta)?;
        // The generation before is no fallback yet: it has the old base.
        self.checkpoint().await?;
        self.storage.journal.retire_released();
        Ok(())
    }

    /// Copies the readable entries of damaged segments into new ones.
    fn rewrite_damaged(&mut self) -> Result<(), Problem> {
        let damages = self.shared.logs.damages().clone();
        for log in self.shared.logs.all() {
            for run in log.runs() {
                self.storage.segments.verify(&run)?;
            }
        }
        let damaged = self.storage.segments.damaged();
        let none = Kept::default();
        let mut moving = Mover::new(&self.storage, &damages, &none, self.meta.next_segment);
        let mut runs: Vec<(Arc<PartitionLog>, Vec<Run>)> = Vec::new();
        for log in self.shared.logs.all() {
            let all = log.runs();
            let is_damaged = |run: &Run| damaged.contains(&run.segment);
            let (Some(first), Some(last)) =
                (all.iter().position(is_damaged), all.iter().rposition(is_damaged))
            else {
                continue;
            };
            // What lies between goes along: runs must not overlap.
            let old = all.get(first..=last).unwrap_or_default().to_vec();
            for run in &old {
                moving.copy(run)?;
            }
            runs.push((log, old));
        }
        moving.finish()?;
        self.meta.next_segment = moving.next_segment;
        for (log, old) in runs {
            log.replaced(&old, moving.moved.remove(&log.stream()).unwrap_or_default());
        }
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<(), Problem> {
        // What readers have not been shown has no place yet that could be moved.
        let mut below = self.storage.journal.durable();
        let parts = self.ask(Input::Streams).await?;
        below = parts.iter().filter_map(|part| part.unseen_from).fold(below, Lsn::min);
        let streams: Vec<Stream> = parts.into_iter().flat_map(|part| part.streams).collect();
        let files = if self.keeps_files { self.storage.journal.files_below(below) } else { Vec::new() };
        // A file is released or kept as a whole: one that is not full yet is left to the next checkpoint, if
        // this one makes progress without it.
        let full = files.last().filter(|last| last.end > self.meta.replay_from);
        below = full.map_or(below, |last| last.end);
        let kept = self.choose_kept(files, &streams, below);
        let damages = self.shared.logs.damages();
        let mut moving = Mover::new(&self.storage, damages, &kept, self.meta.next_segment);
        for stream in &streams {
            if let Some(log) = self.shared.logs.find(stream.id) {
                moving.stream(&log, stream, below)?;
            }
        }
        moving.finish()?;
        self.meta.next_segment = moving.next_segment;
        let mut moved = moving.moved;
        // Also streams of which nothing was left to move have no places below any more.
        for log in self.shared.logs.all() {
            log.moved(moved.remove(&log.stream()).unwrap_or_default(), below, &kept);
        }
        let parts: Vec<ThreadCheckpoint> = self.ask(Input::Checkpoint).await?;
        self.collect(parts);
        self.collect_streams();
        self.collect_places(below);
        let from = self.meta.shards.iter().copied().chain([self.meta.catalog, below]).min().unwrap_or(below);
        if from < self.meta.replay_from {
            let (from, before) = (from.0, self.meta.replay_from.0);
            return Err(format!("it would begin at LSN {from}, below the one before it at {before}").into());
        }
        self.meta.replay_from = from;
        self.write(kept.starts())
    }

    /// The journal files that are to stay.
    fn choose_kept(&self, files: Vec<FileExtent>, streams: &[Stream], below: Lsn) -> Kept {
        if files.is_empty() {
            return Kept::default();
        }
        let mut tally = Tally::new(files);
        for stream in streams {
            let Some(log) = self.shared.logs.find(stream.id) else { continue };
            let wanted = Wanted::of(stream);
            let places = log.in_journal(below).filter(|place| wanted.includes(place));
            places.for_each(|place| tally.count(place.lsn, place.bytes));
        }
        tally.choose(self.shared.limits.kept_entry_bytes_min)
    }

    /// Asks all engine threads the same.
    async fn ask<T>(&self, question: impl Fn(Answers<T>) -> Input) -> Result<Vec<T>, Problem> {
        let (reply, mut answers) = async_mpsc::unbounded_channel();
        for thread in 0..self.shared.threads() {
            if !self.shared.input(thread, question(reply.clone())) {
                return Err("the broker is stopping".into());
            }
        }
        drop(reply);
        let mut all = Vec::with_capacity(self.shared.threads());
        while let Some(answer) = answers.recv().await {
            all.push(answer);
        }
        // What a part says is missing would be taken for settled.
        if all.len() < self.shared.threads() { Err("an engine thread has stopped".into()) } else { Ok(all) }
    }

    fn collect(&mut self, parts: Vec<ThreadCheckpoint>) {
        for part in parts {
            for (shard, entities, held) in part.shards {
                for (entity, value) in entities {
                    let [high, low] = shard.0.to_be_bytes();
                    let key = [&[key::SHARD, high, low], &entity[..]].concat();
                    self.pending.insert(key, value);
                }
                if let Some(slot) = self.meta.held.get_mut(usize::from(shard.0)) {
                    *slot = held;
                }
                if let (Some(at), Some(slot)) = (part.at, self.meta.shards.get_mut(usize::from(shard.0))) {
                    *slot = at;
                }
            }
            if let Some(events) = part.catalog {
                self.collect_catalog(&events);
            }
            // Thread 0 keeps the catalog; unchanged, it is as it was up to this point too.
            if let Some(at) = part.at.filter(|_| part.keeps_catalog) {
                self.meta.catalog = at;
            }
        }
    }

    /// Only what changed of the catalog is written again.
    fn collect_catalog(&mut self, events: &[CatalogEvent]) {
        let entries = events
            .iter()
            .enumerate()
            .map(|(at, event)| (catalog_key(at, event), postcard::to_allocvec(event).unwrap_or_default()));
        replace(&mut self.catalog, entries, &mut self.pending);
    }

    /// Where what stays in the journal below `below` lies.
    fn collect_places(&mut self, below: Lsn) {
        let mut entries = Vec::new();
        for log in self.shared.logs.all() {
            for chunk in log.kept(below) {
                let key = kept_key(log.stream(), chunk.offset);
                entries.push((key, postcard::to_allocvec(&chunk).unwrap_or_default()));
            }
        }
        replace(&mut self.places, entries.into_iter(), &mut self.pending);
    }

    fn collect_streams(&mut self) {
        let mut now = HashMap::new();
        for log in self.shared.logs.all() {
            let runs = log.runs();
            if !runs.is_empty() {
                now.insert(log.stream(), runs);
            }
        }
        for (stream, runs) in &now {
            if self.streams.get(stream) != Some(runs) {
                self.pending.insert(stream_key(*stream), postcard::to_allocvec(runs).ok());
            }
        }
        for gone in self.streams.keys().filter(|stream| !now.contains_key(*stream)) {
            self.pending.insert(stream_key(*gone), None);
        }
        self.streams = now;
    }

    /// `kept` are the starts of the journal files in which something stays.
    fn write(&mut self, kept: BTreeSet<Lsn>) -> Result<(), Problem> {
        self.meta.names = self.catalog.len() as u64;
        let meta = postcard::to_allocvec(&self.meta)?;
        let mut changes = self.pending.iter().map(|(key, value)| (key.clone(), value.clone()));
        self.checkpoints.write(&meta, &mut changes)?;
        self.pending.clear();
        if self.checkpoints.wants_base() {
            self.checkpoints.write_base(&meta)?;
        }
        let named = self.streams.values().flatten().map(|run| run.segment).collect();
        let [newest, _] = std::mem::replace(&mut self.named, [named, HashSet::new()]);
        self.named[1] = newest;
        self.kept.swap(0, 1);
        self.kept[0] = kept;
        let fallback = self.checkpoints.fallback_meta().and_then(|m| postcard::from_bytes::<Meta>(m).ok());
        if let Some(fallback) = fallback.filter(|_| !self.keeps_journal) {
            let kept = self.kept.iter().flatten().copied().collect();
            self.storage.journal.release(fallback.replay_from, &kept);
        }
        for (segment, _) in self.storage.segments.list() {
            if !self.named.iter().any(|named| named.contains(&segment)) {
                self.storage.segments.remove(segment);
            }
        }
        Ok(())
    }
}

/// What of a stream is still needed.
struct Wanted<'a> {
    stream: &'a Stream,
    settled: RangeSet,
}

impl<'a> Wanted<'a> {
    fn of(stream: &'a Stream) -> Wanted<'a> {
        let mut settled = RangeSet::new();
        for (start, end) in &stream.settled {
            settled.insert(*start, *end);
        }
        Wanted { stream, settled }
    }

    /// An entry may hold several offsets; it is needed as long as its last one is.
    fn includes(&self, entry: &Located) -> bool {
        let Wanted { stream, settled } = self;
        entry.until > stream.start
            && (stream.log || !settled.contains(entry.offset))
            && entry.offset < stream.next
    }
}

/// Copies entries from the journal into segments.
struct Mover<'a> {
    storage: &'a Storage,
    damages: &'a Damages,
    kept: &'a Kept,
    next_segment: u64,
    writer: Option<SegmentWriter>,
    moved: BTreeMap<u64, Vec<Run>>,
}

impl<'a> Mover<'a> {
    fn new(storage: &'a Storage, damages: &'a Damages, kept: &'a Kept, next_segment: u64) -> Mover<'a> {
        Mover { storage, damages, kept, next_segment, writer: None, moved: BTreeMap::new() }
    }

    /// What is readable of a run.
    fn copy(&mut self, run: &Run) -> Result<(), Problem> {
        let mut from = run.first;
        // Between two runs something may lie in the journal.
        self.writer.iter_mut().for_each(SegmentWriter::break_run);
        while from < run.end {
            let entries = match self.storage.segments.read(run, from, COPY_BYTES, usize::MAX) {
                Ok(entries) => entries,
                Err(segment::ReadError::Damaged { resume, .. }) => {
                    from = resume.max(from + 1);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(last) = entries.last() else { break };
            from = last.offset + u64::from(last.span.max(1));
            for entry in entries.into_iter().take_while(|entry| entry.offset < run.end) {
                self.room()?;
                let id = SegmentId(self.next_segment);
                let writer = self.writer.get_or_insert_with(|| self.storage.segments.writer(id));
                writer.append(
                    run.stream,
                    entry.offset,
                    entry.span,
                    entry.max_timestamp,
                    &entry.head,
                    &entry.body,
                );
            }
        }
        Ok(())
    }

    /// Begins a new segment when the one being written is large.
    fn room(&mut self) -> Result<(), Problem> {
        match self.writer.as_ref().is_some_and(|writer| writer.bytes() >= SEGMENT_BYTES) {
            true => self.finish(),
            false => Ok(()),
        }
    }

    /// What is still wanted of a stream below `below`, and is not kept where it is.
    fn stream(&mut self, log: &Arc<PartitionLog>, stream: &Stream, below: Lsn) -> Result<(), Problem> {
        let mut places = log.in_journal(below).peekable();
        if places.peek().is_none() {
            return Ok(());
        }
        let wanted = Wanted::of(stream);
        let journal = self.storage.journal.clone();
        let mut records = Records::Stored(journal.reader_alone());
        let mut follows = None;
        for place in places {
            // What lies between is elsewhere. Also what is not wanted any more has its place in a kept file.
            let stays = self.kept.holds(place.lsn);
            if stays || follows != Some(place.offset) {
                self.writer.iter_mut().for_each(SegmentWriter::break_run);
            }
            follows = Some(place.until);
            if stays {
                continue;
            }
            if !wanted.includes(&place) {
                continue;
            }
            let Located { offset, until, lsn, .. } = place;
            let (head, body) = match records.read(lsn) {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(error @ ReadError::Io(_)) => return Err(error.into()),
                // The index knows that it is there: the journal is kept aside, the rest moves on.
                Err(_) => {
                    let next = if until == u64::MAX { stream.next } else { until };
                    let damage = Damage::new(DamageKind::Messages, "damaged records in the journal");
                    self.damages.missing(stream.id, offset, next, damage);
                    continue;
                }
            };
            let (span, timestamp) = record::span_and_timestamp(&head);
            self.room()?;
            let id = SegmentId(self.next_segment);
            let writer = self.writer.get_or_insert_with(|| self.storage.segments.writer(id));
            writer.append(stream.id, offset, span, timestamp, &record::head_with_own_body(&head), &body);
        }
        Ok(())
    }

    /// Ends the segment that is being written.
    fn finish(&mut self) -> Result<(), Problem> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        self.next_segment += 1;
        for run in writer.finish()? {
            self.moved.entry(run.stream).or_default().push(run);
        }
        Ok(())
    }
}

/// Notes what differs from what was written before, by key and checksum.
fn replace(
    written: &mut HashMap<Vec<u8>, u32>,
    entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    pending: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>,
) {
    let mut now = HashMap::with_capacity(written.len());
    for (key, value) in entries {
        let checksum = crc32c::crc32c(&value);
        if written.get(&key) != Some(&checksum) {
            pending.insert(key.clone(), Some(value));
        }
        now.insert(key, checksum);
    }
    for gone in written.keys().filter(|key| !now.contains_key(*key)) {
        pending.insert(gone.clone(), None);
    }
    *written = now;
}

fn catalog_key(index: usize, event: &CatalogEvent) -> Vec<u8> {
    // Replayed in order of keys: namespaces before what is in them, exchanges before bindings.
    let (rank, name) = match event {
        CatalogEvent::IdsReserved(_) => (0u8, String::new()),
        CatalogEvent::UserPut(user) => (1, user.name.to_string()),
        CatalogEvent::NamespaceCreated(name) => (2, name.to_string()),
        CatalogEvent::TopicPut(topic) => (3, topic.id.0.to_string()),
        CatalogEvent::QueuePut(queue) => (4, queue.id.0.to_string()),
        CatalogEvent::ExchangePut(spec) => (5, format!("{}\0{}", spec.namespace, spec.name)),
        CatalogEvent::Bound { namespace, exchange, binding } => {
            let identity = postcard::to_allocvec(&(&binding.target, &binding.key, &binding.arguments));
            let identity = identity.unwrap_or_default();
            (6, format!("{namespace}\0{exchange}\0{:08x}{}", crc32c::crc32c(&identity), hex(&identity)))
        }
        CatalogEvent::UserGroupPut(group) => (8, group.name.to_string()),
        // Others are no part of a catalog's own events.
        _ => (7, index.to_string()),
    };
    [&[key::CATALOG, rank], name.as_bytes()].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn stream_key(stream: u64) -> Vec<u8> {
    [&[key::STREAM][..], &stream.to_be_bytes()].concat()
}

pub(crate) fn kept_key(stream: u64, offset: u64) -> Vec<u8> {
    [&[key::KEPT][..], &stream.to_be_bytes(), &offset.to_be_bytes()].concat()
}
