//! What the client does: `client::agent::{birth, reattach, binding, session, control}`, without its clocks. Whatever one
//! of its timers may decide it may decide here at any time, so a path that works and one that does not need no names.
//! PATH_HINT and the slot's RESET only make it leave its path, which it may do here at any time.

use super::mutant::Mutant;
use super::state::{Bind, Held, Message, Open, Phase, Place, Recovery};
use super::step::Step;
use jvpn_abi::Reason;

impl Step<'_> {
    /// `birth::Agent::send_init`.
    pub(super) fn send_init(&mut self) {
        let client = &mut self.world.client;
        client.stamp += 1;
        let path = next_path(client.stamp);
        client.phase = Phase::Searching { open: Some((client.stamp, path)) };
        let stamp = client.stamp;
        let shown = self.kept_cookie(path);
        self.world.net.send(Message::Init { stamp, path, shown });
    }

    /// `birth::Agent::handle_response`, `start_session`: the probe that confirms goes first.
    pub(super) fn response(&mut self, stamp: u8, bind: Bind) {
        let Phase::Searching { open: Some((own, path)) } = self.world.client.phase else { return };
        if own != stamp {
            return;
        }
        self.world.client.phase = Phase::Session(Held {
            session: self.world.slots[usize::from(bind)].session,
            held: bind,
            newer: None,
            binding: bind,
            path,
            sending: true,
            proven: false,
            attached: false,
            recovery: None,
        });
        self.world.net.send(Message::Up { bind, path });
    }

    /// `reattach::Agent::begin_recovery`.
    pub(super) fn leave(&mut self, voluntary: bool) {
        let now = self.world.now;
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        held.sending = false;
        held.recovery = Some(Recovery {
            voluntary,
            takeover: false,
            open: None,
            answered: false,
            decided: now,
            not_before: now,
        });
    }

    /// `reattach::Agent::send_request`: a new request, under the newest generation that is held.
    pub(super) fn send_request(&mut self) {
        let path = next_path(self.world.client.nonce + 1);
        let shown = self.kept_cookie(path);
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        let Some(recovery) = &mut held.recovery else { return };
        self.world.client.nonce += 1;
        let nonce = self.world.client.nonce;
        let under = held.newer.unwrap_or(held.held);
        recovery.open = Some(Open { nonce, under, newer: held.newer.is_some(), path });
        let voluntary = recovery.voluntary;
        if recovery.takeover {
            let session = held.session;
            return self.world.net.send(Message::TakeAsk { nonce, session, path, shown });
        }
        self.world.net.send(Message::Request { nonce, under, path, voluntary, shown });
    }

    /// `session::Agent::binding_unproven`: no frame came over the newest binding in time.
    pub(super) fn give_up_unproven(&mut self) {
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        match &mut held.recovery {
            None => self.world.client.phase = Phase::Searching { open: None },
            Some(recovery) => {
                recovery.answered = false;
                held.sending = false;
            }
        }
    }

    /// `reattach::Agent::handle_ack`, `take_grant`: only the latest request is answered.
    pub(super) fn ack(&mut self, nonce: u8, bind: Bind) {
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        let Some(recovery) = &mut held.recovery else { return };
        let Some(open) = recovery.open.filter(|open| open.nonce == nonce) else { return };
        recovery.open = None;
        recovery.answered = true;
        // A request proves to the gateway that the generation it was made under arrived.
        if open.newer
            && let Some(newer) = held.newer
        {
            held.held = newer;
        }
        held.newer = Some(bind);
        held.binding = bind;
        held.path = open.path;
        held.sending = true;
        held.proven = false;
        self.world.net.send(Message::Up { bind, path: open.path });
    }

    /// `data::Agent::open`, `reattach::Agent::binding_proven`: the first frame under the newest keys.
    pub(super) fn opened(&mut self, bind: Bind) {
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        if held.binding != bind || held.proven {
            return;
        }
        held.proven = true;
        if let Some(newer) = held.newer.take() {
            held.held = newer;
        }
        if held.sending {
            held.recovery = None;
            held.attached = true;
        }
    }

    /// `reattach::Agent::handle_reject`.
    pub(super) fn reject(&mut self, nonce: u8, reason: Reason, again: u8) {
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        let Some(recovery) = &mut held.recovery else { return };
        let Some(open) = recovery.open.filter(|open| open.nonce == nonce) else { return };
        recovery.open = None;
        if is_final(reason) {
            return self.end_session(reason);
        }
        if matches!(reason, Reason::StaleVersion | Reason::VersionAhead) && !self.drop_newer(open) {
            return self.end_session(reason);
        }
        if let Phase::Session(Held { recovery: Some(recovery), .. }) = &mut self.world.client.phase {
            recovery.not_before = recovery.not_before.max(again);
        }
    }

    /// `control::Agent::handle_reset` for a handle, `reattach::Agent::{expected_handle_token, handle_unknown}`:
    /// without an older generation the session is asked for by the takeover exchange. `None`: the gateway made it for
    /// somebody else's handle.
    pub(super) fn reset(&mut self, about: Option<Bind>) {
        let foreign = self.is(Mutant::ForeignReset);
        let Phase::Session(held) = &mut self.world.client.phase else { return };
        let Some(recovery) = &mut held.recovery else { return };
        let concerns = |open: &Open| about == Some(open.under) || (about.is_none() && foreign);
        let Some(open) = recovery.open.filter(concerns).filter(|_| !recovery.takeover) else { return };
        recovery.open = None;
        if matches!(self.known(open.under), Some((_, Some(_)))) {
            self.breaks("I13: the client gives up a generation that the gateway knows");
        }
        if self.drop_newer(open) {
            return;
        }
        if self.is(Mutant::EndOnReset) {
            return self.end_session(Reason::SessionNotFound);
        }
        if let Phase::Session(Held { recovery: Some(recovery), .. }) = &mut self.world.client.phase {
            recovery.takeover = true;
        }
    }

    /// `reattach::Agent::drop_newer`. `false`: no older generation is left.
    fn drop_newer(&mut self, open: Open) -> bool {
        let Phase::Session(held) = &mut self.world.client.phase else { return false };
        open.newer && held.newer.take().is_some()
    }

    /// `session::Agent::end_session` upon something that came from the network: never while the session lives.
    fn end_session(&mut self, reason: Reason) {
        let Phase::Session(held) = self.world.client.phase else { return };
        if self.is_live(held.session) {
            self.breaks("I13: the client is told to give up a session that lives");
        }
        self.world.client.phase =
            if reason == Reason::Superseded { Phase::Ended } else { Phase::Searching { open: None } };
    }

    pub(super) fn client_crash(&mut self) {
        self.world.left.client_crashes -= 1;
        self.world.client.phase = Phase::Crashed;
        self.world.client.retried = false;
        self.world.client.cookies = [None; 2];
    }
}

/// Attempts go round over the paths. No rule compares the paths of two bindings, so another order would show nothing.
const fn next_path(attempt: u8) -> Place {
    attempt % 2
}

/// `reattach::is_final`.
const fn is_final(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SessionNotFound
            | Reason::SessionExpired
            | Reason::SessionTerminated
            | Reason::TtlSessionExpired
            | Reason::TtlTransportLossExpired
            | Reason::RecoveryBoundsExceeded
            | Reason::PolicyTermination
            | Reason::AdminTerminate
            | Reason::KeyRevoked
            | Reason::Superseded
    )
}
