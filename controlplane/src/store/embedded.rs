//! The store of one node: a file in the state directory, by `redb`. Many changes share one commit; what is secret is
//! sealed under a key of the node.

use super::{
    Change, Expected, Scan, SessionStore, StoreError, StoredSession, Unreadable, UnreadableRecord, Version,
    Versioned,
};
use jvpn_abi::wire::{Suite, TAG_LEN};
use jvpn_crypto::keys::{NodeKey, PublicKey, SealPurpose};
use jvpn_crypto::rng::{Random, RandomError};
use jvpn_crypto::schedule::Root;
use jvpn_crypto::{OpenKey, SealKey};
use jvpn_session::messages::{Prefix, SessionId};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The file within the state directory.
pub const STORE_FILE: &str = "sessions.redb";

const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("sessions");

/// Version of the records' layout, their first octet. The record's own version follows it in every layout.
const LAYOUT: u8 = 3;
/// The layout before, which is still read: it does not name the node key.
const LAYOUT_UNNAMED: u8 = 2;
const SUITE: Suite = Suite::Aes256Gcm;
/// Layout and version.
const VERSION_END: usize = 1 + 8;
/// Name of the node key.
const NAME_LEN: usize = 8;
/// Salt and counter.
const SEAL_LEN: usize = 16 + 8;
/// All of them: the associated data of the sealed rest, with the session's ID before it.
const HEAD_LEN: usize = VERSION_END + NAME_LEN + SEAL_LEN;
/// Peer, root, term, timestamp, birth, suite, number of addresses.
const FIXED_LEN: usize = 32 + 32 + 4 + 8 + 8 + 1 + 1;
/// Octets of an address: mapped, with the prefix length within it.
const ADDRESS_LEN: usize = 16 + 1;
/// Memory for pages; records are small and read once.
const CACHE_LEN: usize = 4 << 20;

/// The store, open. One process at a time has it.
pub struct EmbeddedStore {
    path: PathBuf,
    database: Database,
    node_key: NodeKey,
    key: SealKey,
    salt: [u8; 16],
    counter: u64,
}

impl EmbeddedStore {
    /// Opens or makes the store in `directory`. Mode 0600.
    ///
    /// # Errors
    /// [`StoreError`]: no new session may then be made.
    pub fn open(directory: &Path, node_key: &NodeKey, rng: &mut dyn Random) -> Result<Self, StoreError> {
        let path = directory.join(STORE_FILE);
        let place = || path.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| StoreError::Unavailable { place: place(), problem: error.to_string() })?;
        let damaged = |problem: String| StoreError::Damaged { place: place(), problem };
        let opened = guarded(|| {
            let mut database = Database::builder()
                .set_cache_size(CACHE_LEN)
                .create_file(file)
                .map_err(|error| damaged(error.to_string()))?;
            // Every page against its checksum: better no births from the start than records that are not there.
            database.check_integrity().map_err(|error| damaged(error.to_string())).map(|_| database)
        });
        let database = opened.unwrap_or_else(|panicked| Err(damaged(panicked)))?;
        let mut salt = [0; 16];
        rng.fill(&mut salt).map_err(|error: RandomError| StoreError::Unavailable {
            place: place(),
            problem: error.to_string(),
        })?;
        let key = SealKey::new(SUITE, &node_key.sealing_key(SealPurpose::Store, &salt));
        let node_key = NodeKey::from_bytes(*node_key.as_bytes());
        Ok(Self { path, database, node_key, key, salt, counter: 0 })
    }

    fn unavailable(&self, error: impl Into<redb::Error>) -> StoreError {
        let place = self.path.display().to_string();
        let error = error.into();
        if let redb::Error::Corrupted(problem) = error {
            return StoreError::Damaged { place, problem };
        }
        StoreError::Unavailable { place, problem: error.to_string() }
    }

    /// Runs something on the database; what it makes of a damaged file is an error, whatever it is.
    fn on<T>(&self, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
        match guarded(work) {
            Ok(outcome) => outcome.map_err(|error| self.unavailable(error)),
            Err(problem) => Err(StoreError::Damaged { place: self.path.display().to_string(), problem }),
        }
    }

    fn commit(
        &mut self,
        changes: &[Change],
        outcomes: &mut Vec<Result<Version, StoreError>>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(SESSIONS)?;
            for change in changes {
                let (id, expected) = match change {
                    Change::Put { id, expected, .. } => (id, *expected),
                    Change::Delete { id, expected } => (id, Expected::Version(*expected)),
                };
                let current = table.get(&id.0)?.map(|record| version_of(record.value()));
                let is_expected = match expected {
                    Expected::Absent => current.is_none(),
                    Expected::Version(version) => current == Some(version),
                };
                if !is_expected {
                    outcomes.push(Err(StoreError::Conflict { current }));
                    continue;
                }
                let next = Version(current.map_or(1, |version| version.0.saturating_add(1)));
                if let Change::Put { session, .. } = change {
                    self.counter += 1;
                    let nonce = (self.salt, self.counter);
                    let record = seal(&self.key, self.node_key.name(), nonce, *id, next, session);
                    table.insert(&id.0, record.as_slice())?;
                } else {
                    table.remove(&id.0)?;
                }
                outcomes.push(Ok(next));
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SessionStore for EmbeddedStore {
    fn get(&self, id: SessionId) -> Result<Option<Versioned>, StoreError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(SESSIONS) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(table.get(&id.0)?.map(|record| record.value().to_vec()))
        };
        let Some(record) = self.on(read)? else { return Ok(None) };
        read_record(&self.node_key, id, &record).map(Some).map_err(|why| StoreError::Damaged {
            place: self.path.display().to_string(),
            problem: format!("the record of session {id} cannot be read: {why}"),
        })
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Version, StoreError>> {
        let mut outcomes = Vec::with_capacity(changes.len());
        let done = guarded(|| self.commit(changes, &mut outcomes));
        match self.on(|| done.unwrap_or_else(|problem| Err(redb::Error::Corrupted(problem)))) {
            Ok(()) => outcomes,
            Err(error) => changes.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn scan(&self) -> Result<Scan, StoreError> {
        let read = || -> Result<Scan, redb::Error> {
            let mut scan = Scan::default();
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(SESSIONS) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(scan),
                Err(error) => return Err(error.into()),
            };
            for entry in table.iter()? {
                let (id, record) = entry?;
                let id = SessionId(*id.value());
                match read_record(&self.node_key, id, record.value()) {
                    Ok(session) => scan.sessions.push((id, session)),
                    Err(why) => {
                        let version = version_of(record.value());
                        scan.unreadable.push(UnreadableRecord { id, version, why });
                    }
                }
            }
            Ok(scan)
        };
        self.on(read)
    }
}

/// The database checks much of what it reads by assertions: in a damaged file they become an error that names it, and the
/// control plane goes on with the sessions that live. The text of the panic is on standard error.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // Nothing is used after a panic but to be told so again: what was not committed is not in the file.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| "its structure is broken".to_owned())
}

/// The version of a record in any layout; 0 if it ends before that, so that even a stump can be changed and removed.
fn version_of(record: &[u8]) -> Version {
    let octets = record.get(1..VERSION_END).and_then(|octets| octets.try_into().ok());
    Version(octets.map_or(0, u64::from_be_bytes))
}

fn seal(
    key: &SealKey,
    key_name: u64,
    (salt, counter): ([u8; 16], u64),
    id: SessionId,
    version: Version,
    session: &StoredSession,
) -> Vec<u8> {
    let mut plain = Zeroizing::new(Vec::with_capacity(FIXED_LEN + session.addresses.len() * ADDRESS_LEN));
    plain.extend(session.peer.0);
    plain.extend(session.root.as_octets());
    plain.extend(session.term.to_be_bytes());
    plain.extend(session.handshake_timestamp_ns.to_be_bytes());
    plain.extend(session.born_unix_ms.to_be_bytes());
    plain.push(session.suite as u8);
    plain.push(u8::try_from(session.addresses.len()).unwrap_or(u8::MAX));
    for address in session.addresses.iter().take(usize::from(u8::MAX)) {
        let (octets, len) = address.mapped();
        plain.extend(octets);
        plain.push(len);
    }
    let mut record = vec![LAYOUT];
    record.extend(version.0.to_be_bytes());
    record.extend(key_name.to_be_bytes());
    record.extend(salt);
    record.extend(counter.to_be_bytes());
    let aad = associated(id, &record);
    record.resize(HEAD_LEN + plain.len() + TAG_LEN, 0);
    let body = record.get_mut(HEAD_LEN..).unwrap_or_default();
    let sealed = key.seal(counter, &aad, &plain, body);
    debug_assert!(sealed.is_ok(), "the buffer has the size that sealing asks for");
    record
}

fn associated(id: SessionId, head: &[u8]) -> Vec<u8> {
    [&id.0, head].concat()
}

/// A record as it rests in the file. Public for the fuzzer: what a disk gives back is input.
#[doc(hidden)]
#[must_use]
pub fn unseal(node_key: &NodeKey, id: SessionId, record: &[u8]) -> Option<Versioned> {
    read_record(node_key, id, record).ok()
}

/// The same, with what is wrong.
fn read_record(node_key: &NodeKey, id: SessionId, record: &[u8]) -> Result<Versioned, Unreadable> {
    match record.first() {
        Some(&LAYOUT) => {
            let name = record.get(VERSION_END..VERSION_END + NAME_LEN).ok_or(Unreadable::Damaged)?;
            if name != node_key.name().to_be_bytes() {
                return Err(Unreadable::OtherKey);
            }
            open_record(node_key, id, record, HEAD_LEN).ok_or(Unreadable::Damaged)
        }
        // It cannot be told whether the key is another one or the record is broken: the answer that destroys nothing.
        Some(&LAYOUT_UNNAMED) => {
            open_record(node_key, id, record, HEAD_LEN - NAME_LEN).ok_or(Unreadable::OtherKey)
        }
        Some(layout) if *layout > LAYOUT => Err(Unreadable::NewerLayout),
        Some(_) | None => Err(Unreadable::Damaged),
    }
}

fn open_record(node_key: &NodeKey, id: SessionId, record: &[u8], head_len: usize) -> Option<Versioned> {
    let (head, sealed) = record.split_at_checked(head_len)?;
    let (salt, counter) = head.get(head_len.checked_sub(SEAL_LEN)?..)?.split_at_checked(16)?;
    let salt: [u8; 16] = salt.try_into().ok()?;
    let counter = u64::from_be_bytes(counter.try_into().ok()?);
    let key = OpenKey::new(SUITE, &node_key.sealing_key(SealPurpose::Store, &salt));
    let mut plain = Zeroizing::new(vec![0; sealed.len().checked_sub(TAG_LEN)?]);
    if key.open(counter, &associated(id, head), sealed, &mut plain).is_err() {
        return None;
    }
    let (fixed, rest) = plain.split_at_checked(FIXED_LEN)?;
    let count = usize::from(*fixed.last()?);
    if rest.len() != count * ADDRESS_LEN {
        return None;
    }
    let addresses: Vec<Prefix> = rest.chunks_exact(ADDRESS_LEN).map(address).collect::<Option<_>>()?;
    let session = StoredSession {
        peer: PublicKey(fixed.get(..32)?.try_into().ok()?),
        root: Root::from_octets(fixed.get(32..64)?.try_into().ok()?),
        term: u32::from_be_bytes(fixed.get(64..68)?.try_into().ok()?),
        handshake_timestamp_ns: u64::from_be_bytes(fixed.get(68..76)?.try_into().ok()?),
        born_unix_ms: u64::from_be_bytes(fixed.get(76..84)?.try_into().ok()?),
        suite: Suite::from_number(*fixed.get(84)?)?,
        addresses,
    };
    Some(Versioned { version: version_of(record), session })
}

fn address(octets: &[u8]) -> Option<Prefix> {
    let (addr, len) = octets.split_at_checked(16)?;
    let v6 = Ipv6Addr::from(<[u8; 16]>::try_from(addr).ok()?);
    let len = *len.first().filter(|len| **len <= 128)?;
    Some(match v6.to_ipv4_mapped() {
        Some(v4) => Prefix { addr: IpAddr::V4(v4), len: len.checked_sub(96)? },
        None => Prefix { addr: IpAddr::V6(v6), len },
    })
}

#[cfg(test)]
mod tests;
