//! Datagrams put on the wire with any source: what a host on the path can do.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};
use socket2::Socket;

use crate::capture::Direction;
use crate::frame::Datagram;
use crate::topology::{GATEWAY_WAN, Rig, Uplink};
use crate::{Namespace, TUNNEL_PORT, link, packet_socket};

/// Sends frames out of the router's side of a link, behind NAT and impairments.
#[derive(Debug)]
pub struct Injector {
    socket: Socket,
    router_mac: [u8; 6],
    target_mac: [u8; 6],
}

impl Injector {
    /// Opens a socket on the gateway's WAN link.
    ///
    /// # Errors
    /// The rig's links are not as they should be.
    pub fn new(rig: &Rig) -> Result<Self> {
        Self::between(rig.router(), "rW", rig.gateway(), "wan0")
    }

    /// Opens a socket on one of the client's links.
    ///
    /// # Errors
    /// The rig's links are not as they should be.
    pub fn towards_client(rig: &Rig, uplink: Uplink) -> Result<Self> {
        Self::between(rig.router(), uplink.router_interface(), rig.client(), uplink.client_interface())
    }

    fn between(router: &Namespace, from: &str, target: &Namespace, to: &str) -> Result<Self> {
        Ok(Self {
            socket: packet_socket::open(router, from, &[], Direction::Any)?,
            router_mac: link::mac(router, from)?,
            target_mac: link::mac(target, to)?,
        })
    }

    /// Sends `payload` to the gateway's port as if it came from `source`.
    ///
    /// # Errors
    /// The payload does not fit, or the link is down.
    pub fn send(&self, source: SocketAddrV4, payload: &[u8]) -> Result<()> {
        self.send_to(source, SocketAddrV4::new(GATEWAY_WAN, TUNNEL_PORT), payload)
    }

    /// Sends `payload` to `destination`, which is the target of this link, as if it came from `source`.
    ///
    /// # Errors
    /// The payload does not fit, or the link is down.
    pub fn send_to(&self, source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Result<()> {
        let frame = Datagram { source, destination, payload }
            .to_frame(self.router_mac, self.target_mac)
            .context("payload too large for a datagram")?;
        self.socket.send(&frame).context("cannot inject a frame")?;
        Ok(())
    }
}
