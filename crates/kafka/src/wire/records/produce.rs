//! What a producer may send.

use bytes::Bytes;

use super::{Compression, RecordBatch, RecordsError, TimestampType, batches};

/// What is asked of the records of one partition in a Produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceRules {
    /// Version of the Produce request.
    pub api_version: i16,
    /// Largest batch, in bytes, header included (`max.message.bytes`).
    pub max_batch_bytes: usize,
    /// Most batches. Kafka allows one.
    pub max_batches: usize,
}

/// Checks everything that can be checked without decompressing: sizes, checksum, magic, counts, attributes,
/// producer state. What comes back is the batches in order, slices of `records`.
///
/// Whether the records inside are well-formed is [`RecordBatch::verify_records`].
pub fn validate_produce(records: &Bytes, rules: &ProduceRules) -> Result<Vec<RecordBatch>, RecordsError> {
    let mut found = Vec::new();
    for batch in batches(records.clone()) {
        if found.len() == rules.max_batches {
            return Err(RecordsError::TooManyBatches { limit: rules.max_batches });
        }
        let batch = batch?;
        validate(&batch, rules)?;
        found.push(batch);
    }
    if found.is_empty() { Err(RecordsError::NoBatch) } else { Ok(found) }
}

fn validate(batch: &RecordBatch, rules: &ProduceRules) -> Result<(), RecordsError> {
    let header = batch.header();
    let size = batch.bytes().len();
    if size > rules.max_batch_bytes {
        return Err(RecordsError::BatchTooLarge { size, limit: rules.max_batch_bytes });
    }
    batch.verify_checksum()?;
    let attributes = header.attributes;
    if attributes.compression()? == Compression::Zstd && rules.api_version < 7 {
        return Err(RecordsError::ZstdTooEarly);
    }
    let (count, last_offset_delta) = (header.records_count, header.last_offset_delta);
    if count < 1 || last_offset_delta != count - 1 {
        return Err(RecordsError::Count { count, last_offset_delta });
    }
    if attributes.is_control() {
        return Err(RecordsError::ControlBatch);
    }
    if attributes.has_delete_horizon() {
        return Err(RecordsError::DeleteHorizon);
    }
    if attributes.timestamp_type() == TimestampType::LogAppendTime {
        return Err(RecordsError::LogAppendTime);
    }
    let idempotent = header.has_producer_id();
    let sequenced = header.base_sequence >= 0 && header.producer_epoch >= 0;
    if (idempotent && !sequenced) || (attributes.is_transactional() && !idempotent) {
        return Err(RecordsError::ProducerState {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
        });
    }
    Ok(())
}
