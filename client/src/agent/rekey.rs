//! Rekey at the client: it asks for the next key by itself when the one in use reaches a soft limit, over the bound path
//! and beside the traffic. Nothing waits for the answer; nothing is used past a hard limit.

use super::binding::Sending;
use super::reattach::Request;
use super::session::Session;
use super::{Agent, Phase, Transmit};
use crate::paths::{Paths, UplinkId};
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::limits;
use jvpn_crypto::schedule::EpochSecret;
use jvpn_session::State;
use jvpn_session::messages::{ClientPolicy, ReattachAsk, ReattachGrant, SwitchCause};
use std::time::Duration;

/// Times that a request is sent identically before a fresh one is made.
const SENDINGS: u8 = 3;
/// Shortest wait for an answer: max(RTT, this).
const WAIT_MIN: Duration = Duration::from_millis(250);
/// Longest wait between two requests: well below what lies between a soft and a hard limit.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A rekey that was asked for.
#[derive(Debug)]
pub(super) struct Rekeying {
    /// The latest request, until it is answered.
    pub(super) request: Option<Request>,
    sendings: u8,
    attempts: u16,
    wait: Duration,
    pub(super) wake: BootTime,
}

impl Rekeying {
    /// The gateway asks for the open request once more, with a cookie. `false`: not now.
    pub(super) fn retried(&mut self, now: BootTime, paths: &mut Paths) -> bool {
        self.wake = now.after(self.wait);
        paths.admit(now).is_ok()
    }
}

/// The limits of a key, as the gateway's policy and the suite give them; never above the library's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyLimits {
    pub(super) soft_time: Duration,
    pub(super) hard_time: Duration,
    pub(super) soft_packets: u64,
    pub(super) hard_packets: u64,
}

impl From<&ClientPolicy> for KeyLimits {
    fn from(policy: &ClientPolicy) -> Self {
        let ms = |value: u32| Duration::from_millis(u64::from(value));
        // Zero would be a client that does nothing but rekey.
        let (second, packet) = (Duration::from_secs(1), 1);
        Self {
            soft_time: ms(policy.rekey_soft_ms).clamp(second, limits::REKEY_SOFT_TIME),
            hard_time: ms(policy.rekey_hard_ms).clamp(second * 2, limits::HARD_TIME),
            soft_packets: u64::from(policy.rekey_soft_packets).clamp(packet, limits::REKEY_SOFT_PACKETS),
            hard_packets: u64::from(policy.rekey_hard_packets).clamp(packet * 2, limits::HARD_PACKETS),
        }
    }
}

impl Session {
    /// Whether new keys may be asked for: nothing else is under way, and both ends agree on those in use.
    fn may_rekey(&self) -> bool {
        let settled = self.recovery.is_none() && self.newer.is_none() && self.monitor.is_proven();
        settled && self.state.is_bound() && self.binding.sending == Sending::Allowed
    }

    /// When something is due for the keys.
    pub(super) fn key_event(&self) -> BootTime {
        if self.recovery.is_some() || self.state == State::Birth {
            return BootTime::NEVER;
        }
        let asking = match &self.rekey {
            Some(rekey) => rekey.wake,
            None if self.may_rekey() => self.binding.soft_limit_at(),
            None => BootTime::NEVER,
        };
        asking.min(self.binding.hard_limit_at())
    }
}

impl Agent {
    /// Asks for new keys when it is time, again when no answer came; stops using those past their hard limit.
    pub(super) fn drive_rekey(&mut self, now: BootTime) {
        let Phase::Session(session) = &mut self.phase else { return };
        session.binding.drop_previous(now);
        if session.recovery.is_some() || session.state == State::Birth {
            session.rekey = None;
            return;
        }
        if now >= session.binding.hard_limit_at() {
            return self.key_exhausted(now);
        }
        let Some(rekey) = &mut session.rekey else {
            if session.may_rekey() && now >= session.binding.soft_limit_at() {
                self.ask_rekey(now);
            }
            return;
        };
        if now < rekey.wake {
            return;
        }
        match &mut rekey.request {
            Some(request) if rekey.sendings < SENDINGS => {
                rekey.sendings += 1;
                rekey.wake = now.after(rekey.wait);
                let (uplink, payload) = (request.uplink, request.send_again());
                self.outbox.push_back(Transmit { uplink, payload });
                self.counters.requests_repeated += 1;
            }
            Some(_) | None => self.ask_rekey(now),
        }
    }

    /// A fresh request over the bound path.
    fn ask_rekey(&mut self, now: BootTime) {
        let Phase::Session(session) = &mut self.phase else { return };
        let uplink = session.binding.uplink;
        let before = session.rekey.take();
        let rtt = session.monitor.rtt().smoothed().unwrap_or_default().max(WAIT_MIN);
        let wait = before.as_ref().map_or(rtt, |before| (before.wait * 2).min(WAIT_MAX).max(rtt));
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let ask = ReattachAsk { cause: SwitchCause::Rekey, detect_ms: 0, attempt: attempts };
        let request = self.make_request(now, uplink, ask);
        if let Phase::Session(session) = &mut self.phase {
            let wake = now.after(wait);
            session.rekey = Some(Rekeying { request, sendings: 1, attempts, wait, wake });
        }
    }

    /// New keys for the binding that we have. The path is the same, so its watch goes on.
    pub(super) fn take_keys(&mut self, now: BootTime, grant: &ReattachGrant, secret: &EpochSecret) {
        let Phase::Session(session) = &mut self.phase else { return };
        session.binding.rekey(&grant.binding, grant.key_number, secret, now);
        session.rekey = None;
        self.counters.rekeys += 1;
        // The first frame under the new keys tells the gateway that we have them.
        session.monitor.probe_at_once(now);
    }

    /// A rekey was answered with a whole binding: the gateway saw us from elsewhere. This is a recovery whose request is
    /// answered already.
    pub(super) fn rekey_became_switch(&mut self, now: BootTime, uplink: UplinkId) {
        let Phase::Session(session) = &mut self.phase else { return };
        session.rekey = None;
        self.begin_recovery(now, SwitchCause::PathHint, Some(uplink));
        let Phase::Session(session) = &mut self.phase else { return };
        if let Some(recovery) = &mut session.recovery {
            recovery.granted(uplink);
        }
    }

    /// The gateway said no; the keys in use go on until it says yes.
    pub(super) fn rekey_refused(&mut self, now: BootTime, reason: Reason, wait: Duration) {
        let Phase::Session(session) = &mut self.phase else { return };
        let Some(rekey) = &mut session.rekey else { return };
        let wait = if reason == Reason::ReplayDetected { wait } else { wait.max(WAIT_MIN) };
        rekey.request = None;
        rekey.wake = now.after(wait);
    }
}
