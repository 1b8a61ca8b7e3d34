//! The gateway's host: the two processes, each of which can die and come back, and what the kernel and the disk keep
//! between them.

pub(crate) mod data_plane;
pub(crate) mod node;
pub(crate) mod store;
pub(crate) mod tables;

pub use data_plane::{DataPlaneError, INNER_GATEWAY, SERVER};

use super::dice::Dice;
use data_plane::{DataPlane, Sizes};
use jvpn_abi::tables::Context;
use jvpn_abi::{BootTime, Endpoint};
use jvpn_controlplane::engine::{AdminCommand, Engine, Settings, Snapshot, Status};
use jvpn_controlplane::journal::{Completeness, Journal};
use jvpn_controlplane::store::writer::{Outcome, Request};
use jvpn_controlplane::store::{Change, Scan, SessionStore};
use jvpn_controlplane::tables::Contexts;
use jvpn_crypto::keys::{PublicKey, StaticSecret};
use jvpn_tables::Mapping;
use node::NodeMemory;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use store::{STORE_LATENCY, StoreMemory};
use tables::TableWriter;

/// Datagrams that wait in the gateway's UDP socket; more are lost.
const SOCKET_MAX: usize = 512;
/// The first stream of the seed that engines draw from; each start takes the next.
const ENGINE_STREAM: u64 = 1_000;
/// The same for the salts of JOURNAL.
const JOURNAL_STREAM: u64 = 1_000_000;

/// The control-plane process.
pub(crate) struct ControlPlane {
    pub(crate) engine: Engine,
    pub(crate) writer: Option<TableWriter>,
    /// CONTEXT of the data plane that is there, or of the last one.
    contexts: Option<Mapping<Context>>,
    legacy: Option<OwnedFd>,
    journal: Option<Journal>,
    connected_to: Option<u64>,
    /// What the store has done and the engine has not heard yet.
    outcomes: VecDeque<(BootTime, Outcome)>,
}

impl ControlPlane {
    /// The next outcome of the store that is known by now.
    pub(crate) fn stored(&mut self, now: BootTime) -> Option<Outcome> {
        self.outcomes.pop_front_if(|(at, _)| *at <= now).map(|(_, outcome)| outcome)
    }

    /// Writes or frees a record of JOURNAL.
    pub(crate) fn record(&mut self, index: u32, snapshot: Option<&Snapshot>) {
        match (&mut self.journal, snapshot) {
            (Some(journal), Some(snapshot)) => journal.write(index, snapshot),
            (Some(journal), None) => journal.clear(index),
            (None, _) => {}
        }
    }

    /// When the next outcome is known.
    pub(crate) fn stored_at(&self) -> Option<BootTime> {
        self.outcomes.front().map(|(at, _)| *at)
    }

    /// Once all that was stored is loaded, and written to JOURNAL, JOURNAL is what counts.
    pub(crate) fn mark_journal(&mut self) {
        if let Some(journal) = &mut self.journal
            && self.engine.journal_is_whole()
        {
            journal.mark(Completeness::Complete);
        }
    }

    /// Engine and CONTEXT, for a call of the one with the other.
    pub(crate) fn parts(&mut self) -> (&mut Engine, Contexts<'_>) {
        let contexts = Contexts(self.contexts.as_deref().unwrap_or_default());
        (&mut self.engine, contexts)
    }

    /// The engine's own view.
    pub(crate) fn status(&self, now: BootTime) -> Status {
        self.engine.status(now, &self.view())
    }

    /// CONTEXT.
    pub(crate) fn view(&self) -> Contexts<'_> {
        Contexts(self.contexts.as_deref().unwrap_or_default())
    }
}

/// The host.
pub(crate) struct Host {
    pub(crate) control: Option<ControlPlane>,
    pub(crate) data_plane: Option<DataPlane>,
    /// What waits in the gateway's UDP socket. Whichever process lives holds it.
    pub(crate) socket: VecDeque<(Endpoint, Vec<u8>)>,
    /// What operators wish.
    pub(crate) admin: VecDeque<AdminCommand>,
    settings: Settings,
    secret: StaticSecret,
    node: NodeMemory,
    store: StoreMemory,
    seed: u64,
    sizes: Sizes,
    starts: u64,
    data_planes: u64,
    restart: Restart,
    /// The control plane dies after so many more of its own acts.
    pub(crate) fuse: Option<u32>,
}

/// What a control plane that starts goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// JOURNAL beside a living data plane: its sessions go on. Else the store.
    FromJournal,
    /// The store, as if JOURNAL were damaged: its sessions are taken over by their clients.
    FromStore,
    /// Nothing, as if the disk were lost as well: every session has ended.
    WithoutMemory,
}

/// What the host is made of.
pub(crate) struct HostSetup {
    pub(crate) settings: Settings,
    pub(crate) secret: StaticSecret,
    pub(crate) node_key: [u8; 32],
    pub(crate) seed: u64,
    pub(crate) sizes: Sizes,
    pub(crate) restart: Restart,
}

impl Host {
    /// A host on which nothing runs.
    pub(crate) fn new(setup: HostSetup) -> Self {
        Self {
            control: None,
            data_plane: None,
            socket: VecDeque::new(),
            admin: VecDeque::new(),
            settings: setup.settings,
            secret: setup.secret,
            node: NodeMemory::new(setup.node_key),
            store: StoreMemory::default(),
            seed: setup.seed,
            sizes: setup.sizes,
            starts: 0,
            data_planes: 0,
            restart: setup.restart,
            fuse: None,
        }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.secret.public()
    }

    pub(crate) const fn workers(&self) -> usize {
        self.sizes.workers
    }

    /// Starts the data-plane process, unless it runs.
    pub(crate) fn start_data_plane(&mut self) -> Result<(), DataPlaneError> {
        if self.data_plane.is_none() {
            self.data_plane = Some(DataPlane::start(self.sizes)?);
            self.data_planes += 1;
        }
        Ok(())
    }

    /// Kills the data-plane process. Its memory goes on if a control plane holds it.
    pub(crate) fn kill_data_plane(&mut self) {
        self.data_plane = None;
        if self.control.is_none() {
            self.socket.clear();
        }
    }

    /// Starts the control-plane process, unless it runs.
    pub(crate) fn start_control_plane(&mut self, now: BootTime) {
        if self.control.is_some() {
            return;
        }
        let rng = Dice::new(self.seed, ENGINE_STREAM + self.starts);
        self.starts += 1;
        let mut engine = Engine::new(
            self.settings.clone(),
            self.secret.clone(),
            Box::new(self.node.open()),
            Box::new(rng),
            now,
        );
        engine.keep_store(0);
        self.control = Some(ControlPlane {
            engine,
            writer: None,
            contexts: None,
            legacy: None,
            journal: None,
            connected_to: None,
            outcomes: VecDeque::new(),
        });
    }

    /// The next act of the engine, unless its process dies before it.
    pub(crate) fn polled<T>(&mut self, poll: impl Fn(&mut Engine) -> Option<T>) -> Option<T> {
        let act = poll(&mut self.control.as_mut()?.engine)?;
        if let Some(left) = &mut self.fuse {
            let Some(fewer) = left.checked_sub(1) else {
                self.fuse = None;
                self.kill_control_plane();
                return None;
            };
            *left = fewer;
        }
        Some(act)
    }

    /// The store does what the engine asks. When the engine hears of it.
    pub(crate) fn store(&mut self, now: BootTime, request: Request) -> BootTime {
        let Request { ticket, change } = request;
        let (Change::Put { id, .. } | Change::Delete { id, .. }) = change;
        let known_at = now.after(STORE_LATENCY);
        for result in self.store.apply(std::slice::from_ref(&change)) {
            if let Some(control) = &mut self.control {
                control.outcomes.push_back((known_at, Outcome { ticket, id, result }));
            }
        }
        known_at
    }

    /// Kills the control-plane process with everything that it knew.
    pub(crate) fn kill_control_plane(&mut self) {
        self.control = None;
        if self.data_plane.is_none() {
            self.socket.clear();
        }
    }

    /// Whether the data plane that the control plane knows is gone and it has not been told yet.
    pub(crate) fn is_loss_unseen(&self) -> bool {
        let known = self.control.as_ref().and_then(|control| control.connected_to);
        known.is_some() && (self.data_plane.is_none() || known != Some(self.data_planes))
    }

    /// The control plane sees that its data plane is gone.
    pub(crate) fn disconnect(&mut self) {
        if let Some(control) = &mut self.control {
            control.writer = None;
            control.connected_to = None;
        }
    }

    /// The control plane connects to a data plane that waits. `true`: it did, the engine may have something to say, and
    /// workers must pass the clearing.
    pub(crate) fn connect(&mut self, now: BootTime) -> Result<bool, DataPlaneError> {
        let (Some(control), Some(data_plane)) = (&mut self.control, &mut self.data_plane) else {
            return Ok(false);
        };
        if control.writer.is_some() {
            return Ok(false);
        }
        let journal =
            control.journal.as_ref().map(|journal| journal.fd().try_clone_to_owned()).transpose()?;
        data_plane.accept(control.legacy.take(), journal)?;
        let Some(mut writer) = TableWriter::connect(data_plane)? else { return Ok(false) };
        control.legacy = data_plane.context()?;
        if control.journal.is_some() {
            writer.clear(None);
        } else if let Some((fd, kept)) = data_plane.journal()? {
            let goes_on = kept && self.restart == Restart::FromJournal;
            let mut rng = Dice::new(self.seed, JOURNAL_STREAM + self.starts);
            let node_key = control.engine.node_key();
            let mut journal = Journal::open(fd, self.sizes.journal, node_key, &mut rng, now)?;
            let contents = if goes_on { journal.read(node_key).ok() } else { None };
            if let Some(contents) = contents {
                let bound = |slot_index| writer.bindings.word(slot_index);
                let (records, damaged) = (contents.snapshots, contents.damaged);
                let completeness = contents.completeness;
                let kept = control.engine.adopt(now, journal.capacity(), records, &damaged, &bound);
                writer.clear(Some(&kept));
                control.engine.match_store(now, self.store.scan().ok(), completeness);
            } else {
                journal.begin(node_key);
                control.engine.keep_journal(journal.capacity());
                writer.clear(None);
                if self.restart == Restart::WithoutMemory {
                    self.store.clear();
                }
                let Scan { sessions, .. } = self.store.scan().unwrap_or_default();
                control.engine.load_stored(now, sessions);
            }
            control.journal = Some(journal);
        }
        control.writer = Some(writer);
        control.contexts = match &control.legacy {
            Some(context) => Some(Mapping::new("CONTEXT", context.as_fd(), self.sizes.slots as usize)?),
            None => None,
        };
        control.connected_to = Some(self.data_planes);
        Ok(true)
    }

    /// A datagram reaches the socket. `false`: it found no room, or nobody.
    pub(crate) fn receive(&mut self, remote: Endpoint, datagram: Vec<u8>) -> bool {
        let held = self.control.is_some() || self.data_plane.is_some();
        let fits = held && self.socket.len() < SOCKET_MAX;
        if fits {
            self.socket.push_back((remote, datagram));
        }
        fits
    }
}
