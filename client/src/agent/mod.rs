//! The agent: handshake, session, bindings and path logic of the client, without any I/O.
//!
//! # Contract
//! The caller hands in what happens, with the moment at which it happens, through `handle_*`, and then takes out what is
//! to be done until nothing is left: [`Agent::poll_transmit`] (datagrams), [`Agent::poll_event`]. Inner packets that came
//! in are returned by [`Agent::handle_datagram`] in place. [`Agent::poll_timeout`] says when [`Agent::handle_timeout`]
//! must be called at the latest; it may change with every call. Moments never run backwards. Datagrams that wait in a
//! socket must be handed in before a timeout, or silence is seen where there is none.
//!
//! The gateway is authoritative: the agent shows the last state that a frame or a sealed message confirmed. At any
//! moment at most one binding sends.

mod binding;
mod birth;
mod control;
mod data;
mod ecn;
mod event;
mod gateways;
mod mtu;
mod probing;
mod quality;
mod reattach;
mod rekey;
mod retry;
mod session;
mod status;
mod takeover;

pub use data::{FRAME_OVERHEAD, Inner, MAX_INNER_LEN};
pub use event::{Event, RecoveryReport};
pub use gateways::GatewayEndpoints;
pub use status::{AgentStatus, Counters};

use crate::hold::Hold;
use crate::paths::candidates::CandidateSettings;
use crate::paths::{LinkChange, LinkState, Paths, UplinkId, UplinkSpec};
use birth::Birth;
use jvpn_abi::wire::{MsgType, Suite};
use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use jvpn_crypto::rng::Random;
use jvpn_session::messages::SwitchCause;
use retry::Cookies;
use session::Session;
use std::collections::VecDeque;
use std::time::Duration;

/// A timer that fires this late means that the host slept: whatever NAT state there was is gone.
const WAKE_GAP: Duration = Duration::from_secs(10);
/// A suspension shorter than this is none that a NAT would notice.
const SUSPENSION_MIN: Duration = Duration::from_secs(1);
/// Events that wait for a shell which does not take them; then the oldest are dropped.
const EVENTS_MAX: usize = 1_024;

/// Who the client is and how it reaches its gateway.
#[derive(Debug)]
pub struct AgentConfig {
    /// The client's static key.
    pub local: StaticSecret,
    /// The gateway's static key.
    pub gateway: PublicKey,
    /// Pre-shared key; zeros if there is none.
    pub preshared: PresharedKey,
    /// The gateway's outer endpoints.
    pub endpoint: GatewayEndpoints,
    /// Suites, best first.
    pub suites: Vec<Suite>,
    /// Uplinks; [`UplinkId`] is the position.
    pub uplinks: Vec<UplinkSpec>,
    /// How uplinks beside the bound one are watched.
    pub candidates: CandidateSettings,
}

/// A datagram to send to the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Over this uplink.
    pub uplink: UplinkId,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

#[derive(Debug)]
enum Phase {
    /// No session; handshakes are tried.
    Searching(Box<Birth>),
    /// A live session.
    Session(Box<Session>),
    /// No session, and no own attempt to get one.
    Ended(Reason),
}

/// The agent. See the module documentation for how to drive it.
pub struct Agent {
    config: AgentConfig,
    random: Box<dyn Random>,
    paths: Paths,
    phase: Phase,
    hold: Hold,
    outbox: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
    /// Unix time in ns at boot time zero, as last set.
    unix_at_boot_ns: u64,
    /// By how much `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`: the time that the host has slept.
    suspended: Option<Duration>,
    last_timestamp_ns: u64,
    recoveries: u64,
    last_recovery: Option<RecoveryReport>,
    suspicion: Suspicion,
    cookies: Cookies,
}

/// Whether the bound path has just begun to miss answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    No,
    /// And the shell has not been told yet.
    Fresh,
    Told,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("phase", &self.phase)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent that will handshake as soon as an uplink is reported usable.
    #[must_use]
    pub fn new(config: AgentConfig, random: Box<dyn Random>) -> Self {
        Self {
            paths: Paths::new(config.uplinks.clone(), config.candidates),
            config,
            random,
            phase: Phase::Searching(Box::new(Birth::new(BootTime(0)))),
            hold: Hold::default(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            unix_at_boot_ns: 0,
            suspended: None,
            last_timestamp_ns: 0,
            recoveries: 0,
            last_recovery: None,
            suspicion: Suspicion::No,
            cookies: Cookies::default(),
        }
    }

    /// Tells the wall clock (Unix ns), which only stamps handshakes.
    pub fn set_wall_clock(&mut self, now: BootTime, unix_ns: u64) {
        self.unix_at_boot_ns = unix_ns.saturating_sub(now.0);
    }

    /// A datagram came over `uplink` from `from`. Returns the inner packet to deliver, if it was one; it lies inside
    /// `datagram`, which was opened in place.
    pub fn handle_datagram<'d>(
        &mut self,
        now: BootTime,
        uplink: UplinkId,
        from: Endpoint,
        datagram: &'d mut [u8],
    ) -> Option<&'d mut [u8]> {
        if !self.config.endpoint.iter().any(|known| known == from) {
            self.counters.foreign_source += 1;
            return None;
        }
        let kind = datagram.first().copied().and_then(MsgType::from_octet);
        match kind {
            Some(MsgType::Data) => return self.handle_data(now, uplink, datagram),
            Some(MsgType::HandshakeResponse) => self.handle_response(now, uplink, datagram),
            Some(MsgType::ReattachAck) => self.handle_ack(now, uplink, datagram),
            Some(MsgType::ReattachReject) => self.handle_reject(now, uplink, datagram),
            Some(MsgType::Retry) => self.handle_retry(now, uplink, datagram),
            Some(MsgType::Control) => self.handle_control(now, uplink, datagram),
            Some(MsgType::Reset) => self.handle_reset(now, uplink, datagram),
            Some(MsgType::PathEcho) => self.handle_echo(now, uplink, datagram),
            // Kinds that only a gateway takes.
            Some(
                MsgType::UnboundSample
                | MsgType::HandshakeInit
                | MsgType::ReattachRequest
                | MsgType::PathProbe,
            )
            | None => {
                self.counters.malformed += 1;
                return None;
            }
        }
        self.drive(now);
        None
    }

    /// The host reported the state of an uplink.
    pub fn handle_link_event(&mut self, now: BootTime, uplink: UplinkId, state: LinkState) {
        let before = self.paths.uplink(uplink).map(|uplink| uplink.link);
        let change = self.paths.set_link(uplink, state);
        if before.is_some_and(|before| before != state) {
            self.cookies.forget(uplink);
            self.push_event(Event::Link { uplink, state });
        }
        match change {
            LinkChange::Same => return,
            LinkChange::Lost => self.leave_uplink(now, uplink, SwitchCause::LinkDown),
            LinkChange::Readdressed => {
                self.leave_uplink(now, uplink, SwitchCause::AddressChange);
                self.link_gained(now);
            }
            LinkChange::Gained => self.link_gained(now),
        }
        self.drive(now);
    }

    fn link_gained(&mut self, now: BootTime) {
        let Self { phase, paths, .. } = self;
        match phase {
            Phase::Searching(birth) => birth.campaign.link_gained(now, paths),
            Phase::Session(session) => {
                if let Some(recovery) = &mut session.recovery {
                    recovery.campaign.link_gained(now, paths);
                }
            }
            Phase::Ended(_) => {}
        }
    }

    /// Tells how far `CLOCK_MONOTONIC` is (ns), which stands still while the host sleeps: a host that has slept has lost
    /// its NAT state and maybe its links, and need not wait for silence to know that.
    pub fn handle_monotonic(&mut self, now: BootTime, monotonic_ns: u64) {
        let suspended = Duration::from_nanos(now.0.saturating_sub(monotonic_ns));
        let slept =
            self.suspended.replace(suspended).is_some_and(|before| suspended > before + SUSPENSION_MIN);
        if slept {
            self.woke(now);
            self.drive(now);
        }
    }

    /// The host slept: what was known about paths is old, and the bound one is asked for anew.
    fn woke(&mut self, now: BootTime) {
        self.paths.forget_evidence();
        self.cookies.forget_all();
        let Phase::Session(session) = &mut self.phase else { return };
        let uplink = session.binding.uplink;
        match &mut session.recovery {
            None => self.begin_recovery(now, SwitchCause::Wake, Some(uplink)),
            Some(recovery) => recovery.campaign.again(now),
        }
    }

    /// The gateway has another address now. Whatever was under way towards the old one is void.
    pub fn set_endpoint(&mut self, now: BootTime, endpoint: impl Into<GatewayEndpoints>) {
        let endpoint = endpoint.into();
        if std::mem::replace(&mut self.config.endpoint, endpoint) == endpoint {
            return;
        }
        self.paths.forget_evidence();
        match &mut self.phase {
            Phase::Session(session) => match &mut session.recovery {
                None => {
                    let uplink = session.binding.uplink;
                    self.begin_recovery(now, SwitchCause::AddressChange, Some(uplink));
                }
                Some(recovery) => {
                    session.taking = None;
                    recovery.request = None;
                    recovery.campaign.again(now);
                }
            },
            Phase::Searching(birth) => birth.campaign.again(now),
            Phase::Ended(_) => {}
        }
        self.drive(now);
    }

    /// Since when nothing has been answered: the gateway may have moved. `None` while a path works, or none is usable.
    #[must_use]
    pub fn unanswered_since(&self) -> Option<BootTime> {
        if self.paths.usable() == 0 {
            return None;
        }
        match &self.phase {
            Phase::Session(session) => session.recovery.as_ref().map(|recovery| recovery.decided_at),
            Phase::Searching(birth) => birth.asking_since,
            Phase::Ended(_) => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: BootTime) {
        let late = self.poll_timeout().is_some_and(|due| now.since(due) > WAKE_GAP);
        if late {
            self.cookies.forget_all();
        }
        if late
            && let Phase::Session(session) = &self.phase
            && session.recovery.is_none()
        {
            self.woke(now);
        }
        self.drive(now);
    }

    /// Ends the session because the user says so. Afterwards nothing is tried any more.
    pub fn terminate(&mut self, now: BootTime) {
        self.say_goodbye();
        self.end_session(now, Reason::PeerTerminate);
        self.phase = Phase::Ended(Reason::PeerTerminate);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the bound path has just missed its first answer. The shell should then look at its links: a kernel may
    /// report a lost carrier up to a second late (linkwatch), but it knows when asked.
    pub fn poll_suspicion(&mut self) -> bool {
        let fresh = self.suspicion == Suspicion::Fresh;
        if fresh {
            self.suspicion = Suspicion::Told;
        }
        fresh
    }

    /// When [`Self::handle_timeout`] is due. `None`: nothing happens without a datagram, a packet or a link event.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let at = match &self.phase {
            Phase::Searching(birth) => birth.wake,
            Phase::Session(session) => session.next_event(),
            Phase::Ended(_) => BootTime::NEVER,
        };
        (at != BootTime::NEVER).then_some(at)
    }

    /// The gateway's outer endpoints.
    #[must_use]
    pub const fn endpoints(&self) -> GatewayEndpoints {
        self.config.endpoint
    }

    /// The gateway as an uplink reaches it: in the family of the uplink's own address.
    #[must_use]
    pub fn endpoint_over(&self, uplink: UplinkId) -> Endpoint {
        let source = self.paths.uplink(uplink).and_then(|uplink| uplink.link.source());
        let known = self.config.endpoint;
        source.and_then(|source| known.of_family(source)).or(known.preferred()).unwrap_or_default()
    }

    /// Uplinks and what is known about them.
    #[must_use]
    pub const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Does what is due.
    fn drive(&mut self, now: BootTime) {
        self.drive_session(now);
        self.drive_probing(now);
        self.drive_birth(now);
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.counters.events_dropped += 1;
        }
        self.events.push_back(event);
    }

    /// A random number for jitter; without randomness there is none, and nothing else depends on it.
    fn jitter(random: &mut dyn Random) -> u16 {
        let mut octets = [0; 2];
        random.fill(&mut octets).map_or(0, |()| u16::from_be_bytes(octets))
    }
}

#[cfg(test)]
pub(crate) mod tests;
