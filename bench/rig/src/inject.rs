//! Datagrams put on the wire in front of the gateway with any source: what a host on the path can do.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};
use socket2::Socket;

use crate::capture::Direction;
use crate::frame::Datagram;
use crate::topology::{GATEWAY_WAN, Rig};
use crate::{TUNNEL_PORT, link, packet_socket};

/// Sends frames out of the router's side of the gateway's WAN link, behind NAT and impairments.
#[derive(Debug)]
pub struct Injector {
    socket: Socket,
    router_mac: [u8; 6],
    gateway_mac: [u8; 6],
}

impl Injector {
    /// Opens the socket.
    ///
    /// # Errors
    /// The rig's links are not as they should be.
    pub fn new(rig: &Rig) -> Result<Self> {
        Ok(Self {
            socket: packet_socket::open(rig.router(), "rW", &[], Direction::Any)?,
            router_mac: link::mac(rig.router(), "rW")?,
            gateway_mac: link::mac(rig.gateway(), "wan0")?,
        })
    }

    /// Sends `payload` to the gateway's port as if it came from `source`.
    ///
    /// # Errors
    /// The payload does not fit, or the link is down.
    pub fn send(&self, source: SocketAddrV4, payload: &[u8]) -> Result<()> {
        let destination = SocketAddrV4::new(GATEWAY_WAN, TUNNEL_PORT);
        let frame = Datagram { source, destination, payload }
            .to_frame(self.router_mac, self.gateway_mac)
            .context("payload too large for a datagram")?;
        self.socket.send(&frame).context("cannot inject a frame")?;
        Ok(())
    }
}
