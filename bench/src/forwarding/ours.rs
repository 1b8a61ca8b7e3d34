//! The product's worker with one session, in this process: programs, tables, installer and ports as the data plane has
//! them, and no control plane.

use super::Direction;
use super::edge::{CLIENT, FAR_MAC, GATEWAY_WAN, OPEN_KEY, PEER_PORT, SEAL_KEY, config, pipeline, slot};
use super::lab::pin;
use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use bytemuck::Zeroable;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::tables::{
    BindingEntry, BindingWord, Context, InstallEntry, InstallOp, KeyRing, NEXT_HOP_KNOWN, Reports,
};
use jvpn_abi::wire::Suite;
use jvpn_abi::{DropReason, Endpoint};
use jvpn_dataplane::attach::{Side, Steering};
use jvpn_dataplane::frame::Mac;
use jvpn_dataplane::port::{BusyPoll, Port, PortOptions};
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_dataplane::tuning::Tuning;
use jvpn_dataplane::worker::{Worker, WorkerLinks};
use jvpn_rig::TUNNEL_PORT;
use jvpn_rig::topology::ROUTER_WAN;
use jvpn_tables::Doorbell;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

/// The running worker.
pub(super) struct Ours {
    thread: JoinHandle<Result<()>>,
    id: Pid,
    links: Arc<WorkerLinks>,
    tables: Arc<Tables>,
    _installer: Installer,
    steering: Steering,
}

impl Ours {
    /// Starts it in this thread's network namespace, with the session attached.
    pub(super) fn start(direction: Direction, tuning: &Tuning, cpu: usize) -> Result<Self> {
        let config = config()?;
        let mut steering = Steering::attach(&config, &[0])?;
        let busy_poll = (tuning.busy_poll > 0)
            .then_some(BusyPoll { microseconds: tuning.busy_poll, budget: tuning.busy_poll_budget });
        let options = PortOptions { huge_pages: tuning.huge_pages, busy_poll, ..PortOptions::default() };
        let wan = Port::open_with("wan0", 0, &options)?;
        let lan = Port::open_with("lan0", 0, &options)?;
        steering.set_socket("WAN_XSKS", 0, wan.raw_fd())?;
        steering.set_socket("LAN_XSKS", 0, lan.raw_fd())?;
        if direction == Direction::Encrypt {
            route(&steering)?;
        }
        let memory = |octets| shared_memory("BENCH", c"jvpn-bench", octets);
        let context = memory(config.slots as usize * size_of::<Context>())?;
        let (reports, keys) = (memory(size_of::<Reports>())?, memory(size_of::<KeyRing>())?);
        let tables = Arc::new(Tables::map(
            config.slots,
            steering.table("BINDINGS")?.as_fd(),
            context.as_fd(),
            reports.as_fd(),
            steering.table("GATE")?.as_fd(),
        )?);
        let installer_bell = Doorbell::new()?;
        let queues = Arc::new(WorkerQueues::waking(installer_bell)?);
        let installer =
            Installer::new(Arc::clone(&tables), vec![Arc::clone(&queues)], steering.mac(Side::Wan));
        let mut pipeline = pipeline(&tables, steering.mac(Side::Lan));
        let mailbox = KeyMailbox::map(keys.as_fd())?;
        ensure!(mailbox.put(&entry()), "the mailbox is full");
        ensure!(installer.run(&mailbox).refused == 0, "the session was refused");
        pipeline.apply(&queues);
        attach_session(&tables);
        let links = Arc::new(WorkerLinks {
            queues,
            lan_views: ArrayQueue::new(1),
            lan_retired: ArrayQueue::new(64),
            report_bell: Doorbell::new()?,
            neighbour_bell: Doorbell::new()?,
            stop: AtomicBool::new(false),
            levels: Default::default(),
            statistics: Mutex::default(),
        });
        let worker = Worker::new(
            0,
            (wan, lan),
            pipeline,
            Arc::clone(&tables),
            Arc::clone(&links),
            jvpn_host::clock::now,
        )
        .tuned(tuning);
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            pin(cpu)?;
            tell.send(nix::unistd::gettid())?;
            worker.run();
            Ok(())
        });
        let id = told.recv().map_err(|_| anyhow!("the worker did not start"))?;
        Ok(Self { thread, id, links, tables, _installer: installer, steering })
    }

    pub(super) const fn thread(&self) -> Pid {
        self.id
    }

    /// What became of packets, by reason: for a measurement in which nothing came out.
    pub(super) fn counters(&self) -> String {
        let report = self.tables.report(0);
        let of_worker = DropReason::ALL.iter().filter_map(|reason| {
            Some((reason, report.counters.get(reason.number() as usize)?.load(Ordering::Relaxed)))
        });
        let of_worker: Vec<_> =
            of_worker.filter(|(_, n)| *n > 0).map(|(reason, n)| format!("{} {n}", reason.name())).collect();
        let of_xdp = self.steering.counters().unwrap_or_default().into_iter().filter(|(_, n)| *n > 0);
        let of_xdp: Vec<_> = of_xdp.map(|(reason, n)| format!("{} {n}", reason.name())).collect();
        format!("worker: {}; XDP: {}", of_worker.join(", "), of_xdp.join(", "))
    }

    pub(super) fn stop(self) -> Result<()> {
        self.links.stop.store(true, Ordering::Release);
        self.links.queues.bell.ring();
        self.thread.join().map_err(|_| anyhow!("the worker panicked"))?
    }
}

/// Leads the client's address to the slot.
fn route(steering: &Steering) -> Result<()> {
    let routes = Map::LpmTrie(MapData::from_fd(steering.table("ROUTES")?)?);
    let mut routes: LpmTrie<_, [u8; 16], u32> = routes.try_into()?;
    let key = Key::new(128, CLIENT.to_ipv6_mapped().octets());
    routes.insert(&key, slot().index(), 0).context("ROUTES")
}

/// Bound, confirmed, and with a known way back, as after the client's first frame.
fn attach_session(tables: &Tables) {
    let (slot, entry) = (slot(), entry());
    let path = BindingEntry::new(
        Endpoint { addr: entry.remote_addr, port: entry.remote_port },
        Endpoint { addr: entry.local_addr, port: entry.local_port },
    );
    if let Some(context) = tables.contexts.get(slot.index() as usize) {
        context.next_hop_mac.store(Mac(FAR_MAC).to_bits() | NEXT_HOP_KNOWN, Ordering::Release);
        context.confirmed.store(entry.word, Ordering::Release);
    }
    tables.bindings.bind(slot.index(), &path, BindingWord(entry.word));
}

fn entry() -> InstallEntry {
    let (slot, remote) = (slot(), Endpoint::v4(ROUTER_WAN.octets(), PEER_PORT));
    let local = Endpoint::v4(GATEWAY_WAN.octets(), TUNNEL_PORT);
    let (mut prefixes, mut prefix_lens) = ([[0; 16]; 8], [0; 8]);
    prefixes[0] = CLIENT.to_ipv6_mapped().octets();
    prefix_lens[0] = 128;
    InstallEntry {
        seq: 1,
        word: BindingWord::bound(slot, 1).0,
        op: InstallOp::Install as u32,
        slot: slot.0,
        suite: Suite::Aes256Gcm as u8,
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
