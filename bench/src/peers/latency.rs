//! Round trips through the tunnel: small datagrams to a server on the LAN that sends them back, timed by the kernel's own
//! stamps of arrival.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Interrupt, Rig, priority};

use super::SLICE;
use super::probes::{PROBE_LEN, ProbeSocket};

const PORT: u16 = 7_020;
/// Between two datagrams.
const INTERVAL: Duration = Duration::from_millis(2);
/// How long answers are waited for behind the last one.
const LINGER: Duration = Duration::from_millis(300);

/// What came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundTrips {
    /// Sent.
    pub sent: u64,
    /// Round-trip times, µs, sorted.
    pub us: Vec<f64>,
}

impl RoundTrips {
    /// The time that a share of the round trips does not exceed (nearest rank); `None` if nothing came back.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.us.len() as f64).ceil() as usize;
        self.us.get(rank.saturating_sub(1)).or(self.us.last()).copied()
    }
}

/// Sends for `span` from the client's inner address.
///
/// # Errors
/// A socket or thread cannot be made, or interrupted.
pub fn measure(rig: &Rig, inner: Ipv4Addr, span: Duration, interrupt: &Interrupt) -> Result<RoundTrips> {
    let far = rig.lan().run(|| UdpSocket::bind((LAN_SERVER, PORT)))?.context("no UDP socket on the LAN")?;
    far.set_read_timeout(Some(SLICE)).context("cannot set a timeout")?;
    let near = ProbeSocket::open(rig.client(), inner, 0)?;
    let over = Arc::new(AtomicBool::new(false));
    let echo = thread::Builder::new().name("udp-echo".to_owned()).spawn({
        let over = Arc::clone(&over);
        move || answer(&far, &over)
    });
    let echo = echo.context("cannot start a thread")?;
    let result = thread::scope(|scope| {
        // A thread of its own: its priority ends with it.
        scope.spawn(|| exchange(&near, span, interrupt)).join()
    });
    over.store(true, Ordering::Relaxed);
    echo.join().map_err(|_| anyhow::anyhow!("the echo's thread panicked"))?;
    result.map_err(|_| anyhow::anyhow!("the prober's thread panicked"))?
}

fn answer(socket: &UdpSocket, over: &AtomicBool) {
    // Where it is not allowed, both contenders wait alike.
    let _ = priority::raise();
    let mut octets = [0; 2_048];
    while !over.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut octets) {
            // A full queue is loss like any other.
            let _refused = socket.send_to(octets.get(..len).unwrap_or_default(), from);
        }
    }
}

fn exchange(socket: &ProbeSocket, span: Duration, interrupt: &Interrupt) -> Result<RoundTrips> {
    let _ = priority::raise();
    let target = SocketAddrV4::new(LAN_SERVER, PORT);
    let mut found = RoundTrips::default();
    let start = Instant::now();
    let mut next = start;
    while start.elapsed() < span + LINGER {
        interrupt.check()?;
        if start.elapsed() < span {
            let _refused = socket.send(target, found.sent, PROBE_LEN);
            found.sent += 1;
        }
        next += INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        socket.receive(|arrival| {
            found.us.push(arrival.arrived_ns.saturating_sub(arrival.sent_ns) as f64 / 1e3);
        });
    }
    found.us.sort_by(f64::total_cmp);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let found = RoundTrips { sent: 100, us: (1..=100).map(f64::from).collect() };
        assert_eq!([0.5, 0.99, 1.0].map(|share| found.quantile(share)), [50.0, 99.0, 100.0].map(Some));
        assert_eq!(RoundTrips::default().quantile(0.5), None);
    }
}
