//! One direction of a path.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::profile::{LaneSettings, Share};

/// Frames that may be on their way at once: beyond that a lane would only hoard memory.
const WAITING_MAX: usize = 1 << 17;

/// What became of the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneCounters {
    /// Frames that came.
    pub offered: u64,
    /// Frames that went on, copies included.
    pub delivered: u64,
    /// Lost one by one.
    pub lost: u64,
    /// Lost in a burst.
    pub lost_in_burst: u64,
    /// Dropped since the line was busy for too long.
    pub queue_full: u64,
    /// Dropped since everything was, or since the link was down.
    pub blackholed: u64,
    /// Larger than the path takes.
    pub too_big: u64,
    /// Held up so that others overtook them.
    pub reordered: u64,
    /// Delivered once more.
    pub duplicated: u64,
}

/// Frames of a blackhole that were kept, to be let go later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(pub Vec<Vec<u8>>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: Duration,
    /// Frames that are due at once go in the order in which they came.
    sequence: u64,
    frame: Vec<u8>,
}

/// The lane. Moments count from any beginning, and never go back.
#[derive(Debug)]
pub struct Lane {
    random: ChaCha8Rng,
    settings: LaneSettings,
    in_burst: bool,
    /// When the line has sent all that was accepted.
    line_free: Duration,
    /// When the last frame that was not held up is due.
    last_due: Duration,
    waiting: BinaryHeap<Reverse<Waiting>>,
    sequence: u64,
    counters: LaneCounters,
    hold: Option<(usize, Held)>,
}

impl Lane {
    /// A lane whose chances follow from `seed`.
    #[must_use]
    pub fn new(settings: LaneSettings, seed: u64) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            settings,
            in_burst: false,
            line_free: Duration::ZERO,
            last_due: Duration::ZERO,
            waiting: BinaryHeap::new(),
            sequence: 0,
            counters: LaneCounters::default(),
            hold: None,
        }
    }

    /// What it is like from now on; frames on their way are not touched.
    pub fn set(&mut self, settings: LaneSettings) {
        self.settings = settings;
    }

    /// What it is like.
    #[must_use]
    pub const fn settings(&self) -> &LaneSettings {
        &self.settings
    }

    /// What became of its frames.
    #[must_use]
    pub const fn counters(&self) -> LaneCounters {
        self.counters
    }

    /// Counts a frame that the path itself refused as too large.
    pub(super) const fn count_too_big(&mut self) {
        self.counters.offered += 1;
        self.counters.too_big += 1;
    }

    /// Keeps the next `limit` frames that a blackhole takes.
    pub fn hold(&mut self, limit: usize) {
        self.hold = Some((limit, Held::default()));
    }

    /// What was kept; nothing is kept any more.
    pub fn take_held(&mut self) -> Held {
        self.hold.take().map(|(_, held)| held).unwrap_or_default()
    }

    /// Frames on their way are gone: the link is.
    pub fn flush(&mut self) {
        self.counters.blackholed += self.waiting.len() as u64;
        self.waiting.clear();
        (self.line_free, self.last_due) = (Duration::ZERO, Duration::ZERO);
    }

    /// A frame that passes whatever the lane is like.
    pub fn pass(&mut self, now: Duration, frame: Vec<u8>) {
        self.enqueue(now, frame);
    }

    /// A frame enters.
    pub fn offer(&mut self, now: Duration, frame: Vec<u8>) {
        self.counters.offered += 1;
        if self.settings.blackhole {
            self.counters.blackholed += 1;
            if let Some((limit, held)) = self.hold.as_mut().filter(|(limit, held)| held.0.len() < *limit) {
                debug_assert!(held.0.len() < *limit);
                held.0.push(frame);
            }
            return;
        }
        if self.is_lost() {
            return;
        }
        let Some(sent) = self.transmit(now, frame.len()) else {
            self.counters.queue_full += 1;
            return;
        };
        let due = sent + self.settings.delay + self.some(self.settings.jitter);
        if self.chance(self.settings.duplicate) {
            self.counters.duplicated += 1;
            self.in_order(due, frame.clone());
        }
        if self.chance(self.settings.reorder) {
            self.counters.reordered += 1;
            return self.enqueue(due + self.settings.reorder_by, frame);
        }
        self.in_order(due, frame);
    }

    /// When the next frame is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.peek().map(|waiting| waiting.0.due)
    }

    /// A frame that is due, and when it was.
    pub fn poll(&mut self, now: Duration) -> Option<(Duration, Vec<u8>)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(Waiting { due, frame, .. }) = self.waiting.pop()?;
        self.counters.delivered += 1;
        Some((due, frame))
    }

    fn is_lost(&mut self) -> bool {
        if let Some(burst) = self.settings.burst {
            let turn = if self.in_burst { burst.leave } else { burst.enter };
            self.in_burst ^= self.chance(turn);
            if self.in_burst && self.chance(burst.loss) {
                self.counters.lost_in_burst += 1;
                return true;
            }
        }
        let lost = self.chance(self.settings.loss);
        self.counters.lost += u64::from(lost);
        lost
    }

    /// When the last bit has left; `None` if the line is busy for too long.
    fn transmit(&mut self, now: Duration, octets: usize) -> Option<Duration> {
        let Some(rate) = self.settings.rate_bit_s else { return Some(now) };
        let begins = self.line_free.max(now);
        if begins.saturating_sub(now) > self.settings.queue {
            return None;
        }
        let nanos = (octets as u64).saturating_mul(8_000_000_000) / rate.max(1);
        self.line_free = begins + Duration::from_nanos(nanos);
        Some(self.line_free)
    }

    /// Frames keep their order, as on any real line: jitter stretches gaps and does not shuffle.
    fn in_order(&mut self, due: Duration, frame: Vec<u8>) {
        self.last_due = self.last_due.max(due);
        self.enqueue(self.last_due, frame);
    }

    fn enqueue(&mut self, due: Duration, frame: Vec<u8>) {
        if self.waiting.len() >= WAITING_MAX {
            self.counters.queue_full += 1;
            return;
        }
        self.sequence += 1;
        self.waiting.push(Reverse(Waiting { due, sequence: self.sequence, frame }));
    }

    fn chance(&mut self, share: Share) -> bool {
        // No draw where there is no chance: a setting that is off does not move the others' draws.
        share > Share::NONE && self.random.next_u32() % Share::ALL.millionths() < share.millionths()
    }

    fn some(&mut self, most: Duration) -> Duration {
        if most.is_zero() {
            return most;
        }
        Duration::from_nanos(self.random.next_u64() % (u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
