//! Makes new inputs from known ones.

/// Repairs what a mutation broke on the surface, such as a checksum.
pub type Repair = fn(&mut [u8]);

/// Values that lengths, counts and identifiers are tried with, in either byte order.
const EXTREMES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// Variable-length integers at their limits, as Kafka and MQTT write them.
const VARIABLE: [&[u8]; 6] = [
    &[0x80, 0x00],
    &[0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
];

/// Bit flips, extremes, splices, cuts and repetitions, chosen by a seed.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `limit`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^= value >> 31;
        if limit == 0 { 0 } else { usize::try_from(value % limit as u64).unwrap_or(0) }
    }

    /// One mutated input of at most `bytes_max` bytes.
    pub fn next(&mut self, pool: &[Vec<u8>], bytes_max: usize, repair: Option<Repair>) -> Vec<u8> {
        let mut input = pool[self.below(pool.len())].clone();
        // Mostly one small change; sometimes many.
        let changes = 1 + self.below(2).pow(2) * self.below(8);
        for _ in 0..changes {
            self.change(&mut input, pool);
        }
        input.truncate(bytes_max);
        if let Some(repair) = repair
            && self.below(4) > 0
        {
            repair(&mut input);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let place = self.below(input.len());
        match self.below(11) {
            0 | 1 if !input.is_empty() => input[place] ^= 1 << self.below(8),
            2 if !input.is_empty() => input[place] = self.below(256) as u8,
            3..=5 => self.extreme(input, place),
            6 => {
                let bytes = VARIABLE[self.below(VARIABLE.len())];
                let end = (place + self.below(2) * bytes.len()).min(input.len());
                input.splice(place..end, bytes.iter().copied());
            }
            7 => input.truncate(place),
            8 => {
                let end = place + self.below(input.len() - place.min(input.len()));
                input.drain(place..end.min(input.len()));
            }
            9 => self.splice(input, place, pool),
            _ => {
                let end = (place + 1 + self.below(64)).min(input.len());
                let part = input[place.min(end)..end].to_vec();
                for _ in 0..=self.below(16) {
                    input.splice(place..place, part.iter().copied());
                }
            }
        }
    }

    /// Overwrites one to eight bytes with an extreme.
    fn extreme(&mut self, input: &mut [u8], place: usize) {
        let width = [1, 2, 4, 8][self.below(4)];
        let value = EXTREMES[self.below(EXTREMES.len())].wrapping_add([0, 1, u64::MAX][self.below(3)]);
        let bytes = if self.below(4) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
        let from = if self.below(4) == 0 { 0 } else { bytes.len() - width };
        for (target, source) in
            input.iter_mut().skip(place).zip(&bytes[from..from + width.min(bytes.len() - from)])
        {
            *target = *source;
        }
    }

    /// Puts a part of another input in.
    fn splice(&mut self, input: &mut Vec<u8>, place: usize, pool: &[Vec<u8>]) {
        let other = &pool[self.below(pool.len())];
        let from = self.below(other.len());
        let end = from + self.below(other.len() - from + 1);
        let replaced = place + self.below(2) * self.below(input.len() - place + 1);
        input.splice(place..replaced.min(input.len()), other[from..end.min(other.len())].iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_vary_keep_their_limit_and_repeat_with_the_seed() {
        let pool = vec![b"some seed".to_vec(), Vec::new(), vec![0; 300]];
        let run = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..5000).map(|_| mutator.next(&pool, 256, None)).collect::<Vec<_>>()
        };
        let inputs = run(7);
        assert!(inputs.iter().all(|input| input.len() <= 256));
        let distinct: std::collections::HashSet<_> = inputs.iter().collect();
        assert!(distinct.len() > 2000, "only {} distinct inputs", distinct.len());
        assert_eq!(inputs, run(7));
        assert_ne!(inputs, run(8));
    }
}
