//! UDP over IPv4 over Ethernet, taken apart and put together, as far as observers and injectors need it.

use std::net::{Ipv4Addr, SocketAddrV4};

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;
const PROTOCOL_UDP: u8 = 17;
const TTL: u8 = 64;

/// A UDP datagram as it was seen on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Sender.
    pub source: SocketAddrV4,
    /// Receiver.
    pub destination: SocketAddrV4,
    /// What the datagram carries.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads an Ethernet frame; `None` if it is no whole, unfragmented UDP datagram over IPv4 without
    /// options.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET_LEN..)?;
        let header: &[u8; IPV4_LEN] = ip.first_chunk()?;
        let plain = frame.get(12..14)? == [8, 0] && header[0] == 0x45 && header[9] == PROTOCOL_UDP;
        if !plain || (header[6] & 0x3f) | header[7] != 0 {
            return None;
        }
        // Ethernet may have padded the frame: the lengths in the headers count.
        let ip = ip.get(..usize::from(u16::from_be_bytes([header[2], header[3]])))?;
        let udp: &[u8; UDP_LEN] = ip.get(IPV4_LEN..)?.first_chunk()?;
        let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        Some(Self {
            source: SocketAddrV4::new(address(12), port(0)),
            destination: SocketAddrV4::new(address(16), port(2)),
            payload: ip.get(IPV4_LEN + UDP_LEN..)?,
        })
    }

    /// The Ethernet frame, both checksums filled in.
    ///
    /// # Errors
    /// `None` if the payload does not fit an IPv4 packet.
    #[must_use]
    pub fn to_frame(&self, source_mac: [u8; 6], destination_mac: [u8; 6]) -> Option<Vec<u8>> {
        let udp_len = u16::try_from(UDP_LEN + self.payload.len()).ok()?;
        let ip_len = udp_len.checked_add(20)?;
        let mut ip = vec![0x45, 0];
        ip.extend(ip_len.to_be_bytes());
        ip.extend([0, 0, 0x40, 0, TTL, PROTOCOL_UDP, 0, 0]);
        ip.extend(self.source.ip().octets());
        ip.extend(self.destination.ip().octets());
        let sum = checksum([ip.as_slice()]);
        ip.splice(10..12, sum.to_be_bytes());

        let mut udp = Vec::with_capacity(usize::from(udp_len));
        udp.extend(self.source.port().to_be_bytes());
        udp.extend(self.destination.port().to_be_bytes());
        udp.extend(udp_len.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(self.payload);
        let [source, destination] = [self.source.ip().octets(), self.destination.ip().octets()];
        let [len_high, len_low] = udp_len.to_be_bytes();
        let pseudo = [0, PROTOCOL_UDP, len_high, len_low];
        // A sum of zero is sent as all ones: zero means "none" (RFC 768).
        let sum = match checksum([source.as_slice(), &destination, &pseudo, &udp]) {
            0 => 0xffff,
            sum => sum,
        };
        udp.splice(6..8, sum.to_be_bytes());

        let mut frame = Vec::with_capacity(ETHERNET_LEN + usize::from(ip_len));
        frame.extend(destination_mac);
        frame.extend(source_mac);
        frame.extend([8, 0]);
        frame.extend(ip);
        frame.extend(udp);
        Some(frame)
    }
}

/// Internet checksum (RFC 1071) over parts, of which only the last may have an odd length.
pub fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            let high = u64::from(pair.first().copied().unwrap_or(0));
            let low = u64::from(pair.get(1).copied().unwrap_or(0));
            sum += high << 8 | low;
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(payload: &[u8]) -> Datagram<'_> {
        Datagram {
            source: "10.0.1.2:40000".parse().unwrap(),
            destination: "198.51.100.1:4500".parse().unwrap(),
            payload,
        }
    }

    #[test]
    fn a_built_frame_reads_back_and_its_checksums_hold() {
        for payload in [b"".as_slice(), b"\x10", b"odd", b"even", &[0xff; 1_400]] {
            let frame = datagram(payload).to_frame([2; 6], [4; 6]).unwrap();
            assert_eq!(Datagram::parse(&frame), Some(datagram(payload)));
            assert_eq!(checksum([&frame[14..34]]), 0);
            let len = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
            assert_eq!(checksum([&frame[26..34], &[0, 17, len[0], len[1]], &frame[34..]]), 0);
        }
    }

    #[test]
    fn padding_is_no_payload_and_cut_frames_are_refused() {
        let mut frame = datagram(b"abc").to_frame([2; 6], [4; 6]).unwrap();
        frame.resize(60, 0);
        assert_eq!(Datagram::parse(&frame).unwrap().payload, b"abc");
        for len in 0..45 {
            assert_eq!(Datagram::parse(&frame[..len]), None, "{len}");
        }
    }

    #[test]
    fn too_large_a_payload_is_refused() {
        assert_eq!(datagram(&vec![0; 65_508]).to_frame([0; 6], [0; 6]), None);
    }
}
