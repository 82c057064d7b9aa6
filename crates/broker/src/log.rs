//! Logs as their readers see them: what is durable, and where it is. One per partition and per lane of a
//! queue.

mod segments;

use crate::{
    ahead::{self, ReadAhead},
    damage::{Damage, DamageKind, Damages},
    environment::Work,
    record::{self, Records},
};
use parking_lot::{Mutex, RwLock};
use posthaste_engine::Event;
use posthaste_model::{Envelope, Payload, Timestamp};
use posthaste_storage::{
    journal::{self, Journal, Lsn},
    segment::{Run, Segments},
};
use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Notify, Semaphore};

/// Where logs are read from.
#[derive(Clone)]
pub(crate) struct Storage {
    pub journal: Journal,
    pub segments: Segments,
}

/// All logs, by stream.
pub(crate) struct Logs {
    storage: std::sync::OnceLock<Storage>,
    pub(crate) damages: Arc<Damages>,
    by_stream: RwLock<HashMap<u64, Arc<PartitionLog>>>,
    work: Work,
    /// How much may be read ahead.
    ahead: Arc<Semaphore>,
}

/// A view of one log that changes only by what has become durable. Reading it does not disturb whoever
/// writes.
pub struct PartitionLog {
    stream: u64,
    work: Work,
    logs: Weak<Logs>,
    start: AtomicU64,
    end: AtomicU64,
    index: RwLock<Index>,
    watchers: Mutex<Vec<Weak<Notify>>>,
}

/// A stored entry: a message, or a batch that takes several offsets.
#[derive(Clone, Debug)]
pub struct LogEntry {
    pub offset: u64,
    pub span: u32,
    /// The latest in the entry.
    pub timestamp: Timestamp,
    /// What routing knew; none for a batch.
    pub envelope: Option<Envelope>,
    pub payload: Payload,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the topic or queue was deleted")]
    Gone,
    #[error("stored data cannot be read: {0}")]
    Io(String),
}

/// Where entries are: older ones in segments, newer ones in the journal.
#[derive(Default)]
struct Index {
    runs: VecDeque<Run>,
    chunks: VecDeque<Chunk>,
}

/// Entries that follow one another in the journal, 8 bytes each.
struct Chunk {
    offset: u64,
    lsn: u64,
    /// Distance of offset; distance of LSN in units of 8, to which records are aligned.
    entries: Vec<(u32, u32)>,
    timestamp: i64,
    bytes: u64,
}

const ENTRIES_PER_CHUNK: usize = 512;
const LSN_UNIT: u64 = 8;
/// Entries looked up at a time.
const LOOKED_UP_MAX: usize = 1_024;

/// Where to read from next.
enum Place {
    End,
    /// With one more than is wanted, if there is one, so that it is known where the last one ends.
    Journal(Vec<(u64, Lsn)>),
    Segment(Run),
}

/// Why entries cannot be read.
enum Fault {
    /// It may have been moved meanwhile; else it is damaged.
    Unreadable {
        offset: u64,
        next: u64,
    },
    /// Reported; reading may go on at this offset.
    Lost(u64),
    Io(String),
}

impl Logs {
    pub fn new(work: Work) -> Arc<Logs> {
        Arc::new(Logs {
            storage: std::sync::OnceLock::new(),
            damages: Arc::default(),
            by_stream: RwLock::default(),
            work,
            ahead: ahead::memory(),
        })
    }

    /// Tells where to read from. Before that, only positions can be recorded.
    pub fn attach(&self, storage: Storage) {
        let _ = self.storage.set(storage);
    }

    pub fn find(&self, stream: u64) -> Option<Arc<PartitionLog>> {
        self.by_stream.read().get(&stream).cloned()
    }

    pub fn find_or_add(self: &Arc<Logs>, stream: u64) -> Arc<PartitionLog> {
        if let Some(log) = self.find(stream) {
            return log;
        }
        let mut by_stream = self.by_stream.write();
        let fresh = || {
            Arc::new(PartitionLog {
                stream,
                work: self.work,
                logs: Arc::downgrade(self),
                start: AtomicU64::new(0),
                end: AtomicU64::new(0),
                index: RwLock::default(),
                watchers: Mutex::default(),
            })
        };
        by_stream.entry(stream).or_insert_with(fresh).clone()
    }

    pub fn remove(&self, stream: u64) {
        if let Some(log) = self.by_stream.write().remove(&stream) {
            log.wake();
        }
    }

    /// Every log, in order of streams.
    pub fn all(&self) -> Vec<Arc<PartitionLog>> {
        let mut all: Vec<_> = self.by_stream.read().values().cloned().collect();
        all.sort_by_key(|log| log.stream);
        all
    }
}

impl PartitionLog {
    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// The first offset that is still there.
    pub fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    /// The offset after the last durable message.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Bytes that it holds, as stored.
    pub fn bytes(&self) -> u64 {
        let index = self.index.read();
        index.runs.iter().map(|r| r.bytes).sum::<u64>() + index.chunks.iter().map(|c| c.bytes).sum::<u64>()
    }

    /// Has `notify` notified whenever the end moves, until it is dropped.
    pub fn watch(&self, notify: &Arc<Notify>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|w| w.strong_count() > 0);
        watchers.push(Arc::downgrade(notify));
    }

    /// Entries from the one that contains `from` on, up to about `max_bytes`, at least one if there is any.
    /// What is damaged is passed over and reported; so with none, everything from `from` up to an end that
    /// was read before is lost.
    pub async fn read(
        self: &Arc<PartitionLog>,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, ReadError> {
        self.read_until(from, u64::MAX, max_bytes).await
    }

    /// As [`PartitionLog::read`], only what begins below `until`.
    pub async fn read_until(
        self: &Arc<PartitionLog>,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, ReadError> {
        if let Some(entries) = self.read_until_now(from, until, max_bytes) {
            return Ok(entries);
        }
        let log = self.clone();
        let reading = self.work.run(move || log.read_until_blocking(from, until, max_bytes));
        reading.await.unwrap_or(Err(ReadError::Gone))
    }

    /// As [`PartitionLog::read`], from memory only. None when some of it is not there.
    pub fn read_now(&self, from: u64, max_bytes: usize) -> Option<Vec<LogEntry>> {
        self.read_until_now(from, u64::MAX, max_bytes)
    }

    fn read_until_now(&self, from: u64, until: u64, max_bytes: usize) -> Option<Vec<LogEntry>> {
        let logs = self.logs.upgrade()?;
        let storage = logs.storage.get()?;
        match self.place(from, until) {
            Place::End => Some(Vec::new()),
            Place::Segment(run) => self.read_segment_now(storage, &run, from..until, max_bytes),
            Place::Journal(entries) => self
                .read_journal(Records::Known(storage.journal.reader()), entries, from..until, max_bytes)
                .ok()
                .flatten(),
        }
    }

    /// Begins to read what [`PartitionLog::read`] will be asked for next, at most 1 MiB. None if enough is
    /// being read ahead by now, or there is no thread to do it.
    pub fn read_ahead(self: &Arc<PartitionLog>, from: u64, max_bytes: usize) -> Option<ReadAhead> {
        let memory = self.logs.upgrade()?.ahead.clone();
        ReadAhead::begin(self.clone(), self.work, memory, from, max_bytes)
    }

    /// As [`PartitionLog::read`], waiting for the disk on this thread.
    pub fn read_blocking(&self, from: u64, max_bytes: usize) -> Result<Vec<LogEntry>, ReadError> {
        self.read_until_blocking(from, u64::MAX, max_bytes)
    }

    fn read_until_blocking(
        &self,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, ReadError> {
        let logs = self.logs.upgrade().ok_or(ReadError::Gone)?;
        let storage = logs.storage.get().ok_or(ReadError::Gone)?;
        let mut from = from;
        let mut tries = 0;
        loop {
            let failed = match self.place(from, until) {
                Place::End => return Ok(Vec::new()),
                Place::Segment(run) => match self.read_segment(storage, &run, from..until, max_bytes) {
                    Ok(entries) => match entries.is_empty() {
                        true => Fault::Lost(run.end),
                        false => return Ok(entries),
                    },
                    Err(fault) => fault,
                },
                Place::Journal(entries) => {
                    let mut reader = storage.journal.reader();
                    let places =
                        entries.iter().take_while(|(offset, _)| *offset < until).map(|(_, lsn)| *lsn);
                    if let (Some(first), Some(last)) = (places.clone().next(), places.clone().last()) {
                        reader.expect(first, last, places.count(), max_bytes);
                    }
                    let records = Records::Stored(reader);
                    match self.read_journal(records, entries, from..until, max_bytes) {
                        Ok(entries) => return Ok(entries.unwrap_or_default()),
                        Err(fault) => fault,
                    }
                }
            };
            tries += 1;
            match failed {
                Fault::Lost(next) => (from, tries) = (next.max(from + 1), 0),
                // A checkpoint may move entries from the journal to a segment between looking up and reading.
                _ if tries < 3 => {}
                Fault::Unreadable { offset, next } => {
                    let what = "damaged records in the journal";
                    logs.damages.missing(self.stream, offset, next, Damage::new(DamageKind::Messages, what));
                    (from, tries) = (next.max(from + 1), 0);
                }
                Fault::Io(error) => return Err(ReadError::Io(error)),
            }
        }
    }

    /// The first entry with a timestamp at or after `timestamp`, and its own.
    pub async fn offset_at(
        self: &Arc<PartitionLog>,
        timestamp: Timestamp,
    ) -> Result<Option<(u64, Timestamp)>, ReadError> {
        let log = self.clone();
        let looking = self.work.run(move || log.offset_at_blocking(timestamp));
        looking.await.unwrap_or(Err(ReadError::Gone))
    }

    fn offset_at_blocking(&self, timestamp: Timestamp) -> Result<Option<(u64, Timestamp)>, ReadError> {
        let mut from = self.skip_to(timestamp);
        loop {
            let entries = self.read_blocking(from, 1 << 20)?;
            let Some(last) = entries.last() else { return Ok(None) };
            from = last.offset + u64::from(last.span);
            let start = self.start();
            let hit =
                entries.iter().find(|e| e.timestamp >= timestamp && e.offset + u64::from(e.span) > start);
            if let Some(hit) = hit {
                return Ok(Some((hit.offset, hit.timestamp)));
            }
        }
    }

    /// An offset before which everything is older.
    fn skip_to(&self, timestamp: Timestamp) -> u64 {
        let index = self.index.read();
        let run = index.runs.iter().find(|r| r.max_timestamp >= timestamp.0);
        if let Some(run) = run {
            return run.first.max(self.start());
        }
        let chunk = index.chunks.iter().find(|c| c.timestamp >= timestamp.0);
        chunk.map_or(self.end(), |c| c.offset).max(self.start())
    }

    fn place(&self, from: u64, until: u64) -> Place {
        let from = from.max(self.start());
        let end = self.end();
        if from >= end.min(until) {
            return Place::End;
        }
        let index = self.index.read();
        let run = index.runs.partition_point(|r| r.end <= from);
        if let Some(run) = index.runs.get(run) {
            return Place::Segment(*run);
        }
        let first = index.chunks.partition_point(|c| c.offset <= from).saturating_sub(1);
        let mut found = Vec::new();
        for (at, chunk) in index.chunks.iter().enumerate().skip(first) {
            let skip = match at == first {
                true => {
                    let from = u32::try_from(from.saturating_sub(chunk.offset)).unwrap_or(u32::MAX);
                    chunk.entries.partition_point(|(offset, _)| *offset <= from).saturating_sub(1)
                }
                false => 0,
            };
            for (offset, lsn) in chunk.entries.iter().skip(skip) {
                let offset = chunk.offset + u64::from(*offset);
                if offset >= end || found.len() == LOOKED_UP_MAX {
                    break;
                }
                found.push((offset, Lsn(chunk.lsn + u64::from(*lsn) * LSN_UNIT)));
                if offset >= until {
                    break;
                }
            }
            if found.len() == LOOKED_UP_MAX || found.last().is_some_and(|(offset, _)| *offset >= until) {
                break;
            }
        }
        if found.is_empty() { Place::End } else { Place::Journal(found) }
    }

    fn read_journal(
        &self,
        mut records: Records<'_>,
        places: Vec<(u64, Lsn)>,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Option<Vec<LogEntry>>, Fault> {
        let mut entries = Vec::new();
        let (mut bytes, mut last) = (0, 0);
        let mut following = places.iter().map(|(offset, _)| *offset).skip(1).collect::<Vec<_>>().into_iter();
        for (offset, lsn) in places.into_iter().filter(|(offset, _)| *offset < range.end) {
            let next = following.next();
            // An entry like the last one has no room any more: reading it would be in vain.
            if !entries.is_empty() && bytes + last > max_bytes {
                break;
            }
            let read = match records.read(lsn) {
                Ok(Some(read)) => read,
                // What has been found is an answer; the rest is for the next read.
                Ok(None) if !entries.is_empty() => break,
                Ok(None) => return Ok(None),
                Err(_) if !entries.is_empty() => break,
                Err(journal::ReadError::Io(error)) => return Err(Fault::Io(error.to_string())),
                // The index knows that it is there.
                Err(_) => return Err(Fault::Unreadable { offset, next: next.unwrap_or_else(|| self.end()) }),
            };
            let Some(entry) = entry_of(&read.0, read.1) else {
                return Err(Fault::Unreadable { offset, next: next.unwrap_or_else(|| self.end()) });
            };
            if entry.offset + u64::from(entry.span) <= range.start {
                continue;
            }
            let size = entry.payload.body.len() + entry.payload.head.len();
            if !entries.is_empty() && bytes + size > max_bytes {
                break;
            }
            (bytes, last) = (bytes + size, size);
            entries.push(entry);
        }
        Ok(Some(entries))
    }

    /// Records where an entry is. Entries come in order.
    pub(crate) fn add(&self, offset: u64, timestamp: i64, lsn: Lsn, bytes: u64) {
        let mut index = self.index.write();
        if index.chunks.back_mut().is_some_and(|chunk| chunk.push(offset, timestamp, lsn, bytes)) {
            return;
        }
        let mut chunk = Chunk { offset, lsn: lsn.0, entries: Vec::new(), timestamp, bytes: 0 };
        chunk.push(offset, timestamp, lsn, bytes);
        index.chunks.push_back(chunk);
    }

    /// What is below `end` may be read now.
    pub(crate) fn extend(&self, end: u64) {
        self.end.fetch_max(end, Ordering::AcqRel);
    }

    pub(crate) fn wake(&self) {
        let watchers = self.watchers.lock();
        watchers.iter().filter_map(Weak::upgrade).for_each(|w| w.notify_one());
    }

    /// What is below `start` is gone.
    pub(crate) fn trim(&self, start: u64) {
        if self.start.fetch_max(start, Ordering::AcqRel) >= start {
            return;
        }
        self.end.fetch_max(start, Ordering::AcqRel);
        let mut index = self.index.write();
        while index.runs.front().is_some_and(|run| run.end <= start) {
            index.runs.pop_front();
        }
        while index.chunks.get(1).is_some_and(|next| next.offset <= start) {
            index.chunks.pop_front();
        }
        // The last chunk is all below when nothing follows it.
        if index.chunks.len() == 1 && self.end() <= start {
            index.chunks.clear();
        }
    }

    /// Every entry that lies in the journal below `below`, for moving into a segment.
    pub(crate) fn in_journal(&self, below: Lsn) -> Vec<(u64, Lsn)> {
        let index = self.index.read();
        let mut found = Vec::new();
        for chunk in &index.chunks {
            for (offset, lsn) in &chunk.entries {
                let lsn = Lsn(chunk.lsn + u64::from(*lsn) * LSN_UNIT);
                if lsn >= below {
                    return found;
                }
                found.push((chunk.offset + u64::from(*offset), lsn));
            }
        }
        found
    }

    /// The entries below `below` are in these segments now.
    pub(crate) fn moved(&self, runs: impl IntoIterator<Item = Run>, below: Lsn) {
        let mut index = self.index.write();
        index.runs.extend(runs);
        while let Some(chunk) = index.chunks.front_mut() {
            let keep =
                chunk.entries.partition_point(|(_, lsn)| chunk.lsn + u64::from(*lsn) * LSN_UNIT < below.0);
            if keep < chunk.entries.len() {
                let share = chunk.bytes * keep as u64 / chunk.entries.len() as u64;
                chunk.bytes -= share;
                chunk.entries.drain(..keep);
                break;
            }
            index.chunks.pop_front();
        }
    }

    /// The entries of some runs are in others now.
    pub(crate) fn replaced(&self, old: &[Run], new: Vec<Run>) {
        let mut index = self.index.write();
        index.runs.retain(|run| !old.contains(run));
        index.runs.extend(new);
        index.runs.make_contiguous().sort_by_key(|run| run.first);
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.index.read().runs.iter().copied().collect()
    }

    /// The start offset at which retention by age and size would have it begin.
    pub(crate) fn retention_start(&self, oldest: Option<Timestamp>, max_bytes: Option<u64>) -> u64 {
        let index = self.index.read();
        let parts: Vec<(u64, i64, u64)> = index
            .runs
            .iter()
            .map(|r| (r.end, r.max_timestamp, r.bytes))
            .chain(index.chunks.iter().enumerate().map(|(at, c)| {
                let end = index.chunks.get(at + 1).map_or(self.end(), |next| next.offset);
                (end, c.timestamp, c.bytes)
            }))
            .collect();
        let mut total: u64 = parts.iter().map(|(_, _, bytes)| bytes).sum();
        let mut start = self.start();
        for (end, timestamp, bytes) in parts {
            let too_old = oldest.is_some_and(|oldest| timestamp < oldest.0);
            let too_many = max_bytes.is_some_and(|max| total - bytes >= max);
            if !(too_old || too_many) {
                break;
            }
            total -= bytes;
            start = end;
        }
        start
    }
}

impl Chunk {
    /// False when the entry does not fit here.
    fn push(&mut self, offset: u64, timestamp: i64, lsn: Lsn, bytes: u64) -> bool {
        let distance =
            |a: u64, b: u64, unit: u64| a.checked_sub(b).and_then(|d| u32::try_from(d / unit).ok());
        let (Some(offset), Some(lsn)) =
            (distance(offset, self.offset, 1), distance(lsn.0, self.lsn, LSN_UNIT))
        else {
            return false;
        };
        if self.entries.len() == ENTRIES_PER_CHUNK {
            return false;
        }
        self.entries.push((offset, lsn));
        self.timestamp = self.timestamp.max(timestamp);
        self.bytes += bytes;
        true
    }
}

fn entry_of(head: &[u8], body: bytes::Bytes) -> Option<LogEntry> {
    let (mut event, _) = record::decode(head).ok()?;
    event.set_body(body);
    match event {
        Event::Appended { offset, span, timestamp, envelope, payload, .. } => {
            Some(LogEntry { offset, span, timestamp, envelope, payload })
        }
        Event::Enqueued { offset, envelope, payload, .. } => {
            let timestamp = envelope.received;
            Some(LogEntry { offset, span: 1, timestamp, envelope: Some(envelope), payload })
        }
        _ => None,
    }
}
