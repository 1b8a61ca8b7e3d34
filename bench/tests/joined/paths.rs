//! What paths do, and how the session follows.

use crate::{
    A, B, at_gateway, attached, attached_as, changes, counter, flows, ms, recovered, recoveries, secs,
};
use crate::{session, transitions};
use jvpn_abi::Reason;
use jvpn_abi::wire::Suite;
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::network::{Heading, Weather};
use jvpn_bench::simulation::{Actor, Setup, Simulation};
use jvpn_session::State;
use jvpn_session::messages::SwitchCause;

/// R5.1, R1.5: one round trip to a session, half a trip later the gateway is ATTACHED, each step with its reason.
#[test]
fn birth() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let setup = Setup { suites: vec![suite], ..Setup::default() };
        let mut sim = Simulation::new(&setup).unwrap();
        let took = sim.run_until(secs(1), Simulation::is_settled).unwrap().unwrap();
        assert!(took < ms(45), "two round trips of 20 ms: {took:?}");
        let id = session(&sim);
        let expected = [(State::Birth, Reason::HandshakeStart), (State::Attached, Reason::HandshakeOk)];
        assert_eq!(changes(&sim, id, 0), expected);
        flows(&mut sim);
        let status = sim.client(0);
        assert_eq!((status.state, status.suite), ("ATTACHED", Some(suite.name())));
        assert_eq!(sim.observer.client(0).sessions, [id]);
        assert_eq!(counter(&sim, "kernel_socket_bound_data"), 0);
    }
}

/// R1.1, R1.2, R7.1: a path dies without a word in the middle of traffic; the same session goes on over the other one,
/// in two transitions of the gateway and with two versions.
#[test]
fn silent_cut() {
    let mut sim = attached();
    let id = session(&sim);
    let before = transitions(&sim, id);
    sim.strike(Fault::CutBoth(A)).unwrap();
    let took = recovered(&mut sim, 1, secs(2));
    assert!(took < ms(700), "{took:?}");
    let switch = [(State::Recovering, Reason::RecoveryStart), (State::Attached, Reason::TransportSwitchOk)];
    assert_eq!(changes(&sim, id, before), switch);
    assert_eq!((session(&sim), sim.observer.uplink_of(0)), (id, Some(B.uplink)));
    let (_, report) = sim.observer.client(0).recoveries[0];
    assert_eq!((report.cause, report.attempts), (SwitchCause::PathDead, 1));
    flows(&mut sim);
    let status = at_gateway(&sim, id);
    assert_eq!((status.switches, status.epoch), (1, 2));
}

/// R7.1: carrier loss counts at once: one round trip and a half after the host's news.
#[test]
fn link_down() {
    let mut sim = attached();
    let id = session(&sim);
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    let took = recovered(&mut sim, 1, secs(1));
    assert!(took < ms(50), "{took:?}");
    assert_eq!(sim.observer.client(0).recoveries[0].1.cause, SwitchCause::LinkDown);
    sim.strike(Fault::LinkUp(A, 1)).unwrap();
    flows(&mut sim);
    assert_eq!((recoveries(&sim), sim.observer.uplink_of(0)), (1, Some(B.uplink)), "no fail-back by itself");
    sim.strike(Fault::LinkDown(B, ms(1))).unwrap();
    recovered(&mut sim, 2, secs(1));
    assert_eq!((session(&sim), sim.observer.uplink_of(0)), (id, Some(A.uplink)));
    flows(&mut sim);
}

/// R7.1, R1.2: a NAT rebinds; the first frame from the new port brings a hint, the client reattaches over the same
/// uplink: no timeout is involved.
#[test]
fn nat_rebind_hint_reattach() {
    let mut sim = attached();
    let id = session(&sim);
    sim.strike(Fault::Rebind(A)).unwrap();
    let took = recovered(&mut sim, 1, secs(1));
    assert!(took < ms(20 + 65), "next packet, then two round trips of 20 ms and a half: {took:?}");
    let (_, report) = sim.observer.client(0).recoveries[0];
    assert_eq!((report.cause, report.to), (SwitchCause::PathHint, A.uplink));
    assert_eq!((session(&sim), counter(&sim, "path_hint_sent") >= 1), (id, true));
    flows(&mut sim);
}

/// R7.1: an address change of the bound uplink is a switch over the same uplink.
#[test]
fn address_change() {
    let mut sim = attached();
    let id = session(&sim);
    sim.strike(Fault::LinkUp(A, 77)).unwrap();
    recovered(&mut sim, 1, secs(1));
    let (_, report) = sim.observer.client(0).recoveries[0];
    assert_eq!((report.cause, report.to, session(&sim)), (SwitchCause::AddressChange, A.uplink, id));
    flows(&mut sim);
}

/// R7.1: path asymmetry, either way: only one direction dies, both ends end on the path that works both ways.
#[test]
fn one_direction_dies() {
    for heading in [Heading::Up, Heading::Down] {
        let mut sim = attached();
        let id = session(&sim);
        sim.strike(Fault::Cut(A, heading)).unwrap();
        let took = recovered(&mut sim, 1, secs(5));
        assert!(took < ms(2_500), "{heading:?}: {took:?}");
        assert_eq!((session(&sim), sim.observer.uplink_of(0)), (id, Some(B.uplink)), "{heading:?}");
        flows(&mut sim);
    }
}

/// R7.1: with 30 % loss each way on both paths the session lives; whatever switches it makes stay within policy (I7),
/// and when the weather clears traffic flows.
#[test]
fn thirty_percent_loss() {
    for seed in 0..8 {
        let mut sim = attached_as(&Setup { seed, ..Setup::default() });
        let id = session(&sim);
        let bad = Weather { loss_per_mille: 300, reorder_per_mille: 50, ..Weather::default() };
        for path in [A, B] {
            sim.strike(Fault::Weather(path, bad, bad)).unwrap();
        }
        sim.run(secs(20)).unwrap();
        assert!(sim.observer.client(0).echoed.len() > 250, "about half of 1,000 come back while it is bound");
        sim.heal().unwrap();
        let done = |sim: &Simulation| sim.is_settled();
        assert!(sim.run_until(secs(70), done).unwrap().is_some(), "seed {seed}");
        assert_eq!(session(&sim), id, "seed {seed}");
        flows(&mut sim);
    }
}

/// R7.1: a path with reordering, duplication and jitter carries the session without any switch; nothing arrives twice.
#[test]
fn reordering_and_duplication_are_no_reason_to_leave() {
    let mut sim = attached();
    let id = session(&sim);
    let odd =
        Weather { duplicate_per_mille: 300, reorder_per_mille: 300, jitter: ms(10), ..Weather::default() };
    sim.strike(Fault::Weather(A, odd, odd)).unwrap();
    sim.run(secs(20)).unwrap();
    assert_eq!((recoveries(&sim), session(&sim)), (0, id));
    flows(&mut sim);
}

/// R1.7, I7: a path that flaps without end: the budget bounds the switches, the state says so, and the session is there
/// when the flapping ends.
#[test]
fn flapping_is_bounded() {
    let mut sim = attached();
    let id = session(&sim);
    for round in 0..60 {
        let path = if round % 2 == 0 { A } else { B };
        sim.plan(secs(round), Fault::LinkDown(path, ms(1)));
        sim.plan(secs(round) + ms(600), Fault::LinkUp(path, 1));
    }
    sim.run(secs(61)).unwrap();
    let trail = sim.observer.trail.session(id).unwrap();
    assert!(
        trail
            .changes
            .iter()
            .any(|(_, state, why)| (*state, *why) == (State::Degraded, Reason::PolicyFlapLimit))
    );
    assert!(counter(&sim, "reattach_rejected.COOLDOWN") > 0);
    let done = |sim: &Simulation| sim.is_settled();
    assert!(sim.run_until(secs(70), done).unwrap().is_some());
    assert_eq!(session(&sim), id);
    flows(&mut sim);
    sim.run(secs(65)).unwrap();
    assert_eq!(at_gateway(&sim, id).state, "ATTACHED", "the budget is free again");
}

/// R1.8: a worker that does not pass an unbind in time makes the installation fail: the client is told UNAVAILABLE, the
/// session stays unbound until a later request finds the workers awake. No instant with two bindings (I1).
#[test]
fn a_slow_worker_delays_the_switch_and_nothing_else() {
    let mut sim = attached();
    let id = session(&sim);
    sim.strike(Fault::Stall(Actor::Worker(1), ms(400))).unwrap();
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    let took = recovered(&mut sim, 1, secs(3));
    assert!(took > ms(400) && took < ms(1_500), "{took:?}");
    let failed = changes(&sim, id, 0).contains(&(State::Recovering, Reason::InstallFailed));
    assert!(failed && session(&sim) == id);
    flows(&mut sim);
}

/// R7.1, R1.2: a host that slept comes back by itself, whatever NAT forgot about it.
#[test]
fn sleep_and_wake() {
    let mut sim = attached();
    let id = session(&sim);
    sim.strike(Fault::Sleep(0, secs(60))).unwrap();
    sim.plan(secs(30), Fault::Rebind(A));
    sim.run(secs(59)).unwrap();
    assert_eq!(at_gateway(&sim, id).state, "RECOVERING", "the gateway has heard nothing for a minute");
    let took = recovered(&mut sim, 1, secs(5));
    assert!(took < ms(1_100), "{took:?}");
    assert_eq!(session(&sim), id);
    flows(&mut sim);
}

/// I13, R7.1: paths with a round trip of more than a second (a loaded satellite link): a binding has time for its first
/// frame, however long the path; the session comes back over it.
#[test]
fn round_trips_beyond_a_second() {
    for one_way in [300, 450, 550, 700, 1_000, 1_400] {
        let mut sim = attached();
        let id = session(&sim);
        let far = Weather { delay: ms(one_way), ..Weather::default() };
        sim.strike(Fault::Weather(B, far, far)).unwrap();
        sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
        let took = recovered(&mut sim, 1, secs(60));
        assert_eq!(session(&sim), id, "{one_way} ms one way, after {took:?}");
    }
}
