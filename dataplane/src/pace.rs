//! How often tables that the kernel says have changed are looked at: at once where that is rare, and at a bounded rate
//! however fast they change. An on-link flood of made-up addresses makes and fails neighbours as fast as it comes, and a
//! look is a list of all of them.

use jvpn_abi::BootTime;
use std::time::Duration;

/// Under lasting change there is one look in this time, or in twice the time that one takes.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Looks that may follow each other at once after a rest: that a neighbour is asked for, is looked for and is there are
/// changes of their own, and packets wait for the last.
const AT_ONCE: u32 = 4;
/// A look that failed is made again after this time: the change that asked for it does not come twice.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Whether a look is due.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    changed: bool,
    /// Until when the looks that were made have used up the time that is theirs.
    spent_until: BootTime,
}

impl Pace {
    /// Notes whether something changed.
    pub(crate) const fn note(&mut self, changed: bool) {
        self.changed |= changed;
    }

    /// Until the next look; `None` while nothing has changed.
    pub(crate) fn wait(&self, now: BootTime) -> Option<Duration> {
        let ahead = self.spent_until.since(now);
        self.changed.then(|| ahead.saturating_sub(LOOK_EVERY * (AT_ONCE - 1)))
    }

    /// Whether to look now. What changes from here on is another change.
    pub(crate) fn take(&mut self, now: BootTime) -> bool {
        let is_due = self.wait(now).is_some_and(|wait| wait.is_zero());
        self.changed &= !is_due;
        is_due
    }

    /// A look was made. One that took long is paid for by a rest as long.
    pub(crate) fn looked(&mut self, began: BootTime, ended: BootTime) {
        let price = LOOK_EVERY.max(ended.since(began) * 2);
        self.spent_until = self.spent_until.max(began).after(price);
    }

    /// A look failed: there is to be another one, but not at once.
    pub(crate) fn failed(&mut self, now: BootTime) {
        self.changed = true;
        self.spent_until = now.after(AGAIN_AFTER + LOOK_EVERY * (AT_ONCE - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks as a thread does; how long a look takes is `cost`.
    fn looks(pace: &mut Pace, now: BootTime, cost: Duration) -> bool {
        let is_due = pace.take(now);
        if is_due {
            pace.looked(now, now.after(cost));
        }
        is_due
    }

    /// R3.2: a change after a rest is looked at at once, and the few that belong to it; a flood of changes costs a bounded
    /// number of looks, and the last of it is seen.
    #[test]
    fn r3_2_a_flood_of_changes_is_looked_at_at_a_bounded_rate() {
        let begin = BootTime::from_millis(5_000);
        let mut pace = Pace::default();
        assert_eq!((pace.wait(begin), pace.take(begin)), (None, false), "nothing changed");
        for _ in 0..AT_ONCE {
            pace.note(true);
            assert_eq!(pace.wait(begin), Some(Duration::ZERO));
            assert!(looks(&mut pace, begin, Duration::ZERO));
        }
        let (mut count, mut now) = (0, begin);
        for n in 0..100_000_u64 {
            now = begin.after(Duration::from_micros(n * 10));
            pace.note(true);
            count += u32::from(looks(&mut pace, now, Duration::ZERO));
        }
        assert!((98..=100).contains(&count), "{count} in a second");
        pace.note(true);
        let wait = pace.wait(now).unwrap();
        assert!(wait <= LOOK_EVERY, "{wait:?}");
        assert!(looks(&mut pace, now.after(wait), Duration::ZERO), "the last change is seen");
        assert_eq!(pace.wait(now.after(wait)), None);
    }

    /// R3.2: where a look takes longer than the pace – thousands of routes – half of the time is left to others.
    #[test]
    fn r3_2_long_looks_leave_time_to_others() {
        let (begin, cost) = (BootTime::from_millis(5_000), Duration::from_millis(50));
        let (mut pace, mut now, mut busy) = (Pace::default(), begin, Duration::ZERO);
        while now.since(begin) < Duration::from_secs(10) {
            pace.note(true);
            now = now.after(pace.wait(now).unwrap());
            assert!(looks(&mut pace, now, cost));
            (now, busy) = (now.after(cost), busy + cost);
        }
        let bound = now.since(begin) / 2 + LOOK_EVERY * AT_ONCE;
        assert!(busy <= bound, "{busy:?} of {:?}", now.since(begin));
    }

    #[test]
    fn a_look_that_failed_is_made_again_later() {
        let now = BootTime::from_millis(5_000);
        let mut pace = Pace::default();
        pace.note(true);
        assert!(pace.take(now));
        pace.failed(now);
        pace.note(true);
        assert!(!pace.take(now.after(AGAIN_AFTER / 2)));
        assert!(pace.take(now.after(AGAIN_AFTER)));
        assert!(!pace.take(now.after(AGAIN_AFTER)), "once");
    }
}
