//! The NAT: a mapping that nobody inside uses is gone after its time, whoever outside keeps sending; a rebinding takes all
//! mappings at once; and what follows has another port each time.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::site::Site;
use jvpn_rig::{Namespace, Uplink};

use super::{CLOCK_MS, Check, Lab};

/// How long the NAT remembers an idle flow.
pub(super) const TTL: Duration = Duration::from_millis(300);
/// From one packet of those outside to the next.
const EVERY: Duration = Duration::from_millis(2);
const PACKETS: u16 = 20;
const PORT: u16 = 7_120;
/// What is still to come has come by then. Shorter than the NAT's memory.
const SILENCE: Duration = Duration::from_millis(50);

struct Flow {
    near: UdpSocket,
    far: UdpSocket,
    hop: SocketAddrV4,
}

pub(super) fn measure(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let hop = Site::router_address(lab.other.number(), Uplink::A);
    let flow = Flow {
        near: open(lab.other.client(), Ipv4Addr::UNSPECIFIED)?,
        far: open(lab.rig.router(), hop)?,
        hop: SocketAddrV4::new(hop, PORT),
    };
    let relay = lab.other.path(Uplink::A);
    let all = f64::from(PACKETS);
    let same = |name: &str, unit, (asked, measured): (f64, f64)| {
        Check::same(format!("NAT, {name}"), unit, (asked, measured), usize::from(PACKETS))
    };
    let mut checks = Vec::new();
    let first = flow.map()?;
    checks.push(same("answers to a mapping", "frames", (all, flow.answers(first)?)));
    checks.push(flow.lifetime()?);
    let old = flow.map()?;
    thread::sleep(TTL + SILENCE);
    checks.push(same("answers to one that expired", "frames", (0.0, flow.answers(old)?)));
    let second = flow.map()?;
    checks.push(same("answers to the next one", "frames", (all, flow.answers(second)?)));
    // Rebinding comes before this one could expire.
    let second = flow.map()?;
    relay.rebind_nat();
    checks.push(same("answers after a rebinding", "frames", (0.0, flow.answers(second)?)));
    let third = flow.map()?;
    checks.push(same("answers to what came of it", "frames", (all, flow.answers(third)?)));
    let ports = BTreeSet::from([PORT, first.port(), second.port(), third.port()]);
    let note = format!("inside {PORT}, outside {}, {}, {}", first.port(), second.port(), third.port());
    checks.push(same("ports, all different", "ports", (4.0, ports.len() as f64)).noting(note));
    relay.check()?;
    Ok(checks)
}

fn open(namespace: &Namespace, address: Ipv4Addr) -> Result<UdpSocket> {
    let socket = namespace.run(|| UdpSocket::bind(SocketAddrV4::new(address, PORT)))?;
    let socket = socket.with_context(|| format!("cannot open UDP port {PORT}"))?;
    socket.set_read_timeout(Some(SILENCE)).context("cannot set a time limit")?;
    Ok(socket)
}

impl Flow {
    /// A packet from inside; gives where it seems to come from.
    fn map(&self) -> Result<SocketAddr> {
        self.near.send_to(b"out", self.hop).context("cannot send through the NAT")?;
        let (_, from) = self.far.recv_from(&mut [0; 8]).context("nothing came out of the NAT")?;
        Ok(from)
    }

    /// How many packets from outside to an address of the NAT reach the inside.
    fn answers(&self, to: SocketAddr) -> Result<f64> {
        for _ in 0..PACKETS {
            self.far.send_to(b"in", to).context("cannot send to the NAT")?;
        }
        let mut buffer = [0; 8];
        Ok(f64::from((0..PACKETS).map(|_| u16::from(self.near.recv(&mut buffer).is_ok())).sum::<u16>()))
    }

    /// How long a mapping holds that only those outside use.
    fn lifetime(&self) -> Result<Check> {
        self.near.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        let start = Instant::now();
        let outside = self.map()?;
        let mut sent = Vec::new();
        while start.elapsed() < TTL + SILENCE {
            let number = u16::try_from(sent.len()).unwrap_or(u16::MAX);
            sent.push(start.elapsed());
            self.far.send_to(&number.to_be_bytes(), outside).context("cannot send to the NAT")?;
            thread::sleep(EVERY);
        }
        let (mut last, mut buffer) = (0, [0; 8]);
        while let Ok(2) = self.near.recv(&mut buffer) {
            last = last.max(usize::from(u16::from_be_bytes([buffer[0], buffer[1]])));
        }
        self.near.set_nonblocking(false).context("cannot make a socket block")?;
        let at = |number: usize| sent.get(number).copied().unwrap_or(TTL + SILENCE).as_secs_f64() * 1e3;
        let (through, lost) = (at(last), at(last + 1));
        let tolerance = (lost - through) / 2.0 + 2.0 * CLOCK_MS;
        let because =
            "half of the time between the last that passed and the first that did not, and the clock, twice";
        let (asked, measured) = (TTL.as_secs_f64() * 1e3, (through + lost) / 2.0);
        Ok(Check::near("NAT, life of a mapping", "ms", (asked, measured), (tolerance, because), sent.len()))
    }
}
