//! Who has which replay window. The bits of windows lie in a pool behind CONTEXT: a key set takes one when it gets its
//! key, and the window is free again when the last holder of that key has dropped it, which is when the last worker has
//! given it back. So a window is never made new while somebody can still accept a counter in it, and a binding has a second
//! one only while it is being rekeyed.
//!
//! Whose a window is stands in shared memory twice, at the key set and at the window, so that the next data plane finds it.
//! Both must agree. Of two that claim one window the window's own word decides, and a key set that has none is not adopted.

use super::Refusal;
use crate::tables::Tables;
use jvpn_abi::Word;
use jvpn_abi::tables::{Context, KeyState, ReplayWindow, window_place};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// The windows of this data plane.
#[derive(Debug)]
pub(crate) struct WindowPool {
    tables: Arc<Tables>,
    books: Mutex<Books>,
}

/// What this process knows of the windows.
#[derive(Debug, Default)]
struct Books {
    /// Holders of a window by its number, or [`FREE`]; 0 of those that an earlier data plane left and nobody has adopted.
    holders: Vec<u8>,
    /// Windows that were held and are not any more, or that were left by an earlier data plane and are nobody's now. The
    /// last one first: memory that was touched is used again before any other is.
    free: Vec<u32>,
    /// Windows from here on were not looked at for a free one.
    fresh: u32,
}

/// In place of a number of holders: the window is in `free`.
const FREE: u8 = u8::MAX;

/// A window, held for a key set.
#[derive(Debug)]
pub(crate) struct WindowLease {
    pool: Arc<WindowPool>,
    index: u32,
}

impl WindowLease {
    /// Which one it is.
    #[inline]
    pub(crate) const fn index(&self) -> u32 {
        self.index
    }
}

impl Drop for WindowLease {
    fn drop(&mut self) {
        self.pool.books(|books| books.give_back(self.index));
    }
}

impl Books {
    fn holders(&self, index: u32) -> u8 {
        self.holders.get(index as usize).copied().unwrap_or(0)
    }

    fn set(&mut self, index: u32, holders: u8) {
        let at = index as usize;
        if self.holders.len() <= at {
            self.holders.resize(at + 1, 0);
        }
        if let Some(place) = self.holders.get_mut(at) {
            *place = holders;
        }
    }

    /// One more holder of a window that is held. A binding has a handful of them at most.
    fn hold(&mut self, index: u32) -> Option<()> {
        let holders = self.holders(index).checked_add(1).filter(|holders| *holders < FREE)?;
        self.set(index, holders);
        Some(())
    }

    fn give_back(&mut self, index: u32) {
        match self.holders(index) {
            0 | FREE => debug_assert!(false, "window {index} was given back by nobody"),
            1 => self.free_it(index),
            holders => self.set(index, holders - 1),
        }
    }

    fn free_it(&mut self, index: u32) {
        self.set(index, FREE);
        self.free.push(index);
    }
}

impl WindowPool {
    /// The windows of these tables, with what an earlier data plane left there.
    pub(crate) fn new(tables: Arc<Tables>) -> Arc<Self> {
        Arc::new(Self { tables, books: Mutex::default() })
    }

    fn books<R>(&self, change: impl FnOnce(&mut Books) -> R) -> R {
        change(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An empty window for the key set of this number. `None` if there is none, which takes more than two keys per slot.
    ///
    /// The caller has made the set such that no later data plane adopts it as it is: the counters of the key before are not
    /// in this window.
    pub(crate) fn take(self: &Arc<Self>, slot_index: u32, number: u32) -> Option<WindowLease> {
        let state = self.state(window_place(slot_index, number))?;
        let index = self.books(|books| {
            self.forget(books, slot_index, number);
            let index = books.free.pop().or_else(|| self.fresh(books)).or_else(|| {
                // Somebody may have scribbled over a claim since it was looked at.
                books.fresh = 0;
                self.fresh(books)
            })?;
            books.set(index, 1);
            Some(index)
        })?;
        // From here on the lease gives it back.
        let lease = WindowLease { pool: Arc::clone(self), index };
        let (window, owner) = (self.tables.window(index)?, self.tables.window_owner(index)?);
        assign(window, owner, &state.window_plus_one, (index, window_place(slot_index, number)));
        Some(lease)
    }

    /// One more lease of a window that this process holds, for keys that replace others of this number. Whose it is this
    /// process knows; shared memory is not asked, but told again, so that the next data plane finds it whatever stood there.
    pub(crate) fn again(
        self: &Arc<Self>,
        held: &WindowLease,
        (slot_index, number): (u32, u32),
    ) -> Result<WindowLease, Refusal> {
        let (index, place) = (held.index, window_place(slot_index, number));
        self.books(|books| books.hold(index)).ok_or(Refusal::KeysWaiting)?;
        let lease = WindowLease { pool: Arc::clone(self), index };
        let (state, owner) = (self.state(place), self.tables.window_owner(index));
        let (state, owner) = (state.ok_or(Refusal::Slot)?, owner.ok_or(Refusal::NoWindow)?);
        state.window_plus_one.store(u64::from(index) + 1, Ordering::SeqCst);
        owner.store(place, Ordering::SeqCst);
        Ok(lease)
    }

    /// The window that the key set of this number has from an earlier data plane. Never one that this process has given to
    /// anybody, whatever shared memory says: two key sets in one window would make each other's replays pass.
    pub(crate) fn adopt(self: &Arc<Self>, slot_index: u32, number: u32) -> Result<WindowLease, Refusal> {
        let index = self.named(window_place(slot_index, number)).ok_or(Refusal::NoWindow)?;
        self.books(|books| {
            let is_left = books.holders(index) == 0;
            is_left.then(|| books.set(index, 1))
        })
        .ok_or(Refusal::WindowHeld)?;
        Ok(WindowLease { pool: Arc::clone(self), index })
    }

    /// Windows that are held now.
    pub(crate) fn held(&self) -> usize {
        self.books(|books| books.holders.iter().filter(|holders| !matches!(**holders, 0 | FREE)).count())
    }

    /// A binding is gone: its windows need not be kept for a later data plane.
    pub(crate) fn forget_slot(&self, slot_index: u32) {
        self.books(|books| (0..2).for_each(|number| self.forget(books, slot_index, number)));
        for state in (0..2).filter_map(|number| self.state(window_place(slot_index, number))) {
            state.window_plus_one.store(0, Ordering::Release);
        }
    }

    /// The window that the key set has from an earlier data plane, and nobody has adopted, may be used again.
    fn forget(&self, books: &mut Books, slot_index: u32, number: u32) {
        let Some(index) = self.named(window_place(slot_index, number)) else { return };
        if index < books.fresh && books.holders(index) == 0 {
            books.free_it(index);
        }
    }

    /// The next window that nobody has held in this process and no key set of an earlier one claims.
    fn fresh(&self, books: &mut Books) -> Option<u32> {
        loop {
            let index = books.fresh;
            let owner = self.tables.window_owner(index)?;
            books.fresh += 1;
            // What was adopted is known here; nothing in shared memory has to be looked at for it.
            if books.holders(index) != 0 {
                continue;
            }
            let owner = owner.load(Ordering::SeqCst);
            if owner == 0 || self.named(owner) != Some(index) || !self.is_living(owner) {
                return Some(index);
            }
        }
    }

    /// Whether a later data plane may be told to adopt what is at this place.
    fn is_living(&self, place: u64) -> bool {
        let is_set = |state: &KeyState| state.key_number_plus_one.load(Ordering::SeqCst) != 0;
        self.context(place).is_some_and(|context| context.tag.load(Ordering::SeqCst) != 0)
            && self.state(place).is_some_and(is_set)
    }

    /// The window of a key set, if key set and window agree.
    fn named(&self, place: u64) -> Option<u32> {
        let named = self.state(place)?.window_plus_one.load(Ordering::SeqCst).checked_sub(1)?;
        let index = u32::try_from(named).ok()?;
        (self.tables.window_owner(index)?.load(Ordering::SeqCst) == place).then_some(index)
    }

    fn context(&self, place: u64) -> Option<&Context> {
        self.tables.contexts.get(usize::try_from(place.checked_sub(1)? / 2).ok()?)
    }

    fn state(&self, place: u64) -> Option<&KeyState> {
        self.context(place)?.keys.get(usize::from(place.checked_sub(1)? % 2 == 1))
    }
}

/// Makes a window empty and this key set's. Whoever dies in between leaves a window that is nobody's: the owner before is
/// gone before anything is cleared, the next one is there when everything is.
pub fn assign<A: Word>(window: &ReplayWindow<A>, owner: &A, named: &A, (index, place): (u32, u64)) {
    owner.store(0, Ordering::SeqCst);
    window.words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
    named.store(u64::from(index) + 1, Ordering::SeqCst);
    owner.store(place, Ordering::SeqCst);
}
