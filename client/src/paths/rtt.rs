//! Round-trip time of one path, as RFC 6298 smooths it.

use std::time::Duration;

/// Shortest time after which a probe counts as missed: below it, scheduling on a busy host looks like loss.
pub const MISS_MIN: Duration = Duration::from_millis(25);
/// Longest such time: a path with more than this is dead for its users.
pub const MISS_MAX: Duration = Duration::from_secs(3);
/// Assumed until the first sample (RFC 6298 §2.1).
const MISS_UNKNOWN: Duration = Duration::from_secs(1);

/// Smoothed round-trip time and its variation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl Rtt {
    /// Starts with one sample, if there is one.
    #[must_use]
    pub fn new(first: Option<Duration>) -> Self {
        let mut rtt = Self::default();
        if let Some(first) = first {
            rtt.sample(first);
        }
        rtt
    }

    /// Takes a measured round trip (RFC 6298 §2.2, §2.3).
    pub fn sample(&mut self, measured: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(measured);
                self.variation = measured / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(measured)) / 4;
                self.smoothed = Some((smoothed * 7 + measured) / 8);
            }
        }
    }

    /// Smoothed round-trip time, if there was a sample.
    #[must_use]
    pub const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Smoothed deviation.
    #[must_use]
    pub const fn variation(&self) -> Duration {
        self.variation
    }

    /// How long an answer may take before it counts as missed.
    #[must_use]
    pub fn miss_after(&self) -> Duration {
        self.smoothed
            .map_or(MISS_UNKNOWN, |smoothed| (smoothed + self.variation * 4).clamp(MISS_MIN, MISS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_takes_srtt_plus_four_variations_within_bounds() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::default();
        assert_eq!(rtt.miss_after(), MISS_UNKNOWN);
        rtt.sample(ms(100));
        assert_eq!(rtt.miss_after(), ms(300));
        for _ in 0..100 {
            rtt.sample(Duration::from_micros(200));
        }
        assert_eq!(rtt.miss_after(), MISS_MIN);
        for _ in 0..100 {
            rtt.sample(Duration::from_secs(60));
        }
        assert_eq!(rtt.miss_after(), MISS_MAX);
    }
}
