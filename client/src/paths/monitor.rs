//! Watches the one bound path: when to probe, when an answer counts as missed, when the path is dead.
//!
//! Probes travel as data, so silence of the data path is what is measured. Frames that still arrive postpone the
//! verdict (a long queue makes answers late, it does not kill the path), but only for a second.

use super::rtt::Rtt;
use jvpn_abi::BootTime;
use jvpn_session::messages::ClientPolicy;
use std::time::Duration;

/// Inner packets within this time mean "under traffic".
const TRAFFIC_HOLD: Duration = Duration::from_secs(1);
/// Longest time that arriving frames may outvote missing answers: then only one direction works.
const ANSWERLESS_MAX: Duration = Duration::from_secs(1);
/// The same while another uplink answers and nothing of ours can be what delays the answers: as many times the longest
/// round trip to be expected, and this at least.
const ANSWERLESS_MIN: Duration = Duration::from_millis(300);
const ANSWERLESS_ROUNDS: u32 = 4;
/// Octets of ours since the last answer that make a queue of [`ANSWERLESS_MIN`] only on a way up of less than 3.5 Mbit/s.
/// Beyond them the answers may wait behind what we sent.
const OWN_QUEUE: u64 = 128 << 10;
/// Shortest time for an unproven binding, as BIND_UNCONFIRMED has it (docs/PROTOCOL.md).
const UNPROVEN_MIN: Duration = Duration::from_secs(1);
/// Probes that may be on their way or missed at once; more than `dead_after` ever needs.
const PROBES: usize = 32;

/// The numbers that a gateway's policy gives, within bounds that keep a hostile or broken one harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Probe interval under traffic (at least 2 RTT).
    pub traffic: Duration,
    /// Probe interval when idle.
    pub idle: Duration,
    /// Shortest interval after a miss (at least RTT / 2).
    pub suspicion: Duration,
    /// Missed probes until the path is dead.
    pub dead_after: u32,
}

impl From<&ClientPolicy> for Timing {
    fn from(policy: &ClientPolicy) -> Self {
        let ms = |value: u32, min, max| Duration::from_millis(u64::from(value).clamp(min, max));
        Self {
            traffic: ms(policy.probe_traffic_ms, 20, 60_000),
            idle: ms(policy.probe_idle_ms, 1_000, 600_000),
            suspicion: ms(policy.suspicion_ms, 5, 10_000),
            dead_after: u32::from(policy.dead_after_missed).clamp(1, PROBES as u32 / 2),
        }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a probe with this number; the next one comes within the given time.
    Probe {
        /// Number of the probe.
        id: u32,
        /// What the probe announces.
        next_within: Duration,
    },
    /// The path is dead.
    Dead,
    /// No frame came over a new binding in time.
    Unproven,
    /// Nothing until then.
    Wait(BootTime),
}

/// A probe that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    id: u32,
    at: BootTime,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Awaited { until: BootTime },
    Missed,
}

/// Whether the peer has been heard over this binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Awaited { until: BootTime },
    Given,
}

/// The watch over one binding.
#[derive(Debug)]
pub struct Monitor {
    timing: Timing,
    rtt: Rtt,
    proof: Proof,
    sent: [Option<Sent>; PROBES],
    next_id: u32,
    missed: u32,
    /// When the oldest probe of the present row of misses was sent.
    answerless_since: Option<BootTime>,
    /// Octets of inner packets that were sent since the last answer.
    sent_unanswered: u64,
    elsewhere: Elsewhere,
    last_probe: Option<BootTime>,
    next_probe: BootTime,
    last_heard: BootTime,
    last_traffic: Option<BootTime>,
    vigilance: Vigilance,
}

/// Whether there is somewhere to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// No other uplink is known to answer.
    Nowhere,
    /// One answers, and did so last then.
    Answered(BootTime),
}

/// Whether an idle path is probed as under traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vigilance {
    /// No.
    Usual,
    /// Yes: its quality is in question, and without probes there is no evidence.
    Raised,
}

impl Monitor {
    /// Watches a binding made `now`; a first probe is due at once. `rtt` seeds the estimate. The binding is unproven
    /// after max(3 RTT, `unproven_after`, 1 s) without a frame.
    #[must_use]
    pub fn new(timing: Timing, rtt: Option<Duration>, unproven_after: Duration, now: BootTime) -> Self {
        let patience = rtt.map_or(UNPROVEN_MIN, |rtt| rtt * 3).max(UNPROVEN_MIN).max(unproven_after);
        Self {
            timing,
            rtt: Rtt::new(rtt),
            proof: Proof::Awaited { until: now.after(patience) },
            sent: [None; PROBES],
            next_id: 0,
            missed: 0,
            answerless_since: None,
            sent_unanswered: 0,
            elsewhere: Elsewhere::Nowhere,
            last_probe: None,
            next_probe: now,
            last_heard: now,
            last_traffic: None,
            vigilance: Vigilance::Usual,
        }
    }

    /// Sets how closely the path is watched while it is idle.
    pub fn set_vigilance(&mut self, now: BootTime, vigilance: Vigilance) {
        self.vigilance = vigilance;
        let due = self.last_probe.map_or(now, |last| last.after(self.interval(now))).max(now);
        self.next_probe = self.next_probe.min(due);
    }

    /// Round-trip time of the path.
    #[must_use]
    pub const fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// Whether a frame has opened under the binding's keys.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proof == Proof::Given
    }

    /// When the last authenticated frame came (or the binding was made).
    #[must_use]
    pub const fn last_heard(&self) -> BootTime {
        self.last_heard
    }

    /// Probes missed in a row.
    #[must_use]
    pub const fn missed(&self) -> u32 {
        self.missed
    }

    /// What a probe or its answer announces as the time until the next probe.
    #[must_use]
    pub fn announced(&self, now: BootTime) -> Duration {
        self.next_probe.since(now)
    }

    /// An inner packet of so many octets was sent. Wakes an idle watch.
    pub fn on_sent(&mut self, now: BootTime, octets: usize) {
        self.sent_unanswered = self.sent_unanswered.saturating_add(octets as u64);
        self.touch(now);
    }

    /// Whether another uplink could take the session.
    pub const fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        self.elsewhere = elsewhere;
    }

    /// The next probe is due now: something has to be told to the gateway.
    pub const fn probe_at_once(&mut self, now: BootTime) {
        self.next_probe = now;
    }

    /// An authenticated frame came.
    pub fn on_heard(&mut self, now: BootTime) {
        self.last_heard = now;
        self.proof = Proof::Given;
    }

    /// An authenticated inner packet came.
    pub fn on_received(&mut self, now: BootTime) {
        self.on_heard(now);
        self.touch(now);
    }

    /// The answer to probe `id` came, late or not: the path works. Unknown numbers change nothing. Returns its round trip.
    pub fn on_ack(&mut self, now: BootTime, id: u32) -> Option<Duration> {
        self.on_heard(now);
        let sent = self.sent.get_mut(id as usize % PROBES)?.take_if(|sent| sent.id == id)?;
        let rtt = now.since(sent.at);
        self.rtt.sample(rtt);
        self.missed = 0;
        self.answerless_since = None;
        self.sent_unanswered = 0;
        for slot in &mut self.sent {
            slot.take_if(|other| other.fate == Fate::Missed);
        }
        Some(rtt)
    }

    /// What to do now; call again after each [`Step::Probe`].
    pub fn poll(&mut self, now: BootTime) -> Step {
        self.count_misses(now);
        if let Proof::Awaited { until } = self.proof
            && now >= until
        {
            return Step::Unproven;
        }
        if let Some(verdict_at) = self.verdict_at()
            && now >= verdict_at
        {
            return Step::Dead;
        }
        if now >= self.next_probe {
            return self.probe(now);
        }
        Step::Wait(self.next_event())
    }

    /// When [`Self::poll`] has something to do.
    #[must_use]
    pub fn next_event(&self) -> BootTime {
        let mut at = self.next_probe;
        if let Proof::Awaited { until } = self.proof {
            at = at.min(until);
        }
        if let Some(verdict_at) = self.verdict_at() {
            at = at.min(verdict_at);
        }
        for sent in self.sent.iter().flatten() {
            if let Fate::Awaited { until } = sent.fate {
                at = at.min(until);
            }
        }
        at
    }

    fn touch(&mut self, now: BootTime) {
        self.last_traffic = Some(now);
        // Never in the past: after a long idle time a probe is due now, not since long ago.
        let due = self.last_probe.map_or(now, |last| last.after(self.interval(now))).max(now);
        self.next_probe = self.next_probe.min(due);
    }

    fn probe(&mut self, now: BootTime) -> Step {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let until = now.after(self.rtt.miss_after());
        if let Some(slot) = self.sent.get_mut(id as usize % PROBES) {
            *slot = Some(Sent { id, at: now, fate: Fate::Awaited { until } });
        }
        let next_within = self.interval(now);
        self.last_probe = Some(now);
        self.next_probe = now.after(next_within);
        Step::Probe { id, next_within }
    }

    /// Time between probes as things stand.
    fn interval(&self, now: BootTime) -> Duration {
        let srtt = self.rtt.smoothed().unwrap_or_default();
        let traffic = self.timing.traffic.max(srtt * 2);
        let under_traffic = self.vigilance == Vigilance::Raised
            || self.last_traffic.is_some_and(|at| now.since(at) < TRAFFIC_HOLD);
        match (self.proof, self.missed > 0, under_traffic) {
            (Proof::Awaited { .. }, _, _) | (Proof::Given, true, true) => self.suspicion(),
            (Proof::Given, true, false) | (Proof::Given, false, true) => traffic,
            (Proof::Given, false, false) => self.timing.idle,
        }
    }

    fn suspicion(&self) -> Duration {
        self.timing.suspicion.max(self.rtt.smoothed().unwrap_or_default() / 2)
    }

    fn count_misses(&mut self, now: BootTime) {
        let before = self.missed;
        for sent in self.sent.iter_mut().flatten() {
            if let Fate::Awaited { until } = sent.fate
                && now >= until
            {
                sent.fate = Fate::Missed;
                self.missed = self.missed.saturating_add(1);
                let since = self.answerless_since.map_or(sent.at, |since| since.min(sent.at));
                self.answerless_since = Some(since);
            }
        }
        if before == 0 && self.missed > 0 {
            // From the first miss on the next probe is due at once, then at the suspicion interval.
            let due = self.last_probe.map_or(now, |last| last.after(self.interval(now)));
            self.next_probe = self.next_probe.min(due);
        }
    }

    /// When the misses so far make the path dead, if nothing more is heard.
    fn verdict_at(&self) -> Option<BootTime> {
        if self.proof != Proof::Given || self.missed < self.timing.dead_after {
            return None;
        }
        let silent = self.last_heard.after(self.rtt.miss_after() + self.suspicion());
        let answerless = self.answerless_since.unwrap_or(self.last_heard).after(self.answerless_max());
        Some(silent.min(answerless))
    }

    /// How long arriving frames outvote missing answers. A queue on the way up delays answers and kills nothing. One that
    /// grows as fast as time passes (slow start) delays the next answer by one probe interval more than the last, which is
    /// within four round trips as the estimator has them then; one that is ours and larger is known by what we sent. And
    /// where nobody else has answered since, there is nowhere to go: what ails this path may ail all.
    fn answerless_max(&self) -> Duration {
        let answered = match (self.elsewhere, self.answerless_since) {
            (Elsewhere::Answered(at), Some(since)) => at >= since,
            (Elsewhere::Answered(_), None) | (Elsewhere::Nowhere, _) => false,
        };
        if !answered || self.sent_unanswered > OWN_QUEUE {
            return ANSWERLESS_MAX;
        }
        (self.rtt.miss_after() * ANSWERLESS_ROUNDS).clamp(ANSWERLESS_MIN, ANSWERLESS_MAX)
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
