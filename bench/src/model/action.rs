//! What can happen next.

use super::scope::Scope;
use super::state::{
    ATTACKER, Bind, COUNTER_MAX, Life, Link, Message, Phase, Place, QUICK, SLOW, SessionNo, Slot,
};
use super::step::Step;
use jvpn_session::State;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// A datagram arrives from a place.
    Deliver(Message, Place),
    /// A request arrives while the gateway of a scope with load is not under load.
    DeliverCalm(Message, Place),
    SendInit,
    SendRequest,
    Leave {
        voluntary: bool,
    },
    GiveUpUnproven,
    ClientCrash,
    ClientStart,
    Forge(Bind),
    Quiesced(SessionNo),
    Installed(SessionNo),
    AttemptTimeout(SessionNo),
    Confirmed(SessionNo),
    UnconfirmedTimeout(SessionNo),
    Silence(SessionNo),
    ControlPlaneCrash,
    ControlPlaneStart,
    ControlPlaneReady,
    StoreLoaded,
    Boundary,
    TakeInbound(Bind),
    TakeOutbound(Bind),
    Finish,
    Outbound(Bind),
    DataPlaneCrash,
    DataPlaneLossSeen,
    DataPlaneStart,
    Tick,
}

/// How far a client may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// As far as the scope lets it, with everything that may go wrong.
    Full,
    /// With its spare requests and handshakes, while nothing more goes wrong.
    Spare,
}

impl Action {
    /// Whether it belongs to a continuation in which nothing more goes wrong: everybody does what is his to do, what was
    /// sent may arrive, whoever died is started again.
    pub(super) const fn is_fair(self) -> bool {
        match self {
            Self::Deliver(_, place) => place != ATTACKER,
            // Nobody may count on it.
            Self::DeliverCalm(..)
            | Self::Forge(_)
            | Self::ClientCrash
            | Self::ControlPlaneCrash
            | Self::DataPlaneCrash
            | Self::Silence(_)
            | Self::TakeInbound(_)
            | Self::TakeOutbound(_) => false,
            Self::SendInit
            | Self::SendRequest
            | Self::Leave { .. }
            | Self::GiveUpUnproven
            | Self::ClientStart
            | Self::Quiesced(_)
            | Self::Installed(_)
            | Self::AttemptTimeout(_)
            | Self::Confirmed(_)
            | Self::UnconfirmedTimeout(_)
            | Self::ControlPlaneStart
            | Self::ControlPlaneReady
            | Self::StoreLoaded
            | Self::Boundary
            | Self::Finish
            | Self::Outbound(_)
            | Self::DataPlaneLossSeen
            | Self::DataPlaneStart
            | Self::Tick => true,
        }
    }
}

impl Action {
    /// The order in which everybody does his duty at once: whoever died comes back, what is begun is brought to its end,
    /// what was sent last arrives, and only then does the client try something new.
    pub(super) const fn urgency(self) -> u8 {
        match self {
            Self::ControlPlaneStart | Self::ControlPlaneReady | Self::DataPlaneStart | Self::ClientStart => 0,
            Self::Finish | Self::Boundary | Self::StoreLoaded => 1,
            Self::Quiesced(_) | Self::Installed(_) | Self::Confirmed(_) => 2,
            Self::Deliver(Message::Init { .. } | Message::Request { .. } | Message::TakeAsk { .. }, _) => 4,
            Self::Deliver(..) => 3,
            Self::SendRequest | Self::SendInit => 5,
            Self::GiveUpUnproven => 6,
            Self::Leave { .. } => 7,
            Self::Tick => 8,
            Self::DeliverCalm(..)
            | Self::ClientCrash
            | Self::Forge(_)
            | Self::AttemptTimeout(_)
            | Self::UnconfirmedTimeout(_)
            | Self::Silence(_)
            | Self::ControlPlaneCrash
            | Self::TakeInbound(_)
            | Self::TakeOutbound(_)
            | Self::Outbound(_)
            | Self::DataPlaneCrash
            | Self::DataPlaneLossSeen => 9,
        }
    }
}

impl Step<'_> {
    /// Everything that can happen in this world.
    pub(super) fn actions(&self, reach: Reach) -> Vec<Action> {
        let mut out = Vec::new();
        self.client_actions(reach, &mut out);
        self.deliveries(&mut out);
        self.gateway_actions(&mut out);
        self.data_plane_actions(&mut out);
        if self.world.now + 1 < self.scope.moments() {
            out.push(Action::Tick);
        }
        out
    }

    fn client_actions(&self, reach: Reach, out: &mut Vec<Action>) {
        let Scope { requests, handshakes, .. } = *self.scope;
        let (requests, handshakes) = match reach {
            Reach::Full => (requests, handshakes),
            Reach::Spare => self.scope.with_spare(),
        };
        let client = &self.world.client;
        match &client.phase {
            Phase::Crashed => out.push(Action::ClientStart),
            Phase::Ended => {}
            Phase::Searching { .. } => {
                if client.stamp < handshakes {
                    out.push(Action::SendInit);
                }
            }
            Phase::Session(held) => {
                let answered = held.recovery.is_some_and(|recovery| recovery.answered);
                if (held.sending || answered) && !held.proven {
                    out.push(Action::GiveUpUnproven);
                }
                match &held.recovery {
                    None if held.attached => {
                        out.push(Action::Leave { voluntary: false });
                        if self.scope.voluntary {
                            out.push(Action::Leave { voluntary: true });
                        }
                    }
                    Some(recovery) if !recovery.answered && self.world.now >= recovery.not_before => {
                        if client.nonce < requests {
                            out.push(Action::SendRequest);
                        }
                    }
                    None | Some(_) => {}
                }
            }
        }
        if client.phase != Phase::Crashed && self.world.left.client_crashes > 0 {
            out.push(Action::ClientCrash);
        }
    }

    fn deliveries(&self, out: &mut Vec<Action>) {
        for message in self.world.net.iter() {
            let from = match message {
                Message::Init { path, .. }
                | Message::Request { path, .. }
                | Message::TakeAsk { path, .. }
                | Message::Take { path, .. }
                | Message::Up { path, .. } => path,
                Message::Response { .. }
                | Message::Ack { .. }
                | Message::Reject { .. }
                | Message::Offer { .. }
                | Message::Told { .. }
                | Message::Down { .. }
                | Message::Retry { .. }
                | Message::Reset { .. } => {
                    out.push(Action::Deliver(message, 0));
                    continue;
                }
                Message::ForeignReset => {
                    out.push(Action::Deliver(message, ATTACKER));
                    continue;
                }
            };
            let places = [from, ATTACKER];
            for place in places.into_iter().take(if self.scope.attacker { 2 } else { 1 }) {
                out.push(Action::Deliver(message, place));
                if self.scope.load && message.is_request() {
                    out.push(Action::DeliverCalm(message, place));
                }
                if let Message::Up { bind, .. } = message
                    && self.slow_worker_takes(bind)
                    && self.world.slots[usize::from(bind)].remote == place
                {
                    out.push(Action::TakeInbound(bind));
                }
            }
        }
        if self.scope.attacker {
            // The handles that are worth it are those that are known.
            for session in self.world.gateway.sessions.iter().flatten() {
                out.extend([session.confirmed, session.pending].into_iter().flatten().map(Action::Forge));
            }
        }
    }

    fn slow_worker_takes(&self, bind: Bind) -> bool {
        self.scope.slow_worker
            && self.world.data_plane.running
            && self.world.data_plane.frame.is_none()
            && self.is_bound(SLOW, bind)
    }

    fn gateway_actions(&self, out: &mut Vec<Action>) {
        let gateway = &self.world.gateway;
        match gateway.life {
            Life::Gone => return out.push(Action::ControlPlaneStart),
            Life::Sweeping(0) => return out.push(Action::ControlPlaneReady),
            Life::Sweeping(_) => return,
            Life::Running => {}
        }
        if gateway.loading {
            out.push(Action::StoreLoaded);
        }
        for (number, session) in gateway.sessions.iter().enumerate() {
            let (number, Some(session)) = (number as SessionNo, session) else { continue };
            if self.is_quiesced(session) {
                out.push(Action::Quiesced(number));
            }
            if self.is_installed(session) {
                out.push(Action::Installed(number));
            }
            if session.attempt.is_some() {
                out.push(Action::AttemptTimeout(number));
            }
            let state = self.decisions.core(session.core).state();
            if session.binding.is_some_and(|binding| !binding.confirmed) {
                if self.has_been_heard(session) {
                    out.push(Action::Confirmed(number));
                } else if state == State::Recovering {
                    out.push(Action::UnconfirmedTimeout(number));
                }
            }
            if state.is_bound() && gateway.link == Link::Up && self.world.left.silences > 0 {
                out.push(Action::Silence(number));
            }
        }
        if self.world.left.control_plane_crashes > 0 {
            out.push(Action::ControlPlaneCrash);
        }
    }

    fn data_plane_actions(&self, out: &mut Vec<Action>) {
        let plane = &self.world.data_plane;
        let running = self.world.gateway.life == Life::Running;
        if !plane.running {
            if running {
                out.push(Action::DataPlaneStart);
                if self.world.gateway.link == Link::Up {
                    out.push(Action::DataPlaneLossSeen);
                }
            }
            return;
        }
        if plane.frame.is_some() {
            out.push(Action::Finish);
        }
        let bit = 1 << SLOW;
        let waits = |slot: &Slot| slot.draining & bit != 0 || (slot.handed && slot.applied & bit == 0);
        let sweep = matches!(self.world.gateway.life, Life::Sweeping(waiting) if waiting & bit != 0);
        if plane.frame.is_none() && (sweep || self.world.slots.iter().any(waits)) {
            out.push(Action::Boundary);
        }
        for bind in 0..self.world.slots.len() as Bind {
            if !self.scope.lan_packets || self.world.slots[usize::from(bind)].counter >= COUNTER_MAX {
                continue;
            }
            if !self.scope.slow_worker && self.is_bound(QUICK, bind) {
                out.push(Action::Outbound(bind));
            }
            if self.slow_worker_takes(bind) {
                out.push(Action::TakeOutbound(bind));
            }
        }
        if self.world.left.data_plane_crashes > 0 {
            out.push(Action::DataPlaneCrash);
        }
    }
}
