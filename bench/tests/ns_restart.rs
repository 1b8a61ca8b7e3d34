//! The gateway's processes die under traffic and go on: with the three real processes in real namespaces. Needs root and
//! the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[allow(dead_code, reason = "shared with the tests of hostile traffic and of single crashes")]
#[path = "ns_resilience/lab.rs"]
mod lab;
#[allow(dead_code, reason = "shared as well")]
#[path = "ns_resilience/wire.rs"]
mod wire;

use std::time::Instant;

use jvpn_bench::deployment::Role;
use jvpn_rig::Uplink;
use jvpn_rig::impair::{Impairment, Impairments};

use lab::{Lab, is_client, report_gap};
use wire::Wiretap;

/// Markers that come back while no control plane is there: a second's worth.
const MARKERS_ALONE: usize = 250;

/// R0.3, R1.2, R7.3, I11: SIGKILL of the control plane under traffic, three times. No marker is lost, no key meets a nonce
/// twice, the client notices nothing, and each successor moves the same session to another path.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_killed_control_plane_goes_on_with_the_same_session() {
    let mut lab = Lab::prepare();
    let taps = Uplink::ALL.map(|uplink| Wiretap::start(&lab.rig, uplink));
    lab.launch_all();
    let impairments = Impairments::new(&lab.rig);
    let heartbeat = lab.heartbeat();
    let (first, start) = (lab.snapshot(), lab.log.end());
    let handshakes = lab.client_status()["counters"]["handshakes_sent"].clone();
    for (round, cut) in [(1, Uplink::A), (2, Uplink::B), (3, Uplink::A)] {
        let (before, missing_before) = (lab.snapshot(), heartbeat.missing());
        let (cursor, killed_at) = (lab.log.end(), Instant::now());
        lab.kill(Role::ControlPlane);
        lab.await_replies(&heartbeat, MARKERS_ALONE);
        lab.launch(Role::ControlPlane);
        lab.await_replies(&heartbeat, MARKERS_ALONE);
        report_gap("control plane killed and started again", &heartbeat, killed_at);
        assert_eq!(heartbeat.missing(), missing_before, "markers were lost");
        lab.await_event("the start is on record", cursor, |event| event.is_audit("NODE_STARTED"));
        assert_eq!(lab.snapshot(), before, "nothing happened to the session");
        let status = lab.control_plane_status();
        assert_eq!(status["counters"]["sessions_adopted"], 1);
        assert_eq!(status["counters"]["slot_reset_sent"], 0);
        assert_eq!(lab.client_status()["counters"]["resets"], 0);

        let cursor = lab.log.end();
        impairments.start(cut, Impairment::Cut).unwrap();
        lab.await_event("the client is back over the other path", cursor, |event| {
            is_client(event, "recovery_complete")
        });
        lab.await_replies(&heartbeat, 50);
        impairments.stop(cut, Impairment::Cut).unwrap();
        let after = lab.snapshot();
        assert_eq!(
            (after.session_id.as_str(), after.state.as_str()),
            (first.session_id.as_str(), "ATTACHED")
        );
        assert!(
            after.epoch > before.epoch
                && after.slot != before.slot
                && after.state_version > before.state_version
        );
        // One per round, and more only if they are on record: a machine that stands still looks like a dead path.
        let switches = lab.log.since(start).iter().filter(|event| event.is_audit("TRANSPORT_SWITCH")).count();
        assert!(switches >= round, "{switches}");
        assert_eq!(lab.control_plane_status()["sessions"][0]["switches"], switches);
    }
    assert_eq!(lab.client_status()["counters"]["handshakes_sent"], handshakes, "one session all along");
    drop(heartbeat);
    for tap in taps {
        tap.assert_no_nonce_twice();
    }
    lab.finish();
}

/// R1.2, R7.3: the control plane dies and goes on; then the data plane dies too, whose keys nobody else has: the
/// session recovers (DATA_PLANE_LOST) instead of ending.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_one_after_the_other_the_session_recovers() {
    let mut lab = Lab::attached();
    let heartbeat = lab.heartbeat();
    let before = lab.snapshot();
    let handshakes = lab.client_status()["counters"]["handshakes_sent"].clone();
    lab.kill(Role::ControlPlane);
    lab.launch(Role::ControlPlane);
    lab.await_replies(&heartbeat, 50);
    let cursor = lab.log.end();
    lab.kill(Role::DataPlane);
    lab.launch(Role::DataPlane);
    lab.await_event("the keys are gone", cursor, |event| {
        event.is_audit("STATE_CHANGE") && event.text("reason_code") == "DATA_PLANE_LOST"
    });
    lab.await_event("the client is back", cursor, |event| is_client(event, "recovery_complete"));
    lab.await_replies(&heartbeat, 50);
    let after = lab.snapshot();
    assert_eq!((after.session_id, after.state.as_str()), (before.session_id, "ATTACHED"));
    assert!(after.epoch > before.epoch);

    // The keys of the new binding are known again: this time the data plane goes on from CONTEXT.
    let before = lab.snapshot();
    lab.kill(Role::DataPlane);
    lab.launch(Role::DataPlane);
    lab.await_replies(&heartbeat, 50);
    assert_eq!(lab.snapshot().session_id, before.session_id);
    assert_eq!(lab.client_status()["counters"]["handshakes_sent"], handshakes);
    drop(heartbeat);
    lab.finish();
}
