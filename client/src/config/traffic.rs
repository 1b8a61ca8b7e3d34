//! `[traffic]`, `[dns]` and `[offload]`: what goes into the tunnel, what may go around it, and how it is carried.

use jvpn_session::messages::Prefix;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Most prefixes in one list: each is a route and, under the kill switch, an element of a rule.
const PREFIXES_MAX: usize = 256;
/// Most name servers: more than libc asks (3) may still be listed for systemd-resolved.
const SERVERS_MAX: usize = 8;
/// Most search domains, as `resolv.conf(5)` had it for long.
const DOMAINS_MAX: usize = 6;
/// Default mark of the agent's own datagrams; the kill switch lets them pass by it.
const MARK: u32 = 0x4a00;
/// The rules of `[traffic]` take the two priorities behind `interface.rule_priority`, all before the main table's 32766.
const RULE_PRIORITY_MAX: u32 = 32_763;

/// `[traffic]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traffic {
    /// Everything goes into the tunnel, IPv4 and IPv6.
    pub full_tunnel: bool,
    /// What goes into the tunnel beside what the gateway routes.
    #[serde(deserialize_with = "prefixes")]
    pub routes: Vec<Prefix>,
    /// What goes around it, whatever the two above say.
    #[serde(deserialize_with = "prefixes")]
    pub exclude: Vec<Prefix>,
    /// The networks that the uplinks are connected to go around it as well.
    pub local_network: bool,
    /// Nothing else than the tunnel's datagrams and what is excluded leaves the host.
    pub kill_switch: KillSwitchMode,
    /// Mark of the agent's own datagrams (`SO_MARK`).
    pub mark: u32,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            full_tunnel: false,
            routes: Vec::new(),
            exclude: Vec::new(),
            local_network: false,
            kill_switch: KillSwitchMode::Off,
            mark: MARK,
        }
    }
}

/// `kill_switch`: whether there is one, and what opens the host again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SwitchValue")]
pub enum KillSwitchMode {
    /// None.
    #[default]
    Off,
    /// Until the agent is asked to end, by `jvpn down` or by a signal.
    On,
    /// Until `jvpn down`, and nothing else.
    Always,
}

impl KillSwitchMode {
    /// Whether there is to be one.
    #[must_use]
    pub const fn is_wanted(self) -> bool {
        !matches!(self, Self::Off)
    }
}

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum SwitchValue {
    Flag(bool),
    Word(String),
}

impl TryFrom<SwitchValue> for KillSwitchMode {
    type Error = String;

    fn try_from(value: SwitchValue) -> Result<Self, String> {
        match value {
            SwitchValue::Flag(false) => Ok(Self::Off),
            SwitchValue::Flag(true) => Ok(Self::On),
            SwitchValue::Word(word) if word == "always" => Ok(Self::Always),
            SwitchValue::Word(word) => {
                Err(format!("kill_switch = '{word}' is none of true, false and \"always\""))
            }
        }
    }
}

/// `[dns]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers while the tunnel is up; empty: the host's stay.
    pub servers: Vec<IpAddr>,
    /// Search domains that go with them.
    pub search: Vec<String>,
    /// Without `servers`: take those that the gateway names.
    pub from_gateway: bool,
    /// How the host is told.
    pub method: DnsMethod,
    /// The file that `method = "file"` replaces.
    pub resolv_conf: PathBuf,
    /// Name servers that are asked for the gateway's name outside the tunnel; empty: the host's own before the change.
    pub outside: Vec<IpAddr>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            from_gateway: false,
            method: DnsMethod::Auto,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            outside: Vec::new(),
        }
    }
}

/// How name servers are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsMethod {
    /// systemd-resolved where it runs, else the file.
    Auto,
    /// systemd-resolved, by `resolvectl`.
    Resolved,
    /// `resolv.conf`.
    File,
}

/// `[offload]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offload {
    /// Large packets between the host's stack and the agent (TSO and GRO of the tunnel device).
    pub tunnel: bool,
    /// Large datagrams between the agent and the host's stack (UDP GSO and GRO).
    pub udp: bool,
}

impl Default for Offload {
    fn default() -> Self {
        Self { tunnel: true, udp: true }
    }
}

impl Traffic {
    /// Whether routing rules of its own are needed.
    #[must_use]
    pub const fn has_rules(&self) -> bool {
        self.full_tunnel || !self.routes.is_empty() || !self.exclude.is_empty()
    }

    /// The first value that cannot be, if any.
    pub(super) fn problem(&self, interface: &str, rule_priority: u32) -> Option<String> {
        for (name, list) in [("routes", &self.routes), ("exclude", &self.exclude)] {
            if list.len() > PREFIXES_MAX {
                return Some(format!("[traffic] {name} has {} prefixes; at most {PREFIXES_MAX}", list.len()));
            }
        }
        if let Some(all) = self.exclude.iter().find(|prefix| prefix.len == 0) {
            return Some(format!("[traffic] exclude = '{all}' would leave nothing for the tunnel"));
        }
        if self.mark == 0 {
            return Some("[traffic] mark = 0 is what every packet has; choose another number".to_owned());
        }
        if self.has_rules() && rule_priority > RULE_PRIORITY_MAX {
            return Some(format!(
                "[interface] rule_priority = {rule_priority}: with [traffic] choose one from 1 to {RULE_PRIORITY_MAX}"
            ));
        }
        // nftables reads a star at the end of a device name as "any rest".
        if self.kill_switch.is_wanted() && interface.contains(['*', '"', '\\']) {
            return Some(format!("[interface] name = '{interface}' cannot be written in a kill switch"));
        }
        None
    }
}

impl Dns {
    /// Whether the host's name servers may have to be changed.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        !self.servers.is_empty() || self.from_gateway
    }

    /// The first value that cannot be, if any.
    pub(super) fn problem(&self) -> Option<String> {
        for (name, list) in [("servers", &self.servers), ("outside", &self.outside)] {
            if list.len() > SERVERS_MAX {
                return Some(format!("[dns] {name} has {} addresses; at most {SERVERS_MAX}", list.len()));
            }
            if let Some(odd) = list.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
                return Some(format!("[dns] {name} = '{odd}' is no address to ask"));
            }
        }
        if self.search.len() > DOMAINS_MAX {
            return Some(format!("[dns] search has {} domains; at most {DOMAINS_MAX}", self.search.len()));
        }
        if let Some(odd) = self.search.iter().find(|domain| !super::is_host_name(domain)) {
            return Some(format!("[dns] search = '{odd}' is no domain name, as corp.example"));
        }
        if !self.is_wanted() && !self.search.is_empty() {
            return Some("[dns] search without servers: name servers, or set from_gateway = true".to_owned());
        }
        if !is_absolute_file(&self.resolv_conf) {
            return Some(format!(
                "[dns] resolv_conf = '{}' is no absolute path of a file",
                self.resolv_conf.display()
            ));
        }
        None
    }
}

fn is_absolute_file(path: &Path) -> bool {
    path.is_absolute() && path.file_name().is_some()
}

fn prefixes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Prefix>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}
