//! The client's timeline: one JSON object per line, in a file that never holds up the agent.
//!
//! Lines go through a bounded channel to a thread of their own; a disk that does not keep up costs lines (counted),
//! never packets. The file is bounded: when it has grown to 64 MiB, it is renamed to `<name>.old` and begun anew.

use crate::agent::Event;
use crate::paths::{Paths, UplinkId};
use jvpn_abi::BootTime;
use jvpn_session::messages::SessionId;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Lines that may wait for the disk.
const WAITING_MAX: usize = 4_096;
/// Octets of one file.
const FILE_MAX: u64 = 64 << 20;

/// One line. Absent fields do not apply to the event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Unix time, ms.
    pub ts_ms: u64,
    /// `CLOCK_BOOTTIME`, ns.
    pub mono_ns: u64,
    /// Stable name.
    pub event: &'static str,
    /// The anchor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// State or device before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// State or device now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Reason name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Device of the uplink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// Why a path was left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// Last frame on the old path → decision, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect_ms: Option<u64>,
    /// Decision → first frame over the new binding, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reattach_ms: Option<u64>,
    /// Last frame on the old path → first frame over the new binding, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outage_ms: Option<u64>,
    /// Requests made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u16>,
    /// Not before this many ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Line {
    /// The line for an event.
    #[must_use]
    pub fn new(now: BootTime, unix_ns: u64, event: &Event, paths: &Paths) -> Self {
        let base = Self { ts_ms: unix_ns / 1_000_000, mono_ns: now.0, ..Self::default() };
        let device = |id: UplinkId| Some(paths.device(id).to_owned());
        let anchor = |id: SessionId| Some(id.to_string());
        match event {
            Event::SessionStarted { grant } => {
                Self { event: "session_started", session_id: anchor(grant.session_id), ..base }
            }
            Event::StateChange { session, from, to, reason, uplink } => Self {
                event: "state_change",
                session_id: anchor(*session),
                from: from.map(|state| state.name().to_owned()),
                to: Some(to.name().to_owned()),
                reason: Some(reason.name()),
                uplink: device(*uplink),
                ..base
            },
            Event::RecoveryStarted { session, cause, from, detect_ms } => Self {
                event: "recovery_started",
                session_id: anchor(*session),
                from: device(*from),
                cause: Some(cause.name()),
                detect_ms: Some(*detect_ms),
                ..base
            },
            Event::RecoveryComplete { session, report } => Self {
                event: "recovery_complete",
                session_id: anchor(*session),
                from: device(report.from),
                to: device(report.to),
                uplink: device(report.to),
                cause: Some(report.cause.name()),
                detect_ms: Some(report.detect_ms),
                reattach_ms: Some(report.reattach_ms),
                outage_ms: Some(report.outage_ms),
                attempts: Some(report.attempts),
                ..base
            },
            Event::Refused { session, reason, retry_after_ms, uplink } => {
                let retry_after_ms = Some(*retry_after_ms);
                let (session_id, reason, uplink) =
                    (session.and_then(anchor), Some(reason.name()), device(*uplink));
                Self { event: "refused", session_id, reason, retry_after_ms, uplink, ..base }
            }
            Event::SwitchCancelled { session, to, reason } => {
                let (session_id, to, reason) = (anchor(*session), device(*to), Some(reason.name()));
                Self { event: "switch_cancelled", session_id, to, reason, ..base }
            }
            Event::MtuChanged { session, mtu, uplink } => Self {
                event: "mtu_changed",
                session_id: anchor(*session),
                uplink: device(*uplink),
                message: Some(format!("{mtu} octets")),
                ..base
            },
            Event::SessionEnded { session, reason } => Self {
                event: "session_ended",
                session_id: anchor(*session),
                reason: Some(reason.name()),
                ..base
            },
            Event::Link { uplink, state } => Self {
                event: "link",
                uplink: device(*uplink),
                to: Some(state.name().to_owned()),
                message: state.source().map(|source| format!("from {source}")),
                ..base
            },
            Event::Trouble { message } => Self { event: "trouble", message: Some(message.clone()), ..base },
        }
    }
}

/// Where lines go: the log, and a file if one is configured.
#[derive(Debug)]
pub struct EventSink {
    /// Taken at the end, so that the thread sees the channel close.
    lines: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl EventSink {
    /// Opens the file for appending.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let lost = Arc::new(AtomicU64::new(0));
        let Some(path) = path else { return Ok(Self { lines: None, writer: None, lost }) };
        let file = append(path).map_err(|error| {
            anyhow::anyhow!("events_file {}: {error}; is its folder there?", path.display())
        })?;
        let (lines, waiting) = sync_channel(WAITING_MAX);
        let target = Target { path: path.to_owned(), written: file.metadata().map_or(0, |m| m.len()), file };
        let counter = Arc::clone(&lost);
        let writer = std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || write_lines(target, &waiting, &counter))?;
        Ok(Self { lines: Some(lines), writer: Some(writer), lost })
    }

    /// Writes an event down, or counts it as lost. Never waits.
    pub fn write(&self, now: BootTime, event: &Event, paths: &Paths) {
        let line = Line::new(now, jvpn_host::clock::unix_ns(), event, paths);
        log(&line);
        let Some(lines) = &self.lines else { return };
        let sent = serde_json::to_vec(&line).is_ok_and(|mut octets| {
            octets.push(b'\n');
            lines.try_send(octets).is_ok()
        });
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for EventSink {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::warn!("the event writer ended badly; the last lines may be missing");
        }
    }
}

fn log(line: &Line) {
    let json = serde_json::to_string(line).unwrap_or_default();
    match line.event {
        "trouble" | "refused" => tracing::warn!(target: "jvpn", "{json}"),
        _ => tracing::info!(target: "jvpn", "{json}"),
    }
}

struct Target {
    path: PathBuf,
    file: File,
    written: u64,
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_lines(mut target: Target, waiting: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        if target.written + line.len() as u64 > FILE_MAX {
            let mut old = target.path.clone().into_os_string();
            old.push(".old");
            if let Ok(file) = std::fs::rename(&target.path, &old).and_then(|()| append(&target.path)) {
                target.file = file;
                target.written = 0;
            }
        }
        match target.file.write_all(&line) {
            Ok(()) => target.written += line.len() as u64,
            Err(_) => {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::candidates::CandidateSettings;
    use jvpn_abi::Reason;
    use jvpn_session::State;

    /// R6.1, R6.2: one JSON object per line with reason and session; a full disk loses lines and nothing else.
    #[test]
    fn lines_are_json_and_a_broken_sink_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let paths = Paths::new(Vec::new(), CandidateSettings::default());
        let event = Event::StateChange {
            session: SessionId([7; 16]),
            from: Some(State::Attached),
            to: State::Recovering,
            reason: Reason::TransportDead,
            uplink: UplinkId(0),
        };
        let sink = EventSink::open(Some(&path)).unwrap();
        sink.write(BootTime(5), &event, &paths);
        drop(sink);
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["event"], "state_change");
        assert_eq!((&line["from"], &line["to"]), (&"ATTACHED".into(), &"RECOVERING".into()));
        assert_eq!(line["reason"], "TRANSPORT_DEAD");
        assert_eq!(line["session_id"], "07".repeat(16));
        assert_eq!(line["mono_ns"], 5);

        if Path::new("/dev/full").exists() {
            let sink = EventSink::open(Some(Path::new("/dev/full"))).unwrap();
            let lost = Arc::clone(&sink.lost);
            sink.write(BootTime(6), &event, &paths);
            drop(sink);
            assert_eq!(lost.load(Ordering::Relaxed), 1);
        }
        assert!(EventSink::open(Some(&folder.path().join("no/such/folder"))).is_err());
    }
}
