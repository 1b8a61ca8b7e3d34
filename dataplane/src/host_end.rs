//! The host's end of the LAN while somebody switches it off and on: the kernel forgets the routes out of it, its permanent
//! neighbours and its addresses of IPv6. Here is heard that this may have happened, when to look, and what belongs to the
//! end beside its routes ([`crate::host_routes`] puts those back).
//!
//! Of routes of IPv4 that go with a device the kernel says nothing (net/ipv4/fib_trie.c, fib_table_flush), and off and on
//! may be so close together that the state looks unchanged: each message that the end is up counts.

use crate::frame::{Address, Mac};
use crate::host_routes::{HostWay, PROTOCOL};
use jvpn_abi::BootTime;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::PollTimeout;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE (linux/rtnetlink.h).
const GROUPS: [u32; 3] = [1, 7, 11];
/// Kernel messages come in pages; this holds several.
const BUFFER: usize = 1 << 16;
/// Datagrams taken off at once: a routing daemon that fills a table is not listened to without end.
const TAKEN_MOST: usize = 1_024;
/// Between two looks, however much is heard.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Octets of a netlink header (linux/netlink.h).
const HEADER: usize = 16;

/// An ear at rtnetlink for one device.
#[derive(Debug)]
pub(crate) struct News {
    socket: Socket,
    buffer: Vec<u8>,
    device: u32,
}

impl News {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn of(device: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER), device })
    }

    /// Takes off what waits; whether something of ours may be missing that can be put back.
    pub(crate) fn heard(&mut self) -> bool {
        let mut may_miss = false;
        for _ in 0..TAKEN_MOST {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(0) => break,
                Ok(got) => {
                    may_miss |= tells_of(self.buffer.get(..got).unwrap_or_default(), self.device);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // ENOBUFS: news were lost, so ours may have been among them.
                Err(_) => return true,
            }
        }
        may_miss
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether a datagram of the kernel says that the device is up, or that a route of a data plane has gone. Only heads are
/// read: a routing daemon's storm costs little.
fn tells_of(datagram: &[u8], device: u32) -> bool {
    let mut rest = datagram;
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let tells = match kind {
            // struct ifinfomsg: index, then flags.
            libc::RTM_NEWLINK => {
                u32_at(rest, HEADER + 4) == Some(device)
                    && u32_at(rest, HEADER + 8).is_some_and(|flags| flags & (libc::IFF_UP as u32) != 0)
            }
            // struct rtmsg: rtm_protocol.
            libc::RTM_DELROUTE => rest.get(HEADER + 5) == Some(&PROTOCOL),
            _ => false,
        };
        if tells {
            return true;
        }
        let length = (length as usize).max(HEADER).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}

fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// When to look: at once after silence, and then no more often than [`LOOK_EVERY`].
#[derive(Debug)]
pub(crate) struct Looks {
    is_due: bool,
    next: BootTime,
}

impl Looks {
    /// The first one is due.
    pub(crate) const fn at_once() -> Self {
        Self { is_due: true, next: BootTime(0) }
    }

    /// One is due.
    pub(crate) const fn ask(&mut self) {
        self.is_due = true;
    }

    /// Whether to look now; then it is done.
    pub(crate) fn take(&mut self, now: BootTime) -> bool {
        let takes = self.is_due && now >= self.next;
        if takes {
            (self.is_due, self.next) = (false, now.after(LOOK_EVERY));
        }
        takes
    }

    /// How long to wait for news.
    pub(crate) fn patience(&self, now: BootTime) -> PollTimeout {
        if !self.is_due {
            return PollTimeout::NONE;
        }
        if now >= self.next {
            return PollTimeout::ZERO;
        }
        PollTimeout::try_from(self.next.since(now).as_millis() + 1).unwrap_or(PollTimeout::MAX)
    }
}

/// What belongs to the host's end beside its routes.
#[derive(Clone, Debug, Default)]
pub struct Belongings {
    device: u32,
    /// Next hops of its routes, and where they all are.
    neighbours: Vec<(Address, Mac)>,
    /// Addresses of IPv6; those of IPv4 stay.
    addresses: Vec<(Ipv6Addr, u8)>,
}

impl Belongings {
    /// Of the device of `way`, whose next hops are at `mac`, with `addresses` like fd78::1/128.
    #[must_use]
    pub fn new(way: HostWay, mac: Mac, addresses: &[String]) -> Self {
        let hops = way.via.into_iter().flat_map(|via| [via.v4, via.v6]).flatten();
        let address = |text: &String| {
            let (ip, len) = text.split_once('/')?;
            Some((ip.parse().ok()?, len.parse().ok()?))
        };
        Self {
            device: way.device,
            neighbours: hops.map(|hop| (hop, mac)).collect(),
            addresses: addresses.iter().filter_map(address).collect(),
        }
    }

    /// Each as it is put, with its name.
    pub(crate) fn messages(&self) -> Vec<(&'static str, RouteNetlinkMessage)> {
        let hops = self.neighbours.iter().map(|(hop, mac)| ("neighbour", self.neighbour(*hop, *mac)));
        let addresses = self.addresses.iter().map(|(ip, len)| ("address", self.address(*ip, *len)));
        hops.chain(addresses).collect()
    }

    fn neighbour(&self, hop: Address, mac: Mac) -> RouteNetlinkMessage {
        let mut entry = NeighbourMessage::default();
        let (family, inet) = match hop.ip() {
            IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
        };
        entry.header.family = family;
        entry.header.ifindex = self.device;
        entry.header.state = NeighbourState::Permanent;
        entry.attributes.push(NeighbourAttribute::Destination(inet));
        entry.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        RouteNetlinkMessage::NewNeighbour(entry)
    }

    fn address(&self, ip: Ipv6Addr, len: u8) -> RouteNetlinkMessage {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = len;
        message.header.index = self.device;
        // Nobody at the other end could have the same one, and it is used at once.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Local(ip.into()));
        message.attributes.push(AddressAttribute::Address(ip.into()));
        RouteNetlinkMessage::NewAddress(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::GatewayAddresses;
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::link::{LinkFlags, LinkMessage};
    use netlink_packet_route::route::{RouteMessage, RouteProtocol};

    fn octets(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        octets
    }

    fn link(index: u32, flags: LinkFlags) -> Vec<u8> {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.flags) = (index, flags);
        octets(RouteNetlinkMessage::NewLink(link))
    }

    fn route(protocol: u8, wrapped: fn(RouteMessage) -> RouteNetlinkMessage) -> Vec<u8> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.protocol = RouteProtocol::from(protocol);
        octets(wrapped(route))
    }

    /// R9.1: that the end is up counts even if it looks as before, and a route of ours that goes; what others do does not,
    /// wherever in a datagram it stands, nor does anything that is cut short.
    #[test]
    fn r9_1_news_of_the_hosts_end_and_of_our_routes_count() {
        let others = [
            link(5, LinkFlags::Broadcast),
            link(6, LinkFlags::Up),
            route(186, RouteNetlinkMessage::DelRoute),
            route(PROTOCOL, RouteNetlinkMessage::NewRoute),
        ]
        .concat();
        assert!(!tells_of(&others, 5) && !tells_of(&[], 5));
        for ours in [link(5, LinkFlags::Up), route(PROTOCOL, RouteNetlinkMessage::DelRoute)] {
            assert!(tells_of(&ours, 5));
            assert!(tells_of(&[others.clone(), ours.clone(), others.clone()].concat(), 5));
            for len in 0..HEADER + 6 {
                assert!(!tells_of(&ours[..len], 5), "{len} octets");
            }
        }
    }

    /// R9.1: the first news are acted upon at once, a storm of them a few times a second, and the last are not forgotten.
    #[test]
    fn r9_1_looks_are_paced_and_none_is_lost() {
        let mut looks = Looks::at_once();
        let start = BootTime(0).after(Duration::from_secs(9));
        let at = |ms| start.after(Duration::from_millis(ms));
        assert_eq!(looks.patience(at(0)), PollTimeout::ZERO);
        let taken: Vec<u64> = (0..1_000)
            .filter(|ms| {
                looks.ask();
                looks.take(at(*ms))
            })
            .collect();
        assert_eq!(taken, [0, 250, 500, 750]);
        assert_eq!(looks.patience(at(999)), PollTimeout::from(2_u8));
        assert!(looks.take(at(1_000)) && !looks.take(at(5_000)));
        assert_eq!(looks.patience(at(5_000)), PollTimeout::NONE);
    }

    /// R9.1: what the kernel forgets with the routes: next hops of a pair, none on a TUN device, and addresses of IPv6.
    #[test]
    fn r9_1_neighbours_and_addresses_belong_to_the_end() {
        let via = GatewayAddresses { v4: Some(Address::v4([10, 77, 0, 1])), v6: None };
        let addresses = ["10.78.0.1/32".to_owned(), "fd78::1/128".to_owned()];
        let names = |via| {
            let belongings = Belongings::new(HostWay { device: 5, via }, Mac([2, 0, 0, 0, 0, 7]), &addresses);
            belongings.messages().iter().map(|(name, _)| *name).collect::<Vec<_>>()
        };
        assert_eq!((names(Some(via)), names(None)), (vec!["neighbour", "address"], vec!["address"]));
    }
}
