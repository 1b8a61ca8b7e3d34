//! Whether a comparison of secrets tells by its time where two values differ (R2.5): a measurement in the manner of
//! dudect (Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", DATE 2017).
//!
//! Two classes of input that both are refused, one wrong in its first octet, one in its last, in random order; Welch's t
//! over the times of both. A comparison that stops at the first difference is measured beside ours, and must be found:
//! otherwise the measurement says nothing. It depends on machine and build, so nothing in CI asserts it.

mod subjects;
mod welch;

use crate::environment::Environment;
use crate::result::Ending;
use crate::run_dir::RunDir;
use crate::scenarios::progress::Progress;
use crate::timeline;
use anyhow::{Result, bail};
use jvpn_rig::Interrupt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;
use subjects::{Expected, Subject, subjects};
use welch::{Sample, strongest};

/// Beyond this |t| the classes differ: one false alarm in 150,000 measurements of normal noise.
pub const THRESHOLD: f64 = 4.5;
/// Calls before the first that counts.
const WARM_UP: usize = 2_000;
/// Calls between two looks at the clock and at Ctrl-C, which are not timed.
const TOLD_EVERY: usize = 10_000;

/// What is wrong with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Its first octet.
    First,
    /// Its last.
    Last,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Timed calls of each subject.
    pub samples: u32,
    /// Seed of the classes' order.
    pub seed: u64,
    /// Where result, report and summary go.
    pub out_dir: PathBuf,
}

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
struct Report {
    /// `timing`.
    scenario: &'static str,
    /// `false`: a comparison that stops early was missed, so that the others prove nothing.
    valid: bool,
    #[serde(flatten)]
    ending: Ending,
    failures: Vec<String>,
    /// Timed calls of each comparison.
    calls: u32,
    seed: u64,
    /// Beyond this |t| the classes differ.
    threshold: f64,
    environment: Environment,
    comparisons: Vec<Row>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    name: &'static str,
    /// Mean of the inputs that are wrong in their first octet, ns.
    first_ns: f64,
    /// Mean of those that are wrong in their last, ns.
    last_ns: f64,
    t: f64,
    verdict: &'static str,
}

/// Measures every subject and prints a line for each.
///
/// # Errors
/// If a comparison of ours shows a difference, or one that stops early shows none; or interrupted: what was measured is kept.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let mut dir = RunDir::begin(&options.out_dir)?;
    timeline::print(&format!(
        "{:<42} {:>9} {:>9} {:>9}   verdict (|t| > {THRESHOLD} is a difference)",
        "comparison", "first ns", "last ns", "t"
    ));
    let mut report = Report {
        scenario: "timing",
        valid: true,
        calls: options.samples,
        seed: options.seed,
        threshold: THRESHOLD,
        environment: Environment::collect(),
        ..Report::default()
    };
    let measured = measure_all(options, &mut report, interrupt);
    report.ending = Ending::of(&measured);
    dir.conclude("Jumping VPN: whether a comparison of secrets tells by its time", &report, measured)?;
    if !report.failures.is_empty() {
        bail!("{}; repeat it on a quiet machine, in a release build", report.failures.join("; "));
    }
    Ok(())
}

fn measure_all(options: &Options, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    let (mut progress, began, all) = (Progress::start(), Instant::now(), subjects()?);
    let total = all.len() * (WARM_UP + options.samples as usize);
    for (number, mut subject) in all.into_iter().enumerate() {
        let before = number * (WARM_UP + options.samples as usize);
        let mut told = |calls: usize| {
            progress.step("calls", before + calls, total, began);
            interrupt.check()
        };
        if !subject.takes_the_right_value() {
            bail!("{} refuses the right value: nothing would be measured", subject.name());
        }
        let samples = measure(&mut *subject, options, &mut told)?;
        let t = strongest(&samples);
        let (verdict, is_right) = judge(subject.expected(), t);
        let (name, first_ns, last_ns) =
            (subject.name(), mean(&samples, Class::First), mean(&samples, Class::Last));
        timeline::print(&format!("{name:<42} {first_ns:>9.1} {last_ns:>9.1} {t:>9.2}   {verdict}"));
        report.comparisons.push(Row { name, first_ns, last_ns, t, verdict });
        if !is_right {
            report.valid &= subject.expected() == Expected::Constant;
            report.failures.push(format!("{name}: {verdict}"));
        }
    }
    Ok(())
}

fn judge(expected: Expected, t: f64) -> (&'static str, bool) {
    match (expected, t.abs() > THRESHOLD) {
        (Expected::Constant, false) => ("no difference", true),
        (Expected::Constant, true) => ("DIFFERENCE", false),
        (Expected::Leak, true) => ("difference found, as it must be", true),
        (Expected::Leak, false) => ("MISSED: the measurement shows nothing", false),
    }
}

/// Times a subject's calls; `told` is how many there were, now and then.
fn measure(
    subject: &mut dyn Subject,
    options: &Options,
    told: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Sample>> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut samples = Vec::with_capacity(options.samples as usize);
    let total = WARM_UP + options.samples as usize;
    for number in 0..total {
        if number.is_multiple_of(TOLD_EVERY) {
            told(number)?;
        }
        let class = if rng.next_u32() & 1 == 0 { Class::First } else { Class::Last };
        subject.prepare(class);
        let start = Instant::now();
        for _ in 0..subject.repeats() {
            black_box(subject.judges_wrong());
        }
        let took_ns = start.elapsed().as_nanos() as f64 / f64::from(subject.repeats());
        if number >= WARM_UP {
            samples.push(Sample { class, took_ns });
        }
    }
    Ok(samples)
}

fn mean(samples: &[Sample], class: Class) -> f64 {
    let of = samples.iter().filter(|sample| sample.class == class);
    let (count, sum) = of.fold((0_u32, 0.0), |(n, sum), sample| (n + 1, sum + sample.took_ns));
    sum / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8.4: an interruption keeps the comparisons until then: here none.
    #[test]
    fn r8_4_an_interrupted_run_is_a_part() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { samples: 10, seed: 1, out_dir: dir.path().to_owned() };
        let interrupt = Interrupt::default();
        interrupt.set();
        let error = format!("{:#}", run(&options, &interrupt).unwrap_err());
        assert!(error.contains("interrupted") && error.contains("result.json"), "{error}");
        let text = std::fs::read_to_string(dir.path().join("result.json")).unwrap();
        let part: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&part["complete"], &part["comparisons"]), (&false.into(), &serde_json::json!([])));
        crate::schemas::tests::fits_tightly(&part);
    }

    /// R2.5: every subject takes the right value and refuses both classes: what is timed is the comparison.
    #[test]
    fn r2_5_what_is_timed_refuses_both_classes_and_takes_the_right_value() {
        let all = subjects().unwrap();
        assert!(
            all.iter().any(|subject| subject.expected() == Expected::Leak),
            "a measurement that can fail"
        );
        for mut subject in all {
            assert!(subject.takes_the_right_value(), "{}", subject.name());
            for class in [Class::First, Class::Last] {
                subject.prepare(class);
                assert!(subject.judges_wrong(), "{}: {class:?}", subject.name());
            }
        }
    }

    /// R2.5: the verdict is wrong in both directions.
    #[test]
    fn r2_5_a_difference_of_ours_and_a_leak_that_is_missed_fail_the_run() {
        assert!(judge(Expected::Constant, 1.0).1 && judge(Expected::Leak, -60.0).1);
        assert!(!judge(Expected::Constant, -5.0).1 && !judge(Expected::Leak, 4.0).1);
    }
}
