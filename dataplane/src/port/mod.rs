//! A port's queue: one UMEM, one AF_XDP socket, four rings. The unsafe island of the data plane.
//!
//! Frames are linear tokens: an [`RxFrame`] or [`TxFrame`] is made here, cannot be copied, and is given back by value,
//! so that a frame in two rings cannot be written in safe code. Rings are single-producer single-consumer; a `Port`
//! lives on one thread.

mod account;
pub mod group;
mod message;
mod mode;
mod options;
mod patience;
pub mod plain;
mod queue;
pub(crate) mod sockopt;
mod state;
pub mod tun_end;
pub mod udp_end;

pub use account::{Account, Settling, Unseen};
pub use group::{Arrivals, Group, Member};
pub use mode::AfXdpMode;
pub use options::{BusyPoll, PortOptions, ZeroCopy};
pub use patience::Patience;
pub use queue::QueuePort;
pub use state::{PortTally, PortTraffic, Presence, Watched};

use crate::gauges::RingLevels;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use xsk_rs::config::{FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// Octets of a frame: 256 of XDP headroom and room for an MTU of about 1,700.
const FRAME_OCTETS: u32 = 2_048;
/// Entries of each ring.
const RING: u32 = 2_048;
/// Frames for receiving: as many as the fill ring holds.
const RX_FRAMES: u32 = RING;
/// Frames for sending.
const TX_FRAMES: u32 = RING;
/// Frames that one `sendto` moves in copy mode (kernel: net/xdp/xsk.c, TX_BATCH_SIZE).
const KICK_BATCH: usize = 32;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The memory for frames was refused.
    #[error(
        "UMEM for {interface} queue {queue}: {message}. ENOBUFS: without CAP_IPC_LOCK frames count towards RLIMIT_MEMLOCK \
         (LimitMEMLOCK=infinity in the unit of systemd)"
    )]
    Umem {
        /// Interface name.
        interface: String,
        /// Queue number.
        queue: u32,
        /// What the system said.
        message: String,
        /// Its error number, if the kernel gave one.
        code: Option<i32>,
    },
    /// The queue is in use, and stayed so.
    #[error(
        "AF_XDP socket on {interface} queue {queue}: another process uses this queue (is a data plane running? \
         'ss --xdp -pe' shows whose it is)"
    )]
    Busy {
        /// Interface name.
        interface: String,
        /// Queue number.
        queue: u32,
    },
    /// The queue is in use, and this process was told to end while it waited for it.
    #[error("told to end while waiting for a queue")]
    Stopped,
    /// The socket was refused.
    #[error(
        "AF_XDP socket on {interface} queue {queue}: {message}. EPERM: CAP_NET_RAW is missing or lockdown forbids it; \
         EINVAL: the interface has no such queue"
    )]
    Socket {
        /// Interface name.
        interface: String,
        /// Queue number.
        queue: u32,
        /// What the system said.
        message: String,
    },
}

impl PortError {
    /// Whether memory is what is missing: it may come back, or do for fewer queues.
    #[must_use]
    pub const fn is_shortage(&self) -> bool {
        matches!(self, Self::Umem { code: Some(libc::ENOBUFS | libc::ENOMEM), .. })
    }
}

/// A received frame. Must be recycled.
#[derive(Debug)]
pub struct RxFrame(FrameDesc);

/// A free frame to send with. Must be transmitted or put back.
#[derive(Debug)]
pub struct TxFrame(FrameDesc);

/// One queue of a port.
#[derive(Debug)]
pub struct Port {
    umem: Umem,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    scratch: Vec<FrameDesc>,
    to_fill: Vec<FrameDesc>,
    to_send: Vec<FrameDesc>,
    free: Vec<FrameDesc>,
    in_flight: usize,
    mode: AfXdpMode,
}

impl Port {
    /// Opens queue `queue` of `interface`. The XDP program must be attached already (attach before bind), and the fill
    /// ring is filled before the socket can receive. A queue that is in use is tried again for a while: it may be that
    /// of a process that was just killed.
    ///
    /// # Errors
    /// If memory or socket are refused.
    pub fn open(interface: &str, queue: u32) -> Result<Self, PortError> {
        Self::open_with(interface, queue, &PortOptions::default())
    }

    /// As [`Self::open`], tuned.
    ///
    /// # Errors
    /// As [`Self::open`]; also if huge pages are required and there are none.
    pub fn open_with(interface: &str, queue: u32, options: &PortOptions) -> Result<Self, PortError> {
        Self::open_patiently(interface, queue, options, &Patience::new(&[]))
    }

    /// As [`Self::open_with`], within `patience`.
    ///
    /// # Errors
    /// As [`Self::open_with`]; also if this process is told to end meanwhile.
    pub fn open_patiently(
        interface: &str,
        queue: u32,
        options: &PortOptions,
        patience: &Patience<'_>,
    ) -> Result<Self, PortError> {
        patience.open(options.memory_patience, || Self::try_open(interface, queue, options))
    }

    fn try_open(interface: &str, queue: u32, options: &PortOptions) -> Result<Self, PortError> {
        let (umem, mut descs) = options.place(|huge| Self::umem(interface, queue, huge))?;
        let failed = |message: String| PortError::Socket { interface: interface.to_owned(), queue, message };
        let ring = QueueSize::new(RING).map_err(|error| failed(error.to_string()))?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(options.bind_flags())
            .build();
        let name = interface.parse().map_err(|_| failed("the name has a zero octet".to_owned()))?;
        // SAFETY: this UMEM was just made and has no other socket on this interface and queue.
        let made = unsafe { Socket::new(config, &umem, &name, queue) };
        let (tx, rx, rings) = made.map_err(|error| match kernel_code(&error) {
            Some(libc::EBUSY) => PortError::Busy { interface: interface.to_owned(), queue },
            Some(_) | None => failed(with_source(&error)),
        })?;
        let (mut fill, completion) =
            rings.ok_or_else(|| failed("the kernel gave no fill ring".to_owned()))?;
        let free = descs.split_off(RX_FRAMES as usize);
        // SAFETY: frames of this UMEM, in no other ring.
        let filled = unsafe { fill.produce(&descs) };
        if filled != descs.len() {
            return Err(failed(format!("the fill ring took {filled} of {} frames", descs.len())));
        }
        let mode = mode::of_socket(rx.fd().as_raw_fd());
        options.busy_poll(rx.fd(), interface, queue);
        let room = RING as usize;
        let port = Self {
            umem,
            rx,
            tx,
            fill,
            completion,
            scratch: vec![FrameDesc::default(); room],
            to_fill: Vec::with_capacity(room),
            to_send: Vec::with_capacity(room),
            free,
            in_flight: 0,
            mode,
        };
        // The library makes it without: a program that this process starts would keep the queue from a successor.
        fcntl(port.fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| failed(error.to_string()))?;
        Ok(port)
    }

    fn umem(interface: &str, queue: u32, huge_pages: bool) -> Result<(Umem, Vec<FrameDesc>), PortError> {
        let failed = |error: &dyn std::error::Error| PortError::Umem {
            interface: interface.to_owned(),
            queue,
            message: with_source(error),
            code: kernel_code(error),
        };
        let ring = QueueSize::new(RING).map_err(|error| failed(&error))?;
        let size = FrameSize::new(FRAME_OCTETS).map_err(|error| failed(&error))?;
        let config = UmemConfig::builder()
            .frame_size(size)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|error| failed(&error))?;
        let frames = NonZeroU32::MIN.saturating_add(RX_FRAMES + TX_FRAMES - 1);
        Umem::new(config, frames, huge_pages).map_err(|error| failed(&error))
    }

    /// The mode that the kernel really uses.
    #[must_use]
    pub const fn mode(&self) -> AfXdpMode {
        self.mode
    }

    /// The socket, for XSKMAP and polling.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    /// The socket, borrowed for polling.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the socket, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }

    /// Takes up to `most` received frames into `into`, the oldest last, so that `pop` gives them in order of arrival.
    pub fn receive(&mut self, into: &mut Vec<RxFrame>, most: usize) {
        let most = most.min(self.scratch.len());
        // SAFETY: the descriptors come from this socket's ring and belong to this UMEM.
        let got = unsafe { self.rx.consume(&mut self.scratch[..most]) };
        into.extend(self.scratch[..got].iter().rev().map(|desc| RxFrame(*desc)));
    }

    /// The octets of a received frame.
    #[must_use]
    pub fn octets<'a>(&'a self, frame: &'a mut RxFrame) -> &'a mut [u8] {
        let len = frame.0.lengths().data();
        // SAFETY: the token proves that the frame is in no ring, and the kernel wrote `len` octets at its address.
        let data = unsafe { self.umem.data_mut(&mut frame.0) };
        let octets = into_slice(data);
        debug_assert_eq!(octets.len(), len);
        octets
    }

    /// The octets of a received frame, to look at.
    #[must_use]
    pub fn peek<'a>(&'a self, frame: &'a RxFrame) -> &'a [u8] {
        // SAFETY: the token proves that the frame is in no ring, and whoever writes to it borrows the token for that.
        let data = unsafe { self.umem.data(&frame.0) };
        let octets = data.contents();
        // SAFETY: the octets live in the UMEM for 'a, and 'a borrows the token.
        unsafe { std::slice::from_raw_parts(octets.as_ptr(), octets.len()) }
    }

    /// Gives a received frame back; it reaches the fill ring at the next [`Self::flush`].
    pub fn recycle(&mut self, frame: RxFrame) {
        self.to_fill.push(frame.0);
    }

    /// A free frame to send with.
    #[must_use]
    pub fn take_free(&mut self) -> Option<TxFrame> {
        if self.free.is_empty() {
            self.reap();
        }
        self.free.pop().map(TxFrame)
    }

    /// Puts an unused frame back.
    pub fn put_back(&mut self, frame: TxFrame) {
        self.free.push(frame.0);
    }

    /// The whole room of a free frame.
    #[must_use]
    pub fn room<'a>(&'a self, frame: &'a mut TxFrame) -> &'a mut [u8] {
        // SAFETY: the token proves that the frame is in no ring.
        let mut data = unsafe { self.umem.data_mut(&mut frame.0) };
        data.cursor().set_pos(FRAME_OCTETS as usize);
        into_slice(data)
    }

    /// Sends the first `len` octets of a frame at the next [`Self::flush`].
    pub fn transmit(&mut self, mut frame: TxFrame, len: usize) {
        // SAFETY: the token proves that the frame is in no ring.
        unsafe { self.umem.data_mut(&mut frame.0) }.cursor().set_pos(len);
        self.to_send.push(frame.0);
    }

    /// Moves what was collected into the rings, kicks the kernel, and takes back what it has sent.
    /// Returns how many frames found the TX ring full (they stay free).
    pub fn flush(&mut self) -> usize {
        // SAFETY: received frames of this UMEM, given back by token.
        let filled = unsafe { self.fill.produce(&self.to_fill) };
        self.to_fill.drain(..filled);
        // SAFETY: frames of this UMEM, given by token.
        let sent = unsafe { self.tx.produce(&self.to_send) };
        let refused = self.to_send.len() - sent;
        self.in_flight += sent;
        // A full ring cannot happen while it has room for every TX frame; should it, the frames are free again.
        self.free.extend(self.to_send.drain(..).skip(sent));
        if self.in_flight > 0 {
            self.kick();
            self.reap();
        }
        refused
    }

    /// Frames that lie in the TX ring and that the kernel has not looked at yet.
    #[must_use]
    pub fn unsent(&mut self) -> usize {
        (RING - self.tx.nb_free_exact().min(RING)) as usize
    }

    /// Frames by place: (free, collected for the rings, at the kernel for sending). For conservation checks.
    #[must_use]
    pub fn tx_frames(&self) -> (usize, usize, usize) {
        (self.free.len(), self.to_send.len(), self.in_flight)
    }

    fn kick(&mut self) {
        // In copy mode each call moves one batch; EAGAIN, EBUSY and ENOBUFS are no errors and leave the frames queued.
        for _ in 0..self.unsent().div_ceil(KICK_BATCH) {
            if !self.tx.needs_wakeup() {
                break;
            }
            if let Err(error) = self.tx.wakeup() {
                tracing::debug!(%error, "TX wakeup");
                break;
            }
        }
    }

    fn reap(&mut self) {
        // SAFETY: completed frames are this UMEM's and come out of the ring once.
        let done = unsafe { self.completion.consume(&mut self.scratch) };
        self.free.extend_from_slice(&self.scratch[..done]);
        self.in_flight = self.in_flight.saturating_sub(done);
    }

    /// All frames of its UMEM.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        RX_FRAMES + TX_FRAMES
    }

    /// Frames in each ring, now.
    #[must_use]
    pub fn levels(&mut self) -> RingLevels {
        RingLevels {
            rx: self.rx.nb_avail_exact(),
            fill: RING.saturating_sub(self.fill.nb_free_exact()),
            tx: RING.saturating_sub(self.tx.nb_free_exact()),
            completion: self.completion.nb_avail_exact(),
            free: u32::try_from(self.free.len()).unwrap_or(u32::MAX),
            size: RING,
        }
    }

    /// Counters that the kernel keeps for this socket.
    #[must_use]
    pub fn statistics(&self) -> Option<PortStatistics> {
        let kernel = self.rx.fd().xdp_statistics().ok()?;
        Some(PortStatistics {
            rx_dropped: kernel.rx_dropped(),
            rx_ring_full: kernel.rx_ring_full(),
            fill_ring_empty: kernel.rx_fill_ring_empty_descs(),
            invalid: kernel.rx_invalid_descs() + kernel.tx_invalid_descs(),
        })
    }
}

/// XDP_STATISTICS of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PortStatistics {
    /// Dropped for other reasons.
    pub rx_dropped: u64,
    /// Dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Dropped because the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Descriptors that the kernel refused.
    pub invalid: u64,
}

/// `DataMut` only lends its octets for the length of a call; the frame's token carries the longer borrow.
fn into_slice<'a>(mut data: xsk_rs::umem::frame::DataMut<'a>) -> &'a mut [u8] {
    let octets = data.contents_mut();
    // SAFETY: the octets live in the UMEM for 'a, and the only other way to them is the token that 'a borrows.
    unsafe { std::slice::from_raw_parts_mut(octets.as_mut_ptr(), octets.len()) }
}

/// The kernel's error number behind an error of the library.
fn kernel_code(error: &dyn std::error::Error) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}

fn with_source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
