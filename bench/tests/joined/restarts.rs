//! Processes that die and come back.

use crate::{
    A, B, at_gateway, attached, attached_as, bound, changes, flows, ms, recovered, recoveries, secs,
};
use crate::{session, transitions};
use jvpn_abi::Reason;
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::network::Weather;
use jvpn_bench::simulation::{Actor, Restart, Setup, Simulation};
use jvpn_session::State;

/// R7.3, I11: the data plane dies and comes back soon, with CONTEXT kept: same session, same binding, no counter sealed
/// twice, no replay accepted.
#[test]
fn data_plane_lost_for_a_moment() {
    let mut sim = attached();
    let id = session(&sim);
    let slot = sim.client(0).path.unwrap().slot;
    sim.strike(Fault::KillDataPlane).unwrap();
    sim.plan(ms(60), Fault::StartDataPlane);
    sim.run(secs(1)).unwrap();
    flows(&mut sim);
    assert_eq!((session(&sim), sim.is_settled()), (id, true));
    assert_eq!((sim.client(0).path.unwrap().slot, recoveries(&sim)), (slot, 0), "nobody had to reattach");
    sim.strike(Fault::CutBoth(A)).unwrap();
    recovered(&mut sim, 1, secs(2));
    flows(&mut sim);
}

/// R7.3, I13: the data plane is away for longer than the client waits: the client asks, is told UNAVAILABLE, and is back
/// soon after the data plane.
#[test]
fn data_plane_lost_for_long() {
    for away in [1, 5, 20, 60] {
        let mut sim = attached();
        let id = session(&sim);
        sim.strike(Fault::KillDataPlane).unwrap();
        sim.run(secs(away)).unwrap();
        assert_eq!(sim.client(0).state, "RECOVERING");
        sim.strike(Fault::StartDataPlane).unwrap();
        let took = recovered(&mut sim, 1, secs(15));
        assert!(took < secs(11), "{away} s away: {took:?}");
        assert_eq!(session(&sim), id, "{away}");
        flows(&mut sim);
    }
}

fn forgetful() -> Setup {
    Setup { restart: Restart::WithoutMemory, ..Setup::default() }
}

/// R7.3, R1.2, R1.3, I11: the control plane is killed and goes on from JOURNAL: nobody reattaches, not a packet is lost,
/// and the next switch is the next version of the same session.
#[test]
fn control_plane_goes_on_from_journal() {
    let mut sim = attached();
    let id = session(&sim);
    let (sent, echoed) = (sim.sent(0), sim.observer.client(0).echoed.len() as u64);
    sim.strike(Fault::KillControlPlane).unwrap();
    sim.plan(secs(2), Fault::StartControlPlane);
    sim.run(secs(4)).unwrap();
    let (sent, echoed) = (sim.sent(0) - sent, sim.observer.client(0).echoed.len() as u64 - echoed);
    assert!(echoed + 3 >= sent, "{echoed} of {sent}");
    assert_eq!((session(&sim), recoveries(&sim), sim.observer.trail.starts), (id, 0, 2));
    let versions = transitions(&sim, id);
    sim.strike(Fault::CutBoth(A)).unwrap();
    recovered(&mut sim, 1, secs(2));
    assert_eq!((session(&sim), transitions(&sim, id)), (id, versions + 2));
    flows(&mut sim);
}

/// R7.3, R1.2, R4.3: the control plane dies and comes back without memory: the old session ends explicitly at the
/// client, a new one is reported, and nothing of the old one is accepted or sealed again.
#[test]
fn control_plane_restarted() {
    let mut sim = attached_as(&forgetful());
    let id = session(&sim);
    sim.strike(Fault::KillControlPlane).unwrap();
    sim.plan(ms(300), Fault::StartControlPlane);
    let done = |sim: &Simulation| sim.is_settled() && sim.observer.client(0).session != Some(id);
    let took = sim.run_until(secs(10), done).unwrap().expect("back as a new session");
    assert!(took < ms(1_500), "{took:?}");
    assert_eq!(sim.observer.client(0).ends, [(id, Reason::SessionNotFound)]);
    assert_eq!(sim.observer.client(0).sessions.len(), 2);
    assert_eq!(sim.observer.trail.starts, 2);
    flows(&mut sim);
    sim.strike(Fault::CutBoth(bound(&sim))).unwrap();
    recovered(&mut sim, 1, secs(2));
    flows(&mut sim);
}

/// R0.3, R7.3: while the control plane is away, what is bound goes on.
#[test]
fn forwarding_goes_on_without_a_control_plane() {
    let mut sim = attached();
    sim.strike(Fault::KillControlPlane).unwrap();
    let before = sim.observer.client(0).echoed.len();
    sim.run(secs(5)).unwrap();
    assert!(sim.observer.client(0).echoed.len() >= before + 245);
    assert_eq!(recoveries(&sim), 0);
}

/// R7.3, R1.2, R1.3: JOURNAL is lost and the store is not: the same session, taken over by its client, one term higher.
#[test]
fn control_plane_goes_on_from_the_store() {
    let mut sim = attached_as(&Setup { restart: Restart::FromStore, ..Setup::default() });
    let id = session(&sim);
    for round in 1..4 {
        sim.strike(Fault::KillControlPlane).unwrap();
        sim.plan(ms(300), Fault::StartControlPlane);
        recovered(&mut sim, round, secs(5));
        assert_eq!((session(&sim), at_gateway(&sim, id).state), (id, "ATTACHED"));
        assert_eq!(at_gateway(&sim, id).state_version >> 40, round as u64);
        flows(&mut sim);
    }
    assert_eq!((sim.observer.client(0).ends.len(), sim.observer.client(0).sessions.len()), (0, 1));
    sim.strike(Fault::CutBoth(bound(&sim))).unwrap();
    recovered(&mut sim, 4, secs(2));
    flows(&mut sim);
}

/// R7.3, R1.2, I11: both processes die together: nothing is left of the tables, the client comes back into the same
/// session, and no slot is handed out twice under the node key.
#[test]
fn both_processes_restarted() {
    for round in 0..6 {
        let mut sim = attached();
        let id = session(&sim);
        sim.strike(Fault::KillControlPlane).unwrap();
        sim.strike(Fault::KillDataPlane).unwrap();
        sim.run(ms(100 + 700 * round)).unwrap();
        sim.strike(Fault::StartDataPlane).unwrap();
        sim.run(ms(40 * round)).unwrap();
        sim.strike(Fault::StartControlPlane).unwrap();
        recovered(&mut sim, 1, secs(20));
        assert_eq!(session(&sim), id, "round {round}");
        assert_eq!((sim.observer.client(0).ends.len(), sim.is_settled()), (0, true), "round {round}");
        flows(&mut sim);
        let state = at_gateway(&sim, id);
        assert_eq!((state.state_version >> 40, state.switches), (1, 1), "round {round}");
    }
}

/// R7.3, R1.8, I11, I13: either process or both die again at each moment of a takeover: the same session all the same.
#[test]
fn crashes_during_a_takeover() {
    for micros in (0..90_000).step_by(3_000) {
        for again in [
            &[Fault::KillControlPlane][..],
            &[Fault::KillDataPlane],
            &[Fault::KillControlPlane, Fault::KillDataPlane],
        ] {
            let mut sim = attached();
            let id = session(&sim);
            sim.strike(Fault::KillControlPlane).unwrap();
            sim.strike(Fault::KillDataPlane).unwrap();
            sim.run(ms(50)).unwrap();
            sim.strike(Fault::StartDataPlane).unwrap();
            sim.strike(Fault::StartControlPlane).unwrap();
            sim.run(std::time::Duration::from_micros(micros)).unwrap();
            again.iter().for_each(|fault| sim.strike(fault.clone()).unwrap());
            sim.plan(ms(70), Fault::StartDataPlane);
            sim.plan(ms(90), Fault::StartControlPlane);
            sim.run(ms(200)).unwrap();
            let back = sim.run_until(secs(20), Simulation::is_settled).unwrap();
            assert!(back.is_some() && session(&sim) == id, "{again:?} after {micros} us");
            flows(&mut sim);
        }
    }
}

/// R7.3, R1.8, I13: the control plane dies again while it loads, beside a data plane that lives: JOURNAL is there and has
/// no record of the session yet, and that does not mean that it has ended.
#[test]
fn control_plane_dies_while_it_loads() {
    for micros in (0..1_500).step_by(50) {
        let mut sim = attached();
        let id = session(&sim);
        sim.strike(Fault::KillControlPlane).unwrap();
        sim.strike(Fault::KillDataPlane).unwrap();
        sim.run(ms(50)).unwrap();
        sim.strike(Fault::StartDataPlane).unwrap();
        sim.strike(Fault::StartControlPlane).unwrap();
        sim.run(std::time::Duration::from_micros(micros)).unwrap();
        sim.strike(Fault::KillControlPlane).unwrap();
        sim.run(ms(90)).unwrap();
        sim.strike(Fault::StartControlPlane).unwrap();
        recovered(&mut sim, 1, secs(5));
        assert_eq!((session(&sim), sim.observer.client(0).ends.len()), (id, 0), "after {micros} us");
        flows(&mut sim);
    }
}

/// R1.8, I13, R2.4: any datagram of a takeover is lost or held back for good: the client is back all the same, as the same
/// session.
#[test]
fn takeovers_on_bad_paths() {
    for (per_mille, seed) in [(200, 3), (400, 5), (400, 8), (600, 13)] {
        let mut sim = attached_as(&Setup { seed, ..Setup::default() });
        let id = session(&sim);
        for uplink in [A, B] {
            let bad = Weather { loss_per_mille: per_mille, duplicate_per_mille: 300, ..Weather::default() };
            sim.strike(Fault::Weather(uplink, bad, bad)).unwrap();
        }
        sim.strike(Fault::KillControlPlane).unwrap();
        sim.strike(Fault::KillDataPlane).unwrap();
        sim.run(ms(50)).unwrap();
        sim.strike(Fault::StartDataPlane).unwrap();
        sim.strike(Fault::StartControlPlane).unwrap();
        sim.run(secs(15)).unwrap();
        [A, B].into_iter().for_each(|uplink| sim.strike(Fault::Heal(uplink)).unwrap());
        assert!(
            sim.run_until(secs(70), Simulation::is_settled).unwrap().is_some(),
            "{per_mille}, seed {seed}"
        );
        assert_eq!(session(&sim), id, "{per_mille}, seed {seed}");
        flows(&mut sim);
    }
}

/// R7.3, I11, I13: a crash during a reattach, at each moment of it: the client gets in, as the same session unless the
/// control plane has lost its memory too.
#[test]
fn crashes_during_a_reattach() {
    for micros in (0..45_000).step_by(1_500) {
        let cases = [
            (Fault::KillDataPlane, Setup::default()),
            (Fault::KillControlPlane, Setup::default()),
            (Fault::KillControlPlane, Setup { restart: Restart::FromStore, ..Setup::default() }),
            (Fault::KillControlPlane, forgetful()),
        ];
        for (fault, setup) in cases {
            let mut sim = attached_as(&setup);
            let id = session(&sim);
            sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
            sim.run(std::time::Duration::from_micros(micros)).unwrap();
            sim.strike(fault.clone()).unwrap();
            let start =
                if fault == Fault::KillDataPlane { Fault::StartDataPlane } else { Fault::StartControlPlane };
            sim.plan(ms(80), start);
            sim.run(ms(200)).unwrap();
            let back = sim.run_until(secs(20), Simulation::is_settled).unwrap();
            assert!(back.is_some(), "{fault:?} after {micros} us");
            if setup.restart != Restart::WithoutMemory {
                assert_eq!(session(&sim), id, "{fault:?} after {micros} us");
            }
            flows(&mut sim);
        }
    }
}

/// R1.8, R7.3, I11: the control plane dies in the middle of a step, before each single command, answer or line of the log
/// of a reattach, a confirmation, a birth: JOURNAL holds what had left, so the client gets in, and as the same session
/// if it was past its birth.
#[test]
fn crashes_in_the_middle_of_a_step() {
    for acts in 0..28 {
        let mut sim = attached();
        let id = session(&sim);
        sim.strike(Fault::KillControlPlaneAfter(acts)).unwrap();
        sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
        for again in [100, 300] {
            sim.plan(ms(again), Fault::StartControlPlane);
        }
        sim.run(ms(400)).unwrap();
        assert!(sim.run_until(secs(20), Simulation::is_settled).unwrap().is_some(), "after {acts} acts");
        assert_eq!(session(&sim), id, "after {acts} acts");
        assert!(sim.observer.trail.starts == 2 || acts >= 10, "it died within a reattach");
        flows(&mut sim);

        let mut sim = Simulation::new(&Setup::default()).unwrap();
        sim.strike(Fault::KillControlPlaneAfter(acts)).unwrap();
        for again in [60, 300] {
            sim.plan(ms(again), Fault::StartControlPlane);
        }
        sim.run(ms(400)).unwrap();
        assert!(sim.run_until(secs(20), Simulation::is_settled).unwrap().is_some(), "after {acts} acts");
        flows(&mut sim);
    }
}

/// R1.8: a control plane that stalls in the middle of a switch: whatever was due meanwhile happens in its order, and the
/// session comes out of it whole.
#[test]
fn control_plane_stalls_during_a_switch() {
    for micros in (10_000..40_000).step_by(3_000) {
        for stall in [90, 700, 2_500] {
            let mut sim = attached();
            let id = session(&sim);
            sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
            sim.run(std::time::Duration::from_micros(micros)).unwrap();
            sim.strike(Fault::Stall(Actor::Control, ms(stall))).unwrap();
            sim.run(ms(stall)).unwrap();
            let back = sim.run_until(secs(10), Simulation::is_settled).unwrap();
            assert!(back.is_some() && session(&sim) == id, "{stall} ms after {micros} us");
            flows(&mut sim);
        }
    }
}

/// R1.2, R2.3: a client that lost its memory handshakes anew; its old session lives until the first authenticated frame
/// of the new one, then ends as SUPERSEDED, and its routes move.
#[test]
fn client_restarted() {
    let mut sim = attached();
    let id = session(&sim);
    sim.strike(Fault::RestartClient(0)).unwrap();
    let done = |sim: &Simulation| sim.is_settled();
    sim.run_until(secs(5), done).unwrap().unwrap();
    assert_ne!(session(&sim), id);
    let last = changes(&sim, id, 0).pop();
    assert_eq!(last, Some((State::Terminated, Reason::Superseded)));
    flows(&mut sim);
    assert_eq!(at_gateway(&sim, session(&sim)).state, "ATTACHED");
    assert_eq!(sim.gateway().unwrap().live_sessions, 1);
    let left = bound(&sim);
    sim.strike(Fault::LinkDown(left, ms(1))).unwrap();
    sim.run(secs(1)).unwrap();
    assert_ne!(bound(&sim), left);
    flows(&mut sim);
}
