//! What a person reads while the demo runs and at its end.
#![allow(clippy::print_stdout, reason = "this is where the command talks to its user")]

use std::io::Write;
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
        println!("\n{text}");
        flush();
    }

    /// One line.
    pub fn say(&self, text: &str) {
        println!("  {:8.3}  {text}", self.start.elapsed().as_secs_f64());
        flush();
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

fn flush() {
    // Nothing sensible is left to do when standard output is gone.
    let _ = std::io::stdout().flush();
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
    let shown =
        ["event_type", "event"].into_iter().map(|field| event.text(field)).find(|text| !text.is_empty())?;
    let details: Vec<String> = ["previous_state", "new_state", "cause", "reason", "device", "path", "uplink"]
        .into_iter()
        .map(|field| (field, event.text(field)))
        .filter(|(_, text)| !text.is_empty())
        .map(|(field, text)| format!("{field} {text}"))
        .collect();
    Some(format!("client   {shown}  {}", details.join(", ")).trim_end().to_owned())
}

/// The table at the end.
pub fn closing_table(report: &Report, summaries: &[CauseSummary], failures: &[String]) {
    println!("\n  {:<22}{:>5}{:>18}{:>18}{:>18}", "cause", "n", "noticed ms", "reattached ms", "outage ms");
    println!("  {:<22}{:>5}{:>18}{:>18}{:>18}", "", "", "p50 / max", "p50 / max", "p50 / max");
    for summary in summaries {
        let spread = |spread: crate::report::Spread| format!("{} / {}", spread.p50, spread.max);
        println!(
            "  {:<22}{:>5}{:>18}{:>18}{:>18}",
            summary.cause,
            summary.count,
            spread(summary.detect_ms),
            spread(summary.reattach_ms),
            spread(summary.outage_ms)
        );
    }
    println!();
    let row = |name: &str, value: String| println!("  {name:<40}{value}");
    let yes = |holds: bool| if holds { "yes" } else { "NO" }.to_owned();
    row("session", report.session_id.clone());
    row("TCP connection lived throughout", yes(report.tcp_survived));
    row("download checksum right", yes(report.sha256_ok));
    row(
        "held-back DATA released / forwarded",
        format!("{} / {}", report.held_back_released, report.held_back_forwarded),
    );
    row("replays sent / refused", format!("{} / {}", report.replays_sent, report.replays_rejected));
    row("DATA seen by the kernel's socket", report.kernel_socket_bound_data.to_string());
    row("XDP / AF_XDP mode", format!("{} / {}", report.xdp_mode, report.af_xdp_mode));
    for (index, worker) in report.workers.iter().enumerate() {
        let cpu = worker.cpu.map_or("?".to_owned(), |cpu| cpu.to_string());
        let (inward, outward) = (worker.packets_in, worker.packets_out);
        row(&format!("worker {index} on core {cpu}"), format!("{inward} packets in, {outward} out"));
    }
    println!();
    if failures.is_empty() {
        println!("  Everything held.");
    }
    for failure in failures {
        println!("  FAILED: {failure}");
    }
    flush();
}

/// Plain lines.
pub fn print(text: &str) {
    println!("{text}");
    flush();
}

/// Why the command failed, for the person who typed it.
pub fn complain(error: &anyhow::Error) {
    flush();
    eprintln!("error: {error:#}");
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
