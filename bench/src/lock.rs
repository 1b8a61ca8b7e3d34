//! The lock of a run: two verbs that measure on one machine would measure each other.
//!
//! It is a lock of the kernel on one file, so that it goes with its process however that ends. A verb takes it once for
//! all that it does; the parts of a suite run under the suite's.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Name of the file in the rigs' directory.
const FILE: &str = "run.lock";

/// Keeps other runs of this machine away while it is held.
#[derive(Debug)]
pub struct RunLock(
    // Nothing, if nobody without root can hold one here.
    Option<Flock<File>>,
);

impl RunLock {
    /// Takes the lock in `dir` for a verb.
    ///
    /// A user who may not write there meets the runs of root as everybody does. Where none has ever been, there is no
    /// file, and he goes on without: what needs no root is short, and root's next run makes the file.
    ///
    /// # Errors
    /// Another run has it; the text has that run's verb and process ID.
    pub fn take(dir: &Path, verb: &str) -> Result<Self> {
        let path = dir.join(FILE);
        let is_writer = fs::create_dir_all(dir).and_then(|()| {
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)
        });
        let (file, may_write) = match is_writer {
            Ok(file) => (file, true),
            Err(error)
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
            {
                match File::open(&path) {
                    Ok(file) => (file, false),
                    Err(_) => return Ok(Self(None)),
                }
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                if may_write {
                    lock.set_len(0).with_context(|| format!("cannot write {}", path.display()))?;
                    // Only for the error message of another one.
                    let _ = write!(*lock, "`{verb}`, process {}", std::process::id());
                }
                Ok(Self(Some(lock)))
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let owner = fs::read_to_string(&path).unwrap_or_default();
                let owner = if owner.is_empty() { "of a user without root".to_owned() } else { owner };
                bail!(
                    "another run is in progress on this machine ({owner}), and two would measure each other: wait until it \
                     ends, or interrupt it; `{verb}` has done nothing"
                )
            }
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Who comes next without the right to write is not to be taken for this one.
        let _emptied = self.0.as_ref().map(|file| file.set_len(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.4: whoever comes second is told who was first; what ends lets the next one in.
    #[test]
    fn r8_4_two_runs_keep_apart() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RunLock::take(dir.path(), "flood").unwrap();
        let error = RunLock::take(dir.path(), "memory").unwrap_err().to_string();
        assert!(error.contains("`flood`") && error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("in progress") && error.contains("`memory` has done nothing"), "{error}");
        drop(lock);
        RunLock::take(dir.path(), "memory").unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = format!("{:#}", RunLock::take(&file, "soak").unwrap_err());
        assert!(error.contains("run.lock"), "{error}");
    }
}
