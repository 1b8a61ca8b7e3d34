//! Carrier of a veth's peer: an interface that is set down takes the carrier of the other end.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Sets the interface up or down, through any socket of its namespace.
pub(super) fn set_up(socket: &Socket, interface: &str, up: bool) -> io::Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // The last octet stays zero.
    for (place, octet) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *place = octet.cast_signed();
    }
    debug_assert!(size_of::<libc::ifreq>() >= libc::IFNAMSIZ);
    ask(socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just written this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let is_up = libc::IFF_UP as libc::c_short;
    request.ifr_ifru.ifru_flags = if up { flags | is_up } else { flags & !is_up };
    ask(socket, libc::SIOCSIFFLAGS, &mut request)
}

fn ask(socket: &Socket, what: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: both requests read and write one `ifreq`, which is whole and ours.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
