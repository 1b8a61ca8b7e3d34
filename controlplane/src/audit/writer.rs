//! The way from the engine to the sink: a bounded channel that never blocks the sender, and a thread that
//! writes.
//!
//! What does not fit, and what the sink refuses, is dropped and counted; as soon as the sink takes lines
//! again it gets TELEMETRY_DEGRADED with the number. Nothing of this is visible to the engine.

use super::event::{AuditEvent, AuditKind, Encoder, Line};
use jvpn_abi::BootTime;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How the writer works.
#[derive(Clone, Debug)]
pub struct WriterSettings {
    /// Lines that wait at most.
    pub capacity: usize,
    /// Spelling.
    pub encoder: Encoder,
    /// Reads the clock for TELEMETRY_DEGRADED.
    pub clock: fn() -> BootTime,
}

/// Lines that wait at most, unless set otherwise: at 300 octets each about 5 MB.
pub const DEFAULT_CAPACITY: usize = 16_384;

/// Lines are gathered for so long before they are written: in a storm the engine would otherwise wake the writer for every
/// one of them. What a crash takes with it is at most that much older.
const GATHER: Duration = Duration::from_millis(1);

/// A writer that has lost lines tells the sink at least this often, even if nothing else happens.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The sender's side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditHandle {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl AuditHandle {
    /// Hands a line over, or counts it as dropped. Never blocks, never fails.
    pub fn send(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The writing thread. Ends when every handle is gone.
#[derive(Debug)]
pub struct AuditWriter(JoinHandle<()>);

impl AuditWriter {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(sink: Box<dyn Write + Send>, settings: WriterSettings) -> io::Result<(Self, AuditHandle)> {
        let (lines, receiver) = sync_channel(settings.capacity.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let pump = Pump { sink, settings, dropped: Arc::clone(&dropped), reported: 0 };
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || pump.run(&receiver))?;
        Ok((Self(thread), AuditHandle { lines, dropped }))
    }

    /// Waits until everything is written, at most `patience`; a sink that hangs must not hang the process.
    /// Every [`AuditHandle`] must be gone by now. `true` if the writer ended.
    #[must_use]
    pub fn finish(self, patience: Duration) -> bool {
        let (done, ended) = sync_channel(1);
        let waiter = std::thread::Builder::new().name("audit-end".into()).spawn(move || {
            let ended = self.0.join().is_ok();
            // Nobody listens any more once patience is over.
            let _ = done.send(ended);
        });
        waiter.is_ok() && ended.recv_timeout(patience).unwrap_or(false)
    }
}

struct Pump {
    sink: Box<dyn Write + Send>,
    settings: WriterSettings,
    dropped: Arc<AtomicU64>,
    reported: u64,
}

impl Pump {
    fn run(mut self, receiver: &Receiver<Line>) {
        loop {
            match receiver.recv_timeout(REPORT_EVERY) {
                Ok(line) => {
                    self.report_losses();
                    self.write(&line);
                    while let Ok(line) = receiver.try_recv() {
                        self.write(&line);
                    }
                    self.flush();
                    std::thread::sleep(GATHER);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.report_losses();
        }
        self.report_losses();
        self.flush();
    }

    fn write(&mut self, line: &Line) {
        if self.put(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn put(&mut self, line: &Line) -> io::Result<()> {
        let mut text = self.settings.encoder.encode(line);
        text.push('\n');
        self.sink.write_all(text.as_bytes())
    }

    fn flush(&mut self) {
        if let Err(error) = self.sink.flush() {
            tracing::warn!(%error, "the audit sink does not take its lines; check its disk or pipe");
        }
    }

    /// Tells the sink what it has missed. If it cannot even take that, the next try tells more.
    fn report_losses(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let missed = dropped - self.reported;
        if missed == 0 {
            return;
        }
        let event = AuditEvent {
            at: (self.settings.clock)(),
            session: None,
            reason: None,
            kind: AuditKind::TelemetryDegraded { dropped: missed },
        };
        if self.put(&event.into()).is_ok() {
            self.reported = dropped;
            self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;

    fn settings(capacity: usize) -> WriterSettings {
        let encoder = Encoder { node_id: "gw1".into(), unix_offset_ms: 0 };
        WriterSettings { capacity, encoder, clock: || BootTime(7_000_000) }
    }

    fn line(n: u64) -> Line {
        let kind = AuditKind::Termination { total_lifetime_ms: n, total_switches: 0, note: None };
        AuditEvent { at: BootTime(0), session: None, reason: None, kind }.into()
    }

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        fn lines(&self) -> Vec<serde_json::Value> {
            let octets = self.0.lock().unwrap().clone();
            let text = String::from_utf8(octets).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    impl Write for Memory {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A sink that hangs in `write` until it is let go.
    struct Blocking {
        entered: Sender<()>,
        go: Receiver<()>,
        inner: Memory,
    }

    impl Write for Blocking {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.entered.send(()).ok();
            self.go.recv().ok();
            self.inner.write(octets)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// R6.2: a sink that hangs costs lines, never time; what was lost is counted and told.
    #[test]
    fn r6_2_a_hanging_sink_never_blocks_the_sender() {
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (let_go, go) = std::sync::mpsc::channel();
        let memory = Memory::default();
        let sink = Blocking { entered, go, inner: memory.clone() };
        let (writer, handle) = AuditWriter::start(Box::new(sink), settings(4)).unwrap();
        handle.send(line(0));
        has_entered.recv().unwrap();
        // The writer hangs now with line 0 in hand: four fit the channel, the rest is dropped without
        // waiting.
        for n in 1..=100 {
            handle.send(line(n));
        }
        assert_eq!(handle.dropped(), 96);
        drop(let_go);
        drop(handle);
        assert!(writer.finish(Duration::from_secs(10)));
        let lines = memory.lines();
        let told: u64 = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum();
        let written = lines.iter().filter(|line| line["event_type"] == "TERMINATION_EVENT").count();
        assert_eq!((told, written), (96, 5));
        let notice = lines.iter().find(|line| line["event_type"] == "TELEMETRY_DEGRADED").unwrap();
        assert_eq!(notice["ts_ms"], 7);
    }

    /// R6.2: the process can end although the sink hangs for ever.
    #[test]
    fn r6_2_a_sink_that_hangs_for_ever_does_not_hang_the_end() {
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (_never, go) = std::sync::mpsc::channel();
        let sink = Blocking { entered, go, inner: Memory::default() };
        let (writer, handle) = AuditWriter::start(Box::new(sink), settings(4)).unwrap();
        handle.send(line(0));
        has_entered.recv().unwrap();
        drop(handle);
        assert!(!writer.finish(Duration::from_millis(20)));
    }

    /// A sink that fails for a while.
    struct Failing {
        fail: usize,
        inner: Memory,
    }

    impl Write for Failing {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            if self.fail > 0 {
                self.fail -= 1;
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.inner.write(octets)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// R6.2, R7.3: a sink that fails loses lines, says how many when it works again, and stops nothing.
    #[test]
    fn r6_2_a_failing_sink_is_counted_and_told_when_it_works_again() {
        let memory = Memory::default();
        let sink = Failing { fail: 3, inner: memory.clone() };
        let (writer, handle) = AuditWriter::start(Box::new(sink), settings(64)).unwrap();
        let watch = Arc::clone(&handle.dropped);
        for n in 0..50 {
            handle.send(line(n));
        }
        drop(handle);
        assert!(writer.finish(Duration::from_secs(10)));
        let lines = memory.lines();
        let told: u64 = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum();
        let written = lines.iter().filter(|line| line["event_type"] == "TERMINATION_EVENT").count() as u64;
        assert!(told >= 1 && told == watch.load(Ordering::Relaxed));
        assert_eq!(told + written, 50);
    }
}
