//! Ports that are more than one plain interface each, and the ladder's ends: two interfaces on both sides of which one goes
//! away under traffic, interfaces that have no native XDP. Needs root and the binaries; run serially by `cargo xtask test`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[path = "ns_ports/judged.rs"]
mod judged;
#[path = "ns_ports/lost.rs"]
mod lost;
#[path = "ns_ports/refused.rs"]
mod refused;
#[path = "ns_ports/restart.rs"]
mod restart;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use jvpn_bench::deployment::{self, Deployment, Places, Role, Settings};
use jvpn_rig::tool::{ETHTOOL, IP};
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::vlan::VlanDevice;
use jvpn_rig::{Interrupt, Namespace, Rig, TUNNEL_PORT, wait};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long one answer through the tunnel may take.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two packets of a stream.
const PACE: Duration = Duration::from_millis(5);
/// The gateway's address that both uplinks lead to.
const GATEWAY: &str = "203.0.113.7";
/// The server behind the second LAN interface.
const SECOND_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 51, 10);
/// The gateway's own address on its second uplink.
const SECOND_GATEWAY: &str = "2001:db8:c2::1";
/// Frames that a socket has for each direction.
const FRAMES: u64 = 2_048;

/// A network, and the processes in it, which end first.
struct Lab {
    deployment: Deployment,
    rig: Rig,
    places: Places,
    settings: Settings,
    interrupt: Interrupt,
    _out: TempDir,
}

impl Lab {
    /// A network whose configuration is written; nothing runs. `build` changes the network, `edit` the configuration.
    fn prepare(build: impl Fn(&Rig), edit: impl Fn(Role, String) -> String) -> Self {
        let out = tempfile::tempdir().unwrap();
        let bin_dir = deployment::find_programs().unwrap();
        let settings = Settings { bin_dir, out_dir: out.path().to_owned(), max_switches_per_min: Some(60) };
        let rig = Rig::create().unwrap();
        build(&rig);
        let places = deployment::prepare(&rig, &settings).unwrap();
        for role in Role::ALL {
            let path = places.config_dir.join(role.config_file());
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, edit(role, text)).unwrap();
        }
        let deployment = Deployment::new(&settings, &places);
        Self { deployment, rig, places, settings, interrupt: Interrupt::default(), _out: out }
    }

    fn start(build: impl Fn(&Rig), edit: impl Fn(Role, String) -> String) -> Self {
        let mut lab = Self::prepare(build, edit);
        for role in [Role::DataPlane, Role::ControlPlane, Role::Client] {
            lab.deployment.launch(&lab.rig, role, &lab.interrupt).unwrap();
        }
        lab
    }

    /// Waits until the client is attached; gives the session.
    fn attached(&mut self) -> String {
        let Self { deployment, places, interrupt, .. } = &mut *self;
        let found = wait::until("the client is attached", PATIENCE, interrupt, || {
            deployment.check()?;
            let status = jvpn_host::status::query(&places.client_socket(), "status")?;
            let session = status["session_id"].as_str().unwrap_or_default().to_owned();
            Ok((status["state"] == "ATTACHED").then_some(session))
        });
        found.unwrap_or_else(|error| panic!("{error:#}\n{}", self.words()))
    }

    fn data_plane(&self) -> Value {
        jvpn_host::status::query(&self.places.data_plane_socket(), "status").unwrap()
    }

    fn client(&self) -> Value {
        jvpn_host::status::query(&self.places.client_socket(), "status").unwrap()
    }

    fn words(&self) -> String {
        let shown = |socket: std::path::PathBuf| {
            jvpn_host::status::query(&socket, "status").map_or_else(|e| e.to_string(), |v| format!("{v:#}"))
        };
        let (client, data_plane) = (self.places.client_socket(), self.places.data_plane_socket());
        format!("{}\n{}\n{}", shown(client), shown(data_plane), self.deployment.last_words())
    }

    /// What the status says of one interface of a side.
    fn port(&self, side: &str, number: usize) -> Value {
        self.data_plane()["ports"][side]["interfaces"][number].clone()
    }

    fn log_of_data_plane(&self) -> String {
        fs::read_to_string(self.settings.out_dir.join("jvpn-dataplane.log")).unwrap()
    }

    fn delete(&self, interface: &str) {
        IP.run(Some(self.rig.gateway()), &["link", "delete", interface]).unwrap();
    }

    /// Waits until the data plane says this of an interface.
    fn await_state(&self, side: &str, number: usize, state: &str) {
        let what = format!("{side} {number} is {state}");
        let seen = wait::until(&what, PATIENCE, &self.interrupt, || {
            Ok((self.port(side, number)["state"] == state).then_some(()))
        });
        seen.unwrap_or_else(|error| panic!("{error:#}\n{}", self.words()));
    }

    /// Every frame of every socket is in one place: to receive into, or free to send with but for the one in hand.
    fn frames_are_conserved(&self, sockets: u64) {
        for side in ["wan", "lan"] {
            self.frames_are_conserved_of(side, sockets);
        }
    }

    fn frames_are_conserved_of(&self, side: &str, sockets: u64) {
        let kept = wait::until("every frame is back", PATIENCE, &self.interrupt, || {
            let status = self.data_plane();
            let workers = status["workers"].as_array().unwrap();
            let mut all = true;
            for rings in workers.iter().map(|worker| &worker["rings"][side]) {
                let of = |name: &str| rings[name].as_u64().unwrap();
                let (receiving, sending) = (of("fill") + of("rx"), of("free") + of("tx") + of("completion"));
                let whole = FRAMES * sockets;
                assert!(receiving <= whole && sending <= whole, "{status:#}");
                all &= receiving + 64 * sockets >= whole && sending + 1 >= whole;
            }
            Ok(all.then_some(()))
        });
        kept.unwrap_or_else(|error| panic!("{error:#}\n{:#}", self.data_plane()));
    }
}

/// 64 KiB there and back over one connection.
fn tcp(client: &Namespace, behind: &Namespace, server: Ipv4Addr) -> std::io::Result<()> {
    let listener = behind.run(|| TcpListener::bind((server, 0))).unwrap()?;
    let address = listener.local_addr()?;
    let echo = behind
        .spawn("ports-echo", move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut buffer = [0; 16 << 10];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        })
        .unwrap();
    let sent: Vec<u8> = (0..64 << 10).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stream = client.run(|| TcpStream::connect_timeout(&address, ANSWER)).unwrap()?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let mut came = vec![0; sent.len()];
    for (piece, back) in sent.chunks(8 << 10).zip(came.chunks_mut(8 << 10)) {
        stream.write_all(piece)?;
        stream.read_exact(back)?;
    }
    drop(stream);
    echo.join().unwrap().unwrap();
    assert_eq!(came, sent, "what came back is not what was sent");
    Ok(())
}

/// One packet after the other to an echo behind the gateway, for as long as the value lives.
struct Stream {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Stream {
    fn start(client: &Namespace, behind: &Namespace, server: Ipv4Addr) -> Self {
        let far = behind.run(|| UdpSocket::bind((server, 0))).unwrap().unwrap();
        let near = client.run(|| UdpSocket::bind(SocketAddr::from(([0; 4], 0)))).unwrap().unwrap();
        near.connect(far.local_addr().unwrap()).unwrap();
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(PACE)).unwrap();
        }
        let (stop, answered): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let (stop_far, stop_near, count) = (Arc::clone(&stop), Arc::clone(&stop), Arc::clone(&answered));
        let echo = std::thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while !stop_far.load(Ordering::Relaxed) {
                if let Ok((len, from)) = far.recv_from(&mut buffer) {
                    let _lost = far.send_to(&buffer[..len], from);
                }
            }
            Ok(())
        });
        let ask = std::thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while !stop_near.load(Ordering::Relaxed) {
                // Whatever the path says at the moment: the next one is on its way soon.
                let _lost = near.send(&[7; 900]);
                while near.recv(&mut buffer).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        Self { stop, answered, threads: vec![echo, ask] }
    }

    /// Waits until so many further answers came.
    fn await_answers(&self, lab: &Lab, what: &str, count: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        let came = wait::until(what, PATIENCE, &lab.interrupt, || {
            Ok((self.answered.load(Ordering::Relaxed) >= before + count).then_some(()))
        });
        came.unwrap_or_else(|error| panic!("{error:#}\n{}", lab.words()));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// A veth pair between two namespaces, with offloads off at both ends.
fn pair(queues: u32, (a, a_name): (&Namespace, &str), (b, b_name): (&Namespace, &str)) {
    let batch = format!(
        "link add name {a_name} netns {} numtxqueues {queues} numrxqueues {queues} type veth \
         peer name {b_name} netns {} numtxqueues {queues} numrxqueues {queues}\n",
        a.name(),
        b.name()
    );
    IP.run_with_input(None, &["-batch", "-"], &batch).unwrap();
    for (namespace, name) in [(a, a_name), (b, b_name)] {
        let off = ["rx", "tx", "sg", "tso", "gso", "gro"].iter().flat_map(|feature| [*feature, "off"]);
        let args: Vec<&str> = ["-K", name].into_iter().chain(off).collect();
        ETHTOOL.run(Some(namespace), &args).unwrap();
        IP.run(Some(namespace), &["link", "set", name, "up"]).unwrap();
    }
}

fn ip(namespace: &Namespace, batch: &str) {
    IP.run_with_input(Some(namespace), &["-batch", "-"], batch).unwrap();
}

/// A second interface on each side of the gateway. The address that clients know is the host's own, and the router leads to
/// it over the first interface as long as that is there.
fn second_interfaces(rig: &Rig, queues: u32) {
    let far = rig.add_namespace("lan2").unwrap();
    pair(queues, (rig.gateway(), "wan1"), (rig.router(), "rW2"));
    pair(queues, (rig.gateway(), "lan1"), (&far, "eth0"));
    ip(
        rig.gateway(),
        &format!(
            "address add {GATEWAY}/32 dev lo\naddress add 198.51.101.1/24 dev wan1\n\
             address add 192.168.51.1/24 dev lan1\nroute add default via 198.51.101.254 dev wan1 metric 50\n"
        ),
    );
    ip(
        rig.router(),
        &format!(
            "address add 198.51.101.254/24 dev rW2\nroute add {GATEWAY}/32 via 198.51.100.1 dev rW metric 10\n\
             route add {GATEWAY}/32 via 198.51.101.1 dev rW2 metric 20\n"
        ),
    );
    ip(
        &far,
        "link set lo up\naddress add 192.168.51.10/24 dev eth0\nroute add 10.77.0.0/16 via 192.168.51.1 dev eth0\n",
    );
}

fn two_of_each(role: Role, text: String, workers: usize) -> String {
    match role {
        Role::DataPlane => text
            .replace("workers = 2", &format!("workers = {workers}\nmode = \"require-native\""))
            .replace("cores = [0, 1]", if workers == 1 { "cores = [0]" } else { "cores = [0, 1]" })
            .replace("interface = \"wan0\"", "interfaces = [\"wan0\", \"wan1\"]")
            .replace("interface = \"lan0\"", "interfaces = [\"lan0\", \"lan1\"]"),
        Role::ControlPlane => text.replace("\"192.168.50.0/24\"", "\"192.168.50.0/24\", \"192.168.51.0/24\""),
        // Uplink B first: it is not behind the NAT, which has a mapping of its own for each way.
        Role::Client => {
            text.replace("198.51.100.1:", &format!("{GATEWAY}:")).replace("priority = 1", "priority = 3")
        }
    }
}

/// Two WAN and two LAN interfaces with so many queues each: everything is reached by the interface that leads there; one of
/// each side is deleted under traffic and the session goes on over the other; with none left the data plane ends.
fn two_of_each_side(workers: usize) {
    let queues = u32::try_from(workers).unwrap();
    let build = |rig: &Rig| {
        second_interfaces(rig, queues);
        // Native XDP takes no more transmit queues on the other side than there are receive queues on this one.
        let ends =
            [(rig.router(), "rW"), (rig.lan(), "eth0"), (rig.gateway(), "wan0"), (rig.gateway(), "lan0")];
        for (namespace, name) in ends {
            let count = queues.to_string();
            ETHTOOL.run(Some(namespace), &["-L", name, "rx", &count, "tx", &count]).unwrap();
        }
    };
    let mut lab = Lab::start(build, |role, text| two_of_each(role, text, workers));
    let session = lab.attached();
    let far = Namespace::open(&format!("jvpn-{}-lan2", lab.rig.id())).unwrap();
    let behind = |lab: &Lab, server| {
        let namespace = if server == LAN_SERVER { lab.rig.lan() } else { &far };
        if let Err(error) = tcp(lab.rig.client(), namespace, server) {
            panic!("TCP to {server}: {error}\n{}", lab.words());
        }
    };
    behind(&lab, LAN_SERVER);
    behind(&lab, SECOND_SERVER);
    for (side, number, used) in [("wan", 0, true), ("wan", 1, false), ("lan", 0, true), ("lan", 1, true)] {
        let port = lab.port(side, number);
        assert_eq!(port["state"], "up", "{port:#}");
        let sent = port["traffic"]["sent"].as_u64().unwrap();
        assert_eq!(sent > 0, used, "{side} {number}: {port:#}");
        assert_eq!(port["traffic"]["lost"], 0, "{port:#}");
    }
    lab.frames_are_conserved(2);

    let stream = Stream::start(lab.rig.client(), &far, SECOND_SERVER);
    stream.await_answers(&lab, "the stream runs", 20);
    lab.delete("wan0");
    lab.await_state("wan", 0, "gone");
    stream.await_answers(&lab, "the stream goes on over the other interface", 20);
    assert_eq!(lab.attached(), session, "R1.2: nobody but the router had to change anything");
    assert!(lab.port("wan", 1)["traffic"]["sent"].as_u64().unwrap() > 0);
    assert!(lab.log_of_data_plane().contains("interface is gone"));
    behind(&lab, LAN_SERVER);

    lab.delete("lan0");
    lab.await_state("lan", 0, "gone");
    stream.await_answers(&lab, "the other LAN is reached", 20);
    drop(stream);
    behind(&lab, SECOND_SERVER);
    lab.frames_are_conserved(2);
    // A control plane that knows nothing of interfaces gets a client in by the one that is left.
    lab.deployment.kill(Role::Client).unwrap();
    lab.deployment.launch(&lab.rig, Role::Client, &lab.interrupt).unwrap();
    lab.attached();
    behind(&lab, SECOND_SERVER);

    lab.delete("wan1");
    let ended = wait::until("the data plane ends", PATIENCE, &lab.interrupt, || {
        Ok(lab.deployment.check().is_err().then_some(()))
    });
    ended.unwrap();
    let status = lab.deployment.ended(Role::DataPlane).unwrap();
    assert_eq!(status.code(), Some(1), "{status}");
    let log = lab.log_of_data_plane();
    assert!(log.contains("no_interface_left") && log.contains("Wan"), "{log}");
}

/// R0.2, R1.2: with one queue and one worker.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_two_interfaces_on_each_side_with_one_queue() {
    two_of_each_side(1);
}

/// R0.2, R1.2: with two queues and two workers.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_two_interfaces_on_each_side_with_two_queues() {
    two_of_each_side(2);
}

/// R0.2: one worker has both queues of every interface, so that nothing falls between them.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_one_worker_serves_every_queue() {
    let mut lab = Lab::start(
        |_| (),
        |role, text| match role {
            Role::DataPlane => {
                text.replace("workers = 2", "workers = 1").replace("cores = [0, 1]", "cores = [0]")
            }
            Role::ControlPlane | Role::Client => text,
        },
    );
    lab.attached();
    for _ in 0..4 {
        // Each connection hashes to one of the queues.
        tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    }
    let status = lab.data_plane();
    assert!(status["xdp_counters"]["no_socket"].is_null(), "{status:#}");
    lab.frames_are_conserved(2);
}

const VLAN: u16 = 100;

/// R0.2: a WAN whose frames are of a VLAN, at both ends of the cable: handshake and DATA go through, and no frame of the tunnel is ever without its tag.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_a_wan_with_vlan_tags() {
    let devices = Mutex::new(Vec::new());
    let build = |rig: &Rig| {
        let ends = [(rig.gateway(), "wan0", "198.51.100.1/24"), (rig.router(), "rW", "198.51.100.254/24")];
        for (namespace, trunk, address) in ends {
            ip(namespace, &format!("address flush dev {trunk}\n"));
            let device = VlanDevice::create(namespace, trunk, "tagged", VLAN).unwrap();
            ip(namespace, &format!("address add {address} dev tagged\n"));
            devices.lock().unwrap().push(device);
        }
        ip(rig.gateway(), "route add default via 198.51.100.254 dev tagged\n");
    };
    let mut lab = Lab::start(build, |role, text| match role {
        Role::DataPlane => text.replace(
            "interface = \"wan0\"",
            &format!("interface = \"wan0\"\nvlan = {VLAN}\nvlan_devices = [\"tagged\"]"),
        ),
        Role::ControlPlane | Role::Client => text,
    });
    let session = lab.attached();
    tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    let wan = lab.port("wan", 0);
    assert_eq!(wan["step"], "copy", "{wan:#}");
    let traffic = &wan["traffic"];
    assert!(traffic["received"].as_u64() > Some(0) && traffic["sent"].as_u64() > Some(0), "{wan:#}");
    lab.frames_are_conserved(1);
    // A killed data plane's successor takes the tagged port over as any other.
    lab.deployment.kill(Role::DataPlane).unwrap();
    lab.deployment.launch(&lab.rig, Role::DataPlane, &lab.interrupt).unwrap();
    assert_eq!(lab.attached(), session);
    tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    for device in &*devices.lock().unwrap() {
        assert_eq!(device.untagged(), 0, "something crossed the cable without a tag");
    }
}

/// R0.2: without a device of the VLAN there is nobody to answer ARP and handshakes: the data plane says how to make one.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_a_vlan_needs_a_device_of_the_host() {
    let lab = Lab::prepare(
        |_| (),
        |role, text| match role {
            Role::DataPlane => {
                text.replace("interface = \"wan0\"", &format!("interface = \"wan0\"\nvlan = {VLAN}"))
            }
            Role::ControlPlane | Role::Client => text,
        },
    );
    let output = run_data_plane(&lab);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ip link add link wan0 name wan0.100 type vlan id 100"), "{said}");
}

/// An address per uplink: what a client says to one is answered from that one, by its own interface; when that goes, the
/// client goes on over the other.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r1_2_an_address_per_uplink() {
    let build = |rig: &Rig| {
        rig.add_ipv6().unwrap();
        pair(2, (rig.gateway(), "wan1"), (rig.router(), "rW2"));
        ip(rig.gateway(), &format!("address add {SECOND_GATEWAY}/64 dev wan1 nodad\n"));
        ip(rig.router(), "address add 2001:db8:c2::fe/64 dev rW2 nodad\n");
        // The control plane's answers leave by the uplink whose address they come from.
        ip(rig.gateway(), "route add default via 2001:db8:c2::fe dev wan1 table 101\n");
        let rule = ["-6", "rule", "add", "from", SECOND_GATEWAY, "lookup", "101"];
        IP.run(Some(rig.gateway()), &rule).unwrap();
    };
    let mut lab = Lab::start(build, |role, text| match role {
        Role::DataPlane => text.replace("interface = \"wan0\"", "interfaces = [\"wan0\", \"wan1\"]"),
        Role::ControlPlane => text,
        // Each of the client's uplinks leads to one of the gateway's.
        Role::Client => text
            .replace(
                "\n[[uplink]]\ndevice = \"upA\"",
                &format!(
                    "second_endpoint = \"[{SECOND_GATEWAY}]:{TUNNEL_PORT}\"\n\n[[uplink]]\ndevice = \"upA\""
                ),
            )
            .replace("gateway = \"10.0.1.1\"", "gateway = \"10.0.1.1\"\nfamily = \"ipv4\"")
            .replace("gateway = \"10.0.2.1\"", "family = \"ipv6\""),
    });
    let session = lab.attached();
    let stream = Stream::start(lab.rig.client(), lab.rig.lan(), LAN_SERVER);
    stream.await_answers(&lab, "the stream runs", 20);
    let remote = lab.client()["path"]["remote"].as_str().unwrap().to_owned();
    let (used, other) = if remote.starts_with('[') { (1, 0) } else { (0, 1) };
    let sent = |lab: &Lab, number| lab.port("wan", number)["traffic"]["sent"].as_u64().unwrap();
    let (before, others) = (sent(&lab, used), sent(&lab, other));
    stream.await_answers(&lab, "more of it", 20);
    assert!(sent(&lab, used) >= before + 20, "{}", lab.words());
    assert_eq!(sent(&lab, other), others, "nothing of it leaves by the other uplink");
    lab.delete(if used == 0 { "wan0" } else { "wan1" });
    stream.await_answers(&lab, "the client goes on over the other uplink", 20);
    assert_eq!(lab.attached(), session, "R1.2: the same session");
    assert_ne!(lab.client()["path"]["remote"].as_str().unwrap(), remote);
    assert!(sent(&lab, other) > others);
    drop(stream);
    lab.frames_are_conserved_of("wan", 2);
}

/// An interface without native XDP in the WAN's place, with the WAN's address.
fn without_native_xdp(rig: &Rig) {
    ip(
        rig.gateway(),
        "address flush dev wan0\nlink add name mv0 link wan0 type macvlan mode bridge\n\
         address add 198.51.100.1/24 dev mv0\nlink set mv0 up\nroute add default via 198.51.100.254 dev mv0\n",
    );
}

fn over_macvlan(role: Role, text: String, mode: &str) -> String {
    match role {
        Role::DataPlane => text
            .replace("workers = 2", &format!("workers = 1\nmode = \"{mode}\""))
            .replace("cores = [0, 1]", "cores = [0]")
            .replace("interface = \"wan0\"", "interface = \"mv0\""),
        Role::ControlPlane | Role::Client => text,
    }
}

/// Runs the data plane until it ends by itself.
fn run_data_plane(lab: &Lab) -> Output {
    let mut command = Command::new(lab.settings.bin_dir.join(Role::DataPlane.program()));
    command.arg("--config").arg(lab.places.config_dir.join(Role::DataPlane.config_file()));
    lab.rig.gateway().run(|| command.output()).unwrap().unwrap()
}

/// R9.1: `require-native` refuses to fall, says where and why, and leaves nothing attached.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_require_native_refuses_to_fall() {
    let lab = Lab::prepare(without_native_xdp, |role, text| over_macvlan(role, text, "require-native"));
    let output = run_data_plane(&lab);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for part in ["mv0", "takes no native XDP program", "require-native", "mode = \"auto\""] {
        assert!(said.contains(part), "'{part}' is missing: {said}");
    }
    let links = IP.run(Some(lab.rig.gateway()), &["link"]).unwrap();
    assert!(!links.contains("xdp"), "left attached: {links}");
}

/// R9.1: `auto` falls on the one interface that cannot do better, says so in log, status and step, and everything works.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_auto_falls_and_says_why() {
    let mut lab = Lab::start(without_native_xdp, |role, text| over_macvlan(role, text, "auto"));
    lab.attached();
    tcp(lab.rig.client(), lab.rig.lan(), LAN_SERVER).unwrap_or_else(|e| panic!("{e}\n{}", lab.words()));
    let (wan, lan) = (lab.port("wan", 0), lab.port("lan", 0));
    assert_eq!((&wan["step"], &lan["step"]), (&"generic".into(), &"copy".into()), "{wan:#}{lan:#}");
    assert_eq!(wan["falls"][0]["why"], "no_native_xdp", "{wan:#}");
    assert!(!wan["falls"][0]["said"].as_str().unwrap().is_empty());
    let log = lab.log_of_data_plane();
    assert!(log.contains("a step down the ladder (slower)") && log.contains("mv0"), "{log}");
    let status = lab.data_plane();
    assert!(status["xdp_counters"]["steered"].as_u64().unwrap() > 0, "{status:#}");
    assert_eq!(
        lab.client()["path"]["remote"].as_str().map(|text| text.parse::<SocketAddr>().unwrap().ip()),
        Some(IpAddr::from([198, 51, 100, 1]))
    );
}
