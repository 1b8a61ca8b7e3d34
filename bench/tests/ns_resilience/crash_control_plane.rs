//! The control plane dies and comes back: forwarding goes on without it, and it goes on from JOURNAL. What follows from
//! that (switches, the other process dying next) is in `ns_restart.rs`.

use std::time::{Duration, Instant};

use jvpn_abi::wire::data::SlotId;
use jvpn_bench::deployment::Role;
use jvpn_rig::Uplink;

use crate::lab::{Lab, report_gap, worker_counter};
use crate::wire::Wiretap;

/// Markers that come back while no control plane is there: two seconds' worth.
const MARKERS_ALONE: usize = 500;

/// Forwarding does not stop: nobody is there who could make it go on. What is seen is a machine that may be shared with
/// everything else.
const STUMBLE_MAX: Duration = Duration::from_secs(3);

/// R0.3, R1.2, R7.3, I11: SIGKILL under traffic, twice. Packets flow while nobody controls them; afterwards
/// the session, its binding and its version are what they were, and the client has noticed nothing.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_forwarding_outlives_the_control_plane_and_sessions_go_on() {
    let mut lab = Lab::prepare();
    let taps = Uplink::ALL.map(|uplink| Wiretap::start(&lab.rig, uplink));
    lab.launch_all();
    let data_plane = lab.deployment.pid(Role::DataPlane);
    let heartbeat = lab.heartbeat();
    let slot = SlotId(u32::try_from(lab.snapshot().slot).unwrap());
    for _ in 0..2 {
        let before = lab.snapshot();
        let forwarded = worker_counter(&lab.data_plane_status(), "forwarded_in");
        let (cursor, killed_at) = (lab.log.end(), Instant::now());
        lab.kill(Role::ControlPlane);
        lab.await_replies(&heartbeat, MARKERS_ALONE);
        let gap = report_gap("no control plane", &heartbeat, killed_at);
        assert!(gap < STUMBLE_MAX, "forwarding stopped for {gap:?} without a control plane");
        let forwarded = worker_counter(&lab.data_plane_status(), "forwarded_in") - forwarded;
        assert!(forwarded >= u64::try_from(MARKERS_ALONE).unwrap(), "{forwarded} packets were forwarded");
        assert_eq!(lab.client_status()["state"], "ATTACHED", "the client noticed nothing");

        let started_at = Instant::now();
        lab.launch(Role::ControlPlane);
        lab.await_replies(&heartbeat, 50);
        report_gap("control plane started again", &heartbeat, started_at);
        lab.await_event("the start is on record", cursor, |event| event.is_audit("NODE_STARTED"));
        assert_eq!(lab.snapshot(), before, "nothing happened to the session");
        assert_eq!(lab.client_status()["counters"]["sessions"], 1);
        assert_eq!(lab.deployment.pid(Role::DataPlane), data_plane);
    }
    drop(heartbeat);
    for tap in taps {
        let seen = tap.assert_no_nonce_twice();
        assert!(seen.iter().all(|seen| *seen == slot), "{seen:?} beside {slot:?}");
    }
    lab.finish();
}
