//! Configuration of the data plane (TOML). Every value is checked before anything is touched.

mod sides;

pub use sides::{LanPort, WanPort};

use crate::frame::{Address, GatewayAddresses};
use crate::ladder::Mode;
use crate::pipeline::Pools;
use crate::tuning::Tuning;
use jvpn_abi::limit::Rate;
use jvpn_abi::tables::MAX_WORKERS;
use jvpn_abi::wire::data::MAX_SLOTS;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unix socket on which the control plane gets its descriptors.
    #[serde(default = "default_control_socket")]
    pub control_socket: PathBuf,
    /// The user that the control plane runs as; nobody else gets descriptors.
    #[serde(default = "default_user")]
    pub control_plane_user: String,
    /// Unix socket for `jvpn status`.
    #[serde(default = "default_status_socket")]
    pub status_socket: PathBuf,
    /// Directory in a BPF file system for links and tables that outlive the process; empty = nothing outlives it.
    #[serde(default = "default_pin_dir")]
    pub pin_dir: PathBuf,
    /// Workers, one per queue of each port; 0 = as many as the port with fewer queues has.
    #[serde(default)]
    pub workers: usize,
    /// CPU of each worker; empty = chosen near the WAN port (`plan`).
    #[serde(default)]
    pub cores: Vec<usize>,
    /// Entries of the binding table: twice the `max_sessions` of policy. A session holds one, and a second while it switches;
    /// none is reserved, so sessions that hold all of them cannot switch.
    #[serde(default = "default_slots")]
    pub slots: u32,
    /// How far down the ladder from zero-copy to plain sockets the ports may go.
    #[serde(default)]
    pub mode: Mode,
    /// Logs odd frames from XDP (rate-limited by the ring; off by default).
    #[serde(default)]
    pub xdp_log: bool,
    /// What has a better value on some machines.
    #[serde(default)]
    pub tuning: Tuning,
    /// The port towards the clients.
    pub wan: WanPort,
    /// The port towards the protected network.
    pub lan: LanPort,
    /// Inner side.
    pub tunnel: Tunnel,
    /// Edge limits.
    #[serde(default)]
    pub limits: Limits,
}

/// The host's end of a LAN port that leads into its own stack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPort {
    /// Interface name of the host's end.
    #[serde(default = "default_host_interface")]
    pub interface: String,
    /// Addresses that it gets, as `10.78.0.1/32`, outside the clients' networks: clients reach the host itself there.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether clients leave the host under its own addresses (nftables).
    #[serde(default)]
    pub masquerade: bool,
}

/// The inner side.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// The gateway's own inner address; workers answer echo to it.
    pub gateway_address: Ipv4Addr,
    /// Network of the clients' inner addresses, as `10.77.0.0/16`.
    pub pool: String,
    /// The same for IPv6; both or none.
    pub gateway_address_v6: Option<Ipv6Addr>,
    /// Network of the clients' inner IPv6 addresses, as `fd77::/64`.
    pub pool_v6: Option<String>,
    /// Whether clients may reach each other through the gateway.
    #[serde(default)]
    pub client_to_client: bool,
    /// Largest inner packet, octets.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
}

/// Edge limits of the XDP program, for the whole port: what may reach the control plane per second. Each class has its
/// own share, so that a flood of one cannot starve another.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Reattach requests with a handle of a live session.
    pub known_handles_per_second: u32,
    /// Reattach requests with any other handle.
    pub unknown_handles_per_second: u32,
    /// Reattach requests with one and the same handle before those with others go first; twice as many at once.
    pub handle_per_second: u32,
    /// Handshakes.
    pub handshakes_per_second: u32,
    /// Control messages inside sessions and path probes.
    pub session_per_second: u32,
    /// Datagrams of one class from one source prefix (/24 of IPv4, /56 of IPv6).
    pub source_per_second: u32,
    /// Samples of unbound DATA.
    pub sample_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            known_handles_per_second: 10_000,
            unknown_handles_per_second: 1_000,
            handle_per_second: 10,
            handshakes_per_second: 4_000,
            session_per_second: 20_000,
            source_per_second: 1_000,
            sample_per_second: 2_000,
        }
    }
}

fn default_control_socket() -> PathBuf {
    "/run/jvpn/dataplane.sock".into()
}
fn default_status_socket() -> PathBuf {
    "/run/jvpn/dataplane-status.sock".into()
}
fn default_pin_dir() -> PathBuf {
    "/sys/fs/bpf/jvpn".into()
}
fn default_user() -> String {
    "jvpn".to_owned()
}
const fn default_slots() -> u32 {
    16_384
}
const fn default_port() -> u16 {
    4_500
}
fn default_tun() -> String {
    "jvpn-tun".to_owned()
}
fn default_host_interface() -> String {
    "jvpn-host".to_owned()
}
const fn default_mtu() -> u16 {
    1_280
}

/// Smallest MTU that every IPv4 host must take (RFC 791) and largest that a frame of the UMEM holds with its overhead.
const MTU_BOUNDS: std::ops::RangeInclusive<u16> = 576..=1_500;

/// Smallest MTU of a link that carries IPv6 (RFC 8200 §5).
const MTU_V6: u16 = 1_280;

impl Config {
    /// Checks every value.
    ///
    /// # Errors
    /// The key, what it is and what it may be.
    pub fn validate(&self) -> Result<(), String> {
        if self.workers > MAX_WORKERS {
            return Err(format!("workers = {} must be 0 to {MAX_WORKERS}", self.workers));
        }
        if !self.cores.is_empty() && self.cores.len() != self.workers {
            return Err(format!(
                "cores names {} CPUs for {} workers; give one per worker, or none",
                self.cores.len(),
                self.workers
            ));
        }
        let mut seen = self.cores.clone();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != self.cores.len() {
            return Err("cores names a CPU twice; each worker needs its own".to_owned());
        }
        if !(2..=MAX_SLOTS).contains(&self.slots) {
            return Err(format!(
                "slots = {} must be 2 to {MAX_SLOTS}: twice the max_sessions of policy, since a session holds a second \
                 slot while it switches and none is reserved for that",
                self.slots
            ));
        }
        self.wan.validate()?;
        self.lan.validate(&self.wan)?;
        if let Some(host) = &self.lan.host {
            sides::interface_name("lan.host.interface", &host.interface)?;
            host.validate(self.lan.interfaces(), &self.tunnel.pools()?)?;
        }
        if !MTU_BOUNDS.contains(&self.tunnel.mtu) {
            return Err(format!(
                "tunnel.mtu = {} must be {} to {}",
                self.tunnel.mtu,
                MTU_BOUNDS.start(),
                MTU_BOUNDS.end()
            ));
        }
        for (key, rate) in [
            ("known_handles_per_second", self.limits.known_handles_per_second),
            ("unknown_handles_per_second", self.limits.unknown_handles_per_second),
            ("handle_per_second", self.limits.handle_per_second),
            ("handshakes_per_second", self.limits.handshakes_per_second),
            ("session_per_second", self.limits.session_per_second),
            ("source_per_second", self.limits.source_per_second),
        ] {
            if rate == 0 {
                return Err(format!("limits.{key} = 0 would shut clients out; it must be at least 1"));
            }
        }
        self.tunnel.pools()?;
        if self.tunnel.pool_v6.is_some() && self.tunnel.mtu < MTU_V6 {
            return Err(format!("tunnel.mtu = {} must be at least {MTU_V6} for IPv6", self.tunnel.mtu));
        }
        self.tuning.validate(self.workers)
    }

    /// Name of the TUN device that stands for the LAN port where there is no AF_XDP.
    #[must_use]
    pub fn tun_name(&self) -> &str {
        self.lan.host.as_ref().map_or(&self.lan.tun, |host| &host.interface)
    }
}

impl HostPort {
    fn validate(&self, ours: &[String], pools: &Pools) -> Result<(), String> {
        if ours.contains(&self.interface) {
            let shared = &self.interface;
            return Err(format!(
                "lan.host.interface and lan.interface are both '{shared}'; they are two ends"
            ));
        }
        for text in &self.addresses {
            let address = text.split_once('/').and_then(|(address, len)| {
                let address: IpAddr = address.parse().ok()?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                len.parse::<u8>().ok().filter(|len| *len <= most).map(|_| address)
            });
            match address {
                None => {
                    return Err(format!("lan.host.addresses: '{text}' is not an address like 10.78.0.1/32"));
                }
                Some(inside) if pools.contains(inside.into()) => {
                    return Err(format!(
                        "lan.host.addresses: '{text}' is one of the clients' addresses; take one outside their pool"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

impl Tunnel {
    /// The gateway's own inner addresses.
    #[must_use]
    pub fn gateway(&self) -> GatewayAddresses {
        GatewayAddresses {
            v4: Some(self.gateway_address.into()),
            v6: self.gateway_address_v6.map(Address::from),
        }
    }

    /// Networks of the clients' inner addresses.
    ///
    /// # Errors
    /// If one is not a prefix of its family, or the gateway's address is not inside.
    pub fn pools(&self) -> Result<Pools, String> {
        let v4 = pool("", &self.pool, self.gateway_address.into(), (8..=32, "10.77.0.0/16"))?;
        let v6 = match (&self.pool_v6, self.gateway_address_v6) {
            (Some(text), Some(address)) => Some(pool("_v6", text, address.into(), (32..=128, "fd77::/64"))?),
            (None, None) => None,
            (Some(_), None) => {
                return Err("tunnel.pool_v6 needs tunnel.gateway_address_v6 beside it".to_owned());
            }
            (None, Some(_)) => {
                return Err("tunnel.gateway_address_v6 needs tunnel.pool_v6 beside it".to_owned());
            }
        };
        Ok(Pools { v4: Some(v4), v6 })
    }
}

/// Network and mask of a pool over IPv4-mapped addresses. `key` tells the keys of the families apart.
fn pool(
    key: &str,
    text: &str,
    gateway: IpAddr,
    (lens, example): (std::ops::RangeInclusive<u32>, &str),
) -> Result<(u128, u128), String> {
    let wrong = || {
        let (least, most) = (lens.start(), lens.end());
        format!(
            "tunnel.pool{key} = '{text}' is not a prefix like {example}, with a length of {least} to {most}"
        )
    };
    let (address, len) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let len: u32 = len.parse().ok().filter(|len| lens.contains(len)).ok_or_else(wrong)?;
    if address.is_ipv4() != gateway.is_ipv4() {
        return Err(wrong());
    }
    let mapped_len = if address.is_ipv4() { 96 + len } else { len };
    let mask = u128::MAX << (128 - mapped_len);
    let network = Address::from(address).0 & mask;
    if Address::from(gateway).0 & mask != network {
        return Err(format!(
            "tunnel.gateway_address{key} = {gateway} is not inside tunnel.pool{key} = {text}"
        ));
    }
    Ok((network, mask))
}

impl Limits {
    /// A limit as each of `cpus` enforces it: its share per second, a tenth of a second's worth at once.
    #[must_use]
    pub fn per_cpu(per_second: u32, cpus: u32) -> Rate {
        if per_second == 0 {
            return Rate { per_second: 0, burst: 0 };
        }
        let share = per_second.div_ceil(cpus.max(1));
        Rate { per_second: share, burst: share.div_ceil(10).max(32) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "workers = 2\n[wan]\ninterface = \"w\"\n[lan]\ninterface = \"l\"\n[tunnel]\ngateway_address = \"10.77.0.1\"\npool = \"10.77.0.0/16\"\n";

    fn check(text: &str) -> Result<(), String> {
        toml::from_str::<Config>(text).map_err(|error| error.to_string())?.validate()
    }

    /// What to replace in a good file, with what, and what the error names.
    const CASES: &[(&str, &str, &str)] = &[
        ("workers = 2", "workers = 0\ncores = [1]", "cores"),
        ("[tunnel]", "[tuning]\nbatch = 1\n[tunnel]", "tuning.batch"),
        ("[tunnel]", "[tuning]\nqueues = [3]\n[tunnel]", "tuning.queues"),
        ("workers = 2", "workers = 65", "workers"),
        ("workers = 2", "workers = -1", "workers"),
        ("workers = 2", "workers = 2\ncores = [1]", "cores"),
        ("workers = 2", "workers = 2\ncores = [1, 1]", "cores"),
        ("workers = 2", "workers = 2\nslots = 1", "slots"),
        ("workers = 2", "workers = 2\nslots = 200000", "slots"),
        ("workers = 2", "workers = 2\nwrokers = 3", "wrokers"),
        ("interface = \"w\"", "interface = \"\"", "wan.interface"),
        ("interface = \"w\"", "interface = \"a-name-that-is-too-long\"", "wan.interface"),
        ("interface = \"w\"", "interface = \"l\"", "lan.interface"),
        ("interface = \"w\"", "", "wan.interface"),
        ("interface = \"w\"", "interfaces = []", "wan.interfaces"),
        ("interface = \"w\"", "interfaces = [\"w\", \"\"]", "wan.interfaces"),
        ("interface = \"w\"", "interfaces = [\"w\", \"w\"]", "wan.interfaces"),
        ("interface = \"w\"", "interfaces = [\"w\", \"l\"]", "lan.interface"),
        ("interface = \"w\"", "interfaces = [\"a\", \"b\", \"c\", \"d\", \"e\"]", "wan.interfaces"),
        ("interface = \"w\"", "interface = \"w\"\ninterfaces = [\"v\"]", "wan.interface and wan.interfaces"),
        ("interface = \"l\"", "interface = \"l\"\ninterfaces = [\"m\"]", "lan.interface and lan.interfaces"),
        ("interface = \"l\"", "interfaces = [\"l\", \"m\"]\n[lan.host]", "lan.host"),
        ("interface = \"w\"", "interface = \"w\"\nvlan = 0", "wan.vlan"),
        ("interface = \"w\"", "interface = \"w\"\nvlan = 4095", "wan.vlan"),
        ("interface = \"w\"", "interface = \"w\"\nvlan_devices = [\"v\"]", "wan.vlan_devices"),
        ("interface = \"w\"", "interface = \"w\"\nvlan = 7\nvlan_devices = []", "wan.vlan_devices"),
        ("interface = \"w\"", "interface = \"w\"\nvlan = 7\nvlan_devices = [\"a b\"]", "wan.vlan_devices"),
        ("interface = \"w\"", "interface = \"w\"\nport = 0", "wan.port"),
        ("interface = \"w\"", "interface = \"w\"\nport = 65536", "port"),
        ("\"10.77.0.1\"", "\"10.77.0\"", "gateway_address"),
        ("\"10.77.0.1\"", "\"10.78.0.1\"", "gateway_address"),
        ("\"10.77.0.0/16\"", "\"10.77.0.0\"", "tunnel.pool"),
        ("\"10.77.0.0/16\"", "\"10.77.0.0/33\"", "tunnel.pool"),
        ("\"10.77.0.0/16\"", "\"fd77::/64\"", "tunnel.pool"),
        ("[tunnel]", "[tunnel]\npool_v6 = \"fd77::/64\"", "tunnel.gateway_address_v6"),
        ("[tunnel]", "[tunnel]\ngateway_address_v6 = \"fd77::1\"", "tunnel.pool_v6"),
        (
            "[tunnel]",
            "[tunnel]\ngateway_address_v6 = \"fd78::1\"\npool_v6 = \"fd77::/64\"",
            "tunnel.gateway_address_v6",
        ),
        (
            "[tunnel]",
            "[tunnel]\ngateway_address_v6 = \"fd77::1\"\npool_v6 = \"fd77::/129\"",
            "tunnel.pool_v6",
        ),
        ("[tunnel]", "[tunnel]\nclient_to_client = 3", "client_to_client"),
        ("[tunnel]", "[limits]\nknown_handles_per_second = 0\n[tunnel]", "known_handles_per_second"),
        ("[tunnel]", "[limits]\nunknown_handles_per_second = 0\n[tunnel]", "unknown_handles_per_second"),
        ("[tunnel]", "[limits]\nhandle_per_second = 0\n[tunnel]", "handle_per_second"),
        ("[tunnel]", "[limits]\nhandshakes_per_second = 0\n[tunnel]", "handshakes_per_second"),
        ("[tunnel]", "[limits]\nsession_per_second = 0\n[tunnel]", "session_per_second"),
        ("[tunnel]", "[limits]\nsource_per_second = 0\n[tunnel]", "source_per_second"),
        ("[tunnel]", "[tunnel]\nmtu = 200", "tunnel.mtu"),
        ("[tunnel]", "[tunnel]\nmtu = 9000", "tunnel.mtu"),
        (
            "[tunnel]",
            "[tunnel]\nmtu = 1279\ngateway_address_v6 = \"fd77::1\"\npool_v6 = \"fd77::/64\"",
            "tunnel.mtu",
        ),
        ("workers = 2", "workers = 2\nmode = \"fast\"", "mode"),
        ("[tunnel]", "tun = \"\"\n[tunnel]", "lan.tun"),
        ("[tunnel]", "[lan.host]\ninterface = \"l\"\n[tunnel]", "lan.host.interface"),
        ("[tunnel]", "[lan.host]\ninterface = \"a b\"\n[tunnel]", "lan.host.interface"),
        ("[tunnel]", "[lan.host]\naddresses = [\"10.0.0.1\"]\n[tunnel]", "lan.host.addresses"),
        ("[tunnel]", "[lan.host]\naddresses = [\"10.77.9.1/32\"]\n[tunnel]", "lan.host.addresses"),
        ("[tunnel]", "[lan.host]\naddresses = [\"10.0.0.1/33\"]\n[tunnel]", "lan.host.addresses"),
        ("[tunnel]", "[lan.host]\nmasquerade = 1\n[tunnel]", "masquerade"),
    ];

    /// Each field wrong, once: the error names it.
    #[test]
    fn every_field_is_checked() {
        check(GOOD).unwrap();
        let several = GOOD.replace(
            "interface = \"w\"",
            "interfaces = [\"w\", \"v\"]\nvlan = 4094\nvlan_devices = [\"x\", \"y\"]",
        );
        check(&several.replace("interface = \"l\"", "interfaces = [\"l\", \"m\", \"n\", \"o\"]")).unwrap();
        for (from, to, named) in CASES {
            let error = check(&GOOD.replacen(from, to, 1)).expect_err(to);
            assert!(error.contains(named), "'{to}': the error does not name {named}: {error}");
        }
    }

    #[test]
    fn limits_are_shared_between_cpus() {
        assert_eq!(Limits::per_cpu(20_000, 2), Rate { per_second: 10_000, burst: 1_000 });
        assert_eq!(Limits::per_cpu(0, 2), Rate { per_second: 0, burst: 0 });
    }
}
