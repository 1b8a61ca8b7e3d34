//! The three processes in every combination that users meet: IPv4 and IPv6 outside, IPv4 and IPv6 inside, a LAN behind a
//! port and the host's own stack, every step of the ladder from native XDP down to plain sockets, one queue and two. A test
//! is a column, one gateway with the four cells of both families in it. Needs root and the binaries; run serially by
//! `cargo xtask test`.
//!
//! Without AF_XDP there is no LAN port and no queue of an interface: in both kinds of LAN the data plane's end is a TUN
//! device, behind which the host's stack routes to the network or ends the packet itself, and a queue is a UDP socket and
//! a queue of that device. Those columns are run with these meanings.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

#[path = "ns_matrix/offloads.rs"]
mod offloads;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jvpn_bench::deployment::{self, Deployment, Places, Role, Settings};
use jvpn_bench::pinned;
use jvpn_rig::dual::{GATEWAY_WAN_V6, LAN_SERVER_V6};
use jvpn_rig::impair::{Impairment, Impairments};
use jvpn_rig::tool::IP;
use jvpn_rig::topology::{GATEWAY_WAN, LAN_SERVER};
use jvpn_rig::{Interrupt, Namespace, Rig, TUNNEL_PORT, Uplink, wait};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long one answer through the tunnel may take.
const ANSWER: Duration = Duration::from_secs(20);
/// After how long a datagram without an answer is sent again: the first one to a neighbour that is not known is lost.
const AGAIN: Duration = Duration::from_millis(100);
const GATEWAY_INNER: [&str; 2] = ["10.77.0.1", "fd77::1"];
const SERVER: [IpAddr; 2] = [IpAddr::V4(LAN_SERVER), IpAddr::V6(LAN_SERVER_V6)];

/// A network with both families and the processes in it, which end first.
struct Lab {
    deployment: Deployment,
    rig: Rig,
    places: Places,
    interrupt: Interrupt,
    out: TempDir,
}

impl Lab {
    /// Both families inside and outside; `edit` changes the configuration of each role further.
    fn start(edit: impl Fn(Role, String) -> String) -> Self {
        let out = tempfile::tempdir().unwrap();
        let bin_dir = deployment::find_programs().unwrap();
        let settings = Settings { bin_dir, out_dir: out.path().to_owned(), max_switches_per_min: Some(60) };
        let rig = Rig::create().unwrap();
        rig.add_ipv6().unwrap();
        let places = deployment::prepare(&rig, &settings).unwrap();
        for role in Role::ALL {
            let path = places.config_dir.join(role.config_file());
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, edit(role, both_families(role, text))).unwrap();
        }
        let deployment = Deployment::new(&settings, &places);
        let mut lab = Self { deployment, rig, places, interrupt: Interrupt::default(), out };
        for role in [Role::DataPlane, Role::ControlPlane, Role::Client] {
            lab.deployment.launch(&lab.rig, role, &lab.interrupt).unwrap();
        }
        lab.attached("the first binding", |_| true);
        lab
    }

    fn status(&self) -> Value {
        jvpn_host::status::query(&self.places.client_socket(), "status").unwrap()
    }

    fn data_plane(&self) -> Value {
        jvpn_host::status::query(&self.places.data_plane_socket(), "status").unwrap()
    }

    /// Waits until the client is attached and its path is as wanted; gives the session.
    fn attached(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> String {
        let Self { deployment, places, interrupt, .. } = &mut *self;
        let found = wait::until(what, PATIENCE, interrupt, || {
            deployment.check()?;
            let status = jvpn_host::status::query(&places.client_socket(), "status")?;
            let good = status["state"] == "ATTACHED" && wanted(&status);
            Ok(good.then(|| status["session_id"].as_str().unwrap_or_default().to_owned()))
        });
        found.unwrap_or_else(|error| {
            panic!("{error:#}\n{:#}\n{}", self.status(), self.deployment.last_words())
        })
    }

    fn complain(&self, what: &str) -> ! {
        panic!("{what}\n{:#}\n{:#}\n{}", self.status(), self.data_plane(), self.deployment.last_words())
    }

    /// TCP, UDP and echo of both families between the client and a host behind the gateway.
    fn carries_everything(&self, behind: &Namespace, servers: [IpAddr; 2], why: &str) {
        for gateway in GATEWAY_INNER {
            if !echo(self.rig.client(), gateway) {
                self.complain(&format!("{why}: no echo from {gateway}"));
            }
        }
        for server in servers {
            // First what is sent again soon: TCP waits a second for a SYN that was lost to an unknown neighbour.
            if let Err(error) = udp(self.rig.client(), behind, server) {
                self.complain(&format!("{why}: UDP to {server}: {error}"));
            }
            if let Err(error) = tcp(self.rig.client(), behind, server) {
                self.complain(&format!("{why}: TCP to {server}: {error}"));
            }
        }
    }
}

fn both_families(role: Role, text: String) -> String {
    match role {
        Role::DataPlane => text
            .replace("[tunnel]\n", "[tunnel]\ngateway_address_v6 = \"fd77::1\"\npool_v6 = \"fd77::/64\"\n"),
        Role::ControlPlane => text
            .replace("[tunnel]\n", "[tunnel]\ngateway_address_v6 = \"fd77::1\"\npool_v6 = \"fd77::/64\"\n")
            .replace("routes = [\"192.168.50.0/24\"]", "routes = [\"192.168.50.0/24\", \"2001:db8:50::/64\"]")
            .replace("addresses = [\"10.77.0.2/32\"]", "addresses = [\"10.77.0.2/32\", \"fd77::2/128\"]"),
        Role::Client => text.replace(
            "\n[[uplink]]\ndevice = \"upA\"",
            &format!(
                "second_endpoint = \"[{GATEWAY_WAN_V6}]:{TUNNEL_PORT}\"\n\n[[uplink]]\ndevice = \"upA\""
            ),
        ),
    }
}

/// An echo, by the system's own `ping`, which asks again until it is answered or twenty seconds are over.
fn echo(from: &Namespace, to: &str) -> bool {
    let mut ping = std::process::Command::new("ping");
    ping.args(["-c", "1", "-w", "20", "-i", "0.2", to]).stdout(std::process::Stdio::null());
    from.run(|| ping.status()).unwrap().unwrap().success()
}

/// 256 KiB there and back over one connection.
fn tcp(client: &Namespace, behind: &Namespace, server: IpAddr) -> std::io::Result<()> {
    let connection = Echoed::connect(client, behind, server)?;
    connection.exchange()?;
    connection.end()
}

/// A connection to a server that sends back what it gets.
struct Echoed {
    stream: TcpStream,
    echo: JoinHandle<std::io::Result<()>>,
}

impl Echoed {
    fn connect(client: &Namespace, behind: &Namespace, server: IpAddr) -> std::io::Result<Self> {
        let listener = behind.run(|| TcpListener::bind((server, 0))).unwrap()?;
        let address = listener.local_addr()?;
        let echo = behind
            .spawn("matrix-echo", move || {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut buffer = [0; 16 << 10];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            })
            .unwrap();
        let stream = client.run(|| TcpStream::connect_timeout(&address, ANSWER)).unwrap()?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self { stream, echo })
    }

    fn exchange(&self) -> std::io::Result<()> {
        let sent: Vec<u8> =
            (0..256 << 10).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let came = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut came = Vec::new();
                (&self.stream).take(sent.len() as u64).read_to_end(&mut came).map(|_| came)
            });
            let written = (&self.stream).write_all(&sent);
            let came = reader.join().unwrap();
            written.and(came)
        })?;
        assert_eq!(came, sent, "what came back is not what was sent");
        Ok(())
    }

    fn end(self) -> std::io::Result<()> {
        self.stream.shutdown(Shutdown::Both)?;
        drop(self.stream);
        self.echo.join().unwrap().unwrap();
        Ok(())
    }
}

/// Datagrams of several sizes there and back; those that are lost are sent again.
fn udp(client: &Namespace, behind: &Namespace, server: IpAddr) -> std::io::Result<()> {
    let far = behind.run(|| UdpSocket::bind((server, 0))).unwrap()?;
    let address: SocketAddr = far.local_addr()?;
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let near = client.run(|| UdpSocket::bind((any, 0))).unwrap()?;
    near.connect(address)?;
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(AGAIN))?;
    }
    for size in [0, 1, 100, 1_200] {
        let sent: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let deadline = Instant::now() + ANSWER;
        let mut came = there_and_back(&near, &far, &sent);
        while came.is_err() && Instant::now() < deadline {
            came = there_and_back(&near, &far, &sent);
        }
        assert_eq!(came?, sent, "what came back is not what was sent");
    }
    Ok(())
}

/// The answer to a datagram. One to an earlier datagram, which was sent twice, has another size and is passed over.
fn there_and_back(near: &UdpSocket, far: &UdpSocket, sent: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut buffer = [0; 2_048];
    near.send(sent)?;
    loop {
        let (len, from) = far.recv_from(&mut buffer)?;
        far.send_to(&buffer[..len], from)?;
        let len = near.recv(&mut buffer)?;
        if len == sent.len() {
            return Ok(buffer[..len].to_vec());
        }
    }
}

/// A column of the matrix.
struct Column {
    /// The data plane's `mode`, and what both ports stand on then.
    mode: &'static str,
    step: &'static str,
    workers: usize,
    lan: Behind,
}

/// What is behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// A network at a port of its own.
    Port,
    /// The gateway host's own stack, which routes to that network.
    Host,
}

/// Where clients reach the gateway host itself.
const HOST: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 78, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1))];

impl Column {
    fn edit(&self, role: Role, text: String) -> String {
        match (role, self.lan) {
            (Role::DataPlane, lan) => {
                let text = text
                    .replace("workers = 2", &format!("workers = {}\nmode = \"{}\"", self.workers, self.mode))
                    .replace("cores = [0, 1]", &format!("cores = {:?}", self.cores()));
                match lan {
                    Behind::Port => text,
                    Behind::Host => text.replace(
                        "interface = \"lan0\"\n",
                        "interface = \"jvpn-lan\"\n\n[lan.host]\ninterface = \"jvpn-host\"\n\
                         addresses = [\"10.78.0.1/32\", \"fd78::1/128\"]\n",
                    ),
                }
            }
            (Role::ControlPlane, Behind::Host) => {
                text.replace("routes = [", "routes = [\"10.78.0.1/32\", \"fd78::1/128\", ")
            }
            (Role::ControlPlane, Behind::Port) | (Role::Client, _) => text,
        }
    }

    /// CPUs of the workers: in another order than they would be chosen in.
    fn cores(&self) -> &'static [u64] {
        &[1, 0][..self.workers]
    }

    /// Every worker may run on the CPU that the file gives it and on no other, and has the queue of its number.
    fn every_worker_is_pinned(&self, lab: &Lab) {
        let pid = lab.deployment.pid(Role::DataPlane).unwrap();
        let wanted: Vec<String> = self.cores().iter().map(u64::to_string).collect();
        assert_eq!(pinned::cpus_of_workers(pid).unwrap(), wanted, "{}", lab.deployment.last_words());
        let shown = lab.data_plane();
        for (number, (worker, core)) in
            shown["workers"].as_array().unwrap().iter().zip(self.cores()).enumerate()
        {
            assert_eq!(
                (&worker["cpu"], &worker["queue"]),
                (&Value::from(*core), &Value::from(number)),
                "{shown:#}"
            );
        }
    }

    /// Both families inside over both families outside; the session goes on when the uplinks' IPv4 goes, and when it comes
    /// back and IPv6 goes.
    fn check(&self) {
        let Self { mode, step, workers, lan } = self;
        let mut lab = Lab::start(|role, text| self.edit(role, text));
        let shown = lab.data_plane();
        for side in ["wan", "lan"] {
            assert_eq!(shown["ports"][side]["step"], *step, "{side}: {shown:#}");
            let falls = shown["ports"][side]["falls"].as_array().unwrap();
            let whys: Vec<&str> = falls.iter().filter_map(|fall| fall["why"].as_str()).collect();
            let wanted = if *step == "copy" { "no_zero_copy" } else { "configured" };
            assert_eq!(whys, [wanted], "each step down says why: {shown:#}");
        }
        assert_eq!(shown["workers"].as_array().map(Vec::len), Some(*workers), "{shown:#}");
        self.every_worker_is_pinned(&lab);
        let why = |outside: &str| format!("{mode}, {workers} workers, {lan:?}, outside {outside}");
        let session = lab.attached("a path of IPv4", remote_is(GATEWAY_WAN.into()));
        self.traffic(&lab, &why("IPv4"));
        for uplink in Uplink::ALL {
            lab.rig.set_outer_address(uplink, uplink.client_address().into(), false).unwrap();
        }
        let same = lab.attached("a path of IPv6", remote_is(GATEWAY_WAN_V6.into()));
        assert_eq!(same, session, "R1.2: a change of the family is a switch");
        self.traffic(&lab, &why("IPv6"));
        for uplink in Uplink::ALL {
            lab.rig.set_outer_address(uplink, uplink.client_address().into(), true).unwrap();
            lab.rig.set_outer_address(uplink, uplink.client_address_v6().into(), false).unwrap();
        }
        let same = lab.attached("a path of IPv4 again", remote_is(GATEWAY_WAN.into()));
        assert_eq!(same, session);
        self.traffic(&lab, &why("IPv4 again"));
        self.every_native_queue_carries(&mut lab);
        // What a killed data plane left in the kernel is no hindrance to the next one.
        lab.deployment.kill(Role::DataPlane).unwrap();
        lab.deployment.launch(&lab.rig, Role::DataPlane, &lab.interrupt).unwrap();
        let same = lab.attached("the session after a restart", remote_is(GATEWAY_WAN.into()));
        assert_eq!(same, session, "R7.3: a restarted data plane goes on");
        for side in ["wan", "lan"] {
            assert_eq!(lab.data_plane()["ports"][side]["step"], *step, "{side} after a restart");
        }
        self.traffic(&lab, &why("IPv4, data plane restarted"));
        if *lan == Behind::Host {
            for state in ["down", "up"] {
                IP.run(Some(lab.rig.gateway()), &["link", "set", "jvpn-host", state]).unwrap();
            }
            self.traffic(&lab, &why("IPv4, the host's end switched off and on"));
        }
        self.every_worker_is_pinned(&lab);
        lab.deployment.stop().unwrap();
        let links = IP.run(Some(lab.rig.gateway()), &["-brief", "link"]).unwrap();
        let left: Vec<&str> = links.lines().filter(|line| line.starts_with("jvpn")).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        for family in ["-4", "-6"] {
            let left = IP.run(Some(lab.rig.gateway()), &[family, "route", "show", "proto", "74"]).unwrap();
            assert_eq!(left, "", "left behind");
        }
    }

    /// Among the flows of both families are some for each queue of a native LAN port, and each uplink leads to a queue of its
    /// own of a native WAN port. In front of generic XDP a veth pair knows one queue, whatever it has; and a TUN device sends
    /// a flow to the queue that its other direction came by, which is one for one client.
    fn every_native_queue_carries(&self, lab: &mut Lab) {
        if self.step != "copy" {
            return;
        }
        let first = Uplink::A.client_address().into();
        lab.rig.set_outer_address(Uplink::A, first, false).unwrap();
        lab.attached("a path by the other uplink", |status| {
            status["path"]["device"] == Uplink::B.client_interface() && remote_is(GATEWAY_WAN.into())(status)
        });
        self.traffic(lab, &format!("{}, {} workers, {:?}, uplink B", self.mode, self.workers, self.lan));
        lab.rig.set_outer_address(Uplink::A, first, true).unwrap();
        let shown = lab.data_plane();
        for worker in shown["workers"].as_array().unwrap() {
            for way in ["packets_in", "packets_out"] {
                assert!(worker[way].as_u64().unwrap() > 0, "a queue without {way}: {shown:#}");
            }
        }
    }

    fn traffic(&self, lab: &Lab, why: &str) {
        lab.carries_everything(lab.rig.lan(), SERVER, why);
        if self.lan == Behind::Host {
            lab.carries_everything(lab.rig.gateway(), HOST, &format!("{why}, the host itself"));
        }
    }
}

/// R9.1, R1.2, R0.5: native XDP, two queues.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_by_native_xdp() {
    Column { mode: "require-native", step: "copy", workers: 2, lan: Behind::Port }.check();
}

/// R9.1, R0.5: native XDP, one queue.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_by_native_xdp_on_one_queue() {
    Column { mode: "require-native", step: "copy", workers: 1, lan: Behind::Port }.check();
}

/// R9.1, R0.5: native XDP into the host's own stack, one queue.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_by_native_xdp_into_the_host() {
    Column { mode: "auto", step: "copy", workers: 1, lan: Behind::Host }.check();
}

/// R9.1, R0.5: native XDP into the host's own stack, two queues.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_by_native_xdp_into_the_host_on_two_queues() {
    Column { mode: "auto", step: "copy", workers: 2, lan: Behind::Host }.check();
}

/// R9.1: generic XDP, one queue.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_by_generic_xdp() {
    Column { mode: "generic", step: "generic", workers: 1, lan: Behind::Port }.check();
}

/// R9.1: generic XDP, two queues.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_by_generic_xdp_on_two_queues() {
    Column { mode: "generic", step: "generic", workers: 2, lan: Behind::Port }.check();
}

/// R9.1: generic XDP into the host's own stack, two queues.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_by_generic_xdp_into_the_host() {
    Column { mode: "generic", step: "generic", workers: 2, lan: Behind::Host }.check();
}

/// R9.1: generic XDP into the host's own stack, one queue.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_by_generic_xdp_into_the_host_on_one_queue() {
    Column { mode: "generic", step: "generic", workers: 1, lan: Behind::Host }.check();
}

/// R9.1: no AF_XDP, two workers; the host routes between its TUN device and the LAN.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_without_af_xdp() {
    Column { mode: "no-af-xdp", step: "no-af-xdp", workers: 2, lan: Behind::Port }.check();
}

/// R9.1: no AF_XDP, one worker; the host routes between its TUN device and the LAN.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_without_af_xdp_by_one_worker() {
    Column { mode: "no-af-xdp", step: "no-af-xdp", workers: 1, lan: Behind::Port }.check();
}

/// R9.1: no AF_XDP into the host's own stack, one worker.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_without_af_xdp_into_the_host() {
    Column { mode: "no-af-xdp", step: "no-af-xdp", workers: 1, lan: Behind::Host }.check();
}

/// R9.1: no AF_XDP into the host's own stack, two workers.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_1_both_families_without_af_xdp_into_the_host_by_two_workers() {
    Column { mode: "no-af-xdp", step: "no-af-xdp", workers: 2, lan: Behind::Host }.check();
}

/// R9.2, R1.2: the search finds what each path carries, a path of 1,280 octets too, under either family, and TCP of both
/// families goes on inside the same session.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_2_the_mtu_of_each_path_is_found() {
    mtu_of_each_path("require-native");
}

/// R9.2: the same by generic XDP.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_2_the_mtu_of_each_path_is_found_by_generic_xdp() {
    mtu_of_each_path("generic");
}

/// R9.2: the same by plain sockets and a TUN device.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r9_2_the_mtu_of_each_path_is_found_without_af_xdp() {
    mtu_of_each_path("no-af-xdp");
}

fn mtu_of_each_path(mode: &str) {
    let mut lab = Lab::start(|role, text| match role {
        Role::DataPlane => text
            .replace("mtu = 1280", "mtu = 1420")
            .replace("workers = 2", &format!("workers = 2\nmode = \"{mode}\"")),
        Role::ControlPlane => text.replace("mtu = 1280", "mtu = 1420"),
        Role::Client => text,
    });
    // Uplink B leads through a network that carries 1,280 octets.
    IP.run(Some(lab.rig.router()), &["link", "set", "rB", "mtu", "1280"]).unwrap();
    let session = lab.attached("what Ethernet carries", |status| status["mtu"] == 1_420);
    lab.carries_everything(lab.rig.lan(), SERVER, "1,500 octets outside");
    // Streams whose ends took 1,420 octets for granted. No host takes a path of IPv6 for smaller than 1,280, whatever it is
    // told (RFC 8201 §4): these look for holes themselves.
    for host in [lab.rig.client(), lab.rig.lan()] {
        host.sysctl("net/ipv4/tcp_mtu_probing", "1").unwrap();
    }
    let established = SERVER.map(|server| Echoed::connect(lab.rig.client(), lab.rig.lan(), server).unwrap());
    let go_on = |lab: &Lab, where_: &str| {
        for (server, stream) in SERVER.into_iter().zip(&established) {
            if let Err(error) = stream.exchange() {
                lab.complain(&format!("{mode}: an established stream to {server}, {where_}: {error}"));
            }
            if let Err(error) = tcp(lab.rig.client(), lab.rig.lan(), server) {
                lab.complain(&format!("{mode}: TCP to {server}, {where_}: {error}"));
            }
        }
    };
    go_on(&lab, "over 1,500 octets");
    let impairments = Impairments::new(&lab.rig);
    impairments.start(Uplink::A, Impairment::Cut).unwrap();
    let same = lab.attached("1,280 less 60", |status| status["mtu"] == 1_220);
    assert_eq!(same, session);
    go_on(&lab, "over 1,280 octets of IPv4");
    lab.rig.set_outer_address(Uplink::B, Uplink::B.client_address().into(), false).unwrap();
    let same = lab.attached("1,280 less 80", |status| {
        status["mtu"] == 1_200 && remote_is(GATEWAY_WAN_V6.into())(status)
    });
    assert_eq!(same, session);
    go_on(&lab, "over 1,280 octets of IPv6");
    established.into_iter().for_each(|stream| stream.end().unwrap());
    lab.deployment.stop().unwrap();
}

fn remote_is(gateway: IpAddr) -> impl Fn(&Value) -> bool {
    let remote = SocketAddr::new(gateway, TUNNEL_PORT).to_string();
    move |status| status["path"]["remote"] == remote.as_str() && status["path"]["proven"] == true
}
