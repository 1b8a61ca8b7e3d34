//! The way to clients that nothing has come from yet. Workers learn a binding's next hop from the frames that they open;
//! one whose address was proven in the request sends before that, and the request came to another process, without its
//! Ethernet header. So the installer asks here: what the kernel, which answered that address a moment ago, knows of routes
//! and neighbours on the WAN. Whoever is not found is sent nothing until he is heard.

use crate::frame::{Address, Mac};
use crate::lan::{LanRoute, LanView, NextHop};
use crate::netlink::Netlink;
use jvpn_abi::{BootTime, Endpoint};
use jvpn_host::clock;
use jvpn_tables::Doorbell;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The tables are looked at no more often than this, however fast they change: an on-link flood of made-up addresses makes
/// and fails neighbours as fast as it comes.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Next hops on the WAN, for the installer.
#[derive(Debug)]
pub struct WanHops(RwLock<LanView>);

impl WanHops {
    /// Those of a view.
    #[must_use]
    pub const fn new(view: LanView) -> Self {
        Self(RwLock::new(view))
    }

    /// Where frames for `remote` go.
    #[must_use]
    pub fn next_hop(&self, remote: Endpoint) -> Option<Mac> {
        let view = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match view.next_hop(Address(u128::from_be_bytes(remote.addr))) {
            NextHop::Known(mac) => Some(mac),
            NextHop::Unresolved(_) | NextHop::None => None,
        }
    }

    fn replace(&self, view: LanView) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// Keeps [`WanHops`] true. A thread of its own.
#[derive(Debug)]
pub struct HopWatch {
    index: u32,
    hops: Arc<WanHops>,
    ask: Netlink,
    listen: Netlink,
    bell: Doorbell,
}

impl HopWatch {
    /// For the WAN interface with this index; `bell` wakes it when it is to stop.
    ///
    /// # Errors
    /// If rtnetlink cannot be reached.
    pub fn new(index: u32, bell: Doorbell) -> io::Result<Self> {
        let hops = Arc::new(WanHops::new(LanView::default()));
        let mut watch = Self { index, hops, ask: Netlink::new()?, listen: Netlink::listening()?, bell };
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
        let (mut changed, mut next) = (false, BootTime(0));
        while !stop.load(Ordering::Acquire) {
            let mut fds = [
                PollFd::new(self.listen.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            ];
            let wait = next.since(clock::now()).as_millis() + 1;
            let soon = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            let patience = if changed { soon } else { PollTimeout::NONE };
            let _woken = poll(&mut fds, patience);
            let _rang = self.bell.silence();
            changed |= self.listen.drain();
            let now = clock::now();
            if changed && now >= next {
                self.look();
                (changed, next) = (false, now.after(LOOK_EVERY));
            }
        }
    }

    fn look(&mut self) {
        let found =
            self.ask.routes(self.index).and_then(|routes| Ok((routes, self.ask.neighbours(self.index)?)));
        match found {
            Ok((routes, neighbours)) => {
                let route = |(network, len, gateway)| LanRoute::new(network, len, gateway);
                let routes = routes.into_iter().map(route).collect();
                self.hops.replace(LanView::new(routes, neighbours.into_iter().collect()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look at WAN routes and neighbours; the last view stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    /// R7.1: a router serves everybody behind it; who is on no route, or not resolved, is nobody that can be sent anything.
    #[test]
    fn r7_1_only_what_the_kernel_has_resolved_is_a_next_hop() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let router = Mac([2, 0, 0, 0, 0, 7]);
        let on_link = LanRoute::new(ip("198.51.100.0"), 24, None);
        let beyond = LanRoute::new(ip("0.0.0.0"), 0, Some(ip("198.51.100.1")));
        let known = [(Address::from(ip("198.51.100.1")), router)].into();
        let hops = WanHops::new(LanView::new(vec![on_link, beyond], known));
        assert_eq!(hops.next_hop(Endpoint::v4([203, 0, 113, 9], 5)), Some(router));
        assert_eq!(hops.next_hop(Endpoint::v4([198, 51, 100, 9], 5)), None, "not resolved");
        hops.replace(LanView::default());
        assert_eq!(hops.next_hop(Endpoint::v4([203, 0, 113, 9], 5)), None, "no route");
    }
}
