//! Installed bindings: what workers hold per slot, the words of CONTEXT that say how far a binding is, and the
//! [`Installer`] that makes it all outside the hot path.

mod installer;
mod windows;

pub use installer::{Installed, Installer, clear};
pub use windows::assign;

use crate::frame::{Address, Mac, OuterTemplate};
use crate::pipeline::{Expanded, PathV4, expanded_at, path_v4, prefetch_expanded};
use crossbeam_queue::ArrayQueue;
use jvpn_abi::tables::{BindingWord, Context, EARLY_PACKETS, InstallEntry, KeyState, MAX_PREFIXES};
use jvpn_abi::wire::{Suite, data::SlotId};
use jvpn_abi::{BootTime, Endpoint, Word};
use jvpn_crypto::aead::{OpenKey, SealKey};
use jvpn_crypto::limits::HARD_PACKETS;
use jvpn_tables::Doorbell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use windows::WindowLease;

/// Installs that may wait for one worker. More than the key mailbox holds, so that a batch of entries fits.
const WORKER_QUEUE: usize = 1_024;

/// A binding as workers use it: keys expanded, headers prepared, prefixes ready to compare. Never changed: a rekey hands
/// out another one that shares what stays.
#[derive(Clone)]
pub struct SlotContext {
    /// The word that must stand in BINDINGS for this to be valid.
    pub word: BindingWord,
    /// Slot as DATA names it.
    pub slot: SlotId,
    /// Shard for DATA towards the client.
    pub shard: u16,
    /// The client's side of the path.
    pub remote: Endpoint,
    /// The gateway's side of the path.
    pub local: Endpoint,
    /// Outer headers towards the client.
    pub outer: OuterTemplate,
    /// Frames that may be sealed before the first one of the client has opened; 0 = its address was not proven.
    pub early_packets: u64,
    /// The path as frames over IPv4 show it; `None` over IPv6.
    pub(crate) path_v4: Option<PathV4>,
    prefixes: OwnPrefixes,
    /// By key phase. Two during a rekey.
    keys: [Option<Arc<KeySet>>; 2],
}

/// The keys of one key number, expanded.
pub struct KeySet {
    /// Counts the rekeys of a binding; its lowest bit is the key phase.
    pub number: u32,
    /// Opens frames of the client.
    pub open: OpenKey,
    /// Seals frames to the client.
    pub seal: SealKey,
    /// Counters from this one on are neither sealed nor accepted.
    pub hard_packets: u64,
    suite: Suite,
    /// Where the cipher keeps what it made of the keys, for look-ahead alone.
    expanded: Expanded,
    /// Its replay window; free again when this goes.
    window: WindowLease,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("number", &self.number).finish_non_exhaustive()
    }
}

impl KeySet {
    fn expand(entry: &InstallEntry, window: WindowLease) -> Result<Self, Refusal> {
        let suite = suite(entry)?;
        let hard_packets = if entry.hard_packets == 0 { HARD_PACKETS } else { entry.hard_packets };
        let (open, seal) = (OpenKey::new(suite, &entry.open_key), SealKey::new(suite, &entry.seal_key));
        Ok(Self {
            number: entry.key_number,
            expanded: expanded_at(&open, &seal),
            open,
            seal,
            hard_packets: hard_packets.min(HARD_PACKETS),
            suite,
            window,
        })
    }

    /// Which replay window is its.
    #[must_use]
    #[inline]
    pub const fn window(&self) -> u32 {
        self.window.index()
    }

    /// Has what the cipher made of the opening key brought into the cache.
    #[inline]
    pub(crate) fn prefetch_open(&self) {
        prefetch_expanded(self.expanded.open, self.suite);
    }

    /// The same of the sealing key.
    #[inline]
    pub(crate) fn prefetch_seal(&self) {
        prefetch_expanded(self.expanded.seal, self.suite);
    }

    /// The key phase that its frames carry.
    #[must_use]
    #[inline]
    pub const fn phase(&self) -> bool {
        self.number & 1 == 1
    }
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
    /// The two ends of the path are of different families.
    #[error("the two ends of the path are of different address families")]
    Path,
    /// A prefix is longer than an address, or there are too many.
    #[error("inner prefixes are malformed")]
    Prefixes,
    /// CONTEXT is not the one that an adopted binding left: its counters are unknown, so its keys must not be used.
    #[error("CONTEXT of the slot belongs to another binding")]
    NotAdoptable,
    /// Key set and window of an adopted key do not agree whose the window is: what it accepted is unknown.
    #[error("the key has no replay window in CONTEXT")]
    NoWindow,
    /// The window that an adopted key names is another key's in this process, or was one's and was given back.
    #[error("the key's replay window is not its own any more")]
    WindowHeld,
    /// Keys of one number were replaced again and again, and no worker has given one back.
    #[error("too many keys of this number wait for the workers")]
    KeysWaiting,
    /// A rekey of a binding that is not installed.
    #[error("the binding is not installed")]
    NotInstalled,
    /// Every replay window is in use: more keys than two per slot.
    #[error("no replay window is free")]
    Windows,
    /// A key number that does not follow the one in use, or is not the one that CONTEXT was left with.
    #[error("the key number does not fit the keys of this binding")]
    KeyNumber,
}

impl SlotContext {
    /// What an entry says besides its keys, which are checked only. `wan` is the MAC address that outer frames leave with.
    ///
    /// # Errors
    /// The field that makes no sense.
    pub fn expand(entry: &InstallEntry, wan: Mac) -> Result<Self, Refusal> {
        let slot = SlotId(entry.slot);
        let word = BindingWord(entry.word);
        if !word.is_bound() || word.serial() != slot.serial() {
            return Err(Refusal::Slot);
        }
        suite(entry)?;
        let remote = Endpoint { addr: entry.remote_addr, port: entry.remote_port };
        let local = Endpoint { addr: entry.local_addr, port: entry.local_port };
        Ok(Self {
            word,
            slot,
            shard: entry.shard,
            remote,
            local,
            path_v4: path_v4(remote, local),
            outer: OuterTemplate::new(wan, local, remote).ok_or(Refusal::Path)?,
            early_packets: u64::from(entry.early_packets.min(EARLY_PACKETS)),
            prefixes: OwnPrefixes::read(entry)?,
            keys: [None, None],
        })
    }

    /// The keys of a phase, if there are any.
    #[must_use]
    #[inline]
    pub fn keys(&self, phase: bool) -> Option<&KeySet> {
        self.keys[usize::from(phase)].as_deref()
    }

    /// Has the keys brought into the cache. Of prefixes the usual one is here already.
    #[inline]
    pub(crate) fn prefetch_keys(&self) {
        self.keys.iter().flatten().for_each(|keys| crate::pipeline::prefetch_whole::<KeySet>(keys));
    }

    /// The keys of a number.
    #[must_use]
    #[inline]
    pub fn keys_of(&self, number: u32) -> Option<&KeySet> {
        self.keys(number & 1 == 1).filter(|keys| keys.number == number)
    }

    fn with_keys(mut self, keys: KeySet) -> Self {
        let place = usize::from(keys.phase());
        self.keys[place] = Some(Arc::new(keys));
        self
    }

    fn without_keys(mut self, number: u32) -> Self {
        self.keys[(number % 2) as usize] = None;
        self
    }

    /// Whether the peer may use this inner address.
    #[must_use]
    #[inline]
    pub fn owns(&self, address: Address) -> bool {
        self.prefixes.contains(address)
    }
}

fn suite(entry: &InstallEntry) -> Result<Suite, Refusal> {
    Suite::from_number(entry.suite).ok_or(Refusal::Suite)
}

/// Inner prefixes of the peer, as network and mask. Nearly every peer has one, which lies here; others lie elsewhere.
#[derive(Clone)]
struct OwnPrefixes {
    first: (u128, u128),
    others: Option<Arc<Vec<(u128, u128)>>>,
}

impl OwnPrefixes {
    /// No address has it.
    const NONE: (u128, u128) = (1, 0);

    fn read(entry: &InstallEntry) -> Result<Self, Refusal> {
        let mut all = prefixes(entry)?;
        let others = if all.len() > 1 { all.split_off(1) } else { Vec::new() };
        let first = all.first().copied().unwrap_or(Self::NONE);
        Ok(Self { first, others: (!others.is_empty()).then(|| Arc::new(others)) })
    }

    #[inline]
    fn contains(&self, address: Address) -> bool {
        let is_in = |(network, mask): &(u128, u128)| address.0 & mask == *network;
        is_in(&self.first) || self.others.as_ref().is_some_and(|others| others.iter().any(is_in))
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
    /// Wakes the installer: something was retired, with keys in it that nobody needs any more.
    pub installer_bell: Doorbell,
}

impl WorkerQueues {
    /// Empty queues of an installer that nobody has to wake.
    ///
    /// # Errors
    /// If the system is out of descriptors.
    pub fn new() -> std::io::Result<Self> {
        Self::waking(Doorbell::new()?)
    }

    /// Empty queues of the installer that waits for this bell.
    ///
    /// # Errors
    /// If the system is out of descriptors.
    pub fn waking(installer_bell: Doorbell) -> std::io::Result<Self> {
        Ok(Self {
            handouts: ArrayQueue::new(WORKER_QUEUE),
            retired: ArrayQueue::new(WORKER_QUEUE * 2),
            bell: Doorbell::new()?,
            installer_bell,
        })
    }
}

/// The key set that a key number uses.
#[must_use]
pub fn key_state<A>(context: &Context<A>, key_number: u32) -> &KeyState<A> {
    &context.keys[(key_number % 2) as usize]
}

/// Whether a confirmed word stands in CONTEXT for this binding.
#[must_use]
#[inline]
pub fn is_confirmed<A: Word>(context: &Context<A>, word: BindingWord) -> bool {
    context.confirmed.load(Ordering::Acquire) == word.0
}

/// Whether a binding that nobody has confirmed may seal one more frame: its address was proven in the request, and its
/// advance is not used up. What was sealed is what CONTEXT has counted, so neither a restart of a process nor the next one
/// gives it again. Workers that ask at the same moment may each seal one more. Nothing that was counted is given back: once
/// the binding is confirmed the next counter may be in use already.
#[must_use]
#[cold]
pub fn may_send_early(slot: &SlotContext, context: &Context) -> bool {
    slot.early_packets > 0
        && sending_keys(slot, context).is_some_and(|keys| {
            key_state(context, keys.number).send_counter.load(Ordering::Relaxed) < slot.early_packets
        })
}

/// Marks the binding confirmed. `true` for the one caller that did it.
#[must_use]
pub fn confirm<A: Word>(context: &Context<A>, word: BindingWord, now: BootTime) -> bool {
    context.confirmed_at_ns.store(now.0, Ordering::Relaxed);
    context.confirmed.compare_exchange(0, word.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Takes the next counter to seal with; `None` if it would not lie below `hard_packets`.
///
/// One past the limit is given back, so that the counter cannot wrap however long somebody sends.
#[must_use]
#[inline]
pub fn take_counter<A: Word>(state: &KeyState<A>, hard_packets: u64) -> Option<u64> {
    let counter = state.send_counter.fetch_add(1, Ordering::Relaxed);
    if counter >= hard_packets {
        state.send_counter.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    Some(counter)
}

/// The key number that workers seal with, plus one; 0 = none.
#[inline]
fn sending<A: Word>(context: &Context<A>) -> u64 {
    context.send_key.load(Ordering::Acquire)
}

/// The keys to seal with now. Read for each packet, so that every worker follows a flip at its next one: the word lies in
/// the line that sealing reads anyway.
#[must_use]
#[inline]
pub fn sending_keys<'a>(slot: &'a SlotContext, context: &Context) -> Option<&'a KeySet> {
    slot.keys_of(sending_number(context)?)
}

/// The number of the keys to seal with now.
#[must_use]
#[inline]
pub fn sending_number<A: Word>(context: &Context<A>) -> Option<u32> {
    u32::try_from(sending(context).checked_sub(1)?).ok()
}

/// A frame opened under `keys`: if they are the next ones, from now on they seal too. `true` for the one caller that did
/// it.
#[must_use]
#[inline]
pub fn flip(context: &Context, keys: &KeySet) -> bool {
    flip_to(context, keys.number)
}

/// The same by the number of the keys.
#[must_use]
#[inline]
pub fn flip_to<A: Word>(context: &Context<A>, number: u32) -> bool {
    let (before, next) = (u64::from(number), u64::from(number) + 1);
    // Key number 0 has no predecessor.
    sending(context) == before
        && before != 0
        && context.send_key.compare_exchange(before, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
