//! A hierarchical timer wheel: 8 levels of 64 slots over the whole range of nanoseconds (docs/decisions/0019).
//!
//! Entering and leaving cost O(1); the earliest entry is known exactly, and what is due together comes by (deadline,
//! item). What a slot covers is a matter of the deadline alone, so the wheel has no hand and no clock: a moment that jumps
//! by hours costs nothing, and one that steps back means nothing.
//!
//! A slot starts as a bag in no order. Only when it is the earliest of all and holds more than one entry is it opened, into
//! the 64 slots of the next finer level; a slot of the finest level, one tick, is sorted. So an entry moves at most
//! once per level in its life, and only entries of the earliest ticks are ever compared.

use jvpn_abi::BootTime;
use std::collections::BTreeSet;

/// 2^6 slots per level: one word says which are occupied.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// A tick is 2^16 ns, 65.5 µs. It bounds what is sorted, not when a deadline is reached.
const TICK_BITS: u32 = 16;
/// Level 0 is the finest.
const TOP: u8 = 7;
const _: () = assert!((TOP as u32 + 1) * SLOT_BITS + TICK_BITS == u64::BITS);

/// The wheel of the coarsest level. It is never given back.
const ROOT: u32 = 0;
/// The end of a list.
const NIL: u32 = u32::MAX;

/// An entry of the wheel, for who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    at: BootTime,
    key: u32,
}

impl Timer {
    /// The deadline.
    pub(super) const fn at(self) -> BootTime {
        self.at
    }
}

/// Deadlines with an item each.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    turns: Pool<Turn>,
    ticks: Pool<BTreeSet<(BootTime, T, u32)>>,
    entries: Pool<Entry<T>>,
    #[cfg(test)]
    moves: u64,
}

/// 64 slots of one level.
#[derive(Debug)]
struct Turn {
    level: u8,
    /// Bit n: slot n is not empty.
    occupied: u64,
    slots: [Slot; SLOTS],
    /// The slot that this turn was opened from.
    parent: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    /// The first entry of a list.
    Bag(u32),
    /// A turn of the next finer level.
    Open(u32),
    /// A sorted tick.
    Tick(u32),
}

/// A slot of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    turn: u32,
    slot: u8,
}

#[derive(Debug)]
struct Entry<T> {
    at: BootTime,
    item: T,
    place: Place,
    /// Neighbours in the bag.
    prev: u32,
    next: u32,
}

impl<T: Copy + Ord> Wheel<T> {
    pub(super) fn new() -> Self {
        let mut turns = Pool::new();
        let root = turns.add(Turn::new(TOP, Place { turn: NIL, slot: 0 }));
        debug_assert_eq!(root, ROOT);
        Self {
            turns,
            ticks: Pool::new(),
            entries: Pool::new(),
            #[cfg(test)]
            moves: 0,
        }
    }

    /// The earliest entry; of several at one moment that of the least item.
    pub(super) fn first(&self) -> Option<(Timer, T)> {
        let mut turn = self.turns.get(ROOT)?;
        loop {
            match turn.first()?.1 {
                Slot::Open(next) => turn = self.turns.get(next)?,
                Slot::Tick(tick) => {
                    let (at, item, key) = *self.ticks.get(tick)?.first()?;
                    return Some((Timer { at, key }, item));
                }
                // Alone: `settle` has opened the others.
                Slot::Bag(key) => {
                    let entry = self.entries.get(key)?;
                    return Some((Timer { at: entry.at, key }, entry.item));
                }
                Slot::Empty => return None,
            }
        }
    }

    /// Enters a deadline. The same moment and item may be entered twice.
    pub(super) fn insert(&mut self, at: BootTime, item: T) -> Timer {
        let place = Place { turn: ROOT, slot: 0 };
        let key = self.entries.add(Entry { at, item, place, prev: NIL, next: NIL });
        self.put(key, ROOT);
        self.settle();
        Timer { at, key }
    }

    /// Takes an entry out; nothing happens if it is not there any more.
    pub(super) fn remove(&mut self, timer: Timer, item: T) {
        let Timer { at, key } = timer;
        let Some(entry) = self.entries.get(key).filter(|entry| entry.at == at && entry.item == item) else {
            return;
        };
        let Entry { place, prev, next, .. } = *entry;
        match self.slot(place) {
            Slot::Bag(_) if prev == NIL && next == NIL => self.clear(place),
            Slot::Bag(_) => self.unlink(place, prev, next),
            Slot::Tick(tick) => {
                let rest = self.ticks.get_mut(tick).map_or(0, |sorted| {
                    sorted.remove(&(at, item, key));
                    sorted.len()
                });
                if rest == 0 {
                    self.ticks.take(tick);
                    self.clear(place);
                }
            }
            Slot::Empty | Slot::Open(_) => debug_assert!(false, "an entry is in a bag or in a tick"),
        }
        self.entries.take(key);
        self.settle();
    }

    /// Puts an entry below a turn, as deep as slots are open.
    fn put(&mut self, key: u32, below: u32) {
        #[cfg(test)]
        {
            self.moves += 1;
        }
        let Some(entry) = self.entries.get(key) else { return };
        let (at, item) = (entry.at, entry.item);
        let mut place = Place { turn: below, slot: 0 };
        loop {
            let Some(turn) = self.turns.get_mut(place.turn) else { return };
            place.slot = digit(at, turn.level);
            match turn.at(place.slot) {
                Slot::Open(next) => place.turn = next,
                Slot::Empty => {
                    turn.set(place.slot, Slot::Bag(key));
                    return self.link(key, place, NIL);
                }
                Slot::Bag(head) => {
                    turn.set(place.slot, Slot::Bag(key));
                    return self.link(key, place, head);
                }
                Slot::Tick(tick) => {
                    if let Some(sorted) = self.ticks.get_mut(tick) {
                        sorted.insert((at, item, key));
                    }
                    return self.link(key, place, NIL);
                }
            }
        }
    }

    /// Makes an entry the first of the list that begins with `next`.
    fn link(&mut self, key: u32, place: Place, next: u32) {
        if let Some(second) = self.entries.get_mut(next) {
            second.prev = key;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            (entry.place, entry.prev, entry.next) = (place, NIL, next);
        }
    }

    /// Closes the gap that an entry leaves in its bag.
    fn unlink(&mut self, place: Place, prev: u32, next: u32) {
        if let Some(entry) = self.entries.get_mut(next) {
            entry.prev = prev;
        }
        match self.entries.get_mut(prev) {
            Some(entry) => entry.next = next,
            None => {
                if let Some(turn) = self.turns.get_mut(place.turn) {
                    turn.set(place.slot, Slot::Bag(next));
                }
            }
        }
    }

    /// Empties a slot, and gives back the turns that are empty with it.
    fn clear(&mut self, mut place: Place) {
        while let Some(turn) = self.turns.get_mut(place.turn) {
            turn.set(place.slot, Slot::Empty);
            if turn.occupied != 0 || place.turn == ROOT {
                return;
            }
            let empty = std::mem::replace(&mut place, turn.parent);
            self.turns.take(empty.turn);
        }
    }

    /// Opens the earliest slot until its earliest entry is known.
    fn settle(&mut self) {
        let mut turn = ROOT;
        while let Some((slot, content)) = self.turns.get(turn).and_then(Turn::first) {
            match content {
                Slot::Open(next) => turn = next,
                Slot::Bag(head) if self.entries.get(head).is_some_and(|entry| entry.next != NIL) => {
                    self.open(Place { turn, slot }, head);
                }
                Slot::Bag(_) | Slot::Tick(_) | Slot::Empty => return,
            }
        }
    }

    /// Opens a bag: into a finer turn, or sorted if it is of the finest.
    fn open(&mut self, place: Place, head: u32) {
        let Some(level) = self.turns.get(place.turn).map(|turn| turn.level) else { return };
        let finer = level.checked_sub(1).map(|finer| self.turns.add(Turn::new(finer, place)));
        let content = finer.map_or_else(|| Slot::Tick(self.ticks.add(BTreeSet::new())), Slot::Open);
        if let Some(turn) = self.turns.get_mut(place.turn) {
            turn.set(place.slot, content);
        }
        let mut key = head;
        while let Some(entry) = self.entries.get(key) {
            let next = entry.next;
            self.put(key, finer.unwrap_or(place.turn));
            key = next;
        }
    }

    fn slot(&self, place: Place) -> Slot {
        self.turns.get(place.turn).map_or(Slot::Empty, |turn| turn.at(place.slot))
    }
}

impl Turn {
    const fn new(level: u8, parent: Place) -> Self {
        Self { level, occupied: 0, slots: [Slot::Empty; SLOTS], parent }
    }

    /// The earliest slot that is not empty.
    fn first(&self) -> Option<(u8, Slot)> {
        let slot = u8::try_from(self.occupied.trailing_zeros()).ok().filter(|_| self.occupied != 0)?;
        Some((slot, self.at(slot)))
    }

    fn at(&self, slot: u8) -> Slot {
        self.slots.get(usize::from(slot)).copied().unwrap_or(Slot::Empty)
    }

    fn set(&mut self, slot: u8, content: Slot) {
        if let Some(cell) = self.slots.get_mut(usize::from(slot)) {
            *cell = content;
        }
        let bit = 1 << slot;
        if content == Slot::Empty { self.occupied &= !bit } else { self.occupied |= bit }
    }
}

/// Which slot of a level covers a moment.
const fn digit(at: BootTime, level: u8) -> u8 {
    ((at.0 >> (TICK_BITS + SLOT_BITS * level as u32)) & (SLOTS as u64 - 1)) as u8
}

/// Values by small numbers, which are used again.
#[derive(Debug)]
struct Pool<V> {
    values: Vec<Option<V>>,
    free: Vec<u32>,
}

impl<V> Pool<V> {
    const fn new() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }

    fn add(&mut self, value: V) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(place) = self.values.get_mut(number as usize)
        {
            *place = Some(value);
            return number;
        }
        self.values.push(Some(value));
        // Two per session, and sessions are bounded far below (R8.2).
        u32::try_from(self.values.len() - 1).unwrap_or(NIL)
    }

    fn get(&self, number: u32) -> Option<&V> {
        self.values.get(number as usize)?.as_ref()
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut V> {
        self.values.get_mut(number as usize)?.as_mut()
    }

    fn take(&mut self, number: u32) {
        if let Some(place) = self.values.get_mut(number as usize)
            && place.take().is_some()
        {
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests;
