//! The only loop: sockets, tunnel device, netlink, status socket and signals; everything waits in one `epoll`.
//!
//! Level-triggered: what is not taken now is reported again, so one busy descriptor cannot starve the others. Without
//! packets, events and due timers the process sleeps.

mod alarm;
mod data;
pub mod frames;
mod guard;
mod lookup;
mod names;
mod starting;

use crate::agent::{Agent, AgentConfig, Event, GatewayEndpoints};
use crate::config::{Config, GatewayEndpoint, Offload};
use crate::events::EventSink;
use crate::host::killswitch::KillSwitchError;
use crate::link::model::UplinkRouting;
use crate::link::traffic::TrafficSetup;
use crate::link::watch::{News, Watch};
use crate::link::{Links, TunnelSetup};
use crate::offload::coalesce::Batch;
use crate::offload::too_big::Teller;
use crate::paths::UplinkId;
use crate::paths::mtu::MTU_BASE;
use crate::transport::{Transport, udp::Udp};
use crate::tun::Tun;
use alarm::Alarm;
use anyhow::Context;
use frames::{Frames, Inbox};
use guard::{Ending, Guard};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::rng::OsRandom;
use jvpn_host::status::{Asker, StatusListener};
use jvpn_host::{clock, signals};
use jvpn_session::messages::{HandshakeGrant, Prefix};
use names::Names;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde_json::{Value, json};
use starting::Waiting;
use std::collections::BTreeSet;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Mode of the status socket: it shows addresses and counters, and `down` ends the tunnel. Root only.
const STATUS_MODE: u32 = 0o600;
/// Batches per descriptor and round: enough to drain a burst, few enough that timers and the other direction get their turn.
const BATCHES_PER_ROUND: usize = 4;
/// A gateway that has not answered for so long is worth a line in the log.
const SILENCE_TOLD_AFTER: Duration = Duration::from_secs(5);

/// Whether the user was told of a gateway that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    Untold,
    Told,
}

/// How often links are looked at again while something about them was refused.
const LINK_RETRY: Duration = Duration::from_secs(2);

/// What a descriptor is, as `epoll` hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signals,
    Restart,
    Status,
    Links,
    Tunnel,
    Alarm,
    Names,
    Uplink(UplinkId),
}

impl Token {
    const FIRST_UPLINK: u64 = 16;

    fn number(self) -> u64 {
        match self {
            Self::Signals => 0,
            Self::Status => 1,
            Self::Links => 2,
            Self::Tunnel => 3,
            Self::Alarm => 4,
            Self::Names => 5,
            Self::Restart => 6,
            Self::Uplink(id) => Self::FIRST_UPLINK + u64::from(id.0),
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Signals,
            1 => Self::Status,
            2 => Self::Links,
            3 => Self::Tunnel,
            4 => Self::Alarm,
            5 => Self::Names,
            6 => Self::Restart,
            other => Self::Uplink(UplinkId(u8::try_from(other.checked_sub(Self::FIRST_UPLINK)?).ok()?)),
        })
    }
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Yes,
    No(Ending),
}

/// The agent with everything it needs from the host.
struct Shell {
    agent: Agent,
    epoll: Epoll,
    uplinks: Vec<Uplink>,
    tunnel: Tun,
    links: Links,
    watch: Watch,
    status: StatusListener,
    signals: UnixStream,
    restarts: UnixStream,
    alarm: Alarm,
    /// If the gateway is configured by name.
    names: Option<Names>,
    guard: Guard,
    /// Mark of the agent's own datagrams.
    mark: u32,
    /// Whether the tunnel has had routes: the host's own lookups may go into it.
    routed: bool,
    traffic: TrafficSetup,
    events: EventSink,
    frames: Frames,
    inbox: Inbox,
    /// Packets that came, until the tunnel device takes them.
    batch: Batch,
    /// Tells senders of what the path does not carry.
    teller: Teller,
    offload: Offload,
    devices: Vec<String>,
    interface: String,
    look_again: Option<BootTime>,
    silence: Silence,
    running: Running,
    /// Who asked for the end: told when everything is gone.
    askers: Vec<Asker>,
}

/// An uplink and, while its device exists, its transport.
struct Uplink {
    device: String,
    /// Where the transport leads.
    gateway: Endpoint,
    transport: Option<Box<dyn Transport>>,
}

impl Uplink {
    fn new(device: String) -> Self {
        Self { device, gateway: Endpoint::default(), transport: None }
    }
}

/// Runs the agent until it is asked to end. Routes, rules and device are gone afterwards.
///
/// # Errors
/// If something is missing at the start, or the tunnel device is deleted; other trouble is reported and worked around.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let mut shell = match Shell::start(config) {
        Err(error) if error.downcast_ref().is_some_and(KillSwitchError::is_told_to_end) => {
            tracing::info!("asked to end before the start was done");
            return Ok(());
        }
        started => started?,
    };
    tracing::info!(interface = config.interface.name, gateway = %config.gateway.endpoint, "started");
    while shell.running == Running::Yes {
        shell.round()?;
    }
    shell.finish();
    Ok(())
}

impl Shell {
    fn start(config: &Config) -> anyhow::Result<Self> {
        let random = OsRandom::checked()?;
        // Before anything of the host is touched: these are what a user gets wrong.
        let (local, preshared) = (config.secret()?, config.preshared()?);
        // Handlers first: from here on Ctrl-C cleans up.
        let signals = signals::shutdown_stream().context("cannot register signal handlers")?;
        let restarts = signals::restart_stream().context("cannot register signal handlers")?;
        let status = StatusListener::bind(&config.status_socket, STATUS_MODE)
            .with_context(|| format!("cannot serve {}", config.status_socket.display()))?;
        // Until a name has been looked up nothing leads anywhere, and no uplink is usable.
        let endpoints = GatewayEndpoints::new(config.gateway.addresses().map(Endpoint::from));
        let names = match &config.gateway.endpoint {
            GatewayEndpoint::Address(_) => None,
            GatewayEndpoint::Name { host, port } => Some(Names::new(host.clone(), *port)?),
        };
        let (status, guard, waiting) = shut(config, endpoints, status, [&signals, &restarts])?;
        let links = Links::open(config.routing(), addresses(endpoints), config.interface.table)?;
        let watch = Watch::open()?;
        let tunnel = Tun::open(&config.interface.name, config.offload.tunnel)?;
        let events = EventSink::open(config.events_file.as_deref())?;
        let agent = Agent::new(
            AgentConfig {
                local,
                gateway: config.gateway.public_key(),
                preshared,
                endpoint: endpoints,
                suites: config.suites(),
                uplinks: config.uplink_specs(),
                candidates: config.candidates(),
            },
            Box::new(random),
        );
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll descriptor")?;
        let devices: Vec<String> =
            config.routing().into_iter().map(|UplinkRouting { device, .. }| device).collect();
        let uplinks = devices.iter().map(|device| Uplink::new(device.clone())).collect();
        let mut shell = Self {
            agent,
            epoll,
            uplinks,
            tunnel,
            links,
            watch,
            status,
            signals,
            restarts,
            alarm: Alarm::new().context("cannot make a timer")?,
            names,
            guard,
            mark: config.traffic.mark,
            routed: false,
            traffic: TrafficSetup::new(&config.traffic),
            events,
            frames: Frames::default(),
            inbox: Inbox::default(),
            batch: Batch::default(),
            teller: Teller::default(),
            offload: config.offload,
            devices,
            interface: config.interface.name.clone(),
            look_again: None,
            silence: Silence::Untold,
            running: if waiting.ending.is_empty() { Running::Yes } else { Running::No(Ending::Wish) },
            askers: waiting.ending,
        };
        shell.subscribe()?;
        shell.guard.begun();
        shell.refresh_links(clock::now());
        starting::answer(waiting.curious, &shell.document(clock::now()));
        Ok(shell)
    }

    fn subscribe(&self) -> anyhow::Result<()> {
        let add = |fd: std::os::fd::BorrowedFd<'_>, token: Token| {
            self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.number()))
        };
        add(self.signals.as_fd(), Token::Signals)?;
        add(self.restarts.as_fd(), Token::Restart)?;
        add(self.status.listener().as_fd(), Token::Status)?;
        add(self.watch.as_fd(), Token::Links)?;
        add(self.tunnel.as_fd(), Token::Tunnel)?;
        add(self.alarm.as_fd(), Token::Alarm)?;
        if let Some(names) = &self.names {
            add(names.as_fd(), Token::Names)?;
        }
        Ok(())
    }

    /// Waits, takes what is there, does what is due.
    fn round(&mut self) -> anyhow::Result<()> {
        let mut ready = [EpollEvent::empty(); 64];
        let now = clock::now();
        let timeout = self.timeout(now);
        self.alarm.set(now, self.agent.poll_timeout());
        let count = match self.epoll.wait(&mut ready, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => return Err(errno).context("waiting for events failed"),
        };
        let tokens = || ready.iter().take(count).filter_map(|event| Token::from_number(event.data()));
        // After a suspend neither what waits in the sockets nor what is due means what it meant.
        self.agent.handle_monotonic(clock::now(), clock::monotonic_ns());
        // Sockets first: what has been answered must not be seen as silence by the timers below.
        for token in tokens() {
            if let Token::Uplink(id) = token {
                self.take_datagrams(id);
            }
        }
        let mut lost = None;
        for token in tokens() {
            match token {
                Token::Uplink(_) => {}
                Token::Tunnel => lost = self.take_packets().err(),
                Token::Links => self.take_news(),
                Token::Status => self.answer_status(),
                Token::Signals => self.take_signal(Ending::Signal),
                Token::Restart => self.take_signal(Ending::Restart),
                Token::Alarm => self.alarm.clear(),
                Token::Names => self.take_name(),
            }
        }
        self.heed_loss(lost)?;
        let now = clock::now();
        self.agent.set_wall_clock(now, clock::unix_ns());
        if self.agent.poll_timeout().is_some_and(|due| due <= now) {
            self.agent.handle_timeout(now);
        }
        self.tell_of_silence(now);
        if self.agent.poll_suspicion() || self.look_again.is_some_and(|due| due <= now) {
            self.refresh_links(now);
        }
        if self.lookup_due().is_some_and(|due| due <= now) {
            self.look_up(now);
        }
        self.flush(now);
        Ok(())
    }

    /// Milliseconds until something is due, rounded up so that the timer has really come.
    fn timeout(&self, now: BootTime) -> EpollTimeout {
        let due = [self.agent.poll_timeout(), self.look_again, self.lookup_due()].into_iter().flatten().min();
        due.map_or(EpollTimeout::NONE, |due| {
            let ms = due.since(now).as_nanos().div_ceil(1_000_000);
            EpollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::ZERO)
        })
    }

    fn take_news(&mut self) {
        match self.watch.drain(&self.devices, self.links.indexes()) {
            Ok(News::None) => {}
            Ok(News::Changed) => self.refresh_links(clock::now()),
            Err(error) => {
                tracing::warn!(%error, "link events failed; looking at the links by time instead");
                self.look_again = Some(clock::now().after(LINK_RETRY));
            }
        }
    }

    /// A gateway that stays silent does so by design towards whom it does not know: the user must hear what to check.
    fn tell_of_silence(&mut self, now: BootTime) {
        match (self.agent.unanswered_since(), self.silence) {
            (None, _) => self.silence = Silence::Untold,
            (Some(since), Silence::Untold) if now.since(since) >= SILENCE_TOLD_AFTER => {
                self.silence = Silence::Told;
                tracing::warn!(
                    endpoint = %self.agent.endpoints().preferred().unwrap_or_default(),
                    "no answer from the gateway: check endpoint and port, gateway.public_key, that the gateway lists \
                     this client's key ('jvpn pubkey'), any preshared key, and this host's clock"
                );
            }
            (Some(_), Silence::Untold | Silence::Told) => {}
        }
    }

    fn refresh_links(&mut self, now: BootTime) {
        let endpoints = self.agent.endpoints();
        if endpoints.preferred().is_some() {
            self.look_at_links(now, endpoints);
        }
    }

    /// Asks the host for the state of the links, opens and closes transports, and tells the agent.
    fn look_at_links(&mut self, now: BootTime, gateway: GatewayEndpoints) {
        self.look_again = None;
        // A link that has come may send a handshake at once, and its timestamp is wall-clock time.
        self.agent.set_wall_clock(now, clock::unix_ns());
        let states = match self.links.refresh() {
            Ok(states) => states,
            Err(error) => {
                tracing::warn!(%error, "the links cannot be looked at; trying again");
                self.look_again = Some(now.after(LINK_RETRY));
                return;
            }
        };
        self.guard.update(allowed(gateway, self.links.helpers()), self.links.local());
        for ((id, uplink), state) in (0u8..).map(UplinkId).zip(&mut self.uplinks).zip(states) {
            let mut state = state;
            // The family of the uplink's own address decides which of the gateway's it speaks to; without one nothing
            // leaves, and the socket that is there may go on.
            let towards = state.source().map_or(Some(uplink.gateway), |source| gateway.of_family(source));
            let towards = towards.filter(|known| *known != Endpoint::default()).or(gateway.preferred());
            if state == crate::paths::LinkState::Missing || towards != Some(uplink.gateway) {
                uplink.transport = None;
            }
            if state != crate::paths::LinkState::Missing
                && uplink.transport.is_none()
                && let Some(towards) = towards
            {
                match open_transport(&self.epoll, &uplink.device, self.mark, self.offload.udp, towards, id) {
                    Ok(transport) => (uplink.transport, uplink.gateway) = (Some(transport), towards),
                    Err(error) => {
                        tracing::warn!(%error, device = uplink.device, "no socket on this uplink; trying again");
                        self.look_again = Some(now.after(LINK_RETRY));
                        state = crate::paths::LinkState::NoRoute;
                    }
                }
            }
            self.agent.handle_link_event(now, id, state);
        }
        self.flush(now);
    }

    fn take_signal(&mut self, ending: Ending) {
        let mut octets = [0; 16];
        let stream = if ending == Ending::Restart { &mut self.restarts } else { &mut self.signals };
        if stream.read(&mut octets).is_ok_and(|count| count > 0) {
            tracing::info!(?ending, "asked to end");
            self.running = Running::No(ending);
        }
    }

    fn answer_status(&mut self) {
        let document = self.document(clock::now());
        let askers = self.status.serve_or_keep(|request| match request {
            "status" => Some(document.clone()),
            // Answered when it has ended.
            "down" => None,
            other => Some(unknown(other)),
        });
        if !askers.is_empty() {
            tracing::info!("asked to end over the status socket");
            self.running = Running::No(Ending::Wish);
            self.askers.extend(askers);
        }
    }

    /// The status document.
    fn document(&self, now: BootTime) -> Value {
        let transports: Vec<Value> = self
            .uplinks
            .iter()
            .filter_map(|uplink| {
                let transport = uplink.transport.as_ref()?;
                let (name, health) = (transport.name(), transport.health());
                Some(json!({ "device": uplink.device, "transport": name, "health": health }))
            })
            .collect();
        let agent = serde_json::to_value(self.agent.status(now)).unwrap_or(Value::Null);
        let mut document = json!({
            "process": "jvpn",
            "version": env!("CARGO_PKG_VERSION"),
            "interface": self.interface,
            "transports": transports,
            "tunnel": {
                "up": self.links.is_tunnel_up(),
                "offload": self.tunnel.offloads(),
                "counters": self.tunnel.counters(),
            },
            "events_lost": self.events.lost(),
            "traffic": self.guard.status(),
        });
        if let (Value::Object(document), Value::Object(agent)) = (&mut document, agent) {
            document.extend(agent);
        }
        document
    }

    /// Sends what the agent wants sent and writes down what it says.
    fn flush(&mut self, now: BootTime) {
        while let Some(transmit) = self.agent.poll_transmit() {
            if let Some(transport) =
                self.uplinks.get_mut(transmit.uplink.index()).and_then(|u| u.transport.as_mut())
            {
                transport.send_one(&transmit.payload);
            }
        }
        while let Some(event) = self.agent.poll_event() {
            if let Event::SessionStarted { grant } = &event {
                self.apply(grant);
            } else if let Event::MtuChanged { mtu, .. } = &event {
                self.set_mtu(*mtu);
            }
            self.events.write(now, &event, self.agent.paths());
        }
    }

    /// Gives the tunnel device what the gateway granted.
    fn apply(&mut self, grant: &HandshakeGrant) {
        let host = |addr: &IpAddr| Prefix { addr: *addr, len: crate::link::model::host_len(*addr) };
        let own = grant.gateway_addresses.iter().map(host);
        let setup = TunnelSetup {
            addresses: grant.addresses.clone(),
            routes: grant.routes.iter().copied().chain(own).collect(),
            traffic: self.traffic.clone(),
            segments_max: self.tunnel.is_offloaded().then_some(crate::tun::SEGMENTS_MAX as u32),
            // What the path carries beyond that is searched for.
            mtu: u32::from(MTU_BASE.min(grant.mtu)),
        };
        if let Err(error) = self.links.set_up_tunnel(self.tunnel.index(), &setup) {
            tracing::error!(%error, "the tunnel device could not be set up; nothing will be routed into it");
        }
        if let Err(error) = self.links.refresh() {
            tracing::error!(%error, "the tunnel's routes could not be set");
        }
        self.routed = true;
        self.guard.set_name_servers(&grant.dns);
    }

    /// Gives the tunnel device the size that the path carries. Below what IPv6 asks of a link the device stays, or it would
    /// lose its IPv6: then TCP keeps to the MSS that the gateway sets.
    fn set_mtu(&mut self, mtu: u16) {
        let mtu = u32::from(mtu.max(MTU_BASE));
        match self.links.set_mtu(self.tunnel.index(), mtu) {
            Ok(()) => tracing::info!(mtu, "the tunnel carries packets of this size now"),
            Err(error) => tracing::warn!(%error, mtu, "the tunnel device does not take this MTU"),
        }
    }

    /// Says goodbye, removes what was made, and tells who asked for the end what came of it: as the very last thing.
    fn finish(mut self) {
        let now = clock::now();
        self.agent.terminate(now);
        self.flush(now);
        let Self { mut links, tunnel, status, askers, interface, guard, running, .. } = self;
        // Who asked for the end by name is told that the host is open.
        let ending = match running {
            Running::No(ending) if askers.is_empty() => ending,
            Running::No(_) | Running::Yes => Ending::Wish,
        };
        let mut left = Vec::new();
        left.extend(links.tear_down().err().map(|error| error.to_string()));
        drop(tunnel);
        match links.left_over(&interface) {
            Ok(found) => left.extend(found),
            Err(error) => left.push(format!("unknown, since the host cannot be looked at: {error}")),
        }
        // Last: nothing is let out while anything of the tunnel is still there.
        let left = guard.finish(left, ending);
        let document = if left.is_empty() {
            tracing::info!("ended; device, routes and rules removed");
            json!({ "ok": true, "message": "ended" })
        } else {
            tracing::warn!(left = left.join("; "), "something was left behind; the next start removes it");
            json!({ "ok": false, "left": left })
        };
        drop((links, status));
        starting::answer(askers, &document);
    }
}

/// Shuts the host if that is wanted, which may take long. Who asks something meanwhile is heard: `jvpn down` ends the start.
fn shut(
    config: &Config,
    endpoints: GatewayEndpoints,
    status: StatusListener,
    [signals, restarts]: [&UnixStream; 2],
) -> anyhow::Result<(StatusListener, Guard, Waiting)> {
    let (guard, waiting) = starting::listening(&status, |wish| {
        Guard::start(config, allowed(endpoints, &[]), &[signals.as_fd(), restarts.as_fd(), wish])
    })
    .context("cannot listen while starting")?;
    match guard {
        Ok(guard) => Ok((status, guard, waiting)),
        Err(error) => {
            waiting.give_up(status, config);
            Err(error)
        }
    }
}

fn unknown(request: &str) -> Value {
    json!({ "error": format!("unknown request '{request}'; known: status, down") })
}

/// Where the agent's own datagrams go.
fn allowed(gateway: GatewayEndpoints, helpers: &[IpAddr]) -> BTreeSet<(IpAddr, u16)> {
    let gateway = gateway.iter().map(|known| known.socket_addr()).map(|known| (known.ip(), known.port()));
    helpers.iter().map(|helper| (*helper, guard::DNS_PORT)).chain(gateway).collect()
}

/// The gateway's addresses, the preferred one first.
fn addresses(endpoints: GatewayEndpoints) -> Vec<IpAddr> {
    endpoints.iter().map(|endpoint| endpoint.ip()).collect()
}

/// A transport on `device`, known to the poll loop. Closing it removes it there.
fn open_transport(
    epoll: &Epoll,
    device: &str,
    mark: u32,
    offload: bool,
    gateway: Endpoint,
    id: UplinkId,
) -> std::io::Result<Box<dyn Transport>> {
    let udp = Udp::open(device, mark, offload, gateway)?;
    epoll.add(udp.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Uplink(id).number()))?;
    Ok(Box::new(udp))
}

#[cfg(test)]
mod tests;
