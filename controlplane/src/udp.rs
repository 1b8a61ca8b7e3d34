//! Datagrams in and out of the gateway's UDP socket, each with the gateway's own address that it came to or leaves from.
//!
//! The socket is one for both families (RFC 3493 §3.7: IPv4 as IPv4-mapped addresses), or an IPv4 one on a host without
//! IPv6.

use jvpn_abi::Endpoint;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike,
    SockaddrStorage, getsockname, recvmsg, sendmsg,
};
use nix::{cmsg_space, libc};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
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
    let mut space = cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let received = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
        Ok(received) => received,
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
        Err(nix::Error::ECONNREFUSED | nix::Error::EHOSTUNREACH | nix::Error::ENETUNREACH) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let Some(remote) = received.address.as_ref().and_then(endpoint) else { return Ok(None) };
    let mut to = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
            to = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).to_ipv6_mapped());
        } else if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
            to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
        }
    }
    let own = getsockname::<SockaddrStorage>(socket.as_raw_fd())?;
    let (Some(to), Some(own)) = (to, endpoint(&own)) else { return Ok(None) };
    let local = Endpoint { addr: to.octets(), port: own.port };
    Ok(Some(Received { len: received.bytes, remote, local }))
}

/// Sends a datagram from one of the gateway's addresses.
///
/// # Errors
/// If the kernel refuses it.
pub fn send(socket: BorrowedFd<'_>, remote: Endpoint, local: Endpoint, payload: &[u8]) -> io::Result<()> {
    let own = getsockname::<SockaddrStorage>(socket.as_raw_fd())?;
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let payload = [IoSlice::new(payload)];
    let fd = socket.as_raw_fd();
    if own.family() == Some(AddressFamily::Inet) {
        let no_v6 = || io::Error::new(io::ErrorKind::Unsupported, "this host has no IPv6");
        let to = SocketAddr::new(remote.ip(), remote.port);
        let (SocketAddr::V4(to), Some(from)) = (to, local.v4_octets()) else { return Err(no_v6()) };
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        sendmsg(fd, &payload, &control, flags, Some(&SockaddrIn::from(to)))?;
        return Ok(());
    }
    // IPv4 leaves this socket under mapped addresses, its source too.
    let to = SocketAddrV6::new(Ipv6Addr::from(remote.addr), remote.port, 0, 0);
    let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: local.addr }, ipi6_ifindex: 0 };
    let control = [ControlMessage::Ipv6PacketInfo(&info)];
    sendmsg(fd, &payload, &control, flags, Some(&SockaddrIn6::from(to)))?;
    Ok(())
}

fn endpoint(address: &SockaddrStorage) -> Option<Endpoint> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    let v6 = address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())));
    v4.or(v6).map(Endpoint::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{setsockopt, sockopt};
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    /// A question from `client` is answered from the address that it came to, in this form.
    fn there_and_back(server: &UdpSocket, client_at: &str, to: &str) {
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind(client_at).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect((to, port)).unwrap();
        client.send(b"question").unwrap();
        let mut buffer = [0; 64];
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        server.peek(&mut buffer).unwrap();
        let got = receive(server.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!(got.local.ip().to_string(), to);
        assert_eq!((got.len, got.local.port), (8, port));
        assert_eq!(got.remote.socket_addr(), client.local_addr().unwrap());
        send(server.as_fd(), got.remote, got.local, b"answer").unwrap();
        assert_eq!(
            client.recv(&mut buffer).unwrap(),
            6,
            "a connected socket hears only the address it asked"
        );
    }

    #[test]
    fn one_socket_speaks_both_families() {
        let Ok(server) = UdpSocket::bind("[::]:0") else {
            jvpn_testing::left_out("no IPv6 here");
            return;
        };
        setsockopt(&server, sockopt::Ipv6RecvPacketInfo, &true).unwrap();
        there_and_back(&server, "127.0.0.1:0", "127.0.0.2");
        there_and_back(&server, "[::1]:0", "::1");
    }

    #[test]
    fn a_host_without_ipv6_is_served() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&server, sockopt::Ipv4PacketInfo, &true).unwrap();
        there_and_back(&server, "127.0.0.1:0", "127.0.0.3");
        let v6 = Endpoint { addr: Ipv6Addr::LOCALHOST.octets(), port: 9 };
        assert!(send(server.as_fd(), v6, v6, b"x").is_err());
    }
}
