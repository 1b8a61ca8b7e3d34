//! A burst of attempts to get a binding (by reattach) or a session (by handshake): which uplink, when again, when fresh.
//!
//! An attempt is one request. It may be repeated identically, at most twice; then it has failed, and the
//! next one goes out over the next usable uplink. After each round over all usable uplinks the waiting time doubles, up to
//! 4 s, and no attempt takes longer than that with all its repetitions: to the gateway the attempts are one burst.
//! At most one attempt is open at any time, and the client's own limit ([`Paths::admit`]) holds over all bursts.

use super::{Paths, UplinkId};
use jvpn_abi::BootTime;
use jvpn_session::policy::BURST_PAUSE;
use std::time::Duration;

/// Identical repetitions of a request on its uplink if there is no other one.
const REPEATS_MAX: u8 = 2;
/// The same while another usable uplink waits for its turn.
const REPEATS_WITH_ALTERNATIVE: u8 = 1;
/// Requests of one burst that are sent once more at once because a RETRY asks for it.
const RETRIES_MAX: u8 = 16;
/// Shortest wait for an answer: max(RTT, this).
const WAIT_MIN: Duration = Duration::from_millis(250);
/// Longest attempt, before jitter: with an eighth more it is still shorter than the pause that ends a burst at the gateway
/// (`jvpn_session::policy::BURST_PAUSE`).
const ATTEMPT_MAX: Duration = Duration::from_secs(4);
const _: () = assert!(ATTEMPT_MAX.as_millis() * 9 / 8 < BURST_PAUSE.as_millis());

/// Whether a request may be sent again as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    /// Yes: the gateway answers a repetition from its cache.
    Identical,
    /// No: each datagram must be new (a handshake carries a timestamp that must rise).
    Fresh,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a new request and send it over this uplink.
    Fresh(UplinkId),
    /// Send the open request once more.
    Repeat(UplinkId),
    /// Nothing until then; [`BootTime::NEVER`] = until a link event.
    Wait(BootTime),
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    uplink: UplinkId,
    repeats: u8,
    wait: Duration,
    next_at: BootTime,
    /// Answered: the new binding waits for its proof, and no timer of this attempt runs.
    answered: bool,
}

/// How far a burst has got: how many attempts, and how long it waits for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    attempts: u16,
    in_round: usize,
    round: u32,
}

/// The burst.
#[derive(Clone, Debug)]
pub struct Campaign {
    repetition: Repetition,
    attempts: u16,
    /// Attempts of bursts before that this one goes on from.
    before: u16,
    retries: u8,
    /// Attempts since the last complete round over all usable uplinks.
    in_round: usize,
    round: u32,
    open: Option<Attempt>,
    not_before: BootTime,
    /// Tried first, if usable: the path itself is not what failed.
    prefer: Option<UplinkId>,
}

impl Campaign {
    /// Starts a burst. `prefer` is tried first if it is usable, then [`Paths::pick`] decides.
    #[must_use]
    pub const fn new(repetition: Repetition, prefer: Option<UplinkId>) -> Self {
        Self {
            repetition,
            attempts: 0,
            before: 0,
            retries: 0,
            in_round: 0,
            round: 0,
            open: None,
            not_before: BootTime(0),
            prefer,
        }
    }

    /// Nothing is sent before `not_before`.
    #[must_use]
    pub const fn starting(mut self, not_before: BootTime) -> Self {
        self.not_before = not_before;
        self
    }

    /// Goes on where another burst was: what ended that one may have come over a path that is slower than its attempts had
    /// time for, at either end.
    #[must_use]
    pub const fn going_on(mut self, pace: Pace) -> Self {
        (self.before, self.in_round, self.round) = (pace.attempts, pace.in_round, pace.round);
        self
    }

    /// How far it has got, with those before.
    #[must_use]
    pub const fn pace(&self) -> Pace {
        Pace { attempts: self.number(), in_round: self.in_round, round: self.round }
    }

    /// From here on each request is a new one.
    pub const fn never_repeat(&mut self) {
        self.repetition = Repetition::Fresh;
    }

    /// What is tried first, if nothing was tried yet.
    #[must_use]
    pub const fn preferred(&self) -> Option<UplinkId> {
        self.prefer
    }

    /// What held the first attempt back does not count any more.
    pub const fn at_once(&mut self) {
        self.not_before = BootTime(0);
    }

    /// A burst whose first request was answered already, over `uplink`.
    #[must_use]
    pub const fn granted(uplink: UplinkId) -> Self {
        let open = Attempt { uplink, repeats: 0, wait: WAIT_MIN, next_at: BootTime::NEVER, answered: true };
        Self {
            repetition: Repetition::Identical,
            attempts: 1,
            before: 0,
            retries: 0,
            in_round: 1,
            round: 0,
            open: Some(open),
            not_before: BootTime(0),
            prefer: None,
        }
    }

    /// Requests made so far.
    #[must_use]
    pub const fn attempts(&self) -> u16 {
        self.attempts
    }

    /// The same with those of the bursts before: so much longer does the gateway wait for the first frame.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.before.saturating_add(self.attempts)
    }

    /// The uplink of the open attempt.
    #[must_use]
    pub fn uplink(&self) -> Option<UplinkId> {
        self.open.map(|open| open.uplink)
    }

    /// What to do now. `jitter` is random, so that clients of one dead gateway do not come back in step.
    pub fn poll(&mut self, now: BootTime, paths: &mut Paths, jitter: u16) -> Step {
        if let Some(open) = &mut self.open {
            if open.answered {
                return Step::Wait(BootTime::NEVER);
            }
            if paths.is_usable(open.uplink) {
                if now < open.next_at {
                    return Step::Wait(open.next_at);
                }
                let alternative = paths.usable() > 1;
                let allowed = match self.repetition {
                    Repetition::Fresh => 0,
                    Repetition::Identical if alternative => REPEATS_WITH_ALTERNATIVE,
                    Repetition::Identical => REPEATS_MAX,
                };
                let takes = open.wait * (u32::from(open.repeats) + 2);
                if open.repeats < allowed && takes <= ATTEMPT_MAX {
                    if let Err(until) = paths.admit(now) {
                        open.next_at = until;
                        return Step::Wait(until);
                    }
                    open.repeats += 1;
                    open.next_at = now.after(jittered(open.wait, jitter));
                    return Step::Repeat(open.uplink);
                }
            }
            self.fail_open(now, paths);
        }
        if now < self.not_before {
            return Step::Wait(self.not_before);
        }
        let preferred = self.prefer.filter(|id| paths.is_usable(*id));
        let Some(uplink) = preferred.or_else(|| paths.pick(now)) else {
            self.prefer = None;
            return Step::Wait(BootTime::NEVER);
        };
        if let Err(until) = paths.admit(now) {
            self.not_before = until;
            return Step::Wait(until);
        }
        self.prefer = None;
        self.start(now, uplink, paths, jitter)
    }

    /// The gateway asks for the open request once more, with a cookie. `false`: not now, by the limit of the burst or the
    /// client's own. If it is sent, the wait for its answer begins again.
    pub fn retried(&mut self, now: BootTime, paths: &mut Paths) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| !open.answered) else { return false };
        if self.retries >= RETRIES_MAX || paths.admit(now).is_err() {
            return false;
        }
        self.retries += 1;
        open.next_at = now.after(open.wait);
        true
    }

    /// The open attempt was answered with a grant; the binding waits for its proof.
    pub fn answered(&mut self) {
        if let Some(open) = &mut self.open {
            open.answered = true;
        }
    }

    /// The open attempt failed: refused, or its binding was never proven. Nothing is sent before `not_before`.
    pub fn failed(&mut self, now: BootTime, paths: &mut Paths, not_before: BootTime) {
        self.fail_open(now, paths);
        self.not_before = self.not_before.max(not_before);
    }

    /// The open attempt came to nothing, but its path works: the next request goes out over the same uplink.
    pub fn again(&mut self, not_before: BootTime) {
        self.prefer = self.open.take().map(|open| open.uplink);
        self.not_before = self.not_before.max(not_before);
    }

    /// A link came up: an attempt over it need not wait for timers, except for a gateway's retry_after.
    pub fn link_gained(&mut self, now: BootTime, paths: &mut Paths) {
        if self.open.is_some_and(|open| !open.answered && open.repeats > 0) {
            self.fail_open(now, paths);
        }
    }

    fn fail_open(&mut self, now: BootTime, paths: &mut Paths) {
        if let Some(open) = self.open.take() {
            paths.mark_failed(open.uplink, now);
        }
    }

    fn start(&mut self, now: BootTime, uplink: UplinkId, paths: &Paths, jitter: u16) -> Step {
        if self.in_round >= paths.usable().max(1) {
            self.in_round = 0;
            self.round = self.round.saturating_add(1);
        }
        self.in_round += 1;
        self.attempts = self.attempts.saturating_add(1);
        let rtt = paths.uplink(uplink).and_then(|uplink| uplink.srtt).unwrap_or_default();
        let wait = rtt.max(WAIT_MIN).saturating_mul(1 << self.round.min(8)).min(ATTEMPT_MAX);
        let next_at = now.after(jittered(wait, jitter));
        self.open = Some(Attempt { uplink, repeats: 0, wait, next_at, answered: false });
        Step::Fresh(uplink)
    }
}

/// `wait` plus up to an eighth of it.
fn jittered(wait: Duration, jitter: u16) -> Duration {
    wait + wait / 8 * u32::from(jitter) / u32::from(u16::MAX)
}

#[cfg(test)]
#[path = "campaign_tests.rs"]
mod tests;
