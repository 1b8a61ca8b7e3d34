//! The frame that nearly all are: DATA over IPv4 without options and fragments. XDP has classified it with
//! [`jvpn_abi::steer::classify_wan`] already; here the same conditions are asked again in a few words over one chunk of the
//! frame. Whatever is not exactly that is left to `classify_wan`, which knows the reasons.

use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV4, IPV4_LEN, UDP_LEN};
use jvpn_abi::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, MsgType};
use jvpn_abi::{Endpoint, wire::SlotId};

/// Octets in front of the payload.
const HEADERS: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;
/// Octets of both addresses and both ports, which follow each other.
pub(crate) const PATH_LEN: usize = 12;
/// Where they begin.
const PATH_AT: usize = ETHERNET_LEN + 12;
const PROTOCOL_UDP: u8 = 17;

/// Addresses and ports as a frame from the client has them.
pub(crate) type PathV4 = [u8; PATH_LEN];

/// The addresses and ports of frames that come from `remote` to `local`; `None` if they are not IPv4.
pub(crate) fn path_v4(remote: Endpoint, local: Endpoint) -> Option<PathV4> {
    let (from, to) = (remote.v4_octets()?, local.v4_octets()?);
    let mut path = [0; PATH_LEN];
    path[..4].copy_from_slice(&from);
    path[4..8].copy_from_slice(&to);
    path[8..10].copy_from_slice(&remote.port.to_be_bytes());
    path[10..].copy_from_slice(&local.port.to_be_bytes());
    Some(path)
}

/// A frame of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlainV4<'a> {
    pub(super) slot: SlotId,
    pub(super) path: &'a PathV4,
    /// DATA, from its header to its tag.
    pub(super) datagram: &'a [u8],
}

impl<'a> PlainV4<'a> {
    /// `None`: ask `classify_wan`.
    #[inline]
    pub(super) fn read(frame: &'a [u8]) -> Option<Self> {
        let head = frame.first_chunk::<{ HEADERS + DATA_HEADER_LEN }>()?;
        let ip_len = u16::from_be_bytes([head[16], head[17]]);
        let udp_len = u16::from_be_bytes([head[38], head[39]]);
        // The version with five words of header, no fragment, and lengths that agree.
        let is_plain = head[12..14] == ETHERTYPE_IPV4
            && head[14] == 0x45
            && (head[20] & 0x3f) | head[21] == 0
            && head[23] == PROTOCOL_UDP
            && head[HEADERS] == MsgType::Data as u8
            && usize::from(ip_len) == usize::from(udp_len) + IPV4_LEN
            && usize::from(udp_len) >= UDP_LEN + DATA_OVERHEAD;
        if !is_plain {
            return None;
        }
        let datagram = frame.get(HEADERS..HEADERS - UDP_LEN + usize::from(udp_len))?;
        let slot = SlotId(u32::from_be_bytes([head[46], head[47], head[48], head[49]]));
        Some(Self { slot, path: frame.get(PATH_AT..)?.first_chunk()?, datagram })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jvpn_abi::steer::{WanClass, classify_wan};
    use proptest::prelude::*;

    /// DATA for slot 0x00060007 from 203.0.113.9:40000 to 198.51.100.1:4500.
    fn frame(payload: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(((IPV4_LEN + UDP_LEN + payload) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 203, 0, 113, 9, 198, 51, 100, 1]);
        frame.extend(40_000_u16.to_be_bytes());
        frame.extend(4_500_u16.to_be_bytes());
        frame.extend(((UDP_LEN + payload) as u16).to_be_bytes());
        frame.extend([0, 0, MsgType::Data as u8, 0, 0, 0, 0, 6, 0, 7]);
        frame.resize(HEADERS + payload, 9);
        frame
    }

    proptest! {
        /// R0.5: whatever octets are changed, and wherever the frame ends: what is read here is what `classify_wan` says,
        /// word by word; so leaving it out changes nothing.
        #[test]
        fn r0_5_the_short_way_says_what_the_long_one_says(
            payload in 0_usize..80,
            padding in 0_usize..20,
            cut in 0_usize..160,
            changes in proptest::collection::vec((12_usize..60, any::<u8>()), 0..3),
        ) {
            let mut octets = frame(payload);
            octets.resize(octets.len() + padding, 0);
            octets.truncate(cut.max(12));
            for (at, octet) in changes {
                if let Some(place) = octets.get_mut(at) {
                    *place = octet;
                }
            }
            let Some(short) = PlainV4::read(&octets) else { return Ok(()) };
            let port = u16::from_be_bytes([octets[36], octets[37]]);
            let WanClass::Data(long) = classify_wan(&octets[..], port) else { panic!("{octets:x?}") };
            prop_assert_eq!(short.slot, long.slot);
            prop_assert_eq!(Some(*short.path), path_v4(long.remote, long.local));
            prop_assert_eq!(&octets[long.payload_at..][..short.datagram.len()], short.datagram);
            prop_assert!(short.datagram.len() >= DATA_OVERHEAD);
        }
    }

    /// R0.5: the usual frame takes the short way, and none of another family.
    #[test]
    fn r0_5_the_usual_frame_takes_the_short_way() {
        let octets = frame(100);
        let read = PlainV4::read(&octets).unwrap();
        let (remote, local) =
            (Endpoint::v4([203, 0, 113, 9], 40_000), Endpoint::v4([198, 51, 100, 1], 4_500));
        assert_eq!((read.slot, Some(*read.path)), (SlotId(0x0006_0007), path_v4(remote, local)));
        assert_eq!(read.datagram, &octets[HEADERS..]);
        let v6 = Endpoint { addr: [0x20; 16], port: 1 };
        assert_eq!(path_v4(v6, v6), None);
    }
}
