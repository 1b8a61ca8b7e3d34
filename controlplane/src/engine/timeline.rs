//! The last transitions of a session, for people who ask what happened. Bounded; the audit log has all of them.

use super::Engine;
use super::api::ContextView;
use super::status::SessionStatus;
use jvpn_abi::{BootTime, Reason};
use jvpn_session::messages::SessionId;
use jvpn_session::{State, StateVersion};
use serde::Serialize;
use std::collections::VecDeque;

/// Transitions that are kept per session (I10).
pub(super) const TIMELINE_MAX: usize = 32;

/// One transition.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: BootTime,
    from: Option<State>,
    to: State,
    reason: Reason,
    version: StateVersion,
}

/// The last transitions, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline(VecDeque<Entry>);

impl Timeline {
    pub(super) fn push(
        &mut self,
        at: BootTime,
        from: Option<State>,
        to: State,
        reason: Reason,
        version: StateVersion,
    ) {
        if self.0.len() == TIMELINE_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Entry { at, from, to, reason, version });
    }
}

/// A transition as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineRow {
    /// How long ago, ms.
    pub ago_ms: u64,
    /// The state before; absent at birth.
    pub from: Option<&'static str>,
    /// The state after.
    pub to: &'static str,
    /// Why.
    pub reason: &'static str,
    /// state_version after it.
    pub state_version: u64,
}

/// One session with its history.
#[derive(Clone, Debug, Serialize)]
pub struct SessionDetail {
    /// As in `status`.
    #[serde(flatten)]
    pub session: SessionStatus,
    /// Its last transitions, oldest first.
    pub timeline: Vec<TimelineRow>,
}

impl Engine {
    /// One session, live or remembered, with its last transitions.
    #[must_use]
    pub fn session_detail(
        &self,
        id: SessionId,
        now: BootTime,
        view: &dyn ContextView,
    ) -> Option<SessionDetail> {
        let session = self.sessions.get(&id)?;
        let rows = session.timeline.0.iter().map(|entry| TimelineRow {
            ago_ms: u64::try_from(now.since(entry.at).as_millis()).unwrap_or(u64::MAX),
            from: entry.from.map(State::name),
            to: entry.to.name(),
            reason: entry.reason.name(),
            state_version: entry.version.0,
        });
        Some(SessionDetail { session: self.session_status(session, now, view), timeline: rows.collect() })
    }
}
