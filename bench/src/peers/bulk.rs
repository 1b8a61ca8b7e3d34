//! As much as goes through: TCP streams, and UDP at a given rate, each in one direction.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Interrupt, Namespace, Rig, wait};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::{connect, listen};

const TCP_PORT: u16 = 7_010;
const UDP_PORT: u16 = 7_011;
/// The client's address inside the tunnel.
const CLIENT_INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// What one call of a sender hands over.
const CHUNK_OCTETS: usize = 128 << 10;
/// Time before counting begins: slow start is over by then.
const WARM_UP: Duration = Duration::from_millis(400);
/// Datagrams between two looks at the clock.
const BURST: u64 = 16;
/// How long a receiver waits for stragglers, and never longer than was sent: short shots would mostly be waiting.
const LINGER: Duration = Duration::from_millis(150);
/// Buffer of a receiver: a moment in which it does not run loses nothing.
const RECEIVE_BUFFER: usize = 8 << 20;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Client to LAN.
    Up,
    /// LAN to client.
    Down,
}

/// What arrived in a span.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Octets of payload.
    pub octets: u64,
    /// The span.
    pub took: Duration,
}

/// Runs `streams` TCP streams for `span`, counted after a warm-up; `begin` and `end` are called around the count.
///
/// # Errors
/// A connection cannot be opened, or interrupted.
pub fn tcp<T>(
    rig: &Rig,
    direction: Direction,
    streams: usize,
    span: Duration,
    interrupt: &Interrupt,
    mut look: impl FnMut() -> Result<T>,
) -> Result<(Transfer, T, T)> {
    let listener = listen(rig.lan(), LAN_SERVER, TCP_PORT)?;
    let arrived = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    let mut ends: Vec<TcpStream> = Vec::new();
    for _ in 0..streams {
        let near = connect(rig.client(), LAN_SERVER, TCP_PORT, Duration::from_secs(5))?;
        let (far, _) = listener.accept().context("no stream arrives")?;
        ends.extend([near.try_clone()?, far.try_clone()?]);
        let (sender, receiver) = if direction == Direction::Up { (near, far) } else { (far, near) };
        threads.push(std::thread::spawn(move || pump(sender)));
        let arrived = Arc::clone(&arrived);
        threads.push(std::thread::spawn(move || drain(receiver, &arrived)));
    }
    let counted = (|| {
        pause(WARM_UP, interrupt)?;
        let before = look()?;
        let (start, first) = (Instant::now(), arrived.load(Ordering::Relaxed));
        pause(span, interrupt)?;
        let transfer = Transfer { octets: arrived.load(Ordering::Relaxed) - first, took: start.elapsed() };
        Ok((transfer, before, look()?))
    })();
    for end in ends {
        // The other end may have closed it already.
        let _closed = end.shutdown(std::net::Shutdown::Both);
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a stream's thread panicked"))?;
    }
    counted
}

/// Until it is closed.
fn pump(mut stream: TcpStream) {
    let chunk = vec![0x5a; CHUNK_OCTETS];
    while stream.write_all(&chunk).is_ok() {}
}

fn drain(mut stream: TcpStream, arrived: &AtomicU64) {
    let mut chunk = vec![0; CHUNK_OCTETS];
    while let Ok(len @ 1..) = stream.read(&mut chunk) {
        arrived.fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    /// Sent.
    pub sent: u64,
    /// Arrived.
    pub arrived: u64,
    /// For how long was sent.
    pub took: Duration,
}

impl Shot {
    /// Part that did not arrive.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.sent.saturating_sub(self.arrived) as f64 / (self.sent as f64).max(1.0)
    }

    /// Datagrams per second that arrived.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Sends datagrams of `payload` octets at `rate` per second (or as fast as one thread can) for `span`.
///
/// # Errors
/// A socket cannot be made, or interrupted.
pub fn udp(
    rig: &Rig,
    direction: Direction,
    payload: usize,
    rate: Option<f64>,
    span: Duration,
) -> Result<Shot> {
    let (from, to) = match direction {
        Direction::Up => ((rig.client(), CLIENT_INNER), (rig.lan(), LAN_SERVER)),
        Direction::Down => ((rig.lan(), LAN_SERVER), (rig.client(), CLIENT_INNER)),
    };
    let receiver = socket(to.0, to.1, UDP_PORT)?;
    let sender = socket(from.0, from.1, 0)?;
    sender.connect((to.1, UDP_PORT))?;
    // A tunnel device that nobody reads any more must not hold the sender for ever.
    sender.set_write_timeout(Some(LINGER))?;
    receiver.set_read_timeout(Some(linger(span)))?;
    let over = Arc::new(AtomicBool::new(false));
    let counting = std::thread::spawn({
        let over = Arc::clone(&over);
        move || count(&receiver, &over)
    });
    let datagram = vec![0x5a; payload];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < span {
        let due = rate.map_or(u64::MAX, |rate| (rate * start.elapsed().as_secs_f64()) as u64);
        if sent >= due {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        for _ in 0..BURST.min(due - sent) {
            // A full queue is loss like any other.
            let refused = sender.send(&datagram);
            sent += 1;
            if refused.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                break;
            }
        }
    }
    let took = start.elapsed();
    over.store(true, Ordering::Relaxed);
    let arrived = counting.join().map_err(|_| anyhow::anyhow!("the receiver's thread panicked"))?;
    Ok(Shot { sent, arrived, took })
}

/// How long a receiver waits for stragglers of a shot of `span`.
fn linger(span: Duration) -> Duration {
    span.clamp(Duration::from_millis(1), LINGER)
}

/// Counts until nothing has come for a while after the end.
fn count(receiver: &UdpSocket, over: &AtomicBool) -> u64 {
    let mut buffer = [0; 2_048];
    let mut arrived = 0;
    loop {
        match receiver.recv(&mut buffer) {
            Ok(_) => arrived += 1,
            Err(_) if over.load(Ordering::Relaxed) => return arrived,
            Err(_) => {}
        }
    }
}

fn socket(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    namespace
        .run(|| -> Result<UdpSocket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            socket.bind(&SocketAddr::from((address, port)).into())?;
            Ok(socket.into())
        })?
        .with_context(|| format!("no UDP socket at {address}:{port} in namespace {}", namespace.name()))
}

fn pause(span: Duration, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    wait::until("the span of a measurement", span * 2 + Duration::from_secs(5), interrupt, || {
        Ok((start.elapsed() >= span).then_some(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_shot_is_not_waited_for_longer_than_it_took() {
        assert_eq!(linger(Duration::from_millis(50)), Duration::from_millis(50));
        assert_eq!(linger(Duration::from_millis(500)), LINGER, "what is measured with is waited for as ever");
        assert!(!linger(Duration::ZERO).is_zero(), "a timeout of nothing is none");
    }
}
