//! Logs of the production engine, joined with production clients on virtual time.

use std::time::Duration;

use jvpn_bench::check_events::Beginning;
use jvpn_bench::check_events::findings::Check;
use jvpn_bench::simulation::faults::{Fault, schedule, world};
use jvpn_bench::simulation::{Setup, Simulation, path};

use super::{expecting, found, judged};

/// Seeds of random worlds. The simulator's own observer judges more of them.
const SEEDS: u64 = 20;
const STORM: Duration = Duration::from_secs(40);

/// Two clients: switches, a rekey by switch, a control plane that dies and goes on, an end by the user.
pub(super) fn real_log() -> (Vec<String>, Setup) {
    let setup = Setup { clients: 2, ..Setup::default() };
    let mut sim = Simulation::new(&setup).unwrap();
    let secs = Duration::from_secs;
    sim.run(secs(2)).unwrap();
    for (cut, healed) in [(0, 1), (1, 0), (0, 1)] {
        for client in 0..2 {
            sim.strike(Fault::Heal(path(client, healed))).unwrap();
            sim.strike(Fault::CutBoth(path(client, cut))).unwrap();
        }
        sim.run(secs(5)).unwrap();
    }
    sim.strike(Fault::KillControlPlane).unwrap();
    sim.run(secs(1)).unwrap();
    sim.strike(Fault::StartControlPlane).unwrap();
    sim.run(secs(3)).unwrap();
    sim.terminate(1).unwrap();
    sim.run(secs(2)).unwrap();
    (sim.audit.clone(), setup)
}

/// R1.3, R1.5, R6.1: what the engine writes keeps every rule, over switches and a restart.
#[test]
fn r6_1_a_log_of_the_engine_is_good() {
    let (lines, setup) = real_log();
    let findings = judged(&lines, &expecting(&setup.policy));
    assert!(findings.good, "{}", findings.text());
    assert_eq!((findings.sessions.seen, findings.sessions.live), (2, 1));
    assert_eq!(findings.by_type["TRANSPORT_SWITCH"], 6);
    assert_eq!((findings.by_type["NODE_STARTED"], findings.gaps.node_started), (2, 0), "nothing was lost");
}

/// R1.9, R1.3: storms of faults, among them control planes that die in the middle of a step.
#[test]
fn r1_9_logs_of_random_worlds_are_good() {
    let mut gaps = 0;
    for seed in 0..SEEDS {
        let setup = world(seed);
        let mut sim = Simulation::new(&setup).unwrap();
        for (at, fault) in schedule(&setup, STORM) {
            sim.plan(at, fault);
        }
        sim.run(STORM).unwrap();
        sim.heal().unwrap();
        sim.run(Duration::from_secs(30)).unwrap();
        let findings = judged(&sim.audit, &expecting(&setup.policy));
        assert!(findings.good, "seed {seed}: {}\n{}", findings.text(), sim.audit.join("\n"));
        gaps += findings.gaps.node_started;
    }
    eprintln!("{SEEDS} worlds, {gaps} gaps at a NODE_STARTED");
}

/// R6.1: a log whose older files are gone is good if one says so, and only then.
#[test]
fn r6_1_a_log_from_midway_is_good_if_one_says_so() {
    let (lines, setup) = real_log();
    let from = lines.iter().position(|line| line.contains("TRANSPORT_SWITCH_OK")).unwrap();
    let to = lines.iter().rposition(|line| line.contains("NODE_STARTED")).unwrap();
    let mut expectations = expecting(&setup.policy);
    let findings = judged(&lines[from..to], &expectations);
    assert_eq!(found(&findings).iter().filter(|(check, _)| *check == Check::Creation).count(), 2);
    assert_eq!(findings.violations_total, 2, "{}", findings.text());
    expectations.beginning = Beginning::Midway;
    let findings = judged(&lines[from..], &expectations);
    assert!(findings.good, "{}", findings.text());
    assert_eq!(findings.sessions.older, 2);
}
