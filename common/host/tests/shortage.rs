//! A status socket of a process that is out of descriptors. In a program of its own: the limit is everybody's.

use jvpn_host::status::{StatusListener, query};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

fn is_readable(listener: &StatusListener) -> bool {
    let mut fds = [PollFd::new(listener.listener().as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
}

/// R1.8: whoever asks while there is no descriptor is sent away, so that the loop does not turn for nothing; once there are
/// some, the next is answered.
#[test]
fn r1_8_without_descriptors_nobody_keeps_the_socket_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64.min(hard), hard).unwrap();
    let served = StatusListener::bind(&path, 0o600).unwrap();
    let mut clients: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!held.is_empty() && held.len() < 64);
    // What cannot be answered is not asked either.
    for left in (0..3).rev() {
        assert!(is_readable(&served));
        served.serve_waiting(|request| panic!("{request} was answered without a descriptor"));
        assert_eq!(is_readable(&served), left > 0);
    }
    for client in &mut clients {
        // Written into the void, if at all: the other end is closed.
        let _sent = client.write(b"status\n");
        assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0, "sent away");
    }
    drop(held);
    let asker = std::thread::spawn(move || query(&path, "status"));
    while !asker.is_finished() {
        served.serve_waiting(|request| serde_json::json!({ "asked": request }));
        std::thread::yield_now();
    }
    assert_eq!(asker.join().unwrap().unwrap()["asked"], "status");
}
