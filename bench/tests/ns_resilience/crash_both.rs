//! Both processes of the gateway die; the client dies.

use std::time::Instant;

use jvpn_abi::wire::data::SlotId;
use jvpn_bench::deployment::Role;
use jvpn_bench::peers::tcp_echo::TcpEcho;
use jvpn_controlplane::store::embedded::STORE_FILE;
use jvpn_rig::Uplink;

use crate::lab::{Lab, PATIENCE, is_client, network, report_gap};
use crate::wire::{Wiretap, assert_serials_rise};

/// R1.1, R1.2, R1.3, R7.3, I11: SIGKILL of both processes: all keys are gone, the session is not. Its client takes it over:
/// the same SessionId one term higher, the same inner address, the same TCP connection, no handshake, no slot and no nonce
/// twice.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_gateway_that_died_as_a_whole_goes_on_with_the_same_session() {
    let mut lab = Lab::prepare();
    let taps = Uplink::ALL.map(|uplink| Wiretap::start(&lab.rig, uplink));
    lab.launch_all();
    let heartbeat = lab.heartbeat();
    let tcp = TcpEcho::start(&lab.rig, PATIENCE).unwrap();
    tcp.wait_for_echoes(20, PATIENCE, &lab.interrupt).unwrap();
    let first = lab.snapshot();
    let start = lab.log.end();
    let handshakes = lab.client_status()["counters"]["handshakes_sent"].clone();
    let mut slots = vec![first.slot];
    let orders = [[Role::ControlPlane, Role::DataPlane], [Role::DataPlane, Role::ControlPlane]];
    for (term, order) in (1..).zip(orders) {
        let (cursor, killed_at) = (lab.log.end(), Instant::now());
        order.into_iter().for_each(|role| lab.kill(role));
        // Either may be the first to be back.
        for role in order {
            lab.launch(role);
        }
        let loaded = lab.await_event("the session is loaded", cursor, |event| {
            event.is_audit("STATE_CHANGE") && event.text("reason_code") == "OWNER_RESTART"
        });
        assert_eq!(loaded.text("session_id"), first.session_id);
        assert_eq!(loaded.text("new_state"), "RECOVERING");
        lab.await_event("the client is back", cursor, |event| is_client(event, "recovery_complete"));
        lab.await_replies(&heartbeat, 50);
        tcp.wait_for_echoes(50, PATIENCE, &lab.interrupt).unwrap();
        report_gap("both processes killed and started again", &heartbeat, killed_at);
        let after = lab.snapshot();
        assert_eq!((&after.session_id, after.state.as_str()), (&first.session_id, "ATTACHED"));
        // Over either uplink: while nobody answered the client tried both.
        assert_eq!(after.state_version >> 40, term);
        let status = lab.control_plane_status();
        assert_eq!(status["counters"]["sessions_loaded"], 1);
        assert_eq!(status["counters"]["takeover_accepted"], 1);
        slots.push(after.slot);
    }
    let ends = lab.log.since(start).iter().filter(|event| is_client(event, "session_ended")).count();
    assert_eq!((ends, &lab.client_status()["counters"]["handshakes_sent"]), (0, &handshakes));
    let slots: Vec<_> = slots.into_iter().map(|slot| SlotId(u32::try_from(slot).unwrap())).collect();
    assert_serials_rise(&slots);
    assert_eq!(tcp.result().broken, None);
    drop((tcp, heartbeat));
    for tap in taps {
        tap.assert_no_nonce_twice();
    }
    lab.finish();
}

/// R1.2, R4.3, R7.3: the store is gone with both processes: the gateway's refusal ends the session explicitly, and the
/// client has a new one and says so.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r4_3_without_its_store_a_gateway_ends_sessions_explicitly() {
    let mut lab = Lab::attached();
    let heartbeat = lab.heartbeat();
    let old = lab.snapshot();
    let cursor = lab.log.end();
    lab.kill(Role::ControlPlane);
    lab.kill(Role::DataPlane);
    let state_dir = lab.places.audit_file().with_file_name("state");
    std::fs::remove_file(state_dir.join(STORE_FILE)).unwrap();
    lab.launch(Role::DataPlane);
    lab.launch(Role::ControlPlane);
    let ended = lab.await_event("the old session ends", cursor, |event| is_client(event, "session_ended"));
    assert_eq!(ended.text("session_id"), old.session_id);
    assert_eq!(ended.text("reason"), "SESSION_NOT_FOUND");
    assert_ne!(lab.await_attached(cursor), old.session_id);
    lab.await_replies(&heartbeat, 50);
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
