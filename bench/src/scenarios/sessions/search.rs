//! How many sessions the machine sustains: more and more of them in one gateway, until something is not as it should be or
//! the tables are full; then the number between is looked for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jvpn_rig::Interrupt;
use serde::Serialize;

use super::Options;
use super::report::Shares;
use crate::account::Verdict;
use crate::result::{Ending, Environment};
use crate::run_dir::RunDir;
use crate::scenarios::progress::Progress;
use crate::scenarios::sampler::Usage;
use crate::scenarios::stage::Stage;
use crate::swarm::network::MEMBERS_MAX;
use crate::timeline;

/// The first number that is tried.
const FIRST: usize = 1_000;
/// The search ends when the numbers that work and that do not are so near to each other: one in eight.
const NEAR: usize = 8;
/// A number that does not work is held once more.
const HOLDS: u32 = 2;
/// What births may take beyond twice their own pace.
const BIRTHS_EXTRA: Duration = Duration::from_secs(15);

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// `sessions-search`.
    scenario: &'static str,
    /// Whether the audit log broke no rule.
    #[serde(flatten)]
    verdict: Verdict,
    #[serde(flatten)]
    ending: Ending,
    /// Sessions that were sustained.
    sustained: usize,
    /// Why not more.
    limit: String,
    /// Up to here it was looked for.
    searched_to: usize,
    births_per_second: u32,
    marker_interval_ms: u64,
    hold_s: u64,
    seed: u64,
    policy: String,
    environment: Environment,
    steps: Vec<Step>,
}

/// One number of sessions.
#[derive(Clone, Debug, Default, Serialize)]
struct Step {
    sessions: usize,
    /// How long the further ones took to be born, s.
    births_s: f64,
    /// How often they were held; the last counts.
    holds: u32,
    attached: usize,
    markers_sent: u64,
    markers_lost: u64,
    sessions_ended: u64,
    recoveries: u64,
    cpu: Shares,
    control_plane_kib: u64,
    data_plane_kib: u64,
    /// What was not as it should be.
    broken: Option<String>,
}

/// Which number is tried next, and whether one is.
fn next(good: usize, bad: Option<usize>, limit: usize) -> Option<usize> {
    match bad {
        None if good >= limit => None,
        None => Some((good * 2).max(FIRST).min(limit)),
        Some(bad) if bad - good <= (good / NEAR).max(1) => None,
        Some(bad) => Some(good.midpoint(bad)),
    }
}

/// How long the rest takes if every number that is tried is sustained.
fn left(options: &Options, mut good: usize, bad: Option<usize>, limit: usize) -> Duration {
    let mut time = Duration::ZERO;
    while let Some(target) = next(good, bad, limit) {
        let births = (target - good) as f64 / f64::from(options.births_per_second);
        // What is under way is waited for before it is held and behind it.
        time += Duration::from_secs_f64(births) + options.steady + 2 * super::SETTLING;
        good = target;
    }
    time
}

/// Searches for the command line: prints, and fails if the audit log broke a rule or not one session was sustained.
///
/// # Errors
/// A part could not be set up or ended by itself; interrupted; INVALID.
pub fn search_and_print(options: &Options, json: bool, interrupt: &Interrupt) -> Result<()> {
    let report = search(options, interrupt)?;
    if json {
        timeline::print(&serde_json::to_string_pretty(&report)?);
    } else {
        for step in &report.steps {
            timeline::print(&step.line());
        }
        timeline::print(&format!("\n  sustained: {} sessions; limit: {}", report.sustained, report.limit));
    }
    report.verdict.or_fail()?;
    if report.sustained == 0 {
        bail!("not even {FIRST} sessions were sustained: {}", report.limit);
    }
    Ok(())
}

fn search(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut progress = Progress::start();
    let plan = options.plan()?;
    let policy = plan.policy.clone();
    let mut stage = Stage::set_up(plan, interrupt, &progress)?;
    let limit = options.sessions;
    let mut report = Report {
        scenario: "sessions-search",
        searched_to: limit,
        births_per_second: options.births_per_second,
        marker_interval_ms: u64::try_from(options.marker_interval().as_millis())?,
        hold_s: options.steady.as_secs(),
        seed: options.seed,
        policy,
        environment: stage.environment(),
        ..Report::default()
    };
    let tried = try_numbers(&mut stage, options, &mut report, &mut progress);
    let judged = stage.end(tried, &progress);
    report.verdict = Verdict::of(&judged);
    report.ending = Ending::of(&judged);
    dir.conclude("Jumping VPN: the most sessions sustained", &report, judged)?;
    Ok(report)
}

fn try_numbers(
    stage: &mut Stage<'_>,
    options: &Options,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<()> {
    let (limit, mut bad) = (report.searched_to, None);
    while let Some(target) = next(report.sustained, bad, limit) {
        let good = report.sustained;
        let left = left(options, good, bad, limit).as_secs_f64();
        progress.say(&format!("{target} sessions; about {left:.0} s left in all if every number holds"));
        let step = try_number(stage, options, good, target, progress)?;
        progress.say(&step.line());
        let broken = step.broken.clone();
        report.steps.push(step);
        match broken {
            None => report.sustained = target,
            Some(why) => {
                report.limit = format!("{target} sessions: {why}");
                bad = Some(target);
                leave(stage, good, target, progress)?;
            }
        }
    }
    if bad.is_none() {
        report.limit = if limit == MEMBERS_MAX {
            format!("the tables: {MEMBERS_MAX} addresses of the pool, 65,536 sessions of policy")
        } else {
            format!("no more than {limit} were asked for")
        };
    }
    Ok(())
}

fn try_number(
    stage: &mut Stage<'_>,
    options: &Options,
    good: usize,
    target: usize,
    progress: &mut Progress,
) -> Result<Step> {
    let before = stage.swarm.census()?;
    let pace = options.births_per_second;
    let began = Instant::now();
    stage.swarm.quiet(false)?;
    stage.swarm.attach(good..target, pace)?;
    let patience = Duration::from_secs_f64((target - good) as f64 / f64::from(pace) * 2.0) + BIRTHS_EXTRA;
    let born = stage.await_members("births", target, patience, progress, |census| census.attached)?;
    let births_s = began.elapsed().as_secs_f64();
    let mut step = Step { sessions: target, births_s, ..Step::default() };
    // One stumble of a machine is not its limit.
    for _ in 0..HOLDS {
        hold(stage, options, &mut step, progress)?;
        step.attached = step.attached.min(born.attached);
        step.sessions_ended = stage.swarm.census()?.ended - before.ended;
        step.broken = step.what_is_broken();
        if step.broken.is_none() || born.attached < target {
            break;
        }
    }
    Ok(step)
}

/// Holds all sessions for a while, and notes what became of them.
fn hold(stage: &mut Stage<'_>, options: &Options, step: &mut Step, progress: &mut Progress) -> Result<()> {
    let settled = stage.settle_markers()?;
    stage.swarm.quiet(false)?;
    let held = Instant::now();
    let from = stage.pids.sample(held);
    stage.pass_told("held", options.steady, progress)?;
    let (to, seconds) = (stage.pids.sample(held), held.elapsed().as_secs_f64());
    let after = stage.settle_markers()?;
    let memory = |usage: Option<Usage>| usage.map_or(0, |usage| usage.rss_kib);
    step.holds += 1;
    step.attached = after.attached;
    step.markers_sent = after.sent - settled.sent;
    step.markers_lost = step.markers_sent.saturating_sub(after.replied - settled.replied);
    step.recoveries = after.recoveries - settled.recoveries;
    step.cpu = Shares::between(Some(&from), Some(&to), seconds);
    step.control_plane_kib = memory(to.control_plane);
    step.data_plane_kib = memory(to.data_plane);
    Ok(())
}

/// The last ones go again.
fn leave(stage: &mut Stage<'_>, good: usize, target: usize, progress: &mut Progress) -> Result<()> {
    stage.swarm.end_sessions(good..target)?;
    let total = target - good;
    let _gone = stage.await_members("goodbyes", total, BIRTHS_EXTRA, progress, |census| {
        target.saturating_sub(census.attached)
    })?;
    Ok(())
}

impl Step {
    fn what_is_broken(&self) -> Option<String> {
        let Self { sessions, attached, sessions_ended, recoveries, markers_lost, markers_sent, .. } = self;
        if attached < sessions {
            return Some(format!("only {attached} were ATTACHED in time"));
        }
        if *sessions_ended > 0 {
            return Some(format!("{sessions_ended} ended"));
        }
        if *recoveries > 0 {
            return Some(format!("{recoveries} took their path for dead: probes were not answered"));
        }
        (*markers_lost > 0).then(|| format!("{markers_lost} of {markers_sent} markers were lost"))
    }

    fn line(&self) -> String {
        format!(
            "{:>6} sessions: born in {:.1} s; CPU {:.0} / {:.0} / {:.0} %; {} KiB / {} KiB; {}",
            self.sessions,
            self.births_s,
            self.cpu.control_plane,
            self.cpu.data_plane,
            self.cpu.swarm,
            self.control_plane_kib,
            self.data_plane_kib,
            self.broken.as_deref().unwrap_or("sustained")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.2: the search doubles, then halves, and ends; for every number that a machine may sustain.
    #[test]
    fn r8_2_the_search_ends_near_the_limit() {
        for real in [0, 1, 900, 1_000, 1_001, 3_000, 20_000, 65_532, 65_533, 100_000] {
            let (mut good, mut bad, mut steps) = (0, None, 0);
            while let Some(target) = next(good, bad, MEMBERS_MAX) {
                if target <= real {
                    good = target
                } else {
                    bad = Some(target)
                }
                steps += 1;
                assert!(steps < 30, "{real}");
            }
            let sustained = real.min(MEMBERS_MAX);
            assert!(good <= sustained && sustained - good <= (good / NEAR).max(1), "{real}: {good}");
        }
    }

    #[test]
    fn r8_4_a_search_fits_its_schema() {
        let broken = Some("one was lost".to_owned());
        let step = Step { broken, cpu: Shares::between(None, None, 1.0), ..Step::default() };
        let report = Report {
            scenario: "sessions-search",
            policy: super::super::POLICY.to_owned(),
            verdict: Verdict { valid: Some(true), problems: Vec::new() },
            environment: Environment::collect(),
            steps: vec![Step::default(), step],
            ..Report::default()
        };
        crate::schemas::tests::fits_tightly(&report);
    }

    /// R8.2: what is not as it should be is said.
    #[test]
    fn r8_2_a_step_fails_for_each_reason() {
        let step = || Step { sessions: 5, attached: 5, markers_sent: 9, ..Step::default() };
        assert_eq!(step().what_is_broken(), None);
        let broken = [
            Step { attached: 4, ..step() },
            Step { sessions_ended: 1, ..step() },
            Step { recoveries: 1, ..step() },
            Step { markers_lost: 1, ..step() },
        ];
        assert!(broken.iter().all(|step| step.what_is_broken().is_some()));
    }
}
