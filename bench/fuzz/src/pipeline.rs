//! Target `pipeline`: frames of both ports through a worker's pipeline, behind authentication too, while bindings come,
//! change their keys and go. Real tables, mailbox and installer.

use crate::Source;
use crate::wire::frame_v4;
use bytemuck::Zeroable;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::tables::{
    BINDING_WORDS, BindingEntry, BindingWord, Context, Gate, InstallEntry, InstallOp, KeyRing, Reports,
    SteeringMark,
};
use jvpn_abi::wire::internal::{ProbeFrame, ProbeKind};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, SlotId, Suite, TAG_LEN};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::SealKey;
use jvpn_dataplane::frame::{InnerV4, Mac, answer_echo, decrement_ttl, fold, sum_words};
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::pipeline::{Pipeline, PipelineConfig, Verdict};
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::Mapping;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: u32 = 8;
const BUFFER_LEN: usize = 1_792;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
/// What `frame_v4` sends from and to.
const REMOTE: Endpoint = Endpoint::v4([203, 0, 113, 9], 40_000);
const LOCAL: Endpoint = Endpoint::v4([198, 51, 100, 1], 4_500);
/// Ethernet, IPv4 and UDP headers in front of a datagram.
const OUTER_LEN: usize = 42;

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
}

impl Worker {
    fn new() -> Self {
        let memory = |octets| shared_memory("FUZZ", c"jvpn-fuzz", octets).unwrap();
        let bindings = memory(SLOTS as usize * BINDING_WORDS * 8);
        let context = memory(SLOTS as usize * size_of::<Context>());
        let (reports, gate, keys) =
            (memory(size_of::<Reports>()), memory(4_096), memory(size_of::<KeyRing>()));
        let fence = std::mem::offset_of!(Gate, fence_deadline_ns) / 8;
        Mapping::<AtomicU64>::new("GATE", gate.as_fd(), fence + 1).unwrap()[fence]
            .store(u64::MAX, Ordering::Release);
        let tables = Tables::map(SLOTS, bindings.as_fd(), context.as_fd(), reports.as_fd(), gate.as_fd());
        let tables = Arc::new(tables.unwrap());
        let config = PipelineConfig {
            gateway_address: GATEWAY,
            pool: (u32::from(Ipv4Addr::new(10, 77, 0, 0)), 0xffff_0000),
            mtu: 1_400,
            lan_mac: Mac([2, 0, 0, 0, 0, 5]),
        };
        let misses = Arc::new(ArrayQueue::new(8));
        let mut pipeline = Pipeline::new(Arc::clone(&tables), 0, config, misses);
        let route = LanRoute::new(Ipv4Addr::new(192, 168, 50, 0), 24, None);
        let neighbours = HashMap::from([(SERVER, Mac([2, 0, 0, 0, 0, 9]))]);
        drop(pipeline.replace_lan(Arc::new(LanView::new(vec![route], neighbours))));
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
        let verdict = self.pipeline.inbound(self.now, frame, &mut self.lan_out, &mut self.wan_out);
        self.judge(verdict);
        verdict
    }

    fn outbound(&mut self, frame: &[u8]) {
        let mut frame = frame.to_vec();
        let verdict = self.pipeline.outbound(self.now, &mut frame, &mut self.wan_out);
        assert!(!matches!(verdict, Verdict::ToLan(_)), "a frame of the LAN goes back there");
        self.judge(verdict);
    }

    /// What leaves is whole, for the LAN an IPv4 packet, for the WAN sealed under a fresh counter.
    fn judge(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(_) => {}
            Verdict::ToLan(len) => {
                let inner = InnerV4::parse(&self.lan_out[14..len]).unwrap();
                assert_eq!(inner.len + 14, len, "{inner:?}");
            }
            Verdict::ToWan(len) => {
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
    prefix_lens[0] = 128;
    InstallEntry {
        word: BindingWord::bound(slot(), 1).0,
        op,
        slot: slot().0,
        suite: Suite::Aes256Gcm as u8,
        prefix_count: 1,
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
}

fn step(worker: &mut Worker, source: &mut Source<'_>) {
    match source.u8() % 8 {
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
    let Some(inner) = InnerV4::parse(data) else { return };
    assert!(inner.header_len <= inner.len && inner.len <= data.len(), "{inner:?}");
    let header = |packet: &[u8]| fold(sum_words(&packet[..inner.header_len]));
    let mut packet = data.to_vec();
    if inner.ttl > 1 && header(&packet) == 0 {
        decrement_ttl(&mut packet);
        assert_eq!(header(&packet), 0, "RFC 1624");
    }
    let mut packet = data.to_vec();
    if answer_echo(&mut packet, &inner).is_some() {
        let answer = InnerV4::parse(&packet).unwrap();
        assert_eq!((answer.source, answer.destination), (inner.destination, inner.source));
        assert_eq!(fold(sum_words(&packet[inner.header_len..inner.len])), 0, "RFC 792");
    }
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
        ping,
        down,
    ]
}
