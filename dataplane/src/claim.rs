//! One data plane per interface: who comes second is refused before it has touched anything, and told who is there.
//!
//! A claim is a lock that only this user can hold ([`locks`]), and a listening socket in the abstract namespace, which
//! belongs to the network namespace as interfaces do. The lock decides, for anybody on the host may take a name there: a
//! stranger's is passed over. The socket reaches data planes that see another `/run`, in containers. The kernel takes both
//! back with the process, however that ends.

mod locks;

use anyhow::{Context as _, Result, bail};
use locks::{Lock, Locks, Taken};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket, sockopt,
};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Where all data planes of this host have their locks: beside their sockets' usual places, which a supervisor's sandbox
/// must let them write anyway.
pub const LOCKS: &str = "/run/jvpn/claims";
/// So many may have asked who is here since the owner last looked; those after them are refused without a name.
const ASKED_MOST: i32 = 512;
/// Of a process that has the claim but does not answer, or not any more.
const ON_ITS_WAY: &str = "which is starting or ending at this moment";

/// Interfaces that are this process's until this value goes.
#[derive(Debug)]
pub struct Claims {
    held: Vec<Held>,
    /// `None`: there is no place for locks; names alone decide.
    locks: Option<Locks>,
    /// Whether a process of this user may be a data plane. Those of others are strangers.
    is_trusted: fn(u32) -> bool,
}

/// One interface. Dropped in this order: who finds the lock free finds the name free.
#[derive(Debug)]
struct Held {
    interface: String,
    /// `None`: a stranger has the name.
    socket: Option<UnixListener>,
    _lock: Option<Lock>,
}

/// What came of claiming one more.
#[derive(Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is ours.
    Ours,
    /// It is another process's, of which this is known.
    Theirs(String),
}

/// Whose the name of an interface is.
#[derive(Debug)]
enum Name {
    Ours(UnixListener),
    DataPlanes(String),
    Strangers(String),
    /// Whoever has it does not say who it is.
    Unknown(&'static str),
}

impl Claims {
    /// Claims all of `interfaces`, with locks in `dir` ([`LOCKS`]). Removes what dead ones left there.
    ///
    /// # Errors
    /// If another data plane has one of them, which is named; then none is claimed.
    pub fn take<'a>(dir: &Path, interfaces: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        Self::none(dir, may_be_data_plane).with(interfaces)
    }

    fn none(dir: &Path, is_trusted: fn(u32) -> bool) -> Self {
        let locks = Locks::open(dir).inspect_err(|error| {
            tracing::warn!(
                "interfaces are claimed by name alone, which any user could take first: {error:#}; let this process write \
                 to {} (under systemd: RuntimeDirectory=jvpn)",
                dir.display()
            );
        });
        let locks = locks.ok();
        locks.iter().for_each(Locks::sweep);
        Self { held: Vec::new(), locks, is_trusted }
    }

    fn with<'a>(mut self, interfaces: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        for interface in interfaces {
            if let Claimed::Theirs(who) = self.claim(interface)? {
                bail!(
                    "interface {interface} belongs to another data plane, {who}; nothing was touched: stop that one, or name \
                     other interfaces"
                );
            }
        }
        Ok(self)
    }

    /// Claims one more interface.
    ///
    /// # Errors
    /// If the system gives no socket.
    pub fn claim(&mut self, interface: &str) -> Result<Claimed> {
        if self.has(interface) {
            return Ok(Claimed::Ours);
        }
        let lock = match self.locks.as_ref().map(|locks| locks.take(interface)) {
            None => None,
            Some(Ok(Taken::Ours(lock))) => Some(lock),
            Some(Ok(Taken::Theirs(pid))) => {
                let who = pid.map_or_else(|| ON_ITS_WAY.to_owned(), |pid| described(pid, own_user()));
                return Ok(Claimed::Theirs(who));
            }
            Some(Err(error)) => {
                tracing::warn!(
                    interface,
                    %error,
                    "the interface is claimed by name alone, which any user could take first; let this process write to \
                     {LOCKS}"
                );
                None
            }
        };
        let socket = match name(interface, self.is_trusted)? {
            Name::Ours(socket) => Some(socket),
            Name::DataPlanes(who) => return Ok(Claimed::Theirs(who)),
            Name::Strangers(who) => {
                pass_over(interface, &who, lock.is_some());
                None
            }
            // With the lock it is known that no data plane of this host has it.
            Name::Unknown(who) if lock.is_some() => {
                pass_over(interface, who, true);
                None
            }
            Name::Unknown(who) => return Ok(Claimed::Theirs(who.to_owned())),
        };
        self.held.push(Held { interface: interface.to_owned(), socket, _lock: lock });
        Ok(Claimed::Ours)
    }

    /// Whether this interface is ours.
    #[must_use]
    pub fn has(&self, interface: &str) -> bool {
        self.held.iter().any(|held| held.interface == interface)
    }

    /// Takes those off who asked who is here. The kernel has answered them; nobody waits.
    pub fn take_askers_off(&self) {
        for socket in self.held.iter().filter_map(|held| held.socket.as_ref()) {
            while let Ok((asker, _)) = socket.accept() {
                drop(asker);
            }
        }
    }

    /// Gives one back.
    pub fn release(&mut self, interface: &str) {
        self.held.retain(|held| held.interface != interface);
    }
}

/// Says that somebody has the name who is no data plane.
fn pass_over(interface: &str, who: &str, has_lock: bool) {
    let known = if has_lock { "its lock is ours" } else { "and no lock says whether a data plane is here" };
    tracing::warn!(
        "the name of the claim on interface {interface} was taken by a stranger, {who}: going on without it, {known}; look \
         into what that process is"
    );
}

/// A data plane runs as root; tests of it as whoever they are.
fn may_be_data_plane(uid: u32) -> bool {
    uid == 0 || uid == own_user()
}

fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Takes the name of an interface, or says who has it.
fn name(interface: &str, is_trusted: fn(u32) -> bool) -> Result<Name> {
    let name = format!("jvpn-dataplane/interface/{interface}");
    let address = UnixAddr::new_abstract(name.as_bytes()).context("name of a claim")?;
    // Who was there may end between the two calls: then there is nobody to be named, and the next attempt succeeds.
    for _ in 0..3 {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let own = socket(AddressFamily::Unix, SockType::Stream, flags, None).context("socket of a claim")?;
        match bind(own.as_raw_fd(), &address) {
            Ok(()) => {
                listen(&own, Backlog::new(ASKED_MOST).context("backlog")?).context("socket of a claim")?;
                return Ok(Name::Ours(UnixListener::from(own)));
            }
            Err(nix::Error::EADDRINUSE) => {}
            Err(error) => return Err(error).context("socket of a claim"),
        }
        match connect(own.as_raw_fd(), &address) {
            Ok(()) => return Ok(holder(&own, is_trusted)),
            // Too many have asked already.
            Err(nix::Error::EAGAIN) => return Ok(Name::Unknown("which does not say who it is")),
            Err(_) => {}
        }
    }
    Ok(Name::Unknown(ON_ITS_WAY))
}

/// The process at the other end, as the kernel names it: it was noted when that process began to listen.
fn holder(socket: &OwnedFd, is_trusted: fn(u32) -> bool) -> Name {
    let Ok(peer) = getsockopt(socket, sockopt::PeerCredentials) else {
        return Name::Unknown("which the kernel does not name");
    };
    let who = described(peer.pid(), peer.uid());
    if is_trusted(peer.uid()) { Name::DataPlanes(who) } else { Name::Strangers(who) }
}

fn described(pid: i32, uid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = command
        .split(|octet| *octet == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    format!("process {pid} of user {uid} ('{}')", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;
    use tempfile::TempDir;

    /// A place for locks, and one where there can be none.
    fn places() -> (TempDir, [std::path::PathBuf; 2]) {
        let home = tempfile::tempdir().unwrap();
        let (locks, file) = (home.path().join("claims"), home.path().join("file"));
        fs::write(&file, "").unwrap();
        (home, [locks, file.join("claims")])
    }

    /// R0.5: the second one is refused and told who is there; with the first one the claim goes. With locks and without.
    /// Names of this test alone, since claims are the namespace's.
    #[test]
    fn r0_5_an_interface_is_claimed_once_and_its_owner_named() {
        let (_home, [locks, nowhere]) = places();
        for (dir, asked) in [(&locks, 10), (&nowhere, 1_500)] {
            let mine = format!("t{}", std::process::id());
            let other = format!("u{}", std::process::id());
            let first = Claims::take(dir, [mine.as_str()]).unwrap();
            for n in 0..asked {
                if n == 1_000 {
                    first.take_askers_off();
                }
                let error = Claims::take(dir, [other.as_str(), mine.as_str()]).unwrap_err().to_string();
                // More often than the listener's queue is long: nobody waits, and who can be named is.
                assert!(error.contains(&mine), "{error}");
                let is_named = error.contains(&format!("process {}", std::process::id()));
                assert!(is_named || (500..1_000).contains(&n), "{n}: {error}");
            }
            // One that sees another /run, or none, finds the name.
            let elsewhere = Claims::take(&nowhere, [mine.as_str()]);
            assert!(elsewhere.is_err() && Claims::take(&locks, [mine.as_str()]).is_err());
            drop(first);
            let mut again = Claims::take(dir, [mine.as_str(), other.as_str()]).unwrap();
            assert_eq!(again.claim(&mine).unwrap(), Claimed::Ours, "twice by one process is once");
            again.release(&mine);
            assert!(!again.has(&mine) && again.has(&other));
            assert!(Claims::take(dir, [mine.as_str()]).is_ok(), "given back");
        }
    }

    #[test]
    fn the_owner_is_named_by_its_process() {
        let (_home, [locks, _]) = places();
        let mine = format!("v{}", std::process::id());
        let _first = Claims::take(&locks, [mine.as_str()]).unwrap();
        let error = Claims::take(&locks, [mine.as_str()]).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} of user {}", std::process::id(), own_user())), "{error}");
    }

    /// R0.5: who has the name of a claim and is no data plane keeps nobody from starting, whether it listens, has its queue
    /// full, or does not listen at all; and a second data plane is still refused.
    #[test]
    fn r0_5_a_strangers_claim_keeps_nobody_out() {
        let (_home, [locks, nowhere]) = places();
        let strangers = |dir: &Path| Claims::none(dir, |_uid| false);
        let name = |interface: &str| format!("jvpn-dataplane/interface/{interface}");
        let listens = format!("w{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name(&listens)).unwrap();
        let _stranger = UnixListener::bind_addr(&address).unwrap();
        let is_mute = format!("x{}", std::process::id());
        let mute = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(mute.as_raw_fd(), &UnixAddr::new_abstract(name(&is_mute).as_bytes()).unwrap()).unwrap();
        let is_full = format!("y{}", std::process::id());
        let address = UnixAddr::new_abstract(name(&is_full).as_bytes()).unwrap();
        let full = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(full.as_raw_fd(), &address).unwrap();
        listen(&full, Backlog::new(0).unwrap()).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let askers = [(), ()].map(|()| {
            let asker = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
            (connect(asker.as_raw_fd(), &address), asker)
        });
        assert_eq!(askers[1].0, Err(nix::Error::EAGAIN), "its queue is full");

        let all = [listens.as_str(), is_mute.as_str(), is_full.as_str()];
        let first = strangers(&locks).with(all).unwrap();
        for interface in all {
            let error = strangers(&locks).with([interface]).unwrap_err().to_string();
            assert!(error.contains(&format!("process {}", std::process::id())), "{interface}: {error}");
        }
        drop(first);
        assert!(strangers(&locks).with(all).is_ok(), "nothing of it is left");
        // Without locks a stranger that is known as one is passed over, too.
        assert!(strangers(&nowhere).with([listens.as_str()]).is_ok());
        assert!(
            strangers(&nowhere).with([is_mute.as_str()]).is_err(),
            "it might be a data plane that starts"
        );
        // Whoever may be a data plane is believed, with locks or without: it may see another /run.
        assert!(Claims::take(&locks, [listens.as_str()]).is_err());
    }
}
