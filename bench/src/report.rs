//! `report.json`: what the demo found, in the fields that its readers rely on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// The report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The one session.
    pub session_id: String,
    /// Every change of state, as the gateway's audit has it.
    pub transitions: Vec<TransitionRow>,
    /// Every loss of a path and the way back.
    pub recoveries: Vec<Recovery>,
    /// Whether the TCP connection lived from beginning to end.
    pub tcp_survived: bool,
    /// Whether the download's checksum is right.
    pub sha256_ok: bool,
    /// Genuine datagrams of the old binding that the router released after the switch.
    pub held_back_released: u64,
    /// How many of them came out at the LAN.
    pub held_back_forwarded: u64,
    /// Recorded datagrams that the attacker sent.
    pub replays_sent: u64,
    /// How many of them the gateway refused and counted.
    pub replays_rejected: u64,
    /// DATA that XDP let through to the kernel.
    pub kernel_socket_bound_data: u64,
    /// Events of the gateway's audit that `check-events` judged.
    pub audit_events: u64,
    /// What it found.
    pub audit_violations: Vec<String>,
    /// How XDP is attached.
    pub xdp_mode: String,
    /// How AF_XDP gets at the frames.
    pub af_xdp_mode: String,
    /// The data plane's workers.
    pub workers: Vec<WorkerRow>,
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TransitionRow {
    /// Unix ms.
    pub ts_ms: i64,
    /// State before; `None` at birth.
    pub from: Option<String>,
    /// State after.
    pub to: String,
    /// Why.
    pub reason: String,
    /// Number of the transition.
    pub state_version: u64,
}

/// A loss of a path and the way back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// What was done to the network.
    pub cause: &'static str,
    /// From the last frame heard on the old path to the client's decision to leave it.
    pub detect_ms: u64,
    /// From that decision to the first frame over the new binding, as the client has it.
    pub reattach_ms: u64,
    /// Longest time without an answer from the LAN, as an application on the client sees it.
    pub outage_ms: u64,
}

/// A worker of the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerRow {
    /// The core it is pinned to.
    pub cpu: Option<u64>,
    /// Packets from the WAN to the LAN.
    pub packets_in: u64,
    /// Packets from the LAN to the WAN.
    pub packets_out: u64,
}

/// What a demo does to the network. Each must have been recovered from.
pub const CAUSES: [&str; 5] = ["silent_cut", "link_down", "nat_rebinding", "lost_answer", "data_held_back"];

impl Report {
    /// What did not hold; empty if everything did.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut expect = |holds: bool, text: String| {
            if !holds {
                failures.push(text);
            }
        };
        let versions: Vec<u64> = self.transitions.iter().map(|row| row.state_version).collect();
        let contiguous =
            versions.first() == Some(&0) && versions.windows(2).all(|pair| pair[1] == pair[0] + 1);
        expect(!self.session_id.is_empty(), "there was no session".to_owned());
        expect(contiguous, format!("state versions are not contiguous from 0: {versions:?}"));
        for cause in CAUSES {
            let seen = self.recoveries.iter().any(|recovery| recovery.cause == cause);
            expect(seen, format!("there was no recovery from {cause}"));
        }
        expect(self.tcp_survived, "the TCP connection did not survive".to_owned());
        expect(self.sha256_ok, "the checksum of the download is wrong".to_owned());
        expect(self.held_back_released > 0, "no DATA was held back".to_owned());
        let forwarded = self.held_back_forwarded;
        expect(forwarded == 0, format!("{forwarded} datagrams of an old binding came out at the LAN"));
        let (sent, rejected) = (self.replays_sent, self.replays_rejected);
        expect(
            sent > 0 && rejected == sent,
            format!("{rejected} of {sent} replays were refused and counted"),
        );
        let leaked = self.kernel_socket_bound_data;
        expect(leaked == 0, format!("{leaked} DATA datagrams reached the kernel's socket"));
        expect(self.audit_events > 0, "the gateway's audit was not judged".to_owned());
        let broken = self.audit_violations.join("\n");
        expect(broken.is_empty(), format!("the gateway's audit breaks rules:\n{broken}"));
        let busy = self.workers.iter().filter(|worker| worker.packets_in + worker.packets_out > 0).count();
        expect(busy >= 2, format!("{busy} workers had packets; at least two must"));
        failures
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("the report does not fit JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What a recovery of one cause cost, over all repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CauseSummary {
    /// What was done to the network.
    pub cause: &'static str,
    /// How often.
    pub count: usize,
    /// Median and maximum of detection, ms.
    pub detect_ms: Spread,
    /// Median and maximum of the reattach, ms.
    pub reattach_ms: Spread,
    /// Median and maximum of the outage, ms.
    pub outage_ms: Spread,
}

/// Median and maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Half of the values are not larger.
    pub p50: u64,
    /// The largest value.
    pub max: u64,
}

impl Spread {
    fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let p50 = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        Self { p50, max: values.last().copied().unwrap_or_default() }
    }
}

/// One summary per cause, in the order in which the causes first came.
#[must_use]
pub fn summarise(recoveries: &[Recovery]) -> Vec<CauseSummary> {
    let mut causes = Vec::new();
    for recovery in recoveries {
        if !causes.contains(&recovery.cause) {
            causes.push(recovery.cause);
        }
    }
    causes
        .into_iter()
        .map(|cause| {
            let of_cause: Vec<_> = recoveries.iter().filter(|recovery| recovery.cause == cause).collect();
            let spread = |field: fn(&Recovery) -> u64| {
                Spread::of(of_cause.iter().map(|recovery| field(recovery)).collect())
            };
            CauseSummary {
                cause,
                count: of_cause.len(),
                detect_ms: spread(|recovery| recovery.detect_ms),
                reattach_ms: spread(|recovery| recovery.reattach_ms),
                outage_ms: spread(|recovery| recovery.outage_ms),
            }
        })
        .collect()
}

/// Milliseconds, rounded.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from((duration + Duration::from_micros(500)).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let row = |state_version| TransitionRow {
            ts_ms: 1,
            from: None,
            to: "ATTACHED".into(),
            reason: "HANDSHAKE_OK".into(),
            state_version,
        };
        let worker = WorkerRow { cpu: Some(0), packets_in: 1, packets_out: 0 };
        Report {
            session_id: "x".into(),
            transitions: vec![row(0), row(1)],
            recoveries: CAUSES
                .map(|cause| Recovery { cause, detect_ms: 1, reattach_ms: 1, outage_ms: 2 })
                .into(),
            tcp_survived: true,
            sha256_ok: true,
            held_back_released: 3,
            replays_sent: 4,
            replays_rejected: 4,
            audit_events: 9,
            workers: vec![worker.clone(), worker],
            ..Report::default()
        }
    }

    #[test]
    fn a_good_report_has_no_failures_and_each_bad_field_is_one() {
        assert_eq!(good().failures(), Vec::<String>::new());
        let spoil: [fn(&mut Report); 16] = [
            |r| r.session_id.clear(),
            |r| r.transitions[1].state_version = 2,
            |r| r.transitions.clear(),
            |r| drop(r.transitions.remove(0)),
            |r| r.recoveries.retain(|recovery| recovery.cause != "nat_rebinding"),
            |r| r.tcp_survived = false,
            |r| r.sha256_ok = false,
            |r| r.held_back_released = 0,
            |r| r.held_back_forwarded = 1,
            |r| r.replays_rejected = 3,
            |r| (r.replays_sent, r.replays_rejected) = (0, 0),
            |r| r.kernel_socket_bound_data = 1,
            |r| r.audit_events = 0,
            |r| r.audit_violations.push("version".into()),
            |r| r.workers.truncate(1),
            |r| r.workers[0].packets_in = 0,
        ];
        for (index, spoil) in spoil.into_iter().enumerate() {
            let mut report = good();
            spoil(&mut report);
            assert_eq!(report.failures().len(), 1, "{index}: {:?}", report.failures());
        }
    }

    #[test]
    fn the_report_has_exactly_the_fields_that_its_readers_rely_on() {
        let value = serde_json::to_value(good()).unwrap();
        let mut fields: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        let mut wanted = [
            "session_id",
            "transitions",
            "recoveries",
            "tcp_survived",
            "sha256_ok",
            "held_back_released",
            "held_back_forwarded",
            "replays_sent",
            "replays_rejected",
            "kernel_socket_bound_data",
            "audit_events",
            "audit_violations",
            "xdp_mode",
            "af_xdp_mode",
            "workers",
        ];
        wanted.sort_unstable();
        assert_eq!(fields, wanted);
    }

    #[test]
    fn summaries_are_per_cause() {
        let recovery = |cause, outage_ms| Recovery { cause, detect_ms: 1, reattach_ms: 2, outage_ms };
        let all = [
            recovery("cut", 5),
            recovery("down", 9),
            recovery("cut", 1),
            recovery("cut", 7),
            recovery("cut", 6),
        ];
        let summaries = summarise(&all);
        assert_eq!(
            summaries.iter().map(|s| (s.cause, s.count)).collect::<Vec<_>>(),
            [("cut", 4), ("down", 1)]
        );
        assert_eq!(summaries[0].outage_ms, Spread { p50: 5, max: 7 });
        assert_eq!(summaries[1].outage_ms, Spread { p50: 9, max: 9 });
    }
}
