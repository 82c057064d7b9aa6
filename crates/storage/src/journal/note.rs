//! The note of the durable position, in a file beside the journal's.
//!
//! Nothing lies behind the frame that was synced last, to tell of it: if it, or all of the journal's end, is
//! damaged, the journal alone looks like one whose tail had not been synced. So the position up to which all
//! was durable is noted elsewhere, with what was there: soon after a sync that nothing follows, else every
//! half a second, and when the journal closes. A note is written after the sync that it tells of, so that it
//! is true whether it becomes durable or not, and no sync of the journal waits for it.
//!
//! ```text
//! note  magic 8 | version 4 | crc 4 | sequence 8 | nonce 8 | start 8 | durable 8 | records 8 | messages 8 |
//!       lost 4 | 0 4
//! lost  from 8 | to 8 | file 8 | records 8 | messages 8
//! ```
//!
//! There are two pairs of blocks, which notes take in turn: a torn one leaves the one before. Both blocks of
//! a pair hold the same, so that a damaged one costs nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::format::{u32_at, u64_at};
use super::{Amount, JournalHome};
use crate::disk::{BLOCK_BYTES, DiskFile};

/// Version of the note's format.
pub(super) const NOTE_VERSION: u32 = 2;
/// Bytes of the file: two pairs of blocks.
pub(super) const NOTE_FILE_BYTES: u64 = 2 * PAIR_BYTES as u64;

const PAIR_BYTES: usize = 2 * BLOCK_BYTES;

const MAGIC: [u8; 8] = *b"PHDURABL";
const HEADER_BYTES: usize = 72;
const LOST_BYTES: usize = 40;
/// More are not remembered; the oldest go first.
const LOST_MAX: usize = 64;

/// A position is noted so long after its sync: what comes together is noted once.
const SOON: Duration = Duration::from_millis(20);
/// Notes have at least this distance.
const INTERVAL: Duration = Duration::from_millis(500);

/// Up to where a file's content is durable, and how much that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The file's nonce.
    pub nonce: u64,
    /// LSN of the file's first byte.
    pub start: u64,
    /// LSN behind what is durable.
    pub durable: u64,
    /// What lies between the two.
    pub held: Amount,
}

impl Position {
    /// What is durable of this file, if it is the one that the position is in.
    pub fn durable_of(&self, nonce: u64, start: u64) -> Option<u64> {
        (self.nonce == nonce && self.start == start && self.durable > 0).then_some(self.durable)
    }
}

/// A stretch that was found missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub from: u64,
    pub to: u64,
    /// The number of the file, if it is there.
    pub file: Option<u64>,
    /// What was in it at most.
    pub held: Amount,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// Counts the notes of a journal.
    pub sequence: u64,
    pub position: Position,
    /// What was found missing at starts, and is not released yet.
    pub lost: Vec<Lost>,
}

/// How the note's file reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoteState {
    /// There is none: nothing has been noted yet.
    Absent,
    Valid(Note),
    OtherVersion(u32),
    /// There was one, and neither block can be read.
    Damaged,
}

impl Note {
    /// Reads the home's note. A block that the disk does not give is as good as a damaged one: no start is to
    /// fail for it.
    pub fn read(home: &dyn JournalHome) -> io::Result<NoteState> {
        let Some(file) = home.note(false)? else { return Ok(NoteState::Absent) };
        let mut best = NoteState::Absent;
        for start in (0..NOTE_FILE_BYTES).step_by(BLOCK_BYTES) {
            let mut block = [0; BLOCK_BYTES];
            let read = match file.read_at(start, &mut block) {
                Ok(read) => decode_block(&block[..read]),
                Err(_) => NoteState::Damaged,
            };
            best = best.or(read);
        }
        Ok(best)
    }

    fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        let lost = &self.lost[self.lost.len().saturating_sub(LOST_MAX)..];
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&NOTE_VERSION.to_le_bytes());
        let Position { nonce, start, durable, held } = self.position;
        let fields = [self.sequence, nonce, start, durable, held.records, held.messages];
        put(&mut block[16..], &fields);
        block[64..68].copy_from_slice(&(lost.len() as u32).to_le_bytes());
        for (lost, place) in lost.iter().zip(block[HEADER_BYTES..].chunks_exact_mut(LOST_BYTES)) {
            let file = lost.file.unwrap_or(u64::MAX);
            put(place, &[lost.from, lost.to, file, lost.held.records, lost.held.messages]);
        }
        let crc = crc_of(block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}

impl NoteState {
    /// The better one of two blocks.
    fn or(self, other: NoteState) -> NoteState {
        match (&self, &other) {
            (NoteState::Valid(first), NoteState::Valid(second)) if first.sequence >= second.sequence => self,
            (_, NoteState::Valid(_)) | (NoteState::Absent, _) => other,
            (NoteState::Damaged, NoteState::OtherVersion(_)) => other,
            _ => self,
        }
    }
}

fn put(place: &mut [u8], fields: &[u64]) {
    for (field, place) in fields.iter().zip(place.chunks_exact_mut(8)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
}

/// Magic, version and checksum stay where they are in every version.
fn crc_of(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..])
}

fn decode_block(block: &[u8]) -> NoteState {
    if block.iter().all(|byte| *byte == 0) {
        return NoteState::Absent;
    }
    if block.len() < BLOCK_BYTES || block[..8] != MAGIC || u32_at(block, 12) != Some(crc_of(block)) {
        return NoteState::Damaged;
    }
    match u32_at(block, 8) {
        Some(NOTE_VERSION) => decode_sound(block).map_or(NoteState::Damaged, NoteState::Valid),
        Some(found) => NoteState::OtherVersion(found),
        None => NoteState::Damaged,
    }
}

fn decode_sound(block: &[u8]) -> Option<Note> {
    let position = Position {
        nonce: u64_at(block, 24)?,
        start: u64_at(block, 32)?,
        durable: u64_at(block, 40)?,
        held: Amount { records: u64_at(block, 48)?, messages: u64_at(block, 56)? },
    };
    let count = u32_at(block, 64)? as usize;
    let lost = block[HEADER_BYTES..].chunks_exact(LOST_BYTES).take(count.min(LOST_MAX)).map(|lost| {
        Some(Lost {
            from: u64_at(lost, 0)?,
            to: u64_at(lost, 8)?,
            file: u64_at(lost, 16).filter(|file| *file != u64::MAX),
            held: Amount { records: u64_at(lost, 24)?, messages: u64_at(lost, 32)? },
        })
    });
    Some(Note { sequence: u64_at(block, 16)?, position, lost: lost.collect::<Option<_>>()? })
}

/// Keeps the note of an open journal.
pub(super) struct NoteKeeper {
    state: Mutex<State>,
    changed: Condvar,
    writing: Mutex<Writing>,
}

#[derive(Default)]
struct State {
    reached: Position,
    noted: Position,
    /// The keeper's thread waits for something to note.
    waits: bool,
    stopped: bool,
}

/// Aligned as transfers past a page cache want it.
#[repr(align(4096))]
struct Pair([u8; PAIR_BYTES]);

impl Default for Pair {
    fn default() -> Pair {
        Pair([0; PAIR_BYTES])
    }
}

struct Writing {
    file: Option<Arc<dyn DiskFile>>,
    pair: Box<Pair>,
    /// What was written last.
    note: Note,
    has_failed: bool,
}

impl NoteKeeper {
    /// Goes on behind the note that was found.
    pub fn new(note: Note) -> NoteKeeper {
        let reached = note.position;
        let writing = Writing { file: None, pair: Box::default(), note, has_failed: false };
        let state = State { reached, noted: reached, ..State::default() };
        NoteKeeper { state: Mutex::new(state), changed: Condvar::new(), writing: Mutex::new(writing) }
    }

    /// So much is durable now: to be noted, though not at once.
    pub fn reached(&self, position: Position) {
        let mut state = self.state.lock();
        state.reached = position;
        if std::mem::take(&mut state.waits) {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Writes the first note of a journal.
    pub fn begin(&self, home: &dyn JournalHome) -> io::Result<()> {
        let reached = self.state.lock().reached;
        self.writing.lock().write(home, reached)
    }

    /// Notes what was reached, durably. Without the note nothing is lost but the knowledge of what is missing
    /// if the journal's end is damaged, so a failure is told and tried again, and ends nothing.
    pub fn write(&self, home: &dyn JournalHome) {
        let mut writing = self.writing.lock();
        let (reached, noted) = {
            let state = self.state.lock();
            (state.reached, state.noted)
        };
        if reached == noted {
            return;
        }
        match writing.write(home, reached) {
            Ok(()) => {
                writing.has_failed = false;
                self.state.lock().noted = reached;
            }
            Err(error) => {
                if !std::mem::replace(&mut writing.has_failed, true) {
                    tracing::warn!(
                        %error,
                        lsn = reached.durable,
                        "the journal's durable position cannot be noted; until it can, damage to the \
                         journal's end may go unnoticed"
                    );
                }
            }
        }
    }

    /// The work of the keeper's thread.
    pub fn keep_until_stopped(&self, home: &dyn JournalHome) {
        let mut state = self.state.lock();
        while !state.stopped {
            if state.reached == state.noted {
                state.waits = true;
                self.changed.wait(&mut state);
                continue;
            }
            self.changed.wait_while_for(&mut state, |state| !state.stopped, SOON);
            if state.stopped {
                return;
            }
            drop(state);
            self.write(home);
            state = self.state.lock();
            self.changed.wait_while_for(&mut state, |state| !state.stopped, INTERVAL);
        }
    }

    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

impl Writing {
    fn write(&mut self, home: &dyn JournalHome, position: Position) -> io::Result<()> {
        if self.file.is_none() {
            self.file = home.note(true)?;
        }
        // A home without a place for it needs none.
        let Some(file) = &self.file else { return Ok(()) };
        self.note.sequence += 1;
        self.note.position = position;
        let (first, second) = self.pair.0.split_at_mut(BLOCK_BYTES);
        self.note.encode(first);
        second.copy_from_slice(first);
        let at = self.note.sequence % 2 * PAIR_BYTES as u64;
        file.write_blocks(at, &self.pair.0)?;
        file.sync_data()
    }
}
