//! What an operator changes while sessions run.

use crate::rig::{PATH_A, PATH_B, Rig, peer_settings};
use jvpn_abi::Reason;
use jvpn_controlplane::audit::{AuditKind, Encoder, NOTE_MAX};
use jvpn_controlplane::engine::{AdminCommand, PeersChanged};
use jvpn_session::Policy;

/// R5.3: a new allow-list touches only those whom it changes: one stays, one is revoked, one changes, one is new.
#[test]
fn r5_3_peers_are_replaced_without_touching_others() {
    let mut rig = Rig::new(Policy::default());
    let stays = rig.attached(0);
    let revoked = rig.attached(1);
    let mut changed = rig.attached(2);
    let version_before = rig.status(&stays).state_version;

    let mut other = peer_settings(2);
    other.prefixes.truncate(1);
    let outcome = rig.engine.replace_peers(rig.now, vec![peer_settings(0), other], &rig.tables.contexts);
    rig.pump();
    assert_eq!(outcome, PeersChanged { added: 0, removed: 1, changed: 1, kept: 1 });
    assert_eq!(rig.status(&stays).state_version, version_before, "untouched");
    assert_eq!(rig.state(&revoked), ("TERMINATED", Reason::KeyRevoked));
    assert_eq!(rig.state(&changed), ("TERMINATED", Reason::AdminTerminate));

    // The revoked key meets silence, the others get in.
    let mut again = revoked;
    let (init, _) = again.init(&mut rig);
    rig.ask_in_vain(PATH_B(), &init);
    changed.handshake(&mut rig, PATH_A());
    assert_eq!(rig.state(&changed).0, "BIRTH");

    // Named again, it is allowed again.
    let all = (0..3).map(peer_settings).collect();
    let outcome = rig.engine.replace_peers(rig.now, all, &rig.tables.contexts);
    rig.pump();
    assert_eq!((outcome.added, outcome.kept), (1, 1));
    again.handshake(&mut rig, PATH_A());
    assert_eq!(rig.state(&again).0, "BIRTH");
    rig.check_audit();
}

/// R6.4: a session's timeline names every transition with its reason, oldest first, and is bounded.
#[test]
fn r6_4_the_timeline_of_a_session() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    client.switch(&mut rig, PATH_B());
    let rows = |rig: &Rig| {
        let detail = rig.engine.session_detail(client.session(), rig.now, &rig.tables.contexts).unwrap();
        detail.timeline.iter().map(|row| (row.to, row.reason, row.state_version)).collect::<Vec<_>>()
    };
    let expected = [
        ("BIRTH", "HANDSHAKE_START", 0),
        ("ATTACHED", "HANDSHAKE_OK", 1),
        ("RECOVERING", "RECOVERY_START", 2),
        ("ATTACHED", "TRANSPORT_SWITCH_OK", 3),
    ];
    assert_eq!(rows(&rig), expected);
    assert!(
        rig.engine
            .session_detail(jvpn_session::messages::SessionId([0; 16]), rig.now, &rig.tables.contexts)
            .is_none()
    );
}

/// R6.1: an operator's words stand in the audit event of the end that they belong to and in no other: bounded, on one line,
/// and escaped whatever they contain.
#[test]
fn r6_1_an_operators_words_stand_in_the_audit_event() {
    let mut rig = Rig::new(Policy::default());
    let encoder = Encoder { node_id: "gw1".into(), unix_offset_ms: 0 };
    let said = "lost \"laptop\", ticket 7\n{\u{1b}[2Jé}";
    let long = "x".repeat(10_000);
    for (peer, why, kept) in [
        (0, said, Some("lost \"laptop\", ticket 7{[2Jé}".to_owned())),
        (1, long.as_str(), Some("x".repeat(NOTE_MAX))),
        // And nothing is left of the words before.
        (2, " \n\t ", None),
    ] {
        let client = rig.attached(peer);
        let end = AdminCommand::TerminateSession(client.session());
        rig.engine.handle_admin_because(rig.now, &end, why, &rig.tables.contexts).unwrap();
        rig.pump();
        assert_eq!(rig.state(&client), ("TERMINATED", Reason::AdminTerminate));
        let line = rig.lines.iter().rfind(|line| matches!(line.event.kind, AuditKind::Termination { .. }));
        let text = encoder.encode(line.unwrap());
        assert!(!text.contains(['\n', '\u{1b}']), "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json.get("note").and_then(|note| note.as_str()), kept.as_deref());
    }
}
