//! Quality of paths with both ends judging: spikes, paths that stay bad, better ones.

use crate::{A, B, at_gateway, attached_as, changes, flows, ms, recoveries, secs, session, transitions};
use jvpn_abi::Reason;
use jvpn_bench::simulation::Setup;
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::network::{Heading, Weather};
use jvpn_session::messages::SwitchCause;
use jvpn_session::{Policy, State};

const VOLATILE: (State, Reason) = (State::Volatile, Reason::VolatilitySignal);
const RECOVERED: (State, Reason) = (State::Attached, Reason::HealthRecovered);

/// A path that loses so many of a thousand.
fn lossy(per_mille: u32) -> Weather {
    Weather { loss_per_mille: per_mille, ..Weather::default() }
}

/// R1.7, R7.1: 30 % loss for three seconds in one direction: VOLATILE and back, each with its reason, and no switch, though
/// a better candidate is warm.
#[test]
fn a_loss_spike_is_volatile_and_passes() {
    for heading in [Heading::Up, Heading::Down] {
        for seed in 0..5 {
            let mut sim = attached_as(&Setup { seed, ..Setup::default() });
            let (id, before) = (session(&sim), 2);
            sim.run(secs(3)).unwrap();
            let (up, down) = match heading {
                Heading::Up => (lossy(300), Weather::default()),
                Heading::Down => (Weather::default(), lossy(300)),
            };
            sim.strike(Fault::Weather(A, up, down)).unwrap();
            sim.run(secs(3)).unwrap();
            assert_eq!(at_gateway(&sim, id).state, "VOLATILE", "{heading:?} {seed}");
            sim.strike(Fault::Heal(A)).unwrap();
            sim.run(secs(12)).unwrap();
            assert_eq!(changes(&sim, id, before), [VOLATILE, RECOVERED], "{heading:?} {seed}");
            assert_eq!((recoveries(&sim), session(&sim)), (0, id), "{heading:?} {seed}");
            assert_eq!(sim.client(0).state, "ATTACHED");
            flows(&mut sim);
        }
    }
}

/// R1.7: 10 % loss that does not end, and nowhere else to go: DEGRADED, then TERMINATED, and the client begins anew.
#[test]
fn a_path_that_stays_bad_ends_the_session() {
    let policy = Policy { volatile_max: secs(10), degraded_max: secs(20), ..Policy::default() };
    let mut sim = attached_as(&Setup { uplinks: 1, policy, ..Setup::default() });
    let (id, before) = (session(&sim), transitions(&sim, session(&sim)));
    sim.strike(Fault::Weather(A, lossy(150), lossy(150))).unwrap();
    sim.run(secs(90)).unwrap();
    let expected = [
        VOLATILE,
        (State::Degraded, Reason::QualityFloorViolation),
        (State::Terminated, Reason::PolicyTermination),
    ];
    assert_eq!(changes(&sim, id, before), expected);
    assert_eq!(sim.observer.client(0).ends[0], (id, Reason::PolicyTermination));
    assert_ne!(session(&sim), id, "a new session, reported as one");
}

/// R1.7, R7.1: a path that loses 10 % is left for a warm candidate that loses nothing, once, by choice.
#[test]
fn a_better_candidate_is_taken() {
    for seed in 0..5 {
        let mut sim = attached_as(&Setup { seed, ..Setup::default() });
        let id = session(&sim);
        sim.strike(Fault::Weather(A, lossy(100), lossy(100))).unwrap();
        let took = sim.run_until(secs(60), |sim| recoveries(sim) > 0).unwrap().unwrap();
        assert!(took > secs(6) && took < secs(25), "seed {seed}: {took:?}");
        let (_, report) = sim.observer.client(0).recoveries[0];
        assert_eq!((report.cause, report.from, report.to), (SwitchCause::Voluntary, A.uplink, B.uplink));
        assert!(report.outage_ms < 200, "{report:?}");
        sim.run(secs(60)).unwrap();
        assert_eq!((recoveries(&sim), session(&sim)), (1, id), "seed {seed}");
        assert_eq!(at_gateway(&sim, id).state, "ATTACHED");
        flows(&mut sim);
    }
}

/// R1.7, I7: both paths are bad, one as the other: whatever a few lucky probes say, there is no storm of switches.
#[test]
fn two_bad_paths_are_no_reason_for_a_storm() {
    for seed in 0..5 {
        let mut sim = attached_as(&Setup { seed, ..Setup::default() });
        let id = session(&sim);
        for path in [A, B] {
            sim.strike(Fault::Weather(path, lossy(100), lossy(100))).unwrap();
        }
        sim.run(secs(100)).unwrap();
        assert!(recoveries(&sim) <= 3, "seed {seed}: {} switches in 100 s", recoveries(&sim));
        assert_eq!(session(&sim), id, "seed {seed}");
    }
}

/// R1.7: reordering, duplication and jitter below the threshold are good quality at both ends.
#[test]
fn odd_weather_is_not_bad_quality() {
    let mut sim = attached_as(&Setup::default());
    let (id, before) = (session(&sim), 2);
    let odd =
        Weather { duplicate_per_mille: 300, reorder_per_mille: 300, jitter: ms(10), ..Weather::default() };
    sim.strike(Fault::Weather(A, odd, odd)).unwrap();
    sim.run(secs(30)).unwrap();
    assert_eq!(changes(&sim, id, before), []);
    let status = sim.client(0);
    assert_eq!(status.uplinks[0].quality.unwrap().level, "good");
    assert_eq!(at_gateway(&sim, id).quality, "good");
}
