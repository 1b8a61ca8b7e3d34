//! What happens next: one queue of happenings in order of virtual time, ties in order of entry.

use super::faults::Fault;
use super::network::Flight;
use jvpn_abi::BootTime;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
    Strike(Box<Fault>),
    /// A client goes on with its walk.
    Walk(usize),
    /// A client's application goes on talking: so many packets are left of what it has to say.
    Talk(usize, u32),
    /// The next misfortune of the gateway or of a whole region.
    Misfortune,
}

/// The queue. The heap orders small entries; what happens lies beside it.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    queue: BinaryHeap<Reverse<(BootTime, u64, u32)>>,
    entries: u64,
    happenings: Vec<Option<Happening>>,
    free: Vec<u32>,
    wakes: Wakes,
}

/// When each actor is woken next; later entries of the queue for it mean nothing.
#[derive(Debug, Default)]
struct Wakes {
    control: Option<BootTime>,
    installer: Option<BootTime>,
    workers: Vec<Option<BootTime>>,
    clients: Vec<Option<BootTime>>,
}

impl Wakes {
    fn of(&mut self, actor: Actor) -> &mut Option<BootTime> {
        let (all, index) = match actor {
            Actor::Control => return &mut self.control,
            Actor::Installer => return &mut self.installer,
            Actor::Worker(index) => (&mut self.workers, index),
            Actor::Client(index) => (&mut self.clients, index),
        };
        if all.len() <= index {
            all.resize(index + 1, None);
        }
        &mut all[index]
    }
}

impl Agenda {
    /// Lets something happen.
    pub(super) fn put(&mut self, at: BootTime, happening: Happening) {
        self.entries += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.happenings[place as usize] = Some(happening);
                place
            }
            None => {
                self.happenings.push(Some(happening));
                u32::try_from(self.happenings.len() - 1).expect("fewer happenings than memory has room for")
            }
        };
        self.queue.push(Reverse((at, self.entries, place)));
    }

    /// Wakes an actor, unless it is woken sooner anyway.
    pub(super) fn wake(&mut self, actor: Actor, at: BootTime) {
        let due = self.wakes.of(actor);
        if due.is_none_or(|due| at < due) {
            *due = Some(at);
            self.put(at, Happening::Turn(actor));
        }
    }

    /// What happens next, if it does so until `until`.
    pub(super) fn next(&mut self, until: BootTime) -> Option<(BootTime, Happening)> {
        loop {
            let Reverse((at, _, place)) = *self.queue.peek()?;
            if at > until {
                return None;
            }
            self.queue.pop();
            self.free.push(place);
            let Some(happening) = self.happenings[place as usize].take() else { continue };
            if let Happening::Turn(actor) = &happening {
                let due = self.wakes.of(*actor);
                if *due != Some(at) {
                    continue;
                }
                *due = None;
            }
            return Some((at, happening));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(value: u64) -> BootTime {
        BootTime::from_millis(value)
    }

    /// I9: in order of time, ties in order of entry; an actor that is woken sooner is not woken again later.
    #[test]
    fn in_order_and_each_wake_once() {
        let mut agenda = Agenda::default();
        agenda.put(ms(5), Happening::Traffic(1));
        agenda.wake(Actor::Client(7), ms(9));
        agenda.put(ms(5), Happening::Traffic(2));
        agenda.wake(Actor::Client(7), ms(2));
        agenda.wake(Actor::Client(7), ms(3));
        let mut seen = Vec::new();
        while let Some((at, happening)) = agenda.next(ms(100)) {
            seen.push((at.as_millis(), format!("{happening:?}")));
        }
        let expected = [(2, "Turn(Client(7))"), (5, "Traffic(1)"), (5, "Traffic(2)")];
        assert_eq!(seen, expected.map(|(at, text)| (at, text.to_owned())));
        agenda.wake(Actor::Client(7), ms(101));
        assert!(agenda.next(ms(100)).is_none(), "not before its time");
        assert!(agenda.next(ms(101)).is_some());
    }
}
