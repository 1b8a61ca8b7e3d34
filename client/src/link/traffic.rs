//! What goes into the tunnel by the user's will: a routing table of its own, looked into before the main one.
//!
//! A table of its own, and not routes in the main one: there a longer prefix would win, and whoever answers the host's
//! DHCP request can set one (option 121), so that traffic went around the tunnel. Here nothing in the main table counts
//! but what this one leaves to it.

use super::model::{Route, RouteKind, Rule, is_private, network};
use jvpn_session::messages::Prefix;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the user wants in the tunnel and around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficSetup {
    /// Into the tunnel.
    pub into: Vec<Prefix>,
    /// Around it.
    pub exclude: Vec<Prefix>,
    /// Whether the networks of the uplinks go around it, as far as they are private.
    pub local_network: bool,
}

/// Both families' everything.
const EVERYTHING: [Prefix; 2] = [
    Prefix { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 },
    Prefix { addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 },
];
/// Metric of what refuses behind a route into the tunnel: the worst there is.
const LAST: u32 = u32::MAX;
/// Addresses of one link only, which no tunnel can carry: neighbours, routers and address configuration.
const LINK_ONLY: [Prefix; 2] = [
    Prefix { addr: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), len: 10 },
    Prefix { addr: IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), len: 8 },
];

impl TrafficSetup {
    /// As configured.
    #[must_use]
    pub fn new(config: &crate::config::Traffic) -> Self {
        let all = config.full_tunnel.then_some(EVERYTHING).into_iter().flatten();
        Self {
            into: all.chain(config.routes.iter().copied()).collect(),
            exclude: config.exclude.clone(),
            local_network: config.local_network,
        }
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.into.is_empty() && self.exclude.is_empty()
    }

    /// The routes of `table`, into the tunnel device with these addresses; `local`: the networks of the uplinks.
    ///
    /// What was meant for the tunnel never goes around it: behind each route into the device is one that refuses, which
    /// is there alone where the tunnel has no address of a family. The kernel drops a route when its device goes down, is
    /// deleted, or loses the address that the route sends from; what refuses has no device.
    #[must_use]
    pub fn routes(
        &self,
        table: u32,
        device: u32,
        addresses: &[Prefix],
        local: &BTreeSet<(IpAddr, u8)>,
    ) -> BTreeSet<Route> {
        let route = |addr, len, kind| Route {
            table,
            kind,
            dst: network(addr, len),
            len,
            metric: 0,
            device: 0,
            via: None,
            source: None,
        };
        let mut routes = std::collections::BTreeMap::new();
        let mut add = |route: Route| routes.insert((route.dst, route.len), route);
        for prefix in &self.into {
            let own = addresses.iter().find(|own| own.addr.is_ipv4() == prefix.addr.is_ipv4());
            add(match own {
                Some(own) => {
                    let source = Some(own.addr);
                    Route { device, source, ..route(prefix.addr, prefix.len, RouteKind::Unicast) }
                }
                None => route(prefix.addr, prefix.len, RouteKind::Unreachable),
            });
        }
        if self.is_empty() {
            return BTreeSet::new();
        }
        // After the others: of two with the same destination the exclusion counts.
        for prefix in self.exclude.iter().chain(&LINK_ONLY) {
            add(route(prefix.addr, prefix.len, RouteKind::Throw));
        }
        for (addr, len) in local.iter().filter(|(addr, len)| self.local_network && is_private(*addr, *len)) {
            add(route(*addr, *len, RouteKind::Throw));
        }
        let refusal = |route: Route| Route {
            kind: RouteKind::Unreachable,
            metric: LAST,
            device: 0,
            source: None,
            ..route
        };
        let with_refusal = |route: Route| match route.kind {
            RouteKind::Unicast => [Some(route), Some(refusal(route))],
            RouteKind::Unreachable => [Some(refusal(route)), None],
            RouteKind::Throw => [Some(route), None],
        };
        routes.into_values().flat_map(with_refusal).flatten().collect()
    }

    /// The rules that lead there.
    #[must_use]
    pub fn rules(&self, table: u32, priority: u32) -> BTreeSet<Rule> {
        if self.is_empty() {
            return BTreeSet::new();
        }
        let rule = |all: Prefix| Rule { priority, to: all.addr, to_len: 0, device: None, from: None, table };
        EVERYTHING.map(rule).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn text(routes: &BTreeSet<Route>) -> Vec<String> {
        let last = |r: &Route| if r.metric == LAST { " last" } else { "" };
        let one = |r: &Route| format!("{:?} {}/{} dev {}{}", r.kind, r.dst, r.len, r.device, last(r));
        routes.iter().map(one).collect()
    }

    /// R7.1: with an IPv4 address only, IPv6 is refused, not let out; and IPv4 when its route is gone with the device.
    #[test]
    fn r7_1_a_family_without_an_address_is_refused() {
        let setup = TrafficSetup {
            into: EVERYTHING.into(),
            exclude: prefixes(&["192.168.9.1/16"]),
            local_network: true,
        };
        let local = BTreeSet::from([("10.0.1.2".parse().unwrap(), 24)]);
        let routes = setup.routes(9, 5, &prefixes(&["10.77.0.2/32"]), &local);
        let expected = [
            "Unicast 0.0.0.0/0 dev 5",
            "Unreachable 0.0.0.0/0 dev 0 last",
            "Unreachable ::/0 dev 0 last",
            "Throw 10.0.1.0/24 dev 0",
            "Throw 192.168.0.0/16 dev 0",
            "Throw fe80::/10 dev 0",
            "Throw ff00::/8 dev 0",
        ];
        assert_eq!(text(&routes).into_iter().collect::<BTreeSet<_>>(), expected.map(str::to_owned).into());
        let closed = TrafficSetup { local_network: false, ..setup };
        assert!(!text(&closed.routes(9, 5, &[], &local)).concat().contains("10.0.1.0"));
        assert_eq!(closed.rules(9, 71).len(), 2);
        assert!(TrafficSetup::default().rules(9, 71).is_empty());
        assert!(TrafficSetup::default().routes(9, 5, &[], &local).is_empty());
    }

    /// R7.1: a network that DHCP makes large draws nothing public around the tunnel, nor what lies in it.
    #[test]
    fn r7_1_a_large_network_of_an_uplink_is_not_exempt() {
        let into = EVERYTHING.into();
        let setup = TrafficSetup { into, exclude: Vec::new(), local_network: true };
        let local = [("0.0.0.0", 1), ("128.0.0.0", 1), ("8.0.0.0", 6), ("2000::", 3), ("192.168.7.0", 24)];
        let local = local.into_iter().map(|(addr, len)| (addr.parse().unwrap(), len)).collect();
        let routes = setup.routes(9, 5, &prefixes(&["10.77.0.2/32"]), &local);
        let thrown = routes.into_iter().filter(|route| route.kind == RouteKind::Throw).collect();
        let expected = ["Throw 192.168.7.0/24 dev 0", "Throw fe80::/10 dev 0", "Throw ff00::/8 dev 0"];
        assert_eq!(text(&thrown), expected);
    }

    proptest! {
        /// Each destination has one route, all in the table, and only unicast ones lead to the device; a refusal is
        /// behind each of these, and behind nothing else.
        #[test]
        fn one_route_per_destination(into in any::<[(u32, u8); 4]>(), out in any::<[(u32, u8); 4]>()) {
            let prefix = |(addr, len): (u32, u8)| Prefix { addr: Ipv4Addr::from_bits(addr).into(), len: len % 33 };
            let setup = TrafficSetup {
                into: into.map(prefix).into(),
                exclude: out.map(prefix).into(),
                local_network: false,
            };
            let routes = setup.routes(9, 5, &prefixes(&["10.77.0.2/32"]), &BTreeSet::new());
            let (last, routes): (Vec<Route>, Vec<Route>) = routes.into_iter().partition(|r| r.metric == LAST);
            let place = |route: &Route| (route.dst, route.len);
            let places: BTreeSet<_> = routes.iter().map(place).collect();
            prop_assert_eq!(places.len(), routes.len());
            prop_assert!(last.iter().all(|route| route.kind == RouteKind::Unreachable && route.device == 0));
            let into = routes.iter().filter(|route| route.kind == RouteKind::Unicast).map(place);
            prop_assert_eq!(last.iter().map(place).collect::<Vec<_>>(), into.collect::<Vec<_>>());
            for route in &routes {
                prop_assert_eq!(route.table, 9);
                prop_assert_eq!(route.device != 0, route.kind == RouteKind::Unicast);
                prop_assert_eq!(network(route.dst, route.len), route.dst);
            }
            for prefix in &setup.exclude {
                let dst = network(prefix.addr, prefix.len);
                let found = routes.iter().find(|route| (route.dst, route.len) == (dst, prefix.len)).unwrap();
                prop_assert_eq!(found.kind, RouteKind::Throw);
            }
        }
    }
}
