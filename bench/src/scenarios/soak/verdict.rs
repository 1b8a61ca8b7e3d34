//! Whether something leaks.
//!
//! The rule: the first third of the samples is settling (allocators, caches, memories of ended sessions fill up) and does
//! not count. Of the rest the median of the first quarter is compared with the median of the last quarter. A leak is what
//! grows by more than the allowance *and* rises by the slope of least squares too; so neither one high sample nor a
//! plateau that was reached late is one.

use serde::Serialize;

use crate::scenarios::sampler::{Sample, Usage};

/// Samples below which nothing is judged: the run was too short, which is a failure.
const SAMPLES_MIN: usize = 24;

/// Growth that is none.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// In the unit of the value.
    pub least: f64,
    /// Share of the value after settling.
    pub share: f64,
}

/// Private memory, KiB: allocators round, and keep what was needed for a moment.
pub const MEMORY: Allowance = Allowance { least: 512.0, share: 0.02 };
/// Descriptors: one may be open at the moment of a sample.
pub const DESCRIPTORS: Allowance = Allowance { least: 1.0, share: 0.0 };

/// One value over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trend {
    /// Which value of which process.
    pub what: String,
    /// Median of the first quarter after settling.
    pub settled: f64,
    /// Median of the last quarter.
    pub last: f64,
    /// Highest of all.
    pub peak: f64,
    /// Slope of least squares after settling, per minute.
    pub per_minute: f64,
    /// Growth that would not be called a leak.
    pub allowed: f64,
    /// Why it fails, if it does.
    pub complaint: Option<String>,
}

/// Judges private and resident memory and descriptors of both processes of the gateway.
pub(in crate::scenarios) fn trends(samples: &[Sample]) -> Vec<Trend> {
    type Value = fn(&Usage) -> u64;
    type Process = fn(&Sample) -> Option<Usage>;
    let processes: [(&str, Process); 2] = [
        ("jvpn-controlplane", |sample| sample.control_plane),
        ("jvpn-dataplane", |sample| sample.data_plane),
    ];
    let values: [(&str, Value, Allowance); 3] = [
        ("private memory, KiB", |usage| usage.anonymous_kib, MEMORY),
        ("resident memory, KiB", |usage| usage.rss_kib, MEMORY),
        ("descriptors", |usage| usage.descriptors, DESCRIPTORS),
    ];
    let mut trends = Vec::new();
    for (process, usage) in processes {
        for (what, value, allowance) in values {
            let series = samples
                .iter()
                .filter_map(|sample| usage(sample).map(|usage| (sample.at_s, value(&usage) as f64)));
            trends.push(judge(&format!("{process}: {what}"), &series.collect::<Vec<_>>(), allowance));
        }
    }
    trends
}

/// Judges (seconds, value) in the order of time.
#[must_use]
pub fn judge(what: &str, series: &[(f64, f64)], allowance: Allowance) -> Trend {
    let what = what.to_owned();
    if series.len() < SAMPLES_MIN {
        let complaint = format!("{what}: {} samples are too few to judge", series.len());
        return Trend { what, complaint: Some(complaint), ..Trend::default() };
    }
    let rest = series.get(series.len() / 3..).unwrap_or_default();
    let quarter = rest.len() / 4;
    let settled = median(rest.get(..quarter).unwrap_or_default());
    let last = median(rest.get(rest.len() - quarter..).unwrap_or_default());
    let per_minute = slope(rest) * 60.0;
    let allowed = allowance.least.max(settled * allowance.share);
    let leaks = last - settled > allowed && per_minute > 0.0;
    let complaint = leaks.then(|| {
        format!(
            "{what}: from {settled:.0} to {last:.0}, {per_minute:.1} a minute; {allowed:.0} more are allowed"
        )
    });
    let peak = series.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    Trend { what, settled, last, peak, per_minute, allowed, complaint }
}

fn median(series: &[(f64, f64)]) -> f64 {
    let mut values: Vec<_> = series.iter().map(|(_, value)| *value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn slope(series: &[(f64, f64)]) -> f64 {
    let count = series.len().max(1) as f64;
    let (sum_t, sum_v) = series.iter().fold((0.0, 0.0), |(t, v), (at, value)| (t + at, v + value));
    let (mean_t, mean_v) = (sum_t / count, sum_v / count);
    let (over, under) = series.iter().fold((0.0, 0.0), |(over, under), (at, value)| {
        (over + (at - mean_t) * (value - mean_v), under + (at - mean_t).powi(2))
    });
    if under > 0.0 { over / under } else { 0.0 }
}

impl Trend {
    /// For a person.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "  {:<40} settled {:>8.0}, last {:>8.0}, peak {:>8.0}, {:>+7.1} a minute  {}",
            self.what,
            self.settled,
            self.last,
            self.peak,
            self.per_minute,
            if self.complaint.is_some() { "LEAK" } else { "flat" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complains(value: impl Fn(f64) -> f64) -> bool {
        let series: Vec<_> = (0..120_u32).map(|at| (f64::from(at), value(f64::from(at)))).collect();
        judge("x", &series, MEMORY).complaint.is_some()
    }

    /// R7.4: the verdict can fail: a slow leak is found beneath noise; settling, noise, a late plateau within the
    /// allowance and a single peak are none.
    #[test]
    fn r7_4_leaks_are_found_and_settling_is_none() {
        let noise = |at: f64| (at * 7.3).sin() * 200.0;
        assert!(complains(|at| 10_000.0 + 15.0 * at + noise(at)));
        assert!(!complains(|at| 10_000.0 + noise(at)));
        assert!(!complains(|at| if at < 35.0 { 5_000.0 + at * 200.0 } else { 12_000.0 }));
        assert!(!complains(|at| if at < 100.0 { 10_000.0 } else { 10_400.0 }));
        assert!(!complains(|at| if at == 110.0 { 90_000.0 } else { 10_000.0 }));
        assert!(!complains(|at| 20_000.0 - 30.0 * at), "it shrinks");
    }

    /// R7.4: one descriptor per minute is found; too few samples are no verdict.
    #[test]
    fn r7_4_descriptors_and_short_runs() {
        let series: Vec<_> = (0..600_u32).map(|at| (f64::from(at), 30.0 + f64::from(at / 60))).collect();
        assert!(judge("fds", &series, DESCRIPTORS).complaint.is_some());
        let flat: Vec<_> = series.iter().map(|(at, _)| (*at, 30.0 + f64::from((*at as u32) % 2))).collect();
        assert!(judge("fds", &flat, DESCRIPTORS).complaint.is_none());
        assert!(judge("fds", &flat[..10], DESCRIPTORS).complaint.is_some());
    }
}
