//! Who asks the agent something while it starts: a program of the host may take long then, and the loop that answers has not
//! begun. A wish to end is heeded at once; who asks how it is waits until there is an answer.

use super::unknown;
use crate::config::Config;
use crate::host;
use jvpn_host::status::{Asker, StatusListener};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Most who wait for the status: nobody asks faster than he gets answers.
const CURIOUS_MAX: usize = 16;

/// Who waits for an answer.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// For the status document.
    pub(super) curious: Vec<Asker>,
    /// For the end.
    pub(super) ending: Vec<Asker>,
}

/// What a waiting client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Status,
    Down,
}

/// Does what takes long at a start, and listens meanwhile. `start` gets what is readable once somebody wants the agent to end.
///
/// # Errors
/// If the system gives no thread or sockets.
pub(super) fn listening<T>(
    status: &StatusListener,
    start: impl FnOnce(BorrowedFd<'_>) -> T,
) -> io::Result<(T, Waiting)> {
    let (wish, wished) = UnixStream::pair()?;
    let (over, starting) = UnixStream::pair()?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("starting".to_owned());
        let listener = thread.spawn_scoped(scope, || listen(status, &starting, &wish))?;
        let started = start(wished.as_fd());
        drop(over);
        let waiting = listener.join().map_err(|_| io::Error::other("the thread 'starting' has panicked"))?;
        Ok((started, waiting))
    })
}

/// Until the other end of `starting` is gone.
fn listen(status: &StatusListener, starting: &UnixStream, mut wish: &UnixStream) -> Waiting {
    let mut waiting = Waiting::default();
    loop {
        let listener = status.listener().as_fd();
        let mut fds = [listener, starting.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "nobody is heard before the start is done");
                return waiting;
            }
        }
        let [is_asked, is_over] = fds.map(|fd| fd.any().unwrap_or(false));
        if is_over {
            return waiting;
        }
        if is_asked && waiting.hear(status) {
            tracing::info!("asked to end over the status socket");
            if let Err(error) = wish.write_all(&[1]) {
                tracing::debug!(%error, "the start is done first");
            }
        }
    }
}

impl Waiting {
    /// Takes those off who wait in the socket; whether one of them wants the agent to end, as the first to do so.
    fn hear(&mut self, status: &StatusListener) -> bool {
        let was_asked = !self.ending.is_empty();
        let mut kept = Vec::new();
        let askers = status.serve_or_keep(|request| match request {
            "status" if self.curious.len() + kept.len() < CURIOUS_MAX => {
                kept.push(Request::Status);
                None
            }
            "status" => Some(json!({ "error": "the agent starts, and many have asked already" })),
            "down" => {
                kept.push(Request::Down);
                None
            }
            other => Some(unknown(other)),
        });
        for (request, asker) in kept.into_iter().zip(askers) {
            match request {
                Request::Status => self.curious.push(asker),
                Request::Down => self.ending.push(asker),
            }
        }
        !was_asked && !self.ending.is_empty()
    }

    /// There is no start. Who asked for the end is told so when nothing is left of agents before either, and nobody serves
    /// the socket.
    pub(super) fn give_up(self, status: StatusListener, config: &Config) {
        drop(self.curious);
        if self.ending.is_empty() {
            return;
        }
        let document = match host::undo(&config.status_socket, Some(config)) {
            Ok(_) => json!({ "ok": true, "message": "ended before the start was done" }),
            Err(left) => json!({ "ok": false, "left": [left] }),
        };
        drop(status);
        answer(self.ending, &document);
    }
}

/// Answers all of them; who has gone is none's loss.
pub(super) fn answer(askers: Vec<Asker>, document: &Value) {
    for asker in askers {
        if let Err(error) = asker.answer(document) {
            tracing::debug!(%error, "who asked is gone");
        }
    }
}
