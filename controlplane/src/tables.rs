//! The shared tables' writer: carries out the engine's commands and turns the workers' reports into events.
//!
//! Orders of stores are the contract of `docs/ARCHITECTURE.md`; what is read here comes from another process and is
//! believed only within its bounds.

mod contexts;
mod error;

pub use contexts::Contexts;
pub use error::TablesError;

use crate::edge::{Edge, EdgeRefusals};
use crate::ending::Leaving;
use crate::engine::{HandleChange, Kept, TableCommand, TableEvent};
use crate::journal::Journal;
use crate::reports::{Reading, request_unbind};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap as EdgeHandles, Map, MapData};
use error::watch;
use jvpn_abi::edge::HandleEntry;
use jvpn_abi::tables::{BindingEntry, BindingWord, Context, InstallEntry, InstallOp, MAX_WORKERS, Reports};
use jvpn_abi::wire::SlotId;
use jvpn_abi::wire::data::MAX_SLOTS;
use jvpn_abi::{BootTime, CONTRACT_VERSION};
use jvpn_session::messages::Prefix;
use jvpn_tables::handover::{Connection, Hello, WELCOME_FIXED_FDS, Welcome};
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::{Bindings, Doorbell, InnerPrefix, Mapping, PrefixError, PrefixWriter, Prefixes};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use zeroize::Zeroize;

/// What an earlier data plane left and its successor gets.
#[derive(Debug)]
pub struct Legacy {
    context: OwnedFd,
    udp: OwnedFd,
    slots: u32,
}

/// JOURNAL in the greeting.
#[derive(Clone, Copy, Debug)]
pub enum Offer<'a> {
    /// The one that this process writes: the data plane keeps it for the next.
    Mine(&'a Journal),
    /// None yet: the data plane hands out what it keeps, or makes one of so many elements.
    Wish(u32),
}

/// JOURNAL as the data plane handed it out.
#[derive(Debug)]
pub struct JournalHandout {
    /// Its memory.
    pub fd: OwnedFd,
    /// Elements.
    pub elements: u32,
    /// Whether a control plane may have written to it.
    pub kept: bool,
}

/// The tables of one data plane, mapped, with everything needed to write them.
#[derive(Debug)]
pub struct Tables {
    connection: Connection,
    process: OwnedFd,
    bindings: Bindings,
    routes: LpmTrie<MapData, [u8; 16], u32>,
    handles: EdgeHandles<MapData, [u8; 8], [u64; 3]>,
    edge: Edge,
    /// What ROUTES says, for the workers.
    prefixes: PrefixWriter,
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
    reading: Reading,
    waiting: VecDeque<Waiting>,
    /// Who is to be woken by [`Self::ring_bells`].
    unrung: Unrung,
}

/// A data plane that was greeted and has not answered yet. Nobody waits for it but the caller's own loop: it may be stopped,
/// or busy with others.
#[derive(Debug)]
pub struct Greeted {
    /// `None` once it has answered.
    ends: Option<(Connection, OwnedFd)>,
}

impl Greeted {
    /// Greets the data plane at `path` and hands over what an earlier one left. Does not wait.
    ///
    /// # Errors
    /// If nobody is there, or others wait there already.
    pub fn greet(path: &Path, legacy: Option<&Legacy>, journal: Offer<'_>) -> Result<Self, TablesError> {
        let connection = Connection::connect(path)?;
        let process = watch(connection.peer_pid()?)?;
        let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
        fds.extend(legacy.iter().flat_map(|left| [left.context.as_fd(), left.udp.as_fd()]));
        let hello = Hello::new(legacy.is_some(), legacy.is_some(), legacy.map_or(0, |left| left.slots));
        let hello = match journal {
            Offer::Mine(journal) => {
                fds.push(journal.fd());
                hello.with_journal(true, journal.elements())
            }
            Offer::Wish(elements) => hello.with_journal(false, elements),
        };
        connection.send_hello(&hello, &fds)?;
        Ok(Self { ends: Some((connection, process)) })
    }

    /// Readable when there is something to [`Self::answer`].
    #[must_use]
    pub fn connection(&self) -> Option<BorrowedFd<'_>> {
        self.ends.as_ref().map(|(connection, _)| connection.as_fd())
    }

    /// Its tables, if it has answered. [`Tables::clear`] follows.
    ///
    /// # Errors
    /// If it has gone away, or is of another version.
    pub fn answer(&mut self) -> Result<Option<(Tables, JournalHandout)>, TablesError> {
        let Some((connection, _)) = &self.ends else { return Ok(None) };
        let Some((welcome, fds)) = connection.try_receive_welcome()? else { return Ok(None) };
        let Some((connection, process)) = self.ends.take() else { return Ok(None) };
        Tables::map(connection, process, welcome, fds).map(Some)
    }
}

impl Tables {
    fn map(
        connection: Connection,
        process: OwnedFd,
        welcome: Welcome,
        fds: Vec<OwnedFd>,
    ) -> Result<(Self, JournalHandout), TablesError> {
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
        let [
            bindings,
            routes,
            _gate,
            keys,
            context,
            reports,
            udp,
            installer_bell,
            report_bell,
            handles,
            journal,
            edge,
            prefixes,
        ] = fixed;
        let journal = JournalHandout {
            fd: journal,
            elements: welcome.journal_records,
            kept: welcome.journal_kept != 0,
        };
        let contexts = Mapping::new("CONTEXT", context.as_fd(), welcome.slots as usize)?;
        let reports: Mapping<Reports> = Mapping::new("REPORTS", reports.as_fd(), 1)?;
        same_contract(&reports[0])?;
        let tables = Self {
            connection,
            process,
            bindings: Bindings::map(bindings.as_fd(), welcome.slots)?,
            routes: LpmTrie::try_from(Map::LpmTrie(MapData::from_fd(routes)?))?,
            handles: EdgeHandles::try_from(Map::HashMap(MapData::from_fd(handles)?))?,
            edge: Edge::open(edge)?,
            prefixes: PrefixWriter::take(Prefixes::map(prefixes.as_fd(), welcome.slots)?),
            led: HashMap::new(),
            mailbox: KeyMailbox::map(keys.as_fd())?,
            contexts,
            reading: Reading::new(
                &reports[0],
                welcome.slots,
                welcome.workers as usize,
                welcome.context_kept != 0,
            ),
            waiting: VecDeque::new(),
            unrung: Unrung::default(),
            reports,
            installer_bell: Doorbell::from_fd(installer_bell),
            report_bell: Doorbell::from_fd(report_bell),
            worker_bells: fds.map(Doorbell::from_fd).collect(),
            context_fd: context,
            udp,
            welcome,
        };
        Ok((tables, journal))
    }

    /// The word of a slot now.
    #[must_use]
    pub fn word(&self, slot_index: u32) -> BindingWord {
        self.bindings.word(slot_index)
    }

    /// Removes every binding and route that an earlier control plane left, but for what `kept` names: that is not
    /// touched. `None` keeps nothing, and the data plane is new to the engine.
    ///
    /// # Errors
    /// If a table refuses.
    pub fn clear(&mut self, kept: Option<&Kept>) -> Result<(), TablesError> {
        let words = kept.map(|kept| &kept.words);
        for slot_index in 0..self.welcome.slots {
            let word = self.bindings.word(slot_index);
            let is_named = words.and_then(|words| words.get(&slot_index)) == Some(&word);
            if word != BindingWord::UNBOUND && !is_named {
                self.bindings.unbind(slot_index);
            }
        }
        let routes = kept.iter().flat_map(|kept| &kept.routes);
        let named: HashMap<(u32, [u8; 16]), u32> = routes
            .map(|(prefix, slot)| {
                let (addr, len) = prefix.mapped();
                ((u32::from(len), addr), slot.index())
            })
            .collect();
        let left: Vec<(Key<[u8; 16]>, u32)> = self.routes.iter().collect::<Result<_, _>>()?;
        for (key, slot_index) in left {
            let name = (key.prefix_len(), key.data());
            if named.get(&name) == Some(&slot_index) {
                self.led.insert(name, slot_index);
            } else {
                self.routes.remove(&key)?;
            }
        }
        self.clear_prefixes(&named);
        let known: Vec<[u8; 8]> = self.handles.keys().collect::<Result<_, _>>()?;
        for handle in known {
            self.handles.remove(&handle)?;
        }
        let seq = self.reports().requested_unbind_seq.load(Ordering::SeqCst).wrapping_add(1);
        self.request_unbind(seq);
        match kept {
            Some(_) => self.reading.adopting(seq),
            None => self.reading.clearing(seq),
        }
        Ok(())
    }

    /// What the next data plane gets, when this one is gone; until it is, what can still be asked of it.
    #[must_use]
    pub fn into_legacy(self, now: BootTime) -> (Legacy, Mapping<Context>, Leaving) {
        let Self { context_fd, udp, welcome, contexts, process, bindings, .. } = self;
        let legacy = Legacy { context: context_fd, udp, slots: welcome.slots };
        (legacy, contexts, Leaving::new(process, bindings, now))
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

    /// Whether the engine knows of this data plane: until then nobody is served.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.reading.is_up()
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

    fn request_unbind(&mut self, seq: u64) {
        request_unbind(self.reports(), seq);
        self.unrung.workers = true;
    }

    /// Wakes workers and installer, if there is something for them. Whoever is about to sleep, or has carried out many
    /// commands, calls this: in a storm one ring then stands for many commands.
    pub fn ring_bells(&mut self) {
        let Unrung { workers, installer } = std::mem::take(&mut self.unrung);
        if workers {
            self.worker_bells.iter().for_each(Doorbell::ring);
        }
        if installer {
            self.installer_bell.ring();
        }
    }

    /// Carries out one command; [`Self::ring_bells`] follows. What it causes is reported by [`Self::poll_events`], a refusal
    /// at once.
    #[must_use]
    pub fn carry_out(&mut self, command: TableCommand) -> Option<TableEvent> {
        match command {
            TableCommand::Unbind { slot, seq } => {
                self.bindings.unbind(slot.index());
                self.request_unbind(seq);
                None
            }
            // Memory of its own, which outlives these tables: the loop writes it.
            TableCommand::Journal { .. } => None,
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

    /// Tells the edge of a handle. What it does not learn only costs the request its reserved share.
    pub fn tell_edge(&mut self, change: HandleChange) {
        let outcome = match change {
            HandleChange::Known(handle) => {
                self.handles.insert(handle, bytemuck::cast::<_, [u64; 3]>(HandleEntry::FRESH), 0)
            }
            HandleChange::Shown(handle) => {
                self.handles.insert(handle, bytemuck::cast::<_, [u64; 3]>(HandleEntry::SHOWN), 0)
            }
            HandleChange::Forgotten(handle) => self.handles.remove(&handle),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "HANDLES not updated");
        }
    }

    /// What the edge has refused since this was last asked; `None` if that is nothing, or cannot be had.
    pub fn edge_refusals(&mut self) -> Option<EdgeRefusals> {
        self.edge.poll().unwrap_or_else(|error| {
            tracing::debug!(%error, "EDGE cannot be read");
            None
        })
    }

    fn put(
        &mut self,
        entry: &InstallEntry,
        seq: u64,
        slot: SlotId,
        expect: Option<u64>,
    ) -> Option<TableEvent> {
        self.waiting.push_back(Waiting { entry: *entry, expect });
        if self.waiting.len() > MAX_WAITING {
            if let Some(mut refused) = self.waiting.pop_back() {
                refused.wipe();
            }
            return Some(TableEvent::InstallRefused { seq });
        }
        self.reading.expect(seq, slot.index(), expect);
        self.fill_mailbox();
        None
    }

    /// Moves waiting entries into the mailbox, in order, as far as it has room; the rest follows with the next report.
    fn fill_mailbox(&mut self) {
        let mut moved = false;
        while let Some(first) = self.waiting.front_mut()
            && self.mailbox.put(&first.entry)
        {
            first.wipe();
            self.waiting.pop_front();
            moved = true;
        }
        self.unrung.installer |= moved;
    }

    fn route_add(&mut self, prefix: &Prefix, slot_index: u32) {
        let (addr, len) = prefix.mapped();
        let key = (u32::from(len), addr);
        // Workers first: what XDP steers must mean something to them.
        if let Err(error) = self.prefix_add(key, slot_index) {
            tracing::error!(%prefix, %error, "route not stored: traffic to this prefix is not forwarded");
            return;
        }
        match self.routes.insert(&Key::new(key.0, addr), slot_index, 0) {
            Ok(()) => {
                self.led.insert(key, slot_index);
            }
            Err(error) => {
                // ROUTES leads where it did before, and so do the workers.
                let before = self.led.get(&key).copied();
                if before.is_none_or(|before| self.prefix_add(key, before).is_err()) {
                    self.prefix_remove(key, slot_index);
                }
                tracing::error!(%prefix, %error, "route not stored: traffic to this prefix is not forwarded")
            }
        }
    }

    fn prefix_add(&mut self, (len, addr): (u32, [u8; 16]), slot_index: u32) -> Result<(), PrefixError> {
        let Some(prefix) = InnerPrefix::new(u128::from_be_bytes(addr), len) else { return Ok(()) };
        self.unrung.installer = true;
        self.prefixes.insert(prefix, slot_index)
    }

    fn prefix_remove(&mut self, (len, addr): (u32, [u8; 16]), slot_index: u32) {
        let Some(prefix) = InnerPrefix::new(u128::from_be_bytes(addr), len) else { return };
        self.unrung.installer |= self.prefixes.remove(prefix, slot_index);
    }

    /// Leaves in PREFIXES what ROUTES has after [`Self::clear`], and nothing else.
    fn clear_prefixes(&mut self, named: &HashMap<(u32, [u8; 16]), u32>) {
        let there: Vec<(InnerPrefix, u32)> = self.prefixes.table().iter().collect();
        for (prefix, slot_index) in there {
            let name = (prefix.bits(), prefix.network().to_be_bytes());
            if named.get(&name) != Some(&slot_index) {
                self.prefix_remove(name, slot_index);
            }
        }
        let led: Vec<((u32, [u8; 16]), u32)> = self.led.iter().map(|(key, slot)| (*key, *slot)).collect();
        for (key, slot_index) in led {
            if let Err(error) = self.prefix_add(key, slot_index) {
                tracing::error!(%error, "a route that is kept finds no room");
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
        self.prefix_remove(key, slot_index);
    }

    /// What the data plane has reported since the last call.
    pub fn poll_events(&mut self, into: &mut Vec<TableEvent>) {
        self.fill_mailbox();
        // One element was mapped in `map`.
        self.reading.poll(&self.reports[0], &self.contexts, into);
    }
}

/// Refuses tables of another version.
fn same_contract(reports: &Reports) -> Result<(), TablesError> {
    let contract = reports.contract_version.load(Ordering::Acquire);
    if contract == u64::from(CONTRACT_VERSION) {
        return Ok(());
    }
    let what = format!("tables of contract version {contract}, this process has {CONTRACT_VERSION}");
    Err(TablesError::Implausible(what))
}

/// Bells that are to be rung.
#[derive(Clone, Copy, Debug, Default)]
struct Unrung {
    workers: bool,
    installer: bool,
}

/// An entry that did not fit into the mailbox yet.
struct Waiting {
    entry: InstallEntry,
    expect: Option<u64>,
}

impl Waiting {
    fn wipe(&mut self) {
        self.entry.open_key.zeroize();
        self.entry.seal_key.zeroize();
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting")
            .field("seq", &self.entry.seq)
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

/// Entries that may wait: one for every slot there can be, as when a data plane restarts, and as many removals.
const MAX_WAITING: usize = 2 * MAX_SLOTS as usize;
