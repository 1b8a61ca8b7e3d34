//! An attacker who records everything and sends it again, from his own address or from somebody else's.

use crate::{
    A, B, at_gateway, attached, counter, flows, ms, recovered, recoveries, secs, session, transitions,
};
use jvpn_abi::Endpoint;
use jvpn_abi::wire::MsgType;
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::network::{Fate, Heading, Recorded};
use jvpn_bench::simulation::{ATTACKER, Simulation, path};

/// Everything of a type that went up.
fn recorded(sim: &Simulation, kind: MsgType) -> Vec<Recorded> {
    let of = |r: &&Recorded| {
        r.heading == Heading::Up && r.datagram.first().copied().and_then(MsgType::from_octet) == Some(kind)
    };
    sim.network.tape.iter().flatten().filter(of).cloned().collect()
}

fn recording() -> Simulation {
    let mut sim = attached();
    sim.network.tape = Some(Default::default());
    sim.run(ms(500)).unwrap();
    sim
}

/// R2.4, R2.2, R2.3: a recorded request comes from another address, from the address of the other path, and from its
/// own: no transition, no second binding, every one counted, and the owner of the session notices nothing.
#[test]
fn request_replayed() {
    let mut sim = recording();
    let id = session(&sim);
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    recovered(&mut sim, 1, secs(1));
    sim.strike(Fault::LinkUp(A, 1)).unwrap();
    flows(&mut sim);
    let before = transitions(&sim, id);
    let rejected = counter(&sim, "reattach_rejected.REPLAY_DETECTED");
    let requests = recorded(&sim, MsgType::ReattachRequest);
    assert_eq!(requests.len(), 1);
    let other = sim.network.path(A).external;
    for from in [ATTACKER, other, requests[0].external] {
        sim.inject(from, requests[0].datagram.clone());
        sim.run(ms(300)).unwrap();
    }
    assert_eq!((transitions(&sim, id), recoveries(&sim), session(&sim)), (before, 1, id));
    let repeated = counter(&sim, "reattach_answered_again");
    let refused = counter(&sim, "reattach_rejected.REPLAY_DETECTED") - rejected;
    assert_eq!(refused + repeated, 3, "refused, or the cached answer to the same endpoint");
    assert!(refused >= 2);
    assert!(sim.network.strays.is_empty(), "the attacker got {:?}", sim.network.strays.len());
    flows(&mut sim);
}

/// R2.4: recorded DATA is sent again before the switch, from its own address and from another: the window refuses the
/// one, the endpoint the other; the server sees none of it twice and the client gets no hint for it.
#[test]
fn data_replayed_before_the_switch() {
    let mut sim = recording();
    let id = session(&sim);
    let data = recorded(&sim, MsgType::Data);
    let before = transitions(&sim, id);
    for (index, frame) in data.iter().enumerate() {
        let from = if index % 2 == 0 { frame.external } else { ATTACKER };
        sim.inject(from, frame.datagram.clone());
    }
    sim.run(secs(1)).unwrap();
    assert!(
        counter(&sim, "sample_replayed") > 0,
        "those from elsewhere reach the engine and are known there"
    );
    assert_eq!((counter(&sim, "path_hint_sent"), transitions(&sim, id), recoveries(&sim)), (0, before, 0));
    assert!(sim.network.strays.is_empty());
    flows(&mut sim);
}

/// R2.4, R1.1: the same after the switch: DATA of the slot that was left is refused, whoever sends it.
#[test]
fn data_replayed_after_the_switch() {
    let mut sim = recording();
    let id = session(&sim);
    let data = recorded(&sim, MsgType::Data);
    sim.strike(Fault::CutBoth(A)).unwrap();
    recovered(&mut sim, 1, secs(2));
    let bound = sim.network.path(B).external;
    for (index, frame) in data.iter().enumerate() {
        let from = [frame.external, ATTACKER, bound][index % 3];
        sim.inject(from, frame.datagram.clone());
    }
    sim.run(secs(1)).unwrap();
    assert_eq!((recoveries(&sim), session(&sim), counter(&sim, "path_hint_sent")), (1, id, 0));
    assert!(counter(&sim, "sample_replayed") > 0);
    assert!(sim.network.strays.is_empty());
    flows(&mut sim);
}

/// I13, R3.2: a request is caught on its way and sent on from the attacker's address. It is genuine, so it is answered
/// there, but nothing can be done with it: the binding is never confirmed, the attacker gets no more octets than he
/// sent, and the client gets in with its next request.
#[test]
fn request_caught_and_sent_from_elsewhere() {
    let mut sim = recording();
    let id = session(&sim);
    let mut caught = false;
    sim.network.filter = Some(Box::new(move |sight| {
        let hit = !caught && sight.kind() == Some(MsgType::ReattachRequest);
        caught |= hit;
        if hit { Fate::Hold } else { Fate::Pass }
    }));
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    sim.run(ms(30)).unwrap();
    let request = sim.network.held.pop().unwrap();
    sim.inject(ATTACKER, request.datagram);
    recovered(&mut sim, 1, secs(4));
    assert_eq!(sim.network.strays.len(), 1, "one answer, which the attacker cannot read");
    assert_eq!((session(&sim), at_gateway(&sim, id).state), (id, "ATTACHED"));
    flows(&mut sim);
}

/// R2.4: a recorded handshake begins nothing: its timestamp does not rise. Nor does one that never arrived before, once a
/// later one did.
#[test]
fn handshake_replayed() {
    let mut sim = Simulation::new(&Default::default()).unwrap();
    sim.network.tape = Some(Default::default());
    sim.run(secs(2)).unwrap();
    let id = session(&sim);
    let inits = recorded(&sim, MsgType::HandshakeInit);
    for from in [ATTACKER, sim.network.path(A).external, Endpoint::v4([192, 0, 2, 67], 9)] {
        for init in &inits {
            sim.inject(from, init.datagram.clone());
        }
    }
    sim.run(secs(7)).unwrap();
    assert_eq!(counter(&sim, "handshake_refused.REPLAY_DETECTED"), 3 * inits.len() as u64);
    assert_eq!((counter(&sim, "sessions_born"), session(&sim)), (1, id));
    assert!(sim.network.strays.is_empty(), "no answer to a replay");
    flows(&mut sim);
}

/// R2.4, R1.2: everything that the gateway ever sent is sent to the client again, in order, over both paths.
#[test]
fn answers_replayed_to_the_client() {
    let mut sim = recording();
    let id = session(&sim);
    sim.strike(Fault::CutBoth(A)).unwrap();
    recovered(&mut sim, 1, secs(2));
    sim.strike(Fault::Heal(A)).unwrap();
    let down: Vec<_> =
        sim.network.tape.iter().flatten().filter(|r| r.heading == Heading::Down).cloned().collect();
    for recorded in down {
        sim.inject_down(path(0, 0), recorded.datagram.clone());
        sim.inject_down(path(0, 1), recorded.datagram);
    }
    sim.run(secs(2)).unwrap();
    assert_eq!((recoveries(&sim), session(&sim), sim.is_settled()), (1, id, true));
    flows(&mut sim);
}
