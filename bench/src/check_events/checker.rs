//! The log as a whole: from lines to records, from records to sessions.

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Result, bail};
use serde_json::Value;

use super::findings::{Check, Findings, KEPT_MAX, Place, Violation};
use super::losses::{Gap, Losses};
use super::record::{Kind, Record, SessionKey, Version};
use super::schema::Schema;
use super::trail::Trail;
use super::{Beginning, CutOff, Expectations};

/// What lines are counted as that do not fit the schema.
const REFUSED: &str = "(refused)";

/// The preset of sessions whose creation is not in the log, unless the policy is given.
const DEFAULT_PRESET: &str = "edge";

/// A life of the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// How many NODE_STARTED there were.
    pub(super) number: u32,
    /// When it began.
    pub(super) start_ms: i64,
}

/// Judges line after line.
#[derive(Debug)]
pub(super) struct Checker {
    expectations: Expectations,
    schema: Schema,
    sessions: BTreeMap<SessionKey, Trail>,
    losses: Losses,
    findings: Findings,
    file: Rc<str>,
    line: u64,
    /// Lines of all files so far.
    ordinal: u64,
    run: Run,
    last_ms: i64,
}

/// Where the log is, for what is found there.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) losses: &'a mut Losses,
    findings: &'a mut Findings,
    pub(super) key: SessionKey,
    pub(super) file: &'a Rc<str>,
    pub(super) line: u64,
    pub(super) ordinal: u64,
    pub(super) run: Run,
    pub(super) lateness_ms: i64,
}

impl Scene<'_> {
    /// A rule is broken here.
    pub(super) fn blame(&mut self, check: Check, expected: impl Into<String>, found: impl Into<String>) {
        let violation = self.violation(check, expected, found);
        self.findings.add(violation);
    }

    /// Lines are missing: a violation, unless it is explained.
    pub(super) fn miss(
        &mut self,
        gap: Gap,
        check: Check,
        expected: impl Into<String>,
        found: String,
    ) -> bool {
        let violation = self.violation(check, expected, found);
        self.losses.explain(gap, violation)
    }

    fn violation(&self, check: Check, expected: impl Into<String>, found: impl Into<String>) -> Violation {
        Violation {
            place: Place { file: self.file.to_string(), line: self.line },
            session: Some(self.key.to_string()),
            check,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

impl Checker {
    /// # Errors
    /// The preset is not known, or the schema of the tree is none.
    pub(super) fn new(expectations: &Expectations) -> Result<Self> {
        expectations.policy.limits(DEFAULT_PRESET)?;
        Ok(Self {
            expectations: expectations.clone(),
            schema: Schema::new()?,
            sessions: BTreeMap::new(),
            losses: Losses::default(),
            findings: Findings::default(),
            file: Rc::from(""),
            line: 0,
            ordinal: 0,
            run: Run::default(),
            last_ms: 0,
        })
    }

    pub(super) fn begin_file(&mut self, name: &str) {
        self.file = Rc::from(name);
        self.line = 0;
        self.findings.files += 1;
    }

    /// So many lines of the file are not of this log.
    pub(super) const fn pass_over(&mut self, lines: u64) {
        self.line = lines;
    }

    pub(super) fn line(&mut self, octets: &[u8]) {
        self.next_line();
        if let Some(value) = object(octets) {
            return self.value(&value);
        }
        // A crash cut a line off, and the next process wrote on behind it.
        let behind = octets.iter().rposition(|octet| *octet == b'{').filter(|at| *at > 0);
        match behind.and_then(|at| object(octets.get(at..)?)) {
            Some(value) => {
                self.cut_off();
                self.value(&value);
            }
            None => self.blame(Check::Json, "a JSON object", shown(octets)),
        }
    }

    /// What stands behind the last line end of a file.
    pub(super) fn unended_line(&mut self, octets: &[u8]) {
        self.next_line();
        match object(octets) {
            Some(value) => self.value(&value),
            None => {
                // No line of the log: what the line before it owes may still come.
                self.ordinal -= 1;
                self.cut_off();
            }
        }
    }

    pub(super) fn too_long(&mut self) {
        self.next_line();
        self.blame(Check::Json, "a line of at most 64 KiB", "a longer one");
    }

    /// # Errors
    /// There was not a single event.
    pub(super) fn finish(mut self) -> Result<Findings> {
        if self.findings.events == 0 {
            bail!("there is not a single event; is this the audit_file of jvpn-controlplane?");
        }
        let lateness_ms = self.lateness_ms();
        for (key, trail) in &mut self.sessions {
            self.findings.sessions.seen += 1;
            self.findings.sessions.live += u64::from(!trail.is_terminated());
            let (file, line) = trail.place();
            let mut scene = Scene {
                losses: &mut self.losses,
                findings: &mut self.findings,
                key: *key,
                file: &file,
                line,
                ordinal: self.ordinal,
                run: self.run,
                lateness_ms,
            };
            trail.end_of_log(&mut scene, self.last_ms);
        }
        for violation in self.losses.expire(u64::MAX) {
            self.findings.add(violation);
        }
        self.findings.gaps.telemetry_degraded = self.losses.by_notice;
        self.findings.gaps.node_started = self.losses.by_start;
        self.findings.good = self.findings.violations_total == 0;
        Ok(self.findings)
    }

    const fn next_line(&mut self) {
        self.line += 1;
        self.ordinal += 1;
    }

    fn lateness_ms(&self) -> i64 {
        i64::try_from(self.expectations.lateness.as_millis()).unwrap_or(i64::MAX)
    }

    fn here(&self) -> Place {
        Place { file: self.file.to_string(), line: self.line }
    }

    fn blame(&mut self, check: Check, expected: &str, found: impl Into<String>) {
        let (expected, found) = (expected.to_owned(), found.into());
        self.findings.add(Violation { place: self.here(), session: None, check, expected, found });
    }

    fn cut_off(&mut self) {
        if self.findings.cut_off.len() < KEPT_MAX {
            self.findings.cut_off.push(self.here());
        }
        if self.expectations.cut_off == CutOff::IsViolation {
            self.blame(Check::CutOff, "a whole line", "one that was cut off");
        }
    }

    fn value(&mut self, value: &Value) {
        let complaint = self.schema.complaint(value);
        let kind = value.get("event_type").and_then(Value::as_str).filter(|_| complaint.is_none());
        let kind = kind.unwrap_or(REFUSED);
        *self.findings.by_type.entry(kind.to_owned()).or_default() += 1;
        self.findings.events += 1;
        let fits = complaint.is_none();
        if let Some(complaint) = complaint {
            self.blame(Check::Schema, "a line that fits docs/audit-event.schema.json", complaint);
        }
        match Record::read(value) {
            Ok(record) => self.record(record),
            Err(why) if fits => self.blame(Check::Schema, "a line that can be read", why),
            Err(_) => {}
        }
    }

    fn record(&mut self, record: Record) {
        for violation in self.losses.expire(self.ordinal) {
            self.findings.add(violation);
        }
        self.last_ms = record.at_ms;
        match record.kind {
            Kind::NodeStarted => {
                self.run = Run { number: self.run.number + 1, start_ms: record.at_ms };
                self.losses.start(self.ordinal);
            }
            Kind::TelemetryDegraded { dropped } => self.losses.notice(self.ordinal, dropped),
            Kind::SessionCreated { .. }
            | Kind::StateChange { .. }
            | Kind::TransportSwitch { .. }
            | Kind::RecoveryComplete
            | Kind::Termination { .. }
            | Kind::Owner { .. }
            | Kind::Transferred { .. }
            | Kind::Summarised
            | Kind::Other => {
                if let Some((key, version)) = record.session {
                    self.of_session(key, version, record);
                }
            }
        }
    }

    fn of_session(&mut self, key: SessionKey, version: Version, record: Record) {
        let lateness_ms = self.lateness_ms();
        let mut scene = Scene {
            losses: &mut self.losses,
            findings: &mut self.findings,
            key,
            file: &self.file,
            line: self.line,
            ordinal: self.ordinal,
            run: self.run,
            lateness_ms,
        };
        if let Kind::SessionCreated { policy } = &record.kind {
            if self.sessions.contains_key(&key) {
                return scene.blame(Check::Creation, "one SESSION_CREATED per session", "another one");
            }
            let limits = self.expectations.policy.limits(policy).or_else(|error| {
                scene.blame(Check::Policy, "a preset that is known, or --policy", error.to_string());
                self.expectations.policy.limits(DEFAULT_PRESET)
            });
            // The default preset was looked up at the start.
            if let Ok(limits) = limits {
                self.sessions.insert(key, Trail::created(limits, version, &scene));
            }
            return;
        }
        if !self.sessions.contains_key(&key) {
            if record.kind == Kind::Other {
                return;
            }
            scene.findings.sessions.older += 1;
            let gap = Gap { since: 1, at: scene.ordinal, missing: 1 };
            if self.expectations.beginning == Beginning::Whole {
                let found = "events of a session that was never created (--midway if older files are gone)";
                scene.miss(gap, Check::Creation, "SESSION_CREATED first", found.to_owned());
            }
            if let Ok(limits) = self.expectations.policy.limits(DEFAULT_PRESET) {
                self.sessions.insert(key, Trail::older(limits, &scene));
            }
        }
        if let Some(trail) = self.sessions.get_mut(&key) {
            trail.record(&mut scene, version, record);
        }
    }
}

fn object(octets: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Value>(octets).ok().filter(Value::is_object)
}

/// The beginning of a line that cannot be read.
fn shown(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets.get(..80).unwrap_or(octets)).into_owned();
    format!("{text:?}")
}
