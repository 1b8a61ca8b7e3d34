//! Tells that links, addresses or routes changed. What they are now is asked for separately: events may be lost, state
//! is not.
#![allow(clippy::wildcard_enum_match_arm, reason = "new kernels send new messages and attributes")]

use super::netlink::{NetlinkError, messages};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteAttribute;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Multicast groups (`RTMGRP_*` of linux/rtnetlink.h): links, IPv4 and IPv6 addresses and routes.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Whether anything happened that an uplink may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing that matters.
    None,
    /// Ask for the state again.
    Changed,
}

/// The event socket; readable when there is news.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Watch {
    /// Subscribes.
    ///
    /// # Errors
    /// If the kernel does not allow it.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Socket { what: "watch links", source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, GROUPS)).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        Ok(Self { socket, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Reads all events that wait. Only those about `devices` (names) or `indexes` count; an overrun counts as news.
    ///
    /// # Errors
    /// If the socket fails for good.
    pub fn drain(&mut self, devices: &[String], indexes: &BTreeSet<u32>) -> Result<News, NetlinkError> {
        let mut news = News::None;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {
                    if concerns(&self.buffer, devices, indexes) {
                        news = News::Changed;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The queue overran: events were lost, so anything may have changed.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => news = News::Changed,
                Err(source) => return Err(NetlinkError::Socket { what: "watch links", source }),
            }
        }
    }
}

pub(super) fn concerns(datagram: &[u8], devices: &[String], indexes: &BTreeSet<u32>) -> bool {
    use netlink_packet_route::link::LinkAttribute::IfName;
    messages(datagram).any(|message| {
        // What cannot be read might matter.
        let Ok(message) = message else { return true };
        let NetlinkPayload::InnerMessage(event) = message.payload else { return false };
        match event {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                indexes.contains(&link.header.index)
                    || link.attributes.iter().any(|a| matches!(a, IfName(name) if devices.contains(name)))
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                indexes.contains(&address.header.index)
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                route.attributes.iter().any(|a| match a {
                    RouteAttribute::Oif(index) => indexes.contains(index),
                    RouteAttribute::MultiPath(_) => true,
                    _ => false,
                })
            }
            _ => false,
        }
    })
}
