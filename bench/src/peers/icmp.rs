//! ICMP echo by a raw socket.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_rig::frame::checksum;
use jvpn_rig::{Interrupt, Namespace};
use socket2::{Domain, Protocol, Socket, Type};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const IPV4_HEADER_LEN: usize = 20;

/// Sends echo requests one after the other and gives the round-trip times; a request that gets no answer
/// within `patience` is sent again until all of `patience` is used up.
///
/// # Errors
/// No answer in time, or interrupted.
pub fn ping(
    namespace: &Namespace,
    to: Ipv4Addr,
    count: u16,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<Vec<Duration>> {
    const RETRY: Duration = Duration::from_millis(250);
    let mut socket = namespace
        .run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))?
        .context("cannot open an ICMP socket")?;
    socket.set_read_timeout(Some(RETRY)).context("cannot set a timeout")?;
    let identifier = std::process::id().to_be_bytes();
    let mut times = Vec::new();
    for sequence in 0..count {
        let deadline = Instant::now() + patience;
        let request = echo_request([identifier[2], identifier[3]], sequence);
        let time = loop {
            interrupt.check()?;
            anyhow::ensure!(
                Instant::now() < deadline,
                "no echo from {to} within {:.1} s",
                patience.as_secs_f64()
            );
            let sent_at = Instant::now();
            // No route yet, a full queue: the next round tries again.
            let _ = socket.send_to(&request, &SocketAddr::from((to, 0)).into());
            if await_reply(&mut socket, &request, sent_at + RETRY) {
                break sent_at.elapsed();
            }
        };
        times.push(time);
    }
    Ok(times)
}

fn await_reply(socket: &mut Socket, request: &[u8], deadline: Instant) -> bool {
    let mut packet = [0; 256];
    while Instant::now() < deadline {
        let Ok(len) = socket.read(&mut packet) else { return false };
        let reply = packet.get(IPV4_HEADER_LEN..len).unwrap_or_default();
        if reply.first() == Some(&ECHO_REPLY) && reply.get(4..) == request.get(4..) {
            return true;
        }
    }
    false
}

fn echo_request(identifier: [u8; 2], sequence: u16) -> Vec<u8> {
    let mut request = vec![ECHO_REQUEST, 0, 0, 0];
    request.extend(identifier);
    request.extend(sequence.to_be_bytes());
    request.extend(b"jumping vpn demo");
    let sum = checksum([request.as_slice()]);
    request.splice(2..4, sum.to_be_bytes());
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_request_holds() {
        assert_eq!(checksum([echo_request([1, 2], 3).as_slice()]), 0);
    }
}
