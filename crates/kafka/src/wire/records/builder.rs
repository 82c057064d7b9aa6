//! Building a batch of messages that came by another protocol, for Kafka's clients to read.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::put_checksum;
use super::{Attributes, BatchHeader, HEADER_BYTES};

/// Builds one uncompressed batch, record by record.
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: BytesMut,
    base_offset: i64,
    partition_leader_epoch: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    last_offset_delta: i32,
}

impl BatchBuilder {
    /// A batch that begins at `base_offset`.
    pub fn new(base_offset: i64, partition_leader_epoch: i32) -> Self {
        let mut buffer = BytesMut::with_capacity(1024);
        buffer.put_bytes(0, HEADER_BYTES);
        Self {
            buffer,
            base_offset,
            partition_leader_epoch,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
            count: 0,
            last_offset_delta: 0,
        }
    }

    /// Appends a record. `offset` must be beyond the one before and within 2^31 of the base offset,
    /// `timestamp_ms` is milliseconds since 1970, headers are key and value.
    ///
    /// Returns whether the record was taken: not when the offset does not fit, or when the batch would exceed
    /// 2 GiB. The batch is then as it was.
    #[must_use = "a record that does not fit must go into another batch"]
    pub fn push(
        &mut self,
        offset: i64,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> bool {
        let next = if self.count == 0 { 0 } else { i64::from(self.last_offset_delta) + 1 };
        let offset_delta = offset.checked_sub(self.base_offset).filter(|delta| *delta >= next);
        let Some(offset_delta) = offset_delta.and_then(|delta| i32::try_from(delta).ok()) else {
            return false;
        };
        let base_timestamp = if self.count == 0 { timestamp_ms } else { self.base_timestamp };
        let timestamp_delta = timestamp_ms.wrapping_sub(base_timestamp);

        let payload = key.map_or(0, <[u8]>::len).saturating_add(value.map_or(0, <[u8]>::len));
        let header_sizes = headers
            .iter()
            .map(|(key, value)| key.len().saturating_add(value.map_or(0, <[u8]>::len)).saturating_add(10));
        // 30 covers the record's own lengths and deltas, 10 those of a header.
        let bound = header_sizes.fold(payload.saturating_add(30), usize::saturating_add);
        if bound.saturating_add(self.buffer.len()) > i32::MAX as usize {
            return false;
        }

        let record = RecordParts { timestamp_delta, offset_delta, key, value, headers };
        put_varint(&mut self.buffer, record.size() as i64);
        record.encode(&mut self.buffer);
        self.base_timestamp = base_timestamp;
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.count += 1;
        self.last_offset_delta = offset_delta;
        true
    }

    /// Lets the batch reach to `last_offset`, for offsets at its end that have no record.
    pub fn extend_to(&mut self, last_offset: i64) {
        let delta = last_offset.saturating_sub(self.base_offset).clamp(0, i32::MAX.into());
        self.last_offset_delta = self.last_offset_delta.max(i32::try_from(delta).unwrap_or(i32::MAX));
    }

    /// Bytes so far, the header included.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The finished batch. One without records is allowed, as it is in a compacted partition.
    pub fn finish(self) -> Bytes {
        let mut header = BatchHeader {
            base_offset: self.base_offset,
            // `push` keeps the buffer below 2 GiB.
            batch_length: i32::try_from(self.buffer.len() - 12).unwrap_or(i32::MAX),
            partition_leader_epoch: self.partition_leader_epoch,
            crc: 0,
            attributes: Attributes::default(),
            last_offset_delta: self.last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records_count: self.count,
        };
        if self.count == 0 {
            (header.base_timestamp, header.max_timestamp) = (-1, -1);
        }
        let mut head = BytesMut::with_capacity(HEADER_BYTES);
        header.encode(&mut head);
        let mut batch = self.buffer;
        if let Some(place) = batch.get_mut(..HEADER_BYTES) {
            place.copy_from_slice(&head);
        }
        put_checksum(&mut batch);
        batch.freeze()
    }
}

/// A record in pieces, to be measured and then written.
struct RecordParts<'a> {
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl RecordParts<'_> {
    /// Bytes after the record's length.
    fn size(&self) -> usize {
        let headers =
            self.headers.iter().map(|(key, value)| bytes_size(Some(key.as_bytes())) + bytes_size(*value));
        1 + varint_size(self.timestamp_delta)
            + varint_size(self.offset_delta.into())
            + bytes_size(self.key)
            + bytes_size(self.value)
            + varint_size(self.headers.len() as i64)
            + headers.sum::<usize>()
    }

    fn encode(&self, buffer: &mut BytesMut) {
        buffer.put_u8(0);
        put_varint(buffer, self.timestamp_delta);
        put_varint(buffer, self.offset_delta.into());
        put_bytes(buffer, self.key);
        put_bytes(buffer, self.value);
        put_varint(buffer, self.headers.len() as i64);
        for (key, value) in self.headers {
            put_bytes(buffer, Some(key.as_bytes()));
            put_bytes(buffer, *value);
        }
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varint_size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(buffer: &mut BytesMut, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        buffer.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buffer.put_u8(rest as u8);
}

fn bytes_size(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint_size(bytes.len() as i64) + bytes.len())
}

fn put_bytes(buffer: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(buffer, -1),
        Some(bytes) => {
            put_varint(buffer, bytes.len() as i64);
            buffer.put_slice(bytes);
        }
    }
}
