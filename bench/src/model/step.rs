//! One step: an action, what the processes do about it, and what must hold afterwards.

use super::action::Action;
use super::decisions::{Decisions, overdue};
use super::mutant::Mutant;
use super::scope::Scope;
use super::state::{About, Bind, Life, Message, Phase, QUICK, SLOW, Session, SessionNo, World};
use jvpn_abi::BootTime;
use jvpn_session::{BindingPhase, State};
use std::time::Duration;

/// An invariant that does not hold, in words.
pub(super) type Broken = &'static str;

/// A world being changed.
pub(super) struct Step<'a> {
    pub(super) scope: &'a Scope,
    pub(super) mutant: Option<Mutant>,
    pub(super) decisions: &'a Decisions,
    pub(super) world: World,
    /// The gateway is under load while it takes this step.
    pub(super) under_load: bool,
    broken: Option<Broken>,
}

impl<'a> Step<'a> {
    pub(super) const fn new(
        scope: &'a Scope,
        mutant: Option<Mutant>,
        decisions: &'a Decisions,
        world: World,
    ) -> Self {
        Self { scope, mutant, decisions, world, under_load: scope.load, broken: None }
    }

    /// Carries `action` out and judges what came of it.
    pub(super) fn take(mut self, action: Action) -> (World, Option<Broken>) {
        self.act(action);
        self.boundary(QUICK);
        if !self.scope.slow_worker {
            self.boundary(SLOW);
        }
        let broken = self.broken.or_else(|| self.judge());
        if broken.is_none() {
            self.tidy();
        }
        (self.world, broken)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Deliver(message, place) => self.deliver(message, place),
            Action::DeliverCalm(message, place) => {
                self.under_load = false;
                self.deliver(message, place);
            }
            Action::SendInit => self.send_init(),
            Action::SendRequest => self.send_request(),
            Action::Leave { voluntary } => self.leave(voluntary),
            Action::GiveUpUnproven => self.give_up_unproven(),
            Action::ClientCrash => self.client_crash(),
            Action::ClientStart => self.world.client.phase = Phase::Searching { open: None },
            Action::Forge(under) => self.forged(under),
            Action::Quiesced(session) => self.quiesced(session),
            Action::Installed(session) => self.installed(session),
            Action::AttemptTimeout(session) => self.attempt_failed(session),
            Action::Confirmed(session) => self.confirmed(session),
            Action::UnconfirmedTimeout(session) => self.unconfirmed_too_long(session),
            Action::Silence(session) => self.silence(session),
            Action::ControlPlaneCrash => self.control_plane_crash(),
            Action::ControlPlaneStart => self.control_plane_start(),
            Action::ControlPlaneReady => self.control_plane_ready(),
            Action::StoreLoaded => self.store_loaded(),
            Action::Boundary => self.boundary(SLOW),
            Action::TakeInbound(bind) => self.take_inbound(bind),
            Action::TakeOutbound(bind) => self.take_outbound(bind),
            Action::Finish => self.finish(),
            Action::Outbound(bind) => self.outbound(bind),
            Action::DataPlaneCrash => self.data_plane_crash(),
            Action::DataPlaneLossSeen => self.data_plane_lost(),
            Action::DataPlaneStart => self.data_plane_start(),
            Action::Tick => self.tick(),
        }
    }

    fn deliver(&mut self, message: Message, place: u8) {
        match message {
            Message::Init { stamp, shown, .. } => {
                if self.is_running() && self.pass(About::Init { stamp }, place, shown) {
                    self.handshake(stamp, place);
                }
            }
            Message::Request { nonce, under, voluntary, shown, .. } => {
                if self.is_running() && self.pass(About::Request { nonce }, place, shown) {
                    self.request(nonce, under, place, voluntary, shown);
                }
            }
            Message::Up { bind, .. } => self.inbound(bind, place),
            Message::Response { stamp, bind } => self.response(stamp, bind),
            Message::Ack { nonce, bind } => self.ack(nonce, bind),
            Message::Reject { nonce, reason, again } => self.reject(nonce, reason, again),
            Message::Down { bind } => self.opened(bind),
            Message::Reset { bind } => self.reset(Some(bind)),
            Message::TakeAsk { nonce, session, shown, .. } => {
                if self.is_running() && self.pass(About::Request { nonce }, place, shown) {
                    self.take_ask(nonce, session, place);
                }
            }
            Message::Retry { about, cookie } => self.retried(about, cookie),
            Message::Offer { nonce, bind } => self.offer(nonce, bind),
            Message::Take { bind, .. } => self.take_offered(bind, place),
            Message::Told { bind } => self.told(bind),
            Message::ForeignReset => self.reset(None),
        }
    }

    /// What the first broken invariant says counts.
    pub(super) fn breaks(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(super) fn now(&self) -> BootTime {
        self.scope.moment(self.world.now)
    }

    /// The first moment of the scope that is not before `wait` has passed.
    pub(super) fn moment_after(&self, wait: Duration) -> u8 {
        if wait < Duration::from_secs(1) || self.scope.moments() <= 1 {
            // A short wait passes between two steps; without time, every one does.
            return self.world.now;
        }
        let at = self.now().after(wait);
        (self.world.now..self.scope.moments()).find(|n| self.scope.moment(*n) >= at).unwrap_or(u8::MAX)
    }

    pub(super) fn session(&mut self, session: SessionNo) -> Option<&mut Session> {
        self.world.gateway.sessions.get_mut(usize::from(session))?.as_mut()
    }

    pub(super) fn session_ref(&self, session: SessionNo) -> Option<&Session> {
        self.world.gateway.sessions.get(usize::from(session))?.as_ref()
    }

    fn is_running(&self) -> bool {
        self.world.gateway.life == Life::Running
    }

    /// A session that is not here lives if it will be loaded.
    pub(super) fn is_live(&self, session: SessionNo) -> bool {
        match self.session_ref(session) {
            Some(session) => self.decisions.core(session.core).state().is_live(),
            None => self.will_be_loaded(session),
        }
    }

    /// What must hold after every step.
    fn judge(&self) -> Option<Broken> {
        let sessions = self.world.gateway.sessions.iter().enumerate();
        let mut sessions = sessions.filter_map(|(n, s)| s.as_ref().map(|s| (n as SessionNo, s)));
        sessions.find_map(|(n, session)| self.judge_session(n, session)).or_else(|| self.judge_switches())
    }

    /// `engine::session::Session::broken_invariant`, and the tables beside it.
    fn judge_session(&self, number: SessionNo, session: &Session) -> Option<Broken> {
        let core = self.decisions.core(session.core);
        if let Some(broken) = core.broken_invariant(self.decisions.policy()) {
            return Some(broken);
        }
        for (bind, slot) in self.world.slots.iter().enumerate() {
            let bound = session.binding.is_some_and(|binding| usize::from(binding.bind) == bind);
            if slot.session == number && slot.word && !bound {
                return Some("I1 (engine): a binding is bound that the session does not have");
            }
        }
        if self.world.gateway.life != Life::Running {
            return None;
        }
        if session.binding.is_some() && session.attempt.is_some() {
            return Some("I1 (engine): one binding is bound while another is being installed");
        }
        if session.attempt.is_some() != (core.phase() == BindingPhase::Installing) {
            return Some("I13: an installation that nobody waits for, or the other way round");
        }
        if core.state().is_bound() != session.binding.is_some_and(|binding| binding.confirmed) {
            return Some("I1 (engine): the state and the confirmed binding disagree");
        }
        if session.binding.is_some() && session.draining.is_some() {
            return Some("I1 (engine): a binding was bound before the one before it was quiescent");
        }
        if core.state() == State::Terminated && (session.binding.is_some() || session.attempt.is_some()) {
            return Some("I4: a terminated session has a binding");
        }
        let is_over =
            core.transport_loss_deadline(self.decisions.policy()).is_some_and(|at| at <= self.now());
        is_over.then_some("I6: RECOVERING outlives the transport-loss TTL")
    }

    /// I7, counted by what was seen and not by the session's own log.
    fn judge_switches(&self) -> Option<Broken> {
        let minute = Duration::from_secs(60);
        let recent = |at: &&u8| self.scope.moment(**at).after(minute) > self.now();
        let count = self.world.seen.switches.iter().filter(recent).count();
        let most = self.decisions.policy().max_switches_per_min as usize;
        (count > most).then_some("I7: more switches in a minute than policy allows")
    }

    /// Drops what cannot matter any more, so that worlds that differ in nothing else are one state.
    fn tidy(&mut self) {
        let mut net = std::mem::take(&mut self.world.net);
        // What was sent behind an answer may arrive behind it.
        let awaited: Vec<Bind> = net.iter().filter_map(|message| self.awaits(message)).collect();
        net.retain(|message| {
            self.matters(message) || matches!(message, Message::Down { bind } if awaited.contains(&bind))
        });
        self.world.net = net;
        for bind in 0..self.world.slots.len() {
            if !self.is_named(bind as Bind) {
                let slot = &mut self.world.slots[bind];
                (slot.word, slot.draining, slot.handed, slot.applied) = (false, 0, false, 0);
                (slot.confirmed, slot.committed, slot.counter, slot.sealed) = (false, false, 0, 0);
                (slot.early, slot.reached) = (false, false);
                slot.remote = 0;
            }
        }
        let minute = Duration::from_secs(60);
        let (scope, now) = (self.scope, self.now());
        self.world.seen.switches.retain(|at| scope.moment(*at).after(minute) > now);
    }

    /// The binding that the client will hold if this answer arrives.
    fn awaits(&self, message: Message) -> Option<Bind> {
        let Message::Ack { bind, .. } = message else { return None };
        self.matters(message).then_some(bind)
    }

    /// Whether delivering `message` can ever change anything. Nonces, timestamps and bindings only rise.
    fn matters(&self, message: Message) -> bool {
        let open = match &self.world.client.phase {
            Phase::Session(held) => held.recovery.and_then(|recovery| recovery.open),
            Phase::Crashed | Phase::Searching { .. } | Phase::Ended => None,
        };
        match message {
            Message::Init { stamp, .. } => stamp > self.world.gateway.stamp_mark,
            Message::Response { stamp, .. } => {
                matches!(self.world.client.phase, Phase::Searching { open: Some((own, _)) } if own == stamp)
            }
            Message::Request { nonce, under, shown, .. } => {
                self.request_matters(nonce, under, shown.is_some())
            }
            Message::Ack { nonce, .. } | Message::Reject { nonce, .. } => {
                open.is_some_and(|open| open.nonce == nonce)
            }
            Message::Up { bind, .. } => {
                let slot = &self.world.slots[usize::from(bind)];
                !slot.committed && self.is_bound_or_on_its_way(bind)
            }
            Message::Down { bind } => {
                matches!(self.world.client.phase, Phase::Session(held) if held.binding == bind && !held.proven)
            }
            Message::Reset { bind } => match &self.world.client.phase {
                Phase::Session(held) => held.held == bind || held.newer == Some(bind),
                Phase::Crashed | Phase::Searching { .. } | Phase::Ended => false,
            },
            // A control plane that dies forgets the mark.
            Message::TakeAsk { nonce, .. } => {
                nonce > self.world.gateway.take_mark || self.world.left.control_plane_crashes > 0
            }
            Message::Offer { nonce, .. } => open.is_some_and(|open| open.nonce == nonce),
            Message::Take { bind, .. } => self.is_offered(bind),
            Message::Told { bind } => {
                matches!(self.world.client.phase, Phase::Session(held) if held.binding == bind && !held.sending && !held.proven)
            }
            Message::Retry { about, .. } => self.retry_matters(about),
            Message::ForeignReset => true,
        }
    }

    fn retry_matters(&self, about: About) -> bool {
        let open = match (&self.world.client.phase, about) {
            (Phase::Searching { open: Some((stamp, _)) }, About::Init { stamp: asked }) => *stamp == asked,
            (Phase::Session(held), About::Request { nonce }) => {
                held.recovery.and_then(|recovery| recovery.open).is_some_and(|open| open.nonce == nonce)
            }
            (Phase::Searching { .. } | Phase::Session(_) | Phase::Crashed | Phase::Ended, _) => false,
        };
        open && !self.world.client.retried
    }

    /// A request that was judged is only repeated; one for an unknown handle matters to who waits for its RESET.
    fn request_matters(&self, nonce: u8, under: Bind, with_cookie: bool) -> bool {
        if with_cookie && self.is(Mutant::CookieFormJudgedAnew) {
            return true;
        }
        match self.known(under) {
            Some((session, _)) => {
                let core = self.session_ref(session).map(|session| self.decisions.core(session.core));
                core.is_some_and(|core| core.is_fresh(nonce.into()))
            }
            None => matches!(&self.world.client.phase, Phase::Session(held)
                if held.held == under || held.newer == Some(under)),
        }
    }

    fn is_bound_or_on_its_way(&self, bind: Bind) -> bool {
        self.world.gateway.sessions.iter().flatten().any(|session| {
            session.binding.is_some_and(|b| b.bind == bind) || session.attempt.is_some_and(|a| a.bind == bind)
        })
    }

    /// Whether anybody still names the slot's binding.
    fn is_named(&self, bind: Bind) -> bool {
        use super::state::Frame;
        let slot = &self.world.slots[usize::from(bind)];
        let draining = self.world.gateway.sessions.iter().flatten().any(|s| s.draining == Some(bind));
        let in_hand = matches!(self.world.data_plane.frame,
            Some(Frame::Inbound(held) | Frame::Outbound(held)) if held == bind);
        slot.word || draining || in_hand || self.is_offered(bind) || self.is_bound_or_on_its_way(bind)
    }

    fn is_offered(&self, bind: Bind) -> bool {
        self.world.gateway.sessions.iter().flatten().any(|session| session.offered == Some(bind))
    }

    /// Time passes: first whatever is due by its clock, in the order of `engine::timers::due`.
    fn tick(&mut self) {
        self.world.now += 1;
        if let Phase::Session(held) = self.world.client.phase
            && let Some(recovery) = held.recovery
        {
            let decided = self.scope.moment(recovery.decided);
            if decided.after(self.decisions.policy().transport_loss_ttl) <= self.now() {
                self.world.client.phase = Phase::Searching { open: None };
            }
        }
        if self.world.gateway.life == Life::Running {
            for session in 0..self.world.gateway.sessions.len() as SessionNo {
                while self.fire_due(session) {}
            }
        }
    }

    /// Every engine timeout is shorter than the time between two moments, so after a tick it is due.
    fn fire_due(&mut self, number: SessionNo) -> bool {
        use super::decisions::Cause;
        let Some(session) = self.session_ref(number).copied() else { return false };
        let core = self.decisions.core(session.core);
        let due = overdue(&core, self.now(), self.decisions.policy());
        let unconfirmed = session.binding.is_some_and(|binding| !binding.confirmed);
        match due {
            Some(cause @ (Cause::LossTtl | Cause::RecoveryWindow)) => self.event(number, cause),
            _ if session.binding.is_some_and(|binding| binding.adopting) => self.lose_binding(number),
            _ if session.attempt.is_some() => self.attempt_failed(number),
            _ if unconfirmed && core.state() == State::Recovering => self.unconfirmed_too_long(number),
            Some(Cause::BirthTimeout) if unconfirmed && self.has_been_heard(&session) => {
                self.confirmed(number);
            }
            Some(cause) => self.event(number, cause),
            None => return false,
        }
        true
    }
}
