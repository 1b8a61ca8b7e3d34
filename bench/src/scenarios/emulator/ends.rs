//! Both ends of a path, and volleys of probes between them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use jvpn_rig::emulator::Direction;
use jvpn_rig::site::Site;
use jvpn_rig::{Rig, Uplink, priority};

use crate::peers::probes::{Arrival, PROBE_LEN, ProbeSocket, unix_ns};

/// UDP port of the probes, at both ends.
const PORT: u16 = 7_100;
/// What was on its way when the last probe was sent has arrived by then.
const LAST_WAIT: Duration = Duration::from_millis(150);

/// The word for a direction in the name of a check.
pub(super) const fn word(way: Direction) -> &'static str {
    match way {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

/// Probes to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volley {
    /// How many.
    pub(super) count: u64,
    /// From one to the next.
    pub(super) interval: Duration,
    /// Octets of payload.
    pub(super) len: usize,
    /// How long the last one is waited for.
    pub(super) wait: Duration,
}

impl Volley {
    pub(super) const fn new(count: u64, interval: Duration) -> Self {
        Self { count, interval, len: PROBE_LEN, wait: LAST_WAIT }
    }
}

/// What came of them.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Probes that the kernel took.
    pub(super) sent: u64,
    /// From the first sending to the last.
    pub(super) span: Duration,
    /// What arrived, in this order.
    pub(super) arrivals: Vec<Arrival>,
}

impl Seen {
    /// How many arrived, as a number to reckon with.
    pub(super) fn arrived(&self) -> f64 {
        self.arrivals.len() as f64
    }
}

/// Sockets at both ends of the path of an uplink.
pub(super) struct Ends {
    sockets: [ProbeSocket; 2],
    /// Where what goes up is sent to, and what goes down.
    targets: [SocketAddrV4; 2],
}

impl Ends {
    /// Opens them.
    pub(super) fn open(rig: &Rig, site: &Site, uplink: Uplink) -> Result<Self> {
        let (mine, hop) =
            (Site::address(site.number(), uplink, 2), Site::router_address(site.number(), uplink));
        // The kernel chooses the client's source by the way that a probe takes.
        let any = Ipv4Addr::UNSPECIFIED;
        let near = ProbeSocket::open(site.client(), any, port(uplink))?;
        let far = ProbeSocket::open(rig.router(), hop, port(uplink))?;
        let targets = [SocketAddrV4::new(hop, port(uplink)), SocketAddrV4::new(mine, port(uplink))];
        Ok(Self { sockets: [near, far], targets })
    }

    /// Sends one probe.
    pub(super) fn send(&self, way: Direction, sequence: u64) -> bool {
        let [from, _] = self.of(way);
        from.send(self.target(way), sequence, PROBE_LEN).is_some()
    }

    /// How many have arrived since this was asked last.
    pub(super) fn arrived(&self, way: Direction) -> u64 {
        let ([_, to], mut count) = (self.of(way), 0);
        to.receive(|_| count += 1);
        count
    }

    /// Sends a volley each way at the same time, or one way, and gathers what arrives.
    pub(super) fn fire(&self, volleys: [Option<Volley>; 2]) -> Result<[Seen; 2]> {
        for way in Direction::BOTH {
            let _stale = self.arrived(way);
        }
        let done = [AtomicBool::new(false), AtomicBool::new(false)];
        thread::scope(|scope| {
            let ways = Direction::BOTH.into_iter().zip(volleys).zip(&done);
            let started = ways.map(|((way, volley), done)| {
                let volley = volley?;
                let collector = scope.spawn(move || self.collect(way, volley.wait, done));
                let sender = scope.spawn(move || {
                    let sent = self.send_all(way, volley);
                    done.store(true, Ordering::Relaxed);
                    sent
                });
                Some((sender, collector))
            });
            let started: Vec<_> = started.collect();
            let mut seen = [Seen::default(), Seen::default()];
            for (place, started) in seen.iter_mut().zip(started) {
                let Some((sender, collector)) = started else { continue };
                let panicked = |_| anyhow!("a thread of the probes panicked");
                let (sent, span) = sender.join().map_err(panicked)?;
                *place = Seen { sent, span, arrivals: collector.join().map_err(panicked)? };
            }
            Ok(seen)
        })
    }

    fn of(&self, way: Direction) -> [&ProbeSocket; 2] {
        let [near, far] = &self.sockets;
        match way {
            Direction::Up => [near, far],
            Direction::Down => [far, near],
        }
    }

    const fn target(&self, way: Direction) -> SocketAddrV4 {
        match way {
            Direction::Up => self.targets[0],
            Direction::Down => self.targets[1],
        }
    }

    fn send_all(&self, way: Direction, volley: Volley) -> (u64, Duration) {
        if !volley.interval.is_zero() {
            // Without a pause it would leave the others nothing.
            let _ = priority::raise();
        }
        let ([from, _], target) = (self.of(way), self.target(way));
        let (start, first) = (Instant::now(), unix_ns());
        let (mut sent, mut last) = (0, first);
        for sequence in 0..volley.count {
            let at = start + volley.interval * u32::try_from(sequence).unwrap_or(u32::MAX);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if let Some(at) = from.send(target, sequence, volley.len) {
                (sent, last) = (sent + 1, at);
            }
        }
        (sent, Duration::from_nanos(last.saturating_sub(first)))
    }

    fn collect(&self, way: Direction, wait: Duration, done: &AtomicBool) -> Vec<Arrival> {
        // It must keep up with a capacity test, on a busy machine too.
        let _ = priority::raise();
        let ([_, to], mut arrivals, mut end) = (self.of(way), Vec::new(), None);
        while end.is_none_or(|end| Instant::now() < end) {
            to.receive(|arrival| arrivals.push(arrival));
            if end.is_none() && done.load(Ordering::Relaxed) {
                end = Some(Instant::now() + wait);
            }
            thread::sleep(Duration::from_micros(500));
        }
        arrivals
    }
}

/// Both uplinks' sockets of a client are bound to the same address.
const fn port(uplink: Uplink) -> u16 {
    match uplink {
        Uplink::A => PORT,
        Uplink::B => PORT + 1,
    }
}
