//! A thread between the control plane's loop and the store: the loop never waits for a disk, and whatever waits for it
//! shares one commit.

use super::{Change, SessionStore, StoreError, Version};
use jvpn_session::messages::SessionId;
use jvpn_tables::Doorbell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Changes that share one commit at most.
const BATCH_MAX: usize = 256;

/// A change that was asked for, with the name by which its outcome is told.
#[derive(Debug)]
pub struct Request {
    /// Its name.
    pub ticket: u64,
    /// What is to change.
    pub change: Change,
}

/// What became of a change.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub ticket: u64,
    /// The session that it was about.
    pub id: SessionId,
    /// The new version, or why there is none.
    pub result: Result<Version, StoreError>,
}

/// The thread and its two queues.
#[derive(Debug)]
pub struct StoreWriter {
    requests: Option<Sender<Request>>,
    outcomes: Receiver<Outcome>,
    bell: Doorbell,
    thread: Option<JoinHandle<()>>,
}

impl StoreWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread or descriptor left.
    pub fn start(store: Box<dyn SessionStore>) -> io::Result<Self> {
        let (requests, waiting) = channel();
        let (done, outcomes) = channel();
        let bell = Doorbell::new()?;
        let rung = bell.try_clone()?;
        let thread = std::thread::Builder::new()
            .name("jvpn-store".into())
            .spawn(move || write(store, &waiting, &done, &rung))?;
        Ok(Self { requests: Some(requests), outcomes, bell, thread: Some(thread) })
    }

    /// Asks for a change. Requests about one session are carried out in order.
    pub fn send(&self, request: Request) {
        let lost = self.requests.as_ref().is_none_or(|requests| requests.send(request).is_err());
        if lost {
            // A thread that panicked has aborted its process in every build that is shipped.
            tracing::error!("the session store's thread is gone");
        }
    }

    /// Becomes readable when there are outcomes.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The outcomes so far.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome> + '_ {
        let _rang = self.bell.silence();
        self.outcomes.try_iter()
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        // What was asked for is still written.
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A change whose outcome is not known, or that meets a record which changed meanwhile, has happened if exactly what it
/// was to make is there.
fn read_back(store: &dyn SessionStore, change: &Change, error: StoreError) -> Result<Version, StoreError> {
    let Change::Put { id, session, .. } = change else { return Err(error) };
    match store.get(*id) {
        Ok(Some(found)) if found.session.same_as(session) => Ok(found.version),
        Ok(_) | Err(_) => Err(error),
    }
}

fn write(
    mut store: Box<dyn SessionStore>,
    waiting: &Receiver<Request>,
    done: &Sender<Outcome>,
    bell: &Doorbell,
) {
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Request> =
            std::iter::once(first).chain(waiting.try_iter().take(BATCH_MAX - 1)).collect();
        let (tickets, changes): (Vec<u64>, Vec<Change>) =
            batch.into_iter().map(|request| (request.ticket, request.change)).unzip();
        let results = store.apply(&changes);
        for ((ticket, change), result) in tickets.into_iter().zip(&changes).zip(results) {
            let result = result.or_else(|error| read_back(&*store, change, error));
            let (Change::Put { id, .. } | Change::Delete { id, .. }) = change;
            if let Err(error) = &result {
                tracing::error!(session = %id, %error, "session store");
            }
            // Nobody to tell: the process ends.
            let _told = done.send(Outcome { ticket, id: *id, result });
        }
        bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Expected, Scan, StoredSession, Versioned};
    use jvpn_abi::wire::Suite;
    use jvpn_crypto::keys::PublicKey;
    use jvpn_crypto::schedule::Root;

    /// A disk that loses the answer: nobody who asked knows whether it was written.
    struct Mute {
        writes: bool,
        record: Option<Versioned>,
    }

    impl SessionStore for Mute {
        fn get(&self, _: SessionId) -> Result<Option<Versioned>, StoreError> {
            Ok(self.record.clone())
        }
        fn apply(&mut self, changes: &[Change]) -> Vec<Result<Version, StoreError>> {
            for change in changes {
                if let (Change::Put { session, .. }, true) = (change, self.writes) {
                    self.record = Some(Versioned { version: Version(2), session: (**session).clone() });
                }
            }
            changes.iter().map(|_| Err(unknown())).collect()
        }
        fn scan(&self) -> Result<Scan, StoreError> {
            Ok(Scan::default())
        }
    }

    fn unknown() -> StoreError {
        StoreError::Unavailable { place: "here".into(), problem: "no answer".into() }
    }

    fn stored(term: u32) -> StoredSession {
        StoredSession {
            peer: PublicKey([1; 32]),
            root: Root::from_octets([2; 32]),
            term,
            suite: Suite::Aes256Gcm,
            addresses: Vec::new(),
            handshake_timestamp_ns: 3,
            born_unix_ms: 4,
        }
    }

    fn outcome(store: Mute) -> Result<Version, StoreError> {
        let writer = StoreWriter::start(Box::new(store)).unwrap();
        let (id, expected) = (SessionId([9; 16]), Expected::Version(Version(1)));
        let change = Change::Put { id, expected, session: Box::new(stored(5)) };
        writer.send(Request { ticket: 1, change });
        loop {
            if let Some(outcome) = writer.outcomes().next() {
                return outcome.result;
            }
            let mut fds = [nix::poll::PollFd::new(writer.bell(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(5_000u16)).unwrap();
        }
    }

    /// R7.3: a write whose outcome is not known has happened if exactly it is there, and not otherwise.
    #[test]
    fn r7_3_an_unknown_outcome_is_read_back() {
        assert_eq!(outcome(Mute { writes: true, record: None }), Ok(Version(2)));
        assert_eq!(outcome(Mute { writes: false, record: None }), Err(unknown()));
        let older = Versioned { version: Version(1), session: stored(4) };
        assert_eq!(outcome(Mute { writes: false, record: Some(older) }), Err(unknown()));
    }
}
