//! Explicit congestion notification across a tunnel (RFC 6040): one definition for gateway and client.

/// Explicit congestion notification: the low two bits of TOS or traffic class (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ecn(u8);

impl Ecn {
    /// The sender does not speak ECN.
    pub const NOT_ECT: Self = Self(0);
    /// ECN-capable, codepoint 1.
    pub const ECT_1: Self = Self(1);
    /// Congestion experienced.
    pub const CE: Self = Self(3);

    /// From the low two bits of an octet.
    #[must_use]
    #[inline]
    pub const fn from_bits(octet: u8) -> Self {
        Self(octet & 3)
    }

    /// The two bits.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What an IP packet carries; Not-ECT if it is none.
    #[must_use]
    #[inline]
    pub const fn of(packet: &[u8]) -> Self {
        match packet {
            [first, second, ..] if *first >> 4 == 4 => Self::from_bits(*second),
            [first, second, ..] if *first >> 4 == 6 => Self::from_bits(*second >> 4),
            _ => Self::NOT_ECT,
        }
    }

    /// What an inner packet with this mark carries after it left an outer one marked `outer` (RFC 6040 §4.2, normal mode).
    /// `None`: it is dropped, because the network saw congestion and the packet cannot say so.
    #[must_use]
    #[inline]
    pub const fn leaving(self, outer: Self) -> Option<Self> {
        match (self.0, outer.0) {
            (0, 3) => None,
            (0, _) => Some(Self::NOT_ECT),
            (_, 3) => Some(Self::CE),
            (2, 1) => Some(Self::ECT_1),
            (_, _) => Some(self),
        }
    }

    /// Writes this mark into an IP packet; of IPv4 the header checksum is mended (RFC 1624, eqn. 3).
    pub fn write(self, packet: &mut [u8]) {
        match packet {
            [first, tos, rest @ ..] if *first >> 4 == 4 => {
                let old = *tos;
                *tos = old & !3 | self.0;
                if let [_, _, _, _, _, _, _, _, high, low, ..] = rest {
                    let sum = u32::from(!u16::from_be_bytes([*high, *low]))
                        + u32::from(!u16::from(old))
                        + u32::from(*tos);
                    let sum = (sum & 0xffff) + (sum >> 16);
                    let sum = (sum & 0xffff) + (sum >> 16);
                    [*high, *low] = (!(sum as u16)).to_be_bytes();
                }
            }
            [first, class, ..] if *first >> 4 == 6 => *class = *class & !0x30 | self.0 << 4,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn sum(header: &[u8]) -> u16 {
        let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        /// A mark changes two bits and keeps the checksum true; in IPv6 it changes two bits.
        #[test]
        fn a_mark_changes_two_bits(mut header: [u8; 20], bits in 0u8..4) {
            header[0] = 0x45;
            header[10..12].fill(0);
            let checksum = !sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            let mut marked = header;
            Ecn::from_bits(bits).write(&mut marked);
            prop_assert_eq!(Ecn::of(&marked), Ecn::from_bits(bits));
            prop_assert_eq!(sum(&marked), 0xffff);
            prop_assert_eq!(marked[1] & !3, header[1] & !3);
            prop_assert_eq!(&marked[12..], &header[12..]);
            let mut v6 = header;
            v6[0] = 0x60 | header[0] & 0x0f;
            let before = v6;
            Ecn::from_bits(bits).write(&mut v6);
            prop_assert_eq!(Ecn::of(&v6), Ecn::from_bits(bits));
            prop_assert_eq!((v6[0], v6[1] & !0x30, &v6[2..]), (before[0], before[1] & !0x30, &before[2..]));
        }

        /// What is no IP packet, or cut off, is left alone and never read beyond its end.
        #[test]
        fn r1_8_garbage_is_left_alone(octets in proptest::collection::vec(any::<u8>(), 0..12), bits in 0u8..4) {
            let mut copy: Vec<u8> = octets.clone();
            let _mark = Ecn::of(&copy);
            Ecn::from_bits(bits).write(&mut copy);
            prop_assert_eq!(copy.len(), octets.len());
            if octets.first().is_none_or(|first| !matches!(first >> 4, 4 | 6)) {
                prop_assert_eq!(copy, octets);
            }
        }
    }
}
