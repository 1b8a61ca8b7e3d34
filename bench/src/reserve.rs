//! Room on a disk for what a run writes at its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Logs, result, report and timelines of a large run.
pub const RESERVE_OCTETS: usize = 16 << 20;
/// Name of the file that takes them.
const FILE: &str = "reserve";

/// Room on the disk that is given back when it is dropped: what a run writes at its end finds it, also when logs have taken
/// everything else.
#[derive(Debug)]
pub struct Reserve(PathBuf);

impl Reserve {
    /// Takes it, as the file `reserve`.
    ///
    /// # Errors
    /// There is none: better now than after an hour.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let reserve = Self(path.clone());
        let octets = vec![0_u8; RESERVE_OCTETS];
        let written = fs::write(&path, octets);
        written.with_context(|| {
            format!(
                "{} has no {} MiB for what a run writes at its end: make room, or choose another --out",
                dir.display(),
                RESERVE_OCTETS >> 20
            )
        })?;
        Ok(reserve)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // There may be none: then nothing was taken.
        let _gone = fs::remove_file(&self.0);
    }
}

/// Gives back the room that is kept in a directory, if any is, on behalf of whoever keeps it.
pub fn give_back(dir: &Path) {
    drop(Reserve(dir.join(FILE)));
}

/// Whether an error comes from a disk that has no room.
#[must_use]
pub fn is_disk_full(error: &anyhow::Error) -> bool {
    let full = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::StorageFull)
    };
    error.chain().any(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r8_4_room_is_taken_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reserve");
        let reserve = Reserve::take(dir.path()).unwrap();
        assert_eq!(path.metadata().unwrap().len(), RESERVE_OCTETS as u64);
        drop(reserve);
        assert!(!path.exists());
        let reserve = Reserve::take(dir.path()).unwrap();
        give_back(dir.path());
        assert!(!path.exists());
        // It knows nothing of that, and nobody minds; nor where there was none.
        drop(reserve);
        give_back(dir.path());
        let error = Reserve::take(&dir.path().join("nowhere")).unwrap_err();
        assert!(error.to_string().contains("has no 16 MiB") && !is_disk_full(&error), "{error:#}");
        let error = fs::write("/dev/full", "x").context("a file").context("a run").unwrap_err();
        assert!(is_disk_full(&error));
    }
}
