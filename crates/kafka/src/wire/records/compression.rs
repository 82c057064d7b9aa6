//! Decompressing the records of a batch, for readers other than Kafka's clients. Batches are stored and
//! served as they came; nothing here is on that path.

use std::io::Read;

use bytes::{Buf, Bytes};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::super::limits::{MAX_SNAPPY_RATIO, MAX_ZSTD_WINDOW_BYTES};
use super::RecordsError;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// The codec that the lowest three attribute bits name.
    pub fn from_bits(bits: i16) -> Option<Self> {
        match bits {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What `compressed` holds, at most `max_bytes` of it. Memory grows with what really comes out.
    pub fn decompress(self, compressed: Bytes, max_bytes: usize) -> Result<Bytes, RecordsError> {
        let result = match self {
            Self::None => return Ok(compressed),
            Self::Gzip => read_all(flate2::bufread::MultiGzDecoder::new(compressed.reader()), max_bytes),
            Self::Snappy => snappy(&compressed, max_bytes),
            Self::Lz4 => read_all(lz4_flex::frame::FrameDecoder::new(compressed.reader()), max_bytes),
            Self::Zstd => zstd(&compressed, max_bytes),
        };
        result.map(Bytes::from).map_err(|fault| match fault {
            Fault::TooLarge => RecordsError::DecompressedTooLarge { limit: max_bytes },
            Fault::Damaged(reason) => RecordsError::Compressed { codec: self, reason },
        })
    }
}

enum Fault {
    TooLarge,
    Damaged(String),
}

fn damaged(reason: impl ToString) -> Fault {
    Fault::Damaged(reason.to_string())
}

fn read_all(decoder: impl Read, max_bytes: usize) -> Result<Vec<u8>, Fault> {
    let mut plain = Vec::new();
    let one_more = (max_bytes as u64).saturating_add(1);
    decoder.take(one_more).read_to_end(&mut plain).map_err(damaged)?;
    if plain.len() > max_bytes { Err(Fault::TooLarge) } else { Ok(plain) }
}

/// What snappy-java writes in front: a magic, its version and the least version that can read it.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;

/// Blocks as snappy-java frames them, or one bare block as some other clients write it.
fn snappy(compressed: &[u8], max_bytes: usize) -> Result<Vec<u8>, Fault> {
    let mut plain = Vec::new();
    if !compressed.starts_with(XERIAL_MAGIC) {
        snappy_block(compressed, &mut plain, max_bytes)?;
        return Ok(plain);
    }
    let mut rest = compressed;
    while !rest.is_empty() {
        // Streams may be concatenated, each with its own header.
        if rest.starts_with(XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEADER_BYTES..).ok_or_else(|| damaged("header is cut off"))?;
            continue;
        }
        let (length, blocks) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("length is cut off"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, next) = blocks.split_at_checked(length).ok_or_else(|| damaged("block is cut off"))?;
        snappy_block(block, &mut plain, max_bytes)?;
        rest = next;
    }
    Ok(plain)
}

/// A snappy block says its size in front; it is believed only within what its bytes could produce.
fn snappy_block(block: &[u8], plain: &mut Vec<u8>, max_bytes: usize) -> Result<(), Fault> {
    let announced = snap::raw::decompress_len(block).map_err(damaged)?;
    if announced > block.len().saturating_mul(MAX_SNAPPY_RATIO) {
        return Err(damaged("block claims an impossible size"));
    }
    let before = plain.len();
    if announced > max_bytes.saturating_sub(before) {
        return Err(Fault::TooLarge);
    }
    plain.resize(before + announced, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, plain.get_mut(before..).unwrap_or_default())
        .map_err(damaged)?;
    plain.truncate(before + written);
    Ok(())
}

/// The decoder keeps what it decodes until it is collected, and stops soon after the limit: blocks have at
/// most 128 KiB.
fn zstd(compressed: &[u8], max_bytes: usize) -> Result<Vec<u8>, Fault> {
    let mut plain = Vec::new();
    let mut rest = compressed;
    while !rest.is_empty() {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
        decoder.init(&mut rest).map_err(damaged)?;
        let left = max_bytes - plain.len();
        let finished = decoder
            .decode_blocks(&mut rest, BlockDecodingStrategy::UptoBytes(left.saturating_add(1)))
            .map_err(damaged)?;
        if !finished || decoder.can_collect() > left {
            return Err(Fault::TooLarge);
        }
        plain.extend(decoder.collect().unwrap_or_default());
    }
    Ok(plain)
}
