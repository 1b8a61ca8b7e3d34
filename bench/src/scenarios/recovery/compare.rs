//! Two results: better, worse, or within noise.
//!
//! A cause differs if a rank test (Mann–Whitney U, two-sided) says that chance alone would shift the outages so in fewer
//! than one of a hundred comparisons, corrected for the number of causes compared (Holm), *and* the median moved by more
//! than 5 % and 1 ms: a difference may be certain and still mean nothing. What is tested are incidents: clients that one
//! kill struck are one witness, whose word is their median. So few that nothing could come of it, and results that do not
//! tell which belong together, are no noise but not judged. What is said of p99 stands beside it with its intervals and is
//! not tested: few trials say little about it.
//!
//! Runs that were asked for different things (paths, policy, clients) are refused: what differs would be taken for what
//! the product does. Another machine, kernel or build is said above the verdicts: that may be what is compared.
//!
//! Of two suites, part is compared with part, over all causes of all parts. What a suite has one value of (cost, storm) is
//! shown side by side: nothing tells its noise.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::aims::AimRow;
use super::result::{CauseResult, Report};
use super::stats;
use crate::environment::shown;
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
    /// So few incidents that none could look different.
    TooFew,
    /// A result does not tell which trials are of one incident.
    Unknown,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Noise => "within noise",
            Self::TooFew => "not judged: too few incidents",
            Self::Unknown => "not judged: incidents were not kept",
        }
    }
}

/// One cause in both.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The part of a suite; empty of a recovery run.
    pub part: String,
    /// In the first.
    pub before: CauseResult,
    /// In the second.
    pub after: CauseResult,
    /// Chance that noise alone shifts it so; absent where that is not judged.
    pub p: Option<f64>,
    /// What that means.
    pub verdict: Verdict,
}

/// A result that can be compared: a recovery run as one part without a name, or a suite.
#[derive(Clone, Debug, PartialEq)]
struct Subject {
    is_suite: bool,
    /// What was asked for: must be the same in both.
    asked: Vec<(&'static str, String)>,
    /// What it ran on, and how much of it there is: said if it differs.
    conditions: Vec<(&'static str, String)>,
    parts: Vec<Part>,
    aims: Vec<AimRow>,
}

/// Causes that were measured under one policy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Part {
    name: String,
    preset: Option<String>,
    causes: Vec<CauseResult>,
}

/// What a comparison needs of the result of a suite.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Suite {
    valid: bool,
    complete: bool,
    size: String,
    clients: u8,
    environment: Value,
    parts: Vec<Part>,
    aims: Vec<AimRow>,
}

impl Subject {
    fn of_recovery(report: Report) -> Self {
        let asked = vec![
            ("profile", report.profile),
            ("content of the profile", report.profile_text),
            ("delays", report.delays.name().to_owned()),
            ("policy", report.policy),
            ("clients", report.clients.to_string()),
        ];
        let mut conditions = machine(&report.environment);
        conditions.push(("completeness", completeness(report.complete)));
        let part = Part { name: String::new(), preset: Some(report.preset), causes: report.causes };
        Self { is_suite: false, asked, conditions, parts: vec![part], aims: Vec::new() }
    }

    fn of_suite(suite: Suite) -> Self {
        let asked = vec![("clients", suite.clients.to_string())];
        let mut conditions = machine(&suite.environment);
        // Of another size there are more trials of the same.
        conditions.extend([("size", suite.size), ("completeness", completeness(suite.complete))]);
        Self { is_suite: true, asked, conditions, parts: suite.parts, aims: suite.aims }
    }

    /// Everything that was measured often, by part.
    fn causes(&self) -> impl Iterator<Item = (&Part, &CauseResult)> {
        self.parts.iter().flat_map(|part| part.causes.iter().map(move |cause| (part, cause)))
    }

    fn find(&self, part: &str, like: &CauseResult) -> Option<&CauseResult> {
        let same = |(of, cause): &(&Part, &CauseResult)| {
            of.name == part && (cause.cause, cause.rtt_ms) == (like.cause, like.rtt_ms)
        };
        self.causes().find(same).map(|(_, cause)| cause)
    }
}

fn completeness(complete: bool) -> String {
    if complete { "whole" } else { "a part of what was asked for" }.to_owned()
}

fn machine(environment: &Value) -> Vec<(&'static str, String)> {
    ["build", "cpu", "cpus", "kernel"].map(|field| (field, shown(environment.get(field)))).into()
}

/// Compares what both have.
fn compare(before: &Subject, after: &Subject) -> Vec<Comparison> {
    let mut pairs: Vec<_> = before
        .causes()
        .filter_map(|(part, a)| {
            let b = after.find(&part.name, a)?;
            let (p, verdict) = match (a.witnesses(), b.witnesses()) {
                (Some(a), Some(b)) if can_tell(a.len(), b.len()) => {
                    (Some(stats::mann_whitney(a, b)), Verdict::Noise)
                }
                (Some(_), Some(_)) => (None, Verdict::TooFew),
                (None, _) | (_, None) => (None, Verdict::Unknown),
            };
            let part = part.name.clone();
            Some(Comparison { part, before: a.clone(), after: b.clone(), p, verdict })
        })
        .collect();
    // Holm: the smallest p must pass the strictest bound, and the first that fails ends it.
    let mut tested: Vec<_> = pairs.iter_mut().filter_map(|pair| Some((pair.p?, pair))).collect();
    tested.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let count = tested.len();
    for (rank, (p, pair)) in tested.into_iter().enumerate() {
        if p > ALPHA / (count - rank) as f64 {
            break;
        }
        // Of what was tested: the median of all clients may move where that of no incident does.
        let [from, to] =
            [&pair.before, &pair.after].map(|one| stats::median(one.witnesses().unwrap_or_default()));
        let shift = to - from;
        if shift.abs() > LEAST_MS.max(LEAST_SHARE * from) {
            pair.verdict = if shift < 0.0 { Verdict::Better } else { Verdict::Worse };
        }
    }
    pairs
}

/// Whether so many incidents on each side could look different at all, however far apart they lie.
fn can_tell(before: usize, after: usize) -> bool {
    let apart: Vec<_> = (0..before + after).map(|rank| rank as f64).collect();
    let (low, high) = apart.split_at(before);
    stats::mann_whitney(low, high) <= ALPHA
}

/// What was asked for otherwise in the second. What a result did not keep is not known to differ: a note says so.
fn differences(before: &Subject, after: &Subject) -> Vec<String> {
    let asked = before.asked.iter().zip(&after.asked);
    let asked = asked.map(|((name, one), (_, other))| ((*name).to_owned(), one.clone(), other.clone()));
    let preset = |part: &Part| part.preset.clone().unwrap_or_default();
    let presets = before.parts.iter().filter_map(|part| {
        let other = after.parts.iter().find(|other| other.name == part.name)?;
        Some((format!("preset{}", of_part(&part.name)), preset(part), preset(other)))
    });
    let differ =
        asked.chain(presets).filter(|(_, one, other)| one != other && !one.is_empty() && !other.is_empty());
    differ.map(|(name, one, other)| format!("{name}: {}", text_difference(&one, &other))).collect()
}

/// What differs in how both were made and is no reason to refuse them, and what is in one of them only, a line each.
fn notes(before: &Subject, after: &Subject) -> Vec<String> {
    let mut lines = Vec::new();
    let all = |of: &Subject| of.asked.iter().chain(&of.conditions).cloned().collect::<Vec<_>>();
    for ((name, one), (_, other)) in all(before).iter().zip(&all(after)) {
        if one != other {
            lines.push(format!("note: {name} differs: {}", text_difference(one, other)));
        }
    }
    for (one, other, place) in [(before, after, "first"), (after, before, "second")] {
        for part in &one.parts {
            if !other.parts.iter().any(|there| there.name == part.name) {
                lines.push(format!("not compared: part {} is in the {place} only", part.name));
                continue;
            }
            let alone = part.causes.iter().filter(|cause| other.find(&part.name, cause).is_none());
            lines.extend(alone.map(|cause| {
                let (name, rtt) = (cause.cause, cause.rtt_ms);
                format!("not compared: {name} at {rtt} ms{} is in the {place} only", of_part(&part.name))
            }));
        }
    }
    lines
}

/// Two texts that differ, side by side; of several lines only those that are in one of them alone.
pub(crate) fn text_difference(one: &str, other: &str) -> String {
    let own = |text: &str, against: &str| {
        let own = text.lines().filter(|line| !against.lines().any(|there| there == *line));
        format!("{:?}", own.collect::<Vec<_>>().join(" | "))
    };
    let whole =
        |text: &str| if text.is_empty() { "not kept".to_owned() } else { format!("{:?}", text.trim_end()) };
    if one.is_empty() || other.is_empty() || one.lines().chain(other.lines()).count() <= 2 {
        return format!("{}, then {}", whole(one), whole(other));
    }
    format!("{}, then {}", own(one, other), own(other, one))
}

fn of_part(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" of {name}") }
}

/// Figures of which each run has one: shown side by side, and not judged.
fn single_values(before: &Subject, after: &Subject) -> Vec<String> {
    let singles = before.aims.iter().filter(|row| row.trials.is_none());
    let line = |one: &AimRow| {
        let same = |other: &&AimRow| (&other.what, &other.measure) == (&one.what, &one.measure);
        let AimRow { what, measure, seen, .. } = one;
        match after.aims.iter().find(same) {
            Some(other) => {
                format!("not judged, one value each: {what}: {measure} {seen:.2} → {:.2}", other.seen)
            }
            None => format!("not compared: {what}: {measure} is in the first only"),
        }
    };
    singles.map(line).collect()
}

/// Prints the comparison.
///
/// # Errors
/// A file is missing, is no result of `recovery` or `suite`, or is INVALID; they are of two kinds; they were asked for
/// different things; or nothing is in both.
pub fn run(before: &Path, after: &Path) -> Result<()> {
    let (a, b) = (load(before)?, load(after)?);
    ensure!(
        a.is_suite == b.is_suite,
        "{} is of a suite, {} of one recovery run: name the directory of the suite's part that is meant, such as {}",
        if a.is_suite { before } else { after }.display(),
        if a.is_suite { after } else { before }.display(),
        dir_of(if a.is_suite { before } else { after }).join("default-50").display()
    );
    let differences = differences(&a, &b);
    ensure!(
        differences.is_empty(),
        "measured under different conditions, which no verdict survives: {}; measure one of them again like the other",
        differences.join("; ")
    );
    notes(&a, &b).iter().for_each(|line| print(&format!("  {line}")));
    let pairs = compare(&a, &b);
    ensure!(!pairs.is_empty(), "no cause at the same round-trip time is in both results");
    let mut part = String::new();
    print(&format!(
        "  {:<20}{:>5}{:>11}{:>24}{:>32}{:>10}  verdict",
        "cause", "RTT", "incidents", "p50, ms", "p99, ms [95 % interval]", "p"
    ));
    for pair in &pairs {
        if pair.part != part {
            part.clone_from(&pair.part);
            print(&format!("  {part}:"));
        }
        print(&pair.line());
    }
    single_values(&a, &b).iter().for_each(|line| print(&format!("  {line}")));
    print(&format!(
        "  Mann–Whitney U over incidents (of one that struck several clients the median), two-sided, {ALPHA} over all \
         causes (Holm), and a median of the incidents that moved by more than {:.0} % and {LEAST_MS} ms.",
        LEAST_SHARE * 100.0
    ));
    Ok(())
}

impl Comparison {
    fn line(&self) -> String {
        let Self { before, after, p, verdict, .. } = self;
        let p99 = |one: &CauseResult| {
            let [low, high] = one.outage_p99_ci95_ms;
            format!("{:.0} [{low:.0}–{high:.0}]", one.outage_p99_ms)
        };
        format!(
            "  {:<20}{:>5}{:>11}{:>24}{:>32}{:>10}  {}",
            before.cause.name(),
            before.rtt_ms,
            format!("{} / {}", before.incidents, after.incidents),
            format!("{:.1} → {:.1}", before.outage_p50_ms, after.outage_p50_ms),
            format!("{} → {}", p99(before), p99(after)),
            p.map_or_else(|| "–".to_owned(), |p| format!("{p:.4}")),
            verdict.name()
        )
    }
}

/// The directory of a result that is named by its file or by its directory.
fn dir_of(path: &Path) -> &Path {
    if path.is_dir() { path } else { path.parent().unwrap_or(path) }
}

fn load(path: &Path) -> Result<Subject> {
    let path = if path.is_dir() { path.join("result.json") } else { path.to_owned() };
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let wrong = || format!("{} is no result that can be compared", path.display());
    let value: Value = serde_json::from_str(&text).with_context(wrong)?;
    let (valid, subject) = match value.get("scenario").and_then(Value::as_str) {
        Some("recovery") => {
            let report: Report = serde_json::from_value(value).with_context(wrong)?;
            (report.valid, Subject::of_recovery(report))
        }
        Some("suite") => {
            let suite: Suite = serde_json::from_value(value).with_context(wrong)?;
            (suite.valid, Subject::of_suite(suite))
        }
        other => bail!(
            "{} is a result of {}: results of `recovery` and `suite` are compared, whose outages are many enough to tell \
             a change from noise",
            path.display(),
            other.map_or_else(|| "nothing that is known here".to_owned(), |name| format!("`{name}`"))
        ),
    };
    ensure!(valid, "{} is INVALID: it proves nothing", path.display());
    Ok(subject)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::trial;
    use super::super::result::summarise;
    use super::super::{Cause, record::Trial};
    use super::*;
    use serde_json::json;

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
            profile_text: "name = \"plain\"\n# calm\n".into(),
            delays: super::super::Delays::Asked,
            preset: "edge".into(),
            policy: "limit = 1".into(),
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
        let subject = Subject::of_recovery;
        let verdict = |other: Report| compare(&subject(base()), &subject(other))[0].verdict;
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

    /// Kills that each strike eight clients alike: what differs does from kill to kill.
    fn kills(outages: &[f64]) -> Report {
        let struck = (1..).zip(outages).flat_map(|(incident, outage)| {
            let of = move |client: u8| Trial {
                client,
                ..trial(Cause::DataPlaneKill, incident, outage + f64::from(client) / 100.0)
            };
            (0..8).map(of)
        });
        let trials: Vec<Trial> = struck.collect();
        let causes = summarise(&trials.iter().collect::<Vec<_>>(), "edge", 1).into_iter().collect();
        Report { causes, ..report(std::iter::once(1.0)) }
    }

    /// R8.1, R8.4: eight clients of one kill are one witness. What chance does with ten kills that are either fast or slow
    /// is noise, though eighty trials of each would be "certain"; ten that lie apart are not; five can never tell; and a
    /// result that does not say which trials belong together is not judged.
    #[test]
    fn r8_4_clients_of_one_kill_are_one_witness() {
        let kinds = |slow: u32| -> Vec<f64> {
            (0..10).map(|n| f64::from(n) + if n < slow { 674.0 } else { 377.0 }).collect()
        };
        let subject = |outages: &[f64]| Subject::of_recovery(kills(outages));
        let judged = |a: &Subject, b: &Subject| compare(a, b).pop().unwrap();
        let (few, many) = (subject(&kinds(3)), subject(&kinds(7)));
        let (a, b) = (&few.parts[0].causes[0], &many.parts[0].causes[0]);
        assert_eq!((a.trials, a.incidents, a.incident_medians_ms.len()), (80, 10, 10));
        assert!(stats::mann_whitney(&a.outages_ms, &b.outages_ms) < 1e-4, "by trials it would be certain");
        assert!(b.outage_p50_ms > a.outage_p50_ms + 200.0);
        assert_eq!(judged(&few, &many).verdict, Verdict::Noise);
        let fast = kinds(0);
        let apart: Vec<_> = fast.iter().map(|outage| outage + 300.0).collect();
        assert_eq!(judged(&subject(&fast), &subject(&apart)).verdict, Verdict::Worse);
        assert_eq!(judged(&subject(&apart), &subject(&fast)).verdict, Verdict::Better);
        let five = judged(&subject(&fast[..5]), &subject(&apart[..5]));
        assert_eq!((five.verdict, five.p), (Verdict::TooFew, None));
        assert!(five.line().contains("5 / 5") && five.line().ends_with("not judged: too few incidents"));
        let mut old = kills(&apart);
        old.causes[0].incident_medians_ms.clear();
        assert_eq!(judged(&few, &Subject::of_recovery(old)).verdict, Verdict::Unknown);
        // Where each incident strikes one client, the outages are the incidents'.
        let mut old = report((0..40).map(f64::from));
        old.causes[0].incident_medians_ms.clear();
        assert_eq!(old.causes[0].witnesses().map(<[f64]>::len), Some(40));
    }

    /// R8.4: what was asked for otherwise (policy, preset, clients, paths of the same name) is refused, and gets no verdict;
    /// another machine or build, and what a result did not keep, is said.
    #[test]
    fn r8_4_other_conditions_are_refused() {
        let subject = || Subject::of_recovery(report(std::iter::once(1.0)));
        assert_eq!(notes(&subject(), &subject()), Vec::<String>::new());
        assert_eq!(differences(&subject(), &subject()), Vec::<String>::new());
        let other = Report {
            profile_text: "name = \"plain\"\n# rough\n".into(),
            delays: super::super::Delays::Profile,
            preset: "fintech".into(),
            policy: "limit = 2".into(),
            clients: 8,
            ..report(std::iter::once(1.0))
        };
        let wanted = [
            r##"content of the profile: "# calm", then "# rough""##,
            r##"delays: "asked", then "profile""##,
            r##"policy: "limit = 1", then "limit = 2""##,
            r##"clients: "4", then "8""##,
            r##"preset: "edge", then "fintech""##,
        ];
        assert_eq!(differences(&subject(), &Subject::of_recovery(other.clone())), wanted);
        let dirs = [report(std::iter::once(1.0)), other].map(|report| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("result.json"), serde_json::to_string(&report).unwrap()).unwrap();
            dir
        });
        let error = run(dirs[0].path(), dirs[1].path()).unwrap_err().to_string();
        assert!(error.contains("different conditions") && error.contains("policy"), "{error}");
        let environment = json!({"build": "release", "cpu": "x", "cpus": 2, "kernel": "6.18"});
        let elsewhere =
            Subject::of_recovery(Report { environment, complete: false, ..report(std::iter::once(1.0)) });
        assert_eq!(differences(&subject(), &elsewhere), Vec::<String>::new());
        let said = notes(&subject(), &elsewhere);
        assert_eq!(said.len(), 5, "{said:?}");
        assert!(said[2].ends_with("cpus differs: not kept, then \"2\""), "{said:?}");
        let mut old = serde_json::to_value(report(std::iter::once(1.0))).unwrap();
        old.as_object_mut().unwrap().remove("profile_text");
        let old = Subject::of_recovery(serde_json::from_value(old).unwrap());
        assert_eq!(differences(&old, &subject()), Vec::<String>::new());
        assert!(notes(&old, &subject())[0].contains("not kept, then"), "{:?}", notes(&old, &subject()));
    }

    #[test]
    fn an_invalid_result_is_not_compared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result.json");
        let bad = Report { valid: false, ..report(std::iter::once(1.0)) };
        fs::write(&path, serde_json::to_string(&bad).unwrap()).unwrap();
        assert!(run(dir.path(), &path).unwrap_err().to_string().contains("INVALID"));
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            format!("{:#}", run(dir.path(), &path).unwrap_err())
        };
        assert!(refused("{}").contains("nothing that is known"));
        assert!(refused("[[").contains("no result that can be compared"));
        assert!(refused("{\"scenario\": \"recovery\"}").contains("missing field"));
        let other = refused("{\"scenario\": \"throughput\"}");
        assert!(other.contains("a result of `throughput`") && other.contains("`suite`"), "{other}");
    }

    fn suite(shift: f64, parts: &[&str]) -> Value {
        let causes = |at: f64| report((0..40).map(|n| at + f64::from(n * 7 % 40))).causes;
        let part = |name: &&str| {
            let causes = if *name == "cost" { Vec::new() } else { causes(100.0 + shift) };
            json!({"name": name, "what": "w", "preset": "edge", "valid": true, "complete": true, "problems": [],
                   "causes": causes})
        };
        let aim =
            AimRow { what: "work".into(), measure: "bounds".into(), seen: 1.0 + shift, ..AimRow::default() };
        json!({
            "scenario": "suite", "form": 2, "valid": true, "complete": true, "problems": [], "broken_off": null,
            "size": "quick", "seed": 1, "clients": 4, "took_s": 1.0, "environment": {"build": "debug"},
            "parts": parts.iter().map(part).collect::<Vec<_>>(), "aims": [aim],
        })
    }

    /// R8.4: of two suites, parts are compared with their likes; what cannot be is said, line by line.
    #[test]
    fn r8_4_suites_are_compared_part_by_part() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let put = |number: usize, value: &Value| {
            fs::write(dirs[number].path().join("result.json"), value.to_string()).unwrap();
        };
        put(0, &suite(0.0, &["default-50", "fintech-50", "cost"]));
        put(1, &suite(30.0, &["default-50", "default-others", "cost"]));
        run(dirs[0].path(), dirs[1].path()).unwrap();
        let [a, b] = [0, 1].map(|number: usize| load(dirs[number].path()).unwrap());
        let pairs = compare(&a, &b);
        let seen: Vec<_> = pairs.iter().map(|pair| (pair.part.as_str(), pair.verdict)).collect();
        assert_eq!(seen, [("default-50", Verdict::Worse)]);
        let said = notes(&a, &b);
        assert_eq!(
            said,
            [
                "not compared: part fintech-50 is in the first only",
                "not compared: part default-others is in the second only"
            ]
        );
        assert_eq!(single_values(&a, &b), ["not judged, one value each: work: bounds 1.00 → 31.00"]);
        let mut broken = suite(0.0, &["default-50"]);
        broken["valid"] = json!(false);
        put(1, &broken);
        assert!(run(dirs[0].path(), dirs[1].path()).unwrap_err().to_string().contains("INVALID"));
        put(1, &serde_json::to_value(report(std::iter::once(1.0))).unwrap());
        let mixed = run(dirs[1].path(), dirs[0].path()).unwrap_err().to_string();
        assert!(mixed.contains("of one recovery run") && mixed.contains("/default-50"), "{mixed}");
    }
}
