//! The seeded, deterministic simulator: the production engine, agents, pipeline and installer on virtual time, joined by
//! a simulated network, with processes that stall and die.
//!
//! Everything that happens is an entry of one queue; everything random is drawn from the seed. So the same
//! [`Setup`] and the same calls give the same datagrams and the same audit log, octet for octet (I9). After every step
//! the [`observer`] judges from outside what wire, tables and logs show.
//!
//! What is not here: sockets, rings, XDP in a kernel, netlink. Their part of the story is told by the namespace tests.
//!
//! | Module | What for |
//! |---|---|
//! | [`network`] | paths, weather, NATs, links, filters, the tape |
//! | [`faults`] | what can go wrong, and random schedules of it |
//! | [`churn`] | what thousands of mobile hosts go through by themselves |
//! | `cheap` | a Diffie-Hellman that costs next to nothing |
//! | [`observer`] | the invariants, seen from outside |
//! | [`packet`], [`dice`] | numbered inner packets, seeded randomness |

mod agenda;
mod cheap;
pub mod churn;
mod client;
mod control;
pub mod dice;
pub mod faults;
pub(crate) mod gateway;
pub mod network;
pub mod observer;
pub mod packet;

pub use agenda::Actor;
pub use client::{ATTACKER, inner_address};
pub use gateway::{DataPlaneError, INNER_GATEWAY, Restart, SERVER};

use agenda::{Agenda, Happening};
use cheap::CheapGroup;
use churn::{Churn, Profile};
use client::ClientHost;
use dice::Dice;
use gateway::data_plane::Sizes;
use gateway::{Host, HostSetup};
use jvpn_abi::wire::{SlotId, Suite};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_client::agent::AgentStatus;
use jvpn_client::paths::UplinkId;
use jvpn_client::paths::candidates::CandidateSettings;
use jvpn_controlplane::audit::Encoder;
use jvpn_controlplane::engine::{PeerSettings, Settings, TunnelSettings};
use jvpn_crypto::keys::{PresharedKey, StaticSecret};
use jvpn_crypto::rng::{Random, RandomError};
use jvpn_session::messages::{Prefix, SessionId};
use jvpn_session::{Policy, State};
use network::{Flight, Heading, Network, PathId};
use observer::{Observer, Violation};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Virtual time at the start: no simulation begins at boot.
const START: BootTime = BootTime::from_millis(5_000_000);
/// From a doorbell or datagram until the woken process runs.
const WAKE_LATENCY: (Duration, Duration) = (Duration::from_micros(5), Duration::from_micros(60));
/// The LAN, one way.
const LAN_LATENCY: Duration = Duration::from_micros(100);
/// What stands in the audit log is Unix time.
const UNIX_OFFSET_MS: i64 = (client::UNIX_AT_BOOT / 1_000_000) as i64;
/// Happenings at one moment of virtual time; more is a livelock.
const AT_ONCE_MAX: u32 = 100_000;

/// States with a confirmed binding.
const BOUND: [&str; 3] = ["ATTACHED", "VOLATILE", "DEGRADED"];

/// Streams of the seed.
mod stream {
    pub(super) const KEYS: u64 = 1;
    pub(super) const NETWORK: u64 = 2;
    pub(super) const LATENCY: u64 = 3;
    pub(super) const STRIKES: u64 = 4;
    pub(super) const MISFORTUNES: u64 = 7;
    /// One per client from here on.
    pub(super) const WALKS: u64 = 1 << 33;
}

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Everything random follows from it.
    pub seed: u64,
    /// Clients, each a peer of its own.
    pub clients: usize,
    /// Uplinks of each.
    pub uplinks: u8,
    /// Workers of the data plane.
    pub workers: usize,
    /// Slots of the data plane's tables.
    pub slots: u32,
    /// The gateway's policy.
    pub policy: Policy,
    /// Suites of both sides, best first.
    pub suites: Vec<Suite>,
    /// Each client's application sends a packet this often.
    pub traffic_every: Option<Duration>,
    /// What a control plane that starts beside a living data plane goes on from.
    pub restart: Restart,
    /// How clients watch the uplinks beside the bound one.
    pub candidates: CandidateSettings,
    /// The Diffie-Hellman function of every key.
    pub keys: KeyKind,
    /// What clients, network and gateway go through by themselves. Then links come up one by one.
    pub churn: Option<Profile>,
}

/// The Diffie-Hellman function of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// X25519, as everywhere else.
    Real,
    /// A cheap one: what the world costs is then in the engine.
    Cheap,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 1,
            clients: 1,
            uplinks: 2,
            workers: 2,
            slots: 128,
            policy: Policy::default(),
            suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
            traffic_every: Some(Duration::from_millis(20)),
            restart: Restart::FromJournal,
            // A scenario says which switches it wants.
            candidates: CandidateSettings { fail_back_hold: None, ..CandidateSettings::default() },
            keys: KeyKind::Real,
            churn: None,
        }
    }
}

/// Why a simulation could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Keys.
    #[error("the seed gave no keys: {0}")]
    Random(#[from] RandomError),
    /// The data plane's memory.
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
    /// An inner prefix.
    #[error("an inner prefix of the simulation: {0}")]
    Prefix(String),
}

/// The whole world.
pub struct Simulation {
    now: BootTime,
    agenda: Agenda,
    /// The network, to be disturbed at will.
    pub network: Network,
    /// What was seen so far.
    pub observer: Observer,
    host: Host,
    clients: Vec<ClientHost>,
    latency: Dice,
    strikes: Dice,
    stalled: BTreeMap<Actor, BootTime>,
    /// Happenings at this moment.
    at_once: u32,
    audit_digest: Sha256,
    encoder: Encoder,
    /// The audit log as JSON lines.
    pub audit: Vec<String>,
    /// Prints the timeline while it happens.
    pub traced: bool,
    /// Slots that something happened to since they were judged last.
    touched: Vec<u32>,
    /// The last slot that was judged in its turn.
    next_checked: u32,
    /// Calls into the engine so far.
    pub engine_calls: u64,
    /// Happenings so far.
    pub happenings: u64,
    churn: Option<Churn>,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("now", &self.now)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

impl Simulation {
    /// Both gateway processes run, every link is up, nothing has been sent.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(setup: &Setup) -> Result<Self, SetupError> {
        let mut keys = Dice::new(setup.seed, stream::KEYS);
        let draw = |keys: &mut Dice| match setup.keys {
            KeyKind::Real => StaticSecret::generate(keys),
            KeyKind::Cheap => StaticSecret::simulated(keys, &CheapGroup),
        };
        let secret = draw(&mut keys)?;
        let mut node_key = [0; 32];
        keys.fill(&mut node_key)?;
        let secrets = (0..setup.clients).map(|_| draw(&mut keys)).collect::<Result<Vec<_>, _>>()?;
        let peers = secrets.iter().enumerate().map(|(client, secret)| peer(client, secret)).collect();
        let settings = settings(setup, peers)?;
        let (seed, restart) = (setup.seed, setup.restart);
        // A session per client, and those that a newer one supersedes.
        let journal = 1_024 + 2 * setup.clients as u32;
        let sizes = Sizes { slots: setup.slots, journal, workers: setup.workers };
        let host = Host::new(HostSetup { settings, secret, node_key, seed, sizes, restart });
        let gateway = host.public_key();
        let client =
            |(client, secret): (usize, StaticSecret)| ClientHost::new(client, secret, gateway, setup);
        let mut simulation = Self {
            now: START,
            agenda: Agenda::default(),
            network: Network::new(setup.clients, setup.uplinks, Dice::new(seed, stream::NETWORK)),
            observer: Observer::new(setup.clients, &setup.policy, START),
            host,
            clients: secrets.into_iter().enumerate().map(client).collect(),
            latency: Dice::new(seed, stream::LATENCY),
            strikes: Dice::new(seed, stream::STRIKES),
            stalled: BTreeMap::new(),
            at_once: 0,
            audit_digest: Sha256::new(),
            encoder: Encoder { node_id: format!("sim-{seed}"), unix_offset_ms: UNIX_OFFSET_MS },
            audit: Vec::new(),
            traced: false,
            touched: Vec::new(),
            next_checked: 0,
            engine_calls: 0,
            happenings: 0,
            churn: setup.churn.map(|profile| Churn::new(profile, setup)),
        };
        simulation.begin(setup)?;
        Ok(simulation)
    }

    fn begin(&mut self, setup: &Setup) -> Result<(), SetupError> {
        self.host.start_data_plane()?;
        self.host.start_control_plane(self.now);
        self.wake_soon(Actor::Control);
        if self.churn.is_some() {
            self.begin_churn();
        } else {
            for id in self.network.ids() {
                self.network.plug(id, 1);
            }
        }
        for client in 0..setup.clients {
            self.observer.set_inner(client, inner_address(client));
            self.wake_soon(Actor::Client(client));
            self.set_traffic(client, setup.traffic_every);
        }
        Ok(())
    }

    /// Virtual time.
    #[must_use]
    pub const fn now(&self) -> BootTime {
        self.now
    }

    /// Clients.
    #[must_use]
    pub const fn clients(&self) -> usize {
        self.clients.len()
    }

    /// What a client's `status` shows.
    #[must_use]
    pub fn client(&self, client: usize) -> AgentStatus {
        self.clients[client].agent.status(self.now)
    }

    /// What the gateway's `status` shows; `None` while there is no control plane.
    #[must_use]
    pub fn gateway(&self) -> Option<jvpn_controlplane::engine::Status> {
        self.host.control.as_ref().map(|control| control.status(self.now))
    }

    /// Whether every client is attached to the gateway and the gateway to it: one session, one slot.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        (0..self.clients.len()).all(|client| self.is_client_settled(client))
    }

    /// Whether a client and the gateway agree on its session and slot.
    #[must_use]
    pub fn is_client_settled(&self, client: usize) -> bool {
        let Some(control) = &self.host.control else { return false };
        let status = self.client(client);
        let (Some(id), Some(path)) = (status.session_id, status.path) else { return false };
        let Ok(id) = id.parse::<SessionId>() else { return false };
        let bound = control.engine.state_of(id).is_some_and(State::is_bound);
        bound && BOUND.contains(&status.state) && control.engine.owner_of(SlotId(path.slot)) == Some(id)
    }

    /// Live sessions and slots in use, as the engine counts them; `None` while there is no control plane.
    #[must_use]
    pub fn live_sessions_and_slots(&self) -> Option<(usize, usize)> {
        let engine = &self.host.control.as_ref()?.engine;
        Some((engine.live_sessions(), engine.slots_in_use()))
    }

    /// Judges every slot of the tables, whatever the size of the world.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn judge_all(&mut self) -> Result<(), Violation> {
        self.check_all()
    }

    /// Packets that a client's application has sent.
    #[must_use]
    pub fn sent(&self, client: usize) -> u64 {
        self.clients[client].sent()
    }

    /// How often a client's application sends from now on.
    pub fn set_traffic(&mut self, client: usize, every: Option<Duration>) {
        let ran = std::mem::replace(&mut self.clients[client].traffic_every, every);
        if ran.is_none() && every.is_some() {
            self.agenda.put(self.now, Happening::Traffic(client));
        }
    }

    /// Digests of all datagrams and of the audit log so far.
    #[must_use]
    pub fn digests(&self) -> (String, String) {
        (self.network.digest(), format!("{:x}", self.audit_digest.clone().finalize()))
    }

    /// Runs for a span.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run(&mut self, span: Duration) -> Result<(), Violation> {
        self.run_until(span, |_| false).map(|_| ())
    }

    /// Runs until `done` (asked after every step) or for a span. How long it took, if it was done.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run_until(
        &mut self,
        span: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<Option<Duration>, Violation> {
        let (begin, end) = (self.now, self.now.after(span));
        if done(self) {
            return Ok(Some(Duration::ZERO));
        }
        while let Some((at, happening)) = self.agenda.next(end) {
            self.pass_to(at)?;
            self.happen(happening)?;
            if done(self) {
                return Ok(Some(self.now.since(begin)));
            }
        }
        self.now = end;
        self.observer.set_now(end);
        Ok(None)
    }

    /// A datagram from anywhere reaches the gateway after the usual delay.
    pub fn inject(&mut self, remote: Endpoint, datagram: Vec<u8>) {
        let at = self.now.after(Duration::from_millis(5));
        let flight = Flight { at, path: None, heading: Heading::Up, external: remote, datagram };
        self.take_off(vec![flight]);
    }

    /// A datagram with the gateway's address reaches a client after the usual delay.
    pub fn inject_down(&mut self, path: PathId, datagram: Vec<u8>) {
        let at = self.now.after(Duration::from_millis(5));
        let external = self.network.path(path).external;
        self.take_off(vec![Flight { at, path: Some(path), heading: Heading::Down, external, datagram }]);
    }

    /// Everything held on its way goes on.
    pub fn release(&mut self) {
        let flights = self.network.release(self.now);
        self.take_off(flights);
    }

    /// The user of a client ends its session for good.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn terminate(&mut self, client: usize) -> Result<(), Violation> {
        self.clients[client].agent.terminate(self.now);
        self.flush_client(client)
    }

    /// Makes an actor stand still until then.
    pub fn stall(&mut self, actor: Actor, span: Duration) {
        self.stalled.insert(actor, self.now.after(span));
    }

    fn pass_to(&mut self, at: BootTime) -> Result<(), Violation> {
        if at > self.now {
            self.now = at;
            self.at_once = 0;
            self.observer.set_now(at);
        }
        self.at_once += 1;
        self.happenings += 1;
        if self.at_once > AT_ONCE_MAX {
            return Err(self.observer.violation("R3.2", "time stands still: a livelock"));
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Turn(actor) => self.turn(actor),
            Happening::Arrival(flight) => self.arrive(flight),
            Happening::AtServer(packet) => {
                let numbered = self.observer.server_receives(&packet)?;
                let echo = numbered.echo().encode();
                self.agenda.put(self.now.after(LAN_LATENCY), Happening::FromServer(echo));
                Ok(())
            }
            Happening::FromServer(packet) => {
                self.packet_of_server(&packet);
                Ok(())
            }
            Happening::Traffic(client) => {
                let host = &mut self.clients[client];
                if let Some(every) = host.traffic_every {
                    if !host.asleep {
                        host.application_sends(SERVER);
                        self.wake_soon(Actor::Client(client));
                    }
                    self.agenda.put(self.now.after(every), Happening::Traffic(client));
                }
                Ok(())
            }
            Happening::LinkNews(client) => {
                self.clients[client].news_of_links();
                self.wake_soon(Actor::Client(client));
                Ok(())
            }
            Happening::Strike(fault) => self.strike(*fault),
            Happening::Walk(client) => self.walk(client),
            Happening::Talk(client, left) => {
                self.talk(client, left);
                Ok(())
            }
            Happening::Misfortune => self.misfortune(),
        }
    }

    fn turn(&mut self, actor: Actor) -> Result<(), Violation> {
        if let Some(until) = self.stalled.get(&actor).copied() {
            if self.now < until {
                self.agenda.wake(actor, until);
                return Ok(());
            }
            self.stalled.remove(&actor);
        }
        match actor {
            Actor::Control => self.control_turn(),
            Actor::Installer => {
                self.installer_turn();
                Ok(())
            }
            Actor::Worker(index) => self.worker_turn(index),
            Actor::Client(client) => {
                self.clients[client].wake_up(self.now);
                self.client_turn(client)
            }
        }
    }

    fn arrive(&mut self, flight: Flight) -> Result<(), Violation> {
        if !self.network.lands(&flight) {
            return Ok(());
        }
        match (flight.heading, flight.path) {
            (Heading::Up, _) => self.at_gateway(flight.external, flight.datagram),
            (Heading::Down, Some(path)) => {
                self.clients[path.client].receive(path.uplink, flight.datagram);
                self.wake_soon(Actor::Client(path.client));
            }
            (Heading::Down, None) => {}
        }
        Ok(())
    }

    fn take_off(&mut self, flights: Vec<Flight>) {
        for flight in flights {
            self.agenda.put(flight.at, Happening::Arrival(flight));
        }
    }

    fn wake_soon(&mut self, actor: Actor) {
        let (least, most) = WAKE_LATENCY;
        let at = self.now.after(self.latency.between(least, most));
        self.agenda.wake(actor, at);
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        if self.traced {
            let ms = self.now.since(START).as_micros() as f64 / 1_000.0;
            eprintln!("{ms:>12.3} {}", text());
        }
    }
}

/// The path of a client over an uplink.
#[must_use]
pub const fn path(client: usize, uplink: u8) -> PathId {
    PathId { client, uplink: UplinkId(uplink) }
}

fn peer(client: usize, secret: &StaticSecret) -> PeerSettings {
    let prefix = Prefix { addr: IpAddr::V4(inner_address(client)), len: 32 };
    PeerSettings {
        name: format!("client{client}"),
        public_key: secret.public(),
        preshared_key: PresharedKey::default(),
        addresses: vec![prefix],
        prefixes: vec![prefix],
    }
}

fn settings(setup: &Setup, peers: Vec<PeerSettings>) -> Result<Settings, SetupError> {
    Ok(Settings {
        policy: setup.policy.clone(),
        // The numbers may differ from the preset's; a log of the simulation comes with its policy.
        policy_name: setup.churn.map_or("simulated", |profile| profile.preset).to_owned(),
        suites: setup.suites.clone(),
        tunnel: TunnelSettings {
            gateway_addresses: vec![IpAddr::V4(INNER_GATEWAY)],
            mtu: 1_280,
            routes: vec!["192.168.50.0/24".parse().map_err(SetupError::Prefix)?],
            dns: Vec::new(),
        },
        peers,
    })
}
