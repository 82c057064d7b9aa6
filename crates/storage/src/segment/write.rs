//! Writing a segment: buffered, then synced, read back and verified before it gets its name.

use std::io;

use super::format::{
    ENTRY_HEADER_BYTES, EntryHeader, INDEX_EVERY_BYTES, IndexPoint, encode_footer, encode_header,
    encode_index,
};
use super::{Run, SegmentId, SegmentSink, Segments};
use crate::buffer::Buffer;

const BUFFER_BYTES: usize = 1 << 20;

/// Why a segment was not written. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The store failed.
    #[error("cannot write segment {segment}: {error}")]
    Io {
        /// The segment.
        segment: SegmentId,
        /// What the store said.
        error: io::Error,
    },
    /// An entry did not lie behind the one before it, or was too large.
    #[error("segment {segment}: offset {offset} of stream {stream} does not follow the entry before it")]
    Misplaced {
        /// The segment.
        segment: SegmentId,
        /// The entry's stream.
        stream: u64,
        /// The entry's offset.
        offset: u64,
    },
    /// What was read back differs from what was written.
    #[error("segment {segment} did not read back as written; the disk may be failing")]
    Unverified {
        /// The segment.
        segment: SegmentId,
    },
}

/// A segment being written.
pub struct SegmentWriter {
    segments: Segments,
    id: SegmentId,
    sink: Option<Box<dyn SegmentSink>>,
    buffer: Vec<u8>,
    /// Bytes handed to the sink.
    written: u64,
    crc: u32,
    runs: Vec<Run>,
    points: Vec<IndexPoint>,
    /// What comes next begins a run.
    broken: bool,
    failed: Option<WriteError>,
}

impl SegmentWriter {
    pub(super) fn new(segments: Segments, id: SegmentId) -> SegmentWriter {
        SegmentWriter {
            segments,
            id,
            sink: None,
            buffer: encode_header(id).to_vec(),
            written: 0,
            crc: 0,
            runs: Vec::new(),
            points: Vec::new(),
            broken: false,
            failed: None,
        }
    }

    /// Adds an entry that covers `span` offsets from `offset` on. A stream's entries come one after the
    /// other, in offset order. What goes wrong is told by [`SegmentWriter::finish`].
    pub fn append(
        &mut self,
        stream: u64,
        offset: u64,
        span: u32,
        max_timestamp: i64,
        head: &[u8],
        body: &[u8],
    ) {
        if self.failed.is_some() {
            return;
        }
        let misplaced = WriteError::Misplaced { segment: self.id, stream, offset };
        let (Ok(head_len), Ok(body_len)) = (u32::try_from(head.len()), u32::try_from(body.len())) else {
            self.failed = Some(misplaced);
            return;
        };
        let broken = std::mem::take(&mut self.broken);
        if self.runs.last().is_none_or(|run| run.stream != stream || broken) {
            self.end_run();
            self.begin_run(stream, offset, max_timestamp);
        }
        let Some(run) = self.runs.last_mut() else { return };
        let end = offset.checked_add(u64::from(span.max(1)));
        let Some(end) = end.filter(|_| run.entries == 0 || offset >= run.end) else {
            self.failed = Some(misplaced);
            return;
        };
        let indexed_to = self.points.last().map(|point| point.distance);
        if indexed_to.is_none_or(|distance| run.bytes - distance >= INDEX_EVERY_BYTES) {
            let timestamp_before = if run.entries == 0 { i64::MIN } else { run.max_timestamp };
            self.points.push(IndexPoint { offset, distance: run.bytes, timestamp_before });
        }
        run.end = end;
        run.entries += 1;
        run.bytes += (ENTRY_HEADER_BYTES + head.len() + body.len()) as u64;
        run.max_timestamp = run.max_timestamp.max(max_timestamp);
        let header =
            EntryHeader { crc: 0, head_len, body_len, span: span.max(1), offset, max_timestamp, stream };
        let header = header.encode(self.id, head, body);
        self.write(&header);
        self.write(head);
        self.write(body);
    }

    /// What is appended next begins a run: between it and what came before lie entries that are elsewhere.
    pub fn break_run(&mut self) {
        self.broken = true;
    }

    /// Bytes appended so far.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Writes the rest, syncs, reads everything back, and publishes the segment. Without entries there is
    /// none.
    pub fn finish(mut self) -> Result<Vec<Run>, WriteError> {
        self.end_run();
        let footer = encode_footer(self.id, self.bytes(), &self.runs);
        self.write(&footer);
        self.flush();
        if let Some(error) = self.failed {
            return Err(error);
        }
        let id = self.id;
        let failed = |error| WriteError::Io { segment: id, error };
        let Some(mut sink) = self.sink.take().filter(|_| !self.runs.is_empty()) else {
            return Ok(Vec::new());
        };
        sink.sync().map_err(failed)?;
        if read_back(&*sink, self.written).map_err(failed)? != Some(self.crc) {
            return Err(WriteError::Unverified { segment: id });
        }
        sink.publish().map_err(failed)?;
        self.segments.shared.published(id, self.written);
        Ok(self.runs)
    }

    fn begin_run(&mut self, stream: u64, offset: u64, max_timestamp: i64) {
        self.points.clear();
        self.runs.push(Run {
            segment: self.id,
            stream,
            first: offset,
            end: offset,
            entries: 0,
            bytes: 0,
            position: self.bytes(),
            max_timestamp,
        });
    }

    fn end_run(&mut self) {
        if self.runs.last().is_some_and(|run| run.bytes > INDEX_EVERY_BYTES) {
            let index = encode_index(self.id, &self.points);
            self.write(&index);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.failed.is_some() {
            return self.buffer.clear();
        }
        let outcome = match &mut self.sink {
            Some(sink) => sink.append(&self.buffer),
            None => self.segments.shared.store.create(self.id).and_then(|mut sink| {
                let appended = sink.append(&self.buffer);
                self.sink = Some(sink);
                appended
            }),
        };
        if let Err(error) = outcome {
            self.failed = Some(WriteError::Io { segment: self.id, error });
        }
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
    }
}

/// The checksum of everything in the sink; `None` if it holds less than `bytes`.
fn read_back(sink: &dyn SegmentSink, bytes: u64) -> io::Result<Option<u32>> {
    let mut buffer = Buffer::new(BUFFER_BYTES);
    let (mut position, mut crc) = (0, 0);
    while position < bytes {
        let wanted = usize::try_from(bytes - position).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        // Whole blocks, so that they are read from the disk.
        if sink.read_at(position, &mut buffer)? < wanted {
            return Ok(None);
        }
        crc = crc32c::crc32c_append(crc, &buffer[..wanted]);
        position += wanted as u64;
    }
    Ok(Some(crc))
}
