//! How fast the kernel is asked for LAN neighbours: at once where that is rare, and at a bounded rate while a client scans
//! the LAN, so that whoever asks still hears of changes and of the end.

use crate::frame::Address;
use crate::pace::Pace;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::BootTime;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

/// What became of one address; of several interfaces, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reply {
    /// It is being resolved already: nothing was asked.
    Kept,
    /// The kernel does not resolve it.
    Refused,
    /// The kernel resolves it from now on.
    Resolves,
}

/// The addresses that workers miss.
#[derive(Debug)]
pub(crate) struct Asking {
    misses: Arc<ArrayQueue<Address>>,
    pace: Pace,
}

impl Asking {
    /// For what is put into this queue.
    pub(crate) fn of(misses: Arc<ArrayQueue<Address>>) -> Self {
        Self { misses, pace: Pace::default() }
    }

    /// Until the next [`Self::turn`] that asks; `None` while nothing is known to wait.
    pub(crate) fn wait(&self, now: BootTime) -> Option<Duration> {
        self.pace.wait(now)
    }

    /// Asks for as many addresses as the queue holds, if that is due. `true` if the kernel resolves one from now on.
    pub(crate) fn turn(&mut self, clock: impl Fn() -> BootTime, ask: impl FnMut(Address) -> Reply) -> bool {
        self.pace.note(!self.misses.is_empty());
        let began = clock();
        if !self.pace.take(began) {
            return false;
        }
        // No more than it holds: workers may put in more meanwhile, without end.
        let taken = iter::from_fn(|| self.misses.pop()).take(self.misses.capacity());
        let replies: Vec<Reply> = taken.map(ask).collect();
        // Packets for a host that does not answer miss it again and again; that costs the kernel nothing.
        if replies.iter().any(|reply| *reply != Reply::Kept) {
            self.pace.looked(began, clock());
        }
        self.pace.note(!self.misses.is_empty());
        replies.contains(&Reply::Resolves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const CAPACITY: usize = 256;

    fn host(n: u128) -> Address {
        Address(0x0a00_0000 + n)
    }

    /// R3.2: a client that scans faster than the kernel can be asked does not keep the thread: a turn ends, and a second has
    /// room for a bounded number of them.
    #[test]
    fn r3_2_a_scan_without_end_is_asked_for_at_a_bounded_rate() {
        let misses = Arc::new(ArrayQueue::new(CAPACITY));
        let mut asking = Asking::of(Arc::clone(&misses));
        let start = BootTime::from_millis(9_000);
        assert_eq!(asking.wait(start), None);
        let (asked, next) = (Cell::new(0), Cell::new(0));
        let scan = |_| {
            asked.set(asked.get() + 1);
            assert!(asked.get() < 1_000_000, "a turn without end");
            while misses.push(host(next.get())).is_ok() {
                next.set(next.get() + 1);
            }
            Reply::Resolves
        };
        misses.push(host(0)).unwrap();
        assert!(asking.turn(|| start, scan));
        assert_eq!(asked.get(), CAPACITY);
        let turns =
            (0..1_000).filter(|ms| asking.turn(|| start.after(Duration::from_millis(*ms)), scan)).count();
        assert!((90..=110).contains(&turns), "{turns} turns in a second");
        assert_eq!(asked.get(), (turns + 1) * CAPACITY);
        // What is left is not forgotten.
        assert!(asking.wait(start.after(Duration::from_secs(2))).is_some());
        assert!(
            asking.turn(|| start.after(Duration::from_secs(2)), |_| Reply::Resolves) && misses.is_empty()
        );
        assert_eq!(asking.wait(start.after(Duration::from_secs(2))), None);
    }

    /// R3.2: packets for a host that is being resolved take no other host's turn.
    #[test]
    fn r3_2_what_is_resolved_already_costs_nobody_a_turn() {
        let misses = Arc::new(ArrayQueue::new(CAPACITY));
        let mut asking = Asking::of(Arc::clone(&misses));
        let now = BootTime::from_millis(9_000);
        for _ in 0..1_000 {
            while misses.push(host(1)).is_ok() {}
            assert!(!asking.turn(|| now, |_| Reply::Kept));
        }
        misses.push(host(2)).unwrap();
        assert!(asking.turn(|| now, |_| Reply::Resolves));
        // A refusal is no news, and is paid for.
        for _ in 0..10 {
            misses.push(host(3)).unwrap();
            assert!(!asking.turn(|| now, |_| Reply::Refused));
        }
        assert!(!misses.is_empty() && asking.wait(now).is_some_and(|wait| !wait.is_zero()));
    }
}
