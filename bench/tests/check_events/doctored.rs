//! One doctored log per check: each is refused, at the right line, for the right reason.

use std::time::Duration;

use jvpn_bench::check_events::findings::{Check, Findings};
use jvpn_bench::check_events::{CutOff, Expectations, check_text};
use serde_json::{Value, json};

use super::real::real_log;
use super::{found, judged};

const ID: &str = "0123456789abcdef0123456789abcdef";
const MINUTE_MS: i64 = 60_000;

/// A log that is written line by line, as the engine would.
#[derive(Clone)]
struct Log {
    lines: Vec<Value>,
    at_ms: i64,
    version: u64,
    state: Value,
    epoch: u64,
    switches: u64,
    born_ms: i64,
}

impl Log {
    /// Created, born, attached.
    fn attached() -> Self {
        let mut log = Self {
            lines: Vec::new(),
            at_ms: 1_000_000,
            version: 0,
            state: Value::Null,
            epoch: 1,
            switches: 0,
            born_ms: 1_000_000,
        };
        log.node("NODE_STARTED", &json!({}));
        log.push("SESSION_CREATED", "HANDSHAKE_START", &json!({ "peer": "laptop", "policy": "edge" }));
        log.change("BIRTH", "HANDSHAKE_START");
        log.change("ATTACHED", "HANDSHAKE_OK");
        log
    }

    fn line(&mut self, kind: &str, session: &Value, version: &Value, reason: &Value, fields: &Value) {
        let mut line = json!({
            "ts_ms": self.at_ms, "event_type": kind, "session_id": session, "node_id": "gw1",
            "state_version": version, "reason_code": reason
        });
        for (name, value) in fields.as_object().unwrap() {
            line[name] = value.clone();
        }
        self.lines.push(line);
        self.at_ms += 10;
    }

    fn node(&mut self, kind: &str, fields: &Value) {
        self.line(kind, &Value::Null, &Value::Null, &Value::Null, fields);
    }

    fn push(&mut self, kind: &str, reason: &str, fields: &Value) {
        let version = json!(self.version);
        self.line(kind, &json!(ID), &version, &json!(reason), fields);
    }

    fn change(&mut self, new: &str, reason: &str) {
        if !self.state.is_null() {
            self.version += 1;
        }
        let fields = json!({ "previous_state": self.state, "new_state": new });
        self.push("STATE_CHANGE", reason, &fields);
        self.state = json!(new);
    }

    fn confirm(&mut self) {
        self.change("ATTACHED", "TRANSPORT_SWITCH_OK");
        self.epoch += 1;
        self.switches += 1;
        let fields = json!({
            "previous_transport": "udp:192.0.2.1:7", "new_transport": "udp:192.0.2.2:7", "switch_latency_ms": 5,
            "epoch": self.epoch
        });
        self.push("TRANSPORT_SWITCH", "TRANSPORT_SWITCH_OK", &fields);
        let fields = json!({ "detect_ms": 1, "reattach_ms": 5, "outage_ms": 9, "attempts": 1 });
        self.push("RECOVERY_COMPLETE", "TRANSPORT_SWITCH_OK", &fields);
    }

    fn switch(&mut self) {
        self.change("RECOVERING", "RECOVERY_START");
        self.confirm();
    }

    fn end(&mut self) {
        self.change("TERMINATED", "PEER_TERMINATE");
        let lifetime = self.at_ms - self.born_ms;
        let fields = json!({ "total_lifetime_ms": lifetime, "total_switches": self.switches });
        self.push("TERMINATION_EVENT", "PEER_TERMINATE", &fields);
    }

    /// Two switches and an end.
    fn whole() -> Self {
        let mut log = Self::attached();
        log.switch();
        log.switch();
        log.end();
        log
    }

    fn judged(&self) -> Findings {
        let lines: Vec<_> = self.lines.iter().map(Value::to_string).collect();
        judged(&lines, &Expectations::default())
    }

    /// Index of the nth line of this type.
    fn nth(&self, kind: &str, n: usize) -> usize {
        let mut all = self.lines.iter().enumerate().filter(|(_, line)| line["event_type"] == kind);
        all.nth(n).unwrap().0
    }

    /// The log is refused for this at this line (from 1); more may follow from it.
    #[track_caller]
    fn refused(&self, check: Check, line: usize) {
        let findings = self.judged();
        assert!(found(&findings).contains(&(check, line as u64)), "{check:?} at {line}: {}", findings.text());
    }
}

#[test]
fn r6_1_what_is_not_doctored_is_good() {
    let findings = Log::whole().judged();
    assert!(findings.good, "{}", findings.text());
    assert_eq!((findings.sessions.seen, findings.sessions.live, findings.events), (1, 0, 14));
}

/// R1.3, I3: a state change twice, missing, rolled back.
#[test]
fn r1_3_versions_are_contiguous() {
    let mut log = Log::whole();
    let at = log.nth("STATE_CHANGE", 2);
    log.lines.insert(at + 1, log.lines[at].clone());
    log.refused(Check::Version, at + 2);

    let mut log = Log::whole();
    log.lines.remove(at);
    log.refused(Check::Version, at + 1);

    let mut log = Log::whole();
    let at = log.nth("STATE_CHANGE", 4);
    log.lines[at]["state_version"] = json!(1);
    log.refused(Check::Rollback, at + 1);

    let mut log = Log::whole();
    let at = log.nth("STATE_CHANGE", 0);
    log.lines[at]["state_version"] = json!(1);
    log.refused(Check::Version, at + 1);
}

/// R1.3, I3: the term rises with its owner's event and never else, and never falls.
#[test]
fn r1_3_terms_begin_with_their_owner() {
    let restarted = |version: u64, reason: &str| {
        let mut log = Log::attached();
        log.version = version - 1;
        log.change("RECOVERING", reason);
        log.confirm();
        log
    };
    let next_term = 1 << 40;
    let findings = restarted(next_term, "OWNER_RESTART").judged();
    assert!(findings.good, "{}", findings.text());
    restarted(next_term, "RECOVERY_START").refused(Check::Term, 5);
    restarted(2, "OWNER_RESTART").refused(Check::Term, 5);
    restarted(next_term + 1, "OWNER_TAKEOVER").refused(Check::Version, 5);
    restarted(2 * next_term, "OWNER_TAKEOVER").refused(Check::Version, 5);
    let mut log = restarted(next_term, "OWNER_TAKEOVER");
    log.version = 2;
    log.change("RECOVERING", "RECOVERY_START");
    log.refused(Check::Rollback, 9);
}

/// I4, I2: nothing after TERMINATED, and no second creation.
#[test]
fn r1_2_an_end_is_final_and_a_session_is_created_once() {
    let mut log = Log::whole();
    log.change("ATTACHED", "TRANSPORT_SWITCH_OK");
    log.refused(Check::Final, 15);

    let mut log = Log::whole();
    log.lines.push(log.lines[1].clone());
    log.refused(Check::Creation, 15);

    let mut log = Log::whole();
    log.lines.remove(1);
    log.refused(Check::Creation, 2);
}

/// R1.5, I8: a wrong state before, a transition that there is not, a reason that there is not.
#[test]
fn r1_5_states_are_chained_by_rows_of_the_table() {
    let mut log = Log::whole();
    let at = log.nth("STATE_CHANGE", 2);
    log.lines[at]["previous_state"] = json!("VOLATILE");
    log.refused(Check::Chain, at + 1);

    let mut log = Log::whole();
    log.lines[at]["new_state"] = json!("VOLATILE");
    log.refused(Check::Transition, at + 1);

    let mut log = Log::whole();
    log.lines[at]["reason_code"] = json!("TRANSPORT_SWITCH_OK");
    log.refused(Check::Transition, at + 1);

    let mut log = Log::whole();
    log.lines[at]["reason_code"] = json!("BORED");
    log.refused(Check::Schema, at + 1);
    log.refused(Check::Transition, at + 1);
}

/// I8: each switch and each end has its events, once, with its version and reason.
#[test]
fn r1_5_a_transition_has_its_events_once() {
    for (kind, check) in [
        ("TRANSPORT_SWITCH", Check::Missing),
        ("RECOVERY_COMPLETE", Check::Missing),
        ("TERMINATION_EVENT", Check::Missing),
    ] {
        let mut log = Log::whole();
        let at = log.nth(kind, 0);
        log.lines.remove(at);
        // Something else follows: the log does not just end here.
        log.node("TELEMETRY_DEGRADED", &json!({ "dropped": 1 }));
        log.lines.last_mut().unwrap()["event_type"] = json!("NODE_STOPPED");
        assert!(found(&log.judged()).iter().any(|(found, _)| *found == check), "{kind}");

        let mut log = Log::whole();
        log.lines.insert(at + 1, log.lines[at].clone());
        log.refused(Check::Current, at + 2);

        let mut log = Log::whole();
        log.lines[at]["state_version"] = json!(1);
        log.refused(Check::Current, at + 1);

        let mut log = Log::whole();
        log.lines[at]["reason_code"] = json!("HEALTH_RECOVERED");
        log.refused(Check::Current, at + 1);
    }
}

/// Events that are summarised may come late, but not with a version that is over or not there yet.
#[test]
fn r6_1_other_events_carry_the_current_version() {
    let reject = |version: u64, late_ms: i64| {
        let mut log = Log::whole();
        log.at_ms += late_ms;
        (log.version, log.epoch) = (version, 0);
        let fields = json!({ "remote": "192.0.2.9:1", "retry_after_ms": 0, "suppressed": 3 });
        log.push("REATTACH_REJECT", "RATE_LIMITED", &fields);
        log
    };
    let last = Log::whole().version;
    assert!(reject(last, 0).judged().good);
    assert!(reject(last - 1, -1_000).judged().good, "a summary of what was before the end");
    reject(last - 1, 0).refused(Check::Current, 15);
    reject(last + 1, 0).refused(Check::Current, 15);
}

/// I11: an epoch comes once.
#[test]
fn r1_9_epochs_rise() {
    let mut log = Log::whole();
    let at = log.nth("TRANSPORT_SWITCH", 1);
    log.lines[at]["epoch"] = json!(2);
    log.refused(Check::Epoch, at + 1);
}

/// R1.7, I7: no more switches in a minute than policy allows; the minute after is another one.
#[test]
fn r1_7_switches_per_minute_are_bounded() {
    let mut log = Log::attached();
    (0..8).for_each(|_| log.switch());
    assert!(log.judged().good);
    let mut later = log.clone();
    later.at_ms += MINUTE_MS;
    (0..8).for_each(|_| later.switch());
    assert!(later.judged().good, "{}", later.judged().text());
    log.switch();
    let at = log.nth("TRANSPORT_SWITCH", 8);
    log.refused(Check::Switches, at + 1);
}

/// R1.6, I6: RECOVERING and BIRTH end in time, also when the log just goes on without them.
#[test]
fn r1_6_recovering_is_bounded() {
    let mut log = Log::attached();
    log.change("RECOVERING", "TRANSPORT_DEAD");
    let lost = log.clone();
    log.at_ms += 15 * MINUTE_MS;
    log.change("TERMINATED", "TTL_TRANSPORT_LOSS_EXPIRED");
    assert!(log.judged().good, "{}", log.judged().text());
    let mut late = lost.clone();
    late.at_ms += 16 * MINUTE_MS;
    late.change("TERMINATED", "TTL_TRANSPORT_LOSS_EXPIRED");
    late.refused(Check::Bounded, 6);
    let mut silent = lost.clone();
    silent.at_ms += 16 * MINUTE_MS;
    silent.node("TELEMETRY_DEGRADED", &json!({ "dropped": 1 }));
    silent.refused(Check::Bounded, 5);
    let mut away = lost;
    away.at_ms += 16 * MINUTE_MS;
    away.node("NODE_STARTED", &json!({}));
    away.change("TERMINATED", "TTL_TRANSPORT_LOSS_EXPIRED");
    assert!(away.judged().good, "{}", away.judged().text());

    let attempts = |count: i64, pause_ms: i64| {
        let mut log = Log::attached();
        log.change("RECOVERING", "RECOVERY_START");
        for _ in 0..count {
            log.at_ms += pause_ms;
            log.change("RECOVERING", "RECOVERY_RETRY");
        }
        log
    };
    assert!(attempts(9, 5_100).judged().good, "a pause ends the burst");
    attempts(12, 4_000).refused(Check::Bounded, 14);

    let mut log = Log::attached();
    log.lines.truncate(3);
    log.at_ms += MINUTE_MS;
    log.node("TELEMETRY_DEGRADED", &json!({ "dropped": 1 }));
    log.refused(Check::Bounded, 3);
}

/// I3: a gap is explained by a notice beside it that counts enough lines, before or after, or by a start in between.
#[test]
fn r1_3_a_gap_is_legal_beside_its_explanation_only() {
    let gap = |explanation: &str, place: usize, dropped: u64| {
        let mut log = Log::whole();
        // The first switch whole: four lines, two versions.
        log.lines.drain(4..8);
        let lines = log.lines.split_off(place);
        match explanation {
            "" => {}
            "NODE_STARTED" => log.node("NODE_STARTED", &json!({})),
            notice => log.node(notice, &json!({ "dropped": dropped })),
        }
        log.lines.extend(lines);
        log
    };
    gap("", 4, 0).refused(Check::Version, 5);
    for (explanation, place, dropped) in [
        ("NODE_STARTED", 4, 0),
        ("TELEMETRY_DEGRADED", 4, 4),
        ("TELEMETRY_DEGRADED", 2, 4),
        ("TELEMETRY_DEGRADED", 9, 2),
    ] {
        let findings = gap(explanation, place, dropped).judged();
        assert!(findings.good, "{explanation} at {place}: {}", findings.text());
        assert_eq!(findings.gaps.telemetry_degraded + findings.gaps.node_started, 1);
    }
    gap("TELEMETRY_DEGRADED", 4, 1).refused(Check::Version, 6);
    gap("NODE_STARTED", 3, 0).refused(Check::Version, 6);
    gap("NODE_STARTED", 9, 0).refused(Check::Version, 5);
}

/// R7.3: lines that died with their node may have kept a bound; without its death there would be no excuse.
#[test]
fn r7_3_a_bound_is_not_judged_across_a_gap() {
    let late = |died: bool| {
        let mut log = Log::attached();
        let attached = log.lines.pop().unwrap();
        log.at_ms += MINUTE_MS / 2;
        if died {
            log.node("NODE_STARTED", &json!({}));
        } else {
            log.lines.push(attached);
            log.lines.last_mut().unwrap()["ts_ms"] = json!(log.at_ms);
        }
        log.switch();
        log.end();
        log
    };
    let findings = late(true).judged();
    assert!(findings.good, "{}", findings.text());
    late(false).refused(Check::Bounded, 4);
}

/// R7.3, R1.6: a line of an older term, written late, is no gap: it excuses no bound.
#[test]
fn r7_3_a_late_line_of_an_older_term_excuses_no_bound() {
    let mut log = Log::attached();
    let seen_ms = log.at_ms - 10;
    log.node("NODE_STARTED", &json!({}));
    (log.state, log.version) = (json!(null), 1 << 40);
    log.change("RECOVERING", "OWNER_RESTART");
    let fields = json!({ "remote": "192.0.2.1:7", "retry_after_ms": 9, "suppressed": 1 });
    log.version = 1;
    log.push("REATTACH_REJECT", "RATE_LIMITED", &fields);
    log.lines.last_mut().unwrap()["ts_ms"] = json!(seen_ms);
    log.version = 1 << 40;
    log.at_ms += 60 * MINUTE_MS;
    log.change("RECOVERING", "RECOVERY_RETRY");
    log.refused(Check::Bounded, 8);
    assert_eq!(found(&log.judged()), [(Check::Bounded, 8)]);
}

/// R6.1, R1.3: that another node has a session may be told after a start without the last version, in the last term.
#[test]
fn r6_1_a_session_that_is_gone_has_the_term_that_it_had() {
    let gone = |is_started: bool, version: u64, term: u64| {
        let mut log = Log::attached();
        if is_started {
            log.node("NODE_STARTED", &json!({}));
        }
        log.version = version;
        let fields = json!({ "term": term, "from": "gw1", "to": null });
        log.push("SESSION_OWNER_TRANSFERRED", "OWNER_TAKEOVER", &fields);
        log
    };
    for term in [0, 1] {
        let findings = gone(true, term << 40, term).judged();
        assert!(findings.good, "{}", findings.text());
    }
    gone(true, 0, 1).refused(Check::Current, 6);
    gone(false, 0, 0).refused(Check::Current, 5);
}

/// Totals at the end are what the log shows.
#[test]
fn r6_1_totals_are_right() {
    for (field, value) in [("total_switches", json!(3)), ("total_lifetime_ms", json!(90_000))] {
        let mut log = Log::whole();
        log.lines.last_mut().unwrap()[field] = value;
        log.refused(Check::Totals, 14);
    }
}

/// R7.3: a session that ended with the memory of its node has one line, after the start.
#[test]
fn r7_3_a_forgotten_session_ends_after_a_start_only() {
    let forgotten = |is_started: bool| {
        let mut log = Log::attached();
        if is_started {
            log.node("NODE_STARTED", &json!({}));
        }
        log.version = 1 << 40;
        let fields = json!({ "total_lifetime_ms": 0, "total_switches": 0 });
        log.push("TERMINATION_EVENT", "OWNER_RESTART", &fields);
        log
    };
    let findings = forgotten(true).judged();
    assert!(findings.good && findings.sessions.live == 0, "{}", findings.text());
    forgotten(false).refused(Check::Missing, 5);
}

/// R7.3, R1.3: a session that was loaded from the store goes on with the next term, after a start only, and not after its
/// end.
#[test]
fn r7_3_a_loaded_session_begins_a_term_after_a_start() {
    let loaded = |mut log: Log, is_started: bool, version: u64| {
        if is_started {
            log.node("NODE_STARTED", &json!({}));
        }
        log.state = json!(null);
        log.version = version;
        log.change("RECOVERING", "OWNER_RESTART");
        log.change("RECOVERING", "RECOVERY_RETRY");
        log.confirm();
        log
    };
    let next_term = 1 << 40;
    let findings = loaded(Log::attached(), true, next_term).judged();
    assert!(findings.good && findings.sessions.live == 1, "{}", findings.text());
    loaded(Log::attached(), false, next_term).refused(Check::Missing, 5);
    loaded(Log::attached(), true, 2).refused(Check::Term, 6);
    loaded(Log::attached(), true, next_term + 1).refused(Check::Term, 6);
    loaded(Log::whole(), true, next_term).refused(Check::Final, 16);
    for (reason, is_good) in [("KEY_REVOKED", true), ("PEER_TERMINATE", false)] {
        let mut log = Log::attached();
        log.node("NODE_STARTED", &json!({}));
        (log.state, log.version) = (json!(null), next_term);
        log.change("TERMINATED", reason);
        let fields = json!({ "total_lifetime_ms": 7, "total_switches": 0 });
        log.push("TERMINATION_EVENT", reason, &fields);
        assert_eq!(log.judged().good, is_good, "{reason}: {}", log.judged().text());
    }
}

/// R6.1, R1.3: whoever becomes the owner of a session does so in the term that begins with it, with the current version.
#[test]
fn r6_1_an_owner_has_the_term_of_the_version() {
    let loaded = |term: u64, behind: u64| {
        let mut log = Log::attached();
        log.node("NODE_STARTED", &json!({}));
        (log.state, log.version) = (json!(null), 1 << 40);
        log.change("RECOVERING", "OWNER_RESTART");
        log.version -= behind;
        log.push(
            "SESSION_OWNER_ACQUIRED",
            "OWNER_RESTART",
            &json!({ "term": term, "from": null, "to": "gw1" }),
        );
        log.version += behind;
        log.change("RECOVERING", "RECOVERY_RETRY");
        log.confirm();
        log
    };
    assert!(loaded(1, 0).judged().good, "{}", loaded(1, 0).judged().text());
    loaded(2, 0).refused(Check::Term, 7);
    loaded(0, 1).refused(Check::Current, 7);
}

/// R6.1: what is no JSON, does not fit the schema, or is cut off.
#[test]
fn r6_1_lines_are_whole_json_objects_of_the_schema() {
    let mut log = Log::whole();
    log.lines[5]["colour"] = json!("red");
    log.refused(Check::Schema, 6);
    let mut log = Log::whole();
    log.lines[1]["policy"] = json!("bank");
    log.refused(Check::Policy, 2);
    let mut log = Log::whole();
    for line in &mut log.lines[1..] {
        line["session_id"] = json!("0123456789ABCDEF0123456789abcdef");
    }
    log.refused(Check::Schema, 2);

    let text: String = Log::whole().lines.iter().map(|line| format!("{line}\n")).collect();
    let strict = Expectations { cut_off: CutOff::IsViolation, ..Expectations::default() };
    for garbage in ["{\"ts_ms\": 1", "[]", "", "garbage"] {
        let findings = check_text("log", &format!("{garbage}\n{text}"), &Expectations::default()).unwrap();
        assert_eq!(found(&findings), [(Check::Json, 1)], "{garbage}");
    }
    // The log of a process that was killed while it wrote, and of its successor behind it.
    let (whole, rest) = text.split_at(text.len() - 40);
    let cut = check_text("log", whole, &Expectations::default()).unwrap();
    assert!(cut.good && cut.cut_off.len() == 1, "{}", cut.text());
    assert_eq!(found(&check_text("log", whole, &strict).unwrap()), [(Check::CutOff, 14)]);
    let started = json!({
        "ts_ms": 2_000_000, "event_type": "NODE_STARTED", "session_id": null, "node_id": "gw1",
        "state_version": null, "reason_code": null
    });
    let glued = format!("{whole}{started}\n");
    let findings = check_text("log", &glued, &Expectations::default()).unwrap();
    assert!(findings.good && findings.cut_off.len() == 1, "{}", findings.text());
    assert!(check_text("log", &format!("{whole}{rest}"), &strict).unwrap().good);
    assert!(check_text("log", "", &strict).is_err(), "nothing is no verdict");
}

/// R1.3: of a real log no state change can be taken away, doubled or moved unnoticed.
#[test]
fn r1_3_every_state_change_of_a_real_log_counts() {
    let (lines, setup) = real_log();
    let expectations = super::expecting(&setup.policy);
    let started = lines.iter().rposition(|line| line.contains("NODE_STARTED")).unwrap();
    let (mut tried, mut legal) = (0, 0);
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("STATE_CHANGE")) {
        let mut doubled = lines.clone();
        doubled.insert(at, line.clone());
        assert!(!judged(&doubled, &expectations).good, "line {at} twice");
        let mut missing = lines.clone();
        missing.remove(at);
        let findings = judged(&missing, &expectations);
        // The last transition before the death may be lost with the process.
        legal += u32::from(findings.good);
        assert!(!findings.good || at < started, "without line {at}");
        tried += 1;
    }
    assert!(tried > 15 && legal <= 2, "{legal} of {tried}");
}

/// R1.6: how late a timer may be is the caller's to say.
#[test]
fn r1_6_lateness_is_the_callers() {
    let mut log = Log::attached();
    log.change("RECOVERING", "TRANSPORT_DEAD");
    log.at_ms += 15 * MINUTE_MS + 7_000;
    log.change("TERMINATED", "TTL_TRANSPORT_LOSS_EXPIRED");
    log.refused(Check::Bounded, 6);
    let lines: Vec<_> = log.lines.iter().map(Value::to_string).collect();
    let patient = Expectations { lateness: Duration::from_secs(10), ..Expectations::default() };
    assert!(judged(&lines, &patient).good);
}
