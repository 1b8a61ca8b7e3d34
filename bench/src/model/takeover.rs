//! The takeover exchange with oneself: what both ends do when the gateway has forgotten a session that its store has
//! (`docs/decisions/0016`). The store itself never fails here.

use super::decisions::Decision;
use super::gateway::{UNAVAILABLE_RETRY, spoken};
use super::mutant::Mutant;
use super::state::{Asked, Bind, Life, Link, Message, Phase, Place, Session, SessionNo, Slot};
use super::step::Step;
use jvpn_abi::Reason;
use jvpn_session::{Anchor, Generation, Rejection};

impl Step<'_> {
    /// `takeover::Engine::takeover`, `World::offer`: nothing moves but the mark; an offer is remembered.
    pub(super) fn take_ask(&mut self, nonce: u8, number: SessionNo, at: Place) {
        if nonce <= self.world.gateway.take_mark {
            return;
        }
        self.world.gateway.take_mark = nonce;
        let Some(session) = self.session_ref(number).copied() else {
            let loads = self.world.gateway.loading && !self.is(Mutant::NotFoundWhileLoading);
            let reason = if loads { Reason::Unavailable } else { Reason::SessionNotFound };
            return self.world.net.send(Message::Reject { nonce, reason, again: self.world.now });
        };
        let core = self.decisions.core(session.core);
        let refused = match self.decisions.admit_takeover(session.core, self.now()) {
            Ok(anchor) if self.world.gateway.link == Link::Up => {
                let epoch = u8::try_from(anchor.epoch).unwrap_or(u8::MAX);
                let bind = self.world.slots.len() as Bind;
                let slot = Slot::new(number, epoch, anchor.version, at);
                self.world.slots.push(Slot { offered: true, ..slot });
                if let Some(session) = self.session(number) {
                    session.offered = Some(bind);
                }
                if self.is(Mutant::TakeoverByRequest) {
                    self.take_offered(bind, at);
                }
                self.moved_by_request(number, &session);
                return self.world.net.send(Message::Offer { nonce, bind });
            }
            Ok(_) => (Reason::Unavailable, UNAVAILABLE_RETRY),
            Err(Rejection::Refused { reason, retry_after }) => (reason, retry_after),
            Err(Rejection::Ignored | Rejection::Relinquished) => {
                return self.breaks("I5: a request of the peer is neither accepted nor refused");
            }
        };
        let (reason, again) = (spoken(core.state(), core.reason(), refused.0), self.moment_after(refused.1));
        self.world.net.send(Message::Reject { nonce, reason, again });
    }

    /// `takeover::Engine::take_over`, `World::{taken, switch_to_offered}`: from where the answer went, once.
    pub(super) fn take_offered(&mut self, bind: Bind, at: Place) {
        let slot = self.world.slots[usize::from(bind)];
        let is_offered = self.session_ref(slot.session).is_some_and(|session| session.offered == Some(bind));
        if self.world.gateway.life != Life::Running || !is_offered || slot.remote != at {
            return;
        }
        let Some(session) = self.session(slot.session) else { return };
        session.offered = None;
        let core = session.core;
        let offered = Anchor { epoch: slot.epoch.into(), version: slot.version };
        match self.decisions.take_over(core, offered, self.now()) {
            Decision::Moved { core, change } => {
                self.world.slots[usize::from(bind)].offered = false;
                self.epoch_is_new(bind);
                self.switch_to(slot.session, core, change, Generation::Confirmed, bind, Asked::Takeover);
            }
            Decision::Refused { .. } => {}
            Decision::Ignored => self.breaks("I5: a request of the peer is neither accepted nor refused"),
            Decision::Broken(broken) => self.breaks(broken),
        }
    }

    /// `reattach::Agent::take_offer`: nothing but TAKE_OVER is sent until the gateway says that the binding is there.
    pub(super) fn offer(&mut self, nonce: u8, bind: Bind) {
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        let Some(recovery) = &mut held.recovery else { return };
        let Some(open) = recovery.open.filter(|open| open.nonce == nonce) else { return };
        recovery.open = None;
        recovery.answered = true;
        held.newer = Some(bind);
        held.binding = bind;
        held.path = open.path;
        held.sending = false;
        held.proven = false;
        self.world.net.send(Message::Take { bind, path: open.path });
    }

    /// `takeover::Agent::taken`.
    pub(super) fn told(&mut self, bind: Bind) {
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        let takes = held.recovery.is_some_and(|recovery| recovery.takeover && recovery.answered);
        if held.binding != bind || held.sending || !takes {
            return;
        }
        held.sending = true;
        let path = held.path;
        self.world.net.send(Message::Up { bind, path });
    }

    /// A takeover request proves who made it, not when: it may have left an offer, and nothing else.
    fn moved_by_request(&mut self, number: SessionNo, before: &Session) {
        let after = self.session_ref(number).map(|session| Session { offered: before.offered, ..*session });
        if after != Some(*before) {
            self.breaks("I5: a takeover request that nobody has followed up changes the session");
        }
    }

    /// What is stored and not here.
    fn missing(&self) -> impl Iterator<Item = SessionNo> {
        let gateway = &self.world.gateway;
        (0..gateway.sessions.len() as SessionNo).filter(|number| {
            let number = usize::from(*number);
            gateway.stored[number].is_some() && gateway.sessions[number].is_none()
        })
    }

    /// `loading::World::memory_is_whole`.
    pub(super) fn memory_is_whole(&self) -> bool {
        self.missing().next().is_none()
    }

    /// The newest of its peer, unless that has a live one by then.
    pub(super) fn will_be_loaded(&self, session: SessionNo) -> bool {
        self.world.gateway.live.is_none() && self.missing().last() == Some(session)
    }

    /// The store's thread has written the next terms.
    pub(super) fn store_loaded(&mut self) {
        self.world.gateway.loading = false;
        self.load_stored();
    }

    /// `loading::Engine::{load_stored, loaded}`: the newest session that only the store knows, with its next term.
    pub(super) fn load_stored(&mut self) {
        for session in self.missing().collect::<Vec<_>>() {
            let number = usize::from(session);
            let is_wanted = self.will_be_loaded(session);
            let stored = self.world.gateway.stored[number].take();
            let Some(term) = stored.filter(|_| is_wanted) else { continue };
            let core = self.decisions.reload(session, term, self.now());
            let next = if self.is(Mutant::TermNotStored) { term } else { term + 1 };
            self.world.gateway.stored[number] = Some(next);
            if self.world.seen.terms[number] > term {
                self.breaks("I3: a session is loaded with a term that was used before");
            }
            self.world.seen.terms[number] = term + 1;
            self.world.gateway.live = Some(session);
            // The budget is forgotten with the rest.
            self.world.seen.switches.clear();
            self.world.gateway.sessions[number] = Some(Session {
                core,
                binding: None,
                attempt: None,
                draining: None,
                confirmed: None,
                pending: None,
                erased: None,
                offered: None,
                advance: false,
            });
        }
    }

    /// I11: (term, epoch) is used once.
    pub(super) fn epoch_is_new(&mut self, bind: Bind) {
        let own = self.world.slots[usize::from(bind)];
        let mut others = self.world.slots.iter().enumerate().filter(|(n, _)| *n != usize::from(bind));
        if others.any(|(_, o)| o.session == own.session && !o.offered && o.order() == own.order()) {
            self.breaks("I11: an epoch is used twice");
        }
    }
}
