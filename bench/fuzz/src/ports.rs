//! Ports in memory under the production worker: every frame that it takes it gives back, whatever the frames are.

use jvpn_abi::BootTime;
use jvpn_dataplane::gauges::RingLevels;
use jvpn_dataplane::pipeline::Pipeline;
use jvpn_dataplane::port::{PortStatistics, QueuePort, Unseen};
use jvpn_dataplane::slots::WorkerQueues;
use jvpn_dataplane::tables::Tables;
use jvpn_dataplane::worker::{Worker, WorkerLinks};
use jvpn_tables::Doorbell;
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Octets of a frame to send with.
const ROOM: usize = 1_792;
/// One frame in so many is refused by the ring.
const REFUSED: u64 = 7;

/// What went through a port.
#[derive(Debug, Default)]
struct Ledger {
    received: Cell<u64>,
    recycled: Cell<u64>,
    /// Frames to send with that the worker holds.
    held: Cell<u64>,
    free: Cell<u64>,
    sent: Cell<u64>,
    refused: Cell<u64>,
}

fn add(cell: &Cell<u64>, by: i64) {
    cell.set(cell.get().checked_add_signed(by).expect("a frame that nobody had"));
}

/// A port whose frames are all there from the beginning. When both have none left, the worker is told to stop.
struct MemoryPort {
    waiting: Vec<Vec<u8>>,
    collected: u64,
    ledger: Rc<Ledger>,
    links: Arc<WorkerLinks>,
    left: Rc<Cell<usize>>,
    bell: Doorbell,
}

impl QueuePort for MemoryPort {
    type Rx = Vec<u8>;
    type Tx = Box<[u8]>;

    fn receive(&mut self, into: &mut Vec<Vec<u8>>, most: usize) {
        let taken = self.waiting.len().min(most);
        into.extend(self.waiting.drain(..taken));
        add(&self.ledger.received, taken as i64);
        self.left.set(self.left.get() - taken);
        if self.left.get() == 0 {
            // This turn of the loop is the last, and is gone through to its end.
            self.links.stop.store(true, Ordering::Release);
        }
    }
    fn octets<'a>(&'a self, frame: &'a mut Vec<u8>) -> &'a mut [u8] {
        frame
    }
    fn peek<'a>(&'a self, frame: &'a Vec<u8>) -> &'a [u8] {
        frame
    }
    fn recycle(&mut self, _: Vec<u8>) {
        add(&self.ledger.recycled, 1);
    }
    fn take_free(&mut self) -> Option<Box<[u8]>> {
        if self.ledger.free.get() == 0 {
            return None;
        }
        add(&self.ledger.free, -1);
        add(&self.ledger.held, 1);
        Some(vec![0; ROOM].into())
    }
    fn put_back(&mut self, _: Box<[u8]>) {
        add(&self.ledger.held, -1);
        add(&self.ledger.free, 1);
    }
    fn room<'a>(&'a self, frame: &'a mut Box<[u8]>) -> &'a mut [u8] {
        frame
    }
    fn transmit(&mut self, frame: Box<[u8]>, len: usize) {
        assert!(0 < len && len <= frame.len(), "a frame of {len} octets");
        add(&self.ledger.held, -1);
        self.collected += 1;
    }
    fn flush(&mut self) -> usize {
        let refused = self.collected / REFUSED;
        add(&self.ledger.refused, refused as i64);
        add(&self.ledger.sent, (self.collected - refused) as i64);
        add(&self.ledger.free, self.collected as i64);
        self.collected = 0;
        refused as usize
    }
    fn unsent(&mut self) -> usize {
        0
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
    /// The ledger keeps its own account.
    fn frames(&self) -> u32 {
        0
    }
    fn levels(&mut self) -> RingLevels {
        RingLevels::default()
    }
    fn statistics(&self) -> PortStatistics {
        PortStatistics::default()
    }
    fn unseen(&self) -> Unseen {
        Unseen::AtMost(0)
    }
}

/// Lets a worker handle these frames, with so many frames to send with per port. Panics if one is lost, given back twice or
/// left without a counted reason.
pub(crate) fn conserve(
    wan: Vec<Vec<u8>>,
    lan: Vec<Vec<u8>>,
    free: u64,
    tables: &Arc<Tables>,
    pipeline: Pipeline,
    queues: &Arc<WorkerQueues>,
) {
    let frames = wan.len() + lan.len();
    if frames == 0 {
        return;
    }
    let counted = || -> u64 { tables.report(0).counters.iter().map(|n| n.load(Ordering::Relaxed)).sum() };
    let before = counted();
    let links = Arc::new(WorkerLinks {
        queues: Arc::clone(queues),
        lan_views: crossbeam_queue::ArrayQueue::new(1),
        lan_retired: crossbeam_queue::ArrayQueue::new(1),
        report_bell: Doorbell::new().unwrap(),
        neighbour_bell: Doorbell::new().unwrap(),
        stop: AtomicBool::new(false),
        in_haste: AtomicBool::new(false),
        levels: Default::default(),
        checksums_finished: Arc::default(),
        statistics: Default::default(),
    });
    let left = Rc::new(Cell::new(frames));
    let port = |waiting: Vec<Vec<u8>>| {
        let bell = Doorbell::new().unwrap();
        // Readable for good: a worker that goes to sleep is woken at once.
        bell.ring();
        let ledger = Rc::new(Ledger { free: Cell::new(free), ..Ledger::default() });
        let (links, left) = (Arc::clone(&links), Rc::clone(&left));
        MemoryPort { waiting, collected: 0, ledger, links, left, bell }
    };
    let (wan, lan) = (port(wan), port(lan));
    let ledgers = [Rc::clone(&wan.ledger), Rc::clone(&lan.ledger)];
    let clock = || BootTime::from_millis(1_000);
    Worker::new(0, (wan, lan), pipeline, Arc::clone(tables), links, clock).run();
    let sum = |of: fn(&Ledger) -> &Cell<u64>| -> u64 { ledgers.iter().map(|ledger| of(ledger).get()).sum() };
    assert_eq!(sum(|ledger| &ledger.received), frames as u64, "every frame was received");
    for ledger in &ledgers {
        assert_eq!(ledger.received.get(), ledger.recycled.get(), "every received frame was given back");
        assert!(ledger.held.get() <= 1, "the worker keeps one frame for the next packet, no more");
        assert_eq!(ledger.free.get() + ledger.held.get(), free, "every frame to send with is there");
    }
    assert!(counted() - before >= frames as u64, "every frame has a counted reason");
}
