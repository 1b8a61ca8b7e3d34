//! Memory without an order of its own: loom ends a world that does not give it one.

use loom::cell::UnsafeCell;

/// What only one thread may have at a time. It has no order of its own: loom ends a world in which an access is not ordered
/// behind the one before it by what the tables do.
#[derive(Debug)]
pub struct Guarded<T>(UnsafeCell<T>);

// SAFETY: loom runs the threads of a world on one thread of the machine, one at a time.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T: Copy> Guarded<T> {
    /// Holds this.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Reads; others may read at the same time.
    #[must_use]
    pub fn read(&self) -> T {
        // SAFETY: as above, and no reference leaves.
        self.0.with(|value| unsafe { *value })
    }

    /// Changes, alone.
    pub fn change(&self, change: impl FnOnce(T) -> T) {
        // SAFETY: as above, and no reference leaves.
        self.0.with_mut(|value| unsafe { *value = change(*value) });
    }
}
