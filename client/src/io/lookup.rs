//! When the gateway's name is looked up, over what, and what follows from the answer.

use super::names::{Ask, First};
use super::{Shell, addresses, allowed};
use crate::resolve::{ROUTES_MAX, Route};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_host::clock;

/// Most name servers that are asked: as many as libc does.
const SERVERS_MAX: usize = 3;

impl Shell {
    /// When the gateway's name is to be looked up.
    pub(super) fn lookup_due(&self) -> Option<BootTime> {
        self.names.as_ref()?.due(self.agent.unanswered_since())
    }

    /// A lookup has ended: the gateway may be somewhere else now.
    pub(super) fn take_name(&mut self) {
        let current = self.agent.endpoints();
        let works = current.preferred().is_some() && self.agent.unanswered_since().is_none();
        let Some(names) = &mut self.names else { return };
        let now = clock::now();
        let Some(endpoints) = names.take(now, current, works).filter(|found| *found != current) else {
            return;
        };
        let shown: Vec<Endpoint> = endpoints.iter().collect();
        tracing::info!(endpoints = ?shown, "the gateway's name leads here");
        self.links.set_gateways(addresses(endpoints));
        // Their datagrams would go on to the old address.
        for uplink in &mut self.uplinks {
            uplink.transport = None;
        }
        self.agent.set_endpoint(now, endpoints);
        self.refresh_links(now);
    }

    /// Starts a lookup. Outside the tunnel once the host's own way to its name servers may lead into it, or is shut.
    pub(super) fn look_up(&mut self, now: BootTime) {
        let mut servers = self.guard.outside();
        servers.truncate(SERVERS_MAX);
        self.links.set_helpers(servers.clone());
        let gateway = self.agent.endpoints();
        // The way to the name servers, which must be there before anything is asked.
        if let Err(error) = self.links.refresh() {
            tracing::warn!(%error, "the way to the name servers could not be set");
        }
        self.guard.update(allowed(gateway, self.links.helpers()), self.links.local());
        let over =
            |device: &String| servers.iter().map(|server| (device.clone(), *server)).collect::<Vec<_>>();
        let routes = self.devices.iter().flat_map(over).take(ROUTES_MAX);
        let first = if self.routed || self.guard.is_shut() { First::Outside } else { First::Host };
        let ask = Ask {
            first,
            routes: routes.map(|(device, server)| Route { device, server }).collect(),
            mark: self.mark,
        };
        if let Some(names) = &mut self.names {
            names.start(now, ask);
        }
    }
}
