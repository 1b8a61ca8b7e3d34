//! The product's workers with a session or more, in this process: programs, tables, installer and ports as the data plane
//! has them, and no control plane.

use super::Direction;
use super::edge::{FAR_MAC, GATEWAY_WAN, OPEN_KEY, PEER_PORT, SEAL_KEY, client, config, pipeline, slot};
use super::lab::pin;
use crate::environment::Standing;
use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use bytemuck::Zeroable;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::tables::{
    BindingEntry, BindingWord, InstallEntry, InstallOp, KeyRing, NEXT_HOP_KNOWN, Reports, WorkerReport,
    context_octets,
};
use jvpn_abi::wire::Suite;
use jvpn_abi::{DropReason, Endpoint};
use jvpn_dataplane::attach::{Side, Steering};
use jvpn_dataplane::frame::Mac;
use jvpn_dataplane::ladder::Step;
use jvpn_dataplane::lan_mtu::LanMtus;
use jvpn_dataplane::plan;
use jvpn_dataplane::port::{AfXdpMode, BusyPoll, Port, PortOptions};
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_dataplane::tuning::Tuning;
use jvpn_dataplane::worker::{Worker, WorkerLinks};
use jvpn_rig::TUNNEL_PORT;
use jvpn_rig::topology::ROUTER_WAN;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use jvpn_tables::{Doorbell, InnerPrefix, PrefixWriter, Prefixes};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

/// The running workers.
pub(super) struct Ours {
    workers: Vec<Running>,
    /// How the first queue of each port gets at its frames.
    modes: Vec<(Side, AfXdpMode)>,
    tables: Arc<Tables>,
    _installer: Installer,
    steering: Steering,
}

/// One worker.
struct Running {
    thread: JoinHandle<Result<()>>,
    id: Pid,
    links: Arc<WorkerLinks>,
}

impl Ours {
    /// Starts a worker in this thread's network namespace, with one session attached.
    pub(super) fn start(direction: Direction, tuning: &Tuning, cpu: usize) -> Result<Self> {
        Self::start_many(direction, tuning, &[cpu], 1)
    }

    /// Starts a worker per CPU, each with the queue of its number, and attaches so many sessions.
    pub(super) fn start_many(
        direction: Direction,
        tuning: &Tuning,
        cpus: &[usize],
        sessions: u8,
    ) -> Result<Self> {
        let config = config(cpus.len())?;
        let queues: Vec<u32> = (0..u32::try_from(cpus.len())?).collect();
        let mut steering = Steering::attach(&config, &queues)?;
        let mut ports = Vec::new();
        for queue in &queues {
            ports.push(open(&mut steering, *queue, tuning)?);
        }
        let modes = ports.first().map(|(wan, lan)| vec![(Side::Wan, wan.mode()), (Side::Lan, lan.mode())]);
        if direction == Direction::Encrypt {
            route(&steering, sessions)?;
        }
        let memory = |octets| shared_memory("BENCH", c"jvpn-bench", octets);
        let context = memory(context_octets(config.slots))?;
        let (reports, keys) = (memory(size_of::<Reports>())?, memory(size_of::<KeyRing>())?);
        let tables = Arc::new(Tables::map(
            config.slots,
            steering.table("BINDINGS")?.as_fd(),
            context.as_fd(),
            reports.as_fd(),
            steering.table("GATE")?.as_fd(),
        )?);
        let links: Vec<Arc<WorkerLinks>> = cpus.iter().map(|_| links()).collect::<Result<_>>()?;
        let queues = links.iter().map(|links| Arc::clone(&links.queues)).collect();
        let installer = Installer::new(Arc::clone(&tables), queues, steering.mac(Side::Wan));
        let mailbox = KeyMailbox::map(keys.as_fd())?;
        for session in 0..sessions {
            ensure!(mailbox.put(&entry(session)), "the mailbox is full");
            ensure!(installer.run(&mailbox).refused == 0, "the session was refused");
            attach_session(&tables, session);
        }
        // As a data plane's worker has them: whose an inner address is, what the LAN carries, and checksums that the
        // sender has left out.
        let prefixes = prefixes(config.slots, sessions)?;
        let lan_mtus = Arc::new(LanMtus::default());
        if let Some(hook) = steering.of(Side::Lan).next() {
            let _before = lan_mtus.set(0, hook.link.mtu);
        }
        let leaves_checksums = plan::leave_checksums(config.lan.interfaces());
        let mut workers = Vec::new();
        for ((number, cpu), (ports, links)) in cpus.iter().enumerate().zip(ports.into_iter().zip(links)) {
            let mut pipeline = pipeline(&tables, number, steering.mac(Side::Lan))
                .with_routes(Arc::<Prefixes>::clone(&prefixes))
                .with_lan_mtus(Arc::clone(&lan_mtus));
            if leaves_checksums {
                pipeline = pipeline.with_unfinished_checksums(Arc::clone(&links.checksums_finished));
            }
            pipeline.apply(&links.queues);
            let worker = Worker::new(
                number,
                ports,
                pipeline,
                Arc::clone(&tables),
                Arc::clone(&links),
                jvpn_host::clock::now,
            );
            workers.push(Running::start(worker.tuned(tuning), *cpu, links)?);
        }
        Ok(Self { workers, modes: modes.unwrap_or_default(), tables, _installer: installer, steering })
    }

    /// How each port stands on the ladder, as a data plane would report it.
    pub(super) fn standing(&self) -> Vec<Standing> {
        let one = |(port, side)| {
            let hook = self.steering.of(side).next()?;
            let (_, mode) = self.modes.iter().find(|(of, _)| *of == side)?;
            let xdp_mode = hook.link.xdp.unwrap_or("none");
            let queues = u64::try_from(self.workers.len()).unwrap_or(u64::MAX);
            Some(Standing::new(port, Step::of(hook.link.xdp, *mode), xdp_mode, *mode, queues))
        };
        [("wan", Side::Wan), ("lan", Side::Lan)].into_iter().filter_map(one).collect()
    }

    /// The first worker's thread.
    pub(super) fn thread(&self) -> Result<Pid> {
        self.workers.first().map(|worker| worker.id).context("no worker")
    }

    /// What became of packets, by reason: for a measurement in which nothing came out.
    pub(super) fn counters(&self) -> String {
        let reports: Vec<_> = (0..self.workers.len()).map(|number| self.tables.report(number)).collect();
        let of_worker = DropReason::ALL.iter().map(|reason| {
            let of = |report: &&WorkerReport| {
                report.counters.get(reason.number() as usize).map_or(0, |n| n.load(Ordering::Relaxed))
            };
            (reason, reports.iter().map(of).sum::<u64>())
        });
        let of_worker: Vec<_> =
            of_worker.filter(|(_, n)| *n > 0).map(|(reason, n)| format!("{} {n}", reason.name())).collect();
        let of_xdp = self.steering.counters().unwrap_or_default().into_iter().filter(|(_, n)| *n > 0);
        let of_xdp: Vec<_> = of_xdp.map(|(reason, n)| format!("{} {n}", reason.name())).collect();
        format!("worker: {}; XDP: {}", of_worker.join(", "), of_xdp.join(", "))
    }

    pub(super) fn stop(self) -> Result<()> {
        for worker in &self.workers {
            worker.links.stop.store(true, Ordering::Release);
            worker.links.queues.bell.ring();
        }
        for worker in self.workers {
            worker.thread.join().map_err(|_| anyhow!("the worker panicked"))??;
        }
        Ok(())
    }
}

impl Running {
    fn start(worker: Worker<Port, Port>, cpu: usize, links: Arc<WorkerLinks>) -> Result<Self> {
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            pin(cpu)?;
            tell.send(nix::unistd::gettid())?;
            worker.run();
            Ok(())
        });
        let id = told.recv().map_err(|_| anyhow!("the worker did not start"))?;
        Ok(Self { thread, id, links })
    }
}

/// One queue of both ports, known to XDP.
fn open(steering: &mut Steering, queue: u32, tuning: &Tuning) -> Result<(Port, Port)> {
    let busy_poll = (tuning.busy_poll > 0)
        .then_some(BusyPoll { microseconds: tuning.busy_poll, budget: tuning.busy_poll_budget });
    let options = PortOptions { huge_pages: tuning.huge_pages, busy_poll, ..PortOptions::default() };
    let wan = Port::open_with("wan0", queue, &options)?;
    let lan = Port::open_with("lan0", queue, &options)?;
    steering.set_socket("WAN_XSKS", queue, wan.raw_fd())?;
    steering.set_socket("LAN_XSKS", queue, lan.raw_fd())?;
    Ok((wan, lan))
}

fn links() -> Result<Arc<WorkerLinks>> {
    Ok(Arc::new(WorkerLinks {
        queues: Arc::new(WorkerQueues::waking(Doorbell::new()?)?),
        lan_views: ArrayQueue::new(1),
        lan_retired: ArrayQueue::new(64),
        report_bell: Doorbell::new()?,
        neighbour_bell: Doorbell::new()?,
        stop: AtomicBool::new(false),
        in_haste: AtomicBool::new(false),
        levels: Default::default(),
        checksums_finished: Arc::default(),
        statistics: Mutex::default(),
    }))
}

/// Leads the clients' addresses to their slots.
fn route(steering: &Steering, sessions: u8) -> Result<()> {
    let routes = Map::LpmTrie(MapData::from_fd(steering.table("ROUTES")?)?);
    let mut routes: LpmTrie<_, [u8; 16], u32> = routes.try_into()?;
    for session in 0..sessions {
        let key = Key::new(128, client(session).to_ipv6_mapped().octets());
        routes.insert(&key, slot(session).index(), 0).context("ROUTES")?;
    }
    Ok(())
}

/// PREFIXES with the clients' addresses.
fn prefixes(slots: u32, sessions: u8) -> Result<Arc<Prefixes>> {
    let memory = shared_memory("PREFIXES", c"jvpn-bench", Prefixes::octets(slots))?;
    let mut writer = PrefixWriter::take(Prefixes::map(memory.as_fd(), slots)?);
    for session in 0..sessions {
        let prefix = InnerPrefix::new(client(session).to_ipv6_mapped().to_bits(), 128).context("a prefix")?;
        writer.insert(prefix, slot(session).index()).context("PREFIXES")?;
    }
    Ok(Arc::new(Prefixes::map(memory.as_fd(), slots)?))
}

/// Bound, confirmed, and with a known way back, as after the client's first frame.
fn attach_session(tables: &Tables, session: u8) {
    let (slot, entry) = (slot(session), entry(session));
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

fn entry(session: u8) -> InstallEntry {
    let (slot, remote) = (slot(session), Endpoint::v4(ROUTER_WAN.octets(), PEER_PORT));
    let local = Endpoint::v4(GATEWAY_WAN.octets(), TUNNEL_PORT);
    let (mut prefixes, mut prefix_lens) = ([[0; 16]; 8], [0; 8]);
    prefixes[0] = client(session).to_ipv6_mapped().octets();
    prefix_lens[0] = 128;
    InstallEntry {
        seq: u64::from(session) + 1,
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
