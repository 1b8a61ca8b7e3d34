//! One datagram with its control messages, received and sent without allocating: all of it lies on the stack.

use jvpn_abi::{Ecn, Endpoint};
use std::io;
use std::os::fd::AsRawFd;

/// Octets for the control messages of one datagram: an address and a mark of either family, twice over.
const CONTROL_OCTETS: usize = 160;

// SAFETY: these compute lengths and read nothing.
const MARK_AND_ADDRESS: u32 =
    unsafe { libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32) + libc::CMSG_SPACE(4) };
const _: () = assert!(CONTROL_OCTETS >= 2 * MARK_AND_ADDRESS as usize);

#[repr(C, align(8))]
struct Control([u8; CONTROL_OCTETS]);

/// A datagram that lies in the buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Octets of it.
    pub(super) len: usize,
    /// Whether the buffer was too small for all of it.
    pub(super) is_cut: bool,
    /// Its sender.
    pub(super) remote: Option<Endpoint>,
    /// Which of our addresses it was sent to, IPv4-mapped.
    pub(super) local: Option<[u8; 16]>,
    /// The congestion mark that it came with.
    pub(super) mark: Ecn,
}

/// Which protocol a datagram leaves by, and what the socket wants to hear about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// IPv4 over a socket of IPv4.
    V4,
    /// IPv4 over a socket of both families: mapped addresses, but the mark of IPv4 (the kernel looks at nothing else).
    Mapped,
    /// IPv6.
    V6,
}

/// Takes the next datagram; `None` if none waits.
pub(super) fn receive(socket: &impl AsRawFd, room: &mut [u8]) -> io::Result<Option<Received>> {
    let mut control = Control([0; CONTROL_OCTETS]);
    // SAFETY: all of these are integers and pointers, for which zero is a value.
    let (mut from, mut header): (libc::sockaddr_storage, libc::msghdr) = unsafe { std::mem::zeroed() };
    let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = size_of_val(&from) as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_OCTETS as _;
    // SAFETY: the header points at an address, a buffer and room for control messages that all live through the call.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let Ok(len) = usize::try_from(got) else {
        let error = io::Error::last_os_error();
        let is_later = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        return if is_later { Ok(None) } else { Err(error) };
    };
    let mut received = Received {
        len,
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        remote: endpoint(&from),
        ..Received::default()
    };
    // SAFETY: the header is as the kernel left it, and `control` is still there.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !at.is_null() {
        // SAFETY: `at` points at a whole control message within `control`.
        unsafe { take(at, &mut received) };
        // SAFETY: as above.
        at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
    }
    Ok(Some(received))
}

/// Reads one control message.
///
/// # Safety
/// `at` points at a whole control message.
unsafe fn take(at: *const libc::cmsghdr, received: &mut Received) {
    // SAFETY: the caller's promise.
    let (head, data) = unsafe { (&*at, libc::CMSG_DATA(at)) };
    // SAFETY: this computes a length and reads nothing.
    let octets = head.cmsg_len.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
    match (head.cmsg_level, head.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if octets >= size_of::<libc::in_pktinfo>() => {
            // SAFETY: so many octets are there, and any octets are a value.
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            received.local = Some(Endpoint::v4(info.ipi_addr.s_addr.to_ne_bytes(), 0).addr);
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if octets >= size_of::<libc::in6_pktinfo>() => {
            // SAFETY: as above.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            received.local = Some(info.ipi6_addr.s6_addr);
        }
        (libc::IPPROTO_IP, libc::IP_TOS) if octets >= 1 => {
            // SAFETY: as above.
            received.mark = Ecn::from_bits(unsafe { data.read() });
        }
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if octets >= size_of::<i32>() => {
            // SAFETY: as above.
            received.mark = Ecn::from_bits(unsafe { data.cast::<i32>().read_unaligned() } as u8);
        }
        _ => {}
    }
}

/// Sends a datagram from an address of ours. The socket's port is the sender's.
pub(super) fn send(
    socket: &impl AsRawFd,
    way: Way,
    (local, remote): (Endpoint, Endpoint),
    mark: Ecn,
    payload: &[u8],
) -> io::Result<()> {
    let mut control = Control([0; CONTROL_OCTETS]);
    // SAFETY: integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let (mut to_v4, mut to_v6) = (v4(remote), v6(remote));
    (header.msg_name, header.msg_namelen) = match way {
        Way::V4 => ((&raw mut to_v4).cast(), size_of_val(&to_v4) as libc::socklen_t),
        Way::Mapped | Way::V6 => ((&raw mut to_v6).cast(), size_of_val(&to_v6) as libc::socklen_t),
    };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_OCTETS as _;
    let mut messages = Messages { header: &mut header, at: std::ptr::null_mut(), octets: 0 };
    match way {
        Way::V4 => messages.put(
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: v4(local).sin_addr,
                ipi_addr: libc::in_addr { s_addr: 0 },
            },
        ),
        Way::Mapped | Way::V6 => messages.put(
            libc::IPPROTO_IPV6,
            libc::IPV6_PKTINFO,
            libc::in6_pktinfo { ipi6_addr: v6(local).sin6_addr, ipi6_ifindex: 0 },
        ),
    }
    match way {
        Way::V4 | Way::Mapped => messages.put(libc::IPPROTO_IP, libc::IP_TOS, i32::from(mark.bits())),
        Way::V6 => messages.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, i32::from(mark.bits())),
    }
    let octets = messages.octets;
    header.msg_controllen = octets as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header points at an address, a payload and control messages that all live through the call; it only reads.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Control messages as they are written one behind the other.
struct Messages<'h> {
    header: &'h mut libc::msghdr,
    at: *mut libc::cmsghdr,
    octets: usize,
}

impl Messages<'_> {
    fn put<T: Copy>(&mut self, level: i32, kind: i32, value: T) {
        // SAFETY: the header's room for control messages is zeroed, large enough for two of the largest (CONTROL_OCTETS) and
        // aligned; `at` is the last one written.
        unsafe {
            self.at = if self.at.is_null() {
                libc::CMSG_FIRSTHDR(self.header)
            } else {
                libc::CMSG_NXTHDR(self.header, self.at)
            };
            let len = size_of::<T>() as u32;
            (*self.at).cmsg_level = level;
            (*self.at).cmsg_type = kind;
            (*self.at).cmsg_len = libc::CMSG_LEN(len) as _;
            libc::CMSG_DATA(self.at).cast::<T>().write_unaligned(value);
            self.octets += libc::CMSG_SPACE(len) as usize;
        }
    }
}

fn v4(endpoint: Endpoint) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: endpoint.port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(endpoint.v4_octets().unwrap_or_default()) },
        sin_zero: [0; 8],
    }
}

fn v6(endpoint: Endpoint) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: endpoint.port.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: endpoint.addr },
        sin6_scope_id: 0,
    }
}

fn endpoint(from: &libc::sockaddr_storage) -> Option<Endpoint> {
    match i32::from(from.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is larger than any address and aligned for it, and the kernel says that it is this one.
            let from = unsafe { &*std::ptr::from_ref(from).cast::<libc::sockaddr_in>() };
            Some(Endpoint::v4(from.sin_addr.s_addr.to_ne_bytes(), u16::from_be(from.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let from = unsafe { &*std::ptr::from_ref(from).cast::<libc::sockaddr_in6>() };
            Some(Endpoint { addr: from.sin6_addr.s6_addr, port: u16::from_be(from.sin6_port) })
        }
        _ => None,
    }
}
