//! `jvpn-bench simulate`: worlds of thousands of mobile hosts on virtual time, one per seed, as many at once as there are
//! cores. Every world is judged after each step, and its audit log by `check-events`; at its end the churn stops, everything is repaired, and everybody has to
//! be back (I13).

mod events;
mod run;
mod totals;

pub use totals::{Quantiles, Totals};

use crate::simulation::KeyKind;
use crate::simulation::churn::Profile;
use crate::timeline;
use anyhow::{Context, Result, bail};
use events::EventFiles;
use jvpn_rig::Interrupt;
use run::{Ending, live_through};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write, stderr};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeds from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub RangeInclusive<u64>);

impl FromStr for Seeds {
    type Err = String;

    /// `7` or `0..199`, both ends meant.
    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("'{text}' is no seed; try 0..199"));
        let (first, last) = (number(first)?, number(last)?);
        if first > last { Err(format!("{first} comes after {last}")) } else { Ok(Self(first..=last)) }
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.0.start(), self.0.end())
    }
}

/// What is to be simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hosts of each world, with one session each.
    pub sessions: usize,
    /// Virtual minutes of churn.
    pub minutes: u64,
    /// The worlds.
    pub seeds: Seeds,
    /// How their hosts live.
    pub profile: Profile,
    /// The Diffie-Hellman of their keys.
    pub keys: KeyKind,
    /// Worlds at once.
    pub threads: usize,
    /// Where the audit log goes, as JSON lines.
    pub events: Option<PathBuf>,
    /// I13: whoever has a working path is back after this long.
    pub back_within: Duration,
    /// Prints the timeline of every step.
    pub traced: bool,
    /// Prints a line per seed and how far it is.
    pub talkative: bool,
}

/// A minute until the switch budget is free again, and the longest waits of a burst of attempts.
pub const BACK_WITHIN: Duration = Duration::from_secs(90);

impl Options {
    /// The command that lives through this seed again.
    #[must_use]
    pub fn command(&self, seed: u64) -> String {
        let Self { sessions, minutes, profile, .. } = self;
        let keys = if self.keys == KeyKind::Real { " --real-keys" } else { "" };
        format!(
            "cargo xtask simulate --sessions {sessions} --minutes {minutes} --profile {} --seeds {seed}{keys}",
            profile.name
        )
    }

    fn virtual_ms(&self) -> u64 {
        let seeds = self.seeds.0.end() - self.seeds.0.start() + 1;
        seeds * self.minutes * 60_000
    }
}

/// A world that broke an invariant.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was seen.
    pub what: String,
    /// The command that shows it again.
    pub command: String,
}

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Everything of all seeds.
    pub totals: Totals,
    /// What identifies the course of each world: the same seed gives the same.
    pub fingerprints: BTreeMap<u64, String>,
    /// Worlds that broke an invariant.
    pub failures: Vec<Failure>,
    /// What was asked for.
    pub command: String,
    /// Wall time, ms.
    pub took_ms: u64,
    /// Whether somebody interrupted it: then not every seed is in here.
    pub interrupted: bool,
}

/// Lives through every seed.
///
/// # Errors
/// If a file of events cannot be written, or a world cannot be set up. A broken invariant is in the report.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let begin = Instant::now();
    let shared = Shared {
        options,
        interrupt,
        next: AtomicU64::new(*options.seeds.0.start()),
        virtual_ms: AtomicU64::new(0),
        report: Mutex::new(Report::default()),
        events: EventFiles::new(options.events.clone(), &options.seeds),
        error: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads.max(1)).map(|_| scope.spawn(|| shared.work())).collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            shared.wait(begin);
        }
    });
    if let Some(error) = shared.error.into_inner().unwrap_or_default() {
        return Err(error);
    }
    let mut report = shared.report.into_inner().unwrap_or_default();
    report.interrupted = interrupt.is_set();
    report.took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.command = options
        .command(*options.seeds.0.start())
        .replace(&format!("--seeds {}", options.seeds.0.start()), &format!("--seeds {}", options.seeds));
    report.failures.sort_by_key(|failure| failure.seed);
    Ok(report)
}

/// Prints what a person wants to see, and writes the report.
///
/// # Errors
/// If a world broke an invariant, the run was interrupted, or a file cannot be written.
pub fn main(options: &Options, json: Option<&PathBuf>) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let report = run(options, &interrupt)?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report).context("the report is not JSON")?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for line in report.totals.lines() {
        timeline::print(&line);
    }
    let wall = Duration::from_millis(report.took_ms);
    let hours = report.totals.virtual_ms as f64 / 3_600_000.0 * options.sessions as f64;
    timeline::print(&format!(
        "  {} of {} worlds, {hours:.0} session hours in {:.1} s",
        report.fingerprints.len(),
        options.seeds.0.clone().count(),
        wall.as_secs_f64()
    ));
    for Failure { seed, what, command } in &report.failures {
        timeline::print(&format!("BROKEN  seed {seed}: {what}\n        {command}"));
    }
    if !report.failures.is_empty() {
        bail!(
            "{} of the worlds broke an invariant; the commands above show them again",
            report.failures.len()
        );
    }
    interrupt.check()
}

struct Shared<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    next: AtomicU64,
    virtual_ms: AtomicU64,
    report: Mutex<Report>,
    events: EventFiles,
    error: Mutex<Option<anyhow::Error>>,
}

impl Shared<'_> {
    fn work(&self) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed > *self.options.seeds.0.end() || self.interrupt.is_set() {
                return;
            }
            let lived = catch_unwind(AssertUnwindSafe(|| {
                live_through(self.options, seed, self.interrupt, &self.events, &self.virtual_ms)
            }));
            let (totals, ending) = match lived {
                Ok(Ok(lived)) => lived,
                Ok(Err(error)) => {
                    // The others stop as well.
                    self.next.store(u64::MAX, Ordering::Relaxed);
                    if let Ok(mut place) = self.error.lock() {
                        place.get_or_insert(error.context(format!("seed {seed}")));
                    }
                    return;
                }
                Err(panic) => (Totals::default(), Ending::Broken(format!("panic: {}", words(&*panic)))),
            };
            self.file(seed, totals, ending);
        }
    }

    fn file(&self, seed: u64, totals: Totals, ending: Ending) {
        let Ok(mut report) = self.report.lock() else { return };
        match ending {
            Ending::Interrupted => return,
            Ending::Good { fingerprint } => {
                if self.options.talkative {
                    timeline::print(&format!("seed {seed:>5}  {fingerprint}  {}", totals.brief()));
                }
                report.fingerprints.insert(seed, fingerprint);
            }
            Ending::Broken(what) => {
                let command = self.options.command(seed);
                if self.options.talkative {
                    timeline::print(&format!("seed {seed:>5}  BROKEN: {what}\n  {command}"));
                }
                report.failures.push(Failure { seed, what, command });
            }
        }
        report.totals.add(totals);
    }

    /// Waits a moment and says now and then how far it is.
    fn wait(&self, begin: Instant) {
        const LOOK_EVERY: Duration = Duration::from_millis(200);
        std::thread::park_timeout(LOOK_EVERY);
        if !self.options.talkative || !stderr().is_terminal() {
            return;
        }
        let (done, all) = (self.virtual_ms.load(Ordering::Relaxed), self.options.virtual_ms());
        if done == 0 {
            return;
        }
        let took = begin.elapsed().as_secs_f64();
        let left = took / done as f64 * all.saturating_sub(done) as f64;
        let percent = 100.0 * done as f64 / all as f64;
        let _ = write!(stderr().lock(), "\r{percent:5.1} %, {left:.0} s left \r");
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            sessions: 6,
            minutes: 1,
            seeds: Seeds(3..=4),
            profile: Profile::named("storm").unwrap(),
            keys: KeyKind::Cheap,
            threads: 2,
            events: None,
            back_within: BACK_WITHIN,
            traced: false,
            talkative: false,
        }
    }

    /// R8.4: a broken invariant comes with its seed, what was seen, and the one command that shows it again.
    #[test]
    fn what_is_broken_is_told_with_its_command() {
        let report =
            run(&Options { back_within: Duration::ZERO, ..options() }, &Interrupt::default()).unwrap();
        let seeds: Vec<u64> = report.failures.iter().map(|failure| failure.seed).collect();
        assert_eq!((seeds, report.fingerprints.len()), (vec![3, 4], 0));
        let Failure { what, command, .. } = &report.failures[0];
        assert!(what.starts_with("I13 broken at ") && what.contains("not back"), "{what}");
        assert_eq!(command, "cargo xtask simulate --sessions 6 --minutes 1 --profile storm --seeds 3");
    }

    /// I9, R8.4: one thread or two, with a log or without: the same seed has the same fingerprint. Each log is one node's.
    #[test]
    fn a_seed_has_one_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let events = Some(dir.path().join("events.jsonl"));
        let one = run(&Options { threads: 1, events, ..options() }, &Interrupt::default()).unwrap();
        let two = run(&options(), &Interrupt::default()).unwrap();
        assert_eq!(one.fingerprints, two.fingerprints);
        assert_ne!(one.fingerprints[&3], one.fingerprints[&4]);
        assert!(one.failures.is_empty() && one.totals.sessions >= 12 && one.totals.recoveries > 0);
        for seed in [3, 4] {
            let text = std::fs::read_to_string(dir.path().join(format!("events-{seed}.jsonl"))).unwrap();
            let node = format!("\"node_id\":\"sim-{seed}\"");
            assert!(text.lines().count() > 20 && text.lines().all(|line| line.contains(&node)));
            let policy = std::fs::read_to_string(dir.path().join(format!("events-{seed}.toml"))).unwrap();
            assert!(policy.contains("preset = \"fintech\""), "{policy}");
        }
    }

    #[test]
    fn an_interrupted_run_leaves_no_half_logs() {
        let dir = tempfile::tempdir().unwrap();
        let events = Some(dir.path().join("events.jsonl"));
        let interrupt = Interrupt::default();
        let report = std::thread::scope(|scope| {
            let long = Options { minutes: 10_000, events, ..options() };
            let running = scope.spawn({
                let interrupt = interrupt.clone();
                move || run(&long, &interrupt)
            });
            interrupt.set();
            running.join().unwrap().unwrap()
        });
        assert!(report.interrupted && report.fingerprints.is_empty() && report.failures.is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn seeds_are_read_as_people_write_them() {
        assert_eq!("0..199".parse::<Seeds>().unwrap().0, 0..=199);
        assert_eq!("7".parse::<Seeds>().unwrap().0, 7..=7);
        for wrong in ["", "x", "1..", "..2", "5..4", "-1"] {
            assert!(wrong.parse::<Seeds>().is_err(), "{wrong}");
        }
    }
}
