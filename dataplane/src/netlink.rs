//! rtnetlink, as little as the data plane needs: look at links, routes and neighbours, keep neighbours resolved.
#![allow(clippy::wildcard_enum_match_arm, reason = "new kernels send new messages and attributes")]

mod answers;
mod events;
mod routes;

use crate::frame::{Address, Mac};
use answers::{Answers, Dialogue, Kind, Line, Wait, messages};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
pub(crate) use routes::{Entry, Route};
use socket2::SockRef;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_NEXTHOP (linux/rtnetlink.h). The last
/// because routes go without a word of their own with a next hop that is deleted (`ip nexthop`).
const GROUPS: [u32; 5] = [1, 3, 7, 11, 32];
/// RTNLGRP_LINK.
const LINKS: [u32; 1] = [1];
/// Both families that a LAN may speak.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// A link as the data plane cares for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// MAC address.
    pub mac: Mac,
    /// Receive queues.
    pub rx_queues: u32,
    /// MTU, octets.
    pub mtu: u32,
    /// How an XDP program is attached, as the kernel says it.
    pub xdp: Option<&'static str>,
    /// Up, with a carrier.
    pub up: bool,
}

/// A netlink socket.
#[derive(Debug)]
pub struct Netlink(Dialogue<Socket>);

impl Netlink {
    /// A socket for questions.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        SockRef::from(&socket).set_read_timeout(Some(answers::PATIENCE))?;
        Ok(Self(Dialogue::over(socket)))
    }

    /// A non-blocking socket that hears of changes to links, neighbours and routes.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listening() -> io::Result<Self> {
        Self::listening_to(&GROUPS)
    }

    /// A non-blocking socket that hears of changes to links alone: nobody on a link can make those up.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listening_to_links() -> io::Result<Self> {
        Self::listening_to(&LINKS)
    }

    fn listening_to(groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(Dialogue::over(socket)))
    }

    /// Takes every waiting change off; `true` if there was one (or some were lost).
    pub fn drain(&mut self) -> bool {
        self.drain_for(|_index| true)
    }

    /// Takes every waiting change off; `true` if one may concern an interface that `is_ours` names by its index (or some
    /// were lost).
    pub fn drain_for(&mut self, is_ours: impl Fn(u32) -> bool) -> bool {
        let mut any = false;
        loop {
            match self.0.line.hear(Wait::No, &mut self.0.datagram) {
                Ok(()) => any = any || events::concerns(&self.0.datagram, &is_ours),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return any,
                // ENOBUFS: changes were lost, so something changed.
                Err(_) => return true,
            }
        }
    }

    /// Asks the kernel and takes its answers. An entry that cannot be read is passed over.
    ///
    /// # Errors
    /// What it refuses with; if its answer cannot be understood or does not come.
    pub(crate) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.0.request(message, flags)
    }

    /// Looks at an interface by name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn link(&mut self, name: &str) -> io::Result<Link> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = self.request(RouteNetlinkMessage::GetLink(question), 0).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("interface '{name}': {error}; 'ip link' lists what there is"),
            )
        })?;
        answers
            .into_iter()
            .find_map(|answer| {
                if let RouteNetlinkMessage::NewLink(link) = answer { Some(parse_link(&link)) } else { None }
            })
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("interface '{name}' was not found"))
            })
    }

    /// Whether the interface with this index is up and has a carrier; `None` if there is none.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn is_up(&mut self, index: u32) -> io::Result<Option<bool>> {
        Ok(self.link_at(index)?.map(|link| link.up))
    }

    /// Looks at an interface by index; `None` if there is none.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn link_at(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        let answers = match self.request(RouteNetlinkMessage::GetLink(question), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answers => answers?,
        };
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(parse_link(link)),
            _ => None,
        }))
    }

    /// Name and index of the device that the kernel has for a VLAN on the interface with index `on`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn vlan_device(&mut self, on: u32, vlan: u16) -> io::Result<Option<(String, u32)>> {
        let answers = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => parse_vlan(link, on, vlan),
            _ => None,
        }))
    }

    /// Routes of the main table that leave by interface `index`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn routes(&mut self, index: u32) -> io::Result<Vec<Route>> {
        let entries = self.main_table(&[index])?.into_iter();
        let out = entries.filter_map(|entry| match entry {
            Entry::Out(_, route) => Some(route),
            Entry::Refused { .. } => None,
        });
        Ok(out.collect())
    }

    /// The main table, as far as it concerns who forwards by the interfaces `ours`, given by their indexes: the routes
    /// that leave by one of them, and those that refuse.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn main_table(&mut self, ours: &[u32]) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for family in FAMILIES {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let answers = self.request(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP)?;
            entries.extend(answers.iter().filter_map(|answer| {
                let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
                routes::parse(route, ours)
            }));
        }
        Ok(entries)
    }

    /// Neighbour entries of interface `index`.
    fn entries(&mut self, index: u32) -> io::Result<Vec<NeighbourMessage>> {
        let mut entries = Vec::new();
        for family in FAMILIES {
            let mut question = NeighbourMessage::default();
            question.header.family = family;
            let answers = self.request(RouteNetlinkMessage::GetNeighbour(question), NLM_F_DUMP)?;
            entries.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(entry) if entry.header.ifindex == index => Some(entry),
                _ => None,
            }));
        }
        Ok(entries)
    }

    /// Neighbours on interface `index` whose address is known.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn neighbours(&mut self, index: u32) -> io::Result<Vec<(Address, Mac)>> {
        Ok(self.entries(index)?.iter().filter_map(parse_neighbour).collect())
    }

    /// Neighbours on interface `index` that the kernel was asked to keep resolved.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn managed(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let is_managed = |attribute: &NeighbourAttribute| matches!(attribute, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed));
        let entries = self.entries(index)?;
        let kept = entries.iter().filter(|entry| entry.attributes.iter().any(is_managed));
        Ok(kept.filter_map(|entry| entry.attributes.iter().find_map(destination)).collect())
    }

    /// Has the kernel resolve a neighbour and keep it resolved (NTF_EXT_MANAGED, Linux 5.16).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn manage(&mut self, index: u32, address: Address) -> io::Result<()> {
        let mut entry = neighbour(index, address);
        entry.header.state = NeighbourState::None;
        entry.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewNeighbour(entry), flags).map(drop)
    }

    /// Takes back what [`Self::manage`] did.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn forget(&mut self, index: u32, address: Address) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelNeighbour(neighbour(index, address)), NLM_F_ACK).map(drop)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.line.as_fd()
    }
}

/// Reads a datagram as the answer to every request of this module, and as changes; how much of it had a meaning. For the fuzzer, which
/// has no kernel to ask.
///
/// # Errors
/// As a request would fail.
#[doc(hidden)]
pub fn understand(datagram: &[u8], index: u32) -> io::Result<usize> {
    let first = messages(datagram).next().and_then(Result::ok);
    let mut answers = Answers::to(first.map_or(0, |message| message.sequence_number()), Kind::Dump);
    answers.take(datagram)?;
    let understood = answers.list.iter().filter(|answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            parse_link(link).index == index
        } else if let RouteNetlinkMessage::NewRoute(route) = answer {
            routes::parse(route, &[index]).is_some()
        } else if let RouteNetlinkMessage::NewNeighbour(neighbour) = answer {
            neighbour.header.ifindex == index && parse_neighbour(neighbour).is_some()
        } else {
            false
        }
    });
    Ok(understood.count() + usize::from(events::concerns(datagram, |changed| changed == index)))
}

fn neighbour(index: u32, address: Address) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    let (family, inet) = match address.ip() {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    entry.header.family = family;
    entry.header.ifindex = index;
    entry.header.kind = RouteType::Unicast;
    entry.attributes.push(NeighbourAttribute::Destination(inet));
    entry
}

/// The address that a neighbour entry is about.
fn destination(attribute: &NeighbourAttribute) -> Option<Address> {
    match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(Address::from(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(Address::from(*v6)),
        _ => None,
    }
}

fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        rx_queues: 1,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        ..Link::default()
    };
    for attribute in &message.attributes {
        if let LinkAttribute::Address(octets) = attribute
            && let Ok(mac) = <[u8; 6]>::try_from(octets.as_slice())
        {
            link.mac = Mac(mac);
        } else if let LinkAttribute::NumRxQueues(queues) = attribute {
            link.rx_queues = *queues;
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::Xdp(parts) = attribute {
            link.xdp = parts.iter().find_map(attached);
        }
    }
    link
}

/// Name and index of a link, if it is this VLAN of that interface.
fn parse_vlan(message: &LinkMessage, on: u32, vlan: u16) -> Option<(String, u32)> {
    let (mut name, mut parent, mut id) = (None, None, None);
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        } else if let LinkAttribute::Link(index) = attribute {
            parent = Some(*index);
        } else if let LinkAttribute::LinkInfo(parts) = attribute {
            id = parts.iter().find_map(|part| {
                let LinkInfo::Data(InfoData::Vlan(values)) = part else { return None };
                values.iter().find_map(|value| if let InfoVlan::Id(id) = value { Some(*id) } else { None })
            });
        }
    }
    (parent == Some(on) && id == Some(vlan)).then_some((name?, message.header.index))
}

fn attached(part: &LinkXdp) -> Option<&'static str> {
    let LinkXdp::Attached(how) = part else { return None };
    match how {
        XdpAttached::Driver => Some("native"),
        XdpAttached::SocketBuffer => Some("generic"),
        XdpAttached::Hardware => Some("offloaded"),
        XdpAttached::Multiple => Some("multiple"),
        XdpAttached::None | XdpAttached::Other(_) | _ => None,
    }
}

fn parse_neighbour(message: &NeighbourMessage) -> Option<(Address, Mac)> {
    let unusable = [NeighbourState::Failed, NeighbourState::Incomplete, NeighbourState::None];
    if unusable.contains(&message.header.state) {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => <[u8; 6]>::try_from(octets.as_slice()).ok().map(Mac),
        _ => None,
    })?;
    Some((message.attributes.iter().find_map(destination)?, mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::fmt::Write as _;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    /// R1.9, found by the fuzzer: a negative error number that has no positive one is an error like any other.
    #[test]
    fn r1_9_any_error_number_is_an_error() {
        for (code, expected) in [(i32::MIN, i32::MAX), (-19, 19), (19, 19)] {
            let mut datagram = [20_u32.to_ne_bytes(), 2_u32.to_ne_bytes(), [0; 4], [0; 4]].concat();
            datagram.extend(code.to_ne_bytes());
            assert_eq!(understand(&datagram, 1).unwrap_err().raw_os_error(), Some(expected));
        }
    }

    /// Has `ip` carry out lines.
    fn ip(lines: &str) {
        let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Runs a test in a network namespace of its own, where one may be made.
    fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
        let inside = || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                jvpn_testing::left_out(&format!(
                    "a network namespace of its own needs CAP_SYS_ADMIN: {error}"
                ));
                return;
            }
            test();
        };
        // The namespace is that of a thread of its own, whose name is who leaves a test out.
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        std::thread::Builder::new().name(name).spawn(inside).unwrap().join().unwrap();
    }

    /// R3.2: the kernel's own word: thousands of neighbours beyond another interface are no change of this one's, and
    /// do not hide its own in the list.
    #[test]
    fn r3_2_the_kernels_changes_are_told_apart_by_interface() {
        in_a_namespace(|| {
            // They stay down: nothing happens on them but what is told here.
            ip("link add name lan type veth peer name wan\n");
            let (mut ask, mut listen) = (Netlink::new().unwrap(), Netlink::listening().unwrap());
            let mut links = Netlink::listening_to_links().unwrap();
            let [lan, wan] = ["lan", "wan"].map(|name| ask.link(name).unwrap().index);
            let mut lines = String::new();
            for n in 0..3_000 {
                let (high, low) = (n / 250, n % 250 + 1);
                writeln!(lines, "neigh add 192.0.{high}.{low} lladdr 02:00:00:00:00:01 dev wan").unwrap();
            }
            ip(&lines);
            // So many may overflow the socket: then nobody knows what was among them.
            while listen.drain() {}
            ip("neigh add 198.51.100.1 lladdr 02:00:00:00:00:01 dev wan\nneigh del 198.51.100.1 dev wan\n");
            assert!(!listen.drain_for(|index| index == lan));
            ip("neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev lan\n");
            assert!(listen.drain_for(|index| index == lan));
            let known = Address::from(IpAddr::from([198, 51, 100, 7]));
            assert_eq!(ask.neighbours(lan).unwrap(), [(known, Mac([2, 0, 0, 0, 0, 7]))]);
            assert_eq!(ask.neighbours(wan).unwrap().len(), 3_000);
            assert!(!links.drain(), "who hears of links alone has nothing to look at");
            ip("link set lan mtu 1400\n");
            assert!(links.drain());
        });
    }

    /// What the main table says of a network.
    fn said_of(entries: &[Entry], network: &str) -> Vec<Entry> {
        let (address, len) = network.split_once('/').unwrap();
        let wanted: (IpAddr, u8) = (address.parse().unwrap(), len.parse().unwrap());
        let of = |entry: &&Entry| match entry {
            Entry::Out(_, Route { network, len, .. }) | Entry::Refused { network, len, .. } => {
                (*network, *len) == wanted
            }
        };
        entries.iter().filter(of).copied().collect()
    }

    fn leads(index: u32, network: &str, gateway: &str, metric: u32) -> Entry {
        let (address, len) = network.split_once('/').unwrap();
        let (network, len) = (address.parse().unwrap(), len.parse().unwrap());
        Entry::Out(index, Route { network, len, gateway: Some(gateway.parse().unwrap()), metric })
    }

    fn refused(network: &str, metric: u32) -> Entry {
        let (address, len) = network.split_once('/').unwrap();
        Entry::Refused { network: address.parse().unwrap(), len: len.parse().unwrap(), metric }
    }

    /// R0.2: the kernel's own word, in IPv4: routes of several next hops and those that refuse are taken for what they
    /// are, and each of them is heard of though it names no interface of ours.
    #[test]
    fn r0_2_the_kernels_routes_of_several_next_hops_and_of_none() {
        in_a_namespace(|| {
            ip(
                "link add name lan type veth peer name wan\nlink set lo up\nlink set lan up\nlink set wan up\n\
                address add 192.0.2.1/24 dev lan\naddress add 198.51.100.1/24 dev wan\n",
            );
            let (mut ask, mut listen) = (Netlink::new().unwrap(), Netlink::listening().unwrap());
            let [lan, wan] = ["lan", "wan"].map(|name| ask.link(name).unwrap().index);
            for line in [
                "route add default metric 9 nexthop via 198.51.100.7 dev wan nexthop via 192.0.2.7 dev lan \
                 nexthop via 192.0.2.8 dev lan\n",
                "route add unreachable 10.1.0.0/16 metric 5\n",
                "route add prohibit 10.2.0.0/16\n",
                "route add blackhole 10.3.0.0/16\n",
                "route add throw 10.4.0.0/16\n",
                "nexthop add id 7 via 192.0.2.7 dev lan\n",
                "route add 10.5.0.0/16 nhid 7\n",
            ] {
                while listen.drain() {}
                ip(line);
                assert!(listen.drain_for(|_index| false), "{line}");
            }
            let entries = ask.main_table(&[lan]).unwrap();
            assert_eq!(said_of(&entries, "0.0.0.0/0"), [leads(lan, "0.0.0.0/0", "192.0.2.7", 9)]);
            assert_eq!(said_of(&entries, "10.1.0.0/16"), [refused("10.1.0.0/16", 5)]);
            assert_eq!(said_of(&entries, "10.2.0.0/16"), [refused("10.2.0.0/16", 0)]);
            assert_eq!(said_of(&entries, "10.3.0.0/16"), [refused("10.3.0.0/16", 0)]);
            assert!(said_of(&entries, "10.4.0.0/16").is_empty(), "thrown");
            assert_eq!(said_of(&entries, "10.5.0.0/16"), [leads(lan, "10.5.0.0/16", "192.0.2.7", 0)]);
            assert_eq!(said_of(&entries, "192.0.2.0/24").len(), 1, "on the link");
            assert!(said_of(&entries, "198.51.100.0/24").is_empty(), "not ours");
            let entries = ask.main_table(&[lan, wan]).unwrap();
            assert_eq!(said_of(&entries, "0.0.0.0/0"), [leads(wan, "0.0.0.0/0", "198.51.100.7", 9)]);
            // With its next hop the route goes.
            while listen.drain() {}
            ip("nexthop del id 7\n");
            assert!(listen.drain_for(|_index| false));
            assert!(said_of(&ask.main_table(&[lan]).unwrap(), "10.5.0.0/16").is_empty());
        });
    }

    /// R0.2: the same in IPv6, where the kernel lists what refuses as a route of the loopback interface; and a route of
    /// IPv4 by a router of IPv6.
    #[test]
    fn r0_2_the_kernels_routes_of_ipv6_and_by_its_routers() {
        if !Path::new("/proc/net/if_inet6").exists() {
            jvpn_testing::left_out("no IPv6 here");
            return;
        }
        in_a_namespace(|| {
            ip(
                "link add name lan type veth peer name wan\nlink set lo up\nlink set lan up\nlink set wan up\n\
                address add 2001:db8:1::1/64 dev lan nodad\n\
                route add ::/0 via 2001:db8:1::7 dev lan metric 1024\n\
                route add unreachable ::/0 metric 4294967295\n\
                route add 2001:db8:7::/48 nexthop via 2001:db8:1::7 dev lan nexthop via 2001:db8:1::8 dev lan\n\
                route add unreachable 2001:db8:8::/48 metric 7\n\
                route add 10.0.0.0/8 via inet6 2001:db8:1::7 dev lan\n",
            );
            let mut ask = Netlink::new().unwrap();
            let lan = ask.link("lan").unwrap().index;
            let entries = ask.main_table(&[lan]).unwrap();
            let defaults = said_of(&entries, "::/0");
            assert!(defaults.contains(&leads(lan, "::/0", "2001:db8:1::7", 1_024)), "{defaults:?}");
            assert!(defaults.contains(&refused("::/0", u32::MAX)), "{defaults:?}");
            let several = said_of(&entries, "2001:db8:7::/48");
            assert_eq!(several.first(), Some(&leads(lan, "2001:db8:7::/48", "2001:db8:1::7", 1_024)));
            assert_eq!(said_of(&entries, "2001:db8:8::/48"), [refused("2001:db8:8::/48", 7)]);
            let mixed = [leads(lan, "10.0.0.0/8", "2001:db8:1::7", 0)];
            assert_eq!(said_of(&entries, "10.0.0.0/8"), mixed, "not on the link");
        });
    }
}
