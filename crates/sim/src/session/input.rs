//! A fuzzer's bytes as a source of choices. Without bytes left, each choice is the first one.

use std::time::Duration;

/// Operations of one sequence, so that each input takes milliseconds.
const OPERATIONS_MAX: usize = 160;

/// Simulated time that one sequence waits by its own choice, for the same reason.
const PAUSES_MAX: Duration = Duration::from_secs(12);

pub struct Input {
    bytes: Vec<u8>,
    at: usize,
    operations: usize,
    paused: Duration,
}

impl Input {
    pub fn new(bytes: Vec<u8>) -> Input {
        Input { bytes, at: 0, operations: 0, paused: Duration::ZERO }
    }

    /// What begins the next operation; `None` at the end of the sequence.
    pub fn operation(&mut self) -> Option<u8> {
        if self.at >= self.bytes.len() || self.operations >= OPERATIONS_MAX {
            return None;
        }
        self.operations += 1;
        Some(self.byte())
    }

    pub fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    pub fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound.max(1)
    }

    /// Up to 255 times `ms`, while there is time left.
    pub fn pause(&mut self, ms: u32) -> Duration {
        let wanted = Duration::from_millis(ms.into()) * u32::from(self.byte());
        let pause = wanted.min(PAUSES_MAX.saturating_sub(self.paused));
        self.paused += pause;
        pause
    }

    /// Eight yes-or-no choices.
    pub fn flags(&mut self) -> [bool; 8] {
        let byte = self.byte();
        std::array::from_fn(|bit| byte >> bit & 1 == 1)
    }

    pub fn one<T: Copy, const N: usize>(&mut self, of: [T; N]) -> T {
        of[usize::from(self.byte()) % N]
    }

    /// Up to `most` bytes, as many as the next byte says.
    pub fn bytes(&mut self, most: u8) -> Vec<u8> {
        let count = usize::from(self.below(most.saturating_add(1)));
        let from = self.at.min(self.bytes.len());
        let end = (from + count).min(self.bytes.len());
        self.at = end;
        self.bytes[from..end].to_vec()
    }

    /// Mostly something close to `expected`, sometimes far away from it.
    pub fn near(&mut self, expected: i64) -> i64 {
        match self.byte() {
            0..=99 => expected,
            choice @ 100..=199 => expected.wrapping_sub(i64::from(choice - 100) % 8),
            choice @ 200..=239 => expected.wrapping_add(i64::from(choice - 199) % 8),
            240..=247 => 0,
            248..=251 => -1,
            252 | 253 => i64::MAX,
            254 => i64::MIN,
            _ => i64::from(i32::MAX),
        }
    }
}
