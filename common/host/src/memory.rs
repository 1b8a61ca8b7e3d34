//! Memory that is never written to a swap device, for a process that keeps keys on its heap.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Whether the kernel may write this process's memory to a swap device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It may not.
    Locked,
    /// It may.
    Swappable,
}

/// Why memory could not be locked. The process can go on: its keys may then reach a swap device.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The limit could not be lifted.
    #[error(
        "RLIMIT_MEMLOCK cannot be lifted ({0}); start as root with CAP_SYS_RESOURCE, or under a supervisor that sets it \
         to infinity (LimitMEMLOCK=infinity), or do without swap"
    )]
    Limit(std::io::Error),
    /// The kernel refused.
    #[error("mlockall: {0}; do without swap, or give the process CAP_IPC_LOCK at its start")]
    Refused(std::io::Error),
}

/// Locks all memory that the process has and will have, page by page as it is used. Holds over a change of the user: call
/// it before privileges are dropped and before a key is read.
///
/// Only without a limit: with one, an allocation far beyond it would fail in the middle of the work.
///
/// # Errors
/// [`LockError`]; nothing is locked then.
pub fn lock_all() -> Result<(), LockError> {
    let unlimited = Rlimit { current: None, maximum: None };
    if getrlimit(Resource::Memlock) != unlimited {
        setrlimit(Resource::Memlock, unlimited).map_err(|error| LockError::Limit(error.into()))?;
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| LockError::Refused(error.into()))
}
