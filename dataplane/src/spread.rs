//! A hash for small keys on the packet path. `std`'s keyed SipHash costs about as many instructions as the whole rest of a
//! look at the LAN's neighbours; its protection against chosen keys is not needed there, since the kernel bounds its
//! neighbour table (`gc_thresh3`) and only stations that answer get into it.

use std::hash::{BuildHasherDefault, Hasher};

/// For `HashMap`.
pub type Spread = BuildHasherDefault<SpreadHasher>;

/// Folds what it is given, 8 octets at a time, by multiplication.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpreadHasher(u64);

/// 2^64 ÷ the golden ratio, made odd (Knuth, TAOCP volume 3, section 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl SpreadHasher {
    #[inline]
    const fn fold(&mut self, word: u64) {
        // Both halves of the product count: `HashMap` takes its buckets from the low bits, its tags from the high ones.
        let product = (self.0 ^ word) as u128 * MULTIPLIER as u128;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for SpreadHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, octets: &[u8]) {
        for chunk in octets.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.fold(u64::from_le_bytes(word) ^ chunk.len() as u64);
        }
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.fold(u64::from(word));
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.fold(word);
    }

    #[inline]
    fn write_u128(&mut self, word: u128) {
        self.fold(word as u64);
        self.fold((word >> 64) as u64);
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.fold(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};
    use std::net::Ipv4Addr;

    /// Addresses in a row, as hosts of a LAN have them, fall into buckets as evenly as chance would have it.
    #[test]
    fn neighbours_are_spread() {
        fn fullest(key: impl Fn(u32) -> u64) -> usize {
            let mut buckets = [0_usize; 1_024];
            (0..4_096).for_each(|n| buckets[key(n) as usize % 1_024] += 1);
            buckets.into_iter().max().unwrap()
        }
        let hash = |value: &dyn Fn(&mut SpreadHasher)| {
            let mut hasher = Spread::default().build_hasher();
            value(&mut hasher);
            hasher.finish()
        };
        for step in [1, 256, 65_536] {
            let v4 = |n: u32| hash(&|h| Ipv4Addr::from(0x0a00_0000 + n.wrapping_mul(step)).hash(h));
            let wide = |n: u32| hash(&|h| (0xffff_0000_0000_u128 + u128::from(n.wrapping_mul(step))).hash(h));
            assert!(fullest(v4) < 20 && fullest(wide) < 20, "step {step}");
        }
        let whole: HashSet<u64> = (0..4_096_u32).map(|n| hash(&|h| n.to_be_bytes().hash(h))).collect();
        assert_eq!(whole.len(), 4_096);
    }
}
