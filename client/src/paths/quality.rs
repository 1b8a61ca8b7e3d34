//! Quality of the bound path as the client judges it: from the answers to its probes and from what it has received
//! itself, with the gateway's thresholds.

use jvpn_abi::BootTime;
use jvpn_session::messages::ClientPolicy;
use jvpn_session::quality::{Counts, Estimator, Level, Measured, Thresholds};
use std::time::Duration;

/// A path that was left for its quality is not taken by choice for so long; the time doubles with each time …
const POOR_FIRST: Duration = Duration::from_secs(60);
/// … up to this, and starts anew when it has not been left for as long.
const POOR_MAX: Duration = Duration::from_secs(3_600);

/// What an answer to a probe tells.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Number of the probe.
    pub id: u32,
    /// Its round trip, if the probe is known.
    pub rtt: Option<Duration>,
    /// Packets that the gateway has accepted under the probe's key.
    pub received: u64,
    /// Highest counter among them.
    pub highest: u64,
}

/// The watch over one binding's quality.
#[derive(Debug)]
pub struct PathQuality {
    thresholds: Thresholds,
    estimator: Estimator,
    level: Level,
    /// The key that probes are sent under, and the first probe that was.
    key: Option<(u32, u32)>,
    last_rtt: Option<Duration>,
    /// A round trip that the gateway was not told yet.
    untold: Option<Duration>,
}

impl PathQuality {
    /// Nothing is known of a new binding.
    #[must_use]
    pub fn new(policy: &ClientPolicy) -> Self {
        Self {
            thresholds: Thresholds::from(policy),
            estimator: Estimator::default(),
            level: Level::default(),
            key: None,
            last_rtt: None,
            untold: None,
        }
    }

    /// A probe leaves under this key. Returns the round trip that it tells, µs; 0 = none is new.
    pub fn probe_sent(&mut self, id: u32, key: u32) -> u32 {
        if self.key.is_none_or(|(known, _)| known != key) {
            self.key = Some((key, id));
        }
        self.untold.take().map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1))
    }

    /// An answer came. `own` is what was accepted here.
    pub fn answered(&mut self, now: BootTime, answer: &Answer, own: Counts) {
        if let Some(rtt) = answer.rtt {
            self.estimator.note_rtt(now, rtt);
            if let Some(before) = self.last_rtt.replace(rtt) {
                self.estimator.note_change(now, before.abs_diff(rtt));
            }
            self.untold = Some(rtt);
        }
        // What the gateway counts is counted per key, and an answer does not name the key of its probe.
        if let Some((key, first)) = self.key
            && answer.id.wrapping_sub(first) <= u32::MAX / 2
        {
            let end = if answer.received == 0 { 0 } else { answer.highest.saturating_add(1) };
            let up = Counts { key, end, received: answer.received.min(end) };
            self.estimator.note(now, [Some(up), None], [Some(own), None], &self.thresholds);
        }
        let verdict = self.measured(now).judge(&self.thresholds);
        self.level.note(now, verdict, &self.thresholds);
    }

    /// What the last seconds show.
    #[must_use]
    pub fn measured(&self, now: BootTime) -> Measured {
        self.estimator.measured(now, &self.thresholds)
    }

    /// The thresholds in force.
    #[must_use]
    pub const fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// The level.
    #[must_use]
    pub const fn level(&self) -> &Level {
        &self.level
    }

    /// When quality has been bad for long enough to be worth a switch: a spike of a few seconds is not. `None` while it is
    /// good, or seems to become so.
    #[must_use]
    pub fn worth_leaving_at(&self) -> Option<BootTime> {
        let bad_since = self.level.bad_since().filter(|_| self.level.good_since().is_none())?;
        Some(bad_since.after(self.thresholds.stability * 2))
    }
}

/// That an uplink was left for its quality.
#[derive(Clone, Copy, Debug)]
pub(super) struct Poor {
    since: BootTime,
    span: Duration,
}

impl Poor {
    /// It is left now, perhaps not for the first time.
    pub(super) fn again(before: Option<Self>, now: BootTime) -> Self {
        match before {
            Some(poor) if poor.is_over(now) && now.since(poor.since) > poor.span + POOR_MAX => {
                Self { since: now, span: POOR_FIRST }
            }
            Some(poor) if poor.is_over(now) => Self { since: now, span: (poor.span * 2).min(POOR_MAX) },
            Some(poor) => poor,
            None => Self { since: now, span: POOR_FIRST },
        }
    }

    pub(super) fn is_over(&self, now: BootTime) -> bool {
        now.since(self.since) >= self.span
    }
}
