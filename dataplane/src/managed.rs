//! Which LAN neighbours the kernel is asked to keep resolved. Bounded, so that a scan through the tunnel can neither fill
//! the kernel's table nor keep real hosts out: addresses that do not answer are given up first.

use crate::frame::Address;
use jvpn_abi::BootTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most neighbours that are kept at once: half of the kernel's default table (gc_thresh3, arp(7)).
pub const MAX_MANAGED: usize = 512;
/// Most of them that have not answered.
pub const MAX_UNRESOLVED: usize = 64;
/// An address that has not answered for so long is given up.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

/// The neighbours that are kept.
#[derive(Debug, Default)]
pub struct Managed {
    /// Since when, and whether it has answered.
    kept: BTreeMap<Address, (BootTime, Answered)>,
}

/// Whether a neighbour has a known address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answered {
    Yes,
    No,
}

impl Managed {
    /// Whether this neighbour is kept already.
    #[must_use]
    pub fn contains(&self, address: Address) -> bool {
        self.kept.contains_key(&address)
    }

    /// Keeps a neighbour; returns the one that has to go for it.
    #[must_use]
    pub fn keep(&mut self, address: Address, now: BootTime) -> Option<Address> {
        let silent = self.kept.values().filter(|(_, answered)| *answered == Answered::No).count();
        let gone = if silent >= MAX_UNRESOLVED {
            self.oldest(Answered::No)
        } else if self.kept.len() >= MAX_MANAGED {
            self.oldest(Answered::No).or_else(|| self.oldest(Answered::Yes))
        } else {
            None
        };
        if let Some(gone) = gone {
            self.kept.remove(&gone);
        }
        self.kept.insert(address, (now, Answered::No));
        gone
    }

    fn oldest(&self, wanted: Answered) -> Option<Address> {
        let of = self.kept.iter().filter(|(_, (_, answered))| *answered == wanted);
        of.min_by_key(|(_, (since, _))| *since).map(|(address, _)| *address)
    }

    /// Notes who is resolved now, and gives up who was silent for too long.
    #[must_use]
    pub fn update(&mut self, now: BootTime, is_resolved: impl Fn(Address) -> bool) -> Vec<Address> {
        let mut given_up = Vec::new();
        self.kept.retain(|address, (since, answered)| {
            let resolved = is_resolved(*address);
            match (resolved, *answered) {
                (true, _) => *answered = Answered::Yes,
                // It was there and is silent now: its time starts anew.
                (false, Answered::Yes) => (*since, *answered) = (now, Answered::No),
                (false, Answered::No) => {}
            }
            let stays = resolved || now.since(*since) < GIVE_UP_AFTER;
            if !stays {
                given_up.push(*address);
            }
            stays
        });
        given_up
    }

    /// When [`Self::update`] may give somebody up, at the earliest.
    #[must_use]
    pub fn next_timeout(&self) -> Option<BootTime> {
        let silent = self.kept.values().filter(|(_, answered)| *answered == Answered::No);
        silent.map(|(since, _)| since.after(GIVE_UP_AFTER)).min()
    }

    /// Everybody, once.
    pub fn drain(&mut self) -> impl Iterator<Item = Address> + use<> {
        std::mem::take(&mut self.kept).into_keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u32) -> Address {
        Address(u128::from(0x0a00_0000 + n))
    }

    /// R3.2: a scan of empty addresses neither grows without bound nor keeps a real host out.
    #[test]
    fn a_scan_keeps_nobody_out() {
        let mut managed = Managed::default();
        let now = BootTime::from_millis(1_000);
        assert_eq!(managed.keep(host(0), now), None);
        assert!(managed.update(now, |address| address == host(0)).is_empty());
        let gone = (1..3_000u32)
            .filter_map(|n| managed.keep(host(n), now.after(Duration::from_micros(n.into()))))
            .count();
        assert_eq!(managed.kept.len(), 1 + MAX_UNRESOLVED);
        assert_eq!(gone, 2_999 - MAX_UNRESOLVED);
        assert!(managed.contains(host(0)), "who answers stays");
        let fresh = managed.keep(host(9_999), now.after(Duration::from_secs(1)));
        assert!(fresh.is_some() && managed.contains(host(9_999)), "a new host gets in");
    }

    #[test]
    fn who_is_silent_is_given_up_and_who_falls_silent_later() {
        let mut managed = Managed::default();
        let now = BootTime::from_millis(1_000);
        let _none = (managed.keep(host(1), now), managed.keep(host(2), now));
        assert_eq!(managed.next_timeout(), Some(now.after(GIVE_UP_AFTER)));
        assert!(managed.update(now, |address| address == host(1)).is_empty());
        let later = now.after(GIVE_UP_AFTER);
        assert_eq!(managed.update(later, |address| address == host(1)), [host(2)]);
        assert_eq!(managed.next_timeout(), None);
        assert!(managed.update(later, |_| false).is_empty(), "its time starts when it falls silent");
        assert_eq!(managed.update(later.after(GIVE_UP_AFTER), |_| false), [host(1)]);
    }

    #[test]
    fn a_full_table_gives_the_oldest_away() {
        let mut managed = Managed::default();
        let now = BootTime::from_millis(1_000);
        for n in 0..MAX_MANAGED as u32 {
            assert_eq!(managed.keep(host(n), now.after(Duration::from_micros(n.into()))), None);
            assert!(managed.update(now, |_| true).is_empty());
        }
        assert_eq!(managed.keep(host(9_999), now.after(Duration::from_secs(1))), Some(host(0)));
    }
}
