//! What a start finds in the store and cannot read: kept or removed on record, and never by mistake.

use crate::client::Client;
use crate::reborn;
use crate::rig::{PATH_A, Rig, UNIX_OFFSET_MS};
use jvpn_abi::Reason;
use jvpn_abi::wire::Suite;
use jvpn_controlplane::audit::{AuditKind, Decision, STORE_RECORDS_MAX, Violation};
use jvpn_controlplane::engine::{AdminCommand, Counter};
use jvpn_controlplane::journal::{Completeness, Unusable};
use jvpn_controlplane::store::embedded::{EmbeddedStore, STORE_FILE};
use jvpn_controlplane::store::{
    Change, Expected, Scan, SessionStore, StoredSession, Unreadable, UnreadableRecord, Version,
};
use jvpn_crypto::keys::{NodeKey, PublicKey};
use jvpn_crypto::rng::OsRandom;
use jvpn_crypto::schedule::Root;
use jvpn_session::Policy;
use jvpn_session::messages::SessionId;
use redb::{Database, TableDefinition};
use std::path::Path;

const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("sessions");

fn rig() -> Rig {
    let mut rig = Rig::new(Policy::default());
    rig.engine.keep_store(UNIX_OFFSET_MS);
    rig
}

fn id(octet: u8) -> SessionId {
    SessionId([octet; 16])
}

fn open(dir: &Path, node_key: u8) -> EmbeddedStore {
    let mut rng = OsRandom::checked().unwrap();
    EmbeddedStore::open(dir, &NodeKey::from_bytes([node_key; 32]), &mut rng).unwrap()
}

fn put(store: &mut EmbeddedStore, id: SessionId) {
    let session = StoredSession {
        peer: PublicKey([1; 32]),
        root: Root::from_octets([2; 32]),
        term: 0,
        suite: Suite::Aes256Gcm,
        addresses: Vec::new(),
        handshake_timestamp_ns: 1,
        born_unix_ms: 1,
    };
    store.put_if(id, Expected::Absent, session).unwrap();
}

/// Every record of the file, as it rests there.
fn records(dir: &Path) -> Vec<([u8; 16], Vec<u8>)> {
    use redb::{ReadableDatabase, ReadableTable};
    let database = Database::open(dir.join(STORE_FILE)).unwrap();
    let table = database.begin_read().unwrap().open_table(SESSIONS).unwrap();
    let entries = table.iter().unwrap().map(Result::unwrap);
    entries.map(|(id, record)| (*id.value(), record.value().to_vec())).collect()
}

fn rewrite(dir: &Path, id: SessionId, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut record = records(dir).into_iter().find(|(own, _)| *own == id.0).unwrap().1;
    edit(&mut record);
    let database = Database::open(dir.join(STORE_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(SESSIONS).unwrap().insert(&id.0, record.as_slice()).unwrap();
    transaction.commit().unwrap();
}

fn told(rig: &Rig) -> Vec<(Unreadable, Decision, Option<Reason>, Vec<SessionId>)> {
    let lines = rig.lines.iter().filter_map(|line| {
        let AuditKind::StoreRecords { problem, decision, sessions } = &line.event.kind else { return None };
        Some((*problem, *decision, line.event.reason, sessions.clone()))
    });
    lines.collect()
}

/// R1.8, R6.1, R7.3: of a file with a record of a newer release, one of another node key, a corrupted and a truncated one,
/// the first two are there octet for octet after the start, the last two are gone; each is on record with its reason.
#[test]
fn r1_8_only_what_nobody_can_ever_read_is_removed_and_each_decision_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), 1);
    (1..=4).for_each(|octet| put(&mut store, id(octet)));
    drop(store);
    put(&mut open(dir.path(), 2), id(5));
    rewrite(dir.path(), id(2), |record| record[0] += 1);
    rewrite(dir.path(), id(3), |record| *record.last_mut().unwrap() ^= 1);
    rewrite(dir.path(), id(4), |record| record.truncate(20));
    let before = records(dir.path());

    let mut store = open(dir.path(), 1);
    let scan = store.scan().unwrap();
    assert_eq!(scan.sessions.len(), 1);
    let mut rig = rig();
    rig.engine.judge_unreadable(rig.now, scan.unreadable);
    rig.pump();
    while let Some(request) = rig.engine.poll_store() {
        assert!(store.apply(&[request.change])[0].is_ok());
    }
    drop(store);
    let kept: Vec<_> =
        before.into_iter().filter(|(own, _)| [[1; 16], [2; 16], [5; 16]].contains(own)).collect();
    assert_eq!(records(dir.path()), kept);
    let expected = [
        (Unreadable::NewerLayout, Decision::Kept, Some(Reason::VersionUnsupported), vec![id(2)]),
        (Unreadable::OtherKey, Decision::Kept, Some(Reason::AuthFail), vec![id(5)]),
        (Unreadable::Damaged, Decision::Removed, Some(Reason::SecurityViolation), vec![id(3), id(4)]),
    ];
    assert_eq!(told(&rig), expected);
    let counted =
        [Counter::StoreRecordsKept, Counter::StoreRecordsRemoved].map(|counter| rig.counter(counter));
    assert_eq!(counted, [2, 2]);
}

/// R1.8: nothing is unnamed, however many there are.
#[test]
fn r1_8_many_unreadable_records_are_all_named() {
    let mut rig = rig();
    let record = |n: u16| {
        let mut name = [0; 16];
        name[..2].copy_from_slice(&n.to_be_bytes());
        UnreadableRecord { id: SessionId(name), version: Version(1), why: Unreadable::NewerLayout }
    };
    rig.engine.judge_unreadable(rig.now, (0..150).map(record).collect());
    rig.pump();
    let lens: Vec<_> = told(&rig).iter().map(|(.., sessions)| sessions.len()).collect();
    assert_eq!(lens, [STORE_RECORDS_MAX, STORE_RECORDS_MAX, 22]);
    assert!(rig.engine.poll_store().is_none(), "and not one is touched");
}

/// R1.2, R7.3: the record of a session that goes on from JOURNAL stays as long as the session, and goes with it: it would
/// bring it back at the next release.
#[test]
fn r7_3_an_unreadable_record_of_a_live_session_goes_when_the_session_ends() {
    for why in [Unreadable::NewerLayout, Unreadable::OtherKey, Unreadable::Damaged] {
        let mut rig = Rig::new(Policy::default());
        let client: Client = rig.attached(0);
        let (id, now) = (client.session(), rig.now);
        rig.restart_with(|engine| {
            engine.keep_store(UNIX_OFFSET_MS);
            engine.judge_unreadable(now, vec![UnreadableRecord { id, version: Version(6), why }]);
        });
        assert_eq!(told(&rig).last().map(|line| line.1), Some(Decision::Kept), "{why:?}");
        assert!(rig.engine.poll_store().is_none(), "{why:?}");
        let admin = AdminCommand::TerminateSession(id);
        rig.engine.handle_admin(rig.now, &admin, &rig.tables.contexts).unwrap();
        rig.pump();
        let request = rig.engine.poll_store().unwrap();
        assert!(matches!(request.change, Change::Delete { expected: Version(6), .. }), "{why:?}");
    }
}

/// R1.8, R7.3: a record that this release keeps for a newer one makes its JOURNAL incomplete. So the newer release, come back
/// beside a living data plane, loads it, or ends it on record if its peer has a newer session; it is never just removed.
#[test]
fn r1_8_a_kept_record_is_loaded_once_it_can_be_read_again() {
    for has_newer in [false, true] {
        let mut rig = rig();
        let (mut client, (old, record)) = reborn::attached(&mut rig, 0);
        reborn::lose_everything(&mut rig);
        let why = Unreadable::NewerLayout;
        let unreadable = vec![UnreadableRecord { id: old, version: record.version, why }];
        rig.engine.judge_unreadable(rig.now, unreadable);
        rig.pump();
        assert!(!rig.engine.journal_is_whole(), "there is a session that JOURNAL does not name");
        let mut sessions = vec![(old, record)];
        if has_newer {
            sessions.push(reborn::born(&mut rig, &mut client));
        }
        assert!(!rig.engine.journal_is_whole());

        let now = rig.now;
        rig.restart_with(|engine| {
            engine.keep_store(UNIX_OFFSET_MS);
            let stored = Scan { sessions, unreadable: Vec::new() };
            engine.match_store(now, Some(stored), Completeness::Incomplete);
        });
        let request = rig.engine.poll_store().unwrap();
        assert!(matches!(&request.change, Change::Put { id, .. } if *id == old), "{request:?}");
        assert!(rig.engine.poll_store().is_none(), "and nothing is removed");
        reborn::answer(&mut rig, &request, Ok(Version(2)));
        assert_eq!(rig.counter(Counter::SessionsLoaded), 1);
        assert!(rig.engine.journal_is_whole(), "all are named now");
        if has_newer {
            let ended = rig.lines.iter().any(|line| {
                line.event.session.is_some_and(|(id, _)| id == old)
                    && line.event.reason == Some(Reason::Superseded)
                    && matches!(line.event.kind, AuditKind::Termination { .. })
            });
            assert!(ended, "its end is on record");
            assert_eq!(rig.state(&client).0, "ATTACHED");
        } else {
            assert_eq!(client.session(), old);
            reborn::take_over(&mut rig, &mut client, PATH_A());
            assert_eq!(rig.state(&client).0, "ATTACHED");
        }
    }
}

/// R7.3: a JOURNAL that is of no use is on record with its reason, not only in the process log.
#[test]
fn r7_3_an_unusable_journal_is_on_record() {
    let reasons = [
        (Unusable::NoHead, Reason::SecurityViolation),
        (Unusable::Version(9), Reason::VersionUnsupported),
        (Unusable::OtherKey, Reason::AuthFail),
    ];
    for (why, reason) in reasons {
        let mut rig = rig();
        rig.engine.journal_is_unusable(rig.now, &why);
        rig.pump();
        let event = &rig.lines.last().unwrap().event;
        let violation = AuditKind::Security { violation: Violation::JournalDamaged };
        assert_eq!((&event.kind, event.reason), (&violation, Some(reason)));
        assert_eq!(rig.counter(Counter::JournalDamaged), 1);
    }
}
