//! The session store of the gateway's node: on a disk that never fails, a little later than it was asked.

use jvpn_controlplane::store::{Change, Expected, Scan, SessionStore, StoreError, Version, Versioned};
use jvpn_session::messages::SessionId;
use std::collections::BTreeMap;
use std::time::Duration;

/// From a request until its outcome is known. The disk has it before.
pub(crate) const STORE_LATENCY: Duration = Duration::from_micros(500);

/// What is on the disk.
#[derive(Debug, Default)]
pub(crate) struct StoreMemory {
    records: BTreeMap<SessionId, Versioned>,
}

impl StoreMemory {
    /// The disk is lost.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
    }

    fn change(&mut self, change: &Change) -> Result<Version, StoreError> {
        let (id, expected) = match change {
            Change::Put { id, expected, .. } => (id, *expected),
            Change::Delete { id, expected } => (id, Expected::Version(*expected)),
        };
        let current = self.records.get(id).map(|record| record.version);
        let is_expected = match expected {
            Expected::Absent => current.is_none(),
            Expected::Version(version) => current == Some(version),
        };
        if !is_expected {
            return Err(StoreError::Conflict { current });
        }
        let version = Version(current.map_or(1, |version| version.0 + 1));
        match change {
            Change::Put { session, .. } => {
                self.records.insert(*id, Versioned { version, session: (**session).clone() });
            }
            Change::Delete { .. } => {
                self.records.remove(id);
            }
        }
        Ok(version)
    }
}

impl SessionStore for StoreMemory {
    fn get(&self, id: SessionId) -> Result<Option<Versioned>, StoreError> {
        Ok(self.records.get(&id).cloned())
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Version, StoreError>> {
        changes.iter().map(|change| self.change(change)).collect()
    }

    fn scan(&self) -> Result<Scan, StoreError> {
        let sessions = self.records.iter().map(|(id, record)| (*id, record.clone())).collect();
        Ok(Scan { sessions, unreadable: Vec::new() })
    }
}
