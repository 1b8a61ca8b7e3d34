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
    /// Number of the LAN's interface that it leads out of.
    pub port: u8,
    /// Of routes to the same network the lowest counts.
    pub metric: u32,
}

/// Where a packet is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its address.
    pub mac: Mac,
    /// Number of the LAN's interface behind which it is.
    pub port: u8,
}

impl LanRoute {
    /// A route from its parts; lengths beyond those of the family count as whole addresses.
    #[must_use]
    pub fn new(network: IpAddr, len: u8, gateway: Option<IpAddr>) -> Self {
        let mapped_len =
            if network.is_ipv4() { 96 + u32::from(len.min(32)) } else { u32::from(len.min(128)) };
        let mask = if mapped_len == 0 { 0 } else { u128::MAX << (128 - mapped_len) };
        let network = Address(Address::from(network).0 & mask);
        Self { network, mask, gateway: gateway.map(Address::from), port: 0, metric: 0 }
    }

    /// The same out of another interface, with a metric.
    #[must_use]
    pub const fn by(self, port: u8, metric: u32) -> Self {
        Self { port, metric, ..self }
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
    Known(Station),
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
    /// By the number of their interface: the same link-local address may stand behind each.
    neighbours: Vec<HashMap<Address, Mac, Spread>>,
}

impl LanView {
    /// A view; the order of `routes` does not matter.
    #[must_use]
    pub fn new(routes: Vec<LanRoute>, neighbours: HashMap<Address, Mac>) -> Self {
        Self::of_ports(routes, vec![neighbours])
    }

    /// A view of several interfaces: the neighbours of each, by its number.
    #[must_use]
    pub fn of_ports(mut routes: Vec<LanRoute>, neighbours: Vec<HashMap<Address, Mac>>) -> Self {
        routes.sort_by_key(|route| (std::cmp::Reverse(route.mask), route.metric, route.port));
        Self { routes, neighbours: neighbours.into_iter().map(|of| of.into_iter().collect()).collect() }
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
        let known = self.neighbours.get(usize::from(route.port)).and_then(|of| of.get(&hop));
        known.map_or(NextHop::Unresolved(hop), |mac| NextHop::Known(Station { mac: *mac, port: route.port }))
    }

    /// The interfaces behind which a next hop that was not resolved may be.
    pub fn ports_of(&self, hop: Address) -> impl Iterator<Item = u8> {
        let direct = self.routes.iter().find(|route| route.leads_to(hop) && route.gateway.is_none());
        let routers = self.routes.iter().filter(move |route| route.gateway == Some(hop));
        direct.into_iter().chain(routers).map(|route| route.port)
    }

    /// The neighbours that are known.
    pub fn neighbours(&self) -> impl Iterator<Item = (&Address, &Mac)> {
        self.neighbours.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mac: [u8; 6], port: u8) -> NextHop {
        NextHop::Known(Station { mac: Mac(mac), port })
    }

    /// R0.2: a packet leaves by the interface whose route is the longest, then the cheapest; the same neighbour address
    /// behind two interfaces is two neighbours.
    #[test]
    fn r0_2_the_route_names_the_interface() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let address = |text: &str| Address::from(ip(text));
        let route = |network, len, gateway: Option<&str>, port, metric| {
            LanRoute::new(ip(network), len, gateway.map(ip)).by(port, metric)
        };
        let routes = vec![
            route("0.0.0.0", 0, Some("192.168.51.254"), 1, 100),
            route("0.0.0.0", 0, Some("192.168.50.254"), 0, 200),
            route("192.168.50.0", 24, None, 0, 0),
            route("192.168.51.0", 24, None, 1, 0),
            route("2001:db8:1::", 48, Some("fe80::1"), 0, 0),
            route("2001:db8:2::", 48, Some("fe80::1"), 1, 0),
        ];
        let first =
            HashMap::from([(address("192.168.50.9"), Mac([1; 6])), (address("fe80::1"), Mac([2; 6]))]);
        let second =
            HashMap::from([(address("192.168.51.254"), Mac([3; 6])), (address("fe80::1"), Mac([4; 6]))]);
        let view = LanView::of_ports(routes, vec![first, second]);
        assert_eq!(view.next_hop(address("192.168.50.9")), at([1; 6], 0));
        assert_eq!(view.next_hop(address("8.8.8.8")), at([3; 6], 1));
        assert_eq!(view.next_hop(address("2001:db8:1::7")), at([2; 6], 0));
        assert_eq!(view.next_hop(address("2001:db8:2::7")), at([4; 6], 1));
        let hop = address("192.168.51.7");
        assert_eq!(view.next_hop(hop), NextHop::Unresolved(hop));
        assert!(view.ports_of(hop).eq([1]));
        assert!(view.ports_of(address("fe80::1")).eq([0, 1]));
        assert_eq!(view.ports_of(address("10.0.0.1")).count(), 0);
        assert_eq!(view.neighbours().count(), 4);
    }

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
        assert_eq!(view.next_hop(address("192.168.9.9")), at([1; 6], 0));
        assert_eq!(view.next_hop(address("8.8.8.8")), NextHop::None, "IPv6's default route is not IPv4's");
        assert_eq!(view.next_hop(address("2001:db8::1")), at([2; 6], 0));
        let host = LanView::point_to_point(Mac([3; 6]));
        for anywhere in ["8.8.8.8", "2001:db8::1"] {
            assert_eq!(host.next_hop(address(anywhere)), at([3; 6], 0));
        }
    }
}
