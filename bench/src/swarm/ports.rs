//! The sockets of a swarm: a few on each uplink, shared by all members. A datagram leaves from the address of the member
//! that sends it, and is handed to the member that it is addressed to; so 65,000 members need no 130,000 descriptors.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use jvpn_abi::Endpoint;
use jvpn_controlplane::udp::{self, Received};
use jvpn_rig::Uplink;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Ports of an uplink, which members take one after the other when their NAT rebinds.
pub(super) const PORTS: usize = 16;
/// Octets of a socket's buffers: of all members together, when all are answered at once.
const BUFFER: usize = 64 << 20;

/// The sockets of both uplinks.
#[derive(Debug)]
pub(super) struct Ports([Vec<(UdpSocket, u16)>; 2]);

impl Ports {
    /// Opens them in the namespace of the caller.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn open() -> io::Result<Self> {
        let all = |uplink| (0..PORTS).map(|_| open(uplink)).collect::<io::Result<Vec<_>>>();
        Ok(Self([all(Uplink::A)?, all(Uplink::B)?]))
    }

    fn get(&self, uplink: Uplink, port: usize) -> io::Result<&(UdpSocket, u16)> {
        self.0[uplink as usize].get(port % PORTS).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// For `epoll`.
    pub(super) fn fd(&self, uplink: Uplink, port: usize) -> io::Result<BorrowedFd<'_>> {
        self.get(uplink, port).map(|(socket, _)| socket.as_fd())
    }

    /// Sends from a member's address.
    pub(super) fn send(
        &self,
        uplink: Uplink,
        port: usize,
        source: Ipv4Addr,
        to: Endpoint,
        datagram: &[u8],
    ) -> io::Result<()> {
        let (socket, number) = self.get(uplink, port)?;
        udp::send(socket.as_fd(), to, Endpoint::from((source, *number)), datagram)
    }

    /// The next datagram, if one waits; an ICMP error of an earlier one is skipped: a hint, never a proof.
    pub(super) fn receive(
        &self,
        uplink: Uplink,
        port: usize,
        buffer: &mut [u8],
    ) -> io::Result<Option<Received>> {
        udp::receive(self.fd(uplink, port)?, buffer)
    }
}

/// A socket on an uplink, any port, all of the swarm's addresses.
fn open(uplink: Uplink) -> io::Result<(UdpSocket, u16)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.bind_device(Some(uplink.client_interface().as_bytes()))?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&socket, sockopt::SndBufForce, &BUFFER)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    let socket = UdpSocket::from(socket);
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}
