//! From a handshake to ATTACHED, and everything that keeps a session from being born.

use crate::client::Client;
use crate::rig::{Answers, GATEWAY, PATH_A, PATH_B, Rig};
use jvpn_abi::wire::Suite;
use jvpn_abi::wire::handshake::INIT_MAC_AT;
use jvpn_abi::{PROTOCOL_VERSION, Reason};
use jvpn_controlplane::engine::{AdminCommand, AdminError, Counter, TableEvent};
use jvpn_session::Policy;
use jvpn_session::messages::{ControlMessage, HandshakeOffer};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// R1.5, R2.1, R5.1: install, bind, answer, first frame, ATTACHED, routes: in this order.
#[test]
fn r1_5_a_session_is_born() {
    let mut rig = Rig::new(Policy::default());
    rig.events();
    let mut client = Client::new(0, rig.gateway);
    client.handshake(&mut rig, PATH_A());
    assert_eq!(rig.state(&client), ("BIRTH", Reason::HandshakeStart));
    assert_eq!(rig.events(), ["SESSION_CREATED", "STATE_CHANGE"]);
    let kinds: Vec<_> = rig.tables.log.iter().map(|line| line.split('(').next().unwrap()).collect();
    assert_eq!(kinds, ["Journal", "Install", "Journal", "Bind"], "no routes before the first frame");
    rig.frame(client.slot(), PATH_A());
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::HandshakeOk));
    assert_eq!(rig.events(), ["STATE_CHANGE"]);
    assert_eq!(rig.tables.routes.len(), 2);
    let told = rig.sent.pop_back().unwrap();
    assert_eq!((told.remote, told.local), (PATH_A(), GATEWAY));
    let message = client.open(client.newest(), &told.payload).unwrap();
    assert_eq!(message, ControlMessage::State { version: 1, state: 1, reason: Reason::HandshakeOk });
    let grant = client.grant.as_ref().unwrap();
    assert_eq!((grant.mtu, grant.routes.len(), grant.addresses.len()), (1_280, 1, 1));
    assert_eq!(grant.suite, Suite::Aes256Gcm, "the server's preference, not the client's");
}

/// R1.8: the answer leaves only when every worker has the keys and the slot is bound.
#[test]
fn r1_8_no_answer_before_the_binding() {
    let mut rig = Rig::new(Policy::default());
    rig.tables.install = Answers::Held;
    let mut client = Client::new(0, rig.gateway);
    let (init, initiation) = client.init(&mut rig);
    rig.ask_in_vain(PATH_A(), &init);
    assert!(rig.bound_slots().is_empty());
    rig.let_go();
    let response = rig.sent.pop_front().unwrap().payload;
    client.read_response(initiation, &response).unwrap();
    assert_eq!(rig.bound_slots(), [client.slot().index()]);
}

/// R1.5, R1.6: a birth without a first frame, or without an installation, ends with its reason.
#[test]
fn r1_6_a_birth_that_does_not_complete_ends() {
    let mut rig = Rig::new(Policy::default());
    let mut client = Client::new(0, rig.gateway);
    client.handshake(&mut rig, PATH_A());
    rig.wait(Duration::from_millis(4_999));
    assert_eq!(rig.state(&client).0, "BIRTH", "an unconfirmed binding is not removed before BirthTimeout");
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::HandshakeFail));
    assert!(rig.bound_slots().is_empty());
    assert_eq!(rig.engine.live_sessions(), 0);

    for answers in [Answers::Refused, Answers::Never] {
        rig.tables.install = answers;
        let (init, _) = client.init(&mut rig);
        rig.ask_in_vain(PATH_A(), &init);
        rig.wait(Duration::from_secs(2));
        assert_eq!(rig.engine.live_sessions(), 0, "{answers:?}");
    }
    rig.check_audit();
}

/// A report that got lost is made up for: CONTEXT says confirmed when the timer fires.
#[test]
fn i13_a_lost_report_of_the_first_frame_is_found_at_the_deadline() {
    let mut rig = Rig::new(Policy::default());
    let mut client = Client::new(0, rig.gateway);
    client.handshake(&mut rig, PATH_A());
    let index = client.slot().index();
    let (word, ..) = rig.tables.bound[&index];
    rig.tables.contexts.0.get_mut(&index).unwrap().confirmed = Some(word);
    rig.wait(Duration::from_secs(5));
    assert_eq!(rig.state(&client), ("ATTACHED", Reason::HandshakeOk));
}

/// R2.4: silence for everything that does not prove a known key or is not fresh; counted by reason.
#[test]
fn r2_4_what_proves_nothing_meets_silence() {
    let mut rig = Rig::new(Policy::default());
    let mut client = Client::new(0, rig.gateway);
    let (init, _) = client.init(&mut rig);
    for at in [0, 1, INIT_MAC_AT, 100, 1_199] {
        let mut forged = init.clone();
        forged[at] ^= 1;
        rig.ask_in_vain(PATH_A(), &forged);
    }
    rig.ask_in_vain(PATH_A(), &init[..1_199]);
    let mut stranger = Client::new(200, rig.gateway);
    let (unknown, _) = stranger.init(&mut rig);
    rig.ask_in_vain(PATH_A(), &unknown);
    let refusals = |rig: &Rig, reason| rig.engine.counters().handshake_refusals(reason);
    assert_eq!(refusals(&rig, Reason::PolicyDeny), 1);
    rig.ask(PATH_A(), &init);
    // The same handshake again, and an older one: replays.
    rig.ask_in_vain(PATH_B(), &init);
    client.timestamp_ns = 5;
    let (older, _) = client.init(&mut rig);
    rig.ask_in_vain(PATH_B(), &older);
    assert_eq!(refusals(&rig, Reason::ReplayDetected), 2);
    assert_eq!(rig.engine.live_sessions(), 1);
    rig.check_audit();
}

/// R3.2: replays of a captured handshake do not use up the limit of the peer who made it: he gets back in at once.
#[test]
fn r3_2_replayed_handshakes_leave_a_peers_limit_alone() {
    let mut rig = Rig::new(Policy::default());
    let mut client = Client::new(0, rig.gateway);
    let (init, initiation) = client.init(&mut rig);
    let response = rig.ask(PATH_A(), &init);
    client.read_response(initiation, &response).unwrap();
    for _ in 0..200 {
        rig.ask_in_vain(PATH_B(), &init);
    }
    assert_eq!(rig.engine.counters().handshake_refusals(Reason::ReplayDetected), 200);
    client.handshake(&mut rig, PATH_A());
}

/// R5.1: no common version or suite is an authenticated refusal; order does not matter, stripping breaks the
/// transcript.
#[test]
fn r5_1_versions_and_suites_are_negotiated() {
    let mut rig = Rig::with_suites(Policy::default(), vec![Suite::ChaCha20Poly1305]);
    let mut client = Client::new(0, rig.gateway);
    for (versions, suites) in [(vec![9], vec![1, 2]), (vec![PROTOCOL_VERSION], vec![1]), (vec![], vec![])] {
        client.timestamp_ns += 1;
        let offer = HandshakeOffer { versions, suites, timestamp_ns: client.timestamp_ns };
        let (init, initiation) = client.init_with(&mut rig, &offer);
        let response = rig.ask(PATH_A(), &init);
        assert_eq!(client.read_response(initiation, &response), Err((Reason::VersionUnsupported, 0)));
    }
    client.handshake(&mut rig, PATH_A());
    assert_eq!(client.suite, Suite::ChaCha20Poly1305);
}

/// R8.2: max_sessions refuses with a time to come back; a peer that is here can always replace itself.
#[test]
fn r8_2_the_number_of_sessions_is_bounded() {
    let mut rig = Rig::new(Policy { max_sessions: 1, ..Policy::default() });
    let _first = rig.attached(0);
    let mut second = Client::new(1, rig.gateway);
    let (init, initiation) = second.init(&mut rig);
    let response = rig.ask(PATH_B(), &init);
    let refused = second.read_response(initiation, &response).unwrap_err();
    assert_eq!(refused, (Reason::PolicyDeny, 30_000));
    assert!(rig.events().contains(&"POLICY_EVENT"));
    let mut again = Client::new(0, rig.gateway);
    again.timestamp_ns = 9_000;
    again.handshake(&mut rig, PATH_B());
}

/// R1.8: what cannot be made durable is not answered; without slots there is a time to come back.
#[test]
fn r1_8_what_is_not_durable_is_not_answered() {
    let mut rig = Rig::new(Policy::default());
    rig.state_broken.store(true, Ordering::Relaxed);
    let mut client = Client::new(0, rig.gateway);
    let (init, _) = client.init(&mut rig);
    rig.ask_in_vain(PATH_A(), &init);
    assert_eq!(rig.counter(Counter::StateWriteFailed), 1);
    rig.state_broken.store(false, Ordering::Relaxed);
    client.handshake(&mut rig, PATH_A());
}

/// Before a data plane is there, handshakes are refused with UNAVAILABLE and a time.
#[test]
fn r7_3_without_a_data_plane_the_answer_is_unavailable() {
    let mut rig = Rig::asleep(Policy::default(), vec![Suite::Aes256Gcm]);
    let mut client = Client::new(0, rig.gateway);
    let (init, initiation) = client.init(&mut rig);
    let response = rig.ask(PATH_A(), &init);
    assert_eq!(client.read_response(initiation, &response), Err((Reason::Unavailable, 500)));
    rig.event(TableEvent::DataPlaneUp { slots: 4, context_kept: false });
    client.handshake(&mut rig, PATH_A());
}

/// R1.2: a captured or undelivered handshake kills nothing; a delivered one takes over with its first frame.
#[test]
fn r1_2_a_newer_session_supersedes_with_its_first_frame_only() {
    let mut rig = Rig::new(Policy::default());
    let old = rig.attached(0);
    let mut new = Client::new(0, rig.gateway);
    new.timestamp_ns = 9_000;
    new.handshake(&mut rig, PATH_B());
    assert_eq!(rig.state(&old).0, "ATTACHED");
    assert_eq!(rig.state(&new).0, "BIRTH");
    assert_eq!(rig.tables.routes["10.77.0.2/32"], old.slot());
    // Undelivered: it ends by itself and the old one lives on.
    rig.tables.contexts.0.get_mut(&old.slot().index()).unwrap().heard =
        Some(rig.now.after(Duration::from_secs(5)));
    rig.wait(Duration::from_secs(5));
    assert_eq!(rig.state(&new), ("TERMINATED", Reason::HandshakeFail));
    assert_eq!(rig.state(&old).0, "ATTACHED");

    new.handshake(&mut rig, PATH_B());
    rig.sent.clear();
    rig.events();
    rig.frame(new.slot(), PATH_B());
    assert_eq!(rig.state(&old), ("TERMINATED", Reason::Superseded));
    assert_eq!(rig.state(&new), ("ATTACHED", Reason::HandshakeOk));
    assert_eq!(rig.events(), ["STATE_CHANGE", "TERMINATION_EVENT", "STATE_CHANGE"]);
    assert_eq!(rig.tables.routes["10.77.0.2/32"], new.slot(), "the routes moved");
    assert_eq!(rig.bound_slots(), [new.slot().index()]);
    let told = rig.sent.pop_front().unwrap();
    assert_eq!(told.remote, PATH_A());
    let message = old.open(old.newest(), &told.payload);
    assert_eq!(message, Some(ControlMessage::Terminate { reason: Reason::Superseded }));
    rig.check_audit();
}

/// A newer handshake replaces an older BIRTH of its peer at once.
#[test]
fn r4_1_a_peer_has_one_birth_at_most() {
    let mut rig = Rig::new(Policy::default());
    let mut client = Client::new(0, rig.gateway);
    client.handshake(&mut rig, PATH_A());
    let mut again = Client::new(0, rig.gateway);
    again.timestamp_ns = 9_000;
    again.handshake(&mut rig, PATH_B());
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::Superseded));
    assert_eq!(rig.engine.live_sessions(), 1);
    assert_eq!(rig.bound_slots(), [again.slot().index()]);
}

/// R1.5: ends by the peer, by an operator and by revocation, each with its reason; TERMINATED stays.
#[test]
fn r1_5_ends_have_their_reasons_and_are_final() {
    let mut rig = Rig::new(Policy::default());
    let by_peer = rig.attached(0);
    let control = by_peer.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
    rig.datagram(PATH_A(), &control);
    assert_eq!(rig.state(&by_peer), ("TERMINATED", Reason::PeerTerminate));
    assert!(rig.tables.routes.is_empty() && rig.bound_slots().is_empty());
    rig.datagram(PATH_A(), &control);
    assert_eq!(rig.counter(Counter::ControlUnknownSlot), 1);

    let admin = |rig: &mut Rig, command| rig.engine.handle_admin(rig.now, &command, &rig.tables.contexts);
    let by_admin = rig.attached(1);
    admin(&mut rig, AdminCommand::TerminateSession(by_admin.session())).unwrap();
    rig.pump();
    assert_eq!(rig.state(&by_admin), ("TERMINATED", Reason::AdminTerminate));
    let again = admin(&mut rig, AdminCommand::TerminateSession(by_admin.session()));
    assert_eq!(again, Err(AdminError::NoSession(by_admin.session())));

    let mut revoked = rig.attached(2);
    admin(&mut rig, AdminCommand::RevokePeer("peer2".into())).unwrap();
    rig.pump();
    assert_eq!(rig.state(&revoked), ("TERMINATED", Reason::KeyRevoked));
    let (init, _) = revoked.init(&mut rig);
    rig.ask_in_vain(PATH_A(), &init);
    let nobody = admin(&mut rig, AdminCommand::TerminatePeer("nobody".into()));
    assert_eq!(nobody, Err(AdminError::NoPeer("nobody".into())));
    rig.check_audit();
}

/// Terminated sessions are forgotten after a while; timers do not pile up.
#[test]
fn i10_terminated_sessions_are_forgotten() {
    let mut rig = Rig::new(Policy::default());
    let client = rig.attached(0);
    rig.datagram(PATH_A(), &client.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate }));
    rig.wait(Policy::default().transport_loss_ttl + Duration::from_secs(1));
    assert!(rig.find(&client).is_none());
    assert_eq!(rig.engine.poll_timeout(), None);
}
