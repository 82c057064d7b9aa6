//! Record batches (version 2, the only one of Kafka 4): what Produce brings, what is stored as received, and
//! what Fetch returns.
//!
//! A batch is a header of 61 bytes and its records, which may be compressed as one. The first 16 bytes and
//! the magic byte are outside of the checksum, so that base offset and leader epoch can be set without
//! touching the rest.

mod builder;
mod compression;
mod data;
mod header;
mod produce;
mod record;
mod verify;

use bytes::{Bytes, BytesMut};

pub use builder::BatchBuilder;
pub use compression::Compression;
pub use data::{RecordChunk, RecordData};
pub use header::{Attributes, BatchHeader, HEADER_BYTES, PATCHED_BYTES, TimestampType};
pub use produce::{ProduceRules, validate_produce};
pub use record::{Header, Headers, Record, Records};
pub use verify::Verified;

use super::reader::DecodeError;

/// Why bytes are no acceptable record batches. The Kafka error that answers it is named at each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// `CORRUPT_MESSAGE`
    #[error("batch of {announced} bytes in {available}")]
    BatchSize { announced: i64, available: usize },
    /// `CORRUPT_MESSAGE`
    #[error("checksum is {found:08x}, not {announced:08x}")]
    Checksum { announced: u32, found: u32 },
    /// `INVALID_RECORD`
    #[error("magic {0} is not 2")]
    Magic(i8),
    /// `UNSUPPORTED_COMPRESSION_TYPE`
    #[error("compression {0} is not known")]
    UnknownCompression(i16),
    /// `UNSUPPORTED_COMPRESSION_TYPE`
    #[error("zstd needs Produce version 7 (KIP-110)")]
    ZstdTooEarly,
    /// `INVALID_RECORD`
    #[error("{count} records, but the last one has offset delta {last_offset_delta}")]
    Count { count: i32, last_offset_delta: i32 },
    /// `INVALID_RECORD`
    #[error("no record batch")]
    NoBatch,
    /// `INVALID_RECORD`
    #[error("more than {limit} record batches")]
    TooManyBatches { limit: usize },
    /// `MESSAGE_TOO_LARGE`
    #[error("batch of {size} bytes is larger than {limit}")]
    BatchTooLarge { size: usize, limit: usize },
    /// `INVALID_RECORD`
    #[error("clients may not write control records")]
    ControlBatch,
    /// `INVALID_RECORD`
    #[error("batch has a delete horizon, which only the broker sets")]
    DeleteHorizon,
    /// `INVALID_TIMESTAMP`
    #[error("batch has log append time, which only the broker sets")]
    LogAppendTime,
    /// `INVALID_RECORD`
    #[error("producer id {producer_id} with sequence {base_sequence} and epoch {producer_epoch}")]
    ProducerState { producer_id: i64, producer_epoch: i16, base_sequence: i32 },
    /// `CORRUPT_MESSAGE`
    #[error("{codec:?} data is damaged: {reason}")]
    Compressed { codec: Compression, reason: String },
    /// `MESSAGE_TOO_LARGE`
    #[error("records take more than {limit} bytes when decompressed")]
    DecompressedTooLarge { limit: usize },
    /// `INVALID_RECORD`
    #[error("malformed record: {0}")]
    Record(DecodeError),
    /// `INVALID_RECORD`
    #[error("record {index} of the batch has offset delta {offset_delta}")]
    OffsetDelta { index: i32, offset_delta: i32 },
    /// `INVALID_RECORD`
    #[error("{0} bytes after the last record")]
    TrailingBytes(usize),
}

impl From<DecodeError> for RecordsError {
    fn from(error: DecodeError) -> Self {
        Self::Record(error)
    }
}

/// One record batch: its header, and its bytes exactly as they arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Cuts the first batch off `bytes`. Nothing but magic and size is judged.
    pub fn split_from(bytes: &mut Bytes) -> Result<Self, RecordsError> {
        let header = BatchHeader::parse(bytes)?;
        let size = header.size();
        if size > bytes.len() {
            return Err(RecordsError::BatchSize { announced: size as i64, available: bytes.len() });
        }
        Ok(Self { header, bytes: bytes.split_to(size) })
    }

    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Compares the CRC32C of everything behind it with the one in the header.
    pub fn verify_checksum(&self) -> Result<(), RecordsError> {
        let found = crc32c::crc32c(self.bytes.get(header::CHECKSUMMED_FROM..).unwrap_or_default());
        let announced = self.header.crc;
        if found == announced { Ok(()) } else { Err(RecordsError::Checksum { announced, found }) }
    }

    /// The records, decompressed when need be.
    ///
    /// `max_decompressed_bytes` bounds what decompressing may cost; uncompressed records are slices of the
    /// batch.
    pub fn records(&self, max_decompressed_bytes: usize) -> Result<Records, RecordsError> {
        let body = self.bytes.slice(HEADER_BYTES..);
        let body = self.header.attributes.compression()?.decompress(body, max_decompressed_bytes)?;
        Ok(Records::new(&self.header, body))
    }

    /// Walks through all records and checks that they are what the header says: as many, in offsets that
    /// follow each other, with nothing behind them. A batch that fails would stop every consumer that meets
    /// it. `max_decompressed_bytes` bounds the work; memory stays small.
    pub fn verify_records(&self, max_decompressed_bytes: usize) -> Result<Verified, RecordsError> {
        verify::verify(&self.header, self.bytes.slice(HEADER_BYTES..), max_decompressed_bytes)
    }

    /// The batch as a topic with `message.timestamp.type=LogAppendTime` stores it: marked so, with `now_ms`
    /// as its largest timestamp and a new checksum. The records keep their own timestamps, which readers then
    /// ignore. This is the one change that copies the batch.
    pub fn with_log_append_time(&self, now_ms: i64) -> Self {
        let mut header = self.header.clone();
        header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        header.max_timestamp = now_ms;
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        header.encode(&mut bytes);
        bytes.extend_from_slice(self.bytes.get(HEADER_BYTES..).unwrap_or_default());
        header.crc = header::put_checksum(&mut bytes);
        Self { header, bytes: bytes.freeze() }
    }
}

/// The batches in `bytes`, one after the other. A fault ends the iteration; so does a last batch that is cut
/// off, with a fault.
pub fn batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// See [`batches`].
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = RecordBatch::split_from(&mut self.rest);
        if batch.is_err() {
            self.rest = Bytes::new();
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests;
