//! TCP's maximum segment size, clamped to what the tunnel carries (RFC 9293 §3.7.1, RFC 4459 §3.3).

use super::checksum::updated;
use super::inner::{Family, Inner};

const PROTOCOL_TCP: u8 = 6;
const HEADER_LEN: usize = 20;
const FLAGS_AT: usize = 13;
const SYN: u8 = 2;
const CHECKSUM_AT: usize = 16;
const OPTION_END: u8 = 0;
const OPTION_PADDING: u8 = 1;
const OPTION_MSS: u8 = 2;
/// Octets of the option: kind, length, value.
const MSS_LEN: usize = 4;

/// Lowers the MSS that a SYN announces to what fits an inner packet of `mtu` octets. Anything else is left as it is.
#[inline]
pub fn clamp_mss(packet: &mut [u8], inner: &Inner, mtu: usize) {
    if inner.protocol == PROTOCOL_TCP && !inner.fragment {
        clamp(packet, inner, mtu);
    }
}

fn clamp(packet: &mut [u8], inner: &Inner, mtu: usize) {
    let ip_len = match inner.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    let most = u16::try_from(mtu.saturating_sub(ip_len + HEADER_LEN)).unwrap_or(u16::MAX);
    let Some(segment) = packet.get_mut(inner.header_len..inner.len) else { return };
    if segment.get(FLAGS_AT).is_none_or(|flags| flags & SYN == 0) {
        return;
    }
    let Some(offset) = segment.get(12).map(|octet| usize::from(octet >> 4) * 4) else { return };
    let Some(at) = segment.get(HEADER_LEN..offset).and_then(mss_at).map(|at| at + HEADER_LEN) else { return };
    let Some(value) = segment.get(at..at + 2).map(|octets| u16::from_be_bytes([octets[0], octets[1]])) else {
        return;
    };
    if value <= most {
        return;
    }
    segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
    let old = u16::from_be_bytes([segment[CHECKSUM_AT], segment[CHECKSUM_AT + 1]]);
    // An option may begin at an odd place: then its value lies in the low half of one word and the high half of the next.
    let checksum = if at % 2 == 0 {
        updated(old, value, most)
    } else {
        updated(old, value.swap_bytes(), most.swap_bytes())
    };
    segment[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Where the value of the MSS option begins within the options.
fn mss_at(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            OPTION_END => return None,
            OPTION_PADDING => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if len < 2 || at + len > options.len() {
                    return None;
                }
                if kind == OPTION_MSS && len == MSS_LEN {
                    return Some(at + 2);
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::checksum::{fold, pseudo_sum, sum_words};
    use crate::frame::samples::{v4, v6};
    use proptest::prelude::*;

    fn syn(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        let mut segment = vec![0; HEADER_LEN];
        segment[12] = ((HEADER_LEN + options.len()) / 4 * 16) as u8;
        segment[FLAGS_AT] = flags;
        segment.extend(options);
        segment
    }

    fn with_checksum(mut packet: Vec<u8>, addresses: std::ops::Range<usize>, at: usize) -> Vec<u8> {
        let sum = pseudo_sum(&packet[addresses], PROTOCOL_TCP, packet.len() - at) + sum_words(&packet[at..]);
        packet[at + CHECKSUM_AT..at + CHECKSUM_AT + 2].copy_from_slice(&fold(sum).to_be_bytes());
        packet
    }

    fn is_true(packet: &[u8], addresses: std::ops::Range<usize>, at: usize) -> bool {
        fold(pseudo_sum(&packet[addresses], PROTOCOL_TCP, packet.len() - at) + sum_words(&packet[at..])) == 0
    }

    #[test]
    fn a_syn_announces_what_fits_in_both_families_and_at_odd_places() {
        for options in
            [&[2, 4, 5, 180][..], &[1, 2, 4, 5, 180], &[4, 2, 1, 2, 4, 5, 180], &[3, 3, 7, 2, 4, 5, 180, 1]]
        {
            let mut packet = with_checksum(v4(64, PROTOCOL_TCP, &syn(SYN | 16, options)), 12..20, 20);
            let inner = Inner::parse(&packet).unwrap();
            clamp_mss(&mut packet, &inner, 1_280);
            let at = 40 + mss_at(&packet[40..]).unwrap();
            assert_eq!(u16::from_be_bytes([packet[at], packet[at + 1]]), 1_240);
            assert!(is_true(&packet, 12..20, 20), "{options:?}");

            let mut packet = with_checksum(v6(64, PROTOCOL_TCP, &syn(SYN, options)), 8..40, 40);
            let inner = Inner::parse(&packet).unwrap();
            clamp_mss(&mut packet, &inner, 1_280);
            let at = 60 + mss_at(&packet[60..]).unwrap();
            assert_eq!(u16::from_be_bytes([packet[at], packet[at + 1]]), 1_220);
            assert!(is_true(&packet, 8..40, 40), "{options:?}");
        }
    }

    #[test]
    fn what_fits_and_what_is_no_syn_stays() {
        for (flags, options) in [
            (SYN, &[2, 4, 4, 0][..]),
            (16, &[2, 4, 5, 180]),
            (SYN, &[]),
            (SYN, &[2, 3, 5, 180]),
            (SYN, &[5, 0]),
        ] {
            let packet = v4(64, PROTOCOL_TCP, &syn(flags, options));
            let inner = Inner::parse(&packet).unwrap();
            let mut same = packet.clone();
            clamp_mss(&mut same, &inner, 1_280);
            assert_eq!(same, packet, "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived(segment in proptest::collection::vec(any::<u8>(), 0..64), mtu in 0usize..2_000) {
            let mut packet = v4(64, PROTOCOL_TCP, &segment);
            let inner = Inner::parse(&packet).unwrap();
            clamp_mss(&mut packet, &inner, mtu);
            let mut packet = v6(64, PROTOCOL_TCP, &segment);
            let inner = Inner::parse(&packet).unwrap();
            clamp_mss(&mut packet, &inner, mtu);
        }
    }
}
