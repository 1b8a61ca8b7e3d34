//! The exact log of switches of the last minute: what budget and cooldown are judged by.

use crate::pack::{Packer, Unpacker};
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
    pub fn push(&mut self, now: BootTime) {
        while self.0.front().is_some_and(|at| at.after(BUDGET_SPAN) <= now) {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// Most moments in a packed log: the highest budget that policy allows.
    const PACKED_MAX: usize = 60;
    /// Octets of a packed log: count, newest moment, and for each moment how long before the newest it was.
    pub(crate) const PACKED_LEN: usize = 1 + 8 + 4 * Self::PACKED_MAX;

    /// Writes the log in whole microseconds, each moment as the same or a later one: what is read back never frees a
    /// switch early.
    pub(crate) fn pack(&self, p: &mut Packer<'_>) {
        let newest = self.last().unwrap_or(BootTime(0));
        let count = self.0.len().min(Self::PACKED_MAX);
        p.u8(u8::try_from(count).unwrap_or(0)).u64(newest.0);
        let kept = self.0.iter().skip(self.0.len() - count);
        for at in kept {
            p.u32(u32::try_from(newest.since(*at).as_micros()).unwrap_or(u32::MAX));
        }
        for _ in count..Self::PACKED_MAX {
            p.u32(0);
        }
    }

    /// Reads what [`Self::pack`] wrote.
    pub(crate) fn unpack(p: &mut Unpacker<'_>) -> Option<Self> {
        let count = usize::from(p.u8()?);
        let newest = p.u64()?;
        let mut log = VecDeque::new();
        for n in 0..Self::PACKED_MAX {
            let before_ns = u64::from(p.u32()?) * 1_000;
            if n < count {
                log.push_back(BootTime(newest.checked_sub(before_ns)?));
            }
        }
        (count <= Self::PACKED_MAX && log.iter().is_sorted()).then_some(Self(log))
    }

    /// Forgets all but the newest `max`.
    pub(crate) fn keep_newest(&mut self, max: usize) {
        self.0.drain(..self.0.len().saturating_sub(max));
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
