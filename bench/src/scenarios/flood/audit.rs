//! What the gateway's audit log shows of a run: one binding at a time, switches within policy, floods summarised.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// The span that the budget of switches counts, ms.
const BUDGET_SPAN_MS: u64 = 60_000;
/// The span in which events of a kind are summarised, ms.
const FLOOD_SPAN_MS: u64 = 1_000;
/// Lines of one kind that may stand within that span: one at once, one at its end, and the first of the next span.
const FLOOD_LINES_MAX: usize = 3;
/// Bits of `state_version` below the term.
const SEQUENCE_BITS: u32 = 40;
/// Event types that an attacker could cause at will.
const FLOOD_TYPES: [&str; 4] = ["REATTACH_REJECT", "SECURITY_EVENT", "RATE_LIMIT_EVENT", "POLICY_EVENT"];

/// The log, read.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit {
    lines: Vec<Value>,
}

/// What it shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What is not as it must be.
    pub(super) problems: Vec<String>,
    /// Most confirmed switches of one session within 60 s.
    pub(super) switches_max: u64,
    /// Most lines of one kind and session within one second.
    pub(super) flood_lines_max: u64,
}

impl Audit {
    /// Reads the log as far as it is written.
    ///
    /// # Errors
    /// It cannot be read, or a line is no JSON.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
        let parse = |line: &str| {
            serde_json::from_str(line).with_context(|| format!("an audit line is no JSON: {line}"))
        };
        Ok(Self { lines: whole.lines().map(parse).collect::<Result<_>>()? })
    }

    /// Lines written from `from_ms` to before `to_ms` (Unix ms), and how many of them are about floods.
    #[must_use]
    pub(super) fn count(&self, from_ms: u64, to_ms: u64) -> (u64, u64) {
        let inside = self.lines.iter().filter(|line| (from_ms..to_ms).contains(&number(line, "ts_ms")));
        inside.fold((0, 0), |(all, floods), line| (all + 1, floods + u64::from(is_flood(line))))
    }

    /// Judges the whole log.
    #[must_use]
    pub(super) fn judge(&self, switches_per_minute: u64) -> Verdict {
        let mut verdict = Verdict::default();
        for (session, lines) in self.by_session() {
            check_states(session, &lines, &mut verdict);
            check_switches(session, &lines, switches_per_minute, &mut verdict);
        }
        self.check_floods(&mut verdict);
        verdict
    }

    fn by_session(&self) -> BTreeMap<&str, Vec<&Value>> {
        let mut sessions: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for line in &self.lines {
            sessions.entry(text(line, "session_id")).or_default().push(line);
        }
        sessions
    }

    fn check_floods(&self, verdict: &mut Verdict) {
        let mut kinds: BTreeMap<[&str; 5], Vec<u64>> = BTreeMap::new();
        for line in self.lines.iter().filter(|line| is_flood(line)) {
            let kind = ["session_id", "event_type", "reason_code", "violation_type", "scope"];
            kinds.entry(kind.map(|field| text(line, field))).or_default().push(number(line, "ts_ms"));
        }
        for (kind, moments) in kinds {
            let most = most_within(&moments, FLOOD_SPAN_MS);
            verdict.flood_lines_max = verdict.flood_lines_max.max(most as u64);
            if most > FLOOD_LINES_MAX {
                verdict.problems.push(format!("audit: {most} lines of one kind within a second: {kind:?}"));
            }
        }
    }
}

/// Versions contiguous, states chained, and no binding confirmed while there was one.
fn check_states(session: &str, lines: &[&Value], verdict: &mut Verdict) {
    let mut before: Option<(u64, String)> = None;
    for line in lines.iter().filter(|line| text(line, "event_type") == "STATE_CHANGE") {
        let (version, reason) = (number(line, "state_version"), text(line, "reason_code"));
        let (from, to) = (text(line, "previous_state"), text(line, "new_state"));
        if let Some((last, state)) = &before {
            let next_term = version >> SEQUENCE_BITS > last >> SEQUENCE_BITS;
            if version != last + 1 && !next_term {
                verdict
                    .problems
                    .push(format!("audit: session {session} goes from version {last} to {version}"));
            }
            if from != state {
                verdict.problems.push(format!("audit: session {session} leaves {from}, but was {state}"));
            }
        }
        let confirms = matches!(reason, "HANDSHAKE_OK" | "TRANSPORT_SWITCH_OK" | "POLICY_FLAP_LIMIT");
        if confirms && !matches!(from, "BIRTH" | "RECOVERING") {
            verdict.problems.push(format!("audit: session {session}: {reason} in {from}: two bindings"));
        }
        before = Some((version, to.to_owned()));
    }
}

/// Epochs rise, and the budget is kept.
fn check_switches(session: &str, lines: &[&Value], per_minute: u64, verdict: &mut Verdict) {
    let switches: Vec<_> =
        lines.iter().filter(|line| text(line, "event_type") == "TRANSPORT_SWITCH").collect();
    let epochs: Vec<_> = switches.iter().map(|line| number(line, "epoch")).collect();
    if !epochs.is_sorted_by(|a, b| a < b) {
        verdict.problems.push(format!("audit: epochs of session {session} do not rise: {epochs:?}"));
    }
    let moments: Vec<_> = switches.iter().map(|line| number(line, "ts_ms")).collect();
    let most = most_within(&moments, BUDGET_SPAN_MS) as u64;
    verdict.switches_max = verdict.switches_max.max(most);
    if most > per_minute {
        verdict
            .problems
            .push(format!("audit: session {session} switched {most} times within 60 s, not {per_minute}"));
    }
}

/// Most of these ordered moments within a span.
fn most_within(moments: &[u64], span_ms: u64) -> usize {
    let within = |(at, first): (usize, &u64)| {
        moments.iter().skip(at).take_while(|moment| **moment < first.saturating_add(span_ms)).count()
    };
    moments.iter().enumerate().map(within).max().unwrap_or_default()
}

fn is_flood(line: &Value) -> bool {
    FLOOD_TYPES.contains(&text(line, "event_type"))
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn number(line: &Value, field: &str) -> u64 {
    line.get(field).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn change(version: u64, from: &str, to: &str, reason: &str) -> Value {
        json!({
            "ts_ms": version, "event_type": "STATE_CHANGE", "session_id": "a", "state_version": version,
            "previous_state": from, "new_state": to, "reason_code": reason
        })
    }

    fn problems(lines: Vec<Value>) -> Vec<String> {
        Audit { lines }.judge(2).problems
    }

    fn good() -> Vec<Value> {
        vec![
            change(1, "BIRTH", "ATTACHED", "HANDSHAKE_OK"),
            change(2, "ATTACHED", "RECOVERING", "RECOVERY_START"),
            change(3, "RECOVERING", "ATTACHED", "TRANSPORT_SWITCH_OK"),
        ]
    }

    /// R3.2: the judge of the flood can fail: a gap, a broken chain, a second binding.
    #[test]
    fn r3_2_broken_chains_are_found() {
        assert_eq!(problems(good()), Vec::<String>::new());
        assert_eq!(
            problems([good(), vec![change(5, "ATTACHED", "TERMINATED", "PEER_TERMINATE")]].concat()).len(),
            1
        );
        assert_eq!(
            problems([good(), vec![change(4, "VOLATILE", "TERMINATED", "PEER_TERMINATE")]].concat()).len(),
            1
        );
        let second = [good(), vec![change(4, "ATTACHED", "ATTACHED", "TRANSPORT_SWITCH_OK")]].concat();
        assert!(problems(second)[0].contains("two bindings"));
        let taken_over = change(1 << 40, "ATTACHED", "RECOVERING", "OWNER_RESTART");
        assert_eq!(problems([good(), vec![taken_over]].concat()), Vec::<String>::new());
    }

    /// R3.2: so can those of switches and of floods.
    #[test]
    fn r3_2_switches_and_floods_are_counted() {
        let switch = |ts: u64, epoch: u64| json!({"ts_ms": ts, "event_type": "TRANSPORT_SWITCH", "session_id": "a", "epoch": epoch});
        assert!(problems(vec![switch(0, 1), switch(1, 2), switch(60_000, 3)]).is_empty());
        assert!(problems(vec![switch(0, 1), switch(1, 2), switch(59_999, 3)])[0].contains("3 times"));
        assert!(problems(vec![switch(0, 1), switch(1, 1)])[0].contains("epochs"));
        let reject =
            |ts: u64| json!({"ts_ms": ts, "event_type": "REATTACH_REJECT", "reason_code": "AUTH_FAIL"});
        assert!(problems((0..10).map(|n| reject(n * 500)).collect()).is_empty());
        assert!(problems((0..10).map(|n| reject(n * 100)).collect())[0].contains("10 lines"));
        let audit = Audit { lines: [good(), vec![reject(2)]].concat() };
        assert_eq!(audit.count(2, 4), (3, 1));
    }
}
