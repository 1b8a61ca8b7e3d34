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

/// One end of a wire, for whoever stands in the place of the host there.
#[derive(Debug)]
pub struct Wire(Socket);

impl Wire {
    /// Opens a socket on an interface.
    ///
    /// # Errors
    /// No such interface, or no right to open an AF_PACKET socket there.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        packet_socket::open(namespace, interface, &[], Direction::Any).map(Self)
    }

    /// Sends a frame as it is, from its Ethernet header on.
    ///
    /// # Errors
    /// The link is down or does not take a frame of this length.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.0.send(frame).map(drop).context("cannot put a frame on a wire")
    }
}
