//! Reads method fields and table values out of one frame's payload.

use bytes::Bytes;

use super::ReplyCode;
use super::field_table::{FieldTable, TABLE_DEPTH_MAX, TABLE_VALUES_MAX};
use super::short_string::ShortString;

/// What is wrong with the fields of a method, a field table or a property list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("field tables nested deeper than {TABLE_DEPTH_MAX}")]
    TooDeep,
    #[error("a field table with more than {TABLE_VALUES_MAX} values")]
    TooManyValues,
    #[error("{octets} octets after the last field")]
    TrailingOctets { octets: usize },
    #[error("a field reaches beyond the end")]
    Truncated,
    #[error("property flags {flags:#06x} that class 'basic' does not have")]
    UnknownPropertyFlags { flags: u16 },
    #[error("unknown field table type tag {tag:#04x}")]
    UnknownTypeTag { tag: u8 },
}

impl FieldError {
    /// 501 for what cannot be decoded, 502 for what can but has an illegal value (AMQP 1.2, reply codes).
    pub fn reply_code(self) -> ReplyCode {
        match self {
            Self::TrailingOctets { .. } | Self::Truncated => ReplyCode::FrameError,
            Self::TooDeep
            | Self::TooManyValues
            | Self::UnknownPropertyFlags { .. }
            | Self::UnknownTypeTag { .. } => ReplyCode::SyntaxError,
        }
    }
}

/// A cursor over part of `source`; strings become slices of `source`.
pub struct Reader<'a> {
    source: &'a Bytes,
    rest: &'a [u8],
    bits: u8,
    bits_left: u8,
}

impl<'a> Reader<'a> {
    /// `rest` lies inside `source`.
    pub(super) fn new(source: &'a Bytes, rest: &'a [u8]) -> Self {
        Self { source, rest, bits: 0, bits_left: 0 }
    }

    pub(super) fn take(&mut self, octets: usize) -> Result<&'a [u8], FieldError> {
        self.bits_left = 0;
        let (taken, rest) = self.rest.split_at_checked(octets).ok_or(FieldError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FieldError> {
        self.bits_left = 0;
        let (taken, rest) = self.rest.split_first_chunk().ok_or(FieldError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FieldError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, FieldError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FieldError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FieldError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Up to eight bits in a row share an octet, lowest first (AMQP 4.2.5.2).
    pub(super) fn bit(&mut self) -> Result<bool, FieldError> {
        if self.bits_left == 0 {
            self.bits = self.u8()?;
            self.bits_left = 8;
        }
        let bit = self.bits & 1 == 1;
        self.bits >>= 1;
        self.bits_left -= 1;
        Ok(bit)
    }

    pub(super) fn short_string(&mut self) -> Result<ShortString, FieldError> {
        let octets = self.u8()?;
        self.take(octets.into()).map(|octets| ShortString::from_wire(self.slice(octets)))
    }

    pub(super) fn long_string_octets(&mut self) -> Result<&'a [u8], FieldError> {
        let octets = self.u32()?;
        self.take(usize::try_from(octets).map_err(|_| FieldError::Truncated)?)
    }

    pub(super) fn long_string(&mut self) -> Result<Bytes, FieldError> {
        self.long_string_octets().map(|octets| self.slice(octets))
    }

    pub(super) fn table(&mut self) -> Result<FieldTable, FieldError> {
        let octets = self.long_string_octets()?;
        FieldTable::read(Reader::new(self.source, octets))
    }

    pub(super) fn slice(&self, octets: &'a [u8]) -> Bytes {
        self.source.slice_ref(octets)
    }

    pub(super) fn nested(&mut self) -> Result<Self, FieldError> {
        let octets = self.long_string_octets()?;
        Ok(Self::new(self.source, octets))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The fields end where the payload ends.
    pub(super) fn finish(&self) -> Result<(), FieldError> {
        match self.rest.len() {
            0 => Ok(()),
            octets => Err(FieldError::TrailingOctets { octets }),
        }
    }
}
