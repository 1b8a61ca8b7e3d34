//! Headers of frames: Ethernet, IPv4, UDP, ICMP echo. Pure octets in, octets out; checksums per RFC 1071 and RFC 1624.

use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV4, IPV4_LEN, UDP_LEN};
use std::net::Ipv4Addr;

/// A MAC address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address in the low 48 bits, as CONTEXT keeps it.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address in the low 48 bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

/// Octets in front of the UDP payload of an outer IPv4 frame.
pub const OUTER_V4_LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;

/// Sum of 16-bit words, not folded (RFC 1071). An odd last octet counts as the high half.
#[must_use]
pub fn sum_words(octets: &[u8]) -> u32 {
    let words = octets.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |octet| u32::from(*octet) << 8);
    words.fold(odd, |sum, word| sum + u32::from(u16::from_be_bytes([word[0], word[1]])))
}

/// Folds a sum into the checksum field's value.
#[must_use]
pub const fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The outer headers of a binding, all but what differs per packet: next hop, lengths, checksum.
#[derive(Clone, Debug)]
pub struct OuterTemplate {
    octets: [u8; OUTER_V4_LEN],
    /// Sum of the IPv4 header with length and checksum zero.
    ip_sum: u32,
}

/// DF set, no fragment (RFC 791): the tunnel never lets the network fragment.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0x00];
/// Hop limit of outer packets (RFC 1700's default).
const OUTER_TTL: u8 = 64;

impl OuterTemplate {
    /// Headers from `local` to `remote`, leaving with `source` as MAC address.
    #[must_use]
    pub fn new(source: Mac, local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16)) -> Self {
        let mut octets = [0; OUTER_V4_LEN];
        octets[6..12].copy_from_slice(&source.0);
        octets[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        octets[14] = 0x45;
        octets[20..22].copy_from_slice(&DONT_FRAGMENT);
        octets[22] = OUTER_TTL;
        octets[23] = 17;
        octets[26..30].copy_from_slice(&local.0.octets());
        octets[30..34].copy_from_slice(&remote.0.octets());
        octets[34..36].copy_from_slice(&local.1.to_be_bytes());
        octets[36..38].copy_from_slice(&remote.1.to_be_bytes());
        let ip_sum = sum_words(&octets[14..34]);
        Self { octets, ip_sum }
    }

    /// Writes the headers for a UDP payload of `payload_len` octets to `next_hop`. `None` if `out` is too short.
    pub fn write(&self, out: &mut [u8], next_hop: Mac, payload_len: usize) -> Option<()> {
        let head = out.first_chunk_mut::<OUTER_V4_LEN>()?;
        let udp_len = u16::try_from(UDP_LEN + payload_len).ok()?;
        let ip_len = udp_len.checked_add(IPV4_LEN as u16)?;
        *head = self.octets;
        head[..6].copy_from_slice(&next_hop.0);
        head[16..18].copy_from_slice(&ip_len.to_be_bytes());
        head[24..26].copy_from_slice(&fold(self.ip_sum + u32::from(ip_len)).to_be_bytes());
        // UDP over IPv4 may go without a checksum (RFC 768); the AEAD tag is the stronger one.
        head[38..40].copy_from_slice(&udp_len.to_be_bytes());
        Some(())
    }
}

/// What the pipeline needs to know of an inner IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerV4 {
    /// Total length, octets; never more than what was given.
    pub len: usize,
    /// Header length, octets.
    pub header_len: usize,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Hop limit.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Whether this is a fragment.
    pub fragment: bool,
}

impl InnerV4 {
    /// Reads the header of a packet that may have padding behind it.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let head = packet.first_chunk::<IPV4_LEN>()?;
        let header_len = usize::from(head[0] & 0x0f) * 4;
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[0] >> 4 != 4 || header_len < IPV4_LEN || len < header_len || len > packet.len() {
            return None;
        }
        Some(Self {
            len,
            header_len,
            source: Ipv4Addr::new(head[12], head[13], head[14], head[15]),
            destination: Ipv4Addr::new(head[16], head[17], head[18], head[19]),
            ttl: head[8],
            protocol: head[9],
            fragment: (head[6] & 0x3f) | head[7] != 0,
        })
    }
}

/// Takes one off the TTL and mends the header checksum (RFC 1624). The packet was parsed before and its TTL is > 1.
pub fn decrement_ttl(packet: &mut [u8]) {
    let Some(head) = packet.first_chunk_mut::<IPV4_LEN>() else { return };
    head[8] = head[8].saturating_sub(1);
    // The word (TTL, protocol) fell by 0x0100: HC' = HC + 0x0100 with end-around carry (RFC 1141, mended by RFC 1624).
    let sum = u32::from(u16::from_be_bytes([head[10], head[11]])) + 0x0100;
    let sum = (sum & 0xffff) + (sum >> 16);
    head[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
}

/// Turns an ICMP echo request into its reply, in place: addresses swapped, TTL fresh, checksums mended. `None` if the
/// packet is anything else (RFC 792).
#[must_use]
pub fn answer_echo(packet: &mut [u8], inner: &InnerV4) -> Option<()> {
    const ECHO_REQUEST: u8 = 8;
    const PROTOCOL_ICMP: u8 = 1;
    let icmp = packet.get(inner.header_len..inner.len)?;
    if inner.protocol != PROTOCOL_ICMP
        || inner.fragment
        || icmp.len() < 8
        || icmp.first() != Some(&ECHO_REQUEST)
    {
        return None;
    }
    if fold(sum_words(icmp)) != 0 {
        return None;
    }
    let icmp = packet.get_mut(inner.header_len..inner.len)?;
    icmp[0] = 0;
    icmp[2..4].fill(0);
    let checksum = fold(sum_words(icmp));
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    let head = packet.get_mut(..inner.header_len)?;
    head[8] = OUTER_TTL;
    head[12..16].copy_from_slice(&inner.destination.octets());
    head[16..20].copy_from_slice(&inner.source.octets());
    head[10..12].fill(0);
    let checksum = fold(sum_words(head));
    head[10..12].copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

/// Writes an Ethernet header for IPv4. `None` if `out` is too short.
pub fn write_ethernet(out: &mut [u8], destination: Mac, source: Mac) -> Option<()> {
    let head = out.first_chunk_mut::<ETHERNET_LEN>()?;
    head[..6].copy_from_slice(&destination.0);
    head[6..12].copy_from_slice(&source.0);
    head[12..14].copy_from_slice(&ETHERTYPE_IPV4);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = (IPV4_LEN + payload.len()) as u16;
        let mut p = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, ttl, protocol, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1];
        p[2..4].copy_from_slice(&len.to_be_bytes());
        let checksum = fold(sum_words(&p));
        p[10..12].copy_from_slice(&checksum.to_be_bytes());
        p.extend_from_slice(payload);
        p
    }

    proptest! {
        #[test]
        fn ttl_and_checksum_stay_true(ttl in 2u8.., protocol: u8) {
            let mut p = packet(ttl, protocol, &[]);
            decrement_ttl(&mut p);
            prop_assert_eq!(p[8], ttl - 1);
            prop_assert_eq!(fold(sum_words(&p[..20])), 0);
        }

        #[test]
        fn outer_headers_have_a_true_checksum(len in 0usize..1500, a: [u8; 4], b: [u8; 4], port: u16) {
            let template = OuterTemplate::new(Mac([2; 6]), (a.into(), 4500), (b.into(), port));
            let mut out = [0xaa; 64];
            template.write(&mut out, Mac([4; 6]), len).unwrap();
            prop_assert_eq!(fold(sum_words(&out[14..34])), 0);
            prop_assert_eq!(usize::from(u16::from_be_bytes([out[16], out[17]])), len + 28);
        }

        #[test]
        fn any_octets_parse_or_not_but_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(inner) = InnerV4::parse(&octets) {
                prop_assert!(inner.header_len <= inner.len && inner.len <= octets.len());
                let mut copy = octets.clone();
                let _answered = answer_echo(&mut copy, &inner);
                decrement_ttl(&mut copy);
            }
        }
    }

    #[test]
    fn echo_is_answered_and_nothing_else() {
        let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, b'x'];
        let checksum = fold(sum_words(&icmp));
        icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
        let mut p = packet(9, 1, &icmp);
        let inner = InnerV4::parse(&p).unwrap();
        answer_echo(&mut p, &inner).unwrap();
        let reply = InnerV4::parse(&p).unwrap();
        assert_eq!((reply.source, reply.destination), (inner.destination, inner.source));
        assert_eq!((p[20], fold(sum_words(&p[20..])), fold(sum_words(&p[..20]))), (0, 0, 0));
        assert!(answer_echo(&mut p, &reply).is_none(), "a reply is not answered");
        let mut wrong = packet(9, 1, &[8, 0, 1, 2, 0, 0, 0, 0]);
        let inner = InnerV4::parse(&wrong).unwrap();
        assert!(answer_echo(&mut wrong, &inner).is_none(), "a false checksum is not answered");
    }
}
