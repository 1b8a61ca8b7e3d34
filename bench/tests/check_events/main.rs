//! `check-events` on logs that the production engine wrote, on logs that somebody has doctored, and its rules against
//! production's.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod command;
mod doctored;
mod real;
mod rules;

use jvpn_bench::check_events::findings::{Check, Findings};
use jvpn_bench::check_events::rules::PolicyNumbers;
use jvpn_bench::check_events::{Expectations, check_text};
use jvpn_session::Policy;

/// The numbers that a policy of the simulator amounts to.
fn expecting(policy: &Policy) -> Expectations {
    let numbers = PolicyNumbers {
        preset: Some("edge".to_owned()),
        max_switches_per_min: Some(policy.max_switches_per_min),
        recovery_window: Some(policy.recovery_window),
        transport_loss_ttl: Some(policy.transport_loss_ttl),
    };
    Expectations { policy: numbers, ..Expectations::default() }
}

fn judged(lines: &[String], expectations: &Expectations) -> Findings {
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    check_text("log", &text, expectations).unwrap()
}

/// Check and line of everything that was found.
fn found(findings: &Findings) -> Vec<(Check, u64)> {
    findings.violations.iter().map(|violation| (violation.check, violation.place.line)).collect()
}
