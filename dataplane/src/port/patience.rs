//! Waiting for a queue that the kernel has not taken from a dead process yet: not for ever, not in silence, not when this
//! process is told to end, and with an answer for whoever asks meanwhile.

use super::PortError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How long the kernel may take to give up the queues of a process that was killed. It does so in the background and
/// tells nobody (net/xdp/xsk_buff_pool.c, xp_release_deferred); on a busy machine two seconds were not enough.
const RELEASE_PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile, ms.
const RELEASE_INTERVAL_MS: u8 = 5;
/// What is waited for so long is worth a line in the log.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// Tells whoever asks which queue of which interface is waited for.
type Answer<'a> = &'a dyn Fn(&str, u32);

/// What a start has left of its time to wait for queues, all of them together.
pub struct Patience<'a> {
    /// Readable when this process is to end.
    stops: &'a [BorrowedFd<'a>],
    /// Readable when somebody asks, and the answer.
    asked: Option<(BorrowedFd<'a>, Answer<'a>)>,
    release: Duration,
    told_after: Duration,
    /// Since the first try that found a queue in use.
    since: Cell<Option<Instant>>,
    told: Cell<bool>,
}

impl std::fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patience").field("since", &self.since).finish_non_exhaustive()
    }
}

impl<'a> Patience<'a> {
    /// As long as the kernel may need, unless one of `stops` becomes readable.
    #[must_use]
    pub const fn new(stops: &'a [BorrowedFd<'a>]) -> Self {
        let (since, told) = (Cell::new(None), Cell::new(false));
        Self { stops, asked: None, release: RELEASE_PATIENCE, told_after: TOLD_AFTER, since, told }
    }

    /// The same, and `answer` is called whenever `asked` is readable.
    #[must_use]
    pub const fn answering(mut self, asked: BorrowedFd<'a>, answer: Answer<'a>) -> Self {
        self.asked = Some((asked, answer));
        self
    }

    /// Tries until the queue is free; memory that is refused is asked for again for as long as `memory`.
    ///
    /// # Errors
    /// Those of `attempt`: [`PortError::Busy`] or [`PortError::Umem`] once the time is over. [`PortError::Stopped`] if this
    /// process is to end.
    pub(super) fn open<T>(
        &self,
        memory: Duration,
        mut attempt: impl FnMut() -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let begun = Instant::now();
        loop {
            let (interface, queue) = match attempt() {
                Err(PortError::Busy { interface, queue }) => (interface, queue),
                Err(PortError::Umem { interface, queue, .. }) if begun.elapsed() < memory => {
                    if self.pause(&interface, queue) {
                        return Err(PortError::Stopped);
                    }
                    continue;
                }
                outcome => return outcome,
            };
            let since = self.since.get().unwrap_or_else(Instant::now);
            self.since.set(Some(since));
            let waited = since.elapsed();
            if waited >= self.release {
                return Err(PortError::Busy { interface, queue });
            }
            if waited >= self.told_after && !self.told.replace(true) {
                tracing::warn!(
                    interface,
                    queue,
                    patience_s = self.release.as_secs(),
                    "this queue is still in use: waiting for the kernel to take it from a data plane that was killed. If \
                     another program has it ('ss --xdp -pe' shows which), end that one, or name other queues in \
                     tuning.queues"
                );
            }
            if self.pause(&interface, queue) {
                return Err(PortError::Stopped);
            }
        }
    }

    /// Waits until it is time for another try; whether this process is to end instead.
    fn pause(&self, interface: &str, queue: u32) -> bool {
        let awaited = self.stops.iter().copied().chain(self.asked.map(|(asked, _)| asked));
        let mut fds: Vec<PollFd<'_>> = awaited.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let woken = poll(&mut fds, PollTimeout::from(RELEASE_INTERVAL_MS));
        // EINTR only means another try.
        if !woken.is_ok_and(|ready| ready > 0) {
            return false;
        }
        if fds.iter().take(self.stops.len()).any(|fd| fd.any().unwrap_or(false)) {
            return true;
        }
        if let Some((_, answer)) = self.asked {
            answer(interface, queue);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn busy() -> PortError {
        PortError::Busy { interface: "wan0".to_owned(), queue: 3 }
    }

    /// R7.3: a queue that becomes free is had, whatever it took; one that does not is an error that names it, once for all
    /// queues of the start.
    #[test]
    fn r7_3_a_queue_is_waited_for_once() {
        let patience = Patience { release: Duration::from_millis(50), ..Patience::new(&[]) };
        let mut tries = 0;
        let third = patience.open(Duration::ZERO, || {
            tries += 1;
            if tries < 3 { Err(busy()) } else { Ok(tries) }
        });
        assert_eq!(third.unwrap(), 3);
        let error = patience.open(Duration::ZERO, || Err::<(), _>(busy())).unwrap_err().to_string();
        assert!(error.contains("wan0 queue 3"), "{error}");
        let mut tries = 0;
        let next = patience.open(Duration::ZERO, || {
            tries += 1;
            Err::<(), _>(busy())
        });
        assert!(matches!(next, Err(PortError::Busy { .. })) && tries == 1, "the time of all is over");
    }

    /// R7.3: whoever is told to end meanwhile ends, long before the time is over.
    #[test]
    fn r7_3_the_wait_for_a_queue_heeds_a_signal() {
        let (stop, signal) = UnixStream::pair().unwrap();
        let stops = [stop.as_fd()];
        let patience = Patience::new(&stops);
        let mut signal = Some(signal);
        let begun = Instant::now();
        let stopped = patience.open(Duration::ZERO, || {
            if begun.elapsed() > Duration::from_millis(20) {
                signal = None;
            }
            Err::<(), _>(busy())
        });
        assert!(matches!(stopped, Err(PortError::Stopped)), "{stopped:?}");
        assert!(begun.elapsed() < RELEASE_PATIENCE / 2);
    }

    /// R7.3: whoever asks while a queue is waited for is answered with what is waited for, and the wait goes on.
    #[test]
    fn r7_3_the_wait_for_a_queue_answers_who_asks() {
        let ((asked, asker), (_stop, signal)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let stops = [signal.as_fd()];
        let answers = Cell::new(0);
        let answer = |interface: &str, queue: u32| {
            assert_eq!((interface, queue), ("wan0", 3));
            // The question is taken off, else it would be asked for ever.
            assert_eq!((&asked).read(&mut [0; 8]).unwrap(), 1);
            answers.set(answers.get() + 1);
        };
        let patience = Patience::new(&stops).answering(asked.as_fd(), &answer);
        (&asker).write_all(b"?").unwrap();
        let opened = patience.open(Duration::ZERO, || if answers.get() == 0 { Err(busy()) } else { Ok(()) });
        assert!(opened.is_ok() && answers.get() == 1, "{opened:?}");
    }
}
