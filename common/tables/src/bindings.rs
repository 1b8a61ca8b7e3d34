//! BINDINGS as both processes see it: one store binds or unbinds a slot.

use crate::mapping::{Mapping, TableError};
use jvpn_abi::Word;
use jvpn_abi::tables::{BINDING_WORDS, BindingEntry, BindingWord};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// The mapped BINDINGS table.
#[derive(Debug)]
pub struct Bindings {
    words: Mapping<AtomicU64>,
    slots: u32,
}

impl Bindings {
    /// Maps the table of `slots` entries from the BPF map's descriptor.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn map(fd: BorrowedFd<'_>, slots: u32) -> Result<Self, TableError> {
        Ok(Self { words: Mapping::new("BINDINGS", fd, slots as usize * BINDING_WORDS)?, slots })
    }

    /// Entries of the table.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// The word of a slot now; unbound for an index beyond the table.
    #[must_use]
    #[inline]
    pub fn word(&self, slot_index: u32) -> BindingWord {
        self.words.get(slot_index as usize * BINDING_WORDS).map_or(BindingWord::UNBOUND, bound_word)
    }

    /// Where the word of a slot stands, for whoever wants it brought into the cache.
    #[must_use]
    #[inline]
    pub fn cell(&self, slot_index: u32) -> Option<&AtomicU64> {
        self.words.get(slot_index as usize * BINDING_WORDS)
    }

    /// Unbinds: from this store on nothing of the slot is accepted by a batch that begins.
    pub fn unbind(&self, slot_index: u32) {
        if let Some(word) = self.words.get(slot_index as usize * BINDING_WORDS) {
            store_unbound(word);
        }
    }

    /// Binds: the path first, the word last. The slot must be unbound and quiesced.
    pub fn bind(&self, slot_index: u32, entry: &BindingEntry, word: BindingWord) {
        let at = slot_index as usize * BINDING_WORDS;
        let Some(cells) = self.words.get(at..at + BINDING_WORDS) else { return };
        store_bound(cells, entry, word);
    }
}

/// What an entry's word says now.
#[must_use]
#[inline]
pub fn bound_word<A: Word>(word: &A) -> BindingWord {
    BindingWord(word.load(Ordering::Acquire))
}

/// Unbinds an entry by its word.
#[inline]
pub fn store_unbound<A: Word>(word: &A) {
    // SeqCst: ordered before the request sequence that the workers read at their next boundary.
    word.store(BindingWord::UNBOUND.0, Ordering::SeqCst);
}

/// Binds an entry by its cells: the path first, the word last.
pub fn store_bound<A: Word>(cells: &[A], entry: &BindingEntry, word: BindingWord) {
    let values: [u64; BINDING_WORDS] = bytemuck::cast(*entry);
    for (cell, value) in cells.iter().zip(values).skip(1) {
        cell.store(value, Ordering::Relaxed);
    }
    A::fence(Ordering::Release);
    if let Some(cell) = cells.first() {
        cell.store(word.0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::shared_memory;
    use jvpn_abi::{Endpoint, wire::SlotId};
    use std::os::fd::AsFd;

    #[test]
    fn bind_and_unbind_and_out_of_range() {
        let fd = shared_memory("BINDINGS", c"jvpn-test", 64 * 64).unwrap();
        let table = Bindings::map(fd.as_fd(), 64).unwrap();
        let word = BindingWord::bound(SlotId::new(63, 5).unwrap(), 9);
        let path = BindingEntry::new(Endpoint::v4([10, 0, 0, 1], 9), Endpoint::v4([10, 0, 0, 2], 4500));
        table.bind(63, &path, word);
        assert_eq!(table.word(63), word);
        assert_eq!((table.word(63).serial(), table.word(63).is_bound()), (5, true));
        table.unbind(63);
        assert!(!table.word(63).is_bound());
        table.bind(64, &path, word);
        table.unbind(u32::MAX);
        assert_eq!(table.word(64), BindingWord::UNBOUND);
    }
}
