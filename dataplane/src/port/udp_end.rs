//! The WAN without AF_XDP: a UDP socket beside the control plane's, on the same port. The kernel gives it DATA and the
//! other one the rest (`SO_REUSEPORT` with a program that looks at the first octet, see [`crate::udp`]).

use super::plain::End;
use crate::frame::{Ecn, Family, Mac, OUTER_V4_LEN, OUTER_V6_LEN, OuterTemplate};
use jvpn_abi::Endpoint;
use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, UDP_LEN};
use jvpn_abi::wire::{be16, octets};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A worker's socket.
#[derive(Debug)]
pub struct UdpEnd {
    socket: OwnedFd,
    port: u16,
    /// Whether the socket speaks IPv6, and IPv4 in mapped form; else IPv4 alone.
    family: Family,
}

impl UdpEnd {
    /// A socket that [`crate::udp`] opened on `port`.
    #[must_use]
    pub const fn new(socket: OwnedFd, family: Family, port: u16) -> Self {
        Self { socket, port, family }
    }
}

impl End for UdpEnd {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
        let mut space = cmsg_space!(libc::in6_pktinfo, libc::c_int);
        // The headers that the kernel took off are put back in front; which family's they are is known afterwards.
        let (head, room) = buffer.split_at_mut_checked(OUTER_V6_LEN).unwrap_or_default();
        let mut parts = [IoSliceMut::new(room)];
        let received = match recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(received) => received,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (mut to, mut ecn) = (None, Ecn::NOT_ECT);
        for message in received.cmsgs()? {
            if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
                to = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).to_ipv6_mapped());
            } else if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
                to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
            } else if let ControlMessageOwned::Ipv4Tos(tos) = message {
                ecn = Ecn::from_bits(tos);
            } else if let ControlMessageOwned::Ipv6TClass(class) = message {
                ecn = Ecn::from_bits(class as u8);
            }
        }
        let len = received.bytes;
        let cut = received.flags.contains(MsgFlags::MSG_TRUNC);
        let (Some(remote), Some(to), false) = (received.address.as_ref().and_then(endpoint), to, cut) else {
            // Not whole, or from nowhere: an empty frame, which the pipeline counts.
            return Ok(Some(0..0));
        };
        let local = Endpoint { addr: to.octets(), port: self.port };
        // The frame as it was on the wire: from the client to us.
        let Some(template) = OuterTemplate::new(Mac::default(), remote, local) else { return Ok(Some(0..0)) };
        let start = OUTER_V6_LEN - template.header_len();
        let written = head.get_mut(start..).and_then(|head| template.write(head, Mac::default(), len, ecn));
        Ok(Some(if written.is_some() { start..OUTER_V6_LEN + len } else { 0..0 }))
    }

    fn give(&mut self, frame: &[u8]) -> io::Result<()> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "no frame of ours");
        let sent = Outgoing::parse(frame).ok_or_else(malformed)?;
        let payload = [IoSlice::new(sent.payload)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let fd = self.socket.as_raw_fd();
        let (tos, class) = (sent.ecn.bits(), i32::from(sent.ecn.bits()));
        let v4 = (sent.local.v4_octets(), sent.remote.v4_octets());
        if let (Family::V4, (Some(from), Some(to))) = (self.family, v4) {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info), ControlMessage::Ipv4Tos(&tos)];
            let to = SockaddrIn::from(std::net::SocketAddrV4::new(to.into(), sent.remote.port));
            sendmsg(fd, &payload, &control, flags, Some(&to))?;
            return Ok(());
        }
        let addr = libc::in6_addr { s6_addr: sent.local.addr };
        let info = libc::in6_pktinfo { ipi6_addr: addr, ipi6_ifindex: 0 };
        let to = SockaddrIn6::from(SocketAddrV6::new(sent.remote.addr.into(), sent.remote.port, 0, 0));
        // The kernel takes the mark of a mapped destination from the traffic class, too.
        let control = [ControlMessage::Ipv6PacketInfo(&info), ControlMessage::Ipv6TClass(&class)];
        sendmsg(fd, &payload, &control, flags, Some(&to))?;
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A frame that the pipeline built, taken apart for a socket.
struct Outgoing<'a> {
    local: Endpoint,
    remote: Endpoint,
    ecn: Ecn,
    payload: &'a [u8],
}

impl<'a> Outgoing<'a> {
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let ip = ETHERNET_LEN;
        let is_v6 = frame.get(12..14)? == ETHERTYPE_IPV6;
        let (local, remote, udp, head) = if is_v6 {
            (octets::<16>(frame, ip + 8)?, octets::<16>(frame, ip + 24)?, ip + IPV6_LEN, OUTER_V6_LEN)
        } else {
            let mapped = |at| octets::<4>(frame, at).map(|v4| Endpoint::v4(v4, 0).addr);
            (mapped(ip + 12)?, mapped(ip + 16)?, ip + IPV4_LEN, OUTER_V4_LEN)
        };
        debug_assert_eq!(udp + UDP_LEN, head);
        Some(Self {
            local: Endpoint { addr: local, port: be16(frame, udp)? },
            remote: Endpoint { addr: remote, port: be16(frame, udp + 2)? },
            ecn: crate::frame::outer_ecn(frame),
            payload: frame.get(head..)?,
        })
    }
}

fn endpoint(address: &SockaddrStorage) -> Option<Endpoint> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    let v6 = address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())));
    v4.or(v6).map(Endpoint::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::outer_ecn;
    use jvpn_abi::steer::{WanClass, classify_wan};

    /// What a socket receives becomes the frame that was on the wire, and a frame leaves as its datagram; in both
    /// families over one socket.
    #[test]
    fn datagrams_become_frames_and_frames_datagrams() {
        let Ok(opened) = crate::udp::open_for_data(&["lo"], 0) else {
            eprintln!("left out: SO_BINDTODEVICE needs CAP_NET_RAW here");
            return;
        };
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let socket = opened.socket.try_clone().unwrap();
            let port = crate::udp::port_of(&socket).unwrap();
            let mut end = UdpEnd::new(socket, opened.family, port);
            let Ok(client) = std::net::UdpSocket::bind(at) else { continue };
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let there = SocketAddr::new(client.local_addr().unwrap().ip(), port);
            client.connect(there).unwrap();
            let data = [&[0x10, 0, 0, 0, 0, 0, 0, 9][..], &[7; 40]].concat();
            client.send(&data).unwrap();
            let mut buffer = [0; 2_048];
            let frame = loop {
                if let Some(frame) = end.take(&mut buffer).unwrap() {
                    break frame;
                }
            };
            let frame = &buffer[frame];
            let WanClass::Data(found) = classify_wan(frame, port) else { panic!("{frame:?}") };
            assert_eq!(found.remote.socket_addr(), client.local_addr().unwrap());
            assert_eq!(found.local.socket_addr(), there);
            assert_eq!(frame[found.payload_at..], data);
            assert_eq!(outer_ecn(frame), Ecn::NOT_ECT);

            let back = OuterTemplate::new(Mac::default(), found.local, found.remote).unwrap();
            let mut frame = vec![0; back.header_len()];
            back.write(&mut frame, Mac::default(), 5, Ecn::CE).unwrap();
            frame.extend(b"reply");
            end.give(&frame).unwrap();
            let mut buffer = [0; 64];
            let len = client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..len], *b"reply");
        }
        let mut end = UdpEnd::new(opened.socket, opened.family, 1);
        assert!(end.give(&[0; 20]).is_err(), "what is no frame is refused");
    }
}
