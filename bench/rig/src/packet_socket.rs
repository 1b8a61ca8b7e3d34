//! AF_PACKET sockets: the rig's only unsafe island besides `setns` in a child.
//!
//! A socket is made deaf, gets its filter, and is bound only then, so that nothing unfiltered is ever in its
//! queue.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use crate::Namespace;

/// Room for a burst while the capture thread is not scheduled: two cores are shared by everything.
const RECEIVE_BUFFER_OCTETS: usize = 32 << 20;

/// Which way frames pass a link, as seen from the namespace that the socket is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Frames that arrive.
    Incoming,
    /// Both.
    Any,
}

/// Opens a socket on `interface` that gets what `filter` lets through.
pub(crate) fn open(
    namespace: &Namespace,
    interface: &str,
    filter: &[SockFilter],
    direction: Direction,
) -> Result<Socket> {
    namespace
        .run(|| -> Result<Socket> {
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, None).context("cannot open an AF_PACKET socket")?;
            setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_OCTETS)
                .context("cannot size the receive buffer")?;
            if !filter.is_empty() {
                socket.attach_filter(filter).context("cannot attach the packet filter")?;
            }
            if direction == Direction::Incoming {
                ignore_outgoing(&socket).context("cannot leave out frames that are sent")?;
            }
            let index = nix::net::if_::if_nametoindex(interface).context("no such interface")?;
            socket.bind(&link_address(index)?).context("cannot bind the AF_PACKET socket")?;
            Ok(socket)
        })?
        .with_context(|| format!("{interface} in namespace {}", namespace.name()))
}

/// `sockaddr_ll` of all protocols on one interface.
fn link_address(index: u32) -> Result<SockAddr> {
    let link = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL)?.to_be(),
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the address types that the storage is made for, and the length is its
    // own.
    Ok(unsafe {
        *storage.view_as::<libc::sockaddr_ll>() = link;
        SockAddr::new(storage, u32::try_from(size_of::<libc::sockaddr_ll>())?)
    })
}

fn ignore_outgoing(socket: &Socket) -> io::Result<()> {
    turn_on(socket, libc::PACKET_IGNORE_OUTGOING)
}

/// Has the kernel say with each frame which tag it took off.
pub(crate) fn tell_tags(socket: &Socket) -> io::Result<()> {
    turn_on(socket, libc::PACKET_AUXDATA)
}

fn turn_on(socket: &Socket, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, and pointer and length are those of one.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Frames that the kernel had no room for since this was last asked.
pub(crate) fn dropped(socket: &Socket) -> io::Result<u32> {
    let mut stats = MaybeUninit::<libc::tpacket_stats>::zeroed();
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the option writes at most `len` octets of a `tpacket_stats`, whose memory is zeroed and ours.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            stats.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid `tpacket_stats`, whatever part of it the kernel filled in.
    Ok(unsafe { stats.assume_init() }.tp_drops)
}
