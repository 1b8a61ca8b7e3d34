//! The shared tables: layouts only. Who may write what is in `docs/ARCHITECTURE.md`; mapping is `jvpn-tables`' job.
//!
//! What several threads write at once is generic over its cell, which is an `AtomicU64` everywhere but under the checker of
//! interleavings ([`crate::word`]); the two tables of many elements over how many, too, so that it can be few there.

use crate::endpoint::Endpoint;
use crate::limit::{Bucket, Rate};
use crate::reason::DROP_REASONS;
use crate::wire::SlotId;
use bytemuck::{Pod, Zeroable};
use core::sync::atomic::AtomicU64;

mod windows;

pub use windows::*;

/// Most workers (and queues per port) that the tables hold.
pub const MAX_WORKERS: usize = 64;

// ---------------------------------------------------------------------------------------------- binding word

/// State of a slot in the binding word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Nothing is accepted.
    Unbound = 0,
    /// Frames from the bound endpoint are accepted.
    Bound = 1,
    /// Keys are there, nothing is accepted (reserved for prepared bindings).
    Prepared = 2,
}

/// The 64-bit word that binds or unbinds a slot in one store: state (4 bits), slot serial (15), epoch (45).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BindingWord(pub u64);

/// Bits of the epoch in the binding word.
pub const EPOCH_BITS: u32 = 45;

impl BindingWord {
    /// The word of a slot that accepts nothing.
    pub const UNBOUND: Self = Self(0);

    /// A bound word. The epoch is cut to [`EPOCH_BITS`]: it serves to tell bindings apart, not to order them.
    #[must_use]
    pub const fn bound(slot: SlotId, epoch: u64) -> Self {
        Self(
            (SlotState::Bound as u64) << 60
                | (slot.serial() as u64) << EPOCH_BITS
                | epoch & ((1 << EPOCH_BITS) - 1),
        )
    }

    /// Whether frames are accepted.
    #[must_use]
    #[inline(always)]
    pub const fn is_bound(self) -> bool {
        self.0 >> 60 == SlotState::Bound as u64
    }

    /// The reuse counter of the slot.
    #[must_use]
    #[inline(always)]
    pub const fn serial(self) -> u32 {
        (self.0 >> EPOCH_BITS) as u32 & crate::wire::data::MAX_SLOT_SERIAL
    }
}

/// One entry of BINDINGS. The word is stored last on bind and first on unbind; the rest is only read while it is bound.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct BindingEntry {
    /// [`BindingWord`].
    pub word: u64,
    /// The client's address, IPv4-mapped.
    pub remote_addr: [u8; 16],
    /// The gateway's address, IPv4-mapped.
    pub local_addr: [u8; 16],
    /// The client's port, host order.
    pub remote_port: u16,
    /// The gateway's port, host order.
    pub local_port: u16,
    /// Zero.
    pub reserved: [u8; 20],
}

const _: () = assert!(size_of::<BindingEntry>() == 64);

impl BindingEntry {
    /// An unbound entry that names its path.
    #[must_use]
    pub const fn new(remote: Endpoint, local: Endpoint) -> Self {
        Self {
            word: 0,
            remote_addr: remote.addr,
            local_addr: local.addr,
            remote_port: remote.port,
            local_port: local.port,
            reserved: [0; 20],
        }
    }

    /// The client's side of the bound path.
    #[must_use]
    #[inline(always)]
    pub const fn remote(&self) -> Endpoint {
        Endpoint { addr: self.remote_addr, port: self.remote_port }
    }

    /// The gateway's side of the bound path.
    #[must_use]
    #[inline(always)]
    pub const fn local(&self) -> Endpoint {
        Endpoint { addr: self.local_addr, port: self.local_port }
    }
}

/// Number of u64 words in a [`BindingEntry`], for those who access the table as atomics.
pub const BINDING_WORDS: usize = size_of::<BindingEntry>() / 8;

// ---------------------------------------------------------------------------------------------- GATE, LIMITS, COUNTERS

/// The one entry of GATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Gate {
    /// [`crate::CONTRACT_VERSION`] of who filled the table in.
    pub contract_version: u32,
    /// UDP port of the gateway, host order; 0 = closed.
    pub port: u16,
    /// 1 = the XDP programs log odd cases.
    pub log: u16,
    /// Zero.
    pub reserved: [u8; 8],
    /// Fence deadline, ns of `CLOCK_BOOTTIME`: after it nothing is accepted. `u64::MAX` = no lease needed.
    pub fence_deadline_ns: u64,
    /// Limits for control datagrams of all sources together, by [`EdgeClass`], per CPU.
    pub class: [Rate; EDGE_CLASSES],
    /// Limits for control datagrams of one source prefix, by [`EdgeClass`], per CPU.
    pub source: [Rate; EDGE_CLASSES],
    /// Limit for samples of unbound DATA, per CPU.
    pub sample: Rate,
    /// How often one known handle may be asked for before others go first, on all CPUs together
    /// ([`crate::edge::HandleEntry`]).
    pub handle: Rate,
}

/// Classes of control datagrams at the edge. Each has its own share, so that a flood of one cannot starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EdgeClass {
    /// REATTACH_REQUEST with a handle that HANDLES knows.
    KnownHandle = 0,
    /// REATTACH_REQUEST with any other handle.
    UnknownHandle = 1,
    /// HANDSHAKE_INIT.
    Handshake = 2,
    /// CONTROL and PATH_PROBE.
    Session = 3,
}

/// How many classes there are.
pub const EDGE_CLASSES: usize = 4;

/// Key of SOURCES: who asks, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SourceKey {
    /// Source prefix, IPv4-mapped ([`crate::steer::source_prefix`]).
    pub prefix: [u8; 16],
    /// [`EdgeClass`].
    pub class: u32,
}

/// Entries of SOURCES (per CPU): the least recently used prefix goes when it is full.
pub const MAX_SOURCES: u32 = 1 << 14;

/// Entries of HANDLES: two generations and the one erased last, for every session.
pub const MAX_HANDLES: u32 = 1 << 18;

/// The one entry of LIMITS, per CPU.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct EdgeBuckets {
    /// Control datagrams, by [`EdgeClass`].
    pub class: [Bucket; EDGE_CLASSES],
    /// Samples of unbound DATA.
    pub sample: Bucket,
}

/// Entries of COUNTERS (per CPU), indexed by [`crate::DropReason`].
pub const COUNTERS_LEN: u32 = DROP_REASONS as u32;

/// Key of ROUTES: prefix length in bits (host order, as the kernel's LPM trie wants it) and IPv4-mapped address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RouteKey {
    /// Length of the prefix within the 128-bit mapped address.
    pub prefix_len: u32,
    /// IPv4-mapped inner address.
    pub addr: [u8; 16],
}

/// Entries of ROUTES.
pub const MAX_ROUTES: u32 = 1 << 17;

/// What the LAN program writes over the destination MAC address of a frame that it steers: the worker needs the slot
/// that ROUTES named, and nobody behind the socket needs that address. (XDP metadata would do too, where drivers have it.)
///
/// The slot is a hint: the worker checks it against the installed binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteeringMark {
    /// Index of the slot.
    pub slot_index: u32,
}

impl SteeringMark {
    /// Octets of the mark: those of a MAC address.
    pub const LEN: usize = 6;
    /// Tells a mark from an address: locally administered, multicast, so never a station's own.
    const MAGIC: [u8; 2] = [0x4b, 0x56];

    /// The octets in the frame.
    #[must_use]
    #[inline(always)]
    pub const fn encode(self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.slot_index.to_be_bytes();
        [Self::MAGIC[0], Self::MAGIC[1], a, b, c, d]
    }

    /// Reads the mark at the start of a frame.
    #[must_use]
    #[inline(always)]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        let [magic_a, magic_b, a, b, c, d] = crate::wire::octets::<{ Self::LEN }>(frame, 0)?;
        ([magic_a, magic_b] == Self::MAGIC).then_some(Self { slot_index: u32::from_be_bytes([a, b, c, d]) })
    }
}

// ---------------------------------------------------------------------------------------------- CONTEXT

/// Counter of one key number of a binding, and what its replay window is besides its bits.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct KeyState<A = AtomicU64> {
    /// Next counter to seal with. Taken before sealing; alone in its cache line because several workers may seal.
    pub send_counter: A,
    /// Zero.
    pub reserved: [A; 7],
    /// Key number + 1 that this set belongs to; 0 = empty.
    pub key_number_plus_one: A,
    /// 1 while a worker moves the window.
    pub window_lock: A,
    /// Highest counter committed + 1; 0 = none yet.
    pub window_end: A,
    /// DATA packets accepted under this key.
    pub received: A,
    /// DATA packets that the client has accepted under this key, as its last PROBE said.
    pub peer_received: A,
    /// Highest counter among them + 1, as its last PROBE said; 0 = none.
    pub peer_end: A,
    /// Number + 1 of the [`ReplayWindow`] that has the bits; 0 = none. It is this set's only if the window's owner says so
    /// too ([`window_place`]).
    pub window_plus_one: A,
    /// Sequence of the last refused entry that was to change this set and leaves the binding as it was; 0 = none yet.
    pub refused_seq: A,
}

/// CONTEXT[slot]: what must outlive each process. Written by workers (counters, window) and the installer (clear).
///
/// One cache line for what changes seldom, one for the worker that opens, one for those that seal.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Context<A = AtomicU64> {
    /// Binding word that this content belongs to; 0 = cleared. Stored last when the content is made.
    pub tag: A,
    /// The binding word once the first frame opened from the bound endpoint; 0 before.
    pub confirmed: A,
    /// When the binding was confirmed, ns of `CLOCK_BOOTTIME`.
    pub confirmed_at_ns: A,
    /// Next hop on the WAN, learned from authenticated frames: MAC address in the low 48 bits, bit 63 set when known.
    pub next_hop_mac: A,
    /// Key number + 1 that workers seal with; 0 = none. The first frame that opens under the next key number raises it
    /// by one. In this line because whoever seals reads `confirmed` and `next_hop_mac` anyway.
    pub send_key: A,
    /// The largest inner packet that the path carries, as the client's SIZE_ASK said it, octets; 0 = not said yet.
    pub path_mtu: A,
    /// Zero.
    pub reserved: [A; 2],

    /// When the last authenticated frame came, ns of `CLOCK_BOOTTIME`.
    pub last_heard_ns: A,
    /// The interval to its next probe that the peer announced, ms; 0 = none yet.
    pub peer_interval_ms: A,
    /// Packets of inner traffic towards the LAN.
    pub packets_in: A,
    /// Inner octets towards the LAN.
    pub bytes_in: A,
    /// Frames from the bound endpoint that did not open, under whichever key (RFC 9001 section 6.6 limits them).
    pub failed_opens: A,
    /// PROBEs noted: raised after everything that a PROBE brings was stored.
    pub probes: A,
    /// Arrival of the last PROBE minus its `sent_at`, ns, wrapping: two clocks, so only differences mean something.
    pub probe_transit_ns: A,
    /// Zero.
    pub reserved_2: [A; 1],

    /// Packets of inner traffic towards the client.
    pub packets_out: A,
    /// Inner octets towards the client.
    pub bytes_out: A,
    /// What the last PROBEs measured, as [`ProbeSample`]; PROBE n is in place n % 6. Written per PROBE, never per packet.
    pub samples: [A; PROBE_SAMPLES],

    /// Two key sets: one in use, one during a rekey. Key number n is in set n % 2. A set is made new only when no worker
    /// holds a key of it any more, so that no counter is taken twice under one key.
    pub keys: [KeyState<A>; 2],
}

/// Probe samples that CONTEXT keeps.
pub const PROBE_SAMPLES: usize = 6;

/// What one PROBE measured: one word of [`Context::samples`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSample {
    /// The round trip that the client says it measured, µs; 0 = none.
    pub rtt_us: u32,
    /// By how much this PROBE's way took longer or shorter than that of the one before, µs; [`Self::NO_CHANGE`] = there
    /// was none before.
    pub change_us: u32,
}

impl ProbeSample {
    /// No change was measured.
    pub const NO_CHANGE: u32 = u32::MAX;

    /// The word.
    #[must_use]
    pub const fn encode(self) -> u64 {
        (self.change_us as u64) << 32 | self.rtt_us as u64
    }

    /// Reads a word.
    #[must_use]
    pub const fn decode(word: u64) -> Self {
        Self { rtt_us: word as u32, change_us: (word >> 32) as u32 }
    }
}

/// Marks [`Context::next_hop_mac`] as known.
pub const NEXT_HOP_KNOWN: u64 = 1 << 63;

const _: () = assert!(size_of::<Context>() == 3 * 64 + 2 * 128);

// ---------------------------------------------------------------------------------------------- REPORTS

/// Entries of a worker's event ring.
pub const EVENT_RING_LEN: usize = 1_024;

/// What one worker reports. The control plane reads it without disturbing the worker.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct WorkerReport<A = AtomicU64> {
    /// Last unbind sequence that this worker passed at a batch boundary.
    pub unbind_seq: A,
    /// Last install sequence that this worker applied.
    pub install_seq: A,
    /// Events written (slot index of a freshly confirmed binding); the ring index is `% EVENT_RING_LEN`.
    pub events_written: A,
    /// Events that found the ring full: the reader must look at every slot.
    pub events_lost: A,
    /// CPU the worker is pinned to + 1; 0 = no such worker.
    pub cpu_plus_one: A,
    /// Batches handled; shows that the worker lives.
    pub batches: A,
    /// Zero.
    pub reserved: [A; 2],
    /// Written by the control plane: events consumed.
    pub events_read: A,
    /// Zero.
    pub reserved_2: [A; 7],
    /// Packet counters by [`crate::DropReason`].
    pub counters: [A; 48],
    /// Event ring.
    pub events: [A; EVENT_RING_LEN],
}

const _: () = assert!(DROP_REASONS <= 48);

/// REPORTS.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Reports<A = AtomicU64, const WORKERS: usize = MAX_WORKERS> {
    /// [`crate::CONTRACT_VERSION`].
    pub contract_version: A,
    /// Workers in use.
    pub workers: A,
    /// Written by the control plane: unbind sequence that workers are to pass.
    pub requested_unbind_seq: A,
    /// Last install sequence that the installer has handed to the workers.
    pub installer_seq: A,
    /// Install entries that the installer refused.
    pub refused: A,
    /// Sequence of the last refused install entry; what was refused before it CONTEXT says.
    pub refused_seq: A,
    /// Zero.
    pub reserved: [A; 2],
    /// One per worker.
    pub worker: [WorkerReport<A>; WORKERS],
}

// ---------------------------------------------------------------------------------------------- KEYS

/// Entries of the key mailbox.
pub const KEY_RING_LEN: usize = 256;

/// Most inner prefixes of one peer.
pub const MAX_PREFIXES: usize = 8;

/// Most frames that a binding seals before one of its client has opened. At 1,400 octets that is a round trip of 50 ms at
/// 110 Mbit/s; what does not fit is dropped, as everything is from an address that was not proven.
pub const EARLY_PACKETS: u32 = 512;

/// What the installer is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InstallOp {
    /// Clear CONTEXT, expand the keys, hand the binding to every worker.
    Install = 1,
    /// As `Install`, but CONTEXT with the same tag goes on (a data plane that restarted). Refused, it leaves no tag.
    Adopt = 2,
    /// Drop the binding's keys from every worker and give its replay windows up: what CONTEXT holds cannot be adopted any
    /// more.
    Remove = 3,
    /// Rekey: hand every worker one more key set, whose key number follows the one in use. Receive-only until a frame
    /// opens under it. A set of that number that nothing was sealed or opened under is replaced.
    AddKey = 4,
    /// As `AddKey`, but the counter and window of that key number go on (a data plane that restarted).
    AdoptKey = 5,
    /// Drop the keys of `key_number` from every worker; never those that are sealed with.
    DropKey = 6,
}

impl InstallOp {
    /// The operation with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Install,
            2 => Self::Adopt,
            3 => Self::Remove,
            4 => Self::AddKey,
            5 => Self::AdoptKey,
            6 => Self::DropKey,
            _ => return None,
        })
    }
}

/// One entry of the key mailbox. Wiped by the installer when taken; keys never rest here.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct InstallEntry {
    /// Install sequence; rises by one per entry.
    pub seq: u64,
    /// [`BindingWord`] that will bind it.
    pub word: u64,
    /// [`InstallOp`].
    pub op: u32,
    /// [`SlotId`].
    pub slot: u32,
    /// Key number.
    pub key_number: u32,
    /// [`crate::wire::Suite`] number.
    pub suite: u8,
    /// How many of `prefixes` count.
    pub prefix_count: u8,
    /// Routing bucket for DATA towards this client (0 on one node).
    pub shard: u16,
    /// The client's address, IPv4-mapped.
    pub remote_addr: [u8; 16],
    /// The gateway's address, IPv4-mapped.
    pub local_addr: [u8; 16],
    /// The client's port, host order.
    pub remote_port: u16,
    /// The gateway's port, host order.
    pub local_port: u16,
    /// Frames that may be sealed before the first one has opened: the address was proven in the request. 0 = none, as
    /// for every address that was not; more than [`EARLY_PACKETS`] counts as so many.
    pub early_packets: u32,
    /// Key for frames from the client.
    pub open_key: [u8; 32],
    /// Key for frames to the client.
    pub seal_key: [u8; 32],
    /// Lengths of the inner prefixes within the mapped address.
    pub prefix_lens: [u8; MAX_PREFIXES],
    /// Inner prefixes of the peer, IPv4-mapped.
    pub prefixes: [[u8; 16]; MAX_PREFIXES],
    /// Counters from this one on are neither sealed nor accepted; 0 = only the suite's own limit counts.
    pub hard_packets: u64,
    /// Zero.
    pub reserved_2: [u8; 40],
}

/// u64 words of an [`InstallEntry`].
pub const INSTALL_WORDS: usize = size_of::<InstallEntry>() / 8;

const _: () = assert!(size_of::<InstallEntry>() == 320);

/// KEYS: a single-producer single-consumer ring.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct KeyRing<A = AtomicU64, const LEN: usize = KEY_RING_LEN> {
    /// Entries written by the control plane.
    pub written: A,
    /// Zero.
    pub reserved: [A; 7],
    /// Entries taken by the installer.
    pub taken: A,
    /// Zero.
    pub reserved_2: [A; 7],
    /// The entries, as words.
    pub entries: [[A; INSTALL_WORDS]; LEN],
}

// ---------------------------------------------------------------------------------------------- JOURNAL

/// u64 words of one copy of a JOURNAL record.
pub const JOURNAL_COPY_WORDS: usize = 108;
/// Octets of one copy.
pub const JOURNAL_COPY_LEN: usize = JOURNAL_COPY_WORDS * 8;
/// Octets before the sealed part of a copy: sequence and salt, which are its associated data.
pub const JOURNAL_HEAD_LEN: usize = 24;
/// Octets of plain text that a record carries.
pub const JOURNAL_PLAIN_LEN: usize = JOURNAL_COPY_LEN - JOURNAL_HEAD_LEN - crate::wire::TAG_LEN;

/// One element of JOURNAL: a session's record, twice. Both copies are the same octets, written one after the other, so
/// that one of them is whole at any moment.
///
/// A copy: sequence (8 octets; 0 = free) ‖ salt of its writer's key (16) ‖ sealed plain text ‖ tag. Native byte order for
/// the sequence: the memory never leaves its host.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct JournalRecord {
    /// The copies.
    pub copies: [[AtomicU64; JOURNAL_COPY_WORDS]; 2],
}

/// Octets per session in JOURNAL.
pub const JOURNAL_RECORD_LEN: usize = size_of::<JournalRecord>();

const _: () = assert!(JOURNAL_COPY_LEN <= 1_024 && JOURNAL_RECORD_LEN == 2 * JOURNAL_COPY_LEN);

/// Version of the records' content; rises with every change of what the plain text holds.
pub const JOURNAL_VERSION: u64 = 3;
/// First word of JOURNAL.
pub const JOURNAL_MAGIC: u64 = u64::from_be_bytes(*b"jvpnjrnl");
/// Says that every live session has its record, so that a stored one without a record has ended.
pub const JOURNAL_COMPLETE: u64 = u64::from_be_bytes(*b"complete");

/// Words of JOURNAL's element 0, which is its head; session records begin with element 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum JournalWord {
    /// [`JOURNAL_MAGIC`], written last when the head is made.
    Magic = 0,
    /// [`JOURNAL_VERSION`].
    Version = 1,
    /// Names the node key that seals the records, without telling it.
    KeyName = 2,
    /// Records ever used: those behind were never touched.
    Used = 3,
    /// The same again.
    UsedAgain = 4,
    /// [`JOURNAL_COMPLETE`], or anything else while stored sessions are still being loaded.
    Complete = 5,
}
