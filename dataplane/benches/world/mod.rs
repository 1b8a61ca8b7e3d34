//! A worker's pipeline with many sessions, its frames in a ring as UMEM has them, and the bare cipher beside it.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on ends here")]

mod edge;

use bytemuck::Zeroable;
use edge::Misses;
use jvpn_abi::tables::{
    BINDING_WORDS, BindingEntry, BindingWord, Gate, InstallEntry, InstallOp, KeyRing, Reports, SteeringMark,
    context_octets,
};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, SlotId, Suite, TAG_LEN};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_crypto::aead::{OpenKey, SealKey};
use jvpn_dataplane::frame::{Mac, fold, sum_words};
use jvpn_dataplane::pipeline::{Pipeline, Verdict};
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use jvpn_tables::{InnerPrefix, PrefixWriter, Prefixes};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Frames of the ring: as many as a port has for receiving, half of them in use at once.
pub(crate) const RING: usize = 1_024;
/// Octets of a frame.
const FRAME: usize = 2_048;
/// Octets before the outer payload.
const OUTER: usize = 42;
const ETHERNET: usize = 14;
const NOW: BootTime = BootTime(1_000_000_000);
const OPEN_KEY: [u8; 32] = [0x11; 32];
const SEAL_KEY: [u8; 32] = [0x22; 32];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
const WAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const LOCAL: ([u8; 4], u16) = ([198, 51, 100, 1], 4_500);

/// What is measured: one of these per packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A sealed frame from the WAN becomes a plain one for the LAN.
    Inbound,
    /// A plain frame from the LAN becomes a sealed one for the WAN.
    Outbound,
    /// Only the opening, with one key.
    Open,
    /// Only the sealing, with one key.
    Seal,
}

/// The pipeline, its sessions, and the ring.
pub(crate) struct World {
    tables: Arc<Tables>,
    pipeline: Pipeline,
    sessions: u32,
    suite: Suite,
    inner_len: usize,
    /// Next counter of each session.
    counters: Vec<u64>,
    ring: Vec<u8>,
    lens: Vec<usize>,
    outs: Vec<u8>,
    spare: Vec<u8>,
    client: SealKey,
    bare_open: OpenKey,
    bare_seal: SealKey,
    bare_counter: u64,
    random: u64,
    _misses: Arc<Misses>,
}

impl World {
    /// `sessions` attached sessions whose inner packets have `inner_len` octets.
    pub(crate) fn new(sessions: u32, suite: Suite, inner_len: usize) -> Self {
        let slots = (sessions + 1).next_power_of_two().max(64);
        let memory = |octets| shared_memory("BENCH", c"jvpn-bench", octets).unwrap();
        let bindings = memory(slots as usize * BINDING_WORDS * 8);
        let context = memory(context_octets(slots));
        let (reports, gate, keys) =
            (memory(size_of::<Reports>()), memory(4_096), memory(size_of::<KeyRing>()));
        let tables = Arc::new(
            Tables::map(slots, bindings.as_fd(), context.as_fd(), reports.as_fd(), gate.as_fd()).unwrap(),
        );
        let fence = std::mem::offset_of!(Gate, fence_deadline_ns) / 8;
        jvpn_tables::Mapping::<AtomicU64>::new("GATE", gate.as_fd(), 4).unwrap()[fence]
            .store(u64::MAX, Ordering::Release);
        let misses = Arc::new(Misses::new(8));
        let prefixes = prefixes(slots, sessions);
        let mut world = Self {
            pipeline: edge::pipeline(&tables, &misses, prefixes),
            tables,
            sessions,
            suite,
            inner_len,
            counters: vec![0; sessions as usize],
            ring: vec![0; RING * FRAME],
            lens: vec![0; RING],
            outs: vec![0; RING * FRAME],
            spare: vec![0; FRAME],
            client: SealKey::new(suite, &OPEN_KEY),
            bare_open: OpenKey::new(suite, &OPEN_KEY),
            bare_seal: SealKey::new(suite, &SEAL_KEY),
            bare_counter: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            _misses: misses,
        };
        world.install(&KeyMailbox::map(keys.as_fd()).unwrap());
        world
    }

    fn install(&mut self, mailbox: &KeyMailbox) {
        let queues = Arc::new(WorkerQueues::new().unwrap());
        let installer = Installer::new(Arc::clone(&self.tables), vec![Arc::clone(&queues)], WAN_MAC);
        for session in 0..self.sessions {
            let slot = slot(session);
            let entry = entry(session, self.suite);
            assert!(mailbox.put(&entry));
            assert_eq!(installer.run(mailbox).refused, 0);
            self.pipeline.apply(&queues);
            let path = BindingEntry::new(remote(session), Endpoint::v4(LOCAL.0, LOCAL.1));
            self.tables.bindings.bind(slot.index(), &path, BindingWord::bound(slot, 1));
            // The first frame confirms the binding and teaches the way back.
            let len = self.put_sealed(0, session);
            let verdict =
                self.pipeline.inbound(NOW, &self.ring[..len], &mut self.outs[..FRAME], &mut self.spare);
            assert!(matches!(verdict, Verdict::ToLan(_)), "{verdict:?}");
            let _confirmed = self.pipeline.after_batch();
            // No control plane reads the event ring here.
            let report = self.pipeline.report();
            report.events_read.store(report.events_written.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn random_session(&mut self) -> u32 {
        // xorshift64 (Marsaglia 2003): order, not secrecy.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from(self.random >> 33).unwrap() % self.sessions
    }

    /// Fills the ring with frames of random sessions.
    pub(crate) fn fill(&mut self, work: Work) {
        for place in 0..RING {
            let session = self.random_session();
            self.lens[place] = match work {
                Work::Inbound | Work::Open => self.put_sealed(place, session),
                Work::Outbound | Work::Seal => self.put_plain(place, session),
            };
        }
    }

    fn put_sealed(&mut self, place: usize, session: u32) -> usize {
        let counter = self.counters[session as usize];
        self.counters[session as usize] += 1;
        let header = DataHeader { key_phase: false, shard: 0, slot: slot(session), counter }.encode();
        let plain = inner(client(session), SERVER, self.inner_len);
        let len = OUTER + DATA_HEADER_LEN + plain.len() + TAG_LEN;
        let frame = &mut self.ring[place * FRAME..][..len];
        outer(frame, remote(session));
        frame[OUTER..][..DATA_HEADER_LEN].copy_from_slice(&header);
        self.client.seal(counter, &header, &plain, &mut frame[OUTER + DATA_HEADER_LEN..]).unwrap();
        len
    }

    fn put_plain(&mut self, place: usize, session: u32) -> usize {
        let packet = inner(SERVER, client(session), self.inner_len);
        let len = ETHERNET + packet.len();
        let frame = &mut self.ring[place * FRAME..][..len];
        let mark = SteeringMark { slot_index: slot(session).index() }.encode();
        frame[..mark.len()].copy_from_slice(&mark);
        frame[6..12].copy_from_slice(&SERVER_MAC.0);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[ETHERNET..].copy_from_slice(&packet);
        len
    }

    /// Handles the first `count` frames of the ring as a worker does, and checks that each took the whole way.
    #[inline(never)]
    pub(crate) fn run(&mut self, work: Work, count: usize) {
        self.pipeline.begin_batch();
        match work {
            Work::Inbound => self.inbound(count),
            Work::Outbound => self.outbound(count),
            Work::Open => self.open(count),
            Work::Seal => self.seal(count),
        }
    }

    fn inbound(&mut self, count: usize) {
        for place in 0..count {
            edge::look_ahead_inbound(&mut self.pipeline, |ahead| {
                let at = place + ahead;
                (at < count).then(|| &self.ring[at * FRAME..][..self.lens[at]])
            });
            let frame = &self.ring[place * FRAME..][..self.lens[place]];
            let out = &mut self.outs[place * FRAME..][..FRAME];
            let verdict = self.pipeline.inbound(NOW, frame, out, &mut self.spare);
            assert!(matches!(black_box(verdict), Verdict::ToLan(_)), "{verdict:?}");
        }
    }

    fn outbound(&mut self, count: usize) {
        for place in 0..count {
            edge::look_ahead_outbound(&mut self.pipeline, |ahead| {
                let at = place + ahead;
                (at < count).then(|| &self.ring[at * FRAME..][..self.lens[at]])
            });
            let frame = &mut self.ring[place * FRAME..][..self.lens[place]];
            let out = &mut self.outs[place * FRAME..][..FRAME];
            let verdict = edge::outbound(&mut self.pipeline, NOW, frame, &mut self.spare, out);
            assert!(matches!(black_box(verdict), Verdict::ToWan(_)), "{verdict:?}");
        }
    }

    fn open(&mut self, count: usize) {
        for place in 0..count {
            let frame = &self.ring[place * FRAME..][..self.lens[place]];
            let (aad, sealed) = frame[OUTER..].split_at(DATA_HEADER_LEN);
            let counter = u64::from_be_bytes(aad[DATA_HEADER_LEN - 8..].try_into().unwrap());
            let out = &mut self.outs[place * FRAME + ETHERNET..][..sealed.len() - TAG_LEN];
            drop(black_box(self.bare_open.open(counter, aad, sealed, out).unwrap()));
        }
    }

    fn seal(&mut self, count: usize) {
        for place in 0..count {
            let plain = &self.ring[place * FRAME..][ETHERNET..self.lens[place]];
            let (head, out) = self.outs[place * FRAME + OUTER..][..DATA_HEADER_LEN + plain.len() + TAG_LEN]
                .split_at_mut(DATA_HEADER_LEN);
            self.bare_counter += 1;
            black_box(self.bare_seal.seal(self.bare_counter, head, plain, out)).unwrap();
        }
    }
}

/// PREFIXES with the address of every client.
fn prefixes(slots: u32, sessions: u32) -> Arc<Prefixes> {
    let memory = shared_memory("PREFIXES", c"jvpn-bench", Prefixes::octets(slots)).unwrap();
    let mut writer = PrefixWriter::take(Prefixes::map(memory.as_fd(), slots).unwrap());
    for session in 0..sessions {
        let prefix = InnerPrefix::new(client(session).to_ipv6_mapped().to_bits(), 128).unwrap();
        writer.insert(prefix, slot(session).index()).unwrap();
    }
    Arc::new(Prefixes::map(memory.as_fd(), slots).unwrap())
}

fn slot(session: u32) -> SlotId {
    SlotId::new(session + 1, 1).unwrap()
}

fn client(session: u32) -> Ipv4Addr {
    let [_, a, b, c] = (session + 2).to_be_bytes();
    Ipv4Addr::new(10, a, b, c)
}

fn remote(session: u32) -> Endpoint {
    let [_, a, b, c] = session.to_be_bytes();
    Endpoint::v4([20, a, b, c], 40_000)
}

fn entry(session: u32, suite: Suite) -> InstallEntry {
    let (slot, remote, local) = (slot(session), remote(session), Endpoint::v4(LOCAL.0, LOCAL.1));
    let (mut prefixes, mut prefix_lens) = ([[0; 16]; 8], [0; 8]);
    prefixes[0] = client(session).to_ipv6_mapped().octets();
    prefix_lens[0] = 128;
    InstallEntry {
        seq: u64::from(session) + 1,
        word: BindingWord::bound(slot, 1).0,
        op: InstallOp::Install as u32,
        slot: slot.0,
        suite: suite as u8,
        prefix_count: 1,
        remote_addr: remote.addr,
        remote_port: remote.port,
        local_addr: local.addr,
        local_port: local.port,
        open_key: OPEN_KEY,
        seal_key: SEAL_KEY,
        prefix_lens,
        prefixes,
        ..InstallEntry::zeroed()
    }
}

fn inner(source: Ipv4Addr, destination: Ipv4Addr, len: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let checksum = fold(sum_words(&packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.resize(len, 7);
    packet
}

fn outer(frame: &mut [u8], remote: Endpoint) {
    let len = frame.len();
    let word = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    frame[..6].copy_from_slice(&WAN_MAC.0);
    frame[6..12].copy_from_slice(&ROUTER_MAC.0);
    frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    frame[16..18].copy_from_slice(&word(len - ETHERNET));
    frame[18..26].copy_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame[26..30].copy_from_slice(&remote.v4_octets().unwrap());
    frame[30..34].copy_from_slice(&LOCAL.0);
    frame[34..36].copy_from_slice(&remote.port.to_be_bytes());
    frame[36..38].copy_from_slice(&LOCAL.1.to_be_bytes());
    frame[38..40].copy_from_slice(&word(len - ETHERNET - 20));
    frame[40..42].copy_from_slice(&[0, 0]);
}
