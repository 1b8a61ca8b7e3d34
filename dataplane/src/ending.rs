//! How this process ends when it is told to: in order, or so that the next one takes its place. That does not depend on
//! when it is told: a start that waits for queues ends as a data plane that forwards.

use crate::port::Settling;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// SIGTERM, SIGINT, SIGHUP: XDP is detached, pins and the pair into the host's stack go, whoever made them.
    InOrder,
    /// SIGUSR2: all that stays for the next process.
    ForNext,
}

impl Ending {
    /// How long frames that are on their way are waited for.
    #[must_use]
    pub const fn settling(self) -> Settling {
        match self {
            Self::InOrder => Settling::Patient,
            Self::ForNext => Settling::InHaste,
        }
    }
}

/// What becomes readable when this process is told to end. Nobody reads from it: what was told stays told.
#[derive(Clone, Copy, Debug)]
pub struct Stops<'a> {
    /// By SIGTERM and its like.
    pub in_order: BorrowedFd<'a>,
    /// By SIGUSR2.
    pub for_next: BorrowedFd<'a>,
}

impl<'a> Stops<'a> {
    /// Both, to wait for.
    #[must_use]
    pub const fn fds(&self) -> [BorrowedFd<'a>; 2] {
        [self.in_order, self.for_next]
    }

    /// What this process was told. Told both, it leaves everything for the next one.
    #[must_use]
    pub fn told(&self) -> Option<Ending> {
        if is_rung(self.for_next) {
            return Some(Ending::ForNext);
        }
        is_rung(self.in_order).then_some(Ending::InOrder)
    }
}

fn is_rung(stop: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(stop, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    /// R1.2: what was told is known at any later time, as often as it is asked for.
    #[test]
    fn r1_2_a_restart_is_told_from_an_end() {
        let ((in_order, end), (for_next, restart)) =
            (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let stops = Stops { in_order: in_order.as_fd(), for_next: for_next.as_fd() };
        assert_eq!(stops.told(), None);
        (&end).write_all(b"x").unwrap();
        assert_eq!((stops.told(), stops.told()), (Some(Ending::InOrder), Some(Ending::InOrder)));
        (&restart).write_all(b"x").unwrap();
        assert_eq!((stops.told(), stops.told()), (Some(Ending::ForNext), Some(Ending::ForNext)));
    }
}
