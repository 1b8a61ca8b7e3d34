//! KEYS: the mailbox through which install entries reach the installer. Keys never rest in it.

use crate::mapping::{Mapping, TableError};
use jvpn_abi::Word;
use jvpn_abi::tables::{INSTALL_WORDS, InstallEntry, KeyRing};
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use zeroize::Zeroize;

/// Either end of the mailbox.
#[derive(Debug)]
pub struct KeyMailbox(Mapping<KeyRing>);

impl KeyMailbox {
    /// Maps the ring from its descriptor.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn map(fd: BorrowedFd<'_>) -> Result<Self, TableError> {
        Mapping::new("KEYS", fd, 1).map(Self)
    }

    /// Keeps the ring out of swap and core dumps.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn lock(&self) -> Result<(), TableError> {
        self.0.lock("KEYS")
    }

    fn ring(&self) -> Option<&KeyRing> {
        self.0.first()
    }

    /// Producer: puts an entry in. `false` if the ring is full; the caller tries again after the installer's report.
    #[must_use]
    pub fn put(&self, entry: &InstallEntry) -> bool {
        let Some(ring) = self.ring() else { return false };
        put(ring, entry)
    }

    /// Consumer: takes the next entry out and wipes its place.
    #[must_use]
    pub fn take(&self) -> Option<InstallEntry> {
        take(self.ring()?)
    }

    /// Whoever starts anew begins with an empty ring: nothing of a dead peer is installed.
    pub fn clear(&self) {
        while self.take().is_some() {}
        if let Some(ring) = self.ring() {
            for cell in ring.entries.iter().flatten() {
                cell.store(0, Ordering::Relaxed);
            }
            ring.taken.store(ring.written.load(Ordering::Acquire), Ordering::Release);
        }
    }
}

/// Producer: puts an entry into a ring.
#[must_use]
pub fn put<A: Word, const LEN: usize>(ring: &KeyRing<A, LEN>, entry: &InstallEntry) -> bool {
    let written = ring.written.load(Ordering::Relaxed);
    // A reader that claims to have taken more than was written is hostile or torn: treat the ring as full.
    let waiting = written.wrapping_sub(ring.taken.load(Ordering::Acquire));
    if waiting >= LEN as u64 {
        return false;
    }
    let Some(cells) = ring.entries.get(written as usize % LEN) else { return false };
    let mut words: [u64; INSTALL_WORDS] = bytemuck::cast(*entry);
    for (cell, word) in cells.iter().zip(words) {
        cell.store(word, Ordering::Relaxed);
    }
    words.zeroize();
    ring.written.store(written.wrapping_add(1), Ordering::Release);
    true
}

/// Consumer: takes the next entry out of a ring and wipes its place.
#[must_use]
pub fn take<A: Word, const LEN: usize>(ring: &KeyRing<A, LEN>) -> Option<InstallEntry> {
    let taken = ring.taken.load(Ordering::Relaxed);
    let waiting = ring.written.load(Ordering::Acquire).wrapping_sub(taken);
    if waiting == 0 || waiting > LEN as u64 {
        return None;
    }
    let cells = ring.entries.get(taken as usize % LEN)?;
    let mut words = [0u64; INSTALL_WORDS];
    for (word, cell) in words.iter_mut().zip(cells) {
        // Two steps will do: between `written` and `taken` the place is the consumer's alone.
        *word = cell.load(Ordering::Relaxed);
        cell.store(0, Ordering::Relaxed);
    }
    let entry = bytemuck::cast(words);
    words.zeroize();
    ring.taken.store(taken.wrapping_add(1), Ordering::Release);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{secret_memory, shared_memory};
    use bytemuck::Zeroable;
    use jvpn_abi::tables::KEY_RING_LEN;
    use std::os::fd::AsFd;

    fn entry(seq: u64) -> InstallEntry {
        InstallEntry { seq, open_key: [7; 32], ..InstallEntry::zeroed() }
    }

    #[test]
    fn first_in_first_out_bounded_and_wiped() {
        let (fd, _) = secret_memory("KEYS", c"jvpn-test", size_of::<KeyRing>()).unwrap();
        let producer = KeyMailbox::map(fd.as_fd()).unwrap();
        let consumer = KeyMailbox::map(fd.as_fd()).unwrap();
        let mut sent = 0;
        while producer.put(&entry(sent)) {
            sent += 1;
        }
        assert_eq!(sent, KEY_RING_LEN as u64);
        for seq in 0..sent {
            let taken = consumer.take().unwrap();
            assert_eq!((taken.seq, taken.open_key), (seq, [7; 32]));
        }
        assert!(consumer.take().is_none());
        let ring = consumer.ring().unwrap();
        assert!(
            ring.entries.iter().flatten().all(|cell| cell.load(Ordering::Relaxed) == 0),
            "keys were left"
        );
    }

    /// R1.8: a ring whose counters are torn or hostile gives nothing and takes nothing.
    #[test]
    fn hostile_counters() {
        let fd = shared_memory("KEYS", c"jvpn-test", size_of::<KeyRing>()).unwrap();
        let mailbox = KeyMailbox::map(fd.as_fd()).unwrap();
        let ring = mailbox.ring().unwrap();
        for (written, taken) in [(0, 1), (u64::MAX, 0), (5, 900), (KEY_RING_LEN as u64 + 1, 0)] {
            ring.written.store(written, Ordering::Relaxed);
            ring.taken.store(taken, Ordering::Relaxed);
            assert!(mailbox.take().is_none());
            assert!(!mailbox.put(&entry(1)));
        }
        mailbox.clear();
        assert!(mailbox.put(&entry(1)) && mailbox.take().is_some());
    }
}
