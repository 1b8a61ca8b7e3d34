//! What a rig has made, written down before it is made, so that nothing outlives a killed owner for longer
//! than until the next start.
//!
//! `/run/jvpn-rig/<id>/registry` has one entry per line; the directory itself holds the run-time files of the
//! rig and is removed with it. Processes are named by ID *and* start time: an ID may have been given to a
//! stranger since. One that was started but not yet written down when its owner was killed is found by the
//! rig's mark in its environment.
//!
//! Several processes of a host make and sweep rigs at the same moment. Who makes one or sweeps holds the lock of the
//! directory meanwhile: a rig that is only just being made has no owner yet and would look like one of a dead owner.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Interrupt, netns, wait};

/// Where the registries of all rigs of this host are.
pub const REGISTRY_DIR: &str = "/run/jvpn-rig";

/// Environment variable that marks every process of a rig with the rig's ID.
pub const RIG_MARK: &str = "JVPN_RIG";

/// Name of the file in the rigs' directory whose lock is held while a rig is begun, or dead ones are swept.
const LOCK: &str = "registry.lock";

/// How long a process may take to end after SIGTERM, and again after SIGKILL.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// A process, never to be mistaken for a later one with the same ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    pid: i32,
    /// Clock ticks from boot to its start (field 22 of /proc/PID/stat).
    start_ticks: u64,
}

impl ProcessId {
    /// Of a process that is there now.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).context("process ID out of range")?;
        let start_ticks = start_ticks(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, start_ticks })
    }

    /// Whether it still runs (a zombie does not).
    #[must_use]
    pub fn is_alive(self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    fn signal(self, signal: Signal) {
        if self.is_alive() {
            // Fails only if it has just ended, which is what is wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Asks it to end, then makes it.
    ///
    /// # Errors
    /// It does not even end by SIGKILL.
    pub fn end(self) -> Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            self.signal(signal);
            let ended = || Ok((!self.is_alive()).then_some(()));
            if wait::until("process end", END_PATIENCE, &Interrupt::default(), ended).is_ok() {
                return Ok(());
            }
        }
        bail!("process {} does not end, not even by SIGKILL", self.pid)
    }
}

fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything; the fields go on behind the last one.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // State is field 3; start time is field 22.
    fields.nth(18)?.parse().ok()
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Owner(ProcessId),
    Kept,
    Namespace(String),
    Process(ProcessId),
}

impl Entry {
    fn line(&self) -> String {
        match self {
            Self::Owner(id) => format!("owner {} {}\n", id.pid, id.start_ticks),
            Self::Kept => "kept\n".to_owned(),
            Self::Namespace(name) => format!("netns {name}\n"),
            Self::Process(id) => format!("process {} {}\n", id.pid, id.start_ticks),
        }
    }

    /// A torn last line (the owner was killed while writing) is no entry.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let mut id =
            || Some(ProcessId { pid: words.next()?.parse().ok()?, start_ticks: words.next()?.parse().ok()? });
        match kind {
            "owner" => id().map(Self::Owner),
            "process" => id().map(Self::Process),
            "kept" => Some(Self::Kept),
            "netns" => {
                words.next().filter(|name| name.starts_with("jvpn-")).map(|n| Self::Namespace(n.to_owned()))
            }
            _ => None,
        }
    }
}

/// The registry of one rig.
#[derive(Debug)]
pub struct Registry {
    dir: PathBuf,
    file: Mutex<File>,
}

impl Registry {
    /// Opens a registry for a new rig, owned by this process.
    ///
    /// # Errors
    /// /run is not writable, or the name is taken.
    pub fn create(id: &str) -> Result<Self> {
        Self::create_in(Path::new(REGISTRY_DIR), id)
    }

    fn create_in(all: &Path, id: &str) -> Result<Self> {
        let dir = all.join(id);
        fs::create_dir_all(all).with_context(|| format!("cannot make {}", all.display()))?;
        // Processes of the rig that have dropped their privileges must reach their sockets in here.
        let open = || fs::set_permissions(all, fs::Permissions::from_mode(0o755));
        open().with_context(|| format!("cannot set the mode of {}", all.display()))?;
        // Until its owner is written down nobody may sweep.
        let _turn = turn(all)?;
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join("registry");
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let registry = Self { dir, file: Mutex::new(file) };
        registry.add(&Entry::Owner(ProcessId::of(std::process::id())?))?;
        Ok(registry)
    }

    /// Directory for the run-time files of the rig; removed with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// To be called before the namespace is made.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_namespace(&self, name: &str) -> Result<()> {
        self.add(&Entry::Namespace(name.to_owned()))
    }

    /// To be called as soon as the process is there. One that has ended by then needs no entry: whoever started it sees
    /// that, and has its last words.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_process(&self, pid: u32) -> Result<()> {
        ProcessId::of(pid).map_or(Ok(()), |id| self.add(&Entry::Process(id)))
    }

    /// The rig is to stay when its owner ends; only [`remove_kept`] takes it away.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self) -> Result<()> {
        self.add(&Entry::Kept)
    }

    fn add(&self, entry: &Entry) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(entry.line().as_bytes())
            .with_context(|| format!("cannot write {}/registry", self.dir.display()))
    }

    /// Ends every process, removes every namespace and the files.
    ///
    /// # Errors
    /// Something could not be removed; the rest is, and the registry stays for the next sweep.
    pub fn remove_all(&self) -> Result<()> {
        remove_rig(&self.dir)
    }
}

/// What a sweep did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rigs removed, by ID.
    pub removed: Vec<String>,
    /// Rigs left alone because someone asked to keep them, by ID.
    pub kept: Vec<String>,
}

/// Removes the rigs whose owner is dead, except those that are kept.
///
/// # Errors
/// A rig could not be removed.
pub fn sweep() -> Result<Swept> {
    sweep_in(Path::new(REGISTRY_DIR))
}

fn sweep_in(all: &Path) -> Result<Swept> {
    let mut swept = Swept::default();
    if !all.is_dir() {
        return Ok(swept);
    }
    let _turn = turn(all)?;
    for (id, dir) in rigs(all)? {
        let entries = entries(&dir);
        if entries.iter().any(|entry| matches!(entry, Entry::Owner(owner) if owner.is_alive())) {
            continue;
        }
        if entries.contains(&Entry::Kept) {
            swept.kept.push(id);
            continue;
        }
        remove_rig(&dir)?;
        swept.removed.push(id);
    }
    Ok(swept)
}

/// Removes the kept rigs and those whose owner is dead; gives their IDs.
///
/// # Errors
/// A rig could not be removed.
pub fn remove_kept() -> Result<Vec<String>> {
    let mut removed = sweep()?.removed;
    for (id, dir) in rigs(Path::new(REGISTRY_DIR))? {
        if entries(&dir).contains(&Entry::Kept) {
            remove_rig(&dir)?;
            removed.push(id);
        }
    }
    Ok(removed)
}

/// Removes one rig, whoever owns it.
///
/// # Errors
/// It could not be removed completely.
pub fn remove(id: &str) -> Result<()> {
    remove_rig(&Path::new(REGISTRY_DIR).join(id))
}

/// Waits until nobody else begins a rig or sweeps; then nobody does until the value goes, or its process.
fn turn(all: &Path) -> Result<Flock<File>> {
    let path = all.join(LOCK);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(turn) => return Ok(turn),
            // A signal came in between: whoever waits for it looks at his flag afterwards.
            Err((same, Errno::EINTR)) => file = same,
            Err((_, error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

fn rigs(all: &Path) -> Result<Vec<(String, PathBuf)>> {
    let listing = match fs::read_dir(all) {
        Ok(listing) => listing,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", all.display())),
    };
    let mut rigs: Vec<_> = listing
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    rigs.sort();
    Ok(rigs)
}

fn entries(dir: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(dir.join("registry")).unwrap_or_default();
    text.lines().filter_map(Entry::parse).collect()
}

fn remove_rig(dir: &Path) -> Result<()> {
    let mut failures = Vec::new();
    let entries = entries(dir);
    // Latest first: the client ends before the gateway that it talks to, everything before its namespace.
    let listed = entries.iter().rev().filter_map(|entry| match entry {
        Entry::Process(id) => Some(*id),
        Entry::Owner(_) | Entry::Kept | Entry::Namespace(_) => None,
    });
    let rig_id = dir.file_name().unwrap_or_default().to_string_lossy();
    for process in listed.chain(marked_processes(&rig_id)) {
        failures.extend(process.end().err());
    }
    for entry in &entries {
        if let Entry::Namespace(name) = entry {
            failures.extend(netns::remove(name).err());
        }
    }
    if let Some(first) = failures.into_iter().next() {
        return Err(first.context(format!("rig {} is not removed completely", dir.display())));
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn marked_processes(rig_id: &str) -> Vec<ProcessId> {
    let mark = format!("{RIG_MARK}={rig_id}");
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|octet| *octet == 0).any(|variable| variable == mark.as_bytes())
        })
        .filter_map(|pid| ProcessId::of(pid).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn entries_survive_the_file() {
        let id = ProcessId { pid: 12, start_ticks: 34 };
        for entry in
            [Entry::Owner(id), Entry::Kept, Entry::Namespace("jvpn-0a1b2c-lan".into()), Entry::Process(id)]
        {
            assert_eq!(Entry::parse(entry.line().trim_end()), Some(entry));
        }
    }

    #[test]
    fn torn_and_foreign_lines_are_no_entries() {
        for line in ["", "proc", "process 12", "owner x 1", "netns", "netns eth0", "netns ../x"] {
            assert_eq!(Entry::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        let reused = ProcessId { start_ticks: own.start_ticks + 1, ..own };
        assert!(!reused.is_alive());
    }

    /// A rig that is being made has no owner for a moment: who sweeps at that moment leaves it alone.
    #[test]
    fn a_rig_that_is_being_made_is_not_swept() {
        let dir = tempfile::tempdir().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sweeper = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(sweep_in(dir.path()).unwrap(), Swept::default());
                }
            });
            let made = (0..2_000).try_for_each(|number| {
                let registry = Registry::create_in(dir.path(), &format!("{number:04x}"))?;
                // Half of what is removed has no owner either, and is nobody's loss; here it is to be told apart.
                let _turn = turn(dir.path())?;
                fs::remove_dir_all(registry.dir()).context("it was swept")
            });
            is_over.store(true, Ordering::Relaxed);
            sweeper.join().unwrap();
            made.unwrap();
        });
        // What has no owner and is not being made is what a killed owner left.
        fs::create_dir(dir.path().join("dead")).unwrap();
        assert_eq!(sweep_in(dir.path()).unwrap().removed, ["dead"]);
        assert_eq!(sweep_in(&dir.path().join("nowhere")).unwrap(), Swept::default());
    }

    /// A program that ends at once may be gone before it is written down.
    #[test]
    fn one_that_has_ended_needs_no_entry() {
        let nowhere = OpenOptions::new().append(true).open("/dev/null").unwrap();
        let registry = Registry { dir: PathBuf::new(), file: Mutex::new(nowhere) };
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        assert!(child.wait().unwrap().success() && ProcessId::of(pid).is_err());
        registry.add_process(pid).unwrap();
    }

    #[test]
    fn a_running_process_is_ended() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let waiter = std::thread::spawn(move || child.wait());
        id.end().unwrap();
        assert!(!waiter.join().unwrap().unwrap().success());
    }
}
