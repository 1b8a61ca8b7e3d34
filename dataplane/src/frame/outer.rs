//! Outer headers: Ethernet, IPv4 or IPv6, UDP, made once per binding and filled per packet.

use super::checksum::{fold, sum_words};
use super::inner::Ecn;
use super::{HOP_LIMIT, Mac};
use jvpn_abi::Endpoint;
use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, UDP_LEN};

/// Octets in front of the UDP payload of an outer IPv4 frame.
pub const OUTER_V4_LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;
/// Octets in front of the UDP payload of an outer IPv6 frame.
pub const OUTER_V6_LEN: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;

/// DF set, no fragment (RFC 791): the tunnel never lets the network fragment.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0x00];
const PROTOCOL_UDP: u8 = 17;

/// The outer headers of a binding, all but what differs per packet: next hop, lengths, ECN, checksums.
#[derive(Clone, Debug)]
pub struct OuterTemplate {
    octets: [u8; OUTER_V6_LEN],
    /// How many of `octets` count: [`OUTER_V4_LEN`] or [`OUTER_V6_LEN`].
    len: u8,
    /// IPv4: sum of the header with length, ECN and checksum zero. IPv6: sum of addresses, protocol and ports.
    sum: u32,
}

impl OuterTemplate {
    /// Headers from `local` to `remote`, leaving with `source` as MAC address. `None` if the two are of different families.
    #[must_use]
    pub fn new(source: Mac, local: Endpoint, remote: Endpoint) -> Option<Self> {
        let mut octets = [0; OUTER_V6_LEN];
        octets[6..12].copy_from_slice(&source.0);
        match (local.v4_octets(), remote.v4_octets()) {
            (Some(from), Some(to)) => {
                octets[12..14].copy_from_slice(&ETHERTYPE_IPV4);
                octets[14] = 0x45;
                octets[20..22].copy_from_slice(&DONT_FRAGMENT);
                octets[22] = HOP_LIMIT;
                octets[23] = PROTOCOL_UDP;
                octets[26..30].copy_from_slice(&from);
                octets[30..34].copy_from_slice(&to);
                octets[34..36].copy_from_slice(&local.port.to_be_bytes());
                octets[36..38].copy_from_slice(&remote.port.to_be_bytes());
                let sum = sum_words(&octets[14..34]);
                Some(Self { octets, len: OUTER_V4_LEN as u8, sum })
            }
            (None, None) => {
                octets[12..14].copy_from_slice(&ETHERTYPE_IPV6);
                octets[14] = 0x60;
                octets[20] = PROTOCOL_UDP;
                octets[21] = HOP_LIMIT;
                octets[22..38].copy_from_slice(&local.addr);
                octets[38..54].copy_from_slice(&remote.addr);
                octets[54..56].copy_from_slice(&local.port.to_be_bytes());
                octets[56..58].copy_from_slice(&remote.port.to_be_bytes());
                let sum = sum_words(&octets[22..58]) + u32::from(PROTOCOL_UDP);
                Some(Self { octets, len: OUTER_V6_LEN as u8, sum })
            }
            (Some(_), None) | (None, Some(_)) => None,
        }
    }

    /// Octets of the headers.
    #[must_use]
    #[inline]
    pub const fn header_len(&self) -> usize {
        self.len as usize
    }

    /// Writes the headers for a UDP payload of `payload_len` octets to `next_hop`. `None` if `out` is too short. Call
    /// [`Self::finish`] when the payload stands behind them.
    #[inline]
    pub fn write(&self, out: &mut [u8], next_hop: Mac, payload_len: usize, ecn: Ecn) -> Option<()> {
        let udp_len = u16::try_from(UDP_LEN + payload_len).ok()?;
        if self.header_len() == OUTER_V4_LEN {
            let head = out.first_chunk_mut::<OUTER_V4_LEN>()?;
            let ip_len = udp_len.checked_add(IPV4_LEN as u16)?;
            *head = *self.octets.first_chunk::<OUTER_V4_LEN>()?;
            head[..6].copy_from_slice(&next_hop.0);
            head[15] = ecn.bits();
            head[16..18].copy_from_slice(&ip_len.to_be_bytes());
            let sum = self.sum + u32::from(ip_len) + u32::from(ecn.bits());
            head[24..26].copy_from_slice(&fold(sum).to_be_bytes());
            // UDP over IPv4 may go without a checksum (RFC 768); the AEAD tag is the stronger one.
            head[38..40].copy_from_slice(&udp_len.to_be_bytes());
        } else {
            let head = out.first_chunk_mut::<OUTER_V6_LEN>()?;
            *head = self.octets;
            head[..6].copy_from_slice(&next_hop.0);
            head[15] = ecn.bits() << 4;
            head[18..20].copy_from_slice(&udp_len.to_be_bytes());
            head[58..60].copy_from_slice(&udp_len.to_be_bytes());
        }
        Some(())
    }

    /// Completes a frame whose payload is written: UDP over IPv6 must carry a checksum (RFC 8200 §8.1).
    #[inline]
    pub fn finish(&self, frame: &mut [u8]) {
        if self.header_len() != OUTER_V6_LEN {
            return;
        }
        let Some((head, payload)) = frame.split_first_chunk_mut::<OUTER_V6_LEN>() else { return };
        let udp_len = u32::from(u16::from_be_bytes([head[58], head[59]]));
        // The length counts twice: in the pseudo-header and in the UDP header.
        let checksum = fold(self.sum + 2 * udp_len + sum_words(payload));
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        head[60..62].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// ECN that the outer header of a frame carries. The caller has classified the frame.
#[must_use]
#[inline]
pub fn outer_ecn(frame: &[u8]) -> Ecn {
    let octet = |at: usize| frame.get(at).copied().unwrap_or(0);
    if octet(13) == ETHERTYPE_IPV4[1] { Ecn::from_bits(octet(15)) } else { Ecn::from_bits(octet(15) >> 4) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::checksum::pseudo_sum;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn v4_headers_have_a_true_checksum(len in 0usize..1500, a: [u8; 4], b: [u8; 4], port: u16, ecn in 0u8..4) {
            let (local, remote) = (Endpoint::v4(a, 4500), Endpoint::v4(b, port));
            let template = OuterTemplate::new(Mac([2; 6]), local, remote).unwrap();
            let mut out = [0xaa; 64];
            template.write(&mut out, Mac([4; 6]), len, Ecn::from_bits(ecn)).unwrap();
            prop_assert_eq!(fold(sum_words(&out[14..34])), 0);
            prop_assert_eq!(usize::from(u16::from_be_bytes([out[16], out[17]])), len + 28);
            prop_assert_eq!(outer_ecn(&out), Ecn::from_bits(ecn));
        }

        #[test]
        fn v6_datagrams_have_a_true_checksum(
            payload in proptest::collection::vec(any::<u8>(), 0..1500), a: [u8; 16], b: [u8; 16], port: u16, ecn in 0u8..4,
        ) {
            let (local, remote) = (Endpoint { addr: a, port: 4500 }, Endpoint { addr: b, port });
            prop_assume!(local.v4_octets().is_none() && remote.v4_octets().is_none());
            let template = OuterTemplate::new(Mac([2; 6]), local, remote).unwrap();
            let mut out = vec![0xaa; OUTER_V6_LEN];
            template.write(&mut out, Mac([4; 6]), payload.len(), Ecn::from_bits(ecn)).unwrap();
            out.extend(&payload);
            template.finish(&mut out);
            let udp = &out[54..];
            prop_assert_eq!(fold(pseudo_sum(&out[22..54], 17, udp.len()) + sum_words(udp)), 0);
            prop_assert_ne!(&out[60..62], &[0, 0][..]);
            prop_assert_eq!(outer_ecn(&out), Ecn::from_bits(ecn));
        }
    }

    #[test]
    fn families_are_not_mixed() {
        let v6 = Endpoint { addr: [0x20; 16], port: 1 };
        assert!(OuterTemplate::new(Mac::default(), Endpoint::v4([1; 4], 1), v6).is_none());
    }
}
