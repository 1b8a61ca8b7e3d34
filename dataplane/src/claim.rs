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

    /// No claims yet. A process of a user that is not `is_trusted` to be a data plane is passed over as a stranger.
    pub fn none(dir: &Path, is_trusted: fn(u32) -> bool) -> Self {
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

    /// Claims all of `interfaces`.
    ///
    /// # Errors
    /// If another data plane has one of them, which is named; then none is claimed.
    pub fn with<'a>(mut self, interfaces: impl IntoIterator<Item = &'a str>) -> Result<Self> {
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
