//! One member: a production agent, an address and a port on each uplink, and the markers that show whether it is connected.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use jvpn_abi::wire::Suite;
use jvpn_abi::{BootTime, Endpoint};
use jvpn_client::agent::{Agent, AgentConfig, Event, Inner};
use jvpn_client::paths::candidates::CandidateSettings;
use jvpn_client::paths::{LinkState, UplinkId, UplinkSpec};
use jvpn_crypto::keys::PresharedKey;
use jvpn_crypto::rng::OsRandom;
use jvpn_host::clock;
use jvpn_rig::Uplink;
use jvpn_session::State;

use super::echo::ECHO;
use super::ports::{PORTS, Ports};
use super::{Census, MemberRecovery, MemberSpec, MemberView, SwarmSpec, marker, network};

/// Markers back from the highest that are told apart from doubles.
const WINDOW: u64 = 128;

/// One member.
pub(super) struct Member {
    number: usize,
    spec: MemberSpec,
    shared: SwarmSpec,
    inner: Ipv4Addr,
    agent: Agent,
    ports: Rc<Ports>,
    /// Which port it has on each uplink.
    port: [usize; 2],
    view: MemberView,
    asked_at: Option<BootTime>,
    /// When its links are found usable.
    pub(super) starts_at: Option<BootTime>,
    next_marker: BootTime,
    next_sequence: u64,
    highest: u64,
    seen: u128,
    last_reply: Option<BootTime>,
    flaps: Option<Duration>,
    next_flap: BootTime,
    /// Its recoveries when gaps began to be looked for.
    marked: u64,
    /// When it loses the bound link.
    pub(super) fails_at: Option<BootTime>,
    /// The link that it was told to have lost.
    failed: Option<Uplink>,
    /// Whether its markers wait.
    quiet: bool,
}

/// The place of an uplink in the agent's list.
const fn id(uplink: Uplink) -> UplinkId {
    UplinkId(uplink as u8)
}

/// The uplink at a place of the agent's list.
pub(super) const fn uplink(id: UplinkId) -> Uplink {
    match id.0 {
        0 => Uplink::A,
        _ => Uplink::B,
    }
}

/// An agent as `jvpn up` would make it.
fn agent(spec: &MemberSpec, shared: &SwarmSpec) -> anyhow::Result<Agent> {
    let uplinks = Uplink::ALL.map(|uplink| UplinkSpec {
        device: uplink.client_interface().to_owned(),
        priority: if uplink == spec.prefers { 1 } else { 2 },
        metered: false,
    });
    let config = AgentConfig {
        local: spec.secret.clone(),
        gateway: shared.gateway,
        preshared: PresharedKey::default(),
        endpoint: shared.endpoint.into(),
        suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
        uplinks: uplinks.into(),
        // The bench says itself which path breaks when.
        candidates: CandidateSettings { fail_back_hold: None, ..CandidateSettings::default() },
    };
    Ok(Agent::new(config, Box::new(OsRandom::checked()?)))
}

impl Member {
    pub(super) fn new(
        number: usize,
        spec: MemberSpec,
        shared: &SwarmSpec,
        ports: &Rc<Ports>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            number,
            agent: agent(&spec, shared)?,
            shared: shared.clone(),
            inner: network::inner_address(spec.number),
            spec,
            ports: Rc::clone(ports),
            port: [0; 2],
            view: MemberView::default(),
            asked_at: None,
            starts_at: None,
            next_marker: BootTime::NEVER,
            next_sequence: 1,
            highest: 0,
            seen: 0,
            last_reply: None,
            flaps: None,
            next_flap: BootTime::NEVER,
            marked: 0,
            fails_at: None,
            failed: None,
            quiet: false,
        })
    }

    /// Its place among the members.
    pub(super) const fn number(&self) -> usize {
        self.number
    }

    /// When [`Self::due`] must be called.
    pub(super) fn next(&self) -> BootTime {
        let agent = self.agent.poll_timeout().unwrap_or(BootTime::NEVER);
        let starts = self.starts_at.unwrap_or(BootTime::NEVER);
        let fails = self.fails_at.unwrap_or(BootTime::NEVER);
        agent.min(starts).min(fails).min(self.next_marker).min(self.next_flap)
    }

    /// Does what is due.
    pub(super) fn due(&mut self, now: BootTime, recoveries: &mut Vec<MemberRecovery>) {
        if self.starts_at.is_some_and(|at| at <= now) {
            self.starts_at = None;
            self.agent.set_wall_clock(now, clock::unix_ns());
            self.asked_at = Some(now);
            for uplink in Uplink::ALL {
                self.link(now, uplink, true);
            }
        }
        if self.agent.poll_timeout().is_some_and(|due| due <= now) {
            self.agent.set_wall_clock(now, clock::unix_ns());
            self.agent.handle_timeout(now);
        }
        if self.fails_at.is_some_and(|at| at <= now) {
            self.fails_at = None;
            self.fail(now);
        }
        // Asked only by a shell that has links to look at.
        let _suspects = self.agent.poll_suspicion();
        if self.next_flap <= now {
            self.flap_once(now);
        }
        if self.next_marker <= now {
            self.send_marker(now);
        }
        self.flush(now, recoveries);
    }

    fn link(&mut self, now: BootTime, uplink: Uplink, usable: bool) {
        let source = network::outer_address(self.spec.number, uplink).into();
        let state = if usable { LinkState::Usable { source } } else { LinkState::NoCarrier };
        self.agent.handle_link_event(now, id(uplink), state);
    }

    fn send_marker(&mut self, now: BootTime) {
        // Late by more than one: those are not made up for.
        self.next_marker = self.next_marker.after(self.shared.marker_interval).max(now);
        let mut frame = marker::frame(self.inner, ECHO, self.next_sequence);
        self.next_sequence += 1;
        self.view.sent += 1;
        if let Inner::Send(over) = self.agent.handle_inner_packet(now, &mut frame) {
            self.send(over, &frame);
        }
    }

    fn send(&self, over: UplinkId, datagram: &[u8]) {
        let over = uplink(over);
        let source = network::outer_address(self.spec.number, over);
        // What the host does not take is lost on the way: the agent sees it as silence.
        let _taken = self.ports.send(over, self.port[over as usize], source, self.shared.endpoint, datagram);
    }

    /// Takes a datagram that came to its address over an uplink and a port. A port that it has left is nobody's.
    pub(super) fn receive(
        &mut self,
        (over, port): (Uplink, usize),
        from: Endpoint,
        datagram: &mut [u8],
        recoveries: &mut Vec<MemberRecovery>,
    ) {
        if self.port[over as usize] % PORTS != port {
            return;
        }
        let now = clock::now();
        if let Some(packet) = self.agent.handle_datagram(now, id(over), from, datagram) {
            let sequence = marker::sequence(self.inner, ECHO, packet);
            self.replied(now, sequence);
        }
        self.flush(now, recoveries);
    }

    fn replied(&mut self, now: BootTime, sequence: Option<u64>) {
        let Some(sequence) = sequence else {
            self.view.damaged += 1;
            return;
        };
        if sequence > self.highest {
            let shift = u32::try_from(sequence - self.highest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = sequence;
        } else {
            let back = self.highest - sequence;
            let bit = u32::try_from(back).ok().and_then(|back| 1_u128.checked_shl(back)).unwrap_or(0);
            if back >= WINDOW || self.seen & bit != 0 {
                self.view.doubled += u64::from(back < WINDOW);
                return;
            }
            self.seen |= bit;
        }
        self.view.replied += 1;
        if let Some(last) = self.last_reply.replace(now) {
            self.view.longest_gap = self.view.longest_gap.max(now.since(last));
        }
    }

    /// Sends what the agent wants sent and takes down what it says.
    fn flush(&mut self, now: BootTime, recoveries: &mut Vec<MemberRecovery>) {
        while let Some(transmit) = self.agent.poll_transmit() {
            self.send(transmit.uplink, &transmit.payload);
        }
        while let Some(event) = self.agent.poll_event() {
            self.note(now, event, recoveries);
        }
    }

    fn note(&mut self, now: BootTime, event: Event, recoveries: &mut Vec<MemberRecovery>) {
        match event {
            Event::SessionStarted { grant } => {
                self.view.sessions += 1;
                self.view.session = Some(grant.session_id);
            }
            Event::StateChange { to, uplink: over, .. } => {
                if to == State::Attached && self.next_marker == BootTime::NEVER && !self.quiet {
                    self.next_marker = now;
                }
                if to == State::Attached && self.asked_at.is_some() {
                    self.view.birth = self.asked_at.take().map(|at| now.since(at));
                }
                self.view.state = Some(to);
                self.view.uplink = Some(uplink(over));
            }
            Event::RecoveryComplete { report, .. } => {
                self.view.recoveries += 1;
                self.view.uplink = Some(uplink(report.to));
                recoveries.push(MemberRecovery { member: self.number, at: now, report });
            }
            Event::Refused { .. } => self.view.refusals += 1,
            Event::SessionEnded { .. } => {
                self.view.ended += 1;
                self.view.session = None;
                self.view.state = None;
                self.next_marker = BootTime::NEVER;
                self.asked_at = Some(now);
            }
            Event::Trouble { message } => {
                tracing::warn!(member = self.number, message, "an agent has trouble")
            }
            Event::RecoveryStarted { .. }
            | Event::SwitchCancelled { .. }
            | Event::Link { .. }
            | Event::MtuChanged { .. } => {}
        }
    }

    /// Another port on the bound uplink.
    pub(super) fn rebind(&mut self) {
        let bound = self.view.uplink.unwrap_or(self.spec.prefers);
        self.port[bound as usize] += 1;
    }

    /// The bound link is lost, and the agent is told.
    fn fail(&mut self, now: BootTime) {
        self.heal(now);
        let bound = self.view.uplink.unwrap_or(self.spec.prefers);
        self.failed = Some(bound);
        self.link(now, bound, false);
    }

    /// A link that was lost is there again.
    pub(super) fn heal(&mut self, now: BootTime) {
        if let Some(uplink) = self.failed.take() {
            self.link(now, uplink, true);
        }
    }

    /// Markers wait, or go on at moments spread over their interval.
    pub(super) fn quiet(&mut self, now: BootTime, quiet: bool, place: f64) {
        self.quiet = quiet;
        self.next_marker = if quiet || self.view.state.is_none() {
            BootTime::NEVER
        } else {
            now.after(self.shared.marker_interval.mul_f64(place))
        };
    }

    /// Comes again as a new process would, without a goodbye of the old one.
    pub(super) fn vanish(&mut self, now: BootTime) -> anyhow::Result<()> {
        self.agent = agent(&self.spec, &self.shared)?;
        self.failed = None;
        self.next_marker = BootTime::NEVER;
        self.last_reply = None;
        self.view.birth = None;
        self.view.session = None;
        self.view.state = None;
        self.view.vanished += 1;
        self.starts_at = Some(now);
        Ok(())
    }

    pub(super) fn count(&self, census: &mut Census) {
        let view = &self.view;
        census.attached += usize::from(view.state == Some(State::Attached));
        census.heard += usize::from(view.state == Some(State::Attached) && self.last_reply.is_some());
        census.recovered += usize::from(view.recoveries > self.marked);
        census.sessions += view.sessions;
        census.ended += view.ended;
        census.recoveries += view.recoveries;
        census.refusals += view.refusals;
        census.sent += view.sent;
        census.replied += view.replied;
        census.doubled += view.doubled;
        census.damaged += view.damaged;
    }

    /// Says goodbye and comes again as a new process would.
    pub(super) fn restart(
        &mut self,
        now: BootTime,
        recoveries: &mut Vec<MemberRecovery>,
    ) -> anyhow::Result<()> {
        self.terminate(now, recoveries);
        self.agent = agent(&self.spec, &self.shared)?;
        self.failed = None;
        self.starts_at = Some(now);
        Ok(())
    }

    /// Says goodbye; a new process is there and does nothing yet.
    pub(super) fn leave(
        &mut self,
        now: BootTime,
        recoveries: &mut Vec<MemberRecovery>,
    ) -> anyhow::Result<()> {
        self.terminate(now, recoveries);
        self.view.state = None;
        self.view.session = None;
        self.failed = None;
        self.agent = agent(&self.spec, &self.shared)?;
        Ok(())
    }

    pub(super) fn terminate(&mut self, now: BootTime, recoveries: &mut Vec<MemberRecovery>) {
        self.agent.terminate(now);
        self.flush(now, recoveries);
        self.next_marker = BootTime::NEVER;
        self.last_reply = None;
        self.view.birth = None;
    }

    pub(super) fn flap(&mut self, now: BootTime, interval: Option<Duration>) {
        self.flaps = interval;
        self.next_flap = if interval.is_some() { now } else { BootTime::NEVER };
        if interval.is_none() {
            Uplink::ALL.into_iter().for_each(|uplink| self.link(now, uplink, true));
        }
    }

    fn flap_once(&mut self, now: BootTime) {
        let Some(interval) = self.flaps else { return };
        self.next_flap = now.after(interval);
        let bound = self.view.uplink.unwrap_or(self.spec.prefers);
        self.link(now, bound.other(), true);
        self.link(now, bound, false);
    }

    pub(super) fn mark(&mut self, now: BootTime) {
        self.marked = self.view.recoveries;
        self.view.longest_gap = Duration::ZERO;
        self.last_reply = self.last_reply.map(|_| now);
    }

    pub(super) fn view(&self, now: BootTime) -> MemberView {
        let running = self.last_reply.map_or(Duration::ZERO, |last| now.since(last));
        MemberView { longest_gap: self.view.longest_gap.max(running), ..self.view.clone() }
    }
}
