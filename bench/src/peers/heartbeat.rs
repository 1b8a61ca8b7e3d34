//! Numbered UDP markers from client to LAN and back, sent at a steady rate: the clock by which outages are
//! measured, and the mark by which an observer on the LAN knows what arrived.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Interrupt, Namespace, Rig};
use nix::sys::socket::{setsockopt, sockopt};

use super::SLICE;

/// UDP port of the marker echo on the LAN.
pub const MARKER_PORT: u16 = 7_003;

/// Length of a marker, octets: no other traffic of the demo has packets of this length.
pub const MARKER_LEN: usize = 211;

/// Pace of the markers, and so the resolution of outages.
const INTERVAL: Duration = Duration::from_millis(4);

/// What a socket may hold for a thread that does not run, octets: seconds of markers, so that what is missing was lost by
/// the tunnel and not here.
const QUEUE: usize = 8 << 20;

const MAGIC: &[u8; 8] = b"jvpn-mrk";

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// What the demo was doing when it was sent.
    pub phase: Phase,
    /// Rises by one per marker.
    pub sequence: u64,
}

/// What the demo is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing special.
    Ordinary = 0,
    /// Markers are held back and released while their binding lives: they must arrive.
    HeldForControl = 1,
    /// Markers are held back and released after the switch: they must not arrive.
    HeldForSwitch = 2,
}

impl Phase {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Ordinary),
            1 => Some(Self::HeldForControl),
            2 => Some(Self::HeldForSwitch),
            _ => None,
        }
    }
}

impl Marker {
    fn encode(self) -> Vec<u8> {
        let mut payload = MAGIC.to_vec();
        payload.push(self.phase as u8);
        payload.extend(self.sequence.to_be_bytes());
        payload.resize(MARKER_LEN, 0);
        payload
    }

    /// Reads the payload of a datagram.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(MAGIC)?;
        let (phase, rest) = rest.split_first()?;
        let sequence = u64::from_be_bytes(*rest.first_chunk()?);
        Some(Self { phase: Phase::from_number(*phase)?, sequence })
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    phase: AtomicU8,
    sent: AtomicU64,
    replies: Mutex<Vec<Instant>>,
    /// One past the highest sequence that has come back; written under the lock of `replies`.
    newest: AtomicU64,
    arrived: Condvar,
}

impl Shared {
    fn replies(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, marker: Marker) {
        let mut replies = self.replies();
        replies.push(Instant::now());
        self.newest.fetch_max(marker.sequence + 1, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The running heartbeat. Ends with its value.
#[derive(Debug)]
pub struct Heartbeat {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Heartbeat {
    /// Starts the echo on the LAN and the sender on the client.
    ///
    /// # Errors
    /// A socket or thread cannot be made.
    pub fn start(rig: &Rig) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let open = |namespace: &Namespace, address: Ipv4Addr, port: u16| -> Result<UdpSocket> {
            let socket =
                namespace.run(|| UdpSocket::bind((address, port)))?.context("cannot open a UDP socket")?;
            socket.set_read_timeout(Some(SLICE)).context("cannot set a timeout")?;
            setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).context("cannot set a socket's queue")?;
            Ok(socket)
        };
        let server = open(rig.lan(), LAN_SERVER, MARKER_PORT)?;
        let sender = open(rig.client(), Ipv4Addr::UNSPECIFIED, 0)?;
        let receiver = sender.try_clone().context("cannot share a socket")?;
        let threads = vec![
            rig.lan().spawn("marker-echo", {
                let shared = Arc::clone(&shared);
                move || echo(&server, &shared)
            })?,
            rig.client().spawn("marker-sender", {
                let shared = Arc::clone(&shared);
                move || send(&sender, &shared)
            })?,
            rig.client().spawn("marker-receiver", {
                let shared = Arc::clone(&shared);
                move || receive(&receiver, &shared)
            })?,
        ];
        Ok(Self { shared, threads })
    }

    /// Says what markers are to say from now on.
    pub fn set_phase(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Markers sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Replies that have come so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.replies().len() as u64
    }

    /// Markers that are missing before the newest that came back: what is still under way is not missing, however long its
    /// way takes. The least of some looks: one may have overtaken another.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let looks = (0..100).map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            let replies = self.shared.replies();
            self.shared.newest.load(Ordering::Relaxed).saturating_sub(replies.len() as u64)
        });
        looks.min().unwrap_or(u64::MAX)
    }

    /// Waits until `count` more replies have come.
    ///
    /// # Errors
    /// Fewer within `patience`, or interrupted.
    pub fn wait_for_replies(&self, count: usize, patience: Duration, interrupt: &Interrupt) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut replies = self.shared.replies();
        let wanted = replies.len() + count;
        while replies.len() < wanted {
            interrupt.check()?;
            if Instant::now() >= deadline {
                bail!("traffic through the tunnel did not go on within {:.1} s", patience.as_secs_f64());
            }
            replies =
                self.shared.arrived.wait_timeout(replies, SLICE).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// The longest time without a reply that ended after `since`.
    #[must_use]
    pub fn longest_pause(&self, since: Instant) -> Duration {
        let replies = self.shared.replies();
        let first = replies.partition_point(|at| *at < since).saturating_sub(1);
        let recent = replies.get(first..).unwrap_or_default();
        recent.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap_or_default()
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn echo(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 2_048];
    while !shared.stopped() {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        // A full queue loses a reply, as networks do.
        let _ = socket.send_to(buffer.get(..len).unwrap_or_default(), from);
    }
}

fn send(socket: &UdpSocket, shared: &Shared) {
    let target = SocketAddr::from((LAN_SERVER, MARKER_PORT));
    let mut next = Instant::now();
    while !shared.stopped() {
        let sequence = shared.sent.fetch_add(1, Ordering::Relaxed);
        let phase = Phase::from_number(shared.phase.load(Ordering::Relaxed)).unwrap_or(Phase::Ordinary);
        // Refused while there is no route into the tunnel: then it is lost.
        let _ = socket.send_to(&Marker { phase, sequence }.encode(), target);
        next += INTERVAL;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 2_048];
    while !shared.stopped() {
        let Ok((len, _)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(marker) = Marker::decode(buffer.get(..len).unwrap_or_default()) {
            shared.note(marker);
            shared.arrived.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_the_wire_and_strangers_are_none() {
        let marker = Marker { phase: Phase::HeldForSwitch, sequence: 77 };
        assert_eq!(marker.encode().len(), MARKER_LEN);
        assert_eq!(Marker::decode(&marker.encode()), Some(marker));
        assert_eq!(Marker::decode(b"jvpn-mrk"), None);
        assert_eq!(Marker::decode(&[0; MARKER_LEN]), None);
    }

    #[test]
    fn what_is_under_way_is_not_missing() {
        let shared = Arc::new(Shared::default());
        shared.sent.store(9, Ordering::Relaxed);
        let heartbeat = Heartbeat { shared, threads: Vec::new() };
        let come = |sequences: &[u64]| {
            for sequence in sequences {
                heartbeat.shared.note(Marker { phase: Phase::Ordinary, sequence: *sequence });
            }
        };
        come(&[0, 1]);
        assert_eq!(heartbeat.missing(), 0);
        come(&[4]);
        assert_eq!(heartbeat.missing(), 2);
        come(&[2, 3]);
        assert_eq!(heartbeat.missing(), 0, "they were overtaken");
    }

    #[test]
    fn the_longest_pause_counts_what_ended_after_the_moment() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let shared = Arc::new(Shared::default());
        shared.replies().extend([at(0), at(500), at(510), at(700), at(710)]);
        let heartbeat = Heartbeat { shared, threads: Vec::new() };
        assert_eq!(heartbeat.longest_pause(start), Duration::from_millis(500));
        assert_eq!(heartbeat.longest_pause(at(505)), Duration::from_millis(190));
        assert_eq!(heartbeat.longest_pause(at(600)), Duration::from_millis(190), "it began earlier");
        assert_eq!(heartbeat.longest_pause(at(705)), Duration::from_millis(10));
    }
}
