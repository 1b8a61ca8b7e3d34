//! The engine: every decision about sessions, and nothing else. It is handed datagrams, reports, moments and
//! randomness; it hands out table commands, datagrams and audit lines. It has no socket, no clock and no
//! table.
//!
//! How to drive it:
//! 1. Call one `handle_*`.
//! 2. Carry out everything from [`Engine::poll_command`], in order; then send everything from
//!    [`Engine::poll_transmit`];
//!    pass [`Engine::poll_audit`] on. In this order, so that an answer never overtakes its binding.
//! 3. Sleep until [`Engine::poll_timeout`], a datagram or a report.
//!
//! The same calls in the same order with the same randomness give the same output (I9).

mod adoption;
mod api;
mod bindings;
mod control;
mod counters;
mod durable;
mod early;
mod edge;
mod find;
mod handles;
mod handshake;
mod lifecycle;
mod loading;
mod paths;
mod peers;
mod quality;
mod reattach;
mod rekey;
mod retry;
mod session;
mod slots;
mod snapshot;
mod status;
mod takeover;
mod timeline;
mod timers;
mod unbound;
mod unreadable;
mod wheel;
mod world;

pub use adoption::Kept;
pub use api::{
    AdminCommand, AdminError, ContextView, Durable, PeerSettings, Probed, Settings, TableCommand, TableEvent,
    Traffic, Transmit, TunnelSettings,
};
pub use bindings::{INSTALL_TIMEOUT, QUIESCE_TIMEOUT};
pub use counters::{Counter, Counters};
pub use handles::HandleChange;
pub use peers::PeersChanged;
pub use retry::UnderLoad;
pub use snapshot::Snapshot;
pub use status::{SessionStatus, Status};
pub use timeline::{SessionDetail, TimelineRow};

use crate::abuse::{Abuse, AbuseSettings, Summary};
use crate::audit::{AuditKind, Line};
use crate::load::Address;
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::reattach::{KIND_AT, KIND_TAKEOVER};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::keys::StaticSecret;
use jvpn_crypto::rng::Random;
use jvpn_session::Event;
use jvpn_session::messages::SessionId;
use session::Session;
use std::collections::BTreeMap;
use world::World;

/// All sessions of a node and what they share.
pub struct Engine {
    world: World,
    sessions: BTreeMap<SessionId, Box<Session>>,
}

/// Where and when something arrived.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    now: BootTime,
    remote: Endpoint,
    local: Endpoint,
    /// Whether it showed a cookie when cookies were asked for.
    address: Address,
}

impl Engine {
    /// An engine without sessions. It answers nobody until [`TableEvent::DataPlaneUp`].
    ///
    /// `now` also numbers the first unbind and install sequences, so that they are above those of an earlier
    /// process.
    #[must_use]
    pub fn new(
        settings: Settings,
        private_key: StaticSecret,
        durable: Box<dyn Durable + Send>,
        rng: Box<dyn Random + Send>,
        now: BootTime,
    ) -> Self {
        let mut world = World::new(settings, private_key, durable, rng, now);
        world.report_node(now, None, AuditKind::NodeStarted);
        Self { world, sessions: BTreeMap::new() }
    }

    /// A datagram from the gateway's UDP socket.
    pub fn handle_datagram(
        &mut self,
        now: BootTime,
        remote: Endpoint,
        local: Endpoint,
        datagram: &[u8],
        view: &dyn ContextView,
    ) {
        let at = Arrival { now, remote, local, address: Address::Unproven };
        let kind = datagram.first().copied().and_then(MsgType::from_octet);
        match kind {
            Some(MsgType::HandshakeInit) => self.handshake(at, datagram, view),
            Some(MsgType::ReattachRequest) if datagram.get(KIND_AT) == Some(&KIND_TAKEOVER) => {
                self.takeover(at, datagram, view);
            }
            Some(MsgType::ReattachRequest) => self.reattach(at, datagram, view),
            Some(MsgType::Control) => self.control(at, datagram, view),
            Some(MsgType::UnboundSample) => self.sample(at, datagram, view),
            Some(MsgType::Data) => self.stray_data(at, datagram, view),
            Some(MsgType::PathProbe) => self.path_probe(at, datagram),
            Some(
                MsgType::HandshakeResponse
                | MsgType::Retry
                | MsgType::ReattachAck
                | MsgType::ReattachReject
                | MsgType::Reset
                | MsgType::PathEcho,
            )
            | None => self.world.counters.count(Counter::UnknownType),
        }
    }

    /// A report of the shared tables.
    pub fn handle_table_event(&mut self, now: BootTime, event: TableEvent, view: &dyn ContextView) {
        match event {
            TableEvent::Quiesced { seq } => self.quiesced(now, seq, view),
            TableEvent::Installed { seq } => self.installed(now, seq, view),
            TableEvent::InstallRefused { seq } => self.install_refused(now, seq, view),
            TableEvent::Confirmed { slot_index, word } => self.confirmed_report(now, slot_index, word, view),
            TableEvent::DataPlaneUp { slots, context_kept } => {
                self.data_plane_up(now, slots, context_kept, view);
            }
            TableEvent::Adopted { slots } => self.data_plane_adopted(now, slots, view),
            TableEvent::DataPlaneLost => self.data_plane_lost(now, view),
        }
    }

    /// Time has come: call it at or after the moment that [`Self::poll_timeout`] named.
    pub fn handle_timeout(&mut self, now: BootTime, view: &dyn ContextView) {
        self.fire_timers(now, view);
        self.world.sum_up_abuse(now);
    }

    /// From now on abuse is summed up; see [`Self::poll_abuse`].
    pub fn keep_abuse(&mut self, settings: AbuseSettings) {
        self.world.abuse = Some(Abuse::new(settings));
    }

    /// An operator's wish.
    ///
    /// # Errors
    /// [`AdminError`] if it names nothing that is here.
    pub fn handle_admin(
        &mut self,
        now: BootTime,
        command: &AdminCommand,
        view: &dyn ContextView,
    ) -> Result<(), AdminError> {
        self.handle_admin_because(now, command, "", view)
    }

    /// The same with the operator's own words: they stand in the audit event of each end that follows.
    ///
    /// # Errors
    /// As [`Self::handle_admin`].
    pub fn handle_admin_because(
        &mut self,
        now: BootTime,
        command: &AdminCommand,
        why: &str,
        view: &dyn ContextView,
    ) -> Result<(), AdminError> {
        self.world.note = crate::audit::note(why);
        let done = self.carry_out(now, command, view);
        self.world.note = None;
        done
    }

    fn carry_out(
        &mut self,
        now: BootTime,
        command: &AdminCommand,
        view: &dyn ContextView,
    ) -> Result<(), AdminError> {
        match command {
            AdminCommand::TerminateSession(id) => {
                let live = self.sessions.get(id).is_some_and(|session| session.core.state().is_live());
                if !live {
                    return Err(AdminError::NoSession(*id));
                }
                self.happen(*id, Event::AdminTerminated, now, view);
            }
            AdminCommand::TerminatePeer(name) => {
                let peer = self.world.peer_by_name(name).ok_or_else(|| AdminError::NoPeer(name.clone()))?;
                for id in self.world.sessions_of(&peer) {
                    self.happen(id, Event::AdminTerminated, now, view);
                }
            }
            AdminCommand::RevokePeer(name) => {
                let peer = self.world.peer_by_name(name).ok_or_else(|| AdminError::NoPeer(name.clone()))?;
                self.world.revoke(&peer);
                for id in self.world.sessions_of(&peer) {
                    self.happen(id, Event::PeerRevoked, now, view);
                }
            }
        }
        Ok(())
    }

    /// The next command for the shared tables.
    pub fn poll_command(&mut self) -> Option<TableCommand> {
        self.world.commands.pop_front()
    }

    /// The next change to HANDLES. It helps the edge to tell friend from noise and may lag behind everything else.
    pub fn poll_handle_change(&mut self) -> Option<HandleChange> {
        self.world.handles.poll_change()
    }

    /// The next datagram to send. Drain [`Self::poll_command`] first.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.world.transmits.pop_front()
    }

    /// The next audit line.
    pub fn poll_audit(&mut self) -> Option<Line> {
        self.world.lines.pop_front()
    }

    /// The summary of abuse that is due.
    pub const fn poll_abuse(&mut self) -> Option<Summary> {
        self.world.abuse_summary.take()
    }

    /// When [`Self::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.world.next_timeout()
    }

    /// The counters.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.world.counters
    }

    /// The node's key, for what is kept for the next process.
    #[must_use]
    pub fn node_key(&self) -> &jvpn_crypto::keys::NodeKey {
        self.world.durable.node_key()
    }

    /// Sessions that are not TERMINATED.
    #[must_use]
    pub const fn live_sessions(&self) -> usize {
        self.world.live
    }

    /// Runs `f` on a session and puts its next deadline into the timer queue. `None` if there is no such
    /// session.
    fn with<R>(&mut self, id: SessionId, f: impl FnOnce(&mut World, &mut Session) -> R) -> Option<R> {
        let session = self.sessions.get_mut(&id)?;
        let mark = self.world.commands.len();
        let result = f(&mut self.world, session);
        self.world.journal(session, mark);
        self.world.schedule(session);
        debug_assert_eq!(session.broken_invariant(&self.world.settings.policy), None, "session {id}");
        Some(result)
    }

    /// An internal event happens to a session, after everything that is due before it.
    fn happen(&mut self, id: SessionId, event: Event, now: BootTime, view: &dyn ContextView) {
        self.run_due(id, now, event.priority(), view);
        self.with(id, |world, session| world.step(session, event, now, view));
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}
