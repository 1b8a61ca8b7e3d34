//! The life of bindings in the shared tables: unbind, quiesce, install, bind, confirm; and a data plane that
//! goes away and comes back.

use super::Engine;
use super::api::{ContextView, TableCommand};
use super::counters::Counter;
use super::durable::STORE_TIMEOUT;
use super::quality::round_trip;
use super::session::{Attempt, Binding, Drain, Former, Recovery, Session, Stage};
use super::world::{DataPlane, Retired, World};
use jvpn_abi::tables::{BindingWord, InstallOp};
use jvpn_abi::wire::SlotId;
use jvpn_abi::wire::reattach::REJECT_LEN;
use jvpn_abi::{BootTime, Reason};
use jvpn_session::messages::SessionId;
use jvpn_session::{Event, State, transition};
use std::time::Duration;

/// A worker that does not pass an unbind within this time makes the installation fail.
pub const QUIESCE_TIMEOUT: Duration = Duration::from_millis(100);
/// An installer that does not report within this time makes the installation fail.
pub const INSTALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client's first binding of a burst may at least stay unconfirmed, and the key before a rekey receives.
pub(super) const UNCONFIRMED_MIN: Duration = Duration::from_secs(1);
/// How long any may: a client waits no longer than 4.5 s for an answer, so no longer round trip comes this far.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(8);

/// max(3 RTT, 1 s): what a round trip takes even if two of three frames are lost. The round trip is the client's word, so
/// it is believed up to a bound.
pub(super) fn three_round_trips(rtt: Duration) -> Duration {
    rtt.saturating_mul(3).clamp(UNCONFIRMED_MIN, UNCONFIRMED_MAX)
}

/// How long a binding may stay unconfirmed that its client asked for with its `attempt`th request of a burst. `rtt` is that
/// of the path before: nobody here has measured the new one. If that is longer, it is waited for with the next attempts,
/// each a second longer (I13).
pub(super) fn patience(rtt: Duration, attempt: u16) -> Duration {
    three_round_trips(rtt).max(UNCONFIRMED_MIN * u32::from(attempt.max(1))).min(UNCONFIRMED_MAX)
}

impl World {
    /// The data plane has this many slots.
    pub(super) fn met_slots(&mut self, slots: u32) {
        let max_sessions = self.settings.policy.max_sessions;
        if slots / 2 < max_sessions {
            tracing::info!(
                slots,
                max_sessions,
                "fewer slots than twice max_sessions: beyond {} sessions a switch may find none; lower max_sessions or \
                 raise slots of the data plane",
                slots / 2
            );
        }
        self.slots.resize(slots);
    }

    /// Starts to bring a binding into the tables. Nothing may be bound; what was bound may still be draining.
    pub(super) fn begin(
        &mut self,
        session: &mut Session,
        binding: Binding,
        answer: Vec<u8>,
        refusal: Option<[u8; REJECT_LEN]>,
        now: BootTime,
    ) {
        debug_assert!(session.is_idle(), "I1: something is bound or under way");
        let until = now.after(QUIESCE_TIMEOUT);
        let attempt = Attempt { binding, stage: Stage::Quiescing, until, answer, refusal };
        session.attempt = Some(Box::new(attempt));
        if session.draining.is_none() {
            self.install(session, now);
        }
    }

    /// Starts to bring the binding of a birth into the tables, once the birth is stored.
    pub(super) fn begin_stored(
        &mut self,
        session: &mut Session,
        binding: Binding,
        answer: Vec<u8>,
        ticket: u64,
        now: BootTime,
    ) {
        let until = now.after(STORE_TIMEOUT);
        let stage = Stage::Storing { ticket };
        session.attempt = Some(Box::new(Attempt { binding, stage, until, answer, refusal: None }));
    }

    /// Asks again for an unbind that the workers did not pass in time: whoever overslept is woken.
    pub(super) fn unbind_again(&mut self, session: &mut Session) {
        let Some(retired) = session.draining.and_then(|drain| self.retiring.remove(&drain.seq)) else {
            return;
        };
        session.draining = Some(self.unbind(retired.slot, retired.word, session.id()));
    }

    /// Stores the unbound word and notes whom to tell when every worker has passed it.
    fn unbind(&mut self, slot: SlotId, word: BindingWord, owner: SessionId) -> Drain {
        self.unbind_seq += 1;
        let seq = self.unbind_seq;
        self.commands.push_back(TableCommand::Unbind { slot, seq });
        self.retiring.insert(seq, Retired { slot, word, owner });
        Drain { slot, seq }
    }

    /// Everything that a session has in the tables goes: the bound slot, and one on its way in.
    pub(super) fn unbind_all(&mut self, session: &mut Session, now: BootTime, view: &dyn ContextView) {
        session.answered = None;
        if let Some(binding) = session.binding.take() {
            self.leave(session, binding, now, view);
        }
        if let Some(attempt) = session.attempt.take() {
            match attempt.stage {
                // It never reached the tables.
                Stage::Quiescing | Stage::Storing { .. } => self.slots.release(attempt.binding.slot),
                Stage::Installing { seq } => {
                    self.installing.remove(&seq);
                    self.retire(session, attempt.binding.slot, attempt.binding.word);
                }
            }
        }
    }

    /// Leaves a bound slot, and keeps what recognises its late frames.
    fn leave(&mut self, session: &mut Session, binding: Binding, now: BootTime, view: &dyn ContextView) {
        let index = binding.slot.index();
        for seq in binding.rekey_entries().chain(binding.adopting.map(|(seq, _)| seq)) {
            self.installing.remove(&seq);
        }
        session.earlier_traffic = session.earlier_traffic + view.traffic(index);
        if binding.unconfirmed_until.is_none() {
            let last_heard = view.last_heard(index).map_or(binding.alive_since, |at| at.min(now));
            let rtt_us = u32::try_from(round_trip(view, index).as_micros()).unwrap_or(u32::MAX);
            let recovery = Recovery { left: binding.remote, last_heard, detect_ms: None, rtt_us };
            session.recovery = Some(Box::new(recovery));
        }
        let keys = binding.known_keys(self.settings.policy.rekey_hard, view);
        let former =
            (!keys.is_empty()).then_some(Former { slot: binding.slot, keys, sealer: binding.sealer });
        if former.is_none() {
            // Without its keys its late frames cannot be told from anybody's.
            self.by_slot.remove(&binding.slot);
        }
        if let Some(older) = std::mem::replace(&mut session.former, former) {
            self.by_slot.remove(&older.slot);
        }
        self.retire(session, binding.slot, binding.word);
    }

    fn retire(&mut self, session: &mut Session, slot: SlotId, word: BindingWord) {
        let drain = self.unbind(slot, word, session.id());
        if matches!(self.data_plane, DataPlane::Up | DataPlane::Adopting) {
            session.draining = Some(drain);
        } else {
            // A data plane whose exit was seen is quiescent.
            self.retiring.remove(&drain.seq);
            self.slots.release(slot);
            session.draining = None;
        }
    }

    /// Puts the attempt's keys into the mailbox.
    pub(super) fn install(&mut self, session: &mut Session, now: BootTime) {
        let prefixes = self.prefixes_of(&session.peer);
        let hard_packets = self.hard_packets(session.suite);
        let Some(attempt) = &mut session.attempt else { return };
        let seq = self.install_seq + 1;
        let entry = attempt.binding.install_entry(InstallOp::Install, seq, session.suite, &prefixes);
        let Some(mut entry) = entry else { return };
        entry.hard_packets = hard_packets;
        self.install_seq = seq;
        attempt.stage = Stage::Installing { seq };
        attempt.until = now.after(INSTALL_TIMEOUT);
        self.installing.insert(seq, session.core.id());
        self.commands.push_back(TableCommand::Install { seq, entry });
    }

    /// Every worker has the keys: bind, then answer.
    fn bind(&mut self, session: &mut Session, now: BootTime) {
        let Some(attempt) = session.attempt.take() else { return };
        let Attempt { mut binding, answer, .. } = *attempt;
        if !session.core.binding_installed(binding.epoch) {
            debug_assert!(
                false,
                "an attempt that the session no longer wants is removed with its transition"
            );
            self.retire(session, binding.slot, binding.word);
            return;
        }
        let (slot, word, remote, local) = (binding.slot, binding.word, binding.remote, binding.local);
        binding.alive_since = now;
        binding.unconfirmed_until = Some(now.after(binding.patience));
        self.by_slot.insert(slot, session.id());
        self.slots.grant(slot);
        self.commands.push_back(TableCommand::Bind { slot, word, remote, local });
        if let Some(answered) = &mut session.answered {
            answered.answer = Some(answer.as_slice().into());
        }
        session.binding = Some(binding);
        self.send_early(session, now);
        self.send(remote, local, answer);
    }

    /// The attempt failed: the client is told, if it can be.
    pub(super) fn refuse_attempt(&mut self, session: &mut Session) {
        let Some(attempt) = &session.attempt else { return };
        if let Some(refusal) = attempt.refusal {
            self.counters.reattach_rejected(Reason::Unavailable);
            self.send(attempt.binding.remote, attempt.binding.local, refusal.to_vec());
        }
    }

    /// Gives a bound slot back to a data plane that restarted; without its keys it is lost.
    fn adopt(&mut self, session: &mut Session, now: BootTime, view: &dyn ContextView) {
        let last = self.adopt_keys(session);
        let (Some(last), Some(binding)) = (last, &mut session.binding) else {
            return self.lose_binding(session, now, view);
        };
        binding.adopting = Some((last, now.after(INSTALL_TIMEOUT)));
        // The silence while nobody listened is nobody's fault.
        binding.alive_since = now;
    }

    /// A restarted data plane has the keys: bind and route as before.
    fn rebind(&mut self, session: &mut Session, now: BootTime) {
        let Some(binding) = &mut session.binding else { return };
        binding.adopting = None;
        binding.alive_since = now;
        let (slot, word, remote, local) = (binding.slot, binding.word, binding.remote, binding.local);
        self.commands.push_back(TableCommand::Bind { slot, word, remote, local });
        if let Some(routed) = session.routed {
            self.route(session, routed);
        }
    }

    /// The memory of a bound slot is gone.
    pub(super) fn lose_binding(&mut self, session: &mut Session, now: BootTime, view: &dyn ContextView) {
        let epoch = session.core.epoch();
        let event = match session.core.state() {
            State::Birth => Event::InstallFailed { epoch },
            // The answer has left: the client may hold the generation, so it stays.
            State::Recovering => Event::BindUnconfirmed { epoch },
            State::Attached | State::Volatile | State::Degraded | State::Terminated => Event::DataPlaneLost,
        };
        self.step(session, event, now, view);
    }
}

impl Engine {
    pub(super) fn quiesced(&mut self, now: BootTime, seq: u64, view: &dyn ContextView) {
        // One by one: to split the map would count what is left.
        while let Some(first) = self.world.retiring.first_entry().filter(|first| *first.key() <= seq) {
            let (seq, Retired { slot, word, owner }) = first.remove_entry();
            self.world.install_seq += 1;
            let remove = TableCommand::Remove { seq: self.world.install_seq, slot, word };
            self.world.commands.push_back(remove);
            self.world.slots.release(slot);
            self.with(owner, |world, session| {
                // What the workers committed between the store and their last batch counts too.
                if let Some(former) = session.former.as_mut().filter(|former| former.slot == slot) {
                    for key in &mut former.keys {
                        key.highest = key.highest.max(view.highest_counter(slot.index(), key.number));
                    }
                }
                if session.draining.is_some_and(|drain| drain.seq == seq) {
                    session.draining = None;
                    if session.attempt.as_ref().is_some_and(|attempt| attempt.stage == Stage::Quiescing) {
                        world.install(session, now);
                    }
                }
            });
        }
    }

    pub(super) fn installed(&mut self, now: BootTime, seq: u64, view: &dyn ContextView) {
        let Some(id) = self.world.installing.remove(&seq) else { return };
        // What goes before an installation and is due counts first.
        self.run_due(id, now, (Event::InstallFailed { epoch: 0 }).priority(), view);
        self.with(id, |world, session| {
            if is_installing(session, seq) {
                world.bind(session, now);
            } else if let Some((last, _)) = session.binding.as_ref().and_then(|binding| binding.adopting) {
                // The workers take entries in order: with the last one they have all keys of the binding.
                if last == seq {
                    world.rebind(session, now);
                    world.note_flip(session, now, view);
                }
            } else if !world.rekey_installed(session, seq) {
                world.counters.count(Counter::StaleReport);
            }
        });
    }

    pub(super) fn install_refused(&mut self, now: BootTime, seq: u64, view: &dyn ContextView) {
        let Some(id) = self.world.installing.remove(&seq) else {
            self.world.counters.count(Counter::StaleReport);
            return;
        };
        self.run_due(id, now, (Event::InstallFailed { epoch: 0 }).priority(), view);
        self.with(id, |world, session| {
            if is_installing(session, seq) {
                world.refuse_attempt(session);
                let epoch = session.core.epoch();
                world.step(session, Event::InstallFailed { epoch }, now, view);
            } else if session.binding.as_ref().is_some_and(|binding| binding.adopting.is_some()) {
                world.lose_binding(session, now, view);
            } else if !world.rekey_refused(session, now, seq) {
                world.counters.count(Counter::StaleReport);
            }
        });
    }

    pub(super) fn confirmed_report(
        &mut self,
        now: BootTime,
        slot_index: u32,
        word: BindingWord,
        view: &dyn ContextView,
    ) {
        let id =
            SlotId::new(slot_index, word.serial()).and_then(|slot| self.world.by_slot.get(&slot).copied());
        let Some(id) = id else {
            self.world.counters.count(Counter::StaleReport);
            return;
        };
        let current = self.sessions.get(&id).and_then(|session| session.binding.as_ref());
        if !current.is_some_and(|binding| binding.word == word) {
            self.world.counters.count(Counter::StaleReport);
            return;
        }
        self.run_due(id, now, (Event::BindingConfirmed { epoch: 0 }).priority(), view);
        let current = self.sessions.get(&id).and_then(|session| session.binding.as_ref());
        if current.is_some_and(|binding| binding.is_flipped(view)) {
            self.with(id, |world, session| world.note_flip(session, now, view));
        } else {
            self.confirm_binding(id, now, view);
        }
    }

    /// The first frame came. If it ends a birth, the peer's older session ends in the same step, before it; so do those that
    /// were loaded from the store beside it.
    pub(super) fn confirm_binding(&mut self, id: SessionId, now: BootTime, view: &dyn ContextView) {
        let Some(session) = self.sessions.get(&id) else { return };
        let Some(binding) = &session.binding else { return };
        let event = Event::BindingConfirmed { epoch: binding.epoch };
        let peer = session.peer;
        let Ok(next) = transition(&session.core, event, now, &self.world.settings.policy) else {
            self.world.counters.event_ignored("BindingConfirmed");
            return;
        };
        let beats = next.from == Some(State::Birth) || self.world.rivals.contains_key(&peer);
        for older in if beats { self.world.beaten_by(&peer, id) } else { Vec::new() } {
            // Its routes are not removed: they move, so that no packet finds none.
            self.with(older, |world, session| {
                if let Some(slot) = session.routed.take() {
                    world.slots.release(slot);
                }
            });
            self.happen(older, Event::Superseded, now, view);
        }
        self.with(id, |world, session| world.commit(session, next, now, view));
    }

    pub(super) fn data_plane_lost(&mut self, now: BootTime, view: &dyn ContextView) {
        let was_adopting = self.world.data_plane == DataPlane::Adopting;
        self.world.data_plane = DataPlane::Lost;
        self.world.installing.clear();
        // Its exit was seen: every unbind is passed, and the keys of what was removed went with it.
        for retired in std::mem::take(&mut self.world.retiring).into_values() {
            self.world.slots.release(retired.slot);
        }
        for id in self.all_ids() {
            self.with(id, |world, session| {
                session.draining = None;
                world.drop_offer(session);
                world.void_rekey(session);
                if let Some(binding) = &mut session.binding {
                    // Whoever was taking it back is gone; the next one is asked anew, and has its own time.
                    binding.adopting = None;
                }
                if session.attempt.is_some() {
                    world.refuse_attempt(session);
                    let epoch = session.core.epoch();
                    world.step(session, Event::InstallFailed { epoch }, now, view);
                }
            });
        }
        if was_adopting {
            self.resolve_adopted(now, view);
        }
    }

    pub(super) fn data_plane_up(
        &mut self,
        now: BootTime,
        slots: u32,
        context_kept: bool,
        view: &dyn ContextView,
    ) {
        if self.world.is_up() {
            self.data_plane_lost(now, view);
        }
        self.world.met_slots(slots);
        self.world.data_plane = DataPlane::Up;
        self.world.handles.announce_all();
        let limit = self.world.slots.limit();
        for id in self.all_ids() {
            self.with(id, |world, session| {
                let bound = session.binding.as_ref().map(|binding| binding.slot.index());
                match bound {
                    Some(index) if context_kept && index < limit => world.adopt(session, now, view),
                    Some(_) => world.lose_binding(session, now, view),
                    None => {}
                }
                // Frames for a session that recovers are dropped at its old slot instead of leaking to the
                // kernel.
                if session.binding.is_none()
                    && let Some(slot) = session.routed
                {
                    world.route(session, slot);
                }
            });
        }
    }

    pub(super) fn all_ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }
}

fn is_installing(session: &Session, seq: u64) -> bool {
    session.attempt.as_ref().is_some_and(|attempt| attempt.stage == Stage::Installing { seq })
}
