//! The LAN as workers see it: an immutable view of routes and neighbours, replaced as a whole when it changes.

use crate::frame::{Address, Mac};
use crate::spread::Spread;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

/// Where the packets of a route go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// To their destination, which is on the link.
    OnLink,
    /// To this router, of whichever family.
    Router(Address),
    /// Nowhere, though a shorter prefix may lead there.
    Nowhere,
}

/// A route out of the LAN port, or one that refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanRoute {
    /// Network address.
    pub network: Address,
    /// Network mask, over the IPv4-mapped address.
    pub mask: u128,
    /// Where its packets go.
    pub way: Way,
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
    /// A route from its parts, by a router or on the link. Lengths beyond those of the family count as whole addresses.
    #[must_use]
    pub fn new(network: IpAddr, len: u8, gateway: Option<IpAddr>) -> Self {
        let mapped_len =
            if network.is_ipv4() { 96 + u32::from(len.min(32)) } else { u32::from(len.min(128)) };
        let mask = if mapped_len == 0 { 0 } else { u128::MAX << (128 - mapped_len) };
        let network = Address(Address::from(network).0 & mask);
        let way = gateway.map_or(Way::OnLink, |router| Way::Router(router.into()));
        Self { network, mask, way, port: 0, metric: 0 }
    }

    /// One that refuses a network's packets: `unreachable`, `prohibit` and `blackhole` of ip-route(8).
    #[must_use]
    pub fn refusing(network: IpAddr, len: u8, metric: u32) -> Self {
        Self { way: Way::Nowhere, metric, ..Self::new(network, len, None) }
    }

    /// The same out of another interface, with a metric.
    #[must_use]
    pub const fn by(self, port: u8, metric: u32) -> Self {
        Self { port, metric, ..self }
    }
}

impl LanRoute {
    /// Whether it is one of IPv4: a default route of IPv6 must not take IPv4-mapped destinations.
    const fn is_v4(&self) -> bool {
        self.mask >> 32 == u128::MAX >> 32 && is_v4(self.network)
    }

    /// The router that it leads to.
    const fn router(&self) -> Option<Address> {
        match self.way {
            Way::Router(router) => Some(router),
            Way::OnLink | Way::Nowhere => None,
        }
    }

    /// Whether it stands before the routes to `network`, among those of its length.
    fn is_before(&self, network: Address) -> bool {
        #[cfg(test)]
        tests::LOOKS.set(tests::LOOKS.get() + 1);
        self.network < network
    }
}

/// The prefix of IPv4-mapped addresses (RFC 4291 section 2.5.5.2).
const fn is_v4(address: Address) -> bool {
    address.0 >> 32 == 0xffff
}

/// What a destination resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Send to this address.
    Known(Station),
    /// Somebody must resolve this neighbour first.
    Unresolved(Address),
    /// No route, or one that refuses.
    None,
}

/// The routes of one prefix length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Length {
    mask: u128,
    /// By network; of those to the same one the cheapest first.
    routes: Vec<LanRoute>,
}

impl Length {
    /// The routes that lead to `destination`, the best first.
    fn routes_to(&self, destination: Address) -> impl Iterator<Item = &LanRoute> {
        let network = Address(destination.0 & self.mask);
        let first = self.routes.partition_point(|route| route.is_before(network));
        let from = self.routes.get(first..).unwrap_or_default();
        from.iter().take_while(move |route| route.network == network)
    }

    /// All of these routes, which are of one family, by their lengths: the longest first.
    fn all(mut routes: Vec<LanRoute>) -> Vec<Self> {
        // By everything that they are: the same routes in another order are the same view. Of the same metric one that
        // leads somewhere comes before one that refuses.
        routes.sort_unstable_by_key(|route| {
            let refuses = route.way == Way::Nowhere;
            (Reverse(route.mask), route.network, route.metric, refuses, route.port, route.way)
        });
        let lengths = routes.chunk_by(|one, next| one.mask == next.mask);
        lengths.filter_map(|same| Some(Self { mask: same.first()?.mask, routes: same.to_vec() })).collect()
    }
}

/// Routes and neighbours of the LAN port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LanView {
    v4: Vec<Length>,
    v6: Vec<Length>,
    /// Next routers, each with every interface behind which it is; in order.
    routers: Vec<(Address, u8)>,
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
    pub fn of_ports(routes: Vec<LanRoute>, neighbours: Vec<HashMap<Address, Mac>>) -> Self {
        let mut routers: Vec<_> =
            routes.iter().filter_map(|route| Some((route.router()?, route.port))).collect();
        routers.sort_unstable();
        routers.dedup();
        let (v4, v6): (Vec<_>, Vec<_>) = routes.into_iter().partition(LanRoute::is_v4);
        let neighbours = neighbours.into_iter().map(|of| of.into_iter().collect()).collect();
        Self { v4: Length::all(v4), v6: Length::all(v6), routers, neighbours }
    }

    /// Everything goes to one station: the host at the other end.
    #[must_use]
    pub fn point_to_point(station: Mac) -> Self {
        let anywhere = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let routes = anywhere.map(|network| LanRoute::new(network, 0, Some(network)));
        let neighbours = anywhere.map(|network| (Address::from(network), station));
        Self::new(routes.into(), neighbours.into())
    }

    /// Where a packet for `destination` goes. A binary search for each prefix length that there is, from the longest: with
    /// thousands of dynamic routes a client that scans the LAN must not cost a walk over them with each packet.
    #[must_use]
    pub fn next_hop(&self, destination: Address) -> NextHop {
        let mut lengths = self.lengths_of(destination).iter();
        let Some(route) = lengths.find_map(|length| length.routes_to(destination).next()) else {
            return NextHop::None;
        };
        let hop = match route.way {
            Way::OnLink => destination,
            Way::Router(router) => router,
            Way::Nowhere => return NextHop::None,
        };
        let known = self.neighbours.get(usize::from(route.port)).and_then(|of| of.get(&hop));
        known.map_or(NextHop::Unresolved(hop), |mac| NextHop::Known(Station { mac: *mac, port: route.port }))
    }

    /// The interfaces behind which a next hop that was not resolved may be.
    pub fn ports_of(&self, hop: Address) -> impl Iterator<Item = u8> {
        let leading = self.lengths_of(hop).iter().flat_map(move |length| length.routes_to(hop));
        let direct = leading.filter(|route| route.way == Way::OnLink).take(1).map(|route| route.port);
        let first = self.routers.partition_point(|(router, _)| *router < hop);
        let from = self.routers.get(first..).unwrap_or_default();
        direct.chain(from.iter().take_while(move |(router, _)| *router == hop).map(|(_, port)| *port))
    }

    /// The prefix lengths to search for an address, the longest first.
    fn lengths_of(&self, address: Address) -> &[Length] {
        if is_v4(address) { &self.v4 } else { &self.v6 }
    }

    /// The neighbours that are known.
    pub fn neighbours(&self) -> impl Iterator<Item = (&Address, &Mac)> {
        self.neighbours.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    thread_local! {
        /// Routes that searches of this thread looked at.
        pub(super) static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    /// R0.5: what a lookup costs does not grow with the number of routes.
    #[test]
    fn r0_5_a_lookup_does_not_walk_over_all_routes() {
        let host = |n: u32| Address::v4((0x0a00_0000 + n).to_be_bytes());
        let route = |n: u32| LanRoute::new(host(n << 8).ip(), 24, Some(host(9).ip()));
        let hosts = (0..20_000).map(|n| LanRoute::new(host(n << 9).ip(), 32, None));
        let view = LanView::new((0..20_000).map(route).chain(hosts).collect(), HashMap::new());
        for n in (0..20_000_u32).step_by(7) {
            LOOKS.set(0);
            assert_eq!(view.next_hop(host((n << 8) + 7)), NextHop::Unresolved(host(9)));
            assert_eq!(view.next_hop(Address::v4([192, 168, 0, 1])), NextHop::None);
            assert!(view.ports_of(host(9)).eq([0]), "its interface, once");
            assert!(LOOKS.get() <= 6 * 16, "{} routes looked at", LOOKS.get());
        }
    }

    /// The way that the plain search finds: the longest prefix, then the cheapest route, one that refuses last.
    fn plain(routes: &[LanRoute], destination: Address) -> NextHop {
        let leads = |route: &&LanRoute| {
            destination.0 & route.mask == route.network.0 && route.is_v4() == is_v4(destination)
        };
        let leading = routes.iter().filter(leads);
        let best = leading.min_by_key(|route| {
            (Reverse(route.mask), route.metric, route.way == Way::Nowhere, route.port, route.way)
        });
        best.map_or(NextHop::None, |route| match route.way {
            Way::OnLink => NextHop::Unresolved(destination),
            Way::Router(router) => NextHop::Unresolved(router),
            Way::Nowhere => NextHop::None,
        })
    }

    /// Addresses of both families of which many share a prefix.
    fn address() -> impl Strategy<Value = Address> {
        let v4 = (0..4_u8, 0..4_u8, any::<u8>()).prop_map(|(a, b, c)| Address::v4([10, a << 6, b << 6, c]));
        let v6 = (0..4_u8, any::<u8>()).prop_map(|(a, b)| {
            let mut octets = [0; 16];
            (octets[0], octets[7], octets[15]) = (0x20, a, b);
            Address::v6(octets)
        });
        prop_oneof![v4, v6]
    }

    fn route() -> impl Strategy<Value = LanRoute> {
        let len = prop_oneof![Just(0), Just(8), Just(16), Just(24), Just(32), Just(64), 0..=128_u8];
        let gateway = prop::option::of(address());
        let leading = (gateway, 0..3_u8).prop_map(Some);
        // One in five refuses.
        let way = prop_oneof![4 => leading, 1 => Just(None)];
        (address(), len, way, 0..3_u32).prop_map(|(network, len, way, metric)| match way {
            Some((gateway, port)) => {
                LanRoute::new(network.ip(), len, gateway.map(Address::ip)).by(port, metric)
            }
            None => LanRoute::refusing(network.ip(), len, metric),
        })
    }

    proptest! {
        /// R0.2: a lookup finds what the plain search over all routes finds, and the order in which the kernel lists its
        /// routes makes no other view.
        #[test]
        fn r0_2_the_best_route_is_found_in_any_order(
            routes in prop::collection::vec(route(), 0..40),
            asked in prop::collection::vec(address(), 20),
        ) {
            let view = LanView::new(routes.clone(), HashMap::new());
            for destination in asked {
                prop_assert_eq!(view.next_hop(destination), plain(&routes, destination));
                let behind = view.ports_of(destination).collect::<Vec<_>>();
                for route in routes.iter().filter(|route| route.way == Way::Router(destination)) {
                    prop_assert!(behind.contains(&route.port));
                }
            }
            prop_assert_eq!(view, LanView::new(routes.into_iter().rev().collect(), HashMap::new()));
        }
    }

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

    /// R0.2: what is refused goes nowhere, whatever shorter prefix leads there. A longer prefix does lead there, and so
    /// does a cheaper route to the same network, as the kernel has it.
    #[test]
    fn r0_2_what_is_refused_goes_nowhere() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let address = |text: &str| Address::from(ip(text));
        let leading =
            |network, len, gateway, metric| LanRoute::new(ip(network), len, Some(ip(gateway))).by(1, metric);
        let refusing = |network, len, metric| LanRoute::refusing(ip(network), len, metric);
        let router = "192.168.50.254";
        let view = LanView::of_ports(
            vec![
                leading("0.0.0.0", 0, router, 100),
                refusing("10.0.0.0", 8, 0),
                leading("10.1.0.0", 16, router, 900),
                leading("10.1.2.0", 24, router, 10),
                refusing("10.1.2.0", 24, 20),
                leading("10.1.3.0", 24, router, 20),
                refusing("10.1.3.0", 24, 10),
                leading("10.1.4.0", 24, router, 7),
                refusing("10.1.4.0", 24, 7),
                leading("::", 0, "fe80::1", 1_024),
                // As some kernels have it from the start.
                refusing("::", 0, u32::MAX),
                refusing("2001:db8:7::", 48, 1_024),
            ],
            vec![HashMap::new(), HashMap::new()],
        );
        let next_hop = |destination| view.next_hop(address(destination));
        let by_router = NextHop::Unresolved(address(router));
        for destination in ["8.8.8.8", "10.1.9.9", "10.1.2.9", "10.1.4.9"] {
            assert_eq!(next_hop(destination), by_router, "{destination}");
        }
        for destination in ["10.9.9.9", "10.1.3.9", "2001:db8:7::9"] {
            assert_eq!(next_hop(destination), NextHop::None, "{destination}");
        }
        assert_eq!(next_hop("2001:db8:8::9"), NextHop::Unresolved(address("fe80::1")));
        assert_eq!(view.ports_of(address("10.9.9.9")).count(), 0);
        assert!(view.ports_of(address(router)).eq([1]));
        assert!(view.ports_of(address("fe80::1")).eq([1]));
    }

    /// R0.2: a router of IPv6 takes packets of IPv4, and is asked for where it is missed.
    #[test]
    fn r0_2_a_router_of_the_other_family_takes_the_packets() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let address = |text: &str| Address::from(ip(text));
        let route = LanRoute::new(ip("10.0.0.0"), 8, Some(ip("fe80::1"))).by(1, 0);
        let view = LanView::of_ports(vec![route], Vec::new());
        assert_eq!(view.next_hop(address("10.1.2.3")), NextHop::Unresolved(address("fe80::1")));
        assert!(view.ports_of(address("fe80::1")).eq([1]));
        let known = HashMap::from([(address("fe80::1"), Mac([7; 6]))]);
        let view = LanView::of_ports(vec![route], vec![HashMap::new(), known]);
        assert_eq!(view.next_hop(address("10.1.2.3")), at([7; 6], 1));
        assert_eq!(view.next_hop(address("2001:db8::1")), NextHop::None);
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
