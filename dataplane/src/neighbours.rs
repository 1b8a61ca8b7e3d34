//! The neighbour thread: keeps every worker's view of the LAN true.
//!
//! It listens to rtnetlink, has the kernel resolve what workers miss and keep it resolved, and hands out a new view
//! when something changed. Views that workers replaced are freed here.

use crate::frame::{Address, Mac};
use crate::lan::{LanRoute, LanView};
use crate::managed::Managed;
use crate::netlink::Netlink;
use crate::worker::WorkerLinks;
use crossbeam_queue::ArrayQueue;
use jvpn_host::clock;
use jvpn_tables::Doorbell;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the neighbour thread works with.
#[derive(Debug)]
pub struct Neighbours {
    index: u32,
    links: Vec<Arc<WorkerLinks>>,
    misses: Arc<ArrayQueue<Address>>,
    bell: Doorbell,
    ask: Netlink,
    listen: Netlink,
    managed: Managed,
    last: Option<LanView>,
}

impl Neighbours {
    /// For the LAN interface with this index.
    ///
    /// # Errors
    /// If rtnetlink cannot be reached.
    pub fn new(
        index: u32,
        links: Vec<Arc<WorkerLinks>>,
        misses: Arc<ArrayQueue<Address>>,
        bell: Doorbell,
    ) -> io::Result<Self> {
        let (ask, listen) = (Netlink::new()?, Netlink::listening()?);
        Ok(Self { index, links, misses, bell, ask, listen, managed: Managed::default(), last: None })
    }

    /// The first look: every worker gets a view. Call it before anything can be bound; a worker without one takes each
    /// destination for unreachable and says so to the sender.
    pub fn begin(&mut self) {
        self.forget_leftovers();
        self.refresh();
    }

    /// Runs until `stop`; rings on the bell wake it. Takes back what it made the kernel keep.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let mut fds = [
                PollFd::new(self.listen.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            ];
            let _woken = poll(&mut fds, self.patience());
            let _rang = self.bell.silence();
            let asked = self.ask_for_misses();
            let due = self.managed.next_timeout().is_some_and(|at| at <= clock::now());
            if self.listen.drain() || asked || due {
                self.refresh();
            }
            self.free_retired();
        }
        for address in self.managed.drain() {
            self.forget(address);
        }
    }

    fn forget(&mut self, address: Address) {
        if let Err(error) = self.ask.forget(self.index, address) {
            tracing::debug!(%address, %error, "neighbour entry was already gone");
        }
    }

    /// What a data plane that was killed made the kernel keep.
    fn forget_leftovers(&mut self) {
        match self.ask.managed(self.index) {
            Ok(left) => left.into_iter().for_each(|address| self.forget(address)),
            Err(error) => tracing::debug!(%error, "cannot look for neighbours that are left"),
        }
    }

    /// Until the next neighbour may be given up.
    fn patience(&self) -> PollTimeout {
        let Some(due) = self.managed.next_timeout() else { return PollTimeout::NONE };
        PollTimeout::try_from(due.since(clock::now()).as_millis() + 1).unwrap_or(PollTimeout::MAX)
    }

    fn ask_for_misses(&mut self) -> bool {
        let mut asked = false;
        while let Some(address) = self.misses.pop() {
            if self.managed.contains(address) {
                continue;
            }
            if let Some(gone) = self.managed.keep(address, clock::now()) {
                self.forget(gone);
            }
            match self.ask.manage(self.index, address) {
                Ok(()) => asked = true,
                // It is given up after a while and asked for again then: no storm of attempts, nor of log lines.
                Err(error) => {
                    tracing::debug!(%address, %error, "the kernel does not resolve a LAN neighbour")
                }
            }
        }
        asked
    }

    fn refresh(&mut self) {
        let looked =
            self.ask.routes(self.index).and_then(|routes| Ok((routes, self.ask.neighbours(self.index)?)));
        let (routes, neighbours) = match looked {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot look at LAN routes and neighbours; the last view stays");
                return;
            }
        };
        let routes =
            routes.into_iter().map(|(network, len, gateway)| LanRoute::new(network, len, gateway)).collect();
        let neighbours: HashMap<Address, Mac> = neighbours.into_iter().collect();
        for address in self.managed.update(clock::now(), |address| neighbours.contains_key(&address)) {
            self.forget(address);
        }
        let view = LanView::new(routes, neighbours);
        if self.last.as_ref().is_some_and(|last| *last == view) {
            return;
        }
        tracing::debug!(neighbours = view.neighbours().count(), "LAN view changed");
        for links in &self.links {
            // The newest view counts: one that a worker has not fetched yet is pushed out.
            drop(links.lan_views.force_push(Arc::new(view.clone())));
            links.queues.bell.ring();
        }
        self.last = Some(view);
    }

    fn free_retired(&self) {
        for links in &self.links {
            while links.lan_retired.pop().is_some() {}
        }
    }
}
