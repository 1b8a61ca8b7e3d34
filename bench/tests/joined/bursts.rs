//! Bursts of attempts with the default policy: those that lead nowhere end the session when the recovery window is over,
//! and nobody else's.

use crate::{A, B, attached_as, changes, counter, flows, ms, recovered, secs, session};
use jvpn_abi::wire::MsgType;
use jvpn_abi::{BootTime, Reason};
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::network::{Fate, Heading, PathId};
use jvpn_bench::simulation::{Setup, Simulation};
use jvpn_session::{Policy, State};
use std::time::Duration;

const BOUND: (State, Reason) = (State::Terminated, Reason::RecoveryBoundsExceeded);

/// A client with so many uplinks, ATTACHED, and the seed of its jitter.
fn with_uplinks(uplinks: u8, seed: u64) -> (Simulation, &'static [PathId]) {
    let sim = attached_as(&Setup { uplinks, seed, ..Setup::default() });
    (sim, if uplinks == 1 { &[A] } else { &[A, B] })
}

/// From the first attempt that the gateway accepted to the end of the session.
fn burst_of(sim: &Simulation, id: jvpn_session::messages::SessionId) -> Duration {
    let changes = &sim.observer.trail.session(id).unwrap().changes;
    let at = |of: Reason| changes.iter().find(|(_, _, reason)| *reason == of).map(|(at, ..)| *at);
    let begun: Option<BootTime> = at(Reason::RecoveryStart).or_else(|| at(Reason::RecoveryRetry));
    at(Reason::RecoveryBoundsExceeded).unwrap().since(begun.unwrap())
}

/// Runs until the session is over, and judges its end.
fn ends_with_the_window(sim: &mut Simulation, what: &str) {
    let id = session(sim);
    let ended = |sim: &Simulation| changes(sim, id, 0).last().is_some_and(|(state, _)| !state.is_live());
    let took = sim.run_until(secs(60), ended).unwrap();
    assert!(took.is_some(), "{what}: still there after a minute: {:?}", changes(sim, id, 0));
    assert_eq!(changes(sim, id, 0).pop(), Some(BOUND), "{what}");
    let (lasted, window) = (burst_of(sim, id), Policy::default().recovery_window);
    // The control plane of this world takes its turn within a millisecond or two.
    assert!(lasted >= window && lasted < window + ms(3), "{what}: {lasted:?}");
    sim.network.filter = None;
    sim.heal().unwrap();
    assert!(sim.run_until(secs(15), Simulation::is_settled).unwrap().is_some(), "{what}: a new session");
    assert_ne!(session(sim), id, "{what}");
    assert_eq!(
        sim.observer.client(0).ends,
        [(id, Reason::SessionExpired)],
        "{what}: and the client was told"
    );
    flows(sim);
}

/// R1.6, I6: every request arrives and no answer does: the session ends when the window is over, not before
/// and not later, however long the client waits between two attempts, with one uplink and with two.
#[test]
fn r1_6_attempts_without_answers_end_with_the_default_window() {
    for (uplinks, seed) in [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)] {
        let (mut sim, paths) = with_uplinks(uplinks, seed);
        for path in paths {
            sim.strike(Fault::Cut(*path, Heading::Down)).unwrap();
        }
        ends_with_the_window(&mut sim, &format!("{uplinks} uplinks, seed {seed}"));
    }
}

/// R1.6, I6: bindings are granted again and again, but no frame comes through any of them.
#[test]
fn r1_6_bindings_that_carry_nothing_end_with_the_default_window() {
    for uplinks in [1, 2] {
        let (mut sim, _) = with_uplinks(uplinks, 1);
        sim.network.filter =
            Some(Box::new(|sight| if sight.kind() == Some(MsgType::Data) { Fate::Lose } else { Fate::Pass }));
        ends_with_the_window(&mut sim, &format!("{uplinks} uplinks"));
    }
}

/// R1.6, R1.7: links that flap while nothing comes down either of them: the client is refused for asking too often in
/// between, waits as told, and that does not save the session.
#[test]
fn r1_6_flapping_links_end_with_the_default_window() {
    let (mut sim, paths) = with_uplinks(2, 1);
    for path in paths {
        sim.strike(Fault::Cut(*path, Heading::Down)).unwrap();
    }
    for round in 0..40 {
        let path = paths[round % 2];
        let at = secs(round as u64);
        sim.plan(at, Fault::LinkDown(path, ms(1)));
        sim.plan(at + ms(400), Fault::LinkUp(path, 1));
    }
    ends_with_the_window(&mut sim, "flapping");
}

/// R1.6, R7.1: a client that comes back within the window keeps its session, whatever failed before; so does one that met
/// silence for longer than the window, and one whose links flap for minutes but work in between.
#[test]
fn r1_6_whoever_recovers_keeps_the_session() {
    for uplinks in [1, 2] {
        let (mut sim, paths) = with_uplinks(uplinks, 1);
        let id = session(&sim);
        for (count, cut) in [Heading::Down, Heading::Up].into_iter().enumerate() {
            for path in paths {
                sim.strike(Fault::Cut(*path, cut)).unwrap();
            }
            // With what the gateway needs to notice that nothing comes up any more.
            sim.run(secs(if cut == Heading::Down { 24 } else { 45 })).unwrap();
            sim.heal().unwrap();
            recovered(&mut sim, count + 1, secs(10));
            assert_eq!(session(&sim), id, "{uplinks} uplinks, {cut:?}");
            flows(&mut sim);
        }
    }
    let (mut sim, paths) = with_uplinks(2, 1);
    let id = session(&sim);
    for round in 0..120 {
        let (path, at) = (paths[round % 2], secs(2 * round as u64));
        sim.plan(at, Fault::LinkDown(path, ms(1)));
        sim.plan(at + ms(900), Fault::LinkUp(path, 1));
    }
    sim.run(secs(241)).unwrap();
    assert!(counter(&sim, "reattach_rejected.COOLDOWN") > 0, "the budget was used up");
    assert!(sim.run_until(secs(70), Simulation::is_settled).unwrap().is_some());
    assert!(!changes(&sim, id, 0).contains(&BOUND));
    assert_eq!(session(&sim), id);
    flows(&mut sim);
}
