//! The production engine with tables that answer at once: real cryptography, no socket, no file, virtual time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use jvpn_abi::tables::{BindingWord, InstallOp, PROBE_SAMPLES, ProbeSample};
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_controlplane::engine::{
    ContextView, Engine, PeerSettings, Probed, Settings, TableCommand, TableEvent, Traffic, Transmit,
    TunnelSettings,
};
use jvpn_crypto::keys::{PublicKey, StaticSecret};
use jvpn_session::Policy;
use jvpn_session::quality::Counts;

use crate::simulation::dice::Dice;
use crate::simulation::gateway::node::NodeMemory;

/// The gateway's side of every path.
const LOCAL: Endpoint = Endpoint::v4([198, 51, 100, 1], 4_500);
/// Slots of the tables: every session may have one bound and one that drains.
const SLOTS: u32 = 1 << 17;
/// What peers announce as the interval to their next probe.
const INTERVAL_MS: u32 = 25_000;
/// The same under traffic.
const PROBE_MS: u32 = 200;
const START: BootTime = BootTime::from_millis(5_000_000);

/// What the workers know of a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    word: Option<BindingWord>,
    confirmed: bool,
    sending_key: u32,
}

/// CONTEXT, in which every path was heard just now.
#[derive(Debug)]
struct Contexts {
    slots: Vec<Slot>,
    now: BootTime,
    /// Looks at silence: one per timer that fires.
    looks: Cell<u64>,
    /// Whether clients probe as under traffic, so that quality is measured.
    probing: bool,
}

impl Contexts {
    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index as usize)
    }
}

impl ContextView for Contexts {
    fn last_heard(&self, _: u32) -> Option<BootTime> {
        self.looks.set(self.looks.get() + 1);
        Some(self.now)
    }
    fn peer_interval_ms(&self, _: u32) -> Option<u32> {
        Some(if self.probing { PROBE_MS } else { INTERVAL_MS })
    }
    fn confirmed(&self, slot_index: u32, word: BindingWord) -> bool {
        self.slot(slot_index).is_some_and(|slot| slot.confirmed && slot.word == Some(word))
    }
    fn highest_counter(&self, _: u32, _: u32) -> Option<u64> {
        None
    }
    fn sending_key(&self, slot_index: u32) -> Option<u32> {
        self.slot(slot_index).map(|slot| slot.sending_key)
    }
    fn sealed(&self, _: u32, _: u32) -> Option<u64> {
        Some(0)
    }
    fn failed_opens(&self, _: u32) -> u64 {
        0
    }
    fn traffic(&self, _: u32) -> Traffic {
        Traffic::default()
    }
    fn probed(&self, slot_index: u32) -> Option<Probed> {
        let key = self.slot(slot_index).filter(|_| self.probing)?.sending_key;
        let probes = self.now.as_millis() / u64::from(PROBE_MS);
        let counts = [Some(Counts { key, end: probes * 10, received: probes * 10 }), None];
        let sample = ProbeSample { rtt_us: 20_000, change_us: 1_000 }.encode();
        Some(Probed { probes, up: counts, down: counts, samples: [sample; PROBE_SAMPLES] })
    }
}

/// An engine and what surrounds it.
#[derive(Debug)]
pub struct Gateway {
    engine: Engine,
    contexts: Contexts,
    /// What the tables have yet to report.
    events: VecDeque<TableEvent>,
    /// What left, oldest first.
    pub sent: VecDeque<Transmit>,
    /// Records of JOURNAL that were written.
    pub journal_writes: u64,
    public: PublicKey,
}

impl Gateway {
    /// A gateway whose data plane is up, for these peers.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(seed: u64, policy: Policy, peers: Vec<PeerSettings>) -> anyhow::Result<Self> {
        let secret = StaticSecret::generate(&mut Dice::new(seed, 1))?;
        let public = secret.public();
        let settings = Settings {
            policy,
            policy_name: "edge".into(),
            suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
            tunnel: TunnelSettings {
                gateway_addresses: vec![[10, 255, 0, 1].into()],
                mtu: 1_280,
                routes: vec!["192.168.50.0/24".parse().map_err(anyhow::Error::msg)?],
                dns: vec![],
            },
            peers,
        };
        let capacity = settings.policy.max_sessions;
        let node = Box::new(NodeMemory::new([9; 32]));
        let mut engine = Engine::new(settings, secret, node, Box::new(Dice::new(seed, 2)), START);
        engine.keep_journal(capacity);
        let slots = vec![Slot::default(); SLOTS as usize];
        let contexts = Contexts { slots, now: START, looks: Cell::new(0), probing: false };
        let mut gateway = Self {
            engine,
            contexts,
            events: VecDeque::new(),
            sent: VecDeque::new(),
            journal_writes: 0,
            public,
        };
        gateway.event(TableEvent::DataPlaneUp { slots: SLOTS, context_kept: false });
        Ok(gateway)
    }

    /// The gateway's static key.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The engine, to look at.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The moment.
    #[must_use]
    pub const fn now(&self) -> BootTime {
        self.contexts.now
    }

    /// What `status` shows.
    #[must_use]
    pub fn status(&self) -> jvpn_controlplane::engine::Status {
        self.engine.status(self.contexts.now, &self.contexts)
    }

    /// How many timers have fired.
    #[must_use]
    pub const fn looks(&self) -> u64 {
        self.contexts.looks.get()
    }

    /// From here on clients probe as under traffic.
    pub const fn probe(&mut self) {
        self.contexts.probing = true;
    }

    /// Time passes, and nothing fires: what is due fires with the next [`Self::wait`].
    pub fn skip(&mut self, span: Duration) {
        self.contexts.now = self.contexts.now.after(span);
    }

    /// Time passes; every timer fires at its own moment.
    pub fn wait(&mut self, span: Duration) {
        let end = self.contexts.now.after(span);
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.contexts.now = self.contexts.now.max(at);
            self.engine.handle_timeout(self.contexts.now, &self.contexts);
            self.pump();
        }
        self.contexts.now = end;
    }

    /// A datagram, and everything that follows from it in the tables.
    pub fn datagram(&mut self, from: Endpoint, datagram: &[u8]) {
        self.engine.handle_datagram(self.contexts.now, from, LOCAL, datagram, &self.contexts);
        self.pump();
    }

    /// A worker opens the first frame of a slot.
    pub fn confirm(&mut self, slot: SlotId) {
        let context = self.contexts.slots.get_mut(slot.index() as usize);
        let Some(word) = context.and_then(|slot| {
            slot.confirmed = true;
            slot.word
        }) else {
            return;
        };
        self.event(TableEvent::Confirmed { slot_index: slot.index(), word });
    }

    /// A worker opens the first frame under the next key of a slot.
    pub fn flip(&mut self, slot: SlotId) {
        if let Some(context) = self.contexts.slots.get_mut(slot.index() as usize) {
            context.sending_key += 1;
        }
        self.confirm(slot);
    }

    fn event(&mut self, event: TableEvent) {
        self.engine.handle_table_event(self.contexts.now, event, &self.contexts);
        self.pump();
    }

    fn pump(&mut self) {
        loop {
            while let Some(command) = self.engine.poll_command() {
                self.carry_out(command);
            }
            while let Some(transmit) = self.engine.poll_transmit() {
                self.sent.push_back(transmit);
            }
            while self.engine.poll_audit().is_some() {}
            while self.engine.poll_handle_change().is_some() {}
            let Some(event) = self.events.pop_front() else { return };
            self.engine.handle_table_event(self.contexts.now, event, &self.contexts);
        }
    }

    fn carry_out(&mut self, command: TableCommand) {
        match command {
            TableCommand::Journal { .. } => self.journal_writes += 1,
            TableCommand::Unbind { seq, .. } => self.events.push_back(TableEvent::Quiesced { seq }),
            TableCommand::Install { seq, entry } => {
                if InstallOp::from_number(entry.op) == Some(InstallOp::Install) {
                    let index = SlotId(entry.slot).index() as usize;
                    if let Some(slot) = self.contexts.slots.get_mut(index) {
                        *slot = Slot { word: Some(BindingWord(entry.word)), ..Slot::default() };
                    }
                }
                self.events.push_back(TableEvent::Installed { seq });
            }
            TableCommand::Bind { .. }
            | TableCommand::Remove { .. }
            | TableCommand::RouteAdd { .. }
            | TableCommand::RouteRemove { .. } => {}
        }
    }
}
