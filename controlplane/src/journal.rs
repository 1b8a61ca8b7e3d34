//! JOURNAL: what a control plane that was killed goes on from. Shared memory that the data plane holds too; one record
//! per session, two equal copies, each sealed under a key of this node.
//!
//! A record is written before anything that follows from it leaves ([`crate::engine::TableCommand::Journal`]), first one
//! copy, then the other: whenever the process dies, one of them is whole, and the older of two whole ones only if nothing
//! of the newer has left yet. DATA keys are not in it. Whatever stands in the memory, reading it never panics.

use crate::engine::Snapshot;
use jvpn_abi::BootTime;
use jvpn_abi::tables::{
    JOURNAL_COMPLETE, JOURNAL_COPY_LEN, JOURNAL_COPY_WORDS, JOURNAL_HEAD_LEN, JOURNAL_MAGIC,
    JOURNAL_PLAIN_LEN, JOURNAL_VERSION, JournalRecord, JournalWord,
};
use jvpn_abi::wire::Suite;
use jvpn_crypto::keys::{NodeKey, SealPurpose};
use jvpn_crypto::rng::{Random, RandomError};
use jvpn_crypto::{OpenKey, SealKey};
use jvpn_tables::{Mapping, TableError};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use zeroize::Zeroizing;

/// Hardware serves it everywhere that matters, and a record is far below its limits.
const SUITE: Suite = Suite::Aes256Gcm;
/// Octets of the salt behind the sequence.
const SALT_LEN: usize = 16;

const _: () = assert!(JOURNAL_HEAD_LEN == 8 + SALT_LEN);

/// Why there is no JOURNAL to write to.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The memory could not be mapped.
    #[error(transparent)]
    Mapping(#[from] TableError),
    /// No randomness for the salt.
    #[error("JOURNAL: {0}")]
    Random(#[from] RandomError),
}

/// Why what stands in JOURNAL is not gone on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not a JOURNAL.
    #[error("JOURNAL has no head: it was cut off when it was made, or damaged")]
    NoHead,
    /// Its records are of another version.
    #[error("JOURNAL is of version {0}, this control plane reads version {JOURNAL_VERSION}")]
    Version(u64),
    /// Another node key sealed it.
    #[error(
        "JOURNAL was sealed under another node key: the state directory was replaced or serials were used up"
    )]
    OtherKey,
}

/// Whether a live session may be without a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completeness {
    /// Yes: its writer was still loading stored sessions, or a record was lost.
    #[default]
    Incomplete,
    /// No.
    Complete,
}

/// What JOURNAL holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Whole records, by index.
    pub snapshots: Vec<(u32, Box<Snapshot>)>,
    /// Records of which neither copy is whole.
    pub damaged: Vec<u32>,
    /// What a stored session without a record means: it has ended, or it is still to be loaded.
    pub completeness: Completeness,
}

/// JOURNAL, mapped, with the key of this writer.
#[derive(Debug)]
pub struct Journal {
    map: Mapping<JournalRecord>,
    fd: OwnedFd,
    key: SealKey,
    salt: [u8; SALT_LEN],
    /// Of the last record written. Nonce and order in one: it starts above every earlier writer's.
    sequence: u64,
    used: u64,
    completeness: Completeness,
}

impl Journal {
    /// Maps `elements` elements. Nothing is written yet.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(
        fd: OwnedFd,
        elements: u32,
        node_key: &NodeKey,
        rng: &mut dyn Random,
        now: BootTime,
    ) -> Result<Self, JournalError> {
        let map = Mapping::new("JOURNAL", fd.as_fd(), elements as usize)?;
        let mut salt = [0; SALT_LEN];
        rng.fill(&mut salt)?;
        let key = SealKey::new(SUITE, &node_key.sealing_key(SealPurpose::Journal, &salt));
        // CLOCK_BOOTTIME in ns grows faster than any process writes.
        let completeness = Completeness::Incomplete;
        Ok(Self { map, fd, key, salt, sequence: now.0.max(1), used: 0, completeness })
    }

    /// The descriptor, to hand on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Elements, the head included.
    #[must_use]
    pub fn elements(&self) -> u32 {
        u32::try_from(self.map.len()).unwrap_or(u32::MAX)
    }

    /// Sessions that it has room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.elements().saturating_sub(1)
    }

    fn head(&self, word: JournalWord) -> Option<&AtomicU64> {
        self.map.first()?.copies.first()?.get(word as usize)
    }

    fn head_value(&self, word: JournalWord) -> u64 {
        self.head(word).map_or(0, |cell| cell.load(Ordering::Acquire))
    }

    fn set_head(&self, word: JournalWord, value: u64) {
        if let Some(cell) = self.head(word) {
            cell.store(value, Ordering::Release);
        }
    }

    fn copies(&self, index: u32) -> Option<&[[AtomicU64; JOURNAL_COPY_WORDS]; 2]> {
        // Element 0 is the head.
        self.map.get(index as usize + 1).map(|record| &record.copies)
    }

    /// Everything that an earlier control plane left, or why it is of no use.
    ///
    /// # Errors
    /// [`Unusable`]: [`Self::begin`] then, and nothing is gone on from.
    pub fn read(&mut self, node_key: &NodeKey) -> Result<Contents, Unusable> {
        if self.head_value(JournalWord::Magic) != JOURNAL_MAGIC {
            return Err(Unusable::NoHead);
        }
        let version = self.head_value(JournalWord::Version);
        if version != JOURNAL_VERSION {
            return Err(Unusable::Version(version));
        }
        if self.head_value(JournalWord::KeyName) != node_key.name() {
            return Err(Unusable::OtherKey);
        }
        // Two words, so that one that is damaged hides nothing.
        let used = self.head_value(JournalWord::Used).max(self.head_value(JournalWord::UsedAgain));
        self.used = used.min(u64::from(self.capacity()));
        let mut contents = Contents::default();
        let mut keys = BTreeMap::new();
        for index in 0..u32::try_from(self.used).unwrap_or(u32::MAX) {
            match self.read_record(index, node_key, &mut keys) {
                Found::Free => {}
                Found::Whole(snapshot) => contents.snapshots.push((index, snapshot)),
                Found::Damaged => contents.damaged.push(index),
            }
        }
        if self.head_value(JournalWord::Complete) == JOURNAL_COMPLETE {
            self.completeness = Completeness::Complete;
        }
        if !contents.damaged.is_empty() {
            // Before they are freed: who comes next would see nothing missing.
            self.mark(Completeness::Incomplete);
        }
        contents.completeness = self.completeness;
        Ok(contents)
    }

    /// Says whether every live session has its record now. Only once what was written for them is written.
    pub fn mark(&mut self, completeness: Completeness) {
        if self.completeness != completeness {
            self.completeness = completeness;
            self.write_mark();
        }
    }

    fn write_mark(&self) {
        fence(Ordering::SeqCst);
        self.set_head(
            JournalWord::Complete,
            match self.completeness {
                Completeness::Incomplete => 0,
                Completeness::Complete => JOURNAL_COMPLETE,
            },
        );
        fence(Ordering::SeqCst);
    }

    /// The newest whole copy.
    fn read_record(
        &self,
        index: u32,
        node_key: &NodeKey,
        keys: &mut BTreeMap<[u8; SALT_LEN], OpenKey>,
    ) -> Found {
        let Some(copies) = self.copies(index) else { return Found::Free };
        let mut newest: Option<(u64, Box<Snapshot>)> = None;
        let mut is_free = true;
        for copy in copies {
            let octets = load(copy);
            let sequence = sequence_of(&octets);
            is_free &= sequence == 0;
            if sequence == 0 || newest.as_ref().is_some_and(|(newest, _)| *newest >= sequence) {
                continue;
            }
            if let Some(snapshot) = unseal(&octets, index, node_key, keys) {
                newest = Some((sequence, snapshot));
            }
        }
        match newest {
            Some((_, snapshot)) => Found::Whole(snapshot),
            None if is_free => Found::Free,
            None => Found::Damaged,
        }
    }

    /// Makes an empty JOURNAL of whatever was there. It is incomplete until [`Self::mark`] says otherwise.
    pub fn begin(&mut self, node_key: &NodeKey) {
        self.set_head(JournalWord::Magic, 0);
        self.completeness = Completeness::Incomplete;
        self.write_mark();
        // Memory that was never used reads as zero and is not touched by that.
        let foreign = [JournalWord::Version, JournalWord::KeyName, JournalWord::Used, JournalWord::UsedAgain];
        if foreign.into_iter().any(|word| self.head_value(word) != 0) {
            (0..self.capacity()).for_each(|index| self.wipe(index));
        }
        self.used = 0;
        self.set_head(JournalWord::Used, 0);
        self.set_head(JournalWord::UsedAgain, 0);
        self.set_head(JournalWord::Version, JOURNAL_VERSION);
        self.set_head(JournalWord::KeyName, node_key.name());
        self.set_head(JournalWord::Magic, JOURNAL_MAGIC);
    }

    /// Writes a session's record. Costs one sealing and two copies of it, whatever the number of sessions is.
    pub fn write(&mut self, index: u32, snapshot: &Snapshot) {
        if index >= self.capacity() {
            debug_assert!(false, "a record beyond JOURNAL's end");
            return;
        }
        if u64::from(index) >= self.used {
            self.used = u64::from(index) + 1;
            self.set_head(JournalWord::Used, self.used);
            self.set_head(JournalWord::UsedAgain, self.used);
        }
        self.sequence += 1;
        let mut octets = [0; JOURNAL_COPY_LEN];
        let (head, body) = octets.split_at_mut(JOURNAL_HEAD_LEN);
        let (sequence, salt) = head.split_at_mut(8);
        sequence.copy_from_slice(&self.sequence.to_ne_bytes());
        salt.copy_from_slice(&self.salt);
        let aad = associated(head, index);
        if self.key.seal(self.sequence, &aad, snapshot.octets(), body).is_err() {
            // The lengths are fixed by types; an unsealed record must not rest there all the same.
            debug_assert!(false, "a record of the wrong length");
            return;
        }
        for copy in self.copies(index).into_iter().flatten() {
            for (cell, word) in copy.iter().zip(octets.chunks_exact(8)) {
                cell.store(u64::from_ne_bytes(word.try_into().unwrap_or_default()), Ordering::Relaxed);
            }
            // The second copy is touched only when the first is whole.
            fence(Ordering::SeqCst);
        }
    }

    /// The session is over: its record is free.
    pub fn clear(&mut self, index: u32) {
        self.wipe(index);
    }

    fn wipe(&self, index: u32) {
        for copy in self.copies(index).into_iter().flatten() {
            copy.iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
            fence(Ordering::SeqCst);
        }
    }
}

/// What a record turned out to be.
enum Found {
    Free,
    Whole(Box<Snapshot>),
    Damaged,
}

fn load(copy: &[AtomicU64; JOURNAL_COPY_WORDS]) -> [u8; JOURNAL_COPY_LEN] {
    let mut octets = [0; JOURNAL_COPY_LEN];
    for (octets, cell) in octets.chunks_exact_mut(8).zip(copy) {
        octets.copy_from_slice(&cell.load(Ordering::Acquire).to_ne_bytes());
    }
    octets
}

fn sequence_of(octets: &[u8; JOURNAL_COPY_LEN]) -> u64 {
    octets.first_chunk().map_or(0, |head| u64::from_ne_bytes(*head))
}

/// Sequence, salt and place: a record that was moved elsewhere does not open.
fn associated(head: &[u8], index: u32) -> [u8; JOURNAL_HEAD_LEN + 4] {
    let mut aad = [0; JOURNAL_HEAD_LEN + 4];
    for (to, from) in aad.iter_mut().zip(head.iter().copied().chain(index.to_be_bytes())) {
        *to = from;
    }
    aad
}

fn unseal(
    octets: &[u8; JOURNAL_COPY_LEN],
    index: u32,
    node_key: &NodeKey,
    keys: &mut BTreeMap<[u8; SALT_LEN], OpenKey>,
) -> Option<Box<Snapshot>> {
    let (head, sealed) = octets.split_at_checked(JOURNAL_HEAD_LEN)?;
    let salt: [u8; SALT_LEN] = head.get(8..)?.try_into().ok()?;
    let key = keys
        .entry(salt)
        .or_insert_with(|| OpenKey::new(SUITE, &node_key.sealing_key(SealPurpose::Journal, &salt)));
    let mut plain = Zeroizing::new([0; JOURNAL_PLAIN_LEN]);
    let opened = key.open(sequence_of(octets), &associated(head, index), sealed, &mut *plain);
    opened.is_ok().then(|| Box::new(Snapshot::from_octets(plain)))
}

#[cfg(test)]
mod tests;
