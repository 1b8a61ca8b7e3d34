//! The host's links: their state, and the routes, rules and tunnel addresses that the agent needs.
//!
//! Everything made here carries [`PROTOCOL`] as its origin and lies in the agent's own table numbers, or leads into the
//! agent's own tunnel device: that is how it is found again, compared, and removed at exit or, after a kill, at the next
//! start. Nothing of anybody else is ever changed.

pub mod model;
pub mod netlink;
pub mod traffic;
mod translate;
pub mod watch;

use crate::paths::LinkState;
use jvpn_session::messages::Prefix;
use model::{Address, Family, Route, RouteKind, Snapshot, UplinkRouting, Wanted};
use netlink::{Mode, NetlinkError, Requests};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::net::IpAddr;
use traffic::TrafficSetup;
use translate::{
    address_message, address_of, default_route, device, route_message, route_of, rule_message, rule_of,
};

/// Origin of our routes and rules (`rtm_protocol`; 74 = 'J' is assigned to nobody in linux/rtnetlink.h).
pub const PROTOCOL: u8 = 74;
/// The main routing table.
const MAIN: u32 = 254;
/// Families whose routes and rules are looked after.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];
/// Most uplinks, and so most tables from the first one on. The one behind them is that of [`traffic`].
pub const TABLES: u32 = 64;

/// What the tunnel device should look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelSetup {
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// What the gateway routes into it.
    pub routes: Vec<Prefix>,
    /// What the user does.
    pub traffic: TrafficSetup,
    /// Most packets in one large one, where such cross it.
    pub segments_max: Option<u32>,
    /// Its MTU, octets.
    pub mtu: u32,
}

/// The host's links as one agent uses them. When dropped it removes what it made, unless the agent was to lead traffic
/// into the tunnel and nobody has asked for its end ([`Self::tear_down`]): then what was meant for it stays refused.
#[derive(Debug)]
pub struct Links {
    requests: Requests,
    uplinks: Vec<UplinkRouting>,
    gateways: Vec<IpAddr>,
    first_table: u32,
    tunnel: Option<u32>,
    /// Whether the tunnel device was up, as last seen.
    tunnel_up: bool,
    /// What the gateway routes into the tunnel.
    granted: Vec<Prefix>,
    traffic: TrafficSetup,
    addresses: Vec<Prefix>,
    helpers: Vec<IpAddr>,
    local: BTreeSet<(IpAddr, u8)>,
    indexes: BTreeSet<u32>,
}

impl Links {
    /// Removes what a killed agent with the same tables left behind.
    ///
    /// # Errors
    /// If the kernel refuses; without CAP_NET_ADMIN it does.
    pub fn open(
        uplinks: Vec<UplinkRouting>,
        gateways: Vec<IpAddr>,
        first_table: u32,
    ) -> Result<Self, NetlinkError> {
        let requests = Requests::open()?;
        let mut links = Self {
            requests,
            uplinks,
            gateways,
            first_table,
            tunnel: None,
            tunnel_up: false,
            granted: Vec::new(),
            traffic: TrafficSetup::default(),
            addresses: Vec::new(),
            helpers: Vec::new(),
            local: BTreeSet::new(),
            indexes: BTreeSet::new(),
        };
        links.reconcile(&Wanted::default())?;
        Ok(links)
    }

    /// The gateway is elsewhere now, the preferred address first; the next [`Self::refresh`] leads there.
    pub fn set_gateways(&mut self, gateways: Vec<IpAddr>) {
        self.gateways = gateways;
    }

    /// Name servers that are asked over the uplinks, from the next [`Self::refresh`] on.
    pub fn set_helpers(&mut self, helpers: Vec<IpAddr>) {
        self.helpers = helpers;
    }

    /// As last set.
    #[must_use]
    pub fn helpers(&self) -> &[IpAddr] {
        &self.helpers
    }

    /// The networks that the uplinks are connected to, as last seen.
    #[must_use]
    pub const fn local(&self) -> &BTreeSet<(IpAddr, u8)> {
        &self.local
    }

    /// Whether the tunnel device was up, as last seen: else nothing is routed into it.
    #[must_use]
    pub const fn is_tunnel_up(&self) -> bool {
        self.tunnel_up
    }

    /// Kernel indexes of the uplink devices and the tunnel's, as last seen: of those whose news matter.
    #[must_use]
    pub const fn indexes(&self) -> &BTreeSet<u32> {
        &self.indexes
    }

    /// Looks at the host, gives the tunnel device what it has lost, brings routes and rules in line, and returns the
    /// state of each uplink in order.
    ///
    /// # Errors
    /// If the host cannot be looked at. A route or rule that the kernel refuses makes its uplink unusable, not this.
    pub fn refresh(&mut self) -> Result<Vec<LinkState>, NetlinkError> {
        let snapshot = self.look()?;
        let addresses = self.mend_tunnel(&snapshot);
        let mut wanted = Wanted::default();
        let mut states = Vec::with_capacity(self.uplinks.len());
        self.indexes.clear();
        for uplink in &self.uplinks {
            self.indexes.extend(snapshot.devices.get(&uplink.device).map(|device| device.index));
            let (state, own) = model::towards(&snapshot, uplink, &self.gateways);
            wanted.routes.extend(own.routes);
            wanted.rules.extend(own.rules);
            for helper in &self.helpers {
                wanted.rules.extend(model::towards(&snapshot, uplink, &[*helper]).1.rules);
                // The routes are those to the gateway; while none of this family is known, those to anywhere.
                if !self.gateways.iter().any(|gateway| gateway.is_ipv4() == helper.is_ipv4()) {
                    wanted
                        .routes
                        .extend(model::towards(&snapshot, uplink, &[model::anywhere(*helper)]).1.routes);
                }
            }
            if self.tunnel.is_some() && !self.traffic.into.is_empty() {
                let bound = model::bound(&snapshot, uplink);
                wanted.rules.extend(bound.rules);
                if !self.gateways.iter().any(IpAddr::is_ipv4) {
                    wanted.routes.extend(bound.routes);
                }
            }
            states.push(state);
        }
        self.local = model::networks(&snapshot, &self.indexes);
        self.indexes.extend(self.tunnel);
        if let (Some(tunnel), Some(first)) = (self.tunnel, self.uplinks.first()) {
            let table = self.first_table.saturating_add(TABLES);
            wanted.routes.extend(model::tunnel_routes(MAIN, tunnel, &addresses, &self.granted));
            wanted.routes.extend(self.traffic.routes(table, tunnel, &addresses, &self.local));
            // Behind the rules that lead to the gateway and those of bound sockets, before everybody's.
            wanted.rules.extend(self.traffic.rules(table, first.rule_priority.saturating_add(2)));
        }
        let refused = self.reconcile(&wanted)?;
        for (uplink, state) in self.uplinks.iter().zip(&mut states) {
            if state.source().is_some_and(|source| refused.contains(&(uplink.table, Family::of(source)))) {
                *state = LinkState::NoRoute;
            }
        }
        Ok(states)
    }

    /// Gives the tunnel device back which of its addresses it has lost, and says which it has: none while it is down,
    /// when no route can lead into it. Down it stays: two who fight over a device help nobody.
    fn mend_tunnel(&mut self, snapshot: &Snapshot) -> Vec<Prefix> {
        let Some(device) = self.tunnel else { return Vec::new() };
        let is_up = snapshot.devices.values().any(|known| known.index == device && known.admin_up);
        if is_up != self.tunnel_up {
            self.tunnel_up = is_up;
            if is_up {
                tracing::info!("the tunnel device is up again");
            } else {
                tracing::warn!(
                    "the tunnel device was taken down: what [traffic] leads into it is refused until it is up again"
                );
            }
        }
        let mut addresses = if is_up { self.addresses.clone() } else { Vec::new() };
        addresses.retain(|prefix| {
            let address = Address { device, addr: prefix.addr, len: prefix.len };
            if snapshot.addresses.contains(&address) {
                return true;
            }
            let message = RouteNetlinkMessage::NewAddress(address_message(&address));
            let added = self.requests.change("add a lost tunnel address again", message, Mode::Create);
            if let Err(error) = &added {
                tracing::warn!(%error, address = %prefix, "nothing can be routed into the tunnel from this address");
            }
            added.is_ok()
        });
        addresses
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
        if let Some(segments) = setup.segments_max {
            let mut link = LinkMessage::default();
            link.header.index = device;
            link.attributes.push(LinkAttribute::GsoMaxSegs(segments));
            // An older kernel cannot be told; then TCP with very small segments loses packets.
            if let Err(error) =
                self.requests.change("bound large packets", RouteNetlinkMessage::SetLink(link), Mode::Change)
            {
                tracing::debug!(%error, "large packets are not bounded");
            }
        }
        let have: Vec<Address> = self.look()?.addresses.into_iter().filter(|a| a.device == device).collect();
        let wants = |a: &Address| setup.addresses.iter().any(|p| p.addr == a.addr && p.len == a.len);
        for old in have.iter().filter(|a| !model::is_link_local(a.addr) && !wants(a)) {
            let message = RouteNetlinkMessage::DelAddress(address_message(old));
            self.requests.change("remove an old tunnel address", message, Mode::Change)?;
        }
        let mut addresses = Vec::new();
        let mut refused = Ok(());
        for prefix in &setup.addresses {
            let new = Address { device, addr: prefix.addr, len: prefix.len };
            let message = RouteNetlinkMessage::NewAddress(address_message(&new));
            let is_there = have.contains(&new);
            match if is_there {
                Ok(())
            } else {
                self.requests.change("add a tunnel address", message, Mode::Create)
            } {
                Ok(()) => addresses.push(*prefix),
                Err(error) => {
                    tracing::warn!(%error, address = %prefix, "this family is not served inside the tunnel; IPv6 may be switched off on this host (sysctl net.ipv6.conf.*.disable_ipv6)");
                    refused = Err(error);
                }
            }
        }
        (self.tunnel, self.tunnel_up) = (Some(device), true);
        self.granted.clone_from(&setup.routes);
        self.traffic = setup.traffic.clone();
        // A family that was refused is one that the tunnel does not carry.
        self.addresses.clone_from(&addresses);
        // One family is enough to go on with.
        if addresses.is_empty() { refused } else { Ok(()) }
    }

    /// Gives the tunnel device another MTU.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_mtu(&mut self, device: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = device;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        self.requests.change("set the tunnel's MTU", RouteNetlinkMessage::SetLink(link), Mode::Change)
    }

    /// Removes all routes and rules that were made here.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn tear_down(&mut self) -> Result<(), NetlinkError> {
        self.traffic = TrafficSetup::default();
        self.reconcile(&Wanted::default()).map(|_| ())
    }

    /// What of ours is still there, in words: the tunnel device of this name, routes and rules.
    ///
    /// # Errors
    /// If the host cannot be looked at.
    pub fn left_over(&mut self, device: &str) -> Result<Vec<String>, NetlinkError> {
        let ours = self.ours()?;
        let routes = ours.routes.iter().map(|route| format!("route {route:?}"));
        let rules = ours.rules.iter().map(|rule| format!("rule {rule:?}"));
        let device = self.look()?.devices.contains_key(device).then(|| format!("device {device}"));
        Ok(device.into_iter().chain(routes).chain(rules).collect())
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
        for family in FAMILIES {
            let mut main = RouteMessage::default();
            main.header.address_family = family;
            main.header.table = RouteHeader::RT_TABLE_MAIN;
            for answer in self.requests.dump("list the routes", RouteNetlinkMessage::GetRoute(main))? {
                if let RouteNetlinkMessage::NewRoute(message) = answer
                    && message.header.address_family == family
                {
                    snapshot.defaults.extend(default_route(&message));
                }
            }
        }
        Ok(snapshot)
    }

    /// Makes what is wanted and missing, removes what is ours and not wanted. Returns tables and families of what was
    /// refused.
    fn reconcile(&mut self, wanted: &Wanted) -> Result<BTreeSet<(u32, Family)>, NetlinkError> {
        let have = self.ours()?;
        let mut refused = BTreeSet::new();
        // What only changes is replaced below: between removing and adding, traffic would go another way.
        let place = |route: &Route| (route.table, route.dst, route.len, route.metric);
        let kept: BTreeSet<_> = wanted.routes.iter().map(place).collect();
        for route in have.routes.difference(&wanted.routes).filter(|route| !kept.contains(&place(route))) {
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
        // Connected prefixes before what uses them as next hop, and what is excluded before what it is excluded from:
        // the longest first.
        let mut missing: Vec<&Route> = wanted.routes.difference(&have.routes).collect();
        let taken: BTreeSet<_> = have.routes.iter().map(place).collect();
        missing.sort_by_key(|route| std::cmp::Reverse(route.len));
        for route in missing {
            let message = RouteNetlinkMessage::NewRoute(route_message(route));
            let mode = if taken.contains(&place(route)) { Mode::Replace } else { Mode::Create };
            if let Err(error) = self.requests.change("add a route", message, mode) {
                tracing::warn!(%error, ?route, "route refused");
                refused.insert((route.table, Family::of(route.dst)));
                self.close(route);
            }
        }
        for rule in wanted.rules.difference(&have.rules) {
            let message = RouteNetlinkMessage::NewRule(rule_message(rule));
            if let Err(error) = self.requests.change("add a routing rule", message, Mode::Create) {
                tracing::warn!(%error, ?rule, "routing rule refused");
                refused.insert((rule.table, Family::of(rule.to)));
            }
        }
        Ok(refused)
    }

    /// What was meant for the tunnel and cannot go there goes nowhere.
    fn close(&mut self, refused: &Route) {
        if refused.table != self.first_table.saturating_add(TABLES) || refused.kind != RouteKind::Unicast {
            return;
        }
        let closed = Route { kind: RouteKind::Unreachable, device: 0, via: None, source: None, ..*refused };
        let message = RouteNetlinkMessage::NewRoute(route_message(&closed));
        if let Err(error) =
            self.requests.change("refuse what the tunnel cannot carry", message, Mode::Replace)
        {
            tracing::error!(%error, route = ?closed, "what was meant for the tunnel may go around it");
        }
    }

    /// What the kernel holds of ours.
    fn ours(&mut self) -> Result<Wanted, NetlinkError> {
        let mut found = Wanted::default();
        for family in FAMILIES {
            if let Err(error) = self.ours_of(family, &mut found) {
                // Only IPv6 may be missing.
                if family == AddressFamily::Inet {
                    return Err(error);
                }
                tracing::debug!(%error, "this kernel has no IPv6");
            }
        }
        Ok(found)
    }

    fn ours_of(&mut self, family: AddressFamily, found: &mut Wanted) -> Result<(), NetlinkError> {
        let tables = self.first_table..=self.first_table.saturating_add(TABLES);
        let mut request = RouteMessage::default();
        request.header.address_family = family;
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
        request.header.family = family;
        for answer in self.requests.dump("list the rules", RouteNetlinkMessage::GetRule(request))? {
            if let RouteNetlinkMessage::NewRule(message) = answer
                && message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)))
                && let Some(rule) = rule_of(&message)
                && tables.contains(&rule.table)
            {
                found.rules.insert(rule);
            }
        }
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if self.tunnel.is_some() && !self.traffic.is_empty() {
            tracing::warn!(
                "what was meant for the tunnel stays refused: 'jvpn up' takes over, 'jvpn down' opens"
            );
            return;
        }
        if let Err(error) = self.tear_down() {
            tracing::warn!(%error, "routes and rules were left behind; the next start removes them");
        }
    }
}

/// Reads a datagram of the kernel as every listener and asker of this module would; how much of it had a meaning. For
/// the fuzzer, which has no kernel to ask.
#[doc(hidden)]
#[must_use]
pub fn understand(datagram: &[u8], devices: &[String], indexes: &BTreeSet<u32>) -> usize {
    let mut answers = Vec::new();
    let whole = netlink::collect("fuzz", datagram, 1, &mut answers).is_ok();
    let understood = answers.iter().filter(|answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            device(link).is_some()
        } else if let RouteNetlinkMessage::NewAddress(address) = answer {
            address_of(address).is_some()
        } else if let RouteNetlinkMessage::NewRoute(route) = answer {
            // What was understood of a route can be said again; the message need not be the same.
            default_route(route).is_some() | route_of(route).map(|route| route_message(&route)).is_some()
        } else if let RouteNetlinkMessage::NewRule(rule) = answer {
            rule_of(rule).map(|rule| rule_message(&rule)).is_some()
        } else {
            false
        }
    });
    understood.count() + usize::from(whole) + usize::from(watch::concerns(datagram, devices, indexes))
}
