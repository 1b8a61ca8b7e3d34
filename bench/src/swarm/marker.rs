//! Inner packets: numbered UDP datagrams from a member's inner address to the echo on the LAN.

use std::net::{Ipv4Addr, SocketAddrV4};

use jvpn_abi::wire::{DATA_HEADER_LEN, TAG_LEN};
use jvpn_client::agent::FRAME_OVERHEAD;
use jvpn_rig::frame::checksum;

/// Octets of an IPv4 header and a UDP header.
const HEADERS: usize = 28;
/// Octets of a marker: magic, sequence, padding.
pub(super) const MARKER_LEN: usize = 64;
/// Octets of the inner packet.
const PACKET_LEN: usize = HEADERS + MARKER_LEN;
/// Octets of a frame around it, with space for header and tag.
pub(super) const FRAME_LEN: usize = PACKET_LEN + FRAME_OVERHEAD;
/// A member's UDP port inside the tunnel.
const INNER_PORT: u16 = 7_004;
const MAGIC: &[u8; 8] = b"jvpn-swm";

/// A frame, ready to be sealed, with marker number `sequence`.
pub(super) fn frame(inner: Ipv4Addr, echo: SocketAddrV4, sequence: u64) -> [u8; FRAME_LEN] {
    let mut packet = [0; PACKET_LEN];
    let ip_len = (PACKET_LEN as u16).to_be_bytes();
    let udp_len = ((MARKER_LEN + 8) as u16).to_be_bytes();
    let ip = [&[0x45, 0], &ip_len[..], &[0, 0, 0x40, 0, 64, 17, 0, 0], &inner.octets(), &echo.ip().octets()]
        .concat();
    // No UDP checksum: the AEAD protects the way through the tunnel, and the LAN is one cable.
    let udp = [INNER_PORT.to_be_bytes(), echo.port().to_be_bytes(), udp_len, [0, 0]].concat();
    let marker = [&MAGIC[..], &sequence.to_be_bytes()].concat();
    for (to, from) in packet.iter_mut().zip(ip.into_iter().chain(udp).chain(marker)) {
        *to = from;
    }
    let sum = checksum([packet.get(..20).unwrap_or_default()]).to_be_bytes();
    for (to, from) in packet.iter_mut().skip(10).zip(sum) {
        *to = from;
    }
    let mut frame = [0; FRAME_LEN];
    if let Some(space) = frame.get_mut(DATA_HEADER_LEN..FRAME_LEN - TAG_LEN) {
        space.copy_from_slice(&packet);
    }
    frame
}

/// The number of the marker in an inner packet that came back; `None` if it is none for `inner`.
pub(super) fn sequence(inner: Ipv4Addr, echo: SocketAddrV4, packet: &[u8]) -> Option<u64> {
    let ip = packet.first_chunk::<20>()?;
    let ours = packet.len() == PACKET_LEN
        && ip[9] == 17
        && ip[12..16] == echo.ip().octets()
        && ip[16..20] == inner.octets();
    let payload = packet.get(HEADERS..).filter(|_| ours)?.strip_prefix(MAGIC)?;
    let (number, padding) = payload.split_first_chunk()?;
    padding.iter().all(|octet| *octet == 0).then(|| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_members_own_markers_count() {
        let (inner, other) = (Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 3));
        let echo = SocketAddrV4::new(Ipv4Addr::new(192, 168, 50, 10), 7_005);
        let frame = frame(inner, echo, 77);
        let mut packet = frame[DATA_HEADER_LEN..FRAME_LEN - TAG_LEN].to_vec();
        assert_eq!(checksum([&packet[..20]]), 0);
        assert_eq!(sequence(inner, echo, &packet), None, "not yet turned round");
        packet[12..16].copy_from_slice(&echo.ip().octets());
        packet[16..20].copy_from_slice(&inner.octets());
        assert_eq!(sequence(inner, echo, &packet), Some(77));
        assert_eq!(sequence(other, echo, &packet), None);
        packet[PACKET_LEN - 1] = 1;
        assert_eq!(sequence(inner, echo, &packet), None, "changed on its way");
        assert_eq!(sequence(inner, echo, &packet[..40]), None);
    }
}
