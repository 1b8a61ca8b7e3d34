//! Requests and answers that are lost, repeated, late or answered twice.

use crate::{A, B, attached, bound, changes, counter, flows, ms, recovered, recoveries, secs, session};
use jvpn_abi::Reason;
use jvpn_abi::wire::MsgType;
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::network::{Fate, Heading, Sight, Weather};
use jvpn_session::State;

/// Loses the first `count` datagrams of a type.
fn lose_first(kind: MsgType, count: u32) -> Box<dyn FnMut(&Sight<'_>) -> Fate> {
    let mut left = count;
    Box::new(move |sight| {
        let hit = left > 0 && sight.kind() == Some(kind);
        left -= u32::from(hit);
        if hit { Fate::Lose } else { Fate::Pass }
    })
}

/// I13, R2.2: the answer is lost once; the identical request gets the identical answer, nothing is done twice.
#[test]
fn ack_lost_once() {
    let mut sim = attached();
    let id = session(&sim);
    sim.network.filter = Some(lose_first(MsgType::ReattachAck, 1));
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    let took = recovered(&mut sim, 1, secs(2));
    assert!(took > ms(250) && took < ms(400), "{took:?}");
    assert_eq!((counter(&sim, "reattach_accepted"), counter(&sim, "reattach_answered_again")), (1, 1));
    assert_eq!(session(&sim), id);
    flows(&mut sim);
}

/// I13, demo step 5: over B every answer is lost; a later attempt over A gets in under the generation that both hold,
/// and from then on switches work as before.
#[test]
fn ack_always_lost_on_one_path_then_another_attempt() {
    let mut sim = attached();
    let id = session(&sim);
    sim.strike(Fault::LoseType(B, MsgType::ReattachAck)).unwrap();
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    sim.plan(ms(400), Fault::LinkUp(A, 1));
    recovered(&mut sim, 1, secs(5));
    assert_eq!((session(&sim), sim.observer.uplink_of(0)), (id, Some(A.uplink)));
    assert!(counter(&sim, "reattach_accepted") >= 2);
    assert!(changes(&sim, id, 0).contains(&(State::Recovering, Reason::RecoveryRetry)));
    sim.strike(Fault::Release).unwrap();
    for count in 2..=4 {
        let over = bound(&sim);
        sim.strike(Fault::LinkDown(over, ms(1))).unwrap();
        recovered(&mut sim, count, secs(2));
        sim.strike(Fault::LinkUp(over, 1)).unwrap();
        flows(&mut sim);
    }
    assert_eq!(session(&sim), id);
}

/// I13: the answer arrives, but no frame under the new keys does: BIND_UNCONFIRMED keeps the generation, and the client,
/// which asks under it, gets in over the other path.
#[test]
fn a_binding_that_is_never_confirmed_keeps_its_generation() {
    let mut sim = attached();
    let id = session(&sim);
    sim.strike(Fault::LoseType(B, MsgType::Data)).unwrap();
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    sim.plan(ms(500), Fault::LinkUp(A, 1));
    recovered(&mut sim, 1, secs(5));
    assert!(changes(&sim, id, 0).contains(&(State::Recovering, Reason::BindUnconfirmed)));
    assert_eq!((session(&sim), sim.observer.uplink_of(0)), (id, Some(A.uplink)));
    flows(&mut sim);
}

/// R2.4, I5: requests that arrive twice and in the wrong order are answered from the cache or refused, never done twice.
#[test]
fn requests_duplicated_and_reordered() {
    for seed_ms in [1, 7, 30, 90] {
        let mut sim = attached();
        let id = session(&sim);
        let odd = Weather {
            duplicate_per_mille: 1_000,
            reorder_per_mille: 500,
            delay: ms(10 + seed_ms),
            jitter: ms(5),
            ..Weather::default()
        };
        sim.strike(Fault::Weather(B, odd, odd)).unwrap();
        sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
        recovered(&mut sim, 1, secs(3));
        assert_eq!((session(&sim), recoveries(&sim)), (id, 1));
        assert_eq!(counter(&sim, "reattach_accepted"), 1, "one request, however often it came");
        sim.heal().unwrap();
        flows(&mut sim);
    }
}

/// R3.3, R1.7: a refusal for the switch budget is waited out as the gateway said, over a path that works.
#[test]
fn retry_after_is_kept() {
    let mut sim = attached();
    let id = session(&sim);
    for count in 1..=8 {
        let over = bound(&sim);
        sim.strike(Fault::LinkDown(over, ms(1))).unwrap();
        recovered(&mut sim, count, secs(2));
        sim.strike(Fault::LinkUp(over, 1)).unwrap();
        sim.run(ms(300)).unwrap();
    }
    assert_eq!(sim.client(0).state, "DEGRADED");
    let over = bound(&sim);
    sim.strike(Fault::LinkDown(over, ms(1))).unwrap();
    let asked = counter(&sim, "reattach_received");
    let took = recovered(&mut sim, 9, secs(70));
    assert!(took > secs(50), "the first switch leaves the minute's log: {took:?}");
    assert_eq!(counter(&sim, "reattach_received") - asked, 2, "asked once, told when, asked again");
    assert_eq!(session(&sim), id);
    flows(&mut sim);
}

/// R3.2: an answer to a handshake is lost; each new one replaces the birth before it, and one session is left.
#[test]
fn handshake_answers_lost() {
    use jvpn_bench::simulation::{Setup, Simulation};
    let mut sim = Simulation::new(&Setup::default()).unwrap();
    sim.network.filter = Some(lose_first(MsgType::HandshakeResponse, 3));
    let took = sim.run_until(secs(10), Simulation::is_settled).unwrap().unwrap();
    assert!(took > ms(500), "{took:?}");
    sim.run(secs(6)).unwrap();
    let status = sim.gateway().unwrap();
    assert_eq!((status.live_sessions, counter(&sim, "sessions_born")), (1, 4));
    assert_eq!(sim.observer.client(0).sessions.len(), 1);
    flows(&mut sim);
}

/// R1.1, I1: genuine DATA of the old binding is held back on its way and comes after the switch: none of it reaches the
/// server (demo step 7).
#[test]
fn held_back_data_is_not_forwarded_after_the_switch() {
    let mut sim = attached();
    let id = session(&sim);
    sim.network.filter = Some(Box::new(|sight| {
        let held = sight.path == A && sight.heading == Heading::Up && sight.kind() == Some(MsgType::Data);
        if held { Fate::Hold } else { Fate::Pass }
    }));
    recovered(&mut sim, 1, secs(3));
    let held = sim.network.held.len();
    assert!(held > 3, "{held}");
    sim.network.filter = None;
    // The observer fails the run if a worker accepts a frame of the slot that was left.
    let seen: usize = sim.observer.client(0).at_server.len();
    sim.set_traffic(0, None);
    sim.run(secs(1)).unwrap();
    let at_server = sim.observer.client(0).at_server.len();
    sim.release();
    sim.run(secs(1)).unwrap();
    assert_eq!(sim.observer.client(0).at_server.len(), at_server, "{held} released, {seen} seen before");
    assert!(counter(&sim, "sample_received") >= held as u64);
    assert_eq!((session(&sim), recoveries(&sim), sim.is_settled()), (id, 1, true));
}
