//! A data plane that has closed its connection and is not seen as ended yet. The kernel may take long for that, and nobody
//! stands still meanwhile: to the sessions it is gone, only its successor is not greeted before it really is.

use jvpn_abi::BootTime;
use jvpn_abi::wire::SlotId;
use jvpn_tables::Bindings;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long a process that closed its connection may take to be seen as ended. The kernel closes its AF_XDP sockets one by
/// one, each after a grace period: on a busy machine more than five seconds were seen, and more queues take longer. To end
/// before that would cost the sessions the start of two processes instead of one; to wait costs nobody anything, for
/// without a data plane nobody is served.
const EXIT_PATIENCE: Duration = Duration::from_secs(60);

/// The process, and the one table of it by which it can still be held back.
#[derive(Debug)]
pub struct Leaving {
    process: OwnedFd,
    bindings: Bindings,
    until: BootTime,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The process has ended.
    Ended,
    /// It may yet end.
    UnderWay,
    /// It had time enough and goes on.
    Stays,
}

impl Leaving {
    pub(crate) fn new(process: OwnedFd, bindings: Bindings, now: BootTime) -> Self {
        Self { process, bindings, until: now.after(EXIT_PATIENCE) }
    }

    /// Readable when the process has ended.
    #[must_use]
    pub fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// When patience with it is over.
    #[must_use]
    pub const fn until(&self) -> BootTime {
        self.until
    }

    /// How far it is.
    #[must_use]
    pub fn departure(&self, now: BootTime) -> Departure {
        departure(self.process(), self.until, now)
    }

    /// Unbinds a slot: should it still run, it forwards nothing there any more.
    pub fn unbind(&self, slot: SlotId) {
        self.bindings.unbind(slot.index());
    }
}

fn departure(process: BorrowedFd<'_>, until: BootTime, now: BootTime) -> Departure {
    let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
    // An interrupted look is one that saw nothing.
    let has_ended = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    match (has_ended, now < until) {
        (true, _) => Departure::Ended,
        (false, true) => Departure::UnderWay,
        (false, false) => Departure::Stays,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// R7.3: a data plane that leaves is given its time and no more, and is gone as soon as it is, however late.
    #[test]
    fn r7_3_a_leaving_data_plane_has_its_time() {
        let (process, its_end) = UnixStream::pair().unwrap();
        let until = BootTime::from_millis(1_000);
        let look = |ms| departure(process.as_fd(), until, BootTime::from_millis(ms));
        assert_eq!(
            (look(0), look(999), look(1_000)),
            (Departure::UnderWay, Departure::UnderWay, Departure::Stays)
        );
        drop(its_end);
        assert_eq!((look(0), look(5_000)), (Departure::Ended, Departure::Ended));
    }
}
