//! What all sessions share: peers, keys of the node, slots, limits, queues towards the outside, the timer
//! queue.

use super::Arrival;
use super::adoption::Adopted;
use super::api::{Durable, PeerSettings, Settings, TableCommand, Transmit};
use super::counters::Counters;
use super::durable::Store;
use super::handles::Handles;
use super::session::Session;
use super::slots::Slots;
use super::snapshot::Places;
use super::wheel::{Timer, Wheel};
use crate::abuse::{Abuse, Summary};
use crate::audit::{AuditEvent, AuditKind, Floods, Line};
use crate::limits::{Limit, NodeLimits};
use jvpn_abi::wire::SlotId;
use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_crypto::cookie::CookieJar;
use jvpn_crypto::keys::{PublicKey, StaticSecret};
use jvpn_crypto::rng::Random;
use jvpn_session::messages::{Handle, Prefix, SessionId};
use jvpn_session::switches::SwitchLog;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Whether a data plane is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataPlane {
    /// None has come up yet: nothing of an earlier process is known to be gone.
    NeverSeen,
    /// It forwards; what an earlier control plane left in it is being adopted.
    Adopting,
    /// It forwards.
    Up,
    /// Its exit was seen.
    Lost,
}

/// Whether a peer may have sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Allowed,
    /// Taken from the allow-list by an operator, until the next start.
    Revoked,
}

/// A peer of the allow-list and its sessions.
pub(super) struct Peer {
    pub(super) settings: PeerSettings,
    pub(super) standing: Standing,
    /// The session past its birth.
    pub(super) live: Option<SessionId>,
    /// The session in BIRTH.
    pub(super) birth: Option<SessionId>,
    /// Its handshakes: each costs a durable write.
    pub(super) handshakes: Limit,
    /// Its takeover requests that are no replays.
    pub(super) takeovers: Limit,
    /// The timestamp of the last one.
    pub(super) takeover_mark: u64,
    /// When bindings of its sessions were given their advance: a new session begins no new minute.
    pub(super) advances: SwitchLog,
}

/// Handshakes of one peer: it reconnects after a lost session, and a few times more when answers are lost.
const PEER_HANDSHAKES_PER_SECOND: u32 = 2;
const PEER_HANDSHAKES_BURST: u32 = 10;

/// Takeover requests of one peer: as many as a session's reattaches.
const PEER_TAKEOVERS_PER_SECOND: u32 = 5;

impl Peer {
    /// A peer without sessions.
    pub(super) fn new(settings: PeerSettings) -> Self {
        let handshakes = Limit::new(PEER_HANDSHAKES_PER_SECOND, PEER_HANDSHAKES_BURST);
        let takeovers = Limit::new(PEER_TAKEOVERS_PER_SECOND, PEER_TAKEOVERS_PER_SECOND);
        let standing = Standing::Allowed;
        let advances = SwitchLog::default();
        Self {
            settings,
            standing,
            live: None,
            birth: None,
            handshakes,
            takeovers,
            takeover_mark: 0,
            advances,
        }
    }
}

/// A slot that was unbound and waits for the workers.
pub(super) struct Retired {
    pub(super) slot: SlotId,
    pub(super) word: jvpn_abi::tables::BindingWord,
    pub(super) owner: SessionId,
}

pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) private_key: StaticSecret,
    pub(super) public_key: PublicKey,
    pub(super) durable: Box<dyn Durable + Send>,
    pub(super) rng: Box<dyn Random + Send>,
    pub(super) peers: BTreeMap<PublicKey, Peer>,
    /// Loaded sessions of a peer beside its live one: which of them is its client's nobody here knows. Most peers have none.
    pub(super) rivals: BTreeMap<PublicKey, Vec<SessionId>>,
    /// Handles of confirmed, pending and last erased generations.
    pub(super) handles: Handles,
    /// Slots of bindings and of former bindings.
    pub(super) by_slot: BTreeMap<SlotId, SessionId>,
    pub(super) slots: Slots,
    pub(super) data_plane: DataPlane,
    pub(super) unbind_seq: u64,
    pub(super) install_seq: u64,
    /// Unbinds that the workers have not passed, by sequence.
    pub(super) retiring: BTreeMap<u64, Retired>,
    /// Install entries that were not answered, by sequence.
    pub(super) installing: BTreeMap<u64, SessionId>,
    pub(super) limits: NodeLimits,
    pub(super) cookies: CookieJar,
    /// Refusals by source; `None` if nobody wants to know.
    pub(super) abuse: Option<Abuse>,
    /// The summary that is due.
    pub(super) abuse_summary: Option<Summary>,
    pub(super) counters: Counters,
    pub(super) floods: Floods,
    pub(super) live: usize,
    /// Terminated sessions that are still remembered, by when they ended.
    pub(super) remembered: BTreeSet<(BootTime, SessionId)>,
    pub(super) timers: Wheel<SessionId>,
    pub(super) commands: VecDeque<TableCommand>,
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) lines: VecDeque<Line>,
    /// What the operator says who is ending sessions right now.
    pub(super) note: Option<Box<str>>,
    /// Records of JOURNAL; `None` while there is no JOURNAL.
    pub(super) journal: Option<Places>,
    /// The durable store; `None` if sessions are not stored.
    pub(super) store: Option<Store>,
    /// What adoption found and has yet to act on.
    pub(super) adopted: Vec<Adopted>,
}

impl World {
    pub(super) fn new(
        mut settings: Settings,
        private_key: StaticSecret,
        durable: Box<dyn Durable + Send>,
        rng: Box<dyn Random + Send>,
        now: BootTime,
    ) -> Self {
        let peers = std::mem::take(&mut settings.peers)
            .into_iter()
            .map(|settings| (settings.public_key, Peer::new(settings)));
        Self {
            public_key: private_key.public(),
            private_key,
            peers: peers.collect(),
            rivals: BTreeMap::new(),
            slots: Slots::new(durable.serial_floor()),
            durable,
            rng,
            handles: Handles::default(),
            by_slot: BTreeMap::new(),
            data_plane: DataPlane::NeverSeen,
            // CLOCK_BOOTTIME in ns grows faster than any process counts, so a successor starts above its
            // predecessor.
            unbind_seq: now.0,
            install_seq: now.0,
            retiring: BTreeMap::new(),
            installing: BTreeMap::new(),
            limits: NodeLimits::new(&settings.policy),
            cookies: CookieJar::default(),
            abuse: None,
            abuse_summary: None,
            counters: Counters::default(),
            floods: Floods::default(),
            live: 0,
            remembered: BTreeSet::new(),
            timers: Wheel::new(),
            commands: VecDeque::new(),
            transmits: VecDeque::new(),
            lines: VecDeque::new(),
            note: None,
            journal: None,
            store: None,
            adopted: Vec::new(),
            settings,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.data_plane == DataPlane::Up
    }

    /// `N` random octets, or `None`, counted: whoever asked must then not go on.
    pub(super) fn random<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut octets = [0; N];
        match self.rng.fill(&mut octets) {
            Ok(()) => Some(octets),
            Err(_) => {
                self.counters.count(super::Counter::CryptoFailed);
                None
            }
        }
    }

    pub(super) fn send(&mut self, remote: Endpoint, local: Endpoint, payload: Vec<u8>) {
        self.transmits.push_back(Transmit { remote, local, payload });
    }

    /// An audit event of a session: floods are summarised per session.
    pub(super) fn report(&mut self, session: &mut Session, now: BootTime, reason: Reason, kind: AuditKind) {
        let session_ref = Some((session.core.id(), session.core.version()));
        let event = AuditEvent { at: now, session: session_ref, reason: Some(reason), kind };
        self.lines.extend(session.floods.pass(event, now));
    }

    /// An audit event of the node.
    pub(super) fn report_node(&mut self, now: BootTime, reason: Option<Reason>, kind: AuditKind) {
        let event = AuditEvent { at: now, session: None, reason, kind };
        self.lines.extend(self.floods.pass(event, now));
    }

    /// Moves a session's entry in the timer queue to its next deadline.
    pub(super) fn schedule(&mut self, session: &mut Session) {
        let next = self.deadline_of(session);
        if session.scheduled.map(Timer::at) == next {
            return;
        }
        if let Some(timer) = session.scheduled {
            self.timers.remove(timer, session.id());
        }
        session.scheduled = next.map(|at| self.timers.insert(at, session.id()));
    }

    pub(super) fn next_timeout(&self) -> Option<BootTime> {
        let first = self.timers.first().map(|(timer, _)| timer.at());
        let abuse = self.abuse.as_ref().and_then(Abuse::deadline);
        let loads = self.store.as_ref().and_then(Store::again_at);
        first.into_iter().chain(self.floods.deadline()).chain(abuse).chain(loads).min()
    }

    /// Something was refused to whoever sent it.
    pub(super) fn note_abuse(&mut self, at: Arrival, reason: Reason) {
        if let Some(abuse) = &mut self.abuse {
            abuse.note(at.now, at.remote, at.address, reason);
        }
    }

    pub(super) fn sum_up_abuse(&mut self, now: BootTime) {
        if let Some(summary) = self.abuse.as_mut().and_then(|abuse| abuse.poll(now)) {
            self.abuse_summary = Some(summary);
        }
    }

    pub(super) fn peer_by_name(&self, name: &str) -> Option<PublicKey> {
        self.peers.values().find(|peer| peer.settings.name == name).map(|peer| peer.settings.public_key)
    }

    pub(super) fn peer_name(&self, key: &PublicKey) -> String {
        self.peers.get(key).map_or_else(|| key.to_string(), |peer| peer.settings.name.clone())
    }

    pub(super) fn sessions_of(&self, peer: &PublicKey) -> Vec<SessionId> {
        let own = self.peers.get(peer).into_iter().flat_map(|peer| peer.live.into_iter().chain(peer.birth));
        own.chain(self.rivals.get(peer).into_iter().flatten().copied()).collect()
    }

    /// Inner prefixes behind a peer.
    pub(super) fn prefixes_of(&self, peer: &PublicKey) -> Vec<Prefix> {
        self.peers.get(peer).map(|peer| peer.settings.prefixes.clone()).unwrap_or_default()
    }

    /// Takes a peer from the allow-list. Its prefixes stay known until its sessions have ended.
    pub(super) fn revoke(&mut self, peer: &PublicKey) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.standing = Standing::Revoked;
        }
    }

    pub(super) fn is_allowed(&self, peer: &PublicKey) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.standing == Standing::Allowed)
    }

    /// Forgets a handle of a session.
    pub(super) fn forget_handle(&mut self, handle: Handle) {
        self.handles.remove(&handle.0);
    }
}
