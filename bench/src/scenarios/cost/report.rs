//! What a run found: a table for people, everything raw for machines.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::bound::Backend;
use super::storm::Storm;
use crate::result::{Ending, Environment};

/// Rounds of one measurement and their median.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figure {
    /// The middle one.
    pub median: f64,
    /// In the order in which they were measured.
    pub rounds: Vec<f64>,
}

impl Figure {
    /// The median of an odd number of rounds is one of them, of an even number the upper of the two in the middle.
    #[must_use]
    pub fn of(rounds: Vec<f64>) -> Self {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted.get(sorted.len() / 2).copied().unwrap_or_default(), rounds }
    }
}

/// What was measured with one number of sessions.
#[derive(Clone, Debug, Serialize)]
pub struct Size {
    /// Sessions.
    pub sessions: usize,
    /// Nanoseconds by operation.
    pub ns: BTreeMap<&'static str, Figure>,
    /// Births per second of one core.
    pub births_per_s: f64,
    /// Reattaches per second of one core: request, answer, confirmation.
    pub reattaches_per_s: f64,
    /// What the Diffie-Hellman alone would take, of what a reattach takes.
    pub bound_percent: f64,
    /// Records of JOURNAL that a reattach writes.
    pub journal_writes_per_reattach: f64,
    /// Octets of heap per session by what the sessions have behind them.
    pub octets_per_session: BTreeMap<&'static str, f64>,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `cost`.
    pub scenario: &'static str,
    /// Nothing was lost, nothing doubled, versions as expected: else there is no report.
    pub valid: Option<bool>,
    /// Whole or broken off.
    #[serde(flatten)]
    pub ending: Ending,
    /// Machine, kernel, versions, commit.
    pub environment: Environment,
    /// Seed of everything random.
    pub seed: u64,
    /// What differs from the preset `edge`, so that no limit stands in the way of a measurement.
    pub policy: &'static str,
    /// The crate that the engine computes X25519 with.
    pub backend: &'static str,
    /// X25519 by crate.
    pub x25519: Vec<Backend>,
    /// By number of sessions.
    pub sizes: Vec<Size>,
    /// All at once.
    pub storm: Option<Storm>,
}

/// Aims of the requirements.
const BOUND_AIM_PERCENT: f64 = 50.0;
const OCTETS_AIM: f64 = 4_096.0;

impl Report {
    /// Lines for a person.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        for (name, value) in &conditions() {
            lines.push(format!("  {name:<12}{value}"));
        }
        lines.push(String::new());
        for backend in &self.x25519 {
            let used = if backend.name == self.backend { "  (in use)" } else { "" };
            lines.push(format!(
                "  X25519 by {:<14} new key {:>6.1} µs, agreement {:>6.1} µs, those of a reattach {:>6.1} µs{used}",
                backend.name,
                backend.new_key_ns.median / 1e3,
                backend.agreement_ns.median / 1e3,
                backend.reattach_ns / 1e3
            ));
        }
        lines.push(String::new());
        lines.extend(self.table());
        lines.push(String::new());
        if let Some(storm) = &self.storm {
            lines.extend(storm.lines());
        }
        lines.extend(self.aims());
        lines
    }

    fn table(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut row = |name: &str, cell: &dyn Fn(&Size) -> Option<String>| {
            let cells: String = self
                .sizes
                .iter()
                .map(|size| format!("{:>14}", cell(size).unwrap_or_else(|| "–".into())))
                .collect();
            lines.push(format!("  {name:<42}{cells}"));
        };
        row("sessions", &|size| Some(size.sessions.to_string()));
        row("births/s per core", &|size| Some(format!("{:.0}", size.births_per_s)));
        row("reattaches/s per core", &|size| Some(format!("{:.0}", size.reattaches_per_s)));
        row("of the Diffie-Hellman bound, %", &|size| Some(format!("{:.0}", size.bound_percent)));
        row("JOURNAL records per reattach", &|size| Some(format!("{:.1}", size.journal_writes_per_reattach)));
        let of = |names: fn(&Size) -> Vec<&'static str>| {
            let all: std::collections::BTreeSet<_> = self.sizes.iter().flat_map(names).collect();
            all
        };
        for name in of(|size| size.ns.keys().copied().collect()) {
            row(&format!("{name}, ns"), &|size| Some(format!("{:.0}", size.ns.get(name)?.median)));
        }
        for name in of(|size| size.octets_per_session.keys().copied().collect()) {
            row(&format!("octets per session, {name}"), &|size| {
                Some(format!("{:.0}", size.octets_per_session.get(name)?))
            });
        }
        lines
    }

    fn aims(&self) -> Vec<String> {
        let mark = |met: bool| if met { "met " } else { "MISS" };
        let worst =
            |of: &dyn Fn(&Size) -> f64, pick: fn(f64, f64) -> f64| self.sizes.iter().map(of).reduce(pick);
        let mut lines = Vec::new();
        if let Some(least) = worst(&|size| size.bound_percent, f64::min) {
            lines.push(format!(
                "  {}  reattach at {least:.0} % of the Diffie-Hellman bound or more (aim {BOUND_AIM_PERCENT:.0} %)",
                mark(least >= BOUND_AIM_PERCENT)
            ));
        }
        let most = |size: &Size| size.octets_per_session.values().copied().fold(0.0, f64::max);
        if let Some(most) = worst(&most, f64::max) {
            lines.push(format!(
                "  {}  {most:.0} octets per session or less (aim {OCTETS_AIM:.0})",
                mark(most <= OCTETS_AIM)
            ));
        }
        lines
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What it ran on, with the crates that compute.
#[must_use]
pub fn environment() -> Environment {
    let mut environment = Environment::collect();
    let crates = ["aws-lc-rs", "snow", "x25519-dalek"].map(|name| (name.to_owned(), locked(name).to_owned()));
    environment.versions.extend(crates);
    environment
}

/// Machine, kernel, versions, profile, for a person.
fn conditions() -> BTreeMap<&'static str, String> {
    let first = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let profile = if cfg!(debug_assertions) { "debug: figures mean nothing" } else { "release" };
    let crates = ["aws-lc-rs", "snow", "x25519-dalek"].map(|name| format!("{name} {}", locked(name)));
    BTreeMap::from([
        ("processor", format!("{}, {cores} cores; one is used", first("/proc/cpuinfo", "model name"))),
        ("memory", first("/proc/meminfo", "MemTotal")),
        ("kernel", first("/proc/sys/kernel/osrelease", "")),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("profile", profile.to_owned()),
        ("crates", crates.join(", ")),
    ])
}

/// The version of a crate that was built in.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    let (_, below) = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).unwrap_or_default();
    below.split('"').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemas::tests::fits_tightly;

    /// R8.4: a run and one that was broken off fit the schema, also where nothing could be divided.
    #[test]
    fn r8_4_whole_and_part_fit_the_schema() {
        let figure = || Figure::of(vec![1.0, 2.0]);
        let backend = Backend { name: "one", new_key_ns: figure(), agreement_ns: figure(), reattach_ns: 9.0 };
        let size = Size {
            sessions: 100,
            ns: [("birth", figure())].into(),
            births_per_s: f64::NAN,
            reattaches_per_s: 1.0,
            bound_percent: 50.0,
            journal_writes_per_reattach: 2.0,
            octets_per_session: [("born", 1_000.0)].into(),
        };
        let storm = Storm {
            sessions: 1,
            all_attached_ms: 1.0,
            half_attached_ms: 1.0,
            busy_ms: 1.0,
            requests: 1,
            retries: 0,
            refused: [("RATE_LIMIT", 1)].into(),
            most_requests: 1,
        };
        let mut report = Report {
            scenario: "cost",
            valid: None,
            ending: Ending::of(&Ok(())),
            environment: environment(),
            seed: 1,
            policy: "edge",
            backend: "one",
            x25519: vec![backend],
            sizes: vec![size],
            storm: Some(storm),
        };
        fits_tightly(&report);
        report.ending = Ending::of::<()>(&Err(anyhow::anyhow!("interrupted")));
        report.storm = None;
        fits_tightly(&report);
    }

    #[test]
    fn medians_and_versions() {
        assert_eq!(Figure::of(vec![5.0, 1.0, 3.0]).median, 3.0);
        assert_eq!(Figure::of(Vec::new()).median, 0.0);
        assert!(locked("snow").starts_with("0."), "{}", locked("snow"));
    }
}
