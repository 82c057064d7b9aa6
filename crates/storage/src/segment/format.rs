//! A segment's bytes. Integers are little-endian.
//!
//! ```text
//! header   magic 8 | version 4 | crc 4 | segment 8 | zero 8
//! entry    crc 4 | head_len 4 | body_len 4 | span 4 | offset 8 | timestamp 8 | stream 8 | head | body
//! index    (after each run of more than 32 KiB) points 4 | crc 4 | (offset 8 | distance 8 | timestamp 8)*
//! footer   (stream 8 | first 8 | end 8 | entries 8 | bytes 8 | position 8 | timestamp 8)*
//! trailer  magic 8 | version 4 | crc 4 | segment 8 | footer position 8 | footer crc 4 | runs 4
//! ```
//!
//! Every checksum covers the segment's id, so that bytes of another segment are never taken for this one's.

use super::{Run, SegmentId};
use crate::journal::format::{u32_at, u64_at};

/// Version of everything in this module; written into each file.
pub const FORMAT_VERSION: u32 = 1;
/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 32;
/// Size of an entry's header in bytes.
pub const ENTRY_HEADER_BYTES: usize = 40;
/// Size of the trailer in bytes.
pub const TRAILER_BYTES: usize = 40;
/// A run of more bytes than this has an index, with a point about as often.
pub const INDEX_EVERY_BYTES: u64 = 32 * 1024;

const HEADER_MAGIC: [u8; 8] = *b"PHSEGMNT";
const TRAILER_MAGIC: [u8; 8] = *b"PHSEGEND";
const INDEX_HEADER_BYTES: usize = 8;
const INDEX_POINT_BYTES: usize = 24;
const FOOTER_RUN_BYTES: usize = 56;

/// An entry's place in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexPoint {
    /// The entry's offset.
    pub offset: u64,
    /// Bytes from the run's first entry to this one.
    pub distance: u64,
    /// Highest timestamp of all entries before it.
    pub timestamp_before: i64,
}

/// What starts an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// CRC32C over segment id, the rest of the header, head and body.
    pub crc: u32,
    /// Bytes of the head.
    pub head_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// Number of offsets covered.
    pub span: u32,
    /// First offset.
    pub offset: u64,
    /// Highest timestamp in the entry.
    pub max_timestamp: i64,
    /// The stream.
    pub stream: u64,
}

impl EntryHeader {
    /// The header's bytes; the checksum is computed, not taken from `self`.
    pub fn encode(&self, segment: SegmentId, head: &[u8], body: &[u8]) -> [u8; ENTRY_HEADER_BYTES] {
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.head_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.span.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.max_timestamp.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.stream.to_le_bytes());
        let crc = crc(segment, &[&bytes[4..], head, body]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the fields; nothing is verified.
    pub fn decode(bytes: &[u8]) -> Option<EntryHeader> {
        bytes.get(..ENTRY_HEADER_BYTES)?;
        Some(EntryHeader {
            crc: u32_at(bytes, 0)?,
            head_len: u32_at(bytes, 4)?,
            body_len: u32_at(bytes, 8)?,
            span: u32_at(bytes, 12)?,
            offset: u64_at(bytes, 16)?,
            max_timestamp: u64_at(bytes, 24)? as i64,
            stream: u64_at(bytes, 32)?,
        })
    }

    /// Bytes of header, head and body.
    pub fn entry_bytes(&self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + u64::from(self.head_len) + u64::from(self.body_len)
    }

    /// Whether `entry`, the whole of it, is what was written.
    pub fn verify(&self, segment: SegmentId, entry: &[u8]) -> bool {
        entry.len() as u64 == self.entry_bytes() && crc(segment, &[&entry[4..]]) == self.crc
    }
}

/// The file's first bytes.
pub fn encode_header(segment: SegmentId) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&HEADER_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&segment.0.to_le_bytes());
    let crc = crc(segment, &[&bytes[..12]]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The version that a file's first bytes name; `None` if they are damaged or another segment's.
pub fn decode_header(bytes: &[u8], segment: SegmentId) -> Option<u32> {
    let sound = bytes.get(..8)? == HEADER_MAGIC
        && u64_at(bytes, 16)? == segment.0
        && u32_at(bytes, 12)? == crc(segment, &[&bytes[..12]]);
    if sound { u32_at(bytes, 8) } else { None }
}

/// The index behind a run.
pub fn encode_index(segment: SegmentId, points: &[IndexPoint]) -> Vec<u8> {
    let mut bytes = vec![0; INDEX_HEADER_BYTES];
    for point in points {
        bytes.extend_from_slice(&point.offset.to_le_bytes());
        bytes.extend_from_slice(&point.distance.to_le_bytes());
        bytes.extend_from_slice(&point.timestamp_before.to_le_bytes());
    }
    bytes[..4].copy_from_slice(&(points.len() as u32).to_le_bytes());
    let crc = crc(segment, &[&bytes[..4], &bytes[INDEX_HEADER_BYTES..]]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Bytes of an index, from its first four; `None` if they are not there.
pub fn index_bytes(start: &[u8]) -> Option<u64> {
    Some(INDEX_HEADER_BYTES as u64 + u64::from(u32_at(start, 0)?) * INDEX_POINT_BYTES as u64)
}

/// Reads and verifies an index.
pub fn decode_index(segment: SegmentId, bytes: &[u8]) -> Option<Vec<IndexPoint>> {
    let points = bytes.get(INDEX_HEADER_BYTES..)?;
    let sound = u32_at(bytes, 0)? as usize == points.len() / INDEX_POINT_BYTES
        && points.len().is_multiple_of(INDEX_POINT_BYTES)
        && u32_at(bytes, 4)? == crc(segment, &[&bytes[..4], points]);
    if !sound {
        return None;
    }
    let point = |bytes: &[u8]| {
        Some(IndexPoint {
            offset: u64_at(bytes, 0)?,
            distance: u64_at(bytes, 8)?,
            timestamp_before: u64_at(bytes, 16)? as i64,
        })
    };
    points.chunks_exact(INDEX_POINT_BYTES).map(point).collect()
}

/// Footer and trailer.
pub fn encode_footer(segment: SegmentId, position: u64, runs: &[Run]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(runs.len() * FOOTER_RUN_BYTES + TRAILER_BYTES);
    for run in runs {
        let timestamp = run.max_timestamp as u64;
        for field in [run.stream, run.first, run.end, run.entries, run.bytes, run.position, timestamp] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
    }
    let footer_crc = crc(segment, &[&bytes]);
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..8].copy_from_slice(&TRAILER_MAGIC);
    trailer[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    trailer[16..24].copy_from_slice(&segment.0.to_le_bytes());
    trailer[24..32].copy_from_slice(&position.to_le_bytes());
    trailer[32..36].copy_from_slice(&footer_crc.to_le_bytes());
    trailer[36..40].copy_from_slice(&(runs.len() as u32).to_le_bytes());
    let trailer_crc = crc(segment, &[&trailer[16..]]);
    trailer[12..16].copy_from_slice(&trailer_crc.to_le_bytes());
    bytes.extend_from_slice(&trailer);
    bytes
}

/// Where the footer lies: position, bytes, checksum. `file_bytes` bounds what a damaged trailer can claim.
pub fn decode_trailer(segment: SegmentId, bytes: &[u8], file_bytes: u64) -> Option<(u64, u64, u32)> {
    let bytes = bytes.get(..TRAILER_BYTES)?;
    let sound = bytes[..8] == TRAILER_MAGIC
        && u64_at(bytes, 16)? == segment.0
        && u32_at(bytes, 12)? == crc(segment, &[&bytes[16..]]);
    let (position, runs) = (u64_at(bytes, 24)?, u64::from(u32_at(bytes, 36)?));
    let footer_bytes = runs * FOOTER_RUN_BYTES as u64;
    let end = position.checked_add(footer_bytes)?.checked_add(TRAILER_BYTES as u64)?;
    (sound && end == file_bytes).then_some((position, footer_bytes, u32_at(bytes, 32)?))
}

/// Reads and verifies a footer.
pub fn decode_footer(segment: SegmentId, bytes: &[u8], footer_crc: u32) -> Option<Vec<Run>> {
    if crc(segment, &[bytes]) != footer_crc {
        return None;
    }
    let run = |bytes: &[u8]| {
        Some(Run {
            segment,
            stream: u64_at(bytes, 0)?,
            first: u64_at(bytes, 8)?,
            end: u64_at(bytes, 16)?,
            entries: u64_at(bytes, 24)?,
            bytes: u64_at(bytes, 32)?,
            position: u64_at(bytes, 40)?,
            max_timestamp: u64_at(bytes, 48)? as i64,
        })
    };
    bytes.chunks_exact(FOOTER_RUN_BYTES).map(run).collect()
}

/// Makes the checksums of a changed file right again, for fuzzing: what is behind them is reached. With
/// `placed` the trailer also says where the footer lies now, and entries name the stream of their run.
pub(crate) fn repair(bytes: &mut [u8], segment: SegmentId, placed: bool) {
    if let Some(header) = bytes.get_mut(..HEADER_BYTES) {
        let crc = crc(segment, &[&header[..12]]);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    let file_bytes = bytes.len() as u64;
    let Some(trailer_at) = bytes.len().checked_sub(TRAILER_BYTES) else { return };
    let (content, trailer) = bytes.split_at_mut(trailer_at);
    let runs = u64::from(u32_at(trailer, 36).unwrap_or(0));
    if placed && let Some(position) = (trailer_at as u64).checked_sub(runs * FOOTER_RUN_BYTES as u64) {
        trailer[..8].copy_from_slice(&TRAILER_MAGIC);
        trailer[16..24].copy_from_slice(&segment.0.to_le_bytes());
        trailer[24..32].copy_from_slice(&position.to_le_bytes());
    }
    let position = u64_at(trailer, 24).and_then(|position| usize::try_from(position).ok());
    let position = position.unwrap_or(usize::MAX).min(content.len());
    let (entries, footer) = content.split_at_mut(position);
    trailer[32..36].copy_from_slice(&crc(segment, &[footer]).to_le_bytes());
    let trailer_crc = crc(segment, &[&trailer[16..]]);
    trailer[12..16].copy_from_slice(&trailer_crc.to_le_bytes());
    if decode_trailer(segment, trailer, file_bytes).is_none() {
        return;
    }
    for run in footer.chunks_exact(FOOTER_RUN_BYTES) {
        repair_run(entries, segment, run, placed);
    }
}

/// The same for the entries and the index of the run that these bytes of the footer tell of.
fn repair_run(bytes: &mut [u8], segment: SegmentId, run: &[u8], placed: bool) -> Option<()> {
    let run_bytes = u64_at(run, 32)?;
    let mut at = usize::try_from(u64_at(run, 40)?).ok()?;
    let end = at.checked_add(usize::try_from(run_bytes).ok()?)?.min(bytes.len());
    while let Some(header) = EntryHeader::decode(bytes.get(at..end)?) {
        let Some(entry) = bytes.get_mut(at..at.checked_add(usize::try_from(header.entry_bytes()).ok()?)?)
        else {
            break;
        };
        if placed {
            entry[32..40].copy_from_slice(&run[..8]);
        }
        let crc = crc(segment, &[&entry[4..]]);
        entry[..4].copy_from_slice(&crc.to_le_bytes());
        at += entry.len();
    }
    if run_bytes > INDEX_EVERY_BYTES {
        let index = usize::try_from(index_bytes(bytes.get(end..)?)?).ok()?;
        let index = bytes.get_mut(end..end.checked_add(index)?)?;
        let crc = crc(segment, &[&index[..4], &index[INDEX_HEADER_BYTES..]]);
        index[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    Some(())
}

fn crc(segment: SegmentId, parts: &[&[u8]]) -> u32 {
    let seed = crc32c::crc32c(&segment.0.to_le_bytes());
    parts.iter().fold(seed, |crc, part| crc32c::crc32c_append(crc, part))
}
