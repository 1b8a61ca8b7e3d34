//! Two clients, each with a network behind it, and traffic between any two places.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use jvpn_bench::deployment::{self, Role};
use jvpn_rig::process::Supervised;
use jvpn_rig::tool::{ETHTOOL, IP};
use jvpn_rig::{Namespace, Rig, wait};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::TOLD;
use crate::lab::{Lab, PATIENCE};

/// Inner addresses of the clients, and a host of the network behind each.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
pub(crate) const FIRST_SITE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const SECOND_SITE: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 1);
/// Networks that a LAN may send back to the gateway.
pub(crate) const LAN_TO_SITES: [&str; 2] = ["10.5.0.0/16", "10.9.0.0/16"];
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Both clients are attached.
pub(crate) struct Sites {
    // In this order they are dropped.
    client: Option<Supervised>,
    pub(crate) lab: Lab,
    pub(crate) second: Namespace,
    public_key: String,
}

impl Sites {
    /// `edit` changes the configuration before anything runs.
    pub(crate) fn attached(edit: impl Fn(&Lab)) -> Self {
        let lab = Lab::prepare();
        edit(&lab);
        let second = second_client(&lab.rig);
        for (namespace, address) in [(lab.rig.client(), FIRST_SITE), (&second, SECOND_SITE)] {
            IP.run(Some(namespace), &["address", "add", &format!("{address}/32"), "dev", "lo"]).unwrap();
        }
        let jvpn = deployment::find_programs().unwrap().join("jvpn");
        let secret = output(Command::new(&jvpn).arg("genkey"), "");
        let public_key = output(Command::new(&jvpn).arg("pubkey"), &secret).trim().to_owned();
        let key = lab.places.config_dir.join("second.key");
        fs::write(&key, secret).unwrap();
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let peers_file = format!("peers_file = \"{}\"\n", peers_file(&lab).display());
        lab.edit(Role::ControlPlane, "audit_file =", &format!("{peers_file}audit_file ="));
        let addresses = "addresses = [\"10.77.0.2/32\"]\n";
        lab.edit(Role::ControlPlane, addresses, &format!("{addresses}routes = [\"10.9.0.0/16\"]\n"));
        lab.edit(
            Role::Client,
            "[paths]",
            "[traffic]\nroutes = [\"10.5.0.0/16\", \"10.77.0.0/16\"]\n\n[paths]",
        );
        let config = second_config(&lab, &key);
        let mut sites = Self { client: None, lab, second, public_key };
        sites.write_peer("10.5.0.0/16");
        sites.lab.launch_all();
        let mut command = Command::new(jvpn);
        command.args(["up", "--config"]).arg(config);
        let log = sites.lab.places.config_dir.with_file_name("jvpn-second.log");
        sites.client = Some(sites.lab.rig.start("jvpn-second", &sites.second, command, &log).unwrap());
        let socket = status_socket(&sites.lab);
        let is_attached =
            wait::until("the second client is ATTACHED", PATIENCE, &sites.lab.interrupt, || {
                sites.client.as_mut().unwrap().check()?;
                let status = jvpn_host::status::query(&socket, "status");
                Ok(status.ok().filter(|status| status["state"] == "ATTACHED").map(drop))
            });
        is_attached
            .unwrap_or_else(|error| panic!("{error:#}\n{}", sites.client.as_ref().unwrap().last_words()));
        sites
    }

    /// The second client as the gateway is to know it.
    pub(crate) fn write_peer(&self, site: &str) {
        let text = format!(
            "[[peer]]\nname = \"second\"\npublic_key = \"{}\"\naddresses = [\"10.77.0.3/32\"]\nroutes = [\"{site}\"]\n",
            self.public_key
        );
        let path = peers_file(&self.lab);
        fs::write(&path, text).unwrap();
    }

    pub(crate) fn reload_peers(&self) {
        let answer =
            jvpn_host::status::query(&self.lab.places.control_plane_socket(), "reload-peers").unwrap();
        assert!(answer["error"].is_null(), "{answer}");
    }

    /// Waits until our routes in the host's table are as wanted.
    pub(crate) fn await_route(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let found = wait::until(what, PATIENCE, &self.lab.interrupt, || {
            Ok(wanted(&crate::site_routes(&self.lab.rig)).then_some(()))
        });
        found.unwrap_or_else(|error| panic!("{error:#}: {}", crate::site_routes(&self.lab.rig)));
    }

    /// The second client leaves in order.
    pub(crate) fn end_second(&mut self) {
        if let Some(client) = self.client.take() {
            client.stop().unwrap();
        }
    }

    /// Ends everything in order; then nothing is left.
    pub(crate) fn finish(mut self) {
        self.end_second();
        self.lab.end_all();
        crate::nothing_is_left(&self.lab.rig);
    }
}

/// A host beside the uplinks, with a way to the gateway.
fn second_client(rig: &Rig) -> Namespace {
    let second = rig.add_namespace("second").unwrap();
    let batch = format!(
        "link add name rS netns {} mtu 1500 type veth peer name eth0 netns {} mtu 1500\n",
        rig.router().name(),
        second.name()
    );
    IP.run_with_input(None, &["-batch", "-"], &batch).unwrap();
    for (namespace, interface) in [(rig.router(), "rS"), (&second, "eth0")] {
        let features = ["-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
        ETHTOOL.run(Some(namespace), &features).unwrap();
    }
    let router = "address add 10.0.3.1/24 dev rS\nlink set rS up\n";
    IP.run_with_input(Some(rig.router()), &["-batch", "-"], router).unwrap();
    let client = "link set lo up\naddress add 10.0.3.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.0.3.1\n";
    IP.run_with_input(Some(&second), &["-batch", "-"], client).unwrap();
    second
}

fn second_config(lab: &Lab, key: &std::path::Path) -> PathBuf {
    let first = fs::read_to_string(lab.places.config_dir.join(Role::Client.config_file())).unwrap();
    let gateway = first.lines().find(|line| line.starts_with("public_key")).unwrap();
    let text = format!(
        "status_socket = \"{}\"\n\n[interface]\nname = \"jvpn0\"\nprivate_key_file = \"{}\"\n\n[gateway]\n{gateway}\n\
         endpoint = \"198.51.100.1:{}\"\n\n[[uplink]]\ndevice = \"eth0\"\ngateway = \"10.0.3.1\"\n\n[traffic]\n\
         routes = [\"10.9.0.0/16\", \"10.77.0.0/16\", \"10.78.0.0/16\"]\n",
        status_socket(lab).display(),
        key.display(),
        jvpn_rig::TUNNEL_PORT
    );
    let path = lab.places.config_dir.join("second.toml");
    fs::write(&path, text).unwrap();
    path
}

fn status_socket(lab: &Lab) -> PathBuf {
    lab.rig.dir().join("second-status.sock")
}

/// Where the control plane may read without privilege.
fn peers_file(lab: &Lab) -> PathBuf {
    lab.places.audit_file().with_file_name("peers.toml")
}

fn output(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace and an address in it.
pub(crate) type Spot<'a> = (&'a Namespace, Ipv4Addr);

pub(crate) fn bind(namespace: &Namespace, address: Ipv4Addr) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket
}

/// Datagrams of several sizes, one longer than the tunnel takes, there and back. Gives the address that the far end saw.
pub(crate) fn carries(from: Spot<'_>, to: Spot<'_>) -> IpAddr {
    let (near, far) = (bind(from.0, from.1), bind(to.0, to.1));
    let mut buffer = [0; 4_096];
    let mut seen = None;
    for size in [0, 100, 1_200, 2_000] {
        let sent: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let answer = (0..5).find_map(|_| {
            near.send_to(&sent, far.local_addr().unwrap()).ok()?;
            let (len, peer) = far.recv_from(&mut buffer).ok()?;
            seen = Some(peer.ip());
            far.send_to(&buffer[..len], peer).ok()?;
            near.recv_from(&mut buffer).ok()
        });
        let (len, _) = answer.unwrap_or_else(|| panic!("{} to {}: {size} octets were lost", from.1, to.1));
        assert_eq!(buffer[..len], sent);
    }
    seen.unwrap()
}

/// Nothing arrives, and the sender is told so at once.
pub(crate) fn denied(from: Spot<'_>, to: Spot<'_>) {
    let (near, far) = (bind(from.0, from.1), bind(to.0, to.1));
    near.connect(far.local_addr().unwrap()).unwrap();
    near.set_read_timeout(Some(TOLD)).unwrap();
    near.send(b"may I?").unwrap();
    let error = near.recv(&mut [0; 64]).unwrap_err();
    // ICMP's "administratively prohibited" is EHOSTUNREACH; silence would be EAGAIN.
    assert_eq!(error.raw_os_error(), Some(nix::libc::EHOSTUNREACH), "{} to {}: {error}", from.1, to.1);
    far.set_nonblocking(true).unwrap();
    assert!(far.recv(&mut [0; 64]).is_err(), "it arrived");
}

/// A TCP connection whose far end says everything again.
pub(crate) struct Stream {
    stream: TcpStream,
    _echo: JoinHandle<std::io::Result<()>>,
}

impl Stream {
    pub(crate) fn open(from: Spot<'_>, to: Spot<'_>) -> Self {
        let listener = to.0.run(|| TcpListener::bind((to.1, 0))).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let echo = to.0.spawn("routes-echo", move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut buffer = [0; 16 << 10];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
        let stream = from.0.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SockAddr::from(SocketAddr::from((from.1, 0))))?;
            socket.connect_timeout(&SockAddr::from(address), PATIENCE)?;
            Ok::<_, std::io::Error>(TcpStream::from(socket))
        });
        let stream = stream.unwrap().unwrap_or_else(|error| panic!("{} to {}: {error}", from.1, to.1));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, _echo: echo.unwrap() }
    }

    /// Says something and hears it again.
    pub(crate) fn says(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
        let mut heard = vec![0; text.len()];
        self.stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, text.as_bytes());
    }
}

/// 256 KiB there and back over one connection.
pub(crate) fn tcp_carries(from: Spot<'_>, to: Spot<'_>) {
    let mut stream = Stream::open(from, to);
    let text: String = (0..4_096).map(|n: u32| char::from(b'a' + (n % 26) as u8)).collect();
    for _ in 0..64 {
        stream.says(&text);
    }
}
