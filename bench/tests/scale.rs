//! Worlds of a hundred mobile hosts on virtual time, for ten virtual minutes each, on every core
//! (`jvpn_bench::simulate`). Everything is judged after every step; at the end of each world the churn stops and
//! everybody has to be back (I13).
//!
//! A failure names its seed and the command that shows it again. More hosts, more time: `cargo xtask simulate`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use jvpn_bench::simulate::{BACK_WITHIN, Options, Report, Seeds, Totals, run};
use jvpn_bench::simulation::KeyKind;
use jvpn_bench::simulation::churn::Profile;
use jvpn_rig::Interrupt;

fn lived_through(profile: &str, seeds: &str) -> Totals {
    let options = Options {
        sessions: 100,
        minutes: 10,
        seeds: seeds.parse::<Seeds>().unwrap(),
        profile: Profile::named(profile).unwrap(),
        keys: KeyKind::Cheap,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        events: None,
        back_within: BACK_WITHIN,
        traced: false,
        talkative: false,
    };
    let Report { totals, failures, .. } = run(&options, &Interrupt::default()).unwrap();
    for line in totals.lines() {
        eprintln!("{line}");
    }
    for failure in &failures {
        eprintln!("seed {}: {}\n  {}", failure.seed, failure.what, failure.command);
    }
    assert!(failures.is_empty(), "{profile}: {} worlds broke an invariant; see above", failures.len());
    totals
}

/// R1.1, R1.2, R1.3, R1.5, R1.6, R1.7, R1.9, R2.4, R7.1, R7.2, R7.3, I1 – I13: two hundred worlds of people on the move,
/// whose gateway has its troubles; eighty more that only flap or storm. In one test, so that worlds share the cores with
/// nobody but each other.
#[test]
fn r1_9_mobile_churn() {
    let mobile = lived_through("mobile", "0..199");
    let flapping = lived_through("flapping", "0..39");
    let storm = lived_through("storm", "0..39");
    // Worlds in which nothing happens prove nothing.
    for (name, totals) in [("mobile", &mobile), ("flapping", &flapping), ("storm", &storm)] {
        assert!(totals.sessions >= 4_000 && totals.recoveries > 4_000, "{name}: {totals:?}");
        assert!(totals.echoes * 10 > totals.packets * 7, "{name}: applications hardly work: {totals:?}");
    }
    // R7.1: every cause of a recovery was met.
    for cause in ["address_change", "link_down", "path_dead", "path_hint", "wake", "voluntary"] {
        assert!(mobile.causes.get(cause).is_some_and(|count| *count > 100), "{cause}: {:?}", mobile.causes);
    }
    // R7.2, R1.6: sessions ended by each of the clocks.
    for reason in ["TTL_SESSION_EXPIRED", "TTL_TRANSPORT_LOSS_EXPIRED"] {
        assert!(mobile.ended.contains_key(reason), "{reason}: {:?}", mobile.ended);
    }
    // R7.3, R7.4: control planes died in their hundreds, and storms were refused for want of a data plane.
    assert!(storm.starts > 200, "{} starts", storm.starts);
    assert!(storm.rejections.contains_key("UNAVAILABLE"), "{:?}", storm.rejections);
    // R2.4: replays were tried and refused.
    assert!(
        mobile.security.get("REPLAY_DETECTED").is_some_and(|count| *count > 100),
        "{:?}",
        mobile.security
    );
}
