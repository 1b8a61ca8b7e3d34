//! Headers of frames: Ethernet, outer IP and UDP, inner IP, TCP's MSS, ICMP. Pure octets in, octets out.

pub mod checksum;
pub mod fragment;
pub mod icmp;
pub mod inner;
pub mod outer;
pub mod tcp;
pub mod unfinished;

pub use checksum::{fold, sum_words};
pub use fragment::{Cut, allows_cutting, cut};
pub use icmp::{GatewayAddresses, IcmpError, answer_echo, error_in_place, is_answerable};
pub use inner::{Address, Ecn, Family, Inner};
pub use outer::{OUTER_V4_LEN, OUTER_V6_LEN, OuterTemplate, outer_ecn};
pub use tcp::clamp_mss;
pub use unfinished::finish_checksum;

use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// Hop limit of what the gateway itself sends (RFC 1700's default).
pub(crate) const HOP_LIMIT: u8 = 64;

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

/// Writes an Ethernet header for a packet of `family`. `None` if `out` is too short.
#[inline]
pub fn write_ethernet(out: &mut [u8], destination: Mac, source: Mac, family: Family) -> Option<()> {
    let head = out.first_chunk_mut::<ETHERNET_LEN>()?;
    head[..6].copy_from_slice(&destination.0);
    head[6..12].copy_from_slice(&source.0);
    head[12..14].copy_from_slice(match family {
        Family::V4 => &ETHERTYPE_IPV4,
        Family::V6 => &ETHERTYPE_IPV6,
    });
    Some(())
}

/// Packets for the tests of this module.
#[cfg(test)]
pub(crate) mod samples {
    use super::{fold, sum_words};

    /// From 10.77.0.2 to 192.168.50.10, DF set.
    pub(crate) fn v4(ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = (20 + payload.len()) as u16;
        let mut p = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, ttl, protocol, 0, 0, 10, 77, 0, 2, 192, 168, 50, 10];
        p[2..4].copy_from_slice(&len.to_be_bytes());
        let checksum = fold(sum_words(&p));
        p[10..12].copy_from_slice(&checksum.to_be_bytes());
        p.extend_from_slice(payload);
        p
    }

    /// From fd77::2 to 2001:db8::10.
    pub(crate) fn v6(hop_limit: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0];
        p.extend((payload.len() as u16).to_be_bytes());
        p.extend([next_header, hop_limit]);
        p.extend([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        p.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
        p.extend_from_slice(payload);
        p
    }
}
