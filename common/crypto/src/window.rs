//! Replay windows: RFC 6479 over a ring of bits, once in memory that several processes share, once owned.
//!
//! The order is *check → open → commit*: [`Window::check`] is cheap and only advice; [`Window::commit`]
//! decides, and wants the proof that opening returned. Shared memory may be torn or hostile: no content makes
//! anything here panic, loop or touch memory outside the ring; at worst frames are refused.
//!
//! A commit first moves the window's end, then clears what the end passed, then sets the counter's bit. A
//! process that is killed between two of these steps thus leaves a window that refuses too much for a while,
//! never one that accepts a counter twice.

use crate::aead::Opened;
use jvpn_abi::Word;
use jvpn_abi::tables::{KeyState, ReplayWindow, WINDOW_WORDS};
use std::sync::atomic::{AtomicU64, Ordering};

/// How far behind the highest counter a frame may be. One word of the ring is always being recycled.
pub const WINDOW_LEN: u64 = (WINDOW_WORDS as u64 - 1) * 64;

/// How often a worker looks at a lock that another one holds before it gives the frame up. The holder needs
/// about as many stores as the ring has words; much longer means that it was preempted, and waiting would
/// stall a batch.
const LOCK_SPINS: u32 = 2_000;

/// Why a counter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// It was accepted before.
    #[error("the counter was accepted before")]
    Replayed,
    /// It lies behind the window (or is 2^64 - 1, which no sender reaches and no window can hold).
    #[error("the counter lies behind the replay window")]
    TooOld,
    /// Another worker held the window for too long. The frame is lost, nothing else.
    #[error("the replay window was held by another worker for too long")]
    Busy,
}

/// The replay window of a key in shared memory. Several workers may use it at once.
#[derive(Debug)]
pub struct Window<'a, A = AtomicU64> {
    state: &'a KeyState<A>,
    bits: &'a ReplayWindow<A>,
    lock_spins: u32,
}

impl<'a, A: Word> Window<'a, A> {
    /// The window of `state`, whose bits are these.
    #[must_use]
    pub const fn new(state: &'a KeyState<A>, bits: &'a ReplayWindow<A>) -> Self {
        Self { state, bits, lock_spins: LOCK_SPINS }
    }

    /// The same with another patience: looks at a lock that another worker holds, before [`WindowError::Busy`].
    #[must_use]
    pub const fn with_lock_spins(state: &'a KeyState<A>, bits: &'a ReplayWindow<A>, lock_spins: u32) -> Self {
        Self { state, bits, lock_spins }
    }

    const fn ring(&self) -> Ring<'a, A> {
        Ring { end: &self.state.window_end, words: &self.bits.words }
    }

    /// Whether `counter` may still be new. Advice before opening: only [`Self::commit`] decides.
    ///
    /// # Errors
    /// [`WindowError::Replayed`] or [`WindowError::TooOld`].
    #[inline]
    pub fn check(&self, counter: u64) -> Result<(), WindowError> {
        match self.ring().check(counter) {
            // During a commit the ring shows bits of counters long gone; the commit of this frame will know.
            Err(WindowError::Replayed) if self.state.window_lock.load(Ordering::Acquire) != 0 => Ok(()),
            Err(WindowError::Replayed) => self.ring().check(counter),
            verdict => verdict,
        }
    }

    /// Accepts the counter of an authenticated frame, once.
    ///
    /// # Errors
    /// [`WindowError`]: the frame must be dropped.
    #[inline]
    pub fn commit(&self, opened: Opened) -> Result<(), WindowError> {
        let _held = Held::take(&self.state.window_lock, self.lock_spins).ok_or(WindowError::Busy)?;
        self.ring().accept(opened.counter())?;
        let received = self.state.received.load(Ordering::Relaxed);
        self.state.received.store(received.wrapping_add(1), Ordering::Relaxed);
        Ok(())
    }
}

/// Frees the lock of a window that a killed process may have left behind. Only for the one who knows that no worker
/// uses the window: the installer of a data plane that starts, before it hands an adopted binding to its workers.
pub fn release_abandoned_lock<A: Word>(state: &KeyState<A>) {
    state.window_lock.store(0, Ordering::Release);
}

/// The lock of a shared window, freed when dropped.
struct Held<'a, A: Word>(&'a A);

impl<'a, A: Word> Held<'a, A> {
    #[inline]
    fn take(lock: &'a A, spins: u32) -> Option<Self> {
        for _ in 0..spins {
            if lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(Self(lock));
            }
            A::spin_loop();
        }
        None
    }
}

impl<A: Word> Drop for Held<'_, A> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// The replay window of a key that only one thread uses.
#[derive(Debug)]
pub struct OwnWindow(Box<OwnRing<WINDOW_WORDS>>);

impl Default for OwnWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl OwnWindow {
    /// An empty window.
    #[must_use]
    pub fn new() -> Self {
        Self(Box::default())
    }

    /// Whether `counter` may still be new.
    ///
    /// # Errors
    /// [`WindowError::Replayed`] or [`WindowError::TooOld`].
    pub fn check(&self, counter: u64) -> Result<(), WindowError> {
        self.0.ring().check(counter)
    }

    /// Accepts the counter of an authenticated frame, once.
    ///
    /// # Errors
    /// [`WindowError::Replayed`] or [`WindowError::TooOld`]: the frame must be dropped.
    pub fn commit(&mut self, opened: Opened) -> Result<(), WindowError> {
        self.0.commit(&opened)
    }

    /// The highest counter accepted.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.0.end.load(Ordering::Relaxed).checked_sub(1)
    }

    /// How many counters were accepted.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.0.received
    }
}

/// A ring with its memory. The size is a parameter because CONTROL needs far less than DATA.
#[derive(Debug)]
pub(crate) struct OwnRing<const WORDS: usize> {
    end: AtomicU64,
    received: u64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Default for OwnRing<WORDS> {
    fn default() -> Self {
        Self { end: AtomicU64::new(0), received: 0, words: [const { AtomicU64::new(0) }; WORDS] }
    }
}

impl<const WORDS: usize> OwnRing<WORDS> {
    pub(crate) const fn ring(&self) -> Ring<'_, AtomicU64, WORDS> {
        Ring { end: &self.end, words: &self.words }
    }

    /// A ring that accepts only counters above `highest`.
    #[cfg(feature = "handshake")]
    pub(crate) fn used_up_to(highest: u64) -> Self {
        let ring = Self { end: AtomicU64::new(highest.saturating_add(1)), ..Self::default() };
        for word in &ring.words {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        // What shares the newest word but lies above is still to come.
        ring.ring().word(highest / 64).store(u64::MAX >> (63 - highest % 64), Ordering::Relaxed);
        ring
    }

    /// The highest counter accepted.
    #[cfg(feature = "handshake")]
    pub(crate) fn highest(&self) -> Option<u64> {
        self.end.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(crate) fn commit(&mut self, opened: &Opened) -> Result<(), WindowError> {
        self.ring().accept(opened.counter())?;
        self.received = self.received.wrapping_add(1);
        Ok(())
    }
}

/// The algorithm, over whoever's memory. `end` is the highest counter accepted + 1, 0 = none yet; counter `c`
/// is bit `c % 64` of word `c / 64 % WORDS`.
pub(crate) struct Ring<'a, A = AtomicU64, const WORDS: usize = WINDOW_WORDS> {
    end: &'a A,
    words: &'a [A; WORDS],
}

impl<'a, A: Word, const WORDS: usize> Ring<'a, A, WORDS> {
    const LEN: u64 = {
        assert!(WORDS.is_power_of_two() && WORDS > 1);
        (WORDS as u64 - 1) * 64
    };

    /// The word that holds the counters `number * 64 ..`.
    #[inline]
    const fn word(&self, number: u64) -> &'a A {
        // Masking keeps the index below WORDS whatever the number is.
        &self.words[number as usize & (WORDS - 1)]
    }

    #[inline]
    pub(crate) fn check(&self, counter: u64) -> Result<(), WindowError> {
        let end = self.end.load(Ordering::Acquire);
        if counter == u64::MAX || end.saturating_sub(counter) > Self::LEN {
            return Err(WindowError::TooOld);
        }
        if counter < end && self.word(counter / 64).load(Ordering::Acquire) & bit(counter) != 0 {
            return Err(WindowError::Replayed);
        }
        Ok(())
    }

    /// Needs exclusive use of the ring.
    #[inline]
    fn accept(&self, counter: u64) -> Result<(), WindowError> {
        self.check(counter)?;
        let end = self.end.load(Ordering::Relaxed);
        if counter >= end {
            // `check` has refused the one counter that has no successor.
            self.end.store(counter.wrapping_add(1), Ordering::Release);
            let newest = counter / 64;
            // The word of the old end stays: its lower counters are still inside. An empty ring is all zero
            // already, unless somebody scribbled on it; clearing word 0 too costs nothing.
            let first_stale = if end == 0 { 0 } else { (end - 1) / 64 + 1 };
            let oldest_kept = newest.saturating_sub(WORDS as u64 - 1);
            for number in first_stale.max(oldest_kept)..=newest {
                self.word(number).store(0, Ordering::Release);
            }
        }
        let word = self.word(counter / 64);
        word.store(word.load(Ordering::Relaxed) | bit(counter), Ordering::Release);
        Ok(())
    }
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests;
