//! Sessions that only the store remembers: loaded with their next term, taken over by their clients, and everything that
//! may go wrong on the way.

use crate::client::Client;
use crate::reborn::{
    answer, ask, ask_for, attached, broken, hold, lose_everything, reborn, reborn_gateway, refused, rig,
    take, take_over,
};
use crate::rig::{Answers, PATH_A, PATH_B, PATH_C, Rig, UNIX_OFFSET_MS};
use jvpn_abi::Reason;
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::reset::Reset;
use jvpn_controlplane::audit::{AuditKind, Line};
use jvpn_controlplane::engine::{AdminCommand, Counter, TableEvent};
use jvpn_controlplane::store::{
    Change, Expected, StoreError, StoredSession, Unreadable, UnreadableRecord, Version, Versioned,
};
use jvpn_crypto::cookie::{Question, read_retry};
use jvpn_session::messages::{ControlMessage, SessionId};
use jvpn_session::{Policy, StateVersion};
use std::time::Duration;

/// R1.2, R1.3, R6.1, R7.3: the same SessionId after both processes died, the next term, one STATE_CHANGE for the load, ATTACHED
/// with the first frame; then everything goes on, and the next death again raises the term.
#[test]
fn r7_3_the_same_session_after_both_processes_died() {
    let mut rig = rig();
    let (mut client, record) = attached(&mut rig, 0);
    client.switch(&mut rig, PATH_B());
    let (id, mut records) = (client.session(), vec![record]);
    let mut slots = vec![client.slot()];
    for term in 1..4 {
        reborn(&mut rig, &mut records);
        let status = rig.status(&client);
        assert_eq!((status.state, status.reason), ("RECOVERING", "OWNER_RESTART"));
        assert_eq!(status.state_version, StateVersion::first(term).0);
        assert_eq!((status.slot, rig.bound_slots().len(), rig.engine.live_sessions()), (None, 0, 1));
        take_over(&mut rig, &mut client, PATH_C());
        assert_eq!((client.session(), rig.status(&client).state), (id, "ATTACHED"));
        assert_eq!(StateVersion(client.newest().grant.anchor_version).term(), term);
        assert_eq!(rig.bound_slots(), [client.slot().index()], "I1");
        assert!(
            rig.tables.routes.values().all(|slot| *slot == client.slot()) && !rig.tables.routes.is_empty()
        );
        assert!(!slots.contains(&client.slot()), "I11: a slot came twice");
        slots.push(client.slot());
        client.switch(&mut rig, PATH_A());
        slots.push(client.slot());
    }
    let events = rig.events();
    assert_eq!(events.iter().filter(|name| **name == "SESSION_CREATED").count(), 1);
    let acquired = |line: &Line| {
        let AuditKind::OwnerAcquired { term } = line.event.kind else { return None };
        Some((line.event.session.unwrap().1, term, line.event.reason?))
    };
    let acquired: Vec<_> = rig.lines.iter().filter_map(acquired).collect();
    assert_eq!(
        acquired,
        [1, 2, 3].map(|term| (StateVersion::first(term), term, Reason::OwnerRestart)),
        "R6.1"
    );
    assert_eq!(rig.counter(Counter::SessionsLoaded), 1);
    rig.check_audit();
    // It ends like any other, and leaves the store.
    let goodbye = client.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
    rig.datagram(PATH_A(), &goodbye);
    let request = rig.engine.poll_store().unwrap();
    assert!(matches!(request.change, Change::Delete { id: gone, expected: Version(4) } if gone == id));
}

/// R7.3: after a takeover the control plane alone dies: JOURNAL goes on; the secret of the exchange comes back with
/// the record, and without one the exchange is UNAVAILABLE, never an end.
#[test]
fn r7_3_a_session_that_was_taken_over_is_adopted() {
    let (mut rig, mut client, records) = reborn_gateway();
    take_over(&mut rig, &mut client, PATH_B());
    let record = records[0].clone();
    for matched in [true, false] {
        rig.restart_with(|engine| {
            engine.keep_store(UNIX_OFFSET_MS);
            if matched {
                assert!(engine.match_stored(record.0, &record.1));
            }
        });
        client.switch(&mut rig, if matched { PATH_C() } else { PATH_B() });
        if matched {
            take_over(&mut rig, &mut client, PATH_A());
        } else {
            assert_eq!(refused(&mut rig, &mut client, PATH_A()), (Reason::Unavailable, 500));
        }
        assert_eq!(rig.status(&client).state, "ATTACHED");
    }
}

/// R2.4, I5: a captured request, replayed from anywhere and at any time, moves nothing: no version, no binding, no route.
/// Once a newer one was seen it meets silence.
#[test]
fn r2_4_a_replayed_request_moves_nothing() {
    let mut rig = rig();
    let (mut client, record) = attached(&mut rig, 0);
    let mut records = vec![record];
    let (captured, _) = ask(&mut rig, &mut client);
    reborn(&mut rig, &mut records);
    let before = rig.status(&client);
    let answer = rig.ask(PATH_C(), &captured);
    assert!(answer.len() <= captured.len());
    for path in [PATH_A(), PATH_B(), PATH_C()] {
        rig.ask_in_vain(path, &captured);
    }
    let after = rig.status(&client);
    assert_eq!((after.state_version, after.slot, after.epoch), (before.state_version, None, before.epoch));
    assert!(rig.tables.bound.is_empty() && rig.tables.entries.is_empty() && rig.tables.routes.is_empty());
    // The genuine client is not held up by it, and afterwards the capture is worth nothing.
    take_over(&mut rig, &mut client, PATH_B());
    let bound = rig.tables.bound.clone();
    rig.ask_in_vain(PATH_C(), &captured);
    assert_eq!((rig.status(&client).state, &rig.tables.bound), ("ATTACHED", &bound));
    assert_eq!(rig.engine.counters().takeover_refusals(Reason::ReplayDetected), 4);
    // Nor is one that is older than the peer's last handshake, whatever was forgotten meanwhile.
    let (stale, _) = ask(&mut rig, &mut client);
    let (init, initiation) = client.init(&mut rig);
    rig.datagram(PATH_A(), &init);
    let request = rig.engine.poll_store().unwrap();
    let Change::Put { session, id, .. } = &request.change else { panic!() };
    let mut records = vec![(*id, Versioned { version: Version(1), session: (**session).clone() })];
    drop(initiation);
    reborn(&mut rig, &mut records);
    rig.ask_in_vain(PATH_C(), &stale);
}

/// R2.1, R2.4: nothing but the client's own first CONTROL, under the offered keys and from where the answer went, takes the
/// offer; once.
#[test]
fn r2_1_only_the_client_takes_the_offer() {
    let (mut rig, mut client, _) = reborn_gateway();
    let (request, mut pending) = ask(&mut rig, &mut client);
    let ack = rig.ask(PATH_A(), &request);
    hold(&mut client, &mut pending, &ack);
    let version = rig.status(&client).state_version;
    let genuine = take(&client);
    for at in 0..genuine.len() {
        let mut forged = genuine.clone();
        forged[at] ^= 1;
        rig.ask_in_vain(PATH_A(), &forged);
    }
    rig.ask_in_vain(PATH_B(), &genuine);
    let other = client.control(&ControlMessage::TakeOver { epoch: 9, version: 9 });
    rig.ask_in_vain(PATH_A(), &other);
    assert_eq!(rig.status(&client).state_version, version, "I5");
    assert!(rig.tables.bound.is_empty());
    // The second message of the sealer: the counter of `other` was used.
    let grant = client.newest().grant.clone();
    let messages =
        client.controls(&ControlMessage::TakeOver { epoch: grant.epoch, version: grant.anchor_version }, 3);
    rig.ask(PATH_A(), &messages[1]);
    assert_eq!(rig.tables.bound.len(), 1);
    rig.ask_in_vain(PATH_A(), &messages[1]);
    // STATE was lost: asked again, it is said again, and nothing else happens.
    let version = rig.status(&client).state_version;
    rig.ask(PATH_A(), &messages[2]);
    assert_eq!((rig.status(&client).state_version, rig.tables.bound.len()), (version, 1));
    rig.frame(client.slot(), PATH_A());
    assert_eq!(rig.status(&client).state, "ATTACHED");
}

/// R3.1, I10, I13: answers may be lost: a further request replaces the offer, one offer is remembered per session and for
/// a few seconds only, and its slot is given back.
#[test]
fn i13_a_lost_answer_is_asked_for_again() {
    let (mut rig, mut client, mut records) = reborn_gateway();
    let mut late = None;
    for _ in 0..4 {
        let (request, mut pending) = ask(&mut rig, &mut client);
        let ack = rig.ask(PATH_A(), &request);
        hold(&mut client, &mut pending, &ack);
        late.get_or_insert_with(|| take(&client));
        assert_eq!(rig.engine.status(rig.now, &rig.tables.contexts).slots_in_use, 1);
    }
    rig.ask_in_vain(PATH_A(), &late.unwrap());
    rig.ask(PATH_A(), &take(&client));
    rig.frame(client.slot(), PATH_A());
    assert_eq!(rig.status(&client).state, "ATTACHED");
    client.settle();
    reborn(&mut rig, &mut records);
    let (request, mut pending) = ask(&mut rig, &mut client);
    let ack = rig.ask(PATH_A(), &request);
    hold(&mut client, &mut pending, &ack);
    rig.wait(Duration::from_secs(7));
    assert_eq!(rig.engine.status(rig.now, &rig.tables.contexts).slots_in_use, 0);
    rig.ask_in_vain(PATH_A(), &take(&client));
    take_over(&mut rig, &mut client, PATH_B());
    assert_eq!(rig.status(&client).state, "ATTACHED");
}

/// R1.8, I13: the installation fails, the first frame never comes, the data plane dies in the middle: the exchange is asked
/// for again and leads into the same session.
#[test]
fn i13_a_takeover_that_fails_is_made_again() {
    let (mut rig, mut client, _) = reborn_gateway();
    let begin = |rig: &mut Rig, client: &mut Client| {
        let (request, mut pending) = ask(rig, client);
        let ack = rig.ask(PATH_A(), &request);
        hold(client, &mut pending, &ack);
    };
    rig.tables.install = Answers::Refused;
    begin(&mut rig, &mut client);
    rig.ask_in_vain(PATH_A(), &take(&client));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::InstallFailed));
    // The generation was discarded with it: its handle is unknown here, and the client asks by the exchange again.
    let sent = client.request(&mut rig);
    let reset = rig.ask(PATH_A(), &sent.datagram);
    assert!(Reset::parse(&reset).is_some());
    rig.tables.install = Answers::AtOnce;

    begin(&mut rig, &mut client);
    rig.ask(PATH_A(), &take(&client));
    rig.wait(Duration::from_secs(2));
    assert_eq!(rig.state(&client), ("RECOVERING", Reason::BindUnconfirmed));
    // That one has left: a reattach under it goes as ever.
    client.switch(&mut rig, PATH_B());
    assert_eq!(rig.status(&client).state, "ATTACHED");

    begin(&mut rig, &mut client);
    rig.event(TableEvent::DataPlaneLost);
    assert_eq!(rig.status(&client).state, "ATTACHED", "its keys are known: the next data plane gets them");
    rig.ask_in_vain(PATH_A(), &take(&client));
    assert_eq!(refused(&mut rig, &mut client, PATH_A()), (Reason::Unavailable, 500));
    rig.tables.restart();
    rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept: false });
    take_over(&mut rig, &mut client, PATH_C());
    assert_eq!(rig.bound_slots(), [client.slot().index()]);
    rig.check_audit();
}

/// R2.1, R2.3: who is asked for and by whom decides: a stranger meets silence, another peer and an unknown session a
/// refusal, wrong keys of the session an offer that nobody can take.
#[test]
fn r2_1_a_session_is_taken_over_by_its_own_peer_only() {
    let mut rig = rig();
    let (mut client, record) = attached(&mut rig, 0);
    let (mut other, second) = attached(&mut rig, 1);
    let mut records = vec![record, second];
    reborn(&mut rig, &mut records);
    assert_eq!(rig.engine.live_sessions(), 2);
    let theirs = client.session();
    let (request, mut pending) = ask_for(&mut rig, &mut other, theirs);
    let refusal = rig.ask(PATH_B(), &request);
    assert_eq!(pending.read_reject(&refusal).unwrap().reason, Reason::SessionNotFound);
    let (request, mut pending) = ask_for(&mut rig, &mut client, SessionId([9; 16]));
    let refusal = rig.ask(PATH_A(), &request);
    assert_eq!(pending.read_reject(&refusal).unwrap().reason, Reason::SessionNotFound);

    let mut stranger = Client::new(7, rig.gateway);
    stranger.takeover = client.takeover.clone();
    let (request, _) = ask_for(&mut rig, &mut stranger, theirs);
    rig.ask_in_vain(PATH_C(), &request);
    let mut spoiled = request.clone();
    spoiled[100] ^= 1;
    rig.ask_in_vain(PATH_C(), &spoiled);
    assert_eq!(rig.counter(Counter::TakeoverMacWrong), 1);

    let own = std::mem::replace(&mut client.takeover, other.takeover.clone());
    let (request, mut pending) = ask(&mut rig, &mut client);
    let ack = rig.ask(PATH_A(), &request);
    assert!(pending.read_ack(&ack).is_err() && pending.read_reject(&ack).is_err());
    client.takeover = own;
    take_over(&mut rig, &mut client, PATH_A());
    take_over(&mut rig, &mut other, PATH_B());
    assert_eq!((rig.status(&client).state, rig.status(&other).state), ("ATTACHED", "ATTACHED"));
}

/// R3.1: a peer's requests are limited, replays of what was recorded do not count, and the node's limit comes before any
/// Diffie-Hellman.
#[test]
fn r3_1_requests_are_limited() {
    let mut rig = rig();
    let (mut client, record) = attached(&mut rig, 0);
    let mut records = vec![record];
    let (captured, _) = ask(&mut rig, &mut client);
    reborn(&mut rig, &mut records);
    rig.ask(PATH_C(), &captured);
    (0..100).for_each(|_| rig.ask_in_vain(PATH_C(), &captured));
    for _ in 0..4 {
        let (request, _) = ask(&mut rig, &mut client);
        rig.ask(PATH_A(), &request);
    }
    let (request, _) = ask(&mut rig, &mut client);
    rig.ask_in_vain(PATH_A(), &request);
    assert_eq!(rig.engine.counters().takeover_refusals(Reason::RateLimited), 1);
    rig.wait(Duration::from_secs(1));
    (0..1_000).for_each(|_| rig.datagram(PATH_C(), &captured));
    assert_eq!(rig.counter(Counter::TakeoverLoad), 1);
    let (mut request, pending) = ask(&mut rig, &mut client);
    let retry = rig.ask(PATH_A(), &request);
    let cookie = read_retry(&rig.gateway, &Question::of_request(&request).unwrap(), &retry).unwrap();
    pending.with_cookie(&mut request, cookie).unwrap();
    rig.ask(PATH_A(), &request);
    rig.wait(Duration::from_secs(10));
    take_over(&mut rig, &mut client, PATH_A());
}

/// R7.3: until the next term is in the store the session is not there: UNAVAILABLE with a time, no RESET; a store that
/// fails is asked again, and what changed meanwhile is not touched.
#[test]
fn r7_3_a_store_that_fails_is_no_end() {
    let mut rig = rig();
    let (mut client, (id, record)) = attached(&mut rig, 0);
    lose_everything(&mut rig);
    rig.engine.load_stored(rig.now, vec![(id, record.clone())]);
    let request = rig.engine.poll_store().unwrap();
    let sent = client.request(&mut rig);
    rig.ask_in_vain(PATH_A(), &sent.datagram);
    assert_eq!(refused(&mut rig, &mut client, PATH_A()), (Reason::Unavailable, 500));
    answer(&mut rig, &request, Err(broken()));
    assert_eq!((rig.engine.live_sessions(), rig.counter(Counter::StoreFailed)), (0, 1));
    assert_eq!(refused(&mut rig, &mut client, PATH_A()), (Reason::Unavailable, 1_000));
    rig.ask_in_vain(PATH_A(), &sent.datagram);
    assert!(rig.counter(Counter::ResetHeldBack) == 2 && rig.engine.poll_store().is_none());
    rig.wait(Duration::from_secs(1));
    let request = rig.engine.poll_store().unwrap();
    let Change::Put { expected, session, .. } = &request.change else { panic!() };
    assert_eq!((*expected, session.term), (Expected::Version(Version(1)), 1), "the same question again");
    answer(&mut rig, &request, Ok(Version(2)));
    let reset = rig.ask(PATH_A(), &sent.datagram);
    assert!(Reset::parse(&reset).is_some(), "now it is known what is known");
    take_over(&mut rig, &mut client, PATH_A());
    assert_eq!(rig.status(&client).state, "ATTACHED");

    // A store that could not be read at all: nobody is told that a session is over.
    lose_everything(&mut rig);
    rig.engine.store_is_unreadable();
    assert_eq!(refused(&mut rig, &mut client, PATH_A()), (Reason::Unavailable, 500));
    rig.ask_in_vain(PATH_A(), &sent.datagram);
    // A record that a newer release wrote: the session may be there, others are not.
    lose_everything(&mut rig);
    let newer = UnreadableRecord { id, version: Version(2), why: Unreadable::NewerLayout };
    rig.engine.judge_unreadable(rig.now, vec![newer]);
    let reset = rig.ask(PATH_A(), &sent.datagram);
    assert!(Reset::parse(&reset).is_some(), "handles are known to be unknown");
    assert_eq!(refused(&mut rig, &mut client, PATH_A()), (Reason::Unavailable, 500));
    // One under another node key is nobody's: the refusal ends the session, and the record stays.
    lose_everything(&mut rig);
    let foreign = UnreadableRecord { why: Unreadable::OtherKey, ..newer };
    rig.engine.judge_unreadable(rig.now, vec![foreign]);
    assert_eq!(refused(&mut rig, &mut client, PATH_A()).0, Reason::SessionNotFound);
    assert!(rig.engine.poll_store().is_none());
    // A record that somebody else changed is not ours: not loaded, not removed.
    lose_everything(&mut rig);
    rig.engine.load_stored(rig.now, vec![(id, record)]);
    let request = rig.engine.poll_store().unwrap();
    answer(&mut rig, &request, Err(StoreError::Conflict { current: Some(Version(9)) }));
    assert_eq!(rig.engine.live_sessions(), 0);
    assert!(rig.engine.poll_store().is_none());
    assert_eq!(refused(&mut rig, &mut client, PATH_A()).0, Reason::SessionNotFound);
}

/// The end of a record that is not loaded.
fn end_of(rig: &mut Rig, records: Vec<(SessionId, Versioned)>) -> Reason {
    lose_everything(rig);
    let lines = rig.lines.len();
    let id = records[0].0;
    rig.engine.load_stored(rig.now, records);
    rig.pump();
    let ends: Vec<_> = rig.lines[lines..]
        .iter()
        .filter(|line| line.event.session.is_some_and(|(own, _)| own == id))
        .map(|line| (line.event.kind.name(), line.event.reason.unwrap()))
        .collect();
    let [("STATE_CHANGE", reason), ("TERMINATION_EVENT", again)] = ends[..] else { panic!("{ends:?}") };
    assert_eq!(reason, again);
    let mut deleted = false;
    while let Some(request) = rig.engine.poll_store() {
        deleted |= matches!(request.change, Change::Delete { id: gone, .. } if gone == id);
    }
    assert!(deleted, "a session that ended is not stored");
    reason
}

/// R1.5, R1.6, R2.3, R7.3: what may not go on ends on record: peers that are gone or have other addresses, sessions that
/// outlived their TTL or whose birth lies in the future, and a term that cannot rise.
#[test]
fn r7_3_what_cannot_be_loaded_ends_on_record() {
    let mut rig = rig();
    let (_, (id, record)) = attached(&mut rig, 0);
    let changed = |change: fn(&mut StoredSession)| {
        let mut record = record.clone();
        change(&mut record.session);
        vec![(id, record)]
    };
    let unknown = changed(|s| s.peer = Client::new(9, s.peer).secret.public());
    assert_eq!(end_of(&mut rig, unknown), Reason::KeyRevoked);
    let moved = changed(|s| s.addresses = vec!["10.77.0.99/32".parse().unwrap()]);
    assert_eq!(end_of(&mut rig, moved), Reason::AdminTerminate);
    let old = changed(|s| s.born_unix_ms -= 24 * 3_600 * 1_000);
    assert_eq!(end_of(&mut rig, old), Reason::TtlSessionExpired);
    let unborn = changed(|s| s.born_unix_ms += 60_000);
    assert_eq!(end_of(&mut rig, unborn), Reason::TtlSessionExpired);
    let last = changed(|s| s.term = StateVersion::MAX_TERM);
    assert_eq!(end_of(&mut rig, last), Reason::OwnerRestart);
}

/// R1.6: the session TTL goes on from the birth over a restart, by the wall clock; the transport-loss TTL begins with it.
#[test]
fn r1_6_ttls_hold_over_a_restart() {
    let policy = Policy { session_ttl: Duration::from_secs(120), ..Policy::default() };
    let mut rig = Rig::new(policy);
    rig.engine.keep_store(UNIX_OFFSET_MS);
    let (mut client, record) = attached(&mut rig, 0);
    let mut records = vec![record];
    let live = |rig: &mut Rig, client: &Client, seconds: u64| {
        for _ in 0..seconds {
            rig.frame(client.slot(), PATH_A());
            rig.wait(Duration::from_secs(1));
        }
    };
    live(&mut rig, &client, 60);
    reborn(&mut rig, &mut records);
    take_over(&mut rig, &mut client, PATH_A());
    live(&mut rig, &client, 59);
    assert_eq!(rig.status(&client).state, "ATTACHED");
    live(&mut rig, &client, 1);
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::TtlSessionExpired));
    assert_eq!(refused(&mut rig, &mut client, PATH_B()), (Reason::SessionExpired, 0));

    let mut rig = Rig::new(Policy::default());
    rig.engine.keep_store(UNIX_OFFSET_MS);
    let (mut client, record) = attached(&mut rig, 0);
    reborn(&mut rig, &mut [record]);
    rig.wait(Policy::default().transport_loss_ttl);
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::TtlTransportLossExpired));
    assert_eq!(refused(&mut rig, &mut client, PATH_B()), (Reason::SessionExpired, 0));
}

/// R1.2, R2.3: a loaded session is one of its peer's: a newer handshake supersedes it with its first frame, operators end
/// it, and what it is told afterwards says why.
#[test]
fn r2_3_a_loaded_session_obeys_the_rules_of_any() {
    let (mut rig, mut client, _) = reborn_gateway();
    let mut newer = Client::new(0, rig.gateway);
    newer.timestamp_ns = client.timestamp_ns;
    let (init, initiation) = newer.init(&mut rig);
    rig.datagram(PATH_B(), &init);
    let request = rig.engine.poll_store().unwrap();
    answer(&mut rig, &request, Ok(Version(1)));
    let response = rig.sent.pop_front().unwrap();
    newer.read_response(initiation, &response.payload).unwrap();
    assert_eq!(rig.state(&client).0, "RECOVERING", "an unconfirmed birth ends nothing");
    rig.frame(newer.slot(), PATH_B());
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::Superseded));
    assert!(matches!(rig.engine.poll_store().unwrap().change, Change::Delete { expected: Version(2), .. }));
    client.timestamp_ns = newer.timestamp_ns;
    assert_eq!(refused(&mut rig, &mut client, PATH_A()), (Reason::Superseded, 0));
    newer.timestamp_ns = client.timestamp_ns;

    let (mut third, record) = attached(&mut rig, 2);
    let mut records = vec![record];
    reborn(&mut rig, &mut records);
    let admin = AdminCommand::TerminateSession(third.session());
    rig.engine.handle_admin(rig.now, &admin, &rig.tables.contexts).unwrap();
    rig.pump();
    assert_eq!(rig.state(&third), ("TERMINATED", Reason::AdminTerminate));
    assert_eq!(refused(&mut rig, &mut third, PATH_A()), (Reason::SessionTerminated, 0));
}

/// R1.6: a client that is offered its session back may end it instead.
#[test]
fn r1_6_a_client_may_end_the_session_that_it_is_offered() {
    let (mut rig, mut client, _) = reborn_gateway();
    let (request, mut pending) = ask(&mut rig, &mut client);
    let ack = rig.ask(PATH_A(), &request);
    hold(&mut client, &mut pending, &ack);
    let goodbye = client.control(&ControlMessage::Terminate { reason: Reason::PeerTerminate });
    rig.ask_in_vain(PATH_B(), &goodbye);
    assert_eq!(rig.state(&client).0, "RECOVERING");
    rig.ask_in_vain(PATH_A(), &goodbye);
    assert_eq!(rig.state(&client), ("TERMINATED", Reason::PeerTerminate));
    assert_eq!(rig.engine.status(rig.now, &rig.tables.contexts).slots_in_use, 0);
    assert!(matches!(rig.engine.poll_store().unwrap().change, Change::Delete { expected: Version(2), .. }));
}

/// R7.3: a record of JOURNAL is damaged: its session is loaded from the store and taken over; the others do not
/// notice. A record without a session is removed if nothing is damaged.
#[test]
fn r7_3_a_damaged_record_is_loaded_from_the_store() {
    let mut rig = rig();
    let (mut lost, first) = attached(&mut rig, 0);
    let (kept, second) = attached(&mut rig, 1);
    let index = *rig.tables.journal.keys().next().unwrap();
    rig.tables.journal.remove(&index);
    rig.restart_with(|engine| engine.keep_store(UNIX_OFFSET_MS));
    let unknown: Vec<_> =
        [first, second].into_iter().filter(|(id, record)| !rig.engine.match_stored(*id, record)).collect();
    assert_eq!(unknown.len(), 1);
    rig.engine.load_stored(rig.now, unknown);
    rig.pump();
    let request = rig.engine.poll_store().unwrap();
    answer(&mut rig, &request, Ok(Version(2)));
    assert_eq!((rig.status(&kept).state, rig.status(&lost).state), ("ATTACHED", "RECOVERING"));
    take_over(&mut rig, &mut lost, PATH_C());
    assert_eq!(rig.status(&lost).state, "ATTACHED");
}

/// R1.8: killed at every step of a takeover, with JOURNAL or without: the client gets back into the same session.
#[test]
fn r1_8_killed_at_every_step_of_a_takeover() {
    for fuse in 0..40 {
        for forgets in [false, true] {
            let mut rig = rig();
            let (mut client, record) = attached(&mut rig, 0);
            let (id, mut records) = (client.session(), vec![record]);
            reborn(&mut rig, &mut records);
            rig.fuse = Some(fuse);
            let (request, mut pending) = ask(&mut rig, &mut client);
            rig.datagram(PATH_A(), &request);
            if let Some(ack) = rig.sent.pop_front() {
                hold(&mut client, &mut pending, &ack.payload);
                rig.datagram(PATH_A(), &take(&client));
                rig.frame(client.slot(), PATH_A());
            }
            let died = rig.fuse.is_some_and(|left| left == 0);
            rig.fuse = None;
            if forgets {
                reborn(&mut rig, &mut records);
            } else {
                let record = records[0].clone();
                rig.restart_with(|engine| {
                    engine.keep_store(UNIX_OFFSET_MS);
                    assert!(engine.match_stored(record.0, &record.1));
                });
            }
            rig.sent.clear();
            take_over(&mut rig, &mut client, PATH_B());
            assert_eq!(
                (client.session(), rig.status(&client).state),
                (id, "ATTACHED"),
                "{fuse} {forgets} {died}"
            );
            assert_eq!(rig.bound_slots(), [client.slot().index()], "I1");
            rig.check_audit();
        }
    }
}

/// What the answers of this file are: none larger than its question, none of another type.
#[test]
fn r3_1_answers_are_what_they_are_asked_for() {
    let (mut rig, mut client, _) = reborn_gateway();
    let (request, _) = ask(&mut rig, &mut client);
    let ack = rig.ask(PATH_A(), &request);
    assert_eq!((request.len(), ack[0], ack.len()), (256, MsgType::ReattachAck.octet(), 123));
    client.held.clear();
    let (request, _) = ask_for(&mut rig, &mut client, SessionId([1; 16]));
    let refusal = rig.ask(PATH_A(), &request);
    assert_eq!((refusal[0], refusal.len()), (MsgType::ReattachReject.octet(), 61));
}

/// R4.1, I3: of two gateways that find the same record one loads the session: the compare-and-set of its next term
/// succeeds once. The other has no session, binds nothing and removes nothing; a later load begins above both.
#[test]
fn r4_1_of_two_gateways_one_loads_a_session() {
    let mut first = rig();
    let (mut client, (id, record)) = attached(&mut first, 0);
    let mut second = rig();
    for gateway in [&mut first, &mut second] {
        lose_everything(gateway);
        gateway.engine.load_stored(gateway.now, vec![(id, record.clone())]);
    }
    let (ours, theirs) = (first.engine.poll_store().unwrap(), second.engine.poll_store().unwrap());
    let Change::Put { expected, session, .. } = &ours.change else { panic!("{ours:?}") };
    let Change::Put { expected: also, session: same, .. } = &theirs.change else { panic!("{theirs:?}") };
    assert_eq!((expected, session.term), (also, same.term), "both ask for the same term of the same version");
    let stored = Versioned { version: Version(2), session: (**session).clone() };
    answer(&mut first, &ours, Ok(Version(2)));
    answer(&mut second, &theirs, Err(StoreError::Conflict { current: Some(Version(2)) }));
    assert_eq!((first.engine.live_sessions(), second.engine.live_sessions()), (1, 0));
    assert!(second.engine.poll_store().is_none() && second.bound_slots().is_empty());
    let told = &second.lines.last().unwrap().event;
    let transferred =
        (Some(Reason::OwnerTakeover), &AuditKind::OwnerTransferred { term: record.session.term });
    assert_eq!((told.reason, &told.kind), transferred, "who lost it has it on record");
    assert_eq!(told.session, Some((id, StateVersion::first(record.session.term))));
    take_over(&mut first, &mut client, PATH_B());
    let version = StateVersion(first.status(&client).state_version);
    // The other one finds what the first has stored: its term is higher than any that the first has spoken in.
    let mut records = vec![(id, stored)];
    reborn(&mut second, &mut records);
    let other = StateVersion(second.status(&client).state_version);
    assert!(other.term() == version.term() + 1 && other > version, "{other} after {version}");
}
