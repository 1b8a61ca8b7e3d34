//! The data-plane process without sockets: the production classification, pipeline, installer and tables, in memory.
//! Frames reach a worker's queue and are handled at its next turn, so quiescence takes real time here too.

use super::super::network::GATEWAY;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::limit::{Bucket, Rate};
use jvpn_abi::steer::{self, ETHERNET_LEN, WanClass, classify_wan};
use jvpn_abi::tables::{
    BINDING_WORDS, BindingEntry, JournalRecord, KeyRing, Reports, SteeringMark, context_octets,
};
use jvpn_abi::wire::{MsgType, SlotId};
use jvpn_abi::{BootTime, Endpoint};
use jvpn_dataplane::frame::{Address, Ecn, GatewayAddresses, Mac, OUTER_V4_LEN, OuterTemplate};
use jvpn_dataplane::hops::WanHops;
use jvpn_dataplane::lan::{LanRoute, LanView};
use jvpn_dataplane::pipeline::{BetweenClients, Pipeline, PipelineConfig, Pools, Verdict};
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use jvpn_tables::{Mapping, TableError};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where GATE holds the fence deadline, in u64 words.
const FENCE_WORD: usize = std::mem::offset_of!(jvpn_abi::tables::Gate, fence_deadline_ns) / 8;

/// The gateway's inner address.
pub const INNER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The server behind the gateway.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);

const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
const WAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
/// Largest inner packet of the pipeline.
const MTU: usize = 1_280;
/// Room of a TX frame.
const FRAME: usize = 2_048;
/// Frames handled between two batch boundaries, per port, as the worker has it.
const BATCH: usize = 64;
/// Frames that wait for a worker; more are lost, as in a ring.
const RING: usize = 2_048;
/// One edge limit per kind of traffic. (The finer ones of the XDP program are its own tests' business.)
const CONTROL: Rate = Rate { per_second: 20_000, burst: 20_000 };
const SAMPLE: Rate = Rate { per_second: 2_000, burst: 2_000 };

/// ROUTES: mapped prefix → slot index.
pub(crate) type Routes = Rc<RefCell<BTreeMap<([u8; 16], u8), u32>>>;

/// How large the memory of a data plane is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Slots of the tables.
    pub(crate) slots: u32,
    /// Elements of JOURNAL.
    pub(crate) journal: u32,
    /// Workers.
    pub(crate) workers: usize,
}

/// Why there is no data plane.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// A table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// JOURNAL.
    #[error(transparent)]
    Journal(#[from] jvpn_controlplane::journal::JournalError),
    /// A descriptor.
    #[error("an event descriptor of the simulated data plane: {0}")]
    Descriptor(#[from] io::Error),
}

/// What became of a datagram at the WAN port.
#[derive(Debug)]
pub(crate) enum Steered {
    /// To this worker.
    Worker(usize),
    /// To the control plane's socket, as it is now.
    Socket(Vec<u8>),
    /// Nowhere.
    Dropped,
}

/// What a worker did.
#[derive(Debug)]
pub(crate) enum Did {
    /// Accepted a frame of a slot: its counter is committed.
    Accepted(SlotId),
    /// Sent a packet to the LAN.
    ToLan(Vec<u8>),
    /// Sent a datagram to a client.
    ToWan(Endpoint, Vec<u8>),
}

/// One worker.
pub(crate) struct Worker {
    pipeline: Pipeline,
    queues: Arc<WorkerQueues>,
    wan: VecDeque<Vec<u8>>,
    lan: VecDeque<Vec<u8>>,
    reported: (u64, u64),
}

/// The part that exists once a control plane has connected.
pub(crate) struct Running {
    pub(crate) context: OwnedFd,
    pub(crate) context_kept: bool,
    /// JOURNAL: held here so that it outlives a control plane.
    pub(crate) journal: OwnedFd,
    /// A control plane may have written to it.
    pub(crate) journal_kept: bool,
    pub(crate) reports: OwnedFd,
    pub(crate) keys: OwnedFd,
    pub(crate) workers: Vec<Worker>,
    tables: Arc<Tables>,
    mailbox: KeyMailbox,
    installer: Installer,
}

/// The process.
pub(crate) struct DataPlane {
    pub(crate) slots: u32,
    sizes: Sizes,
    pub(crate) bindings: OwnedFd,
    pub(crate) routes: Routes,
    words: Mapping<AtomicU64>,
    gate: OwnedFd,
    control: Bucket,
    sample: Bucket,
    running: Option<Running>,
    lan_out: Vec<u8>,
    wan_out: Vec<u8>,
}

impl DataPlane {
    /// A process whose XDP programs are attached; workers come with the first control plane.
    pub(crate) fn start(sizes: Sizes) -> Result<Self, DataPlaneError> {
        let slots = sizes.slots;
        let octets = slots as usize * BINDING_WORDS * 8;
        let bindings = shared_memory("BINDINGS", c"jvpn-sim", octets)?;
        let gate = shared_memory("GATE", c"jvpn-sim", 4_096)?;
        Mapping::<AtomicU64>::new("GATE", gate.as_fd(), 4)?[FENCE_WORD].store(u64::MAX, Ordering::Release);
        Ok(Self {
            slots,
            sizes,
            words: Mapping::new("BINDINGS", bindings.as_fd(), slots as usize * BINDING_WORDS)?,
            bindings,
            gate,
            routes: Routes::default(),
            control: Bucket::default(),
            sample: Bucket::default(),
            running: None,
            lan_out: vec![0; FRAME],
            wan_out: vec![0; FRAME],
        })
    }

    /// The workers, once they run.
    pub(crate) const fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// A control plane connects. The first one starts the workers, on the CONTEXT and JOURNAL that it hands over if it has
    /// them.
    pub(crate) fn accept(
        &mut self,
        context: Option<OwnedFd>,
        journal: Option<OwnedFd>,
    ) -> Result<(), DataPlaneError> {
        if let Some(running) = &mut self.running {
            running.context_kept = false;
            running.journal_kept = true;
            return Ok(());
        }
        let (context_kept, journal_kept) = (context.is_some(), journal.is_some());
        let journal = match journal {
            Some(kept) => kept,
            None => {
                let octets = self.sizes.journal as usize * size_of::<JournalRecord>();
                shared_memory("JOURNAL", c"jvpn-sim", octets)?
            }
        };
        let context = match context {
            Some(kept) => kept,
            None => shared_memory("CONTEXT", c"jvpn-sim", context_octets(self.slots))?,
        };
        let reports = shared_memory("REPORTS", c"jvpn-sim", size_of::<Reports>())?;
        let keys = shared_memory("KEYS", c"jvpn-sim", size_of::<KeyRing>())?;
        let tables = Arc::new(Tables::map(
            self.slots,
            self.bindings.as_fd(),
            context.as_fd(),
            reports.as_fd(),
            self.gate.as_fd(),
        )?);
        let misses = Arc::new(ArrayQueue::new(8));
        let workers: Vec<Worker> = (0..self.sizes.workers)
            .map(|index| Worker::new(&tables, index, &misses))
            .collect::<Result<_, io::Error>>()?;
        tables.reports().workers.store(workers.len() as u64, Ordering::Release);
        let queues = workers.iter().map(|worker| Arc::clone(&worker.queues)).collect();
        self.running = Some(Running {
            context,
            context_kept,
            journal,
            journal_kept,
            mailbox: KeyMailbox::map(keys.as_fd())?,
            reports,
            keys,
            workers,
            installer: Installer::new(Arc::clone(&tables), queues, WAN_MAC)
                .with_hops(Arc::new(WanHops::new(vec![(0, LanView::point_to_point(ROUTER_MAC))]))),
            tables,
        });
        Ok(())
    }

    /// CONTEXT, as the control plane keeps it when this process dies.
    pub(crate) fn context(&self) -> Result<Option<OwnedFd>, DataPlaneError> {
        self.running.as_ref().map(|running| Ok(running.context.try_clone()?)).transpose()
    }

    /// JOURNAL, if a control plane has just connected: the memory, and whether to go on from it.
    pub(crate) fn journal(&self) -> Result<Option<(OwnedFd, bool)>, DataPlaneError> {
        let handout = |running: &Running| Ok((running.journal.try_clone()?, running.journal_kept));
        self.running.as_ref().map(handout).transpose()
    }

    /// What the XDP program on the WAN port does with a datagram.
    pub(crate) fn wan(&mut self, now: BootTime, remote: Endpoint, datagram: Vec<u8>) -> Steered {
        let Some(frame) = outer_frame(remote, &datagram) else { return Steered::Dropped };
        match classify_wan(frame.as_slice(), GATEWAY.port) {
            WanClass::Kernel | WanClass::Refused(_) => Steered::Dropped,
            WanClass::Control { .. } => {
                if self.control.take(now, CONTROL) {
                    Steered::Socket(datagram)
                } else {
                    Steered::Dropped
                }
            }
            WanClass::Data(data) => {
                match self.entry(data.slot.index()).map(|entry| steer::admit(&data, &entry)) {
                    None => Steered::Dropped,
                    Some(Ok(())) => self.queue_wan(remote, frame),
                    Some(Err(_)) => self.sample(now, datagram),
                }
            }
        }
    }

    fn queue_wan(&mut self, remote: Endpoint, frame: Vec<u8>) -> Steered {
        let Some(running) = &mut self.running else { return Steered::Dropped };
        let index = usize::from(remote.port) % running.workers.len().max(1);
        match running.workers.get_mut(index) {
            Some(worker) if worker.wan.len() < RING => {
                worker.wan.push_back(frame);
                Steered::Worker(index)
            }
            Some(_) | None => Steered::Dropped,
        }
    }

    fn sample(&mut self, now: BootTime, mut datagram: Vec<u8>) -> Steered {
        if !self.sample.take(now, SAMPLE) {
            return Steered::Dropped;
        }
        if let Some(kind) = datagram.first_mut() {
            *kind = MsgType::UnboundSample.octet();
        }
        Steered::Socket(datagram)
    }

    /// What the XDP program on the LAN port does with a packet.
    pub(crate) fn lan(&mut self, packet: &[u8]) -> Steered {
        let mut frame = vec![0; ETHERNET_LEN + packet.len()];
        frame[6..12].copy_from_slice(&SERVER_MAC.0);
        frame[12..14].copy_from_slice(&steer::ETHERTYPE_IPV4);
        frame[ETHERNET_LEN..].copy_from_slice(packet);
        let Some(destination) = steer::inner_destination(frame.as_slice()) else { return Steered::Dropped };
        let Some(slot_index) = self.route(destination) else { return Steered::Dropped };
        frame[..6].copy_from_slice(&SteeringMark { slot_index }.encode());
        let Some(running) = &mut self.running else { return Steered::Dropped };
        // The queue follows from the destination, and is not that of the way in: each worker seals for every slot.
        let index = usize::from(packet.get(19).copied().unwrap_or(0)) % running.workers.len().max(1);
        match running.workers.get_mut(index) {
            Some(worker) if worker.lan.len() < RING => {
                worker.lan.push_back(frame);
                Steered::Worker(index)
            }
            Some(_) | None => Steered::Dropped,
        }
    }

    fn route(&self, destination: [u8; 16]) -> Option<u32> {
        let routes = self.routes.borrow();
        let to = u128::from_be_bytes(destination);
        // A host route, as nearly every one is, or else whatever is longest.
        if let Some(slot_index) = routes.get(&(destination, 128)) {
            return Some(*slot_index);
        }
        let cut = |len: u8| u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let at = |len: u8| routes.get(&((to & cut(len)).to_be_bytes(), len));
        (0..128).rev().find_map(at).copied()
    }

    /// BINDINGS as the XDP program reads it.
    pub(crate) fn entry(&self, slot_index: u32) -> Option<BindingEntry> {
        let at = slot_index as usize * BINDING_WORDS;
        let cells = self.words.get(at..at + BINDING_WORDS)?;
        let mut words = [0_u64; BINDING_WORDS];
        for (word, cell) in words.iter_mut().zip(cells) {
            *word = cell.load(Ordering::Acquire);
        }
        Some(bytemuck::cast(words))
    }

    /// The installer's turn. `true`: workers have something to take over.
    pub(crate) fn installer_turn(&self) -> bool {
        let Some(running) = &self.running else { return false };
        let done = running.installer.run(&running.mailbox);
        done.handed + done.refused > 0
    }

    /// One turn of a worker's loop. `true`: it rang the control plane.
    pub(crate) fn worker_turn(&mut self, index: usize, now: BootTime, did: &mut Vec<Did>) -> Turn {
        let Some(running) = &mut self.running else { return Turn::default() };
        let Running { workers, tables, .. } = running;
        let Some(worker) = workers.get_mut(index) else { return Turn::default() };
        let mut rang = worker.boundary(index, tables);
        let mut left = BATCH;
        while left > 0
            && let Some(frame) = worker.wan.pop_front()
        {
            left -= 1;
            let slot = slot_of(&frame);
            let before = slot.map_or(0, |slot| committed(tables, slot));
            let verdict = worker.pipeline.inbound(now, &frame, &mut self.lan_out, &mut self.wan_out);
            if let Some(slot) = slot.filter(|slot| committed(tables, *slot) != before) {
                did.push(Did::Accepted(slot));
            }
            settle(verdict, &self.lan_out, &self.wan_out, did);
        }
        let mut left = BATCH;
        while left > 0
            && let Some(mut frame) = worker.lan.pop_front()
        {
            left -= 1;
            let verdict = worker.pipeline.outbound(now, &mut frame, &mut self.lan_out, &mut self.wan_out);
            settle(verdict, &self.lan_out, &self.wan_out, did);
        }
        rang |= worker.pipeline.after_batch().confirmed;
        Turn { rang, again: !worker.wan.is_empty() || !worker.lan.is_empty() }
    }
}

/// What a worker's turn leaves behind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    /// The control plane was rung.
    pub(crate) rang: bool,
    /// Frames are waiting.
    pub(crate) again: bool,
}

impl Worker {
    fn new(tables: &Arc<Tables>, index: usize, misses: &Arc<ArrayQueue<Address>>) -> io::Result<Self> {
        let config = PipelineConfig {
            gateway: GatewayAddresses { v4: Some(INNER_GATEWAY.into()), v6: None },
            pools: Pools { v4: Some((Address::v4([10, 77, 0, 0]).0, u128::MAX << 16)), v6: None },
            mtu: MTU,
            lan_mac: LAN_MAC,
            between_clients: BetweenClients::Denied,
        };
        let mut pipeline = Pipeline::new(Arc::clone(tables), index, config, Arc::clone(misses));
        let route = LanRoute::new(Ipv4Addr::new(192, 168, 50, 0).into(), 24, None);
        let view = LanView::new(vec![route], HashMap::from([(Address::from(SERVER), SERVER_MAC)]));
        drop(pipeline.replace_lan(Arc::new(view)));
        let queues = Arc::new(WorkerQueues::new()?);
        Ok(Self { pipeline, queues, wan: VecDeque::new(), lan: VecDeque::new(), reported: (0, 0) })
    }

    /// As `jvpn_dataplane::worker` does it at the top of its loop.
    fn boundary(&mut self, index: usize, tables: &Tables) -> bool {
        let unbind = tables.reports().requested_unbind_seq.load(Ordering::SeqCst);
        let installed = self.pipeline.apply(&self.queues).unwrap_or(self.reported.1);
        if (unbind, installed) == self.reported {
            return false;
        }
        let report = tables.report(index);
        report.install_seq.store(installed, Ordering::Release);
        report.unbind_seq.store(unbind, Ordering::Release);
        self.reported = (unbind, installed);
        true
    }
}

/// How many frames of a slot were ever committed.
fn committed(tables: &Tables, slot: SlotId) -> u64 {
    tables
        .contexts
        .get(slot.index() as usize)
        .map_or(0, |context| context.keys.iter().map(|key| key.received.load(Ordering::Relaxed)).sum())
}

fn slot_of(frame: &[u8]) -> Option<SlotId> {
    jvpn_abi::wire::be32(frame, OUTER_V4_LEN + 4).map(SlotId)
}

fn settle(verdict: Verdict, lan_out: &[u8], wan_out: &[u8], did: &mut Vec<Did>) {
    match verdict {
        Verdict::ToLan(len) => did.extend(lan_out.get(ETHERNET_LEN..len).map(|p| Did::ToLan(p.to_vec()))),
        // Simulated packets fit: none is cut.
        Verdict::ToWan(len) | Verdict::ToWanInPart { len, .. } => {
            let to = wan_out.first_chunk::<OUTER_V4_LEN>().map(|head| {
                let port = u16::from_be_bytes([head[36], head[37]]);
                Endpoint::v4([head[30], head[31], head[32], head[33]], port)
            });
            if let (Some(to), Some(payload)) = (to, wan_out.get(OUTER_V4_LEN..len)) {
                did.push(Did::ToWan(to, payload.to_vec()));
            }
        }
        Verdict::Drop(_) => {}
    }
}

/// The frame in which a datagram reaches the WAN port.
fn outer_frame(remote: Endpoint, datagram: &[u8]) -> Option<Vec<u8>> {
    let template = OuterTemplate::new(ROUTER_MAC, remote, GATEWAY)?;
    let mut frame = vec![0; OUTER_V4_LEN + datagram.len()];
    template.write(&mut frame, WAN_MAC, datagram.len(), Ecn::NOT_ECT)?;
    frame.get_mut(OUTER_V4_LEN..)?.copy_from_slice(datagram);
    Some(frame)
}
