//! The cell that shared tables are made of, and what is done to one.
//!
//! In production it is an [`AtomicU64`](core::sync::atomic::AtomicU64). The functions that hold the order of loads and stores together – binding and
//! unbinding, batch boundary, hand-off, counters, windows, reports – are generic over it, so that the very same functions
//! run over the cells of a checker that tries every interleaving and every value that the memory model lets a load return
//! (docs/decisions/0046-interleavings.md).

use core::sync::atomic::Ordering;

/// A 64-bit word that several threads or processes use at once. Each method is that of
/// [`AtomicU64`](core::sync::atomic::AtomicU64).
pub trait Word {
    /// Reads.
    fn load(&self, order: Ordering) -> u64;
    /// Writes.
    fn store(&self, value: u64, order: Ordering);
    /// Writes and returns what was there, in one step.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Adds, wrapping, and returns what was there, in one step.
    fn fetch_add(&self, by: u64, order: Ordering) -> u64;
    /// Subtracts, wrapping, and returns what was there, in one step.
    fn fetch_sub(&self, by: u64, order: Ordering) -> u64;
    /// Writes `new` if `current` is there.
    ///
    /// # Errors
    /// What is there instead.
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
    /// As [`Self::compare_exchange`], but may fail for no reason.
    ///
    /// # Errors
    /// What is there instead.
    fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
    /// A fence: [`core::sync::atomic::fence`].
    fn fence(order: Ordering);
    /// Somebody else holds what is waited for: [`core::hint::spin_loop`].
    fn spin_loop();
}

/// Not for the target of the XDP programs, whose `AtomicU64` reads and writes only.
#[cfg(target_has_atomic = "64")]
mod production {
    use super::Word;
    use core::sync::atomic::{AtomicU64, Ordering, fence};

    impl Word for AtomicU64 {
        #[inline(always)]
        fn load(&self, order: Ordering) -> u64 {
            self.load(order)
        }

        #[inline(always)]
        fn store(&self, value: u64, order: Ordering) {
            self.store(value, order);
        }

        #[inline(always)]
        fn swap(&self, value: u64, order: Ordering) -> u64 {
            self.swap(value, order)
        }

        #[inline(always)]
        fn fetch_add(&self, by: u64, order: Ordering) -> u64 {
            self.fetch_add(by, order)
        }

        #[inline(always)]
        fn fetch_sub(&self, by: u64, order: Ordering) -> u64 {
            self.fetch_sub(by, order)
        }

        #[inline(always)]
        fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.compare_exchange(current, new, success, failure)
        }

        #[inline(always)]
        fn compare_exchange_weak(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.compare_exchange_weak(current, new, success, failure)
        }

        #[inline(always)]
        fn fence(order: Ordering) {
            fence(order);
        }

        #[inline(always)]
        fn spin_loop() {
            core::hint::spin_loop();
        }
    }
}
