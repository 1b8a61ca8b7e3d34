//! The installer: takes entries from the key mailbox, makes or adopts CONTEXT, expands the keys and hands one shared,
//! immutable [`SlotContext`] to every worker through a queue. Workers neither allocate nor free: what they replace goes
//! back through another queue and is dropped here.

use super::windows::{WindowLease, WindowPool};
use super::{Handout, KeySet, Refusal, SlotContext, WORKER_QUEUE, WorkerQueues, key_state, sending};
use crate::frame::Mac;
use crate::hops::WanHops;
use crate::tables::Tables;
use jvpn_abi::Word;
use jvpn_abi::ports::{MAX_PORTS, PortMark};
use jvpn_abi::tables::{BindingWord, Context, InstallEntry, InstallOp, KeyState};
use jvpn_abi::wire::data::SlotId;
use jvpn_crypto::window::release_abandoned_lock;
use jvpn_tables::keys::KeyMailbox;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroize;

/// The installer: everything about a binding that may allocate, block or take time.
#[derive(Debug)]
pub struct Installer {
    tables: Arc<Tables>,
    windows: Arc<WindowPool>,
    workers: Vec<Arc<WorkerQueues>>,
    wan: Mac,
    /// The way to clients that may be sent something before they are heard.
    hops: Option<Arc<WanHops>>,
    /// Numbers of the WAN's interfaces that are there, a bit each.
    wan_numbers: u64,
    /// What was handed out last, by slot index: a rekey adds to it.
    installed: Mutex<Box<[Option<Arc<SlotContext>>]>>,
}

/// What one run of the installer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Entries handed to the workers.
    pub handed: u32,
    /// Entries refused.
    pub refused: u32,
    /// A worker's queue is full: run again soon, entries wait in the mailbox.
    pub blocked: bool,
}

impl Installer {
    /// An installer for these workers.
    #[must_use]
    pub fn new(tables: Arc<Tables>, workers: Vec<Arc<WorkerQueues>>, wan: Mac) -> Self {
        let windows = WindowPool::new(Arc::clone(&tables));
        let installed = Mutex::new(tables.contexts.iter().map(|_| None).collect());
        Self { tables, windows, workers, wan, hops: None, wan_numbers: 1, installed }
    }

    /// For a WAN with these interfaces, by number. Without it there is the first one alone.
    #[must_use]
    pub fn with_wan_numbers(mut self, numbers: impl IntoIterator<Item = usize>) -> Self {
        self.wan_numbers = numbers.into_iter().fold(0, |all, number| all | 1 << (number % MAX_PORTS));
        self
    }

    /// With the way to clients that may be sent something before they are heard. Without it nobody is.
    #[must_use]
    pub fn with_hops(mut self, hops: Arc<WanHops>) -> Self {
        self.hops = Some(hops);
        self
    }

    /// Drops what workers retired and installs whatever waits in the mailbox.
    pub fn run(&self, mailbox: &KeyMailbox) -> Installed {
        let mut done = Installed::default();
        loop {
            self.free_retired();
            if self.workers.iter().any(|worker| {
                worker.handouts.len() >= WORKER_QUEUE - 1 || worker.retired.len() >= WORKER_QUEUE
            }) {
                done.blocked = true;
                break;
            }
            let Some(mut entry) = mailbox.take() else { break };
            let outcome = self.install(&entry);
            let seq = entry.seq;
            entry.zeroize_keys();
            match outcome {
                Ok(()) => done.handed += 1,
                Err(refusal) => {
                    tracing::warn!(seq, slot = entry.slot, %refusal, "install entry refused");
                    self.refuse(&entry);
                    done.refused += 1;
                }
            }
            self.tables.reports().installer_seq.store(seq, Ordering::Release);
        }
        if done.handed + done.refused > 0 {
            self.workers.iter().for_each(|worker| worker.bell.ring());
        }
        done
    }

    fn free_retired(&self) {
        for worker in &self.workers {
            while worker.retired.pop().is_some() {}
        }
    }

    /// Reports the refusal, where it stays however many are refused after it: a refused binding leaves a CONTEXT that is
    /// not its own, a refused rekey its sequence at the key set. The workers pass the sequence too, so that later ones can
    /// be told apart.
    fn refuse(&self, entry: &InstallEntry) {
        let reports = self.tables.reports();
        reports.refused.fetch_add(1, Ordering::Relaxed);
        reports.refused_seq.store(entry.seq, Ordering::Release);
        let slot_index = SlotId(entry.slot).index();
        let op = InstallOp::from_number(entry.op);
        let rekeys = matches!(op, Some(InstallOp::AddKey | InstallOp::AdoptKey | InstallOp::DropKey));
        if let Some(context) = self.tables.contexts.get(slot_index as usize) {
            if rekeys {
                key_state(context, entry.key_number).refused_seq.store(entry.seq, Ordering::Release);
            } else {
                let tag = &context.tag;
                let _other = tag.compare_exchange(entry.word, 0, Ordering::SeqCst, Ordering::SeqCst);
            }
        }
        // A refused rekey leaves the binding as it is; a refused binding leaves none.
        let left = if rekeys { self.known(slot_index) } else { None };
        self.hand_out(entry.seq, slot_index, left);
    }

    fn install(&self, entry: &InstallEntry) -> Result<(), Refusal> {
        let slot = SlotId(entry.slot);
        let word = BindingWord(entry.word);
        let number = entry.key_number;
        let context = self.tables.contexts.get(slot.index() as usize).ok_or(Refusal::Slot)?;
        let handout = match InstallOp::from_number(entry.op).ok_or(Refusal::Operation)? {
            InstallOp::Remove => {
                self.windows.forget_slot(slot.index());
                None
            }
            InstallOp::Install => {
                let expanded = SlotContext::expand(entry, self.wan)?;
                // Nobody adopts what was here before; only then are its windows others'.
                context.tag.store(0, Ordering::SeqCst);
                self.windows.forget_slot(slot.index());
                let window = self.windows.take(slot.index(), number).ok_or(Refusal::Windows)?;
                clear(context, word, number, self.early_hop(&expanded));
                Some(expanded.with_keys(KeySet::expand(entry, window)?))
            }
            InstallOp::Adopt => {
                let expanded = SlotContext::expand(entry, self.wan)?;
                let window = self.adopt(context, word, (slot.index(), number))?;
                self.release_locks(context, slot.index(), word);
                self.forget_lost_hop(context);
                Some(expanded.with_keys(KeySet::expand(entry, window)?))
            }
            InstallOp::AddKey => {
                super::suite(entry)?;
                let known = self.bound_to(slot.index(), word)?;
                let window = self.add_key(context, &known, number)?;
                Some(SlotContext::clone(&known).with_keys(KeySet::expand(entry, window)?))
            }
            InstallOp::AdoptKey => {
                super::suite(entry)?;
                let known = self.bound_to(slot.index(), word)?;
                let window = self.adopt(context, word, (slot.index(), number))?;
                Some(SlotContext::clone(&known).with_keys(KeySet::expand(entry, window)?))
            }
            InstallOp::DropKey => {
                let known = self.bound_to(slot.index(), word)?;
                if sending(context) == u64::from(number) + 1 {
                    return Err(Refusal::KeyNumber);
                }
                // Said again when a worker did not report in time; then there may be nothing to drop any more.
                let left = SlotContext::clone(&known);
                Some(if known.keys_of(number).is_some() { left.without_keys(number) } else { left })
            }
        };
        self.hand_out(entry.seq, slot.index(), handout.map(Arc::new));
        Ok(())
    }

    /// A worker that died inside a window's lock left it locked. What a worker of this process has keys of is in its hands:
    /// freed, two of them would be in one window at a time.
    fn release_locks(&self, context: &Context, slot_index: u32, word: BindingWord) {
        let known = self.known(slot_index).filter(|known| known.word == word);
        for (state, phase) in context.keys.iter().zip([false, true]) {
            if known.as_ref().is_none_or(|known| known.keys(phase).is_none()) {
                release_abandoned_lock(state);
            }
        }
    }

    /// The next hop of a binding whose address is proven, as CONTEXT names it; 0 = it has to be learned.
    fn early_hop(&self, slot: &SlotContext) -> u64 {
        let hops = self.hops.as_ref().filter(|_| slot.early_packets > 0);
        hops.and_then(|hops| hops.next_hop(slot.remote)).unwrap_or(0)
    }

    /// The next frame of the client teaches the way back anew, if it led out of an interface that is not there any more.
    fn forget_lost_hop(&self, context: &Context) {
        let hop = context.next_hop_mac.load(Ordering::Acquire);
        if self.wan_numbers & 1 << PortMark::of_next_hop(hop).0 == 0 {
            // Unless a worker that had the binding before has learned another one meanwhile.
            let _learned = context.next_hop_mac.compare_exchange(hop, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// What is installed in a slot, if it is this binding.
    fn bound_to(&self, slot_index: u32, word: BindingWord) -> Result<Arc<SlotContext>, Refusal> {
        self.known(slot_index).filter(|known| known.word == word).ok_or(Refusal::NotInstalled)
    }

    /// Makes room in CONTEXT for the key number after the one in use, and says which window is its.
    ///
    /// A set is cleared only when no worker holds keys of it. Keys of the same number that are there already are replaced
    /// without clearing, and only if nothing was sealed or opened under them: a counter that a worker takes in that moment
    /// under the old keys is not taken again, neither under them nor under the new ones. So they share a window, too.
    fn add_key(&self, context: &Context, known: &SlotContext, number: u32) -> Result<WindowLease, Refusal> {
        if number == 0
            || context.tag.load(Ordering::SeqCst) != known.word.0
            || sending(context) != u64::from(number)
        {
            return Err(Refusal::KeyNumber);
        }
        let (state, slot_index) = (key_state(context, number), known.slot.index());
        match known.keys(number & 1 == 1) {
            None => {
                // Nobody adopts the key before any more; only then is there another window.
                state.key_number_plus_one.store(0, Ordering::SeqCst);
                let window = self.windows.take(slot_index, number).ok_or(Refusal::Windows)?;
                clear_keys(state);
                state.key_number_plus_one.store(u64::from(number) + 1, Ordering::SeqCst);
                Ok(window)
            }
            Some(keys) if keys.number == number && is_unused(state) => {
                self.windows.again(&keys.window, (slot_index, number))
            }
            Some(_) => Err(Refusal::KeyNumber),
        }
    }

    /// Goes on with a CONTEXT that an earlier data plane left: only if it is this binding's, has this key number, and the
    /// window of it.
    fn adopt(
        &self,
        context: &Context,
        word: BindingWord,
        (slot_index, number): (u32, u32),
    ) -> Result<WindowLease, Refusal> {
        let state = key_state(context, number);
        if context.tag.load(Ordering::SeqCst) != word.0 {
            return Err(Refusal::NotAdoptable);
        }
        if state.key_number_plus_one.load(Ordering::SeqCst) != u64::from(number) + 1 {
            return Err(Refusal::KeyNumber);
        }
        let known = self.known(slot_index).filter(|known| known.word == word);
        match known.as_ref().and_then(|known| known.keys_of(number)) {
            // Adopted before, by this process.
            Some(keys) => self.windows.again(&keys.window, (slot_index, number)),
            None => self.windows.adopt(slot_index, number),
        }
    }

    /// Replay windows that are in use.
    #[must_use]
    pub fn windows_in_use(&self) -> usize {
        self.windows.held()
    }

    fn known(&self, slot_index: u32) -> Option<Arc<SlotContext>> {
        let installed = self.installed.lock().unwrap_or_else(PoisonError::into_inner);
        installed.get(slot_index as usize)?.clone()
    }

    fn hand_out(&self, seq: u64, slot_index: u32, context: Option<Arc<SlotContext>>) {
        for worker in &self.workers {
            let handout = Handout { seq, slot_index, context: context.clone() };
            // `run` left room for one.
            let full = worker.handouts.push(handout).is_err();
            debug_assert!(!full, "the worker's queue was checked for room");
        }
        let mut installed = self.installed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = installed.get_mut(slot_index as usize) {
            *place = context;
        }
    }
}

/// Wiping of entries that were copied out of the mailbox.
trait ZeroizeKeys {
    fn zeroize_keys(&mut self);
}

impl ZeroizeKeys for InstallEntry {
    fn zeroize_keys(&mut self) {
        self.open_key.zeroize();
        self.seal_key.zeroize();
    }
}

/// Makes CONTEXT new for a binding: nothing of the one before is left, the tag last.
pub fn clear<A: Word>(context: &Context<A>, word: BindingWord, key_number: u32, next_hop: u64) {
    context.tag.store(0, Ordering::SeqCst);
    let small = [
        &context.confirmed,
        &context.confirmed_at_ns,
        &context.next_hop_mac,
        &context.send_key,
        &context.last_heard_ns,
        &context.peer_interval_ms,
        &context.packets_in,
        &context.bytes_in,
        &context.failed_opens,
        &context.packets_out,
        &context.bytes_out,
        &context.probes,
        &context.probe_transit_ns,
        &context.path_mtu,
    ];
    small.into_iter().chain(&context.samples).for_each(|cell| cell.store(0, Ordering::Relaxed));
    context.keys.iter().for_each(clear_keys);
    let named = u64::from(key_number) + 1;
    key_state(context, key_number).key_number_plus_one.store(named, Ordering::Relaxed);
    context.send_key.store(named, Ordering::Relaxed);
    context.next_hop_mac.store(next_hop, Ordering::Relaxed);
    context.tag.store(word.0, Ordering::SeqCst);
}

fn clear_keys<A: Word>(key: &KeyState<A>) {
    for cell in [
        &key.key_number_plus_one,
        &key.send_counter,
        &key.window_lock,
        &key.window_end,
        &key.received,
        &key.peer_received,
        &key.peer_end,
    ] {
        cell.store(0, Ordering::Relaxed);
    }
}

fn is_unused(state: &KeyState) -> bool {
    state.send_counter.load(Ordering::SeqCst) == 0 && state.window_end.load(Ordering::SeqCst) == 0
}
