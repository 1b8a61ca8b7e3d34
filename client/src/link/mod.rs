//! The host's links: their state, and the routes, rules and tunnel addresses that the agent needs.
//!
//! Everything made here carries [`PROTOCOL`] as its origin and lies in the agent's own table numbers, or leads into the
//! agent's own tunnel device: that is how it is found again, compared, and removed at exit or, after a kill, at the next
//! start. Nothing of anybody else is ever changed.

pub mod model;
pub mod netlink;
pub mod watch;

use crate::paths::LinkState;
use jvpn_session::messages::Prefix;
use model::{Address, DefaultRoute, Device, Route, Rule, Snapshot, UplinkRouting, Wanted};
use netlink::{Mode, NetlinkError, Requests};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Origin of our routes and rules (`rtm_protocol`; 74 = 'J' is assigned to nobody in linux/rtnetlink.h).
pub const PROTOCOL: u8 = 74;
/// The main routing table.
const MAIN: u32 = 254;
/// Most uplinks, and so most tables above the first one.
pub const TABLES: u32 = 64;

/// What the tunnel device should look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelSetup {
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// What is routed into it.
    pub routes: Vec<Prefix>,
    /// Its MTU, octets.
    pub mtu: u32,
}

/// The host's links as one agent uses them. Removes what it made when dropped.
#[derive(Debug)]
pub struct Links {
    requests: Requests,
    uplinks: Vec<UplinkRouting>,
    gateway: IpAddr,
    first_table: u32,
    tunnel: Option<u32>,
    tunnel_routes: BTreeSet<Route>,
    indexes: BTreeSet<u32>,
}

impl Links {
    /// Removes what a killed agent with the same tables left behind.
    ///
    /// # Errors
    /// If the kernel refuses; without CAP_NET_ADMIN it does.
    pub fn open(uplinks: Vec<UplinkRouting>, gateway: IpAddr, first_table: u32) -> Result<Self, NetlinkError> {
        let requests = Requests::open()?;
        let mut links = Self {
            requests,
            uplinks,
            gateway,
            first_table,
            tunnel: None,
            tunnel_routes: BTreeSet::new(),
            indexes: BTreeSet::new(),
        };
        links.reconcile(&Wanted::default())?;
        Ok(links)
    }

    /// Kernel indexes of the uplink devices, as last seen.
    #[must_use]
    pub const fn indexes(&self) -> &BTreeSet<u32> {
        &self.indexes
    }

    /// Looks at the host, brings routes and rules in line, and returns the state of each uplink in order.
    ///
    /// # Errors
    /// If the host cannot be looked at. A route or rule that the kernel refuses makes its uplink unusable, not this.
    pub fn refresh(&mut self) -> Result<Vec<LinkState>, NetlinkError> {
        let snapshot = self.look()?;
        let mut wanted = Wanted { routes: self.tunnel_routes.clone(), rules: BTreeSet::new() };
        let mut states = Vec::with_capacity(self.uplinks.len());
        self.indexes.clear();
        for uplink in &self.uplinks {
            self.indexes.extend(snapshot.devices.get(&uplink.device).map(|device| device.index));
            let (state, own) = model::uplink(&snapshot, uplink, self.gateway);
            wanted.routes.extend(own.routes);
            wanted.rules.extend(own.rules);
            states.push(state);
        }
        let refused = self.reconcile(&wanted)?;
        for (uplink, state) in self.uplinks.iter().zip(&mut states) {
            if refused.contains(&uplink.table) && state.is_usable() {
                *state = LinkState::NoRoute;
            }
        }
        Ok(states)
    }

    /// Gives the tunnel device its addresses, MTU and routes, and brings it up.
    ///
    /// # Errors
    /// If the kernel refuses, for example an MTU that the device cannot have.
    pub fn set_up_tunnel(&mut self, device: u32, setup: &TunnelSetup) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = device;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::Mtu(setup.mtu));
        let up = RouteNetlinkMessage::SetLink(link);
        self.requests.change("set up the tunnel device", up, Mode::Change)?;
        let have: Vec<Address> = self.look()?.addresses.into_iter().filter(|a| a.device == device).collect();
        let wants = |a: &Address| setup.addresses.iter().any(|p| p.addr == a.addr && p.len == a.len);
        for old in have.iter().filter(|a| a.addr.is_ipv4() && !wants(a)) {
            let message = RouteNetlinkMessage::DelAddress(address_message(old));
            self.requests.change("remove an old tunnel address", message, Mode::Change)?;
        }
        for prefix in &setup.addresses {
            let new = Address { device, addr: prefix.addr, len: prefix.len };
            if prefix.addr.is_ipv4() && !have.contains(&new) {
                let message = RouteNetlinkMessage::NewAddress(address_message(&new));
                self.requests.change("add the tunnel address", message, Mode::Create)?;
            }
        }
        self.tunnel = Some(device);
        self.tunnel_routes = model::tunnel_routes(MAIN, device, &setup.addresses, &setup.routes);
        Ok(())
    }

    /// Removes all routes and rules that were made here.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn tear_down(&mut self) -> Result<(), NetlinkError> {
        self.tunnel_routes.clear();
        self.reconcile(&Wanted::default()).map(|_| ())
    }

    fn look(&mut self) -> Result<Snapshot, NetlinkError> {
        let mut snapshot = Snapshot::default();
        let link = RouteNetlinkMessage::GetLink(LinkMessage::default());
        for answer in self.requests.dump("list the links", link)? {
            if let RouteNetlinkMessage::NewLink(link) = answer
                && let Some((name, device)) = device(&link)
            {
                snapshot.devices.insert(name, device);
            }
        }
        let address = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for answer in self.requests.dump("list the addresses", address)? {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                snapshot.addresses.extend(address_of(&message));
            }
        }
        let mut main = RouteMessage::default();
        main.header.address_family = family(self.gateway);
        main.header.table = RouteHeader::RT_TABLE_MAIN;
        for answer in self.requests.dump("list the routes", RouteNetlinkMessage::GetRoute(main))? {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                snapshot.defaults.extend(default_route(&message));
            }
        }
        Ok(snapshot)
    }

    /// Makes what is wanted and missing, removes what is ours and not wanted. Returns the tables of what was refused.
    fn reconcile(&mut self, wanted: &Wanted) -> Result<BTreeSet<u32>, NetlinkError> {
        let have = self.ours()?;
        let mut refused = BTreeSet::new();
        for route in have.routes.difference(&wanted.routes) {
            let message = RouteNetlinkMessage::DelRoute(route_message(route));
            // Gone meanwhile, for example with its device: as wanted.
            if let Err(error) = self.requests.change("remove a route", message, Mode::Change) {
                tracing::debug!(%error, ?route, "route was not removed");
            }
        }
        for rule in have.rules.difference(&wanted.rules) {
            let message = RouteNetlinkMessage::DelRule(rule_message(rule));
            if let Err(error) = self.requests.change("remove a rule", message, Mode::Change) {
                tracing::debug!(%error, ?rule, "rule was not removed");
            }
        }
        for rule in wanted.rules.difference(&have.rules) {
            let message = RouteNetlinkMessage::NewRule(rule_message(rule));
            if let Err(error) = self.requests.change("add a routing rule", message, Mode::Create) {
                tracing::warn!(%error, ?rule, "routing rule refused");
                refused.insert(rule.table);
            }
        }
        // Connected prefixes before what uses them as next hop: the longest first.
        let mut missing: Vec<&Route> = wanted.routes.difference(&have.routes).collect();
        missing.sort_by_key(|route| std::cmp::Reverse(route.len));
        for route in missing {
            let message = RouteNetlinkMessage::NewRoute(route_message(route));
            if let Err(error) = self.requests.change("add a route", message, Mode::Create) {
                tracing::warn!(%error, ?route, "route refused");
                refused.insert(route.table);
            }
        }
        Ok(refused)
    }

    /// What the kernel holds of ours.
    fn ours(&mut self) -> Result<Wanted, NetlinkError> {
        let tables = self.first_table..self.first_table.saturating_add(TABLES);
        let mut found = Wanted::default();
        let mut request = RouteMessage::default();
        request.header.address_family = family(self.gateway);
        request.header.protocol = RouteProtocol::from(PROTOCOL);
        for answer in self.requests.dump("list our routes", RouteNetlinkMessage::GetRoute(request))? {
            if let RouteNetlinkMessage::NewRoute(message) = answer
                && u8::from(message.header.protocol) == PROTOCOL
                && let Some(route) = route_of(&message)
                && (tables.contains(&route.table) || route.table == MAIN && Some(route.device) == self.tunnel)
            {
                found.routes.insert(route);
            }
        }
        let mut request = RuleMessage::default();
        request.header.family = family(self.gateway);
        for answer in self.requests.dump("list the rules", RouteNetlinkMessage::GetRule(request))? {
            if let RouteNetlinkMessage::NewRule(message) = answer
                && message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)))
                && let Some(rule) = rule_of(&message)
                && tables.contains(&rule.table)
            {
                found.rules.insert(rule);
            }
        }
        Ok(found)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Err(error) = self.tear_down() {
            tracing::warn!(%error, "routes and rules were left behind; the next start removes them");
        }
    }
}

const fn family(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn device(link: &LinkMessage) -> Option<(String, Device)> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let flags = link.header.flags;
    let admin_up = flags.contains(LinkFlags::Up);
    Some((
        name,
        Device { index: link.header.index, admin_up, carrier: flags.contains(LinkFlags::LowerUp) },
    ))
}

fn address_of(message: &AddressMessage) -> Option<Address> {
    // On point-to-point links Local is the own address and Address the peer's.
    let mut addr = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => addr = Some(*local),
            AddressAttribute::Address(address) => addr = addr.or(Some(*address)),
            _ => {}
        }
    }
    Some(Address { device: message.header.index, addr: addr?, len: message.header.prefix_len })
}

fn address_message(address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr);
    message.header.prefix_len = address.len;
    message.header.scope = AddressScope::Universe;
    message.header.index = address.device;
    message.attributes.push(AddressAttribute::Local(address.addr));
    message.attributes.push(AddressAttribute::Address(address.addr));
    message
}

fn default_route(message: &RouteMessage) -> Option<DefaultRoute> {
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

fn route_of(message: &RouteMessage) -> Option<Route> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0u8; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u16; 8]),
        _ => return None,
    };
    let mut route = Route {
        table: u32::from(message.header.table),
        dst: unspecified,
        len: message.header.destination_prefix_length,
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
            _ => {}
        }
    }
    (route.device != 0).then_some(route)
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.dst);
    message.header.destination_prefix_length = route.len;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.attributes.push(RouteAttribute::Table(route.table));
    if route.len > 0 {
        message.attributes.push(RouteAttribute::Destination(route.dst.into()));
    }
    message.attributes.push(RouteAttribute::Oif(route.device));
    if let Some(via) = route.via {
        // The configuration names the next hop; it need not lie in a prefix of the device.
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut rule =
        Rule { priority: 0, to: unspecified(message)?, device: None, from: None, table: u32::from(message.header.table) };
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

fn unspecified(message: &RuleMessage) -> Option<IpAddr> {
    match message.header.family {
        AddressFamily::Inet => Some(IpAddr::from([0u8; 4])),
        AddressFamily::Inet6 => Some(IpAddr::from([0u16; 8])),
        _ => None,
    }
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.to);
    message.header.action = RuleAction::ToTable;
    message.header.dst_len = model::host_len(rule.to);
    message.attributes.push(RuleAttribute::Destination(rule.to));
    if let Some(from) = rule.from {
        message.header.src_len = model::host_len(from);
        message.attributes.push(RuleAttribute::Source(from));
    }
    message.attributes.extend(rule.device.clone().map(RuleAttribute::Oifname));
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    message
}
