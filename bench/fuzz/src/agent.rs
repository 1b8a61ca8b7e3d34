//! Target `agent`: the client's agent against the network (half of the inputs) and against a gateway that holds all keys
//! and has lost its mind: grants, policies, answers and messages of any content, sealed as they should be.

use crate::Source;
use crate::gateway::{GATEWAY, PEERS, START, gateway_secret};
use crate::messages;
use crate::random::Seeded;
use crate::world::{World, agent, usable};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, Direction, MsgType, Suite, TAG_LEN};
use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_client::agent::Agent;
use jvpn_client::paths::{LinkState, UplinkId};
use jvpn_crypto::control::ControlSealer;
use jvpn_crypto::handshake::read_init;
use jvpn_crypto::keys::{PresharedKey, StaticSecret};
use jvpn_crypto::reattach::{RequestFrame, reject};
use jvpn_crypto::schedule::EpochSecret;
use jvpn_crypto::{SealKey, keys::PublicKey};
use jvpn_session::messages::{BindingGrant, HandshakeAnswer, HandshakeGrant, ReattachGrant};
use std::time::Duration;

const STEPS: usize = 40;
/// Datagrams that an agent may make of one step; more is a storm.
const STORM: usize = 4_000;

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    if source.u8() & 1 == 0 { network(&mut source) } else { gateway(&mut source) }
}

/// What anybody between client and gateway can do, and what a host does to its agent.
fn network(source: &mut Source<'_>) {
    let mut world = World::attached();
    for _ in 0..STEPS {
        match source.u8() % 6 {
            0 => world.run(Duration::from_millis(u64::from(source.u16()))),
            1 | 2 => world.disturb(source),
            3 => {
                let mut datagram = world.hostile(source);
                let (peer, uplink) = (usize::from(source.u8() % PEERS), UplinkId(source.u8() % 3));
                let from = if source.u8() == 255 { Endpoint::v4([1, 2, 3, 4], 5) } else { GATEWAY };
                let now = world.now;
                let _inner = world.clients[peer].agent.handle_datagram(now, uplink, from, &mut datagram);
                world.collect();
            }
            4 => host(&mut world.clients[0].agent, world.now, source),
            _ => world.inner(source.u8() % PEERS, source.chunk()),
        }
        world.collect();
        if source.is_empty() || world.is_tired() {
            break;
        }
    }
    let now = world.now;
    world.clients[0].agent.set_endpoint(now, GATEWAY);
    world.recover();
}

/// Clocks that jump, either way; names that resolve elsewhere.
fn host(agent: &mut Agent, now: BootTime, source: &mut Source<'_>) {
    let amount = u64::from(source.u32()) << (source.u8() % 24);
    match source.u8() % 5 {
        0 => agent.set_wall_clock(now, amount),
        1 => agent.handle_monotonic(now, now.0.saturating_sub(amount)),
        2 => agent.handle_monotonic(now, amount),
        3 => agent.set_endpoint(now, Endpoint::v4([198, 51, 100, 1 + source.u8() % 2], 4_500)),
        // A clock that steps back.
        _ => agent.handle_timeout(BootTime(now.0.saturating_sub(amount))),
    }
}

/// An epoch that the client was granted.
struct Epoch {
    secret: EpochSecret,
    suite: Suite,
    grant: BindingGrant,
    number: u32,
}

struct Mad {
    agent: Agent,
    now: BootTime,
    secret: StaticSecret,
    rng: Seeded,
    epochs: Vec<Epoch>,
    session: [u8; 16],
    peer: Option<PublicKey>,
    counter: u64,
}

fn gateway(source: &mut Source<'_>) {
    let mut mad = Mad {
        agent: agent(0),
        now: START,
        secret: gateway_secret(),
        rng: Seeded::new(7),
        epochs: Vec::new(),
        session: [0; 16],
        peer: None,
        counter: 0,
    };
    for uplink in 0..2 {
        mad.agent.handle_link_event(mad.now, UplinkId(uplink), usable(uplink, 2));
    }
    for _ in 0..STEPS {
        mad.step(source);
        if source.is_empty() {
            break;
        }
    }
    let status = mad.agent.status(mad.now);
    assert!(serde_json::to_string(&status).is_ok());
}

impl Mad {
    fn step(&mut self, source: &mut Source<'_>) {
        self.answers(source);
        match source.u8() % 6 {
            0 | 1 => self.run(Duration::from_millis(u64::from(source.u16())), source),
            2 => {
                let message = source.chunk();
                let datagram = self.epoch(source).and_then(|epoch| {
                    let (direction, slot) = (Direction::GatewayToClient, epoch.grant.slot);
                    let incarnation = u32::from(source.u8());
                    let mut sealer =
                        ControlSealer::new(&epoch.secret, epoch.suite, direction, slot, incarnation);
                    sealer.seal(message).ok()
                });
                self.deliver(datagram, source);
            }
            3 => {
                let plain = source.chunk().to_vec();
                self.counter += 1;
                let counter = self.counter;
                let datagram = self.epoch(source).map(|epoch| epoch.data(counter, &plain));
                self.deliver(datagram, source);
            }
            4 => {
                let (uplink, now) = (UplinkId(source.u8() % 2), self.now);
                let link =
                    if source.u8() & 1 == 0 { LinkState::NoCarrier } else { usable(uplink.0, source.u8()) };
                self.agent.handle_link_event(now, uplink, link);
            }
            _ => host(&mut self.agent, self.now, source),
        }
    }

    fn epoch(&self, source: &mut Source<'_>) -> Option<&Epoch> {
        // The newest mostly.
        self.epochs.iter().rev().nth(usize::from(source.u8() / 200))
    }

    fn deliver(&mut self, datagram: Option<Vec<u8>>, source: &mut Source<'_>) {
        let Some(mut datagram) = datagram else { return };
        let uplink = UplinkId(source.u8() / 200);
        let _inner = self.agent.handle_datagram(self.now, uplink, GATEWAY, &mut datagram);
    }

    fn run(&mut self, span: Duration, source: &mut Source<'_>) {
        let end = self.now.after(span);
        let mut fired = 0;
        while let Some(due) = self.agent.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.agent.handle_timeout(self.now);
            let next = self.agent.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "an agent's timer does not pass: {next:?}");
            fired += 1;
            assert!(fired < STORM, "{fired} timers in {span:?}");
            self.answers(source);
        }
        self.now = end;
    }

    /// Answers what the agent asks, as the input says.
    fn answers(&mut self, source: &mut Source<'_>) {
        let mut seen = 0;
        while let Some(transmit) = self.agent.poll_transmit() {
            seen += 1;
            assert!(seen < STORM, "{seen} datagrams at once");
            let kind = transmit.payload.first().copied().and_then(MsgType::from_octet);
            let answer = if kind == Some(MsgType::HandshakeInit) {
                self.born(&transmit.payload, source)
            } else if kind == Some(MsgType::ReattachRequest) {
                self.reattached(&transmit.payload, source)
            } else {
                None
            };
            if let Some(mut answer) = answer.filter(|_| source.u8() < 224) {
                let _inner = self.agent.handle_datagram(self.now, transmit.uplink, GATEWAY, &mut answer);
            }
        }
        while self.agent.poll_event().is_some() {}
    }

    fn born(&mut self, init: &[u8], source: &mut Source<'_>) -> Option<Vec<u8>> {
        let (_proven, incoming) = read_init(&mut self.rng, &self.secret, init).unwrap();
        self.peer = Some(incoming.peer);
        let mut grant = messages::grant();
        odd_grant(&mut grant, source);
        let payload = HandshakeAnswer::Granted(Box::new(grant)).encode();
        let payload = source.spoil(&payload);
        let cut = payload.get(..jvpn_abi::wire::handshake::RESPONSE_PAYLOAD_MAX).unwrap_or(&payload);
        let (response, secret) = incoming.respond(&PresharedKey::default(), cut).unwrap();
        if let Some(HandshakeAnswer::Granted(grant)) = HandshakeAnswer::decode(cut) {
            self.session = grant.session_id.0;
            self.epochs = vec![Epoch { secret, suite: grant.suite, grant: grant.binding.clone(), number: 0 }];
        }
        Some(response)
    }

    fn reattached(&mut self, request: &[u8], source: &mut Source<'_>) -> Option<Vec<u8>> {
        let frame = RequestFrame::parse(request)?;
        let suite = self.epochs.last()?.suite;
        let asked = self.epochs.iter().rev().find(|epoch| frame.mac_ok(&epoch.secret.resume()))?;
        let resume = asked.secret.resume();
        if source.u8().is_multiple_of(4) {
            let reason = Reason::from_number(source.u8()).unwrap_or(Reason::Cooldown);
            return Some(reject(&resume, &frame, reason, source.u32()).to_vec());
        }
        let peer = self.peer?;
        let (_proven, incoming) =
            frame.read(&mut self.rng, &self.secret, &peer, &resume, self.session).ok()?;
        let mut binding = asked.grant.clone();
        odd_binding(&mut binding, source);
        let grant = ReattachGrant {
            rekey: source.u8() & 1 == 1,
            key_number: source.u32() % 8,
            binding: binding.clone(),
        };
        let payload = source.spoil(&grant.encode());
        let cut = payload.get(..jvpn_abi::wire::reattach::ACK_PAYLOAD_MAX).unwrap_or(&payload);
        let (ack, secret) = incoming.answer(cut).unwrap();
        if let Some(grant) = ReattachGrant::decode(cut) {
            self.epochs.push(Epoch { secret, suite, grant: grant.binding, number: grant.key_number });
            if self.epochs.len() > 4 {
                self.epochs.remove(0);
            }
        }
        Some(ack)
    }
}

impl Epoch {
    fn data(&self, counter: u64, plain: &[u8]) -> Vec<u8> {
        let key_phase = self.number & 1 == 1;
        let header = DataHeader { key_phase, shard: 0, slot: self.grant.slot, counter }.encode();
        let mut datagram = [&header[..], plain, &[0; TAG_LEN]].concat();
        let key = SealKey::new(self.suite, &self.secret.data_keys().gateway_to_client);
        key.seal(counter, &header, plain, &mut datagram[DATA_HEADER_LEN..]).unwrap();
        datagram
    }
}

fn odd_binding(binding: &mut BindingGrant, source: &mut Source<'_>) {
    match source.u8() % 8 {
        0 => binding.slot.0 = source.u32(),
        1 => binding.epoch = source.u64(),
        2 => binding.anchor_version = source.u64(),
        3 => binding.handle.0 = source.u64().to_be_bytes(),
        _ => {
            binding.epoch = binding.epoch.wrapping_add(1);
            binding.slot.0 = binding.slot.0.wrapping_add(1 << 17);
        }
    }
}

/// Numbers that no sound policy has.
fn odd_grant(grant: &mut HandshakeGrant, source: &mut Source<'_>) {
    for _ in 0..source.u8() % 4 {
        let value = source.u32();
        let policy = &mut grant.policy;
        match source.u8() % 14 {
            0 => policy.probe_traffic_ms = value,
            1 => policy.probe_idle_ms = value,
            2 => policy.suspicion_ms = value,
            3 => policy.dead_after_missed = value as u8,
            4 => policy.cooldown_ms = value,
            5 => policy.recovery_window_ms = value,
            6 => policy.transport_loss_ttl_ms = value,
            7 => policy.candidates_max = value as u8,
            8 => policy.rekey_soft_ms = value,
            9 => policy.rekey_hard_ms = value,
            10 => policy.rekey_soft_packets = value,
            11 => policy.rekey_hard_packets = value,
            12 => grant.mtu = value as u16,
            _ => odd_binding(&mut grant.binding, source),
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let chunk = |octets: &[u8]| [&(octets.len() as u16).to_be_bytes()[..], octets].concat();
    let wait = |ms: u16| [vec![0], ms.to_be_bytes().to_vec()].concat();
    let born = vec![1, 0, 0, 0];
    let mut seeds = vec![
        [vec![0], wait(500), vec![1, 0, 0, 3], wait(3_000), vec![5, 0], chunk(&[0x45; 40])].concat(),
        [vec![0], vec![3, 0, 3, 1, 1, 0, 9, 7, 0, 0, 0], wait(400), vec![4, 0, 0, 255, 255, 8, 1]].concat(),
        [born.clone(), wait(2_000), wait(9_000), wait(60_000)].concat(),
        [vec![1, 1, 0, 0, 0, 0, 2, 0], wait(1_000), wait(1_000)].concat(),
        [vec![1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], wait(1_000)].concat(),
    ];
    for message in &messages::seeds()[6..11] {
        seeds.push([born.clone(), vec![2], chunk(message), vec![0, 0, 0], wait(2_000)].concat());
    }
    seeds.push([born.clone(), vec![3], chunk(&[0x45; 60]), vec![0, 0], wait(500)].concat());
    seeds.push([born, vec![4, 0, 0], wait(2_000), vec![1; 20], wait(5_000)].concat());
    seeds
}
