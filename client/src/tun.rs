//! The tunnel device. It lives as long as its descriptor: a killed agent leaves none behind.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// An open TUN device, non-blocking.
pub struct Tun {
    device: SyncDevice,
    index: u32,
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
    /// Makes the device `name`, still down and without addresses.
    ///
    /// # Errors
    /// With what to do: /dev/net/tun missing, no CAP_NET_ADMIN, or the name is taken.
    pub fn open(name: &str) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let hint = hint(error.kind());
            io::Error::new(error.kind(), format!("cannot make the tunnel device {name}: {error}; {hint}"))
        };
        let device =
            DeviceBuilder::new().name(name).layer(Layer::L3).enable(false).build_sync().map_err(explain)?;
        device.set_nonblocking(true).map_err(explain)?;
        let index = device.if_index().map_err(explain)?;
        Ok(Self { device, index })
    }

    /// Kernel index of the device.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Reads one packet; `None` if none waits.
    ///
    /// # Errors
    /// If the device is broken.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::unistd::read(&self.device, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes one packet. The device takes whole packets or refuses (it is down, or the packet makes no sense).
    ///
    /// # Errors
    /// If the packet was refused.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.device, packet).map(|_| ()).map_err(Into::into)
    }
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
