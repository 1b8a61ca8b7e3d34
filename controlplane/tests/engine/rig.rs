//! A gateway in a box: the engine, a fake data plane, virtual time, seeded randomness, real cryptography.

use crate::client::Client;
use jvpn_abi::tables::{BindingWord, InstallEntry, InstallOp};
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_controlplane::audit::{AuditKind, Encoder, Line};
use jvpn_controlplane::engine::{
    ContextView, Counter, Durable, Engine, PeerSettings, SessionStatus, Settings, TableCommand, TableEvent,
    Traffic, Transmit, TunnelSettings,
};
use jvpn_controlplane::node_state::StateError;
use jvpn_crypto::keys::{NodeKey, PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::rng::{Random, RandomError};
use jvpn_session::Policy;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) struct Seeded(ChaCha20Rng);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }
}

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        self.0.fill_bytes(out);
        Ok(())
    }
}

/// Durable state in memory, which can be told to fail.
pub(crate) struct MemoryState {
    key: NodeKey,
    timestamps: BTreeMap<PublicKey, u64>,
    broken: Arc<AtomicBool>,
}

impl Durable for MemoryState {
    fn node_key(&self) -> &NodeKey {
        &self.key
    }
    fn serial_floor(&self) -> u32 {
        0
    }
    fn reserve_serials(&mut self, serial: u32) -> Result<u32, StateError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(StateError::SerialsUsedUp);
        }
        Ok(serial + 64)
    }
    fn handshake_timestamp(&self, peer: &PublicKey) -> Option<u64> {
        self.timestamps.get(peer).copied()
    }
    fn record_handshake(&mut self, peer: &PublicKey, timestamp_ns: u64) -> Result<(), StateError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(StateError::SerialsUsedUp);
        }
        self.timestamps.insert(*peer, timestamp_ns);
        Ok(())
    }
}

/// CONTEXT of one slot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlotContext {
    pub(crate) heard: Option<BootTime>,
    pub(crate) interval_ms: Option<u32>,
    pub(crate) confirmed: Option<BindingWord>,
    pub(crate) highest: Option<u64>,
    pub(crate) traffic: Traffic,
}

#[derive(Debug, Default)]
pub(crate) struct Contexts(pub(crate) BTreeMap<u32, SlotContext>);

impl ContextView for Contexts {
    fn last_heard(&self, slot_index: u32) -> Option<BootTime> {
        self.0.get(&slot_index)?.heard
    }
    fn peer_interval_ms(&self, slot_index: u32) -> Option<u32> {
        self.0.get(&slot_index)?.interval_ms
    }
    fn confirmed(&self, slot_index: u32, word: BindingWord) -> bool {
        self.0.get(&slot_index).is_some_and(|context| context.confirmed == Some(word))
    }
    fn highest_counter(&self, slot_index: u32, _key_number: u32) -> Option<u64> {
        self.0.get(&slot_index)?.highest
    }
    fn traffic(&self, slot_index: u32) -> Traffic {
        self.0.get(&slot_index).map(|context| context.traffic).unwrap_or_default()
    }
}

/// How the fake data plane answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    AtOnce,
    /// Commands wait until the test lets them go.
    Held,
    Refused,
    Never,
}

/// What is bound where, and what the tables were told, in order.
pub(crate) struct Tables {
    pub(crate) quiesce: Answers,
    pub(crate) install: Answers,
    pub(crate) held: VecDeque<TableEvent>,
    pub(crate) contexts: Contexts,
    pub(crate) bound: BTreeMap<u32, (BindingWord, Endpoint, Endpoint)>,
    pub(crate) routes: BTreeMap<String, SlotId>,
    pub(crate) entries: BTreeMap<u32, InstallEntry>,
    pub(crate) log: Vec<String>,
    last_unbind: u64,
    last_install: u64,
    seen: BTreeSet<SlotId>,
}

impl Tables {
    fn new() -> Self {
        Self {
            quiesce: Answers::AtOnce,
            install: Answers::AtOnce,
            held: VecDeque::new(),
            contexts: Contexts::default(),
            bound: BTreeMap::new(),
            routes: BTreeMap::new(),
            entries: BTreeMap::new(),
            log: Vec::new(),
            last_unbind: 0,
            last_install: 0,
            seen: BTreeSet::new(),
        }
    }

    /// Carries a command out and judges it: what must never be asked of the tables fails here.
    fn apply(&mut self, command: TableCommand) -> Option<TableEvent> {
        self.log.push(format!("{command:?}"));
        match command {
            TableCommand::Unbind { slot, seq } => {
                assert!(seq > self.last_unbind, "unbind sequences rise");
                self.last_unbind = seq;
                self.bound.remove(&slot.index());
                self.answer(self.quiesce, TableEvent::Quiesced { seq })
            }
            TableCommand::Install { seq, entry } => {
                self.count_entry(seq);
                assert_eq!(entry.seq, seq);
                let slot = SlotId(entry.slot);
                let fresh = self.seen.insert(slot);
                assert_eq!(
                    fresh,
                    entry.op == InstallOp::Install as u32,
                    "I11: slot {slot:?} was used before"
                );
                assert_ne!(entry.open_key, entry.seal_key);
                if fresh {
                    self.contexts.0.insert(slot.index(), SlotContext::default());
                }
                self.entries.insert(slot.index(), *entry);
                match self.install {
                    Answers::Refused => Some(TableEvent::InstallRefused { seq }),
                    Answers::AtOnce | Answers::Held | Answers::Never => {
                        self.answer(self.install, TableEvent::Installed { seq })
                    }
                }
            }
            TableCommand::Bind { slot, word, remote, local } => {
                let entry = &self.entries[&slot.index()];
                assert_eq!((entry.slot, entry.word), (slot.0, word.0), "bound what was not installed");
                let addresses = entry.prefixes;
                let twice =
                    self.bound.keys().filter(|index| self.entries[index].prefixes == addresses).count();
                assert!(twice <= 1, "a peer has at most its session and one in birth");
                self.bound.insert(slot.index(), (word, remote, local));
                None
            }
            TableCommand::Remove { seq, slot, word } => {
                self.count_entry(seq);
                let entry = &self.entries[&slot.index()];
                assert_eq!((entry.slot, entry.word), (slot.0, word.0));
                assert!(!self.bound.contains_key(&slot.index()), "removed while bound");
                Some(TableEvent::Installed { seq })
            }
            TableCommand::RouteAdd { prefix, slot } => {
                self.routes.insert(prefix.to_string(), slot);
                None
            }
            TableCommand::RouteRemove { prefix, slot } => {
                if self.routes.get(&prefix.to_string()) == Some(&slot) {
                    self.routes.remove(&prefix.to_string());
                }
                None
            }
        }
    }

    fn count_entry(&mut self, seq: u64) {
        assert!(seq > self.last_install, "install sequences rise");
        self.last_install = seq;
    }

    fn answer(&mut self, how: Answers, event: TableEvent) -> Option<TableEvent> {
        match how {
            Answers::AtOnce => Some(event),
            Answers::Held => {
                self.held.push_back(event);
                None
            }
            Answers::Refused | Answers::Never => None,
        }
    }
}

pub(crate) fn endpoint(last: u8, port: u16) -> Endpoint {
    Endpoint::v4([203, 0, 113, last], port)
}

pub(crate) const GATEWAY: Endpoint = Endpoint::v4([198, 51, 100, 1], 4500);
pub(crate) const PATH_A: fn() -> Endpoint = || endpoint(10, 40_000);
pub(crate) const PATH_B: fn() -> Endpoint = || endpoint(20, 40_001);
pub(crate) const PATH_C: fn() -> Endpoint = || endpoint(30, 40_002);

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) tables: Tables,
    pub(crate) now: BootTime,
    pub(crate) rng: Seeded,
    pub(crate) sent: VecDeque<Transmit>,
    pub(crate) lines: Vec<Line>,
    /// Lines that [`Self::events`] has shown.
    shown: usize,
    pub(crate) gateway: PublicKey,
    pub(crate) state_broken: Arc<AtomicBool>,
}

pub(crate) const PEERS: u8 = 3;

impl Rig {
    pub(crate) fn new(policy: Policy) -> Self {
        Self::with_suites(policy, vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305])
    }

    pub(crate) fn with_suites(policy: Policy, suites: Vec<Suite>) -> Self {
        let mut rig = Self::asleep(policy, suites);
        rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept: false });
        rig
    }

    /// Without a data plane yet.
    pub(crate) fn asleep(policy: Policy, suites: Vec<Suite>) -> Self {
        let mut rng = Seeded::new(1);
        let secret = StaticSecret::generate(&mut rng).unwrap();
        let gateway = secret.public();
        let peers = (0..PEERS).map(peer_settings).collect();
        let settings = Settings {
            policy,
            policy_name: "edge".into(),
            suites,
            tunnel: TunnelSettings {
                gateway_address: "10.77.0.1".parse().unwrap(),
                mtu: 1_280,
                routes: vec!["192.168.50.0/24".parse().unwrap()],
                dns: vec![],
            },
            peers,
        };
        let state_broken = Arc::new(AtomicBool::new(false));
        let state = MemoryState {
            key: NodeKey::from_bytes([9; 32]),
            timestamps: BTreeMap::new(),
            broken: Arc::clone(&state_broken),
        };
        let now = BootTime::from_millis(5_000_000);
        let engine = Engine::new(settings, secret, Box::new(state), Box::new(Seeded::new(2)), now);
        Self {
            engine,
            tables: Tables::new(),
            now,
            rng,
            sent: VecDeque::new(),
            lines: Vec::new(),
            shown: 0,
            gateway,
            state_broken,
        }
    }

    /// Carries out what the engine wants until it wants nothing more.
    pub(crate) fn pump(&mut self) {
        loop {
            let mut events = Vec::new();
            while let Some(command) = self.engine.poll_command() {
                events.extend(self.tables.apply(command));
            }
            while let Some(transmit) = self.engine.poll_transmit() {
                self.sent.push_back(transmit);
            }
            while let Some(line) = self.engine.poll_audit() {
                self.lines.push(line);
            }
            if events.is_empty() {
                return;
            }
            for event in events {
                self.engine.handle_table_event(self.now, event, &self.tables.contexts);
            }
        }
    }

    pub(crate) fn event(&mut self, event: TableEvent) {
        self.engine.handle_table_event(self.now, event, &self.tables.contexts);
        self.pump();
    }

    /// Lets everything go that the fake data plane held back.
    pub(crate) fn let_go(&mut self) {
        while let Some(event) = self.tables.held.pop_front() {
            self.event(event);
        }
    }

    pub(crate) fn datagram(&mut self, remote: Endpoint, datagram: &[u8]) {
        self.engine.handle_datagram(self.now, remote, GATEWAY, datagram, &self.tables.contexts);
        self.pump();
    }

    /// A datagram and the one answer to it.
    pub(crate) fn ask(&mut self, remote: Endpoint, datagram: &[u8]) -> Vec<u8> {
        self.sent.clear();
        self.datagram(remote, datagram);
        assert_eq!(self.sent.len(), 1, "one answer is expected: {:?}", self.sent);
        let answer = self.sent.pop_front().unwrap();
        assert_eq!((answer.remote, answer.local), (remote, GATEWAY));
        assert!(answer.payload.len() <= datagram.len(), "an answer larger than its question");
        answer.payload
    }

    pub(crate) fn ask_in_vain(&mut self, remote: Endpoint, datagram: &[u8]) {
        self.sent.clear();
        self.datagram(remote, datagram);
        assert_eq!(self.sent, [], "silence is expected");
    }

    /// Time passes; every timer fires at its own moment.
    pub(crate) fn wait(&mut self, span: Duration) {
        let end = self.now.after(span);
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now, &self.tables.contexts);
            self.pump();
            assert!(self.engine.poll_timeout().is_none_or(|next| next > at), "a timer does not pass");
        }
        self.now = end;
    }

    /// A worker opened a frame of a slot: it is heard, and confirmed if it is the first.
    pub(crate) fn frame(&mut self, slot: SlotId, remote: Endpoint) {
        let Some((word, bound_remote, _)) = self.tables.bound.get(&slot.index()).copied() else { return };
        if word.serial() != slot.serial() || bound_remote != remote {
            return;
        }
        let context = self.tables.contexts.0.get_mut(&slot.index()).unwrap();
        context.heard = Some(self.now);
        context.interval_ms = Some(200);
        context.highest = Some(context.highest.map_or(0, |highest| highest + 1));
        if context.confirmed.is_none() {
            context.confirmed = Some(word);
            self.event(TableEvent::Confirmed { slot_index: slot.index(), word });
        }
    }

    /// A client that is ATTACHED over path A.
    pub(crate) fn attached(&mut self, peer: u8) -> Client {
        let mut client = Client::new(peer, self.gateway);
        client.handshake(self, PATH_A());
        self.frame(client.slot(), PATH_A());
        assert_eq!(self.status(&client).state, "ATTACHED");
        client
    }

    pub(crate) fn status(&self, client: &Client) -> SessionStatus {
        self.find(client).expect("the session is remembered")
    }

    pub(crate) fn find(&self, client: &Client) -> Option<SessionStatus> {
        let status = self.engine.status(self.now, &self.tables.contexts);
        status.sessions.into_iter().find(|session| session.id == client.session().to_string())
    }

    /// State and reason of a client's session.
    pub(crate) fn state(&self, client: &Client) -> (&'static str, Reason) {
        let status = self.status(client);
        (status.state, *Reason::ALL.iter().find(|reason| reason.name() == status.reason).unwrap())
    }

    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.engine.counters().single(counter)
    }

    pub(crate) fn rejected(&self, reason: Reason) -> u64 {
        self.engine.counters().reattach_rejections(reason)
    }

    /// The bound slots of a peer.
    pub(crate) fn bound_slots(&self) -> Vec<u32> {
        self.tables.bound.keys().copied().collect()
    }

    /// R1.3, R1.5, R6.1: one STATE_CHANGE per transition, versions contiguous from 0, states chained.
    pub(crate) fn check_audit(&self) {
        let mut last: BTreeMap<String, (u64, String)> = BTreeMap::new();
        let encoder = Encoder { node_id: "gw1".into(), unix_offset_ms: 0 };
        for line in self.lines.iter().filter(|line| matches!(line.event.kind, AuditKind::StateChange { .. }))
        {
            let json: serde_json::Value = serde_json::from_str(&encoder.encode(line)).unwrap();
            let text = |field: &str| json[field].as_str().map(str::to_owned);
            let id = text("session_id").unwrap();
            let version = json["state_version"].as_u64().unwrap();
            let entered = (version, text("new_state").unwrap());
            assert!(text("reason_code").is_some());
            match last.insert(id, entered) {
                None => assert_eq!((version, text("previous_state")), (0, None)),
                Some((before, state)) => {
                    assert_eq!(version, before + 1, "I3: {json}");
                    assert_eq!(text("previous_state"), Some(state));
                }
            }
        }
        let transitions: u64 = {
            let counters = self.engine.counters().by_name();
            counters.iter().filter(|(name, _)| name.starts_with("transition.")).map(|(_, count)| count).sum()
        };
        let changes =
            self.lines.iter().filter(|l| matches!(l.event.kind, AuditKind::StateChange { .. })).count();
        assert_eq!(transitions, changes as u64, "I8: every transition has one STATE_CHANGE");
    }

    /// Names of the audit events since the last call.
    pub(crate) fn events(&mut self) -> Vec<&'static str> {
        let shown = std::mem::replace(&mut self.shown, self.lines.len());
        self.lines.iter().skip(shown).map(|line| line.event.kind.name()).collect()
    }
}

pub(crate) fn client_secret(peer: u8) -> StaticSecret {
    StaticSecret::generate(&mut Seeded::new(100 + u64::from(peer))).unwrap()
}

pub(crate) fn peer_settings(peer: u8) -> PeerSettings {
    let address = format!("10.77.0.{}/32", peer + 2).parse().unwrap();
    PeerSettings {
        name: format!("peer{peer}"),
        public_key: client_secret(peer).public(),
        preshared_key: PresharedKey::default(),
        addresses: vec![address],
        prefixes: vec![address, format!("172.16.{peer}.0/24").parse().unwrap()],
    }
}
