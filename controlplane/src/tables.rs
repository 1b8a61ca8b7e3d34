//! The shared tables' writer: carries out the engine's commands and turns the workers' reports into events.
//!
//! Orders of stores are the contract of `docs/ARCHITECTURE.md`; what is read here comes from another process and is
//! believed only within its bounds.

use crate::engine::{ContextView, TableCommand, TableEvent, Traffic};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData, MapError};
use jvpn_abi::tables::{
    BindingEntry, BindingWord, Context, EVENT_RING_LEN, InstallEntry, InstallOp, MAX_WORKERS, Reports,
    WorkerReport,
};
use jvpn_abi::wire::SlotId;
use jvpn_abi::{BootTime, CONTRACT_VERSION};
use jvpn_session::messages::Prefix;
use jvpn_tables::handover::{Connection, HandoverError, Hello, WELCOME_FIXED_FDS, Welcome};
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::{Bindings, Doorbell, Mapping, TableError};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use zeroize::Zeroize;

/// Why the data plane's tables could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The handover failed.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A table could not be mapped.
    #[error(transparent)]
    Mapping(#[from] TableError),
    /// ROUTES is not the map that it should be.
    #[error("table ROUTES: {0}")]
    Routes(#[from] MapError),
    /// The data plane says something impossible.
    #[error("the data plane offers {0}; are both processes of one release?")]
    Implausible(String),
    /// Its exit could not be watched.
    #[error("cannot watch the data plane's process {pid}: {source}")]
    Watch {
        /// Its process ID.
        pid: i32,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What an earlier data plane left and its successor gets.
#[derive(Debug)]
pub struct Legacy {
    context: OwnedFd,
    udp: OwnedFd,
    slots: u32,
}

/// The tables of one data plane, mapped, with everything needed to write them.
#[derive(Debug)]
pub struct Tables {
    connection: Connection,
    process: OwnedFd,
    bindings: Bindings,
    routes: LpmTrie<MapData, [u8; 16], u32>,
    led: HashMap<(u32, [u8; 16]), u32>,
    mailbox: KeyMailbox,
    contexts: Mapping<Context>,
    reports: Mapping<Reports>,
    installer_bell: Doorbell,
    report_bell: Doorbell,
    worker_bells: Vec<Doorbell>,
    context_fd: OwnedFd,
    udp: OwnedFd,
    welcome: Welcome,
    phase: Phase,
    quiesced: u64,
    events_lost: Vec<u64>,
    installing: VecDeque<Installing>,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Everything was unbound; waiting for the workers to pass that.
    Clearing(u64),
    /// The engine knows of the data plane.
    Up,
}

/// An entry on its way to the workers.
#[derive(Debug)]
struct Installing {
    seq: u64,
    slot_index: u32,
    /// The tag that CONTEXT must carry if the installer took the entry; `None` for a removal.
    expect: Option<u64>,
}

impl Tables {
    /// Greets the data plane at `path`, hands over what an earlier one left, and clears every binding.
    ///
    /// # Errors
    /// If nobody is there, or it is of another version.
    pub fn connect(path: &Path, legacy: Option<&Legacy>) -> Result<Self, TablesError> {
        let connection = Connection::connect(path)?;
        let pid = connection.peer_pid()?;
        let watch = |source: rustix::io::Errno| TablesError::Watch { pid, source: source.into() };
        let process = rustix::process::Pid::from_raw(pid)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()))
            .map_err(watch)?;
        match legacy {
            Some(left) => {
                let hello = Hello::new(true, true, left.slots);
                connection.send_hello(&hello, &[left.context.as_fd(), left.udp.as_fd()])?;
            }
            None => connection.send_hello(&Hello::new(false, false, 0), &[])?,
        }
        let (welcome, fds) = connection.receive_welcome()?;
        let mut tables = Self::map(connection, process, welcome, fds)?;
        tables.clear()?;
        Ok(tables)
    }

    fn map(
        connection: Connection,
        process: OwnedFd,
        welcome: Welcome,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, TablesError> {
        let implausible = |what: String| TablesError::Implausible(what);
        if welcome.workers == 0 || welcome.workers as usize > MAX_WORKERS {
            return Err(implausible(format!("{} workers", welcome.workers)));
        }
        let mut fds = fds.into_iter();
        let fixed: [OwnedFd; WELCOME_FIXED_FDS] = fds
            .by_ref()
            .take(WELCOME_FIXED_FDS)
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|_| implausible("too few descriptors".to_owned()))?;
        let [bindings, routes, _gate, keys, context, reports, udp, installer_bell, report_bell] = fixed;
        let contexts = Mapping::new("CONTEXT", context.as_fd(), welcome.slots as usize)?;
        let reports: Mapping<Reports> = Mapping::new("REPORTS", reports.as_fd(), 1)?;
        let contract = reports[0].contract_version.load(Ordering::Acquire);
        if contract != u64::from(CONTRACT_VERSION) {
            return Err(implausible(format!(
                "tables of contract version {contract}, this process has {CONTRACT_VERSION}"
            )));
        }
        Ok(Self {
            connection,
            process,
            bindings: Bindings::map(bindings.as_fd(), welcome.slots)?,
            routes: LpmTrie::try_from(Map::LpmTrie(MapData::from_fd(routes)?))?,
            led: HashMap::new(),
            mailbox: KeyMailbox::map(keys.as_fd())?,
            contexts,
            events_lost: reports[0].worker.iter().map(|w| w.events_lost.load(Ordering::Acquire)).collect(),
            reports,
            installer_bell: Doorbell::from_fd(installer_bell),
            report_bell: Doorbell::from_fd(report_bell),
            worker_bells: fds.map(Doorbell::from_fd).collect(),
            context_fd: context,
            udp,
            welcome,
            phase: Phase::Clearing(0),
            quiesced: 0,
            installing: VecDeque::new(),
        })
    }

    /// Unbinds every slot and removes every route that an earlier control plane left.
    fn clear(&mut self) -> Result<(), TablesError> {
        for slot_index in 0..self.welcome.slots {
            if self.bindings.word(slot_index) != BindingWord::UNBOUND {
                self.bindings.unbind(slot_index);
            }
        }
        let left: Vec<Key<[u8; 16]>> = self.routes.keys().collect::<Result<_, _>>()?;
        for key in left {
            self.routes.remove(&key)?;
        }
        let seq = self.reports().requested_unbind_seq.load(Ordering::SeqCst).wrapping_add(1);
        self.request_unbind(seq);
        self.phase = Phase::Clearing(seq);
        Ok(())
    }

    /// What the next data plane gets, when this one is gone.
    #[must_use]
    pub fn into_legacy(self) -> (Legacy, Mapping<Context>) {
        (Legacy { context: self.context_fd, udp: self.udp, slots: self.welcome.slots }, self.contexts)
    }

    /// The gateway's UDP socket.
    #[must_use]
    pub fn udp(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }

    /// Becomes readable when the data plane's process has ended.
    #[must_use]
    pub fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// The handover connection, which a data plane keeps open as long as it lives.
    #[must_use]
    pub fn connection(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Rings when there is something to [`Self::poll_events`].
    #[must_use]
    pub const fn report_bell(&self) -> &Doorbell {
        &self.report_bell
    }

    /// CONTEXT, to read.
    #[must_use]
    pub fn contexts(&self) -> &[Context] {
        &self.contexts
    }

    fn reports(&self) -> &Reports {
        // One element was mapped in `map`.
        &self.reports[0]
    }

    fn workers(&self) -> impl Iterator<Item = &WorkerReport> {
        self.reports().worker.iter().take(self.worker_bells.len())
    }

    fn request_unbind(&self, seq: u64) {
        self.reports().requested_unbind_seq.store(seq, Ordering::SeqCst);
        self.worker_bells.iter().for_each(Doorbell::ring);
    }

    /// Carries out one command. What it causes is reported by [`Self::poll_events`], a refusal at once.
    #[must_use]
    pub fn carry_out(&mut self, command: TableCommand) -> Option<TableEvent> {
        match command {
            TableCommand::Unbind { slot, seq } => {
                self.bindings.unbind(slot.index());
                self.request_unbind(seq);
                None
            }
            TableCommand::Install { seq, mut entry } => {
                entry.seq = seq;
                let expect = Some(entry.word);
                let put = self.put(&entry, seq, SlotId(entry.slot), expect);
                entry.open_key.zeroize();
                entry.seal_key.zeroize();
                put
            }
            TableCommand::Remove { seq, slot, word } => {
                let entry = InstallEntry {
                    seq,
                    word: word.0,
                    op: InstallOp::Remove as u32,
                    slot: slot.0,
                    ..bytemuck::Zeroable::zeroed()
                };
                // A full mailbox refuses a removal too; the keys then go when the slot is used again.
                self.put(&entry, seq, slot, None).map(|_| TableEvent::Installed { seq })
            }
            TableCommand::Bind { slot, word, remote, local } => {
                self.bindings.bind(slot.index(), &BindingEntry::new(remote, local), word);
                None
            }
            TableCommand::RouteAdd { prefix, slot } => {
                self.route_add(&prefix, slot.index());
                None
            }
            TableCommand::RouteRemove { prefix, slot } => {
                self.route_remove(&prefix, slot.index());
                None
            }
        }
    }

    fn put(
        &mut self,
        entry: &InstallEntry,
        seq: u64,
        slot: SlotId,
        expect: Option<u64>,
    ) -> Option<TableEvent> {
        if !self.mailbox.put(entry) {
            return Some(TableEvent::InstallRefused { seq });
        }
        self.installing.push_back(Installing { seq, slot_index: slot.index(), expect });
        self.installer_bell.ring();
        None
    }

    fn route_add(&mut self, prefix: &Prefix, slot_index: u32) {
        let (addr, len) = prefix.mapped();
        let key = (u32::from(len), addr);
        match self.routes.insert(&Key::new(key.0, addr), slot_index, 0) {
            Ok(()) => {
                self.led.insert(key, slot_index);
            }
            Err(error) => {
                tracing::error!(%prefix, %error, "route not stored: traffic to this prefix is not forwarded")
            }
        }
    }

    fn route_remove(&mut self, prefix: &Prefix, slot_index: u32) {
        let (addr, len) = prefix.mapped();
        let key = (u32::from(len), addr);
        if self.led.get(&key) != Some(&slot_index) {
            return;
        }
        self.led.remove(&key);
        if let Err(error) = self.routes.remove(&Key::new(key.0, addr)) {
            tracing::error!(%prefix, %error, "route not removed; the workers refuse its traffic all the same");
        }
    }

    /// What the data plane has reported since the last call.
    pub fn poll_events(&mut self, into: &mut Vec<TableEvent>) {
        let passed = self.workers().map(|w| w.unbind_seq.load(Ordering::Acquire)).min().unwrap_or(0);
        if let Phase::Clearing(seq) = self.phase {
            if passed < seq {
                return;
            }
            self.phase = Phase::Up;
            self.quiesced = passed;
            into.push(TableEvent::DataPlaneUp {
                slots: self.welcome.slots,
                context_kept: self.welcome.context_kept != 0,
            });
        }
        if passed > self.quiesced {
            self.quiesced = passed;
            into.push(TableEvent::Quiesced { seq: passed });
        }
        self.poll_installed(into);
        self.poll_confirmed(into);
    }

    fn poll_installed(&mut self, into: &mut Vec<TableEvent>) {
        let applied = self.workers().map(|w| w.install_seq.load(Ordering::Acquire)).min().unwrap_or(0);
        while let Some(first) = self.installing.front()
            && first.seq <= applied
        {
            // The installer makes the tag before it hands out; a refused entry leaves another one.
            let tag =
                self.contexts.get(first.slot_index as usize).map_or(0, |c| c.tag.load(Ordering::Acquire));
            let seq = first.seq;
            let taken = first.expect.is_none_or(|word| word == tag);
            into.push(if taken { TableEvent::Installed { seq } } else { TableEvent::InstallRefused { seq } });
            self.installing.pop_front();
        }
    }

    fn poll_confirmed(&mut self, into: &mut Vec<TableEvent>) {
        for index in 0..self.worker_bells.len() {
            let Some(worker) = self.reports().worker.get(index) else { continue };
            let (written, read) =
                (worker.events_written.load(Ordering::Acquire), worker.events_read.load(Ordering::Relaxed));
            let lost = worker.events_lost.load(Ordering::Acquire);
            let waiting = written.wrapping_sub(read);
            let mut slots: Vec<u64> = Vec::new();
            if waiting <= EVENT_RING_LEN as u64 {
                slots.extend((0..waiting).filter_map(|n| {
                    let at = read.wrapping_add(n) as usize % EVENT_RING_LEN;
                    worker.events.get(at).map(|event| event.load(Ordering::Relaxed))
                }));
            }
            worker.events_read.store(written, Ordering::Release);
            // Events were lost, or the ring's counters make no sense: every slot may have been confirmed.
            if waiting > EVENT_RING_LEN as u64 || self.events_lost.get(index) != Some(&lost) {
                slots = (0..u64::from(self.welcome.slots)).collect();
                if let Some(known) = self.events_lost.get_mut(index) {
                    *known = lost;
                }
            }
            into.extend(slots.into_iter().filter_map(|slot_index| self.confirmation(slot_index)));
        }
    }

    fn confirmation(&self, slot_index: u64) -> Option<TableEvent> {
        let context = self.contexts.get(usize::try_from(slot_index).ok()?)?;
        let word = BindingWord(context.confirmed.load(Ordering::Acquire));
        let slot_index = u32::try_from(slot_index).ok()?;
        word.is_bound().then_some(TableEvent::Confirmed { slot_index, word })
    }
}

/// CONTEXT as the engine reads it.
#[derive(Clone, Copy, Debug)]
pub struct Contexts<'a>(pub &'a [Context]);

impl Contexts<'_> {
    fn at(&self, slot_index: u32) -> Option<&Context> {
        self.0.get(slot_index as usize)
    }
}

impl ContextView for Contexts<'_> {
    fn last_heard(&self, slot_index: u32) -> Option<BootTime> {
        let at = self.at(slot_index)?.last_heard_ns.load(Ordering::Acquire);
        (at != 0).then_some(BootTime(at))
    }

    fn peer_interval_ms(&self, slot_index: u32) -> Option<u32> {
        let interval = self.at(slot_index)?.peer_interval_ms.load(Ordering::Acquire);
        u32::try_from(interval).ok().filter(|interval| *interval != 0)
    }

    fn confirmed(&self, slot_index: u32, word: BindingWord) -> bool {
        self.at(slot_index).is_some_and(|context| context.confirmed.load(Ordering::Acquire) == word.0)
    }

    fn highest_counter(&self, slot_index: u32, key_number: u32) -> Option<u64> {
        let state = self.at(slot_index)?.keys.get(key_number as usize % 2)?;
        if state.key_number_plus_one.load(Ordering::Acquire) != u64::from(key_number) + 1 {
            return None;
        }
        state.window_end.load(Ordering::Acquire).checked_sub(1)
    }

    fn traffic(&self, slot_index: u32) -> Traffic {
        self.at(slot_index).map_or_else(Traffic::default, |context| Traffic {
            packets_in: context.packets_in.load(Ordering::Relaxed),
            bytes_in: context.bytes_in.load(Ordering::Relaxed),
            packets_out: context.packets_out.load(Ordering::Relaxed),
            bytes_out: context.bytes_out.load(Ordering::Relaxed),
        })
    }
}
