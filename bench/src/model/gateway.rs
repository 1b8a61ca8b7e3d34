//! What the control plane does with datagrams and reports: `controlplane::engine`, with production's decisions.
//!
//! One event with all its consequences is one step, as in the engine: table commands and datagrams leave after it, in
//! this order. Not modelled: cryptography (a datagram that its key's holder did not make never opens), rate limits,
//! rekey at one endpoint, CONTROL.

use super::decisions::{Cause, Decision, Request};
use super::mutant::Mutant;
use super::state::{
    Asked, Attempt, Bind, Bound, Cookie, Life, Link, Message, Place, QUICK, SESSIONS_MAX, Session, SessionNo,
    Slot, WORKERS,
};
use super::step::Step;
use jvpn_abi::Reason;
use jvpn_session::{BindingChange, BindingPhase, Generation, State, StateVersion};
use std::time::Duration;

/// `engine::handshake::UNAVAILABLE_RETRY_MS`.
pub(super) const UNAVAILABLE_RETRY: Duration = Duration::from_millis(500);

impl Step<'_> {
    /// `handshake::Engine::handshake`. A refusal only makes the client ask again, so none is sent.
    pub(super) fn handshake(&mut self, stamp: u8, at: Place) {
        if stamp <= self.world.gateway.stamp_mark {
            return;
        }
        self.world.gateway.stamp_mark = stamp;
        if self.world.gateway.link != Link::Up {
            return;
        }
        let number = self.world.gateway.sessions.len() as SessionNo;
        assert!(usize::from(number) < SESSIONS_MAX, "the scope bears more sessions than are watched");
        let core = self.decisions.birth(number, self.now());
        let bind = self.new_slot(number, core, at);
        self.world.gateway.sessions.push(Some(Session {
            core,
            binding: None,
            attempt: None,
            draining: None,
            confirmed: None,
            pending: Some(bind),
            erased: None,
            offered: None,
            advance: false,
        }));
        self.world.gateway.stored.push(Some(0));
        self.begin(number, bind, Asked::Handshake { stamp });
        if let Some(older) = self.world.gateway.birth.replace(number) {
            self.event(older, Cause::Superseded);
            self.world.gateway.birth = Some(number);
        }
    }

    /// `reattach::Engine::reattach` and `World::reattach`: checks 3 to 13.
    pub(super) fn request(
        &mut self,
        nonce: u8,
        under: Bind,
        at: Place,
        voluntary: bool,
        shown: Option<Cookie>,
    ) {
        let Some((number, generation)) = self.known(under) else {
            // A gateway that does not know what it has forgotten says nothing about it.
            if self.world.gateway.loading && !self.is(Mutant::NotFoundWhileLoading) {
                return;
            }
            return self.world.net.send(Message::Reset { bind: under });
        };
        // The handle of the generation erased last: silence.
        let Some(generation) = generation else { return };
        let Some(session) = self.session_ref(number) else { return };
        let (before, core) = (session.core, self.decisions.core(session.core));
        let anew = shown.is_some() && self.is(Mutant::CookieFormJudgedAnew);
        if !core.is_fresh(nonce.into()) && !anew {
            // Only an answer that was sent already may be sent again.
            return;
        }
        let bit = 1 << nonce;
        if self.world.seen.proven & bit != 0 {
            self.breaks("I5 (nonce mark): one request is proven twice");
        }
        self.world.seen.proven |= bit;
        let burnt = self.decisions.burn(before, nonce);
        let version = self.world.slots[usize::from(under)].version;
        let asked = Request { nonce, under: generation, version, voluntary };
        let mut decision = self.decisions.request(burnt, asked, self.now());
        if self.is(Mutant::VersionComparedWithLive) && version != core.version() {
            decision = Decision::Refused { reason: Reason::StaleVersion, retry_after: Duration::ZERO };
        }
        if self.world.gateway.link != Link::Up && matches!(decision, Decision::Moved { .. }) {
            decision = Decision::Refused { reason: Reason::Unavailable, retry_after: UNAVAILABLE_RETRY };
        }
        let accepted = matches!(decision, Decision::Moved { .. });
        if (accepted || !self.is(Mutant::NonceNotBurntOnRefusal))
            && let Some(session) = self.session(number)
        {
            session.core = burnt;
        }
        match decision {
            Decision::Moved { core, change } => {
                let early = self.advance(number, at, shown);
                let bind = self.new_slot(number, core, at);
                self.world.slots[usize::from(bind)].early = early;
                self.switch_to(number, core, change, generation, bind, Asked::Reattach { nonce });
            }
            Decision::Refused { reason, retry_after } => {
                let reason = spoken(core.state(), core.reason(), reason);
                let again = self.moment_after(retry_after);
                self.world.net.send(Message::Reject { nonce, reason, again });
            }
            Decision::Broken(broken) => self.breaks(broken),
            Decision::Ignored => {
                self.breaks("I5: a request of the peer is neither accepted nor refused");
            }
        }
    }

    /// Somebody who saw a handle makes a request with it: check 5 fails, and nothing may have changed (I5).
    pub(super) fn forged(&mut self, under: Bind) {
        let Some((number, Some(_))) = self.known(under) else { return };
        let Some(session) = self.session(number) else { return };
        let before = *session;
        if self.is(Mutant::NonceBeforeProof)
            && let Some(session) = self.session_ref(number)
        {
            let burnt = self.decisions.burn(session.core, u8::MAX);
            if let Some(session) = self.session(number) {
                session.core = burnt;
            }
        }
        if self.session_ref(number) != Some(&before) {
            self.breaks("I5: a request that was not proven has changed a session");
        }
    }

    /// `engine::world::World::handles`, `Session::generation`: the session of a handle and which of its generations that
    /// is; `None` for the one erased last.
    pub(super) fn known(&self, handle: Bind) -> Option<(SessionNo, Option<Generation>)> {
        self.world.gateway.sessions.iter().enumerate().find_map(|(number, session)| {
            let session = session.as_ref()?;
            let generation = if session.pending == Some(handle) {
                Some(Generation::Pending)
            } else if session.confirmed == Some(handle) {
                Some(Generation::Confirmed)
            } else if session.erased == Some(handle) {
                None
            } else {
                return None;
            };
            Some((number as SessionNo, generation))
        })
    }

    /// `reattach::World::switch`.
    pub(super) fn switch_to(
        &mut self,
        number: SessionNo,
        core: u16,
        change: BindingChange,
        under: Generation,
        bind: Bind,
        asked: Asked,
    ) {
        let draining = self.session_ref(number).and_then(|session| session.draining);
        self.commit(number, core, change);
        let Some(session) = self.session(number) else { return };
        if session.draining == draining
            && let Some(again) = draining
        {
            // `bindings::World::unbind_again`.
            self.world.slots[usize::from(again)].draining = WORKERS;
        }
        self.turn_generations(number, under, bind);
        self.begin(number, bind, asked);
    }

    /// `reattach::World::turn_generations`.
    fn turn_generations(&mut self, number: SessionNo, under: Generation, fresh: Bind) {
        let erases_early = self.is(Mutant::AnswerLostOldErased);
        let Some(session) = self.session(number) else { return };
        let older = session.pending.replace(fresh);
        if let (Generation::Pending, Some(older)) = (under, older)
            && let Some(erased) = session.confirmed.replace(older)
        {
            session.erased = Some(erased);
        }
        if erases_early && let Some(erased) = session.confirmed.take() {
            session.erased = Some(erased);
        }
    }

    /// `slots::Slots::take`: never handed out before. I11 for epochs.
    fn new_slot(&mut self, session: SessionNo, core: u16, remote: Place) -> Bind {
        let core = self.decisions.core(core);
        let epoch = u8::try_from(core.epoch()).unwrap_or(u8::MAX);
        let bind = self.world.slots.len() as Bind;
        let reached = self.world.seen.asked & 1 << remote != 0;
        self.world.slots.push(Slot { reached, ..Slot::new(session, epoch, core.version(), remote) });
        self.epoch_is_new(bind);
        bind
    }

    /// `lifecycle::World::step`.
    pub(super) fn event(&mut self, number: SessionNo, cause: Cause) {
        let Some(session) = self.session_ref(number) else { return };
        match self.decisions.event(session.core, cause, self.now()) {
            Decision::Moved { core, change } => self.commit(number, core, change),
            Decision::Refused { .. } | Decision::Ignored => {}
            Decision::Broken(broken) => self.breaks(broken),
        }
    }

    /// `lifecycle::World::commit`.
    fn commit(&mut self, number: SessionNo, core: u16, change: BindingChange) {
        let Some(session) = self.session(number) else { return };
        let before = std::mem::replace(&mut session.core, core);
        match change {
            BindingChange::Keep | BindingChange::Install => {}
            BindingChange::Replace if self.is(Mutant::BindBeforeUnbind) => {
                // The word of the old binding stays until the next one is bound.
                if let Some(session) = self.session(number) {
                    session.binding = None;
                }
            }
            BindingChange::Replace | BindingChange::Unbind => self.unbind_all(number),
            BindingChange::UnbindAndForget => {
                self.unbind_all(number);
                if let Some(session) = self.session(number) {
                    session.pending = None;
                }
            }
            BindingChange::Confirm => self.confirm(number, before),
            BindingChange::End => {
                self.unbind_all(number);
                if let Some(session) = self.session(number) {
                    session.offered = None;
                }
                let gateway = &mut self.world.gateway;
                gateway.stored[usize::from(number)] = None;
                gateway.live = gateway.live.filter(|live| *live != number);
                gateway.birth = gateway.birth.filter(|birth| *birth != number);
            }
        }
    }

    /// `bindings::World::unbind_all`.
    fn unbind_all(&mut self, number: SessionNo) {
        let Some(session) = self.session(number) else { return };
        let (binding, attempt) = (session.binding.take(), session.attempt.take());
        if let Some(binding) = binding {
            self.retire(number, binding.bind);
        }
        if let Some(attempt) = attempt.filter(|attempt| attempt.installing) {
            self.retire(number, attempt.bind);
        }
    }

    /// `bindings::World::{retire, unbind}`: the unbound word, and who has to pass it.
    fn retire(&mut self, number: SessionNo, bind: Bind) {
        let is_up = self.world.gateway.link == Link::Up;
        let slot = &mut self.world.slots[usize::from(bind)];
        slot.word = false;
        slot.draining = if is_up { WORKERS } else { 0 };
        if let Some(session) = self.session(number) {
            session.draining = is_up.then_some(bind);
        }
    }

    /// `bindings::World::begin`.
    fn begin(&mut self, number: SessionNo, bind: Bind, asked: Asked) {
        let Some(session) = self.session(number) else { return };
        session.attempt = Some(Attempt { bind, installing: false, asked });
        if session.draining.is_none() {
            self.install(number);
        }
    }

    /// `bindings::World::install` and the installer, which hands out at once if there is one.
    fn install(&mut self, number: SessionNo) {
        let runs = self.world.data_plane.running;
        let Some(attempt) = self.session(number).and_then(|session| session.attempt.as_mut()) else { return };
        attempt.installing = true;
        let bind = usize::from(attempt.bind);
        self.world.slots[bind].handed = runs;
    }

    /// `reports::Reading::lowest`: every worker has passed.
    fn passed(&self, waiting: u8) -> bool {
        if self.is(Mutant::NoQuiescence) { waiting & 1 << QUICK == 0 } else { waiting == 0 }
    }

    /// Whether every worker has passed the session's unbind.
    pub(super) fn is_quiesced(&self, session: &Session) -> bool {
        session.draining.is_some_and(|bind| self.passed(self.world.slots[usize::from(bind)].draining))
    }

    /// Whether every worker has what the session is installing, or takes back.
    pub(super) fn is_installed(&self, session: &Session) -> bool {
        let adopting = session.binding.filter(|binding| binding.adopting).map(|binding| binding.bind);
        let installing = session.attempt.filter(|attempt| attempt.installing).map(|attempt| attempt.bind);
        adopting.or(installing).is_some_and(|bind| {
            let slot = &self.world.slots[usize::from(bind)];
            slot.handed && self.passed(WORKERS & !slot.applied)
        })
    }

    pub(super) fn has_been_heard(&self, session: &Session) -> bool {
        session.binding.is_some_and(|binding| self.world.slots[usize::from(binding.bind)].confirmed)
    }

    /// `bindings::Engine::quiesced`.
    pub(super) fn quiesced(&mut self, number: SessionNo) {
        let Some(session) = self.session(number) else { return };
        session.draining = None;
        if session.attempt.is_some_and(|attempt| !attempt.installing) {
            self.install(number);
        }
    }

    /// `bindings::Engine::installed`: `bind`, then the answer; or `rebind`.
    pub(super) fn installed(&mut self, number: SessionNo) {
        let Some(session) = self.session_ref(number).copied() else { return };
        if let Some(binding) = session.binding {
            self.world.slots[usize::from(binding.bind)].word = true;
            if let Some(binding) = self.session(number).and_then(|session| session.binding.as_mut()) {
                binding.adopting = false;
            }
            return;
        }
        let Some(attempt) = session.attempt else { return };
        let bind = attempt.bind;
        let (epoch, order) =
            (self.world.slots[usize::from(bind)].epoch, self.world.slots[usize::from(bind)].order());
        let Some(core) = self.decisions.installed(session.core, epoch.into()) else {
            return self.breaks("I13: an attempt that the session no longer wants");
        };
        if self.is(Mutant::BindBeforeUnbind) {
            for slot in self.world.slots.iter_mut().filter(|slot| slot.session == number) {
                slot.word = false;
            }
        }
        self.world.slots[usize::from(bind)].word = true;
        if let Some(session) = self.session(number) {
            session.core = core;
            session.attempt = None;
            session.binding = Some(Bound { bind, confirmed: false, adopting: false, keys: true });
        }
        self.send_early(number, bind);
        if let Some(answered) = self.world.seen.answered.get_mut(usize::from(number)) {
            *answered = order;
        }
        self.world.net.send(match attempt.asked {
            Asked::Handshake { stamp } => Message::Response { stamp, bind },
            Asked::Reattach { nonce } => Message::Ack { nonce, bind },
            Asked::Takeover => Message::Told { bind },
        });
    }

    /// `timers::Due::AttemptFailed`: the refusal that was prepared, then INSTALL_FAILED.
    pub(super) fn attempt_failed(&mut self, number: SessionNo) {
        let Some(session) = self.session_ref(number).copied() else { return };
        let core = self.decisions.core(session.core);
        if core.phase() != BindingPhase::Installing {
            return;
        }
        let epoch = core.epoch();
        // An attempt of an earlier process cannot be answered any more.
        if let Some(Attempt { asked: Asked::Reattach { nonce }, .. }) = session.attempt {
            let again = self.moment_after(UNAVAILABLE_RETRY);
            self.world.net.send(Message::Reject { nonce, reason: Reason::Unavailable, again });
        }
        self.event(number, Cause::InstallFailed(epoch));
    }

    /// `bindings::Engine::confirm_binding`.
    pub(super) fn confirmed(&mut self, number: SessionNo) {
        let Some(session) = self.session_ref(number) else { return };
        let Some(binding) = session.binding else { return };
        let (core, epoch) = (session.core, self.world.slots[usize::from(binding.bind)].epoch);
        let Decision::Moved { core: next, change } =
            self.decisions.event(core, Cause::Confirmed(epoch.into()), self.now())
        else {
            return;
        };
        if self.decisions.core(core).state() == State::Birth
            && let Some(older) = self.world.gateway.live
        {
            self.event(older, Cause::Superseded);
        }
        self.commit(number, next, change);
    }

    /// `lifecycle::World::confirm`.
    fn confirm(&mut self, number: SessionNo, before: u16) {
        let was_birth = self.decisions.core(before).state() == State::Birth;
        let now = self.world.now;
        let Some(session) = self.session(number) else { return };
        if let Some(pending) = session.pending.take()
            && let Some(erased) = session.confirmed.replace(pending)
        {
            session.erased = Some(erased);
        }
        if let Some(binding) = &mut session.binding {
            binding.confirmed = true;
        }
        session.advance = true;
        self.world.seen.unheard[usize::from(number)] = None;
        if was_birth {
            self.world.gateway.birth = None;
            self.world.gateway.live = Some(number);
            // The budget is the session's own.
            self.world.seen.switches.clear();
        } else {
            self.world.seen.switches.push(now);
        }
    }

    /// The unconfirmed timer: `timers::Due::Confirmed`, else BIND_UNCONFIRMED.
    pub(super) fn unconfirmed_too_long(&mut self, number: SessionNo) {
        let Some(session) = self.session_ref(number).copied() else { return };
        if self.has_been_heard(&session) {
            return self.confirmed(number);
        }
        let epoch = self.decisions.core(session.core).epoch();
        self.event(number, Cause::BindUnconfirmed(epoch));
    }

    /// `timers::World::silence`: nothing was heard for too long.
    pub(super) fn silence(&mut self, number: SessionNo) {
        self.world.left.silences -= 1;
        self.event(number, Cause::TransportDead);
    }

    /// `bindings::Engine::data_plane_lost`.
    pub(super) fn data_plane_lost(&mut self) {
        self.world.gateway.link = Link::Lost;
        for slot in &mut self.world.slots {
            slot.draining = 0;
        }
        for number in 0..self.world.gateway.sessions.len() as SessionNo {
            if let Some(session) = self.session(number) {
                session.draining = None;
                session.offered = None;
                if let Some(binding) = &mut session.binding {
                    binding.adopting = false;
                }
                self.attempt_failed(number);
            }
        }
    }

    /// `bindings::World::lose_binding`.
    pub(super) fn lose_binding(&mut self, number: SessionNo) {
        let Some(session) = self.session_ref(number) else { return };
        let core = self.decisions.core(session.core);
        let epoch = core.epoch();
        self.event(
            number,
            match core.state() {
                State::Birth => Cause::InstallFailed(epoch),
                State::Recovering => Cause::BindUnconfirmed(epoch),
                State::Attached | State::Volatile | State::Degraded | State::Terminated => {
                    Cause::DataPlaneLost
                }
            },
        );
    }

    /// The process dies. Forwarding goes on.
    pub(super) fn control_plane_crash(&mut self) {
        self.world.left.control_plane_crashes -= 1;
        self.world.gateway.life = Life::Gone;
        self.world.gateway.take_mark = 0;
        self.world.gateway.loading = false;
        self.world.seen.asked = 0;
        let keeps = self.scope.keeps_sessions && self.world.data_plane.running;
        if !keeps {
            return self.memory_is_gone();
        }
        let decisions = self.decisions;
        for session in self.world.gateway.sessions.iter_mut().flatten() {
            session.advance = decisions.core(session.core).state().is_bound();
            // `engine::snapshot`: JOURNAL has what `transition` reads and both generations, but no DATA keys and no answer.
            session.attempt = None;
            session.draining = None;
            session.offered = None;
            if let Some(binding) = &mut session.binding {
                binding.keys = false;
                binding.adopting = false;
            }
        }
    }

    /// A control plane without memory knows no session; what is durable outlives it, the store too unless it is lost.
    pub(super) fn memory_is_gone(&mut self) {
        if self.scope.loses_store {
            self.world.gateway.stored.fill(None);
        }
        self.world.gateway.sessions.iter_mut().for_each(|session| *session = None);
        self.world.gateway.live = None;
        self.world.gateway.birth = None;
    }

    /// `adoption::Engine::adopt`, or `tables::Tables::clear` without memory: every word that no record names is unbound;
    /// then the workers must pass that.
    pub(super) fn control_plane_start(&mut self) {
        self.world.gateway.loading = self.scope.slow_store && !self.memory_is_whole();
        if !self.scope.slow_store {
            self.load_stored();
        }
        let runs = self.world.data_plane.running;
        self.world.gateway.life = Life::Sweeping(if runs { WORKERS } else { 0 });
        self.world.gateway.link = if runs { Link::Up } else { Link::Lost };
        let keeps_words = self.is(Mutant::OldTermStaysBound);
        let named: Vec<Bind> =
            self.world.gateway.sessions.iter().flatten().filter_map(|s| Some(s.binding?.bind)).collect();
        for (bind, slot) in self.world.slots.iter_mut().enumerate() {
            slot.word &= named.contains(&(bind as Bind)) || keeps_words;
            slot.draining = 0;
        }
    }

    /// `adoption::Engine::resolve_adopted`, `finish`: the workers have passed the sweep, and what was unfinished is decided.
    pub(super) fn control_plane_ready(&mut self) {
        self.world.gateway.life = Life::Running;
        if self.world.gateway.link != Link::Up {
            // Without a data plane nothing is bound; `data_plane_start` decides about bindings.
            return self.data_plane_lost();
        }
        for number in 0..self.world.gateway.sessions.len() as SessionNo {
            let Some(session) = self.session_ref(number).copied() else { continue };
            let core = self.decisions.core(session.core);
            match session.binding {
                Some(binding) if !self.world.slots[usize::from(binding.bind)].word => {
                    self.lose_binding(number)
                }
                Some(binding) if !binding.confirmed && self.has_been_heard(&session) => {
                    self.confirmed(number)
                }
                Some(_) => {}
                None if core.phase() == BindingPhase::Installing => {
                    self.event(number, Cause::InstallFailed(core.epoch()));
                }
                None => {}
            }
        }
    }
}

impl Slot {
    pub(super) const fn new(session: SessionNo, epoch: u8, version: StateVersion, remote: Place) -> Self {
        Self {
            session,
            epoch,
            version,
            remote,
            offered: false,
            word: false,
            draining: 0,
            handed: false,
            applied: 0,
            early: false,
            reached: false,
            confirmed: false,
            committed: false,
            counter: 0,
            sealed: 0,
        }
    }
}

/// `reattach::spoken`.
pub(super) fn spoken(state: State, ended: Reason, reason: Reason) -> Reason {
    const EXPIRED: [Reason; 3] =
        [Reason::TtlSessionExpired, Reason::TtlTransportLossExpired, Reason::RecoveryBoundsExceeded];
    if reason != Reason::SessionTerminated || state != State::Terminated {
        reason
    } else if ended == Reason::Superseded {
        ended
    } else if EXPIRED.contains(&ended) {
        Reason::SessionExpired
    } else {
        reason
    }
}
