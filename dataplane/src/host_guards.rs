//! Guards: where a route into the tunnel is missing for a moment, the host's next best route to a client or to a site is
//! its default route, and what was to go through the tunnel leaves in clear. So beside each such route stands an
//! `unreachable` one for the same network, whose metric is worse than anybody's.
//!
//! They belong to no device, so nothing takes them away but a data plane: the last thing of an end in order, or the next
//! start. Who ends otherwise leaves them; until somebody starts again, the host sends nothing to its clients in clear.

use crate::host_routes::{destination, towards};
use crate::netlink::Netlink;
use jvpn_tables::InnerPrefix;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use std::collections::BTreeSet;
use std::io;

/// Behind every route that somebody chose.
const METRIC: u32 = 4_000_000_000;

/// Takes back the guards that stand beside no route. Those of another data plane that lives stand beside its routes; one
/// that was caught without puts its guards again.
pub fn sweep() {
    let swept = Netlink::new().and_then(|mut netlink| {
        let left = orphans(&netlink.routes_of_ours()?);
        left.iter().try_for_each(|prefix| netlink.remove_guard(*prefix))
    });
    if let Err(error) = swept {
        tracing::warn!(%error, "unreachable routes may be left: 'ip route show proto 74'");
    }
}

impl Netlink {
    /// The networks that have a guard.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(crate) fn guards(&mut self) -> io::Result<Vec<InnerPrefix>> {
        Ok(self.routes_of_ours()?.iter().filter(|route| is_guard(route)).filter_map(destination).collect())
    }

    /// Puts a guard, unless it is there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn add_guard(&mut self, prefix: InnerPrefix) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRoute(guard(prefix)?);
        match self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Takes a guard back.
    ///
    /// # Errors
    /// If there is none, or the kernel refuses.
    pub(crate) fn remove_guard(&mut self, prefix: InnerPrefix) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelRoute(guard(prefix)?), NLM_F_ACK).map(drop)
    }
}

fn guard(prefix: InnerPrefix) -> io::Result<RouteMessage> {
    let mut message = towards(prefix)?;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unreachable;
    message.attributes.push(RouteAttribute::Priority(METRIC));
    Ok(message)
}

fn is_guard(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unreachable
        && route.attributes.contains(&RouteAttribute::Priority(METRIC))
}

/// Among all routes of data planes: networks with a guard and nothing to guard.
fn orphans(ours: &[RouteMessage]) -> Vec<InnerPrefix> {
    let is_route = |route: &&RouteMessage| route.header.kind == RouteType::Unicast;
    let routed: BTreeSet<InnerPrefix> = ours.iter().filter(is_route).filter_map(destination).collect();
    let guards = ours.iter().filter(|route| is_guard(route)).filter_map(destination);
    guards.filter(|prefix| !routed.contains(prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Address;

    /// R9.1: only guards go, and only those that stand alone: another data plane's, and routes that somebody else made
    /// unreachable under our number, stay.
    #[test]
    fn r9_1_only_guards_that_stand_alone_are_swept() {
        let prefix = |third| InnerPrefix::new(Address::v4([10, 9, third, 0]).0, 120).unwrap();
        let route = |third| {
            let mut route = towards(prefix(third)).unwrap();
            route.header.kind = RouteType::Unicast;
            route
        };
        let mut others = guard(prefix(3)).unwrap();
        others.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Priority(_)));
        let ours = [guard(prefix(1)).unwrap(), route(1), guard(prefix(2)).unwrap(), others, route(4)];
        assert_eq!(orphans(&ours), [prefix(2)]);
    }
}
