//! Both processes of the gateway die; the client dies.

use jvpn_abi::wire::data::SlotId;
use jvpn_bench::deployment::Role;

use crate::lab::{Lab, is_client, network};
use crate::wire::assert_serials_rise;

/// R1.2, R7.3, I11: with both processes all keys are gone. The client is told, has a new session, and says
/// so.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_gateway_that_died_as_a_whole_ends_sessions_explicitly() {
    let mut lab = Lab::attached();
    let heartbeat = lab.heartbeat();
    let before = lab.snapshot();
    for order in [[Role::ControlPlane, Role::DataPlane], [Role::DataPlane, Role::ControlPlane]] {
        let old = lab.snapshot();
        let cursor = lab.log.end();
        order.into_iter().for_each(|role| lab.kill(role));
        // Either may be the first to be back.
        for role in order {
            lab.launch(role);
        }
        let ended =
            lab.await_event("the old session ends", cursor, |event| is_client(event, "session_ended"));
        assert_eq!(ended.text("session_id"), old.session_id);
        assert_eq!(ended.text("reason"), "SESSION_NOT_FOUND");
        assert_ne!(lab.await_attached(cursor), old.session_id);
        lab.await_replies(&heartbeat, 50);
        let slots = [old.slot, lab.snapshot().slot].map(|slot| SlotId(u32::try_from(slot).unwrap()));
        assert_ne!(slots[0], slots[1]);
        assert_serials_rise(&slots);
    }
    assert_ne!(lab.snapshot().session_id, before.session_id);
    drop(heartbeat);
    lab.finish();
}

/// R1.2, R7.3: a client that was killed leaves no device; its routes and rules are swept at its next start,
/// and its new session supersedes the old one.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_killed_client_is_swept_and_superseded_by_its_successor() {
    let mut lab = Lab::prepare();
    let bare = network(lab.rig.client());
    lab.launch_all();
    let up = network(lab.rig.client());
    assert!(up.contains("jvpn0") && up.is_superset(&bare), "{up:?}");
    let before = lab.snapshot();

    lab.kill(Role::Client);
    let left: Vec<_> = network(lab.rig.client()).difference(&bare).cloned().collect();
    assert!(left.iter().all(|line| !line.contains("jvpn0") && !line.contains("192.168.50.")), "{left:?}");

    let cursor = lab.log.end();
    lab.launch(Role::Client);
    let session = lab.await_attached(cursor);
    assert_ne!(session, before.session_id);
    let superseded = lab.await_event("the old session is superseded", cursor, |event| {
        event.is_audit("STATE_CHANGE") && event.text("reason_code") == "SUPERSEDED"
    });
    assert_eq!(superseded.text("session_id"), before.session_id);
    assert_eq!(superseded.text("new_state"), "TERMINATED");
    let heartbeat = lab.heartbeat();
    assert_eq!(lab.snapshot().session_id, session);
    assert_eq!(network(lab.rig.client()), up, "nothing twice, nothing left over");
    drop(heartbeat);
    lab.end(Role::Client);
    assert_eq!(network(lab.rig.client()), bare);
    lab.finish();
}
