//! PREFIXES: what ROUTES says, in memory that workers read. ROUTES itself is the kernel's, for XDP; asking it costs a system
//! call. The control plane writes both, PREFIXES first when a prefix comes and last when it goes.
//!
//! A hash table over prefix and length, searched from the longest length in use to the shortest. One process writes, any
//! number of threads read; readers neither lock nor wait: a cell that is being rewritten counts as empty for them, and a
//! writer that dies half-way leaves nothing worse. The content of the memory is believed only within its bounds.

use crate::mapping::{Mapping, TableError};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// u64 words in front of the cells.
const HEAD_WORDS: usize = 8;
/// Word of the head that counts changes.
const GENERATION: usize = 0;
/// Words of the head with the lengths in use: IPv4's, then IPv6's by 64.
const LENS: [usize; 4] = [1, 2, 3, 4];
/// u64 words of a cell: state, and both halves of the network.
const CELL_WORDS: usize = 4;
/// Octets of a cell: two share a cache line.
pub const PREFIX_CELL_LEN: usize = CELL_WORDS * 8;
/// Cells looked at before a search ends. At half of its cells in use a table of 2^19 needs fewer than 70.
const PROBES: usize = 128;
/// Times that a reader looks again at a cell that changed under it.
const LOOKS: usize = 4;

/// The first IPv4-mapped address (RFC 4291 section 2.5.5.2), without its last 32 bits.
const MAPPED: u128 = 0xffff;
/// Length of what leads an IPv4-mapped address, bits.
const MAPPED_LEN: u32 = 96;

/// State of a cell: nothing was ever here, and nothing is behind.
const EMPTY: u64 = 0;
/// A prefix.
const LIVE: u64 = 1 << 63;
/// A prefix was here: the search goes on behind.
const GRAVE: u64 = 1 << 62;
/// How often the cell got another prefix, so that a reader sees that it did.
const TURN_SHIFT: u32 = 40;
const TURN_MASK: u64 = (1 << 22) - 1;
const LEN_SHIFT: u32 = 32;

/// A prefix of inner addresses: IPv4 is IPv4-mapped, and its length counts from the start of the mapped form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InnerPrefix {
    len: u8,
    network: u128,
}

impl InnerPrefix {
    /// The first `len` bits of `address`; `None` if there are not so many.
    #[must_use]
    pub const fn new(address: u128, len: u32) -> Option<Self> {
        if len > 128 { None } else { Some(Self { len: len as u8, network: address & mask(len) }) }
    }

    /// Length within the 128-bit form, bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.len as u32
    }

    /// The network's address, IPv4-mapped.
    #[must_use]
    pub const fn network(self) -> u128 {
        self.network
    }

    /// Whether it is one of IPv4.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.bits() >= MAPPED_LEN && self.network >> 32 == MAPPED
    }

    /// Bit in [`LENS`]: word and place.
    const fn bit(self) -> (usize, u32) {
        if self.is_v4() { (LENS[0], self.bits() - MAPPED_LEN) } else { v6_bit(self.bits()) }
    }
}

const fn v6_bit(len: u32) -> (usize, u32) {
    match len / 64 {
        0 => (LENS[1], len),
        1 => (LENS[2], len - 64),
        _ => (LENS[3], len - 128),
    }
}

#[inline]
const fn mask(len: u32) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - len) }
}

/// PREFIXES, to read.
#[derive(Debug)]
pub struct Prefixes {
    words: Mapping<AtomicU64>,
    cells: usize,
}

/// Cells of a table for a binding table of `slots` entries: twice the entries of ROUTES, rounded up to a power of two.
const fn cells(slots: u32) -> usize {
    (slots as usize * 4).next_power_of_two()
}

impl Prefixes {
    /// Octets of the memory for a binding table of `slots` entries.
    #[must_use]
    pub const fn octets(slots: u32) -> usize {
        (HEAD_WORDS + cells(slots) * CELL_WORDS) * 8
    }

    /// Maps the memory of a gateway with `slots` entries in its binding table.
    ///
    /// # Errors
    /// If it is smaller than that, or cannot be mapped.
    pub fn map(fd: BorrowedFd<'_>, slots: u32) -> Result<Self, TableError> {
        let cells = cells(slots);
        Ok(Self { words: Mapping::new("PREFIXES", fd, HEAD_WORDS + cells * CELL_WORDS)?, cells })
    }

    /// Rises with every change.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.word(GENERATION).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The slot that the longest prefix of an inner address leads to.
    #[must_use]
    #[inline]
    pub fn slot_of(&self, address: u128) -> Option<u32> {
        if address >> 32 == MAPPED {
            return self.search(LENS[0], MAPPED_LEN, address);
        }
        self.search(LENS[3], 128, address)
            .or_else(|| self.search(LENS[2], 64, address))
            .or_else(|| self.search(LENS[1], 0, address))
    }

    /// Searches the lengths of one word of the head, from the longest; bit 0 stands for `least`.
    #[inline]
    fn search(&self, word: usize, least: u32, address: u128) -> Option<u32> {
        let mut lens = self.word(word)?.load(Ordering::Acquire);
        while let Some(bit) = lens.checked_ilog2() {
            let prefix = InnerPrefix::new(address, least + bit)?;
            if let Some(slot) = self.find(prefix) {
                return Some(slot);
            }
            lens &= !(1 << bit);
        }
        None
    }

    #[inline]
    fn find(&self, prefix: InnerPrefix) -> Option<u32> {
        let first = self.place(prefix);
        for step in 0..PROBES {
            match self.look(first.wrapping_add(step), prefix)? {
                Look::Empty => return None,
                Look::This { slot } => return Some(slot),
                Look::Other => {}
            }
        }
        None
    }

    #[inline]
    fn look(&self, at: usize, prefix: InnerPrefix) -> Option<Look> {
        let [state, high, low, _] = self.cell(at)?;
        for _ in 0..LOOKS {
            let before = state.load(Ordering::Acquire);
            if before == EMPTY {
                return Some(Look::Empty);
            }
            if before & LIVE == 0 || (before >> LEN_SHIFT) as u8 != prefix.len {
                return Some(Look::Other);
            }
            let network =
                u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            // If the cell got another prefix meanwhile, its halves may be of both.
            if state.load(Ordering::Relaxed) >> LEN_SHIFT == before >> LEN_SHIFT {
                let is_this = network == prefix.network;
                return Some(if is_this { Look::This { slot: before as u32 } } else { Look::Other });
            }
        }
        Some(Look::Other)
    }

    /// Every prefix and its slot. Each is true at some moment of the walk.
    pub fn iter(&self) -> impl Iterator<Item = (InnerPrefix, u32)> {
        (0..self.cells).filter_map(|at| {
            let [state, high, low, _] = self.cell(at)?;
            let before = state.load(Ordering::Acquire);
            let network =
                u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            // A prefix that went to another slot meanwhile is the same prefix; a cell that got another one is not.
            let is_whole =
                before & LIVE != 0 && state.load(Ordering::Relaxed) >> LEN_SHIFT == before >> LEN_SHIFT;
            let len = u32::from((before >> LEN_SHIFT) as u8);
            let prefix = InnerPrefix::new(network, len)?;
            is_whole.then_some((prefix, before as u32))
        })
    }

    #[inline]
    fn word(&self, at: usize) -> Option<&AtomicU64> {
        self.words.get(at)
    }

    #[inline]
    fn cell(&self, at: usize) -> Option<&[AtomicU64; CELL_WORDS]> {
        let start = HEAD_WORDS + (at & (self.cells - 1)) * CELL_WORDS;
        self.words.get(start..start + CELL_WORDS)?.try_into().ok()
    }

    /// Where the search for a prefix begins.
    #[inline]
    const fn place(&self, prefix: InnerPrefix) -> usize {
        // 2^64 ÷ the golden ratio, made odd (Knuth, TAOCP volume 3, section 6.4). Who chooses prefixes is the operator.
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut hash = prefix.len as u64;
        let words = [prefix.network as u64, (prefix.network >> 64) as u64];
        let mut n = 0;
        while n < words.len() {
            let product = (hash ^ words[n]) as u128 * MULTIPLIER as u128;
            hash = product as u64 ^ (product >> 64) as u64;
            n += 1;
        }
        hash as usize & (self.cells - 1)
    }
}

/// What a cell is to somebody who searches a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Empty,
    This { slot: u32 },
    Other,
}

/// Why a prefix was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// As many as there is room for are there.
    #[error("PREFIXES is full: {0} prefixes; raise 'slots' of the data plane")]
    Full(usize),
}

/// PREFIXES, to write: one writer at a time, by contract.
#[derive(Debug)]
pub struct PrefixWriter {
    table: Prefixes,
    /// Prefixes of each length: IPv4's in the first row.
    counts: [[u32; 64]; LENS.len()],
    live: usize,
}

impl PrefixWriter {
    /// Takes over what is there, be it nothing or an earlier writer's, and makes it whole.
    #[must_use]
    pub fn take(table: Prefixes) -> Self {
        let mut writer = Self { table, counts: [[0; 64]; LENS.len()], live: 0 };
        let there: Vec<(InnerPrefix, u32)> = writer.table.iter().collect();
        for (prefix, _) in there {
            writer.note_one_more(prefix);
        }
        for (word, counts) in LENS.into_iter().zip(writer.counts) {
            let bits = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            let lens = bits.fold(0u64, |lens, (bit, _)| lens | 1 << bit);
            writer.table.word(word).into_iter().for_each(|word| word.store(lens, Ordering::Release));
        }
        // An earlier writer may have died between a change and its number.
        writer.changed();
        writer
    }

    /// What is there.
    #[must_use]
    pub const fn table(&self) -> &Prefixes {
        &self.table
    }

    /// Leads a prefix to a slot; one that is there moves in one store.
    ///
    /// # Errors
    /// If there is no room; then nothing has changed.
    pub fn insert(&mut self, prefix: InnerPrefix, slot: u32) -> Result<(), PrefixError> {
        let first = self.table.place(prefix);
        let mut free = None;
        for step in 0..PROBES {
            let at = first.wrapping_add(step);
            match self.table.look(at, prefix) {
                Some(Look::This { .. }) => {
                    self.store_state(at, |state| state & !u64::from(u32::MAX) | u64::from(slot));
                    self.changed();
                    return Ok(());
                }
                Some(Look::Empty) | None => {
                    free = free.or(Some(at));
                    break;
                }
                Some(Look::Other) => {
                    let is_grave = self.state(at) & LIVE == 0;
                    free = free.or(is_grave.then_some(at));
                }
            }
        }
        let Some(at) = free.filter(|_| self.live < self.table.cells / 2) else {
            return Err(PrefixError::Full(self.live));
        };
        self.note_one_more(prefix);
        let (word, bit) = prefix.bit();
        if let Some(lens) = self.table.word(word) {
            lens.fetch_or(1 << bit, Ordering::Release);
        }
        self.fill(at, prefix, slot);
        self.changed();
        Ok(())
    }

    /// Removes a prefix, if it leads to `slot`. Whether it did.
    pub fn remove(&mut self, prefix: InnerPrefix, slot: u32) -> bool {
        let first = self.table.place(prefix);
        let at = (0..PROBES).map(|step| first.wrapping_add(step)).find_map(|at| {
            match self.table.look(at, prefix) {
                Some(Look::This { slot }) => Some(Ok((at, slot))),
                Some(Look::Other) => None,
                Some(Look::Empty) | None => Some(Err(())),
            }
        });
        let Some(Ok((at, there))) = at else { return false };
        if there != slot {
            return false;
        }
        self.store_state(at, |state| state & !LIVE | GRAVE);
        self.live = self.live.saturating_sub(1);
        let (word, bit) = prefix.bit();
        if let Some(count) = self.count(word, bit) {
            *count = count.saturating_sub(1);
            if *count == 0
                && let Some(lens) = self.table.word(word)
            {
                lens.fetch_and(!(1 << bit), Ordering::Release);
            }
        }
        self.clear_graves(at);
        self.changed();
        true
    }

    /// Graves with nothing behind them are no longer needed: nobody's search goes past an empty cell.
    fn clear_graves(&self, at: usize) {
        let mut at = at;
        for _ in 0..PROBES {
            let is_grave = self.state(at) & LIVE == 0 && self.state(at) != EMPTY;
            if !is_grave || self.state(at.wrapping_add(1)) != EMPTY {
                return;
            }
            self.store_state(at, |_| EMPTY);
            at = at.wrapping_sub(1);
        }
    }

    /// Makes a free cell the prefix's. A reader that looks meanwhile sees that it is being made, or that it was.
    fn fill(&self, at: usize, prefix: InnerPrefix, slot: u32) {
        let Some([state, high, low, turns]) = self.table.cell(at) else { return };
        // Kept beside the state, which forgets it when the cell is cleared.
        let turn = turns.load(Ordering::Relaxed).wrapping_add(1) & TURN_MASK;
        turns.store(turn, Ordering::Relaxed);
        state.store(GRAVE | turn << TURN_SHIFT, Ordering::Relaxed);
        fence(Ordering::Release);
        high.store((prefix.network >> 64) as u64, Ordering::Relaxed);
        low.store(prefix.network as u64, Ordering::Relaxed);
        let made = LIVE | turn << TURN_SHIFT | u64::from(prefix.len) << LEN_SHIFT | u64::from(slot);
        state.store(made, Ordering::Release);
    }

    fn state(&self, at: usize) -> u64 {
        self.table.cell(at).map_or(EMPTY, |[state, ..]| state.load(Ordering::Relaxed))
    }

    fn store_state(&self, at: usize, change: impl Fn(u64) -> u64) {
        if let Some([state, ..]) = self.table.cell(at) {
            state.store(change(state.load(Ordering::Relaxed)), Ordering::Release);
        }
    }

    fn note_one_more(&mut self, prefix: InnerPrefix) {
        self.live += 1;
        let (word, bit) = prefix.bit();
        self.count(word, bit).into_iter().for_each(|count| *count += 1);
    }

    fn count(&mut self, word: usize, bit: u32) -> Option<&mut u32> {
        self.counts.get_mut(word - LENS[0])?.get_mut(bit as usize)
    }

    fn changed(&self) {
        if let Some(generation) = self.table.word(GENERATION) {
            generation.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::shared_memory;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    const SLOTS: u32 = 64;

    fn table() -> (Prefixes, PrefixWriter) {
        let fd = shared_memory("PREFIXES", c"jvpn-test", Prefixes::octets(SLOTS)).unwrap();
        let map = || Prefixes::map(fd.as_fd(), SLOTS).unwrap();
        (map(), PrefixWriter::take(map()))
    }

    fn v4(text: [u8; 4]) -> u128 {
        MAPPED << 32 | u128::from(u32::from_be_bytes(text))
    }

    /// The longest that holds the address, the plain way; IPv6's prefixes hold no IPv4.
    fn naive(all: &BTreeMap<InnerPrefix, u32>, address: u128) -> Option<u32> {
        let is_v4 = address >> 32 == MAPPED;
        let holds =
            |prefix: &InnerPrefix| prefix.is_v4() == is_v4 && address & mask(prefix.bits()) == prefix.network;
        all.iter().filter(|(prefix, _)| holds(prefix)).max_by_key(|(prefix, _)| prefix.len).map(|(_, s)| *s)
    }

    /// Addresses that often meet: few bits differ.
    fn address() -> impl Strategy<Value = u128> {
        prop_oneof![
            any::<[bool; 3]>().prop_map(|bits| v4([
                10 + u8::from(bits[0]),
                u8::from(bits[1]) << 7,
                0,
                bits[2].into()
            ])),
            (any::<[bool; 3]>(), any::<u8>()).prop_map(|(bits, low)| {
                0xfd77 << 112
                    | u128::from(bits[0]) << 80
                    | u128::from(bits[1]) << 64
                    | u128::from(bits[2]) << 63
                    | u128::from(low)
            }),
            any::<u32>().prop_map(|v4| MAPPED << 32 | u128::from(v4)),
            any::<u128>(),
        ]
    }

    fn prefix() -> impl Strategy<Value = InnerPrefix> {
        let len = prop_oneof![Just(128), Just(112), Just(104), Just(64), Just(0), 0_u32..=128];
        (address(), len).prop_map(|(address, len)| InnerPrefix::new(address, len).unwrap())
    }

    proptest! {
        /// R0.2: after any changes every address leads where the plain search says; a second writer takes over what is
        /// there.
        #[test]
        fn r0_2_the_longest_prefix_is_found(
            changes in prop::collection::vec((prefix(), 0_u32..4, any::<bool>()), 0..200),
            asked in prop::collection::vec(address(), 40),
        ) {
            let fd = shared_memory("PREFIXES", c"jvpn-test", Prefixes::octets(SLOTS)).unwrap();
            let map = || Prefixes::map(fd.as_fd(), SLOTS).unwrap();
            let (reader, mut writer) = (map(), PrefixWriter::take(map()));
            let mut all = BTreeMap::new();
            for (n, (prefix, slot, adds)) in changes.into_iter().enumerate() {
                if adds && (all.len() < SLOTS as usize * 2 || all.contains_key(&prefix)) {
                    writer.insert(prefix, slot).unwrap();
                    all.insert(prefix, slot);
                } else if !adds {
                    let is_there = all.get(&prefix) == Some(&slot);
                    prop_assert_eq!(writer.remove(prefix, slot), is_there);
                    if is_there {
                        all.remove(&prefix);
                    }
                }
                if n % 50 == 49 {
                    writer = PrefixWriter::take(map());
                }
            }
            for address in asked {
                prop_assert_eq!(reader.slot_of(address), naive(&all, address), "{:x}", address);
            }
            let found: BTreeMap<InnerPrefix, u32> = reader.iter().collect();
            prop_assert_eq!(found, all);
        }

        /// R1.9: whatever lies in the memory, a search ends and nothing panics.
        #[test]
        fn r1_9_hostile_memory_is_survived(
            words in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 1..300),
            asked in prop::collection::vec(address(), 10),
            prefix in prefix(),
        ) {
            let (reader, _) = table();
            for (at, word) in words {
                reader.words[at.index(reader.words.len())].store(word, Ordering::Relaxed);
            }
            for address in &asked {
                let _found = reader.slot_of(*address);
            }
            let mut writer = PrefixWriter::take(reader);
            let _stored = writer.insert(prefix, 1);
            let _removed = writer.remove(prefix, 1);
            let _found = writer.table().slot_of(asked[0]);
        }
    }

    #[test]
    fn a_full_table_says_so_and_stays_whole() {
        let (reader, mut writer) = table();
        let (room, taken_over) = (reader.cells / 2, reader.generation());
        assert_eq!(taken_over, 1, "an earlier writer may have died between a change and its number");
        let host = |n: usize| InnerPrefix::new(v4([10, 0, (n >> 8) as u8, n as u8]), 128).unwrap();
        for n in 0..room {
            writer.insert(host(n), n as u32).unwrap();
        }
        assert_eq!(writer.insert(host(room), 1), Err(PrefixError::Full(room)));
        writer.insert(host(3), 77).unwrap();
        assert_eq!((reader.slot_of(host(3).network), reader.slot_of(host(room).network)), (Some(77), None));
        assert_eq!(reader.generation(), taken_over + room as u64 + 1);
        for n in 0..room {
            assert!(writer.remove(host(n), if n == 3 { 77 } else { n as u32 }));
        }
        assert!(
            (0..reader.cells).all(|at| writer.state(at) == EMPTY),
            "no grave stays behind the last prefix"
        );
    }

    /// R0.2: while other prefixes come and go, one that stays is found at every moment, and one that moves leads to either
    /// of its slots, never to a third and never to none.
    #[test]
    fn r0_2_readers_see_whole_cells_only() {
        let (reader, mut writer) = table();
        let host = |n: u8| InnerPrefix::new(v4([10, 0, 0, n]), 128).unwrap();
        let (stays, moves) = (host(1), host(2));
        writer.insert(stays, 1).unwrap();
        writer.insert(moves, 2).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let of_writer = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            for n in 0..200_000_u32 {
                let other = host(10 + (n % 100) as u8);
                if !writer.remove(other, 1_000 + n % 100) {
                    writer.insert(other, 1_000 + n % 100).unwrap();
                }
                writer.insert(moves, 2 + n % 2).unwrap();
            }
            of_writer.store(true, Ordering::Release);
        });
        let mut looks = 0_u64;
        while !ended.load(Ordering::Acquire) || looks < 1_000 {
            assert_eq!(reader.slot_of(stays.network), Some(1));
            assert!(matches!(reader.slot_of(moves.network), Some(2 | 3)));
            let other = host(10 + (looks % 100) as u8);
            let found = reader.slot_of(other.network);
            assert!(found.is_none_or(|slot| slot == 1_000 + (looks % 100) as u32), "{found:?}");
            let walked = reader.iter().any(|(prefix, slot)| prefix == moves && matches!(slot, 2 | 3));
            assert!(walked, "a prefix that moves is there all the time");
            looks += 1;
        }
        thread.join().unwrap();
    }
}
