//! Claims on interfaces. A program of their own, in which nothing forks: between a fork and the new program a child has all
//! descriptors, and what was just given back is still held.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use jvpn_dataplane::claim::{Claimed, Claims};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
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
    assert!(
        error.contains(&format!("process {} of user {}", std::process::id(), nix::unistd::geteuid())),
        "{error}"
    );
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
    assert!(strangers(&nowhere).with([is_mute.as_str()]).is_err(), "it might be a data plane that starts");
    // Whoever may be a data plane is believed, with locks or without: it may see another /run.
    assert!(Claims::take(&locks, [listens.as_str()]).is_err());
}
