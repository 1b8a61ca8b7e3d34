//! What clients lived through, held against the gateway's audit log. The judge of the log knows only what is in it: a session
//! that is missing as a whole, or the end of all of them, breaks no rule of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::record::Trial;

/// Switches by session, as a log has them; a session that it names otherwise has none.
#[derive(Debug, Default)]
struct Told {
    switches: BTreeMap<String, u64>,
    /// The log says itself that lines are missing.
    has_gaps: bool,
}

/// Where the log of a life of the gateway does not tell of a session that was struck, or of fewer switches than its client
/// came back by.
///
/// # Errors
/// The log cannot be read.
pub(super) fn untold(audit: &Path, trials: &[Trial], segment: u32) -> Result<Vec<String>> {
    let told = Told::read(audit)?;
    if told.has_gaps {
        return Ok(Vec::new());
    }
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.segment == segment) {
        let switched = u64::from(trial.recovered && trial.cause.must_switch());
        *seen.entry(&trial.session_id).or_default() += switched;
    }
    let name = audit.file_name().unwrap_or_default().to_string_lossy();
    let judge = |(session, seen): (&str, u64)| match told.switches.get(session) {
        None => Some(format!("{name} has no line of session {session}, which was struck")),
        Some(told) if *told < seen => {
            Some(format!("{name} has {told} switches of session {session}, whose client came back by {seen}"))
        }
        Some(_) => None,
    };
    Ok(seen.into_iter().filter_map(judge).collect())
}

impl Told {
    fn read(audit: &Path) -> Result<Self> {
        let what = || format!("cannot read {}", audit.display());
        let mut told = Self::default();
        for line in BufReader::new(File::open(audit).with_context(what)?).lines() {
            // What is no event is the judge's business.
            let Ok(event) = serde_json::from_str::<Value>(&line.with_context(what)?) else { continue };
            let text = |field: &str| event.get(field).and_then(Value::as_str);
            told.has_gaps |= text("event_type") == Some("TELEMETRY_DEGRADED");
            if let Some(session) = text("session_id") {
                let switched = u64::from(text("event_type") == Some("TRANSPORT_SWITCH"));
                *told.switches.entry(session.to_owned()).or_default() += switched;
            }
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cause::Cause;
    use super::super::record::tests::trial;
    use super::*;
    use std::fs;

    /// R8.1: a log that lacks a session, or the end of all of them, is a gap that nothing explains; one that says that it
    /// lost lines is judged by what it says.
    #[test]
    fn r8_1_what_clients_saw_must_be_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let audit = dir.path().join("audit-1.jsonl");
        let line = |kind: &str, session: &str| {
            format!("{{\"event_type\":\"{kind}\",\"session_id\":\"{session}\"}}\n")
        };
        let of = |cause, incident, session: &str| Trial {
            session_id: session.into(),
            ..trial(cause, incident, 5.0)
        };
        let trials = [
            of(Cause::LinkDown, 1, "a"),
            of(Cause::LinkDown, 2, "a"),
            of(Cause::LossSpike, 3, "b"),
            Trial { recovered: false, ..of(Cause::NatRebinding, 4, "a") },
            Trial { segment: 2, ..of(Cause::LinkDown, 5, "c") },
        ];
        let lines = [
            line("SESSION_CREATED", "a"),
            line("SESSION_CREATED", "b"),
            line("TRANSPORT_SWITCH", "a"),
            line("TRANSPORT_SWITCH", "a"),
        ];
        let said = |lines: &[String]| {
            fs::write(&audit, lines.concat()).unwrap();
            untold(&audit, &trials, 1).unwrap()
        };
        assert_eq!(said(&lines), Vec::<String>::new());
        assert_eq!(
            said(&lines[..3]),
            ["audit-1.jsonl has 1 switches of session a, whose client came back by 2"],
            "its end was cut off"
        );
        let without_b = [lines[0].clone(), lines[2].clone(), lines[3].clone()];
        assert_eq!(said(&without_b), ["audit-1.jsonl has no line of session b, which was struck"]);
        let gap = "{\"event_type\":\"TELEMETRY_DEGRADED\",\"session_id\":null,\"dropped\":2}\n".to_owned();
        assert_eq!(said(&[lines[0].clone(), gap]), Vec::<String>::new());
        assert!(untold(&dir.path().join("none"), &trials, 1).is_err());
    }
}
