//! The account of a queue's frames at its end: each must be in one of the places that a frame can be in. A worker that lost
//! frames in its life, or gave one back twice, shows it here.

use super::QueuePort;
use crate::gauges::RingLevels;
use std::thread;
use std::time::{Duration, Instant};

/// How long frames may be on their way at the end: the kernel holds a frame from one ring to the other, and what was sent
/// until its packet is freed. It tells nobody when that is over.
const SETTLE_PATIENCE: Duration = Duration::from_millis(200);
/// How often it is looked at meanwhile.
const SETTLE_INTERVAL: Duration = Duration::from_millis(1);

/// The frames of one queue, by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// All that it owns.
    pub total: u32,
    /// Those in rings, and those free to send with.
    pub levels: RingLevels,
    /// Packets that found the RX ring full. Each may have left its frame with the kernel, which takes it for a later packet
    /// (net/xdp/xsk_buff_pool.c, xp_free).
    pub ring_full: u64,
}

impl Account {
    /// Looks at a queue that nobody uses any more, until nothing is on its way or patience is over.
    pub fn settled(port: &mut impl QueuePort) -> Self {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        loop {
            // Takes back what was sent.
            let _refused = port.flush();
            let account = Self {
                total: port.frames(),
                levels: port.levels(),
                ring_full: port.statistics().rx_ring_full,
            };
            if account.elsewhere() == 0 || Instant::now() >= deadline {
                return account;
            }
            thread::sleep(SETTLE_INTERVAL);
        }
    }

    /// Frames that are in no known place: lost by the worker, with the kernel (see [`Self::ring_full`]), or in the rings of
    /// a NIC that works without copying. Negative: a frame is in two places.
    #[must_use]
    pub fn elsewhere(&self) -> i64 {
        let RingLevels { rx, fill, tx, completion, free, size: _ } = self.levels;
        let known: i64 = [rx, fill, tx, completion, free].into_iter().map(i64::from).sum();
        i64::from(self.total) - known
    }

    /// Puts it on record.
    pub fn log(&self, worker: usize, side: &str) {
        let RingLevels { rx, fill, tx, completion, free, size: _ } = self.levels;
        let (total, elsewhere, ring_full) = (self.total, self.elsewhere(), self.ring_full);
        tracing::info!(
            worker,
            %side,
            total,
            rx,
            fill,
            tx,
            completion,
            free,
            elsewhere,
            ring_full,
            "frames at the end"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::plain::{End, PlainPort};
    use std::io;
    use std::ops::Range;
    use std::os::fd::BorrowedFd;

    /// Has always one more packet.
    struct Spring;

    impl End for Spring {
        fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
            buffer[..4].fill(1);
            Ok(Some(0..4))
        }
        fn give(&mut self, _frame: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn fd(&self) -> BorrowedFd<'_> {
            unreachable!("nobody waits in this test")
        }
    }

    /// R0.2: frames that were given back are there; one that was kept, of either kind, is missing.
    #[test]
    fn r0_2_a_kept_frame_is_missing_from_the_account() {
        const BATCH: usize = 8;
        let mut port = PlainPort::new(Spring, BATCH);
        let elsewhere = |port: &mut PlainPort<Spring>| Account::settled(port).elsewhere();
        assert_eq!(elsewhere(&mut port), 0);
        let mut batch = Vec::new();
        port.receive(&mut batch, BATCH);
        assert_eq!(elsewhere(&mut port), BATCH as i64, "all of a batch are out");
        let kept = batch.pop().unwrap();
        for frame in batch.drain(..) {
            let free = port.take_free().unwrap();
            port.transmit(free, 4);
            port.recycle(frame);
        }
        assert_eq!(elsewhere(&mut port), 1);
        port.recycle(kept);
        let kept = port.take_free().unwrap();
        assert_eq!(elsewhere(&mut port), 1);
        port.put_back(kept);
        assert_eq!(elsewhere(&mut port), 0);
    }

    /// R0.2: a frame in two places shows as well.
    #[test]
    fn r0_2_a_frame_in_two_places_is_less_than_none() {
        let levels = RingLevels { rx: 1, fill: 2, tx: 3, completion: 4, free: 6, size: 8 };
        assert_eq!(Account { total: 15, levels, ring_full: 0 }.elsewhere(), -1);
    }
}
