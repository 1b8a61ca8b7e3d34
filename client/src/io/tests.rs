//! The whole client on a real host: TUN, sockets, netlink, status socket, in network namespaces of its own, against the
//! in-memory gateway behind a real UDP socket. Needs root and says so when it is not.

mod device;
mod naming;
mod restarts;
mod traffic;

use crate::agent::tests::gateway::Gateway;
use crate::config::Config;
use crate::paths::UplinkId;
use jvpn_crypto::keys::StaticSecret;
use jvpn_host::status::{query, query_within};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Signal handlers and the like are the process's: one of these tests at a time.
static SERIAL: Mutex<()> = Mutex::new(());
/// How long anything may take that normally takes milliseconds: waiting ends with the event.
const PATIENCE: Duration = Duration::from_secs(30);
/// A datagram is sent again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The gateway's network: a namespace that lives as long as its thread.
struct FarSide {
    cut: Arc<[AtomicBool; 2]>,
    place: Arc<naming::Place>,
    jobs: Sender<Vec<&'static str>>,
    done: Receiver<()>,
}

/// The client's network, entered by the calling thread, and a running client.
struct Rig {
    far: FarSide,
    folder: tempfile::TempDir,
    client: Option<Child>,
    _serial: MutexGuard<'static, ()>,
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {words}");
}

fn rules_and_routes() -> String {
    let run = |words: &[&str]| {
        let output = Command::new("ip").args(words).output().expect("iproute2 is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let routes = run(&["-N", "route", "show", "table", "all", "proto", "74"]);
    let rules = run(&["-N", "rule", "show"]);
    let ours = rules.lines().filter(|line| line.contains("proto 74"));
    ours.fold(routes, |text, line| text + line + "\n")
}

/// What comes back for an inner UDP packet: addresses and ports swapped. No checksum changes by that.
fn swap(packet: &mut [u8]) {
    let (head, body) = packet.split_at_mut(20);
    let (source, destination) = head[12..].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = body.split_at_mut(2);
    source.swap_with_slice(&mut destination[..2]);
}

fn far_side(mut gateway: Gateway) -> (u32, FarSide) {
    let cut = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let tid = Arc::new(AtomicU32::new(0));
    let (jobs, job) = channel::<Vec<&'static str>>();
    let (finished, done) = channel();
    let ready = finished.clone();
    let (cut_there, tid_there) = (Arc::clone(&cut), Arc::clone(&tid));
    let place = Arc::new(naming::Place::default());
    let place_there = Arc::clone(&place);
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tid_there.store(nix::unistd::gettid().as_raw().unsigned_abs(), Ordering::SeqCst);
        ready.send(()).unwrap();
        let run = |commands: Vec<&'static str>| commands.into_iter().for_each(ip);
        run(job.recv().unwrap());
        finished.send(()).unwrap();
        naming::serve(&place_there);
        let mut socket = place_there.socket();
        gateway.reflect = swap;
        let mut ports = [0; 2];
        let mut buffer = [0; 4_096];
        loop {
            if place_there.has_moved() {
                socket = place_there.socket();
            }
            match job.try_recv() {
                Ok(commands) => {
                    run(commands);
                    finished.send(()).unwrap();
                }
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
            }
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let std::net::IpAddr::V4(v4) = from.ip() else { continue };
                let uplink = UplinkId(v4.octets()[2] - 1);
                ports[uplink.index()] = from.port();
                if !cut_there[uplink.index()].load(Ordering::SeqCst) {
                    gateway.receive((uplink, from.port()), &buffer[..length]);
                }
            }
            for ((uplink, port), datagram) in std::mem::take(&mut gateway.out) {
                if !cut_there[uplink.index()].load(Ordering::SeqCst) {
                    // A link that is down refuses; that is what the test wants.
                    let _refused =
                        socket.send_to(&datagram, (format!("10.0.{}.2", uplink.0 + 1).as_str(), port));
                }
            }
        }
    });
    done.recv().unwrap();
    (tid.load(Ordering::SeqCst), FarSide { cut, place, jobs, done })
}

impl FarSide {
    fn run(&self, commands: Vec<&'static str>) {
        self.jobs.send(commands).unwrap();
        self.done.recv().unwrap();
    }
}

fn write_secret(path: &Path, text: &str) {
    use std::io::Write;
    let mut file =
        std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

impl Rig {
    /// `None`: not root.
    fn new() -> Option<Self> {
        Self::granted(&["10.77.0.2/32"])
    }

    /// With these addresses inside the tunnel.
    fn granted(addresses: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            jvpn_testing::left_out("needs root: network namespaces, TUN");
            return None;
        }
        let serial = SERIAL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut random = jvpn_crypto::rng::OsRandom::checked().unwrap();
        let local = StaticSecret::generate(&mut random).unwrap();
        let mut gateway = Gateway::new(local.public());
        // A loaded test machine stands still for longer than any network: fewer false alarms.
        gateway.policy.suspicion_ms = 100;
        gateway.addresses = addresses.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let public = gateway.secret.public();
        let (there, far) = far_side(gateway);
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        for (device, peer, net) in [("upA", "gwA", 1), ("upB", "gwB", 2)] {
            ip(&format!("link add {device} type veth peer name {peer} netns {there}"));
            ip(&format!("addr add 10.0.{net}.2/24 dev {device}"));
            ip(&format!("link set {device} up"));
        }
        far.run(vec![
            "link set lo up",
            "addr add 198.51.100.1/32 dev lo",
            "addr add 198.51.100.2/32 dev lo",
            "addr add 198.51.100.53/32 dev lo",
            "addr add 10.0.1.1/24 dev gwA",
            "addr add 10.0.2.1/24 dev gwB",
            "link set gwA up",
            "link set gwB up",
        ]);
        ip("route add default via 10.0.2.1 dev upB");
        for device in ["all", "upA", "upB"] {
            // Strict: what comes in must be routed back out over the same device.
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "1").unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        write_secret(&folder.path().join("client.key"), &local.to_base64());
        let text = format!(
            "status_socket = \"{0}/agent.sock\"\nevents_file = \"{0}/events.jsonl\"\n[interface]\n\
             private_key_file = \"client.key\"\n[gateway]\npublic_key = \"{public}\"\n\
             endpoint = \"198.51.100.1:4500\"\n[[uplink]]\ndevice = \"upA\"\ngateway = \"10.0.1.1\"\n\
             [[uplink]]\ndevice = \"upB\"\n",
            folder.path().display()
        );
        std::fs::write(folder.path().join("client.toml"), text).unwrap();
        Some(Self { far, folder, client: None, _serial: serial })
    }

    /// More sections for the client's configuration.
    fn configure(&self, sections: &str) {
        let path = self.folder.path().join("client.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text + sections).unwrap();
    }

    fn kill(&mut self) {
        let mut client = self.client.take().unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// Starts a client in this thread's namespace, as a process of its own.
    fn start(&mut self) {
        self.client = Some(self.spawn());
    }

    fn spawn(&self) -> Child {
        self.command().spawn().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "io::tests::client_process", "--nocapture"])
            .env("JVPN_TEST_CLIENT", self.folder.path().join("client.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn status(&self) -> Option<Value> {
        query(&self.socket(), "status").ok()
    }

    fn wait_for(&mut self, what: &str, mut good: impl FnMut(&Value) -> bool) -> Value {
        let start = Instant::now();
        let mut last = None;
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.status() {
                if good(&status) {
                    return status;
                }
                last = Some(status);
            }
            // The status socket has no events to wait for; asking without a pause would only keep the client busy.
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let words = self.last_words();
        panic!("{what} did not happen within {PATIENCE:?}; last status: {last:#?}; the client said: {words}");
    }

    /// Ends the client; gives how it ended and what it said.
    fn last_words(&mut self) -> String {
        let Some(mut client) = self.client.take() else { return "(it does not run)".to_owned() };
        let ended = client.try_wait();
        let _gone = client.kill();
        let said =
            client.wait_with_output().map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        format!("{ended:?}: {said:?}")
    }

    /// The answer comes when it has ended.
    fn down(&self) -> Value {
        query_within(&self.socket(), "down", PATIENCE).unwrap()
    }

    fn stop(&mut self) {
        assert_eq!(self.down()["ok"], true);
        let left = rules_and_routes();
        assert!(!left.contains("jvpn0") && !left.contains("189"), "{left}");
        assert!(!self.socket().exists());
        let output = self.client.take().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(client) = &mut self.client {
            // Only after a failed test; it may be gone already.
            let _gone = client.kill();
            let _reaped = client.wait();
        }
    }
}

fn attached_over(device: &str) -> impl Fn(&Value) -> bool + use<> {
    let device = device.to_owned();
    move |status| status["state"] == "ATTACHED" && status["path"]["device"] == *device
}

/// A UDP packet through the tunnel and back; it is sent again until it comes.
fn echo(number: u32) -> bool {
    let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
    socket.set_read_timeout(Some(ASK_AGAIN)).unwrap();
    socket.connect("192.168.50.1:7").unwrap();
    let (start, mut answer) = (Instant::now(), [0; 64]);
    while start.elapsed() < PATIENCE {
        socket.send(&number.to_be_bytes()).unwrap();
        if socket.recv(&mut answer).is_ok_and(|length| answer[..length] == number.to_be_bytes()) {
            return true;
        }
    }
    false
}

/// R0.5, R1.2, R7.1: tunnel up, silent cut, carrier loss, link back, end: one session, traffic after each, and nothing is
/// left behind.
#[test]
fn a_session_lives_through_cut_and_carrier_loss_on_a_real_host() {
    let Some(mut rig) = Rig::new() else { return };
    rig.start();
    let status = rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
    let id = status["session_id"].clone();
    assert_eq!(status["addresses"][0], "10.77.0.2/32");
    assert!(echo(1), "traffic through the tunnel");
    let first = status["path"]["device"].as_str().unwrap().to_owned();
    let (index, other) = if first == "upA" { (0, "upB") } else { (1, "upA") };

    rig.far.cut[index].store(true, Ordering::SeqCst);
    assert!(echo(2), "after a silent cut");
    let status = rig.wait_for("the switch", attached_over(other));
    assert_eq!(status["session_id"], id);
    assert_eq!(status["last_recovery"]["cause"], "path_dead");
    rig.far.cut[index].store(false, Ordering::SeqCst);

    let (down, up) = if other == "upA" {
        ("link set gwA down", "link set gwA up")
    } else {
        ("link set gwB down", "link set gwB up")
    };
    rig.far.run(vec![down]);
    let status = rig.wait_for("the switch back", attached_over(&first));
    assert_eq!((&status["session_id"], &status["last_recovery"]["cause"]), (&id, &"link_down".into()));
    assert!(echo(3), "after carrier loss");
    rig.far.run(vec![up]);
    rig.wait_for("the link coming back", |s| {
        s["uplinks"].as_array().unwrap().iter().all(|u| u["link"] == "usable")
    });

    // The host's side: the link goes down and up, and its routes with it.
    ip(&format!("link set {first} down"));
    rig.wait_for("the switch after 'ip link set down'", attached_over(other));
    ip(&format!("link set {first} up"));
    if first == "upB" {
        // Its route is the host's: the kernel has dropped it with the link, and the client is told no gateway for it.
        ip("route add default via 10.0.2.1 dev upB");
    }
    rig.wait_for("the routes coming back", |s| {
        s["uplinks"].as_array().unwrap().iter().all(|u| u["link"] == "usable")
    });
    assert!(echo(4) && rules_and_routes().contains("192.168.50.0/24"));
    assert_eq!(rig.status().unwrap()["counters"]["sessions"], 1);

    rig.stop();
    assert_eq!(rules_and_routes(), "", "nothing is left behind");
    let events = std::fs::read_to_string(rig.folder.path().join("events.jsonl")).unwrap();
    let lines: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let complete: Vec<_> = lines.iter().filter(|l| l["event"] == "recovery_complete").collect();
    assert!(complete.len() >= 3, "one per cut: {complete:?}");
    assert!(complete.iter().all(|l| l["outage_ms"].as_u64().unwrap() < 2_000), "{complete:?}");
    assert_eq!(lines.last().unwrap()["event"], "session_ended");
}

/// What a killed client left is removed at the next start; what belongs to others stays.
#[test]
fn leftovers_of_a_killed_client_are_swept() {
    let Some(mut rig) = Rig::new() else { return };
    ip("route add 198.18.0.0/15 via 10.0.1.1 dev upA table 18946 proto 74");
    ip("rule add to 198.51.100.9 lookup 18946 priority 5000 protocol 74");
    ip("rule add to 198.51.100.9 lookup 777 priority 4000 protocol 74");
    ip("route add 198.18.0.0/15 via 10.0.1.1 dev upA table 777 proto 74");
    rig.start();
    rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
    let now = rules_and_routes();
    assert!(!now.contains("18946") && now.contains("777"), "{now}");
    rig.stop();
    let now = rules_and_routes();
    assert_eq!(now.lines().filter(|line| line.contains("777")).count(), 2, "of other tables: {now}");
    assert_eq!(now.lines().count(), 2, "{now}");
}

/// A second client on the same socket is refused with a message, and the first one goes on.
#[test]
fn a_second_client_is_refused() {
    let Some(mut rig) = Rig::new() else { return };
    rig.start();
    rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
    let output = rig.spawn().wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(error.contains("agent.sock") && error.contains("another running process"), "{error}");
    assert!(echo(1));
    rig.stop();
}

/// Not a test by itself: the client as a process of its own, for the tests that kill it.
#[test]
fn client_process() {
    if let Some(path) = std::env::var_os("JVPN_TEST_CLIENT") {
        super::run(&Config::load(Path::new(&path)).unwrap()).unwrap();
    }
}

/// A killed client leaves rules and routes; the next one removes them and gets a new session. SIGTERM leaves nothing.
#[test]
fn a_killed_client_comes_back_and_a_terminated_one_cleans_up() {
    let Some(mut rig) = Rig::new() else { return };
    rig.start();
    let first = rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED")["session_id"].clone();
    let mut client = rig.client.take().unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    let left = rules_and_routes();
    assert!(left.contains("18944") && !left.contains("jvpn0"), "the device dies with its process: {left}");

    rig.start();
    let second =
        rig.wait_for("the tunnel coming up again", |s| s["state"] == "ATTACHED")["session_id"].clone();
    assert_ne!(first, second, "R1.2: another session, under another name");
    assert!(echo(1));
    assert_eq!(rules_and_routes().lines().filter(|line| line.contains("18944")).count(), 4, "nothing twice");
    let mut client = rig.client.take().unwrap();
    let pid = nix::unistd::Pid::from_raw(client.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(client.wait().unwrap().success());
    assert_eq!(rules_and_routes(), "");
}
