//! UDP: one socket per uplink, bound to its device, not connected (its source address follows the device's).

use super::{Transport, TransportHealth};
use crate::io::frames::{BATCH, FRAME_LEN, Frames};
use jvpn_abi::Endpoint;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, recvmmsg, sendmmsg,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Socket buffers, octets: 20 ms at 1 Gbit/s and some. The kernel may grant less without CAP_NET_ADMIN.
const SOCKET_BUFFER: usize = 4 << 20;
/// How long a full send queue is waited for before its packets are dropped: a loop that stands still answers no probe.
const QUEUE_PATIENCE_MS: u16 = 2;

/// A UDP socket on one uplink.
pub struct Udp {
    socket: Socket,
    gateway: SockaddrStorage,
    /// The gateway once per datagram of a batch, as `sendmmsg` takes it.
    addresses: Box<[Option<SockaddrStorage>; BATCH]>,
    headers_in: MultiHeaders<SockaddrStorage>,
    headers_out: MultiHeaders<SockaddrStorage>,
    health: TransportHealth,
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp")
            .field("socket", &self.socket)
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

impl Udp {
    /// Opens a socket on `device` towards `gateway`. Its datagrams carry `mark`, by which a kill switch lets them pass.
    ///
    /// # Errors
    /// If the device does not exist, or without CAP_NET_RAW (kernels before 5.7) or CAP_NET_ADMIN.
    pub fn open(device: &str, mark: u32, gateway: Endpoint) -> io::Result<Self> {
        let gateway = gateway.socket_addr();
        let (domain, any) = match gateway {
            SocketAddr::V4(_) => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        socket.bind_device(Some(device.as_bytes()))?;
        socket.set_mark(mark)?;
        // Forced sizes need CAP_NET_ADMIN and are not bounded by sysctl; without it the ordinary ones do.
        if socket.set_recv_buffer_size(SOCKET_BUFFER).is_err()
            || socket.set_send_buffer_size(SOCKET_BUFFER).is_err()
        {
            tracing::debug!(device, "socket buffers stay at the system's default");
        }
        force_buffers(&socket);
        socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
        Ok(Self {
            socket,
            gateway: SockaddrStorage::from(gateway),
            addresses: Box::new([Some(SockaddrStorage::from(gateway)); BATCH]),
            headers_in: MultiHeaders::preallocate(BATCH, None),
            headers_out: MultiHeaders::preallocate(BATCH, None),
            health: TransportHealth::default(),
        })
    }

    /// Sends frames until the queue is full; how many the host took.
    fn send_some(&mut self, frames: &Frames, range: Range<usize>) -> Result<usize, Errno> {
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|at| [IoSlice::new(frames.frame(range.start + at))]);
        let count = range.len().min(BATCH);
        let slices = slices.get(..count).unwrap_or_default();
        let fd = self.socket.as_raw_fd();
        let sent = sendmmsg(
            fd,
            &mut self.headers_out,
            slices,
            self.addresses.get(..count).unwrap_or_default(),
            [],
            MsgFlags::MSG_DONTWAIT,
        )?
        .count();
        self.health.sent += sent as u64;
        let octets: usize = range.take(sent).map(|index| frames.frame(index).len()).sum();
        self.health.sent_bytes += octets as u64;
        Ok(sent)
    }

    /// Waits a moment for room in the send queue; whether there is some.
    fn wait_for_room(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::from(QUEUE_PATIENCE_MS)).is_ok_and(|ready| ready > 0)
    }

    fn note(&mut self, errno: Errno, lost: u64) {
        self.health.last_errno = Some(errno as i32);
        if matches!(errno, Errno::EAGAIN | Errno::ENOBUFS) {
            self.health.queue_full += lost;
        } else {
            self.health.send_errors += lost;
        }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Transport for Udp {
    fn name(&self) -> &'static str {
        "udp"
    }

    fn send(&mut self, frames: &Frames, range: Range<usize>) {
        let mut next = range.start;
        while next < range.end {
            match self.send_some(frames, next..range.end) {
                Ok(0) => break,
                Ok(sent) => next += sent,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.wait_for_room() => {}
                Err(errno @ (Errno::EAGAIN | Errno::ENOBUFS)) => {
                    // All that is left: the queue that just stayed full will not take the next one either.
                    self.note(errno, (range.end - next) as u64);
                    break;
                }
                Err(errno) => {
                    // The error belongs to the first datagram; the others get their own chance.
                    self.note(errno, 1);
                    next += 1;
                }
            }
        }
    }

    fn send_one(&mut self, payload: &[u8]) {
        let fd = self.socket.as_raw_fd();
        for _ in 0..2 {
            match nix::sys::socket::sendto(fd, payload, &self.gateway, MsgFlags::MSG_DONTWAIT) {
                Ok(octets) => {
                    self.health.sent += 1;
                    self.health.sent_bytes += octets as u64;
                    return;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.wait_for_room() => {}
                Err(errno) => return self.note(errno, 1),
            }
        }
    }

    fn receive(&mut self, frames: &mut Frames, sources: &mut [Endpoint]) -> io::Result<usize> {
        let mut lengths = [(0, Endpoint::default(), false); BATCH];
        let mut count = 0;
        {
            let mut buffers = frames.buffers().iter_mut();
            let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
                [IoSliceMut::new(buffers.next().map_or(&mut [], |b| b.as_mut_slice()))]
            });
            let fd = self.socket.as_raw_fd();
            let received =
                match recvmmsg(fd, &mut self.headers_in, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                    Ok(received) => received,
                    Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
                    Err(errno) => return Err(errno.into()),
                };
            for (message, slot) in received.zip(&mut lengths) {
                let from = message.address.as_ref().and_then(endpoint).unwrap_or_default();
                let cut = message.flags.contains(MsgFlags::MSG_TRUNC) || message.bytes > FRAME_LEN;
                *slot = (message.bytes, from, cut);
                count += 1;
            }
        }
        for (index, (bytes, from, cut)) in lengths.iter().take(count).enumerate() {
            self.health.received += 1;
            self.health.received_bytes += *bytes as u64;
            self.health.truncated += u64::from(*cut);
            frames.set_len(index, if *cut { 0 } else { *bytes });
            if let Some(source) = sources.get_mut(index) {
                *source = *from;
            }
        }
        Ok(count)
    }

    fn health(&self) -> TransportHealth {
        self.health
    }
}

/// Sizes beyond `net.core.{r,w}mem_max`, where the capability for it is there.
fn force_buffers(socket: &Socket) {
    use nix::sys::socket::{setsockopt, sockopt};
    let forced = setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER)
        .and_then(|()| setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER));
    if let Err(error) = forced {
        tracing::debug!(%error, "socket buffers are bounded by net.core.rmem_max and wmem_max");
    }
}

fn endpoint(addr: &SockaddrStorage) -> Option<Endpoint> {
    let v4 = addr.as_sockaddr_in().map(|v4: &SockaddrIn| SocketAddr::from((v4.ip(), v4.port())));
    let v6 = addr.as_sockaddr_in6().map(|v6: &SockaddrIn6| SocketAddr::from((v6.ip(), v6.port())));
    debug_assert!(addr.family().is_some(), "a received datagram has a source");
    v4.or(v6).map(Endpoint::from)
}
