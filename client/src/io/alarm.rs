//! Wakes the loop after a suspend. The time-out of `epoll` stands still while the host sleeps; this timer does not.

use jvpn_abi::BootTime;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// What is due sooner is left to `epoll`: a host under traffic does not fall asleep, and the timer costs a system call.
const NEAR: Duration = Duration::from_secs(1);

/// A timer on `CLOCK_BOOTTIME`.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    set_to: Option<BootTime>,
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl Alarm {
    /// Not set.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self { timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?, set_to: None })
    }

    /// Wakes at `due`, if that is not near.
    pub(super) fn set(&mut self, now: BootTime, due: Option<BootTime>) {
        let Some(due) = due.filter(|due| due.since(now) > NEAR && self.set_to != Some(*due)) else { return };
        let moment = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(due.0)));
        match self.timer.set(moment, TimerSetTimeFlags::TFD_TIMER_ABSTIME) {
            Ok(()) => self.set_to = Some(due),
            Err(error) => tracing::debug!(%error, "no alarm; after a suspend the loop wakes later"),
        }
    }

    /// It rang.
    pub(super) fn clear(&mut self) {
        self.set_to = None;
        // Not readable after all: nothing to clear.
        let _rang = self.timer.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    /// R7.1: it rings at a moment of the clock that goes on during suspend, and not for what is near.
    #[test]
    fn it_rings_at_its_moment() {
        let mut alarm = Alarm::new().unwrap();
        let rings = |alarm: &Alarm, within_ms: u16| {
            let mut fds = [PollFd::new(alarm.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(within_ms)).unwrap() > 0
        };
        let now = jvpn_host::clock::now();
        alarm.set(now, Some(now.after(Duration::from_millis(10))));
        assert!(!rings(&alarm, 50), "what is near is not its business");
        // As seen from long ago this moment is far.
        alarm.set(BootTime(0), Some(now.after(Duration::from_millis(80))));
        assert!(rings(&alarm, 5_000));
        assert!(jvpn_host::clock::now() >= now.after(Duration::from_millis(80)));
        alarm.clear();
        assert!(!rings(&alarm, 0));
    }
}
