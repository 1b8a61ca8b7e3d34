//! The tunnel device. It lives as long as its descriptor: a killed agent leaves none behind.

use crate::agent::MAX_INNER_LEN;
use crate::io::frames::{BATCH, Frames};
use crate::offload::coalesce::{Batch, VNET_LEN};
use jvpn_abi::wire::{DATA_HEADER_LEN, TAG_LEN};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Most packets that one read may give with offload; the device is told so.
pub const SEGMENTS_MAX: usize = 64;
/// Parts of one write: the device's header and as many packets as are joined.
const PARTS_MAX: usize = crate::offload::coalesce::PACKETS_MAX + 1;

/// An open TUN device, non-blocking.
pub struct Tun {
    device: SyncDevice,
    index: u32,
    /// What the device hands over with offload: its header and a packet of at most 64 KiB.
    large: Vec<u8>,
    counters: TunCounters,
}

/// What went over the device, for `jvpn status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TunCounters {
    /// Reads that gave packets.
    pub reads: u64,
    /// Packets that they gave.
    pub packets_read: u64,
    /// Writes.
    pub writes: u64,
    /// Packets that they took.
    pub packets_written: u64,
    /// Packets that the device refused.
    pub refused: u64,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun").field("index", &self.index).finish_non_exhaustive()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Tun {
    /// Makes the device `name`, still down and without addresses; with offload if that is wanted and the kernel has it.
    ///
    /// # Errors
    /// With what to do: /dev/net/tun missing, no CAP_NET_ADMIN, or the name is taken.
    pub fn open(name: &str, offload: bool) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let hint = hint(error.kind());
            io::Error::new(error.kind(), format!("cannot make the tunnel device {name}: {error}; {hint}"))
        };
        let open = |offload: bool| {
            let builder = DeviceBuilder::new().name(name).layer(Layer::L3).enable(false);
            builder.with(|linux| _ = linux.offload(offload)).build_sync()
        };
        let device = match open(offload) {
            Err(error) if offload && open(false).is_ok() => {
                tracing::warn!(%error, "the tunnel device has no offload on this kernel; packets go one by one");
                open(false)
            }
            opened => opened,
        };
        let device = device.map_err(explain)?;
        device.set_nonblocking(true).map_err(explain)?;
        let index = device.if_index().map_err(explain)?;
        let large = if device.tcp_gso() { vec![0; VNET_LEN + (1 << 16)] } else { Vec::new() };
        Ok(Self { device, index, large, counters: TunCounters::default() })
    }

    /// Kernel index of the device.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Whether large packets cross it.
    #[must_use]
    pub fn is_offloaded(&self) -> bool {
        self.device.tcp_gso()
    }

    /// Most packets that one [`Self::read`] gives.
    #[must_use]
    pub fn most(&self) -> usize {
        if self.is_offloaded() { SEGMENTS_MAX } else { 1 }
    }

    /// What `jvpn status` says about offload.
    #[must_use]
    pub fn offloads(&self) -> serde_json::Value {
        serde_json::json!({ "tcp": self.device.tcp_gso(), "udp": self.device.udp_gso() })
    }

    /// What went over it.
    #[must_use]
    pub const fn counters(&self) -> TunCounters {
        self.counters
    }

    /// Reads what the device hands over at once into the frames from `first` on, each with room for header and tag, and
    /// sets their lengths; how many packets that are, 0 if none waits.
    ///
    /// # Errors
    /// If the device is broken, or handed over what cannot be cut into packets.
    pub fn read(&mut self, frames: &mut Frames, first: usize) -> io::Result<usize> {
        let mut sizes = [0; BATCH];
        let count = if self.is_offloaded() {
            let free = frames.buffers().get_mut(first..).unwrap_or_default();
            let sizes = sizes.get_mut(first..).unwrap_or_default();
            match self.device.recv_multiple(&mut self.large, free, sizes, DATA_HEADER_LEN) {
                Ok(count) => count,
                Err(error) if is_nothing(&error) => return Ok(0),
                Err(error) => return Err(error),
            }
        } else {
            let limit = DATA_HEADER_LEN + MAX_INNER_LEN;
            let room = frames.buffer(first).get_mut(DATA_HEADER_LEN..limit).unwrap_or_default();
            match nix::unistd::read(&self.device, room).map_err(io::Error::from) {
                Ok(length) => {
                    if let Some(slot) = sizes.get_mut(first) {
                        *slot = length;
                    }
                    1
                }
                Err(error) if is_nothing(&error) => return Ok(0),
                Err(error) => return Err(error),
            }
        };
        for (index, size) in sizes.iter().enumerate().skip(first).take(count) {
            // There must be room for the tag behind it.
            let len = if *size > MAX_INNER_LEN { 0 } else { DATA_HEADER_LEN + size + TAG_LEN };
            self.counters.refused += u64::from(len == 0);
            frames.set_len(index, len);
        }
        self.counters.reads += 1;
        self.counters.packets_read += count as u64;
        Ok(count)
    }

    /// Hands one packet over.
    pub fn write_one(&mut self, packet: &[u8]) {
        let header = [0; VNET_LEN];
        let parts = [IoSlice::new(&header), IoSlice::new(packet)];
        let used = if self.is_offloaded() { 0..2 } else { 1..2 };
        self.counters.writes += 1;
        self.counters.packets_written += 1;
        if let Err(error) = nix::sys::uio::writev(&self.device, parts.get(used).unwrap_or_default()) {
            self.counters.refused += 1;
            tracing::trace!(%error, "the tunnel device refused a packet");
        }
    }

    /// Hands the packets of a batch over, joined where the device takes that; `buffer` is where they lie.
    pub fn write(&mut self, batch: &mut Batch, buffer: &mut [u8]) {
        let is_offloaded = self.is_offloaded();
        if is_offloaded {
            batch.finish(buffer);
        }
        let Self { device, counters, .. } = self;
        batch.for_each(buffer, |header, parts| {
            let mut slices = [IoSlice::new(&[]); PARTS_MAX];
            let (first, rest) = slices.split_at_mut(1);
            if let [first] = first {
                *first = IoSlice::new(&header);
            }
            for (slice, part) in rest.iter_mut().zip(parts) {
                *slice = IoSlice::new(part);
            }
            let used = if is_offloaded { 0..parts.len() + 1 } else { 1..2 };
            counters.writes += 1;
            counters.packets_written += parts.len() as u64;
            // The device takes whole packets or refuses: it is down, or the packet makes no sense.
            if let Err(error) = nix::sys::uio::writev(&*device, slices.get(used).unwrap_or_default()) {
                counters.refused += parts.len() as u64;
                tracing::trace!(%error, "the tunnel device refused a packet");
            }
        });
        batch.clear();
    }
}

/// Whether a failed read says that the device was deleted. Its descriptor leads to none then, for good, and is
/// readable for ever (drivers/net/tun.c: EBADFD, POLLERR).
#[must_use]
pub fn is_deleted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EBADFD)
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn hint(kind: io::ErrorKind) -> &'static str {
    let hints = [
        (io::ErrorKind::NotFound, "load the module: modprobe tun"),
        (io::ErrorKind::PermissionDenied, "CAP_NET_ADMIN is needed: run as root"),
        (io::ErrorKind::ResourceBusy, "the name is taken: choose another [interface] name"),
    ];
    let other = "check that /dev/net/tun exists and that [interface] name is free";
    hints.into_iter().find(|(known, _)| *known == kind).map_or(other, |(_, hint)| hint)
}
