//! What must outlive the host: which sessions there are, whose they are, and the secret by which their clients are known
//! again. Written at birth, at the end and when ownership changes; never per reattach.
//!
//! [`SessionStore`] is what any store has to offer: compare-and-set on versions, many changes in one commit. One node has
//! [`embedded::EmbeddedStore`]; [`writer::StoreWriter`] keeps its latency out of the control plane's loop.

pub mod embedded;
pub mod writer;

use jvpn_abi::wire::Suite;
use jvpn_crypto::keys::PublicKey;
use jvpn_crypto::schedule::Root;
use jvpn_session::messages::{Prefix, SessionId};

/// A session as it is stored.
#[derive(Clone, Debug)]
pub struct StoredSession {
    /// Whose it is.
    pub peer: PublicKey,
    /// Its secret; sealed before it rests anywhere.
    pub root: Root,
    /// Ownership term.
    pub term: u32,
    /// Suite of its DATA and CONTROL.
    pub suite: Suite,
    /// Inner addresses that were granted.
    pub addresses: Vec<Prefix>,
    /// Timestamp of the handshake that made it, Unix ns by its client's clock.
    pub handshake_timestamp_ns: u64,
    /// When it was born, Unix ms by this node's clock.
    pub born_unix_ms: u64,
}

impl StoredSession {
    /// Whether two records say the same.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.peer == other.peer
            && self.root.as_octets() == other.root.as_octets()
            && self.term == other.term
            && self.suite == other.suite
            && self.addresses == other.addresses
            && self.handshake_timestamp_ns == other.handshake_timestamp_ns
            && self.born_unix_ms == other.born_unix_ms
    }
}

/// Version of a record: rises with every change of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// What must be there for a change to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No record.
    Absent,
    /// The record in this version.
    Version(Version),
}

/// A conditional change of one record.
#[derive(Clone, Debug)]
pub enum Change {
    /// Make or replace a record.
    Put {
        /// Which.
        id: SessionId,
        /// What must be there.
        expected: Expected,
        /// What is to be there.
        session: Box<StoredSession>,
    },
    /// Remove a record.
    Delete {
        /// Which.
        id: SessionId,
        /// What must be there.
        expected: Version,
    },
}

/// Why a change did not happen, or a record could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Something else is there than was expected.
    #[error("session record changed meanwhile: there is {current:?}")]
    Conflict {
        /// What is there.
        current: Option<Version>,
    },
    /// The store cannot be written or read now. Whether the change happened is not known.
    #[error(
        "session store {place}: {problem}; new sessions are refused until it can be written \
         (is there room, and may this user write there?)"
    )]
    Unavailable {
        /// Where it is.
        place: String,
        /// What went wrong.
        problem: String,
    },
    /// The store was not written by this program, or is damaged.
    #[error(
        "session store {place} cannot be used: {problem}; restore it, or remove it: sessions then end when both \
         processes of this gateway have been away"
    )]
    Damaged {
        /// Where it is.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

/// A record and its version.
#[derive(Clone, Debug)]
pub struct Versioned {
    /// Version.
    pub version: Version,
    /// The record.
    pub session: StoredSession,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Records that can be read.
    pub sessions: Vec<(SessionId, Versioned)>,
    /// Records that cannot, and why.
    pub unreadable: Vec<UnreadableRecord>,
}

/// Why a record cannot be read. It says what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unreadable {
    /// Whoever wrote it is newer than this program: it is whole, and not ours to judge.
    #[error("it has a layout that a newer release wrote")]
    NewerLayout,
    /// It is whole as far as can be told, but sealed under the key of another node, or of this one before it lost its own.
    #[error("it is sealed under another node key")]
    OtherKey,
    /// It says that it is ours and does not open: nobody will ever read it.
    #[error("it is damaged")]
    Damaged,
}

/// A record that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// Whose it is.
    pub id: SessionId,
    /// Its version, which every layout has in the same place; 0 if the record ends before it.
    pub version: Version,
    /// Why.
    pub why: Unreadable,
}

/// A store of sessions with compare-and-set. Whatever it has acknowledged outlives the process and the host.
pub trait SessionStore: Send {
    /// The record of a session.
    ///
    /// # Errors
    /// [`StoreError`]; a record that cannot be read is [`StoreError::Damaged`].
    fn get(&self, id: SessionId) -> Result<Option<Versioned>, StoreError>;

    /// Carries changes out, in order, each if what it expects is there; all that succeed become durable together. The new
    /// version of each record, or why it stayed as it was.
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Version, StoreError>>;

    /// Every record.
    ///
    /// # Errors
    /// [`StoreError`] if the store itself cannot be read.
    fn scan(&self) -> Result<Scan, StoreError>;

    /// One [`Change::Put`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_if(
        &mut self,
        id: SessionId,
        expected: Expected,
        session: StoredSession,
    ) -> Result<Version, StoreError> {
        let session = Box::new(session);
        first(self.apply(&[Change::Put { id, expected, session }]))
    }

    /// One [`Change::Delete`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn delete_if(&mut self, id: SessionId, expected: Version) -> Result<(), StoreError> {
        first(self.apply(&[Change::Delete { id, expected }])).map(drop)
    }
}

/// In place of a store that could not be opened: sessions that are there go on, none can be made.
#[derive(Debug)]
pub struct ClosedStore(pub StoreError);

impl SessionStore for ClosedStore {
    fn get(&self, _: SessionId) -> Result<Option<Versioned>, StoreError> {
        Err(self.0.clone())
    }
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Version, StoreError>> {
        changes.iter().map(|_| Err(self.0.clone())).collect()
    }
    fn scan(&self) -> Result<Scan, StoreError> {
        Err(self.0.clone())
    }
}

fn first(outcomes: Vec<Result<Version, StoreError>>) -> Result<Version, StoreError> {
    let none = StoreError::Unavailable { place: String::new(), problem: "no outcome".into() };
    outcomes.into_iter().next().unwrap_or(Err(none))
}
