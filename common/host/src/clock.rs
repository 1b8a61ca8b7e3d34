//! The two clocks that I/O shells read and hand down.

use jvpn_abi::BootTime;
use nix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};

/// Now on `CLOCK_BOOTTIME` (goes on during suspend).
#[must_use]
pub fn now() -> BootTime {
    // CLOCK_BOOTTIME exists since Linux 2.6.39; a kernel with AF_XDP has it. Zero would read as "long ago".
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(BootTime(0), |t| {
        let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
        BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    })
}

/// Nanoseconds of `CLOCK_MONOTONIC` (stands still during suspend: the distance to [`now`] is the time slept).
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec()).unwrap_or(0))
    })
}

/// Unix time in nanoseconds, for logs and handshake timestamps; 0 if the clock stands before 1970.
#[must_use]
pub fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
