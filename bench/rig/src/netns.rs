//! Network namespaces, entered by `setns` of the network namespace alone.
//!
//! `ip netns exec` also makes a mount namespace with a fresh /sys, in which bpffs is gone; so it is never
//! used here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::tool::IP;

/// Where `ip netns` keeps its names.
pub const NETNS_DIR: &str = "/run/netns";

/// A named network namespace. Does not remove itself: its [`crate::Rig`] does.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Makes the namespace and takes a descriptor of it.
    ///
    /// # Errors
    /// `ip netns add` fails: the name is taken, or the right (root, CAP_SYS_ADMIN) is missing.
    pub fn create(name: &str) -> Result<Self> {
        IP.run(None, &["netns", "add", name])?;
        Self::open(name)
    }

    /// Takes a descriptor of a namespace that is there.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn open(name: &str) -> Result<Self> {
        let path = PathBuf::from(NETNS_DIR).join(name);
        let file = File::open(&path).with_context(|| format!("cannot open namespace {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file: Arc::new(file) })
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` inside, on a thread of its own. Sockets that it opens stay in the namespace and may be
    /// handed out; programs that it starts run there.
    ///
    /// A program is started so, and not by entering between fork and exec: that would copy the page tables of the whole
    /// process, whose other threads then stand still for milliseconds, each at its next write. Measurements run in them.
    ///
    /// # Errors
    /// The thread cannot be made or cannot enter; `work`'s own result is inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| enter(&self.file).map(|()| work()));
            let result = inside.join().map_err(|_| anyhow!("work in namespace {} panicked", self.name))?;
            result.with_context(|| format!("cannot enter namespace {}", self.name))
        })
    }

    /// Starts a thread that lives inside.
    ///
    /// # Errors
    /// The thread cannot be made. If it cannot enter, its join gives the error.
    pub fn spawn<T: Send + 'static>(
        &self,
        role: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<io::Result<T>>> {
        let file = Arc::clone(&self.file);
        thread::Builder::new()
            .name(role.to_owned())
            .spawn(move || enter(&file).map(|()| work()))
            .with_context(|| format!("cannot start the thread {role}"))
    }

    /// Writes a per-namespace kernel setting, as in `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// The setting does not exist here or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens the file.
        let path = format!("/proc/sys/{key}");
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("cannot set {key} = {value} in namespace {}", self.name))
    }

    /// Reads a per-namespace kernel setting.
    ///
    /// # Errors
    /// The setting does not exist here.
    pub fn sysctl_value(&self, key: &str) -> Result<String> {
        let path = format!("/proc/sys/{key}");
        let text = self
            .run(|| std::fs::read_to_string(&path))?
            .with_context(|| format!("cannot read {key} in namespace {}", self.name))?;
        Ok(text.trim().to_owned())
    }
}

fn enter(file: &File) -> io::Result<()> {
    debug_assert!(file.as_raw_fd() >= 0);
    setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Removes a namespace by name; one that is gone already is fine.
///
/// # Errors
/// `ip netns delete` fails for another reason.
pub fn remove(name: &str) -> Result<()> {
    if !PathBuf::from(NETNS_DIR).join(name).exists() {
        return Ok(());
    }
    IP.run(None, &["netns", "delete", name]).map(drop)
}
