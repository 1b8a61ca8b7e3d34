//! A control plane that was killed goes on: from JOURNAL, in two steps, while the workers forward.
//!
//! 1. [`Engine::adopt`] makes the sessions of the records and says what the tables may keep. Everything else is removed
//!    from them, and the workers pass that.
//! 2. With [`super::TableEvent::Adopted`] what was unfinished is decided: a confirmed flag in CONTEXT is a confirmation,
//!    an installation under way has failed, a binding that the tables do not hold is lost.
//!
//! Until the second step nobody gets a RESET or a binding. CONTROL has its next incarnation in JOURNAL before it is used.

use super::Engine;
use super::api::ContextView;
use super::counters::Counter;
use super::session::Session;
use super::snapshot::{Place, Places, Snapshot};
use super::world::{DataPlane, World};
use crate::audit::{AuditKind, Violation};
use jvpn_abi::tables::BindingWord;
use jvpn_abi::wire::SlotId;
use jvpn_abi::{BootTime, Reason};
use jvpn_session::messages::{Prefix, SessionId};
use jvpn_session::{Event, State};
use std::collections::{BTreeMap, BTreeSet};

/// What an earlier control plane put into the tables and this one goes on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Bindings, by slot index.
    pub words: BTreeMap<u32, BindingWord>,
    /// Routes and the slots that they lead to.
    pub routes: Vec<(Prefix, SlotId)>,
    /// Records that opened and made no sense: their sessions are not adopted, and may be stored.
    pub refused: usize,
}

/// What is to be decided of an adopted session once the workers have passed the clearing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Adopted {
    id: SessionId,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes on as far as it is.
    Keep,
    /// The tables do not hold its binding any more.
    BindingLost,
    /// Its peer is not allowed any more.
    Revoked,
    /// The peer has another session.
    Superseded,
}

impl Engine {
    /// From now on every session has a record in JOURNAL, which has room for `capacity` of them and is empty.
    pub fn keep_journal(&mut self, capacity: u32) {
        self.world.journal = Some(Places::new(capacity, &BTreeSet::new()));
    }

    /// Goes on from the records of JOURNAL, `damaged` of which could not be read. `bound` reads BINDINGS. Only for an
    /// engine without sessions and without a data plane; nothing may have been cleared before. What the result does not
    /// name is to be removed from the tables; [`super::TableEvent::Adopted`] follows when the workers have passed that.
    pub fn adopt(
        &mut self,
        now: BootTime,
        capacity: u32,
        records: Vec<(u32, Box<Snapshot>)>,
        damaged: &[u32],
        bound: &dyn Fn(u32) -> BindingWord,
    ) -> Kept {
        debug_assert!(self.sessions.is_empty(), "adoption is for an engine that has just started");
        self.world.data_plane = DataPlane::Adopting;
        let mut restored = Vec::new();
        let mut freed: Vec<u32> = damaged.to_vec();
        let policy = self.world.settings.policy.clone();
        for (index, snapshot) in records {
            match Session::restore(&snapshot, &policy, now) {
                Some(session) => restored.push((index, session)),
                None => freed.push(index),
            }
        }
        for _ in &freed {
            // Which session it was cannot be told any more: what the store has and JOURNAL has not is loaded.
            self.world.counters.count(Counter::JournalDamaged);
            let kind = AuditKind::Security { violation: Violation::JournalDamaged };
            self.world.report_node(now, Some(Reason::SecurityViolation), kind);
        }
        let in_use: BTreeSet<u32> = restored.iter().map(|(index, _)| *index).collect();
        self.world.journal = Some(Places::new(capacity, &in_use));
        let slots: Vec<SlotId> = restored.iter().flat_map(|(_, session)| slots_of(session)).collect();
        self.world.slots.adopt(&slots);
        let mut kept = Kept { refused: freed.len() - damaged.len(), ..Kept::default() };
        // Those that somebody was heard over go before those that were loaded and wait for their clients.
        restored.sort_by_key(|(_, session)| session.core.confirmed().is_none());
        for (index, session) in restored {
            self.settle(index, session, bound, &mut kept);
        }
        for index in freed {
            self.world.commands.push_back(super::TableCommand::Journal { index, snapshot: None });
        }
        kept
    }

    /// Puts a restored session where it belongs; what it has in the tables is named.
    fn settle(
        &mut self,
        index: u32,
        mut session: Box<Session>,
        bound: &dyn Fn(u32) -> BindingWord,
        kept: &mut Kept,
    ) {
        let id = session.id();
        session.journal = Some(Place::of_another(index));
        let world = &mut self.world;
        let is_birth = session.core.state() == State::Birth;
        let is_allowed = world.is_allowed(&session.peer);
        let mut verdict = if is_allowed { Verdict::Keep } else { Verdict::Revoked };
        let is_beaten = if is_birth {
            let peer = world.peers.get_mut(&session.peer);
            peer.is_some_and(|peer| *peer.birth.get_or_insert(id) != id)
        } else {
            self.place(session.peer, id)
        };
        if is_beaten {
            verdict = Verdict::Superseded;
        }
        let world = &mut self.world;
        if let Some(binding) = &session.binding {
            world.by_slot.insert(binding.slot, id);
            if bound(binding.slot.index()) == binding.word {
                kept.words.insert(binding.slot.index(), binding.word);
            } else if verdict == Verdict::Keep {
                verdict = Verdict::BindingLost;
            }
        }
        if let Some(slot) = session.routed {
            kept.routes.extend(world.prefixes_of(&session.peer).into_iter().map(|prefix| (prefix, slot)));
        }
        let handles = session.confirmed.iter().chain(&session.pending).map(|secrets| secrets.handle);
        for handle in handles {
            world.handles.insert(handle.0, id);
        }
        if let Some(erased) = session.erased {
            world.handles.erase(erased.0, id);
        }
        world.live += 1;
        world.adopted.push(Adopted { id, verdict });
        world.counters.count(Counter::SessionsAdopted);
        self.sessions.insert(id, session);
        // Writes the record: it names the next CONTROL incarnation.
        self.with(id, |_, _| ());
    }

    pub(super) fn data_plane_adopted(&mut self, now: BootTime, slots: u32, view: &dyn ContextView) {
        self.world.met_slots(slots);
        self.world.data_plane = DataPlane::Up;
        self.world.handles.announce_all();
        self.resolve_adopted(now, view);
        for id in self.all_ids() {
            // The routes stand; this only says so, and adds those that configuration has since brought.
            self.with(id, |world, session| {
                if let Some(slot) = session.routed {
                    world.route(session, slot);
                }
            });
        }
    }

    /// Decides what adoption left open.
    pub(super) fn resolve_adopted(&mut self, now: BootTime, view: &dyn ContextView) {
        for Adopted { id, verdict } in std::mem::take(&mut self.world.adopted) {
            match verdict {
                Verdict::Revoked => self.happen(id, Event::PeerRevoked, now, view),
                Verdict::Superseded => self.happen(id, Event::Superseded, now, view),
                Verdict::BindingLost => {
                    self.with(id, |world, session| world.lose_binding(session, now, view));
                }
                Verdict::Keep => self.finish(id, now, view),
            }
        }
    }

    /// What was unfinished is finished: confirmed, failed, or waited for a little longer.
    fn finish(&mut self, id: SessionId, now: BootTime, view: &dyn ContextView) {
        let is_confirmed = self
            .sessions
            .get(&id)
            .and_then(|session| session.binding.as_ref())
            .is_some_and(|b| b.unconfirmed_until.is_some() && view.confirmed(b.slot.index(), b.word));
        if is_confirmed {
            return self.confirm_binding(id, now, view);
        }
        self.with(id, |world, session| {
            world.finish_attempt(session, now, view);
            world.note_flip(session, now, view);
        });
    }
}

impl World {
    fn finish_attempt(&mut self, session: &mut Session, now: BootTime, view: &dyn ContextView) {
        if session.attempt.is_some() {
            let epoch = session.core.epoch();
            self.step(session, Event::InstallFailed { epoch }, now, view);
        }
        if let Some(binding) = &mut session.binding {
            // Nobody listened for a while; the silence is nobody's fault.
            binding.alive_since = now;
            if let Some(until) = &mut binding.unconfirmed_until {
                *until = now.after(super::bindings::UNCONFIRMED_MIN);
            }
        }
    }
}

/// Every slot that a session refers to, as often as it does.
fn slots_of(session: &Session) -> Vec<SlotId> {
    let bound = session.binding.as_ref().map(|binding| binding.slot);
    let on_its_way = session.attempt.as_ref().map(|attempt| attempt.binding.slot);
    bound.into_iter().chain(on_its_way).chain(session.routed).collect()
}
