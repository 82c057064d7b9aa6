//! The one writer: takes what has arrived, writes it as one frame, syncs, completes, goes on.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::batch::PlacedBatch;
use super::files::{JournalFile, Life, Shared, SpareFile, is_no_space};
use super::format::{CLEAN, FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FrameHeader};
use super::full::{Frame, Stalled};
use super::note::Position;
use super::{Amount, Batch, Completion, Drive, Lsn};
use crate::Random;

/// What recovery hands to the writer: an empty file whose header is on disk.
pub(super) struct Start {
    pub file: Arc<JournalFile>,
    pub sequence: u64,
    pub nonces: Random,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Committed,
    Idle,
    NoSpace,
}

/// After so many frames without a sync the next ones are expected to have none either. Few among many that
/// are synced had better go the same way to the disk.
const LAZY_IN_A_ROW_MAX: u32 = 16;

/// Frames of this size on average need no file whose blocks were written before, frames of half of it do.
const LARGE_FRAME_BYTES: u64 = 256 << 10;
/// The share of the last frame in that average.
const FRAMES_AVERAGED: u64 = 16;

/// Why the writer cannot go on.
pub(super) enum Halt {
    NoSpace,
    Failed,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Arc<JournalFile>,
    /// The file's header, until the first frame takes it along.
    header: Option<Vec<u8>>,
    sequence: u64,
    nonces: Random,
    pub(super) end: u64,
    pub(super) durable: u64,
    /// How much the file holds.
    written: Amount,
    /// Written, not yet synced.
    unsynced: Vec<Completion>,
    unsynced_since: Option<Instant>,
    /// Frames that required no sync since the last one that did.
    lazy_in_a_row: u32,
    /// Bytes of a frame, a running average.
    frame_bytes: u64,
    /// Taken from the inbox and waiting for space.
    held: Vec<Batch>,
    pub(super) stalled: Stalled,
    completed: Box<dyn FnMut(Completion) + Send>,
    fatal: Option<Box<dyn FnOnce(String) + Send + Sync>>,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        start: Start,
        completed: Box<dyn FnMut(Completion) + Send>,
        fatal: Option<Box<dyn FnOnce(String) + Send + Sync>>,
    ) -> Writer {
        let end = start.file.end.load(Ordering::Acquire);
        shared.end.store(end, Ordering::Release);
        shared.durable.store(end, Ordering::Release);
        Writer {
            shared,
            file: start.file,
            header: None,
            sequence: start.sequence,
            nonces: start.nonces,
            end,
            durable: end,
            written: Amount::default(),
            unsynced: Vec::new(),
            unsynced_since: None,
            lazy_in_a_row: LAZY_IN_A_ROW_MAX,
            frame_bytes: 0,
            held: Vec::new(),
            stalled: Stalled::default(),
            completed,
            fatal,
        }
    }

    /// The writer thread's life.
    pub fn run(&mut self) {
        loop {
            match self.step() {
                Step::Committed => {}
                Step::NoSpace => match self.wait_for_space() {
                    Life::Open => {}
                    Life::Closing => return self.finish(),
                    _ => return,
                },
                Step::Idle => match self.wait() {
                    Life::Open => {}
                    Life::Closing => return self.finish(),
                    _ => return,
                },
            }
        }
    }

    /// Commits one frame of what is in the inbox.
    pub fn step(&mut self) -> Step {
        if self.is_stalled() {
            return self.resume();
        }
        let mut batches = std::mem::take(&mut self.held);
        if batches.is_empty() {
            batches = self.shared.inbox.lock().take(self.shared.config.frame_bytes);
        }
        if batches.is_empty() {
            return Step::Idle;
        }
        match self.commit(&mut batches) {
            Ok(()) => Step::Committed,
            Err(Halt::NoSpace) => {
                self.held = batches;
                Step::NoSpace
            }
            Err(Halt::Failed) => Step::Idle,
        }
    }

    /// Syncs what was written, tells its submitters, and notes what is durable.
    pub fn sync(&mut self) {
        // The reason of a failure has gone to the fatal hook.
        if self.try_sync().is_ok() {
            self.shared.note.write(&*self.shared.home);
        }
    }

    /// Ends the journal's life after a close.
    pub fn finish(&mut self) {
        if self.is_stalled() || !self.held.is_empty() || !self.shared.inbox.lock().batches.is_empty() {
            self.sync();
            return self.shared.turn(Life::ClosedFull);
        }
        match self.try_sync() {
            Ok(()) => {}
            Err(Halt::NoSpace) => return self.shared.turn(Life::ClosedFull),
            Err(Halt::Failed) => return,
        }
        // Nowhere to put the mark: the next start merely reads more.
        let marked = self.write_frame(Vec::new(), CLEAN, false).and_then(|()| self.try_sync());
        if matches!(marked, Ok(()) | Err(Halt::NoSpace)) {
            self.shared.note.write(&*self.shared.home);
            self.shared.turn(Life::Closed);
        }
    }

    /// Sleeps until something arrives, syncing what was written lazily when its time has come.
    fn wait(&mut self) -> Life {
        let shared = self.shared.clone();
        let mut inbox = shared.inbox.lock();
        loop {
            if inbox.life != Life::Open || !inbox.batches.is_empty() {
                return inbox.life;
            }
            inbox.writer_waits = true;
            let lazy = shared.config.lazy_sync;
            match self.unsynced_since {
                None => shared.arrived.wait(&mut inbox),
                Some(since) => {
                    if shared.arrived.wait_until(&mut inbox, since + lazy).timed_out() {
                        inbox.writer_waits = false;
                        drop(inbox);
                        let _ = self.try_sync();
                        inbox = shared.inbox.lock();
                        if self.is_stalled() {
                            return inbox.life;
                        }
                    }
                }
            }
            inbox.writer_waits = false;
        }
    }

    fn commit(&mut self, batches: &mut Vec<Batch>) -> Result<(), Halt> {
        let length: u64 = batches.iter().map(Batch::bytes).sum();
        let sync = batches.iter().any(|batch| batch.requires_sync);
        if length > 0 {
            self.average(length);
            let bytes = FRAME_HEADER_BYTES as u64 + length;
            if sync && self.would_sync_faster(bytes) {
                self.begin_next_file(bytes)?;
            }
            self.make_room(bytes)?;
        }
        let batches = std::mem::take(batches);
        self.shared.taken(length);
        let mut lsn = self.end + FRAME_HEADER_BYTES as u64;
        let mut completions = Vec::with_capacity(batches.len());
        for batch in &batches {
            let (source, number) = (batch.source, batch.number);
            completions
                .push((Completion { source, number, base: Lsn(lsn), synced: false }, batch.requires_sync));
            lsn += batch.bytes();
        }
        self.lazy_in_a_row = if sync { 0 } else { self.lazy_in_a_row.saturating_add(1) };
        if length > 0
            && let Err(halt) = self.write_frame(batches, 0, true)
        {
            self.stalled.completions = completions;
            return Err(halt);
        }
        self.complete_written(completions)
    }

    /// Tells the submitters of what was written, and syncs if one of them wants that.
    pub(super) fn complete_written(&mut self, completions: Vec<(Completion, bool)>) -> Result<(), Halt> {
        let sync = completions.iter().any(|(_, requires_sync)| *requires_sync);
        for (completion, requires_sync) in completions {
            if !requires_sync {
                (self.completed)(completion);
            }
            self.unsynced.push(Completion { synced: true, ..completion });
        }
        if !sync && self.shared.config.drive == Drive::Threads {
            let since = *self.unsynced_since.get_or_insert_with(Instant::now);
            if since.elapsed() < self.shared.config.lazy_sync {
                return Ok(());
            }
        } else if !sync {
            return Ok(());
        }
        self.try_sync()
    }

    /// Writes the batches as one frame, and what is in memory of it into the ring.
    fn write_frame(&mut self, batches: Vec<Batch>, flags: u32, roomy: bool) -> Result<(), Halt> {
        let length: u64 = batches.iter().map(Batch::bytes).sum();
        let records: usize = batches.iter().map(Batch::len).sum();
        let messages = batches.iter().map(Batch::messages).sum();
        let total = FRAME_HEADER_BYTES as u64 + length;
        if !roomy {
            self.make_room(total)?;
        }
        let mut lsn = self.end + FRAME_HEADER_BYTES as u64;
        let mut placed: Vec<PlacedBatch> = Vec::with_capacity(batches.len());
        for batch in batches {
            let bytes = batch.bytes();
            placed.push(batch.place(lsn, self.file.nonce));
            lsn += bytes;
        }
        let frame = FrameHeader {
            sequence: self.sequence,
            lsn: self.end,
            nonce: self.file.nonce,
            length,
            durable: self.durable,
            records: records as u32,
            flags,
            messages,
        };
        let held = frame.amount();
        let frame = frame.encode();
        let header = self.header.take();
        self.put(Frame { header, frame, batches: placed, total, held })
    }

    /// Writes a frame behind the last one. Without space for it, it is kept.
    pub(super) fn put(&mut self, frame: Frame) -> Result<(), Halt> {
        let mut parts: Vec<IoSlice<'_>> = Vec::with_capacity(frame.batches.len() * 2 + 2);
        parts.extend(frame.header.as_deref().map(IoSlice::new));
        parts.push(IoSlice::new(&frame.frame));
        frame.batches.iter().for_each(|batch| batch.parts(|part| parts.push(IoSlice::new(part))));
        let sync_follows = self.lazy_in_a_row < LAZY_IN_A_ROW_MAX;
        let position = if frame.header.is_some() { 0 } else { self.end - self.file.start };
        match self.file.file.write_at(position, &parts, sync_follows) {
            Ok(()) => self.go_on(),
            Err(error) if is_no_space(&error) => {
                self.stalled.frame = Some(frame);
                return Err(self.stall(&error));
            }
            Err(error) => return Err(self.fail("write to", &error)),
        }
        self.sequence += 1;
        self.end += frame.total;
        self.written += frame.held;
        self.shared.stats.lock().frame(frame.total, frame.held.records);
        let dropped = self.shared.ring.write().push(frame.batches.into_iter());
        drop(dropped);
        self.file.end.store(self.end, Ordering::Release);
        self.shared.end.store(self.end, Ordering::Release);
        Ok(())
    }

    pub(super) fn try_sync(&mut self) -> Result<(), Halt> {
        if self.shared.has_failed() {
            return Err(Halt::Failed);
        }
        if self.durable < self.end && self.is_begun() {
            self.sync_file()?;
            self.shared.stats.lock().syncs += 1;
            self.durable = self.end;
            self.shared.durable.store(self.end, Ordering::Release);
            let (nonce, start) = (self.file.nonce, self.file.start);
            self.shared.note.reached(Position { nonce, start, durable: self.end, held: self.written });
        }
        self.unsynced_since = None;
        for completion in self.unsynced.drain(..) {
            (self.completed)(completion);
        }
        Ok(())
    }

    /// Whether anything of the file was written. Its header comes with the first frame: until then nothing of
    /// it can be durable, and all before it is.
    fn is_begun(&self) -> bool {
        let waits = self.stalled.frame.as_ref().is_some_and(|frame| frame.header.is_some());
        self.header.is_none() && !waits
    }

    fn average(&mut self, length: u64) {
        self.frame_bytes = (self.frame_bytes * (FRAMES_AVERAGED - 1) + length) / FRAMES_AVERAGED;
        let large = &self.shared.large_frames;
        if self.frame_bytes >= LARGE_FRAME_BYTES {
            large.store(true, Ordering::Relaxed);
        } else if self.frame_bytes < LARGE_FRAME_BYTES / 2 && large.swap(false, Ordering::Relaxed) {
            // Another file is wanted now.
            self.shared.spares_changed.notify_all();
        }
    }

    /// Whether small frames go to a file that is only reserved, where each sync has the system write more
    /// than the frame, while a better one is ready. What is left of the file is wasted, so more must be
    /// obtainable.
    fn would_sync_faster(&self, bytes: u64) -> bool {
        !self.shared.large_frames.load(Ordering::Relaxed)
            && self.file.file.is_reserved()
            && self.shared.obtainable.load(Ordering::Relaxed) > 0
            && matches!(self.shared.spares.lock().best(FILE_HEADER_BYTES + bytes), Some((_, true)))
    }

    /// Goes on to the next file if this one cannot take `bytes` more.
    fn make_room(&mut self, bytes: u64) -> Result<(), Halt> {
        if self.end + bytes <= self.file.start + self.file.bytes() {
            return Ok(());
        }
        self.begin_next_file(bytes)
    }

    fn begin_next_file(&mut self, bytes: u64) -> Result<(), Halt> {
        // What a new file's header says of the end of this one must be true before the header can be.
        self.try_sync()?;
        let spare = self.next_file(FILE_HEADER_BYTES + bytes)?;
        let header = FileHeader {
            nonce: self.nonces.next_u64(),
            start: self.end,
            previous_end: self.end,
            previous_start: self.file.start,
            bytes: spare.file.bytes(),
            previous: Some(self.written),
        };
        let file = Arc::new(JournalFile {
            number: spare.number,
            file: spare.file,
            nonce: header.nonce,
            start: header.start,
            end: AtomicU64::new(header.start + FILE_HEADER_BYTES),
            damaged: AtomicBool::new(false),
        });
        self.header = Some(header.encode());
        self.end = header.start + FILE_HEADER_BYTES;
        self.written = Amount::default();
        self.file = file.clone();
        self.shared.files.write().push(file);
        self.shared.end.store(self.end, Ordering::Release);
        self.shared.stats.lock().rotations += 1;
        Ok(())
    }

    /// Takes a prepared file of at least `bytes`, waiting for one if need be.
    fn next_file(&mut self, bytes: u64) -> Result<SpareFile, Halt> {
        let shared = self.shared.clone();
        loop {
            let mut spares = shared.spares.lock();
            if let Some((index, _)) = spares.best(bytes) {
                spares.wanted_bytes = None;
                spares.taken += 1;
                let spare = spares.ready.swap_remove(index);
                shared.spares_changed.notify_all();
                return Ok(spare);
            }
            if let Some(error) = spares.error.take() {
                drop(spares);
                return Err(self.fail("extend", &io::Error::other(error)));
            }
            spares.wanted_bytes = Some(bytes);
            if shared.config.drive == Drive::Steps {
                drop(spares);
                shared.tend_files();
                let spares = shared.spares.lock();
                if spares.error.is_none() && !spares.ready.iter().any(|spare| spare.file.bytes() >= bytes) {
                    return Err(Halt::NoSpace);
                }
                continue;
            }
            if spares.no_space && shared.inbox.lock().life != Life::Open {
                drop(spares);
                shared.turn(Life::ClosedFull);
                return Err(Halt::NoSpace);
            }
            shared.spares_changed.notify_all();
            shared.spares_changed.wait(&mut spares);
        }
    }

    /// Law 8: after a failed write or sync nobody knows what the disk holds; only recovery can find out.
    pub(super) fn fail(&mut self, action: &str, error: &io::Error) -> Halt {
        self.shared.turn(Life::Failed);
        let message = format!(
            "cannot {action} journal file {:016x} at LSN {}: {error}; stopping, because what was \
             written last may not be on disk. Nothing acknowledged is lost; check the disk and start again",
            self.file.number, self.end
        );
        stop_for(self.fatal.take(), message);
        Halt::Failed
    }
}

/// Tells the hook why the journal cannot go on; without one, the process ends.
pub(super) fn stop_for(fatal: Option<Box<dyn FnOnce(String) + Send + Sync>>, message: String) {
    match fatal {
        Some(fatal) => fatal(message),
        None => {
            eprintln!("posthaste: {message}");
            std::process::abort();
        }
    }
}
