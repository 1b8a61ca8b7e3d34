//! Stations on the LAN that packets went to lately: what PREFIXES and [`crate::lan::LanView`] would say again for the same
//! destination, for a tenth of their instructions. Only routable destinations with a known station that are no client's are
//! kept, and none outlives the view that it came from, or a change of clients' prefixes.

use crate::frame::{Address, Mac};
use crate::lan::Station;
use jvpn_abi::ports::PortMark;
use std::cell::Cell;

/// Destinations that are kept; two that fall into one place take turns.
pub(super) const PLACES: usize = 256;

/// What is kept of one destination: the MAC address's bits below the interface's number and [`KEPT`], 0 = nothing.
type Place = Cell<(Address, u64)>;

/// Something is kept. Above all that a next hop has.
const KEPT: u64 = 1 << 63;

/// One worker's.
#[derive(Debug)]
pub(super) struct NextHops {
    places: Box<[Place; PLACES]>,
    /// That of the prefixes of clients ([`super::Routes::generation`]).
    generation: Cell<u64>,
}

impl Default for NextHops {
    fn default() -> Self {
        Self { places: Box::new([const { Cell::new((Address(0), 0)) }; PLACES]), generation: Cell::new(0) }
    }
}

/// 2^64 ÷ the golden ratio, made odd (Knuth, TAOCP volume 3, section 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// One of 256 places.
#[inline]
pub(super) const fn place_of(address: Address) -> usize {
    let folded = address.0 as u64 ^ (address.0 >> 64) as u64;
    // The topmost octet of the product.
    (folded.wrapping_mul(MULTIPLIER) >> 56) as usize
}

impl NextHops {
    #[inline]
    fn place(&self, destination: Address) -> &Place {
        &self.places[place_of(destination)]
    }

    /// The station of a destination, if it is kept. To be asked before the destination is looked up: what is kept then was
    /// learned under this generation of clients' prefixes, or a later one.
    #[inline]
    pub(super) fn find(&self, destination: Address, generation: u64) -> Option<Station> {
        if self.generation.replace(generation) != generation {
            self.forget();
            return None;
        }
        let (kept, station) = self.place(destination).get();
        let PortMark(port) = PortMark::of_next_hop(station);
        (station != 0 && kept == destination).then_some(Station { mac: Mac::from_bits(station), port })
    }

    /// Keeps a destination that was looked up, in the place of another one perhaps.
    pub(super) fn keep(&self, destination: Address, Station { mac, port }: Station) {
        self.place(destination).set((destination, mac.to_bits() | PortMark(port).to_next_hop() | KEPT));
    }

    /// Another view of the LAN, or other prefixes of clients, hold from now on.
    #[cold]
    pub(super) fn forget(&self) {
        self.places.iter().for_each(|place| place.set((Address(0), 0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.5: what is found is what was kept for this very destination, and nothing after the view has changed.
    #[test]
    fn r0_5_next_hops_are_those_of_the_view() {
        let hops = NextHops::default();
        assert_eq!(hops.find(Address(0), 0), None, "an empty place is no station");
        let station = |n: u8| Station { mac: Mac([2, 0, 0, 0, 0, n]), port: n % 4 };
        let hosts: Vec<_> = (0..4_000_u32).map(|n| Address::v4(n.to_be_bytes())).collect();
        for (n, host) in hosts.iter().enumerate() {
            hops.keep(*host, station(n as u8));
        }
        let found: Vec<_> =
            hosts.iter().enumerate().filter_map(|(n, host)| Some((n, hops.find(*host, 0)?))).collect();
        assert!(found.len() > PLACES / 2 && found.len() <= PLACES, "{}", found.len());
        assert!(found.iter().all(|(n, kept)| *kept == station(*n as u8)));
        hops.forget();
        assert!(hosts.iter().all(|host| hops.find(*host, 0).is_none()));
        hops.keep(hosts[0], station(1));
        assert_eq!(hops.find(hosts[0], 0), Some(station(1)));
        assert!(hops.find(hosts[0], 1).is_none(), "it may be a client's now");
        hops.keep(hosts[0], station(2));
        assert_eq!(hops.find(hosts[0], 1), Some(station(2)));
        assert!(hops.find(hosts[0], 0).is_none(), "numbers come round");
    }
}
