//! The records of one partition in a Fetch response: stored batches, set into the response by reference.

use bytes::Bytes;

use super::super::reader::{DecodeError, Reader};
use super::super::schema::{Nullable, Wire};
use super::super::writer::Writer;
use super::header::PATCHED_BYTES;

/// Bytes of one or more whole batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordChunk {
    /// Sent as they are.
    Verbatim(Bytes),
    /// One batch, sent with another base offset and leader epoch in its first 16 bytes.
    Rebased { batch: Bytes, base_offset: i64, partition_leader_epoch: i32 },
}

/// The records of one partition. Nothing is copied until it is written, and then only what is small.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordData {
    chunks: Vec<RecordChunk>,
    len: usize,
}

impl RecordData {
    /// Adds whole batches as they are.
    pub fn push(&mut self, batches: Bytes) {
        self.len += batches.len();
        if !batches.is_empty() {
            self.chunks.push(RecordChunk::Verbatim(batches));
        }
    }

    /// Adds one stored batch, to be sent with this base offset and leader epoch: they are outside of its
    /// checksum.
    pub fn push_rebased(&mut self, batch: Bytes, base_offset: i64, partition_leader_epoch: i32) {
        self.len += batch.len();
        self.chunks.push(RecordChunk::Rebased { batch, base_offset, partition_leader_epoch });
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn chunks(&self) -> &[RecordChunk] {
        &self.chunks
    }
}

impl From<Bytes> for RecordData {
    fn from(batches: Bytes) -> Self {
        let mut data = Self::default();
        data.push(batches);
        data
    }
}

impl Wire for RecordData {
    fn min_size(version: i16, flexible: bool) -> usize {
        Bytes::min_size_nullable(version, flexible)
    }

    /// Null reads as no records.
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Bytes::decode_nullable(reader)?.unwrap_or_default().into())
    }

    fn encode(&self, writer: &mut Writer) {
        writer.long_length(Some(self.len));
        for chunk in &self.chunks {
            match chunk {
                RecordChunk::Verbatim(batches) => writer.put_shared(batches.clone()),
                RecordChunk::Rebased { batch, base_offset, partition_leader_epoch } => {
                    put_rebased(writer, batch, *base_offset, *partition_leader_epoch);
                }
            }
        }
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::super::sampler::Sampler, _version: i16, _nullable: bool) -> Self {
        sampler.bytes().into()
    }
}

/// What is too short to be a batch is written as it is, so that the length said stays true.
fn put_rebased(writer: &mut Writer, batch: &Bytes, base_offset: i64, partition_leader_epoch: i32) {
    let Some(head) = batch.first_chunk::<PATCHED_BYTES>() else { return writer.put(batch) };
    writer.put(&base_offset.to_be_bytes());
    writer.put(&head[8..12]);
    writer.put(&partition_leader_epoch.to_be_bytes());
    writer.put_shared(batch.slice(PATCHED_BYTES..));
}
