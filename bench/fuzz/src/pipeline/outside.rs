//! Frames of the fuzzer's own making, and those of the product read again. Checksums are summed word by word here,
//! never by the product's own code.

use super::world::Path;
use jvpn_abi::Endpoint;
use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, UDP_LEN};
use jvpn_dataplane::frame::{Family, Inner};
use std::ops::Range;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The checksum field of an outer UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UdpSum {
    True,
    Wrong,
    Absent,
}

impl UdpSum {
    /// What honest senders write: over IPv4 mostly none.
    pub(super) fn usual(path: Path) -> Self {
        match path.family() {
            Family::V4 => Self::Absent,
            Family::V6 => Self::True,
        }
    }
}

/// The checksum over these octets (RFC 1071). 0: what has its checksum in it is true. Only the last part may be odd.
pub(super) fn plain_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The same with the pseudo-header in front, of which both families' sum up alike (RFC 768, RFC 8200 section 8.1).
pub(super) fn transport_sum(addresses: &[u8], protocol: u8, len: usize, segment: &[u8]) -> u16 {
    plain_sum(&[addresses, &(len as u32).to_be_bytes(), &[0, protocol], segment])
}

/// What is written for a sum: zero means to UDP that there is none.
const fn written(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

/// The frame in which a datagram comes by this path.
pub(super) fn frame(path: Path, datagram: &[u8], sum: UdpSum) -> Vec<u8> {
    let mut frame = vec![2; 12];
    let udp_len = (UDP_LEN + datagram.len()) as u16;
    let addresses = match (path.remote.v4_octets(), path.local.v4_octets()) {
        (Some(from), Some(to)) => {
            frame.extend(ETHERTYPE_IPV4);
            frame.extend([0x45, 0]);
            frame.extend((IPV4_LEN as u16 + udp_len).to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, UDP, 0, 0]);
            [from, to].concat()
        }
        (None, _) | (_, None) => {
            frame.extend(ETHERTYPE_IPV6);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(udp_len.to_be_bytes());
            frame.extend([UDP, 64]);
            [path.remote.addr, path.local.addr].concat()
        }
    };
    let ports = [path.remote.port.to_be_bytes(), path.local.port.to_be_bytes()].concat();
    let mut udp = [&ports[..], &udp_len.to_be_bytes(), &[0, 0], datagram].concat();
    let truth = written(transport_sum(&addresses, UDP, udp.len(), &udp));
    let sum = match sum {
        UdpSum::True => truth,
        UdpSum::Wrong => truth ^ 0x0101,
        UdpSum::Absent => 0,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    frame.extend(&addresses);
    frame.extend(&udp);
    frame
}

pub(super) fn is_v6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHERTYPE_IPV6[..])
}

/// What routers between have marked of congestion.
pub(super) fn mark_ecn(frame: &mut [u8], ecn: u8) {
    frame[15] = if is_v6(frame) { (ecn & 3) << 4 } else { ecn & 3 };
}

/// Octets that routers change on the way, or that end at the next hop; and UDP's checksum, which the tag makes up for.
pub(super) fn is_routers(frame: &[u8], at: usize) -> bool {
    if is_v6(frame) {
        at < 18 || matches!(at, 21 | 60..=61)
    } else {
        at < 14 || matches!(at, 15 | 18..=20 | 22 | 24..=25 | 40..=41)
    }
}

/// Path, as its client's binding has it, and datagram of a frame that leaves by the WAN. Panics if a header is wrong.
pub(super) fn read(frame: &[u8]) -> (Path, &[u8]) {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (addresses, udp_at) = if is_v6(frame) {
        assert_eq!((frame[14] >> 4, frame[20], frame[21]), (6, UDP, 64), "{frame:02x?}");
        assert_eq!(usize::from(word(18)), frame.len() - 54, "RFC 8200: its payload's length");
        (&frame[22..54], 54)
    } else {
        assert_eq!((&frame[12..15], frame[22], frame[23]), (&[8, 0, 0x45][..], 64, UDP), "{frame:02x?}");
        assert_eq!(usize::from(word(16)), frame.len() - ETHERNET_LEN, "RFC 791: its length");
        assert_eq!(word(20), 0x4000, "the network does not cut what the tunnel sends");
        assert_eq!(plain_sum(&[&frame[14..34]]), 0, "RFC 791: the header's checksum");
        (&frame[26..34], 34)
    };
    let udp = &frame[udp_at..];
    assert_eq!(usize::from(word(udp_at + 4)), udp.len(), "RFC 768: its length");
    if is_v6(frame) || word(udp_at + 6) != 0 {
        assert_ne!(word(udp_at + 6), 0, "RFC 8200 section 8.1: a checksum is there");
        assert_eq!(transport_sum(addresses, UDP, udp.len(), udp), 0, "RFC 768, RFC 8200: and it is true");
    }
    let (local, remote) = addresses.split_at(addresses.len() / 2);
    let path = Path { remote: endpoint(remote, word(udp_at + 2)), local: endpoint(local, word(udp_at)) };
    (path, &udp[UDP_LEN..])
}

fn endpoint(address: &[u8], port: u16) -> Endpoint {
    match <[u8; 4]>::try_from(address) {
        Ok(v4) => Endpoint::v4(v4, port),
        Err(_) => Endpoint { addr: address.try_into().unwrap(), port },
    }
}

/// Whether a packet's own header has a true checksum. That of IPv6 has none.
pub(super) fn header_is_true(packet: &[u8], inner: &Inner) -> bool {
    inner.family == Family::V6 || plain_sum(&[&packet[..inner.header_len]]) == 0
}

/// Whether a message of ICMP has a true checksum (RFC 792, RFC 4443 section 2.3).
pub(super) fn icmp_is_true(packet: &[u8], inner: &Inner) -> bool {
    let message = &packet[inner.header_len..inner.len];
    match inner.family {
        Family::V4 => plain_sum(&[message]) == 0,
        Family::V6 => transport_sum(&packet[8..40], 58, message.len(), message) == 0,
    }
}

/// TCP or UDP in a packet.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    protocol: u8,
    addresses: Range<usize>,
    segment: Range<usize>,
    /// Where its checksum is.
    field: Range<usize>,
}

impl Transport {
    /// `None`: a piece, something else, not all of it, or UDP of another length than its packet carries. Of IPv6's
    /// extension headers those are looked past that the pseudo-header does not depend on, up to four.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let inner = Inner::parse(packet)?;
        let (mut protocol, mut at) = (inner.protocol, inner.header_len);
        for _ in 0..4 {
            if inner.family == Family::V4 || !matches!(protocol, 0 | 43 | 60) {
                break;
            }
            let header = packet.get(at..at + 8)?;
            if protocol == 43 && header[3] != 0 {
                return None;
            }
            (protocol, at) = (header[0], at + 8 * (1 + usize::from(header[1])));
        }
        let segment = packet.get(at..inner.len)?;
        let field = match protocol {
            TCP => at + 16..at + 18,
            UDP => at + 6..at + 8,
            _ => return None,
        };
        if inner.fragment || field.end > inner.len {
            return None;
        }
        if protocol == UDP && usize::from(u16::from_be_bytes([segment[4], segment[5]])) != segment.len() {
            return None;
        }
        let addresses = match inner.family {
            Family::V4 => 12..20,
            Family::V6 => 8..40,
        };
        Some(Self { protocol, addresses, segment: at..inner.len, field })
    }

    /// Over its pseudo-header and these octets of it.
    fn sum(&self, packet: &[u8], octets: Range<usize>) -> u16 {
        let addresses = &packet[self.addresses.clone()];
        transport_sum(addresses, self.protocol, self.segment.len(), &packet[octets])
    }

    pub(super) fn is_true(&self, packet: &[u8]) -> bool {
        self.sum(packet, self.segment.clone()) == 0
    }

    /// Leaves the checksum to a device, as kernels do: its field has the pseudo-header's sum.
    pub(super) fn leave_out(&self, packet: &mut [u8]) {
        let pseudo = !self.sum(packet, 0..0);
        packet[self.field.clone()].copy_from_slice(&pseudo.to_be_bytes());
    }

    /// Writes the checksum.
    pub(super) fn complete(&self, packet: &mut [u8]) {
        packet[self.field.clone()].fill(0);
        let sum = written(self.sum(packet, self.segment.clone()));
        packet[self.field.clone()].copy_from_slice(&sum.to_be_bytes());
    }
}
