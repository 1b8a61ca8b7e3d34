//! `result.json`: what was asked, what was seen, and whether it may be believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::aims::{self, AimRow};
use super::cause::{Aim, Cause};
use super::delays::Delays;
use super::life::{self, LifeReport};
use super::record::{Question, Trial};
use super::recorded::Recorded;
use super::usage::Sample;
use super::{Options, measure, report, stats, witness};
use crate::check_events::rules::PolicyNumbers;
use crate::result::{Durations, Environment, write_json};
use crate::schemas;
use crate::timeline::print;

/// What a run keeps in `run.json` beside its trials: enough to judge it again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) question: Option<Question>,
    pub(super) preset: String,
    pub(super) causes: Vec<Cause>,
    pub(super) rtts_ms: Vec<u64>,
    pub(super) trials: u32,
    pub(super) environment: Value,
    /// Why it ended before its time.
    pub(super) broken_off: Option<String>,
    pub(super) took_s: f64,
    pub(super) lives: Vec<LifeReport>,
    pub(super) usage: Vec<Sample>,
    pub(super) timelines: Vec<Recorded>,
}

impl Run {
    /// What an earlier part left; empty if there was none.
    pub(super) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("run.json");
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Lives of the gateway whose audit log is there.
    pub(super) fn judged(&self) -> Vec<u32> {
        self.lives.iter().map(|life| life.segment).collect()
    }

    pub(super) fn slowest(&self) -> BTreeMap<(Cause, u64), Recorded> {
        self.timelines.iter().map(|one| ((one.cause, one.rtt_ms), one.clone())).collect()
    }

    pub(super) fn describe(
        &mut self,
        options: &Options,
        environment: &Environment,
        broken_off: Option<&anyhow::Error>,
    ) {
        self.question = Some(options.question(environment));
        self.preset = policy_name(options.preset(), &options.policy);
        (self.causes, self.rtts_ms) = (options.causes.clone(), options.rtts_ms.clone());
        (self.trials, self.broken_off) = (options.trials, broken_off.map(|error| format!("{error:#}")));
        // What a gateway said of itself stays, also where nothing was left to be run.
        if self.environment.is_null() {
            self.environment = json!(environment);
        }
    }

    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join("run.json"), self)
    }
}

/// A preset as it is, or that it was changed: what is aimed at with it is not what was run then.
fn policy_name(preset: String, text: &str) -> String {
    let is_own = |line: &str| {
        let key = line.split('=').next().unwrap_or_default().trim();
        !key.is_empty() && !key.starts_with('#') && key != "preset"
    };
    if text.lines().any(is_own) { format!("{preset}, changed") } else { preset }
}

/// One cause at one round-trip time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CauseResult {
    /// What happened.
    pub cause: Cause,
    /// Emulated round-trip time, ms.
    pub rtt_ms: u64,
    /// Sessions struck.
    pub trials: u64,
    /// Incidents: one may strike all clients.
    pub incidents: u32,
    /// Sessions that came back in time.
    pub recovered: u64,
    /// From incident to decision; absent where nobody had to decide.
    pub detect_p50_ms: Option<f64>,
    /// 99 of 100 took not longer.
    pub detect_p99_ms: Option<f64>,
    /// From decision to new binding.
    pub reattach_p50_ms: Option<f64>,
    /// 99 of 100 took not longer.
    pub reattach_p99_ms: Option<f64>,
    /// Longest silence.
    pub outage_p50_ms: f64,
    /// 95 of 100 were not longer.
    pub outage_p95_ms: f64,
    /// 99 of 100 were not longer.
    pub outage_p99_ms: f64,
    /// The longest.
    pub outage_max_ms: f64,
    /// 95 % confidence intervals.
    pub outage_p50_ci95_ms: [f64; 2],
    /// With fewer than 300 incidents its upper end is the largest value seen.
    pub outage_p95_ci95_ms: [f64; 2],
    /// The same.
    pub outage_p99_ci95_ms: [f64; 2],
    /// TCP streams that went on and delivered everything.
    pub tcp_survived: u64,
    /// 95 % confidence interval of their share.
    pub tcp_survived_ci95: [f64; 2],
    /// Longest silence of the TCP stream, half were not longer.
    pub tcp_stall_p50_ms: f64,
    /// The longest.
    pub tcp_stall_max_ms: f64,
    /// Probes lost to the LAN, mean; a millisecond of goodput each.
    pub lost_up_mean: f64,
    /// Probes lost to the client, mean.
    pub lost_down_mean: f64,
    /// Most probes lost in one trial, both ways together.
    pub lost_max: u64,
    /// Goodput lost: octets of payload of the probes that never came, both ways together, mean.
    pub goodput_lost_octets_mean: f64,
    /// The same, most in one trial.
    pub goodput_lost_octets_max: u64,
    /// Octets that the TCP stream should have delivered in its longest silence, and delivered later; mean.
    pub tcp_late_octets_mean: f64,
    /// Trials in which the bench itself sent nothing for more than 5 ms.
    pub disturbed: u64,
    /// What is aimed at, if anything.
    pub aim: Option<Value>,
    /// Whether the aim is met; absent where there is none.
    pub aim_met: Option<bool>,
    /// All outages, ms, in the order of the trials.
    pub outages_ms: Vec<f64>,
    /// Of each incident the median of the outages of those that it struck, ms: as many independent witnesses. Empty in
    /// results that did not keep it.
    #[serde(default)]
    pub incident_medians_ms: Vec<f64>,
}

impl CauseResult {
    /// One value for each incident; nothing where a result has more trials and does not tell which belong together.
    pub(super) fn witnesses(&self) -> Option<&[f64]> {
        match self.incident_medians_ms.as_slice() {
            [] if self.trials == u64::from(self.incidents) => Some(&self.outages_ms),
            [] => None,
            medians => Some(medians),
        }
    }
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `recovery`.
    pub scenario: String,
    /// Layout of this file.
    pub form: u32,
    /// `false`: INVALID, see `problems`.
    pub valid: bool,
    /// `false`: a part of what was asked.
    pub complete: bool,
    /// Why it is not to be believed.
    pub problems: Vec<String>,
    /// Why it ended before its time.
    pub broken_off: Option<String>,
    /// Determines all chance of the bench.
    pub seed: u64,
    /// Name of the profile.
    pub profile: String,
    /// All of it, as it was written; empty in results that did not keep it.
    #[serde(default)]
    pub profile_text: String,
    /// Whose delays the paths had.
    #[serde(default)]
    pub delays: Delays,
    /// Preset of the policy.
    pub preset: String,
    /// The lines of `[policy]`.
    pub policy: String,
    /// Clients at once.
    pub clients: u8,
    /// Incidents asked for per cause and round-trip time.
    pub trials_asked: u32,
    /// How long it took, s.
    pub took_s: f64,
    /// What it ran on.
    pub environment: Value,
    /// Lives of the gateway.
    pub lives: Vec<LifeReport>,
    /// What is aimed at, and whether it is met.
    pub aims: Vec<AimRow>,
    /// The figures.
    pub causes: Vec<CauseResult>,
}

/// Incidents of a cause so far.
pub(super) fn incidents(trials: &[Trial], cause: Cause, rtt_ms: u64) -> u32 {
    let numbers: BTreeSet<_> = of(trials, cause, rtt_ms).map(|trial| trial.incident).collect();
    u32::try_from(numbers.len()).unwrap_or(u32::MAX)
}

fn of(trials: &[Trial], cause: Cause, rtt_ms: u64) -> impl Iterator<Item = &Trial> {
    trials.iter().filter(move |trial| trial.cause == cause && trial.rtt_ms == rtt_ms)
}

/// From what lies in the directory to result, histograms, events and report, all written there. `against` is what makes the
/// run INVALID beside what its lives and trials say.
pub(super) fn conclude(dir: &Path, run: &Run, trials: &[Trial], against: &[String]) -> Result<Report> {
    let question = run.question.clone().context("nobody said what was asked")?;
    let numbers = PolicyNumbers::parse(&question.policy).context("the policy of the run")?;
    let mut lives = run.lives.clone();
    let mut problems = against.to_vec();
    for life in &mut lives {
        // Judged anew: what is in the file counts, not what was once said about it.
        let audit = dir.join(format!("audit-{}.jsonl", life.segment));
        (life.audit_events, life.audit_violations) = life::judge(&audit, &numbers)?;
        problems.extend(witness::untold(&audit, trials, life.segment)?);
        problems.extend(life_problems(life));
    }
    problems.extend(trials.iter().filter_map(trial_problem));
    let mut causes = Vec::new();
    for rtt_ms in trials.iter().map(|trial| trial.rtt_ms).collect::<BTreeSet<_>>() {
        for cause in Cause::ALL {
            let ours: Vec<_> = of(trials, cause, rtt_ms).collect();
            if let Some(result) = summarise(&ours, &run.preset, question.seed) {
                write_histogram(dir, cause, rtt_ms, &ours)?;
                causes.push(result);
            }
        }
    }
    let asked = run.rtts_ms.iter().flat_map(|rtt| run.causes.iter().map(move |cause| (*cause, *rtt)));
    let complete =
        run.broken_off.is_none() && asked.into_iter().all(|(c, rtt)| incidents(trials, c, rtt) >= run.trials);
    let report = Report {
        scenario: "recovery".to_owned(),
        form: 4,
        valid: problems.is_empty(),
        complete,
        problems,
        broken_off: run.broken_off.clone(),
        seed: question.seed,
        profile: question.profile,
        profile_text: question.profile_text,
        delays: question.delays,
        preset: run.preset.clone(),
        policy: question.policy,
        clients: question.clients,
        trials_asked: run.trials,
        took_s: run.took_s,
        environment: run.environment.clone(),
        lives,
        aims: aims::rows(&causes, &run.preset),
        causes,
    };
    schemas::check(&json!(report))?;
    write_json(&dir.join("result.json"), &report)?;
    write_events(dir, &report, trials)?;
    report::write(dir, &report, run)?;
    Ok(report)
}

fn life_problems(life: &LifeReport) -> Vec<String> {
    let mut problems: Vec<_> = life
        .audit_violations
        .iter()
        .map(|violation| format!("audit-{}.jsonl breaks a rule: {violation}", life.segment))
        .collect();
    let mut must = |holds: bool, text: String| {
        if !holds {
            problems.push(text);
        }
    };
    let at = life.rtt_ms;
    must(life.audit_events > 0, format!("at {at} ms: the gateway's audit log is empty"));
    must(
        life.stale_sent == 0,
        format!("at {at} ms: {} DATA of a binding that was over left the gateway", life.stale_sent),
    );
    if let Some(missed) = &life.observer_missed {
        must(false, format!("at {at} ms: {missed}"));
    }
    must(
        life.emulator_dropped == 0,
        format!("at {at} ms: the emulator dropped {} frames of its own", life.emulator_dropped),
    );
    problems
}

/// What rule a trial broke, if any.
pub(super) fn trial_problem(trial: &Trial) -> Option<String> {
    let Trial { cause, rtt_ms, incident, client, .. } = trial;
    let place = format!("{cause} at {rtt_ms} ms, incident {incident}, client {client}");
    if trial.stale_forwarded > 0 {
        let count = trial.stale_forwarded;
        return Some(format!(
            "{place}: {count} frames of an old binding came out at the LAN after its unbind"
        ));
    }
    if !trial.recovered {
        return Some(format!("{place}: the client did not come back (I13)"));
    }
    (!trial.session_kept).then(|| format!("{place}: the session is another one afterwards (I2)"))
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// `None` if there are no trials.
pub(super) fn summarise(trials: &[&Trial], preset: &str, seed: u64) -> Option<CauseResult> {
    let first = trials.first()?;
    let (cause, rtt_ms) = (first.cause, first.rtt_ms);
    let mut by_incident: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for trial in trials {
        by_incident.entry(trial.incident).or_default().push(trial.outage_ms);
    }
    let incidents: Vec<_> = by_incident.into_values().collect();
    let [p50_ci, p95_ci, p99_ci] = stats::bootstrap(&incidents, [0.5, 0.95, 0.99], seed);
    let outages = sorted(trials.iter().map(|trial| trial.outage_ms));
    let detects = sorted(trials.iter().filter_map(|trial| trial.detect_ms));
    let reattaches = sorted(trials.iter().filter_map(|trial| trial.reattach_ms));
    let stalls = sorted(trials.iter().map(|trial| trial.tcp_stall_ms));
    let some = |values: &[f64], share| (!values.is_empty()).then(|| stats::quantile(values, share));
    let count = trials.len() as u64;
    let survived = trials.iter().filter(|trial| trial.tcp_survived).count() as u64;
    let mean =
        |value: fn(&Trial) -> u64| trials.iter().map(|trial| value(trial)).sum::<u64>() as f64 / count as f64;
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| stats::quantile(&outages, share));
    let lost_max = trials.iter().map(|trial| trial.lost_up + trial.lost_down).max().unwrap_or_default();
    let octets = |trial: &Trial| measure::probe_octets(trial.lost_up + trial.lost_down);
    let aim = cause.aim(rtt_ms, preset);
    Some(CauseResult {
        cause,
        rtt_ms,
        trials: count,
        incidents: u32::try_from(incidents.len()).unwrap_or(u32::MAX),
        recovered: trials.iter().filter(|trial| trial.recovered).count() as u64,
        detect_p50_ms: some(&detects, 0.5),
        detect_p99_ms: some(&detects, 0.99),
        reattach_p50_ms: some(&reattaches, 0.5),
        reattach_p99_ms: some(&reattaches, 0.99),
        outage_p50_ms: p50,
        outage_p95_ms: p95,
        outage_p99_ms: p99,
        outage_max_ms: outages.last().copied().unwrap_or_default(),
        outage_p50_ci95_ms: p50_ci,
        outage_p95_ci95_ms: p95_ci,
        outage_p99_ci95_ms: p99_ci,
        tcp_survived: survived,
        tcp_survived_ci95: stats::wilson(survived, count),
        tcp_stall_p50_ms: stats::quantile(&stalls, 0.5),
        tcp_stall_max_ms: stalls.last().copied().unwrap_or_default(),
        lost_up_mean: mean(|trial| trial.lost_up),
        lost_down_mean: mean(|trial| trial.lost_down),
        lost_max,
        goodput_lost_octets_mean: trials.iter().map(|trial| octets(trial) as f64).sum::<f64>() / count as f64,
        goodput_lost_octets_max: trials.iter().map(|trial| octets(trial)).max().unwrap_or_default(),
        tcp_late_octets_mean: stalls.iter().map(|stall| measure::tcp_octets(*stall)).sum::<f64>()
            / count as f64,
        disturbed: trials.iter().filter(|trial| trial.bench_pause_ms > 5.0).count() as u64,
        aim_met: aim.map(|aim| is_met(aim, p50, p99, lost_max)),
        aim: aim.map(|aim| json!(aim)),
        outages_ms: trials.iter().map(|trial| trial.outage_ms).collect(),
        incident_medians_ms: incidents.iter().map(|incident| stats::median(incident)).collect(),
    })
}

fn is_met(aim: Aim, p50: f64, p99: f64, lost_max: u64) -> bool {
    aim.p50_ms.is_none_or(|most| p50 <= most)
        && aim.p99_ms.is_none_or(|most| p99 <= most)
        && aim.lost_max.is_none_or(|most| lost_max <= most)
}

fn write_histogram(dir: &Path, cause: Cause, rtt_ms: u64, trials: &[&Trial]) -> Result<()> {
    let mut outages = Durations::new()?;
    for trial in trials {
        outages.add(std::time::Duration::from_secs_f64(trial.outage_ms / 1e3));
    }
    let path = dir.join(format!("outage-{cause}-{rtt_ms}.hgrm"));
    fs::write(&path, outages.hgrm()).with_context(|| format!("cannot write {}", path.display()))
}

/// Audit logs of the gateway, timelines of the clients, trials: one file, in the order of time.
fn write_events(dir: &Path, report: &Report, trials: &[Trial]) -> Result<()> {
    let mut lines: Vec<(u64, String)> = Vec::new();
    let mut read = |path: &Path, source: &str| -> Result<()> {
        // A client that was never started has none.
        let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
        for line in text.lines() {
            let Ok(Value::Object(mut record)) = serde_json::from_str(line) else { continue };
            let at = record.get("ts_ms").and_then(Value::as_u64).unwrap_or_default();
            record.insert("source".to_owned(), json!(source));
            lines.push((at, Value::Object(record).to_string()));
        }
        Ok(())
    };
    for life in &report.lives {
        read(&dir.join(format!("audit-{}.jsonl", life.segment)), "gateway")?;
        for client in 0..report.clients {
            read(&dir.join(format!("client-{client}-{}.jsonl", life.segment)), &format!("client-{client}"))?;
        }
    }
    for trial in trials {
        let mut record = json!(trial);
        if let Value::Object(record) = &mut record {
            record.insert("source".to_owned(), json!("bench"));
            record.insert("event_type".to_owned(), json!("TRIAL"));
            record.insert("ts_ms".to_owned(), json!(trial.at_ms));
        }
        lines.push((trial.at_ms, record.to_string()));
    }
    lines.sort_by_key(|(at, _)| *at);
    let mut text = lines.into_iter().fold(String::new(), |text, (_, line)| text + &line + "\n");
    text.shrink_to_fit();
    let path = dir.join("events.jsonl");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The table at the end.
pub(super) fn show(report: &Report, dir: &Path) {
    print(&format!(
        "\n  {:<20}{:>5}{:>7}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>8}  aim",
        "cause", "RTT", "trials", "detect", "reattach", "p50", "p95", "p99", "max", "TCP"
    ));
    let shown = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.1}"));
    for one in &report.causes {
        let verdict = match one.aim_met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "–",
        };
        print(&format!(
            "  {:<20}{:>5}{:>7}{:>10}{:>10}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>8}  {verdict}",
            one.cause.name(),
            one.rtt_ms,
            one.trials,
            shown(one.detect_p50_ms),
            shown(one.reattach_p50_ms),
            one.outage_p50_ms,
            one.outage_p95_ms,
            one.outage_p99_ms,
            one.outage_max_ms,
            format!("{}/{}", one.tcp_survived, one.trials),
        ));
    }
    print("");
    report.aims.iter().for_each(|row| print(&format!("  {}", row.line())));
    for problem in report.problems.iter().take(20) {
        print(&format!("  INVALID: {problem}"));
    }
    print(&format!("\n  result: {0}/result.json, report: {0}/report.html", dir.display()));
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{question, trial};
    use super::*;

    /// R8.4: what was run with another policy than a preset is not judged and labelled as that preset.
    #[test]
    fn r8_4_a_preset_that_was_changed_is_no_preset() {
        let name = |text: &str| policy_name("edge".to_owned(), text);
        assert_eq!(
            [name("preset = \"edge\"\n"), name(""), name("# probe_traffic = \"5s\"\n\n")],
            ["edge"; 3]
        );
        let changed = name("preset = \"edge\"\nprobe_traffic = \"5s\"\n");
        assert_eq!(changed, "edge, changed");
        assert!(
            Cause::SilentBlackhole.aim(50, &changed).is_none() && Cause::LinkDown.aim(50, &changed).is_some()
        );
    }

    #[test]
    fn r8_1_a_summary_has_quantiles_intervals_and_the_aim() {
        let trials: Vec<_> = (1..=100).map(|n| trial(Cause::LinkDown, n, f64::from(n))).collect();
        let result = summarise(&trials.iter().collect::<Vec<_>>(), "edge", 1).unwrap();
        assert_eq!((result.trials, result.incidents, result.recovered), (100, 100, 100));
        assert_eq!(
            [result.outage_p50_ms, result.outage_p95_ms, result.outage_p99_ms, result.outage_max_ms],
            [50.0, 95.0, 99.0, 100.0]
        );
        let [low, high] = result.outage_p50_ci95_ms;
        assert!(low < 50.0 && 50.0 < high && low > 35.0 && high < 65.0, "{low} {high}");
        assert_eq!(result.aim_met, Some(true), "105 ms are aimed at");
        let slow: Vec<_> = (1..=100).map(|n| trial(Cause::LinkDown, n, f64::from(n) * 2.0)).collect();
        assert_eq!(summarise(&slow.iter().collect::<Vec<_>>(), "edge", 1).unwrap().aim_met, Some(false));
        assert!(summarise(&[], "edge", 1).is_none());
    }

    /// R8.1, R8.4: what is in no trial that counts and no life makes a run INVALID, too, and stands in its result.
    #[test]
    fn r8_1_what_is_against_a_run_makes_it_invalid() {
        let dir = tempfile::tempdir().unwrap();
        let question = Question { policy: "preset = \"edge\"\n".into(), ..question() };
        let mut run = Run { question: Some(question), preset: "edge".into(), trials: 1, ..Run::default() };
        (run.causes, run.rtts_ms) = (vec![Cause::LinkDown], vec![50]);
        run.environment = json!(Environment::collect());
        let trials = [trial(Cause::LinkDown, 1, 5.0)];
        let good = conclude(dir.path(), &run, &trials, &[]).unwrap();
        assert!(good.valid && good.complete, "{:?}", good.problems);
        let bad = conclude(dir.path(), &run, &trials, &["a crash".to_owned()]).unwrap();
        assert_eq!((bad.valid, bad.complete, bad.problems), (false, true, vec!["a crash".to_owned()]));
        let text = fs::read_to_string(dir.path().join("result.json")).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&written["valid"], &written["problems"]), (&json!(false), &json!(["a crash"])));
    }

    /// R8.1, I1, I2, I13: each breach makes a run INVALID.
    #[test]
    fn r8_1_each_breach_is_a_problem() {
        let good = trial(Cause::LinkDown, 1, 5.0);
        assert_eq!(trial_problem(&good), None);
        let problem = |spoil: fn(&mut Trial)| {
            let mut one = good.clone();
            spoil(&mut one);
            trial_problem(&one).unwrap()
        };
        assert!(problem(|one| one.stale_forwarded = 1).contains("old binding"));
        assert!(problem(|one| one.recovered = false).contains("did not come back"));
        assert!(problem(|one| one.session_kept = false).contains("another one"));
        let good = LifeReport { audit_events: 5, ..LifeReport::default() };
        assert_eq!(life_problems(&good), Vec::<String>::new());
        let spoil: [fn(&mut LifeReport); 5] = [
            |one| one.audit_events = 0,
            |one| one.audit_violations = vec!["doubled".into()],
            |one| one.stale_sent = 1,
            |one| one.observer_missed = Some("missed 3 frames".into()),
            |one| one.emulator_dropped = 1,
        ];
        for spoil in spoil {
            let mut one = good.clone();
            spoil(&mut one);
            assert_eq!(life_problems(&one).len(), 1);
        }
    }
}
