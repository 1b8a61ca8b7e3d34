//! Ordinary life: status, idleness, an end in order.

use std::fs;
use std::thread;
use std::time::Duration;

use jvpn_bench::deployment::Role;
use jvpn_bench::peers::icmp::ping;
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::wait;
use serde_json::Value;

use crate::lab::{Lab, PATIENCE, network};

/// How long idleness is measured.
const IDLE_SPAN: Duration = Duration::from_secs(3);
/// What a process without traffic may use of one CPU, percent.
const IDLE_CPU_MAX_PERCENT: f64 = 2.0;
/// Unit of /proc/PID/stat: USER_HZ, the same on every architecture that this runs on (asm-generic/param.h).
const TICKS_PER_SECOND: u32 = 100;

/// R1.5, R6.1: `jvpn status` shows all three processes as text and as JSON; `jvpn down` ends the agent and
/// the session, and takes device, routes and rules away.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r1_5_status_shows_all_three_and_down_leaves_nothing() {
    let mut lab = Lab::prepare();
    let bare = network(lab.rig.client());
    lab.launch_all();
    ping(lab.rig.client(), LAN_SERVER, 3, PATIENCE, &lab.interrupt).unwrap();
    let session = lab.snapshot().session_id;
    let sockets = [
        (lab.places.client_socket(), "jvpn", ["ATTACHED", "upA", "aes-256-gcm", session.as_str()]),
        (
            lab.places.control_plane_socket(),
            "jvpn-controlplane",
            ["ATTACHED", "demo-client", "HANDSHAKE_OK", session.as_str()],
        ),
        (lab.places.data_plane_socket(), "jvpn-dataplane", ["native", "copy", "forwarded in", "XDP mode"]),
    ];
    for (socket, process, words) in sockets {
        let socket = socket.to_str().unwrap();
        let text = lab.jvpn(&["status", "--socket", socket]);
        assert!(text.starts_with(&format!("{process} ({socket})\n")), "{text}");
        for word in words {
            assert!(text.contains(word), "{process} does not show {word}:\n{text}");
        }
        let json: Value = serde_json::from_str(&lab.jvpn(&["status", "--json", "--socket", socket])).unwrap();
        assert_eq!(json["process"], process);
    }

    let cursor = lab.log.end();
    let socket = lab.places.client_socket();
    lab.jvpn(&["down", "--socket", socket.to_str().unwrap()]);
    // It returned, so everything is gone.
    assert_eq!(network(lab.rig.client()), bare);
    assert!(!socket.exists(), "the status socket is left");
    // Whoever asks it to end after this finds it ended: it needs no signal.
    wait::until("the agent ends by itself", PATIENCE, &lab.interrupt, || {
        Ok(lab.deployment.check().is_err().then_some(()))
    })
    .unwrap();
    lab.end(Role::Client);
    let terminated = lab.await_event("the gateway hears of it", cursor, |event| {
        event.is_audit("STATE_CHANGE") && event.text("new_state") == "TERMINATED"
    });
    assert_eq!(terminated.text("reason_code"), "PEER_TERMINATE");
    assert_eq!(lab.control_plane_status()["live_sessions"], 0);
    lab.finish();
}

/// R8.3: without traffic nobody spins.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r8_3_idle_processes_sleep() {
    let mut lab = Lab::attached();
    let used = |lab: &Lab| Role::ALL.map(|role| cpu_time(lab.deployment.pid(role).unwrap()));
    let before = used(&lab);
    assert_ne!(before, [Duration::ZERO; 3], "starting costs something, so this measures");
    // The span is what is measured, so there is no event to wait for.
    thread::sleep(IDLE_SPAN);
    let after = used(&lab);
    lab.deployment.check().unwrap();
    for ((role, before), after) in Role::ALL.into_iter().zip(before).zip(after) {
        let percent = (after - before).as_secs_f64() * 100.0 / IDLE_SPAN.as_secs_f64();
        eprintln!("  idle: {} uses {percent:.1} % of one CPU", role.program());
        assert!(percent < IDLE_CPU_MAX_PERCENT, "{} uses {percent:.1} %", role.program());
    }
    lab.finish();
}

/// User and system time of a process and all its threads (fields 14 and 15 of /proc/PID/stat).
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u32 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u32>().unwrap()).sum();
    Duration::from_secs(1) * ticks / TICKS_PER_SECOND
}
