//! What the gateway's node keeps over restarts of its processes: node key, slot serials, handshake timestamps.

use jvpn_abi::wire::data::MAX_SLOT_SERIAL;
use jvpn_controlplane::engine::Durable;
use jvpn_controlplane::node_state::{SERIAL_BLOCK, StateError};
use jvpn_crypto::keys::{NodeKey, PublicKey};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Kept {
    /// First serial that is not usable yet.
    reserved: u32,
    timestamps: BTreeMap<PublicKey, u64>,
}

/// A disk that never fails. Clones are handles of one disk.
#[derive(Debug)]
pub(crate) struct NodeMemory {
    key: NodeKey,
    floor: u32,
    kept: Arc<Mutex<Kept>>,
}

impl NodeMemory {
    /// An empty one under this node key.
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key: NodeKey::from_bytes(key), floor: 0, kept: Arc::default() }
    }

    /// What a process that starts now opens.
    pub(crate) fn open(&self) -> Self {
        let floor = self.kept().reserved;
        let key = NodeKey::from_bytes(*self.key.as_bytes());
        Self { key, floor, kept: Arc::clone(&self.kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Durable for NodeMemory {
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
        let mut kept = self.kept();
        if serial >= kept.reserved {
            kept.reserved = serial.saturating_add(SERIAL_BLOCK).min(MAX_SLOT_SERIAL + 1);
        }
        Ok(kept.reserved)
    }

    fn handshake_timestamp(&self, peer: &PublicKey) -> Option<u64> {
        self.kept().timestamps.get(peer).copied()
    }

    fn record_handshake(&mut self, peer: &PublicKey, timestamp_ns: u64) -> Result<(), StateError> {
        self.kept().timestamps.insert(*peer, timestamp_ns);
        Ok(())
    }
}
