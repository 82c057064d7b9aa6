//! Writing the primitive types into one buffer, with stored bytes set in between by reference.

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::{Frame, LENGTH_BYTES};
use super::limits::COPY_BELOW_BYTES;

/// Why a message cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("string of {0} bytes is longer than this version can say (32767)")]
    StringTooLong(usize),
    #[error("{0} bytes or elements are more than a length can say")]
    LengthTooLong(usize),
}

/// Collects one frame. Faults are remembered and told at the end, so that encoding reads as a plain sequence.
#[derive(Debug)]
pub struct Writer {
    buffer: BytesMut,
    /// Bytes that belong into the buffer at a position, by reference.
    inserted: Vec<(usize, Bytes)>,
    version: i16,
    flexible: bool,
    fault: Option<EncodeError>,
}

impl Writer {
    /// `flexible` is whether this version of the message uses compact lengths and tagged fields (KIP-482).
    pub fn new(version: i16, flexible: bool) -> Self {
        let mut buffer = BytesMut::with_capacity(256);
        buffer.put_bytes(0, LENGTH_BYTES);
        Self { buffer, inserted: Vec::new(), version, flexible, fault: None }
    }

    pub fn version(&self) -> i16 {
        self.version
    }

    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// From here on the message is in this version and encoding: a header has its own.
    pub(super) fn switch_to(&mut self, version: i16, flexible: bool) {
        self.version = version;
        self.flexible = flexible;
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    /// Puts bytes without copying them, unless they are few.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW_BYTES {
            self.put(&bytes);
        } else {
            self.inserted.push((self.buffer.len(), bytes));
        }
    }

    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    /// Length of a string; `None` is null.
    pub(super) fn string_length(&mut self, length: Option<usize>) {
        match length {
            _ if self.flexible => self.compact_length(length),
            None => self.buffer.put_i16(-1),
            Some(length) => match i16::try_from(length) {
                Ok(length) => self.buffer.put_i16(length),
                Err(_) => self.fail(EncodeError::StringTooLong(length)),
            },
        }
    }

    /// Length of a byte string or an array; `None` is null.
    pub(super) fn long_length(&mut self, length: Option<usize>) {
        match length {
            _ if self.flexible => self.compact_length(length),
            None => self.buffer.put_i32(-1),
            Some(length) => match i32::try_from(length) {
                Ok(length) => self.buffer.put_i32(length),
                Err(_) => self.fail(EncodeError::LengthTooLong(length)),
            },
        }
    }

    fn compact_length(&mut self, length: Option<usize>) {
        let Some(length) = length else { return self.uvarint(0) };
        match i32::try_from(length) {
            Ok(length) => self.uvarint(length.unsigned_abs() + 1),
            Err(_) => self.fail(EncodeError::LengthTooLong(length)),
        }
    }

    /// Writes one tagged field: its size goes in front, so it is written aside first. Tagged fields are rare.
    pub(super) fn tagged_field(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.buffer);
        write(self);
        let field = std::mem::replace(&mut self.buffer, outer);
        self.uvarint(tag);
        match u32::try_from(field.len()) {
            Ok(length) => self.uvarint(length),
            Err(_) => self.fail(EncodeError::LengthTooLong(field.len())),
        }
        self.put(&field);
    }

    fn fail(&mut self, fault: EncodeError) {
        self.fault.get_or_insert(fault);
    }

    /// Fills in the length and hands the frame over.
    pub fn finish(mut self) -> Result<Frame, EncodeError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let shared: usize = self.inserted.iter().map(|(_, bytes)| bytes.len()).sum();
        let length = self.buffer.len() - LENGTH_BYTES + shared;
        let announced = i32::try_from(length).map_err(|_| EncodeError::LengthTooLong(length))?;
        if let Some(prefix) = self.buffer.first_chunk_mut::<LENGTH_BYTES>() {
            *prefix = announced.to_be_bytes();
        }
        let mut rest = self.buffer.freeze();
        let mut pieces = Vec::with_capacity(self.inserted.len() * 2 + 1);
        let mut from = 0;
        for (at, bytes) in self.inserted {
            if at > from {
                pieces.push(rest.split_to(at - from));
                from = at;
            }
            pieces.push(bytes);
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
        Ok(Frame::new(pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_byte_strings_are_pieces_of_their_own() {
        let stored = Bytes::from(vec![7u8; COPY_BELOW_BYTES]);
        let mut writer = Writer::new(0, false);
        writer.put(b"head");
        writer.put_shared(stored.clone());
        writer.put_shared(stored.clone());
        writer.put_shared(Bytes::from_static(b"few"));
        let frame = writer.finish().unwrap();
        let [head, first, second, tail] = frame.pieces() else { panic!("{frame:?}") };
        assert_eq!(head[..4], (7 + 2 * COPY_BELOW_BYTES as u32).to_be_bytes());
        assert_eq!(&head[4..], b"head");
        assert_eq!((first.as_ptr(), second.as_ptr()), (stored.as_ptr(), stored.as_ptr()));
        assert_eq!(&tail[..], b"few");
        assert_eq!(frame.len(), 4 + 7 + 2 * COPY_BELOW_BYTES);
        assert_eq!(frame.to_bytes().len(), frame.len());
    }

    #[test]
    fn what_a_length_cannot_say_is_an_error() {
        let mut writer = Writer::new(0, false);
        writer.string_length(Some(32_767));
        assert!(writer.finish().is_ok());
        let mut writer = Writer::new(0, false);
        writer.string_length(Some(32_768));
        assert_eq!(writer.finish(), Err(EncodeError::StringTooLong(32_768)));
    }
}
