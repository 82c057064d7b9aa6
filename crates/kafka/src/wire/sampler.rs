//! Random values for round-trip tests, the same for the same seed.

use bytes::Bytes;
use bytestring::ByteString;

pub struct Sampler(u64);

impl Sampler {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn bytes(&mut self) -> Bytes {
        let length = match self.below(8) {
            0 => 0,
            1 => self.below(2000),
            _ => self.below(20),
        };
        (0..length).map(|_| self.next() as u8).collect()
    }

    pub fn string(&mut self) -> ByteString {
        let length = if self.below(10) == 0 { 200 } else { self.below(12) };
        (0..length).map(|_| ['a', 'Z', '0', '.', 'ä', '€', '🦀'][self.below(7)]).collect::<String>().into()
    }
}
