//! The LAN as workers see it: an immutable view of routes and neighbours, replaced as a whole when it changes.

use crate::frame::{Address, Mac};
use crate::spread::Spread;
use std::collections::HashMap;
use std::net::IpAddr;

/// A route out of the LAN port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanRoute {
    /// Network address.
    pub network: Address,
    /// Network mask, over the IPv4-mapped address.
    pub mask: u128,
    /// Next router; `None` = on the link.
    pub gateway: Option<Address>,
}

impl LanRoute {
    /// A route from its parts; lengths beyond those of the family count as whole addresses.
    #[must_use]
    pub fn new(network: IpAddr, len: u8, gateway: Option<IpAddr>) -> Self {
        let mapped_len =
            if network.is_ipv4() { 96 + u32::from(len.min(32)) } else { u32::from(len.min(128)) };
        let mask = if mapped_len == 0 { 0 } else { u128::MAX << (128 - mapped_len) };
        let network = Address(Address::from(network).0 & mask);
        Self { network, mask, gateway: gateway.map(Address::from) }
    }
}

impl LanRoute {
    /// A default route of IPv6 has no mask: it must not take IPv4-mapped destinations.
    fn leads_to(&self, destination: Address) -> bool {
        destination.0 & self.mask == self.network.0 && (self.mask != 0 || destination.ip().is_ipv6())
    }
}

/// What a destination resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Send to this address.
    Known(Mac),
    /// Somebody must resolve this neighbour first.
    Unresolved(Address),
    /// No route.
    None,
}

/// Routes and neighbours of the LAN port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LanView {
    /// Longest prefix first.
    routes: Vec<LanRoute>,
    neighbours: HashMap<Address, Mac, Spread>,
}

impl LanView {
    /// A view; the order of `routes` does not matter.
    #[must_use]
    pub fn new(mut routes: Vec<LanRoute>, neighbours: HashMap<Address, Mac>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.mask));
        Self { routes, neighbours: neighbours.into_iter().collect() }
    }

    /// Everything goes to one station: the host at the other end.
    #[must_use]
    pub fn point_to_point(station: Mac) -> Self {
        let anywhere = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let routes = anywhere.map(|network| LanRoute::new(network, 0, Some(network)));
        let neighbours = anywhere.map(|network| (Address::from(network), station));
        Self::new(routes.into(), neighbours.into())
    }

    /// Where a packet for `destination` goes. Constant work for the few routes that a LAN port has.
    #[must_use]
    pub fn next_hop(&self, destination: Address) -> NextHop {
        let Some(route) = self.routes.iter().find(|route| route.leads_to(destination)) else {
            return NextHop::None;
        };
        let hop = route.gateway.unwrap_or(destination);
        self.neighbours.get(&hop).map_or(NextHop::Unresolved(hop), |mac| NextHop::Known(*mac))
    }

    /// The neighbours that are known.
    pub fn neighbours(&self) -> impl Iterator<Item = (&Address, &Mac)> {
        self.neighbours.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_gateway_and_misses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let address = |text: &str| Address::from(ip(text));
        let on_link = LanRoute::new(ip("192.168.50.0"), 24, None);
        let beyond = LanRoute::new(ip("192.168.0.0"), 16, Some(ip("192.168.50.254")));
        let rest_of_v6 = LanRoute::new(ip("::"), 0, Some(ip("fe80::1")));
        let known =
            HashMap::from([(address("192.168.50.254"), Mac([1; 6])), (address("fe80::1"), Mac([2; 6]))]);
        let view = LanView::new(vec![rest_of_v6, beyond, on_link], known);
        let host = address("192.168.50.10");
        assert_eq!(view.next_hop(host), NextHop::Unresolved(host));
        assert_eq!(view.next_hop(address("192.168.9.9")), NextHop::Known(Mac([1; 6])));
        assert_eq!(view.next_hop(address("8.8.8.8")), NextHop::None, "IPv6's default route is not IPv4's");
        assert_eq!(view.next_hop(address("2001:db8::1")), NextHop::Known(Mac([2; 6])));
        let host = LanView::point_to_point(Mac([3; 6]));
        for anywhere in ["8.8.8.8", "2001:db8::1"] {
            assert_eq!(host.next_hop(address(anywhere)), NextHop::Known(Mac([3; 6])));
        }
    }
}
