//! Opening a journal: finds its files, replays what is readable, decides what is tail and what is damage.
//!
//! The rule: what lies at or above every durable position that any readable header or the note names may
//! never have reached the disk, and is cut at the first byte that does not read. What lies below is reported
//! and stepped over. A cut is final: the next file's header names where the content before it ends, and its
//! LSNs lie above all that the cut tail can have used.

mod evidence;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

pub(super) use super::damage::{Amount, Damage, DamageKind};
use super::files::{JournalFile, Shared, SpareFile, is_no_space};
use super::format::{FILE_HEADER_BYTES, FORMAT_VERSION, FileHeader, FileHeaderState};
use super::note::{NOTE_FILE_BYTES, NOTE_VERSION, Note, NoteKeeper, NoteState, Position};
use super::renew::renew;
use super::scan::{self, Ahead, Extent, FileScan};
use super::warm::Warm;
use super::writer::Start;
use super::{Blocks, Drive, HomeFile, JournalConfig, JournalHome, Lsn, OpenError, RecordRef};
use crate::Random;

/// Files start at multiples of this many bytes, so that an LSN's place in its file is easy to see.
const START_ALIGN: u64 = 4096;

/// What was found when the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The journal had been closed, not merely left.
    pub clean_shutdown: bool,
    /// Where the readable content ends. New records get LSNs above it.
    pub end: Lsn,
    /// Bytes of an unsynced tail that were recognised as such and dropped.
    pub cut_bytes: u64,
    /// Records replayed.
    pub records: u64,
    /// What had been durable and cannot be read. The files are kept as `.damaged` once they are released.
    pub quarantined: Vec<Damage>,
}

pub(super) type Replay<'a> = dyn FnMut(Lsn, RecordRef<'_>) + 'a;

/// Opens the files, replays, and begins a new file behind what was found.
pub(super) fn recover(
    home: Arc<dyn JournalHome>,
    config: JournalConfig,
    from: Lsn,
    replay: &mut Replay<'_>,
) -> Result<(Arc<Shared>, Start, RecoveryReport), OpenError> {
    let mut found = Found::list(&*home)?;
    let mut report = RecoveryReport::default();
    let warm = match config.drive {
        Drive::Threads => found.warm(from),
        Drive::Steps => Warm::off(),
    };
    // What is replayed is about to be acted upon: it must not be lost later.
    found.renew_tail(from)?;
    let tail = found.replay(from, replay, &warm, &mut report)?;
    drop(warm);
    found.complete_last_header()?;
    found.keep_evidence(&*home)?;
    report.end = Lsn(tail.end.max(from.0));
    let header = found.next_header(tail.end, from, config.nonce_seed);
    let note = NoteKeeper::new(Note { lost: found.lost(&report), ..std::mem::take(&mut found.note) });
    if found.note_state != NoteIs::Read {
        note.begin(&*home).map_err(|error| match is_no_space(&error) {
            true => OpenError::NoSpace { bytes: NOTE_FILE_BYTES },
            false => OpenError::Io { action: "write the journal's file \"durable\"".into(), error },
        })?;
    }
    let begun = found.begin_file(&*home, &config, &header)?;
    let nonces = Random::new(header.nonce);
    let start = Start { file: begun.clone(), sequence: tail.sequence.wrapping_add(1), nonces };
    let mut files: Vec<_> = found.files.into_iter().map(FoundFile::into_file).collect();
    files.push(begun.clone());
    let mut shared = Shared::new(home, config, files, found.blanks, found.next_number);
    shared.note = note;
    let (nonce, start_lsn, durable) = (begun.nonce, begun.start, begun.start + FILE_HEADER_BYTES);
    shared.note.reached(Position { nonce, start: start_lsn, durable, held: Amount::default() });
    shared.note.write(&*shared.home);
    Ok((Arc::new(shared), start, report))
}

/// Reads what recovery would read, and changes nothing.
pub(super) fn inspect(
    home: &dyn JournalHome,
    from: Lsn,
    replay: &mut Replay<'_>,
) -> Result<(RecoveryReport, Vec<Arc<JournalFile>>), OpenError> {
    let mut found = Found::list(home)?;
    let mut report = RecoveryReport::default();
    let tail = found.replay(from, replay, &Warm::off(), &mut report)?;
    report.end = Lsn(tail.end.max(from.0));
    Ok((report, found.files.into_iter().map(FoundFile::into_file).collect()))
}

/// Reads one file's bytes as recovery would, for fuzzing.
pub(crate) fn scan_bytes(bytes: &[u8], replay: &mut Replay<'_>) -> RecoveryReport {
    let mut report = RecoveryReport::default();
    let file: Arc<dyn HomeFile> = Arc::new(scan::Snapshot(bytes.to_vec()));
    let Ok(Opened::Used(found)) = FoundFile::open(0, file) else { return report };
    let mut found = Found { files: vec![found], ..Found::default() };
    if let Ok(tail) = found.replay(Lsn(0), replay, &Warm::off(), &mut report) {
        report.end = Lsn(tail.end);
    }
    report
}

/// The files of a home, sorted by start.
#[derive(Default)]
struct Found {
    files: Vec<FoundFile>,
    blanks: Vec<SpareFile>,
    /// Files of which nothing can be read.
    unreadable: Vec<u64>,
    next_number: u64,
    /// Size of the largest file, used or not.
    largest: u64,
    note: Note,
    note_state: NoteIs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NoteIs {
    /// And there need not be one.
    #[default]
    Absent,
    Damaged,
    Read,
}

struct FoundFile {
    number: u64,
    file: Arc<dyn HomeFile>,
    nonce: u64,
    start: u64,
    /// Size in bytes, as the header tells or else as it is.
    bytes: u64,
    /// What the header says of the file before; `None` if the header is lost.
    previous: Option<Previous>,
    /// LSN behind what is readable, once replayed.
    end: u64,
    damaged: bool,
    /// That it is damaged was known before.
    is_marked: bool,
    ahead: Option<Ahead>,
    /// How much it held up to `end`, damaged records included, as far as that is known.
    held: Amount,
}

/// How a file is found.
enum Opened {
    Used(FoundFile),
    /// Nothing was ever written to it.
    Blank,
    /// Something was, and it cannot be read.
    Unreadable,
}

#[derive(Clone, Copy)]
struct Previous {
    start: u64,
    end: u64,
    held: Option<Amount>,
}

/// Where the journal's content ends.
struct Tail {
    end: u64,
    sequence: u64,
}

impl Found {
    fn list(home: &dyn JournalHome) -> Result<Found, OpenError> {
        let listed =
            home.list().map_err(|error| OpenError::Io { action: "list journal files".into(), error })?;
        let listing = |error| OpenError::Io { action: "look at the journal's notes".into(), error };
        let suspects = home.suspects().map_err(listing)?;
        let mut found = Found::default();
        match Note::read(home).map_err(listing)? {
            NoteState::Absent => {}
            NoteState::Valid(note) => (found.note, found.note_state) = (note, NoteIs::Read),
            NoteState::Damaged => found.note_state = NoteIs::Damaged,
            NoteState::OtherVersion(other) => {
                return Err(OpenError::NoteVersion { found: other, supported: NOTE_VERSION });
            }
        }
        for (number, bytes) in listed {
            found.next_number = found.next_number.max(number.saturating_add(1));
            found.largest = found.largest.max(bytes);
            let file = home.open(number).map_err(|error| io_error("open", number, error))?;
            match FoundFile::open(number, file.clone())? {
                Opened::Used(file) => {
                    found.largest = found.largest.max(file.bytes);
                    let is_marked = suspects.contains(&number);
                    found.files.push(FoundFile { is_marked, damaged: is_marked, ..file });
                }
                Opened::Blank => found.blanks.push(SpareFile { number, file }),
                Opened::Unreadable => found.unreadable.push(number),
            }
        }
        found.files.sort_by_key(|file| file.start);
        // Files with such a header are begun once there is a note.
        let has_one = |file: &FoundFile| file.previous.is_some_and(|previous| previous.held.is_some());
        if found.note_state == NoteIs::Absent && found.files.iter().any(has_one) {
            found.note_state = NoteIs::Damaged;
        }
        match found.files.windows(2).find(|pair| pair[0].start == pair[1].start) {
            Some(pair) => Err(OpenError::Conflict {
                first: pair[0].number,
                second: pair[1].number,
                start: Lsn(pair[0].start),
            }),
            None => Ok(found),
        }
    }

    /// Begins to read what [`Found::replay`] is going to read.
    fn warm(&self, from: Lsn) -> Warm {
        // Of those before it, nothing is read.
        let wanted = |index: &usize| self.extent(*index).limit > from.0;
        let last = self.files.len().saturating_sub(1);
        let first = (0..last).find(wanted).unwrap_or(last);
        Warm::start(first, self.files.iter().skip(first).map(|file| file.file.clone()).collect())
    }

    fn replay(
        &mut self,
        from: Lsn,
        replay: &mut Replay<'_>,
        warm: &Warm,
        report: &mut RecoveryReport,
    ) -> Result<Tail, OpenError> {
        self.report_unplaced(from, report);
        let mut tail = Tail { end: self.files.first().map_or(0, |file| file.start), sequence: 0 };
        // Content below the first file was released, or is missing if the caller still asks for it.
        let mut expected = from.0;
        for index in 0..self.files.len() {
            warm.reached(index);
            let file = &self.files[index];
            let missing_to = match file.previous {
                Some(previous) => previous.end,
                None => file.start,
            };
            let follows = index > 0
                && file.previous.is_none_or(|previous| previous.start == self.files[index - 1].start);
            if !follows && expected < missing_to {
                report.quarantined.push(Damage::missing(expected, missing_to, None));
            }
            let (extent, counted) = (self.extent(index), self.counted(index));
            let is_last = index + 1 == self.files.len();
            let file = &mut self.files[index];
            if !is_last && extent.limit <= from.0 {
                file.end = extent.limit;
                tail.end = extent.limit;
                file.file.assume_uncached();
                continue;
            }
            let before = report.quarantined.len();
            let scan = FileScan::new(&*file.file, file.number, file.nonce, extent, from);
            let mut scan = scan.with(file.ahead);
            if file.previous.is_none() {
                // In the last file the header may merely not have arrived, like all of the tail.
                let proven = scan.is_proven(file.start);
                if !is_last || index == 0 || proven.map_err(|error| io_error("read", file.number, error))? {
                    report.quarantined.push(file.lost_header());
                }
            }
            let mut end = scan.run(replay, report).map_err(|error| io_error("read", file.number, error))?;
            let known_to = file.account(&mut end, counted, from, &mut report.quarantined, before);
            if is_last && file.file.bytes() < file.bytes {
                // Files are written to only at their full size: something has shortened this one.
                let declared_end = file.start + file.bytes;
                report.quarantined.push(Damage::missing(known_to, declared_end, Some(file.number)));
                end.clean = false;
            }
            file.damaged |= report.quarantined.len() > before;
            file.end = end.lsn;
            // An empty file adds nothing to what its predecessor ended with.
            if end.lsn > file.start + FILE_HEADER_BYTES || index == 0 {
                tail.end = end.lsn;
            }
            tail.sequence = tail.sequence.max(end.sequence);
            expected = expected.max(end.lsn);
            if is_last {
                report.clean_shutdown = end.clean;
            }
        }
        // An empty last file lies above its predecessor's end; a checkpoint may lie in between.
        let reached = self.files.last().map_or(0, |last| last.end);
        if reached < from.0 {
            report.quarantined.push(Damage::missing(tail.end, from.0, None));
        }
        self.report_missing_file(from, report);
        Ok(tail)
    }

    /// Has what nothing proves to be durable written again: see [`renew`].
    fn renew_tail(&mut self, from: Lsn) -> Result<(), OpenError> {
        let Some(index) = self.files.len().checked_sub(1) else { return Ok(()) };
        let extent = self.extent(index);
        let file = &mut self.files[index];
        let mut scan = FileScan::new(&*file.file, file.number, file.nonce, extent, from);
        let (positions, ahead) = scan.unproven().map_err(|error| io_error("read", file.number, error))?;
        file.ahead = Some(ahead);
        let bytes = positions.end.saturating_sub(positions.start);
        match renew(&*file.file, positions) {
            Err(error) if is_no_space(&error) => Err(OpenError::NoSpace { bytes }),
            outcome => outcome.map_err(|error| io_error("write and sync again", file.number, error)),
        }
    }

    /// Writes the header that the last file's unsynced tail lacks. A damaged file is left as it is.
    fn complete_last_header(&self) -> Result<(), OpenError> {
        let [.., before, last] = &self.files[..] else { return Ok(()) };
        if last.previous.is_some() || last.damaged {
            return Ok(());
        }
        let header = FileHeader {
            nonce: last.nonce,
            start: last.start,
            previous_end: before.end,
            previous_start: before.start,
            bytes: last.bytes,
            previous: Some(before.held),
        };
        let written = last.file.write_at(0, &[io::IoSlice::new(&header.encode())], false);
        written.and_then(|()| last.file.sync()).map_err(|error| io_error("complete", last.number, error))
    }

    /// How far a file's content goes, as far as the files behind it and the note tell.
    fn extent(&self, index: usize) -> Extent {
        let file = &self.files[index];
        let extent = self.extent_by_files(index);
        let noted = self.note.position.durable_of(file.nonce, file.start).unwrap_or(0);
        // Where it is not known how much there was, all is counted that is seen.
        let counted_to = self.counted(index).map_or(u64::MAX, |counted| counted.to);
        Extent { proven: extent.proven.max(noted), counted_to, ..extent }
    }

    fn extent_by_files(&self, index: usize) -> Extent {
        let file = &self.files[index];
        let size_end = file.start.saturating_add(file.file.bytes());
        let counted_to = u64::MAX;
        let Some(next) = self.files.get(index + 1) else {
            return Extent { start: file.start, limit: size_end, proven: 0, exact: false, counted_to };
        };
        match next.previous {
            Some(previous) if previous.start == file.start => {
                let (limit, proven) = (previous.end, previous.end);
                Extent { start: file.start, limit, proven, exact: true, counted_to }
            }
            // The file between, or its header, is lost. What is here was durable before that one began.
            Some(previous) => {
                let limit = size_end.min(previous.start.max(file.start));
                Extent { start: file.start, limit, proven: previous.start, exact: false, counted_to }
            }
            None => {
                let limit = size_end.min(next.start);
                Extent { start: file.start, limit, proven: next.start, exact: false, counted_to }
            }
        }
    }

    /// The header of the file that this start begins. Its start lies above every LSN that can ever have
    /// been given out: the last file may have been full, and another one begun behind it whose header was
    /// lost.
    fn next_header(&self, end: u64, from: Lsn, seed: u64) -> FileHeader {
        let used = match self.files.last() {
            Some(last) => last.start.saturating_add(last.bytes).saturating_add(self.largest),
            None => from.0,
        };
        // The file of the note may be missing, and was not larger than any other.
        let noted = self.note.position.durable.saturating_add(self.largest);
        let start = used.max(from.0).max(end).max(noted).next_multiple_of(START_ALIGN);
        let (previous_start, previous_end) = match self.files.last() {
            Some(last) => (last.start, last.end.max(last.start)),
            None => (from.0, from.0),
        };
        let nonce = Random::new(seed ^ Random::new(start).next_u64()).next_u64();
        let previous = Some(self.files.last().map_or_else(Amount::default, |last| last.held));
        FileHeader { nonce, start, previous_end, previous_start, bytes: 0, previous }
    }

    /// Writes the header and syncs it: from here on the cut is final.
    fn begin_file(
        &mut self,
        home: &dyn JournalHome,
        config: &JournalConfig,
        header: &FileHeader,
    ) -> Result<Arc<JournalFile>, OpenError> {
        let spare = self.first_file(home, config.first_file_bytes)?;
        let block = FileHeader { bytes: spare.file.bytes(), ..*header }.encode();
        let written = spare.file.write_at(0, &[io::IoSlice::new(&block)], false);
        written.and_then(|()| spare.file.sync()).map_err(|error| io_error("begin", spare.number, error))?;
        Ok(Arc::new(JournalFile {
            number: spare.number,
            file: spare.file,
            nonce: header.nonce,
            start: header.start,
            end: AtomicU64::new(header.start + FILE_HEADER_BYTES),
            damaged: AtomicBool::new(false),
        }))
    }

    fn first_file(&mut self, home: &dyn JournalHome, bytes: u64) -> Result<SpareFile, OpenError> {
        let number = self.next_number;
        self.next_number += 1;
        match home.create(number, bytes, Blocks::Written(&mut || true)) {
            Ok(file) => Ok(SpareFile { number, file }),
            Err(error) if is_no_space(&error) => {
                let usable = self.blanks.iter().position(|blank| blank.file.bytes() >= bytes);
                let index = usable.ok_or(OpenError::NoSpace { bytes })?;
                Ok(self.blanks.swap_remove(index))
            }
            Err(error) => Err(io_error("create", number, error)),
        }
    }
}

impl FoundFile {
    /// Reads a file's header, or without one its first frame.
    fn open(number: u64, file: Arc<dyn HomeFile>) -> Result<Opened, OpenError> {
        let failed = |error| io_error("read", number, error);
        let mut block = vec![0; FILE_HEADER_BYTES as usize];
        let read = file.read_at(0, &mut block).map_err(failed)?;
        block.truncate(read);
        let header = FileHeader::decode(&block);
        let (nonce, start, bytes, previous) = match header {
            FileHeaderState::Valid(header) => {
                let (start, end) = (header.previous_start, header.previous_end);
                let previous = Previous { start, end, held: header.previous };
                (header.nonce, header.start, header.bytes.max(file.bytes()), Some(previous))
            }
            FileHeaderState::OtherVersion(found) => {
                return Err(OpenError::Version { file: number, found, supported: FORMAT_VERSION });
            }
            FileHeaderState::Blank | FileHeaderState::Damaged => {
                match scan::first_frame(&*file).map_err(failed)? {
                    Some((position, frame)) => (frame.nonce, frame.lsn - position, file.bytes(), None),
                    None if header == FileHeaderState::Blank => return Ok(Opened::Blank),
                    None => return Ok(Opened::Unreadable),
                }
            }
        };
        let (end, damaged, is_marked, ahead, held) = (start, false, false, None, Amount::default());
        Ok(Opened::Used(FoundFile {
            number,
            file,
            nonce,
            start,
            bytes,
            previous,
            end,
            damaged,
            is_marked,
            ahead,
            held,
        }))
    }

    fn lost_header(&self) -> Damage {
        Damage {
            from: Lsn(self.start),
            to: Lsn(self.start + FILE_HEADER_BYTES),
            file: Some(self.number),
            file_start: Lsn(self.start),
            kind: DamageKind::FileHeader,
            shard: None,
            head: None,
            lost: None,
        }
    }

    fn into_file(self) -> Arc<JournalFile> {
        Arc::new(JournalFile {
            number: self.number,
            file: self.file,
            nonce: self.nonce,
            start: self.start,
            end: AtomicU64::new(self.end),
            damaged: AtomicBool::new(self.damaged),
        })
    }
}

fn io_error(action: &str, number: u64, error: io::Error) -> OpenError {
    OpenError::Io { action: format!("{action} journal file {number:016x}"), error }
}
