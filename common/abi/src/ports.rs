//! Several interfaces on one side: which one a frame came in by and leaves by, as XDP, workers and CONTEXT say it.

use crate::tables::MAX_WORKERS;
use bytemuck::{Pod, Zeroable};

/// Most interfaces of one side: each has XDP programs of its own in the object.
pub const MAX_PORTS: usize = 4;

/// Entries of PORTS: the WAN's interfaces, then the LAN's.
pub const PORTS_LEN: u32 = 2 * MAX_PORTS as u32;

/// Entries of an XSKMAP: [`MAX_WORKERS`] queues of each interface.
pub const SOCKETS_LEN: u32 = (MAX_PORTS * MAX_WORKERS) as u32;

/// One entry of PORTS: what the program of an interface must know of it. Written once, before it is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PortEntry {
    /// Its own MAC address. The LAN program takes only what is addressed to it.
    pub mac: [u8; 6],
    /// The 802.1Q VLAN that the tunnel uses on it; 0 = frames without a tag.
    pub vlan: u16,
    /// Index of the interface that the kernel routes by: that of the VLAN device; 0 = the interface itself.
    pub kernel_index: u32,
}

/// Place of a WAN interface in PORTS.
#[must_use]
#[inline(always)]
pub const fn wan_place(number: usize) -> u32 {
    number as u32
}

/// Place of a LAN interface in PORTS.
#[must_use]
#[inline(always)]
pub const fn lan_place(number: usize) -> u32 {
    (MAX_PORTS + number) as u32
}

/// Place of a queue's socket in the XSKMAP of a side; `None` beyond the table.
#[must_use]
#[inline(always)]
pub const fn socket_place(number: usize, queue: u32) -> Option<u32> {
    if queue < MAX_WORKERS as u32 && number < MAX_PORTS {
        Some((number * MAX_WORKERS) as u32 + queue)
    } else {
        None
    }
}

/// An interface's number in place of a MAC address: where a side has several, workers find the one that a frame came in by
/// in place of its destination, and write the one that it leaves by in place of its source. Neither is ever on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMark(pub u8);

impl PortMark {
    /// Octets of the mark: those of a MAC address.
    pub const LEN: usize = 6;
    /// Locally administered, multicast: never a station's own address.
    const MAGIC: [u8; 5] = [0x4b, 0x57, 0x70, 0x6f, 0x72];

    /// The octets in the frame.
    #[must_use]
    #[inline]
    pub const fn encode(self) -> [u8; Self::LEN] {
        let [a, b, c, d, e] = Self::MAGIC;
        [a, b, c, d, e, self.0]
    }

    /// Reads a mark.
    #[must_use]
    #[inline]
    pub fn decode(octets: [u8; Self::LEN]) -> Option<Self> {
        let [a, b, c, d, e, port] = octets;
        ([a, b, c, d, e] == Self::MAGIC).then_some(Self(port))
    }

    /// The number as [`crate::tables::Context::next_hop_mac`] keeps it, above the address.
    #[must_use]
    #[inline]
    pub const fn to_next_hop(self) -> u64 {
        (self.0 as u64 & NUMBER_MASK) << NUMBER_SHIFT
    }

    /// The number that stands in a next hop.
    #[must_use]
    #[inline]
    pub const fn of_next_hop(word: u64) -> Self {
        Self((word >> NUMBER_SHIFT & NUMBER_MASK) as u8)
    }
}

/// Where the number stands in `next_hop_mac`: right above the 48 bits of the address.
const NUMBER_SHIFT: u32 = 48;
const NUMBER_MASK: u64 = 0x0f;

const _: () = assert!(MAX_PORTS <= NUMBER_MASK as usize + 1);
const _: () = assert!(size_of::<PortEntry>() == 12);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{NEXT_HOP_KNOWN, SteeringMark};

    #[test]
    fn marks_and_places() {
        for port in 0..MAX_PORTS as u8 {
            let mark = PortMark(port);
            assert_eq!(PortMark::decode(mark.encode()), Some(mark));
            assert_eq!(SteeringMark::decode(&mark.encode()), None);
            let word = mark.to_next_hop() | NEXT_HOP_KNOWN | 0xffff_ffff_ffff;
            assert_eq!(PortMark::of_next_hop(word), mark);
            assert_eq!(word & 0xffff_ffff_ffff, 0xffff_ffff_ffff);
        }
        assert_eq!(PortMark::decode([2, 0, 0, 0, 0, 1]), None);
        assert_eq!(PortMark::decode(SteeringMark { slot_index: 7 }.encode()), None);
        assert_eq!(socket_place(1, 3), Some(MAX_WORKERS as u32 + 3));
        assert_eq!(socket_place(0, MAX_WORKERS as u32), None);
        assert_eq!(socket_place(MAX_PORTS - 1, MAX_WORKERS as u32 - 1), Some(SOCKETS_LEN - 1));
        assert!(wan_place(MAX_PORTS - 1) < lan_place(0) && lan_place(MAX_PORTS - 1) < PORTS_LEN);
    }
}
