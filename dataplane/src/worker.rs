//! A pinned worker: ring operations only. Everything about a packet is the pipeline's.
//!
//! A batch boundary is the top of the loop: every frame of the batch before has been handed to its TX ring. There the
//! worker takes over what the installer handed out and reports which unbind it has passed.

use crate::boundary::Boundary;
use crate::gauges::{BATCHES_BETWEEN_LOOKS, OwnCount, PortGauges};
use crate::lan::LanView;
use crate::pipeline::{Pipeline, Verdict};
use crate::port::{Account, PortStatistics, QueuePort, Settling};
use crate::shares::SOCKETS_MAX;
use crate::slots::WorkerQueues;
use crate::tables::{Tables, count};
use crate::tuning::Tuning;
use crossbeam_queue::ArrayQueue;
use jvpn_abi::{BootTime, DropReason};
use jvpn_tables::Doorbell;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long what was seen of the ports at one sleep does for the next, ns.
const LOOK_INTERVAL_NS: u64 = 10_000_000;
/// How long a worker that did not look sleeps until it does, ms: longer than the interval.
const LOOK_LATER_MS: u8 = 20;

/// Most descriptors that a worker waits on: its bell, and [`SOCKETS_MAX`] of each side.
const WAITS: usize = 1 + 2 * SOCKETS_MAX;

/// What a worker shares with the threads around it.
#[derive(Debug)]
pub struct WorkerLinks {
    /// Queues of the installer.
    pub queues: Arc<WorkerQueues>,
    /// New views of the LAN.
    pub lan_views: ArrayQueue<Arc<LanView>>,
    /// Old views, for the neighbour thread to free.
    pub lan_retired: ArrayQueue<Arc<LanView>>,
    /// Rings the control plane: something was reported.
    pub report_bell: Doorbell,
    /// Wakes the neighbour thread: a neighbour is missing.
    pub neighbour_bell: Doorbell,
    /// Set to end the worker.
    pub stop: AtomicBool,
    /// Set before that if a successor is to forward soon.
    pub in_haste: AtomicBool,
    /// How full the rings are, (WAN, LAN), looked at as `statistics` are.
    pub levels: (PortGauges, PortGauges),
    /// Kernel statistics of both sockets, (WAN, LAN), refreshed when the worker goes to sleep and every so many batches.
    pub statistics: Mutex<(PortStatistics, PortStatistics)>,
    /// Checksums that senders on the LAN had left out.
    pub checksums_finished: Arc<OwnCount>,
}

/// One worker: queue n of both ports, whatever they are made of.
#[derive(Debug)]
pub struct Worker<W: QueuePort, L: QueuePort> {
    index: usize,
    wan: W,
    lan: L,
    pipeline: Pipeline,
    links: Arc<WorkerLinks>,
    tables: Arc<Tables>,
    wan_batch: Vec<W::Rx>,
    lan_batch: Vec<L::Rx>,
    wan_frame: Option<W::Tx>,
    lan_frame: Option<L::Tx>,
    clock: fn() -> BootTime,
    passed: Boundary,
    batch_len: usize,
    /// How long the ports are polled after the last frame before the worker sleeps, ns.
    busy_poll_ns: u64,
    last_frame: BootTime,
    /// When the ports were looked at before sleep.
    looked: BootTime,
}

impl<W: QueuePort, L: QueuePort> Worker<W, L> {
    /// A worker that owns queue `index` of both ports.
    #[must_use]
    pub fn new(
        index: usize,
        ports: (W, L),
        pipeline: Pipeline,
        tables: Arc<Tables>,
        links: Arc<WorkerLinks>,
        clock: fn() -> BootTime,
    ) -> Self {
        let (wan, lan) = ports;
        let batch_len = Tuning::default().batch;
        Self {
            index,
            wan,
            lan,
            pipeline,
            links,
            tables,
            wan_batch: Vec::with_capacity(batch_len),
            lan_batch: Vec::with_capacity(batch_len),
            wan_frame: None,
            lan_frame: None,
            clock,
            passed: Boundary::default(),
            batch_len,
            busy_poll_ns: 0,
            last_frame: BootTime(0),
            looked: BootTime(0),
        }
    }

    /// With another batch and busy polling than by default.
    #[must_use]
    pub fn tuned(mut self, tuning: &Tuning) -> Self {
        self.batch_len = tuning.batch;
        self.wan_batch = Vec::with_capacity(tuning.batch);
        self.lan_batch = Vec::with_capacity(tuning.batch);
        self.busy_poll_ns = u64::from(tuning.busy_poll) * 1_000;
        self
    }

    /// Runs until told to stop. The caller has pinned the thread.
    pub fn run(mut self) {
        while !self.links.stop.load(Ordering::Acquire) {
            self.boundary();
            let handled = self.inbound_batch() + self.outbound_batch();
            let refused = self.wan.flush() + self.lan.flush();
            for _ in 0..refused {
                count(self.tables.report(self.index), DropReason::TxRingFull);
            }
            let after = self.pipeline.after_batch();
            if after.confirmed {
                self.links.report_bell.ring();
            }
            if after.missed {
                self.links.neighbour_bell.ring();
            }
            self.rest(handled);
        }
        self.conclude();
    }

    /// Every batch is done: the frames kept in hand go back, and all of both ports are accounted for.
    fn conclude(&mut self) {
        if let Some(frame) = self.wan_frame.take() {
            self.wan.put_back(frame);
        }
        if let Some(frame) = self.lan_frame.take() {
            self.lan.put_back(frame);
        }
        let in_haste = self.links.in_haste.load(Ordering::Acquire);
        let settling = if in_haste { Settling::InHaste } else { Settling::Patient };
        let deadline = settling.deadline();
        let which = (self.index, self.tables.reports().workers.load(Ordering::Acquire));
        Account::settled(&mut self.wan, deadline).log(which, "wan", settling);
        Account::settled(&mut self.lan, deadline).log(which, "lan", settling);
    }

    /// Everything of the batch before has left for its ring: pass on what waited for that.
    fn boundary(&mut self) {
        let report = self.tables.report(self.index);
        let batches = report.batches.load(Ordering::Relaxed).wrapping_add(1);
        report.batches.store(batches, Ordering::Relaxed);
        let looks = batches.is_multiple_of(BATCHES_BETWEEN_LOOKS);
        let tells = self.passed.pass(&self.tables, self.index, &mut self.pipeline, &self.links.queues);
        while let Some(view) = self.links.lan_views.pop() {
            let old = self.pipeline.replace_lan(view);
            let _full = self.links.lan_retired.push(old);
        }
        if tells {
            self.links.report_bell.ring();
        }
        if looks {
            self.look();
        }
    }

    fn inbound_batch(&mut self) -> usize {
        self.wan.receive(&mut self.wan_batch, self.batch_len);
        let handled = self.wan_batch.len();
        if handled == 0 {
            return 0;
        }
        let now = (self.clock)();
        self.pipeline.begin_batch();
        loop {
            let (port, batch) = (&self.wan, &self.wan_batch);
            self.pipeline.look_ahead_inbound(|ahead| Some(port.peek(nth_from_end(batch, ahead)?)));
            let Some(mut frame) = self.wan_batch.pop() else { break };
            let mut lan_frame = self.lan_frame.take().or_else(|| self.lan.take_free());
            let mut wan_frame = self.wan_frame.take().or_else(|| self.wan.take_free());
            let verdict = {
                let octets = self.wan.octets(&mut frame);
                let lan_room = lan_frame.as_mut().map_or(&mut [][..], |frame| self.lan.room(frame));
                let wan_room = wan_frame.as_mut().map_or(&mut [][..], |frame| self.wan.room(frame));
                self.pipeline.inbound(now, octets, lan_room, wan_room)
            };
            self.wan.recycle(frame);
            if let Verdict::ToWanInPart { rest, .. } = verdict {
                self.settle(verdict, None, wan_frame);
                self.turn_rest(now, rest, lan_frame);
            } else {
                self.settle(verdict, lan_frame, wan_frame);
            }
        }
        handled
    }

    /// Sends the further pieces of a packet from one client to another that was cut: they lie in the LAN's frame.
    #[cold]
    fn turn_rest(&mut self, now: BootTime, rest: usize, mut lan_frame: Option<L::Tx>) {
        let mut piece = Some(rest);
        while let Some(start) = piece {
            let mut wan_frame = self.wan_frame.take().or_else(|| self.wan.take_free());
            let octets = lan_frame.as_mut().map_or(&mut [][..], |frame| self.lan.room(frame));
            let octets = octets.get_mut(start..).unwrap_or_default();
            let wan_room = wan_frame.as_mut().map_or(&mut [][..], |frame| self.wan.room(frame));
            let verdict = self.pipeline.turned_rest(now, octets, wan_room);
            piece = match verdict {
                Verdict::ToWanInPart { rest, .. } => Some(start + rest),
                Verdict::ToLan(_) | Verdict::ToWan(_) | Verdict::Drop(_) => None,
            };
            self.settle(verdict, None, wan_frame);
        }
        self.lan_frame = lan_frame;
    }

    fn outbound_batch(&mut self) -> usize {
        self.lan.receive(&mut self.lan_batch, self.batch_len);
        let handled = self.lan_batch.len();
        if handled == 0 {
            return 0;
        }
        let now = (self.clock)();
        self.pipeline.begin_batch();
        loop {
            let (port, batch) = (&self.lan, &self.lan_batch);
            self.pipeline.look_ahead_outbound(|ahead| Some(port.peek(nth_from_end(batch, ahead)?)));
            let Some(mut frame) = self.lan_batch.pop() else { break };
            // One turn, but for a packet that is cut into pieces.
            let mut piece = Some(0);
            while let Some(start) = piece {
                let mut lan_frame = self.lan_frame.take().or_else(|| self.lan.take_free());
                let mut wan_frame = self.wan_frame.take().or_else(|| self.wan.take_free());
                let lan_room = lan_frame.as_mut().map_or(&mut [][..], |frame| self.lan.room(frame));
                let wan_room = wan_frame.as_mut().map_or(&mut [][..], |frame| self.wan.room(frame));
                let octets = self.lan.octets(&mut frame).get_mut(start..).unwrap_or_default();
                let verdict = self.pipeline.outbound(now, octets, lan_room, wan_room);
                piece = match verdict {
                    Verdict::ToWanInPart { rest, .. } => Some(start + rest),
                    Verdict::ToLan(_) | Verdict::ToWan(_) | Verdict::Drop(_) => None,
                };
                self.settle(verdict, lan_frame, wan_frame);
            }
            self.lan.recycle(frame);
        }
        handled
    }

    /// Sends the frame that the verdict names and keeps the other for the next packet.
    fn settle(&mut self, verdict: Verdict, lan_frame: Option<L::Tx>, wan_frame: Option<W::Tx>) {
        let (lan_len, wan_len) = match verdict {
            Verdict::ToLan(len) => (Some(len), None),
            Verdict::ToWan(len) | Verdict::ToWanInPart { len, .. } => (None, Some(len)),
            Verdict::Drop(_) => (None, None),
        };
        match (lan_frame, lan_len) {
            (Some(frame), Some(len)) => self.lan.transmit(frame, len),
            (Some(frame), None) => self.lan_frame = Some(frame),
            (None, _) => {}
        }
        match (wan_frame, wan_len) {
            (Some(frame), Some(len)) => self.wan.transmit(frame, len),
            (Some(frame), None) => self.wan_frame = Some(frame),
            (None, _) => {}
        }
    }

    /// Without work: asks the drivers for more as long as busy polling lasts, then sleeps.
    fn rest(&mut self, handled: usize) {
        if self.busy_poll_ns == 0 {
            if handled == 0 {
                self.wait(None);
            }
            return;
        }
        let now = (self.clock)();
        if handled > 0 {
            self.last_frame = now;
        } else if now.0.saturating_sub(self.last_frame.0) < self.busy_poll_ns {
            // A poll that does not wait runs the driver's own poll on this CPU (SO_PREFER_BUSY_POLL).
            self.wait(Some(PollTimeout::ZERO));
        } else {
            self.wait(None);
        }
    }

    /// Notes what others may want to know of the ports.
    fn look(&mut self) {
        self.links.levels.0.look(&mut self.wan);
        self.links.levels.1.look(&mut self.lan);
        if let Ok(mut shown) = self.links.statistics.try_lock() {
            *shown = (self.wan.statistics(), self.lan.statistics());
        }
    }

    /// Waits for frames or a doorbell. Frames that the kernel did not take yet are tried again soon.
    ///
    /// A worker under traffic sleeps thousands of times a second, and looking at the ports takes two system calls; so it
    /// looks when it has not done so for a while, and once more when nothing came: what is shown of a silent port is true.
    fn wait(&mut self, at_most: Option<PollTimeout>) {
        let mut looks_later = false;
        if at_most.is_none() {
            let now = (self.clock)();
            looks_later = now.0.saturating_sub(self.looked.0) < LOOK_INTERVAL_NS;
            if !looks_later {
                self.looked = now;
                self.look();
            }
        }
        let waiting = self.wan.unsent() + self.lan.unsent() > 0;
        let timeout = at_most.unwrap_or(match (waiting, looks_later) {
            (true, _) => PollTimeout::from(1u8),
            (false, true) => PollTimeout::from(LOOK_LATER_MS),
            (false, false) => PollTimeout::NONE,
        });
        let bell = self.links.queues.bell.as_fd();
        let mut fds: [PollFd<'_>; WAITS] = std::array::from_fn(|_| PollFd::new(bell, PollFlags::POLLIN));
        let mut used = 1;
        let mut add = |fd| {
            if let Some(place) = fds.get_mut(used) {
                *place = PollFd::new(fd, PollFlags::POLLIN);
                used += 1;
            }
        };
        self.wan.waits_on(&mut add);
        self.lan.waits_on(&mut add);
        // EINTR only means another turn of the loop.
        let fds = fds.get_mut(..used).unwrap_or_default();
        let _woken = poll(fds, timeout);
        if fds.first().is_some_and(|bell| bell.any().unwrap_or(true)) {
            let _rang = self.links.queues.bell.silence();
        }
    }
}

/// The frame whose turn comes after `n` others.
#[inline]
fn nth_from_end<F>(batch: &[F], n: usize) -> Option<&F> {
    batch.get(batch.len().checked_sub(n + 1)?)
}
