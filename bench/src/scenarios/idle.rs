//! What the gateway uses of a processor when there is nothing to do: without a session, and with sessions that are
//! attached and silent, whose probes and timers go on (R0.4).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use jvpn_rig::Interrupt;
use serde::Serialize;

use super::measure::processor_time;
use super::progress::Progress;
use super::stage::{Plan, Stage};
use crate::account::Verdict;
use crate::check_events::findings::Findings;
use crate::result::{Ending, Environment};
use crate::run_dir::RunDir;
use crate::timeline;

/// Percent of one core that the idle gateway may use, all processes together.
const AIM: f64 = 1.0;
/// Policy: what a gateway has by default.
const POLICY: &str = "preset = \"edge\"\n";
/// Between markers; they are held back while it is measured.
const MARKER_INTERVAL: Duration = Duration::from_secs(1);
const BIRTHS_PER_SECOND: u32 = 200;
/// How long births may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What births left to do is done.
const SETTLING: Duration = Duration::from_secs(3);

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Silent sessions of the second measurement.
    pub sessions: usize,
    /// How long each measurement takes.
    pub time: Duration,
    /// Where result, logs and configuration go. Absolute.
    pub out_dir: PathBuf,
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
struct Measured {
    /// Attached sessions.
    sessions: usize,
    /// How long, s.
    seconds: f64,
    /// Percent of one core.
    control_plane_percent: f64,
    /// Percent of one core, all threads of `jvpn-dataplane`.
    data_plane_percent: f64,
}

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
struct Report {
    /// `idle`.
    scenario: &'static str,
    /// Whether the audit log broke no rule.
    #[serde(flatten)]
    verdict: Verdict,
    #[serde(flatten)]
    ending: Ending,
    /// The `[policy]` table.
    policy: &'static str,
    environment: Environment,
    /// Percent of one core that both processes together may use without a session.
    aim_percent: f64,
    /// Whether they do.
    met: bool,
    measured: Vec<Measured>,
    /// What broke a bound.
    failures: Vec<String>,
}

/// Measures and prints; a missed aim without sessions fails the run.
///
/// # Errors
/// A part could not be set up or ended by itself; interrupted; the aim is missed.
pub fn run_and_print(options: &Options, json: bool, interrupt: &Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut progress = Progress::start();
    let plan = Plan {
        members: options.sessions,
        policy: POLICY.to_owned(),
        marker_interval: MARKER_INTERVAL,
        seed: 1,
        out_dir: options.out_dir.clone(),
    };
    let mut stage = Stage::set_up(plan, interrupt, &progress)?;
    let mut report = Report {
        scenario: "idle",
        policy: POLICY,
        environment: stage.environment(),
        aim_percent: AIM,
        ..Report::default()
    };
    let measured = measure_both(&mut stage, options, &mut report.measured, &mut progress);
    let audit = stage.end(measured, &progress);
    report.judge(&audit);
    report.ending = Ending::of(&audit);
    dir.conclude("Jumping VPN: the gateway with nothing to do", &report, audit)?;
    show(&report, json)?;
    report.verdict.or_fail()?;
    match report.failures.first() {
        Some(failure) => bail!("{failure}; result.json has the figures"),
        None => Ok(()),
    }
}

impl Report {
    /// Without a session the aim holds or is missed; before that was measured neither.
    fn judge(&mut self, audit: &Result<Findings>) {
        self.verdict = Verdict::of(audit);
        let total = |one: &Measured| one.control_plane_percent + one.data_plane_percent;
        let first = self.measured.first().map(total);
        self.met = first.is_some_and(|percent| percent < AIM);
        if first.is_some() && !self.met {
            self.failures.push(format!("the idle gateway uses more than {AIM} % of a core"));
        }
    }
}

fn measure_both(
    stage: &mut Stage<'_>,
    options: &Options,
    measured: &mut Vec<Measured>,
    progress: &mut Progress,
) -> Result<()> {
    let total = options.sessions;
    let births = Duration::from_secs_f64(total as f64 / f64::from(BIRTHS_PER_SECOND));
    let all = (SETTLING + options.time) * 2 + births;
    progress.say(&format!("without a session; about {:.0} s in all", all.as_secs_f64()));
    stage.pass(SETTLING)?;
    measured.push(measure(stage, 0, options.time, progress)?);
    stage.swarm.attach(0..total, BIRTHS_PER_SECOND)?;
    let census = stage.await_members("births", total, PATIENCE, progress, |census| census.attached)?;
    ensure!(census.attached == total, "only {} of {total} sessions were born", census.attached);
    stage.swarm.quiet(true)?;
    stage.pass(SETTLING)?;
    measured.push(measure(stage, total, options.time, progress)?);
    Ok(())
}

fn measure(
    stage: &mut Stage<'_>,
    sessions: usize,
    time: Duration,
    progress: &mut Progress,
) -> Result<Measured> {
    let (control_plane, data_plane) = stage.gateway_pids()?;
    let used = || Ok::<_, anyhow::Error>([processor_time(control_plane)?, processor_time(data_plane)?]);
    let (before, began) = (used()?, Instant::now());
    stage.pass_told(&format!("{sessions} silent sessions"), time, progress)?;
    let (after, took) = (used()?, began.elapsed());
    let percent = |at: usize| {
        let [before, after] = [before, after].map(|times| times.get(at).copied().unwrap_or_default());
        after.saturating_sub(before).as_secs_f64() / took.as_secs_f64() * 100.0
    };
    Ok(Measured {
        sessions,
        seconds: took.as_secs_f64(),
        control_plane_percent: percent(0),
        data_plane_percent: percent(1),
    })
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        timeline::print(&serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    timeline::print("| Silent sessions | Control plane, % of a core | Data plane, % of a core |");
    timeline::print("|---|---|---|");
    for Measured { sessions, control_plane_percent, data_plane_percent, .. } in &report.measured {
        timeline::print(&format!("| {sessions} | {control_plane_percent:.2} | {data_plane_percent:.2} |"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemas::tests::fits_tightly;
    use anyhow::anyhow;

    /// R0.4, R8.4: the aim is judged by the first measurement; without it nothing is said.
    #[test]
    fn r8_4_a_part_is_judged_by_what_it_has() {
        let of = |percents: &[f64]| {
            let one = |percent: &f64| Measured { control_plane_percent: *percent, ..Measured::default() };
            let measured = percents.iter().map(one).collect();
            let mut report = Report { scenario: "idle", policy: POLICY, measured, ..Report::default() };
            report.environment = Environment::collect();
            report.judge(&Ok(Findings { good: true, ..Findings::default() }));
            report
        };
        assert!(of(&[0.5, 9.0]).met && of(&[0.5, 9.0]).failures.is_empty());
        assert!(!of(&[1.5]).met && of(&[1.5]).failures.len() == 1);
        assert!(!of(&[]).met && of(&[]).failures.is_empty());
        let mut part = of(&[0.5]);
        part.ending = Ending::of::<()>(&Err(anyhow!("interrupted")));
        fits_tightly(&part);
        fits_tightly(&of(&[1.5, 2.0]));
        // What the gateway did in its own account makes the figures worthless, whatever they are.
        let mut broken = of(&[0.5]);
        broken.judge(&Ok(Findings { violations_total: 3, ..Findings::default() }));
        assert_eq!((broken.verdict.valid, broken.met), (Some(false), true));
        assert!(broken.verdict.or_fail().unwrap_err().to_string().contains("breaks 3 rules"));
        fits_tightly(&broken);
    }
}
