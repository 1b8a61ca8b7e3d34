//! Waiting for a process that has closed its connection to be seen as ended: as long as the kernel may take for it, through
//! signals, and no longer than somebody wants this process to live.

use jvpn_abi::BootTime;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What came of the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The process has ended.
    Ended,
    /// It goes on.
    Alive,
    /// This process is asked to end, too.
    Shutdown,
}

/// Waits until `process` is readable, at most for `patience`, or until `shutdown` is.
///
/// # Errors
/// What poll(2) says, except that a signal came: then the rest of the time is waited for.
pub(crate) fn wait_for(
    process: BorrowedFd<'_>,
    shutdown: BorrowedFd<'_>,
    patience: Duration,
    clock: impl Fn() -> BootTime,
) -> Result<Ending, Errno> {
    let mut fds = [PollFd::new(process, PollFlags::POLLIN), PollFd::new(shutdown, PollFlags::POLLIN)];
    let woken = patiently(patience, clock, |timeout| poll(&mut fds, timeout))?;
    let any = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    let [process, shutdown] = &fds;
    Ok(match (woken, any(shutdown), any(process)) {
        (1.., true, _) => Ending::Shutdown,
        (1.., false, true) => Ending::Ended,
        (_, _, _) => Ending::Alive,
    })
}

/// Polls again after each interruption, for what is left of the time.
fn patiently(
    patience: Duration,
    clock: impl Fn() -> BootTime,
    mut poll: impl FnMut(PollTimeout) -> Result<i32, Errno>,
) -> Result<i32, Errno> {
    let until = clock().after(patience);
    loop {
        let left = until.since(clock()).as_nanos().div_ceil(1_000_000);
        match poll(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => {}
            polled => return polled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    /// R7.3: a signal while a data plane ends is neither an error nor the end of the patience, and lengthens nothing.
    #[test]
    fn r7_3_a_signal_does_not_cut_the_patience_short() {
        let now = Cell::new(BootTime::from_millis(1_000));
        let mut waits = Vec::new();
        let polled = patiently(
            Duration::from_secs(5),
            || now.get(),
            |timeout| {
                waits.push(timeout.as_millis());
                now.set(now.get().after(Duration::from_millis(1_500)));
                if waits.len() < 4 { Err(Errno::EINTR) } else { Ok(0) }
            },
        );
        assert_eq!((polled, waits), (Ok(0), vec![Some(5_000), Some(3_500), Some(2_000), Some(500)]));
        let refused = patiently(Duration::ZERO, || now.get(), |_| Err(Errno::EINVAL));
        assert_eq!(refused, Err(Errno::EINVAL));
    }

    /// R7.3: whoever is told to end meanwhile ends, and does not call the data plane abandoned.
    #[test]
    fn r7_3_a_shutdown_is_heard_while_waiting() {
        let (process, its_end) = UnixStream::pair().unwrap();
        let (shutdown, signal) = UnixStream::pair().unwrap();
        let ask =
            |patience| wait_for(process.as_fd(), shutdown.as_fd(), patience, jvpn_host::clock::now).unwrap();
        assert_eq!(ask(Duration::from_millis(1)), Ending::Alive);
        drop(its_end);
        assert_eq!(ask(Duration::from_secs(60)), Ending::Ended);
        drop(signal);
        assert_eq!(ask(Duration::from_secs(60)), Ending::Shutdown);
    }
}
