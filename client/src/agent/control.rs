//! CONTROL and RESET: what the gateway says beside data. Nothing is believed that does not authenticate.

use super::binding::Sending;
use super::session::GatewayView;
use super::{Agent, Phase};
use crate::paths::UplinkId;
use jvpn_abi::wire::reset::{Reset, ResetKind};
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::cookie::Cookie;
use jvpn_crypto::keys::tokens_equal;
use jvpn_session::State;
use jvpn_session::messages::{ControlMessage, Handle, SessionId, SwitchCause};

impl Agent {
    pub(super) fn handle_control(&mut self, now: BootTime, uplink: UplinkId, datagram: &[u8]) {
        let Phase::Session(session) = &mut self.phase else {
            self.counters.unauthentic += 1;
            return;
        };
        if session.binding.uplink != uplink {
            self.counters.wrong_slot += 1;
            return;
        }
        let Ok(message) = session.binding.open_control(datagram) else {
            self.counters.unauthentic += 1;
            return;
        };
        self.counters.control_received += 1;
        self.taken(now);
        match ControlMessage::decode(&message) {
            Some(ControlMessage::Terminate { reason }) => self.end_session(now, reason),
            Some(ControlMessage::PathHint { observed, cookie }) => {
                self.counters.path_hints += 1;
                tracing::debug!(%observed, "the gateway sees us from another endpoint");
                self.hinted(now, uplink, Cookie(cookie));
            }
            Some(ControlMessage::State { version, state, reason }) => {
                self.gateway_state(now, version, State::from_number(state), reason);
            }
            Some(ControlMessage::Tickets(batch)) => self.take_tickets(now, batch),
            // What only a gateway is asked or told.
            Some(ControlMessage::AskTickets | ControlMessage::TakeOver { .. }) => {
                self.counters.malformed += 1
            }
            None => self.counters.malformed += 1,
        }
    }

    /// The path looks different from outside: what was known for it is void, what comes with the hint is for what it is now.
    fn hinted(&mut self, now: BootTime, uplink: UplinkId, cookie: Cookie) {
        self.begin_recovery(now, SwitchCause::PathHint, Some(uplink));
        if cookie.is_some() {
            self.keep_cookie(now, uplink, cookie);
        }
    }

    /// The gateway's own state. Versions only rise; what is older came late.
    fn gateway_state(&mut self, now: BootTime, version: u64, state: Option<State>, reason: Reason) {
        let Phase::Session(session) = &mut self.phase else { return };
        let Some(state) = state else {
            self.counters.malformed += 1;
            return;
        };
        if session.gateway.is_some_and(|known| known.version >= version) {
            return;
        }
        session.gateway = Some(GatewayView { version, state, reason });
        if !state.is_live() {
            return self.end_session(now, reason);
        }
        let settled = session.recovery.is_none() && session.monitor.is_proven();
        if settled && state.is_bound() {
            self.set_state(state, reason);
            self.watch_as(now, state);
        }
    }

    /// A RESET. Its token is the only thing that tells the gateway from anybody else.
    pub(super) fn handle_reset(&mut self, now: BootTime, uplink: UplinkId, datagram: &[u8]) {
        let Some(reset) = Reset::parse(datagram) else {
            self.counters.malformed += 1;
            return;
        };
        let Phase::Session(session) = &self.phase else {
            self.counters.reset_refused += 1;
            return;
        };
        let expected = match reset.kind {
            ResetKind::Slot => (reset.value == Reset::slot_value(session.binding.slot)
                && uplink == session.binding.uplink)
                .then_some(session.binding.slot_token),
            ResetKind::Handle => self.expected_handle_token(Handle(reset.value)),
        };
        if !expected.is_some_and(|token| tokens_equal(&token, &reset.token)) {
            self.counters.reset_refused += 1;
            return;
        }
        self.counters.resets += 1;
        match reset.kind {
            ResetKind::Slot => self.slot_unknown(now, uplink),
            ResetKind::Handle => self.handle_unknown(now, uplink),
        }
    }

    /// The gateway does not know our slot: the path works, the binding is gone.
    fn slot_unknown(&mut self, now: BootTime, uplink: UplinkId) {
        let Phase::Session(session) = &mut self.phase else { return };
        match &mut session.recovery {
            None => self.begin_recovery(now, SwitchCause::SlotReset, Some(uplink)),
            Some(recovery) if session.binding.sending == Sending::Allowed => {
                session.binding.sending = Sending::Stopped;
                recovery.campaign.again(now);
            }
            // About the binding that we have left already.
            Some(_) => {}
        }
    }

    /// The session, if there is one.
    #[must_use]
    pub fn session_id(&self) -> Option<SessionId> {
        match &self.phase {
            Phase::Session(session) => Some(session.id),
            Phase::Searching(_) | Phase::Ended(_) => None,
        }
    }
}
