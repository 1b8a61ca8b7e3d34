//! UDP: one socket per uplink, bound to its device, not connected (its source address follows the device's).

use super::pieces::{Piece, next_piece};
use super::{Transport, TransportHealth};
use crate::io::frames::{Arrival, BATCH, FRAME_LEN, Frames, Inbox, LARGE, LARGE_SLOTS, SMALL_SLOTS};
use jvpn_abi::{Ecn, Endpoint};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike,
    SockaddrStorage, recvmmsg, sendmmsg, sendmsg, setsockopt, sockopt,
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
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
    is_v4: bool,
    /// The gateway once per datagram of a batch, as `sendmmsg` takes it.
    addresses: Box<[Option<SockaddrStorage>; BATCH]>,
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
    /// They are never cut into fragments, neither here nor on the way: one that the device does not carry is refused
    /// (EMSGSIZE), counted as a send error, and the socket goes on.
    ///
    /// With `offload` several datagrams cross the host's stack as one, as far as the kernel has that.
    ///
    /// # Errors
    /// If the device does not exist, or without CAP_NET_RAW (kernels before 5.7) or CAP_NET_ADMIN.
    pub fn open(device: &str, mark: u32, offload: bool, gateway: Endpoint) -> io::Result<Self> {
        let gateway = gateway.socket_addr();
        let (domain, any) = match gateway {
            SocketAddr::V4(_) => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        socket.bind_device(Some(device.as_bytes()))?;
        socket.set_mark(mark)?;
        forbid_fragments(&socket, gateway)?;
        // What the path says about congestion comes with each datagram (ip(7), ipv6(7)).
        match gateway {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::IpRecvTos, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?,
        }
        // Forced sizes need CAP_NET_ADMIN and are not bounded by sysctl; without it the ordinary ones do.
        if socket.set_recv_buffer_size(SOCKET_BUFFER).is_err()
            || socket.set_send_buffer_size(SOCKET_BUFFER).is_err()
        {
            tracing::debug!(device, "socket buffers stay at the system's default");
        }
        force_buffers(&socket);
        socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
        // Asked by a size that changes nothing: 0 is none.
        let gso = offload && setsockopt(&socket, sockopt::UdpGsoSegment, &0).is_ok();
        let gro = offload && setsockopt(&socket, sockopt::UdpGroSegment, &true).is_ok();
        let health = TransportHealth { gso, gro, ..TransportHealth::default() };
        Ok(Self {
            socket,
            gateway: SockaddrStorage::from(gateway),
            is_v4: gateway.is_ipv4(),
            addresses: Box::new([Some(SockaddrStorage::from(gateway)); BATCH]),
            headers_out: MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(i32))),
            health,
        })
    }

    /// Sends frames of one congestion mark until the queue is full; how many the host took.
    fn send_some(&mut self, frames: &Frames, range: Range<usize>) -> Result<usize, Errno> {
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|at| [IoSlice::new(frames.frame(range.start + at))]);
        let count = range.len().min(BATCH);
        let slices = slices.get(..count).unwrap_or_default();
        let fd = self.socket.as_raw_fd();
        let mark = Mark::new(frames.mark(range.start));
        let sent = sendmmsg(
            fd,
            &mut self.headers_out,
            slices,
            self.addresses.get(..count).unwrap_or_default(),
            [mark.message(self.is_v4)],
            MsgFlags::MSG_DONTWAIT,
        )?
        .count();
        self.health.sent += sent as u64;
        let octets: usize = range.take(sent).map(|index| frames.frame(index).len()).sum();
        self.health.sent_bytes += octets as u64;
        Ok(sent)
    }

    /// Sends frames of one length (the last may be shorter) and one mark as one datagram that the kernel cuts.
    fn send_large(&mut self, frames: &Frames, range: Range<usize>) -> Result<(), Errno> {
        let mut slices = [IoSlice::new(&[]); BATCH];
        let mut octets = 0;
        for (slice, index) in slices.iter_mut().zip(range.clone()) {
            *slice = IoSlice::new(frames.frame(index));
            octets += slice.len();
        }
        let size = u16::try_from(frames.frame(range.start).len()).unwrap_or(u16::MAX);
        let mark = Mark::new(frames.mark(range.start));
        let cut = [ControlMessage::UdpGsoSegments(&size), mark.message(self.is_v4)];
        let slices = slices.get(..range.len()).unwrap_or_default();
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        sendmsg(fd, slices, &cut, flags, Some(&self.gateway))?;
        self.health.sent += range.len() as u64;
        self.health.sent_bytes += octets as u64;
        self.health.large_sent += 1;
        Ok(())
    }

    /// Sends frames one by one.
    fn send_each(&mut self, frames: &Frames, range: Range<usize>) {
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

    /// Receives datagrams that the kernel may have joined, several slots by one call.
    fn receive_large(&mut self, inbox: &mut Inbox) -> io::Result<bool> {
        let mut arrivals = [Arrival::default(); LARGE_SLOTS];
        let mut count = 0;
        {
            // New for each call: `recvmmsg` shortens the room for control messages to what came, and nix does not undo that.
            let mut headers = MultiHeaders::preallocate(LARGE_SLOTS, Some(nix::cmsg_space!(i32, i32)));
            let mut buffers = inbox.slots(LARGE);
            let mut slices: [[IoSliceMut<'_>; 1]; LARGE_SLOTS] =
                std::array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
            let fd = self.socket.as_raw_fd();
            let received = match recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            };
            for (message, arrival) in received.zip(&mut arrivals) {
                *arrival = self::arrival(&message);
                count += 1;
            }
        }
        for arrival in arrivals.iter().take(count) {
            let datagrams = arrival.len.div_ceil(arrival.stride.max(1));
            self.health.received += datagrams as u64;
            self.health.received_bytes += arrival.len as u64;
            self.health.large_received += u64::from(datagrams > 1);
            inbox.arrived(*arrival);
        }
        Ok(count == LARGE_SLOTS)
    }

    /// Receives single datagrams, many by one call.
    fn receive_single(&mut self, inbox: &mut Inbox) -> io::Result<bool> {
        let mut arrivals = [(Arrival::default(), false); SMALL_SLOTS];
        let mut count = 0;
        {
            // New for each call, as above.
            let mut headers = MultiHeaders::preallocate(SMALL_SLOTS, Some(nix::cmsg_space!(i32)));
            let mut buffers = inbox.slots(FRAME_LEN);
            let mut slices: [[IoSliceMut<'_>; 1]; SMALL_SLOTS] =
                std::array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
            let fd = self.socket.as_raw_fd();
            let received = match recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            };
            for (message, slot) in received.zip(&mut arrivals) {
                let cut = message.flags.contains(MsgFlags::MSG_TRUNC) || message.bytes > FRAME_LEN;
                *slot = (Arrival { len: message.bytes, ..arrival(&message) }, cut);
                count += 1;
            }
        }
        for (arrival, cut) in arrivals.iter().take(count) {
            self.health.received += 1;
            self.health.received_bytes += arrival.len as u64;
            self.health.truncated += u64::from(*cut);
            inbox.arrived(Arrival { len: if *cut { 0 } else { arrival.len }, ..*arrival });
        }
        Ok(count == SMALL_SLOTS)
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
        let mut rest = range;
        while let Some(piece) = next_piece(
            |index| frames.frame(index).len(),
            |index| frames.mark(index),
            rest.clone(),
            self.health.gso,
        ) {
            match piece {
                Piece::Single(range) => {
                    rest.start = range.end;
                    self.send_each(frames, range);
                }
                Piece::Large(range) => {
                    rest.start = range.end;
                    let mut sent = self.send_large(frames, range.clone());
                    if sent == Err(Errno::EINTR) || sent == Err(Errno::EAGAIN) && self.wait_for_room() {
                        sent = self.send_large(frames, range.clone());
                    }
                    match sent {
                        Ok(()) => {}
                        Err(errno @ (Errno::EAGAIN | Errno::ENOBUFS)) => self.note(errno, range.len() as u64),
                        Err(errno) => {
                            // Not on this device, or not of this size. One by one each gets its own answer.
                            if matches!(errno, Errno::EIO | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT) {
                                tracing::info!(%errno, "this uplink takes no large datagrams; they go one by one");
                                self.health.gso = false;
                            }
                            self.send_each(frames, range);
                        }
                    }
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

    fn receive(&mut self, inbox: &mut Inbox) -> io::Result<bool> {
        if self.health.gro { self.receive_large(inbox) } else { self.receive_single(inbox) }
    }

    fn health(&self) -> TransportHealth {
        self.health
    }
}

/// DF on every datagram, whatever path MTU the kernel believes in: that comes from ICMP, which anybody may forge, and the
/// search for the inner MTU finds what the path carries (RFC 8899 §4.6).
fn forbid_fragments(socket: &Socket, gateway: SocketAddr) -> io::Result<()> {
    match gateway {
        SocketAddr::V4(_) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?,
        SocketAddr::V6(_) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?,
    }
    Ok(())
}

/// Sizes beyond `net.core.{r,w}mem_max`, where the capability for it is there.
fn force_buffers(socket: &Socket) {
    let forced = setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER)
        .and_then(|()| setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER));
    if let Err(error) = forced {
        tracing::debug!(%error, "socket buffers are bounded by net.core.rmem_max and wmem_max");
    }
}

/// A congestion mark as control messages carry it.
struct Mark {
    tos: u8,
    class: i32,
}

impl Mark {
    const fn new(mark: Ecn) -> Self {
        Self { tos: mark.bits(), class: mark.bits() as i32 }
    }

    const fn message(&self, is_v4: bool) -> ControlMessage<'_> {
        if is_v4 { ControlMessage::Ipv4Tos(&self.tos) } else { ControlMessage::Ipv6TClass(&self.class) }
    }
}

/// What one message brought: one datagram, or several of the length that the kernel says. It joins only those whose marks
/// are the same (Linux 6.10; `docs/decisions/0044-client-edges-and-plain-sockets.md`).
fn arrival(message: &nix::sys::socket::RecvMsg<'_, '_, SockaddrStorage>) -> Arrival {
    let from = message.address.as_ref().and_then(endpoint).unwrap_or_default();
    let (mut stride, mut mark) = (None, Ecn::NOT_ECT);
    for control in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::UdpGroSegments(size) = control {
            stride = usize::try_from(size).ok().filter(|size| *size > 0);
        } else if let ControlMessageOwned::Ipv4Tos(tos) = control {
            mark = Ecn::from_bits(tos);
        } else if let ControlMessageOwned::Ipv6TClass(class) = control {
            mark = Ecn::from_bits(class as u8);
        }
    }
    let len = if message.flags.contains(MsgFlags::MSG_TRUNC) { 0 } else { message.bytes };
    Arrival { len, stride: stride.unwrap_or(len), from, mark }
}

fn endpoint(addr: &SockaddrStorage) -> Option<Endpoint> {
    let v4 = addr.as_sockaddr_in().map(|v4: &SockaddrIn| SocketAddr::from((v4.ip(), v4.port())));
    let v6 = addr.as_sockaddr_in6().map(|v6: &SockaddrIn6| SocketAddr::from((v6.ip(), v6.port())));
    debug_assert!(addr.family().is_some(), "a received datagram has a source");
    v4.or(v6).map(Endpoint::from)
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
