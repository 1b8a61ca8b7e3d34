//! Two results: better, worse, or within noise.
//!
//! A cause differs if a rank test (Mann–Whitney U, two-sided) says that chance alone would shift the outages so in fewer
//! than one of a hundred comparisons, corrected for the number of causes compared (Holm), *and* the median moved by more
//! than 5 % and 1 ms: a difference may be certain and still mean nothing. What is said of p99 stands beside it with its
//! intervals and is not tested: few trials say little about it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::result::{CauseResult, Report};
use super::stats;
use crate::timeline::print;

/// Chance that one of all comparisons errs.
const ALPHA: f64 = 0.01;
/// Shifts of the median below both mean nothing.
const LEAST_SHARE: f64 = 0.05;
const LEAST_MS: f64 = 1.0;

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The second one is faster.
    Better,
    /// The second one is slower.
    Worse,
    /// No more than noise.
    Noise,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Noise => "within noise",
        }
    }
}

/// One cause in both.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// In the first.
    pub before: CauseResult,
    /// In the second.
    pub after: CauseResult,
    /// Chance that noise alone shifts it so.
    pub p: f64,
    /// What that means.
    pub verdict: Verdict,
}

/// Compares what both have.
#[must_use]
pub fn compare(before: &Report, after: &Report) -> Vec<Comparison> {
    let mut pairs: Vec<_> = before
        .causes
        .iter()
        .filter_map(|a| {
            let b = after.causes.iter().find(|b| (b.cause, b.rtt_ms) == (a.cause, a.rtt_ms))?;
            let p = stats::mann_whitney(&a.outages_ms, &b.outages_ms);
            Some(Comparison { before: a.clone(), after: b.clone(), p, verdict: Verdict::Noise })
        })
        .collect();
    // Holm: the smallest p must pass the strictest bound, and the first that fails ends it.
    let mut order: Vec<_> = (0..pairs.len()).collect();
    order.sort_by(|a, b| pairs[*a].p.total_cmp(&pairs[*b].p));
    for (rank, index) in order.iter().enumerate() {
        let bound = ALPHA / (pairs.len() - rank) as f64;
        let pair = &mut pairs[*index];
        if pair.p > bound {
            break;
        }
        let shift = pair.after.outage_p50_ms - pair.before.outage_p50_ms;
        if shift.abs() > LEAST_MS.max(LEAST_SHARE * pair.before.outage_p50_ms) {
            pair.verdict = if shift < 0.0 { Verdict::Better } else { Verdict::Worse };
        }
    }
    pairs
}

/// Prints the comparison.
///
/// # Errors
/// A file is missing, is no result, or is INVALID; or nothing is in both.
pub fn run(before: &Path, after: &Path) -> Result<()> {
    let (a, b) = (load(before)?, load(after)?);
    let pairs = compare(&a, &b);
    ensure!(!pairs.is_empty(), "no cause at the same round-trip time is in both results");
    for (name, one, other) in [
        ("profile", a.profile.clone(), b.profile.clone()),
        ("policy", a.policy.clone(), b.policy.clone()),
        ("clients", a.clients.to_string(), b.clients.to_string()),
        ("build", shown(&a, "build"), shown(&b, "build")),
        ("cpu", shown(&a, "cpu"), shown(&b, "cpu")),
    ] {
        if one != other {
            print(&format!("  note: {name} differs: {one:?}, then {other:?}"));
        }
    }
    print(&format!(
        "  {:<20}{:>5}{:>24}{:>32}{:>10}  verdict",
        "cause", "RTT", "p50, ms", "p99, ms [95 % interval]", "p"
    ));
    for Comparison { before, after, p, verdict } in pairs {
        let p99 = |one: &CauseResult| {
            let [low, high] = one.outage_p99_ci95_ms;
            format!("{:.0} [{low:.0}–{high:.0}]", one.outage_p99_ms)
        };
        print(&format!(
            "  {:<20}{:>5}{:>24}{:>32}{:>10.4}  {}",
            before.cause.name(),
            before.rtt_ms,
            format!("{:.1} → {:.1}", before.outage_p50_ms, after.outage_p50_ms),
            format!("{} → {}", p99(&before), p99(&after)),
            p,
            verdict.name()
        ));
    }
    print(&format!(
        "  Mann–Whitney U on all outages, two-sided, {ALPHA} over all causes (Holm), and a median that moved by more than \
         {:.0} % and {LEAST_MS} ms.",
        LEAST_SHARE * 100.0
    ));
    Ok(())
}

fn shown(report: &Report, field: &str) -> String {
    report.environment.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

fn load(path: &Path) -> Result<Report> {
    let path = if path.is_dir() { path.join("result.json") } else { path.to_owned() };
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_str(&text)
        .with_context(|| format!("{} is no result of `recovery`", path.display()))?;
    ensure!(report.valid, "{} is INVALID: it proves nothing", path.display());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::trial;
    use super::super::result::summarise;
    use super::super::{Cause, record::Trial};
    use super::*;

    fn report(outages: impl Iterator<Item = f64>) -> Report {
        let trials: Vec<Trial> =
            (1..).zip(outages).map(|(n, outage)| trial(Cause::LinkDown, n, outage)).collect();
        let causes = summarise(&trials.iter().collect::<Vec<_>>(), "edge", 1).into_iter().collect();
        Report {
            scenario: "recovery".into(),
            form: 1,
            valid: true,
            complete: true,
            problems: Vec::new(),
            broken_off: None,
            seed: 1,
            profile: "plain".into(),
            preset: "edge".into(),
            policy: String::new(),
            clients: 4,
            trials_asked: 40,
            took_s: 1.0,
            environment: serde_json::json!({}),
            lives: Vec::new(),
            aims: Vec::new(),
            causes,
        }
    }

    #[test]
    fn r8_4_a_shift_is_told_from_noise() {
        let base = || report((0..40).map(|n| 100.0 + f64::from(n * 7 % 40)));
        let verdict = |other: Report| compare(&base(), &other)[0].verdict;
        assert_eq!(verdict(base()), Verdict::Noise);
        assert_eq!(verdict(report((0..40).map(|n| 70.0 + f64::from(n * 7 % 40)))), Verdict::Better);
        assert_eq!(verdict(report((0..40).map(|n| 130.0 + f64::from(n * 7 % 40)))), Verdict::Worse);
        assert_eq!(verdict(report((0..40).map(|n| 101.0 + f64::from(n * 11 % 40)))), Verdict::Noise);
        assert_eq!(
            verdict(report((0..3).map(|n| 130.0 + f64::from(n)))),
            Verdict::Noise,
            "three are too few"
        );
    }

    #[test]
    fn an_invalid_result_is_not_compared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result.json");
        let bad = Report { valid: false, ..report(std::iter::once(1.0)) };
        fs::write(&path, serde_json::to_string(&bad).unwrap()).unwrap();
        assert!(run(dir.path(), &path).unwrap_err().to_string().contains("INVALID"));
        fs::write(&path, "{}").unwrap();
        assert!(format!("{:#}", run(dir.path(), &path).unwrap_err()).contains("no result"));
    }
}
