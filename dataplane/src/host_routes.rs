//! Prefixes of sites in the host's own routing table, where the LAN is the host: without them its stack does not know that
//! a site is behind the tunnel. They come and go with ROUTES.
//!
//! The pools have a route of their own from the start, so clients' own addresses need none. Routes made here carry a
//! protocol number of their own, by which the next process tells those that a dead one left; no other route is touched.

use crate::frame::{Address, GatewayAddresses};
use crate::netlink::Netlink;
use crate::pipeline::Pools;
use jvpn_tables::{Doorbell, InnerPrefix, Prefixes};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// rtm_protocol of our routes, which nobody else uses (iproute2's rt_protos): 'J'.
pub(crate) const PROTOCOL: u8 = 74;
/// Their metric: a route that the operator made for the same prefix goes first.
pub(crate) const METRIC: u32 = 1_024;
/// Between two looks at PREFIXES: in a storm of sessions one look stands for many changes.
const PACE: Duration = Duration::from_millis(20);

/// How the host reaches what is behind the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostWay {
    /// Index of the host's end.
    pub device: u32,
    /// Next hops that stand for our end; none on a TUN device.
    pub via: Option<GatewayAddresses>,
}

/// Keeps the host's routes to sites true.
#[derive(Debug)]
pub struct HostRoutes {
    prefixes: Arc<Prefixes>,
    pools: Pools,
    way: HostWay,
    netlink: Netlink,
    bell: Doorbell,
    there: BTreeSet<InnerPrefix>,
    /// Those that the kernel did not take, so that it is said once.
    refused: BTreeSet<InnerPrefix>,
    seen: u64,
}

impl HostRoutes {
    /// For the host's end of the LAN; `bell` rings when ROUTES may have changed. What an earlier process left stays until
    /// the control plane has said what is there now.
    ///
    /// # Errors
    /// If rtnetlink cannot be reached.
    pub fn new(prefixes: Arc<Prefixes>, pools: Pools, way: HostWay, bell: Doorbell) -> io::Result<Self> {
        let mut netlink = Netlink::new()?;
        let there = netlink.own_routes(way.device)?.into_iter().filter(|prefix| !is_pools(&pools, *prefix));
        let there = there.collect();
        Ok(Self { prefixes, pools, way, netlink, bell, there, refused: BTreeSet::new(), seen: 0 })
    }

    /// Runs until `stop`; rings wake it. The routes go with their device.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let mut fds = [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
            let _woken = poll(&mut fds, PollTimeout::NONE);
            let _rang = self.bell.silence();
            let generation = self.prefixes.generation();
            if generation != self.seen {
                self.seen = generation;
                self.follow();
                // Not for an event: so that the next look sees many changes, not one.
                std::thread::sleep(PACE);
            }
        }
    }

    /// Makes the host's routes what PREFIXES says.
    fn follow(&mut self) {
        let wanted: BTreeSet<InnerPrefix> = self
            .prefixes
            .iter()
            .map(|(prefix, _)| prefix)
            .filter(|prefix| is_sites(&self.pools, *prefix))
            .collect();
        for prefix in self.there.difference(&wanted).copied().collect::<Vec<_>>() {
            if let Err(error) = self.netlink.remove_route(self.way, prefix) {
                tracing::debug!(prefix = %shown(prefix), %error, "a site's route was gone already");
            }
            self.there.remove(&prefix);
        }
        self.refused.retain(|prefix| wanted.contains(prefix));
        for prefix in wanted.difference(&self.there).copied().collect::<Vec<_>>() {
            match self.netlink.add_route(self.way, prefix) {
                Ok(()) => {
                    tracing::debug!(prefix = %shown(prefix), "the host reaches a site");
                    self.there.insert(prefix);
                    self.refused.remove(&prefix);
                }
                Err(error) if self.refused.insert(prefix) => {
                    tracing::warn!(prefix = %shown(prefix), %error, "the host does not reach this site: no route");
                }
                Err(_) => {}
            }
        }
    }
}

/// A network that has no route from the start, and is not everything: the host's own default route is not ours.
fn is_sites(pools: &Pools, prefix: InnerPrefix) -> bool {
    let (_, len) = parts(prefix);
    len > 0 && !pools.contains(Address(prefix.network()))
}

fn is_pools(pools: &Pools, prefix: InnerPrefix) -> bool {
    let is = |pool: Option<(u128, u128)>| {
        pool.is_some_and(|(network, mask)| network == prefix.network() && mask.count_ones() == prefix.bits())
    };
    is(pools.v4) || is(pools.v6)
}

/// The network and its length in its own family.
fn parts(prefix: InnerPrefix) -> (IpAddr, u32) {
    let ip = Address(prefix.network()).ip();
    if prefix.is_v4() {
        (ip, prefix.bits() - 96)
    } else {
        (Ipv6Addr::from_bits(prefix.network()).into(), prefix.bits())
    }
}

fn shown(prefix: InnerPrefix) -> String {
    let (network, len) = parts(prefix);
    format!("{network}/{len}")
}

impl Netlink {
    /// Our routes out of a device.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(crate) fn own_routes(&mut self, device: u32) -> io::Result<Vec<InnerPrefix>> {
        let mut own = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let answers = self.request(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP)?;
            own.extend(answers.iter().filter_map(|answer| {
                if let RouteNetlinkMessage::NewRoute(route) = answer {
                    own_route(route, device)
                } else {
                    None
                }
            }));
        }
        Ok(own)
    }

    fn add_route(&mut self, way: HostWay, prefix: InnerPrefix) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route(way, prefix)?);
        match self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            // A process that died has left it, on this device: looked for when this one began.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                Err(io::Error::new(error.kind(), "the host has a route of the same metric there"))
            }
            outcome => outcome.map(drop),
        }
    }

    fn remove_route(&mut self, way: HostWay, prefix: InnerPrefix) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelRoute(route(way, prefix)?), NLM_F_ACK).map(drop)
    }
}

/// The message about one of our routes.
fn route(way: HostWay, prefix: InnerPrefix) -> io::Result<RouteMessage> {
    let (network, len) = parts(prefix);
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    let mut message = RouteMessage::default();
    message.header.address_family =
        if network.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = u8::try_from(len).map_err(io::Error::other)?;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = if way.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(address(network)));
    if let Some(gateways) = way.via {
        let gateway = if network.is_ipv4() { gateways.v4 } else { gateways.v6 };
        let gateway =
            gateway.ok_or_else(|| io::Error::other("the gateway has no inner address of this family"))?;
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(address(gateway.ip())));
    }
    message.attributes.push(RouteAttribute::Oif(way.device));
    message.attributes.push(RouteAttribute::Priority(METRIC));
    Ok(message)
}

fn own_route(message: &RouteMessage, device: u32) -> Option<InnerPrefix> {
    let header = &message.header;
    let mut network = if header.address_family == AddressFamily::Inet {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let mut out = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(v4)) = attribute {
            network = IpAddr::V4(*v4);
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(v6)) = attribute {
            network = IpAddr::V6(*v6);
        } else if let RouteAttribute::Oif(oif) = attribute {
            out = Some(*oif);
        }
    }
    let is_ours = out == Some(device)
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.protocol == RouteProtocol::Other(PROTOCOL);
    let len = u32::from(header.destination_prefix_length) + if network.is_ipv4() { 96 } else { 0 };
    is_ours.then(|| InnerPrefix::new(Address::from(network).0, len)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str, len: u32) -> InnerPrefix {
        let ip: IpAddr = text.parse().unwrap();
        InnerPrefix::new(Address::from(ip).0, len + if ip.is_ipv4() { 96 } else { 0 }).unwrap()
    }

    /// R0.2: what is a site's gets a route, what is a client's has one, and a default route is nobody's.
    #[test]
    fn r0_2_sites_get_routes_pools_and_defaults_do_not() {
        let pools = Pools {
            v4: Some((Address::v4([10, 77, 0, 0]).0, u128::MAX << 16)),
            v6: Some((0xfd77 << 112, u128::MAX << 64)),
        };
        for (text, len, is) in [
            ("10.9.0.0", 16, true),
            ("2001:db8:9::", 48, true),
            ("10.77.0.2", 32, false),
            ("fd77::2", 128, false),
            ("10.77.128.0", 17, false),
            ("0.0.0.0", 0, false),
            ("::", 0, false),
        ] {
            assert_eq!(is_sites(&pools, prefix(text, len)), is, "{text}/{len}");
        }
        assert!(is_pools(&pools, prefix("10.77.0.0", 16)) && is_pools(&pools, prefix("fd77::", 64)));
        assert!(!is_pools(&pools, prefix("10.77.0.0", 24)));
    }

    /// What is written is found again as ours, on its device only; others' routes are not ours.
    #[test]
    fn own_routes_are_told_by_their_protocol() {
        let via = GatewayAddresses {
            v4: Some(Address::v4([10, 77, 0, 1])),
            v6: Some(Address::v6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1).octets())),
        };
        for way in [HostWay { device: 5, via: Some(via) }, HostWay { device: 5, via: None }] {
            for site in [prefix("10.9.0.0", 16), prefix("2001:db8:9::", 48)] {
                let mut message = route(way, site).unwrap();
                assert_eq!((own_route(&message, 5), own_route(&message, 6)), (Some(site), None));
                message.header.protocol = RouteProtocol::Static;
                assert_eq!(own_route(&message, 5), None);
            }
        }
        let without = HostWay { device: 5, via: Some(GatewayAddresses { v6: None, ..via }) };
        assert!(route(without, prefix("2001:db8:9::", 48)).is_err());
    }
}
