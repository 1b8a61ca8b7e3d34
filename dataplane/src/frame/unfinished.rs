//! Checksums that a sender left to its device. Where the "device" is software (a veth, another guest of the same host)
//! nobody computes them: the field holds the sum of the pseudo-header alone, the receiver is told beside the packet, and
//! AF_XDP hands over the packet without what is beside it.

use super::checksum::{fold, pseudo_sum, sum_words};
use super::inner::{Family, Inner};

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// Where the field is behind the IP header.
const TCP_FIELD_AT: usize = 16;
const UDP_FIELD_AT: usize = 6;
/// Extension headers that senders put in front of both (RFC 8200 §4.1), of the same form all: the kind of the next, and
/// octets in units of 8 beyond the first 8.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;
/// Most of them that are looked past: RFC 8200 §4.1 has four of these kinds in one packet.
const EXTENSIONS_MAX: usize = 4;
/// Where a routing header has the stations that are left.
const SEGMENTS_LEFT_AT: usize = 3;
/// Where UDP has its length.
const UDP_LENGTH_AT: usize = 4;

/// Computes the checksum of TCP or UDP that was left out, and says whether it was. The packet is the one that was parsed.
///
/// One that was computed and happens to equal the sum of the pseudo-header comes out as it was: what is missing sums up to
/// nothing then. Senders finish checksums before they cut a packet, so pieces are left alone.
#[inline]
pub fn finish_checksum(packet: &mut [u8], inner: &Inner) -> bool {
    let Some((protocol, at)) = transport(packet, inner) else { return false };
    let field_at = match protocol {
        PROTOCOL_TCP => TCP_FIELD_AT,
        PROTOCOL_UDP => UDP_FIELD_AT,
        _ => return false,
    };
    let addresses = match inner.family {
        Family::V4 => 12..20,
        Family::V6 => 8..40,
    };
    if inner.fragment {
        return false;
    }
    let Some(addresses) = packet.get(addresses) else { return false };
    // The length never exceeds a frame.
    let left_out = !fold(pseudo_sum(addresses, protocol, inner.len - at));
    let field = at + field_at..at + field_at + 2;
    if field.end > inner.len || packet.get(field.clone()) != Some(&left_out.to_be_bytes()[..]) {
        return false;
    }
    // UDP's own length may be less than what IP carries (RFC 768): its checksum covers that much, and no kernel leaves such
    // a one out.
    if protocol == PROTOCOL_UDP {
        let length = at + UDP_LENGTH_AT..at + UDP_LENGTH_AT + 2;
        let carried = u16::try_from(inner.len - at).ok().map(u16::to_be_bytes);
        if packet.get(length) != carried.as_ref().map(|octets| &octets[..]) {
            return false;
        }
    }
    finish(packet, at..inner.len, field)
}

/// What the packet carries, and where that begins, within its length.
#[inline]
fn transport(packet: &[u8], inner: &Inner) -> Option<(u8, usize)> {
    match (inner.family, inner.protocol) {
        (Family::V6, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) => behind_extensions(packet, inner),
        (Family::V4 | Family::V6, protocol) => Some((protocol, inner.header_len)),
    }
}

/// The same where extension headers stand in front. `None` if they do not end within the packet, or if the pseudo-header has
/// another destination than the packet: that of a routing header which is not used up (RFC 8200 §8.1).
#[cold]
#[inline(never)]
fn behind_extensions(packet: &[u8], inner: &Inner) -> Option<(u8, usize)> {
    let (mut kind, mut at) = (inner.protocol, inner.header_len);
    for _ in 0..EXTENSIONS_MAX {
        let header = packet.get(at..inner.len)?.first_chunk::<8>()?;
        if kind == ROUTING && header[SEGMENTS_LEFT_AT] != 0 {
            return None;
        }
        (kind, at) = (header[0], at + 8 * (usize::from(header[1]) + 1));
        if at > inner.len {
            return None;
        }
        if !matches!(kind, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
            return Some((kind, at));
        }
    }
    None
}

#[inline(never)]
fn finish(packet: &mut [u8], segment: std::ops::Range<usize>, field: std::ops::Range<usize>) -> bool {
    // The field is part of the sum: what stands in it is the pseudo-header's share.
    let Some(segment) = packet.get(segment) else { return false };
    let checksum = match fold(sum_words(segment)) {
        // To UDP zero means that there is none (RFC 768); in TCP both are the same number.
        0 => 0xffff,
        checksum => checksum,
    };
    let Some(field) = packet.get_mut(field) else { return false };
    field.copy_from_slice(&checksum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clamp_mss;
    use crate::frame::samples::{v4, v6};
    use proptest::prelude::*;

    /// Where the addresses are, and where the IP header ends.
    fn layout(packet: &[u8]) -> (std::ops::Range<usize>, usize) {
        if packet[0] >> 4 == 4 { (12..20, 20) } else { (8..40, 40) }
    }

    /// What all of the packet sums up to behind its IP header, pseudo-header included: true if it comes to nothing.
    fn is_true(packet: &[u8]) -> bool {
        let (addresses, at) = layout(packet);
        let protocol = if at == 20 { packet[9] } else { packet[6] };
        fold(pseudo_sum(&packet[addresses], protocol, packet.len() - at) + sum_words(&packet[at..])) == 0
    }

    /// A packet as it leaves a kernel whose device is to finish it, and the same with a checksum that is true.
    fn both(is_v6: bool, protocol: u8, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let field = if protocol == PROTOCOL_TCP { TCP_FIELD_AT } else { UDP_FIELD_AT };
        let mut segment = vec![0; if protocol == PROTOCOL_TCP { 20 } else { 8 }];
        if protocol == PROTOCOL_TCP {
            segment[12] = 0x50;
        } else {
            let length = (segment.len() + payload.len()) as u16;
            segment[UDP_LENGTH_AT..UDP_LENGTH_AT + 2].copy_from_slice(&length.to_be_bytes());
        }
        segment.extend(payload);
        let mut unfinished = if is_v6 { v6(9, protocol, &segment) } else { v4(9, protocol, &segment) };
        let (addresses, at) = layout(&unfinished);
        let pseudo = !fold(pseudo_sum(&unfinished[addresses], protocol, segment.len()));
        let mut whole = unfinished.clone();
        let field = at + field..at + field + 2;
        let sum = fold(u32::from(pseudo) + sum_words(&whole[at..]));
        whole[field.clone()].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
        unfinished[field].copy_from_slice(&pseudo.to_be_bytes());
        (unfinished, whole)
    }

    proptest! {
        /// R0.5: whatever is in a packet, what a kernel left out is what it would have computed itself.
        #[test]
        fn r0_5_what_was_left_out_is_computed(
            is_v6: bool, tcp: bool, payload in proptest::collection::vec(any::<u8>(), 0..1_400),
        ) {
            let (mut packet, whole) = both(is_v6, if tcp { PROTOCOL_TCP } else { PROTOCOL_UDP }, &payload);
            let inner = Inner::parse(&packet).unwrap();
            prop_assert!(finish_checksum(&mut packet, &inner));
            prop_assert_eq!(&packet, &whole);
            prop_assert!(is_true(&packet));
        }

        /// R0.5: a checksum that is there stays, true or false, unless it looks left out; then a true one stays as well.
        #[test]
        fn r0_5_what_is_there_stays(
            is_v6: bool, tcp: bool, wrong: u16, payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let protocol = if tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
            let (unfinished, whole) = both(is_v6, protocol, &payload);
            let inner = Inner::parse(&whole).unwrap();
            let mut same = whole.clone();
            finish_checksum(&mut same, &inner);
            prop_assert_eq!(&same, &whole);
            let at = inner.header_len + if tcp { TCP_FIELD_AT } else { UDP_FIELD_AT };
            let mut broken = whole;
            broken[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
            prop_assume!(broken != unfinished);
            let mut same = broken.clone();
            prop_assert!(!finish_checksum(&mut same, &inner));
            prop_assert_eq!(same, broken);
        }

        #[test]
        fn garbage_is_survived(octets in proptest::collection::vec(any::<u8>(), 0..80), is_v6: bool, tcp: bool) {
            let protocol = if tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
            let mut packet = if is_v6 { v6(9, protocol, &octets) } else { v4(9, protocol, &octets) };
            let inner = Inner::parse(&packet).unwrap();
            finish_checksum(&mut packet, &inner);
            for kind in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
                let mut packet = v6(9, kind, &octets);
                // Without a payload and with options for every hop it would be a jumbogram.
                if let Some(inner) = Inner::parse(&packet) {
                    finish_checksum(&mut packet, &inner);
                }
            }
            if let Some(inner) = Inner::parse(&octets) {
                finish_checksum(&mut octets.clone(), &inner);
            }
        }
    }

    /// The one packet of 65,536 whose true checksum equals the sum of the pseudo-header is found and comes out as it was.
    #[test]
    fn r0_5_a_true_checksum_that_looks_left_out_stays() {
        // What is behind the header makes the rest, UDP's length of 10 with it, sum up to minus twice the pseudo-header's sum.
        let (unfinished, _) = both(false, PROTOCOL_UDP, &[0, 0]);
        let pseudo = u32::from(u16::from_be_bytes([unfinished[26], unfinished[27]]));
        let (unfinished, whole) = both(false, PROTOCOL_UDP, &fold(2 * pseudo + 10).to_be_bytes());
        assert_eq!(unfinished, whole, "the case is not the one that is meant");
        let mut packet = whole.clone();
        finish_checksum(&mut packet, &Inner::parse(&whole).unwrap());
        assert_eq!(packet, whole);
    }

    /// A datagram that is shorter than what IP carries: its checksum covers its own length, and is true as it is.
    #[test]
    fn r0_5_a_datagram_with_a_surplus_behind_it_stays() {
        let octets = [
            0x45, 0, 0, 0x20, 0, 0, 0, 0, 0x40, 0x11, 0x7d, 0xd4, 0xc0, 0xa8, 0x32, 2, 0x0a, 0x4d, 0,
            2, // IPv4
            0, 0x35, 0x13, 0x88, 0, 0x0a, 0xfd, 0x16, 0xf2, 0x0c, 0xde,
            0xad, // UDP of 10 octets, two more
        ];
        let mut packet = octets.to_vec();
        assert!(!finish_checksum(&mut packet, &Inner::parse(&octets).unwrap()));
        assert_eq!(packet, octets);
    }

    /// The same packet of IPv6 with extension headers of these kinds in front of its payload.
    fn extended(packet: &[u8], kinds: &[u8]) -> Vec<u8> {
        let nexts = kinds.iter().skip(1).copied().chain([packet[6]]);
        // Padding (RFC 8200 section 4.2), which is no stations left in a routing header.
        let headers: Vec<u8> = nexts.flat_map(|next| [next, 0, 1, 0, 0, 0, 0, 0]).collect();
        v6(packet[7], kinds[0], &[headers.as_slice(), &packet[40..]].concat())
    }

    /// R0.5: extension headers of IPv6 in front of TCP and UDP are looked past: the pseudo-header does not have them.
    #[test]
    fn r0_5_what_is_behind_extension_headers_is_computed() {
        let chains: [&[u8]; 5] = [
            &[HOP_BY_HOP],
            &[ROUTING],
            &[DESTINATION_OPTIONS],
            &[HOP_BY_HOP, DESTINATION_OPTIONS],
            &[HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, DESTINATION_OPTIONS],
        ];
        for (protocol, chain) in [PROTOCOL_TCP, PROTOCOL_UDP].into_iter().flat_map(|p| chains.map(|c| (p, c)))
        {
            let (unfinished, whole) = both(true, protocol, b"payload");
            let (mut packet, whole) = (extended(&unfinished, chain), extended(&whole, chain));
            let inner = Inner::parse(&packet).unwrap();
            assert!(finish_checksum(&mut packet, &inner), "{protocol} behind {chain:?}");
            assert_eq!(packet, whole, "{protocol} behind {chain:?}");
            assert!(!finish_checksum(&mut packet, &inner) || packet == whole, "what is true stays");
        }
    }

    /// Where the pseudo-header or the end of the headers is not known nothing is touched.
    #[test]
    fn r0_5_extension_headers_that_say_too_little_are_left_alone() {
        const FRAGMENT: u8 = 44;
        let (unfinished, _) = both(true, PROTOCOL_TCP, b"payload");
        let mut routed = extended(&unfinished, &[ROUTING]);
        routed[40 + SEGMENTS_LEFT_AT] = 1;
        let piece = extended(&unfinished, &[HOP_BY_HOP, FRAGMENT]);
        let many = extended(&unfinished, &[DESTINATION_OPTIONS; EXTENSIONS_MAX + 1]);
        let mut long = extended(&unfinished, &[HOP_BY_HOP]);
        long[41] = 255;
        for packet in [routed, piece, many, long] {
            let mut same = packet.clone();
            assert!(!finish_checksum(&mut same, &Inner::parse(&packet).unwrap()), "{packet:?}");
            assert_eq!(same, packet);
        }
    }

    #[test]
    fn pieces_and_other_protocols_are_left_alone() {
        let (unfinished, _) = both(false, PROTOCOL_UDP, b"payload");
        for (at, octet) in [(6, 0x20), (7, 1), (9, 1)] {
            let mut packet = unfinished.clone();
            packet[at] = octet;
            let before = packet.clone();
            assert!(!finish_checksum(&mut packet, &Inner::parse(&before).unwrap()), "{at}");
            assert_eq!(packet, before);
        }
    }

    /// MSS is clamped behind it: an update of a checksum that is not there yet would be neither.
    #[test]
    fn r0_5_the_mss_of_a_finished_packet_can_be_clamped() {
        let mut segment = vec![0; 20];
        (segment[12], segment[13]) = (0x60, 2);
        segment.extend([2, 4, 5, 180]);
        let mut packet = v4(9, PROTOCOL_TCP, &segment);
        let pseudo = !fold(pseudo_sum(&packet[12..20], PROTOCOL_TCP, segment.len()));
        packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
        let inner = Inner::parse(&packet).unwrap();
        assert!(finish_checksum(&mut packet, &inner));
        clamp_mss(&mut packet, &inner, 1_280);
        assert_eq!(packet[42..44], 1_240_u16.to_be_bytes());
        assert!(is_true(&packet));
    }
}
