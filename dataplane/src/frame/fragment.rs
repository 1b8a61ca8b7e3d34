//! Cutting an IPv4 packet that its sender allows to be cut (RFC 791 §2.3): in place, one piece at a time.

use super::checksum::{fold, sum_words};
use super::inner::{Family, Inner};
use jvpn_abi::steer::{ETHERNET_LEN, IPV4_LEN};

/// More fragments follow.
const MORE: u8 = 0x20;

/// Whether a packet's sender allows routers to cut it: IPv4 without DF. With options it is not cut here: which of them every
/// piece must carry is theirs to say (RFC 791 §3.1), and nobody sends them.
#[must_use]
#[inline]
pub const fn allows_cutting(inner: &Inner) -> bool {
    matches!(inner.family, Family::V4) && !inner.dont_fragment && inner.header_len == IPV4_LEN
}

/// Cuts the packet behind the Ethernet header of `frame` so that its first piece has at most `mtu` octets. `None` if it
/// must not be cut (IPv6, DF), has options, or cannot be.
///
/// The first piece stands where the packet stood. The rest is not yet there: pass the frame, once the first piece is
/// sealed, to [`Cut::uncover_rest`].
#[must_use]
pub fn cut(frame: &mut [u8], inner: &Inner, mtu: usize) -> Option<Cut> {
    if !allows_cutting(inner) || inner.len <= mtu {
        return None;
    }
    // Offsets count eights of octets.
    let payload = mtu.checked_sub(IPV4_LEN)? & !7;
    if payload == 0 {
        return None;
    }
    let packet = frame.get_mut(ETHERNET_LEN..ETHERNET_LEN + inner.len)?;
    let mut rest = [0; IPV4_LEN];
    rest.copy_from_slice(packet.get(..IPV4_LEN)?);
    let field = u16::from_be_bytes([rest[6], rest[7]]);
    let next = (field & 0x1fff).checked_add(u16::try_from(payload / 8).ok()?).filter(|at| *at <= 0x1fff)?;
    rest[6..8].copy_from_slice(&((field & 0xe000) | next).to_be_bytes());
    rest[2..4].copy_from_slice(&u16::try_from(inner.len - payload).ok()?.to_be_bytes());
    complete(&mut rest);
    let head = packet.first_chunk_mut::<IPV4_LEN>()?;
    head[6] |= MORE;
    head[2..4].copy_from_slice(&u16::try_from(IPV4_LEN + payload).ok()?.to_be_bytes());
    complete(head);
    Some(Cut { rest, payload })
}

fn complete(head: &mut [u8; IPV4_LEN]) {
    head[10..12].fill(0);
    let checksum = fold(sum_words(head));
    head[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// A packet that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    rest: [u8; IPV4_LEN],
    payload: usize,
}

impl Cut {
    /// Makes a frame of the rest: it begins at the returned position, with the same Ethernet header as the whole one and a
    /// header of its own, over octets of the first piece. `None` if `frame` is not the one that was cut.
    #[must_use]
    pub fn uncover_rest(&self, frame: &mut [u8]) -> Option<usize> {
        let mut ethernet = [0; ETHERNET_LEN];
        ethernet.copy_from_slice(frame.get(..ETHERNET_LEN)?);
        let at = self.payload;
        let place = frame.get_mut(at..at + ETHERNET_LEN + IPV4_LEN)?;
        place[..ETHERNET_LEN].copy_from_slice(&ethernet);
        place[ETHERNET_LEN..].copy_from_slice(&self.rest);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::samples::v4;
    use proptest::prelude::*;

    proptest! {
        /// Every piece fits, has a true header, and together they are the packet, in order, without a gap.
        #[test]
        fn pieces_make_the_packet(payload in proptest::collection::vec(any::<u8>(), 1..3_000), mtu in 68usize..1_500) {
            let mut whole = v4(9, 17, &payload);
            whole[6] = 0;
            let mut frame = vec![0x5a; ETHERNET_LEN];
            frame.extend(&whole);
            let mut start = 0;
            let mut put_together: Vec<u8> = Vec::new();
            loop {
                let inner = Inner::parse(&frame[start + ETHERNET_LEN..]).unwrap();
                let cut = cut(&mut frame[start..], &inner, mtu);
                let piece = &frame[start + ETHERNET_LEN..];
                let inner = Inner::parse(piece).unwrap();
                if cut.is_some() || start > 0 {
                    prop_assert_eq!(fold(sum_words(&piece[..20])), 0);
                }
                prop_assert!(inner.len <= mtu);
                let field = u16::from_be_bytes([piece[6], piece[7]]);
                prop_assert_eq!(usize::from(field & 0x1fff) * 8, put_together.len());
                prop_assert_eq!(field & 0x2000 != 0, cut.is_some());
                put_together.extend(&piece[20..inner.len]);
                let Some(cut) = cut else { break };
                start += cut.uncover_rest(&mut frame[start..]).unwrap();
                prop_assert_eq!(&frame[start..start + ETHERNET_LEN], &[0x5a; ETHERNET_LEN][..]);
            }
            prop_assert_eq!(put_together, payload);
        }
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        let packet = v4(9, 17, &[0; 1_400]);
        let mut frame = vec![0; ETHERNET_LEN];
        frame.extend(&packet);
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!(cut(&mut frame, &inner, 1_280), None, "DF");
        frame[ETHERNET_LEN + 6] = 0;
        let inner = Inner::parse(&frame[ETHERNET_LEN..]).unwrap();
        assert!(cut(&mut frame.clone(), &inner, 1_280).is_some());
        assert_eq!(cut(&mut frame, &inner, 1_420), None, "it fits");
        assert_eq!(cut(&mut frame, &inner, 24), None, "no room for eight octets");
    }
}
