//! The journal's bytes: file header, frame header, record header. Integers are little-endian.
//!
//! ```text
//! file    magic 8 | version 4 | crc 4 | nonce 8 | start lsn 8 | previous end 8 | previous start 8 | size 8 |
//!         crc 4 | 0 4 | previous records 8 | previous messages 8
//! frame   magic 4 | crc 4 | sequence 8 | lsn 8 | nonce 8 | length 8 | durable 8 | records 4 | flags 4 |
//!         messages 8
//! record  crc 4 | head_len 4 | body_len 4 | shard 2 | flags 2 | lsn 8 | nonce 8 | head | body | pad
//! ```
//!
//! A position in a file plus the file's start is its LSN, headers included. The file header is stored
//! twice, 2048 bytes apart, so that one bad sector does not cost a file. LSN and nonce lie at the same
//! place in frames and records: one scan finds both.

use crate::journal::{Amount, Lsn};

/// Version of everything in this module; written into each file.
pub const FORMAT_VERSION: u32 = 1;
/// The file header's place on disk, in bytes; the first frame follows it.
pub const FILE_HEADER_BYTES: u64 = 4096;
/// Size of a frame header in bytes.
pub const FRAME_HEADER_BYTES: usize = 64;
/// Size of a record header in bytes.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Records start at multiples of this many bytes.
pub const ALIGN: u64 = 8;
/// Largest head of a record, in bytes.
pub const MAX_HEAD_BYTES: usize = 1 << 20;
/// Largest body of a record, in bytes.
pub const MAX_BODY_BYTES: usize = 1 << 30;

/// No journal gets there; whatever names more is damaged. The sum of an LSN and of lengths overflows nowhere.
const LSN_MAX: u64 = 1 << 62;

const FILE_MAGIC: [u8; 8] = *b"PHJOURNL";
const FRAME_MAGIC: [u8; 4] = *b"PHFR";
const HEADER_COPY_AT: usize = 2048;
const FILE_HEADER_USED: usize = 56;
/// What was before is beside it, with a checksum of its own: the header is as good without.
const PREVIOUS_AT: usize = FILE_HEADER_USED;
const PREVIOUS_BYTES: usize = 24;

/// The record is atomic with the next one of its batch.
pub const JOINED: u8 = 1;
/// The record is atomic with the one before it; set by the batch, so that a reader that lost the one before
/// knows.
pub const CONTINUES: u8 = 2;
/// Above the two flags: how many messages the record holds.
const MESSAGES_AT_BIT: u32 = 2;
/// And the most that fits there. It stands for more as well: see [`RecordHeader::messages`].
pub const MAX_RECORD_MESSAGES: u16 = u16::MAX >> MESSAGES_AT_BIT;

/// The frame ends a journal that was closed: nothing follows it.
pub const CLEAN: u32 = 1;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Distinguishes this life of the file from its earlier ones and from other journals' files.
    pub nonce: u64,
    /// LSN of the file's first byte.
    pub start: u64,
    /// Where the journal's content ended before this file; durable when this header was written.
    pub previous_end: u64,
    /// Start of the file that content was in; equal to `previous_end` for the very first file.
    pub previous_start: u64,
    /// Size of the file in bytes, so that a truncated one is known.
    pub bytes: u64,
    /// How much lay in the file before, up to its end, if that was counted.
    pub previous: Option<Amount>,
}

/// How a file header reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileHeaderState {
    /// Written by this format version.
    Valid(FileHeader),
    /// Written by another format version.
    OtherVersion(u32),
    /// Never written: the file was prepared and not used.
    Blank,
    /// Neither copy can be read.
    Damaged,
}

impl FileHeader {
    /// The header's block, both copies in it.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; FILE_HEADER_BYTES as usize];
        let mut used = [0; FILE_HEADER_USED];
        used[..8].copy_from_slice(&FILE_MAGIC);
        used[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let fields = [self.nonce, self.start, self.previous_end, self.previous_start, self.bytes];
        for (index, field) in fields.iter().enumerate() {
            used[16 + index * 8..24 + index * 8].copy_from_slice(&field.to_le_bytes());
        }
        let crc = file_header_crc(&used);
        used[12..16].copy_from_slice(&crc.to_le_bytes());
        block[..FILE_HEADER_USED].copy_from_slice(&used);
        block[HEADER_COPY_AT..HEADER_COPY_AT + FILE_HEADER_USED].copy_from_slice(&used);
        if let Some(previous) = self.previous {
            let previous = encode_previous(self.nonce, previous);
            for at in [PREVIOUS_AT, HEADER_COPY_AT + PREVIOUS_AT] {
                block[at..at + PREVIOUS_BYTES].copy_from_slice(&previous);
            }
        }
        block
    }

    /// Reads a file's first block, which may be cut short.
    pub fn decode(block: &[u8]) -> FileHeaderState {
        let copies =
            [0, HEADER_COPY_AT].map(|at| block.get(at..at + PREVIOUS_AT + PREVIOUS_BYTES).map(decode_copy));
        let mut best = None;
        for copy in copies.into_iter().flatten().flatten() {
            match (copy, best) {
                // A recycled file whose new header arrived by half: the higher start is the newer life.
                (FileHeaderState::Valid(new), Some(FileHeaderState::Valid(old)))
                    if new.start <= old.start => {}
                (FileHeaderState::OtherVersion(_), Some(_)) => {}
                _ => best = Some(copy),
            }
        }
        match best {
            Some(state) => state,
            None if block.iter().all(|byte| *byte == 0) => FileHeaderState::Blank,
            None => FileHeaderState::Damaged,
        }
    }
}

fn decode_copy(used: &[u8]) -> Option<FileHeaderState> {
    let (used, previous) = used.split_at(PREVIOUS_AT);
    if used[..8] != FILE_MAGIC || u32_at(used, 12)? != file_header_crc(used) {
        return None;
    }
    let version = u32_at(used, 8)?;
    if version != FORMAT_VERSION {
        return Some(FileHeaderState::OtherVersion(version));
    }
    let header = FileHeader {
        nonce: u64_at(used, 16)?,
        start: u64_at(used, 24)?,
        previous_end: u64_at(used, 32)?,
        previous_start: u64_at(used, 40)?,
        bytes: u64_at(used, 48)?,
        previous: decode_previous(u64_at(used, 16)?, previous),
    };
    let sound = header.start.is_multiple_of(ALIGN)
        && header.start <= LSN_MAX
        && header.bytes <= LSN_MAX
        && header.previous_end <= header.start
        && header.previous_start <= header.previous_end;
    sound.then_some(FileHeaderState::Valid(header))
}

fn encode_previous(nonce: u64, previous: Amount) -> [u8; PREVIOUS_BYTES] {
    let mut bytes = [0; PREVIOUS_BYTES];
    bytes[8..16].copy_from_slice(&previous.records.to_le_bytes());
    bytes[16..24].copy_from_slice(&previous.messages.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &bytes[8..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode_previous(nonce: u64, bytes: &[u8]) -> Option<Amount> {
    let previous = Amount { records: u64_at(bytes, 8)?, messages: u64_at(bytes, 16)? };
    (encode_previous(nonce, previous) == bytes).then_some(previous)
}

/// Every version keeps magic, version and crc where they are, so that another version is told from damage.
fn file_header_crc(used: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&used[..12]), &used[16..FILE_HEADER_USED])
}

/// Starts every write of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Counts the journal's frames.
    pub sequence: u64,
    /// LSN of this header.
    pub lsn: u64,
    /// The file's nonce.
    pub nonce: u64,
    /// Bytes of records that follow.
    pub length: u64,
    /// Everything below this LSN was durable when the frame was written.
    pub durable: u64,
    /// Records that follow.
    pub records: u32,
    /// [`CLEAN`] or 0.
    pub flags: u32,
    /// Messages in these records.
    pub messages: u64,
}

impl FrameHeader {
    /// The header's bytes, checksum included.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        for (index, field) in
            [self.sequence, self.lsn, self.nonce, self.length, self.durable].iter().enumerate()
        {
            bytes[8 + index * 8..16 + index * 8].copy_from_slice(&field.to_le_bytes());
        }
        bytes[48..52].copy_from_slice(&self.records.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.flags.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.messages.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` unless magic, checksum and place are right.
    pub fn decode(bytes: &[u8]) -> Option<FrameHeader> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        if bytes[..4] != FRAME_MAGIC || u32_at(bytes, 4)? != crc32c::crc32c(&bytes[8..]) {
            return None;
        }
        let header = FrameHeader {
            sequence: u64_at(bytes, 8)?,
            lsn: u64_at(bytes, 16)?,
            nonce: u64_at(bytes, 24)?,
            length: u64_at(bytes, 32)?,
            durable: u64_at(bytes, 40)?,
            records: u32_at(bytes, 48)?,
            flags: u32_at(bytes, 52)?,
            messages: u64_at(bytes, 56)?,
        };
        (header.lsn <= LSN_MAX && header.length <= LSN_MAX).then_some(header)
    }

    /// What it says that it holds.
    pub(super) fn amount(&self) -> Amount {
        Amount { records: u64::from(self.records), messages: self.messages }
    }

    /// LSN behind the frame.
    pub fn end(&self) -> u64 {
        self.lsn.saturating_add(FRAME_HEADER_BYTES as u64).saturating_add(self.length)
    }
}

/// Starts every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// CRC32C over the rest of this header, head and body.
    pub crc: u32,
    /// Bytes of the head.
    pub head_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// The virtual shard that the record belongs to.
    pub shard: u16,
    /// [`JOINED`] and [`CONTINUES`].
    pub flags: u8,
    /// Messages that it holds; at least so many, if it is [`MAX_RECORD_MESSAGES`].
    pub messages: u16,
    /// LSN of this header.
    pub lsn: u64,
    /// The file's nonce.
    pub nonce: u64,
}

impl RecordHeader {
    /// Reads the fields; nothing is verified.
    pub fn decode(bytes: &[u8]) -> Option<RecordHeader> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        Some(RecordHeader {
            crc: u32_at(bytes, 0)?,
            head_len: u32_at(bytes, 4)?,
            body_len: u32_at(bytes, 8)?,
            shard: u16::from_le_bytes([bytes[12], bytes[13]]),
            flags: bytes[14] & (JOINED | CONTINUES),
            messages: u16::from_le_bytes([bytes[14], bytes[15]]) >> MESSAGES_AT_BIT,
            lsn: u64_at(bytes, 16)?,
            nonce: u64_at(bytes, 24)?,
        })
    }

    /// The fields that are known before the record has a place.
    pub fn encode_unplaced(head_len: u32, body_len: u32, shard: u16, flags: u8) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&head_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&body_len.to_le_bytes());
        bytes[12..14].copy_from_slice(&shard.to_le_bytes());
        bytes[14] = flags;
        bytes
    }

    /// Notes in an encoded header how many messages the record holds.
    pub fn hold(bytes: &mut [u8; RECORD_HEADER_BYTES], messages: u32) {
        let messages = messages.min(u32::from(MAX_RECORD_MESSAGES)) as u16;
        let flags = u16::from(bytes[14] & (JOINED | CONTINUES));
        bytes[14..16].copy_from_slice(&(messages << MESSAGES_AT_BIT | flags).to_le_bytes());
    }

    /// Header, head and body in bytes, without padding.
    pub fn content_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.head_len) + u64::from(self.body_len)
    }

    /// Distance to the next record in bytes.
    pub fn stride(&self) -> u64 {
        align_up(self.content_bytes())
    }

    /// Whether the lengths are ones that a batch can have written.
    pub fn lengths_are_sound(&self) -> bool {
        self.head_len as usize <= MAX_HEAD_BYTES && self.body_len as usize <= MAX_BODY_BYTES
    }
}

/// A record where it lies in a file's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedRecord<'a> {
    pub header: RecordHeader,
    pub head: &'a [u8],
    pub body: &'a [u8],
}

impl<'a> PlacedRecord<'a> {
    /// Reads and verifies the record at the start of `bytes`.
    pub fn decode(bytes: &'a [u8], lsn: Lsn, nonce: u64) -> Option<PlacedRecord<'a>> {
        let header = RecordHeader::decode(bytes)?;
        if header.lsn != lsn.0 || header.nonce != nonce || !header.lengths_are_sound() {
            return None;
        }
        let content = bytes.get(..usize::try_from(header.content_bytes()).ok()?)?;
        if crc32c::crc32c(&content[4..]) != header.crc {
            return None;
        }
        let (head, body) = content[RECORD_HEADER_BYTES..].split_at(header.head_len as usize);
        Some(PlacedRecord { header, head, body })
    }
}

/// Makes the checksums of a changed journal file right again, for fuzzing: what is behind them is reached.
/// With `placed` every record and frame also names the place at which it lies now.
pub(crate) fn repair(bytes: &mut [u8], placed: bool) {
    for at in [0, HEADER_COPY_AT] {
        if let Some(used) = bytes.get_mut(at..at + FILE_HEADER_USED) {
            if placed {
                used[..8].copy_from_slice(&FILE_MAGIC);
                used[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
            }
            let crc = file_header_crc(used);
            used[12..16].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let field = |bytes: &[u8], at| u64_at(bytes, at).unwrap_or(0);
    let (nonce, start) = (field(bytes, 16), field(bytes, 24));
    let mut at = FILE_HEADER_BYTES as usize;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= RECORD_HEADER_BYTES) {
        let is_frame = rest[..4] == FRAME_MAGIC && rest.len() >= FRAME_HEADER_BYTES;
        let lsn = start.wrapping_add(at as u64);
        // Anything else is unused, or lost to a mutation.
        let is_ours = is_frame || field(rest, 24) == nonce || field(rest, 16) == lsn;
        if is_ours && placed {
            rest[16..24].copy_from_slice(&lsn.to_le_bytes());
            rest[24..32].copy_from_slice(&nonce.to_le_bytes());
        }
        let content = RecordHeader::decode(rest).map(|header| header.content_bytes());
        at += match content.and_then(|content| rest.get_mut(..usize::try_from(content).ok()?)) {
            _ if is_frame => {
                let crc = crc32c::crc32c(&rest[8..FRAME_HEADER_BYTES]);
                rest[4..8].copy_from_slice(&crc.to_le_bytes());
                FRAME_HEADER_BYTES
            }
            Some(record) if is_ours => {
                let crc = crc32c::crc32c(&record[4..]);
                record[..4].copy_from_slice(&crc.to_le_bytes());
                align_up(record.len() as u64) as usize
            }
            _ => ALIGN as usize,
        };
    }
}

/// The next multiple of [`ALIGN`].
pub fn align_up(value: u64) -> u64 {
    value.saturating_add(ALIGN - 1) & !(ALIGN - 1)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
