//! A token bucket that the XDP program and the control plane share: pure arithmetic over a moment handed in.

use crate::time::BootTime;
use bytemuck::{Pod, Zeroable};

/// One million: tokens are counted in millionths so that low rates refill exactly.
const MICRO: u64 = 1_000_000;

/// Bucket state. All zero is a valid start: full at the first use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Bucket {
    /// Millionths of a token that are left.
    micro_tokens: u64,
    /// When the bucket was last refilled, ns of `CLOCK_BOOTTIME`; 0 = never used.
    refilled_ns: u64,
}

/// How fast a bucket fills and how much it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Rate {
    /// Tokens per second. Zero admits nothing.
    pub per_second: u32,
    /// Most tokens that may be used at once.
    pub burst: u32,
}

impl Bucket {
    /// Full at its first use.
    pub const FULL: Self = Self { micro_tokens: 0, refilled_ns: 0 };

    /// Takes one token if there is one.
    #[inline(always)]
    pub fn take(&mut self, now: BootTime, rate: Rate) -> bool {
        self.take_leaving(now, rate, 0)
    }

    /// Takes one token if there is one beyond those that are reserved for others.
    #[inline(always)]
    pub fn take_leaving(&mut self, now: BootTime, rate: Rate, reserved: u32) -> bool {
        let full = rate.burst as u64 * MICRO;
        if self.refilled_ns == 0 {
            self.micro_tokens = full;
            self.refilled_ns = now.0;
        } else if now.0 > self.refilled_ns {
            // A gap beyond one hour refills any bucket; the bound keeps the product below 2^64.
            let gap_ns = (now.0 - self.refilled_ns).min(3_600 * 1_000_000_000);
            let gained = (gap_ns / 1_000).saturating_mul(rate.per_second as u64);
            if gained > 0 {
                self.micro_tokens = self.micro_tokens.saturating_add(gained).min(full);
                self.refilled_ns = now.0;
            }
        }
        if self.micro_tokens < (reserved as u64 + 1) * MICRO || rate.per_second == 0 {
            return false;
        }
        self.micro_tokens -= MICRO;
        true
    }

    /// Milliseconds until a token will be there, as `retry_after` states it. 0 if there is one now.
    #[must_use]
    pub fn retry_after_ms(&self, rate: Rate) -> u32 {
        self.retry_after_leaving_ms(rate, 0)
    }

    /// The same for [`Self::take_leaving`].
    #[must_use]
    pub fn retry_after_leaving_ms(&self, rate: Rate, reserved: u32) -> u32 {
        let wanted = (reserved as u64 + 1) * MICRO;
        if self.micro_tokens >= wanted {
            return 0;
        }
        if rate.per_second == 0 {
            return u32::MAX;
        }
        ((wanted - self.micro_tokens).div_ceil(rate.per_second as u64 * 1_000)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;

    const RATE: Rate = Rate { per_second: 5, burst: 5 };

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::default();
        let start = BootTime(1);
        for _ in 0..5 {
            assert!(bucket.take(start, RATE));
        }
        assert!(!bucket.take(start, RATE));
        assert_eq!(bucket.retry_after_ms(RATE), 200);
        assert!(!bucket.take(start.after(Duration::from_millis(199)), RATE));
        assert!(bucket.take(start.after(Duration::from_millis(200)), RATE));
    }

    /// R3.1: what is reserved is left to those that it is reserved for, and both together get no more than the rate.
    #[test]
    fn r3_1_reserved_tokens_are_left() {
        let mut bucket = Bucket::default();
        let start = BootTime(1);
        let open = (0..5).filter(|_| bucket.take_leaving(start, RATE, 2)).count();
        assert_eq!((open, bucket.retry_after_leaving_ms(RATE, 2)), (3, 200));
        assert_eq!((0..5).filter(|_| bucket.take(start, RATE)).count(), 2);
        assert_eq!((bucket.retry_after_ms(RATE), bucket.retry_after_leaving_ms(RATE, 2)), (200, 600));
        assert!(!bucket.take_leaving(start.after(Duration::from_millis(599)), RATE, 2));
        assert!(bucket.take_leaving(start.after(Duration::from_millis(600)), RATE, 2));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let mut bucket = Bucket::default();
        let start = BootTime(10_000_000_000);
        while bucket.take(start, RATE) {}
        assert!(!bucket.take(BootTime(1), RATE));
    }

    proptest! {
        /// R3.1: over any run of moments the bucket never admits more than burst + rate × time.
        #[test]
        fn never_more_than_rate(gaps_us in proptest::collection::vec(0u64..300_000, 1..400)) {
            let mut bucket = Bucket::default();
            let mut now = BootTime(5);
            let mut admitted = 0u64;
            for gap in &gaps_us {
                now = now.after(Duration::from_micros(*gap));
                admitted += u64::from(bucket.take(now, RATE));
            }
            let micros: u64 = gaps_us.iter().sum();
            prop_assert!(admitted <= 5 + micros * 5 / 1_000_000 + 1);
        }
    }
}
