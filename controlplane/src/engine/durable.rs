//! Sessions in the durable store: a birth waits until it is stored, an end removes its record, and a node whose memory is
//! gone loads what is there ([`super::loading`]). Nothing else is ever stored.

use super::Engine;
use super::api::ContextView;
use super::counters::Counter;
use super::loading::Loads;
use super::session::{Session, Stage};
use super::world::World;
use crate::store::writer::{Outcome, Request};
use crate::store::{Change, Expected, StoreError, StoredSession, Version, Versioned};
use jvpn_abi::BootTime;
use jvpn_crypto::schedule::Root;
use jvpn_session::Event;
use jvpn_session::messages::SessionId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A store that does not answer within this time makes the birth fail.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failure births are refused for so long; then the next one tries again.
pub(super) const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What is asked of the store.
#[derive(Debug, Default)]
pub(super) struct Store {
    requests: VecDeque<Request>,
    tickets: u64,
    /// Tickets of births that are on their way.
    births: BTreeSet<u64>,
    /// Births are refused until then.
    refused_until: BootTime,
    /// Unix time less `CLOCK_BOOTTIME`, ms.
    unix_offset_ms: i64,
    /// Stored sessions on their way into memory.
    pub(super) loads: Loads,
    /// Removals that are on their way, by ticket.
    removals: BTreeMap<u64, (SessionId, Version)>,
    /// Removals that the store did not take: a record that stays would bring its session back.
    again: Vec<(SessionId, Version)>,
    /// When they are asked for again.
    again_at: Option<BootTime>,
}

impl Store {
    /// Unix time in ms.
    pub(super) fn unix_ms(&self, now: BootTime) -> u64 {
        now.as_millis().saturating_add_signed(self.unix_offset_ms)
    }

    /// When something is to be asked for again.
    pub(super) fn again_at(&self) -> Option<BootTime> {
        self.loads.again_at().into_iter().chain(self.again_at).min()
    }

    fn remove(&mut self, id: SessionId, expected: Version) {
        let ticket = self.ask(Change::Delete { id, expected });
        self.removals.insert(ticket, (id, expected));
    }

    /// What became of a removal; other requests are none of its business.
    fn removal_outcome(&mut self, now: BootTime, ticket: u64, result: &Result<Version, StoreError>) {
        let Some(removal) = self.removals.remove(&ticket) else { return };
        // Gone, or changed by somebody else, or not readable ever: asking again helps in the other case only.
        if let Err(StoreError::Unavailable { .. }) = result {
            self.again.push(removal);
            self.again_at.get_or_insert(now.after(STORE_PAUSE));
        }
    }

    pub(super) fn ask(&mut self, change: Change) -> u64 {
        self.tickets += 1;
        self.requests.push_back(Request { ticket: self.tickets, change });
        self.tickets
    }
}

impl World {
    /// How long births have to wait because the store cannot be written, ms; `None` if they may come.
    pub(super) fn store_pause_ms(&self, now: BootTime) -> Option<u32> {
        let until = self.store.as_ref()?.refused_until;
        (now < until).then(|| u32::try_from(until.since(now).as_millis()).unwrap_or(u32::MAX).max(1))
    }

    /// Asks that a session in BIRTH be stored. `None` if there is no store: then nothing has to be waited for.
    pub(super) fn store_birth(&mut self, session: &Session, root: &Root, timestamp_ns: u64) -> Option<u64> {
        let addresses = self.peers.get(&session.peer)?.settings.addresses.clone();
        let born_unix_ms = self.store.as_ref()?.unix_ms(session.core.born_at());
        let stored = StoredSession {
            peer: session.peer,
            root: root.clone(),
            term: session.core.version().term(),
            suite: session.suite,
            addresses,
            handshake_timestamp_ns: timestamp_ns,
            born_unix_ms,
        };
        let (id, expected) = (session.id(), Expected::Absent);
        let store = self.store.as_mut()?;
        let ticket = store.ask(Change::Put { id, expected, session: Box::new(stored) });
        store.births.insert(ticket);
        Some(ticket)
    }

    /// A session that ended is not stored any more.
    pub(super) fn unstore(&mut self, session: &mut Session) {
        if let (Some(version), Some(store)) = (session.stored.take(), &mut self.store) {
            store.remove(session.core.id(), version);
        }
    }
}

impl Engine {
    /// From now on a birth waits until it is stored. `unix_offset_ms` is Unix time less `CLOCK_BOOTTIME`: how long a
    /// session has lived is counted by it over restarts.
    pub fn keep_store(&mut self, unix_offset_ms: i64) {
        self.world.store = Some(Store { unix_offset_ms, ..Store::default() });
    }

    /// The next request to the store.
    pub fn poll_store(&mut self) -> Option<Request> {
        self.world.store.as_mut()?.requests.pop_front()
    }

    /// The store has a record of this session; `false` if there is no such session (any more).
    pub fn note_stored(&mut self, id: SessionId, version: Version) -> bool {
        let is_live = |session: &&mut Box<Session>| session.core.state().is_live();
        let Some(session) = self.sessions.get_mut(&id).filter(is_live) else { return false };
        session.stored = Some(version);
        true
    }

    /// The same, with the record that was read.
    pub fn match_stored(&mut self, id: SessionId, record: &Versioned) -> bool {
        let is_here = self.note_stored(id, record.version);
        if is_here && let Some(session) = self.sessions.get_mut(&id) {
            session.takeover = Some(record.session.root.takeover());
        }
        is_here
    }

    /// A record that belongs to no session is removed.
    pub fn forget_stored(&mut self, id: SessionId, version: Version) {
        if let Some(store) = &mut self.world.store {
            store.remove(id, version);
        }
    }

    /// Removals that the store did not take are asked for again.
    pub(super) fn remove_again(&mut self, now: BootTime) {
        let Some(store) = &mut self.world.store else { return };
        if store.again_at.is_some_and(|at| now >= at) {
            store.again_at = None;
            for (id, version) in std::mem::take(&mut store.again) {
                store.remove(id, version);
            }
        }
    }

    /// What became of a request.
    pub fn handle_store_outcome(&mut self, now: BootTime, outcome: Outcome, view: &dyn ContextView) {
        let Outcome { ticket, id, result } = outcome;
        if let Some(store) = &mut self.world.store {
            store.removal_outcome(now, ticket, &result);
        }
        if self.load_outcome(now, ticket, id, &result, view) && result.is_ok() {
            return;
        }
        match result {
            Ok(version) => self.stored(now, ticket, id, version, view),
            Err(error) => {
                self.world.counters.count(Counter::StoreFailed);
                if let Some(store) = &mut self.world.store {
                    store.births.remove(&ticket);
                    // A record that somebody else changed says nothing against the store.
                    if !matches!(error, StoreError::Conflict { .. }) {
                        store.refused_until = now.after(STORE_PAUSE);
                    }
                }
                self.with(id, |world, session| {
                    if waits_for(session, ticket) {
                        let epoch = session.core.epoch();
                        world.step(session, Event::InstallFailed { epoch }, now, view);
                    }
                });
            }
        }
    }

    fn stored(
        &mut self,
        now: BootTime,
        ticket: u64,
        id: SessionId,
        version: Version,
        view: &dyn ContextView,
    ) {
        self.run_due(id, now, (Event::InstallFailed { epoch: 0 }).priority(), view);
        let is_birth = self.world.store.as_mut().is_some_and(|store| store.births.remove(&ticket));
        if is_birth && !self.note_stored(id, version) {
            // It ended while it was being stored.
            self.forget_stored(id, version);
        }
        self.with(id, |world, session| {
            if waits_for(session, ticket) {
                world.install(session, now);
            }
        });
    }
}

fn waits_for(session: &Session, ticket: u64) -> bool {
    session.attempt.as_ref().is_some_and(|attempt| attempt.stage == Stage::Storing { ticket })
}
