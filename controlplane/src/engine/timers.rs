//! Deadlines: one entry per session on the wheel, and the order of what is due together. No scan per tick.

use super::Engine;
use super::api::ContextView;
use super::lifecycle::REMEMBERED_MAX;
use super::session::Session;
use super::world::World;
use jvpn_abi::BootTime;
use jvpn_session::event::Priority;
use jvpn_session::messages::SessionId;
use jvpn_session::{Event, State};
use std::time::Duration;

/// What is due for a session.
enum Due {
    Event(Event),
    /// The attempt took too long.
    AttemptFailed,
    /// The first frame came, but its report did not.
    Confirmed,
    /// A restarted data plane did not take the binding back.
    AdoptionFailed,
    /// The next key is in use, but its report did not come.
    Flipped,
    /// The installation of the next key took too long.
    RekeyFailed,
    /// The key before has received for long enough.
    PreviousOver,
    /// A look at the path's quality.
    Look,
    /// Nobody took what a takeover's answer offered.
    OfferOver,
}

impl Due {
    fn priority(&self) -> Priority {
        match self {
            Self::Event(event) => event.priority(),
            Self::AttemptFailed | Self::RekeyFailed | Self::PreviousOver | Self::OfferOver => {
                Event::InstallFailed { epoch: 0 }.priority()
            }
            Self::Flipped => Event::Rekeyed.priority(),
            Self::Confirmed => Event::BindingConfirmed { epoch: 0 }.priority(),
            Self::AdoptionFailed => Event::DataPlaneLost.priority(),
            // Before whatever it finds.
            Self::Look => Event::DegradedTooLong { bad_since: BootTime::NEVER }.priority(),
        }
    }
}

impl World {
    /// The next moment at which something may be due for a session.
    pub(super) fn deadline_of(&self, session: &Session) -> Option<BootTime> {
        let policy = &self.settings.policy;
        let core = &session.core;
        let floods = session.floods.deadline();
        if core.state() == State::Terminated {
            return [floods, Some(self.forgotten_at(session))].into_iter().flatten().min();
        }
        let watched = core.state().is_bound() && self.is_up();
        let silent = watched.then_some(session.dead_check_at);
        let look = watched.then_some(session.quality.look_at);
        let restricted = (core.state() == State::Degraded)
            .then(|| Some(core.degraded_exit(session.fit_since()?, core.entered_at(), policy)))
            .flatten();
        let deadlines = [
            Some(core.session_deadline(policy)),
            core.transport_loss_deadline(policy),
            core.recovery_deadline(policy),
            core.birth_deadline(),
            session.attempt.as_ref().map(|attempt| attempt.until),
            unconfirmed_until(session),
            session.binding.as_ref().and_then(|binding| binding.adopting).map(|(_, until)| until),
            silent,
            look,
            restricted,
            self.key_deadline(session),
            session.offered_until(),
            floods,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// What is due for a session and goes first, of what goes before `ceiling`.
    fn due(
        &self,
        session: &mut Session,
        now: BootTime,
        ceiling: Priority,
        view: &dyn ContextView,
    ) -> Option<Due> {
        let policy = &self.settings.policy;
        let core = &session.core;
        let reached = |at: Option<BootTime>| at.is_some_and(|at| now >= at);
        let adoption = session.binding.as_ref().and_then(|b| b.adopting).map(|(_, until)| until);
        let attempt = session.attempt.as_ref().map(|attempt| attempt.until);
        let unconfirmed = unconfirmed_until(session);
        let due = if !core.state().is_live() {
            return None;
        } else if now >= core.session_deadline(policy) {
            Due::Event(Event::SessionTtlExpired)
        } else if reached(core.transport_loss_deadline(policy)) {
            Due::Event(Event::TransportLossTtlExpired)
        } else if reached(core.recovery_deadline(policy)) {
            Due::Event(Event::RecoveryWindowOver)
        } else if reached(adoption) {
            Due::AdoptionFailed
        } else if self.key_is_exhausted(session, now, view) {
            Due::Event(Event::KeyLimitReached)
        } else if session.binding.as_ref().is_some_and(|binding| binding.is_flipped(view)) {
            Due::Flipped
        } else if (reached(unconfirmed) || reached(core.birth_deadline())) && is_confirmed(session, view) {
            Due::Confirmed
        } else if reached(attempt) {
            Due::AttemptFailed
        } else if session.binding.as_ref().is_some_and(|binding| binding.rekey_is_late(now)) {
            Due::RekeyFailed
        } else if session.binding.as_ref().is_some_and(|binding| binding.previous_is_over(now)) {
            Due::PreviousOver
        } else if reached(session.offered_until()) {
            Due::OfferOver
        } else if reached(unconfirmed) {
            Due::Event(Event::BindUnconfirmed { epoch: core.epoch() })
        } else if reached(core.birth_deadline()) {
            Due::Event(Event::BirthTimeout)
        } else if core.state().is_bound() && self.is_up() && now >= session.dead_check_at {
            // Whether it is dead is decided by what was heard until now.
            let (deadline, check_at) = self.silence(session, now, view);
            if now < deadline {
                session.dead_check_at = check_at;
                return self.due(session, now, ceiling, view);
            }
            Due::Event(Event::TransportDead)
        } else if core.state().is_bound() && self.is_up() && now >= session.quality.look_at {
            Due::Look
        } else if let Some(event) = self.quality_event(session, now) {
            Due::Event(event)
        } else if core.state() == State::Degraded
            && let Some(since) = session.fit_since()
            && now >= core.degraded_exit(since, now, policy)
        {
            Due::Event(Event::QualityGood { since })
        } else {
            return None;
        };
        (due.priority() < ceiling).then_some(due)
    }

    /// When a bound path counts as dead if nothing more is heard, and when to look again.
    fn silence(&self, session: &Session, now: BootTime, view: &dyn ContextView) -> (BootTime, BootTime) {
        let policy = &self.settings.policy;
        let Some(binding) = &session.binding else { return (BootTime::NEVER, BootTime::NEVER) };
        let index = binding.slot.index();
        // CONTEXT is another process' memory: a moment in the future is no life insurance.
        let heard = view.last_heard(index).map_or(binding.alive_since, |at| at.min(now));
        let announced = view.peer_interval_ms(index).filter(|ms| *ms > 0);
        let announced = announced.map(|ms| Duration::from_millis(u64::from(ms)));
        let deadline = heard.max(binding.alive_since).after(policy.dead_after(announced));
        // The peer may announce a shorter interval meanwhile, so the next look is never far.
        (deadline, deadline.min(now.after(policy.dead_after_min)))
    }

    fn forgotten_at(&self, session: &Session) -> BootTime {
        session.core.entered_at().after(self.settings.policy.transport_loss_ttl)
    }
}

/// In BIRTH only the birth's own timeout counts.
fn unconfirmed_until(session: &Session) -> Option<BootTime> {
    let recovering = session.core.state() == State::Recovering;
    session.binding.as_ref().and_then(|binding| binding.unconfirmed_until).filter(|_| recovering)
}

fn is_confirmed(session: &Session, view: &dyn ContextView) -> bool {
    session.binding.as_ref().is_some_and(|binding| {
        binding.unconfirmed_until.is_some() && view.confirmed(binding.slot.index(), binding.word)
    })
}

impl Engine {
    /// Lets everything happen to a session that is due and goes before `ceiling`, in order.
    pub(super) fn run_due(
        &mut self,
        id: SessionId,
        now: BootTime,
        ceiling: Priority,
        view: &dyn ContextView,
    ) {
        // To ask what is due changes nothing that JOURNAL holds.
        while let Some(due) =
            self.sessions.get_mut(&id).and_then(|session| self.world.due(session, now, ceiling, view))
        {
            match due {
                Due::Confirmed => self.confirm_binding(id, now, view),
                Due::Event(event) => {
                    self.with(id, |world, session| world.step(session, event, now, view));
                }
                Due::AttemptFailed => {
                    self.with(id, |world, session| {
                        world.refuse_attempt(session);
                        let epoch = session.core.epoch();
                        world.step(session, Event::InstallFailed { epoch }, now, view);
                    });
                }
                Due::Flipped => {
                    self.with(id, |world, session| world.note_flip(session, now, view));
                }
                Due::RekeyFailed => {
                    self.with(id, |world, session| world.fail_rekey(session));
                }
                Due::PreviousOver => {
                    self.with(id, |world, session| world.drop_previous(session, now));
                }
                Due::Look => {
                    self.with(id, |world, session| world.look_at_quality(session, now, view));
                }
                Due::OfferOver => {
                    self.with(id, |world, session| world.drop_offer(session));
                }
                Due::AdoptionFailed => {
                    self.with(id, |world, session| world.lose_binding(session, now, view));
                }
            }
        }
    }

    pub(super) fn fire_timers(&mut self, now: BootTime, view: &dyn ContextView) {
        self.load_again(now);
        self.remove_again(now);
        while let Some((timer, id)) = self.world.timers.first() {
            if timer.at() > now {
                break;
            }
            self.run_due(id, now, Priority::LAST, view);
            if let Some(session) = self.sessions.get_mut(&id) {
                self.world.lines.extend(session.floods.flush(now));
                self.world.schedule(session);
            }
            self.forget_if_over(id, now);
            // Whatever is due has happened, so the session's next deadline is later.
            let stuck = self.world.timers.first() == Some((timer, id));
            debug_assert!(!stuck, "a deadline of session {id} does not pass");
            if stuck {
                self.world.timers.remove(timer, id);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.scheduled = None;
                }
            }
        }
        let lines = self.world.floods.flush(now);
        self.world.lines.extend(lines);
    }

    fn forget_if_over(&mut self, id: SessionId, now: BootTime) {
        let over = self.sessions.get(&id).is_some_and(|session| {
            session.core.state() == State::Terminated && now >= self.world.forgotten_at(session)
        });
        if over {
            self.forget(id);
        }
    }

    /// Keeps the number of terminated sessions that are remembered within its bound (I10).
    pub(super) fn bound_memory(&mut self) {
        while self.world.remembered.len() > REMEMBERED_MAX {
            let Some((_, id)) = self.world.remembered.pop_first() else { break };
            self.forget(id);
        }
    }

    /// Forgets a terminated session; what floods it had counted is written.
    fn forget(&mut self, id: SessionId) {
        if let Some(mut session) = self.sessions.remove(&id) {
            let lines = session.floods.flush(BootTime::NEVER);
            self.world.lines.extend(lines);
            self.world.forget(&session);
        }
    }
}
