//! What the simulated clients send: a number that is found again in every copy, and bytes that follow from
//! it.

use bytes::{BufMut, Bytes, BytesMut};

/// A message of the run. The publisher is in the upper half, what it counts in the lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

impl Id {
    pub fn new(publisher: u32, number: u32) -> Id {
        Id(u64::from(publisher) << 32 | u64::from(number))
    }

    pub fn publisher(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn number(self) -> u32 {
        self.0 as u32
    }

    /// The body that carries it.
    pub fn body(self) -> Bytes {
        let length = self.padding();
        let mut body = BytesMut::with_capacity(8 + length);
        body.put_u64(self.0);
        body.extend((0..length).map(|at| self.octet(at)));
        body.freeze()
    }

    /// The message whose body this is; none when a single octet of it is wrong.
    pub fn of(body: &[u8]) -> Option<Id> {
        let (head, padding) = body.split_first_chunk::<8>()?;
        let id = Id(u64::from_be_bytes(*head));
        let whole =
            padding.len() == id.padding() && padding.iter().enumerate().all(|(at, b)| *b == id.octet(at));
        whole.then_some(id)
    }

    fn padding(self) -> usize {
        match self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 {
            mixed if mixed % 16 == 0 => (mixed >> 8) as usize % 3_000,
            mixed => (mixed >> 8) as usize % 300,
        }
    }

    fn octet(self, at: usize) -> u8 {
        (self.0 as usize).wrapping_mul(31).wrapping_add(at.wrapping_mul(7)) as u8
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.publisher(), self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_known_by_every_octet() {
        for number in 0..200 {
            let id = Id::new(7, number);
            let body = id.body();
            assert_eq!(Id::of(&body), Some(id));
            let mut wrong = body.to_vec();
            let at = number as usize % wrong.len();
            wrong[at] ^= 1;
            assert_eq!(Id::of(&wrong), None, "{number}");
            assert_eq!(Id::of(&body[..body.len() - 1]), None);
        }
    }
}
