//! Where a scope begins, and how worlds and actions read.

use super::action::Action;
use super::decisions::Decisions;
use super::mutant::Mutant;
use super::scope::Scope;
use super::state::{
    ATTACKER, About, Client, Cookie, DataPlane, Frame, Gateway, Left, Life, Link, Message, Net, Phase, Seen,
    World,
};
use super::step::Step;
use std::fmt::{self, Display, Formatter, Write};

/// The first world of a scope. An ATTACHED one is reached by the steps that lead there, with the model's own rules.
pub(super) fn beginning(scope: &Scope, mutant: Option<Mutant>, decisions: &Decisions) -> World {
    let mut world = nothing(scope);
    if !scope.starts_attached {
        return world;
    }
    let (init, response) =
        (Message::Init { stamp: 1, path: 1, shown: None }, Message::Response { stamp: 1, bind: 0 });
    let birth = [
        Action::SendInit,
        Action::Deliver(init, 1),
        Action::Boundary,
        Action::Installed(0),
        Action::Deliver(response, 0),
        Action::Deliver(Message::Up { bind: 0, path: 1 }, 1),
        Action::Confirmed(0),
        Action::Deliver(Message::Down { bind: 0 }, 0),
    ];
    for action in birth {
        // A mutant that breaks a birth is found where the search begins with nothing.
        let mut step = Step::new(scope, mutant, decisions, world);
        step.under_load = false;
        (world, _) = step.take(action);
    }
    if scope.warm {
        // Path echoes have brought them.
        world.client.cookies = [0, 1].map(|place| Some(Cookie { place, life: 0 }));
        world.seen.asked = 0b11;
    }
    // The birth took one handshake that the scope does not count.
    world.client.stamp = 0;
    world.gateway.stamp_mark = 0;
    world
}

fn nothing(scope: &Scope) -> World {
    let mut net = Net::default();
    if scope.attacker {
        net.send(Message::ForeignReset);
    }
    World {
        now: 0,
        client: Client {
            phase: Phase::Searching { open: None },
            nonce: 0,
            stamp: 0,
            retried: false,
            cookies: [None; 2],
        },
        gateway: Gateway {
            life: Life::Running,
            link: Link::Up,
            sessions: Vec::new(),
            live: None,
            birth: None,
            stamp_mark: 0,
            take_mark: 0,
            stored: Vec::new(),
            loading: false,
        },
        slots: Vec::new(),
        data_plane: DataPlane { running: true, frame: None },
        net,
        left: Left {
            client_crashes: scope.client_crashes,
            control_plane_crashes: scope.control_plane_crashes,
            data_plane_crashes: scope.data_plane_crashes,
            silences: scope.silences,
        },
        seen: Seen::default(),
    }
}

/// What a request shows, if anything.
fn with(shown: Option<Cookie>) -> String {
    shown.map_or_else(String::new, |cookie| format!(" with the cookie of place {}", cookie.place))
}

impl Display for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init { stamp, shown, .. } => write!(f, "HANDSHAKE_INIT {stamp}{}", with(*shown)),
            Self::Response { stamp, bind } => write!(f, "HANDSHAKE_RESPONSE {stamp}: binding {bind}"),
            Self::Request { nonce, under, voluntary, shown, .. } => {
                let kind = if *voluntary { "voluntary" } else { "needed" };
                let with = with(*shown);
                write!(f, "REATTACH_REQUEST nonce {nonce} under generation {under} ({kind}){with}")
            }
            Self::Ack { nonce, bind } => write!(f, "REATTACH_ACK to nonce {nonce}: binding {bind}"),
            Self::Reject { nonce, reason, .. } => {
                write!(f, "REATTACH_REJECT to nonce {nonce}: {}", reason.name())
            }
            Self::Up { bind, .. } => write!(f, "the client's DATA under binding {bind}"),
            Self::Down { bind } => write!(f, "the gateway's DATA under binding {bind}"),
            Self::Reset { bind } => write!(f, "RESET for the handle of generation {bind}"),
            Self::TakeAsk { nonce, session, shown, .. } => {
                write!(f, "takeover request {nonce} for session {session}{}", with(*shown))
            }
            Self::Offer { nonce, bind } => write!(f, "answer to takeover request {nonce}: binding {bind}"),
            Self::Take { bind, .. } => write!(f, "TAKE_OVER of binding {bind}"),
            Self::Told { bind } => write!(f, "STATE: binding {bind} is there"),
            Self::Retry { about: About::Init { stamp }, .. } => write!(f, "RETRY of HANDSHAKE_INIT {stamp}"),
            Self::Retry { about: About::Request { nonce }, .. } => write!(f, "RETRY of request {nonce}"),
            Self::ForeignReset => f.write_str("RESET for another tenant's handle, passed on by him"),
        }
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deliver(message, ATTACKER) => write!(f, "network: {message} arrives by the attacker"),
            Self::Deliver(message, _) => write!(f, "network: {message} arrives"),
            Self::DeliverCalm(message, _) => write!(f, "network: {message} arrives while there is no load"),
            Self::SendInit => f.write_str("client: sends a handshake"),
            Self::SendRequest => f.write_str("client: sends a fresh request over the other path"),
            Self::Leave { voluntary: true } => f.write_str("client: leaves its path of its own will"),
            Self::Leave { voluntary: false } => f.write_str("client: takes its path for dead"),
            Self::GiveUpUnproven => f.write_str("client: gives up a binding that was not proven in time"),
            Self::ClientCrash => f.write_str("client: dies"),
            Self::ClientStart => f.write_str("client: is started again"),
            Self::Forge(bind) => write!(f, "attacker: forges a request with the handle of generation {bind}"),
            Self::Quiesced(n) => write!(f, "control plane: session {n} is quiescent"),
            Self::Installed(n) => write!(f, "control plane: the binding of session {n} is installed"),
            Self::AttemptTimeout(n) => write!(f, "control plane: the attempt of session {n} took too long"),
            Self::Confirmed(n) => {
                write!(f, "control plane: reads that the binding of session {n} is confirmed")
            }
            Self::UnconfirmedTimeout(n) => {
                write!(f, "control plane: the binding of session {n} was not confirmed in time")
            }
            Self::Silence(n) => write!(f, "control plane: takes the path of session {n} for dead"),
            Self::ControlPlaneCrash => f.write_str("control plane: dies"),
            Self::ControlPlaneStart => f.write_str("control plane: is started again"),
            Self::ControlPlaneReady => f.write_str("control plane: every worker has passed its sweep"),
            Self::StoreLoaded => f.write_str("control plane: what was stored is loaded"),
            Self::Boundary => f.write_str("slow worker: passes a batch boundary"),
            Self::TakeInbound(bind) => write!(f, "slow worker: begins a frame of the client, binding {bind}"),
            Self::TakeOutbound(bind) => write!(f, "slow worker: begins a packet of the LAN, binding {bind}"),
            Self::Finish => f.write_str("slow worker: goes on with its frame"),
            Self::Outbound(bind) => write!(f, "quick worker: has a packet of the LAN, binding {bind}"),
            Self::DataPlaneCrash => f.write_str("data plane: dies"),
            Self::DataPlaneLossSeen => f.write_str("control plane: sees that the data plane is gone"),
            Self::DataPlaneStart => f.write_str("data plane: is started again"),
            Self::Tick => f.write_str("time: on to the next moment"),
        }
    }
}

/// Where everybody stands, in one line.
pub(super) fn summary(world: &World, decisions: &Decisions) -> String {
    let mut line = String::new();
    // Writing to a String cannot fail.
    let _ = match &world.client.phase {
        Phase::Crashed => write!(line, "client gone"),
        Phase::Searching { .. } => write!(line, "client without session"),
        Phase::Ended => write!(line, "client ended"),
        Phase::Session(held) => {
            let newer = held.newer.map_or(String::new(), |newer| format!("+{newer}"));
            let doing = match (&held.recovery, held.proven) {
                (Some(_), _) => "recovering",
                (None, true) => "in",
                (None, false) => "unproven",
            };
            write!(line, "client {doing}, binding {}, generations {}{newer}", held.binding, held.held)
        }
    };
    if world.gateway.life != Life::Running {
        line.push_str("; control plane gone or starting");
    }
    for (number, session) in world.gateway.sessions.iter().enumerate() {
        let Some(session) = session else { continue };
        let core = decisions.core(session.core);
        let generation = |bind: Option<u8>| bind.map_or_else(|| "-".to_owned(), |bind| bind.to_string());
        let _ = write!(
            line,
            "; session {number} {} {} {:?}, generations {}/{}",
            core.state(),
            core.version(),
            core.phase(),
            generation(session.confirmed),
            generation(session.pending)
        );
    }
    let words: Vec<String> =
        world.slots.iter().enumerate().filter(|(_, s)| s.word).map(|(n, _)| n.to_string()).collect();
    let _ = write!(line, "; bound: {}", if words.is_empty() { "-".to_owned() } else { words.join(" ") });
    if let Some(Frame::Inbound(bind) | Frame::Outbound(bind)) = world.data_plane.frame {
        let _ = write!(line, "; slow worker holds a frame of {bind}");
    }
    line
}
