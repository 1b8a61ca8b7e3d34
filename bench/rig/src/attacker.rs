//! Someone at another address who sends what he recorded, by an ordinary socket.

use std::net::{SocketAddrV4, UdpSocket};

use anyhow::{Context, Result};

use crate::TUNNEL_PORT;
use crate::topology::{ATTACKER, GATEWAY_WAN, Rig};

/// An attacker's UDP socket.
#[derive(Debug)]
pub struct Attacker {
    socket: UdpSocket,
}

/// What came back to the attacker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// First octet of each datagram.
    pub types: Vec<u8>,
    /// Octets of all payloads.
    pub octets: usize,
}

impl Attacker {
    /// Opens the socket at the attacker's address, any port.
    ///
    /// # Errors
    /// The rig's links are not as they should be.
    pub fn new(rig: &Rig) -> Result<Self> {
        let socket = rig
            .attacker()
            .run(|| UdpSocket::bind((ATTACKER, 0)))?
            .context("cannot open the attacker's socket")?;
        socket.set_nonblocking(true).context("cannot make the attacker's socket non-blocking")?;
        Ok(Self { socket })
    }

    /// Where his datagrams come from.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> Result<SocketAddrV4> {
        match self.socket.local_addr().context("the attacker's socket has no address")? {
            std::net::SocketAddr::V4(address) => Ok(address),
            std::net::SocketAddr::V6(address) => anyhow::bail!("unexpected address {address}"),
        }
    }

    /// Sends one datagram to the gateway.
    ///
    /// # Errors
    /// There is no way to the gateway.
    pub fn send(&self, payload: &[u8]) -> Result<()> {
        self.socket.send_to(payload, (GATEWAY_WAN, TUNNEL_PORT)).context("the attacker cannot send")?;
        Ok(())
    }

    /// What has come back since this was last asked.
    #[must_use]
    pub fn answers(&self) -> Answers {
        let mut answers = Answers::default();
        let mut buffer = [0; 2_048];
        // An ICMP error shows as a failed receive; it answers nothing.
        while let Ok((len, _)) = self.socket.recv_from(&mut buffer) {
            answers.octets += len;
            answers.types.extend(buffer.get(..len).and_then(|payload| payload.first().copied()));
        }
        answers
    }
}
