//! The shell: takes frames from one interface and puts them on another when the path says so.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use serde::Serialize;
use socket2::Socket;

use super::batch::{self, Batch};
use super::carrier;
use super::path::{Direction, Path, PathCounters};
use super::profile::LanePatch;
use crate::packet_socket::{self, Direction as Wanted};
use crate::{Namespace, link, priority};

/// Frames that may wait for an interface that does not take them.
const UNSENT_MAX: usize = 4_096;

/// How late frames left, against the moment when they were due: the emulator's own error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lateness {
    /// Frames that left.
    pub frames: u64,
    /// Sum of their lateness, µs.
    pub sum_us: u64,
    /// The latest, µs.
    pub max_us: u64,
    /// Those that were more than a millisecond late.
    pub over_1_ms: u64,
    /// Dropped since an interface took no more, or missed since the kernel had no room.
    pub dropped: u64,
}

impl Lateness {
    fn add(&mut self, late: Duration) {
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.frames += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
        self.over_1_ms += u64::from(us > 1_000);
    }
}

#[derive(Debug)]
struct State {
    path: Path,
    lateness: Lateness,
    failure: Option<String>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    state: Mutex<State>,
    bell: EventFd,
    stop: std::sync::atomic::AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn ring(&self) {
        // Fails only if the counter is full, and then it is readable just the same.
        let _ = self.bell.write(1);
    }
}

/// A running path between two interfaces of one namespace. Ends with its value.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Relay {
    /// Starts relaying between `client_side` and `far_side`.
    ///
    /// # Errors
    /// An interface is missing, hands over unfinished frames, or no right to open an AF_PACKET socket there.
    pub fn start(namespace: &Namespace, client_side: &str, far_side: &str, path: Path) -> Result<Self> {
        for interface in [client_side, far_side] {
            // Super-packets and unfinished checksums would be passed on as they are.
            link::assert_offloads_off(namespace, interface)?;
        }
        let open = |interface: &str| packet_socket::open(namespace, interface, &[], Wanted::Incoming);
        let sockets = [open(client_side)?, open(far_side)?];
        let shared = Arc::new(Shared {
            start: Instant::now(),
            state: Mutex::new(State { path, lateness: Lateness::default(), failure: None }),
            bell: EventFd::new().context("cannot make an eventfd")?,
            stop: std::sync::atomic::AtomicBool::new(false),
        });
        let thread = namespace.spawn("path-relay", {
            let (shared, interface) = (Arc::clone(&shared), client_side.to_owned());
            move || {
                let result = Worker::new(&shared, sockets, interface).and_then(Worker::run);
                if let Err(error) = result {
                    shared.lock().failure = Some(format!("{error:#}"));
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Changes one direction by hand; it takes the place of what was changed by hand before.
    pub fn change(&self, direction: Direction, patch: LanePatch) {
        self.with(|path, now| path.change(now, direction, patch));
    }

    /// Changes both directions by hand.
    pub fn change_both(&self, patch: &LanePatch) {
        self.with(|path, now| {
            Direction::BOTH.into_iter().for_each(|direction| path.change(now, direction, patch.clone()));
        });
    }

    /// Takes the link down or up by hand: the client's end loses its carrier.
    pub fn set_link_down(&self, down: bool) {
        self.with(|path, now| path.set_link_down(now, down));
    }

    /// The NAT forgets.
    pub fn rebind_nat(&self) {
        self.with(|path, _| path.rebind_nat());
    }

    /// Keeps up to `limit` frames that a blackhole takes in this direction.
    pub fn hold(&self, direction: Direction, limit: usize) {
        self.with(|path, _| path.hold(direction, limit));
    }

    /// Lets go what was kept; gives the lengths of the frames.
    #[must_use]
    pub fn release(&self, direction: Direction) -> Vec<usize> {
        self.with(|path, now| path.release(now, direction))
    }

    /// What became of the frames.
    #[must_use]
    pub fn counters(&self) -> PathCounters {
        self.shared.lock().path.counters()
    }

    /// The emulator's own error so far.
    #[must_use]
    pub fn lateness(&self) -> Lateness {
        self.shared.lock().lateness
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// Why it ended.
    pub fn check(&self) -> Result<()> {
        match &self.shared.lock().failure {
            Some(failure) => bail!("a path emulator has ended: {failure}"),
            None => Ok(()),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Path, Duration) -> T) -> T {
        let result = {
            let mut state = self.shared.lock();
            // Read under the lock: moments must not go back.
            let now = self.shared.now();
            work(&mut state.path, now)
        };
        self.shared.ring();
        result
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.shared.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    /// The client's side, the far side.
    sockets: [Socket; 2],
    client_side: String,
    carrier_down: bool,
    batch: Batch,
    unsent: [VecDeque<Vec<u8>>; 2],
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, sockets: [Socket; 2], client_side: String) -> Result<Self> {
        // The kernel may otherwise wake a thread 50 µs late to save power.
        nix::sys::prctl::set_timerslack(1).context("cannot set the timer slack")?;
        // Where it is not allowed the emulator is only less exact, and its lateness says so.
        let _ = priority::raise();
        let (batch, unsent) = (Batch::new(), [VecDeque::new(), VecDeque::new()]);
        Ok(Self { shared, sockets, client_side, carrier_down: false, batch, unsent })
    }

    fn run(mut self) -> Result<()> {
        while !self.shared.stop.load(std::sync::atomic::Ordering::Relaxed) {
            let wake = self.pass_on()?;
            self.follow_carrier()?;
            self.wait(wake)?;
            self.take_in()?;
        }
        Ok(())
    }

    fn wait(&self, wake: Option<Duration>) -> Result<()> {
        let timeout = wake.map(|wake| TimeSpec::from(wake.saturating_sub(self.shared.now())));
        let read = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let [client, far] = &self.sockets;
        let mut fds = [read(client.as_fd()), read(far.as_fd()), read(self.shared.bell.as_fd())];
        // A socket whose interface is down is readable only by its error; it would spin.
        let from = usize::from(self.carrier_down);
        let fds = fds.get_mut(from..).unwrap_or_default();
        match ppoll(fds, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot poll"),
        }
        if fds.last().and_then(PollFd::any) == Some(true) {
            let _ = self.shared.bell.read();
        }
        Ok(())
    }

    fn take_in(&mut self) -> Result<()> {
        for (socket, direction) in self.sockets.iter().zip(Direction::BOTH) {
            let mut frames = Vec::new();
            // Several batches at most, so that what is due is not kept waiting by what comes.
            for _ in 0..4 {
                let count = self
                    .batch
                    .receive(socket, |frame| frames.push(frame.to_vec()))
                    .context("cannot receive frames")?;
                if count < batch::BATCH {
                    break;
                }
            }
            let mut state = self.shared.lock();
            let now = self.shared.now();
            for frame in frames {
                state.path.handle_frame(now, direction, frame);
            }
        }
        Ok(())
    }

    /// Sends what is due; gives when to come again.
    fn pass_on(&mut self) -> Result<Option<Duration>> {
        let wake = {
            let mut state = self.shared.lock();
            let now = self.shared.now();
            state.path.handle_timeout(now);
            while let Some((direction, due, frame)) = state.path.poll_frame(now) {
                state.lateness.add(now.saturating_sub(due));
                // What goes up leaves by the far side.
                let queue = &mut self.unsent[usize::from(direction == Direction::Up)];
                queue.push_back(frame);
            }
            state.path.poll_timeout()
        };
        let mut dropped = 0;
        for (socket, queue) in self.sockets.iter().zip(&mut self.unsent) {
            while !queue.is_empty() {
                let sent = batch::send(socket, queue.make_contiguous()).context("cannot send frames")?;
                queue.drain(..sent);
                if sent == 0 {
                    // The interface is down or full: a short queue waits, the rest is lost.
                    let excess =
                        if self.carrier_down { queue.len() } else { queue.len().saturating_sub(UNSENT_MAX) };
                    queue.drain(..excess);
                    dropped += excess as u64;
                    break;
                }
            }
            dropped += u64::from(packet_socket::dropped(socket).unwrap_or_default());
        }
        if dropped > 0 {
            self.shared.lock().lateness.dropped += dropped;
        }
        let again = self.unsent.iter().any(|queue| !queue.is_empty());
        Ok(if again { Some(self.shared.now() + Duration::from_micros(50)) } else { wake })
    }

    fn follow_carrier(&mut self) -> Result<()> {
        let down = self.shared.lock().path.is_link_down();
        if down != self.carrier_down {
            carrier::set_up(&self.sockets[0], &self.client_side, !down)
                .with_context(|| format!("cannot set the link {}", self.client_side))?;
            self.carrier_down = down;
        }
        Ok(())
    }
}
