//! The log of a run: what the processes write as JSON lines and what the demo does, in one order, as it
//! happens.
//!
//! Lines are read when inotify says that a file grew; waits are woken by the line that they wait for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use jvpn_rig::Interrupt;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Value, json};

/// How long a wait goes on before it looks at the processes and the interrupt flag.
const SLICE: Duration = Duration::from_millis(50);

/// Who wrote an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `jvpn`, in its events file.
    Client,
    /// `jvpn-controlplane`, in its audit file.
    ControlPlane,
    /// The demo itself.
    Demo,
}

impl Source {
    /// As it stands in `events.jsonl`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ControlPlane => "controlplane",
            Self::Demo => "demo",
        }
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When it happened, Unix ms, as its writer says.
    pub at_ms: i64,
    /// Its writer.
    pub source: Source,
    /// What he wrote.
    pub record: Value,
}

impl Event {
    /// A text field of the record; empty if it is not there.
    #[must_use]
    pub fn text(&self, field: &str) -> &str {
        self.record.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of the record.
    #[must_use]
    pub fn number(&self, field: &str) -> Option<u64> {
        self.record.get(field).and_then(Value::as_u64)
    }

    /// Whether it is the control plane's event of this type.
    #[must_use]
    pub fn is_audit(&self, event_type: &str) -> bool {
        self.source == Source::ControlPlane && self.text("event_type") == event_type
    }
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(usize);

/// Called with each event as it comes, in the order of the log.
pub type Listener = Box<dyn Fn(&Event) + Send + Sync>;

struct Shared {
    events: Mutex<Vec<Event>>,
    grown: Condvar,
    listener: Listener,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Event) {
        let mut events = self.lock();
        (self.listener)(&event);
        events.push(event);
        self.grown.notify_all();
    }
}

/// The log. Reading ends with its value.
pub struct EventLog {
    shared: Arc<Shared>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").field("events", &self.shared.lock().len()).finish_non_exhaustive()
    }
}

impl EventLog {
    /// Follows files in directories that exist; the files themselves may come later.
    ///
    /// # Errors
    /// A directory cannot be watched.
    pub fn follow(files: &[(Source, PathBuf)], listener: Listener) -> Result<Self> {
        let shared = Arc::new(Shared { events: Mutex::default(), grown: Condvar::new(), listener });
        let stop = Arc::new(EventFd::new().context("cannot make an eventfd")?);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("no inotify")?;
        for (_, path) in files {
            let dir = path.parent().context("a file to follow has no directory")?;
            inotify
                .add_watch(dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)
                .with_context(|| format!("cannot watch {}", dir.display()))?;
        }
        let tails: Vec<_> = files.iter().map(|(source, path)| Tail::new(*source, path)).collect();
        let thread = std::thread::Builder::new()
            .name("event-log".to_owned())
            .spawn({
                let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
                move || follow(&inotify, &stop, tails, &shared)
            })
            .context("cannot start a thread")?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// Adds an event of the demo's own.
    pub fn note(&self, what: &str, fields: Value) {
        let mut record = json!({ "ts_ms": unix_ms(), "event_type": what });
        if let (Value::Object(record), Value::Object(fields)) = (&mut record, fields) {
            record.extend(fields);
        }
        self.shared.push(Event { at_ms: unix_ms(), source: Source::Demo, record });
    }

    /// The end of the log.
    #[must_use]
    pub fn end(&self) -> Cursor {
        Cursor(self.shared.lock().len())
    }

    /// What came since.
    #[must_use]
    pub fn since(&self, cursor: Cursor) -> Vec<Event> {
        self.shared.lock().get(cursor.0..).unwrap_or_default().to_vec()
    }

    /// Waits for the first event after `cursor` that `wanted` accepts.
    ///
    /// # Errors
    /// None within `patience`; interrupted; or what `health` finds.
    pub fn wait_for(
        &self,
        what: &str,
        cursor: Cursor,
        patience: Duration,
        watch: &mut Watch<'_>,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        let deadline = Instant::now() + patience;
        let mut seen = cursor.0;
        loop {
            let events = self.shared.lock();
            if let Some(event) = events.get(seen..).unwrap_or_default().iter().find(|event| wanted(event)) {
                return Ok(event.clone());
            }
            seen = events.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{what}: not within {:.1} s", patience.as_secs_f64());
            }
            drop(self.shared.grown.wait_timeout(events, left.min(SLICE)));
            watch.interrupt.check()?;
            (watch.health)()?;
        }
    }

    /// Writes all events, ordered by time.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let mut events = self.shared.lock().clone();
        events.sort_by_key(|event| event.at_ms);
        let lines = events.iter().fold(String::new(), |mut lines, event| {
            let mut record = event.record.clone();
            if let Value::Object(record) = &mut record {
                record.insert("source".to_owned(), json!(event.source.name()));
            }
            lines.push_str(&record.to_string());
            lines.push('\n');
            lines
        });
        let write = || File::create(path)?.write_all(lines.as_bytes());
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // Fails only if the eventfd's counter is full, and then it is readable just the same.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What else a wait looks at.
pub struct Watch<'a> {
    /// Ctrl-C.
    pub interrupt: &'a Interrupt,
    /// Whether the processes live.
    pub health: &'a mut dyn FnMut() -> Result<()>,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("interrupt", self.interrupt).finish_non_exhaustive()
    }
}

/// Now, Unix ms.
#[must_use]
pub fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn follow(inotify: &Inotify, stop: &EventFd, mut tails: Vec<Tail>, shared: &Shared) -> Result<()> {
    loop {
        for tail in &mut tails {
            tail.read_new(shared);
        }
        let mut fds =
            [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot poll"),
        }
        if fds[1].any() == Some(true) {
            tails.iter_mut().for_each(|tail| tail.read_new(shared));
            return Ok(());
        }
        // Which file it was does not matter: all are read. Nothing to read is no error.
        let _ = inotify.read_events();
    }
}

/// The unread part of a file of JSON lines.
struct Tail {
    source: Source,
    path: PathBuf,
    file: Option<File>,
    pending: Vec<u8>,
}

impl Tail {
    fn new(source: Source, path: &Path) -> Self {
        Self { source, path: path.to_owned(), file: None, pending: Vec::new() }
    }

    fn read_new(&mut self, shared: &Shared) {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return };
        // What cannot be read now is read at the next event.
        let _ = file.read_to_end(&mut self.pending);
        while let Some(end) = self.pending.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            let record =
                serde_json::from_str(&text).unwrap_or_else(|_| json!({ "garbled": text.trim_end() }));
            let at_ms = record.get("ts_ms").and_then(Value::as_i64).unwrap_or_else(unix_ms);
            shared.push(Event { at_ms, source: self.source, record });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn healthy() -> Result<()> {
        Ok(())
    }

    #[test]
    fn lines_wake_their_waiter_and_half_lines_do_not() {
        let dir = std::env::temp_dir().join(format!("jvpn-bench-events-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("audit.jsonl");
        let log = EventLog::follow(&[(Source::ControlPlane, path.clone())], Box::new(|_| {})).unwrap();
        let interrupt = Interrupt::default();
        let mut health = healthy;
        let mut watch = Watch { interrupt: &interrupt, health: &mut health };
        let mut file = File::create(&path).unwrap();
        file.write_all(b"{\"ts_ms\":5,\"event_type\":\"A\"}\n{\"ts_ms\":4,").unwrap();
        let first = log.wait_for("A", Cursor::default(), PATIENCE, &mut watch, |e| e.is_audit("A")).unwrap();
        assert_eq!(first.at_ms, 5);
        let cursor = log.end();
        assert_eq!(cursor, Cursor(1));
        file.write_all(b"\"event_type\":\"B\"}\nrubbish\n").unwrap();
        log.wait_for("B", cursor, PATIENCE, &mut watch, |e| e.is_audit("B")).unwrap();
        log.wait_for("rubbish", cursor, PATIENCE, &mut watch, |e| e.text("garbled") == "rubbish").unwrap();
        let short = Duration::from_millis(1);
        assert!(log.wait_for("A again", cursor, short, &mut watch, |e| e.is_audit("A")).is_err());

        log.write_to(&dir.join("merged.jsonl")).unwrap();
        let merged = std::fs::read_to_string(dir.join("merged.jsonl")).unwrap();
        let types: Vec<_> = merged.lines().take(2).map(|l| l.contains("\"B\"")).collect();
        assert_eq!(types, [true, false], "ordered by time: {merged}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_sick_process_ends_the_wait() {
        let log = EventLog::follow(&[], Box::new(|_| {})).unwrap();
        let interrupt = Interrupt::default();
        let mut health = || bail!("it is dead");
        let mut watch = Watch { interrupt: &interrupt, health: &mut health };
        let error = log.wait_for("x", Cursor::default(), PATIENCE, &mut watch, |_| false).unwrap_err();
        assert!(error.to_string().contains("it is dead"));
    }
}
