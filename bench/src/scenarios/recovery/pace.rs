//! How soon a client may take the next trial: policy counts switches, and what the gateway sends before the client has
//! confirmed, over a minute. A bench that strikes more often measures that limit and not the recovery.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What policy counts over; with a margin for what happened a moment before the bench noted it.
const SPAN: Duration = Duration::from_millis(60_500);

/// A client's switches of the last minute, whatever session they were of.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(VecDeque<Instant>);

impl Pace {
    /// A trial is over that took so many switches.
    pub(super) fn note(&mut self, now: Instant, switches: u32) {
        while self.0.front().is_some_and(|at| now.saturating_duration_since(*at) >= SPAN) {
            self.0.pop_front();
        }
        self.0.extend((0..switches).map(|_| now));
    }

    /// How long to wait until the last minute has fewer than `most` switches; `most` is at least 1.
    pub(super) fn pause(&self, now: Instant, most: u32) -> Duration {
        // The log is in order of time: as soon as this one has left, `most - 1` are there.
        let last = self.0.len().checked_sub(most.max(1) as usize).and_then(|place| self.0.get(place));
        last.map_or(Duration::ZERO, |at| (*at + SPAN).saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.1: trials stay below policy's limits, so that these do not stretch what is measured.
    #[test]
    fn r8_1_a_client_takes_no_more_trials_a_minute_than_policy_lets_it_switch() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(pace.pause(start, 3), Duration::ZERO);
        pace.note(at(0), 1);
        pace.note(at(5), 0);
        pace.note(at(10), 1);
        assert_eq!(pace.pause(at(10), 3), Duration::ZERO);
        pace.note(at(20), 1);
        assert_eq!(pace.pause(at(20), 3), SPAN - Duration::from_secs(20), "until the first has left");
        assert_eq!(pace.pause(at(20), 2), SPAN - Duration::from_secs(10), "until the second has left");
        assert_eq!(pace.pause(at(61), 3), Duration::ZERO);
        // Five at once, as of a link that flaps.
        pace.note(at(70), 5);
        assert_eq!(pace.pause(at(70), 8), Duration::ZERO, "seven are in the log");
        assert_eq!(pace.pause(at(70), 5), SPAN, "one of the five has to leave");
        assert_eq!(pace.pause(at(131), 1), Duration::ZERO);
        // Nothing may be known of an earlier moment.
        assert_eq!(pace.pause(at(200), 0), Duration::ZERO);
    }
}
