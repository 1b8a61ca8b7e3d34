//! Births wait for the store, ends leave it, and a store that fails stops births and nothing else.

use crate::client::Client;
use crate::rig::{PATH_A, PATH_B, Rig, UNIX_OFFSET_MS};
use jvpn_abi::Reason;
use jvpn_controlplane::engine::{AdminCommand, Counter};
use jvpn_controlplane::store::writer::{Outcome, Request};
use jvpn_controlplane::store::{Change, Expected, StoreError, Version};
use jvpn_session::Policy;
use jvpn_session::messages::{ControlMessage, SessionId};
use std::time::Duration;

fn rig() -> Rig {
    let mut rig = Rig::new(Policy::default());
    rig.engine.keep_store(UNIX_OFFSET_MS);
    rig
}

fn broken() -> StoreError {
    StoreError::Unavailable { place: "here".into(), problem: "no room".into() }
}

fn asked(rig: &mut Rig) -> Option<Request> {
    rig.engine.poll_store()
}

fn answer(rig: &mut Rig, request: &Request, result: Result<Version, StoreError>) {
    let (Change::Put { id, .. } | Change::Delete { id, .. }) = request.change;
    let outcome = Outcome { ticket: request.ticket, id, result };
    rig.engine.handle_store_outcome(rig.now, outcome, &rig.tables.contexts);
    rig.pump();
}

/// R7.3: neither tables nor client hear of a session before it is stored; what is stored is what a takeover needs.
#[test]
fn r7_3_a_birth_waits_until_it_is_stored() {
    let mut rig = rig();
    let mut client = Client::new(0, rig.gateway);
    let (init, initiation) = client.init(&mut rig);
    rig.ask_in_vain(PATH_A(), &init);
    assert!(rig.tables.entries.is_empty() && rig.tables.bound.is_empty());
    let request = asked(&mut rig).unwrap();
    let Change::Put { id, expected, session } = &request.change else { panic!("{request:?}") };
    assert_eq!((*expected, session.term, session.peer), (Expected::Absent, 0, client.secret.public()));
    assert_eq!(session.handshake_timestamp_ns, client.timestamp_ns);
    assert_eq!(session.born_unix_ms, rig.now.as_millis() + UNIX_OFFSET_MS.unsigned_abs());
    let (id, root) = (*id, session.root.clone());
    answer(&mut rig, &request, Ok(Version(1)));
    let response = rig.sent.pop_front().unwrap();
    client.read_response(initiation, &response.payload).unwrap();
    assert_eq!(client.session(), id);
    assert_eq!(client.newest().secret.root().as_octets(), root.as_octets());
    rig.frame(client.slot(), PATH_A());
    client.switch(&mut rig, PATH_B());
    assert!(asked(&mut rig).is_none(), "nothing is stored per reattach");
    let goodbye = client.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
    rig.datagram(PATH_B(), &goodbye);
    let request = asked(&mut rig).unwrap();
    assert!(matches!(request.change, Change::Delete { id: gone, expected: Version(1) } if gone == id));
    answer(&mut rig, &request, Ok(Version(2)));
    assert!(asked(&mut rig).is_none());
    rig.check_audit();
}

/// R7.3: a store that fails refuses births, with a reason and a time, and tries again; live sessions switch as ever.
#[test]
fn r7_3_a_broken_store_stops_births_only() {
    let mut rig = rig();
    let mut live = Client::new(0, rig.gateway);
    let (init, initiation) = live.init(&mut rig);
    rig.datagram(PATH_A(), &init);
    let request = asked(&mut rig).unwrap();
    answer(&mut rig, &request, Ok(Version(1)));
    let response = rig.sent.pop_front().unwrap();
    live.read_response(initiation, &response.payload).unwrap();
    rig.frame(live.slot(), PATH_A());

    let mut born = Client::new(1, rig.gateway);
    let (init, _) = born.init(&mut rig);
    rig.ask_in_vain(PATH_B(), &init);
    let request = asked(&mut rig).unwrap();
    answer(&mut rig, &request, Err(broken()));
    assert_eq!((rig.sent.len(), rig.counter(Counter::StoreFailed)), (0, 1));
    let (init, initiation) = born.init(&mut rig);
    let response = rig.ask(PATH_B(), &init);
    assert_eq!(born.read_response(initiation, &response), Err((Reason::Unavailable, 1_000)));
    live.switch(&mut rig, PATH_B());
    assert_eq!(rig.state(&live).0, "ATTACHED");

    rig.wait(Duration::from_secs(1));
    rig.frame(live.slot(), PATH_B());
    let (init, initiation) = born.init(&mut rig);
    rig.ask_in_vain(PATH_A(), &init);
    let request = asked(&mut rig).unwrap();
    answer(&mut rig, &request, Ok(Version(1)));
    let response = rig.sent.pop_front().unwrap();
    born.read_response(initiation, &response.payload).unwrap();
    rig.frame(born.slot(), PATH_A());
    assert_eq!(rig.state(&born).0, "ATTACHED");
    rig.check_audit();
}

/// R1.2, R7.3: the record of a session that ended is removed, however often the store refuses: it would bring the session
/// back.
#[test]
fn r7_3_a_removal_that_fails_is_asked_for_again() {
    let mut rig = rig();
    let client = rig_attached(&mut rig);
    while asked(&mut rig).is_some() {}
    let admin = AdminCommand::TerminateSession(client.session());
    rig.engine.handle_admin(rig.now, &admin, &rig.tables.contexts).unwrap();
    rig.pump();
    for _ in 0..3 {
        let request = asked(&mut rig).unwrap();
        assert!(matches!(request.change, Change::Delete { id, .. } if id == client.session()));
        answer(&mut rig, &request, Err(broken()));
        assert!(asked(&mut rig).is_none(), "not at once");
        rig.wait(Duration::from_secs(1));
    }
    let request = asked(&mut rig).unwrap();
    answer(&mut rig, &request, Ok(Version(1)));
    rig.wait(Duration::from_secs(5));
    assert!(asked(&mut rig).is_none(), "and no more when it is gone");
}

/// R7.3: a store that answers too late finds no session any more; its record is removed again.
#[test]
fn r7_3_a_late_answer_leaves_no_record() {
    let mut rig = rig();
    let mut client = Client::new(0, rig.gateway);
    let (init, _) = client.init(&mut rig);
    rig.ask_in_vain(PATH_A(), &init);
    let request = asked(&mut rig).unwrap();
    rig.wait(Duration::from_secs(2));
    assert_eq!(rig.engine.live_sessions(), 0);
    answer(&mut rig, &request, Ok(Version(1)));
    assert!(matches!(asked(&mut rig).unwrap().change, Change::Delete { expected: Version(1), .. }));
    assert!(rig.bound_slots().is_empty());
}

/// R7.3: killed while a birth was being stored: it has failed, and its record goes; a session that goes on keeps its
/// record, and it is removed when the session ends.
#[test]
fn r7_3_the_store_and_the_journal_agree_after_a_restart() {
    let mut rig = rig();
    let live = rig_attached(&mut rig);
    let mut born = Client::new(1, rig.gateway);
    let (init, _) = born.init(&mut rig);
    rig.datagram(PATH_B(), &init);
    let request = asked(&mut rig).unwrap();
    let Change::Put { id: half, .. } = request.change else { panic!() };
    rig.fuse = Some(0);
    rig.restart_with(|engine| {
        engine.keep_store(UNIX_OFFSET_MS);
        assert!(engine.note_stored(live.session(), Version(4)));
        assert!(engine.note_stored(half, Version(1)), "it is still to be decided");
        assert!(!engine.note_stored(SessionId([9; 16]), Version(1)));
    });
    assert!(matches!(asked(&mut rig).unwrap().change, Change::Delete { id, .. } if id == half));
    let goodbye = live.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
    rig.datagram(PATH_A(), &goodbye);
    assert!(matches!(asked(&mut rig).unwrap().change, Change::Delete { expected: Version(4), .. }));
}

fn rig_attached(rig: &mut Rig) -> Client {
    let mut client = Client::new(0, rig.gateway);
    let (init, initiation) = client.init(rig);
    rig.datagram(PATH_A(), &init);
    let request = asked(rig).unwrap();
    answer(rig, &request, Ok(Version(1)));
    let response = rig.sent.pop_front().unwrap();
    client.read_response(initiation, &response.payload).unwrap();
    rig.frame(client.slot(), PATH_A());
    client
}
