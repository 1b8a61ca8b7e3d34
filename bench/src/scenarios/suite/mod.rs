//! What is aimed at in recovery, measured by one command and judged in one result: recovery with the default policy and
//! with the preset `fintech`, what a reattach costs, and a storm.
//!
//! Each part is a run of its own in a directory of its own, resumable as such; what they say together is `result.json`,
//! `report.html` and `summary.md` above them. If it is asked for, peers that are installed come last, and their bars into
//! the report. Parts come one after the other: two at once would measure each other.

mod plan;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jvpn_rig::Interrupt;
use jvpn_rig::emulator::Profile;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::contenders::{self, Kind};
use super::progress::Progress;
use super::recovery::aims::{self, AimRow};
use super::recovery::{self, CauseResult};
use crate::environment;
use crate::origin;
use crate::reserve::Reserve;
use crate::result::{Environment, write_json};
use crate::schemas;
use crate::timeline::print;
pub use plan::Size;
use plan::{Part, Work};

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much.
    pub size: Size,
    /// Determines all chance of the bench.
    pub seed: u64,
    /// Clients at once.
    pub clients: u8,
    /// The peers that are here beside it.
    pub peers: bool,
    /// Goes on with what is in `out_dir`.
    pub resume: bool,
    /// Where everything goes. Absolute.
    pub out_dir: PathBuf,
}

/// The part that `peers --recovery` has the same causes and round-trip time as.
pub const BESIDE_PEERS: &str = "default-50";

/// The result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// `suite`.
    scenario: String,
    /// Layout of this file.
    form: u32,
    /// `false`: a part is INVALID.
    valid: bool,
    /// `false`: a part is not there, or is not whole.
    complete: bool,
    /// Why it is not to be believed.
    problems: Vec<String>,
    /// Why it ended before its time.
    broken_off: Option<String>,
    /// How much was measured.
    size: Size,
    seed: u64,
    clients: u8,
    took_s: f64,
    environment: Value,
    parts: Vec<PartReport>,
    /// Every row of the table of aims.
    aims: Vec<AimRow>,
}

/// What a part left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartReport {
    /// Its directory.
    name: String,
    /// What it is about.
    what: String,
    /// Preset of its policy; absent where there are several or none.
    preset: Option<String>,
    valid: bool,
    complete: bool,
    problems: Vec<String>,
    /// The figures of recovery; none of other parts.
    causes: Vec<CauseResult>,
    /// The page of the part without its head.
    #[serde(skip)]
    body: String,
}

/// Runs for the command line: prints, and fails if a part is INVALID or could not be done.
///
/// # Errors
/// As said; what was measured before is kept, and `resume` goes on with it.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let took_before_s = may_go_on(options)?;
    // Of its own beside that of each part: its report is written when they are done, or have filled the disk.
    let reserve = Reserve::take(&options.out_dir)?;
    let begun = Instant::now();
    let programs = origin::programs();
    let progress = Progress::start();
    let parts = parts(options, &progress);
    let left = parts.iter().map(|part| part.estimate(options)).collect::<Result<Vec<_>>>()?;
    progress.say(&format!("{} parts, about {} in all", parts.len(), minutes(left.iter().sum())));
    let mut report = Report {
        scenario: "suite".to_owned(),
        form: 2,
        valid: true,
        complete: false,
        problems: Vec::new(),
        broken_off: None,
        size: options.size,
        seed: options.seed,
        clients: options.clients,
        took_s: 0.0,
        environment: json!(Environment::collect()),
        parts: Vec::new(),
        aims: Vec::new(),
    };
    let mut result = Ok(());
    for (number, part) in parts.iter().enumerate() {
        let rest: Duration = left.iter().skip(number).sum();
        let (name, of) = (part.name, parts.len());
        progress.say(&format!("part {} of {of}: {name}; about {} left", number + 1, minutes(rest)));
        match part.run(options, interrupt).and_then(|done| origin::still(&programs).map(|()| done)) {
            Ok((one, aims)) => {
                report.parts.push(one);
                report.aims.extend(aims);
            }
            Err(error) => {
                report.broken_off = Some(format!("{name}: {error:#}"));
                result = Err(error.context(format!("part {name}; go on with --resume")));
                break;
            }
        }
    }
    report.took_s = took_before_s + begun.elapsed().as_secs_f64();
    report.conclude(parts.len());
    environment::take_parts(&mut report.environment, &options.out_dir, parts.iter().map(|part| part.name));
    drop(reserve);
    let filled = report.fill(&options.out_dir);
    report.write(&options.out_dir)?;
    report.show(&options.out_dir);
    result.and(filled)?;
    if !report.valid {
        bail!("INVALID: see `problems` in {}/result.json", options.out_dir.display());
    }
    Ok(())
}

/// What is to be done.
fn parts(options: &Options, progress: &Progress) -> Vec<Part> {
    let mut parts = plan::parts(options.size);
    if !options.peers {
        return parts;
    }
    let here = contenders::peers_here();
    if here.is_empty() {
        progress.say("no peer is here, so none stands beside it: `cargo xtask setup --peers` gets them");
    } else {
        let names: Vec<_> = here.iter().map(|kind| kind.name()).collect();
        progress.say(&format!("peers that are here: {}", names.join(", ")));
        parts.push(plan::peers(options.size));
    }
    parts
}

/// Whether what is in the directory is a part of what is asked for: a part that another size has finished would be taken
/// over as it is. And nothing may be there unless it is to be gone on with: its first part would refuse, and the result of
/// all parts would be replaced by one of none. Gives how long it took until now, s.
fn may_go_on(options: &Options) -> Result<f64> {
    if !options.resume {
        ensure!(
            !has_trials(&options.out_dir)?,
            "{} has a suite with trials: go on with --resume, or choose another --out",
            options.out_dir.display()
        );
        return Ok(0.0);
    }
    let Ok(earlier) = read(&options.out_dir) else { return Ok(0.0) };
    let size = earlier.get("size").cloned().unwrap_or_default();
    ensure!(
        size == json!(options.size),
        "{} has a suite of size {size}, this one is {}: take the same, or another --out",
        options.out_dir.display(),
        json!(options.size)
    );
    Ok(earlier.get("took_s").and_then(Value::as_f64).unwrap_or_default())
}

/// Whether a part of any suite has measured something there.
fn has_trials(dir: &Path) -> Result<bool> {
    for part in plan::parts(Size::Full) {
        if recovery::has_trials(&dir.join(part.name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(dir: &Path) -> Result<Value> {
    let path = dir.join("result.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no result", path.display()))
}

/// Whether a directory has the result of a suite.
#[must_use]
pub fn is_one(dir: &Path) -> bool {
    read(dir).is_ok_and(|result| result.get("scenario").and_then(Value::as_str) == Some("suite"))
}

/// Writes the pages of a suite anew from its result and those of its parts: something lies beside a part now.
///
/// # Errors
/// A result is missing or damaged, or a page cannot be written.
pub fn write_pages(dir: &Path) -> Result<()> {
    let mut whole: Report =
        serde_json::from_value(read(dir)?).with_context(|| format!("{} has no suite", dir.display()))?;
    whole.fill(dir)?;
    report::write(dir, &whole)
}

fn minutes(time: Duration) -> String {
    format!("{:.0} min", (time.as_secs_f64() / 60.0).ceil())
}

impl Part {
    fn dir(&self, options: &Options) -> Result<PathBuf> {
        let dir = options.out_dir.join(self.name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    fn estimate(&self, options: &Options) -> Result<Duration> {
        match &self.work {
            Work::Recovery { .. } => recovery::estimate(&self.recovery(options)?),
            Work::Cost { .. } | Work::Storm { .. } | Work::Peers { .. } if self.is_done(options)? => {
                Ok(Duration::ZERO)
            }
            Work::Cost { estimate, .. } | Work::Storm { estimate, .. } => Ok(*estimate),
            Work::Peers { causes, trials, cap } => {
                let asked = plan::beside_options((causes, *trials, *cap), options, &options.out_dir);
                let here = [vec![Kind::Ours], contenders::peers_here()].concat();
                Ok(recovery::beside::estimate(&asked, &here))
            }
        }
    }

    fn recovery(&self, options: &Options) -> Result<recovery::Options> {
        let Work::Recovery { preset, causes, rtts_ms, trials } = &self.work else {
            bail!("{} is no part of recovery", self.name)
        };
        let (policy, policy_numbers) = recovery::Options::load_policy(None, Some(preset))?;
        let out_dir = self.dir(options)?;
        Ok(recovery::Options {
            causes: causes.clone(),
            rtts_ms: rtts_ms.clone(),
            trials: *trials,
            seed: options.seed,
            policy,
            policy_numbers,
            profile: Profile::load("plain")?,
            delays: recovery::Delays::Asked,
            clients: options.clients,
            // A part that was not begun has nothing to go on with, and is begun.
            resume: options.resume,
            out_dir,
        })
    }

    /// Whether an earlier run did this part, whole, with the same programs and on the same machine.
    fn is_done(&self, options: &Options) -> Result<bool> {
        if !options.resume {
            return Ok(false);
        }
        let Ok(result) = read(&self.dir(options)?) else { return Ok(false) };
        let of = origin::of(result.get("environment").unwrap_or(&Value::Null));
        Ok(self.is_whole(&result) && of == origin::of(&json!(Environment::collect())))
    }

    /// Whether a result of it is all that there is to be had. A peer that hangs or dies leaves a result that is not
    /// whole, and would once more: of peers it counts that nothing else ended the run, and that there is a trial of
    /// somebody.
    fn is_whole(&self, result: &Value) -> bool {
        match self.work {
            Work::Peers { .. } => {
                let has_trials = result.pointer("/causes/0").is_some();
                has_trials && result.get("broken_off").is_some_and(Value::is_null)
            }
            Work::Recovery { .. } | Work::Cost { .. } | Work::Storm { .. } => {
                result.get("complete").and_then(Value::as_bool) != Some(false)
            }
        }
    }

    fn run(&self, options: &Options, interrupt: &Interrupt) -> Result<(PartReport, Vec<AimRow>)> {
        let dir = self.dir(options)?;
        match &self.work {
            Work::Recovery { preset, .. } => {
                let done = recovery::run(&self.recovery(options)?, interrupt)?;
                let part = PartReport {
                    name: self.name.to_owned(),
                    what: self.what.to_owned(),
                    preset: Some((*preset).to_owned()),
                    valid: done.valid,
                    complete: done.complete,
                    problems: done.problems,
                    causes: done.causes,
                    body: String::new(),
                };
                Ok((part, done.aims))
            }
            Work::Peers { causes, trials, cap } => {
                if !self.is_done(options)? {
                    let asked = plan::beside_options((causes, *trials, *cap), options, &dir);
                    recovery::beside::run(&asked, interrupt)?;
                }
                let (mut part, aims) = self.taken_over(&dir, |_| (Vec::new(), Vec::new()))?;
                part.problems = recovery::beside::problem_of(&dir)?.into_iter().collect();
                part.valid = part.problems.is_empty();
                Ok((part, aims))
            }
            Work::Cost { sessions, .. } => {
                if !self.is_done(options)? {
                    plan::cost(*sessions, options.size, &dir, interrupt)?;
                }
                self.taken_over(&dir, cost_aims)
            }
            Work::Storm { sessions, .. } => {
                if !self.is_done(options)? {
                    plan::storm(*sessions, options, &dir, interrupt)?;
                }
                self.taken_over(&dir, storm_aims)
            }
        }
    }

    /// What another scenario wrote; `aims` reads its rows, and tells what lacks one.
    fn taken_over(
        &self,
        dir: &Path,
        aims: impl Fn(&Value) -> (Vec<AimRow>, Vec<String>),
    ) -> Result<(PartReport, Vec<AimRow>)> {
        let result = read(dir)?;
        let (rows, missing) = aims(&result);
        let failures = result.get("failures").and_then(Value::as_array).into_iter().flatten();
        let part = PartReport {
            name: self.name.to_owned(),
            what: self.what.to_owned(),
            preset: None,
            valid: result.get("valid").and_then(Value::as_bool) != Some(false) && missing.is_empty(),
            complete: self.is_whole(&result),
            problems: failures.filter_map(Value::as_str).map(str::to_owned).chain(missing).collect(),
            causes: Vec::new(),
            body: String::new(),
        };
        Ok((part, rows))
    }
}

/// Work of the gateway's engine per reattach, in Diffie-Hellman bounds of the same run, without sockets, logs and tables of
/// the kernel; and what has no row for want of a figure:
/// an aim that is not looked at would be missing in "N of N met" and nowhere else.
fn cost_aims(result: &Value) -> (Vec<AimRow>, Vec<String>) {
    let sizes = result.get("sizes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    for size in sizes {
        let sessions = size.get("sessions").unwrap_or(&Value::Null);
        let what = format!("work of the gateway's engine per reattach, {sessions} sessions");
        let percent = size.get("bound_percent").and_then(Value::as_f64).filter(|percent| *percent > 0.0);
        let Some(seen) = percent.map(|percent| 100.0 / percent) else {
            let found = size.get("bound_percent").unwrap_or(&Value::Null);
            missing.push(format!("{what}: not judged, its bound_percent is {found}"));
            continue;
        };
        let measure = "Diffie-Hellman bounds".to_owned();
        rows.push(AimRow { what, measure, at_most: 2.0, seen, met: seen <= 2.0, trials: None });
    }
    if sizes.is_empty() {
        missing
            .push("work of the gateway's engine per reattach: not judged, no size was measured".to_owned());
    }
    (rows, missing)
}

/// How long a storm took, as its scenario judged it; and the same.
fn storm_aims(result: &Value) -> (Vec<AimRow>, Vec<String>) {
    let rows = aims::taken_over(result);
    let asked = result.get("aims").and_then(Value::as_array).map_or(0, Vec::len);
    let is_missing = rows.len() < asked.max(1);
    let missing = is_missing.then(|| format!("storm: {} of {} aims were judged", rows.len(), asked.max(1)));
    (rows, missing.into_iter().collect())
}

impl Report {
    /// Takes the pages of all parts of recovery, with what lies beside them by now.
    fn fill(&mut self, dir: &Path) -> Result<()> {
        for part in self.parts.iter_mut().filter(|part| !part.causes.is_empty()) {
            part.body =
                recovery::page_of(&dir.join(&part.name)).with_context(|| format!("part {}", part.name))?;
        }
        Ok(())
    }

    fn conclude(&mut self, parts: usize) {
        self.complete = self.parts.len() == parts && self.parts.iter().all(|part| part.complete);
        for part in self.parts.iter().filter(|part| !part.valid || !part.problems.is_empty()) {
            let problems = part.problems.iter().map(|problem| format!("{}: {problem}", part.name));
            self.problems.extend(problems);
        }
        self.valid = self.parts.iter().all(|part| part.valid) && self.problems.is_empty();
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let value = serde_json::to_value(self).context("a result is no JSON")?;
        schemas::check(&value)?;
        write_json(&dir.join("result.json"), &value)?;
        report::write(dir, self)
    }

    fn show(&self, dir: &Path) {
        print("\n  aims");
        self.aims.iter().for_each(|row| print(&format!("  {}", row.line())));
        let met = self.aims.iter().filter(|row| row.met).count();
        print(&format!("  {met} of {} met; took {:.0} min", self.aims.len(), self.took_s / 60.0));
        self.problems.iter().take(20).for_each(|problem| print(&format!("  INVALID: {problem}")));
        print(&format!("  result: {0}/result.json, report: {0}/report.html", dir.display()));
    }
}

#[cfg(test)]
mod tests;
