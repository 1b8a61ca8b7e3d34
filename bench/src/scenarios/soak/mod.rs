//! The soak: sessions are born, move, rekey and end through the real processes for as long as is asked for, and memory and
//! descriptors of each process must be where they were (R7.4). The rule is in [`verdict`].

pub mod verdict;

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jvpn_rig::Interrupt;
use serde::Serialize;

use super::closing::{self, Judged, Outcome};
use super::progress::Progress;
use super::sampler::{Sample, Sampler};
use super::stage::{Plan, Stage};
use crate::check_events::findings::Findings;
use crate::result::Environment;
use crate::run_dir::RunDir;
use verdict::Trend;

/// Everything that a session can have ends soon: keys, memories of the lost.
const POLICY: &str = "preset = \"edge\"\nmax_switches_per_min = 60\nreattach_global_per_second = 1000000\n\
                      recovery_window = \"5s\"\ntransport_loss_ttl = \"5s\"\nrekey_soft = \"2s\"\n\
                      rekey_hard = \"60s\"\nvolatile_loss_percent = 100\nvolatile_rtt = \"1min\"\n\
                      volatile_jitter = \"1min\"\n";
/// Sessions fall into so many parts; in each round other parts go through each change.
const PARTS: usize = 12;
/// Length of a round.
const ROUND: Duration = Duration::from_secs(1);
/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// A marker per session and this time.
const MARKER_INTERVAL: Duration = Duration::from_millis(200);
/// The same under load: more than the machine forwards, so that what goes through is what it can.
const LOAD_INTERVAL: Duration = Duration::from_millis(2);
/// Births per second at the start.
const BIRTHS_PER_SECOND: u32 = 200;
/// How long births may take, and the end of churn.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sessions at any moment.
    pub sessions: usize,
    /// How long.
    pub time: Duration,
    /// How much the sessions send meanwhile.
    pub traffic: Traffic,
    /// The members' keys follow from it.
    pub seed: u64,
    /// Where result, audit, logs and configuration go. Absolute.
    pub out_dir: PathBuf,
}

/// How much the sessions send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// A marker now and then, to see that they live.
    #[default]
    Markers,
    /// As much as goes.
    Full,
}

/// What went through the data plane while sessions churned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Load {
    traffic: Traffic,
    /// Packets per second from clients to the LAN.
    in_per_second: f64,
    /// Packets per second from the LAN to clients.
    out_per_second: f64,
}

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// `soak`.
    scenario: &'static str,
    /// Valid: the audit log broke no rule.
    #[serde(flatten)]
    outcome: Outcome,
    seed: u64,
    sessions: usize,
    minutes: f64,
    policy: String,
    environment: Environment,
    /// What the sessions went through.
    churn: Churn,
    /// What they sent.
    load: Load,
    /// Memory and descriptors, judged.
    trends: Vec<Trend>,
    /// Live sessions at the end.
    live_sessions: u64,
    /// Slots in use at the end.
    slots_in_use: u64,
    audit: Findings,
    samples: Vec<Sample>,
}

impl Judged for Report {
    const TITLE: &'static str = "Jumping VPN: soak";
    const BROKEN: &'static str = "leaks or bounds broken";

    fn judge(&mut self, audit: Findings) {
        self.audit = audit;
        self.conclude();
    }

    fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    fn outcome_mut(&mut self) -> &mut Outcome {
        &mut self.outcome
    }

    fn lines(&self) -> Vec<String> {
        self.table()
    }
}

/// What the sessions went through.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Churn {
    births: u64,
    ends: u64,
    recoveries: u64,
    rekeys: u64,
    superseded: u64,
    terminated_by_operator: u64,
}

/// Runs for the command line: prints, and fails if something leaks or is broken.
///
/// # Errors
/// A part could not be set up or ended by itself; interrupted; a leak; INVALID.
pub fn run_and_print(options: &Options, json: bool, interrupt: &Interrupt) -> Result<()> {
    closing::show(&run(options, interrupt)?, json, &options.out_dir)
}

fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let mut progress = Progress::start();
    ensure!(options.sessions >= PARTS, "a soak needs at least {PARTS} sessions");
    let plan = Plan {
        members: options.sessions,
        policy: POLICY.to_owned(),
        marker_interval: match options.traffic {
            Traffic::Markers => MARKER_INTERVAL,
            Traffic::Full => LOAD_INTERVAL,
        },
        seed: options.seed,
        out_dir: options.out_dir.clone(),
    };
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut stage = Stage::set_up(plan, interrupt, &progress)?;
    let mut report = Report {
        scenario: "soak",
        seed: options.seed,
        sessions: options.sessions,
        minutes: options.time.as_secs_f64() / 60.0,
        policy: POLICY.to_owned(),
        environment: stage.environment(),
        ..Report::default()
    };
    let sampler = Sampler::start(&stage.pids, SAMPLE_INTERVAL)?;
    let churned = churn(&mut stage, options, &mut report, &mut progress);
    report.samples = sampler.finish();
    closing::conclude(report, stage, churned, &mut dir, &progress)
}

fn churn(
    stage: &mut Stage<'_>,
    options: &Options,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<()> {
    let total = options.sessions;
    stage.swarm.attach(0..total, BIRTHS_PER_SECOND)?;
    let all = |census: &crate::swarm::Census| census.attached;
    let census = stage.await_members("births", total, PATIENCE, progress, all)?;
    ensure!(census.attached == total, "only {} of {total} sessions were born", census.attached);
    let (start, mut round) = (Instant::now(), 0);
    let before = stage.forwarded()?;
    while start.elapsed() < options.time {
        let begun = Instant::now();
        go_round(stage, total, round)?;
        report.churn.terminated_by_operator += 1;
        round += 1;
        while begun.elapsed() < ROUND {
            stage.look()?;
        }
        let whole = usize::try_from(options.time.as_secs())?;
        progress.step("seconds of churn", usize::try_from(start.elapsed().as_secs())?, whole, start);
    }
    let (after, took) = (stage.forwarded()?, start.elapsed().as_secs_f64());
    report.load = Load {
        traffic: options.traffic,
        in_per_second: after.0.saturating_sub(before.0) as f64 / took,
        out_per_second: after.1.saturating_sub(before.1) as f64 / took,
    };
    stage.swarm.heal(0..total)?;
    let census = stage.await_members("coming back", total, PATIENCE, progress, all)?;
    let summary = stage.settled_summary(total, PATIENCE)?;
    let counted = |name: &str| summary.counters.get(name).copied().unwrap_or_default();
    report.churn = Churn {
        births: census.sessions,
        ends: census.ended,
        recoveries: census.recoveries,
        rekeys: counted("transition.REKEY_OK"),
        superseded: counted("transition.SUPERSEDED"),
        ..report.churn
    };
    (report.live_sessions, report.slots_in_use) = (summary.live_sessions, summary.slots_in_use);
    Ok(())
}

/// The members of a part.
fn part(total: usize, number: usize) -> Range<usize> {
    let number = number % PARTS;
    total * number / PARTS..total * (number + 1) / PARTS
}

/// Other parts in each round: links lost, links back, a NAT rebinding, goodbyes with new births, births that supersede; and
/// one session that the operator ends, whose peer comes again a round later.
fn go_round(stage: &Stage<'_>, total: usize, round: usize) -> Result<()> {
    let swarm = &stage.swarm;
    let apart = |distance: usize| part(total, round + distance);
    let _moment = swarm.fail(apart(0))?;
    swarm.heal(apart(PARTS - 1))?;
    swarm.rebind(apart(3))?;
    let ended = apart(6);
    swarm.restart(ended.clone())?;
    swarm.vanish(apart(9))?;
    let next = apart(7).start;
    stage.operator(&format!("terminate-peer peer-{next} soak"))
}

impl Report {
    fn conclude(&mut self) {
        self.trends = verdict::trends(&self.samples);
        self.outcome.failures = self.trends.iter().filter_map(|trend| trend.complaint.clone()).collect();
        let total = self.sessions as u64;
        if self.live_sessions != total {
            self.outcome.failures.push(format!("{} sessions are live, not {total}", self.live_sessions));
        }
        // A session that switches or has just replaced another may hold a second slot for a moment.
        if self.slots_in_use > 2 * total {
            self.outcome.failures.push(format!("{} slots are in use by {total} sessions", self.slots_in_use));
        }
        self.outcome.valid = self.audit.good;
        if !self.outcome.valid {
            self.outcome.failures.push(format!("the audit log breaks {} rules", self.audit.violations_total));
        }
    }

    fn table(&self) -> Vec<String> {
        let Churn { births, ends, recoveries, rekeys, superseded, terminated_by_operator } = self.churn;
        let mut lines = vec![
            format!(
                "\n  soak of {:.1} min with {} sessions: {births} births, {ends} ends, {superseded} superseded, \
             {terminated_by_operator} ended by the operator, {recoveries} recoveries, {rekeys} rekeys",
                self.minutes, self.sessions
            ),
            format!(
                "  packets per second: {:.0} in, {:.0} out",
                self.load.in_per_second, self.load.out_per_second
            ),
        ];
        lines.extend(self.trends.iter().map(Trend::line));
        lines.push(format!(
            "  live sessions {}, slots in use {}, audit: {} events, {} rules broken",
            self.live_sessions, self.slots_in_use, self.audit.events, self.audit.violations_total
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Ending;
    use crate::schemas::tests::fits_tightly;

    /// R8.4: a judged run and one that was broken off fit the schema; a run that is too short to judge fails.
    #[test]
    fn r8_4_whole_and_part_fit_the_schema() {
        let mut report = Report {
            scenario: "soak",
            policy: POLICY.to_owned(),
            environment: Environment::collect(),
            ..Report::default()
        };
        let mut part = report.clone();
        report.judge(Findings { good: true, ..Findings::default() });
        report.outcome.end(Ending::of(&Ok(())));
        assert!(report.outcome.valid && report.outcome.ending.complete && report.outcome.failures.len() == 6);
        assert_eq!(report.lines().len(), 9);
        fits_tightly(&report);
        part.outcome.end(Ending::of::<()>(&Err(anyhow::anyhow!("x"))));
        assert!(!part.outcome.valid && part.outcome.failures == ["not complete: x"]);
        fits_tightly(&part);
    }

    /// R7.4: every member belongs to one part, and parts of one round do not meet.
    #[test]
    fn r7_4_parts_are_disjoint_and_whole() {
        for total in [PARTS, 100, 101, 4_000] {
            let all: Vec<_> = (0..PARTS).flat_map(|number| part(total, number)).collect();
            assert_eq!(all, (0..total).collect::<Vec<_>>());
        }
    }
}
