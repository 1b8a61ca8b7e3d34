//! When the kernel had a frame, whoever reads it when.
//!
//! The kernel stamps frames with the clock of the wall alone (`packet_recvmsg`, `skb->tstamp`). Between two stamps lies
//! the time that passed only if nobody set that clock meanwhile: NTP that makes it run faster or slower does the same to
//! the monotonic clock, by which it would have to be judged otherwise. So there is no conversion, which could go wrong
//! unseen, but a watch that knows for certain whether the clock was set; then what was judged by stamps does not count.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::Socket;

/// The moment at which the kernel had a frame. Stamps compare with stamps alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(Duration);

impl Stamp {
    /// From what the clock of the wall showed, since the Unix epoch.
    #[must_use]
    pub const fn of_unix_time(at: Duration) -> Self {
        Self(at)
    }

    /// What passed between an earlier frame and this one. Nothing if this is the earlier one: two processors may hand
    /// over what they stamped in another order.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Has the kernel hand over a stamp with each frame. If nobody on the machine has asked for stamps before, it begins within
/// milliseconds (`net_enable_timestamp`); frames of before are stamped when they are read.
pub(crate) fn turn_on(socket: &Socket) -> Result<()> {
    setsockopt(socket, ReceiveTimestampns, &true).context("the kernel gives no time stamps")
}

/// A frame's length and its stamp, from a socket that does not block.
///
/// # Errors
/// As `recvmsg`; a frame without a stamp.
pub(crate) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, Stamp)> {
    let mut space = cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let stamp = received.cmsgs()?.find_map(|message| {
        let ControlMessageOwned::ScmTimestampns(at) = message else { return None };
        let (seconds, nanos) = (u64::try_from(at.tv_sec()).ok()?, u32::try_from(at.tv_nsec()).ok()?);
        Some(Stamp(Duration::new(seconds, nanos)))
    });
    let stamp = stamp.ok_or_else(|| io::Error::other("the kernel gave no time stamp with a frame"))?;
    Ok((received.bytes, stamp))
}

/// Knows whether the clock of the wall was set since, by whomever and however shortly (timerfd_create(2),
/// TFD_TIMER_CANCEL_ON_SET); a machine that slept counts as well.
#[derive(Debug)]
pub(crate) struct ClockWatch(OwnedFd);

impl ClockWatch {
    pub(crate) fn start() -> Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)
            .context("cannot make a timer on the clock of the wall")?;
        // It never expires: readable makes it the setting of the clock alone.
        let never = Expiration::OneShot(TimeSpec::new(libc::time_t::MAX, 0));
        timer
            .set(never, TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET)
            .context("cannot watch the clock of the wall")?;
        Ok(Self(timer.into()))
    }

    pub(crate) fn was_set(&self) -> Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO).context("cannot look after the clock of the wall")? > 0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;

    /// As the timer is once the clock was set.
    pub(crate) fn watch_of_a_clock_that_was_set() -> ClockWatch {
        ClockWatch(EventFd::from_value(1).unwrap().into())
    }

    #[test]
    fn a_clock_that_nobody_sets_is_not_suspected() {
        assert!(!ClockWatch::start().unwrap().was_set().unwrap());
        assert!(watch_of_a_clock_that_was_set().was_set().unwrap());
    }

    #[test]
    fn between_stamps_lies_what_passed_or_nothing() {
        let stamp = |ms| Stamp::of_unix_time(Duration::from_millis(ms));
        assert_eq!(stamp(50).since(stamp(10)), Duration::from_millis(40));
        assert_eq!(stamp(10).since(stamp(50)), Duration::ZERO);
    }
}
