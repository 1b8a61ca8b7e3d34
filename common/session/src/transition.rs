//! The transition function: pure, total over state × event, and the only code that changes a state.
//!
//! The normative table is in `docs/PROTOCOL.md`; `tests/transition_table.md` holds the outcome of every state
//! × event.

use crate::core::{Anchor, Attempts, SessionCore};
use crate::event::{Event, Generation, Origin, ReattachClaim};
use crate::messages::SessionId;
use crate::policy::Policy;
use crate::state::{BindingPhase, State};
use crate::switches::SwitchLog;
use crate::version::StateVersion;
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::Proven;
use std::time::Duration;

/// What a transition asks of whoever holds bindings and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingChange {
    /// Bindings stay as they are.
    Keep,
    /// The first binding is to be installed.
    Install,
    /// Whatever is bound is unbound and quiesced first; then the next binding is installed.
    Replace,
    /// The binding is confirmed: routes move to it, the pending generation becomes the confirmed one.
    Confirm,
    /// Unbind what is bound, drop what is being installed.
    Unbind,
    /// As `Unbind`, and the pending generation is discarded: its answer never left.
    UnbindAndForget,
    /// As `Unbind`; the session's keys are erased.
    End,
}

/// A transition: the new core and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The session after it.
    pub core: SessionCore,
    /// The state before it; `None` at birth.
    pub from: Option<State>,
    /// What is to happen with the bindings.
    pub change: BindingChange,
}

impl Transition {
    /// The one reason of this transition.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.core.reason
    }
}

/// Why there was no transition. The session is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// An internal event that no longer applies.
    Ignored,
    /// A peer-caused event that does not apply: a counted reason, and when to ask again (zero = not at all).
    Refused {
        /// Why.
        reason: Reason,
        /// How long the peer should wait.
        retry_after: Duration,
    },
    /// Ownership is elsewhere now: unbind, quiesce, drop this copy. The session itself goes on at its new
    /// owner.
    Relinquished,
}

impl Rejection {
    const fn refused(reason: Reason) -> Self {
        Self::Refused { reason, retry_after: Duration::ZERO }
    }
}

/// Bears a session in BIRTH at version `term`.0, with its first binding (epoch 1) to be installed.
#[must_use]
pub fn birth(_proof: Proven, id: SessionId, term: u32, now: BootTime) -> Transition {
    let version = StateVersion::first(term);
    let core = SessionCore {
        id,
        state: State::Birth,
        version,
        reason: Reason::HandshakeStart,
        entered_at: now,
        born_at: now,
        lived_before: Duration::ZERO,
        epoch: 1,
        phase: BindingPhase::Installing,
        confirmed: None,
        pending: Some(Anchor { epoch: 1, version }),
        nonce_mark: None,
        lost_at: None,
        attempts: None,
        switches: SwitchLog::default(),
        total_switches: 0,
    };
    Transition { core, from: None, change: BindingChange::Install }
}

/// A session whose owner lost its memory of it, from what is stored: RECOVERING at the first version of the term after
/// `term`, without binding and generation. It has lived for `lived_before`. `None` if no higher term is left.
#[must_use]
pub fn reload(
    id: SessionId,
    term: u32,
    lived_before: Duration,
    now: BootTime,
    policy: &Policy,
) -> Option<Transition> {
    if term >= StateVersion::MAX_TERM {
        return None;
    }
    let stored = SessionCore {
        id,
        state: State::Recovering,
        version: StateVersion::first(term),
        reason: Reason::OwnerRestart,
        entered_at: now,
        born_at: now,
        lived_before,
        epoch: 0,
        phase: BindingPhase::None,
        confirmed: None,
        pending: None,
        nonce_mark: None,
        lost_at: Some(now),
        attempts: None,
        switches: SwitchLog::default(),
        total_switches: 0,
    };
    let step = Step { core: &stored, now, policy };
    // In which state it was is not known any more.
    Some(Transition { from: None, ..step.new_term(Reason::OwnerRestart) })
}

/// Decides what `event` means for a session.
///
/// # Errors
/// [`Rejection`] when it means nothing: the session is unchanged then (I5).
pub fn transition(
    core: &SessionCore,
    event: Event,
    now: BootTime,
    policy: &Policy,
) -> Result<Transition, Rejection> {
    let origin = event.origin();
    let step = Step { core, now, policy };
    if core.state == State::Terminated {
        return Err(not_applicable(origin, Reason::SessionTerminated));
    }
    let outcome = match event {
        Event::PeerTerminated => Some(step.terminate(Reason::PeerTerminate)),
        Event::AdminTerminated => Some(step.terminate(Reason::AdminTerminate)),
        Event::PeerRevoked => Some(step.terminate(Reason::KeyRevoked)),
        Event::Superseded => Some(step.terminate(Reason::Superseded)),
        Event::SecurityViolated => Some(step.terminate(Reason::SecurityViolation)),
        Event::OwnershipConflict => Some(step.terminate(Reason::OwnershipConflict)),
        Event::OwnershipLost => return Err(Rejection::Relinquished),
        Event::OwnerRestarted => Some(step.new_term(Reason::OwnerRestart)),
        Event::OwnerTookOver => Some(step.new_term(Reason::OwnerTakeover)),
        Event::SessionTtlExpired => {
            step.expire(Some(core.session_deadline(policy)), Reason::TtlSessionExpired)
        }
        Event::TransportLossTtlExpired => {
            step.expire(core.transport_loss_deadline(policy), Reason::TtlTransportLossExpired)
        }
        Event::RecoveryWindowOver => {
            step.expire(core.recovery_deadline(policy), Reason::RecoveryBoundsExceeded)
        }
        Event::BirthTimeout => step.expire(core.birth_deadline(), Reason::HandshakeFail),
        Event::HandshakeProven(_) => None,
        Event::ReattachProven(_, claim) => return step.reattach(claim),
        Event::TakeoverProven(_, offered) => return step.take_over(offered),
        Event::DataPlaneLost => step.lose_transport(Reason::DataPlaneLost),
        Event::KeyLimitReached => step.lose_transport(Reason::KeyExhausted),
        Event::TransportDead => step.lose_transport(Reason::TransportDead),
        Event::BindingConfirmed { epoch } => step.confirm(epoch),
        Event::Rekeyed => step.rekey(),
        Event::HandshakeFailed => step.fail_birth(),
        Event::InstallFailed { epoch } => step.install_failed(epoch),
        Event::BindUnconfirmed { epoch } => step.bind_unconfirmed(epoch),
        Event::DegradedTooLong { .. }
        | Event::VolatileTooLong
        | Event::QualityBelow
        | Event::QualityGood { .. } => step.quality(&event),
    };
    outcome.ok_or(not_applicable(origin, Reason::NotApplicable))
}

/// Checks 9 and 10 for a proven request from the bound endpoint: a rekey. It is no transition yet, and neither budget nor
/// cooldown count; [`Event::Rekeyed`] follows when the new keys are in use.
///
/// # Errors
/// [`Rejection`]: the session is unchanged then (I5).
pub fn admit_rekey(
    core: &SessionCore,
    _proof: Proven,
    claim: ReattachClaim,
    now: BootTime,
    policy: &Policy,
) -> Result<(), Rejection> {
    if core.state == State::Terminated {
        return Err(Rejection::refused(Reason::SessionTerminated));
    }
    Step { core, now, policy }.admit(claim)?;
    if core.state.is_bound() { Ok(()) } else { Err(Rejection::refused(Reason::NotApplicable)) }
}

/// Checks 10 and 12 for a takeover request whose client has not shown yet that it is there: what it may be offered.
///
/// # Errors
/// [`Rejection`].
pub fn admit_takeover(core: &SessionCore, now: BootTime, policy: &Policy) -> Result<Anchor, Rejection> {
    if core.state == State::Terminated {
        return Err(Rejection::refused(Reason::SessionTerminated));
    }
    Step { core, now, policy }.admit_takeover()?;
    Ok(Anchor { epoch: core.epoch + 1, version: core.version.next() })
}

const fn not_applicable(origin: Origin, reason: Reason) -> Rejection {
    match origin {
        Origin::Internal => Rejection::Ignored,
        Origin::Peer => Rejection::refused(reason),
    }
}

/// One decision: the session, the moment, the policy.
struct Step<'a> {
    core: &'a SessionCore,
    now: BootTime,
    policy: &'a Policy,
}

impl Step<'_> {
    /// The next version, entered for `reason`.
    fn to(&self, state: State, reason: Reason, change: BindingChange) -> Transition {
        let mut core = self.core.clone();
        core.state = state;
        core.reason = reason;
        core.version = self.core.version.next();
        core.entered_at = self.now;
        Transition { core, from: Some(self.core.state), change }
    }

    fn terminate(&self, reason: Reason) -> Transition {
        let mut next = self.to(State::Terminated, reason, BindingChange::End);
        next.core.phase = BindingPhase::None;
        next.core.lost_at = None;
        next.core.attempts = None;
        next
    }

    /// RECOVERING without any binding.
    fn unbound(&self, reason: Reason) -> Transition {
        let mut next = self.to(State::Recovering, reason, BindingChange::Unbind);
        next.core.phase = BindingPhase::None;
        next.core.lost_at = self.core.lost_at.or(Some(self.now));
        next
    }

    fn new_term(&self, reason: Reason) -> Transition {
        let mut next = if self.core.state == State::Birth {
            self.terminate(Reason::HandshakeFail)
        } else {
            self.unbound(reason)
        };
        if self.core.state != State::Birth {
            next.core.version = self.core.version.next_term();
        }
        next
    }

    /// Timers that end a session. Judged by the clock, not by who set the timer.
    fn expire(&self, due: Option<BootTime>, reason: Reason) -> Option<Transition> {
        due.is_some_and(|at| self.now >= at).then(|| self.terminate(reason))
    }

    fn lose_transport(&self, reason: Reason) -> Option<Transition> {
        self.core.state.is_bound().then(|| self.unbound(reason))
    }

    fn fail_birth(&self) -> Option<Transition> {
        (self.core.state == State::Birth).then(|| self.terminate(Reason::HandshakeFail))
    }

    fn install_failed(&self, epoch: u64) -> Option<Transition> {
        if epoch != self.core.epoch {
            return None;
        }
        match (self.core.state, self.core.phase) {
            (State::Birth, _) => self.fail_birth(),
            (State::Recovering, BindingPhase::Installing) => {
                let mut next = self.unbound(Reason::InstallFailed);
                // The answer never left: the client cannot hold this generation.
                next.core.pending = None;
                next.change = BindingChange::UnbindAndForget;
                Some(next)
            }
            _ => None,
        }
    }

    fn bind_unconfirmed(&self, epoch: u64) -> Option<Transition> {
        // The generation stays: the client may hold it and ask under it. In BIRTH only BirthTimeout counts.
        let applies = self.core.state == State::Recovering
            && self.core.phase == BindingPhase::Unconfirmed
            && epoch == self.core.epoch;
        applies.then(|| self.unbound(Reason::BindUnconfirmed))
    }

    fn confirm(&self, epoch: u64) -> Option<Transition> {
        if self.core.phase != BindingPhase::Unconfirmed || epoch != self.core.epoch {
            return None;
        }
        let mut next = match self.core.state {
            State::Birth => self.to(State::Attached, Reason::HandshakeOk, BindingChange::Confirm),
            State::Recovering => self.confirm_switch(),
            State::Attached | State::Volatile | State::Degraded | State::Terminated => return None,
        };
        next.core.phase = BindingPhase::Confirmed;
        next.core.lost_at = None;
        next.core.attempts = None;
        next.core.confirmed = next.core.pending.take().or(next.core.confirmed);
        Some(next)
    }

    /// A switch counts now, when it is confirmed; the one that uses up the budget leads into DEGRADED.
    fn confirm_switch(&self) -> Transition {
        let mut switches = self.core.switches.clone();
        switches.push(self.now);
        let used_up = switches.count(self.now) >= self.policy.max_switches_per_min as usize;
        let (state, reason) = if used_up {
            (State::Degraded, Reason::PolicyFlapLimit)
        } else {
            (State::Attached, Reason::TransportSwitchOk)
        };
        let mut next = self.to(state, reason, BindingChange::Confirm);
        next.core.switches = switches;
        next.core.total_switches = self.core.total_switches.saturating_add(1);
        next
    }

    fn rekey(&self) -> Option<Transition> {
        if !self.core.state.is_bound() {
            return None;
        }
        let mut next = self.to(self.core.state, Reason::RekeyOk, BindingChange::Keep);
        next.core.confirmed = next.core.pending.take().or(next.core.confirmed);
        // A rekey is no news about quality: time in the state goes on.
        next.core.entered_at = self.core.entered_at;
        Some(next)
    }

    fn quality(&self, event: &Event) -> Option<Transition> {
        let lasted = |since: BootTime, span: Duration| self.now.since(since) >= span;
        match (self.core.state, event) {
            (State::Attached, Event::QualityBelow) => {
                Some(self.to(State::Volatile, Reason::VolatilitySignal, BindingChange::Keep))
            }
            (State::Volatile, Event::QualityGood { since }) => lasted(*since, self.policy.stability_window)
                .then(|| self.to(State::Attached, Reason::HealthRecovered, BindingChange::Keep)),
            (State::Volatile, Event::VolatileTooLong) => {
                lasted(self.core.entered_at, self.policy.volatile_max)
                    .then(|| self.to(State::Degraded, Reason::QualityFloorViolation, BindingChange::Keep))
            }
            (State::Degraded, Event::QualityGood { since }) => (self.now
                >= self.core.degraded_exit(*since, self.now, self.policy))
            .then(|| self.to(State::Attached, Reason::ExitDegradedMode, BindingChange::Keep)),
            (State::Degraded, Event::DegradedTooLong { bad_since }) => {
                lasted((*bad_since).max(self.core.entered_at), self.policy.degraded_max)
                    .then(|| self.terminate(Reason::PolicyTermination))
            }
            _ => None,
        }
    }

    /// Checks 9, 10 and 12 of a proven reattach, then the switch.
    fn reattach(&self, claim: ReattachClaim) -> Result<Transition, Rejection> {
        let anchor = self.admit(claim)?;
        if self.core.state == State::Birth {
            return Err(Rejection::refused(Reason::NotApplicable));
        }
        self.admit_switch(claim.voluntary)?;
        // A request under the pending generation shows that the client holds it: the older one is erased.
        Ok(self.start_switch((claim.under == Generation::Pending).then_some(anchor)))
    }

    /// As a reattach that is needed, but under no generation.
    fn take_over(&self, offered: Anchor) -> Result<Transition, Rejection> {
        self.admit_takeover()?;
        let mut next = self.start_switch(None);
        // What happened since the offer may have raised the version, but another binding voids it.
        if offered.epoch != next.core.epoch || offered.version > next.core.version {
            return Err(Rejection::refused(Reason::StaleVersion));
        }
        next.core.pending = Some(offered);
        Ok(next)
    }

    fn admit_takeover(&self) -> Result<(), Rejection> {
        self.in_time()?;
        if self.core.state == State::Birth {
            return Err(Rejection::refused(Reason::NotApplicable));
        }
        self.admit_switch(false)
    }

    /// Checks 9 and 10.
    fn admit(&self, claim: ReattachClaim) -> Result<Anchor, Rejection> {
        let anchor = match claim.under {
            Generation::Confirmed => self.core.confirmed,
            Generation::Pending => self.core.pending,
        };
        let Some(anchor) = anchor else { return Err(Rejection::refused(Reason::SessionNotFound)) };
        if claim.anchor_version < anchor.version.0 {
            return Err(Rejection::refused(Reason::StaleVersion));
        }
        if claim.anchor_version > anchor.version.0 {
            return Err(Rejection::refused(Reason::VersionAhead));
        }
        self.in_time()?;
        Ok(anchor)
    }

    /// Check 10.
    fn in_time(&self) -> Result<(), Rejection> {
        let over = |at: Option<BootTime>| at.is_some_and(|at| self.now >= at);
        if over(Some(self.core.session_deadline(self.policy)))
            || over(self.core.transport_loss_deadline(self.policy))
            || over(self.core.recovery_deadline(self.policy))
        {
            return Err(Rejection::refused(Reason::SessionExpired));
        }
        Ok(())
    }

    /// Check 12: the budget refuses every switch in every state; cooldown and DEGRADED only voluntary ones.
    fn admit_switch(&self, voluntary: bool) -> Result<(), Rejection> {
        let free_at = self.core.switches.free_at(self.policy.max_switches_per_min, self.now);
        if free_at > self.now {
            return Err(Rejection::Refused {
                reason: Reason::Cooldown,
                retry_after: free_at.since(self.now),
            });
        }
        if !voluntary {
            return Ok(());
        }
        if self.core.state == State::Degraded {
            let exit = self.core.degraded_exit(self.core.entered_at, self.now, self.policy);
            return Err(Rejection::Refused { reason: Reason::PolicyDeny, retry_after: exit.since(self.now) });
        }
        let cool_at = self.core.switches.last().map(|at| at.after(self.policy.cooldown_after_switch));
        match cool_at {
            Some(at) if at > self.now => {
                Err(Rejection::Refused { reason: Reason::Cooldown, retry_after: at.since(self.now) })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The next binding. `arrived` is the pending generation, if the client has shown that it holds it.
    fn start_switch(&self, arrived: Option<Anchor>) -> Transition {
        let reason =
            if self.core.state == State::Recovering { Reason::RecoveryRetry } else { Reason::RecoveryStart };
        let mut next = self.unbound(reason);
        next.change = BindingChange::Replace;
        let core = &mut next.core;
        core.phase = BindingPhase::Installing;
        core.epoch = self.core.epoch + 1;
        core.confirmed = arrived.or(core.confirmed);
        core.pending = Some(Anchor { epoch: core.epoch, version: core.version });
        core.attempts = Some(match self.core.attempts {
            Some(burst) if !burst.is_over(self.now) => {
                Attempts { last_at: self.now, count: burst.count.saturating_add(1), ..burst }
            }
            Some(_) | None => Attempts { first_at: self.now, last_at: self.now, count: 1 },
        });
        next
    }
}
