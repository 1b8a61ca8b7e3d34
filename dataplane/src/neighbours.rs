//! The neighbour thread: keeps every worker's view of the LAN true.
//!
//! It listens to rtnetlink, has the kernel resolve what workers miss and keep it resolved, and hands out a new view
//! when something changed. Views that workers replaced are freed here.

use crate::asking::{Asking, Reply};
use crate::frame::{Address, Mac};
use crate::lan::{LanRoute, LanView};
use crate::managed::Managed;
use crate::netlink::{Entry, Netlink, Route};
use crate::pace::Pace;
use crate::port::Watched;
use crate::worker::WorkerLinks;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::BootTime;
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
    ports: Vec<LanSide>,
    links: Vec<Arc<WorkerLinks>>,
    asking: Asking,
    bell: Doorbell,
    ask: Netlink,
    listen: Netlink,
    pace: Pace,
    last: Option<LanView>,
}

/// One interface of the LAN.
#[derive(Debug)]
struct LanSide {
    number: u8,
    index: u32,
    watched: Arc<Watched>,
    /// Whether it was up at the last look.
    was_up: bool,
    managed: Managed,
}

impl Neighbours {
    /// For the LAN's interfaces: number, index and state of each.
    ///
    /// # Errors
    /// If rtnetlink cannot be reached.
    pub fn new(
        ports: impl IntoIterator<Item = (u8, u32, Arc<Watched>)>,
        links: Vec<Arc<WorkerLinks>>,
        misses: Arc<ArrayQueue<Address>>,
        bell: Doorbell,
    ) -> io::Result<Self> {
        let (ask, listen) = (Netlink::new()?, Netlink::listening()?);
        let side = |(number, index, watched)| LanSide {
            number,
            index,
            watched,
            was_up: true,
            managed: Managed::default(),
        };
        let ports = ports.into_iter().map(side).collect();
        Ok(Self {
            ports,
            links,
            asking: Asking::of(misses),
            bell,
            ask,
            listen,
            pace: Pace::default(),
            last: None,
        })
    }

    /// The first look: every worker gets a view. Call it before anything can be bound; a worker without one takes each
    /// destination for unreachable and says so to the sender.
    pub fn begin(&mut self) {
        self.forget_leftovers();
        self.look();
    }

    /// Runs until `stop`; rings on the bell wake it. Takes back what it made the kernel keep.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let now = clock::now();
            // While more is to be asked for than may be, the bell has nothing new to say.
            let is_behind = self.asking.wait(now).is_some();
            let wish = if is_behind { PollFlags::empty() } else { PollFlags::POLLIN };
            let mut fds =
                [PollFd::new(self.listen.as_fd(), PollFlags::POLLIN), PollFd::new(self.bell.as_fd(), wish)];
            let _woken = poll(&mut fds, self.patience(now));
            let _rang = self.bell.silence();
            let asked = self.ask_for_misses();
            let now = clock::now();
            let due = self.next_timeout().is_some_and(|at| at <= now);
            let turned = self.ports.iter().any(|port| port.was_up != port.watched.is_up());
            let heard = self.listen.drain_for(|index| self.ports.iter().any(|port| port.index == index));
            self.pace.note(heard || asked || due || turned);
            if self.pace.take(now) {
                self.look();
            }
            self.free_retired();
        }
        for port in &mut self.ports {
            for address in port.managed.drain() {
                forget(&mut self.ask, port.index, address);
            }
        }
    }

    /// What a data plane that was killed made the kernel keep.
    fn forget_leftovers(&mut self) {
        for port in &self.ports {
            match self.ask.managed(port.index) {
                Ok(left) => {
                    left.into_iter().for_each(|address| forget(&mut self.ask, port.index, address));
                }
                Err(error) => tracing::debug!(%error, "cannot look for neighbours that are left"),
            }
        }
    }

    fn next_timeout(&self) -> Option<BootTime> {
        self.ports.iter().filter_map(|port| port.managed.next_timeout()).min()
    }

    /// Until the next look or turn to ask, or until the next neighbour may be given up.
    fn patience(&self, now: BootTime) -> PollTimeout {
        let due = [self.pace.wait(now), self.asking.wait(now)].into_iter().flatten().min();
        let wait = due.or_else(|| self.next_timeout().map(|due| due.since(now)));
        wait.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        })
    }

    fn ask_for_misses(&mut self) -> bool {
        let Self { asking, ports, ask, last, .. } = self;
        asking.turn(clock::now, |address| {
            // Where it was missed is what the routes say, as they said it to the worker.
            let behind: Vec<u8> = last.iter().flat_map(|view| view.ports_of(address)).collect();
            let of = ports.iter_mut().filter(|port| behind.contains(&port.number));
            of.map(|port| port.ask_for(ask, address)).max().unwrap_or(Reply::Kept)
        })
    }

    fn look(&mut self) {
        let began = clock::now();
        match self.refresh() {
            Ok(()) => self.pace.looked(began, clock::now()),
            Err(error) => {
                tracing::warn!(%error, "cannot look at LAN routes and neighbours; the last view stays for now");
                self.pace.failed(clock::now());
            }
        }
    }

    fn refresh(&mut self) -> io::Result<()> {
        let (mut used, mut neighbours) = (Vec::new(), Vec::new());
        let is_one = self.ports.len() == 1;
        for port in &mut self.ports {
            port.was_up = port.watched.is_up();
            let mut known: HashMap<Address, Mac> = HashMap::new();
            // The routes of an interface without a carrier stay in the kernel; packets are better off with another one's.
            if port.was_up || is_one {
                used.push((port.index, port.number));
                known.extend(self.ask.neighbours(port.index)?);
            }
            for address in port.managed.update(clock::now(), |address| known.contains_key(&address)) {
                forget(&mut self.ask, port.index, address);
            }
            neighbours.resize_with(usize::from(port.number), HashMap::new);
            neighbours.push(known);
        }
        let view = LanView::of_ports(routes(&mut self.ask, &used)?, neighbours);
        if self.last.as_ref().is_some_and(|last| *last == view) {
            return Ok(());
        }
        tracing::debug!(neighbours = view.neighbours().count(), "LAN view changed");
        for links in &self.links {
            // The newest view counts: one that a worker has not fetched yet is pushed out.
            drop(links.lan_views.force_push(Arc::new(view.clone())));
            links.queues.bell.ring();
        }
        self.last = Some(view);
        Ok(())
    }

    fn free_retired(&self) {
        for links in &self.links {
            while links.lan_retired.pop().is_some() {}
        }
    }
}

/// What the main table says, as workers see it: `ports` are the interfaces that packets may leave by, each by its index
/// and its number.
fn routes(ask: &mut Netlink, ports: &[(u32, u8)]) -> io::Result<Vec<LanRoute>> {
    let indexes: Vec<u32> = ports.iter().map(|(index, _)| *index).collect();
    let seen = |entry| match entry {
        Entry::Out(by, Route { network, len, gateway, metric }) => {
            let (_, number) = ports.iter().find(|(index, _)| *index == by)?;
            Some(LanRoute::new(network, len, gateway).by(*number, metric))
        }
        Entry::Refused { network, len, metric } => Some(LanRoute::refusing(network, len, metric)),
    };
    Ok(ask.main_table(&indexes)?.into_iter().filter_map(seen).collect())
}

impl LanSide {
    /// Has the kernel resolve an address.
    fn ask_for(&mut self, ask: &mut Netlink, address: Address) -> Reply {
        if self.managed.contains(address) {
            return Reply::Kept;
        }
        if let Some(gone) = self.managed.keep(address, clock::now()) {
            forget(ask, self.index, gone);
        }
        match ask.manage(self.index, address) {
            Ok(()) => Reply::Resolves,
            // It is given up after a while and asked for again then: no storm of attempts, nor of log lines.
            Err(error) => {
                tracing::debug!(%address, %error, "the kernel does not resolve a LAN neighbour");
                Reply::Refused
            }
        }
    }
}

fn forget(ask: &mut Netlink, index: u32, address: Address) {
    if let Err(error) = ask.forget(index, address) {
        tracing::debug!(%address, %error, "neighbour entry was already gone");
    }
}
