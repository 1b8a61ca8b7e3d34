//! What an operator changes while sessions run.

use crate::rig::{PATH_A, PATH_B, Rig, peer_settings};
use jvpn_abi::Reason;
use jvpn_controlplane::engine::PeersChanged;
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
