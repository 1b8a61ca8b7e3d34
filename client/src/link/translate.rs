//! Between the kernel's messages and [`super::model`]'s values.
//!
//! The kernel's lists of attributes are open: what is not known here is passed over, not an error.
#![allow(clippy::wildcard_enum_match_arm, reason = "new kernels send new attributes")]

use super::model::{Address, DefaultRoute, Device, Family, Route, RouteKind, Rule};
use super::{MAIN, PROTOCOL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use std::net::IpAddr;

/// What IPv6 takes as the metric of a route where none is given (`IP6_RT_PRIO_USER` of linux/ipv6_route.h); IPv4: 0.
const IPV6_METRIC: u32 = 1_024;

pub(super) const fn family(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn device(link: &LinkMessage) -> Option<(String, Device)> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let flags = link.header.flags;
    let admin_up = flags.contains(LinkFlags::Up);
    Some((name, Device { index: link.header.index, admin_up, carrier: flags.contains(LinkFlags::LowerUp) }))
}

pub(super) fn address_of(message: &AddressMessage) -> Option<Address> {
    // On point-to-point links Local is the own address and Address the peer's.
    let mut addr = None;
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed;
    for attribute in &message.attributes {
        match attribute {
            // Not yet, or never, ours alone on the link (RFC 4862 §5.4).
            AddressAttribute::Flags(flags) if flags.intersects(unusable) => return None,
            AddressAttribute::Local(local) => addr = Some(*local),
            AddressAttribute::Address(address) => addr = addr.or(Some(*address)),
            _ => {}
        }
    }
    Some(Address { device: message.header.index, addr: addr?, len: message.header.prefix_len })
}

pub(super) fn address_message(address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr);
    message.header.prefix_len = address.len;
    message.header.scope = AddressScope::Universe;
    message.header.index = address.device;
    message.attributes.push(AddressAttribute::Local(address.addr));
    message.attributes.push(AddressAttribute::Address(address.addr));
    if address.addr.is_ipv6() {
        // Nobody else is on the tunnel's link; an address that is still being asked for cannot be sent from.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

pub(super) fn default_route(message: &RouteMessage) -> Option<DefaultRoute> {
    if message.header.destination_prefix_length != 0 || u8::from(message.header.protocol) == PROTOCOL {
        return None;
    }
    let route = route_of(message)?;
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    (route.table == MAIN && message.header.kind == RouteType::Unicast).then_some(DefaultRoute {
        device: route.device,
        family: Family::of(route.dst),
        via: route.via,
        metric: metric.unwrap_or(0),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

pub(super) fn route_of(message: &RouteMessage) -> Option<Route> {
    let kind = match message.header.kind {
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Unicast,
    };
    let mut route = Route {
        table: u32::from(message.header.table),
        kind,
        dst: unspecified(message.header.address_family)?,
        len: message.header.destination_prefix_length,
        metric: 0,
        device: 0,
        via: None,
        source: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(dst) => route.dst = ip(dst)?,
            RouteAttribute::Gateway(via) => route.via = ip(via),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Oif(device) => route.device = *device,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    if route.dst.is_ipv6() && route.metric == IPV6_METRIC {
        route.metric = 0;
    }
    if kind != RouteKind::Unicast {
        // IPv6 lists the loopback device with these.
        route.device = 0;
        return Some(route);
    }
    (route.device != 0).then_some(route)
}

pub(super) fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.dst);
    message.header.destination_prefix_length = route.len;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Throw => RouteType::Throw,
    };
    let is_direct = route.via.is_none() && route.device != 0;
    message.header.scope = if is_direct { RouteScope::Link } else { RouteScope::Universe };
    message.attributes.push(RouteAttribute::Table(route.table));
    if route.len > 0 {
        message.attributes.push(RouteAttribute::Destination(route.dst.into()));
    }
    if route.device != 0 {
        message.attributes.push(RouteAttribute::Oif(route.device));
    }
    // Named also where it goes without saying: of two routes to one place the kernel removes the one that is meant.
    match (route.metric, route.dst) {
        (0, IpAddr::V4(_)) => {}
        (0, IpAddr::V6(_)) => message.attributes.push(RouteAttribute::Priority(IPV6_METRIC)),
        (metric, _) => message.attributes.push(RouteAttribute::Priority(metric)),
    }
    if let Some(via) = route.via {
        // The configuration names the next hop; it need not lie in a prefix of the device.
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

pub(super) fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        priority: 0,
        to: unspecified(message.header.family)?,
        to_len: message.header.dst_len,
        device: None,
        from: None,
        table: u32::from(message.header.table),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Destination(to) => rule.to = *to,
            RuleAttribute::Source(from) => rule.from = Some(*from),
            RuleAttribute::Oifname(device) => rule.device = Some(device.clone()),
            RuleAttribute::Table(table) => rule.table = *table,
            _ => {}
        }
    }
    Some(rule)
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(IpAddr::from([0u8; 4])),
        AddressFamily::Inet6 => Some(IpAddr::from([0u16; 8])),
        _ => None,
    }
}

pub(super) fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.to);
    message.header.action = RuleAction::ToTable;
    message.header.dst_len = rule.to_len;
    if rule.to_len > 0 {
        message.attributes.push(RuleAttribute::Destination(rule.to));
    }
    if let Some(from) = rule.from {
        message.header.src_len = super::model::host_len(from);
        message.attributes.push(RuleAttribute::Source(from));
    }
    message.attributes.extend(rule.device.clone().map(RuleAttribute::Oifname));
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was made is found again as it was wanted, or it would be made anew with every look at the host.
    #[test]
    fn routes_are_found_as_they_were_made() {
        for (kind, metric, device) in [
            (RouteKind::Unicast, 0, 5),
            (RouteKind::Unicast, 70, 5),
            (RouteKind::Throw, 0, 0),
            (RouteKind::Unreachable, u32::MAX, 0),
        ] {
            for dst in ["10.0.0.0", "fd00::"] {
                let (dst, source) = (dst.parse().unwrap(), (device != 0).then(|| dst.parse().unwrap()));
                let route = Route { table: 19_008, kind, dst, len: 8, metric, device, via: None, source };
                assert_eq!(route_of(&route_message(&route)), Some(route));
            }
        }
    }
}
