//! Sessions in bulk through the real processes: births, memory and processor time, storms in which all lose their path at
//! once, and the death of the control plane under all of them (`docs/decisions/0028-sessions-in-bulk.md`).

pub mod report;
mod search;

pub use search::search_and_print;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jvpn_abi::BootTime;
use jvpn_rig::Interrupt;

use super::closing;
use super::cost::bound;
use super::progress::Progress;
use super::sampler::{Sample, Sampler};
use super::stage::{Plan, Stage, policy_lines, risen};
use crate::result::Durations;
use crate::run_dir::RunDir;
use crate::simulation::dice::Dice;
use report::{Births, Bound, Kill, Report, Steady, StormReport};

/// No limit of policy stands in the way of a storm; probes are rare, so that what is idle costs little; quality has
/// benches of its own.
pub const POLICY: &str = "preset = \"edge\"\nmax_switches_per_min = 60\n\
                          reattach_global_per_second = 1000000\nprobe_traffic = \"5s\"\n\
                          volatile_loss_percent = 100\nvolatile_rtt = \"1min\"\nvolatile_jitter = \"1min\"\n";
/// Markers of all sessions together, per second, unless something else is asked for.
const MARKERS_PER_SECOND: usize = 5_000;
/// Shortest interval of markers that is chosen.
const MARKER_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Rounds in which the cost of X25519 is measured.
const BOUND_ROUNDS: u32 = 5;
/// How often memory and processor time are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// What births may take beyond their own pace.
const BIRTHS_EXTRA: Duration = Duration::from_secs(60);
/// How long a storm may take, and so much more for each session.
const STORM_PATIENCE: Duration = Duration::from_secs(60);
const STORM_PATIENCE_EACH: Duration = Duration::from_millis(2);
/// About what it takes until no marker is under way.
const SETTLING: Duration = Duration::from_secs(1);
/// Between two storms sessions get their tokens back (5 per second each), and candidates their tickets.
const STORM_PAUSE: Duration = Duration::from_secs(3);

/// How all sessions lose their path at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Storm {
    /// Each loses the link that it is bound to; the agents are told, and ask at once.
    LinkDown,
    /// Each gets another port of its NAT; agents learn it from the gateway, with their next marker.
    Rebinding,
}

impl Storm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::LinkDown, Self::Rebinding];

    /// Its name on the command line and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkDown => "link-down",
            Self::Rebinding => "rebinding",
        }
    }
}

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sessions.
    pub sessions: usize,
    /// A policy file instead of [`POLICY`].
    pub policy: Option<PathBuf>,
    /// Handshakes begun per second.
    pub births_per_second: u32,
    /// A marker per session and this time; `None`: chosen so that all together send 5,000 per second at most.
    pub marker_interval: Option<Duration>,
    /// How long all sessions are held in peace.
    pub steady: Duration,
    /// Storms, in this order.
    pub storms: Vec<Storm>,
    /// Longest time from the kill of the control plane until all sessions are adopted, for up to 10,000 of them; more may
    /// take longer in proportion.
    pub adoption_bound: Duration,
    /// The members' keys follow from it.
    pub seed: u64,
    /// Where result, audit, logs and configuration go. Absolute.
    pub out_dir: PathBuf,
}

impl Options {
    fn plan(&self) -> Result<Plan> {
        Ok(Plan {
            members: self.sessions,
            policy: self.policy.as_deref().map_or_else(|| Ok(POLICY.to_owned()), policy_lines)?,
            marker_interval: self.marker_interval(),
            seed: self.seed,
            out_dir: self.out_dir.clone(),
        })
    }

    fn marker_interval(&self) -> Duration {
        let chosen = Duration::from_secs_f64(self.sessions as f64 / MARKERS_PER_SECOND as f64);
        self.marker_interval.unwrap_or_else(|| chosen.max(MARKER_INTERVAL_MIN))
    }

    /// The bound on adoption for this many sessions.
    #[must_use]
    pub fn adoption_bound(&self) -> Duration {
        self.adoption_bound.mul_f64((self.sessions as f64 / 10_000.0).max(1.0))
    }
}

/// Runs and writes `result.json`; what does not hold is in the report.
///
/// # Errors
/// A part could not be set up or ended by itself; interrupted.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    let mut progress = Progress::start();
    let plan = options.plan()?;
    let policy = plan.policy.clone();
    progress.say("X25519 alone");
    let bound = dh_bound(options.seed)?;
    let stage = Stage::set_up(plan, interrupt, &progress)?;
    let mut report = Report {
        scenario: "sessions",
        seed: options.seed,
        sessions: options.sessions,
        marker_interval_ms: u64::try_from(options.marker_interval().as_millis())?,
        adoption_bound_ms: options.adoption_bound().as_secs_f64() * 1_000.0,
        policy,
        bound,
        environment: stage.environment(),
        ..Report::default()
    };
    let sampler = Sampler::start(&stage.pids, SAMPLE_INTERVAL)?;
    let start = Instant::now();
    let mut run = Run { stage, options, start, storms: 0 };
    let measured = run.measure(&mut report, &mut progress);
    report.samples = sampler.finish();
    closing::conclude(report, run.stage, measured, &mut dir, &progress)
}

/// What the X25519 operations of a reattach alone cost on one core.
fn dh_bound(seed: u64) -> Result<Bound> {
    let backend = jvpn_crypto::x25519::BACKEND;
    let all = bound::measure(BOUND_ROUNDS, &mut Dice::new(seed, 1))?;
    let ours = all.into_iter().find(|one| one.name == backend).context("the backend was not measured")?;
    Ok(Bound { backend, reattach_us: ours.reattach_ns / 1_000.0 })
}

/// What is still to come, and how long it should take.
struct Outlook {
    rest: VecDeque<(String, Duration)>,
    total: usize,
}

impl Outlook {
    fn new(options: &Options, bound: Bound) -> Self {
        let total = options.sessions as f64;
        let births = Duration::from_secs_f64(total / f64::from(options.births_per_second));
        // A storm takes as long as is aimed at.
        let aim = STORM_PAUSE + Duration::from_secs_f64(2.0 * bound.reattach_us * total / 1e6 + 1.0);
        let storm = |storm: &Storm| (format!("storm: {}", storm.name()), aim);
        let kill = STORM_PAUSE + MARKER_INTERVAL_MIN + options.adoption_bound() + options.marker_interval();
        let mut rest = VecDeque::from([("births".to_owned(), births)]);
        rest.push_back(("in peace".to_owned(), options.steady + 2 * SETTLING));
        rest.extend(options.storms.iter().map(storm));
        let kill_word = "the control plane is killed, and started again";
        rest.push_back((kill_word.to_owned(), kill + 2 * SETTLING));
        rest.extend(options.storms.contains(&Storm::LinkDown).then(|| storm(&Storm::LinkDown)));
        Self { total: rest.len(), rest }
    }

    /// The next part begins.
    fn next(&mut self, progress: &Progress) {
        let left: Duration = self.rest.iter().map(|(_, time)| *time).sum();
        let number = self.total - self.rest.len() + 1;
        if let Some((what, _)) = self.rest.pop_front() {
            let left = left.as_secs_f64();
            progress.say(&format!("{what} ({number} of {}, about {left:.0} s left in all)", self.total));
        }
    }
}

struct Run<'a> {
    stage: Stage<'a>,
    options: &'a Options,
    start: Instant,
    /// Storms so far.
    storms: u32,
}

impl Run<'_> {
    fn measure(&mut self, report: &mut Report, progress: &mut Progress) -> Result<()> {
        let mut outlook = Outlook::new(self.options, report.bound);
        report.empty = self.sample();
        outlook.next(progress);
        report.births = self.births(progress)?;
        outlook.next(progress);
        report.steady = self.steady(report, progress)?;
        for storm in &self.options.storms {
            outlook.next(progress);
            let storm = self.storm(*storm, report.bound, progress)?;
            report.storms.push(storm);
        }
        outlook.next(progress);
        report.kill = self.kill(progress)?;
        // The successor goes on: it serves a storm as its predecessor did.
        if self.options.storms.contains(&Storm::LinkDown) {
            outlook.next(progress);
            let mut after = self.storm(Storm::LinkDown, report.bound, progress)?;
            after.name = "link-down, after the kill";
            report.storms.push(after);
        }
        let summary = self.stage.summary()?;
        report.live_sessions = summary.live_sessions;
        report.audit_dropped = summary.audit_dropped;
        let (distinct, without, doubled) = self.stage.identities()?;
        (report.distinct_ids, report.ids_missing, report.ids_doubled) = (distinct.len(), without, doubled);
        let census = self.stage.swarm.census()?;
        report.sessions_granted = census.sessions;
        report.sessions_ended = census.ended;
        report.markers_wrong = census.doubled + census.damaged;
        report.end = self.sample();
        Ok(())
    }

    fn sample(&self) -> Option<Sample> {
        Some(self.stage.pids.sample(self.start))
    }

    fn births(&mut self, progress: &mut Progress) -> Result<Births> {
        let (total, pace) = (self.options.sessions, self.options.births_per_second);
        let before = self.stage.summary()?;
        let began = Instant::now();
        self.stage.swarm.attach(0..total, pace)?;
        let patience = Duration::from_secs_f64(total as f64 / f64::from(pace) * 2.0) + BIRTHS_EXTRA;
        let census =
            self.stage.await_members("births", total, patience, progress, |census| census.attached)?;
        let took = began.elapsed();
        let mut each = Durations::new()?;
        self.stage.swarm.view()?.iter().filter_map(|view| view.birth).for_each(|birth| each.add(birth));
        each.write(&self.options.out_dir, "births")?;
        progress.say(&format!("{} sessions are ATTACHED", census.attached));
        Ok(Births {
            asked_per_second: pace,
            attached: census.attached,
            all_attached_s: took.as_secs_f64(),
            per_second: census.attached as f64 / took.as_secs_f64(),
            each: each.quantiles(),
            counters: self.stage.summary()?.risen(&before),
        })
    }

    fn steady(&mut self, report: &Report, progress: &mut Progress) -> Result<Steady> {
        let before = self.stage.settle_markers()?;
        let counters = self.stage.data_plane_counters()?;
        self.stage.swarm.quiet(false)?;
        let (from, began) = (self.sample(), Instant::now());
        self.stage.pass_told("in peace", self.options.steady, progress)?;
        let (to, seconds) = (self.sample(), began.elapsed().as_secs_f64());
        let after = self.stage.settle_markers()?;
        self.stage.swarm.quiet(false)?;
        let sent = after.sent - before.sent;
        Ok(Steady {
            seconds,
            markers_sent: sent,
            markers_lost: sent.saturating_sub(after.replied - before.replied),
            recoveries: after.recoveries - before.recoveries,
            data_plane: risen(&counters, &self.stage.data_plane_counters()?),
            cpu: report::Shares::between(from.as_ref(), to.as_ref(), seconds),
            octets_per_session: report::Growth::between(
                report.empty.as_ref(),
                to.as_ref(),
                self.options.sessions,
            ),
            usage: to,
        })
    }

    fn storm(&mut self, storm: Storm, bound: Bound, progress: &mut Progress) -> Result<StormReport> {
        let total = self.options.sessions;
        self.stage.pass(STORM_PAUSE)?;
        let _earlier = self.stage.swarm.take_recoveries()?;
        self.stage.swarm.mark()?;
        let (before, from) = (self.stage.summary()?, self.sample());
        let began = match storm {
            Storm::LinkDown => self.stage.swarm.fail(0..total)?,
            Storm::Rebinding => {
                self.stage.swarm.rebind(0..total)?;
                jvpn_host::clock::now()
            }
        };
        let patience = STORM_PATIENCE + STORM_PATIENCE_EACH * u32::try_from(total)?;
        let census = self.stage.await_members("attached again", total, patience, progress, |census| {
            census.recovered.min(census.attached)
        })?;
        let (after, to) = (self.stage.summary()?, self.sample());
        self.stage.swarm.heal(0..total)?;
        let recoveries = self.stage.swarm.take_recoveries()?;
        let mut first: BTreeMap<usize, BootTime> = BTreeMap::new();
        let mut attempts = 0;
        for recovery in &recoveries {
            first.entry(recovery.member).or_insert(recovery.at);
            attempts += u64::from(recovery.report.attempts);
        }
        let mut each = Durations::new()?;
        let mut last = Duration::ZERO;
        for at in first.values() {
            each.add(at.since(began));
            last = last.max(at.since(began));
        }
        self.storms += 1;
        each.write(&self.options.out_dir, &format!("storm-{}", self.storms))?;
        let report = StormReport {
            name: storm.name(),
            recovered: census.recovered,
            missing: total - census.recovered.min(census.attached).min(total),
            all_attached_s: last.as_secs_f64(),
            each: each.quantiles(),
            attempts_mean: attempts as f64 / recoveries.len().max(1) as f64,
            bound_s: bound.reattach_us * total as f64 / 1e6,
            ..StormReport::default()
        };
        progress.say(&format!("all attached after {:.3} s", report.all_attached_s));
        Ok(report.with_counters(&after.risen(&before)).with_cpu(from.as_ref(), to.as_ref()))
    }

    fn kill(&mut self, progress: &mut Progress) -> Result<Kill> {
        let total = self.options.sessions;
        self.stage.pass(STORM_PAUSE)?;
        let before = self.stage.settle_markers()?;
        self.stage.swarm.quiet(false)?;
        // Markers are spread over their interval: all are under way when it dies.
        self.stage.pass(MARKER_INTERVAL_MIN)?;
        let (at_kill, began) = (self.stage.swarm.census()?, Instant::now());
        self.stage.restart_control_plane()?;
        let readopted = began.elapsed();
        let at_return = self.stage.swarm.census()?;
        let summary = self.stage.summary()?;
        // Every session sends and hears at least once afterwards.
        self.stage.pass_told("every session is heard once more", self.options.marker_interval(), progress)?;
        let after = self.stage.settle_markers()?;
        self.stage.swarm.quiet(false)?;
        let sent = after.sent - before.sent;
        let kill = Kill {
            readopted_ms: readopted.as_secs_f64() * 1_000.0,
            adopted: summary.counters.get("sessions_adopted").copied().unwrap_or_default(),
            markers_sent: sent,
            markers_lost: sent.saturating_sub(after.replied - before.replied),
            markers_back_meanwhile: at_return.replied - at_kill.replied,
            attached: after.attached,
            sessions_ended: after.ended - before.ended,
            recoveries: after.recoveries - before.recoveries,
            live_sessions: summary.live_sessions,
        };
        progress.say(&format!(
            "{} of {total} sessions adopted {:.0} ms after the kill; {} markers lost",
            kill.adopted, kill.readopted_ms, kill.markers_lost
        ));
        Ok(kill)
    }
}

/// Runs for the command line: prints, and fails if something did not hold.
///
/// # Errors
/// As [`run`], or the run is INVALID or broke a bound.
pub fn run_and_print(options: &Options, json: bool, interrupt: &Interrupt) -> Result<()> {
    let report = run(options, interrupt)?;
    closing::show(&report, json, &options.out_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.4: every part of a run is told with what is left, and at the last one nothing else is.
    #[test]
    fn r8_4_what_is_left_becomes_less() {
        let options = Options {
            sessions: 9_000,
            policy: None,
            births_per_second: 450,
            marker_interval: None,
            steady: Duration::from_secs(10),
            storms: Storm::ALL.into(),
            adoption_bound: Duration::from_secs(2),
            seed: 1,
            out_dir: PathBuf::new(),
        };
        let bound = Bound { backend: "one", reattach_us: 100.0 };
        let mut outlook = Outlook::new(&options, bound);
        let seconds: Vec<_> = outlook.rest.iter().map(|(_, time)| time.as_secs_f64().round()).collect();
        assert_eq!(seconds, [20.0, 12.0, 6.0, 6.0, 10.0, 6.0]);
        (0..outlook.total).for_each(|_| outlook.next(&Progress::start()));
        assert!(outlook.rest.is_empty());
        let few = Options { storms: vec![Storm::Rebinding], ..options };
        assert_eq!(Outlook::new(&few, bound).total, 4, "no storm behind the kill");
    }
}
