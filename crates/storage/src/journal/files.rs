//! What the handles, the writer and the thread that tends the files share: inbox, file table, spare files.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::buffer::Buffer;
use crate::disk::LARGE_READ_BYTES;

use super::format::{FILE_HEADER_BYTES, RECORD_HEADER_BYTES, RecordHeader};
use super::note::{Note, NoteKeeper};
use super::ring::Ring;
use super::span::{self, RecentSpans, Span};
use super::{
    Batch, Blocks, CloseError, CommitStats, FileExtent, HomeFile, JournalConfig, JournalHome, Lsn, ReadError,
    Stored,
};

/// How often free space is looked at, and files that a reader held are tried again.
const TEND_INTERVAL: Duration = Duration::from_secs(1);
/// While a file is made ready that is not needed soon: how many times as long as writing a part of it the
/// disk is left to others, and how long at most.
const RESTS_PER_PART: u32 = 4;
const REST_MAX: Duration = Duration::from_millis(20);
/// Spare files that stay although none has been taken for a while, or disk space is short.
const FEW_SPARES: usize = 2;
/// With less free space than this many files take, spare files are given up.
const SHORT_OF_SPACE_FILES: u64 = 32;

/// What can be had of a disk that does not tell, until it refuses.
const UNKNOWN_SPACE_BYTES: u64 = 64 << 20;

/// What was read back lately is kept, too, in this part of the memory for what was written lately.
const SPANS_OF_RING: usize = 8;

/// A file in use.
pub(super) struct JournalFile {
    pub number: u64,
    pub file: Arc<dyn HomeFile>,
    pub nonce: u64,
    /// LSN of its first byte.
    pub start: u64,
    /// LSN behind its last frame.
    pub end: AtomicU64,
    /// Its bytes are evidence: it is never used again nor removed.
    pub damaged: AtomicBool,
}

impl JournalFile {
    pub fn bytes(&self) -> u64 {
        self.file.bytes()
    }
}

/// A file that holds nothing needed.
pub(super) struct SpareFile {
    pub number: u64,
    pub file: Arc<dyn HomeFile>,
}

impl Spares {
    /// The one to take for `bytes`, and whether its blocks are written.
    pub fn best(&self, bytes: u64) -> Option<(usize, bool)> {
        let enough = self.ready.iter().enumerate().filter(|(_, spare)| spare.file.bytes() >= bytes);
        let ranked = enough.map(|(index, spare)| (index, !spare.file.is_reserved()));
        ranked.max_by_key(|(index, written)| (*written, std::cmp::Reverse(*index)))
    }
}

pub(super) struct Shared {
    pub home: Arc<dyn JournalHome>,
    pub config: JournalConfig,
    pub ring: RwLock<Ring>,
    recent_spans: RecentSpans,
    pub durable: AtomicU64,
    pub end: AtomicU64,
    pub stats: Mutex<CommitStats>,
    pub note: NoteKeeper,
    /// Sorted by start; the last one is being written.
    pub files: RwLock<Vec<Arc<JournalFile>>>,
    pub inbox: Mutex<Inbox>,
    pub arrived: Condvar,
    pub spares: Mutex<Spares>,
    pub spares_changed: Condvar,
    /// Start of the newest file known to be durable, which is never released, where files become durable out
    /// of order; else no limit.
    pub newest_durable: AtomicU64,
    /// Whether frames have been so large lately that new files need no more than [`Blocks::Reserved`].
    pub large_frames: AtomicBool,
    /// Something was written, or synced, for which there is no space: see [`super::full`].
    pub stalled: AtomicBool,
    released: AtomicU64,
    queued_bytes: AtomicU64,
    /// Bytes that new files could take.
    pub obtainable: AtomicU64,
    /// Bytes that can be written at all, where files that were made ahead reserve nothing; else no limit.
    writable: AtomicU64,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub batches: VecDeque<Batch>,
    pub writer_waits: bool,
    pub life: Life,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    #[default]
    Open,
    /// What is in the inbox is still written.
    Closing,
    Closed,
    /// Closed with batches left that found no space.
    ClosedFull,
    Abandoned,
    Failed,
}

pub(super) struct Spares {
    pub ready: Vec<SpareFile>,
    /// Blank files found at start; they are synced before they are used.
    pub found: Vec<SpareFile>,
    /// Released, perhaps still held by a reader.
    pub retiring: Vec<Arc<JournalFile>>,
    /// Size of file that the writer waits for.
    pub wanted_bytes: Option<u64>,
    pub next_number: u64,
    /// Spare files that the writer took so far.
    pub taken: u64,
    pub no_space: bool,
    /// Why a file could not be created, other than for lack of space.
    pub error: Option<String>,
    stopped: bool,
}

impl Inbox {
    /// Takes batches of up to `limit` bytes, at least one if there is one.
    pub fn take(&mut self, limit: u64) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.batches.front() {
            if !batches.is_empty() && bytes + next.bytes() > limit {
                break;
            }
            bytes += next.bytes();
            batches.extend(self.batches.pop_front());
        }
        batches
    }
}

impl Shared {
    pub fn new(
        home: Arc<dyn JournalHome>,
        config: JournalConfig,
        files: Vec<Arc<JournalFile>>,
        found: Vec<SpareFile>,
        next_number: u64,
    ) -> Shared {
        let spares = Spares {
            ready: Vec::new(),
            found,
            retiring: Vec::new(),
            wanted_bytes: None,
            next_number,
            taken: 0,
            no_space: false,
            error: None,
            stopped: false,
        };
        let shared = Shared {
            ring: RwLock::new(Ring::new(config.ring_bytes)),
            recent_spans: RecentSpans::new(config.ring_bytes / SPANS_OF_RING),
            home,
            config,
            durable: AtomicU64::new(0),
            end: AtomicU64::new(0),
            stats: Mutex::default(),
            note: NoteKeeper::new(Note::default()),
            files: RwLock::new(files),
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            spares: Mutex::new(spares),
            spares_changed: Condvar::new(),
            newest_durable: AtomicU64::new(u64::MAX),
            large_frames: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            released: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            obtainable: AtomicU64::new(0),
            writable: AtomicU64::new(u64::MAX),
        };
        shared.look_at_free_space();
        shared
    }

    pub fn submit(&self, batch: Batch) {
        let mut inbox = self.inbox.lock();
        if inbox.life != Life::Open {
            return;
        }
        self.queued_bytes.fetch_add(batch.bytes(), Ordering::Relaxed);
        inbox.batches.push_back(batch);
        if inbox.writer_waits {
            inbox.writer_waits = false;
            drop(inbox);
            self.arrived.notify_one();
        }
    }

    pub fn has_failed(&self) -> bool {
        self.inbox.lock().life == Life::Failed
    }

    /// Whether nothing is written any more.
    pub fn has_ended(&self) -> bool {
        !matches!(self.inbox.lock().life, Life::Open | Life::Closing)
    }

    pub fn begin_close(&self) {
        self.turn(Life::Closing);
    }

    pub fn abandon(&self) {
        self.turn(Life::Abandoned);
    }

    /// Ends the life as `life` says, unless it has ended already.
    pub fn turn(&self, life: Life) {
        let mut inbox = self.inbox.lock();
        if matches!(inbox.life, Life::Open | Life::Closing) {
            inbox.life = life;
        }
        if life != Life::Closing {
            inbox.batches.clear();
        }
        drop(inbox);
        self.arrived.notify_all();
        let _spares = self.spares.lock();
        self.spares_changed.notify_all();
    }

    pub fn close_outcome(&self) -> Result<(), CloseError> {
        match self.inbox.lock().life {
            Life::Closed => Ok(()),
            Life::ClosedFull => Err(CloseError::NoSpace),
            _ => Err(CloseError::Stopped),
        }
    }

    pub fn taken(&self, bytes: u64) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn oldest(&self) -> Lsn {
        let first = self.files.read().first().map_or(0, |file| file.start);
        Lsn(first.max(self.released.load(Ordering::Relaxed)))
    }

    /// Files that hold something from there on.
    pub fn count_from(&self, from: Lsn) -> usize {
        let files = self.files.read();
        files.len() - files.partition_point(|file| file.end.load(Ordering::Acquire) <= from.0)
    }

    /// Files that lie wholly below `below`, but for the one that is being written, where they can be kept.
    pub fn extents_below(&self, below: Lsn) -> Vec<FileExtent> {
        // What is not made ahead is an object, of which each holds little and costs every start a request.
        if !self.home.makes_files_ahead() {
            return Vec::new();
        }
        let files = self.files.read();
        let extent = |file: &Arc<JournalFile>| FileExtent {
            start: Lsn(file.start),
            end: Lsn(file.end.load(Ordering::Acquire)),
            bytes: file.bytes(),
        };
        let others = files.split_last().map_or(&[][..], |(_, others)| others);
        others.iter().map(extent).take_while(|file| file.end <= below).collect()
    }

    /// Takes files out of the table, from where no reader can find them any more.
    pub fn release(&self, below: Lsn, kept: &BTreeSet<Lsn>) {
        self.released.fetch_max(below.0, Ordering::Relaxed);
        let mut files = self.files.write();
        let keep_from = files.len().saturating_sub(1);
        let newest = self.newest_durable.load(Ordering::Acquire);
        let is_below =
            |file: &Arc<JournalFile>| file.end.load(Ordering::Acquire) <= below.0 && file.start < newest;
        let count = files[..keep_from].iter().take_while(|file| is_below(file)).count();
        let (staying, retiring): (Vec<_>, Vec<_>) =
            files.drain(..count).partition(|file| kept.contains(&Lsn(file.start)));
        files.splice(..0, staying);
        drop(files);
        if !retiring.is_empty() {
            self.spares.lock().retiring.extend(retiring);
            self.spares_changed.notify_all();
        }
    }

    pub fn room(&self, enough: u64) -> u64 {
        if self.stalled.load(Ordering::Relaxed) {
            return 0;
        }
        let current = match self.files.read().last() {
            Some(file) => (file.start + file.bytes()).saturating_sub(self.end.load(Ordering::Acquire)),
            None => 0,
        };
        let spares = self.spares.lock();
        let ready: u64 = spares.ready.iter().map(|spare| spare.file.bytes() - FILE_HEADER_BYTES).sum();
        let no_space = spares.no_space;
        drop(spares);
        let waiting = self.queued_bytes.load(Ordering::Relaxed);
        let writable = self.writable.load(Ordering::Relaxed);
        let prepared = current.saturating_add(ready).min(writable);
        // Free space may be gone faster than it is looked at.
        if self.config.drive == super::Drive::Steps || prepared < waiting.saturating_add(enough) {
            self.look_at_free_space();
        }
        let obtainable = if no_space { 0 } else { self.obtainable.load(Ordering::Relaxed) };
        let writable = self.writable.load(Ordering::Relaxed);
        current.saturating_add(ready).saturating_add(obtainable).min(writable).saturating_sub(waiting)
    }

    /// Reads a record from the file that holds it, and what lies behind it into `span`, if it is not there
    /// yet.
    pub fn read_file(&self, lsn: Lsn, span: &mut Span) -> Result<Stored, ReadError> {
        if let Some(stored) = span.record(lsn).or_else(|| self.recent_spans.record(lsn, span)) {
            return Ok(stored);
        }
        let Some(file) = self.file_of(lsn) else {
            return Err(if lsn < self.oldest() { ReadError::Released(lsn) } else { ReadError::Absent(lsn) });
        };
        let left = file.end.load(Ordering::Acquire).saturating_sub(lsn.0);
        let position = lsn.0 - file.start;
        if left < RECORD_HEADER_BYTES as u64 || position < FILE_HEADER_BYTES {
            return Err(ReadError::Absent(lsn));
        }
        let wanted = span.length_at(lsn).min(usize::try_from(left).unwrap_or(usize::MAX));
        let (before, length) = span::extent(position, wanted);
        let from = position - before as u64;
        let mut bytes = Buffer::new(length);
        let damaged = || {
            self.suspect(&file);
            ReadError::Damaged { lsn, file: file.number }
        };
        // A file that was cut short still has what lies before the cut.
        let length = file.file.read_at(from, &mut bytes)?;
        let header = bytes.get(before..length).and_then(RecordHeader::decode).ok_or_else(damaged)?;
        // The length is not verified yet: it may ask for no more than the file holds.
        let content = header.content_bytes();
        let is_placed = header.lsn == lsn.0 && header.nonce == file.nonce;
        if !is_placed || content > left || !header.lengths_are_sound() {
            return Err(damaged());
        }
        let needed = before + content as usize;
        if needed > length {
            let mut whole = Buffer::new(needed);
            whole[..length].copy_from_slice(&bytes[..length]);
            if file.file.read_at(from + length as u64, &mut whole[length..])? < needed - length {
                return Err(damaged());
            }
            bytes = whole;
        }
        let length = length.max(needed);
        span.fill(lsn, before, file.nonce, bytes.freeze().slice(..length));
        let stored = span.record(lsn).ok_or_else(damaged)?;
        self.recent_spans.add(span);
        Ok(stored)
    }

    /// As [`Shared::read_file`], only what a reader has read already.
    pub fn read_recent(&self, lsn: Lsn, span: &mut Span) -> Option<Stored> {
        span.record(lsn).or_else(|| self.recent_spans.record_now(lsn, span))
    }

    /// Where to go on reading ahead of a reader that has come to this span, if anywhere.
    pub fn follow(&self, span: &mut Span) -> Option<Lsn> {
        self.recent_spans.follow(span)
    }

    /// Reads what a reader is expected to want next.
    pub fn read_ahead(&self, from: Lsn) {
        let (_arrival, length) = self.recent_spans.arrival(from);
        if let Some(span) = self.span_from(from, length) {
            self.recent_spans.add(&span);
        }
    }

    /// None at the end of what was written, or where it cannot be read: that is for its reader to find.
    fn span_from(&self, from: Lsn, most: usize) -> Option<Span> {
        let file = self.file_of(from)?;
        let left = file.end.load(Ordering::Acquire).saturating_sub(from.0);
        let position = from.0 - file.start;
        let (before, length) = span::extent(position, usize::try_from(left).ok()?.min(most));
        // What is shorter is likely to be in memory.
        if length < LARGE_READ_BYTES {
            return None;
        }
        let mut bytes = Buffer::new(length);
        let read = file.file.read_at(position - before as u64, &mut bytes).ok()?;
        (read == length).then(|| Span::ahead(Lsn(from.0 - before as u64), file.nonce, bytes.freeze()))
    }

    /// The file is set aside instead of being used again, also if another start comes before that.
    fn suspect(&self, file: &JournalFile) {
        if !file.damaged.swap(true, Ordering::Relaxed)
            && let Err(error) = self.home.suspect(file.number)
        {
            tracing::warn!(%error, file = file.number, "a damaged journal file cannot be marked as such");
        }
    }

    /// The work of the thread that keeps the note of the durable position.
    pub fn keep_note_until_stopped(&self) {
        self.note.keep_until_stopped(&*self.home);
    }

    fn file_of(&self, lsn: Lsn) -> Option<Arc<JournalFile>> {
        let files = self.files.read();
        let behind = files.partition_point(|file| file.start <= lsn.0);
        files.get(behind.checked_sub(1)?).cloned()
    }

    /// The work of the thread that keeps the next file ready, and removes what was released.
    pub fn tend_files_until_stopped(&self) {
        let mut taken = 0;
        loop {
            self.tend(|took| self.rest_between_parts(took));
            let mut spares = self.spares.lock();
            if spares.stopped {
                return;
            }
            let wanted = spares.wanted_bytes.unwrap_or(0);
            let waited_for = wanted > 0 && !spares.ready.iter().any(|spare| spare.file.bytes() >= wanted);
            if waited_for && !spares.no_space && spares.error.is_none() {
                continue;
            }
            let quiet = self.spares_changed.wait_for(&mut spares, TEND_INTERVAL).timed_out();
            if spares.stopped {
                return;
            }
            // A burst needed them; when it is over, their space is given back, one by one.
            if quiet && spares.taken == taken && spares.ready.len() > FEW_SPARES {
                let Some(unneeded) = spares.ready.pop() else { continue };
                drop(spares);
                // If that fails, the next start finds it and tries again.
                let _ = self.home.remove(unneeded.number);
            } else {
                taken = spares.taken;
            }
        }
    }

    pub fn stop_tending(&self) {
        self.spares.lock().stopped = true;
        self.spares_changed.notify_all();
        self.note.stop();
    }

    /// Reuses or removes released files, and prepares one if none is ready.
    pub fn tend_files(&self) {
        self.tend(|_| true);
    }

    /// `rest` is called between the parts of what takes long, with the time that the last part took.
    fn tend(&self, rest: impl Fn(Duration) -> bool) {
        self.look_at_free_space();
        self.retire();
        self.adopt_found();
        self.prepare(rest);
    }

    /// Leaves the disk to whoever syncs, most of the time, unless the next file is needed soon; returns
    /// whether it is.
    fn rest_between_parts(&self, took: Duration) -> bool {
        let soon = self.files.read().last().is_none_or(|file| {
            let filled = self.end.load(Ordering::Acquire).saturating_sub(file.start);
            filled > file.bytes() / 2
        });
        let mut spares = self.spares.lock();
        if soon || spares.stopped || spares.wanted_bytes.is_some() {
            return true;
        }
        self.spares_changed.wait_for(&mut spares, (took * RESTS_PER_PART).min(REST_MAX));
        false
    }

    fn look_at_free_space(&self) {
        let file = self.config.file_bytes;
        let free = self.home.free_bytes();
        let obtainable = match free {
            // Whole files only: a part of one cannot be had.
            Some(free) => free.saturating_sub(self.config.reserve_bytes) / file * file,
            None => file.max(UNKNOWN_SPACE_BYTES),
        };
        self.obtainable.store(obtainable, Ordering::Relaxed);
        let limit = free.filter(|_| !self.home.reserves_space());
        let writable = limit.map_or(u64::MAX, |free| free.saturating_sub(self.config.reserve_bytes));
        self.writable.store(writable, Ordering::Relaxed);
    }

    fn retire(&self) {
        let short = self.config.file_bytes.saturating_mul(SHORT_OF_SPACE_FILES);
        let few = self.home.free_bytes().is_some_and(|free| free < short);
        let most = if few { self.config.spare_files.min(FEW_SPARES) } else { self.config.spare_files };
        let mut spares = self.spares.lock();
        let mut unneeded = Vec::new();
        let mut held = Vec::new();
        for file in std::mem::take(&mut spares.retiring) {
            // It has left the table, so that the number of holders only falls.
            if Arc::strong_count(&file) > 1 {
                held.push(file);
            } else if file.damaged.load(Ordering::Relaxed)
                || file.bytes() != self.config.file_bytes
                || spares.ready.len() >= most
            {
                unneeded.push(file);
            } else {
                spares.ready.push(SpareFile { number: file.number, file: file.file.clone() });
                self.spares_changed.notify_all();
            }
        }
        spares.retiring = held;
        drop(spares);
        for file in unneeded {
            // A file that cannot be removed now is found again, and released again, after the next start.
            let _ = match file.damaged.load(Ordering::Relaxed) {
                true => self.home.set_aside(file.number),
                false => self.home.remove(file.number),
            };
        }
    }

    fn adopt_found(&self) {
        let found = std::mem::take(&mut self.spares.lock().found);
        for spare in found {
            let keep = spare.file.bytes() == self.config.file_bytes && spare.file.sync().is_ok();
            if keep {
                self.spares.lock().ready.push(spare);
                self.spares_changed.notify_all();
            } else {
                let _ = self.home.remove(spare.number);
            }
        }
    }

    fn prepare(&self, rest: impl Fn(Duration) -> bool) {
        if !self.home.makes_files_ahead() {
            return;
        }
        let mut spares = self.spares.lock();
        let bytes = spares.wanted_bytes.unwrap_or(0).max(self.config.file_bytes);
        let large = self.large_frames.load(Ordering::Relaxed);
        let suits = |spare: &SpareFile| spare.file.bytes() >= bytes && (large || !spare.file.is_reserved());
        if spares.stopped || spares.ready.iter().any(suits) {
            spares.no_space = false;
            return;
        }
        let short = |free: u64| free < bytes.saturating_add(self.config.reserve_bytes);
        if self.home.free_bytes().is_some_and(short) {
            spares.no_space = true;
            return;
        }
        let number = spares.next_number;
        spares.next_number += 1;
        drop(spares);
        let mut part = Instant::now();
        let mut between_parts = || {
            let soon = rest(part.elapsed());
            part = Instant::now();
            soon
        };
        let blocks = if large { Blocks::Reserved } else { Blocks::Written(&mut between_parts) };
        let created = self.home.create(number, bytes, blocks);
        let mut spares = self.spares.lock();
        spares.no_space = false;
        match created {
            Ok(file) => spares.ready.push(SpareFile { number, file }),
            Err(error) if is_no_space(&error) => spares.no_space = true,
            Err(error) => spares.error = Some(format!("cannot create a journal file: {error}")),
        }
        drop(spares);
        self.spares_changed.notify_all();
    }
}

pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
