//! Both ends of the handover in one process.

use super::*;
use crate::doorbell::Doorbell;

fn pair() -> (Connection, Connection, PathBuf) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let unique = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("jvpn-handover-{}-{unique}", std::process::id()));
    let listener = HandoverListener::bind(&path, nix::unistd::getuid().as_raw()).unwrap();
    listener.listen().unwrap();
    let a = Connection::connect(&path).unwrap();
    let (b, who) = loop {
        if let Some(accepted) = listener.accept().unwrap() {
            break accepted;
        }
    };
    assert_eq!(who.pid(), std::process::id() as i32);
    (a, b, path)
}

#[test]
fn descriptors_arrive_and_ring() {
    let (control, data, _) = pair();
    let bell = Doorbell::new().unwrap();
    control.send_hello(&Hello::new(true, false, 4), &[bell.as_fd()]).unwrap();
    let (hello, mut fds) = data.receive_hello().unwrap();
    assert_eq!((hello.context_slots, fds.len()), (4, 1));
    Doorbell::from_fd(fds.remove(0)).ring();
    assert!(bell.silence());
    drop(control);
    assert!(matches!(data.receive_hello(), Err(HandoverError::Closed)));
}

/// A listener, not yet listening, in a folder of its own.
fn bound() -> (tempfile::TempDir, PathBuf, HandoverListener) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let listener = HandoverListener::bind(&path, nix::unistd::getuid().as_raw()).unwrap();
    (folder, path, listener)
}

/// R7.3: a data plane that is not ready keeps no greeting for later, and one that does not accept blocks nobody: whoever
/// comes when enough wait is told so at once. Before a start that is as good as somebody listening.
#[test]
fn r7_3_whoever_connects_never_waits() {
    let (_folder, path, listener) = bound();
    let refused = Connection::connect(&path).unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");
    listener.listen().unwrap();
    let mut waiting = Vec::new();
    let full = loop {
        match Connection::connect(&path) {
            Ok(connection) if waiting.len() < 100 => waiting.push(connection),
            Ok(_) => panic!("the backlog has no end"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&full, HandoverError::System { step: "connect", cause, .. }
        if cause.kind() == io::ErrorKind::WouldBlock),
        "{full}"
    );
    assert!(answers(&path));
    let first = waiting.swap_remove(0);
    assert!(first.try_receive_welcome().unwrap().is_none(), "nobody has answered yet");
    drop(listener);
    assert!(first.try_receive_welcome().is_err());
}

/// R7.3: whoever has lost its path to another does not listen where nobody finds it, and leaves the other's socket alone.
#[test]
fn r7_3_a_socket_that_another_has_taken_is_left_alone() {
    let (_folder, path, first) = bound();
    let second = HandoverListener::bind(&path, nix::unistd::getuid().as_raw()).unwrap();
    assert!(first.listen().unwrap_err().to_string().contains("another data plane"));
    second.listen().unwrap();
    drop(first);
    Connection::connect(&path).unwrap();
}

/// R7.3: a greeting of somebody who has gone meanwhile is told from one that waits for its answer, before it is taken
/// and after.
#[test]
fn r7_3_a_hello_whose_sender_is_gone_is_known() {
    let (_folder, path, listener) = bound();
    listener.listen().unwrap();
    let greet = || {
        let connection = Connection::connect(&path).unwrap();
        connection.send_hello(&Hello::new(false, false, 0), &[]).unwrap();
        connection
    };
    drop(greet());
    let live = greet();
    let (stale, _) = listener.accept().unwrap().unwrap();
    assert!(stale.is_hung_up());
    let (accepted, _) = listener.accept().unwrap().unwrap();
    assert!(!accepted.is_hung_up());
    accepted.receive_hello().unwrap();
    assert!(!accepted.is_hung_up());
    drop(live);
    assert!(accepted.is_hung_up());
}

#[test]
fn another_version_is_named_and_garbage_refused() {
    let (control, data, _) = pair();
    let mut hello = Hello::new(false, false, 0);
    hello.version = 99;
    control.send_hello(&hello, &[]).unwrap();
    let text = data.receive_hello().unwrap_err().to_string();
    assert!(text.contains("99") && text.contains(&CONTRACT_VERSION.to_string()), "{text}");
    hello.magic = 0;
    control.send_hello(&hello, &[]).unwrap();
    assert!(matches!(data.receive_hello(), Err(HandoverError::Malformed(_))));
    control.send_hello(&Hello::new(true, true, 0), &[]).unwrap();
    assert!(matches!(data.receive_hello(), Err(HandoverError::Malformed(_))), "descriptors are missing");
}

/// R1.8: descriptors that nobody announced are closed with the refusal, however many there are: none is left behind for
/// each greeting.
#[test]
fn r1_8_descriptors_of_a_refused_message_are_closed() {
    for count in [1, 96, 97, SCM_MAX_FD] {
        let (control, data, _) = pair();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        control.send_hello(&Hello::new(false, false, 0), &vec![writer.as_fd(); count]).unwrap();
        drop(writer);
        let refused = data.receive_hello().unwrap_err();
        assert!(refused.to_string().contains("number of descriptors"), "{count}: {refused}");
        // The end of the pipe is seen when the last copy of its other end is closed.
        assert_eq!(nix::unistd::read(&reader, &mut [0; 1]), Ok(0), "{count}");
    }
}

/// R7.3: what passes by itself is told from what does not.
#[test]
fn r7_3_a_shortage_is_known() {
    let of = |number| HandoverError::System {
        path: PathBuf::from("/run/jvpn/handover.sock"),
        step: "accept",
        cause: io::Error::from_raw_os_error(number),
    };
    assert!([libc::EMFILE, libc::ENFILE, libc::ENOMEM].into_iter().all(|number| of(number).is_shortage()));
    assert!([libc::EBADF, libc::EINVAL].into_iter().all(|number| !of(number).is_shortage()));
    assert!(!HandoverError::Closed.is_shortage());
}
