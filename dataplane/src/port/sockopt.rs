//! Socket options that no crate of ours has a safe name for.

use socket2::SockFilter;
use std::io;
use std::os::fd::AsRawFd;

/// Sets an integer option.
///
/// # Errors
/// What the kernel says.
pub(crate) fn set(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: an integer option and a value that lives through the call.
    let outcome =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option of octets.
///
/// # Errors
/// What the kernel says.
#[cfg(test)]
pub(crate) fn set_octets(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), value.len() as libc::socklen_t);
    // SAFETY: an option of so many octets that live through the call.
    let outcome = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), len) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a program choose the socket of a group that shares a port (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)).
///
/// # Errors
/// What the kernel says.
pub(crate) fn split_port(socket: &impl AsRawFd, program: &mut [SockFilter]) -> io::Result<()> {
    let code = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr().cast::<libc::sock_filter>(),
    };
    let (level, name, len) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, size_of_val(&code));
    let (fd, value) = (socket.as_raw_fd(), (&raw const code).cast());
    // SAFETY: `code` and the program that it points to live through the call; `SockFilter` is a transparent `sock_filter`.
    let outcome = unsafe { libc::setsockopt(fd, level, name, value, len as libc::socklen_t) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
