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

/// One transition, in 16 octets: a session keeps many of them. The state before it is that after the one before.
#[derive(Clone, Copy, Debug)]
struct Entry {
    version: StateVersion,
    at_s: u32,
    at_ms: u16,
    to: State,
    reason: Reason,
}

const _: () = assert!(size_of::<Entry>() == 16);

impl Entry {
    fn at(&self) -> BootTime {
        BootTime::from_millis(u64::from(self.at_s) * 1_000 + u64::from(self.at_ms))
    }
}

/// The last transitions, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    /// The state before the oldest.
    before: Option<State>,
    entries: VecDeque<Entry>,
}

impl Timeline {
    pub(super) fn push(
        &mut self,
        at: BootTime,
        from: Option<State>,
        to: State,
        reason: Reason,
        version: StateVersion,
    ) {
        if self.entries.len() == TIMELINE_MAX {
            self.before = self.entries.pop_front().map(|oldest| oldest.to);
        } else if self.entries.is_empty() {
            self.before = from;
        }
        let ms = at.as_millis();
        let at_s = u32::try_from(ms / 1_000).unwrap_or(u32::MAX);
        let at_ms = u16::try_from(ms % 1_000).unwrap_or(0);
        self.entries.push_back(Entry { version, at_s, at_ms, to, reason });
    }

    fn rows(&self, now: BootTime) -> Vec<TimelineRow> {
        let befores = std::iter::once(self.before).chain(self.entries.iter().map(|entry| Some(entry.to)));
        let row = |(entry, from): (&Entry, Option<State>)| TimelineRow {
            ago_ms: u64::try_from(now.since(entry.at()).as_millis()).unwrap_or(u64::MAX),
            from: from.map(State::name),
            to: entry.to.name(),
            reason: entry.reason.name(),
            state_version: entry.version.0,
        };
        self.entries.iter().zip(befores).map(row).collect()
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
        let timeline = session.timeline.rows(now);
        Some(SessionDetail { session: self.session_status(session, now, view), timeline })
    }
}
