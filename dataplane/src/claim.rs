//! One data plane per interface: who comes second is refused before it has touched anything, and told who is there.
//!
//! A claim is a listening socket in the abstract namespace, which belongs to the network namespace as interfaces do. The
//! kernel removes it with its process, however that ends; nothing lies about.

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket, sockopt,
};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// So many may have asked who is here since the owner last looked; those after them are refused without a name.
const ASKED_MOST: i32 = 512;

/// Interfaces that are this process's until this value goes.
#[derive(Debug, Default)]
pub struct Claims(Vec<(String, UnixListener)>);

/// What came of claiming one more.
#[derive(Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is ours.
    Ours,
    /// It is another process's, of which this is known.
    Theirs(String),
}

impl Claims {
    /// Claims all of `interfaces`.
    ///
    /// # Errors
    /// If another data plane has one of them, which is named; then none is claimed.
    pub fn take<'a>(interfaces: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut claims = Self::default();
        for interface in interfaces {
            if let Claimed::Theirs(who) = claims.claim(interface)? {
                bail!(
                    "interface {interface} belongs to another data plane, {who}; nothing was touched: stop that one, or name \
                     other interfaces"
                );
            }
        }
        Ok(claims)
    }

    /// Claims one more interface.
    ///
    /// # Errors
    /// If the system gives no socket.
    pub fn claim(&mut self, interface: &str) -> Result<Claimed> {
        if self.has(interface) {
            return Ok(Claimed::Ours);
        }
        let name = format!("jvpn-dataplane/interface/{interface}");
        let address = UnixAddr::new_abstract(name.as_bytes()).context("name of a claim")?;
        // Who was there may end between the two calls: then there is nobody to be named, and the next attempt succeeds.
        for _ in 0..3 {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let own =
                socket(AddressFamily::Unix, SockType::Stream, flags, None).context("socket of a claim")?;
            match bind(own.as_raw_fd(), &address) {
                Ok(()) => {
                    listen(&own, Backlog::new(ASKED_MOST).context("backlog")?)
                        .context("socket of a claim")?;
                    self.0.push((interface.to_owned(), UnixListener::from(own)));
                    return Ok(Claimed::Ours);
                }
                Err(nix::Error::EADDRINUSE) => {}
                Err(error) => return Err(error).context("socket of a claim"),
            }
            match connect(own.as_raw_fd(), &address) {
                Ok(()) => return Ok(Claimed::Theirs(peer(&own))),
                // Too many have asked already.
                Err(nix::Error::EAGAIN) => {
                    return Ok(Claimed::Theirs("which does not say who it is".to_owned()));
                }
                Err(_) => {}
            }
        }
        Ok(Claimed::Theirs("which is starting or ending at this moment".to_owned()))
    }

    /// Whether this interface is ours.
    #[must_use]
    pub fn has(&self, interface: &str) -> bool {
        self.0.iter().any(|(name, _)| name == interface)
    }

    /// Takes those off who asked who is here. The kernel has answered them; nobody waits.
    pub fn take_askers_off(&self) {
        for (_, socket) in &self.0 {
            while let Ok((asker, _)) = socket.accept() {
                drop(asker);
            }
        }
    }

    /// Gives one back.
    pub fn release(&mut self, interface: &str) {
        self.0.retain(|(name, _)| name != interface);
    }
}

/// The process at the other end, as the kernel names it: it was noted when that process began to listen.
fn peer(socket: &OwnedFd) -> String {
    let Ok(who) = getsockopt(socket, sockopt::PeerCredentials) else {
        return "which the kernel does not name".to_owned();
    };
    let command = fs::read(format!("/proc/{}/cmdline", who.pid())).unwrap_or_default();
    let words: Vec<_> = command
        .split(|octet| *octet == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    format!("process {} of user {} ('{}')", who.pid(), who.uid(), words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.5: the second one is refused and told who is there; with the first one the claim goes. Names of this test alone,
    /// since claims are the namespace's.
    #[test]
    fn r0_5_an_interface_is_claimed_once_and_its_owner_named() {
        let mine = format!("t{}", std::process::id());
        let other = format!("u{}", std::process::id());
        let first = Claims::take([mine.as_str()]).unwrap();
        for n in 0..1_500 {
            if n == 1_000 {
                first.take_askers_off();
            }
            let error = Claims::take([other.as_str(), mine.as_str()]).unwrap_err().to_string();
            // More often than the listener's queue is long: nobody waits, and who can be named is.
            assert!(error.contains(&mine), "{error}");
            let is_named = error.contains(&format!("process {}", std::process::id()));
            assert!(is_named || (500..1_000).contains(&n), "{n}: {error}");
        }
        let error = format!("{:?}", Claims::default().claim(&mine).unwrap());
        assert!(error.contains("Theirs"), "{error}");
        drop(first);
        let mut again = Claims::take([mine.as_str(), other.as_str()]).unwrap();
        assert_eq!(again.claim(&mine).unwrap(), Claimed::Ours, "twice by one process is once");
        again.release(&mine);
        assert!(!again.has(&mine) && again.has(&other));
    }

    #[test]
    fn the_owner_is_named_by_its_process() {
        let mine = format!("v{}", std::process::id());
        let _first = Claims::take([mine.as_str()]).unwrap();
        let error = Claims::take([mine.as_str()]).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }
}
