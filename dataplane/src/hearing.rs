//! When the handover socket is listened to. A process that is out of descriptors, or a host that is out of memory, cannot
//! take a connection in. The socket stays readable then, so it is left alone for a moment: the loop must not turn for
//! nothing, and nobody who waits there is turned away.

use jvpn_abi::BootTime;
use jvpn_tables::handover::HandoverError;
use nix::poll::{PollFlags, PollTimeout};
use std::time::Duration;

/// How long it is left alone.
const REST: Duration = Duration::from_millis(250);

/// Whether it is listened to.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    rests_until: Option<BootTime>,
    /// Since the last connection that was taken in: one line for a shortage is enough.
    told: bool,
}

impl Hearing {
    /// What the socket is polled for, and how long at most.
    pub(crate) fn wish(&self, now: BootTime) -> (PollFlags, PollTimeout) {
        let Some(until) = self.rests_until.filter(|until| now < *until) else {
            return (PollFlags::POLLIN, PollTimeout::NONE);
        };
        // Rounded up: waking a millisecond early would only turn the loop once more.
        let rest_ms = until.since(now).as_nanos().div_ceil(1_000_000);
        (PollFlags::empty(), PollTimeout::try_from(rest_ms).unwrap_or(PollTimeout::MAX))
    }

    /// A connection could not be taken in, for want of this.
    pub(crate) fn rest(&mut self, now: BootTime, error: &HandoverError) {
        self.rests_until = Some(now.after(REST));
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(%error, "a control plane has to wait: end what uses up the system's descriptors or memory");
        }
    }

    /// One was taken in.
    pub(crate) const fn took_one(&mut self) {
        self.told = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// R7.3: after a shortage the socket is not polled for a while, and then again, whatever happens.
    #[test]
    fn r7_3_a_shortage_is_waited_out_without_turning() {
        let cause = io::Error::from_raw_os_error(libc::EMFILE);
        let error = HandoverError::System { path: "/run/handover".into(), step: "accept", cause };
        let at = BootTime::from_millis;
        let mut hearing = Hearing::default();
        let listens = (PollFlags::POLLIN, PollTimeout::NONE);
        assert_eq!(hearing.wish(at(1_000)), listens);
        for start in [1_000, 1_250] {
            hearing.rest(at(start), &error);
            assert_eq!(hearing.wish(at(start)), (PollFlags::empty(), PollTimeout::from(250_u8)));
            assert_eq!(hearing.wish(at(start + 249)), (PollFlags::empty(), PollTimeout::from(1_u8)));
            assert_eq!(hearing.wish(at(start + 250)), listens);
        }
        assert!(hearing.told);
        hearing.took_one();
        assert!(!hearing.told && hearing.wish(at(1_500)) == listens);
    }
}
