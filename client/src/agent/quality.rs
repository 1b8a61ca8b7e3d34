//! The client's own judgement of its path, and the switch to a better one that is warm.

use super::{Agent, Phase};
use crate::paths::campaign::Pace;
use crate::paths::monitor::Vigilance;
use crate::paths::quality::Answer;
use jvpn_abi::BootTime;
use jvpn_abi::wire::internal::ProbeFrame;
use jvpn_session::State;
use jvpn_session::quality::Counts;

impl Agent {
    /// The answer to a probe came.
    pub(super) fn take_answer(&mut self, now: BootTime, frame: &ProbeFrame) {
        let Phase::Session(session) = &mut self.phase else { return };
        let rtt = session.monitor.on_ack(now, frame.id);
        let (received, highest) = session.binding.received();
        let end = if received == 0 { 0 } else { highest.saturating_add(1) };
        let own = Counts { key: session.binding.key_number().0, end, received };
        let (received, highest) = (frame.received, frame.highest_counter);
        session.quality.answered(now, &Answer { id: frame.id, rtt, received, highest }, own);
        session.heard_by_gateway = Some((highest.saturating_add(1), received));
        session.unheard = Pace::default();
    }

    /// What the gateway finds volatile is probed as under traffic, so that it has evidence of better or worse: at most until
    /// it decides, for VOLATILE is bounded.
    pub(super) fn watch_as(&mut self, now: BootTime, state: State) {
        let Phase::Session(session) = &mut self.phase else { return };
        let vigilance = if state == State::Volatile { Vigilance::Raised } else { Vigilance::Usual };
        session.monitor.set_vigilance(now, vigilance);
    }

    /// Takes a warm candidate that is measurably better than a path whose quality has been bad for a while; returns when to
    /// look again.
    pub(super) fn consider_better_path(&mut self, now: BootTime) -> BootTime {
        let Some((active, drain, allowed)) = self.free_choice() else { return BootTime::NEVER };
        let Self { phase: Phase::Session(session), paths, .. } = self else { return BootTime::NEVER };
        let Some(due) = session.quality.worth_leaving_at() else { return BootTime::NEVER };
        let due = due.max(allowed);
        if now < due {
            return due;
        }
        // Each probe of a candidate brings another look.
        let Some(target) = paths.better_by_quality(now, active, &session.quality) else {
            return BootTime::NEVER;
        };
        paths.leave_for_quality(active, now);
        self.begin_voluntary(now, target, drain);
        BootTime::NEVER
    }
}
