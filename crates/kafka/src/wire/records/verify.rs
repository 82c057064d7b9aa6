//! Walking through the records of a batch without keeping any of them: what a producer sent is checked this
//! way before it is stored, since a batch that cannot be read would stop every consumer that meets it.
//!
//! Compressed records are decompressed piece by piece; memory stays at one window or block of the codec.

use std::io::{self, BufRead, BufReader, Read};

use bytes::{Buf, Bytes};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::super::limits::MAX_ZSTD_WINDOW_BYTES;
use super::super::reader::{DecodeError, Fault};
use super::{BatchHeader, Compression, RecordsError};

/// What a walk over the records of a batch found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Milliseconds since 1970, as the producer stamped the records.
    pub min_timestamp: i64,
    /// Milliseconds since 1970, as the producer stamped the records.
    pub max_timestamp: i64,
    /// Index of the first record that has no key.
    pub first_without_key: Option<i32>,
}

/// Checks that the records in `body` are what the header says: as many, in offsets that follow each other,
/// with nothing behind them.
pub(super) fn verify(
    header: &BatchHeader,
    body: Bytes,
    max_decompressed_bytes: usize,
) -> Result<Verified, RecordsError> {
    let codec = header.attributes.compression()?;
    let limit = max_decompressed_bytes;
    match codec {
        Compression::None => walk(header, &body[..], codec, usize::MAX),
        Compression::Gzip => {
            let source = flate2::bufread::MultiGzDecoder::new(body.reader());
            walk(header, BufReader::new(source), codec, limit)
        }
        // Its blocks are small, or bounded by a ratio that the compressed bytes have to pay for.
        Compression::Snappy => walk(header, &codec.decompress(body, limit)?[..], codec, limit),
        Compression::Lz4 => {
            let source = lz4_flex::frame::FrameDecoder::new(body.reader());
            walk(header, BufReader::new(source), codec, limit)
        }
        Compression::Zstd => {
            let source = ZstdFrames { rest: &body, decoder: None };
            walk(header, BufReader::new(source), codec, limit)
        }
    }
}

fn walk(
    header: &BatchHeader,
    source: impl BufRead,
    codec: Compression,
    limit: usize,
) -> Result<Verified, RecordsError> {
    let mut walker = Walker { source, codec, taken: 0, limit: limit as u64, end: u64::MAX };
    let mut found = Verified { min_timestamp: i64::MAX, max_timestamp: i64::MIN, first_without_key: None };
    for index in 0..header.records_count {
        let record = walker.record()?;
        if record.offset_delta != index {
            return Err(RecordsError::OffsetDelta { index, offset_delta: record.offset_delta });
        }
        let timestamp = header.base_timestamp.saturating_add(record.timestamp_delta);
        found.min_timestamp = found.min_timestamp.min(timestamp);
        found.max_timestamp = found.max_timestamp.max(timestamp);
        if !record.has_key {
            found.first_without_key.get_or_insert(index);
        }
    }
    match walker.skip_to_end()? {
        0 => Ok(found),
        trailing => Err(RecordsError::TrailingBytes(trailing)),
    }
}

struct Walked {
    timestamp_delta: i64,
    offset_delta: i32,
    has_key: bool,
}

struct Walker<R> {
    source: R,
    codec: Compression,
    taken: u64,
    /// Most bytes to take.
    limit: u64,
    /// Where the record ends that is being read.
    end: u64,
}

impl<R: BufRead> Walker<R> {
    fn record(&mut self) -> Result<Walked, RecordsError> {
        self.end = u64::MAX;
        let bytes = length(self.varint("")?, "")?;
        self.end = self.taken.saturating_add(bytes);
        self.skip(1, "attributes")?;
        let timestamp_delta = self.varlong("timestamp_delta")?;
        let offset_delta = self.varint("offset_delta")?;
        let key = self.varint("key")?;
        if key != -1 {
            self.skip(length(key, "key")?, "key")?;
        }
        let value = self.varint("value")?;
        if value != -1 {
            self.skip(length(value, "value")?, "value")?;
        }
        for _ in 0..length(self.varint("headers")?, "headers")? {
            let name = length(self.varint("headers")?, "headers")?;
            self.skip(name, "headers")?;
            let value = self.varint("headers")?;
            if value != -1 {
                self.skip(length(value, "headers")?, "headers")?;
            }
        }
        if self.taken != self.end {
            let announced = usize::try_from(self.end - self.taken).unwrap_or(usize::MAX);
            return Err(fault(Fault::ArrayTooLong { announced, possible: 0 }, "headers"));
        }
        Ok(Walked { timestamp_delta, offset_delta, has_key: key != -1 })
    }

    /// Bytes that lie ready; none at the end.
    fn ready(&mut self) -> Result<&[u8], RecordsError> {
        if self.taken > self.limit {
            let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
            return Err(RecordsError::DecompressedTooLarge { limit });
        }
        let codec = self.codec;
        let damaged = |error: io::Error| RecordsError::Compressed { codec, reason: error.to_string() };
        self.source.fill_buf().map_err(damaged)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, RecordsError> {
        let left = self.end - self.taken;
        match self.ready()?.first().copied() {
            Some(byte) if left > 0 => {
                self.source.consume(1);
                self.taken += 1;
                Ok(byte)
            }
            _ => Err(fault(Fault::Truncated { needed: 1, remaining: 0 }, field)),
        }
    }

    fn skip(&mut self, count: u64, field: &'static str) -> Result<(), RecordsError> {
        let left = self.end - self.taken;
        let truncated = |remaining: u64| {
            let [needed, remaining] = [count, remaining].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            fault(Fault::Truncated { needed, remaining }, field)
        };
        if count > left {
            return Err(truncated(left));
        }
        let mut missing = count;
        while missing > 0 {
            let step = (self.ready()?.len() as u64).min(missing);
            if step == 0 {
                return Err(truncated(count - missing));
            }
            self.source.consume(usize::try_from(step).unwrap_or(usize::MAX));
            self.taken += step;
            missing -= step;
        }
        Ok(())
    }

    fn skip_to_end(&mut self) -> Result<usize, RecordsError> {
        let before = self.taken;
        loop {
            let step = self.ready()?.len();
            if step == 0 {
                return Ok(usize::try_from(self.taken - before).unwrap_or(usize::MAX));
            }
            self.source.consume(step);
            self.taken += step as u64;
        }
    }

    fn varint(&mut self, field: &'static str) -> Result<i32, RecordsError> {
        let raw = self.uvarlong(5, field)?;
        let raw = u32::try_from(raw).map_err(|_| fault(Fault::EndlessVarint, field))?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    fn varlong(&mut self, field: &'static str) -> Result<i64, RecordsError> {
        let raw = self.uvarlong(10, field)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn uvarlong(&mut self, max_bytes: u32, field: &'static str) -> Result<u64, RecordsError> {
        let mut value = 0u64;
        for index in 0..max_bytes {
            let byte = self.byte(field)?;
            let bits = u64::from(byte & 0x7f);
            let shift = index * 7;
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(fault(Fault::EndlessVarint, field))
    }
}

fn fault(fault: Fault, field: &'static str) -> RecordsError {
    RecordsError::Record(DecodeError { fault, field })
}

fn length(raw: i32, field: &'static str) -> Result<u64, RecordsError> {
    u64::try_from(raw).map_err(|_| fault(Fault::NegativeLength(raw), field))
}

/// Zstandard frames one after the other, decoded a block at a time.
struct ZstdFrames<'a> {
    rest: &'a [u8],
    decoder: Option<FrameDecoder>,
}

impl Read for ZstdFrames<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                match decoder.read(target)? {
                    0 if decoder.is_finished() => {}
                    0 => {
                        let one_more = BlockDecodingStrategy::UptoBlocks(1);
                        decoder.decode_blocks(&mut self.rest, one_more).map_err(io::Error::other)?;
                        continue;
                    }
                    read => return Ok(read),
                }
            }
            if self.rest.is_empty() {
                return Ok(0);
            }
            let decoder = self.decoder.get_or_insert_with(|| {
                let mut decoder = FrameDecoder::new();
                decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
                decoder
            });
            decoder.reset(&mut self.rest).map_err(io::Error::other)?;
        }
    }
}
