//! When an absent data plane is tried again. A successor that is on its way listens when its queues are open, which nothing
//! announces: so it is tried often at first, for until it is met nobody forwards. One try is one refused connection.

use jvpn_abi::BootTime;
use std::time::Duration;

/// How often, as long as a restart takes.
const SOON: Duration = Duration::from_millis(5);
/// How long a restart takes at most that nobody has to help along.
const SOON_FOR: Duration = Duration::from_secs(2);
/// How often later.
const LATER: Duration = Duration::from_millis(50);

/// When the next try is due.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tries {
    next: BootTime,
    soon_until: BootTime,
}

impl Tries {
    /// The last data plane has ended.
    pub(crate) const fn data_plane_ended(&mut self, now: BootTime) {
        (self.next, self.soon_until) = (now, now.after(SOON_FOR));
    }

    /// Whether it is time for a try; if so, this is it.
    pub(crate) fn take(&mut self, now: BootTime) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now.after(if now < self.soon_until { SOON } else { LATER });
        }
        is_due
    }

    /// When the next one is due.
    pub(crate) const fn next(&self) -> BootTime {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R1.2: a successor is met within 5 ms of its readiness, as soon as the one before has ended; one that takes long costs
    /// few tries.
    #[test]
    fn r1_2_a_successor_is_met_soon_and_an_absent_one_costs_little() {
        let mut tries = Tries::default();
        let mut now = BootTime::from_millis(10_000);
        assert!(tries.take(now) && !tries.take(now));
        let later = tries.next();
        now = now.after(Duration::from_millis(1));
        assert!(later > now, "the end does not wait for the try that was due");
        tries.data_plane_ended(now);
        let ended_at = now;
        let mut made = 0;
        while now.since(ended_at) < Duration::from_secs(12) {
            let waited = tries.next().since(now);
            let most = if now.since(ended_at) < SOON_FOR { SOON } else { LATER };
            assert!(waited <= most, "{waited:?} after {:?}", now.since(ended_at));
            now = tries.next();
            assert!(tries.take(now));
            made += 1;
        }
        assert!((595..=605).contains(&made), "400 in two seconds, 200 in ten: {made}");
    }
}
