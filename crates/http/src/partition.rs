//! Which partition a message without one goes to.

/// The partition of a key among `count`, as producers of partitioned logs usually place it, so that all protocols
/// agree.
pub fn of_key(key: &[u8], count: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % count.max(1)
}

/// Murmur2 with the seed of the Java client.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c_u32 ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (at, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * at);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_other_producers_put_them() {
        for (key, expect) in [("21", -973932308), ("foobar", -790332482), ("abc", 479470107)] {
            assert_eq!(murmur2(key.as_bytes()) as i32, expect, "{key}");
        }
        assert_eq!(of_key(b"abc", 4), 3);
        assert_eq!(of_key(b"abc", 0), 0);
    }
}
