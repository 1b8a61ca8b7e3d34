//! The threads of the data plane: a worker per pair of queues, and those around them. [`crate::run`] decides what there is
//! to run; here it is started and ended.

use crate::config::Config;
use crate::frame::Address;
use crate::lan_mtu::LanMtus;
use crate::pipeline::{Pipeline, PipelineConfig, Routes};
use crate::plan::Seat;
use crate::port::{QueuePort, Settling};
use crate::sides::Lan;
use crate::slots::{Installer, WorkerQueues};
use crate::tables::Tables;
use crate::worker::{Worker, WorkerLinks};
use anyhow::{Context as _, Result};
use crossbeam_queue::ArrayQueue;
use jvpn_tables::Doorbell;
use jvpn_tables::keys::KeyMailbox;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// How long the installer waits for a worker with a full queue, ms.
const BLOCKED_WAIT_MS: u8 = 1;

/// The running threads.
pub(crate) struct Threads {
    pub(crate) links: Vec<Arc<WorkerLinks>>,
    pub(crate) handles: Vec<JoinHandle<()>>,
    pub(crate) bells: Bells,
    pub(crate) stop: Arc<AtomicBool>,
}

/// What wakes whom.
pub(crate) struct Bells {
    /// The control plane: something was reported.
    pub(crate) report: Doorbell,
    pub(crate) neighbours: Doorbell,
    pub(crate) installer: Doorbell,
    pub(crate) hops: Doorbell,
    /// ROUTES may have changed.
    pub(crate) host_routes: Doorbell,
}

impl Bells {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            report: Doorbell::new()?,
            neighbours: Doorbell::new()?,
            installer: Doorbell::new()?,
            hops: Doorbell::new()?,
            host_routes: Doorbell::new()?,
        })
    }
}

/// What all workers start with.
pub(crate) struct Crew<'a> {
    pub(crate) config: &'a Config,
    pub(crate) seats: &'a [Seat],
    pub(crate) tables: &'a Arc<Tables>,
    pub(crate) pipeline_config: PipelineConfig,
    pub(crate) routes: &'a Arc<dyn Routes>,
    pub(crate) misses: &'a Arc<ArrayQueue<Address>>,
    pub(crate) bells: &'a Bells,
    pub(crate) lan_mtus: &'a Arc<LanMtus>,
    /// Senders on the LAN may leave checksums to us.
    pub(crate) unfinished_checksums: bool,
}

/// Workers, and the threads that they run on.
pub(crate) type Started = (Vec<Arc<WorkerLinks>>, Vec<JoinHandle<()>>);

impl Crew<'_> {
    /// A worker for each pair of queues, whatever the LAN's are.
    pub(crate) fn start_with<W>(&self, wan: Vec<W>, lan: Lan) -> Result<Started>
    where
        W: QueuePort<Rx: Send, Tx: Send> + Send + 'static,
    {
        match lan {
            Lan::AfXdp(lan) => self.start(wan, lan),
            Lan::Groups(lan) => self.start(wan, lan),
            Lan::Plain(lan) => self.start(wan, lan),
        }
    }

    /// A worker for each pair of queues.
    fn start<W, L>(&self, wan: Vec<W>, lan: Vec<L>) -> Result<Started>
    where
        W: QueuePort<Rx: Send, Tx: Send> + Send + 'static,
        L: QueuePort<Rx: Send, Tx: Send> + Send + 'static,
    {
        let (mut links, mut handles) = (Vec::new(), Vec::new());
        for (index, (seat, ports)) in self.seats.iter().zip(wan.into_iter().zip(lan)).enumerate() {
            let own = Arc::new(WorkerLinks {
                queues: Arc::new(WorkerQueues::waking(self.bells.installer.try_clone()?)?),
                lan_views: ArrayQueue::new(1),
                lan_retired: ArrayQueue::new(64),
                report_bell: self.bells.report.try_clone()?,
                neighbour_bell: self.bells.neighbours.try_clone()?,
                stop: AtomicBool::new(false),
                in_haste: AtomicBool::new(false),
                levels: Default::default(),
                checksums_finished: Arc::default(),
                statistics: Mutex::default(),
            });
            let tables = Arc::clone(self.tables);
            let pipeline = Pipeline::new(tables, index, self.pipeline_config, Arc::clone(self.misses))
                .with_routes(Arc::clone(self.routes))
                .with_lan_mtus(Arc::clone(self.lan_mtus));
            let several = |names: &[String]| names.len() > 1;
            let pipeline = if several(self.config.wan.interfaces()) {
                pipeline.with_marked_arrivals()
            } else {
                pipeline
            };
            let pipeline =
                if several(self.config.lan.interfaces()) { pipeline.with_several_lans() } else { pipeline };
            let pipeline = if self.unfinished_checksums {
                pipeline.with_unfinished_checksums(Arc::clone(&own.checksums_finished))
            } else {
                pipeline
            };
            let (tables, links_of) = (Arc::clone(self.tables), Arc::clone(&own));
            let worker = Worker::new(index, ports, pipeline, tables, links_of, jvpn_host::clock::now)
                .tuned(&self.config.tuning);
            handles.push(spawn_worker(worker, index, seat.cpu, self.tables)?);
            links.push(own);
        }
        Ok((links, handles))
    }
}

impl Threads {
    pub(crate) fn stop(self, settling: Settling) {
        self.stop.store(true, Ordering::Release);
        for links in &self.links {
            links.in_haste.store(settling == Settling::InHaste, Ordering::Release);
            links.stop.store(true, Ordering::Release);
            links.queues.bell.ring();
        }
        self.bells.installer.ring();
        self.bells.neighbours.ring();
        self.bells.hops.ring();
        self.bells.host_routes.ring();
        for handle in self.handles {
            // A thread that panicked has aborted the process already.
            let _ended = handle.join();
        }
    }
}

pub(crate) fn named(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("jvpn-{name}"))
        .spawn(work)
        .with_context(|| format!("thread {name}"))
}

fn spawn_worker<W, L>(
    worker: Worker<W, L>,
    index: usize,
    core: usize,
    tables: &Arc<Tables>,
) -> Result<JoinHandle<()>>
where
    W: QueuePort<Rx: Send, Tx: Send> + Send + 'static,
    L: QueuePort<Rx: Send, Tx: Send> + Send + 'static,
{
    let tables = Arc::clone(tables);
    named(&format!("worker-{index}"), move || {
        if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
            tables.report(index).cpu_plus_one.store(core as u64 + 1, Ordering::Release);
        } else {
            tracing::warn!(worker = index, core, "cannot pin the worker to this CPU; it runs unpinned");
        }
        worker.run();
    })
}

/// The control plane rings once for keys and for routes; who follows the routes looks whether they changed.
pub(crate) fn install_loop(
    installer: &Installer,
    mailbox: &KeyMailbox,
    [bell, host_routes]: [&Doorbell; 2],
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Acquire) {
        host_routes.ring();
        let done = installer.run(mailbox);
        let timeout = if done.blocked { PollTimeout::from(BLOCKED_WAIT_MS) } else { PollTimeout::NONE };
        let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        let _woken = poll(&mut fds, timeout);
        let _rang = bell.silence();
    }
}
