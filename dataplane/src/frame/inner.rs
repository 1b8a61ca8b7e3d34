//! Inner packets: what the pipeline reads of an IPv4 or IPv6 header, and what it changes there.

use super::checksum::updated;
pub use jvpn_abi::Ecn;
use jvpn_abi::steer::{IPV4_LEN, IPV6_LEN};
use std::net::{IpAddr, Ipv6Addr};

/// An address of either family in one number; IPv4 is IPv4-mapped (RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub u128);

impl Address {
    const MAPPED: u128 = 0xffff << 32;

    /// From the octets of an IPv4 header.
    #[must_use]
    #[inline]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self(Self::MAPPED | u32::from_be_bytes(octets) as u128)
    }

    /// From the octets of an IPv6 header.
    #[must_use]
    #[inline]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(octets))
    }

    /// As the standard library shows it.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        let v6 = Ipv6Addr::from_bits(self.0);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }

    /// Whether packets for one station go there: not multicast, broadcast, loopback, unspecified, nor link-local (which no
    /// router forwards, RFC 4291 §2.5.6, RFC 3927 §7).
    #[must_use]
    pub fn is_routable(self) -> bool {
        match self.ip() {
            IpAddr::V4(v4) => {
                !(v4.is_multicast()
                    || v4.is_broadcast()
                    || v4.is_unspecified()
                    || v4.is_loopback()
                    || v4.is_link_local())
            }
            IpAddr::V6(v6) => {
                !(v6.is_multicast() || v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local())
            }
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<std::net::Ipv4Addr> for Address {
    fn from(v4: std::net::Ipv4Addr) -> Self {
        Self::v4(v4.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(v6: Ipv6Addr) -> Self {
        Self::v6(v6.octets())
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.ip(), f)
    }
}

/// IP version of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the pipeline needs to know of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// IP version.
    pub family: Family,
    /// Total length, octets; never more than what was given.
    pub len: usize,
    /// Octets in front of the payload: of IPv4 with its options, of IPv6 without extension headers.
    pub header_len: usize,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Protocol number, or the next header of IPv6.
    pub protocol: u8,
    /// Congestion notification.
    pub ecn: Ecn,
    /// Whether this is a fragment.
    pub fragment: bool,
    /// Whether routers may not cut it (always so in IPv6).
    pub dont_fragment: bool,
}

/// Next header of a fragment (RFC 8200 §4.5).
const FRAGMENT_HEADER: u8 = 44;
/// Next header of options for every hop (RFC 8200 §4.3), which is how jumbograms begin.
const HOP_BY_HOP: u8 = 0;

impl Inner {
    /// Reads the header of a packet that may have padding behind it.
    #[must_use]
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    #[inline]
    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let head = packet.first_chunk::<IPV4_LEN>()?;
        let header_len = usize::from(head[0] & 0x0f) * 4;
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if header_len < IPV4_LEN || len < header_len || len > packet.len() {
            return None;
        }
        Some(Self {
            family: Family::V4,
            len,
            header_len,
            source: Address::v4([head[12], head[13], head[14], head[15]]),
            destination: Address::v4([head[16], head[17], head[18], head[19]]),
            hop_limit: head[8],
            protocol: head[9],
            ecn: Ecn::from_bits(head[1]),
            fragment: (head[6] & 0x3f) | head[7] != 0,
            dont_fragment: head[6] & 0x40 != 0,
        })
    }

    #[inline]
    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let head = packet.first_chunk::<IPV6_LEN>()?;
        let payload = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let len = IPV6_LEN + payload;
        // A length of zero with options for every hop is a jumbogram (RFC 2675): longer than it says.
        if len > packet.len() || (payload == 0 && head[6] == HOP_BY_HOP) {
            return None;
        }
        let source: [u8; 16] = head[8..24].try_into().ok()?;
        let destination: [u8; 16] = head[24..40].try_into().ok()?;
        let (source, destination) = (Address::v6(source), Address::v6(destination));
        // An IPv4-mapped address on the wire would pass for an IPv4 one (RFC 4942 §2.2).
        if source.ip().is_ipv4() || destination.ip().is_ipv4() {
            return None;
        }
        Some(Self {
            family: Family::V6,
            len,
            header_len: IPV6_LEN,
            source,
            destination,
            hop_limit: head[7],
            protocol: head[6],
            ecn: Ecn::from_bits(head[1] >> 4),
            fragment: head[6] == FRAGMENT_HEADER,
            dont_fragment: true,
        })
    }

    /// Takes one off TTL or hop limit; of IPv4 the header checksum is mended. The packet is the one that was parsed and has
    /// more than one hop left.
    #[inline]
    pub fn take_hop(&self, packet: &mut [u8]) {
        match self.family {
            Family::V4 => {
                let Some(head) = packet.first_chunk_mut::<IPV4_LEN>() else { return };
                head[8] = head[8].saturating_sub(1);
                // The word (TTL, protocol) fell by 0x0100: HC' = HC + 0x0100 with end-around carry (RFC 1141, mended by RFC 1624).
                let sum = u32::from(u16::from_be_bytes([head[10], head[11]])) + 0x0100;
                let sum = (sum & 0xffff) + (sum >> 16);
                head[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
            }
            Family::V6 => {
                let Some(head) = packet.first_chunk_mut::<IPV6_LEN>() else { return };
                head[7] = head[7].saturating_sub(1);
            }
        }
    }

    /// Marks the packet that was parsed.
    pub fn mark(&self, packet: &mut [u8], ecn: Ecn) {
        match self.family {
            Family::V4 => {
                let Some(head) = packet.first_chunk_mut::<IPV4_LEN>() else { return };
                let old = u16::from_be_bytes([head[0], head[1]]);
                head[1] = (head[1] & !3) | ecn.bits();
                let new = u16::from_be_bytes([head[0], head[1]]);
                let checksum = updated(u16::from_be_bytes([head[10], head[11]]), old, new);
                head[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Family::V6 => {
                let Some(head) = packet.first_chunk_mut::<IPV6_LEN>() else { return };
                head[1] = (head[1] & !0x30) | (ecn.bits() << 4);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::checksum::{fold, sum_words};
    use crate::frame::samples::{v4, v6};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hops_marks_and_checksum_stay_true(ttl in 2u8.., protocol: u8, ecn in 0u8..4) {
            let mut p = v4(ttl, protocol, &[]);
            let inner = Inner::parse(&p).unwrap();
            inner.take_hop(&mut p);
            inner.mark(&mut p, Ecn::from_bits(ecn));
            let after = Inner::parse(&p).unwrap();
            prop_assert_eq!((after.hop_limit, after.ecn), (ttl - 1, Ecn::from_bits(ecn)));
            prop_assert_eq!(fold(sum_words(&p[..20])), 0);

            let mut p = v6(ttl, protocol.max(1), &[]);
            let inner = Inner::parse(&p).unwrap();
            inner.take_hop(&mut p);
            inner.mark(&mut p, Ecn::from_bits(ecn));
            let after = Inner::parse(&p).unwrap();
            prop_assert_eq!((after.hop_limit, after.ecn), (ttl - 1, Ecn::from_bits(ecn)));
        }

        #[test]
        fn any_octets_parse_or_not_but_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(inner) = Inner::parse(&octets) {
                prop_assert!(inner.header_len <= inner.len && inner.len <= octets.len());
                let mut copy = octets.clone();
                inner.take_hop(&mut copy);
                inner.mark(&mut copy, Ecn::CE);
            }
        }
    }

    /// The table of RFC 6040 §4.2, figure 4: rows are the inner mark, columns the outer one.
    #[test]
    fn congestion_survives_the_tunnel() {
        let (not, ect1, ect0, ce) = (Ecn::NOT_ECT, Ecn::ECT_1, Ecn::from_bits(2), Ecn::CE);
        let table = [
            (not, [Some(not), Some(not), Some(not), None]),
            (ect0, [Some(ect0), Some(ect0), Some(ect1), Some(ce)]),
            (ect1, [Some(ect1), Some(ect1), Some(ect1), Some(ce)]),
            (ce, [Some(ce), Some(ce), Some(ce), Some(ce)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [not, ect0, ect1, ce].into_iter().zip(row) {
                assert_eq!(inner.leaving(outer), expected, "inner {inner:?}, outer {outer:?}");
            }
        }
    }

    #[test]
    fn jumbograms_and_mapped_addresses_are_refused() {
        let good = v6(9, 17, b"x");
        assert!(Inner::parse(&good).is_some());
        let mut jumbo = v6(9, 0, &[]);
        jumbo[6] = 0;
        assert!(Inner::parse(&jumbo).is_none());
        let mut mapped = good;
        mapped[8..24].copy_from_slice(&std::net::Ipv4Addr::new(10, 77, 0, 2).to_ipv6_mapped().octets());
        assert!(Inner::parse(&mapped).is_none());
    }

    #[test]
    fn only_unicast_is_routable() {
        for ip in ["10.0.0.1", "2001:db8::1", "fd77::1"] {
            assert!(Address::from(ip.parse::<IpAddr>().unwrap()).is_routable(), "{ip}");
        }
        for ip in [
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "127.0.0.1",
            "169.254.1.1",
            "ff02::1",
            "::",
            "::1",
            "fe80::1",
        ] {
            assert!(!Address::from(ip.parse::<IpAddr>().unwrap()).is_routable(), "{ip}");
        }
    }
}
