//! From a decided transition to its consequences: audit, generations, routes, the end of a session.

use super::api::{ContextView, TableCommand};
use super::early::Advance;
use super::session::{Recovery, Session};
use super::world::World;
use crate::audit::{AuditKind, Violation};
use jvpn_abi::{BootTime, Reason};
use jvpn_session::messages::ControlMessage;
use jvpn_session::{BindingChange, Event, Rejection, SessionCore, State, Transition, transition};

/// Terminated sessions that are remembered at most, so that their clients get an authenticated answer (I10).
pub(super) const REMEMBERED_MAX: usize = 4_096;

impl World {
    /// One event of one session: decided and carried out, or counted.
    pub(super) fn step(
        &mut self,
        session: &mut Session,
        event: Event,
        now: BootTime,
        view: &dyn ContextView,
    ) {
        let name = event.name();
        match transition(&session.core, event, now, &self.settings.policy) {
            Ok(next) => self.commit(session, next, now, view),
            Err(Rejection::Ignored) => self.counters.event_ignored(name),
            Err(Rejection::Refused { reason, .. }) => {
                self.counters.event_rejected(reason);
                let kind = AuditKind::Security { violation: Violation::ProtocolViolation };
                self.report(session, now, reason, kind);
            }
            // One node owns all its sessions: nobody takes one from it, and its copy stays.
            Err(Rejection::Relinquished) => {
                self.counters.event_ignored(name);
                let term = session.core.version().term();
                self.report(session, now, Reason::OwnerTakeover, AuditKind::OwnerTransferred { term });
            }
        }
    }

    /// Carries a transition out. A `Replace` leaves nothing bound; who asked for it starts the next attempt.
    pub(super) fn commit(
        &mut self,
        session: &mut Session,
        next: Transition,
        now: BootTime,
        view: &dyn ContextView,
    ) {
        debug_assert!(follows(&session.core, &next), "I3, I4: a version follows its predecessor");
        let before = std::mem::replace(&mut session.core, next.core);
        let reason = session.core.reason();
        self.counters.transition(reason);
        session.timeline.push(now, next.from, session.core.state(), reason, session.core.version());
        self.report(
            session,
            now,
            reason,
            AuditKind::StateChange { previous: next.from, new: session.core.state() },
        );
        match next.change {
            BindingChange::Keep => self.tell_state(session),
            BindingChange::Install => {}
            BindingChange::Replace | BindingChange::Unbind => self.unbind_all(session, now, view),
            BindingChange::UnbindAndForget => {
                self.unbind_all(session, now, view);
                if let Some(forgotten) = session.pending.take() {
                    self.forget_handle(forgotten.handle);
                }
            }
            BindingChange::Confirm => self.confirm(session, &before, now),
            BindingChange::End => self.end(session, now, view),
        }
        self.report_level(session, now, before.entered_at());
        if reason == Reason::PolicyFlapLimit {
            self.report_budget(session, now);
        }
        if reason == Reason::KeyExhausted {
            // No key is used past its hard limit, not even to recognise a frame.
            self.forget_former(session);
        }
    }

    /// The switch budget is used up, or was asked for more than it holds.
    pub(super) fn report_budget(&mut self, session: &mut Session, now: BootTime) {
        let kind = AuditKind::Policy {
            name: "max_switches_per_min",
            threshold: u64::from(self.settings.policy.max_switches_per_min),
            observed: session.core.switches().count(now) as u64,
        };
        self.report(session, now, Reason::PolicyFlapLimit, kind);
    }

    /// Generation, routes, audit and the client's knowledge follow a confirmed binding.
    fn confirm(&mut self, session: &mut Session, before: &SessionCore, now: BootTime) {
        if let Some(pending) = session.pending.take()
            && let Some(erased) = session.confirmed.replace(pending)
        {
            self.erase(session, erased.handle);
        }
        let Some(binding) = &mut session.binding else { return };
        binding.unconfirmed_until = None;
        binding.alive_since = now;
        let (slot, remote, epoch) = (binding.slot, binding.remote, binding.epoch);
        session.dead_check_at = now.after(self.settings.policy.dead_after_min);
        session.quality.begin(now, &self.settings.policy);
        session.advance = Advance::Due;
        if session.routed != Some(slot) {
            self.route(session, slot);
        }
        if before.state() == State::Birth {
            if let Some(peer) = self.peers.get_mut(&session.peer) {
                peer.birth = None;
                peer.live = Some(session.id());
            }
        } else {
            self.report_switch(session, before, now, remote, epoch);
        }
        session.recovery = None;
        self.tell_state(session);
    }

    fn report_switch(
        &mut self,
        session: &mut Session,
        before: &SessionCore,
        now: BootTime,
        remote: jvpn_abi::Endpoint,
        epoch: u64,
    ) {
        let reason = session.core.reason();
        let ms = |from: BootTime| u64::try_from(now.since(from).as_millis()).unwrap_or(u64::MAX);
        let attempts = before.attempts();
        let recovery: Option<Recovery> = session.recovery.as_deref().copied();
        self.report(
            session,
            now,
            reason,
            AuditKind::TransportSwitch {
                previous: recovery.map(|recovery| recovery.left),
                new: remote,
                // The last transition before this one accepted the request.
                switch_latency_ms: ms(before.entered_at()),
                epoch,
            },
        );
        self.report(
            session,
            now,
            reason,
            AuditKind::RecoveryComplete {
                detect_ms: recovery.and_then(|recovery| recovery.detect_ms).map_or(0, u64::from),
                reattach_ms: attempts.map_or(0, |attempts| ms(attempts.first_at)),
                outage_ms: recovery.map_or(0, |recovery| ms(recovery.last_heard)),
                attempts: attempts.map_or(0, |attempts| attempts.count),
            },
        );
    }

    /// Remembers the handle of the generation erased last: whoever uses it replays.
    pub(super) fn erase(&mut self, session: &mut Session, handle: jvpn_session::messages::Handle) {
        self.handles.erase(handle.0, session.id());
        if let Some(older) = session.erased.replace(handle) {
            self.forget_handle(older);
        }
    }

    /// Lets the peer's prefixes lead to `slot`.
    pub(super) fn route(&mut self, session: &mut Session, slot: jvpn_abi::wire::SlotId) {
        for prefix in self.prefixes_of(&session.peer) {
            self.commands.push_back(TableCommand::RouteAdd { prefix, slot });
        }
        if session.routed != Some(slot) {
            self.slots.hold(slot);
            if let Some(older) = session.routed.replace(slot) {
                self.slots.release(older);
            }
        }
    }

    /// The end: nothing bound, nothing routed, DATA and CONTROL keys gone. What authenticates a refusal stays
    /// a while.
    fn end(&mut self, session: &mut Session, now: BootTime, view: &dyn ContextView) {
        self.tell_end(session);
        self.drop_offer(session);
        self.unbind_all(session, now, view);
        if let Some(slot) = session.routed.take() {
            for prefix in self.prefixes_of(&session.peer) {
                self.commands.push_back(TableCommand::RouteRemove { prefix, slot });
            }
            self.slots.release(slot);
        }
        self.forget_former(session);
        session.recovery = None;
        self.unstore(session);
        let id = session.id();
        if let Some(peer) = self.peers.get_mut(&session.peer) {
            peer.live = peer.live.filter(|live| *live != id);
            peer.birth = peer.birth.filter(|birth| *birth != id);
        }
        if let Some(rivals) = self.rivals.get_mut(&session.peer) {
            rivals.retain(|rival| *rival != id);
        }
        if self.rivals.get(&session.peer).is_some_and(Vec::is_empty) {
            self.rivals.remove(&session.peer);
        }
        self.live = self.live.saturating_sub(1);
        self.remembered.insert((session.core.entered_at(), id));
        let kind = AuditKind::Termination {
            total_lifetime_ms: u64::try_from(session.core.lifetime(now).as_millis()).unwrap_or(u64::MAX),
            total_switches: session.core.total_switches(),
            note: self.note.clone(),
        };
        self.report(session, now, session.core.reason(), kind);
    }

    /// Tells the client over its confirmed binding that the session ends. An unconfirmed one sends nothing
    /// unasked.
    fn tell_end(&mut self, session: &mut Session) {
        let reason = session.core.reason();
        if reason == Reason::PeerTerminate {
            return;
        }
        self.tell(session, &ControlMessage::Terminate { reason });
    }

    /// Tells the client over its confirmed binding what state the gateway is in.
    fn tell_state(&mut self, session: &mut Session) {
        let core = &session.core;
        let message = ControlMessage::State {
            version: core.version().0,
            state: core.state().number(),
            reason: core.reason(),
        };
        self.tell(session, &message);
    }

    pub(super) fn tell(&mut self, session: &mut Session, message: &ControlMessage) {
        let Some(binding) = session.binding.as_mut().filter(|b| b.unconfirmed_until.is_none()) else {
            return;
        };
        match binding.sealer.seal(&message.encode()) {
            Ok(datagram) => {
                let (remote, local) = (binding.remote, binding.local);
                self.send(remote, local, datagram);
            }
            Err(_) => self.counters.count(super::Counter::CryptoFailed),
        }
    }

    /// Forgets a terminated session for good.
    pub(super) fn forget(&mut self, session: &Session) {
        for secrets in session.confirmed.iter().chain(&session.pending) {
            self.handles.remove(&secrets.handle.0);
        }
        if let Some(handle) = session.erased {
            self.handles.remove(&handle.0);
        }
        if let Some(timer) = session.scheduled {
            self.timers.remove(timer, session.id());
        }
        self.remembered.remove(&(session.core.entered_at(), session.id()));
    }
}

/// Whether a transition's version follows the session's, and TERMINATED stays final.
fn follows(before: &SessionCore, next: &Transition) -> bool {
    let version = next.core.version();
    let at_birth = next.from.is_none() && *before == next.core;
    at_birth
        || before.state().is_live()
            && before.id() == next.core.id()
            && (version == before.version().next() || version == before.version().next_term())
}
