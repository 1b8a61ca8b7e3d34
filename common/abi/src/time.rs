//! The one notion of time below the I/O shells: nanoseconds of `CLOCK_BOOTTIME`, always handed in.

use core::time::Duration;

/// A moment on `CLOCK_BOOTTIME`, in nanoseconds (it goes on during suspend; `bpf_ktime_get_boot_ns` is the same clock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Later than everything: the fence deadline of a node that needs no lease.
    pub const NEVER: Self = Self(u64::MAX);

    /// `self - earlier`, zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `by` later, stopping at [`Self::NEVER`].
    #[must_use]
    pub const fn after(self, by: Duration) -> Self {
        let nanos = by.as_nanos();
        if nanos > u64::MAX as u128 { Self::NEVER } else { Self(self.0.saturating_add(nanos as u64)) }
    }

    /// Whole milliseconds, as the wire and the audit log use them.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// A moment from whole milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }
}
