//! The traffic that judges the tunnel, on a network without a tunnel: the gateway's kernel forwards. Needs
//! root; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jvpn_bench::peers::download::Download;
use jvpn_bench::peers::heartbeat::{Heartbeat, MARKER_PORT, Marker, Phase};
use jvpn_bench::peers::icmp::ping;
use jvpn_bench::peers::tcp_echo::TcpEcho;
use jvpn_rig::capture::{Capture, Keep, Match};
use jvpn_rig::frame::Datagram;
use jvpn_rig::impair::{Impairment, Impairments};
use jvpn_rig::topology::{GATEWAY_WAN, LAN_SERVER};
use jvpn_rig::{Interrupt, Rig, Uplink, tool, wait};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long an outage is that is made.
const CUT: Duration = Duration::from_millis(300);
/// A pause that nobody made.
const DISTURBED: Duration = Duration::from_millis(100);
/// So many outages are made until one is undisturbed.
const ROUNDS_MAX: usize = 20;

/// A rig with the ways that only a tunnel gives otherwise.
fn plain_network() -> Rig {
    let rig = Rig::create().unwrap();
    tool::IP.run(Some(rig.lan()), &["route", "add", "198.51.100.0/24", "via", "192.168.50.1"]).unwrap();
    tool::IP.run(Some(rig.router()), &["route", "add", "192.168.50.0/24", "via", "198.51.100.1"]).unwrap();
    rig
}

/// R8.4: an outage that is made is the outage that is measured, and a TCP connection outlives it.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_outage_is_measured_as_long_as_it_was() {
    let rig = plain_network();
    let interrupt = Interrupt::default();
    let impairments = Impairments::new(&rig);
    let observer = Capture::start(rig.lan(), "eth0", Match::arriving(MARKER_PORT, None), Keep::All).unwrap();
    let heartbeat = Heartbeat::start(&rig).unwrap();
    let echo = TcpEcho::start(&rig, PATIENCE).unwrap();
    heartbeat.wait_for_replies(50, PATIENCE, &interrupt).unwrap();
    heartbeat.set_phase(Phase::HeldForControl);
    // A machine that stands still is an outage as well: the ruler is exact where nothing disturbs it.
    let mut seen = Vec::new();
    while !seen.iter().any(|(noise, excess)| *noise < DISTURBED && *excess < DISTURBED) {
        assert!(seen.len() < ROUNDS_MAX, "noise, and what was measured more than was cut: {seen:?}");
        let quiet = Instant::now();
        heartbeat.wait_for_replies(50, PATIENCE, &interrupt).unwrap();
        let noise = heartbeat.longest_pause(quiet);
        let start = Instant::now();
        impairments.start(Uplink::A, Impairment::Cut).unwrap();
        let from = Instant::now();
        let elapsed = || Ok((from.elapsed() >= CUT).then_some(()));
        wait::until("the cut", PATIENCE, &interrupt, elapsed).unwrap();
        impairments.stop(Uplink::A, Impairment::Cut).unwrap();
        let end = start.elapsed();
        heartbeat.wait_for_replies(20, PATIENCE, &interrupt).unwrap();
        let pause = heartbeat.longest_pause(start);
        assert!(pause >= CUT - Duration::from_millis(20), "{pause:?}");
        seen.push((noise, pause.saturating_sub(end)));
    }

    echo.wait_for_echoes(20, PATIENCE, &interrupt).unwrap();
    let result = echo.result();
    assert_eq!(result.broken, None);
    assert!(result.longest_pause >= CUT - Duration::from_millis(20), "{result:?}");

    observer.complete().unwrap();
    let frames = observer.frames();
    let markers: Vec<_> =
        frames.iter().map(|f| Marker::decode(Datagram::parse(&f.frame).unwrap().payload).unwrap()).collect();
    let sequences: Vec<_> = markers.iter().map(|marker| marker.sequence).collect();
    // Not in order: a sender that moves to another CPU overtakes itself in the kernel's queues.
    assert_eq!(sequences.iter().collect::<BTreeSet<_>>().len(), sequences.len(), "each marker once");
    assert!(u64::try_from(markers.len()).unwrap() < heartbeat.sent(), "some were cut off");
    assert!(markers.iter().any(|marker| marker.phase == Phase::HeldForControl));
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_download_arrives_whole_and_a_broken_one_is_an_error() {
    let rig = plain_network();
    let interrupt = Interrupt::default();
    let download = Download::start(&rig, 64 << 20, 7, PATIENCE).unwrap();
    download.wait_for_share(30, &interrupt).unwrap();
    let result = download.finish(&interrupt).unwrap();
    assert!(result.sha256_ok);
    assert_eq!(result.octets, 64 << 20);
    assert!(result.rate_mbit_s() > 1.0);

    // Its port is free again, and it fails where there is no way.
    Impairments::new(&rig).start(Uplink::A, Impairment::Cut).unwrap();
    assert!(Download::start(&rig, 1 << 20, 7, Duration::from_millis(200)).is_err());
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_echo_comes_back_or_is_missed() {
    let rig = plain_network();
    let interrupt = Interrupt::default();
    assert_eq!(ping(rig.client(), LAN_SERVER, 5, PATIENCE, &interrupt).unwrap().len(), 5);
    assert_eq!(ping(rig.client(), GATEWAY_WAN, 1, PATIENCE, &interrupt).unwrap().len(), 1);
    Impairments::new(&rig).start(Uplink::A, Impairment::Cut).unwrap();
    let error = ping(rig.client(), LAN_SERVER, 1, Duration::from_millis(300), &interrupt).unwrap_err();
    assert!(error.to_string().contains("no echo"), "{error}");
}
