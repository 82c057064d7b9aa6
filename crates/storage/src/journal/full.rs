//! A disk that is full although its space was reserved: copy-on-write, thin storage, quotas.
//!
//! The system tells that when a frame is written, or not before it is synced. Nothing of the frame was
//! promised, but what it holds was decided and cannot be taken back. So the writer keeps it, nothing of it is
//! answered, and [`super::Journal::room`] says that there is none, upon which publishers are refused. The
//! frame is written again, at the same place, until there is space.
//!
//! A failed sync leaves pages clean that are not on the disk, and a later sync passes over them. So
//! everything since the last good one is handed to the system once more before the next, and what lies there
//! afterwards is compared with its checksums: bytes that the system no longer had in memory are not those
//! that were written, and only then nobody knows what the disk holds.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::batch::PlacedBatch;
use super::files::Life;
use super::format::{FRAME_HEADER_BYTES, FrameHeader, PlacedRecord};
use super::renew::write_again;
use super::writer::{Halt, Step, Writer};
use super::{Amount, Completion, Lsn};
use crate::buffer::Buffer;

/// How often what found no space is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// A frame with its place.
pub(super) struct Frame {
    /// The file's header, if this is its first frame.
    pub header: Option<Vec<u8>>,
    pub frame: [u8; FRAME_HEADER_BYTES],
    pub batches: Vec<PlacedBatch>,
    pub total: u64,
    pub held: Amount,
}

/// What waits for space.
#[derive(Default)]
pub(super) struct Stalled {
    pub frame: Option<Frame>,
    /// Those of the frame's batches, and whether they asked for a sync.
    pub completions: Vec<(Completion, bool)>,
    /// What was written since the last good sync has to be written again.
    pub sync: bool,
}

impl Stalled {
    fn is_empty(&self) -> bool {
        self.frame.is_none() && !self.sync
    }
}

impl Writer {
    pub(super) fn is_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// Nothing goes on until there is space.
    pub(super) fn stall(&mut self, error: &io::Error) -> Halt {
        if !self.shared.stalled.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                file = format_args!("{:016x}", self.file.number),
                %error,
                "the disk has no space for the journal, although some was set aside: nothing new is \
                 accepted, and what is not answered yet waits; free some space, or extend the storage or \
                 the quota",
            );
        }
        Halt::NoSpace
    }

    /// Tries again what found no space.
    pub(super) fn resume(&mut self) -> Step {
        match self.resume_sync().and_then(|()| self.resume_frame()) {
            Ok(()) => Step::Committed,
            Err(Halt::NoSpace) => Step::NoSpace,
            Err(Halt::Failed) => Step::Idle,
        }
    }

    fn resume_sync(&mut self) -> Result<(), Halt> {
        if self.stalled.sync { self.try_sync() } else { Ok(()) }
    }

    fn resume_frame(&mut self) -> Result<(), Halt> {
        let Some(frame) = self.stalled.frame.take() else { return Ok(()) };
        self.put(frame)?;
        let completions = std::mem::take(&mut self.stalled.completions);
        self.complete_written(completions)
    }

    /// Things go on, if nothing waits for space any more.
    pub(super) fn go_on(&self) {
        if !self.is_stalled() && self.shared.stalled.swap(false, Ordering::Relaxed) {
            tracing::info!("the disk has space for the journal again");
        }
    }

    /// Waits until it is time to try again, or the journal's life ends; returns how it stands.
    pub(super) fn wait_for_space(&self) -> Life {
        let mut inbox = self.shared.inbox.lock();
        if inbox.life == Life::Open {
            // Only an end wakes it: whoever submits does not look for a writer that is busy.
            self.shared.arrived.wait_for(&mut inbox, RETRY_INTERVAL);
        }
        inbox.life
    }

    /// Syncs the file, after a sync that found no space together with all that it did not bring to the disk.
    pub(super) fn sync_file(&mut self) -> Result<(), Halt> {
        let from = self.durable.max(self.file.start);
        let unsynced = from - self.file.start..self.end - self.file.start;
        let again = if self.stalled.sync { write_again(&*self.file.file, unsynced) } else { Ok(()) };
        match again.and_then(|()| self.file.file.sync()) {
            Err(error) if super::files::is_no_space(&error) => {
                self.stalled.sync = true;
                return Err(self.stall(&error));
            }
            Err(error) => return Err(self.fail("sync", &error)),
            Ok(()) => {}
        }
        if self.stalled.sync {
            // A file without frames has nothing to look at.
            let first = self.file.start + super::format::FILE_HEADER_BYTES;
            match self.is_whole(from.max(first)) {
                Ok(true) => self.stalled.sync = false,
                Ok(false) => {
                    let error = "the disk was full, and what was written before that is not there";
                    return Err(self.fail("sync", &io::Error::other(error)));
                }
                Err(error) => return Err(self.fail("read", &error)),
            }
            self.go_on();
        }
        Ok(())
    }

    /// Whether what lies from `lsn` on, where a frame begins, is what was written.
    fn is_whole(&self, mut lsn: u64) -> io::Result<bool> {
        let (file, start, nonce) = (&*self.file.file, self.file.start, self.file.nonce);
        while lsn < self.end {
            let mut header = [0; FRAME_HEADER_BYTES];
            file.read_at(lsn - start, &mut header)?;
            let frame = FrameHeader::decode(&header);
            let Some(frame) =
                frame.filter(|frame| frame.lsn == lsn && frame.nonce == nonce && frame.end() <= self.end)
            else {
                return Ok(false);
            };
            let mut payload = Buffer::new(frame.length as usize);
            file.read_at(lsn - start + FRAME_HEADER_BYTES as u64, &mut payload)?;
            let (mut at, first) = (0, lsn + FRAME_HEADER_BYTES as u64);
            while at < payload.len() {
                let record = PlacedRecord::decode(&payload[at..], Lsn(first + at as u64), nonce);
                let Some(record) = record else { return Ok(false) };
                at += record.header.stride() as usize;
            }
            lsn = frame.end();
        }
        Ok(true)
    }
}
