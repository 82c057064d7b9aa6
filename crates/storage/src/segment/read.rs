//! Reading runs: an index point, then entries one after the other, each verified.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::buffer::Buffer;
use crate::disk::BLOCK_BYTES;

use super::format::{
    self, ENTRY_HEADER_BYTES, EntryHeader, FORMAT_VERSION, HEADER_BYTES, INDEX_EVERY_BYTES, IndexPoint,
    TRAILER_BYTES,
};
use super::recent::{PIECE_BYTES_MAX, RecentPieces};
use super::{Entry, ReadError, Run, RunCheck, SegmentFile, SegmentId, Shared};

/// Fewest and most bytes that one read asks for, unless an entry is larger.
const READ_BYTES: (u64, u64) = (4 << 10, 1 << 20);
/// Read at least where reading goes on, for whoever reads next.
const GOING_ON_BYTES: u64 = PIECE_BYTES_MAX as u64 - BLOCK_BYTES as u64;

pub(super) fn read(
    shared: &Shared,
    run: &Run,
    from: u64,
    max_bytes: usize,
    max_entries: usize,
) -> Result<Vec<Entry>, ReadError> {
    if from >= run.end || max_entries == 0 {
        return Ok(Vec::new());
    }
    let Some(file) = shared.present(run.segment)? else { return Err(shared.lost(run, run.first, run.end)) };
    let points = shared.index(&file, run)?;
    let entry_bytes = run.bytes / run.entries.max(1) + 1;
    let mut gathered = Gathered::new(from, max_bytes, max_entries);
    let mut cursor = Cursor::new(&*file, run, start_at(run, &points, from), 0);
    cursor.recent = Some(&shared.recent);
    cursor.want(gathered.room(entry_bytes));
    let mut walk = Walk::new(cursor, &points);
    while let Some(step) = walk.next(shared)? {
        match step {
            Step::Lost(_, to) if to <= from => {}
            // What was read before the damage is an answer; the next read meets it first.
            Step::Lost(..) if !gathered.entries.is_empty() => break,
            Step::Lost(lost_from, to) => return Err(shared.lost(run, lost_from, to)),
            Step::Entry(entry) => {
                if !gathered.take(entry) {
                    break;
                }
            }
        }
        walk.cursor.want(gathered.room(entry_bytes));
    }
    Ok(gathered.entries)
}

pub(super) fn read_now(
    shared: &Shared,
    run: &Run,
    from: u64,
    max_bytes: usize,
    max_entries: usize,
) -> Option<Vec<Entry>> {
    if from >= run.end || max_entries == 0 {
        return Some(Vec::new());
    }
    let file = shared.files.lock().find(&run.segment)?;
    let points = shared.known_index(run)?;
    let mut cursor = Cursor::new(&*file, run, start_at(run, &points, from), 0);
    (cursor.recent, cursor.only_recent) = (Some(&shared.recent), true);
    let mut gathered = Gathered::new(from, max_bytes, max_entries);
    // Whoever reads from the file tells what is damaged.
    while let Ok(next) = cursor.next() {
        if !next.is_some_and(|entry| gathered.take(entry)) {
            return Some(gathered.entries);
        }
    }
    (!gathered.entries.is_empty()).then_some(gathered.entries)
}

/// The entries that one read returns.
struct Gathered {
    entries: Vec<Entry>,
    from: u64,
    left: usize,
    max_entries: usize,
}

impl Gathered {
    fn new(from: u64, max_bytes: usize, max_entries: usize) -> Gathered {
        Gathered { entries: Vec::new(), from, left: max_bytes, max_entries }
    }

    /// Bytes of as many more entries as have room, if all took `entry_bytes`; of one at least.
    fn room(&self, entry_bytes: u64) -> u64 {
        let entries = (self.max_entries - self.entries.len()) as u64;
        entry_bytes.saturating_mul((self.left as u64 / entry_bytes).clamp(1, entries.max(1)))
    }

    /// Takes an entry if it is wanted and has room; whether there may be another one.
    fn take(&mut self, entry: Entry) -> bool {
        if entry.offset.saturating_add(u64::from(entry.span)) <= self.from {
            return true;
        }
        let bytes = entry.head.len() + entry.body.len();
        if !self.entries.is_empty() && bytes > self.left {
            return false;
        }
        self.left = self.left.saturating_sub(bytes);
        self.entries.push(entry);
        // An entry like this one has no room any more: reading it would be in vain.
        self.entries.len() < self.max_entries && self.left >= bytes
    }
}

/// The last index point before the entry that contains `from`.
fn start_at(run: &Run, points: &[IndexPoint], from: u64) -> IndexPoint {
    let point = points.partition_point(|point| point.offset <= from).checked_sub(1);
    point.and_then(|point| points.get(point)).copied().unwrap_or(run_start(run))
}

pub(super) fn find_timestamp(shared: &Shared, run: &Run, timestamp: i64) -> Result<Option<u64>, ReadError> {
    if run.max_timestamp < timestamp || run.entries == 0 {
        return Ok(None);
    }
    let Some(file) = shared.present(run.segment)? else { return Ok(None) };
    let points = shared.index(&file, run)?;
    let point = points.partition_point(|point| point.timestamp_before < timestamp).checked_sub(1);
    let start = point.and_then(|point| points.get(point)).copied().unwrap_or(run_start(run));
    let mut walk = Walk::new(Cursor::new(&*file, run, start, 2 * INDEX_EVERY_BYTES), &points);
    while let Some(step) = walk.next(shared)? {
        if let Step::Entry(entry) = step
            && entry.max_timestamp >= timestamp
        {
            return Ok(Some(entry.offset));
        }
    }
    Ok(None)
}

/// Reads all of a run and tells which offsets are lost, and whether its index is.
pub(super) fn verify(shared: &Shared, run: &Run) -> Result<RunCheck, ReadError> {
    let mut check = RunCheck::default();
    let Some(file) = shared.present(run.segment)? else {
        check.lost.push((run.first, run.end));
        return Ok(check);
    };
    let failed = |error| ReadError::Io { segment: run.segment, error };
    let points = read_index(&*file, run).map_err(failed)?;
    check.index_damaged = points.is_none() && run.bytes > INDEX_EVERY_BYTES;
    let points = points.unwrap_or_default();
    let cursor = Cursor::new(&*file, run, run_start(run), READ_BYTES.1);
    let mut walk = Walk::new(cursor, &points);
    while let Some(step) = walk.next(shared)? {
        match step {
            Step::Entry(_) => check.entries += 1,
            Step::Lost(from, to) => check.lost.push((from, to)),
        }
    }
    if !check.lost.is_empty() || check.index_damaged {
        shared.damaged.lock().insert(run.segment);
    }
    Ok(check)
}

/// What is wrong with a segment's header and footer. Neither is needed while a checkpoint knows the runs.
pub(super) fn verify_frame(shared: &Shared, id: SegmentId) -> Result<Vec<&'static str>, ReadError> {
    let Some(file) = shared.present(id)? else { return Ok(vec!["missing file"]) };
    let failed = |error| ReadError::Io { segment: id, error };
    let mut header = [0; HEADER_BYTES];
    let read = file.read_at(0, &mut header).map_err(failed)?;
    let mut faults = Vec::new();
    if format::decode_header(&header[..read], id).is_none() {
        faults.push("damaged header");
    }
    match read_footer(&*file, id) {
        Ok(_) => {}
        Err(Fault::Damaged) => faults.push("damaged footer"),
        Err(Fault::Io(error)) => return Err(failed(error)),
    }
    if !faults.is_empty() {
        shared.damaged.lock().insert(id);
    }
    Ok(faults)
}

fn run_start(run: &Run) -> IndexPoint {
    IndexPoint { offset: run.first, distance: 0, timestamp_before: i64::MIN }
}

pub(super) fn runs(shared: &Shared, id: SegmentId) -> Result<Vec<Run>, ReadError> {
    let file = shared.file(id)?;
    read_footer(&*file, id).map_err(|fault| fault.of_segment(id))
}

/// Reads everything in a file's bytes, past damage, for fuzzing; returns the number of entries.
pub(crate) fn read_all(file: &dyn SegmentFile, id: SegmentId) -> Option<u64> {
    let runs = read_footer(file, id).ok()?;
    let mut entries = 0;
    for run in runs {
        let points = read_index(file, &run).ok()?.unwrap_or_default();
        let mut cursor = Cursor::new(file, &run, run_start(&run), INDEX_EVERY_BYTES);
        loop {
            match cursor.next() {
                Ok(Some(_)) => entries += 1,
                Ok(None) => break,
                Err(Fault::Damaged) => cursor.step_over(&points),
                Err(Fault::Io(_)) => return None,
            }
        }
    }
    Some(entries)
}

impl Shared {
    /// The file, unless there is none.
    fn present(&self, id: SegmentId) -> Result<Option<Arc<dyn SegmentFile>>, ReadError> {
        match self.file(id) {
            Err(ReadError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    fn lost(&self, run: &Run, from: u64, resume: u64) -> ReadError {
        self.damaged.lock().insert(run.segment);
        ReadError::Damaged { segment: run.segment, stream: run.stream, from, resume }
    }

    fn file(&self, id: SegmentId) -> Result<Arc<dyn SegmentFile>, ReadError> {
        if let Some(file) = self.files.lock().find(&id) {
            return Ok(file);
        }
        let failed = |error| ReadError::Io { segment: id, error };
        let file = self.store.open(id).map_err(failed)?;
        let mut header = [0; HEADER_BYTES];
        let read = file.read_at(0, &mut header).map_err(failed)?;
        // A damaged header hides nothing: entries carry their own checksums.
        match format::decode_header(&header[..read], id) {
            Some(found) if found != FORMAT_VERSION => {
                return Err(ReadError::Version { segment: id, found, supported: FORMAT_VERSION });
            }
            _ => {}
        }
        self.files.lock().insert(id, file.clone(), 1);
        Ok(file)
    }

    /// The run's index; without one, or with a damaged one, reading starts at the run's first entry.
    fn index(&self, file: &Arc<dyn SegmentFile>, run: &Run) -> Result<Arc<[IndexPoint]>, ReadError> {
        if let Some(points) = self.known_index(run) {
            return Ok(points);
        }
        let key = (run.segment, run.position);
        let failed = |error| ReadError::Io { segment: run.segment, error };
        let points: Arc<[IndexPoint]> = read_index(&**file, run).map_err(failed)?.unwrap_or_default().into();
        self.indexes.lock().insert(key, points.clone(), points.len());
        Ok(points)
    }

    fn known_index(&self, run: &Run) -> Option<Arc<[IndexPoint]>> {
        match run.bytes <= INDEX_EVERY_BYTES {
            true => Some(Arc::new([])),
            false => self.indexes.lock().find(&(run.segment, run.position)),
        }
    }
}

/// Why an entry cannot be read, before it is known which one.
enum Fault {
    Damaged,
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

impl Fault {
    fn of_segment(self, segment: SegmentId) -> ReadError {
        match self {
            Fault::Damaged => ReadError::Damaged { segment, stream: 0, from: 0, resume: u64::MAX },
            Fault::Io(error) => ReadError::Io { segment, error },
        }
    }
}

/// What comes next in a run.
enum Step {
    Entry(Entry),
    /// What lay at these offsets cannot be read.
    Lost(u64, u64),
}

/// Goes over a run's entries, and past damage: an entry is lost alone if the one behind it is where the
/// damaged header says, else all up to the next index point are.
struct Walk<'a> {
    cursor: Cursor<'a>,
    points: &'a [IndexPoint],
    /// Read, but what is lost before it is told first.
    held: Option<Entry>,
}

impl<'a> Walk<'a> {
    fn new(cursor: Cursor<'a>, points: &'a [IndexPoint]) -> Walk<'a> {
        Walk { cursor, points, held: None }
    }

    fn next(&mut self, shared: &Shared) -> Result<Option<Step>, ReadError> {
        if let Some(entry) = self.held.take() {
            return Ok(Some(Step::Entry(entry)));
        }
        let run = self.cursor.run;
        let lost_from = self.cursor.floor;
        let mut lost = false;
        loop {
            match self.cursor.next() {
                Ok(Some(entry)) if !lost => return Ok(Some(Step::Entry(entry))),
                Ok(Some(entry)) => {
                    let to = entry.offset;
                    self.held = Some(entry);
                    return Ok(Some(Step::Lost(lost_from, to)));
                }
                Ok(None) if lost => {
                    self.cursor.floor = run.end;
                    return Ok(Some(Step::Lost(lost_from, run.end)));
                }
                Ok(None) => return Ok(None),
                Err(Fault::Io(error)) => return Err(ReadError::Io { segment: run.segment, error }),
                Err(Fault::Damaged) => {
                    shared.damaged.lock().insert(run.segment);
                    lost = true;
                    self.cursor.step_over(self.points);
                }
            }
        }
    }
}

/// Walks over a run's entries.
struct Cursor<'a> {
    file: &'a dyn SegmentFile,
    run: &'a Run,
    /// Position of the next entry in the file, and where the run ends.
    at: u64,
    end: u64,
    /// Offset that the next entry must not lie below.
    floor: u64,
    chunk: Bytes,
    read_bytes: u64,
    /// Where to look before the file is read, and what was read of it is left for others.
    recent: Option<&'a RecentPieces>,
    /// Nothing is read from the file: what would be is [`io::ErrorKind::WouldBlock`].
    only_recent: bool,
}

impl<'a> Cursor<'a> {
    fn new(file: &'a dyn SegmentFile, run: &'a Run, start: IndexPoint, read_bytes: u64) -> Cursor<'a> {
        Cursor {
            file,
            run,
            at: run.position.saturating_add(start.distance),
            end: run.position.saturating_add(run.bytes).min(file.bytes()),
            floor: start.offset,
            chunk: Bytes::new(),
            read_bytes: read_bytes.clamp(READ_BYTES.0, READ_BYTES.1),
            recent: None,
            only_recent: false,
        }
    }

    /// So much more is wanted, and little beyond that is read.
    fn want(&mut self, bytes: u64) {
        self.read_bytes = bytes.saturating_add(INDEX_EVERY_BYTES).clamp(READ_BYTES.0, READ_BYTES.1);
    }

    /// Goes to where the next entry may be readable again.
    fn step_over(&mut self, points: &[IndexPoint]) {
        let (at, floor) = (self.at, self.floor);
        self.chunk = Bytes::new();
        let length =
            self.fill(ENTRY_HEADER_BYTES as u64).ok().and_then(|()| EntryHeader::decode(&self.chunk));
        self.chunk = Bytes::new();
        // The length may be what is damaged: it counts if a sound entry lies behind.
        if let Some(length) = length.map(|header| header.entry_bytes()) {
            let behind = at.saturating_add(length);
            self.at = behind;
            if behind < self.end && matches!(self.next(), Ok(Some(_))) {
                (self.at, self.floor, self.chunk) = (behind, floor, Bytes::new());
                return;
            }
        }
        let distance = at.saturating_sub(self.run.position);
        let point = points.iter().find(|point| point.distance > distance && point.offset >= floor);
        self.at = match point {
            Some(point) => self.run.position.saturating_add(point.distance),
            None => self.run.position.saturating_add(self.run.bytes),
        };
        (self.floor, self.chunk) = (floor, Bytes::new());
    }

    fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let run_end = self.run.position.saturating_add(self.run.bytes);
        if self.at >= run_end {
            return Ok(None);
        }
        self.fill(ENTRY_HEADER_BYTES as u64)?;
        let header = EntryHeader::decode(&self.chunk).ok_or(Fault::Damaged)?;
        // Not verified yet: it may ask for no more than the run holds.
        let bytes = header.entry_bytes();
        if bytes > self.end.saturating_sub(self.at) {
            return Err(Fault::Damaged);
        }
        self.fill(bytes)?;
        let entry = self.chunk.split_to(bytes as usize);
        let sound = header.verify(self.run.segment, &entry)
            && header.stream == self.run.stream
            && header.offset >= self.floor;
        if !sound {
            return Err(Fault::Damaged);
        }
        self.at += bytes;
        self.floor = header.offset.saturating_add(u64::from(header.span));
        let body_at = ENTRY_HEADER_BYTES + header.head_len as usize;
        Ok(Some(Entry {
            offset: header.offset,
            span: header.span,
            max_timestamp: header.max_timestamp,
            head: entry.slice(ENTRY_HEADER_BYTES..body_at),
            body: entry.slice(body_at..),
        }))
    }

    /// Makes the chunk hold at least `bytes` from `at` on.
    fn fill(&mut self, bytes: u64) -> Result<(), Fault> {
        if self.chunk.len() as u64 >= bytes {
            return Ok(());
        }
        let left = self.end.saturating_sub(self.at);
        if left < bytes {
            return Err(Fault::Damaged);
        }
        if let Some(chunk) = self.recent.and_then(|recent| recent.from(self.run.segment, self.at, bytes)) {
            self.chunk = chunk.slice(..chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            return Ok(());
        }
        if self.only_recent {
            return Err(Fault::Io(io::ErrorKind::WouldBlock.into()));
        }
        let goes_on = self.recent.is_some_and(|recent| recent.lead_to(self.run.segment, self.at));
        let usual = if goes_on { self.read_bytes.max(GOING_ON_BYTES) } else { self.read_bytes };
        let wanted = bytes.max(usual).min(left);
        // Whole blocks, so that a disk can be read past the page cache.
        let before = self.at % BLOCK_BYTES as u64;
        let whole = (before + wanted).next_multiple_of(BLOCK_BYTES as u64);
        let mut chunk = Buffer::new(whole as usize);
        let read = self.file.read_at(self.at - before, &mut chunk)? as u64;
        if read < before + bytes {
            return Err(Fault::Damaged);
        }
        let read = read.min(before + wanted);
        self.chunk = chunk.freeze().slice(before as usize..read as usize);
        if let Some(recent) = self.recent {
            recent.add(self.run.segment, self.at, self.chunk.clone());
        }
        Ok(())
    }
}

fn read_index(file: &dyn SegmentFile, run: &Run) -> io::Result<Option<Vec<IndexPoint>>> {
    let position = run.position.saturating_add(run.bytes);
    let mut start = [0; 4];
    if run.bytes <= INDEX_EVERY_BYTES || file.read_at(position, &mut start)? < start.len() {
        return Ok(None);
    }
    let left = file.bytes().saturating_sub(position);
    let Some(bytes) = format::index_bytes(&start).filter(|bytes| *bytes <= left) else { return Ok(None) };
    let mut index = vec![0; bytes as usize];
    if file.read_at(position, &mut index)? < index.len() {
        return Ok(None);
    }
    Ok(format::decode_index(run.segment, &index))
}

fn read_footer(file: &dyn SegmentFile, id: SegmentId) -> Result<Vec<Run>, Fault> {
    let position = file.bytes().checked_sub(TRAILER_BYTES as u64).ok_or(Fault::Damaged)?;
    let mut trailer = [0; TRAILER_BYTES];
    file.read_at(position, &mut trailer)?;
    let (position, bytes, crc) = format::decode_trailer(id, &trailer, file.bytes()).ok_or(Fault::Damaged)?;
    let mut footer = vec![0; bytes as usize];
    if file.read_at(position, &mut footer)? < footer.len() {
        return Err(Fault::Damaged);
    }
    format::decode_footer(id, &footer, crc).ok_or(Fault::Damaged)
}
