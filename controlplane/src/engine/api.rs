//! What goes into the engine and what comes out of it: the boundary to the I/O loop and to the shared tables.

use super::snapshot::Snapshot;
use crate::node_state::StateError;
use jvpn_abi::tables::{BindingWord, InstallEntry, PROBE_SAMPLES};
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::keys::{NodeKey, PresharedKey, PublicKey};
use jvpn_session::Policy;
use jvpn_session::messages::{Prefix, SessionId};
use jvpn_session::quality::Directed;
use std::net::IpAddr;

/// A change to the shared tables. Carry them out in the order in which they are polled, and before any
/// [`Transmit`] that is polled after them: an answer must never overtake the binding that it announces.
pub enum TableCommand {
    /// Store the unbound word, raise `requested_unbind_seq` to `seq`, wake the workers. Answer:
    /// [`TableEvent::Quiesced`].
    Unbind {
        /// The slot.
        slot: SlotId,
        /// Rises by one per unbind.
        seq: u64,
    },
    /// Write a session's record in JOURNAL, or free it. Carried out before what follows it, also without a data plane:
    /// then into the memory that its successor is handed. Nothing answers.
    Journal {
        /// The record.
        index: u32,
        /// What to write; `None` frees the record.
        snapshot: Option<Box<Snapshot>>,
    },
    /// Put the entry into KEYS and ring the doorbell; wipe it then. Answer: [`TableEvent::Installed`] once
    /// every worker has it, or [`TableEvent::InstallRefused`], also if KEYS is full.
    Install {
        /// Rises by one per entry of KEYS.
        seq: u64,
        /// What to install.
        entry: Box<InstallEntry>,
    },
    /// Write the BINDINGS entry, its word last. Nothing answers.
    Bind {
        /// The slot.
        slot: SlotId,
        /// The word.
        word: BindingWord,
        /// The client's side.
        remote: Endpoint,
        /// The gateway's side.
        local: Endpoint,
    },
    /// Put a removal into KEYS: the workers drop the binding's keys. Nothing has to answer.
    Remove {
        /// Rises by one per entry of KEYS.
        seq: u64,
        /// The slot.
        slot: SlotId,
        /// The word that had bound it.
        word: BindingWord,
    },
    /// Let `prefix` lead to `slot`, replacing what it led to.
    RouteAdd {
        /// Inner prefix.
        prefix: Prefix,
        /// The slot.
        slot: SlotId,
    },
    /// Take `prefix` out, if it leads to `slot`.
    RouteRemove {
        /// Inner prefix.
        prefix: Prefix,
        /// The slot it leads to.
        slot: SlotId,
    },
}

impl std::fmt::Debug for TableCommand {
    /// Never prints the keys of an install entry.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unbind { slot, seq } => write!(f, "Unbind({slot:?}, seq {seq})"),
            Self::Journal { index, snapshot } => {
                write!(f, "Journal({index}, {})", if snapshot.is_some() { "written" } else { "freed" })
            }
            Self::Install { seq, entry } => {
                write!(f, "Install({:?}, seq {seq}, op {})", SlotId(entry.slot), entry.op)
            }
            Self::Bind { slot, word, remote, local } => {
                write!(f, "Bind({slot:?}, {:#x}, {remote} at {local})", word.0)
            }
            Self::Remove { seq, slot, .. } => write!(f, "Remove({slot:?}, seq {seq})"),
            Self::RouteAdd { prefix, slot } => write!(f, "RouteAdd({prefix} to {slot:?})"),
            Self::RouteRemove { prefix, slot } => write!(f, "RouteRemove({prefix} from {slot:?})"),
        }
    }
}

/// What the shared tables report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableEvent {
    /// Every worker has passed unbind `seq`, and with it every lower one.
    Quiesced {
        /// Sequence of the unbind.
        seq: u64,
    },
    /// Every worker has applied exactly this install entry. Also reported for removals, where it means
    /// nothing.
    Installed {
        /// Sequence of the entry.
        seq: u64,
    },
    /// This install entry was refused, or KEYS was full.
    InstallRefused {
        /// Sequence of the entry.
        seq: u64,
    },
    /// A worker opened the first frame of the binding that this word binds.
    Confirmed {
        /// Position in the tables.
        slot_index: u32,
        /// The word that the worker confirmed.
        word: BindingWord,
    },
    /// A data plane is there. Report it only when no slot of BINDINGS is bound and every worker has passed
    /// that.
    DataPlaneUp {
        /// Slots in its tables.
        slots: u32,
        /// CONTEXT survived: counters and windows go on.
        context_kept: bool,
    },
    /// The data plane that an earlier control plane left bound, and that [`super::Engine::adopt`] was told of, has passed
    /// the removal of everything that adoption did not keep.
    Adopted {
        /// Slots in its tables.
        slots: u32,
    },
    /// The data plane's exit was seen: it forwards nothing any more.
    DataPlaneLost,
}

/// Inner traffic of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets towards the LAN.
    pub packets_in: u64,
    /// Bytes towards the LAN.
    pub bytes_in: u64,
    /// Packets towards the client.
    pub packets_out: u64,
    /// Bytes towards the client.
    pub bytes_out: u64,
}

impl std::ops::Add for Traffic {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            packets_in: self.packets_in.saturating_add(other.packets_in),
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            packets_out: self.packets_out.saturating_add(other.packets_out),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
        }
    }
}

/// Reads CONTEXT. Its content comes from another process: the engine bounds what it believes.
pub trait ContextView {
    /// When the last authenticated frame came over the slot.
    fn last_heard(&self, slot_index: u32) -> Option<BootTime>;
    /// The interval to its next probe that the peer announced, ms.
    fn peer_interval_ms(&self, slot_index: u32) -> Option<u32>;
    /// Whether a frame opened under the binding of this word.
    fn confirmed(&self, slot_index: u32, word: BindingWord) -> bool;
    /// Highest counter committed under a key number.
    fn highest_counter(&self, slot_index: u32, key_number: u32) -> Option<u64>;
    /// The key number that the workers seal with.
    fn sending_key(&self, slot_index: u32) -> Option<u32>;
    /// Counters taken for sealing under a key number.
    fn sealed(&self, slot_index: u32, key_number: u32) -> Option<u64>;
    /// Frames from the bound endpoint that did not open since the slot was installed.
    fn failed_opens(&self, slot_index: u32) -> u64;
    /// Inner traffic since the slot was installed.
    fn traffic(&self, slot_index: u32) -> Traffic;
    /// What the client's probes have left there; `None` before the first.
    fn probed(&self, slot_index: u32) -> Option<Probed>;
}

/// What probes say about a binding's path. The client's word, so it judges only its own session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// How many there were; PROBE n left sample n % 6.
    pub probes: u64,
    /// What the workers have accepted, per key.
    pub up: Directed,
    /// What the client has accepted, per key, as its last probe said.
    pub down: Directed,
    /// What the last probes measured.
    pub samples: [u64; PROBE_SAMPLES],
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub remote: Endpoint,
    /// From which of the gateway's addresses.
    pub local: Endpoint,
    /// The datagram.
    pub payload: Vec<u8>,
}

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// End one session.
    TerminateSession(SessionId),
    /// End every session of a peer, by its name.
    TerminatePeer(String),
    /// Take a peer from the allow-list (until the next start) and end its sessions.
    RevokePeer(String),
}

/// Why an operator's wish could not be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No such live session.
    #[error("session {0} is not live here; 'status' lists those that are")]
    NoSession(SessionId),
    /// No such peer.
    #[error("peer '{0}' is not configured; the names are those of the [[peer]] tables")]
    NoPeer(String),
}

/// What must outlive the process, written before anything that depends on it leaves. Handed in, like
/// randomness.
pub trait Durable {
    /// The key of the tokens in RESET.
    fn node_key(&self) -> &NodeKey;

    /// The lowest slot serial that was never handed out under this node key.
    fn serial_floor(&self) -> u32;

    /// Makes every serial below the returned bound usable; at least up to and including `serial`.
    ///
    /// # Errors
    /// If it could not be made durable, or serials are used up: `serial` must then not be used.
    fn reserve_serials(&mut self, serial: u32) -> Result<u32, StateError>;

    /// The timestamp of the last handshake of a peer, Unix ns.
    fn handshake_timestamp(&self, peer: &PublicKey) -> Option<u64>;

    /// Notes the timestamp of a handshake.
    ///
    /// # Errors
    /// If it could not be made durable: nothing may then be answered.
    fn record_handshake(&mut self, peer: &PublicKey, timestamp_ns: u64) -> Result<(), StateError>;
}

/// A peer that may have a session.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Name in status and audit.
    pub name: String,
    /// Its static key.
    pub public_key: PublicKey,
    /// Optional second secret; zeros if there is none.
    pub preshared_key: PresharedKey,
    /// Inner addresses that it is given.
    pub addresses: Vec<Prefix>,
    /// Inner prefixes behind it, addresses included: what it may send from and what is routed to it.
    pub prefixes: Vec<Prefix>,
}

/// What every client is told about the inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSettings {
    /// The gateway's own inner addresses, one per family at most.
    pub gateway_addresses: Vec<IpAddr>,
    /// MTU of the client's interface, octets.
    pub mtu: u16,
    /// Prefixes that clients route into the tunnel.
    pub routes: Vec<Prefix>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
}

/// What the engine is set up with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Numbers to live by.
    pub policy: Policy,
    /// The preset that they come from.
    pub policy_name: String,
    /// Suites that may be chosen, best first.
    pub suites: Vec<Suite>,
    /// The inside.
    pub tunnel: TunnelSettings,
    /// The allow-list.
    pub peers: Vec<PeerSettings>,
}
