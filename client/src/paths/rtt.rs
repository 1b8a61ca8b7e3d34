//! Round-trip time of one path, smoothed as RFC 6298 does, and settled sooner: what the first samples say counts in full.

use std::time::Duration;

/// Shortest time after which a probe counts as missed: below it, scheduling on a busy host looks like loss.
pub const MISS_MIN: Duration = Duration::from_millis(25);
/// Longest such time: a path with more than this is dead for its users.
pub const MISS_MAX: Duration = Duration::from_secs(3);
/// Assumed until the first sample (RFC 6298 §2.1).
const MISS_UNKNOWN: Duration = Duration::from_secs(1);

/// A sample's share in the smoothed time and in the variation is at least one in so many (RFC 6298 §2.3: alpha, beta).
const SMOOTHED_SHARE: u32 = 8;
const VARIATION_SHARE: u32 = 4;

/// Smoothed round-trip time and its variation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// Samples so far, up to the larger of the shares; the seed is none.
    samples: u32,
}

impl Rtt {
    /// Starts with an estimate, if there is one: a handshake's or a reattach's time, with cryptography and waiting in it.
    /// It serves until the first sample and then is forgotten.
    #[must_use]
    pub fn new(seed: Option<Duration>) -> Self {
        Self { smoothed: seed, variation: seed.unwrap_or_default() / 2, samples: 0 }
    }

    /// Takes a measured round trip (RFC 6298 §2.2, §2.3). Each of the first samples has the share of its number, so that
    /// the variation of a steady path, which RFC 6298 begins with half a round trip, is small after a few of them: a path
    /// that dies young is noticed nearly as soon as an old one.
    pub fn sample(&mut self, measured: Duration) {
        self.samples = (self.samples + 1).min(SMOOTHED_SHARE);
        match self.smoothed {
            Some(smoothed) if self.samples > 1 => {
                let mixed = |old: Duration, new: Duration, share: u32| (old * (share - 1) + new) / share;
                let shares = [VARIATION_SHARE, SMOOTHED_SHARE].map(|most| most.min(self.samples));
                self.variation = mixed(self.variation, smoothed.abs_diff(measured), shares[0]);
                self.smoothed = Some(mixed(smoothed, measured, shares[1]));
            }
            None | Some(_) => {
                self.smoothed = Some(measured);
                self.variation = measured / 2;
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

    /// R7.1: the time of a handshake on a busy machine is forgotten with the first sample, and a steady path is known to be
    /// steady after five.
    #[test]
    fn r7_1_a_young_estimate_settles_soon() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::new(Some(ms(400)));
        assert_eq!(rtt.miss_after(), ms(1_200));
        rtt.sample(ms(50));
        assert_eq!((rtt.smoothed(), rtt.miss_after()), (Some(ms(50)), ms(150)));
        for _ in 0..4 {
            rtt.sample(ms(50));
        }
        assert!(rtt.miss_after() < ms(80), "{:?}", rtt.miss_after());
        // From then on as RFC 6298 has it: an eighth and a quarter.
        let mut old = Rtt::default();
        (0..100).for_each(|_| old.sample(ms(80)));
        old.sample(ms(160));
        assert_eq!((old.smoothed(), old.variation()), (Some(ms(90)), ms(20)));
    }

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
