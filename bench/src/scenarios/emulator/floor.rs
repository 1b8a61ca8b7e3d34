//! The MTU floor: what is larger does not pass, and its sender hears of it or does not.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::emulator::{Direction, LanePatch, MtuAnswer};
use jvpn_rig::site::Site;
use jvpn_rig::{Namespace, Uplink};
use nix::sys::socket::{getsockopt, sockopt};

use super::ends::word;
use super::{Check, Lab};

/// Largest packet of IP that passes, octets.
const FLOOR: u16 = 1_000;
/// Octets of IPv4 and UDP headers.
const HEADERS: u16 = 28;
/// What the kernel takes for the path's MTU until it hears otherwise: the interface's.
const ETHERNET: u16 = 1_500;
const PACKETS: u16 = 20;
const PORT: u16 = 7_110;
/// What is still to come has come by then.
const SILENCE: Duration = Duration::from_millis(100);

/// Other sockets than the probes', over another path: what a kernel learned of a path's MTU stays for minutes.
pub(super) fn measure(lab: &Lab<'_>) -> Result<Vec<Check>> {
    let relay = lab.plain.path(Uplink::B);
    let addresses = (Site::address(0, Uplink::B, 2), Site::router_address(0, Uplink::B));
    let near = open(lab.plain.client(), addresses.0, addresses.1)?;
    let far = open(lab.rig.router(), addresses.1, addresses.0)?;
    let (mut checks, samples) = (Vec::new(), usize::from(PACKETS));
    for answer in [MtuAnswer::Silent, MtuAnswer::Icmp] {
        let patch = LanePatch { mtu: Some(FLOOR), mtu_answer: Some(answer), ..LanePatch::default() };
        relay.change_both(&patch);
        for (way, [from, to]) in Direction::BOTH.into_iter().zip([[&near, &far], [&far, &near]]) {
            let name = |what: &str| {
                let how = if answer == MtuAnswer::Icmp { "ICMP" } else { "silent" };
                format!("MTU {FLOOR} {how} {}, {what}", word(way))
            };
            let passed = exchange(from, to, FLOOR)?;
            checks.push(Check::same(name("at it"), "frames", (f64::from(PACKETS), passed), samples));
            // The first is dropped in any case; who hears of it cuts the others, and they pass.
            let passed = exchange_one(from, to, FLOOR + 1)?;
            checks.push(Check::same(name("one more"), "frames", (0.0, passed), 1));
            let wanted = if answer == MtuAnswer::Icmp { FLOOR } else { ETHERNET };
            let told = told(from, wanted)?;
            checks.push(Check::same(name("seen by the sender"), "octets", (f64::from(wanted), told), 1));
        }
    }
    relay.change_both(&LanePatch::default());
    relay.check()?;
    Ok(checks)
}

/// A socket that is connected: the kernel tells it what the path takes.
fn open(namespace: &Namespace, own: Ipv4Addr, other: Ipv4Addr) -> Result<UdpSocket> {
    let open = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddrV4::new(own, PORT))?;
        socket.connect(SocketAddrV4::new(other, PORT))?;
        socket.set_read_timeout(Some(SILENCE))?;
        Ok(socket)
    };
    namespace.run(open)?.with_context(|| format!("cannot open UDP port {PORT} of {own}"))
}

fn exchange(from: &UdpSocket, to: &UdpSocket, len: u16) -> Result<f64> {
    let payload = vec![0; usize::from(len - HEADERS)];
    for _ in 0..PACKETS {
        from.send(&payload).context("cannot send a packet of the MTU")?;
    }
    Ok(f64::from(arrived(to, PACKETS)))
}

fn exchange_one(from: &UdpSocket, to: &UdpSocket, len: u16) -> Result<f64> {
    from.send(&vec![0; usize::from(len - HEADERS)]).context("cannot send a packet above the MTU")?;
    Ok(f64::from(arrived(to, 1)))
}

/// How many come, up to what is expected, until it is silent.
fn arrived(to: &UdpSocket, expected: u16) -> u16 {
    let (mut buffer, mut count) = ([0; 2_048], 0);
    while count < expected {
        match to.recv(&mut buffer) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // What an ICMP error has left at a socket that sent too much.
            Err(_) => {}
        }
    }
    count
}

/// What the sender's kernel takes for the path's MTU, as soon as that is what is wanted.
fn told(socket: &UdpSocket, wanted: u16) -> Result<f64> {
    let start = Instant::now();
    loop {
        let found = getsockopt(socket, sockopt::IpMtu).context("the kernel does not name the path's MTU")?;
        if found == i32::from(wanted) || start.elapsed() > Duration::from_secs(1) {
            return Ok(f64::from(found));
        }
        thread::sleep(Duration::from_millis(1));
    }
}
