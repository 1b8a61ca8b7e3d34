//! Numbered probes with the moment of their sending in them, received with the kernel's own time stamps: the clock by
//! which the recovery bench and the emulator's self-test measure.
//!
//! Moments are Unix nanoseconds of one machine's clock, so the way of a probe has a length in each direction.

use std::io::{IoSliceMut, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use jvpn_rig::Namespace;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimestampns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;

/// Octets of a probe, unless it is to be longer.
pub const PROBE_LEN: usize = 32;

const MAGIC: &[u8; 8] = b"jvpnprob";
/// Room for what comes while the receiver is not scheduled.
const RECEIVE_BUFFER_OCTETS: usize = 16 << 20;

/// A probe that arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Its number.
    pub sequence: u64,
    /// When it was sent, Unix ns.
    pub sent_ns: u64,
    /// When the kernel had it, Unix ns.
    pub arrived_ns: u64,
}

/// Now, Unix ns.
#[must_use]
pub fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A socket that sends and receives probes; never blocks.
#[derive(Debug)]
pub struct ProbeSocket(UdpSocket);

impl ProbeSocket {
    /// Opens it in a namespace.
    ///
    /// # Errors
    /// The port is taken, or the kernel refuses an option.
    pub fn open(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<Self> {
        let socket = namespace
            .run(|| UdpSocket::bind((address, port)))?
            .with_context(|| format!("cannot open UDP port {port} in namespace {}", namespace.name()))?;
        socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        setsockopt(&socket, ReceiveTimestampns, &true).context("the kernel gives no time stamps")?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_OCTETS).context("cannot size a receive buffer")?;
        Ok(Self(socket))
    }

    /// Sends a probe of `len` octets; gives when, or `None` if the kernel refused it (no route, no room).
    pub fn send(&self, to: SocketAddrV4, sequence: u64, len: usize) -> Option<u64> {
        let mut octets = [0; 2_048];
        let sent_ns = unix_ns();
        let len = len.clamp(PROBE_LEN, octets.len());
        let mut place = octets.as_mut_slice();
        place.write_all(MAGIC).ok()?;
        place.write_all(&sequence.to_be_bytes()).ok()?;
        place.write_all(&sent_ns.to_be_bytes()).ok()?;
        self.0.send_to(octets.get(..len)?, to).ok().map(|_| sent_ns)
    }

    /// Hands over what has arrived.
    pub fn receive(&self, mut take: impl FnMut(Arrival)) {
        let mut octets = [0; 2_048];
        let mut control = nix::cmsg_space!(TimeSpec);
        loop {
            let mut parts = [IoSliceMut::new(&mut octets)];
            let flags = MsgFlags::MSG_DONTWAIT;
            // Nothing there, or an ICMP error of an earlier sending: both end the round.
            let Ok(message) = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) else {
                return;
            };
            let stamp = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|one| {
                    let ControlMessageOwned::ScmTimestampns(at) = one else { return None };
                    Some(at)
                })
            });
            let len = message.bytes;
            let arrived_ns = stamp.and_then(nanoseconds).unwrap_or_else(unix_ns);
            let payload = octets.get(..len).unwrap_or_default();
            if let Some((sequence, sent_ns)) = decode(payload) {
                take(Arrival { sequence, sent_ns, arrived_ns });
            }
        }
    }
}

impl AsFd for ProbeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn nanoseconds(at: TimeSpec) -> Option<u64> {
    let (seconds, nanos) = (u64::try_from(at.tv_sec()).ok()?, u64::try_from(at.tv_nsec()).ok()?);
    Some(seconds * 1_000_000_000 + nanos)
}

fn decode(payload: &[u8]) -> Option<(u64, u64)> {
    let rest = payload.strip_prefix(MAGIC)?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let sent = rest.first_chunk()?;
    Some((u64::from_be_bytes(*sequence), u64::from_be_bytes(*sent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_no_probes() {
        assert_eq!(decode(b"jvpnprob"), None);
        assert_eq!(decode(&[0; PROBE_LEN]), None);
        let mut probe = MAGIC.to_vec();
        probe.extend(7_u64.to_be_bytes());
        probe.extend(9_u64.to_be_bytes());
        assert_eq!(decode(&probe), Some((7, 9)));
    }
}
