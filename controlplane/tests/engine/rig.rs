//! A gateway in a box: the engine, a fake data plane, virtual time, seeded randomness, real cryptography.

use crate::client::Client;
use crate::disk::{Disk, MemoryState};
use crate::randomness::Source;
use jvpn_abi::tables::{BindingWord, InstallEntry, InstallOp};
use jvpn_abi::wire::control::ControlHeader;
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_controlplane::audit::{AuditKind, Encoder, Line};
use jvpn_controlplane::engine::{
    ContextView, Counter, Engine, PeerSettings, Probed, SessionStatus, Settings, Snapshot, TableCommand,
    TableEvent, Traffic, Transmit, TunnelSettings,
};
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::rng::{Random, RandomError};
use jvpn_session::Policy;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
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

/// CONTEXT of one slot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlotContext {
    pub(crate) heard: Option<BootTime>,
    pub(crate) interval_ms: Option<u32>,
    pub(crate) confirmed: Option<BindingWord>,
    pub(crate) highest: Option<u64>,
    /// What the workers seal with, and the key that they hold beside it.
    pub(crate) send_key: u32,
    pub(crate) other_key: Option<u32>,
    pub(crate) sealed: u64,
    pub(crate) failed_opens: u64,
    pub(crate) traffic: Traffic,
    pub(crate) probed: Probed,
}

#[derive(Clone, Debug, Default)]
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
    fn highest_counter(&self, slot_index: u32, key_number: u32) -> Option<u64> {
        self.0.get(&slot_index).filter(|context| context.send_key == key_number)?.highest
    }
    fn sending_key(&self, slot_index: u32) -> Option<u32> {
        Some(self.0.get(&slot_index)?.send_key)
    }
    fn sealed(&self, slot_index: u32, key_number: u32) -> Option<u64> {
        let context = self.0.get(&slot_index)?;
        Some(if context.send_key == key_number { context.sealed } else { 0 })
    }
    fn failed_opens(&self, slot_index: u32) -> u64 {
        self.0.get(&slot_index).map_or(0, |context| context.failed_opens)
    }
    fn traffic(&self, slot_index: u32) -> Traffic {
        self.0.get(&slot_index).map(|context| context.traffic).unwrap_or_default()
    }
    fn probed(&self, slot_index: u32) -> Option<Probed> {
        self.0.get(&slot_index).map(|context| context.probed).filter(|probed| probed.probes != 0)
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
    /// The entries of rekeys.
    pub(crate) next_entries: BTreeMap<u32, InstallEntry>,
    pub(crate) log: Vec<String>,
    /// JOURNAL.
    pub(crate) journal: BTreeMap<u32, Box<Snapshot>>,
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
            next_entries: BTreeMap::new(),
            log: Vec::new(),
            journal: BTreeMap::new(),
            last_unbind: 0,
            last_install: 0,
            seen: BTreeSet::new(),
        }
    }

    /// The data plane has died and comes back, with nothing of what it held.
    pub(crate) fn restart(&mut self) {
        self.held.clear();
        self.contexts.0.clear();
        self.bound.clear();
        self.routes.clear();
        self.entries.clear();
        self.next_entries.clear();
    }

    /// Carries a command out and judges it: what must never be asked of the tables fails here.
    fn apply(&mut self, command: TableCommand) -> Option<TableEvent> {
        self.log.push(format!("{command:?}"));
        match command {
            TableCommand::Journal { index, snapshot } => {
                match snapshot {
                    Some(snapshot) => self.journal.insert(index, snapshot),
                    None => self.journal.remove(&index),
                };
                None
            }
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
                let op = InstallOp::from_number(entry.op).unwrap();
                let fresh = self.seen.insert(slot);
                assert_eq!(fresh, op == InstallOp::Install, "I11: slot {slot:?} was used before");
                if fresh {
                    self.contexts.0.insert(slot.index(), SlotContext::default());
                }
                self.install_keys(op, &entry);
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
                // An engine that was killed may not have come to install it.
                let entry = self.entries.get(&slot.index()).filter(|entry| entry.slot == slot.0);
                assert!(entry.is_none_or(|entry| entry.word == word.0));
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

/// Unix time less the rig's boot time.
pub(crate) const UNIX_OFFSET_MS: i64 = 1_700_000_000_000;

/// Records of JOURNAL.
pub(crate) const JOURNAL_CAPACITY: u32 = 16_384;

/// What outlives the engine.
struct Host {
    settings: Settings,
    secret: StaticSecret,
    disk: Arc<Mutex<Disk>>,
    starts: u64,
}

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    host: Host,
    /// Outputs that are still carried out before the process is killed; 0 = it is dead.
    pub(crate) fuse: Option<u32>,
    /// Slot, incarnation and counter of every CONTROL that left.
    controls: BTreeSet<(SlotId, u32, u64)>,
    pub(crate) tables: Tables,
    pub(crate) now: BootTime,
    pub(crate) rng: Seeded,
    pub(crate) sent: VecDeque<Transmit>,
    pub(crate) lines: Vec<Line>,
    /// Lines that [`Self::events`] has shown.
    shown: usize,
    pub(crate) gateway: PublicKey,
    pub(crate) state_broken: Arc<AtomicBool>,
    pub(crate) source: Source,
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
        Self::with_peers(policy, suites, (0..PEERS).map(peer_settings).collect())
    }

    /// Without a data plane, and with these peers.
    pub(crate) fn with_peers(policy: Policy, suites: Vec<Suite>, peers: Vec<PeerSettings>) -> Self {
        let mut rng = Seeded::new(1);
        let secret = StaticSecret::generate(&mut rng).unwrap();
        let gateway = secret.public();
        let settings = Settings {
            policy,
            policy_name: "edge".into(),
            suites,
            tunnel: TunnelSettings {
                gateway_addresses: vec!["10.77.0.1".parse().unwrap()],
                mtu: 1_280,
                routes: vec!["192.168.50.0/24".parse().unwrap()],
                dns: vec![],
            },
            peers,
        };
        let state_broken = Arc::new(AtomicBool::new(false));
        let disk = Arc::default();
        let state = MemoryState::open(&disk, &state_broken);
        let now = BootTime::from_millis(5_000_000);
        let host = Host { settings: settings.clone(), secret: secret.clone(), disk, starts: 1 };
        let source = Source::new(2);
        let mut engine = Engine::new(settings, secret, Box::new(state), Box::new(source.clone()), now);
        engine.keep_journal(JOURNAL_CAPACITY);
        Self {
            engine,
            host,
            fuse: None,
            controls: BTreeSet::new(),
            tables: Tables::new(),
            now,
            rng,
            sent: VecDeque::new(),
            lines: Vec::new(),
            shown: 0,
            gateway,
            state_broken,
            source,
        }
    }

    /// Carries out what the engine wants until it wants nothing more.
    pub(crate) fn pump(&mut self) {
        loop {
            let mut events = Vec::new();
            while let Some(command) = self.engine.poll_command() {
                if self.burns() {
                    events.extend(self.tables.apply(command));
                }
            }
            while let Some(transmit) = self.engine.poll_transmit() {
                if self.burns() {
                    self.note_control(&transmit.payload);
                    self.sent.push_back(transmit);
                }
            }
            while let Some(line) = self.engine.poll_audit() {
                if self.burns() {
                    self.lines.push(line);
                }
            }
            if events.is_empty() || self.is_dead() {
                return;
            }
            for event in events {
                self.engine.handle_table_event(self.now, event, &self.tables.contexts);
            }
        }
    }

    /// Whether one more output is carried out.
    fn burns(&mut self) -> bool {
        let Some(fuse) = &mut self.fuse else { return true };
        let lives = *fuse > 0;
        *fuse = fuse.saturating_sub(1);
        lives
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.fuse == Some(0)
    }

    /// An engine as a process that starts now makes it.
    pub(crate) fn successor(&mut self) -> Engine {
        self.host.starts += 1;
        let state = MemoryState::open(&self.host.disk, &self.state_broken);
        let rng = Box::new(Seeded::new(1_000 + self.host.starts));
        let (settings, secret) = (self.host.settings.clone(), self.host.secret.clone());
        Engine::new(settings, secret, Box::new(state), rng, self.now)
    }

    /// Both processes were killed: their successors have the disk and nothing else.
    pub(crate) fn forget(&mut self) {
        self.now = self.now.after(Duration::from_millis(1));
        self.fuse = None;
        self.engine = self.successor();
        self.tables.restart();
        self.tables.journal.clear();
        self.engine.keep_journal(JOURNAL_CAPACITY);
        self.event(TableEvent::DataPlaneUp { slots: 64, context_kept: false });
    }

    /// The process was killed: its successor goes on from what the tables, JOURNAL and the disk hold.
    pub(crate) fn restart(&mut self) {
        self.restart_until(None);
    }

    /// The same, but the successor may be killed too, after `fuse` outputs.
    pub(crate) fn restart_until(&mut self, fuse: Option<u32>) {
        self.restart_as(fuse, |_| ());
    }

    /// The same; `prepare` is called when the records were read and nothing was decided.
    pub(crate) fn restart_with(&mut self, prepare: impl FnOnce(&mut Engine)) {
        self.restart_as(None, prepare);
    }

    fn restart_as(&mut self, fuse: Option<u32>, prepare: impl FnOnce(&mut Engine)) {
        self.now = self.now.after(Duration::from_millis(1));
        self.fuse = fuse;
        self.engine = self.successor();
        let records: Vec<_> = self.tables.journal.iter().map(|(i, s)| (*i, s.clone())).collect();
        let bound = |index: u32| self.tables.bound.get(&index).map_or(BindingWord::UNBOUND, |bound| bound.0);
        let kept = self.engine.adopt(self.now, JOURNAL_CAPACITY, records, &[], &bound);
        prepare(&mut self.engine);
        self.tables.bound.retain(|index, (word, ..)| kept.words.get(index) == Some(word));
        let named: BTreeMap<String, SlotId> =
            kept.routes.iter().map(|(prefix, slot)| (prefix.to_string(), *slot)).collect();
        self.tables.routes.retain(|prefix, slot| named.get(prefix) == Some(slot));
        self.pump();
        self.event(TableEvent::Adopted { slots: 64 });
    }

    /// I11: no CONTROL key meets a counter twice.
    fn note_control(&mut self, datagram: &[u8]) {
        if let Some(header) = ControlHeader::parse(datagram) {
            let used = (header.slot, header.incarnation, header.counter);
            assert!(self.controls.insert(used), "I11: CONTROL {used:?} was sealed twice");
        }
    }

    pub(crate) fn event(&mut self, event: TableEvent) {
        if self.is_dead() {
            return;
        }
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
        if self.is_dead() {
            return;
        }
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
        while !self.is_dead()
            && let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end)
        {
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
                None if self.host.starts > 1 => {}
                None => assert_eq!((version, text("previous_state")), (0, None)),
                // What a killed process had not written yet is missing, but no version comes twice.
                Some((before, _)) if version > before + 1 && self.host.starts > 1 => {}
                Some((before, state)) => {
                    assert_eq!(version, before + 1, "I3: {json}");
                    assert_eq!(text("previous_state"), Some(state));
                }
            }
        }
        if self.host.starts > 1 {
            return;
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
