//! The embedded store: what it acknowledged is there again, versions guard every change, damage is named.

use super::*;
use jvpn_crypto::rng::OsRandom;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

fn node_key(octet: u8) -> NodeKey {
    NodeKey::from_bytes([octet; 32])
}

fn open(dir: &Path) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(dir, &node_key(1), &mut OsRandom::checked().unwrap())
}

fn id(octet: u8) -> SessionId {
    SessionId([octet; 16])
}

fn session(octet: u8) -> StoredSession {
    StoredSession {
        peer: PublicKey([octet; 32]),
        root: Root::from_octets([0xa5; 32]),
        term: 3,
        suite: Suite::ChaCha20Poly1305,
        addresses: vec!["10.77.0.2/32".parse().unwrap(), "fd00::2/128".parse().unwrap()],
        handshake_timestamp_ns: 77,
        born_unix_ms: 1_700_000_000_123,
    }
}

/// R7.3: what was acknowledged is there after a restart, whole; what was removed is not.
#[test]
fn r7_3_records_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    assert!(store.scan().unwrap().sessions.is_empty() && store.get(id(1)).unwrap().is_none());
    let version = store.put_if(id(1), Expected::Absent, session(1)).unwrap();
    let gone = store.put_if(id(2), Expected::Absent, session(2)).unwrap();
    store.delete_if(id(2), gone).unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    let found = store.get(id(1)).unwrap().unwrap();
    assert_eq!((found.version, found.session.peer, found.session.term), (version, session(1).peer, 3));
    assert!(found.session.same_as(&session(1)));
    assert_eq!((found.session.addresses, found.session.handshake_timestamp_ns), (session(1).addresses, 77));
    let ids: Vec<_> = store.scan().unwrap().sessions.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [id(1)]);
    let mode = std::fs::metadata(dir.path().join(STORE_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// R7.3: compare-and-set: only the version that was read is changed, and a conflict names what is there.
#[test]
fn r7_3_versions_guard_every_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    let first = store.put_if(id(1), Expected::Absent, session(1)).unwrap();
    let conflict = |current| Err(StoreError::Conflict { current });
    assert_eq!(store.put_if(id(1), Expected::Absent, session(1)), conflict(Some(first)));
    let second = store.put_if(id(1), Expected::Version(first), session(1)).unwrap();
    assert!(second > first);
    assert_eq!(store.put_if(id(1), Expected::Version(first), session(9)), conflict(Some(second)));
    assert_eq!(store.delete_if(id(1), first), Err(StoreError::Conflict { current: Some(second) }));
    assert_eq!(store.put_if(id(2), Expected::Version(first), session(2)), conflict(None));
    // In one commit: what fails does not keep the others from happening.
    let put =
        |octet| Change::Put { id: id(octet), expected: Expected::Absent, session: Box::new(session(octet)) };
    let outcomes = store.apply(&[put(1), put(3), Change::Delete { id: id(1), expected: second }, put(1)]);
    let fine: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [false, true, true, true]);
    assert_eq!(store.scan().unwrap().sessions.len(), 2);
}

/// R2.5: the secret is nowhere in the file; another node key opens nothing, and says which records those are.
#[test]
fn r2_5_secrets_rest_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    store.put_if(id(1), Expected::Absent, session(1)).unwrap();
    drop(store);
    let content = std::fs::read(dir.path().join(STORE_FILE)).unwrap();
    assert!(!content.windows(16).any(|window| window == [0xa5; 16]));
    let store = EmbeddedStore::open(dir.path(), &node_key(2), &mut OsRandom::checked().unwrap()).unwrap();
    assert!(matches!(store.get(id(1)), Err(StoreError::Damaged { .. })));
    let scan = store.scan().unwrap();
    let foreign = UnreadableRecord { id: id(1), version: Version(1), why: Unreadable::OtherKey };
    assert_eq!((scan.sessions.len(), scan.unreadable), (0, vec![foreign]));
}

/// R1.8, R7.3: garbage, a file that was cut off and one of another layout are refused with the file's name, or read as far
/// as they are whole; never a panic.
#[test]
fn r1_8_a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    std::fs::write(&path, b"not a store at all").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(STORE_FILE));

    std::fs::remove_file(&path).unwrap();
    let mut store = open(dir.path()).unwrap();
    for n in 0..200 {
        store.put_if(id(n), Expected::Absent, session(n)).unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for len in [1, 100, 512, whole.len() / 2] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let outcome = catch_unwind(|| open(dir.path()).and_then(|store| store.scan()));
        assert!(outcome.is_ok(), "cut to {len} octets");
    }
}

/// R1.8: what can be told of a record that cannot be read, each octet changed, each length, and the layout before.
#[test]
fn r1_8_why_a_record_cannot_be_read_is_told_apart() {
    let (key, salt) = (node_key(1), [4; 16]);
    let sealing = SealKey::new(SUITE, &key.sealing_key(SealPurpose::Store, &salt));
    let record = seal(&sealing, key.name(), (salt, 1), id(1), Version(7), &session(1));
    let why = |record: &[u8]| read_record(&key, id(1), record).map(|_| ()).unwrap_err();
    assert!(read_record(&key, id(1), &record).unwrap().session.same_as(&session(1)));
    for at in 0..record.len() {
        let mut changed = record.clone();
        changed[at] ^= 0x80;
        let expected = match at {
            0 => Unreadable::NewerLayout,
            VERSION_END..17 => Unreadable::OtherKey,
            _ => Unreadable::Damaged,
        };
        assert_eq!(why(&changed), expected, "octet {at}");
    }
    for len in 0..record.len() {
        assert_eq!(why(&record[..len]), Unreadable::Damaged, "cut to {len}");
    }
    assert_eq!(why(&[&[LAYOUT + 1], &record[1..]].concat()), Unreadable::NewerLayout);
    assert_eq!(read_record(&node_key(2), id(1), &record).unwrap_err(), Unreadable::OtherKey);
    assert_eq!(
        read_record(&key, id(2), &record).unwrap_err(),
        Unreadable::Damaged,
        "another session's place"
    );
    // The layout before: read, and kept if it does not open.
    let mut older = vec![LAYOUT_UNNAMED];
    older.extend(&record[1..VERSION_END]);
    older.extend(&record[VERSION_END + NAME_LEN..HEAD_LEN]);
    let plain_len = record.len() - HEAD_LEN - TAG_LEN;
    let opening = OpenKey::new(SUITE, &key.sealing_key(SealPurpose::Store, &salt));
    let mut plain = vec![0; plain_len];
    let _opened =
        opening.open(1, &associated(id(1), &record[..HEAD_LEN]), &record[HEAD_LEN..], &mut plain).unwrap();
    let (aad, head_len) = (associated(id(1), &older), older.len());
    older.resize(head_len + plain_len + TAG_LEN, 0);
    sealing.seal(1, &aad, &plain, &mut older[head_len..]).unwrap();
    let found = read_record(&key, id(1), &older).unwrap();
    assert!(found.session.same_as(&session(1)) && found.version == Version(7));
    assert_eq!(read_record(&node_key(2), id(1), &older).unwrap_err(), Unreadable::OtherKey);
}

/// R1.8: a record that ends before its version can still be told from none, and be removed.
#[test]
fn r1_8_a_stump_is_removed_like_any_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    let transaction = store.database.begin_write().unwrap();
    transaction.open_table(SESSIONS).unwrap().insert(&id(1).0, &[LAYOUT, 0, 0][..]).unwrap();
    transaction.commit().unwrap();
    let found = store.scan().unwrap().unreadable;
    let stump = UnreadableRecord { id: id(1), version: Version(0), why: Unreadable::Damaged };
    assert_eq!(found, [stump]);
    let conflict = Err(StoreError::Conflict { current: Some(Version(0)) });
    assert_eq!(store.put_if(id(1), Expected::Absent, session(1)), conflict);
    store.delete_if(id(1), Version(0)).unwrap();
    assert!(store.scan().unwrap().unreadable.is_empty());
}

/// R7.3: a file that its user may only read is named, and stays as it is.
#[test]
fn r7_3_a_read_only_file_is_named() {
    use nix::unistd::{Gid, Uid, chown, setfsuid};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    open(dir.path()).unwrap().put_if(id(1), Expected::Absent, session(1)).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = || open(dir.path()).unwrap_err();
    let error = if Uid::effective().is_root() {
        // Root may write everything; a thread that acts on files as somebody else may not (setfsuid(2)).
        let (uid, gid) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
        for place in [dir.path(), &path] {
            chown(place, Some(uid), Some(gid)).unwrap();
        }
        std::thread::scope(|scope| {
            let as_nobody = scope.spawn(|| {
                let _root = setfsuid(uid);
                refused()
            });
            as_nobody.join().unwrap()
        })
    } else {
        refused()
    };
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(
        error.to_string().contains(STORE_FILE) && error.to_string().contains("may this user write"),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(open(dir.path()).unwrap().get(id(1)).unwrap().is_some());
}

/// What a store that may be damaged says: every record as it was written, or what is wrong with which file.
fn judge(dir: &Path, written: u8, what: &str) -> bool {
    let scan = open(dir).and_then(|mut store| {
        let scan = store.scan()?;
        for n in 0..written {
            // Each of them is there as it was, is named as damaged, or the whole store is.
            match store.get(id(n)) {
                Ok(Some(found)) => assert_eq!(found.session.peer, session(n).peer, "{what}"),
                Ok(None) => panic!("{what}: session {n} is silently gone"),
                Err(error) => assert!(error.to_string().contains(STORE_FILE), "{what}: {error}"),
            }
        }
        match store.put_if(id(201), Expected::Absent, session(201)) {
            Ok(_) => store.delete_if(id(201), Version(1))?,
            Err(error) => return Err(error),
        }
        Ok(scan)
    });
    match scan {
        Ok(scan) => {
            assert_eq!(scan.sessions.len() + scan.unreadable.len(), usize::from(written), "{what}");
            true
        }
        Err(error) => {
            let said = error.to_string();
            assert!(
                matches!(error, StoreError::Damaged { .. } | StoreError::Unavailable { .. }),
                "{what}: {said}"
            );
            assert!(
                said.contains(STORE_FILE) && (said.contains("restore") || said.contains("refused")),
                "{said}"
            );
            false
        }
    }
}

/// R1.8, R7.3: octets changed anywhere in the file: its head, its commit slots, pages in use, pages that are free. Never a
/// panic, never a record that is silently another or gone; what the store cannot be trusted with it says.
#[test]
fn r1_8_a_file_changed_anywhere_is_whole_or_named() {
    const WRITTEN: u8 = 60;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    let mut store = open(dir.path()).unwrap();
    for n in 0..WRITTEN {
        store.put_if(id(n), Expected::Absent, session(n)).unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    assert!(judge(dir.path(), WRITTEN, "as it was"));
    // Every octet of the head, then steps that meet every page in another place.
    let places = (0..320).chain((320..whole.len()).step_by((whole.len() / 160) | 1));
    let mut refused = 0;
    for (round, at) in places.enumerate() {
        let mut changed = whole.clone();
        changed[at] ^= [0x01, 0x80, 0xff][round % 3];
        std::fs::write(&path, &changed).unwrap();
        refused += usize::from(!judge(dir.path(), WRITTEN, &format!("octet {at} changed")));
    }
    assert!(refused > 20, "{refused} changes were noticed");
}

/// R1.8: records that a newer version wrote are kept and named, not read and not overwritten.
#[test]
fn r1_8_records_of_a_newer_version_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    store.put_if(id(1), Expected::Absent, session(1)).unwrap();
    let name = store.node_key.name();
    let mut newer = seal(&store.key, name, (store.salt, 9), id(2), Version(4), &session(2));
    newer[0] = LAYOUT + 1;
    let transaction = store.database.begin_write().unwrap();
    transaction.open_table(SESSIONS).unwrap().insert(&id(2).0, newer.as_slice()).unwrap();
    transaction.commit().unwrap();
    let scan = store.scan().unwrap();
    let named = UnreadableRecord { id: id(2), version: Version(4), why: Unreadable::NewerLayout };
    assert_eq!((scan.sessions.len(), scan.unreadable), (1, vec![named]));
    assert!(matches!(store.get(id(2)), Err(StoreError::Damaged { .. })));
    let conflict = Err(StoreError::Conflict { current: Some(Version(4)) });
    assert_eq!(store.put_if(id(2), Expected::Absent, session(2)), conflict);
}

/// R7.3: a store on a disk that became read-only is named as such; the records are untouched.
#[test]
#[ignore = "needs root: mounts a tiny tmpfs"]
fn r7_3_a_read_only_disk_is_named() {
    use nix::mount::{MsFlags, mount, umount};
    let dir = tempfile::tempdir().unwrap();
    let mounted = |flags| mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, None::<&str>).unwrap();
    mounted(MsFlags::empty());
    let outcome = catch_unwind(|| {
        open(dir.path()).unwrap().put_if(id(1), Expected::Absent, session(1)).unwrap();
        mounted(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("Read-only") && error.to_string().contains(STORE_FILE), "{error}");
        mounted(MsFlags::MS_REMOUNT);
        assert!(open(dir.path()).unwrap().get(id(1)).unwrap().is_some());
    });
    umount(dir.path()).unwrap();
    outcome.unwrap();
}

/// R7.3: a directory that cannot be written is named at the start; a second process does not share the file.
#[test]
fn r7_3_an_unwritable_place_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = open(&dir.path().join("missing")).unwrap_err();
    assert!(matches!(missing, StoreError::Unavailable { .. }) && missing.to_string().contains("missing"));
    let _held = open(dir.path()).unwrap();
    assert!(open(dir.path()).is_err(), "one process at a time");
    if !nix::unistd::Uid::effective().is_root() {
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o500)).unwrap();
        assert!(open(&dir.path().join("sub")).is_err());
    }
}

/// R7.3: on a full disk changes fail, what was acknowledged stays, and with room again everything works.
#[test]
#[ignore = "needs root: mounts a tiny tmpfs"]
fn r7_3_a_full_disk_fails_births_and_loses_nothing() {
    use nix::mount::{MsFlags, mount, umount};
    let dir = tempfile::tempdir().unwrap();
    let options = Some("size=1200k");
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), options).unwrap();
    let filler = dir.path().join("filler");
    let outcome = catch_unwind(|| {
        let mut store = open(dir.path()).unwrap();
        store.put_if(id(1), Expected::Absent, session(1)).unwrap();
        // Takes what is left.
        let mut size = 4 << 20;
        while size > 0 {
            match std::fs::write(&filler, vec![0; size]) {
                Ok(()) => break,
                Err(_) => size /= 2,
            }
        }
        let mut failed = None;
        for n in 0..20_000u32 {
            let mut name = [0; 16];
            name[..4].copy_from_slice(&n.to_be_bytes());
            if let Err(error) = store.put_if(SessionId(name), Expected::Absent, session(2)) {
                failed = Some(error);
                break;
            }
        }
        assert!(matches!(failed, Some(StoreError::Unavailable { .. })), "{failed:?}");
        drop(store);
        std::fs::remove_file(&filler).unwrap();
        let mut store = open(dir.path()).unwrap();
        assert!(store.get(id(1)).unwrap().is_some());
        store.put_if(id(9), Expected::Absent, session(9)).unwrap();
    });
    umount(dir.path()).unwrap();
    outcome.unwrap();
}
