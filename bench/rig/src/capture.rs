//! Outside observers: capture threads with event counters, each on one interface with one packet filter in
//! the kernel.
//!
//! XDP runs before AF_PACKET, and nftables behind it: on an XDP port an observer sees what XDP *passed*; on
//! the router's client side it sees datagrams that the impairments then drop.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use socket2::{SockFilter, Socket};

use crate::frame::Datagram;
pub use crate::packet_socket::Direction;
use crate::stamp::{ClockWatch, Stamp};
use crate::{Interrupt, Namespace, packet_socket, priority, stamp};

const FRAME_OCTETS_MAX: usize = 65_536;

/// How long a wait goes on before it looks at the interrupt flag.
const SLICE: Duration = Duration::from_millis(50);

/// Which UDP datagrams over IPv4 an observer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Which way over the link.
    pub direction: Direction,
    /// Which port.
    pub port: Port,
    /// First octet of the payload; `None` takes any.
    pub first_octet: Option<u8>,
}

/// A UDP port in one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The sender's.
    Source(u16),
    /// The receiver's.
    Destination(u16),
}

impl Match {
    /// Datagrams to `port` whose first octet is `first_octet`, arriving.
    #[must_use]
    pub const fn arriving(port: u16, first_octet: Option<u8>) -> Self {
        Self { direction: Direction::Incoming, port: Port::Destination(port), first_octet }
    }

    /// The same, leaving too.
    #[must_use]
    pub const fn both_ways(self) -> Self {
        Self { direction: Direction::Any, ..self }
    }

    /// Classic BPF over an Ethernet frame (Linux, Documentation/networking/filter.rst).
    fn filter(self) -> Vec<SockFilter> {
        const LOAD_HALF: u16 = 0x28;
        const LOAD_BYTE: u16 = 0x30;
        const JUMP_EQUAL: u16 = 0x15;
        const JUMP_SET: u16 = 0x45;
        const RETURN: u16 = 0x06;
        let (port_at, port) = match self.port {
            Port::Source(port) => (34, port),
            Port::Destination(port) => (36, port),
        };
        // (load, at, wanted value): EtherType, version and header length, protocol, port, first octet of the
        // payload.
        let mut wanted = vec![
            (LOAD_HALF, 12, 0x0800),
            (LOAD_BYTE, 14, 0x45),
            (LOAD_BYTE, 23, 17),
            (LOAD_HALF, port_at, u32::from(port)),
        ];
        wanted.extend(self.first_octet.map(|octet| (LOAD_BYTE, 42, u32::from(octet))));
        let jumps_left = |tests: usize| u8::try_from(tests * 2).unwrap_or(u8::MAX);
        let mut program = vec![
            SockFilter::new(LOAD_HALF, 0, 0, 20),
            // Fragments have no ports at this place.
            SockFilter::new(JUMP_SET, jumps_left(wanted.len()) + 1, 0, 0x3fff),
        ];
        let count = wanted.len();
        for (index, (load, at, value)) in wanted.into_iter().enumerate() {
            program.push(SockFilter::new(load, 0, 0, at));
            program.push(SockFilter::new(JUMP_EQUAL, 0, jumps_left(count - index - 1) + 1, value));
        }
        program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
        program
    }
}

/// How much of what it sees an observer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Only how many.
    Count,
    /// The first frames.
    First(usize),
    /// The latest frames.
    Last(usize),
    /// All frames.
    All,
    /// No frames, but for each receiver how many datagrams and how many octets they carried.
    PerReceiver,
}

/// What one receiver got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Datagrams.
    pub datagrams: u64,
    /// Octets of their UDP payloads.
    pub octets: u64,
}

/// UDP datagrams over IPv4 from `port` to anybody in the block `network`/`len`.
fn towards_filter(port: u16, network: Ipv4Addr, len: u8) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const AND: u16 = 0x54;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
    vec![
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_EQUAL, 0, 9, 0x0800),
        SockFilter::new(LOAD_HALF, 0, 0, 22),
        SockFilter::new(AND, 0, 0, 0x00ff),
        SockFilter::new(JUMP_EQUAL, 0, 6, 17),
        SockFilter::new(LOAD_HALF, 0, 0, 34),
        SockFilter::new(JUMP_EQUAL, 0, 4, u32::from(port)),
        SockFilter::new(LOAD_WORD, 0, 0, 30),
        SockFilter::new(AND, 0, 0, mask),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(network) & mask),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// A frame that an observer kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When the observer had it.
    pub at: Instant,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
}

/// Is shown a frame.
type Shown = dyn FnMut(&[u8]) + Send;
/// Is shown a frame, and when the kernel had it.
type ShownStamped = dyn FnMut(Stamp, &[u8]) + Send;

/// Who is shown each frame.
enum Look {
    Nobody,
    /// When it is read.
    AtLeisure(Box<Shown>),
    /// With the moment at which the kernel had it, on a thread that goes before others.
    Stamped(Box<ShownStamped>),
}

impl Look {
    const fn is_stamped(&self) -> bool {
        matches!(self, Self::Stamped(_))
    }
}

/// A running observer. Ends with its value.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    /// Of one that goes by stamps.
    clock: Option<ClockWatch>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    count: u64,
    kept: Vec<Captured>,
    per_receiver: HashMap<Ipv4Addr, Total>,
    lost: u64,
    failure: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Capture {
    /// Starts observing. Everything that passes from now on is seen.
    ///
    /// # Errors
    /// No such interface, or no right to open an AF_PACKET socket there.
    pub fn start(namespace: &Namespace, interface: &str, wanted: Match, keep: Keep) -> Result<Self> {
        Self::with_filter(namespace, interface, &wanted.filter(), wanted.direction, (keep, Look::Nobody))
    }

    /// Starts observing what arrives from `port` for anybody in the block `network`/`len`, and sums it up by receiver.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn towards(
        namespace: &Namespace,
        interface: &str,
        port: u16,
        (network, len): (Ipv4Addr, u8),
    ) -> Result<Self> {
        let filter = towards_filter(port, network, len);
        let how = (Keep::PerReceiver, Look::Nobody);
        Self::with_filter(namespace, interface, &filter, Direction::Incoming, how)
    }

    /// Starts observing, and shows each frame to `look` as it is seen, on the observer's thread.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn tap(
        namespace: &Namespace,
        interface: &str,
        wanted: Match,
        look: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self> {
        let how = (Keep::Count, Look::AtLeisure(Box::new(look)));
        Self::with_filter(namespace, interface, &wanted.filter(), wanted.direction, how)
    }

    /// The same for whoever judges by time: with each frame comes the moment at which the kernel had it, however late it
    /// is read, and the thread goes before ordinary ones. [`Capture::complete`] fails if the clock behind the stamps was
    /// set meanwhile.
    ///
    /// # Errors
    /// As [`Capture::start`]; the kernel gives no stamps.
    pub fn tap_stamped(
        namespace: &Namespace,
        interface: &str,
        wanted: Match,
        look: impl FnMut(Stamp, &[u8]) + Send + 'static,
    ) -> Result<Self> {
        let how = (Keep::Count, Look::Stamped(Box::new(look)));
        Self::with_filter(namespace, interface, &wanted.filter(), wanted.direction, how)
    }

    fn with_filter(
        namespace: &Namespace,
        interface: &str,
        filter: &[SockFilter],
        direction: Direction,
        (keep, mut look): (Keep, Look),
    ) -> Result<Self> {
        // Before the first frame.
        let clock = look.is_stamped().then(ClockWatch::start).transpose()?;
        let socket = packet_socket::open(namespace, interface, filter, direction)?;
        socket.set_nonblocking(true).context("cannot make the AF_PACKET socket non-blocking")?;
        if look.is_stamped() {
            stamp::turn_on(&socket)?;
        }
        let shared = Arc::new(Shared::default());
        let stop = Arc::new(EventFd::new().context("cannot make an eventfd")?);
        let thread = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            namespace.spawn("observer", move || observe(&socket, &stop, &shared, keep, &mut look))?
        };
        Ok(Self { shared, stop, thread: Some(thread), clock })
    }

    /// Datagrams seen so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.lock().count
    }

    /// What each receiver got so far, with [`Keep::PerReceiver`].
    #[must_use]
    pub fn per_receiver(&self) -> HashMap<Ipv4Addr, Total> {
        self.shared.lock().per_receiver.clone()
    }

    /// What was kept so far, oldest first.
    #[must_use]
    pub fn frames(&self) -> Vec<Captured> {
        self.shared.lock().kept.clone()
    }

    /// Whether the observer has seen everything: it lives and the kernel dropped nothing; and whether its stamps, if it
    /// goes by them, compare.
    ///
    /// # Errors
    /// How many it missed, or why it ended; the machine's clock was set.
    pub fn complete(&self) -> Result<()> {
        let state = self.shared.lock();
        if let Some(failure) = &state.failure {
            bail!("the observer ended: {failure}");
        }
        if state.lost > 0 {
            bail!("the observer missed {} frames", state.lost);
        }
        if self.clock.as_ref().map_or(Ok(false), ClockWatch::was_set)? {
            bail!("the machine's clock was set (or it slept) meanwhile: its time stamps do not compare");
        }
        Ok(())
    }

    /// Waits until at least `count` datagrams have been seen.
    ///
    /// # Errors
    /// Fewer within `patience`; interrupted; the observer ended.
    pub fn wait_for(&self, what: &str, count: u64, patience: Duration, interrupt: &Interrupt) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        while state.count < count {
            interrupt.check()?;
            if let Some(failure) = &state.failure {
                bail!("{what}: the observer ended: {failure}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{what}: {} of {count} seen within {:.1} s", state.count, patience.as_secs_f64());
            }
            let waited = self.shared.changed.wait_timeout(state, left.min(SLICE));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Fails only if the counter of the eventfd is full, and then it is readable just the same.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn observe(socket: &Socket, stop: &EventFd, shared: &Shared, keep: Keep, look: &mut Look) {
    if look.is_stamped() {
        // Without it the observer is late more often, which changes no stamp.
        let _ = priority::raise();
    }
    let result = observe_until_stopped(socket, stop, shared, keep, look);
    if let Err(error) = result {
        shared.lock().failure = Some(format!("{error:#}"));
        shared.changed.notify_all();
    }
}

fn observe_until_stopped(
    socket: &Socket,
    stop: &EventFd,
    shared: &Shared,
    keep: Keep,
    look: &mut Look,
) -> Result<()> {
    let mut buffer = vec![0_u8; FRAME_OCTETS_MAX];
    loop {
        let mut fds =
            [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot poll"),
        }
        while let Some(len) = receive(socket, &mut buffer, look)? {
            shared.lock().take(buffer.get(..len).unwrap_or_default(), keep);
        }
        shared.lock().lost +=
            u64::from(packet_socket::dropped(socket).context("cannot read the drop counter")?);
        shared.changed.notify_all();
        if fds[1].any() == Some(true) {
            return Ok(());
        }
    }
}

/// Reads a frame and shows it; gives its length.
fn receive(mut socket: &Socket, buffer: &mut [u8], look: &mut Look) -> Result<Option<usize>> {
    let read = match look {
        Look::Stamped(_) => stamp::receive(socket, buffer).map(|(len, at)| (len, Some(at))),
        Look::Nobody | Look::AtLeisure(_) => socket.read(buffer).map(|len| (len, None)),
    };
    match read {
        Ok((len, at)) => {
            let frame = buffer.get(..len).unwrap_or_default();
            match (look, at) {
                (Look::Stamped(show), Some(at)) => show(at, frame),
                (Look::AtLeisure(show), _) => show(frame),
                (Look::Stamped(_) | Look::Nobody, _) => {}
            }
            Ok(Some(len))
        }
        // ENETDOWN: the link went down, perhaps by our own hand. It comes back.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NetworkDown
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e).context("cannot read a frame"),
    }
}

impl State {
    fn take(&mut self, frame: &[u8], keep: Keep) {
        self.count += 1;
        let room = match keep {
            Keep::Count => false,
            Keep::PerReceiver => {
                if let Some(datagram) = Datagram::parse(frame) {
                    let total = self.per_receiver.entry(*datagram.destination.ip()).or_default();
                    total.datagrams += 1;
                    total.octets += datagram.payload.len() as u64;
                }
                false
            }
            Keep::First(max) => self.kept.len() < max,
            Keep::Last(max) => {
                if self.kept.len() >= max && !self.kept.is_empty() {
                    self.kept.remove(0);
                }
                max > 0
            }
            Keep::All => true,
        };
        if room {
            self.kept.push(Captured { at: Instant::now(), frame: frame.to_vec() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::tests::watch_of_a_clock_that_was_set;

    /// R8.1: a set clock hides a late frame or makes one of a punctual one: what went by its stamps is no verdict.
    #[test]
    fn r8_1_an_observer_whose_clock_was_set_has_not_seen_everything() {
        let capture = |clock| Capture {
            shared: Arc::default(),
            stop: Arc::new(EventFd::new().unwrap()),
            thread: None,
            clock,
        };
        capture(None).complete().unwrap();
        capture(Some(ClockWatch::start().unwrap())).complete().unwrap();
        let error = capture(Some(watch_of_a_clock_that_was_set())).complete().unwrap_err();
        assert!(error.to_string().contains("clock was set"), "{error:#}");
    }
}
