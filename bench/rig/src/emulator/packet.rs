//! What of a frame the emulator looks at and rewrites: Ethernet, IPv4 and IPv6 without extension headers, UDP, TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::frame::checksum;

const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Octets of the packet that an ICMP error quotes: header and the ports behind it.
const QUOTED_LEN: usize = 28;
/// Octets of the packet that an ICMPv6 error quotes.
const QUOTED_V6_LEN: usize = IPV6_LEN + 8;

/// Which end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IP protocol number: UDP or TCP.
    pub protocol: u8,
    /// The sender.
    pub source: SocketAddr,
    /// The receiver.
    pub destination: SocketAddr,
}

/// Where things are in a frame.
#[derive(Clone, Copy)]
struct Layout {
    is_v6: bool,
    protocol: u8,
    transport: usize,
}

impl Layout {
    /// `None`: no IP, a fragment, neither UDP nor TCP, or cut off.
    fn of(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET_LEN..)?;
        let (is_v6, protocol, len) = match (frame.get(12..14)?, ip.first()? >> 4) {
            ([0x08, 0x00], 4) => {
                let (flags, rest) = (ip.get(6)?, ip.get(7)?);
                if (flags & 0x3f) | rest != 0 {
                    return None;
                }
                (false, *ip.get(9)?, usize::from(ip.first()? & 0xf) * 4)
            }
            ([0x86, 0xdd], 6) => (true, *ip.get(6)?, IPV6_LEN),
            _ => return None,
        };
        let transport = ETHERNET_LEN + len;
        let header = match protocol {
            UDP => 8,
            TCP => 20,
            _ => return None,
        };
        frame.get(transport..transport + header)?;
        Some(Self { is_v6, protocol, transport })
    }

    const fn address_at(self, end: End) -> (usize, usize) {
        match (self.is_v6, end) {
            (false, End::Source) => (ETHERNET_LEN + 12, 4),
            (false, End::Destination) => (ETHERNET_LEN + 16, 4),
            (true, End::Source) => (ETHERNET_LEN + 8, 16),
            (true, End::Destination) => (ETHERNET_LEN + 24, 16),
        }
    }

    const fn port_at(self, end: End) -> usize {
        match end {
            End::Source => self.transport,
            End::Destination => self.transport + 2,
        }
    }

    const fn checksum_at(self) -> usize {
        self.transport + if self.protocol == UDP { 6 } else { 16 }
    }
}

/// Whether the frame carries IP at all. Others (neighbour resolution) are the link's own affair.
#[must_use]
pub fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd])) && !is_neighbour_discovery(frame)
}

/// ICMPv6 135 and 136 are to IPv6 what ARP is to IPv4.
fn is_neighbour_discovery(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
        && frame.get(ETHERNET_LEN + 6) == Some(&ICMPV6)
        && matches!(frame.get(ETHERNET_LEN + IPV6_LEN), Some(133..=137))
}

/// Octets of the IP packet that the frame carries.
#[must_use]
pub const fn ip_len(frame: &[u8]) -> usize {
    frame.len().saturating_sub(ETHERNET_LEN)
}

/// Who talks to whom; `None` if it is not UDP or TCP, or a fragment.
#[must_use]
pub fn flow(frame: &[u8]) -> Option<Flow> {
    let layout = Layout::of(frame)?;
    let address = |end| -> Option<SocketAddr> {
        let (at, len) = layout.address_at(end);
        let octets = frame.get(at..at + len)?;
        let ip = match layout.is_v6 {
            false => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
            true => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        };
        let port = frame.get(layout.port_at(end)..)?.first_chunk()?;
        Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    };
    Some(Flow {
        protocol: layout.protocol,
        source: address(End::Source)?,
        destination: address(End::Destination)?,
    })
}

/// Puts another address and port at one end and corrects the checksums (RFC 1624); `false` if the frame is no flow, or
/// of another family: it is as it was then.
pub fn rewrite(frame: &mut [u8], end: End, to: SocketAddr) -> bool {
    let Some(layout) = Layout::of(frame) else { return false };
    if layout.is_v6 != to.is_ipv6() {
        return false;
    }
    let (at, len) = layout.address_at(end);
    let new = match to.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let Some(old) = frame.get(at..at + len).map(<[u8]>::to_vec) else { return false };
    let port_at = layout.port_at(end);
    let Some(old_port) = frame.get(port_at..port_at + 2).map(<[u8]>::to_vec) else { return false };
    let new_port = to.port().to_be_bytes();
    put(frame, at, &new);
    put(frame, port_at, &new_port);
    if !layout.is_v6 {
        correct(frame, ETHERNET_LEN + 10, &old, &new);
    }
    let sum_at = layout.checksum_at();
    let has_none = layout.protocol == UDP && frame.get(sum_at..sum_at + 2) == Some(&[0, 0]);
    if !has_none {
        correct(frame, sum_at, &old, &new);
        correct(frame, sum_at, &old_port, &new_port);
        if layout.protocol == UDP && frame.get(sum_at..sum_at + 2) == Some(&[0, 0]) {
            // Zero means "none" in UDP (RFC 768); all ones is the same sum.
            put(frame, sum_at, &[0xff, 0xff]);
        }
    }
    true
}

fn put(frame: &mut [u8], at: usize, octets: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

/// HC' = ~(~HC + ~m + m').
fn correct(frame: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let Some(sum) = frame.get(at..).and_then(<[u8]>::first_chunk::<2>) else { return };
    let words = |octets: &[u8]| -> Vec<u32> {
        octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).collect()
    };
    let mut total = u32::from(!u16::from_be_bytes(*sum));
    for word in words(old) {
        total += 0xffff - word;
    }
    for word in words(new) {
        total += word;
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    put(frame, at, &(!(total as u16)).to_be_bytes());
}

/// What the sender of a packet that is too large is told: an Ethernet frame back to it. `None` for what must not be
/// answered (RFC 1122: errors, fragments but the first) or cannot.
#[must_use]
pub fn too_big(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let (destination, source) = (frame.get(0..6)?, frame.get(6..12)?);
    let ip = frame.get(ETHERNET_LEN..)?;
    let mut answer = [source, destination, frame.get(12..14)?].concat();
    match frame.get(12..14)? {
        [0x08, 0x00] if ip.get(9) != Some(&1) && ip.get(6)? & 0x1f == 0 => {
            let quoted = ip.get(..QUOTED_LEN.min(ip.len()))?;
            let mut icmp = vec![3, 4, 0, 0, 0, 0];
            icmp.extend(mtu.to_be_bytes());
            icmp.extend(quoted);
            let sum = checksum([icmp.as_slice()]);
            put(&mut icmp, 2, &sum.to_be_bytes());
            let mut header = vec![0x45, 0];
            header.extend(u16::try_from(20 + icmp.len()).ok()?.to_be_bytes());
            header.extend([0, 0, 0, 0, 64, 1, 0, 0]);
            // As if from the receiver: the path has no address of its own.
            header.extend(ip.get(16..20)?);
            header.extend(ip.get(12..16)?);
            let sum = checksum([header.as_slice()]);
            put(&mut header, 10, &sum.to_be_bytes());
            answer.extend(header);
            answer.extend(icmp);
        }
        [0x86, 0xdd] if ip.get(6) != Some(&ICMPV6) => {
            let quoted = ip.get(..QUOTED_V6_LEN.min(ip.len()))?;
            let mut icmp = vec![2, 0, 0, 0];
            icmp.extend(u32::from(mtu).to_be_bytes());
            icmp.extend(quoted);
            let len = u16::try_from(icmp.len()).ok()?.to_be_bytes();
            let (from, to) = (ip.get(24..40)?, ip.get(8..24)?);
            let pseudo = [0, 0, len[0], len[1], 0, 0, 0, ICMPV6];
            let sum = checksum([from, to, &pseudo, &icmp]);
            put(&mut icmp, 2, &sum.to_be_bytes());
            answer.extend([0x60, 0, 0, 0, len[0], len[1], ICMPV6, 64]);
            answer.extend(from);
            answer.extend(to);
            answer.extend(icmp);
        }
        _ => return None,
    }
    Some(answer)
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
