//! Production agents and the production engine on virtual time, joined by paths that an input disturbs.

use crate::Source;
use crate::gateway::{GATEWAY, Gateway, PEERS, START, client_secret, gateway_secret};
use crate::plane::{Answers, Lies};
use crate::random::Seeded;
use jvpn_abi::tables::BindingWord;
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, Suite, TAG_LEN};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_client::agent::{Agent, AgentConfig, FRAME_OVERHEAD, Inner};
use jvpn_client::paths::candidates::CandidateSettings;
use jvpn_client::paths::{LinkState, UplinkId, UplinkSpec};
use jvpn_controlplane::engine::TableEvent;
use jvpn_crypto::keys::PresharedKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

/// One way over every path.
const LATENCY: Duration = Duration::from_millis(10);
/// Uplinks of each client.
const UPLINKS: u8 = 2;
/// Datagrams that an attacker remembers.
const RECORDED_MAX: usize = 64;
/// Things that happen at one moment; more is a livelock.
const AT_ONCE_MAX: usize = 2_000;
/// A whole run needs no more; an input that asks for more has said enough.
const STEPS_MAX: usize = 6_000;
/// Unix time at boot time zero, ns.
const UNIX_AT_BOOT_NS: u64 = 1_700_000_000_000_000_000;

/// A client and the paths in front of it.
pub(crate) struct Client {
    pub(crate) agent: Agent,
    cut: [bool; UPLINKS as usize],
    /// The port that the NAT of each uplink shows.
    nat: [u16; UPLINKS as usize],
    /// I11: by slot, the phase and the counters of DATA that it has sealed in this phase.
    sealed: BTreeMap<u32, (bool, BTreeSet<u64>)>,
}

/// An agent like those of a world.
pub(crate) fn agent(peer: u8) -> Agent {
    let spec = |n: u8| UplinkSpec { device: format!("up{n}"), priority: u32::from(n) + 1, metered: n == 1 };
    let config = AgentConfig {
        local: client_secret(peer),
        gateway: gateway_secret().public(),
        preshared: PresharedKey::default(),
        endpoint: GATEWAY.into(),
        suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
        uplinks: (0..UPLINKS).map(spec).collect(),
        candidates: CandidateSettings::default(),
    };
    let mut agent = Agent::new(config, Box::new(Seeded::new(200 + u64::from(peer))));
    agent.set_wall_clock(START, UNIX_AT_BOOT_NS);
    agent
}

pub(crate) fn usable(uplink: u8, host: u8) -> LinkState {
    LinkState::Usable { source: IpAddr::from([10, 0, uplink, host]) }
}

/// Everything together.
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) clients: Vec<Client>,
    pub(crate) now: BootTime,
    /// When, to which client (`None`: the gateway) over which of whose uplinks, and what.
    flying: VecDeque<(BootTime, bool, u8, u8, Endpoint, Vec<u8>)>,
    recorded: Vec<Vec<u8>>,
    steps: usize,
}

impl World {
    /// All clients ATTACHED.
    pub(crate) fn attached() -> Self {
        let client = |peer| Client {
            agent: agent(peer),
            cut: [false; UPLINKS as usize],
            nat: [0; UPLINKS as usize],
            sealed: BTreeMap::new(),
        };
        let clients = (0..PEERS).map(client).collect();
        let mut world = Self {
            gateway: Gateway::new(),
            clients,
            now: START,
            flying: VecDeque::new(),
            recorded: Vec::new(),
            steps: 0,
        };
        for peer in 0..PEERS {
            for uplink in 0..UPLINKS {
                world.link(peer, uplink, usable(uplink, 2));
            }
        }
        world.run(Duration::from_millis(400));
        for peer in 0..PEERS {
            assert_eq!(world.state(peer), "ATTACHED", "client {peer}");
        }
        world
    }

    /// The plain text of JOURNAL's records of such a world.
    pub(crate) fn snapshots() -> Vec<Vec<u8>> {
        let mut world = Self::attached();
        let mut snapshots = Vec::new();
        for _ in 0..2 {
            snapshots.extend(world.gateway.plane.journal.values().map(|snapshot| snapshot.octets().to_vec()));
            world.link(0, 0, LinkState::NoCarrier);
            world.run(Duration::from_millis(3));
        }
        snapshots
    }

    pub(crate) fn state(&self, peer: u8) -> &'static str {
        self.clients[usize::from(peer)].agent.status(self.now).state
    }

    /// Whether the input has had its share of work.
    pub(crate) const fn is_tired(&self) -> bool {
        self.steps > STEPS_MAX
    }

    pub(crate) fn link(&mut self, peer: u8, uplink: u8, state: LinkState) {
        let now = self.now;
        self.clients[usize::from(peer)].agent.handle_link_event(now, UplinkId(uplink), state);
        self.collect();
    }

    fn remote(&self, peer: u8, uplink: u8) -> Endpoint {
        let port = 40_000 + self.clients[usize::from(peer)].nat[usize::from(uplink)];
        Endpoint::v4([203, 0, 113, 10 + peer * UPLINKS + uplink], port)
    }

    /// Time passes; everything happens at its own moment.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        let mut at_once = 0;
        while !self.is_tired() {
            let agents = self.clients.iter().filter_map(|client| client.agent.poll_timeout());
            let flying = self.flying.front().map(|flight| flight.0);
            let next = agents.chain(flying).chain(self.gateway.due()).min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            at_once = if next <= self.now { at_once + 1 } else { 0 };
            assert!(at_once < AT_ONCE_MAX, "nothing lets time pass: {:?}", self.states());
            self.now = self.now.max(next);
            self.steps += 1;
            self.step();
        }
        self.now = end.max(self.now);
        self.gateway.now = self.now;
    }

    fn step(&mut self) {
        let now = self.now;
        self.gateway.now = now;
        if self.flying.front().is_some_and(|flight| flight.0 <= now) {
            if let Some((_, up, peer, uplink, remote, payload)) = self.flying.pop_front() {
                self.arrive(up, peer, uplink, remote, payload);
            }
        } else {
            self.gateway.tick(now);
            for client in &mut self.clients {
                if client.agent.poll_timeout().is_some_and(|due| due <= now) {
                    client.agent.handle_timeout(now);
                    let next = client.agent.poll_timeout();
                    assert!(next.is_none_or(|next| next > now), "an agent's timer does not pass: {next:?}");
                }
            }
        }
        self.collect();
    }

    fn arrive(&mut self, up: bool, peer: u8, uplink: u8, remote: Endpoint, mut payload: Vec<u8>) {
        if up {
            self.gateway.receive(remote, &payload);
        } else if remote == self.remote(peer, uplink) {
            let agent = &mut self.clients[usize::from(peer)].agent;
            let _inner = agent.handle_datagram(self.now, UplinkId(uplink), GATEWAY, &mut payload);
        }
    }

    /// Takes out what both sides want sent.
    pub(crate) fn collect(&mut self) {
        for peer in 0..PEERS {
            while let Some(transmit) = self.clients[usize::from(peer)].agent.poll_transmit() {
                self.launch_up(peer, transmit.uplink.0, transmit.payload);
            }
            let client = &mut self.clients[usize::from(peer)];
            while client.agent.poll_event().is_some() {}
            let _look = client.agent.poll_suspicion();
        }
        while let Some(transmit) = self.gateway.sent.pop_front() {
            self.record(&transmit.payload);
            let mut places = (0..PEERS).flat_map(|peer| (0..UPLINKS).map(move |uplink| (peer, uplink)));
            let to = places.find(|(peer, uplink)| self.remote(*peer, *uplink) == transmit.remote);
            if let Some((peer, uplink)) = to.filter(|(peer, uplink)| !self.is_cut(*peer, *uplink)) {
                let at = self.now.after(LATENCY);
                self.flying.push_back((at, false, peer, uplink, transmit.remote, transmit.payload));
            }
        }
    }

    fn is_cut(&self, peer: u8, uplink: u8) -> bool {
        self.clients[usize::from(peer)].cut[usize::from(uplink)]
    }

    fn launch_up(&mut self, peer: u8, uplink: u8, payload: Vec<u8>) {
        if let Some(header) = DataHeader::parse(&payload) {
            let used = self.clients[usize::from(peer)].sealed.entry(header.slot.0).or_default();
            // A phase comes again with the second key after it.
            if used.0 != header.key_phase {
                *used = (header.key_phase, BTreeSet::new());
            }
            assert!(used.1.insert(header.counter), "I11: client {peer} sealed {header:?} twice");
        }
        self.record(&payload);
        if !self.is_cut(peer, uplink) {
            let remote = self.remote(peer, uplink);
            self.flying.push_back((self.now.after(LATENCY), true, peer, uplink, remote, payload));
        }
    }

    fn record(&mut self, payload: &[u8]) {
        payload.hash(&mut self.gateway.said);
        if self.recorded.len() >= RECORDED_MAX {
            self.recorded.remove(0);
        }
        self.recorded.push(payload.to_vec());
    }

    pub(crate) fn states(&self) -> Vec<String> {
        let sessions = self.gateway.status().sessions;
        let gateways = sessions.iter().map(|s| format!("{} {} {}", s.peer, s.state, s.reason));
        gateways.chain((0..PEERS).map(|peer| format!("client {peer} {}", self.state(peer)))).collect()
    }

    /// A datagram that was seen, as it was or changed, or one that nobody made.
    pub(crate) fn hostile(&mut self, source: &mut Source<'_>) -> Vec<u8> {
        let seen = self.recorded.get(source.below(self.recorded.len())).cloned().unwrap_or_default();
        match source.u8() % 3 {
            0 => seen,
            1 => source.spoil(&seen),
            _ => source.chunk().to_vec(),
        }
    }

    /// Something happens on the way, at a client or to a link.
    pub(crate) fn disturb(&mut self, source: &mut Source<'_>) {
        let (peer, uplink) = (source.u8() % PEERS, source.u8() % UPLINKS);
        let (index, link) = (usize::from(peer), usize::from(uplink));
        match source.u8() % 8 {
            0 => self.link(peer, uplink, LinkState::NoCarrier),
            1 | 2 => self.link(peer, uplink, usable(uplink, 2 + source.u8() % 4)),
            3 => self.clients[index].cut[link] ^= true,
            4 => self.clients[index].nat[link] = u16::from(source.u8()),
            5 => self.flying.clear(),
            6 => self.inner(peer, source.chunk()),
            _ => {
                self.clients[index].agent.terminate(self.now);
                self.collect();
            }
        }
    }

    /// An application's packet.
    pub(crate) fn inner(&mut self, peer: u8, packet: &[u8]) {
        let mut frame = vec![0; packet.len() + FRAME_OVERHEAD];
        frame[DATA_HEADER_LEN..packet.len() + DATA_HEADER_LEN].copy_from_slice(packet);
        assert_eq!(frame.len(), DATA_HEADER_LEN + packet.len() + TAG_LEN);
        let now = self.now;
        let sent = self.clients[usize::from(peer)].agent.handle_inner_packet(now, &mut frame);
        if let Inner::Send(uplink) = sent {
            self.launch_up(peer, uplink.0, frame);
        }
        self.collect();
    }

    /// The gateway's own trouble.
    pub(crate) fn trouble(&mut self, source: &mut Source<'_>) {
        let gateway = &mut self.gateway;
        match source.u8() % 10 {
            0 => gateway.plane.quiesce = Answers::from_number(source.u8()),
            1 => gateway.plane.install = Answers::from_number(source.u8()),
            2 => {
                if let Some(event) = gateway.plane.held.pop_front() {
                    gateway.event(event);
                }
            }
            3 => gateway.kill_after(u32::from(source.u8() % 16)),
            4 => gateway.restart(),
            5 => {
                gateway.plane.restart();
                gateway.event(TableEvent::DataPlaneLost);
            }
            6 => {
                let context_kept = source.u8() & 1 == 1;
                if context_kept {
                    gateway.plane.restart()
                } else {
                    gateway.plane.forget()
                }
                gateway.event(TableEvent::DataPlaneUp { slots: crate::gateway::SLOTS, context_kept });
            }
            7 => gateway.admin(source),
            8 => {
                let seq = gateway.plane.near(source.u8());
                let (slot_index, word) = (source.u32(), BindingWord(source.u64()));
                gateway.event(match source.u8() % 4 {
                    0 => TableEvent::Quiesced { seq },
                    1 => TableEvent::Installed { seq },
                    2 => TableEvent::InstallRefused { seq },
                    _ => TableEvent::Confirmed { slot_index, word },
                });
            }
            _ => {
                let heard = (source.u8() & 1 == 1).then(|| BootTime(source.u64()));
                let interval_ms = (source.u8() & 1 == 1).then(|| source.u32());
                let highest = (source.u8() & 1 == 1).then(|| source.u64());
                let (sealed, failed_opens) = (source.u64(), source.u64());
                let lies = Lies { heard, interval_ms, sealed, failed_opens, highest };
                gateway.plane.lies.insert(u32::from(source.u8() % 4), lies);
            }
        }
        self.collect();
    }

    /// I13: the trouble is over, and everybody who still wants to gets back in.
    pub(crate) fn recover(&mut self) {
        self.steps = 0;
        self.gateway.plane.lies.clear();
        self.gateway.now = self.now;
        self.gateway.mend();
        for peer in 0..PEERS {
            self.clients[usize::from(peer)].cut = [false; UPLINKS as usize];
            for uplink in 0..UPLINKS {
                self.link(peer, uplink, usable(uplink, 9));
            }
        }
        let is_in = |world: &Self, peer: u8| match world.state(peer) {
            "ATTACHED" | "VOLATILE" | "DEGRADED" => true,
            // Told to end, it does not come back by itself.
            "TERMINATED" => world.clients[usize::from(peer)].agent.poll_timeout().is_none(),
            _ => false,
        };
        for _ in 0..100 {
            if (0..PEERS).all(|peer| is_in(self, peer)) || self.is_tired() {
                return;
            }
            self.run(Duration::from_secs(5));
        }
        panic!("I13: somebody does not get back in: {:?}", self.states());
    }

    /// What everybody said, in one number.
    pub(crate) fn said(&self) -> u64 {
        self.gateway.said.finish()
    }
}
