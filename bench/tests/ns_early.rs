//! The way down comes with the answer, with the three real processes: with a warm second uplink the gateway sends over the
//! new path before it has received anything of the new binding there; without a cookie it does not. Order is judged, not
//! time: nothing of the client's DATA gets through over the new path until it was looked at. Needs root and the binaries;
//! run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::fs;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jvpn_abi::tables::EARLY_PACKETS;
use jvpn_abi::wire::MsgType;
use jvpn_bench::deployment::{self, Deployment, Role, Settings};
use jvpn_bench::events::{Cursor, Event, EventLog, Source, Watch};
use jvpn_rig::capture::{Capture, Direction, Keep, Match, Port};
use jvpn_rig::impair::{Impairment, Impairments};
use jvpn_rig::topology::{LAN_SERVER, QUEUES};
use jvpn_rig::{Interrupt, Rig, TUNNEL_PORT, Uplink, wait};

const PATIENCE: Duration = Duration::from_secs(20);
const CLIENT: &str = "10.77.0.2:9000";

/// Network, processes and log of one test; the processes end before what they run in.
struct Lab {
    deployment: Deployment,
    log: EventLog,
    _downstream: Downstream,
    client_socket: std::path::PathBuf,
    impairments: Impairments,
    interrupt: Interrupt,
    rig: Rig,
    _out: tempfile::TempDir,
}

/// A host on the LAN that sends to the client and hears nothing of it.
struct Downstream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Downstream {
    fn start(rig: &Rig) -> Self {
        let socket = rig.lan().run(|| UdpSocket::bind((LAN_SERVER, 0))).unwrap().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            while !stopped.load(Ordering::Acquire) {
                // A gateway that has no way to the client says so; the next packet may find one.
                let _refused = socket.send_to(&[0; 64], CLIENT);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        Self { stop, thread: Some(rig.lan().spawn("downstream", work).unwrap()) }
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Lab {
    /// Attached over A, with traffic for the client. Echoes that go to `B` are lost if `cold`.
    fn attached(cold: bool) -> Self {
        let out = tempfile::tempdir().unwrap();
        let bin_dir = deployment::find_programs().unwrap();
        let settings = Settings { bin_dir, out_dir: out.path().to_owned(), max_switches_per_min: None };
        let rig = Rig::create().unwrap();
        let places = deployment::prepare(&rig, &settings).unwrap();
        let config = places.config_dir.join(Role::Client.config_file());
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("[paths]", "[paths]\ncandidate_interval_s = 1")).unwrap();
        let impairments = Impairments::new(&rig);
        if cold {
            let echoes = Impairment::DropFromGateway(MsgType::PathEcho.octet());
            impairments.start(Uplink::B, echoes).unwrap();
        }
        let files =
            [(Source::ControlPlane, places.audit_file()), (Source::Client, places.client_events_file())];
        let log = EventLog::follow(&files, Box::new(|_| {})).unwrap();
        let interrupt = Interrupt::default();
        let deployment = Deployment::start(&rig, &settings, &places, &interrupt).unwrap();
        let _downstream = Downstream::start(&rig);
        let client_socket = places.client_socket();
        let mut lab =
            Self { deployment, log, _downstream, client_socket, impairments, interrupt, rig, _out: out };
        lab.audit("ATTACHED", Cursor::default(), |event| event.text("new_state") == "ATTACHED");
        let wanted = if cold { "silent" } else { "answering" };
        let Self { deployment, client_socket, interrupt, .. } = &mut lab;
        wait::until(wanted, PATIENCE, interrupt, || {
            deployment.check()?;
            let status = jvpn_host::status::query(client_socket, "status")?;
            Ok((status["uplinks"][1]["candidate"]["state"] == wanted).then_some(()))
        })
        .unwrap();
        lab
    }

    fn audit(&mut self, what: &str, since: Cursor, wanted: impl Fn(&Event) -> bool) -> Event {
        let deployment = &mut self.deployment;
        let mut health = || deployment.check();
        let mut watch = Watch { interrupt: &self.interrupt, health: &mut health };
        let wanted = |event: &Event| event.source == Source::ControlPlane && wanted(event);
        let found = self.log.wait_for(what, since, PATIENCE, &mut watch, wanted);
        found.unwrap_or_else(|error| panic!("{error:#}\n{}", self.deployment.last_words()))
    }

    /// What the router hands on to the client over B, of this kind.
    fn down_over_b(&self, kind: MsgType) -> Capture {
        let wanted = Match {
            direction: Direction::Any,
            port: Port::Source(TUNNEL_PORT),
            first_octet: Some(kind.octet()),
        };
        Capture::start(self.rig.router(), Uplink::B.router_interface(), wanted, Keep::Count).unwrap()
    }

    fn proven(&self) -> u64 {
        let status = self.deployment.control_plane_status().unwrap();
        status.addresses_proven()
    }
}

/// R0.4, R7.1, R3.2: with a warm second uplink DATA comes over it while nothing of the client's DATA has got through there,
/// no more than the bound, and the switch is none before the first frame of the client.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r7_1_the_gateway_sends_over_a_warm_uplink_before_it_hears_the_client_there() {
    let mut lab = Lab::attached(false);
    let data = lab.down_over_b(MsgType::Data);
    lab.impairments.start(Uplink::B, Impairment::HoldData).unwrap();
    // A machine that stood still may have switched, and confirmed that, before.
    let (cursor, proven) = (lab.log.end(), lab.proven());
    lab.impairments.link_down(Uplink::A).unwrap();
    data.wait_for("DATA before any DATA of the client", 1, PATIENCE, &lab.interrupt).unwrap();
    // The binding is left unheard: given up by the gateway, or by the client, who asks again.
    let left = ["BIND_UNCONFIRMED", "RECOVERY_RETRY"];
    lab.audit("the end of the binding", cursor, |event| left.contains(&event.text("reason_code")));
    let sent = data.count();
    let switches = lab.log.since(cursor).iter().filter(|e| e.is_audit("TRANSPORT_SWITCH")).count();
    assert_eq!(switches, 0, "sending is not being confirmed");
    // However often the client asks: once between two confirmations, of which there was none. Each worker may have looked at
    // the bound at the same moment.
    assert_eq!(lab.proven() - proven, 1);
    assert!(sent <= u64::from(EARLY_PACKETS + QUEUES), "{sent}");
    lab.impairments.stop(Uplink::B, Impairment::HoldData).unwrap();
    lab.audit("TRANSPORT_SWITCH", cursor, |event| event.is_audit("TRANSPORT_SWITCH"));
    let before = data.count();
    data.wait_for("DATA of a confirmed binding", before + 50, PATIENCE, &lab.interrupt).unwrap();
    data.complete().unwrap();
}

/// R2.2: without a cookie nothing goes over the new path before a frame of the client has come over it, as ever.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r2_2_without_a_cookie_the_gateway_waits_for_the_client() {
    let mut lab = Lab::attached(true);
    let (data, answers) = (lab.down_over_b(MsgType::Data), lab.down_over_b(MsgType::ReattachAck));
    lab.impairments.start(Uplink::B, Impairment::HoldData).unwrap();
    let cursor = lab.log.end();
    lab.impairments.link_down(Uplink::A).unwrap();
    // The client takes none of the bindings for proven, and asks again.
    answers.wait_for("answers over B", 3, PATIENCE, &lab.interrupt).unwrap();
    assert_eq!((data.count(), lab.proven()), (0, 0));
    lab.impairments.stop(Uplink::B, Impairment::HoldData).unwrap();
    lab.audit("TRANSPORT_SWITCH", cursor, |event| event.is_audit("TRANSPORT_SWITCH"));
    data.wait_for("DATA of a confirmed binding", 50, PATIENCE, &lab.interrupt).unwrap();
    data.complete().unwrap();
}
