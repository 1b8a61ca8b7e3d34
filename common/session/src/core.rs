//! What a transition reads and writes: the plain part of a session, without keys, sockets or tables.
//!
//! Fields change in [`crate::transition`] only, but for four facts that are no transitions: the nonce mark, the
//! progress of an installation, the generation that an answered rekey offers, and that a burst of attempts goes on.

use crate::messages::SessionId;
use crate::policy::{BIRTH_TIMEOUT, BURST_PAUSE, Policy};
use crate::state::{BindingPhase, State};
use crate::switches::SwitchLog;
use crate::version::StateVersion;
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::Proven;
use std::time::Duration;

/// The plain part of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Epoch of the binding that came with it.
    pub epoch: u64,
    /// state_version in the answer that made it.
    pub version: StateVersion,
}

/// A burst of proven attempts that has not led to a confirmed binding yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// When the first was accepted.
    pub first_at: BootTime,
    /// When the last was accepted or came again as it was, or until when its client was told to wait: a pause counts
    /// from here.
    pub last_at: BootTime,
    /// How many.
    pub count: u32,
}

impl Attempts {
    /// Whether the client paused for so long that the burst is over.
    #[must_use]
    pub fn is_over(&self, now: BootTime) -> bool {
        now.since(self.last_at) >= BURST_PAUSE
    }
}

/// The plain part of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionCore {
    pub(crate) id: SessionId,
    pub(crate) state: State,
    pub(crate) version: StateVersion,
    pub(crate) reason: Reason,
    pub(crate) entered_at: BootTime,
    pub(crate) born_at: BootTime,
    pub(crate) lived_before: Duration,
    pub(crate) epoch: u64,
    pub(crate) phase: BindingPhase,
    pub(crate) confirmed: Option<Anchor>,
    pub(crate) pending: Option<Anchor>,
    pub(crate) nonce_mark: Option<u64>,
    pub(crate) lost_at: Option<BootTime>,
    pub(crate) attempts: Option<Attempts>,
    pub(crate) switches: SwitchLog,
    pub(crate) total_switches: u64,
}

impl SessionCore {
    /// The anchor: constant until TERMINATED.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }
    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }
    /// Version of the state.
    #[must_use]
    pub const fn version(&self) -> StateVersion {
        self.version
    }
    /// Reason of the last transition.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }
    /// When the last transition was.
    #[must_use]
    pub const fn entered_at(&self) -> BootTime {
        self.entered_at
    }
    /// When the session was born, or loaded from the store.
    #[must_use]
    pub const fn born_at(&self) -> BootTime {
        self.born_at
    }
    /// How long it had lived before that.
    #[must_use]
    pub const fn lived_before(&self) -> Duration {
        self.lived_before
    }
    /// Epoch of the newest binding; never reused within a term.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }
    /// How far the newest binding is.
    #[must_use]
    pub const fn phase(&self) -> BindingPhase {
        self.phase
    }
    /// The confirmed generation.
    #[must_use]
    pub const fn confirmed(&self) -> Option<Anchor> {
        self.confirmed
    }
    /// The pending generation.
    #[must_use]
    pub const fn pending(&self) -> Option<Anchor> {
        self.pending
    }
    /// Highest proven nonce.
    #[must_use]
    pub const fn nonce_mark(&self) -> Option<u64> {
        self.nonce_mark
    }
    /// Since when there has been no confirmed binding; `None` in BIRTH and while bound.
    #[must_use]
    pub const fn lost_at(&self) -> Option<BootTime> {
        self.lost_at
    }
    /// The running burst of attempts.
    #[must_use]
    pub const fn attempts(&self) -> Option<Attempts> {
        self.attempts
    }
    /// Switches of the last minute.
    #[must_use]
    pub const fn switches(&self) -> &SwitchLog {
        &self.switches
    }
    /// Switches since birth.
    #[must_use]
    pub const fn total_switches(&self) -> u64 {
        self.total_switches
    }

    /// Whether `nonce` is fresh (check 4).
    #[must_use]
    pub fn is_fresh(&self, nonce: u64) -> bool {
        self.nonce_mark.is_none_or(|mark| nonce > mark)
    }

    /// Burns a proven nonce, whatever follows (check 8). The mark never falls.
    pub fn burn_nonce(&mut self, _proof: &Proven, nonce: u64) {
        self.nonce_mark = Some(self.nonce_mark.map_or(nonce, |mark| mark.max(nonce)));
    }

    /// The binding of `epoch` is bound now: it receives and sends nothing. `false` if it is no longer wanted.
    #[must_use]
    pub fn binding_installed(&mut self, epoch: u64) -> bool {
        let wanted = self.phase == BindingPhase::Installing && self.epoch == epoch;
        if wanted {
            self.phase = BindingPhase::Unconfirmed;
        }
        wanted
    }

    /// The request that was accepted last came again, as it was: its client has not paused. Nothing proves that it was the
    /// client who sent it, so it counts only within [`BURST_PAUSE`] of the request itself: nobody keeps a burst alive with
    /// what he recorded.
    pub fn request_repeated(&mut self, now: BootTime) {
        let is_open = matches!(self.phase, BindingPhase::Installing | BindingPhase::Unconfirmed);
        // While its binding is open, the last transition is the one that accepted it.
        if self.state == State::Recovering && is_open && now.since(self.entered_at) < BURST_PAUSE {
            self.keep_burst(now, now);
        }
    }

    /// A proven request was refused for `wait`: whoever waits as told does not pause. Nothing begins with it.
    pub fn told_to_wait(&mut self, now: BootTime, wait: Duration) {
        self.keep_burst(now, now.after(wait));
    }

    fn keep_burst(&mut self, now: BootTime, until: BootTime) {
        if let Some(burst) = self.attempts.as_mut().filter(|burst| !burst.is_over(now)) {
            burst.last_at = burst.last_at.max(until);
        }
    }

    /// The answer to a rekey leaves: its generation is the pending one, `answered` the state_version in it. No
    /// transition: state, epoch and binding are as they were. `false` if the binding is gone meanwhile.
    #[must_use]
    pub fn rekey_answered(&mut self, answered: StateVersion) -> bool {
        let wanted = self.state.is_bound() && answered <= self.version;
        if wanted {
            self.pending = Some(Anchor { epoch: self.epoch, version: answered });
        }
        wanted
    }

    /// When the session TTL is over.
    #[must_use]
    pub const fn session_deadline(&self, policy: &Policy) -> BootTime {
        self.born_at.after(policy.session_ttl.saturating_sub(self.lived_before))
    }

    /// When a birth has taken too long.
    #[must_use]
    pub fn birth_deadline(&self) -> Option<BootTime> {
        (self.state == State::Birth).then(|| self.born_at.after(BIRTH_TIMEOUT))
    }

    /// When the transport-loss TTL is over.
    #[must_use]
    pub fn transport_loss_deadline(&self, policy: &Policy) -> Option<BootTime> {
        self.lost_at.map(|at| at.after(policy.transport_loss_ttl))
    }

    /// When the recovery window is over, if the burst lasts until then.
    #[must_use]
    pub fn recovery_deadline(&self, policy: &Policy) -> Option<BootTime> {
        if self.state != State::Recovering {
            return None;
        }
        let attempts = self.attempts?;
        let deadline = attempts.first_at.after(policy.recovery_window);
        (!attempts.is_over(deadline)).then_some(deadline)
    }

    /// When DEGRADED may end, if quality has been good since `good_since`.
    #[must_use]
    pub fn degraded_exit(&self, good_since: BootTime, now: BootTime, policy: &Policy) -> BootTime {
        let stable = good_since.max(self.entered_at).after(policy.stability_window);
        stable.max(self.switches.free_at(policy.max_switches_per_min, now))
    }

    /// Time from birth to `now`.
    #[must_use]
    pub const fn lifetime(&self, now: BootTime) -> Duration {
        now.since(self.born_at).saturating_add(self.lived_before)
    }

    /// The first invariant that this core breaks, in words; `None` if all hold.
    #[must_use]
    pub fn broken_invariant(&self, policy: &Policy) -> Option<&'static str> {
        let phase_fits = match self.state {
            State::Birth => matches!(self.phase, BindingPhase::Installing | BindingPhase::Unconfirmed),
            State::Attached | State::Volatile | State::Degraded => self.phase == BindingPhase::Confirmed,
            State::Recovering => self.phase != BindingPhase::Confirmed,
            State::Terminated => self.phase == BindingPhase::None,
        };
        if !phase_fits {
            return Some(
                "I1: confirmed bindings are exactly one in ATTACHED, VOLATILE, DEGRADED and none elsewhere",
            );
        }
        if self.lost_at.is_some() != (self.state == State::Recovering) {
            return Some("I6: RECOVERING, and only RECOVERING, runs against the transport-loss TTL");
        }
        if self.switches.count(self.entered_at) > policy.max_switches_per_min as usize {
            return Some("I7: more switches in a minute than policy allows");
        }
        if self.switches.len() > policy.max_switches_per_min as usize {
            return Some("I10: the switch log holds more than policy allows");
        }
        let too_new = |anchor: Option<Anchor>| anchor.is_some_and(|a| a.version > self.version);
        if too_new(self.confirmed) || too_new(self.pending) {
            return Some("I3: a generation is newer than the state");
        }
        if self.state.is_bound() && self.confirmed.is_none() {
            return Some("I13: a bound session has no generation to reattach under");
        }
        None
    }
}
