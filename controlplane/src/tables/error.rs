//! Why a data plane cannot be talked to, and whether that only means that it is not there.

use aya::maps::MapError;
use jvpn_tables::TableError;
use jvpn_tables::handover::HandoverError;
use std::os::fd::OwnedFd;

/// Why the data plane's tables could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The handover failed.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A table could not be mapped.
    #[error(transparent)]
    Mapping(#[from] TableError),
    /// A table of the XDP programs is not the map that it should be.
    #[error("table ROUTES, HANDLES or EDGE: {0}")]
    Routes(#[from] MapError),
    /// The data plane says something impossible.
    #[error("the data plane offers {0}; are both processes of one release?")]
    Implausible(String),
    /// It was there a moment ago.
    #[error("the data plane's process {pid} has ended since it was connected to")]
    Gone {
        /// Its process ID.
        pid: i32,
    },
    /// Its exit could not be watched.
    #[error("cannot watch the data plane's process {pid}: {cause}")]
    Watch {
        /// Its process ID.
        pid: i32,
        /// What the system said.
        cause: std::io::Error,
    },
}

impl TablesError {
    /// Whether it only means that no data plane is there: the next one is waited for.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        match self {
            Self::Handover(HandoverError::Version { .. }) => false,
            Self::Handover(_) | Self::Gone { .. } => true,
            Self::Mapping(_) | Self::Routes(_) | Self::Implausible(_) | Self::Watch { .. } => false,
        }
    }
}

/// Something that becomes readable when this process ends.
pub(super) fn watch(pid: i32) -> Result<OwnedFd, TablesError> {
    let failed = |cause: rustix::io::Errno| TablesError::Watch { pid, cause: cause.into() };
    // 0: it is in a PID namespace that this one does not see, and will not be seen later either.
    let process = rustix::process::Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH).map_err(failed)?;
    match rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => Err(TablesError::Gone { pid }),
        opened => opened.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R7.3: a data plane that ends while it is greeted is one that is not there: the control plane waits for the next one.
    #[test]
    fn r7_3_a_data_plane_that_has_just_ended_is_not_there() {
        let mut process = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(process.id()).unwrap();
        // Until it is waited for it can be watched, and has ended all the same.
        watch(pid).unwrap();
        process.wait().unwrap();
        let gone = watch(pid).unwrap_err();
        assert!(
            gone.is_absence() && gone.to_string().contains(&format!("process {pid} has ended")),
            "{gone}"
        );
        let unseen = watch(0).unwrap_err();
        assert!(!unseen.is_absence(), "{unseen}: nor will it be seen later");
    }
}
