//! Path logic with the three real processes: warm candidates, the way back to a better uplink, an address that
//! changes. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::fs;
use std::time::{Duration, Instant};

use jvpn_abi::wire::MsgType;
use jvpn_bench::deployment::{self, Deployment, Places, Role, Settings};
use jvpn_bench::events::{Cursor, Event, EventLog, Source, Watch};
use jvpn_bench::peers::heartbeat::{Heartbeat, MARKER_PORT, Marker};
use jvpn_rig::capture::{Capture, Keep, Match};
use jvpn_rig::frame::Datagram;
use jvpn_rig::impair::{Impairment, Impairments};
use jvpn_rig::tool::{ETHTOOL, IP};
use jvpn_rig::{Interrupt, Rig, TUNNEL_PORT, Uplink, wait};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// Repetitions at most of what is compared by the clock: the first rounds of a quiet machine are enough.
const ROUNDS_MAX: usize = 4;

/// Network, processes and log of one test; the processes end before what they run in.
struct Lab {
    deployment: Deployment,
    log: EventLog,
    rig: Rig,
    places: Places,
    impairments: Impairments,
    interrupt: Interrupt,
    _out: TempDir,
}

impl Lab {
    /// Keys and configuration, the client's changed by `edit`; nothing runs yet.
    fn prepare(edit: impl FnOnce(String) -> String) -> Self {
        let out = tempfile::tempdir().unwrap();
        let bin_dir = deployment::find_programs().unwrap();
        let settings = Settings { bin_dir, out_dir: out.path().to_owned(), max_switches_per_min: None };
        let rig = Rig::create().unwrap();
        let places = deployment::prepare(&rig, &settings).unwrap();
        let config = places.config_dir.join(Role::Client.config_file());
        let before = fs::read_to_string(&config).unwrap();
        let after = edit(before.clone());
        assert_ne!(before, after, "the edit found nothing to change");
        fs::write(&config, after).unwrap();
        let files =
            [(Source::ControlPlane, places.audit_file()), (Source::Client, places.client_events_file())];
        let log = EventLog::follow(&files, Box::new(|_| {})).unwrap();
        let deployment = Deployment::new(&settings, &places);
        let impairments = Impairments::new(&rig);
        let interrupt = Interrupt::default();
        Self { deployment, log, rig, places, impairments, interrupt, _out: out }
    }

    /// Starts everything and waits for ATTACHED; gives the session.
    fn attach(&mut self) -> String {
        for role in [Role::DataPlane, Role::ControlPlane, Role::Client] {
            self.deployment.launch(&self.rig, role, &self.interrupt).unwrap();
        }
        let attached = self.event(Cursor::default(), |event| {
            event.text("event") == "state_change" && event.text("to") == "ATTACHED"
        });
        attached.text("session_id").to_owned()
    }

    /// The first event of the client since `cursor` that is wanted.
    fn event(&mut self, since: Cursor, wanted: impl Fn(&Event) -> bool) -> Event {
        let deployment = &mut self.deployment;
        let mut health = || deployment.check();
        let mut watch = Watch { interrupt: &self.interrupt, health: &mut health };
        let wanted = |event: &Event| event.source == Source::Client && wanted(event);
        let found = self.log.wait_for("an event of the client", since, PATIENCE, &mut watch, wanted);
        found.unwrap_or_else(|error| panic!("{error:#}\n{}", self.deployment.last_words()))
    }

    fn recovery(&mut self, since: Cursor) -> Event {
        self.event(since, |event| event.text("event") == "recovery_complete")
    }

    fn status(&self) -> Value {
        jvpn_host::status::query(&self.places.client_socket(), "status").unwrap()
    }

    /// Waits until the status says what is wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let Self { deployment, places, interrupt, .. } = &mut *self;
        let found = wait::until(what, PATIENCE, interrupt, || {
            deployment.check()?;
            let status = jvpn_host::status::query(&places.client_socket(), "status")?;
            Ok(Some(status).filter(|status| wanted(status)))
        });
        found.unwrap_or_else(|error| panic!("{error:#}\n{:#}", self.status()))
    }

    fn candidate_is(&mut self, uplink: usize, state: &'static str) {
        self.until(state, |status| status["uplinks"][uplink]["candidate"]["state"] == state);
    }

    fn beat(&self, heartbeat: &Heartbeat, count: usize) {
        let waited = heartbeat.wait_for_replies(count, PATIENCE, &self.interrupt);
        waited.unwrap_or_else(|error| panic!("{error:#}\n{}", self.deployment.last_words()));
    }

    /// A third uplink, routed plainly like B, that nothing impairs.
    fn add_uplink_c(&self) {
        let (client, router) = (self.rig.client(), self.rig.router());
        let pair = format!(
            "link add name rC netns {} mtu 1500 type veth peer name upC netns {} mtu 1500\n",
            router.name(),
            client.name()
        );
        IP.run_with_input(None, &["-batch", "-"], &pair).unwrap();
        for (namespace, name, address) in [(client, "upC", "10.0.3.2/24"), (router, "rC", "10.0.3.1/24")] {
            ETHTOOL.run(Some(namespace), &["-K", name, "tx", "off", "gso", "off", "tso", "off"]).unwrap();
            IP.run(Some(namespace), &["address", "add", address, "dev", name]).unwrap();
            IP.run(Some(namespace), &["link", "set", name, "up"]).unwrap();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.deployment.last_words());
            for event in self.log.since(Cursor::default()) {
                eprintln!("  {} {}", event.source.name(), event.record);
            }
        }
    }
}

/// A third uplink in the client's file, and candidates looked at every second.
fn with_c(config: String) -> String {
    let c = "[[uplink]]\ndevice = \"upC\"\ngateway = \"10.0.3.1\"\npriority = 3\n\n[paths]\ncandidate_interval_s = 1";
    config.replace("[paths]", c)
}

/// What came of cutting A and B.
#[derive(Clone, Copy, Debug)]
struct Cut {
    outage: Duration,
    attempts: u64,
    asked_over_b: u64,
}

impl Cut {
    /// Nobody asked over a path that was known to be dead.
    fn is_straight(&self) -> bool {
        (self.attempts, self.asked_over_b) == (1, 0)
    }
}

/// A and B are cut at the same moment, without a word; the outage that an application sees, and the recovery. `None`: the
/// client had left A before, since a machine that stands still looks like a dead path.
fn cut_a_and_b(warm: bool) -> Option<Cut> {
    let mut lab = Lab::prepare(with_c);
    lab.add_uplink_c();
    let tickets = Impairment::DropFromGateway(MsgType::Control.octet());
    if !warm {
        lab.impairments.start(Uplink::A, tickets).unwrap();
    }
    let id = lab.attach();
    let heartbeat = Heartbeat::start(&lab.rig).unwrap();
    lab.beat(&heartbeat, 50);
    if warm {
        lab.candidate_is(1, "answering");
        lab.candidate_is(2, "answering");
    }
    let status = lab.status();
    if status["path"]["device"] != "upA" {
        return None;
    }
    assert!(warm || status["tickets"] == 0, "nothing to probe with: {status:#}");
    let wanted = Match::arriving(TUNNEL_PORT, Some(MsgType::ReattachRequest.octet()));
    let over_b = Capture::start(lab.rig.router(), "rB", wanted, Keep::Count).unwrap();
    let (cursor, start) = (lab.log.end(), Instant::now());
    for uplink in Uplink::ALL {
        lab.impairments.start(uplink, Impairment::Cut).unwrap();
    }
    let recovery = lab.recovery(cursor);
    lab.beat(&heartbeat, 25);
    let outage = heartbeat.longest_pause(start);
    assert_eq!((recovery.text("to"), recovery.text("cause")), ("upC", "path_dead"));
    assert_eq!(recovery.text("session_id"), id);
    let attempts = recovery.number("attempts").unwrap();
    Some(Cut { outage, attempts, asked_over_b: over_b.count() })
}

/// R7.1, R1.2: when A and B die together, a client with warm candidates goes to C with its first request; one without
/// tickets asks over B before, and takes longer.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn warm_candidates_show_the_way() {
    // On a starved host every answer is late, and what is late is no evidence: again, until a round was undisturbed. That
    // a dead candidate is never asked first is shown on virtual time (`a_dead_candidate_is_never_chosen_first`).
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS_MAX {
        warm.extend(cut_a_and_b(true));
        cold.extend(cut_a_and_b(false));
        let outage = |cut: &Cut| cut.outage;
        let straight = warm.iter().filter(|cut| cut.is_straight()).map(outage).min();
        if let (Some(warm), Some(cold)) = (straight, cold.iter().map(outage).min())
            && warm <= cold
        {
            break;
        }
    }
    eprintln!("with warm candidates {warm:?}, without {cold:?}");
    let straight = warm.iter().filter(|cut| cut.is_straight()).map(|cut| cut.outage).min();
    let straight = straight.expect("nobody asks over a path that is known to be dead");
    assert!(!cold.is_empty(), "the client left A each time");
    let asked = |cut: &Cut| cut.attempts > 1 && cut.asked_over_b > 0;
    assert!(cold.iter().all(asked), "without evidence the priority decides: {cold:?}");
    assert!(cold.iter().all(|cut| straight <= cut.outage), "{warm:?} {cold:?}");
}

/// A is cut and mended; whether the client went back to it by its own choice. If so, nothing was lost.
fn goes_back(lab: &mut Lab, id: &str, heartbeat: &Heartbeat) -> bool {
    let cursor = lab.log.end();
    lab.impairments.start(Uplink::A, Impairment::Cut).unwrap();
    assert_eq!(lab.recovery(cursor).text("to"), "upB");
    lab.candidate_is(0, "silent");
    lab.beat(heartbeat, 25);

    let markers =
        Capture::start(lab.rig.lan(), "eth0", Match::arriving(MARKER_PORT, None), Keep::All).unwrap();
    let (cursor, whole, missing) = (lab.log.end(), Instant::now(), heartbeat.missing());
    lab.impairments.stop(Uplink::A, Impairment::Cut).unwrap();
    let back = lab.recovery(cursor);
    let after = whole.elapsed();
    assert_eq!(back.text("session_id"), id);
    if back.text("cause") == "path_dead" {
        lab.beat(heartbeat, 100);
        return false;
    }
    assert_eq!((back.text("cause"), back.text("from"), back.text("to")), ("voluntary", "upB", "upA"));
    assert!(after >= Duration::from_secs(3), "not before the hold time: {after:?}");
    lab.beat(heartbeat, 100);
    eprintln!("  a switch that was chosen: longest pause {:?}", heartbeat.longest_pause(whole));
    assert_eq!(heartbeat.missing(), missing, "nothing is lost on the way up, nothing on the way down");
    let frames = markers.frames();
    let numbers: Vec<u64> = frames
        .iter()
        .filter_map(|captured| Marker::decode(Datagram::parse(&captured.frame)?.payload))
        .map(|marker| marker.sequence)
        .collect();
    let mut arrived = numbers.clone();
    arrived.sort_unstable();
    arrived.dedup();
    let expected = arrived.last().unwrap() - arrived.first().unwrap() + 1;
    assert_eq!((arrived.len() as u64, numbers.len()), (expected, arrived.len()), "each marker once");
    true
}

/// R7.1, R1.2: A comes back, proves itself for the hold time, and gets the session back: a voluntary switch, by which no
/// marker is lost.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn fail_back_loses_no_marker() {
    let hasty = |config: String| {
        config.replace("fail_back = false", "fail_back_hold_s = 3\ncandidate_interval_s = 1")
    };
    let mut lab = Lab::prepare(hasty);
    let id = lab.attach();
    let heartbeat = Heartbeat::start(&lab.rig).unwrap();
    lab.beat(&heartbeat, 50);
    // A machine that stands still looks like a dead path, and that is no voluntary switch: again then.
    let is_voluntary = (0..ROUNDS_MAX).any(|_| goes_back(&mut lab, &id, &heartbeat));
    assert!(is_voluntary, "it went back only when B seemed dead");
    // And there it stays.
    lab.candidate_is(1, "answering");
    assert_eq!(lab.status()["path"]["device"], "upA");
}

/// R7.1, R1.2: the only uplink gets another address: the session is there again at once, and knows why.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn an_address_change_is_followed_at_once() {
    let only_a = |config: String| {
        let (a, rest) = config.split_once("[[uplink]]\ndevice = \"upB\"").unwrap();
        let (_, paths) = rest.split_once("[paths]").unwrap();
        format!("{a}[paths]{paths}")
    };
    let mut lab = Lab::prepare(only_a);
    let id = lab.attach();
    let heartbeat = Heartbeat::start(&lab.rig).unwrap();
    lab.beat(&heartbeat, 50);
    let (cursor, start) = (lab.log.end(), Instant::now());
    let batch = "address del 10.0.1.2/24 dev upA\naddress add 10.0.1.77/24 dev upA\n";
    IP.run_with_input(Some(lab.rig.client()), &["-batch", "-"], batch).unwrap();
    let recovery = lab.recovery(cursor);
    assert_eq!((recovery.text("cause"), recovery.text("to")), ("address_change", "upA"));
    assert_eq!(recovery.text("session_id"), id);
    lab.beat(&heartbeat, 25);
    let pause = heartbeat.longest_pause(start);
    eprintln!("  another address: longest pause {pause:?}");
    let link = lab.status()["uplinks"][0]["source"].clone();
    assert_eq!(link, "10.0.1.77");
}
