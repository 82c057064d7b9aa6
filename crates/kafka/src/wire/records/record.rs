//! The records of a batch.

use bytes::Bytes;
use bytestring::ByteString;

use super::super::reader::{DecodeError, Fault, Reader};
use super::{BatchHeader, RecordsError, TimestampType};

/// One record. Key, value and headers are slices of the (decompressed) batch and keep it alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    /// Counted from the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds since 1970: the producer's, or the broker's for a batch with log append time.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// The headers of a record, read as they are asked for. They were checked when the record was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    count: usize,
    encoded: Bytes,
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes that are not UTF-8 are replaced, as Kafka's Java client does.
    pub key: ByteString,
    pub value: Option<Bytes>,
}

impl Headers {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Header> + use<> {
        let mut reader = Reader::new(self.encoded.clone(), 0, false);
        (0..self.count).map_while(move |_| decode_header(&mut reader).ok())
    }
}

/// The records of one batch, in order. A fault ends the iteration.
#[derive(Debug)]
pub struct Records {
    reader: Reader,
    left: i32,
    base_offset: i64,
    base_timestamp: i64,
    /// Set when it stands for all records.
    append_time: Option<i64>,
}

impl Records {
    /// `body` is what follows the header, decompressed.
    pub(super) fn new(header: &BatchHeader, body: Bytes) -> Self {
        let append_time = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        Self {
            reader: Reader::new(body, 0, false),
            left: header.records_count,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time,
        }
    }

    /// Bytes not yet read.
    #[cfg(test)]
    pub(super) fn remaining_bytes(&self) -> usize {
        self.reader.remaining()
    }

    fn decode(&mut self) -> Result<Record, DecodeError> {
        let length = length(self.reader.varint()?)?;
        let mut record = Reader::new(self.reader.slice(length)?, 0, false);
        record.skip(1)?; // attributes, of which none is in use
        let timestamp_delta = record.varlong().map_err(|error| error.in_field("timestamp_delta"))?;
        let offset_delta = record.varint().map_err(|error| error.in_field("offset_delta"))?;
        let key = nullable_bytes(&mut record).map_err(|error| error.in_field("key"))?;
        let value = nullable_bytes(&mut record).map_err(|error| error.in_field("value"))?;
        let headers = headers(&mut record).map_err(|error| error.in_field("headers"))?;
        Ok(Record {
            offset: self.base_offset.saturating_add(offset_delta.into()),
            offset_delta,
            timestamp: self.append_time.unwrap_or(self.base_timestamp.saturating_add(timestamp_delta)),
            key,
            value,
            headers,
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        let record = self.decode();
        self.left = if record.is_ok() { self.left - 1 } else { 0 };
        Some(record.map_err(RecordsError::Record))
    }
}

/// Checks the headers to the end of the record without keeping any.
fn headers(record: &mut Reader) -> Result<Headers, DecodeError> {
    let count = length(record.varint()?)?;
    let possible = record.remaining() / 2;
    if count > possible {
        return Err(Fault::ArrayTooLong { announced: count, possible }.into());
    }
    if count == 0 && record.remaining() == 0 {
        return Ok(Headers::default());
    }
    let encoded = record.slice(record.remaining())?;
    let mut reader = Reader::new(encoded.clone(), 0, false);
    for _ in 0..count {
        let key = length(reader.varint()?)?;
        reader.skip(key)?;
        if let Some(value) = nullable_length(reader.varint()?)? {
            reader.skip(value)?;
        }
    }
    match reader.remaining() {
        0 => Ok(Headers { count, encoded }),
        announced => Err(Fault::ArrayTooLong { announced, possible: 0 }.into()),
    }
}

fn decode_header(reader: &mut Reader) -> Result<Header, DecodeError> {
    let key = length(reader.varint()?)?;
    let key = reader.slice(key)?;
    let key = ByteString::try_from(key.clone())
        .unwrap_or_else(|_| String::from_utf8_lossy(&key).into_owned().into());
    Ok(Header { key, value: nullable_bytes(reader)? })
}

fn nullable_bytes(reader: &mut Reader) -> Result<Option<Bytes>, DecodeError> {
    nullable_length(reader.varint()?)?.map(|length| reader.slice(length)).transpose()
}

fn length(raw: i32) -> Result<usize, DecodeError> {
    usize::try_from(raw).map_err(|_| Fault::NegativeLength(raw).into())
}

fn nullable_length(raw: i32) -> Result<Option<usize>, DecodeError> {
    if raw == -1 { Ok(None) } else { length(raw).map(Some) }
}
