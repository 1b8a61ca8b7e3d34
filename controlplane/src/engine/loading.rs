//! Sessions that only the store remembers: loaded when a control plane starts beside a data plane without JOURNAL, each
//! once its next term is in the store.
//!
//! Until a session is loaded its client is told UNAVAILABLE, and no handle gets a RESET: a gateway that does not know what
//! it has forgotten says nothing about it. What cannot be loaded ends on record.
//!
//! The store may name several sessions of a peer: one that lived, and a birth beside it that nobody confirmed; or one that
//! had ended, whose removal the disk never saw. It does not say which is which, so all are loaded, and the first whose
//! client takes it over and is heard over it wins. The others end as SUPERSEDED then, and their clients are told so.

use super::Engine;
use super::api::ContextView;
use super::counters::Counter;
use super::durable::STORE_PAUSE;
use super::session::Session;
use super::snapshot::Places;
use super::world::World;
use crate::audit::{AuditEvent, AuditKind};
use crate::journal::Completeness;
use crate::store::{Change, Expected, Scan, StoreError, StoredSession, Version, Versioned};
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::keys::PublicKey;
use jvpn_session::messages::SessionId;
use jvpn_session::{Event, State, StateVersion, reload};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A stored session on its way into memory.
#[derive(Debug)]
pub(super) struct Loading {
    stored: StoredSession,
    version: Version,
    /// The request for its next term; `None` while it waits to be asked for again.
    ticket: Option<u64>,
}

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Loads {
    sessions: BTreeMap<SessionId, Loading>,
    /// When what failed is tried again.
    again_at: Option<BootTime>,
    /// Nobody could read which sessions there are.
    unreadable: bool,
    /// Sessions whose records a newer release wrote: they are there, and nobody here may say that they are not.
    pub(super) newer: BTreeSet<SessionId>,
}

impl Loads {
    pub(super) const fn again_at(&self) -> Option<BootTime> {
        self.again_at
    }

    /// Whether there may be sessions that this engine does not know. Those of a newer release it knows by name: their
    /// clients are told to wait, and nobody else has to.
    fn is_incomplete(&self) -> bool {
        self.unreadable || !self.sessions.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }
}

impl Engine {
    /// JOURNAL is what counts: a stored record without its session is left from one that ended. Unless JOURNAL is
    /// incomplete, because records were damaged, its writer died while it was loading, or could not read what a newer
    /// release had stored: then it is loaded. Call it after [`Self::adopt`]; `stored` is `None` if nobody could read it.
    pub fn match_store(&mut self, now: BootTime, stored: Option<Scan>, completeness: Completeness) {
        let Some(Scan { sessions, unreadable }) = stored else {
            return match completeness {
                Completeness::Incomplete => self.store_is_unreadable(),
                Completeness::Complete => {}
            };
        };
        let mut unknown = Vec::new();
        for (id, record) in sessions {
            if self.match_stored(id, &record) {
                continue;
            }
            match completeness {
                Completeness::Incomplete => unknown.push((id, record)),
                Completeness::Complete => self.forget_stored(id, record.version),
            }
        }
        self.judge_unreadable(now, unreadable);
        self.load_stored(now, unknown);
    }

    /// What the store holds and no memory does. Only for records whose sessions are not here.
    pub fn load_stored(&mut self, now: BootTime, records: Vec<(SessionId, Versioned)>) {
        for (id, Versioned { version, session: stored }) in records {
            if let Err(reason) = self.world.fate(&stored, now) {
                self.end_stored(now, id, &stored, version, reason);
            } else if let Some(store) = &mut self.world.store {
                store.loads.sessions.insert(id, Loading { stored, version, ticket: None });
            }
        }
        self.ask_to_load();
    }

    /// The store could not be read: whatever it holds may be there.
    pub fn store_is_unreadable(&mut self) {
        if let Some(store) = &mut self.world.store {
            store.loads.unreadable = true;
        }
    }

    /// Whether JOURNAL, once everything said is written, names every session that there is: nothing of the store is still
    /// to be loaded, each found a place, and no record is kept for the release that can read it. That release may come
    /// back beside a living data plane, and must not take what it reads for ended.
    #[must_use]
    pub fn journal_is_whole(&self) -> bool {
        let overflowed = self.world.journal.as_ref().is_some_and(Places::has_overflowed);
        let keeps = self.world.store.as_ref().is_some_and(|store| !store.loads.newer.is_empty());
        self.world.memory_is_whole() && !overflowed && !keeps
    }

    /// Asks for the next term of every session that is not asked for.
    fn ask_to_load(&mut self) {
        let Some(store) = &mut self.world.store else { return };
        store.loads.again_at = None;
        let mut loads = std::mem::take(&mut store.loads.sessions);
        for (id, loading) in &mut loads {
            if loading.ticket.is_none() {
                let mut session = Box::new(loading.stored.clone());
                session.term = session.term.saturating_add(1);
                let expected = Expected::Version(loading.version);
                loading.ticket = Some(store.ask(Change::Put { id: *id, expected, session }));
            }
        }
        store.loads.sessions = loads;
    }

    pub(super) fn load_again(&mut self, now: BootTime) {
        let due = self.world.store.as_ref().and_then(|store| store.loads.again_at);
        if due.is_some_and(|at| now >= at) {
            self.ask_to_load();
        }
    }

    /// What became of a request, if it was one for the next term of a session on its way. `true`: it was.
    pub(super) fn load_outcome(
        &mut self,
        now: BootTime,
        ticket: u64,
        id: SessionId,
        result: &Result<Version, StoreError>,
        view: &dyn ContextView,
    ) -> bool {
        let Some(store) = &mut self.world.store else { return false };
        let loads = &mut store.loads.sessions;
        if loads.get(&id).is_none_or(|loading| loading.ticket != Some(ticket)) {
            return false;
        }
        match result {
            Ok(version) => {
                if let Some(loading) = loads.remove(&id) {
                    self.loaded(now, id, loading.stored, *version, view);
                }
            }
            Err(StoreError::Conflict { .. }) => {
                // Somebody else wrote it: it is not ours to load.
                if let Some(loading) = loads.remove(&id) {
                    self.world.report_moved(now, id, loading.stored.term);
                }
                tracing::error!(session = %id, "its record was changed by somebody else; it is not loaded");
            }
            Err(StoreError::Unavailable { .. } | StoreError::Damaged { .. }) => {
                if let Some(loading) = loads.get_mut(&id) {
                    loading.ticket = None;
                }
                store.loads.again_at = Some(now.after(STORE_PAUSE));
            }
        }
        true
    }

    /// Its next term is stored: from here on it is a session without binding and generation.
    fn loaded(
        &mut self,
        now: BootTime,
        id: SessionId,
        stored: StoredSession,
        version: Version,
        view: &dyn ContextView,
    ) {
        let peer = stored.peer;
        // Configuration may have changed while the store was written.
        let lived = self.world.fate(&stored, now).and_then(|lived| {
            let policy = &self.world.settings.policy;
            reload(id, stored.term, lived, now, policy).ok_or(Reason::OwnerRestart)
        });
        let next = match lived {
            Ok(next) => next,
            Err(reason) => return self.end_stored(now, id, &stored, version, reason),
        };
        let world = &mut self.world;
        let mut session = Box::new(Session::new(next.core, peer, stored.suite, &world.settings.policy));
        session.takeover = Some(stored.root.takeover());
        session.stored = Some(version);
        let (state, reason) = (session.core.state(), session.core.reason());
        world.counters.transition(reason);
        world.counters.count(Counter::SessionsLoaded);
        session.timeline.push(now, None, state, reason, session.core.version());
        world.report(&mut session, now, reason, AuditKind::StateChange { previous: None, new: state });
        let term = session.core.version().term();
        world.report(&mut session, now, reason, AuditKind::OwnerAcquired { term });
        world.live += 1;
        self.sessions.insert(id, session);
        let is_beaten = self.place(peer, id);
        self.with(id, |_, _| ());
        // A birth of the peer goes on beside it and supersedes it with its first frame, as ever.
        self.run_due(id, now, Event::AdminTerminated.priority(), view);
        if is_beaten {
            // Loaded all the same: its client is told why it ended, and not that it never was.
            self.happen(id, Event::Superseded, now, view);
        }
    }

    /// Puts a session past its birth where it belongs among its peer's. `true`: nobody was heard over it yet, but over
    /// another, so it has to end.
    pub(super) fn place(&mut self, key: PublicKey, id: SessionId) -> bool {
        let Some(peer) = self.world.peers.get_mut(&key) else { return false };
        let Some(other) = peer.live else {
            peer.live = Some(id);
            return false;
        };
        self.world.rivals.entry(key).or_default().push(id);
        self.sessions.get(&other).is_some_and(|other| other.core.confirmed().is_some())
    }

    /// A stored session that is not loaded: it ends, and the audit says so.
    fn end_stored(
        &mut self,
        now: BootTime,
        id: SessionId,
        stored: &StoredSession,
        version: Version,
        reason: Reason,
    ) {
        let lived = self.world.lived(stored, now).unwrap_or_default();
        let session = Some((id, StateVersion::first(stored.term).next_term()));
        let total_lifetime_ms = u64::try_from(lived.as_millis()).unwrap_or(u64::MAX);
        let change = AuditKind::StateChange { previous: None, new: State::Terminated };
        let end = AuditKind::Termination { total_lifetime_ms, total_switches: 0, note: None };
        for kind in [change, end] {
            self.world.lines.push_back(AuditEvent { at: now, session, reason: Some(reason), kind }.into());
        }
        self.world.counters.transition(reason);
        self.forget_stored(id, version);
    }
}

impl World {
    /// A session of the peer was heard: the others that may be its client's give way to it.
    pub(super) fn beaten_by(&mut self, key: &PublicKey, id: SessionId) -> Vec<SessionId> {
        let rivals = self.rivals.remove(key).unwrap_or_default();
        let live = self.peers.get_mut(key).and_then(|peer| peer.live.replace(id));
        live.into_iter().chain(rivals).filter(|other| *other != id).collect()
    }

    /// A session that this node owned up to `term` is somebody else's: the end of its record here.
    fn report_moved(&mut self, now: BootTime, id: SessionId, term: u32) {
        let session = Some((id, StateVersion::first(term)));
        let (reason, kind) = (Some(Reason::OwnerTakeover), AuditKind::OwnerTransferred { term });
        self.lines.push_back(AuditEvent { at: now, session, reason, kind }.into());
    }

    /// Whether a stored session may be loaded: how long it has lived, or why it ends.
    fn fate(&self, stored: &StoredSession, now: BootTime) -> Result<Duration, Reason> {
        if !self.is_allowed(&stored.peer) {
            return Err(Reason::KeyRevoked);
        }
        let configured = self.peers.get(&stored.peer).map(|peer| &peer.settings.addresses);
        if configured != Some(&stored.addresses) {
            return Err(Reason::AdminTerminate);
        }
        let lived = self.lived(stored, now).ok_or(Reason::TtlSessionExpired)?;
        if lived >= self.settings.policy.session_ttl {
            return Err(Reason::TtlSessionExpired);
        }
        if stored.term >= StateVersion::MAX_TERM { Err(Reason::OwnerRestart) } else { Ok(lived) }
    }

    /// How long a stored session has lived, by the wall clock; `None` if that stands before its birth.
    fn lived(&self, stored: &StoredSession, now: BootTime) -> Option<Duration> {
        let unix_ms = self.store.as_ref()?.unix_ms(now);
        unix_ms.checked_sub(stored.born_unix_ms).map(Duration::from_millis)
    }

    /// How long a client has to wait that asks for a session which is not here but may be stored; `None`: there is none.
    pub(super) fn may_be_stored(&self, id: SessionId, peer: &PublicKey, now: BootTime) -> Option<Duration> {
        let loads = &self.store.as_ref()?.loads;
        let is_loading = loads.sessions.get(&id).is_some_and(|loading| loading.stored.peer == *peer);
        let wait = loads.again_at.map_or(Duration::ZERO, |at| at.since(now));
        (is_loading || loads.unreadable || loads.newer.contains(&id)).then_some(wait)
    }

    /// Whether every session that there may be is known here.
    pub(super) fn memory_is_whole(&self) -> bool {
        !self.store.as_ref().is_some_and(|store| store.loads.is_incomplete())
    }
}
