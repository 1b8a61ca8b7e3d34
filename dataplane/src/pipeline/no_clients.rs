//! Addresses that packets came from lately and that are no client's: what PREFIXES would say again until it changes, for a
//! fraction of a search.

use super::next_hops::{PLACES, place_of};
use crate::frame::Address;
use std::cell::Cell;

/// No address of a packet: the unspecified one (RFC 4291 section 2.5.2) is always looked up.
const NOTHING: Address = Address(0);

/// One worker's.
#[derive(Debug)]
pub(super) struct NoClients {
    places: Box<[Cell<Address>; PLACES]>,
    /// That of the prefixes of clients ([`super::Routes::generation`]).
    generation: Cell<u64>,
}

impl Default for NoClients {
    fn default() -> Self {
        Self { places: Box::new([const { Cell::new(NOTHING) }; PLACES]), generation: Cell::new(0) }
    }
}

impl NoClients {
    /// Whether an address is kept. To be asked before it is looked up: what is kept then was learned under this generation
    /// of clients' prefixes, or a later one.
    #[inline]
    pub(super) fn has(&self, address: Address, generation: u64) -> bool {
        if self.generation.replace(generation) != generation {
            self.forget();
            return false;
        }
        address != NOTHING && self.places[place_of(address)].get() == address
    }

    /// Keeps an address that was looked up, in the place of another one perhaps.
    #[inline]
    pub(super) fn keep(&self, address: Address) {
        self.places[place_of(address)].set(address);
    }

    #[cold]
    fn forget(&self) {
        self.places.iter().for_each(|place| place.set(NOTHING));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.5: what is found was kept, under the same prefixes of clients.
    #[test]
    fn r0_5_who_is_no_client_is_known_until_prefixes_change() {
        let known = NoClients::default();
        assert!(!known.has(NOTHING, 0), "an empty place is nobody");
        let hosts: Vec<_> = (1..4_000_u32).map(|n| Address::v4(n.to_be_bytes())).collect();
        hosts.iter().for_each(|host| known.keep(*host));
        let found = hosts.iter().filter(|host| known.has(**host, 0)).count();
        assert!(found > PLACES / 2 && found <= PLACES, "{found}");
        assert!(hosts.iter().all(|host| !known.has(*host, 1)));
        known.keep(hosts[0]);
        assert!(known.has(hosts[0], 1) && !known.has(hosts[1], 1) && !known.has(hosts[0], 0));
    }
}
