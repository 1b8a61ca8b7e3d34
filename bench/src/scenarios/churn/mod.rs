//! Churn: sessions are born and end, lose links, move between uplinks and between ports of a NAT, all the time and under
//! traffic, through the real processes; nobody may be lost, no rule broken, and memory must stay where it was.
//!
//! The soak asks the same question of memory with lives as short as they can be; churn asks how many moves per second a
//! gateway serves while it does everything else, and how long each of them is silent.

mod verdict;

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jvpn_rig::Interrupt;
use serde::Serialize;

use super::closing::{self, Judged, Outcome};
use super::progress::Progress;
use super::sampler::{Sample, Sampler};
use super::soak::verdict::Trend;
use super::stage::{Plan, Stage};
use crate::check_events::findings::Findings;
use crate::result::{Durations, Environment, Quantiles};
use crate::run_dir::RunDir;

/// As lively as policy allows. What is remembered of lost and ended sessions goes soon, else memory would grow for as long
/// as they are remembered; keys are renewed every half minute.
const POLICY: &str = "preset = \"edge\"\nmax_switches_per_min = 60\nreattach_global_per_second = 1000000\n\
                      recovery_window = \"5s\"\ntransport_loss_ttl = \"5s\"\nrekey_soft = \"30s\"\nvolatile_loss_percent = 100\nvolatile_rtt = \"1min\"\n\
                      volatile_jitter = \"1min\"\n";
/// Moves a minute that a session may be asked for: some more happen by themselves, and policy allows 60.
const MOVES_PER_MINUTE_MAX: usize = 40;
/// Between two turns of churn.
const TURN: Duration = Duration::from_millis(100);
/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Births per second at the start.
const BIRTHS_PER_SECOND: u32 = 200;
/// How long births may take beyond their pace, and the end of churn.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sessions at any moment.
    pub sessions: usize,
    /// How long.
    pub time: Duration,
    /// Links lost and ports changed per second, of all sessions together.
    pub moves_per_second: u32,
    /// Sessions that end and are born again per second, with and without a goodbye by turns.
    pub births_per_second: u32,
    /// A marker per session and this time.
    pub marker_interval: Duration,
    /// The members' keys follow from it.
    pub seed: u64,
    /// Where result, audit, logs and configuration go. Absolute.
    pub out_dir: PathBuf,
}

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// `churn`.
    scenario: &'static str,
    /// Valid: no rule of the audit log was broken, nobody was lost or doubled.
    #[serde(flatten)]
    outcome: Outcome,
    seed: u64,
    sessions: usize,
    minutes: f64,
    moves_per_second: u32,
    births_per_second: u32,
    marker_interval_ms: u64,
    policy: String,
    environment: Environment,
    /// What was done to the sessions, and what became of it.
    churn: Churn,
    /// From the last frame on the old path to the first one over the new binding, as the agents measured it.
    outage: Quantiles,
    /// From the decision to the new binding.
    reattach: Quantiles,
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
    const TITLE: &'static str = "Jumping VPN: churn";
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
    /// Links that were taken.
    links_lost: u64,
    /// Ports that NATs changed.
    rebindings: u64,
    /// Sessions that said goodbye, as asked.
    goodbyes: u64,
    /// Members that came again without a goodbye.
    vanished: u64,
    births: u64,
    recoveries: u64,
    rekeys: u64,
    superseded: u64,
    /// Members ATTACHED at the end.
    attached: usize,
    /// Sessions that ended though nobody had asked for it.
    lost: u64,
    markers_sent: u64,
    markers_back: u64,
    /// Markers that came back twice, or changed.
    markers_wrong: u64,
    /// Longest time for which a member heard nothing, s.
    longest_silence_s: f64,
}

/// Runs for the command line: prints, and fails if something is lost, broken or leaks.
///
/// # Errors
/// A part could not be set up or ended by itself; interrupted; a bound broken; INVALID.
pub fn run_and_print(options: &Options, json: bool, interrupt: &Interrupt) -> Result<()> {
    closing::show(&run(options, interrupt)?, json, &options.out_dir)
}

fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let mut progress = Progress::start();
    let most = options.sessions * MOVES_PER_MINUTE_MAX / 60;
    ensure!(
        options.moves_per_second as usize <= most,
        "{} moves per second are too many for {} sessions: each may move {MOVES_PER_MINUTE_MAX} times a minute, so at \
         most {most}",
        options.moves_per_second,
        options.sessions
    );
    let plan = Plan {
        members: options.sessions,
        policy: POLICY.to_owned(),
        marker_interval: options.marker_interval,
        seed: options.seed,
        out_dir: options.out_dir.clone(),
    };
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut stage = Stage::set_up(plan, interrupt, &progress)?;
    let mut report = Report {
        scenario: "churn",
        seed: options.seed,
        sessions: options.sessions,
        minutes: options.time.as_secs_f64() / 60.0,
        moves_per_second: options.moves_per_second,
        births_per_second: options.births_per_second,
        marker_interval_ms: u64::try_from(options.marker_interval.as_millis())?,
        policy: POLICY.to_owned(),
        environment: stage.environment(),
        ..Report::default()
    };
    let mut silences = Silences::new()?;
    let sampler = Sampler::start(&stage.pids, SAMPLE_INTERVAL)?;
    let churned = churn(&mut stage, options, &mut report, &mut silences, &mut progress);
    report.samples = sampler.finish();
    (report.outage, report.reattach) = (silences.outage.quantiles(), silences.reattach.quantiles());
    let churned = churned.and(silences.write(&options.out_dir));
    closing::conclude(report, stage, churned, &mut dir, &progress)
}

/// How long recoveries took.
struct Silences {
    outage: Durations,
    reattach: Durations,
}

impl Silences {
    fn new() -> Result<Self> {
        Ok(Self { outage: Durations::new()?, reattach: Durations::new()? })
    }

    fn take(&mut self, stage: &Stage<'_>) -> Result<()> {
        for one in stage.swarm.take_recoveries()? {
            self.outage.add(Duration::from_millis(one.report.outage_ms));
            self.reattach.add(Duration::from_millis(one.report.reattach_ms));
        }
        Ok(())
    }

    fn write(&self, dir: &std::path::Path) -> Result<()> {
        for (name, durations) in [("outage", &self.outage), ("reattach", &self.reattach)] {
            durations.write(dir, name)?;
        }
        Ok(())
    }
}

fn churn(
    stage: &mut Stage<'_>,
    options: &Options,
    report: &mut Report,
    silences: &mut Silences,
    progress: &mut Progress,
) -> Result<()> {
    let total = options.sessions;
    stage.swarm.attach(0..total, BIRTHS_PER_SECOND)?;
    let all = |census: &crate::swarm::Census| census.attached;
    let patience = PATIENCE + Duration::from_secs((total / BIRTHS_PER_SECOND as usize) as u64);
    let census = stage.await_members("births", total, patience, progress, all)?;
    ensure!(census.attached == total, "only {} of {total} sessions were born", census.attached);
    stage.swarm.mark()?;
    let (start, mut turns) = (Instant::now(), Turns::new(total));
    while start.elapsed() < options.time {
        let begun = Instant::now();
        let due = start.elapsed() + TURN;
        turns.turn(stage, options, due, &mut report.churn)?;
        silences.take(stage)?;
        while begun.elapsed() < TURN {
            stage.look()?;
        }
        let whole = usize::try_from(options.time.as_secs())?;
        progress.step("seconds of churn", usize::try_from(start.elapsed().as_secs())?, whole, start);
    }
    stage.swarm.heal(0..total)?;
    let census = stage.await_members("coming back", total, PATIENCE, progress, all)?;
    silences.take(stage)?;
    let settled = stage.settle_markers()?;
    report.churn.longest_silence_s =
        stage.swarm.view()?.iter().map(|view| view.longest_gap.as_secs_f64()).fold(0.0, f64::max);
    let summary = stage.settled_summary(total, PATIENCE)?;
    let counted = |name: &str| summary.counters.get(name).copied().unwrap_or_default();
    report.churn = Churn {
        births: census.sessions,
        recoveries: settled.recoveries,
        rekeys: counted("transition.REKEY_OK"),
        superseded: counted("transition.SUPERSEDED"),
        attached: census.attached,
        lost: verdict::LOSSES.iter().map(|reason| counted(&format!("transition.{reason}"))).sum(),
        markers_sent: settled.sent,
        markers_back: settled.replied,
        markers_wrong: settled.doubled + settled.damaged,
        ..report.churn
    };
    (report.live_sessions, report.slots_in_use) = (summary.live_sessions, summary.slots_in_use);
    Ok(())
}

/// Whose turn it is: two hands go round the members, each at its pace, and begin opposite. Where one passes the other a
/// member loses its link while it is being born, as happens in life.
#[derive(Clone, Copy, Debug)]
struct Turns {
    total: usize,
    moves: usize,
    births: usize,
    number: usize,
}

impl Turns {
    const fn new(total: usize) -> Self {
        Self { total, moves: 0, births: 0, number: 0 }
    }

    /// Everything that is due until `due`: links lost or ports changed by turns; goodbyes or none.
    fn turn(&mut self, stage: &Stage<'_>, options: &Options, due: Duration, churn: &mut Churn) -> Result<()> {
        let swarm = &stage.swarm;
        for range in self.next_moves(options.moves_per_second, due) {
            let count = range.len() as u64;
            if self.number.is_multiple_of(2) {
                let _moment = swarm.fail(range)?;
                churn.links_lost += count;
            } else {
                swarm.rebind(range)?;
                churn.rebindings += count;
            }
        }
        for range in self.next_births(options.births_per_second, due) {
            let count = range.len() as u64;
            if self.number.is_multiple_of(2) {
                swarm.restart(range)?;
                churn.goodbyes += count;
            } else {
                swarm.vanish(range)?;
                churn.vanished += count;
            }
        }
        self.number += 1;
        Ok(())
    }

    fn next_moves(&mut self, per_second: u32, due: Duration) -> Vec<Range<usize>> {
        let (from, to) = (self.moves, done_by(per_second, due));
        self.moves = to;
        around(from, to, self.total)
    }

    fn next_births(&mut self, per_second: u32, due: Duration) -> Vec<Range<usize>> {
        let (from, to) = (self.births, done_by(per_second, due));
        self.births = to;
        around(self.total / 2 + from, self.total / 2 + to, self.total)
    }
}

fn done_by(per_second: u32, due: Duration) -> usize {
    (f64::from(per_second) * due.as_secs_f64()) as usize
}

/// The members from one number to another, counted round and round: never one twice.
fn around(from: usize, to: usize, total: usize) -> Vec<Range<usize>> {
    let count = to.saturating_sub(from).min(total);
    let begin = from % total.max(1);
    let end = begin + count;
    let over = end.saturating_sub(total);
    [begin..end - over, 0..over].into_iter().filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R7.4: every member has its turn, none twice in one, and the pace is the one asked for.
    #[test]
    fn r7_4_everybody_has_a_turn() {
        for (total, pace) in [(12, 7), (100, 64), (500, 300)] {
            let mut turns = Turns::new(total);
            let (mut moved, mut born) = (vec![0; total], vec![0; total]);
            for step in 1..=6_000_u32 {
                let due = TURN * step;
                let moves: Vec<_> = turns.next_moves(pace, due).into_iter().flatten().collect();
                let births: Vec<_> = turns.next_births(pace / 4 + 1, due).into_iter().flatten().collect();
                moves.iter().for_each(|member| moved[*member] += 1);
                births.iter().for_each(|member| born[*member] += 1);
                let mut both = [moves.clone(), births].concat();
                both.sort_unstable();
                both.dedup();
                assert!(moves.len() <= total && both.iter().all(|member| *member < total));
            }
            assert!(moved.iter().all(|count| *count > 0) && born.iter().all(|count| *count > 0), "{total}");
            assert_eq!(moved.iter().sum::<usize>(), pace as usize * 600, "{total}");
        }
        assert_eq!(around(10, 13, 12), [10..12, 0..1]);
        assert!(around(0, 50, 12).into_iter().flatten().eq(0..12), "nobody twice");
        assert!(around(5, 5, 12).is_empty());
    }
}
