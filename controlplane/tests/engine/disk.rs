//! A disk in memory: what every engine opens anew.

use jvpn_controlplane::engine::Durable;
use jvpn_controlplane::node_state::StateError;
use jvpn_crypto::keys::{NodeKey, PublicKey};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What a disk keeps.
#[derive(Default)]
pub(crate) struct Disk {
    reserved: u32,
    timestamps: BTreeMap<PublicKey, u64>,
}

/// Durable state in memory, which can be told to fail. Every engine opens it anew.
pub(crate) struct MemoryState {
    key: NodeKey,
    floor: u32,
    disk: Arc<Mutex<Disk>>,
    broken: Arc<AtomicBool>,
}

impl MemoryState {
    pub(crate) fn open(disk: &Arc<Mutex<Disk>>, broken: &Arc<AtomicBool>) -> Self {
        let (disk, broken) = (Arc::clone(disk), Arc::clone(broken));
        let floor = disk.lock().unwrap().reserved;
        Self { key: NodeKey::from_bytes([9; 32]), floor, disk, broken }
    }
}

impl Durable for MemoryState {
    fn node_key(&self) -> &NodeKey {
        &self.key
    }
    fn serial_floor(&self) -> u32 {
        self.floor
    }
    fn reserve_serials(&mut self, serial: u32) -> Result<u32, StateError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(StateError::SerialsUsedUp);
        }
        let mut disk = self.disk.lock().unwrap();
        disk.reserved = disk.reserved.max(serial + 64);
        Ok(disk.reserved)
    }
    fn handshake_timestamp(&self, peer: &PublicKey) -> Option<u64> {
        self.disk.lock().unwrap().timestamps.get(peer).copied()
    }
    fn record_handshake(&mut self, peer: &PublicKey, timestamp_ns: u64) -> Result<(), StateError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(StateError::SerialsUsedUp);
        }
        self.disk.lock().unwrap().timestamps.insert(*peer, timestamp_ns);
        Ok(())
    }
}
