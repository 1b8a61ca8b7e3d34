//! The client's configuration file. Every value is checked at the start; what is wrong is named with what it may be.

mod traffic;

pub use traffic::{Dns, DnsMethod, KillSwitchMode, Offload, Traffic};

use crate::link::TABLES;
use crate::link::model::{Family, UplinkRouting};
use crate::paths::UplinkSpec;
use crate::paths::candidates::CandidateSettings;
use jvpn_abi::wire::Suite;
use jvpn_crypto::keys::{PresharedKey, PublicKey, StaticSecret};
use jvpn_host::config::ConfigError;
use jvpn_host::keyfile::{self, KeyFileError};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest device name that Linux takes, octets (IFNAMSIZ - 1).
const DEVICE_NAME_MAX: usize = 15;
/// Default first routing table; the uplinks take this one and those above it.
const FIRST_TABLE: u32 = 0x4a00;
/// Table numbers from here on are left to others: the kernel's own are 253 to 255.
const TABLE_MIN: u32 = 256;
/// Default priority of our rules: before the main table (32766), behind what administrators usually place first.
const RULE_PRIORITY: u32 = 5_000;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The tunnel.
    pub interface: Interface,
    /// Where it leads.
    pub gateway: Gateway,
    /// How uplinks beside the bound one are watched.
    #[serde(default)]
    pub paths: PathsConfig,
    /// What goes into the tunnel, and what else may leave the host.
    #[serde(default)]
    pub traffic: Traffic,
    /// Name servers while the tunnel is up.
    #[serde(default)]
    pub dns: Dns,
    /// Large packets at the edges of the agent.
    #[serde(default)]
    pub offload: Offload,
    /// Over which links.
    #[serde(rename = "uplink")]
    pub uplinks: Vec<UplinkConfig>,
    /// Where `jvpn status` and `jvpn down` ask.
    #[serde(default = "default_status_socket")]
    pub status_socket: PathBuf,
    /// Timeline of the client as JSON lines; none if absent.
    pub events_file: Option<PathBuf>,
    /// AEAD suites, best first.
    #[serde(rename = "suites", default = "default_suites")]
    suite_names: Vec<String>,
    /// The file's own path, for messages.
    #[serde(skip)]
    path: PathBuf,
}

/// `[interface]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Name of the tunnel device.
    #[serde(default = "default_interface")]
    pub name: String,
    /// The client's static secret.
    pub private_key_file: PathBuf,
    /// First routing table; a second agent on one host needs others.
    #[serde(default = "default_table")]
    pub table: u32,
    /// Priority of the routing rules.
    #[serde(default = "default_rule_priority")]
    pub rule_priority: u32,
}

/// `[gateway]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Its static public key.
    #[serde(rename = "public_key", deserialize_with = "public_key")]
    key: PublicKey,
    /// Its outer address or name, and port. A name may lead to both families.
    pub endpoint: GatewayEndpoint,
    /// Its outer address of the other family, where `endpoint` is an address.
    pub second_endpoint: Option<SocketAddr>,
    /// Pre-shared key, if there is one.
    pub preshared_key_file: Option<PathBuf>,
}

/// Where the gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum GatewayEndpoint {
    /// An address, known for good.
    Address(SocketAddr),
    /// A name, looked up at the start and again while nothing answers.
    Name {
        /// Host name.
        host: String,
        /// UDP port.
        port: u16,
    },
}

impl TryFrom<String> for GatewayEndpoint {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let wrong = || {
            format!(
                "endpoint '{text}' is neither address:port nor name:port, as 198.51.100.1:4500 or vpn.example:4500"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if !is_host_name(host) {
            return Err(wrong());
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for GatewayEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Labels of letters, digits and hyphens (RFC 1123 section 2.1); an address with a mistake is no name.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label) && !last.bytes().all(|octet| octet.is_ascii_digit())
}

/// `[paths]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PathsConfig {
    /// Seconds between probes of an uplink that is not bound.
    pub candidate_interval_s: u32,
    /// The same on metered uplinks.
    pub metered_interval_s: u32,
    /// Whether to go back to a better uplink once it works again.
    pub fail_back: bool,
    /// How many seconds it has to answer without loss before.
    pub fail_back_hold_s: u32,
    /// Whether to take a better uplink when the quality of the bound one is bad.
    pub quality_switch: bool,
}

impl Default for PathsConfig {
    fn default() -> Self {
        Self {
            candidate_interval_s: 10,
            metered_interval_s: 60,
            fail_back: true,
            fail_back_hold_s: 30,
            quality_switch: true,
        }
    }
}

/// `[[uplink]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkConfig {
    /// Network device.
    pub device: String,
    /// Next hop for paths of its family; without it the device's default route says it.
    pub gateway: Option<IpAddr>,
    /// Paths of this family only; without it the gateway's first endpoint that can be reached counts.
    pub family: Option<FamilyName>,
    /// Smaller is preferred; without it the order in the file counts.
    pub priority: Option<u32>,
    /// Costs by volume: not taken while an unmetered one works, and probed less often.
    #[serde(default)]
    pub metered: bool,
}

/// An address family, as the file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FamilyName {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl FamilyName {
    const fn family(self) -> Family {
        match self {
            Self::Ipv4 => Family::V4,
            Self::Ipv6 => Family::V6,
        }
    }
}

fn default_status_socket() -> PathBuf {
    PathBuf::from("/run/jvpn/agent.sock")
}

fn default_suites() -> Vec<String> {
    [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].map(|suite| suite.name().to_owned()).into()
}

fn default_interface() -> String {
    "jvpn0".to_owned()
}

const fn default_table() -> u32 {
    FIRST_TABLE
}

const fn default_rule_priority() -> u32 {
    RULE_PRIORITY
}

fn public_key<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl Gateway {
    /// Its static public key.
    #[must_use]
    pub const fn public_key(&self) -> PublicKey {
        self.key
    }

    /// The addresses that the file itself names, the preferred one first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let first = match &self.endpoint {
            GatewayEndpoint::Address(address) => Some(*address),
            GatewayEndpoint::Name { .. } => None,
        };
        first.into_iter().chain(self.second_endpoint)
    }
}

impl Config {
    /// Reads and checks a file. Key files are read later, by [`Self::secret`].
    ///
    /// # Errors
    /// Naming file, key, value and what it may be.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        jvpn_host::config::load(path).and_then(|config: Self| config.checked(path))
    }

    /// Checks the text of the file at `path`, which need not exist.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        jvpn_host::config::parse(path, text).and_then(|config: Self| config.checked(path))
    }

    fn checked(self, path: &Path) -> Result<Self, ConfigError> {
        let mut config = self;
        config.path = path.to_owned();
        let problem = config.problem();
        problem.map_or(Ok(config), |message| Err(ConfigError::Invalid { path: path.to_owned(), message }))
    }

    /// The client's static key.
    ///
    /// # Errors
    /// If the file is missing, exposed or no key.
    pub fn secret(&self) -> Result<StaticSecret, ConfigError> {
        let path = self.resolve(&self.interface.private_key_file);
        let text =
            keyfile::read_secret(&path).map_err(|error| self.key_problem("private_key_file", &error))?;
        text.parse().map_err(|error| self.invalid(format!("private_key_file {}: {error}", path.display())))
    }

    /// The pre-shared key; zeros if none is configured.
    ///
    /// # Errors
    /// If the file is missing, exposed or no key.
    pub fn preshared(&self) -> Result<PresharedKey, ConfigError> {
        let Some(path) = &self.gateway.preshared_key_file else { return Ok(PresharedKey::default()) };
        let path = self.resolve(path);
        let text =
            keyfile::read_secret(&path).map_err(|error| self.key_problem("preshared_key_file", &error))?;
        text.parse().map_err(|error| self.invalid(format!("preshared_key_file {}: {error}", path.display())))
    }

    /// The suites, best first.
    #[must_use]
    pub fn suites(&self) -> Vec<Suite> {
        self.suite_names.iter().filter_map(|name| suite(name)).collect()
    }

    /// The uplinks as the path logic sees them.
    #[must_use]
    pub fn uplink_specs(&self) -> Vec<UplinkSpec> {
        let spec = |(position, uplink): (u32, &UplinkConfig)| UplinkSpec {
            device: uplink.device.clone(),
            priority: uplink.priority.unwrap_or(position),
            metered: uplink.metered,
        };
        (1..).zip(&self.uplinks).map(spec).collect()
    }

    /// How uplinks beside the bound one are watched.
    #[must_use]
    pub fn candidates(&self) -> CandidateSettings {
        let seconds = |value: u32| Duration::from_secs(u64::from(value));
        CandidateSettings {
            interval: seconds(self.paths.candidate_interval_s),
            metered_interval: seconds(self.paths.metered_interval_s),
            fail_back_hold: self.paths.fail_back.then(|| seconds(self.paths.fail_back_hold_s)),
            for_quality: self.paths.quality_switch,
        }
    }

    /// The uplinks as routing sees them.
    #[must_use]
    pub fn routing(&self) -> Vec<UplinkRouting> {
        let routing = |(position, uplink): (u32, &UplinkConfig)| UplinkRouting {
            device: uplink.device.clone(),
            gateway: uplink.gateway,
            family: uplink.family.map(FamilyName::family),
            table: self.interface.table + position,
            rule_priority: self.interface.rule_priority,
        };
        (0..).zip(&self.uplinks).map(routing).collect()
    }

    /// Paths in the file are relative to it.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.path.parent().map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    fn invalid(&self, message: String) -> ConfigError {
        ConfigError::Invalid { path: self.path.clone(), message }
    }

    fn key_problem(&self, field: &str, error: &KeyFileError) -> ConfigError {
        self.invalid(format!("{field}: {error}"))
    }

    /// The first value that cannot be, if any.
    fn problem(&self) -> Option<String> {
        let name = &self.interface.name;
        if let Some(why) = bad_device(name) {
            return Some(format!("[interface] name = '{name}' {why}"));
        }
        let table = self.interface.table;
        if !(TABLE_MIN..=u32::MAX - TABLES).contains(&table) {
            return Some(format!(
                "[interface] table = {table}: choose one from {TABLE_MIN} to {}",
                u32::MAX - TABLES
            ));
        }
        if !(1..32_766).contains(&self.interface.rule_priority) {
            return Some(format!(
                "[interface] rule_priority = {}: choose one from 1 to 32765, before the main table's 32766",
                self.interface.rule_priority
            ));
        }
        self.endpoint_problem()
            .or_else(|| self.paths.problem())
            .or_else(|| self.traffic.problem(&self.interface.name, self.interface.rule_priority))
            .or_else(|| self.dns.problem())
            .or_else(|| self.uplink_problem())
            .or_else(|| self.suite_problem())
    }

    fn endpoint_problem(&self) -> Option<String> {
        let (first, second) = (&self.gateway.endpoint, self.gateway.second_endpoint);
        if let GatewayEndpoint::Name { port: 0, .. } = first {
            return Some(format!("[gateway] endpoint = '{first}' has no port to send to"));
        }
        for endpoint in self.gateway.addresses() {
            let ip = endpoint.ip();
            let is_mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
            if endpoint.port() == 0 || ip.is_unspecified() || ip.is_multicast() || is_mapped {
                return Some(format!("[gateway] endpoint = '{endpoint}' is no address to send to"));
            }
        }
        match (first, second) {
            (_, None) => None,
            (GatewayEndpoint::Address(first), Some(second)) if first.is_ipv4() != second.is_ipv4() => None,
            (GatewayEndpoint::Address(_), Some(second)) => {
                Some(format!("[gateway] second_endpoint = '{second}' is of the same family as endpoint"))
            }
            (GatewayEndpoint::Name { .. }, Some(second)) => Some(format!(
                "[gateway] second_endpoint = '{second}': a name in endpoint leads to both families by itself"
            )),
        }
    }

    /// Whether the gateway may be reached in this family.
    fn is_spoken(&self, family: Family) -> bool {
        let is_name = matches!(self.gateway.endpoint, GatewayEndpoint::Name { .. });
        is_name || self.gateway.addresses().any(|endpoint| Family::of(endpoint.ip()) == family)
    }

    fn uplink_problem(&self) -> Option<String> {
        if self.uplinks.is_empty() || self.uplinks.len() > TABLES as usize {
            return Some(format!(
                "{} [[uplink]] sections: name from 1 to {TABLES}, for example [[uplink]] device = \"eth0\"",
                self.uplinks.len()
            ));
        }
        let mut seen = BTreeSet::new();
        for uplink in &self.uplinks {
            let device = &uplink.device;
            if let Some(why) = bad_device(device) {
                return Some(format!("[[uplink]] device = '{device}' {why}"));
            }
            if *device == self.interface.name {
                return Some(format!("[[uplink]] device = '{device}' is the tunnel's own interface"));
            }
            let family = uplink.family.map(FamilyName::family);
            let others = [None, Some(Family::V4), Some(Family::V6)];
            let is_taken = |other: &Option<Family>| {
                seen.contains(&(device, *other)) && (other.is_none() || family.is_none() || *other == family)
            };
            if others.iter().any(is_taken) {
                return Some(format!(
                    "[[uplink]] device = '{device}' is named twice; only with family = \"ipv4\" and \"ipv6\" it may be"
                ));
            }
            seen.insert((device, family));
            if let Some(family) = family.filter(|family| !self.is_spoken(*family)) {
                return Some(format!(
                    "[[uplink]] device = '{device}', family: the gateway has no {family:?} endpoint"
                ));
            }
            if let Some(gateway) = uplink.gateway
                && (gateway.is_unspecified()
                    || !self.is_spoken(Family::of(gateway))
                    || family.is_some_and(|family| family != Family::of(gateway)))
            {
                return Some(format!(
                    "[[uplink]] device = '{device}', gateway = '{gateway}' cannot lead to {}",
                    self.gateway.endpoint
                ));
            }
        }
        None
    }

    fn suite_problem(&self) -> Option<String> {
        let known = default_suites().join(", ");
        if self.suite_names.is_empty() || self.suite_names.len() > 8 {
            return Some(format!("suites: name at least one of {known}"));
        }
        let mut seen = BTreeSet::new();
        for name in &self.suite_names {
            if suite(name).is_none() {
                return Some(format!("suites: '{name}' is unknown; known are {known}"));
            }
            if !seen.insert(name) {
                return Some(format!("suites: '{name}' is named twice"));
            }
        }
        None
    }
}

impl PathsConfig {
    fn problem(&self) -> Option<String> {
        let fields = [
            ("candidate_interval_s", self.candidate_interval_s, 1, 3_600),
            ("metered_interval_s", self.metered_interval_s, 1, 86_400),
            ("fail_back_hold_s", self.fail_back_hold_s, 1, 86_400),
        ];
        let (name, value, min, max) =
            fields.into_iter().find(|(_, value, min, max)| !(*min..=*max).contains(value))?;
        Some(format!("[paths] {name} = {value}: choose one from {min} to {max}"))
    }
}

fn suite(name: &str) -> Option<Suite> {
    [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].into_iter().find(|suite| suite.name() == name)
}

/// Why Linux would not take this device name.
fn bad_device(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.len() > DEVICE_NAME_MAX {
        return Some("is too long: at most 15 octets");
    }
    let bad = |octet: u8| {
        octet.is_ascii_whitespace() || octet.is_ascii_control() || matches!(octet, b'/' | b':' | b'%')
    };
    (name == "." || name == ".." || name.bytes().any(bad)).then_some("is no device name")
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
