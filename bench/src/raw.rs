//! The raw files of a run beside its result: events where a gateway of ours ran, distributions where latencies or outages
//! were measured, and single measurements. `docs/RESULTS.md` lists the same.

use std::fs;
use std::path::Path;

/// By scenario; `*` stands for what there are several of. The parts of a suite have their own.
pub const RAW: &[(&str, &[&str])] = &[
    ("churn", &["events.jsonl", "outage.hgrm", "reattach.hgrm"]),
    ("cost", &[]),
    ("demo", &["events.jsonl", "outage-*.hgrm"]),
    ("emulator", &[]),
    ("flood", &["events.jsonl", "outage-*.hgrm"]),
    ("idle", &["events.jsonl"]),
    ("l2fwd", &[]),
    ("memory", &[]),
    ("peers", &["events.jsonl", "rows.jsonl", "rtt-*.hgrm"]),
    ("peers-recovery", &["events.jsonl", "trials.jsonl", "outage-*.hgrm"]),
    ("pinning", &[]),
    ("recovery", &["events.jsonl", "trials.jsonl", "outage-*.hgrm"]),
    ("scaling", &[]),
    ("sessions", &["events.jsonl", "births.hgrm", "storm-*.hgrm"]),
    ("sessions-search", &["events.jsonl"]),
    ("soak", &["events.jsonl"]),
    ("suite", &[]),
    ("throughput", &["events.jsonl"]),
    ("timing", &[]),
];

/// What a whole run of this scenario should have left in its directory and has not.
#[must_use]
pub fn missing(dir: &Path, scenario: &str) -> Vec<&'static str> {
    let names: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let is_there = |pattern: &str| match pattern.split_once('*') {
        None => names.iter().any(|name| name == pattern),
        Some((head, tail)) => names.iter().any(|name| name.starts_with(head) && name.ends_with(tail)),
    };
    let wanted = RAW.iter().find(|(name, _)| *name == scenario).map_or(&[][..], |(_, files)| files);
    wanted.iter().copied().filter(|pattern| !is_there(pattern)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(missing(dir.path(), "sessions"), ["events.jsonl", "births.hgrm", "storm-*.hgrm"]);
        fs::write(dir.path().join("storm-1.hgrm"), "").unwrap();
        fs::write(dir.path().join("events.jsonl"), "").unwrap();
        assert_eq!(missing(dir.path(), "sessions"), ["births.hgrm"]);
        assert!(missing(dir.path(), "timing").is_empty());
    }
}
