//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Sum of big-endian 16-bit words, folded to 16 bits once. An odd last octet counts as the high half.
///
/// Summed in wide steps and native order: the sum does not depend on the byte order but for a final swap (RFC 1071 §2(B)).
#[must_use]
#[inline]
pub fn sum_words(octets: &[u8]) -> u32 {
    let wide = octets.chunks_exact(4);
    let rest = wide.remainder();
    let sum: u64 = wide.map(|four| u64::from(u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))).sum();
    let rest: u64 = match *rest {
        [a] => u64::from(u16::from_ne_bytes([a, 0])),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c] => u64::from(u16::from_ne_bytes([a, b])) + u64::from(u16::from_ne_bytes([c, 0])),
        _ => 0,
    };
    let mut sum = sum + rest;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u32::from(u16::from_be(sum as u16))
}

/// Folds a sum into the checksum field's value.
#[must_use]
#[inline]
pub const fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum after one 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
#[must_use]
#[inline]
pub const fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    fold((!checksum) as u32 + (!old) as u32 + new as u32)
}

/// Sum of the pseudo-header of IPv6 (RFC 8200 §8.1), or of IPv4's (RFC 768), by the addresses as they stand in the header.
#[must_use]
#[inline]
pub fn pseudo_sum(addresses: &[u8], protocol: u8, len: usize) -> u32 {
    // The length never exceeds a frame; its high half is zero.
    sum_words(addresses) + u32::from(protocol) + len as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slowly(octets: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in octets.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        fold(sum)
    }

    proptest! {
        #[test]
        fn wide_steps_agree_with_words(octets in proptest::collection::vec(any::<u8>(), 0..1_600)) {
            prop_assert_eq!(fold(sum_words(&octets)), slowly(&octets));
        }

        #[test]
        fn an_update_is_a_recount(mut octets in proptest::collection::vec(any::<u8>(), 4..64), new: u16, at: usize) {
            octets.truncate(octets.len() & !1);
            let at = (at % (octets.len() / 2)) * 2;
            let before = fold(sum_words(&octets));
            let old = u16::from_be_bytes([octets[at], octets[at + 1]]);
            octets[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let after = fold(sum_words(&octets));
            let quick = updated(before, old, new);
            // 0 and 0xffff are one number in this arithmetic.
            prop_assert!(quick == after || (quick == 0 && after == 0xffff) || (quick == 0xffff && after == 0));
        }
    }
}
