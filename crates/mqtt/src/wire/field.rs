//! Data representation, section 1.5: integers, strings, binary data, variable byte integers.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::error::{DecodeError, EncodeError};
use super::packet::PacketIdentifier;

/// The largest variable byte integer: four bytes of seven bits.
pub(super) const VARIABLE_BYTE_INTEGER_MAX: u32 = 268_435_455;

/// Reads fields from one packet. Every length is checked against what the packet really holds; strings and
/// binary data are slices of it.
pub(super) struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a Bytes) -> Self {
        Self { bytes, at: 0, end: bytes.len() }
    }

    pub(super) fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// Offset of the next field within the packet.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The bytes between two positions of this packet.
    pub(super) fn slice(&self, range: std::ops::Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        if length > self.remaining() {
            return Err(DecodeError::Truncated);
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        let raw = self.take(2)?;
        Ok(u16::from_be_bytes([raw[0], raw[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        let raw = self.take(4)?;
        Ok(u32::from_be_bytes([raw[0], raw[1], raw[2], raw[3]]))
    }

    /// A variable byte integer, which must use the minimum number of bytes [MQTT-1.5.5-1].
    pub(super) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let minimal = byte != 0 || shift == 0;
                return if minimal { Ok(value) } else { Err(DecodeError::VariableByteInteger) };
            }
        }
        Err(DecodeError::VariableByteInteger)
    }

    /// A packet identifier, which must not be 0 [MQTT-2.2.1-3].
    pub(super) fn packet_identifier(&mut self) -> Result<PacketIdentifier, DecodeError> {
        PacketIdentifier::new(self.u16()?).ok_or(DecodeError::PacketIdentifierZero)
    }

    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let length = usize::from(self.u16()?);
        let start = self.at;
        self.take(length)?;
        Ok(self.bytes.slice(start..self.at))
    }

    pub(super) fn string(&mut self) -> Result<ByteString, DecodeError> {
        let raw = self.binary()?;
        let string = ByteString::try_from(raw).map_err(|_| DecodeError::InvalidUtf8)?;
        if string.as_bytes().contains(&0) {
            return Err(DecodeError::NulCharacter);
        }
        Ok(string)
    }

    /// Checks a string without keeping it.
    pub(super) fn check_string(&mut self) -> Result<&'a str, DecodeError> {
        let length = usize::from(self.u16()?);
        let raw = self.take(length)?;
        let string = std::str::from_utf8(raw).map_err(|_| DecodeError::InvalidUtf8)?;
        if raw.contains(&0) {
            return Err(DecodeError::NulCharacter);
        }
        Ok(string)
    }

    /// A reader of the next `length` bytes; this one goes on behind them.
    pub(super) fn section(&mut self, length: usize) -> Result<Reader<'a>, DecodeError> {
        let start = self.at;
        self.take(length)?;
        Ok(Reader { bytes: self.bytes, at: start, end: self.at })
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.remaining() == 0 { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// Bytes that this value takes as a variable byte integer.
pub(super) const fn variable_byte_integer_len(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

pub(super) fn put_variable_byte_integer(out: &mut BytesMut, length: usize) -> Result<(), EncodeError> {
    let mut value = match u32::try_from(length) {
        Ok(value) if value <= VARIABLE_BYTE_INTEGER_MAX => value,
        _ => return Err(EncodeError::PacketTooLong(length)),
    };
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
    Ok(())
}

pub(super) fn put_binary(out: &mut BytesMut, field: &[u8]) -> Result<(), EncodeError> {
    let length = field_len(field)?;
    out.put_u16(length);
    out.put_slice(field);
    Ok(())
}

pub(super) fn put_string(out: &mut BytesMut, field: &str) -> Result<(), EncodeError> {
    let length = string_len(field)?;
    out.put_u16(length);
    out.put_slice(field.as_bytes());
    Ok(())
}

/// The length of a string, which must not contain U+0000 [MQTT-1.5.4-2].
pub(super) fn string_len(field: &str) -> Result<u16, EncodeError> {
    if field.as_bytes().contains(&0) {
        return Err(EncodeError::NulCharacter);
    }
    field_len(field.as_bytes())
}

/// The length of a string or binary field, which has two bytes on the wire.
pub(super) fn field_len(field: &[u8]) -> Result<u16, EncodeError> {
    u16::try_from(field.len()).map_err(|_| EncodeError::FieldTooLong(field.len()))
}

/// Writes a fixed header and the body behind it.
pub(super) fn put_packet(out: &mut BytesMut, first_byte: u8, body: &[u8]) -> Result<(), EncodeError> {
    if body.len() > VARIABLE_BYTE_INTEGER_MAX as usize {
        return Err(EncodeError::PacketTooLong(body.len()));
    }
    out.reserve(5 + body.len());
    out.put_u8(first_byte);
    put_variable_byte_integer(out, body.len())?;
    out.put_slice(body);
    Ok(())
}
