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
