//! Appends method fields and table values to a buffer.

use bytes::{BufMut, BytesMut};

use super::field_table::FieldTable;
use super::short_string::ShortStr;

/// Appends fields; keeps the octet that a run of bits shares.
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    bits_used: u8,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut BytesMut) -> Self {
        Self { out, bits_used: 0 }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bits_used = 0;
        self.out.put_u8(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bits_used = 0;
        self.out.put_u16(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bits_used = 0;
        self.out.put_u32(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bits_used = 0;
        self.out.put_u64(value);
    }

    pub(super) fn bit(&mut self, value: bool) {
        if self.bits_used == 0 || self.bits_used == 8 {
            self.bits_used = 0;
            self.out.put_u8(0);
        }
        if let Some(octet) = self.out.last_mut() {
            *octet |= u8::from(value) << self.bits_used;
        }
        self.bits_used += 1;
    }

    pub(super) fn octets(&mut self, octets: &[u8]) {
        self.bits_used = 0;
        self.out.extend_from_slice(octets);
    }

    pub(super) fn short_string(&mut self, string: ShortStr<'_>) {
        let octets = string.as_bytes();
        // A ShortStr never exceeds 255 octets.
        self.u8(octets.len() as u8);
        self.octets(octets);
    }

    pub(super) fn long_string(&mut self, octets: &[u8]) {
        self.u32(length(octets.len()));
        self.octets(octets);
    }

    pub(super) fn table(&mut self, table: &FieldTable) {
        self.sized(|writer| table.write(writer));
    }

    /// Writes what `write` writes, behind its length.
    pub(super) fn sized(&mut self, write: impl FnOnce(&mut Self)) {
        self.u32(0);
        let start = self.out.len();
        write(self);
        let octets = length(self.out.len() - start);
        if let Some(prefix) = self.out.get_mut(start - 4..start) {
            prefix.copy_from_slice(&octets.to_be_bytes());
        }
        self.bits_used = 0;
    }
}

/// Beyond 4 GiB the length is wrong, but such a frame is refused as a whole: no frame_max admits it.
fn length(octets: usize) -> u32 {
    u32::try_from(octets).unwrap_or(u32::MAX)
}
