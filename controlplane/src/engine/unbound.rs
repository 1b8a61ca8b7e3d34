//! Samples of DATA that no binding accepts: a NAT that rebound, a slot of an earlier life, a replay. Nothing
//! here forwards anything or changes a session; the client may get a hint or a RESET, never larger than its
//! question.

use super::api::ContextView;
use super::counters::Counter;
use super::early::Baker;
use super::session::{FormerKey, Session};
use super::world::{DataPlane, World};
use super::{Arrival, Engine};
use crate::audit::{AuditKind, LimitScope, Violation};
use jvpn_abi::Reason;
use jvpn_abi::wire::control::CONTROL_OVERHEAD;
use jvpn_abi::wire::reset::{Reset, ResetKind};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, MsgType, SlotId, Suite, TAG_LEN};
use jvpn_crypto::OpenKey;
use jvpn_crypto::cookie::Cookie;
use jvpn_session::State;
use jvpn_session::messages::ControlMessage;

/// Whose DATA a sample is.
enum Origin {
    /// The bound slot, from another endpoint.
    Bound,
    /// The slot before, while nothing is bound: the client does not know yet that it was left.
    Left,
    /// The slot before, but the client has a newer one: held back on its way.
    Former,
}

impl Engine {
    pub(super) fn sample(&mut self, at: Arrival, datagram: &[u8], view: &dyn ContextView) {
        self.world.counters.count(Counter::SampleReceived);
        let mut frame = datagram.to_vec();
        if let Some(kind) = frame.first_mut() {
            *kind = MsgType::Data.octet();
        }
        let Some(header) = DataHeader::parse(&frame) else {
            self.world.counters.count(Counter::SampleMalformed);
            return;
        };
        if self.world.limits.samples.take(at.now).is_err() {
            self.world.counters.count(Counter::SampleLimited);
            return;
        }
        match self.world.by_slot.get(&header.slot).copied() {
            Some(id) => {
                self.with(id, |world, session| world.judge_sample(session, at, &frame, header, view));
            }
            None => self.world.reset_slot(at, header.slot),
        }
    }
}

impl World {
    fn judge_sample(
        &mut self,
        session: &mut Session,
        at: Arrival,
        frame: &[u8],
        header: DataHeader,
        view: &dyn ContextView,
    ) {
        // Limits, floods and what was sealed are not in JOURNAL.
        session.unchanged = true;
        let hard = self.settings.policy.rekey_hard;
        let bound = session.binding.as_ref().filter(|binding| binding.slot == header.slot);
        let former = session.former.as_ref().filter(|former| former.slot == header.slot);
        let bound_keys = bound.map_or_else(Box::default, |binding| binding.known_keys(hard, view));
        let (origin, keys) = match (bound, former) {
            (Some(binding), _) if binding.keys.is_none() => {
                return self.counters.count(Counter::SampleWithoutKey);
            }
            (Some(_), _) => (Origin::Bound, &bound_keys),
            (None, Some(former)) => {
                let left = session.is_idle() && session.core.state() == State::Recovering;
                let origin = if left { Origin::Left } else { Origin::Former };
                (origin, &former.keys)
            }
            // Its client takes it, and its first DATA overtook that.
            (None, None) if session.offers(header.slot) => {
                return self.counters.count(Counter::SampleOfBoundPath);
            }
            (None, None) => return self.counters.count(Counter::SampleMalformed),
        };
        // At most one per phase, and none past its hard limit.
        let fits = |key: &&FormerKey| (key.number & 1 == 1) == header.key_phase && at.now < key.hard_at;
        let key = keys.iter().find(fits).filter(|key| opens(session.suite, &key.open_key, header, frame));
        let Some(highest) = key.map(|key| key.highest) else {
            self.counters.count(Counter::SampleAuthFail);
            self.note_abuse(at, Reason::AuthFail);
            let kind = AuditKind::Security { violation: Violation::AuthFail };
            return self.report(session, at.now, Reason::AuthFail, kind);
        };
        if highest.is_some_and(|highest| header.counter <= highest) {
            self.counters.count(Counter::SampleReplayed);
            self.note_abuse(at, Reason::ReplayDetected);
            let kind = AuditKind::Security { violation: Violation::ReplayDetected };
            return self.report(session, at.now, Reason::ReplayDetected, kind);
        }
        match origin {
            Origin::Former => {
                // It went nowhere: its binding is unbound. Somebody held it back, or the path did.
                self.counters.count(Counter::SampleOfFormerBinding);
                let kind = AuditKind::Security { violation: Violation::DualActiveAttempt };
                self.report(session, at.now, Reason::NotApplicable, kind);
            }
            Origin::Bound
                if session.binding.as_ref().is_some_and(|b| b.remote == at.remote && b.local == at.local) =>
            {
                self.counters.count(Counter::SampleOfBoundPath);
            }
            Origin::Bound | Origin::Left => {
                let kind = AuditKind::Security { violation: Violation::PathMismatch };
                self.report(session, at.now, Reason::NotApplicable, kind);
                self.hint(session, at, frame.len());
            }
        }
    }

    /// Tells the client at once that its DATA comes from elsewhere, with a cookie for there if the question is large enough.
    fn hint(&mut self, session: &mut Session, at: Arrival, question_len: usize) {
        if session.limits.hints.take(at.now).is_err() {
            self.counters.count(Counter::PathHintHeldBack);
            let kind = AuditKind::RateLimit { scope: LimitScope::Session };
            return self.report(session, at.now, Reason::RateLimited, kind);
        }
        let cookie = self.cookies.of(&mut *self.rng, at, &mut self.counters);
        let sealer = match (&mut session.binding, &mut session.former) {
            (Some(binding), _) => &mut binding.sealer,
            (None, Some(former)) => &mut former.sealer,
            (None, None) => return,
        };
        let observed = at.remote;
        let hint = |cookie| ControlMessage::PathHint { observed, cookie }.encode();
        let with_cookie = hint(cookie.0);
        let fits = with_cookie.len() + CONTROL_OVERHEAD <= question_len;
        match sealer.seal(&if fits { with_cookie } else { hint(Cookie::NONE.0) }) {
            Ok(datagram) if datagram.len() <= question_len => {
                self.counters.count(Counter::PathHintSent);
                self.send(at.remote, at.local, datagram);
            }
            Ok(_) => self.counters.count(Counter::PathHintHeldBack),
            Err(_) => self.counters.count(Counter::CryptoFailed),
        }
    }

    fn reset_slot(&mut self, at: Arrival, slot: SlotId) {
        // A gateway that does not know what it has forgotten says nothing: the session may be on its way from the store, and
        // whoever leaves its path for a RESET finds no handle known yet.
        if matches!(self.data_plane, DataPlane::NeverSeen | DataPlane::Adopting)
            || !self.memory_is_whole()
            || !self.slots.was_granted(slot)
            || self.limits.slot_resets.take(at.now).is_err()
        {
            return self.counters.count(Counter::ResetHeldBack);
        }
        self.counters.count(Counter::SlotResetSent);
        self.send_reset(at, ResetKind::Slot, Reset::slot_value(slot));
    }

    /// A handle that nobody here knows. Nothing is remembered of it.
    pub(super) fn reset_handle(&mut self, at: Arrival, handle: [u8; 8]) {
        self.note_abuse(at, Reason::SessionNotFound);
        if matches!(self.data_plane, DataPlane::NeverSeen | DataPlane::Adopting)
            || !self.memory_is_whole()
            || self.limits.handle_resets.take(at.now, at.address).is_err()
        {
            return self.counters.count(Counter::ResetHeldBack);
        }
        self.counters.count(Counter::HandleResetSent);
        self.counters.reattach_rejected(Reason::SessionNotFound);
        self.send_reset(at, ResetKind::Handle, handle);
    }

    fn send_reset(&mut self, at: Arrival, kind: ResetKind, value: [u8; 8]) {
        let token = self.durable.node_key().reset_token(kind, value);
        self.send(at.remote, at.local, Reset { kind, value, token }.encode().to_vec());
    }
}

/// Whether a frame was sealed with a client's DATA key. Its plain text is thrown away.
fn opens(suite: Suite, key: &[u8; 32], header: DataHeader, frame: &[u8]) -> bool {
    let Some((aad, sealed)) = frame.split_at_checked(DATA_HEADER_LEN) else { return false };
    let mut plain = zeroize::Zeroizing::new(vec![0; sealed.len().saturating_sub(TAG_LEN)]);
    OpenKey::new(suite, key).open(header.counter, aad, sealed, &mut plain).is_ok()
}
