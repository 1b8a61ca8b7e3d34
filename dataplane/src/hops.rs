//! The way to clients that nothing has come from yet. Workers learn a binding's next hop from the frames that they open;
//! one whose address was proven in the request sends before that, and the request came to another process, without its
//! Ethernet header. So the installer asks here: what the kernel, which answered that address a moment ago, knows of routes
//! and neighbours on the WAN. Whoever is not found is sent nothing until he is heard.

use crate::frame::Address;
use crate::lan::{LanRoute, LanView, NextHop};
use crate::netlink::{Netlink, Route};
use crate::pace::Pace;
use jvpn_abi::Endpoint;
use jvpn_abi::ports::PortMark;
use jvpn_abi::tables::NEXT_HOP_KNOWN;
use jvpn_host::clock;
use jvpn_tables::Doorbell;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Next hops on the WAN, for the installer: a view of each of its interfaces, with its number.
#[derive(Debug)]
pub struct WanHops(RwLock<Vec<(u8, LanView)>>);

impl WanHops {
    /// Those of the views of these interfaces.
    #[must_use]
    pub const fn new(views: Vec<(u8, LanView)>) -> Self {
        Self(RwLock::new(views))
    }

    /// Where frames for `remote` go, as `Context::next_hop_mac` says it. Nothing if two interfaces lead there, resolved or
    /// not: the one that the client is heard on is the right one, and which that is nobody knows yet.
    #[must_use]
    pub fn next_hop(&self, remote: Endpoint) -> Option<u64> {
        let views = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let remote = Address(u128::from_be_bytes(remote.addr));
        let leads = |(number, view): &(u8, LanView)| match view.next_hop(remote) {
            NextHop::None => None,
            hop @ (NextHop::Known(_) | NextHop::Unresolved(_)) => Some((*number, hop)),
        };
        let mut ways = views.iter().filter_map(leads);
        match (ways.next(), ways.next()) {
            (Some((number, NextHop::Known(station))), None) => {
                Some(station.mac.to_bits() | PortMark(number).to_next_hop() | NEXT_HOP_KNOWN)
            }
            (_, _) => None,
        }
    }

    fn replace(&self, views: Vec<(u8, LanView)>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = views;
    }
}

/// Keeps [`WanHops`] true. A thread of its own.
#[derive(Debug)]
pub struct HopWatch {
    /// The WAN's interfaces as the kernel routes by them: number and index.
    ports: Vec<(u8, u32)>,
    hops: Arc<WanHops>,
    ask: Netlink,
    listen: Netlink,
    bell: Doorbell,
    pace: Pace,
}

impl HopWatch {
    /// For the WAN's interfaces, each by its number and its index; `bell` wakes it when it is to stop.
    ///
    /// # Errors
    /// If rtnetlink cannot be reached.
    pub fn new(ports: impl Iterator<Item = (u8, u32)>, bell: Doorbell) -> io::Result<Self> {
        let hops = Arc::new(WanHops::new(Vec::new()));
        let ports = ports.collect();
        let (ask, listen) = (Netlink::new()?, Netlink::listening()?);
        let mut watch = Self { ports, hops, ask, listen, bell, pace: Pace::default() };
        watch.look();
        Ok(watch)
    }

    /// What it keeps true.
    #[must_use]
    pub fn hops(&self) -> Arc<WanHops> {
        Arc::clone(&self.hops)
    }

    /// Runs until `stop`.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let mut fds = [
                PollFd::new(self.listen.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            ];
            let patience = self.pace.wait(clock::now()).map_or(PollTimeout::NONE, |wait| {
                PollTimeout::try_from(wait.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            });
            let _woken = poll(&mut fds, patience);
            let _rang = self.bell.silence();
            let heard = self.listen.drain_for(|index| self.ports.iter().any(|(_, ours)| *ours == index));
            self.pace.note(heard);
            if self.pace.take(clock::now()) {
                self.look();
            }
        }
    }

    fn look(&mut self) {
        let began = clock::now();
        let look_at = |(number, index): &(u8, u32)| view(&mut self.ask, *index).map(|view| (*number, view));
        match self.ports.iter().map(look_at).collect::<io::Result<Vec<_>>>() {
            Ok(views) => {
                self.hops.replace(views);
                self.pace.looked(began, clock::now());
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look at WAN routes and neighbours; the last view stays for now");
                self.pace.failed(clock::now());
            }
        }
    }
}

fn view(ask: &mut Netlink, index: u32) -> io::Result<LanView> {
    let route = |Route { network, len, gateway, metric }| LanRoute::new(network, len, gateway).by(0, metric);
    let routes = ask.routes(index)?.into_iter().map(route).collect();
    Ok(LanView::new(routes, ask.neighbours(index)?.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Mac;
    use std::net::IpAddr;

    /// R7.1: a router serves everybody behind it; who is on no route, or not resolved, is nobody that can be sent anything.
    #[test]
    fn r7_1_only_what_the_kernel_has_resolved_is_a_next_hop() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let router = Mac([2, 0, 0, 0, 0, 7]);
        let on_link = LanRoute::new(ip("198.51.100.0"), 24, None);
        let beyond = LanRoute::new(ip("0.0.0.0"), 0, Some(ip("198.51.100.1")));
        let known = [(Address::from(ip("198.51.100.1")), router)].into();
        let view = LanView::new(vec![on_link, beyond], known);
        let hops = WanHops::new(vec![(1, view.clone())]);
        let word = router.to_bits() | PortMark(1).to_next_hop() | NEXT_HOP_KNOWN;
        assert_eq!(hops.next_hop(Endpoint::v4([203, 0, 113, 9], 5)), Some(word));
        assert_eq!(hops.next_hop(Endpoint::v4([198, 51, 100, 9], 5)), None, "not resolved");
        hops.replace(vec![(0, view.clone()), (1, view.clone())]);
        assert_eq!(hops.next_hop(Endpoint::v4([203, 0, 113, 9], 5)), None, "by which of two interfaces?");
        let beyond = LanRoute::new(ip("0.0.0.0"), 0, Some(ip("192.0.2.1")));
        let unresolved = LanView::new(vec![beyond], [].into());
        for (first, second) in [(view.clone(), unresolved.clone()), (unresolved, view.clone())] {
            hops.replace(vec![(0, first), (1, second)]);
            assert_eq!(
                hops.next_hop(Endpoint::v4([203, 0, 113, 9], 5)),
                None,
                "the other one leads there, too"
            );
        }
        hops.replace(vec![(0, LanView::default()), (1, view)]);
        assert_eq!(hops.next_hop(Endpoint::v4([203, 0, 113, 9], 5)), Some(word), "the other one does not");
        hops.replace(vec![(0, LanView::default())]);
        assert_eq!(hops.next_hop(Endpoint::v4([203, 0, 113, 9], 5)), None, "no route");
    }
}
