//! Status sockets: a client sends one line (a request), the server answers with one JSON document and closes.
//!
//! Requests are short words (`status`, `down`). Neither side trusts the other: sizes and times are bounded.

use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest request line, octets.
pub const MAX_REQUEST_OCTETS: usize = 1_024;
/// Clients answered before the caller's loop goes on with its real work.
const CLIENTS_PER_TURN: usize = 4;
/// How long a client may take for its request line.
const LINE_PATIENCE: Duration = Duration::from_millis(200);
/// Longest answer that a client reads, octets.
const MAX_ANSWER_OCTETS: u64 = 64 << 20;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a status question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens there.
    #[error("no process answers at {path}: {cause}; is it running, and is this its status_socket?")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The process took the request and gives no answer.
    #[error("the process at {path} has not answered for {} s; see its log", patience.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The answer is not JSON.
    #[error("the answer from {path} is not a JSON document: {message}")]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// A listening status socket; removed when dropped.
#[derive(Debug)]
pub struct StatusListener {
    listener: UnixListener,
    path: PathBuf,
    /// A descriptor held back for when there is no other.
    spare: Mutex<Option<File>>,
    /// Since the last client that was answered: one line for a shortage is enough.
    told: AtomicBool,
}

impl StatusListener {
    /// Listens at `path` with permission bits `mode`. A socket file that nobody serves any more is replaced.
    ///
    /// # Errors
    /// If another process serves it, or the directory is missing or not writable.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if UnixStream::connect(path).is_ok() {
            let message = format!("{} is served by another running process", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        remove_socket(path)?;
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        let spare = Mutex::new(spare());
        Ok(Self { listener, path: path.to_owned(), spare, told: AtomicBool::new(false) })
    }

    /// For the caller's poll loop.
    #[must_use]
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Answers every waiting client. `answer` gets the request line without its end.
    ///
    /// A client that does not send its whole line within 200 ms is dropped: it must not hold up the loop.
    pub fn serve_waiting(&self, mut answer: impl FnMut(&str) -> Value) {
        // Every client got its answer.
        let _nobody = self.serve_or_keep(|request| Some(answer(request)));
    }

    /// As [`Self::serve_waiting`]; clients to whom `answer` has nothing to say yet are given back, and wait.
    pub fn serve_or_keep(&self, mut answer: impl FnMut(&str) -> Option<Value>) -> Vec<Asker> {
        let mut kept = Vec::new();
        for _ in 0..CLIENTS_PER_TURN {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if is_over(&error) => break,
                Err(error) => {
                    self.turn_away(&error);
                    break;
                }
            };
            self.told.store(false, Ordering::Relaxed);
            match serve_one(stream, &mut answer) {
                Ok(asker) => kept.extend(asker),
                Err(error) => tracing::debug!(%error, "status client dropped"),
            }
        }
        kept
    }

    /// Who waits cannot be taken in, for want of descriptors as a rule. The socket would stay readable and the caller's loop
    /// turn for nothing, so he is taken in with the descriptor that was held back, and sent away.
    fn turn_away(&self, error: &io::Error) {
        let mut held = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        drop(held.take());
        let sent_away = self.listener.accept().is_ok();
        *held = spare();
        drop(held);
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, sent_away, path = %self.path.display(), "a status client cannot be answered");
        }
    }
}

/// Whether nobody waits any more, or another call takes the next one in.
fn is_over(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}

/// Any descriptor will do.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// A client that waits for its answer.
#[derive(Debug)]
pub struct Asker(UnixStream);

impl Asker {
    /// Answers.
    ///
    /// # Errors
    /// If the client does not take the answer.
    pub fn answer(self, document: &Value) -> io::Result<()> {
        self.0.set_nonblocking(false)?;
        self.0.set_write_timeout(Some(Duration::from_millis(500)))?;
        let mut octets = serde_json::to_vec(document)?;
        octets.push(b'\n');
        (&self.0).write_all(&octets)
    }
}

impl Drop for StatusListener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "status socket was already gone");
        }
    }
}

/// Removes what a dead process left at `path`, if it is a socket. Anything else was named by mistake and stays.
fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => {
            let message = format!("{} exists and is not a socket; name another path", path.display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn serve_one(
    stream: UnixStream,
    answer: &mut impl FnMut(&str) -> Option<Value>,
) -> io::Result<Option<Asker>> {
    let line = read_line(&stream)?;
    let asker = Asker(stream);
    match answer(line.trim()) {
        Some(document) => asker.answer(&document).map(|()| None),
        None => Ok(Some(asker)),
    }
}

/// The request line, whole within [`LINE_PATIENCE`]: a client that sends it octet by octet must not hold up the loop.
fn read_line(stream: &UnixStream) -> io::Result<String> {
    let start = Instant::now();
    let mut line = Vec::new();
    while line.len() < MAX_REQUEST_OCTETS && !line.contains(&b'\n') {
        let left = LINE_PATIENCE.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let mut part = [0; 256];
        let got = (&*stream).read(&mut part)?;
        if got == 0 {
            break;
        }
        line.extend_from_slice(part.get(..got).unwrap_or_default());
    }
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Asks the process that serves `path`.
///
/// # Errors
/// If nobody answers, or not with JSON.
pub fn query(path: &Path, request: &str) -> Result<Value, StatusError> {
    query_within(path, request, PATIENCE)
}

/// Asks the process that serves `path` for something that takes it a while.
///
/// # Errors
/// If nobody answers, not within `patience`, or not with JSON.
pub fn query_within(path: &Path, request: &str, patience: Duration) -> Result<Value, StatusError> {
    let unreachable = |cause: io::Error| {
        if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return StatusError::Silent { path: path.to_owned(), patience };
        }
        StatusError::Unreachable { path: path.to_owned(), cause }
    };
    let stream = UnixStream::connect(path).map_err(unreachable)?;
    stream.set_read_timeout(Some(patience)).map_err(unreachable)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(unreachable)?;
    (&stream).write_all(format!("{request}\n").as_bytes()).map_err(unreachable)?;
    let mut text = String::new();
    (&stream).take(MAX_ANSWER_OCTETS).read_to_string(&mut text).map_err(unreachable)?;
    serde_json::from_str(&text)
        .map_err(|error| StatusError::Garbled { path: path.to_owned(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that names something else than a socket is a mistake in the configuration: the file stays.
    #[test]
    fn no_other_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private.key");
        std::fs::write(&path, "precious").unwrap();
        assert!(StatusListener::bind(&path, 0o600).unwrap_err().to_string().contains("not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn question_and_answer_and_a_silent_client() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let served = StatusListener::bind(&path, 0o600).unwrap();
        assert!(StatusListener::bind(&path, 0o600).is_err(), "a served socket is not taken over");
        let _silent = UnixStream::connect(&path).unwrap();
        let dribbling = UnixStream::connect(&path).unwrap();
        std::thread::spawn(move || {
            while (&dribbling).write_all(b"s").is_ok() {
                std::thread::yield_now();
            }
        });
        let asker = std::thread::spawn({
            let path = path.clone();
            move || query(&path, "status")
        });
        let answer = loop {
            served.serve_waiting(|request| serde_json::json!({ "asked": request }));
            if asker.is_finished() {
                break asker.join().unwrap().unwrap();
            }
            std::thread::yield_now();
        };
        assert_eq!(answer["asked"], "status");
        drop(served);
        assert!(query(&path, "status").is_err());
    }
    /// R1.8: garbage, half lines, lines that are too long and a crowd of clients: each is answered or dropped in its time, and
    /// an honest client is answered among them.
    #[test]
    fn r1_8_garbage_and_crowds_hold_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let served = StatusListener::bind(&path, 0o600).unwrap();
        let long = [b'x'; 4 * MAX_REQUEST_OCTETS];
        let requests: [&[u8]; 7] = [b"\xff\xfe\n", b"half", b"", b"\n", &long, b"\0\x1b[2J\n", b"sta\xc3"];
        let mut crowd: Vec<UnixStream> = (0..96)
            .map(|n| {
                let stream = UnixStream::connect(&path).unwrap();
                // One that was dropped already cannot take it.
                let _sent = (&stream).write_all(requests[n % requests.len()]);
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                stream
            })
            .collect();
        let asker = std::thread::spawn({
            let path = path.clone();
            move || query(&path, "status")
        });
        let mut asked = Vec::new();
        while !asker.is_finished() {
            served.serve_waiting(|request| {
                asked.push(request.to_owned());
                serde_json::json!({ "asked": request })
            });
            std::thread::yield_now();
        }
        assert_eq!(asker.join().unwrap().unwrap()["asked"], "status");
        assert!(asked.iter().all(|request| request.len() <= MAX_REQUEST_OCTETS + 256), "a line without end");
        assert!(asked.iter().any(|request| request == "half"), "what is whole at its end is a request");
        for stream in &mut crowd {
            let mut answer = String::new();
            // Answered, or dropped: the end of the stream either way.
            let _read = stream.read_to_string(&mut answer);
            assert!(answer.is_empty() || serde_json::from_str::<Value>(&answer).is_ok(), "{answer}");
        }
    }

    /// Who is kept gets his answer when there is one; who gets none is told how long he waited.
    #[test]
    fn a_kept_client_gets_its_answer_later_or_waits_in_vain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let served = StatusListener::bind(&path, 0o600).unwrap();
        let ask = |patience| {
            let path = path.clone();
            std::thread::spawn(move || query_within(&path, "end", patience))
        };
        let keep = || loop {
            let mut kept = served.serve_or_keep(|_| None);
            if let Some(asker) = kept.pop() {
                break asker;
            }
            std::thread::yield_now();
        };
        let patient = ask(Duration::from_secs(60));
        keep().answer(&serde_json::json!({ "ok": true })).unwrap();
        assert_eq!(patient.join().unwrap().unwrap()["ok"], true);
        let hasty = ask(Duration::from_millis(20));
        let asker = keep();
        assert!(matches!(hasty.join().unwrap(), Err(StatusError::Silent { .. })));
        drop(asker);
    }
}
