//! What the host's network looks like and what the agent wants it to look like: plain values, compared and diffed.

use crate::paths::LinkState;
use jvpn_session::messages::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Kernel index.
    pub index: u32,
    /// Administrative state.
    pub admin_up: bool,
    /// Whether the link below is up.
    pub carrier: bool,
}

/// An address on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Kernel index of the device.
    pub device: u32,
    /// The address.
    pub addr: IpAddr,
    /// Prefix length in bits.
    pub len: u8,
}

/// A default route that somebody else made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Kernel index of the device.
    pub device: u32,
    /// Whose destinations it leads.
    pub family: Family,
    /// The next hop; `None` on point-to-point links.
    pub via: Option<IpAddr>,
    /// Smaller is preferred.
    pub metric: u32,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By name.
    pub devices: BTreeMap<String, Device>,
    /// All addresses.
    pub addresses: Vec<Address>,
    /// Default routes of the main table.
    pub defaults: Vec<DefaultRoute>,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Refuses it; the sender is told.
    Unreachable,
    /// Leaves it to the tables behind.
    Throw,
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Destination address; host bits are zero.
    pub dst: IpAddr,
    /// Prefix length in bits.
    pub len: u8,
    /// Smaller is preferred; 0: what the kernel takes where none is given.
    pub metric: u32,
    /// Kernel index of the device; 0 if the route leads nowhere.
    pub device: u32,
    /// The next hop, taken to be on the link.
    pub via: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// A rule of ours: to these addresses, from this device or this address, look into this table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Rules are tried by rising priority.
    pub priority: u32,
    /// The gateway, or all addresses of a family.
    pub to: IpAddr,
    /// Prefix length of `to` in bits.
    pub to_len: u8,
    /// Packets of sockets that are bound to this device …
    pub device: Option<String>,
    /// … or that leave from this address (strict reverse-path filters ask this way).
    pub from: Option<IpAddr>,
    /// Routing table.
    pub table: u32,
}

/// Routes and rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Routes.
    pub routes: BTreeSet<Route>,
    /// Rules.
    pub rules: BTreeSet<Rule>,
}

/// An uplink as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkRouting {
    /// Network device.
    pub device: String,
    /// Next hop towards the gateway, for paths of its family; `None`: the device's default route in the main table says
    /// it.
    pub gateway: Option<IpAddr>,
    /// Paths of this family only; `None`: of whichever works.
    pub family: Option<Family>,
    /// Routing table of this uplink.
    pub table: u32,
    /// Priority of its rules.
    pub rule_priority: u32,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The network part of a prefix.
#[must_use]
pub fn network(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::from((v4.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::from((v6.to_bits() & mask).to_be_bytes())
        }
    }
}

/// The state of one uplink towards the gateway's addresses, of which the first that can be reached counts, and the routes
/// and rules that take datagrams for each of them out through it.
#[must_use]
pub fn towards(snapshot: &Snapshot, uplink: &UplinkRouting, peers: &[IpAddr]) -> (LinkState, Wanted) {
    let mut best = None;
    let mut wanted = Wanted::default();
    let spoken = |peer: &&IpAddr| uplink.family.is_none_or(|family| family == Family::of(**peer));
    for peer in peers.iter().filter(spoken) {
        let (state, own) = self::uplink(snapshot, uplink, *peer);
        wanted.routes.extend(own.routes);
        wanted.rules.extend(own.rules);
        if best.is_none_or(|best: LinkState| !best.is_usable() && state.is_usable()) {
            best = Some(state);
        }
    }
    let nowhere =
        if snapshot.devices.contains_key(&uplink.device) { LinkState::NoRoute } else { LinkState::Missing };
    (best.unwrap_or(nowhere), wanted)
}

/// Link-local addresses reach a neighbour only (RFC 4291 §2.5.6).
pub(super) const fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// No address in particular, of the family of `like`.
#[must_use]
pub const fn anywhere(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The state of one uplink, and the routes and rules that take datagrams for `peer` out through it.
#[must_use]
pub fn uplink(snapshot: &Snapshot, uplink: &UplinkRouting, peer: IpAddr) -> (LinkState, Wanted) {
    let mut wanted = Wanted::default();
    let Some(device) = snapshot.devices.get(&uplink.device) else { return (LinkState::Missing, wanted) };
    let addresses: Vec<Address> = snapshot
        .addresses
        .iter()
        .filter(|a| a.device == device.index && Family::of(a.addr) == Family::of(peer))
        .filter(|a| !is_link_local(a.addr) || is_link_local(peer))
        .copied()
        .collect();
    let Some(first) = addresses.first() else {
        let state = if device.admin_up { LinkState::NoAddress } else { LinkState::Down };
        return (state, wanted);
    };
    let rule = |device: Option<String>, from: Option<IpAddr>| Rule {
        priority: uplink.rule_priority,
        to: peer,
        to_len: host_len(peer),
        device,
        from,
        table: uplink.table,
    };
    wanted.rules.insert(rule(Some(uplink.device.clone()), None));
    wanted.rules.extend(addresses.iter().map(|a| rule(None, Some(a.addr))));

    let on_link = addresses.iter().find(|a| Prefix { addr: a.addr, len: a.len }.contains(peer));
    let of_family = |d: &&DefaultRoute| d.device == device.index && d.family == Family::of(peer);
    let found = snapshot.defaults.iter().filter(of_family).min_by_key(|d| d.metric);
    let next_hop = uplink.gateway.filter(|gateway| Family::of(*gateway) == Family::of(peer));
    let via = match (next_hop, on_link, found) {
        (Some(gateway), _, _) => Some(gateway),
        (None, Some(_), _) => None,
        (None, None, Some(found)) => found.via,
        (None, None, None) => {
            let state = match (device.admin_up, device.carrier) {
                (false, _) => LinkState::Down,
                (true, false) => LinkState::NoCarrier,
                (true, true) => LinkState::NoRoute,
            };
            return (state, wanted);
        }
    };
    // The address that shares a prefix with the next hop is the one that answers come back to.
    let near = |a: &&Address| via.is_some_and(|via| Prefix { addr: a.addr, len: a.len }.contains(via));
    let source = addresses.iter().find(near).or(on_link).unwrap_or(first).addr;
    let everything = network(peer, 0);
    let route = |dst, len, via| Route {
        table: uplink.table,
        kind: RouteKind::Unicast,
        dst,
        len,
        metric: 0,
        device: device.index,
        via,
        source: Some(source),
    };
    if device.admin_up {
        for address in addresses.iter().filter(|a| a.len < host_len(a.addr)) {
            // A second address of the same network needs no second route, and the kernel refuses one.
            let dst = network(address.addr, address.len);
            let is_there =
                |route: &Route| route.via.is_none() && (route.dst, route.len) == (dst, address.len);
            if !wanted.routes.iter().any(is_there) {
                wanted.routes.insert(Route { source: Some(address.addr), ..route(dst, address.len, None) });
            }
        }
        wanted.routes.insert(route(everything, 0, via));
    }
    let state = match (device.admin_up, device.carrier) {
        (false, _) => LinkState::Down,
        (true, false) => LinkState::NoCarrier,
        (true, true) => LinkState::Usable { source },
    };
    (state, wanted)
}

/// What takes sockets that are bound to the uplink's device out through it, whatever the table of
/// [`super::traffic`] refuses. IPv4 alone: there a refusal counts also where another device was asked for; IPv6 passes
/// it over. Behind the rules that lead to the gateway, of which the kernel takes those for all addresses to be the same.
#[must_use]
pub fn bound(snapshot: &Snapshot, uplink: &UplinkRouting) -> Wanted {
    let (_, found) = towards(snapshot, uplink, &[IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
    let of_device = found.rules.into_iter().filter(|rule| rule.device.is_some());
    let priority = uplink.rule_priority.saturating_add(1);
    let rules = of_device.map(|rule| Rule { priority, to_len: 0, ..rule }).collect();
    Wanted { routes: found.routes, rules }
}

/// The networks that these devices are connected to.
#[must_use]
pub fn networks(snapshot: &Snapshot, devices: &BTreeSet<u32>) -> BTreeSet<(IpAddr, u8)> {
    let on_them = snapshot.addresses.iter().filter(|address| devices.contains(&address.device));
    on_them.map(|address| (network(address.addr, address.len), address.len)).collect()
}

/// Where the hosts of a private network are: RFC 1918, RFC 3927, RFC 4193, RFC 4291 §2.5.6. Not the carriers' 100.64.0.0/10
/// (RFC 6598): who lives there is the carrier's choice, not the user's.
const PRIVATE: [Prefix; 6] = [
    Prefix { addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), len: 8 },
    Prefix { addr: IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), len: 12 },
    Prefix { addr: IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), len: 16 },
    Prefix { addr: IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), len: 16 },
    Prefix { addr: IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), len: 7 },
    Prefix { addr: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), len: 10 },
];

/// Whether a network lies in private space as a whole, and may be exempt as the uplink's own.
///
/// Whoever answers the host's DHCP request says how large that is. Were all of it exempt, a network 0.0.0.0/1 would draw
/// half the Internet around the tunnel (TunnelCrack, LocalNet attack: CVE-2023-36672, CVE-2023-35838).
#[must_use]
pub fn is_private(addr: IpAddr, len: u8) -> bool {
    PRIVATE.iter().any(|private| len >= private.len && private.contains(addr))
}

/// Routes into the tunnel. A default route becomes its two halves, so that it wins over the host's own without
/// replacing it.
#[must_use]
pub fn tunnel_routes(table: u32, device: u32, addresses: &[Prefix], into: &[Prefix]) -> BTreeSet<Route> {
    let mut routes = BTreeSet::new();
    for prefix in into {
        let Some(own) = addresses.iter().find(|a| a.addr.is_ipv4() == prefix.addr.is_ipv4()) else {
            continue;
        };
        let mut add = |addr, len| {
            let dst = network(addr, len);
            let (kind, source) = (RouteKind::Unicast, Some(own.addr));
            routes.insert(Route { table, kind, dst, len, metric: 0, device, via: None, source });
        };
        match (prefix.len, prefix.addr) {
            (0, IpAddr::V4(_)) => {
                add(IpAddr::from([0, 0, 0, 0]), 1);
                add(IpAddr::from([128, 0, 0, 0]), 1);
            }
            (0, IpAddr::V6(_)) => {
                add(IpAddr::from([0u16; 8]), 1);
                add(IpAddr::from([0x8000, 0, 0, 0, 0, 0, 0, 0]), 1);
            }
            (len, addr) => add(addr, len),
        }
    }
    routes
}

/// Prefix length of a single address.
#[must_use]
pub const fn host_len(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn host() -> Snapshot {
        let device = |index| Device { index, admin_up: true, carrier: true };
        Snapshot {
            devices: [("upA".to_owned(), device(3)), ("upB".to_owned(), device(4))].into(),
            addresses: vec![
                Address { device: 3, addr: ip("10.0.1.2"), len: 24 },
                Address { device: 3, addr: ip("fe80::1"), len: 64 },
            ],
            defaults: vec![DefaultRoute {
                device: 3,
                family: Family::V4,
                via: Some(ip("10.0.1.9")),
                metric: 100,
            }],
        }
    }

    fn upa(gateway: Option<&str>) -> UplinkRouting {
        let gateway = gateway.map(ip);
        UplinkRouting { device: "upA".into(), gateway, family: None, table: 700, rule_priority: 70 }
    }

    /// The first address of the gateway that can be reached counts; an uplink that speaks one family only takes that.
    #[test]
    fn the_family_that_works_is_taken() {
        let peers = [ip("2001:db8::1"), ip("198.51.100.1")];
        let mut host = host();
        let source = |host: &Snapshot, uplink: &UplinkRouting| towards(host, uplink, &peers).0.source();
        assert_eq!(source(&host, &upa(None)), Some(ip("10.0.1.2")), "a link-local address leads nowhere");
        host.addresses.push(Address { device: 3, addr: ip("2001:db8:1::2"), len: 64 });
        assert_eq!(source(&host, &upa(None)), Some(ip("10.0.1.2")), "no route of the other family");
        let via = Some(ip("fe80::9"));
        host.defaults.push(DefaultRoute { device: 3, family: Family::V6, via, metric: 1_024 });
        assert_eq!(source(&host, &upa(None)), Some(ip("2001:db8:1::2")), "the preferred one");
        let only_v4 = UplinkRouting { family: Some(Family::V4), ..upa(None) };
        assert_eq!(source(&host, &only_v4), Some(ip("10.0.1.2")));
        let (_, wanted) = towards(&host, &upa(None), &peers);
        assert!(wanted.routes.iter().any(|route| route.via == via && route.len == 0));
        assert!(wanted.rules.iter().any(|rule| rule.to == peers[0]));
        assert!(wanted.rules.iter().any(|rule| rule.to == peers[1]), "both are ready for a change");
        host.addresses.retain(|address| address.addr.is_ipv6());
        assert_eq!(source(&host, &upa(None)), Some(ip("2001:db8:1::2")), "an uplink with IPv6 alone");
        assert_eq!(towards(&host, &only_v4, &peers).0, LinkState::NoAddress);
        assert_eq!(towards(&host, &upa(None), &[]).0, LinkState::NoRoute, "the gateway is not known yet");
    }

    /// Each obstacle has its name; an uplink with everything is usable and its table leads to the gateway.
    #[test]
    fn states_and_routes_of_an_uplink() {
        let peer = ip("198.51.100.1");
        let mut host = host();
        let (state, wanted) = uplink(&host, &upa(Some("10.0.1.1")), peer);
        assert_eq!(state, LinkState::Usable { source: ip("10.0.1.2") });
        let vias: Vec<_> = wanted.routes.iter().map(|r| (r.dst, r.len, r.via)).collect();
        assert_eq!(vias, [(ip("0.0.0.0"), 0, Some(ip("10.0.1.1"))), (ip("10.0.1.0"), 24, None)]);
        assert_eq!(wanted.rules.len(), 2);

        let (_, wanted) = uplink(&host, &upa(None), peer);
        assert!(wanted.routes.iter().any(|r| r.via == Some(ip("10.0.1.9"))), "found in the main table");

        host.defaults.clear();
        assert_eq!(uplink(&host, &upa(None), peer).0, LinkState::NoRoute);
        assert!(uplink(&host, &upa(None), ip("10.0.1.77")).0.is_usable(), "the gateway is a neighbour");
        for (admin_up, carrier, state) in
            [(true, false, LinkState::NoCarrier), (false, false, LinkState::Down)]
        {
            let index = 3;
            host.devices.insert("upA".into(), Device { index, admin_up, carrier });
            assert_eq!(uplink(&host, &upa(Some("10.0.1.1")), peer).0, state);
        }
        host.devices.insert("upA".into(), Device { index: 3, admin_up: true, carrier: true });
        host.addresses.clear();
        assert_eq!(uplink(&host, &upa(None), peer).0, LinkState::NoAddress);
        host.devices.clear();
        assert_eq!(uplink(&host, &upa(None), peer).0, LinkState::Missing);
    }

    /// R7.1: a socket that is bound to an uplink leaves by it, also where its device is refused otherwise.
    #[test]
    fn r7_1_bound_sockets_leave_by_their_uplink() {
        let Wanted { routes, rules } = bound(&host(), &upa(None));
        let vias: Vec<_> = routes.iter().map(|r| (r.dst, r.len, r.via)).collect();
        assert_eq!(vias, [(ip("0.0.0.0"), 0, Some(ip("10.0.1.9"))), (ip("10.0.1.0"), 24, None)]);
        let rules: Vec<_> =
            rules.iter().map(|r| (r.priority, r.to_len, r.device.as_deref(), r.table)).collect();
        assert_eq!(rules, [(71, 0, Some("upA"), 700)]);
        let only_v6 = UplinkRouting { family: Some(Family::V6), ..upa(None) };
        assert_eq!(bound(&host(), &only_v6), Wanted::default());
    }

    /// A second address of the same network is no obstacle: one connected route serves both.
    #[test]
    fn two_addresses_of_one_network() {
        let mut host = host();
        host.addresses.push(Address { device: 3, addr: ip("10.0.1.3"), len: 24 });
        let (state, wanted) = uplink(&host, &upa(Some("10.0.1.1")), ip("198.51.100.1"));
        assert!(state.is_usable());
        let connected = wanted.routes.iter().filter(|r| r.via.is_none()).count();
        assert_eq!(connected, 1, "{:?}", wanted.routes);
    }

    #[test]
    fn a_default_route_into_the_tunnel_is_split() {
        let own = [Prefix { addr: ip("10.77.0.2"), len: 32 }];
        let into =
            ["0.0.0.0/0".parse().unwrap(), "192.168.50.7/24".parse().unwrap(), "::/0".parse().unwrap()];
        let routes: Vec<_> =
            tunnel_routes(254, 9, &own, &into).iter().map(|r| format!("{}/{}", r.dst, r.len)).collect();
        assert_eq!(routes, ["0.0.0.0/1", "128.0.0.0/1", "192.168.50.0/24"], "no IPv6 without an address");
    }

    /// A network is private as a whole or not at all, whatever its address is.
    #[test]
    fn r7_1_private_networks() {
        for private in ["10.0.1.2/24", "10.0.0.0/8", "172.31.9.9/12", "192.168.0.1/16", "169.254.7.7/16"] {
            let prefix: Prefix = private.parse().unwrap();
            assert!(is_private(prefix.addr, prefix.len), "{private}");
        }
        for public in
            ["0.0.0.0/1", "128.0.0.0/1", "10.0.0.1/7", "172.16.0.1/11", "192.168.0.1/15", "0.0.0.0/0"]
        {
            let prefix: Prefix = public.parse().unwrap();
            assert!(!is_private(prefix.addr, prefix.len), "{public}");
        }
        for public in
            ["100.64.0.1/10", "172.32.0.1/16", "192.0.2.1/32", "127.0.0.1/8", "2001:db8::1/64", "fe80::1/9"]
        {
            let prefix: Prefix = public.parse().unwrap();
            assert!(!is_private(prefix.addr, prefix.len), "{public}");
        }
        for private in ["fd00::1/64", "fc00::/7", "fe80::1/64"] {
            let prefix: Prefix = private.parse().unwrap();
            assert!(is_private(prefix.addr, prefix.len), "{private}");
        }
    }

    #[test]
    fn network_part_of_a_prefix() {
        assert_eq!(network(ip("10.1.2.3"), 24), ip("10.1.2.0"));
        assert_eq!(network(ip("10.1.2.3"), 0), ip("0.0.0.0"));
        assert_eq!(network(ip("10.1.2.3"), 32), ip("10.1.2.3"));
        assert_eq!(network(ip("fd00::1"), 64), ip("fd00::"));
        assert_eq!(network(ip("fd00::1"), 0), ip("::"));
    }
}
