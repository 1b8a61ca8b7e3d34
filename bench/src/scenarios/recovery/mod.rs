//! Recovery, measured: real gateway, real clients, emulated paths, one cause after the other, many trials each.
//!
//! Several clients at once, each with sessions that are young and have budget left, so that policy's limits bound nothing
//! that is measured. A thousand probes per second go each way through every tunnel, beside a TCP stream; what an
//! application would feel is the longest silence. Nothing here knows a key or takes part in the protocol.
//!
//! | Module | What for |
//! |---|---|
//! | `delays`, `paths` | whose delays the paths have, what they did to frames |
//! | `cause`, [`aims`] | what happens, what is aimed at, and whether that is met |
//! | `life`, `tenant`, `pace` | a life of the gateway, a client of it, how soon its next trial may come |
//! | `trial`, `script` | an incident, what it does to a path |
//! | `standing` | what may not change between two of them |
//! | `measure`, `watch`, `witness` | what was recorded, judged; the observer on the gateway's wire; clients against the audit |
//! | `record`, `recorded` | trials in a journal that survives interruptions; one recovery packet by packet |
//! | `usage` | memory and processor time |
//! | `result`, `stats` | `result.json`, validity, confidence |
//! | `report`, `svg` | `report.html`, `summary.md` |
//! | `compare` | two runs |
//! | `beside` | the tunnels of others, struck by the same causes |
//!
//! The reasons are in `docs/decisions/0035-recovery-bench.md`.

pub mod aims;
pub mod beside;
mod cause;
pub mod compare;
mod delays;
pub(super) mod life;
mod measure;
mod pace;
mod paths;
mod record;
mod recorded;
pub(crate) mod report;
mod result;
mod script;
mod standing;
pub(crate) mod stats;
pub(crate) mod svg;
mod tenant;
mod trial;
mod usage;
mod watch;
mod witness;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use jvpn_rig::emulator::Profile;
use jvpn_rig::{Interrupt, Interrupted, Rig};
use serde_json::json;

use crate::check_events::rules::{PRESETS, PolicyNumbers};
use crate::deployment;
use crate::origin;
use crate::reserve::is_disk_full;
use crate::result::Environment;
use crate::timeline::print;
pub use cause::{Aim, Cause};
pub use delays::{Delays, RoundTrip};
use life::Life;
pub(super) use record::has_trials;
use record::{Journal, Question};
use recorded::Recorded;
pub use result::{CauseResult, Report};
use result::{Run, conclude};
use usage::Usage;

/// The preset of the default policy.
pub const DEFAULT_PRESET: &str = "edge";
/// Between two words about how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Why a run ended that could not say why.
const KILLED: &str = "the bench itself ended in mid-run, killed or crashed";

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Causes, in this order.
    pub causes: Vec<Cause>,
    /// Emulated round-trip times, ms; 0 adds no delay.
    pub rtts_ms: Vec<u64>,
    /// Incidents per cause and round-trip time.
    pub trials: u32,
    /// Determines all chance of the bench.
    pub seed: u64,
    /// The lines of the gateway's `[policy]`.
    pub policy: String,
    /// The same, as far as the judge of the audit log needs it.
    pub policy_numbers: PolicyNumbers,
    /// What the paths are like.
    pub profile: Profile,
    /// Whether that goes for their delays too.
    pub delays: Delays,
    /// Clients at once.
    pub clients: u8,
    /// Goes on with what is in `out_dir`.
    pub resume: bool,
    /// Where everything goes. Absolute.
    pub out_dir: PathBuf,
}

impl Options {
    /// Reads the policy: a file, or a preset as it is.
    ///
    /// # Errors
    /// It is not there or wrong.
    pub fn load_policy(path: Option<&Path>, preset: Option<&str>) -> Result<(String, PolicyNumbers)> {
        let Some(path) = path else {
            let text = format!("preset = \"{}\"\n", preset.unwrap_or(DEFAULT_PRESET));
            let numbers = PolicyNumbers::parse(&text).context("--preset")?;
            return Ok((text, numbers));
        };
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read policy {}", path.display()))?;
        ensure!(
            !text.lines().any(|line| line.trim_start().starts_with('[')),
            "policy {}: it is the content of [policy], without a section",
            path.display()
        );
        Ok((text, PolicyNumbers::load(path)?))
    }

    /// Confirmed switches that a session may take before the next one begins: one is always left.
    fn budget(&self) -> u32 {
        let preset = self.preset();
        let default =
            PRESETS.iter().find(|(name, _)| *name == preset).map(|(_, limits)| limits.max_switches_per_min);
        self.policy_numbers.max_switches_per_min.or(default).unwrap_or(8).saturating_sub(1)
    }

    fn preset(&self) -> String {
        self.policy_numbers.preset.clone().unwrap_or_else(|| DEFAULT_PRESET.to_owned())
    }

    fn question(&self, environment: &Environment) -> Question {
        Question {
            form: 3,
            origin: origin::of(&json!(environment)),
            policy: self.policy.clone(),
            profile: self.profile.name.clone(),
            profile_text: self.profile.text.clone(),
            delays: self.delays,
            clients: self.clients,
            seed: self.seed,
        }
    }
}

/// Tells a waiting person how far it is.
struct Progress {
    start: Instant,
    total: u32,
    done: AtomicU32,
    /// ms since the start when it last spoke.
    spoke: AtomicU64,
    /// What all of it is expected to take, and what of it is behind: each cause has its own pace.
    estimate: Duration,
    what: Mutex<(String, Duration, Instant)>,
}

impl Progress {
    fn new(estimate: Duration, total: u32) -> Self {
        let what = Mutex::new((String::new(), Duration::ZERO, Instant::now()));
        Self {
            start: Instant::now(),
            total,
            done: AtomicU32::new(0),
            spoke: AtomicU64::new(0),
            estimate,
            what,
        }
    }

    fn say(&self, text: &str) {
        // Nobody may be there to read it.
        let _ = writeln!(stderr().lock(), "  {:8.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    fn begin(&self, what: String) {
        self.say(&what);
        *self.what.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            (what, Duration::ZERO, Instant::now());
    }

    fn done(&self, count: u32) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let before = self.spoke.load(Ordering::Relaxed);
        if now.saturating_sub(before) < u64::try_from(PROGRESS_INTERVAL.as_millis()).unwrap_or(u64::MAX) {
            return;
        }
        self.spoke.store(now, Ordering::Relaxed);
        let share = f64::from(done) / f64::from(self.total.max(1));
        let elapsed = self.start.elapsed().as_secs_f64();
        // Half by the pace so far, half by what was expected, weighed by how much of it is known.
        let left =
            (elapsed / share.max(1e-9) * share + self.estimate.as_secs_f64() * (1.0 - share)) * (1.0 - share);
        let what = self.what.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone();
        self.say(&format!("{what}: {done} of {} incidents in all, about {left:.0} s left", self.total));
    }
}

/// Runs the bench.
///
/// # Errors
/// A part could not be set up; a file cannot be written. What was measured before is kept.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    // Before anything is written: what was not built is nothing against anybody.
    deployment::find_programs()?;
    let environment = Environment::collect();
    let question = options.question(&environment);
    let mut run = Run::load(&options.out_dir)?;
    let mut journal = Journal::open(&options.out_dir, &question, options.resume, &run.judged())?;
    let lives_before = journal.entries.segments;
    if lives_before == 0 {
        // A run that ended before its first trial has left this.
        run = Run::default();
    }
    journal.reserve(&options.out_dir)?;
    let usage = Usage::start()?;
    let slowest = Mutex::new(run.slowest());
    let course = Course {
        options,
        environment: &environment,
        usage: &usage,
        slowest: &slowest,
        begun: Instant::now(),
    };
    let result = measure_all(&course, &mut journal, &mut run, interrupt);
    course.enter(&mut run, result.as_ref().err());
    journal.release();
    let saved = run.save(&options.out_dir);
    // Also of a part: it is marked as one.
    journal.entries.keep_only(&run.judged());
    // Whoever goes on must not lose it. Before the first life of the gateway it is the machine's fault.
    let has_lived = journal.entries.segments > lives_before;
    let against = result.as_ref().err().filter(|error| has_lived && !is_nobodys_fault(error));
    let noted = against.map_or(Ok(()), |error| journal.note(&format!("the run broke off: {error:#}")));
    let concluded = conclude(&options.out_dir, &run, &journal.entries.trials, &journal.entries.against());
    // What ended it first explains the rest.
    result?;
    noted.and(saved)?;
    let report = concluded?;
    result::show(&report, &options.out_dir);
    Ok(report)
}

/// Whether what ended a run says nothing about us: somebody asked for it, or the disk is full.
fn is_nobodys_fault(error: &anyhow::Error) -> bool {
    is_disk_full(error) || error.chain().any(|cause| cause.is::<Interrupted>())
}

/// What all lives of a run share.
struct Course<'a> {
    options: &'a Options,
    environment: &'a Environment,
    usage: &'a Usage,
    slowest: &'a Mutex<BTreeMap<(Cause, u64), Recorded>>,
    begun: Instant,
}

impl Course<'_> {
    /// Enters what is known by now beside lives and trials. Once: what was seen is added to that of before.
    fn enter(&self, run: &mut Run, broken_off: Option<&anyhow::Error>) {
        run.usage = usage::joined(std::mem::take(&mut run.usage), self.usage.samples(), run.took_s);
        run.took_s += self.begun.elapsed().as_secs_f64();
        let slowest = self.slowest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        run.timelines = slowest.values().cloned().collect();
        run.describe(self.options, self.environment, broken_off);
    }

    /// Keeps what is known by now, for whoever goes on if this process does not live to say more.
    fn keep(&self, run: &Run) -> Result<()> {
        let mut so_far = run.clone();
        self.enter(&mut so_far, Some(&anyhow!(KILLED)));
        so_far.save(&self.options.out_dir)
    }
}

/// How long what is left of a run may take.
///
/// # Errors
/// The directory has a journal of another run.
pub fn estimate(options: &Options) -> Result<Duration> {
    let judged = Run::load(&options.out_dir)?.judged();
    let entries = Journal::read(&options.out_dir, &options.question(&Environment::collect()), &judged)?;
    let pairs = options.rtts_ms.iter().flat_map(|rtt| options.causes.iter().map(move |cause| (*cause, *rtt)));
    let left = |(cause, rtt): (Cause, u64)| {
        let left = options.trials.saturating_sub(result::incidents(&entries.trials, cause, rtt));
        life::estimate(cause, rtt, left, (options.clients, options.budget()))
    };
    Ok(pairs.map(left).sum())
}

/// The page of a run without its head, from what lies in its directory; the peers' result, too, if one lies there.
///
/// # Errors
/// It is no directory of a run.
pub fn page_body(dir: &Path, report: &Report) -> Result<String> {
    let mut body = String::new();
    report::body(&mut body, report, &Run::load(dir)?, &beside::section(dir));
    Ok(body)
}

/// The same, with the result that lies there.
///
/// # Errors
/// It is no directory of a run that was judged.
pub fn page_of(dir: &Path) -> Result<String> {
    let path = dir.join("result.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report =
        serde_json::from_str(&text).with_context(|| format!("{} is no recovery result", path.display()))?;
    page_body(dir, &report)
}

/// Judges what lies in a directory once more, from its raw files, and writes result and report anew. Those files it
/// only reads: a run may be at work there.
///
/// # Errors
/// It is no directory of a run.
pub fn judge(dir: &Path) -> Result<bool> {
    let run = Run::load(dir)?;
    ensure!(!run.lives.is_empty(), "{} has no run.json of a recovery run", dir.display());
    let question = run.question.clone().context("run.json does not say what was asked")?;
    let entries = Journal::read(dir, &question, &run.judged())?;
    let report = conclude(dir, &run, &entries.trials, &entries.against())?;
    result::show(&report, dir);
    Ok(report.valid)
}

fn measure_all(
    course: &Course<'_>,
    journal: &mut Journal,
    run: &mut Run,
    interrupt: &Interrupt,
) -> Result<()> {
    let &Course { options, usage, slowest, .. } = course;
    let programs = origin::programs();
    let left = |cause: Cause, rtt_ms: u64, journal: &Journal| {
        options.trials.saturating_sub(result::incidents(&journal.entries.trials, cause, rtt_ms))
    };
    let pairs: Vec<_> = options
        .rtts_ms
        .iter()
        .flat_map(|rtt| options.causes.iter().map(move |cause| (*cause, *rtt)))
        .collect();
    let total = pairs.iter().map(|(cause, rtt)| left(*cause, *rtt, journal)).sum();
    let width = (options.clients, options.budget());
    let estimates =
        pairs.iter().map(|(cause, rtt)| life::estimate(*cause, *rtt, left(*cause, *rtt, journal), width));
    let progress = Progress::new(estimates.sum(), total);
    for rtt_ms in options.rtts_ms.iter().copied() {
        let causes: Vec<_> =
            options.causes.iter().copied().filter(|cause| left(*cause, rtt_ms, journal) > 0).collect();
        if causes.is_empty() {
            continue;
        }
        origin::still(&programs)?;
        // The life before has been given it for its logs.
        journal.reserve(&options.out_dir)?;
        let segment = journal.segment()?;
        progress
            .say(&format!("a gateway and {} clients at a round-trip time of {rtt_ms} ms", options.clients));
        let rig = Rig::create()?;
        let mut life = Life::start(options, rtt_ms, &rig, interrupt, usage)?;
        run.environment = json!(life.environment(&Environment::collect()));
        let measured = {
            let journal = Mutex::new(&mut *journal);
            causes.into_iter().try_for_each(|cause| {
                progress.begin(format!("{cause} at {rtt_ms} ms"));
                life.run(cause, &journal, slowest, &progress)
            })
        };
        // Last words of the processes and logs are written in the room that was kept.
        journal.release();
        // Its log is kept and judged also when a trial failed: that is when it is needed.
        let ended = life.end(segment, &progress);
        run.lives.extend(ended.report.as_ref().ok().cloned());
        let noted = ended.problems.iter().try_for_each(|problem| journal.note(problem));
        measured?;
        ended.report?;
        noted?;
        course.keep(run)?;
        rig.remove()?;
    }
    origin::still(&programs)
}

/// Runs the bench for the command line.
///
/// # Errors
/// As [`run`]; or the run is INVALID.
pub fn run_and_fail(options: &Options, interrupt: &Interrupt) -> Result<()> {
    if !run(options, interrupt)?.valid {
        bail!("the run is INVALID: see `problems` in {}/result.json", options.out_dir.display());
    }
    Ok(())
}

/// Judges a directory for the command line.
///
/// # Errors
/// As [`judge`]; or the run is INVALID.
pub fn judge_and_fail(dir: &Path) -> Result<()> {
    if !judge(dir)? {
        print(&format!("  INVALID: {}/result.json", dir.display()));
        bail!("the run is INVALID");
    }
    Ok(())
}
