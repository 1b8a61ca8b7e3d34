//! The checker's rules are its own; they may not drift away from production's.

use std::collections::BTreeSet;

use jvpn_bench::check_events::rules::{self, PRESETS};
use jvpn_session::Policy;

/// What `common/session/tests/transition_table.rs` compares with the code, state by event.
const TABLE: &str = include_str!("../../../common/session/tests/transition_table.md");

/// R1.5: the transitions that the checker allows are exactly those that production makes.
#[test]
fn r1_5_the_checkers_transitions_are_productions() {
    let rows = TABLE.lines().skip(2).map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let productions: BTreeSet<_> = rows
        .filter(|cells| cells[3] != "–")
        .map(|cells| (cells[1].to_owned(), cells[3].to_owned(), cells[4].to_owned()))
        .collect();
    let name = |state: Option<rules::State>| state.map_or("–", rules::State::name).to_owned();
    let ours = rules::transitions().into_iter();
    let ours: Vec<_> =
        ours.map(|(from, to, reason)| (name(from), to.name().to_owned(), reason.to_owned())).collect();
    let set: BTreeSet<_> = ours.iter().cloned().collect();
    assert_eq!(set.len(), ours.len(), "a row stands twice");
    assert_eq!(set.difference(&productions).collect::<Vec<_>>(), Vec::<&(_, _, _)>::new(), "not made");
    assert_eq!(productions.difference(&set).collect::<Vec<_>>(), Vec::<&(_, _, _)>::new(), "not allowed");
}

/// R10.3: the checker's presets are production's.
#[test]
fn r10_3_the_checkers_presets_are_productions() {
    for (name, limits) in PRESETS {
        let policy = Policy::preset(name).unwrap();
        assert_eq!(limits.max_switches_per_min, policy.max_switches_per_min, "{name}");
        assert_eq!(limits.recovery_window, policy.recovery_window, "{name}");
        assert_eq!(limits.transport_loss_ttl, policy.transport_loss_ttl, "{name}");
    }
    assert_eq!(rules::BIRTH_MAX, jvpn_session::policy::BIRTH_TIMEOUT);
    assert_eq!(rules::BURST_PAUSE, jvpn_session::policy::BURST_PAUSE);
}

/// R1.9: nothing of the product is in the judge but what is written about it.
#[test]
fn r1_9_the_checker_knows_no_crate_of_the_product() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/check_events");
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(!source.contains("jvpn_") && !source.contains("crate::model"), "{}", path.display());
        assert!(!source.contains("crate::simulation"), "{}", path.display());
        files += 1;
    }
    assert!(files > 5);
}
