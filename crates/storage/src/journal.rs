//! The journal: where events and bodies become durable, in the order in which they were submitted.
//!
//! Engine threads build a [`Batch`] each and submit it. One writer takes what has arrived, gives the
//! records their LSNs, writes them as one frame, syncs if anything in it asks for that, completes the
//! batches and goes on. Files are zero-filled ahead of their use and used again once nothing below
//! [`Journal::release`] is needed.
//!
//! Recovery tells an unsynced tail from damage: every frame names the LSN that was durable when it was
//! written. What cannot be read above the highest of these is cut off, what cannot be read below it is
//! reported and stepped over.

mod batch;
mod closed;
mod damage;
mod files;
pub mod format;
mod full;
mod home;
mod note;
mod object;
mod place;
mod recovery;
mod renew;
mod ring;
mod scan;
mod span;
mod staging;
mod stats;
#[cfg(test)]
mod tests;
mod warm;
mod writer;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use batch::{Batch, INLINE_BODY_BYTES};
pub use closed::ClosedFiles;
pub use damage::{Amount, Damage, DamageKind};
pub use home::{Blocks, DiskHome, HomeFile, JournalHome};
pub use place::{Inspected, JournalPlace, Scope};
pub use recovery::RecoveryReport;
pub use stats::CommitStats;

pub(crate) use recovery::scan_bytes;

use crate::disk::Disk;
use crate::object::{ObjectDisk, Ownership};
use files::Shared;
use writer::{Step, Writer};

/// A logical byte position in the journal: strictly increasing, never reused, kept across recycling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Sizes and habits of a journal. All sizes are bytes.
pub struct JournalConfig {
    /// Size of a file, but for the first one of a start and for frames that are larger. At least 16 KiB.
    pub file_bytes: u64,
    /// Size of the file that a start begins with, at most `file_bytes`: small, so that an idle start is
    /// quick.
    pub first_file_bytes: u64,
    /// Memory for recently written frames.
    pub ring_bytes: usize,
    /// Disk space that the journal leaves free for checkpoints and segments.
    pub reserve_bytes: u64,
    /// A frame takes batches up to this size; a single larger batch still makes one frame.
    pub frame_bytes: u64,
    /// Released files kept for reuse while there is need and space for them; more are removed. A file that is
    /// used again costs one write less than a new one, which is filled with zeros unless frames are large.
    pub spare_files: usize,
    /// What was written without [`Batch::require_sync`] is synced after at most this long.
    pub lazy_sync: Duration,
    /// Seed of the files' nonces; give each journal another one.
    pub nonce_seed: u64,
    /// Who does the work.
    pub drive: Drive,
    /// Told why, once, when a write or sync has failed. Nothing is acknowledged afterwards. `None` prints
    /// the reason to standard error and aborts the process.
    pub fatal: Option<Box<dyn FnOnce(String) + Send + Sync>>,
}

impl Default for JournalConfig {
    fn default() -> JournalConfig {
        JournalConfig {
            file_bytes: 64 << 20,
            first_file_bytes: 1 << 20,
            ring_bytes: 32 << 20,
            reserve_bytes: 64 << 20,
            frame_bytes: 4 << 20,
            spare_files: 32,
            lazy_sync: Duration::from_millis(500),
            nonce_seed: 0,
            drive: Drive::Threads,
            fatal: None,
        }
    }
}

/// Who writes, syncs and prepares files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// Threads of the journal's own.
    Threads,
    /// The caller, through [`Journal::step`]: no threads and no clock, for deterministic simulation.
    Steps,
}

/// The fate of a submitted batch. A batch that did not require a sync completes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As given to [`Batch::new`].
    pub source: u16,
    /// As given to [`Batch::new`].
    pub number: u64,
    /// LSN of the batch's first record.
    pub base: Lsn,
    /// Whether it would survive a power cut; otherwise it would survive the end of the process.
    pub synced: bool,
}

/// A record handed to replay.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// As given to [`Batch::push`].
    pub shard: u16,
    /// Whether the next record of the batch belongs to it.
    pub joined: bool,
    /// The encoded event.
    pub head: &'a [u8],
    /// The payload.
    pub body: &'a [u8],
}

/// A journal file's place and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// LSN of its first byte.
    pub start: Lsn,
    /// LSN behind its last frame.
    pub end: Lsn,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
}

/// Reads records; those that follow one another with few reads of the disk.
pub struct Reader<'a> {
    journal: &'a Journal,
    span: span::Span,
}

impl Reader<'_> {
    /// This many records from `first` to `last` are about to be read, of about `each` bytes, and no more than
    /// about `bytes` of them.
    pub fn expect(&mut self, first: Lsn, last: Lsn, records: usize, each: usize, bytes: usize) {
        self.span.expect(first, last, records, each, bytes);
    }

    /// As [`Journal::read`].
    pub fn read(&mut self, lsn: Lsn) -> Result<Stored, ReadError> {
        match self.journal.read_cached(lsn) {
            Some(stored) => Ok(stored),
            None => {
                let stored = self.journal.owner.shared.read_file(lsn, &mut self.span)?;
                self.journal.owner.read_ahead(&mut self.span);
                Ok(stored)
            }
        }
    }

    /// Reads a record if it is in memory: it was written lately, or some reader has been near it. Never waits
    /// for the disk, never copies.
    pub fn read_now(&mut self, lsn: Lsn) -> Option<Stored> {
        if let Some(stored) = self.journal.read_cached(lsn) {
            return Some(stored);
        }
        let stored = self.journal.owner.shared.read_recent(lsn, &mut self.span)?;
        self.journal.owner.read_ahead(&mut self.span);
        Some(stored)
    }
}

/// A record read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// As given to [`Batch::push`].
    pub shard: u16,
    /// The encoded event.
    pub head: Bytes,
    /// The payload.
    pub body: Bytes,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing was written at this LSN.
    #[error("no record at LSN {0}")]
    Absent(Lsn),
    /// Something was written there, and its bytes are not those of a record with this LSN.
    #[error("the record at LSN {lsn} in journal file {file:016x} is damaged")]
    Damaged {
        /// Where.
        lsn: Lsn,
        /// The file's number.
        file: u64,
    },
    /// The disk failed.
    #[error("cannot read the journal: {0}")]
    Io(#[from] io::Error),
    /// The LSN was released.
    #[error("LSN {0} was released")]
    Released(Lsn),
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two files claim the same positions.
    #[error("journal files {first:016x} and {second:016x} both start at LSN {start}; remove the copy")]
    Conflict {
        /// One file's number.
        first: u64,
        /// The other's.
        second: u64,
        /// The LSN that both claim.
        start: Lsn,
    },
    /// The disk failed.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: String,
        /// What the disk said.
        error: io::Error,
    },
    /// There is no space for the first file.
    #[error("no space for a journal file of {bytes} bytes; free some disk space and start again")]
    NoSpace {
        /// Bytes that are needed.
        bytes: u64,
    },
    /// Another version of the program wrote it.
    #[error("journal file {file:016x} has format version {found}; this program reads version {supported}")]
    Version {
        /// The file's number.
        file: u64,
        /// Version in the file.
        found: u32,
        /// Version that is understood.
        supported: u32,
    },
    /// Another version of the program wrote the note of the durable position.
    #[error(
        "the journal's file \"durable\" has format version {found}; this program reads version {supported}"
    )]
    NoteVersion {
        /// Version in the file.
        found: u32,
        /// Version that is understood.
        supported: u32,
    },
}

/// Why a journal did not close cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// It had failed, or was closed, before.
    #[error("the journal had stopped before")]
    Stopped,
    /// Batches that were waiting for disk space were not written.
    #[error("the disk is full; what was waiting for space was not written")]
    NoSpace,
}

/// What a step did; see [`Journal::step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// A frame was written, or something synced.
    Committed,
    /// There was nothing to do.
    Idle,
    /// A batch waits for disk space.
    NoSpace,
    /// The journal has failed.
    Failed,
}

/// What a file of a directory or an object of a bucket is called, in the journal's place there.
pub fn file_name(number: u64) -> String {
    match object::is_object(number) {
        true => object::name_of_number(number),
        false => format!("{number:016x}.journal"),
    }
}

/// The number of the file or object that [`file_name`] calls so.
pub fn file_number(name: &str) -> Option<u64> {
    home::number_of(name).or_else(|| object::number_of_name(name))
}

/// A handle to an open journal. When the last one is dropped, the journal stops as if the process had ended.
#[derive(Clone)]
pub struct Journal {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// To the thread that reads ahead, if there is one.
    ahead: Mutex<Option<mpsc::Sender<Lsn>>>,
    stepped: Option<Mutex<Stepped>>,
}

/// A writer without a thread.
enum Stepped {
    Disk(Writer),
    Bucket(object::ObjectWriter),
}

impl Stepped {
    fn step(&mut self) -> Step {
        match self {
            Stepped::Disk(writer) => writer.step(),
            Stepped::Bucket(writer) => writer.step(),
        }
    }

    fn finish(&mut self) {
        match self {
            Stepped::Disk(writer) => {
                while writer.step() == Step::Committed {}
                writer.finish();
            }
            Stepped::Bucket(writer) => writer.finish(),
        }
    }
}

impl Journal {
    /// [`JournalPlace::open`] of a directory.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        config: JournalConfig,
        from: Lsn,
        replay: &mut dyn FnMut(Lsn, RecordRef<'_>),
        completed: Box<dyn FnMut(Completion) + Send>,
    ) -> Result<(Journal, RecoveryReport), OpenError> {
        JournalPlace::directory(disk, dir).open(config, from, replay, completed)
    }

    /// As [`JournalPlace::open`], in a home of any kind.
    pub fn open_home(
        home: Arc<dyn JournalHome>,
        mut config: JournalConfig,
        from: Lsn,
        replay: &mut dyn FnMut(Lsn, RecordRef<'_>),
        completed: Box<dyn FnMut(Completion) + Send>,
    ) -> Result<(Journal, RecoveryReport), OpenError> {
        config.file_bytes = format::align_up(config.file_bytes.max(16 << 10));
        config.first_file_bytes =
            format::align_up(config.first_file_bytes.max(8 << 10)).min(config.file_bytes);
        config.spare_files = config.spare_files.max(1);
        let fatal = config.fatal.take();
        let drive = config.drive;
        let (shared, start, report) = recovery::recover(home, config, from, replay)?;
        let writer = Writer::new(shared.clone(), start, completed, fatal);
        let mut owner = Owner { shared, threads: Mutex::default(), ahead: Mutex::default(), stepped: None };
        match drive {
            Drive::Steps => owner.stepped = Some(Mutex::new(Stepped::Disk(writer))),
            Drive::Threads => {
                let mut writer = writer;
                owner.spawn(move || writer.run()).map_err(no_threads)?;
            }
        }
        Ok((Journal { owner: Arc::new(owner) }, report))
    }

    /// As [`Journal::open`], in a bucket that was claimed.
    fn open_objects(
        disk: &ObjectDisk,
        mut config: JournalConfig,
        from: Lsn,
        replay: &mut dyn FnMut(Lsn, RecordRef<'_>),
        completed: Box<dyn FnMut(Completion) + Send>,
    ) -> Result<(Journal, RecoveryReport), OpenError> {
        if !disk.is_claimed() {
            let error = io::ErrorKind::ReadOnlyFilesystem.into();
            return Err(OpenError::Io {
                action: format!("open the journal in {}", disk.bucket().name()),
                error,
            });
        }
        let drive = if disk.bucket().is_stepped() { Drive::Steps } else { Drive::Threads };
        // Released objects are removed, never used again.
        (config.spare_files, config.drive) = (0, drive);
        let fatal = config.fatal.take();
        let home = Arc::new(object::ObjectHome::new(disk));
        let (shared, start, report) = object::recover(&home, config, from, replay)?;
        let mut writer = object::ObjectWriter::new(shared.clone(), home, start, completed, fatal);
        let mut owner = Owner { shared, threads: Mutex::default(), ahead: Mutex::default(), stepped: None };
        match drive {
            Drive::Steps => owner.stepped = Some(Mutex::new(Stepped::Bucket(writer))),
            Drive::Threads => owner.spawn(move || writer.run()).map_err(no_threads)?,
        }
        Ok((Journal { owner: Arc::new(owner) }, report))
    }

    /// What is known of whether the journal is still this opener's; none where nobody can take it over.
    pub fn ownership(&self) -> Option<Ownership> {
        self.owner.shared.home.ownership().cloned()
    }

    /// Hands a batch to the writer; never waits for the disk. After a failure or [`Journal::close`] the
    /// batch is dropped and never completed.
    pub fn submit(&self, batch: Batch) {
        self.owner.shared.submit(batch);
    }

    /// Retires released files now, instead of when the journal's own thread comes to it.
    pub fn retire_released(&self) {
        self.owner.shared.tend_files();
    }

    /// Reads a record, from memory if it is there, else from disk.
    pub fn read(&self, lsn: Lsn) -> Result<Stored, ReadError> {
        self.reader().read(lsn)
    }

    /// For reading several records, best in their order.
    pub fn reader(&self) -> Reader<'_> {
        Reader { journal: self, span: span::Span::default() }
    }

    /// As [`Journal::reader`], for reading what nobody else is expected to read soon.
    pub fn reader_alone(&self) -> Reader<'_> {
        Reader { journal: self, span: span::Span::alone() }
    }

    /// Reads a record if it is in memory: never waits for the disk, never copies.
    pub fn read_cached(&self, lsn: Lsn) -> Option<Stored> {
        self.owner.shared.ring.read().record(lsn)
    }

    /// Files that lie wholly below `below` and could be kept, oldest first. None in a bucket.
    pub fn files_below(&self, below: Lsn) -> Vec<FileExtent> {
        self.owner.shared.extents_below(below)
    }

    /// Files wholly below `below` may be used again once no reader holds them, but for those that start at
    /// one of `kept`: these are read as before until a later release does not name them. A later
    /// [`Journal::open`] must not ask for the replay of records below it.
    pub fn release(&self, below: Lsn, kept: &BTreeSet<Lsn>) {
        self.owner.shared.release(below, kept);
    }

    /// Everything below this LSN survives a power cut.
    pub fn durable(&self) -> Lsn {
        Lsn(self.owner.shared.durable.load(Ordering::Acquire))
    }

    /// The LSN behind the last written frame.
    pub fn end(&self) -> Lsn {
        Lsn(self.owner.shared.end.load(Ordering::Acquire))
    }

    /// The lowest LSN that can still be read.
    pub fn start(&self) -> Lsn {
        self.owner.shared.oldest()
    }

    /// Files, or objects of a bucket, that hold something from there on: what a start has to fetch.
    pub fn files_from(&self, from: Lsn) -> usize {
        self.owner.shared.count_from(from)
    }

    /// Bytes that can surely still be submitted: the rest of the current file, prepared files, and what the
    /// disk says it has beyond the reserve, less what is waiting. Keep a margin of one batch: a batch is
    /// never split over files. The disk is asked at once, in place of once a second, when the files have
    /// less than `enough`.
    pub fn room(&self, enough: u64) -> u64 {
        self.owner.shared.room(enough)
    }

    /// Counters, and the sizes of the frames committed so far.
    pub fn frame_sizes(&self) -> CommitStats {
        self.owner.shared.stats.lock().clone()
    }

    /// With [`Drive::Steps`]: commits one frame of what has been submitted, sync included, and prepares the
    /// next file. With [`Drive::Threads`] it does nothing.
    pub fn step(&self) -> StepOutcome {
        let Some(writer) = &self.owner.stepped else { return StepOutcome::Idle };
        let mut writer = writer.lock();
        let step = writer.step();
        if self.owner.shared.has_failed() {
            return StepOutcome::Failed;
        }
        self.owner.shared.tend_files();
        match step {
            Step::Committed => StepOutcome::Committed,
            Step::Idle => StepOutcome::Idle,
            Step::NoSpace => StepOutcome::NoSpace,
        }
    }

    /// With [`Drive::Steps`]: syncs what was written without a sync, as the writer thread does after
    /// [`JournalConfig::lazy_sync`], and notes what is durable.
    pub fn step_lazy_sync(&self) -> StepOutcome {
        let Some(writer) = &self.owner.stepped else { return StepOutcome::Idle };
        // In a bucket everything is synced that is there.
        if let Stepped::Disk(writer) = &mut *writer.lock() {
            writer.sync();
        }
        if self.owner.shared.has_failed() { StepOutcome::Failed } else { StepOutcome::Committed }
    }

    /// Writes and syncs what was submitted, marks the journal as cleanly closed and stops it.
    pub fn close(self) -> Result<(), CloseError> {
        let shared = &self.owner.shared;
        shared.begin_close();
        if let Some(writer) = &self.owner.stepped {
            writer.lock().finish();
        }
        self.owner.join();
        shared.close_outcome()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("durable", &self.durable()).field("end", &self.end()).finish()
    }
}

impl Owner {
    fn spawn(&mut self, write: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let shared = self.shared.clone();
        let ahead = thread::Builder::new().name("journal-ahead".to_owned());
        let (sender, wanted) = mpsc::channel();
        self.threads
            .get_mut()
            .push(ahead.spawn(move || wanted.iter().for_each(|from| shared.read_ahead(from)))?);
        *self.ahead.get_mut() = Some(sender);
        let shared = self.shared.clone();
        let files = thread::Builder::new().name("journal-files".to_owned());
        self.threads.get_mut().push(files.spawn(move || shared.tend_files_until_stopped())?);
        if self.shared.home.makes_files_ahead() {
            let shared = self.shared.clone();
            let note = thread::Builder::new().name("journal-note".to_owned());
            self.threads.get_mut().push(note.spawn(move || shared.keep_note_until_stopped())?);
        }
        let threads = thread::Builder::new().name("journal-writer".to_owned());
        let run = move || {
            let _guard = AbortOnPanic;
            write();
        };
        self.threads.get_mut().push(threads.spawn(run)?);
        Ok(())
    }

    /// Has what follows the span of a reader read, unless that has been done.
    fn read_ahead(&self, span: &mut span::Span) {
        if span.is_followed() {
            return;
        }
        let ahead = self.ahead.lock();
        if let Some(ahead) = &*ahead
            && let Some(from) = self.shared.follow(span)
            && ahead.send(from).is_err()
        {
            self.shared.read_ahead(from);
        }
    }

    /// Waits for the threads, the writer first: the other one must prepare files for it until it is done.
    fn join(&self) {
        self.ahead.lock().take();
        let mut threads = self.threads.lock();
        while let Some(handle) = threads.pop() {
            // The last handle may be dropped by the writer itself, inside `completed`.
            if handle.thread().id() != thread::current().id() {
                let _ = handle.join();
            }
            self.shared.stop_tending();
        }
    }
}

fn no_threads(error: io::Error) -> OpenError {
    OpenError::Io { action: "start the journal's threads".to_owned(), error }
}

/// A panic of the writer is a defect: whatever waits for a completion would wait for ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.abandon();
        self.join();
    }
}
