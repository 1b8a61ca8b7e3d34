//! What happens next: one queue of happenings in order of virtual time, ties in order of entry.

use super::faults::Fault;
use super::network::Flight;
use jvpn_abi::BootTime;
use std::collections::BTreeMap;

/// Somebody who takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// The control plane.
    Control,
    /// The data plane's installer thread.
    Installer,
    /// A worker.
    Worker(usize),
    /// A client's host.
    Client(usize),
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Happening {
    /// An actor was woken.
    Turn(Actor),
    /// A datagram arrives.
    Arrival(Flight),
    /// A packet reaches the server.
    AtServer(Vec<u8>),
    /// A packet of the server reaches the LAN port.
    FromServer(Vec<u8>),
    /// A client's application sends.
    Traffic(usize),
    /// The host of a client tells about its links.
    LinkNews(usize),
    /// A fault begins or ends.
    Strike(Fault),
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    queue: BTreeMap<(BootTime, u64), Happening>,
    entries: u64,
    /// When each actor is woken next; later entries of the queue for it mean nothing.
    wakes: BTreeMap<Actor, BootTime>,
}

impl Agenda {
    /// Lets something happen.
    pub(super) fn put(&mut self, at: BootTime, happening: Happening) {
        self.entries += 1;
        self.queue.insert((at, self.entries), happening);
    }

    /// Wakes an actor, unless it is woken sooner anyway.
    pub(super) fn wake(&mut self, actor: Actor, at: BootTime) {
        if self.wakes.get(&actor).is_none_or(|due| at < *due) {
            self.wakes.insert(actor, at);
            self.put(at, Happening::Turn(actor));
        }
    }

    /// What happens next, if it does so until `until`.
    pub(super) fn next(&mut self, until: BootTime) -> Option<(BootTime, Happening)> {
        loop {
            let entry = self.queue.first_entry()?;
            let at = entry.key().0;
            if at > until {
                return None;
            }
            let happening = entry.remove();
            if let Happening::Turn(actor) = &happening {
                if self.wakes.get(actor) != Some(&at) {
                    continue;
                }
                self.wakes.remove(actor);
            }
            return Some((at, happening));
        }
    }
}
