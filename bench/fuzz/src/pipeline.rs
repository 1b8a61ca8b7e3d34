//! Target `pipeline`: frames of both ports through a worker's pipeline, behind authentication too, while bindings come,
//! change their keys and go. Real tables, mailbox and installer.

use crate::Source;
use crate::ports::conserve;
use crate::shapes::{self, Hosts};
use crate::wire::frame_v4;
use bytemuck::Zeroable;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::tables::{
    BINDING_WORDS, BindingEntry, BindingWord, Gate, InstallEntry, InstallOp, KeyRing, Reports, SteeringMark,
    context_octets,
};
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, SlotId, Suite, TAG_LEN};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::SealKey;
use jvpn_dataplane::frame::checksum::pseudo_sum;
use jvpn_dataplane::frame::{
    Address, Ecn, Family, GatewayAddresses, IcmpError, Inner, Mac, answer_echo, clamp_mss, cut,
    error_in_place, fold, sum_words,
};
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::pipeline::{BetweenClients, Pipeline, PipelineConfig, Pools, Routes, Verdict};
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::Mapping;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: u32 = 8;
const BUFFER_LEN: usize = 1_792;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0x10);
/// Another client's, and a network that no route leads to.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 9);
/// Largest inner packet.
const MTU: usize = 1_400;
/// What `frame_v4` sends from and to.
const REMOTE: Endpoint = Endpoint::v4([203, 0, 113, 9], 40_000);
const LOCAL: Endpoint = Endpoint::v4([198, 51, 100, 1], 4_500);
/// Ethernet, IPv4 and UDP headers in front of a datagram.
const OUTER_LEN: usize = 42;

fn gateway() -> GatewayAddresses {
    GatewayAddresses { v4: Some(GATEWAY.into()), v6: Some(GATEWAY_V6.into()) }
}

/// Leads the pools to the one slot, whether or not it owns what is asked for.
struct OneClient;

impl Routes for OneClient {
    fn slot_of(&self, destination: Address) -> Option<u32> {
        let pool = |address: Address, octets: usize| address.0 >> (128 - 8 * octets);
        let is_in = |of: Address, octets| pool(destination, octets) == pool(of, octets);
        (is_in(CLIENT.into(), 14) || is_in(CLIENT_V6.into(), 8)).then_some(slot().index())
    }
}

/// A gateway's only worker and what it works on.
struct Worker {
    tables: Arc<Tables>,
    pipeline: Pipeline,
    installer: Installer,
    mailbox: KeyMailbox,
    queues: Arc<WorkerQueues>,
    _gate: OwnedFd,
    now: BootTime,
    seq: u64,
    lan_out: Vec<u8>,
    wan_out: Vec<u8>,
    /// Slot, phase and counter of every frame that left since keys changed.
    sealed: BTreeSet<(u32, bool, u64)>,
    /// Every frame that came, by its port: a worker gets them once more.
    came: [Vec<Vec<u8>>; 2],
}

impl Worker {
    fn new() -> Self {
        let memory = |octets| shared_memory("FUZZ", c"jvpn-fuzz", octets).unwrap();
        let bindings = memory(SLOTS as usize * BINDING_WORDS * 8);
        let context = memory(context_octets(SLOTS));
        let (reports, gate, keys) =
            (memory(size_of::<Reports>()), memory(4_096), memory(size_of::<KeyRing>()));
        let fence = std::mem::offset_of!(Gate, fence_deadline_ns) / 8;
        Mapping::<AtomicU64>::new("GATE", gate.as_fd(), fence + 1).unwrap()[fence]
            .store(u64::MAX, Ordering::Release);
        let tables = Tables::map(SLOTS, bindings.as_fd(), context.as_fd(), reports.as_fd(), gate.as_fd());
        let tables = Arc::new(tables.unwrap());
        let network = |address: Address, len: u32| {
            Some((address.0 & (u128::MAX << (128 - len)), u128::MAX << (128 - len)))
        };
        let config = PipelineConfig {
            gateway: gateway(),
            pools: Pools { v4: network(GATEWAY.into(), 96 + 16), v6: network(GATEWAY_V6.into(), 64) },
            mtu: MTU,
            lan_mac: Mac([2, 0, 0, 0, 0, 5]),
            between_clients: BetweenClients::TurnedRound,
        };
        let misses = Arc::new(ArrayQueue::new(8));
        let mut pipeline =
            Pipeline::new(Arc::clone(&tables), 0, config, misses).with_routes(Arc::new(OneClient));
        let routes = vec![
            LanRoute::new(Ipv4Addr::new(192, 168, 50, 0).into(), 24, None),
            LanRoute::new(Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0).into(), 64, None),
        ];
        let server = Mac([2, 0, 0, 0, 0, 9]);
        let neighbours = HashMap::from([(SERVER.into(), server), (SERVER_V6.into(), server)]);
        drop(pipeline.replace_lan(Arc::new(LanView::new(routes, neighbours))));
        let queues = Arc::new(WorkerQueues::new().unwrap());
        let workers = vec![Arc::clone(&queues)];
        Self {
            installer: Installer::new(Arc::clone(&tables), workers, Mac([2, 0, 0, 0, 0, 1])),
            mailbox: KeyMailbox::map(keys.as_fd()).unwrap(),
            pipeline,
            tables,
            queues,
            _gate: gate,
            now: BootTime::from_millis(1_000),
            seq: 0,
            lan_out: vec![0; BUFFER_LEN],
            wan_out: vec![0; BUFFER_LEN],
            sealed: BTreeSet::new(),
            came: Default::default(),
        }
    }

    fn install(&mut self, entry: InstallEntry) {
        self.seq += 1;
        assert!(self.mailbox.put(&InstallEntry { seq: self.seq, ..entry }));
        let _installed = self.installer.run(&self.mailbox);
        let _last = self.pipeline.apply(&self.queues);
        self.sealed.clear();
    }

    fn bind(&self, slot: SlotId, remote: Endpoint) {
        let entry = BindingEntry::new(remote, LOCAL);
        self.tables.bindings.bind(slot.index(), &entry, BindingWord::bound(slot, 1));
    }

    fn inbound(&mut self, frame: &[u8]) -> Verdict {
        self.came[0].push(frame.to_vec());
        let verdict = self.pipeline.inbound(self.now, frame, &mut self.lan_out, &mut self.wan_out);
        self.judge(verdict);
        let (mut piece, mut start) = (verdict, 0);
        while let Verdict::ToWanInPart { rest, .. } = piece {
            assert!(rest > 0, "pieces get shorter");
            start += rest;
            let left = self.lan_out.get_mut(start..).expect("a piece lies within the frame");
            piece = self.pipeline.turned_rest(self.now, left, &mut self.wan_out);
            assert!(!matches!(piece, Verdict::ToLan(_)), "what was turned round does not go to the LAN");
            self.judge(piece);
        }
        verdict
    }

    fn outbound(&mut self, frame: &[u8]) {
        self.came[1].push(frame.to_vec());
        let mut frame = frame.to_vec();
        let mut start = 0;
        loop {
            let piece = frame.get_mut(start..).expect("a piece lies within the frame");
            let verdict = self.pipeline.outbound(self.now, piece, &mut self.lan_out, &mut self.wan_out);
            if let Verdict::ToLan(len) = verdict {
                let inner = Inner::parse(&self.lan_out[14..len]).unwrap();
                assert!(gateway().contains(inner.source), "only errors go back to the LAN: {inner:?}");
            }
            self.judge(verdict);
            let Verdict::ToWanInPart { rest, .. } = verdict else { break };
            assert!(rest > 0, "pieces get shorter");
            start += rest;
        }
    }

    /// What leaves is whole, for the LAN an IP packet, for the WAN sealed under a fresh counter.
    fn judge(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(_) => {}
            Verdict::ToLan(len) => {
                let inner = Inner::parse(&self.lan_out[14..len]).unwrap();
                assert!(inner.len + 14 == len && inner.len <= MTU, "{inner:?}");
            }
            Verdict::ToWan(len) | Verdict::ToWanInPart { len, .. } => {
                let header = DataHeader::parse(&self.wan_out[OUTER_LEN..len]).unwrap();
                let used = (header.slot.0, header.key_phase, header.counter);
                assert!(self.sealed.insert(used), "I11: {used:?} was sealed twice");
            }
        }
    }
}

fn key(number: u32, way: u8) -> [u8; 32] {
    let mut key = [way; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    key
}

fn slot() -> SlotId {
    SlotId::new(3, 2).unwrap()
}

fn entry(op: u32) -> InstallEntry {
    let mut prefixes = [[0; 16]; 8];
    prefixes[0] = CLIENT.to_ipv6_mapped().octets();
    let mut prefix_lens = [0; 8];
    prefixes[1] = CLIENT_V6.octets();
    prefix_lens[..2].fill(128);
    InstallEntry {
        word: BindingWord::bound(slot(), 1).0,
        op,
        slot: slot().0,
        suite: Suite::Aes256Gcm as u8,
        prefix_count: 2,
        remote_addr: REMOTE.addr,
        local_addr: LOCAL.addr,
        remote_port: REMOTE.port,
        local_port: LOCAL.port,
        open_key: key(0, 1),
        seal_key: key(0, 2),
        prefix_lens,
        prefixes,
        ..InstallEntry::zeroed()
    }
}

/// An entry as a control plane that has lost its mind would write it.
fn odd_entry(source: &mut Source<'_>) -> InstallEntry {
    let number = u32::from(source.u8() % 4);
    let mut odd = entry(u32::from(source.u8() % 8));
    (odd.key_number, odd.open_key, odd.seal_key) = (number, key(number, 1), key(number, 2));
    match source.u8() % 8 {
        0 => odd.slot = source.u32(),
        1 => odd.word = source.u64(),
        2 => odd.suite = source.u8(),
        3 => odd.prefix_count = source.u8(),
        4 => odd.prefix_lens[0] = source.u8(),
        5 => odd.hard_packets = u64::from(source.u8()),
        _ => {}
    }
    odd
}

/// The frame in which a client's plaintext reaches the WAN port.
fn sealed(slot: SlotId, number: u32, counter: u64, plain: &[u8]) -> Vec<u8> {
    let header = DataHeader { key_phase: number & 1 == 1, shard: 0, slot, counter }.encode();
    let mut datagram = [&header[..], plain, &[0; TAG_LEN]].concat();
    let key = SealKey::new(Suite::Aes256Gcm, &key(number, 1));
    key.seal(counter, &header, plain, &mut datagram[DATA_HEADER_LEN..]).unwrap();
    frame_v4(&datagram, &[], 0x4000)
}

/// Octets that routers change on the way, or that end at the next hop.
fn is_routers(at: usize) -> bool {
    at < 14 || matches!(at, 15 | 18..=20 | 22 | 24..=25 | 40..=41)
}

pub(crate) fn run(data: &[u8]) {
    packets(data);
    let mut source = Source::new(data);
    let mut worker = Worker::new();
    worker.install(entry(InstallOp::Install as u32));
    worker.bind(slot(), REMOTE);
    for _ in 0..48 {
        step(&mut worker, &mut source);
        if source.is_empty() {
            break;
        }
    }
    let _after = worker.pipeline.after_batch();
    let [wan, lan] = std::mem::take(&mut worker.came);
    // A worker of its own over fresh tables: what was a replay above is new to it, and with few frames to send with.
    let mut again = Worker::new();
    again.install(entry(InstallOp::Install as u32));
    again.bind(slot(), REMOTE);
    conserve(wan, lan, 1 + data.len() as u64 % 4, &again.tables, again.pipeline, &again.queues);
}

/// The octets of a step that say that a packet of some shape comes. Others are told apart by their lowest bits.
const SHAPED: std::ops::RangeInclusive<u8> = 0xf8..=0xff;

const HOSTS: Hosts =
    Hosts { v4: [CLIENT, SERVER, GATEWAY, OTHER], v6: [CLIENT_V6, SERVER_V6, GATEWAY_V6, OTHER_V6] };

/// A packet of some shape, by the tunnel or from the LAN.
fn shaped(worker: &mut Worker, source: &mut Source<'_>, op: u8) {
    let is_up = op & 1 == 0;
    let packet = shapes::packet(source, &HOSTS, is_up);
    if is_up {
        let mut frame = sealed(slot(), 0, u64::from(source.u16()), &packet);
        // What routers between have marked.
        frame[15] = source.u8() & 3;
        let _verdict = worker.inbound(&frame);
    } else {
        let ethertype = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        let mark = SteeringMark { slot_index: slot().index() }.encode();
        worker.outbound(&[&mark[..], &[2, 0, 0, 0, 0, 9], &ethertype, &packet].concat());
    }
}

fn step(worker: &mut Worker, source: &mut Source<'_>) {
    let op = source.u8();
    if SHAPED.contains(&op) {
        return shaped(worker, source, op);
    }
    match op % 8 {
        0 => {
            let _verdict = worker.inbound(source.chunk());
        }
        1 => worker.outbound(source.chunk()),
        2 | 3 => {
            let (number, counter) = (u32::from(source.u8() % 3), u64::from(source.u16()));
            let plain = source.chunk();
            let genuine = sealed(slot(), number, counter, plain.get(..1_700).unwrap_or(plain));
            let spoiled = source.spoil(&genuine);
            let changed = |at: usize| spoiled[at] != genuine[at] && !is_routers(at);
            let verdict = worker.inbound(&spoiled);
            if spoiled.len() == genuine.len() && (0..genuine.len()).any(changed) {
                assert!(matches!(verdict, Verdict::Drop(_)), "a changed frame was taken: {verdict:?}");
            }
            if worker.inbound(&genuine) != verdict {
                let again = worker.inbound(&genuine);
                assert!(matches!(again, Verdict::Drop(_)), "R2.4: a replay was taken: {again:?}");
            }
        }
        4 => {
            let mut frame = SteeringMark { slot_index: slot().index() }.encode().to_vec();
            frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
            frame.extend(source.chunk());
            let spoiled = source.spoil(&frame);
            worker.outbound(&spoiled);
        }
        5 => {
            let odd = odd_entry(source);
            worker.install(odd);
        }
        6 => match source.u8() % 3 {
            0 => worker.tables.bindings.unbind(slot().index()),
            1 => worker.bind(slot(), REMOTE),
            _ => worker.bind(slot(), Endpoint::v4([203, 0, 113, 8], source.u16())),
        },
        _ => worker.now = worker.now.after(std::time::Duration::from_millis(u64::from(source.u16()))),
    }
}

/// The helpers that rewrite packets, on packets of any shape.
fn packets(data: &[u8]) {
    let Some(inner) = Inner::parse(data) else { return };
    assert!(inner.header_len <= inner.len && inner.len <= data.len(), "{inner:?}");
    let header = |packet: &[u8]| fold(sum_words(&packet[..inner.header_len]));
    let mut packet = data.to_vec();
    if inner.hop_limit > 1 && (inner.family == Family::V6 || header(&packet) == 0) {
        inner.take_hop(&mut packet);
        inner.mark(&mut packet, Ecn::CE);
        assert!(inner.family == Family::V6 || header(&packet) == 0, "RFC 1624");
    }
    let mut packet = data.to_vec();
    clamp_mss(&mut packet, &inner, 1_280);
    assert_eq!(packet.len(), data.len());
    if answer_echo(&mut packet, &inner).is_some() {
        let answer = Inner::parse(&packet).unwrap();
        assert_eq!((answer.source, answer.destination), (inner.destination, inner.source));
        assert_eq!(icmp_sum(&packet, &answer), 0, "RFC 792, RFC 4443");
    }
    let mut packet = [data, &[0; 128]].concat();
    if let Some(len) = error_in_place(&mut packet, &inner, IcmpError::TooBig(1_280), &gateway()) {
        let error = Inner::parse(&packet[..len]).unwrap();
        assert_eq!((error.len, error.destination), (len, inner.source));
        assert_eq!(icmp_sum(&packet, &error), 0, "RFC 792, RFC 4443");
    }
    let mut frame = [&[0; 14], data].concat();
    if let Some(piece) = cut(&mut frame, &inner, 576) {
        let first = Inner::parse(&frame[14..]).unwrap();
        let rest = piece.uncover_rest(&mut frame).unwrap();
        let rest = Inner::parse(&frame[rest + 14..]).unwrap();
        assert!(first.len <= 576 && first.len - 20 + rest.len == inner.len, "{first:?} and {rest:?}");
    }
}

fn icmp_sum(packet: &[u8], inner: &Inner) -> u16 {
    let pseudo = match inner.family {
        Family::V4 => 0,
        Family::V6 => pseudo_sum(&packet[8..40], 58, inner.len - inner.header_len),
    };
    fold(pseudo + sum_words(&packet[inner.header_len..inner.len]))
}

/// A packet with sound checksums.
fn packet(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = fold(sum_words(&packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// The same, of IPv6; UDP's checksum is not looked at.
fn packet_v6(next_header: u8, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let chunk = |octets: &[u8]| [&(octets.len() as u16).to_be_bytes()[..], octets].concat();
    let mut echo = vec![8, 0, 0, 0, 1, 2, 3, 4];
    let sum = fold(sum_words(&echo));
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let ping = packet(1, CLIENT, GATEWAY, &echo);
    let up = packet(17, CLIENT, SERVER, b"payload!");
    let down = packet(17, SERVER, CLIENT, b"payload!");
    let probe = ProbeFrame {
        kind: ProbeKind::Probe,
        id: 1,
        sent_at_ns: 2,
        next_interval_ms: 200,
        received: 4,
        highest_counter: 5,
        rtt_us: 6,
    };
    let frame = sealed(slot(), 0, 0, &up);
    let up_v6 = packet_v6(17, CLIENT_V6, SERVER_V6, b"payload!");
    let down_v6 = packet_v6(17, SERVER_V6, CLIENT_V6, b"payload!");
    let mut echo_v6 = packet_v6(58, CLIENT_V6, GATEWAY_V6, &[128, 0, 0, 0, 1, 2, 3, 4]);
    let sum = icmp_sum(&echo_v6, &Inner::parse(&echo_v6).unwrap());
    echo_v6[42..44].copy_from_slice(&sum.to_be_bytes());
    let nowhere = packet(17, CLIENT, Ipv4Addr::new(192, 0, 2, 1), b"payload!");
    let mut long = packet(17, SERVER, CLIENT, &[7; 1_500]);
    long[6] = 0;
    let data =
        |number: u8, counter: u8, plain: &[u8]| [vec![2, number, 0, counter], chunk(plain), vec![0]].concat();
    let lan = [vec![4], chunk(&down), vec![0]].concat();
    let rekey = vec![5, 1, InstallOp::AddKey as u8, 7];
    vec![
        [data(0, 0, &up), lan.clone(), data(0, 1, &up)].concat(),
        [data(0, 0, &probe.encode()), data(0, 5, &ping), lan.clone()].concat(),
        [data(0, 0, &up), rekey, data(1, 0, &up), lan.clone(), data(0, 9, &up)].concat(),
        [vec![0], chunk(&frame), vec![1], chunk(&down), vec![6, 0], data(0, 2, &up), vec![6, 1], lan]
            .concat(),
        [vec![2, 0, 0, 1], chunk(&up), vec![1, 0, 50, 0x80], data(0, 1, &up)].concat(),
        [data(0, 0, &up_v6), vec![4], chunk(&down_v6), vec![0], data(0, 1, &echo_v6)].concat(),
        [data(0, 0, &nowhere), vec![4], chunk(&long), vec![0], data(0, 1, &up_v6)].concat(),
        ping,
        down,
        echo_v6,
        long,
        // Both ways, both families, plain and with everything.
        (0_u8..32).flat_map(|n| [0xf8 + n % 4, n, n, n, 64, 0, n * 8, n, n, 0, n, n, n, 1, n, n]).collect(),
        (0_u8..32)
            .flat_map(|n| [0xf8 + n % 2, n / 2, 0, 1, 64, 1, 100, n, 2, 5, 180, n % 5, 1, 1, 3])
            .collect(),
    ]
}
