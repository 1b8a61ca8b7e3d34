//! What the gateway gives for other paths: tickets, echoes, cookies.

use super::{Gateway, NOW, Remote};
use jvpn_abi::Endpoint;
use jvpn_crypto::cookie::Cookie;
use jvpn_crypto::path::TicketMint;
use jvpn_crypto::rng::Random;
use jvpn_session::messages::{ControlMessage, MAX_TICKETS, TicketBatch};

impl Gateway {
    /// The cookie of where something came from.
    pub(super) fn cookie_for(&mut self, from: Remote) -> Cookie {
        let (remote, local) = ends(from);
        self.jar.bake(&mut self.random, NOW, remote, local).unwrap()
    }

    /// Echoes what its tickets entitle to; a ticket that comes twice was used twice.
    pub(super) fn path_probe(&mut self, from: Remote, datagram: &[u8]) {
        assert!(self.probes.insert(datagram.to_vec()), "a ticket was used twice");
        let cookie = if self.early { self.cookie_for(from) } else { Cookie::NONE };
        if let Ok(echo) = TicketMint::new(&self.node_key).echo(NOW, datagram, || cookie) {
            self.out.push((from, echo.to_vec()));
        }
    }

    /// A batch of tickets, if the test gives any.
    pub(super) fn hand_out_tickets(&mut self, from: Remote) {
        let mint = TicketMint::new(&self.node_key);
        let mut tickets = Vec::new();
        for _ in 0..self.tickets.min(MAX_TICKETS) {
            self.tickets -= 1;
            let mut name = [0; 8];
            self.random.fill(&mut name).unwrap();
            tickets.push((&mint.issue(NOW, name)).into());
        }
        if !tickets.is_empty() {
            self.say_to(from, ControlMessage::Tickets(TicketBatch { lifetime_s: 900, tickets }));
        }
    }
}

/// Both ends of the path that something came over, as the gateway sees them.
pub(super) fn ends(from: Remote) -> (Endpoint, Endpoint) {
    (Endpoint::v4([203, 0, 113, from.0.0], from.1), crate::agent::tests::world::endpoint())
}
