//! The LAN port into the host's own stack, for appliances with one NIC: a pair of virtual interfaces that is made here, or
//! a TUN device where there is no AF_XDP. Addresses, the permanent neighbour, offloads, routes to the clients and, if
//! asked for, masquerading are set here and go with the port.
//!
//! It is done with the system's own `ip`, `ethtool` and `nft`, once at the start: an operator can read and repeat it.

use crate::config::{Config, HostPort};
use crate::ending::Ending;
use crate::frame::Mac;
use crate::host_end::Belongings;
use crate::host_links::{self, MARK, Place};
use crate::host_routes::HostWay;
use crate::netlink::Link;
use crate::plan;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Offloads that must be off where the host hands frames over: it leaves checksums unfinished and packets of 64 KiB
/// unless told otherwise, and XDP would see them so.
const OFFLOADS: [&str; 5] = ["tx", "tso", "gso", "gro", "sg"];
/// Marks our routes to the pools (protocol 'J'); another route of the host for the same network, which goes first, stays.
const ROUTE: &str = "proto 74 metric 1024";
/// Where administrators' programs are; a service's PATH may lack them.
const PATHS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// The pair, which is removed with this value.
#[derive(Debug)]
pub struct VethPair {
    ours: String,
    table: Option<String>,
    kept: bool,
    /// MAC address of the host's end: where every packet from a client goes.
    pub host_mac: Mac,
    /// How the host reaches what is behind the tunnel.
    pub way: HostWay,
    /// What the kernel forgets of the host's end when that is switched off, beside routes.
    pub belongings: Belongings,
}

impl VethPair {
    /// Makes the pair with `queues` queues, or takes over the very pair that an earlier data plane left: connections of the
    /// host go on over a restart.
    ///
    /// # Errors
    /// If one of the names is that of an interface that no data plane made, or a tool is missing or refuses.
    pub fn make(config: &Config, host: &HostPort, queues: usize) -> Result<Self> {
        let (ours, theirs) = (config.lan.interface(), &host.interface);
        let mark = mark(config, host, queues);
        let place = host_links::make_room(ends(config, host), &mark)?;
        let mtu = config.tunnel.mtu;
        if place == Place::Free {
            let end = format!("mtu {mtu} numtxqueues {queues} numrxqueues {queues}");
            let batch = format!(
                "link add name {ours} {end} type veth peer name {theirs} {end}\nlink set {ours} alias {mark}\n\
                 link set {theirs} alias {mark}\n"
            );
            tool("ip", &["-batch", "-"], &batch)?;
        }
        let way = HostWay { device: 0, via: Some(config.tunnel.gateway()) };
        let (host_mac, belongings) = (Mac::default(), Belongings::default());
        let mut made = Self { ours: ours.clone(), table: None, kept: false, host_mac, way, belongings };
        tool("ip", &["-batch", "-"], &format!("link set {ours} up\nlink set {theirs} up\n"))?;
        for end in [ours, theirs] {
            let mut args = vec!["-K", end.as_str()];
            args.extend(OFFLOADS.iter().flat_map(|feature| [*feature, "off"]));
            tool("ethtool", &args, "")?;
        }
        let count = u32::try_from(queues).unwrap_or(u32::MAX);
        let used = |end: &String| link_of(end).map(|link| plan::queues_in_use(end, &link));
        if used(ours)?.min(used(theirs)?) < count {
            use_queues([ours, theirs], count);
        }
        // The host's stack has no business on our end.
        sysctl(&format!("net/ipv6/conf/{ours}/disable_ipv6"), "1");
        let host_end = link_of(theirs)?;
        (made.host_mac, made.way.device) = (host_end.mac, host_end.index);
        let our_mac = link_of(ours)?.mac;
        made.belongings = Belongings::new(made.way, our_mac, &host.addresses);
        let via = mac_text(our_mac);
        let mut batch = String::new();
        for (gateway, pool) in families(config) {
            let _ = write!(
                batch,
                "neighbour replace {gateway} lladdr {via} dev {theirs} nud permanent\n\
                 route replace {pool} via {gateway} dev {theirs} onlink {ROUTE}\n"
            );
        }
        tool("ip", &["-batch", "-"], &batch)?;
        made.table = finish(host)?;
        Ok(made)
    }

    /// What dropping does from now on: the pair stays for the next process, or goes.
    pub const fn end(&mut self, ending: Ending) {
        self.kept = matches!(ending, Ending::ForNext);
    }
}

/// Has both ends of a pair use so many of their queues, one after the other. The host's may never send to more queues than
/// ours has, which has XDP: ours is the first to use more and the last to use fewer.
pub(crate) fn use_queues(ends: [&String; 2], count: u32) {
    if let Err(error) = plan::settle(&plan::channels(ends.map(String::as_str), count)) {
        tracing::warn!(?ends, count, %error, "the pair keeps its queues");
    }
}

/// Removes a pair that a data plane left where this one has none: its mode has changed.
///
/// # Errors
/// If the name is that of an interface that no data plane made.
pub fn clear_pair(config: &Config, host: &HostPort) -> Result<()> {
    host_links::make_room(ends(config, host), "").map(drop)
}

fn ends<'a>(config: &'a Config, host: &'a HostPort) -> [(&'static str, &'a str); 2] {
    [("lan.interface", config.lan.interface()), ("lan.host.interface", host.interface.as_str())]
}

/// The mark of a pair: a data plane that wants another one makes it anew.
fn mark(config: &Config, host: &HostPort, queues: usize) -> String {
    let mut hash = DefaultHasher::new();
    let names = (config.lan.interface(), &host.interface);
    (names, queues, config.tunnel.mtu, families(config), &host.addresses).hash(&mut hash);
    format!("{MARK}{:016x}", hash.finish())
}

/// Removes an interface.
pub(crate) fn remove_link(name: &str) -> Result<()> {
    tool("ip", &["link", "delete", name], "")
}

impl Drop for VethPair {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some(table) = &self.table {
            let _gone = tool("nft", &["delete", "table", "inet", table], "");
        }
        let _gone = remove_link(&self.ours);
    }
}

/// A TUN device with a queue per worker. It goes with its descriptors; masquerading with this value.
pub struct Tun {
    /// The queues, non-blocking.
    pub queues: Vec<SyncDevice>,
    table: Option<String>,
    /// How the host reaches what is behind the tunnel.
    pub way: HostWay,
    /// What the kernel forgets of it when it is switched off, beside routes.
    pub belongings: Belongings,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun").field("queues", &self.queues.len()).finish_non_exhaustive()
    }
}

impl Tun {
    /// Makes the device with `workers` queues.
    ///
    /// # Errors
    /// If the kernel refuses it, or a tool is missing or refuses.
    pub fn make(config: &Config, workers: usize) -> Result<Self> {
        let name = config.tun_name();
        let first = DeviceBuilder::new()
            .name(name)
            .layer(Layer::L3)
            .multi_queue(workers > 1)
            .enable(false)
            .build_sync()
            .with_context(|| format!("TUN device {name}: it needs /dev/net/tun and CAP_NET_ADMIN"))?;
        let mut queues = vec![first];
        while let Some(last) = queues.last().filter(|_| queues.len() < workers) {
            queues.push(last.try_clone().with_context(|| format!("a queue of TUN device {name}"))?);
        }
        for queue in &queues {
            queue.set_nonblocking(true).with_context(|| format!("TUN device {name}"))?;
        }
        let mut batch = format!("link set {name} mtu {} up\n", config.tunnel.mtu);
        for (_, pool) in families(config) {
            let _ = writeln!(batch, "route replace {pool} dev {name} {ROUTE}");
        }
        tool("ip", &["-batch", "-"], &batch)?;
        let table = match &config.lan.host {
            Some(host) => finish(host)?,
            None => None,
        };
        let way = HostWay { device: link_of(name)?.index, via: None };
        let addresses = config.lan.host.as_ref().map_or(&[][..], |host| &host.addresses);
        Ok(Self { queues, table, way, belongings: Belongings::new(way, Mac::default(), addresses) })
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        if let Some(table) = &self.table {
            let _gone = tool("nft", &["delete", "table", "inet", table], "");
        }
    }
}

/// Gateway's inner address and clients' network, of each family that is configured.
fn families(config: &Config) -> Vec<(String, String)> {
    let tunnel = &config.tunnel;
    let v6 = tunnel.gateway_address_v6.zip(tunnel.pool_v6.clone());
    let v6 = v6.map(|(gateway, pool)| (gateway.to_string(), pool));
    [(tunnel.gateway_address.to_string(), tunnel.pool.clone())].into_iter().chain(v6).collect()
}

/// Addresses, forwarding and masquerading of the host's end. Returns the table of rules, if one was made.
fn finish(host: &HostPort) -> Result<Option<String>> {
    let interface = &host.interface;
    let batch: String =
        host.addresses.iter().map(|address| format!("address replace {address} dev {interface}\n")).collect();
    tool("ip", &["-batch", "-"], &batch)?;
    for family in ["ipv4", "ipv6"] {
        sysctl(&format!("net/{family}/conf/{interface}/forwarding"), "1");
    }
    if fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() == "0") {
        tracing::warn!("this host forwards nothing for clients: 'sysctl -w net.ipv4.ip_forward=1'");
    }
    if !host.masquerade {
        // A data plane that was killed may have done it.
        remove_masquerade(interface);
        return Ok(None);
    }
    let table = masquerade(interface);
    let mut rules = format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    rules.push_str("  chain leave {\n    type nat hook postrouting priority srcnat;\n");
    // By where it comes from, not by address: sites come and go, and their addresses leave by the same door.
    let _ = writeln!(rules, "    iifname \"{interface}\" oifname != \"{interface}\" masquerade");
    rules.push_str("  }\n}\n");
    tool("nft", &["-f", "-"], &rules)?;
    Ok(Some(table))
}

/// Name of the table of rules that masquerades what leaves by a host's end.
fn masquerade(interface: &str) -> String {
    format!("jvpn_{}", interface.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

/// Removes that table, if it is there. Without nft there is none.
pub(crate) fn remove_masquerade(interface: &str) {
    let _gone = tool("nft", &["delete", "table", "inet", &masquerade(interface)], "");
}

/// A setting of an interface of ours; a kernel without this family has none.
fn sysctl(key: &str, value: &str) {
    if let Err(error) = fs::write(Path::new("/proc/sys").join(key), value) {
        tracing::debug!(%error, key, "setting not made");
    }
}

fn link_of(interface: &str) -> Result<Link> {
    let link = crate::netlink::Netlink::new().and_then(|mut netlink| netlink.link(interface));
    link.with_context(|| format!("interface {interface}, which was just made"))
}

fn mac_text(mac: Mac) -> String {
    mac.0.map(|octet| format!("{octet:02x}")).join(":")
}

/// Runs a tool of the system.
fn tool(program: &str, args: &[&str], input: &str) -> Result<()> {
    let shown = format!("{program} {}", args.join(" "));
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", format!("{path}:{PATHS}"))
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("'{shown}': is {program} installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on its standard error.
        let _early = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("'{shown}'"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("'{shown}' failed: {}\n{input}", said.trim());
    }
    Ok(())
}
