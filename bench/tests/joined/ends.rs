//! Sessions that end, always with a reason, and what comes after.

use crate::{A, B, at_gateway, attached, attached_as, changes, flows, ms, recovered, secs, session};
use jvpn_abi::Reason;
use jvpn_abi::wire::MsgType;
use jvpn_bench::simulation::faults::Fault;
use jvpn_bench::simulation::network::Fate;
use jvpn_bench::simulation::{Setup, Simulation};
use jvpn_controlplane::engine::AdminCommand;
use jvpn_session::{Policy, State};

fn impatient() -> Setup {
    let policy = Policy { transport_loss_ttl: secs(40), recovery_window: secs(10), ..Policy::default() };
    Setup { policy, ..Setup::default() }
}

/// R1.6, R7.2: both paths dead for longer than the recovery window: silence is not punished, the same session comes back.
#[test]
fn silence_beyond_the_recovery_window_is_survived() {
    let mut sim = attached_as(&impatient());
    let id = session(&sim);
    for path in [A, B] {
        sim.strike(Fault::CutBoth(path)).unwrap();
    }
    sim.run(secs(25)).unwrap();
    assert_eq!(at_gateway(&sim, id).state, "RECOVERING");
    sim.heal().unwrap();
    let took = recovered(&mut sim, 1, secs(15));
    assert!(took < secs(11), "{took:?}");
    assert_eq!(session(&sim), id);
    flows(&mut sim);
}

/// R1.6, R7.2, R1.2: both paths dead for longer than the transport-loss TTL: both ends terminate with that reason, and a
/// new session is reported as a new one.
#[test]
fn silence_beyond_the_transport_loss_ttl_ends_the_session() {
    let mut sim = attached_as(&impatient());
    let id = session(&sim);
    for path in [A, B] {
        sim.strike(Fault::CutBoth(path)).unwrap();
    }
    sim.run(secs(60)).unwrap();
    let end = (State::Terminated, Reason::TtlTransportLossExpired);
    assert_eq!(changes(&sim, id, 0).pop(), Some(end));
    assert_eq!(sim.observer.client(0).ends, [(id, Reason::TtlTransportLossExpired)]);
    sim.heal().unwrap();
    let took = sim.run_until(secs(15), Simulation::is_settled).unwrap().expect("a new session");
    assert!(took < secs(11), "{took:?}");
    assert_ne!(session(&sim), id);
    flows(&mut sim);
}

/// R1.6, I6: attempts are proven again and again but no binding is ever confirmed: the recovery window ends the session,
/// the client is told so, and a new session follows.
#[test]
fn a_burst_without_a_binding_ends_with_the_recovery_window() {
    let mut sim = attached_as(&impatient());
    let id = session(&sim);
    sim.network.filter = Some(Box::new(|sight| {
        let lost = matches!(sight.kind(), Some(MsgType::ReattachAck | MsgType::Data));
        if lost { Fate::Lose } else { Fate::Pass }
    }));
    let ended = |sim: &Simulation| sim.observer.client(0).session != Some(id);
    let took = sim.run_until(secs(40), ended).unwrap().expect("an explicit end");
    assert!(took > secs(10) && took < secs(20), "{took:?}");
    let end = (State::Terminated, Reason::RecoveryBoundsExceeded);
    assert_eq!(changes(&sim, id, 0).pop(), Some(end));
    assert_eq!(sim.observer.client(0).ends, [(id, Reason::SessionExpired)]);
    sim.network.filter = None;
    assert!(sim.run_until(secs(15), Simulation::is_settled).unwrap().is_some());
    flows(&mut sim);
}

/// R7.2: the session TTL ends a session in the middle of its life; a new one follows at once.
#[test]
fn session_ttl() {
    let policy = Policy { session_ttl: secs(60), ..Policy::default() };
    let mut sim = attached_as(&Setup { policy, ..Setup::default() });
    let id = session(&sim);
    let ended = |sim: &Simulation| sim.observer.client(0).session.is_some_and(|session| session != id);
    sim.run_until(secs(70), ended).unwrap().unwrap();
    assert_eq!(changes(&sim, id, 0).pop(), Some((State::Terminated, Reason::TtlSessionExpired)));
    assert_eq!(sim.observer.client(0).ends, [(id, Reason::TtlSessionExpired)]);
    sim.run(secs(1)).unwrap();
    flows(&mut sim);
}

/// R1.2, R1.5: the user ends the session: the gateway is told, and nobody tries anything any more.
#[test]
fn client_terminates() {
    let mut sim = attached();
    let id = session(&sim);
    sim.terminate(0).unwrap();
    sim.run(ms(100)).unwrap();
    assert_eq!(changes(&sim, id, 0).pop(), Some((State::Terminated, Reason::PeerTerminate)));
    assert_eq!(sim.observer.client(0).ends, [(id, Reason::PeerTerminate)]);
    let digest = sim.network.digest();
    sim.run(secs(100)).unwrap();
    assert_eq!(sim.network.digest(), digest, "silence");
    assert_eq!(sim.gateway().unwrap().live_sessions, 0);
}

/// R1.5: an operator ends a session: the client is told and comes back as a new one; a revoked peer does not come back.
#[test]
fn operator_terminates_and_revokes() {
    let mut sim = attached();
    let id = session(&sim);
    sim.admin(AdminCommand::TerminateSession(id));
    let again = |sim: &Simulation| sim.is_settled() && sim.observer.client(0).session != Some(id);
    sim.run_until(secs(5), again).unwrap().unwrap();
    assert_eq!(sim.observer.client(0).ends, [(id, Reason::AdminTerminate)]);
    flows(&mut sim);
    let next = session(&sim);
    sim.admin(AdminCommand::RevokePeer("client0".to_owned()));
    sim.run(secs(30)).unwrap();
    assert_eq!(sim.observer.client(0).ends.last(), Some(&(next, Reason::KeyRevoked)));
    assert_eq!((sim.gateway().unwrap().live_sessions, sim.client(0).state), (0, "SEARCHING"));
}

/// R4.6: what happens to one session leaves the others alone.
#[test]
fn other_sessions_notice_nothing() {
    let mut sim = attached_as(&Setup { clients: 3, ..Setup::default() });
    let others: Vec<_> = [1, 2].map(|client| sim.observer.client(client).session).to_vec();
    for path in [A, B] {
        sim.strike(Fault::CutBoth(path)).unwrap();
    }
    sim.run(secs(10)).unwrap();
    sim.strike(Fault::Terminate(0)).unwrap();
    sim.run(secs(2)).unwrap();
    for client in [1, 2] {
        let watch = sim.observer.client(client);
        assert_eq!((watch.session, watch.recoveries.len()), (others[client - 1], 0));
        assert!(watch.echoed.len() as u64 + 5 >= sim.sent(client));
    }
}
