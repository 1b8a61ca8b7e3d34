//! Under load a request must show a cookie before anything is spent on it. Who shows none gets a RETRY, smaller than his
//! question, and nothing of him is remembered.
//!
//! [`World::pass`] stands behind the framing (and, for a handshake, behind the MAC that keeps scanners out), before any
//! lookup, keyed MAC or Diffie-Hellman. It serves every kind of request that has a MAC and a field for a cookie.

use super::Arrival;
use super::counters::Counter;
use super::world::World;
use crate::audit::{AuditKind, LimitScope};
use crate::load::{Address, Load};
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::cookie::{self, Question};
use serde::Serialize;

/// What is asked for, by the global limit that it counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A session: Diffie-Hellman with a stranger and a durable write.
    Handshake,
    /// A binding of a session.
    Reattach,
    /// A RESET for a handle that is not known.
    Reset,
    /// A session that this node has forgotten: Diffie-Hellman with a stranger.
    Takeover,
}

/// For what cookies are asked for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnderLoad {
    /// Handshakes.
    pub handshakes: bool,
    /// Reattach requests.
    pub reattaches: bool,
    /// Requests with handles that are not known.
    pub unknown_handles: bool,
    /// Takeover requests.
    pub takeovers: bool,
}

impl World {
    /// Whether a request goes on, and what is known of its sender's address then. `None`: he was sent a RETRY, or there
    /// were too many of those already.
    pub(super) fn pass(&mut self, at: Arrival, work: Work, question: &Question) -> Option<Arrival> {
        let share = match work {
            Work::Handshake => &mut self.limits.handshakes,
            Work::Reattach => &mut self.limits.reattach,
            Work::Reset => &mut self.limits.handle_resets,
            Work::Takeover => &mut self.limits.takeovers,
        };
        if share.ask(at.now) == Load::Begins {
            self.load_begins(at, work);
        }
        let load = self.under_load(at.now);
        let is_calm = match work {
            Work::Handshake => !load.handshakes,
            Work::Reattach => !load.reattaches,
            Work::Reset => !load.unknown_handles,
            Work::Takeover => !load.takeovers,
        };
        if is_calm {
            return Some(at);
        }
        if question.shown().is_some() {
            if self.cookies.accepts(at.now, at.remote, at.local, question.shown()) {
                self.counters.count(Counter::CookieAccepted);
                return Some(Arrival { address: self.standing(at, work), ..at });
            }
            self.counters.count(Counter::CookieRefused);
        }
        self.send_retry(at, work, question);
        None
    }

    /// What a good cookie is worth. One prefix gets its part of what is reserved for strangers; beyond it, what nobody
    /// else wants.
    fn standing(&mut self, at: Arrival, work: Work) -> Address {
        let prefixes = match work {
            Work::Handshake => &mut self.limits.handshake_prefixes,
            Work::Reset => &mut self.limits.reset_prefixes,
            Work::Takeover => &mut self.limits.takeover_prefixes,
            // Behind a keyed MAC, and each session has a limit of its own.
            Work::Reattach => return Address::Proven,
        };
        if prefixes.take(at.now, at.remote).is_ok() {
            return Address::Proven;
        }
        self.counters.count(Counter::CookiePrefixLimited);
        Address::Unproven
    }

    /// For what cookies are asked for at this moment.
    pub(super) fn under_load(&self, now: BootTime) -> UnderLoad {
        let limits = &self.limits;
        UnderLoad {
            handshakes: limits.handshakes.is_under_load(now),
            reattaches: limits.reattach.is_under_load(now),
            unknown_handles: limits.handle_resets.is_under_load(now),
            takeovers: limits.takeovers.is_under_load(now),
        }
    }

    /// Cookies are asked for from now on.
    pub(super) fn load_begins(&mut self, at: Arrival, work: Work) {
        tracing::info!(?work, "under load: cookies are asked for");
        self.counters.count(match work {
            Work::Handshake => Counter::HandshakeLoad,
            Work::Reattach => Counter::ReattachLoad,
            Work::Reset => Counter::UnknownHandleLoad,
            Work::Takeover => Counter::TakeoverLoad,
        });
        let kind = AuditKind::RateLimit { scope: LimitScope::Global };
        self.report_node(at.now, Some(Reason::RateLimited), kind);
    }

    fn send_retry(&mut self, at: Arrival, work: Work, question: &Question) {
        self.note_abuse(at, Reason::RateLimited);
        let kind = AuditKind::RateLimit { scope: LimitScope::Global };
        self.report_node(at.now, Some(Reason::RateLimited), kind);
        let limit = match work {
            Work::Handshake => &mut self.limits.handshake_retries,
            Work::Reattach => &mut self.limits.reattach_retries,
            Work::Reset | Work::Takeover => &mut self.limits.stranger_retries,
        };
        if limit.take(at.now).is_err() {
            return self.counters.count(Counter::RetryHeldBack);
        }
        let Ok(cookie) = self.cookies.bake(&mut *self.rng, at.now, at.remote, at.local) else {
            return self.counters.count(Counter::CryptoFailed);
        };
        self.counters.count(Counter::RetrySent);
        let answer = cookie::retry(&self.public_key, question, cookie);
        self.send(at.remote, at.local, answer.to_vec());
    }
}
