//! A gateway in a box: the production engine, a data plane that opens and seals as workers do, JOURNAL, a disk, and deaths
//! of the process. Judged from outside at every step.

use crate::Source;
use crate::plane::{Answers, Plane};
use crate::random::Seeded;
use jvpn_abi::tables::BindingWord;
use jvpn_abi::wire::control::ControlHeader;
use jvpn_abi::wire::data::MAX_SLOT_SERIAL;
use jvpn_abi::wire::{DataHeader, MsgType, SlotId, Suite};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_controlplane::engine::{
    AdminCommand, Durable, Engine, PeerSettings, Settings, Snapshot, Status, TableEvent, Transmit,
    TunnelSettings,
};
use jvpn_controlplane::node_state::{SERIAL_BLOCK, StateError};
use jvpn_crypto::keys::{NodeKey, PresharedKey, PublicKey, StaticSecret};
use jvpn_session::Policy;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the gateway is.
pub(crate) const GATEWAY: Endpoint = Endpoint::v4([198, 51, 100, 1], 4_500);
/// Sessions that JOURNAL has room for.
pub(crate) const JOURNAL_RECORDS: u32 = 64;
/// Slots of the data plane.
pub(crate) const SLOTS: u32 = 32;
/// Clients, each a peer.
pub(crate) const PEERS: u8 = 2;
/// When everything begins: no run begins at boot.
pub(crate) const START: BootTime = BootTime::from_millis(5_000_000);

/// What outlives the process.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(u32, BTreeMap<PublicKey, u64>)>>);

/// What one process has of it.
struct Opened {
    disk: Disk,
    floor: u32,
    key: NodeKey,
}

impl Durable for Opened {
    fn node_key(&self) -> &NodeKey {
        &self.key
    }
    fn serial_floor(&self) -> u32 {
        self.floor
    }
    fn reserve_serials(&mut self, serial: u32) -> Result<u32, StateError> {
        if serial > MAX_SLOT_SERIAL {
            return Err(StateError::SerialsUsedUp);
        }
        let mut kept = self.disk.0.lock().unwrap();
        kept.0 = kept.0.max(serial + SERIAL_BLOCK);
        Ok(kept.0)
    }
    fn handshake_timestamp(&self, peer: &PublicKey) -> Option<u64> {
        self.disk.0.lock().unwrap().1.get(peer).copied()
    }
    fn record_handshake(&mut self, peer: &PublicKey, timestamp_ns: u64) -> Result<(), StateError> {
        self.disk.0.lock().unwrap().1.insert(*peer, timestamp_ns);
        Ok(())
    }
}

/// The key of a client.
pub(crate) fn client_secret(peer: u8) -> StaticSecret {
    StaticSecret::generate(&mut Seeded::new(100 + u64::from(peer))).unwrap()
}

/// The key of the gateway.
pub(crate) fn gateway_secret() -> StaticSecret {
    StaticSecret::generate(&mut Seeded::new(99)).unwrap()
}

fn peers(count: u8) -> Vec<PeerSettings> {
    let peer = |peer: u8| {
        let address = format!("10.77.0.{}/32", peer + 2).parse().unwrap();
        PeerSettings {
            name: format!("peer{peer}"),
            public_key: client_secret(peer).public(),
            preshared_key: PresharedKey::default(),
            addresses: vec![address],
            prefixes: vec![address, format!("172.16.{peer}.0/24").parse().unwrap()],
        }
    };
    (0..count).map(peer).collect()
}

fn settings() -> Settings {
    Settings {
        policy: Policy { max_switches_per_min: 4, ..Policy::default() },
        policy_name: "edge".into(),
        suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
        tunnel: TunnelSettings {
            gateway_addresses: vec!["10.77.0.1".parse().unwrap()],
            mtu: 1_280,
            routes: vec!["192.168.50.0/24".parse().unwrap()],
            dns: vec![],
        },
        peers: peers(PEERS),
    }
}

/// The gateway.
pub(crate) struct Gateway {
    pub(crate) engine: Engine,
    pub(crate) plane: Plane,
    pub(crate) now: BootTime,
    /// What left, to be delivered.
    pub(crate) sent: VecDeque<Transmit>,
    disk: Disk,
    starts: u64,
    /// Outputs that are still carried out before the process is killed.
    fuse: Option<u32>,
    controls: BTreeSet<(SlotId, u32, u64)>,
    /// Everything that the process said, hashed: the same inputs say the same.
    pub(crate) said: DefaultHasher,
}

impl Gateway {
    /// With its data plane up and no session.
    pub(crate) fn new() -> Self {
        let mut gateway = Self::asleep();
        gateway.event(TableEvent::DataPlaneUp { slots: SLOTS, context_kept: false });
        gateway
    }

    fn asleep() -> Self {
        let disk = Disk::default();
        Self {
            engine: start(&disk, 1, START),
            plane: Plane::default(),
            now: START,
            sent: VecDeque::new(),
            disk,
            starts: 1,
            fuse: None,
            controls: BTreeSet::new(),
            said: DefaultHasher::new(),
        }
    }

    /// One that starts beside a living data plane and finds these records.
    pub(crate) fn adopting(records: Vec<(u32, Box<Snapshot>)>) -> Self {
        let mut gateway = Self::asleep();
        gateway.plane.journal = records.into_iter().collect();
        gateway.restart();
        gateway
    }

    /// Carries out what the engine wants until it wants nothing more.
    pub(crate) fn pump(&mut self) {
        let mut changed = false;
        loop {
            let mut events = Vec::new();
            while let Some(command) = self.engine.poll_command() {
                changed = true;
                if self.burns() {
                    format!("{command:?}").hash(&mut self.said);
                    events.extend(self.plane.apply(command));
                }
            }
            while let Some(transmit) = self.engine.poll_transmit() {
                if self.burns() {
                    self.judge(&transmit);
                    self.sent.push_back(transmit);
                }
            }
            while self.engine.poll_handle_change().is_some() {}
            while let Some(line) = self.engine.poll_audit() {
                changed = true;
                format!("{line:?}").hash(&mut self.said);
            }
            if events.is_empty() || self.is_dead() {
                break;
            }
            for event in events {
                self.engine.handle_table_event(self.now, event, &self.plane);
            }
        }
        // A status costs more than most steps: nothing that it shows changes without a command or a line.
        if changed {
            self.check();
        }
    }

    fn burns(&mut self) -> bool {
        let Some(fuse) = &mut self.fuse else { return true };
        let lives = *fuse > 0;
        *fuse = fuse.saturating_sub(1);
        lives
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.fuse == Some(0)
    }

    /// I11: no CONTROL key meets a counter twice. Nothing is larger than any question may be.
    fn judge(&mut self, transmit: &Transmit) {
        transmit.payload.hash(&mut self.said);
        assert!(transmit.payload.len() <= jvpn_abi::wire::MAX_CONTROL_DATAGRAM);
        if let Some(header) = ControlHeader::parse(&transmit.payload) {
            let used = (header.slot, header.incarnation, header.counter);
            assert!(self.controls.insert(used), "I11: CONTROL {used:?} was sealed twice");
        }
    }

    /// What an outside observer of status and tables can see at any moment.
    fn check(&self) {
        if self.is_dead() {
            return;
        }
        let status = self.status();
        for session in &status.sessions {
            let bound = ["ATTACHED", "VOLATILE", "DEGRADED"].contains(&session.state);
            assert!(!bound || session.slot.is_some(), "I1: {session:?}");
            assert!(session.state != "TERMINATED" || session.slot.is_none(), "I4: {session:?}");
        }
        let named: BTreeSet<u32> = status.sessions.iter().filter_map(|session| session.slot).collect();
        for (index, (word, _)) in &self.plane.bound {
            let slot = SlotId::new(*index, word.serial()).unwrap();
            assert!(named.contains(&slot.0), "I1: the tables bind {slot:?}, which no session has");
        }
        assert!(status.slots_in_use <= SLOTS as usize && status.live_sessions <= 2 * usize::from(PEERS));
    }

    pub(crate) fn status(&self) -> Status {
        self.engine.status(self.now, &self.plane)
    }

    pub(crate) fn event(&mut self, event: TableEvent) {
        if !self.is_dead() {
            self.engine.handle_table_event(self.now, event, &self.plane);
            self.pump();
        }
    }

    /// A datagram reaches the WAN port: XDP and a worker, or the control plane.
    pub(crate) fn receive(&mut self, from: Endpoint, datagram: &[u8]) {
        if DataHeader::parse(datagram).is_some() {
            if let Some(taken) = self.plane.data(self.now, from, datagram) {
                let answer = taken.answer.map(|payload| Transmit { remote: from, local: GATEWAY, payload });
                self.sent.extend(answer);
                taken.events.into_iter().for_each(|event| self.event(event));
                return;
            }
            let mut sample = datagram.to_vec();
            sample[0] = MsgType::UnboundSample.octet();
            self.ask(from, &sample);
        } else {
            self.ask(from, datagram);
        }
    }

    /// A datagram for the control plane's socket.
    pub(crate) fn ask(&mut self, from: Endpoint, datagram: &[u8]) {
        if !self.is_dead() {
            self.engine.handle_datagram(self.now, from, GATEWAY, datagram, &self.plane);
            self.pump();
        }
    }

    /// Time has come to `now`.
    pub(crate) fn tick(&mut self, now: BootTime) {
        self.now = now;
        if !self.is_dead() && self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now, &self.plane);
            self.pump();
            assert!(self.is_dead() || self.due().is_none_or(|due| due > now), "a timer does not pass");
        }
    }

    pub(crate) fn due(&self) -> Option<BootTime> {
        if self.is_dead() { None } else { self.engine.poll_timeout() }
    }

    pub(crate) fn admin(&mut self, source: &mut Source<'_>) {
        if self.is_dead() {
            return;
        }
        let name = format!("peer{}", source.u8() % (PEERS + 1));
        let sessions = self.status().sessions;
        let session = sessions.get(source.below(sessions.len())).and_then(|session| session.id.parse().ok());
        let command = match (source.u8() % 4, session) {
            (0, Some(id)) => AdminCommand::TerminateSession(id),
            (1, _) => AdminCommand::RevokePeer(name),
            (2, _) => AdminCommand::TerminatePeer(name),
            _ => {
                let list = peers(source.u8() % (PEERS + 1));
                let _changed = self.engine.replace_peers(self.now, list, &self.plane);
                return self.pump();
            }
        };
        let _outcome = self.engine.handle_admin(self.now, &command, &self.plane);
        self.pump();
    }

    /// The process dies after so many outputs.
    pub(crate) fn kill_after(&mut self, outputs: u32) {
        self.fuse = Some(outputs);
    }

    /// A successor goes on from what the tables, JOURNAL and the disk hold.
    pub(crate) fn restart(&mut self) {
        self.starts += 1;
        self.fuse = None;
        self.engine = start(&self.disk, self.starts, self.now);
        let records = self.plane.journal.iter().map(|(index, snapshot)| (*index, snapshot.clone())).collect();
        let bound = self.plane.bound.clone();
        let word = |index: u32| bound.get(&index).map_or(BindingWord::UNBOUND, |(word, _)| *word);
        let kept = self.engine.adopt(self.now, JOURNAL_RECORDS, records, &[], &word);
        self.plane.bound.retain(|index, (word, _)| kept.words.get(index) == Some(word));
        self.pump();
        self.event(TableEvent::Adopted { slots: SLOTS });
    }

    /// The trouble is over: living processes, honest tables, everybody allowed.
    pub(crate) fn mend(&mut self) {
        (self.plane.quiesce, self.plane.install) = (Answers::AtOnce, Answers::AtOnce);
        if self.fuse.is_some() {
            self.restart();
        }
        let _changed = self.engine.replace_peers(self.now, peers(PEERS), &self.plane);
        self.pump();
        self.plane.restart();
        self.event(TableEvent::DataPlaneUp { slots: SLOTS, context_kept: true });
    }

    /// Time passes, and the clients are away.
    pub(crate) fn live_on(mut self, source: &mut Source<'_>) {
        for _ in 0..32 {
            let wait = Duration::from_millis(u64::from(source.u16()) * 16 + 1);
            let end = self.now.after(wait);
            for _ in 0..64 {
                let Some(due) = self.due().filter(|due| *due <= end) else { break };
                self.tick(due.max(self.now));
            }
            self.tick(end);
            self.admin(source);
            let garbage = source.chunk();
            self.receive(Endpoint::v4([203, 0, 113, 10], 40_000), garbage);
            if source.is_empty() {
                break;
            }
        }
        assert!(serde_json::to_string(&self.status()).is_ok());
    }
}

fn start(disk: &Disk, starts: u64, now: BootTime) -> Engine {
    let floor = disk.0.lock().unwrap().0;
    let opened = Opened { disk: disk.clone(), floor, key: NodeKey::from_bytes([9; 32]) };
    let rng = Box::new(Seeded::new(1_000 + starts));
    // Its first sequences are above those of a process that died at this very moment.
    let after = now.after(Duration::from_micros(starts));
    let mut engine = Engine::new(settings(), gateway_secret(), Box::new(opened), rng, after);
    engine.keep_journal(JOURNAL_RECORDS);
    engine
}
