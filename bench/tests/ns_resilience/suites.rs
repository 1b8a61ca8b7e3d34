//! What is offered and what is not accepted: suites, and keys that do not belong together.

use std::fs;

use jvpn_bench::deployment::Role;
use jvpn_bench::peers::icmp::ping;
use jvpn_bench::peers::tcp_echo::TcpEcho;
use jvpn_crypto::keys::StaticSecret;
use jvpn_crypto::rng::OsRandom;
use jvpn_rig::TUNNEL_PORT;
use jvpn_rig::capture::{Capture, Direction, Keep, Match, Port};
use jvpn_rig::topology::LAN_SERVER;

use crate::lab::{Lab, PATIENCE, is_client};

const CHACHA_ONLY: &str = "suites = [\"chacha20-poly1305\"]";
const AES_ONLY: &str = "suites = [\"aes-256-gcm\"]";

/// Everything that leaves the gateway's port.
fn answers(lab: &Lab) -> Capture {
    let any = Match { direction: Direction::Incoming, port: Port::Source(TUNNEL_PORT), first_octet: None };
    Capture::start(lab.rig.router(), "rW", any, Keep::Count).unwrap()
}

/// Waits until the gateway has counted this at least so often.
fn await_counter(lab: &mut Lab, name: &str, least: u64) {
    let socket = lab.places.control_plane_socket();
    lab.await_status(name, &socket, |status| {
        (status["counters"][name].as_u64().unwrap_or_default() >= least).then_some(())
    });
}

fn assert_no_session(lab: &Lab) {
    let (client, gateway) = (lab.client_status(), lab.control_plane_status());
    assert_eq!(client["state"], "SEARCHING", "{client}");
    assert_eq!(client["session_id"], serde_json::Value::Null);
    assert_eq!(gateway["live_sessions"], 0, "{gateway}");
    assert_eq!(gateway["counters"]["sessions_born"], 0);
}

fn another_key() -> StaticSecret {
    StaticSecret::generate(&mut OsRandom::checked().unwrap()).unwrap()
}

/// R5.1: the suite that the client insists on is used end to end; without a common one the client is told why
/// there is no session.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r5_1_suites_are_negotiated_or_clearly_refused() {
    let mut lab = Lab::prepare();
    lab.edit(Role::Client, "\n[interface]", &format!("{CHACHA_ONLY}\n\n[interface]"));
    lab.launch_all();
    assert_eq!(lab.client_status()["suite"], "chacha20-poly1305");
    assert_eq!(lab.control_plane_status()["sessions"][0]["suite"], "chacha20-poly1305");
    ping(lab.rig.client(), LAN_SERVER, 3, PATIENCE, &lab.interrupt).unwrap();
    let echo = TcpEcho::start(&lab.rig, PATIENCE).unwrap();
    echo.wait_for_echoes(20, PATIENCE, &lab.interrupt).unwrap();
    drop(echo);
    lab.end(Role::Client);

    lab.end(Role::ControlPlane);
    lab.edit(Role::ControlPlane, "\n[policy]", &format!("{AES_ONLY}\n\n[policy]"));
    lab.launch(Role::ControlPlane);
    let cursor = lab.log.end();
    lab.launch(Role::Client);
    let refused = lab.await_event("a refusal", cursor, |event| is_client(event, "refused"));
    assert_eq!(refused.text("reason"), "VERSION_UNSUPPORTED");
    await_counter(&mut lab, "handshake_refused.VERSION_UNSUPPORTED", 1);
    assert_no_session(&lab);
    assert!(lab.logs().contains("VERSION_UNSUPPORTED"), "the user is not told");
    lab.finish();
}

/// R2.1, R5.1: whoever does not know the gateway's key meets silence; so does a client that the gateway does
/// not know. Both are counted, the second is a security event.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r2_1_wrong_keys_meet_silence_and_are_counted() {
    let mut lab = Lab::prepare();
    let answers = answers(&lab);
    let path = lab.places.config_dir.join(Role::Client.config_file());
    let right = fs::read_to_string(&path).unwrap();
    let line = right.lines().find(|line| line.starts_with("public_key")).unwrap();
    lab.edit(Role::Client, line, &format!("public_key = \"{}\"", another_key().public()));
    lab.launch(Role::DataPlane);
    lab.launch(Role::ControlPlane);
    lab.launch(Role::Client);
    await_counter(&mut lab, "handshake_mac_wrong", 3);
    assert_no_session(&lab);
    assert_eq!(answers.count(), 0, "the gateway answered somebody who does not know it");
    lab.end(Role::Client);

    fs::write(&path, right).unwrap();
    fs::write(lab.places.config_dir.join("client.key"), another_key().to_base64().as_bytes()).unwrap();
    let cursor = lab.log.end();
    lab.launch(Role::Client);
    await_counter(&mut lab, "handshake_refused.POLICY_DENY", 3);
    let event = lab.await_event("a security event", cursor, |event| event.is_audit("SECURITY_EVENT"));
    assert_eq!(event.text("violation_type"), "UNKNOWN_PEER");
    assert_no_session(&lab);
    answers.complete().unwrap();
    assert_eq!(answers.count(), 0, "the gateway answered somebody whom it does not know");
    lab.finish();
}
