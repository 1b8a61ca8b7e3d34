//! A client's host: the production agent, its links and its tunnel device, on virtual time.

use super::agenda::Actor;
use super::dice::Dice;
use super::network::{GATEWAY, PathId};
use super::observer::Violation;
use super::packet::Numbered;
use super::{Setup, Simulation};
use jvpn_abi::wire::{DATA_HEADER_LEN, MsgType, Suite, TAG_LEN};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_client::agent::{Agent, AgentConfig, FRAME_OVERHEAD, Inner};
use jvpn_client::paths::candidates::CandidateSettings;
use jvpn_client::paths::{UplinkId, UplinkSpec};
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Datagrams that wait in a client's sockets; more are lost.
const INBOX_MAX: usize = 1_024;
/// Unix time at boot time zero, ns.
pub(super) const UNIX_AT_BOOT: u64 = 1_700_000_000_000_000_000;
/// The first stream of the seed that agents draw from.
const AGENT_STREAM: u64 = 1 << 32;
/// Starts of one client's process that have streams of their own.
const STARTS_MAX: u64 = 1 << 16;

/// A client's host.
pub(super) struct ClientHost {
    pub(super) agent: Agent,
    inbox: VecDeque<(UplinkId, Vec<u8>)>,
    packets: VecDeque<Vec<u8>>,
    links_changed: bool,
    /// The host is suspended: what arrives is lost.
    pub(super) asleep: bool,
    /// Since when, and how long it has slept since it was switched on: its monotonic clock stood still.
    fell_asleep: BootTime,
    slept: Duration,
    /// By how many seconds its wall clock is off.
    wall_clock_off: i64,
    pub(super) traffic_every: Option<Duration>,
    next_number: u64,
    inner: Ipv4Addr,
    identity: Identity,
}

/// What a client's process starts from.
struct Identity {
    client: usize,
    secret: StaticSecret,
    gateway: PublicKey,
    suites: Vec<Suite>,
    uplinks: u8,
    candidates: CandidateSettings,
    walks: bool,
    seed: u64,
    starts: u64,
}

impl Identity {
    /// A new process: no session, no memory, other randomness.
    fn start(&mut self) -> Agent {
        let spec = |n: u8| UplinkSpec {
            device: format!("up{n}"),
            priority: u32::from(n) + 1,
            // Who walks about pays for everything but Wi-Fi.
            metered: self.walks && n > 0,
        };
        let config = AgentConfig {
            local: self.secret.clone(),
            gateway: self.gateway,
            preshared: PresharedKey::default(),
            endpoint: GATEWAY.into(),
            suites: self.suites.clone(),
            uplinks: (0..self.uplinks).map(spec).collect(),
            candidates: self.candidates,
        };
        let stream = AGENT_STREAM + self.client as u64 * STARTS_MAX + self.starts;
        self.starts += 1;
        Agent::new(config, Box::new(Dice::new(self.seed, stream)))
    }
}

/// Inner address of a client.
#[must_use]
pub fn inner_address(client: usize) -> Ipv4Addr {
    const FIRST: u32 = u32::from_be_bytes([10, 77, 0, 2]);
    Ipv4Addr::from(FIRST + client as u32)
}

impl ClientHost {
    pub(super) fn new(client: usize, secret: StaticSecret, gateway: PublicKey, setup: &Setup) -> Self {
        let (suites, uplinks, seed) = (setup.suites.clone(), setup.uplinks, setup.seed);
        let (candidates, walks) = (setup.candidates, setup.churn.is_some());
        let mut identity =
            Identity { client, secret, gateway, suites, uplinks, candidates, walks, seed, starts: 0 };
        Self {
            agent: identity.start(),
            inbox: VecDeque::new(),
            packets: VecDeque::new(),
            links_changed: true,
            asleep: false,
            fell_asleep: BootTime(0),
            slept: Duration::ZERO,
            wall_clock_off: 0,
            traffic_every: None,
            next_number: 0,
            inner: inner_address(client),
            identity,
        }
    }

    fn restart(&mut self) {
        self.agent = self.identity.start();
        self.inbox.clear();
        self.packets.clear();
        self.links_changed = true;
    }

    /// A datagram reaches a socket.
    pub(super) fn receive(&mut self, uplink: UplinkId, datagram: Vec<u8>) {
        if !self.asleep && self.inbox.len() < INBOX_MAX {
            self.inbox.push_back((uplink, datagram));
        }
    }

    pub(super) const fn set_wall_clock(&mut self, seconds_off: i64) {
        self.wall_clock_off = seconds_off;
    }

    /// The host is suspended.
    pub(super) const fn fall_asleep(&mut self, now: BootTime) {
        if !self.asleep {
            self.asleep = true;
            self.fell_asleep = now;
        }
    }

    /// The host runs, if it did not.
    pub(super) fn wake_up(&mut self, now: BootTime) {
        if std::mem::take(&mut self.asleep) {
            self.slept += now.since(self.fell_asleep);
        }
    }

    /// Its clocks, as the agent's shell reads them.
    fn tell_clocks(&mut self, now: BootTime) {
        let unix = i128::from(UNIX_AT_BOOT + now.0) + i128::from(self.wall_clock_off) * 1_000_000_000;
        self.agent.set_wall_clock(now, u64::try_from(unix).unwrap_or(0));
    }

    /// The application sends to the server.
    pub(super) fn application_sends(&mut self, server: Ipv4Addr) {
        let packet = Numbered { source: self.inner, destination: server, number: self.next_number };
        self.next_number += 1;
        self.packets.push_back(packet.encode());
    }

    pub(super) const fn news_of_links(&mut self) {
        self.links_changed = true;
    }

    /// Packets that the application has sent.
    pub(super) const fn sent(&self) -> u64 {
        self.next_number
    }
}

impl Simulation {
    /// One round of a client's loop, in its order: sockets, tunnel, links, clock.
    pub(super) fn client_turn(&mut self, client: usize) -> Result<(), Violation> {
        let (now, host) = (self.now, &mut self.clients[client]);
        let slept = u64::try_from(host.slept.as_nanos()).unwrap_or(u64::MAX);
        host.agent.handle_monotonic(now, now.0.saturating_sub(slept));
        while let Some((uplink, mut datagram)) = self.clients[client].inbox.pop_front() {
            let host = &mut self.clients[client];
            let packet = host.agent.handle_datagram(self.now, uplink, GATEWAY, &mut datagram);
            if let Some(packet) = packet {
                self.observer.client_receives(client, packet)?;
            }
            self.flush_client(client)?;
        }
        while let Some(packet) = self.clients[client].packets.pop_front() {
            self.seal_packet(client, &packet)?;
        }
        if std::mem::take(&mut self.clients[client].links_changed) {
            self.look_at_links(client)?;
        }
        let (now, host) = (self.now, &mut self.clients[client]);
        host.tell_clocks(now);
        if host.agent.poll_timeout().is_some_and(|due| due <= now) {
            host.agent.handle_timeout(now);
        }
        if host.agent.poll_suspicion() {
            self.look_at_links(client)?;
        }
        self.flush_client(client)?;
        if let Some(due) = self.clients[client].agent.poll_timeout() {
            if due <= self.now {
                let what = format_args!("client {client}: what was due at {due:?} was not done");
                return Err(self.observer.violation("R3.3", what));
            }
            self.agenda.wake(Actor::Client(client), whole_ms(due));
        }
        Ok(())
    }

    fn seal_packet(&mut self, client: usize, packet: &[u8]) -> Result<(), Violation> {
        let mut frame = vec![0; packet.len() + FRAME_OVERHEAD];
        let end = frame.len() - TAG_LEN;
        frame[DATA_HEADER_LEN..end].copy_from_slice(packet);
        let outcome = self.clients[client].agent.handle_inner_packet(self.now, &mut frame);
        if let Inner::Send(uplink) = outcome {
            self.client_sends(PathId { client, uplink }, frame)?;
        }
        self.flush_client(client)
    }

    /// A client's process is killed and starts again.
    pub(super) fn restart_client(&mut self, client: usize) {
        self.clients[client].restart();
        self.observer.client_restarted(client);
        self.wake_soon(Actor::Client(client));
    }

    fn look_at_links(&mut self, client: usize) -> Result<(), Violation> {
        let now = self.now;
        self.clients[client].tell_clocks(now);
        for path in self.network.ids_of(client) {
            let state = self.network.link(path);
            self.clients[client].agent.handle_link_event(self.now, path.uplink, state);
            self.flush_client(client)?;
        }
        Ok(())
    }

    /// Sends what the agent wants sent and notes what it says.
    pub(super) fn flush_client(&mut self, client: usize) -> Result<(), Violation> {
        while let Some(transmit) = self.clients[client].agent.poll_transmit() {
            self.client_sends(PathId { client, uplink: transmit.uplink }, transmit.payload)?;
        }
        while let Some(event) = self.clients[client].agent.poll_event() {
            self.trace(|| format!("client {client}: {}", brief(&event)));
            self.observer.client_event(client, &event)?;
        }
        Ok(())
    }

    fn client_sends(&mut self, path: PathId, datagram: Vec<u8>) -> Result<(), Violation> {
        self.observer.sealed_up(path, &datagram)?;
        self.trace_datagram(path, "up", &datagram);
        let flights = self.network.send_up(self.now, path, datagram);
        self.take_off(flights);
        Ok(())
    }

    /// Prints a control datagram in the timeline.
    pub(super) fn trace_datagram(&self, path: impl std::fmt::Debug, way: &str, datagram: &[u8]) {
        let kind = datagram.first().copied().and_then(MsgType::from_octet);
        if kind != Some(MsgType::Data) {
            self.trace(|| format!("{path:?} {way} {kind:?} {}", datagram.len()));
        }
    }
}

/// A poll timeout has whole milliseconds, rounded up.
pub(super) const fn whole_ms(due: BootTime) -> BootTime {
    BootTime(due.0.saturating_add(999_999) / 1_000_000 * 1_000_000)
}

fn brief(event: &jvpn_client::agent::Event) -> String {
    if let jvpn_client::agent::Event::SessionStarted { grant } = event {
        return format!("SessionStarted {} {:?}", grant.session_id, grant.binding.slot);
    }
    format!("{event:?}")
}

/// An endpoint that belongs to no client.
pub const ATTACKER: Endpoint = Endpoint::v4([192, 0, 2, 66], 6_666);
