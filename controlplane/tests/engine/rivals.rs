//! Several stored sessions of one peer, one client that comes back: what was confirmed wins, and the other is told why. And
//! nothing that is said while the store is still being read makes anybody give up.

use crate::client::Client;
use crate::reborn::{answer, attached, lose_everything, reborn, refused, rig, take_over};
use crate::rig::{PATH_A, PATH_B, PATH_C, Rig, UNIX_OFFSET_MS};
use jvpn_abi::Reason;
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::reset::{Reset, ResetKind};
use jvpn_controlplane::audit::AuditKind;
use jvpn_controlplane::engine::{AdminCommand, Counter};
use jvpn_controlplane::store::{Change, Version, Versioned};
use jvpn_session::State;
use jvpn_session::messages::SessionId;
use std::time::Duration;

type Records = Vec<(SessionId, Versioned)>;

/// A client whose session is ATTACHED, another of the same peer whose birth was answered and never confirmed, and both
/// records.
fn lived_and_born(rig: &mut Rig) -> (Client, Client, Records) {
    let (mut lived, record) = attached(rig, 0);
    let (born, newer) = born_beside(rig, &mut lived);
    (lived, born, vec![record, newer])
}

/// A further client of the same peer: its birth is stored and answered.
fn born_beside(rig: &mut Rig, lived: &mut Client) -> (Client, (SessionId, Versioned)) {
    let mut born = Client::new(0, rig.gateway);
    born.timestamp_ns = lived.timestamp_ns;
    let (init, initiation) = born.init(rig);
    rig.sent.clear();
    rig.datagram(PATH_B(), &init);
    let request = rig.engine.poll_store().unwrap();
    let Change::Put { id, session, .. } = &request.change else { panic!("{request:?}") };
    let record = (*id, Versioned { version: Version(1), session: (**session).clone() });
    answer(rig, &request, Ok(Version(1)));
    let is_response = |payload: &[u8]| payload.first() == Some(&MsgType::HandshakeResponse.octet());
    let response = rig.sent.drain(..).find(|sent| is_response(&sent.payload)).unwrap();
    born.read_response(initiation, &response.payload).unwrap();
    lived.timestamp_ns = born.timestamp_ns;
    (born, record)
}

/// One peer's clients have one clock: later requests carry later timestamps.
fn later(client: &mut Client, than: &Client) {
    client.timestamp_ns = client.timestamp_ns.max(than.timestamp_ns);
}

/// What was asked of the store to be removed.
fn removed(rig: &mut Rig) -> Vec<SessionId> {
    std::iter::from_fn(|| rig.engine.poll_store())
        .map(|request| match request.change {
            Change::Delete { id, .. } => id,
            Change::Put { .. } => panic!("{request:?}"),
        })
        .collect()
}

/// R2.3, R7.3, I13: beside a session that lived stood a birth that nobody confirmed (an undelivered or a captured
/// handshake) when both processes died. The birth does not beat it: its client gets back in, and whoever has the other is
/// told SUPERSEDED. Also if the control plane dies once more before that.
#[test]
fn r2_3_an_unconfirmed_birth_does_not_beat_a_stored_session() {
    for dies_again in [false, true] {
        let mut rig = rig();
        let (mut lived, mut born, mut records) = lived_and_born(&mut rig);
        reborn(&mut rig, &mut records);
        if dies_again {
            let records = records.clone();
            rig.restart_with(|engine| {
                engine.keep_store(UNIX_OFFSET_MS);
                assert!(records.iter().all(|(id, record)| engine.match_stored(*id, record)));
            });
        }
        assert_eq!((rig.state(&lived).0, rig.state(&born).0), ("RECOVERING", "RECOVERING"));
        take_over(&mut rig, &mut lived, PATH_C());
        assert_eq!(rig.state(&lived).0, "ATTACHED");
        assert_eq!(rig.state(&born), ("TERMINATED", Reason::Superseded));
        assert_eq!(removed(&mut rig), [born.session()]);
        later(&mut born, &lived);
        assert_eq!(refused(&mut rig, &mut born, PATH_B()), (Reason::Superseded, 0));
        lived.switch(&mut rig, PATH_A());
        assert_eq!((rig.state(&lived).0, rig.engine.live_sessions()), ("ATTACHED", 1));
        rig.check_audit();
    }
}

/// R2.3, R7.3: the other way round: the newer had been confirmed, and the disk never saw that the older ended. Its client
/// takes it over, so it wins; the older one's is told SUPERSEDED, and does not come back by itself.
#[test]
fn r2_3_the_session_that_is_taken_over_wins() {
    let mut rig = rig();
    let (mut lived, mut born, mut records) = lived_and_born(&mut rig);
    rig.frame(born.slot(), PATH_B());
    assert_eq!(rig.state(&lived), ("TERMINATED", Reason::Superseded));
    assert_eq!(removed(&mut rig), [lived.session()], "which the disk never sees");
    later(&mut born, &lived);
    reborn(&mut rig, &mut records);
    take_over(&mut rig, &mut born, PATH_C());
    assert_eq!((rig.state(&born).0, rig.state(&lived)), ("ATTACHED", ("TERMINATED", Reason::Superseded)));
    later(&mut lived, &born);
    assert_eq!(refused(&mut rig, &mut lived, PATH_A()), (Reason::Superseded, 0));
    assert!(rig.tables.routes.values().all(|slot| *slot == born.slot()));
    assert_eq!((removed(&mut rig), rig.engine.live_sessions()), (vec![lived.session()], 1));
    rig.check_audit();
}

/// R2.3, R7.3: a handshake is confirmed while the older session is still on its way from the store: the older one ends as
/// SUPERSEDED on record, and its client hears that, not that there never was such a session.
#[test]
fn r2_3_whoever_is_loaded_too_late_is_told_so() {
    let mut rig = rig();
    let (mut lived, record) = attached(&mut rig, 0);
    lose_everything(&mut rig);
    rig.engine.load_stored(rig.now, vec![record]);
    let loading = rig.engine.poll_store().unwrap();
    let (mut born, _) = born_beside(&mut rig, &mut lived);
    rig.frame(born.slot(), PATH_B());
    assert_eq!((rig.state(&born).0, rig.find(&lived).is_none()), ("ATTACHED", true));
    answer(&mut rig, &loading, Ok(Version(2)));
    assert_eq!(rig.state(&lived), ("TERMINATED", Reason::Superseded));
    assert_eq!(removed(&mut rig), [lived.session()]);
    later(&mut lived, &born);
    assert_eq!(refused(&mut rig, &mut lived, PATH_A()), (Reason::Superseded, 0));
    let routed: Vec<_> = rig.tables.routes.values().copied().collect();
    assert!(!routed.is_empty() && routed.iter().all(|slot| *slot == born.slot()), "its routes stay");
    born.switch(&mut rig, PATH_C());
    assert_eq!((rig.state(&born).0, rig.engine.live_sessions()), ("ATTACHED", 1));
    rig.check_audit();
}

/// R1.5, R2.3: a handshake beats all that were loaded; an operator ends all of them; each by itself may outlive its TTL.
#[test]
fn r2_3_rivals_end_like_any_session() {
    let mut rig = rig();
    let (mut lived, born, mut records) = lived_and_born(&mut rig);
    reborn(&mut rig, &mut records);
    later(&mut lived, &born);
    let (third, _) = born_beside(&mut rig, &mut lived);
    assert_eq!(rig.engine.live_sessions(), 3);
    rig.frame(third.slot(), PATH_B());
    for loser in [&lived, &born] {
        assert_eq!(rig.state(loser), ("TERMINATED", Reason::Superseded));
    }
    assert_eq!((rig.state(&third).0, rig.engine.live_sessions()), ("ATTACHED", 1));

    reborn(&mut rig, &mut records);
    let admin = AdminCommand::TerminatePeer("peer0".to_owned());
    rig.engine.handle_admin(rig.now, &admin, &rig.tables.contexts).unwrap();
    rig.pump();
    assert_eq!(rig.engine.live_sessions(), 0);
    removed(&mut rig);

    reborn(&mut rig, &mut records);
    rig.wait(Duration::from_secs(15 * 60));
    for loser in [&lived, &born] {
        assert_eq!(rig.state(loser), ("TERMINATED", Reason::TtlTransportLossExpired));
    }
    let changes = |line: &&jvpn_controlplane::audit::Line| {
        matches!(line.event.kind, AuditKind::StateChange { new: State::Terminated, .. })
    };
    assert_eq!(rig.lines.iter().filter(changes).count(), 6);
}

/// R2.3, R7.3: while sessions are on their way from the store, neither an unknown handle nor DATA of an unknown slot draws
/// a RESET; as soon as all are there, both do.
#[test]
fn r7_3_no_reset_while_sessions_are_being_loaded() {
    let mut rig = rig();
    let (mut client, record) = attached(&mut rig, 0);
    let stray = client.sample(client.newest(), 7);
    lose_everything(&mut rig);
    rig.engine.load_stored(rig.now, vec![record]);
    let request = client.request(&mut rig);
    rig.ask_in_vain(PATH_A(), &stray);
    rig.ask_in_vain(PATH_A(), &request.datagram);
    assert_eq!(rig.counter(Counter::ResetHeldBack), 2);
    assert_eq!(refused(&mut rig, &mut client, PATH_A()), (Reason::Unavailable, 500));
    let loading = rig.engine.poll_store().unwrap();
    answer(&mut rig, &loading, Ok(Version(2)));
    for (question, kind) in [(&stray, ResetKind::Slot), (&request.datagram, ResetKind::Handle)] {
        let reset = rig.ask(PATH_A(), question);
        assert_eq!(Reset::parse(&reset).unwrap().kind, kind);
    }
    take_over(&mut rig, &mut client, PATH_A());
    assert_eq!(rig.state(&client).0, "ATTACHED");

    // Nor while nobody can say which sessions there are.
    lose_everything(&mut rig);
    rig.engine.store_is_unreadable();
    rig.ask_in_vain(PATH_A(), &client.sample(client.newest(), 9));
    assert_eq!(rig.counter(Counter::ResetHeldBack), 1);
}
