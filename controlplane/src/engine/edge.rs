//! What the edge refused: on record and in the abuse summaries, though no datagram of it ever came here.

use super::Engine;
use super::counters::Counter;
use crate::audit::{AuditEvent, AuditKind, LimitScope};
use crate::edge::EdgeRefusals;
use crate::load::Address;
use jvpn_abi::{BootTime, Endpoint, Reason};

impl Engine {
    /// Refusals of the edge since this was last told. Summarised like any flood, however often this is called.
    pub fn handle_edge(&mut self, now: BootTime, refusals: &EdgeRefusals) {
        let (world, reason) = (&mut self.world, Reason::RateLimited);
        if refusals.total == 0 {
            return;
        }
        world.counters.count_many(Counter::EdgeRefused, refusals.total);
        let kind = AuditKind::RateLimit { scope: LimitScope::Edge };
        let event = AuditEvent { at: now, session: None, reason: Some(reason), kind };
        world.lines.extend(world.floods.pass_many(event, refusals.total, now));
        if let Some(abuse) = &mut world.abuse {
            for (source, times) in &refusals.sources {
                let remote = Endpoint { addr: *source, port: 0 };
                abuse.note_many(now, remote, Address::Unproven, reason, *times);
            }
        }
    }
}
