//! The exact log of switches of the last minute: what budget and cooldown are judged by.

use jvpn_abi::BootTime;
use std::collections::VecDeque;
use std::time::Duration;

/// The span that `max_switches_per_min` counts over.
pub const BUDGET_SPAN: Duration = Duration::from_secs(60);

/// When the switches of the last minute were confirmed. Holds at most as many moments as policy allows
/// switches (≤ 60).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchLog(VecDeque<BootTime>);

impl SwitchLog {
    /// Switches confirmed in the 60 s before `now`.
    #[must_use]
    pub fn count(&self, now: BootTime) -> usize {
        self.0.iter().filter(|at| at.after(BUDGET_SPAN) > now).count()
    }

    /// When fewer than `max` switches will be in the log; `now` or earlier means at once.
    #[must_use]
    pub fn free_at(&self, max: u32, now: BootTime) -> BootTime {
        let counted = self.count(now);
        let Some(excess) = counted.checked_sub(max as usize) else { return now };
        // The log is in order of time: the entry that has to leave for the count to be `max - 1`.
        let first = self.0.len() - counted;
        self.0.get(first + excess).map_or(now, |at| at.after(BUDGET_SPAN))
    }

    /// The last switch, if it is in the last minute's log.
    #[must_use]
    pub fn last(&self) -> Option<BootTime> {
        self.0.back().copied()
    }

    /// Notes a switch confirmed at `now` and forgets what is older than the span.
    pub(crate) fn push(&mut self, now: BootTime) {
        while self.0.front().is_some_and(|at| at.after(BUDGET_SPAN) <= now) {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// Moments held (bounded memory, I10).
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_millis(1_000_000 + seconds * 1_000)
    }

    /// R1.7: the budget counts exactly the last 60 s.
    #[test]
    fn r1_7_budget_is_exact() {
        let mut log = SwitchLog::default();
        for second in [0, 10, 20] {
            log.push(at(second));
        }
        assert_eq!(log.count(at(59)), 3);
        assert_eq!(log.count(at(60)), 2);
        assert_eq!(log.free_at(3, at(20)), at(60));
        assert_eq!(log.free_at(2, at(20)), at(70));
        assert_eq!(log.free_at(4, at(20)), at(20));
        assert_eq!(log.free_at(3, at(60)), at(60));
        log.push(at(75));
        assert_eq!((log.len(), log.last()), (2, Some(at(75))));
    }
}
