//! Warm candidates and the way back to a better uplink, with the real engine, the real agent and a bad network.

use crate::{A, B, at_gateway, attached_as, counter, flows, ms, recovered, secs, session};
use jvpn_bench::simulation::faults::{Fault, schedule, world};
use jvpn_bench::simulation::network::Weather;
use jvpn_bench::simulation::{Setup, Simulation};
use jvpn_client::paths::UplinkId;
use jvpn_client::paths::candidates::CandidateSettings;
use jvpn_session::messages::SwitchCause;

/// Goes back after 5 s.
fn hasty() -> Setup {
    let candidates = CandidateSettings { fail_back_hold: Some(secs(5)), ..CandidateSettings::default() };
    Setup { candidates, ..Setup::default() }
}

fn on(sim: &Simulation, uplink: UplinkId) -> bool {
    sim.observer.uplink_of(0) == Some(uplink)
}

/// R7.1, R1.7: after a cut the session goes back to the better uplink once that has held, voluntarily, after the cooldown,
/// and nothing that was sent meanwhile is lost.
#[test]
fn fail_back_is_a_voluntary_switch_that_loses_nothing() {
    let mut sim = attached_as(&hasty());
    let id = session(&sim);
    sim.run(secs(1)).unwrap();
    sim.strike(Fault::CutBoth(A)).unwrap();
    recovered(&mut sim, 1, secs(2));
    sim.run(secs(2)).unwrap();
    sim.heal().unwrap();
    let before = sim.observer.client(0).echoed.last().unwrap();
    let took = recovered(&mut sim, 2, secs(20));
    assert!(took >= secs(5), "{took:?}");
    let (_, report) = sim.observer.client(0).recoveries[1];
    assert_eq!((report.cause, report.from, report.to), (SwitchCause::Voluntary, B.uplink, A.uplink));
    assert!(report.outage_ms < 200, "{report:?}");
    flows(&mut sim);
    let echoed = &sim.observer.client(0).echoed;
    let last = echoed.last().unwrap();
    let lost = (before..=last).filter(|number| !echoed.contains(*number)).count();
    assert_eq!(lost, 0, "of {} packets there and back", last - before);
    assert_eq!((session(&sim), at_gateway(&sim, id).state, on(&sim, A.uplink)), (id, "ATTACHED", true));
    assert!(counter(&sim, "path_echo_sent") > 5 && counter(&sim, "path_probe_auth_fail") == 0);
}

/// R7.1: bad weather on every path: whatever switches there are stay within policy (the observer of every run sees to
/// I1 and I7), no path probe moves anything, and after it the session ends on the best uplink.
#[test]
fn in_bad_weather_candidates_do_no_harm() {
    for seed in 0..6 {
        let mut sim = attached_as(&Setup { seed, uplinks: 3, ..hasty() });
        let id = session(&sim);
        let bad = Weather {
            loss_per_mille: 150,
            reorder_per_mille: 100,
            duplicate_per_mille: 100,
            ..Weather::default()
        };
        for path in [A, B] {
            sim.strike(Fault::Weather(path, bad, bad)).unwrap();
        }
        sim.run(secs(30)).unwrap();
        sim.heal().unwrap();
        let home = |sim: &Simulation| sim.is_settled() && on(sim, A.uplink);
        assert!(sim.run_until(secs(140), home).unwrap().is_some(), "seed {seed}");
        assert_eq!(session(&sim), id, "seed {seed}");
        flows(&mut sim);
        sim.run(ms(100)).unwrap();
    }
}

/// I1, I7, I13: random worlds and storms, as [`crate::random`] has them, with clients that go back to better uplinks: every
/// invariant holds, and after the storm everybody is back with a working path.
#[test]
fn storms_with_fail_back() {
    let storm = secs(40);
    for seed in 1_020..1_050 {
        let candidates = CandidateSettings { fail_back_hold: Some(secs(2)), ..CandidateSettings::default() };
        let setup = Setup { candidates, ..world(seed) };
        let mut sim = Simulation::new(&setup).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for (at, fault) in schedule(&setup, storm) {
            sim.plan(at, fault);
        }
        sim.run(storm).unwrap_or_else(|broken| panic!("seed {seed}: {broken:?}"));
        sim.heal().unwrap();
        (0..sim.clients()).for_each(|client| sim.set_traffic(client, Some(ms(50))));
        let echoed = |sim: &Simulation| -> Vec<usize> {
            (0..sim.clients()).map(|client| sim.observer.client(client).echoed.len()).collect()
        };
        let before = echoed(&sim);
        let back = |sim: &Simulation| {
            sim.is_settled() && echoed(sim).iter().zip(&before).all(|(now, before)| *now > before + 2)
        };
        let took = sim.run_until(secs(90), back).unwrap_or_else(|broken| panic!("seed {seed}: {broken:?}"));
        assert!(took.is_some(), "seed {seed}: not back");
        sim.run(secs(20)).unwrap_or_else(|broken| panic!("seed {seed}: {broken:?}"));
    }
}
