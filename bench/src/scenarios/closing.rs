//! How a run on a stage ends: judged or broken off, published, shown.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use super::progress::Progress;
use super::stage::Stage;
use crate::check_events::findings::Findings;
use crate::result::Ending;
use crate::run_dir::RunDir;
use crate::timeline;

/// Whether a run was good, as fields of its result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// `false`: INVALID, or not judged because it was broken off.
    pub valid: bool,
    /// Whole or broken off.
    #[serde(flatten)]
    pub ending: Ending,
    /// What did not hold; empty in a good run.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Notes how it ended. Of one that was broken off that is all that is said.
    pub(super) fn end(&mut self, ending: Ending) {
        self.failures.extend(ending.broken_off.as_ref().map(|why| format!("not complete: {why}")));
        self.ending = ending;
    }
}

/// A report that has a verdict.
pub(super) trait Judged: Serialize {
    /// Title of its pages.
    const TITLE: &'static str;
    /// What it is called when a bound is broken and it is valid all the same.
    const BROKEN: &'static str;

    /// Judges everything, the audit log's findings among it.
    fn judge(&mut self, audit: Findings);
    /// What became of it.
    fn outcome(&self) -> &Outcome;
    /// The same, to be written.
    fn outcome_mut(&mut self) -> &mut Outcome;
    /// For a person.
    fn lines(&self) -> Vec<String>;
}

/// Ends a stage, judges its report or marks it as a part, and publishes it either way.
///
/// # Errors
/// What broke it off; or it cannot be written.
pub(super) fn conclude<R: Judged>(
    mut report: R,
    stage: Stage<'_>,
    measured: Result<()>,
    dir: &mut RunDir,
    progress: &Progress,
) -> Result<R> {
    let judged = stage.end(measured, progress);
    let ending = Ending::of(&judged);
    let judged = judged.map(|audit| report.judge(audit));
    report.outcome_mut().end(ending);
    dir.conclude(R::TITLE, &report, judged)?;
    Ok(report)
}

/// Shows a report on the command line, and fails if something of it did not hold.
///
/// # Errors
/// A bound is broken; INVALID.
pub(super) fn show(report: &impl Judged, json: bool, dir: &Path) -> Result<()> {
    if json {
        timeline::print(&serde_json::to_string_pretty(report)?);
    } else {
        report.lines().iter().for_each(|line| timeline::print(line));
        timeline::print(&format!("\n  result: {0}/result.json, report: {0}/report.html", dir.display()));
    }
    fail(report)
}

fn fail<R: Judged>(report: &R) -> Result<()> {
    let Outcome { valid, failures, .. } = report.outcome();
    if !failures.is_empty() {
        let word = if *valid { R::BROKEN } else { "INVALID" };
        bail!("{word}: {}", failures.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct One(Outcome);

    impl Judged for One {
        const TITLE: &'static str = "";
        const BROKEN: &'static str = "bounds broken";

        fn judge(&mut self, _audit: Findings) {}
        fn outcome(&self) -> &Outcome {
            &self.0
        }
        fn outcome_mut(&mut self) -> &mut Outcome {
            &mut self.0
        }
        fn lines(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn r8_4_a_broken_bound_fails_the_command_by_its_name() {
        let said = |valid, failures: &[&str]| {
            let failures = failures.iter().map(|text| (*text).to_owned()).collect();
            let one = One(Outcome { valid, failures, ..Outcome::default() });
            fail(&one).map_err(|error| error.to_string())
        };
        assert_eq!(said(true, &[]), Ok(()));
        assert_eq!(said(true, &["a", "b"]), Err("bounds broken: a; b".to_owned()));
        assert_eq!(said(false, &["a"]), Err("INVALID: a".to_owned()));
    }
}
