//! The audit log against its own rules: contiguous versions, chained states, one event per transition, bounded switches,
//! bounded time in each passing state.

use jvpn_abi::{BootTime, Reason};
use jvpn_controlplane::audit::{AuditKind, Line};
use jvpn_session::messages::SessionId;
use jvpn_session::{Policy, State, StateVersion};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A birth ends after 5 s; whoever looks may come a little later (a stalled process is late by as much).
const BIRTH_MAX: Duration = Duration::from_secs(5);
/// How late a timer may fire: as long as the simulation lets a process stall, and some.
const LATENESS: Duration = Duration::from_secs(4);
/// When a session is looked at again of which nothing could be said.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

type Verdict = Result<(), (&'static str, String)>;

/// What the log says about a session.
#[derive(Clone, Debug)]
pub struct Trail {
    /// State after the last transition.
    pub state: State,
    /// Reason of the last transition.
    pub reason: Reason,
    /// Version of the last transition.
    pub version: StateVersion,
    /// Every transition: when, to what, why.
    pub changes: Vec<(BootTime, State, Reason)>,
    /// When it was last bound.
    lost_at: BootTime,
    born_at: BootTime,
    switches: VecDeque<BootTime>,
    /// Its place in the order of deadlines.
    deadline: Option<BootTime>,
    ended: bool,
    /// Lines about it may have been lost since the last one.
    gap: bool,
}

/// The whole log of the running control plane.
#[derive(Debug)]
pub struct AuditTrail {
    policy: Policy,
    /// Sessions of all control planes.
    sessions: BTreeMap<SessionId, Trail>,
    /// Every session ever.
    known: BTreeSet<SessionId>,
    /// Starts of control planes.
    pub starts: u64,
    /// A control plane died in the middle of a step.
    lines_lost: bool,
    /// When each session must have left the state it is in.
    deadlines: BTreeSet<(BootTime, SessionId)>,
    /// Whether every transition is kept. Thousands of sessions are watched without.
    pub history: bool,
    /// Lines.
    pub lines: u64,
    /// Sessions born.
    pub created: u64,
    /// Sessions ended, by reason.
    pub ended: BTreeMap<&'static str, u64>,
    /// Reattaches refused, by reason, suppressed ones included.
    pub rejections: BTreeMap<&'static str, u64>,
    /// Confirmed switches, all sessions.
    pub switches: u64,
    /// Security events by name, suppressed ones included.
    pub security: BTreeMap<&'static str, u64>,
}

impl AuditTrail {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            policy: policy.clone(),
            sessions: BTreeMap::new(),
            known: BTreeSet::new(),
            starts: 0,
            lines_lost: false,
            deadlines: BTreeSet::new(),
            history: true,
            lines: 0,
            created: 0,
            ended: BTreeMap::new(),
            rejections: BTreeMap::new(),
            switches: 0,
            security: BTreeMap::new(),
        }
    }

    /// The state of a session, as logged.
    #[must_use]
    pub fn state(&self, session: SessionId) -> Option<State> {
        self.sessions.get(&session).map(|trail| trail.state)
    }

    /// Whether the last line about a session may not be the last thing that happened to it.
    #[must_use]
    pub fn is_behind(&self, session: SessionId) -> bool {
        self.sessions.get(&session).map_or(self.lines_lost, |trail| trail.gap)
    }

    /// Everything logged about a session.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<&Trail> {
        self.sessions.get(&session)
    }

    /// A gap is legal beside the start of a control plane, if the one before died in the middle of a step.
    pub(super) fn lose_lines(&mut self) {
        self.lines_lost = true;
        self.sessions.values_mut().for_each(|trail| trail.gap = true);
    }

    pub(super) fn line(&mut self, line: &Line) -> Verdict {
        let event = &line.event;
        self.lines += 1;
        if matches!(event.kind, AuditKind::NodeStarted) {
            // Sessions that it goes on with have the next version; of the others nothing is heard any more.
            self.starts += 1;
            return Ok(());
        }
        if let AuditKind::Security { violation } = &event.kind {
            *self.security.entry(violation.name()).or_default() += 1 + line.suppressed.unwrap_or(0);
        }
        let Some((id, version)) = event.session else { return Ok(()) };
        let Some(reason) = event.reason else {
            return Err(("R1.5", format!("an event of {id} without a reason: {event:?}")));
        };
        match &event.kind {
            AuditKind::SessionCreated { .. } => {
                self.created += 1;
                if !self.known.insert(id) {
                    return Err(("I2", format!("{id} is created twice")));
                }
                Ok(())
            }
            AuditKind::StateChange { previous, new } => {
                self.change(id, version, event.at, reason, *previous, *new)
            }
            AuditKind::TransportSwitch { .. } => self.switch(id, version, event.at),
            AuditKind::Termination { .. } => {
                *self.ended.entry(reason.name()).or_default() += 1;
                self.termination(id)
            }
            AuditKind::ReattachReject { .. } => {
                *self.rejections.entry(reason.name()).or_default() += 1 + line.suppressed.unwrap_or(0);
                Ok(())
            }
            AuditKind::NodeStarted
            | AuditKind::RecoveryComplete { .. }
            | AuditKind::Security { .. }
            | AuditKind::RateLimit { .. }
            | AuditKind::Policy { .. }
            | AuditKind::StoreRecords { .. }
            | AuditKind::OwnerAcquired { .. }
            | AuditKind::OwnerTransferred { .. }
            | AuditKind::TelemetryDegraded { .. } => Ok(()),
        }
    }

    /// I3, I4, I8: versions contiguous per term from 0, states chained, nothing after TERMINATED.
    fn change(
        &mut self,
        id: SessionId,
        version: StateVersion,
        at: BootTime,
        reason: Reason,
        previous: Option<State>,
        new: State,
    ) -> Verdict {
        let Some(trail) = self.sessions.get_mut(&id) else {
            let at_birth = previous.is_none()
                && new == State::Birth
                && version.sequence() == 0
                && self.known.contains(&id);
            if !at_birth && !self.lines_lost {
                return Err(("I3", format!("{id} begins with {previous:?} to {new:?} at {version}")));
            }
            let trail = Trail {
                state: new,
                reason,
                version,
                changes: if self.history { vec![(at, new, reason)] } else { Vec::new() },
                deadline: None,
                lost_at: at,
                born_at: at,
                switches: VecDeque::new(),
                ended: false,
                gap: false,
            };
            self.sessions.insert(id, trail);
            self.put_deadline(id);
            return Ok(());
        };
        if trail.state == State::Terminated {
            return Err(("I4", format!("{id} goes to {new:?} after its end")));
        }
        if previous.is_none() && version.sequence() == 0 && version > trail.version {
            // Loaded from the store: its term rose, and what was not stored is forgotten. Or ended instead of loaded.
            trail.switches.clear();
            trail.gap = false;
            trail.state = new;
            trail.lost_at = at;
            trail.version = version;
            trail.reason = reason;
            if self.history {
                trail.changes.push((at, new, reason));
            }
            self.put_deadline(id);
            return Ok(());
        }
        let gap = std::mem::take(&mut trail.gap);
        if gap && version > trail.version {
            // What was lost in between is for the next lines to fit to.
            trail.state = previous.unwrap_or(trail.state);
            trail.lost_at = at;
        } else if version != trail.version.next() && version != trail.version.next_term() {
            return Err(("I3", format!("{id} goes from version {} to {version}", trail.version)));
        }
        if previous != Some(trail.state) {
            return Err((
                "I8",
                format!("{id} was {:?}, the event says {previous:?} to {new:?}", trail.state),
            ));
        }
        if trail.state.is_bound() {
            trail.lost_at = at;
        }
        trail.state = new;
        trail.version = version;
        trail.reason = reason;
        if self.history {
            trail.changes.push((at, new, reason));
        }
        self.put_deadline(id);
        Ok(())
    }

    /// Files a session under the moment at which it must have left the state it is in, or ended.
    fn put_deadline(&mut self, id: SessionId) {
        let Some(trail) = self.sessions.get_mut(&id) else { return };
        let due = match trail.state {
            State::Birth => Some(trail.born_at.after(BIRTH_MAX)),
            State::Recovering => Some(trail.lost_at.after(self.policy.transport_loss_ttl)),
            State::Attached | State::Volatile | State::Degraded => {
                Some(trail.born_at.after(self.policy.session_ttl))
            }
            State::Terminated => None,
        };
        let due = due.map(|at| at.after(LATENESS));
        if trail.deadline == due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut trail.deadline, due) {
            self.deadlines.remove(&(before, id));
        }
        self.deadlines.extend(due.map(|at| (at, id)));
    }

    /// I7: no more confirmed switches in any minute than policy allows.
    fn switch(&mut self, id: SessionId, version: StateVersion, at: BootTime) -> Verdict {
        self.switches += 1;
        let max = self.policy.max_switches_per_min as usize;
        let lines_lost = self.lines_lost;
        let Some(trail) = self.sessions.get_mut(&id) else {
            return if lines_lost {
                Ok(())
            } else {
                Err(("I8", format!("{id} switches before it is there")))
            };
        };
        if version != trail.version || !trail.state.is_bound() {
            return Err(("I8", format!("{id} switches in {:?} at {version}", trail.state)));
        }
        trail.switches.push_back(at);
        while trail.switches.front().is_some_and(|first| first.after(MINUTE) <= at) {
            trail.switches.pop_front();
        }
        if trail.switches.len() > max {
            return Err(("I7", format!("{id} switched {} times in a minute", trail.switches.len())));
        }
        Ok(())
    }

    fn termination(&mut self, id: SessionId) -> Verdict {
        let lines_lost = self.lines_lost;
        let Some(trail) = self.sessions.get_mut(&id) else {
            return if lines_lost {
                Ok(())
            } else {
                Err(("I8", format!("{id} terminates before it is there")))
            };
        };
        if trail.state != State::Terminated || trail.ended {
            return Err(("I8", format!("{id} terminates in {:?}, before: {}", trail.state, trail.ended)));
        }
        trail.ended = true;
        Ok(())
    }

    /// I6, R1.6: BIRTH, RECOVERING and the session itself end when they must. Sessions that the control plane does not
    /// know, and those whose last lines may be lost, are looked at again later.
    pub(super) fn clocks(&mut self, now: BootTime, knows: &dyn Fn(SessionId) -> bool) -> Verdict {
        while let Some((due, id)) = self.deadlines.first().copied().filter(|(due, _)| *due < now) {
            self.deadlines.remove(&(due, id));
            let Some(trail) = self.sessions.get_mut(&id) else { continue };
            if knows(id) && !trail.gap {
                return Err(("I6", format!("{id} is still {:?}, {:?}", trail.state, trail.reason)));
            }
            let again = now.after(LOOK_AGAIN);
            trail.deadline = Some(again);
            self.deadlines.insert((again, id));
        }
        Ok(())
    }
}
