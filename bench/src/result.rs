//! What every run of the bench writes down beside its figures: quantiles from a histogram; what it ran on is
//! [`Environment`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

pub use crate::environment::Environment;

/// Longest duration that a histogram holds: more is counted as this.
const LONGEST_US: u64 = 3_600_000_000;
/// Significant digits of a histogram.
const DIGITS: u8 = 3;

/// Durations in microseconds.
#[derive(Clone, Debug)]
pub struct Durations(Histogram<u64>);

/// Quantiles in milliseconds; all zero if nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// Half were not longer.
    pub p50_ms: f64,
    /// 95 of 100 were not longer.
    pub p95_ms: f64,
    /// 99 of 100 were not longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Durations {
    /// Nothing measured yet.
    ///
    /// # Errors
    /// The bounds are constants: none in practice.
    pub fn new() -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, DIGITS);
        Ok(Self(histogram.context("the histogram's bounds are wrong")?))
    }

    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(LONGEST_US));
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        // The bounds of all are the same, so nothing can be out of them.
        let _added = self.0.add(&other.0);
    }

    /// What a reader looks at first.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        if self.0.is_empty() {
            return Quantiles::default();
        }
        let ms = |us: u64| us as f64 / 1_000.0;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        Quantiles {
            count: self.0.len(),
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: ms(self.0.max()),
        }
    }

    /// Writes the distribution as `<name>.hgrm` in a run's directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<()> {
        let path = dir.join(format!("{name}.hgrm"));
        fs::write(&path, self.hgrm()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The distribution as `.hgrm` text, values in ms: what HdrHistogram's plotters read.
    #[must_use]
    pub fn hgrm(&self) -> String {
        let mut text = format!(
            "{:>12} {:>14} {:>10} {:>14}\n\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        );
        for step in self.0.iter_quantiles(5) {
            let (value, quantile) = (step.value_iterated_to() as f64 / 1_000.0, step.quantile_iterated_to());
            let total = self.0.count_between(0, step.value_iterated_to());
            let inverse = if quantile < 1.0 {
                format!("{:>14.2}", 1.0 / (1.0 - quantile))
            } else {
                "           inf".to_owned()
            };
            text.push_str(&format!("{value:>12.3} {quantile:>14.12} {total:>10} {inverse}\n"));
        }
        text.push_str(&format!("#[Max = {:.3}, Total count = {}]\n", self.quantiles().max_ms, self.0.len()));
        text
    }
}

/// Distributions of a run, each in a file `<name>.hgrm` of its directory. They are raw data: written as soon as they are
/// whole, and before a run is judged.
#[derive(Debug)]
pub struct Histograms {
    dir: PathBuf,
    by_name: BTreeMap<String, Durations>,
}

impl Histograms {
    /// None yet; for a run with this directory.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), by_name: BTreeMap::new() }
    }

    /// Adds a duration to the distribution of this name.
    ///
    /// # Errors
    /// As [`Durations::new`].
    pub fn add(&mut self, name: &str, duration: Duration) -> Result<()> {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.to_owned(), Durations::new()?);
        }
        if let Some(durations) = self.by_name.get_mut(name) {
            durations.add(duration);
        }
        Ok(())
    }

    /// Writes all of them.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self) -> Result<()> {
        self.by_name.iter().try_for_each(|(name, durations)| durations.write(&self.dir, name))
    }
}

/// How a run ended, as fields of its result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// `false`: a part of what was asked for.
    pub complete: bool,
    /// Why it ended before its time.
    pub broken_off: Option<String>,
}

impl Ending {
    /// Whole, or broken off by an error.
    #[must_use]
    pub fn of<T>(measured: &Result<T>) -> Self {
        let broken_off = measured.as_ref().err().map(|error| format!("{error:#}"));
        Self { complete: broken_off.is_none(), broken_off }
    }
}

/// Writes a value as JSON for people and programs: whole, or not at all. What was there before a full disk or a crash
/// stays.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("a result is no JSON")?;
    let next = path.with_extension("json.next");
    let written = fs::write(&next, text + "\n").and_then(|()| fs::rename(&next, path));
    if written.is_err() {
        // Half of it helps nobody, and its room may be wanted.
        let _gone = fs::remove_file(&next);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let mut all = Durations::new().unwrap();
        assert_eq!(all.quantiles(), Quantiles::default());
        (1..=100).for_each(|ms| all.add(Duration::from_millis(ms)));
        let mut two = Durations::new().unwrap();
        two.merge(&all);
        let found = two.quantiles();
        assert_eq!(found.count, 100);
        for (value, wanted) in
            [(found.p50_ms, 50.0), (found.p95_ms, 95.0), (found.p99_ms, 99.0), (found.max_ms, 100.0)]
        {
            assert!((value - wanted).abs() <= wanted / 500.0, "{value} is not {wanted}");
        }
        assert!(two.hgrm().lines().count() > 10);
    }

    /// R8.4: every distribution has a file of its own.
    #[test]
    fn r8_4_distributions_are_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Histograms::new(dir.path());
        for (name, ms) in [("a", 1), ("a", 3), ("b", 7)] {
            all.add(name, Duration::from_millis(ms)).unwrap();
        }
        all.write().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("a.hgrm").contains("Total count = 2]") && read("b.hgrm").contains("Max = 7.0"));
    }
}
