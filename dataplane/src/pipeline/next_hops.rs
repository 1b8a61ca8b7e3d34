//! Stations on the LAN that packets went to lately: what [`crate::lan::LanView`] would say again for the same destination,
//! for a tenth of its instructions. Only routable destinations with a known station are kept, and none outlives the view
//! that it came from.

use crate::frame::{Address, Mac};
use crate::lan::Station;
use jvpn_abi::ports::PortMark;
use std::cell::Cell;

/// Destinations that are kept; two that fall into one place take turns.
const PLACES: usize = 256;

/// What is kept of one destination: the MAC address's bits below the interface's number and [`KEPT`], 0 = nothing.
type Place = Cell<(Address, u64)>;

/// Something is kept. Above all that a next hop has.
const KEPT: u64 = 1 << 63;

/// One worker's.
#[derive(Debug)]
pub(super) struct NextHops(Box<[Place; PLACES]>);

impl Default for NextHops {
    fn default() -> Self {
        Self(Box::new([const { Cell::new((Address(0), 0)) }; PLACES]))
    }
}

/// 2^64 ÷ the golden ratio, made odd (Knuth, TAOCP volume 3, section 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl NextHops {
    #[inline]
    fn place(&self, destination: Address) -> &Place {
        let folded = destination.0 as u64 ^ (destination.0 >> 64) as u64;
        // The topmost octet of the product: below PLACES.
        &self.0[(folded.wrapping_mul(MULTIPLIER) >> 56) as usize % PLACES]
    }

    /// The station of a destination, if it is kept.
    #[inline]
    pub(super) fn find(&self, destination: Address) -> Option<Station> {
        let (kept, station) = self.place(destination).get();
        let PortMark(port) = PortMark::of_next_hop(station);
        (station != 0 && kept == destination).then_some(Station { mac: Mac::from_bits(station), port })
    }

    /// Keeps a destination that was looked up, in the place of another one perhaps.
    pub(super) fn keep(&self, destination: Address, Station { mac, port }: Station) {
        self.place(destination).set((destination, mac.to_bits() | PortMark(port).to_next_hop() | KEPT));
    }

    /// Another view of the LAN holds from now on.
    pub(super) fn forget(&self) {
        self.0.iter().for_each(|place| place.set((Address(0), 0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.5: what is found is what was kept for this very destination, and nothing after the view has changed.
    #[test]
    fn r0_5_next_hops_are_those_of_the_view() {
        let hops = NextHops::default();
        assert_eq!(hops.find(Address(0)), None, "an empty place is no station");
        let station = |n: u8| Station { mac: Mac([2, 0, 0, 0, 0, n]), port: n % 4 };
        let hosts: Vec<_> = (0..4_000_u32).map(|n| Address::v4(n.to_be_bytes())).collect();
        for (n, host) in hosts.iter().enumerate() {
            hops.keep(*host, station(n as u8));
        }
        let found: Vec<_> =
            hosts.iter().enumerate().filter_map(|(n, host)| Some((n, hops.find(*host)?))).collect();
        assert!(found.len() > PLACES / 2 && found.len() <= PLACES, "{}", found.len());
        assert!(found.iter().all(|(n, kept)| *kept == station(*n as u8)));
        hops.forget();
        assert!(hosts.iter().all(|host| hops.find(*host).is_none()));
    }
}
