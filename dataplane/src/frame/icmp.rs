//! ICMP and ICMPv6: answers to echo for the gateway's own address, and errors towards the sender of what is not forwarded.
//!
//! Both are made in place, in the buffer that holds the packet.

use super::HOP_LIMIT;
use super::checksum::{fold, pseudo_sum, sum_words};
use super::inner::{Address, Family, Inner};
use std::net::IpAddr;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const ICMP_LEN: usize = 8;
const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
/// An IPv4 error is at most so long (RFC 1812 §4.3.2.3).
const MOST_V4: usize = 576;
/// An IPv6 error is at most so long (RFC 4443 §2.4(c)).
const MOST_V6: usize = 1_280;
/// Redirect of ICMPv6, which is no error by its number and is treated as one (RFC 4443 §2.4(e.2)).
const REDIRECT_V6: u8 = 137;
/// Extension headers that are walked over, at most: more are nobody's honest packet.
const EXTENSIONS_MAX: usize = 8;

/// Why a packet is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Longer than the next hop takes; this many octets fit.
    TooBig(usize),
    /// The last hop is used up.
    HopsExceeded,
    /// No route leads to the destination.
    NoRoute,
    /// Policy forbids it.
    Prohibited,
}

impl IcmpError {
    /// Type and code of ICMP (RFC 792, RFC 1812 §5.2.7.1).
    const fn v4(self) -> (u8, u8) {
        match self {
            Self::TooBig(_) => (3, 4),
            Self::HopsExceeded => (11, 0),
            Self::NoRoute => (3, 0),
            Self::Prohibited => (3, 13),
        }
    }

    /// Type and code of ICMPv6 (RFC 4443 §3).
    const fn v6(self) -> (u8, u8) {
        match self {
            Self::TooBig(_) => (2, 0),
            Self::HopsExceeded => (3, 0),
            Self::NoRoute => (1, 0),
            Self::Prohibited => (1, 1),
        }
    }

    /// The word behind the checksum: the MTU, or zero (RFC 1191 §4, RFC 4443 §3.2).
    fn word(self) -> u32 {
        match self {
            Self::TooBig(mtu) => u32::try_from(mtu).unwrap_or(u32::MAX),
            Self::HopsExceeded | Self::NoRoute | Self::Prohibited => 0,
        }
    }
}

/// Turns an echo request into its reply, in place: addresses swapped, hop limit fresh, checksums mended. `None` if the
/// packet is anything else, a fragment, or not intact (RFC 792, RFC 4443 §4).
#[must_use]
pub fn answer_echo(packet: &mut [u8], inner: &Inner) -> Option<()> {
    let icmp = packet.get(inner.header_len..inner.len)?;
    let (protocol, request, reply) = match inner.family {
        Family::V4 => (PROTOCOL_ICMP, ECHO, ECHO_REPLY),
        Family::V6 => (PROTOCOL_ICMPV6, ECHO_V6, ECHO_REPLY_V6),
    };
    if inner.protocol != protocol || inner.fragment || icmp.len() < ICMP_LEN || icmp.first() != Some(&request)
    {
        return None;
    }
    let pseudo = pseudo(packet, inner)?;
    if fold(pseudo + sum_words(icmp)) != 0 {
        return None;
    }
    let icmp = packet.get_mut(inner.header_len..inner.len)?;
    icmp[0] = reply;
    icmp[2..4].fill(0);
    // Swapping the addresses leaves the pseudo-header's sum as it is.
    let checksum = fold(pseudo + sum_words(icmp));
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    let head = packet.get_mut(..inner.header_len)?;
    match inner.family {
        Family::V4 => {
            head[8] = HOP_LIMIT;
            let (source, destination) = head.get_mut(12..20)?.split_at_mut(4);
            source.swap_with_slice(destination);
            head[10..12].fill(0);
            let checksum = fold(sum_words(head));
            head[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        Family::V6 => {
            head[7] = HOP_LIMIT;
            let (source, destination) = head.get_mut(8..40)?.split_at_mut(16);
            source.swap_with_slice(destination);
        }
    }
    Some(())
}

/// Sum of the pseudo-header that an ICMP checksum covers: none in IPv4.
fn pseudo(packet: &[u8], inner: &Inner) -> Option<u32> {
    match inner.family {
        Family::V4 => Some(0),
        Family::V6 => Some(pseudo_sum(packet.get(8..40)?, PROTOCOL_ICMPV6, inner.len - inner.header_len)),
    }
}

/// Whether an error may answer this packet, and there is an address to send it from (RFC 1812 §4.3.2.7, RFC 4443 §2.4(e)):
/// not another error, not what was meant for many or came from nobody; of IPv4 not a later fragment.
#[must_use]
pub fn is_answerable(packet: &[u8], inner: &Inner, gateway: &GatewayAddresses) -> bool {
    if !inner.source.is_routable() || !inner.destination.is_routable() {
        return false;
    }
    match inner.family {
        Family::V4 => {
            let kind = packet.get(inner.header_len).copied();
            let later = packet.get(6..8).is_none_or(|octets| (octets[0] & 0x1f) | octets[1] != 0);
            // Echo and its reply, timestamp and its reply are questions; everything else of ICMP is an error.
            let is_question = matches!(kind, Some(ECHO | ECHO_REPLY | 13 | 14));
            gateway.v4.is_some() && !later && (inner.protocol != PROTOCOL_ICMP || is_question)
        }
        Family::V6 => {
            let packet = packet.get(..inner.len).unwrap_or(packet);
            gateway.v6.is_some() && upper_layer(packet, inner).is_some_and(|upper| !upper.is_error(packet))
        }
    }
}

/// What stands behind the extension headers of an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Upper {
    protocol: u8,
    /// Where it begins; `None` in a later fragment, which has only a part of it.
    at: Option<usize>,
}

impl Upper {
    /// An error of ICMPv6 or a redirect, or a later piece of an ICMPv6 message, which may be one.
    fn is_error(self, packet: &[u8]) -> bool {
        let kind = self.at.and_then(|at| packet.get(at));
        self.protocol == PROTOCOL_ICMPV6 && kind.is_none_or(|kind| *kind < ECHO_V6 || *kind == REDIRECT_V6)
    }
}

/// Walks over the extension headers (RFC 8200 §4, RFC 7045). ESP is an upper layer: what is behind it is nobody's to see.
/// `None` if the chain is broken or too long.
fn upper_layer(packet: &[u8], inner: &Inner) -> Option<Upper> {
    let (mut protocol, mut at) = (inner.protocol, inner.header_len);
    for _ in 0..EXTENSIONS_MAX {
        let len = match protocol {
            // Options for every hop, routing, options for the destination, mobility, HIP, Shim6: in eights of octets.
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*packet.get(at + 1)?) + 1) * 8,
            // Authentication: in fours, less two (RFC 4302 §2.2).
            51 => (usize::from(*packet.get(at + 1)?) + 2) * 4,
            // Fragment.
            44 => {
                let later = packet.get(at + 2..at + 4).map(|octets| octets[0] | octets[1] & 0xf8)? != 0;
                if later {
                    return Some(Upper { protocol: *packet.get(at)?, at: None });
                }
                8
            }
            _ => return Some(Upper { protocol, at: Some(at) }),
        };
        protocol = *packet.get(at)?;
        at += len;
    }
    None
}

/// Replaces the packet at the start of `buffer` by an error to its sender, from `gateway`'s address of the same family.
/// Returns the error's length; `None` if this packet is not to be answered.
#[must_use]
pub fn error_in_place(
    buffer: &mut [u8],
    inner: &Inner,
    error: IcmpError,
    gateway: &GatewayAddresses,
) -> Option<usize> {
    if !is_answerable(buffer, inner, gateway) {
        return None;
    }
    match inner.family {
        Family::V4 => v4_error(buffer, inner, error, gateway.v4?),
        Family::V6 => v6_error(buffer, inner, error, gateway.v6?),
    }
}

/// The gateway's own inner addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayAddresses {
    /// Of IPv4.
    pub v4: Option<Address>,
    /// Of IPv6.
    pub v6: Option<Address>,
}

impl GatewayAddresses {
    /// Whether a packet for this address is for the gateway itself.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: Address) -> bool {
        self.v4 == Some(address) || self.v6 == Some(address)
    }
}

fn v4_error(buffer: &mut [u8], inner: &Inner, error: IcmpError, from: Address) -> Option<usize> {
    let quoted = inner.len.min(MOST_V4 - V4_LEN - ICMP_LEN);
    let len = V4_LEN + ICMP_LEN + quoted;
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from.ip(), inner.source.ip()) else { return None };
    buffer.get_mut(..len)?.copy_within(..quoted, V4_LEN + ICMP_LEN);
    let (head, icmp) = buffer.get_mut(..len)?.split_at_mut(V4_LEN);
    // Internetwork control (RFC 1812 §4.3.2.5); one packet, never cut.
    head.copy_from_slice(&[
        0x45,
        0xc0,
        0,
        0,
        0,
        0,
        0x40,
        0,
        HOP_LIMIT,
        PROTOCOL_ICMP,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    head[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
    head[12..16].copy_from_slice(&from.octets());
    head[16..20].copy_from_slice(&to.octets());
    let checksum = fold(sum_words(head));
    head[10..12].copy_from_slice(&checksum.to_be_bytes());
    write_error(icmp, error.v4(), error.word(), 0)?;
    Some(len)
}

fn v6_error(buffer: &mut [u8], inner: &Inner, error: IcmpError, from: Address) -> Option<usize> {
    let quoted = inner.len.min(MOST_V6 - V6_LEN - ICMP_LEN);
    let len = V6_LEN + ICMP_LEN + quoted;
    buffer.get_mut(..len)?.copy_within(..quoted, V6_LEN + ICMP_LEN);
    let (head, icmp) = buffer.get_mut(..len)?.split_at_mut(V6_LEN);
    head[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, PROTOCOL_ICMPV6, HOP_LIMIT]);
    head[4..6].copy_from_slice(&u16::try_from(len - V6_LEN).ok()?.to_be_bytes());
    head[8..24].copy_from_slice(&from.0.to_be_bytes());
    head[24..40].copy_from_slice(&inner.source.0.to_be_bytes());
    let pseudo = pseudo_sum(&head[8..40], PROTOCOL_ICMPV6, len - V6_LEN);
    write_error(icmp, error.v6(), error.word(), pseudo)?;
    Some(len)
}

fn write_error(icmp: &mut [u8], (kind, code): (u8, u8), word: u32, pseudo: u32) -> Option<()> {
    let head = icmp.first_chunk_mut::<ICMP_LEN>()?;
    *head = [kind, code, 0, 0, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&word.to_be_bytes());
    let checksum = fold(pseudo + sum_words(icmp));
    icmp.get_mut(2..4)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::samples::{v4, v6};
    use proptest::prelude::*;

    const GATEWAY: GatewayAddresses = GatewayAddresses {
        v4: Some(Address::v4([10, 77, 0, 1])),
        v6: Some(Address::v6([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
    };

    fn icmp_sum(packet: &[u8]) -> u16 {
        let inner = Inner::parse(packet).unwrap();
        fold(pseudo(packet, &inner).unwrap() + sum_words(&packet[inner.header_len..inner.len]))
    }

    fn echo(family: Family, payload: &[u8]) -> Vec<u8> {
        let mut icmp = vec![0, 0, 0, 0, 0x12, 0x34, 0, 1];
        icmp.extend(payload);
        let (mut packet, at) = match family {
            Family::V4 => {
                icmp[0] = ECHO;
                (v4(9, PROTOCOL_ICMP, &icmp), 20)
            }
            Family::V6 => {
                icmp[0] = ECHO_V6;
                (v6(9, PROTOCOL_ICMPV6, &icmp), 40)
            }
        };
        let inner = Inner::parse(&packet).unwrap();
        let checksum = fold(pseudo(&packet, &inner).unwrap() + sum_words(&packet[at..]));
        packet[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn echo_is_answered_in_both_families_and_nothing_else_is() {
        for family in [Family::V4, Family::V6] {
            let mut p = echo(family, b"x");
            let inner = Inner::parse(&p).unwrap();
            answer_echo(&mut p, &inner).unwrap();
            let reply = Inner::parse(&p).unwrap();
            assert_eq!((reply.source, reply.destination), (inner.destination, inner.source));
            assert_eq!((icmp_sum(&p), reply.hop_limit), (0, HOP_LIMIT));
            if family == Family::V4 {
                assert_eq!(fold(sum_words(&p[..20])), 0);
            }
            assert!(answer_echo(&mut p, &reply).is_none(), "a reply is not answered");
            let mut wrong = echo(family, b"x");
            *wrong.last_mut().unwrap() ^= 1;
            let inner = Inner::parse(&wrong).unwrap();
            assert!(answer_echo(&mut wrong, &inner).is_none(), "a false checksum is not answered");
        }
    }

    #[test]
    fn errors_quote_what_was_sent_and_name_what_fits() {
        for (packet, quote_at, kind, code, most) in
            [(v4(1, 17, &[7; 1_400]), 28, 3, 4, MOST_V4), (v6(1, 17, &[7; 1_400]), 48, 2, 0, MOST_V6)]
        {
            let inner = Inner::parse(&packet).unwrap();
            let mut buffer = packet.clone();
            buffer.resize(1_800, 0);
            let len = error_in_place(&mut buffer, &inner, IcmpError::TooBig(1_280), &GATEWAY).unwrap();
            let answer = &buffer[..len];
            let head = Inner::parse(answer).unwrap();
            assert_eq!((head.len, head.destination), (most, inner.source));
            assert!(GATEWAY.contains(head.source));
            assert_eq!(icmp_sum(answer), 0);
            let at = head.header_len;
            assert_eq!((answer[at], answer[at + 1]), (kind, code));
            assert_eq!(answer[at + 4..at + 8], 1_280u32.to_be_bytes());
            assert_eq!(answer[quote_at..], packet[..len - quote_at]);
            if inner.family == Family::V4 {
                assert_eq!(fold(sum_words(&answer[..20])), 0);
            }
        }
    }

    #[test]
    fn no_error_answers_an_error_a_later_fragment_or_a_crowd() {
        let never = |packet: &[u8], why: &str| {
            let inner = Inner::parse(packet).unwrap();
            let mut buffer = packet.to_vec();
            buffer.resize(1_800, 0);
            let answered = error_in_place(&mut buffer, &inner, IcmpError::NoRoute, &GATEWAY);
            assert_eq!(answered, None, "{why}");
        };
        never(&v4(9, PROTOCOL_ICMP, &[3, 1, 0, 0, 0, 0, 0, 0]), "an error");
        never(&v6(9, PROTOCOL_ICMPV6, &[1, 0, 0, 0, 0, 0, 0, 0]), "an error");
        let mut later = v4(9, 17, b"later");
        later[7] = 1;
        never(&later, "a later fragment");
        let mut crowd = v4(9, 17, b"crowd");
        crowd[16..20].copy_from_slice(&[224, 0, 0, 1]);
        never(&crowd, "multicast");
        let mut nobody = v6(9, 17, b"nobody");
        nobody[8..24].fill(0);
        never(&nobody, "from nobody");
    }

    /// RFC 4443 §2.4(e): everything for one station is answered, whatever headers it has, but errors and what may be one.
    #[test]
    fn r9_2_extension_headers_fragments_and_esp_are_answered_unless_they_carry_an_error() {
        let answers = |next: u8, payload: &[u8]| {
            let packet = v6(9, next, payload);
            let inner = Inner::parse(&packet).unwrap();
            let mut buffer = packet.clone();
            buffer.resize(1_800, 0);
            error_in_place(&mut buffer, &inner, IcmpError::TooBig(1_280), &GATEWAY).is_some()
        };
        let fragment = |next: u8, offset: u16, kind: u8| {
            let mut payload = vec![next, 0];
            payload.extend((offset << 3 | 1).to_be_bytes());
            payload.extend([0, 0, 0, 1, kind, 0, 0, 0]);
            payload
        };
        let options = |next: u8, kind: u8| [next, 0, 1, 4, 0, 0, 0, 0, kind, 0, 0, 0];
        assert!(answers(50, &[7; 40]), "ESP");
        assert!(answers(44, &fragment(17, 0, 0)) && answers(44, &fragment(17, 60, 0)), "fragments of UDP");
        assert!(answers(44, &fragment(58, 0, ECHO_V6)), "the first fragment of an echo");
        assert!(!answers(44, &fragment(58, 0, 2)), "the first fragment of an error");
        assert!(!answers(44, &fragment(58, 60, 7)), "a later fragment of ICMPv6 may be an error's");
        for header in [0, 43, 60, 135, 139, 140] {
            assert!(answers(header, &options(6, 0)), "TCP behind {header}");
            assert!(answers(header, &options(58, ECHO_REPLY_V6)) && !answers(header, &options(58, 1)));
        }
        let mut authenticated = vec![58, 4];
        authenticated.resize(24, 0);
        assert!(answers(51, &[&authenticated[..], &[ECHO_V6, 0, 0, 0]].concat()), "AH, an echo");
        assert!(!answers(51, &[&authenticated[..], &[3, 0, 0, 0]].concat()), "AH, an error");
        assert!(!answers(58, &[REDIRECT_V6, 0, 0, 0]), "a redirect");
        assert!(
            !answers(0, &[17]) && !answers(60, &[58, 200, 0, 0, 0, 0, 0, 0]),
            "a broken chain of options"
        );
        assert!(!answers(0, &[[0u8, 0, 1, 4, 0, 0, 0, 0]; 9].concat()), "an endless chain");
        assert!(answers(59, &[]), "nothing behind the header");
    }

    proptest! {
        #[test]
        fn garbage_is_survived(octets in proptest::collection::vec(any::<u8>(), 0..120), room in 0usize..1_400) {
            if let Some(inner) = Inner::parse(&octets) {
                let mut copy = octets.clone();
                let _answered = answer_echo(&mut copy, &inner);
                let mut buffer = octets.clone();
                buffer.resize(octets.len() + room, 0);
                if let Some(len) = error_in_place(&mut buffer, &inner, IcmpError::HopsExceeded, &GATEWAY) {
                    prop_assert!(len <= buffer.len());
                    prop_assert_eq!(icmp_sum(&buffer[..len]), 0);
                }
            }
        }
    }
}
