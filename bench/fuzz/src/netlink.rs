//! Target `netlink`: what the kernel tells of links, addresses, routes, neighbours and rules. The kernel is trusted, but it
//! is newer than we are, and speaks of devices that we have never seen.

use netlink_packet_core::{DoneMessage, ErrorMessage, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Index of the device that counts.
const INDEX: u32 = 2;

pub(crate) fn run(data: &[u8]) {
    let devices = ["up0".to_owned()];
    let _gateways = jvpn_dataplane::netlink::understand(data, INDEX);
    let _clients = jvpn_client::link::understand(data, &devices, &BTreeSet::from([INDEX]));
}

fn datagram(payloads: Vec<NetlinkPayload<RouteNetlinkMessage>>) -> Vec<u8> {
    let mut out = Vec::new();
    for payload in payloads {
        let mut header = NetlinkHeader::default();
        header.sequence_number = 1;
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut octets = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut octets);
        out.extend(octets);
    }
    out
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let address = Ipv4Addr::new(10, 0, 0, 2);
    let mut link = LinkMessage::default();
    link.header.index = INDEX;
    link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    link.attributes = vec![
        LinkAttribute::IfName("up0".into()),
        LinkAttribute::Address(vec![2; 6]),
        LinkAttribute::Mtu(1_500),
    ];
    let mut own = AddressMessage::default();
    (own.header.family, own.header.index, own.header.prefix_len) = (AddressFamily::Inet, INDEX, 24);
    own.attributes = vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    let mut route = RouteMessage::default();
    (route.header.address_family, route.header.table, route.header.kind) =
        (AddressFamily::Inet, 254, RouteType::Unicast);
    route.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet(address)),
        RouteAttribute::Oif(INDEX),
        RouteAttribute::Priority(100),
        RouteAttribute::Table(254),
    ];
    let mut neighbour = NeighbourMessage::default();
    (neighbour.header.family, neighbour.header.ifindex) = (AddressFamily::Inet, INDEX);
    neighbour.header.state = NeighbourState::Reachable;
    neighbour.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(vec![2; 6]),
    ];
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet;
    rule.attributes = vec![
        RuleAttribute::Priority(100),
        RuleAttribute::Destination(address.into()),
        RuleAttribute::Oifname("up0".into()),
        RuleAttribute::Table(19_000),
    ];
    let inner = [
        RouteNetlinkMessage::NewLink(link.clone()),
        RouteNetlinkMessage::DelLink(link),
        RouteNetlinkMessage::NewAddress(own),
        RouteNetlinkMessage::NewRoute(route.clone()),
        RouteNetlinkMessage::DelRoute(route),
        RouteNetlinkMessage::NewNeighbour(neighbour),
        RouteNetlinkMessage::NewRule(rule),
    ]
    .map(NetlinkPayload::InnerMessage);
    let mut seeds: Vec<Vec<u8>> = inner.iter().map(|payload| datagram(vec![payload.clone()])).collect();
    let done = NetlinkPayload::Done(DoneMessage::default());
    seeds.push(datagram(inner.into_iter().chain([done]).collect()));
    seeds.push(datagram(vec![NetlinkPayload::Error(ErrorMessage::default())]));
    seeds
}
