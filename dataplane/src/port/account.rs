//! The account of a queue's frames at its end: each must be in one of the places that a frame can be in. A worker that lost
//! frames in its life, or gave one back twice, shows it here.

use super::QueuePort;
use crate::gauges::RingLevels;
use std::thread;
use std::time::{Duration, Instant};

/// How long frames may be on their way at the end: the kernel holds a frame from one ring to the other, and what was sent
/// until its packet is freed. It tells nobody when that is over.
const SETTLE_PATIENCE: Duration = Duration::from_millis(200);
/// The same where a successor waits: a part of the gap that nobody would notice (ADR 0037).
const SETTLE_PATIENCE_IN_HASTE: Duration = Duration::from_millis(10);
/// How often it is looked at meanwhile.
const SETTLE_INTERVAL: Duration = Duration::from_millis(1);

/// Frames that may lie where nobody can see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// No more than these, with the kernel.
    AtMost(u32),
    /// Any number: a NIC that works without copying has them in its own rings.
    Unknown,
}

impl Unseen {
    /// Those of two queues.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::AtMost(a), Self::AtMost(b)) => Self::AtMost(a.saturating_add(b)),
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
        }
    }
}

/// How long the last look may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// Until nothing is on its way.
    Patient,
    /// A successor is to forward soon: what is on its way is not waited for, and the account may be short of it.
    InHaste,
}

impl Settling {
    /// When it is over, for all ports of one worker.
    #[must_use]
    pub fn deadline(self) -> Instant {
        Instant::now()
            + match self {
                Self::Patient => SETTLE_PATIENCE,
                Self::InHaste => SETTLE_PATIENCE_IN_HASTE,
            }
    }
}

/// The frames of one queue, by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// All that it owns.
    pub total: u32,
    /// Those in rings, and those free to send with.
    pub levels: RingLevels,
    /// Those that may be elsewhere.
    pub unseen: Unseen,
}

impl Account {
    /// Looks at a queue that nobody uses any more, until nothing is on its way or it is `deadline`. Where nobody can tell,
    /// one look is enough.
    pub fn settled(port: &mut impl QueuePort, deadline: Instant) -> Self {
        loop {
            // Takes back what was sent.
            let _refused = port.flush();
            let account = Self { total: port.frames(), levels: port.levels(), unseen: port.unseen() };
            if account.is_settled() || Instant::now() >= deadline {
                return account;
            }
            thread::sleep(SETTLE_INTERVAL);
        }
    }

    /// Whether waiting would change nothing that anybody judges.
    fn is_settled(&self) -> bool {
        match self.unseen {
            Unseen::Unknown => true,
            Unseen::AtMost(_) => self.elsewhere() == 0,
        }
    }

    /// Frames that are in no known place: lost by the worker, or where nobody sees them ([`Self::unseen`]). Negative: a frame
    /// is in two places.
    #[must_use]
    pub fn elsewhere(&self) -> i64 {
        let RingLevels { rx, fill, tx, completion, free, size: _ } = self.levels;
        let known: i64 = [rx, fill, tx, completion, free].into_iter().map(i64::from).sum();
        i64::from(self.total) - known
    }

    /// Puts it on record. `workers`: how many there are to put theirs.
    pub fn log(&self, (worker, workers): (usize, u64), side: &str, settling: Settling) {
        let RingLevels { rx, fill, tx, completion, free, size: _ } = self.levels;
        let (total, elsewhere) = (self.total, self.elsewhere());
        let unseen = match self.unseen {
            Unseen::AtMost(frames) => i64::from(frames),
            Unseen::Unknown => -1,
        };
        tracing::info!(
            worker,
            workers,
            %side,
            total,
            rx,
            fill,
            tx,
            completion,
            free,
            elsewhere,
            unseen,
            in_haste = settling == Settling::InHaste,
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
        let elsewhere = |port: &mut PlainPort<Spring>| Account::settled(port, Instant::now()).elsewhere();
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
        assert_eq!(Account { total: 15, levels, unseen: Unseen::AtMost(0) }.elsewhere(), -1);
    }

    /// R1.2: frames that nobody can see are not waited for; those that will come are, no longer than until the deadline.
    #[test]
    fn r1_2_an_end_waits_for_nothing_that_cannot_be_seen() {
        let levels = RingLevels { rx: 0, fill: 5, tx: 0, completion: 0, free: 5, size: 8 };
        let settled = |total, unseen| Account { total, levels, unseen }.is_settled();
        assert!(settled(10, Unseen::AtMost(0)) && !settled(11, Unseen::AtMost(0)));
        assert!(settled(14, Unseen::Unknown));
        assert_eq!(Unseen::AtMost(1).and(Unseen::AtMost(2)), Unseen::AtMost(3));
        assert_eq!(Unseen::AtMost(1).and(Unseen::Unknown), Unseen::Unknown);
        let mut port = PlainPort::new(Spring, 8);
        let mut batch = Vec::new();
        port.receive(&mut batch, 8);
        let begun = Instant::now();
        assert_eq!(Account::settled(&mut port, Settling::InHaste.deadline()).elsewhere(), 8);
        assert!(begun.elapsed() >= SETTLE_PATIENCE_IN_HASTE);
        assert!(SETTLE_PATIENCE_IN_HASTE * 10 <= SETTLE_PATIENCE);
    }
}
