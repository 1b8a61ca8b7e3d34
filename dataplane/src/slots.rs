//! Installed bindings: what workers hold per slot, and the installer that makes it outside the hot path.
//!
//! The installer takes entries from the key mailbox, clears or adopts CONTEXT, expands the keys and hands one shared,
//! immutable [`SlotContext`] to every worker through a queue. Workers neither allocate nor free: what they replace goes
//! back through another queue and is dropped here.

use crate::frame::{Mac, OuterTemplate};
use crate::tables::Tables;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::tables::{BindingWord, Context, InstallEntry, InstallOp, KeyState, MAX_PREFIXES};
use jvpn_abi::wire::{Suite, data::SlotId};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::aead::{OpenKey, SealKey};
use jvpn_crypto::window::Window;
use jvpn_tables::Doorbell;
use jvpn_tables::keys::KeyMailbox;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zeroize::Zeroize;

/// Installs that may wait for one worker. More than the key mailbox holds, so that a batch of entries fits.
const WORKER_QUEUE: usize = 1_024;

/// A binding as workers use it: keys expanded, headers prepared, prefixes ready to compare.
pub struct SlotContext {
    /// The word that must stand in BINDINGS for this to be valid.
    pub word: BindingWord,
    /// Slot as DATA names it.
    pub slot: SlotId,
    /// Shard for DATA towards the client.
    pub shard: u16,
    /// Number of the keys; its lowest bit is the key phase.
    pub key_number: u32,
    /// Opens frames of the client.
    pub open: OpenKey,
    /// Seals frames to the client.
    pub seal: SealKey,
    /// The client's side of the path.
    pub remote: Endpoint,
    /// The gateway's side of the path.
    pub local: Endpoint,
    /// Outer headers towards the client.
    pub outer: OuterTemplate,
    prefixes: Vec<(u128, u128)>,
}

impl std::fmt::Debug for SlotContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotContext")
            .field("slot", &self.slot)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Why an install entry is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The operation is none of ours.
    #[error("unknown operation")]
    Operation,
    /// The slot is beyond the table, or the word does not belong to it.
    #[error("slot and binding word do not fit")]
    Slot,
    /// No such suite.
    #[error("unknown suite")]
    Suite,
    /// The path is not IPv4 (this version's outer family).
    #[error("the path is not IPv4")]
    Path,
    /// A prefix is longer than an address, or there are too many.
    #[error("inner prefixes are malformed")]
    Prefixes,
    /// CONTEXT is not the one that an adopted binding left: its counters are unknown, so its keys must not be used.
    #[error("CONTEXT of the slot belongs to another binding")]
    NotAdoptable,
}

impl SlotContext {
    /// Expands an entry. `wan` is the MAC address that outer frames leave with.
    ///
    /// # Errors
    /// The field that makes no sense.
    pub fn expand(entry: &InstallEntry, wan: Mac) -> Result<Self, Refusal> {
        let slot = SlotId(entry.slot);
        let word = BindingWord(entry.word);
        if !word.is_bound() || word.serial() != slot.serial() {
            return Err(Refusal::Slot);
        }
        let suite = Suite::from_number(entry.suite).ok_or(Refusal::Suite)?;
        let remote = Endpoint { addr: entry.remote_addr, port: entry.remote_port };
        let local = Endpoint { addr: entry.local_addr, port: entry.local_port };
        let v4 = |endpoint: Endpoint| {
            endpoint.v4_octets().map(|octets| (Ipv4Addr::from(octets), endpoint.port)).ok_or(Refusal::Path)
        };
        Ok(Self {
            word,
            slot,
            shard: entry.shard,
            key_number: entry.key_number,
            open: OpenKey::new(suite, &entry.open_key),
            seal: SealKey::new(suite, &entry.seal_key),
            remote,
            local,
            outer: OuterTemplate::new(wan, v4(local)?, v4(remote)?),
            prefixes: prefixes(entry)?,
        })
    }

    /// Whether the peer may use this inner address.
    #[must_use]
    #[inline]
    pub fn owns(&self, addr: Ipv4Addr) -> bool {
        let addr = u128::from_be_bytes(addr.to_ipv6_mapped().octets());
        self.prefixes.iter().any(|(network, mask)| addr & mask == *network)
    }
}

fn prefixes(entry: &InstallEntry) -> Result<Vec<(u128, u128)>, Refusal> {
    let count = usize::from(entry.prefix_count);
    if count > MAX_PREFIXES {
        return Err(Refusal::Prefixes);
    }
    let pairs = entry.prefixes.iter().zip(entry.prefix_lens).take(count);
    pairs
        .map(|(addr, len)| {
            let mask = match len {
                0 => 0,
                1..=128 => u128::MAX << (128 - u32::from(len)),
                129.. => return Err(Refusal::Prefixes),
            };
            Ok((u128::from_be_bytes(*addr) & mask, mask))
        })
        .collect()
}

/// What a worker is told about a slot.
#[derive(Debug)]
pub struct Handout {
    /// Install sequence; the worker reports it when applied.
    pub seq: u64,
    /// Which slot.
    pub slot_index: u32,
    /// The binding, or `None` to drop what is there.
    pub context: Option<Arc<SlotContext>>,
}

/// The queues between the installer and one worker.
#[derive(Debug)]
pub struct WorkerQueues {
    /// Installer to worker.
    pub handouts: ArrayQueue<Handout>,
    /// Worker to installer: what it replaced.
    pub retired: ArrayQueue<Arc<SlotContext>>,
    /// Wakes the worker.
    pub bell: Doorbell,
}

impl WorkerQueues {
    /// Empty queues.
    ///
    /// # Errors
    /// If the system is out of descriptors.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            handouts: ArrayQueue::new(WORKER_QUEUE),
            retired: ArrayQueue::new(WORKER_QUEUE * 2),
            bell: Doorbell::new()?,
        })
    }
}

/// The installer: everything about a binding that may allocate, block or take time.
#[derive(Debug)]
pub struct Installer {
    tables: Arc<Tables>,
    workers: Vec<Arc<WorkerQueues>>,
    wan: Mac,
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
    pub const fn new(tables: Arc<Tables>, workers: Vec<Arc<WorkerQueues>>, wan: Mac) -> Self {
        Self { tables, workers, wan }
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
                    let reports = self.tables.reports();
                    reports.refused.fetch_add(1, Ordering::Relaxed);
                    reports.refused_seq.store(seq, Ordering::Release);
                    // The workers pass the sequence too, so that later ones can be told apart.
                    self.hand_out(seq, SlotId(entry.slot).index(), &None);
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

    fn install(&self, entry: &InstallEntry) -> Result<(), Refusal> {
        let slot = SlotId(entry.slot);
        let context = self.tables.contexts.get(slot.index() as usize).ok_or(Refusal::Slot)?;
        let op = [InstallOp::Install, InstallOp::Adopt, InstallOp::Remove]
            .into_iter()
            .find(|op| *op as u32 == entry.op);
        let handout = match op.ok_or(Refusal::Operation)? {
            InstallOp::Remove => None,
            InstallOp::Install => {
                let expanded = SlotContext::expand(entry, self.wan)?;
                clear(context, BindingWord(entry.word), entry.key_number);
                Some(Arc::new(expanded))
            }
            InstallOp::Adopt => {
                let expanded = SlotContext::expand(entry, self.wan)?;
                adopt(context, BindingWord(entry.word), entry.key_number)?;
                Some(Arc::new(expanded))
            }
        };
        self.hand_out(entry.seq, slot.index(), &handout);
        Ok(())
    }

    fn hand_out(&self, seq: u64, slot_index: u32, context: &Option<Arc<SlotContext>>) {
        for worker in &self.workers {
            let handout = Handout { seq, slot_index, context: context.clone() };
            // `run` left room for one.
            let full = worker.handouts.push(handout).is_err();
            debug_assert!(!full, "the worker's queue was checked for room");
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

/// The key set that a key number uses.
#[must_use]
pub fn key_state(context: &Context, key_number: u32) -> &KeyState {
    &context.keys[(key_number % 2) as usize]
}

/// Makes CONTEXT new for a binding: nothing of the one before is left, the tag last.
fn clear(context: &Context, word: BindingWord, key_number: u32) {
    context.tag.store(0, Ordering::SeqCst);
    let small = [
        &context.confirmed,
        &context.confirmed_at_ns,
        &context.next_hop_mac,
        &context.last_heard_ns,
        &context.peer_interval_ms,
        &context.packets_in,
        &context.bytes_in,
        &context.packets_out,
        &context.bytes_out,
    ];
    small.into_iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
    for key in &context.keys {
        for cell in
            [&key.send_counter, &key.key_number_plus_one, &key.window_lock, &key.window_end, &key.received]
        {
            cell.store(0, Ordering::Relaxed);
        }
        key.window.iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
    }
    key_state(context, key_number).key_number_plus_one.store(u64::from(key_number) + 1, Ordering::Relaxed);
    context.tag.store(word.0, Ordering::SeqCst);
}

/// Goes on with a CONTEXT that an earlier data plane left: only if it is this binding's.
fn adopt(context: &Context, word: BindingWord, key_number: u32) -> Result<(), Refusal> {
    let state = key_state(context, key_number);
    if context.tag.load(Ordering::SeqCst) != word.0
        || state.key_number_plus_one.load(Ordering::SeqCst) != u64::from(key_number) + 1
    {
        return Err(Refusal::NotAdoptable);
    }
    // A worker that died inside the window's lock left it locked; no worker of this process holds it yet.
    context.keys.iter().for_each(|key| Window::new(key).release_abandoned_lock());
    Ok(())
}

/// Whether a confirmed word stands in CONTEXT for this binding.
#[must_use]
#[inline]
pub fn is_confirmed(context: &Context, word: BindingWord) -> bool {
    context.confirmed.load(Ordering::Acquire) == word.0
}

/// Marks the binding confirmed. `true` for the one caller that did it.
#[must_use]
pub fn confirm(context: &Context, word: BindingWord, now: BootTime) -> bool {
    context.confirmed_at_ns.store(now.0, Ordering::Relaxed);
    context.confirmed.compare_exchange(0, word.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
