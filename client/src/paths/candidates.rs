//! Evidence about paths that carry no data: which of them answer, how fast, since when without loss; and when each is
//! probed next.
//!
//! A candidate is any usable uplink that is not bound, the best ones up to a bound. Idle ones are probed now and then,
//! all of them in parallel as soon as the bound path is suspected: when it is dead, it is known where to go.

use super::rtt::Rtt;
use super::{Paths, Uplink, UplinkId};
use jvpn_abi::BootTime;
use serde::Serialize;
use std::time::Duration;

/// Probes missed in a row until a candidate counts as silent. Fewer than for the bound path: being wrong about a
/// candidate costs its turn, not a session's path.
pub const SILENT_AFTER: u32 = 2;
/// Tickets that only suspicion may use: four candidates, two probes each.
pub const TICKETS_RESERVED: usize = 8;
/// Probes in a row at the suspicion interval; from then on each interval doubles.
const BURST: u32 = 8;
/// Longest interval under suspicion that lasts.
const SUSPICION_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// After a miss the next probe tells loss from silence.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval while candidates are compared with a bound path of bad quality.
const COMPARE_INTERVAL: Duration = Duration::from_millis(400);
/// Shortest interval of calm times, however short the hold time is.
const CALM_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// Probes on their way per candidate; the oldest is forgotten first.
const IN_FLIGHT_MAX: usize = 8;
/// A hold time sees at least so many probes.
const PROBES_PER_HOLD: u32 = 4;

/// How candidates are watched and when the client goes back to a better uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateSettings {
    /// Interval of probes in calm times.
    pub interval: Duration,
    /// The same on metered uplinks.
    pub metered_interval: Duration,
    /// How long a better uplink has to answer without loss before the client goes back to it; `None` = never.
    pub fail_back_hold: Option<Duration>,
    /// Whether to take a better uplink when the quality of the bound one is bad.
    pub for_quality: bool,
}

impl Default for CandidateSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            metered_interval: Duration::from_secs(60),
            fail_back_hold: Some(Duration::from_secs(30)),
            for_quality: true,
        }
    }
}

/// How urgent evidence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// The bound path is healthy.
    Calm,
    /// The quality of the bound path is bad: is another one better?
    Compare,
    /// The bound path misses answers or was left. Shortest interval between probes.
    Suspicion(Duration),
}

/// What candidates are polled with.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The bound uplink.
    pub active: UplinkId,
    /// How urgent it is.
    pub urgency: Urgency,
    /// Most candidates, by the gateway's policy.
    pub candidates_max: usize,
    /// Tickets held.
    pub tickets: usize,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a probe over this uplink.
    Probe {
        /// Over which.
        uplink: UplinkId,
        /// Its number, for [`Paths::candidate_answered`].
        number: u32,
    },
    /// Nothing until then, unless tickets come.
    Wait(BootTime),
}

/// What the evidence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Its last probe was answered.
    Answering,
    /// Not probed, or not long enough to tell.
    Unknown,
    /// It missed probes in a row, or an attempt over it failed a short while ago.
    Silent,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u32,
    at: BootTime,
    until: BootTime,
}

/// What is known about one path beside the bound one.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    rtt: Rtt,
    sent: Vec<Sent>,
    next_number: u32,
    last_probe: Option<BootTime>,
    next_probe: BootTime,
    pub(super) last_answer: Option<BootTime>,
    missed: u32,
    pub(super) silent_since: Option<BootTime>,
    pub(super) stable_since: Option<BootTime>,
    /// Fates of the last probes, newest in the lowest bit; 1 = lost.
    fates: u32,
    judged: u32,
    /// Probes since suspicion began.
    burst: u32,
}

impl Watch {
    /// Forgets everything but which numbers were used.
    pub(super) fn reset(&mut self) {
        *self = Self { next_number: self.next_number, ..Self::default() };
    }

    fn probe(&mut self, now: BootTime, next_within: Duration) -> u32 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        if self.sent.len() >= IN_FLIGHT_MAX {
            self.sent.remove(0);
        }
        self.sent.push(Sent { number, at: now, until: now.after(self.rtt.miss_after()) });
        self.last_probe = Some(now);
        self.next_probe = now.after(next_within);
        self.burst = self.burst.saturating_add(1);
        number
    }

    fn count_misses(&mut self, now: BootTime) {
        let lost = self.sent.extract_if(.., |sent| now >= sent.until).count();
        for _ in 0..lost {
            self.judge(1);
            self.missed = self.missed.saturating_add(1);
            self.stable_since = None;
            if self.missed >= SILENT_AFTER && self.silent_since.is_none() {
                self.silent_since = Some(now);
            }
        }
    }

    fn answered(&mut self, now: BootTime, number: u32) {
        // A late answer is a loss that was counted already; that it came says that the path works.
        if let Some(place) = self.sent.iter().position(|sent| sent.number == number) {
            let sent = self.sent.remove(place);
            self.rtt.sample(now.since(sent.at));
            self.judge(0);
        }
        self.missed = 0;
        self.silent_since = None;
        self.last_answer = Some(now);
        self.stable_since.get_or_insert(now);
    }

    fn judge(&mut self, fate: u32) {
        self.fates = self.fates << 1 | fate;
        self.judged = (self.judged + 1).min(u32::BITS);
    }

    /// Lost among the last probes, percent; `None` before the first is judged.
    pub(super) fn loss_percent(&self) -> Option<f64> {
        (self.judged > 0).then(|| f64::from(self.fates.count_ones()) * 100.0 / f64::from(self.judged))
    }

    /// Probes answered in a row.
    pub(super) fn answered_in_a_row(&self) -> u32 {
        self.fates.trailing_zeros().min(self.judged)
    }

    /// Smoothed round-trip time and its deviation.
    pub(super) const fn times(&self) -> (Option<Duration>, Duration) {
        (self.rtt.smoothed(), self.rtt.variation())
    }

    pub(super) const fn srtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// Time between probes as things stand.
    fn interval(&self, urgency: Urgency, calm: Duration) -> Duration {
        match urgency {
            Urgency::Suspicion(shortest) => {
                let first = shortest.max(self.srtt().unwrap_or_default() / 2);
                let doublings = self.burst.saturating_sub(BURST).min(16);
                first.saturating_mul(1 << doublings).min(SUSPICION_INTERVAL_MAX.max(first))
            }
            Urgency::Compare => COMPARE_INTERVAL.min(calm),
            Urgency::Calm if self.missed > 0 && self.missed < SILENT_AFTER => DOUBT_INTERVAL.min(calm),
            Urgency::Calm => calm,
        }
    }

    /// When the next probe is due.
    fn due(&self, urgency: Urgency, calm: Duration) -> BootTime {
        let by_interval = |last: BootTime| last.after(self.interval(urgency, calm));
        match urgency {
            // Neither waits for what calm times planned.
            Urgency::Suspicion(_) | Urgency::Compare => self.last_probe.map_or(BootTime(0), by_interval),
            Urgency::Calm if self.missed > 0 => self.last_probe.map_or(BootTime(0), by_interval),
            Urgency::Calm => self.next_probe,
        }
    }
}

impl Paths {
    /// What to do about candidates now; call again after each [`Step::Probe`]. `jitter` spreads the calm intervals, so
    /// that clients do not probe in step.
    pub fn poll_candidates(&mut self, now: BootTime, situation: &Situation, jitter: u16) -> Step {
        for uplink in &mut self.uplinks {
            uplink.watch.count_misses(now);
        }
        self.note_urgency(situation.urgency);
        let enough = match situation.urgency {
            Urgency::Calm | Urgency::Compare => situation.tickets > TICKETS_RESERVED,
            Urgency::Suspicion(_) => situation.tickets > 0,
        };
        let mut wait = self.next_verdict();
        for id in self.candidates(situation) {
            let calm = self.calm_interval(id, situation.active);
            let Some(uplink) = self.uplinks.get_mut(id.index()).filter(|_| enough) else { continue };
            let due = uplink.watch.due(situation.urgency, calm);
            if now < due {
                wait = wait.min(due);
                continue;
            }
            let interval = uplink.watch.interval(situation.urgency, calm);
            let spread = match situation.urgency {
                Urgency::Calm | Urgency::Compare => interval / 8 * u32::from(jitter) / u32::from(u16::MAX),
                Urgency::Suspicion(_) => Duration::ZERO,
            };
            let number = uplink.watch.probe(now, interval + spread);
            return Step::Probe { uplink: id, number };
        }
        Step::Wait(wait)
    }

    /// The echo of a probe came, late or not.
    pub fn candidate_answered(&mut self, now: BootTime, id: UplinkId, number: u32) {
        if let Some(uplink) = self.uplinks.get_mut(id.index()) {
            uplink.watch.count_misses(now);
            uplink.watch.answered(now, number);
            uplink.srtt = uplink.watch.srtt().or(uplink.srtt);
        }
    }

    /// The uplink to go back to: better than the bound one (unmetered before metered, then by priority), and answering
    /// without loss for the hold time.
    #[must_use]
    pub fn fail_back(&self, now: BootTime, active: UplinkId) -> Option<UplinkId> {
        let hold = self.settings.fail_back_hold?;
        let stable = |uplink: &Uplink| {
            uplink.watch.stable_since.is_some_and(|since| now.since(since) >= hold)
                && self.evidence(uplink, now) == Evidence::Answering
        };
        self.better_than(active)
            .filter(|(_, uplink)| uplink.link.is_usable() && uplink.is_eligible(now) && stable(uplink))
            .min_by_key(|(id, uplink)| (uplink.rank(), uplink.watch.srtt(), *id))
            .map(|(id, _)| id)
    }

    /// When [`Self::fail_back`] may have an answer that it does not have now.
    #[must_use]
    pub fn fail_back_due(&self, active: UplinkId) -> Option<BootTime> {
        let hold = self.settings.fail_back_hold?;
        let since = self.better_than(active).filter_map(|(_, uplink)| uplink.watch.stable_since).min()?;
        Some(since.after(hold))
    }

    /// Forgets what probes have said, for example because the host slept or the gateway moved.
    pub fn forget_evidence(&mut self) {
        for uplink in &mut self.uplinks {
            uplink.watch.reset();
            uplink.failed_at = None;
        }
    }

    /// What is known about an uplink that is not bound.
    pub(super) fn evidence(&self, uplink: &Uplink, now: BootTime) -> Evidence {
        let failed = uplink.recent_failure(now);
        let answer = uplink.watch.last_answer.filter(|at| failed.is_none_or(|failed| *at > failed));
        let fresh = self.base_interval(uplink) * 2 + DOUBT_INTERVAL * 2;
        let answering = uplink.watch.missed == 0 && answer.is_some_and(|at| now.since(at) <= fresh);
        let silent = uplink.watch.silent_since.is_some() || failed.is_some() && answer.is_none();
        match (answering, silent) {
            (true, _) => Evidence::Answering,
            (false, true) => Evidence::Silent,
            (false, false) => Evidence::Unknown,
        }
    }

    /// Usable uplinks beside the bound one, the best ones, as many as policy allows.
    fn candidates(&self, situation: &Situation) -> Vec<UplinkId> {
        let mut all: Vec<_> = self
            .iter()
            .filter(|(id, uplink)| *id != situation.active && uplink.link.is_usable())
            .map(|(id, uplink)| (uplink.rank(), id))
            .collect();
        all.sort_unstable();
        all.into_iter().take(situation.candidates_max).map(|(_, id)| id).collect()
    }

    fn better_than(&self, active: UplinkId) -> impl Iterator<Item = (UplinkId, &Uplink)> {
        let bound = self.uplink(active).map(Uplink::rank);
        self.iter()
            .filter(move |(id, uplink)| *id != active && bound.is_some_and(|bound| uplink.rank() < bound))
    }

    const fn base_interval(&self, uplink: &Uplink) -> Duration {
        if uplink.spec.metered { self.settings.metered_interval } else { self.settings.interval }
    }

    /// Interval of calm times: a better uplink is looked at often enough to judge its hold time.
    fn calm_interval(&self, id: UplinkId, active: UplinkId) -> Duration {
        let Some(uplink) = self.uplink(id) else { return self.settings.interval };
        let base = self.base_interval(uplink);
        let better = self.uplink(active).is_some_and(|active| uplink.rank() < active.rank());
        match self.settings.fail_back_hold {
            Some(hold) if better && !uplink.spec.metered => {
                base.min(hold / PROBES_PER_HOLD).max(CALM_INTERVAL_MIN)
            }
            Some(_) | None => base.max(CALM_INTERVAL_MIN),
        }
    }

    /// Each suspicion begins with a burst of its own.
    fn note_urgency(&mut self, urgency: Urgency) {
        let urgent = matches!(urgency, Urgency::Suspicion(_));
        if urgent && !self.urgent {
            for uplink in &mut self.uplinks {
                uplink.watch.burst = 0;
            }
        }
        self.urgent = urgent;
    }

    /// When the next probe on its way counts as lost.
    fn next_verdict(&self) -> BootTime {
        let sent = self.uplinks.iter().flat_map(|uplink| &uplink.watch.sent);
        sent.map(|sent| sent.until).min().unwrap_or(BootTime::NEVER)
    }
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
