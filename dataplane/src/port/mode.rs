//! Which AF_XDP mode the kernel really gave.

use std::os::fd::RawFd;

/// How frames reach user space, from the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfXdpMode {
    /// The device writes into UMEM.
    ZeroCopy,
    /// The kernel copies.
    Copy,
    /// The kernel did not say.
    Unknown,
    /// There is no AF_XDP socket.
    None,
}

/// `XDP_OPTIONS` (linux/if_xdp.h).
const XDP_OPTIONS: i32 = 8;
/// Flag of `struct xdp_options`: zero-copy is in use.
const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// Asks a bound AF_XDP socket.
pub(super) fn of_socket(fd: RawFd) -> AfXdpMode {
    let mut flags = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: `flags` and `len` are valid for the call and sized as `struct xdp_options` is.
    let outcome =
        unsafe { libc::getsockopt(fd, libc::SOL_XDP, XDP_OPTIONS, (&raw mut flags).cast(), &raw mut len) };
    match (outcome, flags & XDP_OPTIONS_ZEROCOPY) {
        (0, 0) => AfXdpMode::Copy,
        (0, _) => AfXdpMode::ZeroCopy,
        (_, _) => AfXdpMode::Unknown,
    }
}
