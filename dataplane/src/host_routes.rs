//! Prefixes of sites in the host's own routing table, where the LAN is the host: without them its stack does not know that
//! a site is behind the tunnel. They come and go with ROUTES.
//!
//! The pools have a route of their own from the start, so clients' own addresses need none. Routes made here carry a
//! protocol number of their own, by which the next process tells those that a dead one left; no other route is touched.
//!
//! The kernel forgets them when somebody switches the host's end off: they are put back as soon as it is on again, those to
//! the pools and all else that it forgets ([`crate::host_end`]), and meanwhile guards ([`crate::host_guards`]) let nothing
//! out in clear.

use crate::frame::{Address, GatewayAddresses};
use crate::host_end::{Belongings, Looks, News};
use crate::netlink::Netlink;
use crate::pipeline::Pools;
use jvpn_host::clock;
use jvpn_tables::{Doorbell, InnerPrefix, Prefixes};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::poll::{PollFd, PollFlags, poll};
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
    belongings: Belongings,
    netlink: Netlink,
    news: News,
    bell: Doorbell,
    /// Those that were put and not taken back, whether the kernel still has them or not.
    there: BTreeSet<InnerPrefix>,
    /// Guards of sites, in the same sense.
    guarded: BTreeSet<InnerPrefix>,
    /// Whether it was said that the kernel takes no guard.
    is_unguarded: bool,
    /// Those that the kernel did not take, so that it is said once.
    refused: BTreeSet<InnerPrefix>,
    seen: u64,
}

impl HostRoutes {
    /// For the host's end of the LAN and what belongs to it; `bell` rings when ROUTES may have changed. What an earlier
    /// process left stays until the control plane has said what is there now.
    ///
    /// # Errors
    /// If rtnetlink cannot be reached.
    pub fn new(
        prefixes: Arc<Prefixes>,
        pools: Pools,
        (way, belongings): (HostWay, Belongings),
        bell: Doorbell,
    ) -> io::Result<Self> {
        let (mut netlink, news) = (Netlink::new()?, News::of(way.device)?);
        let is_sites = |prefix: &InnerPrefix| !of_pools(&pools).any(|pool| pool == *prefix);
        let there = netlink.own_routes(way.device)?.into_iter().filter(is_sites).collect();
        let guarded = netlink.guards()?.into_iter().filter(is_sites).collect();
        Ok(Self {
            prefixes,
            pools,
            way,
            belongings,
            netlink,
            news,
            bell,
            there,
            guarded,
            is_unguarded: false,
            refused: BTreeSet::new(),
            seen: 0,
        })
    }

    /// Runs until `stop`; rings wake it. The routes go with their device, the guards when the process ends in order.
    pub fn run(mut self, stop: &AtomicBool) {
        // What was lost before anybody listened.
        let mut looks = Looks::at_once();
        while !stop.load(Ordering::Acquire) {
            let mut fds = [
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.news.as_fd(), PollFlags::POLLIN),
            ];
            let _woken = poll(&mut fds, looks.patience(clock::now()));
            let _rang = self.bell.silence();
            if self.news.heard() {
                looks.ask();
            }
            let generation = self.prefixes.generation();
            if generation != self.seen {
                self.seen = generation;
                self.follow();
                // Not for an event: so that the next look sees many changes, not one.
                std::thread::sleep(PACE);
            }
            if looks.take(clock::now()) {
                self.put_back();
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
        for prefix in self.guarded.difference(&wanted).copied().collect::<Vec<_>>() {
            if let Err(error) = self.netlink.remove_guard(prefix) {
                tracing::debug!(prefix = %shown(prefix), %error, "a site's guard was gone already");
            }
            self.guarded.remove(&prefix);
        }
        self.refused.retain(|prefix| wanted.contains(prefix));
        for prefix in wanted.difference(&self.there).copied().collect::<Vec<_>>() {
            self.guard(prefix);
            self.guarded.insert(prefix);
            match self.netlink.add_route(self.way, prefix) {
                Ok(()) => {
                    tracing::debug!(prefix = %shown(prefix), "the host reaches a site");
                    self.there.insert(prefix);
                    self.refused.remove(&prefix);
                }
                Err(error) => self.refuse(prefix, &error),
            }
        }
    }

    /// Puts back whatever is missing of what was put, and says so. Nothing is asked for: what is there is refused as such.
    fn put_back(&mut self) {
        for (what, message) in self.belongings.messages() {
            if let Err(error) = self.netlink.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE) {
                tracing::debug!(what, %error, "not put back");
            }
        }
        let of_sites = self.there.union(&self.refused).copied();
        let ours: BTreeSet<InnerPrefix> = of_pools(&self.pools).chain(of_sites).collect();
        let mut back = 0_usize;
        for prefix in ours {
            self.guard(prefix);
            match self.netlink.add_route(self.way, prefix) {
                Ok(()) => {
                    back += 1;
                    self.refused.remove(&prefix);
                    if !of_pools(&self.pools).any(|pool| pool == prefix) {
                        self.there.insert(prefix);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // The guards stand; news of its return come.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {
                    tracing::debug!("the host's end is down; its routes come back with it");
                }
                Err(error) => self.refuse(prefix, &error),
            }
        }
        if back > 0 {
            tracing::warn!(
                routes = back,
                "the host's routes into the tunnel were gone, as when its end of the LAN is switched off and on; they are back"
            );
        }
    }

    fn refuse(&mut self, prefix: InnerPrefix, error: &io::Error) {
        if self.refused.insert(prefix) {
            tracing::warn!(prefix = %shown(prefix), %error, "the host does not reach this network: no route");
        }
    }

    fn guard(&mut self, prefix: InnerPrefix) {
        if let Err(error) = self.netlink.add_guard(prefix)
            && !std::mem::replace(&mut self.is_unguarded, true)
        {
            tracing::warn!(
                prefix = %shown(prefix),
                %error,
                "no unreachable route beside the one into the tunnel: while that is missing, the host's other routes apply"
            );
        }
    }
}

/// A network that has no route from the start, and is not everything: the host's own default route is not ours.
fn is_sites(pools: &Pools, prefix: InnerPrefix) -> bool {
    let (_, len) = parts(prefix);
    len > 0 && !pools.contains(Address(prefix.network()))
}

fn of_pools(pools: &Pools) -> impl Iterator<Item = InnerPrefix> + use<> {
    let prefix = |(network, mask): (u128, u128)| InnerPrefix::new(network, mask.count_ones());
    [pools.v4, pools.v6].into_iter().flatten().filter_map(prefix)
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
        Ok(self.routes_of_ours()?.iter().filter_map(|route| own_route(route, device)).collect())
    }

    /// All routes of data planes, whatever they are.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(crate) fn routes_of_ours(&mut self) -> io::Result<Vec<RouteMessage>> {
        let mut own = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let answers = self.request(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP)?;
            own.extend(answers.into_iter().filter_map(|answer| {
                let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
                is_ours(&route.header).then_some(route)
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
    let mut message = towards(prefix)?;
    message.header.scope = if way.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    if let Some(gateways) = way.via {
        let gateway = if prefix.is_v4() { gateways.v4 } else { gateways.v6 };
        let gateway =
            gateway.ok_or_else(|| io::Error::other("the gateway has no inner address of this family"))?;
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(route_address(gateway.ip())));
    }
    message.attributes.push(RouteAttribute::Oif(way.device));
    message.attributes.push(RouteAttribute::Priority(METRIC));
    Ok(message)
}

/// What all routes of data planes to a network have in common.
pub(crate) fn towards(prefix: InnerPrefix) -> io::Result<RouteMessage> {
    let (network, len) = parts(prefix);
    let mut message = RouteMessage::default();
    message.header.address_family =
        if network.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = u8::try_from(len).map_err(io::Error::other)?;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.attributes.push(RouteAttribute::Destination(route_address(network)));
    Ok(message)
}

const fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn is_ours(header: &RouteHeader) -> bool {
    header.table == RouteHeader::RT_TABLE_MAIN && header.protocol == RouteProtocol::Other(PROTOCOL)
}

fn own_route(message: &RouteMessage, device: u32) -> Option<InnerPrefix> {
    let is_out = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == device);
    let is_own = is_ours(&message.header) && message.attributes.iter().any(is_out);
    if is_own { destination(message) } else { None }
}

/// The network that a route leads to.
pub(crate) fn destination(message: &RouteMessage) -> Option<InnerPrefix> {
    let header = &message.header;
    let everything = if header.address_family == AddressFamily::Inet {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let network = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(v4)) = attribute {
            Some(IpAddr::V4(*v4))
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(v6)) = attribute {
            Some(IpAddr::V6(*v6))
        } else {
            None
        }
    });
    let network = network.unwrap_or(everything);
    let len = u32::from(header.destination_prefix_length) + if network.is_ipv4() { 96 } else { 0 };
    InnerPrefix::new(Address::from(network).0, len)
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
        let both = [prefix("10.77.0.0", 16), prefix("fd77::", 64)];
        assert_eq!(of_pools(&pools).collect::<Vec<_>>(), both);
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
