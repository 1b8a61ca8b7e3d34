//! An eventfd that one side rings and the other waits for in its poll loop.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One end of a doorbell.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A new doorbell.
    ///
    /// # Errors
    /// If the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(event.into()))
    }

    /// The end that came over a socket.
    #[must_use]
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another handle on the same doorbell.
    ///
    /// # Errors
    /// If the system is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Rings. A doorbell that rings already goes on ringing.
    pub fn ring(&self) {
        // EAGAIN means that the counter is full: it rings. Nothing else can happen to an eventfd that is open.
        let _rung = nix::unistd::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences it; returns whether it rang.
    pub fn silence(&self) -> bool {
        nix::unistd::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_once_however_often() {
        let bell = Doorbell::new().unwrap();
        let other = bell.try_clone().unwrap();
        assert!(!bell.silence());
        other.ring();
        other.ring();
        assert!(bell.silence());
        assert!(!bell.silence());
    }
}
