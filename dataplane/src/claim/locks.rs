//! Locks on files in a directory that nobody but this user can open: what a stranger can neither take nor keep.
//!
//! The kernel takes a lock back with its process, however that ends. What is left of a crash is a file that means nothing;
//! the next start of any data plane removes it.

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// How often a file that is just being removed is made again.
const ATTEMPTS: usize = 3;
/// Longest content of a file: a process ID in decimal.
const CONTENT_OCTETS: u64 = 16;

/// The directory, as data planes of this network namespace use it.
#[derive(Debug)]
pub(super) struct Locks {
    dir: PathBuf,
    namespace: u64,
}

/// What came of taking one.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is ours until this goes.
    Ours(Lock),
    /// Another process of this user has it: its ID, unless it is only starting or ending.
    Theirs(Option<i32>),
}

/// One that is held. Its file goes before the lock does.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _held: Flock<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.path);
    }
}

impl Locks {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or others than this user could hold a lock in it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let shown = dir.display();
        let outer = dir.parent().with_context(|| format!("{shown} is no place for locks"))?;
        fs::create_dir_all(outer).with_context(|| format!("cannot make {}", outer.display()))?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {shown}"));
            }
            Ok(()) | Err(_) => {}
        }
        let found = fs::symlink_metadata(dir).with_context(|| format!("cannot look at {shown}"))?;
        let is_own = found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o077 == 0;
        ensure!(
            found.is_dir() && is_own,
            "{shown} is not a directory of this user alone (mode 0700): remove it, the next start makes it"
        );
        let namespace = fs::metadata("/proc/thread-self/ns/net").context("network namespace")?.ino();
        Ok(Self { dir: dir.to_owned(), namespace })
    }

    /// Takes the lock of an interface of this network namespace.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(super) fn take(&self, interface: &str) -> io::Result<Taken> {
        // No sweep meanwhile, for it holds for a moment what it removes. Nobody who could keep this waiting can open the
        // directory.
        let _no_sweep = locked(File::open(&self.dir)?, FlockArg::LockShared)?;
        let path = self.dir.join(format!("{}-{interface}", self.namespace));
        for _ in 0..ATTEMPTS {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.custom_flags(libc::O_NOFOLLOW).open(&path)?;
            let mut held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => held,
                Err((file, Errno::EAGAIN)) => return Ok(Taken::Theirs(written(&file))),
                Err((_, error)) => return Err(error.into()),
            };
            // Its last owner may have removed it after it was opened here.
            if fs::metadata(&path)
                .is_ok_and(|there| held.metadata().is_ok_and(|own| own.ino() == there.ino()))
            {
                held.set_len(0)?;
                write!(held, "{}", std::process::id())?;
                return Ok(Taken::Ours(Lock { path, _held: held }));
            }
        }
        Ok(Taken::Theirs(None))
    }

    /// Removes the files of processes that are gone, of whichever network namespace. Leaves it to the next start if another
    /// one is taking locks at this moment.
    pub(super) fn sweep(&self) {
        let Ok(Ok(_alone)) = File::open(&self.dir).map(|dir| locked(dir, FlockArg::LockExclusiveNonblock))
        else {
            return;
        };
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file())
                && let Ok(file) = File::open(entry.path())
                && let Ok(_dead) = locked(file, FlockArg::LockExclusiveNonblock)
            {
                let _gone = fs::remove_file(entry.path());
            }
        }
    }
}

fn locked(file: File, how: FlockArg) -> io::Result<Flock<File>> {
    Flock::lock(file, how).map_err(|(_, error)| error.into())
}

/// The process that has written itself there.
fn written(file: &File) -> Option<i32> {
    let mut text = String::new();
    file.take(CONTENT_OCTETS).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    fn is_ours(taken: io::Result<Taken>) -> Option<Lock> {
        if let Taken::Ours(lock) = taken.unwrap() { Some(lock) } else { None }
    }

    /// R0.5: a lock is one process's as long as it lives; a file that a crash left keeps nobody out, and the next start
    /// removes it.
    #[test]
    fn r0_5_a_lock_goes_with_its_owner_and_its_file_with_the_next_start() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("run/claims");
        let locks = Locks::open(&dir).unwrap();
        let files = || fs::read_dir(&dir).unwrap().count();
        let first = is_ours(locks.take("wan0")).unwrap();
        let other = is_ours(Locks::open(&dir).unwrap().take("lan0")).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(locks.take("wan0").unwrap(), Taken::Theirs(Some(pid)) if pid == own));
        assert_eq!(fs::metadata(&first.path).unwrap().mode() & 0o777, 0o600);
        drop(other);
        assert_eq!(files(), 1, "who ends in order leaves no file");

        // As a crash leaves them: here, and in a network namespace that may be gone.
        let elsewhere = dir.join("1-wan0");
        fs::write(&elsewhere, "4711").unwrap();
        fs::write(dir.join(format!("{}-lan0", locks.namespace)), "4711").unwrap();
        let again = is_ours(locks.take("lan0")).expect("nobody holds it");
        assert!(matches!(locks.take("lan0").unwrap(), Taken::Theirs(Some(pid)) if pid == own));
        locks.sweep();
        assert!(!elsewhere.exists() && first.path.exists() && again.path.exists(), "what is held stays");
        drop((first, again));
        assert_eq!(files(), 0);
    }

    /// R0.5: where somebody else could open the directory, he could hold the locks: it is not used.
    #[test]
    fn r0_5_a_directory_that_others_can_open_holds_no_locks() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("claims");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o750)).unwrap();
        let error = Locks::open(&dir).unwrap_err().to_string();
        assert!(error.contains("0700") && error.contains(dir.to_str().unwrap()), "{error}");
        let link = home.path().join("link");
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(Locks::open(&link).is_err(), "where a link leads to, its owner decides");
        Locks::open(&dir).unwrap();
    }
}
