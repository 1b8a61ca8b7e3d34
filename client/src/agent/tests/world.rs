//! Three uplinks between an agent and a gateway, on virtual time: latency, cuts, NAT rebinding, filters; and the checks
//! that hold at every step.

use super::Seeded;
use super::gateway::Gateway;
use crate::agent::{Agent, AgentConfig, Event, FRAME_OVERHEAD, Inner, RecoveryReport};
use crate::paths::candidates::CandidateSettings;
use crate::paths::{LinkState, UplinkId, UplinkSpec};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, MsgType, Suite, TAG_LEN};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::keys::{PresharedKey, StaticSecret};
use jvpn_session::messages::SessionId;
use std::net::IpAddr;
use std::time::Duration;

pub(super) const A: UplinkId = UplinkId(0);
pub(super) const B: UplinkId = UplinkId(1);
pub(super) const C: UplinkId = UplinkId(2);
/// One way, ms.
pub(super) const LATENCY_MS: u64 = 5;

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

type Filter = Box<dyn FnMut(Way, UplinkId, &[u8]) -> bool>;

pub(super) struct World {
    pub(super) now: BootTime,
    pub(super) agent: Agent,
    pub(super) gateway: Gateway,
    pub(super) events: Vec<(BootTime, Event)>,
    pub(super) delivered: Vec<(BootTime, Vec<u8>)>,
    /// Silently cut uplinks.
    pub(super) cut: [bool; 3],
    /// The port that the NAT in front of each uplink shows.
    pub(super) nat: [u16; 3],
    /// One way, ms.
    pub(super) latency: [u64; 3],
    /// `false` = the datagram is lost.
    pub(super) filter: Filter,
    /// An inner packet every so many ms; 0 = none.
    pub(super) traffic_ms: u64,
    pub(super) sent: u32,
    pub(super) recorded: Vec<(Way, UplinkId, Vec<u8>)>,
    flying: Vec<(BootTime, Way, UplinkId, u16, Vec<u8>)>,
    newest_slot: Option<(u32, UplinkId)>,
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint::v4([198, 51, 100, 1], 4_500)
}

pub(super) fn usable(last: u8) -> LinkState {
    LinkState::Usable { source: IpAddr::from([10, 0, last, 2]) }
}

pub(super) fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// An inner IPv4 packet that carries `number`.
pub(super) fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![0u8; 60];
    packet[0] = 0x45;
    packet[3] = 60;
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

impl World {
    /// No uplink is usable yet; A is preferred, then B, then C.
    pub(super) fn new() -> Self {
        Self::with(CandidateSettings::default(), 5)
    }

    /// With these settings, and an agent that draws from this seed.
    pub(super) fn with(candidates: CandidateSettings, seed: u64) -> Self {
        let mut random = Seeded::new(99);
        let local = StaticSecret::generate(&mut random).unwrap();
        let gateway = Gateway::new(local.public());
        let spec =
            |device: &str, priority| UplinkSpec { device: device.to_owned(), priority, metered: false };
        let config = AgentConfig {
            local,
            gateway: gateway.secret.public(),
            preshared: PresharedKey::default(),
            endpoint: endpoint().into(),
            suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
            uplinks: vec![spec("upA", 1), spec("upB", 2), spec("upC", 3)],
            candidates,
        };
        let now = BootTime::from_millis(10_000_000);
        let mut agent = Agent::new(config, Box::new(Seeded::new(seed)));
        agent.set_wall_clock(now, 1_700_000_000_000_000_000);
        Self {
            now,
            agent,
            gateway,
            events: Vec::new(),
            delivered: Vec::new(),
            cut: [false; 3],
            nat: [1_000, 2_000, 3_000],
            latency: [LATENCY_MS; 3],
            filter: Box::new(|_, _, _| true),
            traffic_ms: 10,
            sent: 0,
            recorded: Vec::new(),
            flying: Vec::new(),
            newest_slot: None,
        }
    }

    /// A world whose session is attached over A, with traffic.
    pub(super) fn attached() -> Self {
        Self::new().attach()
    }

    /// The same in this world.
    pub(super) fn attach(self) -> Self {
        let mut world = self;
        world.link(A, usable(1));
        world.link(B, usable(2));
        world.run(2_000);
        assert_eq!(world.agent.status(world.now).state, "ATTACHED");
        world
    }

    pub(super) fn link(&mut self, id: UplinkId, state: LinkState) {
        self.agent.handle_link_event(self.now, id, state);
        self.collect();
    }

    /// Runs for `span` ms in steps of 1 ms.
    pub(super) fn run(&mut self, span: u64) {
        self.run_until(span, |_| false);
    }

    /// Runs until `done` or for `span` ms; whether it was done, and after how many ms.
    pub(super) fn run_until(&mut self, span: u64, mut done: impl FnMut(&Self) -> bool) -> Option<u64> {
        for step in 0..span {
            if done(self) {
                return Some(step);
            }
            self.now = self.now.after(ms(1));
            self.arrive();
            if self.traffic_ms > 0 && self.now.as_millis().is_multiple_of(self.traffic_ms) {
                self.send_inner();
            }
            if self.agent.poll_timeout().is_some_and(|due| due <= self.now) {
                self.agent.handle_timeout(self.now);
            }
            self.collect();
            let due = self.agent.poll_timeout();
            assert!(due.is_none_or(|due| due > self.now), "what was due was not done: {due:?}");
        }
        None
    }

    pub(super) fn send_inner(&mut self) -> Inner {
        self.sent += 1;
        let inner = packet(self.sent);
        let mut frame = vec![0; inner.len() + FRAME_OVERHEAD];
        let end = frame.len() - TAG_LEN;
        frame[DATA_HEADER_LEN..end].copy_from_slice(&inner);
        let outcome = self.agent.handle_inner_packet(self.now, &mut frame);
        if let Inner::Send(uplink) = outcome {
            self.launch_up(uplink, frame);
        }
        self.collect();
        outcome
    }

    /// Hands a datagram to the client as if the network had delivered it now.
    pub(super) fn inject(&mut self, uplink: UplinkId, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut copy = datagram.to_vec();
        let inner = self.agent.handle_datagram(self.now, uplink, endpoint(), &mut copy).map(|p| p.to_vec());
        self.collect();
        inner
    }

    pub(super) fn state(&self) -> &'static str {
        self.agent.status(self.now).state
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        self.agent.session_id()
    }

    pub(super) fn uplink(&self) -> Option<UplinkId> {
        self.agent.status(self.now).path.map(|path| path.uplink)
    }

    pub(super) fn recoveries(&self) -> Vec<RecoveryReport> {
        let report = |(_, event): &(BootTime, Event)| {
            let Event::RecoveryComplete { report, .. } = event else { return None };
            Some(*report)
        };
        self.events.iter().filter_map(report).collect()
    }

    fn arrive(&mut self) {
        let now = self.now;
        let arrived: Vec<_> = self.flying.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, way, uplink, port, datagram) in arrived {
            match way {
                Way::Up => self.gateway.receive((uplink, port), &datagram),
                Way::Down => {
                    // A NAT that was rebound lets nothing through to its old port.
                    if port == self.nat[uplink.index()]
                        && let Some(inner) = self.inject(uplink, &datagram)
                    {
                        self.delivered.push((now, inner));
                    }
                }
            }
            self.collect();
        }
    }

    /// Takes out what both sides want sent, and the agent's events.
    fn collect(&mut self) {
        while let Some(transmit) = self.agent.poll_transmit() {
            self.launch_up(transmit.uplink, transmit.payload);
        }
        for ((uplink, port), datagram) in std::mem::take(&mut self.gateway.out) {
            self.launch(Way::Down, uplink, port, datagram);
        }
        while let Some(event) = self.agent.poll_event() {
            self.events.push((self.now, event));
        }
    }

    fn launch_up(&mut self, uplink: UplinkId, datagram: Vec<u8>) {
        // R1.1, as seen from the network: DATA of one slot goes over one uplink, and never of an older slot again.
        if datagram[0] == MsgType::Data.octet() {
            let slot = DataHeader::parse(&datagram).unwrap().slot.serial();
            if let Some((newest, over)) = self.newest_slot {
                assert!(slot > newest || (slot == newest && uplink == over), "two paths carried data");
            }
            self.newest_slot = Some((slot, uplink));
        }
        self.launch(Way::Up, uplink, self.nat[uplink.index()], datagram);
    }

    fn launch(&mut self, way: Way, uplink: UplinkId, port: u16, datagram: Vec<u8>) {
        self.recorded.push((way, uplink, datagram.clone()));
        if self.cut[uplink.index()] || !(self.filter)(way, uplink, &datagram) {
            return;
        }
        let arrives = self.now.after(ms(self.latency[uplink.index()]));
        self.flying.push((arrives, way, uplink, port, datagram));
    }
}
