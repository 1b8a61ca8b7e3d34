//! Floods from addresses that are made up, while honest clients move and come back. The observer holds every step to
//! "no more octets to an unproven address than came from it".

use crate::{A, at_gateway, attached_as, counter, flows, ms, recoveries, secs, session};
use jvpn_abi::Endpoint;
use jvpn_abi::wire::MsgType;
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::network::Heading;
use jvpn_bench::simulation::{Setup, Simulation, path};
use jvpn_controlplane::engine::AdminCommand;
use jvpn_session::Policy;

/// The first datagram of a type that went up.
fn recorded(sim: &Simulation, kind: MsgType) -> Vec<u8> {
    let mut up = sim.network.tape.iter().flatten().filter(|r| r.heading == Heading::Up);
    up.find(|r| r.datagram[0] == kind.octet()).unwrap().datagram.clone()
}

/// Two clients, ATTACHED; and what a witness has recorded: a handshake of theirs, and a request of client 1.
fn witnessed() -> (Simulation, [Vec<u8>; 2]) {
    let policy = Policy { reattach_global_per_second: 200, ..Policy::default() };
    let mut sim = Simulation::new(&Setup { clients: 2, policy, ..Setup::default() }).unwrap();
    sim.network.tape = Some(Default::default());
    sim.run(secs(2)).unwrap();
    sim.strike(Fault::LinkDown(path(1, 0), ms(1))).unwrap();
    sim.run(secs(2)).unwrap();
    sim.strike(Fault::LinkUp(path(1, 0), 1)).unwrap();
    let seen = [MsgType::HandshakeInit, MsgType::ReattachRequest].map(|kind| recorded(&sim, kind));
    sim.network.tape = None;
    assert!(sim.is_settled());
    (sim, seen)
}

/// One ms of the flood: a datagram of each kind from addresses that are not seen again. Gives their octets.
fn flood_ms(sim: &mut Simulation, seen: &[Vec<u8>; 2], n: &mut u32) -> u64 {
    let mut octets = 0;
    for datagram in seen {
        *n += 1;
        let [a, b, c, d] = n.to_be_bytes();
        sim.inject(Endpoint::v4([45 + a, b, c, d], 7_000), datagram.clone());
        octets += datagram.len() as u64;
    }
    sim.run(ms(1)).unwrap();
    octets
}

/// R3.2, R3.1, I13: under a flood of handshakes and requests a client whose path dies reattaches, and one whose session was
/// ended gets a new one, both within the time that a round trip more takes; what the flood gets is less than it sends;
/// when it is over, cookies are no longer asked for.
#[test]
fn r3_2_a_flood_keeps_nobody_out() {
    let (mut sim, seen) = witnessed();
    let (moving, ended) = (session(&sim), sim.observer.client(1).session.unwrap());
    let (mut n, mut octets) = (0, 0);
    for _ in 0..2_000 {
        octets += flood_ms(&mut sim, &seen, &mut n);
    }
    let load = sim.gateway().unwrap().under_load;
    assert!(load.handshakes && load.reattaches);
    let before = recoveries(&sim);
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    let mut took = 0;
    while !(recoveries(&sim) > before && sim.is_settled()) {
        octets += flood_ms(&mut sim, &seen, &mut n);
        took += 1;
        assert!(took < 500, "no recovery");
    }
    assert_eq!((session(&sim), at_gateway(&sim, moving).state), (moving, "ATTACHED"));
    sim.admin(AdminCommand::TerminateSession(ended));
    let mut took = 0;
    while sim.observer.client(1).session == Some(ended) || !sim.is_settled() {
        octets += flood_ms(&mut sim, &seen, &mut n);
        took += 1;
        assert!(took < 3_000, "no new session");
    }
    assert!(counter(&sim, "cookie_accepted") >= 2);
    // A RETRY brought the cookie, or a path echo had, before anybody asked.
    let shown = |counters: jvpn_client::agent::Counters| counters.retries_followed + counters.cookies_shown;
    assert!((0..2).all(|client| shown(sim.client(client).counters) >= 1));
    let answered: u64 = sim.network.strays.iter().map(|(_, datagram)| datagram.len() as u64).sum();
    assert!(answered > 0 && answered * 8 < octets, "{answered} octets for {octets}");
    assert!(counter(&sim, "handshake_received") > 2_000);
    let read = ["REPLAY_DETECTED", "RATE_LIMITED"].map(|r| counter(&sim, &format!("handshake_refused.{r}")));
    assert!(read.iter().sum::<u64>() <= 260, "{read:?} handshakes of the flood cost a Diffie-Hellman");
    flows(&mut sim);
    sim.run(secs(10)).unwrap();
    let load = sim.gateway().unwrap().under_load;
    assert!(!load.handshakes && !load.reattaches);
    assert_eq!(sim.gateway().unwrap().live_sessions, 2);
}

/// R3.3, I9: a flood is part of the seed's history: the same one gives the same datagrams and the same audit log.
#[test]
fn r3_3_a_flood_is_deterministic() {
    let run = || {
        let (mut sim, seen) = witnessed();
        let mut n = 0;
        for step in 0..800 {
            flood_ms(&mut sim, &seen, &mut n);
            if step == 600 {
                sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
            }
        }
        (sim.digests(), counter(&sim, "retry_sent"))
    };
    let (first, second) = (run(), run());
    assert!(first.1 > 100);
    assert_eq!(first, second);
}

/// R3.1: without a flood no client ever meets a RETRY.
#[test]
fn r3_1_calm_clients_meet_no_retry() {
    let mut sim = attached_as(&Setup { clients: 3, ..Setup::default() });
    sim.strike(Fault::LinkDown(A, ms(1))).unwrap();
    sim.run(secs(3)).unwrap();
    assert_eq!(recoveries(&sim), 1);
    assert_eq!((counter(&sim, "retry_sent"), counter(&sim, "reattach_load")), (0, 0));
}
