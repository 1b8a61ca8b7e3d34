//! The data plane dies and comes back: it goes on from CONTEXT.

use std::collections::BTreeSet;
use std::time::Instant;

use jvpn_abi::wire::MsgType;
use jvpn_bench::deployment::Role;
use jvpn_bench::peers::heartbeat::{MARKER_PORT, Marker};
use jvpn_bench::peers::tcp_echo::TcpEcho;
use jvpn_rig::capture::{Capture, Keep, Match};
use jvpn_rig::frame::Datagram;
use jvpn_rig::hold::outer_source;
use jvpn_rig::inject::Injector;
use jvpn_rig::{TUNNEL_PORT, Uplink};

use crate::lab::{Lab, PATIENCE, is_client, report_gap, worker_counter};
use crate::wire::{Wiretap, payloads};

/// A client that probes so rarely does not notice a restart.
pub(crate) const PATIENT: &str = "preset = \"edge\"\nprobe_traffic = \"20s\"";

/// DATA that is replayed after the restart.
const REPLAYED: usize = 200;

/// Markers that came out at the LAN: each at most once, whatever was replayed.
fn assert_no_marker_twice(lan: &Capture) {
    lan.complete().unwrap();
    let mut seen = BTreeSet::new();
    for captured in lan.frames() {
        let marker = Datagram::parse(&captured.frame).and_then(|datagram| Marker::decode(datagram.payload));
        assert!(seen.insert(marker.unwrap().sequence), "{marker:?} came out twice");
    }
}

/// R0.3, R1.2, R2.4, I11: SIGKILL under traffic. Session, epoch, slot and TCP connection live on without any
/// message between client and control plane; counters and replay windows go on, so that what was recorded
/// before is refused after.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r1_2_a_killed_data_plane_goes_on_from_context() {
    let mut lab = Lab::prepare();
    lab.edit(Role::ControlPlane, "preset = \"edge\"", PATIENT);
    let lan = Capture::start(lab.rig.lan(), "eth0", Match::arriving(MARKER_PORT, None), Keep::All).unwrap();
    let data = Match::arriving(TUNNEL_PORT, Some(MsgType::Data.octet()));
    let tap = Wiretap::start(&lab.rig, Uplink::A);
    lab.launch_all();
    let heartbeat = lab.heartbeat();
    let echo = TcpEcho::start(&lab.rig, PATIENCE).unwrap();
    echo.wait_for_echoes(20, PATIENCE, &lab.interrupt).unwrap();
    let source = outer_source(&lab.rig, Uplink::A, &lab.interrupt).unwrap();
    let recording = Capture::start(lab.rig.router(), "rA", data, Keep::First(REPLAYED)).unwrap();
    let wanted = u64::try_from(REPLAYED).unwrap();
    recording.wait_for("DATA to replay", wanted, PATIENCE, &lab.interrupt).unwrap();
    let recorded = payloads(&recording.frames());
    lab.await_replies(&heartbeat, 25);
    let (before, requests) = (lab.snapshot(), lab.client_status()["counters"]["requests_sent"].clone());

    let (cursor, killed_at) = (lab.log.end(), Instant::now());
    lab.kill(Role::DataPlane);
    lab.launch(Role::DataPlane);
    lab.await_replies(&heartbeat, 50);
    echo.wait_for_echoes(20, PATIENCE, &lab.interrupt).unwrap();
    let gap = report_gap("data plane killed and started again", &heartbeat, killed_at);
    assert!(gap < PATIENCE);

    assert_eq!(lab.snapshot(), before, "nothing happened to the session");
    let client = lab.client_status();
    assert_eq!(client["counters"]["handshakes_sent"], 1);
    assert_eq!(client["counters"]["requests_sent"], requests, "nothing was asked of the control plane");
    let moved = lab.log.since(cursor).into_iter().find(|event| event.is_audit("STATE_CHANGE"));
    assert_eq!(moved, None);

    let refused = worker_counter(&lab.data_plane_status(), "replayed");
    assert_eq!(refused, 0);
    let injector = Injector::new(&lab.rig).unwrap();
    recorded.iter().for_each(|datagram| injector.send(source, datagram).unwrap());
    let socket = lab.places.data_plane_socket();
    lab.await_status("every replayed DATA is refused and counted", &socket, |status| {
        (worker_counter(status, "replayed") >= wanted).then_some(())
    });
    lab.await_replies(&heartbeat, 25);
    assert_eq!(lab.snapshot(), before, "replays change nothing");
    assert_no_marker_twice(&lan);
    let slots: Vec<_> = tap.assert_no_nonce_twice().into_iter().map(|slot| u64::from(slot.0)).collect();
    assert_eq!(slots, [before.slot]);
    assert_eq!(echo.result().broken, None);
    drop((heartbeat, echo));
    lab.finish();
}

/// R1.2, R7.3, I13: a client that does notice, because the restart takes long, asks while nobody forwards,
/// and reattaches as soon as somebody does: the same session, no handshake, the TCP connection lives.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_3_a_client_that_notices_reattaches_to_the_next_data_plane() {
    let mut lab = Lab::attached();
    let heartbeat = lab.heartbeat();
    let echo = TcpEcho::start(&lab.rig, PATIENCE).unwrap();
    echo.wait_for_echoes(20, PATIENCE, &lab.interrupt).unwrap();
    let before = lab.snapshot();
    let (cursor, killed_at) = (lab.log.end(), Instant::now());
    lab.kill(Role::DataPlane);
    lab.await_event("the client notices", cursor, |event| is_client(event, "recovery_started"));
    lab.launch(Role::DataPlane);
    lab.await_event("the client is back", cursor, |event| is_client(event, "recovery_complete"));
    lab.await_replies(&heartbeat, 50);
    echo.wait_for_echoes(20, PATIENCE, &lab.interrupt).unwrap();
    report_gap("data plane killed, noticed and started again", &heartbeat, killed_at);
    let after = lab.snapshot();
    assert_eq!(after.session_id, before.session_id);
    assert_eq!((after.state.as_str(), after.client_state.as_str()), ("ATTACHED", "ATTACHED"));
    assert!(after.epoch > before.epoch && after.slot != before.slot, "{before:?} {after:?}");
    assert_eq!(lab.client_status()["counters"]["handshakes_sent"], 1);
    assert_eq!(echo.result().broken, None);
    drop((heartbeat, echo));
    lab.finish();
}
