//! Summaries of events that an attacker could cause at will: the first of a kind is written at once, the rest
//! of the interval is counted. Total occurrences = sum of (1 + `suppressed`) over the lines. Bounded memory.

use super::event::{AuditEvent, AuditKind, LimitScope, Line, Violation};
use jvpn_abi::{BootTime, Reason};
use std::time::Duration;

/// At most one line per kind, reason and session in this span.
pub const FLOOD_INTERVAL: Duration = Duration::from_secs(1);

/// Kinds that one owner (a session, or the node) tells apart: more than there are (class, reason) pairs in
/// use.
const KINDS_MAX: usize = 64;

/// What makes two events equal for the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Reject,
    Security(Violation),
    RateLimit(LimitScope),
    Policy(&'static str),
}

impl Class {
    const fn of(kind: &AuditKind) -> Option<Self> {
        Some(match kind {
            AuditKind::ReattachReject { .. } => Self::Reject,
            AuditKind::Security { violation } => Self::Security(*violation),
            AuditKind::RateLimit { scope } => Self::RateLimit(*scope),
            AuditKind::Policy { name, .. } => Self::Policy(name),
            AuditKind::NodeStarted
            | AuditKind::SessionCreated { .. }
            | AuditKind::StateChange { .. }
            | AuditKind::TransportSwitch { .. }
            | AuditKind::RecoveryComplete { .. }
            | AuditKind::Termination { .. }
            | AuditKind::StoreRecords { .. }
            | AuditKind::OwnerAcquired { .. }
            | AuditKind::OwnerTransferred { .. }
            | AuditKind::TelemetryDegraded { .. } => return None,
        })
    }
}

#[derive(Clone, Debug)]
struct Flood {
    class: Class,
    reason: Option<Reason>,
    opens_at: BootTime,
    suppressed: u64,
    last: AuditEvent,
}

/// The floods of one owner.
#[derive(Clone, Debug, Default)]
pub struct Floods(Vec<Flood>);

impl Floods {
    /// Passes an event on, or counts it. State changes and other single events always pass.
    pub fn pass(&mut self, event: AuditEvent, now: BootTime) -> Option<Line> {
        self.pass_many(event, 1, now)
    }

    /// The same for one that stands for so many.
    pub fn pass_many(&mut self, event: AuditEvent, occurrences: u64, now: BootTime) -> Option<Line> {
        let others = occurrences.saturating_sub(1);
        let Some(class) = Class::of(&event.kind) else { return Some(event.into()) };
        if let Some(flood) = self.0.iter_mut().find(|f| f.class == class && f.reason == event.reason) {
            if now < flood.opens_at {
                flood.suppressed = flood.suppressed.saturating_add(occurrences);
                flood.last = event;
                return None;
            }
            let suppressed = std::mem::take(&mut flood.suppressed).saturating_add(others);
            flood.opens_at = now.after(FLOOD_INTERVAL);
            return Some(Line { event, suppressed: Some(suppressed) });
        }
        let line = Line { event: event.clone(), suppressed: Some(others) };
        if self.0.len() < KINDS_MAX {
            let opens_at = now.after(FLOOD_INTERVAL);
            self.0.push(Flood { class, reason: event.reason, opens_at, suppressed: 0, last: event });
        }
        Some(line)
    }

    /// When something is due to be written or forgotten.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        self.0.iter().map(|flood| flood.opens_at).min()
    }

    /// Writes out what was counted and is due; forgets what was quiet. With [`BootTime::NEVER`]: everything.
    pub fn flush(&mut self, now: BootTime) -> Vec<Line> {
        let mut lines = Vec::new();
        self.0.retain_mut(|flood| {
            if flood.opens_at > now {
                return true;
            }
            if flood.suppressed > 0 {
                // The line stands for one of them itself.
                let suppressed = Some(flood.suppressed - 1);
                lines.push(Line { event: flood.last.clone(), suppressed });
            }
            false
        });
        if self.0.is_empty() {
            // Room for four would stay, and most sessions never see a flood again.
            self.0 = Vec::new();
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(at: u64) -> AuditEvent {
        AuditEvent {
            at: BootTime::from_millis(at),
            session: None,
            reason: Some(Reason::ReplayDetected),
            kind: AuditKind::Security { violation: Violation::ReplayDetected },
        }
    }

    /// R2.4, R6.1: a flood is summarised, and no occurrence is lost from the count.
    #[test]
    fn r2_4_floods_are_summarised_and_every_occurrence_counts() {
        let mut floods = Floods::default();
        let mut lines = Vec::new();
        for ms in 0..2_500 {
            lines.extend(floods.pass(replay(ms), BootTime::from_millis(ms)));
        }
        assert_eq!(lines.len(), 3, "one at once, then one per second");
        assert!(floods.flush(BootTime::from_millis(2_600)).is_empty());
        lines.extend(floods.flush(floods.deadline().unwrap()));
        assert_eq!(lines.iter().map(|line| 1 + line.suppressed.unwrap()).sum::<u64>(), 2_500);
        assert_eq!(floods.deadline(), None, "quiet kinds are forgotten");
    }

    /// R6.1: state changes are never summarised.
    #[test]
    fn r6_1_state_changes_always_pass() {
        let mut floods = Floods::default();
        for _ in 0..100 {
            let event = AuditEvent {
                kind: AuditKind::Termination { total_lifetime_ms: 1, total_switches: 0, note: None },
                ..replay(1)
            };
            assert_eq!(floods.pass(event, BootTime(1)).unwrap().suppressed, None);
        }
    }
}
