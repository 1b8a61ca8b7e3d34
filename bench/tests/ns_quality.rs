//! Loss spikes and flapping uplinks with the three real processes. Needs root and the binaries; run serially by
//! `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[allow(dead_code, reason = "shared with the tests of hostile traffic and of single crashes")]
#[path = "ns_resilience/lab.rs"]
mod lab;

use std::thread;
use std::time::{Duration, Instant};

use jvpn_bench::deployment::Role;
use jvpn_bench::events::{Cursor, Event, Watch};
use jvpn_rig::Uplink;
use jvpn_rig::impair::{Impairment, Impairments};

use lab::{Lab, is_client};

/// How long the spike is.
const SPIKE: Duration = Duration::from_secs(3);
/// A budget is a minute's.
const BUDGET_PATIENCE: Duration = Duration::from_secs(90);
/// Switches that policy allows in a minute.
const SWITCHES: u32 = 3;

fn changed(event: &Event, reason: &str) -> bool {
    event.is_audit("STATE_CHANGE") && event.text("reason_code") == reason
}

/// As [`Lab::await_event`], for what takes a minute.
fn await_long(lab: &mut Lab, what: &str, since: Cursor, wanted: impl Fn(&Event) -> bool) -> Event {
    let Lab { deployment, log, interrupt, .. } = lab;
    let mut health = || deployment.check();
    let mut watch = Watch { interrupt, health: &mut health };
    log.wait_for(what, since, BUDGET_PATIENCE, &mut watch, wanted).unwrap()
}

/// R1.7, R7.1, R9.2: 30 % of one direction is lost for three seconds: the gateway says VOLATILE with the loss that it
/// measured, both ends show it, nobody switches, and when it is over the session is ATTACHED again by its own judgement.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_1_a_loss_spike_is_volatile_and_passes() {
    let mut lab = Lab::prepare();
    lab.edit(Role::ControlPlane, "volatile_loss_percent = 100\n", "");
    lab.launch_all();
    let impairments = Impairments::new(&lab.rig);
    let heartbeat = lab.heartbeat();
    let before = lab.snapshot();
    let spikes = [
        (Impairment::LoseFromClient(30), "loss_in_percent", "loss_out_percent"),
        (Impairment::LoseToClient(30), "loss_out_percent", "loss_in_percent"),
    ];
    for (spike, at_gateway, at_client) in spikes {
        let (gateway, client) = (lab.places.control_plane_socket(), lab.places.client_socket());
        lab.await_status("quality is good", &gateway, |status| {
            let session = &status["sessions"][0];
            (session["quality"] == "good" && session["state"] == "ATTACHED").then_some(())
        });
        let (cursor, start) = (lab.log.end(), Instant::now());
        impairments.start(Uplink::A, spike).unwrap();
        lab.await_event("VOLATILE", cursor, |event| changed(event, "VOLATILITY_SIGNAL"));
        let took = start.elapsed();
        let lossy = |loss: &serde_json::Value| loss.as_f64().filter(|loss| *loss > 5.0);
        let gateway_saw = lab.await_status("the gateway shows the loss", &gateway, |status| {
            lossy(&status["sessions"][0][at_gateway])
        });
        let client_saw = lab.await_status("the client shows the loss", &client, |status| {
            lossy(&status["uplinks"][0]["quality"][at_client])
        });
        // A spike has a length.
        thread::sleep(SPIKE.saturating_sub(start.elapsed()));
        impairments.stop(Uplink::A, spike).unwrap();
        eprintln!(
            "{spike:?}: VOLATILE after {took:?}; the gateway saw {gateway_saw} %, the client {client_saw} %"
        );
        let policy = lab.await_event("the threshold is on record", cursor, |event| {
            event.is_audit("POLICY_EVENT") && event.text("policy_name") == "volatile_loss_percent"
        });
        assert_eq!(policy.number("threshold_value"), Some(5));
        assert!(policy.number("observed_value").unwrap() > 5);
        lab.await_event("ATTACHED again", cursor, |event| changed(event, "HEALTH_RECOVERED"));
        // A notice is one datagram: in a spike towards the client that of VOLATILE may be lost, and then nothing changes.
        let to = |event: &Event, state: &str| is_client(event, "state_change") && event.text("to") == state;
        if lab.log.since(cursor).iter().any(|event| to(event, "VOLATILE")) {
            lab.await_event("the client knows", cursor, |event| {
                is_client(event, "state_change") && event.text("reason") == "HEALTH_RECOVERED"
            });
        }
        lab.await_status("the client is ATTACHED", &client, |status| {
            (status["state"] == "ATTACHED").then_some(())
        });
        let switched = lab.log.since(cursor).iter().any(|event| is_client(event, "recovery_started"));
        assert!(!switched, "a spike is no reason to leave");
    }
    let after = lab.snapshot();
    assert_eq!((after.session_id, after.epoch), (before.session_id, before.epoch));
    assert_eq!((after.state.as_str(), after.client_state.as_str()), ("ATTACHED", "ATTACHED"));
    drop(heartbeat);
    lab.finish();
}

/// R1.7, R7.1: an uplink that comes and goes: as many switches as policy allows, then DEGRADED and COOLDOWN, and when the
/// budget is free the same session goes on.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_1_a_flapping_uplink_is_bounded_by_policy() {
    let mut lab = Lab::prepare();
    let preset = "preset = \"edge\"\n";
    lab.edit(Role::ControlPlane, preset, &format!("{preset}max_switches_per_min = {SWITCHES}\n"));
    lab.launch_all();
    let impairments = Impairments::new(&lab.rig);
    let heartbeat = lab.heartbeat();
    let before = lab.snapshot();
    let mut cursor = lab.log.end();
    let start = cursor;
    for round in 0..SWITCHES {
        let flapping = if round % 2 == 0 { Uplink::A } else { Uplink::B };
        cursor = lab.log.end();
        impairments.link_down(flapping).unwrap();
        lab.await_event("over the other uplink", cursor, |event| is_client(event, "recovery_complete"));
        impairments.link_up(flapping).unwrap();
        lab.await_replies(&heartbeat, 25);
    }
    lab.await_event("the budget is used up", cursor, |event| changed(event, "POLICY_FLAP_LIMIT"));
    assert_eq!(lab.snapshot().state, "DEGRADED");
    let cursor = lab.log.end();
    let flapping = if SWITCHES.is_multiple_of(2) { Uplink::A } else { Uplink::B };
    impairments.link_down(flapping).unwrap();
    lab.await_event("one more is refused", cursor, |event| {
        event.is_audit("REATTACH_REJECT") && event.text("reason_code") == "COOLDOWN"
    });
    impairments.link_up(flapping).unwrap();
    await_long(&mut lab, "back when the budget is free", cursor, |event| {
        is_client(event, "recovery_complete")
    });
    lab.await_replies(&heartbeat, 25);
    assert_eq!(lab.snapshot().session_id, before.session_id, "the same session");
    let switches: Vec<u64> = lab
        .log
        .since(start)
        .iter()
        .filter(|event| event.is_audit("TRANSPORT_SWITCH"))
        .filter_map(|event| event.number("ts_ms"))
        .collect();
    eprintln!("switches at {switches:?} ms");
    let within = |first: &u64| switches.iter().filter(|at| **at >= *first && **at < first + 60_000).count();
    assert!(switches.iter().map(within).max().unwrap() <= SWITCHES as usize, "I7");
    drop(heartbeat);
    lab.finish();
}
