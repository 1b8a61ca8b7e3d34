//! What was found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

/// Violations that are kept; further ones are only counted.
pub const KEPT_MAX: usize = 1_000;

/// A rule that a log may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// A line is a JSON object (R6.1).
    Json,
    /// It fits the schema (R6.1).
    Schema,
    /// A session is created once, before anything else (I2).
    Creation,
    /// Versions are contiguous from 0, none twice (I3).
    Version,
    /// Versions never fall (I3, R1.3).
    Rollback,
    /// A term begins with its owner's event, and only then (I3).
    Term,
    /// TERMINATED is final (I4).
    Final,
    /// `previous_state` is the last `new_state` (I8).
    Chain,
    /// State, next state and reason are a row of the table (I8, R1.5).
    Transition,
    /// Other events carry the current version and its reason (I8).
    Current,
    /// A transition has the events that belong to it, once (I8).
    Missing,
    /// Epochs rise (I11).
    Epoch,
    /// Switches per minute (I7).
    Switches,
    /// RECOVERING and BIRTH end in time (I6).
    Bounded,
    /// Totals at the end are what the log shows.
    Totals,
    /// The preset is known.
    Policy,
    /// A line was cut off (`--strict`).
    CutOff,
}

impl Check {
    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Schema => "schema",
            Self::Creation => "creation",
            Self::Version => "version",
            Self::Rollback => "rollback",
            Self::Term => "term",
            Self::Final => "final",
            Self::Chain => "chain",
            Self::Transition => "transition",
            Self::Current => "current",
            Self::Missing => "missing",
            Self::Epoch => "epoch",
            Self::Switches => "switches",
            Self::Bounded => "bounded",
            Self::Totals => "totals",
            Self::Policy => "policy",
            Self::CutOff => "cut-off",
        }
    }

    /// The invariant or requirement behind it.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Json | Self::Schema | Self::CutOff => "R6.1",
            Self::Creation => "I2",
            Self::Version | Self::Rollback | Self::Term => "I3",
            Self::Final => "I4",
            Self::Chain | Self::Transition | Self::Current | Self::Missing | Self::Totals => "I8",
            Self::Epoch => "I11",
            Self::Switches | Self::Policy => "I7",
            Self::Bounded => "I6",
        }
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// As it was given.
    pub file: String,
    /// From 1.
    pub line: u64,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Whose; `None` for lines of the node and lines that cannot be read.
    pub session: Option<String>,
    /// Which rule.
    pub check: Check,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, session, check, expected, found } = self;
        let (name, rule, session) = (check.name(), check.rule(), session.as_deref().unwrap_or("-"));
        write!(f, "{}:{}: session {session}: {name} ({rule}): ", place.file, place.line)?;
        write!(f, "expected {expected}; found {found}")
    }
}

/// Sessions of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sessions {
    /// All.
    pub seen: u64,
    /// Not TERMINATED at the end of the log.
    pub live: u64,
    /// Whose creation is not in the log.
    pub older: u64,
}

/// Gaps that are legal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gaps {
    /// Beside a TELEMETRY_DEGRADED that counts enough lost lines.
    pub telemetry_degraded: u64,
    /// A control plane started in between.
    pub node_started: u64,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Whether nothing was found.
    pub good: bool,
    /// Files.
    pub files: u64,
    /// Lines that are events.
    pub events: u64,
    /// Events by type.
    pub by_type: BTreeMap<String, u64>,
    /// Sessions.
    pub sessions: Sessions,
    /// Gaps that are explained.
    pub gaps: Gaps,
    /// Lines that a crash cut off.
    pub cut_off: Vec<Place>,
    /// Broken rules, in all.
    pub violations_total: u64,
    /// The first of them.
    pub violations: Vec<Violation>,
}

impl Findings {
    pub(super) fn add(&mut self, violation: Violation) {
        self.violations_total += 1;
        if self.violations.len() < KEPT_MAX {
            self.violations.push(violation);
        }
    }

    /// For a person.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Sessions { seen, live, older } = self.sessions;
        let _ = writeln!(text, "sessions  {seen}: {live} live, {} ended; {older} older than the log", {
            seen.saturating_sub(live)
        });
        let _ = writeln!(text, "events    {} in {} file(s)", self.events, self.files);
        for (name, count) in &self.by_type {
            let _ = writeln!(text, "          {count:>9}  {name}");
        }
        let Gaps { telemetry_degraded, node_started } = self.gaps;
        let _ = writeln!(
            text,
            "gaps      {telemetry_degraded} beside TELEMETRY_DEGRADED, {node_started} at a NODE_STARTED"
        );
        for place in &self.cut_off {
            let _ = writeln!(text, "cut off   {}:{}", place.file, place.line);
        }
        for violation in &self.violations {
            let _ = writeln!(text, "{violation}");
        }
        let kept = self.violations.len() as u64;
        if self.violations_total > kept {
            let _ = writeln!(text, "          and {} more", self.violations_total - kept);
        }
        match self.violations_total {
            0 => text.push_str("every rule held\n"),
            many => {
                let _ = writeln!(text, "{many} violation(s)");
            }
        }
        text
    }
}
