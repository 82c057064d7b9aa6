//! Records that an engine thread hands to the journal at once.

use bytes::Bytes;

use super::format::{
    self, CONTINUES, JOINED, MAX_BODY_BYTES, MAX_HEAD_BYTES, RECORD_HEADER_BYTES, RecordHeader,
};

/// Bodies up to this many bytes are copied into the batch; larger ones are kept by reference.
pub const INLINE_BODY_BYTES: usize = 4096;

/// Records that are written next to each other. Building one allocates only as its buffer grows.
#[derive(Debug)]
pub struct Batch {
    pub(super) source: u16,
    pub(super) number: u64,
    pub(super) requires_sync: bool,
    /// Headers, heads, small bodies and padding; large bodies belong where `large` says.
    buffer: Vec<u8>,
    large: Vec<LargeBody>,
    bytes: u64,
    records: u32,
    messages: u64,
    last_record_at: usize,
    last_joined: bool,
}

/// A body that is not in the buffer.
#[derive(Debug)]
struct LargeBody {
    buffer_at: usize,
    /// Distance from the batch's first byte.
    logical_at: u64,
    body: Bytes,
}

impl Batch {
    /// An empty batch. `number` increases per `source` and comes back in the completions.
    pub fn new(source: u16, number: u64) -> Batch {
        Batch {
            source,
            number,
            requires_sync: false,
            buffer: Vec::new(),
            large: Vec::new(),
            bytes: 0,
            records: 0,
            messages: 0,
            last_record_at: 0,
            last_joined: false,
        }
    }

    /// An empty batch whose buffer has room for `bytes`.
    pub fn with_capacity(source: u16, number: u64, bytes: usize) -> Batch {
        Batch { buffer: Vec::with_capacity(bytes), ..Batch::new(source, number) }
    }

    /// Adds a record and returns its distance in bytes from the batch's first LSN. `head` appends the
    /// encoded event. A `joined` record is replayed only together with the next one of the batch.
    ///
    /// # Panics
    /// If the head exceeds [`MAX_HEAD_BYTES`] or the body [`MAX_BODY_BYTES`]: callers limit both long before.
    pub fn push(&mut self, shard: u16, joined: bool, body: &Bytes, head: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let record_at = self.buffer.len();
        let distance = self.bytes;
        self.buffer.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        head(&mut self.buffer);
        let head_len = self.buffer.len().saturating_sub(record_at + RECORD_HEADER_BYTES);
        assert!(head_len <= MAX_HEAD_BYTES && body.len() <= MAX_BODY_BYTES, "record over its limit");
        let mut flags = if joined { JOINED } else { 0 };
        if self.last_joined {
            flags |= CONTINUES;
        }
        let header = RecordHeader::encode_unplaced(head_len as u32, body.len() as u32, shard, flags);
        self.buffer[record_at..record_at + RECORD_HEADER_BYTES].copy_from_slice(&header);
        let unpadded = (RECORD_HEADER_BYTES + head_len + body.len()) as u64;
        if body.len() <= INLINE_BODY_BYTES {
            self.buffer.extend_from_slice(body);
        } else {
            self.large.push(LargeBody {
                buffer_at: self.buffer.len(),
                logical_at: distance + (RECORD_HEADER_BYTES + head_len) as u64,
                body: body.clone(),
            });
        }
        let stride = format::align_up(unpadded);
        self.buffer.resize(self.buffer.len() + (stride - unpadded) as usize, 0);
        self.bytes += stride;
        self.records += 1;
        self.last_record_at = record_at;
        self.last_joined = joined;
        distance
    }

    /// The record that was pushed last holds so many messages. This is only for telling how many are lost if
    /// it cannot be read.
    pub fn holds(&mut self, messages: u32) {
        self.messages += u64::from(messages);
        let header = self.buffer.get_mut(self.last_record_at..);
        if let Some(header) = header.and_then(|header| header.first_chunk_mut()) {
            RecordHeader::hold(header, messages);
        }
    }

    /// Some record promises to survive a power cut. Without this the batch is only written, and synced later.
    pub fn require_sync(&mut self) {
        self.requires_sync = true;
    }

    /// Whether no record was pushed.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records as usize
    }

    /// Messages that the records hold, as far as [`Batch::holds`] was told.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes that the records take in the journal.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of memory that the records take here; large bodies lie elsewhere.
    pub fn memory(&self) -> usize {
        self.buffer.len()
    }

    /// Gives the records their place: LSN, nonce and checksum are filled in.
    pub(super) fn place(mut self, base: u64, nonce: u64) -> PlacedBatch {
        if self.last_joined {
            // There is no next record: the group ends here.
            self.buffer[self.last_record_at + 14] &= !JOINED;
        }
        let mut large = self.large.iter();
        let mut next_large = large.next();
        let mut at = 0;
        let mut lsn = base;
        while let Some(header) = self.buffer.get(at..).and_then(RecordHeader::decode) {
            let content_end = at + RECORD_HEADER_BYTES + header.head_len as usize;
            let outside = next_large.filter(|large| large.buffer_at == content_end && header.body_len > 0);
            let outside = outside.filter(|_| header.body_len as usize > INLINE_BODY_BYTES);
            let buffered_end = content_end + if outside.is_some() { 0 } else { header.body_len as usize };
            self.buffer[at + 16..at + 24].copy_from_slice(&lsn.to_le_bytes());
            self.buffer[at + 24..at + 32].copy_from_slice(&nonce.to_le_bytes());
            let mut crc = crc32c::crc32c(&self.buffer[at + 4..buffered_end]);
            if let Some(outside) = outside {
                crc = crc32c::crc32c_append(crc, &outside.body);
                next_large = large.next();
            }
            self.buffer[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            at = buffered_end + (header.stride() - header.content_bytes()) as usize;
            lsn += header.stride();
        }
        // Kept for a while, it is to take no more than it needs.
        self.buffer.shrink_to_fit();
        let memory = self.buffer.capacity() + self.large.iter().map(|large| large.body.len()).sum::<usize>();
        PlacedBatch { base, bytes: self.bytes, memory, buffer: Bytes::from(self.buffer), large: self.large }
    }
}

/// A batch as it lies in the journal; also what the memory ring keeps of it.
#[derive(Debug)]
pub(super) struct PlacedBatch {
    pub base: u64,
    pub bytes: u64,
    /// Bytes of memory that keeping it costs.
    pub memory: usize,
    buffer: Bytes,
    large: Vec<LargeBody>,
}

impl PlacedBatch {
    /// Calls `part` with the bytes in the order in which they lie on disk.
    pub fn parts<'a>(&'a self, mut part: impl FnMut(&'a [u8])) {
        let mut at = 0;
        for large in &self.large {
            part(&self.buffer[at..large.buffer_at]);
            part(&large.body);
            at = large.buffer_at;
        }
        part(&self.buffer[at..]);
    }

    /// Appends the bytes in the order in which they lie in the journal, without a copy.
    pub fn chunks(&self, chunks: &mut Vec<Bytes>) {
        let mut at = 0;
        for large in &self.large {
            chunks.push(self.buffer.slice(at..large.buffer_at));
            chunks.push(large.body.clone());
            at = large.buffer_at;
        }
        chunks.push(self.buffer.slice(at..));
    }

    /// The record at `lsn`, without a copy; `None` if no record starts there.
    pub fn record(&self, lsn: u64) -> Option<(RecordHeader, Bytes, Bytes)> {
        let distance = lsn.checked_sub(self.base).filter(|distance| *distance < self.bytes)?;
        let before = self.large.partition_point(|large| large.logical_at < distance);
        let skipped = match before.checked_sub(1).and_then(|last| self.large.get(last)) {
            Some(large) => large.logical_at + large.body.len() as u64 - large.buffer_at as u64,
            None => 0,
        };
        let at = usize::try_from(distance.checked_sub(skipped)?).ok()?;
        let header = RecordHeader::decode(self.buffer.get(at..)?)?;
        if header.lsn != lsn {
            return None;
        }
        let head_at = at + RECORD_HEADER_BYTES;
        let head_end = head_at.checked_add(header.head_len as usize)?;
        if head_end > self.buffer.len() {
            return None;
        }
        let body = match self.large.get(before).filter(|large| large.buffer_at == head_end) {
            Some(large) if header.body_len as usize > INLINE_BODY_BYTES => large.body.clone(),
            _ => {
                let body_end = head_end.checked_add(header.body_len as usize)?;
                self.buffer.get(head_end..body_end)?;
                self.buffer.slice(head_end..body_end)
            }
        };
        Some((header, self.buffer.slice(head_at..head_end), body))
    }
}
