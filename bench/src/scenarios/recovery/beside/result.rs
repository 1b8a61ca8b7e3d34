//! From trials to quantiles and `result.json`; what that looks like is in `report`.

mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::cause::Cause;
use super::super::stats::{bootstrap, median, quantile};
use super::Options;
use crate::account::Verdict;
use crate::result::{Environment, Histograms};
use crate::scenarios::contenders::ledger::Ledger;
use crate::scenarios::contenders::{Found, Kind, Missing};
pub use report::problem_of;
pub(in super::super) use report::section;

/// Name of the result beside that of a recovery run.
const BESIDE: &str = "peers.json";

/// What one client lived through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// Whose.
    pub(super) contender: Kind,
    /// What happened.
    pub(super) cause: Cause,
    /// Number of the incident.
    pub(super) incident: u32,
    /// Which client.
    pub(super) client: u8,
    /// When, Unix ms.
    pub(super) at_ms: u64,
    /// Whether traffic flowed both ways again before the cap.
    pub(super) came_back: bool,
    /// Longest silence, the worse of both directions; the cap, if it did not come back.
    pub(super) outage_ms: f64,
    /// Probes to the LAN that never came.
    pub(super) lost_up: u64,
    /// Probes to the client that never came.
    pub(super) lost_down: u64,
    /// Whether the TCP stream went on and delivered everything.
    pub(super) tcp_survived: bool,
    /// Longest time without an octet of it.
    pub(super) tcp_stall_ms: f64,
    /// Longest time in which the bench itself sent nothing.
    pub(super) bench_pause_ms: f64,
}

impl Trial {
    pub(super) fn line(&self) -> String {
        let outage = if self.came_back { format!("{:.1} ms", self.outage_ms) } else { "not back".to_owned() };
        let tcp = if self.tcp_survived { "lives" } else { "does not" };
        format!("  {} of client {}: {outage}, TCP {tcp}", self.incident, self.client)
    }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    trials: u32,
    rtt_ms: u64,
    cap_s: f64,
    /// When a script moves the route away from a silent path, s.
    script_after_s: Option<f64>,
    clients: u8,
    seed: u64,
    causes: Vec<Cause>,
}

impl Asked {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            trials: options.trials,
            rtt_ms: u64::try_from(options.rtt.as_millis()).unwrap_or(u64::MAX),
            cap_s: options.cap.as_secs_f64(),
            script_after_s: options.script_after.map(|after: Duration| after.as_secs_f64()),
            clients: options.clients,
            seed: options.seed,
            causes: options.causes.clone(),
        }
    }
}

/// A run under way.
pub(super) struct Run {
    asked: Asked,
    environment: Environment,
    policy: Option<String>,
    verdict: Verdict,
    /// What our own gateways were, and how they were judged.
    pub(super) ledger: Ledger,
    pub(super) found: Vec<Found>,
    missing: Vec<Missing>,
    failed: Vec<Failed>,
    left_out: Vec<LeftOut>,
    pub(super) trials: Vec<Trial>,
}

/// A cause that means nothing to a contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LeftOut {
    contender: Kind,
    cause: Cause,
    why: String,
}

/// A contender that hung or died outside a trial; what it had done by then counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Failed {
    contender: Kind,
    cause: Cause,
    why: String,
}

impl Run {
    pub(super) fn new(
        asked: Asked,
        environment: Environment,
        found: Vec<Found>,
        missing: Vec<Missing>,
    ) -> Self {
        let (policy, verdict, ledger) = (None, Verdict::default(), Ledger::default());
        let (failed, left_out, trials) = Default::default();
        Self { asked, environment, policy, verdict, ledger, found, missing, failed, left_out, trials }
    }

    pub(super) fn leave_out(&mut self, contender: Kind, cause: Cause, why: &str) {
        self.left_out.push(LeftOut { contender, cause, why: why.to_owned() });
    }

    /// Takes what is known of our own gateways, once none runs.
    pub(super) fn settle(&mut self) {
        self.verdict = self.ledger.verdict();
        self.policy = self.ledger.complete(&mut self.environment);
    }

    pub(super) fn fail(&mut self, contender: Kind, cause: Cause, error: &anyhow::Error) {
        self.failed.push(Failed { contender, cause, why: format!("{error:#}") });
    }

    /// Whether a contender has failed twice: it gets no third chance to hang.
    pub(super) fn is_out(&self, contender: Kind) -> bool {
        self.failed.iter().filter(|failed| failed.contender == contender).count() >= 2
    }

    /// How long every trial was silent, in files: the cap stands for one that did not come back.
    pub(super) fn write_histograms(&self, dir: &Path) -> Result<()> {
        let mut all = Histograms::new(dir);
        for trial in &self.trials {
            let name = format!("outage-{}-{}", trial.cause, trial.contender);
            all.add(&name, Duration::from_secs_f64(trial.outage_ms / 1e3))?;
        }
        all.write()
    }

    pub(super) fn conclude(self, error: Option<&anyhow::Error>) -> Report {
        let mut causes = Vec::new();
        for cause in &self.asked.causes {
            for found in &self.found {
                let of = |trial: &&Trial| trial.cause == *cause && trial.contender == found.contender;
                let trials: Vec<_> = self.trials.iter().filter(of).collect();
                causes.extend(summarise(&trials, &self.asked));
            }
        }
        let wanted = u64::from(self.asked.trials);
        let is_whole = causes.len() + self.left_out.len() == self.asked.causes.len() * self.found.len()
            && causes.iter().all(|one| one.trials >= wanted);
        Report {
            scenario: "peers-recovery".to_owned(),
            form: 3,
            verdict: self.verdict,
            policy: self.policy,
            complete: error.is_none() && is_whole,
            broken_off: error.map(|error| format!("{error:#}")),
            asked: self.asked,
            environment: json!(self.environment),
            contenders: json!(self.found),
            missing: json!(self.missing),
            failed: self.failed,
            left_out: self.left_out,
            causes,
        }
    }
}

/// One contender struck by one cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    cause: Cause,
    contender: Kind,
    rtt_ms: u64,
    trials: u64,
    /// One may strike all clients at once.
    incidents: u64,
    /// Those that were back before the cap.
    came_back: u64,
    outage_p50_ms: f64,
    outage_p95_ms: f64,
    outage_p99_ms: f64,
    outage_max_ms: f64,
    /// 95 % confidence interval, by incidents.
    outage_p50_ci95_ms: [f64; 2],
    tcp_survived: u64,
    tcp_stall_p50_ms: f64,
    lost_up_mean: f64,
    lost_down_mean: f64,
    /// Trials in which the bench itself sent nothing for more than 5 ms.
    disturbed: u64,
    /// In the order of the trials; the cap stands for one that did not come back.
    outages_ms: Vec<f64>,
    /// Of each incident the median of those that it struck: as many independent witnesses.
    #[serde(default)]
    incident_medians_ms: Vec<f64>,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    scenario: String,
    form: u32,
    #[serde(flatten)]
    verdict: Verdict,
    policy: Option<String>,
    complete: bool,
    broken_off: Option<String>,
    asked: Asked,
    environment: Value,
    contenders: Value,
    missing: Value,
    failed: Vec<Failed>,
    left_out: Vec<LeftOut>,
    causes: Vec<Row>,
}

fn summarise(trials: &[&Trial], asked: &Asked) -> Option<Row> {
    let first = trials.first()?;
    let sorted = |value: fn(&Trial) -> f64| {
        let mut values: Vec<_> = trials.iter().map(|trial| value(trial)).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let outages_ms: Vec<_> = trials.iter().map(|trial| trial.outage_ms).collect();
    let outages = sorted(|trial| trial.outage_ms);
    let mut by_incident: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for trial in trials {
        by_incident.entry(trial.incident).or_default().push(trial.outage_ms);
    }
    let incidents: Vec<_> = by_incident.into_values().collect();
    let [outage_p50_ci95_ms] = bootstrap(&incidents, [0.5], asked.seed);
    let [outage_p50_ms, outage_p95_ms, outage_p99_ms, outage_max_ms] =
        [0.5, 0.95, 0.99, 1.0].map(|share| quantile(&outages, share));
    let count = |wanted: fn(&Trial) -> bool| trials.iter().filter(|trial| wanted(trial)).count() as u64;
    let mean = |value: fn(&Trial) -> u64| {
        trials.iter().map(|trial| value(trial)).sum::<u64>() as f64 / trials.len() as f64
    };
    Some(Row {
        cause: first.cause,
        contender: first.contender,
        rtt_ms: asked.rtt_ms,
        trials: trials.len() as u64,
        incidents: incidents.len() as u64,
        came_back: count(|trial| trial.came_back),
        outage_p50_ms,
        outage_p95_ms,
        outage_p99_ms,
        outage_max_ms,
        outage_p50_ci95_ms,
        tcp_survived: count(|trial| trial.tcp_survived),
        tcp_stall_p50_ms: quantile(&sorted(|trial| trial.tcp_stall_ms), 0.5),
        lost_up_mean: mean(|trial| trial.lost_up),
        lost_down_mean: mean(|trial| trial.lost_down),
        disturbed: count(|trial| trial.bench_pause_ms > 5.0),
        outages_ms,
        incident_medians_ms: incidents.iter().map(|incident| median(incident)).collect(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::run_dir::RunDir;

    fn trial(contender: Kind, incident: u32, outage_ms: f64) -> Trial {
        Trial {
            contender,
            cause: Cause::SilentBlackhole,
            incident,
            client: 0,
            at_ms: 1,
            came_back: outage_ms < 90_000.0,
            outage_ms,
            lost_up: 10,
            lost_down: 20,
            tcp_survived: outage_ms < 90_000.0,
            tcp_stall_ms: 1.0,
            bench_pause_ms: 1.0,
        }
    }

    pub(in super::super) fn report(ours: &[f64], theirs: &[f64]) -> Report {
        let asked = Asked {
            trials: 3,
            rtt_ms: 50,
            cap_s: 90.0,
            script_after_s: None,
            clients: 1,
            seed: 1,
            causes: vec![Cause::SilentBlackhole],
        };
        let found = |contender: Kind| Found {
            contender,
            version: "1 <b>".to_owned(),
            program: None,
            sha256: None,
            configuration: "",
        };
        let mut run = Run::new(
            asked,
            Environment::collect(),
            vec![found(Kind::Ours), found(Kind::Gotatun)],
            Vec::new(),
        );
        for (kind, outages) in [(Kind::Ours, ours), (Kind::Gotatun, theirs)] {
            run.trials.extend((0..).zip(outages).map(|(number, outage)| trial(kind, number, *outage)));
        }
        run.conclude(None)
    }

    /// R8.1: whoever does not come back is counted and shown as such, not left out; only ours must.
    #[test]
    fn r8_1_a_trial_that_does_not_come_back_is_shown() {
        let found = report(&[300.0, 310.0, 320.0], &[90_000.0, 90_000.0, 2_000.0]);
        assert!(found.complete && found.problem().is_none());
        let text = found.markdown();
        assert!(
            text.contains(
                "| silent_blackhole | ours | 3 | 310 | 320 | 320 | 320 | 3 of 3 | 3 of 3 | 10 / 20 |"
            )
        );
        assert!(
            text.contains("gotatun | 3 | > 90 s | > 90 s | > 90 s | > 90 s, did not come back |"),
            "{text}"
        );
        assert!(text.contains("| 1 of 3 |") && found.bars().contains("gotatun (2 not back)"));
        let html = found.html();
        assert!(html.contains("<td>&gt; 90 s, did not come back</td>") && html.contains("What it ran on"));
        crate::browser::tests::open_and_judge(&html, 1);
        let lost = report(&[300.0, 90_000.0, 320.0], &[1.0, 1.0, 1.0]).problem();
        assert!(lost.is_some_and(|problem| problem.contains("2 of 3")));
        assert!(!report(&[300.0], &[1.0]).complete, "one of three");
        let mut broken = found;
        broken.verdict = Verdict { valid: Some(false), problems: vec!["a rule is broken".to_owned()] };
        assert_eq!(broken.problem().as_deref(), Some("INVALID: a rule is broken"));
        assert!(broken.html().contains("prove nothing.</strong><ul><li>a rule is broken"));
        assert!(broken.markdown().contains("- INVALID: a rule is broken"));
    }

    /// R8.1: what strikes all clients at once is one incident and a trial of each; a cause that means nothing to a
    /// contender is left out with a reason, and the run is whole without it.
    #[test]
    fn r8_1_incidents_are_counted_and_what_is_left_out_has_a_reason() {
        let whole = report(&[300.0, 310.0, 320.0], &[1.0, 2.0, 3.0]);
        let asked = Asked { causes: vec![Cause::DataPlaneKill], ..whole.asked };
        let found = |contender| Found {
            contender,
            version: "1".to_owned(),
            program: None,
            sha256: None,
            configuration: "",
        };
        let both = vec![found(Kind::Ours), found(Kind::KernelWireguard)];
        let mut run = Run::new(asked, Environment::collect(), both, Vec::new());
        for (incident, client) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            let one = trial(Kind::Ours, incident, 700.0 + f64::from(client));
            run.trials.push(Trial { cause: Cause::DataPlaneKill, client, ..one });
        }
        run.leave_out(Kind::KernelWireguard, Cause::DataPlaneKill, "there is no process");
        let found = run.conclude(None);
        assert!(found.complete && found.causes.len() == 1, "{found:?}");
        assert_eq!((found.causes[0].trials, found.causes[0].incidents), (4, 2));
        assert_eq!(found.causes[0].incident_medians_ms, [700.0, 700.0], "two witnesses, not four");
        crate::schemas::tests::fits_tightly(&found);
        let text = found.markdown();
        assert!(text.contains("| data_plane_kill | ours | 4 in 2 |"), "{text}");
        assert!(text.contains("- kernel-wireguard: no data_plane_kill: there is no process"), "{text}");
    }

    #[test]
    fn a_report_takes_what_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(section(dir.path()), "", "nothing lies there");
        let found = report(&[300.0, 310.0, 320.0], &[400.0, 400.0, 2_000.0]);
        let mut run = RunDir::begin(dir.path()).unwrap();
        found.write(&mut run, Some(dir.path())).unwrap();
        crate::schemas::tests::fits_tightly(&found);
        let text = section(dir.path());
        assert!(text.contains("<svg") && text.contains("ours") && text.contains("1 &lt;b&gt;"), "{text}");
        fs::write(dir.path().join(BESIDE), "{\"scenario\":").unwrap();
        assert!(section(dir.path()).contains("damaged"));
    }
}
