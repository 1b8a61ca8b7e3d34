//! A worker that loses a frame is found out: the production worker over ports in memory, one of which keeps a frame that it
//! was given back, its log, and the judgement that every test with a real data plane ends with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_queue::ArrayQueue;
use jvpn_abi::BootTime;
use jvpn_abi::tables::{BINDING_WORDS, Reports, context_octets};
use jvpn_bench::frames;
use jvpn_dataplane::frame::{Address, GatewayAddresses, Mac};
use jvpn_dataplane::gauges::RingLevels;
use jvpn_dataplane::pipeline::{BetweenClients, Pipeline, PipelineConfig, Pools};
use jvpn_dataplane::port::plain::{End, PlainPort, PlainRx, PlainTx};
use jvpn_dataplane::port::{PortStatistics, QueuePort, Unseen};
use jvpn_dataplane::slots::WorkerQueues;
use jvpn_dataplane::tables::Tables;
use jvpn_dataplane::worker::{Worker, WorkerLinks};
use jvpn_tables::Doorbell;
use jvpn_tables::mapping::shared_memory;

const SLOTS: u32 = 64;
const BATCH: usize = 64;
/// Frames that come by each port: several batches.
const FRAMES: u64 = 1_000;

/// Gives so many frames that are for nobody; then the worker has seen them all and ends.
struct Source {
    left: u64,
    ports_left: Arc<AtomicU64>,
    links: Arc<WorkerLinks>,
    bell: Doorbell,
}

impl End for Source {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if self.left == 0 && self.ports_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.links.stop.store(true, Ordering::Release);
        }
        buffer[..60].fill(0xa5);
        Ok(Some(0..60))
    }

    fn give(&mut self, _frame: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// What becomes of a frame that should have gone back to its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// The 77th received frame.
    Received,
    /// The frame to send with that the worker gives back at its end.
    ToSend,
}

/// A port under a worker that loses frames: in safe code it cannot give one back twice.
struct Leaky {
    port: PlainPort<Source>,
    loses: Loses,
    recycled: u32,
}

impl QueuePort for Leaky {
    type Rx = PlainRx;
    type Tx = PlainTx;

    fn receive(&mut self, into: &mut Vec<PlainRx>, most: usize) {
        self.port.receive(into, most);
    }
    fn octets<'a>(&'a self, frame: &'a mut PlainRx) -> &'a mut [u8] {
        self.port.octets(frame)
    }
    fn peek<'a>(&'a self, frame: &'a PlainRx) -> &'a [u8] {
        self.port.peek(frame)
    }
    fn recycle(&mut self, frame: PlainRx) {
        self.recycled += 1;
        if self.loses != Loses::Received || self.recycled != 77 {
            self.port.recycle(frame);
        }
    }
    fn take_free(&mut self) -> Option<PlainTx> {
        self.port.take_free()
    }
    fn put_back(&mut self, frame: PlainTx) {
        if self.loses != Loses::ToSend {
            self.port.put_back(frame);
        }
    }
    fn room<'a>(&'a self, frame: &'a mut PlainTx) -> &'a mut [u8] {
        self.port.room(frame)
    }
    fn transmit(&mut self, frame: PlainTx, len: usize) {
        self.port.transmit(frame, len);
    }
    fn flush(&mut self) -> usize {
        self.port.flush()
    }
    fn unsent(&mut self) -> usize {
        self.port.unsent()
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.port.fd()
    }
    fn frames(&self) -> u32 {
        self.port.frames()
    }
    fn levels(&mut self) -> RingLevels {
        self.port.levels()
    }
    fn statistics(&self) -> PortStatistics {
        self.port.statistics()
    }
    fn unseen(&self) -> Unseen {
        self.port.unseen()
    }
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(octets)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of a worker's whole life between two ports, each of which may lose a frame.
fn log_of_a_worker(wan: Loses, lan: Loses) -> String {
    let memory = |octets| shared_memory("TEST", c"jvpn-test", octets).unwrap();
    let bindings = memory(SLOTS as usize * BINDING_WORDS * 8);
    let (context, reports, gate) =
        (memory(context_octets(SLOTS)), memory(size_of::<Reports>()), memory(4_096));
    let tables =
        Tables::map(SLOTS, bindings.as_fd(), context.as_fd(), reports.as_fd(), gate.as_fd()).unwrap();
    let tables = Arc::new(tables);
    let config = PipelineConfig {
        gateway: GatewayAddresses { v4: Some(Ipv4Addr::new(10, 77, 0, 1).into()), v6: None },
        pools: Pools { v4: Some((Address::v4([10, 77, 0, 0]).0, u128::MAX << 16)), v6: None },
        mtu: 1_400,
        lan_mac: Mac([2, 0, 0, 0, 0, 5]),
        between_clients: BetweenClients::Denied,
    };
    let pipeline = Pipeline::new(Arc::clone(&tables), 0, config, Arc::new(ArrayQueue::new(8)));
    let links = Arc::new(WorkerLinks {
        queues: Arc::new(WorkerQueues::new().unwrap()),
        lan_views: ArrayQueue::new(1),
        lan_retired: ArrayQueue::new(1),
        report_bell: Doorbell::new().unwrap(),
        neighbour_bell: Doorbell::new().unwrap(),
        stop: AtomicBool::new(false),
        in_haste: AtomicBool::new(false),
        checksums_finished: Arc::default(),
        levels: Default::default(),
        statistics: Default::default(),
    });
    let ports_left = Arc::new(AtomicU64::new(2));
    let port = |loses| {
        let bell = Doorbell::new().unwrap();
        // Readable for good: a worker that goes to sleep is woken at once.
        bell.ring();
        let (ports_left, links) = (Arc::clone(&ports_left), Arc::clone(&links));
        let source = Source { left: FRAMES, ports_left, links, bell };
        Leaky { port: PlainPort::new(source, BATCH), loses, recycled: 0 }
    };
    let ports = (port(wan), port(lan));
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || {
        let clock = || BootTime::from_millis(1_000);
        Worker::new(0, ports, pipeline, tables, Arc::clone(&links), clock).run();
    });
    String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
}

/// R0.2: the account of a worker that gave everything back is good; whichever frame of whichever port it lost, its own log
/// says so, and who judges the log finds it.
#[test]
fn r0_2_a_worker_that_loses_a_frame_is_found_out() {
    let whole = log_of_a_worker(Loses::Nothing, Loses::Nothing);
    assert_eq!(frames::judge(&whole).unwrap(), 2, "{whole}");
    assert_eq!(whole.matches("elsewhere=0").count(), 2, "{whole}");
    let losses = [Loses::Received, Loses::ToSend];
    for (wan, lan) in losses.iter().flat_map(|loss| [(*loss, Loses::Nothing), (Loses::Nothing, *loss)]) {
        let log = log_of_a_worker(wan, lan);
        let side = if wan == Loses::Nothing { "lan" } else { "wan" };
        let line = log.lines().find(|line| line.contains("elsewhere=1")).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(&format!("side={side}")), "{wan:?} {lan:?}: {log}");
        let judged = format!("{:#}", frames::judge(&log).unwrap_err());
        assert!(judged.contains("1 frames are missing"), "{wan:?} {lan:?}: {judged}");
    }
}
