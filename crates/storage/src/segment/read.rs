//! Reading runs: an index point, then entries one after the other, each verified.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{
    self, ENTRY_HEADER_BYTES, EntryHeader, FORMAT_VERSION, HEADER_BYTES, INDEX_EVERY_BYTES, IndexPoint,
    TRAILER_BYTES,
};
use super::{Entry, ReadError, Run, SegmentFile, SegmentId, Shared};

/// Fewest and most bytes that one read asks for, unless an entry is larger.
const READ_BYTES: (u64, u64) = (4 << 10, 1 << 20);

pub(super) fn read(
    shared: &Shared,
    run: &Run,
    from: u64,
    max_bytes: usize,
    max_entries: usize,
) -> Result<Vec<Entry>, ReadError> {
    let mut entries: Vec<Entry> = Vec::new();
    if from >= run.end || max_entries == 0 {
        return Ok(entries);
    }
    let file = shared.file(run.segment)?;
    let points = shared.index(&file, run)?;
    let point = points.partition_point(|point| point.offset <= from).checked_sub(1);
    let distance = point.and_then(|point| points.get(point)).map_or(0, |point| point.distance);
    let mut cursor = Cursor::new(&*file, run, distance, max_bytes as u64 + INDEX_EVERY_BYTES);
    let mut left = max_bytes;
    while let Some(outcome) = cursor.next().transpose() {
        let entry = match outcome {
            Ok(entry) => entry,
            Err(_) if !entries.is_empty() => break,
            Err(fault) => return Err(fault.at(run, &points, from)),
        };
        if entry.offset.saturating_add(u64::from(entry.span)) <= from {
            continue;
        }
        let bytes = entry.head.len() + entry.body.len();
        if !entries.is_empty() && bytes > left {
            break;
        }
        left = left.saturating_sub(bytes);
        entries.push(entry);
        if entries.len() == max_entries {
            break;
        }
    }
    Ok(entries)
}

pub(super) fn find_timestamp(shared: &Shared, run: &Run, timestamp: i64) -> Result<Option<u64>, ReadError> {
    if run.max_timestamp < timestamp || run.entries == 0 {
        return Ok(None);
    }
    let file = shared.file(run.segment)?;
    let points = shared.index(&file, run)?;
    let point = points.partition_point(|point| point.timestamp_before < timestamp).checked_sub(1);
    let (offset, distance) = point
        .and_then(|point| points.get(point))
        .map_or((run.first, 0), |point| (point.offset, point.distance));
    let mut cursor = Cursor::new(&*file, run, distance, 2 * INDEX_EVERY_BYTES);
    let mut reached = offset;
    while let Some(entry) = cursor.next().map_err(|fault| fault.at(run, &points, reached))? {
        if entry.max_timestamp >= timestamp {
            return Ok(Some(entry.offset));
        }
        reached = entry.offset.saturating_add(u64::from(entry.span));
    }
    Ok(None)
}

pub(super) fn runs(shared: &Shared, id: SegmentId) -> Result<Vec<Run>, ReadError> {
    let file = shared.file(id)?;
    read_footer(&*file, id).map_err(|fault| fault.of_segment(id))
}

/// Reads everything in a file's bytes, for fuzzing; returns the number of entries.
pub(crate) fn read_all(file: &dyn SegmentFile, id: SegmentId) -> Option<u64> {
    let runs = read_footer(file, id).ok()?;
    let mut entries = 0;
    for run in runs {
        let _ = read_index(file, &run);
        let mut cursor = Cursor::new(file, &run, 0, INDEX_EVERY_BYTES);
        while let Ok(Some(_)) = cursor.next() {
            entries += 1;
        }
    }
    Some(entries)
}

impl Shared {
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
        if run.bytes <= INDEX_EVERY_BYTES {
            return Ok(Arc::new([]));
        }
        let key = (run.segment, run.position);
        if let Some(points) = self.indexes.lock().find(&key) {
            return Ok(points);
        }
        let failed = |error| ReadError::Io { segment: run.segment, error };
        let points: Arc<[IndexPoint]> = read_index(&**file, run).map_err(failed)?.unwrap_or_default().into();
        self.indexes.lock().insert(key, points.clone(), points.len());
        Ok(points)
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
    fn at(self, run: &Run, points: &[IndexPoint], from: u64) -> ReadError {
        match self {
            Fault::Damaged => {
                let resume = points.iter().map(|point| point.offset).find(|offset| *offset > from);
                let resume = resume.unwrap_or(run.end);
                ReadError::Damaged { segment: run.segment, stream: run.stream, from, resume }
            }
            Fault::Io(error) => ReadError::Io { segment: run.segment, error },
        }
    }

    fn of_segment(self, segment: SegmentId) -> ReadError {
        match self {
            Fault::Damaged => ReadError::Damaged { segment, stream: 0, from: 0, resume: u64::MAX },
            Fault::Io(error) => ReadError::Io { segment, error },
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
}

impl<'a> Cursor<'a> {
    fn new(file: &'a dyn SegmentFile, run: &'a Run, distance: u64, read_bytes: u64) -> Cursor<'a> {
        Cursor {
            file,
            run,
            at: run.position.saturating_add(distance),
            end: run.position.saturating_add(run.bytes).min(file.bytes()),
            floor: run.first,
            chunk: Bytes::new(),
            read_bytes: read_bytes.clamp(READ_BYTES.0, READ_BYTES.1),
        }
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
        let wanted = bytes.max(self.read_bytes).min(self.end.saturating_sub(self.at));
        if wanted < bytes {
            return Err(Fault::Damaged);
        }
        let mut chunk = vec![0; wanted as usize];
        let read = self.file.read_at(self.at, &mut chunk)?;
        if (read as u64) < bytes {
            return Err(Fault::Damaged);
        }
        chunk.truncate(read);
        self.chunk = Bytes::from(chunk);
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
