//! The LAN as workers see it: an immutable view of routes and neighbours, replaced as a whole when it changes.

use crate::frame::Mac;
use crate::spread::Spread;
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// A route out of the LAN port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanRoute {
    /// Network address.
    pub network: u32,
    /// Network mask.
    pub mask: u32,
    /// Next router; `None` = on the link.
    pub gateway: Option<Ipv4Addr>,
}

impl LanRoute {
    /// A route from its parts; lengths beyond 32 count as 32.
    #[must_use]
    pub fn new(network: Ipv4Addr, len: u8, gateway: Option<Ipv4Addr>) -> Self {
        let mask = if len == 0 { 0 } else { u32::MAX << (32 - u32::from(len.min(32))) };
        Self { network: u32::from(network) & mask, mask, gateway }
    }
}

/// What a destination resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Send to this address.
    Known(Mac),
    /// Somebody must resolve this neighbour first.
    Unresolved(Ipv4Addr),
    /// No route.
    None,
}

/// Routes and neighbours of the LAN port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LanView {
    /// Longest prefix first.
    routes: Vec<LanRoute>,
    neighbours: HashMap<Ipv4Addr, Mac, Spread>,
}

impl LanView {
    /// A view; the order of `routes` does not matter.
    #[must_use]
    pub fn new(mut routes: Vec<LanRoute>, neighbours: HashMap<Ipv4Addr, Mac>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.mask));
        Self { routes, neighbours: neighbours.into_iter().collect() }
    }

    /// Where a packet for `destination` goes. Constant work for the few routes that a LAN port has.
    #[must_use]
    pub fn next_hop(&self, destination: Ipv4Addr) -> NextHop {
        let addr = u32::from(destination);
        let Some(route) = self.routes.iter().find(|route| addr & route.mask == route.network) else {
            return NextHop::None;
        };
        let hop = route.gateway.unwrap_or(destination);
        self.neighbours.get(&hop).map_or(NextHop::Unresolved(hop), |mac| NextHop::Known(*mac))
    }

    /// The neighbours that are known.
    pub fn neighbours(&self) -> impl Iterator<Item = (&Ipv4Addr, &Mac)> {
        self.neighbours.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_gateway_and_misses() {
        let on_link = LanRoute::new(Ipv4Addr::new(192, 168, 50, 0), 24, None);
        let router = Ipv4Addr::new(192, 168, 50, 254);
        let beyond = LanRoute::new(Ipv4Addr::new(192, 168, 0, 0), 16, Some(router));
        let view = LanView::new(vec![beyond, on_link], HashMap::from([(router, Mac([1; 6]))]));
        let host = Ipv4Addr::new(192, 168, 50, 10);
        assert_eq!(view.next_hop(host), NextHop::Unresolved(host));
        assert_eq!(view.next_hop(Ipv4Addr::new(192, 168, 9, 9)), NextHop::Known(Mac([1; 6])));
        assert_eq!(view.next_hop(Ipv4Addr::new(8, 8, 8, 8)), NextHop::None);
    }
}
