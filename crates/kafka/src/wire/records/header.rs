//! The header of a record batch.

use bytes::{Buf, BufMut, BytesMut};

use super::{Compression, RecordsError};

/// Bytes of the header, from the base offset to the record count.
pub const HEADER_BYTES: usize = 61;

/// Bytes at the front that are outside of the checksum and hold base offset, length and leader epoch.
pub const PATCHED_BYTES: usize = 16;

/// Bytes that the length in the header does not count: base offset and length.
const BEFORE_LENGTH: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
/// Where the part begins that the checksum covers.
pub(super) const CHECKSUMMED_FROM: usize = 21;

/// The header of a record batch, with the names of Kafka's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Bytes after this field; at least what the rest of the header takes.
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    /// CRC32C of everything behind it.
    pub crc: u32,
    pub attributes: Attributes,
    /// Offset of the last record, counted from `base_offset`. Stays when compaction removes that record.
    pub last_offset_delta: i32,
    /// Milliseconds since 1970.
    pub base_timestamp: i64,
    /// Milliseconds since 1970.
    pub max_timestamp: i64,
    /// -1 when the producer is not idempotent.
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// -1 when the producer is not idempotent.
    pub base_sequence: i32,
    pub records_count: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`. Judges size and magic only.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordsError> {
        // The magic has the same place in every version, so an older batch that is shorter is told as that.
        match bytes.get(MAGIC_AT) {
            Some(&magic) if magic != 2 => return Err(RecordsError::Magic(magic as i8)),
            _ => {}
        }
        let mut head = bytes
            .get(..HEADER_BYTES)
            .ok_or(RecordsError::BatchSize { announced: HEADER_BYTES as i64, available: bytes.len() })?;
        let base_offset = head.get_i64();
        let batch_length = head.get_i32();
        let partition_leader_epoch = head.get_i32();
        head.advance(1);
        let header = Self {
            base_offset,
            batch_length,
            partition_leader_epoch,
            crc: head.get_u32(),
            attributes: Attributes(head.get_i16()),
            last_offset_delta: head.get_i32(),
            base_timestamp: head.get_i64(),
            max_timestamp: head.get_i64(),
            producer_id: head.get_i64(),
            producer_epoch: head.get_i16(),
            base_sequence: head.get_i32(),
            records_count: head.get_i32(),
        };
        if header.size() < HEADER_BYTES {
            let announced = i64::from(batch_length) + BEFORE_LENGTH as i64;
            return Err(RecordsError::BatchSize { announced, available: bytes.len() });
        }
        Ok(header)
    }

    /// Bytes of the whole batch; 0 when the length is negative.
    pub fn size(&self) -> usize {
        usize::try_from(self.batch_length).map_or(0, |length| length.saturating_add(BEFORE_LENGTH))
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.last_offset_delta.into())
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Sequence number of the last record; wraps from `i32::MAX` to 0. `None` when the producer is not
    /// idempotent.
    pub fn last_sequence(&self) -> Option<i32> {
        if self.base_sequence < 0 {
            return None;
        }
        let sum = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        i32::try_from(sum.rem_euclid(1 << 31)).ok()
    }

    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// Appends the 61 bytes.
    pub fn encode(&self, buffer: &mut BytesMut) {
        buffer.put_i64(self.base_offset);
        buffer.put_i32(self.batch_length);
        buffer.put_i32(self.partition_leader_epoch);
        buffer.put_i8(2);
        buffer.put_u32(self.crc);
        buffer.put_i16(self.attributes.0);
        buffer.put_i32(self.last_offset_delta);
        buffer.put_i64(self.base_timestamp);
        buffer.put_i64(self.max_timestamp);
        buffer.put_i64(self.producer_id);
        buffer.put_i16(self.producer_epoch);
        buffer.put_i32(self.base_sequence);
        buffer.put_i32(self.records_count);
    }
}

/// Computes the checksum of the one batch in `batch`, writes it into the header and returns it.
pub(super) fn put_checksum(batch: &mut BytesMut) -> u32 {
    let crc = crc32c::crc32c(batch.get(CHECKSUMMED_FROM..).unwrap_or_default());
    if let Some(place) = batch.get_mut(CRC_AT..CHECKSUMMED_FROM) {
        place.copy_from_slice(&crc.to_be_bytes());
    }
    crc
}

/// What the timestamps of a batch mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// When the producer made the record.
    CreateTime,
    /// When the broker stored the batch: its largest timestamp stands for all its records.
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    const COMPRESSION: i16 = 0b111;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;

    pub fn compression(self) -> Result<Compression, RecordsError> {
        let bits = self.0 & Self::COMPRESSION;
        Compression::from_bits(bits).ok_or(RecordsError::UnknownCompression(bits))
    }

    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    #[must_use]
    pub fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        match timestamp_type {
            TimestampType::CreateTime => Self(self.0 & !Self::LOG_APPEND_TIME),
            TimestampType::LogAppendTime => Self(self.0 | Self::LOG_APPEND_TIME),
        }
    }

    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds transaction markers, which consumers are not shown.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp says when compaction may drop the batch's tombstones (KIP-534).
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }
}
