//! Logs as their readers see them: what is durable, and where it is. One per partition and per lane of a
//! queue.

mod chunk;
mod index;
mod segments;

use crate::{
    ahead::{self, ReadAhead},
    damage::{Damage, DamageKind, Damages},
    environment::Work,
    kept::Kept,
    record::{self, Records},
};
pub(crate) use chunk::Chunk;
use index::{Index, LOOKED_UP_MAX};
use parking_lot::{Mutex, RwLock};
use posthaste_engine::Event;
use posthaste_model::{Envelope, Payload, Timestamp};
use posthaste_storage::{
    journal::{self, Journal, Lsn},
    segment::{Run, Segments},
};
use std::{
    collections::HashMap,
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

/// Where to read from next.
enum Place {
    End,
    /// With one more than is wanted, if there is one, so that it is known where the last one ends. What
    /// follows the last one begins at `behind`, or earlier in the journal.
    Journal {
        entries: Vec<(u64, Lsn)>,
        /// Bytes of one of them, about.
        each: usize,
        behind: u64,
    },
    Segment(Run),
}

/// A new entry in the journal.
pub(crate) struct JournalEntry {
    pub offset: u64,
    /// The latest of its messages.
    pub timestamp: i64,
    pub lsn: Lsn,
    pub bytes: u64,
}

/// An entry in the journal that may be moved.
pub(crate) struct Located {
    pub offset: u64,
    /// What follows it begins there; [`u64::MAX`] if nothing is known to follow.
    pub until: u64,
    pub lsn: Lsn,
    /// About as many bytes.
    pub bytes: u64,
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
        self.index.read().bytes()
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
            Place::Journal { entries, behind, .. } => {
                let records = Records::Known(storage.journal.reader());
                let read = self.read_journal(records, entries, behind, from..until, max_bytes).ok().flatten();
                // What lies in the journal may end before `from`, and more follow in a segment.
                read.filter(|read| !read.is_empty() || behind >= until.min(self.end()))
            }
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
                Place::Journal { entries, each, behind } => {
                    let mut reader = storage.journal.reader();
                    let places =
                        entries.iter().take_while(|(offset, _)| *offset < until).map(|(_, lsn)| *lsn);
                    if let (Some(first), Some(last)) = (places.clone().next(), places.clone().last()) {
                        reader.expect(first, last, places.count(), each, max_bytes);
                    }
                    let records = Records::Stored(reader);
                    match self.read_journal(records, entries, behind, from..until, max_bytes) {
                        Ok(Some(read)) if read.is_empty() && behind < until.min(self.end()) => {
                            Fault::Lost(behind)
                        }
                        Ok(read) => return Ok(read.unwrap_or_default()),
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
        self.index.read().skip_to(timestamp).unwrap_or_else(|| self.end()).max(self.start())
    }

    fn place(&self, from: u64, until: u64) -> Place {
        // Before the index, which may lose what is below a start that is set after this.
        let (from, end) = (from.max(self.start()), self.end());
        self.index.read().place(from, until, end)
    }

    fn read_journal(
        &self,
        mut records: Records<'_>,
        places: Vec<(u64, Lsn)>,
        behind: u64,
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
                Err(_) => return Err(Fault::Unreadable { offset, next: next.unwrap_or(behind) }),
            };
            let Some(entry) = entry_of(&read.0, read.1) else {
                return Err(Fault::Unreadable { offset, next: next.unwrap_or(behind) });
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

    /// Records where entries are, in order. Offsets that are given out again are those of what comes last.
    pub(crate) fn add(&self, entries: impl IntoIterator<Item = JournalEntry>) {
        let mut index = self.index.write();
        entries.into_iter().for_each(|entry| index.add(&entry));
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
        let end = self.end();
        self.index.write().trim(start, end);
    }

    /// Every entry that lies in the journal below `below`, in order. Between them others may use the index.
    pub(crate) fn in_journal(&self, below: Lsn) -> impl Iterator<Item = Located> + '_ {
        let mut from = Some(0);
        let parts = std::iter::from_fn(move || {
            let (found, next) = self.index.read().in_journal(from?, below);
            from = next;
            Some(found)
        });
        parts.flatten()
    }

    /// The entries below `below` are in these segments now, but for those that are kept.
    pub(crate) fn moved(&self, runs: impl IntoIterator<Item = Run>, below: Lsn, kept: &Kept) {
        self.index.write().moved(runs, below, kept);
    }

    /// The places of what lies in the journal below `below`, and is therefore kept.
    pub(crate) fn kept(&self, below: Lsn) -> Vec<Chunk> {
        self.index.read().kept(below)
    }

    /// Begins with what a checkpoint tells.
    pub(crate) fn restore(&self, runs: &[Run], chunks: &[Chunk]) {
        self.index.write().restore(runs, chunks);
    }

    /// The entries of some runs are in others now.
    pub(crate) fn replaced(&self, old: &[Run], new: Vec<Run>) {
        self.index.write().replaced(old, new);
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.index.read().runs().copied().collect()
    }

    /// The start offset at which retention by age and size would have it begin.
    pub(crate) fn retention_start(&self, oldest: Option<Timestamp>, max_bytes: Option<u64>) -> u64 {
        let parts = self.index.read().parts(self.end());
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
