//! The UDP socket on the gateway's port: opened here, handed to the control plane. A socket filter keeps stray DATA out
//! (XDP marks the samples that may pass), and while no control plane is there the open socket keeps the kernel from
//! answering with ICMP port-unreachable.

use jvpn_abi::wire::MsgType;
use nix::sys::socket::{SockaddrStorage, getsockname, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// Kernel buffers for bursts of handshakes, octets.
const BUFFER: usize = 4 << 20;

/// Opens the socket on `interface` and `port`: one for both families, or for IPv4 alone on a host without IPv6.
///
/// # Errors
/// If the port is taken or the system refuses.
pub fn open(interface: &str, port: u16) -> io::Result<OwnedFd> {
    match open_for(Domain::IPV6, interface, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            tracing::warn!("this host has no IPv6: only IPv4 paths are served");
            open_for(Domain::IPV4, interface, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        opened => opened,
    }
}

fn open_for(domain: Domain, interface: &str, address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    // Refused by a system limit is no reason to stop: the buffers are then as large as it allows.
    let _limited = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER));
    let _limited = setsockopt(&socket, sockopt::SndBufForce, &BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &BUFFER));
    socket.attach_filter(&refuse_data())?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether a socket that came from a control plane is the one on this port.
#[must_use]
pub fn is_on_port(fd: &OwnedFd, port: u16) -> bool {
    getsockname::<SockaddrStorage>(fd.as_raw_fd()).is_ok_and(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| v4.port());
        v4.or(address.as_sockaddr_in6().map(|v6| v6.port())) == Some(port)
    })
}

/// Classic BPF (linux/filter.h): drop what starts with the DATA octet behind the UDP header, accept the rest.
fn refuse_data() -> [SockFilter; 4] {
    let instruction =
        |code: u32, jump_true, jump_false, k| SockFilter::new(code as u16, jump_true, jump_false, k);
    [
        // A datagram without payload has no octet 8: the load fails and the filter drops it.
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 8),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(MsgType::Data.octet())),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// DATA never reaches the control plane's socket; its marked samples and control datagrams do.
    #[test]
    fn the_filter_drops_data_only() {
        let fd = match open("lo", 0) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("left out: SO_BINDTODEVICE needs CAP_NET_RAW here");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let receiver = UdpSocket::from(fd);
        receiver.set_nonblocking(false).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = receiver.local_addr().unwrap().port();
        assert!(is_on_port(&receiver.try_clone().unwrap().into(), port));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for octet in [0x10, 0x11, 0x24] {
            sender.send_to(&[octet; 40], ("127.0.0.1", port)).unwrap();
        }
        let mut first = [0; 64];
        let mut seen = Vec::new();
        for _ in 0..2 {
            let _len = receiver.recv(&mut first).unwrap();
            seen.push(first[0]);
        }
        assert_eq!(seen, [0x11, 0x24]);
    }
}
