//! Reading the primitive types, never past the end and never into memory that the input has not paid for.

use bytes::Bytes;
use bytestring::ByteString;

use super::limits::{
    ARRAY_MEMORY_FLOOR_BYTES, ARRAY_MEMORY_PER_WIRE_BYTE, MAX_ARRAY_ELEMENTS, MAX_TAGGED_FIELDS,
};

/// What is wrong with a message, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault} in field `{field}`")]
pub struct DecodeError {
    pub fault: Fault,
    /// Name of the innermost field; empty when the fault is in no named field.
    pub field: &'static str,
}

/// The ways in which bytes can fail to be what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{needed} bytes needed, {remaining} left")]
    Truncated { needed: usize, remaining: usize },
    #[error("length {0} is negative")]
    NegativeLength(i32),
    #[error("array of {announced} elements, at most {possible} possible")]
    ArrayTooLong { announced: usize, possible: usize },
    #[error("arrays would take more memory than the message may claim")]
    OverMemory,
    #[error("null where none is allowed")]
    UnexpectedNull,
    #[error("string is not UTF-8")]
    NotUtf8,
    #[error("variable-length integer does not end")]
    EndlessVarint,
    #[error("{0} tagged fields")]
    TooManyTaggedFields(u32),
    #[error("tagged field is longer than it says")]
    TaggedFieldOverrun,
}

impl DecodeError {
    /// Names the field, unless one further in is named already.
    pub(super) fn in_field(self, field: &'static str) -> Self {
        if self.field.is_empty() { Self { field, ..self } } else { self }
    }
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        Self { fault, field: "" }
    }
}

/// A cursor over one message, with the version it is written in.
///
/// Strings and byte strings that it yields are slices of the message and keep the whole of it alive: what is
/// to outlive the request must be copied out.
#[derive(Debug)]
pub struct Reader {
    message: Bytes,
    at: usize,
    version: i16,
    flexible: bool,
    /// Bytes that arrays may still claim.
    memory: usize,
}

impl Reader {
    /// `flexible` is whether this version of the message uses compact lengths and tagged fields (KIP-482).
    pub fn new(message: Bytes, version: i16, flexible: bool) -> Self {
        let memory =
            message.len().saturating_mul(ARRAY_MEMORY_PER_WIRE_BYTE).saturating_add(ARRAY_MEMORY_FLOOR_BYTES);
        Self { message, at: 0, version, flexible, memory }
    }

    pub fn version(&self) -> i16 {
        self.version
    }

    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.message.len() - self.at
    }

    /// From here on the message is in this version and encoding: a header is read before its body's are
    /// known.
    pub(super) fn switch_to(&mut self, version: i16, flexible: bool) {
        self.version = version;
        self.flexible = flexible;
    }

    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        let found = *rest.first_chunk::<N>().ok_or(Fault::Truncated { needed: N, remaining: rest.len() })?;
        self.at += N;
        Ok(found)
    }

    /// The next `length` bytes, as a slice of the message.
    pub fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        let remaining = self.remaining();
        if length > remaining {
            return Err(Fault::Truncated { needed: length, remaining }.into());
        }
        let found = self.message.slice(self.at..self.at + length);
        self.at += length;
        Ok(found)
    }

    pub fn skip(&mut self, length: usize) -> Result<(), DecodeError> {
        let remaining = self.remaining();
        if length > remaining {
            return Err(Fault::Truncated { needed: length, remaining }.into());
        }
        self.at += length;
        Ok(())
    }

    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.uvarlong(5)?).map_err(|_| Fault::EndlessVarint.into())
    }

    /// A zigzag-encoded integer of up to five bytes.
    pub fn varint(&mut self) -> Result<i32, DecodeError> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// A zigzag-encoded integer of up to ten bytes.
    pub fn varlong(&mut self) -> Result<i64, DecodeError> {
        let raw = self.uvarlong(10)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn uvarlong(&mut self, max_bytes: u32) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for index in 0..max_bytes {
            let [byte] = self.fixed()?;
            let bits = u64::from(byte & 0x7f);
            let shift = index * 7;
            if shift == 63 && bits > 1 {
                return Err(Fault::EndlessVarint.into());
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::EndlessVarint.into())
    }

    /// Length of a string; `None` is null.
    pub(super) fn string_length(&mut self) -> Result<Option<usize>, DecodeError> {
        if self.flexible { self.compact_length() } else { length(i16::from_be_bytes(self.fixed()?).into()) }
    }

    /// Length of a byte string or an array; `None` is null.
    pub(super) fn long_length(&mut self) -> Result<Option<usize>, DecodeError> {
        if self.flexible { self.compact_length() } else { length(i32::from_be_bytes(self.fixed()?)) }
    }

    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok(self.uvarint()?.checked_sub(1).map(|length| length as usize))
    }

    /// A string whose length has been read.
    pub(super) fn string(&mut self, length: usize) -> Result<ByteString, DecodeError> {
        ByteString::try_from(self.slice(length)?).map_err(|_| Fault::NotUtf8.into())
    }

    /// Checks an announced array against what is really there, and claims the memory for it.
    ///
    /// `min_element` is the fewest bytes that an element can have on the wire, `element_memory` what it takes
    /// when decoded.
    pub(super) fn claim_array(
        &mut self,
        announced: usize,
        min_element: usize,
        element_memory: usize,
    ) -> Result<(), DecodeError> {
        let possible = (self.remaining() / min_element.max(1)).min(MAX_ARRAY_ELEMENTS);
        if announced > possible {
            return Err(Fault::ArrayTooLong { announced, possible }.into());
        }
        let claim = announced.saturating_mul(element_memory);
        self.memory = self.memory.checked_sub(claim).ok_or(Fault::OverMemory)?;
        Ok(())
    }

    /// Reads the tagged fields of a structure: `known` reads those that it knows and leaves the others alone.
    pub(super) fn tagged_fields(
        &mut self,
        mut known: impl FnMut(u32, &mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.uvarint()?;
        if count > MAX_TAGGED_FIELDS {
            return Err(Fault::TooManyTaggedFields(count).into());
        }
        for _ in 0..count {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let remaining = self.remaining();
            if size > remaining {
                return Err(Fault::Truncated { needed: size, remaining }.into());
            }
            let end = self.at + size;
            known(tag, self)?;
            if self.at > end {
                return Err(Fault::TaggedFieldOverrun.into());
            }
            self.at = end;
        }
        Ok(())
    }
}

/// A length that is null at -1 and wrong below.
fn length(raw: i32) -> Result<Option<usize>, DecodeError> {
    match raw {
        -1 => Ok(None),
        _ => usize::try_from(raw).map(Some).map_err(|_| Fault::NegativeLength(raw).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(message: &[u8]) -> Reader {
        Reader::new(Bytes::copy_from_slice(message), 0, true)
    }

    #[test]
    fn varints() {
        for (bytes, expect) in [
            (&[0x00][..], Ok(0)),
            (&[0x01], Ok(-1)),
            (&[0x02], Ok(1)),
            (&[0xac, 0x02], Ok(150)),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Ok(i32::MIN)),
            (&[0xfe, 0xff, 0xff, 0xff, 0x0f], Ok(i32::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], Err(Fault::EndlessVarint)),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], Err(Fault::EndlessVarint)),
            (&[0x80], Err(Fault::Truncated { needed: 1, remaining: 0 })),
        ] {
            assert_eq!(reader(bytes).varint().map_err(|error| error.fault), expect, "{bytes:x?}");
        }
    }

    #[test]
    fn varlongs() {
        let widest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(reader(&widest).varlong(), Ok(i64::MIN));
        let beyond = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(reader(&beyond).varlong(), Err(Fault::EndlessVarint.into()));
    }

    #[test]
    fn a_tagged_field_may_not_reach_beyond_its_size() {
        let message = [1, 0, 1, 7, 7, 7, 7];
        let mut reader = reader(&message);
        let result = reader.tagged_fields(|_, reader| reader.fixed::<4>().map(drop));
        assert_eq!(result, Err(Fault::TaggedFieldOverrun.into()));
    }
}
