//! The WAN without AF_XDP: a UDP socket beside the control plane's, on the same port. The kernel gives it DATA and the
//! other one the rest (`SO_REUSEPORT` with a program that looks at the first octet, see [`crate::udp`]).

use super::message::{self, Received, Way};
use super::plain::End;
use crate::frame::{Ecn, Family, Mac, OUTER_V4_LEN, OUTER_V6_LEN, OuterTemplate};
use jvpn_abi::Endpoint;
use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, UDP_LEN};
use jvpn_abi::wire::{be16, octets};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
        // The headers that the kernel took off are put back in front; which family's they are is known afterwards.
        let (head, room) = buffer.split_at_mut_checked(OUTER_V6_LEN).unwrap_or_default();
        let Some(Received { len, is_cut, remote, local, mark }) = message::receive(&self.socket, room)?
        else {
            return Ok(None);
        };
        let (Some(remote), Some(to), false) = (remote, local, is_cut) else {
            // Not whole, or from nowhere: an empty frame, which the pipeline counts.
            return Ok(Some(0..0));
        };
        let local = Endpoint { addr: to, port: self.port };
        // The frame as it was on the wire: from the client to us.
        let Some(template) = OuterTemplate::new(Mac::default(), remote, local) else { return Ok(Some(0..0)) };
        let start = OUTER_V6_LEN - template.header_len();
        let written = head.get_mut(start..).and_then(|head| template.write(head, Mac::default(), len, mark));
        Ok(Some(if written.is_some() { start..OUTER_V6_LEN + len } else { 0..0 }))
    }

    fn give(&mut self, frame: &[u8]) -> io::Result<()> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidInput);
        let sent = Outgoing::parse(frame).ok_or_else(malformed)?;
        let way = match (self.family, sent.remote.v4_octets()) {
            (Family::V4, _) => Way::V4,
            (Family::V6, Some(_)) => Way::Mapped,
            (Family::V6, None) => Way::V6,
        };
        message::send(&self.socket, way, (sent.local, sent.remote), sent.ecn, sent.payload)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::outer_ecn;
    use jvpn_abi::steer::{WanClass, classify_wan};
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
    use std::io::IoSliceMut;
    use std::net::SocketAddr;
    use std::os::fd::AsRawFd;

    const DENIED: &str = "SO_BINDTODEVICE needs CAP_NET_RAW here";

    /// The mark of the next datagram that a client receives.
    fn mark_received(client: &std::net::UdpSocket) -> Ecn {
        let (mut buffer, mut space) = ([0; 64], nix::cmsg_space!(i32));
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<()>(client.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
        let mark = got.cmsgs().unwrap().find_map(|message| {
            if let ControlMessageOwned::Ipv4Tos(tos) = message {
                Some(Ecn::from_bits(tos))
            } else if let ControlMessageOwned::Ipv6TClass(class) = message {
                Some(Ecn::from_bits(class as u8))
            } else {
                None
            }
        });
        mark.expect("a mark was asked for")
    }

    /// R9.1: congestion marks go through the socket in both directions and both families.
    #[test]
    fn r9_1_marks_go_through() {
        let opened = crate::udp::open_for_data(&["lo"], 0);
        let Some(opened) = jvpn_testing::unless_denied(opened, DENIED) else { return };
        let port = crate::udp::port_of(&opened.socket).unwrap();
        let mut end = UdpEnd::new(opened.socket, opened.family, port);
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(client) = std::net::UdpSocket::bind(at) else {
                jvpn_testing::left_out_in_part("no IPv6 here");
                continue;
            };
            let own = client.local_addr().unwrap();
            let there = SocketAddr::new(own.ip(), port);
            client.connect(there).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let back = OuterTemplate::new(Mac::default(), there.into(), own.into()).unwrap();
            if own.is_ipv4() {
                setsockopt(&client, sockopt::IpRecvTos, &true).unwrap();
            } else {
                setsockopt(&client, sockopt::Ipv6RecvTClass, &true).unwrap();
            }
            for mark in (0..4).map(Ecn::from_bits) {
                let bits = i32::from(mark.bits());
                if own.is_ipv4() {
                    setsockopt(&client, sockopt::Ipv4Tos, &bits).unwrap();
                } else {
                    setsockopt(&client, sockopt::Ipv6TClass, &bits).unwrap();
                }
                client.send(&[0x10; 40]).unwrap();
                let mut buffer = [0; 2_048];
                let frame = loop {
                    if let Some(frame) = end.take(&mut buffer).unwrap() {
                        break frame;
                    }
                };
                assert_eq!(outer_ecn(&buffer[frame]), mark, "{at}: in");
                let mut frame = vec![0; back.header_len()];
                back.write(&mut frame, Mac::default(), 5, mark).unwrap();
                frame.extend(b"reply");
                end.give(&frame).unwrap();
                assert_eq!(mark_received(&client), mark, "{at}: out");
            }
        }
    }

    /// What a socket receives becomes the frame that was on the wire, and a frame leaves as its datagram; in both
    /// families over one socket.
    #[test]
    fn datagrams_become_frames_and_frames_datagrams() {
        let opened = crate::udp::open_for_data(&["lo"], 0);
        let Some(opened) = jvpn_testing::unless_denied(opened, DENIED) else { return };
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let socket = opened.socket.try_clone().unwrap();
            let port = crate::udp::port_of(&socket).unwrap();
            let mut end = UdpEnd::new(socket, opened.family, port);
            let Ok(client) = std::net::UdpSocket::bind(at) else {
                jvpn_testing::left_out_in_part("no IPv6 here");
                continue;
            };
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
