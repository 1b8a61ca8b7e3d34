//! Quality of bound paths: what the workers noted of each probe, judged at looks, and the events that follow.
//!
//! A look is a timer. While a client probes as under traffic there are four in a span; while it is idle its binding is
//! looked at together with the check for silence, and finds no evidence. Without evidence nothing happens to a session.

use super::api::{ContextView, Probed};
use super::session::Session;
use super::world::World;
use crate::audit::AuditKind;
use jvpn_abi::tables::{PROBE_SAMPLES, ProbeSample};
use jvpn_abi::{BootTime, Reason};
use jvpn_session::quality::{Estimator, Level, Measured, Thresholds};
use jvpn_session::{Event, State};
use std::time::Duration;

/// Looks in a span.
const LOOKS_PER_SPAN: u32 = 4;

/// The longest round trip that the last probes over a slot measured; zero if none did.
pub(super) fn round_trip(view: &dyn ContextView, slot_index: u32) -> Duration {
    let samples = view.probed(slot_index).map_or([0; PROBE_SAMPLES], |probed| probed.samples);
    let longest = samples.iter().map(|word| ProbeSample::decode(*word).rtt_us).max().unwrap_or(0);
    Duration::from_micros(u64::from(longest))
}

/// What is known about the quality of a session's binding.
pub(super) struct QualityWatch {
    estimator: Estimator,
    level: Level,
    /// Probes that were taken into account.
    probes: u64,
    /// When the next look is due.
    pub(super) look_at: BootTime,
    /// Time in a state counts from here at the earliest: before, no process was there to judge.
    judging_since: BootTime,
}

impl QualityWatch {
    /// Nothing is bound yet.
    pub(super) fn new() -> Self {
        Self::starting(BootTime::NEVER)
    }

    fn starting(look_at: BootTime) -> Self {
        let (estimator, level) = (Estimator::default(), Level::default());
        Self { estimator, level, probes: 0, look_at, judging_since: BootTime(0) }
    }

    /// As a restarted process goes on: with how long quality was bad in its state, and nothing else.
    pub(super) fn restored(bad_for: Option<Duration>, look_at: BootTime) -> Self {
        let level = Level::restored(bad_for, look_at);
        let judging_since = level.bad_since().unwrap_or(BootTime(0));
        Self { level, judging_since, ..Self::starting(look_at) }
    }

    /// When a path is looked at for the first time.
    pub(super) fn first_look(now: BootTime, policy: &jvpn_session::Policy) -> BootTime {
        now.after(policy.quality_span / LOOKS_PER_SPAN)
    }

    /// A binding was confirmed: nothing of the one before says anything about it.
    pub(super) fn begin(&mut self, now: BootTime, policy: &jvpn_session::Policy) {
        *self = Self::starting(Self::first_look(now, policy));
    }

    pub(super) const fn level(&self) -> &Level {
        &self.level
    }

    pub(super) fn measured(&self, now: BootTime, thresholds: &Thresholds) -> Measured {
        self.estimator.measured(now, thresholds)
    }

    /// Takes what came since the last look, and judges.
    fn look(&mut self, now: BootTime, probed: Option<&Probed>, thresholds: &Thresholds) {
        if let Some(probed) = probed.filter(|probed| probed.probes != self.probes) {
            self.estimator.note(now, probed.up, probed.down, thresholds);
            // What stands there from before the first look is of unknown age.
            let fresh = if self.probes == 0 { 1 } else { probed.probes.wrapping_sub(self.probes) };
            let fresh = fresh.min(PROBE_SAMPLES as u64);
            for back in (1..=fresh).rev() {
                let place = (probed.probes.wrapping_sub(back) % PROBE_SAMPLES as u64) as usize;
                let Some(word) = probed.samples.get(place) else { continue };
                let sample = ProbeSample::decode(*word);
                if sample.rtt_us != 0 {
                    self.estimator.note_rtt(now, Duration::from_micros(u64::from(sample.rtt_us)));
                }
                if sample.change_us != ProbeSample::NO_CHANGE {
                    self.estimator.note_change(now, Duration::from_micros(u64::from(sample.change_us)));
                }
            }
            self.probes = probed.probes;
        }
        let verdict = self.estimator.measured(now, thresholds).judge(thresholds);
        self.level.note(now, verdict, thresholds);
    }
}

impl Session {
    /// Since when quality counts as good for leaving DEGRADED: unless it was bad, flapping was the reason, and what is
    /// heard is good enough. `None` while it is bad.
    pub(super) fn fit_since(&self) -> Option<BootTime> {
        let level = self.quality.level();
        level.bad_since().is_none().then(|| level.good_since().unwrap_or(self.core.entered_at()))
    }
}

impl World {
    /// Looks at a bound path, and decides when to look again.
    pub(super) fn look_at_quality(&self, session: &mut Session, now: BootTime, view: &dyn ContextView) {
        let policy = &self.settings.policy;
        let Some(binding) = &session.binding else { return };
        let index = binding.slot.index();
        session.quality.look(now, view.probed(index).as_ref(), &Thresholds::from(policy));
        let soon = now.after(policy.quality_span / LOOKS_PER_SPAN);
        let announced = view.peer_interval_ms(index).map(|ms| Duration::from_millis(u64::from(ms)));
        let active = announced.is_some_and(|interval| interval <= policy.quality_span);
        session.quality.look_at = if active { soon } else { session.dead_check_at.max(soon) };
    }

    /// The event that a fresh judgement means in the session's state.
    pub(super) fn quality_event(&self, session: &Session, now: BootTime) -> Option<Event> {
        let policy = &self.settings.policy;
        let (core, level) = (&session.core, session.quality.level());
        let lasted = |since: BootTime, span: Duration| now.since(since) >= span;
        if !level.is_judged(now) {
            return None;
        }
        match (core.state(), level.bad_since(), level.good_since()) {
            (State::Degraded, Some(bad_since), None) => {
                lasted(bad_since.max(core.entered_at()), policy.degraded_max)
                    .then_some(Event::DegradedTooLong { bad_since })
            }
            (State::Volatile, Some(_), None) => {
                let since = core.entered_at().max(session.quality.judging_since);
                lasted(since, policy.volatile_max).then_some(Event::VolatileTooLong)
            }
            (State::Volatile, _, Some(since)) => {
                lasted(since, policy.stability_window).then_some(Event::QualityGood { since })
            }
            (State::Attached, Some(_), None) => Some(Event::QualityBelow),
            _ => None,
        }
    }

    /// The threshold behind a change of level, for the log.
    pub(super) fn report_level(&mut self, session: &mut Session, now: BootTime, entered: BootTime) {
        let policy = &self.settings.policy;
        let level = *session.quality.level();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let reason = session.core.reason();
        let since = |from: Option<BootTime>| ms(now.since(from.unwrap_or(entered)));
        let found = if reason == Reason::VolatilitySignal {
            level.breach().map(|breach| (breach.measure.policy_name(), breach.threshold, breach.observed))
        } else if reason == Reason::QualityFloorViolation {
            Some(("volatile_max", ms(policy.volatile_max), ms(now.since(entered))))
        } else if reason == Reason::PolicyTermination {
            let bad = level.bad_since().map(|since| since.max(entered));
            Some(("degraded_max", ms(policy.degraded_max), since(bad)))
        } else if matches!(reason, Reason::HealthRecovered | Reason::ExitDegradedMode) {
            Some(("stability_window", ms(policy.stability_window), since(level.good_since())))
        } else {
            None
        };
        let Some((name, threshold, observed)) = found else { return };
        self.report(session, now, reason, AuditKind::Policy { name, threshold, observed });
    }
}
