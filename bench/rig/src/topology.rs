//! The network of the rig, and the guard that removes it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::impair::Impairments;
use crate::process::Supervised;
use crate::registry::{self, RIG_MARK, Registry};
use crate::tool::IP;
use crate::{Namespace, link};

/// The gateway's address on the WAN.
pub const GATEWAY_WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The gateway's address on the LAN.
pub const GATEWAY_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// The router's address on the WAN: uplink A is seen from here.
pub const ROUTER_WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
/// The server on the LAN.
pub const LAN_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
/// The attacker.
pub const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 2);

/// Queues of each port of the gateway, and of what faces them.
pub const QUEUES: u32 = 2;

/// Queues of the client's uplinks: the first is not used, see `Rig::build`.
const UPLINK_QUEUES: u32 = 3;

/// One of the client's two uplinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Uplink {
    /// Behind a NAT.
    A,
    /// Routed plainly.
    B,
}

impl Uplink {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The client's interface.
    #[must_use]
    pub const fn client_interface(self) -> &'static str {
        match self {
            Self::A => "upA",
            Self::B => "upB",
        }
    }

    /// The router's interface that faces it.
    #[must_use]
    pub const fn router_interface(self) -> &'static str {
        match self {
            Self::A => "rA",
            Self::B => "rB",
        }
    }

    /// The client's address on it.
    #[must_use]
    pub const fn client_address(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(10, 0, 1, 2),
            Self::B => Ipv4Addr::new(10, 0, 2, 2),
        }
    }

    /// The next hop on it.
    #[must_use]
    pub const fn router_address(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(10, 0, 1, 1),
            Self::B => Ipv4Addr::new(10, 0, 2, 1),
        }
    }

    /// The address that the gateway sees.
    #[must_use]
    pub const fn outer_address(self) -> Ipv4Addr {
        match self {
            Self::A => ROUTER_WAN,
            Self::B => self.client_address(),
        }
    }
}

/// A network that is up. Dropping it removes it and ends what runs in it, unless it was kept.
#[derive(Debug)]
pub struct Rig {
    id: String,
    registry: Registry,
    client: Namespace,
    router: Namespace,
    gateway: Namespace,
    lan: Namespace,
    attacker: Namespace,
    kept: bool,
}

/// Removes what is there when building stops half-way.
struct Unfinished<'a>(Option<&'a Registry>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(registry) = self.0.take() {
            // The error that stopped the building is reported; what stays is swept at the next start.
            let _ = registry.remove_all();
        }
    }
}

impl Rig {
    /// Sweeps what dead owners left, then builds a network under a random name.
    ///
    /// # Errors
    /// No right to, a tool is missing, or the kernel refuses a part; nothing is left then.
    pub fn create() -> Result<Self> {
        registry::sweep().context("cannot sweep what an earlier run left")?;
        let mut octets = [0; 3];
        getrandom::fill(&mut octets).map_err(|e| anyhow::anyhow!("no randomness for the rig's name: {e}"))?;
        let id: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        let registry = Registry::create(&id)?;
        let mut unfinished = Unfinished(Some(&registry));
        let namespace = |role: &str| -> Result<Namespace> {
            let name = format!("jvpn-{id}-{role}");
            registry.add_namespace(&name)?;
            let namespace = Namespace::create(&name)?;
            settle_kernel(&namespace)?;
            Ok(namespace)
        };
        let [client, router, gateway, lan, attacker] =
            ["client", "router", "gateway", "lan", "attacker"].map(namespace);
        let (client, router, gateway, lan, attacker) = (client?, router?, gateway?, lan?, attacker?);
        unfinished.0 = None;
        drop(unfinished);
        let rig = Self { id, registry, client, router, gateway, lan, attacker, kept: false };
        rig.build()?;
        Ok(rig)
    }

    fn build(&self) -> Result<()> {
        self.make_links()?;
        for (namespace, interface) in self.interfaces() {
            link::turn_offloads_off(namespace, interface)?;
        }
        self.make_addresses()?;
        // A flow may hash to either queue of the gateway. So that both workers certainly get packets, the
        // uplinks use different transmit queues, and the router sends a frame on by the queue that it was
        // marked with. Queue 0 would leave no mark; which of the gateway's two queues 1 and 2 become depends
        // on the kernel.
        link::pin_transmit_queue(&self.client, "upA", 1)?;
        link::pin_transmit_queue(&self.client, "upB", 2)?;
        Impairments::new(self).set_up()
    }

    fn make_links(&self) -> Result<()> {
        let pair = |queues: u32, (a, a_name): (&Namespace, &str), (b, b_name): (&Namespace, &str)| {
            format!(
                "link add name {a_name} netns {} mtu 1500 numtxqueues {queues} numrxqueues {queues} \
                 type veth peer name {b_name} netns {} mtu 1500 numtxqueues {queues} numrxqueues {queues}\n",
                a.name(),
                b.name()
            )
        };
        let batch = [
            pair(UPLINK_QUEUES, (&self.router, "rA"), (&self.client, "upA")),
            pair(UPLINK_QUEUES, (&self.router, "rB"), (&self.client, "upB")),
            pair(1, (&self.router, "rX"), (&self.attacker, "eth0")),
            pair(QUEUES, (&self.gateway, "wan0"), (&self.router, "rW")),
            pair(QUEUES, (&self.gateway, "lan0"), (&self.lan, "eth0")),
        ]
        .concat();
        IP.run_with_input(None, &["-batch", "-"], &batch).map(drop)
    }

    fn make_addresses(&self) -> Result<()> {
        let batches = [
            // The default routes go last: they need the connected ones.
            (
                &self.client,
                [("upA", "10.0.1.2/24"), ("upB", "10.0.2.2/24")].as_slice(),
                ["default via 10.0.1.1 dev upA metric 100", "default via 10.0.2.1 dev upB metric 200"]
                    .as_slice(),
            ),
            (
                &self.router,
                &[
                    ("rA", "10.0.1.1/24"),
                    ("rB", "10.0.2.1/24"),
                    ("rX", "10.0.9.1/24"),
                    ("rW", "198.51.100.254/24"),
                ],
                &[],
            ),
            (
                &self.gateway,
                &[("wan0", "198.51.100.1/24"), ("lan0", "192.168.50.1/24")],
                &["default via 198.51.100.254 dev wan0"],
            ),
            (&self.lan, &[("eth0", "192.168.50.10/24")], &["10.77.0.0/16 via 192.168.50.1 dev eth0"]),
            (&self.attacker, &[("eth0", "10.0.9.2/24")], &["default via 10.0.9.1 dev eth0"]),
        ];
        for (namespace, addresses, routes) in batches {
            let mut batch = "link set lo up\n".to_owned();
            for (interface, address) in addresses {
                batch.push_str(&format!("address add {address} dev {interface}\nlink set {interface} up\n"));
            }
            for route in routes {
                batch.push_str(&format!("route add {route}\n"));
            }
            IP.run_with_input(Some(namespace), &["-batch", "-"], &batch)?;
        }
        Ok(())
    }

    fn interfaces(&self) -> [(&Namespace, &'static str); 10] {
        [
            (&self.client, "upA"),
            (&self.client, "upB"),
            (&self.router, "rA"),
            (&self.router, "rB"),
            (&self.router, "rX"),
            (&self.router, "rW"),
            (&self.gateway, "wan0"),
            (&self.gateway, "lan0"),
            (&self.lan, "eth0"),
            (&self.attacker, "eth0"),
        ]
    }

    /// Fails if an interface hands over unfinished checksums or oversized packets; to be asked again once XDP
    /// is attached.
    ///
    /// # Errors
    /// Which one, and what is on.
    pub fn assert_offloads_off(&self) -> Result<()> {
        self.interfaces()
            .into_iter()
            .try_for_each(|(namespace, interface)| link::assert_offloads_off(namespace, interface))
    }

    /// The random part of its names.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Directory for run-time files (sockets); removed with the rig.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.registry.dir()
    }

    /// Where the client is.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The routers and NATs between client and gateway.
    #[must_use]
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// Where the gateway is.
    #[must_use]
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// The network behind the gateway.
    #[must_use]
    pub fn lan(&self) -> &Namespace {
        &self.lan
    }

    /// Someone else on the Internet.
    #[must_use]
    pub fn attacker(&self) -> &Namespace {
        &self.attacker
    }

    /// Makes a further namespace of this rig; it goes with the rig.
    ///
    /// # Errors
    /// The kernel refuses, or there is one for this role already.
    pub fn add_namespace(&self, role: &str) -> Result<Namespace> {
        let name = format!("jvpn-{}-{role}", self.id);
        self.registry.add_namespace(&name)?;
        let namespace = Namespace::create(&name)?;
        settle_kernel(&namespace)?;
        Ok(namespace)
    }

    /// Starts a process in a namespace of this rig; its output goes to `log`.
    ///
    /// # Errors
    /// The program or the log file cannot be opened; or it has ended already, with its last words.
    pub fn start(
        &self,
        name: &str,
        namespace: &Namespace,
        command: Command,
        log: &Path,
    ) -> Result<Supervised> {
        let mut command = command;
        command.env(RIG_MARK, &self.id).stdin(Stdio::null());
        let mut process = namespace.run(|| Supervised::start(name, command, log))??;
        if let Err(error) = self.registry.add_process(process.pid()) {
            // One that ended at once says why better than that it is not there any more.
            process.check()?;
            return Err(error);
        }
        Ok(process)
    }

    /// The network stays when this value goes; `jvpn-bench demo --down` removes it.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn keep(&mut self) -> Result<()> {
        self.registry.keep()?;
        self.kept = true;
        Ok(())
    }

    /// Removes the network and says whether that worked; dropping does the same silently.
    ///
    /// # Errors
    /// What could not be removed; the next sweep tries again.
    pub fn remove(mut self) -> Result<()> {
        self.kept = true;
        self.registry.remove_all()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !self.kept {
            // Nobody is left to tell; what stays is swept at the next start.
            let _ = self.registry.remove_all();
        }
    }
}

/// Settings that differ between distributions, made explicit.
fn settle_kernel(namespace: &Namespace) -> Result<()> {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        // The rig speaks IPv4 only; no router solicitations and duplicate address detection among the frames
        // counted.
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
    ] {
        match namespace.sysctl(key, value) {
            // A kernel without IPv6 has none to turn off.
            Err(_) if key.starts_with("net/ipv6/") => {}
            result => result?,
        }
    }
    // Outside the host's own namespace only the allowed ones can be made the default; sockets may still ask
    // for theirs.
    let allowed = namespace.sysctl_value("net/ipv4/tcp_allowed_congestion_control")?;
    if allowed.split_whitespace().any(|name| name == "cubic") {
        namespace.sysctl("net/ipv4/tcp_congestion_control", "cubic")?;
    }
    Ok(())
}
