//! REATTACH_REQUEST: the checks in their order, cheap ones first; nothing mutates before the last one passes,
//! but the nonce mark, which rises with the proof whatever follows.
//!
//! | Check | Where |
//! |---|---|
//! | 1 framing | [`Engine::reattach`] |
//! | 2 edge limit | XDP |
//! | under load: a cookie | `World::pass` |
//! | 3 handle | [`Engine::reattach`] |
//! | 4 nonce, repeated requests | `World::reattach` |
//! | 5 MAC, 6 session's limit, 7 node's limit | `World::reattach` |
//! | 8 Noise message, nonce burnt | `World::prove` |
//! | 9 version, 10 TTLs, 12 budget and cooldown | `jvpn_session::transition` |
//! | 11 ownership | one node owns every session it knows |
//! | 13 commit; whether the address is proven | `World::switch`, `World::advance` |
//!
//! Failures before 6 meet silence: nobody may use up a session's limit, or learn anything, with a handle he
//! saw.

use super::api::ContextView;
use super::bindings::patience;
use super::counters::Counter;
use super::handshake::UNAVAILABLE_RETRY_MS;
use super::rekey::Asks;
use super::retry::Work;
use super::session::{Answered, Binding, FIRST_KEY_NUMBER, GenerationSecrets, Session};
use super::world::{DataPlane, World};
use super::{Arrival, Engine};
use crate::audit::{AuditKind, LimitScope, Violation};
use jvpn_abi::Reason;
use jvpn_abi::wire::reattach::REJECT_LEN;
use jvpn_crypto::Proven;
use jvpn_crypto::cookie::Question;
use jvpn_crypto::reattach::{IncomingRequest, RequestFrame, reject};
use jvpn_crypto::schedule::Resume;
use jvpn_session::event::Priority;
use jvpn_session::messages::{Handle, ReattachAsk, ReattachGrant};
use jvpn_session::{Event, Generation, ReattachClaim, Rejection, Transition, transition};
use std::time::Duration;

/// A request whose handle is known.
pub(super) struct Known<'a> {
    pub(super) frame: RequestFrame<'a>,
    pub(super) under: Generation,
    resume: Resume,
}

/// A request that was proven.
pub(super) struct Asked {
    pub(super) proof: Proven,
    pub(super) request: IncomingRequest,
    ask: ReattachAsk,
    pub(super) anchor_version: u64,
}

impl Engine {
    pub(super) fn reattach(&mut self, at: Arrival, datagram: &[u8], view: &dyn ContextView) {
        let framed = RequestFrame::parse(datagram).zip(Question::of_request(datagram));
        let Some((frame, question)) = framed else {
            self.world.note_abuse(at, Reason::Malformed);
            return self.world.counters.reattach_rejected(Reason::Malformed);
        };
        self.world.counters.count(Counter::ReattachReceived);
        let Some(id) = self.world.handles.get(&frame.handle()) else {
            // Load of these asks those for a cookie who know no handle, and nobody else.
            let Some(at) = self.world.pass(at, Work::Reset, &question) else { return };
            return self.world.reset_handle(at, frame.handle());
        };
        let Some(at) = self.world.pass(at, Work::Reattach, &question) else { return };
        self.run_due(id, at.now, Priority::REATTACH, view);
        self.with(id, |world, session| {
            let known = session.generation(Handle(frame.handle())).map(|(under, resume)| Known {
                frame,
                under,
                resume: resume.clone(),
            });
            match known {
                Some(known) => world.reattach(session, at, &known, view),
                // The only other handle that is remembered is that of the generation erased last.
                None => world.drop_request(session, at, Reason::ReplayDetected, Violation::ReplayDetected),
            }
        });
    }
}

impl World {
    fn reattach(&mut self, session: &mut Session, at: Arrival, known: &Known<'_>, view: &dyn ContextView) {
        let claim = known.frame.unmask(&known.resume);
        if !session.core.is_fresh(claim.nonce) {
            return self.repeated(session, at, known);
        }
        if !known.frame.mac_ok(&known.resume) {
            return self.drop_request(session, at, Reason::AuthFail, Violation::AuthFail);
        }
        // Whatever becomes of the request, its handle was on the wire.
        self.handles.show(known.frame.handle());
        // From here on the sender knows the generation's secret and gets an authenticated answer.
        if let Err(retry_after_ms) = session.limits.reattach.take(at.now) {
            return self.limit(session, at, known, LimitScope::Session, retry_after_ms);
        }
        if let Err(retry_after_ms) = self.limits.reattach.take(at.now, at.address) {
            return self.limit(session, at, known, LimitScope::Global, retry_after_ms);
        }
        let Some(asked) = self.prove(session, at, known) else { return };
        if self.data_plane == DataPlane::Adopting {
            // What JOURNAL says of this session may be behind the tables: nothing is decided before both were read.
            let wait = Duration::from_millis(u64::from(UNAVAILABLE_RETRY_MS));
            return self.refuse(session, at, known, Reason::Unavailable, wait);
        }
        match session.asks(at, known.under) {
            Asks::Rekey => return self.rekey(session, at, known, asked, view),
            Asks::Wait(wait) => return self.refuse(session, at, known, Reason::RateLimited, wait),
            Asks::Switch => {}
        }
        let Asked { proof, request, ask, anchor_version } = asked;
        let claim = ReattachClaim { under: known.under, anchor_version, voluntary: ask.cause.is_voluntary() };
        let event = Event::ReattachProven(proof, claim);
        match transition(&session.core, event, at.now, &self.settings.policy) {
            Ok(next) => self.switch(session, at, known, next, request, ask, view),
            Err(Rejection::Refused { reason, retry_after }) => {
                self.refuse(session, at, known, reason, retry_after);
            }
            Err(Rejection::Ignored | Rejection::Relinquished) => {
                self.refuse(session, at, known, Reason::Unavailable, Duration::ZERO);
            }
        }
    }

    /// Check 4 failed: the answer again for the same request from the same endpoint, else a replay. A request is the
    /// same if it is byte-identical, or its client's own form of it with another cookie.
    fn repeated(&mut self, session: &mut Session, at: Arrival, known: &Known<'_>) {
        let frame = &known.frame;
        let same = |answered: &&Answered| {
            let place = answered.remote == at.remote && answered.local == at.local;
            let identical = || *answered.request == *frame.datagram();
            let other_form = || frame.is_same_request(&answered.request) && frame.mac_ok(&known.resume);
            place && (identical() || other_form())
        };
        let kept = session.answered.iter().chain(session.refused.as_deref()).find(same);
        let Some(answered) = kept else {
            return self.drop_request(session, at, Reason::ReplayDetected, Violation::ReplayDetected);
        };
        let Some(answer) = answered.answer.as_deref().map(<[u8]>::to_vec) else {
            return self.counters.count(Counter::ReattachInProgress);
        };
        let is_grant = session.answered.as_ref().is_some_and(|granted| same(&granted));
        self.counters.count(Counter::ReattachAnsweredAgain);
        if is_grant
            && let Some(binding) = &mut session.binding
            && let Some(until) = &mut binding.unconfirmed_until
        {
            *until = at.now.after(binding.patience);
        }
        if is_grant {
            session.core.request_repeated(at.now);
        }
        self.send(at.remote, at.local, answer);
    }

    /// Check 8. From the proof on the nonce is burnt.
    fn prove(&mut self, session: &mut Session, at: Arrival, known: &Known<'_>) -> Option<Asked> {
        let claim = known.frame.unmask(&known.resume);
        let read = known.frame.read(
            &mut *self.rng,
            &self.private_key,
            &session.peer,
            &known.resume,
            session.core.id().0,
        );
        let Ok((proof, request)) = read else {
            self.drop_request(session, at, Reason::AuthFail, Violation::AuthFail);
            return None;
        };
        session.core.burn_nonce(&proof, claim.nonce);
        let Some(ask) = ReattachAsk::decode(&request.payload) else {
            self.refuse(session, at, known, Reason::Malformed, Duration::ZERO);
            return None;
        };
        Some(Asked { proof, request, ask, anchor_version: claim.anchor_version })
    }

    /// Check 13: everything passed. What can still fail (slot, randomness) fails before anything changes.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, used once")]
    fn switch(
        &mut self,
        session: &mut Session,
        at: Arrival,
        known: &Known<'_>,
        next: Transition,
        request: IncomingRequest,
        ask: ReattachAsk,
        view: &dyn ContextView,
    ) {
        let unavailable = Duration::from_millis(u64::from(UNAVAILABLE_RETRY_MS));
        if !self.is_up() {
            return self.refuse(session, at, known, Reason::Unavailable, unavailable);
        }
        let slot = match self.slots.take(&mut *self.durable) {
            Ok(slot) => slot,
            Err(error) => {
                tracing::warn!(%error, "a reattach found no slot");
                self.counters.count(Counter::NoSlot);
                return self.refuse(session, at, known, Reason::Unavailable, unavailable);
            }
        };
        let grant = self.fresh_handle().map(|handle| (handle, self.binding_grant(&next.core, slot, handle)));
        let answered = grant.and_then(|(handle, binding)| {
            let payload = ReattachGrant { rekey: false, key_number: FIRST_KEY_NUMBER, binding }.encode();
            request.answer(&payload).ok().map(|(answer, secret)| (handle, answer, secret))
        });
        let Some((handle, answer, secret)) = answered else {
            self.counters.count(Counter::CryptoFailed);
            self.slots.release(slot);
            return self.refuse(session, at, known, Reason::Unavailable, unavailable);
        };
        self.counters.count(Counter::ReattachAccepted);
        let path = (at.remote, at.local);
        let mut binding = Binding::new(&secret, session.suite, slot, next.core.epoch(), path, at.now);
        binding.early_packets = self.advance(session, at, known.frame.datagram());
        let draining = session.draining;
        self.commit(session, next, at.now, view);
        if session.draining == draining {
            self.unbind_again(session);
        }
        // What was left with this transition is known only now.
        binding.patience = patience(session.left_rtt(), ask.attempt);
        self.turn_generations(session, known.under, GenerationSecrets { resume: secret.resume(), handle });
        if let Some(recovery) = &mut session.recovery {
            recovery.detect_ms.get_or_insert(ask.detect_ms);
        }
        session.answered = Some(Answered {
            request: known.frame.datagram().into(),
            remote: at.remote,
            local: at.local,
            answer: None,
        });
        session.refused = None;
        let refusal = refusal(known, Reason::Unavailable, unavailable);
        self.begin(session, binding, answer, Some(refusal), at.now);
    }

    /// A request under the pending generation confirms that *generation* and erases the older; one under the
    /// confirmed generation replaces the pending one, which its client cannot hold any more.
    pub(super) fn turn_generations(
        &mut self,
        session: &mut Session,
        under: Generation,
        fresh: GenerationSecrets,
    ) {
        self.handles.insert(fresh.handle.0, session.core.id());
        let older = session.pending.replace(fresh);
        match (under, older) {
            (Generation::Pending, Some(confirmed)) => {
                if let Some(erased) = session.confirmed.replace(confirmed) {
                    self.erase(session, erased.handle);
                }
            }
            (Generation::Confirmed, Some(replaced)) => self.forget_handle(replaced.handle),
            (Generation::Confirmed | Generation::Pending, None) => {}
        }
    }

    /// A failure that meets silence.
    fn drop_request(&mut self, session: &mut Session, at: Arrival, reason: Reason, violation: Violation) {
        session.unchanged = true;
        self.counters.reattach_rejected(reason);
        self.note_abuse(at, reason);
        self.report(session, at.now, reason, AuditKind::Security { violation });
        let kind = AuditKind::ReattachReject { remote: at.remote, retry_after_ms: 0 };
        self.report(session, at.now, reason, kind);
    }

    /// Over a limit: told, not burnt, not remembered. And no word to a client that waits: whoever recorded the request may
    /// send it again and be told the same, so it keeps no burst.
    fn limit(
        &mut self,
        session: &mut Session,
        at: Arrival,
        known: &Known<'_>,
        scope: LimitScope,
        retry_after_ms: u32,
    ) {
        let reason = Reason::RateLimited;
        self.report(session, at.now, reason, AuditKind::RateLimit { scope });
        let wait = Duration::from_millis(u64::from(retry_after_ms));
        self.send_refusal(session, at, known, reason, wait);
    }

    /// A proven request is refused. The refusal is kept for a repetition of the same request.
    pub(super) fn refuse(
        &mut self,
        session: &mut Session,
        at: Arrival,
        known: &Known<'_>,
        reason: Reason,
        retry_after: Duration,
    ) {
        let reason = spoken(session, reason);
        let odd = [Reason::StaleVersion, Reason::VersionAhead, Reason::Malformed, Reason::NotApplicable];
        if odd.contains(&reason) {
            let kind = AuditKind::Security { violation: Violation::ProtocolViolation };
            self.report(session, at.now, reason, kind);
        } else if reason == Reason::Cooldown {
            self.report_budget(session, at.now);
        }
        keep_burst(session, at, reason, retry_after);
        let answer = self.send_refusal(session, at, known, reason, retry_after);
        session.refused = Some(Box::new(Answered {
            request: known.frame.datagram().into(),
            remote: at.remote,
            local: at.local,
            answer: Some(answer.as_slice().into()),
        }));
    }

    fn send_refusal(
        &mut self,
        session: &mut Session,
        at: Arrival,
        known: &Known<'_>,
        reason: Reason,
        retry_after: Duration,
    ) -> [u8; REJECT_LEN] {
        self.counters.reattach_rejected(reason);
        self.note_abuse(at, reason);
        let retry_after_ms = milliseconds(retry_after);
        let kind = AuditKind::ReattachReject { remote: at.remote, retry_after_ms };
        self.report(session, at.now, reason, kind);
        let answer = refusal(known, reason, retry_after);
        self.send(at.remote, at.local, answer.to_vec());
        answer
    }
}

pub(super) fn refusal(known: &Known<'_>, reason: Reason, retry_after: Duration) -> [u8; REJECT_LEN] {
    reject(&known.resume, &known.frame, reason, milliseconds(retry_after))
}

/// Whoever waits as he was told does not pause; only a proven request, whose nonce is burnt, was the client's own.
/// UNAVAILABLE is no such word: it says that this gateway cannot, and its own outage must not use up the recovery window of
/// a client that goes on asking.
pub(super) fn keep_burst(session: &mut Session, at: Arrival, reason: Reason, wait: Duration) {
    if reason != Reason::Unavailable {
        session.core.told_to_wait(at.now, wait);
    }
}

/// Rounded up: a client that waits as told never comes too early.
pub(super) fn milliseconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// The reason that a client is told: of a session that ended, why it ended decides what the client does next.
pub(super) fn spoken(session: &Session, reason: Reason) -> Reason {
    const EXPIRED: [Reason; 3] =
        [Reason::TtlSessionExpired, Reason::TtlTransportLossExpired, Reason::RecoveryBoundsExceeded];
    let ended = session.core.reason();
    if reason != Reason::SessionTerminated {
        reason
    } else if ended == Reason::Superseded {
        // Told so, a client does not handshake again by itself: two devices with one key do not fight.
        ended
    } else if EXPIRED.contains(&ended) {
        Reason::SessionExpired
    } else {
        reason
    }
}
