//! What a person reads while the demo runs and at its end.
//!
//! A reader who goes away (`| head`) must not end a run half-way: what cannot be written is left out.

use std::io::{Write, stderr, stdout};
use std::time::Instant;

use crate::events::{Event, Source};
use crate::report::{CauseSummary, Recovery, Report};

/// Prints lines with the time since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    start: Instant,
}

impl Timeline {
    /// The clock starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// A heading.
    pub fn step(&self, text: &str) {
        print(&format!("\n{text}"));
    }

    /// One line.
    pub fn say(&self, text: &str) {
        print(&format!("  {:8.3}  {text}", self.start.elapsed().as_secs_f64()));
    }

    /// A line for an event of the processes, if it is one that a person wants to see.
    pub fn show(&self, event: &Event) {
        if let Some(text) = describe(event) {
            self.say(&text);
        }
    }

    /// A recovery, measured.
    pub fn recovered(&self, recovery: &Recovery) {
        self.say(&format!(
            "recovered: noticed after {} ms, reattached in {} ms, outage {} ms as seen by an application",
            recovery.detect_ms, recovery.reattach_ms, recovery.outage_ms
        ));
    }
}

fn describe(event: &Event) -> Option<String> {
    let text = |field| event.text(field);
    let number = |field| event.number(field).unwrap_or_default();
    match event.source {
        Source::Demo => None,
        Source::ControlPlane => Some(match text("event_type") {
            "STATE_CHANGE" => {
                let from = if text("previous_state").is_empty() { "–" } else { text("previous_state") };
                format!("gateway  {from} → {}  {}", text("new_state"), text("reason_code"))
            }
            "TRANSPORT_SWITCH" => format!(
                "gateway  path {} → {}, epoch {}, in {} ms",
                text("previous_transport"),
                text("new_transport"),
                number("epoch"),
                number("switch_latency_ms")
            ),
            "SESSION_CREATED" => format!("gateway  session {} for {}", text("session_id"), text("peer")),
            "REATTACH_REJECT" => format!("gateway  refused {}: {}", text("remote"), text("reason_code")),
            "SECURITY_EVENT" => format!("gateway  {}{}", text("violation_type"), suppressed(event)),
            "TERMINATION_EVENT" => format!("gateway  session ended: {}", text("reason_code")),
            _ => return None,
        }),
        Source::Client => describe_client(event),
    }
}

fn suppressed(event: &Event) -> String {
    match event.number("suppressed") {
        None | Some(0) => String::new(),
        Some(more) => format!(" (and {more} more)"),
    }
}

fn describe_client(event: &Event) -> Option<String> {
    let text = |field| event.text(field);
    let number = |field| event.number(field).unwrap_or_default();
    Some(match text("event") {
        "session_started" => format!("client   session {}", text("session_id")),
        "state_change" => {
            let from = if text("from").is_empty() { "–" } else { text("from") };
            format!("client   {from} → {}  {} on {}", text("to"), text("reason"), text("uplink"))
        }
        "recovery_started" => {
            format!("client   leaves {}: {} after {} ms", text("from"), text("cause"), number("detect_ms"))
        }
        "recovery_complete" => {
            format!("client   {} → {}, attempts: {}", text("from"), text("to"), number("attempts"))
        }
        "refused" => format!("client   refused on {}: {}", text("uplink"), text("reason")),
        "session_ended" => format!("client   session ended: {}", text("reason")),
        "link" => format!("client   link {} {}", text("uplink"), text("to")),
        "trouble" => format!("client   {}", text("message")),
        _ => return None,
    })
}

/// The table at the end.
pub fn closing_table(report: &Report, summaries: &[CauseSummary], failures: &[String]) {
    let columns = |name: &str, n: &str, cells: [String; 3]| {
        let [detect, reattach, outage] = cells;
        print(&format!("  {name:<22}{n:>5}{detect:>18}{reattach:>18}{outage:>18}"));
    };
    print("");
    columns("cause", "n", ["noticed ms", "reattached ms", "outage ms"].map(str::to_owned));
    columns("", "", ["p50 / max"; 3].map(str::to_owned));
    for summary in summaries {
        let cells = [summary.detect_ms, summary.reattach_ms, summary.outage_ms];
        let cells = cells.map(|spread| format!("{} / {}", spread.p50, spread.max));
        columns(summary.cause, &summary.count.to_string(), cells);
    }
    print("");
    for (name, value) in closing_rows(report) {
        print(&format!("  {name:<40}{value}"));
    }
    print("");
    if failures.is_empty() {
        print("  Everything held.");
    }
    for failure in failures {
        print(&format!("  FAILED: {failure}"));
    }
}

fn closing_rows(report: &Report) -> Vec<(String, String)> {
    let yes = |holds: bool| if holds { "yes" } else { "NO" }.to_owned();
    let pair = |a: u64, b: u64| format!("{a} / {b}");
    let mut rows = vec![
        ("session".to_owned(), report.session_id.clone()),
        ("TCP connection lived throughout".to_owned(), yes(report.tcp_survived)),
        ("download checksum right".to_owned(), yes(report.sha256_ok)),
        (
            "held-back DATA released / forwarded".to_owned(),
            pair(report.held_back_released, report.held_back_forwarded),
        ),
        ("replays sent / refused".to_owned(), pair(report.replays_sent, report.replays_rejected)),
        ("DATA seen by the kernel's socket".to_owned(), report.kernel_socket_bound_data.to_string()),
        ("audit events judged".to_owned(), report.audit_events.to_string()),
        ("XDP / AF_XDP mode".to_owned(), format!("{} / {}", report.xdp_mode, report.af_xdp_mode)),
    ];
    for (index, worker) in report.workers.iter().enumerate() {
        let cpu = worker.cpu.map_or("?".to_owned(), |cpu| cpu.to_string());
        let (inward, outward) = (worker.packets_in, worker.packets_out);
        rows.push((format!("worker {index} on core {cpu}"), format!("{inward} packets in, {outward} out")));
    }
    rows
}

/// Plain lines.
pub fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Why the command failed, for the person who typed it.
pub fn complain(error: &anyhow::Error) {
    let _ = writeln!(stderr().lock(), "error: {error:#}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn state_changes_are_shown_and_telemetry_is_not() {
        let event = |record| Event { at_ms: 0, source: Source::ControlPlane, record };
        let change = json!({
            "event_type": "STATE_CHANGE", "previous_state": "ATTACHED", "new_state": "RECOVERING",
            "reason_code": "RECOVERY_START"
        });
        assert_eq!(describe(&event(change)).unwrap(), "gateway  ATTACHED → RECOVERING  RECOVERY_START");
        assert_eq!(describe(&event(json!({"event_type": "NODE_STARTED"}))), None);
    }
}
