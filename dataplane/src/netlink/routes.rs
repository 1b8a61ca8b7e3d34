//! What the kernel's main table says to whoever forwards by some of its interfaces.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType, RouteVia,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route of the main table out of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) network: IpAddr,
    pub(crate) len: u8,
    /// Next router, of whichever family; `None` = on the link.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) metric: u32,
}

/// What the main table says of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Packets leave by the interface with this index.
    Out(u32, Route),
    /// Packets are refused: `unreachable`, `prohibit` and `blackhole` of ip-route(8).
    Refused { network: IpAddr, len: u8, metric: u32 },
}

/// Where packets go.
struct NextHop {
    /// Index of the interface.
    index: u32,
    /// Next router; `None` = on the link.
    gateway: Option<IpAddr>,
}

/// What a route says to whoever forwards by the interfaces `ours`, given by their indexes. Nothing if it leaves by
/// another one, or is a matter of the host alone.
pub(super) fn parse(message: &RouteMessage, ours: &[u32]) -> Option<Entry> {
    let header = &message.header;
    let mut network = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut metric = 0;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            network = address_of(address)?;
        } else if let RouteAttribute::Priority(value) = attribute {
            metric = *value;
        }
    }
    if header.table != RouteHeader::RT_TABLE_MAIN || is_nobodys(network) {
        return None;
    }
    let len = header.destination_prefix_length;
    match header.kind {
        RouteType::Unicast => {
            let NextHop { index, gateway } = next_hop(message, ours)?;
            Some(Entry::Out(index, Route { network, len, gateway, metric }))
        }
        // One for some sources, or for one kind of service, must not refuse the packets of all.
        RouteType::Unreachable | RouteType::Prohibit | RouteType::BlackHole
            if header.source_prefix_length == 0 && header.tos == 0 =>
        {
            Some(Entry::Refused { network, len, metric })
        }
        _ => None,
    }
}

/// Whether no packet that is forwarded is for this network: link-local and multicast, which nobody has behind a router,
/// and IPv4-mapped addresses of IPv6 (some hosts refuse `::ffff:0:0/96`), which are not the addresses of IPv4.
fn is_nobodys(network: IpAddr) -> bool {
    let IpAddr::V6(v6) = network else { return false };
    v6.is_unicast_link_local() || v6.is_multicast() || v6.to_ipv4_mapped().is_some()
}

/// Where the packets of a route go, if that is behind one of our interfaces. Of several next hops that is the first of
/// the kernel's list that is ours and not dead; one without a carrier only where none has one.
fn next_hop(message: &RouteMessage, ours: &[u32]) -> Option<NextHop> {
    let several = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(hops) = several else {
        let index = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })?;
        return leaving(index, &message.attributes, ours);
    };
    let live = hops.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
    let usable = live.filter_map(|hop| {
        let is_down = hop.flags.contains(RouteNextHopFlags::Linkdown);
        Some((is_down, leaving(hop.interface_index, &hop.attributes, ours)?))
    });
    // Of equals this is the first.
    usable.min_by_key(|(is_down, _)| *is_down).map(|(_, hop)| hop)
}

/// The next hop that attributes name, if it is behind one of our interfaces. A router that has no IP address is none.
fn leaving(index: u32, attributes: &[RouteAttribute], ours: &[u32]) -> Option<NextHop> {
    let mut gateway = None;
    for attribute in attributes {
        if let RouteAttribute::Gateway(address) = attribute {
            gateway = Some(address_of(address)?);
        } else if let RouteAttribute::Via(router) = attribute {
            gateway = Some(router_of(router)?);
        }
    }
    ours.contains(&index).then_some(NextHop { index, gateway })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// A router of the other family than the route's (RTA_VIA).
fn router_of(router: &RouteVia) -> Option<IpAddr> {
    match router {
        RouteVia::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteVia::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::route::RouteNextHop;

    /// Indexes of our two interfaces, and of one that is not ours.
    const OURS: [u32; 2] = [3, 4];
    const OTHER: u32 = 9;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A route to `network`, as in `10.0.0.0/8`.
    fn message(kind: RouteType, network: &str, attributes: &[RouteAttribute]) -> RouteMessage {
        let (address, len) = network.split_once('/').unwrap();
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family =
            if ip(address).is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        (header.table, header.kind) = (RouteHeader::RT_TABLE_MAIN, kind);
        header.destination_prefix_length = len.parse().unwrap();
        // The kernel does not name the destination of a default route.
        if header.destination_prefix_length > 0 {
            message.attributes.push(RouteAttribute::Destination(ip(address).into()));
        }
        message.attributes.extend_from_slice(attributes);
        message
    }

    fn hop(index: u32, flags: RouteNextHopFlags, attributes: &[RouteAttribute]) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        (hop.interface_index, hop.flags) = (index, flags);
        hop.attributes.extend_from_slice(attributes);
        hop
    }

    fn gateway(text: &str) -> RouteAttribute {
        RouteAttribute::Gateway(ip(text).into())
    }

    fn via(text: &str) -> RouteAttribute {
        RouteAttribute::Via(ip(text).into())
    }

    fn out(index: u32, network: &str, gateway: Option<&str>, metric: u32) -> Option<Entry> {
        let (address, len) = network.split_once('/').unwrap();
        let (network, len) = (ip(address), len.parse().unwrap());
        Some(Entry::Out(index, Route { network, len, gateway: gateway.map(ip), metric }))
    }

    /// R0.2: one next hop, by an interface of ours: a router of the same family, one of the other family, or none. What
    /// leaves by another interface, or stands in another table, is not ours.
    #[test]
    fn r0_2_a_plain_route_leads_where_it_says() {
        let unicast = |network: &str, attributes: &[RouteAttribute]| {
            parse(&message(RouteType::Unicast, network, attributes), &OURS)
        };
        let by = RouteAttribute::Oif;
        let plain = unicast("10.0.0.0/8", &[gateway("192.0.2.1"), by(4), RouteAttribute::Priority(7)]);
        assert_eq!(plain, out(4, "10.0.0.0/8", Some("192.0.2.1"), 7));
        assert_eq!(unicast("192.0.2.0/24", &[by(3)]), out(3, "192.0.2.0/24", None, 0));
        assert_eq!(unicast("::/0", &[gateway("fe80::1"), by(4)]), out(4, "::/0", Some("fe80::1"), 0));
        let mixed = unicast("10.0.0.0/8", &[via("fe80::1"), by(4)]);
        assert_eq!(mixed, out(4, "10.0.0.0/8", Some("fe80::1"), 0), "not on the link");
        let by_no_address = [RouteAttribute::Via(RouteVia::Packet(vec![2; 6])), by(4)];
        assert_eq!(unicast("10.0.0.0/8", &by_no_address), None, "nor is this");
        assert_eq!(unicast("10.0.0.0/8", &[gateway("192.0.2.1"), by(OTHER)]), None);
        assert_eq!(unicast("10.0.0.0/8", &[gateway("192.0.2.1")]), None);
        assert_eq!(unicast("fe80::/64", &[by(4)]), None);
        let mut of_another_table = message(RouteType::Unicast, "10.0.0.0/8", &[by(4)]);
        of_another_table.header.table = 101;
        assert_eq!(parse(&of_another_table, &OURS), None);
    }

    /// R0.2: of several next hops the first of the kernel's list counts that is ours and not dead; one without a
    /// carrier only where none has one.
    #[test]
    fn r0_2_of_several_next_hops_the_first_of_ours_counts() {
        let (up, down, dead) =
            (RouteNextHopFlags::empty(), RouteNextHopFlags::Linkdown, RouteNextHopFlags::Dead);
        let parsed = |hops: &[RouteNextHop]| {
            let attributes = [RouteAttribute::MultiPath(hops.to_vec()), RouteAttribute::Priority(7)];
            parse(&message(RouteType::Unicast, "0.0.0.0/0", &attributes), &OURS)
        };
        let to = |index, router| out(index, "0.0.0.0/0", Some(router), 7);
        let other = hop(OTHER, up, &[gateway("198.51.100.1")]);
        let first = |flags| hop(4, flags, &[gateway("192.0.2.1")]);
        let second = |flags| hop(3, flags, &[via("fe80::1")]);
        assert_eq!(parsed(&[other.clone(), first(up), second(up)]), to(4, "192.0.2.1"));
        assert_eq!(parsed(&[other.clone(), second(up), first(up)]), to(3, "fe80::1"));
        assert_eq!(parsed(&[first(down), second(up)]), to(3, "fe80::1"), "one has a carrier");
        assert_eq!(parsed(&[first(down), second(down)]), to(4, "192.0.2.1"), "none has");
        assert_eq!(parsed(&[first(dead | down), second(down)]), to(3, "fe80::1"));
        assert_eq!(parsed(&[first(dead), other.clone()]), None, "the kernel uses the other one alone");
        assert_eq!(parsed(&[other]), None);
        assert_eq!(parsed(&[]), None);
        let on_link = hop(3, up, &[]);
        assert_eq!(parsed(&[on_link]), out(3, "0.0.0.0/0", None, 7));

        let hops = [hop(3, up, &[gateway("fe80::7")]), hop(4, up, &[gateway("fe80::8")])];
        let six = message(RouteType::Unicast, "::/0", &[RouteAttribute::MultiPath(hops.to_vec())]);
        assert_eq!(parse(&six, &OURS), out(3, "::/0", Some("fe80::7"), 0));
        assert_eq!(parse(&six, &[4]), out(4, "::/0", Some("fe80::8"), 0), "as who has the second alone");
    }

    /// R0.2: what refuses does so on whichever interface, or on none, with its metric; `throw` refuses nothing, nor
    /// does what is for some packets alone.
    #[test]
    fn r0_2_routes_that_refuse_are_of_no_interface() {
        let refused = |network: &str, metric| {
            let (address, len) = network.split_once('/').unwrap();
            Some(Entry::Refused { network: ip(address), len: len.parse().unwrap(), metric })
        };
        for kind in [RouteType::Unreachable, RouteType::Prohibit, RouteType::BlackHole] {
            let plain = message(kind, "10.0.0.0/8", &[RouteAttribute::Priority(7)]);
            assert_eq!(parse(&plain, &OURS), refused("10.0.0.0/8", 7));
            // As IPv6 shows it: on the loopback interface.
            let on_lo = message(kind, "::/0", &[RouteAttribute::Oif(1), RouteAttribute::Priority(u32::MAX)]);
            assert_eq!(parse(&on_lo, &OURS), refused("::/0", u32::MAX));
            let (mut some_sources, mut some_service) = (on_lo, plain.clone());
            some_sources.header.source_prefix_length = 48;
            some_service.header.tos = 0x10;
            let mut of_another_table = plain;
            of_another_table.header.table = 101;
            for other in [some_sources, some_service, of_another_table] {
                assert_eq!(parse(&other, &OURS), None);
            }
            // As some hosts have it from the start: no word about IPv4.
            assert_eq!(parse(&message(kind, "::ffff:0:0/96", &[]), &OURS), None);
        }
        for kind in [RouteType::Throw, RouteType::Local, RouteType::Multicast] {
            assert_eq!(parse(&message(kind, "10.0.0.0/8", &[RouteAttribute::Oif(3)]), &OURS), None);
        }
    }
}
