//! How full a worker's rings are, for whoever looks: single words that the worker stores now and then and nobody else
//! writes. Reading them costs the worker nothing.

use crate::port::QueuePort;
use serde::Serialize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Batches between two looks of a worker that never sleeps. Asking the kernel for its counters costs about a microsecond;
/// this makes it one in some ten thousand packets.
pub const BATCHES_BETWEEN_LOOKS: u64 = 256;

/// A count that one worker keeps, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct OwnCount(AtomicU64);

impl OwnCount {
    /// One more. One writer: no locked instruction.
    #[inline]
    pub fn add_one(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Frames in each ring of one queue, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RingLevels {
    /// Received, not yet taken by the worker.
    pub rx: u32,
    /// Given to the kernel to receive into.
    pub fill: u32,
    /// To be sent, not yet looked at by the kernel.
    pub tx: u32,
    /// Sent, not yet taken back.
    pub completion: u32,
    /// Free to send with.
    pub free: u32,
    /// Entries of each ring.
    pub size: u32,
}

/// The levels of one port as others see them.
#[derive(Debug, Default)]
pub struct PortGauges {
    rx: AtomicU32,
    fill: AtomicU32,
    tx: AtomicU32,
    completion: AtomicU32,
    free: AtomicU32,
    size: AtomicU32,
    rx_most: AtomicU32,
    fill_least: AtomicU32,
}

/// What is shown of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShownLevels {
    /// At the last look.
    #[serde(flatten)]
    pub now: RingLevels,
    /// Most that ever waited in the RX ring at a look.
    pub rx_most: u32,
    /// Fewest that the kernel ever had to receive into at a look.
    pub fill_least: u32,
}

impl PortGauges {
    /// Stores what the worker saw. One writer.
    pub fn look(&self, port: &mut impl QueuePort) {
        self.store(port.levels());
    }

    fn store(&self, levels: RingLevels) {
        let RingLevels { rx, fill, tx, completion, free, size } = levels;
        let is_first = self.size.load(Ordering::Relaxed) == 0;
        for (cell, level) in [
            (&self.rx, rx),
            (&self.fill, fill),
            (&self.tx, tx),
            (&self.completion, completion),
            (&self.free, free),
            (&self.rx_most, self.rx_most.load(Ordering::Relaxed).max(rx)),
            (
                &self.fill_least,
                if is_first { fill } else { self.fill_least.load(Ordering::Relaxed).min(fill) },
            ),
            (&self.size, size),
        ] {
            cell.store(level, Ordering::Relaxed);
        }
    }

    /// What was stored last. The words are of one look or of two that follow each other.
    #[must_use]
    pub fn shown(&self) -> ShownLevels {
        let of = |cell: &AtomicU32| cell.load(Ordering::Relaxed);
        ShownLevels {
            now: RingLevels {
                rx: of(&self.rx),
                fill: of(&self.fill),
                tx: of(&self.tx),
                completion: of(&self.completion),
                free: of(&self.free),
                size: of(&self.size),
            },
            rx_most: of(&self.rx_most),
            fill_least: of(&self.fill_least),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.2: the last look, and the worst one.
    #[test]
    fn r8_2_levels_and_their_extremes() {
        let gauges = PortGauges::default();
        assert_eq!(gauges.shown(), ShownLevels::default());
        let level = |rx, fill| RingLevels { rx, fill, tx: 1, completion: 2, free: 3, size: 2_048 };
        for (rx, fill) in [(5, 2_000), (700, 1_300), (0, 2_048)] {
            gauges.store(level(rx, fill));
        }
        let wanted = ShownLevels { now: level(0, 2_048), rx_most: 700, fill_least: 1_300 };
        assert_eq!(gauges.shown(), wanted);
    }
}
