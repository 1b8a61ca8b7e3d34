//! The configuration of the control plane: TOML in, checked settings out. Every refusal names the key, its
//! value and what to write instead. Key material stays in files of its own; this module knows only their
//! paths.

mod claims;

use crate::abuse::AbuseSettings;
use crate::engine::{PeerSettings, Settings, TunnelSettings};
use claims::Claims;
use jvpn_abi::tables::MAX_PREFIXES;
use jvpn_abi::wire::Suite;
use jvpn_crypto::keys::{PresharedKey, PublicKey};
use jvpn_session::Policy;
use jvpn_session::messages::{MAX_GRANT_DNS, MAX_GRANT_ROUTES, Prefix};
use jvpn_session::policy::{DEFAULT_PRESET, PolicyError, PolicyFile};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Smallest inner MTU: what IPv6 asks of every link (RFC 8200 §5).
const MTU_MIN: u16 = 1_280;
/// Largest inner MTU: a standard Ethernet path less what the tunnel adds.
const MTU_MAX: u16 = 1_440;
/// Seconds between two abuse summaries.
const ABUSE_INTERVAL_S: RangeInclusive<u64> = 1..=3_600;
/// Prefixes that an abuse summary names: at 350 octets each they fit a datagram.
const ABUSE_SOURCES: RangeInclusive<usize> = 1..=100;
/// Longest path of a Unix socket (unix(7): 108 octets with its end).
const SOCKET_PATH_MAX: usize = 107;
/// IPv4 as the shared tables hold it (RFC 4291 §2.5.5.2): an IPv6 prefix around it would lead IPv4 too.
const MAPPED: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0));
/// Longest name of a node or peer.
const NAME_MAX: usize = 64;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable, or not the TOML that is expected.
    #[error(transparent)]
    File(#[from] jvpn_host::config::ConfigError),
    /// Not the TOML that is expected.
    #[error("configuration is not valid: {0}")]
    Syntax(#[from] Box<toml::de::Error>),
    /// A policy value.
    #[error("configuration: {0}")]
    Policy(#[from] PolicyError),
    /// A value.
    #[error("configuration: {key} = {value}: {problem}")]
    Value {
        /// The key, with its table.
        key: String,
        /// What was given.
        value: String,
        /// What is wrong and what to write.
        problem: String,
    },
}

fn refuse(key: impl Into<String>, value: impl std::fmt::Display, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { key: key.into(), value: format!("\"{value}\""), problem: problem.into() }
}

/// The file as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    node_id: String,
    #[serde(default = "default_dataplane_socket")]
    dataplane_socket: PathBuf,
    #[serde(default = "default_status_socket")]
    status_socket: PathBuf,
    #[serde(default = "default_user")]
    user: String,
    state_dir: PathBuf,
    private_key_file: PathBuf,
    #[serde(default = "default_audit_file")]
    audit_file: PathBuf,
    #[serde(default = "default_suites")]
    suites: Vec<String>,
    #[serde(default)]
    policy: PolicyFile,
    tunnel: TunnelFile,
    #[serde(default)]
    abuse: Option<AbuseFile>,
    #[serde(default)]
    peers_file: Option<PathBuf>,
    #[serde(default)]
    peer: Vec<PeerFile>,
}

/// A file of its own with more peers; read again on request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeersFile {
    #[serde(default)]
    peer: Vec<PeerFile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelFile {
    gateway_address: IpAddr,
    #[serde(default)]
    pool: Option<String>,
    #[serde(default)]
    gateway_address_v6: Option<Ipv6Addr>,
    #[serde(default)]
    pool_v6: Option<String>,
    #[serde(default = "default_mtu")]
    mtu: u16,
    #[serde(default)]
    routes: Vec<String>,
    #[serde(default)]
    dns: Vec<IpAddr>,
}

/// The hook for abuse summaries.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AbuseFile {
    socket: PathBuf,
    #[serde(default = "default_abuse_interval_s")]
    interval_s: u64,
    #[serde(default = "default_abuse_sources")]
    sources: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerFile {
    name: String,
    public_key: String,
    #[serde(default)]
    preshared_key_file: Option<PathBuf>,
    addresses: Vec<String>,
    #[serde(default)]
    routes: Vec<String>,
}

fn default_dataplane_socket() -> PathBuf {
    "/run/jvpn/dataplane.sock".into()
}
fn default_status_socket() -> PathBuf {
    "/run/jvpn/controlplane-status.sock".into()
}
fn default_user() -> String {
    "jvpn".into()
}
fn default_audit_file() -> PathBuf {
    "-".into()
}
fn default_suites() -> Vec<String> {
    [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].map(|suite| suite.name().to_owned()).into()
}
const fn default_abuse_interval_s() -> u64 {
    10
}
const fn default_abuse_sources() -> usize {
    20
}
const fn default_mtu() -> u16 {
    MTU_MIN
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node in audit lines.
    pub node_id: String,
    /// Where the data plane hands over its descriptors.
    pub dataplane_socket: PathBuf,
    /// Where status is asked for.
    pub status_socket: PathBuf,
    /// User to become when started as root.
    pub user: String,
    /// Directory of [`crate::node_state`].
    pub state_dir: PathBuf,
    /// File with the gateway's static key.
    pub private_key_file: PathBuf,
    /// Where audit lines go; `None` = standard output.
    pub audit_file: Option<PathBuf>,
    /// Suites, best first.
    pub suites: Vec<Suite>,
    /// Numbers to live by.
    pub policy: Policy,
    /// The preset that they come from.
    pub policy_name: String,
    /// The inside.
    pub tunnel: TunnelSettings,
    /// Where abuse summaries go, and how they are made.
    pub abuse: Option<AbuseConfig>,
    /// The allow-list, without secrets.
    pub peers: Vec<PeerConfig>,
    /// Where more peers are listed; read again on request.
    pub peers_file: Option<PathBuf>,
    inline_peers: Vec<PeerFile>,
    tunnel_file: TunnelFile,
}

/// The hook for abuse summaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbuseConfig {
    /// The receiver's Unix datagram socket; it need not be there yet.
    pub socket: PathBuf,
    /// How summaries are made.
    pub settings: AbuseSettings,
}

/// A peer as configured: its pre-shared key is still in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Name in status and audit.
    pub name: String,
    /// Its static key.
    pub public_key: PublicKey,
    /// File with the pre-shared key.
    pub preshared_key_file: Option<PathBuf>,
    /// Inner addresses that it is given.
    pub addresses: Vec<Prefix>,
    /// Inner prefixes behind it, addresses included.
    pub prefixes: Vec<Prefix>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], ready for the operator.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::check(jvpn_host::config::load(path)?)
    }

    /// Checks a configuration given as text.
    ///
    /// # Errors
    /// [`ConfigError`], ready for the operator.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::check(toml::from_str(text).map_err(Box::new)?)
    }

    /// The engine's settings, with the pre-shared keys read by `read_psk`.
    ///
    /// # Errors
    /// What `read_psk` says.
    pub fn settings<E>(&self, read_psk: impl FnMut(&Path) -> Result<PresharedKey, E>) -> Result<Settings, E> {
        Ok(Settings {
            policy: self.policy.clone(),
            policy_name: self.policy_name.clone(),
            suites: self.suites.clone(),
            tunnel: self.tunnel.clone(),
            peers: peer_settings(&self.peers, read_psk)?,
        })
    }

    /// Reads the peers file again. Peers in the configuration itself stay as they were at start.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing has changed then.
    pub fn reload_peers(&self) -> Result<Vec<PeerConfig>, ConfigError> {
        let Some(path) = &self.peers_file else {
            let problem = "is not configured; only peers in a file of their own can be reloaded";
            return Err(refuse("peers_file", "", problem));
        };
        all_peers(&self.inline_peers, Some(path), &self.tunnel_file, &self.tunnel)
    }

    fn check(file: ConfigFile) -> Result<Self, ConfigError> {
        check_name("node_id", &file.node_id)?;
        if file.user.is_empty() || file.user == "root" {
            return Err(refuse("user", &file.user, "name an unprivileged user, as \"jvpn\""));
        }
        for (key, path) in [
            ("dataplane_socket", &file.dataplane_socket),
            ("status_socket", &file.status_socket),
            ("state_dir", &file.state_dir),
            ("private_key_file", &file.private_key_file),
        ] {
            check_path(key, path)?;
        }
        let to_stdout = file.audit_file == Path::new("-");
        if !to_stdout {
            check_path("audit_file", &file.audit_file)?;
        }
        let tunnel = check_tunnel(&file.tunnel)?;
        if let Some(path) = &file.peers_file {
            check_path("peers_file", path)?;
        }
        let peers = all_peers(&file.peer, file.peers_file.as_deref(), &file.tunnel, &tunnel)?;
        Ok(Self {
            suites: check_suites(&file.suites)?,
            policy: Policy::from_file(&file.policy)?,
            policy_name: file.policy.preset.clone().unwrap_or_else(|| DEFAULT_PRESET.to_owned()),
            node_id: file.node_id,
            dataplane_socket: file.dataplane_socket,
            status_socket: file.status_socket,
            user: file.user,
            state_dir: file.state_dir,
            private_key_file: file.private_key_file,
            audit_file: (!to_stdout).then_some(file.audit_file),
            tunnel,
            abuse: file.abuse.as_ref().map(check_abuse).transpose()?,
            peers,
            peers_file: file.peers_file,
            inline_peers: file.peer,
            tunnel_file: file.tunnel,
        })
    }
}

/// Peers of the configuration and of the peers file, checked together.
fn all_peers(
    inline: &[PeerFile],
    file: Option<&Path>,
    tunnel_file: &TunnelFile,
    tunnel: &TunnelSettings,
) -> Result<Vec<PeerConfig>, ConfigError> {
    let mut peers = inline.to_vec();
    if let Some(path) = file {
        peers.extend(jvpn_host::config::load::<PeersFile>(path)?.peer);
    }
    check_peers(&peers, tunnel_file, tunnel)
}

/// Peers as the engine takes them, with the pre-shared keys read by `read_psk`.
///
/// # Errors
/// What `read_psk` says.
pub fn peer_settings<E>(
    peers: &[PeerConfig],
    mut read_psk: impl FnMut(&Path) -> Result<PresharedKey, E>,
) -> Result<Vec<PeerSettings>, E> {
    peers
        .iter()
        .map(|peer| {
            let preshared_key = match &peer.preshared_key_file {
                Some(path) => read_psk(path)?,
                None => PresharedKey::default(),
            };
            Ok(PeerSettings {
                name: peer.name.clone(),
                public_key: peer.public_key,
                preshared_key,
                addresses: peer.addresses.clone(),
                prefixes: peer.prefixes.clone(),
            })
        })
        .collect()
}

/// Reads a pre-shared key from its file.
///
/// # Errors
/// If the file is exposed, missing, or holds no key.
pub fn read_psk(path: &Path) -> Result<PresharedKey, ConfigError> {
    let secret = jvpn_host::keyfile::read_secret(path)
        .map_err(|error| refuse("preshared_key_file", path.display(), error.to_string()))?;
    secret.parse().map_err(|error| refuse("preshared_key_file", path.display(), format!("{error}")))
}

fn check_name(key: &str, name: &str) -> Result<(), ConfigError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fits) {
        let problem = format!("use 1 to {NAME_MAX} of the characters A-Z a-z 0-9 - _ . @");
        return Err(refuse(key, name, problem));
    }
    Ok(())
}

fn check_path(key: &str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(refuse(key, path.display(), "give an absolute path; the process may start in any directory"))
}

fn check_abuse(file: &AbuseFile) -> Result<AbuseConfig, ConfigError> {
    check_path("abuse.socket", &file.socket)?;
    if file.socket.as_os_str().len() > SOCKET_PATH_MAX {
        let problem =
            format!("is longer than {SOCKET_PATH_MAX} octets, the most that a socket's path may have");
        return Err(refuse("abuse.socket", file.socket.display(), problem));
    }
    if !ABUSE_INTERVAL_S.contains(&file.interval_s) {
        let (least, most) = (ABUSE_INTERVAL_S.start(), ABUSE_INTERVAL_S.end());
        return Err(refuse(
            "abuse.interval_s",
            file.interval_s,
            format!("must be between {least} and {most}"),
        ));
    }
    if !ABUSE_SOURCES.contains(&file.sources) {
        let (least, most) = (ABUSE_SOURCES.start(), ABUSE_SOURCES.end());
        return Err(refuse("abuse.sources", file.sources, format!("must be between {least} and {most}")));
    }
    let interval = Duration::from_secs(file.interval_s);
    let settings = AbuseSettings { interval, sources: file.sources };
    Ok(AbuseConfig { socket: file.socket.clone(), settings })
}

fn check_suites(names: &[String]) -> Result<Vec<Suite>, ConfigError> {
    let all = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
    let mut suites = Vec::new();
    for name in names {
        let Some(suite) = all.into_iter().find(|suite| suite.name() == name) else {
            let known = all.map(Suite::name).join(" and ");
            return Err(refuse("suites", name, format!("is not a suite; there are {known}")));
        };
        if suites.contains(&suite) {
            return Err(refuse("suites", name, "is named twice"));
        }
        suites.push(suite);
    }
    if suites.is_empty() {
        return Err(refuse("suites", "", "name at least one suite"));
    }
    Ok(suites)
}

fn check_prefix(key: &str, text: &str) -> Result<Prefix, ConfigError> {
    let prefix: Prefix = text.parse().map_err(|problem: String| refuse(key, text, problem))?;
    let (addr, len) = prefix.mapped();
    let host_bits = 128 - u32::from(len);
    if host_bits > 0 && u128::from_be_bytes(addr) << (128 - host_bits) != 0 {
        return Err(refuse(key, text, "has bits set behind its length; write the network's own address"));
    }
    Ok(prefix)
}

fn check_tunnel(file: &TunnelFile) -> Result<TunnelSettings, ConfigError> {
    let gateway_addresses = check_gateway_addresses(file)?;
    if !(MTU_MIN..=MTU_MAX).contains(&file.mtu) {
        let problem = format!("must be between {MTU_MIN} and {MTU_MAX}");
        return Err(refuse("tunnel.mtu", file.mtu, problem));
    }
    if file.routes.len() > MAX_GRANT_ROUTES {
        let problem = format!("are too many prefixes; at most {MAX_GRANT_ROUTES} fit an answer");
        return Err(refuse("tunnel.routes", file.routes.len(), problem));
    }
    if file.dns.len() > MAX_GRANT_DNS {
        let problem = format!("are too many servers; at most {MAX_GRANT_DNS} fit an answer");
        return Err(refuse("tunnel.dns", file.dns.len(), problem));
    }
    let routes: Result<_, _> = file.routes.iter().map(|text| check_prefix("tunnel.routes", text)).collect();
    Ok(TunnelSettings { gateway_addresses, mtu: file.mtu, routes: routes?, dns: file.dns.clone() })
}

fn check_gateway_addresses(file: &TunnelFile) -> Result<Vec<IpAddr>, ConfigError> {
    let mut addresses = vec![("tunnel.gateway_address", file.gateway_address)];
    if let Some(v6) = file.gateway_address_v6 {
        if file.gateway_address.is_ipv6() {
            let problem = "is a second address of one family; tunnel.gateway_address is IPv6 already";
            return Err(refuse("tunnel.gateway_address_v6", v6, problem));
        }
        addresses.push(("tunnel.gateway_address_v6", v6.into()));
    }
    for (key, address) in &addresses {
        let is_mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_mapped {
            return Err(refuse(*key, address, "is no address for a host; use one inside the tunnel"));
        }
    }
    Ok(addresses.into_iter().map(|(_, address)| address).collect())
}

/// The networks of the clients' inner addresses, of each family at most one.
fn check_pools(file: &TunnelFile) -> Result<Vec<Prefix>, ConfigError> {
    let mut pools = Vec::new();
    for (key, text) in [("tunnel.pool", &file.pool), ("tunnel.pool_v6", &file.pool_v6)] {
        let Some(text) = text else { continue };
        let pool = check_prefix(key, text)?;
        if key == "tunnel.pool_v6" && pool.addr.is_ipv4() {
            return Err(refuse(key, text, "is no IPv6 prefix, as fd77::/64"));
        }
        if pools.iter().any(|other: &Prefix| other.addr.is_ipv4() == pool.addr.is_ipv4()) {
            return Err(refuse(key, text, "is a second prefix of one family"));
        }
        pools.push(pool);
    }
    Ok(pools)
}

fn check_peers(
    files: &[PeerFile],
    tunnel_file: &TunnelFile,
    tunnel: &TunnelSettings,
) -> Result<Vec<PeerConfig>, ConfigError> {
    let pools = check_pools(tunnel_file)?;
    let mut names = BTreeSet::new();
    let mut keys: BTreeMap<PublicKey, String> = BTreeMap::new();
    let mut claimed = Claims::default();
    let mut peers = Vec::with_capacity(files.len());
    for file in files {
        check_name("peer.name", &file.name)?;
        let key = |field: &str| format!("peer '{}' {field}", file.name);
        if !names.insert(file.name.clone()) {
            return Err(refuse("peer.name", &file.name, "is used twice; each peer needs a name of its own"));
        }
        let peer = check_peer(file, &pools, &tunnel.gateway_addresses)?;
        if let Some(other) = keys.insert(peer.public_key, file.name.clone()) {
            let problem = format!("is also the key of peer '{other}'; each peer needs a key of its own");
            return Err(refuse(key("public_key"), peer.public_key, problem));
        }
        for prefix in &peer.prefixes {
            if let Some((other, owner)) = claimed.claim(*prefix, &file.name) {
                let problem = format!("overlaps {other} of peer '{owner}'; a prefix leads to one peer only");
                return Err(refuse(key("addresses or routes"), prefix, problem));
            }
        }
        peers.push(peer);
    }
    Ok(peers)
}

fn check_peer(file: &PeerFile, pools: &[Prefix], gateway: &[IpAddr]) -> Result<PeerConfig, ConfigError> {
    let key = |field: &str| format!("peer '{}' {field}", file.name);
    let public_key: PublicKey = file
        .public_key
        .parse()
        .map_err(|error| refuse(key("public_key"), &file.public_key, format!("{error}")))?;
    if public_key.0 == [0; 32] {
        return Err(refuse(key("public_key"), public_key, "is all zeros; paste what 'jvpn pubkey' prints"));
    }
    if let Some(path) = &file.preshared_key_file {
        check_path(&key("preshared_key_file"), path)?;
    }
    let addresses = check_addresses(file, pools, gateway)?;
    let mut prefixes = addresses.clone();
    for text in &file.routes {
        let prefix = check_prefix(&key("routes"), text)?;
        if gateway.iter().any(|own| prefix.contains(*own)) {
            return Err(refuse(key("routes"), text, "holds the gateway's own inner address"));
        }
        if prefix.contains(MAPPED) {
            let problem =
                "holds IPv4 in its mapped form; write the networks behind the peer, as 2001:db8:5::/48";
            return Err(refuse(key("routes"), text, problem));
        }
        prefixes.push(prefix);
    }
    if prefixes.len() > MAX_PREFIXES {
        let problem = format!("addresses and routes together are at most {MAX_PREFIXES}");
        return Err(refuse(key("routes"), prefixes.len(), problem));
    }
    let preshared_key_file = file.preshared_key_file.clone();
    Ok(PeerConfig { name: file.name.clone(), public_key, preshared_key_file, addresses, prefixes })
}

fn check_addresses(
    file: &PeerFile,
    pools: &[Prefix],
    gateway: &[IpAddr],
) -> Result<Vec<Prefix>, ConfigError> {
    let key = format!("peer '{}' addresses", file.name);
    let mut addresses: Vec<Prefix> = Vec::new();
    for text in &file.addresses {
        let prefix = check_prefix(&key, text)?;
        let host_len = if prefix.addr.is_ipv4() { 32 } else { 128 };
        if prefix.len != host_len {
            let problem = format!(
                "must be one address, as {}/{host_len}; prefixes behind a peer are routes",
                prefix.addr
            );
            return Err(refuse(key, text, problem));
        }
        if gateway.contains(&prefix.addr) {
            return Err(refuse(key, text, "is the gateway's own inner address"));
        }
        let pool = pools.iter().find(|pool| pool.addr.is_ipv4() == prefix.addr.is_ipv4());
        if let Some(pool) = pool.filter(|pool| !pool.contains(prefix.addr)) {
            return Err(refuse(
                key,
                text,
                format!(
                    "is outside {} {pool}",
                    if pool.addr.is_ipv4() { "tunnel.pool" } else { "tunnel.pool_v6" }
                ),
            ));
        }
        if addresses.iter().any(|other| other.addr.is_ipv4() == prefix.addr.is_ipv4()) {
            return Err(refuse(
                key,
                text,
                "is a second address of its family; a peer has at most one of each",
            ));
        }
        addresses.push(prefix);
    }
    if addresses.is_empty() {
        return Err(refuse(key, "", "give the peer an inner address, as \"10.77.0.2/32\""));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests;
