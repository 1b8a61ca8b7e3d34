//! What all contenders have in common: a gateway and its clients in given namespaces, with given addresses, started and
//! ended, and asked for their processes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jvpn_rig::topology::LAN_SERVER;
use jvpn_rig::{Interrupt, Namespace, Rig, Uplink};

use super::ledger::Ledger;
use super::programs::Found;
use super::{Kind, kernel, openvpn, ours, plain, wireguard};
use crate::peers::icmp;

/// Largest inner packet, where a contender has none of its own: WireGuard's default, which ours takes too.
pub(in crate::scenarios) const MTU: u16 = 1_420;
/// The gateway's address inside the tunnel.
pub(in crate::scenarios) const GATEWAY_INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The network behind the gateway.
pub(in crate::scenarios) const LAN: &str = "192.168.50.0/24";
/// How long a tunnel may take from the start of its processes to the first answer through it, unless asked otherwise.
pub(in crate::scenarios) const PATIENCE: Duration = Duration::from_secs(20);

/// Where one client is.
#[derive(Clone, Debug)]
pub(in crate::scenarios) struct Client {
    /// Its namespace.
    pub(in crate::scenarios) namespace: Namespace,
    /// Its address inside the tunnel.
    pub(in crate::scenarios) inner: Ipv4Addr,
    /// The next hops on the uplinks that it may use: of A, and of B if it has two.
    pub(in crate::scenarios) hops: Vec<(Uplink, Ipv4Addr)>,
}

/// Where a contender runs.
#[derive(Clone, Debug)]
pub(in crate::scenarios) struct Ground<'a> {
    pub(in crate::scenarios) rig: &'a Rig,
    pub(in crate::scenarios) clients: Vec<Client>,
    /// Where configuration and logs go. Absolute.
    pub(in crate::scenarios) out_dir: PathBuf,
    pub(in crate::scenarios) interrupt: &'a Interrupt,
    /// How long a tunnel may take to come up.
    pub(in crate::scenarios) patience: Duration,
    /// Whether ours goes back to a better path by itself and looks at the other one every ten seconds, as it does by
    /// default, or does what the recovery bench wants of it (`docs/decisions/0035-recovery-bench.md`).
    pub(in crate::scenarios) is_recovery: bool,
    /// Where ours notes what it ran on and how it was judged.
    pub(in crate::scenarios) ledger: &'a Ledger,
}

impl Ground<'_> {
    pub(in crate::scenarios) fn client(&self, number: usize) -> Result<&Client> {
        self.clients.get(number).context("no such client")
    }

    /// The directory of a contender's files, made.
    pub(super) fn dir_of(&self, kind: Kind) -> Result<PathBuf> {
        let dir = self.out_dir.join(kind.name());
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

/// A contender that runs.
pub(in crate::scenarios) trait Tunnel: Send {
    /// Processes at the gateway; none where the kernel does the work.
    fn gateway_pids(&self) -> Vec<u32>;

    /// Processes of the clients.
    fn client_pids(&self) -> Vec<u32>;

    /// Whether all processes run.
    ///
    /// # Errors
    /// One has ended; with its last words.
    fn check(&mut self) -> Result<()>;

    /// The uplink that a client's session is bound to; `None` if it follows the routing table.
    ///
    /// # Errors
    /// The client does not answer.
    fn bound(&self, _client: usize) -> Result<Option<Uplink>> {
        Ok(None)
    }

    /// Before another incident: a contender whose policy counts switches gets a fresh session when what is left is
    /// fewer than `switches`. Gives whether it did.
    ///
    /// # Errors
    /// It does not come up.
    fn before_incident(&mut self, _ground: &Ground<'_>, _client: usize, _switches: u32) -> Result<bool> {
        Ok(false)
    }

    /// Ends a client and starts it again.
    ///
    /// # Errors
    /// It does not come up.
    fn restart_client(&mut self, ground: &Ground<'_>, client: usize) -> Result<()>;

    /// Kills the gateway's process that carries the traffic, as a crash would, and after `pause` starts it again with the
    /// configuration of before, as its own service would; waits until it has taken that.
    ///
    /// # Errors
    /// It does not come up, or no process does its work.
    fn restart_gateway(&mut self, ground: &Ground<'_>, pause: Duration) -> Result<()>;

    /// The last words of its processes.
    fn last_words(&self) -> String;

    /// Ends all of it and takes away what it has put into the namespaces.
    ///
    /// # Errors
    /// Something does not end.
    fn stop(self: Box<Self>) -> Result<()>;
}

/// Starts a contender and waits until every client gets an answer from the LAN through it.
///
/// # Errors
/// A process cannot be started, ends, hangs, or nothing comes through.
pub(in crate::scenarios) fn start(found: &Found, ground: &Ground<'_>) -> Result<Box<dyn Tunnel>> {
    let program = || found.program.as_deref().context("it has no program");
    let mut tunnel: Box<dyn Tunnel> = match found.contender {
        Kind::Ours => Box::new(ours::Ours::start(ground)?),
        Kind::Plain => Box::new(plain::Plain::start(ground)?),
        Kind::KernelWireguard => Box::new(kernel::Kernel::start(ground, program()?)?),
        kind @ (Kind::WireguardGo | Kind::Gotatun | Kind::Boringtun) => {
            Box::new(wireguard::Wireguard::start(kind, program()?, ground)?)
        }
        Kind::Openvpn => Box::new(openvpn::Openvpn::start(program()?, ground)?),
    };
    for client in &ground.clients {
        answers(client, ground.patience, ground.interrupt)
            .and_then(|()| tunnel.check())
            .with_context(|| format!("last words of {}:\n{}", found.contender, tunnel.last_words()))?;
    }
    Ok(tunnel)
}

/// Whether the LAN answers a client.
///
/// # Errors
/// Not within `patience`, or interrupted.
pub(in crate::scenarios) fn answers(
    client: &Client,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<()> {
    icmp::ping(&client.namespace, LAN_SERVER, 1, patience, interrupt)
        .map(drop)
        .context("nothing comes through the tunnel")
}

/// Writes a file that only its owner reads.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
