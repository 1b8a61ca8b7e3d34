//! Path probes: tickets for clients that keep other paths warm, and echoes. The engine remembers no ticket, and
//! nothing here looks at a binding, let alone changes one: a probe comes from wherever a client might go. The echo brings a
//! cookie for that very place (`early`).

use super::counters::Counter;
use super::early::Baker;
use super::session::Session;
use super::world::World;
use super::{Arrival, Engine};
use jvpn_abi::wire::path::PATH_PROBE_LEN;
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::path::{ProbeError, TICKET_LIFETIME, TicketMint};
use jvpn_session::messages::{ControlMessage, MAX_TICKETS, TicketBatch};

impl Engine {
    /// PATH_PROBE: echoed if its ticket is one of this node's and of this time.
    pub(super) fn path_probe(&mut self, at: Arrival, datagram: &[u8]) {
        let world = &mut self.world;
        // Before the limit: what cannot be a probe uses up nothing of it.
        if datagram.len() != PATH_PROBE_LEN {
            return world.counters.count(Counter::PathProbeMalformed);
        }
        if world.limits.path_probes.take(at.now).is_err() {
            return world.counters.count(Counter::PathProbeLimited);
        }
        // Derived each time: a node may take a new key, and one derivation costs less than the echo.
        let mint = TicketMint::new(world.durable.node_key());
        match mint.echo(at.now, datagram, || world.cookies.of(&mut *world.rng, at, &mut world.counters)) {
            Ok(echo) => {
                world.counters.count(Counter::PathEchoSent);
                world.send(at.remote, at.local, echo.to_vec());
            }
            Err(ProbeError::Malformed) => world.counters.count(Counter::PathProbeMalformed),
            Err(ProbeError::Expired) => world.counters.count(Counter::PathProbeExpired),
            Err(ProbeError::Authentication) => {
                world.note_abuse(at, Reason::AuthFail);
                world.counters.count(Counter::PathProbeAuthFail);
            }
        }
    }
}

impl World {
    /// A client asks for tickets. They go over its confirmed binding only, so to nobody who has not been heard there.
    pub(super) fn hand_out_tickets(&mut self, session: &mut Session, now: BootTime) {
        if session.limits.tickets.take(now).is_err() {
            return self.counters.count(Counter::TicketsHeldBack);
        }
        if session.binding.as_ref().is_none_or(|binding| binding.unconfirmed_until.is_some()) {
            return self.counters.count(Counter::TicketsHeldBack);
        }
        let mut tickets = Vec::with_capacity(MAX_TICKETS);
        for _ in 0..MAX_TICKETS {
            let Some(name) = self.random() else { break };
            tickets.push((&TicketMint::new(self.durable.node_key()).issue(now, name)).into());
        }
        let lifetime_s = u16::try_from(TICKET_LIFETIME.as_secs()).unwrap_or(u16::MAX);
        self.counters.count(Counter::TicketsHandedOut);
        self.tell(session, &ControlMessage::Tickets(TicketBatch { lifetime_s, tickets }));
    }
}
