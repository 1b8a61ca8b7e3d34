//! Datagrams in and out of the gateway's UDP socket, each with the gateway's own address that it came to or leaves from.

use jvpn_abi::Endpoint;
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, getsockname, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Largest datagram that is looked at: what a link of 1,500 octets carries, and a little more. Longer ones are cut by
/// the kernel and then refused by their framing.
pub const MAX_DATAGRAM: usize = 2_048;

/// A received datagram: how long, from where, to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Octets in the buffer.
    pub len: usize,
    /// The sender.
    pub remote: Endpoint,
    /// Which of the gateway's addresses it came to.
    pub local: Endpoint,
}

/// Takes the next datagram, if one waits.
///
/// # Errors
/// If the socket is broken; `WouldBlock` is `None`. An ICMP error that a peer caused is skipped.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let mut space = cmsg_space!(nix::libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let received = match recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
        Ok(received) => received,
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
        Err(nix::Error::ECONNREFUSED | nix::Error::EHOSTUNREACH | nix::Error::ENETUNREACH) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let Some(remote) = received.address else { return Ok(None) };
    let mut to = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
            to = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)));
        }
    }
    let Some(to) = to else { return Ok(None) };
    let port = getsockname::<SockaddrIn>(socket.as_raw_fd())?.port();
    let remote = SocketAddrV4::new(remote.ip(), remote.port());
    Ok(Some(Received {
        len: received.bytes,
        remote: Endpoint::from(std::net::SocketAddr::V4(remote)),
        local: Endpoint::from((to, port)),
    }))
}

/// Sends a datagram from one of the gateway's addresses.
///
/// # Errors
/// If the kernel refuses it.
pub fn send(socket: BorrowedFd<'_>, remote: Endpoint, local: Endpoint, payload: &[u8]) -> io::Result<()> {
    let not_v4 = || io::Error::new(io::ErrorKind::Unsupported, "only IPv4 paths are served");
    let remote = SocketAddrV4::new(Ipv4Addr::from(remote.v4_octets().ok_or_else(not_v4)?), remote.port);
    let local = Ipv4Addr::from(local.v4_octets().ok_or_else(not_v4)?);
    let info = nix::libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: nix::libc::in_addr { s_addr: u32::from(local).to_be() },
        ipi_addr: nix::libc::in_addr { s_addr: 0 },
    };
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    let to = SockaddrIn::from(remote);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(payload)], &control, flags, Some(&to))
        .map(drop)
        .map_err(Into::into)
}
