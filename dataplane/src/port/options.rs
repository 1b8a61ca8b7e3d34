//! Where a port's memory lies, and how its socket is polled.

use super::{PortError, sockopt};
use crate::tuning::HugePages;
use std::os::fd::AsRawFd;
use std::time::Duration;
use xsk_rs::config::BindFlags;

/// How a port is tuned.
#[derive(Clone, Copy, Debug)]
pub struct PortOptions {
    /// Whether UMEM lies in huge pages.
    pub huge_pages: HugePages,
    /// The NUMA node of UMEM; `None` = wherever the kernel puts it.
    pub node: Option<usize>,
    /// Polls the driver from the worker.
    pub busy_poll: Option<BusyPoll>,
    /// Whether the driver is asked for zero-copy. It is not behind generic XDP: zero-copy goes past that.
    pub zero_copy: ZeroCopy,
    /// How long memory that is missing is asked for again: the kernel may not have taken back that of a socket which was
    /// just closed.
    pub memory_patience: Duration,
}

/// Whether the driver is asked for zero-copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// It is; if it has none, the kernel copies.
    #[default]
    IfPossible,
    /// The kernel copies.
    Never,
}

/// SO_PREFER_BUSY_POLL's companions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long a system call polls at most, µs.
    pub microseconds: u32,
    /// Frames that one poll takes at most.
    pub budget: u16,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            huge_pages: HugePages::Off,
            node: None,
            busy_poll: None,
            zero_copy: ZeroCopy::IfPossible,
            memory_patience: Duration::ZERO,
        }
    }
}

/// MPOL_DEFAULT, MPOL_PREFERRED (linux/mempolicy.h).
const MPOL_DEFAULT: libc::c_int = 0;
const MPOL_PREFERRED: libc::c_int = 1;

impl PortOptions {
    /// Makes memory as the options say: huge pages if there are any, on the node. `make` touches it.
    pub(super) fn place<T>(
        &self,
        mut make: impl FnMut(bool) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let bound = self.node.is_some_and(prefer_node);
        let made = match self.huge_pages {
            HugePages::Off => make(false),
            HugePages::Require => make(true),
            HugePages::Auto => make(true).or_else(|error| {
                tracing::debug!(%error, "no huge pages for frames, taking ordinary ones");
                make(false)
            }),
        };
        if bound {
            set_memory_policy(MPOL_DEFAULT, None);
        }
        made
    }

    pub(super) const fn bind_flags(&self) -> BindFlags {
        match self.zero_copy {
            ZeroCopy::IfPossible => BindFlags::XDP_USE_NEED_WAKEUP,
            ZeroCopy::Never => BindFlags::XDP_USE_NEED_WAKEUP.union(BindFlags::XDP_COPY),
        }
    }

    /// Turns busy polling on. A kernel that refuses it costs speed, nothing else.
    pub(super) fn busy_poll(&self, socket: &impl AsRawFd, interface: &str, queue: u32) {
        let Some(BusyPoll { microseconds, budget }) = self.busy_poll else { return };
        let values = [
            (libc::SO_PREFER_BUSY_POLL, 1),
            (libc::SO_BUSY_POLL, i32::try_from(microseconds).unwrap_or(i32::MAX)),
            (libc::SO_BUSY_POLL_BUDGET, i32::from(budget)),
        ];
        for (option, value) in values {
            if let Err(error) = sockopt::set(socket, libc::SOL_SOCKET, option, value) {
                tracing::warn!(interface, queue, option, %error, "busy polling refused; interrupts it is");
                return;
            }
        }
    }
}

fn prefer_node(node: usize) -> bool {
    let Some(mask) = u32::try_from(node).ok().and_then(|node| 1_u64.checked_shl(node)) else { return false };
    set_memory_policy(MPOL_PREFERRED, Some(mask))
}

/// set_mempolicy(2) of this thread. `false` if the kernel refuses, as one without NUMA does.
fn set_memory_policy(mode: libc::c_int, nodes: Option<u64>) -> bool {
    let mask = nodes.unwrap_or(0);
    let (pointer, bits) =
        if nodes.is_some() { (&raw const mask, u64::BITS + 1) } else { (std::ptr::null(), 0) };
    // SAFETY: the mask is valid for the call and as many bits long as it says (the kernel reads one less).
    let outcome = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, libc::c_ulong::from(bits)) };
    outcome == 0
}
