//! A worker's pipeline in memory: the real tables, mailbox and installer, and a client that seals and opens.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use bytemuck::Zeroable;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::tables::{
    BINDING_WORDS, BindingEntry, BindingWord, Context, InstallEntry, InstallOp, KeyRing, Reports,
    SteeringMark, context_octets,
};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, SlotId, Suite, TAG_LEN};
use jvpn_abi::{BootTime, DropReason, Endpoint};
use jvpn_crypto::aead::{OpenKey, SealKey};
use jvpn_dataplane::frame::{Address, GatewayAddresses, Mac, fold, sum_words};
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::pipeline::{BetweenClients, Pipeline, PipelineConfig, Pools, Verdict};
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const SLOTS: u32 = 64;
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
pub(crate) const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const CLIENT_6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const SERVER_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0x10);
pub(crate) const MTU: usize = 1_400;
pub(crate) const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub(crate) const LAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
pub(crate) const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
pub(crate) const REMOTE: ([u8; 4], u16) = ([203, 0, 113, 9], 40_000);
pub(crate) const LOCAL: ([u8; 4], u16) = ([198, 51, 100, 1], 4_500);
pub(crate) const NOW: BootTime = BootTime(1_000_000_000);
pub(crate) const OPEN_KEY: [u8; 32] = [0x11; 32];
pub(crate) const SEAL_KEY: [u8; 32] = [0x22; 32];

/// A gateway's worker 0 with everything around it.
pub(crate) struct Bench {
    pub(crate) tables: Arc<Tables>,
    pub(crate) pipeline: Pipeline,
    pub(crate) installer: Installer,
    pub(crate) mailbox: KeyMailbox,
    pub(crate) queues: Arc<WorkerQueues>,
    pub(crate) misses: Arc<ArrayQueue<Address>>,
    pub(crate) lan_out: Vec<u8>,
    pub(crate) wan_out: Vec<u8>,
    pub(crate) gate: std::os::fd::OwnedFd,
    /// The memory of KEYS.
    pub(crate) keys: std::os::fd::OwnedFd,
    seq: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let memory = |octets| shared_memory("TEST", c"jvpn-test", octets).unwrap();
        let bindings = memory(SLOTS as usize * BINDING_WORDS * 8);
        let context = memory(context_octets(SLOTS));
        let reports = memory(size_of::<Reports>());
        let gate = memory(4096);
        let keys = memory(size_of::<KeyRing>());
        let tables = Arc::new(
            Tables::map(SLOTS, bindings.as_fd(), context.as_fd(), reports.as_fd(), gate.as_fd()).unwrap(),
        );
        let misses = Arc::new(ArrayQueue::new(8));
        let mut bench = Self {
            pipeline: pipeline(&tables, &misses),
            queues: Arc::new(WorkerQueues::new().unwrap()),
            installer: Installer::new(Arc::clone(&tables), Vec::new(), ROUTER_MAC),
            mailbox: KeyMailbox::map(keys.as_fd()).unwrap(),
            misses,
            lan_out: vec![0; 1_792],
            wan_out: vec![0; 1_792],
            gate,
            keys,
            seq: 0,
            tables,
        };
        bench.fence(u64::MAX);
        bench.installer = Installer::new(
            Arc::clone(&bench.tables),
            vec![Arc::clone(&bench.queues)],
            Mac([2, 0, 0, 0, 0, 1]),
        );
        bench
    }

    /// A new worker and installer over the same tables, as after a restart of the data plane.
    pub(crate) fn restart(&mut self) {
        self.pipeline = pipeline(&self.tables, &self.misses);
        self.queues = Arc::new(WorkerQueues::new().unwrap());
        self.installer =
            Installer::new(Arc::clone(&self.tables), vec![Arc::clone(&self.queues)], Mac([2, 0, 0, 0, 0, 1]));
    }

    /// The same worker for a LAN of several interfaces, of which the first has this world's server.
    pub(crate) fn with_several_lans(mut self) -> Self {
        self.pipeline = pipeline(&self.tables, &self.misses).with_several_lans();
        assert!(self.install(InstallOp::Adopt, |_| ()));
        self
    }

    pub(crate) fn fence(&self, deadline: u64) {
        let words = jvpn_tables::Mapping::<AtomicU64>::new("GATE", self.gate.as_fd(), 4).unwrap();
        let fence = std::mem::offset_of!(jvpn_abi::tables::Gate, fence_deadline_ns) / 8;
        words[fence].store(deadline, Ordering::Release);
    }

    /// Sends an entry through mailbox, installer and worker; returns whether the installer took it.
    pub(crate) fn install(&mut self, op: InstallOp, edit: impl FnOnce(&mut InstallEntry)) -> bool {
        self.seq += 1;
        let mut entry = entry(op);
        entry.seq = self.seq;
        edit(&mut entry);
        assert!(self.mailbox.put(&entry));
        let done = self.installer.run(&self.mailbox);
        self.pipeline.apply(&self.queues);
        done.refused == 0
    }

    pub(crate) fn bind(&self, slot: SlotId) {
        let path = BindingEntry::new(Endpoint::v4(REMOTE.0, REMOTE.1), Endpoint::v4(LOCAL.0, LOCAL.1));
        self.tables.bindings.bind(slot.index(), &path, BindingWord::bound(slot, 1));
    }

    /// Installed, bound, and confirmed by a first frame with counter 0.
    pub(crate) fn attached() -> Self {
        let mut bench = Self::new();
        assert!(bench.install(InstallOp::Install, |_| ()));
        bench.bind(slot());
        let first = data_frame(0, &inner(CLIENT, SERVER, 64, b"first"));
        assert!(matches!(bench.inbound(&first), Verdict::ToLan(_)));
        bench
    }

    pub(crate) fn inbound(&mut self, frame: &[u8]) -> Verdict {
        self.pipeline.inbound(NOW, frame, &mut self.lan_out, &mut self.wan_out)
    }

    pub(crate) fn outbound(&mut self, frame: &mut [u8]) -> Verdict {
        self.pipeline.outbound(NOW, frame, &mut self.lan_out, &mut self.wan_out)
    }

    pub(crate) fn context(&self) -> &Context {
        &self.tables.contexts[slot().index() as usize]
    }

    pub(crate) fn counter(&self, reason: DropReason) -> u64 {
        self.tables.report(0).counters[reason.number() as usize].load(Ordering::Relaxed)
    }

    /// Opens what lies in the WAN buffer, as the client would.
    pub(crate) fn client_opens(&self, len: usize) -> (u64, Vec<u8>) {
        let datagram = &self.wan_out[42..len];
        let header = DataHeader::parse(datagram).unwrap();
        assert_eq!(header.slot, slot());
        let (aad, sealed) = datagram.split_at(DATA_HEADER_LEN);
        let mut plain = vec![0; sealed.len() - TAG_LEN];
        let key = OpenKey::new(Suite::Aes256Gcm, &SEAL_KEY);
        drop(key.open(header.counter, aad, sealed, &mut plain).unwrap());
        (header.counter, plain)
    }
}

fn pipeline(tables: &Arc<Tables>, misses: &Arc<ArrayQueue<Address>>) -> Pipeline {
    pipeline_of(tables, misses, config())
}

/// What the pipeline is told unless a test wants it otherwise.
pub(crate) fn config() -> PipelineConfig {
    PipelineConfig {
        gateway: GatewayAddresses { v4: Some(GATEWAY.into()), v6: Some(GATEWAY_6.into()) },
        pools: Pools {
            v4: Some((Address::v4([10, 77, 0, 0]).0, u128::MAX << 16)),
            v6: Some((0xfd77 << 112, u128::MAX << 64)),
        },
        mtu: MTU,
        lan_mac: LAN_MAC,
        between_clients: BetweenClients::Denied,
    }
}

pub(crate) fn pipeline_of(
    tables: &Arc<Tables>,
    misses: &Arc<ArrayQueue<Address>>,
    config: PipelineConfig,
) -> Pipeline {
    let mut pipeline = Pipeline::new(Arc::clone(tables), 0, config, Arc::clone(misses));
    let routes = vec![
        LanRoute::new(Ipv4Addr::new(192, 168, 50, 0).into(), 24, None),
        LanRoute::new(Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0).into(), 64, None),
    ];
    let known = [Address::from(SERVER), Address::from(SERVER_6)].map(|address| (address, SERVER_MAC));
    let view = LanView::new(routes, HashMap::from(known));
    drop(pipeline.replace_lan(Arc::new(view)));
    pipeline
}

pub(crate) fn slot() -> SlotId {
    SlotId::new(7, 3).unwrap()
}

pub(crate) fn entry(op: InstallOp) -> InstallEntry {
    let mut prefixes = [[0; 16]; 8];
    prefixes[0] = CLIENT.to_ipv6_mapped().octets();
    let mut prefix_lens = [0; 8];
    prefix_lens[0] = 128;
    prefixes[1] = CLIENT_6.octets();
    prefix_lens[1] = 128;
    InstallEntry {
        word: BindingWord::bound(slot(), 1).0,
        op: op as u32,
        slot: slot().0,
        suite: Suite::Aes256Gcm as u8,
        prefix_count: 2,
        remote_addr: Endpoint::v4(REMOTE.0, REMOTE.1).addr,
        local_addr: Endpoint::v4(LOCAL.0, LOCAL.1).addr,
        remote_port: REMOTE.1,
        local_port: LOCAL.1,
        open_key: OPEN_KEY,
        seal_key: SEAL_KEY,
        prefix_lens,
        prefixes,
        ..InstallEntry::zeroed()
    }
}

/// A UDP packet from `source` to `destination`.
pub(crate) fn inner(source: Ipv4Addr, destination: Ipv4Addr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    inner_of(17, source, destination, ttl, payload)
}

pub(crate) fn inner_of(
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, ttl, protocol, 0, 0];
    p[2..4].copy_from_slice(&u16::to_be_bytes((20 + payload.len()) as u16));
    p.extend(source.octets());
    p.extend(destination.octets());
    let checksum = fold(sum_words(&p));
    p[10..12].copy_from_slice(&checksum.to_be_bytes());
    p.extend(payload);
    p
}

/// The frame in which a client's sealed plaintext reaches the WAN port.
pub(crate) fn data_frame(counter: u64, plaintext: &[u8]) -> Vec<u8> {
    data_frame_of(slot(), false, counter, plaintext, REMOTE)
}

pub(crate) fn data_frame_of(
    slot: SlotId,
    key_phase: bool,
    counter: u64,
    plaintext: &[u8],
    remote: ([u8; 4], u16),
) -> Vec<u8> {
    sealed_frame(&OPEN_KEY, slot, key_phase, counter, plaintext, remote)
}

fn sealed_frame(
    key: &[u8; 32],
    slot: SlotId,
    key_phase: bool,
    counter: u64,
    plaintext: &[u8],
    remote: ([u8; 4], u16),
) -> Vec<u8> {
    let header = DataHeader { key_phase, shard: 0, slot, counter }.encode();
    let mut payload = header.to_vec();
    payload.resize(DATA_HEADER_LEN + plaintext.len() + TAG_LEN, 0);
    let key = SealKey::new(Suite::Aes256Gcm, key);
    key.seal(counter, &header, plaintext, &mut payload[DATA_HEADER_LEN..]).unwrap();
    outer(remote, LOCAL, &payload)
}

pub(crate) fn outer(remote: ([u8; 4], u16), local: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1];
    f.extend(ROUTER_MAC.0);
    f.extend([8, 0, 0x45, 0]);
    f.extend(u16::to_be_bytes((28 + payload.len()) as u16));
    f.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    f.extend(remote.0);
    f.extend(local.0);
    f.extend(remote.1.to_be_bytes());
    f.extend(local.1.to_be_bytes());
    f.extend(u16::to_be_bytes((8 + payload.len()) as u16));
    f.extend([0, 0]);
    f.extend(payload);
    f
}

/// The frame in which a packet for the client reaches a worker from the LAN port, marked by XDP.
pub(crate) fn lan_frame(packet: &[u8]) -> Vec<u8> {
    let mut f = SteeringMark { slot_index: slot().index() }.encode().to_vec();
    f.extend(SERVER_MAC.0);
    f.extend([8, 0]);
    f.extend(packet);
    f
}

/// Keys of the next key number.
pub(crate) const NEXT_OPEN_KEY: [u8; 32] = [0x33; 32];
pub(crate) const NEXT_SEAL_KEY: [u8; 32] = [0x44; 32];

/// An entry that is about the next key number.
pub(crate) fn next_key(entry: &mut InstallEntry) {
    (entry.key_number, entry.open_key, entry.seal_key) = (1, NEXT_OPEN_KEY, NEXT_SEAL_KEY);
}

/// The frame of a client that seals under the next key number.
pub(crate) fn next_frame(counter: u64, plaintext: &[u8]) -> Vec<u8> {
    sealed_frame(&NEXT_OPEN_KEY, slot(), true, counter, plaintext, REMOTE)
}

/// Counter and key phase of what lies in the WAN buffer, which must open under `key`.
pub(crate) fn opened_under(bench: &Bench, key: &[u8; 32], len: usize) -> (u64, bool) {
    let (aad, sealed) = bench.wan_out[42..len].split_at(DATA_HEADER_LEN);
    let header = DataHeader::parse(&bench.wan_out[42..len]).unwrap();
    let mut plain = vec![0; sealed.len() - TAG_LEN];
    drop(OpenKey::new(Suite::Aes256Gcm, key).open(header.counter, aad, sealed, &mut plain).unwrap());
    (header.counter, header.key_phase)
}
