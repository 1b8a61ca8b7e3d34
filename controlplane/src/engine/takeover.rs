//! The takeover exchange with oneself: a client whose session was loaded from the store, or whose generation this gateway
//! does not know any more, gets back into its session.
//!
//! 1. The request ([`Engine::takeover`]) proves the client's static key and says which session; it may be a replay. It
//!    moves nothing but the peer's mark: the answer offers a binding, and one offer per session is remembered.
//! 2. The client's first CONTROL under the offered keys ([`Engine::take_over`]) shows that it is there and has the
//!    session's secret. That mints the proof, and from here on it is a switch like any other: transition, unbind,
//!    quiesce, install, bind.
//! 3. When it is bound, the answer to that CONTROL says so (STATE), and the first frame confirms.
//!
//! | Check | Failure |
//! |---|---|
//! | 1 framing, MAC by the gateway's public key | silence |
//! | 2 under load: cookie; the node's limit | RETRY; silence |
//! | 3 Noise message: two Diffie-Hellman operations | silence |
//! | 4 the static key is on the allow-list | silence |
//! | 5 the payload parses | silence |
//! | 6 the timestamp is higher than that of this peer's last handshake and last takeover request | silence |
//! | 7 the peer's limit | silence |
//! | 8 the session is here, and this peer's | refusal |
//! | 9 live, TTLs, budget | refusal |
//! | 10 data plane, slot | refusal |
//!
//! A refusal is authenticated by the gateway's static key, so only this gateway can end a session by it.

use super::api::ContextView;
use super::bindings::patience;
use super::counters::Counter;
use super::handshake::UNAVAILABLE_RETRY_MS;
use super::reattach::{keep_burst, milliseconds, spoken};
use super::retry::Work;
use super::session::{Binding, FIRST_KEY_NUMBER, GenerationSecrets, Session};
use super::world::{DataPlane, World};
use super::{Arrival, Engine};
use crate::audit::{AuditKind, LimitScope, Violation};
use jvpn_abi::wire::SlotId;
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::Proven;
use jvpn_crypto::cookie::Question;
use jvpn_crypto::takeover::{Awaited, Incoming, read_request, request_mac_ok};
use jvpn_session::event::Priority;
use jvpn_session::messages::{
    BindingGrant, ControlMessage, Handle, ReattachGrant, SessionId, SwitchCause, TakeoverAsk,
};
use jvpn_session::{Anchor, Event, Generation, Rejection, StateVersion, admit_takeover, transition};
use std::time::Duration;

/// How long an offer is remembered. A client waits no longer than 4.5 s for it and takes it at once.
const OFFER_PATIENCE: Duration = Duration::from_secs(6);
const UNAVAILABLE: Duration = Duration::from_millis(UNAVAILABLE_RETRY_MS as u64);

/// A binding that an answer offers and that nobody has taken yet.
pub(super) struct Offered {
    awaited: Awaited,
    binding: Binding,
    generation: GenerationSecrets,
    anchor: Anchor,
    detect_ms: u32,
    cause: SwitchCause,
    until: BootTime,
}

impl Session {
    /// Whether a slot is offered and not taken yet.
    pub(super) fn offers(&self, slot: SlotId) -> bool {
        self.offered.as_ref().is_some_and(|offered| offered.binding.slot == slot)
    }

    /// When the offer is forgotten.
    pub(super) fn offered_until(&self) -> Option<BootTime> {
        self.offered.as_ref().map(|offered| offered.until)
    }
}

impl Engine {
    pub(super) fn takeover(&mut self, at: Arrival, datagram: &[u8], view: &dyn ContextView) {
        let Some((incoming, ask)) = self.world.admit_takeover(at, datagram) else { return };
        let id = ask.session_id;
        let session = self.sessions.get(&id).filter(|session| session.peer == incoming.peer);
        // One that ended is remembered, so that its client hears why.
        if !session.is_some_and(|session| session.takeover.is_some() || !session.core.state().is_live()) {
            let (reason, wait) = self.why_unknown(at, id, &incoming);
            let kind = AuditKind::ReattachReject { remote: at.remote, retry_after_ms: milliseconds(wait) };
            self.world.report_node(at.now, Some(reason), kind);
            return self.world.refuse_takeover(at, incoming, reason, wait);
        }
        self.run_due(id, at.now, Priority::REATTACH, view);
        self.with(id, |world, session| world.offer(session, at, incoming, ask));
    }

    /// Only who knows for certain that there is no such session says so.
    fn why_unknown(&self, at: Arrival, id: SessionId, incoming: &Incoming) -> (Reason, Duration) {
        let here = self.sessions.get(&id).is_some_and(|session| session.peer == incoming.peer);
        if here || matches!(self.world.data_plane, DataPlane::NeverSeen | DataPlane::Adopting) {
            return (Reason::Unavailable, UNAVAILABLE);
        }
        match self.world.may_be_stored(id, &incoming.peer, at.now) {
            Some(wait) => (Reason::Unavailable, wait.max(UNAVAILABLE)),
            None => (Reason::SessionNotFound, Duration::ZERO),
        }
    }

    /// CONTROL for a slot that is offered: the client takes it.
    pub(super) fn take_over(
        &mut self,
        at: Arrival,
        id: SessionId,
        slot: SlotId,
        datagram: &[u8],
        view: &dyn ContextView,
    ) {
        self.run_due(id, at.now, Priority::REATTACH, view);
        let goodbye = self.with(id, |world, session| match world.taken(session, at, slot, datagram)? {
            Said::Mine(proof, offered) => {
                world.switch_to_offered(session, at, proof, offered, view);
                None
            }
            Said::Goodbye => Some(()),
        });
        if goodbye.flatten().is_some() {
            self.happen(id, Event::PeerTerminated, at.now, view);
        }
    }
}

/// What a client says under the keys that it is offered.
enum Said {
    /// It takes the binding.
    Mine(Proven, Box<Offered>),
    /// It ends the session instead.
    Goodbye,
}

impl World {
    /// Checks 1 to 7. What fails here is counted and meets silence.
    fn admit_takeover(&mut self, at: Arrival, datagram: &[u8]) -> Option<(Incoming, TakeoverAsk)> {
        if !request_mac_ok(&self.public_key, datagram) {
            self.counters.count(Counter::TakeoverMacWrong);
            self.note_abuse(at, Reason::AuthFail);
            return None;
        }
        self.counters.count(Counter::TakeoverReceived);
        let at = self.pass(at, Work::Takeover, &Question::of_request(datagram)?)?;
        if self.limits.takeovers.take(at.now, at.address).is_err() {
            return self.drop_takeover(
                at,
                Reason::RateLimited,
                AuditKind::RateLimit { scope: LimitScope::Global },
            );
        }
        let security = |violation| AuditKind::Security { violation };
        let Ok(incoming) = read_request(&mut *self.rng, &self.private_key, datagram) else {
            return self.drop_takeover(at, Reason::AuthFail, security(Violation::AuthFail));
        };
        if !self.is_allowed(&incoming.peer) {
            return self.drop_takeover(at, Reason::PolicyDeny, security(Violation::UnknownPeer));
        }
        let Some(ask) = TakeoverAsk::decode(&incoming.payload) else {
            return self.drop_takeover(at, Reason::Malformed, security(Violation::Malformed));
        };
        let handshake = self.durable.handshake_timestamp(&incoming.peer);
        let peer = self.peers.get_mut(&incoming.peer)?;
        // Before the peer's own limit, so that nobody uses it up with what he recorded.
        if ask.timestamp_ns <= peer.takeover_mark || handshake.is_some_and(|last| ask.timestamp_ns <= last) {
            return self.drop_takeover(at, Reason::ReplayDetected, security(Violation::ReplayDetected));
        }
        peer.takeover_mark = ask.timestamp_ns;
        if peer.takeovers.take(at.now).is_err() {
            return self.drop_takeover(
                at,
                Reason::RateLimited,
                AuditKind::RateLimit { scope: LimitScope::Session },
            );
        }
        Some((incoming, ask))
    }

    fn drop_takeover<T>(&mut self, at: Arrival, reason: Reason, kind: AuditKind) -> Option<T> {
        self.counters.takeover_refused(reason);
        self.note_abuse(at, reason);
        self.report_node(at.now, Some(reason), kind);
        None
    }

    /// Checks 9 and 10, then the offer. No transition and no generation: only its slot is taken.
    fn offer(&mut self, session: &mut Session, at: Arrival, incoming: Incoming, ask: TakeoverAsk) {
        let anchor = match admit_takeover(&session.core, at.now, &self.settings.policy) {
            Ok(anchor) => anchor,
            Err(Rejection::Refused { reason, retry_after }) => {
                return self.refuse_session(session, at, incoming, reason, retry_after);
            }
            Err(Rejection::Ignored | Rejection::Relinquished) => {
                return self.refuse_session(session, at, incoming, Reason::Unavailable, UNAVAILABLE);
            }
        };
        // The client asks anew, so it does not take what it was offered before.
        self.drop_offer(session);
        let slot = if self.is_up() { self.slots.take(&mut *self.durable).ok() } else { None };
        let (Some(slot), Some(takeover)) = (slot, session.takeover.clone()) else {
            if self.is_up() {
                self.counters.count(Counter::NoSlot);
            }
            if let Some(slot) = slot {
                self.slots.release(slot);
            }
            return self.refuse_session(session, at, incoming, Reason::Unavailable, UNAVAILABLE);
        };
        let answered = self.fresh_handle().and_then(|handle| {
            let binding = self.offered_grant(anchor, slot, handle);
            let grant = ReattachGrant { rekey: false, key_number: FIRST_KEY_NUMBER, binding }.encode();
            incoming.answer(&takeover, &grant, session.suite, slot).ok().map(|answered| (handle, answered))
        });
        let Some((handle, answered)) = answered else {
            // Without randomness no refusal can be made either; the client asks again.
            self.counters.count(Counter::CryptoFailed);
            return self.slots.release(slot);
        };
        let path = (at.remote, at.local);
        let mut binding = Binding::new(&answered.secret, session.suite, slot, anchor.epoch, path, at.now);
        binding.patience = patience(session.left_rtt(), ask.attempt);
        let generation = GenerationSecrets { resume: answered.secret.resume(), handle };
        let (awaited, until) = (answered.awaited, at.now.after(OFFER_PATIENCE));
        let (detect_ms, cause) = (ask.detect_ms, ask.cause);
        session.offered =
            Some(Box::new(Offered { awaited, binding, generation, anchor, detect_ms, cause, until }));
        self.by_slot.insert(slot, session.id());
        self.counters.count(Counter::TakeoverAnswered);
        self.send(at.remote, at.local, answered.datagram);
    }

    fn offered_grant(&self, anchor: Anchor, slot: SlotId, handle: Handle) -> BindingGrant {
        let Anchor { epoch, version: StateVersion(version) } = anchor;
        self.grant_of(epoch, version, slot, handle)
    }

    fn refuse_session(
        &mut self,
        session: &mut Session,
        at: Arrival,
        incoming: Incoming,
        reason: Reason,
        wait: Duration,
    ) {
        let reason = spoken(session, reason);
        if reason == Reason::Cooldown {
            self.report_budget(session, at.now);
        }
        keep_burst(session, at, reason, wait);
        let kind = AuditKind::ReattachReject { remote: at.remote, retry_after_ms: milliseconds(wait) };
        self.report(session, at.now, reason, kind);
        self.refuse_takeover(at, incoming, reason, wait);
    }

    fn refuse_takeover(&mut self, at: Arrival, incoming: Incoming, reason: Reason, wait: Duration) {
        self.counters.takeover_refused(reason);
        let Some(peer) = self.peers.get(&incoming.peer) else { return };
        let preshared = peer.settings.preshared_key.clone();
        match incoming.refuse(&preshared, reason, milliseconds(wait)) {
            Ok(refusal) => self.send(at.remote, at.local, refusal),
            Err(_) => self.counters.count(Counter::CryptoFailed),
        }
    }

    /// The offer, if this CONTROL takes it: from the endpoint to which the answer went, so that path is validated.
    fn taken(&mut self, session: &mut Session, at: Arrival, slot: SlotId, datagram: &[u8]) -> Option<Said> {
        let Some(mut offered) = session.offered.take_if(|offered| offered.binding.slot == slot) else {
            self.counters.count(Counter::ControlUnknownSlot);
            return None;
        };
        let is_its_path = (at.remote, at.local) == (offered.binding.remote, offered.binding.local);
        let opened = if is_its_path { offered.awaited.open(datagram).ok() } else { None };
        let Some((proof, message)) = opened else {
            self.counters.count(Counter::ControlRefused);
            session.offered = Some(offered);
            return None;
        };
        let Anchor { epoch, version } = offered.anchor;
        match ControlMessage::decode(&message) {
            Some(ControlMessage::TakeOver { epoch: e, version: v }) if (e, v) == (epoch, version.0) => {
                self.by_slot.remove(&slot);
                Some(Said::Mine(proof, offered))
            }
            said => {
                session.offered = Some(offered);
                if matches!(said, Some(ControlMessage::Terminate { .. })) {
                    return Some(Said::Goodbye);
                }
                self.counters.count(Counter::ControlMeaningless);
                None
            }
        }
    }

    /// The proof is there: from here on as after an accepted reattach.
    fn switch_to_offered(
        &mut self,
        session: &mut Session,
        at: Arrival,
        proof: Proven,
        offered: Box<Offered>,
        view: &dyn ContextView,
    ) {
        let Offered { awaited, mut binding, generation, anchor, detect_ms, cause, .. } = *offered;
        let event = Event::TakeoverProven(proof, anchor);
        let next = match transition(&session.core, event, at.now, &self.settings.policy) {
            Ok(next) => next,
            Err(rejection) => {
                // The client hears nothing and asks again.
                let reason = match rejection {
                    Rejection::Refused { reason, .. } => reason,
                    Rejection::Ignored | Rejection::Relinquished => Reason::NotApplicable,
                };
                self.counters.takeover_refused(reason);
                let kind = AuditKind::ReattachReject { remote: at.remote, retry_after_ms: 0 };
                self.report(session, at.now, reason, kind);
                return self.slots.release(binding.slot);
            }
        };
        let state = ControlMessage::State {
            version: next.core.version().0,
            state: next.core.state().number(),
            reason: next.core.reason(),
        };
        let Ok(answer) = binding.sealer.seal(&state.encode()) else {
            self.counters.count(Counter::CryptoFailed);
            return self.slots.release(binding.slot);
        };
        binding.opener = awaited.into_opener();
        self.counters.count(Counter::TakeoverAccepted);
        tracing::info!(session = %session.id(), cause = cause.name(), "its client takes the session over");
        let draining = session.draining;
        self.commit(session, next, at.now, view);
        if session.draining == draining {
            self.unbind_again(session);
        }
        // The confirmed generation, if there is one, stays; a pending one is replaced.
        self.turn_generations(session, Generation::Confirmed, generation);
        binding.patience = binding.patience.max(patience(session.left_rtt(), 1));
        if let Some(recovery) = &mut session.recovery {
            recovery.detect_ms.get_or_insert(detect_ms);
        }
        session.answered = None;
        session.refused = None;
        self.begin(session, binding, answer, None, at.now);
    }

    /// The client asks whether the binding that it took is there: STATE again, not larger than its question.
    pub(super) fn confirm_taken(&mut self, session: &mut Session, at: Arrival) {
        let core = &session.core;
        let state = ControlMessage::State {
            version: core.version().0,
            state: core.state().number(),
            reason: core.reason(),
        };
        let Some(binding) = session.binding.as_mut().filter(|b| (b.remote, b.local) == (at.remote, at.local))
        else {
            return self.counters.count(Counter::ControlMeaningless);
        };
        match binding.sealer.seal(&state.encode()) {
            Ok(answer) => self.send(at.remote, at.local, answer),
            Err(_) => self.counters.count(Counter::CryptoFailed),
        }
    }

    /// Forgets an offer that nobody took.
    pub(super) fn drop_offer(&mut self, session: &mut Session) {
        if let Some(offered) = session.offered.take() {
            self.by_slot.remove(&offered.binding.slot);
            self.slots.release(offered.binding.slot);
        }
    }
}
