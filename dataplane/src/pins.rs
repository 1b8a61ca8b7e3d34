//! What outlives the process in the kernel: the XDP links and the tables of the programs, pinned in a BPF file system.
//!
//! A pinned link stays attached when the process dies, so that its successor replaces the program in one step instead of
//! attaching again, which takes the link down for seconds on some devices. Pinned tables let another program take the
//! place of the running one without the data plane noticing (`replace-program`). Their directory is named after the
//! contract version: a program of another one does not find them.
//!
//! `pin_dir/<network namespace>-<WAN interface index>/link-wan`, `…/link-lan`, `…/v<contract version>/<table>`

use crate::ending::Ending;
use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData};
use aya::programs::links::PinnedLink;
use nix::fcntl::{Flock, FlockArg};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The tables that the programs share with user space.
pub const TABLES: [&str; 11] = [
    "BINDINGS", "GATE", "ROUTES", "LIMITS", "SOURCES", "HANDLES", "EDGE", "COUNTERS", "PORTS", "WAN_XSKS",
    "LAN_XSKS",
];
/// The ring in which the programs log (aya-log's). Pinned beside the tables, so that a program that takes another's place
/// writes where somebody reads.
pub const LOG: &str = "AYA_LOGS";
/// Start of a link's name.
const LINK: &str = "link-";
/// How often a directory that is being removed is made again.
const CLAIMS: usize = 3;
/// BPF_OBJ_GET (linux/bpf.h).
const BPF_OBJ_GET: libc::c_int = 7;
/// BPF_LINK_DETACH (linux/bpf.h).
const BPF_LINK_DETACH: libc::c_int = 34;

/// The pins of one data plane. Dropping them removes them, and with them the attachment, unless they are kept.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    kept: bool,
    /// Held as long as these pins are in use: a directory that nobody holds and in which no link is, is a dead start's.
    _claim: Option<Flock<File>>,
}

impl Pins {
    /// Pins for the data plane of this network namespace whose WAN interface has this index. Removes what dead ones
    /// left whose device is gone.
    ///
    /// # Errors
    /// If the directory cannot be made: it must lie in a BPF file system.
    pub fn make(root: &Path, wan_index: u32) -> Result<Self> {
        sweep(root);
        let dir = Self::dir(root, wan_index)?;
        for _ in 0..CLAIMS {
            // Another data plane may remove the empty root between the two steps.
            fs::create_dir_all(&dir).or_else(|_| fs::create_dir_all(&dir)).with_context(|| {
                format!(
                    "cannot pin in {} (is a BPF file system mounted there? 'plan' shows it)",
                    dir.display()
                )
            })?;
            if let Some(claim) = claim(&dir, FlockArg::LockSharedNonblock) {
                return Ok(Self { dir, kept: false, _claim: Some(claim) });
            }
        }
        // Whoever may read the directory may hold its lock. Without the claim another start might take this one for dead,
        // until it has a link.
        tracing::warn!(dir = %dir.display(), "somebody holds the directory of pins: going on without a claim to it");
        Ok(Self { dir, kept: false, _claim: None })
    }

    /// The pins of a data plane that runs, to look at; dropping these changes nothing.
    ///
    /// # Errors
    /// If there are none.
    pub fn of_running(root: &Path, wan_index: u32) -> Result<Self> {
        let dir = Self::dir(root, wan_index)?;
        fs::metadata(&dir).with_context(|| {
            format!("{} is not there: no data plane that pins runs on this interface", dir.display())
        })?;
        Ok(Self { dir, kept: true, _claim: None })
    }

    fn dir(root: &Path, wan_index: u32) -> Result<PathBuf> {
        let namespace = fs::metadata("/proc/thread-self/ns/net").context("network namespace")?.ino();
        Ok(root.join(format!("{namespace}-{wan_index}")))
    }

    /// From now on dropping leaves everything attached, for the next process.
    pub const fn keep(&mut self) {
        self.kept = true;
    }

    /// From now on dropping removes everything.
    pub const fn own(&mut self) {
        self.kept = false;
    }

    /// What dropping does from now on, as this process ends so.
    pub const fn end(&mut self, ending: Ending) {
        match ending {
            Ending::InOrder => self.own(),
            Ending::ForNext => self.keep(),
        }
    }

    /// Where the link of a port is pinned.
    #[must_use]
    pub fn link_path(&self, port: &str) -> PathBuf {
        self.dir.join(format!("{LINK}{port}"))
    }

    /// The link that an earlier process left on this interface. One of another interface is removed.
    #[must_use]
    pub fn link(&self, port: &str, interface_index: u32) -> Option<PinnedLink> {
        let path = self.link_path(port);
        if linked_interface(&path).ok()? == interface_index {
            return PinnedLink::from_pin(&path).ok();
        }
        tracing::info!(path = %path.display(), "removing the link of an interface that is gone");
        self.unpin(port);
        None
    }

    /// Whether a link of this port is pinned, of whichever interface.
    #[must_use]
    pub fn has_link(&self, port: &str) -> bool {
        self.link_path(port).exists()
    }

    /// Whether the pinned link of a port is on this interface.
    #[must_use]
    pub fn is_on(&self, port: &str, interface_index: u32) -> bool {
        linked_interface(&self.link_path(port)).is_ok_and(|index| index == interface_index)
    }

    /// Removes the link of a port, and with it the attachment, at once.
    pub fn unpin(&self, port: &str) {
        remove_link(&self.link_path(port));
    }

    /// Removes the links that an earlier process left on these interfaces, by program and index, under another program's
    /// name or in another directory of this network namespace: the interfaces were named in another order then. Call it
    /// while the interfaces are claimed: nobody lives who could own them.
    pub fn release(&self, own: &[(&str, u32)]) {
        let namespace = |dir: &Path| Some(dir.file_name()?.to_str()?.split_once('-')?.0.to_owned());
        let here = namespace(&self.dir);
        let dirs = self.dir.parent().map(entries).unwrap_or_default();
        for dir in dirs.into_iter().filter(|dir| namespace(dir) == here) {
            let links = links(&dir);
            let is_strange = |path: &PathBuf| {
                linked_interface(path).is_ok_and(|index| {
                    own.iter().any(|(name, of)| *of == index && index != 0 && *path != self.link_path(name))
                })
            };
            let strange: Vec<&PathBuf> = links.iter().filter(|path| is_strange(path)).collect();
            for path in &strange {
                tracing::info!(path = %path.display(), "removing the link of an interface that has another place now");
                remove_link(path);
            }
            if dir != self.dir && !strange.is_empty() && strange.len() == links.len() {
                remove_tree(&dir);
            }
        }
    }

    /// Where the tables of a contract version are pinned.
    #[must_use]
    pub fn tables_dir(&self, version: u32) -> PathBuf {
        self.dir.join(format!("v{version}"))
    }

    /// Contract versions of the tables that are pinned.
    #[must_use]
    pub fn versions(&self) -> Vec<u32> {
        let version = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok();
        let mut versions: Vec<u32> = entries(&self.dir).iter().filter_map(version).collect();
        versions.sort_unstable();
        versions
    }

    /// Removes the tables of an earlier process, whatever their version, and makes room for those of `version`.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn clear_tables(&self, version: u32) -> Result<PathBuf> {
        for old in self.versions() {
            remove_tree(&self.tables_dir(old));
        }
        let dir = self.tables_dir(version);
        fs::create_dir_all(&dir).with_context(|| format!("cannot pin in {}", dir.display()))?;
        Ok(dir)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if !self.kept {
            remove_tree(&self.dir);
            self.dir.parent().into_iter().for_each(remove_empty);
        }
    }
}

/// Pins the ring of the log in a directory of tables: `read` is that of who reads it, who has taken it out of the object.
///
/// # Errors
/// If the kernel refuses.
pub fn pin_log(dir: &Path, read: Option<BorrowedFd<'_>>, unread: Option<&Map>) -> Result<()> {
    let pinned = match (read, unread) {
        (Some(ring), _) => {
            let ring = ring.try_clone_to_owned().context("XDP log ring")?;
            MapData::from_fd(ring).context("XDP log ring")?.pin(dir.join(LOG))
        }
        (None, Some(ring)) => ring.pin(dir.join(LOG)),
        (None, None) => bail!("the XDP object has no map {LOG}"),
    };
    pinned.context("cannot pin the XDP log ring")
}

/// Removes the directory of all data planes' pins after the last of them, if it is this user's. The kernel refuses while
/// something is in it, and where it is the file system itself.
fn remove_empty(root: &Path) {
    let own = nix::unistd::geteuid().as_raw();
    if fs::metadata(root).is_ok_and(|root| root.uid() == own) {
        let _not_empty = fs::remove_dir(root);
    }
}

/// Removes directories whose links all lead to a device that is gone, and those of data planes that were killed before
/// they had a link: nobody holds them.
fn sweep(root: &Path) {
    for dir in entries(root).into_iter().filter(|dir| is_of_data_plane(dir)) {
        let links = links(&dir);
        let is_dead = |path: &PathBuf| linked_interface(path).is_ok_and(|index| index == 0);
        if !links.iter().all(is_dead) {
            continue;
        }
        // Held until it is gone, so that nobody begins in it meanwhile.
        let claim = claim(&dir, FlockArg::LockExclusiveNonblock);
        if !links.is_empty() || claim.is_some() {
            tracing::info!(dir = %dir.display(), "removing what a data plane left that is gone");
            remove_tree(&dir);
        }
    }
}

/// Whether a directory is called as those of data planes are. The root may be another program's, too.
fn is_of_data_plane(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('-'));
    name.is_some_and(|(namespace, index)| namespace.parse::<u64>().is_ok() && index.parse::<u32>().is_ok())
}

/// Takes the lock of a directory, unless somebody holds it in a way that excludes this, or it has just been removed.
fn claim(dir: &Path, how: FlockArg) -> Option<Flock<File>> {
    let claim = Flock::lock(File::open(dir).ok()?, how).ok()?;
    let is_there =
        fs::metadata(dir).is_ok_and(|found| claim.metadata().is_ok_and(|own| own.ino() == found.ino()));
    is_there.then_some(claim)
}

/// The links that are pinned in a directory.
fn links(dir: &Path) -> Vec<PathBuf> {
    let is_link =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK));
    entries(dir).into_iter().filter(is_link).collect()
}

/// Takes a link off its interface and removes its pin. Without its last pin the kernel would let go of it too, but some
/// time later: until then nobody else can attach there.
fn remove_link(path: &Path) {
    if let Ok(link) = open_link(path)
        && let Err(error) = detach(&link)
    {
        tracing::debug!(path = %path.display(), %error, "the link goes some time after its pin");
    }
    let _gone = fs::remove_file(path);
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|found| found.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// Removes a directory of pins with what is in it, at most two deep.
fn remove_tree(dir: &Path) {
    for path in entries(dir) {
        if fs::remove_file(&path).is_err() {
            remove_tree(&path);
        }
    }
    if let Err(error) = fs::remove_dir(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove pins");
    }
}

/// Opens a pinned link.
fn open_link(path: &Path) -> io::Result<OwnedFd> {
    /// `union bpf_attr` as BPF_OBJ_GET reads it.
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attributes = Attributes { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the attributes and the name that they point at are valid for the call and sized as it is told.
    let raw =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw mut attributes, size_of::<Attributes>()) };
    let raw = i32::try_from(raw).map_err(io::Error::other)?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: bpf(2) just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Takes a link off its interface before this returns, whoever holds it. aya has it for its own links only.
fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut fd = link.as_raw_fd();
    // SAFETY: of its attributes BPF_LINK_DETACH reads the descriptor alone, which is valid for the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw mut fd, size_of_val(&fd)) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Index of the interface that a pinned XDP link is attached to; 0 = it is gone. aya does not tell.
fn linked_interface(path: &Path) -> io::Result<u32> {
    let link = open_link(path)?;
    let shown = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let index = shown.lines().find_map(|line| line.strip_prefix("ifindex:")?.trim().parse().ok());
    index.ok_or_else(|| io::Error::other(format!("{} is not an XDP link", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R1.2: what a start left that was killed before it had a link is swept by the next one, and the directory of one that
    /// runs is not.
    #[test]
    fn r1_2_a_start_that_was_killed_leaves_no_pins() {
        let root = tempfile::tempdir().unwrap();
        let dead = root.path().join("1-4");
        fs::create_dir_all(dead.join("v6")).unwrap();
        fs::write(dead.join("v6/ROUTES"), "").unwrap();
        let strange = root.path().join("tc-globals");
        fs::create_dir(&strange).unwrap();
        let mut first = Pins::make(root.path(), 7).unwrap();
        assert!(!dead.exists() && strange.exists(), "and what another program has there stays");
        first.keep();
        let starting = first.clear_tables(6).unwrap();
        drop(Pins::make(root.path(), 8).unwrap());
        assert!(starting.exists(), "it runs");
        drop(first);
        drop(Pins::make(root.path(), 8).unwrap());
        assert!(!starting.exists(), "nobody holds it, and no link is in it");
    }

    /// R1.2: whatever this process found or made goes when it ends in order, and stays for the next one if it is told to
    /// leave it, also while it does not own it yet.
    #[test]
    fn r1_2_the_end_decides_what_stays_pinned() {
        let root = tempfile::tempdir().unwrap();
        for is_found in [true, false] {
            for (ending, stays) in [(Ending::ForNext, true), (Ending::InOrder, false)] {
                let mut pins = Pins::make(root.path(), 7).unwrap();
                let dir = pins.dir.clone();
                fs::write(pins.link_path("wan"), "").unwrap();
                if is_found {
                    // As a start does that has not taken over yet.
                    pins.keep();
                }
                pins.end(ending);
                drop(pins);
                assert_eq!(dir.exists(), stays, "{ending:?}, found: {is_found}");
            }
        }
    }
}
