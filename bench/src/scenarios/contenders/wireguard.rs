//! WireGuard implementations in user space: one process per end, configured over their socket as `wg` would do it
//! (wireguard.com/xplatform, "Configuration Protocol").

use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jvpn_crypto::keys::PublicKey;
use jvpn_crypto::rng::{OsRandom, Random};
use jvpn_rig::process::Supervised;
use jvpn_rig::tool::IP;
use jvpn_rig::topology::GATEWAY_WAN;
use jvpn_rig::{Namespace, TUNNEL_PORT, wait};

use super::Kind;
use super::tunnel::{Client, GATEWAY_INNER, Ground, LAN, MTU, Tunnel};

/// Where implementations open their sockets: one directory for all namespaces of the host.
const SOCKET_DIR: &str = "/var/run/wireguard";
/// Seconds; what WireGuard's documentation advises for a client behind a NAT.
pub(super) const KEEPALIVE_S: u16 = 25;
/// How long an answer on the socket may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// As much of an answer is read.
const ANSWER_MAX: usize = 4 << 10;

/// A pair of X25519 keys.
#[derive(Clone)]
pub(super) struct Keys {
    secret: [u8; 32],
    public: [u8; 32],
}

impl Keys {
    pub(super) fn generate() -> Result<Self> {
        let mut octets = [0; 32];
        let mut random = OsRandom::checked().context("no randomness for a key")?;
        random.fill(&mut octets).context("no randomness for a key")?;
        Ok(Self::of(octets))
    }

    fn of(octets: [u8; 32]) -> Self {
        let secret = x25519_dalek::StaticSecret::from(octets);
        let public = x25519_dalek::PublicKey::from(&secret).to_bytes();
        Self { secret: octets, public }
    }

    /// As `wg genkey` writes it.
    pub(super) fn secret_text(&self) -> String {
        // The text form of any 32 octets is the same.
        PublicKey(self.secret).to_string()
    }

    /// As `wg pubkey` writes it.
    pub(super) fn public_text(&self) -> String {
        PublicKey(self.public).to_string()
    }
}

fn hex(octets: &[u8; 32]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// What the gateway is told: its key and port, and each client's key and address.
fn gateway_text(keys: &Keys, port: u16, clients: &[(Keys, Ipv4Addr)]) -> String {
    let mut text =
        format!("set=1\nprivate_key={}\nlisten_port={port}\nreplace_peers=true\n", hex(&keys.secret));
    for (client, inner) in clients {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "public_key={}\nreplace_allowed_ips=true\nallowed_ip={inner}/32\n",
            hex(&client.public)
        );
    }
    text + "\n"
}

/// What a client is told: its key, the gateway's key and endpoint, and what goes there.
fn client_text(keys: &Keys, gateway: &Keys, endpoint: SocketAddrV4) -> String {
    format!(
        "set=1\nprivate_key={}\nreplace_peers=true\npublic_key={}\nendpoint={endpoint}\n\
         persistent_keepalive_interval={KEEPALIVE_S}\nreplace_allowed_ips=true\nallowed_ip={LAN}\n\
         allowed_ip={GATEWAY_INNER}/32\n\n",
        hex(&keys.secret),
        hex(&gateway.public)
    )
}

/// Sends a configuration and waits for `errno=0`.
fn configure(mut stream: UnixStream, text: &str) -> Result<()> {
    stream
        .set_read_timeout(Some(ANSWER_PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_PATIENCE)))
        .and_then(|()| stream.write_all(text.as_bytes()))
        .context("it does not take its configuration")?;
    let deadline = Instant::now() + ANSWER_PATIENCE;
    let mut answer = Vec::new();
    let mut octets = [0; 512];
    while !answer.ends_with(b"\n\n") {
        let is_patient = Instant::now() < deadline && answer.len() < ANSWER_MAX;
        ensure!(is_patient, "its answer to the configuration has no end");
        match stream.read(&mut octets) {
            Ok(0) => break,
            Ok(len) => answer.extend(octets.get(..len).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("no answer to its configuration within {} s", ANSWER_PATIENCE.as_secs())
            }
            Err(e) => return Err(e).context("no answer to its configuration"),
        }
    }
    judge(&answer)
}

fn judge(answer: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(answer);
    match text.lines().find_map(|line| line.strip_prefix("errno=")) {
        Some("0") => Ok(()),
        Some(code) => bail!("it refuses its configuration: errno={}", code.escape_default()),
        None => {
            let said: String = text.chars().take(60).collect();
            bail!("its answer to the configuration is none: {:?}", said)
        }
    }
}

/// Names of the interfaces, unique on the host, as their sockets are.
pub(super) fn interface(ground: &Ground<'_>, client: Option<usize>) -> String {
    match client {
        None => format!("jw{}g", ground.rig.id()),
        Some(number) => format!("jw{}c{number}", ground.rig.id()),
    }
}

/// Addresses, MTU and routes of the gateway's end, as `wg-quick` sets them.
pub(super) fn gateway_network(interface: &str, clients: &[Client]) -> String {
    let mut batch =
        format!("address add {GATEWAY_INNER}/32 dev {interface}\nlink set {interface} mtu {MTU} up\n");
    for client in clients {
        let _ = writeln!(batch, "route add {}/32 dev {interface}", client.inner);
    }
    batch
}

/// Those of a client's end.
pub(super) fn client_network(interface: &str, inner: Ipv4Addr) -> String {
    format!(
        "address add {inner}/32 dev {interface}\nlink set {interface} mtu {MTU} up\n\
         route add {GATEWAY_INNER}/32 dev {interface}\nroute add {LAN} dev {interface}\n"
    )
}

/// The arguments and settings of an implementation: it stays in the foreground and keeps its rights.
fn command(kind: Kind, program: &Path, interface: &str) -> Command {
    let mut command = Command::new(program);
    command.arg("-f");
    match kind {
        Kind::Boringtun | Kind::Gotatun => {
            command.args(["--disable-drop-privileges", "--verbosity", "error"]);
        }
        Kind::WireguardGo | Kind::Ours | Kind::Plain | Kind::KernelWireguard | Kind::Openvpn => {
            command.env("LOG_LEVEL", "error").env("WG_PROCESS_FOREGROUND", "1");
        }
    }
    command.arg(interface);
    command
}

/// Both ends of an implementation.
pub(super) struct Wireguard {
    kind: Kind,
    program: PathBuf,
    keys: Keys,
    client_keys: Vec<Keys>,
    clients: Vec<Option<Supervised>>,
    /// Absent between its death and its new start.
    gateway: Option<Supervised>,
    _sockets: Sockets,
}

/// The sockets go with their value, also of a program that was killed.
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            // Most programs have removed theirs.
            let _gone = fs::remove_file(path);
        }
    }
}

fn socket_of(interface: &str) -> PathBuf {
    Path::new(SOCKET_DIR).join(format!("{interface}.sock"))
}

impl Wireguard {
    pub(super) fn start(kind: Kind, program: &Path, ground: &Ground<'_>) -> Result<Self> {
        let keys = Keys::generate()?;
        let client_keys = ground.clients.iter().map(|_| Keys::generate()).collect::<Result<Vec<_>>>()?;
        let numbers = (0..ground.clients.len()).map(Some).chain([None]);
        let sockets = Sockets(numbers.map(|number| socket_of(&interface(ground, number))).collect());
        let mut tunnel = Self {
            kind,
            program: program.to_owned(),
            keys,
            client_keys,
            clients: ground.clients.iter().map(|_| None).collect(),
            gateway: None,
            _sockets: sockets,
        };
        tunnel.start_gateway(ground)?;
        (0..ground.clients.len()).try_for_each(|number| tunnel.start_client(ground, number))?;
        Ok(tunnel)
    }

    fn start_gateway(&mut self, ground: &Ground<'_>) -> Result<()> {
        let inner = ground.clients.iter().map(|client| client.inner);
        let known: Vec<_> = self.client_keys.iter().cloned().zip(inner).collect();
        let name = interface(ground, None);
        let process = start_end(
            (self.kind, &self.program),
            ground,
            (ground.rig.gateway(), &name),
            &gateway_text(&self.keys, TUNNEL_PORT, &known),
            &gateway_network(&name, &ground.clients),
        )?;
        self.gateway = Some(process);
        Ok(())
    }

    fn start_client(&mut self, ground: &Ground<'_>, number: usize) -> Result<()> {
        let client = ground.client(number)?;
        let name = interface(ground, Some(number));
        let keys = self.client_keys.get(number).context("no such client")?;
        let process = start_end(
            (self.kind, &self.program),
            ground,
            (&client.namespace, &name),
            &client_text(keys, &self.keys, SocketAddrV4::new(GATEWAY_WAN, TUNNEL_PORT)),
            &client_network(&name, client.inner),
        )?;
        *self.clients.get_mut(number).context("no such client")? = Some(process);
        Ok(())
    }
}

/// Starts one end and configures it.
fn start_end(
    (kind, program): (Kind, &Path),
    ground: &Ground<'_>,
    (namespace, interface): (&Namespace, &str),
    text: &str,
    network: &str,
) -> Result<Supervised> {
    let log = ground.dir_of(kind)?.join(format!("{interface}.log"));
    let socket = socket_of(interface);
    let command = command(kind, program, interface);
    let mut process = ground.rig.start(&format!("{kind} {interface}"), namespace, command, &log)?;
    wait::until(&format!("{kind} opens {}", socket.display()), ground.patience, ground.interrupt, || {
        process.check()?;
        // A file that is there may not be listened at yet, or be left by one that was killed.
        Ok(UnixStream::connect(&socket).ok())
    })
    .and_then(|stream| configure(stream, text).with_context(|| format!("on {}", socket.display())))
    .with_context(|| format!("{kind}, its last words:\n{}", process.last_words()))?;
    IP.run_with_input(Some(namespace), &["-batch", "-"], network)?;
    Ok(process)
}

impl Tunnel for Wireguard {
    fn gateway_pids(&self) -> Vec<u32> {
        self.gateway.iter().map(Supervised::pid).collect()
    }

    fn client_pids(&self) -> Vec<u32> {
        self.clients.iter().flatten().map(Supervised::pid).collect()
    }

    fn check(&mut self) -> Result<()> {
        self.gateway.iter_mut().chain(self.clients.iter_mut().flatten()).try_for_each(Supervised::check)
    }

    fn restart_client(&mut self, ground: &Ground<'_>, client: usize) -> Result<()> {
        if let Some(process) = self.clients.get_mut(client).and_then(Option::take) {
            process.stop()?;
        }
        self.start_client(ground, client)
    }

    fn restart_gateway(&mut self, ground: &Ground<'_>, pause: Duration) -> Result<()> {
        if let Some(process) = self.gateway.take() {
            process.kill()?;
        }
        thread::sleep(pause);
        // Its keys and peers were in its memory alone, its interface went with it: `wg-quick` under systemd sets all anew.
        self.start_gateway(ground)
    }

    fn last_words(&self) -> String {
        let all = self.gateway.iter().chain(self.clients.iter().flatten());
        all.map(Supervised::last_words).collect::<Vec<_>>().join("\n")
    }

    fn stop(self: Box<Self>) -> Result<()> {
        let Self { clients, gateway, _sockets, .. } = *self;
        clients.into_iter().flatten().chain(gateway).try_for_each(|process| process.stop().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// The keys of RFC 7748, section 6.1.
    fn alice() -> Keys {
        let text = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
        let octet = |at: usize| u8::from_str_radix(text.get(at..at + 2).unwrap(), 16).unwrap();
        Keys::of(std::array::from_fn(|at| octet(2 * at)))
    }

    #[test]
    fn configurations_are_those_of_the_protocol() {
        let (alice, bob) = (alice(), Keys::of([9; 32]));
        let public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        assert_eq!(hex(&alice.public), public);
        assert_eq!(alice.public_text(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        assert_eq!(alice.secret_text().len(), 44);
        let gateway = gateway_text(&bob, 4500, &[(alice.clone(), Ipv4Addr::new(10, 77, 0, 2))]);
        assert!(gateway.starts_with(&format!("set=1\nprivate_key={}\nlisten_port=4500\n", hex(&[9; 32]))));
        assert!(gateway.ends_with(&format!(
            "public_key={public}\nreplace_allowed_ips=true\nallowed_ip=10.77.0.2/32\n\n"
        )));
        let client = client_text(&alice, &bob, "198.51.100.1:4500".parse().unwrap());
        for line in
            ["endpoint=198.51.100.1:4500", "persistent_keepalive_interval=25", "allowed_ip=192.168.50.0/24"]
        {
            assert!(client.lines().any(|one| one == line), "{client}");
        }
        let empty = client.lines().position(str::is_empty);
        assert_eq!(empty, Some(client.lines().count() - 1), "only the end is empty");
    }

    #[test]
    fn answers_are_judged() {
        judge(b"errno=0\n\n").unwrap();
        assert!(judge(b"errno=-22\n\n").unwrap_err().to_string().contains("errno=-22"));
        assert!(judge(b"\xff\x00garbage").unwrap_err().to_string().contains("none"));
        assert!(judge(b"").is_err());
    }

    /// A program that opens its socket and says nothing, endless nonsense, or hangs up.
    #[test]
    fn a_socket_that_hangs_floods_or_closes_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (first, _) = listener.accept().unwrap();
            drop(first);
            let (mut second, _) = listener.accept().unwrap();
            while second.write_all(&[b'x'; 1024]).is_ok() {}
            // Held open until the other end has given up.
            let (mut third, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            let _ = third.read_to_end(&mut all);
        });
        let refused = || configure(UnixStream::connect(&path).unwrap(), "set=1\n\n").unwrap_err();
        refused();
        for why in ["no end", "no answer"] {
            let error = refused();
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
        server.join().unwrap();
    }
}
